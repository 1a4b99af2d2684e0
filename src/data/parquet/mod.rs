//! Parquet tables: flat columns of numbers and one of labels. Pages may be plain or packed with Snappy; other
//! packings are refused by name.
//!
//! The crate that reads Parquet is asked for batches of rows, so that memory does not grow with the file; what of it
//! panics on a damaged file is caught and becomes an error.

mod column;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use ::parquet::errors::ParquetError;
use ::parquet::file::reader::{ChunkReader, FileReader as _, Length, SerializedFileReader};
use bytes::Bytes;

use self::column::{Cells, Column};
use super::gather::{Gathered, Take};
use super::stored::read_exact_at;
use super::{DataError, Dataset, Place};

/// Rows that are read at once.
const BATCH: usize = 1024;
/// The column of labels where none is named.
pub(super) const LABEL: &str = "label";

/// Loads a table from a file; the labels are in the column of this name, or of this number from 1.
pub(super) fn load(path: &Path, label: Option<&str>) -> Result<Dataset, DataError> {
    let mut gathered = Gathered::default();
    let n_features = scan_file(path, label, &mut |_, label, numbers| {
        gathered.push(label, numbers);
        Ok(())
    })?;
    gathered.finish(path, n_features)
}

/// Hands every row of a file to `take`; the answer is how many numbers a row has.
pub(super) fn scan_file(path: &Path, label: Option<&str>, take: &mut Take<'_>) -> Result<usize, DataError> {
    let file = File::open(path).map_err(|error| DataError::io(path, error))?;
    let n_bytes = file.metadata().map_err(|error| DataError::io(path, error))?.len();
    scan(path, Source { file: Arc::new(file), n_bytes }, label, take)
}

/// Reads a table from bytes, which may be any; the labels are in the column `label`.
///
/// # Errors
///
/// [`DataError`] for what does not fit the format.
pub fn parse_parquet(bytes: &[u8]) -> Result<Dataset, DataError> {
    let (path, mut gathered) = (Path::new("parquet"), Gathered::default());
    let n_features = scan(path, Bytes::copy_from_slice(bytes), None, &mut |_, label, numbers| {
        gathered.push(label, numbers);
        Ok(())
    })?;
    gathered.finish(path, n_features)
}

/// Reads every column of a table of numbers, in f64, by its name.
///
/// # Errors
///
/// [`DataError`] for what cannot be read, or holds anything but numbers.
pub fn read_columns(path: &Path) -> Result<Vec<(String, Vec<f64>)>, DataError> {
    let file = File::open(path).map_err(|error| DataError::io(path, error))?;
    let n_bytes = file.metadata().map_err(|error| DataError::io(path, error))?.len();
    let source = Source { file: Arc::new(file), n_bytes };
    catch_unwind(AssertUnwindSafe(|| columns_unguarded(path, source)))
        .unwrap_or_else(|_| Err(DataError::bad_file(path, "a Parquet table", "one that its reader fails on")))
}

fn columns_unguarded(path: &Path, source: Source) -> Result<Vec<(String, Vec<f64>)>, DataError> {
    let wrong = |error: ParquetError| DataError::bad_file(path, "a Parquet table", words(&error));
    let reader = SerializedFileReader::new(source).map_err(wrong)?;
    let schema = reader.metadata().file_metadata().schema_descr_ptr();
    let mut columns = Vec::with_capacity(schema.num_columns());
    for at in 0..schema.num_columns() {
        let column = Column::of(&schema.column(at), false).map_err(|error| error.in_file(path))?;
        let mut values = Vec::new();
        for group in 0..reader.num_row_groups() {
            let group = reader.get_row_group(group).map_err(wrong)?;
            let n_rows = usize::try_from(group.metadata().num_rows()).unwrap_or(0);
            let mut cells = group.get_column_reader(at).map_err(wrong)?;
            let bad = |row: usize, expected: &str| {
                let expected = format!("{expected} in column {}", at + 1);
                DataError::bad_row(path, Place::Row(row), expected, "something else")
            };
            for start in (0..n_rows).step_by(BATCH) {
                let n = BATCH.min(n_rows - start);
                let first = values.len();
                let read = column.read_wide(&mut cells, n);
                let bad = |row: usize, expected: &str| bad(first + row, expected);
                values.extend(read.map_err(|error| error.in_column(path, bad))?);
            }
        }
        columns.push((schema.column(at).name().to_owned(), values));
    }
    Ok(columns)
}

/// As [`scan_unguarded`], with a panic of the reader as an error.
fn scan<R: ChunkReader + 'static>(
    path: &Path,
    source: R,
    label: Option<&str>,
    take: &mut Take<'_>,
) -> Result<usize, DataError> {
    catch_unwind(AssertUnwindSafe(|| scan_unguarded(path, source, label, take)))
        .unwrap_or_else(|_| Err(DataError::bad_file(path, "a Parquet table", "one that its reader fails on")))
}

