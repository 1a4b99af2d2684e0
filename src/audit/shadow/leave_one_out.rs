//! Every model of a bank as the target in turn: what the shadow attacks reach, over targets and for each record.
//!
//! The rows of one target are all rows of the bank, its members by the inclusion matrix. RMIA's population is drawn from
//! its non-members and left out of the verdict for all attacks alike. The unit of the intervals is the target.
//!
//! A record's own risk is told over targets: how much higher a target scores it when it was trained on it
//! ([`RecordRisk`]). With a few dozen models that is rough for one record; the list of the worst is still a list of
//! whom to look at, and its figures are biased upward for having been picked.

use std::cmp::Ordering;

use serde::Serialize;

use crate::audit::attack::AttackId;
use crate::audit::parallel;
use crate::audit::report::Figure;
use crate::audit::roc::{Roc, RocError, TprAtFpr};
use crate::audit::spread::Spread;

use super::reach::{EACH_IN_TURN, MIN_MODELS};
use super::{Bank, ShadowError, Shadowing, attacks};

/// What is done.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LeaveOneOutSettings {
    /// False-positive rates at which TPR is told.
    pub fpr_targets: Vec<f64>,
    /// The false-positive rate of the threshold by which a record is found.
    pub record_fpr: f64,
    /// Level of the intervals over targets.
    pub level: f64,
    /// Of each target's non-members one in so many is RMIA's population.
    pub population_share: usize,
    /// At most so many models are taken as targets, the first ones; 0 for all.
    pub max_targets: usize,
}

impl Default for LeaveOneOutSettings {
    fn default() -> Self {
        Self {
            fpr_targets: vec![0.01, 0.001, 0.0001],
            record_fpr: 0.01,
            level: 0.95,
            population_share: 5,
            max_targets: 0,
        }
    }
}

/// Why there is no study.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeaveOneOutError {
    /// The bank cannot be used.
    #[error("target {target}: {source}")]
    Shadow {
        /// The model taken as target.
        target: usize,
        /// Why.
        source: ShadowError,
    },
    /// A target's scores make no curve.
    #[error("target {target}: {source}")]
    Curve {
        /// The model taken as target.
        target: usize,
        /// Why.
        source: RocError,
    },
    /// As [`ShadowError::TooSmall`], or a row that has not two models of each kind.
    #[error(transparent)]
    TooSmall(ShadowError),
}

/// The study of one bank.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LeaveOneOut {
    /// What was done.
    pub settings: LeaveOneOutSettings,
    /// Models of the bank.
    pub n_models: usize,
    /// Models taken as targets.
    pub n_targets: usize,
    /// Rows.
    pub n_rows: usize,
    /// Queries a row.
    pub n_queries: usize,
    /// What stood before the shadows.
    pub shadowing: Shadowing,
    /// One entry for each attack.
    pub attacks: Vec<AttackOverTargets>,
    /// One entry for each row of the bank, by the attack of the largest mean AUC.
    #[serde(skip)]
    pub records: Vec<RecordRisk>,
    /// The attack that the records are told by.
    pub record_attack: AttackId,
}

/// One attack over all targets.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AttackOverTargets {
    /// The attack.
    pub attack: AttackId,
    /// Area under the curve.
    pub auc: Figure<Spread>,
    /// Two-sided advantage; never below 0, see R12 (a).
    pub widest: Figure<Spread>,
    /// What [`AttackOverTargets::widest`] is on average when membership says nothing.
    pub widest_null: f64,
    /// TPR at stated FPR.
    pub tpr_at_fpr: Vec<TprOverTargets>,
}

/// TPR at a stated FPR over all targets.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TprOverTargets {
    /// The stated rate.
    pub target_fpr: f64,
    /// The spread of TPR; none where a target's non-members do not resolve the rate.
    pub tpr: Figure<Spread>,
    /// Mean attained FPR.
    pub mean_attained_fpr: Figure<f64>,
}

/// What the targets tell about one record.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct RecordRisk {
    /// Row of the bank.
    pub row: usize,
    /// Targets that were trained on it.
    pub n_in: usize,
    /// Targets that were not, in whose verdict it stood.
    pub n_out: usize,
    /// Targets trained on it that found it above their own threshold.
    pub n_found: usize,
    /// Targets not trained on it that called it a member.
    pub n_false: usize,
    /// Share of pairs (a target trained on it, one that was not) in which the first scores it higher, ties half;
    /// one half where there is no pair.
    pub auc: f64,
}

