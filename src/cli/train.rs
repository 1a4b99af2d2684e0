//! `sordino train`: a classifier from labelled rows, with the record of how it was made.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Instant;

use anyhow::{Context, bail};
use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};
use ndarray::{Array2, ArrayD};
use sha2::{Digest, Sha256};

use super::origin::{Commit, Machine};
use super::privacy::{PrivacyArgs, PrivateRecipe};
use crate::data::{DataSource, Dataset, Part, PartSizes, Split, check_writable, hex, is_same_file, write_atomic};
use crate::lab::device::Device;
use crate::lab::network::{Activation, Architecture};
use crate::lab::onnx;
use crate::lab::recipe::Recipe;
use crate::lab::record::{
    CodeRecord, DataRecord, FORMAT, FORMAT_VERSION, MachineRecord, ModelRecord, Results, RunRecord, SplitRecord, Status,
};
use crate::lab::train::{EpochScore, Outcome, StepReport, Task, Trainer, Watcher, evaluate};

/// The exit code after Ctrl-C, as shells count it: 128 + SIGINT.
const EXIT_INTERRUPTED: u8 = 130;

/// The exit code after SIGTERM, counted the same way.
#[cfg(unix)]
const EXIT_TERMINATED: u8 = 143;

/// Rows on which the exported graph is compared with the network, and that `--parity-out` writes.
const PARITY_ROWS: usize = 256;

/// How far a logit of the exported graph may be from the network's own.
const PARITY_TOLERANCE: f32 = 1e-4;

/// Train a classifier and export it as ONNX.
///
/// Draws disjoint parts of the rows (train, validation, calibration, test), trains on the first with Adam, and
/// writes four files beside each other: NAME.onnx (the model, logits out, any batch size), NAME.json (the run
/// record: recipe, seed, digests, accuracies, commit, machine), NAME.split.json (which row served which
/// purpose) and NAME.md (the model card).
///
/// The same command gives the same model on the same machine. Ctrl-C (or SIGTERM) finishes the running step, writes
/// the model as it is and NAME.checkpoint beside it, and exits with code 130 (143); the same command with --resume goes
/// on from there and ends with the model that an undisturbed run gives.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[arg(long, value_name = "SOURCE", help = super::data_help("Labelled rows"))]
    data: DataSource,
    /// Where the model goes: DIR/NAME.onnx. The other files are named after it.
    #[arg(long, value_name = "DIR/NAME.onnx")]
    out: PathBuf,
    /// The network: cnn (two convolutions with pooling, two linear layers; images only) or mlp.
    #[arg(long, value_enum)]
    network: NetworkKind,
    /// Channels of the two convolutions of a cnn.
    #[arg(long, value_name = "A,B", value_delimiter = ',', default_values_t = [32, 64])]
    channels: Vec<usize>,
    /// Units of the hidden linear layers: one for a cnn [default: 128], any number for an mlp [default: 256,128].
    #[arg(long, value_name = "N,..", value_delimiter = ',')]
    hidden: Vec<usize>,
    /// Rows to train on. Few rows and many epochs overfit, which membership inference lives on.
    #[arg(long, value_name = "N", required_unless_present = "split")]
    train_rows: Option<usize>,
    /// Rows that are measured after each epoch and never fitted on.
    #[arg(long, value_name = "N", default_value_t = 0)]
    validation_rows: usize,
    /// Rows set apart for temperatures, thresholds and prototypes.
    #[arg(long, value_name = "N", default_value_t = 0)]
    calibration_rows: usize,
    /// Rows kept out of every fit.
    #[arg(long, value_name = "N", default_value_t = 0)]
    test_rows: usize,
    /// Use the parts of this split file, which must be of the same rows, and draw none.
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["train_rows", "validation_rows", "calibration_rows", "test_rows"]
    )]
    split: Option<PathBuf>,
    /// How often each training row is seen.
    #[arg(long, value_name = "N", default_value_t = 10)]
    epochs: usize,
    /// Rows in a step.
    #[arg(long, value_name = "N", default_value_t = 64)]
    batch_size: usize,
    /// Adam's step size.
    #[arg(long, value_name = "X", default_value_t = 1e-3)]
    learning_rate: f64,
    /// L2 penalty on all parameters, added to the gradient.
    #[arg(long, value_name = "X", default_value_t = 0.0)]
    weight_decay: f64,
    /// Decides the parts, the initial weights and the order of the rows.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    privacy: PrivacyArgs,
    /// Where to compute: cpu, vulkan[:N] or cuda[:N].
    #[arg(long, value_name = "DEVICE", default_value_t = Device::Cpu)]
    device: Device,
    /// Go on from NAME.checkpoint. The other arguments must be those of the interrupted run; only the
    /// number of epochs may differ.
    #[arg(long)]
    resume: bool,
    /// Start anew although NAME.checkpoint is there; it is lost once the new run ends.
    #[arg(long, conflicts_with = "resume")]
    fresh: bool,
    /// Also write up to 256 test rows ("input") and the network's own logits for them ("logits") to this
    /// safetensors file, to check another runtime against.
    #[arg(long, value_name = "FILE")]
    parity_out: Option<PathBuf>,
    /// Give the exported model a second output with the penultimate features ("penultimate_features"), for the offline
    /// side; no server of ours serves it.
    #[arg(long)]
    with_features: bool,
    /// Make each batch normalisation right behind a convolution part of it in the exported model.
    #[arg(long)]
    fold_batch_norm: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum NetworkKind {
    /// Two convolutions with pooling, two linear layers.
    Cnn,
    /// Linear layers with ReLU between them.
    Mlp,
}

