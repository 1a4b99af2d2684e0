//! The study: every system under every attack, on the same rows, against the floor.
//!
//! `battery` turns a system's answers into scores of the attack-fit and of the verdict rows, `measure` into one
//! attack's figures, `compare` into what stands against the null and the floor, `epsilon` into a lower bound on ε, `figures`
//! into what is drawn, `adversaries` into what ML-Leaks' three attain at their own rules.

mod adversaries;
mod battery;
mod compare;
mod epsilon;
mod figures;
mod measure;

use std::time::Duration;

use ndarray::Array2;

use crate::audit::answers::Answers;
use crate::audit::attack::{ATTACK_FLOOR, Attack, AttackId, Family};
use crate::audit::enough;
use crate::audit::invert::Inversion;
use crate::audit::lot::Lot;
use crate::audit::parallel;
use crate::audit::report::{BankFindings, Claim, Figure, Findings, NotAllowed, Reference, Settings};
use crate::audit::roc::{Roc, RocError};
use crate::audit::rows::Allocation;
use crate::audit::shadow::leave_one_out::LeaveOneOut;
use crate::audit::shadow::reach::ShadowModels;
use crate::audit::system::{Role, Skipped, System};
use crate::audit::target::Target;
use crate::audit::temperature::Temperature;
use crate::audit::utility;
use crate::defence::DefendError;

pub(in crate::audit) use adversaries::ODDS;
pub use battery::{BroughtRule, GivenScores, LearnedFrom, ShadowOf};
use measure::Measured;

/// Why a study stops.
#[derive(Debug, thiserror::Error)]
pub enum StudyError {
    /// A defence does not fit the target's scores.
    #[error("{system}: {source}")]
    Defence {
        /// Name of the system.
        system: String,
        /// What the defence said.
        source: DefendError,
    },
    /// The scores of an attack make no curve.
    #[error("{system}, {attack} attack: {source}")]
    Curve {
        /// Name of the system.
        system: String,
        /// Name of the attack.
        attack: String,
        /// What is wrong with the scores.
        source: RocError,
    },
    /// An attack could not be learned.
    #[error("{system}, {attack} attack: {what}")]
    Learned {
        /// Name of the system.
        system: String,
        /// Name of the attack.
        attack: String,
        /// What went wrong.
        what: String,
    },
    /// Scores that were made elsewhere are not of the target's rows.
    #[error("{system}, {attack} attack: {got} scores were given, the target has {expected} rows")]
    Given {
        /// Name of the system.
        system: String,
        /// Name of the attack.
        attack: String,
        /// Rows of the target.
        expected: usize,
        /// Scores given.
        got: usize,
    },
    /// Without an undefended and a label-only system there is nothing to compare with.
    #[error("a study needs the system {missing:?}")]
    Missing {
        /// The system that is not there.
        missing: &'static str,
    },
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            seed: 1,
            n_permutations: 1_000,
            n_resamples: 1_000,
            level: enough::LEVEL,
            margin: 0.05,
            fpr_targets: vec![0.01, 0.001, 0.0001],
            overhead_passes: 11,
            nll_floor: utility::PROBABILITY_FLOOR,
            attack_floor: ATTACK_FLOOR,
            priors: vec![0.01, 0.1, 0.5],
            delta: 0.0,
            per_class: true,
            learned: true,
        }
    }
}

/// What an attacker or the owner of the model brings to a study beside the answers.
#[derive(Default)]
pub struct Knowledge {
    /// Scores of attacks that were run elsewhere (shadow models, further questions).
    pub given: Vec<GivenScores>,
    /// Answers of shadow rows that the learned attacks are trained on, one entry a system; the others learn on
    /// the attack-fit rows.
    pub learned_from: Vec<LearnedFrom>,
    /// What the run record claims about the model.
    pub claim: Option<Claim>,
    /// Whether the two sides differ without any model, or why that could not be told; none where there are no inputs.
    pub lot: Option<Result<Lot, String>>,
    /// A bank of shadow models, each taken as the target in turn: one entry for each system that was tried.
    pub leave_one_out: Vec<(String, LeaveOneOut)>,
    /// What that bank could tell, and what it was too little for.
    pub shadow_models: Option<ShadowModels>,
}

/// What a study found, and for each row what was seen of it.
pub struct Outcome {
    /// The report's part.
    pub findings: Findings,
    /// One entry for each system of the findings, in their order.
    pub records: Vec<SystemRecords>,
    /// For each row of the target whether it is a verdict row.
    pub is_verdict: Vec<bool>,
}

/// What one system showed of each row of the target.
pub struct SystemRecords {
    /// Name of the system.
    pub system: String,
    /// Its label of each row.
    pub predicted: Vec<u32>,
    /// Scaled logit of the true label of each row.
    pub scaled_logit: Vec<f64>,
    /// The headline's attack.
    pub attack: Option<AttackId>,
    /// Its score of each verdict row.
    pub score: Vec<Option<f64>>,
    /// Whether its fixed rule calls the row a member: verdict rows alone.
    pub called_member: Vec<Option<bool>>,
}

