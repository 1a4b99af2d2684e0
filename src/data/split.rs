//! Which rows serve which purpose (rule R17): train, validation, calibration, test; disjoint, drawn with a
//! seed, kept in a file beside the model so that every later step uses the same rows.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{DataSource, Dataset, NameList, hex, write_atomic};

const FORMAT: &str = "sordino.split";
const FORMAT_VERSION: u32 = 1;

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
}

impl Part {
    /// All parts, in the order in which they are drawn.
    pub const ALL: [Self; 4] = [Self::Train, Self::Validation, Self::Calibration, Self::Test];

    /// The part's name in a split file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "validation",
            Self::Calibration => "calibration",
            Self::Test => "test",
        }
    }
}

/// How many rows each part gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
    /// The bytes are not a split file.
    #[error("expected a split file: {error}")]
    Json {
        /// Where the bytes go wrong.
        error: serde_json::Error,
    },
    /// The file is of another format or version.
    #[error("expected format {FORMAT} version {FORMAT_VERSION}, got {format} version {version}")]
    Format {
        /// The format that the file names.
        format: String,
        /// The version that the file names.
        version: u32,
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
/// themselves a random sample.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Split {
    format: String,
    format_version: u32,
    dataset: DatasetId,
    seed: u64,
    parts: Parts,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DatasetId {
    source: String,
    digest: String,
    n_rows: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parts {
    train: Vec<usize>,
    validation: Vec<usize>,
    calibration: Vec<usize>,
    test: Vec<usize>,
}

impl Split {
    /// Draws disjoint parts: all row numbers are shuffled with `ChaCha8Rng::seed_from_u64(seed)`, then the
    /// parts are cut off in the order of [`Part::ALL`]. Rows that are left over belong to no part.
    ///
    /// # Errors
    ///
    /// [`SplitError::TooMany`] when the sizes do not fit the data, [`SplitError::NoTrainRows`],
    /// [`SplitError::EmptyClasses`].
    pub fn draw(source: &DataSource, dataset: &Dataset, sizes: PartSizes, seed: u64) -> Result<Self, SplitError> {
        let id = DatasetId { source: source.to_string(), digest: dataset.digest(), n_rows: dataset.n_rows() };
        let split = Self::draw_rows(id, sizes, seed)?;
        split.check_classes(dataset)?;
        Ok(split)
    }

    fn draw_rows(dataset: DatasetId, sizes: PartSizes, seed: u64) -> Result<Self, SplitError> {
        let n_rows = dataset.n_rows;
        let wanted = [sizes.train, sizes.validation, sizes.calibration, sizes.test]
            .iter()
            .fold(0usize, |sum, &size| sum.saturating_add(size));
        if wanted > n_rows {
            return Err(SplitError::TooMany { wanted, n_rows });
        }
        let mut rows: Vec<usize> = (0..n_rows).collect();
        rows.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
        let mut rest = rows.into_iter();
        let mut cut = |size: usize| rest.by_ref().take(size).collect::<Vec<usize>>();
        let parts = Parts {
            train: cut(sizes.train),
            validation: cut(sizes.validation),
            calibration: cut(sizes.calibration),
            test: cut(sizes.test),
        };
        Self { format: FORMAT.to_owned(), format_version: FORMAT_VERSION, dataset, seed, parts }.checked()
    }

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
        }
    }

    /// How many rows each part has.
    #[must_use]
    pub fn sizes(&self) -> PartSizes {
        PartSizes {
            train: self.parts.train.len(),
            validation: self.parts.validation.len(),
            calibration: self.parts.calibration.len(),
            test: self.parts.test.len(),
        }
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
        if self.format != FORMAT || self.format_version != FORMAT_VERSION {
            return Err(SplitError::Format { format: self.format, version: self.format_version });
        }
        let n_rows = self.dataset.n_rows;
        let mut seen = HashSet::new();
        for part in Part::ALL {
            for &row in self.part(part) {
                if row >= n_rows {
                    return Err(SplitError::OutOfRange { part: part.name(), row, n_rows });
                }
                if !seen.insert(row) {
                    return Err(SplitError::Repeated { part: part.name(), row });
                }
            }
        }
        if self.parts.train.is_empty() { Err(SplitError::NoTrainRows) } else { Ok(self) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(n_rows: usize) -> DatasetId {
        DatasetId { source: "csv:t.csv".into(), digest: "d".into(), n_rows }
    }

    fn sizes(train: usize, validation: usize, calibration: usize, test: usize) -> PartSizes {
        PartSizes { train, validation, calibration, test }
    }

    #[test]
    fn the_same_seed_draws_the_same_rows_and_another_seed_others() {
        let draw = |seed| Split::draw_rows(id(100), sizes(40, 10, 20, 30), seed).unwrap();
        assert_eq!(draw(7), draw(7));
        assert_eq!(draw(7).digest(), draw(7).digest());
        assert_ne!(draw(7).part(Part::Test), draw(8).part(Part::Test));
    }

    #[test]
    fn a_written_split_reads_back_and_its_digest_is_that_of_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.split.json");
        let split = Split::draw_rows(id(50), sizes(10, 5, 5, 20), 1).unwrap();
        split.write(&path).unwrap();
        assert_eq!(Split::read(&path).unwrap(), split);
        assert_eq!(hex(&Sha256::digest(std::fs::read(&path).unwrap())), split.digest());
    }

    #[test]
    fn parts_that_share_a_row_or_leave_the_data_are_refused() {
        let text = |train: &str, test: &str| {
            format!(
                r#"{{"format":"sordino.split","format_version":1,"dataset":{{"source":"csv:t","digest":"d","n_rows":5}},"seed":1,"parts":{{"train":{train},"validation":[],"calibration":[],"test":{test}}}}}"#
            )
        };
        let read = |train: &str, test: &str| Split::from_bytes(text(train, test).as_bytes());
        assert!(read("[0,1]", "[2]").is_ok());
        assert!(matches!(read("[0,1]", "[1]"), Err(SplitError::Repeated { part: "test", row: 1 })));
        assert!(matches!(read("[0,0]", "[1]"), Err(SplitError::Repeated { part: "train", row: 0 })));
        assert!(matches!(read("[0,5]", "[1]"), Err(SplitError::OutOfRange { row: 5, n_rows: 5, .. })));
        assert!(matches!(read("[]", "[1]"), Err(SplitError::NoTrainRows)));
        assert!(matches!(read("[-1]", "[1]"), Err(SplitError::Json { .. })));
        let newer = text("[0]", "[1]").replace("\"format_version\":1", "\"format_version\":2");
        assert!(matches!(Split::from_bytes(newer.as_bytes()), Err(SplitError::Format { version: 2, .. })));
    }

    #[test]
    fn more_rows_than_there_are_cannot_be_drawn() {
        let error = Split::draw_rows(id(10), sizes(8, 1, 1, 1), 1).unwrap_err().to_string();
        assert_eq!(error, "expected at most 10 rows in all parts together, got 11");
        assert!(Split::draw_rows(id(10), sizes(usize::MAX, usize::MAX, 1, 1), 1).is_err());
    }

    #[test]
    fn a_class_without_training_rows_is_named() {
        let text = "cat,1\n".repeat(30) + &"dog,2\n".repeat(30) + "fox,3\n";
        let data = crate::data::parse_table(text.as_bytes()).unwrap();
        let source = DataSource::Csv("t.csv".into());
        let draw = |train, seed| Split::draw(&source, &data, sizes(train, 0, 0, 0), seed);
        assert!(draw(61, 1).is_ok());
        let error = (0..100).find_map(|seed| draw(30, seed).err()).unwrap().to_string();
        assert!(error.starts_with("expected rows of every class in the train part, got none of 1 of 3 classes: 'fox'"));
    }

    proptest! {
        #[test]
        fn parts_are_disjoint_in_range_and_of_the_sizes_asked_for(
            n in 1usize..200, a in 1usize..60, b in 0usize..60, c in 0usize..60, d in 0usize..60, seed: u64
        ) {
            match Split::draw_rows(id(n), sizes(a, b, c, d), seed) {
                Ok(split) => {
                    prop_assert_eq!(split.sizes(), sizes(a, b, c, d));
                    let rows: HashSet<usize> = Part::ALL.iter().flat_map(|&p| split.part(p).to_vec()).collect();
                    prop_assert_eq!(rows.len(), a + b + c + d);
                    prop_assert!(rows.iter().all(|&row| row < n));
                }
                Err(_) => prop_assert!(a + b + c + d > n),
            }
        }
    }
}
