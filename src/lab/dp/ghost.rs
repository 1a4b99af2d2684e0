//! Ghost clipping: the norm of each row's gradient without the gradient, and the sum of the clipped ones.
//!
//! A row's gradient of a linear layer is an outer product of what went in and of the loss's derivative by what came
//! out, so its norm follows from those two (Goodfellow 2015; Li et al. 2022; for convolutions Bu et al. 2022). The
//! derivatives come from one backward pass: zeros that ask for a gradient are added behind each operator with
//! weights, and the weights themselves ask for none. The sum of the clipped gradients is then a product of the same
//! two arrays with the rows scaled; there is no second backward pass.
//!
//! | operator | a row's squared norm | the clipped sum |
//! | --- | --- | --- |
//! | linear, input `a`, derivative `d` | `‖a‖²‖d‖² + ‖d‖²` | `Aᵀ(s·D)`, `Σ s d` |
//! | convolution, patches `U`, derivative `D` (a column a place) | `‖D Uᵀ‖²` or `⟨UᵀU, DᵀD⟩`, whichever takes fewer products, and `‖Σ D‖²` | `Σ s D Uᵀ`, `Σ s Σ D` |
//! | group norm, normalised input `x` | `Σ_c (Σ d x)² + (Σ d)²` | `Σ s Σ d x`, `Σ s Σ d` |
//!
//! `s` is the factor of a row. Batch normalisation has no row of its own here: it mixes them, and is refused before.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::Tensor;
use rand_chacha::ChaCha8Rng;

use super::gradients::Gradients;
use crate::lab::network::plan::{ParameterId, ValueId};
use crate::lab::network::{Dropout, Hook, Network, Op, Pass, Value, Weights, group_normal};
use crate::lab::{Compute, autodiff};

/// Added to a norm before the clipping norm is divided by it, as Opacus has it.
const NORM_MARGIN: f64 = 1e-6;

/// What a batch gives to a private step.
#[derive(Debug, Clone)]
pub struct Clipped {
    /// `Σ_i g_i · min(1, C / (‖g_i‖ + 1e-6))`.
    pub sum: Gradients,
    /// `‖g_i‖`, over all layers together, before clipping: `(n_rows)`.
    pub norms: Tensor<Compute, 1>,
    /// The loss of each row: `(n_rows)`.
    pub losses: Tensor<Compute, 1>,
    /// `(n_rows, n_classes)`.
    pub logits: Tensor<Compute, 2>,
}

/// The sum of the gradients of the rows' losses, each row's clipped to the norm `clip`.
///
/// `losses` gives one loss a row from the logits, each of its own row alone: `(n_rows, n_classes)` to `(n_rows)`. The
/// network is one without batch normalisation. What is dropped of a row is drawn by its own generator, `rngs` in the order
/// of the rows: then a row that is left out changes nothing in the others' gradients.
///
/// # Shapes
///
/// `rows` is `(n_rows, n_features)`, at least one row.
///
/// # Panics
///
/// On a network with batch normalisation; [`Privacy::check`](super::Privacy::check) refuses those.
#[must_use]
pub fn clipped_sum(
    network: &Network,
    rows: Tensor<Compute, 2>,
    losses: impl FnOnce(Tensor<Compute, 2>) -> Tensor<Compute, 1>,
    clip: f64,
    (dropout, rngs): (Dropout, &mut [ChaCha8Rng]),
) -> Clipped {
    let frozen = Network::with(network.plan().clone(), freeze(network.weights()), network.device().clone());
    let mut ghost = Ghost { taps: vec![] };
    let mut pass = Pass { dropout, rngs, statistics: vec![], hook: Some(&mut ghost) };
    let alone = autodiff::one_at_a_time();
    let logits = frozen.forward_training(rows, &mut pass);
    let losses = losses(logits.clone());
    let gradients = losses.clone().sum().backward();
    drop(alone);
    let layers: Vec<Layer> = ghost.taps.into_iter().map(|tap| tap.layer(&gradients)).collect();
    drop(gradients);
    let squares = layers.iter().map(Layer::squared_norms).reduce(|sum, squares| sum + squares);
    let norms = squares.expect("a network ends in a linear layer").sqrt();
    let factors = norms.clone().add_scalar(NORM_MARGIN).recip().mul_scalar(clip).clamp_max(1.0);
    let mut sum = Gradients::default();
    layers.into_iter().for_each(|layer| layer.add_to(&mut sum, &factors));
    Clipped { sum, norms, losses: losses.inner(), logits: logits.inner() }
}

/// The weights without their wish for gradients: what the backward pass then skips is half of its work.
fn freeze(weights: &Weights<Compute>) -> Weights<Compute> {
    struct Freeze;
    impl ModuleMapper<Compute> for Freeze {
        fn map_float<const D: usize>(&mut self, parameter: Param<Tensor<Compute, D>>) -> Param<Tensor<Compute, D>> {
            parameter.map(|values| Tensor::from_inner(values.inner()))
        }
    }
    weights.clone().map(&mut Freeze)
}

