//! Training and export, seen from outside: the rules that a trained model is built on.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ndarray::{Array2, ArrayD, Axis, Slice};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use sordino::data::{DataSource, Dataset, Part, PartSizes, Split};
use sordino::lab::device::{Device, OpenDevice};
use sordino::lab::network::{Activation, Architecture, Network};
use sordino::lab::onnx;
use sordino::lab::recipe::Recipe;
use sordino::lab::record::{RunRecord, Status};
use sordino::lab::train::{EpochScore, Outcome, StepReport, Task, Trainer, Watcher, evaluate};
use tract_onnx::prelude::{Framework, InferenceModelExt, IntoRunnable, IntoTValue, tvec};

/// How far two runtimes may be apart in a logit.
const PARITY: f32 = 1e-4;

/// A table of `n_rows` rows in three overlapping clusters of eight numbers.
fn write_table(path: &Path, n_rows: usize) {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let mut text = String::from("label,a,b,c,d,e,f,g,h\n");
    for row in 0..n_rows {
        let label = row % 3;
        text += &format!("\"{}\"", label + 1);
        for column in 0..8 {
            let centre = if column % 3 == label { 1.0 } else { 0.0 };
            text += &format!(",{:.4}", centre + rng.random_range(-0.8..0.8));
        }
        text.push('\n');
    }
    fs::write(path, text).unwrap();
}

fn table(n_rows: usize) -> (tempfile::TempDir, DataSource, Dataset) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("table.csv");
    write_table(&path, n_rows);
    let source: DataSource = format!("csv:{}", path.display()).parse().unwrap();
    let dataset = Dataset::load(&source).unwrap();
    (dir, source, dataset)
}

fn sizes() -> PartSizes {
    PartSizes { train: 120, validation: 30, calibration: 30, test: 60, shadow: 0 }
}

fn recipe(seed: u64) -> Recipe {
    Recipe { batch_size: 16, learning_rate: 1e-2, weight_decay: 1e-4, ..Recipe::plain(mlp(&[16, 8]), 4, seed) }
}

fn mlp(hidden: &[usize]) -> Architecture {
    Architecture::Mlp { hidden: hidden.to_vec(), activation: Activation::Relu }
}

fn cpu() -> OpenDevice {
    Device::Cpu.open().unwrap()
}

fn trainer<'a>(dataset: &'a Dataset, split: &Split, recipe: Recipe) -> Trainer<'a> {
    Trainer::new(Task::of_split(dataset, split).unwrap(), recipe, &cpu()).unwrap()
}

fn export(trainer: &Trainer<'_>, dataset: &Dataset) -> Vec<u8> {
    onnx::export(&trainer.network(), dataset.class_names(), onnx::Export::default())
}

fn resume<'a>(dataset: &'a Dataset, split: &Split, recipe: Recipe, bytes: &[u8]) -> anyhow::Result<Trainer<'a>> {
    Trainer::resume(Task::of_split(dataset, split)?, recipe, &cpu(), bytes)
}

fn train(dataset: &Dataset, split: &Split, recipe: Recipe) -> Vec<u8> {
    let mut trainer = trainer(dataset, split, recipe);
    assert_eq!(trainer.run(&AtomicBool::new(false), &mut ()).unwrap(), Outcome::Finished);
    export(&trainer, dataset)
}

fn run_in_tract(model: &[u8], rows: &ArrayD<f32>) -> Array2<f32> {
    let runnable =
        tract_onnx::onnx().model_for_read(&mut &model[..]).unwrap().into_optimized().unwrap().into_runnable().unwrap();
    let values: Vec<f32> = rows.iter().copied().collect();
    let input = tract_onnx::prelude::Tensor::from_shape(rows.shape(), &values).unwrap();
    let outputs = runnable.run(tvec!(input.into_tvalue())).unwrap();
    let logits = outputs[0].to_plain_array_view::<f32>().unwrap();
    Array2::from_shape_vec((logits.shape()[0], logits.shape()[1]), logits.iter().copied().collect()).unwrap()
}

