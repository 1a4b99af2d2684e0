//! How good a network is on some rows.

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

/// Loss (in f64) and accuracy of a network on some rows; `None` for no rows.
#[must_use]
pub fn evaluate(network: &Network, dataset: &Dataset, rows: &[usize]) -> Option<Score> {
    let (mut loss, mut n_correct) = (0.0, 0);
    let counted = network.for_each_batch(dataset, rows, |rows, logits| {
        let labels: Vec<u32> = rows.iter().map(|&row| dataset.labels()[row]).collect();
        n_correct += count_correct(&logits, &labels);
        loss += losses(&logits, &labels).sum::<f64>();
        Ok(())
    });
    counted.expect("counting does not fail");
    let n_rows = rows.len();
    (n_rows > 0).then(|| Score { n_rows, loss: loss / n_rows as f64, accuracy: n_correct as f64 / n_rows as f64 })
}

/// The cross-entropy of each row, in f64.
pub(in crate::lab) fn losses<'a>(logits: &'a Array2<f32>, labels: &'a [u32]) -> impl Iterator<Item = f64> + 'a {
    logits.outer_iter().zip(labels).map(|(row, &label)| {
        let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = row.iter().map(|&value| f64::from(value - largest).exp()).sum();
        sum.ln() - f64::from(row[label as usize] - largest)
    })
}

fn count_correct(logits: &Array2<f32>, labels: &[u32]) -> usize {
    logits.outer_iter().zip(labels).filter(|(row, label)| argmax(row.iter().copied()) == **label as usize).count()
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
}