/// Puts the zeros behind the operators, and keeps what goes into these.
struct Ghost {
    taps: Vec<Tap>,
}

impl Hook for Ghost {
    fn after(&mut self, _: ValueId, op: &Op, input: &Value, output: Value) -> Value {
        let input = match input {
            Value::Flat(values) => Value::Flat(values.clone().inner()),
            Value::Image(values) => Value::Image(values.clone().inner()),
        };
        // Nothing before the first operator asks for a gradient: its outcome can be the leaf itself.
        let first = self.taps.is_empty();
        let (leaf, output) = match output {
            Value::Flat(values) => {
                let (leaf, output) = tapped(values, first);
                (Value::Flat(leaf), Value::Flat(output))
            }
            Value::Image(values) => {
                let (leaf, output) = tapped(values, first);
                (Value::Image(leaf), Value::Image(output))
            }
        };
        self.taps.push(Tap { op: op.clone(), input, leaf });
        output
    }
}

fn tapped<const D: usize>(values: Tensor<Compute, D>, first: bool) -> (Tensor<Compute, D>, Tensor<Compute, D>) {
    if first {
        let leaf = Tensor::from_inner(values.inner()).require_grad();
        return (leaf.clone(), leaf);
    }
    let leaf = values.zeros_like().require_grad();
    (leaf.clone(), values + leaf)
}

/// One operator with weights: what went in, and the leaf whose gradient is the derivative by what came out.
struct Tap {
    op: Op,
    input: Value,
    leaf: Value,
}

type Backward = <Compute as burn::tensor::backend::AutodiffBackend>::Gradients;

impl Tap {
    fn layer(self, gradients: &Backward) -> Layer {
        match (self.op, self.input, self.leaf) {
            (Op::Linear { matrix, bias }, input, Value::Flat(leaf)) => {
                let input = match input {
                    Value::Flat(values) => values,
                    Value::Image(values) => values.flatten(1, 3),
                };
                Layer::Linear { matrix, bias, input, derivative: derivative(&leaf, gradients) }
            }
            (Op::Convolution { kernel, bias, side, stride, padding }, Value::Image(input), Value::Image(leaf)) => {
                let geometry = Geometry { side, stride, padding };
                Layer::convolution(kernel, bias, geometry, input, derivative(&leaf, gradients))
            }
            (Op::GroupNorm { scale, shift, groups }, Value::Image(input), Value::Image(leaf)) => {
                let derivative = lines(derivative(&leaf, gradients));
                let normal = lines(group_normal(input, groups));
                let by_scale = derivative.clone().mul(normal).sum_dim(2).squeeze_dim(2);
                Layer::Vectors { scale, shift, by_scale, by_shift: derivative.sum_dim(2).squeeze_dim(2) }
            }
            (op, ..) => unreachable!("{op:?} has no weights of its own rows"),
        }
    }
}

fn derivative<const D: usize>(leaf: &Tensor<Compute, D>, gradients: &Backward) -> Tensor<Compute, D> {
    leaf.grad(gradients).expect("every operator with weights leads to the logits")
}

/// `(n, channels, height, width)` to `(n, channels, places)`.
fn lines(values: Tensor<Compute, 4>) -> Tensor<Compute, 3> {
    values.flatten(2, 3)
}

/// How a kernel goes over an image.
#[derive(Debug, Clone, Copy)]
struct Geometry {
    side: usize,
    stride: usize,
    padding: usize,
}

/// One operator's share in the gradients.
#[allow(clippy::large_enum_variant, reason = "as many live at once as a network has layers")]
enum Layer {
    /// `input` `(n, inputs)`, `derivative` `(n, outputs)`.
    Linear { matrix: ParameterId, bias: ParameterId, input: Tensor<Compute, 2>, derivative: Tensor<Compute, 2> },
    /// `derivative` `(n, outputs, places)`.
    Convolution {
        kernel: ParameterId,
        bias: Option<ParameterId>,
        geometry: Geometry,
        input: Tensor<Compute, 4>,
        derivative: Tensor<Compute, 3>,
        /// The rows' own gradients `(n, outputs, side² · inputs)`, where they are cheaper than inner products of places.
        own: Option<Tensor<Compute, 3>>,
        places: [usize; 2],
    },
    /// The rows' own gradients `(n, channels)`.
    Vectors { scale: ParameterId, shift: ParameterId, by_scale: Tensor<Compute, 2>, by_shift: Tensor<Compute, 2> },
}

impl Layer {
    fn convolution(
        kernel: ParameterId,
        bias: Option<ParameterId>,
        geometry: Geometry,
        input: Tensor<Compute, 4>,
        derivative: Tensor<Compute, 4>,
    ) -> Self {
        let [_, n_outputs, height, width] = derivative.dims();
        let (places, n_places) = ([height, width], height * width);
        let n_inputs = geometry.side * geometry.side * input.dims()[1];
        let derivative = lines(derivative);
        let by_places = n_places * (n_inputs + n_outputs) < n_inputs * n_outputs;
        let own = (!by_places).then(|| derivative.clone().matmul(patches(input.clone(), geometry, places).transpose()));
        Self::Convolution { kernel, bias, geometry, input, derivative, own, places }
    }

