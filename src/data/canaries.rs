//! Canaries: rows that are planted in a training set to be looked for later, and as many of the same kind that are
//! withheld, told apart by nothing but the throw of a coin.
//!
//! Responsible for drawing them ([`Canaries::draw`]), for the file that names them, and for the rows with the labels that
//! were planted ([`Canaries::plant`]). Not responsible for training or for attacks: to those a planted set is a set like
//! any other.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use rand::Rng as _;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::{Deserialize, Serialize};

use super::{DataSource, Dataset, Part, Split, SplitError, write_atomic};

const FORMAT: &str = "sordino.canaries";
const FORMAT_VERSION: u32 = 1;
/// Rows that are read at a time when distances are taken.
const BATCH: usize = 256;

/// What makes a row a canary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// It bears a wrong label, uniform over the others: to fit it a model must learn it by heart. The label that is
    /// answered gives it away, whatever is done to scores.
    Mislabelled,
    /// It bears its own label and lies far out: farthest, for the size of its class's spread, from the mean of the
    /// training rows of its class.
    Outlier,
}

impl Kind {
    /// The kind in a word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Mislabelled => "mislabelled",
            Self::Outlier => "outlier",
        }
    }
}

/// One canary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Canary {
    /// Its row in the data.
    pub row: usize,
    /// The label that it bears.
    pub label: u32,
    /// Whether it is trained on.
    pub trained: bool,
}

/// Why canaries could not be drawn, read or used.
#[derive(Debug, thiserror::Error)]
pub enum CanariesError {
    /// The file could not be read or written.
    #[error("cannot use the file of canaries {}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        error: std::io::Error,
    },
    /// The bytes are no file of canaries.
    #[error("{}: expected a file of canaries: {error}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where the bytes go wrong.
        error: serde_json::Error,
    },
    /// The file is of another format or version, or contradicts itself.
    #[error("{}: expected {expected}, got {got}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What was expected.
        expected: String,
        /// What was found.
        got: String,
    },
    /// The canaries were drawn from other data.
    #[error("expected canaries of the dataset with digest {dataset}, got some of {canaries} ({source_words})")]
    OtherDataset {
        /// Digest of the dataset at hand.
        dataset: String,
        /// Digest that the file names.
        canaries: String,
        /// The source that the file names.
        source_words: String,
    },
    /// The part has too few rows.
    #[error("expected at most {n_rows} canaries, as many as the part {part} has rows, got {wanted}")]
    TooMany {
        /// Canaries asked for.
        wanted: usize,
        /// Rows of the part.
        n_rows: usize,
        /// The part.
        part: &'static str,
    },
    /// Two sides need a canary each.
    #[error("expected at least 2 canaries, got {0}")]
    TooFew(usize),
    /// The split does not go with the data, or cannot take them.
    #[error(transparent)]
    Split(#[from] SplitError),
    /// A row could not be read.
    #[error(transparent)]
    Data(#[from] Box<super::DataError>),
}

/// Canaries of one set: half of them, by lot, to be trained on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Canaries {
    format: String,
    format_version: u32,
    /// The source in words, for whoever reads the file.
    source: String,
    /// Digest of the data before labels were planted.
    dataset: String,
    kind: Kind,
    seed: u64,
    rows: Vec<Canary>,
}

impl Canaries {
    /// Draws `n` rows of a part of `split` and throws for which half of them is trained on (`n / 2`, so that both sides
    /// are of one size or differ by one).
    ///
    /// Of [`Kind::Mislabelled`] any rows of the part, of [`Kind::Outlier`] those that lie farthest out: by the distance
    /// to the mean of the split's train rows of their class, over the root mean square of that distance in the class.
    ///
    /// # Errors
    ///
    /// [`CanariesError::TooMany`], [`CanariesError::TooFew`], [`CanariesError::Split`] where the split is of other
    /// data, [`CanariesError::Data`].
    pub fn draw(
        source: &DataSource,
        dataset: &Dataset,
        split: &Split,
        part: Part,
        kind: Kind,
        n: usize,
        seed: u64,
    ) -> Result<Self, CanariesError> {
        split.check(dataset)?;
        let places = split.part(part);
        if n > places.len() {
            return Err(CanariesError::TooMany { wanted: n, n_rows: places.len(), part: part.name() });
        }
        if n < 2 {
            return Err(CanariesError::TooFew(n));
        }
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut rows = match kind {
            Kind::Mislabelled => places.to_vec(),
            Kind::Outlier => farthest(dataset, split.part(Part::Train), places, n)?,
        };
        rows.shuffle(&mut rng);
        rows.truncate(n);
        let n_classes = dataset.n_classes() as u32;
        let canary = |(place, row): (usize, usize)| {
            let own = dataset.labels()[row];
            let label = match kind {
                Kind::Mislabelled => (own + rng.random_range(1..n_classes)) % n_classes,
                Kind::Outlier => own,
            };
            Canary { row, label, trained: place < n / 2 }
        };
        let mut rows: Vec<Canary> = rows.into_iter().enumerate().map(canary).collect();
        rows.sort_unstable_by_key(|canary| canary.row);
        let (format, source, dataset) = (FORMAT.to_owned(), source.to_string(), dataset.digest());
        Ok(Self { format, format_version: FORMAT_VERSION, source, dataset, kind, seed, rows })
    }

