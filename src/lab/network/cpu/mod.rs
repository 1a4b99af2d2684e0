//! Networks for images on the processor: forward and backward over the plan in plain loops and matrix products.
//!
//! burn's processor backend makes a batch normalisation out of some twenty operators, each with a pass over strided
//! memory, and a convolution's gradients out of a transposed convolution in one thread: a training step took three
//! (small CNN) to seven (DenseNet) times PyTorch's time. This walk takes the same plan and weights and gives the same
//! numbers (`tests.rs` holds them together); other devices, networks without images, and passes with a
//! [`Hook`](super::Hook) go through burn's own operators ([`super::forward`]).
//!
//! Images lie channel by channel, `(channels, n_rows, height, width)`: what is done to a channel is done to one piece of
//! memory, channels are joined by copying, and a convolution is one product over the places of many rows. Flat values
//! lie row by row. Work is shared between threads by channels or by rows, and sums are added in an order that does not
//! depend on the threads: the same weights and rows give the same bits.

mod backward;
mod conv;
mod layers;
mod norm;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use rand_chacha::ChaCha8Rng;

use self::conv::Geometry;
use self::norm::Moments;
use super::forward::{Dropout, mask};
use super::plan::{At, Op, ParameterId, Plan, ValueId};
use super::{Compute, Plain, Weights};

pub(super) use self::backward::backward;

/// The weights of a network as plain arrays.
#[derive(Debug)]
pub(super) struct Arrays {
    kernels: Vec<Vec<f32>>,
    matrices: Vec<Vec<f32>>,
    vectors: Vec<Vec<f32>>,
    running: Vec<Vec<f32>>,
}

impl Arrays {
    pub(super) fn of(plan: &Plan, weights: &Weights<Compute>) -> Self {
        let mut arrays = Self { kernels: vec![], matrices: vec![], vectors: vec![], running: vec![] };
        for parameter in plan.parameters() {
            let Plain { values, .. } = weights.plain(parameter.at);
            match parameter.at {
                At::Kernel(_) => arrays.kernels.push(values),
                At::Matrix(_) => arrays.matrices.push(values),
                At::Vector(_) => arrays.vectors.push(values),
                At::Running(_) => arrays.running.push(values),
            }
        }
        arrays
    }
}

/// Whether a plan has anything that is faster here.
pub(super) fn takes(plan: &Plan) -> bool {
    plan.steps().iter().any(|step| matches!(step.op, Op::Convolution { .. }))
}

/// What a training pass draws from.
pub(super) struct Training<'a> {
    pub(super) dropout: Dropout,
    pub(super) rng: &'a mut ChaCha8Rng,
}

/// What an operator has to remember for the way back, beside its input or outcome.
#[derive(Debug, Default)]
enum Note {
    #[default]
    Nothing,
    /// Of each channel of a batch normalisation.
    Moments(Vec<Moments>),
    /// Of each group of each row, group by group.
    Groups(Vec<Moments>),
    /// Which of the four of each square was the largest.
    Largest(Vec<u8>),
    /// What each value was multiplied with.
    Mask(Vec<f32>),
}

/// A forward pass as the way back needs it.
#[derive(Debug)]
pub(super) struct Tape {
    arrays: Arrays,
    n_rows: usize,
    values: Vec<Option<Arc<Vec<f32>>>>,
    notes: Vec<Note>,
}

/// The mean and the unbiased variance of each channel, for the running statistics that follow them.
#[derive(Debug)]
pub(super) struct BatchStatistics {
    pub(super) mean: (ParameterId, Vec<f32>),
    pub(super) variance: (ParameterId, Vec<f32>),
}

/// A value's size for one row: images as `[channels, places]`.
fn split(shape: &[usize]) -> Option<[usize; 2]> {
    match *shape {
        [channels, height, width] => Some([channels, height * width]),
        _ => None,
    }
}

fn side_lengths(shape: &[usize]) -> [usize; 2] {
    match *shape {
        [_, height, width] => [height, width],
        _ => unreachable!("a plan gives images to the operators of images"),
    }
}

