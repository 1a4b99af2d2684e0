//! The study: every system under every attack, on the same rows, against the floor.

use std::time::Duration;

use ndarray::Array2;

use crate::audit::answers::Answers;
use crate::audit::attack::{ATTACK_FLOOR, Attack};
use crate::audit::fixed::{FixedThreshold, signed_advantage};
use crate::audit::interval::{Bootstrap, BootstrapDraws, Estimate, Placements, RowValues};
use crate::audit::invert::Inversion;
use crate::audit::null::{NullDraws, Permutations};
use crate::audit::report::{
    AttackFindings, BeforeAfter, Figure, Findings, Headline, Leak, NotAllowed, Reference, Settings, Standing,
    SystemFindings, TprAt, Utility, Validity,
};
use crate::audit::roc::{Ranking, Roc, RocError, TprAtFpr};
use crate::audit::rows::Allocation;
use crate::audit::system::{Role, Skipped, System};
use crate::audit::target::Target;
use crate::audit::temperature::Temperature;
use crate::audit::utility;
use crate::defence::DefendError;

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
        attack: &'static str,
        /// What is wrong with the scores.
        source: RocError,
    },
    /// Without an undefended and a label-only system there is nothing to compare with.
    #[error("a study needs the system {missing:?}")]
    Missing {
        /// The system that is not there.
        missing: &'static str,
    },
}

/// What is done, beside which systems.
impl Default for Settings {
    fn default() -> Self {
        Self {
            seed: 1,
            n_permutations: 1_000,
            n_resamples: 1_000,
            level: 0.95,
            margin: 0.05,
            fpr_targets: vec![0.01, 0.001],
            overhead_passes: 11,
            nll_floor: utility::PROBABILITY_FLOOR,
            attack_floor: ATTACK_FLOOR,
        }
    }
}

/// One attack on one system, before the comparisons.
struct Attacked {
    /// Curve of the attack-fit rows: R16 asks the undefended system's, the headline every system's own.
    fit: FitCurve,
    /// Order of the verdict rows.
    ranking: Ranking,
    roc: Roc,
    placements: Placements,
    /// The fixed rule's calls on the verdict rows.
    says_member: Vec<bool>,
    fixed: Estimate,
}

/// One attack on one system on the attack-fit rows.
struct FitCurve {
    ranking: Ranking,
    auc: Estimate,
    widest: f64,
}

/// One system, before the comparisons.
struct Measured {
    utility: Utility,
    nll_of_rows: Vec<f64>,
    attacks: Vec<Attacked>,
    before_after: BeforeAfter,
}

/// The rows of a study, in the forms in which its steps need them.
struct Bench<'a> {
    target: &'a Target,
    /// The attacks that the answers allow.
    battery: Vec<Attack>,
    has_undefended: bool,
    settings: &'a Settings,
    allocation: Allocation,
    fit_memberships: Vec<bool>,
    verdict_memberships: Vec<bool>,
    verdict_members: Vec<usize>,
    verdict_non_members: Vec<usize>,
}

/// Attacks `systems` on `target`. `systems` must hold a label-only one, and one that is undefended or served: the
/// first such, the undefended before the served, is the reference of R16. A temperature-scaled one is left out, with
/// its reason, where the target has no calibration rows.
///
/// The same seed, systems and scores give the same findings (the overhead, which is time, excepted).
///
/// # Errors
/// [`StudyError`].
pub fn run(
    target: &Target,
    systems: &[System],
    mut skipped: Vec<Skipped>,
    settings: &Settings,
) -> Result<Findings, StudyError> {
    let reference = reference(systems)?;
    let bench = Bench::new(target, settings, reference.role() == Role::Undefended);
    let (calibration_logits, calibration_labels) = target.calibration();
    let temperature = Temperature::fit(calibration_logits, calibration_labels);
    let logits = target.logits();
    let reference_answers = bench.answer(reference, &logits, temperature.as_ref())?;
    let reference_answers = reference_answers.ok_or(StudyError::Missing { missing: "undefended" })?;

    let mut measured: Vec<(&System, Measured)> = Vec::with_capacity(systems.len());
    for system in systems {
        match bench.answer(system, &logits, temperature.as_ref())? {
            None => skipped.push(Skipped { name: system.name.clone(), reason: NO_CALIBRATION.to_owned() }),
            Some(answers) => {
                let overhead = system.overhead(target, &logits, temperature.as_ref(), settings.overhead_passes);
                let overhead =
                    overhead.map_err(|source| StudyError::Defence { system: system.name.clone(), source })?;
                let inversion = system.inversion(temperature.as_ref());
                let one = bench.measure(system, &answers, &inversion, &reference_answers, overhead)?;
                measured.push((system, one));
            }
        }
    }
    let validity = validity(&bench, &measured)?;
    let systems = compare(&bench, &measured, &validity, temperature.as_ref())?;
    Ok(Findings {
        settings: settings.clone(),
        n_members: target.n_members(),
        n_non_members: target.n_rows() - target.n_members(),
        n_classes: target.n_classes(),
        allows: target.allows(),
        not_allowed: not_allowed(target),
        reference: Reference { system: reference.name.clone(), is_undefended: bench.has_undefended },
        rows: bench.allocation.record(target.dataset_rows()),
        temperature: Figure::or(temperature, NO_CALIBRATION),
        validity,
        systems,
        skipped,
        before_and_after: measured.into_iter().map(|(_, one)| one.before_after).collect(),
    })
}

