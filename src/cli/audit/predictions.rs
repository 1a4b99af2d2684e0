//! An audit of a file of predictions.

use std::path::Path;

use anyhow::Context as _;
use sha2::{Digest, Sha256};

use super::record::{command_line, commit, file_name, machine};
use super::{Args, Asker, Case};
use crate::audit::report::{Figure, Origin, SourceRecord};
use crate::audit::source::predictions::{Columns, Elsewhere, Predictions, TakenAs};
use crate::data::{Dataset, hex};

/// Reads the file and, where they are given, the labels and sides of its records.
///
/// # Errors
/// When a file cannot be read, or its rows do not make an audit.
pub(super) fn case(args: &Args, path: &Path) -> anyhow::Result<Case> {
    let shown = path.display();
    let dataset = args.data.as_ref().map(Dataset::load).transpose()?;
    let sides = args.sides(dataset.as_ref())?;
    let elsewhere = Elsewhere {
        labels: dataset.as_ref().map(Dataset::labels),
        sides: sides.as_ref().map(|(sides, _)| sides.by_row()),
    };
    let columns = Columns::read(path).with_context(|| shown.to_string())?;
    let predictions = Predictions::new(columns, &elsewhere).with_context(|| shown.to_string())?;
    let (target, systems, skipped) = predictions.study(args.scores_of).with_context(|| shown.to_string())?;

    let digest = hex(&Sha256::digest(std::fs::read(path).with_context(|| format!("cannot read {shown}"))?));
    let no_model = "the file holds answers, and no model";
    let taken_as = match args.scores_of {
        TakenAs::Served => "what was served",
        TakenAs::Undefended => "the undefended model's scores",
    };
    let (split_digest, split_seed) = super::split_record(sides.as_ref().and_then(|(_, split)| split.as_ref()));
    let origin = Origin {
        command: command_line(),
        sordino_version: env!("CARGO_PKG_VERSION"),
        commit: commit(),
        machine: machine(),
        source: SourceRecord::Predictions { file: file_name(path), digest, taken_as },
        model: path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned()),
        model_digest: Figure::missing(no_model),
        scores_decided: predictions.kind().map_or("labels alone".to_owned(), |kind| format!("{kind}, by the columns")),
        artifact_digest: Figure::missing("no centroid file was given"),
        data_source: args.data.as_ref().map_or("the file itself".to_owned(), ToString::to_string),
        dataset_digest: Figure::or(dataset.as_ref().map(Dataset::digest), "no data set was given"),
        split_digest,
        split_seed,
        duplicates: match (&dataset, &sides) {
            (Some(dataset), Some((sides, _))) => Figure::known(super::duplicates(dataset, sides)),
            _ => Figure::missing("the inputs of the rows are not there to compare"),
        },
        pipeline_agrees: Figure::missing(no_model),
        inference_seconds: Figure::missing(no_model),
        doubts: predictions.doubts(),
    };
    let sides = sides.map(|(sides, _)| sides);
    Ok(Case {
        target,
        systems,
        skipped,
        origin,
        centroid_doubts: Vec::new(),
        dataset,
        sides,
        asker: Asker::Nobody,
        known_defence: None,
    })
}
