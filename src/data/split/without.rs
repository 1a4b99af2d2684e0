//! Members to leave out: a split without some of its train rows, and the files that name them.

use std::collections::HashSet;
use std::path::Path;

use super::{Drawn, FORMAT_VERSION, Part, Parts, Split, SplitError};

impl Split {
    /// This split without the train rows `rows`: they belong to no part any more, and the new split records them. The
    /// other parts stay as they are. A row may be named twice, and one that was taken out before is skipped.
    ///
    /// # Errors
    ///
    /// [`SplitError::NotTrain`] for a row that is not in the train part, [`SplitError::NoTrainRows`] where none is
    /// left.
    pub fn without(&self, rows: &[usize]) -> Result<Self, SplitError> {
        let train: HashSet<usize> = self.parts.train.iter().copied().collect();
        let mut removed: HashSet<usize> = self.removed().iter().copied().collect();
        for &row in rows {
            if !train.contains(&row) && !removed.contains(&row) {
                return Err(SplitError::NotTrain { row });
            }
            removed.insert(row);
        }
        self.less(removed)
    }

    /// This split without some rows, whatever part they are in; the new split records those that were in one.
    ///
    /// # Errors
    ///
    /// [`SplitError::NoTrainRows`] where no train row is left.
    pub fn forgetting(&self, rows: &[usize]) -> Result<Self, SplitError> {
        let drawn: HashSet<usize> = Part::ALL.into_iter().flat_map(|part| self.part(part)).copied().collect();
        let removed = self.removed().iter().chain(rows.iter().filter(|row| drawn.contains(row)));
        self.less(removed.copied().collect())
    }

    /// This split with some rows of one part moved to another, behind the rows that are there: what was fitted on rows of a
    /// part that calls them unseen.
    ///
    /// # Errors
    ///
    /// [`SplitError::Repeated`] where one of the rows stands in a third part already.
    pub fn moving(&self, rows: &[usize], (from, to): (Part, Part)) -> Result<Self, SplitError> {
        let chosen: HashSet<usize> = rows.iter().copied().collect();
        let mut split = self.clone();
        if split.parts.shadow.is_none() && [from, to].contains(&Part::Shadow) {
            split.format_version = FORMAT_VERSION;
            split.drawn.get_or_insert_with(Drawn::default);
            split.without.get_or_insert_default();
            split.parts.shadow = Some(vec![]);
        }
        split.parts.of_mut(from).retain(|row| !chosen.contains(row));
        split.parts.of_mut(to).extend_from_slice(rows);
        split.checked()
    }

    fn less(&self, removed: HashSet<usize>) -> Result<Self, SplitError> {
        let mut split = self.clone();
        split.format_version = FORMAT_VERSION;
        split.drawn.get_or_insert_with(Drawn::default);
        split.parts.shadow.get_or_insert_default();
        let Parts { train, validation, calibration, test, shadow } = &mut split.parts;
        for part in [train, validation, calibration, test].into_iter().chain(shadow) {
            part.retain(|row| !removed.contains(row));
        }
        let mut removed: Vec<usize> = removed.into_iter().collect();
        removed.sort_unstable();
        split.without = Some(removed);
        split.checked()
    }
}

/// Reads row numbers from a file: one a line, counted from 0 as in a split file; empty lines and what follows a `#`
/// do not count.
///
/// # Errors
///
/// [`SplitError::RowList`], [`SplitError::BadLine`].
pub fn read_row_numbers(path: &Path) -> Result<Vec<usize>, SplitError> {
    let text = std::fs::read_to_string(path).map_err(|error| SplitError::RowList { path: path.to_owned(), error })?;
    let mut rows = Vec::new();
    for (line, text) in (1..).zip(text.lines()) {
        let number = text.split('#').next().unwrap_or_default().trim();
        if number.is_empty() {
            continue;
        }
        let bad = || SplitError::BadLine { path: path.to_owned(), line, length: number.chars().count() };
        rows.push(number.parse().map_err(|_| bad())?);
    }
    Ok(rows)
}
