//! `sordino centroids build`: fit what the defence needs, from a model and its training rows.
//!
//! Every row goes through the model once, in batches on all cores. The first pass sums logits by true label in f64,
//! in the order of the rows (R3), and keeps them; the second reads them back, measures each row's cosine distance to
//! its class (R4's gate) and picks the inlier rows (R9). What comes out does not depend on the number of threads,
//! and memory does not grow with the number of rows: logits beyond 64 MiB wait in a file without a name.

mod answers;
#[cfg(feature = "lab")]
mod network;
mod spool;
mod stream;
mod thin;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use ndarray::Array2;

use self::answers::{Answers, TractAnswers};
use self::spool::{Spool, SpooledRows};
use self::stream::in_order;
use self::thin::Thinned;
use super::inspect::ScoreArgs;
use crate::artifact::ModelDigest;
use crate::artifact::centroids::{CentroidFile, CentroidMetadata, DataOrigin, FORMAT, FORMAT_VERSION, write};
use crate::data::{DataSource, Dataset, Memory, Part, Split, check_writable, is_same_file, write_atomic};
use crate::defence::{
    Bank, CentroidSums, Centroids, ClassFallback, DistanceQuantiles, Fitted, N_QUANTILES, offline, quantiles_of,
};
use crate::engine::{self, Engine, memory};
#[cfg(feature = "lab")]
use crate::lab::device::Device;

/// Rows are read once, in order: what lies in files of rows of one width stays there.
const ROWS_IN_MEMORY: Memory = Memory { max_bytes: 64 << 20 };

/// Build and look at the artifacts that the defence is fitted to.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Build(Box<BuildArgs>),
}

/// Build the class centroids of a model from the rows that it was trained on.
///
/// The file holds the mean logits of each true class, quantiles of the training rows' cosine distance to them, and
/// training rows to blend with (the inlier method). It names the SHA-256 of the model; `serve` refuses any other.
/// The build stops where a centroid is not largest at its own class, and names the class: reweighting towards it
/// could change labels.
#[derive(Debug, clap::Args)]
struct BuildArgs {
    /// The ONNX file.
    #[arg(long, value_name = "FILE")]
    model: PathBuf,
    #[arg(long, value_name = "SOURCE", help = super::data_help("The labelled rows"))]
    data: DataSource,
    /// The split file of the training run: only rows of its part `train` are used. Without it, all rows are.
    #[arg(long, value_name = "FILE")]
    split: Option<PathBuf>,
    /// Where to write the centroid file.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// What to do about a class whose centroid is not largest at its own class.
    #[arg(long, value_enum, default_value_t = FallbackArg::Refuse)]
    class_fallback: FallbackArg,
    /// At most so many inlier rows per class are kept for the inlier method. They are training rows' logits: 0
    /// keeps none.
    #[arg(long, value_name = "N", default_value_t = 128)]
    inlier_rows: usize,
    /// Run the network of this file on --device, in place of the ONNX graph on the processor: the weights beside the model
    /// (NAME.weights.safetensors), or the checkpoint of an interrupted training on the same data and split.
    #[cfg(feature = "lab")]
    #[arg(long, value_name = "FILE", visible_alias = "checkpoint")]
    weights: Option<PathBuf>,
    /// Where to run the network of --weights: cpu, vulkan[:N] or cuda[:N]; see `sordino devices`.
    #[cfg(feature = "lab")]
    #[arg(long, value_name = "DEVICE", default_value_t = Device::Cpu, requires = "weights")]
    device: Device,
    /// Rows per inference [default: 64, with --weights 256].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    batch_size: Option<u32>,
    /// Inferences at a time [default: one for each core; with --weights one, and the next being prepared]. The
    /// file does not depend on it.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// No progress bar.
    #[arg(long)]
    quiet: bool,
    #[command(flatten)]
    scores: ScoreArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum FallbackArg {
    /// Stop and name the class.
    Refuse,
    /// Use only the rows of that class that are also predicted as it.
    CorrectRows,
}

/// Runs the command.
///
/// # Errors
/// When a file cannot be read or written, the model and the data do not fit, or R3 stops the build.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match &args.command {
        Command::Build(args) => build(args),
    }
}

/// The rows to fit to, with the model that they go through.
struct Fit<'a> {
    answers: &'a dyn Answers,
    dataset: &'a Dataset,
    rows: &'a [usize],
    batch_size: usize,
    n_threads: usize,
    quiet: bool,
}

