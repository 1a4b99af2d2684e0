//! The networks that are known by name, as plans: the papers' and two plain ones by numbers.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::plan::{Begin, Op, Place, Plan, PlanBuilder, ValueId};

/// No layer has more units or channels than this.
const MAX_WIDTH: usize = 65_536;
/// No network has more layers of one kind than this.
const MAX_DEPTH: usize = 1_024;

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

    /// What normalises its channels.
    #[must_use]
    pub fn norm(&self) -> Norm {
        match self {
            Self::Convnet { norm, .. } | Self::Densenet { norm, .. } | Self::Resnet { norm, .. } => *norm,
            Self::Cnn { .. } | Self::Mlp { .. } | Self::MlLeaks => Norm::None,
        }
    }

    /// The same network with another norm; what has none keeps none.
    #[must_use]
    pub fn with_norm(mut self, other: Norm) -> Self {
        if let Self::Convnet { norm, .. } | Self::Densenet { norm, .. } | Self::Resnet { norm, .. } = &mut self {
            *norm = other;
        }
        self
    }

    /// The network for rows of `row_shape`, from the rows (normalised first, where asked) to `n_classes` logits.
    ///
    /// # Errors
    ///
    /// [`NetworkError`] when the numbers make no network or do not fit the rows.
    pub fn plan(
        &self,
        row_shape: &[usize],
        n_classes: usize,
        normalise: Option<&Normalisation>,
    ) -> Result<Plan, NetworkError> {
        self.check(row_shape)?;
        let mut builder = PlanBuilder::new(row_shape);
        let mut at = 0;
        if let Some(Normalisation { mean, deviation }) = normalise {
            let n_values: usize = row_shape.iter().product();
            if mean.len() != deviation.len() || !(mean.len() == n_values || mean.len() == row_shape[0]) {
                return Err(NetworkError::Number {
                    what: "normalisation",
                    expected: "one mean and one deviation a channel, or one of each a value of a row",
                    got: format!("{} and {} for rows of shape {row_shape:?}", mean.len(), deviation.len()),
                });
            }
            at = builder.keep(Op::Normalise { mean: mean.clone(), deviation: deviation.clone() }, at);
        }
        at = builder.keep(Op::Dropout(Place::Input), at);
        match self {
            Self::Cnn { channels, hidden } => {
                for (&n_outputs, side) in channels.iter().zip([5, 3]) {
                    at = builder.convolution(at, n_outputs, side, side / 2);
                    at = builder.keep(Op::Relu, at);
                    at = builder.pool(Op::MaxPool2, at);
                }
                head(builder, at, &[*hidden], Activation::Relu, n_classes)
            }
            Self::Mlp { hidden, activation } => head(builder, at, hidden, *activation, n_classes),
            Self::Convnet { channels, side, norm, hidden, activation } => {
                for &n_outputs in channels {
                    at = builder.convolution(at, n_outputs, *side, side / 2);
                    at = normalised(&mut builder, at, *norm);
                    at = builder.keep(activation.op(), at);
                    at = builder.pool(Op::MaxPool2, at);
                }
                head(builder, at, hidden, *activation, n_classes)
            }
            Self::Densenet { depth, growth, compression, norm } => {
                densenet(builder, at, (*depth, *growth, *compression, *norm), n_classes)
            }
            Self::Resnet { blocks, width, norm } => resnet(builder, at, blocks, *width, *norm, n_classes),
            Self::MlLeaks => ml_leaks(builder, at, n_classes),
        }
    }

    fn check(&self, row_shape: &[usize]) -> Result<(), NetworkError> {
        let number = |what, expected, got: String| Err(NetworkError::Number { what, expected, got });
        let (widths, least): (Vec<usize>, Option<usize>) = match self {
            Self::Cnn { channels, hidden } => (channels.iter().chain([hidden]).copied().collect(), Some(4)),
            Self::Mlp { hidden, .. } => (hidden.clone(), None),
            Self::Convnet { channels, side, hidden, .. } => {
                if side % 2 == 0 || *side > 31 {
                    return number("side", "an odd number up to 31", side.to_string());
                }
                if channels.is_empty() || channels.len() > 12 {
                    return number("channels", "1 to 12 blocks", channels.len().to_string());
                }
                (channels.iter().chain(hidden).copied().collect(), Some(1 << channels.len()))
            }
            Self::Densenet { depth, growth, compression, .. } => {
                if *depth < 10 || *depth > MAX_DEPTH || !(depth - 4).is_multiple_of(6) {
                    return number("depth", "6 n + 4, from 10 on", depth.to_string());
                }
                if !(*compression > 0.0 && *compression <= 1.0) {
                    return number("compression", "above 0, at most 1", compression.to_string());
                }
                (vec![*growth, growth.saturating_mul(*depth)], Some(4))
            }
            Self::Resnet { blocks, width, .. } => {
                if blocks.is_empty() || blocks.len() > 6 || blocks.iter().any(|&n| n == 0 || n > MAX_DEPTH) {
                    return number("blocks", "1 to 6 stages of at least one block", format!("{blocks:?}"));
                }
                (vec![*width, width.saturating_mul(1 << (blocks.len() - 1))], Some(1 << (blocks.len() - 1)))
            }
            Self::MlLeaks => (vec![], Some(12)),
        };
        if let Some(&width) = widths.iter().find(|&&width| width == 0 || width > MAX_WIDTH) {
            return Err(NetworkError::Width(width));
        }
        let fits = |least: usize| matches!(row_shape, &[_, height, width] if height >= least && width >= least);
        match least {
            Some(least) if !fits(least) => {
                Err(NetworkError::NotImages { network: self.to_string(), least, got: row_shape.to_vec() })
            }
            _ => Ok(()),
        }
    }
}

