//! Limits on what may leak and what a defence may cost, held against the intervals of a report.
//!
//! A limit is *held* where the whole interval is within it, *violated* where the whole interval is beyond it, and
//! *undecided* where the interval reaches over it, or where there is none: more rows could tell. The limits are the
//! writer's; no band of AUC or the like is built in. Where no attack counts (R16) because none finds anything on the model
//! itself, the widest interval over all of them is held against a limit: a model without a leak passes.

use serde::{Deserialize, Serialize};

use crate::audit::exact::clopper_pearson;
use crate::audit::interval::Interval;
use crate::audit::report::{AttackFindings, Findings, SystemFindings};
use crate::audit::system::Role;

/// A policy as it is written: TOML, unknown keys refused.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// Why the limits are as they are, and who set them; copied into the report.
    pub provenance: String,
    /// Names of the systems that are judged, as in the tables, or what a name begins with up to a colon (the name of
    /// a file of `--defence`); all that are served where none is named.
    pub systems: Vec<String>,
    /// Limits on the true-positive rate at a false-positive rate, of every attack that counts.
    pub tpr_at_fpr: Vec<TprLimit>,
    /// Limit on (b), the advantage of the headline's attack.
    pub max_advantage: Option<f64>,
    /// Limit on (b) minus the floor's.
    pub max_advantage_over_floor: Option<f64>,
    /// Limit on the calibration error of non-members.
    pub max_ece: Option<f64>,
    /// Limit on the accuracy on non-members that is lost against the undefended model.
    pub max_accuracy_loss: Option<f64>,
}

/// A limit on a true-positive rate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TprLimit {
    /// The false-positive rate, above 0 and at most 1.
    pub fpr: f64,
    /// The limit on the true-positive rate.
    pub max: f64,
}

/// Why a policy cannot be held against a report.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PolicyError {
    /// A value is out of its range.
    #[error("{key}: expected {expected}, got {got}")]
    Range {
        /// The key.
        key: &'static str,
        /// What was expected.
        expected: &'static str,
        /// What was given.
        got: f64,
    },
    /// It limits nothing.
    #[error(
        "expected a limit at least (tpr_at_fpr, max_advantage, max_advantage_over_floor, max_ece, max_accuracy_loss)"
    )]
    Empty,
    /// It names a system that was not audited.
    #[error("no system {name:?} was audited; there are: {there}")]
    NoSuchSystem {
        /// The name.
        name: String,
        /// The systems that there are.
        there: String,
    },
    /// Nothing that is served was audited.
    #[error("no served system was audited: name one under `systems`")]
    NothingServed,
}

/// How a limit stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stands {
    /// The whole interval is within it.
    Held,
    /// The whole interval is beyond it.
    Violated,
    /// These rows cannot tell.
    Undecided,
}

impl Stands {
    /// In words, for tables.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Violated => "VIOLATED",
            Self::Undecided => "undecided",
        }
    }
}

/// One limit on one system.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Judgement {
    /// The system.
    pub system: String,
    /// What is limited.
    pub quantity: String,
    /// The limit.
    pub limit: f64,
    /// The interval that was found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub found: Option<Interval>,
    /// How it stands.
    pub stands: Stands,
    /// By how much it is violated, or why it is undecided, in words; empty where it is held.
    pub why: String,
}

/// All limits of a policy.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verdict {
    /// The policy.
    pub policy: Policy,
    /// Violated if any limit is, else undecided if any is, else held.
    pub stands: Stands,
    /// Each limit on each system.
    pub judgements: Vec<Judgement>,
}

