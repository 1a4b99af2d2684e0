//! Figures of one attack that follow from its counts and its curve, and what is drawn of a system.

use crate::audit::attack::{ATTACK_FLOOR, Attack};
use crate::audit::exact::{Counts, clopper_pearson};
use crate::audit::interval::{Estimate, newcombe};
use crate::audit::report::{
    Calls, ClassFindings, Curve, CurvePoint, Figure, Headline, Histogram, PredictiveValue, SystemFindings, TprAt,
};
use crate::audit::roc::{Roc, TprAtFpr};
use crate::audit::system::{Role, System};

use super::measure::{Attacked, Measured};
use super::{Bench, SystemRecords};

/// Bins of the histogram of scaled logits, as in the paper's figure 1.
const N_BINS: usize = 50;

/// Points of a drawn curve, about.
const N_POINTS: usize = 160;

impl Bench<'_> {
    pub(super) fn calls(&self, attacked: &Attacked) -> Calls {
        let counts = Counts::of(&attacked.says_member, &self.verdict_memberships);
        let level = self.settings.level;
        let fpr = counts.fpr(level);
        let half = |advantage: f64| 0.5 + advantage / 2.0;
        let fixed = attacked.fixed;
        Calls {
            recall_members: counts.tpr(level),
            recall_non_members: Estimate { value: 1.0 - fpr.value, low: 1.0 - fpr.high, high: 1.0 - fpr.low },
            balanced_accuracy: Estimate { value: half(fixed.value), low: half(fixed.low), high: half(fixed.high) },
            predictive_values: self.predictive_values(&counts),
            counts,
        }
    }

    fn predictive_values(&self, counts: &Counts) -> Vec<PredictiveValue> {
        let at = |&prior: &f64| PredictiveValue {
            prior,
            value: Figure::or(counts.predictive_value(prior, self.settings.level), "nobody is called a member"),
        };
        self.settings.priors.iter().map(at).collect()
    }

    pub(super) fn tpr_at(&self, roc: &Roc, target_fpr: f64) -> TprAt {
        match roc.tpr_at_fpr(target_fpr) {
            TprAtFpr::Resolved { tpr, attained_fpr } => {
                let counts = roc.counts(&roc.last_at(target_fpr));
                TprAt {
                    target_fpr,
                    tpr: Figure::known(tpr),
                    attained_fpr: Some(attained_fpr),
                    tpr_interval: Some(counts.tpr(self.settings.level).interval()),
                    attained_fpr_interval: Some(counts.fpr(self.settings.level).interval()),
                    predictive_values: self.predictive_values(&counts),
                }
            }
            TprAtFpr::NotResolvable { n_non_members } => TprAt {
                target_fpr,
                tpr: Figure::missing(format!("not resolvable: {n_non_members} non-members resolve 1/{n_non_members}")),
                attained_fpr: None,
                tpr_interval: None,
                attained_fpr_interval: None,
                predictive_values: Vec::new(),
            },
        }
    }

    /// The headline's fixed rule, class by class.
    pub(super) fn classes(&self, one: &Measured, headline: Option<&Headline>) -> Vec<ClassFindings> {
        let chosen = headline.and_then(|headline| one.attacks.iter().find(|one| one.id == headline.fixed_attack));
        let Some(attacked) = chosen else { return Vec::new() };
        let n_classes = self.target.n_classes();
        let mut counts =
            vec![Counts { true_positives: 0, false_positives: 0, n_members: 0, n_non_members: 0 }; n_classes];
        let verdict = self.allocation.verdict.iter().zip(&attacked.says_member).zip(&self.verdict_memberships);
        for ((&row, &says), &member) in verdict {
            let counts = &mut counts[self.target.labels()[row] as usize];
            if member {
                counts.n_members += 1;
                counts.true_positives += u64::from(says);
            } else {
                counts.n_non_members += 1;
                counts.false_positives += u64::from(says);
            }
        }
        let level = 1.0 - (1.0 - self.settings.level) / n_classes as f64;
        let judged = (0_u32..).zip(counts).filter(|(_, counts)| counts.n_members > 0 && counts.n_non_members > 0);
        judged
            .map(|(class, counts)| ClassFindings {
                class,
                advantage: newcombe(
                    (counts.true_positives, counts.n_members),
                    (counts.false_positives, counts.n_non_members),
                    level,
                ),
                counts,
            })
            .collect()
    }

    /// Curves of the loss attack (or of correctness, where there is no loss) and of the headline's two attacks.
    pub(super) fn curves(&self, one: &Measured, headline: Option<&Headline>) -> Vec<Curve> {
        let of_headline = |attacked: &Attacked| {
            headline
                .is_some_and(|headline| attacked.id == headline.widest_attack || attacked.id == headline.fixed_attack)
        };
        let drawn = one.attacks.iter().filter(|attacked| {
            attacked.id == Attack::Loss || attacked.id == Attack::Correctness || of_headline(attacked)
        });
        drawn.map(|attacked| Curve { attack: attacked.id.clone(), points: self.thinned(&attacked.roc) }).collect()
    }

    /// Points of the exact curve: the last one at each false-positive count of a grid that is dense at low rates.
    fn thinned(&self, roc: &Roc) -> Vec<CurvePoint> {
        let n = self.verdict_non_members.len() as f64;
        let mut targets: Vec<f64> =
            (0..=N_POINTS / 2).map(|step| n.powf(2.0 * step as f64 / N_POINTS as f64 - 1.0)).collect();
        targets.extend((0..=N_POINTS / 2).map(|step| 2.0 * step as f64 / N_POINTS as f64));
        targets.sort_by(f64::total_cmp);
        let mut points: Vec<CurvePoint> = Vec::with_capacity(targets.len());
        for target in targets {
            let point = roc.last_at(target * (1.0 + 1e-12));
            let (fpr, tpr) = (roc.fpr(&point), roc.tpr(&point));
            if points.last().is_none_or(|last| last.fpr != fpr || last.tpr != tpr) {
                let counts = roc.counts(&point);
                let interval = clopper_pearson(counts.true_positives, counts.n_members, self.settings.level);
                points.push(CurvePoint { fpr, tpr, tpr_interval: interval });
            }
        }
        points
    }

    pub(super) fn histogram(&self, system: &System, one: &Measured) -> Figure<Histogram> {
        if system.role() == Role::Floor || !self.target.allows().scores {
            return Figure::missing("the label alone has no scaled logit");
        }
        // A true class without any probability lies at the floor and would stretch the axis.
        let limit = -ATTACK_FLOOR.ln() / 2.0;
        let mut inside: Vec<f64> = one.scaled_logit.iter().copied().filter(|value| value.abs() < limit).collect();
        inside.sort_by(f64::total_cmp);
        let (Some(&low), Some(&high)) = (inside.first(), inside.last()) else {
            return Figure::missing("every answer is 1 for one class and 0 for the others: no scaled logit is finite");
        };
        let width = ((high - low) / N_BINS as f64).max(1e-9);
        let (mut members, mut non_members) = (vec![0; N_BINS], vec![0; N_BINS]);
        for (row, &value) in one.scaled_logit.iter().enumerate() {
            let bin = (((value - low) / width).floor().max(0.0) as usize).min(N_BINS - 1);
            let side = if row < self.target.n_members() { &mut members } else { &mut non_members };
            side[bin] += 1;
        }
        let edges = (0..=N_BINS).map(|edge| low + width * edge as f64).collect();
        Figure::known(Histogram { edges, members, non_members })
    }
}

/// What each system showed of each row.
pub(super) fn records(
    bench: &Bench<'_>,
    measured: &[(&System, Measured)],
    found: &[SystemFindings],
) -> Vec<SystemRecords> {
    let n_rows = bench.target.n_rows();
    let each = measured.iter().zip(found).map(|((system, one), found)| {
        let headline = found.headline.value.as_ref();
        let chosen = headline.and_then(|headline| one.attacks.iter().find(|one| one.id == headline.fixed_attack));
        let (mut score, mut called_member) = (vec![None; n_rows], vec![None; n_rows]);
        if let Some(attacked) = chosen {
            for (place, &row) in bench.allocation.verdict.iter().enumerate() {
                score[row] = Some(attacked.verdict[place]);
                called_member[row] = Some(attacked.says_member[place]);
            }
        }
        SystemRecords {
            system: system.name.clone(),
            predicted: one.answers.predicted.clone(),
            scaled_logit: one.scaled_logit.clone(),
            attack: chosen.map(|attacked| attacked.id.clone()),
            score,
            called_member,
        }
    });
    each.collect()
}
