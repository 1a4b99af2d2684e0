//! NumPy's `.npy` arrays and `.npz` archives of them: one array with the rows, one with their labels.
//!
//! The header of an `.npy` file is one line of a fixed form, read here; the crates that read it parse any Python
//! literal, which brings a grammar, big numbers and a guard for the stack along.

mod header;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{BufReader, Cursor, Read, Seek};
use std::path::{Path, PathBuf};

use self::header::Header;
use super::element::{Element, Kind};
use super::labels::Labels;
use super::stored::{Segment, Stored, not_finite};
use super::values::{Numbers, Rows};
use super::{Classes, DataError, Dataset, Memory, Place};

/// More than this many bytes are not unpacked from one compressed array.
const MAX_UNPACKED_BYTES: u64 = 1 << 34;
/// The files of a folder that [`load_folder`] reads and `sordino data convert` writes.
pub(super) const FEATURES_FILE: &str = "features.npy";
pub(super) const LABELS_FILE: &str = "labels.npy";
/// One name a line, in the order of the labels.
pub(super) const CLASSES_FILE: &str = "classes.txt";
/// The files that a conversion writes: rows, labels, names of the classes.
pub const FILES: [&str; 3] = [FEATURES_FILE, LABELS_FILE, CLASSES_FILE];
/// The names of the two arrays of an archive that are tried where none is given.
const FEATURES_NAMES: [&str; 3] = ["features", "x", "X"];
const LABELS_NAMES: [&str; 3] = ["labels", "y", "Y"];

/// Reads an array of rows and one of labels from two files.
pub(super) fn load(
    features: &Path,
    labels: &Path,
    names: Option<Classes>,
    memory: Memory,
) -> Result<Dataset, DataError> {
    let labels = Array::open(labels)?.labels(names)?;
    join(Array::open(features)?, labels, memory)
}

/// Reads `features.npy`, `labels.npy` and, where it is there, `classes.txt` of a folder.
pub(super) fn load_folder(dir: &Path, memory: Memory) -> Result<Dataset, DataError> {
    let path = dir.join(CLASSES_FILE);
    let names = if path.exists() {
        let text = std::fs::read_to_string(&path).map_err(|error| DataError::io(&path, error))?;
        Some(Classes::named(text.lines().map(str::to_owned).collect()))
    } else {
        None
    };
    load(&dir.join(FEATURES_FILE), &dir.join(LABELS_FILE), names, memory)
}

/// Reads two arrays of an archive, by name or by their usual names.
pub(super) fn load_archive(
    path: &Path,
    features: Option<&str>,
    labels: Option<&str>,
    names: Option<Classes>,
    memory: Memory,
) -> Result<Dataset, DataError> {
    let open = || File::open(path).map_err(|error| DataError::io(path, error));
    let mut archive = archive(path, open()?)?;
    let (features, labels) =
        (find(path, &archive, features, &FEATURES_NAMES)?, find(path, &archive, labels, &LABELS_NAMES)?);
    let labels = Entry::find(path, &mut archive, &labels)?.array(MAX_UNPACKED_BYTES, None)?.labels(names)?;
    let entry = Entry::find(path, &mut archive, &features)?;
    let place = entry.stored_at.map(|offset| Ok::<_, DataError>((open()?, offset))).transpose()?;
    join(entry.array(MAX_UNPACKED_BYTES, place)?, labels, memory)
}

/// Reads two arrays, of rows and of labels, from bytes, which may be any.
///
/// # Errors
///
/// [`DataError`] for what does not fit the format.
pub fn parse_npy(features: &[u8], labels: &[u8]) -> Result<Dataset, DataError> {
    let labels = Array::new("labels".into(), Box::new(labels), None)?.labels(None)?;
    join(Array::new("features".into(), Box::new(features), None)?, labels, Memory::default())
}

