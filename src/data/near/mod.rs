//! Groups of rows that are copies of each other, exact or nearly so: a split that puts one into the train part and
//! another into the test part would call the same record a member and a non-member.
//!
//! Two rows are near when their distance is at most a radius, by the measure of their kind ([`Measure`]); rows that a
//! chain of near rows connects are one group. Rows with equal values are always near. Every pair within the radius is
//! found: candidates come from bounds that no near pair escapes, not from chance. The same rows give the same groups
//! on every machine, however many threads search.

mod bits;
mod union;
mod vectors;

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use self::bits::Bits;
use self::union::Union;
use self::vectors::Vectors;
use super::{DataError, Dataset};

/// How the distance of two rows is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Measure {
    /// Images: 1 − the cosine of the two images, each channel averaged over a grid of at most 16 × 16 fields and less its
    /// mean, so that brightness, contrast and fine detail (such as JPEG's) do not count. Flat images are all alike.
    PooledCosine,
    /// Rows of 0 and 1: of the places that are 1 in either row, the share that are 1 in one only (the Jaccard distance).
    Jaccard,
    /// Other numbers: the root mean square difference of the columns, each in units of its standard deviation over
    /// all rows. Columns that do not vary do not count.
    Standardised,
}

impl Measure {
    /// The radius where none is given, for rows of this shape.
    ///
    /// Those for images were chosen by eye: of the pairs of CIFAR-10 that are 0.04 apart nearly all show one photograph
    /// twice, of those 0.06 apart half do. Grey images on an empty ground, such as Fashion-MNIST's, are all closer to
    /// each other: at 0.04 half of that set is one group.
    #[must_use]
    pub fn default_radius(self, row_shape: &[usize]) -> f64 {
        match self {
            Self::PooledCosine if row_shape.first() == Some(&1) => 0.005,
            Self::PooledCosine => 0.04,
            Self::Jaccard => 0.1,
            Self::Standardised => 0.02,
        }
    }

    /// The largest radius that is of use.
    #[must_use]
    pub fn max_radius(self) -> f64 {
        match self {
            Self::PooledCosine | Self::Jaccard => 0.5,
            Self::Standardised => 1.0,
        }
    }

    /// In words, for reports.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::PooledCosine => "cosine distance of pooled images",
            Self::Jaccard => "Jaccard distance",
            Self::Standardised => "root mean square difference of standardised columns",
        }
    }

    fn of(dataset: &Dataset) -> Result<Self, DataError> {
        if dataset.row_shape().len() == 3 {
            return Ok(Self::PooledCosine);
        }
        let mut is_binary = true;
        each_row(dataset, |_, row| is_binary &= row.iter().all(|&value| value == 0.0 || value == 1.0))?;
        Ok(if is_binary { Self::Jaccard } else { Self::Standardised })
    }
}

/// What was looked for, and what was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Near {
    /// The measure.
    pub measure: Measure,
    /// Rows up to this distance apart are near-duplicates; at 0 only rows with equal values are.
    pub radius: f64,
    /// Groups of at least two rows.
    pub n_groups: usize,
    /// Rows in those groups.
    pub n_rows: usize,
    /// Rows in the largest of them.
    pub largest: usize,
}

/// Groups of near-duplicate rows: disjoint, each of at least two rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Groups {
    members: Vec<Vec<usize>>,
    near: Near,
}

/// Why groups could not be found.
#[derive(Debug, thiserror::Error)]
pub enum NearError {
    /// The radius is of no use.
    #[error("expected a radius from 0 to {max} for the {}, got {radius}", measure.words())]
    Radius {
        /// What was given.
        radius: f64,
        /// The largest that is of use.
        max: f64,
        /// The measure of these rows.
        measure: Measure,
    },
    /// A row could not be read.
    #[error(transparent)]
    Data(#[from] DataError),
}

impl Groups {
    /// Finds the groups of a dataset, with the measure of its rows and its default radius unless one is given.
    ///
    /// Takes about `4 n_rows · min(row length, 768)` bytes of memory for images and numbers, a bit a value for rows of
    /// 0 and 1, and all cores. Rows of 0 and 1 are compared pair by pair: the time grows with the square of
    /// their number.
    ///
    /// # Errors
    ///
    /// [`NearError`].
    pub fn find(dataset: &Dataset, radius: Option<f64>) -> Result<Self, NearError> {
        let measure = Measure::of(dataset)?;
        let (radius, max) = (radius.unwrap_or(measure.default_radius(dataset.row_shape())), measure.max_radius());
        if !(0.0..=max).contains(&radius) {
            return Err(NearError::Radius { radius, max, measure });
        }
        let copies = Copies::find(dataset)?;
        let mut union = Union::new(dataset.n_rows());
        copies.join(&mut union);
        if radius > 0.0 {
            let first = &copies.first;
            let found = match measure {
                Measure::PooledCosine => Vectors::pooled(dataset, first)?.within((2.0 * radius).sqrt()),
                Measure::Standardised => Vectors::standardised(dataset, first)?.within(radius),
                Measure::Jaccard => Bits::of(dataset, first)?.within(radius),
            };
            first.iter().enumerate().for_each(|(at, &row)| union.join(row, first[found.root(at)]));
        }
        Ok(Self::of(union.groups(), measure, radius))
    }

    fn of(members: Vec<Vec<usize>>, measure: Measure, radius: f64) -> Self {
        let n_rows = members.iter().map(Vec::len).sum();
        let largest = members.iter().map(Vec::len).max().unwrap_or(0);
        let near = Near { measure, radius, n_groups: members.len(), n_rows, largest };
        Self { members, near }
    }

    #[cfg(test)]
    pub(super) fn given(members: Vec<Vec<usize>>) -> Self {
        Self::of(members, Measure::Jaccard, 0.0)
    }

    /// Row numbers of each group, ascending; groups in the order of their first rows.
    #[must_use]
    pub fn members(&self) -> &[Vec<usize>] {
        &self.members
    }

    /// What was looked for, and what was found.
    #[must_use]
    pub fn near(&self) -> &Near {
        &self.near
    }
}

/// Rows with equal values.
struct Copies {
    /// The first row of each set of copies, ascending: a row without copies is one.
    first: Vec<usize>,
    /// A later row, and the first with its values.
    later: Vec<(usize, usize)>,
}

impl Copies {
    fn find(dataset: &Dataset) -> Result<Self, DataError> {
        let mut places: HashMap<[u8; 32], usize> = HashMap::new();
        let (mut first, mut later, mut bytes) = (Vec::new(), Vec::new(), Vec::new());
        each_row(dataset, |row, values| {
            bytes.clear();
            // Adding 0 makes one zero of the two.
            values.iter().for_each(|value| bytes.extend((value + 0.0).to_le_bytes()));
            match places.entry(Sha256::digest(&bytes).into()) {
                std::collections::hash_map::Entry::Occupied(found) => later.push((row, *found.get())),
                std::collections::hash_map::Entry::Vacant(place) => {
                    place.insert(row);
                    first.push(row);
                }
            }
        })?;
        Ok(Self { first, later })
    }

    fn join(&self, union: &mut Union) {
        self.later.iter().for_each(|&(row, first)| union.join(row, first));
    }
}

/// Hands every row of a dataset to `take`, in order.
fn each_row(dataset: &Dataset, mut take: impl FnMut(usize, &[f32])) -> Result<(), DataError> {
    let mut values = Vec::new();
    for row in 0..dataset.n_rows() {
        values.clear();
        dataset.read_row(row, &mut values)?;
        take(row, &values);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
