//! What people see of an audit: the tables, the page, the table of records, the policy.

#![allow(clippy::unwrap_used, reason = "helpers of tests: a panic is how a test fails")]

use sordino::audit::duplicates::Duplicates;
use sordino::audit::html;
use sordino::audit::policy::{Policy, PolicyError, Stands, TprLimit};
use sordino::audit::render::{self, Layout};
use sordino::audit::tried;

use crate::audit_support::{EQUAL, planted, planted_outcome, settings, small_report};

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
        ".many table { font-size: 6.4pt; }",
    ] {
        assert!(print.contains(rule), "{rule}");
    }
    // Tables of many columns are set smaller there, and no head of a column keeps it wide.
    assert!(page.contains("th.figure { white-space: normal; }"));
    for section in page.split("<section class=\"tabled").skip(1) {
        let n_columns = section.split("</thead>").next().unwrap().matches("<th ").count();
        assert_eq!(section.split('"').next().unwrap().contains("many"), n_columns >= 8, "{n_columns} columns");
    }
    assert!(page.contains("class=\"onpaper\""));
    // A curve and a histogram for each system that answers scores, the gains, the two frontiers.
    assert!(page.matches("<svg").count() >= 2 * small_report().findings.systems.len());
}

#[test]
fn where_no_attack_counts_the_worth_of_a_call_is_not_told() {
    let mut report = small_report();
    let section = |text: &str, title: &str, next: &str| {
        let start = text.find(title).unwrap_or_else(|| panic!("no {title}"));
        text[start..start + text[start..].find(next).unwrap()].to_owned()
    };
    let told = section(&html::page(&report), "<h2>What a call is worth", "</section>");
    assert!(told.contains("<table") && told.contains("PPV at 1\u{a0}%"), "{told}");
    report.findings = planted(1_500, EQUAL, EQUAL, 3).audit(&settings());
    assert!(report.findings.systems.iter().all(|system| system.headline.value.is_none()));
    for title in ["What a call is worth", "The class that leaks most"] {
        let page = section(&html::page(&report), &format!("<h2>{title}"), "</section>");
        assert!(page.contains("No attack counts") && !page.contains("<table"), "{page}");
        for layout in [Layout::Terminal, Layout::Markdown] {
            let text = section(&render::report(&report, layout), title, "\n\n");
            let text = if layout == Layout::Markdown {
                section(&render::report(&report, layout), &format!("## {title}"), "\n\n## ").replace("\n\n", "\n")
            } else {
                text
            };
            assert!(text.contains("No attack counts"), "{text}");
            assert!(!text.contains("recall") && !text.contains('|') && !text.contains("(b) in the class"), "{text}");
        }
    }
}

#[test]
fn delta_and_what_is_alone_are_told_in_plain_words() {
    let mut report = small_report();
    let text = render::report(&report, Layout::Terminal);
    assert!(text.contains("(δ = 0)") && !text.contains("0e0"), "{text}");
    // The claim's δ is the one that the bounds are of.
    report.findings.systems.iter_mut().for_each(|system| system.epsilon.delta = 1e-5);
    assert!(render::report(&report, Layout::Terminal).contains("(δ = 1e-5)"));
    let words = |non_members, members| Duplicates { non_members, members }.words();
    assert!(words(1, 1).starts_with("1 non-member has exactly the values of a member (1 member):"), "{}", words(1, 1));
    assert!(
        words(2, 3).starts_with("2 non-members have exactly the values of a member (3 members):"),
        "{}",
        words(2, 3)
    );
}