const NO_UNDEFENDED: &str = "there are no answers of the undefended model";
const NO_CALIBRATION: &str = "the split has no calibration rows to fit a temperature on";

/// The system on which it is told which attacks count (R16).
fn reference(systems: &[System]) -> Result<&System, StudyError> {
    let of = |role| systems.iter().find(|system| system.role() == role);
    of(Role::Undefended).or_else(|| of(Role::Served)).ok_or(StudyError::Missing { missing: "undefended" })
}

fn not_allowed(target: &Target) -> Vec<NotAllowed> {
    let lacking = |attack: Attack| target.allows().lacks(&attack.needs()).map(|lacks| NotAllowed { attack, lacks });
    Attack::ALL.into_iter().filter_map(lacking).collect()
}

fn position(measured: &[(&System, Measured)], name: &'static str, role: Role) -> Result<usize, StudyError> {
    measured.iter().position(|(system, _)| system.role() == role).ok_or(StudyError::Missing { missing: name })
}

impl<'a> Bench<'a> {
    fn new(target: &'a Target, settings: &'a Settings, has_undefended: bool) -> Self {
        let (n_members, n_rows) = (target.n_members(), target.n_rows());
        let allocation = Allocation::deal(n_members, n_rows - n_members, settings.seed);
        let split = allocation.verdict.partition_point(|&row| row < n_members);
        let allowed = |attack: &Attack| target.allows().lacks(&attack.needs()).is_none();
        Self {
            target,
            settings,
            has_undefended,
            battery: Attack::ALL.into_iter().filter(allowed).collect(),
            fit_memberships: allocation.memberships(&allocation.attack_fit),
            verdict_memberships: allocation.memberships(&allocation.verdict),
            verdict_members: allocation.verdict[..split].to_vec(),
            verdict_non_members: allocation.verdict[split..].to_vec(),
            allocation,
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

    fn measure(
        &self,
        system: &System,
        answers: &Answers,
        inversion: &Inversion,
        reference: &Answers,
        overhead: Option<Duration>,
    ) -> Result<Measured, StudyError> {
        let mut attacks = Vec::with_capacity(self.battery.len());
        let mut loss_on_all = None;
        for &attack in &self.battery {
            let named = |source| StudyError::Curve { system: system.name.clone(), attack: attack.name(), source };
            let scores = self.scores(attack, answers, inversion);
            attacks.push(self.attack(&scores).map_err(named)?);
            // Without scores the loss of a label is whether it is right.
            if attack == Attack::Loss || attack == Attack::Correctness && loss_on_all.is_none() {
                let everybody: Vec<usize> = (0..self.target.n_rows()).collect();
                loss_on_all = Some(Roc::new(&scores, &self.allocation.memberships(&everybody)).map_err(named)?);
            }
        }
        let labels = self.target.labels();
        let (nll_of_rows, n_floored) = utility::negative_log_likelihoods(answers, labels, &self.verdict_non_members);
        // Neither side of the verdict rows is ever empty: a target has two rows of each at least.
        let accuracy = |rows: &[usize]| utility::accuracy(answers, labels, rows).unwrap_or_default();
        let utility = Utility {
            accuracy_members: accuracy(&self.verdict_members),
            accuracy_non_members: accuracy(&self.verdict_non_members),
            nll: nll_of_rows.iter().sum::<f64>() / nll_of_rows.len() as f64,
            n_floored,
            nll_minus_rival: Figure::missing(NO_CALIBRATION),
            ece: utility::expected_calibration_error(answers, labels, &self.verdict_non_members).unwrap_or_default(),
            label_agreement: match self.has_undefended {
                true => Figure::or(utility::label_agreement(answers, reference), "no rows"),
                false => Figure::missing(NO_UNDEFENDED),
            },
        };
        let loss_on_all = loss_on_all.ok_or(StudyError::Missing { missing: "loss attack" })?;
        let before_after = self.before_after(system, answers, &loss_on_all, overhead);
        Ok(Measured { utility, nll_of_rows, attacks, before_after })
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

    fn scores(&self, attack: Attack, answers: &Answers, inversion: &Inversion) -> Vec<f64> {
        let rows = answers.probabilities.rows().into_iter();
        rows.zip(&answers.predicted)
            .zip(self.target.labels())
            .map(|((row, &predicted), &label)| attack.score(row, predicted, label, inversion))
            .collect()
    }

    fn attack(&self, scores: &[f64]) -> Result<Attacked, RocError> {
        let of = |rows: &[usize]| rows.iter().map(|&row| scores[row]).collect::<Vec<f64>>();
        let (fit, verdict) = (of(&self.allocation.attack_fit), of(&self.allocation.verdict));
        let rule = FixedThreshold::fit(&fit, &self.fit_memberships)?;
        let fit_ranking = Ranking::new(&fit)?;
        let fit = FitCurve {
            auc: Placements::new(&fit_ranking, &self.fit_memberships)?.auc(self.settings.level),
            widest: Roc::from_ranking(&fit_ranking, &self.fit_memberships)?.two_sided_advantage(),
            ranking: fit_ranking,
        };
        let ranking = Ranking::new(&verdict)?;
        let says_member: Vec<bool> = verdict.iter().map(|&score| rule.says_member(score)).collect();
        Ok(Attacked {
            fit,
            roc: Roc::from_ranking(&ranking, &self.verdict_memberships)?,
            placements: Placements::new(&ranking, &self.verdict_memberships)?,
            ranking,
            fixed: signed_advantage(&says_member, &self.verdict_memberships, self.settings.level),
            says_member,
        })
    }

    /// The calls of one rule minus those of another, a value per verdict row.
    fn call_differences(&self, says: &[bool], floor_says: &[bool]) -> RowValues {
        let difference = |row: usize| f32::from(i8::from(says[row]) - i8::from(floor_says[row]));
        let n_members = self.verdict_members.len();
        RowValues {
            members: (0..n_members).map(difference).collect(),
            non_members: (n_members..says.len()).map(difference).collect(),
        }
    }
}

/// R16, on the undefended system's attack-fit rows: the AUC is not one half, in either direction, and (a) is none
/// that the null would give. Both without a stated size, so that a weak leak on many rows is a leak.
fn validity(bench: &Bench<'_>, measured: &[(&System, Measured)]) -> Result<Vec<Validity>, StudyError> {
    let reference = position(measured, "undefended", Role::Undefended)
        .or_else(|missing| position(measured, "undefended", Role::Served).map_err(|_| missing))?;
    let fits: Vec<&FitCurve> = measured[reference].1.attacks.iter().map(|attacked| &attacked.fit).collect();
    let rankings: Vec<&Ranking> = fits.iter().map(|fit| &fit.ranking).collect();
    let permutations = Permutations { n: bench.settings.n_permutations, seed: bench.settings.seed };
    let n_members = bench.fit_memberships.iter().filter(|&&member| member).count();
    let draws = permutations.draw(&rankings, n_members);
    let judge = |(index, attack)| {
        let fit: &FitCurve = fits[index];
        let null = draws.of_maximum(&[index], fit.widest);
        let beyond_null = null.is_none_or(|null| fit.widest > null.q95);
        Validity {
            attack,
            auc_undefended: fit.auc,
            widest_undefended: fit.widest,
            widest_null: Figure::or(null, NO_PERMUTATIONS),
            counts: beyond_null && !fit.auc.interval().covers(0.5),
        }
    };
    Ok(bench.battery.iter().copied().enumerate().map(judge).collect())
}

/// The label-only floor (R14): the strongest attack that counts on label-only answers. The correctness attack
/// stands in where none counts: the label tells the gap whether or not an attack counts.
struct Floor {
    system: usize,
    attack: usize,
}

impl Floor {
    fn find(measured: &[(&System, Measured)], validity: &[Validity]) -> Result<Self, StudyError> {
        let system = position(measured, "label-only", Role::Floor)?;
        let is_correctness = |validity: &Validity| validity.attack == Attack::Correctness;
        let correctness = validity.iter().position(is_correctness).unwrap_or_default();
        let on_fit = |attack: usize| measured[system].1.attacks[attack].fit.widest;
        // Among equals the correctness attack: it is the floor's plainest reading.
        let counted = (0..validity.len()).filter(|&attack| validity[attack].counts);
        let attack = counted.fold(correctness, |best, one| if on_fit(one) > on_fit(best) { one } else { best });
        Ok(Self { system, attack })
    }
}

fn compare(
    bench: &Bench<'_>,
    measured: &[(&System, Measured)],
    validity: &[Validity],
    temperature: Option<&Temperature>,
) -> Result<Vec<SystemFindings>, StudyError> {
    let settings = bench.settings;
    let floor = Floor::find(measured, validity)?;
    let floor_attack = &measured[floor.system].1.attacks[floor.attack];
    let rankings: Vec<&Ranking> =
        measured.iter().flat_map(|(_, one)| one.attacks.iter().map(|attacked| &attacked.ranking)).collect();
    let permutations = Permutations { n: settings.n_permutations, seed: settings.seed };
    let null = permutations.draw(&rankings, bench.verdict_members.len());

    let rival = measured.iter().position(|(system, _)| system.role() == Role::Rival);
    let mut quantities: Vec<RowValues> = measured
        .iter()
        .flat_map(|(_, one)| one.attacks.iter())
        .map(|attacked| bench.call_differences(&attacked.says_member, &floor_attack.says_member))
        .collect();
    if let Some(rival) = rival {
        let rival = &measured[rival].1.nll_of_rows;
        quantities.extend(measured.iter().map(|(_, one)| RowValues {
            members: Vec::new(),
            // Minus a mean over non-members: rival − system gives system − rival.
            non_members: rival.iter().zip(&one.nll_of_rows).map(|(rival, own)| (rival - own) as f32).collect(),
        }));
    }
    let draws = Bootstrap { n_resamples: settings.n_resamples, seed: settings.seed }.draw(&quantities);
    let first_nll = measured.len() * bench.battery.len();

    let comparison = Comparison { bench, validity, floor: &floor_attack.placements, null: &null, draws: &draws };
    let found = measured.iter().enumerate().map(|(index, (system, one))| {
        let attacks = comparison.attacks(index, one);
        let headline = comparison.headline(index, &attacks);
        let mut utility = one.utility.clone();
        if rival.is_some() {
            utility.nll_minus_rival = Figure::known(draws.estimate(first_nll + index, settings.level));
        }
        let mut flags = flags(system, &utility, &attacks, headline.value.as_ref());
        if system.role() == Role::Rival {
            flags.extend(rival_flags(temperature, bench.target.n_classes()));
        }
        let defence = system.config().cloned();
        SystemFindings { name: system.name.clone(), role: system.role(), defence, utility, attacks, headline, flags }
    });
    Ok(found.collect())
}

/// What every system is compared with.
struct Comparison<'a> {
    bench: &'a Bench<'a>,
    validity: &'a [Validity],
    floor: &'a Placements,
    null: &'a NullDraws,
    draws: &'a BootstrapDraws,
}

const NO_PERMUTATIONS: &str = "no permutations were asked for";

impl Comparison<'_> {
    fn attacks(&self, system: usize, one: &Measured) -> Vec<AttackFindings> {
        let settings = self.bench.settings;
        let each = one.attacks.iter().zip(self.validity).enumerate();
        each.map(|(index, (attacked, validity))| {
            let column = system * self.bench.battery.len() + index;
            let widest = attacked.roc.two_sided_advantage();
            let null = self.null.of_maximum(&[column], widest);
            AttackFindings {
                attack: validity.attack,
                counts: validity.counts,
                widest_on_fit: attacked.fit.widest,
                auc: attacked.placements.auc(settings.level),
                widest,
                widest_null: Figure::or(null, NO_PERMUTATIONS),
                fixed: attacked.fixed,
                fixed_minus_floor: self.draws.estimate(column, settings.level),
                auc_minus_floor: attacked.placements.auc_minus(self.floor, settings.level),
                tpr_at_fpr: settings.fpr_targets.iter().map(|&target| tpr_at(&attacked.roc, target)).collect(),
            }
        })
        .collect()
    }

    fn headline(&self, system: usize, attacks: &[AttackFindings]) -> Figure<Headline> {
        let counted: Vec<usize> = (0..attacks.len()).filter(|&attack| attacks[attack].counts).collect();
        // The first of equals, in the order of the battery.
        let largest = |of: fn(&AttackFindings) -> f64| {
            counted
                .iter()
                .copied()
                .reduce(|best, next| if of(&attacks[next]) > of(&attacks[best]) { next } else { best })
        };
        let (Some(widest), Some(fixed)) = (largest(|a| a.widest), largest(|a| a.widest_on_fit)) else {
            return Figure::missing("no attack works on the undefended model: this battery cannot tell (R16)");
        };
        let settings = self.bench.settings;
        let columns: Vec<usize> = counted.iter().map(|attack| system * self.bench.battery.len() + attack).collect();
        let null = self.null.of_maximum(&columns, attacks[widest].widest);
        let difference = attacks[fixed].fixed_minus_floor;
        let only_labels = counted.iter().all(|&attack| attacks[attack].attack == Attack::Correctness);
        let seen = null.as_ref().map(|null| (attacks[widest].widest <= null.q95, null.q95));
        Figure::known(Headline {
            widest_attack: attacks[widest].attack,
            widest: attacks[widest].widest,
            leak: Leak::of(&attacks[fixed].fixed, seen, settings.margin),
            widest_null: Figure::or(null, NO_PERMUTATIONS),
            fixed_attack: attacks[fixed].attack,
            fixed: attacks[fixed].fixed,
            fixed_minus_floor: difference,
            standing: if only_labels { Standing::CannotTell } else { Standing::of(&difference, settings.margin) },
        })
    }
}

fn tpr_at(roc: &Roc, target_fpr: f64) -> TprAt {
    match roc.tpr_at_fpr(target_fpr) {
        TprAtFpr::Resolved { tpr, attained_fpr } => {
            TprAt { target_fpr, tpr: Figure::known(tpr), attained_fpr: Some(attained_fpr) }
        }
        TprAtFpr::NotResolvable { n_non_members } => TprAt {
            target_fpr,
            tpr: Figure::missing(format!("not resolvable: {n_non_members} non-members resolve 1/{n_non_members}")),
            attained_fpr: None,
        },
    }
}

fn flags(system: &System, utility: &Utility, attacks: &[AttackFindings], headline: Option<&Headline>) -> Vec<String> {
    let mut flags = Vec::new();
    if headline.is_some_and(|headline| headline.standing == Standing::BelowFloor) {
        flags.push(
            "the headline is below the label-only floor: the label is in the answer all the same, so an attacker who \
             reads it alone does better than these attacks did. A weakness of the attacks on this system, not a \
             protection by it"
                .to_owned(),
        );
    }
    let loss = attacks.iter().find(|found| found.attack == Attack::Loss && found.counts);
    if loss.is_some_and(|loss| loss.fixed_minus_floor.high < 0.0) {
        flags.push(
            "the loss attack alone is below the label-only floor on these rows: reading whether the label is right \
             tells more than its threshold did"
                .to_owned(),
        );
    }
    if loss.is_some_and(|loss| loss.auc_minus_floor.high < 0.0) {
        flags.push(
            "the loss attack's AUC is below that of label-only answers: an order by this loss is a worse attack than \
             reading whether the label is right, which every answer allows"
                .to_owned(),
        );
    }
    if utility.label_agreement.value.is_some_and(|share| share < 1.0) {
        flags.push("some labels are not the undefended model's: R1 is broken".to_owned());
    }
    if utility.n_floored > 0 && system.role() != Role::Floor {
        flags.push(format!(
            "{} non-members have less than 1e-12 for their true class: the NLL depends on where it is floored",
            utility.n_floored
        ));
    }
    flags
}

/// What must be said about the rival of R15.
fn rival_flags(temperature: Option<&Temperature>, n_classes: usize) -> Vec<String> {
    let mut flags = Vec::new();
    if temperature.is_some_and(|fitted| fitted.at_bound) {
        flags.push("the temperature is the end of the range that was searched, and no optimum".to_owned());
    }
    let few = temperature.filter(|fitted| fitted.n_rows < ROWS_PER_CLASS * n_classes);
    flags.extend(few.map(|fitted| {
        format!(
            "the temperature was fitted on {} rows, fewer than {ROWS_PER_CLASS} for each of {n_classes} classes: NLL and \
             ECE against it are rough",
            fitted.n_rows
        )
    }));
    flags
}

/// Calibration rows for each class below which the rival's temperature is flagged.
const ROWS_PER_CLASS: usize = 10;
