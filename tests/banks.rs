//! Banks of models, seen from outside: shards, kills, merges.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

const RECIPE: &str = r#"
epochs = 8
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

/// Reads a process's standard error until it has said all of these.
fn wait_for_lines(child: &mut Child, expected: &[&str]) {
    let mut missing = expected.to_vec();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    while !missing.is_empty() {
        let line = lines.next().unwrap_or_else(|| panic!("the process ended before it said {missing:?}")).unwrap();
        missing.retain(|words| !line.contains(words));
    }
    // Whatever else it says is read too, so that it never waits for a reader.
    std::thread::spawn(move || lines.for_each(drop));
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
        (&["--ensemble", "3", "--of", "2"], "--of is for --balanced"),
        (&["--folds", "3", "--share", "0.5"], "--share is for --ensemble"),
        (&["--balanced", "4", "--leave", "2"], "--leave is for --folds"),
        (&["--whole", "2", "--pool", "trains"], "expected parts out of train, validation"),
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
    assert!(stderr.contains("bad.toml: expected a recipe") && stderr.contains("hiden"), "{stderr}");
}

fn json(dir: &Path, file: &str) -> serde_json::Value {
    serde_json::from_slice(&fs::read(dir.join(file)).unwrap()).unwrap()
}

/// `ensemble COMMAND` on the workshop's rows.
fn ensemble(dir: &Path, command: &str, more: &[&str]) -> String {
    succeed(dir, &[&["ensemble", command], &SOURCE[..], more].concat())
}

#[test]
fn an_exclusion_ensemble_is_trained_measured_and_joined_into_graphs_that_the_engine_understands() {
    let dir = workshop();
    let dir = dir.path();
    let words = ensemble(dir, "train", &["--folds", "4", "--leave", "2", "--stratified", "--out", "bank"]);
    assert!(
        words.contains("test, by as many") && words.contains("3 at least, 3.0 in the mean; none for 0 rows"),
        "{words}"
    );
    let record = json(dir, "bank/ensemble.json");
    assert_eq!(record["pool_by_strangers"]["n_rows"], 160);
    // Rows that were trained on are answered no better than others, once their own models are left out.
    let accuracy = |key: &str| record[key]["accuracy"].as_f64().unwrap();
    assert!((accuracy("pool_by_strangers") - accuracy("test")).abs() < 0.2, "{record}");
    // What that gives away, beside what all models say of their own rows.
    for (kind, pool, test) in [
        ("routed", "pool_by_strangers", "test_by_all"),
        ("routed_alike", "pool_by_strangers", "test"),
        ("unrouted", "pool_by_all", "test_by_all"),
    ] {
        let (leak, attack) = (&record[kind], &record[kind]["loss_attack"]);
        assert_eq!((&leak["train"], &leak["test"]), (&record[pool], &record[test]), "{kind}");
        assert_eq!((&attack["n_members"], &attack["n_non_members"]), (&160.into(), &100.into()), "{kind}");
    }
    for (combine, kind) in [("probabilities", "log_probabilities"), ("logits", "logits"), ("stack", "logits")] {
        let out = format!("joined/{combine}.onnx");
        succeed(dir, &["ensemble", "join", "bank", "--data", "csv:table.csv", "--combine", combine, "--out", &out]);
        let words = succeed(dir, &["inspect", &out]);
        assert!(words.contains(kind), "{combine}: {words}");
        let record = json(dir, &format!("joined/{combine}.json"));
        assert_eq!(record["made_from"]["n_models"], 6);
        assert!(record["results"]["test"]["accuracy"].as_f64().unwrap() > 0.6, "{record}");
        let split = format!("joined/{combine}.split.json");
        let build = ["centroids", "build", "--quiet", "--data", "csv:table.csv", "--model", &out, "--split", &split];
        succeed(dir, &[&build[..], &["--out", "c.safetensors"]].concat());
    }
    // What the stacking layer was fitted on is no unseen row of the joined graph.
    let record = json(dir, "joined/stack.json");
    let sizes = &record["split"]["sizes"];
    assert_eq!((&sizes["train"], &sizes["validation"], &sizes["test"]), (&200.into(), &0.into(), &100.into()));
    let results = &record["results"];
    assert_eq!((&results["train"]["n_rows"], &results["loss_attack"]["n_members"]), (&200.into(), &200.into()));
    assert!(
        results["validation"].is_null() && json(dir, "joined/logits.json")["results"]["validation"]["n_rows"] == 40
    );
    assert_eq!(json(dir, "joined/stack.split.json")["parts"]["train"].as_array().unwrap().len(), 200);
    let stack = ["ensemble", "join", "bank", "--data", "csv:table.csv", "--combine", "stack", "--out", "again.onnx"];
    assert!(succeed(dir, &stack).contains("fitted on 40 validation rows: in the split and the results"));
    let other = refuse(dir, &["ensemble", "join", "nothing", "--data", "csv:table.csv", "--out", "x.onnx"]);
    assert!(other.contains("holds no plan.json"), "{other}");
}

