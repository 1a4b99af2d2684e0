//! `sordino serve`: from flags and a file to a running server.

mod batching;
mod config;
mod own_tls;
mod repository;
mod section;
mod upstream;
mod upstream_tls;

use std::io::{IsTerminal as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;

use self::batching::BatchingArgs;
use self::config::{LogSettings, Settings};
use self::own_tls::OwnTlsArgs;
use self::upstream::{KserveArgs, UpstreamArgs, UpstreamSettings};
use super::inspect::ScoreArgs;
use crate::artifact::centroids;
use crate::client::upstream::connect;
use crate::engine::RemoteEngine as _;
use crate::pipeline::{Parts, Pipeline, Preparation, Together, UpstreamParts, bundled};
use crate::protocol::ModelDescription;
use crate::server::{self, Ended, Listeners, Models, Shutdown};

/// Exit code for settings that are wrong.
const BAD_CONFIG: u8 = 2;
/// Exit code for a drain that ended before the requests did.
const CUT: u8 = 3;

/// Serve classifiers with defended scores: the Open Inference Protocol v2 over REST and gRPC, and `:predict` as
/// TensorFlow Serving and KServe V1 speak it.
///
/// Without arguments the bundled classifier on 127.0.0.1:8000, REST and gRPC on one port, with metrics on 127.0.0.1:8002. No setting switches the
/// defence off; one that would leave rows as they are, or keep most of their own scores, is refused. A weak setting still
/// leaks: audit what you serve. Without a table `defence` in the configuration file the defence is the paper's
/// reweighting (w = 0.1), then the three largest probabilities.
///
/// Request parameters: `binary_data_output`, `binary_data`, `binary_data_size` and `classification` are served; `timeout`,
/// `priority` and `content_type` are accepted and ignored; every other parameter, also one of your own, is refused.
///
/// Exit codes: 0 after a drain, 1 when it cannot start, 2 when the settings are wrong, 3 when requests were cut at the
/// end of the drain or by a second signal.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The ONNX file; none serves the bundled classifier.
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// The centroid file that was built for this model.
    #[arg(long, value_name = "FILE")]
    centroids: Option<PathBuf>,
    /// The model's name in URLs [default: the file's name]
    #[arg(long)]
    name: Option<String>,
    /// The model's version in URLs [default: 1]
    #[arg(long, value_name = "VERSION")]
    model_version: Option<String>,
    #[command(flatten)]
    scores: ScoreArgs,
    #[command(flatten)]
    upstream: UpstreamArgs,
    #[command(flatten)]
    kserve: KserveArgs,
    /// A TOML file with the tables server, tls, compute, batching, model, upstream, defence and log; flags win over it. Paths in it are
    /// taken from its own folder.
    #[arg(long, value_name = "FILE", env = "SORDINO_CONFIG")]
    config: Option<PathBuf>,
    /// Where to listen [default: 127.0.0.1:8000]
    #[arg(long, value_name = "ADDRESS", env = "SORDINO_LISTEN")]
    listen: Option<String>,
    /// A further address for clients that expect gRPC on a port of its own, such as 127.0.0.1:8001, or `off`; the address
    /// above speaks gRPC too [default: off]
    #[arg(long, value_name = "ADDRESS", env = "SORDINO_GRPC_LISTEN")]
    grpc_listen: Option<String>,
    /// Show clients counts and times of each model, which load tools ask for. Exact times are a side channel; the
    /// operator's address shows them always.
    #[arg(long)]
    statistics: bool,
    /// A folder of models in place of one: DIR/MODEL/VERSION/model.onnx with centroids.safetensors beside it, and
    /// DIR/MODEL/sordino.toml for the model's own settings
    #[arg(long, value_name = "DIR")]
    repository: Option<PathBuf>,
    /// Let clients list, load and unload the models of the repository. Whoever may call the server may then take a model
    /// out of service.
    #[arg(long)]
    allow_repository_control: bool,
    /// Where to serve metrics and health to the operator, or `off` [default: 127.0.0.1:8002]
    #[arg(long, value_name = "ADDRESS", env = "SORDINO_METRICS_LISTEN")]
    metrics_listen: Option<String>,
    /// Compute threads [default: one per core]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Requests that may wait for a compute thread [default: 16 per thread]
    #[arg(long, value_name = "N")]
    queue: Option<usize>,
    /// How long a request may wait for a compute thread [default: 5]
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    queue_timeout_seconds: Option<f64>,
    /// Do not run zeros through a model before it is said to be ready
    #[arg(long)]
    no_warm_up: bool,
    /// I/O threads [default: one per two cores, at most 8]
    #[arg(long, value_name = "N")]
    io_threads: Option<usize>,
    /// Largest request body [default: 16777216]
    #[arg(long, value_name = "BYTES")]
    max_body_bytes: Option<usize>,
    /// Most rows of one request [default: 1024]
    #[arg(long, value_name = "N")]
    max_rows: Option<usize>,
    /// Open connections [default: 1024]
    #[arg(long, value_name = "N")]
    max_connections: Option<usize>,
    /// How long a request body may take [default: 30]
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    body_timeout_seconds: Option<f64>,
    /// After SIGTERM, how long to go on accepting while not ready [default: 0]
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    lame_duck_seconds: Option<f64>,
    /// After that, how long running requests may take [default: 20]
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    drain_seconds: Option<f64>,
    #[command(flatten)]
    batching: BatchingArgs,
    #[command(flatten)]
    tls: OwnTlsArgs,
    /// text or json [default: text]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// error, warn, info, debug (a line per request) or trace [default: info]
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
}