fn scan_unguarded<R: ChunkReader + 'static>(
    path: &Path,
    source: R,
    label: Option<&str>,
    take: &mut Take<'_>,
) -> Result<usize, DataError> {
    let wrong = |error: ParquetError| DataError::bad_file(path, "a Parquet table", words(&error));
    let reader = SerializedFileReader::new(source).map_err(wrong)?;
    let schema = reader.metadata().file_metadata().schema_descr_ptr();
    let names: Vec<&str> = schema.columns().iter().map(|column| column.name()).collect();
    let label_at = label_column(path, &names, label)?;
    let columns = (0..names.len())
        .map(|at| Column::of(&schema.column(at), at == label_at))
        .collect::<Result<Vec<Column>, _>>()
        .map_err(|error| error.in_file(path))?;
    let mut first_row = 0;
    let mut numbers = Vec::new();
    for group in 0..reader.num_row_groups() {
        let group = reader.get_row_group(group).map_err(wrong)?;
        let n_rows = usize::try_from(group.metadata().num_rows()).unwrap_or(0);
        let mut readers =
            (0..names.len()).map(|at| group.get_column_reader(at)).collect::<Result<Vec<_>, _>>().map_err(wrong)?;
        for start in (0..n_rows).step_by(BATCH) {
            let n = BATCH.min(n_rows - start);
            let mut cells = Vec::with_capacity(names.len());
            for (at, (column, reader)) in columns.iter().zip(&mut readers).enumerate() {
                let bad = |row: usize, expected: &str| {
                    let expected = format!("{expected} in column {}", at + 1);
                    DataError::bad_row(path, Place::Row(first_row + start + row), expected, "something else")
                };
                let read = column.read(reader, n).map_err(|error| error.in_column(path, bad))?;
                cells.push(read);
            }
            for row in 0..n {
                numbers.clear();
                let mut label = "";
                for cells in &cells {
                    match cells {
                        Cells::Numbers(column) => numbers.push(column[row]),
                        Cells::Words(column) => label = &column[row],
                    }
                }
                take(Place::Row(first_row + start + row), label, &numbers)?;
            }
        }
        first_row += n_rows;
    }
    Ok(names.len() - 1)
}

fn label_column(path: &Path, names: &[&str], label: Option<&str>) -> Result<usize, DataError> {
    let name = label.unwrap_or(LABEL);
    let by_number = || name.parse::<usize>().ok()?.checked_sub(1).filter(|&at| at < names.len());
    let found = names.iter().position(|&column| column == name).or_else(by_number);
    match found {
        Some(at) if names.len() > 1 => Ok(at),
        _ => {
            let expected = format!("a label column '{}' beside columns of numbers", name.escape_debug());
            let shown: Vec<&str> = names.iter().take(12).copied().collect();
            Err(DataError::bad_file(path, expected, format!("{} columns: {shown:?}", names.len())))
        }
    }
}

/// What the reader says, without the values that it may quote.
fn words(error: &ParquetError) -> String {
    let kind = match error {
        ParquetError::General(_) => "one that cannot be read",
        ParquetError::NYI(_) => "one of a kind that is not supported (pages may be plain or packed with Snappy)",
        ParquetError::EOF(_) | ParquetError::NeedMoreData(_) | ParquetError::NeedMoreDataRange(_) => "an early end",
        _ => "a damaged one",
    };
    kind.to_owned()
}

/// A file that is read at places, never beyond its end, whatever length its own tables promise.
struct Source {
    file: Arc<File>,
    n_bytes: u64,
}

impl Length for Source {
    fn len(&self) -> u64 {
        self.n_bytes
    }
}

impl ChunkReader for Source {
    type T = io::BufReader<FromPlace>;

    fn get_read(&self, start: u64) -> ::parquet::errors::Result<Self::T> {
        let from = FromPlace { file: Arc::clone(&self.file), at: start, end: self.n_bytes };
        Ok(io::BufReader::new(from))
    }

    fn get_bytes(&self, start: u64, length: usize) -> ::parquet::errors::Result<Bytes> {
        if start.checked_add(length as u64).is_none_or(|end| end > self.n_bytes) {
            return Err(ParquetError::EOF("the file ends before".to_owned()));
        }
        let mut bytes = vec![0; length];
        read_exact_at(&self.file, &mut bytes, start)?;
        Ok(bytes.into())
    }
}

/// The bytes of a file from a place on.
struct FromPlace {
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl Read for FromPlace {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let n = bytes.len().min(usize::try_from(self.end.saturating_sub(self.at)).unwrap_or(usize::MAX));
        read_exact_at(&self.file, &mut bytes[..n], self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}
