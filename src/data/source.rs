//! The words that name a source of rows.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::{DEBIAN_FASHION_MNIST, DataError, Published, cifar10, folder, idx, is_same_file, look_alike, npy};

/// All forms, for help texts and errors.
pub(super) const FORMS: &str = "fashion-mnist, fashion-mnist:DIR, idx:DIR, cifar10:DIR, folder:DIR, \
    csv:FILE[,label=COLUMN], parquet:FILE[,label=COLUMN], purchase100:FILE, texas100:FILE (or :DIR), location30:FILE, \
    npy:FEATURES,LABELS (or npy:DIR), npz:FILE[,x=NAME][,y=NAME] or purchase-look-alike[:ROWS[:SEED]]; planted:CANARIES,SOURCE for any of them with the canaries of \
    `sordino data plant`";

/// Where labelled rows come from.
///
/// | words | meaning |
/// | --- | --- |
/// | `fashion-mnist` | the IDX files of Debian's `dataset-fashion-mnist`, with its class names |
/// | `fashion-mnist:DIR` | the same files in another folder |
/// | `idx:DIR` | `train-images-idx3-ubyte`, `train-labels-idx1-ubyte` and the two `t10k-…` files, `.gz` or plain |
/// | `cifar10:DIR` | CIFAR-10's binary files: `data_batch_1.bin` to `_5.bin`, `test_batch.bin`, `batches.meta.txt` where it is there |
/// | `folder:DIR` | `train/<class>/*.jpg` then `test/<class>/*.jpg` (or `.png`), or `<class>/*` alone |
/// | `csv:FILE` | one row a line, the label first, then numbers; quotes, a header line and gzip are welcome |
/// | `csv:FILE,label=COLUMN` | the same with the label in the column of that name (of the header line) or number (from 1) |
/// | `parquet:FILE`, `parquet:FILE,label=COLUMN` | flat columns of numbers and one of labels: the one called `label`, or that of the given name or number |
/// | `purchase100:FILE`, `location30:FILE`, `texas100:FILE` | the published tables (label first, numbered from 1; 0 or 1), gzip is welcome; or `.npz` with `features` and one-hot `labels` |
/// | `texas100:DIR` | its files `feats` and `labels` (or `.gz`), one row a line |
/// | `npy:FEATURES,LABELS` | two NumPy arrays: rows first; labels whole numbers or one-hot |
/// | `npy:DIR` | `features.npy`, `labels.npy` and `classes.txt` (one name a line; may be missing): what `sordino data convert` writes |
/// | `npz:FILE`, `npz:FILE,x=NAME,y=NAME` | the arrays `features` and `labels` (or `x` and `y`) of an archive, or those named |
/// | `purchase-look-alike`, `purchase-look-alike:ROWS:SEED` | made up from a seed (0): 600 features of 0 or 1 and 100 classes like Purchase100, 197,324 rows unless said otherwise |
/// | `planted:CANARIES,SOURCE` | any of the others, with the labels that the canaries bear (`sordino data plant`) |
///
/// Rows are numbered in that order, from 0: for IDX the 60,000 `train` rows come before the `t10k` rows, for CIFAR-10
/// the 50,000 rows of `data_batch_…` before the test batch. Bytes in NumPy arrays whose rows have two sizes or more
/// are pixels, divided by 255 as all images are; in rows of one size they are numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataSource {
    /// Fashion-MNIST, from Debian's folder when `None`.
    FashionMnist(Option<PathBuf>),
    /// A folder of IDX files.
    Idx(PathBuf),
    /// A folder of CIFAR-10's binary files.
    Cifar10(PathBuf),
    /// A folder of images, one folder a class.
    Folder(PathBuf),
    /// A table of text.
    Csv(LabelledFile),
    /// A Parquet table.
    Parquet(LabelledFile),
    /// One of the published sets, in a file or a folder.
    Published(Published, PathBuf),
    /// A folder of NumPy arrays.
    NpyFolder(PathBuf),
    /// Two files with one NumPy array each.
    Npy {
        /// The rows.
        features: PathBuf,
        /// Their labels.
        labels: PathBuf,
    },
    /// An archive of NumPy arrays.
    Npz {
        /// The archive.
        path: PathBuf,
        /// The array of rows, where its name is given.
        features: Option<String>,
        /// The array of labels, where its name is given.
        labels: Option<String>,
    },
    /// Another source with canaries in it.
    Planted {
        /// The file that names them.
        canaries: PathBuf,
        /// The source; not planted itself.
        of: Box<DataSource>,
    },
    /// Rows that look like Purchase100, made up from a seed.
    PurchaseLookAlike {
        /// How many.
        n_rows: usize,
        /// The seed.
        seed: u64,
    },
}

