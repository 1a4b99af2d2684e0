//! Tables: one row a line, the label first, then numbers. Quoted or not, with a header line or without.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::Read;
use std::path::Path;

use csv::{ReaderBuilder, StringRecord};

use super::{DataError, Dataset, Rows};

/// Loads a table from a file.
pub(super) fn load(path: &Path) -> Result<Dataset, DataError> {
    let file = File::open(path).map_err(|error| DataError::io(path, error))?;
    if file.metadata().is_ok_and(|found| found.is_dir()) {
        return Err(DataError::bad_file(path, "a file with a table", "a folder (for images: folder:DIR)"));
    }
    read(path, file)
}

/// Reads a table from bytes, which may be any.
///
/// # Errors
///
/// [`DataError::BadRow`] for the first line that is not like the others.
pub fn parse_table(bytes: &[u8]) -> Result<Dataset, DataError> {
    read(Path::new("table"), bytes)
}

/// Reads a table. The first line is a header where none of its fields after the first is a number. Labels are
/// whole numbers (classes in their order) or names (classes sorted by name).
fn read(path: &Path, bytes: impl Read) -> Result<Dataset, DataError> {
    let mut reader = ReaderBuilder::new().has_headers(false).flexible(true).from_reader(bytes);
    let mut record = StringRecord::new();
    let mut width = None;
    let mut is_first = true;
    let (mut texts, mut values) = (Vec::new(), Vec::new());
    loop {
        let line = reader.position().line();
        let more = reader.read_record(&mut record).map_err(|error| {
            let line = error.position().map_or(line, csv::Position::line);
            match error.into_kind() {
                csv::ErrorKind::Io(error) => DataError::io(path, error),
                _ => bad_row(path, line, "a line of comma-separated UTF-8 text", "something else"),
            }
        })?;
        if !more {
            break;
        }
        let line = record.position().map_or(line, csv::Position::line);
        let n_fields = *width.get_or_insert(record.len());
        if record.len() != n_fields || n_fields < 2 {
            let expected = format!("a label and {} numbers", n_fields.saturating_sub(1).max(1));
            return Err(bad_row(path, line, expected, format!("{} fields", record.len())));
        }
        let is_header = is_first && record.iter().skip(1).all(|field| number(field).is_none());
        is_first = false;
        if !is_header {
            values.reserve(n_fields - 1);
            for (column, field) in (2..).zip(record.iter().skip(1)) {
                values.push(number(field).ok_or_else(|| {
                    let got = format!("{} characters that are not", field.len());
                    bad_row(path, line, format!("a finite number in column {column}"), got)
                })?);
            }
            texts.push(record[0].trim().to_owned());
        }
    }
    let (class_names, labels) = classes(&texts);
    let n_features = width.unwrap_or(1) - 1;
    if class_names.len() < 2 {
        let got = format!("{} rows of {} classes", texts.len(), class_names.len());
        return Err(DataError::bad_file(path, "rows of at least 2 classes", got));
    }
    Ok(Dataset { row_shape: vec![n_features], class_names, is_named: true, labels, rows: Rows::F32(values) })
}

fn number(field: &str) -> Option<f32> {
    field.trim().parse().ok().filter(|number: &f32| number.is_finite())
}

fn bad_row(path: &Path, line: u64, expected: impl Into<String>, got: impl Into<String>) -> DataError {
    DataError::BadRow { path: path.to_owned(), line, expected: expected.into(), got: got.into() }
}

/// The names of the classes in order, and each row's place in them.
fn classes(texts: &[String]) -> (Vec<String>, Vec<u32>) {
    let distinct: BTreeSet<&String> = texts.iter().collect();
    let mut names: Vec<String> = distinct.into_iter().cloned().collect();
    if names.iter().all(|name| name.parse::<i64>().is_ok()) {
        names.sort_by_key(|name| name.parse::<i64>().unwrap_or(i64::MAX));
    }
    let places: HashMap<&str, u32> = names.iter().map(String::as_str).zip(0..).collect();
    let labels = texts.iter().map(|text| places[text.as_str()]).collect();
    (names, labels)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<Dataset, DataError> {
        read(Path::new("t.csv"), text.as_bytes())
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
    fn a_bad_row_is_told_with_its_line_and_column_and_without_its_value() {
        let error = parse("a,1,2\nb,1\n").unwrap_err().to_string();
        assert_eq!(error, "t.csv, line 2: expected a label and 2 numbers, got 2 fields");
        let error = parse("a,1,2\nb,1,secret\n").unwrap_err().to_string();
        assert_eq!(error, "t.csv, line 2: expected a finite number in column 3, got 6 characters that are not");
        assert!(parse("a,1,2\nb,1,NaN\n").is_err());
        assert!(parse("a,1,x\nb,1,2\n").unwrap_err().to_string().contains("line 1"), "half a header is no header");
        assert!(read(Path::new("t.csv"), &b"a,1\n\xff\xfe,2\n"[..]).unwrap_err().to_string().contains("UTF-8"));
    }

    #[test]
    fn a_folder_is_no_table() {
        let dir = tempfile::tempdir().unwrap();
        let error = load(dir.path()).unwrap_err().to_string();
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
            let _ = read(Path::new("t.csv"), bytes.as_slice());
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
