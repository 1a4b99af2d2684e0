//! Tables: one row a line, a label and numbers. Quoted or not, with a header line or without, plain or gzip.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read};
use std::path::Path;

use csv::{ReaderBuilder, StringRecord};
use flate2::read::MultiGzDecoder;

use super::gather::{Gathered, Take};
use super::{DataError, Dataset, Place};

/// More than this many bytes are not unpacked from one gzip file (it can grow a thousandfold).
const MAX_UNPACKED_BYTES: u64 = 1 << 34;

/// No line, and nothing between two quotes, is longer.
const MAX_LINE_BYTES: u64 = 64 << 20;

/// Put behind the last line. A reader of CSV takes the end of a file for a closing quote; where a quote stands open, this
/// ends up in its field.
const END: &str = "\n\u{3}end of the table\u{3}\n";

/// Where the label stands in a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Column<'a> {
    /// In the first column.
    First,
    /// In the column of this name in the header line, or, where this is a whole number, of this number from 1.
    Named(&'a str),
    /// Nowhere: every column is a number.
    None,
}

impl<'a> From<Option<&'a str>> for Column<'a> {
    fn from(given: Option<&'a str>) -> Self {
        given.map_or(Self::First, Self::Named)
    }
}

/// Loads a table from a file.
pub(super) fn load(path: &Path, label: Column<'_>) -> Result<Dataset, DataError> {
    read(path, open(path)?, label)
}

/// Hands every row of a file to `take`; the answer is how many numbers a row has.
pub(super) fn scan_file(path: &Path, label: Column<'_>, take: &mut Take<'_>) -> Result<usize, DataError> {
    scan(path, open(path)?, label, take)
}

/// Reads a table from bytes, which may be any: the label first, then numbers.
///
/// # Errors
///
/// [`DataError::BadRow`] for the first line that is not like the others.
pub fn parse_table(bytes: &[u8]) -> Result<Dataset, DataError> {
    read(Path::new("table"), bytes, Column::First)
}

/// The unpacked bytes of a file. What is gzip is told by its first two bytes: the published sets have no endings.
fn open(path: &Path) -> Result<Box<dyn Read>, DataError> {
    let file = File::open(path).map_err(|error| DataError::io(path, error))?;
    if file.metadata().is_ok_and(|found| found.is_dir()) {
        return Err(DataError::bad_file(path, "a file with a table", "a folder (for images: folder:DIR)"));
    }
    let mut file = BufReader::with_capacity(1 << 16, file);
    let is_packed = file.fill_buf().map_err(|error| DataError::io(path, error))?.starts_with(&[0x1f, 0x8b]);
    Ok(if is_packed { Box::new(MultiGzDecoder::new(file).take(MAX_UNPACKED_BYTES)) } else { Box::new(file) })
}

fn read(path: &Path, bytes: impl Read, label: Column<'_>) -> Result<Dataset, DataError> {
    let mut gathered = Gathered::default();
    let n_features = scan(path, bytes, label, &mut |_, label, numbers| {
        gathered.push(label, numbers);
        Ok(())
    })?;
    gathered.finish(path, n_features)
}

/// Bytes that are counted, and refused where a line takes too many.
struct Bounded<'a, R> {
    bytes: R,
    /// Since the last line ended, but for what is read ahead.
    of_line: &'a Cell<u64>,
}

impl<R: Read> Read for Bounded<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.of_line.get() > MAX_LINE_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a line is too long"));
        }
        let n_bytes = self.bytes.read(into)?;
        self.of_line.set(self.of_line.get() + n_bytes as u64);
        Ok(n_bytes)
    }
}

/// What is known after the first line.
struct Shape {
    n_fields: usize,
    /// The place of the label.
    label: Option<usize>,
    /// Of a header line, what stands in the label's place, which no row may bear; nothing where it was asked for by name.
    header: Option<String>,
}