/// Whether a text is a settings file that `serve --config` takes, but for the files that it names.
///
/// # Errors
/// Every mistake there is, one sentence each.
pub fn check_settings(text: &str) -> Result<(), Vec<String>> {
    Settings::of_text(text).map(drop)
}

/// Runs the command until it is told to stop.
///
/// # Errors
/// When the server cannot start: a file that cannot be read, a model that cannot be loaded, an artifact of
/// another model, an address in use.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let settings = match Settings::read(args) {
        Ok(settings) => settings,
        Err(mistakes) => {
            let s = if mistakes.len() == 1 { "" } else { "s" };
            eprintln!("error: {} mistake{s} in the configuration:", mistakes.len());
            mistakes.iter().for_each(|mistake| eprintln!("  - {mistake}"));
            return Ok(ExitCode::from(BAD_CONFIG));
        }
    };
    start_log(&settings.log);
    // Before a model is loaded: what is wrong with a certificate is told at once.
    #[cfg(feature = "tls")]
    let tls = settings.tls.as_ref().map(own_tls::OwnTls::load).transpose()?;
    let runtime = io_runtime(settings.io_threads).context("cannot start the I/O threads")?;
    let (models, first) = match &settings.upstream {
        None => models(&settings)?,
        Some(upstream) => {
            let pipeline = runtime.block_on(build_upstream(&settings, upstream))?;
            (Arc::new(pipeline).into(), settings.name.clone())
        }
    };
    let ended = runtime.block_on(async {
        let shutdown = Shutdown::on_signals().context("cannot listen for signals")?;
        let listeners = Listeners {
            service: bind(settings.listen)?,
            grpc: settings.grpc_listen.map(bind).transpose()?,
            metrics: settings.metrics_listen.map(bind).transpose()?,
        };
        let line = announcement(&listeners, settings.tls.is_some(), &first)?;
        let server = server::start(listeners, settings.server, models)?;
        #[cfg(feature = "tls")]
        let server = match tls {
            Some(tls) => server.with_tls(tls),
            None => server,
        };
        // A closed stdout is no reason not to serve.
        let mut out = std::io::stdout();
        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
        Ok::<_, anyhow::Error>(server.serve(shutdown).await)
    })?;
    runtime.shutdown_background();
    Ok(match ended {
        Ended::Drained => {
            tracing::info!("drained, bye");
            ExitCode::SUCCESS
        }
        Ended::Cut { n_connections } => {
            tracing::warn!(n_connections, "left with open connections");
            ExitCode::from(CUT)
        }
    })
}