/// A table, and which of its columns holds the labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelledFile {
    /// The file.
    pub path: PathBuf,
    /// A name or a number from 1; `None` for the format's usual place.
    pub label: Option<String>,
}

impl From<PathBuf> for LabelledFile {
    fn from(path: PathBuf) -> Self {
        Self { path, label: None }
    }
}

impl FromStr for DataSource {
    type Err = DataError;

    fn from_str(given: &str) -> Result<Self, DataError> {
        parse(given).ok_or_else(|| DataError::UnknownSource { given: given.to_owned() })
    }
}

fn parse(given: &str) -> Option<DataSource> {
    let (word, rest) = match given.split_once(':') {
        Some((_, "")) => return None,
        Some((word, rest)) => (word, Some(rest)),
        None => (given, None),
    };
    match word {
        "fashion-mnist" => return Some(DataSource::FashionMnist(rest.map(PathBuf::from))),
        look_alike::WORD => return look_alike_of(rest),
        _ => {}
    }
    let rest = rest?;
    if let Some(set) = Published::ALL.into_iter().find(|set| set.name() == word) {
        return Some(DataSource::Published(set, rest.into()));
    }
    let labelled = || {
        let (path, [label]) = options(rest, ["label"])?;
        Some(LabelledFile { path: path.into(), label })
    };
    Some(match word {
        "idx" => DataSource::Idx(rest.into()),
        "cifar10" => DataSource::Cifar10(rest.into()),
        "folder" => DataSource::Folder(rest.into()),
        "csv" => DataSource::Csv(labelled()?),
        "parquet" => DataSource::Parquet(labelled()?),
        "npy" => match rest.split_once(',') {
            None => DataSource::NpyFolder(rest.into()),
            Some(("", _) | (_, "")) => return None,
            Some((features, labels)) => DataSource::Npy { features: features.into(), labels: labels.into() },
        },
        "planted" => {
            let (canaries, of) = rest.split_once(',').filter(|(canaries, _)| !canaries.is_empty())?;
            let of = parse(of).filter(|of| !matches!(of, DataSource::Planted { .. }))?;
            DataSource::Planted { canaries: canaries.into(), of: Box::new(of) }
        }
        "npz" => {
            let (path, [features, labels]) = options(rest, ["x", "y"])?;
            DataSource::Npz { path: path.into(), features, labels }
        }
        _ => return None,
    })
}

fn look_alike_of(rest: Option<&str>) -> Option<DataSource> {
    let (n_rows, seed) = match rest {
        None => (None, None),
        Some(rest) => match rest.split_once(':') {
            None => (Some(rest), None),
            Some((n_rows, seed)) => (Some(n_rows), Some(seed)),
        },
    };
    let n_rows = n_rows.map_or(Some(look_alike::N_ROWS), |n| n.parse().ok())?;
    let seed = seed.map_or(Some(0), |seed| seed.parse().ok())?;
    (look_alike::N_CLASSES..=look_alike::MAX_ROWS)
        .contains(&n_rows)
        .then_some(DataSource::PurchaseLookAlike { n_rows, seed })
}

/// Takes `,key=value` off the end, for the given keys in any order. `None` where a value is empty or a key stands
/// twice; a comma that no key follows belongs to the path.
fn options<'a, const N: usize>(text: &'a str, keys: [&str; N]) -> Option<(&'a str, [Option<String>; N])> {
    let mut path = text;
    let mut values = [const { None }; N];
    while let Some((before, option)) = path.rsplit_once(',') {
        let Some((key, value)) = option.split_once('=') else { break };
        let Some(at) = keys.iter().position(|&known| known == key) else { break };
        if value.is_empty() || values[at].is_some() {
            return None;
        }
        values[at] = Some(value.to_owned());
        path = before;
    }
    (!path.is_empty()).then_some((path, values))
}

impl DataSource {
    /// All forms of a source in words, for help texts.
    pub const FORMS: &'static str = FORMS;

