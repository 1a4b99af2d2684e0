//! The three adversaries of ML-Leaks (Salem et al. 2019), done as the paper describes them.
//!
//! Adversary 1 trains one shadow model on rows like the target's and an attack model on the three largest entries
//! of the shadow's answers; adversary 2 does the same with a shadow of *other* data. What both compute is the same:
//! the attack is **fitted on the shadow and judged on the target** ([`shadow_attack`]). (The paper's published code
//! does it the other way round, and so does the report that copies it.) Adversary 3 trains nothing: the largest
//! entry is the score, its threshold the 90 % quantile of what the target answers to random inputs
//! ([`random_point_threshold`]). The attack model never sees labels that a training defence has changed.

use serde::Serialize;

use crate::audit::answers::Answers;
use crate::audit::exact::Counts;
use crate::audit::interval::{Estimate, Placements};
use crate::audit::roc::{Ranking, RocError};

use super::{LearnedAttack, Learner, Rows, View};

/// Answers of a model on its members and as many others.
pub struct Posteriors<'a> {
    /// What it answered.
    pub answers: &'a Answers,
    /// True label of each row.
    pub labels: &'a [u32],
    /// Whether it was trained on the row.
    pub memberships: &'a [bool],
}

/// What an adversary reached on the target.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Reached {
    /// Area under the curve of the attack's score, with DeLong's interval.
    pub auc: Estimate,
    /// What its own threshold says.
    pub counts: Counts,
    /// Recall of the members.
    pub recall_members: Estimate,
    /// Recall of the non-members.
    pub recall_non_members: Estimate,
    /// Mean of the two recalls.
    pub balanced_accuracy: f64,
    /// Share of all rows that are told right.
    pub accuracy: f64,
}

/// Adversaries 1 and 2: fitted on `shadow`, judged on `target`. The attack model is the paper's network of 64 units
/// on the three largest entries, or [`Learner::Logistic`] as in its published code; a row is called a member at odds
/// above 1.
///
/// # Errors
/// A sentence, when a side of either model has no row.
pub fn shadow_attack(
    learner: Learner,
    shadow: &Posteriors<'_>,
    target: &Posteriors<'_>,
    seed: u64,
    level: f64,
) -> Result<Reached, String> {
    let rows = |of: &Posteriors<'_>| Rows::of(of.answers, of.labels, &(0..of.labels.len()).collect::<Vec<_>>());
    let attack = LearnedAttack { learner, view: View::Top3 };
    let scores = attack.fit(&rows(shadow), shadow.memberships, seed)?.scores(&rows(target))?;
    reached(&scores, 0.0, target.memberships, level).map_err(|error| error.to_string())
}

/// Adversary 3: the largest entry, called a member above `threshold`.
///
/// # Errors
/// [`RocError`] when a side of the target has no row.
pub fn largest_entry_attack(target: &Posteriors<'_>, threshold: f64, level: f64) -> Result<Reached, RocError> {
    reached(&largest_entries(target.answers), threshold, target.memberships, level)
}

/// Adversary 3's threshold: the quantile `at` (the paper: .9) of the largest entry over answers to random inputs,
/// none of which is a member. `None` without answers.
#[must_use]
pub fn random_point_threshold(of_random_inputs: &Answers, at: f64) -> Option<f64> {
    let mut largest = largest_entries(of_random_inputs);
    largest.sort_by(f64::total_cmp);
    (!largest.is_empty()).then(|| crate::audit::interval::quantile(&largest, at))
}

fn largest_entries(answers: &Answers) -> Vec<f64> {
    answers.probabilities.rows().into_iter().map(|row| row.iter().copied().fold(0.0, f64::max)).collect()
}

fn reached(scores: &[f64], threshold: f64, memberships: &[bool], level: f64) -> Result<Reached, RocError> {
    let auc = Placements::new(&Ranking::new(scores)?, memberships)?.auc(level);
    let says: Vec<bool> = scores.iter().map(|&score| score > threshold).collect();
    let counts = Counts::of(&says, memberships);
    let (tpr, fpr) = (counts.tpr(level), counts.fpr(level));
    let right = counts.true_positives + counts.n_non_members - counts.false_positives;
    Ok(Reached {
        auc,
        recall_members: tpr,
        recall_non_members: Estimate { value: 1.0 - fpr.value, low: 1.0 - fpr.high, high: 1.0 - fpr.low },
        balanced_accuracy: f64::midpoint(tpr.value, 1.0 - fpr.value),
        accuracy: right as f64 / memberships.len() as f64,
        counts,
    })
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// Members are surer by `lift`; every second row is a member.
    fn posteriors(n_rows: usize, lift: f64, seed: u64) -> (Answers, Vec<u32>, Vec<bool>) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let memberships: Vec<bool> = (0..n_rows).map(|row| row % 2 == 0).collect();
        let mut probabilities = Array2::zeros((n_rows, 5));
        let mut labels = Vec::new();
        for (row, &member) in memberships.iter().enumerate() {
            let label = rng.random_range(0..5);
            let top = rng.random_range(0.4..0.6) + if member { lift } else { 0.0 };
            (0..5).for_each(|class| probabilities[(row, class)] = if class == label { top } else { (1.0 - top) / 4.0 });
            labels.push(label as u32);
        }
        (Answers::new(probabilities), labels, memberships)
    }

    fn of<'a>(parts: &'a (Answers, Vec<u32>, Vec<bool>)) -> Posteriors<'a> {
        Posteriors { answers: &parts.0, labels: &parts.1, memberships: &parts.2 }
    }

    #[test]
    fn the_attack_is_fitted_on_the_shadow_and_judged_on_the_target() {
        // Only the shadow leaks: judged on the target, nothing may be found. Trained on the target's own
        // membership and judged on the shadow (as the published code does), it would be.
        let (shadow, target) = (posteriors(800, 0.3, 1), posteriors(2_000, 0.0, 2));
        for learner in [Learner::Network, Learner::Logistic] {
            let reached = shadow_attack(learner, &of(&shadow), &of(&target), 1, 0.99).unwrap();
            assert!(reached.auc.interval().covers(0.5), "{reached:?}");
            let leaking = posteriors(2_000, 0.3, 3);
            let reached = shadow_attack(learner, &of(&shadow), &of(&leaking), 1, 0.99).unwrap();
            assert!(reached.auc.value > 0.95 && reached.balanced_accuracy > 0.9, "{reached:?}");
        }
    }

    #[test]
    fn adversary_three_needs_no_shadow() {
        let target = posteriors(1_000, 0.25, 4);
        let threshold = random_point_threshold(&posteriors(500, 0.0, 5).0, 0.9).unwrap();
        let reached = largest_entry_attack(&of(&target), threshold, 0.95).unwrap();
        assert!(reached.recall_members.value > 0.95 && reached.recall_non_members.value > 0.8, "{reached:?}");
        assert!((reached.accuracy - reached.balanced_accuracy).abs() < 1e-12);
        assert!(random_point_threshold(&Answers::new(Array2::zeros((0, 3))), 0.9).is_none());
    }

    #[test]
    fn balanced_accuracy_is_the_mean_of_the_recalls() {
        // The report that copies ML-Leaks prints rows where it is not (its two swapped recalls).
        let target = posteriors(400, 0.1, 6);
        let reached = largest_entry_attack(&of(&target), 0.55, 0.95).unwrap();
        let mean = f64::midpoint(reached.recall_members.value, reached.recall_non_members.value);
        assert_eq!(reached.balanced_accuracy, mean);
    }
}
