//! The forward pass: walks over the plan once, for evaluation or for training.

use burn::tensor::activation::{relu, tanh};
use burn::tensor::module::{avg_pool2d, max_pool2d};
use burn::tensor::{Tensor, TensorData};
use rand::RngCore;
use rand_chacha::ChaCha8Rng;

use super::Network;
use super::convolution::{Sees, convolution};
use super::plan::{Op, ParameterId, Place, ValueId};
use crate::lab::Compute;

/// Added to variances: torch's default.
pub(in crate::lab) const NORM_EPSILON: f64 = 1e-5;

/// A value on its way through a network.
#[derive(Debug, Clone)]
pub enum Value {
    /// `(n_rows, features)`.
    Flat(Tensor<Compute, 2>),
    /// `(n_rows, channels, height, width)`.
    Image(Tensor<Compute, 4>),
}

impl Value {
    fn flat(self) -> Tensor<Compute, 2> {
        match self {
            Self::Flat(values) => values,
            Self::Image(values) => values.flatten(1, 3),
        }
    }

    fn image(self) -> Tensor<Compute, 4> {
        match self {
            Self::Image(values) => values,
            Self::Flat(_) => unreachable!("a plan gives images to the operators of images"),
        }
    }

    fn map(self, flat: impl FnOnce(Tensor<Compute, 2>) -> Tensor<Compute, 2>, image: ImageMap) -> Self {
        match self {
            Self::Flat(values) => Self::Flat(flat(values)),
            Self::Image(values) => Self::Image(image(values)),
        }
    }
}

type ImageMap = fn(Tensor<Compute, 4>) -> Tensor<Compute, 4>;

/// Rates of dropout by place; 0 does nothing.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Dropout {
    /// On the rows.
    pub input: f64,
    /// Behind hidden activations.
    pub hidden: f64,
}

impl Dropout {
    pub(super) fn rate(self, place: Place) -> f64 {
        match place {
            Place::Input => self.input,
            Place::Hidden => self.hidden,
        }
    }
}

/// What a batch said of one batch normalisation.
#[derive(Debug, Clone)]
pub struct Statistics {
    /// The running mean that follows it.
    pub mean: (ParameterId, Tensor<Compute, 1>),
    /// The running variance that follows it; unbiased.
    pub variance: (ParameterId, Tensor<Compute, 1>),
}

/// Looks at, and may change, what the operators with weights give while training.
pub trait Hook {
    /// `input` went into the step `at`, `output` came out; what is returned goes on.
    fn after(&mut self, at: ValueId, op: &Op, input: &Value, output: Value) -> Value;
}

/// A pass for training: what it draws from and what it leaves behind.
pub struct Pass<'a> {
    /// How much is dropped.
    pub dropout: Dropout,
    /// Draw what is dropped: one generator for all rows, or one for each.
    pub rngs: &'a mut [ChaCha8Rng],
    /// Filled by the pass.
    pub statistics: Vec<Statistics>,
    /// Called behind each operator with weights.
    pub hook: Option<&'a mut dyn Hook>,
}

/// A step, and what looks at its value.
pub(super) type Tap<'a> = (ValueId, &'a mut dyn FnMut(Value) -> Value);

impl Network {
    /// The logits of a batch while training: with dropout and the batch's own statistics.
    ///
    /// # Shapes
    ///
    /// `(n_rows, n_features)` to `(n_rows, n_classes)`.
    #[must_use]
    pub fn forward_training(&self, rows: Tensor<Compute, 2>, pass: &mut Pass<'_>) -> Tensor<Compute, 2> {
        self.run(rows, self.plan.steps().len() - 1, Some(pass))
    }

    /// The value of one step.
    pub(super) fn run(
        &self,
        rows: Tensor<Compute, 2>,
        wanted: ValueId,
        pass: Option<&mut Pass<'_>>,
    ) -> Tensor<Compute, 2> {
        self.run_tapped(rows, wanted, pass, None)
    }

