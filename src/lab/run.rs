//! One training from rows to files, without a command line.
//!
//! ```text
//!  Job + Files ──▶ Trainer, a checkpoint after each epoch ──▶ NAME.onnx, .weights.safetensors, .split.json, .svg, .md, .json
//! ```
//!
//! Responsible for what is written when, and in which order, so that a process that is killed at any moment leaves
//! either a checkpoint to go on from or a whole set of files. Every file is written atomically. Not responsible for
//! reading data or arguments, for signals, or for what is shown on a terminal.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use ndarray::{Array2, ArrayD};
use sha2::{Digest, Sha256};

use super::bank::distil::TeacherRecord;
use super::device::OpenDevice;
use super::dp::NoiseKey;
use super::network::{About, Network};
use super::onnx;
use super::plot;
use super::recipe::Recipe;
use super::record::{
    CodeRecord, DataRecord, FORMAT, FORMAT_VERSION, MachineRecord, MadeFrom, ModelRecord, Results, RunRecord,
    SplitRecord, Status,
};
use super::train::{EpochScore, Outcome, StepReport, Task, Trainer, Watcher, score};
use crate::data::{Dataset, Part, Split, hex, write_atomic};

/// Rows on which the exported graph is compared with the network.
const PARITY_ROWS: usize = 256;

/// How far a logit of the exported graph may be from the network's own.
const PARITY_TOLERANCE: f32 = 1e-4;

/// Where everything goes, named after the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// The ONNX graph.
    pub model: PathBuf,
    /// The run record.
    pub record: PathBuf,
    /// Which row served which purpose.
    pub split: PathBuf,
    /// The model card.
    pub card: PathBuf,
    /// The network's weights ([`weights_file`](super::network::weights_file)).
    pub weights: PathBuf,
    /// Loss and accuracy of each epoch, as a picture.
    pub plot: PathBuf,
    /// What a training goes on from; gone once it is finished.
    pub checkpoint: PathBuf,
}

impl Files {
    /// The files beside a model `DIR/NAME.onnx`.
    ///
    /// # Errors
    ///
    /// When the name does not end in `.onnx`.
    pub fn beside(model: &Path) -> anyhow::Result<Self> {
        if model.extension().is_none_or(|ending| ending != "onnx") || model.file_stem().is_none() {
            bail!("expected the name of a file that ends in .onnx, got {}", model.display());
        }
        Ok(Self {
            model: model.to_owned(),
            record: model.with_extension("json"),
            split: model.with_extension("split.json"),
            card: model.with_extension("md"),
            weights: model.with_extension("weights.safetensors"),
            plot: model.with_extension("svg"),
            checkpoint: model.with_extension("checkpoint"),
        })
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> [&Path; 7] {
        let Self { model, record, split, card, weights, plot, checkpoint } = self;
        [model, record, split, card, weights, plot, checkpoint].map(PathBuf::as_path)
    }

    /// The weights behind one epoch, counted from 1.
    #[must_use]
    pub fn weights_of_epoch(&self, epoch: usize) -> PathBuf {
        self.model.with_extension(format!("epoch-{epoch:04}.weights.safetensors"))
    }
}

/// What is to be trained, on what, and what the record says about where it came from.
#[derive(Debug, Clone)]
pub struct Job<'a> {
    /// The rows.
    pub dataset: &'a Dataset,
    /// Where they came from, in words that name no path of the machine.
    pub source: String,
    /// Which row serves which purpose.
    pub split: &'a Split,
    /// How to train.
    pub recipe: Recipe,
    /// What a teacher says about the training rows.
    pub teacher: Option<Array2<f32>>,
    /// Who the teacher is, for the record.
    pub taught_by: Option<TeacherRecord>,
    /// How hard the training rows are.
    pub difficulty: Option<Vec<f64>>,
    /// SHA-256 (hex) of what said so, for the record.
    pub difficulty_from: Option<String>,
    /// Where to compute.
    pub device: &'a OpenDevice,
    /// The source code that runs.
    pub code: Option<CodeRecord>,
    /// The machine, in words.
    pub machine: MachineRecord,
    /// Within an epoch too, a checkpoint is written when the last one is older than this.
    pub checkpoint_after: Duration,
    /// Epochs whose weights are kept in files of their own.
    pub keep_epochs: BTreeSet<usize>,
    /// What the exported graph is to be like.
    pub export: onnx::Export,
    /// The secret that a private recipe names.
    pub secret: Option<NoiseKey>,
    /// What was changed for a private recipe; goes into the record.
    pub notes: Vec<String>,
}

