//! `centroids build` beside bare tract: the same model over the same rows, measured in turns in one run.
//!
//! Bare tract runs in this process, one thread for each core, over batches that were prepared before the clock
//! starts. The command runs in a child with its own clock: *answers* is the time for the model's answers on all
//! rows (decoded rows in, centroid sums out), *whole* all of the command with reading the data. Nothing is asserted:
//! the figures are written down.
//!
//! ```text
//! cargo bench --features lab --bench centroids -- --model M.onnx --data folder:DIR --rows 50000 \
//!     --out benches/runs/<date>-centroids
//! ```

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use serde::Serialize;
use sordino::data::{DataSource, Dataset};
use tract_onnx::prelude::*;

/// The throughput of `centroids build` beside bare tract.
#[derive(Debug, Parser)]
struct Args {
    /// The ONNX classifier, of one f32 input with a dynamic batch.
    #[arg(long)]
    model: PathBuf,
    /// The rows, as `centroids build` takes them.
    #[arg(long)]
    data: DataSource,
    /// The first so many rows are prepared for bare tract; the command takes all of them. Its rate is what counts.
    #[arg(long, default_value_t = 50_000)]
    rows: usize,
    /// Rows per inference, for both.
    #[arg(long, default_value_t = 64)]
    batch_size: usize,
    /// The same kind of rows, fewer or more of them: how much memory the command takes for these is told beside.
    #[arg(long)]
    beside: Option<DataSource>,
    /// Rounds in which both are measured once.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Folder for README.md and results.json; none prints only.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Both in one round, in rows a second.
#[derive(Debug, Serialize)]
struct Round {
    bare_tract: f64,
    command_answers: f64,
    command_whole_s: f64,
    command_peak_mib: f64,
}

/// One run of the command.
#[derive(Debug, Clone, Copy, Serialize)]
struct Run {
    n_rows: usize,
    answers: f64,
    whole_s: f64,
    peak_mib: f64,
}

#[derive(Serialize)]
struct Record {
    format: &'static str,
    model: String,
    data: String,
    n_rows: usize,
    n_threads: usize,
    batch_size: usize,
    commit: String,
    load_average_at_start: String,
    rounds: Vec<Round>,
    median_share: f64,
    beside: Option<Run>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let load_average_at_start = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let n_threads = std::thread::available_parallelism().map_or(1, usize::from);
    let dataset = Dataset::load(&args.data)?;
    let n_rows = args.rows.min(dataset.n_rows());
    let peer = Bare::new(&args.model, &dataset, n_rows, args.batch_size)?;
    let scratch = tempfile::tempdir()?;
    let mut rounds = Vec::new();
    for round in 0..args.rounds {
        eprintln!("round {} of {}", round + 1, args.rounds);
        let bare_tract = peer.rows_per_s(n_threads)?;
        let run = command(&args, "--data", dataset.n_rows(), scratch.path())?;
        rounds.push(Round {
            bare_tract,
            command_answers: run.answers,
            command_whole_s: run.whole_s,
            command_peak_mib: run.peak_mib,
        });
        eprintln!("  {:?}", rounds[round]);
    }
    let shares = rounds.iter().map(|round| round.command_answers / round.bare_tract).collect();
    let record = Record {
        format: "sordino.bench.centroids 1",
        model: file_name(&args.model),
        data: args.data.to_string(),
        n_rows,
        n_threads,
        batch_size: args.batch_size,
        commit: output("git", &["describe", "--always", "--dirty", "--abbrev=12"]),
        load_average_at_start: load_average_at_start.split(' ').take(3).collect::<Vec<_>>().join(" "),
        median_share: median(shares),
        rounds,
        beside: args.beside.as_ref().map(|source| beside(&args, source, scratch.path())).transpose()?,
    };
    let page = page(&record)?;
    print!("{page}");
    if let Some(out) = &args.out {
        std::fs::create_dir_all(out)?;
        std::fs::write(out.join("README.md"), page)?;
        std::fs::write(out.join("results.json"), serde_json::to_string_pretty(&record)? + "\n")?;
    }
    Ok(())
}

/// The model on tract and nothing else, with its batches at hand.
struct Bare {
    plan: Arc<TypedRunnableModel>,
    batches: Vec<Tensor>,
    n_rows: usize,
}

impl Bare {
    fn new(model: &Path, dataset: &Dataset, n_rows: usize, batch_size: usize) -> Result<Self> {
        let mut graph =
            tract_onnx::onnx().with_ignore_output_shapes(true).with_ignore_value_info(true).model_for_path(model)?;
        let n = TDim::Sym(graph.symbols.sym("N"));
        let shape: TVec<TDim> =
            std::iter::once(n).chain(dataset.row_shape().iter().map(|size| size.to_dim())).collect();
        graph = graph.with_input_fact(0, InferenceFact::dt_shape(f32::datum_type(), shape))?;
        let plan = graph.into_optimized()?.into_runnable()?;
        let all: Vec<usize> = (0..n_rows).collect();
        let tensor = |rows: &[usize]| -> Result<Tensor> {
            let values = dataset.batch(rows);
            Tensor::from_shape(values.shape(), values.as_slice().context("a batch lies row by row")?)
        };
        let batches = all.chunks(batch_size).map(tensor).collect::<Result<_>>()?;
        Ok(Self { plan, batches, n_rows })
    }

