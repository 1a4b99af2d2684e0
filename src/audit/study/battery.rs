//! What is tried on one system: a list of attacks, each ending in a score for every attack-fit and verdict row.
//!
//! Attacks that fit something (thresholds per class, classifiers) are scored on the attack-fit rows by cross-fitting
//! in two halves: a row is scored by what was fitted without it, so that R16 is judged honestly. The verdict rows
//! are scored by what was fitted on all attack-fit rows.

use crate::audit::answers::Answers;
use crate::audit::attack::{Attack, AttackId, Family, ML_LEAKS};
use crate::audit::fixed::FixedThreshold;
use crate::audit::invert::Inversion;
use crate::audit::learned::{LearnedAttack, Learner, Rows, View};
use crate::audit::parallel;
use crate::audit::shadow::Shadowing;
use crate::audit::system::System;
use crate::audit::thresholds::PerClass;

use super::{Bench, StudyError};

/// Attack-fit rows of a side below which nothing is learned.
const MIN_LEARNED: usize = 20;

/// Scores of an attack that was run elsewhere: higher says member.
#[derive(Debug, Clone)]
pub struct GivenScores {
    /// Name of the system that was attacked.
    pub system: String,
    /// The attack.
    pub attack: AttackId,
    /// One score for each row of the target.
    pub scores: Vec<f64>,
    /// Who is called a member, where the attacker brings a rule; without one it is fitted on the attack-fit rows.
    pub rule: Option<BroughtRule>,
}

/// A rule that an attacker brings, fixed on none of the target's rows.
#[derive(Debug, Clone, PartialEq)]
pub struct BroughtRule {
    /// The rule.
    pub threshold: FixedThreshold,
    /// What it is and where it comes from, in words.
    pub words: String,
}

/// Answers of rows whose membership the attacker knows because it trained the model itself, behind the same
/// defence as the system's: what ML-Leaks' adversary learns on.
pub struct LearnedFrom {
    /// Name of the system.
    pub system: String,
    /// Answers of the shadow models on their rows.
    pub answers: Answers,
    /// True label of each row.
    pub labels: Vec<u32>,
    /// Whether the shadow that answered was trained on the row.
    pub memberships: Vec<bool>,
    /// What the shadow was trained on.
    pub shadow_of: ShadowOf,
    /// What stood before it.
    pub shadowing: Shadowing,
}

/// What data a shadow model was trained on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShadowOf {
    /// Other rows of the target's own data (ML-Leaks' adversary 1).
    SameData,
    /// Other data, perhaps of other classes (adversary 2): only what does not speak of classes can be learned.
    OtherData,
}

impl LearnedFrom {
    /// Of several shadows, each with its answers to the same rows, whose true labels are `labels`, and who was trained on
    /// which.
    #[must_use]
    pub fn of(system: &str, shadows: &[(Answers, Vec<bool>)], labels: &[u32]) -> Self {
        let answers: Vec<Answers> = shadows.iter().map(|(answers, _)| answers.clone()).collect();
        Self {
            system: system.to_owned(),
            answers: Answers::joined(&answers),
            labels: shadows.iter().flat_map(|_| labels.iter().copied()).collect(),
            memberships: shadows.iter().flat_map(|(_, members)| members.iter().copied()).collect(),
            shadow_of: ShadowOf::SameData,
            shadowing: Shadowing::AsTarget,
        }
    }

    /// The attacks that are learned on it, of answers with scores or of labels alone.
    fn attacks(&self, has_scores: bool) -> impl Iterator<Item = LearnedAttack> {
        let of_other_data = self.shadow_of == ShadowOf::OtherData;
        FROM_SHADOW.into_iter().filter(move |attack| {
            (has_scores || attack.view == View::Vector) && (!of_other_data || attack.view == View::Top3)
        })
    }

    fn id(&self, attack: LearnedAttack) -> AttackId {
        let adversary = match self.shadow_of {
            ShadowOf::SameData => 1,
            ShadowOf::OtherData => 2,
        };
        let name = match (attack.learner, attack.view) {
            (Learner::Logistic, View::Top3) => format!("{ML_LEAKS}{adversary}, softmax on top 3"),
            (_, View::Top3) => format!("{ML_LEAKS}{adversary}, network on top 3"),
            _ => format!("{}, learned on shadows", attack.name()),
        };
        AttackId::new(Family::Learned, name).with_shadows(self.shadowing)
    }
}

/// What is learned on shadows: ML-Leaks' adversary as in its code and as in its paper, then two that see more.
const FROM_SHADOW: [LearnedAttack; 4] = [
    LearnedAttack { learner: Learner::Logistic, view: View::Top3 },
    LearnedAttack { learner: Learner::Network, view: View::Top3 },
    LearnedAttack { learner: Learner::Network, view: View::Vector },
    LearnedAttack { learner: Learner::Network, view: View::Sorted },
];

/// By which label a class is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ClassBy {
    True,
    Predicted,
}

