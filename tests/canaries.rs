//! Canaries, from the lot to the report: planted by one command, trained on by another, found by a third.

#![allow(clippy::unwrap_used, reason = "helpers of tests: a panic is how a test fails")]

use std::fmt::Write as _;
use std::path::Path;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

use crate::command_support::{done, refused};

/// Two overlapping clusters of sixteen numbers.
fn write_table(path: &Path) {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let mut text = String::new();
    for row in 0..600 {
        let label = row % 2;
        write!(text, "{label}").unwrap();
        (0..16).for_each(|_| write!(text, ",{:.3}", label as f64 * 0.8 + rng.random_range(-1.0..1.0)).unwrap());
        text.push('\n');
    }
    std::fs::write(path, text).unwrap();
}

/// Advantage (b) of the strongest attack on one system, and the bounds of its interval; `None` where no attack counts.
fn headline(report: &Value, system: &str) -> Option<[f64; 3]> {
    let systems = report["findings"]["systems"].as_array().unwrap();
    let found = systems.iter().find(|found| found["name"] == system).unwrap();
    let fixed = &found["headline"]["value"]["fixed"];
    let [value, low, high] = ["value", "low", "high"].map(|key| fixed[key].as_f64());
    Some([value?, low?, high?])
}

const MLP: &str = "--network mlp --hidden 64 --learning-rate 0.01 --batch-size 32 --seed 1";

#[test]
fn a_planted_canary_is_found_in_the_model_that_was_trained_with_it_and_in_no_other() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path();
    write_table(&dir.join("t.csv"));
    done(dir, "split --data csv:t.csv --train 200 --calibration 80 --test 300 --seed 1 --out t.split.json");
    let said = done(dir, "data plant --data csv:t.csv --split t.split.json -n 160 --seed 2 --out c");
    assert!(said.contains("160 mislabelled canaries of the part test: 80 to train on, 80 withheld"), "{said}");
    let planted = "--data planted:c.json,csv:t.csv --split c.split.json";
    done(dir, &format!("train {planted} {MLP} --epochs 150 --out with.onnx"));
    done(dir, &format!("train --data csv:t.csv --split t.split.json {MLP} --epochs 40 --out never.onnx"));
    let audit = |model: &str| -> Value {
        let audit =
            format!("audit --model {model}.onnx {planted} --canaries --quiet --permutations 200 --bootstrap 200");
        done(dir, &format!("{audit} --json {model}.report.json"));
        serde_json::from_slice(&std::fs::read(dir.join(format!("{model}.report.json"))).unwrap()).unwrap()
    };
    let report = audit("with");
    assert_eq!((&report["findings"]["n_members"], &report["findings"]["n_non_members"]), (&80.into(), &80.into()));
    let undefended = headline(&report, "undefended").unwrap();
    assert!(undefended[1] > 0.3, "{undefended:?}");
    // What was learned by heart is told by the label that is answered: no defence of scores hides it.
    let floor = headline(&report, "label-only").unwrap();
    assert!(floor[1] > 0.2, "{floor:?}");
    assert!(!report["not_tried"].to_string().contains("canaries"));
    // A model that never saw them tells nothing: no attack counts (R16), or the interval covers 0.
    let never = headline(&audit("never"), "undefended");
    assert!(never.is_none_or(|[_, low, high]| low <= 0.0 && high < 0.4), "{never:?}");
}

#[test]
fn canaries_of_other_data_and_sides_that_contradict_the_split_are_refused() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path();
    write_table(&dir.join("t.csv"));
    done(dir, "split --data csv:t.csv --train 200 --calibration 80 --test 300 --seed 1 --out t.split.json");
    done(dir, "data plant --data csv:t.csv --split t.split.json -n 20 --kind outlier --out c");
    done(dir, "data plant --data csv:t.csv --split t.split.json -n 20 --kind outlier --seed 9 --out d");
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/models/fashion_cnn.onnx");
    let audit = |data: &str, split: &str| {
        refused(dir, &format!("audit --model {model} --data {data} --split {split} --canaries"))
    };
    assert!(audit("csv:t.csv", "t.split.json").contains("expected --data planted:CANARIES,SOURCE"));
    let other = audit("planted:c.json,csv:t.csv", "d.split.json");
    assert!(other.contains("is a canary that the split"), "{other}");
    std::fs::write(dir.join("u.csv"), "a,1\nb,2\na,3\n").unwrap();
    let data = refused(dir, "split --data planted:c.json,csv:u.csv --train 2 --out x");
    assert!(data.contains("expected canaries of the dataset with digest"), "{data}");
    let again = "data plant --data planted:c.json,csv:t.csv --split c.split.json -n 4 --out e";
    assert!(refused(dir, again).contains("planted already"));
    assert!(refused(dir, "data plant --data csv:t.csv --split t.split.json -n 301 --out e").contains("at most 300"));
    assert!(refused(dir, "data plant --data csv:t.csv --split c.json --out e").contains("expected a split file"));
    let own = "data plant --data csv:t.csv --split c.split.json --out c";
    assert!(refused(dir, own).contains("is an input"));
}
