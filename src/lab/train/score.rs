//! How good a network is on some rows: row by row, and in the mean.

use ndarray::Array2;
use serde::{Deserialize, Serialize};

use crate::data::Dataset;
use crate::lab::network::Network;

/// Mean loss and accuracy over some rows.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Score {
    /// Rows counted.
    pub n_rows: usize,
    /// Mean cross-entropy in nats, against the labels as they are.
    pub loss: f64,
    /// Share of rows whose largest logit (ties: lowest index) is that of the label.
    pub accuracy: f64,
}

/// How good a network is on each of some rows, in their order.
#[derive(Clone, PartialEq, Default)]
pub struct RowScores {
    /// The cross-entropy of each row in nats against its label as it is, in f64: what a loss attack ranks by.
    pub losses: Vec<f64>,
    /// Whether each row's largest logit (ties: lowest index) is that of its label.
    pub is_right: Vec<bool>,
}

/// Losses are kept from prying eyes: what is shown is how many there are.
impl std::fmt::Debug for RowScores {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RowScores({} rows)", self.losses.len())
    }
}

impl RowScores {
    /// The scores of rows whose logits are known.
    ///
    /// # Shapes
    ///
    /// `(n_rows, n_classes)` and `n_rows`, each label below `n_classes`.
    #[must_use]
    pub fn of_logits(logits: &Array2<f32>, labels: &[u32]) -> Self {
        let right = |(row, label): (ndarray::ArrayView1<'_, f32>, &u32)| argmax(row.iter().copied()) == *label as usize;
        let is_right = logits.outer_iter().zip(labels).map(right).collect();
        Self { losses: losses(logits, labels).collect(), is_right }
    }

    /// The means; `None` for no rows.
    #[must_use]
    pub fn mean(&self) -> Option<Score> {
        let n_rows = self.losses.len();
        let n_right = self.is_right.iter().filter(|&&right| right).count();
        let loss = self.losses.iter().sum::<f64>();
        (n_rows > 0).then(|| Score { n_rows, loss: loss / n_rows as f64, accuracy: n_right as f64 / n_rows as f64 })
    }
}

/// Runs a network on some rows, and says how good it is on each.
#[must_use]
pub fn score(network: &Network, dataset: &Dataset, rows: &[usize]) -> RowScores {
    let mut scores = RowScores::default();
    let counted = network.for_each_batch(dataset, rows, |rows, logits| {
        let labels: Vec<u32> = rows.iter().map(|&row| dataset.labels()[row]).collect();
        let batch = RowScores::of_logits(&logits, &labels);
        scores.losses.extend(batch.losses);
        scores.is_right.extend(batch.is_right);
        Ok(())
    });
    counted.expect("counting does not fail");
    scores
}

/// Loss (in f64) and accuracy of a network on some rows; `None` for no rows.
#[must_use]
pub fn evaluate(network: &Network, dataset: &Dataset, rows: &[usize]) -> Option<Score> {
    score(network, dataset, rows).mean()
}

/// The cross-entropy of each row, in f64: a loss far below what f32 tells from 0 keeps its value.
pub(in crate::lab) fn losses<'a>(logits: &'a Array2<f32>, labels: &'a [u32]) -> impl Iterator<Item = f64> + 'a {
    logits.outer_iter().zip(labels).map(|(row, &label)| {
        let own = f64::from(row[label as usize]);
        let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let others = row.iter().enumerate().filter(|(class, _)| *class != label as usize).map(|(_, &value)| value);
        if own >= f64::from(largest) {
            return others.map(|value| (f64::from(value) - own).exp()).sum::<f64>().ln_1p();
        }
        let largest = f64::from(largest);
        row.iter().map(|&value| (f64::from(value) - largest).exp()).sum::<f64>().ln() - (own - largest)
    })
}

/// The place of the largest value, the first of equals.
pub(in crate::lab) fn argmax(values: impl Iterator<Item = f32>) -> usize {
    values
        .enumerate()
        .fold((0, f32::NEG_INFINITY), |best, (place, value)| if value > best.1 { (place, value) } else { best })
        .0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn argmax_takes_the_first_of_equals() {
        assert_eq!(argmax([1.0, 3.0, 3.0].into_iter()), 1);
        assert_eq!(argmax([0.0, 0.0].into_iter()), 0);
    }

    #[test]
    fn a_confident_row_keeps_a_loss_that_f32_would_round_away() {
        let logits = ndarray::array![[40.0f32, 0.0], [0.0, 40.0]];
        let losses: Vec<f64> = losses(&logits, &[0, 0]).collect();
        assert!((losses[0] / (-40f64).exp() - 1.0).abs() < 1e-9, "{losses:?}");
        assert!((losses[1] - 40.0).abs() < 1e-9, "{losses:?}");
    }
}