/// One attack to be run.
enum Planned<'a> {
    Score(Attack),
    PerClass(Attack, ClassBy),
    Learned(LearnedAttack),
    FromShadow(LearnedAttack, &'a LearnedFrom),
    Given(&'a GivenScores),
}

/// The scores of one attack.
pub(super) struct Scored {
    pub(super) id: AttackId,
    /// One for each attack-fit row, by what was fitted without that row.
    pub(super) fit: Vec<f64>,
    /// One for each verdict row.
    pub(super) verdict: Vec<f64>,
    /// The fixed rule, where the attack has one of its own.
    pub(super) rule: Option<FixedThreshold>,
}

impl Planned<'_> {
    fn id(&self) -> AttackId {
        match self {
            Planned::Score(attack) => (*attack).into(),
            Planned::PerClass(attack, by) => {
                let by = if *by == ClassBy::True { "true" } else { "predicted" };
                AttackId::new(Family::PerClass, format!("{} per {by} class", attack.name()))
            }
            Planned::Learned(learned) if learned.learner == Learner::Alphabet => {
                AttackId::new(Family::Adaptive, learned.name())
            }
            Planned::Learned(learned) => AttackId::new(Family::Learned, learned.name()),
            Planned::FromShadow(learned, shadow) => shadow.id(*learned),
            Planned::Given(given) => given.attack.clone(),
        }
    }
}

/// One system's answers with what the attacks need to know of it.
pub(super) struct Subject<'a> {
    pub(super) system: &'a System,
    pub(super) answers: &'a Answers,
    pub(super) inversion: &'a Inversion,
}