/// Runs the command.
///
/// # Errors
///
/// When an argument, a row or a file is wrong, or the training diverges; nothing is written then.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let started = Instant::now();
    let PrivateRecipe { recipe, secret, notes } = args.privacy.apply(args.recipe()?)?;
    recipe.check()?;
    notes.iter().for_each(|note| eprintln!("note: {note}"));
    let files = Files::beside(&args.out)?;
    files.check(&args)?;
    let dataset = Dataset::load(&args.data)?;
    let split = args.split(&dataset)?;
    let device = args.device.open()?;
    let task = Task::of_split(&dataset, &split)?;
    let mut trainer = if args.resume {
        let bytes = std::fs::read(&files.checkpoint)
            .with_context(|| format!("cannot read the checkpoint {}", files.checkpoint.display()))?;
        Trainer::resume(task, recipe.clone(), &device, &bytes)?
    } else {
        Trainer::new(task, recipe.clone(), &device)?
    };
    if let Some(secret) = secret {
        trainer = trainer.with_secret(secret)?;
    }
    let mut bar = Bar::new(&recipe, split.part(Part::Train).len());
    let stop = Stop::listen()?;
    let outcome = trainer.run(&stop.flag, &mut bar);
    bar.close();
    let outcome = outcome?;

    let sitting =
        Sitting { args: &args, files: &files, dataset: &dataset, split: &split, trainer: &trainer, notes, started };
    sitting.write(&recipe, outcome)?;
    match outcome {
        Outcome::Finished => {
            let _ = std::fs::remove_file(&files.checkpoint);
            Ok(ExitCode::SUCCESS)
        }
        Outcome::Interrupted => {
            eprintln!("interrupted; go on with the same command and --resume");
            Ok(ExitCode::from(stop.exit_code.load(Ordering::Relaxed)))
        }
    }
}

impl Args {
    fn recipe(&self) -> anyhow::Result<Recipe> {
        let network = match self.network {
            NetworkKind::Cnn => {
                let Ok(channels) = <[usize; 2]>::try_from(self.channels.as_slice()) else {
                    bail!("--channels: expected two numbers, got {}", self.channels.len());
                };
                let hidden = match self.hidden.as_slice() {
                    [] => 128,
                    &[hidden] => hidden,
                    more => bail!("--hidden: expected one number for a cnn, got {}", more.len()),
                };
                Architecture::Cnn { channels, hidden }
            }
            NetworkKind::Mlp if self.hidden.is_empty() => {
                Architecture::Mlp { hidden: vec![256, 128], activation: Activation::Relu }
            }
            NetworkKind::Mlp => Architecture::Mlp { hidden: self.hidden.clone(), activation: Activation::Relu },
        };
        Ok(Recipe {
            batch_size: self.batch_size,
            learning_rate: self.learning_rate,
            weight_decay: self.weight_decay,
            ..Recipe::plain(network, self.epochs, self.seed)
        })
    }

