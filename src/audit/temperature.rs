//! R15's rival: one temperature for all rows, fitted on the calibration rows (Guo et al. 2017).
//!
//! It keeps every label and leaks all that the model leaks; a claim about NLL or ECE is made against it.

use ndarray::Array2;
use serde::Serialize;

/// The range in which a temperature is looked for.
const RANGE: (f64, f64) = (0.01, 1_000.0);

/// A fitted temperature.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Temperature {
    /// `T` of `softmax(z/T)`.
    pub value: f64,
    /// Mean NLL of the calibration rows at `T` = 1.
    pub nll_before: f64,
    /// Mean NLL of the calibration rows at the fitted `T`.
    pub nll_after: f64,
    /// Number of calibration rows.
    pub n_rows: usize,
    /// The likelihood was still rising at the end of the range (such as where every row is right): the value is
    /// the end of the range and no optimum.
    pub at_bound: bool,
}

impl Temperature {
    /// Minimises the mean NLL of `softmax(z/T)` over rows `logits` (n_rows, n_classes) with true `labels`, in f64.
    /// The NLL is convex in 1/T, so the sign of its derivative `Σ_j p_j z_j − z_y` is bisected. `None` without
    /// rows.
    #[must_use]
    pub fn fit(logits: &Array2<f32>, labels: &[u32]) -> Option<Self> {
        let n_rows = labels.len();
        if n_rows == 0 || logits.nrows() != n_rows {
            return None;
        }
        let slope = |beta: f64| mean_over_rows(logits, labels, |z, label| nll_slope(z, label, beta));
        let (mut low, mut high) = (1.0 / RANGE.1, 1.0 / RANGE.0);
        let (slope_low, slope_high) = (slope(low), slope(high));
        let (beta, at_bound) = if slope_low >= 0.0 {
            (low, true)
        } else if slope_high <= 0.0 {
            (high, true)
        } else {
            // Bisection in ln β: 60 halvings of a range of 1e5 reach the last bits.
            for _ in 0..60 {
                let middle = (low * high).sqrt();
                if slope(middle) < 0.0 {
                    low = middle;
                } else {
                    high = middle;
                }
            }
            ((low * high).sqrt(), false)
        };
        let nll = |beta: f64| mean_over_rows(logits, labels, |z, label| row_nll(z, label, beta));
        Some(Self { value: 1.0 / beta, nll_before: nll(1.0), nll_after: nll(beta), n_rows, at_bound })
    }
}

fn mean_over_rows(logits: &Array2<f32>, labels: &[u32], of_row: impl Fn(&[f64], usize) -> f64) -> f64 {
    let mut row_in_f64 = vec![0.0; logits.ncols()];
    let mut sum = 0.0;
    for (row, &label) in logits.rows().into_iter().zip(labels) {
        for (wide, &z) in row_in_f64.iter_mut().zip(row) {
            *wide = f64::from(z);
        }
        sum += of_row(&row_in_f64, label as usize);
    }
    sum / labels.len() as f64
}

/// `−ln softmax(βz)_y`.
fn row_nll(z: &[f64], label: usize, beta: f64) -> f64 {
    let top = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = z.iter().map(|&z| (beta * (z - top)).exp()).sum();
    total.ln() - beta * (z[label] - top)
}

/// Its derivative by β: `Σ_j p_j z_j − z_y`.
fn nll_slope(z: &[f64], label: usize, beta: f64) -> f64 {
    let top = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let (mut total, mut weighted) = (0.0, 0.0);
    for &z in z {
        let weight = (beta * (z - top)).exp();
        total += weight;
        weighted += weight * (z - top);
    }
    weighted / total - (z[label] - top)
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// Rows whose labels are drawn from softmax(z / `truth`).
    fn drawn(truth: f64, n_rows: usize) -> (Array2<f32>, Vec<u32>) {
        let mut rng = ChaCha8Rng::seed_from_u64(9);
        let logits = Array2::from_shape_fn((n_rows, 4), |_| rng.random_range(-6.0..6.0_f32));
        let labels = logits
            .rows()
            .into_iter()
            .map(|row| {
                let weights: Vec<f64> = row.iter().map(|&z| (f64::from(z) / truth).exp()).collect();
                let mut ticket = rng.random::<f64>() * weights.iter().sum::<f64>();
                weights
                    .iter()
                    .take_while(|&&w| {
                        ticket -= w;
                        ticket > 0.0
                    })
                    .count()
                    .min(3) as u32
            })
            .collect();
        (logits, labels)
    }

    #[test]
    fn the_planted_temperature_is_found() {
        let (logits, labels) = drawn(2.5, 20_000);
        let fitted = Temperature::fit(&logits, &labels).unwrap();
        assert!((fitted.value - 2.5).abs() < 0.1, "{fitted:?}");
        assert!(fitted.nll_after < fitted.nll_before && !fitted.at_bound);
    }

    #[test]
    fn no_temperature_nearby_is_better() {
        let (logits, labels) = drawn(0.7, 500);
        let fitted = Temperature::fit(&logits, &labels).unwrap();
        for factor in [0.5, 0.9, 0.999, 1.001, 1.1, 2.0] {
            let beta = factor / fitted.value;
            let there = mean_over_rows(&logits, &labels, |z, label| row_nll(z, label, beta));
            assert!(there >= fitted.nll_after, "{factor}: {there} {fitted:?}");
        }
    }

    #[test]
    fn rows_that_are_all_right_push_to_the_bound() {
        let fitted = Temperature::fit(&ndarray::array![[2.0, 0.0], [0.0, 1.0]], &[0, 1]).unwrap();
        assert!(fitted.at_bound && (fitted.value - RANGE.0).abs() < 1e-12);
        assert!(Temperature::fit(&Array2::zeros((0, 2)), &[]).is_none());
    }
}
