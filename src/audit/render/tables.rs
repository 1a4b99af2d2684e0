//! What a report says in tables, facts and lists, for every layout.

use super::more;
use crate::audit::analysis::{Analysis, Correlation, Extreme, Extremes, Quarter, Vulnerable};
use crate::audit::duplicates::Duplicates;
use crate::audit::interval::{Estimate, Interval};
use crate::audit::null::Null;
use crate::audit::policy::{Judgement, Stands, Verdict};
use crate::audit::report::{AttackFindings, Figure, Findings, Report, SystemFindings, TprAt, Validity};
use crate::audit::system::Role;

/// A table: the first columns hold words (left), the rest figures (right). Without rows its note alone is shown, which then
/// says why.
pub(in crate::audit) struct Table {
    pub(in crate::audit) title: &'static str,
    pub(in crate::audit) note: String,
    pub(in crate::audit) n_word_columns: usize,
    pub(in crate::audit) header: Vec<String>,
    pub(in crate::audit) rows: Vec<Vec<String>>,
}

/// All tables but those of every attack, in their order.
pub(in crate::audit) fn all(report: &Report) -> Vec<Table> {
    let findings = &report.findings;
    let policy = report.policy.value.as_ref().map(policy);
    let all = [
        headlines(findings),
        more::low_rates(findings),
        before_and_after(report),
        utility(findings),
        calls(findings),
        epsilon(findings),
        classes(findings),
    ];
    let trainings = more::trainings(report);
    let all = policy.into_iter().chain(all).chain(trainings).chain(more::adversaries(findings));
    let all = all.chain(more::shadows(findings)).chain(more::lot(findings));
    all.chain(report.analysis.value.iter().flat_map(analysis)).collect()
}

/// The paper's analysis, in tables.
fn analysis(found: &Analysis) -> Vec<Table> {
    let interval = |estimate: Option<Estimate>| estimate.as_ref().map_or("n/a".to_owned(), self::estimate);
    let vulnerable = |one: &Vulnerable| {
        vec![
            format!("{} % of non-members", 100.0 * one.fpr),
            one.n_members.to_string(),
            one.n_non_members.to_string(),
            signed_estimate(&one.difference),
            format!("{:.4}", one.accuracy),
            interval(one.distance_auc),
            interval(one.vulnerability_auc),
        ]
    };
    let correlation = |one: &Correlation| vec![one.what.clone(), one.n_rows.to_string(), signed_estimate(&one.rho)];
    let quarter = |(place, one): (usize, &Quarter)| {
        vec![
            ["nearest", "second", "third", "farthest"].get(place).copied().unwrap_or("farther").to_owned(),
            format!("{:.4} to {:.4}", one.from, one.to),
            one.n_members.to_string(),
            one.n_non_members.to_string(),
            interval(one.auc),
        ]
    };
    let rows = |extremes: &[Extreme]| {
        let mark = |one: &Extreme| format!("{}{}", one.row, if one.vulnerable { "*" } else { "" });
        extremes.iter().map(mark).collect::<Vec<_>>().join(", ")
    };
    let extremes = |one: &Extremes| vec![one.class.to_string(), rows(&one.nearest), rows(&one.farthest)];
    vec![
        Table {
            title: "Vulnerable rows",
            note: format!(
                "By the {}; a row passes with a score above the threshold. Distance AUC: how well distance to the class \
                 centroid tells the members that pass from the other members (above .5: they lie farther out); LiRA AUC: how \
                 well their vulnerability over shadow models does.\n{}",
                found.score, found.finding
            ),
            n_word_columns: 1,
            header: words(&[
                "threshold",
                "members",
                "non-members",
                "share above chance",
                "accuracy",
                "distance AUC",
                "LiRA AUC",
            ]),
            rows: found.vulnerable.iter().map(vulnerable).collect(),
        },
        Table {
            title: "Distance to the class centroid against vulnerability",
            note: "Spearman's ρ of cosine distance (logits, centroids of the members) with what is named.".to_owned(),
            n_word_columns: 1,
            header: words(&["with", "rows", "ρ"]),
            rows: found.correlations.iter().map(correlation).collect(),
        },
        Table {
            title: "The attack by distance",
            note: "AUC of the score among the rows of one quarter of distance. Training moves members towards their \
                   centroid, so the quarters do not hold as many of both sides."
                .to_owned(),
            n_word_columns: 2,
            header: words(&["quarter", "distances", "members", "non-members", "AUC"]),
            rows: found.quarters.iter().enumerate().map(quarter).collect(),
        },
        Table {
            title: "Nearest and farthest members of each class centroid",
            note: "Numbers in the data set; * passes the first threshold. Farthest is not the same as vulnerable."
                .to_owned(),
            n_word_columns: 3,
            header: words(&["class", "nearest", "farthest"]),
            rows: found.extremes.iter().map(extremes).collect(),
        },
    ]
}

