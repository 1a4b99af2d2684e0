//! Banks whose models never saw an audited row, and further forms of each row, from the command line.

#![allow(clippy::unwrap_used, reason = "helpers of tests: a panic is how a test fails")]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use ndarray::Array2;
use serde_json::Value;
use sordino::lab::bank::inclusion::{Design, Inclusion};
use sordino::lab::bank::matrix_file;

use crate::audit_workshop::{MLP, QUICK, Served, attack_names, system, value, write_images, write_table};
use crate::command_support::{done, refused};

const TARGET: &str = "--data csv:t.csv --split t.split.json";

/// A folder with an overfitted model `t` of 150 members and its centroids; 300 other rows are an attacker's own. The bank
/// `own` has eight models of these.
fn workshop() -> &'static Path {
    static WORKSHOP: OnceLock<tempfile::TempDir> = OnceLock::new();
    let made = WORKSHOP.get_or_init(|| {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path();
        write_table(&dir.join("t.csv"), (900, 5, 20), 3);
        done(
            dir,
            "split --data csv:t.csv --train 150 --calibration 60 --test 150 --shadow 300 --seed 1 --out t.split.json",
        );
        done(dir, &format!("train {TARGET} {MLP} --seed 1 --out t.onnx"));
        done(dir, &format!("centroids build --model t.onnx {TARGET} --out t.safetensors"));
        bank(dir, "own", "--pool shadow --balanced 8");
        let defence = "[defence]\nmethod = { reweight = { weight = 0.1 } }\n";
        fs::write(dir.join("served.toml"), defence).unwrap();
        let files = "[model]\npath = \"t.onnx\"\ncentroids = \"t.safetensors\"\n";
        fs::write(dir.join("serve.toml"), format!("{files}{defence}")).unwrap();
        home
    });
    made.path()
}

fn plan(dir: &Path, name: &str, design: &str) {
    done(dir, &format!("shadows plan --out {name} {TARGET} --recipe t.json {design}"));
}

fn bank(dir: &Path, name: &str, design: &str) {
    plan(dir, name, design);
    done(dir, &format!("shadows run {name} --data csv:t.csv --jobs 2"));
}

/// Audits into `NAME.json`, and reads it.
fn report_in(dir: &Path, name: &str, words: &str) -> Value {
    done(dir, &format!("audit {words} {QUICK} --json {name}.json"));
    serde_json::from_slice(&fs::read(dir.join(format!("{name}.json"))).unwrap()).unwrap()
}

fn attack<'a>(report: &'a Value, of: &str, name: &str) -> &'a Value {
    let attacks = system(report, of)["attacks"].as_array().unwrap();
    attacks.iter().find(|one| one["attack"]["name"] == name).unwrap_or_else(|| panic!("{of}: no {name}"))
}

const OFFLINE: [&str; 6] = [
    "LiRA offline, one-sided, fixed variance",
    "LiRA offline, one-sided, variance per row",
    "LiRA offline, density, fixed variance",
    "LiRA offline, density, variance per row",
    "RMIA offline",
    "loss calibrated by difficulty",
];

#[test]
fn models_of_the_attackers_own_rows_run_every_offline_attack_and_the_report_says_what_is_left_out() {
    let dir = workshop();
    let words = format!("--model t.onnx --centroids t.safetensors {TARGET} --shadows own");
    let found = report_in(dir, "own_rows", &format!("{words} --csv own.csv --html own.html --markdown own.md"));
    for of in ["undefended", "reweight w=0.1", "label-only"] {
        let names = attack_names(system(&found, of));
        assert!(OFFLINE.iter().all(|name| names.contains(name)), "{of}: {names:?}");
        assert!(!names.iter().any(|name| name.contains("online")), "{of}: {names:?}");
        let undone = OFFLINE.iter().all(|name| names.contains(&&*format!("{name} on undone answers")));
        assert_eq!(undone, of != "label-only", "{of}: {names:?}");
        assert!(names.contains(&"ML-Leaks adversary 1, network on top 3") || of == "label-only", "{of}: {names:?}");
    }
    // The leak is found, through the defence, too.
    for (of, name) in [
        ("undefended", "LiRA offline, one-sided, fixed variance"),
        ("reweight w=0.1", "LiRA offline, one-sided, fixed variance on undone answers"),
        ("undefended", "ML-Leaks adversary 1, network on top 3"),
    ] {
        let found = value(&attack(&found, of, name)["auc"]);
        assert!(found > 0.75, "{of}, {name}: {found}");
    }
    assert!(found["findings"]["leave_one_out"].as_array().unwrap().is_empty());
    let bank = &found["findings"]["shadow_models"];
    for (key, expected) in [("n_models", 8), ("n_rows", 300), ("n_both", 0), ("n_strangers", 8), ("n_queries", 1)] {
        assert_eq!(bank[key], expected, "{key}");
    }
    let not_tried = found["not_tried"].to_string();
    let why = "none of the 8 shadow models was trained on an audited row";
    for left_out in ["LiRA online, RMIA online", "as the target in turn", "the risk of single records", why] {
        assert!(not_tried.contains(left_out), "{not_tried}");
    }
    assert!(!not_tried.contains("needs a bank") && !not_tried.contains("adversary 1"), "{not_tried}");
    for page in ["own.html", "own.md"] {
        let page = fs::read_to_string(dir.join(page)).unwrap();
        // Where the figures of a bank stand, and at the end.
        assert_eq!(page.matches(why).count(), 2, "{page}");
        assert!(!page.contains("Records of the highest risk"));
    }
    let table = fs::read_to_string(dir.join("own.csv")).unwrap();
    assert!(!table.contains("risk over shadow models"), "{}", table.lines().next().unwrap());
}

