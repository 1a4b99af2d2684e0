//! `sordino train`: a classifier from labelled rows, with the record of how it was made.

mod beside;
mod flags;
mod network_flags;
mod progress;
mod stop;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use ndarray::{Array2, ArrayD};

use self::beside::Beside;
pub(super) use self::beside::read_network;
use self::flags::RecipeFlags;
pub(super) use self::flags::read_recipe;
use self::progress::Bar;
pub(super) use self::stop::Stop;
use super::make_folder_of;
use super::origin::{Commit, Machine};
use super::privacy::{PrivacyArgs, PrivateRecipe};
use crate::data::{
    DataSource, Dataset, Part, PartSizes, Split, check_writable, is_same_file, read_row_numbers, write_atomic,
};
use crate::lab::checkpoint;
use crate::lab::device::Device;
use crate::lab::onnx;
use crate::lab::recipe::Recipe;
use crate::lab::record::{CodeRecord, MachineRecord, RunRecord, Status};
use crate::lab::run::{Begin, Done, Files, Job, train_and_write};
use crate::lab::train::Outcome;

/// Train a classifier and export it as ONNX.
///
/// Draws disjoint parts of the rows (train, validation, calibration, test), trains on the first, and writes files
/// beside each other: NAME.onnx (the model, logits out, any batch size), NAME.weights.safetensors (the same
/// weights, for this program), NAME.json (the run record: recipe, seed, digests, losses, the loss attack, commit,
/// machine), NAME.split.json (which row served which purpose), NAME.md (the model card) and NAME.svg (loss and
/// accuracy of each epoch).
///
/// The same command gives the same model on the same machine. NAME.checkpoint is written after each epoch: whatever
/// ends the process, the same command with --resume goes on from there and ends with the model that an undisturbed
/// run gives. Ctrl-C (or SIGTERM) finishes the running step, writes the model as it is, and exits with code 130
/// (143).
#[derive(Debug, clap::Args)]
pub struct Args {
    #[arg(long, value_name = "SOURCE", required_unless_present = "print_recipe", help = super::data_help("Labelled rows"))]
    data: Option<DataSource>,
    /// Where the model goes: DIR/NAME.onnx. The other files are named after it.
    #[arg(long, value_name = "DIR/NAME.onnx", required_unless_present = "print_recipe")]
    out: Option<PathBuf>,
    /// Rows to train on. Few rows and many epochs overfit, which membership inference lives on.
    #[arg(long, value_name = "N")]
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
    /// Leave out the training rows that this file names: one row number a line, counted from 0; `#` starts a comment.
    #[arg(long, value_name = "FILE")]
    without: Option<PathBuf>,
    /// A first network (NAME.weights.safetensors) whose answers are learned: alone, or beside the labels with
    /// --distil-weight.
    #[arg(long, value_name = "FILE")]
    teacher: Option<PathBuf>,
    /// A first network (NAME.weights.safetensors) whose losses say how hard a row is, for --curriculum loss.
    #[arg(long, value_name = "FILE", conflicts_with = "difficulty")]
    first_model: Option<PathBuf>,
    /// How hard each training row is, for --curriculum given: one number a line, in the order of the split's train part.
    #[arg(long, value_name = "FILE")]
    difficulty: Option<PathBuf>,
    #[command(flatten)]
    recipe: RecipeFlags,
    #[command(flatten)]
    privacy: PrivacyArgs,
    /// Print the recipe that the other arguments make, as a file for --recipe, and do nothing else.
    #[arg(long)]
    print_recipe: bool,
    /// Where to compute: cpu, vulkan[:N] or cuda[:N].
    #[arg(long, value_name = "DEVICE", default_value_t = Device::Cpu)]
    device: Device,
    /// Go on from NAME.checkpoint; without one, begin. The other arguments must be those of the interrupted run;
    /// only the number of epochs may differ.
    #[arg(long)]
    resume: bool,
    /// Start anew although NAME.checkpoint is there; it is lost.
    #[arg(long, conflicts_with = "resume")]
    fresh: bool,
    /// Within long epochs too, write a checkpoint every so many minutes.
    #[arg(long, value_name = "N", default_value_t = 5.0)]
    checkpoint_minutes: f64,
    /// Also keep the weights behind these epochs, as NAME.epoch-0005.weights.safetensors.
    #[arg(long, value_name = "N,..", value_delimiter = ',')]
    keep_epochs: Vec<usize>,
    /// Give the exported model a second output with the penultimate features ("penultimate_features"), for the offline
    /// side; no server of ours serves it.
    #[arg(long)]
    with_features: bool,
    /// Make each batch normalisation right behind a convolution part of it in the exported model.
    #[arg(long)]
    fold_batch_norm: bool,
    /// Also write up to 256 test rows ("input") and the network's own logits for them ("logits") to this
    /// safetensors file, to check another runtime against.
    #[arg(long, value_name = "FILE")]
    parity_out: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
///
/// When an argument, a row or a file is wrong, or the training diverges; nothing but the last good checkpoint is
/// written then.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let PrivateRecipe { mut recipe, secret, notes } = args.privacy.apply(args.recipe.recipe()?)?;
    recipe.check()?;
    if args.print_recipe {
        print!("{}", recipe.to_toml()?);
        return Ok(ExitCode::SUCCESS);
    }
    notes.iter().for_each(|note| eprintln!("note: {note}"));
    if let Some(dp) = &recipe.dp {
        dp.key(recipe.seed, secret.clone()).context("--dp-secret")?;
    }
    let (Some(source), Some(out)) = (&args.data, &args.out) else { bail!("expected --data and --out") };
    let files = files_beside(out, source)?;
    args.check(source, &files, &recipe)?;
    if let (true, Ok(bytes)) = (args.resume, std::fs::read(&files.checkpoint))
        && let Ok(saved) = checkpoint::recipe(&bytes)
    {
        args.recipe.keep_curriculum(&mut recipe, &saved);
    }
    let dataset = Dataset::load(source)?;
    let split = args.split(source, &dataset, recipe.seed)?;
    if let Some(record) = args.finished(&files, &recipe, &split) {
        eprintln!("finished already: nothing to resume");
        print_results(&record, &files.model);
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(dp) = &recipe.dp {
        let n_rows = split.part(Part::Train).len();
        dp.warnings(n_rows, recipe.batch_size, recipe.epochs).iter().for_each(|note| eprintln!("warning: {note}"));
    }
    let device = args.device.open()?;
    let Beside { teacher, taught_by, difficulty, difficulty_from } = args.beside(&dataset, &split, &device)?;
    let mut bar = Bar::new(&recipe);
    let checkpoint_after =
        Duration::try_from_secs_f64(args.checkpoint_minutes * 60.0).context("--checkpoint-minutes")?;
    let job = Job {
        teacher,
        taught_by,
        difficulty,
        difficulty_from,
        secret,
        notes,
        checkpoint_after,
        keep_epochs: args.keep_epochs.iter().copied().collect(),
        export: onnx::Export { features: args.with_features, fold_batch_norm: args.fold_batch_norm },
        ..Job::new((&dataset, source.to_string()), &split, recipe, &device, origin())
    };
    let stop = Stop::listen()?;
    let begin = if args.resume { Begin::FromCheckpoint } else { Begin::Anew };
    let done = train_and_write(&job, &files, begin, &stop.flag, &mut bar);
    bar.close();
    let done = done?;
    args.report(&done, &files, stop.exit_code.load(Ordering::Relaxed))
}

fn origin() -> (Option<CodeRecord>, MachineRecord) {
    let code = Commit::of_build().map(|Commit { id, dirty }| CodeRecord { commit: id.to_owned(), dirty });
    let Machine { cpu, n_cores } = Machine::here();
    (code, MachineRecord { cpu, n_cores })
}

impl Args {
    fn split(&self, source: &DataSource, dataset: &Dataset, seed: u64) -> anyhow::Result<Split> {
        let mut split = match &self.split {
            Some(path) => {
                let split = Split::read(path)?;
                split.check(dataset)?;
                split
            }
            None => {
                let sizes = PartSizes {
                    train: self.train_rows.context("expected --split FILE, or --train-rows N to draw a split")?,
                    validation: self.validation_rows,
                    calibration: self.calibration_rows,
                    test: self.test_rows,
                    shadow: 0,
                };
                Split::draw(source, dataset, sizes, seed)?
            }
        };
        if let Some(path) = &self.without {
            split = split.without(&read_row_numbers(path)?).context("--without")?;
        }
        split.check_classes(dataset)?;
        Ok(split)
    }