#[test]
fn selena_teaches_a_student_what_models_say_that_never_saw_the_row() {
    let dir = workshop();
    let dir = dir.path();
    let words = ["--models", "5", "--leave-out", "2", "--bank", "split-ai", "--out", "selena.onnx", "--jobs", "2"];
    ensemble(dir, "selena", &words);
    let (record, bank) = (json(dir, "selena.json"), json(dir, "split-ai/bank.json"));
    let taught = &record["made_from"];
    assert_eq!(
        (&taught["kind"], &taught["digest"], &taught["n_rows"]),
        (&"strangers".into(), &bank["digest"], &160.into())
    );
    assert_eq!(taught["design"]["of"], 3);
    assert!(record["results"]["test"]["accuracy"].as_f64().unwrap() > 0.5, "{record}");
    // The same command finds everything there and gives the same student.
    let before = fs::read(dir.join("selena.onnx")).unwrap();
    ensemble(dir, "selena", &words);
    assert!(fs::read(dir.join("selena.onnx")).unwrap() == before);
    let card = fs::read_to_string(dir.join("selena.md")).unwrap();
    assert!(card.contains("the answers of 5 models") && !card.contains(dir.to_str().unwrap()), "{card}");
    let stderr = refuse(
        dir,
        &[
            &["ensemble", "selena"],
            &SOURCE[..],
            &["--models", "3", "--leave-out", "3", "--bank", "b", "--out", "x.onnx"],
        ]
        .concat(),
    );
    assert!(stderr.contains("--leave-out: expected 1 to 2, got 3"), "{stderr}");
    // What could not be kept is told before the teachers are trained.
    fs::write(dir.join("private.toml"), format!("{RECIPE}\n[dp]\nclip = 1.0\nnoise_multiplier = 1.0\n")).unwrap();
    let private =
        ["ensemble", "selena", "--data", "csv:table.csv", "--split", "target.split.json", "--recipe", "private.toml"];
    let stderr = refuse(dir, &[&private[..], &["--bank", "p", "--out", "p.onnx"]].concat());
    assert!(stderr.contains("does not hold with a teacher") && !dir.join("p").exists(), "{stderr}");
}