fn build(args: &BuildArgs) -> anyhow::Result<ExitCode> {
    args.check_out()?;
    memory::keep_freed();
    let bytes = std::fs::read(&args.model).with_context(|| format!("cannot read {}", args.model.display()))?;
    let engine = engine::load(&bytes, &args.scores.options())?;
    let dataset = Dataset::load_within(&args.data, ROWS_IN_MEMORY)?;
    let split = args.split.as_deref().map(|path| read_split(path, &dataset)).transpose()?;
    let all: Vec<usize>;
    let rows = match &split {
        Some(split) => split.part(Part::Train),
        None => {
            all = (0..dataset.n_rows()).collect();
            &all
        }
    };
    let labels = fitting_labels(&*engine, &dataset)?;
    let tract = TractAnswers { engine: &*engine, dataset: &dataset };
    let network = args.network(&dataset, split.as_ref(), &tract, rows)?;
    let answers: &dyn Answers = network.as_deref().unwrap_or(&tract);
    let fit = Fit {
        answers,
        dataset: &dataset,
        rows,
        batch_size: args.batch_size.map_or(answers.batch_size(), |n| n as usize),
        n_threads: args.threads.map_or(answers.n_threads(), usize::from),
        quiet: args.quiet,
    };
    let started = Instant::now();
    let folder = args.out.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let spool = Spool::new(folder, engine.spec().n_classes);
    let (sums, centroids, fell_back, mut spooled) = fit.centroids(args.class_fallback, &labels, spool)?;
    let inferred = started.elapsed();
    let (quantiles, bank) = fit.distances(&centroids, args.inlier_rows, &mut spooled)?;
    let kind = engine.spec().score_kind;
    let fallback_classes =
        labels.iter().zip(&fell_back).filter(|(_, fell)| **fell).map(|(name, _)| name.clone()).collect();
    let metadata = CentroidMetadata {
        format: FORMAT.to_owned(),
        format_version: FORMAT_VERSION,
        model_sha256: ModelDigest::of(&bytes),
        score_kind: kind,
        labels: labels.clone(),
        rows_per_class: sums.rows_per_class().to_vec(),
        fallback_classes,
        data: DataOrigin {
            source: args.data.to_string(),
            digest: dataset.digest(),
            split: split.as_ref().map(|split| format!("{} train", split.digest())),
            n_rows: rows.len() as u64,
        },
        written_by: format!("sordino {}", env!("CARGO_PKG_VERSION")),
    };
    let n_inliers = bank.n_rows();
    let fitted = Arc::new(Fitted::new(kind, labels, centroids, quantiles, bank)?);
    let file = write(&CentroidFile { metadata, fitted })?;
    dataset.check_read().map_err(|error| anyhow::anyhow!("{error}"))?;
    write_atomic(&args.out, &file).with_context(|| format!("cannot write {}", args.out.display()))?;
    report(&args.out, &sums, &fell_back, rows.len(), n_inliers, file.len());
    let rate = rows.len() as f64 / inferred.as_secs_f64().max(1e-9);
    println!(
        "  {:.1} s for the model's answers on {} threads: {rate:.0} rows/s",
        inferred.as_secs_f64(),
        fit.n_threads
    );
    Ok(ExitCode::SUCCESS)
}

impl BuildArgs {
    /// The network that answers in place of the graph.
    #[cfg(feature = "lab")]
    fn network<'a>(
        &self,
        dataset: &'a Dataset,
        split: Option<&Split>,
        model: &TractAnswers<'_>,
        rows: &[usize],
    ) -> anyhow::Result<Option<Box<dyn Answers + 'a>>> {
        let Some(path) = &self.weights else { return Ok(None) };
        ensure!(
            model.engine.spec().score_kind == crate::defence::ScoreKind::Logits,
            "--weights: the model ends in probabilities, its network in logits"
        );
        let network = network::NetworkAnswers::read(path, self.device, dataset, split)?;
        network.check_same(model, rows)?;
        eprintln!("the network runs on {}", network.device());
        Ok(Some(Box::new(network)))
    }

    #[cfg(not(feature = "lab"))]
    fn network(
        &self,
        _: &Dataset,
        _: Option<&Split>,
        _: &TractAnswers<'_>,
        _: &[usize],
    ) -> anyhow::Result<Option<Box<dyn Answers>>> {
        Ok(None)
    }

    /// Stops before the passes where the file could not be written, or would replace one that is read.
    fn check_out(&self) -> anyhow::Result<()> {
        let inputs = [Some(&self.model), self.split.as_ref()];
        let is_input = inputs.into_iter().flatten().any(|input| is_same_file(input, &self.out));
        ensure!(!is_input && !self.data.reads(&self.out), "--out: {} is an input", self.out.display());
        check_writable(&self.out).with_context(|| format!("cannot write {}", self.out.display()))
    }
}

fn read_split(path: &Path, dataset: &Dataset) -> anyhow::Result<Split> {
    let split = Split::read(path).with_context(|| path.display().to_string())?;
    split.check(dataset).with_context(|| path.display().to_string())?;
    ensure!(!split.part(Part::Train).is_empty(), "{}: its part 'train' is empty", path.display());
    Ok(split)
}

/// The class names, after checking that model and data fit each other.
fn fitting_labels(engine: &dyn Engine, dataset: &Dataset) -> anyhow::Result<Vec<String>> {
    let spec = engine.spec();
    let [input] = &spec.inputs[..] else {
        bail!("the model has {} inputs: rows of one array can be fed to one input only", spec.inputs.len());
    };
    let fits = input.shape.len() == dataset.row_shape().len() + 1
        && input.shape.iter().skip(1).zip(dataset.row_shape()).all(|(dim, &size)| dim.admits(size));
    ensure!(
        fits,
        "the model's input '{}' expects rows of shape {}, the data has rows of shape {:?}",
        input.name,
        input.shape_text(),
        dataset.row_shape()
    );
    ensure!(
        dataset.n_classes() == spec.n_classes,
        "the model has {} classes, the data has {}",
        spec.n_classes,
        dataset.n_classes()
    );
    let Some(labels) = &spec.labels else { return Ok(dataset.class_names().to_vec()) };
    dataset.check_names(labels)?;
    Ok(labels.clone())
}