/// Reads an archive from bytes, which may be any; at most 16 MiB of each array are unpacked.
///
/// # Errors
///
/// [`DataError`] for what does not fit the format.
pub fn parse_npz(bytes: &[u8]) -> Result<Dataset, DataError> {
    const MAX_BYTES: u64 = 16 << 20;
    let path = Path::new("npz");
    let mut archive = archive(path, Cursor::new(bytes))?;
    let (features, labels) = (find(path, &archive, None, &FEATURES_NAMES)?, find(path, &archive, None, &LABELS_NAMES)?);
    let labels = Entry::find(path, &mut archive, &labels)?.array(MAX_BYTES, None)?.labels(None)?;
    join(Entry::find(path, &mut archive, &features)?.array(MAX_BYTES, None)?, labels, Memory::default())
}

/// An array as it lies in an archive.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedArray {
    /// Its name, without `.npy`.
    pub name: String,
    /// Its sizes.
    pub shape: Vec<usize>,
    /// Its values, row-major.
    pub values: Vec<f64>,
}

/// Reads every array of numbers of an archive, in f64.
///
/// # Errors
///
/// [`DataError`] for what cannot be read, or holds anything but numbers.
pub fn read_arrays(path: &Path) -> Result<Vec<NamedArray>, DataError> {
    let file = File::open(path).map_err(|error| DataError::io(path, error))?;
    let mut archive = archive(path, file)?;
    let names: Vec<String> = archive.file_names().map(str::to_owned).collect();
    let mut arrays = Vec::with_capacity(names.len());
    for entry in names {
        let (shape, values) = Entry::find(path, &mut archive, &entry)?.array(MAX_UNPACKED_BYTES, None)?.numbers()?;
        arrays.push(NamedArray { name: entry.trim_end_matches(".npy").to_owned(), shape, values });
    }
    Ok(arrays)
}

/// Puts rows and labels together.
fn join(features: Array<'_>, labels: (Classes, Vec<u32>), memory: Memory) -> Result<Dataset, DataError> {
    let (classes, labels) = labels;
    let shown = features.shown.clone();
    let (row_shape, n_rows, rows) = features.rows(memory)?;
    if n_rows != labels.len() {
        return Err(DataError::bad_file(&shown, format!("{} rows, one a label", labels.len()), format!("{n_rows}")));
    }
    if classes.names.len() < 2 {
        let got = format!("{n_rows} rows of {} classes", classes.names.len());
        return Err(DataError::bad_file(&shown, "rows of at least 2 classes", got));
    }
    Dataset::checked(row_shape, classes, labels, rows)
}

fn archive<R: Read + Seek>(path: &Path, reader: R) -> Result<zip::ZipArchive<R>, DataError> {
    let wrong =
        |error: zip::result::ZipError| DataError::bad_file(path, "an archive of arrays (.npz)", error.to_string());
    zip::ZipArchive::new(reader).map_err(wrong)
}

/// The name of the entry that holds an array.
fn find<R: Read + Seek>(
    path: &Path,
    archive: &zip::ZipArchive<R>,
    given: Option<&str>,
    usual: &[&str],
) -> Result<String, DataError> {
    let wanted = given.map_or_else(|| usual.to_vec(), |name| vec![name]);
    let found = wanted.iter().map(|name| format!("{name}.npy")).find(|name| archive.index_for_name(name).is_some());
    found.ok_or_else(|| {
        let names: Vec<&str> = archive.file_names().take(12).map(|name| name.trim_end_matches(".npy")).collect();
        DataError::bad_file(path, format!("an array named {}", wanted.join(" or ")), format!("arrays {names:?}"))
    })
}

/// An array in an archive, not yet read.
struct Entry<'a, R: Read> {
    shown: PathBuf,
    file: zip::read::ZipFile<'a, R>,
    /// Where its bytes lie in the archive, where they are not packed.
    stored_at: Option<u64>,
}

