//! Labelled rows from files, and the split of those rows into disjoint parts.
//!
//! Responsible for reading what people have (see [`DataSource`]) into one checked [`Dataset`], for finding
//! near-duplicates ([`Groups`]), for drawing a [`Split`] with a seed, and for reading a split back. Not responsible
//! for models, training or the wire: rows go from here, as `f32` arrays, to the audit, to the fitting of centroids and
//! to the lab.
//!
//! # Memory
//!
//! Formats whose rows have a fixed width (plain IDX, CIFAR-10, `.npy`, unpacked `.npz`) stay in their files where they
//! are larger than [`Memory`] allows, and are read row by row; the others are read into memory, a byte a value where
//! all are whole numbers up to 255. [`convert`] writes any of them as `.npy`, row by row.
//!
//! Any file may be damaged or hostile. Every length is checked before memory is asked for, nothing here
//! panics on bytes from outside, and an error says which file and line, what was expected and what came. It
//! never repeats a value of a row: those are somebody's data.

mod canaries;
mod cifar10;
mod convert;
mod element;
mod files;
mod folder;
mod gather;
mod idx;
mod labels;
mod look_alike;
mod near;
pub mod npy;
pub mod parquet;
mod published;
mod source;
mod split;
mod stored;
mod table;
mod values;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use ndarray::{ArrayD, IxDyn};
use sha2::{Digest, Sha256};

use self::values::Rows;

pub use canaries::{Canaries, CanariesError, Canary, Kind as CanaryKind};
pub use cifar10::parse_cifar10;
pub use convert::{Converted, Values, convert};
pub use files::{check_writable, hex, is_same_file, write_atomic};
pub use idx::{Idx, parse_idx};
pub use near::{Groups, Measure, Near, NearError};
pub use npy::{FILES as CONVERTED_FILES, parse_npy, parse_npz};
pub use parquet::parse_parquet;
pub use published::Published;
pub use source::{DataSource, LabelledFile};
pub use split::{Drawing, Drawn, Part, PartSizes, Split, SplitError, read_row_numbers};
pub use table::parse_table;

/// Where Debian's package `dataset-fashion-mnist` puts its four IDX files.
const DEBIAN_FASHION_MNIST: &str = "/usr/share/datasets/fashion-mnist";

/// The names of the ten classes of Fashion-MNIST, in the order of its labels.
const FASHION_MNIST_CLASSES: [&str; 10] =
    ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"];

/// Why rows could not be read.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The words that name a source are not of a known form.
    #[error("unknown data source {given:?}: expected {}", source::FORMS)]
    UnknownSource {
        /// What was given.
        given: String,
    },
    /// A file of canaries cannot be used.
    #[error(transparent)]
    Canaries(#[from] CanariesError),
    /// A file or folder could not be opened or read.
    #[error("cannot read {}: {error}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        error: std::io::Error,
    },
    /// A file as a whole is not what its place asks for.
    #[error("{}: expected {expected}, got {got}", path.display())]
    BadFile {
        /// The file or folder.
        path: PathBuf,
        /// What was expected there.
        expected: String,
        /// What was found.
        got: String,
    },
    /// One row of a table is not like the others.
    #[error("{}, {place}: expected {expected}, got {got}", path.display())]
    BadRow {
        /// The table.
        path: PathBuf,
        /// Where in it.
        place: Place,
        /// What was expected there.
        expected: String,
        /// What was found.
        got: String,
    },
    /// The model's classes bear other names than the data's: a label would mean another class.
    #[error(
        "class {place} bears another name in the model than in the data: the model has {model}; the data has {data}"
    )]
    OtherNames {
        /// The first class whose names differ.
        place: usize,
        /// The model's names.
        model: NameList,
        /// The data's names.
        data: NameList,
    },
    /// Debian's package with Fashion-MNIST is not installed.
    #[error(
        "cannot read {}: {error}; Fashion-MNIST is read from Debian's package dataset-fashion-mnist (apt-get install \
         dataset-fashion-mnist); for files elsewhere give fashion-mnist:DIR",
        path.display()
    )]
    NoFashionMnist {
        /// What could not be read.
        path: PathBuf,
        /// What the operating system said.
        error: std::io::Error,
    },
}

/// Names of classes in their order, shown up to a length that a line of text bears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameList(pub Vec<String>);

impl fmt::Display for NameList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 12;
        let names: Vec<String> = self.0.iter().take(SHOWN).map(|name| format!("'{}'", name.escape_debug())).collect();
        f.write_str(&names.join(", "))?;
        if self.0.len() > SHOWN { write!(f, " and {} more", self.0.len() - SHOWN) } else { Ok(()) }
    }
}

