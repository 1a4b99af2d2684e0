//! The one door through which offline code looks inside [`RawScores`].
//!
//! Fitting needs logits, and an audit compares with what no defence would have said. The layering test names who
//! may use this module (`audit`, `lab`, and the commands that fit or measure); the server is not among them.

use ndarray::Array2;

use super::scores::{RawScores, label_of};

/// The logits `z` of R2, shape `(n_rows, n_classes)`.
#[must_use]
pub fn logits(raw: RawScores) -> Array2<f32> {
    raw.into_logits()
}

/// The label `ŷ` of each row (R1).
#[must_use]
pub fn labels(raw: &RawScores) -> Vec<u32> {
    raw.values().rows().into_iter().map(|row| row.as_slice().map_or(0, label_of) as u32).collect()
}

/// Softmax of logits at a temperature, in f64, shape `(n_rows, n_classes)`: what the model alone would answer
/// (temperature 1), or the temperature-scaled rival (R15).
#[must_use]
pub fn softmax(logits: &Array2<f32>, temperature: f64) -> Array2<f64> {
    let mut p = logits.mapv(|z| f64::from(z) / temperature);
    for mut row in p.rows_mut() {
        let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        row.mapv_inplace(|z| (z - max).exp());
        let sum = row.sum();
        row.mapv_inplace(|value| value / sum);
    }
    p
}

/// Cosine distance `1 − cos(z, c)` between a row's logits and a centroid, both of shape `(n_classes)`.
#[must_use]
pub fn cosine_distance(z: &[f32], centroid: &[f32]) -> f64 {
    1.0 - super::reweight::cosine(z, centroid, super::reweight::norm(centroid))
}

/// Opens a copy of sealed scores, for measurements that need both the answer and what it was made from.
///
/// # Panics
/// Never: the copy was checked when it was sealed.
#[must_use]
pub fn copy(raw: &RawScores) -> RawScores {
    RawScores::new(raw.values().clone(), raw.kind()).expect("sealed scores were checked")
}
