//! CIFAR-10 in its published binary format: six files of records, one label byte and 3,072 bytes of pixels each
//! (red, green, blue, each 32 rows of 32). What training and what test data was stays in order: the five training
//! files, then the test file.

use std::fs::File;
use std::io::{BufReader, Read as _};
use std::path::Path;

use super::element::Element;
use super::stored::{Segment, Stored};
use super::values::Rows;
use super::{Classes, DataError, Dataset, Memory, Place};

/// The files with rows, in order.
pub(super) const FILES: [&str; 6] = [
    "data_batch_1.bin",
    "data_batch_2.bin",
    "data_batch_3.bin",
    "data_batch_4.bin",
    "data_batch_5.bin",
    "test_batch.bin",
];

/// The file with the names of the classes.
pub(super) const NAMES_FILE: &str = "batches.meta.txt";

const NAMES: [&str; 10] = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];
const ROW_SHAPE: [usize; 3] = [3, 32, 32];
const N_PIXELS: usize = 3 * 32 * 32;
const RECORD: usize = 1 + N_PIXELS;

/// Loads the six files; the names of the classes from `batches.meta.txt`, where that is.
pub(super) fn load(dir: &Path, memory: Memory) -> Result<Dataset, DataError> {
    let mut files = Vec::new();
    for name in FILES {
        let path = dir.join(name);
        let file = File::open(&path).map_err(|error| DataError::io(&path, error))?;
        let n_bytes = file.metadata().map_err(|error| DataError::io(&path, error))?.len();
        files.push((path, file, n_bytes));
    }
    let total: u64 = files.iter().map(|(_, _, n_bytes)| n_bytes).sum();
    let is_kept = memory.holds(total);
    let (mut labels, mut pixels, mut segments) = (Vec::new(), Vec::new(), Vec::new());
    for (path, file, n_bytes) in files {
        let n_rows = check_length(&path, n_bytes)?;
        let mut reader = BufReader::with_capacity(1 << 20, &file);
        let mut record = [0; RECORD];
        for row in 0..n_rows {
            reader.read_exact(&mut record).map_err(|error| DataError::io(&path, error))?;
            push(&path, row, &record, &mut labels, is_kept.then_some(&mut pixels))?;
        }
        segments.push(Segment { path, file, offset: 0, n_rows, skip: 1 });
    }
    let rows =
        if is_kept { Rows::Pixels(pixels) } else { Rows::Stored(Stored::new(segments, Element::PIXEL, N_PIXELS)?) };
    Dataset::checked(ROW_SHAPE.to_vec(), Classes::named(names(dir)?), labels, rows)
}

/// Reads the bytes of one file.
///
/// # Errors
///
/// When the length is not that of whole records, or a label is not below 10. Any bytes may be given.
pub fn parse_cifar10(bytes: &[u8]) -> Result<Dataset, DataError> {
    let path = Path::new("cifar10");
    check_length(path, bytes.len() as u64)?;
    let (mut labels, mut pixels) = (Vec::new(), Vec::new());
    for (row, record) in bytes.as_chunks().0.iter().enumerate() {
        push(path, row, record, &mut labels, Some(&mut pixels))?;
    }
    Dataset::checked(
        ROW_SHAPE.to_vec(),
        Classes::named(NAMES.map(str::to_owned).to_vec()),
        labels,
        Rows::Pixels(pixels),
    )
}

fn check_length(path: &Path, n_bytes: u64) -> Result<usize, DataError> {
    match n_bytes / RECORD as u64 {
        n_rows if n_rows > 0 && n_bytes.is_multiple_of(RECORD as u64) => Ok(n_rows as usize),
        _ => Err(DataError::bad_file(path, format!("records of {RECORD} bytes"), format!("{n_bytes} bytes"))),
    }
}

fn push(
    path: &Path,
    row: usize,
    record: &[u8; RECORD],
    labels: &mut Vec<u32>,
    pixels: Option<&mut Vec<u8>>,
) -> Result<(), DataError> {
    if usize::from(record[0]) >= NAMES.len() {
        let expected = format!("a label below {}", NAMES.len());
        return Err(DataError::bad_row(path, Place::Row(row), expected, "a larger one"));
    }
    labels.push(u32::from(record[0]));
    if let Some(pixels) = pixels {
        pixels.extend_from_slice(&record[1..]);
    }
    Ok(())
}

