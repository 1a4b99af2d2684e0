//! One system and one attack, before the comparisons.

use std::time::Duration;

use crate::audit::answers::Answers;
use crate::audit::attack::{Attack, AttackId};
use crate::audit::exact::clopper_pearson;
use crate::audit::fixed::{FixedThreshold, signed_advantage};
use crate::audit::interval::{Estimate, Interval, Placements, wilson};
use crate::audit::invert::Inversion;
use crate::audit::report::{BeforeAfter, Figure, Utility};
use crate::audit::roc::{Ranking, Roc, RocError};
use crate::audit::system::{Role, System};
use crate::audit::utility;

use super::battery::{Scored, Subject};
use super::epsilon::EpsilonRule;
use super::{Bench, NO_UNDEFENDED, StudyError};

/// One attack on one system.
pub(super) struct Attacked {
    pub(super) id: AttackId,
    /// Curve of the attack-fit rows: R16 asks the undefended system's, the headline every system's own.
    pub(super) fit: FitCurve,
    /// Scores of the verdict rows.
    pub(super) verdict: Vec<f64>,
    /// Order of the verdict rows.
    pub(super) ranking: Ranking,
    pub(super) roc: Roc,
    pub(super) placements: Placements,
    /// The fixed rule's calls on the verdict rows.
    pub(super) says_member: Vec<bool>,
    pub(super) fixed: Estimate,
    /// The rule that was best for ε on the attack-fit rows.
    pub(super) epsilon: EpsilonRule,
}

/// One attack on one system on the attack-fit rows.
pub(super) struct FitCurve {
    pub(super) ranking: Ranking,
    placements: Placements,
    pub(super) auc: Estimate,
    pub(super) widest: f64,
    /// What the fixed rule reaches here, each half by the other half's threshold, by which an attack is chosen.
    pub(super) fixed: f64,
    /// The calls that gave it.
    pub(super) says_member: Vec<bool>,
}

impl FitCurve {
    /// The interval of the AUC that holds for `n` such at once.
    pub(super) fn auc_corrected(&self, n: usize, level: f64) -> Interval {
        self.placements.auc(1.0 - (1.0 - level) / n.max(1) as f64).interval()
    }
}

/// One system, before the comparisons.
pub(super) struct Measured {
    pub(super) answers: Answers,
    pub(super) utility: Utility,
    pub(super) nll_of_rows: Vec<f64>,
    pub(super) brier_of_rows: Vec<f64>,
    /// Scaled logit of every row of the target; none where the answers are labels.
    pub(super) scaled_logit: Vec<f64>,
    pub(super) attacks: Vec<Attacked>,
    pub(super) before_after: BeforeAfter,
}

