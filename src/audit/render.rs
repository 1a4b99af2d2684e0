//! A report as text: aligned tables for a terminal, or Markdown for a file.

use std::fmt::Write as _;

use crate::audit::duplicates::Duplicates;
use crate::audit::interval::Estimate;
use crate::audit::null::Null;
use crate::audit::report::{AttackFindings, Figure, Findings, Report, SystemFindings, TprAt};
use crate::audit::system::Role;

/// How a report is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Aligned columns.
    Terminal,
    /// Markdown.
    Markdown,
}

/// A table: the first columns hold words (left), the rest figures (right).
struct Table {
    title: &'static str,
    note: String,
    n_word_columns: usize,
    header: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

/// The whole report as text.
#[must_use]
pub fn report(report: &Report, layout: Layout) -> String {
    let findings = &report.findings;
    let mut text = String::new();
    text.push_str(&origin(report, layout));
    for table in [before_and_after(report), utility(findings), headlines(findings), battery(findings)] {
        text.push('\n');
        text.push_str(&table.text(layout));
    }
    text.push('\n');
    text.push_str(&lists(report, layout));
    text
}

impl Table {
    fn text(&self, layout: Layout) -> String {
        let mut text = match layout {
            Layout::Terminal => format!("{}\n", self.title),
            Layout::Markdown => format!("## {}\n\n", self.title),
        };
        let widths: Vec<usize> = (0..self.header.len())
            .map(|column| {
                let cells = self.rows.iter().map(|row| row[column].chars().count());
                cells.chain([self.header[column].chars().count()]).max().unwrap_or(0)
            })
            .collect();
        let line = |cells: &mut dyn Iterator<Item = &str>| {
            let mut line = String::new();
            for (column, cell) in cells.enumerate() {
                let width = widths[column];
                let gap = if layout == Layout::Terminal { "  " } else { " | " };
                line.push_str(if column == 0 && layout == Layout::Markdown { "| " } else { gap });
                let _ = if column < self.n_word_columns {
                    write!(line, "{cell:<width$}")
                } else {
                    write!(line, "{cell:>width$}")
                };
            }
            if layout == Layout::Markdown {
                line.push_str(" |");
            }
            line.trim_end().to_owned() + "\n"
        };
        text.push_str(&line(&mut self.header.iter().copied()));
        if layout == Layout::Markdown {
            let rule = |column| if column < self.n_word_columns { "---" } else { "---:" };
            let rules: Vec<&str> = (0..self.header.len()).map(rule).collect();
            let _ = writeln!(text, "| {} |", rules.join(" | "));
        }
        let mut previous = None;
        for row in &self.rows {
            let first = row.first().map(String::as_str);
            let repeats = layout == Layout::Terminal && first == previous;
            previous = first;
            text.push_str(&line(
                &mut row.iter().enumerate().map(|(c, cell)| if c == 0 && repeats { "" } else { cell.as_str() }),
            ));
        }
        match layout {
            Layout::Terminal => self.note.lines().for_each(|note| text.push_str(&format!("  {note}\n"))),
            Layout::Markdown => text.push_str(&format!("\n{}\n", self.note)),
        }
        text
    }
}

fn origin(report: &Report, layout: Layout) -> String {
    let (origin, findings) = (&report.origin, &report.findings);
    let rows = &findings.rows;
    let settings = &findings.settings;
    let facts = [
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
    ];
    let mut text = match layout {
        Layout::Terminal => format!("Audit of {}\n", origin.model),
        Layout::Markdown => format!("# Audit of {}\n\n", origin.model),
    };
    for (name, value) in facts {
        let _ = match layout {
            Layout::Terminal => writeln!(text, "  {name:<12}  {value}"),
            Layout::Markdown if name == "command" => writeln!(text, "- {name}: `{value}`"),
            Layout::Markdown => writeln!(text, "- {name}: {value}"),
        };
    }
    text
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
        header: vec!["model", "stage", "system", "train acc", "test acc", "overhead s", "AUC", "advantage", "gap"],
        rows: rows.collect(),
    }
}

fn utility(findings: &Findings) -> Table {
    let rows = findings.systems.iter().map(|system| {
        let utility = &system.utility;
        vec![
            system.name.clone(),
            format!("{:.4}", utility.accuracy_members),
            format!("{:.4}", utility.accuracy_non_members),
            format!("{:.3}", utility.nll),
            utility.nll_minus_rival.value.map_or("n/a".to_owned(), |difference| signed_estimate(&difference)),
            utility.n_floored.to_string(),
            format!("{:.4}", utility.ece),
            utility.label_agreement.value.map_or("n/a".to_owned(), |share| format!("{share:.4}")),
        ]
    });
    Table {
        title: "What an honest client gets",
        note: format!(
            "Verdict rows. NLL (probability floored at {:e}; `floored` rows were below it) and ECE (15 bins of equal \
             mass) are of non-members.\nA claim about NLL or ECE is made against the temperature-scaled rival, \
             which is no defence: who multiplies its logits by the \
             temperature has the undefended model's answers.",
            findings.settings.nll_floor
        ),
        n_word_columns: 1,
        header: vec!["system", "acc members", "acc non-members", "NLL", "NLL − rival", "floored", "ECE", "labels kept"],
        rows: rows.collect(),
    }
}