fn names(dir: &Path) -> Result<Vec<String>, DataError> {
    let path = dir.join(NAMES_FILE);
    if !path.exists() {
        return Ok(NAMES.map(str::to_owned).to_vec());
    }
    let text = std::fs::read_to_string(&path).map_err(|error| DataError::io(&path, error))?;
    let names: Vec<String> = text.lines().map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect();
    if names.len() != NAMES.len() {
        return Err(DataError::bad_file(&path, format!("{} names", NAMES.len()), format!("{}", names.len())));
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn folder(labels: [u8; 6]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, label) in FILES.iter().zip(labels) {
            let mut bytes = vec![label];
            bytes.extend((0..N_PIXELS).map(|at| label.wrapping_add(at as u8)));
            std::fs::write(dir.path().join(name), bytes).unwrap();
        }
        dir
    }

    #[test]
    fn training_files_come_first_and_planes_lie_one_after_the_other() {
        let dir = folder([3, 1, 4, 1, 5, 9]);
        let data = load(dir.path(), Memory::default()).unwrap();
        assert_eq!((data.labels(), data.row_shape()), ([3, 1, 4, 1, 5, 9].as_slice(), ROW_SHAPE.as_slice()));
        assert_eq!(data.class_names()[9], "truck");
        let batch = data.batch(&[5]);
        assert_eq!(batch.shape(), [1, 3, 32, 32]);
        assert_eq!(
            (batch[[0, 0, 0, 0]], batch[[0, 0, 1, 0]], batch[[0, 1, 0, 1]]),
            (9. / 255., 41. / 255., 10. / 255.)
        );
        std::fs::write(dir.path().join(NAMES_FILE), "a\nb\nc\nd\ne\nf\ng\nh\ni\nj\n\n").unwrap();
        assert_eq!(load(dir.path(), Memory::default()).unwrap().class_names()[9], "j");
        std::fs::write(dir.path().join(NAMES_FILE), "a\n").unwrap();
        assert!(load(dir.path(), Memory::default()).unwrap_err().to_string().contains("expected 10 names, got 1"));
    }

    #[test]
    fn rows_in_files_are_those_in_memory() {
        let dir = folder([3, 1, 4, 1, 5, 9]);
        let (kept, stored) = (load(dir.path(), Memory::default()).unwrap(), load(dir.path(), Memory::NONE).unwrap());
        assert!(matches!(stored.rows, Rows::Stored(_)));
        assert_eq!(kept.digest(), stored.digest());
        assert_eq!(kept.batch(&[2, 0, 5]), stored.batch(&[2, 0, 5]));
    }

    #[test]
    fn a_bad_label_is_told_with_its_row_and_a_cut_file_with_its_length() {
        let dir = folder([0; 6]);
        std::fs::write(dir.path().join(FILES[1]), vec![10; 2 * RECORD]).unwrap();
        let error = load(dir.path(), Memory::default()).unwrap_err().to_string();
        assert!(error.ends_with("data_batch_2.bin, row 0: expected a label below 10, got a larger one"), "{error}");
        std::fs::write(dir.path().join(FILES[1]), vec![1; RECORD + 1]).unwrap();
        let error = load(dir.path(), Memory::NONE).unwrap_err().to_string();
        assert!(error.ends_with("data_batch_2.bin: expected records of 3073 bytes, got 3074 bytes"), "{error}");
        std::fs::remove_file(dir.path().join(FILES[5])).unwrap();
        assert!(matches!(load(dir.path(), Memory::default()), Err(DataError::Io { .. })));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(start in proptest::collection::vec(any::<u8>(), 0..40), n in 0usize..3) {
            let _ = parse_cifar10(&start);
            let mut bytes = start;
            bytes.resize(n * RECORD, 3);
            prop_assert_eq!(parse_cifar10(&bytes).is_ok(), n > 0 && bytes[0] < 10);
        }
    }
}
