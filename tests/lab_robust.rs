//! Training through everything that can end a process, and the files that it leaves.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use sha2::Digest;
use sordino::lab::record::{MadeFrom, RunRecord, Status};

/// A table of 240 rows in three overlapping clusters of eight numbers; every ninth bears a wrong label.
fn write_table(path: &Path) {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let mut text = String::from("label,a,b,c,d,e,f,g,h\n");
    for row in 0..240 {
        let label = row % 3;
        text += &format!("\"{}\"", if row % 9 == 0 { (label + 1) % 3 } else { label } + 1);
        for column in 0..8 {
            let centre = if column % 3 == label { 1.0 } else { 0.0 };
            text += &format!(",{:.4}", centre + rng.random_range(-0.8..0.8));
        }
        text.push('\n');
    }
    fs::write(path, text).unwrap();
}

fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write_table(&dir.path().join("table.csv"));
    dir
}

/// `sordino train` on the table in `dir`, writing `dir/NAME.onnx`.
fn train(dir: &Path, name: &str, more: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sordino"));
    command.current_dir(dir).args(["train", "--data", "csv:table.csv", "--out", &format!("{name}.onnx")]);
    command.args("--network mlp --hidden 16,8 --seed 5 --batch-size 16 --learning-rate 0.01".split(' '));
    command.args("--train-rows 120 --validation-rows 30 --test-rows 60".split(' '));
    command.args(more.split_whitespace()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn finish(mut command: Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", words(&output));
    output
}

fn record(dir: &Path, name: &str) -> RunRecord {
    serde_json::from_slice(&fs::read(dir.join(format!("{name}.json"))).unwrap()).unwrap()
}

fn model(dir: &Path, name: &str) -> Vec<u8> {
    fs::read(dir.join(format!("{name}.onnx"))).unwrap()
}

/// Everything that keeps state from one epoch to the next.
const DEFENCES: &str = "--epochs 40 --weight-decay 1e-4 --dropout-hidden 0.2 --label-smoothing 0.1 --mixup 0.5 \
    --curriculum centroid-distance --curriculum-epochs 5 --relax-loss 0.6 --confidence-penalty 0.1 \
    --early-stopping 12 --early-stopping-by accuracy";

#[test]
fn a_training_that_is_killed_at_any_moment_goes_on_and_ends_as_an_undisturbed_one() {
    let dir = folder();
    finish(train(dir.path(), "whole", DEFENCES));
    let mut rng = ChaCha8Rng::seed_from_u64(17);
    let mut kills = 0;
    for attempt in 0..60 {
        let mut child = train(dir.path(), "killed", &format!("{DEFENCES} --resume")).spawn().unwrap();
        // At first before the first epoch, later ever further on.
        std::thread::sleep(Duration::from_millis(rng.random_range(5..20 + 10 * attempt)));
        child.kill().unwrap();
        let output = child.wait_with_output().unwrap();
        if output.status.success() {
            break;
        }
        kills += 1;
        for file in fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().path()) {
            let whole = file.extension().is_some_and(|ending| ending == "json" || ending == "onnx");
            assert!(!whole || fs::metadata(&file).unwrap().len() > 0, "{} is cut", file.display());
        }
    }
    finish(train(dir.path(), "killed", &format!("{DEFENCES} --resume")));
    assert!(kills > 0, "nothing was killed");
    assert!(model(dir.path(), "killed") == model(dir.path(), "whole"), "another model after {kills} kills");
    let (killed, whole) = (record(dir.path(), "killed"), record(dir.path(), "whole"));
    assert_eq!((killed.history, killed.best_epoch), (whole.history, whole.best_epoch));
    assert!(!dir.path().join("killed.checkpoint").exists());
    let mut left = fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
    assert!(left.all(|name| !name.ends_with(".tmp")), "a killed process left something");
}

#[test]
fn a_kill_loses_at_most_one_epoch() {
    use std::io::{BufRead, BufReader};
    let dir = folder();
    let mut child = train(dir.path(), "m", "--epochs 1000000").spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let seen = lines.find(|line| line.as_ref().unwrap().starts_with("epoch 5/")).is_some();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(seen);
    // The line of an epoch comes behind its checkpoint.
    let told = lines.map_while(Result::ok).filter(|line| line.starts_with("epoch ")).count() + 5;
    let output = finish(train(dir.path(), "m", &format!("--epochs {} --resume", told + 3)));
    let first = words(&output).lines().find(|line| line.starts_with("epoch ")).unwrap().to_owned();
    let first: usize = first["epoch ".len()..].split('/').next().unwrap().parse().unwrap();
    assert!(first == told + 1 || first == told + 2, "told of {told} epochs, went on with {first}");
}

#[test]
fn a_whole_run_is_not_trained_again_by_resume() {
    let dir = folder();
    finish(train(dir.path(), "m", "--epochs 2"));
    let before = fs::metadata(dir.path().join("m.onnx")).unwrap().modified().unwrap();
    let output = finish(train(dir.path(), "m", "--epochs 2 --resume"));
    assert!(words(&output).contains("finished already"), "{}", words(&output));
    assert_eq!(fs::metadata(dir.path().join("m.onnx")).unwrap().modified().unwrap(), before);
    // Another recipe is another run.
    let output = finish(train(dir.path(), "m", "--epochs 3 --resume"));
    assert!(!words(&output).contains("finished already"));
    assert_eq!(record(dir.path(), "m").history.len(), 3);
}

#[cfg(unix)]
#[test]
fn a_full_disk_ends_with_a_clear_error_and_the_last_checkpoint_kept() {
    let dir = folder();
    // As large as the checkpoint of a few epochs: each adds its line to it.
    let mut child = train(dir.path(), "m", "--epochs 1000000").spawn().unwrap();
    let checkpoint = dir.path().join("m.checkpoint");
    for _ in 0..2_000 {
        if checkpoint.exists() {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let blocks = fs::metadata(&checkpoint).unwrap().len() / 512 + 8;
    fs::remove_file(&checkpoint).unwrap();
    let line = train(dir.path(), "m", "--epochs 1000000");
    let mut limited = Command::new("sh");
    // The limit's signal is ignored, so that a write fails as on a full disk.
    limited.current_dir(dir.path()).args(["-c", &format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$@\""), "sh"]);
    let output = limited.arg(line.get_program()).args(line.get_args()).stdin(Stdio::null()).output().unwrap();
    let message = words(&output);
    assert!(!output.status.success());
    let error = message.lines().find(|line| line.starts_with("error: ")).unwrap_or_else(|| panic!("{message}"));
    assert!(error.contains("the checkpoint of ") && error.contains("cannot write m.checkpoint"), "{error}");
    assert!(!dir.path().join("m.onnx").exists() && !dir.path().join("m.json").exists());
    let rest: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert_eq!(rest.len(), 2, "something half-written was left: {rest:?}");

    let kept: usize = error.split("the checkpoint of ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!(kept > 0, "{error}");
    for (name, more) in [("m", "--resume"), ("whole", "")] {
        finish(train(dir.path(), name, &format!("--epochs {} {more}", kept + 2)));
    }
    assert!(model(dir.path(), "m") == model(dir.path(), "whole"));
}

#[test]
fn a_training_that_diverges_keeps_the_last_good_checkpoint() {
    let dir = folder();
    // The rate grows a hundredfold at each of many epochs, until nothing is finite.
    let at: Vec<String> = (2..60).map(|epoch| epoch.to_string()).collect();
    let wild =
        format!("--epochs 60 --optimizer sgd --schedule steps --schedule-factor 1000 --schedule-at {}", at.join(","));
    let output = train(dir.path(), "m", &wild).output().unwrap();
    let message = words(&output);
    assert!(!output.status.success() && message.contains("the training diverged"), "{message}");
    assert!(message.contains("the checkpoint of ") && message.contains("is kept in m.checkpoint"), "{message}");
    assert!(!dir.path().join("m.onnx").exists());
    // It goes on from there, and diverges in the same place.
    let again = train(dir.path(), "m", &format!("{wild} --resume")).output().unwrap();
    let place = |message: &str| message.split(" in epoch ").nth(1).unwrap().split(':').next().unwrap().to_owned();
    assert_eq!(place(&words(&again)), place(&message));
}

#[test]
fn weights_that_are_huge_and_finite_are_no_good_checkpoint() {
    let dir = folder();
    let mut command = Command::new(env!("CARGO_BIN_EXE_sordino"));
    command
        .current_dir(dir.path())
        .args("train --data csv:table.csv --out m.onnx --network mlp --hidden 16,8".split(' '));
    // One step an epoch: no later step sees the loss of these weights.
    command.args("--train-rows 120 --batch-size 120 --epochs 1 --learning-rate 1e30 --seed 5".split(' '));
    let output = command.output().unwrap();
    let message = words(&output);
    assert!(!output.status.success() && message.contains("the training diverged"), "{message}");
    assert!(message.contains("the checkpoint of 0 epochs is kept in m.checkpoint"), "{message}");
}

#[test]
fn a_curriculum_of_default_length_goes_on_for_more_epochs() {
    use std::io::{BufRead, BufReader};
    let dir = folder();
    let mut child = train(dir.path(), "m", "--epochs 1000000 --curriculum centroid-distance").spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().starts_with("epoch 2/")));
    child.kill().unwrap();
    child.wait().unwrap();
    let told = lines.map_while(Result::ok).filter(|line| line.starts_with("epoch ")).count() + 4;
    let more = format!("--epochs {} --curriculum centroid-distance --resume", told + 3);
    finish(train(dir.path(), "m", &more));
    let recipe = record(dir.path(), "m").recipe;
    assert_eq!((recipe.epochs, recipe.curriculum.unwrap().epochs), (told + 3, 500_000));
    // What is said goes before what the checkpoint says.
    fs::write(dir.path().join("m.checkpoint"), "damaged").unwrap();
    let refused = train(dir.path(), "m", &more).output().unwrap();
    let message = words(&refused);
    assert!(!refused.status.success() && message.contains("m.checkpoint: expected a checkpoint"), "{message}");
}

#[test]
fn kept_epochs_export_as_a_training_of_so_many_epochs_would() {
    let dir = folder();
    finish(train(dir.path(), "m", "--epochs 4 --keep-epochs 1,3"));
    assert!(!dir.path().join("m.epoch-0002.weights.safetensors").exists());
    finish(train(dir.path(), "three", "--epochs 3"));
    let export = |weights: &str, out: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sordino"));
        command.current_dir(dir.path()).args(["export", "--weights", weights, "--out", out]);
        command.output().unwrap()
    };
    let output = export("m.epoch-0003.weights.safetensors", "e3.onnx");
    assert!(output.status.success(), "{}", words(&output));
    assert!(String::from_utf8_lossy(&output.stdout).contains("behind epoch 3"));
    assert!(model(dir.path(), "e3") == model(dir.path(), "three"));
    assert!(export("m.weights.safetensors", "last.onnx").status.success());
    assert!(model(dir.path(), "last") == model(dir.path(), "m"));
    let refused = train(dir.path(), "late", "--epochs 4 --keep-epochs 1,5").output().unwrap();
    assert!(words(&refused).contains("--keep-epochs: expected epochs from 1 to 4, got 5"), "{}", words(&refused));
    let refused = export("table.csv", "none.onnx");
    assert!(!refused.status.success() && words(&refused).contains("table.csv: expected a safetensors file"));
    let refused = export("m.weights.safetensors", "m.weights.safetensors");
    assert!(!refused.status.success() && words(&refused).contains("is an input"));
}

