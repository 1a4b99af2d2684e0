//! Devices and what is fitted on them: a GPU learns what the processor learns, and gives the same centroids.
//!
//! What needs a driver that is not here is skipped, and says so; with `SORDINO_REQUIRE_DEVICE=vulkan` (or `cuda`) it
//! fails instead. `just vulkan-check` and `just gpu-check` run no tests: they compare by a script.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::AtomicBool;

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use sordino::artifact::centroids::{CentroidFile, read};
use sordino::data::{DataSource, Dataset, PartSizes, Split};
use sordino::lab::device::{Device, Kind, OpenDevice};
use sordino::lab::network::{About, Activation, Architecture, Normalisation};
use sordino::lab::onnx;
use sordino::lab::recipe::{DropoutRates, Normalise, Recipe};
use sordino::lab::train::{EpochScore, Outcome, StepReport, Task, Trainer, Watcher};

/// How far centroids of two runtimes may be apart in a logit.
const SAME_CENTROIDS: f32 = 1e-4;

/// How far the mean losses of epochs on two devices may be apart, relative to the processor's: they add in other
/// orders, and a step carries the difference to the next.
const SAME_LOSS: f64 = 1e-2;

const SIDE: usize = 12;
const N_CLASSES: usize = 3;

/// Four IDX files with `n_rows` and a few more images of three kinds of stripes under noise.
fn write_images(dir: &Path, n_rows: usize) {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    for (stem, n) in [("train", n_rows), ("t10k", 6)] {
        let mut pixels = vec![0, 0, 8, 3];
        [n, SIDE, SIDE].iter().for_each(|&size| pixels.extend((size as u32).to_be_bytes()));
        let mut labels = vec![0, 0, 8, 1];
        labels.extend((n as u32).to_be_bytes());
        for row in 0..n {
            let class = row % N_CLASSES;
            labels.push(class as u8);
            for place in 0..SIDE * SIDE {
                let (y, x) = (place / SIDE, place % SIDE);
                let stripe = [x, y, x + y][class] % 4 < 2;
                pixels.push(if stripe { rng.random_range(60..=255) } else { rng.random_range(0..=195) });
            }
        }
        fs::write(dir.join(format!("{stem}-images-idx3-ubyte")), pixels).unwrap();
        fs::write(dir.join(format!("{stem}-labels-idx1-ubyte")), labels).unwrap();
    }
}

fn images(n_rows: usize) -> (tempfile::TempDir, Dataset, Split) {
    let dir = tempfile::tempdir().unwrap();
    write_images(dir.path(), n_rows);
    let (source, dataset) = load(dir.path());
    let sizes = PartSizes { train: n_rows * 3 / 4, validation: n_rows / 8, ..PartSizes::default() };
    let split = Split::draw(&source, &dataset, sizes, 7).unwrap();
    (dir, dataset, split)
}

fn load(dir: &Path) -> (DataSource, Dataset) {
    let source: DataSource = format!("idx:{}", dir.display()).parse().unwrap();
    let dataset = Dataset::load(&source).unwrap();
    (source, dataset)
}

fn cnn() -> Architecture {
    Architecture::Cnn { channels: [4, 6], hidden: 12 }
}

fn recipe(network: Architecture) -> Recipe {
    Recipe { batch_size: 32, learning_rate: 3e-3, ..Recipe::plain(network, 3, 4) }
}

/// Loss and accuracy of each epoch.
fn history(dataset: &Dataset, split: &Split, recipe: Recipe, device: &OpenDevice) -> Vec<(f64, f64)> {
    let mut trainer = Trainer::new(Task::of_split(dataset, split).unwrap(), recipe, device).unwrap();
    assert_eq!(trainer.run(&AtomicBool::new(false), &mut ()).unwrap(), Outcome::Finished);
    trainer.position().history.iter().map(|epoch| (epoch.train.loss, epoch.validation.unwrap().loss)).collect()
}

