//! Any source as a folder of NumPy arrays, row by row: what it writes can be read without being read into memory.

use std::fs::File;
use std::io::{BufWriter, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use super::gather::Take;
use super::labels::Labels;
use super::npy::{CLASSES_FILE, FEATURES_FILE, LABELS_FILE};
use super::table::{self, Column};
use super::values::as_byte;
use super::{DataError, DataSource, Dataset, Memory, Place, parquet};

/// How values are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Values {
    /// One byte each: pixels, or whole numbers from 0 to 255.
    Bytes,
    /// Four bytes each: any numbers (pixels divided by 255).
    Floats,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Converted {
    /// Rows.
    pub n_rows: usize,
    /// The shape of one.
    pub row_shape: Vec<usize>,
    /// Classes.
    pub n_classes: usize,
}

/// Writes the rows of `source` into the folder `dir`, which exists: `features.npy`, `labels.npy`, `classes.txt`. The
/// source `npy:DIR` reads them back as the same rows, with the same digest (pixels only where they are written as
/// [`Values::Bytes`]).
///
/// Tables of text and Parquet are read row by row: of them only the labels, four bytes a row, are kept in memory.
///
/// # Errors
///
/// As [`Dataset::load`]; [`DataError::BadFile`] for a value that is no byte where bytes were asked for;
/// [`DataError::Io`] where a file cannot be written. Files that were begun stay, without an array's header.
pub fn convert(source: &DataSource, dir: &Path, values: Values) -> Result<Converted, DataError> {
    let (row_shape, class_names, labels) = match source {
        DataSource::Csv(file) => {
            let label = Column::from(file.label.as_deref());
            convert_table(&file.path, &mut |take| table::scan_file(&file.path, label, take), dir, values)?
        }
        DataSource::Parquet(file) => {
            let label = file.label.as_deref();
            convert_table(&file.path, &mut |take| parquet::scan_file(&file.path, label, take), dir, values)?
        }
        _ => convert_dataset(source, dir, values)?,
    };
    let mut array = Array::create(&dir.join(LABELS_FILE))?;
    labels.iter().try_for_each(|label| array.write(&label.to_le_bytes()))?;
    array.finish("<u4", &[labels.len()])?;
    let path = dir.join(CLASSES_FILE);
    let names: String = class_names.iter().map(|name| format!("{name}\n")).collect();
    std::fs::write(&path, names).map_err(|error| DataError::io(&path, error))?;
    Ok(Converted { n_rows: labels.len(), row_shape, n_classes: class_names.len() })
}

/// Row shape, names of the classes, labels.
type Written = (Vec<usize>, Vec<String>, Vec<u32>);

/// Hands every row to what it is given; the answer is how many numbers a row has.
type Scan<'a> = dyn FnMut(&mut Take<'_>) -> Result<usize, DataError> + 'a;

fn convert_table(path: &Path, scan: &mut Scan<'_>, dir: &Path, values: Values) -> Result<Written, DataError> {
    let mut array = Array::create(&dir.join(FEATURES_FILE))?;
    let mut labels = Labels::default();
    let n_features = scan(&mut |place, label, numbers| {
        labels.push(label);
        array.write(&values.encode(path, place, numbers)?)
    })?;
    let n_rows = labels.n_rows();
    let (names, labels) = labels.finish();
    check_names(path, &names)?;
    array.finish(values.descr(), &[n_rows, n_features])?;
    if names.len() < 2 {
        let got = format!("{n_rows} rows of {} classes", names.len());
        return Err(DataError::bad_file(path, "rows of at least 2 classes", got));
    }
    Ok((vec![n_features], names, labels))
}

fn convert_dataset(source: &DataSource, dir: &Path, values: Values) -> Result<Written, DataError> {
    let dataset = Dataset::load_within(source, Memory::NONE)?;
    let shown = source.to_string();
    check_names(Path::new(&shown), dataset.class_names())?;
    let path = dir.join(FEATURES_FILE);
    let mut array = Array::create(&path)?;
    for row in 0..dataset.n_rows() {
        let batch = dataset.try_batch(&[row])?;
        let numbers = batch.as_slice().unwrap_or_default();
        if values == Values::Bytes && dataset.rows.are_pixels() {
            let pixels: Vec<u8> = numbers.iter().map(|&pixel| (pixel * 255.0).round() as u8).collect();
            array.write(&pixels)?;
        } else {
            array.write(&values.encode(Path::new(&shown), Place::Row(row), numbers)?)?;
        }
    }
    let shape = [&[dataset.n_rows()], dataset.row_shape()].concat();
    array.finish(values.descr(), &shape)?;
    Ok((dataset.row_shape, dataset.class_names, dataset.labels))
}

/// Names are written one a line: one that has a line break would read back as two.
fn check_names(path: &Path, names: &[String]) -> Result<(), DataError> {
    match names.iter().position(|name| name.contains(['\n', '\r'])) {
        None => Ok(()),
        Some(class) => {
            let expected = format!("names of classes without line breaks, to write to {CLASSES_FILE}");
            Err(DataError::bad_file(path, expected, format!("one in that of class {class}")))
        }
    }
}

impl Values {
    fn descr(self) -> &'static str {
        match self {
            Self::Bytes => "|u1",
            Self::Floats => "<f4",
        }
    }

    fn encode(self, path: &Path, place: Place, numbers: &[f32]) -> Result<Vec<u8>, DataError> {
        if self == Self::Floats {
            return Ok(numbers.iter().flat_map(|number| number.to_le_bytes()).collect());
        }
        let bytes: Vec<Option<u8>> = numbers.iter().map(|&number| as_byte(number)).collect();
        match bytes.iter().position(Option::is_none) {
            None => Ok(bytes.into_iter().flatten().collect()),
            Some(at) => {
                let expected = format!("a whole number from 0 to 255 at place {at} of the row (or --values f32)");
                Err(DataError::bad_row(path, place, expected, "another"))
            }
        }
    }
}