fn headlines(findings: &Findings) -> Table {
    let row = |system: &SystemFindings| {
        let mut cells = vec![system.name.clone()];
        match &system.headline.value {
            Some(headline) => cells.extend([
                headline.widest_attack.name().to_owned(),
                format!("{:.4}", headline.widest),
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
    let counted: Vec<String> = findings
        .validity
        .iter()
        .map(|validity| {
            let word = if validity.counts { "counts" } else { "DOES NOT COUNT" };
            format!("{} {} {word}", validity.attack.name(), estimate(&validity.auc_undefended))
        })
        .collect();
    Table {
        title: "Headline: the strongest attack that counts, beside noise and the label-only floor",
        note: format!(
            "(a) max over thresholds of |TPR − FPR| on the verdict rows, beside the permutation null of that maximum \
             (mean, 95 %).\n(b) TPR − FPR with threshold and sign fixed on the attack-fit rows, of the attack that is \
             strongest on those.\nMinus floor: paired difference to the label-only answers on the same rows. At floor: \
             its interval stays within {margin} of 0; not told apart: it covers 0 and does not.\nLeak seen: (b)'s interval \
             leaves 0 or (a) leaves its null; undecidable: neither, but half of the interval or 95 % of the null is \
             above {margin}.\nAn attack counts if on the undefended model's attack-fit rows its AUC's interval leaves .5 \
             and (a) leaves its null: {}.",
            counted.join(", "),
            margin = findings.settings.margin,
        ),
        n_word_columns: 1,
        header: vec![
            "system",
            "(a) by",
            "(a)",
            "null mean, 95 %",
            "(b) by",
            "(b)",
            "(b) minus floor",
            "stands",
            "leak seen",
        ],
        rows: findings.systems.iter().map(row).collect(),
    }
}

/// Whether a system answers with the label alone, so that a comparison with the floor says nothing.
fn is_floor(system: &SystemFindings) -> bool {
    system.role == Role::Floor
}

fn battery(findings: &Findings) -> Table {
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
        header: vec![
            "system",
            "attack",
            "AUC",
            "(a)",
            "null mean, 95 %",
            "(b)",
            "(b) minus floor",
            "TPR at FPR (attained)",
        ],
        rows: findings
            .systems
            .iter()
            .flat_map(|system| system.attacks.iter().map(move |found| row(system, found)))
            .collect(),
    }
}

fn lists(report: &Report, layout: Layout) -> String {
    let findings = &report.findings;
    let flags: Vec<String> = findings
        .systems
        .iter()
        .flat_map(|system| system.flags.iter().map(move |flag| format!("{}: {flag}", system.name)))
        .collect();
    let duplicates = report.origin.duplicates.value.iter().filter(|found| found.non_members > 0).map(Duplicates::words);
    let flags = duplicates.chain(report.origin.doubts.iter().cloned()).chain(flags).collect();
    let skipped: Vec<String> = findings.skipped.iter().map(|one| format!("{}: {}", one.name, one.reason)).collect();
    let not_tried: Vec<String> = report.not_tried.iter().map(|&line| line.to_owned()).collect();
    let mut text = String::new();
    for (title, lines) in [("Flags", flags), ("Systems left out", skipped), ("Not tried", not_tried)] {
        if lines.is_empty() {
            continue;
        }
        text.push_str(&match layout {
            Layout::Terminal => format!("{title}\n"),
            Layout::Markdown => format!("## {title}\n\n"),
        });
        for line in lines {
            let bullet = if layout == Layout::Terminal { "  - " } else { "- " };
            let _ = writeln!(text, "{bullet}{line}");
        }
        text.push('\n');
    }
    text
}

fn known_or_reason<T>(figure: &Figure<T>, words: impl Fn(&T) -> String) -> String {
    match (&figure.value, &figure.reason) {
        (Some(value), _) => words(value),
        (None, Some(reason)) => format!("none: {reason}"),
        (None, None) => "none".to_owned(),
    }
}

fn estimate(estimate: &Estimate) -> String {
    format!("{:.4} [{:.4}, {:.4}]", estimate.value, estimate.low, estimate.high)
}

fn signed_estimate(estimate: &Estimate) -> String {
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