/// Hands every row to `take`. Labels are whole numbers or names.
///
/// The first line is a header where the label's column is found by its name in it; else where no field is like a number,
/// that of the label included, and no row has the label that it has.
fn scan(path: &Path, bytes: impl Read, label: Column<'_>, take: &mut Take<'_>) -> Result<usize, DataError> {
    let of_line = Cell::new(0);
    let bytes = Bounded { bytes, of_line: &of_line }.chain(END.as_bytes());
    let mut reader = ReaderBuilder::new().has_headers(false).flexible(true).from_reader(bytes);
    let mut record = StringRecord::new();
    let mut shape: Option<Shape> = None;
    let mut numbers = Vec::new();
    loop {
        let line = reader.position().line();
        let more = reader.read_record(&mut record);
        let more = more.map_err(|error| unreadable(path, line, error, of_line.get() > MAX_LINE_BYTES))?;
        of_line.set(0);
        if !more || (record.len() == 1 && record[0] == *END.trim_matches('\n')) {
            break;
        }
        let line = Place::Line(record.position().map_or(line, csv::Position::line));
        if record.iter().next_back().is_some_and(|field| field.ends_with(END)) {
            return Err(DataError::bad_row(path, line, "a closing quote", "none up to the end"));
        }
        let is_first = shape.is_none();
        if is_first {
            shape = Some(Shape::of(path, &record, label)?);
        }
        let Some(Shape { n_fields, label, header }) = &shape else { continue };
        let (n_fields, label) = (*n_fields, *label);
        let fewest = if label.is_some() { 2 } else { 1 };
        if record.len() != n_fields || n_fields < fewest {
            let n_numbers = n_fields.max(fewest) - (fewest - 1);
            let expected = format!("{}{n_numbers} numbers", if label.is_some() { "a label and " } else { "" });
            return Err(DataError::bad_row(path, line, expected, format!("{} fields", record.len())));
        }
        if is_first && header.is_some() {
            continue;
        }
        let is_number = |at| label != Some(at);
        numbers.clear();
        for (at, field) in record.iter().enumerate().filter(|(at, _)| is_number(*at)) {
            numbers.push(number(field).ok_or_else(|| {
                let got = format!("{} characters that are not", field.chars().count());
                DataError::bad_row(path, line, format!("a finite number in column {}", at + 1), got)
            })?);
        }
        let label = label.map_or("", |at| record[at].trim());
        if header.as_deref().is_some_and(|header| !header.is_empty() && header == label) {
            let got = "a class that a row has too, and no number";
            return Err(DataError::bad_row(path, Place::Line(1), "a header line, or a row of numbers", got));
        }
        take(line, label, &numbers)?;
    }
    Ok(shape.map_or(0, |shape| shape.n_fields - usize::from(shape.label.is_some())))
}

/// What is wrong with a line that could not be read.
fn unreadable(path: &Path, line: u64, error: csv::Error, is_too_long: bool) -> DataError {
    let place = Place::Line(error.position().map_or(line, csv::Position::line));
    match error.into_kind() {
        csv::ErrorKind::Io(_) if is_too_long => {
            let expected = format!("a line of at most {} MiB", MAX_LINE_BYTES >> 20);
            DataError::bad_row(path, place, expected, "a longer one, or a quote that is not closed")
        }
        csv::ErrorKind::Io(error) => DataError::io(path, error),
        _ => DataError::bad_row(path, place, "a line of comma-separated UTF-8 text", "something else"),
    }
}

impl Shape {
    fn of(path: &Path, first: &StringRecord, label: Column<'_>) -> Result<Self, DataError> {
        let place = label_column(path, first, label)?;
        let is_named = matches!(label, Column::Named(name) if name.parse::<usize>().is_err());
        let of_label = place.map_or("", |at| first[at].trim());
        let mut others = first.iter().enumerate().filter(|(at, _)| place != Some(*at));
        let has_no_number = others.all(|(_, field)| !is_like_a_number(field)) && !is_like_a_number(of_label);
        let header = (is_named || has_no_number).then(|| if is_named { String::new() } else { of_label.to_owned() });
        Ok(Self { n_fields: first.len(), label: place, header })
    }
}

