//! Tries to falsify the promise: a wrong clip, missing or misplaced noise, another sampling. Passing is no proof.

mod clipping;
mod drawing;
mod training;

use std::sync::Arc;

use burn::tensor::{Tensor, TensorData};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::lab::Compute;
use crate::lab::device::Device;
use crate::lab::network::{Activation, Architecture, Network, Norm};

/// A network with its rows and their labels.
struct Case {
    name: &'static str,
    network: Network,
    rows: Vec<Vec<f32>>,
    labels: Vec<usize>,
}

impl Case {
    fn new(name: &'static str, architecture: &Architecture, row_shape: &[usize], n_rows: usize) -> Self {
        let n_classes = 5;
        let mut rng = ChaCha8Rng::seed_from_u64(11);
        let plan = Arc::new(architecture.plan(row_shape, n_classes, None).unwrap());
        let network = Network::init(plan, 3, &Device::Cpu.open().unwrap().training());
        let n_values: usize = row_shape.iter().product();
        // Rows of very different sizes: so are their gradients.
        let rows = (0..n_rows).map(|row| {
            let scale = 0.1 * 3f32.powi(row as i32 % 5);
            (0..n_values).map(|_| rng.random_range(-scale..scale)).collect()
        });
        let rows = rows.collect();
        let labels = (0..n_rows).map(|row| row % n_classes).collect();
        Self { name, network, rows, labels }
    }

    /// One of each kind of operator and of each way to the norm of a convolution.
    fn all() -> Vec<Self> {
        let mlp = |hidden: &[usize], activation| Architecture::Mlp { hidden: hidden.to_vec(), activation };
        let convnet = Architecture::Convnet {
            channels: vec![8, 12],
            side: 3,
            norm: Norm::Group,
            hidden: vec![10],
            activation: Activation::Relu,
        };
        let densenet = Architecture::Densenet { depth: 10, growth: 4, compression: 0.5, norm: Norm::Group };
        let resnet = Architecture::Resnet { blocks: vec![1, 1], width: 16, norm: Norm::Group };
        vec![
            Self::new("mlp", &mlp(&[16, 8], Activation::Relu), &[12], 9),
            Self::new("tanh fcn", &mlp(&[64, 32, 16, 8], Activation::Tanh), &[40], 9),
            Self::new("cnn", &Architecture::Cnn { channels: [4, 6], hidden: 8 }, &[3, 12, 12], 7),
            Self::new("group norm cnn", &convnet, &[3, 9, 9], 7),
            Self::new("densenet, group norm", &densenet, &[3, 8, 8], 6),
            Self::new("resnet, group norm", &resnet, &[3, 8, 8], 6),
            Self::new("ml-leaks", &Architecture::MlLeaks, &[3, 12, 12], 5),
        ]
    }

    fn tensor(&self, rows: &[usize]) -> Tensor<Compute, 2> {
        let values: Vec<f32> = rows.iter().flat_map(|&row| self.rows[row].clone()).collect();
        let shape = [rows.len(), self.rows[0].len()];
        Tensor::from_data(TensorData::new(values, shape), self.network.device())
    }

    /// Cross-entropy of each of these rows, written down anew.
    fn losses(&self, rows: &[usize]) -> impl FnOnce(Tensor<Compute, 2>) -> Tensor<Compute, 1> + use<> {
        let labels: Vec<usize> = rows.iter().map(|&row| self.labels[row]).collect();
        move |logits| {
            let [n_rows, n_classes] = logits.dims();
            let mut mask = vec![0f32; n_rows * n_classes];
            labels.iter().enumerate().for_each(|(row, label)| mask[row * n_classes + label] = 1.0);
            let mask = Tensor::<Compute, 2>::from_data(TensorData::new(mask, [n_rows, n_classes]), &logits.device());
            let right = (logits.clone() * mask).sum_dim(1).squeeze_dim::<1>(1);
            logits.exp().sum_dim(1).log().squeeze_dim::<1>(1) - right
        }
    }

    fn all_rows(&self) -> Vec<usize> {
        (0..self.rows.len()).collect()
    }
}