    /// As [`Network::run`]; what a tap gives back for the value of its step goes on in its place.
    pub(super) fn run_tapped(
        &self,
        rows: Tensor<Compute, 2>,
        wanted: ValueId,
        mut pass: Option<&mut Pass<'_>>,
        mut tap: Option<Tap<'_>>,
    ) -> Tensor<Compute, 2> {
        let steps = &self.plan.steps()[..=wanted];
        let mut uses = vec![0usize; steps.len()];
        steps.iter().flat_map(|step| &step.inputs).for_each(|&input| uses[input] += 1);
        let mut values: Vec<Option<Value>> = vec![None; steps.len()];
        let mut rows = Some(rows);
        for (at, step) in steps.iter().enumerate() {
            let mut inputs = step.inputs.iter().map(|&input| {
                uses[input] -= 1;
                let value = if uses[input] == 0 { values[input].take() } else { values[input].clone() };
                value.expect("a step comes behind its inputs")
            });
            let value = match (inputs.next(), inputs.next()) {
                (None, _) => input(rows.take().expect("a plan has one input"), &step.shape),
                (Some(one), Some(other)) => two(&step.op, one, other),
                (Some(value), None) => match pass.as_deref_mut() {
                    Some(pass) => self.train_one(at, value, pass),
                    None => self.one(&step.op, value, self.sees(at)),
                },
            };
            values[at] = Some(match &mut tap {
                Some((tapped, look)) if *tapped == at => look(value),
                _ => value,
            });
        }
        values[wanted].take().map(Value::flat).expect("the wanted step was run")
    }

    /// What the step of that number sees: the rows, where nothing that is learned stands between.
    fn sees(&self, at: ValueId) -> Sees {
        let steps = self.plan.steps();
        let mut behind = at;
        while let [input] = *steps[behind].inputs {
            behind = input;
            if !matches!(steps[behind].op, Op::Input | Op::Normalise { .. } | Op::Dropout(_)) {
                return Sees::Values;
            }
        }
        Sees::Rows
    }

    /// An operator of one input, in evaluation.
    fn one(&self, op: &Op, value: Value, sees: Sees) -> Value {
        let weights = &self.weights;
        let vector = |id: &ParameterId| weights.vectors[*id].val();
        match op {
            Op::Input | Op::Add | Op::Concatenate => unreachable!("they have no or two inputs"),
            Op::Normalise { mean, deviation } => normalise(value, mean, deviation),
            Op::Convolution { kernel, bias, stride, padding, .. } => {
                let sums = convolution(value.image(), weights.kernels[*kernel].val(), *stride, *padding, sees);
                Value::Image(match bias {
                    Some(bias) => scaled(sums, None, vector(bias)),
                    None => sums,
                })
            }
            Op::BatchNorm { scale, shift, mean, variance } => {
                let (mean, variance) = (weights.running[*mean].val(), weights.running[*variance].val());
                // One product and one sum a value.
                let factor = vector(scale) / variance.add_scalar(NORM_EPSILON).sqrt();
                let offset = vector(shift) - mean * factor.clone();
                Value::Image(scaled(value.image(), Some(factor), offset))
            }
            Op::GroupNorm { scale, shift, groups } => {
                let normal = group_normal(value.image(), *groups);
                Value::Image(scaled(normal, Some(vector(scale)), vector(shift)))
            }
            Op::Relu => value.map(relu, relu),
            Op::Tanh => value.map(tanh, tanh),
            Op::MaxPool2 => Value::Image(max_pool2d(value.image(), [2, 2], [2, 2], [0, 0], [1, 1], false)),
            Op::AveragePool2 => Value::Image(avg_pool2d(value.image(), [2, 2], [2, 2], [0, 0], true, false)),
            Op::GlobalAveragePool => {
                let [n_rows, n_channels, height, width] = value.clone().image().dims();
                let lines = value.image().reshape([n_rows, n_channels, height * width]);
                Value::Flat(lines.mean_dim(2).reshape([n_rows, n_channels]))
            }
            Op::Dropout(_) => value,
            Op::Flatten => Value::Flat(value.flat()),
            Op::Linear { matrix, bias } => {
                let sums = value.flat().matmul(weights.matrices[*matrix].val());
                Value::Flat(sums + vector(bias).unsqueeze::<2>())
            }
        }
    }

