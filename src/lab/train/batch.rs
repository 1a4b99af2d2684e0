//! The rows of one step, as the network sees them.

use ndarray::{ArrayD, Axis};
use rand_chacha::ChaCha8Rng;

use super::Trainer;
use super::augment::{Mixing, augment};
use super::objective::Targets;
use crate::lab::recipe::Augmentation;
use crate::lab::streams;

/// The rows of one step.
pub(super) struct Batch {
    /// `(n_rows, row_shape…)`, augmented and mixed.
    pub(super) inputs: ArrayD<f32>,
    /// What they are to be answered with.
    pub(super) targets: Targets,
    /// The label of each row; of mixed rows that of the larger share.
    pub(super) labels: Vec<u32>,
}

/// What is drawn for the rows of one step.
pub(super) struct Draws {
    /// One for all rows, or one for each.
    pub(super) augmentation: Vec<ChaCha8Rng>,
    pub(super) mixup: ChaCha8Rng,
}

impl Trainer<'_> {
    /// The generators of the next step: a function of seed and step.
    pub(super) fn draws(&self) -> Draws {
        let rng = |stream| self.rng(stream, self.position.steps);
        Draws { augmentation: vec![rng(streams::AUGMENTATION)], mixup: rng(streams::MIXUP) }
    }

    /// The training rows at these places.
    pub(super) fn batch(&self, places: &[usize], draws: &mut Draws) -> Batch {
        let task = &self.task;
        let rows: Vec<usize> = places.iter().map(|&place| task.train[place]).collect();
        let mut labels: Vec<u32> = rows.iter().map(|&row| task.dataset.labels()[row]).collect();
        let mut inputs = task.dataset.batch(&rows);
        if self.recipe.augmentation != Augmentation::default() {
            augment(&mut inputs, self.recipe.augmentation, &mut draws.augmentation);
        }
        let teacher = task.teacher.as_ref().map(|teacher| teacher.select(Axis(0), places));
        let mut targets = self.objective.targets(&labels, teacher);
        if let Some(mixup) = self.recipe.mixup {
            let mixing = Mixing::draw(mixup, rows.len(), &mut draws.mixup);
            mixing.rows(&mut inputs);
            targets.mix(&mixing);
            mixing.labels(&mut labels);
        }
        Batch { inputs, targets, labels }
    }
}