impl RecordRisk {
    /// By how much more often a model finds the record when it was trained on it: the share of such models that find it less
    /// the share of the others that call it falsely. In [−1, 1]; what the worst records are told by. `None` where either
    /// kind of model was not there to judge it.
    #[must_use]
    pub fn risk(&self) -> Option<f64> {
        let rate = |hits: usize, of: usize| hits as f64 / of as f64;
        let judged = self.n_in > 0 && self.n_out > 0;
        judged.then(|| rate(self.n_found, self.n_in) - rate(self.n_false, self.n_out))
    }

    /// Less where this one is of the higher risk; one without a risk comes last.
    fn against(&self, other: &Self) -> Ordering {
        let of = |risk: &Self| risk.risk().unwrap_or(f64::NEG_INFINITY);
        of(other).total_cmp(&of(self)).then(other.auc.total_cmp(&self.auc))
    }
}

/// Records of equal risk of which a list holds only some, those of the lowest row numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Ties {
    /// Those that are listed.
    pub listed: usize,
    /// All of them.
    pub all: usize,
}

/// What one target gives.
struct OfTarget {
    /// For each attack its scores and its curve over the verdict rows.
    attacks: Vec<(AttackId, Vec<f64>, Roc)>,
    /// Whether each row is in the verdict.
    judged: Vec<bool>,
    n_members: usize,
    n_non_members: usize,
}

/// Takes each model of `bank` as the target in turn.
///
/// # Errors
/// [`LeaveOneOutError`].
pub fn study(bank: &Bank, settings: &LeaveOneOutSettings) -> Result<LeaveOneOut, LeaveOneOutError> {
    let n_models = bank.n_models();
    if n_models < MIN_MODELS {
        return Err(LeaveOneOutError::TooSmall(ShadowError::TooSmall { n_models }));
    }
    if let Some((row, n_in, n_out)) = bank.lacking(EACH_IN_TURN, None) {
        let needs = "two of each, of which one may be the target";
        return Err(LeaveOneOutError::TooSmall(ShadowError::TooFewModels { row, n_in, n_out, needs }));
    }
    let n_targets = if settings.max_targets == 0 { n_models } else { n_models.min(settings.max_targets) };
    let targets = parallel::map(n_targets, |target| of_target(bank, target, settings));
    let targets = targets.into_iter().collect::<Result<Vec<_>, _>>()?;
    let n_attacks = targets.first().map_or(0, |target| target.attacks.len());
    let attacks: Vec<AttackOverTargets> = (0..n_attacks).map(|index| over_targets(&targets, index, settings)).collect();
    let mean = |index: usize| attacks[index].auc.value.map_or(0.0, |auc| auc.mean);
    let best = (0..n_attacks).reduce(|a, b| if mean(b) > mean(a) { b } else { a }).unwrap_or(0);
    Ok(LeaveOneOut {
        settings: settings.clone(),
        n_models,
        n_targets,
        n_rows: bank.n_rows(),
        n_queries: bank.of_model(0).ncols(),
        shadowing: bank.shadowing,
        record_attack: targets[0].attacks[best].0.clone(),
        records: records(bank, &targets, best, settings),
        attacks,
    })
}

fn of_target(bank: &Bank, target: usize, settings: &LeaveOneOutSettings) -> Result<OfTarget, LeaveOneOutError> {
    let members = bank.inclusion().row(target).to_vec();
    let others: Vec<usize> = (0..members.len()).filter(|&row| !members[row]).collect();
    let share = settings.population_share.max(2);
    let population: Vec<usize> = others.iter().copied().skip(target % share).step_by(share).collect();
    let mut judged = vec![true; members.len()];
    population.iter().for_each(|&row| judged[row] = false);
    let rows: Vec<usize> = (0..members.len()).filter(|&row| judged[row]).collect();
    let memberships: Vec<bool> = rows.iter().map(|&row| members[row]).collect();
    let logits = bank.of_model(target).to_owned();
    let mut scored = attacks(bank, logits.view(), Some(target), &population)
        .map_err(|source| LeaveOneOutError::Shadow { target, source })?;
    // What the attack without any shadow reaches, for comparison.
    let plain = logits.rows().into_iter().map(|row| row.sum() / row.len() as f64).collect();
    scored.push((bank_free(), plain));
    let curve = |(id, scores): (AttackId, Vec<f64>)| {
        let of_rows: Vec<f64> = rows.iter().map(|&row| scores[row]).collect();
        let roc = Roc::new(&of_rows, &memberships).map_err(|source| LeaveOneOutError::Curve { target, source })?;
        Ok((id, scores, roc))
    };
    let n_members = memberships.iter().filter(|&&member| member).count();
    Ok(OfTarget {
        attacks: scored.into_iter().map(curve).collect::<Result<_, _>>()?,
        judged,
        n_members,
        n_non_members: memberships.len() - n_members,
    })
}