#[test]
fn the_numbers_of_a_frontier_lie_on_top_of_every_point_and_line() {
    let page = html::page(&small_report());
    for chart in ["Advantage and NLL of non-members", "Advantage and ECE of non-members"] {
        let start = page.find(&format!("aria-label=\"{chart}\"")).unwrap();
        let drawn = &page[start..start + page[start..].find("</svg>").unwrap()];
        let (first, last) = (|what| drawn.find(what).unwrap(), |what| drawn.rfind(what).unwrap());
        assert!(last("class=\"leader") < first("class=\"dot"), "{chart}");
        assert!(last("class=\"dot") < first("class=\"spot"), "{chart}");
        assert_eq!(drawn.matches("class=\"number").count(), small_report().findings.systems.len());
    }
    assert!(page.contains("paint-order: stroke"), "a number has a halo");
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

/// Every null in a report stands beside its reason.
fn check_nulls(value: &serde_json::Value, path: &str) {
    match value {
        serde_json::Value::Object(fields) => {
            for (name, value) in fields {
                let explained = ["reason", "tpr"].iter().any(|field| fields.get(*field).is_some_and(|f| !f.is_null()));
                assert!(!value.is_null() || explained, "{path}.{name} is null without a reason");
                check_nulls(value, &format!("{path}.{name}"));
            }
        }
        serde_json::Value::Array(items) => {
            items.iter().enumerate().for_each(|(index, item)| check_nulls(item, &format!("{path}[{index}]")));
        }
        _ => {}
    }
}

#[test]
fn no_figure_is_null_without_a_reason() {
    let json = serde_json::to_value(small_report()).unwrap();
    assert_eq!((json["format"].as_str(), json["format_version"].as_u64()), (Some("sordino.audit"), Some(3)));
    check_nulls(&json, "report");
    // 150 non-members cannot resolve a rate of .001, and the report says so.
    let tpr = &json["findings"]["systems"][0]["attacks"][0]["tpr_at_fpr"][1]["tpr"];
    assert!(tpr["value"].is_null() && tpr["reason"].as_str().unwrap().contains("not resolvable"));
}

#[test]
fn the_tables_name_every_system_and_what_was_not_tried() {
    let report = small_report();
    for layout in [Layout::Terminal, Layout::Markdown] {
        let text = render::report(&report, layout);
        for system in &report.findings.systems {
            assert!(text.matches(&system.name).count() >= 4, "{} in {layout:?}", system.name);
        }
        for line in tried::NOT_TRIED {
            assert!(text.contains(line));
        }
        assert!(!text.contains("NaN"));
        let utility = &report.findings.systems[0].utility;
        let of = |value: f64, low: f64, high: f64| format!("{value:.3} [{low:.3}, {high:.3}]");
        let brier = of(utility.brier.value, utility.brier.low, utility.brier.high);
        let nll = of(utility.nll, utility.nll_interval.low, utility.nll_interval.high);
        let widest = report.findings.systems[0].headline.value.as_ref().unwrap();
        let widest = of(widest.widest, widest.widest_interval.low, widest.widest_interval.high);
        for told in [brier, nll, widest] {
            assert!(text.contains(&told), "{told} in {layout:?}");
        }
        let kept = utility.label_agreement_interval.unwrap();
        assert!(kept.low < 1.0 && kept.high == 1.0, "{kept:?}");
    }
    // A Markdown table has as many cells in each line as in its header.
    let markdown = render::report(&report, Layout::Markdown);
    for block in markdown.split("\n\n").filter(|block| block.starts_with('|')) {
        let cells: Vec<usize> = block.lines().map(|line| line.matches('|').count()).collect();
        assert!(cells.iter().all(|&n| n == cells[0]), "{block}");
    }
}

#[test]
fn what_was_not_tried_is_told_apart() {
    use sordino::audit::tried::{Source, Tried, not_tried};

    let said = |tried| not_tried(&tried).join("\n");
    let nothing = said(Tried::default());
    let all = said(Tried {
        source: Source::Model,
        shadows: true,
        changed: true,
        boundary: true,
        learned: true,
        adversary_one: true,
        adversary_two: true,
        adversary_three: true,
        canaries: true,
        trainings: true,
        undone: true,
        lot: Some(Ok(())),
    });
    let words = ["LiRA", "single records", "changed inputs", "repeated", "mix a record", "boundary", "--scores-only"];
    for word in words.into_iter().chain(["undo it", "by lot", "adversary 1", "adversary 2", "adversary 3"]) {
        assert!(nothing.contains(word) && !all.contains(word), "{word}");
    }
    // Labels under noise are no walk to the boundary, and neither plants a record.
    let queries = said(Tried { changed: true, ..Tried::default() });
    assert!(
        !queries.contains("changed inputs")
            && queries.contains("boundary")
            && queries.contains("canaries")
            && !all.contains("canaries")
    );
    // Nothing is advised that the command line refuses.
    let file = said(Tried { source: Source::Predictions, ..Tried::default() });
    let refused = ["--shadows", "--queries", "--boundary", "--shadow-model", "--random-points"];
    assert!(refused.iter().all(|option| !file.contains(option)), "{file}");
    assert!(file.contains("--transfer-shadow"), "a shadow of other data needs none of the target's rows");
    let endpoint = said(Tried { source: Source::Endpoint, ..Tried::default() });
    assert!(endpoint.contains("--queries") && endpoint.contains("--shadows"), "{endpoint}");
    assert!(endpoint.contains("give --defence and --centroids"), "{endpoint}");
    let few = said(Tried { lot: Some(Err("5 members".to_owned())), ..Tried::default() });
    assert!(few.contains("by lot") && few.contains("5 members"), "{few}");
}