#[test]
fn a_record_holds_the_loss_attack_and_a_picture_stands_beside_it() {
    let dir = folder();
    let output = finish(train(dir.path(), "m", "--epochs 60"));
    let results = record(dir.path(), "m").results.unwrap();
    let attack = results.loss_attack.unwrap();
    assert_eq!((attack.n_members, attack.n_non_members), (120, 60));
    let gap = results.train.unwrap().accuracy - results.test.unwrap().accuracy;
    assert_eq!(results.gap, Some(gap));
    assert!(attack.advantage >= gap - 1e-9 && attack.auc > 0.5, "{attack:?} beside a gap of {gap}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("loss attack  AUC"));
    let picture = fs::read_to_string(dir.path().join("m.svg")).unwrap();
    assert!(picture.starts_with("<svg") && picture.contains("validation"), "{picture}");
}

#[test]
fn rows_that_are_named_are_left_out_of_the_training() {
    let dir = folder();
    finish(train(dir.path(), "m", "--epochs 1"));
    let split = sordino::data::Split::read(&dir.path().join("m.split.json")).unwrap();
    let train_rows = split.part(sordino::data::Part::Train);
    fs::write(dir.path().join("rows.txt"), format!("{} # hard\n{}\n", train_rows[3], train_rows[7])).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_sordino"));
    command.current_dir(dir.path()).args("train --data csv:table.csv --network mlp --epochs 1".split(' '));
    command.args("--split m.split.json --without rows.txt --out w.onnx".split(' '));
    finish(command);
    let mut command = Command::new(env!("CARGO_BIN_EXE_sordino"));
    command.current_dir(dir.path()).args("train --data csv:table.csv --network mlp --epochs 1".split(' '));
    let refused = command.args("--split m.split.json --without rows.txt --out m.onnx".split(' ')).output().unwrap();
    assert!(!refused.status.success() && words(&refused).contains("m.split.json is an input"), "{}", words(&refused));
    assert_eq!(sordino::data::Split::read(&dir.path().join("m.split.json")).unwrap(), split);
    let without = sordino::data::Split::read(&dir.path().join("w.split.json")).unwrap();
    assert_eq!(without.removed().len(), 2);
    assert_eq!(record(dir.path(), "w").results.unwrap().train.unwrap().n_rows, 118);
    assert!(!without.part(sordino::data::Part::Train).contains(&train_rows[3]));
}

#[test]
fn a_teacher_and_a_first_model_are_read_from_weights() {
    let dir = folder();
    finish(train(dir.path(), "first", "--epochs 3"));
    finish(train(dir.path(), "plain", "--epochs 2"));
    for (name, more) in [
        ("student", "--teacher first.weights.safetensors"),
        ("both", "--teacher first.weights.safetensors --distil-temperature 3 --distil-weight 0.5"),
        ("easy", "--curriculum loss --first-model first.weights.safetensors --curriculum-epochs 2"),
    ] {
        finish(train(dir.path(), name, &format!("--epochs 2 {more}")));
        assert!(model(dir.path(), name) != model(dir.path(), "plain"), "{name}");
    }
    let first =
        sordino::data::hex(&sha2::Sha256::digest(fs::read(dir.path().join("first.weights.safetensors")).unwrap()));
    let Some(MadeFrom::Taught(teacher)) = record(dir.path(), "both").made_from else { panic!("no teacher") };
    assert_eq!((teacher.digest.as_str(), teacher.n_models, teacher.n_rows), (first.as_str(), 1, 120));
    assert_eq!(record(dir.path(), "easy").difficulty_from.as_ref(), Some(&first));
    for (more, expected) in [
        ("--curriculum loss", "needs the losses of a first model"),
        ("--distil-weight 0.5", "there is no teacher"),
        ("--first-model first.weights.safetensors", "the recipe has no curriculum"),
        ("--teacher table.csv", "table.csv: expected a safetensors file"),
    ] {
        let output = train(dir.path(), "refused", more).output().unwrap();
        assert!(!output.status.success() && words(&output).contains(expected), "{more}: {}", words(&output));
    }
}

#[test]
fn a_recipe_is_printed_and_read_back_and_overridden() {
    let dir = folder();
    let print = |more: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sordino"));
        command.current_dir(dir.path()).arg("train").args(more.split_whitespace()).arg("--print-recipe");
        finish(command).stdout
    };
    let text = print("--network mlp --hidden 16 --mixup 0.2 --seed 9");
    fs::write(dir.path().join("recipe.toml"), &text).unwrap();
    assert_eq!(print("--recipe recipe.toml"), text);
    let other = String::from_utf8(print("--recipe recipe.toml --epochs 3")).unwrap();
    assert!(other.contains("epochs = 3") && other.contains("[mixup]"), "{other}");
    assert!(String::from_utf8(print("--recipe cs2980/dropout")).unwrap().contains("kind = \"ml-leaks\""));
    let mut command = Command::new(env!("CARGO_BIN_EXE_sordino"));
    command.current_dir(dir.path()).args("train --recipe recipe.toml --data csv:table.csv --train-rows 90".split(' '));
    finish({
        command.args(["--out", "r.onnx", "--epochs", "2"]);
        command
    });
    let recipe = record(dir.path(), "r").recipe;
    assert_eq!((recipe.epochs, recipe.mixup.unwrap().alpha, recipe.seed), (2, 0.2, 9));
    // A run record is a recipe too.
    assert_eq!(print("--recipe r.json"), recipe.to_toml().unwrap().into_bytes());
}

#[test]
fn early_stopping_is_told_in_record_and_card() {
    let dir = folder();
    finish(train(dir.path(), "m", "--epochs 400 --early-stopping 5"));
    let record = record(dir.path(), "m");
    assert_eq!(record.status, Status::Finished);
    assert_eq!(record.history.len(), record.best_epoch.unwrap() + 5);
    let card = fs::read_to_string(dir.path().join("m.md")).unwrap();
    assert!(card.contains(&format!("with the weights of epoch {}", record.best_epoch.unwrap())), "{card}");
}
