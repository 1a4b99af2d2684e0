//! An audit of a model, in the pipeline that serves.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, bail, ensure};
use sha2::{Digest, Sha256};

use super::record::{command_line, commit, machine};
use super::{Args, Asker, Case, questions, read, read_defence, shadows};
use crate::artifact::ModelDigest;
use crate::audit::collect;
use crate::audit::report::{Figure, Origin, SourceRecord};
use crate::audit::source::sides::Sides;
use crate::audit::system::{System, add_grid, build_all};
use crate::audit::target::Target;
use crate::data::{DataSource, Dataset, Part, Split, hex};
use crate::defence::{Defence, DefenceConfig, Fitted, Method};
use crate::engine;
use crate::pipeline::{Identity, Pipeline, bundled, read_for};

/// Everything that an audit reads, checked to belong together.
struct Subject {
    name: String,
    model_digest: ModelDigest,
    scores_decided: String,
    artifact_digest: Figure<String>,
    fitted: Option<Arc<Fitted>>,
    /// What must be said about the centroid file's rows.
    doubts: Vec<String>,
    pipeline: Pipeline,
    source: DataSource,
    dataset: Dataset,
    sides: Sides,
    split: Option<Split>,
}

/// Reads the model and its rows, and collects its scores.
///
/// # Errors
/// When a file cannot be read, or model, centroids, data and sides do not belong together.
pub(super) fn case(args: &Args) -> anyhow::Result<Case> {
    let given = args.defence.iter().map(|path| read_defence(path)).collect::<anyhow::Result<Vec<_>>>()?;
    let subject = Subject::load(args)?;
    let spec = subject.pipeline.spec().clone();
    let (mut systems, mut skipped) = build_all(&given, subject.fitted.as_ref(), spec.score_kind, spec.n_classes)
        .map_err(|(name, error)| anyhow::Error::new(error).context(format!("defence {name:?}")))?;
    if args.grid {
        let fitted = subject.fitted.as_ref();
        add_grid(&mut systems, &mut skipped, fitted, spec.score_kind, spec.n_classes);
    }
    shadows::check_rows(args, &subject.dataset, &subject.sides)?;
    questions::check_budget(args, &subject.dataset, &subject.sides)?;
    let start = Instant::now();
    let target = subject.collect(args)?;
    let inference_seconds = start.elapsed().as_secs_f64();
    let pipeline_agrees = subject.pipeline_agrees(args.batch_size as usize, &systems, &target)?;
    let origin = subject.origin(pipeline_agrees, inference_seconds);
    Ok(Case {
        target,
        systems,
        skipped,
        origin,
        centroid_doubts: subject.doubts,
        dataset: Some(subject.dataset),
        sides: Some(subject.sides),
        asker: Asker::Pipeline(Box::new(subject.pipeline)),
        known_defence: None,
    })
}

