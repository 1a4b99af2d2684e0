//! The audit from the command line to the report: what an attacker brings, what is refused, what is written.

#![allow(clippy::unwrap_used, reason = "helpers of tests: a panic is how a test fails")]

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

use crate::command_support::{done, refused};

/// Overlapping clusters, so that who is right about a training row has learned it by heart.
pub(crate) fn write_table(path: &Path, (n_rows, n_classes, n_columns): (usize, usize, usize), seed: u64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut text = String::new();
    for row in 0..n_rows {
        let label = row % n_classes;
        write!(text, "{label}").unwrap();
        for column in 0..n_columns {
            let centre = if column % n_classes == label { 0.35 } else { 0.0 };
            write!(text, ",{:.3}", centre + rng.random_range(-1.0..1.0)).unwrap();
        }
        text.push('\n');
    }
    std::fs::write(path, text).unwrap();
}

pub(crate) const MLP: &str = "--network mlp --hidden 64 --learning-rate 0.01 --batch-size 32 --epochs 40";

/// A folder with an overfitted model `t` and its centroids, one of the same recipe and seed 2 (`u`), a shadow `s` of the
/// split's shadow rows, a shadow `o` of other data (3 classes, 12 columns), and a bank of 6 models.
fn workshop() -> &'static Path {
    static WORKSHOP: OnceLock<tempfile::TempDir> = OnceLock::new();
    let made = WORKSHOP.get_or_init(|| {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path();
        write_table(&dir.join("t.csv"), (900, 5, 20), 3);
        write_table(&dir.join("o.csv"), (500, 3, 12), 4);
        done(dir, "split --data csv:t.csv --train 150 --calibration 60 --test 150 --seed 1 --out t.split.json");
        done(dir, "split --data csv:o.csv --train 150 --test 150 --seed 2 --out o.split.json");
        done(dir, &format!("train --data csv:t.csv --split t.split.json {MLP} --seed 1 --out t.onnx"));
        done(dir, &format!("train --data csv:t.csv --split t.split.json {MLP} --seed 2 --out u.onnx"));
        done(dir, &format!("train --data csv:o.csv --split o.split.json {MLP} --seed 3 --out o.onnx"));
        for model in ["t", "u"] {
            let built = format!("--model {model}.onnx --data csv:t.csv --split t.split.json --out {model}.safetensors");
            done(dir, &format!("centroids build {built}"));
        }
        let plan = "shadows plan --out bank --data csv:t.csv --split t.split.json --recipe t.json --balanced 6";
        done(dir, &format!("{plan} --pool train,test"));
        done(dir, "shadows run bank --data csv:t.csv --jobs 2");
        let defence = "[defence]\nmethod = { reweight = { weight = 0.1 } }\n";
        std::fs::write(dir.join("served.toml"), defence).unwrap();
        let files = "[model]\npath = \"t.onnx\"\ncentroids = \"t.safetensors\"\n";
        std::fs::write(dir.join("serve.toml"), format!("{files}{defence}")).unwrap();
        home
    });
    made.path()
}

const TARGET: &str = "--data csv:t.csv --split t.split.json";
pub(crate) const QUICK: &str = "--quiet --permutations 50 --bootstrap 100";

/// Audits into `NAME.json` of the workshop, and reads it.
fn report(name: &str, words: &str) -> Value {
    let dir = workshop();
    done(dir, &format!("audit {words} {QUICK} --json {name}.json"));
    serde_json::from_slice(&std::fs::read(dir.join(format!("{name}.json"))).unwrap()).unwrap()
}

pub(crate) fn system<'a>(report: &'a Value, name: &str) -> &'a Value {
    let systems = report["findings"]["systems"].as_array().unwrap();
    systems.iter().find(|found| found["name"] == name).unwrap_or_else(|| panic!("no system {name}"))
}

pub(crate) fn attack_names(system: &Value) -> Vec<&str> {
    system["attacks"].as_array().unwrap().iter().map(|found| found["attack"]["name"].as_str().unwrap()).collect()
}

pub(crate) fn value(estimate: &Value) -> f64 {
    estimate["value"].as_f64().unwrap()
}

fn adversaries<'a>(report: &'a Value, system: &str, number: u64) -> Vec<&'a Value> {
    let all = report["findings"]["ml_leaks"].as_array().unwrap();
    all.iter().filter(|one| one["system"] == system && one["adversary"] == number).collect()
}