    /// Reads and checks a file of canaries.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, is of another format, or names a row twice or one side only.
    pub fn read(path: &Path) -> Result<Self, CanariesError> {
        let bytes = std::fs::read(path).map_err(|error| CanariesError::Io { path: path.to_owned(), error })?;
        let read: Self =
            serde_json::from_slice(&bytes).map_err(|error| CanariesError::Json { path: path.to_owned(), error })?;
        read.checked(path)
    }

    fn checked(self, path: &Path) -> Result<Self, CanariesError> {
        let wrong = |expected: String, got: String| CanariesError::Content { path: path.to_owned(), expected, got };
        if self.format != FORMAT || self.format_version != FORMAT_VERSION {
            let got = format!("{} version {}", self.format, self.format_version);
            return Err(wrong(format!("format {FORMAT} version {FORMAT_VERSION}"), got));
        }
        let mut seen = HashSet::new();
        if let Some(twice) = self.rows.iter().find(|canary| !seen.insert(canary.row)) {
            return Err(wrong("each row once".to_owned(), format!("row {} twice", twice.row)));
        }
        if self.trained().is_empty() || self.withheld().is_empty() {
            return Err(wrong(
                "canaries that are trained on and others that are not".to_owned(),
                "one side".to_owned(),
            ));
        }
        Ok(self)
    }

    /// Writes the file, atomically.
    ///
    /// # Errors
    ///
    /// [`CanariesError::Io`].
    pub fn write(&self, path: &Path) -> Result<(), CanariesError> {
        let mut bytes = serde_json::to_vec(self).expect("canaries are plain numbers and text");
        bytes.push(b'\n');
        write_atomic(path, &bytes).map_err(|error| CanariesError::Io { path: path.to_owned(), error })
    }

    /// What makes them canaries.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// All of them, by row.
    #[must_use]
    pub fn rows(&self) -> &[Canary] {
        &self.rows
    }

    /// The rows that are trained on, ascending.
    #[must_use]
    pub fn trained(&self) -> Vec<usize> {
        self.side(true)
    }

    /// The rows of the same kind that are not.
    #[must_use]
    pub fn withheld(&self) -> Vec<usize> {
        self.side(false)
    }

    fn side(&self, trained: bool) -> Vec<usize> {
        self.rows.iter().filter(|canary| canary.trained == trained).map(|canary| canary.row).collect()
    }

    /// The rows of `dataset` with the labels that the canaries bear: another set, of another digest.
    ///
    /// # Errors
    ///
    /// [`CanariesError::OtherDataset`]; [`CanariesError::Content`] for a row or a label that the data has not.
    pub fn plant(&self, path: &Path, dataset: Dataset) -> Result<Dataset, CanariesError> {
        let digest = dataset.digest();
        if digest != self.dataset {
            let (canaries, source_words) = (self.dataset.clone(), self.source.clone());
            return Err(CanariesError::OtherDataset { dataset: digest, canaries, source_words });
        }
        let (n_rows, n_classes) = (dataset.n_rows(), dataset.n_classes());
        let fits = |canary: &&Canary| canary.row < n_rows && (canary.label as usize) < n_classes;
        if let Some(Canary { row, label, .. }) = self.rows.iter().find(|canary| !fits(canary)) {
            let expected = format!("rows below {n_rows} and labels below {n_classes}");
            return Err(CanariesError::Content {
                path: path.to_owned(),
                expected,
                got: format!("row {row}, label {label}"),
            });
        }
        let planted = dataset.relabelled(self.rows.iter().map(|canary| (canary.row, canary.label)));
        planted.map_err(|error| Box::new(error).into())
    }
}

