//! What people see of an audit: the page, the table of records, the policy.

#![allow(clippy::unwrap_used, reason = "helpers of tests: a panic is how a test fails")]

use sordino::audit::html;
use sordino::audit::policy::{Policy, PolicyError, Stands, TprLimit};

use crate::audit::{planted_outcome, small_report};

#[test]
fn a_page_is_whole_and_asks_nothing_of_the_network() {
    let page = html::page(&small_report());
    assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>"));
    for outside in ["<script", "http://", "https://", "src=", "@import", "url(", "<link", "<iframe"] {
        assert!(!page.contains(outside), "{outside}");
    }
    for wrong in ["NaN", ">inf", ">-inf", "None", "Some("] {
        assert!(!page.contains(wrong), "{wrong}");
    }
    for told in
        ["Not tried", "How to make this again", "What an attacker gains", "prefers-color-scheme", "@media print"]
    {
        assert!(page.contains(told), "{told}");
    }
    // On paper: black on white, nothing behind a scroll bar, the long tables left out and said to be.
    let print = page.split("@media print").nth(1).unwrap();
    for rule in [
        "--paper: #fff",
        ".wide, .chart { overflow: visible; }",
        "details { display: none; } .onpaper { display: block; }",
    ] {
        assert!(print.contains(rule), "{rule}");
    }
    assert!(page.contains("class=\"onpaper\""));
    // A curve and a histogram for each system that answers scores, the gains, the two frontiers.
    assert!(page.matches("<svg").count() >= 2 * small_report().findings.systems.len());
}

#[test]
fn a_page_cuts_no_name_and_keeps_its_charts_readable() {
    let mut report = small_report();
    let name = "an attack whose name is longer than a key in a chart, on undone answers";
    let system = &mut report.findings.systems[0];
    system.headline.value.as_mut().unwrap().widest_attack.name = name.to_owned();
    system.curves[0].attack = system.headline.value.as_ref().unwrap().widest_attack.clone();
    let page = html::page(&report);
    assert!(page.contains(&format!("<span>{name}</span>")), "the key of a curve is whole");
    // Every chart stands in a box that scrolls; the keys of curves are drawn without one.
    assert_eq!(page.matches("<svg").count(), page.matches("class=\"chart").count() + page.matches("0 0 24 10").count());
    // Columns of words are headed at the left, those of figures at the right.
    assert!(page.contains("words\" scope=\"col\">(b) by</th>"));
    assert!(page.contains("figure\" scope=\"col\">(b)</th>"));
}

#[test]
fn a_page_escapes_what_comes_from_files() {
    let mut report = small_report();
    let hostile = "<img src=x onerror=alert(1)>\"'&";
    report.origin.model = hostile.to_owned();
    report.origin.command = hostile.to_owned();
    report.origin.data_source = hostile.to_owned();
    report.origin.doubts = vec![hostile.to_owned()];
    report.findings.systems[0].name = hostile.to_owned();
    report.findings.systems[0].flags = vec![hostile.to_owned()];
    let page = html::page(&report);
    assert!(!page.contains("<img") && page.contains("&lt;img"), "a file's words are not markup");
}

fn policy(text: &str) -> Policy {
    toml::from_str(text).unwrap()
}