    /// The record of a run that is resumed although it is whole.
    fn finished(&self, files: &Files, recipe: &Recipe, split: &Split) -> Option<RunRecord> {
        use sha2::{Digest, Sha256};
        if !self.resume || files.checkpoint.exists() {
            return None;
        }
        let record: RunRecord = serde_json::from_slice(&std::fs::read(&files.record).ok()?).ok()?;
        let model = crate::data::hex(&Sha256::digest(std::fs::read(&files.model).ok()?));
        let whole = record.status == Status::Finished && record.model.sha256 == model;
        (whole && record.recipe == *recipe && record.split.digest == split.digest()).then_some(record)
    }

    /// Stops before the first epoch where a file could not be written, would replace an input or another
    /// output, or where the checkpoint of an interrupted run would be lost.
    fn check(&self, source: &DataSource, files: &Files, recipe: &Recipe) -> anyhow::Result<()> {
        let kept: Vec<PathBuf> = self.keep_epochs.iter().map(|&epoch| files.weights_of_epoch(epoch)).collect();
        let own: Vec<&Path> = files.all().into_iter().chain(kept.iter().map(PathBuf::as_path)).collect();
        if let Some(path) = &self.parity_out {
            make_folder_of(path)?;
            if own.iter().any(|file| *file == path || is_same_file(file, path)) {
                bail!("--parity-out: {} is written already, give another name", path.display());
            }
        }
        let recipe_file = self.recipe.recipe.as_ref().map(PathBuf::from);
        let inputs = [&self.without, &self.teacher, &self.first_model, &self.difficulty, &recipe_file];
        for file in own.into_iter().chain(self.parity_out.as_deref()) {
            // The split file itself may be given again where the same parts are written to it.
            let stays = file == files.split && self.without.is_none();
            let is_split = !stays && self.split.as_ref().is_some_and(|split| is_same_file(split, file));
            let is_input = inputs.into_iter().flatten().any(|input| is_same_file(input, file));
            if is_split || is_input || source.reads(file) {
                bail!("{} is an input and would be written to: give another name", file.display());
            }
            check_writable(file).with_context(|| format!("cannot write {}", file.display()))?;
        }
        if let Some(epoch) = self.keep_epochs.iter().find(|epoch| !(1..=recipe.epochs).contains(*epoch)) {
            bail!("--keep-epochs: expected epochs from 1 to {}, got {epoch}", recipe.epochs);
        }
        if !self.resume && !self.fresh && files.checkpoint.exists() {
            bail!(
                "{} is there, of an interrupted run: --resume goes on from it, --fresh starts anew and loses it",
                files.checkpoint.display()
            );
        }
        Ok(())
    }

