//! One column of a Parquet table: which types hold numbers or labels, and how their cells are read.

use std::path::Path;

use ::parquet::basic::{ConvertedType, LogicalType, Type};
use ::parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use ::parquet::data_type::{ByteArray, DataType};
use ::parquet::errors::ParquetError;
use ::parquet::schema::types::ColumnDescriptor;

use super::super::{DataError, FormatError};

/// What the cells of a column are read as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Column {
    is_label: bool,
    is_unsigned: bool,
}

/// Cells that were read.
pub(super) enum Cells {
    Numbers(Vec<f32>),
    Words(Vec<String>),
}

/// Why cells could not be read.
pub(super) enum CellError {
    Reader(ParquetError),
    /// A cell, by its place in the batch, and what was expected there.
    Cell(usize, &'static str),
}

impl CellError {
    pub(super) fn in_column(self, path: &Path, bad: impl Fn(usize, &str) -> DataError) -> DataError {
        match self {
            Self::Reader(error) => DataError::bad_file(path, "a Parquet table", super::words(&error)),
            Self::Cell(row, expected) => bad(row, expected),
        }
    }
}

impl Column {
    /// What a column of the schema holds.
    pub(super) fn of(column: &ColumnDescriptor, is_label: bool) -> Result<Self, FormatError> {
        let converted = column.converted_type();
        let is_integer = matches!(column.logical_type_ref(), None | Some(LogicalType::Integer(_)))
            && !matches!(
                converted,
                ConvertedType::DATE
                    | ConvertedType::DECIMAL
                    | ConvertedType::TIME_MILLIS
                    | ConvertedType::TIME_MICROS
                    | ConvertedType::TIMESTAMP_MILLIS
                    | ConvertedType::TIMESTAMP_MICROS
            );
        let fits = match column.physical_type() {
            Type::BOOLEAN => true,
            Type::INT32 | Type::INT64 => is_integer,
            Type::FLOAT | Type::DOUBLE => !is_label,
            Type::BYTE_ARRAY => is_label,
            _ => false,
        };
        if !fits || column.max_rep_level() > 0 || column.max_def_level() > 1 {
            let expected = if is_label { "whole numbers, true and false, or text" } else { "numbers" };
            let got = format!("{} ({converted}) of {:?} levels", column.physical_type(), column.max_def_level());
            let name = column.name().escape_debug().to_string();
            return Err(FormatError::new(format!("a flat column of {expected} named '{name}'"), got));
        }
        let is_unsigned = matches!(converted, ConvertedType::UINT_32 | ConvertedType::UINT_64);
        Ok(Self { is_label, is_unsigned })
    }

    /// The next `n` cells.
    pub(super) fn read(self, reader: &mut ColumnReader, n: usize) -> Result<Cells, CellError> {
        if self.is_label {
            return self.words(reader, n).map(Cells::Words);
        }
        let numbers: Vec<f32> = match reader {
            ColumnReader::BoolColumnReader(reader) => each(reader, n, |b| f32::from(u8::from(b)))?,
            ColumnReader::Int32ColumnReader(reader) if self.is_unsigned => {
                each(reader, n, |i| i.cast_unsigned() as f32)?
            }
            ColumnReader::Int64ColumnReader(reader) if self.is_unsigned => {
                each(reader, n, |i| i.cast_unsigned() as f32)?
            }
            ColumnReader::Int32ColumnReader(reader) => each(reader, n, |i| i as f32)?,
            ColumnReader::Int64ColumnReader(reader) => each(reader, n, |i| i as f32)?,
            ColumnReader::FloatColumnReader(reader) => each(reader, n, |number| number)?,
            ColumnReader::DoubleColumnReader(reader) => each(reader, n, |number| number as f32)?,
            _ => return Err(CellError::Cell(0, "a number")),
        };
        match numbers.iter().position(|number| !number.is_finite()) {
            None => Ok(Cells::Numbers(numbers)),
            Some(row) => Err(CellError::Cell(row, "a finite number")),
        }
    }

    /// The next `n` cells of a column of numbers, in f64 and as they are: NaN and infinities too.
    pub(super) fn read_wide(self, reader: &mut ColumnReader, n: usize) -> Result<Vec<f64>, CellError> {
        match reader {
            ColumnReader::BoolColumnReader(reader) => each(reader, n, |b| f64::from(u8::from(b))),
            ColumnReader::Int32ColumnReader(reader) if self.is_unsigned => {
                each(reader, n, |i| f64::from(i.cast_unsigned()))
            }
            ColumnReader::Int64ColumnReader(reader) if self.is_unsigned => {
                each(reader, n, |i| i.cast_unsigned() as f64)
            }
            ColumnReader::Int32ColumnReader(reader) => each(reader, n, f64::from),
            ColumnReader::Int64ColumnReader(reader) => each(reader, n, |i| i as f64),
            ColumnReader::FloatColumnReader(reader) => each(reader, n, f64::from),
            ColumnReader::DoubleColumnReader(reader) => each(reader, n, |number| number),
            _ => Err(CellError::Cell(0, "a number")),
        }
    }

    fn words(self, reader: &mut ColumnReader, n: usize) -> Result<Vec<String>, CellError> {
        match reader {
            ColumnReader::BoolColumnReader(reader) => each(reader, n, |b| b.to_string()),
            ColumnReader::Int32ColumnReader(reader) if self.is_unsigned => {
                each(reader, n, |i| i.cast_unsigned().to_string())
            }
            ColumnReader::Int64ColumnReader(reader) if self.is_unsigned => {
                each(reader, n, |i| i.cast_unsigned().to_string())
            }
            ColumnReader::Int32ColumnReader(reader) => each(reader, n, |i| i.to_string()),
            ColumnReader::Int64ColumnReader(reader) => each(reader, n, |i| i.to_string()),
            ColumnReader::ByteArrayColumnReader(reader) => {
                let words = each(reader, n, |bytes: ByteArray| String::from_utf8(bytes.data().to_vec()).ok())?;
                let bad = words.iter().position(Option::is_none);
                bad.map_or_else(
                    || Ok(words.into_iter().flatten().collect()),
                    |row| Err(CellError::Cell(row, "UTF-8 text")),
                )
            }
            _ => Err(CellError::Cell(0, "a label")),
        }
    }
}

/// The next `n` cells of a typed column, none of them empty.
fn each<D: DataType, T>(
    reader: &mut ColumnReaderImpl<D>,
    n: usize,
    into: impl Fn(D::T) -> T,
) -> Result<Vec<T>, CellError> {
    let (mut levels, mut values) = (Vec::new(), Vec::new());
    let (n_records, n_values, _) =
        reader.read_records(n, Some(&mut levels), None, &mut values).map_err(CellError::Reader)?;
    if n_records != n {
        return Err(CellError::Cell(n_records, "a value (the column ends before the others)"));
    }
    if n_values != n || values.len() != n {
        let empty = levels.iter().position(|&level| level == 0).unwrap_or(0);
        return Err(CellError::Cell(empty, "a value (the cell is empty)"));
    }
    Ok(values.into_iter().map(into).collect())
}
