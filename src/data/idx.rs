//! IDX files, the form in which MNIST and Fashion-MNIST are published: a magic number, big-endian sizes,
//! then unsigned bytes. Plain or gzip.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use super::{DataError, Dataset, Rows};

/// More than this many bytes are not unpacked from one file (a gzip file can grow a thousandfold).
const MAX_UNPACKED_BYTES: u64 = 1 << 31;

/// The names of the four files, without `.gz`.
pub(super) const STEMS: [&str; 4] =
    ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"];

/// An IDX array: sizes and unsigned bytes, borrowed from the file's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idx<'a> {
    /// The size of each dimension, rows first.
    pub dims: Vec<usize>,
    /// The values, as many as the product of `dims`.
    pub values: &'a [u8],
}

/// What is wrong with the bytes of an IDX file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}, got {got}")]
pub struct IdxError {
    /// What was expected.
    pub expected: String,
    /// What was found.
    pub got: String,
}

impl IdxError {
    fn new(expected: impl Into<String>, got: impl Into<String>) -> Self {
        Self { expected: expected.into(), got: got.into() }
    }
}

/// Reads the bytes of one unpacked IDX file: `00 00 08 n`, then `n` sizes of four bytes (big-endian), then
/// the values.
///
/// # Errors
///
/// When the magic number, the type of the values (only unsigned bytes), the sizes or the length do not fit.
/// Any bytes may be given: nothing is allocated beyond the list of at most 255 sizes.
pub fn parse_idx(bytes: &[u8]) -> Result<Idx<'_>, IdxError> {
    let Some((magic, rest)) = bytes.split_first_chunk::<4>() else {
        return Err(IdxError::new("an IDX magic number of 4 bytes", format!("{} bytes in all", bytes.len())));
    };
    let [0, 0, 8, n_dims @ 1..=255] = *magic else {
        return Err(IdxError::new("an IDX magic number 00 00 08 n with n at least 1", format!("{magic:02x?}")));
    };
    let header = 4 * usize::from(n_dims);
    if rest.len() < header {
        return Err(IdxError::new(format!("{header} bytes of sizes"), format!("{}", rest.len())));
    }
    let (sizes, values) = rest.split_at(header);
    let dims: Vec<usize> =
        sizes.chunks_exact(4).map(|size| u32::from_be_bytes([size[0], size[1], size[2], size[3]]) as usize).collect();
    match dims.iter().try_fold(1usize, |product, &dim| product.checked_mul(dim)) {
        Some(n_values) if n_values == values.len() => Ok(Idx { dims, values }),
        Some(n_values) => {
            Err(IdxError::new(format!("{n_values} values for sizes {dims:?}"), format!("{} bytes", values.len())))
        }
        None => Err(IdxError::new("sizes whose product can be counted", format!("{dims:?}"))),
    }
}

/// Loads `train` then `t10k`. Classes are named by their numbers unless names are given.
pub(super) fn load(dir: &Path, names: Option<Vec<String>>) -> Result<Dataset, DataError> {
    let mut image_size = None;
    let (mut labels, mut pixels) = (Vec::new(), Vec::new());
    for part in ["train", "t10k"] {
        let (path, bytes) = read(dir, &format!("{part}-images-idx3-ubyte"))?;
        let images = parse(&path, &bytes)?;
        let &[n_images, height, width] = images.dims.as_slice() else {
            return Err(DataError::bad_file(&path, "3 sizes (rows, height, width)", format!("{:?}", images.dims)));
        };
        if height * width == 0 || image_size.is_some_and(|size| size != (height, width)) {
            let expected = image_size.map_or("images of at least one pixel".to_owned(), |size| format!("{size:?}"));
            return Err(DataError::bad_file(&path, expected, format!("{height} x {width}")));
        }
        image_size = Some((height, width));
        pixels.extend_from_slice(images.values);

        let (path, bytes) = read(dir, &format!("{part}-labels-idx1-ubyte"))?;
        let given = parse(&path, &bytes)?;
        if given.dims != [n_images] {
            return Err(DataError::bad_file(&path, format!("{n_images} labels"), format!("sizes {:?}", given.dims)));
        }
        if let Some(names) = &names
            && let Some(row) = given.values.iter().position(|&label| usize::from(label) >= names.len())
        {
            let expected = format!("labels below {}", names.len());
            return Err(DataError::bad_file(&path, expected, format!("a larger one in row {row}")));
        }
        labels.extend(given.values.iter().map(|&label| u32::from(label)));
    }
    let n_classes = labels.iter().max().map_or(0, |&label| label as usize + 1);
    let is_named = names.is_some();
    let class_names = names.unwrap_or_else(|| (0..n_classes).map(|label| label.to_string()).collect());
    if labels.is_empty() || class_names.len() < 2 {
        let got = format!("{} rows of {n_classes} classes", labels.len());
        return Err(DataError::bad_file(dir, "rows of at least 2 classes", got));
    }
    let (height, width) = image_size.expect("both parts were read");
    Ok(Dataset { row_shape: vec![1, height, width], class_names, is_named, labels, rows: Rows::U8(pixels) })
}