    /// Whether `file` is one of the files that are read from this source, or would stand among them, and so must not be
    /// written to: below the class folders of a folder of images any file is refused, also one in a folder to be made.
    #[must_use]
    pub fn reads(&self, file: &Path) -> bool {
        if let Self::Planted { canaries, of } = self {
            return is_same_file(canaries, file) || of.reads(file);
        }
        if let Self::Folder(dir) = self {
            return folder::holds(dir, file);
        }
        self.files().iter().any(|own| is_same_file(own, file))
    }

    /// The files that may be read, but for a folder of images.
    fn files(&self) -> Vec<PathBuf> {
        let stems =
            |dir: &Path| idx::STEMS.iter().flat_map(|stem| [dir.join(stem), dir.join(format!("{stem}.gz"))]).collect();
        match self {
            Self::FashionMnist(dir) => stems(dir.as_deref().unwrap_or(Path::new(DEBIAN_FASHION_MNIST))),
            Self::Idx(dir) => stems(dir),
            Self::Cifar10(dir) => cifar10::FILES.iter().chain([&cifar10::NAMES_FILE]).map(|f| dir.join(f)).collect(),
            Self::Csv(file) | Self::Parquet(file) => vec![file.path.clone()],
            Self::Published(_, path) => Published::files(path),
            Self::NpyFolder(dir) => npy::FILES.map(|file| dir.join(file)).to_vec(),
            Self::Npy { features, labels } => vec![features.clone(), labels.clone()],
            Self::Npz { path, .. } => vec![path.clone()],
            Self::Folder(_) | Self::Planted { .. } | Self::PurchaseLookAlike { .. } => Vec::new(),
        }
    }
}