#[test]
fn the_exported_graph_gives_the_logits_of_the_network_in_batches_of_any_size() {
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    let names: Vec<String> = (0..10).map(|class| class.to_string()).collect();
    for (architecture, row_shape) in [
        (Architecture::Cnn { channels: [8, 12], hidden: 16 }, vec![1, 28, 28]),
        (Architecture::Cnn { channels: [32, 64], hidden: 128 }, vec![3, 32, 32]),
        (Architecture::Cnn { channels: [3, 5], hidden: 4 }, vec![2, 7, 9]),
        (mlp(&[256, 128]), vec![446]),
        (mlp(&[]), vec![1, 4, 4]),
    ] {
        let network = Network::init(Arc::new(architecture.plan(&row_shape, 10, None).unwrap()), 7, &cpu().evaluation());
        let model = onnx::export(&network, &names, onnx::Export::default());
        let mut shape = vec![256];
        shape.extend(&row_shape);
        let rows = ArrayD::from_shape_simple_fn(shape, || rng.random_range(0.0f32..1.0));
        for n_rows in [1, 3, 64, 256] {
            let batch = rows.slice_axis(Axis(0), Slice::from(..n_rows)).to_owned();
            let expected = network.logits(batch.clone());
            let got = run_in_tract(&model, &batch);
            assert_eq!(got.dim(), (n_rows, 10));
            for (a, b) in got.iter().zip(&expected) {
                assert!((a - b).abs() <= PARITY, "{architecture:?}, {n_rows} rows: {a} and {b}");
            }
        }
    }
}

#[test]
fn a_seed_gives_the_same_bytes_and_another_seed_others() {
    let (_dir, source, dataset) = table(240);
    let split = Split::draw(&source, &dataset, sizes(), 5).unwrap();
    let bytes = train(&dataset, &split, recipe(5));
    assert!(bytes == train(&dataset, &split, recipe(5)), "the same seed gave another model");
    assert!(bytes != train(&dataset, &split, recipe(6)), "another seed gave the same model");
}

#[test]
fn training_learns_what_can_be_learned() {
    let (_dir, source, dataset) = table(240);
    let split = Split::draw(&source, &dataset, sizes(), 5).unwrap();
    let mut trainer = trainer(&dataset, &split, Recipe { epochs: 20, ..recipe(5) });
    let before = evaluate(&trainer.network(), &dataset, split.part(Part::Test)).unwrap();
    trainer.run(&AtomicBool::new(false), &mut ()).unwrap();
    let after = evaluate(&trainer.network(), &dataset, split.part(Part::Test)).unwrap();
    assert!(after.accuracy > 0.9 && after.loss < before.loss / 2.0, "{before:?}, then {after:?}");
    assert_eq!((after.n_rows, trainer.position().history.len()), (60, 20));
}

/// Raises a flag after a number of steps.
struct StopAfter<'a>(usize, &'a AtomicBool);

impl Watcher for StopAfter<'_> {
    fn step(&mut self, _: StepReport) {
        self.0 = self.0.saturating_sub(1);
        self.1.store(self.0 == 0, Ordering::Relaxed);
    }
    fn epoch(&mut self, _: &EpochScore, _: &Trainer<'_>) -> anyhow::Result<()> {
        Ok(())
    }
}

#[test]
fn a_training_interrupted_anywhere_and_resumed_ends_as_an_undisturbed_one() {
    let (_dir, source, dataset) = table(240);
    let split = Split::draw(&source, &dataset, sizes(), 5).unwrap();
    let whole = train(&dataset, &split, recipe(5));
    for n_steps in [1, 8, 13] {
        let stop = AtomicBool::new(false);
        let mut first = trainer(&dataset, &split, recipe(5));
        assert_eq!(first.run(&stop, &mut StopAfter(n_steps, &stop)).unwrap(), Outcome::Interrupted);
        let checkpoint = first.checkpoint().unwrap();
        let mut second = resume(&dataset, &split, recipe(5), &checkpoint).unwrap();
        assert!(second.position() == first.position());
        assert_eq!(second.run(&AtomicBool::new(false), &mut ()).unwrap(), Outcome::Finished);
        assert!(export(&second, &dataset) == whole, "stopped after {n_steps} steps");
    }
}

