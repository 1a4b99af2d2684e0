//! The slow, obvious way: one backward pass a row. It is what [`clipped_sum`](super::clipped_sum) is tested and
//! measured against, and shares nothing with it but the network.

use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::lab::network::plan::At;
use crate::lab::network::{Dropout, Network, Pass};
use crate::lab::{Compute, autodiff};

/// The gradient of one row's loss: every learned number, in the order of the plan. Without dropout.
///
/// # Shapes
///
/// `row` is `(1, n_features)`.
#[must_use]
pub fn gradient_of_row(
    network: &Network,
    row: Tensor<Compute, 2>,
    losses: impl FnOnce(Tensor<Compute, 2>) -> Tensor<Compute, 1>,
) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let mut pass =
        Pass { dropout: Dropout::default(), rngs: std::slice::from_mut(&mut rng), statistics: vec![], hook: None };
    let _alone = autodiff::one_at_a_time();
    let loss = losses(network.forward_training(row, &mut pass)).sum();
    numbers(network, &GradientsParams::from_grads(loss.backward(), network.weights()))
}

/// The learned numbers of gradients, in the order of the plan; what has none is zero.
#[must_use]
pub fn numbers(network: &Network, gradients: &GradientsParams) -> Vec<f32> {
    let weights = network.weights();
    let mut values = Vec::with_capacity(network.n_parameters());
    for parameter in network.plan().parameters() {
        let data = match parameter.at {
            At::Kernel(id) => gradients.get::<Compute, 4>(weights.kernels[id].id).map(Tensor::into_data),
            At::Matrix(id) => gradients.get::<Compute, 2>(weights.matrices[id].id).map(Tensor::into_data),
            At::Vector(id) => gradients.get::<Compute, 1>(weights.vectors[id].id).map(Tensor::into_data),
            At::Running(_) => continue,
        };
        match data {
            Some(data) => values.extend(data.convert::<f32>().iter::<f32>()),
            None => values.resize(values.len() + parameter.shape.iter().product::<usize>(), 0.0),
        }
    }
    values
}

/// The norm of a gradient, in f64.
#[must_use]
pub fn norm(gradient: &[f32]) -> f64 {
    gradient.iter().map(|&value| f64::from(value) * f64::from(value)).sum::<f64>().sqrt()
}

/// Adds a gradient, clipped to the norm `clip` as a whole, to a sum.
pub fn add_clipped(sum: &mut [f64], gradient: &[f32], clip: f64) {
    let factor = (clip / (norm(gradient) + 1e-6)).min(1.0);
    sum.iter_mut().zip(gradient).for_each(|(sum, &value)| *sum += factor * f64::from(value));
}
