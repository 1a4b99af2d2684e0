//! What a command writes: checked before the work begins, never over what it reads.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

use super::Args;
use super::shadows::Transfer;
use super::trainings::Training;
use crate::audit::html;
use crate::audit::render::{self, Layout};
use crate::audit::report::Report;
use crate::data::{check_writable, is_same_file, write_atomic};

/// The files that are asked for, with their options.
fn outputs(args: &Args) -> Vec<(&'static str, &PathBuf)> {
    let all = [("--json", &args.json), ("--markdown", &args.markdown), ("--html", &args.html), ("--csv", &args.csv)];
    all.into_iter().filter_map(|(option, path)| path.as_ref().map(|path| (option, path))).collect()
}

/// Every file that is read.
fn inputs(args: &Args) -> Vec<&Path> {
    let single = [
        &args.model,
        &args.centroids,
        &args.split,
        &args.predictions,
        &args.members,
        &args.non_members,
        &args.calibration_rows,
        &args.policy,
        &args.record,
        &args.shadow_model,
        &args.shadow_split,
    ];
    let single = single.into_iter().flatten();
    #[cfg(feature = "lab")]
    let single = single.chain(&args.heatmaps);
    let single = single.chain(&args.defence).map(PathBuf::as_path);
    let trainings = args.training.iter().flat_map(Training::files);
    single.chain(trainings).chain(args.transfer_shadow.iter().flat_map(Transfer::files)).collect()
}

/// Checks that every output can be written, and that none is an input or another output.
///
/// # Errors
/// The first that cannot, with its option.
pub(super) fn check(args: &Args) -> anyhow::Result<()> {
    let outputs = outputs(args);
    for (place, (option, path)) in outputs.iter().enumerate() {
        let shown = path.display();
        check_writable(path).with_context(|| format!("{option}: cannot write {shown}"))?;
        let is_input = inputs(args).iter().any(|input| is_same_file(input, path))
            || args.data.as_ref().is_some_and(|data| data.reads(path))
            || args.transfer_shadow.as_ref().is_some_and(|other| other.reads_data(path))
            || args.shadows.as_ref().is_some_and(|bank| is_of_bank(path, bank));
        ensure!(!is_input, "{option}: {shown} is an input");
        let twice = outputs[..place].iter().find(|(_, other)| other == path || is_same_file(other, path));
        if let Some((other, _)) = twice {
            anyhow::bail!("{option}: {shown} is what {other} writes");
        }
    }
    Ok(())
}

/// Whether a file is one that a bank of shadow models is made of.
fn is_of_bank(path: &Path, bank: &Path) -> bool {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    is_same_file(folder, bank)
        && (name.starts_with("model-") || ["inclusion.safetensors", "plan.json", "bank.json"].contains(&&*name))
}

/// Writes what is asked for; one that cannot be written keeps no other from being written, and is added to `failed`.
pub(super) fn write(args: &Args, report: &Report, failed: &mut Vec<anyhow::Error>) {
    for (option, path) in outputs(args).into_iter().filter(|(option, _)| *option != "--csv") {
        super::kept(write_one(option, path, report), failed);
    }
}

fn write_one(option: &str, path: &Path, report: &Report) -> anyhow::Result<()> {
    let bytes = match option {
        "--html" => html::page(report).into_bytes(),
        "--markdown" => render::report(report, Layout::Markdown).into_bytes(),
        _ => {
            let mut json = serde_json::to_vec_pretty(report)?;
            json.push(b'\n');
            json
        }
    };
    write_atomic(path, &bytes).with_context(|| format!("cannot write {}", path.display()))
}