/// The device, or a loud word on why the test that asks for it is skipped.
fn device(kind: Kind) -> Option<OpenDevice> {
    let device: Device = kind.to_string().parse().unwrap();
    match device.open() {
        Ok(open) => Some(open),
        Err(error) if std::env::var("SORDINO_REQUIRE_DEVICE").is_ok_and(|required| required == kind.to_string()) => {
            panic!("{error:#}")
        }
        Err(error) => {
            // Past the test harness, which keeps what passing tests print to itself.
            let _ = writeln!(std::io::stderr().lock(), "SKIPPED, no device: {error:#}");
            None
        }
    }
}

fn learns_what_the_processor_learns(kind: Kind) {
    let Some(open) = device(kind) else { return };
    let (_dir, dataset, split) = images(320);
    let normalise = Normalise::Constants(Normalisation { mean: vec![0.5], deviation: vec![0.25] });
    for recipe in [
        recipe(cnn()),
        Recipe { dropout: DropoutRates { input: 0.0, hidden: 0.25 }, normalise, ..recipe(cnn()) },
        recipe(Architecture::Mlp { hidden: vec![24, 16], activation: Activation::Tanh }),
    ] {
        let expected = history(&dataset, &split, recipe.clone(), &Device::Cpu.open().unwrap());
        let got = history(&dataset, &split, recipe, &open);
        assert_eq!(got.len(), expected.len());
        for (epoch, (got, expected)) in got.iter().zip(&expected).enumerate() {
            for (got, expected) in [(got.0, expected.0), (got.1, expected.1)] {
                let apart = (got - expected).abs() / expected;
                assert!(apart <= SAME_LOSS, "{kind}, epoch {epoch}: loss {got}, on the processor {expected}");
            }
        }
        assert!(expected[2].0 < 0.9 * expected[0].0, "the comparison is of a network that learns: {expected:?}");
    }
}

#[test]
fn vulkan_learns_what_the_processor_learns() {
    learns_what_the_processor_learns(Kind::Vulkan);
}

#[test]
fn cuda_learns_what_the_processor_learns() {
    learns_what_the_processor_learns(Kind::Cuda);
}

/// Keeps the checkpoint of the last epoch.
#[derive(Default)]
struct Keep(Vec<u8>);

impl Watcher for Keep {
    fn step(&mut self, _: StepReport) {}
    fn epoch(&mut self, _: &EpochScore, trainer: &Trainer<'_>) -> anyhow::Result<()> {
        self.0 = trainer.checkpoint()?;
        Ok(())
    }
}

/// Images with `m.onnx`, `m.split.json` and `m.checkpoint` of a training on them beside.
fn trained() -> tempfile::TempDir {
    let (dir, dataset, split) = images(320);
    let task = Task::of_split(&dataset, &split).unwrap();
    // Long enough that each class's centroid is largest at its own class.
    let recipe = Recipe { epochs: 20, seed: 1, ..recipe(cnn()) };
    let mut trainer = Trainer::new(task, recipe, &Device::Cpu.open().unwrap()).unwrap();
    let mut keep = Keep::default();
    trainer.run(&AtomicBool::new(false), &mut keep).unwrap();
    let learned = trainer.position().history.last().unwrap().train;
    assert!(learned.accuracy > 0.9, "what follows is of a network that learned: {learned:?}");
    fs::write(
        dir.path().join("m.onnx"),
        onnx::export(&trainer.network(), dataset.class_names(), onnx::Export::default()),
    )
    .unwrap();
    split.write(&dir.path().join("m.split.json")).unwrap();
    fs::write(dir.path().join("m.checkpoint"), keep.0).unwrap();
    dir
}

fn build(dir: &Path, out: &str, more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sordino"));
    command.current_dir(dir).args(["centroids", "build", "--quiet", "--data", "idx:.", "--model", "m.onnx"]);
    command.args(["--split", "m.split.json", "--out", out]).args(more);
    command.stdin(Stdio::null()).output().unwrap()
}

fn built(dir: &Path, out: &str, more: &[&str]) -> Vec<u8> {
    let output = build(dir, out, more);
    assert!(output.status.success(), "{more:?}: {}", String::from_utf8_lossy(&output.stderr));
    fs::read(dir.join(out)).unwrap()
}

