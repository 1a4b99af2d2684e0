//! IDX files, the form in which MNIST and Fashion-MNIST are published: a magic number, big-endian sizes,
//! then unsigned bytes. Plain or gzip.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use super::element::Element;
use super::stored::{Segment, Stored};
use super::values::Rows;
use super::{Classes, DataError, Dataset, FormatError, Memory, Place};

/// More than this many bytes are not unpacked from one file (a gzip file can grow a thousandfold).
const MAX_UNPACKED_BYTES: u64 = 1 << 31;
/// Magic number and at most 255 sizes.
const MAX_HEADER_BYTES: u64 = 4 + 4 * 255;

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

/// Reads the bytes of one unpacked IDX file: `00 00 08 n`, then `n` sizes of four bytes (big-endian), then
/// the values.
///
/// # Errors
///
/// When the magic number, the type of the values (only unsigned bytes), the sizes or the length do not fit.
/// Any bytes may be given: nothing is allocated beyond the list of at most 255 sizes.
pub fn parse_idx(bytes: &[u8]) -> Result<Idx<'_>, FormatError> {
    let (dims, values) = parse_header(bytes)?;
    check_length(&dims, values.len() as u64)?;
    Ok(Idx { dims, values })
}

/// The sizes, and what follows them.
fn parse_header(bytes: &[u8]) -> Result<(Vec<usize>, &[u8]), FormatError> {
    let Some((magic, rest)) = bytes.split_first_chunk::<4>() else {
        return Err(FormatError::new("an IDX magic number of 4 bytes", format!("{} bytes in all", bytes.len())));
    };
    let [0, 0, 8, n_dims @ 1..=255] = *magic else {
        return Err(FormatError::new("an IDX magic number 00 00 08 n with n at least 1", format!("{magic:02x?}")));
    };
    let header = 4 * usize::from(n_dims);
    if rest.len() < header {
        return Err(FormatError::new(format!("{header} bytes of sizes"), format!("{}", rest.len())));
    }
    let (sizes, values) = rest.split_at(header);
    let dims = sizes.as_chunks().0.iter().map(|&size| u32::from_be_bytes(size) as usize).collect();
    Ok((dims, values))
}

fn check_length(dims: &[usize], n_bytes: u64) -> Result<(), FormatError> {
    match dims.iter().try_fold(1u64, |product, &dim| product.checked_mul(dim as u64)) {
        Some(n_values) if n_values == n_bytes => Ok(()),
        Some(n_values) => {
            Err(FormatError::new(format!("{n_values} values for sizes {dims:?}"), format!("{n_bytes} bytes")))
        }
        None => Err(FormatError::new("sizes whose product can be counted", format!("{dims:?}"))),
    }
}

/// Loads `train` then `t10k`. Classes are named by their numbers unless names are given.
pub(super) fn load(dir: &Path, names: Option<Vec<String>>, memory: Memory) -> Result<Dataset, DataError> {
    let mut images = Images::of(dir, memory);
    let mut labels = Vec::new();
    for part in PARTS {
        let n_images = images.read(dir, part)?;
        let (path, bytes) = read(dir, &format!("{part}-labels-idx1-ubyte"))?;
        let given = parse_idx(&bytes).map_err(|error| error.in_file(&path))?;
        if given.dims != [n_images] {
            return Err(DataError::bad_file(&path, format!("{n_images} labels"), format!("sizes {:?}", given.dims)));
        }
        if let Some(names) = &names
            && let Some(row) = given.values.iter().position(|&label| usize::from(label) >= names.len())
        {
            let expected = format!("a label below {}", names.len());
            return Err(DataError::bad_row(&path, Place::Row(row), expected, "a larger one"));
        }
        labels.extend(given.values.iter().map(|&label| u32::from(label)));
    }
    let n_classes = labels.iter().max().map_or(0, |&label| label as usize + 1);
    let classes = names.map_or_else(|| Classes::numbered(n_classes), Classes::named);
    if labels.is_empty() || classes.names.len() < 2 {
        let got = format!("{} rows of {n_classes} classes", labels.len());
        return Err(DataError::bad_file(dir, "rows of at least 2 classes", got));
    }
    let (row_shape, rows) = images.finish()?;
    Dataset::checked(row_shape, classes, labels, rows)
}

/// The two parts, in order.
const PARTS: [&str; 2] = ["train", "t10k"];

/// The images so far.
struct Images {
    size: Option<(usize, usize)>,
    pixels: Pixels,
}

enum Pixels {
    Kept(Vec<u8>),
    Stored(Vec<Segment>),
}

impl Images {
    /// Images are left in their files where both are plain and larger than the memory.
    fn of(dir: &Path, memory: Memory) -> Self {
        let lengths = PARTS.map(|part| {
            let (path, is_packed) = find(dir, &format!("{part}-images-idx3-ubyte"));
            std::fs::metadata(path).ok().filter(|_| !is_packed).map(|found| found.len())
        });
        let total = lengths.into_iter().sum::<Option<u64>>();
        let is_kept = total.is_none_or(|total| memory.holds(total));
        Self { size: None, pixels: if is_kept { Pixels::Kept(Vec::new()) } else { Pixels::Stored(Vec::new()) } }
    }

