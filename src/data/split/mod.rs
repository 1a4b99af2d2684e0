//! Which rows serve which purpose (rule R17): train, validation, calibration, test, shadow; disjoint, drawn with
//! a seed, kept in a file beside the model so that every later step uses the same rows.
//!
//! This file knows what a split is, how it lies on disk and what makes it a sound one; `draw` draws it,
//! `without` takes members out of it, `canaries` plants some.

mod canaries;
mod draw;
#[cfg(test)]
mod tests;
mod without;

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use self::draw::Drawing;
pub use self::without::read_row_numbers;
use super::near::Near;
use super::{Dataset, NameList, hex, write_atomic};

const FORMAT: &str = "sordino.split";
/// What is written. Version 1 knew neither the part `shadow` nor how rows were drawn; it is still read, and stays
/// version 1 when it is written again, so that its digest stays what models and centroids name.
const FORMAT_VERSION: u32 = 2;

/// One purpose of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// Rows that the model and the centroids are fitted on: the *members* of a membership attack.
    Train,
    /// Rows that are looked at while training, and never fitted on.
    Validation,
    /// Rows for temperatures, thresholds and prototypes.
    Calibration,
    /// Rows kept out of every fit: the *non-members*, and the rows that accuracies are told about.
    Test,
    /// Rows that an attacker may train shadow models on.
    Shadow,
}

impl Part {
    /// All parts, in the order in which they are drawn.
    pub const ALL: [Self; 5] = [Self::Train, Self::Validation, Self::Calibration, Self::Test, Self::Shadow];

    /// The part's name in a split file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "validation",
            Self::Calibration => "calibration",
            Self::Test => "test",
            Self::Shadow => "shadow",
        }
    }
}

/// How many rows each part gets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartSizes {
    /// Rows to train on.
    pub train: usize,
    /// Rows to look at while training.
    pub validation: usize,
    /// Rows for temperatures, thresholds and prototypes.
    pub calibration: usize,
    /// Rows kept out of every fit.
    pub test: usize,
    /// Rows for shadow models. Records of version 1 do not name it.
    #[serde(default)]
    pub shadow: usize,
}

impl PartSizes {
    /// The size of one part.
    #[must_use]
    pub fn of(&self, part: Part) -> usize {
        match part {
            Part::Train => self.train,
            Part::Validation => self.validation,
            Part::Calibration => self.calibration,
            Part::Test => self.test,
            Part::Shadow => self.shadow,
        }
    }

    /// The size of one part, to be set.
    pub fn of_mut(&mut self, part: Part) -> &mut usize {
        match part {
            Part::Train => &mut self.train,
            Part::Validation => &mut self.validation,
            Part::Calibration => &mut self.calibration,
            Part::Test => &mut self.test,
            Part::Shadow => &mut self.shadow,
        }
    }

    /// Rows of all parts together; [`usize::MAX`] where that cannot be counted.
    #[must_use]
    pub fn total(&self) -> usize {
        Part::ALL.iter().fold(0, |sum, &part| sum.saturating_add(self.of(part)))
    }
}