/// The bank `own` among two models that were trained on every audited row.
fn among_others(dir: &Path) {
    bank(dir, "seen", "--pool train,test --whole 2");
    fs::create_dir(dir.join("among")).unwrap();
    fs::copy(dir.join("own/plan.json"), dir.join("among/plan.json")).unwrap();
    let own = matrix_file::read(&fs::read(dir.join("own/inclusion.safetensors")).unwrap()).unwrap();
    let seen = matrix_file::read(&fs::read(dir.join("seen/inclusion.safetensors")).unwrap()).unwrap();
    // In turn: one that saw the rows, four that did not, the other, the other four.
    let order = [("seen", 0), ("own", 0), ("own", 1), ("own", 2), ("own", 3), ("seen", 1)];
    let order: Vec<(&str, usize)> = order.into_iter().chain((4..8).map(|model| ("own", model))).collect();
    let rows: Vec<usize> = own.rows().iter().chain(seen.rows()).copied().collect();
    let n_own = own.rows().len();
    let counts = Array2::from_shape_fn((order.len(), rows.len()), |(place, row)| match order[place] {
        ("own", model) if row < n_own => own.counts()[(model, row)],
        ("seen", _) if row >= n_own => 1,
        _ => 0,
    });
    for (place, (name, model)) in order.iter().enumerate() {
        let from = dir.join(format!("{name}/model-{model:05}.onnx"));
        fs::copy(from, dir.join(format!("among/model-{place:05}.onnx"))).unwrap();
    }
    let matrix = Inclusion::from_parts(Design::Recorded { models: order.len() }, 1, rows, counts).unwrap();
    fs::write(dir.join("among/inclusion.safetensors"), matrix_file::write(&matrix).unwrap()).unwrap();
}

#[test]
fn an_offline_bank_gives_to_the_bit_what_its_models_give_in_a_bank_of_both_kinds() {
    let dir = workshop();
    among_others(dir);
    let words = format!("--model t.onnx --centroids t.safetensors {TARGET} --scores-only --shadows");
    let (alone, among) =
        (report_in(dir, "alone", &format!("{words} own")), report_in(dir, "among", &format!("{words} among")));
    assert!(attack_names(system(&among, "undefended")).contains(&"LiRA online, fixed variance"));
    assert!(among["findings"]["shadow_models"]["left_out"].as_array().unwrap().is_empty());
    let mut n_compared = 0;
    for of in ["undefended", "reweight w=0.1", "inlier w=0.1 q=0.5", "label-only"] {
        for name in attack_names(system(&among, of)) {
            if name.contains("offline") || name == "loss calibrated by difficulty" {
                for figure in ["auc", "calls", "tpr_at_fpr"] {
                    assert_eq!(attack(&alone, of, name)[figure], attack(&among, of, name)[figure], "{of}, {name}");
                }
                n_compared += 1;
            }
        }
    }
    // Six each, and for those with scores the one-sided ones and RMIA on undone answers.
    assert_eq!(n_compared, 4 * 6 + 3 * 3);
}

#[test]
fn where_some_audited_rows_were_trained_on_every_row_is_held_against_as_many_strangers() {
    let dir = workshop();
    bank(dir, "of_members", "--balanced 6");
    let found = report_in(dir, "of_members", &format!("--model t.onnx {TARGET} --scores-only --shadows of_members"));
    let bank = &found["findings"]["shadow_models"];
    assert_eq!([&bank["n_both"], &bank["n_strangers"]], [150, 3]);
    let names = attack_names(system(&found, "undefended"));
    assert!(names.contains(&OFFLINE[0]) && !names.iter().any(|name| name.contains("online")), "{names:?}");
    let told = found["not_tried"].to_string();
    assert!(
        told.contains("trained on 150 of the 300 audited rows") && told.contains("held against 3 models"),
        "{told}"
    );
}