    /// The same while training.
    fn train_one(&self, at: ValueId, value: Value, pass: &mut Pass<'_>) -> Value {
        let op = &self.plan.steps()[at].op;
        // A hook wants to see it; without one the operator may have it to itself.
        let input = pass.hook.is_some().then(|| value.clone());
        let output = match op {
            Op::Dropout(place) => return drop_out(value, pass.dropout.rate(*place), pass.rngs),
            Op::BatchNorm { scale, shift, mean, variance } => {
                let vector = |id: &ParameterId| self.weights.vectors[*id].val();
                let (normal, of_batch) = batch_norm(value.image(), vector(scale), vector(shift));
                pass.statistics.push(Statistics { mean: (*mean, of_batch.0), variance: (*variance, of_batch.1) });
                Value::Image(normal)
            }
            _ => self.one(op, value, self.sees(at)),
        };
        let weighted =
            matches!(op, Op::Convolution { .. } | Op::Linear { .. } | Op::GroupNorm { .. } | Op::BatchNorm { .. });
        match (&mut pass.hook, input) {
            (Some(hook), Some(input)) if weighted => hook.after(at, op, &input, output),
            _ => output,
        }
    }
}

fn input(rows: Tensor<Compute, 2>, shape: &[usize]) -> Value {
    match *shape {
        [channels, height, width] => {
            let n_rows = rows.dims()[0];
            Value::Image(rows.reshape([n_rows, channels, height, width]))
        }
        _ => Value::Flat(rows),
    }
}

fn two(op: &Op, one: Value, other: Value) -> Value {
    match (op, one, other) {
        (Op::Add, Value::Image(one), Value::Image(other)) => Value::Image(one + other),
        (Op::Add, Value::Flat(one), Value::Flat(other)) => Value::Flat(one + other),
        (Op::Concatenate, Value::Image(one), Value::Image(other)) => Value::Image(Tensor::cat(vec![one, other], 1)),
        (Op::Concatenate, Value::Flat(one), Value::Flat(other)) => Value::Flat(Tensor::cat(vec![one, other], 1)),
        _ => unreachable!("a plan gives two values of one kind to an operator of two"),
    }
}

/// `(n_rows, channels, height, width)` to `(n_rows · channels, places)`.
///
/// burn's processor backend walks over a broadcast along the middle of a shape one value at a time; one number a line it
/// takes with vector instructions, and so it takes sums of lines.
fn lines(values: Tensor<Compute, 4>) -> Tensor<Compute, 2> {
    let [n_rows, n_channels, height, width] = values.dims();
    values.reshape([n_rows * n_channels, height * width])
}

/// One number a channel as one a line of [`lines`].
fn by_line(values: Tensor<Compute, 1>, n_rows: usize) -> Tensor<Compute, 2> {
    let n_channels = values.dims()[0];
    values.reshape([1, n_channels]).repeat_dim(0, n_rows).reshape([n_rows * n_channels, 1])
}

/// The mean of each channel of [`lines`].
fn channel_means(lines: Tensor<Compute, 2>, n_channels: usize) -> Tensor<Compute, 1> {
    let [n_lines, n_places] = lines.dims();
    let n_rows = n_lines / n_channels;
    let sums = lines.sum_dim(1).reshape([n_rows, n_channels]).sum_dim(0).reshape([n_channels]);
    sums.div_scalar((n_rows * n_places) as f64)
}

/// `factor · values + offset`, one of each a channel.
fn scaled(
    values: Tensor<Compute, 4>,
    factor: Option<Tensor<Compute, 1>>,
    offset: Tensor<Compute, 1>,
) -> Tensor<Compute, 4> {
    let shape = values.dims();
    let mut lines = lines(values);
    if let Some(factor) = factor {
        lines = lines * by_line(factor, shape[0]);
    }
    (lines + by_line(offset, shape[0])).reshape(shape)
}

fn normalise(value: Value, mean: &[f32], deviation: &[f32]) -> Value {
    let negative: Vec<f32> = mean.iter().map(|mean| -mean).collect();
    let factor: Vec<f32> = deviation.iter().map(|deviation| 1.0 / deviation).collect();
    let size = mean.len();
    match value {
        Value::Image(values) if size == values.dims()[1] => {
            let ([n_rows, ..], device) = (values.dims(), values.device());
            let constant = |values| by_line(Tensor::from_data(TensorData::new(values, [size]), &device), n_rows);
            let shape = values.dims();
            Value::Image(((lines(values) + constant(negative)) * constant(factor)).reshape(shape))
        }
        value => {
            let shape = match &value {
                Value::Image(values) => Some(values.dims()),
                Value::Flat(_) => None,
            };
            let values = value.flat();
            let device = values.device();
            let constant = |values| Tensor::<Compute, 2>::from_data(TensorData::new(values, [1, size]), &device);
            let normal = (values + constant(negative)) * constant(factor);
            match shape {
                Some(shape) => Value::Image(normal.reshape(shape)),
                None => Value::Flat(normal),
            }
        }
    }
}

