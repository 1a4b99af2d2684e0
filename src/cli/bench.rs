//! `sordino bench`: puts a load on a running endpoint and reports latency percentiles and throughput.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::tls::TlsArgs;
use crate::client::ClientError;
use crate::client::endpoint::{Endpoint, Reach};
use crate::client::http::{Call, Connection};
use crate::client::load::{self, LoadConfig, LoadPlan, Pace, Progress};
use crate::client::payload::{self, Encoding, ModelInputs};
use crate::client::report::LoadReport;
use crate::pipeline::bundled;

/// Different requests that are sent in turn.
const N_CALLS: usize = 16;

/// Puts a load on a running endpoint and reports latency percentiles and throughput.
///
/// Requests are made up from the model's own metadata (Open Inference Protocol, REST or gRPC). With --body they are files, as
/// they are, so that any server can be asked: FastAPI, TensorFlow Serving's and KServe's `:predict`.
///
/// Without --rate each connection sends its next request when the last answer has come (closed loop). With --rate
/// requests go out when they are due, and latency counts from that moment (open loop).
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Address of the endpoint, http:// or https://; a loopback address unless --allow-remote is given.
    #[arg(long, default_value = "http://127.0.0.1:8000")]
    url: String,
    /// Model to ask.
    #[arg(long, default_value = bundled::NAME)]
    model: String,
    /// How tensors travel, in both directions: json, binary or grpc.
    #[arg(long, default_value = "binary")]
    encoding: Encoding,
    /// Send this file as the request's body (with grpc: as its message), and ask for no metadata. May be repeated: the
    /// files are sent in turn.
    #[arg(long, value_name = "FILE")]
    body: Vec<PathBuf>,
    /// Where to send the files of --body [default: the model's inference].
    #[arg(long, value_name = "PATH", requires = "body")]
    path: Option<String>,
    /// A header of the requests with --body, such as 'Inference-Header-Content-Length: 121'. May be repeated.
    #[arg(long, value_name = "NAME: VALUE", requires = "body", value_parser = header)]
    header: Vec<(HeaderName, HeaderValue)>,
    /// Rows in each request.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    rows: u32,
    /// Connections, each with one request under way at most.
    #[arg(long, short = 'c', default_value_t = 1)]
    concurrency: usize,
    /// Requests per second: an open loop instead of a closed one.
    #[arg(long)]
    rate: Option<f64>,
    /// Seconds to measure.
    #[arg(long, default_value_t = 10.0, value_parser = seconds)]
    duration: f64,
    /// Stop earlier, after so many measured requests.
    #[arg(long)]
    requests: Option<u64>,
    /// Seconds of the same load before the measurement.
    #[arg(long, default_value_t = 1.0, value_parser = seconds)]
    warmup: f64,
    /// Seconds to wait for one answer.
    #[arg(long, default_value_t = 10.0, value_parser = seconds)]
    timeout: f64,
    /// Threads of the load generator.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Seed of the random inputs.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write the whole distribution of the latency to this file, in the text form of HdrHistogram's plotter.
    #[arg(long, value_name = "FILE")]
    histogram: Option<PathBuf>,
    /// Print JSON on standard output instead of text.
    #[arg(long)]
    json: bool,
    /// Allow an address off this machine: you have the consent of whoever runs it.
    #[arg(long)]
    allow_remote: bool,
    #[command(flatten)]
    tls: TlsArgs,
}

fn seconds(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "expected a number of seconds".to_owned())?;
    if (0.0..=3600.0).contains(&value) { Ok(value) } else { Err(format!("expected 0 to 3600 seconds, got {value}")) }
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("expected NAME: VALUE")?;
    let name = name.trim().parse().map_err(|_| "expected the name of a header before the colon")?;
    let value = value.trim().parse().map_err(|_| "expected the value of a header behind the colon")?;
    Ok((name, value))
}

/// The JSON form of a result: what was asked for beside what was measured.
#[derive(Serialize)]
struct Record<'a> {
    format: &'static str,
    format_version: u32,
    sordino_version: &'static str,
    url: &'a str,
    model: &'a str,
    encoding: Encoding,
    rows: u32,
    concurrency: usize,
    rate: Option<f64>,
    warmup_s: f64,
    seed: u64,
    request_bytes: usize,
    #[serde(flatten)]
    report: LoadReport,
}

