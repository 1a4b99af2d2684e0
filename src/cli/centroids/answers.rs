//! Where a model's logits come from.

use std::num::NonZeroUsize;

use ndarray::Array2;

use crate::data::Dataset;
use crate::defence::offline;
use crate::engine::Engine;
use crate::tensor::Inputs;

/// Gives the logits of rows, on several threads at once.
pub(super) trait Answers: Sync {
    /// The logits (R2) of these rows of the data, shape `(rows.len(), n_classes)`.
    fn logits(&self, rows: &[usize]) -> anyhow::Result<Array2<f32>>;

    /// Threads that keep it busy.
    fn n_threads(&self) -> usize;

    /// Rows at a time that keep it busy.
    fn batch_size(&self) -> usize;
}

/// An ONNX graph, on every core.
pub(super) struct TractAnswers<'a> {
    pub(super) engine: &'a dyn Engine,
    pub(super) dataset: &'a Dataset,
}

impl Answers for TractAnswers<'_> {
    fn logits(&self, rows: &[usize]) -> anyhow::Result<Array2<f32>> {
        let inputs = Inputs::from_f32(&self.engine.spec().inputs[0], self.dataset.try_batch(rows)?)?;
        Ok(offline::logits(self.engine.infer(&inputs)?))
    }

    fn n_threads(&self) -> usize {
        std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
    }

    fn batch_size(&self) -> usize {
        64
    }
}
