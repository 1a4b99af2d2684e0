//! The networks that are known by name, as plans: the papers', those that other tools attack, and plain ones by numbers.
//!
//! `check` says which numbers make a network at all, `build` lays the operators; this file holds the names.

mod build;
mod check;
#[cfg(test)]
mod tests;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use self::check::{MAX_PARAMETERS, MAX_VALUES};
use super::plan::{Op, Plan};

/// No layer has more units or channels than this.
const MAX_WIDTH: usize = 65_536;

/// What a network looks like, before it knows its data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Architecture {
    /// Convolution 5×5, ReLU, max pool 2, convolution 3×3, ReLU, max pool 2, linear, ReLU, linear.
    Cnn {
        /// Output channels of the two convolutions.
        channels: [usize; 2],
        /// Units of the hidden linear layer.
        hidden: usize,
    },
    /// Linear layers with an activation between them.
    Mlp {
        /// Units of the hidden layers.
        hidden: Vec<usize>,
        /// Between the layers.
        #[serde(default, skip_serializing_if = "Activation::is_relu")]
        activation: Activation,
    },
    /// Blocks of convolution, norm, activation and max pool 2, then linear layers.
    Convnet {
        /// Output channels of each block.
        channels: Vec<usize>,
        /// Side of the square kernels: odd.
        side: usize,
        /// Behind each convolution.
        norm: Norm,
        /// Units of the hidden linear layers.
        hidden: Vec<usize>,
        /// Behind each norm and hidden layer.
        activation: Activation,
    },
    /// DenseNet-BC (Huang et al. 2017) for small images, as in the paper's code: depth 100, growth 12, compression ½.
    Densenet {
        /// Layers in all, `6 n + 4`.
        depth: usize,
        /// Channels that each bottleneck adds.
        growth: usize,
        /// Share of the channels that a transition keeps.
        compression: f64,
        /// Before each ReLU.
        norm: Norm,
    },
    /// ResNet (He et al. 2016) with basic blocks and a 3×3 stem, for small images: two blocks in each of four stages
    /// is ResNet-18.
    Resnet {
        /// Basic blocks in each stage; from the second on a stage begins with stride 2.
        blocks: Vec<usize>,
        /// Channels of the first stage; each further one has twice as many.
        width: usize,
        /// Behind each convolution.
        norm: Norm,
    },
    /// ResNet-9 of the CIFAR-10 speed runs (David Page's DAWNBench entry, 2018), which membership-inference tools train
    /// their shadow models with: convolutions of 64, 128, 256 and 512 channels, a residual of two convolutions behind
    /// the second and the fourth, max pools. Its constant factor ⅛ before the softmax is left out, and the last layer
    /// has a bias.
    Resnet9 {
        /// Channels of the first convolution (64).
        width: usize,
        /// Behind each convolution.
        norm: Norm,
    },
    /// The convolutional network of ML-Leaks and of the CS2980 report: 5×5×32 'same', pool, 5×5×32 'valid', pool,
    /// linear 128 tanh, linear.
    MlLeaks,
}

/// A function between two layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activation {
    /// `max(x, 0)`.
    #[default]
    Relu,
    /// The hyperbolic tangent.
    Tanh,
}

impl Activation {
    fn is_relu(&self) -> bool {
        *self == Self::Relu
    }

    fn op(self) -> Op {
        match self {
            Self::Relu => Op::Relu,
            Self::Tanh => Op::Tanh,
        }
    }
}

/// What normalises the channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Norm {
    /// Nothing.
    None,
    /// Over the rows of a batch: rows see each other, which differential privacy forbids.
    #[default]
    Batch,
    /// Within a row, in groups of channels: gcd(32, channels) groups, as Opacus replaces batch normalisation.
    Group,
}

/// Why a network cannot be built for some data.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// A convolutional network was asked for rows that are no images, or too small ones.
    #[error("expected rows of shape [channels, height, width], each side at least {least}, for {network}, got {got:?}")]
    NotImages {
        /// The network.
        network: String,
        /// The smallest side that it takes.
        least: usize,
        /// The shape of the rows.
        got: Vec<usize>,
    },
    /// A layer without units, or with too many.
    #[error("expected 1 to {MAX_WIDTH} units in every layer, got {0}")]
    Width(usize),
    /// More weights, or more values between the layers, than a machine should be asked to hold.
    #[error("{network}: expected at most {most} {what}, got {got}")]
    TooLarge {
        /// The network.
        network: String,
        /// What there are too many of.
        what: &'static str,
        /// How many there may be.
        most: usize,
        /// How many there are.
        got: usize,
    },
    /// A number of the architecture that makes no network.
    #[error("{what}: expected {expected}, got {got}")]
    Number {
        /// Which number.
        what: &'static str,
        /// What it may be.
        expected: &'static str,
        /// What it is.
        got: String,
    },
}

