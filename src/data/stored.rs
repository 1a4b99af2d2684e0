//! Rows that stay in their files: fixed-width formats, read row by row at known places, so that a set may be larger
//! than memory.
//!
//! A file is read through once when it is opened: that checks its length and that its numbers are finite, and makes
//! the digest. What changes afterwards is found when a row is read (a file cut short, a number that is not finite)
//! or not at all (other numbers): a set must not be written to while it is used.

use std::fs::File;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::element::Element;
use super::{DataError, Place};

/// Bytes that one pass over a file reads at a time.
const BLOCK: usize = 1 << 20;

/// Rows in one or more files, one after the other.
pub(super) struct Stored {
    segments: Vec<Segment>,
    element: Element,
    width: usize,
}

/// Rows of one file: `n_rows` times `stride` bytes from `offset` on, the row's values at the end of each stride.
pub(super) struct Segment {
    pub(super) path: PathBuf,
    pub(super) file: File,
    pub(super) offset: u64,
    pub(super) n_rows: usize,
    /// Bytes before the values of each row, such as a label.
    pub(super) skip: usize,
}

impl Stored {
    /// Takes files whose rows hold `width` values of type `element`; each file must be long enough.
    pub(super) fn new(segments: Vec<Segment>, element: Element, width: usize) -> Result<Self, DataError> {
        for segment in &segments {
            let found = segment.file.metadata().map_err(|error| DataError::io(&segment.path, error))?.len();
            let stride = (segment.skip + width * element.n_bytes()) as u64;
            let wanted = (segment.n_rows as u64).checked_mul(stride).and_then(|n| n.checked_add(segment.offset));
            if wanted.is_none_or(|wanted| wanted > found) {
                let expected = format!("{} rows of {stride} bytes from byte {} on", segment.n_rows, segment.offset);
                return Err(DataError::bad_file(&segment.path, expected, format!("{found} bytes in all")));
            }
        }
        Ok(Self { segments, element, width })
    }

    pub(super) fn are_pixels(&self) -> bool {
        self.element.is_pixel()
    }

    /// Appends the values of one row.
    pub(super) fn read(&self, row: usize, into: &mut Vec<f32>) -> Result<(), DataError> {
        let mut first = 0;
        for segment in &self.segments {
            if row - first < segment.n_rows {
                let mut bytes = vec![0; self.width * self.element.n_bytes()];
                let stride = (segment.skip + bytes.len()) as u64;
                let offset = segment.offset + (row - first) as u64 * stride + segment.skip as u64;
                read_exact_at(&segment.file, &mut bytes, offset).map_err(|e| DataError::io(&segment.path, e))?;
                return self.decode(&bytes, segment, row - first, into);
            }
            first += segment.n_rows;
        }
        panic!("row {row} of {first}");
    }

    /// Appends the values of whole rows, of which the first is row `row` of the segment.
    fn decode(&self, bytes: &[u8], segment: &Segment, row: usize, into: &mut Vec<f32>) -> Result<(), DataError> {
        let start = into.len();
        self.element.decode(bytes, into);
        match into[start..].iter().position(|number| !number.is_finite()) {
            None => Ok(()),
            Some(at) => {
                let (row, column) = (row + at / self.width, at % self.width);
                Err(not_finite(&segment.path, row, column))
            }
        }
    }

    /// Adds all values to a digest, as [`Rows::hash`](super::values::Rows::hash) says, and checks them.
    pub(super) fn hash(&self, hash: &mut Sha256) -> Result<(), DataError> {
        let mut values = Vec::new();
        for segment in &self.segments {
            let row_bytes = self.width * self.element.n_bytes();
            let stride = segment.skip + row_bytes;
            let at_once = (BLOCK / stride.max(1)).max(1);
            let mut bytes = vec![0; at_once.min(segment.n_rows) * stride];
            for first in (0..segment.n_rows).step_by(at_once) {
                let n = at_once.min(segment.n_rows - first);
                let bytes = &mut bytes[..n * stride];
                let offset = segment.offset + first as u64 * stride as u64;
                read_exact_at(&segment.file, bytes, offset).map_err(|e| DataError::io(&segment.path, e))?;
                for (row, bytes) in (first..).zip(bytes.chunks_exact(stride)) {
                    let bytes = &bytes[segment.skip..];
                    if self.element.is_pixel() {
                        hash.update(bytes);
                        continue;
                    }
                    values.clear();
                    self.decode(bytes, segment, row, &mut values)?;
                    values.iter().for_each(|number| hash.update(number.to_le_bytes()));
                }
            }
        }
        Ok(())
    }
}

pub(super) fn not_finite(path: &Path, row: usize, column: usize) -> DataError {
    let expected = format!("a finite number at place {column} of the row");
    DataError::bad_row(path, Place::Row(row), expected, "one that is not")
}

#[cfg(unix)]
pub(super) fn read_exact_at(file: &File, bytes: &mut [u8], offset: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
}

#[cfg(windows)]
pub(super) fn read_exact_at(file: &File, mut bytes: &mut [u8], mut offset: u64) -> std::io::Result<()> {
    while !bytes.is_empty() {
        let n = std::os::windows::fs::FileExt::seek_read(file, bytes, offset)?;
        if n == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        bytes = &mut bytes[n..];
        offset += n as u64;
    }
    Ok(())
}
