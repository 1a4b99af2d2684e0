//! Boosting: SAMME.R (Zhu et al. 2009) by resampling, round after round.
//!
//! Round `t` trains on as many rows as there are, drawn with repetition in proportion to weights that start equal and are
//! multiplied after each round by `exp(−η (K − 1)/K · Σ_k y_k ln p_k)`, `y_k` = 1 for the label and −1/(K − 1) for the other
//! classes, `ln p` floored. SAMME.R's answer is the softmax of the mean, over rounds, of centred log-probabilities, which is
//! that of the mean of the logits: so a boosted bank is served as [`crate::lab::onnx::join::Combine::MeanLogits`].
//!
//! A network that fits its training rows leaves little to boost. The rounds follow from the recipe's seed and the models before,
//! so that a run goes on from the models that stand; the finished bank has a recorded inclusion matrix like any other.

use ndarray::Array2;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::answers::{Answerer, softmax};
use crate::data::Dataset;
use crate::lab::streams;

/// The first stream of the generator that draws the rows of rounds: above the seeds'.
const ROUNDS_STREAM: u64 = streams::INCLUSION + (1 << 31) + (1 << 16);
/// Probabilities are not taken for less in a weight.
const FLOOR: f64 = 1e-5;
/// No weight is above so many times the mean: one row must not be all that a round sees.
const MAX_WEIGHT: f64 = 20.0;

/// The weights of the rows, before some round.
#[derive(Debug, Clone, PartialEq)]
pub struct Weights(Vec<f64>);

impl Weights {
    /// Equal weights.
    #[must_use]
    pub fn equal(n_rows: usize) -> Self {
        Self(vec![1.0; n_rows])
    }

    /// Draws the rows of a round: how often each is in it.
    #[must_use]
    pub fn draw(&self, seed: u64, round: usize) -> Vec<u8> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(ROUNDS_STREAM + round as u64);
        let sums: Vec<f64> = self
            .0
            .iter()
            .scan(0.0, |sum, weight| {
                Some({
                    *sum += weight;
                    *sum
                })
            })
            .collect();
        let total = sums.last().copied().unwrap_or(0.0);
        let mut counts = vec![0u8; self.0.len()];
        for _ in 0..self.0.len() {
            let at = rng.random_range(0.0..1.0) * total;
            let place = sums.partition_point(|sum| *sum <= at).min(counts.len() - 1);
            counts[place] = counts[place].saturating_add(1);
        }
        counts
    }

    /// The weights after a round whose model gives these logits for the rows.
    ///
    /// # Shapes
    ///
    /// `(n_rows, n_classes)`, one label a row.
    #[must_use]
    pub fn after(&self, logits: &Array2<f32>, labels: &[u32], rate: f64) -> Self {
        let n_classes = logits.ncols() as f64;
        let shares = softmax(logits, 1.0);
        let mut weights: Vec<f64> = self.0.clone();
        for ((weight, row), &label) in weights.iter_mut().zip(shares.rows()).zip(labels) {
            let logs = row.mapv(|share| share.max(FLOOR).ln());
            let own = logs[label as usize];
            let coded = own - (logs.sum() - own) / (n_classes - 1.0).max(1.0);
            *weight *= (-rate * (n_classes - 1.0) / n_classes * coded).exp();
        }
        let mean = weights.iter().sum::<f64>() / weights.len().max(1) as f64;
        Self(weights.into_iter().map(|weight| (weight / mean).min(MAX_WEIGHT)).collect())
    }

    /// The same for the bytes of an ONNX model.
    ///
    /// # Errors
    ///
    /// When the model cannot be run on the rows.
    pub fn after_model(&self, model: &[u8], dataset: &Dataset, rows: &[usize], rate: f64) -> anyhow::Result<Self> {
        let logits = Answerer::load(model)?.logits(dataset, rows)?;
        let labels: Vec<u32> = rows.iter().map(|&row| dataset.labels()[row]).collect();
        Ok(self.after(&logits, &labels, rate))
    }
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    #[test]
    fn rows_that_a_round_gets_wrong_weigh_more_in_the_next() {
        let logits = array![[3.0f32, 0.0, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, 0.0]];
        let weights = Weights::equal(3).after(&logits, &[0, 0, 0], 1.0);
        assert!(weights.0[1] > weights.0[2] && weights.0[2] > weights.0[0], "{weights:?}");
        // By the formula: ln p of the logits 3, 0, 0 less the mean of the others is 3.
        let expected = (-2.0 / 3.0 * 3.0f64).exp() / (2.0f64 / 3.0 * 1.5).exp();
        assert!((weights.0[0] / weights.0[1] - expected).abs() < 0.02 * expected + 0.05, "{weights:?}");
        assert!(weights.0.iter().all(|weight| *weight <= MAX_WEIGHT));
    }

    #[test]
    fn a_round_draws_as_many_rows_as_there_are_in_proportion_to_their_weights() {
        let weights = Weights((0..1000).map(|row| if row < 100 { 9.0 } else { 1.0 }).collect());
        let counts = weights.draw(7, 3);
        assert_eq!(counts.iter().map(|&n| usize::from(n)).sum::<usize>(), 1000);
        let heavy: usize = counts[..100].iter().map(|&n| usize::from(n)).sum();
        assert!((420..=580).contains(&heavy), "{heavy}");
        assert_eq!(counts, weights.draw(7, 3));
        assert_ne!(counts, weights.draw(7, 4));
        assert_ne!(counts, weights.draw(8, 3));
    }
}