/// The tables of every attack: which count, and what each does to each system.
pub(in crate::audit) fn battery(findings: &Findings) -> Vec<Table> {
    vec![validity(findings), attacks(findings)]
}

fn validity(findings: &Findings) -> Table {
    let row = |one: &Validity| {
        vec![
            one.attack.name().to_owned(),
            if one.counts { "counts" } else { "DOES NOT COUNT" }.to_owned(),
            estimate(&one.auc_undefended),
            format!("{:.4}", one.widest_undefended),
            null_words(&one.widest_null),
        ]
    };
    Table {
        title: "Which attacks count",
        note: format!(
            "On “{}”, attack-fit rows: an attack counts if its AUC's interval leaves .5 and (a) leaves its null (R16).",
            findings.reference.system
        ),
        n_word_columns: 2,
        header: words(&["attack", "counts", "AUC", "(a)", "null mean, 95 %"]),
        rows: findings.validity.iter().map(row).collect(),
    }
}

fn policy(verdict: &Verdict) -> Table {
    let row = |one: &Judgement| {
        vec![
            one.system.clone(),
            one.quantity.clone(),
            one.stands.words().to_owned(),
            one.why.clone(),
            format!("{:.4}", one.limit),
            one.found.map_or("n/a".to_owned(), |found| format!("[{:.4}, {:.4}]", found.low, found.high)),
        ]
    };
    Table {
        title: "The policy",
        note: format!(
            "{}. Held: the whole interval is within the limit; violated: all of it is beyond; undecided: these rows cannot \
             tell.\nProvenance of the limits: {}",
            match verdict.stands {
                Stands::Held => "All limits are held",
                Stands::Violated => "The policy is violated",
                Stands::Undecided => "No limit is violated, but not all could be decided",
            },
            if verdict.policy.provenance.is_empty() { "none given" } else { &verdict.policy.provenance },
        ),
        n_word_columns: 4,
        header: words(&["system", "limited", "stands", "why", "limit", "found"]),
        rows: verdict.judgements.iter().map(row).collect(),
    }
}