/// Why a split could not be drawn, read or used.
#[derive(Debug, thiserror::Error)]
pub enum SplitError {
    /// More rows were asked for than there are.
    #[error("expected at most {n_rows} rows in all parts together, got {wanted}")]
    TooMany {
        /// Rows asked for.
        wanted: usize,
        /// Rows that there are.
        n_rows: usize,
    },
    /// The train part is empty.
    #[error("expected at least one row in the train part, got none")]
    NoTrainRows,
    /// Classes without a row to train on: a model would hold classes that it cannot know.
    #[error(
        "expected rows of every class in the train part, got none of {n_without} of {n_classes} classes: {names}; \
         remove such classes from the data, or draw more rows"
    )]
    EmptyClasses {
        /// How many classes have no training row.
        n_without: usize,
        /// How many classes there are.
        n_classes: usize,
        /// Their names.
        names: NameList,
    },
    /// A split file could not be read or written.
    #[error("cannot use the split file {}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        error: std::io::Error,
    },
    /// A file that names rows could not be read.
    #[error("cannot read the row numbers in {}: {error}", path.display())]
    RowList {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        error: std::io::Error,
    },
    /// The bytes are not a split file.
    #[error("expected a split file: {error}")]
    Json {
        /// Where the bytes go wrong.
        error: serde_json::Error,
    },
    /// The file is of another format or version.
    #[error("expected format {FORMAT} version 1 to {FORMAT_VERSION}, got {format} version {version}")]
    Format {
        /// The format that the file names.
        format: String,
        /// The version that the file names.
        version: u32,
    },
    /// The file does not hold what its version asks for.
    #[error("expected the fields of format version {version}: {expected}")]
    Fields {
        /// The version that the file names.
        version: u32,
        /// Which fields those are.
        expected: &'static str,
    },
    /// Groups of near-duplicates are too large to fill a part to the row.
    #[error(
        "expected {wanted} rows in part {part}, got {got}: what is left are groups of near-duplicates too large to fit; \
         ask for fewer rows, or for a smaller radius"
    )]
    Groups {
        /// The part.
        part: &'static str,
        /// Rows asked for.
        wanted: usize,
        /// Rows that could be given.
        got: usize,
    },
    /// A row is to be taken out that is no train row.
    #[error("expected rows of the part train, got row {row}")]
    NotTrain {
        /// The row number.
        row: usize,
    },
    /// A canary is in a part that it must not be in.
    #[error("expected canaries of the parts test or shadow or of none, got row {row} of part {part}")]
    Canary {
        /// The row number.
        row: usize,
        /// The part.
        part: &'static str,
    },
    /// A line of a file of row numbers is none.
    #[error("{}, line {line}: expected a row number or a comment after #, got {length} characters", path.display())]
    BadLine {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// Characters found there.
        length: usize,
    },
    /// A row number is not below the number of rows.
    #[error("expected row numbers below {n_rows}, got {row} in part {part}")]
    OutOfRange {
        /// The part that holds it.
        part: &'static str,
        /// The row number.
        row: usize,
        /// Rows of the dataset.
        n_rows: usize,
    },
    /// A row stands twice.
    #[error("expected disjoint parts, got row {row} a second time in part {part}")]
    Repeated {
        /// The part that holds it the second time.
        part: &'static str,
        /// The row number.
        row: usize,
    },
    /// The split was drawn from other data.
    #[error("expected a split of the dataset with digest {dataset}, got one of {split} ({source_words})")]
    OtherDataset {
        /// Digest of the dataset at hand.
        dataset: String,
        /// Digest that the split names.
        split: String,
        /// The source that the split names.
        source_words: String,
    },
}

/// Disjoint parts of a dataset's rows.
///
/// Each part holds row numbers in the order in which they were drawn, so that the first `n` of a part are
/// themselves a random sample (a stratified one where the split is).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Split {
    format: String,
    format_version: u32,
    dataset: DatasetId,
    seed: u64,
    /// How the rows were drawn; version 1 does not say, and means the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    drawn: Option<Drawn>,
    /// Rows that were drawn into a part and taken out of it again; none in version 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    without: Option<Vec<usize>>,
    parts: Parts,
}