fn refused(dir: &Path, more: &[&str]) -> String {
    let output = build(dir, "refused.safetensors", more);
    assert!(!output.status.success() && !dir.join("refused.safetensors").exists());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn centroids_do_not_depend_on_the_number_of_threads() {
    let dir = trained();
    let one = built(dir.path(), "1.safetensors", &["--threads", "1", "--batch-size", "7"]);
    for n_threads in ["2", "5"] {
        let several = built(dir.path(), "n.safetensors", &["--threads", n_threads, "--batch-size", "7"]);
        assert!(several == one, "{n_threads} threads");
    }
}

/// Centroids, quantiles of distances and inlier rows of two files.
fn assert_same_fit(one: &CentroidFile, other: &CentroidFile, what: &str) {
    let (one, other) = (&one.fitted, &other.fitted);
    let tables = [
        (one.centroids().values(), other.centroids().values()),
        (one.quantiles().values(), other.quantiles().values()),
    ];
    for (one, other) in tables {
        let apart = one.iter().zip(other).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(one.dim() == other.dim() && apart <= SAME_CENTROIDS, "{what}: {apart} apart");
    }
    assert_eq!(one.bank().n_rows(), other.bank().n_rows(), "{what}");
}

#[test]
fn centroids_from_a_checkpoint_are_those_of_the_graph_on_every_device() {
    let dir = trained();
    let graph = read(&built(dir.path(), "graph.safetensors", &[])).unwrap();
    let kinds = [Kind::Cpu, Kind::Vulkan, Kind::Cuda].into_iter().filter(|kind| device(*kind).is_some());
    for device in kinds.map(|kind| kind.to_string()) {
        let more = ["--checkpoint", "m.checkpoint", "--device", &device, "--batch-size", "50"];
        let network = read(&built(dir.path(), "network.safetensors", &more)).unwrap();
        assert_same_fit(&graph, &network, &device);
        assert_eq!(graph.metadata.model_sha256, network.metadata.model_sha256);
        assert_eq!(graph.metadata.rows_per_class, network.metadata.rows_per_class);
    }
}

#[test]
fn centroids_from_the_weights_of_a_finished_training_need_neither_its_rows_nor_its_split() {
    let (dir, ..) = images(320);
    let words = "train --data idx:. --network cnn --channels 4,8 --hidden 16 --learning-rate 0.01 --epochs 30 --early-stopping 20 \
        --train-rows 200 --validation-rows 60 --test-rows 60 --seed 1 --out m.onnx";
    let trained = Command::new(env!("CARGO_BIN_EXE_sordino"))
        .current_dir(dir.path())
        .args(words.split_whitespace())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(trained.status.success(), "{}", String::from_utf8_lossy(&trained.stderr));
    let without_split = |more: &[&str]| {
        let words = ["centroids", "build", "--quiet", "--data", "idx:.", "--model", "m.onnx", "--out", "c.safetensors"];
        let mut command = Command::new(env!("CARGO_BIN_EXE_sordino"));
        command.current_dir(dir.path()).args(words).args(more).stdin(Stdio::null()).output().unwrap()
    };
    let built = without_split(&["--weights", "m.weights.safetensors"]);
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    fs::write(dir.path().join("none"), b"nothing").unwrap();
    let refused = without_split(&["--weights", "none"]);
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && message.contains("expected a safetensors file with weights"), "{message}");
}