fn geometry(plan: &Plan, at: ValueId) -> Geometry {
    let step = &plan.steps()[at];
    let Op::Convolution { side, stride, padding, .. } = step.op else {
        unreachable!("step {at} is a convolution");
    };
    let from = &plan.steps()[step.inputs[0]].shape;
    Geometry {
        inputs: from[0],
        outputs: step.shape[0],
        side,
        stride,
        padding,
        from: side_lengths(from),
        to: side_lengths(&step.shape),
    }
}

/// The value of the step `wanted` in evaluation, row by row: `(n_rows, step.shape…)`.
pub(super) fn evaluate(plan: &Plan, arrays: Arrays, rows: &[f32], n_rows: usize, wanted: ValueId) -> Vec<f32> {
    let mut walk = Walk::new(plan, arrays, n_rows, wanted, None);
    walk.run(rows, wanted);
    let value = walk.tape.values[wanted].take().expect("the wanted step was run");
    match split(&plan.steps()[wanted].shape) {
        Some([channels, places]) => layers::by_rows(&value, n_rows, channels, places),
        None => own(value),
    }
}

/// The logits of a batch while training, `(n_rows, n_classes)`, and what the way back needs.
pub(super) fn record(
    plan: &Plan,
    arrays: Arrays,
    rows: &[f32],
    n_rows: usize,
    training: Training<'_>,
) -> (Vec<f32>, Tape, Vec<BatchStatistics>) {
    let last = plan.steps().len() - 1;
    let mut walk = Walk::new(plan, arrays, n_rows, last, Some(training));
    walk.run(rows, last);
    let Walk { mut tape, statistics, .. } = walk;
    let logits = own(tape.values[last].take().expect("the last step was run"));
    (logits, tape, statistics)
}

/// A value for oneself: without a copy where nobody else holds it.
fn own(value: Arc<Vec<f32>>) -> Vec<f32> {
    Arc::try_unwrap(value).unwrap_or_else(|shared| shared.to_vec())
}

/// A forward pass on its way.
struct Walk<'a> {
    plan: &'a Plan,
    training: Option<Training<'a>>,
    /// How often each value is still asked for.
    uses: Vec<usize>,
    /// Which values the way back asks for.
    kept: Vec<bool>,
    tape: Tape,
    statistics: Vec<BatchStatistics>,
}

impl<'a> Walk<'a> {
    fn new(plan: &'a Plan, arrays: Arrays, n_rows: usize, wanted: ValueId, training: Option<Training<'a>>) -> Self {
        let steps = &plan.steps()[..=wanted];
        let mut uses = vec![0; steps.len()];
        let mut kept = vec![false; steps.len()];
        for (at, step) in steps.iter().enumerate() {
            step.inputs.iter().for_each(|&input| uses[input] += 1);
            if training.is_some() {
                match step.op {
                    Op::Convolution { .. } | Op::BatchNorm { .. } | Op::GroupNorm { .. } | Op::Linear { .. } => {
                        kept[step.inputs[0]] = true;
                    }
                    Op::Relu | Op::Tanh => kept[at] = true,
                    _ => {}
                }
            }
        }
        let values = vec![None; steps.len()];
        let notes = steps.iter().map(|_| Note::Nothing).collect();
        let tape = Tape { arrays, n_rows, values, notes };
        Self { plan, training, uses, kept, tape, statistics: vec![] }
    }

    fn run(&mut self, rows: &[f32], wanted: ValueId) {
        for at in 0..=wanted {
            let step = &self.plan.steps()[at];
            let mut inputs = step.inputs.iter().map(|&input| self.take(input)).collect::<Vec<_>>().into_iter();
            let value = match (inputs.next(), inputs.next()) {
                (None, _) => match split(&step.shape) {
                    Some([channels, places]) => layers::by_channels(rows, self.tape.n_rows, channels, places),
                    None => rows.to_vec(),
                },
                (Some(one), None) => self.one(at, one),
                (Some(one), Some(other)) => self.two(at, one, &other),
            };
            self.tape.values[at] = Some(Arc::new(value));
        }
    }

    /// A value for a step that asks for it; the last one gets it alone, unless the way back asks, too.
    fn take(&mut self, value: ValueId) -> Arc<Vec<f32>> {
        self.uses[value] -= 1;
        let held = &mut self.tape.values[value];
        let value = if self.uses[value] == 0 && !self.kept[value] { held.take() } else { held.clone() };
        value.expect("a step comes behind its inputs")
    }