impl Bench<'_> {
    pub(super) fn measure(
        &self,
        system: &System,
        answers: Answers,
        inversion: &Inversion,
        reference: &Answers,
        overhead: Option<Duration>,
    ) -> Result<Measured, StudyError> {
        let subject = Subject { system, answers: &answers, inversion };
        let named = |id: &AttackId| {
            let attack = id.name.clone();
            move |source| StudyError::Curve { system: system.name.clone(), attack, source }
        };
        let scored = self.battery(&subject)?;
        let attacks: Vec<Result<Attacked, RocError>> =
            crate::audit::parallel::map(scored.len(), |index| self.attack(&scored[index]));
        let attacks = attacks.into_iter().zip(&scored).map(|(attacked, scored)| attacked.map_err(named(&scored.id)));
        let attacks = attacks.collect::<Result<Vec<_>, _>>()?;
        // Without scores the loss of a label is whether it is right.
        let loss = if self.target.allows().scores { Attack::Loss } else { Attack::Correctness };
        let everybody: Vec<usize> = (0..self.target.n_rows()).collect();
        let loss_on_all = Roc::new(&self.scores(loss, &subject), &self.allocation.memberships(&everybody));
        let loss_on_all = loss_on_all.map_err(named(&loss.into()))?;
        let scaled_logit = self.scores(Attack::ScaledLogit, &subject);

        let labels = self.target.labels();
        let (nll_of_rows, _) = utility::negative_log_likelihoods(&answers, labels, &self.verdict_non_members);
        let brier_of_rows = utility::brier_scores(&answers, labels, &self.verdict_non_members);
        let utility = self.utility(&answers, reference);
        let before_after = self.before_after(system, &answers, &loss_on_all, overhead);
        Ok(Measured { answers, utility, nll_of_rows, brier_of_rows, scaled_logit, attacks, before_after })
    }

    fn utility(&self, answers: &Answers, reference: &Answers) -> Utility {
        let labels = self.target.labels();
        let settings = self.settings;
        let (nll_of_rows, n_floored) = utility::negative_log_likelihoods(answers, labels, &self.verdict_non_members);
        let brier = utility::brier_scores(answers, labels, &self.verdict_non_members);
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
        // Neither side of the verdict rows is ever empty: a target has two rows of each at least.
        let accuracy = |rows: &[usize]| utility::accuracy(answers, labels, rows).unwrap_or_default();
        let interval = |rows: &[usize]| {
            let right = rows.iter().filter(|&&row| answers.predicted[row] == labels[row]).count();
            clopper_pearson(right as u64, rows.len() as u64, settings.level)
        };
        let nothing = |value| Interval { low: value, high: value };
        let ece = utility::calibration_error(
            answers,
            labels,
            &self.verdict_non_members,
            settings.n_resamples,
            settings.seed,
            settings.level,
        );
        Utility {
            accuracy_members: accuracy(&self.verdict_members),
            accuracy_non_members: accuracy(&self.verdict_non_members),
            accuracy_members_interval: interval(&self.verdict_members),
            accuracy_non_members_interval: interval(&self.verdict_non_members),
            nll: mean(&nll_of_rows),
            nll_interval: nothing(mean(&nll_of_rows)),
            brier: Estimate::new(mean(&brier), nothing(mean(&brier))),
            n_floored,
            nll_minus_rival: Figure::missing(self.no_rival()),
            ece: ece.value,
            ece_interval: ece.interval(),
            label_agreement: match self.has_undefended {
                true => Figure::or(utility::label_agreement(answers, reference), "no rows"),
                false => Figure::missing(NO_UNDEFENDED),
            },
            label_agreement_interval: (self.has_undefended && answers.n_rows() > 0).then(|| {
                let kept = utility::n_labels_kept(answers, reference);
                wilson(kept as u64, answers.n_rows() as u64, settings.level)
            }),
        }
    }

    fn before_after(&self, system: &System, answers: &Answers, loss: &Roc, overhead: Option<Duration>) -> BeforeAfter {
        let n_members = self.target.n_members();
        let members: Vec<usize> = (0..n_members).collect();
        let non_members: Vec<usize> = (n_members..self.target.n_rows()).collect();
        let accuracy = |rows: &[usize]| utility::accuracy(answers, self.target.labels(), rows).unwrap_or_default();
        let (train_accuracy, test_accuracy) = (accuracy(&members), accuracy(&non_members));
        BeforeAfter {
            stage: match system.role() {
                Role::Undefended => "before",
                _ if self.has_undefended => "after",
                _ => "answered",
            },
            system: system.name.clone(),
            train_accuracy,
            test_accuracy,
            overhead_seconds: Figure::or(overhead.map(|time| time.as_secs_f64()), "the answers came from elsewhere"),
            n_rows: self.target.n_rows(),
            auc: loss.auc(),
            advantage: loss.two_sided_advantage(),
            gap: train_accuracy - test_accuracy,
        }
    }

    fn attack(&self, scored: &Scored) -> Result<Attacked, RocError> {
        let rule = match scored.rule {
            Some(rule) => rule,
            None => FixedThreshold::fit(&scored.fit, &self.fit_memberships)?,
        };
        let fit_says = self.says_of_halves(scored, rule);
        let fit_ranking = Ranking::new(&scored.fit)?;
        let fit_roc = Roc::from_ranking(&fit_ranking, &self.fit_memberships)?;
        let ranking = Ranking::new(&scored.verdict)?;
        let says_member: Vec<bool> = scored.verdict.iter().map(|&score| rule.says_member(score)).collect();
        let epsilon = self.epsilon_rule(scored, &fit_roc)?;
        let fit_placements = Placements::new(&fit_ranking, &self.fit_memberships)?;
        Ok(Attacked {
            id: scored.id.clone(),
            fit: FitCurve {
                auc: fit_placements.auc(self.settings.level),
                placements: fit_placements,
                widest: fit_roc.two_sided_advantage(),
                fixed: signed_advantage(&fit_says, &self.fit_memberships, self.settings.level).value,
                ranking: fit_ranking,
                says_member: fit_says,
            },
            roc: Roc::from_ranking(&ranking, &self.verdict_memberships)?,
            placements: Placements::new(&ranking, &self.verdict_memberships)?,
            ranking,
            fixed: signed_advantage(&says_member, &self.verdict_memberships, self.settings.level),
            says_member,
            verdict: scored.verdict.clone(),
            epsilon,
        })
    }

    /// The calls on the attack-fit rows, each half by the threshold of the other. A threshold is never judged by the
    /// rows that it was the best of: a rule that has none to choose would be passed over for the luck of those that do.
    fn says_of_halves(&self, scored: &Scored, rule: FixedThreshold) -> Vec<bool> {
        let mut says: Vec<bool> = scored.fit.iter().map(|&score| rule.says_member(score)).collect();
        if scored.rule.is_some() {
            return says;
        }
        let halves = self.halves();
        for (from, to) in [(0, 1), (1, 0)] {
            let scores: Vec<f64> = halves[from].iter().map(|&place| scored.fit[place]).collect();
            let memberships: Vec<bool> = halves[from].iter().map(|&place| self.fit_memberships[place]).collect();
            // Too few rows for two halves: what all of them say stands.
            let Ok(rule) = FixedThreshold::fit(&scores, &memberships) else { continue };
            halves[to].iter().for_each(|&place| says[place] = rule.says_member(scored.fit[place]));
        }
        says
    }
}
