//! Where an audit's answers come from: files of predictions, and what is refused of them.

#![allow(clippy::unwrap_used, reason = "helpers of tests: a panic is how a test fails")]

use std::collections::HashMap;
use std::fmt::Write as _;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sordino::audit::report::{Findings, Settings};
use sordino::audit::source::predictions::{Columns, Elsewhere, PredictionError, Predictions, Side, TakenAs};
use sordino::audit::study;

/// A table of 3 classes in which members are answered more surely: 60 members, 60 non-members, 60 calibration rows.
fn table(columns: &str) -> String {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let mut text = format!("row,label,member,{columns}\n");
    for row in 0..180 {
        let member = [1, 0, 2][row % 3];
        let label = rng.random_range(0..3_usize);
        let shown = if member == 1 || rng.random_bool(0.7) { label } else { (label + 1) % 3 };
        let margin = if member == 1 { rng.random_range(3.0..6.0) } else { rng.random_range(0.5..4.0) };
        let logits: Vec<f64> =
            (0..3).map(|class| if class == shown { margin } else { rng.random_range(0.0..0.4) }).collect();
        let total: f64 = logits.iter().map(|z| z.exp()).sum();
        let words =
            |value: &dyn Fn(f64) -> f64| logits.iter().map(|&z| value(z).to_string()).collect::<Vec<_>>().join(",");
        let values = match columns.split('_').next().unwrap() {
            "logit" => words(&|z| z),
            "p" => words(&|z| z.exp() / total),
            "log" => words(&|z| z - total.ln()),
            _ => shown.to_string(),
        };
        writeln!(text, "{},{label},{member},{values}", 1_000 + row).unwrap();
    }
    text
}

fn read(text: &str) -> Result<Predictions, PredictionError> {
    Predictions::new(Columns::parse_csv(text.as_bytes())?, &Elsewhere::default())
}

fn findings(text: &str, taken_as: TakenAs) -> Findings {
    let (target, systems, skipped) = read(text).unwrap().study(taken_as).unwrap();
    let settings = Settings { n_permutations: 50, n_resamples: 100, overhead_passes: 1, ..Settings::default() };
    study::run(&target, &systems, skipped, &settings).unwrap()
}

const LOGITS: &str = "logit_0,logit_1,logit_2";
const PROBABILITIES: &str = "p_0,p_1,p_2";

#[test]
fn logits_probabilities_and_their_logarithms_tell_the_same() {
    let auc = |columns: &str| {
        let found = findings(&table(columns), TakenAs::Served);
        let names: Vec<&str> = found.systems.iter().map(|system| system.name.as_str()).collect();
        assert_eq!(names, ["as answered", "label-only"]);
        assert_eq!((found.n_members, found.n_non_members), (60, 60));
        assert!(!found.reference.is_undefended && found.not_allowed.is_empty());
        assert!(found.systems[0].utility.label_agreement.value.is_none(), "there is no undefended model to agree with");
        found.systems[0].attacks[0].auc.value
    };
    let [logits, probabilities, logs] = [LOGITS, PROBABILITIES, "log_p_0,log_p_1,log_p_2"].map(auc);
    assert!(logits > 0.8, "{logits}");
    assert!((logits - probabilities).abs() < 1e-12 && (logits - logs).abs() < 1e-12);
}

#[test]
fn undefended_scores_of_a_file_meet_the_systems_of_an_audit() {
    let found = findings(&table(LOGITS), TakenAs::Undefended);
    let names: Vec<&str> = found.systems.iter().map(|system| system.name.as_str()).collect();
    assert_eq!(names, ["undefended", "temperature-scaled", "label-only"]);
    assert!(found.reference.is_undefended && found.allows.logits);
    assert!(found.skipped.iter().all(|one| one.reason.contains("centroid")), "{:?}", found.skipped);
}

#[test]
fn labels_alone_allow_the_gap_attack_and_say_what_they_do_not() {
    let found = findings(&table("predicted"), TakenAs::Served);
    assert!(!found.allows.scores);
    assert_eq!(found.systems[0].attacks.len(), 1);
    assert!(found.not_allowed.iter().any(|one| one.lacks == "a score for each class"), "{:?}", found.not_allowed);
    assert!(read(&table("predicted")).unwrap().study(TakenAs::Undefended).is_err());
}