/// The `n` rows of `rows` that lie farthest out; ties to the row that stands first.
fn farthest(dataset: &Dataset, train: &[usize], rows: &[usize], n: usize) -> Result<Vec<usize>, CanariesError> {
    let width: usize = dataset.row_shape().iter().product();
    let mut means: HashMap<u32, (Vec<f64>, f64)> = HashMap::new();
    each_row(dataset, train, |label, values| {
        let (sum, n) = means.entry(label).or_insert_with(|| (vec![0.0; width], 0.0));
        sum.iter_mut().zip(values).for_each(|(sum, &value)| *sum += f64::from(value));
        *n += 1.0;
    })?;
    means.values_mut().for_each(|(sum, n)| sum.iter_mut().for_each(|sum| *sum /= *n));
    let squared = |mean: &[f64], values: &[f32]| -> f64 {
        mean.iter().zip(values).map(|(mean, &value)| (f64::from(value) - mean).powi(2)).sum()
    };
    let mut spread: HashMap<u32, f64> = HashMap::new();
    each_row(dataset, train, |label, values| {
        let (mean, n) = &means[&label];
        *spread.entry(label).or_default() += squared(mean, values) / n;
    })?;
    let mut distances = Vec::with_capacity(rows.len());
    each_row(dataset, rows, |label, values| {
        // A class without training rows has nothing to lie far from: a split has none such.
        let found = means.get(&label).map(|(mean, _)| squared(mean, values) / spread[&label].max(f64::MIN_POSITIVE));
        distances.push(found.unwrap_or(0.0));
    })?;
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by(|&a, &b| distances[b].total_cmp(&distances[a]).then(a.cmp(&b)));
    Ok(order.into_iter().take(n).map(|place| rows[place]).collect())
}