/// How the rows of a split were drawn.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drawn {
    /// Whether each part holds the classes in the data's proportions.
    pub stratified: bool,
    /// Which rows were kept together in one part; `None` where no near-duplicates were looked for.
    pub near_duplicates: Option<Near>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DatasetId {
    source: String,
    digest: String,
    n_rows: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parts {
    train: Vec<usize>,
    validation: Vec<usize>,
    calibration: Vec<usize>,
    test: Vec<usize>,
    /// Not in version 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    shadow: Option<Vec<usize>>,
}

impl Split {
    /// Reads and checks a split file.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, is not a split of this format version, or its parts are not disjoint and
    /// in range.
    pub fn read(path: &Path) -> Result<Self, SplitError> {
        let bytes = std::fs::read(path).map_err(|error| SplitError::Io { path: path.to_owned(), error })?;
        Self::from_bytes(&bytes)
    }

    /// Reads and checks the bytes of a split file.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SplitError> {
        serde_json::from_slice::<Self>(bytes).map_err(|error| SplitError::Json { error })?.checked()
    }

    /// Writes the split file, atomically.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), SplitError> {
        write_atomic(path, &self.to_bytes()).map_err(|error| SplitError::Io { path: path.to_owned(), error })
    }

    /// The bytes of the split file: JSON without spaces and one line feed.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec(self).expect("a split is plain numbers and text");
        bytes.push(b'\n');
        bytes
    }

    /// SHA-256 (hex) of [`to_bytes`](Self::to_bytes), and so of the file as `write` leaves it.
    #[must_use]
    pub fn digest(&self) -> String {
        hex(&Sha256::digest(self.to_bytes()))
    }

    /// The row numbers of one part, in drawn order.
    #[must_use]
    pub fn part(&self, part: Part) -> &[usize] {
        match part {
            Part::Train => &self.parts.train,
            Part::Validation => &self.parts.validation,
            Part::Calibration => &self.parts.calibration,
            Part::Test => &self.parts.test,
            Part::Shadow => self.parts.shadow.as_deref().unwrap_or_default(),
        }
    }

    /// How many rows each part has.
    #[must_use]
    pub fn sizes(&self) -> PartSizes {
        let mut sizes = PartSizes::default();
        for part in Part::ALL {
            *sizes.of_mut(part) = self.part(part).len();
        }
        sizes
    }

    /// How the rows were drawn.
    #[must_use]
    pub fn drawn(&self) -> Drawn {
        self.drawn.clone().unwrap_or_default()
    }

    /// Rows that were taken out of the train part after the draw, in ascending order: they belong to no part.
    #[must_use]
    pub fn removed(&self) -> &[usize] {
        self.without.as_deref().unwrap_or_default()
    }

    /// The seed that the parts were drawn with.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The words of the source that the parts were drawn from.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.dataset.source
    }

    /// The digest of the dataset that the parts were drawn from.
    #[must_use]
    pub fn dataset_digest(&self) -> &str {
        &self.dataset.digest
    }

    /// Checks that this split was drawn from exactly these rows. After it every row number is safe to hand to
    /// [`Dataset::batch`].
    ///
    /// # Errors
    ///
    /// [`SplitError::OtherDataset`].
    pub fn check(&self, dataset: &Dataset) -> Result<(), SplitError> {
        let digest = dataset.digest();
        if digest == self.dataset.digest && dataset.n_rows() == self.dataset.n_rows {
            return Ok(());
        }
        Err(SplitError::OtherDataset {
            dataset: digest,
            split: self.dataset.digest.clone(),
            source_words: self.dataset.source.clone(),
        })
    }

    /// Checks that every class of the data has rows in the train part. To be called after [`check`](Self::check).
    ///
    /// # Errors
    ///
    /// [`SplitError::EmptyClasses`].
    pub fn check_classes(&self, dataset: &Dataset) -> Result<(), SplitError> {
        let known: HashSet<u32> =
            self.parts.train.iter().filter_map(|&row| dataset.labels().get(row)).copied().collect();
        let without: Vec<String> = (0..)
            .zip(dataset.class_names())
            .filter(|(label, _)| !known.contains(label))
            .map(|(_, name)| name.clone())
            .collect();
        if without.is_empty() {
            return Ok(());
        }
        let (n_without, n_classes) = (without.len(), dataset.n_classes());
        Err(SplitError::EmptyClasses { n_without, n_classes, names: NameList(without) })
    }

    fn checked(self) -> Result<Self, SplitError> {
        let version = self.format_version;
        if self.format != FORMAT || !(1..=FORMAT_VERSION).contains(&version) {
            return Err(SplitError::Format { format: self.format, version });
        }
        let fields = [self.drawn.is_some(), self.without.is_some(), self.parts.shadow.is_some()];
        if version == 1 && fields.contains(&true) {
            return Err(SplitError::Fields { version, expected: "no drawn, no without and no part shadow" });
        }
        if version > 1 && fields.contains(&false) {
            return Err(SplitError::Fields { version, expected: "drawn, without and a part shadow beside the others" });
        }
        let n_rows = self.dataset.n_rows;
        let mut seen = HashSet::new();
        let places = Part::ALL.map(|part| (part.name(), self.part(part)));
        for (part, rows) in places.into_iter().chain([("without", self.removed())]) {
            for &row in rows {
                if row >= n_rows {
                    return Err(SplitError::OutOfRange { part, row, n_rows });
                }
                if !seen.insert(row) {
                    return Err(SplitError::Repeated { part, row });
                }
            }
        }
        if self.parts.train.is_empty() { Err(SplitError::NoTrainRows) } else { Ok(self) }
    }
}