#[test]
fn labels_and_sides_may_come_from_elsewhere() {
    let text = "predicted\n0\n1\n0\n1\n1\n";
    let labels = [0, 1, 1, 1, 0];
    let side = [(0, Side::Member), (1, Side::Member), (3, Side::NonMember), (4, Side::NonMember)];
    let elsewhere = Elsewhere { labels: Some(&labels), sides: Some(HashMap::from(side)) };
    let columns = || Columns::parse_csv(text.as_bytes()).unwrap();
    let (target, ..) = Predictions::new(columns(), &elsewhere).unwrap().study(TakenAs::Served).unwrap();
    assert_eq!((target.labels(), target.dataset_rows()), (&[0, 1, 1, 0][..], &[0, 1, 3, 4][..]));
    let short = Elsewhere { labels: Some(&labels[..3]), ..elsewhere };
    let refused = Predictions::new(columns(), &short).unwrap_err().to_string();
    assert!(refused.contains("expected a record below 3"), "{refused}");
}

#[test]
fn what_does_not_fit_is_refused_with_its_place() {
    let refused = |text: &str| match read(text).and_then(|read| read.study(TakenAs::Served).map(|_| ())) {
        Ok(()) => panic!("{text}"),
        Err(error) => error.to_string(),
    };
    let says = |text: &str, words: &str| {
        let said = refused(text);
        assert!(said.contains(words), "{text:?}: {said}");
    };
    let head = "label,member,p_0,p_1\n";
    let rows = "0,1,0.9,0.1\n1,1,0.2,0.8\n0,0,0.6,0.4\n";
    says(&format!("{head}{rows}1,0,NaN,0.4\n"), "row 3 (from 0): expected");
    says(&format!("label,member,logit_0,logit_1\n{rows}1,0,1,inf\n"), "expected a finite score");
    says(&format!("{head}{rows}1,0,0.6,0.6\n"), "row 3 (from 0): expected probabilities that sum to 1");
    says(&format!("{head}{rows}2,0,0.6,0.4\n"), "expected a label below 2, got 2");
    says(&format!("{head}{rows}0.5,0,0.6,0.4\n"), "expected a label, a whole number");
    says(&format!("{head}{rows}-1,0,0.6,0.4\n"), "expected a label, a whole number");
    says(&format!("{head}{rows}1,7,0.6,0.4\n"), "expected 0, 1, 2 or 3 as member");
    says(&format!("{head}{rows}"), "the non-members have 1 row: the audit needs two");
    says("label,member,p_0,p_1\n", "the members have 0 rows");
    says(&format!("{head}{rows}1,0,0.6\n"), "row 3 (from 0): expected comma-separated");
    says(&format!("{head}{rows}1,0,secret,0.4\n"), "a number in column \"p_0\", got other text");
    says(&format!("{head}0,1,0.9,0.1\n0,1,0.8,0.2\n0,0,0.6,0.4\n0,0,0.6,0.4\n"), "all 4 rows are of class 0");
    says("label,member,p_0,p_2\n", "a column for each class from 0, got none for class 1");
    says("label,member,p_0,logit_1\n", "scores of one kind");
    says("label,member,p_0\n", "scores of two classes at least");
    says("label,member,p_0,p_1,age\n", "got \"age\"");
    says("label,p_0,p_1\n1,0.5,0.5\n", "a column \"member\", or a split");
    says("member,p_0,p_1\n1,0.5,0.5\n", "a column \"label\", or a data set");
    says("label,member\n1,1\n", "scores, or a column \"predicted\"");
    let with_rows = "row,label,member,p_0,p_1\n7,0,1,0.9,0.1\n8,1,1,0.2,0.8\n9,0,0,0.6,0.4\n";
    says(&format!("{with_rows}8,1,0,0.6,0.4\n"), "record 8 is a member and a non-member at once");
    says(&format!("{with_rows}9,1,0,0.6,0.4\n"), "record 9 is there twice");
}
