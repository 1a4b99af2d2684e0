//! The lower bound on ε: which rule of which attack it is told by, chosen on the attack-fit rows alone.
//!
//! An attack's rule is the one of its best bound there. Which attack's rule is told is judged by calls that each half of
//! those rows gets from the rule of the other, so that none is chosen for its luck. An answer holds its label, so
//! whoever has the answer may use the rule that was chosen on label-only answers, too: the larger bound of the two is told,
//! each at the level at which both hold together. So no answer is told a smaller ε than its label alone.

use crate::audit::attack::{Attack, AttackId, Family};
use crate::audit::exact::{Counts, of_two};
use crate::audit::report::{Epsilon, Figure};
use crate::audit::roc::{Roc, RocError};

use super::Bench;
use super::battery::Scored;
use super::measure::{Attacked, Measured};

/// A rule chosen for a lower bound on ε.
pub(super) struct EpsilonRule {
    /// What it says of the attack-fit rows, each half by the rule that the other chose.
    pub(super) fit_says: Vec<bool>,
    /// What it says on the verdict rows, chosen on all attack-fit rows.
    pub(super) counts: Counts,
}

/// A threshold, and whether members score below it.
#[derive(Clone, Copy)]
struct Rule {
    threshold: f64,
    members_score_lower: bool,
}

impl Rule {
    /// The one of the best bound on a curve's rows, by a cheap bound; one that calls nobody where none refutes anything.
    fn fit(roc: &Roc, delta: f64) -> Self {
        let mut best = 0.0;
        let mut rule = Self { threshold: f64::INFINITY, members_score_lower: false };
        for point in roc.points() {
            let counts = roc.counts(point);
            for (counts, members_score_lower) in [(counts, false), (turned(counts), true)] {
                let bound = rough_epsilon(&counts, delta);
                if bound > best {
                    (best, rule) = (bound, Self { threshold: point.threshold, members_score_lower });
                }
            }
        }
        rule
    }

    fn says_member(self, score: f64) -> bool {
        (score >= self.threshold) != self.members_score_lower
    }
}

/// The counts of the opposite calls.
fn turned(counts: Counts) -> Counts {
    Counts {
        true_positives: counts.n_members - counts.true_positives,
        false_positives: counts.n_non_members - counts.false_positives,
        ..counts
    }
}