/// What serves connections. One thread needs nobody to share its work with, and is the one that is here already.
fn io_runtime(threads: usize) -> std::io::Result<tokio::runtime::Runtime> {
    let mut builder = match threads {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    builder.worker_threads(threads).thread_name("sordino-io").enable_all().build()
}

/// Loads what is to be served, with the name for the start line.
fn models(settings: &Settings) -> anyhow::Result<(Models, String)> {
    let Some(root) = &settings.repository else {
        return Ok((Arc::new(build(settings)?).into(), settings.name.clone()));
    };
    let folder = Arc::new(repository::Folder::open(root, settings)?);
    let pipelines = folder.load_all()?;
    let first = pipelines.first().map(|pipeline| pipeline.description().name.clone());
    let first = first.with_context(|| format!("{} holds no model (MODEL/VERSION/model.onnx)", root.display()))?;
    Ok((Models::new(pipelines).with_repository(folder), first))
}

/// Loads the model and builds what belongs to it.
fn build(settings: &Settings) -> anyhow::Result<Pipeline> {
    let read = |path: &Path| std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let (model, centroids, shown) = match &settings.model {
        None => (bundled::MODEL.to_vec(), Some(bundled::CENTROIDS.to_vec()), "the bundled classifier".to_owned()),
        Some(files) => {
            let centroids = files.centroids.as_deref().map(read).transpose()?;
            let beside = files.centroids.as_ref().map(|path| format!(" with {}", path.display()));
            (read(&files.onnx)?, centroids, format!("{}{}", files.onnx.display(), beside.unwrap_or_default()))
        }
    };
    let parts = Parts {
        name: &settings.name,
        version: &settings.version,
        model: &model,
        centroids: centroids.as_deref(),
        load: settings.load.clone(),
        defence: settings.defence.clone(),
    };
    let pipeline = parts.assemble().and_then(|pipeline| pipeline.prepared(&settings.preparation));
    let pipeline = pipeline.map_err(|error| anyhow::anyhow!("cannot serve {shown}: {error}"))?;
    let pipeline = pipeline.with_max_rows(settings.max_rows);
    warn_alone(&pipeline, &settings.preparation);
    loaded(settings, &pipeline);
    Ok(pipeline)
}

fn loaded(settings: &Settings, pipeline: &Pipeline) {
    tracing::info!(
        model = settings.name,
        version = settings.version,
        sha256 = %pipeline.model_digest(),
        scores = pipeline.spec().how_decided,
        defence = settings.defence.summary(),
        "loaded"
    );
}

/// Says so where batches are asked for and the model's rows cannot be put together.
fn warn_alone(pipeline: &Pipeline, preparation: &Preparation) {
    if !preparation.batches.is_empty() && pipeline.together() == Together::Never {
        let ModelDescription { name, version, .. } = pipeline.description();
        tracing::warn!(
            model = name,
            version,
            "its requests run one by one: in a batch its rows are not answered to the bit as they are alone"
        );
    }
}

/// Waits for the server of the model and builds what belongs to it. Needs a runtime.
async fn build_upstream(settings: &Settings, upstream: &UpstreamSettings) -> anyhow::Result<Pipeline> {
    let mut config = upstream.config.clone();
    config.tls = upstream.tls.load()?;
    let file = match &upstream.centroids {
        None => None,
        Some(path) => {
            let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
            Some(centroids::read(&bytes).with_context(|| path.display().to_string())?)
        }
    };
    if let Some(file) = &file {
        config.declared.n_classes.get_or_insert(file.fitted.n_classes());
    }
    let engine = connect(config).await.context("cannot serve the upstream's model")?;
    if let (Some(file), None) = (&file, upstream.model_sha256) {
        let sha256 = file.metadata.model_sha256;
        tracing::warn!(%sha256, "that the upstream runs the model of the centroid file is taken on trust");
    }
    for spec in engine.passed() {
        let (output, shape) = (&spec.name, spec.shape_text());
        tracing::warn!(output, shape, "passed on undefended: its rule says that you vouch that it carries no scores");
    }
    let parts = UpstreamParts {
        name: &settings.name,
        version: &settings.version,
        engine,
        model: upstream.model_sha256,
        centroids: file,
        defence: settings.defence.clone(),
    };
    let pipeline = parts.assemble().context("cannot serve the upstream's model")?;
    let pipeline = pipeline.with_max_rows(settings.max_rows);
    loaded(settings, &pipeline);
    Ok(pipeline)
}

fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))
}

/// One line for the person who started it.
fn announcement(listeners: &Listeners, is_tls: bool, name: &str) -> anyhow::Result<String> {
    let scheme = if is_tls { "https" } else { "http" };
    let address = listeners.service.local_addr()?;
    let metrics = match &listeners.metrics {
        Some(listener) => format!("http://{}/metrics", listener.local_addr()?),
        None => "off".to_owned(),
    };
    Ok(format!(
        "sordino {} serves '{name}' on {scheme}://{address} (metrics: {metrics}); try: curl {scheme}://{address}/v2/models/{name}",
        env!("CARGO_PKG_VERSION")
    ))
}

/// Logs go to stderr, and those of the libraries stay out: they may hold bytes of a client.
fn start_log(log: &LogSettings) {
    use tracing_subscriber::filter::{LevelFilter, Targets};
    use tracing_subscriber::layer::SubscriberExt as _;
    use tracing_subscriber::util::SubscriberInitExt as _;
    let filter = Targets::new()
        .with_target(env!("CARGO_CRATE_NAME"), log.level)
        .with_default(LevelFilter::ERROR.min(LevelFilter::from_level(log.level)));
    let layer =
        tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    let registry = tracing_subscriber::registry().with(filter);
    // Failing means that a subscriber is there already, as in a test.
    let _ = if log.json { registry.with(layer.json()).try_init() } else { registry.with(layer).try_init() };
}