impl Policy {
    /// Checks ranges.
    ///
    /// # Errors
    /// [`PolicyError::Range`], [`PolicyError::Empty`].
    pub fn check(&self) -> Result<(), PolicyError> {
        let limits = [
            ("max_advantage", self.max_advantage),
            ("max_advantage_over_floor", self.max_advantage_over_floor),
            ("max_ece", self.max_ece),
            ("max_accuracy_loss", self.max_accuracy_loss),
        ];
        let rates = self.tpr_at_fpr.iter().map(|limit| ("tpr_at_fpr.max", limit.max));
        for (key, got) in limits.iter().filter_map(|(key, limit)| Some((*key, (*limit)?))).chain(rates) {
            if !(0.0..=1.0).contains(&got) {
                return Err(PolicyError::Range { key, expected: "a number from 0 to 1", got });
            }
        }
        if let Some(limit) = self.tpr_at_fpr.iter().find(|limit| !(limit.fpr > 0.0 && limit.fpr <= 1.0)) {
            let expected = "a rate above 0 and at most 1";
            return Err(PolicyError::Range { key: "tpr_at_fpr.fpr", expected, got: limit.fpr });
        }
        let is_empty = self.tpr_at_fpr.is_empty() && limits.iter().all(|(_, limit)| limit.is_none());
        if is_empty { Err(PolicyError::Empty) } else { Ok(()) }
    }

    /// Holds the policy against what was found. The study must have reported the TPR at the policy's rates.
    ///
    /// # Errors
    /// [`PolicyError`].
    pub fn judge(&self, findings: &Findings) -> Result<Verdict, PolicyError> {
        self.check()?;
        let mut judgements = Vec::new();
        for system in self.judged(findings)? {
            self.judge_system(system, findings, &mut judgements);
        }
        let any = |stands| judgements.iter().any(|one: &Judgement| one.stands == stands);
        let stands = if any(Stands::Violated) {
            Stands::Violated
        } else if any(Stands::Undecided) {
            Stands::Undecided
        } else {
            Stands::Held
        };
        Ok(Verdict { policy: self.clone(), stands, judgements })
    }

    fn judged<'a>(&self, findings: &'a Findings) -> Result<Vec<&'a SystemFindings>, PolicyError> {
        if self.systems.is_empty() {
            let served: Vec<_> = findings.systems.iter().filter(|system| system.role == Role::Served).collect();
            return if served.is_empty() { Err(PolicyError::NothingServed) } else { Ok(served) };
        }
        let is_named = |system: &&SystemFindings, name: &String| {
            system.name == *name || system.name.strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with(':'))
        };
        let mut judged = Vec::new();
        for name in &self.systems {
            let found = findings.systems.iter().find(|system| is_named(system, name));
            judged.push(found.ok_or_else(|| {
                let there: Vec<&str> = findings.systems.iter().map(|system| system.name.as_str()).collect();
                PolicyError::NoSuchSystem { name: name.clone(), there: there.join(", ") }
            })?);
        }
        Ok(judged)
    }

    fn judge_system(&self, system: &SystemFindings, findings: &Findings, into: &mut Vec<Judgement>) {
        let mut add = |quantity: String, limit: f64, found: Result<Interval, String>| {
            into.push(Judgement::new(system.name.clone(), quantity, limit, found));
        };
        for limit in &self.tpr_at_fpr {
            let rows = (findings.rows.verdict_members as u64, findings.settings.level);
            add(format!("TPR at {} % FPR", 100.0 * limit.fpr), limit.max, tpr(system, limit.fpr, rows));
        }
        let headline = system.headline.value.as_ref();
        let of_any = if headline.is_some() { "" } else { " of any attack, as none counts (R16)" };
        if let Some(limit) = self.max_advantage {
            let found = headline.map_or_else(
                || widest_of_all(system, |found| found.fixed.interval()),
                |headline| Ok(headline.fixed.interval()),
            );
            add(format!("advantage (b){of_any}"), limit, found);
        }
        if let Some(limit) = self.max_advantage_over_floor {
            let found = headline.map_or_else(
                || widest_of_all(system, |found| found.fixed_minus_floor.interval()),
                |headline| Ok(over_floor(headline.fixed_minus_floor.interval(), system, findings)),
            );
            add(format!("advantage over the floor{of_any}"), limit, found);
        }
        if let Some(limit) = self.max_ece {
            add("ECE".to_owned(), limit, Ok(system.utility.ece_interval));
        }
        if let Some(limit) = self.max_accuracy_loss {
            add("accuracy loss".to_owned(), limit, accuracy_loss(system, findings));
        }
    }
}