    fn report(&self, done: &Done, files: &Files, interrupted: u8) -> anyhow::Result<ExitCode> {
        if let Some(path) = &self.parity_out {
            let (rows, logits) = &done.parity;
            write_parity(path, rows, logits)?;
        }
        print_results(&done.record, &files.model);
        match done.outcome {
            Outcome::Finished => Ok(ExitCode::SUCCESS),
            Outcome::Interrupted => {
                eprintln!("interrupted; go on with the same command and --resume");
                Ok(ExitCode::from(interrupted))
            }
        }
    }
}

fn files_beside(out: &Path, source: &DataSource) -> anyhow::Result<Files> {
    let files = Files::beside(out).context("--out")?;
    // A folder made among the images would be a class of theirs.
    ensure!(!source.reads(out), "{} is among the inputs: give another place", out.display());
    make_folder_of(out)?;
    Ok(files)
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
    write_atomic(path, &serialize(tensors, None)?).with_context(|| format!("cannot write {}", path.display()))
}

fn print_results(record: &RunRecord, model: &Path) {
    println!("{}  {} bytes  sha256 {}", model.display(), record.model.n_bytes, record.model.sha256);
    if let Some(results) = &record.results {
        for (name, score) in results.parts() {
            println!("{name:<12} rows {:>6}  accuracy {:.4}  loss {:.4}", score.n_rows, score.accuracy, score.loss);
        }
        if let Some(attack) = &results.loss_attack {
            println!(
                "loss attack  AUC {:.4} ({:.4} to {:.4})  advantage {:.4} (by chance {:.4}, 95 % {:.4})",
                attack.auc,
                attack.auc_interval[0],
                attack.auc_interval[1],
                attack.advantage,
                attack.null_mean,
                attack.null_q95
            );
        }
    }
    if let Status::Interrupted { epoch, .. } = record.status {
        println!("weights as they stood in epoch {epoch}, where the training was interrupted; nothing was measured");
    }
    if let Some(epoch) = record.best_epoch {
        println!("weights of epoch {epoch} of {}, the best on the validation rows", record.history.len());
    }
    if let Some(privacy) = &record.privacy {
        println!("privacy      epsilon {:.4} at delta {:.3e}, {} steps", privacy.epsilon, privacy.delta, privacy.steps);
    }
    println!("{:.1} s", record.wall_seconds);
}