impl<'a> Job<'a> {
    /// A job that keeps no epochs and writes a checkpoint after each epoch and every five minutes.
    #[must_use]
    pub fn new(
        (dataset, source): (&'a Dataset, String),
        split: &'a Split,
        recipe: Recipe,
        device: &'a OpenDevice,
        (code, machine): (Option<CodeRecord>, MachineRecord),
    ) -> Self {
        Self {
            dataset,
            source,
            split,
            recipe,
            teacher: None,
            taught_by: None,
            difficulty: None,
            difficulty_from: None,
            device,
            code,
            machine,
            checkpoint_after: Duration::from_secs(300),
            keep_epochs: BTreeSet::new(),
            export: onnx::Export::default(),
            secret: None,
            notes: vec![],
        }
    }

    /// What a file of weights says about them.
    fn about(&self, epoch: Option<usize>) -> About {
        About {
            architecture: self.recipe.network.clone(),
            row_shape: self.dataset.row_shape().to_vec(),
            labels: self.dataset.class_names().to_vec(),
            recipe: self.recipe.digest(),
            epoch,
        }
    }

    fn task(&self) -> anyhow::Result<Task<'a>> {
        let task = Task::of_split(self.dataset, self.split)?;
        Ok(Task { teacher: self.teacher.clone(), difficulty: self.difficulty.clone(), ..task })
    }

    /// Test rows; where there are none, training rows.
    fn parity_rows(&self) -> &[usize] {
        let rows = match self.split.part(Part::Test) {
            [] => self.split.part(Part::Train),
            rows => rows,
        };
        &rows[..rows.len().min(PARITY_ROWS)]
    }
}

/// How a training begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// With fresh weights.
    Anew,
    /// From the checkpoint; with fresh weights where there is none.
    FromCheckpoint,
}

/// What a training left behind.
#[derive(Debug)]
pub struct Done {
    /// How it ended.
    pub outcome: Outcome,
    /// The record as it was written.
    pub record: RunRecord,
    /// Up to 256 rows that were compared, and the network's logits for them.
    pub parity: (ArrayD<f32>, Array2<f32>),
}

/// Trains, and writes everything; the record last: where it stands, the others do too. The checkpoint goes once all is
/// written, and stays where the training was interrupted.
///
/// # Errors
///
/// When the recipe does not fit the rows, the training diverges, or a file cannot be written. The checkpoint of the
/// last good moment is kept then, and the error names it.
pub fn train_and_write(
    job: &Job<'_>,
    files: &Files,
    begin: Begin,
    stop: &AtomicBool,
    watcher: &mut dyn Watcher,
) -> anyhow::Result<Done> {
    let started = Instant::now();
    files.all().into_iter().for_each(sweep);
    let mut trainer = begin_training(job, files, begin)?;
    let mut keeper = Keeper { files, job, watcher, written: Instant::now() };
    let outcome = keeper.write(&trainer).and_then(|()| trainer.run(stop, &mut keeper));
    let outcome = outcome.map_err(|error| with_checkpoint(error, job, files))?;
    if outcome == Outcome::Interrupted {
        write(&files.checkpoint, &trainer.checkpoint()?)?;
    }
    let done =
        write_files(job, files, &trainer, outcome, started).map_err(|error| with_checkpoint(error, job, files))?;
    if outcome == Outcome::Finished {
        let _ = std::fs::remove_file(&files.checkpoint);
    }
    Ok(done)
}

fn begin_training<'a>(job: &Job<'a>, files: &Files, begin: Begin) -> anyhow::Result<Trainer<'a>> {
    if let Some(dp) = &job.recipe.dp {
        dp.key(job.recipe.seed, job.secret.clone())?;
    }
    let (task, recipe) = (job.task()?, job.recipe.clone());
    let trainer = if begin == Begin::Anew || !files.checkpoint.exists() {
        Trainer::new(task, recipe, job.device)?
    } else {
        let bytes = std::fs::read(&files.checkpoint)
            .with_context(|| format!("cannot read the checkpoint {}", files.checkpoint.display()))?;
        Trainer::resume(task, recipe, job.device, &bytes).with_context(|| files.checkpoint.display().to_string())?
    };
    match job.secret.clone() {
        Some(secret) => trainer.with_secret(secret),
        None => Ok(trainer),
    }
}

/// The error, with what is left to go on from.
fn with_checkpoint(error: anyhow::Error, job: &Job<'_>, files: &Files) -> anyhow::Error {
    let saved = std::fs::read(&files.checkpoint).ok();
    let saved = saved.and_then(|bytes| Trainer::resume(job.task().ok()?, job.recipe.clone(), job.device, &bytes).ok());
    match saved {
        Some(trainer) => {
            let epochs = trainer.position().history.len();
            error.context(format!("the checkpoint of {epochs} epochs is kept in {}", files.checkpoint.display()))
        }
        None => error,
    }
}

