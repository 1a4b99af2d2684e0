//! One array for each learned parameter of a network: a sum of gradients on its way to the optimizer.

use burn::optim::GradientsParams;
use burn::tensor::{Tensor, TensorData};
use rand_chacha::ChaCha8Rng;

use super::noise::normals;
use crate::lab::Compute;
use crate::lab::network::plan::{At, ParameterId};
use crate::lab::network::{Plain, Plan, Weights};

/// A sum of gradients; what nothing was added to is zero.
#[derive(Debug, Clone, Default)]
pub struct Gradients {
    kernels: Vec<Option<Tensor<Compute, 4>>>,
    matrices: Vec<Option<Tensor<Compute, 2>>>,
    vectors: Vec<Option<Tensor<Compute, 1>>>,
}

fn accumulate<const D: usize>(slots: &mut Vec<Option<Tensor<Compute, D>>>, id: ParameterId, value: Tensor<Compute, D>) {
    if slots.len() <= id {
        slots.resize(id + 1, None);
    }
    slots[id] = Some(match slots[id].take() {
        Some(sum) => sum + value,
        None => value,
    });
}

impl Gradients {
    pub(super) fn add_kernel(&mut self, id: ParameterId, value: Tensor<Compute, 4>) {
        accumulate(&mut self.kernels, id, value);
    }

    pub(super) fn add_matrix(&mut self, id: ParameterId, value: Tensor<Compute, 2>) {
        accumulate(&mut self.matrices, id, value);
    }

    pub(super) fn add_vector(&mut self, id: ParameterId, value: Tensor<Compute, 1>) {
        accumulate(&mut self.vectors, id, value);
    }

    /// The sum of both.
    #[must_use]
    pub fn plus(mut self, other: Self) -> Self {
        let slots = |n: usize| 0..n;
        for (id, value) in slots(other.kernels.len()).zip(other.kernels) {
            value.into_iter().for_each(|value| self.add_kernel(id, value));
        }
        for (id, value) in slots(other.matrices.len()).zip(other.matrices) {
            value.into_iter().for_each(|value| self.add_matrix(id, value));
        }
        for (id, value) in slots(other.vectors.len()).zip(other.vectors) {
            value.into_iter().for_each(|value| self.add_vector(id, value));
        }
        self
    }

    /// The step's gradient: noise of standard deviation `noise` on every number of the sum, then divided by the
    /// expected batch size. Every learned array gets its noise, in the order of the plan, whether or not
    /// anything was added to it.
    #[must_use]
    pub fn release(
        mut self,
        plan: &Plan,
        weights: &Weights<Compute>,
        noise: f64,
        expected_batch: f64,
        rng: &mut ChaCha8Rng,
    ) -> GradientsParams {
        let mut released = GradientsParams::new();
        for parameter in plan.parameters() {
            let n_values = parameter.shape.iter().product();
            let mut noise = || TensorData::new(normals(rng, n_values, noise), parameter.shape.clone());
            match parameter.at {
                At::Kernel(id) => {
                    let own = &weights.kernels[id];
                    let noise = Tensor::from_data(noise(), &own.val().inner().device());
                    accumulate(&mut self.kernels, id, noise);
                    if let Some(sum) = self.kernels[id].take() {
                        released.register(own.id, sum / expected_batch);
                    }
                }
                At::Matrix(id) => {
                    let own = &weights.matrices[id];
                    let noise = Tensor::from_data(noise(), &own.val().inner().device());
                    accumulate(&mut self.matrices, id, noise);
                    if let Some(sum) = self.matrices[id].take() {
                        released.register(own.id, sum / expected_batch);
                    }
                }
                At::Vector(id) => {
                    let own = &weights.vectors[id];
                    let noise = Tensor::from_data(noise(), &own.val().inner().device());
                    accumulate(&mut self.vectors, id, noise);
                    if let Some(sum) = self.vectors[id].take() {
                        released.register(own.id, sum / expected_batch);
                    }
                }
                At::Running(_) => {}
            }
        }
        released
    }

    /// The learned arrays in the order of the plan, as plain numbers.
    #[must_use]
    pub fn plain(&self, plan: &Plan) -> Vec<Plain> {
        let learned = plan.parameters().iter().filter(|parameter| !matches!(parameter.at, At::Running(_)));
        learned
            .map(|parameter| {
                let values = match parameter.at {
                    At::Kernel(id) => values_of(&self.kernels, id),
                    At::Matrix(id) => values_of(&self.matrices, id),
                    At::Vector(id) | At::Running(id) => values_of(&self.vectors, id),
                };
                let n_values = parameter.shape.iter().product();
                Plain { shape: parameter.shape.clone(), values: values.unwrap_or_else(|| vec![0.0; n_values]) }
            })
            .collect()
    }
}

fn values_of<const D: usize>(slots: &[Option<Tensor<Compute, D>>], id: ParameterId) -> Option<Vec<f32>> {
    let values = slots.get(id)?.clone()?.into_data().convert::<f32>();
    Some(values.to_vec().expect("the data was converted to f32"))
}