#[test]
fn adversary_two_learns_on_a_shadow_of_other_data_behind_the_same_defence() {
    let words = format!(
        "--model t.onnx --centroids t.safetensors {TARGET} --transfer-shadow o.onnx,o.split.json,csv:o.csv --html two.html"
    );
    let found = report("two", &words);
    let undefended = adversaries(&found, "undefended", 2);
    assert_eq!(undefended.len(), 2, "as in the paper's code and as in the paper");
    for one in undefended {
        assert!(one["counts"] == true && value(&one["auc"]) > 0.65, "{one}");
        // Its own rule, of no row of the target: some non-members are called, and more members.
        let (tpr, fpr) = (value(&one["tpr"]), value(&one["fpr"]));
        assert!(tpr > fpr + 0.2 && one["rule"].as_str().unwrap().contains("odds"), "{one}");
        let precision = value(&one["precision"]["value"]);
        assert!((precision - tpr / (tpr + fpr)).abs() < 1e-9, "as many rows on both sides");
    }
    // Five systems and more, each with the shadow behind its own defence: nothing had to be left undefended.
    assert_eq!(adversaries(&found, "reweight w=0.1", 2).len(), 2);
    assert!(found["origin"]["doubts"].as_array().unwrap().is_empty(), "{}", found["origin"]["doubts"]);
    assert!(!found.to_string().contains("undefended shadows"));
    let told = found["not_tried"].to_string();
    assert!(!told.contains("adversary 2") && told.contains("adversary 1") && told.contains("adversary 3"), "{told}");
    let page = std::fs::read_to_string(workshop().join("two.html")).unwrap();
    assert!(page.contains("adversaries</h2>") && page.contains("ML-Leaks adversary 2, network on top 3"));
}

#[test]
fn adversary_two_reads_a_file_of_answers_too_and_says_that_its_shadow_stood_undefended() {
    let dir = workshop();
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    let mut text = String::from("label,member,p_0,p_1\n");
    for row in 0..240 {
        let top: f64 = rng.random_range(0.6..0.8) + if row % 2 == 0 { 0.19 } else { 0.0 };
        writeln!(text, "{},{},{top:.6},{:.6}", usize::from(row % 7 == 0), row % 2, 1.0 - top).unwrap();
    }
    std::fs::write(dir.join("answers.csv"), text.replace(",0,", ",x,").replace(",1,", ",0,").replace(",x,", ",1,"))
        .unwrap();
    let found = report("file", "--predictions answers.csv --transfer-shadow o.onnx,o.split.json,csv:o.csv");
    let adversary = adversaries(&found, "as answered", 2);
    // Two classes here, three there: what is learned does not speak of classes.
    assert!(adversary[0]["attack"]["name"].as_str().unwrap().ends_with("(undefended shadows)"), "{}", adversary[0]);
    assert!(adversary.iter().all(|one| one["counts"] == true && value(&one["auc"]) > 0.9), "{adversary:?}");
    assert!(found["origin"]["doubts"].to_string().contains("nobody said what defends these answers"));
    std::fs::write(dir.join("labels.csv"), "label,member,predicted\n0,1,0\n1,1,1\n0,0,1\n1,0,1\n").unwrap();
    let words = "audit --predictions labels.csv --transfer-shadow o.onnx,o.split.json,csv:o.csv";
    assert!(refused(dir, words).contains("these answers are labels alone"));
}