#[test]
fn nothing_is_learned_on_models_of_which_no_stranger_is_known() {
    let dir = workshop();
    bank(dir, "whole", "--pool shadow --whole 3");
    let found = report_in(dir, "whole", &format!("--model t.onnx {TARGET} --shadows whole"));
    let names = attack_names(system(&found, "undefended"));
    assert!(names.contains(&OFFLINE[0]) && !names.iter().any(|name| name.contains("ML-Leaks")), "{names:?}");
    let told = found["not_tried"].to_string();
    assert!(told.contains("900 are members of the models that are learned on and 0 are not"), "{told}");
    assert!(told.contains("ML-Leaks' adversary 1"), "{told}");
}

#[test]
fn banks_that_cannot_tell_are_refused_before_the_endpoint_is_asked() {
    let dir = workshop();
    write_table(&dir.join("o.csv"), (900, 5, 20), 4);
    done(dir, "split --data csv:o.csv --train 150 --test 150 --shadow 300 --out o.split.json");
    done(
        dir,
        "shadows plan --out other --data csv:o.csv --split o.split.json --recipe t.json --balanced 4 --pool shadow",
    );
    plan(dir, "few", "--pool shadow --whole 2");
    plan(dir, "all_in", "--whole 3");
    plan(dir, "no_plan", "--pool shadow --balanced 4");
    fs::remove_file(dir.join("no_plan/plan.json")).unwrap();
    for (bank, expected) in [
        ("other", "the bank was trained on other data: expected the digest"),
        ("few", "a bank of 2 models is too small: at least 3 are needed"),
        ("all_in", "3 models of the bank were trained on it, 0 were not; this attack needs two that were not"),
        ("no_plan", "plan.json"),
    ] {
        // There is no endpoint there: whoever asked it first would fail to connect.
        let said = refused(dir, &format!("audit --endpoint http://127.0.0.1:9/v2/models/m {TARGET} --shadows {bank}"));
        assert!(said.contains(expected) && said.contains("--shadows"), "{bank}: {said}");
    }
    let plan = refused(dir, &format!("audit --model t.onnx {TARGET} --shadows own --json own/plan.json"));
    assert!(plan.contains("--json: own/plan.json is an input"), "{plan}");
}

#[test]
fn an_endpoint_is_attacked_offline_too() {
    let dir = workshop();
    let served = Served::start(dir);
    let asked = format!("--endpoint {} {TARGET} --scores-only --shadows own", served.1);
    let found = report_in(dir, "endpoint", &format!("{asked} --defence served.toml --centroids t.safetensors"));
    let names = attack_names(system(&found, "as answered"));
    let undone = OFFLINE.iter().all(|name| names.contains(&&*format!("{name} on undone answers")));
    assert!(OFFLINE.iter().all(|name| names.contains(name)) && undone, "{names:?}");
    assert!(!names.iter().any(|name| name.contains("online")), "{names:?}");
    let leak = value(&attack(&found, "as answered", &format!("{} on undone answers", OFFLINE[0]))["auc"]);
    assert!(leak > 0.75, "{leak}");
    // What the audit of the model says of the same defence, to the last digit: the same answers, the same shadows.
    let model = format!("--model t.onnx --centroids t.safetensors {TARGET} --scores-only --shadows own");
    let model = report_in(dir, "at_hand", &model);
    for name in OFFLINE {
        let of = |report: &Value, system: &str| attack(report, system, name)["auc"].clone();
        assert_eq!(of(&found, "as answered"), of(&model, "reweight w=0.1"), "{name}");
    }
}

const IMAGES: &str = "--data npy:x.npy,y.npy --split m.split.json";

/// A folder with images, an overfitted network `m` of them, a bank of four models, and what serves the network.
fn images() -> &'static Path {
    static IMAGES_OF: OnceLock<tempfile::TempDir> = OnceLock::new();
    let made = IMAGES_OF.get_or_init(|| {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path();
        write_images(dir);
        done(dir, "split --data npy:x.npy,y.npy --train 60 --test 60 --seed 1 --out m.split.json");
        let cnn = "--network cnn --channels 4,4 --hidden 16 --learning-rate 0.02 --batch-size 16 --epochs 12 --seed 4";
        done(dir, &format!("train {IMAGES} {cnn} --out m.onnx"));
        done(
            dir,
            &format!("centroids build --model m.onnx {IMAGES} --class-fallback correct-rows --out m.safetensors"),
        );
        done(dir, &format!("shadows plan --out bank {IMAGES} --recipe m.json --balanced 4 --pool train,test"));
        done(dir, "shadows run bank --data npy:x.npy,y.npy --jobs 2");
        let defence = "[defence]\nmethod = { reweight = { weight = 0.1 } }\n";
        fs::write(dir.join("served.toml"), defence).unwrap();
        let files = "[model]\npath = \"m.onnx\"\ncentroids = \"m.safetensors\"\n";
        fs::write(dir.join("serve.toml"), format!("{files}{defence}")).unwrap();
        home
    });
    made.path()
}