impl DataError {
    fn bad_file(path: &Path, expected: impl Into<String>, got: impl Into<String>) -> Self {
        Self::BadFile { path: path.to_owned(), expected: expected.into(), got: got.into() }
    }

    fn bad_row(path: &Path, place: Place, expected: impl Into<String>, got: impl Into<String>) -> Self {
        Self::BadRow { path: path.to_owned(), place, expected: expected.into(), got: got.into() }
    }

    fn io(path: &Path, error: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), error }
    }
}

/// A row of a file, as the file's readers count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A line of text, counted from 1.
    Line(u64),
    /// A row of a binary file, counted from 0.
    Row(usize),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(line) => write!(f, "line {line}"),
            Self::Row(row) => write!(f, "row {row}"),
        }
    }
}

/// What is wrong with the bytes of a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}, got {got}")]
pub struct FormatError {
    /// What was expected.
    pub expected: String,
    /// What was found.
    pub got: String,
}

impl FormatError {
    fn new(expected: impl Into<String>, got: impl Into<String>) -> Self {
        Self { expected: expected.into(), got: got.into() }
    }

    fn in_file(self, path: &Path) -> DataError {
        DataError::bad_file(path, self.expected, self.got)
    }
}

/// How much of a set may be read into memory: formats with rows of a fixed width stay in their files where their
/// values take more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Bytes of values, as they lie in memory.
    pub max_bytes: u64,
}

impl Memory {
    /// Everything stays in its files that can.
    pub const NONE: Self = Self { max_bytes: 0 };

    fn holds(self, n_bytes: u64) -> bool {
        n_bytes <= self.max_bytes
    }
}

impl Default for Memory {
    /// 512 MiB: CIFAR-10, Purchase100 and Texas100 as bytes lie in memory.
    fn default() -> Self {
        Self { max_bytes: 512 << 20 }
    }
}

/// The classes of a dataset.
struct Classes {
    names: Vec<String>,
    /// Whether the names are the source's own, and not numbers given for want of any.
    is_named: bool,
}

impl Classes {
    fn named(names: Vec<String>) -> Self {
        Self { names, is_named: true }
    }

    fn numbered(n_classes: usize) -> Self {
        Self { names: (0..n_classes).map(|label| label.to_string()).collect(), is_named: false }
    }
}

/// Labelled rows of one shape, checked: labels are below `n_classes`, every row has the same number of
/// finite values.
///
/// `Debug` shows counts and shapes alone.
pub struct Dataset {
    row_shape: Vec<usize>,
    class_names: Vec<String>,
    /// Whether the names are the source's own, and not numbers given for want of any.
    is_named: bool,
    labels: Vec<u32>,
    rows: Rows,
    digest: OnceLock<String>,
    fault: OnceLock<DataError>,
}

impl fmt::Debug for Dataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dataset")
            .field("n_rows", &self.n_rows())
            .field("row_shape", &self.row_shape)
            .field("n_classes", &self.n_classes())
            .finish()
    }
}

fn fashion_mnist(dir: &Path, memory: Memory) -> Result<Dataset, DataError> {
    idx::load(dir, Some(FASHION_MNIST_CLASSES.map(str::to_owned).to_vec()), memory)
}

/// Tells which package to install where `dir` holds nothing.
fn debian_fashion_mnist(dir: &Path, memory: Memory) -> Result<Dataset, DataError> {
    fashion_mnist(dir, memory).map_err(|error| match error {
        DataError::Io { path, error } => DataError::NoFashionMnist { path, error },
        other => other,
    })
}

impl Dataset {
    /// Reads the rows of a source, as [`load_within`](Self::load_within) the default [`Memory`].
    ///
    /// # Errors
    ///
    /// [`DataError`] for the first file or row that is not as the source promises.
    pub fn load(source: &DataSource) -> Result<Self, DataError> {
        Self::load_within(source, Memory::default())
    }

