//! What an attacker computes from one answer: a number that is higher where the row looks more like a member.
//!
//! Every attack here sees an answer's probabilities and the true label of the row, which is what the paper's
//! attacker knows; one of them also knows the defence and its centroids ([`Inversion`]). None of them trains a
//! model or asks twice: those that do are in `learned`, `shadow`, `label_only` and `adaptive`, and hand over one
//! score a row too. All here are pure functions of one row. [`AttackId`] names an attack of any kind.

use ndarray::ArrayView1;
use serde::Serialize;

use crate::audit::answers::{Allows, Answers};
use crate::audit::invert::Inversion;
use crate::audit::parallel;
use crate::audit::shadow::Shadowing;

/// An exact zero is read as this in every logarithm: a mask or a label-only answer holds such. It is the smallest
/// normal f64, below all that an f32 answer can hold, so nothing that an answer tells is thrown away.
pub const ATTACK_FLOOR: f64 = f64::MIN_POSITIVE;

/// How the names of ML-Leaks' adversaries begin; their number follows.
pub const ML_LEAKS: &str = "ML-Leaks adversary ";

/// How the name of an attack ends whose shadows stood before nothing, although the target is defended.
const UNDEFENDED_SHADOWS: &str = " (undefended shadows)";

/// A score attack on one answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Attack {
    /// `ln p_y`: the loss threshold of Yeom et al., the one attack that the paper's code runs.
    Loss,
    /// `max_j p_j`, whatever the true label is (Salem et al.), written as `−Σ_{j≠ŷ} p_j`, which orders alike.
    Confidence,
    /// Minus Shannon's entropy of the answer.
    Entropy,
    /// Minus the modified entropy of Song and Mittal, which uses the true label.
    ModifiedEntropy,
    /// `ln p_y − ln Σ_{j≠y} p_j`: LiRA's scaled logit with the true label. In exact arithmetic it orders like the
    /// loss; it does not where an answer has lost its small entries.
    ScaledLogit,
    /// Whether the label is right: the gap attack, which needs no score at all. Its advantage is train accuracy
    /// minus test accuracy.
    Correctness,
    /// The loss of the logits that [`Inversion`] recovers, written as `z_y − ln Σ_{j≠y} e^{z_j}`, which orders
    /// like `ln p_y`. On an undefended answer it is the loss attack.
    InvertedLoss,
    /// The same from the other solution for the defence's share, where there are two.
    InvertedOther,
}

impl Attack {
    /// The battery, in the order of the tables.
    pub const ALL: [Attack; 8] = [
        Attack::Loss,
        Attack::Confidence,
        Attack::Entropy,
        Attack::ModifiedEntropy,
        Attack::ScaledLogit,
        Attack::Correctness,
        Attack::InvertedLoss,
        Attack::InvertedOther,
    ];

