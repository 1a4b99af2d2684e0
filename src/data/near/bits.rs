//! Rows of 0 and 1, a bit a value, compared pair by pair.

use super::super::{DataError, Dataset};
use super::each_row;
use super::union::Union;

/// Rows in words of 64 bits.
pub(super) struct Bits {
    words: Vec<u64>,
    n_words: usize,
    /// How many bits of each row are 1.
    ones: Vec<u32>,
}

impl Bits {
    /// The rows `rows` (ascending) of a dataset of 0 and 1.
    pub(super) fn of(dataset: &Dataset, rows: &[usize]) -> Result<Self, DataError> {
        let n_words = dataset.row_shape().iter().product::<usize>().div_ceil(64);
        let mut bits = Self { words: Vec::with_capacity(rows.len() * n_words), n_words, ones: Vec::new() };
        let mut wanted = rows.iter().peekable();
        each_row(dataset, |row, values| {
            if wanted.next_if_eq(&&row).is_none() {
                return;
            }
            let word = |values: &[f32]| values.iter().rev().fold(0, |word, &value| word << 1 | u64::from(value != 0.0));
            bits.words.extend(values.chunks(64).map(word));
            bits.ones.push(values.iter().filter(|&&value| value != 0.0).count() as u32);
        })?;
        Ok(bits)
    }

    /// Joins rows whose Jaccard distance is at most `radius`.
    pub(super) fn within(&self, radius: f64) -> Union {
        // Of two rows the one with more ones is at least as large as their union needs to be: only rows with nearly as
        // many ones can be near.
        let mut order: Vec<usize> = (0..self.ones.len()).collect();
        order.sort_by_key(|&row| self.ones[row]);
        let arch = pulp::Arch::new();
        Union::gather(order.len(), |at, found| {
            let row = order[at];
            let most = f64::from(self.ones[row]) / (1.0 - radius);
            let near = order[at + 1..].iter().take_while(|&&other| f64::from(self.ones[other]) <= most + 1e-9);
            arch.dispatch(|| {
                for &other in near {
                    let both = shared(self.row(row), self.row(other));
                    let either = self.ones[row] + self.ones[other] - both;
                    if f64::from(either - both) <= radius * f64::from(either) {
                        found.join(row, other);
                    }
                }
            });
        })
    }

    fn row(&self, row: usize) -> &[u64] {
        &self.words[row * self.n_words..(row + 1) * self.n_words]
    }
}

/// How many bits are 1 in both.
#[inline(always)]
fn shared(one: &[u64], other: &[u64]) -> u32 {
    one.iter().zip(other).map(|(one, other)| (one & other).count_ones()).sum()
}
