//! What the audit's command refuses, and that it does so before the work.

#![allow(clippy::unwrap_used, reason = "helpers of tests: a panic is how a test fails")]

use std::fmt::Write as _;
use std::path::Path;

use serde_json::Value;

use crate::audit_workshop::{TARGET, report, workshop, write_images};
use crate::command_support::{done, refused, sordino};

/// Files of row numbers: so many members from row 0 on, and as many others behind them as are wanted.
fn write_sides(dir: &Path, name: &str, n_members: usize, n_others: usize) -> String {
    let write = |file: &str, rows: std::ops::Range<usize>| {
        std::fs::write(dir.join(file), rows.map(|row| format!("{row}\n")).collect::<String>()).unwrap();
    };
    write(&format!("{name}.members"), 0..n_members);
    write(&format!("{name}.others"), n_members..n_members + n_others);
    format!("--members {name}.members --non-members {name}.others")
}

/// Answers of `n` members and as many others, of two classes: every member is answered by `of_member`, the others by `of_other`.
fn write_predictions(dir: &Path, n: usize, of_member: impl Fn(usize) -> f64, of_other: impl Fn(usize) -> f64) {
    let mut text = String::from("label,member,p_0,p_1\n");
    for row in 0..2 * n {
        let (member, top) = if row < n { (1, of_member(row)) } else { (0, of_other(row - n)) };
        let (first, second) = if row % 2 == 0 { (top, 1.0 - top) } else { (1.0 - top, top) };
        writeln!(text, "{},{member},{first:.6},{second:.6}", row % 2).unwrap();
    }
    std::fs::write(dir.join(format!("of_{n}.csv")), text).unwrap();
}

#[test]
fn too_few_rows_are_refused_before_a_model_is_asked() {
    let dir = workshop();
    // No model, and nobody at the address: whoever asked first would fail at that.
    std::fs::write(dir.join("no_model.onnx"), "not a model").unwrap();
    let of_model = |sides: &str| refused(dir, &format!("audit --model no_model.onnx --data csv:t.csv {sides}"));
    let of_endpoint = |sides: &str| {
        refused(dir, &format!("audit --endpoint http://127.0.0.1:9/v2/models/m --data csv:t.csv {sides}"))
    };
    for (n_members, n_others, expected) in [
        (5, 5, "at least 15 members and 15 non-members are needed"),
        (8, 16, "at least 13 members beside as many non-members are needed"),
        (100, 3, "at least 5 non-members beside as many members are needed"),
    ] {
        let sides = write_sides(dir, "poor", n_members, n_others);
        for said in [of_model(&sides), of_endpoint(&sides)] {
            assert!(said.contains(&format!("{n_members} members and {n_others} non-members are too few")), "{said}");
            assert!(said.contains(expected), "{said}");
        }
    }
    let rich = write_sides(dir, "rich", 15, 15);
    assert!(!of_model(&rich).contains("too few") && !of_endpoint(&rich).contains("too few"));
    done(dir, "split --data csv:t.csv --train 14 --test 14 --seed 3 --out poor.split.json");
    assert!(of_model("--split poor.split.json").contains("14 members and 14 non-members are too few"));
    let training = refused(dir, &format!("audit --model no_model.onnx {TARGET} --training u.onnx,poor.split.json"));
    assert!(training.contains("--training: poor.split.json") && training.contains("are too few"), "{training}");
    write_predictions(dir, 14, |_| 0.9, |_| 0.6);
    let predictions = refused(dir, "audit --predictions of_14.csv");
    assert!(predictions.contains("14 members and 14 non-members are too few"), "{predictions}");
}

