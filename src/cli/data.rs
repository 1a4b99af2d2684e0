//! `sordino data`: what there is to do with rows before anything is trained on them.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, ensure};

use crate::data::{self, DataSource, Values};

/// Convert labelled rows.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Convert(ConvertArgs),
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
