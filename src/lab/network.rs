//! The two small networks: a convolutional one for images and a perceptron for anything.

use std::fmt;

use burn::module::{Module, Param};
use burn::nn::conv::Conv2d;
use burn::nn::{Linear, PaddingConfig2d};
use burn::tensor::activation::relu;
use burn::tensor::backend::Backend;
use burn::tensor::module::max_pool2d;
use burn::tensor::{Tensor, TensorData};
use ndarray::{Array2, ArrayD};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::{Deserialize, Serialize};

/// Sides of the square kernels of the convolutions; each is padded to keep the image's size.
const KERNELS: [usize; 2] = [5, 3];

/// The stream of the generator that draws weights: stream 0 draws splits, streams from 2 order rows.
const WEIGHTS_STREAM: u64 = 1;

/// No layer has more units than this.
const MAX_WIDTH: usize = 65_536;

/// What a network looks like, before it knows its data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Architecture {
    /// Convolution 5×5, ReLU, max pool 2, convolution 3×3, ReLU, max pool 2, linear, ReLU, linear.
    Cnn {
        /// Output channels of the two convolutions.
        channels: [usize; 2],
        /// Units of the hidden linear layer.
        hidden: usize,
    },
    /// Linear layers with ReLU between them.
    Mlp {
        /// Units of the hidden layers.
        hidden: Vec<usize>,
    },
}

/// In the words of the options of `train`.
impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cnn { channels: [a, b], hidden } => write!(f, "cnn (channels {a},{b}, hidden {hidden})"),
            Self::Mlp { hidden } if hidden.is_empty() => f.write_str("mlp (no hidden layer)"),
            Self::Mlp { hidden } => {
                let sizes: Vec<String> = hidden.iter().map(ToString::to_string).collect();
                write!(f, "mlp (hidden {})", sizes.join(","))
            }
        }
    }
}

/// Why a network cannot be built for some data.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// The convolutional network was asked for rows that are no images.
    #[error("expected rows of shape [channels, height, width], each side at least 4, for a cnn, got {0:?}")]
    NotImages(Vec<usize>),
    /// A layer without units, or with too many.
    #[error("expected 1 to {MAX_WIDTH} units in every layer, got {0}")]
    Width(usize),
}

/// A network with its weights. Built by [`Network::init`], or by loading a record into one.
#[derive(Module, Debug)]
pub struct Network<B: Backend> {
    convolutions: Vec<Conv2d<B>>,
    linears: Vec<Linear<B>>,
}

