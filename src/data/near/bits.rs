//! Rows of 0 and 1, a bit a value, compared pair by pair.

use super::super::{DataError, Dataset};
use super::each_row;
use super::union::Union;

/// Rows in words of 64 bits, those with few ones first.
pub(super) struct Bits {
    words: Vec<u64>,
    n_words: usize,
    /// How many bits of each row are 1, ascending.
    ones: Vec<u32>,
    /// The place of each row among those that were asked for.
    places: Vec<usize>,
}

impl Bits {
    /// The rows `rows` (ascending) of a dataset of 0 and 1.
    pub(super) fn of(dataset: &Dataset, rows: &[usize]) -> Result<Self, DataError> {
        let n_words = dataset.row_shape().iter().product::<usize>().div_ceil(64);
        let (mut words, mut ones) = (Vec::with_capacity(rows.len() * n_words), Vec::with_capacity(rows.len()));
        let mut wanted = rows.iter().peekable();
        each_row(dataset, |row, values| {
            if wanted.next_if_eq(&&row).is_none() {
                return;
            }
            let word = |values: &[f32]| values.iter().rev().fold(0, |word, &value| word << 1 | u64::from(value != 0.0));
            words.extend(values.chunks(64).map(word));
            ones.push(values.iter().filter(|&&value| value != 0.0).count() as u32);
        })?;
        let mut places: Vec<usize> = (0..ones.len()).collect();
        places.sort_by_key(|&place| ones[place]);
        let words = places.iter().flat_map(|&at| words[at * n_words..(at + 1) * n_words].iter().copied()).collect();
        let ones = places.iter().map(|&at| ones[at]).collect();
        Ok(Self { words, n_words, ones, places })
    }

    /// Joins rows whose Jaccard distance is at most `radius`.
    pub(super) fn within(&self, radius: f64) -> Union {
        let arch = pulp::Arch::new();
        Union::gather(self.ones.len(), |at, found| arch.dispatch(Compare { bits: self, at, radius, found }))
    }
}

/// The comparison of one row with all that have as many ones or more.
struct Compare<'a> {
    bits: &'a Bits,
    at: usize,
    radius: f64,
    found: &'a mut Union,
}

impl pulp::WithSimd for Compare<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _instructions: S) {
        let Bits { words, n_words, ones, places } = self.bits;
        let (row, after) = words[self.at * n_words..].split_at(*n_words);
        let own = ones[self.at];
        // What both have is at most what this row has, what either has at least what the other has: only rows with
        // nearly as few ones can be near.
        let most = f64::from(own) / (1.0 - self.radius) + 1e-9;
        let later = self.at + 1..ones.len();
        for (other, words) in later.zip(after.chunks_exact(*n_words)) {
            if f64::from(ones[other]) > most {
                break;
            }
            let both: u64 = row.iter().zip(words).map(|(a, b)| u64::from((a & b).count_ones())).sum();
            let either = u64::from(own + ones[other]) - both;
            if (either - both) as f64 <= self.radius * either as f64 {
                self.found.join(places[self.at], places[other]);
            }
        }
    }
}
