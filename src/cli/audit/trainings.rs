//! Further trainings of the same recipe: the same audit of each, and the figures over all.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

use super::Args;
use crate::audit::enough;
use crate::audit::report::{Report, Settings, Trainings};
use crate::audit::source::sides::Sides;
use crate::audit::spread::over_targets;
use crate::audit::study::{self, Knowledge};
use crate::data::Split;

/// A further training.
#[derive(Debug, Clone)]
pub(super) struct Training {
    pub(super) model: PathBuf,
    pub(super) split: PathBuf,
    pub(super) centroids: Option<PathBuf>,
}

impl Training {
    /// Every file that it is made of.
    pub(super) fn files(&self) -> impl Iterator<Item = &Path> {
        [&self.model, &self.split].into_iter().chain(&self.centroids).map(PathBuf::as_path)
    }
}

/// `MODEL,SPLIT` or `MODEL,SPLIT,CENTROIDS`.
pub(super) fn training(words: &str) -> Result<Training, String> {
    let parts: Vec<&str> = words.split(',').collect();
    let path = |place: usize| parts.get(place).filter(|part| !part.is_empty()).map(PathBuf::from);
    match (path(0), path(1), parts.len()) {
        (Some(model), Some(split), 2) => Ok(Training { model, split, centroids: None }),
        (Some(model), Some(split), 3) if !parts[2].is_empty() => Ok(Training { model, split, centroids: path(2) }),
        _ => Err(format!("expected MODEL,SPLIT or MODEL,SPLIT,CENTROIDS, got {words:?}")),
    }
}

/// Looks for the files of further trainings before the first is attacked.
///
/// # Errors
/// The first that is not there, whose split has too few rows, or whose systems would not be the audited model's.
pub(super) fn check(args: &Args) -> anyhow::Result<()> {
    for training in &args.training {
        for path in training.files() {
            ensure!(path.is_file(), "--training: no file {}", path.display());
        }
        ensure!(
            training.centroids.is_some() == args.centroids.is_some(),
            "--training {}: give centroids to all trainings or to none, or their systems are not the same",
            training.model.display()
        );
        let split =
            Split::read(&training.split).with_context(|| format!("--training: {}", training.split.display()))?;
        let sides = Sides::of_split(&split);
        enough::check(sides.members().len(), sides.non_members().len(), enough::LEVEL)
            .with_context(|| format!("--training: {}", training.split.display()))?;
    }
    Ok(())
}

/// The same audit of each further training, and the figures over all.
pub(super) fn over_trainings(args: &Args, first: &Report, settings: &Settings) -> anyhow::Result<Trainings> {
    let mut models = vec![first.origin.model_digest.value.clone().unwrap_or_default()];
    let mut all = vec![first.findings.clone()];
    for training in &args.training {
        let shown = training.model.display();
        let mut other = args.clone();
        other.model = Some(training.model.clone());
        other.split = Some(training.split.clone());
        other.centroids.clone_from(&training.centroids);
        let case = super::model::case(&other).with_context(|| format!("--training {shown}"))?;
        let digest = case.origin.model_digest.value.clone().unwrap_or_default();
        ensure!(!models.contains(&digest), "--training {shown}: the same model as another training");
        models.push(digest);
        let bar = args.bar(case.systems.len(), "attacks", "systems");
        let mut progress = |_: &str, done: usize| bar.set_position(done as u64);
        let knowledge = Knowledge::default();
        let outcome = study::run_with(&case.target, &case.systems, case.skipped, settings, &knowledge, &mut progress);
        bar.finish_and_clear();
        all.push(outcome.with_context(|| format!("--training {shown}"))?.findings);
    }
    Ok(Trainings { n: all.len(), models, systems: over_targets(&all, settings.level) })
}