fn bank_free() -> AttackId {
    crate::audit::attack::Attack::ScaledLogit.into()
}

fn over_targets(targets: &[OfTarget], index: usize, settings: &LeaveOneOutSettings) -> AttackOverTargets {
    let curves: Vec<&Roc> = targets.iter().map(|target| &target.attacks[index].2).collect();
    let spread = |values: Vec<f64>| Figure::or(Spread::of(&values, settings.level), "one target has no spread");
    let null = |target: &OfTarget| 0.8687 * (1.0 / target.n_members as f64 + 1.0 / target.n_non_members as f64).sqrt();
    let at = |&target_fpr: &f64| {
        let resolved = curves.iter().filter_map(|roc| match roc.tpr_at_fpr(target_fpr) {
            TprAtFpr::Resolved { tpr, attained_fpr } => Some((tpr, attained_fpr)),
            TprAtFpr::NotResolvable { .. } => None,
        });
        let (tpr, fpr): (Vec<f64>, Vec<f64>) = resolved.unzip();
        if tpr.len() < curves.len() {
            let least = targets.iter().map(|target| target.n_non_members).min().unwrap_or(0);
            let reason = format!("not resolvable: {least} non-members resolve 1/{least}");
            return TprOverTargets {
                target_fpr,
                tpr: Figure::missing(reason.clone()),
                mean_attained_fpr: Figure::missing(reason),
            };
        }
        let mean = fpr.iter().sum::<f64>() / fpr.len() as f64;
        TprOverTargets { target_fpr, tpr: spread(tpr), mean_attained_fpr: Figure::known(mean) }
    };
    AttackOverTargets {
        attack: targets[0].attacks[index].0.clone(),
        auc: spread(curves.iter().map(|roc| roc.auc()).collect()),
        widest: spread(curves.iter().map(|roc| roc.two_sided_advantage()).collect()),
        widest_null: targets.iter().map(null).sum::<f64>() / targets.len() as f64,
        tpr_at_fpr: settings.fpr_targets.iter().map(at).collect(),
    }
}

fn records(bank: &Bank, targets: &[OfTarget], attack: usize, settings: &LeaveOneOutSettings) -> Vec<RecordRisk> {
    let thresholds: Vec<f64> =
        targets.iter().map(|target| target.attacks[attack].2.last_at(settings.record_fpr).threshold).collect();
    let of_row = |row: usize| {
        let (mut inside, mut outside) = (Vec::new(), Vec::new());
        let (mut n_found, mut n_false) = (0, 0);
        for (model, target) in targets.iter().enumerate().filter(|(_, target)| target.judged[row]) {
            let score = target.attacks[attack].1[row];
            let above = usize::from(score >= thresholds[model]);
            if bank.inclusion()[(model, row)] {
                inside.push(score);
                n_found += above;
            } else {
                outside.push(score);
                n_false += above;
            }
        }
        let won: f64 = inside
            .iter()
            .flat_map(|a| outside.iter().map(move |b| if a > b { 1.0 } else { f64::from(u8::from(a == b)) / 2.0 }))
            .sum();
        let pairs = (inside.len() * outside.len()) as f64;
        let auc = if pairs > 0.0 { won / pairs } else { 0.5 };
        RecordRisk { row, n_in: inside.len(), n_out: outside.len(), n_found, n_false, auc }
    };
    (0..bank.n_rows()).map(of_row).collect()
}

impl LeaveOneOut {
    /// The records of the highest risk: most often found, then by the area of their own pairs, then by row.
    #[must_use]
    pub fn worst(&self, n: usize) -> Vec<RecordRisk> {
        let mut records = self.records.clone();
        records.sort_by(|a, b| a.against(b).then(a.row.cmp(&b.row)));
        records.truncate(n);
        records
    }