/// What was audited, with what, where: a name and words for each.
pub(in crate::audit) fn facts(report: &Report) -> Vec<(&'static str, String)> {
    let (origin, findings) = (&report.origin, &report.findings);
    let rows = &findings.rows;
    let settings = &findings.settings;
    vec![
        ("command", origin.command.clone()),
        ("sordino", format!("{}, commit {}", origin.sordino_version, known_or_reason(&origin.commit, String::clone))),
        ("machine", origin.machine.clone()),
        ("answers", origin.source.words()),
        ("model", format!("{}, sha256 {}", origin.model, known_or_reason(&origin.model_digest, String::clone))),
        ("scores", origin.scores_decided.clone()),
        ("centroids", known_or_reason(&origin.artifact_digest, |digest| format!("sha256 {digest}"))),
        ("data", format!("{}, sha256 {}", origin.data_source, known_or_reason(&origin.dataset_digest, String::clone))),
        ("duplicates", known_or_reason(&origin.duplicates, Duplicates::words)),
        (
            "split",
            format!(
                "seed {}, sha256 {}",
                known_or_reason(&origin.split_seed, u64::to_string),
                known_or_reason(&origin.split_digest, String::clone)
            ),
        ),
        (
            "members",
            format!(
                "{} (attack-fit {}, verdict {})",
                findings.n_members, rows.attack_fit_members, rows.verdict_members
            ),
        ),
        (
            "non-members",
            format!(
                "{} (attack-fit {}, verdict {})",
                findings.n_non_members, rows.attack_fit_non_members, rows.verdict_non_members
            ),
        ),
        (
            "temperature",
            known_or_reason(&findings.temperature, |fitted| {
                let bound = if fitted.at_bound { ", at the bound of the search" } else { "" };
                format!("{:.3}, fitted on {} calibration rows{bound}", fitted.value, fitted.n_rows)
            }),
        ),
        (
            "drawn with",
            format!(
                "seed {}, {} permutations, {} resamples, intervals at {}",
                settings.seed, settings.n_permutations, settings.n_resamples, settings.level
            ),
        ),
        (
            "served alike",
            known_or_reason(&origin.pipeline_agrees, |same| {
                if *same {
                    "the pipeline answers the first batch as measured, bit for bit"
                } else {
                    "NO: the pipeline answers the first batch otherwise than measured"
                }
                .to_owned()
            }),
        ),
    ]
}

/// Lists of sentences with their titles: flags, systems left out, attacks that were not tried.
pub(in crate::audit) fn lists(report: &Report) -> Vec<(&'static str, Vec<String>)> {
    let findings = &report.findings;
    let flags: Vec<String> = findings
        .systems
        .iter()
        .flat_map(|system| system.flags.iter().map(move |flag| format!("{}: {flag}", system.name)))
        .collect();
    let duplicates = report.origin.duplicates.value.iter().filter(|found| found.non_members > 0).map(Duplicates::words);
    let warnings = findings.warnings.iter().cloned();
    let flags = warnings.chain(duplicates).chain(report.origin.doubts.iter().cloned()).chain(flags).collect();
    let skipped: Vec<String> = findings.skipped.iter().map(|one| format!("{}: {}", one.name, one.reason)).collect();
    let not_tried = report.not_tried.clone();
    let not_allowed = findings.not_allowed.iter();
    let not_allowed =
        not_allowed.map(|one| format!("{}: these answers have not {}", one.attack.name(), one.lacks)).collect();
    let all = [
        ("Flags", flags),
        ("Systems left out", skipped),
        ("Attacks that these answers do not allow", not_allowed),
        ("Not tried", not_tried),
    ];
    all.into_iter().filter(|(_, lines)| !lines.is_empty()).collect()
}

fn before_and_after(report: &Report) -> Table {
    let percent = |share: f64| format!("{:.2}", 100.0 * share);
    let rows = report.findings.before_and_after.iter().map(|row| {
        vec![
            report.origin.model.clone(),
            row.stage.to_owned(),
            row.system.clone(),
            percent(row.train_accuracy),
            percent(row.test_accuracy),
            row.overhead_seconds.value.map_or("n/a".to_owned(), |seconds| format!("{seconds:.4}")),
            percent(row.auc),
            percent(row.advantage),
            percent(row.gap),
        ]
    });
    let n_rows = report.findings.n_members + report.findings.n_non_members;
    Table {
        title: "Before and after, in the form of the paper's table 4",
        note: format!(
            "All members against all non-members; the loss attack alone, its threshold chosen on the same rows, as \
             the paper does.\nAccuracies, AUC, advantage and gap in percent; gap = train − test accuracy, which the \
             label alone tells.\nOverhead: the defence for all {n_rows} rows on one thread, median of {} passes; \
             inference not counted.",
            report.findings.settings.overhead_passes
        ),
        n_word_columns: 3,
        header: words(&["model", "stage", "system", "train acc", "test acc", "overhead s", "AUC", "advantage", "gap"]),
        rows: rows.collect(),
    }
}