#[test]
fn a_student_learns_from_a_model_or_a_bank_without_labels() {
    let dir = workshop();
    let dir = dir.path();
    ensemble(dir, "train", &["--whole", "2", "--out", "bank"]);
    for (teacher, n_models) in [("target.onnx", 1), ("bank", 2)] {
        let words =
            ["--teacher", teacher, "--rows", "test", "--temperature", "2", "--weight", "0.9", "--out", "student.onnx"];
        ensemble(dir, "distil", &words);
        let record = json(dir, "student.json");
        assert_eq!(record["made_from"]["n_models"], n_models);
        assert_eq!(record["made_from"]["n_rows"], 100);
        assert_eq!(record["recipe"]["distillation"]["temperature"], 2.0);
        // What it was taught is what it was trained on, whatever the split calls these rows.
        assert_eq!(
            (&record["results"]["train"]["n_rows"], &record["results"]["test"]),
            (&100.into(), &serde_json::json!(null))
        );
        let card = fs::read_to_string(dir.join("student.md")).unwrap();
        assert!(card.contains("It was trained on the part test of the split"), "{card}");
        // A model alone does not say what it was trained on; a bank does.
        let unknown = "which rows the teacher was trained on is not known";
        let notes = record["made_from"]["notes"].as_array().map_or(0, Vec::len);
        assert_eq!((notes, card.contains(unknown)), (2 - n_models, n_models == 1), "{card}");
    }
    for (more, expected) in [
        (["--teacher", "bank", "--jobs", "0"], "--jobs: expected 1, got 0"),
        (["--teacher", "table.csv", "--jobs", "1"], "got the file table.csv"),
    ] {
        let stderr = refuse(dir, &[&["ensemble", "distil"], &SOURCE[..], &more, &["--out", "x.onnx"]].concat());
        assert!(stderr.contains(expected), "{stderr}");
    }
    run(dir, &["shadows", "status", "nobank"]);
    assert!(!dir.join("nobank").exists(), "looking made a folder");
    let stderr = refuse(
        dir,
        &[&["ensemble", "distil"], &SOURCE[..], &["--teacher", "bank", "--strangers", "--out", "x.onnx"]].concat(),
    );
    assert!(stderr.contains("160 rows were seen by every model of the bank"), "{stderr}");
}

#[test]
fn a_student_that_stops_early_says_so_and_leaves_what_train_leaves() {
    let dir = workshop();
    let dir = dir.path();
    let stopping = RECIPE.replace("epochs = 8", "epochs = 300") + "[early_stopping]\npatience = 2\nby = \"loss\"\n";
    fs::write(dir.join("recipe.toml"), stopping).unwrap();
    ensemble(dir, "distil", &["--teacher", "target.onnx", "--out", "student.onnx"]);
    let record = json(dir, "student.json");
    let (best, n_epochs) = (record["best_epoch"].as_u64().unwrap(), record["history"].as_array().unwrap().len());
    assert!(n_epochs < 300 && best as usize + 2 == n_epochs, "{best} of {n_epochs}");
    assert_eq!(record["device"], json(dir, "target.json")["device"]);
    assert!(fs::read_to_string(dir.join("student.svg")).unwrap().starts_with("<svg"));
    succeed(dir, &["export", "--weights", "student.weights.safetensors", "--out", "again.onnx"]);
    assert!(fs::read(dir.join("again.onnx")).unwrap() == fs::read(dir.join("student.onnx")).unwrap());
}

#[test]
fn a_private_recipe_is_refused_for_a_student_before_its_teachers_are_trained() {
    let dir = workshop();
    let dir = dir.path();
    fs::write(dir.join("recipe.toml"), format!("{RECIPE}[dp]\nclip = 1.0\nnoise_multiplier = 1.0\n")).unwrap();
    for more in
        [&["selena", "--models", "3", "--leave-out", "1", "--bank", "b"][..], &["distil", "--teacher", "target.onnx"]]
    {
        let stderr = refuse(dir, &[&["ensemble"], more, &SOURCE[..], &["--out", "x.onnx"]].concat());
        assert!(stderr.contains("does not hold with a teacher"), "{stderr}");
    }
    assert!(!dir.join("b").exists());
}

#[test]
fn rows_that_trained_a_joined_graph_are_not_called_test_rows() {
    let dir = workshop();
    let dir = dir.path();
    ensemble(dir, "train", &["--whole", "2", "--pool", "train,test", "--out", "bank"]);
    succeed(dir, &["ensemble", "join", "bank", "--data", "csv:table.csv", "--out", "joined.onnx"]);
    let results = &json(dir, "joined.json")["results"];
    assert_eq!((&results["train"]["n_rows"], &results["validation"]["n_rows"]), (&260.into(), &40.into()));
    assert_eq!((&results["test"], &results["loss_attack"]), (&serde_json::json!(null), &serde_json::json!(null)));
    let card = fs::read_to_string(dir.join("joined.md")).unwrap();
    assert!(card.contains("It was trained on the part train and test of the split"), "{card}");
    assert!(card.contains("logarithms of probabilities in this order"), "{card}");
}