#[test]
fn a_checkpoint_that_is_damaged_or_of_another_recipe_or_split_is_refused() {
    let (_dir, source, dataset) = table(240);
    let split = Split::draw(&source, &dataset, sizes(), 5).unwrap();
    let checkpoint = trainer(&dataset, &split, recipe(5)).checkpoint().unwrap();
    let refusal = |split, recipe, bytes: &[u8]| resume(&dataset, split, recipe, bytes).err().unwrap().to_string();

    let mut damaged = checkpoint.clone();
    *damaged.last_mut().unwrap() ^= 1;
    assert!(refusal(&split, recipe(5), &damaged).contains("damaged"));
    assert!(refusal(&split, recipe(5), &checkpoint[..20]).contains("expected a checkpoint"));
    assert!(refusal(&split, recipe(5), b"").contains("expected a checkpoint"));
    assert!(refusal(&split, recipe(6), &checkpoint).contains("another recipe: seed: expected 6, got 5"));
    let other = Split::draw(&source, &dataset, sizes(), 6).unwrap();
    assert!(refusal(&other, recipe(5), &checkpoint).contains("other rows"));
}

#[test]
fn a_training_that_diverges_stops_and_says_where() {
    let (_dir, source, dataset) = table(240);
    let split = Split::draw(&source, &dataset, sizes(), 5).unwrap();
    let mut trainer = trainer(&dataset, &split, Recipe { learning_rate: 1e30, ..recipe(5) });
    let message = trainer.run(&AtomicBool::new(false), &mut ()).unwrap_err().to_string();
    assert!(message.contains("in epoch 1 after") && message.contains("smaller learning rate"), "{message}");
}

#[test]
fn a_split_of_other_rows_is_refused() {
    let (_dir, source, dataset) = table(240);
    let (_other_dir, _, other) = table(243);
    let split = Split::draw(&source, &dataset, sizes(), 5).unwrap();
    let message = Task::of_split(&other, &split).err().unwrap().to_string();
    assert!(message.contains("expected a split of the dataset with digest"), "{message}");
}

/// `sordino train` on a table in `dir`, writing `dir/NAME.onnx`.
fn command(dir: &Path, name: &str, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sordino"));
    command.current_dir(dir).arg("train").args(["--network", "mlp", "--hidden", "16,8", "--seed", "5"]);
    command.args(["--data", &format!("csv:{}", dir.join("table.csv").display())]);
    command.args(["--train-rows", "120", "--validation-rows", "30", "--calibration-rows", "30", "--test-rows", "60"]);
    command.args(["--out", &format!("models/{name}.onnx")]).args(more);
    command.stdin(Stdio::null());
    command
}

fn read_record(dir: &Path, name: &str) -> RunRecord {
    serde_json::from_slice(&fs::read(dir.join(format!("models/{name}.json"))).unwrap()).unwrap()
}

