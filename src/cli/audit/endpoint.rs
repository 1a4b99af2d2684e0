//! An audit of a running endpoint.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

use super::super::tls::TlsArgs;
use super::record::{command_line, commit, machine};
use super::{Args, Asker, Case, above_zero, questions, read_defence, score_kind, shadows};
use crate::artifact::centroids;
use crate::audit::invert::Inversion;
use crate::audit::report::{Figure, Origin, SourceRecord};
use crate::audit::source::endpoint::{Asked, Manners, Remote};
use crate::client::endpoint::{Endpoint, Reach};
use crate::client::infer::RemoteModel;
use crate::data::Dataset;
use crate::defence::{DefenceConfig, ScoreKind};

/// How a running endpoint is asked.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Auditing an endpoint")]
pub(super) struct EndpointArgs {
    /// Audit a running endpoint of the Open Inference Protocol (Sordino, Triton, KServe …) by its http:// or https:// URL. With one
    /// --defence and its --centroids the attacker knows that defence.
    #[arg(long = "endpoint", value_name = "URL", requires = "data", requires = "sides", group = "audited",
        conflicts_with_all = ["model", "predictions"])]
    pub(super) url: Option<String>,
    /// The model's name, where the URL does not end in /v2/models/NAME.
    #[arg(long, value_name = "NAME", requires = "url")]
    pub(super) endpoint_model: Option<String>,
    /// The model's input, where its metadata tell nothing (as KServe's where a class does not tell); then --output is wanted too.
    #[arg(long, value_name = "NAME", requires = "url", requires = "output")]
    pub(super) input: Option<String>,
    /// The output to read.
    #[arg(long, value_name = "NAME", requires = "url")]
    pub(super) output: Option<String>,
    /// What the output's numbers are, where they are no probabilities: logits, probabilities or log_probabilities.
    #[arg(long, value_name = "KIND", requires = "url", value_parser = score_kind)]
    pub(super) output_kind: Option<ScoreKind>,
    /// Rows that may be asked at most in this run; of a model that is not behind an endpoint, further questions.
    #[arg(long, value_name = "N")]
    pub(super) query_budget: Option<u64>,
    /// Rows a second at most.
    #[arg(long, value_name = "N", requires = "url", value_parser = above_zero)]
    pub(super) rate: Option<f64>,
    /// Where answers are kept while they come, so that the same command goes on where it stopped; without it, a file
    /// beside the first report asked for.
    #[arg(long, value_name = "FILE", requires = "url")]
    pub(super) answers: Option<PathBuf>,
    /// Seconds for one answer.
    #[arg(long, value_name = "S", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    pub(super) timeout: u32,
    /// Ask an endpoint that is not on this machine: with its owner's consent.
    #[arg(long, requires = "url")]
    pub(super) allow_remote: bool,
    #[command(flatten)]
    pub(super) tls: TlsArgs,
}