impl<B: Backend> Network<B> {
    /// Builds a network with weights drawn from `seed`: each uniform in ±1/√fan-in, biases too (what torch
    /// does by default).
    ///
    /// # Errors
    ///
    /// [`NetworkError`] when the architecture does not fit the rows.
    pub fn init(
        architecture: &Architecture,
        row_shape: &[usize],
        n_classes: usize,
        seed: u64,
        device: &B::Device,
    ) -> Result<Self, NetworkError> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(WEIGHTS_STREAM);
        let mut draw = Draw { rng, device };
        let (channels, hidden) = match architecture {
            Architecture::Cnn { channels, hidden } => (channels.as_slice(), std::slice::from_ref(hidden)),
            Architecture::Mlp { hidden } => ([].as_slice(), hidden.as_slice()),
        };
        if let Some(&width) = channels.iter().chain(hidden).find(|&&width| width == 0 || width > MAX_WIDTH) {
            return Err(NetworkError::Width(width));
        }
        let mut n_inputs: usize = row_shape.iter().product();
        let mut convolutions = Vec::new();
        if !channels.is_empty() {
            let &[mut n_channels, mut height, mut width] = row_shape else {
                return Err(NetworkError::NotImages(row_shape.to_vec()));
            };
            if height < 4 || width < 4 {
                return Err(NetworkError::NotImages(row_shape.to_vec()));
            }
            for (&n_outputs, side) in channels.iter().zip(KERNELS) {
                convolutions.push(draw.convolution(n_channels, n_outputs, side));
                (n_channels, height, width) = (n_outputs, height / 2, width / 2);
            }
            n_inputs = n_channels * height * width;
        }
        let mut linears = Vec::new();
        for &n_outputs in hidden.iter().chain([&n_classes]) {
            linears.push(draw.linear(n_inputs, n_outputs));
            n_inputs = n_outputs;
        }
        Ok(Self { convolutions, linears })
    }

    /// The logits of a batch.
    ///
    /// # Shapes
    ///
    /// `(n_rows, n_features)` to `(n_rows, n_classes)`; `row_shape` says how a row's features are an image.
    pub fn forward(&self, rows: Tensor<B, 2>, row_shape: &[usize]) -> Tensor<B, 2> {
        let mut rows = rows;
        if let (false, &[channels, height, width]) = (self.convolutions.is_empty(), row_shape) {
            let n_rows = rows.dims()[0];
            let mut images = rows.reshape([n_rows, channels, height, width]);
            for convolution in &self.convolutions {
                let activations = relu(convolution.forward(images));
                images = max_pool2d(activations, [2, 2], [2, 2], [0, 0], [1, 1], false);
            }
            rows = images.flatten(1, 3);
        }
        for (index, linear) in self.linears.iter().enumerate() {
            rows = linear.forward(if index == 0 { rows } else { relu(rows) });
        }
        rows
    }

    /// The logits of a batch as an array, for evaluation.
    ///
    /// # Shapes
    ///
    /// `(n_rows, row_shape…)` to `(n_rows, n_classes)`.
    pub fn logits(&self, rows: ArrayD<f32>, row_shape: &[usize], device: &B::Device) -> Array2<f32> {
        let logits = self.forward(to_tensor(rows, device), row_shape);
        let shape: [usize; 2] = logits.dims();
        let values = logits.into_data().convert::<f32>().to_vec().expect("the data was converted to f32");
        Array2::from_shape_vec(shape, values).expect("a tensor holds as many values as its shape says")
    }

    /// The layers in the order in which they run, with plain weights: what the ONNX export takes.
    #[must_use]
    pub fn layers(&self) -> Vec<Layer> {
        let mut layers = Vec::new();
        for convolution in &self.convolutions {
            layers.push(Layer::Convolution {
                weight: plain(&convolution.weight),
                bias: plain_bias(convolution.bias.as_ref()),
                padding: convolution.kernel_size[0] / 2,
            });
            layers.extend([Layer::Relu, Layer::MaxPool2]);
        }
        layers.push(Layer::Flatten);
        for (index, linear) in self.linears.iter().enumerate() {
            if index > 0 {
                layers.push(Layer::Relu);
            }
            layers.push(Layer::Linear { weight: plain(&linear.weight), bias: plain_bias(linear.bias.as_ref()) });
        }
        layers
    }
}

/// One step of a network, free of burn.
#[derive(Debug, Clone, PartialEq)]
pub enum Layer {
    /// Stride 1, `padding` zeros on every side. `weight` is `(outputs, inputs, side, side)`.
    Convolution {
        /// The kernels.
        weight: Weights,
        /// One number an output channel.
        bias: Weights,
        /// Zeros on every side.
        padding: usize,
    },
    /// `max(x, 0)`.
    Relu,
    /// The largest of each 2×2 square; a last odd line or column is left out.
    MaxPool2,
    /// From `(n, …)` to `(n, product)`.
    Flatten,
    /// `x · weight + bias`. `weight` is `(inputs, outputs)`.
    Linear {
        /// The matrix.
        weight: Weights,
        /// One number an output.
        bias: Weights,
    },
}

/// Weights as plain numbers, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Weights {
    /// The size of each dimension.
    pub shape: Vec<usize>,
    /// The numbers.
    pub values: Vec<f32>,
}

/// A batch as a matrix on the device.
pub(super) fn to_tensor<B: Backend>(rows: ArrayD<f32>, device: &B::Device) -> Tensor<B, 2> {
    let n_rows = rows.shape().first().copied().unwrap_or(0);
    let values: Vec<f32> = rows.into_iter().collect();
    let n_features = values.len().checked_div(n_rows).unwrap_or(0);
    Tensor::from_data(TensorData::new(values, [n_rows, n_features]), device)
}

fn plain<B: Backend, const D: usize>(parameter: &Param<Tensor<B, D>>) -> Weights {
    let data = parameter.val().into_data().convert::<f32>();
    let shape = data.shape.iter().copied().collect();
    Weights { shape, values: data.to_vec().expect("the data was converted to f32") }
}

fn plain_bias<B: Backend>(parameter: Option<&Param<Tensor<B, 1>>>) -> Weights {
    parameter.map_or(Weights { shape: vec![0], values: Vec::new() }, plain)
}