    /// How many records stand as high as the last of the `n` worst, where a list of `n` leaves some of them out.
    #[must_use]
    pub fn ties(&self, n: usize) -> Option<Ties> {
        let worst = self.worst(n);
        let last = worst.last()?;
        let level = |risk: &&RecordRisk| risk.against(last).is_eq();
        let ties = Ties { listed: worst.iter().filter(level).count(), all: self.records.iter().filter(level).count() };
        (ties.all > ties.listed).then_some(ties)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::shadow::planted;

    #[test]
    fn the_mean_over_targets_is_the_planted_leak() {
        let found = study(&planted::bank(12, 500, 1, 2.0, 1), &LeaveOneOutSettings::default()).unwrap();
        assert_eq!((found.n_targets, found.records.len()), (12, 500));
        let auc = |name: &str| {
            let one = found.attacks.iter().find(|one| one.attack.name() == name).unwrap();
            one.auc.value.unwrap()
        };
        let online = auc("LiRA online, fixed variance");
        // Two normals a distance of 2 apart, centres known from about six models each.
        assert!(online.mean > 0.86 && online.mean < 0.92, "{online:?}");
        assert!(online.low > auc("scaled logit").high);
        // 500 rows, a fifth of the non-members set aside: a rate of 1/1,000 cannot be told.
        let tpr = &found.attacks[0].tpr_at_fpr;
        assert!(tpr[0].tpr.value.is_some() && tpr[1].tpr.reason.as_ref().unwrap().contains("not resolvable"));
    }

    #[test]
    fn a_bank_that_learns_nothing_gives_chance_within_the_interval() {
        let found = study(&planted::bank(16, 400, 2, 0.0, 4), &LeaveOneOutSettings::default()).unwrap();
        for one in &found.attacks {
            let auc = one.auc.value.unwrap();
            // Twelve attacks on one bank: the interval of a single one at 95 % would miss now and then.
            assert!((auc.mean - 0.5).abs() < 2.0 * (auc.high - auc.low), "{}: {auc:?}", one.attack.name());
            assert!((one.widest.value.unwrap().mean - one.widest_null).abs() < 0.03, "{}", one.attack.name());
        }
    }

    #[test]
    fn the_record_that_leaks_alone_is_the_worst() {
        // One row is learned by heart, the others are not.
        let mut bank = planted::bank(20, 300, 1, 0.0, 5);
        for model in 0..20 {
            if bank.inclusion[(model, 7)] {
                bank.logits[(model, 7, 0)] += 8.0;
            }
        }
        let found = study(&bank, &LeaveOneOutSettings::default()).unwrap();
        let worst = found.worst(3);
        assert_eq!(worst[0].row, 7);
        assert_eq!((worst[0].n_found, worst[0].n_false), (worst[0].n_in, 0));
        assert!((worst[0].auc - 1.0).abs() < 1e-12);
    }

    #[test]
    fn records_that_tie_at_the_end_of_the_list_are_counted() {
        let mut found = study(&planted::bank(4, 60, 1, 0.0, 5), &LeaveOneOutSettings::default()).unwrap();
        let risk = |row: usize, n_found: usize| RecordRisk { row, n_in: 2, n_out: 2, n_found, n_false: 0, auc: 1.0 };
        found.records = (0..9).map(|row| risk(row, if row == 8 { 2 } else { 1 })).collect();
        assert_eq!(found.worst(3).iter().map(|risk| risk.row).collect::<Vec<_>>(), [8, 0, 1]);
        assert_eq!(found.ties(3), Some(Ties { listed: 2, all: 8 }));
        assert_eq!((found.ties(1), found.ties(9)), (None, None), "nobody who ties is left out");
    }

    #[test]
    fn a_record_that_no_stranger_judged_is_no_worst() {
        let mut found = study(&planted::bank(4, 60, 1, 0.0, 5), &LeaveOneOutSettings::default()).unwrap();
        let risk =
            |row: usize, n_out: usize| RecordRisk { row, n_in: 2, n_out, n_found: 2, n_false: n_out / 2, auc: 1.0 };
        found.records = vec![risk(0, 0), risk(1, 2)];
        assert_eq!((found.records[0].risk(), found.records[1].risk()), (None, Some(0.5)));
        assert_eq!(found.worst(2).iter().map(|risk| risk.row).collect::<Vec<_>>(), [1, 0]);
    }

    #[test]
    fn a_bank_of_models_that_never_saw_a_row_has_no_target() {
        let mut bank = planted::bank(6, 30, 1, 0.0, 1);
        bank.inclusion.column_mut(4).fill(false);
        let error = study(&bank, &LeaveOneOutSettings::default()).unwrap_err();
        assert!(error.to_string().contains("row 4: 0 models of the bank were trained on it, 6 were not"), "{error}");
    }

    #[test]
    fn a_bank_of_two_is_refused() {
        let error = study(&planted::bank(2, 30, 1, 0.0, 1), &LeaveOneOutSettings::default()).unwrap_err();
        assert!(error.to_string().contains("at least 3"), "{error}");
    }
}