    fn rows_per_s(&self, n_threads: usize) -> Result<f64> {
        let next = AtomicUsize::new(0);
        let started = Instant::now();
        std::thread::scope(|scope| -> Result<()> {
            let work = || -> Result<()> {
                while let Some(batch) = self.batches.get(next.fetch_add(1, Ordering::Relaxed)) {
                    std::hint::black_box(self.plan.run(tvec!(batch.clone().into_tvalue()))?);
                }
                Ok(())
            };
            let threads: Vec<_> = (0..n_threads).map(|_| scope.spawn(work)).collect();
            for thread in threads {
                thread.join().ok().context("a thread of bare tract panicked")??;
            }
            Ok(())
        })?;
        Ok(self.n_rows as f64 / started.elapsed().as_secs_f64())
    }
}

fn beside(args: &Args, source: &DataSource, scratch: &Path) -> Result<Run> {
    command(args, "--beside", Dataset::load(source)?.n_rows(), scratch)
}

/// Runs the command on the source behind a flag of ours: rows a second of its own clock, seconds of ours, and the most
/// memory that it held.
fn command(args: &Args, source: &str, n_rows: usize, scratch: &Path) -> Result<Run> {
    let started = Instant::now();
    let out = scratch.join("c.safetensors");
    let mut child = Command::new(env!("CARGO_BIN_EXE_sordino"))
        .args(["centroids", "build", "--quiet", "--class-fallback", "correct-rows", "--model"])
        .arg(&args.model)
        .arg("--data")
        .arg(source_words(source)?)
        .arg("--out")
        .arg(&out)
        .args(["--batch-size", &args.batch_size.to_string()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    // The kernel keeps the most for as long as the process is there: the last look is close to its end.
    let mut peak_kib = 0;
    while child.try_wait()?.is_none() {
        peak_kib = peak_kib.max(peak_of(child.id()).unwrap_or(0));
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output()?;
    let whole_s = started.elapsed().as_secs_f64();
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    let rate = text.split_whitespace().zip(text.split_whitespace().skip(1)).find(|(_, unit)| *unit == "rows/s");
    let (rate, _) = rate.with_context(|| format!("the command told no rate:\n{text}"))?;
    Ok(Run { n_rows, answers: rate.parse()?, whole_s, peak_mib: peak_kib as f64 / 1024.0 })
}

/// KiB of `VmHWM`.
fn peak_of(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// The data as it was given: the source's own words drop the path.
fn source_words(flag: &str) -> Result<String> {
    let mut words = std::env::args().skip_while(|word| word != flag);
    words.nth(1).with_context(|| flag.to_owned())
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn output(program: &str, words: &[&str]) -> String {
    let output = Command::new(program).args(words).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}

fn page(record: &Record) -> Result<String> {
    let mut page = String::new();
    writeln!(page, "# `centroids build` beside bare tract\n")?;
    writeln!(
        page,
        "```\ncargo bench --features lab --bench centroids -- --model {} --data {} --rows {} --rounds {}\n```\n",
        record.model,
        record.data,
        record.n_rows,
        record.rounds.len()
    )?;
    writeln!(
        page,
        "commit {} · {} threads · load average at the start {}\n",
        record.commit, record.n_threads, record.load_average_at_start
    )?;
    writeln!(
        page,
        "Rows a second, batches of {}. *Answers*: from decoded rows to the sums that make",
        record.batch_size
    )?;
    writeln!(
        page,
        "the centroids. *Whole*: seconds of all of the command, with reading the data; *peak*: the most memory it held.\n"
    )?;
    writeln!(
        page,
        "| round | bare tract | answers | share | whole s | peak MiB |\n| ---: | ---: | ---: | ---: | ---: | ---: |"
    )?;
    for (number, round) in record.rounds.iter().enumerate() {
        let share = round.command_answers / round.bare_tract;
        let (bare, answers, whole) = (round.bare_tract, round.command_answers, round.command_whole_s);
        let peak = round.command_peak_mib;
        writeln!(page, "| {} | {bare:.0} | {answers:.0} | {share:.3} | {whole:.1} | {peak:.0} |", number + 1)?;
    }
    writeln!(page, "\nMedian share: {:.3}", record.median_share)?;
    if let Some(Run { n_rows, answers, whole_s, peak_mib }) = record.beside {
        writeln!(
            page,
            "\nBeside it {n_rows} rows: {answers:.0} rows a second, {whole_s:.1} s, peak {peak_mib:.0} MiB."
        )?;
    }
    Ok(page)
}