    /// The name in tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Attack::Loss => "loss",
            Attack::Confidence => "confidence",
            Attack::Entropy => "entropy",
            Attack::ModifiedEntropy => "modified entropy",
            Attack::ScaledLogit => "scaled logit",
            Attack::Correctness => "correctness",
            Attack::InvertedLoss => "inverted loss",
            Attack::InvertedOther => "inverted loss, other root",
        }
    }

    /// What the attack needs of a source of answers.
    #[must_use]
    pub fn needs(self) -> Allows {
        match self {
            Attack::Correctness => Allows::LABELS,
            Attack::Loss
            | Attack::Confidence
            | Attack::Entropy
            | Attack::ModifiedEntropy
            | Attack::ScaledLogit
            | Attack::InvertedLoss
            | Attack::InvertedOther => Allows::SCORES,
        }
    }

    /// The scores of all `answers`, whose true labels are `labels`: [`Attack::score`] row by row, on all cores where
    /// there are many rows.
    #[must_use]
    pub fn scores(self, answers: &Answers, labels: &[u32], inversion: &Inversion) -> Vec<f64> {
        const CHUNK: usize = 1 << 14;
        let of_chunk = |chunk: usize| -> Vec<f64> {
            let rows = chunk * CHUNK..((chunk + 1) * CHUNK).min(labels.len());
            let score =
                |row: usize| self.score(answers.probabilities.row(row), answers.predicted[row], labels[row], inversion);
            rows.map(score).collect()
        };
        parallel::map(labels.len().div_ceil(CHUNK), of_chunk).concat()
    }

    /// The score of one answer: `probabilities` (n_classes), the label `predicted` that goes with them, and the
    /// true label `label`, both below n_classes; `inversion` is that of the system that answered. Finite for
    /// probabilities in [0, 1]; higher says member.
    ///
    /// What is near 1 is taken from its complement, the sum of the *other* entries: an f32 (or f64) answer of
    /// "1" beside entries of 1e-20 and 1e-30 still tells the two apart, and an attacker would not round that away.
    #[must_use]
    pub fn score(self, probabilities: ArrayView1<'_, f64>, predicted: u32, label: u32, inversion: &Inversion) -> f64 {
        let recovered = |predicted: usize| inversion.logits(probabilities, predicted as u32);
        let (predicted, label) = (predicted as usize, label as usize);
        match self {
            Attack::InvertedLoss => lead(&recovered(predicted), label),
            Attack::InvertedOther => lead(&inversion.other_logits(probabilities, predicted as u32), label),
            Attack::Loss => log(probabilities, label),
            Attack::Confidence => -complement(probabilities, predicted),
            Attack::ScaledLogit => scaled_logit(probabilities, label),
            Attack::Entropy => (0..probabilities.len()).map(|j| probabilities[j] * log(probabilities, j)).sum(),
            Attack::ModifiedEntropy => (0..probabilities.len())
                .map(|j| {
                    if j == label {
                        complement(probabilities, j) * log(probabilities, j)
                    } else {
                        probabilities[j] * log_of_complement(probabilities, j)
                    }
                })
                .sum(),
            Attack::Correctness => f64::from(u8::from(predicted == label)),
        }
    }
}

/// What kind of attack it is: by what the attacker has beside the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// A formula on one answer, one threshold for all rows.
    Score,
    /// The same formula with a threshold for each class, fixed on the attack-fit rows.
    PerClass,
    /// A classifier trained on answers of rows whose membership the attacker knows.
    Learned,
    /// Answers of models that the attacker trained itself.
    Shadow,
    /// Answers to changed inputs, of which the label alone is read.
    LabelOnly,
    /// Made against the defence at hand.
    Adaptive,
}

/// An attack as it stands in tables and in the report.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct AttackId {
    /// Its kind.
    pub family: Family,
    /// Its name, unique within a study.
    pub name: String,
}

impl AttackId {
    /// Names an attack.
    #[must_use]
    pub fn new(family: Family, name: impl Into<String>) -> Self {
        Self { family, name: name.into() }
    }

    /// The name in tables.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The same attack by shadows of which is told where they did not stand behind the target's defence.
    #[must_use]
    pub fn with_shadows(self, shadowing: Shadowing) -> Self {
        match shadowing {
            Shadowing::AsTarget => self,
            Shadowing::Undefended => Self { name: self.name + UNDEFENDED_SHADOWS, ..self },
        }
    }

    /// Whether it is the same attack, whatever stood before its shadows.
    #[must_use]
    pub fn is_kind_of(&self, other: &Self) -> bool {
        let plain = |id: &Self| id.name.strip_suffix(UNDEFENDED_SHADOWS).unwrap_or(&id.name).to_owned();
        self.family == other.family && plain(self) == plain(other)
    }

    /// Which of ML-Leaks' three adversaries it is.
    #[must_use]
    pub fn adversary(&self) -> Option<u8> {
        self.name.strip_prefix(ML_LEAKS)?.split(',').next()?.parse().ok()
    }

    /// Whether it is this score attack with one threshold for all rows.
    #[must_use]
    pub fn is(&self, attack: Attack) -> bool {
        self.family == Family::Score && self.name == attack.name()
    }
}

impl PartialEq<Attack> for AttackId {
    fn eq(&self, attack: &Attack) -> bool {
        self.is(*attack)
    }
}

impl From<Attack> for AttackId {
    fn from(attack: Attack) -> Self {
        Self::new(Family::Score, attack.name())
    }
}

/// `ln p_y − ln Σ_{j≠y} p_j`, the smaller side never below [`ATTACK_FLOOR`].
#[must_use]
pub fn scaled_logit(probabilities: ArrayView1<'_, f64>, label: usize) -> f64 {
    probabilities[label].max(ATTACK_FLOOR).ln() - complement(probabilities, label).max(ATTACK_FLOOR).ln()
}

