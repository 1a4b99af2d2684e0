//! A network of no or one hidden layer, trained by Adam: without a hidden layer it is logistic regression.

use ndarray::{Array1, Array2, Axis};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Rows of one step.
const BATCH: usize = 128;
/// Adam's decay rates and its guard against division by zero.
const BETA: (f32, f32) = (0.9, 0.999);
const EPSILON: f32 = 1e-8;

/// How a network is trained.
#[derive(Debug, Clone)]
pub(crate) struct NetworkSettings {
    /// Units of the hidden layer; 0 for none.
    pub(crate) n_hidden: usize,
    /// Passes over the rows.
    pub(crate) n_epochs: usize,
    /// Step size at the start; it falls to 0 along a half cosine.
    pub(crate) rate: f32,
    /// L2 on the weights, a step's share of them.
    pub(crate) decay: f32,
    /// Seed of the weights and of the order.
    pub(crate) seed: u64,
}

impl NetworkSettings {
    /// Logistic regression.
    pub(crate) fn logistic(seed: u64) -> Self {
        Self { n_hidden: 0, n_epochs: 30, rate: 0.03, decay: 1e-3, seed }
    }

    /// 64 hidden units.
    pub(crate) fn hidden(seed: u64) -> Self {
        Self { n_hidden: 64, n_epochs: 30, rate: 3e-3, decay: 1e-3, seed }
    }
}

/// A matrix of weights with its moments.
struct Parameter {
    value: Array2<f32>,
    first: Array2<f32>,
    second: Array2<f32>,
}

impl Parameter {
    fn new(n_in: usize, n_out: usize, rng: &mut ChaCha8Rng) -> Self {
        let limit = (6.0 / (n_in + n_out) as f32).sqrt();
        let value = Array2::from_shape_fn((n_in, n_out), |_| rng.random_range(-limit..limit));
        Self { first: Array2::zeros(value.raw_dim()), second: Array2::zeros(value.raw_dim()), value }
    }

    /// One step of Adam with decoupled decay.
    fn step(&mut self, gradient: &Array2<f32>, rate: f32, decay: f32, step: i32) {
        let (fix_first, fix_second) = (1.0 - BETA.0.powi(step), 1.0 - BETA.1.powi(step));
        ndarray::Zip::from(&mut self.value).and(&mut self.first).and(&mut self.second).and(gradient).for_each(
            |value, first, second, &g| {
                *first = BETA.0 * *first + (1.0 - BETA.0) * g;
                *second = BETA.1 * *second + (1.0 - BETA.1) * g * g;
                *value -= rate * (*first / fix_first / ((*second / fix_second).sqrt() + EPSILON) + decay * *value);
            },
        );
    }
}

/// A trained network: features to the log-odds of membership.
pub(crate) struct Network {
    /// With a last row for the bias each.
    layers: Vec<Array2<f32>>,
}

impl Network {
    /// Trains on `features` (n_rows, n_features) of about unit scale, with a weight for each row.
    pub(crate) fn fit(
        features: &Array2<f32>,
        memberships: &[bool],
        weights: &[f32],
        settings: &NetworkSettings,
    ) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(settings.seed);
        let features = with_bias(features);
        let mut parameters = match settings.n_hidden {
            0 => vec![Parameter::new(features.ncols(), 1, &mut rng)],
            n => vec![Parameter::new(features.ncols(), n, &mut rng), Parameter::new(n + 1, 1, &mut rng)],
        };
        let mut order: Vec<usize> = (0..features.nrows()).collect();
        let n_steps = settings.n_epochs * features.nrows().div_ceil(BATCH);
        let mut step = 0;
        for _ in 0..settings.n_epochs {
            order.shuffle(&mut rng);
            for rows in order.chunks(BATCH) {
                let part = step as f32 / n_steps as f32;
                let rate = settings.rate * 0.5 * (1.0 + (std::f32::consts::PI * part).cos());
                step += 1;
                let inputs = features.select(Axis(0), rows);
                let gradients = gradients(&parameters, &inputs, rows, memberships, weights);
                for (parameter, gradient) in parameters.iter_mut().zip(&gradients) {
                    parameter.step(gradient, rate, settings.decay, step);
                }
            }
        }
        Self { layers: parameters.into_iter().map(|parameter| parameter.value).collect() }
    }

    /// Log-odds of membership of each row.
    pub(crate) fn scores(&self, features: &Array2<f32>) -> Vec<f64> {
        let inputs = with_bias(features);
        let out = match &self.layers[..] {
            [only] => inputs.dot(only),
            [first, second] => with_bias(&hidden(&inputs, first)).dot(second),
            _ => Array2::zeros((features.nrows(), 1)),
        };
        out.iter().map(|&value| f64::from(value)).collect()
    }
}

/// `max(0, x·w)`.
fn hidden(inputs: &Array2<f32>, weights: &Array2<f32>) -> Array2<f32> {
    let mut values = inputs.dot(weights);
    values.mapv_inplace(|value| value.max(0.0));
    values
}

/// A last column of ones.
fn with_bias(values: &Array2<f32>) -> Array2<f32> {
    let mut wide = Array2::ones((values.nrows(), values.ncols() + 1));
    wide.slice_axis_mut(Axis(1), (0..values.ncols()).into()).assign(values);
    wide
}

/// Gradients of the mean weighted log loss over a batch.
fn gradients(
    parameters: &[Parameter],
    inputs: &Array2<f32>,
    rows: &[usize],
    memberships: &[bool],
    weights: &[f32],
) -> Vec<Array2<f32>> {
    let n = rows.len() as f32;
    let error = |logits: &Array2<f32>| -> Array1<f32> {
        let each = rows.iter().zip(logits.iter()).map(|(&row, &logit)| {
            let target = f32::from(u8::from(memberships[row]));
            weights[row] * (1.0 / (1.0 + (-logit).exp()) - target) / n
        });
        each.collect()
    };
    match parameters {
        [first, second] => {
            let units = with_bias(&hidden(inputs, &first.value));
            let error = error(&units.dot(&second.value)).insert_axis(Axis(1));
            let of_second = units.t().dot(&error);
            let mut back = error.dot(&second.value.t());
            ndarray::Zip::from(&mut back).and(&units).for_each(|back, &unit| {
                if unit <= 0.0 {
                    *back = 0.0;
                }
            });
            let back = back.slice_axis(Axis(1), (0..first.value.ncols()).into()).to_owned();
            vec![inputs.t().dot(&back), of_second]
        }
        [only] => vec![inputs.t().dot(&error(&inputs.dot(&only.value)).insert_axis(Axis(1)))],
        _ => Vec::new(),
    }
}
