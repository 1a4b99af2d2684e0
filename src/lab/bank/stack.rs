//! A stacking layer: multinomial logistic regression over the logits of all members, fitted on rows that none of them
//! saw.
//!
//! The penalty pulls the layer towards the plain mean of the logits and not towards zero, so that with few rows an
//! ensemble is stacked as it would be averaged; how hard it pulls is chosen by cross-validation in two halves.
//! Deterministic: accelerated gradient descent from the mean, in f64.

use anyhow::ensure;
use ndarray::{Array1, Array2, Axis, Slice};

use crate::lab::onnx::join::Stacking;

/// How hard the penalty pulls: the candidates.
const STRENGTHS: [f64; 5] = [1e-3, 1e-2, 1e-1, 1.0, 10.0];
/// Steps of the descent.
const STEPS: usize = 300;
/// Steps of the power iteration that bounds the curvature.
const POWER_STEPS: usize = 30;

/// A fitted layer and how it was chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct Fit {
    /// The layer.
    pub stacking: Stacking,
    /// The strength of the penalty.
    pub strength: f64,
    /// Mean cross-entropy on the half that was not fitted on, over both halves.
    pub held_out_loss: f64,
    /// The same of the plain mean of the logits.
    pub mean_loss: f64,
}

/// Fits a layer.
///
/// # Shapes
///
/// `logits` `(n_rows, n_models · n_classes)`, the members' logits one after the other; one label a row.
///
/// # Errors
///
/// When there are fewer than two rows, or the shapes do not fit each other.
pub fn fit(logits: &Array2<f32>, labels: &[u32], n_classes: usize) -> anyhow::Result<Fit> {
    let (n_rows, n_inputs) = logits.dim();
    ensure!(
        n_rows >= 2,
        "expected at least 2 rows to fit the stacking layer on, got {n_rows}: give the split validation rows"
    );
    ensure!(labels.len() == n_rows, "expected {n_rows} labels, got {}", labels.len());
    ensure!(n_classes > 0 && n_inputs.is_multiple_of(n_classes), "expected logits of whole members");
    let values = logits.mapv(f64::from);
    let scale = (values.mapv(|value| value * value).mean().unwrap_or(1.0)).sqrt().max(1e-6);
    let problem = Problem::new(values / scale, labels, n_classes, scale);
    let halves = [0, 1].map(|half| (0..n_rows).filter(|row| row % 2 == half).collect::<Vec<_>>());
    let held_out = |strength| {
        let losses = [(0, 1), (1, 0)].map(|(fitted, held)| {
            let layer = problem.of(&halves[fitted]).solve(strength);
            problem.of(&halves[held]).loss(&layer) * halves[held].len() as f64
        });
        losses.iter().sum::<f64>() / n_rows as f64
    };
    let tried = STRENGTHS.map(|strength| (held_out(strength), strength));
    let (held_out_loss, strength) =
        tried.into_iter().fold(tried[0], |best, next| if next.0 < best.0 { next } else { best });
    let layer = problem.solve(strength);
    let stacking = Stacking {
        weight: layer.slice_axis(Axis(0), Slice::from(..n_inputs)).mapv(|weight| (weight / scale) as f32),
        bias: layer.row(n_inputs).mapv(|bias| bias as f32),
    };
    Ok(Fit { stacking, strength, held_out_loss, mean_loss: problem.loss(&problem.start) })
}

/// Rows with a column of ones, labels, and the layer that gives the mean.
struct Problem {
    rows: Array2<f64>,
    labels: Vec<u32>,
    /// `(n_inputs + 1, n_classes)`, the bias last.
    start: Array2<f64>,
}

impl Problem {
    fn new(values: Array2<f64>, labels: &[u32], n_classes: usize, scale: f64) -> Self {
        let (n_rows, n_inputs) = values.dim();
        let mut rows = Array2::ones((n_rows, n_inputs + 1));
        rows.slice_axis_mut(Axis(1), Slice::from(..n_inputs)).assign(&values);
        let n_models = n_inputs / n_classes;
        let start = Array2::from_shape_fn((n_inputs + 1, n_classes), |(input, class)| {
            if input < n_inputs && input % n_classes == class { scale / n_models as f64 } else { 0.0 }
        });
        Self { rows, labels: labels.to_vec(), start }
    }

    fn of(&self, rows: &[usize]) -> Self {
        let labels = rows.iter().map(|&row| self.labels[row]).collect();
        Self { rows: self.rows.select(Axis(0), rows), labels, start: self.start.clone() }
    }