/// Asks the endpoint for all rows.
///
/// # Errors
/// When it cannot be asked, or its model, the data and the sides do not belong together.
pub(super) fn case(args: &Args, url: &str) -> anyhow::Result<Case> {
    let of = &args.endpoint;
    let source = args.data.as_ref().context("--endpoint needs --data, the rows to ask about")?;
    let known = known_defence(args)?;
    let dataset = Dataset::load(source)?;
    let (sides, split) =
        args.sides(Some(&dataset))?.context("--endpoint needs --split, or --members and --non-members")?;

    let reach = if of.allow_remote { Reach::Anywhere } else { Reach::Loopback };
    let endpoint = Endpoint::with_tls(url, reach, &of.tls.settings(&[url])?)?;
    let shown = endpoint.url();
    let model = RemoteModel::new(endpoint, of.endpoint_model.as_deref(), Duration::from_secs(of.timeout.into()))?;
    if let Some(n_classes) = known.n_classes {
        ensure!(
            n_classes == dataset.n_classes(),
            "--centroids: expected those of {} classes, as the data has, got {n_classes}",
            dataset.n_classes()
        );
    }
    shadows::check_rows(args, &dataset, &sides)?;
    let reserved = questions::n_wanted(args, &dataset, &sides);
    let mut remote = Remote::connect(model, manners(args, reserved)).context(shown.clone())?;
    if remote.answers_labels() {
        ensure!(args.random_points.is_none(), "--random-points: {LABELS_ALONE}");
        ensure!(args.transfer_shadow.is_none(), "--transfer-shadow: {LABELS_ALONE}");
    }
    let bar = args.bar(sides.members().len() + sides.non_members().len(), "asking", "rows");
    let start = Instant::now();
    let asked = remote.ask_all(&dataset, &sides, known.inversion, &mut |n| bar.inc(n as u64));
    bar.finish_and_clear();
    let asked = asked.context(shown.clone())?;

    let (split_digest, split_seed) = super::split_record(split.as_ref());
    let metadata = remote.metadata();
    let elsewhere = "the model runs elsewhere";
    let origin = Origin {
        command: command_line(),
        sordino_version: env!("CARGO_PKG_VERSION"),
        commit: commit(),
        machine: machine(),
        source: SourceRecord::Endpoint {
            url: shown,
            model: metadata.name.clone(),
            platform: metadata.platform.clone(),
            n_asked: remote.n_asked(),
            n_kept: asked.n_kept,
        },
        model: metadata.name.clone(),
        model_digest: Figure::missing(elsewhere),
        scores_decided: remote.scores_decided(),
        artifact_digest: Figure::missing(elsewhere),
        data_source: source.to_string(),
        dataset_digest: Figure::known(dataset.digest()),
        split_digest,
        split_seed,
        duplicates: Figure::known(super::duplicates(&dataset, &sides)),
        pipeline_agrees: Figure::missing(elsewhere),
        inference_seconds: Figure::known(start.elapsed().as_secs_f64()),
        doubts: asked.doubts.clone(),
    };
    let Asked { target, systems, .. } = asked;
    Ok(Case {
        target,
        systems,
        skipped: Vec::new(),
        origin,
        centroid_doubts: Vec::new(),
        dataset: Some(dataset),
        sides: Some(sides),
        asker: Asker::Remote(Box::new(remote)),
        known_defence: known.config,
    })
}

const LABELS_ALONE: &str = "it reads scores, and this output holds labels alone";

fn manners(args: &Args, reserved: u64) -> Manners {
    let EndpointArgs { query_budget, rate, input, output, output_kind, .. } = &args.endpoint;
    Manners {
        batch_rows: args.batch_size as usize,
        query_budget: *query_budget,
        reserved,
        rate: *rate,
        input: input.clone(),
        output: output.clone(),
        kind: *output_kind,
        answers: kept_answers(args),
    }
}

/// The file of kept answers: the named one, else one beside the first report that is asked for.
pub(super) fn kept_answers(args: &Args) -> Option<PathBuf> {
    let beside = [&args.json, &args.html, &args.markdown, &args.csv].into_iter().flatten().next();
    args.endpoint.answers.clone().or_else(|| beside.map(|path| path.with_extension("answers")))
}

/// What is known of an endpoint's defence.
struct Known {
    inversion: Inversion,
    config: Option<DefenceConfig>,
    /// Classes of the centroids.
    n_classes: Option<usize>,
}

/// What the auditor says of the endpoint's defence: how an attacker who knows it undoes it, and what to put before shadow
/// models. Its centroids are the owner's alone to know, and shadows have their own: without them nothing is undone.
fn known_defence(args: &Args) -> anyhow::Result<Known> {
    let (defence, centroids) = match (args.defence.as_slice(), &args.centroids) {
        ([], None) => return Ok(Known { inversion: Inversion::as_is(), config: None, n_classes: None }),
        ([defence], centroids) => (defence, centroids),
        ([], Some(_)) => bail!("--centroids of an endpoint: give the --defence that they belong to, too"),
        (_, _) => bail!("an endpoint has one defence: give one --defence, with its --centroids where they are known"),
    };
    let (_, config) = read_defence(defence)?;
    let (inversion, n_classes) = match centroids {
        Some(path) => {
            let file = centroids::read(&super::read(path)?).with_context(|| path.display().to_string())?;
            (Inversion::of(&config, &file.fitted), Some(file.fitted.n_classes()))
        }
        None => {
            ensure!(
                shadows::any(args),
                "an attacker who knows the endpoint's defence needs its --centroids too, to undo it; without them \
                 --defence serves shadow models alone (--shadows, --shadow-model, --transfer-shadow)"
            );
            (Inversion::as_is(), None)
        }
    };
    Ok(Known { inversion, config: Some(config), n_classes })
}