/// Runs the command. Exit code 1 when not one request was answered with 2xx.
///
/// # Errors
///
/// When the settings are out of bounds, the endpoint cannot be reached, or the model's metadata cannot be met.
pub fn run(args: &Args) -> Result<ExitCode> {
    let plan = LoadPlan::new(args.load_config())?;
    let reach = if args.allow_remote { Reach::Anywhere } else { Reach::Loopback };
    let endpoint = Endpoint::with_tls(&args.url, reach, &args.tls.settings(&[&args.url])?)?;
    let calls = make_calls(args, &endpoint)?;
    let request_bytes = calls[0].body_len();
    let rows = args.rows as usize;
    let report = watch(&plan, |progress| load::run(&plan, &endpoint, calls, rows, progress))?;
    if let Some(file) = &args.histogram {
        std::fs::write(file, report.hgrm()).with_context(|| format!("cannot write {}", file.display()))?;
    }
    if args.json {
        let record = Record {
            format: "sordino.load",
            format_version: 1,
            sordino_version: env!("CARGO_PKG_VERSION"),
            url: &args.url,
            model: &args.model,
            encoding: args.encoding,
            rows: args.rows,
            concurrency: args.concurrency,
            rate: args.rate,
            warmup_s: args.warmup,
            seed: args.seed,
            request_bytes,
            report: report.clone(),
        };
        println!("{}", serde_json::to_string_pretty(&record)?);
    } else {
        print!("{report}");
    }
    Ok(if report.n_ok > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Args {
    fn load_config(&self) -> LoadConfig {
        LoadConfig {
            n_connections: self.concurrency,
            n_threads: self.threads,
            pace: self.rate.map_or(Pace::Closed, |rate| Pace::Open { rate }),
            warmup: Duration::from_secs_f64(self.warmup),
            duration: Duration::from_secs_f64(self.duration),
            max_requests: self.requests,
            timeout: Duration::from_secs_f64(self.timeout),
        }
    }
}

/// The requests: files as they are, else made up.
fn make_calls(args: &Args, endpoint: &Endpoint) -> Result<Vec<Call>> {
    if args.body.is_empty() { made_up(args, endpoint) } else { given(args, endpoint) }
}

/// Asks the endpoint what the model takes, and makes requests of that form.
fn made_up(args: &Args, endpoint: &Endpoint) -> Result<Vec<Call>> {
    let call = payload::metadata_call(endpoint.path(), &args.model, args.encoding)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    let exchange = async { Connection::open_for(endpoint, call.wire()).await?.send(&call).await };
    let timeout = Duration::from_secs_f64(args.timeout);
    let reply = runtime.block_on(async { tokio::time::timeout(timeout, exchange).await });
    let reply = reply.map_err(|_| ClientError::Timeout(timeout))??;
    let reply = reply.expect_ok(&format!("the metadata of model {:?}", args.model))?;
    let inputs = ModelInputs::from_answer(&reply, args.encoding)?;
    Ok(inputs.calls((endpoint.path(), &args.model), args.encoding, args.rows as usize, N_CALLS, args.seed)?)
}

fn given(args: &Args, endpoint: &Endpoint) -> Result<Vec<Call>> {
    let path = match &args.path {
        Some(path) => format!("{}{path}", endpoint.path()),
        None => payload::infer_path(endpoint.path(), &args.model, args.encoding),
    };
    let headers = HeaderMap::from_iter(args.header.iter().cloned());
    ensure!(headers.is_empty() || args.encoding != Encoding::Grpc, "--header is not for --encoding grpc");
    let call = |file: &PathBuf| {
        let body = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        Ok(payload::given_call(&path, args.encoding, &headers, body.into())?)
    };
    args.body.iter().map(call).collect()
}

/// Runs `load` on a thread of its own and draws its progress on standard error, where that is a terminal.
fn watch<T: Send>(plan: &LoadPlan, load: impl FnOnce(Arc<Progress>) -> Result<T, ClientError> + Send) -> Result<T> {
    let whole = plan.whole_duration();
    let bar = ProgressBar::new(u64::try_from(whole.as_millis()).unwrap_or(u64::MAX));
    let style = ProgressStyle::with_template("{bar:30} {msg} {eta} left").context("the bar's template")?;
    bar.set_style(style);
    let progress = Arc::new(Progress::default());
    let result = thread::scope(|scope| {
        let load = scope.spawn({
            let progress = Arc::clone(&progress);
            move || load(progress)
        });
        let start = std::time::Instant::now();
        while !load.is_finished() {
            let elapsed = start.elapsed();
            bar.set_position(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX));
            bar.set_message(format!("{} requests", progress.n_done()));
            thread::sleep(Duration::from_millis(100));
        }
        load.join()
    });
    bar.finish_and_clear();
    result.map_err(|_| anyhow::anyhow!("the load ended early"))?.map_err(Into::into)
}
