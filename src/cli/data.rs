//! `sordino data`: what there is to do with rows before anything is trained on them.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, ensure};

use crate::data::{self, Canaries, CanaryKind, DataSource, Dataset, Part, Split, Values, check_writable, is_same_file};

/// Convert labelled rows, and plant canaries in them.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Convert(ConvertArgs),
    Plant(PlantArgs),
}

/// Write rows as NumPy arrays: OUT/features.npy, OUT/labels.npy and OUT/classes.txt, which `npy:OUT` reads.
///
/// Tables of text and Parquet are read row by row, so a set may be larger than memory; as arrays its rows stay in their
/// file when they are used. They are the same rows in the same order: a split of the one is a split of the other.
#[derive(Debug, clap::Args)]
struct ConvertArgs {
    #[arg(long, value_name = "SOURCE", help = super::data_help("The labelled rows"))]
    data: DataSource,
    /// The folder to write to; made where it is missing.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// One byte a value (pixels, or whole numbers from 0 to 255), or four (any numbers; pixels divided by 255).
    #[arg(long, value_enum, default_value_t = ValuesArg::F32)]
    values: ValuesArg,
}

/// Draw canaries: rows to train on that are looked for later, and as many of the same kind that are withheld, told apart by
/// lot alone. Writes OUT.json, the canaries, and OUT.split.json, the split with them.
///
/// Train on them with `--data planted:OUT.json,SOURCE --split OUT.split.json`, and audit that model with the same two and
/// `--canaries`: the worst case that a training run can be asked about without shadow models.
#[derive(Debug, clap::Args)]
struct PlantArgs {
    #[arg(long, value_name = "SOURCE", help = super::data_help("The labelled rows"))]
    data: DataSource,
    /// The split to take them from.
    #[arg(long, value_name = "FILE")]
    split: PathBuf,
    /// How many, both sides together.
    #[arg(long, short, value_name = "N", default_value_t = 200)]
    n: usize,
    /// `mislabelled`: any rows, each with a wrong label; `outlier`: those farthest from the mean of their class (of the
    /// train rows), with their own.
    #[arg(long, value_name = "KIND", default_value = "mislabelled", value_parser = kind)]
    kind: CanaryKind,
    /// The part whose rows become canaries: test or shadow.
    #[arg(long, value_name = "PART", default_value = "test", value_parser = part)]
    from: Part,
    /// Seed of the lot.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Where to write: OUT.json and OUT.split.json.
    #[arg(long, value_name = "OUT")]
    out: PathBuf,
}

fn kind(word: &str) -> Result<CanaryKind, String> {
    let found = [CanaryKind::Mislabelled, CanaryKind::Outlier].into_iter().find(|kind| kind.name() == word);
    found.ok_or_else(|| format!("expected mislabelled or outlier, got {word:?}"))
}

fn part(word: &str) -> Result<Part, String> {
    let found = [Part::Test, Part::Shadow].into_iter().find(|part| part.name() == word);
    found.ok_or_else(|| format!("expected test or shadow, got {word:?}"))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum ValuesArg {
    U8,
    F32,
}

/// Runs the command.
///
/// # Errors
/// When a file cannot be read or written, or a row is not as its format asks for.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match &args.command {
        Command::Convert(args) => convert(args),
        Command::Plant(args) => plant(args),
    }
}

fn convert(args: &ConvertArgs) -> anyhow::Result<ExitCode> {
    let out = &args.out;
    std::fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    for file in data::CONVERTED_FILES {
        ensure!(!args.data.reads(&out.join(file)), "--out: {} is an input", out.join(file).display());
    }
    let values = match args.values {
        ValuesArg::U8 => Values::Bytes,
        ValuesArg::F32 => Values::Floats,
    };
    let written = data::convert(&args.data, out, values)?;
    println!(
        "{}: {} rows of shape {:?}, {} classes\nwrote npy:{}",
        args.data,
        written.n_rows,
        written.row_shape,
        written.n_classes,
        out.display()
    );
    Ok(ExitCode::SUCCESS)
}

fn plant(args: &PlantArgs) -> anyhow::Result<ExitCode> {
    let beside = |ending: &str| {
        let mut path = args.out.clone().into_os_string();
        path.push(ending);
        PathBuf::from(path)
    };
    let (file, split_file) = (beside(".json"), beside(".split.json"));
    for path in [&file, &split_file] {
        let is_input = is_same_file(path, &args.split) || args.data.reads(path);
        ensure!(!is_input, "--out: {} is an input", path.display());
        check_writable(path).with_context(|| format!("cannot write {}", path.display()))?;
    }
    ensure!(!matches!(args.data, DataSource::Planted { .. }), "--data: canaries are planted already");
    let split = Split::read(&args.split)?;
    let dataset = Dataset::load(&args.data)?;
    split.check(&dataset).with_context(|| args.split.display().to_string())?;
    let canaries = Canaries::draw(&args.data, &dataset, &split, args.from, args.kind, args.n, args.seed)?;
    let planted = canaries.plant(&file, dataset)?;
    let source = DataSource::Planted { canaries: file.clone(), of: Box::new(args.data.clone()) };
    let with = split.with_canaries(&source, &planted, &canaries)?;
    canaries.write(&file)?;
    with.write(&split_file)?;
    println!(
        "{} {} canaries of the part {}: {} to train on, {} withheld (seed {})\nwrote {} and {}\n\
         now: sordino train --data {source} --split {} …, and audit with --canaries",
        canaries.rows().len(),
        args.kind.name(),
        args.from.name(),
        canaries.trained().len(),
        canaries.withheld().len(),
        args.seed,
        file.display(),
        split_file.display(),
        split_file.display()
    );
    Ok(ExitCode::SUCCESS)
}
