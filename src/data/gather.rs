//! Rows that come one by one, gathered into memory.

use std::path::Path;

use super::labels::Labels;
use super::values::{Numbers, Rows};
use super::{Classes, DataError, Dataset, Place};

/// What a reader hands every row to: its place in the file, the label as it is written, the numbers.
pub(super) type Take<'a> = dyn FnMut(Place, &str, &[f32]) -> Result<(), DataError> + 'a;

/// Labels and numbers of the rows so far.
#[derive(Default)]
pub(super) struct Gathered {
    labels: Labels,
    numbers: Numbers,
}

impl Gathered {
    pub(super) fn push(&mut self, label: &str, numbers: &[f32]) {
        self.labels.push(label);
        self.numbers.extend(numbers);
    }

    /// The rows as a dataset whose classes are the labels that came.
    pub(super) fn finish(self, path: &Path, n_features: usize) -> Result<Dataset, DataError> {
        let n_rows = self.labels.n_rows();
        let (names, labels) = self.labels.finish();
        if names.len() < 2 {
            let got = format!("{n_rows} rows of {} classes", names.len());
            return Err(DataError::bad_file(path, "rows of at least 2 classes", got));
        }
        Ok(Dataset::new(vec![n_features], Classes::named(names), labels, Rows::Numbers(self.numbers)))
    }
}
