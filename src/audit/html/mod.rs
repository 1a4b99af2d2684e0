//! A report as one self-contained HTML page: no script, no network, readable on paper, light and dark.
//!
//! Everything that comes from files or the command line passes through maud, which escapes it. The figures are
//! those of the JSON report; nothing is computed here but places on paper.

mod charts;
mod plot;
#[cfg(test)]
mod tests;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::audit::analysis::Extreme;
use crate::audit::policy::{Stands, Verdict};
use crate::audit::render::tables::{self, Table, estimate, known_or_reason, signed_estimate};
use crate::audit::report::{Findings, Headline, Report, SystemFindings};
use crate::audit::standing::{Leak, Standing};
use crate::audit::system::Role;

const STYLE: &str = include_str!("style.css");

/// The whole page.
#[must_use]
pub fn page(report: &Report) -> String {
    let title = format!("Audit of {}", report.origin.model);
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    p .kicker { "Sordino · membership-inference audit" }
                    h1 { (title) }
                    p .source { "Answers of " (report.origin.source.words()) "." }
                }
                main {
                    (summary(report))
                    (gain(report))
                    (systems(&report.findings))
                    (frontier(&report.findings))
                    (map(report))
                    (pictures(report))
                    @for table in tables::all(report) { (tabled(&table)) }
                    details {
                        summary { h2 { "Every attack on every system" } }
                        @for table in tables::battery(&report.findings) { (tabled(&table)) }
                    }
                    p .onpaper { "The table of every attack on every system is in the page on a screen, and in the Markdown and JSON reports." }
                    (lists(report))
                    (again(report))
                    (glossary())
                }
                footer { p { "Made by sordino " (report.origin.sordino_version) ", report format " (report.format_version) "." } }
            }
        }
    };
    page.into_string()
}

/// The first lines: what was found, in words and in four figures.
fn summary(report: &Report) -> Markup {
    let findings = &report.findings;
    let reference = findings.systems.iter().find(|system| system.name == findings.reference.system);
    let headline = reference.and_then(|system| system.headline.value.as_ref());
    let floor = findings.systems.iter().find(|system| system.role == Role::Floor);
    let floor = floor.and_then(|system| system.headline.value.as_ref());
    let rows = &findings.rows;
    html! {
        section .summary {
            h2 { "What was found" }
            @for warning in &findings.warnings { p .alarm { strong { "In doubt: " } (warning) } }
            @if let Some(verdict) = &report.policy.value { (policy(verdict)) }
            div .tiles {
                (tile("Rows judged", &format!("{} + {}", rows.verdict_members, rows.verdict_non_members),
                    "members and non-members that no attack was fitted on"))
                @if let Some(headline) = headline {
                    (tile(&format!("Leak of “{}”", findings.reference.system), &points(headline.fixed.value),
                        &format!("TPR − FPR of {}", headline.fixed_attack.name())))
                }
                @if let Some(floor) = floor {
                    (tile("Floor: the label alone", &points(floor.fixed.value), "no defence that keeps the label goes lower"))
                }
                @if let Some(null) = headline.and_then(|headline| headline.widest_null.value) {
                    (tile("Noise", &points(null.q95), "95 % of the largest advantage by chance on these rows"))
                }
            }
            ul .verdicts {
                @for system in findings.systems.iter().filter(|system| system.role != Role::Floor) { (verdict(system, findings)) }
            }
            @if !findings.reference.is_undefended {
                p .warning {
                    "There are no answers of the undefended model here: which attacks count is told on the answers that "
                    "are judged (R16), so “no leak seen” may be a weakness of the attacks."
                }
            }
        }
    }
}

/// How the policy stands, in a line; its table says more.
fn policy(verdict: &Verdict) -> Markup {
    let (class, words) = match verdict.stands {
        Stands::Held => ("held", "every limit of the policy is held"),
        Stands::Violated => ("violated", "a limit of the policy is violated"),
        Stands::Undecided => ("undecided", "no limit is violated, but these rows cannot decide all of them"),
    };
    html! { p .policy .(class) { strong { (class) } ": " (words) "." } }
}

fn tile(name: &str, value: &str, note: &str) -> Markup {
    html! { div .tile { p .name { (name) } p .value { (value) } p .note { (note) } } }
}

/// A rate in points of a hundred.
fn points(rate: f64) -> String {
    format!("{:.1} %", 100.0 * rate + 0.0)
}

fn verdict(system: &SystemFindings, findings: &Findings) -> Markup {
    let (class, words) = match &system.headline.value {
        None => ("open", "no attack works on the reference: nothing can be told".to_owned()),
        Some(headline) => sentence(system, headline, findings),
    };
    html! { li { span .badge .(class) { (class) } " " b { (system.name) } ": " (words) } }
}