/// The source as it is written into records: a relative path as given, of an absolute path the last part
/// alone, so that a record never tells about the machine that it was made on.
impl fmt::Display for DataSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn shown(path: &Path) -> std::path::Display<'_> {
            match path.file_name() {
                Some(name) if path.is_absolute() => Path::new(name).display(),
                _ => path.display(),
            }
        }
        let option = |f: &mut fmt::Formatter<'_>, key: &str, value: &Option<String>| match value {
            Some(value) => write!(f, ",{key}={value}"),
            None => Ok(()),
        };
        match self {
            Self::FashionMnist(_) => f.write_str("fashion-mnist"),
            Self::Idx(path) => write!(f, "idx:{}", shown(path)),
            Self::Cifar10(path) => write!(f, "cifar10:{}", shown(path)),
            Self::Folder(path) => write!(f, "folder:{}", shown(path)),
            Self::Csv(file) => write!(f, "csv:{}", shown(&file.path)).and_then(|()| option(f, "label", &file.label)),
            Self::Parquet(file) => {
                write!(f, "parquet:{}", shown(&file.path)).and_then(|()| option(f, "label", &file.label))
            }
            Self::Published(set, path) => write!(f, "{}:{}", set.name(), shown(path)),
            Self::NpyFolder(dir) => write!(f, "npy:{}", shown(dir)),
            Self::Npy { features, labels } => write!(f, "npy:{},{}", shown(features), shown(labels)),
            Self::Npz { path, features, labels } => {
                write!(f, "npz:{}", shown(path))?;
                option(f, "x", features)?;
                option(f, "y", labels)
            }
            Self::Planted { canaries, of } => write!(f, "planted:{},{of}", shown(canaries)),
            Self::PurchaseLookAlike { n_rows, seed } => write!(f, "{}:{n_rows}:{seed}", look_alike::WORD),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(given: &str) -> DataSource {
        given.parse().unwrap()
    }

    #[test]
    fn a_source_is_named_by_its_words() {
        assert_eq!("fashion-mnist".parse::<DataSource>().unwrap(), DataSource::FashionMnist(None));
        assert_eq!("idx:a/b".parse::<DataSource>().unwrap(), DataSource::Idx("a/b".into()));
        assert_eq!("folder:c:d".parse::<DataSource>().unwrap(), DataSource::Folder("c:d".into()));
        assert_eq!("csv:t.csv".parse::<DataSource>().unwrap(), DataSource::Csv(PathBuf::from("t.csv").into()));
        for bad in ["", "mnist", "csv:", "zip:x", "fashion-mnist:"] {
            let error = bad.parse::<DataSource>().unwrap_err().to_string();
            assert!(error.contains("expected fashion-mnist"), "{error}");
        }
    }

    #[test]
    fn a_source_knows_the_files_that_it_reads() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["t.csv", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte.gz", "m.onnx", "a.png"] {
            std::fs::write(at(name), "").unwrap();
        }
        assert!(
            DataSource::Csv(at("t.csv").into()).reads(&at("./t.csv"))
                && !DataSource::Csv(at("t.csv").into()).reads(&at("m.onnx"))
        );
        for source in [DataSource::Idx(at("")), DataSource::FashionMnist(Some(at("")))] {
            assert!(source.reads(&at("train-labels-idx1-ubyte")) && source.reads(&at("t10k-images-idx3-ubyte.gz")));
            assert!(!source.reads(&at("m.onnx")) && !source.reads(&at("train-images-idx3-ubyte")));
        }
        let images = DataSource::Folder(at(""));
        assert!(images.reads(&at("a.png")) && !images.reads(&at("m.onnx")));
        // A file in a class folder, there or not, stands among the images.
        assert!(images.reads(&at("class/m.onnx")) && images.reads(&at("./new/deep/m.onnx")));
        std::fs::create_dir_all(at("train/plane")).unwrap();
        for inside in ["train/plane/m.onnx", "train/new/m.onnx", "test/new/m.onnx"] {
            assert!(images.reads(&at(inside)), "{inside}");
        }
        assert!(
            !images.reads(&at("models/m.onnx"))
                && !images.reads(&at("train/m.onnx"))
                && !images.reads(&at("../m.onnx"))
        );
    }

    #[test]
    fn a_record_of_a_source_never_holds_an_absolute_path() {
        let shown = |given: &str| given.parse::<DataSource>().unwrap().to_string();
        assert_eq!(shown("folder:/home/someone/cifar10"), "folder:cifar10");
        assert_eq!(shown("csv:data/table.csv"), "csv:data/table.csv");
        assert_eq!(shown("fashion-mnist:/srv/fm"), "fashion-mnist");
    }

    #[test]
    fn options_stand_behind_the_path_and_other_commas_belong_to_it() {
        let file =
            |path: &str, label: Option<&str>| LabelledFile { path: path.into(), label: label.map(str::to_owned) };
        assert_eq!(source("csv:a,b.csv,label=kind"), DataSource::Csv(file("a,b.csv", Some("kind"))));
        assert_eq!(source("parquet:a,b=c"), DataSource::Parquet(file("a,b=c", None)));
        let npz = |features: Option<&str>, labels: Option<&str>| DataSource::Npz {
            path: "a.npz".into(),
            features: features.map(str::to_owned),
            labels: labels.map(str::to_owned),
        };
        assert_eq!(source("npz:a.npz"), npz(None, None));
        assert_eq!(source("npz:a.npz,y=t,x=d"), npz(Some("d"), Some("t")));
        assert_eq!(source("npz:a.npz,y=t").to_string(), "npz:a.npz,y=t");
        assert_eq!(source("npy:d"), DataSource::NpyFolder("d".into()));
        assert_eq!(source("npy:x,y"), DataSource::Npy { features: "x".into(), labels: "y".into() });
        assert_eq!(source("texas100:d"), DataSource::Published(Published::Texas100, "d".into()));
        for bad in ["csv:,label=a", "csv:a,label=", "csv:a,label=b,label=c", "npy:x,", "npy:,y", "npz:,x=a"] {
            assert!(bad.parse::<DataSource>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_planted_source_names_its_canaries_first() {
        let planted = source("planted:c.json,csv:a,b.csv");
        let of = Box::new(source("csv:a,b.csv"));
        assert_eq!(planted, DataSource::Planted { canaries: "c.json".into(), of });
        assert_eq!(source("planted:/home/someone/c.json,csv:t.csv").to_string(), "planted:c.json,csv:t.csv");
        for bad in ["planted:", "planted:c.json", "planted:,csv:t", "planted:c,zip:x", "planted:c,planted:d,csv:t"] {
            assert!(bad.parse::<DataSource>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_look_alike_always_says_so() {
        for (given, shown) in [
            ("purchase-look-alike", "purchase-look-alike:197324:0"),
            ("purchase-look-alike:20000", "purchase-look-alike:20000:0"),
            ("purchase-look-alike:20000:7", "purchase-look-alike:20000:7"),
        ] {
            assert_eq!(source(given).to_string(), shown);
            assert_eq!(source(shown), source(given));
        }
        for bad in
            ["purchase-look-alike:", "purchase-look-alike:99", "purchase-look-alike:1e9", "purchase-look-alike:200:"]
        {
            assert!(bad.parse::<DataSource>().is_err(), "{bad}");
        }
    }
}