/// The rows of a study, in the forms in which its steps need them.
struct Bench<'a> {
    target: &'a Target,
    knowledge: &'a Knowledge,
    has_undefended: bool,
    /// Some system's answers are read back: to recover a loss is no attack where nothing was changed.
    undoes: bool,
    /// Some system's answers may be read back in two ways.
    two_roots: bool,
    settings: &'a Settings,
    allocation: Allocation,
    fit_memberships: Vec<bool>,
    verdict_memberships: Vec<bool>,
    verdict_members: Vec<usize>,
    verdict_non_members: Vec<usize>,
}

/// [`run_with`] without anything but the answers.
///
/// # Errors
/// [`StudyError`].
pub fn run(
    target: &Target,
    systems: &[System],
    skipped: Vec<Skipped>,
    settings: &Settings,
) -> Result<Findings, StudyError> {
    Ok(run_with(target, systems, skipped, settings, &Knowledge::default(), &mut |_, _| {})?.findings)
}

/// Attacks `systems` on `target`. `systems` must hold a label-only one, and one that is undefended or served: the
/// first such, the undefended before the served, is the reference of R16. A temperature-scaled one is left out, with
/// its reason, where the target has no calibration rows.
///
/// `progress` is told the name of each system before it is attacked and how many are done. The same seed, systems
/// and scores give the same findings (the overhead, which is time, excepted).
///
/// # Errors
/// [`StudyError`].
pub fn run_with(
    target: &Target,
    systems: &[System],
    mut skipped: Vec<Skipped>,
    settings: &Settings,
    knowledge: &Knowledge,
    progress: &mut dyn FnMut(&str, usize),
) -> Result<Outcome, StudyError> {
    let reference = reference(systems)?;
    let (calibration_logits, calibration_labels) = target.calibration();
    let temperature = Temperature::fit(calibration_logits, calibration_labels);
    let inversions: Vec<Inversion> = systems.iter().map(|system| system.inversion(temperature.as_ref())).collect();
    let bench = Bench {
        undoes: inversions.iter().any(|inversion| !inversion.is_as_is()),
        two_roots: inversions.iter().any(Inversion::has_two_roots),
        ..Bench::new(target, settings, knowledge, reference.role() == Role::Undefended)
    };
    bench.check_given()?;
    let logits = target.logits();
    let reference_answers = bench.answer(reference, &logits, temperature.as_ref())?;
    let reference_answers = reference_answers.ok_or(StudyError::Missing { missing: "undefended" })?;

    let mut measured: Vec<(&System, Measured)> = Vec::with_capacity(systems.len());
    for (n_done, system) in systems.iter().enumerate() {
        progress(&system.name, n_done);
        match bench.answer(system, &logits, temperature.as_ref())? {
            None => skipped.push(Skipped { name: system.name.clone(), reason: NO_CALIBRATION.to_owned() }),
            Some(answers) => {
                let overhead = bench.overhead(system, &logits, temperature.as_ref())?;
                let inversion = system.inversion(temperature.as_ref());
                let one = bench.measure(system, answers, &inversion, &reference_answers, overhead)?;
                measured.push((system, one));
            }
        }
    }
    progress("comparisons", systems.len());
    let validity = compare::validity(&bench, &measured)?;
    let systems = compare::compare(&bench, &measured, &validity, temperature.as_ref())?;
    let records = figures::records(&bench, &measured, &systems);
    let is_verdict = bench.marks(&bench.allocation.verdict);
    let (n_judged, n_others) = (bench.verdict_members.len(), bench.verdict_non_members.len());
    let differs = knowledge.lot.iter().flatten().filter(|lot| lot.differs).map(Lot::words);
    let coarse = enough::coarse(n_judged, n_others, settings.level);
    let ml_leaks = adversaries::adversaries(&systems, knowledge, settings.level);
    let findings = Findings {
        settings: settings.clone(),
        n_members: target.n_members(),
        n_non_members: target.n_rows() - target.n_members(),
        n_classes: target.n_classes(),
        allows: target.allows(),
        not_allowed: bench.not_allowed(),
        reference: Reference { system: reference.name.clone(), is_undefended: bench.has_undefended },
        rows: bench.allocation.record(target.dataset_rows()),
        temperature: Figure::or(temperature, bench.no_rival()),
        validity,
        systems,
        skipped,
        before_and_after: measured.into_iter().map(|(_, one)| one.before_after).collect(),
        resolvable_advantage: enough::resolvable_advantage(n_judged, n_others, settings.level),
        warnings: differs.chain(coarse).collect(),
        lot: match &knowledge.lot {
            None => Figure::missing("the inputs were not looked at"),
            Some(Err(reason)) => Figure::missing(reason.clone()),
            Some(Ok(lot)) => Figure::known(lot.clone()),
        },
        leave_one_out: knowledge.leave_one_out.iter().map(BankFindings::of).collect(),
        shadow_models: knowledge.shadow_models.clone(),
        ml_leaks,
    };
    Ok(Outcome { findings, records, is_verdict })
}