    fn split(&self, dataset: &Dataset) -> anyhow::Result<Split> {
        if let Some(path) = &self.split {
            let split = Split::read(path)?;
            split.check(dataset)?;
            split.check_classes(dataset)?;
            return Ok(split);
        }
        let sizes = PartSizes {
            train: self.train_rows.unwrap_or(0),
            validation: self.validation_rows,
            calibration: self.calibration_rows,
            test: self.test_rows,
            shadow: 0,
        };
        Ok(Split::draw(&self.data, dataset, sizes, self.seed)?)
    }
}

/// Where everything goes.
struct Files {
    model: PathBuf,
    record: PathBuf,
    split: PathBuf,
    card: PathBuf,
    checkpoint: PathBuf,
}

impl Files {
    fn beside(out: &Path) -> anyhow::Result<Self> {
        if out.extension().is_none_or(|ending| ending != "onnx") || out.file_stem().is_none() {
            bail!("--out: expected the name of a file that ends in .onnx, got {}", out.display());
        }
        make_folder_of(out)?;
        Ok(Self {
            model: out.to_owned(),
            record: out.with_extension("json"),
            split: out.with_extension("split.json"),
            card: out.with_extension("md"),
            checkpoint: out.with_extension("checkpoint"),
        })
    }
}

impl Files {
    /// Stops before the first epoch where a file could not be written, would replace an input or another
    /// output, or where the checkpoint of an interrupted run would be lost.
    fn check(&self, args: &Args) -> anyhow::Result<()> {
        let own = [&self.model, &self.record, &self.split, &self.card, &self.checkpoint];
        if let Some(path) = &args.parity_out {
            make_folder_of(path)?;
            if own.iter().any(|file| *file == path || is_same_file(file, path)) {
                bail!("--parity-out: {} is written already, give another name", path.display());
            }
        }
        for file in own.into_iter().chain(&args.parity_out) {
            // The split file itself may be given again: the same parts are written to it.
            let is_split = file != &self.split && args.split.as_ref().is_some_and(|split| is_same_file(split, file));
            if is_split || args.data.reads(file) {
                bail!("{} is an input and would be written to: give another name", file.display());
            }
            check_writable(file).with_context(|| format!("cannot write {}", file.display()))?;
        }
        if !args.resume && !args.fresh && self.checkpoint.exists() {
            bail!(
                "{} is there, of an interrupted run: --resume goes on from it, --fresh starts anew and loses it",
                self.checkpoint.display()
            );
        }
        Ok(())
    }
}

fn make_folder_of(path: &Path) -> anyhow::Result<()> {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => {
            std::fs::create_dir_all(dir).with_context(|| format!("cannot make the folder {}", dir.display()))
        }
        _ => Ok(()),
    }
}

fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    write_atomic(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

fn name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// One sitting of a training, at its end.
struct Sitting<'a> {
    args: &'a Args,
    files: &'a Files,
    dataset: &'a Dataset,
    split: &'a Split,
    trainer: &'a Trainer<'a>,
    /// What a private recipe changed.
    notes: Vec<String>,
    started: Instant,
}