    /// Takes one part; the answer is its number of images.
    fn read(&mut self, dir: &Path, part: &str) -> Result<usize, DataError> {
        let stem = format!("{part}-images-idx3-ubyte");
        match &mut self.pixels {
            Pixels::Kept(pixels) => {
                let (path, bytes) = read(dir, &stem)?;
                let images = parse_idx(&bytes).map_err(|error| error.in_file(&path))?;
                pixels.extend_from_slice(images.values);
                self.check(&path, &images.dims)
            }
            Pixels::Stored(_) => {
                let (path, _) = find(dir, &stem);
                let wrong = |error| DataError::io(&path, error);
                let mut file = File::open(&path).map_err(wrong)?;
                let n_bytes = file.metadata().map_err(wrong)?.len();
                let mut start = Vec::new();
                (&mut file).take(MAX_HEADER_BYTES).read_to_end(&mut start).map_err(wrong)?;
                let (dims, after) = parse_header(&start).map_err(|error| error.in_file(&path))?;
                let offset = (start.len() - after.len()) as u64;
                check_length(&dims, n_bytes - offset.min(n_bytes)).map_err(|error| error.in_file(&path))?;
                let n_rows = self.check(&path, &dims)?;
                if let Pixels::Stored(segments) = &mut self.pixels {
                    segments.push(Segment { path, file, offset, n_rows, skip: 0 });
                }
                Ok(n_rows)
            }
        }
    }

    /// Checks that the images are of the size of the others; the answer is their number.
    fn check(&mut self, path: &Path, dims: &[usize]) -> Result<usize, DataError> {
        let &[n_images, height, width] = dims else {
            return Err(DataError::bad_file(path, "3 sizes (rows, height, width)", format!("{dims:?}")));
        };
        let size = *self.size.get_or_insert((height, width));
        if height * width == 0 || size != (height, width) {
            let expected = match size {
                (0, _) | (_, 0) => "images of at least one pixel".to_owned(),
                (height, width) => format!("{height} x {width}"),
            };
            return Err(DataError::bad_file(path, expected, format!("{height} x {width}")));
        }
        Ok(n_images)
    }

    fn finish(self) -> Result<(Vec<usize>, Rows), DataError> {
        let (height, width) = self.size.unwrap_or_default();
        let rows = match self.pixels {
            Pixels::Kept(pixels) => Rows::Pixels(pixels),
            Pixels::Stored(segments) => Rows::Stored(Stored::new(segments, Element::PIXEL, height * width)?),
        };
        Ok((vec![1, height, width], rows))
    }
}

/// `dir/stem.gz`, or `dir/stem` where that does not exist; and whether it is packed.
fn find(dir: &Path, stem: &str) -> (PathBuf, bool) {
    let packed = dir.join(format!("{stem}.gz"));
    if packed.exists() { (packed, true) } else { (dir.join(stem), false) }
}

/// The unpacked bytes of a file.
fn read(dir: &Path, stem: &str) -> Result<(PathBuf, Vec<u8>), DataError> {
    let (path, is_packed) = find(dir, stem);
    let file = File::open(&path).map_err(|error| DataError::io(&path, error))?;
    let reader: Box<dyn Read> = if is_packed { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
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
        let data = load(dir.path(), None, Memory::default()).unwrap();
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
        let error = load(dir.path(), None, Memory::default()).unwrap_err().to_string();
        assert!(error.contains("train-labels") && error.contains("expected 2 labels, got sizes [3]"), "{error}");
        let dir = folder(&images, &idx(&[2], &[1, 2]));
        let error = load(dir.path(), Some(vec!["a".into(), "b".into()]), Memory::default()).unwrap_err().to_string();
        assert!(error.contains("row 1: expected a label below 2"), "{error}");
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
    fn plain_images_may_stay_in_their_files() {
        let dir = folder(&idx(&[2, 1, 2], &[0, 255, 51, 102]), &idx(&[2], &[1, 0]));
        let kept = load(dir.path(), None, Memory::NONE).unwrap();
        assert!(matches!(kept.rows, Rows::Pixels(_)), "packed files are always unpacked into memory");
        for part in PARTS {
            let packed = dir.path().join(format!("{part}-images-idx3-ubyte.gz"));
            std::fs::remove_file(packed).unwrap();
            let plain = dir.path().join(format!("{part}-images-idx3-ubyte"));
            std::fs::write(plain, idx(&[2, 1, 2], &[0, 255, 51, 102])).unwrap();
        }
        let stored = load(dir.path(), None, Memory::NONE).unwrap();
        assert!(matches!(stored.rows, Rows::Stored(_)));
        assert_eq!(stored.digest(), kept.digest());
        assert_eq!(stored.batch(&[3, 0]), kept.batch(&[3, 0]));
        std::fs::write(dir.path().join("t10k-images-idx3-ubyte"), idx(&[2, 1, 2], &[0, 255, 51])).unwrap();
        let error = load(dir.path(), None, Memory::NONE).unwrap_err().to_string();
        assert!(error.ends_with("expected 4 values for sizes [2, 1, 2], got 3 bytes"), "{error}");
    }

    #[test]
    fn a_missing_folder_is_told_by_its_path() {
        let error = load(Path::new("no/such/folder"), None, Memory::NONE).unwrap_err().to_string();
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