#[test]
fn a_checkpoint_of_another_model_or_of_other_rows_is_refused() {
    let dir = trained();
    assert!(refused(dir.path(), &["--device", "cpu"]).contains("--weights"), "a device alone runs nothing");
    let path = dir.path().join("m.checkpoint");
    let checkpoint = fs::read(&path).unwrap();

    let (source, dataset) = load(dir.path());
    let split = Split::read(&dir.path().join("m.split.json")).unwrap();
    let other = Recipe { seed: 9, ..recipe(cnn()) };
    let trainer = Trainer::new(Task::of_split(&dataset, &split).unwrap(), other, &Device::Cpu.open().unwrap());
    fs::write(&path, trainer.unwrap().checkpoint().unwrap()).unwrap();
    let message = refused(dir.path(), &["--checkpoint", "m.checkpoint"]);
    assert!(message.contains("the weights are not of this model: a logit differs by"), "{message}");

    let sizes = PartSizes { train: 200, ..PartSizes::default() };
    let others = Split::draw(&source, &dataset, sizes, 8).unwrap();
    let trainer = Trainer::new(Task::of_split(&dataset, &others).unwrap(), recipe(cnn()), &Device::Cpu.open().unwrap());
    fs::write(&path, trainer.unwrap().checkpoint().unwrap()).unwrap();
    let message = refused(dir.path(), &["--checkpoint", "m.checkpoint"]);
    assert!(message.contains("the checkpoint is of other rows"), "{message}");

    // Weights that are nearly those of the model, as those behind a late epoch are.
    let task = Task::of_split(&dataset, &split).unwrap();
    let trained = Recipe { epochs: 20, seed: 1, ..recipe(cnn()) };
    let network = Trainer::resume(task, trained.clone(), &Device::Cpu.open().unwrap(), &checkpoint).unwrap().network();
    let about = About {
        architecture: trained.network.clone(),
        row_shape: dataset.row_shape().to_vec(),
        labels: dataset.class_names().to_vec(),
        recipe: trained.digest(),
        epoch: None,
    };
    let written = |factor: f32| {
        let mut bytes = network.to_safetensors(&about).unwrap();
        // Behind the header all is f32.
        let values = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        for value in bytes[values..].as_chunks_mut::<4>().0 {
            *value = (f32::from_le_bytes(*value) * factor).to_le_bytes();
        }
        fs::write(dir.path().join("near.safetensors"), bytes).unwrap();
    };
    written(1.0);
    built(dir.path(), "same.safetensors", &["--weights", "near.safetensors"]);
    written(1.001);
    let message = refused(dir.path(), &["--weights", "near.safetensors"]);
    assert!(message.contains("the weights are not of this model: a logit differs by 0."), "{message}");

    fs::write(&path, &checkpoint[..checkpoint.len() / 2]).unwrap();
    let message = refused(dir.path(), &["--checkpoint", "m.checkpoint"]);
    assert!(message.contains("m.checkpoint: the checkpoint is damaged"), "{message}");
}

#[test]
fn a_device_that_is_not_there_is_an_error_that_says_why() {
    let dir = trained();
    for device in ["vulkan:999", "cuda:999"] {
        let message = refused(dir.path(), &["--checkpoint", "m.checkpoint", "--device", device]);
        let kind = device.split(':').next().unwrap();
        let reasons = [format!("feature '{kind}'"), "was not found".into(), "no device".into(), "such device".into()];
        assert!(message.contains(device) && reasons.iter().any(|reason| message.contains(reason)), "{message}");
        assert!(!message.contains("internal fault"), "{message}");
    }
    let message = refused(dir.path(), &["--checkpoint", "m.checkpoint", "--device", "gpu"]);
    assert!(message.contains("expected cpu, vulkan"), "{message}");
}

#[test]
fn the_list_of_devices_names_the_processor_and_a_reason_for_every_kind_without_one() {
    let run = |more: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_sordino")).arg("devices").args(more).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    let text = run(&[]);
    let list: serde_json::Value = serde_json::from_str(&run(&["--json"])).unwrap();
    assert!(text.starts_with("cpu "));
    assert_eq!(list["devices"][0]["device"], "cpu");
    for kind in ["vulkan", "cuda"] {
        let found = list["devices"].as_array().unwrap().iter().any(|found| found["device"] == format!("{kind}:0"));
        let missing = list["unavailable"].as_array().unwrap().iter().any(|missing| missing["kind"] == kind);
        assert!(found != missing && text.contains(&format!("\n{kind}")), "{text}");
    }
}