impl<'a, R: Read + Seek> Entry<'a, R> {
    fn find(path: &Path, archive: &'a mut zip::ZipArchive<R>, name: &str) -> Result<Self, DataError> {
        let shown = path.join(name);
        let wrong = |error: zip::result::ZipError| {
            DataError::bad_file(path, "an array that can be unpacked", error.to_string())
        };
        let file = archive.by_name(name).map_err(wrong)?;
        let is_stored = file.compression() == zip::CompressionMethod::Stored && !file.encrypted();
        let stored_at = file.data_start().filter(|_| is_stored);
        Ok(Self { shown, file, stored_at })
    }

    fn array(self, max_bytes: u64, place: Option<(File, u64)>) -> Result<Array<'a>, DataError>
    where
        R: 'a,
    {
        Array::new(self.shown, Box::new(BufReader::with_capacity(1 << 16, self.file.take(max_bytes))), place)
    }
}

/// An array, its header read, the bytes of its values still to come.
struct Array<'a> {
    /// The file, and for an archive the name in it.
    shown: PathBuf,
    header: Header,
    values: Box<dyn Read + 'a>,
    /// The file and the place in it where the values lie as they are, where they do.
    place: Option<(File, u64)>,
}

impl<'a> Array<'a> {
    fn open(path: &Path) -> Result<Self, DataError> {
        let file = File::open(path).map_err(|error| DataError::io(path, error))?;
        let place = file.try_clone().map_err(|error| DataError::io(path, error))?;
        Self::new(path.to_owned(), Box::new(BufReader::with_capacity(1 << 20, file)), Some((place, 0)))
    }

    /// Takes the bytes of an array; `place` is where the first of them lies in a file.
    fn new(shown: PathBuf, mut bytes: Box<dyn Read + 'a>, place: Option<(File, u64)>) -> Result<Self, DataError> {
        let header = Header::read(&mut bytes).map_err(|error| error.in_file(&shown))?;
        let place = place.map(|(file, start)| (file, start + header.n_bytes));
        Ok(Self { shown, header, values: bytes, place })
    }

    /// All values in f64, with their shape. Memory grows with the bytes that come, whatever the header promises.
    fn numbers(mut self) -> Result<(Vec<usize>, Vec<f64>), DataError> {
        let shape = self.header.shape.clone();
        let n_rows = shape.first().copied().unwrap_or(1);
        let width: usize = shape.iter().skip(1).product();
        let mut values = Vec::new();
        for row in 0..n_rows {
            let bytes = self.next(row, width * self.header.element.n_bytes())?;
            self.header.element.decode_wide(&bytes, &mut values);
        }
        Ok((shape, values))
    }

    /// The rows: their shape, how many there are, their values.
    fn rows(self, memory: Memory) -> Result<(Vec<usize>, usize, Rows), DataError> {
        let (n_rows, row_shape) = match self.header.shape.split_first() {
            Some((&n_rows, row_shape)) if !row_shape.is_empty() => (n_rows, row_shape.to_vec()),
            _ => {
                let got = format!("sizes {:?}", self.header.shape);
                return Err(DataError::bad_file(&self.shown, "at least 2 sizes: rows, then the shape of a row", got));
            }
        };
        let width: usize = row_shape.iter().product();
        if width == 0 {
            return Err(DataError::bad_file(&self.shown, "rows of at least one value", format!("shape {row_shape:?}")));
        }
        let mut element = self.header.element;
        if element.kind == Kind::U8 && row_shape.len() > 1 {
            element.kind = Kind::Pixel;
        }
        let in_memory = n_rows.saturating_mul(width).saturating_mul(element.n_bytes_in_memory());
        let rows = match self.place {
            Some((file, offset)) if !memory.holds(in_memory as u64) => {
                let segment = Segment { path: self.shown, file, offset, n_rows, skip: 0 };
                Rows::Stored(Stored::new(vec![segment], element, width)?)
            }
            _ => self.kept(element, n_rows, width)?,
        };
        Ok((row_shape, n_rows, rows))
    }