impl Subject {
    fn load(args: &Args) -> anyhow::Result<Self> {
        let (name, model, centroids) = match &args.model {
            None => (bundled::NAME.to_owned(), bundled::MODEL.to_vec(), Some(bundled::CENTROIDS.to_vec())),
            Some(path) => {
                let centroids = args.centroids.as_deref().map(read).transpose()?;
                let name = path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
                (name, read(path)?, centroids)
            }
        };
        let source = args.data.clone().unwrap_or(DataSource::FashionMnist(None));
        let dataset = Dataset::load(&source)?;
        let (sides, split) = match args.sides(Some(&dataset))? {
            Some(found) => found,
            None if args.model.is_none() => {
                let split = Split::from_bytes(bundled::SPLIT).context("the bundled split")?;
                split.check(&dataset)?;
                (Sides::of_split(&split), Some(split))
            }
            None => bail!("--model needs --split, or --members and --non-members"),
        };
        let model_digest = ModelDigest::of(&model);
        let file = centroids.as_deref().map(|bytes| read_for(bytes, model_digest)).transpose()?;
        let engine = engine::load(&model, &args.scores.options())?;
        let spec = engine.spec();
        ensure!(
            spec.n_classes == dataset.n_classes(),
            "the model has {} classes, the data has {}",
            spec.n_classes,
            dataset.n_classes()
        );
        if let Some(labels) = &spec.labels {
            dataset.check_names(labels)?;
        }
        let mut doubts = Vec::new();
        if let Some(file) = &file {
            let expected = split.as_ref().map(|split| format!("{} {}", split.digest(), Part::Train.name()));
            if expected.is_none() || file.metadata.data.split != expected {
                doubts.push(
                    "the centroid file does not say that it was fitted on this split's train rows: if it saw others, \
                     they are not untouched here (R17)"
                        .to_owned(),
                );
            }
        }
        let fitted = file.map(|file| file.fitted);
        // What `serve` runs by default; without centroids the one defence that needs none.
        let config = match fitted {
            Some(_) => DefenceConfig::default(),
            None => DefenceConfig { method: Method::LabelOnly, top_k: None, digits: None },
        };
        let defence = Defence::new(&config, fitted.clone(), spec.score_kind, spec.n_classes)?;
        let scores_decided = spec.how_decided.clone();
        let identity =
            Identity { name: name.clone(), version: "1".to_owned(), labels: Vec::new(), model: model_digest };
        let pipeline = Pipeline::new(engine, defence, identity)?;
        let digest = centroids.map(|bytes| hex(&Sha256::digest(bytes)));
        let artifact_digest = Figure::or(digest, "no centroid file was given");
        Ok(Self {
            name,
            model_digest,
            scores_decided,
            artifact_digest,
            fitted,
            doubts,
            pipeline,
            source,
            dataset,
            sides,
            split,
        })
    }

    fn collect(&self, args: &Args) -> anyhow::Result<Target> {
        let bar = args.bar(self.sides.n_rows(), "inference", "rows");
        let mut progress = |n: usize| bar.inc(n as u64);
        let batch_rows = args.batch_size as usize;
        let target = Target::collect(&self.pipeline, &self.dataset, &self.sides, batch_rows, &mut progress);
        bar.finish_and_clear();
        Ok(target?)
    }

    /// Whether the pipeline as it serves answers the first batch as the system of the same settings did.
    fn pipeline_agrees(&self, batch_rows: usize, systems: &[System], target: &Target) -> anyhow::Result<Figure<bool>> {
        let served = self.pipeline.defence().config();
        let Some(system) = systems.iter().find(|system| system.config() == Some(served)) else {
            return Ok(Figure::missing("no system has the pipeline's settings"));
        };
        let rows = &target.dataset_rows()[..batch_rows.min(target.n_rows())];
        let inputs = collect::inputs_of(&self.pipeline, &self.dataset, rows)?;
        let answer = self.pipeline.defend(&inputs)?;
        let Some(measured) = system.answer(target, &target.logits(), None)? else {
            return Ok(Figure::missing("the system gave no answer"));
        };
        let measured = measured.probabilities.iter().take(rows.len() * target.n_classes());
        Ok(Figure::known(answer.probabilities().iter().map(|&p| f64::from(p)).eq(measured.copied())))
    }

    fn origin(&self, pipeline_agrees: Figure<bool>, inference_seconds: f64) -> Origin {
        let (split_digest, split_seed) = super::split_record(self.split.as_ref());
        Origin {
            command: command_line(),
            sordino_version: env!("CARGO_PKG_VERSION"),
            commit: commit(),
            machine: machine(),
            source: SourceRecord::Pipeline,
            model: self.name.clone(),
            model_digest: Figure::known(self.model_digest.to_string()),
            scores_decided: self.scores_decided.clone(),
            artifact_digest: self.artifact_digest.clone(),
            data_source: self.source.to_string(),
            dataset_digest: Figure::known(self.dataset.digest()),
            split_digest,
            split_seed,
            duplicates: Figure::known(super::duplicates(&self.dataset, &self.sides)),
            pipeline_agrees,
            inference_seconds: Figure::known(inference_seconds),
            doubts: Vec::new(),
        }
    }
}