    fn shares(&self, layer: &Array2<f64>) -> Array2<f64> {
        let mut shares = self.rows.dot(layer);
        for mut row in shares.rows_mut() {
            let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            row.mapv_inplace(|logit| (logit - largest).exp());
            let sum = row.sum();
            row.mapv_inplace(|share| share / sum);
        }
        shares
    }

    /// Mean cross-entropy, without the penalty.
    fn loss(&self, layer: &Array2<f64>) -> f64 {
        let shares = self.shares(layer);
        let losses =
            shares.rows().into_iter().zip(&self.labels).map(|(row, &label)| -row[label as usize].max(1e-300).ln());
        losses.sum::<f64>() / self.labels.len().max(1) as f64
    }

    /// Nesterov's method for a strongly convex function: curvature between the penalty's and the bound.
    fn solve(&self, strength: f64) -> Array2<f64> {
        let n_rows = self.labels.len() as f64;
        let step = 1.0 / (0.5 * self.largest_square() / n_rows + strength);
        let ratio = (step * strength).sqrt();
        let momentum = (1.0 - ratio) / (1.0 + ratio);
        let (mut layer, mut ahead) = (self.start.clone(), self.start.clone());
        for _ in 0..STEPS {
            let mut errors = self.shares(&ahead);
            self.labels.iter().enumerate().for_each(|(row, &label)| errors[[row, label as usize]] -= 1.0);
            let gradient = self.rows.t().dot(&errors) / n_rows + (&ahead - &self.start) * strength;
            let next = &ahead - &(gradient * step);
            ahead = &next + &((&next - &layer) * momentum);
            layer = next;
        }
        layer
    }

    /// The square of the rows' largest singular value, by power iteration, a little above.
    fn largest_square(&self) -> f64 {
        let mut vector = Array1::from_elem(self.rows.ncols(), 1.0);
        let mut square = 1.0;
        for _ in 0..POWER_STEPS {
            let next: Array1<f64> = self.rows.t().dot(&self.rows.dot(&vector));
            square = next.dot(&next).sqrt().max(1e-12);
            vector = next / square;
        }
        square * 1.05
    }
}

#[cfg(test)]
mod tests {
    use rand::Rng;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;

    use super::*;

    /// Member 0 knows the label, member 1 guesses, member 2 is wrong on purpose.
    fn members(n_rows: usize) -> (Array2<f32>, Vec<u32>) {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let labels: Vec<u32> = (0..n_rows).map(|row| (row % 3) as u32).collect();
        let logits = Array2::from_shape_fn((n_rows, 9), |(row, column)| {
            let noise: f32 = rng.random_range(-1.5..1.5);
            let own = labels[row] as usize == column % 3;
            noise
                + match column / 3 {
                    0 if own => 1.5,
                    2 if own => -1.5,
                    _ => 0.0,
                }
        });
        (logits, labels)
    }

    fn loss(logits: &Array2<f32>, labels: &[u32], stacking: &Stacking) -> f64 {
        let shares = super::super::answers::softmax(&(logits.dot(&stacking.weight) + &stacking.bias), 1.0);
        super::super::answers::score(&shares, labels).unwrap().loss
    }

    #[test]
    fn a_stacking_layer_learns_whom_to_believe() {
        let (logits, labels) = members(300);
        let fit = fit(&logits, &labels, 3).unwrap();
        let (fresh, fresh_labels) = members(300);
        let own = loss(&fresh, &fresh_labels, &fit.stacking);
        assert!(own < 0.8 * fit.mean_loss, "{own} and {}", fit.mean_loss);
        assert!((fit.held_out_loss - own).abs() < 0.15, "{fit:?}");
        assert!(fit.stacking.weight[[0, 0]] > 0.2 && fit.stacking.weight[[6, 0]] < 0.0);
    }

    #[test]
    fn members_that_say_nothing_are_averaged() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let logits = Array2::from_shape_simple_fn((40, 30), || rng.random_range(-1.0f32..1.0));
        let labels: Vec<u32> = (0..40).map(|_| rng.random_range(0..3)).collect();
        let fit = fit(&logits, &labels, 3).unwrap();
        assert_eq!(fit.strength, 10.0);
        assert!((fit.stacking.weight[[0, 0]] - 0.1).abs() < 0.02 && fit.stacking.weight[[0, 1]].abs() < 0.02);
    }

    #[test]
    fn what_cannot_be_fitted_on_is_refused() {
        let (logits, labels) = members(4);
        assert!(
            fit(&logits.select(Axis(0), &[0]), &labels[..1], 3).unwrap_err().to_string().contains("at least 2 rows")
        );
        assert!(fit(&logits, &labels[..3], 3).is_err() && fit(&logits, &labels, 4).is_err());
    }
}
