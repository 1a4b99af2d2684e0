//! What nobody can do without, for `benches/peers`: an ONNX model on plain tract, an HTTP server that only hands
//! bytes over, and a hop that only passes them on.
//!
//! ```text
//! bare tract --model model.onnx --shape 1,3,32,32 --seconds 1 --threads 2    # runs one row over and over
//! bare echo --listen 127.0.0.1:9000 --json answer.json --binary answer.bin --binary-header 121 --metadata m.json
//! bare hop --listen 127.0.0.1:9001 --to 127.0.0.1:9000
//! ```
//!
//! Figures come as one line of JSON on standard output. Nothing of Sordino runs here but the figures' own type.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;
use hdrhistogram::Histogram;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use sordino::client::http::INFERENCE_HEADER_LENGTH;
use sordino::client::report::Latency;
use tract_onnx::prelude::*;

/// Bare tract, a bare echo and a bare hop.
#[derive(Debug, Parser)]
enum Args {
    /// Run one row over and over.
    Tract(TractArgs),
    /// Answer every GET with the metadata, every POST with the answer, binary where the request is.
    Echo(EchoArgs),
    /// Pass every request on as it is, and its answer back.
    Hop(HopArgs),
}

#[derive(Debug, clap::Args)]
struct TractArgs {
    #[arg(long)]
    model: PathBuf,
    /// The shape of its input.
    #[arg(long, value_delimiter = ',')]
    shape: Vec<usize>,
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    #[arg(long, default_value_t = 1)]
    threads: usize,
}

#[derive(Debug, clap::Args)]
struct EchoArgs {
    #[arg(long)]
    listen: SocketAddr,
    #[arg(long)]
    json: PathBuf,
    #[arg(long)]
    binary: PathBuf,
    /// The length of the binary answer's JSON part.
    #[arg(long)]
    binary_header: usize,
    #[arg(long)]
    metadata: PathBuf,
    #[arg(long, default_value_t = 1)]
    threads: usize,
}

#[derive(Debug, clap::Args)]
struct HopArgs {
    #[arg(long)]
    listen: SocketAddr,
    #[arg(long)]
    to: SocketAddr,
}

fn main() -> Result<()> {
    // `cargo bench` adds a word of its own.
    match Args::parse_from(std::env::args().filter(|word| word != "--bench")) {
        Args::Tract(args) => tract(&args),
        Args::Echo(args) => echo(&args),
        Args::Hop(args) => hop(&args),
    }
}