/// Removes what a killed process left of a file that it was writing; where `/proc` does not tell who is alive, nothing.
fn sweep(path: &Path) {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else { return };
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let alive = Path::new("/proc");
    let (Ok(entries), true) = (std::fs::read_dir(folder), alive.join("self").exists()) else { return };
    for entry in entries.flatten() {
        let left = entry.file_name();
        let process = left.to_str().and_then(|left| left.strip_prefix('.')?.strip_prefix(name)?.strip_prefix('.'));
        let process = process.and_then(|rest| rest.strip_suffix(".tmp")?.parse::<u32>().ok());
        if process.is_some_and(|process| !alive.join(process.to_string()).exists()) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    write_atomic(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

fn name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Writes checkpoints as the training goes, and passes on what it is told.
struct Keeper<'a, 'b> {
    files: &'a Files,
    job: &'a Job<'b>,
    watcher: &'a mut dyn Watcher,
    written: Instant,
}

impl Keeper<'_, '_> {
    fn write(&mut self, trainer: &Trainer<'_>) -> anyhow::Result<()> {
        write(&self.files.checkpoint, &trainer.checkpoint()?)?;
        self.written = Instant::now();
        Ok(())
    }
}

impl Watcher for Keeper<'_, '_> {
    fn step(&mut self, report: StepReport) {
        self.watcher.step(report);
    }

    fn between(&mut self, trainer: &Trainer<'_>) -> anyhow::Result<()> {
        if self.written.elapsed() >= self.job.checkpoint_after {
            self.write(trainer)?;
        }
        self.watcher.between(trainer)
    }

    fn epoch(&mut self, score: &EpochScore, trainer: &Trainer<'_>) -> anyhow::Result<()> {
        // Before the checkpoint: a training that goes on from that does not come by here again.
        if self.job.keep_epochs.contains(&score.epoch) {
            let weights = trainer.network().to_safetensors(&self.job.about(Some(score.epoch)))?;
            write(&self.files.weights_of_epoch(score.epoch), &weights)?;
        }
        self.write(trainer)?;
        self.watcher.epoch(score, trainer)
    }
}

/// The ONNX bytes of a network, held against the network itself on some rows.
///
/// # Errors
///
/// When the graph cannot be run, or a logit is off.
pub fn export(
    network: &Network,
    dataset: &Dataset,
    rows: &ArrayD<f32>,
    options: onnx::Export,
) -> anyhow::Result<Vec<u8>> {
    let model = onnx::export(network, dataset.class_names(), options);
    let logits = network.logits(rows.clone());
    let off = onnx::disagreement(&model, rows, &logits).context("cannot run the exported graph")?;
    let largest = logits.iter().fold(1.0f32, |largest, logit| largest.max(logit.abs()));
    let tolerance = PARITY_TOLERANCE * largest;
    ensure!(off <= tolerance, "a logit of the exported graph is off by {off}, expected at most {tolerance}");
    Ok(model)
}

fn write_files(
    job: &Job<'_>,
    files: &Files,
    trainer: &Trainer<'_>,
    outcome: Outcome,
    started: Instant,
) -> anyhow::Result<Done> {
    let network = trainer.network();
    let rows = job.dataset.batch(job.parity_rows());
    let model = export(&network, job.dataset, &rows, job.export)?;
    let (status, results) = match outcome {
        Outcome::Finished => (Status::Finished, Some(results(job, &network)?)),
        Outcome::Interrupted => {
            let position = trainer.position();
            (Status::Interrupted { epoch: position.history.len() + 1, rows_seen: position.rows_seen }, None)
        }
    };
    write(&files.split, &job.split.to_bytes())?;
    write(&files.weights, &network.to_safetensors(&job.about(None))?)?;
    write(&files.model, &model)?;
    let position = trainer.position();
    let record = RunRecord {
        format: FORMAT.to_owned(),
        format_version: FORMAT_VERSION,
        sordino: env!("CARGO_PKG_VERSION").to_owned(),
        status,
        recipe: job.recipe.clone(),
        data: DataRecord::of(job.source.clone(), job.dataset),
        split: SplitRecord {
            file: name(&files.split),
            digest: job.split.digest(),
            seed: job.split.seed(),
            sizes: job.split.sizes(),
        },
        model: ModelRecord {
            file: name(&files.model),
            sha256: hex(&Sha256::digest(&model)),
            n_bytes: model.len(),
            n_parameters: network.n_parameters(),
            input: onnx::input_name(job.dataset.row_shape()).to_owned(),
            output: onnx::OUTPUT.to_owned(),
        },
        privacy: trainer.privacy(job.notes.clone())?,
        made_from: job.taught_by.clone().map(MadeFrom::Taught),
        difficulty_from: job.difficulty_from.clone(),
        results,
        // The weights of a run that was interrupted are the last ones; the best ones wait in its checkpoint.
        best_epoch: position.best.filter(|_| outcome == Outcome::Finished).map(|best| best.epoch),
        history: position.history.clone(),
        wall_seconds: (started.elapsed().as_secs_f64() * 10.0).round() / 10.0,
        device: Some(job.device.device()),
        code: job.code.clone(),
        machine: job.machine.clone(),
    };
    write(&files.plot, plot::course(&record.history, record.best_epoch)?.as_bytes())?;
    write(&files.card, record.card().as_bytes())?;
    write(&files.record, &record.to_json())?;
    let logits = network.logits(rows.clone());
    Ok(Done { outcome, record, parity: (rows, logits) })
}

/// Scores of all parts, and the loss attack of the train rows against the test rows.
fn results(job: &Job<'_>, network: &Network) -> anyhow::Result<Results> {
    let parts = [Part::Train, Part::Validation, Part::Calibration, Part::Test];
    Results::of(parts.map(|part| score(network, job.dataset, job.split.part(part))), job.recipe.seed)
}