#[test]
fn a_policy_is_held_violated_or_undecided_by_the_interval() {
    let findings = small_report().findings;
    let stands = |text: &str| {
        let mut policy = policy(text);
        policy.systems = vec!["undefended".to_owned()];
        policy.judge(&findings).unwrap()
    };
    let ece = findings.systems[0].utility.ece_interval;
    assert!(ece.low < ece.high);
    let limit = |limit: f64| format!("max_ece = {limit}");
    assert_eq!(stands(&limit(ece.high)).stands, Stands::Held);
    let violated = stands(&limit(ece.low * 0.5));
    assert_eq!(violated.stands, Stands::Violated);
    assert!(violated.judgements[0].why.contains(&format!("by {:.4}", ece.low * 0.5)), "{violated:?}");
    assert_eq!(stands(&limit(f64::midpoint(ece.low, ece.high))).stands, Stands::Undecided);
    // 150 non-members cannot resolve one in a thousand.
    let unresolved = stands("tpr_at_fpr = [{ fpr = 0.001, max = 0.9 }]");
    assert_eq!(unresolved.stands, Stands::Undecided);
    assert!(unresolved.judgements[0].why.contains("not resolvable"), "{unresolved:?}");
    // A violated limit is not hidden by an undecided one.
    let both = stands(&format!("max_ece = {}\ntpr_at_fpr = [{{ fpr = 0.001, max = 0.9 }}]", ece.low * 0.5));
    assert_eq!(both.stands, Stands::Violated);
    assert_eq!(stands("max_accuracy_loss = 0.0").stands, Stands::Held, "every label is kept");
}

#[test]
fn a_policy_that_is_wrong_is_refused() {
    let findings = small_report().findings;
    let refused = |text: &str| policy(text).judge(&findings).unwrap_err();
    assert_eq!(refused(""), PolicyError::Empty);
    assert!(matches!(refused("max_ece = 1.5"), PolicyError::Range { key: "max_ece", .. }));
    assert!(matches!(refused("tpr_at_fpr = [{ fpr = 0.0, max = 0.1 }]"), PolicyError::Range { .. }));
    let unknown = refused("max_ece = 0.5\nsystems = [\"theirs\"]").to_string();
    assert!(unknown.contains("\"theirs\"") && unknown.contains("undefended"), "{unknown}");
    assert!(toml::from_str::<Policy>("max_auc = 0.6").is_err(), "unknown keys are refused");
}

#[test]
fn the_example_policy_is_one() {
    let example = policy(include_str!("../deploy/audit-policy.toml"));
    example.check().unwrap();
    assert_eq!(example.tpr_at_fpr, [TprLimit { fpr: 0.01, max: 0.05 }]);
}

#[test]
fn the_table_of_records_names_no_attack_where_none_counts() {
    let (target, mut outcome) = planted_outcome();
    for system in &mut outcome.records {
        system.attack = None;
    }
    let table = String::from_utf8(sordino::audit::records::csv(&target, &outcome).unwrap()).unwrap();
    let header = table.lines().next().unwrap();
    assert!(!header.contains("score of") && !header.contains("called"), "{header}");
    assert_eq!(header.split(',').count(), 4 + 2 * outcome.records.len());
}

#[test]
fn the_table_of_records_has_a_line_for_each_row() {
    let (target, outcome) = planted_outcome();
    let table = sordino::audit::records::csv(&target, &outcome).unwrap();
    let mut reader = csv::Reader::from_reader(table.as_slice());
    let header = reader.headers().unwrap().clone();
    assert_eq!(header.iter().take(4).collect::<Vec<_>>(), ["row", "member", "part", "label"]);
    assert!(header.iter().any(|name| name == "undefended: scaled logit"));
    let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    assert_eq!(rows.len(), target.n_rows());
    assert_eq!(rows.iter().filter(|row| &row[1] == "1").count(), target.n_members());
    let is_number = |field: &str| field.is_empty() || field.parse::<f64>().is_ok_and(f64::is_finite);
    assert!(rows.iter().all(|row| row.iter().skip(3).all(is_number)));
    let column = |name: &str| header.iter().position(|found| found == name).unwrap();
    let logit = column("label-only: scaled logit");
    assert!(rows.iter().all(|row| row[logit].is_empty()), "a label has no scaled logit");
    assert!(rows.iter().all(|row| !row[column("undefended: scaled logit")].is_empty()));
    assert_eq!(
        rows.iter().filter(|row| &row[2] == "verdict").count(),
        outcome.is_verdict.iter().filter(|v| **v).count()
    );
}
