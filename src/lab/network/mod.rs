//! Networks: a [`Plan`] of operators and the weights that it runs with, on whatever device burn offers.
//!
//! Responsible for building a network by name ([`zoo`]), for its forward pass and for its weights as plain numbers.
//! Not responsible for how weights are learned (`train`) or how a network leaves as ONNX (`onnx`): both walk over the
//! same plan. The device is a value ([`crate::lab::device`]); nothing here is generic over it.

mod convolution;
mod forward;
mod grad_cam;
pub mod plan;
mod weights;
pub mod weights_file;
pub mod zoo;

use std::sync::Arc;

use anyhow::Context;
use burn::tensor::{Tensor, TensorData};
use ndarray::{Array2, ArrayD};

pub use forward::{Dropout, Hook, Pass, Statistics, Value};
pub(super) use forward::{NORM_EPSILON, group_normal};
pub use plan::{Op, Plan};
pub use weights::{Plain, Weights};
pub use weights_file::{About, WeightsFileError};
pub use zoo::{Activation, Architecture, NetworkError, Norm, Normalisation};

use super::Compute;

/// Rows in a batch of an evaluation, where memory allows; the result does not depend on it.
const EVALUATION_BATCH: usize = 256;

/// Values that one step of an evaluation may give at once: 256 MiB.
const EVALUATION_VALUES: usize = 1 << 26;

/// A network with its weights.
#[derive(Debug, Clone)]
pub struct Network {
    plan: Arc<Plan>,
    weights: Weights<Compute>,
    device: burn::DispatchDevice,
}

impl Network {
    /// Builds a network whose weights are drawn from `seed`, one array after the other in the order of the plan.
    #[must_use]
    pub fn init(plan: Arc<Plan>, seed: u64, device: &burn::DispatchDevice) -> Self {
        let weights = Weights::draw(&plan, seed, device);
        Self { plan, weights, device: device.clone() }
    }

    /// A network with these weights.
    pub(super) fn with(plan: Arc<Plan>, weights: Weights<Compute>, device: burn::DispatchDevice) -> Self {
        Self { plan, weights, device }
    }

    /// The operators.
    #[must_use]
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// The weights.
    #[must_use]
    pub fn weights(&self) -> &Weights<Compute> {
        &self.weights
    }

    /// Where the network runs.
    #[must_use]
    pub fn device(&self) -> &burn::DispatchDevice {
        &self.device
    }

    /// How many numbers are learned.
    #[must_use]
    pub fn n_parameters(&self) -> usize {
        self.plan.n_parameters()
    }

    /// The logits of a batch.
    ///
    /// # Shapes
    ///
    /// `(n_rows, n_features)` to `(n_rows, n_classes)`.
    #[must_use]
    pub fn forward(&self, rows: Tensor<Compute, 2>) -> Tensor<Compute, 2> {
        self.run(rows, self.plan.steps().len() - 1, None)
    }

    /// The logits of a batch as an array, for evaluation.
    ///
    /// # Shapes
    ///
    /// `(n_rows, row_shape…)` to `(n_rows, n_classes)`.
    #[must_use]
    pub fn logits(&self, rows: ArrayD<f32>) -> Array2<f32> {
        to_array(self.evaluate(rows, self.plan.steps().len() - 1))
    }

    /// What goes into the last linear layer: the paper's latent features.
    ///
    /// # Shapes
    ///
    /// `(n_rows, row_shape…)` to `(n_rows, n_penultimate)`.
    #[must_use]
    pub fn features(&self, rows: ArrayD<f32>) -> Array2<f32> {
        to_array(self.evaluate(rows, self.plan.features()))
    }

    /// What a step of the plan gives: for Grad-CAM the activations of a convolution.
    ///
    /// # Shapes
    ///
    /// `(n_rows, row_shape…)` to `(n_rows, step.shape…)`.
    ///
    /// # Errors
    ///
    /// When the plan has no such step.
    pub fn value(&self, rows: ArrayD<f32>, step: plan::ValueId) -> anyhow::Result<ArrayD<f32>> {
        let steps = self.plan.steps();
        let shape =
            &steps.get(step).with_context(|| format!("expected a step below {}, got {step}", steps.len()))?.shape;
        let values = to_array(self.evaluate(rows, step));
        let shape: Vec<usize> = std::iter::once(values.nrows()).chain(shape.iter().copied()).collect();
        Ok(values.into_shape_with_order(shape)?)
    }

    /// The value of a step in evaluation, `(n_rows, product of step.shape)`.
    fn evaluate(&self, rows: ArrayD<f32>, step: plan::ValueId) -> Tensor<Compute, 2> {
        self.run(to_tensor(rows, &self.device), step, None)
    }

    /// How many rows an evaluation takes at once.
    #[must_use]
    pub fn evaluation_batch(&self) -> usize {
        let largest = self.plan.steps().iter().map(|step| step.shape.iter().product::<usize>()).max().unwrap_or(1);
        (EVALUATION_VALUES / largest.max(1)).clamp(1, EVALUATION_BATCH)
    }

    /// Calls `each` with the logits of batches of the named rows, in their order.
    ///
    /// # Errors
    ///
    /// What `each` says.
    pub fn for_each_batch(
        &self,
        dataset: &crate::data::Dataset,
        rows: &[usize],
        mut each: impl FnMut(&[usize], Array2<f32>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        rows.chunks(self.evaluation_batch()).try_for_each(|rows| each(rows, self.logits(dataset.batch(rows))))
    }
}

/// A batch as a matrix on the device.
pub(super) fn to_tensor(rows: ArrayD<f32>, device: &burn::DispatchDevice) -> Tensor<Compute, 2> {
    let n_rows = rows.shape().first().copied().unwrap_or(0);
    let values: Vec<f32> =
        if rows.is_standard_layout() { rows.into_raw_vec_and_offset().0 } else { rows.iter().copied().collect() };
    let n_features = values.len().checked_div(n_rows).unwrap_or(0);
    Tensor::from_data(TensorData::new(values, [n_rows, n_features]), device)
}

/// A matrix back from the device.
pub(super) fn to_array(values: Tensor<Compute, 2>) -> Array2<f32> {
    let shape: [usize; 2] = values.dims();
    let values = values.into_data().convert::<f32>().to_vec().expect("the data was converted to f32");
    Array2::from_shape_vec(shape, values).expect("a tensor holds as many values as its shape says")
}