fn utility(findings: &Findings) -> Table {
    let rows = findings.systems.iter().map(|system| {
        let utility = &system.utility;
        let kept = utility.label_agreement.value.map(|share| within(share, utility.label_agreement_interval));
        vec![
            system.name.clone(),
            within(utility.accuracy_members, Some(utility.accuracy_members_interval)),
            within(utility.accuracy_non_members, Some(utility.accuracy_non_members_interval)),
            within(utility.nll, Some(utility.nll_interval)),
            utility.nll_minus_rival.value.map_or("n/a".to_owned(), |difference| signed_estimate(&difference)),
            utility.n_floored.to_string(),
            within(utility.brier.value, Some(utility.brier.interval())),
            within(utility.ece, Some(utility.ece_interval)),
            kept.unwrap_or_else(|| "n/a".to_owned()),
        ]
    });
    Table {
        title: "What an honest client gets",
        note: format!(
            "Verdict rows. NLL (probability floored at {:e}; `floored` rows were below it), Brier score and ECE (15 bins \
             of equal mass) are of non-members. Intervals: exact for accuracies, by bootstrap for NLL, Brier and ECE (whose \
             resamples are larger on average), Wilson's for labels kept.\nA claim about NLL or ECE is made against the temperature-scaled rival, \
             which is no defence: who multiplies its logits by the \
             temperature has the undefended model's answers.",
            findings.settings.nll_floor
        ),
        n_word_columns: 1,
        header: words(&[
            "system",
            "acc members",
            "acc non-members",
            "NLL",
            "NLL − rival",
            "floored",
            "Brier",
            "ECE",
            "labels kept",
        ]),
        rows: rows.collect(),
    }
}

fn headlines(findings: &Findings) -> Table {
    let row = |system: &SystemFindings| {
        let mut cells = vec![system.name.clone()];
        match &system.headline.value {
            Some(headline) => cells.extend([
                headline.widest_attack.name().to_owned(),
                within(headline.widest, Some(headline.widest_interval)),
                null_words(&headline.widest_null),
                headline.fixed_attack.name().to_owned(),
                estimate(&headline.fixed),
                signed_estimate(&headline.fixed_minus_floor),
                if is_floor(system) { "is the floor" } else { headline.standing.words() }.to_owned(),
                headline.leak.words().to_owned(),
            ]),
            None => cells
                .extend(["none counts", "n/a", "n/a", "none counts", "n/a", "n/a", "n/a", "n/a"].map(str::to_owned)),
        }
        cells
    };
    let n_counted = findings.validity.iter().filter(|validity| validity.counts).count();
    Table {
        title: "Headline: the strongest attack that counts, beside noise and the label-only floor",
        note: format!(
            "(a) max over thresholds of |TPR − FPR| on the verdict rows, beside the permutation null of that maximum \
             (mean, 95 %); its interval allows for the threshold having been chosen here.\n(b) TPR − FPR with threshold and sign fixed on the attack-fit rows, of the attack that is \
             strongest there, each half by the other's threshold; reading whether the label is right, where nothing leads \
             that by a standard error.\nMinus floor: paired difference to the label-only answers on the same rows. At floor: \
             its interval stays within {margin} of 0; not told apart: it covers 0 and does not.\nLeak seen: (b)'s interval \
             leaves 0 or (a) leaves its null; undecidable: neither, but half of the interval or 95 % of the null is \
             above {margin}.\n{n_counted} of {n} attacks count.",
            n = findings.validity.len(),
            margin = findings.settings.margin,
        ),
        n_word_columns: 1,
        header: words(&[
            "system",
            "(a) by",
            "(a)",
            "null mean, 95 %",
            "(b) by",
            "(b)",
            "(b) minus floor",
            "stands",
            "leak seen",
        ]),
        rows: findings.systems.iter().map(row).collect(),
    }
}