impl Fit<'_> {
    /// The first pass: the centroids, and the logits of all rows.
    fn centroids(
        &self,
        fallback: FallbackArg,
        labels: &[String],
        mut spool: Spool,
    ) -> anyhow::Result<(CentroidSums, Centroids, Vec<bool>, SpooledRows)> {
        let mut sums = CentroidSums::new(labels.len());
        let bar = progress(self.rows.len(), self.quiet);
        let batches: Vec<&[usize]> = self.rows.chunks(self.batch_size).collect();
        in_order(
            batches.len(),
            self.n_threads,
            |batch| self.answers.logits(batches[batch]),
            |batch, logits| {
                for (z, &row) in logits.rows().into_iter().zip(batches[batch]) {
                    let z = z.as_slice().context("logits do not lie row by row")?;
                    sums.add(z, self.label(row)).with_context(|| format!("row {row} of the data"))?;
                    spool.push(z)?;
                }
                bar.inc(batches[batch].len() as u64);
                Ok(())
            },
        )?;
        bar.finish_and_clear();
        let fallback = match fallback {
            FallbackArg::Refuse => ClassFallback::Refuse,
            FallbackArg::CorrectRows => ClassFallback::CorrectRows,
        };
        let (centroids, fell_back) = sums.finish(fallback, labels)?;
        Ok((sums, centroids, fell_back, spool.finish()?))
    }

    /// The second pass, without the model.
    fn distances(
        &self,
        centroids: &Centroids,
        n_inliers: usize,
        spooled: &mut SpooledRows,
    ) -> anyhow::Result<(DistanceQuantiles, Bank)> {
        let n = centroids.n_classes();
        let values: Vec<Vec<f32>> = centroids.values().rows().into_iter().map(|row| row.to_vec()).collect();
        let mut distances = vec![Thinned::new(thin::MOST); n];
        let mut candidates = vec![Thinned::new(thin::MOST); n];
        spooled.for_each(|place, z| {
            let label = self.label(self.rows[place]);
            let distance = (offline::cosine_distance(z, &values[label]) as f32).clamp(0.0, 2.0);
            distances[label].push(distance);
            if n_inliers > 0 && Bank::admits(z, label) {
                candidates[label].push((distance, place as u64));
            }
            Ok(())
        })?;
        let tables: Vec<[f32; N_QUANTILES]> =
            distances.into_iter().map(|sample| quantiles_of(&mut sample.into_items())).collect();
        let table = Array2::from_shape_fn((n, N_QUANTILES), |(class, step)| tables[class][step]);
        let candidates = candidates.into_iter().map(Thinned::into_items).collect();
        Ok((DistanceQuantiles::new(table, n)?, bank(candidates, n_inliers, n, spooled)?))
    }

    fn label(&self, row: usize) -> usize {
        self.dataset.labels()[row] as usize
    }
}

/// Keeps `n_inliers` rows of each class, evenly over their distances to the centroid, the nearest first.
fn bank(
    candidates: Vec<Vec<(f32, u64)>>,
    n_inliers: usize,
    n_classes: usize,
    spooled: &mut SpooledRows,
) -> anyhow::Result<Bank> {
    let (mut logits, mut labels, mut distances) = (Vec::new(), Vec::new(), Vec::new());
    for (class, mut rows) in candidates.into_iter().enumerate() {
        rows.sort_by(|a, b| a.0.total_cmp(&b.0));
        let n = rows.len().min(n_inliers);
        for place in 0..n {
            let (distance, row) = rows[place * rows.len() / n];
            logits.extend(spooled.row(row)?);
            labels.push(class as u32);
            distances.push(distance);
        }
    }
    let logits = Array2::from_shape_vec((labels.len(), n_classes), logits)?;
    Ok(Bank::new(logits, labels, distances)?)
}

fn progress(n_rows: usize, quiet: bool) -> ProgressBar {
    if quiet {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} rows, {per_sec}, {eta} left");
    let bar = ProgressBar::new(n_rows as u64);
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn report(out: &Path, sums: &CentroidSums, fell_back: &[bool], n_rows: usize, n_inliers: usize, size: usize) {
    let per_class = sums.rows_per_class();
    let (least, most) = (per_class.iter().min().unwrap_or(&0), per_class.iter().max().unwrap_or(&0));
    println!("wrote {} ({size} bytes)", out.display());
    println!("  {} classes from {n_rows} training rows, {least} to {most} a class", per_class.len());
    println!("  {n_inliers} inlier rows");
    let n_fell_back = fell_back.iter().filter(|fell| **fell).count();
    if n_fell_back > 0 {
        println!("  {n_fell_back} classes from correctly predicted rows only");
    }
}