/// Where a system stands, and how far from the floor.
fn sentence(system: &SystemFindings, headline: &Headline, findings: &Findings) -> (&'static str, String) {
    let difference = signed_estimate(&headline.fixed_minus_floor);
    if system.role == Role::Undefended || system.role == Role::Rival {
        let leak = estimate(&headline.fixed);
        return match headline.leak {
            Leak::Seen => ("leaks", format!("{} has an advantage of {leak}", headline.fixed_attack.name())),
            Leak::NotSeen => ("none seen", format!("no leak is seen: {leak}")),
            Leak::Undecidable => ("open", format!("these rows cannot tell: {leak}")),
        };
    }
    let margin = findings.settings.margin;
    match headline.standing {
        Standing::AboveFloor => (
            "leaks",
            format!(
                "its scores tell more than the label: {difference} above the floor, by {}",
                headline.fixed_attack.name()
            ),
        ),
        Standing::AtFloor => ("at floor", format!("no more than the label tells, within {margin}: {difference}")),
        Standing::NotToldApart => {
            ("open", format!("not told apart from the floor: {difference} reaches beyond {margin}"))
        }
        Standing::BelowFloor => ("open", format!("these attacks did worse than reading the label alone: {difference}")),
        Standing::CannotTell => ("open", "no attack on scores works on the reference".to_owned()),
    }
}

fn gain(report: &Report) -> Markup {
    html! {
        section {
            h2 { "What an attacker gains" }
            (charts::gains(&report.findings))
            p .note {
                "TPR − FPR of the strongest attack, chosen with its threshold and sign on other rows, with its interval. "
                "The dashed line is the floor: what the label alone gives away. The shaded band is what chance gives. † is audited, "
                "and not served."
            }
        }
    }
}

/// A card for each system: its curve and its histogram.
fn systems(findings: &Findings) -> Markup {
    html! {
        section .systems {
            h2 { "Each system" }
            p .note {
                "Left: the curve of the attack of (a) with its pointwise exact interval, both axes logarithmic, beside the "
                "reference and the floor. Right: scaled logits ln p" sub { "y" } " − ln Σ" sub { "j≠y" } " p" sub { "j" }
                " of all members and non-members (the paper’s figure 1)."
            }
            @for system in &findings.systems {
                figure .card {
                    figcaption { (system.name) }
                    div .pair {
                        (charts::roc(system, findings))
                        @match &system.histogram.value {
                            Some(histogram) => (charts::histogram(histogram)),
                            None => p .absent { (known_or_reason(&system.histogram, |_| String::new())) },
                        }
                    }
                    @if !system.flags.is_empty() {
                        ul .flags { @for flag in &system.flags { li { (flag) } } }
                    }
                }
            }
        }
    }
}

fn frontier(findings: &Findings) -> Markup {
    html! {
        section {
            h2 { "Privacy and utility" }
            div .pair {
                (charts::frontier(findings, charts::Cost::NegativeLogLikelihood))
                (charts::frontier(findings, charts::Cost::CalibrationError))
            }
            ol .legend { @for system in &findings.systems { li { (system.name) } } }
            p .note {
                "Down and left is better. A number stands on its point, or beside it at the end of a line. The dashed line is "
                "the floor. A claim about NLL or ECE is made against the temperature-scaled rival, which leaks all that the "
                "model leaks (R15)."
            }
        }
    }
}

/// The paper's figure 2, with the non-members that pass the same threshold.
fn map(report: &Report) -> Markup {
    let Some(found) = &report.analysis.value else { return html! {} };
    html! {
        section {
            h2 { "Where the vulnerable rows lie" }
            p { (found.finding) }
            @if let Some(embedding) = &found.embedding {
                div .pair {
                    @for (place, one) in found.vulnerable.iter().enumerate() {
                        figure .card {
                            figcaption { "Threshold passed by " (format!("{} % of the non-members", 100.0 * one.fpr)) }
                            (charts::map(embedding, place + 1))
                        }
                    }
                }
                p .note {
                    "Circles: members that pass the threshold; diamonds: non-members that pass it. " (embedding.how)
                    ". A map by t-SNE keeps neighbours and no distances (the paper’s figure 2, which shows no non-members)."
                }
            }
        }
    }
}