/// Whether a system answers with the label alone, so that a comparison with the floor says nothing.
pub(in crate::audit) fn is_floor(system: &SystemFindings) -> bool {
    system.role == Role::Floor
}

fn attacks(findings: &Findings) -> Table {
    let row = |system: &SystemFindings, found: &AttackFindings| {
        let mut cells = vec![
            system.name.clone(),
            format!("{}{}", found.attack.name(), if found.counts { "" } else { " (does not count)" }),
            estimate(&found.auc),
            format!("{:.4}", found.widest),
            null_words(&found.widest_null),
            estimate(&found.fixed),
            signed_estimate(&found.fixed_minus_floor),
        ];
        cells.push(found.tpr_at_fpr.iter().map(tpr_words).collect::<Vec<_>>().join(", "));
        cells
    };
    let targets: Vec<String> = findings.settings.fpr_targets.iter().map(|fpr| format!("{} %", 100.0 * fpr)).collect();
    Table {
        title: "The battery",
        note: format!(
            "Verdict rows. AUC with DeLong's interval; (b) with Newcombe's; the difference to the floor with a paired \
             bootstrap; all pointwise.\nTPR at an FPR of at most {}, with the FPR attained; nothing is interpolated.",
            targets.join(" and ")
        ),
        n_word_columns: 2,
        header: words(&[
            "system",
            "attack",
            "AUC",
            "(a)",
            "null mean, 95 %",
            "(b)",
            "(b) minus floor",
            "TPR at FPR (attained)",
        ]),
        rows: findings
            .systems
            .iter()
            .flat_map(|system| system.attacks.iter().map(move |found| row(system, found)))
            .collect(),
    }
}

pub(in crate::audit) fn known_or_reason<T>(figure: &Figure<T>, words: impl Fn(&T) -> String) -> String {
    match (&figure.value, &figure.reason) {
        (Some(value), _) => words(value),
        (None, Some(reason)) => format!("none: {reason}"),
        (None, None) => "none".to_owned(),
    }
}

pub(in crate::audit) fn estimate(estimate: &Estimate) -> String {
    format!("{:.4} [{:.4}, {:.4}]", estimate.value, estimate.low, estimate.high)
}

/// A value with its interval, to three digits.
fn within(value: f64, interval: Option<Interval>) -> String {
    let interval = interval.map_or(String::new(), |found| format!(" [{:.3}, {:.3}]", found.low, found.high));
    format!("{value:.3}{interval}")
}

pub(in crate::audit) fn signed_estimate(estimate: &Estimate) -> String {
    // `+ 0.0` so that no minus zero is shown.
    let [value, low, high] = [estimate.value, estimate.low, estimate.high].map(|end| end + 0.0);
    format!("{value:+.4} [{low:+.4}, {high:+.4}]")
}

fn null_words(null: &Figure<Null>) -> String {
    null.value.map_or("n/a".to_owned(), |null| format!("{:.4}, {:.4}", null.mean, null.q95))
}

fn tpr_words(at: &TprAt) -> String {
    match (at.tpr.value, at.attained_fpr) {
        (Some(tpr), Some(attained)) => format!("{tpr:.4} ({attained:.4})"),
        _ => "not resolvable".to_owned(),
    }
}

pub(super) fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// Said in place of figures where no attack counts.
const NONE_COUNTS: &str = "No attack counts on these rows: none works on the reference (R16), so there is no rule whose calls could be \
                           worth anything, and nothing to show here.";

