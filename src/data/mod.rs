//! Labelled rows from files, and the split of those rows into disjoint parts.
//!
//! Responsible for reading what people have (IDX files, folders of images, CSV tables) into one checked
//! [`Dataset`], for drawing a [`Split`] with a seed, and for reading a split back. Not responsible for models,
//! training or the wire: rows go from here, as `f32` arrays, to the audit, to the fitting of centroids and to
//! the lab.
//!
//! Any file may be damaged or hostile. Every length is checked before memory is asked for, nothing here
//! panics on bytes from outside, and an error says which file and line, what was expected and what came. It
//! never repeats a value of a row: those are somebody's data.

mod files;
mod folder;
mod idx;
mod near;
mod split;
mod table;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use ndarray::{ArrayD, IxDyn};
use sha2::{Digest, Sha256};

pub use files::{check_writable, hex, is_same_file, write_atomic};
pub use idx::{Idx, IdxError, parse_idx};
pub use near::{Groups, Measure, Near};
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
    #[error(
        "unknown data source {given:?}: expected fashion-mnist, fashion-mnist:DIR, idx:DIR, folder:DIR or csv:FILE"
    )]
    UnknownSource {
        /// What was given.
        given: String,
    },
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
    #[error("{}, line {line}: expected {expected}, got {got}", path.display())]
    BadRow {
        /// The table.
        path: PathBuf,
        /// The line in the file, counted from 1.
        line: u64,
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

    fn io(path: &Path, error: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), error }
    }
}

/// Where labelled rows come from.
///
/// | words | meaning |
/// | --- | --- |
/// | `fashion-mnist` | the IDX files of Debian's `dataset-fashion-mnist`, with its class names |
/// | `fashion-mnist:DIR` | the same files in another folder |
/// | `idx:DIR` | `train-images-idx3-ubyte`, `train-labels-idx1-ubyte` and the two `t10k-…` files, `.gz` or plain |
/// | `folder:DIR` | `train/<class>/*.jpg` then `test/<class>/*.jpg` (or `.png`), or `<class>/*` alone |
/// | `csv:FILE` | one row a line, the label first, then numbers; quotes and a header line are welcome |
///
/// Rows are numbered in that order, from 0: for IDX the 60,000 `train` rows come before the `t10k` rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataSource {
    /// Fashion-MNIST, from Debian's folder when `None`.
    FashionMnist(Option<PathBuf>),
    /// A folder of IDX files.
    Idx(PathBuf),
    /// A folder of images, one folder a class.
    Folder(PathBuf),
    /// A table.
    Csv(PathBuf),
}

impl FromStr for DataSource {
    type Err = DataError;

    fn from_str(given: &str) -> Result<Self, DataError> {
        let unknown = || DataError::UnknownSource { given: given.to_owned() };
        match given.split_once(':') {
            None if given == "fashion-mnist" => Ok(Self::FashionMnist(None)),
            None | Some((_, "")) => Err(unknown()),
            Some(("fashion-mnist", dir)) => Ok(Self::FashionMnist(Some(dir.into()))),
            Some(("idx", dir)) => Ok(Self::Idx(dir.into())),
            Some(("folder", dir)) => Ok(Self::Folder(dir.into())),
            Some(("csv", file)) => Ok(Self::Csv(file.into())),
            Some(_) => Err(unknown()),
        }
    }
}

impl DataSource {
    /// Whether `file` is one of the files that are read from this source, and so must not be written to.
    #[must_use]
    pub fn reads(&self, file: &Path) -> bool {
        let dir = match self {
            Self::Csv(path) => return is_same_file(path, file),
            Self::FashionMnist(dir) => dir.as_deref().unwrap_or(Path::new(DEBIAN_FASHION_MNIST)),
            Self::Idx(dir) | Self::Folder(dir) => dir,
        };
        let (Ok(dir), Ok(file)) = (dir.canonicalize(), file.canonicalize()) else { return false };
        match self {
            Self::Folder(_) => file.starts_with(dir) && folder::is_image(&file),
            _ => idx::STEMS.iter().any(|stem| file == dir.join(stem) || file == dir.join(format!("{stem}.gz"))),
        }
    }
}

/// The source as it is written into records: a relative path as given, of an absolute path the last part
/// alone, so that a record never tells about the machine that it was made on.
impl fmt::Display for DataSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, path) = match self {
            Self::FashionMnist(_) => return f.write_str("fashion-mnist"),
            Self::Idx(path) => ("idx", path),
            Self::Folder(path) => ("folder", path),
            Self::Csv(path) => ("csv", path),
        };
        let shown = match path.file_name() {
            Some(name) if path.is_absolute() => Path::new(name),
            _ => path.as_path(),
        };
        write!(f, "{word}:{}", shown.display())
    }
}

