//! `sordino export`: an ONNX graph from a file of weights, such as those of a kept epoch.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, ensure};

use crate::data::{check_writable, is_same_file, write_atomic};
use crate::lab::device::Device;
use crate::lab::network::Network;
use crate::lab::onnx;

/// Write an ONNX model from weights that `train` kept (NAME.weights.safetensors, NAME.epoch-0005.weights.safetensors).
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The weights.
    #[arg(long, value_name = "FILE")]
    weights: PathBuf,
    /// Where the model goes.
    #[arg(long, value_name = "FILE.onnx")]
    out: PathBuf,
    /// Give the model a second output with the penultimate features ("penultimate_features"), for the offline side; no
    /// server of ours serves it.
    #[arg(long)]
    with_features: bool,
    /// Make each batch normalisation right behind a convolution part of it.
    #[arg(long)]
    fold_batch_norm: bool,
}

/// Runs the command.
///
/// # Errors
///
/// When the file holds no network, or the model cannot be written.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let shown = args.weights.display();
    ensure!(!is_same_file(&args.weights, &args.out), "--out: {shown} is an input");
    super::make_folder_of(&args.out)?;
    check_writable(&args.out).with_context(|| format!("cannot write {}", args.out.display()))?;
    let bytes = std::fs::read(&args.weights).with_context(|| format!("cannot read {shown}"))?;
    let device = Device::Cpu.open()?;
    let (network, about) =
        Network::from_safetensors(&bytes, &device.evaluation()).with_context(|| shown.to_string())?;
    let options = onnx::Export { features: args.with_features, fold_batch_norm: args.fold_batch_norm };
    let model = onnx::export(&network, &about.labels, options);
    write_atomic(&args.out, &model).with_context(|| format!("cannot write {}", args.out.display()))?;
    let epoch = about.epoch.map_or(String::new(), |epoch| format!(", behind epoch {epoch}"));
    println!("{}  {} bytes  {}{epoch}", args.out.display(), model.len(), about.architecture);
    Ok(ExitCode::SUCCESS)
}
