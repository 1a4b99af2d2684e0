//! Who is a member, who is not, and which rows serve the temperature: from a split, or from files of row numbers.

use std::collections::{HashMap, HashSet};

use super::predictions::Side;
use crate::data::{Part, Split};

/// Row numbers of a data set. No row is there twice, and none on two sides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sides {
    members: Vec<usize>,
    non_members: Vec<usize>,
    calibration: Vec<usize>,
}

/// Why row numbers make no sides.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SidesError {
    /// A row is named twice on one side.
    #[error("row {row} is among the {side} twice")]
    Twice {
        /// The row.
        row: usize,
        /// The side.
        side: &'static str,
    },
    /// A row is on two sides.
    #[error("row {row} is among the {first} and among the {second}: the sides must not share a row")]
    Both {
        /// The row.
        row: usize,
        /// The one side.
        first: &'static str,
        /// The other.
        second: &'static str,
    },
    /// The data has no such row.
    #[error("row {row} is among the {side}, the data has {n_rows} rows (from 0)")]
    NoSuchRow {
        /// The row.
        row: usize,
        /// The side.
        side: &'static str,
        /// Rows of the data.
        n_rows: usize,
    },
}

impl Sides {
    /// The parts of a split: `train` were members, `test` were not, and `calibration`.
    #[must_use]
    pub fn of_split(split: &Split) -> Self {
        let part = |part| split.part(part).to_vec();
        Self { members: part(Part::Train), non_members: part(Part::Test), calibration: part(Part::Calibration) }
    }

    /// Sides of row numbers as they are given, in that order.
    ///
    /// # Errors
    /// [`SidesError::Twice`], [`SidesError::Both`].
    pub fn new(members: Vec<usize>, non_members: Vec<usize>, calibration: Vec<usize>) -> Result<Self, SidesError> {
        let sides = Self { members, non_members, calibration };
        let named = sides.named();
        for (place, (side, rows)) in named.iter().enumerate() {
            let mut seen = HashSet::with_capacity(rows.len());
            if let Some(&row) = rows.iter().find(|&&row| !seen.insert(row)) {
                return Err(SidesError::Twice { row, side });
            }
            for (second, others) in &named[place + 1..] {
                if let Some(&row) = others.iter().find(|row| seen.contains(row)) {
                    return Err(SidesError::Both { row, first: side, second });
                }
            }
        }
        Ok(sides)
    }

    fn named(&self) -> [(&'static str, &[usize]); 3] {
        [("members", &self.members), ("non-members", &self.non_members), ("calibration rows", &self.calibration)]
    }

    /// Checks that a data set of `n_rows` rows has all of them.
    ///
    /// # Errors
    /// [`SidesError::NoSuchRow`].
    pub fn check(&self, n_rows: usize) -> Result<(), SidesError> {
        for (side, rows) in self.named() {
            if let Some(&row) = rows.iter().find(|&&row| row >= n_rows) {
                return Err(SidesError::NoSuchRow { row, side, n_rows });
            }
        }
        Ok(())
    }

    /// Rows that were trained on.
    #[must_use]
    pub fn members(&self) -> &[usize] {
        &self.members
    }

    /// Rows that were not.
    #[must_use]
    pub fn non_members(&self) -> &[usize] {
        &self.non_members
    }

    /// Rows for the temperature; may be none.
    #[must_use]
    pub fn calibration(&self) -> &[usize] {
        &self.calibration
    }

    /// Rows of all sides together.
    #[must_use]
    pub fn n_rows(&self) -> usize {
        self.members.len() + self.non_members.len() + self.calibration.len()
    }

    /// The side of each row that is on one.
    #[must_use]
    pub fn by_row(&self) -> HashMap<u64, Side> {
        let sides = [
            (&self.members, Side::Member),
            (&self.non_members, Side::NonMember),
            (&self.calibration, Side::Calibration),
        ];
        sides.into_iter().flat_map(|(rows, side)| rows.iter().map(move |&row| (row as u64, side))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_on_one_side_and_once() {
        assert!(Sides::new(vec![3, 1], vec![2], vec![]).is_ok());
        let both = Sides::new(vec![0, 1], vec![2, 1], vec![]).unwrap_err();
        assert_eq!(both, SidesError::Both { row: 1, first: "members", second: "non-members" });
        assert!(both.to_string().contains("must not share a row"));
        let twice = Sides::new(vec![0], vec![2, 2], vec![]).unwrap_err();
        assert_eq!(twice, SidesError::Twice { row: 2, side: "non-members" });
        let sides = Sides::new(vec![0], vec![1], vec![9]).unwrap();
        assert!(sides.check(10).is_ok());
        assert_eq!(sides.check(9).unwrap_err(), SidesError::NoSuchRow { row: 9, side: "calibration rows", n_rows: 9 });
    }
}