    /// Reads the rows of a source into memory, or opens them where they take more than `memory` and their format has
    /// rows of a fixed width. Such files are read through once here, and must stay as they are while the dataset is
    /// used.
    ///
    /// # Errors
    ///
    /// [`DataError`] for the first file or row that is not as the source promises.
    pub fn load_within(source: &DataSource, memory: Memory) -> Result<Self, DataError> {
        match source {
            DataSource::FashionMnist(Some(dir)) => fashion_mnist(dir, memory),
            DataSource::FashionMnist(None) => debian_fashion_mnist(Path::new(DEBIAN_FASHION_MNIST), memory),
            DataSource::Idx(dir) => idx::load(dir, None, memory),
            DataSource::Cifar10(dir) => cifar10::load(dir, memory),
            DataSource::Folder(dir) => folder::load(dir),
            DataSource::Csv(file) => table::load(&file.path, file.label.as_deref().into()),
            DataSource::Parquet(file) => parquet::load(&file.path, file.label.as_deref()),
            DataSource::Published(set, path) => set.load(path, memory),
            DataSource::NpyFolder(dir) => npy::load_folder(dir, memory),
            DataSource::Npy { features, labels } => npy::load(features, labels, None, memory),
            DataSource::Npz { path, features, labels } => {
                npy::load_archive(path, features.as_deref(), labels.as_deref(), None, memory)
            }
            DataSource::Planted { canaries, of } => {
                let dataset = Self::load_within(of, memory)?;
                Ok(Canaries::read(canaries)?.plant(canaries, dataset)?)
            }
            &DataSource::PurchaseLookAlike { n_rows, seed } => Ok(look_alike::purchase(n_rows, seed)),
        }
    }

    /// Takes rows that lie in memory.
    fn new(row_shape: Vec<usize>, classes: Classes, labels: Vec<u32>, rows: Rows) -> Self {
        let (digest, fault) = (OnceLock::new(), OnceLock::new());
        Self { row_shape, class_names: classes.names, is_named: classes.is_named, labels, rows, digest, fault }
    }

    /// Takes rows that may lie in files: those are read through, so that the digest is known and every number finite.
    fn checked(row_shape: Vec<usize>, classes: Classes, labels: Vec<u32>, rows: Rows) -> Result<Self, DataError> {
        let dataset = Self::new(row_shape, classes, labels, rows);
        if matches!(dataset.rows, Rows::Stored(_)) {
            let digest = dataset.make_digest()?;
            dataset.digest.get_or_init(|| digest);
        }
        Ok(dataset)
    }

    /// The same rows, some of them with other labels, each below the number of classes; later ones count.
    ///
    /// # Errors
    ///
    /// Where rows lie in files that cannot be read any more: their digest is made anew.
    ///
    /// # Panics
    ///
    /// When a row is not among the rows.
    fn relabelled(mut self, labels: impl IntoIterator<Item = (usize, u32)>) -> Result<Self, DataError> {
        for (row, label) in labels {
            self.labels[row] = label;
        }
        self.digest = OnceLock::new();
        let digest = self.make_digest()?;
        self.digest.get_or_init(|| digest);
        Ok(self)
    }

    /// How many rows there are.
    #[must_use]
    pub fn n_rows(&self) -> usize {
        self.labels.len()
    }

    /// How many classes there are; at least two.
    #[must_use]
    pub fn n_classes(&self) -> usize {
        self.class_names.len()
    }

    /// The shape of one row: `[channels, height, width]` for images, `[n_features]` for tables.
    #[must_use]
    pub fn row_shape(&self) -> &[usize] {
        &self.row_shape
    }

    /// Whether the values are pixels: [`batch`](Self::batch) divides them by 255.
    #[must_use]
    pub fn has_pixels(&self) -> bool {
        self.rows.are_pixels()
    }

    /// The names of the classes, in the order of the labels.
    #[must_use]
    pub fn class_names(&self) -> &[String] {
        &self.class_names
    }

    /// Checks that a model whose classes bear these names means the same classes in the same order. IDX files name
    /// none, so every name fits them.
    ///
    /// # Errors
    ///
    /// [`DataError::OtherNames`] with both lists.
    pub fn check_names(&self, model: &[String]) -> Result<(), DataError> {
        if !self.is_named || model == self.class_names {
            return Ok(());
        }
        let place = model.iter().zip(&self.class_names).position(|(model, data)| model != data);
        let place = place.unwrap_or_else(|| model.len().min(self.class_names.len()));
        Err(DataError::OtherNames { place, model: NameList(model.to_vec()), data: NameList(self.class_names.clone()) })
    }

