//! The model that learns what others say of its rows: how SELENA and distillation end.

use std::collections::HashSet;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use ndarray::Array2;

use super::bank::{ModelFiles, Source, WorkFlags, run_record};
use super::ensemble::unknown_rows;
use super::train::Stop;
use crate::data::{Dataset, Split};
use crate::lab::bank::distil::TeacherRecord;
use crate::lab::bank::run::Assignment;
use crate::lab::bank::trainer::{Ended, Finished, export, train_member};
use crate::lab::network::About;
use crate::lab::plot;
use crate::lab::recipe::Recipe;
use crate::lab::record::{MadeFrom, Results};
use crate::lab::train::{Task, score};

/// Stops before anything is trained where the student would have to be private.
///
/// # Errors
///
/// When the recipe is private.
pub(super) fn expect_no_privacy(recipe: &Recipe) -> anyhow::Result<()> {
    ensure!(
        recipe.dp.is_none(),
        "differential privacy does not hold with a teacher: its answers were learned from rows without noise"
    );
    Ok(())
}

/// Trains a student on soft targets for `rows`, from its checkpoint where there is one, and writes it. Rows that are
/// `known` to its teachers count as unseen no more than its own.
///
/// # Errors
///
/// When the training diverges, its checkpoint is damaged or of another training, or a file cannot be written.
pub(super) fn teach(
    source: &Source,
    (rows, known): (Vec<usize>, Vec<usize>),
    (targets, teacher): (Array2<f32>, TeacherRecord),
    files: &ModelFiles,
    work: &WorkFlags,
) -> anyhow::Result<ExitCode> {
    let started = Instant::now();
    let (dataset, split): (&Dataset, &Split) = (&source.dataset, &source.split);
    let device = work.device.open()?;
    let known: HashSet<usize> = rows.iter().chain(&known).copied().collect();
    let [validation, calibration, test] = unknown_rows(split, &known);
    let task = Task { teacher: Some(targets), ..Task::new(dataset, rows.clone(), validation.clone()) };
    let assignment = assignment(source, files)?;
    let stop = Stop::listen()?;
    let mut keep = |write: &mut dyn FnMut() -> anyhow::Result<Vec<u8>>| files.keep(&write()?);
    let ended = work.alone(|| train_member(task, (&assignment, None), &device, &mut keep, &stop.flag))?;
    let ended = ended.with_context(|| format!("the student (checkpoint: {})", files.checkpoint.display()))?;
    let Finished { network, history, best_epoch, privacy } = match ended {
        Ended::Interrupted(checkpoint) => {
            files.keep(&checkpoint)?;
            eprintln!("interrupted; the same command goes on");
            return Ok(ExitCode::from(stop.exit_code.load(Ordering::Relaxed)));
        }
        Ended::Stage(_) => bail!("a student has one stage"),
        Ended::Finished(finished) => *finished,
    };
    let model = export(&network, dataset, &rows)?;
    let mut record = run_record(files, source.recipe.clone(), source.data.clone(), split, &model)?;
    record.made_from = Some(MadeFrom::Taught(teacher));
    record.privacy = privacy;
    record.history = history;
    record.best_epoch = best_epoch;
    record.device = Some(device.device());
    let scores = [&rows, &validation, &calibration, &test].map(|rows| score(&network, dataset, rows));
    record.results = Some(Results::of(scores, source.recipe.seed)?);
    record.wall_seconds = (started.elapsed().as_secs_f64() * 10.0).round() / 10.0;
    let about = About {
        architecture: source.recipe.network.clone(),
        row_shape: dataset.row_shape().to_vec(),
        labels: dataset.class_names().to_vec(),
        recipe: source.recipe.digest(),
        epoch: None,
    };
    let (weights, picture) = (network.to_safetensors(&about)?, plot::course(&record.history, best_epoch)?);
    let beside = [("weights.safetensors", weights.as_slice()), ("svg", picture.as_bytes())];
    files.write(&model, &record, split, &beside)?;
    Ok(ExitCode::SUCCESS)
}

/// The student's training, from its checkpoint where there is one.
fn assignment(source: &Source, files: &ModelFiles) -> anyhow::Result<Assignment> {
    let checkpoint = match std::fs::read(&files.checkpoint) {
        Ok(bytes) => Some(bytes),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", files.checkpoint.display())),
    };
    Ok(Assignment {
        member: 0,
        recipe: source.recipe.clone(),
        rows: vec![],
        strangers: vec![],
        checkpoint,
        before: None,
        is_last: true,
    })
}