fn calls(findings: &Findings) -> Table {
    let row = |system: &SystemFindings| {
        let headline = system.headline.value.as_ref()?;
        let found = system.attacks.iter().find(|found| found.attack == headline.fixed_attack)?;
        let calls = &found.calls;
        let mut cells = vec![system.name.clone(), found.attack.name().to_owned()];
        let recalls = [&calls.recall_members, &calls.recall_non_members, &calls.balanced_accuracy];
        cells.extend(recalls.map(estimate));
        let worth = |value: &Figure<Estimate>| value.value.as_ref().map_or("n/a".to_owned(), estimate);
        cells.extend(calls.predictive_values.iter().map(|at| worth(&at.value)));
        Some(cells)
    };
    let rows: Vec<_> = findings.systems.iter().filter_map(row).collect();
    let mut header = words(&["system", "rule of", "recall members", "recall non-members", "balanced accuracy"]);
    header.extend(findings.settings.priors.iter().map(|prior| format!("PPV at {} %", 100.0 * prior)));
    Table {
        title: "What a call is worth",
        note: if rows.is_empty() { NONE_COUNTS } else {
            "Verdict rows; the rule of (b), fixed on the attack-fit rows. PPV: the share of true members among the rows \
             that it calls members, where so many in a hundred of all rows asked about are members."
        }
        .to_owned(),
        n_word_columns: 2,
        header,
        rows,
    }
}

fn epsilon(findings: &Findings) -> Table {
    let row = |system: &SystemFindings| {
        let epsilon = &system.epsilon;
        let claim = epsilon.claim.value.map_or("none".to_owned(), |claim| format!("{:.3}", claim.epsilon));
        let stands = if epsilon.contradicts_claim { " CONTRADICTED" } else { "" };
        vec![
            system.name.clone(),
            epsilon.attack.name().to_owned(),
            format!("{:.3}", epsilon.lower_bound),
            format!("{:.3}", epsilon.ceiling),
            format!("{claim}{stands}"),
        ]
    };
    // The claim's δ, where there is a claim.
    let delta = findings.systems.first().map_or(findings.settings.delta, |system| system.epsilon.delta);
    let delta = if delta == 0.0 || delta >= 0.001 { delta.to_string() } else { format!("{delta:e}") };
    Table {
        title: "Lower bounds on ε",
        note: format!(
            "Any (ε, δ)-private training with a smaller ε would have shown such counts with probability {:.3} at most \
             (δ = {delta}). Ceiling: what a perfect attack would have shown on as many rows.\nThe attack and its rule are chosen on \
             the attack-fit rows, each half judged by the other's rule. Every answer holds its label: the larger bound of the \
             rule chosen on the answers and of the one chosen on their labels is told, at a level for both.",
            1.0 - findings.settings.level,
        ),
        n_word_columns: 2,
        header: words(&["system", "attack", "ε at least", "ceiling", "claimed ε"]),
        rows: findings.systems.iter().map(row).collect(),
    }
}

fn classes(findings: &Findings) -> Table {
    let row = |system: &SystemFindings| {
        let worst = system.worst_class.value?;
        let found = system.classes.iter().find(|found| found.class == worst)?;
        let counts = &found.counts;
        Some(vec![
            system.name.clone(),
            worst.to_string(),
            counts.n_members.to_string(),
            counts.n_non_members.to_string(),
            signed_estimate(&found.advantage),
        ])
    };
    let rows: Vec<_> = findings.systems.iter().filter_map(row).collect();
    let none_counts = findings.systems.iter().all(|system| system.headline.value.is_none());
    Table {
        title: "The class that leaks most",
        note: if none_counts { NONE_COUNTS } else if rows.is_empty() {
            "No class has both members and non-members in the verdict."
        } else {
            "TPR − FPR of the rule of (b) on the rows of one class; the intervals of all classes hold together (Bonferroni)."
        }
        .to_owned(),
        n_word_columns: 1,
        header: words(&["system", "class", "members", "non-members", "(b) in the class"]),
        rows,
    }
}