impl Sitting<'_> {
    /// Writes everything, the record last: where it stands, the others do too.
    fn write(&self, recipe: &Recipe, outcome: Outcome) -> anyhow::Result<()> {
        let files = self.files;
        if outcome == Outcome::Interrupted {
            write(&files.checkpoint, &self.trainer.checkpoint()?)?;
        }
        let network = self.trainer.network();
        let options = onnx::Export { features: self.args.with_features, fold_batch_norm: self.args.fold_batch_norm };
        let model = onnx::export(&network, self.dataset.class_names(), options);
        let rows = self.dataset.batch(self.parity_rows());
        let logits = network.logits(rows.clone());
        let off = onnx::disagreement(&model, &rows, &logits).context("cannot run the exported graph")?;
        if off > PARITY_TOLERANCE {
            bail!("a logit of the exported graph is off by {off}, expected at most {PARITY_TOLERANCE}");
        }
        write(&files.split, &self.split.to_bytes())?;
        write(&files.model, &model)?;
        if let Some(path) = &self.args.parity_out {
            write_parity(path, &rows, &logits)?;
        }
        let privacy = self.trainer.privacy(self.notes.clone())?;
        let record = RunRecord { privacy, ..self.record(recipe, outcome, &model) };
        write(&files.card, record.card().as_bytes())?;
        write(&files.record, &record.to_json())?;
        print_results(&record, &files.model);
        Ok(())
    }

    /// Test rows; where there are none, training rows.
    fn parity_rows(&self) -> &[usize] {
        let rows = match self.split.part(Part::Test) {
            [] => self.split.part(Part::Train),
            rows => rows,
        };
        &rows[..rows.len().min(PARITY_ROWS)]
    }

    fn record(&self, recipe: &Recipe, outcome: Outcome, model: &[u8]) -> RunRecord {
        let position = self.trainer.position();
        let machine = Machine::here();
        let (status, results) = match outcome {
            Outcome::Finished => {
                let network = self.trainer.network();
                let parts = [Part::Train, Part::Validation, Part::Calibration, Part::Test];
                let [train, validation, calibration, test] =
                    parts.map(|part| evaluate(&network, self.dataset, self.split.part(part)));
                (Status::Finished, Some(Results { train, validation, calibration, test }))
            }
            Outcome::Interrupted => {
                (Status::Interrupted { epoch: position.history.len() + 1, rows_seen: position.rows_seen }, None)
            }
        };
        RunRecord {
            format: FORMAT.to_owned(),
            format_version: FORMAT_VERSION,
            sordino: env!("CARGO_PKG_VERSION").to_owned(),
            status,
            recipe: recipe.clone(),
            data: DataRecord {
                source: self.args.data.to_string(),
                digest: self.split.dataset_digest().to_owned(),
                n_rows: self.dataset.n_rows(),
                row_shape: self.dataset.row_shape().to_vec(),
                labels: self.dataset.class_names().to_vec(),
            },
            split: SplitRecord {
                file: name(&self.files.split),
                digest: self.split.digest(),
                seed: self.split.seed(),
                sizes: self.split.sizes(),
            },
            model: ModelRecord {
                file: name(&self.files.model),
                sha256: hex(&Sha256::digest(model)),
                n_bytes: model.len(),
                n_parameters: self.trainer.network().n_parameters(),
                input: onnx::input_name(self.dataset.row_shape()).to_owned(),
                output: onnx::OUTPUT.to_owned(),
            },
            privacy: None,
            made_from: None,
            results,
            history: position.history.clone(),
            wall_seconds: (self.started.elapsed().as_secs_f64() * 10.0).round() / 10.0,
            code: Commit::of_build().map(|Commit { id, dirty }| CodeRecord { commit: id.to_owned(), dirty }),
            machine: MachineRecord { cpu: machine.cpu, n_cores: machine.n_cores },
        }
    }
}

/// Rows and the network's own logits, for another runtime to be held against.
fn write_parity(path: &Path, rows: &ArrayD<f32>, logits: &Array2<f32>) -> anyhow::Result<()> {
    use safetensors::tensor::{Dtype, TensorView, serialize};
    let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    let input = bytes(rows.as_slice().context("rows that lie in one piece")?);
    let output = bytes(logits.as_slice().context("logits that lie in one piece")?);
    let tensors = [
        ("input", TensorView::new(Dtype::F32, rows.shape().to_vec(), &input)?),
        ("logits", TensorView::new(Dtype::F32, logits.shape().to_vec(), &output)?),
    ];
    write(path, &serialize(tensors, None)?)
}