fn each_row(dataset: &Dataset, rows: &[usize], mut take: impl FnMut(u32, &[f32])) -> Result<(), CanariesError> {
    for rows in rows.chunks(BATCH) {
        let batch = dataset.try_batch(rows).map_err(Box::new)?;
        let values = batch.as_slice().unwrap_or_default();
        let width = values.len() / rows.len();
        for (&row, values) in rows.iter().zip(values.chunks_exact(width.max(1))) {
            take(dataset.labels()[row], values);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{PartSizes, parse_table};

    /// 200 rows on a line, two classes around 0 and 100; rows 190 to 199 lie far out.
    fn rows() -> (DataSource, Dataset, Split) {
        let line = |row: usize| {
            let far = if row >= 190 { 1_000.0 } else { (row % 7) as f64 };
            format!("{},{}\n", row % 2, (row % 2) as f64 * 100.0 + far)
        };
        let dataset = parse_table((0..200).map(line).collect::<String>().as_bytes()).unwrap();
        let source: DataSource = "csv:t.csv".parse().unwrap();
        let sizes = PartSizes { train: 60, test: 120, ..PartSizes::default() };
        let split = Split::draw(&source, &dataset, sizes, 3).unwrap();
        (source, dataset, split)
    }

    fn drawn(kind: Kind, n: usize, seed: u64) -> (Canaries, Dataset, Split) {
        let (source, dataset, split) = rows();
        (Canaries::draw(&source, &dataset, &split, Part::Test, kind, n, seed).unwrap(), dataset, split)
    }

    #[test]
    fn half_of_the_canaries_are_trained_on_by_lot() {
        let (canaries, dataset, split) = drawn(Kind::Mislabelled, 41, 7);
        assert_eq!((canaries.trained().len(), canaries.withheld().len()), (20, 21));
        assert!(canaries.rows().iter().all(|canary| split.part(Part::Test).contains(&canary.row)));
        assert!(canaries.rows().iter().all(|canary| canary.label != dataset.labels()[canary.row] && canary.label < 2));
        assert_eq!(canaries, drawn(Kind::Mislabelled, 41, 7).0);
        assert_ne!(canaries.trained(), drawn(Kind::Mislabelled, 41, 8).0.trained());
        assert_ne!(
            canaries.trained(),
            canaries.rows().iter().take(20).map(|c| c.row).collect::<Vec<_>>(),
            "not by number"
        );
    }

    #[test]
    fn outliers_are_the_rows_farthest_out_and_keep_their_labels() {
        let (source, dataset, split) = rows();
        let far: HashSet<usize> = split.part(Part::Test).iter().copied().filter(|&row| row >= 190).collect();
        let n = far.len();
        assert!(n >= 2);
        let canaries = Canaries::draw(&source, &dataset, &split, Part::Test, Kind::Outlier, n, 1).unwrap();
        assert_eq!(canaries.rows().iter().map(|canary| canary.row).collect::<HashSet<_>>(), far);
        assert!(canaries.rows().iter().all(|canary| canary.label == dataset.labels()[canary.row]));
    }

    #[test]
    fn planted_rows_bear_their_labels_and_all_others_stay() {
        let (canaries, dataset, split) = drawn(Kind::Mislabelled, 30, 2);
        let labels = dataset.labels().to_vec();
        let before = dataset.digest();
        let planted = canaries.plant(Path::new("c"), dataset).unwrap();
        assert_ne!(planted.digest(), before);
        let changed: Vec<usize> = (0..200).filter(|&row| planted.labels()[row] != labels[row]).collect();
        assert_eq!(changed, canaries.rows().iter().map(|canary| canary.row).collect::<Vec<_>>());
        assert!(split.check(&planted).is_err(), "the old split is of other data");
        let error = canaries.plant(Path::new("c"), planted).unwrap_err().to_string();
        assert!(error.starts_with("expected canaries of the dataset with digest"), "{error}");
    }

    #[test]
    fn a_split_with_canaries_trains_one_half_and_knows_the_other_no_more() {
        let (canaries, dataset, split) = drawn(Kind::Mislabelled, 30, 2);
        let planted = canaries.plant(Path::new("c"), dataset).unwrap();
        let source: DataSource = "planted:c.json,csv:t.csv".parse().unwrap();
        let with = split.with_canaries(&source, &planted, &canaries).unwrap();
        with.check(&planted).unwrap();
        assert_eq!(with.part(Part::Train).len(), 75);
        assert!(canaries.trained().iter().all(|row| with.part(Part::Train).contains(row)));
        assert!(canaries.rows().iter().all(|canary| !with.part(Part::Test).contains(&canary.row)));
        assert_eq!(with.part(Part::Test).len(), 90);
        assert_eq!(with.removed(), canaries.withheld());
        assert_eq!(Split::from_bytes(&with.to_bytes()).unwrap(), with);
        let again = with.with_canaries(&source, &planted, &canaries).unwrap_err().to_string();
        assert!(again.contains("train"), "a row that is trained on already says nothing: {again}");
    }

    #[test]
    fn a_file_of_canaries_reads_back_and_a_damaged_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.json");
        let (canaries, ..) = drawn(Kind::Mislabelled, 10, 2);
        canaries.write(&path).unwrap();
        assert_eq!(Canaries::read(&path).unwrap(), canaries);
        let text = std::fs::read_to_string(&path).unwrap();
        let refused = |from: &str, to: &str| {
            std::fs::write(&path, text.replace(from, to)).unwrap();
            Canaries::read(&path).unwrap_err().to_string()
        };
        assert!(refused("\"format_version\":1", "\"format_version\":2").contains("version 1, got"));
        assert!(refused("false", "true").contains("others that are not, got one side"));
        assert!(refused("sordino.canaries", "x").contains("format sordino.canaries"));
        assert!(refused("{\"row\"", "{\"extra\":1,\"row\"").contains("unknown field"));
        let (dataset, first) = (rows().1, canaries.rows()[0].row);
        std::fs::write(&path, text.replacen(&format!("\"row\":{first},"), "\"row\":999,", 1)).unwrap();
        let error = Canaries::read(&path).unwrap().plant(&path, dataset).unwrap_err().to_string();
        assert!(error.contains("rows below 200 and labels below 2, got row 999"), "{error}");
    }

    #[test]
    fn more_canaries_than_rows_or_fewer_than_two_are_refused() {
        let (source, dataset, split) = rows();
        let refused = |part, n| {
            let drawn = Canaries::draw(&source, &dataset, &split, part, Kind::Mislabelled, n, 1);
            drawn.unwrap_err().to_string()
        };
        assert!(refused(Part::Test, 121).contains("at most 120 canaries"));
        assert!(refused(Part::Shadow, 2).contains("the part shadow"));
        assert!(refused(Part::Test, 1).contains("at least 2"));
    }
}