/// Each channel to mean 0 and variance 1 over the batch, then scaled and shifted; with the batch's mean and unbiased
/// variance.
fn batch_norm(
    values: Tensor<Compute, 4>,
    scale: Tensor<Compute, 1>,
    shift: Tensor<Compute, 1>,
) -> (Tensor<Compute, 4>, (Tensor<Compute, 1>, Tensor<Compute, 1>)) {
    let shape = values.dims();
    let [n_rows, n_channels, height, width] = shape;
    let lines = lines(values);
    let mean = channel_means(lines.clone(), n_channels);
    let centred = lines + by_line(mean.clone().neg(), n_rows);
    let variance = mean_square(centred.clone(), |squares| channel_means(squares, n_channels));
    let factor = scale * variance.clone().add_scalar(NORM_EPSILON).sqrt().recip();
    let normal = centred * by_line(factor, n_rows) + by_line(shift, n_rows);
    let n_values = (n_rows * height * width) as f64;
    let unbiased = variance.mul_scalar(n_values / (n_values - 1.0).max(1.0));
    (normal.reshape(shape), (mean, unbiased))
}

/// A mean of squares whose derivative takes one pass over the values: a square's own takes four, one of each factor and
/// their sum. The product with what is held fixed has half of the derivative, so it is taken twice, and once taken off
/// as a constant.
fn mean_square<const D: usize>(
    values: Tensor<Compute, 2>,
    mean: impl FnOnce(Tensor<Compute, 2>) -> Tensor<Compute, D>,
) -> Tensor<Compute, D> {
    let fixed = values.clone().detach();
    let half = mean(values * fixed);
    half.clone().mul_scalar(2.0) - half.detach()
}

/// Values of mean 0 and variance 1 a group of channels within a row.
pub(in crate::lab) fn group_normal(values: Tensor<Compute, 4>, groups: usize) -> Tensor<Compute, 4> {
    let shape: [usize; 4] = values.dims();
    let n_values = shape[1] / groups * shape[2] * shape[3];
    let lines = values.reshape([shape[0] * groups, n_values]);
    let centred = lines.clone() + lines.mean_dim(1).neg();
    let variance = mean_square(centred.clone(), |squares| squares.mean_dim(1));
    (centred * variance.add_scalar(NORM_EPSILON).sqrt().recip()).reshape(shape)
}

/// What `n_values` values are multiplied with, in their order: 0 with probability `rate`, and what keeps the mean for the
/// rest; `None` where nothing is dropped. The rate is kept to 1/65,536. Each generator draws for as many values as any
/// other.
pub(super) fn mask(rate: f64, n_values: usize, rngs: &mut [ChaCha8Rng]) -> Option<Vec<f32>> {
    let threshold = (rate * 65_536.0).round() as u32;
    if threshold == 0 {
        return None;
    }
    let kept = 65_536.0 / f64::from(65_536 - threshold.min(65_535));
    let mut bytes = vec![0u8; 2 * n_values];
    let n_bytes = bytes.len().div_ceil(rngs.len().max(1)).max(1);
    bytes.chunks_mut(n_bytes).zip(rngs).for_each(|(bytes, rng)| rng.fill_bytes(bytes));
    let drawn = bytes.as_chunks::<2>().0.iter().map(|pair| u32::from(u16::from_le_bytes(*pair)));
    Some(drawn.map(|drawn| if drawn < threshold { 0.0 } else { kept as f32 }).collect())
}

/// Sets values to zero with probability `rate` and scales the rest, so that the mean stays.
fn drop_out(value: Value, rate: f64, rngs: &mut [ChaCha8Rng]) -> Value {
    let n_values = match &value {
        Value::Flat(values) => values.dims().iter().product(),
        Value::Image(values) => values.dims().iter().product(),
    };
    let Some(mask) = mask(rate, n_values, rngs) else { return value };
    match value {
        Value::Flat(values) => {
            let mask = Tensor::from_data(TensorData::new(mask, values.dims()), &values.device());
            Value::Flat(values * mask)
        }
        Value::Image(values) => {
            let mask = Tensor::from_data(TensorData::new(mask, values.dims()), &values.device());
            Value::Image(values * mask)
        }
    }
}