/// The values of all rows, one after the other.
enum Rows {
    /// Pixels: a batch holds them divided by 255.
    U8(Vec<u8>),
    /// Numbers, as they are.
    F32(Vec<f32>),
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

fn fashion_mnist(dir: &Path) -> Result<Dataset, DataError> {
    idx::load(dir, Some(FASHION_MNIST_CLASSES.map(str::to_owned).to_vec()))
}

/// Tells which package to install where `dir` holds nothing.
fn debian_fashion_mnist(dir: &Path) -> Result<Dataset, DataError> {
    fashion_mnist(dir).map_err(|error| match error {
        DataError::Io { path, error } => DataError::NoFashionMnist { path, error },
        other => other,
    })
}

impl Dataset {
    /// Reads all rows of a source into memory (images stay one byte a value).
    ///
    /// # Errors
    ///
    /// [`DataError`] for the first file or row that is not as the source promises.
    pub fn load(source: &DataSource) -> Result<Self, DataError> {
        match source {
            DataSource::FashionMnist(Some(dir)) => fashion_mnist(dir),
            DataSource::FashionMnist(None) => debian_fashion_mnist(Path::new(DEBIAN_FASHION_MNIST)),
            DataSource::Idx(dir) => idx::load(dir, None),
            DataSource::Folder(dir) => folder::load(dir),
            DataSource::Csv(file) => table::load(file),
        }
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
        let width: usize = self.row_shape.iter().product();
        let mut values = Vec::with_capacity(rows.len() * width);
        for &row in rows {
            let range = row * width..(row + 1) * width;
            match &self.rows {
                Rows::U8(pixels) => values.extend(pixels[range].iter().map(|&p| f32::from(p) / 255.0)),
                Rows::F32(numbers) => values.extend_from_slice(&numbers[range]),
            }
        }
        let mut shape = vec![rows.len()];
        shape.extend_from_slice(&self.row_shape);
        ArrayD::from_shape_vec(IxDyn(&shape), values).expect("as many values as the shape says were pushed")
    }

    /// SHA-256 (hex) of the content: row shape, number of classes, labels and values, in order. The names of
    /// the classes, the place and the packing of the files do not count.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(b"sordino.dataset 1\n");
        for number in self.row_shape.iter().chain([&self.n_rows(), &self.n_classes()]) {
            hash.update((*number as u64).to_le_bytes());
        }
        for label in &self.labels {
            hash.update(label.to_le_bytes());
        }
        match &self.rows {
            Rows::U8(pixels) => hash.update(pixels),
            Rows::F32(numbers) => numbers.iter().for_each(|number| hash.update(number.to_le_bytes())),
        }
        hex(&hash.finalize())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_named_by_its_words() {
        assert_eq!("fashion-mnist".parse::<DataSource>().unwrap(), DataSource::FashionMnist(None));
        assert_eq!("idx:a/b".parse::<DataSource>().unwrap(), DataSource::Idx("a/b".into()));
        assert_eq!("folder:c:d".parse::<DataSource>().unwrap(), DataSource::Folder("c:d".into()));
        assert_eq!("csv:t.csv".parse::<DataSource>().unwrap(), DataSource::Csv("t.csv".into()));
        for bad in ["", "mnist", "csv:", "zip:x", "fashion-mnist:"] {
            let error = bad.parse::<DataSource>().unwrap_err().to_string();
            assert!(error.contains("expected fashion-mnist"), "{error}");
        }
    }

    #[test]
    fn a_missing_fashion_mnist_names_the_package() {
        let error = debian_fashion_mnist(Path::new("no/such/folder")).unwrap_err().to_string();
        assert!(error.contains("no/such/folder") && error.contains("apt-get install dataset-fashion-mnist"), "{error}");
        assert!(!fashion_mnist(Path::new("no/such/folder")).unwrap_err().to_string().contains("apt-get"));
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

    #[test]
    fn a_source_knows_the_files_that_it_reads() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["t.csv", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte.gz", "m.onnx", "a.png"] {
            std::fs::write(at(name), "").unwrap();
        }
        assert!(
            DataSource::Csv(at("t.csv")).reads(&at("./t.csv")) && !DataSource::Csv(at("t.csv")).reads(&at("m.onnx"))
        );
        for source in [DataSource::Idx(at("")), DataSource::FashionMnist(Some(at("")))] {
            assert!(source.reads(&at("train-labels-idx1-ubyte")) && source.reads(&at("t10k-images-idx3-ubyte.gz")));
            assert!(!source.reads(&at("m.onnx")) && !source.reads(&at("train-images-idx3-ubyte")));
        }
        assert!(DataSource::Folder(at("")).reads(&at("a.png")) && !DataSource::Folder(at("")).reads(&at("m.onnx")));
    }

    #[test]
    fn a_record_of_a_source_never_holds_an_absolute_path() {
        let shown = |given: &str| given.parse::<DataSource>().unwrap().to_string();
        assert_eq!(shown("folder:/home/someone/cifar10"), "folder:cifar10");
        assert_eq!(shown("csv:data/table.csv"), "csv:data/table.csv");
        assert_eq!(shown("fashion-mnist:/srv/fm"), "fashion-mnist");
    }
}