fn tract(args: &TractArgs) -> Result<()> {
    let plan = tract_onnx::onnx()
        .with_ignore_output_shapes(true)
        .with_ignore_value_info(true)
        .model_for_path(&args.model)?
        .with_input_fact(0, InferenceFact::dt_shape(f32::datum_type(), &args.shape))?
        .into_optimized()?
        .into_runnable()?;
    let n_values: usize = args.shape.iter().product();
    let values: Vec<f32> = (0..n_values).map(|i| (i % 255) as f32 / 255.0).collect();
    let row = Tensor::from_shape(&args.shape, &values)?;
    let time = Duration::from_secs_f64(args.seconds);
    let together = Barrier::new(args.threads);
    let tallies: Vec<Result<(Histogram<u64>, Duration)>> = thread::scope(|scope| {
        let workers: Vec<_> = (0..args.threads)
            .map(|_| {
                let (plan, row, together) = (&plan, &row, &together);
                scope.spawn(move || measure(plan, row.clone().into_tvalue(), time, together))
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().expect("no worker panics")).collect()
    });
    let mut all = Histogram::<u64>::new(3)?;
    let mut rows_per_s = 0.0;
    for tally in tallies {
        let (latency_ns, elapsed) = tally?;
        rows_per_s += latency_ns.len() as f64 / elapsed.as_secs_f64();
        all.add(&latency_ns)?;
    }
    let latency = Latency::of(&all).context("tract ran not once")?;
    println!("{}", serde_json::json!({ "latency_us": latency, "rows_per_s": rows_per_s }));
    Ok(())
}

fn measure(
    plan: &Arc<TypedRunnableModel>,
    row: TValue,
    time: Duration,
    together: &Barrier,
) -> Result<(Histogram<u64>, Duration)> {
    let warm = Instant::now() + time / 10;
    while Instant::now() < warm {
        plan.run(tvec!(row.clone()))?;
    }
    together.wait();
    let mut latency_ns = Histogram::<u64>::new(3)?;
    let begin = Instant::now();
    while begin.elapsed() < time {
        let start = Instant::now();
        std::hint::black_box(plan.run(tvec!(row.clone()))?);
        latency_ns.record(u64::try_from(start.elapsed().as_nanos())?)?;
    }
    Ok((latency_ns, begin.elapsed()))
}

/// What is answered.
struct Answers {
    metadata: Bytes,
    json: Bytes,
    binary: Bytes,
    binary_header: HeaderValue,
}

fn echo(args: &EchoArgs) -> Result<()> {
    let read = |path: &PathBuf| std::fs::read(path).map(Bytes::from).with_context(|| format!("{}", path.display()));
    let answers = Arc::new(Answers {
        metadata: read(&args.metadata)?,
        json: read(&args.json)?,
        binary: read(&args.binary)?,
        binary_header: HeaderValue::from(args.binary_header),
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(args.threads).enable_all().build()?;
    // On a thread of the runtime, as a server's connections are.
    runtime.block_on(async { tokio::spawn(serve(args.listen, answers)).await })?
}

async fn serve(listen: SocketAddr, answers: Arc<Answers>) -> Result<()> {
    let listener = tokio::net::TcpListener::bind(listen).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true).ok();
        let answers = Arc::clone(&answers);
        let service = service_fn(move |request: Request<Incoming>| {
            let answers = Arc::clone(&answers);
            async move {
                let is_binary = request.headers().contains_key(&INFERENCE_HEADER_LENGTH);
                let is_get = request.method() == Method::GET;
                request.into_body().collect().await.ok();
                Ok::<_, Infallible>(answers.response(is_get, is_binary))
            }
        });
        tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

impl Answers {
    fn response(&self, is_get: bool, is_binary: bool) -> Response<Full<Bytes>> {
        let body = match (is_get, is_binary) {
            (true, _) => &self.metadata,
            (false, true) => &self.binary,
            (false, false) => &self.json,
        };
        let mut response = Response::new(Full::new(body.clone()));
        let headers = response.headers_mut();
        if is_binary {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
            headers.insert(INFERENCE_HEADER_LENGTH.clone(), self.binary_header.clone());
        } else {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        response
    }
}

/// Connections that carry no request now.
type Idle = Arc<Mutex<Vec<SendRequest<Full<Bytes>>>>>;

/// The plainest hop that the same HTTP library gives: one thread, kept connections, whole bodies.
fn hop(args: &HopArgs) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (listen, to, idle) = (args.listen, args.to, Idle::default());
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(listen).await?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true).ok();
            let idle = Arc::clone(&idle);
            let service = service_fn(move |request| pass_on(to, Arc::clone(&idle), request));
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    })
}

async fn pass_on(to: SocketAddr, idle: Idle, request: Request<Incoming>) -> Result<Response<Full<Bytes>>> {
    let kept = idle.lock().ok().and_then(|mut idle| idle.pop());
    let mut sender = match kept {
        Some(sender) => sender,
        None => {
            let stream = tokio::net::TcpStream::connect(to).await?;
            stream.set_nodelay(true)?;
            let (sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(driver);
            sender
        }
    };
    let (head, body) = request.into_parts();
    let body = Full::new(body.collect().await?.to_bytes());
    let (head, body) = sender.send_request(Request::from_parts(head, body)).await?.into_parts();
    let body = Full::new(body.collect().await?.to_bytes());
    sender.ready().await?;
    if let Ok(mut idle) = idle.lock() {
        idle.push(sender);
    }
    Ok(Response::from_parts(head, body))
}
