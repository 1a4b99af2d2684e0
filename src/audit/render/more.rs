//! Tables of what stands beside the battery: low false-positive rates, shadow models, single records, the lot.

use super::tables::{Table, estimate, words};
use crate::audit::attack::ML_LEAKS;
use crate::audit::report::{AdversaryFindings, BankFindings, Figure, Findings, Report, SystemFindings, TprAt};
use crate::audit::shadow::leave_one_out::{AttackOverTargets, RecordRisk};
use crate::audit::shadow::reach::{Reach, ShadowModels};
use crate::audit::spread::{Spread, SystemSpread};
use crate::audit::study::ODDS;

/// Records that are shown of each system.
const N_RECORDS: usize = 10;

/// For each system and rate the attack that finds most members.
pub(super) fn low_rates(findings: &Findings) -> Table {
    let rates = &findings.settings.fpr_targets;
    let best = |system: &SystemFindings, rate: f64| -> Option<(String, TprAt)> {
        let at = |found: &crate::audit::report::AttackFindings| {
            let at = found.tpr_at_fpr.iter().find(|at| at.target_fpr == rate)?;
            Some((found.attack.name().to_owned(), at.clone()))
        };
        let all = system.attacks.iter().filter(|found| found.counts).filter_map(at);
        // The first of equals, in the order of the battery.
        let tpr = |one: &(String, TprAt)| one.1.tpr.value.unwrap_or(0.0);
        all.filter(|(_, at)| at.tpr.value.is_some())
            .reduce(|best, next| if tpr(&next) > tpr(&best) { next } else { best })
    };
    let row = |system: &SystemFindings| {
        let mut cells = vec![system.name.clone()];
        for &rate in rates {
            match best(system, rate) {
                Some((attack, at)) => {
                    let interval = at
                        .tpr_interval
                        .map_or(String::new(), |found| format!(" [{:.4}, {:.4}]", found.low, found.high));
                    cells.push(format!("{:.4}{interval}", at.tpr.value.unwrap_or(0.0)));
                    cells.push(attack);
                }
                None if system.attacks.iter().any(|found| found.counts) => {
                    cells.extend(["not resolvable".to_owned(), String::new()]);
                }
                None => cells.extend(["no attack counts".to_owned(), String::new()]),
            }
        }
        cells
    };
    let mut header = words(&["system"]);
    for rate in rates {
        header.extend([format!("TPR at {} % FPR", 100.0 * rate), "by".to_owned()]);
    }
    Table {
        title: "Members found by an attacker who may hardly err",
        note: "Verdict rows: the largest over the attacks that count, so picked upward; each interval is exact for one attack \
               at a threshold known before. A rate below one in the number of non-members is not resolvable, and nothing is \
               interpolated."
            .to_owned(),
        n_word_columns: 1,
        header,
        rows: findings.systems.iter().map(row).collect(),
    }
}

/// Figures over several trainings.
pub(super) fn trainings(report: &Report) -> Option<Table> {
    let found = report.trainings.value.as_ref()?;
    let row = |one: &SystemSpread| {
        let figures =
            [&one.headline, &one.headline_minus_floor, &one.loss_auc, &one.accuracy, &one.nll, &one.ece].map(spread);
        [vec![one.system.clone()], figures.to_vec()].concat()
    };
    Some(Table {
        title: "Over several trainings",
        note: format!(
            "{} trainings, each with its own members, attacked alike; attack and threshold chosen for each on its own attack-fit \
             rows. Mean with its t-interval: here the unit is the training, not the row.",
            found.n
        ),
        n_word_columns: 1,
        header: words(&["system", "(b)", "(b) minus floor", "AUC of the loss", "accuracy", "NLL", "ECE"]),
        rows: found.systems.iter().map(row).collect(),
    })
}

/// ML-Leaks' adversaries at their own rules; none where none was tried.
pub(super) fn adversaries(findings: &Findings) -> Option<Table> {
    let row = |one: &AdversaryFindings| {
        // The number stands in a column of its own, and the rule of 1 and 2 in the note.
        let name = one.attack.name().trim_start_matches(&format!("{ML_LEAKS}{}, ", one.adversary));
        vec![
            format!("{}", one.adversary),
            format!("{name}{}", if one.counts { "" } else { " (does not count)" }),
            one.system.clone(),
            if one.rule == ODDS { "odds above 1".to_owned() } else { one.rule.clone() },
            estimate(&one.auc),
            estimate(&one.tpr),
            estimate(&one.fpr),
            one.precision.value.as_ref().map_or("n/a".to_owned(), estimate),
            estimate(&one.balanced_accuracy),
        ]
    };
    (!findings.ml_leaks.is_empty()).then(|| Table {
        title: "ML-Leaks' adversaries",
        note: "Each at the rule that it brings, which was fixed on none of these rows: 1 learns on a shadow model of the same data, \
               2 on one of other data (odds of membership, as the shadow tells them), 3 holds the largest entry against random \
               points. Verdict rows; intervals exact, of the AUC DeLong's, of the balanced accuracy Newcombe's. Precision: members \
               among those that are called members, with as many members and non-members as the verdict holds."
            .to_owned(),
        n_word_columns: 4,
        header: words(&[
            "adversary",
            "attack",
            "system",
            "calls a member",
            "AUC",
            "TPR",
            "FPR",
            "precision",
            "balanced accuracy",
        ]),
        rows: findings.ml_leaks.iter().map(row).collect(),
    })
}