#[test]
fn the_command_writes_model_record_split_and_card_and_names_no_path_of_the_machine() {
    let dir = tempfile::tempdir().unwrap();
    write_table(&dir.path().join("table.csv"), 240);
    let output = command(dir.path(), "m", &["--epochs", "2", "--parity-out", "p.safetensors"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let record = read_record(dir.path(), "m");
    assert_eq!((record.status, record.history.len()), (Status::Finished, 2));
    assert_eq!(record.data.labels, ["1", "2", "3"]);
    let split = Split::read(&dir.path().join("models/m.split.json")).unwrap();
    assert_eq!((split.digest(), split.sizes()), (record.split.digest.clone(), sizes()));
    assert_eq!(record.results.unwrap().test.unwrap().n_rows, 60);
    let here = dir.path().to_str().unwrap();
    for file in ["m.json", "m.split.json", "m.md", "m.onnx", "m.weights.safetensors", "m.svg"] {
        let text = String::from_utf8_lossy(&fs::read(dir.path().join("models").join(file)).unwrap()).into_owned();
        assert!(!text.contains(here), "{file} names {here}");
    }
    let card = fs::read_to_string(dir.path().join("models/m.md")).unwrap();
    assert!(card.contains("csv:table.csv") && card.contains(&record.model.sha256), "{card}");
    assert_eq!(fs::read_dir(dir.path().join("models")).unwrap().count(), 6);

    let bytes = fs::read(dir.path().join("p.safetensors")).unwrap();
    let parity = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(parity.tensor("logits").unwrap().shape(), [60, 3]);
    assert_eq!(parity.tensor("input").unwrap().shape(), [60, 8]);
}

#[cfg(unix)]
#[test]
fn ctrl_c_leaves_a_checkpoint_and_resuming_ends_as_an_undisturbed_run() {
    let dir = tempfile::tempdir().unwrap();
    write_table(&dir.path().join("table.csv"), 240);
    // More epochs than any machine does before the signal comes.
    let endless =
        command(dir.path(), "m", &["--epochs", "1000000"]).stderr(Stdio::piped()).stdout(Stdio::null()).spawn();
    let mut child = endless.unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().starts_with("epoch 2/")), "no second epoch was seen");
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let last = lines.map(Result::unwrap).last();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{last:?}");
    assert!(dir.path().join("models/m.checkpoint").exists());
    let Status::Interrupted { epoch, .. } = read_record(dir.path(), "m").status else { panic!("not interrupted") };
    let card = fs::read_to_string(dir.path().join("models/m.md")).unwrap();
    let done = format!("interrupted after {} of 1000000 epochs and ", epoch - 1);
    assert!(card.contains(&done) && !card.contains(", 1000000 epochs"), "{card}");
    let rows = ArrayD::zeros(vec![2, 8]);
    assert_eq!(run_in_tract(&fs::read(dir.path().join("models/m.onnx")).unwrap(), &rows).dim(), (2, 3));

    let epochs = (epoch + 2).to_string();
    for (name, more) in [("m", ["--resume", "--epochs"].as_slice()), ("whole", &["--epochs"])] {
        let output = command(dir.path(), name, more).arg(&epochs).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(read_record(dir.path(), name).history.len(), epoch + 2);
    }
    assert_eq!(read_record(dir.path(), "m").model.sha256, read_record(dir.path(), "whole").model.sha256);
    assert!(!dir.path().join("models/m.checkpoint").exists());
}

#[cfg(unix)]
#[test]
fn a_checkpoint_is_lost_only_when_asked_and_sigterm_leaves_one_too() {
    let dir = tempfile::tempdir().unwrap();
    write_table(&dir.path().join("table.csv"), 240);
    let endless = ["--epochs", "1000000"];
    let mut child = command(dir.path(), "m", &endless).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().starts_with("epoch 1/")), "no epoch was seen");
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
    let last = lines.map(Result::unwrap).last();
    assert_eq!(child.wait().unwrap().code(), Some(143), "{last:?}");
    let checkpoint = dir.path().join("models/m.checkpoint");
    let saved = fs::read(&checkpoint).unwrap();

    let output = command(dir.path(), "m", &["--epochs", "1"]).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && message.contains("--resume") && message.contains("--fresh"), "{message}");
    assert!(fs::read(&checkpoint).unwrap() == saved, "the refused run touched the checkpoint");
    let output = command(dir.path(), "m", &["--epochs", "1", "--fresh"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!checkpoint.exists());
}

#[test]
fn outputs_that_cannot_be_written_or_are_inputs_are_told_before_the_first_epoch() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    write_table(&at("table.csv"), 240);
    let before = fs::read(at("table.csv")).unwrap();
    fs::create_dir_all(at("models/folder.md")).unwrap();
    for (name, more, expected) in [
        ("folder", ["--epochs", "1"], "models/folder.md: expected a regular file or none"),
        ("m", ["--parity-out", "table.csv"], "table.csv is an input"),
        ("m", ["--parity-out", "models/m.json"], "--parity-out: models/m.json is written already"),
    ] {
        let output = command(dir.path(), name, &more).output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && message.contains(expected), "{more:?}: {message}");
        assert!(!message.contains("epoch 1/"), "{message}");
    }
    assert!(fs::read(at("table.csv")).unwrap() == before);
    assert_eq!(fs::read_dir(at("models")).unwrap().count(), 1, "a refused run left something");
}

