//! The way back over a plan: from the derivatives by the logits to those by the weights.

use super::{Note, Tape, conv, geometry, layers, norm, side_lengths, split};
use crate::lab::network::plan::{At, Op, Plan, ValueId};

/// The derivatives by the weights, by kind; running statistics have none.
#[derive(Debug)]
pub(in crate::lab::network) struct Gradients {
    kernels: Vec<Vec<f32>>,
    matrices: Vec<Vec<f32>>,
    vectors: Vec<Vec<f32>>,
}

impl Gradients {
    /// Takes the derivative by an array, in the array's order; none of a statistic.
    pub(in crate::lab::network) fn take(&mut self, at: At) -> Option<Vec<f32>> {
        match at {
            At::Kernel(id) => Some(std::mem::take(&mut self.kernels[id])),
            At::Matrix(id) => Some(std::mem::take(&mut self.matrices[id])),
            At::Vector(id) => Some(std::mem::take(&mut self.vectors[id])),
            At::Running(_) => None,
        }
    }
}

/// Goes back from the derivatives by the logits, `(n_rows, n_classes)`.
pub(in crate::lab::network) fn backward(plan: &Plan, tape: Tape, derivative: Vec<f32>) -> Gradients {
    let n_steps = plan.steps().len();
    let empty = |arrays: &[Vec<f32>]| vec![vec![]; arrays.len()];
    let gradients = Gradients {
        kernels: empty(&tape.arrays.kernels),
        matrices: empty(&tape.arrays.matrices),
        vectors: empty(&tape.arrays.vectors),
    };
    let mut derivatives = vec![None; n_steps];
    derivatives[n_steps - 1] = Some(derivative);
    let mut way = Way { plan, tape, wants: wants(plan), derivatives, gradients };
    for at in (0..n_steps).rev() {
        if let Some(derivative) = way.derivatives[at].take() {
            way.back(at, derivative);
        }
        // Whoever looks at a value stands behind it, and is done.
        way.tape.values[at] = None;
    }
    way.gradients
}

/// Whether anything before a value learns, so that its derivative is asked for.
fn wants(plan: &Plan) -> Vec<bool> {
    let mut wants: Vec<bool> = Vec::with_capacity(plan.steps().len());
    for step in plan.steps() {
        let learns =
            matches!(step.op, Op::Convolution { .. } | Op::Linear { .. } | Op::BatchNorm { .. } | Op::GroupNorm { .. });
        wants.push(learns || step.inputs.iter().any(|&input| wants[input]));
    }
    wants
}

struct Way<'a> {
    plan: &'a Plan,
    tape: Tape,
    wants: Vec<bool>,
    derivatives: Vec<Option<Vec<f32>>>,
    gradients: Gradients,
}

