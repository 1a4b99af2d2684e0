//! What is learned from.

use anyhow::{bail, ensure};
use ndarray::Array2;
use sha2::{Digest, Sha256};

use crate::data::{Dataset, Part, Split, hex};

/// What is learned from.
#[derive(Debug, Clone)]
pub struct Task<'a> {
    /// The rows, with their labels.
    pub dataset: &'a Dataset,
    /// Row numbers to train on; one that stands twice is seen twice in an epoch.
    pub train: Vec<usize>,
    /// Row numbers to look at after each epoch; may be empty.
    pub validation: Vec<usize>,
    /// Class distributions to learn beside or instead of the labels (the recipe's `distillation`; without it instead):
    /// one row for each of `train`, each with as many classes as the dataset.
    pub teacher: Option<Array2<f32>>,
    /// How hard each of `train` is, for a curriculum by the losses of a first model or by given numbers; higher is
    /// harder.
    pub difficulty: Option<Vec<f64>>,
}

impl<'a> Task<'a> {
    /// These rows, without teacher and difficulty.
    #[must_use]
    pub fn new(dataset: &'a Dataset, train: Vec<usize>, validation: Vec<usize>) -> Self {
        Self { dataset, train, validation, teacher: None, difficulty: None }
    }

    /// The parts `train` and `validation` of a split.
    ///
    /// # Errors
    ///
    /// When the split was drawn from other rows.
    pub fn of_split(dataset: &'a Dataset, split: &Split) -> anyhow::Result<Self> {
        split.check(dataset)?;
        let [train, validation] = [Part::Train, Part::Validation].map(|part| split.part(part).to_vec());
        Ok(Self::new(dataset, train, validation))
    }

    pub(super) fn check(&self) -> anyhow::Result<()> {
        let n_rows = self.dataset.n_rows();
        ensure!(!self.train.is_empty(), "expected at least one row to train on, got none");
        if let Some(row) = self.train.iter().chain(&self.validation).find(|&&row| row >= n_rows) {
            bail!("expected row numbers below {n_rows}, got {row}");
        }
        if let Some(teacher) = &self.teacher {
            let (expected, got) = ((self.train.len(), self.dataset.n_classes()), teacher.dim());
            ensure!(expected == got, "expected the teacher's answers in the shape {expected:?}, got {got:?}");
            let finite = teacher.iter().all(|share| share.is_finite() && *share >= 0.0);
            ensure!(finite, "expected shares of classes from the teacher, got a number that is none");
        }
        if let Some(difficulty) = &self.difficulty {
            let (expected, got) = (self.train.len(), difficulty.len());
            ensure!(expected == got, "expected how hard each of {expected} training rows is, got {got} numbers");
            ensure!(!difficulty.iter().any(|value| value.is_nan()), "expected how hard a row is, got NaN");
        }
        Ok(())
    }

    /// SHA-256 (hex) of which rows are learned, of what the teacher says about them, and of how hard they are.
    pub(super) fn digest(&self) -> String {
        let mut hash = Sha256::new();
        for rows in [&self.train, &self.validation] {
            hash.update((rows.len() as u64).to_le_bytes());
            rows.iter().for_each(|&row| hash.update((row as u64).to_le_bytes()));
        }
        if let Some(teacher) = &self.teacher {
            teacher.iter().for_each(|share| hash.update(share.to_le_bytes()));
        }
        if let Some(difficulty) = &self.difficulty {
            hash.update(b"difficulty");
            difficulty.iter().for_each(|value| hash.update(value.to_le_bytes()));
        }
        hex(&hash.finalize())
    }
}