impl Judgement {
    fn new(system: String, quantity: String, limit: f64, found: Result<Interval, String>) -> Self {
        let (stands, why) = match &found {
            Ok(found) if found.high <= limit => (Stands::Held, String::new()),
            Ok(found) if found.low > limit => (Stands::Violated, format!("by {:.4} at least", found.low - limit)),
            Ok(_) => (Stands::Undecided, "the interval reaches over the limit: more rows could tell".to_owned()),
            Err(why) => (Stands::Undecided, why.clone()),
        };
        Self { system, quantity, limit, found: found.ok(), stands, why }
    }
}

/// The interval of the true-positive rate at a false-positive rate, the widest upward over the attacks that count. Its
/// lower end is that of the largest of so many exact ones at once (Bonferroni): what was picked among many is no violation
/// for having been picked.
fn tpr(system: &SystemFindings, fpr: f64, settings: (u64, f64)) -> Result<Interval, String> {
    let (n_members, level) = settings;
    let counted: Vec<&AttackFindings> = judged_attacks(system);
    let corrected = 1.0 - (1.0 - level) / counted.len().max(1) as f64;
    let mut all: Option<Interval> = None;
    for found in counted {
        let at = found.tpr_at_fpr.iter().find(|at| at.target_fpr == fpr);
        let at = at.and_then(|at| Some((at.tpr.value?, at.tpr_interval?)));
        let (tpr, interval) = at.ok_or("not resolvable with these rows")?;
        let hits = (tpr * n_members as f64).round() as u64;
        let low = clopper_pearson(hits.min(n_members), n_members, corrected).low;
        all = Some(all.map_or(Interval { low, high: interval.high }, |all| Interval {
            low: all.low.max(low),
            high: all.high.max(interval.high),
        }));
    }
    all.ok_or_else(|| "there is no attack".to_owned())
}

/// The attacks that count; where none does, all of them: an upper bound over those still holds for what this battery finds.
fn judged_attacks(system: &SystemFindings) -> Vec<&AttackFindings> {
    let counted: Vec<&AttackFindings> = system.attacks.iter().filter(|found| found.counts).collect();
    if counted.is_empty() { system.attacks.iter().collect() } else { counted }
}

/// What the headline's attack finds beyond the floor. Where it calls nobody otherwise than the floor's rule does, because it *is*
/// that rule or because the rows are few, its interval has no width and tells nothing of the attacks that were passed over.
/// Then it reaches up to the most that one of those may find, and to what so many rows without a difference leave open.
fn over_floor(found: Interval, system: &SystemFindings, findings: &Findings) -> Interval {
    if found.low < found.high || system.role == Role::Floor {
        return found;
    }
    let unseen = |n_rows: usize| clopper_pearson(0, n_rows as u64, findings.settings.level).high;
    let open = unseen(findings.rows.verdict_members) + unseen(findings.rows.verdict_non_members);
    let highs = judged_attacks(system).into_iter().map(|one| one.fixed_minus_floor.high);
    Interval { low: found.low, high: highs.fold(found.high.max(open), f64::max) }
}

/// What stands in for the headline where no attack counts: the widest interval over all attacks.
fn widest_of_all(system: &SystemFindings, of: fn(&AttackFindings) -> Interval) -> Result<Interval, String> {
    let all = system.attacks.iter().map(of).reduce(|a, b| Interval { low: a.low.min(b.low), high: a.high.max(b.high) });
    all.ok_or_else(|| "there is no attack".to_owned())
}

/// Accuracy on non-members that is lost against the undefended model. Where every label is kept it is 0; else the two
/// exact intervals are set against each other, which is wider than need be.
fn accuracy_loss(system: &SystemFindings, findings: &Findings) -> Result<Interval, String> {
    let undefended = findings.systems.iter().find(|system| system.role == Role::Undefended);
    let undefended = undefended.ok_or("there are no answers of the undefended model")?;
    if system.utility.label_agreement.value == Some(1.0) {
        return Ok(Interval { low: 0.0, high: 0.0 });
    }
    let (before, after) =
        (undefended.utility.accuracy_non_members_interval, system.utility.accuracy_non_members_interval);
    Ok(Interval { low: before.low - after.high, high: before.high - after.low })
}