const FORMS: &str = "--shadows bank --augment 3 --scores-only --defence served.toml --centroids m.safetensors";

#[test]
fn the_forms_of_an_image_are_asked_of_an_endpoint_within_the_budget_and_tell_what_they_tell_of_the_model() {
    let dir = images();
    let served = Served::start(dir);
    let asked = format!("--endpoint {} {IMAGES} {FORMS}", served.1);
    let poor = refused(dir, &format!("audit {asked} {QUICK} --query-budget 359 --answers poor.answers"));
    assert!(poor.contains("the audit needs 360 more queries, the budget is 359"), "{poor}");
    let kept = fs::read(dir.join("poor.answers")).unwrap();
    assert!(kept.ends_with(b"}\n"), "a row was asked before the budget was told: {} bytes", kept.len());
    let found = report_in(dir, "remote", &format!("{asked} --query-budget 360"));
    assert_eq!(found["origin"]["source"]["n_asked"], 360);
    assert_eq!(found["findings"]["shadow_models"]["n_queries"], 3);
    // The same figures as of the model behind the same defence, at hand.
    let model = report_in(dir, "local", &format!("--model m.onnx {IMAGES} {FORMS} --query-budget 240"));
    let poor = refused(dir, &format!("audit --model m.onnx {IMAGES} {FORMS} {QUICK} --query-budget 239"));
    assert!(poor.contains("--query-budget: 240 further queries are wanted, it holds 239 more"), "{poor}");
    let names = attack_names(system(&found, "as answered"));
    let of_bank: Vec<&&str> = names.iter().filter(|name| name.contains("LiRA") || name.contains("RMIA")).collect();
    assert!(of_bank.iter().any(|name| name.contains("all queries")), "{names:?}");
    let of = |report: &Value, system: &str, name: &str| attack(report, system, name)["auc"].clone();
    for name in of_bank.iter().filter(|name| !name.contains("undone")) {
        assert_eq!(of(&found, "as answered", name), of(&model, "reweight w=0.1", name), "{name}");
        assert_eq!(of(&found, "label-only", name), of(&model, "label-only", name), "{name}");
    }
    let one = report_in(dir, "one", &asked.replace("--augment 3", "--augment 1"));
    let first = "LiRA online, fixed variance";
    assert_ne!(of(&one, "as answered", first), of(&found, "as answered", first), "the other forms are looked at");
}

#[test]
fn forms_whose_endpoint_went_away_are_asked_on_from_where_it_stopped() {
    let dir = images();
    let served = Served::start(dir);
    let answers = dir.join("forms.answers");
    let asked = |served: &Served| {
        format!("--endpoint {} {IMAGES} {FORMS} --answers forms.answers --batch-size 8 --html forms.html", served.1)
    };
    let mut command = Command::new(env!("CARGO_BIN_EXE_sordino"));
    let words = format!("audit {} {QUICK} --rate 150", asked(&served));
    command.args(words.split_whitespace()).current_dir(dir).stdout(Stdio::null()).stderr(Stdio::piped());
    let running = command.spawn().unwrap();
    // The rows themselves are 15 blocks of 4 + 8 · (8 + 2 · 8) + 32 bytes: a few forms more.
    let deadline = Instant::now() + Duration::from_secs(60);
    while fs::metadata(&answers).map_or(0, |file| file.len()) < 20 * 228 {
        assert!(Instant::now() < deadline, "no answers came");
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(served);
    let stopped = running.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&stopped.stderr).into_owned();
    assert!(!stopped.status.success() && said.contains("--augment") && said.contains("goes on from there"), "{said}");
    assert!(!dir.join("forms.html").exists());

    let served = Served::start(dir);
    let found = report_in(dir, "resumed", &asked(&served));
    let n_asked = found["origin"]["source"]["n_asked"].as_u64().unwrap();
    assert_eq!(found["origin"]["source"]["n_kept"], 120);
    // One row is asked again, by which the model is known again; of the forms at most those that were not kept.
    assert!((2..240).contains(&n_asked), "{n_asked}");
    let again = report_in(dir, "again", &asked(&served));
    assert_eq!(again["origin"]["source"]["n_asked"], 1, "every form is kept");
    assert_eq!(again["findings"]["systems"], found["findings"]["systems"]);
}