/// In the words of the options of `train`.
impl Architecture {
    /// Whether there are hidden activations that a dropout can stand behind.
    #[must_use]
    pub fn has_hidden_dropout(&self) -> bool {
        match self {
            Self::Mlp { hidden, .. } | Self::Convnet { hidden, .. } => !hidden.is_empty(),
            _ => true,
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |sizes: &[usize]| sizes.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        match self {
            Self::Cnn { channels: [a, b], hidden } => write!(f, "cnn (channels {a},{b}, hidden {hidden})"),
            Self::Mlp { hidden, activation } => {
                let tanh = if activation.is_relu() { "" } else { ", tanh" };
                match hidden.as_slice() {
                    [] => f.write_str("mlp (no hidden layer)"),
                    hidden => write!(f, "mlp (hidden {}{tanh})", list(hidden)),
                }
            }
            Self::Convnet { channels, side, norm, hidden, activation } => write!(
                f,
                "convnet (channels {}, side {side}, norm {norm:?}, hidden {}, {activation:?})",
                list(channels),
                list(hidden)
            ),
            Self::Densenet { depth, growth, compression, norm } => {
                write!(f, "densenet (depth {depth}, growth {growth}, compression {compression}, norm {norm:?})")
            }
            Self::Resnet { blocks, width, norm } => {
                write!(f, "resnet (blocks {}, width {width}, norm {norm:?})", list(blocks))
            }
            Self::Resnet9 { width, norm } => write!(f, "resnet9 (width {width}, norm {norm:?})"),
            Self::MlLeaks => f.write_str("ml-leaks"),
        }
    }
}

/// Constants that rows are normalised with inside of the network, so that whoever serves it need not know them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Normalisation {
    /// Subtracted; one number a channel, or one a value of a row.
    pub mean: Vec<f32>,
    /// Divided by; as many, none of them zero.
    pub deviation: Vec<f32>,
}

impl Architecture {
    /// The paper's fully connected network for Purchase-100.
    #[must_use]
    pub fn fcn() -> Self {
        Self::Mlp { hidden: vec![1024, 512, 256, 128], activation: Activation::Tanh }
    }

    /// The paper's DenseNet-BC (L = 100, k = 12, θ = ½).
    #[must_use]
    pub fn densenet() -> Self {
        Self::Densenet { depth: 100, growth: 12, compression: 0.5, norm: Norm::Batch }
    }

    /// ResNet-18 for 32×32 images.
    #[must_use]
    pub fn resnet18() -> Self {
        Self::Resnet { blocks: vec![2, 2, 2, 2], width: 64, norm: Norm::Batch }
    }

    /// ResNet-9 at its usual width.
    #[must_use]
    pub fn resnet9() -> Self {
        Self::Resnet9 { width: 64, norm: Norm::Batch }
    }

    /// What normalises its channels.
    #[must_use]
    pub fn norm(&self) -> Norm {
        match self {
            Self::Convnet { norm, .. }
            | Self::Densenet { norm, .. }
            | Self::Resnet { norm, .. }
            | Self::Resnet9 { norm, .. } => *norm,
            Self::Cnn { .. } | Self::Mlp { .. } | Self::MlLeaks => Norm::None,
        }
    }

    /// The same network with another norm; what has none keeps none.
    #[must_use]
    pub fn with_norm(mut self, other: Norm) -> Self {
        if let Self::Convnet { norm, .. }
        | Self::Densenet { norm, .. }
        | Self::Resnet { norm, .. }
        | Self::Resnet9 { norm, .. } = &mut self
        {
            *norm = other;
        }
        self
    }

    /// The network for rows of `row_shape`, from the rows (normalised first, where asked) to `n_classes` logits.
    ///
    /// # Errors
    ///
    /// [`NetworkError`] when the numbers make no network, do not fit the rows, or ask for more than [`MAX_PARAMETERS`]
    /// weights or [`MAX_VALUES`] values between the layers.
    pub fn plan(
        &self,
        row_shape: &[usize],
        n_classes: usize,
        normalise: Option<&Normalisation>,
    ) -> Result<Plan, NetworkError> {
        check::rows(row_shape, n_classes)?;
        check::numbers(self, row_shape)?;
        if let Some(constants) = normalise {
            check::normalisation(constants, row_shape)?;
        }
        let plan = build::plan(self, row_shape, n_classes, normalise);
        check::size(self, &plan)?;
        Ok(plan)
    }
}