    /// The values in memory. It grows with the bytes that come, whatever the header promises.
    fn kept(mut self, element: Element, n_rows: usize, width: usize) -> Result<Rows, DataError> {
        let (mut pixels, mut numbers, mut row_numbers) = (Vec::new(), Numbers::default(), Vec::new());
        let row_bytes = width.saturating_mul(element.n_bytes());
        for row in 0..n_rows {
            let bytes = self.next(row, row_bytes)?;
            if element.is_pixel() {
                pixels.extend_from_slice(&bytes);
                continue;
            }
            row_numbers.clear();
            element.decode(&bytes, &mut row_numbers);
            if let Some(column) = row_numbers.iter().position(|number| !number.is_finite()) {
                return Err(not_finite(&self.shown, row, column));
            }
            numbers.extend(&row_numbers);
        }
        Ok(if element.is_pixel() { Rows::Pixels(pixels) } else { Rows::Numbers(numbers) })
    }

    /// The bytes of the next row.
    fn next(&mut self, row: usize, row_bytes: usize) -> Result<Vec<u8>, DataError> {
        let mut bytes = Vec::new();
        (&mut self.values)
            .take(row_bytes as u64)
            .read_to_end(&mut bytes)
            .map_err(|error| DataError::io(&self.shown, error))?;
        if bytes.len() == row_bytes {
            return Ok(bytes);
        }
        let expected = format!("{} rows of {row_bytes} bytes", self.header.shape.first().unwrap_or(&1));
        Err(DataError::bad_file(&self.shown, expected, format!("an end in row {row}")))
    }

    /// The classes, and each row's. Labels are whole numbers, one a row, or rows that hold a 1 at their class and 0
    /// elsewhere.
    fn labels(mut self, names: Option<Classes>) -> Result<(Classes, Vec<u32>), DataError> {
        let (n_rows, width) = match self.header.shape[..] {
            [n_rows] => (n_rows, 1),
            [n_rows, width] if width > 0 => (n_rows, width),
            _ => {
                let got = format!("sizes {:?}", self.header.shape);
                return Err(DataError::bad_file(&self.shown, "labels: one size, or two with one place a class", got));
            }
        };
        let element = self.header.element;
        let mut words = Labels::default();
        let mut places = Vec::new();
        let mut whole = Vec::new();
        for row in 0..n_rows {
            let bytes = self.next(row, width.saturating_mul(element.n_bytes()))?;
            whole.clear();
            element.decode_whole(&bytes, &mut whole);
            let bad = |expected: &str| DataError::bad_row(&self.shown, Place::Row(row), expected, "something else");
            match whole[..] {
                [label] => {
                    let label = label.ok_or_else(|| bad("a whole number as its label"))?;
                    if let Some(names) = &names {
                        let place = u32::try_from(label).ok().filter(|&place| (place as usize) < names.names.len());
                        places.push(place.ok_or_else(|| bad("a label below the number of names"))?);
                    } else {
                        words.push(&label.to_string());
                    }
                }
                _ => {
                    let ones = whole.iter().filter(|&&value| value == Some(1)).count();
                    let zeros = whole.iter().filter(|&&value| value == Some(0)).count();
                    let place =
                        whole.iter().position(|&value| value == Some(1)).filter(|_| ones == 1 && zeros == width - 1);
                    places.push(place.ok_or_else(|| bad("a single 1 among zeros"))? as u32);
                }
            }
        }
        match names {
            Some(names) if width > 1 && names.names.len() != width => {
                let expected = format!("{} places a label, one a class", names.names.len());
                Err(DataError::bad_file(&self.shown, expected, format!("{width}")))
            }
            Some(names) => Ok((names, places)),
            None if width > 1 => Ok((Classes::numbered(width), places)),
            None => {
                let (names, labels) = words.finish();
                Ok((Classes { names, is_named: false }, labels))
            }
        }
    }
}
