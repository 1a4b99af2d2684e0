//! Banks of models, seen from outside: shards, kills, merges.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

const RECIPE: &str = r#"
epochs = 3
batch_size = 16
learning_rate = 0.01
weight_decay = 0.0
seed = 5

[network]
kind = "mlp"
hidden = [12]
"#;

/// A folder with a table of three overlapping clusters, its split and a recipe.
pub fn workshop() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let mut text = String::from("label,a,b,c,d,e,f,g,h\n");
    for row in 0..300 {
        text += &format!("\"{}\"", row % 3 + 1);
        for column in 0..8 {
            let centre = if column % 3 == row % 3 { 1.0 } else { 0.0 };
            text += &format!(",{:.4}", centre + rng.random_range(-1.2..1.2));
        }
        text.push('\n');
    }
    fs::write(dir.path().join("table.csv"), text).unwrap();
    fs::write(dir.path().join("recipe.toml"), RECIPE).unwrap();
    let sizes = ["--train-rows", "160", "--validation-rows", "40", "--test-rows", "100"];
    let train = [
        "train",
        "--data",
        "csv:table.csv",
        "--network",
        "mlp",
        "--hidden",
        "12",
        "--epochs",
        "1",
        "--out",
        "target.onnx",
    ];
    succeed(dir.path(), &[&train[..], &sizes].concat());
    dir
}

pub fn sordino(dir: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sordino"));
    command.current_dir(dir).args(words).stdin(Stdio::null());
    command
}

pub fn run(dir: &Path, words: &[&str]) -> Output {
    sordino(dir, words).output().unwrap()
}

pub fn succeed(dir: &Path, words: &[&str]) -> String {
    let output = run(dir, words);
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

pub fn refuse(dir: &Path, words: &[&str]) -> String {
    let output = run(dir, words);
    assert!(!output.status.success(), "{words:?} succeeded");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

const SOURCE: [&str; 6] = ["--data", "csv:table.csv", "--split", "target.split.json", "--recipe", "recipe.toml"];

fn plan(dir: &Path, out: &str, design: &[&str]) -> String {
    succeed(dir, &[&["shadows", "plan", "--out", out], &SOURCE[..], design].concat())
}

/// The digest of a bank, out of its manifest.
fn bank_digest(dir: &Path, bank: &str) -> String {
    let text = fs::read(dir.join(bank).join("bank.json")).unwrap();
    serde_json::from_slice::<serde_json::Value>(&text).unwrap()["digest"].as_str().unwrap().to_owned()
}

#[test]
fn a_bank_made_by_several_processes_of_which_one_was_killed_is_that_of_an_unbroken_run() {
    let dir = workshop();
    let dir = dir.path();
    let design = ["--balanced", "6", "--pool", "train,test"];
    for bank in ["whole", "shards"] {
        plan(dir, bank, &design);
    }
    succeed(dir, &["shadows", "run", "whole", "--data", "csv:table.csv", "--jobs", "2"]);

    let worker = |shard: &str| {
        let mut command = sordino(dir, &["shadows", "run", "shards", "--data", "csv:table.csv", "--shard", shard]);
        command.args(["--into", &format!("worker-{}", &shard[..1]), "--threads", "1"]);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let mut first = worker("0/2");
    // Killed as soon as its first model stands: what it was doing is lost, what it had done is not.
    let deadline = Instant::now() + Duration::from_secs(60);
    while !dir.join("worker-0/model-00000.json").exists() {
        assert!(Instant::now() < deadline, "no model came");
        std::thread::sleep(Duration::from_millis(1));
    }
    first.kill().unwrap();
    first.wait().unwrap();
    assert!(worker("1/2").wait().unwrap().success());

    let stderr = refuse(dir, &["shadows", "merge", "worker-0", "worker-1", "--out", "merged"]);
    if !dir.join("worker-0/model-00004.json").exists() {
        assert!(stderr.contains("model 4: missing"), "{stderr}");
    }
    assert!(!dir.join("merged/bank.json").exists());
    assert!(worker("0/2").wait().unwrap().success());
    succeed(dir, &["shadows", "merge", "worker-0", "worker-1", "--out", "merged"]);
    assert_eq!(bank_digest(dir, "merged"), bank_digest(dir, "whole"));
    // Nothing half-written was left by the one that was killed, but for its temporary file.
    let left: Vec<String> =
        fs::read_dir(dir.join("merged")).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(left.len(), 2 * 6 + 4, "{left:?}");
    assert!(succeed(dir, &["shadows", "status", "merged"]).contains("6 of 6 models stand"));
}

#[test]
fn pods_of_a_job_find_their_shards_and_share_one_folder() {
    let dir = workshop();
    let dir = dir.path();
    plan(dir, "bank", &["--folds", "4", "--leave", "2"]);
    let children: Vec<_> = (0..3)
        .map(|index| {
            let words = ["shadows", "run", "bank", "--data", "csv:table.csv", "--shards", "3", "--threads", "1"];
            let mut command = sordino(dir, &words);
            command.env("JOB_COMPLETION_INDEX", index.to_string()).stdout(Stdio::null()).stderr(Stdio::null());
            command.spawn().unwrap()
        })
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let words = succeed(dir, &["shadows", "merge", "--out", "bank"]);
    assert!(words.contains("6 models"), "{words}");
    // The matrix says what the models were trained on, and a model of a run record's recipe is another one.
    let again = ["shadows", "plan", "--out", "bank", "--data", "csv:table.csv", "--split", "target.split.json"];
    let stderr = refuse(dir, &[&again[..], &["--recipe", "target.json", "--folds", "4", "--leave", "2"]].concat());
    assert!(stderr.contains("the plan of another bank (its recipe differs"), "{stderr}");
}

#[test]
fn mistakes_in_a_plan_are_told_before_anything_is_trained() {
    let dir = workshop();
    let dir = dir.path();
    for (design, expected) in [
        (["--folds", "1"].as_slice(), "folds: expected 2 to 1024, got 1"),
        (&["--ensemble", "3", "--share", "1.5"], "share: expected a number above 0 and below 1"),
        (&["--ensemble", "3", "--folds", "3"], "cannot be used with"),
        (&["--sisa", "500"], "expected at least 500 rows"),
        (&["--whole", "2", "--pool", "trains"], "--pool: expected parts out of train, validation"),
        (&[], "required"),
    ] {
        let stderr = refuse(dir, &[&["shadows", "plan", "--out", "bank"], &SOURCE[..], design].concat());
        assert!(stderr.contains(expected), "{design:?}: {stderr}");
    }
    let stderr = refuse(dir, &["shadows", "run", "nothing", "--data", "csv:table.csv"]);
    assert!(stderr.contains("holds no plan.json"), "{stderr}");
    plan(dir, "bank", &["--whole", "2"]);
    fs::write(dir.join("other.csv"), "1,2\n2,3\n").unwrap();
    let stderr = refuse(dir, &["shadows", "run", "bank", "--data", "csv:other.csv"]);
    assert!(stderr.contains("expected a split of the dataset with digest"), "{stderr}");
    fs::write(dir.join("bad.toml"), format!("{RECIPE}\nhiden = 4")).unwrap();
    let words =
        ["shadows", "plan", "--out", "b", "--data", "csv:table.csv", "--split", "target.split.json", "--whole", "2"];
    let stderr = refuse(dir, &[&words[..], &["--recipe", "bad.toml"]].concat());
    assert!(stderr.contains("the recipe bad.toml") && stderr.contains("hiden"), "{stderr}");
}