/// The exact curves of some score attacks over all rows, one threshold for all, handed to `take` in the order of
/// `attacks`: what needs no study. The attacks share the machine's cores, and the largest part of a curve's cost is
/// its sort.
///
/// # Errors
/// [`StudyError::Curve`].
pub fn score_curves(
    answers: &Answers,
    labels: &[u32],
    memberships: &[bool],
    inversion: &Inversion,
    attacks: &[Attack],
    mut take: impl FnMut(Attack, Roc),
) -> Result<(), StudyError> {
    let curves = parallel::map(attacks.len(), |index| {
        let scores = attacks[index].scores(answers, labels, inversion);
        Roc::new(&scores, memberships)
    });
    for (&attack, curve) in attacks.iter().zip(curves) {
        let named = |source| StudyError::Curve { system: String::new(), attack: attack.name().to_owned(), source };
        take(attack, curve.map_err(named)?);
    }
    Ok(())
}

const NO_UNDEFENDED: &str = "there are no answers of the undefended model";
const NO_SCORES_TO_SCALE: &str = "there are no scores of the undefended model to fit a temperature on";
const NO_CALIBRATION: &str = "the split has no calibration rows to fit a temperature on";

/// The system on which it is told which attacks count (R16).
fn reference(systems: &[System]) -> Result<&System, StudyError> {
    let of = |role| systems.iter().find(|system| system.role() == role);
    of(Role::Undefended).or_else(|| of(Role::Served)).ok_or(StudyError::Missing { missing: "undefended" })
}

impl<'a> Bench<'a> {
    fn new(target: &'a Target, settings: &'a Settings, knowledge: &'a Knowledge, has_undefended: bool) -> Self {
        let (n_members, n_rows) = (target.n_members(), target.n_rows());
        let allocation = Allocation::deal(n_members, n_rows - n_members, settings.seed);
        let split = allocation.verdict.partition_point(|&row| row < n_members);
        Self {
            target,
            settings,
            knowledge,
            has_undefended,
            undoes: false,
            two_roots: false,
            fit_memberships: allocation.memberships(&allocation.attack_fit),
            verdict_memberships: allocation.memberships(&allocation.verdict),
            verdict_members: allocation.verdict[..split].to_vec(),
            verdict_non_members: allocation.verdict[split..].to_vec(),
            allocation,
        }
    }

    /// Attacks that are left out, and what they lack.
    fn not_allowed(&self) -> Vec<NotAllowed> {
        let allows = self.target.allows();
        let lacking =
            |attack: Attack| allows.lacks(&attack.needs()).map(|lacks| NotAllowed { attack: attack.into(), lacks });
        let learned = self.lacks_for_learning().filter(|_| self.settings.learned);
        let learned =
            learned.map(|lacks| NotAllowed { attack: AttackId::new(Family::Learned, "learned attacks"), lacks });
        Attack::ALL.into_iter().filter_map(lacking).chain(learned).collect()
    }

    /// Why there is no temperature, where there is none.
    fn no_rival(&self) -> &'static str {
        if self.target.allows().logits { NO_CALIBRATION } else { NO_SCORES_TO_SCALE }
    }

    fn check_given(&self) -> Result<(), StudyError> {
        let expected = self.target.n_rows();
        match self.knowledge.given.iter().find(|given| given.scores.len() != expected) {
            None => Ok(()),
            Some(given) => Err(StudyError::Given {
                system: given.system.clone(),
                attack: given.attack.name.clone(),
                expected,
                got: given.scores.len(),
            }),
        }
    }

    fn answer(
        &self,
        system: &System,
        logits: &Array2<f32>,
        temperature: Option<&Temperature>,
    ) -> Result<Option<Answers>, StudyError> {
        let named = |source| StudyError::Defence { system: system.name.clone(), source };
        system.answer(self.target, logits, temperature).map_err(named)
    }

    fn overhead(
        &self,
        system: &System,
        logits: &Array2<f32>,
        temperature: Option<&Temperature>,
    ) -> Result<Option<Duration>, StudyError> {
        let named = |source| StudyError::Defence { system: system.name.clone(), source };
        system.overhead(self.target, logits, temperature, self.settings.overhead_passes).map_err(named)
    }

    /// For each row of the target whether it is among `rows`.
    fn marks(&self, rows: &[usize]) -> Vec<bool> {
        let mut marks = vec![false; self.target.n_rows()];
        rows.iter().for_each(|&row| marks[row] = true);
        marks
    }
}