impl Way<'_> {
    /// Adds to the derivative by a value.
    fn give(&mut self, value: ValueId, derivative: Vec<f32>) {
        match &mut self.derivatives[value] {
            Some(sum) => layers::add(sum, &derivative),
            none => *none = self.wants[value].then_some(derivative),
        }
    }

    fn value(&self, at: ValueId) -> &[f32] {
        self.tape.values[at].as_deref().expect("the forward pass kept what the way back asks for")
    }

    fn back(&mut self, at: ValueId, derivative: Vec<f32>) {
        let (plan, n_rows) = (self.plan, self.tape.n_rows);
        let step = &plan.steps()[at];
        let Some(&input) = step.inputs.first() else { return };
        let from = &plan.steps()[input].shape;
        let note = std::mem::take(&mut self.tape.notes[at]);
        match (&step.op, note) {
            (Op::Convolution { .. } | Op::Linear { .. } | Op::BatchNorm { .. } | Op::GroupNorm { .. }, note) => {
                self.learn(at, input, derivative, note);
            }
            (Op::Relu, _) => {
                let back = layers::relu_back(derivative, self.value(at));
                self.give(input, back);
            }
            (Op::Tanh, _) => {
                let back = layers::tanh_back(derivative, self.value(at));
                self.give(input, back);
            }
            (Op::MaxPool2, Note::Largest(largest)) => {
                self.give(input, layers::max_pool_back(&derivative, &largest, side_lengths(from)));
            }
            (Op::AveragePool2, _) => self.give(input, layers::average_pool_back(&derivative, side_lengths(from))),
            (Op::GlobalAveragePool, _) => {
                let [channels, places] = split(from).expect("an average of images");
                self.give(input, layers::global_average_back(&derivative, n_rows, channels, places));
            }
            (Op::Dropout(_), Note::Mask(mask)) => {
                let mut back = derivative;
                layers::multiply(&mut back, &mask);
                self.give(input, back);
            }
            (Op::Flatten, _) => {
                let back = match split(from) {
                    Some([channels, places]) => layers::by_channels(&derivative, n_rows, channels, places),
                    None => derivative,
                };
                self.give(input, back);
            }
            (Op::Add, _) => {
                self.give(step.inputs[1], derivative.clone());
                self.give(input, derivative);
            }
            (Op::Concatenate, _) => {
                let other = step.inputs[1];
                let (one, two) = match split(from) {
                    Some([channels, places]) => {
                        let mut one = derivative;
                        let two = one.split_off(channels * n_rows * places);
                        (one, two)
                    }
                    None => layers::split_rows(&derivative, from[0], plan.steps()[other].shape[0]),
                };
                self.give(input, one);
                self.give(other, two);
            }
            (Op::Normalise { deviation, .. }, _) => {
                let zeros = vec![0.0; deviation.len()];
                self.give(input, layers::normalise(derivative, n_rows, from, &zeros, deviation));
            }
            // Without a note nothing was dropped.
            (Op::Dropout(_), _) => self.give(input, derivative),
            (Op::MaxPool2, _) => unreachable!("a training pass notes what was largest"),
            (Op::Input, _) => {}
        }
    }

    /// The operators with weights.
    fn learn(&mut self, at: ValueId, input: ValueId, derivative: Vec<f32>, note: Note) {
        let (plan, n_rows) = (self.plan, self.tape.n_rows);
        let wants_input = self.wants[input];
        // The last to look at it on the way back, unless another branch does.
        let values = self.tape.values[input].clone().expect("the forward pass kept what the way back asks for");
        let arrays = &self.tape.arrays;
        match (&plan.steps()[at].op, note) {
            (Op::Convolution { kernel, bias, .. }, _) => {
                let geometry = geometry(plan, at);
                if let Some(bias) = bias {
                    let channels = derivative.chunks(derivative.len() / geometry.outputs);
                    self.gradients.vectors[*bias] = channels.map(|channel| layers::sum(channel) as f32).collect();
                }
                let kernels = &arrays.kernels[*kernel];
                let (by_kernel, back) = conv::backward(geometry, kernels, &values, &derivative, n_rows, wants_input);
                self.gradients.kernels[*kernel] = by_kernel;
                drop(derivative);
                if let Some(back) = back {
                    self.give(input, back);
                }
            }
            (Op::Linear { matrix, bias }, _) => {
                let weights = &arrays.matrices[*matrix];
                let (by_matrix, by_bias, back) =
                    layers::linear_back(&derivative, &values, n_rows, weights, wants_input);
                self.gradients.matrices[*matrix] = by_matrix;
                self.gradients.vectors[*bias] = by_bias;
                if let Some(back) = back {
                    self.give(input, back);
                }
            }
            (Op::BatchNorm { scale, shift, .. }, Note::Moments(moments)) => {
                let (back, by_scale, by_shift) =
                    norm::batch_back(derivative, &values, &moments, &arrays.vectors[*scale]);
                self.gradients.vectors[*scale] = by_scale;
                self.gradients.vectors[*shift] = by_shift;
                self.give(input, back);
            }
            (Op::GroupNorm { scale, shift, .. }, Note::Groups(moments)) => {
                let (back, by_scale, by_shift) =
                    norm::group_back(derivative, &values, &moments, n_rows, &arrays.vectors[*scale]);
                self.gradients.vectors[*scale] = by_scale;
                self.gradients.vectors[*shift] = by_shift;
                self.give(input, back);
            }
            (op, _) => unreachable!("{op:?} has no weights, or its pass noted nothing"),
        }
    }
}