#[test]
fn pairs_of_rows_that_no_model_may_answer_for_are_counted_and_told() {
    let dir = workshop();
    let dir = dir.path();
    let words = [&["ensemble", "train"], &SOURCE[..], &["--ensemble", "3", "--share", "0.6", "--out", "bank"]].concat();
    let output = run(dir, &words);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && stderr.contains("pairs of rows no model saw neither row"), "{stderr}");
    let pairs = &json(dir, "bank/ensemble.json")["pairs"];
    assert_eq!((&pairs["n_pairs"], &pairs["exact"]), (&12_720.into(), &true.into()));
    assert!(pairs["n_without_model"].as_u64().unwrap() > 0, "{pairs}");
}

#[test]
fn boosting_goes_on_from_the_rounds_that_stand_and_leaves_a_bank() {
    let dir = workshop();
    let dir = dir.path();
    let words = |out: &'static str| ["--rounds", "3", "--out", out];
    ensemble(dir, "boost", &words("whole"));
    let stderr =
        refuse(dir, &[&["ensemble", "boost"], &SOURCE[..], &["--rounds", "3", "--rate", "0", "--out", "x"]].concat());
    assert!(stderr.contains("rate: expected a positive number"), "{stderr}");
    let jobs = refuse(dir, &[&["ensemble", "boost"], &SOURCE[..], &["--jobs", "2", "--out", "x"]].concat());
    assert!(jobs.contains("--jobs: expected 1, got 2: a round waits for the one before"), "{jobs}");
    fs::write(dir.join("rows.txt"), json(dir, "whole/split.json")["parts"]["train"][0].to_string()).unwrap();
    let forget = refuse(dir, &["forget", "whole", "--data", "csv:table.csv", "--rows", "rows.txt", "--out", "less"]);
    assert!(forget.contains("a boosted bank forgets nothing") && !dir.join("less").exists(), "{forget}");
    let mut child = sordino(dir, &[&["ensemble", "boost"], &SOURCE[..], &words("killed")].concat());
    let mut child = child.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while !dir.join("killed/rounds.json").exists() && !dir.join("killed/bank.json").exists() {
        assert!(Instant::now() < deadline, "no round came");
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    ensemble(dir, "boost", &words("killed"));
    assert_eq!(bank_digest(dir, "killed"), bank_digest(dir, "whole"));
    assert!(!dir.join("killed/rounds.json").exists());
    let join = ["ensemble", "join", "whole", "--data", "csv:table.csv", "--combine", "logits", "--out", "boosted.onnx"];
    succeed(dir, &join);
}

#[test]
fn forgetting_a_row_trains_one_shard_anew_and_carries_the_others_over() {
    let dir = workshop();
    let dir = dir.path();
    ensemble(dir, "train", &["--sisa", "4", "--stratified", "--out", "bank"]);
    let split = json(dir, "bank/split.json");
    let row = split["parts"]["train"][7].as_u64().unwrap();
    fs::write(dir.join("rows.txt"), format!("# asked for on a Monday\n{row}\n")).unwrap();
    let words = ["forget", "bank", "--data", "csv:table.csv", "--rows", "rows.txt", "--out", "without"];
    let told = succeed(dir, &words);
    assert!(told.contains("1 of 4 models trained anew"), "{told}");
    let record = json(dir, "without/forget.json");
    let [shard] = record["retrained"].as_array().unwrap().as_slice() else { panic!("{record}") };
    let shard = shard.as_u64().unwrap();
    for member in 0..4 {
        let file = format!("model-{member:05}.onnx");
        let same =
            fs::read(dir.join("bank").join(&file)).unwrap() == fs::read(dir.join("without").join(&file)).unwrap();
        assert_eq!(same, member != shard, "model {member}");
    }
    let new = json(dir, "without/split.json");
    let holds = |part: &str| new["parts"][part].as_array().unwrap().contains(&row.into());
    assert!(!holds("train") && !holds("test"), "the row is still in the split");
    assert!(succeed(dir, &["shadows", "status", "without"]).contains("4 of 4 models stand"));
    // Once forgotten, a row cannot be forgotten again; nor one that was never known.
    let again = ["forget", "without", "--data", "csv:table.csv", "--rows", "rows.txt", "--out", "again"];
    assert!(refuse(dir, &again).contains(&format!("row {row} is not in the bank's pool")));
}

#[test]
fn a_shard_with_slices_goes_back_to_the_stage_before_a_forgotten_row_and_ends_as_if_it_had_never_known_it() {
    let dir = workshop();
    let dir = dir.path();
    ensemble(dir, "train", &["--sisa", "2", "--slices", "3", "--out", "bank"]);
    let kept = |bank: &str, member: usize| -> Vec<bool> {
        let stands = |stage| dir.join(format!("{bank}/model-{member:05}.after-slice-{stage}.checkpoint")).exists();
        (1..=3).map(stands).collect()
    };
    assert_eq!((kept("bank", 0), kept("bank", 1)), (vec![true, true, false], vec![true, true, false]));

    // One row after the other until one was in a last slice: its model keeps both stages before.
    let split = json(dir, "bank/split.json");
    let rows: Vec<u64> = split["parts"]["train"].as_array().unwrap().iter().map(|row| row.as_u64().unwrap()).collect();
    let mut seen = std::collections::BTreeSet::new();
    for (place, row) in rows.iter().take(12).enumerate() {
        let out = format!("less-{place}");
        fs::write(dir.join("rows.txt"), format!("{row}\n")).unwrap();
        let plan = ["forget", "bank", "--data", "csv:table.csv", "--rows", "rows.txt", "--out", &out, "--threads", "1"];
        succeed(dir, &plan);
        let record = json(dir, &format!("{out}/forget.json"));
        assert_eq!(record["retrained"].as_array().unwrap().len(), 1);
        let stage = record["from_stage"][0].as_u64().unwrap();
        if !seen.insert(stage) {
            continue;
        }
        // The same plan in an empty folder, all stages anew.
        let whole = format!("whole-{place}");
        fs::create_dir(dir.join(&whole)).unwrap();
        for file in ["plan.json", "inclusion.safetensors", "split.json"] {
            fs::copy(dir.join(&out).join(file), dir.join(&whole).join(file)).unwrap();
        }
        succeed(dir, &["shadows", "run", &whole, "--data", "csv:table.csv"]);
        assert_eq!(bank_digest(dir, &out), bank_digest(dir, &whole), "stage {stage}");
        assert_ne!(bank_digest(dir, &out), bank_digest(dir, "bank"));
    }
    assert!(seen.len() > 1, "all rows were of one slice: {seen:?}");
    let stderr =
        refuse(dir, &[&["shadows", "plan", "--out", "b"], &SOURCE[..], &["--folds", "3", "--slices", "2"]].concat());
    assert!(stderr.contains("--slices is for --sisa"), "{stderr}");
}

#[test]
fn a_bank_draws_the_noise_of_each_model_from_one_secret_that_no_file_holds() {
    let dir = workshop();
    let dir = dir.path();
    let secret = "a secret of more than thirty-two bytes for a test";
    fs::write(dir.join("key"), secret).unwrap();
    fs::write(dir.join("other"), "another secret of more than thirty-two bytes").unwrap();
    let recipe = RECIPE.replace("epochs = 8", "epochs = 2");
    fs::write(dir.join("recipe.toml"), format!("{recipe}\n[dp]\nclip = 1.0\nnoise_multiplier = 1.0\n")).unwrap();
    let design = ["--ensemble", "2"];
    plan(dir, "open", &design);
    plan(dir, "closed", &[&design[..], &["--dp-secret", "key"]].concat());
    fn run<'a>(bank: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        [&["shadows", "run", bank, "--data", "csv:table.csv"], more].concat()
    }
    succeed(dir, &run("open", &[]));
    for (more, expected) in [([].as_slice(), "expected that secret"), (&["--dp-secret", "other"], "not the one")] {
        let stderr = refuse(dir, &run("closed", more));
        assert!(stderr.contains(expected), "{stderr}");
    }
    assert!(refuse(dir, &run("open", &["--dp-secret", "key"])).contains("names no digest"));
    succeed(dir, &run("closed", &["--dp-secret", "key", "--jobs", "2"]));
    for member in 0..2 {
        let record = |bank: &str| json(dir, &format!("{bank}/model-{member:05}.json"));
        assert_eq!(record("closed")["privacy"]["secret_noise"], true);
        assert_eq!(record("open")["privacy"]["secret_noise"], false);
        // The seeds are the same: what differs is the noise.
        assert_eq!(record("open")["seed"], record("closed")["seed"]);
        assert_ne!(record("open")["sha256"], record("closed")["sha256"]);
    }
    for file in fs::read_dir(dir.join("closed")).unwrap() {
        let bytes = fs::read(file.unwrap().path()).unwrap();
        assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()));
    }
}

