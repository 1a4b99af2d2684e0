//! What an attacker computes from one answer: a number that is higher where the row looks more like a member.
//!
//! Every attack here sees an answer's probabilities and the true label of the row, which is what the paper's
//! attacker knows. None of them trains a model, asks twice, or knows the defence: the report lists what was not
//! tried. Attacks on other knowledge get their own room; the ones here stay pure functions of one row.

use ndarray::ArrayView1;
use serde::Serialize;

/// Probabilities (and their complements) below this are read as this, in every logarithm: a mask or a label-only
/// answer holds exact zeros. It is also the floor of served log-probabilities (R2), so no attack here could see
/// farther down over the wire.
pub const PROBABILITY_FLOOR: f64 = 1e-12;

/// A score attack on one answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Attack {
    /// `ln p_y`: the loss threshold of Yeom et al., the one attack that the paper's code runs.
    Loss,
    /// `max_j p_j`, whatever the true label is (Salem et al.).
    Confidence,
    /// Minus Shannon's entropy of the answer.
    Entropy,
    /// Minus the modified entropy of Song and Mittal, which uses the true label.
    ModifiedEntropy,
    /// Whether the label is right: the gap attack, which needs no score at all. Its advantage is train accuracy
    /// minus test accuracy.
    Correctness,
}

impl Attack {
    /// The battery, in the order of the tables.
    pub const ALL: [Attack; 5] =
        [Attack::Loss, Attack::Confidence, Attack::Entropy, Attack::ModifiedEntropy, Attack::Correctness];

    /// The name in tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Attack::Loss => "loss",
            Attack::Confidence => "confidence",
            Attack::Entropy => "entropy",
            Attack::ModifiedEntropy => "modified entropy",
            Attack::Correctness => "correctness",
        }
    }

    /// The score of one answer: `probabilities` (n_classes), the label `predicted` that goes with them, and the
    /// true label `label`, both below n_classes. Finite for probabilities in [0, 1]; higher says member.
    #[must_use]
    pub fn score(self, probabilities: ArrayView1<'_, f64>, predicted: u32, label: u32) -> f64 {
        let log = |p: f64| p.max(PROBABILITY_FLOOR).ln();
        let label = label as usize;
        match self {
            Attack::Loss => log(probabilities[label]),
            Attack::Confidence => probabilities.iter().copied().fold(0.0, f64::max),
            Attack::Entropy => probabilities.iter().map(|&p| p * log(p)).sum(),
            Attack::ModifiedEntropy => probabilities
                .iter()
                .enumerate()
                .map(|(class, &p)| if class == label { (1.0 - p) * log(p) } else { p * log(1.0 - p) })
                .sum(),
            Attack::Correctness => f64::from(u8::from(predicted as usize == label)),
        }
    }
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    fn near(got: f64, expected: f64) {
        assert!((got - expected).abs() < 1e-12, "{got} is not {expected}");
    }

    #[test]
    fn scores_are_the_published_formulas() {
        let p = array![0.7, 0.2, 0.1];
        near(Attack::Loss.score(p.view(), 0, 1), 0.2_f64.ln());
        near(Attack::Confidence.score(p.view(), 0, 1), 0.7);
        let entropy = 0.7 * 0.7_f64.ln() + 0.2 * 0.2_f64.ln() + 0.1 * 0.1_f64.ln();
        near(Attack::Entropy.score(p.view(), 0, 1), entropy);
        // Song & Mittal, equation 7: −(1−p_y)·log p_y − Σ p_j·log(1−p_j), negated.
        let modified = 0.8 * 0.2_f64.ln() + 0.7 * 0.3_f64.ln() + 0.1 * 0.9_f64.ln();
        near(Attack::ModifiedEntropy.score(p.view(), 0, 1), modified);
        near(Attack::Correctness.score(p.view(), 0, 1), 0.0);
        near(Attack::Correctness.score(p.view(), 0, 0), 1.0);
    }

    #[test]
    fn exact_zeros_and_ones_stay_finite() {
        let p = array![1.0, 0.0];
        for attack in Attack::ALL {
            for label in [0, 1] {
                assert!(attack.score(p.view(), 0, label).is_finite(), "{attack:?} {label}");
            }
        }
        near(Attack::Loss.score(p.view(), 0, 1), PROBABILITY_FLOOR.ln());
        // A label-only answer tells these two nothing.
        near(Attack::Entropy.score(p.view(), 0, 1), 0.0);
    }
}