    fn one(&mut self, at: ValueId, input: Arc<Vec<f32>>) -> Vec<f32> {
        let (plan, n_rows) = (self.plan, self.tape.n_rows);
        let step = &plan.steps()[at];
        let from = &plan.steps()[step.inputs[0]].shape;
        let arrays = &self.tape.arrays;
        match &step.op {
            Op::Input | Op::Add | Op::Concatenate => unreachable!("they have no or two inputs"),
            Op::Normalise { mean, deviation } => layers::normalise(own(input), n_rows, from, mean, deviation),
            Op::Convolution { kernel, bias, .. } => {
                let bias = bias.map(|bias| arrays.vectors[bias].as_slice());
                conv::forward(geometry(plan, at), &arrays.kernels[*kernel], bias, &input, n_rows)
            }
            Op::BatchNorm { scale, shift, mean, variance } => {
                let (scale, shift) = (&arrays.vectors[*scale], &arrays.vectors[*shift]);
                if self.training.is_none() {
                    let (mean, variance) = (&arrays.running[*mean], &arrays.running[*variance]);
                    return norm::batch_in_evaluation(own(input), scale, shift, mean, variance);
                }
                let (value, moments) = norm::batch(&input, scale, shift);
                let n_values = (input.len() / scale.len().max(1)) as f64;
                let unbiased = (n_values / (n_values - 1.0).max(1.0)) as f32;
                self.statistics.push(BatchStatistics {
                    mean: (*mean, moments.iter().map(|of| of.mean).collect()),
                    variance: (*variance, moments.iter().map(|of| of.variance * unbiased).collect()),
                });
                self.tape.notes[at] = Note::Moments(moments);
                value
            }
            Op::GroupNorm { scale, shift, groups } => {
                let (scale, shift) = (&arrays.vectors[*scale], &arrays.vectors[*shift]);
                let (value, moments) = norm::group(&input, n_rows, *groups, scale, shift);
                if self.training.is_some() {
                    self.tape.notes[at] = Note::Groups(moments);
                }
                value
            }
            Op::Relu => layers::relu(own(input)),
            Op::Tanh => layers::tanh(own(input)),
            Op::MaxPool2 => {
                let (value, largest) = layers::max_pool(&input, side_lengths(from), self.training.is_some());
                self.tape.notes[at] = Note::Largest(largest);
                value
            }
            Op::AveragePool2 => layers::average_pool(&input, side_lengths(from)),
            Op::GlobalAveragePool => layers::global_average(&input, n_rows, from[0]),
            Op::Dropout(place) => self.drop_out(at, *place, own(input)),
            Op::Flatten => match split(from) {
                Some([channels, places]) => layers::by_rows(&input, n_rows, channels, places),
                None => own(input),
            },
            Op::Linear { matrix, bias } => {
                layers::linear(&input, n_rows, &arrays.matrices[*matrix], &arrays.vectors[*bias])
            }
        }
    }

    fn drop_out(&mut self, at: ValueId, place: super::plan::Place, mut value: Vec<f32>) -> Vec<f32> {
        let Some(Training { dropout, rng }) = &mut self.training else { return value };
        let Some(mask) = mask(dropout.rate(place), value.len(), rng) else { return value };
        // Drawn row by row, as every device draws it.
        let mask = match split(&self.plan.steps()[at].shape) {
            Some([channels, places]) => layers::by_channels(&mask, self.tape.n_rows, channels, places),
            None => mask,
        };
        layers::multiply(&mut value, &mask);
        self.tape.notes[at] = Note::Mask(mask);
        value
    }

    fn two(&mut self, at: ValueId, one: Arc<Vec<f32>>, other: &[f32]) -> Vec<f32> {
        let step = &self.plan.steps()[at];
        match (&step.op, split(&step.shape)) {
            (Op::Add, _) => {
                let mut sum = own(one);
                layers::add(&mut sum, other);
                sum
            }
            (Op::Concatenate, Some(_)) => [one.as_slice(), other].concat(),
            (Op::Concatenate, None) => layers::concatenate_rows(&one, other, self.tape.n_rows),
            (op, _) => unreachable!("{op:?} has one input"),
        }
    }
}