fn print_results(record: &RunRecord, model: &Path) {
    println!("{}  {} bytes  sha256 {}", model.display(), record.model.n_bytes, record.model.sha256);
    if let Some(results) = &record.results {
        let parts = [
            ("train", results.train),
            ("validation", results.validation),
            ("calibration", results.calibration),
            ("test", results.test),
        ];
        for (name, score) in parts {
            if let Some(score) = score {
                println!("{name:<12} rows {:>6}  accuracy {:.4}  loss {:.4}", score.n_rows, score.accuracy, score.loss);
            }
        }
    }
    if let Some(privacy) = &record.privacy {
        println!("privacy      epsilon {:.4} at delta {:.3e}, {} steps", privacy.epsilon, privacy.delta, privacy.steps);
    }
    println!("{:.1} s", record.wall_seconds);
}

/// Raised by the first Ctrl-C or SIGTERM; the second ends the process at once.
pub(super) struct Stop {
    pub(super) flag: Arc<AtomicBool>,
    pub(super) exit_code: Arc<AtomicU8>,
}

impl Stop {
    pub(super) fn listen() -> anyhow::Result<Self> {
        let stop =
            Self { flag: Arc::new(AtomicBool::new(false)), exit_code: Arc::new(AtomicU8::new(EXIT_INTERRUPTED)) };
        let (flag, exit_code) = (Arc::clone(&stop.flag), Arc::clone(&stop.exit_code));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        // Registered before training starts, on this thread, so that no early signal is lost.
        let mut signals = {
            let _guard = runtime.enter();
            Signals::listen()?
        };
        std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            exit_code.store(runtime.block_on(signals.next()), Ordering::Relaxed);
            flag.store(true, Ordering::Relaxed);
            eprintln!("finishing the running step; a second Ctrl-C loses it");
            std::process::exit(i32::from(runtime.block_on(signals.next())));
        })?;
        Ok(stop)
    }
}

#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn listen() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Waits for a signal and names the exit code that it asks for.
    async fn next(&mut self) -> u8 {
        tokio::select! {
            _ = self.interrupt.recv() => EXIT_INTERRUPTED,
            _ = self.terminate.recv() => EXIT_TERMINATED,
        }
    }
}

#[cfg(windows)]
struct Signals(tokio::signal::windows::CtrlC);

#[cfg(windows)]
impl Signals {
    fn listen() -> std::io::Result<Self> {
        tokio::signal::windows::ctrl_c().map(Self)
    }

    async fn next(&mut self) -> u8 {
        self.0.recv().await;
        EXIT_INTERRUPTED
    }
}

/// The progress bar on stderr; where that is no terminal, one line an epoch.
struct Bar {
    bar: ProgressBar,
    n_epochs: usize,
    n_rows: usize,
}

impl Bar {
    fn new(recipe: &Recipe, n_rows: usize) -> Self {
        let bar = ProgressBar::new((recipe.epochs as u64).saturating_mul(n_rows as u64));
        let style = ProgressStyle::with_template("{bar:24} {percent:>3} %  {msg}  {elapsed} gone, {eta} left")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style);
        Self { bar, n_epochs: recipe.epochs, n_rows }
    }

    fn close(&self) {
        self.bar.finish_and_clear();
    }
}

impl Watcher for Bar {
    fn step(&mut self, report: StepReport) {
        self.bar.set_position(((report.epoch - 1) * self.n_rows + report.rows_seen) as u64);
        self.bar.set_message(format!(
            "epoch {}/{}  loss {:.4}  accuracy {:.4}",
            report.epoch, self.n_epochs, report.loss, report.accuracy
        ));
    }

    fn epoch(&mut self, score: &EpochScore, _: &Trainer<'_>) -> anyhow::Result<()> {
        let mut line = format!(
            "epoch {}/{}  loss {:.4}  accuracy {:.4}",
            score.epoch, self.n_epochs, score.train.loss, score.train.accuracy
        );
        if let Some(validation) = score.validation {
            line += &format!("  validation loss {:.4}  accuracy {:.4}", validation.loss, validation.accuracy);
        }
        if self.bar.is_hidden() {
            eprintln!("{line}");
        } else {
            self.bar.println(line);
        }
        Ok(())
    }
}