impl Bench<'_> {
    fn plan(&self, system: &System) -> Vec<Planned<'_>> {
        let allows = self.target.allows();
        let undoes = |attack: Attack| match attack {
            Attack::InvertedLoss => self.undoes,
            Attack::InvertedOther => self.two_roots,
            _ => true,
        };
        let scores: Vec<Attack> =
            Attack::ALL.into_iter().filter(|&one| allows.lacks(&one.needs()).is_none() && undoes(one)).collect();
        let mut plan: Vec<Planned<'_>> = scores.iter().map(|&attack| Planned::Score(attack)).collect();
        if self.settings.per_class {
            for by in [ClassBy::True, ClassBy::Predicted] {
                plan.extend(scores.iter().map(|&attack| Planned::PerClass(attack, by)));
            }
        }
        if self.settings.learned && self.lacks_for_learning().is_none() {
            plan.extend(LearnedAttack::all(allows.scores).into_iter().map(Planned::Learned));
        }
        for shadow in self.knowledge.learned_from.iter().filter(|shadow| shadow.system == system.name) {
            plan.extend(shadow.attacks(allows.scores).map(|attack| Planned::FromShadow(attack, shadow)));
        }
        let given = self.knowledge.given.iter().filter(|given| given.system == system.name);
        plan.extend(given.map(Planned::Given));
        plan
    }

    /// What is missing to learn an attack on the attack-fit rows, in words.
    pub(super) fn lacks_for_learning(&self) -> Option<String> {
        let n_members = self.fit_memberships.iter().filter(|&&member| member).count();
        let n_others = self.fit_memberships.len() - n_members;
        (n_members.min(n_others) < MIN_LEARNED).then(|| {
            format!("{MIN_LEARNED} attack-fit rows of each side ({n_members} members and {n_others} others are there)")
        })
    }

    /// Runs the battery on one system.
    pub(super) fn battery(&self, subject: &Subject<'_>) -> Result<Vec<Scored>, StudyError> {
        let mut plan = self.plan(subject.system);
        let order: Vec<AttackId> = plan.iter().map(Planned::id).collect();
        // The long ones first, so that no core waits for the last of them.
        plan.sort_by_key(|planned| !matches!(planned, Planned::Learned(_) | Planned::FromShadow(..)));
        let scored = parallel::map(plan.len(), |index| self.score(subject, &plan[index]));
        let mut scored = scored.into_iter().collect::<Result<Vec<_>, _>>()?;
        scored.sort_by_key(|one| order.iter().position(|id| *id == one.id));
        Ok(scored)
    }

    fn score(&self, subject: &Subject<'_>, planned: &Planned<'_>) -> Result<Scored, StudyError> {
        let id = planned.id();
        let of = |scores: &[f64], rows: &[usize]| rows.iter().map(|&row| scores[row]).collect::<Vec<f64>>();
        let (fit_rows, verdict_rows) = (&self.allocation.attack_fit, &self.allocation.verdict);
        let (fit, verdict) = match planned {
            Planned::Score(attack) => {
                let scores = self.scores(*attack, subject);
                (of(&scores, fit_rows), of(&scores, verdict_rows))
            }
            Planned::Given(given) => (of(&given.scores, fit_rows), of(&given.scores, verdict_rows)),
            Planned::PerClass(attack, by) => self.per_class(subject, *attack, *by).map_err(|source| {
                StudyError::Curve { system: subject.system.name.clone(), attack: id.name.clone(), source }
            })?,
            Planned::Learned(learned) => self.learned(subject, learned).map_err(|what| StudyError::Learned {
                system: subject.system.name.clone(),
                attack: id.name.clone(),
                what,
            })?,
            Planned::FromShadow(learned, shadow) => self.by_shadow(subject, *learned, shadow).map_err(|what| {
                StudyError::Learned { system: subject.system.name.clone(), attack: id.name.clone(), what }
            })?,
        };
        // A row is judged by the threshold of its class: 0 once that is taken off. ML-Leaks' adversary has no target
        // rows to fix a threshold on: odds of 1.
        let at_zero = Some(FixedThreshold::at(0.0));
        let rule = match planned {
            Planned::PerClass(..) => at_zero,
            Planned::FromShadow(attack, _) => at_zero.filter(|_| attack.view == View::Top3),
            Planned::Given(given) => given.rule.as_ref().map(|rule| rule.threshold),
            Planned::Score(_) | Planned::Learned(_) => None,
        };
        Ok(Scored { id, fit, verdict, rule })
    }

    /// Scores of all rows of the target.
    pub(super) fn scores(&self, attack: Attack, subject: &Subject<'_>) -> Vec<f64> {
        attack.scores(subject.answers, self.target.labels(), subject.inversion)
    }

    /// Attack-fit rows in two halves, each holding every second row of either side: positions in the list.
    pub(super) fn halves(&self) -> [Vec<usize>; 2] {
        let n_members = self.fit_memberships.iter().filter(|&&member| member).count();
        let half = |odd: usize| {
            (0..self.fit_memberships.len())
                .filter(|&place| (if place < n_members { place } else { place - n_members }) % 2 == odd)
                .collect()
        };
        [half(0), half(1)]
    }

    fn per_class(
        &self,
        subject: &Subject<'_>,
        attack: Attack,
        by: ClassBy,
    ) -> Result<(Vec<f64>, Vec<f64>), crate::audit::roc::RocError> {
        let scores = self.scores(attack, subject);
        let classes = match by {
            ClassBy::True => self.target.labels(),
            ClassBy::Predicted => &subject.answers.predicted,
        };
        let fitted_on = |rows: &[usize]| {
            let scores: Vec<f64> = rows.iter().map(|&row| scores[row]).collect();
            let classes: Vec<u32> = rows.iter().map(|&row| classes[row]).collect();
            PerClass::fit(&scores, &self.allocation.memberships(rows), &classes, self.target.n_classes())
        };
        let mut fit = vec![0.0; self.fit_memberships.len()];
        let halves = self.halves();
        for (from, to) in [(0, 1), (1, 0)] {
            let rows: Vec<usize> = halves[from].iter().map(|&place| self.allocation.attack_fit[place]).collect();
            // Too few rows for two halves: a threshold is no classifier, so all rows do.
            let fitted = fitted_on(&rows).or_else(|_| fitted_on(&self.allocation.attack_fit))?;
            for &place in &halves[to] {
                let row = self.allocation.attack_fit[place];
                fit[place] = fitted.shifted(scores[row], classes[row]);
            }
        }
        let fitted = fitted_on(&self.allocation.attack_fit)?;
        let verdict = self.allocation.verdict.iter().map(|&row| fitted.shifted(scores[row], classes[row])).collect();
        Ok((fit, verdict))
    }

    /// Fitted on the shadow's rows, all of them: no row of the target is looked at.
    fn by_shadow(
        &self,
        subject: &Subject<'_>,
        attack: LearnedAttack,
        shadow: &LearnedFrom,
    ) -> Result<(Vec<f64>, Vec<f64>), String> {
        let everybody: Vec<usize> = (0..shadow.labels.len()).collect();
        let model = attack.fit(
            &Rows::of(&shadow.answers, &shadow.labels, &everybody),
            &shadow.memberships,
            self.settings.seed,
        )?;
        let scores = |rows: &[usize]| model.scores(&Rows::of(subject.answers, self.target.labels(), rows));
        Ok((scores(&self.allocation.attack_fit)?, scores(&self.allocation.verdict)?))
    }

    /// A model of each half of the attack-fit rows scores the other half; the verdict rows get the mean of both, so that
    /// the threshold that is chosen on the former belongs to the models that score the latter.
    fn learned(&self, subject: &Subject<'_>, learned: &LearnedAttack) -> Result<(Vec<f64>, Vec<f64>), String> {
        let labels = self.target.labels();
        let rows_of = |rows: &[usize]| Rows::of(subject.answers, labels, rows);
        let (fit_rows, verdict_rows) = (rows_of(&self.allocation.attack_fit), rows_of(&self.allocation.verdict));
        let (mut fit, mut verdict) = (vec![0.0; self.fit_memberships.len()], vec![0.0; self.allocation.verdict.len()]);
        let halves = self.halves();
        for (from, to) in [(0, 1), (1, 0)] {
            let memberships: Vec<bool> = halves[from].iter().map(|&place| self.fit_memberships[place]).collect();
            let model = learned.fit(&fit_rows.only(&halves[from]), &memberships, self.settings.seed)?;
            let scores = model.scores(&fit_rows.only(&halves[to]))?;
            halves[to].iter().zip(scores).for_each(|(&place, score)| fit[place] = score);
            verdict.iter_mut().zip(model.scores(&verdict_rows)?).for_each(|(mean, score)| *mean += score / 2.0);
        }
        Ok((fit, verdict))
    }
}