/// Every model of the bank as the target: the strongest attacks on each system, and the records of the highest risk; before
/// them, or in their place, what the bank was too little for.
pub(super) fn shadows(findings: &Findings) -> Vec<Table> {
    let bank = findings.shadow_models.iter().filter(|bank| !bank.left_out.is_empty()).map(too_little);
    let in_turn = (!findings.leave_one_out.is_empty()).then(|| [over_targets(findings), risks(findings)]);
    bank.chain(in_turn.into_iter().flatten()).collect()
}

/// What a bank did not allow, where a reader looks for its figures.
fn too_little(bank: &ShadowModels) -> Table {
    let Reach { n_models, n_rows, n_both, n_strangers, .. } = bank.reach;
    let kind = if bank.reach.is_online() { "online and offline" } else { "offline" };
    let counts = [n_models, n_rows, n_both, n_strangers, bank.n_queries].map(|count| count.to_string());
    Table {
        title: "Shadow models",
        note: format!(
            "Offline attacks (LiRA offline, RMIA offline, difficulty calibration) look at models that were not trained on the row \
             alone. Left out, and why:\n{}.",
            bank.left_out.join(".\n")
        ),
        n_word_columns: 1,
        header: words(&[
            "attacks",
            "shadow models",
            "audited rows",
            "of them with models of both kinds",
            "models not trained on a row, at least",
            "queries a row",
        ]),
        rows: vec![std::iter::once(kind.to_owned()).chain(counts).collect()],
    }
}

fn spread(spread: &Figure<Spread>) -> String {
    spread.value.map_or("n/a".to_owned(), |one| format!("{:.4} [{:.4}, {:.4}]", one.mean, one.low, one.high))
}

fn mean(one: &AttackOverTargets) -> f64 {
    one.auc.value.map_or(0.0, |auc| auc.mean)
}

fn over_targets(findings: &Findings) -> Table {
    let rates = findings.leave_one_out.first().map(|bank| bank.study.settings.fpr_targets.clone()).unwrap_or_default();
    let rows = findings.leave_one_out.iter().filter_map(|bank| {
        let best = bank.study.attacks.iter().max_by(|a, b| mean(a).total_cmp(&mean(b)))?;
        let mut cells =
            vec![bank.system.clone(), best.attack.name().to_owned(), spread(&best.auc), spread(&best.widest)];
        for rate in &rates {
            let at = best.tpr_at_fpr.iter().find(|at| at.target_fpr == *rate);
            cells.push(at.map_or("n/a".to_owned(), |at| spread(&at.tpr)));
        }
        Some(cells)
    });
    let mut header = words(&["system", "strongest attack", "AUC", "(a)"]);
    header.extend(rates.iter().map(|rate| format!("TPR at {} % FPR", 100.0 * rate)));
    let (n_targets, n_rows, n_queries) = findings
        .leave_one_out
        .first()
        .map_or((0, 0, 0), |bank| (bank.study.n_targets, bank.study.n_rows, bank.study.n_queries));
    Table {
        title: "Over other trainings: every shadow model as the target",
        note: format!(
            "{n_targets} models of {n_rows} rows each taken as the target in turn, the others its shadows, behind the same \
             defence fitted to each one's own members; {n_queries} queries a row. Mean over targets with its t-interval: \
             here the unit is the training, not the row. The attack of the largest mean AUC."
        ),
        n_word_columns: 2,
        header,
        rows: rows.collect(),
    }
}

fn risks(findings: &Findings) -> Table {
    let of_bank = |bank: &BankFindings| {
        let name = bank.system.clone();
        let row = move |risk: &RecordRisk| {
            vec![
                name.clone(),
                risk.row.to_string(),
                format!("{} of {}", risk.n_found, risk.n_in),
                format!("{} of {}", risk.n_false, risk.n_out),
                format!("{:.4}", risk.auc),
            ]
        };
        bank.worst.iter().take(N_RECORDS).map(row).collect::<Vec<_>>()
    };
    let ties = findings.leave_one_out.iter().take(2).filter_map(|bank| {
        let ties = bank.study.ties(N_RECORDS)?;
        Some(format!("\n{}: {} of {} that tie, those of the lowest numbers.", bank.system, ties.listed, ties.all))
    });
    let ties: String = ties.collect();
    Table {
        title: "Records of the highest risk",
        note: format!(
            "Numbers in the data set. Found: of the models that were trained on the record, those that find it at {} % false \
             positives; called falsely: the same of the models that were not. Picked as the worst, so biased upward: a list \
             of whom to look at.{ties}",
            100.0 * findings.leave_one_out.first().map_or(0.01, |bank| bank.study.settings.record_fpr)
        ),
        n_word_columns: 1,
        header: words(&["system", "record", "found", "called falsely", "AUC of its pairs"]),
        rows: findings.leave_one_out.iter().take(2).flat_map(of_bank).collect(),
    }
}

/// Whether the two sides differ without any model.
pub(super) fn lot(findings: &Findings) -> Option<Table> {
    let found = findings.lot.value.as_ref()?;
    let rows = found.classifiers.iter().map(|one| vec![one.name.to_owned(), estimate(&one.auc)]);
    Some(Table {
        title: "Membership by lot: do the two sides differ without any model?",
        note: format!(
            "{}. Seen: {}, of {} members and {} non-members, cross-fitted in halves; intervals at 99 % together.",
            found.words(),
            found.features,
            found.n_members,
            found.n_non_members
        ),
        n_word_columns: 1,
        header: words(&["classifier", "AUC"]),
        rows: rows.collect(),
    })
}