/// Draws parameters from one generator, in the order of the layers.
struct Draw<'a, B: Backend> {
    rng: ChaCha8Rng,
    device: &'a B::Device,
}

impl<B: Backend> Draw<'_, B> {
    fn parameter<const D: usize>(&mut self, shape: [usize; D], fan_in: usize) -> Param<Tensor<B, D>> {
        let bound = 1.0 / (fan_in as f32).sqrt();
        let n_values = shape.iter().product();
        let values: Vec<f32> = (0..n_values).map(|_| self.rng.random_range(-bound..bound)).collect();
        Param::from_data(TensorData::new(values, shape), self.device)
    }

    fn convolution(&mut self, n_inputs: usize, n_outputs: usize, side: usize) -> Conv2d<B> {
        let fan_in = n_inputs * side * side;
        let pad = side / 2;
        Conv2d {
            weight: self.parameter([n_outputs, n_inputs, side, side], fan_in),
            bias: Some(self.parameter([n_outputs], fan_in)),
            stride: [1, 1],
            kernel_size: [side, side],
            dilation: [1, 1],
            groups: 1,
            padding: PaddingConfig2d::Explicit(pad, pad, pad, pad),
        }
    }

    fn linear(&mut self, n_inputs: usize, n_outputs: usize) -> Linear<B> {
        Linear {
            weight: self.parameter([n_inputs, n_outputs], n_inputs),
            bias: Some(self.parameter([n_outputs], n_inputs)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::Cpu;

    fn cnn() -> Architecture {
        Architecture::Cnn { channels: [4, 6], hidden: 8 }
    }

    #[test]
    fn both_networks_give_one_row_of_logits_for_each_row() {
        let device = Default::default();
        for (architecture, row_shape) in [
            (cnn(), vec![1, 28, 28]),
            (cnn(), vec![3, 32, 32]),
            (cnn(), vec![1, 5, 7]),
            (Architecture::Mlp { hidden: vec![16, 8] }, vec![446]),
            (Architecture::Mlp { hidden: vec![] }, vec![1, 28, 28]),
        ] {
            let network = Network::<Cpu>::init(&architecture, &row_shape, 10, 7, &device).unwrap();
            for n_rows in [1, 3, 64] {
                let mut shape = vec![n_rows];
                shape.extend(&row_shape);
                let logits = network.logits(ArrayD::zeros(shape), &row_shape, &device);
                assert_eq!(logits.dim(), (n_rows, 10));
                assert!(logits.iter().all(|value| value.is_finite()));
            }
        }
    }

    #[test]
    fn a_row_answers_the_same_alone_and_in_a_batch() {
        let device = Default::default();
        let network = Network::<Cpu>::init(&cnn(), &[1, 8, 8], 3, 1, &device).unwrap();
        let batch = ArrayD::from_shape_fn(vec![5, 1, 8, 8], |i| (i[0] * 7 + i[2] * 3 + i[3]) as f32 / 50.0);
        let together = network.logits(batch.clone(), &[1, 8, 8], &device);
        for row in 0..5 {
            let alone = batch.select(ndarray::Axis(0), &[row]);
            let alone = network.logits(alone, &[1, 8, 8], &device);
            for (a, b) in alone.row(0).iter().zip(together.row(row)) {
                assert!((a - b).abs() < 1e-5, "{a} and {b}");
            }
        }
    }

    #[test]
    fn the_seed_decides_the_weights() {
        let device = Default::default();
        let init = |seed| Network::<Cpu>::init(&cnn(), &[1, 8, 8], 3, seed, &device).unwrap().layers();
        assert_eq!(init(1), init(1));
        assert_ne!(init(1), init(2));
    }

    #[test]
    fn a_network_that_does_not_fit_the_rows_is_refused() {
        let device = Default::default();
        let init = |architecture: &Architecture, shape: &[usize]| {
            Network::<Cpu>::init(architecture, shape, 3, 1, &device).map(|_| ()).unwrap_err()
        };
        assert_eq!(init(&cnn(), &[446]), NetworkError::NotImages(vec![446]));
        assert_eq!(init(&cnn(), &[1, 3, 28]), NetworkError::NotImages(vec![1, 3, 28]));
        assert_eq!(init(&Architecture::Mlp { hidden: vec![0] }, &[4]), NetworkError::Width(0));
    }
}
