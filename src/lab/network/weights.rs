//! The numbers of a network: drawn from a seed, held by burn, given back as plain arrays.

use burn::module::{Module, Param};
use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::plan::{At, Begin, Parameter, Plan};
use crate::lab::streams;

/// The arrays of a network, by kind; a plan's [`At`] says which is which.
#[derive(Module, Debug)]
pub struct Weights<B: Backend> {
    /// Kernels of convolutions.
    pub kernels: Vec<Param<Tensor<B, 4>>>,
    /// Matrices of linear layers, `(inputs, outputs)`.
    pub matrices: Vec<Param<Tensor<B, 2>>>,
    /// Biases, scales and shifts.
    pub vectors: Vec<Param<Tensor<B, 1>>>,
    /// Running statistics: no gradient flows to them.
    pub running: Vec<Param<Tensor<B, 1>>>,
}

/// One array as plain numbers, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Plain {
    /// The size of each dimension.
    pub shape: Vec<usize>,
    /// The numbers.
    pub values: Vec<f32>,
}

impl<B: Backend> Weights<B> {
    /// Draws every array of the plan, in its order, from one generator.
    pub(super) fn draw(plan: &Plan, seed: u64, device: &B::Device) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(streams::WEIGHTS);
        Self::fill(plan, device, |parameter| {
            let n_values = parameter.shape.iter().product();
            let values = match parameter.begin {
                Begin::Uniform(bound) => (0..n_values).map(|_| rng.random_range(-bound..bound)).collect(),
                Begin::Normal(deviation) => normals(&mut rng, n_values, deviation),
                Begin::Constant(value) => vec![value; n_values],
            };
            Plain { shape: parameter.shape.clone(), values }
        })
    }

    /// Weights whose arrays `get` gives, in the order of the plan; each has the shape that the plan names.
    pub(in crate::lab) fn fill(plan: &Plan, device: &B::Device, mut get: impl FnMut(&Parameter) -> Plain) -> Self {
        let mut weights = Self { kernels: vec![], matrices: vec![], vectors: vec![], running: vec![] };
        for parameter in plan.parameters() {
            let Plain { shape, values } = get(parameter);
            let data = TensorData::new(values, shape);
            match parameter.at {
                At::Kernel(_) => weights.kernels.push(Param::from_data(data, device)),
                At::Matrix(_) => weights.matrices.push(Param::from_data(data, device)),
                At::Vector(_) => weights.vectors.push(Param::from_data(data, device)),
                At::Running(_) => {
                    let followed: Param<Tensor<B, 1>> = Param::from_data(data, device);
                    weights.running.push(followed.set_require_grad(false));
                }
            }
        }
        weights
    }

    /// One array as plain numbers.
    #[must_use]
    pub fn plain(&self, at: At) -> Plain {
        match at {
            At::Kernel(id) => plain(&self.kernels[id]),
            At::Matrix(id) => plain(&self.matrices[id]),
            At::Vector(id) => plain(&self.vectors[id]),
            At::Running(id) => plain(&self.running[id]),
        }
    }

    /// The name of an array in a file of weights.
    #[must_use]
    pub fn name(at: At) -> String {
        match at {
            At::Kernel(id) => format!("kernels.{id}"),
            At::Matrix(id) => format!("matrices.{id}"),
            At::Vector(id) => format!("vectors.{id}"),
            At::Running(id) => format!("running.{id}"),
        }
    }
}

fn plain<B: Backend, const D: usize>(parameter: &Param<Tensor<B, D>>) -> Plain {
    let data = parameter.val().into_data().convert::<f32>();
    let shape = data.shape.iter().copied().collect();
    Plain { shape, values: data.to_vec().expect("the data was converted to f32") }
}

/// Normal numbers by Box and Muller: two uniform draws give two.
pub(in crate::lab) fn normals(rng: &mut impl Rng, n_values: usize, deviation: f32) -> Vec<f32> {
    let mut values = Vec::with_capacity(n_values + 1);
    while values.len() < n_values {
        // 1 − u lies in (0, 1].
        let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
        let (sine, cosine) = (std::f64::consts::TAU * rng.random::<f64>()).sin_cos();
        values.push((radius * cosine * f64::from(deviation)) as f32);
        values.push((radius * sine * f64::from(deviation)) as f32);
    }
    values.truncate(n_values);
    values
}