/// The place of the label, from the first line.
fn label_column(path: &Path, first: &StringRecord, label: Column<'_>) -> Result<Option<usize>, DataError> {
    let Column::Named(name) = label else { return Ok((label == Column::First).then_some(0)) };
    let found = match name.parse::<usize>() {
        Ok(number) => number.checked_sub(1).filter(|&at| at < first.len()),
        Err(_) => first.iter().position(|field| field.trim() == name),
    };
    found.map(Some).ok_or_else(|| {
        let expected =
            format!("a label column '{}' (a name of the header line, or a number from 1)", name.escape_debug());
        DataError::bad_row(path, Place::Line(1), expected, format!("{} fields, none of that name", first.len()))
    })
}

fn number(field: &str) -> Option<f32> {
    field.trim().parse().ok().filter(|number: &f32| number.is_finite())
}

/// Whether somebody meant a number: one that is not finite or too large for an `f32`, too.
fn is_like_a_number(field: &str) -> bool {
    field.trim().parse::<f64>().is_ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<Dataset, DataError> {
        read(Path::new("t.csv"), text.as_bytes(), Column::First)
    }

    #[test]
    fn quoted_number_labels_are_classes_in_their_order() {
        let data = parse("\"10\",0,1\n\"2\",1,0.5\n10,1,1\n").unwrap();
        assert_eq!(data.class_names(), ["2", "10"]);
        assert_eq!(data.labels(), [1, 0, 1]);
        assert_eq!(data.row_shape(), [2]);
        assert_eq!(data.batch(&[1]).iter().copied().collect::<Vec<_>>(), [1.0, 0.5]);
    }

    #[test]
    fn a_header_and_names_are_understood() {
        let data = parse("label,x,y\ncat,1,2\nant,3,4\n").unwrap();
        assert_eq!((data.n_rows(), data.class_names()), (2, ["ant".to_owned(), "cat".to_owned()].as_slice()));
        assert_eq!(data.labels(), [1, 0]);
    }

    #[test]
    fn a_first_row_with_a_wrong_number_is_no_header() {
        for (text, expected) in [
            ("a,x\na,1\nb,2\n", "line 1: expected a header line, or a row of numbers"),
            ("a,\nb,2\na,1\n", "line 1: expected a header line, or a row of numbers"),
            ("5,1e999\n5,1\n6,2\n", "line 1: expected a finite number in column 2"),
            ("5,x\n6,1\n7,2\n", "line 1: expected a finite number in column 2"),
            ("a,nan\na,1\nb,2\n", "line 1: expected a finite number in column 2"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
        assert_eq!(parse("kind,x\na,1\nb,2\n").unwrap().n_rows(), 2);
        let named = read(Path::new("t.csv"), &b"1,kind\n1,b\n2,kind\n"[..], Column::Named("kind")).unwrap();
        assert_eq!((named.n_rows(), named.class_names()), (2, ["b".to_owned(), "kind".to_owned()].as_slice()));
    }

    #[test]
    fn a_quote_that_is_not_closed_is_told() {
        for text in ["a,1\nb,2\n\"a,3", "a,1\nb,2\n\"a,3\n", "a,1\nb,\"2", "a,1\nb,\"2\n", "\"", "a,1\nb,\"\"\"\n"] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains("expected a closing quote, got none up to the end"), "{text:?}: {error}");
        }
        for text in ["a,1\nb,2", "a,1\r\nb,2\r\n", "a,1\n\"b\",\"2\"", "a,1\n\n\nb,2\n\n"] {
            assert_eq!(parse(text).unwrap().n_rows(), 2, "{text:?}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_line_without_an_end_is_not_read_to_its_end() {
        let error = load(Path::new("/dev/zero"), Column::First).unwrap_err().to_string();
        assert!(error.contains("line 1: expected a line of at most 64 MiB"), "{error}");
        let quoted = io::Cursor::new(b"a,1\n\"").chain(io::repeat(b'\n'));
        let error = read(Path::new("t.csv"), quoted, Column::First).unwrap_err().to_string();
        assert!(error.contains("or a quote that is not closed"), "{error}");
    }

    #[test]
    fn a_bad_row_is_told_with_its_line_and_column_and_without_its_value() {
        let error = parse("a,1,2\nb,1\n").unwrap_err().to_string();
        assert_eq!(error, "t.csv, line 2: expected a label and 2 numbers, got 2 fields");
        let error = parse("a,1,2\nb,1,secret\n").unwrap_err().to_string();
        assert_eq!(error, "t.csv, line 2: expected a finite number in column 3, got 6 characters that are not");
        assert!(parse("a,1,2\nb,1,NaN\n").is_err());
        assert!(parse("a,1,x\nb,1,2\n").unwrap_err().to_string().contains("line 1"), "half a header is no header");
        assert!(
            read(Path::new("t.csv"), &b"a,1\n\xff\xfe,2\n"[..], Column::First)
                .unwrap_err()
                .to_string()
                .contains("UTF-8")
        );
    }

    #[test]
    fn the_label_may_stand_in_any_column_by_name_or_number() {
        let named = |text: &str, label| read(Path::new("t.csv"), text.as_bytes(), Column::Named(label));
        let text = "x,kind,y\n1,cat,2\n3,ant,4\n";
        for label in ["kind", "2"] {
            let data = named(text, label).unwrap();
            assert_eq!(
                (data.class_names(), data.labels()),
                (["ant".into(), "cat".into()].as_slice(), [1, 0].as_slice())
            );
            assert_eq!(data.batch(&[0, 1]).iter().copied().collect::<Vec<_>>(), [1.0, 2.0, 3.0, 4.0]);
        }
        assert_eq!(named("1,2,5\n3,4,6\n", "3").unwrap().class_names(), ["5", "6"]);
        for label in ["z", "0", "4"] {
            let error = named(text, label).unwrap_err().to_string();
            assert!(error.contains(&format!("line 1: expected a label column '{label}'")), "{error}");
        }
    }

    #[test]
    fn packed_tables_are_read_whatever_their_name() {
        use std::io::Write as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dataset_purchase");
        let mut encoder = flate2::write::GzEncoder::new(File::create(&path).unwrap(), flate2::Compression::fast());
        encoder.write_all(b"\"2\",1,0\n\"1\",0,0\n").unwrap();
        encoder.finish().unwrap();
        assert_eq!(load(&path, Column::First).unwrap().labels(), [1, 0]);
    }

    #[test]
    fn a_folder_is_no_table() {
        let dir = tempfile::tempdir().unwrap();
        let error = load(dir.path(), Column::First).unwrap_err().to_string();
        assert!(error.ends_with("expected a file with a table, got a folder (for images: folder:DIR)"), "{error}");
    }

    #[test]
    fn a_table_needs_two_classes() {
        for text in ["", "label,x\n", "label,x\nmore,y\na,1\nb,2\n", "a,1\na,2\n", "a\nb\n"] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(Path::new("t.csv"), bytes.as_slice(), Column::First);
        }

        #[test]
        fn no_text_makes_the_reader_panic(text in "[a1,\"\n .-]{0,60}") {
            if let Ok(data) = parse(&text) {
                prop_assert!(data.labels().iter().all(|&label| (label as usize) < data.n_classes()));
                let rows: Vec<usize> = (0..data.n_rows()).collect();
                prop_assert!(data.batch(&rows).iter().all(|value| value.is_finite()));
            }
        }
    }
}