/// The paper's figure 3: members near to and far from their centroid, and where the network looks.
fn pictures(report: &Report) -> Markup {
    let Some(found) = report.analysis.value.as_ref().filter(|found| !found.pictures.is_empty()) else {
        return html! {};
    };
    let picture = |one: &Extreme| {
        let drawn = found.pictures.iter().find(|picture| picture.row == one.row);
        html! {
            @if let Some(picture) = drawn {
                figure .thumb .vulnerable[one.vulnerable] {
                    @for png in std::iter::once(&picture.png).chain(&picture.heat) {
                        img src=(format!("data:image/png;base64,{png}")) alt=(format!("row {}", one.row));
                    }
                    figcaption { (one.row) @if one.vulnerable { "*" } br; (format!("{:.3}", one.distance)) }
                }
            }
        }
    };
    let has_heat = found.pictures.iter().any(|picture| picture.heat.is_some());
    html! {
        section .pictures {
            h2 { "Near to the centroid, and far from it" }
            table {
                thead { tr { th scope="col" { "class" } th scope="col" { "nearest members" } th scope="col" { "farthest members" } } }
                tbody { @for one in &found.extremes {
                    tr {
                        td { (one.class) }
                        td { div .thumbs { @for one in &one.nearest { (picture(one)) } } }
                        td { div .thumbs { @for one in &one.farthest { (picture(one)) } } }
                    }
                } }
            }
            p .note {
                "Row and cosine distance; * passes the threshold of the vulnerable. The paper shows the farthest as “vulnerable "
                "samples”; no membership score is in that choice. "
                @if has_heat {
                    "Below each image Grad-CAM of the true class at the last convolution: where the network sees the class. "
                }
                "This page holds records of the training set: share it as you would share those."
            }
        }
    }
}

fn tabled(table: &Table) -> Markup {
    html! {
        section .tabled .short[table.rows.len() <= SHORT] .many[table.header.len() >= MANY] {
            h2 { (table.title) }
            @if !table.rows.is_empty() { div .wide {
                table {
                    thead { tr { @for (column, name) in table.header.iter().enumerate() {
                        @let figures = holds_figures(table, column);
                        th .figure[figures] .words[!figures && column > 0] scope="col" { (name.replace(" %", "\u{a0}%")) }
                    } } }
                    tbody {
                        @for (place, row) in table.rows.iter().enumerate() {
                            @let repeats = place > 0 && table.n_word_columns > 1 && table.rows[place - 1][0] == row[0];
                            tr .next[!repeats] { @for (column, cell) in row.iter().enumerate() {
                                @if repeats && column == 0 { td {} } @else { (cell_of(cell, column >= table.n_word_columns)) }
                            } }
                        }
                    }
                }
            } }
            @for line in table.note.lines() { p .note { (line) } }
        }
    }
}

/// Rows of a table that fits on a page with its heading.
const SHORT: usize = 16;

/// Columns from which on a table is set smaller on paper.
const MANY: usize = 8;

/// Whether a column holds figures and no words.
fn holds_figures(table: &Table, column: usize) -> bool {
    let n_figures = table.rows.iter().filter(|row| is_figure(&row[column])).count();
    column >= table.n_word_columns && 2 * n_figures >= table.rows.len()
}

fn is_figure(cell: &str) -> bool {
    cell.starts_with(|c: char| c.is_ascii_digit() || "+-−[".contains(c)) || cell == "n/a"
}

/// A cell; an interval stands below its value.
fn cell_of(cell: &str, may_be_figure: bool) -> Markup {
    let is_figure = may_be_figure && is_figure(cell) || cell == "n/a";
    let (value, interval) = match cell.find(" [").filter(|_| is_figure) {
        Some(at) => cell.split_at(at),
        None => (cell, ""),
    };
    html! { td .figure[is_figure] { (value) @if !interval.is_empty() { span .interval { (interval.trim()) } } } }
}

fn lists(report: &Report) -> Markup {
    html! {
        @for (title, lines) in tables::lists(report) {
            section { h2 { (title) } ul { @for line in lines { li { (line) } } } }
        }
    }
}

/// How to make the report again.
fn again(report: &Report) -> Markup {
    html! {
        section {
            h2 { "How to make this again" }
            pre .command { (report.origin.command) }
            dl { @for (name, value) in tables::facts(report).into_iter().filter(|(name, _)| *name != "command") {
                dt { (name) } dd { (value) }
            } }
        }
    }
}

fn glossary() -> Markup {
    let terms = [
        ("member, non-member", "a record that the model was trained on, and one that it was not, drawn alike"),
        ("TPR, FPR", "the share of members, and of non-members, that an attack calls members"),
        (
            "(a)",
            "the largest |TPR − FPR| over all thresholds on the verdict rows: never below 0, so read beside its null",
        ),
        ("(b)", "TPR − FPR at a threshold and sign fixed on other rows: an honest estimate with an interval"),
        ("null", "what (a) comes to where membership says nothing: memberships dealt anew many times"),
        ("floor", "the same attacks on the label alone; a defence that keeps the label cannot go below it"),
        ("not resolvable", "a false-positive rate below one in the number of non-members: nothing is interpolated"),
    ];
    html! {
        section .glossary {
            h2 { "Words" }
            dl { @for (term, words) in terms { dt { (term) } dd { (words) } } }
            p .note {
                "An audit is no proof: an attacker with more knowledge, more queries or a better idea may do more than the "
                "attacks that were run."
            }
        }
    }
}