#[test]
fn adversary_three_holds_the_largest_entry_against_random_points_within_the_budget() {
    let dir = workshop();
    let words = format!("--model t.onnx {TARGET} --random-points 500 --html three.html");
    let found = report("three", &words);
    let [undefended] = adversaries(&found, "undefended", 3)[..] else { panic!("one attack") };
    let confidence = system(&found, "undefended")["attacks"].as_array().unwrap();
    let confidence = confidence.iter().find(|one| one["attack"]["name"] == "confidence").unwrap();
    assert_eq!(undefended["auc"], confidence["auc"], "the score is the largest entry");
    assert_ne!(undefended["tpr"], confidence["calls"]["recall_members"], "the rule is its own");
    assert!(undefended["rule"].as_str().unwrap().ends_with("which 10 % of 500 random points pass"), "{undefended}");
    // A label says nothing by its largest entry: no row passes 1, and no point.
    let [floor] = adversaries(&found, "label-only", 3)[..] else { panic!("one attack") };
    assert!(value(&floor["tpr"]) == 0.0 && floor["precision"]["reason"] == "nobody is called a member", "{floor}");
    assert!(floor["rule"].as_str().unwrap().ends_with("above 1, which 0 % of 500 random points pass"), "{floor}");
    assert!(!found["not_tried"].to_string().contains("adversary 3"));
    let page = std::fs::read_to_string(dir.join("three.html")).unwrap();
    assert!(page.contains("largest entry against random points"));
    let poor = format!("audit --model t.onnx {TARGET} --random-points 500 --query-budget 499");
    assert!(refused(dir, &poor).contains("500 further queries are wanted, it holds 499 more"));
    let again = report("three_again", &words);
    assert_eq!(again["findings"]["ml_leaks"], found["findings"]["ml_leaks"], "the points are drawn from the seed");
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

/// A running server, ended with the test.
pub(crate) struct Served(Child, pub(crate) String);

impl Served {
    pub(crate) fn start(dir: &Path) -> Self {
        let words = "serve --config serve.toml --listen 127.0.0.1:0 --metrics-listen 127.0.0.1:0";
        let mut command = Command::new(env!("CARGO_BIN_EXE_sordino"));
        command.args(words.split_whitespace()).current_dir(dir).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.split("http://").nth(1).unwrap().split(' ').next().unwrap();
        let name = line.split('\'').nth(1).unwrap();
        Self(child, format!("http://{address}/v2/models/{name}"))
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn shadows_of_an_endpoint_stand_behind_its_defence_where_that_is_known_and_the_report_says_where_it_is_not() {
    let dir = workshop();
    let served = Served::start(dir);
    let asked = format!("--endpoint {} {TARGET} --shadows bank", served.1);
    let unknown = report("unknown", &asked);
    let names = attack_names(system(&unknown, "as answered"));
    assert!(names.contains(&"LiRA online, fixed variance (undefended shadows)"), "{names:?}");
    assert!(names.contains(&"ML-Leaks adversary 1, network on top 3 (undefended shadows)"), "{names:?}");
    assert!(!names.contains(&"LiRA online, fixed variance"));
    assert!(unknown["origin"]["doubts"].to_string().contains("nobody said what defends these answers"));
    // The floor is known whatever the defence is: a label is a label, and the attack counts there if it does above.
    let floor = attack_names(system(&unknown, "label-only"));
    assert!(floor.contains(&"LiRA online, fixed variance"), "{floor:?}");
    let counts = |report: &Value, of: &str, attack: &str| {
        let attacks = system(report, of)["attacks"].as_array().unwrap();
        attacks.iter().find(|one| one["attack"]["name"] == attack).unwrap()["counts"].clone()
    };
    let above = counts(&unknown, "as answered", "LiRA online, fixed variance (undefended shadows)");
    assert_eq!(counts(&unknown, "label-only", "LiRA online, fixed variance"), above);

    // Who knows the defence and not its centroids fits it to each shadow's own members, and undoes nothing.
    let known = report("known", &format!("{asked} --defence served.toml"));
    let names = attack_names(system(&known, "as answered"));
    assert!(
        names.contains(&"LiRA online, fixed variance") && !known.to_string().contains("undefended shadows)"),
        "{names:?}"
    );
    assert!(known["origin"]["doubts"].as_array().unwrap().is_empty());
    assert!(!names.iter().any(|name| name.contains("undone")));
    // With the centroids the defence is undone, too, and held against undefended shadows: there the leak is.
    let undone = report("undone", &format!("{asked} --defence served.toml --centroids t.safetensors"));
    let auc = |report: &Value, attack: &str| {
        let attacks = system(report, "as answered")["attacks"].as_array().unwrap();
        value(&attacks.iter().find(|one| one["attack"]["name"] == attack).unwrap()["auc"])
    };
    let (plain, read_back) =
        (auc(&known, "LiRA online, fixed variance"), auc(&undone, "LiRA online, fixed variance on undone answers"));
    assert!(read_back > 0.8 && read_back > plain, "{read_back} {plain}");
    assert!(!undone["not_tried"].to_string().contains("LiRA"));

    let alone = refused(dir, &format!("audit --endpoint {} {TARGET} --defence served.toml", served.1));
    assert!(alone.contains("needs its --centroids too"), "{alone}");
    let bare = refused(dir, &format!("audit --endpoint {} {TARGET} --centroids t.safetensors", served.1));
    assert!(bare.contains("give the --defence"), "{bare}");
    let budget =
        refused(dir, &format!("audit --endpoint {} {TARGET} --random-points 100 --query-budget 399", served.1));
    assert!(budget.contains("the audit needs 400 more queries, the budget is 399"), "{budget}");
    let forms = refused(dir, &format!("audit {asked} --augment 2"));
    assert!(forms.contains("--augment: expected images, got rows of shape [20]"), "{forms}");
}

#[test]
fn the_table_of_records_holds_each_ones_risk_by_which_the_worst_are_told() {
    let dir = workshop();
    let found =
        report("risk", &format!("--model t.onnx --centroids t.safetensors {TARGET} --shadows bank --csv risk.csv"));
    let table = std::fs::read(dir.join("risk.csv")).unwrap();
    let mut reader = csv::Reader::from_reader(table.as_slice());
    let header = reader.headers().unwrap().clone();
    let column = |name: &str| header.iter().position(|found| found == name).unwrap_or_else(|| panic!("no {name}"));
    let at = ["row", "undefended: risk over shadow models", "undefended: AUC over shadow models"].map(column);
    column("label-only: risk over shadow models");
    assert!(
        !header.iter().any(|name| name == "temperature-scaled: risk over shadow models"),
        "no bank stands before it"
    );
    let records: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    assert_eq!(records.len(), 300);
    // With six models some records have no stranger among those that judge them: they have no risk.
    let judged = records.iter().filter(|row| !row[at[1]].is_empty());
    let rows: Vec<[f64; 3]> = judged.map(|row| at.map(|at| row[at].parse().unwrap())).collect();
    assert!(rows.len() > 250, "{}", rows.len());
    let mut worst = rows.clone();
    worst.sort_by(|a, b| b[1].total_cmp(&a[1]).then(b[2].total_cmp(&a[2])).then(a[0].total_cmp(&b[0])));
    let banks = found["findings"]["leave_one_out"].as_array().unwrap();
    let bank = banks.iter().find(|bank| bank["system"] == "undefended").unwrap();
    let told: Vec<f64> = bank["worst"].as_array().unwrap().iter().map(|risk| risk["row"].as_f64().unwrap()).collect();
    assert_eq!(told, worst[..told.len()].iter().map(|row| row[0]).collect::<Vec<_>>());
    for risk in bank["worst"].as_array().unwrap() {
        let of = |key: &str| risk[key].as_f64().unwrap();
        let row = rows.iter().find(|row| row[0] == of("row")).unwrap();
        assert_eq!(row[1], of("n_found") / of("n_in") - of("n_false") / of("n_out"), "{risk}");
        assert_eq!(row[2], of("auc"), "{risk}");
    }
    // Members and non-members of this target are models' members alike: risk is of the record, not of its side.
    assert!(rows.iter().any(|row| row[1] > 0.3) && rows.iter().any(|row| row[1] <= 0.0));
}

pub(crate) fn npy(shape: &str, descr: &str, values: &[u8]) -> Vec<u8> {
    let line = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((line.len() as u16).to_le_bytes());
    bytes.extend(line.as_bytes());
    bytes.extend(values);
    bytes
}

/// 160 grey images of 8 × 8 pixels, lit a little more at the left or at the right.
pub(crate) fn write_images(dir: &Path) {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let (mut pixels, mut labels) = (Vec::new(), Vec::new());
    for row in 0..160_usize {
        let label = row % 2;
        labels.push(label as u8);
        for place in 0..64 {
            let lit = (place % 8 < 4) == (label == 0);
            pixels.push(rng.random_range(0..200_u8) + if lit { 40 } else { 0 });
        }
    }
    std::fs::write(dir.join("x.npy"), npy("(160, 1, 8, 8)", "|u1", &pixels)).unwrap();
    std::fs::write(dir.join("y.npy"), npy("(160,)", "|u1", &labels)).unwrap();
}

#[test]
fn a_bank_is_asked_about_every_form_of_an_image() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path();
    write_images(dir);
    let data = "--data npy:x.npy,y.npy --split m.split.json";
    done(dir, "split --data npy:x.npy,y.npy --train 60 --test 60 --seed 1 --out m.split.json");
    let cnn = "--network cnn --channels 4,4 --hidden 16 --learning-rate 0.02 --batch-size 16 --epochs 12 --seed 4";
    done(dir, &format!("train {data} {cnn} --out m.onnx"));
    done(dir, &format!("shadows plan --out bank {data} --recipe m.json --balanced 4 --pool train,test"));
    done(dir, "shadows run bank --data npy:x.npy,y.npy --jobs 2");
    let audit = |n_forms: u32| -> Value {
        let words = format!(
            "--shadows bank --augment {n_forms} --scores-only {QUICK} --json {n_forms}.json --html {n_forms}.html"
        );
        done(dir, &format!("audit --model m.onnx {data} {words}"));
        serde_json::from_slice(&std::fs::read(dir.join(format!("{n_forms}.json"))).unwrap()).unwrap()
    };
    let (one, three) = (audit(1), audit(3));
    for (report, n_queries) in [(&one, 1), (&three, 3)] {
        let names = attack_names(system(report, "undefended"));
        for wanted in [
            "LiRA online, fixed variance",
            "LiRA offline, one-sided",
            "LiRA offline, density",
            "RMIA online",
            "RMIA offline",
        ] {
            assert!(names.iter().any(|name| name.starts_with(wanted)), "{wanted}: {names:?}");
        }
        let banks = report["findings"]["leave_one_out"].as_array().unwrap();
        assert!(banks.iter().all(|bank| bank["study"]["n_queries"] == n_queries && bank["study"]["n_models"] == 4));
    }
    let auc = |report: &Value| {
        let attacks = system(report, "undefended")["attacks"].as_array().unwrap();
        let lira = attacks.iter().find(|one| one["attack"]["name"].as_str().unwrap().starts_with("LiRA")).unwrap();
        value(&lira["auc"])
    };
    assert_ne!(auc(&one), auc(&three), "the other forms are looked at");
    let page = std::fs::read_to_string(dir.join("3.html")).unwrap();
    assert!(page.contains("3 queries a row"));
    let table = refused(workshop(), &format!("audit --model t.onnx {TARGET} --shadows bank --augment 2"));
    assert!(table.contains("--augment: expected images, got rows of shape [20]"), "{table}");
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
fn further_trainings_are_audited_alike_and_told_by_mean_and_spread() {
    let dir = workshop();
    let words = format!("--model t.onnx --centroids t.safetensors {TARGET} --scores-only --html trainings.html");
    let found = report("trainings", &format!("{words} --training u.onnx,t.split.json,u.safetensors"));
    let trainings = &found["trainings"]["value"];
    assert_eq!((&trainings["n"], trainings["models"].as_array().unwrap().len()), (&Value::from(2), 2));
    let spread = trainings["systems"].as_array().unwrap();
    let undefended = &spread.iter().find(|one| one["system"] == "undefended").unwrap()["loss_auc"]["value"];
    let [mean, least, most, low, high] =
        ["mean", "least", "most", "low", "high"].map(|key| undefended[key].as_f64().unwrap());
    let first = system(&found, "undefended")["attacks"][0]["auc"]["value"].as_f64().unwrap();
    let second = report("second", &format!("--model u.onnx --centroids u.safetensors {TARGET} --scores-only"));
    let second = system(&second, "undefended")["attacks"][0]["auc"]["value"].as_f64().unwrap();
    assert!((mean - f64::midpoint(first, second)).abs() < 1e-12 && first != second, "{mean} {first} {second}");
    assert!(least == first.min(second) && most == first.max(second) && low <= mean && mean <= high);
    let page = std::fs::read_to_string(dir.join("trainings.html")).unwrap();
    assert!(page.contains("Over several trainings") && page.contains(&format!("{mean:.4}")));
    assert!(!found["not_tried"].to_string().contains("--training"));
    let refuse = |training: &str| {
        refused(dir, &format!("audit --model t.onnx --centroids t.safetensors {TARGET} --training {training}"))
    };
    assert!(refuse("none.onnx,t.split.json").contains("--training: no file none.onnx"));
    assert!(refuse("u.onnx,t.split.json").contains("give centroids to all trainings or to none"));
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

#[test]
fn a_lot_that_could_not_be_looked_at_says_why() {
    let dir = workshop();
    let rows = |name: &str, rows: std::ops::Range<usize>| {
        std::fs::write(dir.join(name), rows.map(|row| format!("{row}\n")).collect::<String>()).unwrap();
    };
    rows("few.members", 0..8);
    rows("few.others", 8..40);
    let words = "--model t.onnx --data csv:t.csv --members few.members --non-members few.others --scores-only";
    let found = report("few", words);
    let lot = &found["findings"]["lot"];
    assert!(lot["value"].is_null(), "{lot}");
    assert_eq!(lot["reason"], "8 members and 32 non-members: at least ten of each are needed");
    assert!(found["not_tried"].to_string().contains("at least ten of each are needed"));
}