/// `z_y − ln Σ_{j≠y} e^{z_j}`, within the logarithms of [`ATTACK_FLOOR`] where a side is not known at all.
fn lead(z: &[f64], label: usize) -> f64 {
    let others = || z.iter().enumerate().filter(|(j, _)| *j != label).map(|(_, &z)| z);
    let top = others().fold(f64::NEG_INFINITY, f64::max);
    if z[label] == f64::NEG_INFINITY {
        return ATTACK_FLOOR.ln();
    }
    if top == f64::NEG_INFINITY {
        return -ATTACK_FLOOR.ln();
    }
    let others: f64 = others().map(|z| (z - top).exp()).sum();
    (z[label] - top - others.ln()).clamp(ATTACK_FLOOR.ln(), -ATTACK_FLOOR.ln())
}

/// `1 − p_j`, as the sum of the other entries.
fn complement(probabilities: ArrayView1<'_, f64>, j: usize) -> f64 {
    probabilities.iter().enumerate().filter(|(other, _)| *other != j).map(|(_, &p)| p).sum()
}

/// `ln p_j`.
fn log(probabilities: ArrayView1<'_, f64>, j: usize) -> f64 {
    if probabilities[j] > 0.5 {
        (-complement(probabilities, j).min(0.5)).ln_1p()
    } else {
        probabilities[j].max(ATTACK_FLOOR).ln()
    }
}

/// `ln(1 − p_j)`.
fn log_of_complement(probabilities: ArrayView1<'_, f64>, j: usize) -> f64 {
    if probabilities[j] > 0.5 {
        complement(probabilities, j).max(ATTACK_FLOOR).ln()
    } else {
        (-probabilities[j]).ln_1p()
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
        near(Attack::Loss.score(p.view(), 0, 1, &Inversion::as_is()), 0.2_f64.ln());
        near(Attack::Confidence.score(p.view(), 0, 1, &Inversion::as_is()), -0.3);
        let entropy = 0.7 * 0.7_f64.ln() + 0.2 * 0.2_f64.ln() + 0.1 * 0.1_f64.ln();
        near(Attack::Entropy.score(p.view(), 0, 1, &Inversion::as_is()), entropy);
        // Song & Mittal, equation 7: −(1−p_y)·log p_y − Σ p_j·log(1−p_j), negated.
        let modified = 0.8 * 0.2_f64.ln() + 0.7 * 0.3_f64.ln() + 0.1 * 0.9_f64.ln();
        near(Attack::ModifiedEntropy.score(p.view(), 0, 1, &Inversion::as_is()), modified);
        near(Attack::ScaledLogit.score(p.view(), 0, 1, &Inversion::as_is()), (0.2_f64 / 0.8).ln());
        near(Attack::Correctness.score(p.view(), 0, 1, &Inversion::as_is()), 0.0);
        near(Attack::Correctness.score(p.view(), 0, 0, &Inversion::as_is()), 1.0);
    }

    #[test]
    fn exact_zeros_and_ones_stay_finite() {
        let p = array![1.0, 0.0];
        for attack in Attack::ALL {
            for label in [0, 1] {
                assert!(attack.score(p.view(), 0, label, &Inversion::as_is()).is_finite(), "{attack:?} {label}");
            }
        }
        near(Attack::Loss.score(p.view(), 0, 1, &Inversion::as_is()), ATTACK_FLOOR.ln());
        // A label-only answer tells these two nothing.
        near(Attack::Entropy.score(p.view(), 0, 1, &Inversion::as_is()), 0.0);
    }

    #[test]
    fn answers_that_round_to_one_are_still_told_apart() {
        let (surer, less_sure) = (array![1.0, 1e-30, 0.0], array![1.0, 1e-20, 0.0]);
        for attack in Attack::ALL.into_iter().filter(|&attack| attack != Attack::Correctness) {
            assert!(
                attack.score(surer.view(), 0, 0, &Inversion::as_is())
                    > attack.score(less_sure.view(), 0, 0, &Inversion::as_is()),
                "{attack:?}"
            );
        }
        // And on the wrong side, far below what a logarithm is served down to.
        assert!(
            Attack::Loss.score(less_sure.view(), 0, 1, &Inversion::as_is())
                > Attack::Loss.score(surer.view(), 0, 1, &Inversion::as_is())
        );
    }
}
