//! The lower bound on ε: which rule of which attack it is told by, chosen on the attack-fit rows alone.
//!
//! An attack's rule is the one of its best bound there. Which attack's rule is told is judged by calls that each half
//! of those rows gets from the rule of the other, so that none is chosen for its luck; and whether the label is right,
//! which every answer tells, is told where nothing leads it by a standard error, as in the headline. Without that a
//! defended answer would be told a smaller ε than the label alone, which is part of it.

use crate::audit::attack::Attack;
use crate::audit::exact::Counts;
use crate::audit::report::{Epsilon, Figure};
use crate::audit::roc::{Roc, RocError};

use super::Bench;
use super::battery::Scored;
use super::measure::Measured;

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

    /// The attack and its rule are chosen on the attack-fit rows, so that one bound at the full level is told.
    pub(super) fn epsilon(&self, one: &Measured) -> Epsilon {
        let settings = self.settings;
        let (m, n) = (self.verdict_members.len() as u64, self.verdict_non_members.len() as u64);
        let delta = self.epsilon_delta();
        let calls: Vec<&[bool]> = one.attacks.iter().map(|attacked| &attacked.epsilon.fit_says[..]).collect();
        let plainest = one.attacks.iter().position(|attacked| attacked.id == Attack::Correctness);
        let chosen = chosen(&calls, plainest, &self.fit_memberships, delta).map(|attack| &one.attacks[attack]);
        let lower_bound =
            chosen.map_or(0.0, |attacked| attacked.epsilon.counts.epsilon_lower_bound(delta, settings.level));
        let claim = self.knowledge.claim;
        Epsilon {
            attack: chosen.map_or_else(|| Attack::Correctness.into(), |attacked| attacked.id.clone()),
            lower_bound,
            ceiling: Counts::epsilon_ceiling(m, n, delta, settings.level),
            delta,
            level: settings.level,
            contradicts_claim: claim.is_some_and(|claim| lower_bound > claim.epsilon),
            claim: Figure::or(claim, "no run record with a privacy claim was given"),
        }
    }
}

/// The calls of the largest bound, where it leads that of the plainest by more than a standard error of the difference;
/// else the plainest.
fn chosen(calls: &[&[bool]], plainest: Option<usize>, memberships: &[bool], delta: f64) -> Option<usize> {
    let bound = |calls: &[bool]| rough_epsilon(&Counts::of(calls, memberships), delta);
    let bounds: Vec<f64> = calls.iter().map(|calls| bound(calls)).collect();
    // The first of equals, in the order of the battery.
    let larger = |best: usize, next: usize| if bounds[next] > bounds[best] { next } else { best };
    let strongest = (0..calls.len()).reduce(larger)?;
    let leads = |plainest: usize| {
        let lead = bounds[strongest] - bounds[plainest];
        lead > lead_error((calls[strongest], calls[plainest]), memberships, delta)
    };
    Some(plainest.filter(|&plainest| !leads(plainest)).unwrap_or(strongest))
}