    /// The label of each row, each below [`n_classes`](Self::n_classes).
    #[must_use]
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// The values of the named rows, in that order.
    ///
    /// Where rows lie in files that cannot be read any more, they are NaN, which no step takes for a value (R8), and
    /// [`check_read`](Self::check_read) tells what happened; [`try_batch`](Self::try_batch) says so at once.
    ///
    /// # Shapes
    ///
    /// `(rows.len(), row_shape…)`. Pixels are divided by 255 and lie in `[0, 1]`.
    ///
    /// # Panics
    ///
    /// When a row number is not below [`n_rows`](Self::n_rows); [`Split::check`] rules that out for the
    /// parts of a split.
    #[must_use]
    pub fn batch(&self, rows: &[usize]) -> ArrayD<f32> {
        self.try_batch(rows).unwrap_or_else(|error| {
            self.fault.get_or_init(|| error);
            self.array(rows.len(), vec![f32::NAN; rows.len() * self.width()])
        })
    }

    /// As [`batch`](Self::batch), with an error where rows lie in files that cannot be read any more. Rows in memory
    /// give none.
    ///
    /// # Errors
    ///
    /// [`DataError::Io`]; [`DataError::BadRow`] for a number that is not finite any more.
    ///
    /// # Panics
    ///
    /// As [`batch`](Self::batch).
    pub fn try_batch(&self, rows: &[usize]) -> Result<ArrayD<f32>, DataError> {
        let width = self.width();
        let mut values = Vec::with_capacity(rows.len() * width);
        for &row in rows {
            self.rows.read(row, width, &mut values)?;
        }
        Ok(self.array(rows.len(), values))
    }

    /// Tells whether every [`batch`](Self::batch) so far held the rows' values. To be asked before what was made of
    /// them is written.
    ///
    /// # Errors
    ///
    /// What the first batch that could not be read met with.
    pub fn check_read(&self) -> Result<(), &DataError> {
        self.fault.get().map_or(Ok(()), Err)
    }

    /// Appends the values of one row.
    fn read_row(&self, row: usize, into: &mut Vec<f32>) -> Result<(), DataError> {
        self.rows.read(row, self.width(), into)
    }

    /// Values of one row.
    fn width(&self) -> usize {
        self.row_shape.iter().product()
    }

    fn array(&self, n_rows: usize, values: Vec<f32>) -> ArrayD<f32> {
        let mut shape = vec![n_rows];
        shape.extend_from_slice(&self.row_shape);
        ArrayD::from_shape_vec(IxDyn(&shape), values).expect("as many values as the shape says were read")
    }

    /// SHA-256 (hex) of the content: row shape, number of classes, labels and values, in order. The names of
    /// the classes, the place and the packing of the files, and whether rows lie in memory, do not count.
    ///
    /// Made once; for rows in files, when they were opened.
    #[must_use]
    pub fn digest(&self) -> String {
        if let Some(digest) = self.digest.get() {
            return digest.clone();
        }
        let digest = self.make_digest().expect("rows in memory can be read, those in files were when they were opened");
        self.digest.get_or_init(|| digest).clone()
    }

    fn make_digest(&self) -> Result<String, DataError> {
        let mut hash = Sha256::new();
        hash.update(b"sordino.dataset 1\n");
        for number in self.row_shape.iter().chain([&self.n_rows(), &self.n_classes()]) {
            hash.update((*number as u64).to_le_bytes());
        }
        for label in &self.labels {
            hash.update(label.to_le_bytes());
        }
        self.rows.hash(&mut hash)?;
        Ok(hex(&hash.finalize()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_fashion_mnist_names_the_package() {
        let error = debian_fashion_mnist(Path::new("no/such/folder"), Memory::default()).unwrap_err().to_string();
        assert!(error.contains("no/such/folder") && error.contains("apt-get install dataset-fashion-mnist"), "{error}");
        assert!(!fashion_mnist(Path::new("no/such/folder"), Memory::NONE).unwrap_err().to_string().contains("apt-get"));
    }

    #[test]
    fn names_of_another_order_are_refused_with_both_lists() {
        let names = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        let data = parse_table(b"cat,1\ndog,2\nfox,3\n").unwrap();
        assert!(data.check_names(&names(&["cat", "dog", "fox"])).is_ok());
        let error = data.check_names(&names(&["cat", "fox", "dog"])).unwrap_err().to_string();
        assert!(error.starts_with("class 1 bears another name"), "{error}");
        assert!(error.contains("'cat', 'fox', 'dog'; the data has 'cat', 'dog', 'fox'"), "{error}");
        assert!(data.check_names(&names(&["cat", "dog"])).unwrap_err().to_string().starts_with("class 2"));
        let many: Vec<String> = (0..200).map(|class| class.to_string()).collect();
        assert!(data.check_names(&many).unwrap_err().to_string().contains("'11' and 188 more"));
        let unnamed = Dataset { is_named: false, ..data };
        assert!(unnamed.check_names(&names(&["x", "y", "z"])).is_ok());
    }
}