#[test]
fn a_bank_takes_a_recipe_by_its_name_and_says_which_there_are() {
    let dir = workshop();
    let words =
        ["shadows", "plan", "--out", "b", "--data", "csv:table.csv", "--split", "target.split.json", "--whole", "2"];
    succeed(dir.path(), &[&words[..], &["--recipe", "paper-a/purchase-original"]].concat());
    assert_eq!(json(dir.path(), "b/plan.json")["recipe"]["network"]["kind"], "mlp");
    let stderr = refuse(dir.path(), &[&words[..], &["--recipe", "paper-z"]].concat());
    assert!(stderr.contains("the papers' recipes are cs2980/dropout"), "{stderr}");
}

#[test]
fn a_forgotten_row_is_in_no_part_of_the_split_and_times_of_several_sittings_are_not_compared() {
    let dir = workshop();
    let dir = dir.path();
    ensemble(dir, "train", &["--sisa", "3", "--pool", "train,validation", "--out", "bank"]);
    let before = json(dir, "bank/split.json");
    let rows: Vec<String> = (0..4).map(|at| before["parts"]["validation"][at].to_string()).collect();
    fs::write(dir.join("rows.txt"), rows.join("\n")).unwrap();
    let edit = |file: &str, name: &str, value: serde_json::Value| {
        let mut record = json(dir, file);
        record[name] = value;
        fs::write(dir.join(file), record.to_string()).unwrap();
    };
    edit("bank/bank.json", "train_seconds", serde_json::json!(1000.0));
    let forget =
        |out: &str| succeed(dir, &["forget", "bank", "--data", "csv:table.csv", "--rows", "rows.txt", "--out", out]);
    assert!(forget("without").contains("% saved"));
    let after = json(dir, "without/split.json");
    assert_eq!(after["parts"]["validation"].as_array().unwrap().len(), 36);
    for part in after["parts"].as_object().unwrap().values() {
        assert!(!part.as_array().unwrap().iter().any(|row| rows.contains(&row.to_string())), "{part}");
    }
    assert_eq!(after["without"].as_array().unwrap().len(), 4);
    edit("bank/model-00000.json", "resumed", serde_json::json!(true));
    assert!(forget("again").contains("not to be compared"));
    assert_eq!(json(dir, "again/forget.json")["saved"], serde_json::json!(null));
}