/// The standard error of the difference of two rules' bounds on the same rows: the jackknife's. A row that is left out
/// matters by what the two rules say of it alone, so that each side has four kinds of rows.
fn lead_error((one, other): (&[bool], &[bool]), memberships: &[bool], delta: f64) -> f64 {
    let all = (Counts::of(one, memberships), Counts::of(other, memberships));
    let without = |member: bool, says: (bool, bool)| {
        let less = |counts: Counts, says: bool| match member {
            true => Counts {
                n_members: counts.n_members - 1,
                true_positives: counts.true_positives - u64::from(says),
                ..counts
            },
            false => Counts {
                n_non_members: counts.n_non_members - 1,
                false_positives: counts.false_positives - u64::from(says),
                ..counts
            },
        };
        rough_epsilon(&less(all.0, says.0), delta) - rough_epsilon(&less(all.1, says.1), delta)
    };
    let of_side = |member: bool| {
        let kinds = [(false, false), (false, true), (true, false), (true, true)].map(|says| {
            let is_one = |row: &usize| memberships[*row] == member && (one[*row], other[*row]) == says;
            let n_rows = (0..memberships.len()).filter(is_one).count();
            (n_rows as f64, if n_rows > 0 { without(member, says) } else { 0.0 })
        });
        let n: f64 = kinds.iter().map(|(n_rows, _)| n_rows).sum();
        if n < 2.0 {
            return 0.0;
        }
        let mean = kinds.iter().map(|(n_rows, lead)| n_rows * lead).sum::<f64>() / n;
        (n - 1.0) / n * kinds.iter().map(|(n_rows, lead)| n_rows * (lead - mean).powi(2)).sum::<f64>()
    };
    (of_side(true) + of_side(false)).sqrt()
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

    /// Calls of `N` members and as many others: `tp` of the former and `fp` of the latter, from the place `at` on.
    fn calls(tp: usize, fp: usize, at: usize) -> Vec<bool> {
        (0..2 * N).map(|row| (row % N + N - at) % N < if row < N { tp } else { fp }).collect()
    }

    fn memberships() -> Vec<bool> {
        (0..2 * N).map(|row| row < N).collect()
    }

    #[test]
    fn the_label_is_told_where_nothing_leads_it_by_a_standard_error() {
        let (label, memberships) = (calls(380, 280, 0), memberships());
        let told = |other: &[bool]| chosen(&[other, &label], Some(1), &memberships, 0.0);
        // A row more: within the error. Many more: beyond. Fewer: not the largest at all.
        assert_eq!([381, 400, 370].map(|tp| told(&calls(tp, 280, 7))), [Some(1), Some(0), Some(1)]);
        // The same calls but for a row lead surely: the error is that of the difference.
        let (bound, of) = (|calls: &[bool]| rough_epsilon(&Counts::of(calls, &memberships), 0.0), calls(384, 280, 0));
        let nested = lead_error((&of, &label), &memberships, 0.0);
        let apart = lead_error((&calls(384, 280, 200), &label), &memberships, 0.0);
        assert!(nested < 0.5 * apart && bound(&of) > bound(&label), "{nested} {apart}");
        // Without the label among the attacks the largest is told, the first of equals.
        assert_eq!(chosen(&[&calls(300, 250, 0), &label, &label], None, &memberships, 0.0), Some(1));
        assert_eq!(chosen(&[], None, &memberships, 0.0), None);
    }

    #[test]
    fn the_error_of_a_lead_is_that_of_leaving_out_row_by_row() {
        let (one, other, memberships) = (calls(384, 250, 11), calls(360, 260, 0), memberships());
        let lead = |rows: &[usize]| {
            let of = |calls: &[bool]| rows.iter().map(|&row| calls[row]).collect::<Vec<_>>();
            let counts = |calls: &[bool]| rough_epsilon(&Counts::of(&of(calls), &of(&memberships)), 0.0);
            counts(&one) - counts(&other)
        };
        let sum_of_side = |start: usize| {
            let each: Vec<f64> = (start..start + N)
                .map(|left_out| lead(&(0..2 * N).filter(|&row| row != left_out).collect::<Vec<_>>()))
                .collect();
            let mean = each.iter().sum::<f64>() / N as f64;
            each.iter().map(|value| (value - mean).powi(2)).sum::<f64>() * (N - 1) as f64 / N as f64
        };
        let expected = (sum_of_side(0) + sum_of_side(N)).sqrt();
        let got = lead_error((&one, &other), &memberships, 0.0);
        assert!((got - expected).abs() < 1e-9 && got > 0.01, "{got} {expected}");
    }

    #[test]
    fn a_rule_reads_either_direction_and_calls_nobody_where_nothing_is_refuted() {
        let memberships = memberships();
        let scores: Vec<f64> = (0..2 * N).map(|row| if row < N { 0.0 } else { 1.0 }).collect();
        let rule = Rule::fit(&Roc::new(&scores, &memberships).unwrap(), 0.0);
        assert!(rule.says_member(0.0) && !rule.says_member(1.0));
        let blind = Rule::fit(&Roc::new(&[1.0; 2 * N], &memberships).unwrap(), 0.0);
        assert!(!blind.says_member(1.0));
    }
}
