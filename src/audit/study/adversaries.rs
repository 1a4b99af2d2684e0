//! ML-Leaks' three adversaries, each at the rule that it brings itself: no row of the target was looked at to fix it.

use crate::audit::exact::clopper_pearson;
use crate::audit::interval::Estimate;
use crate::audit::report::{AdversaryFindings, AttackFindings, Figure, SystemFindings};

use super::Knowledge;

/// The rule of adversaries 1 and 2.
pub(in crate::audit) const ODDS: &str = "odds of membership above 1, as the shadow tells them";

/// What each adversary that was tried reached on each system, adversary by adversary.
pub(super) fn adversaries(systems: &[SystemFindings], knowledge: &Knowledge, level: f64) -> Vec<AdversaryFindings> {
    let of_system = |system: &SystemFindings| {
        let each = system.attacks.iter().filter_map(|found| Some((found.attack.adversary()?, found)));
        each.map(|(adversary, found)| one(adversary, &system.name, found, knowledge, level)).collect::<Vec<_>>()
    };
    let mut found: Vec<AdversaryFindings> = systems.iter().flat_map(of_system).collect();
    found.sort_by_key(|one| one.adversary);
    found
}

fn one(adversary: u8, system: &str, found: &AttackFindings, knowledge: &Knowledge, level: f64) -> AdversaryFindings {
    let counts = &found.calls.counts;
    let n_called = counts.true_positives + counts.false_positives;
    let precision = (n_called > 0).then(|| {
        let share = counts.true_positives as f64 / n_called as f64;
        Estimate::new(share, clopper_pearson(counts.true_positives, n_called, level))
    });
    let brought = knowledge.given.iter().find(|given| given.system == system && given.attack == found.attack);
    AdversaryFindings {
        adversary,
        system: system.to_owned(),
        attack: found.attack.clone(),
        counts: found.counts,
        rule: brought.and_then(|given| given.rule.as_ref()).map_or_else(|| ODDS.to_owned(), |rule| rule.words.clone()),
        auc: found.auc,
        tpr: counts.tpr(level),
        fpr: counts.fpr(level),
        precision: Figure::or(precision, "nobody is called a member"),
        balanced_accuracy: found.calls.balanced_accuracy,
    }
}
