//! What a training says of itself: whose weights were kept, what a promise is worth, which rows and folders are meant; and that
//! nobody needs to listen.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use sordino::lab::record::{RunRecord, Status};

/// 120 rows of two numbers in three clusters.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let rows = (0..120).map(|row| format!("{},{}.{},0.{row}\n", row % 3, row % 3, row % 7));
    fs::write(dir.path().join("table.csv"), format!("label,a,b\n{}", rows.collect::<String>())).unwrap();
    dir
}

fn sordino(dir: &Path, words: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sordino"));
    command.current_dir(dir).args(words.split_whitespace());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

const TRAIN: &str = "train --data csv:table.csv --network mlp --hidden 4 --batch-size 16 --train-rows 60 --validation-rows 20 --test-rows 40";

fn train(dir: &Path, more: &str) -> Command {
    sordino(dir, &format!("{TRAIN} --out m.onnx {more}"))
}

fn said(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).join("")
}

fn succeed(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    said(&output)
}

fn refuse(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(!output.status.success(), "{}", said(&output));
    said(&output)
}

fn record(dir: &Path) -> RunRecord {
    serde_json::from_slice(&fs::read(dir.join("m.json")).unwrap()).unwrap()
}

#[test]
fn a_training_goes_on_when_nobody_reads_what_it_says() {
    let dir = folder();
    let mut child = train(dir.path(), "--epochs 30").spawn().unwrap();
    drop(child.stdout.take());
    let mut lines = BufReader::new(child.stderr.take().unwrap());
    lines.read_line(&mut String::new()).unwrap();
    drop(lines);
    assert!(child.wait().unwrap().success());
    assert_eq!((record(dir.path()).status, record(dir.path()).history.len()), (Status::Finished, 30));
}

#[cfg(unix)]
#[test]
fn an_interrupted_training_does_not_call_its_weights_those_of_the_best_epoch() {
    use std::io::Read as _;
    let dir = folder();
    let mut child = train(dir.path(), "--epochs 1000000 --early-stopping 1000000").spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().starts_with("epoch 3/")));
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    lines.for_each(drop);
    let mut words = String::new();
    child.stdout.take().unwrap().read_to_string(&mut words).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let record = record(dir.path());
    let Status::Interrupted { epoch, .. } = record.status else { panic!("{:?}", record.status) };
    assert_eq!(record.best_epoch, None);
    assert!(
        words.contains(&format!("weights as they stood in epoch {epoch}")) && !words.contains("the best"),
        "{words}"
    );
}

#[test]
fn a_delta_above_one_row_and_an_epsilon_that_bounds_nothing_are_warned_of_and_recorded() {
    let dir = folder();
    let words = succeed(train(dir.path(), "--epochs 2 --dp-clip 1 --dp-noise-multiplier 0.1 --dp-delta 0.5"));
    let card = fs::read_to_string(dir.path().join("m.md")).unwrap().to_lowercase();
    let notes = record(dir.path()).privacy.unwrap().notes.join("\n");
    for warning in ["delta 5.00e-1 is above 1 / rows", "is no protection worth the name"] {
        assert!(words.contains(warning) && notes.contains(warning) && card.contains(warning), "{warning}: {words}");
    }
    let words = succeed(train(dir.path(), "--epochs 1 --dp-clip 1 --dp-noise-multiplier 4 --fresh"));
    assert!(!words.contains("warning"), "{words}");
}

#[test]
fn a_split_makes_its_folder_counts_what_was_taken_out_and_names_the_file_that_is_missing() {
    let dir = folder();
    let path = dir.path();
    let draw = "split --data csv:table.csv --train 80 --test 40 --out new/deep/a.json";
    assert!(succeed(sordino(path, draw)).contains("in no part 0"));
    let split = sordino::data::Split::read(&path.join("new/deep/a.json")).unwrap();
    fs::write(path.join("w.txt"), format!("{}\n", split.part(sordino::data::Part::Train)[0])).unwrap();
    let less = "split --data csv:table.csv --split new/deep/a.json --out b.json --without";
    let words = succeed(sordino(path, &format!("{less} w.txt")));
    assert!(
        words.contains("in no part 1") && words.contains("of these, 1 rows taken out of the train part"),
        "{words}"
    );
    for command in [format!("{less} none"), format!("{TRAIN} --out m.onnx --without none")] {
        let words = refuse(sordino(path, &command));
        assert!(words.contains("cannot read the row numbers in none"), "{words}");
    }
    succeed(train(path, "--epochs 1"));
    succeed(sordino(path, "export --weights m.weights.safetensors --out other/folder/e.onnx"));
    assert!(fs::read(path.join("other/folder/e.onnx")).unwrap() == fs::read(path.join("m.onnx")).unwrap());
}
