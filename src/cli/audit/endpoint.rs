//! An audit of a running endpoint.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use super::record::{command_line, commit, machine};
use super::{Args, Asker, Case, above_zero, read_defence, score_kind};
use crate::artifact::centroids;
use crate::audit::invert::Inversion;
use crate::audit::report::{Figure, Origin, SourceRecord};
use crate::audit::source::endpoint::{Asked, Manners, Remote};
use crate::client::endpoint::{Endpoint, Reach};
use crate::client::infer::RemoteModel;
use crate::data::Dataset;
use crate::defence::ScoreKind;

/// How a running endpoint is asked.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Auditing an endpoint")]
pub(super) struct EndpointArgs {
    /// Audit a running endpoint of the Open Inference Protocol (Sordino, Triton, KServe …) by its http:// URL. With one
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
}

/// Asks the endpoint for all rows.
///
/// # Errors
/// When it cannot be asked, or its model, the data and the sides do not belong together.
pub(super) fn case(args: &Args, url: &str) -> anyhow::Result<Case> {
    let of = &args.endpoint;
    let source = args.data.as_ref().context("--endpoint needs --data, the rows to ask about")?;
    let inversion = inversion(args)?;
    let dataset = Dataset::load(source)?;
    let (sides, split) =
        args.sides(Some(&dataset))?.context("--endpoint needs --split, or --members and --non-members")?;

    let reach = if of.allow_remote { Reach::Anywhere } else { Reach::Loopback };
    let endpoint = Endpoint::parse(url, reach)?;
    let shown = format!("http://{}{}", endpoint.authority(), endpoint.path());
    let model = RemoteModel::new(endpoint, of.endpoint_model.as_deref(), Duration::from_secs(of.timeout.into()))?;
    let mut remote = Remote::connect(model, manners(args)).context(shown.clone())?;
    let bar = args.bar(sides.members().len() + sides.non_members().len(), "asking", "rows");
    let start = Instant::now();
    let asked = remote.ask_all(&dataset, &sides, inversion, &mut |n| bar.inc(n as u64));
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
    })
}

fn manners(args: &Args) -> Manners {
    let EndpointArgs { query_budget, rate, input, output, output_kind, .. } = &args.endpoint;
    Manners {
        batch_rows: args.batch_size as usize,
        query_budget: *query_budget,
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

/// What an attacker undoes who knows the endpoint's defence.
fn inversion(args: &Args) -> anyhow::Result<Inversion> {
    let (Some(path), [defence]) = (&args.centroids, args.defence.as_slice()) else {
        ensure!(
            args.defence.is_empty() && args.centroids.is_none(),
            "an attacker who knows the endpoint's defence needs both: one --defence and its --centroids"
        );
        return Ok(Inversion::as_is());
    };
    let (_, config) = read_defence(defence)?;
    let file = centroids::read(&super::read(path)?).with_context(|| path.display().to_string())?;
    Ok(Inversion::of(&config, &file.fitted))
}