#[test]
fn on_the_fewest_rows_a_perfect_attack_is_seen_and_a_flag_says_what_would_not_be() {
    let dir = workshop();
    write_predictions(dir, 15, |row| 0.9 + 0.001 * row as f64, |row| 0.6 + 0.001 * row as f64);
    let outputs = "--html of_15.html --markdown of_15.md --json of_15.json";
    let output = sordino(dir, &format!("audit --predictions of_15.csv --quiet {outputs}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let read = |file: &str| std::fs::read_to_string(dir.join(file)).unwrap();
    let found: Value = serde_json::from_str(&read("of_15.json")).unwrap();
    let answered = &found["findings"]["systems"][0];
    let headline = &answered["headline"]["value"];
    assert_eq!((&headline["leak"], &headline["widest"]), (&Value::from("seen"), &Value::from(1.0)));
    assert!(headline["widest_null"]["value"]["q95"].as_f64().unwrap() < 1.0, "{headline}");
    assert!(answered["epsilon"]["ceiling"].as_f64().unwrap() > 0.0);
    let resolvable = found["findings"]["resolvable_advantage"].as_f64().unwrap();
    assert!(resolvable > 0.47 && resolvable < 0.49, "{resolvable}");
    let warning = found["findings"]["warnings"][0].as_str().unwrap();
    let words = "with 8 members and 8 non-members in the verdict an advantage below 0.48 cannot be told from chance";
    assert!(warning.contains(words), "{warning}");
    assert!(read("of_15.html").contains("<p class=\"alarm\"><strong>In doubt: </strong>there are few rows"));
    assert!(read("of_15.md").contains(&format!("**Warning:** {warning}")));
    assert!(String::from_utf8_lossy(&output.stdout).contains(&format!("  WARNING: {warning}")));
    assert!(String::from_utf8_lossy(&output.stderr).contains(&format!("WARNING: {warning}")));
    // What these rows cannot decide is undecided, flag or not.
    std::fs::write(dir.join("few.toml"), "systems = [\"as answered\"]\nmax_advantage = 0.9\n").unwrap();
    let judged = sordino(dir, "audit --predictions of_15.csv --quiet --policy few.toml");
    assert_eq!(judged.status.code(), Some(4), "{}", String::from_utf8_lossy(&judged.stdout));
    // Rows that resolve a fifth raise no flag.
    let many = report("many", &format!("--model t.onnx {TARGET} --scores-only"));
    assert!(many["findings"]["resolvable_advantage"].as_f64().unwrap() < 0.2);
    assert!(!many["findings"]["warnings"].to_string().contains("few rows"));
}

#[test]
fn a_claim_and_a_budget_are_checked_before_the_model_is_asked() {
    let dir = workshop();
    std::fs::write(dir.join("no_claim.json"), "{}").unwrap();
    std::fs::write(dir.join("wrong_claim.json"), "{\"privacy\": {\"epsilon\": -1.0, \"delta\": 1e-5}}").unwrap();
    // Rows of another width than the model's: whoever asked it would be told so.
    let mut wide = String::new();
    for row in 0..200 {
        writeln!(wide, "{},0.5,{row}", row % 5).unwrap();
    }
    std::fs::write(dir.join("wide.csv"), wide).unwrap();
    let sides = write_sides(dir, "wide", 40, 40);
    let audit = format!("audit --model t.onnx --data csv:wide.csv {sides}");
    assert!(refused(dir, &audit).contains("the rows do not fit the model"));
    for (record, expected) in [
        ("missing.json", "missing.json"),
        ("t.csv", "t.csv: not a run record"),
        ("no_claim.json", "no_claim.json: the record claims no privacy"),
        ("wrong_claim.json", "expected a claim of an ε of 0 or more and a δ of 0 to 1, got ε = -1, δ = 0.00001"),
    ] {
        let said = refused(dir, &format!("{audit} --record {record}"));
        assert!(said.contains("--record") && said.contains(expected), "{record}: {said}");
    }
    for (words, wanted) in [("--random-points 500", 500), ("--queries", 80 * 52)] {
        let poor = refused(dir, &format!("{audit} {words} --query-budget {}", wanted - 1));
        let expected = format!("--query-budget: {wanted} further queries are wanted, it holds {} more", wanted - 1);
        assert!(poor.contains(&expected), "{words}: {poor}");
        let enough = refused(dir, &format!("{audit} {words} --query-budget {wanted}"));
        assert!(enough.contains("the rows do not fit the model"), "{words}: {enough}");
    }
}

#[test]
fn an_address_off_this_machine_is_told_once() {
    let said = refused(workshop(), &format!("audit --endpoint http://10.1.1.1:9/v2/models/m {TARGET}"));
    assert!(said.contains("10.1.1.1 is not a loopback address") && !said.contains("10.1.1.1 is 10.1.1.1"), "{said}");
    let shown = sordino::client::ClientError::NotLoopback {
        host: "models.internal".to_owned(),
        address: std::net::Ipv4Addr::new(10, 1, 1, 1).into(),
    };
    assert!(
        shown.to_string().starts_with("models.internal is 10.1.1.1, and 10.1.1.1 is not a loopback address"),
        "{shown}"
    );
}

#[test]
fn what_is_wrong_with_a_shadow_is_told_before_a_row_of_the_target_is_asked() {
    let dir = workshop();
    // There is no endpoint there: whoever asked it first would fail to connect.
    let endpoint = format!("audit --endpoint http://127.0.0.1:9/v2/models/m {TARGET} --transfer-shadow");
    let model = format!("audit --model t.onnx {TARGET} --transfer-shadow");
    std::fs::write(dir.join("few.csv"), "0,1,2\n1,3,4\n".repeat(15)).unwrap();
    done(dir, "split --data csv:few.csv --train 15 --test 15 --out few.split.json");
    for (words, expected) in [
        ("none.onnx,o.split.json,csv:o.csv", "--transfer-shadow: no file none.onnx"),
        ("o.onnx,none.json,csv:o.csv", "--transfer-shadow: no file none.json"),
        ("o.onnx,o.split.json,csv:none.csv", "none.csv"),
        ("o.onnx,t.split.json,csv:o.csv", "expected a split of the dataset with digest"),
        ("t.onnx,o.split.json,csv:o.csv", "expected 3 classes, got 5"),
        (
            "o.onnx,few.split.json,csv:few.csv",
            "15 members of the shadow model: an attack is learned on 20 of each side",
        ),
        ("t.onnx,t.split.json,csv:t.csv", "its data are the audit's own"),
        ("o.onnx,o.split.json", "expected MODEL,SPLIT,SOURCE"),
        ("o.onnx,o.split.json,cvs:o.csv", "the source of MODEL,SPLIT,SOURCE"),
    ] {
        let said = refused(dir, &format!("{endpoint} {words}"));
        assert!(said.contains(expected), "{words}: {said}");
    }
    // The same content under another name, and the audited model itself.
    std::fs::copy(dir.join("t.csv"), dir.join("copy.csv")).unwrap();
    std::fs::copy(dir.join("t.onnx"), dir.join("copy.onnx")).unwrap();
    assert!(refused(dir, &format!("{model} u.onnx,t.split.json,csv:copy.csv")).contains("the audit's own"));
    assert!(
        refused(dir, &format!("{model} copy.onnx,t.split.json,csv:copy.csv")).contains("is the model that is audited")
    );
    // A bank of other data, centroids of other data: before the endpoint, as everything that can be told.
    let other = "audit --endpoint http://127.0.0.1:9/v2/models/m --data csv:o.csv --split o.split.json --shadows bank";
    assert!(refused(dir, other).contains("the bank was trained on other data"));
    done(dir, "centroids build --model o.onnx --data csv:o.csv --split o.split.json --out o.safetensors");
    let defended = "--defence served.toml --centroids o.safetensors";
    let other = format!("audit --endpoint http://127.0.0.1:9/v2/models/m {TARGET} {defended}");
    assert!(refused(dir, &other).contains("--centroids: expected those of 5 classes, as the data has, got 3"));
    let shadow =
        |words: &str| refused(dir, &format!("audit --endpoint http://127.0.0.1:9/v2/models/m {TARGET} {words}"));
    assert!(
        shadow("--shadow-model none.onnx --shadow-split o.split.json").contains("--shadow-model: no file none.onnx")
    );
    assert!(shadow("--shadows nowhere").contains("--shadows: no folder nowhere"));
    assert!(shadow("--random-points 20").contains("100"), "too few points for one in ten");
}

#[test]
fn heat_maps_are_refused_early_where_there_is_nothing_to_draw() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path();
    write_images(dir);
    let data = "--data npy:x.npy,y.npy --split m.split.json";
    done(dir, "split --data npy:x.npy,y.npy --train 60 --test 60 --seed 1 --out m.split.json");
    done(dir, &format!("train {data} --network mlp --hidden 8 --epochs 1 --out m.onnx"));
    let audit =
        |model: &str, more: &str| refused(dir, &format!("audit --model {model} {data} --analysis --pictures {more}"));
    // The model is not there: whoever read it first would say so.
    let flat = audit("none.onnx", "--heatmaps m.weights.safetensors");
    assert!(flat.contains("--heatmaps: expected weights of a network with a convolution"), "{flat}");
    let damaged = audit("none.onnx", "--heatmaps m.split.json");
    assert!(damaged.contains("--heatmaps: m.split.json"), "{damaged}");
    let endpoint = format!("audit --endpoint http://127.0.0.1:9/v2/models/m {data} --analysis --pictures");
    let remote = refused(dir, &format!("{endpoint} --heatmaps m.weights.safetensors"));
    assert!(remote.contains("cannot be used with"), "{remote}");
    assert!(refused(dir, "audit --heatmaps m.weights.safetensors").contains("--pictures"));
}

#[test]
fn nothing_is_written_where_one_file_cannot_be_and_no_input_is_overwritten() {
    let dir = workshop();
    let audit = |words: &str| {
        refused(
            dir,
            &format!("audit --model t.onnx {TARGET} --shadow-model o.onnx --shadow-split o.split.json {words}"),
        )
    };
    let before = std::fs::read(dir.join("o.onnx")).unwrap();
    std::fs::create_dir_all(dir.join("folder")).unwrap();
    for bad in ["--html missing/x.html", "--csv folder", "--markdown o.onnx", "--html o.split.json", "--csv half.json"]
    {
        let said = audit(&format!("--json half.json {bad}"));
        assert!(said.contains(bad.split(' ').next().unwrap()), "{bad}: {said}");
        assert!(!dir.join("half.json").exists(), "{bad}: a report was begun");
    }
    assert!(audit("--json half.json --markdown o.onnx").contains("o.onnx is an input"));
    assert_eq!(std::fs::read(dir.join("o.onnx")).unwrap(), before);
    let inputs = [
        ("--shadows bank", "bank/model-00000.onnx"),
        ("--shadows bank", "bank/inclusion.safetensors"),
        ("--training u.onnx,t.split.json", "u.onnx"),
        ("--transfer-shadow o.onnx,o.split.json,csv:o.csv", "o.csv"),
        ("--transfer-shadow o.onnx,o.split.json,csv:o.csv", "o.split.json"),
    ];
    for (words, path) in inputs {
        let said = refused(dir, &format!("audit --model t.onnx {TARGET} {words} --json {path}"));
        assert!(said.contains(&format!("--json: {path} is an input")), "{words}: {said}");
    }
    let left: Vec<String> =
        std::fs::read_dir(dir).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    assert!(!left.iter().any(|name| name.contains("half")), "{left:?}");
}