#[test]
fn processes_that_train_stop_with_the_one_that_started_them_and_leave_their_checkpoints() {
    let dir = workshop();
    let dir = dir.path();
    // More epochs than any machine does before the kill comes.
    fs::write(dir.join("recipe.toml"), RECIPE.replace("epochs = 8", "epochs = 1000000")).unwrap();
    plan(dir, "bank", &["--whole", "2"]);
    let mut command = sordino(dir, &["shadows", "run", "bank", "--data", "csv:table.csv", "--jobs", "2"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for_lines(&mut child, &["model 0 is being trained", "model 1 is being trained"]);
    child.kill().unwrap();
    child.wait().unwrap();
    let left = |member: usize| dir.join(format!("bank/model-{member:05}.checkpoint")).exists();
    let deadline = Instant::now() + Duration::from_secs(30);
    while !(left(0) && left(1)) {
        assert!(Instant::now() < deadline, "no checkpoint came: {} {}", left(0), left(1));
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(unix)]
#[test]
fn the_recipe_of_a_slurm_array_trains_its_shard_and_stops_with_a_checkpoint_when_told() {
    let dir = workshop();
    let dir = dir.path();
    plan(dir, "bank", &["--whole", "3"]);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/shadows/slurm.sh");
    let task = |bank: &str, index: &str| {
        let mut command = Command::new("sh");
        command.current_dir(dir).arg(&script).env("SORDINO", env!("CARGO_BIN_EXE_sordino"));
        command.env("BANK", bank).env("DATA", "csv:table.csv");
        command.env("SLURM_ARRAY_TASK_ID", index).env("SLURM_ARRAY_TASK_COUNT", "2");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    for index in ["0", "1"] {
        assert!(task("bank", index).status().unwrap().success());
    }
    succeed(dir, &["shadows", "merge", "--out", "bank"]);

    fs::write(dir.join("recipe.toml"), RECIPE.replace("epochs = 8", "epochs = 1000000")).unwrap();
    plan(dir, "long", &["--whole", "2"]);
    let mut child = task("long", "1").stderr(Stdio::piped()).spawn().unwrap();
    wait_for_lines(&mut child, &["model 1 is being trained"]);
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(143));
    assert!(dir.join("long/model-00001.checkpoint").exists());
}

#[test]
fn copies_of_a_row_go_to_the_same_models_when_asked() {
    let dir = workshop();
    let dir = dir.path();
    // Every row twice: the split draws them apart, the deal keeps those of the pool together.
    let text = fs::read_to_string(dir.join("table.csv")).unwrap();
    let (header, rows) = text.split_once('\n').unwrap();
    fs::write(dir.join("twice.csv"), format!("{header}\n{rows}{rows}")).unwrap();
    succeed(dir, &["split", "--data", "csv:twice.csv", "--train", "600", "--out", "twice.json"]);
    let source = ["--data", "csv:twice.csv", "--split", "twice.json", "--recipe", "recipe.toml", "--sisa", "5"];
    for (out, more, together) in [("apart", [].as_slice(), false), ("together", &["--group-copies"], true)] {
        succeed(dir, &[&["shadows", "plan", "--out", out], &source[..], more].concat());
        let bytes = fs::read(dir.join(out).join("inclusion.safetensors")).unwrap();
        let matrix = sordino::lab::bank::matrix_file::read(&bytes).unwrap();
        let places = matrix.places();
        let same = (0..300).filter(|row| matrix.of_row(places[row]) == matrix.of_row(places[&(row + 300)])).count();
        assert_eq!(same == 300, together, "{out}: {same}");
    }
    let source = ["--data", "csv:twice.csv", "--split", "twice.json", "--recipe", "recipe.toml", "--bank", "selena"];
    let words = ["--models", "4", "--leave-out", "2", "--group-copies", "--out", "selena.onnx"];
    succeed(dir, &[&["ensemble", "selena"], &source[..], &words].concat());
    let bytes = fs::read(dir.join("selena/inclusion.safetensors")).unwrap();
    let matrix = sordino::lab::bank::matrix_file::read(&bytes).unwrap();
    let places = matrix.places();
    assert!((0..300).all(|row| matrix.of_row(places[&row]) == matrix.of_row(places[&(row + 300)])));
}