fn parse<'a>(path: &Path, bytes: &'a [u8]) -> Result<Idx<'a>, DataError> {
    parse_idx(bytes).map_err(|error| DataError::bad_file(path, error.expected, error.got))
}

/// The unpacked bytes of `dir/stem.gz`, or of `dir/stem` where that does not exist.
fn read(dir: &Path, stem: &str) -> Result<(PathBuf, Vec<u8>), DataError> {
    let packed = dir.join(format!("{stem}.gz"));
    let (path, file) = match File::open(&packed) {
        Ok(file) => (packed, file),
        Err(_) => {
            let plain = dir.join(stem);
            let file = File::open(&plain).map_err(|error| DataError::io(&plain, error))?;
            (plain, file)
        }
    };
    let reader: Box<dyn Read> = if path.extension().is_some_and(|end| end == "gz") {
        Box::new(MultiGzDecoder::new(file))
    } else {
        Box::new(file)
    };
    let mut bytes = Vec::new();
    reader.take(MAX_UNPACKED_BYTES + 1).read_to_end(&mut bytes).map_err(|error| DataError::io(&path, error))?;
    if bytes.len() as u64 > MAX_UNPACKED_BYTES {
        return Err(DataError::bad_file(&path, format!("at most {MAX_UNPACKED_BYTES} bytes"), "more"));
    }
    Ok((path, bytes))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    fn idx(dims: &[u32], values: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, 0, 8, dims.len() as u8];
        dims.iter().for_each(|dim| bytes.extend(dim.to_be_bytes()));
        bytes.extend(values);
        bytes
    }

    fn folder(images: &[u8], labels: &[u8]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for part in ["train", "t10k"] {
            let packed = std::fs::File::create(dir.path().join(format!("{part}-images-idx3-ubyte.gz"))).unwrap();
            let mut encoder = flate2::write::GzEncoder::new(packed, flate2::Compression::fast());
            encoder.write_all(images).unwrap();
            encoder.finish().unwrap();
            std::fs::write(dir.path().join(format!("{part}-labels-idx1-ubyte")), labels).unwrap();
        }
        dir
    }

    #[test]
    fn packed_and_plain_files_are_read_train_first() {
        let dir = folder(&idx(&[2, 1, 2], &[0, 255, 51, 102]), &idx(&[2], &[1, 0]));
        let data = load(dir.path(), None).unwrap();
        assert_eq!((data.n_rows(), data.n_classes(), data.row_shape()), (4, 2, [1, 1, 2].as_slice()));
        assert_eq!(data.labels(), [1, 0, 1, 0]);
        assert_eq!(data.class_names(), ["0", "1"]);
        let batch = data.batch(&[1, 0]);
        assert_eq!(batch.shape(), [2, 1, 1, 2]);
        assert_eq!(batch.iter().copied().collect::<Vec<_>>(), [0.2, 0.4, 0.0, 1.0]);
        assert_eq!(data.digest().len(), 64);
    }

    #[test]
    fn labels_must_be_as_many_as_images_and_below_the_number_of_names() {
        let images = idx(&[2, 1, 1], &[0, 1]);
        let dir = folder(&images, &idx(&[3], &[1, 0, 1]));
        let error = load(dir.path(), None).unwrap_err().to_string();
        assert!(error.contains("train-labels") && error.contains("expected 2 labels, got sizes [3]"), "{error}");
        let dir = folder(&images, &idx(&[2], &[1, 2]));
        let error = load(dir.path(), Some(vec!["a".into(), "b".into()])).unwrap_err().to_string();
        assert!(error.contains("labels below 2") && error.contains("row 1"), "{error}");
    }

    #[test]
    fn a_size_that_does_not_fit_the_bytes_is_told_with_both_numbers() {
        assert_eq!(parse_idx(&idx(&[2, 2], &[1, 2, 3, 4])).unwrap().dims, [2, 2]);
        let error = parse_idx(&idx(&[2, 2], &[1, 2, 3])).unwrap_err().to_string();
        assert_eq!(error, "expected 4 values for sizes [2, 2], got 3 bytes");
        for bad in [idx(&[u32::MAX; 4], &[]), vec![], vec![0, 0, 8], vec![0, 0, 13, 1, 0, 0, 0, 0], idx(&[], &[])] {
            assert!(parse_idx(&bad).is_err());
        }
    }

    #[test]
    fn a_missing_folder_is_told_by_its_path() {
        let error = load(Path::new("no/such/folder"), None).unwrap_err().to_string();
        assert!(error.contains("no/such/folder/train-images-idx3-ubyte"), "{error}");
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = parse_idx(&bytes);
            let mut likely = vec![0, 0, 8];
            likely.extend(bytes);
            if let Ok(array) = parse_idx(&likely) {
                prop_assert_eq!(array.dims.iter().product::<usize>(), array.values.len());
            }
        }
    }
}