#[test]
fn a_record_names_the_commit_of_the_build_and_not_that_of_the_folder() {
    let dir = tempfile::tempdir().unwrap();
    write_table(&dir.path().join("table.csv"), 240);
    // Somebody else's repository, which the command is run in.
    let git = |words: &[&str]| Command::new("git").current_dir(dir.path()).args(words).output().map(|o| o.status);
    let who = ["-c", "user.name=a", "-c", "user.email=a@b"];
    let _ = git(&["init", "-q"]).and_then(|_| git(&[&who[..], &["commit", "-q", "--allow-empty", "-m", "x"]].concat()));
    let output = command(dir.path(), "m", &["--epochs", "1"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let code = read_record(dir.path(), "m").code.map(|code| (code.commit, code.dirty.to_string()));
    let stamped = (env!("SORDINO_BUILD_COMMIT").to_owned(), env!("SORDINO_BUILD_DIRTY").to_owned());
    assert_eq!(code, Some(stamped).filter(|(commit, _)| !commit.is_empty()));
}

#[test]
fn published_runs_name_the_version_of_the_kernel_and_not_its_build() {
    let runs = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/runs");
    let mut n_pages = 0;
    for run in fs::read_dir(runs).unwrap().map(|run| run.unwrap().path()) {
        for file in fs::read_dir(&run).unwrap().map(|file| file.unwrap().path()) {
            let text = fs::read_to_string(&file).unwrap();
            let after = |mark: &'static str| text.match_indices(mark).map(move |(at, _)| at + mark.len());
            for at in after("Linux ").chain(after("\"kernel\": \"")) {
                let kernel = text[at..].split([' ', '"']).next().unwrap();
                let is_version = kernel.chars().all(|c| c.is_ascii_digit() || c == '.');
                assert!(is_version, "{}: {kernel}", file.display());
            }
        }
        n_pages += usize::from(run.join("README.md").is_file());
    }
    assert!(n_pages > 0);
}

/// `sordino centroids build` on the table in `dir`, for the model that [`command`] left there.
fn build_centroids(dir: &Path, name: &str, out: &str) -> std::process::Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sordino"));
    command.current_dir(dir).args(["centroids", "build", "--quiet", "--data", "csv:table.csv", "--out", out]);
    command.args(["--model", &format!("models/{name}.onnx"), "--split", &format!("models/{name}.split.json")]);
    command.stdin(Stdio::null()).output().unwrap()
}

#[test]
fn centroids_never_replace_what_they_are_built_from_nor_take_classes_of_other_names() {
    let dir = tempfile::tempdir().unwrap();
    write_table(&dir.path().join("table.csv"), 240);
    let output = command(dir.path(), "m", &["--epochs", "20", "--learning-rate", "0.01"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for input in ["models/m.onnx", "models/../models/m.split.json", "table.csv"] {
        let before = fs::read(dir.path().join(input)).unwrap();
        let output = build_centroids(dir.path(), "m", input);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && message.contains("is an input"), "{input}: {message}");
        assert!(fs::read(dir.path().join(input)).unwrap() == before);
    }
    let output = build_centroids(dir.path(), "m", "m.safetensors");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    // The same rows under other names of the same number and order: the digest does not see it, the names do.
    let text = fs::read_to_string(dir.path().join("table.csv")).unwrap();
    let renamed = text.replace("\"1\"", "cat").replace("\"2\"", "dog").replace("\"3\"", "fox");
    fs::write(dir.path().join("table.csv"), renamed).unwrap();
    let output = build_centroids(dir.path(), "m", "m.safetensors");
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && message.contains("the model has '1', '2', '3'; the data has 'cat', 'dog', 'fox'"),
        "{message}"
    );
}

#[test]
fn mistakes_are_told_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    write_table(&dir.path().join("table.csv"), 240);
    for (more, expected) in [
        (["--epochs", "0"], "epochs: expected at least 1"),
        (["--depth", "4"], "--depth is not for mlp"),
        (["--batch-size", "0"], "batch size: expected at least 1"),
        (["--learning-rate", "inf"], "learning rate: expected a positive number"),
        (["--split", "none.json"], "cannot be used with"),
    ] {
        let output = command(dir.path(), "m", &more).output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && message.contains(expected), "{more:?}: {message}");
    }
    assert!(!dir.path().join("models/m.onnx").exists());
}