/// Hidden linear layers, each with an activation and the place of a dropout, and the last linear layer.
fn head(
    mut builder: PlanBuilder,
    from: ValueId,
    hidden: &[usize],
    activation: Activation,
    n_classes: usize,
) -> Result<Plan, NetworkError> {
    let mut at = builder.flatten(from);
    for &n_outputs in hidden {
        at = builder.linear(at, n_outputs);
        at = builder.keep(activation.op(), at);
        at = builder.keep(Op::Dropout(Place::Hidden), at);
    }
    builder.linear(at, n_classes);
    Ok(builder.finish())
}

fn normalised(builder: &mut PlanBuilder, from: ValueId, norm: Norm) -> ValueId {
    match norm {
        Norm::None => from,
        Norm::Batch => builder.batch_norm(from),
        Norm::Group => {
            let groups = gcd(32, builder.shape(from)[0]);
            builder.group_norm(from, groups)
        }
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// He's normal beginning over the outputs, as the paper's DenseNet has it: deviation √(2 / (side² · outputs)).
fn he(n_outputs: usize, side: usize) -> Begin {
    Begin::Normal((2.0 / (side * side * n_outputs) as f32).sqrt())
}

/// As the paper's code: norm, ReLU, convolution; the dropout stands behind each bottleneck's 3×3 convolution.
fn densenet(
    mut builder: PlanBuilder,
    from: ValueId,
    (depth, growth, compression, norm): (usize, usize, f64, Norm),
    n_classes: usize,
) -> Result<Plan, NetworkError> {
    let n_bottlenecks = (depth - 4) / 6;
    let mut at = builder.convolution_with(from, 2 * growth, (3, 1, 1), he(2 * growth, 3), None);
    let activated = |builder: &mut PlanBuilder, from: ValueId| {
        let at = normalised(builder, from, norm);
        builder.keep(Op::Relu, at)
    };
    for block in 0..3 {
        for _ in 0..n_bottlenecks {
            let mut new = activated(&mut builder, at);
            new = builder.convolution_with(new, 4 * growth, (1, 1, 0), he(4 * growth, 1), None);
            new = activated(&mut builder, new);
            new = builder.convolution_with(new, growth, (3, 1, 1), he(growth, 3), None);
            new = builder.keep(Op::Dropout(Place::Hidden), new);
            at = builder.concatenate(at, new);
        }
        if block < 2 {
            let n_outputs = ((builder.shape(at)[0] as f64 * compression) as usize).max(1);
            at = activated(&mut builder, at);
            at = builder.convolution_with(at, n_outputs, (1, 1, 0), he(n_outputs, 1), None);
            at = builder.pool(Op::AveragePool2, at);
        }
    }
    at = activated(&mut builder, at);
    at = builder.global_average_pool(at);
    builder.linear(at, n_classes);
    Ok(builder.finish())
}

/// Basic blocks: convolution, norm, ReLU, convolution, norm, plus the shortcut, ReLU. Where a stage changes the
/// shape, the shortcut is a 1×1 convolution with a norm. Convolutions begin as torch's do.
fn resnet(
    mut builder: PlanBuilder,
    from: ValueId,
    blocks: &[usize],
    width: usize,
    norm: Norm,
    n_classes: usize,
) -> Result<Plan, NetworkError> {
    let convolution = |builder: &mut PlanBuilder, from: ValueId, n: usize, side: usize, stride: usize| {
        let fan_in = builder.shape(from)[0] * side * side;
        let begin = Begin::Uniform(1.0 / (fan_in as f32).sqrt());
        let at = builder.convolution_with(from, n, (side, stride, side / 2), begin, None);
        normalised(builder, at, norm)
    };
    let mut at = convolution(&mut builder, from, width, 3, 1);
    at = builder.keep(Op::Relu, at);
    for (stage, &n_blocks) in blocks.iter().enumerate() {
        let n_channels = width << stage;
        for block in 0..n_blocks {
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            let mut new = convolution(&mut builder, at, n_channels, 3, stride);
            new = builder.keep(Op::Relu, new);
            new = convolution(&mut builder, new, n_channels, 3, 1);
            if builder.shape(at) != builder.shape(new) {
                at = convolution(&mut builder, at, n_channels, 1, stride);
            }
            at = builder.add(new, at);
            at = builder.keep(Op::Relu, at);
        }
    }
    at = builder.global_average_pool(at);
    at = builder.keep(Op::Dropout(Place::Hidden), at);
    builder.linear(at, n_classes);
    Ok(builder.finish())
}

/// Glorot's uniform beginning, with gain √2 before a ReLU (Lasagne's `GlorotUniform('relu')`); biases 0.
fn ml_leaks(mut builder: PlanBuilder, from: ValueId, n_classes: usize) -> Result<Plan, NetworkError> {
    let glorot =
        |gain: f32, fan_in: usize, fan_out: usize| Begin::Uniform(gain * (6.0 / (fan_in + fan_out) as f32).sqrt());
    let zero = Begin::Constant(0.0);
    let mut at = from;
    for padding in [2, 0] {
        let n_inputs = builder.shape(at)[0];
        let begin = glorot(std::f32::consts::SQRT_2, 25 * n_inputs, 25 * 32);
        at = builder.convolution_with(at, 32, (5, 1, padding), begin, Some(zero));
        at = builder.keep(Op::Relu, at);
        at = builder.pool(Op::MaxPool2, at);
    }
    at = builder.flatten(at);
    let n_inputs = builder.shape(at)[0];
    at = builder.linear_with(at, 128, glorot(1.0, n_inputs, 128), zero);
    at = builder.keep(Op::Tanh, at);
    at = builder.keep(Op::Dropout(Place::Hidden), at);
    builder.linear_with(at, n_classes, glorot(1.0, 128, n_classes), zero);
    Ok(builder.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(architecture: &Architecture, row_shape: &[usize], n_classes: usize) -> usize {
        architecture.plan(row_shape, n_classes, None).unwrap().n_parameters()
    }

    #[test]
    fn the_papers_networks_have_the_papers_parameter_counts() {
        assert_eq!(count(&Architecture::fcn(), &[600], 100), 1_317_348);
        assert_eq!(count(&Architecture::densenet(), &[3, 32, 32], 10), 769_162);
        assert_eq!(count(&Architecture::resnet18(), &[3, 32, 32], 10), 11_173_962);
        assert_eq!(count(&Architecture::MlLeaks, &[3, 32, 32], 10), 176_938);
    }

    #[test]
    fn the_penultimate_features_have_the_papers_sizes() {
        for (architecture, size) in [(Architecture::densenet(), 342), (Architecture::MlLeaks, 128)] {
            let plan = architecture.plan(&[3, 32, 32], 10, None).unwrap();
            assert_eq!(plan.steps()[plan.features()].shape, [size]);
            assert_eq!(plan.n_classes(), 10);
        }
    }

    #[test]
    fn numbers_that_make_no_network_are_refused() {
        let densenet = |depth| Architecture::Densenet { depth, growth: 12, compression: 0.5, norm: Norm::Batch };
        assert!(densenet(41).plan(&[3, 32, 32], 10, None).unwrap_err().to_string().contains("6 n + 4"));
        assert!(Architecture::MlLeaks.plan(&[3, 8, 8], 10, None).unwrap_err().to_string().contains("at least 12"));
        assert!(Architecture::MlLeaks.plan(&[3072], 10, None).is_err());
        let mlp = |width| Architecture::Mlp { hidden: vec![width], activation: Activation::Relu };
        assert_eq!(mlp(0).plan(&[4], 2, None), Err(NetworkError::Width(0)));
        let wrong = Normalisation { mean: vec![0.0; 3], deviation: vec![1.0; 3] };
        assert!(mlp(4).plan(&[4], 2, Some(&wrong)).is_err());
    }

    #[test]
    fn a_group_norm_network_has_as_many_parameters_and_legal_groups() {
        let grouped = Architecture::densenet().with_norm(Norm::Group);
        assert_eq!(count(&grouped, &[3, 32, 32], 10), 769_162);
        for step in grouped.plan(&[3, 32, 32], 10, None).unwrap().steps() {
            if let Op::GroupNorm { groups, .. } = step.op {
                assert!(step.shape[0].is_multiple_of(groups), "{groups} groups of {} channels", step.shape[0]);
            }
        }
    }
}