/// An `.npy` file as it grows: its header is written last, when the number of rows is known.
struct Array {
    path: PathBuf,
    file: BufWriter<File>,
}

/// Bytes of the header, so that the values start at a multiple of 64 as NumPy wants it.
const HEADER_BYTES: usize = 192;

impl Array {
    fn create(path: &Path) -> Result<Self, DataError> {
        let file = File::create(path).map_err(|error| DataError::io(path, error))?;
        let mut array = Self { path: path.to_owned(), file: BufWriter::with_capacity(1 << 20, file) };
        array.write(&[0; HEADER_BYTES])?;
        Ok(array)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), DataError> {
        self.file.write_all(bytes).map_err(|error| DataError::io(&self.path, error))
    }

    fn finish(mut self, descr: &str, shape: &[usize]) -> Result<(), DataError> {
        let sizes: String = shape.iter().map(|size| format!("{size}, ")).collect();
        let line = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({}), }}", sizes.trim_end());
        let length = HEADER_BYTES - 10;
        if line.len() >= length {
            return Err(DataError::bad_file(&self.path, "fewer sizes", format!("{}", shape.len())));
        }
        let header = format!("{line:<width$}\n", width = length - 1);
        let start = [b"\x93NUMPY\x01\x00".as_slice(), &(length as u16).to_le_bytes(), header.as_bytes()].concat();
        let end = |file: &mut BufWriter<File>| {
            file.seek(SeekFrom::Start(0))?;
            file.write_all(&start)?;
            file.flush()?;
            file.get_ref().sync_all()
        };
        end(&mut self.file).map_err(|error| DataError::io(&self.path, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(given: String) -> DataSource {
        given.parse().unwrap()
    }

    #[test]
    fn a_table_reads_back_as_the_same_rows_from_files() {
        let dir = tempfile::tempdir().unwrap();
        let table = dir.path().join("t.csv");
        for (text, values) in [
            ("cat,1,0\nant,255,7\ncat,0,0\n", Values::Bytes),
            ("cat,1,0\nant,255,7\ncat,0,0\n", Values::Floats),
            ("10,1.5,0\n9,-2,1e9\n", Values::Floats),
        ] {
            std::fs::write(&table, text).unwrap();
            let table = source(format!("csv:{}", table.display()));
            let converted = convert(&table, dir.path(), values).unwrap();
            let arrays = source(format!("npy:{}", dir.path().display()));
            let (before, after) =
                (Dataset::load(&table).unwrap(), Dataset::load_within(&arrays, Memory::NONE).unwrap());
            assert_eq!(converted.n_rows, before.n_rows());
            assert_eq!(after.digest(), before.digest());
            assert_eq!(after.class_names(), before.class_names());
            assert!(after.check_names(before.class_names()).is_ok());
            assert_eq!(after.batch(&[1, 0]), before.batch(&[1, 0]));
            assert_eq!(Dataset::load(&arrays).unwrap().digest(), before.digest());
        }
    }

    #[test]
    fn a_name_with_a_line_break_is_refused_and_not_written_as_two() {
        let dir = tempfile::tempdir().unwrap();
        let table = dir.path().join("t.csv");
        for break_ in ["\n", "\r"] {
            std::fs::write(&table, format!("\"ca{break_}t\",1\nant,2\n")).unwrap();
            let table = source(format!("csv:{}", table.display()));
            let error = convert(&table, dir.path(), Values::Floats).unwrap_err().to_string();
            assert!(error.contains("without line breaks") && error.contains("class 1"), "{error}");
            assert!(Dataset::load(&source(format!("npy:{}", dir.path().display()))).is_err());
        }
    }

    #[test]
    fn pixels_stay_pixels() {
        let dir = tempfile::tempdir().unwrap();
        for class in ["a", "b"] {
            std::fs::create_dir(dir.path().join(class)).unwrap();
            let pixels = (0..12).map(|pixel| pixel * 21 + class.as_bytes()[0] % 2).collect();
            let image = image::RgbImage::from_raw(2, 2, pixels).unwrap();
            image.save(dir.path().join(class).join("0.png")).unwrap();
        }
        let folder = source(format!("folder:{}", dir.path().display()));
        convert(&folder, dir.path(), Values::Bytes).unwrap();
        let arrays = source(format!("npy:{}", dir.path().display()));
        for memory in [Memory::NONE, Memory::default()] {
            let after = Dataset::load_within(&arrays, memory).unwrap();
            assert_eq!(after.digest(), Dataset::load(&folder).unwrap().digest());
            assert_eq!(after.row_shape(), [3, 2, 2]);
        }
    }

    #[test]
    fn a_value_that_is_no_byte_is_told_with_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let table = dir.path().join("t.csv");
        std::fs::write(&table, "a,1,2\nb,1,256\n").unwrap();
        let table = source(format!("csv:{}", table.display()));
        let error = convert(&table, dir.path(), Values::Bytes).unwrap_err().to_string();
        assert!(error.ends_with("t.csv, line 2: expected a whole number from 0 to 255 at place 1 of the row (or --values f32), got another"), "{error}");
        let arrays = source(format!("npy:{}", dir.path().display()));
        assert!(Dataset::load(&arrays).is_err(), "what was begun is no array");
    }
}