    /// `(n_rows)`.
    fn squared_norms(&self) -> Tensor<Compute, 1> {
        match self {
            Self::Linear { input, derivative, .. } => {
                squares(derivative.clone()) * squares(input.clone()).add_scalar(1.0)
            }
            Self::Convolution { bias, geometry, input, derivative, own, places, .. } => {
                let of_kernel = match own {
                    Some(own) => squares(own.clone().flatten::<2>(1, 2)),
                    None => {
                        let patches = patches(input.clone(), *geometry, *places);
                        let of_input = patches.clone().transpose().matmul(patches);
                        let of_output = derivative.clone().transpose().matmul(derivative.clone());
                        // Rounding may leave a sum of nothing just below 0.
                        (of_input * of_output).flatten::<2>(1, 2).sum_dim(1).squeeze_dim::<1>(1).clamp_min(0.0)
                    }
                };
                match bias {
                    Some(_) => of_kernel + squares(derivative.clone().sum_dim(2).squeeze_dim(2)),
                    None => of_kernel,
                }
            }
            Self::Vectors { by_scale, by_shift, .. } => squares(by_scale.clone()) + squares(by_shift.clone()),
        }
    }

    /// Adds the rows' gradients, each times its factor.
    fn add_to(self, sum: &mut Gradients, factors: &Tensor<Compute, 1>) {
        match self {
            Self::Linear { matrix, bias, input, derivative } => {
                let scaled = derivative * factors.clone().unsqueeze_dim(1);
                sum.add_matrix(matrix, input.transpose().matmul(scaled.clone()));
                sum.add_vector(bias, scaled.sum_dim(0).squeeze_dim(0));
            }
            Self::Convolution { kernel, bias, geometry, input, derivative, own, places } => {
                let [n_rows, n_outputs, n_places] = derivative.dims();
                let n_channels = input.dims()[1];
                let n_inputs = geometry.side * geometry.side * n_channels;
                let scaled = derivative * factors.clone().reshape([n_rows, 1, 1]);
                if let Some(bias) = bias {
                    sum.add_vector(bias, scaled.clone().sum_dim(2).sum_dim(0).reshape([n_outputs]));
                }
                let by_kernel = match own {
                    Some(own) => factors.clone().unsqueeze_dim(0).matmul(own.flatten(1, 2)),
                    None => {
                        let scaled = scaled.swap_dims(0, 1).reshape([n_outputs, n_rows * n_places]);
                        let patches = patches(input, geometry, places).swap_dims(1, 2);
                        scaled.matmul(patches.reshape([n_rows * n_places, n_inputs]))
                    }
                };
                // Offsets of the kernel stand before channels in a patch, behind them in a kernel.
                let side = geometry.side;
                let by_kernel = by_kernel.reshape([n_outputs, side * side, n_channels]).swap_dims(1, 2);
                sum.add_kernel(kernel, by_kernel.reshape([n_outputs, n_channels, side, side]));
            }
            Self::Vectors { scale, shift, by_scale, by_shift } => {
                let factors: Tensor<Compute, 2> = factors.clone().unsqueeze_dim(0);
                sum.add_vector(scale, factors.clone().matmul(by_scale).squeeze_dim(0));
                sum.add_vector(shift, factors.matmul(by_shift).squeeze_dim(0));
            }
        }
    }
}

/// The sum of the squares of each row: `(n, m)` to `(n)`.
fn squares(values: Tensor<Compute, 2>) -> Tensor<Compute, 1> {
    (values.clone() * values).sum_dim(1).squeeze_dim(1)
}

/// What the kernel sees at each place: `(n, channels, height, width)` to `(n, side² · channels, places)`.
fn patches(input: Tensor<Compute, 4>, geometry: Geometry, [height, width]: [usize; 2]) -> Tensor<Compute, 3> {
    let Geometry { side, stride, padding } = geometry;
    if (side, stride, padding) == (1, 1, 0) {
        return lines(input);
    }
    let padded = if padding == 0 { input } else { input.pad((padding, padding, padding, padding), 0.0) };
    let [n_rows, n_channels, ..] = padded.dims();
    let step = isize::try_from(stride).unwrap_or(1);
    let along = |from: usize, n: usize| {
        burn::tensor::Slice::new(from as isize, Some((from + (n - 1) * stride + 1) as isize), step)
    };
    let mut seen = Vec::with_capacity(side * side);
    for row in 0..side {
        for column in 0..side {
            let slice = padded.clone().slice([
                burn::tensor::Slice::from(0..n_rows),
                burn::tensor::Slice::from(0..n_channels),
                along(row, height),
                along(column, width),
            ]);
            seen.push(lines(slice));
        }
    }
    Tensor::cat(seen, 1)
}