impl Bench<'_> {
    /// The rule of an attack, with its calls; `fit` is the curve of the attack-fit rows.
    pub(super) fn epsilon_rule(&self, scored: &Scored, fit: &Roc) -> Result<EpsilonRule, RocError> {
        let delta = self.epsilon_delta();
        let rule = Rule::fit(fit, delta);
        let says: Vec<bool> = scored.verdict.iter().map(|&score| rule.says_member(score)).collect();
        let mut fit_says = vec![false; scored.fit.len()];
        let halves = self.halves();
        for (from, to) in [(0, 1), (1, 0)] {
            let scores: Vec<f64> = halves[from].iter().map(|&place| scored.fit[place]).collect();
            let memberships: Vec<bool> = halves[from].iter().map(|&place| self.fit_memberships[place]).collect();
            let rule = Rule::fit(&Roc::new(&scores, &memberships)?, delta);
            halves[to].iter().for_each(|&place| fit_says[place] = rule.says_member(scored.fit[place]));
        }
        Ok(EpsilonRule { fit_says, counts: Counts::of(&says, &self.verdict_memberships) })
    }

    /// δ of the bounds: the claim's, where there is one to hold them against.
    fn epsilon_delta(&self) -> f64 {
        self.knowledge.claim.map_or(self.settings.delta, |claim| claim.delta)
    }

    /// The larger bound of two rules: the one chosen on this system's answers, and the one chosen on label-only answers,
    /// where those are of the same labels.
    pub(super) fn epsilon(&self, one: &Measured, label_only: &Measured) -> Epsilon {
        let settings = self.settings;
        let (m, n) = (self.verdict_members.len() as u64, self.verdict_non_members.len() as u64);
        let (delta, level) = (self.epsilon_delta(), of_two(settings.level));
        let holds_label = one.answers.predicted == label_only.answers.predicted;
        let own = self.chosen_for_epsilon(one).map(|attacked| (attacked.id.clone(), attacked));
        let of_label = self.chosen_for_epsilon(label_only).filter(|_| holds_label);
        let of_label =
            of_label.map(|attacked| match attacked.id == Attack::Correctness || std::ptr::eq(one, label_only) {
                true => (attacked.id.clone(), attacked),
                false => {
                    (AttackId::new(Family::LabelOnly, format!("{} on labels alone", attacked.id.name())), attacked)
                }
            });
        // Of equals that of the label: it is the plainer.
        let told = [own, of_label]
            .into_iter()
            .flatten()
            .map(|(id, attacked)| (id, attacked.epsilon.counts.epsilon_lower_bound(delta, level)));
        let told = told.reduce(|own, label| if label.1 >= own.1 { label } else { own });
        let (attack, lower_bound) = told.unwrap_or_else(|| (Attack::Correctness.into(), 0.0));
        let claim = self.knowledge.claim;
        Epsilon {
            attack,
            lower_bound,
            ceiling: Counts::epsilon_ceiling(m, n, delta, level),
            delta,
            level: settings.level,
            contradicts_claim: claim.is_some_and(|claim| lower_bound > claim.epsilon),
            claim: Figure::or(claim, "no run record with a privacy claim was given"),
        }
    }

    /// The attack whose calls of the attack-fit rows have the largest bound.
    fn chosen_for_epsilon<'a>(&self, one: &'a Measured) -> Option<&'a Attacked> {
        let delta = self.epsilon_delta();
        let bound = |calls: &[bool]| rough_epsilon(&Counts::of(calls, &self.fit_memberships), delta);
        let bounds = one.attacks.iter().map(|attacked| (attacked, bound(&attacked.epsilon.fit_says)));
        // Whether the label is right where nothing is larger, else the first of equals in the order of the battery.
        let is_plain = |attacked: &Attacked| attacked.id == Attack::Correctness;
        let larger = |best: (&'a Attacked, f64), next: (&'a Attacked, f64)| {
            if next.1 > best.1 || next.1 == best.1 && is_plain(next.0) { next } else { best }
        };
        bounds.reduce(larger).map(|(attacked, _)| attacked)
    }
}

/// About the 97.5 % bound of [`Counts::epsilon_lower_bound`], by normal approximation.
fn rough_epsilon(counts: &Counts, delta: f64) -> f64 {
    const Z: f64 = 2.24;
    let low = |hits: u64, of: u64| {
        let (p, n) = (hits as f64 / of as f64, of as f64);
        p - Z * (p * (1.0 - p) / n).sqrt() - Z * Z / (2.0 * n)
    };
    let of = |hits: u64, hits_of: u64, misses: u64, misses_of: u64| {
        let high = 1.0 - low(misses_of - misses, misses_of);
        let ratio = (low(hits, hits_of) - delta) / high;
        if ratio > 1.0 { ratio.ln() } else { 0.0 }
    };
    let (m, n) = (counts.n_members, counts.n_non_members);
    let calls = of(counts.true_positives, m, counts.false_positives, n);
    calls.max(of(n - counts.false_positives, n, m - counts.true_positives, m))
}

#[cfg(test)]
mod tests {
    use super::*;

    const N: usize = 400;

    #[test]
    fn a_rule_reads_either_direction_and_calls_nobody_where_nothing_is_refuted() {
        let memberships: Vec<bool> = (0..2 * N).map(|row| row < N).collect();
        let scores: Vec<f64> = (0..2 * N).map(|row| if row < N { 0.0 } else { 1.0 }).collect();
        let rule = Rule::fit(&Roc::new(&scores, &memberships).unwrap(), 0.0);
        assert!(rule.says_member(0.0) && !rule.says_member(1.0));
        let blind = Rule::fit(&Roc::new(&[1.0; 2 * N], &memberships).unwrap(), 0.0);
        assert!(!blind.says_member(1.0));
    }
}
