//! Answers to further questions of an endpoint (changed rows, random points), kept in the file of its answers.
//!
//! A question is known by what was asked and by how often it was asked before: a row that is asked three times has three
//! answers. Where an endpoint goes away, the same command asks the same questions in the same order, and finds those that
//! were answered.

use std::collections::HashMap;

use ndarray::{Array2, ArrayD, Axis};
use sha2::{Digest, Sha256};

use super::kept::{Kept, KeptError};

/// Keys of further questions have this bit, row numbers of data sets have not.
const FURTHER: u64 = 1 << 63;

/// What is kept of further questions; nothing where no file is named.
#[derive(Debug, Default)]
pub(super) struct Further {
    kept: Option<Kept>,
    /// Answers of an earlier run that were not asked for yet.
    before: HashMap<usize, Vec<f64>>,
    /// How often a row was asked about, by its digest.
    times: HashMap<u64, u32>,
}

impl Further {
    /// Takes the answers to further questions out of all that a file holds.
    pub(super) fn split_off(answers: &mut HashMap<usize, Vec<f64>>) -> HashMap<usize, Vec<f64>> {
        let (further, rows) = answers.drain().partition(|(key, _)| *key as u64 & FURTHER != 0);
        *answers = rows;
        further
    }

    /// With a file that holds `before`.
    pub(super) fn new(kept: Kept, before: HashMap<usize, Vec<f64>>) -> Self {
        Self { kept: Some(kept), before, times: HashMap::new() }
    }

    /// A key for each row of `inputs` (n_rows, row shape…); none where nothing is kept.
    pub(super) fn keys(&mut self, inputs: &ArrayD<f32>) -> Option<Vec<usize>> {
        self.kept.as_ref()?;
        let key = |row: ndarray::ArrayViewD<'_, f32>| {
            let mut hasher = Sha256::new();
            hasher.update(row.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>());
            let row = first_eight(&hasher.finalize_reset());
            let times = self.times.entry(row).or_default();
            hasher.update(row.to_le_bytes());
            hasher.update(times.to_le_bytes());
            *times += 1;
            (first_eight(&hasher.finalize()) | FURTHER) as usize
        };
        Some(inputs.axis_iter(Axis(0)).map(key).collect())
    }

    /// The answer of an earlier run.
    pub(super) fn take(&mut self, key: usize) -> Option<Vec<f64>> {
        self.before.remove(&key)
    }

    /// Keeps the answers to the questions `keys`, a row each.
    pub(super) fn add(&mut self, keys: &[usize], values: &Array2<f64>) -> Result<(), KeptError> {
        let Some(kept) = &mut self.kept else { return Ok(()) };
        let flat: Vec<f64> = values.iter().copied().collect();
        kept.add(keys, &flat)
    }

    /// Where the answers are, for who reads that they stopped.
    pub(super) fn words(&self) -> String {
        match &self.kept {
            None => "the answers so far were not kept: name a file with --answers".to_owned(),
            Some(kept) => {
                format!("the answers so far are kept in {}: the same command goes on from there", kept.path().display())
            }
        }
    }
}

fn first_eight(digest: &[u8]) -> u64 {
    digest.iter().take(8).fold(0, |key, &byte| key << 8 | u64::from(byte))
}
