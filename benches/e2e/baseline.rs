//! The two things that nobody can do without: the model itself, and an HTTP server that only hands bytes over.

use std::convert::Infallible;
use std::io::Cursor;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use sordino::client::endpoint::{Endpoint, Reach};
use sordino::client::http::{self, Connection, INFERENCE_HEADER_LENGTH, Reply};
use sordino::client::payload::ModelInputs;
use sordino::client::report::Latency;
use sordino::pipeline::bundled;
use tract_onnx::prelude::*;

use super::child::Server;

/// The bundled classifier on tract and nothing else: one row, shapes known when the plan was made.
pub(crate) struct Tract {
    plan: Arc<TypedRunnableModel>,
    row: TValue,
}

impl Tract {
    pub(crate) fn load() -> Result<Self> {
        let shape = [1_usize, 1, 28, 28];
        let plan = tract_onnx::onnx()
            .with_ignore_output_shapes(true)
            .with_ignore_value_info(true)
            .model_for_read(&mut Cursor::new(bundled::MODEL))?
            .with_input_fact(0, InferenceFact::dt_shape(f32::datum_type(), shape))?
            .into_optimized()?
            .into_runnable()?;
        let pixels = tract_onnx::prelude::tract_ndarray::Array4::from_shape_fn(shape, |(_, _, y, x)| {
            ((y * 28 + x) % 255) as f32 / 255.0
        });
        let row = Tensor::from(pixels).into_tvalue();
        Ok(Self { plan, row })
    }

    /// Runs the model over and over, with the latency of each run.
    pub(crate) fn measure(&self, time: Duration) -> Result<Latency> {
        let warm = Instant::now() + time / 10;
        while Instant::now() < warm {
            self.plan.run(tvec!(self.row.clone()))?;
        }
        let mut latency_ns = Histogram::<u64>::new(3)?;
        let end = Instant::now() + time;
        while Instant::now() < end {
            let start = Instant::now();
            std::hint::black_box(self.plan.run(tvec!(self.row.clone()))?);
            latency_ns.record(u64::try_from(start.elapsed().as_nanos())?)?;
        }
        Latency::of(&latency_ns).context("tract ran not once")
    }
}

/// A hyper server that reads a request to its end and answers with bytes that Sordino gave once, on a runtime like
/// the server's own.
pub(crate) struct Echo {
    url: String,
    _runtime: tokio::runtime::Runtime,
}

impl Echo {
    /// Asks `server` once for its metadata and for an answer in `encoding`, and answers so ever after.
    pub(crate) fn of(server: &Server, encoding: &str) -> Result<Self> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(server.io_threads()).enable_all().build()?;
        let (metadata, answer) = runtime.block_on(ask(server.url(), encoding))?;
        let answers = Arc::new((Answer::of(metadata)?, Answer::of(answer)?));
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))?;
        let url = format!("http://{}", listener.local_addr()?);
        runtime.spawn(serve(listener, answers));
        Ok(Self { url, _runtime: runtime })
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }
}

struct Answer {
    body: Bytes,
    media_type: HeaderValue,
    header_length: Option<HeaderValue>,
}

impl Answer {
    fn of(reply: Reply) -> Result<Self> {
        let media_type = reply.headers.get(CONTENT_TYPE).context("an answer without a media type")?.clone();
        let header_length = reply.headers.get(&INFERENCE_HEADER_LENGTH).cloned();
        Ok(Self { body: reply.body, media_type, header_length })
    }

    fn response(&self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(self.body.clone()));
        response.headers_mut().insert(CONTENT_TYPE, self.media_type.clone());
        if let Some(length) = &self.header_length {
            response.headers_mut().insert(INFERENCE_HEADER_LENGTH.clone(), length.clone());
        }
        response
    }
}

async fn ask(url: &str, encoding: &str) -> Result<(Reply, Reply)> {
    let endpoint = Endpoint::parse(url, Reach::Loopback)?;
    let path = format!("/v2/models/{}", bundled::NAME);
    let metadata = http::get(&endpoint, &path, Duration::from_secs(5)).await?.expect_ok(&path)?;
    let encoding = encoding.parse().map_err(anyhow::Error::msg)?;
    let calls = ModelInputs::from_metadata(&metadata)?.calls(("", bundled::NAME), encoding, 1, 1, 1)?;
    let answer = Connection::open(&endpoint).await?.send(&calls[0]).await?.expect_ok(&path)?;
    Ok((metadata, answer))
}

async fn serve(listener: tokio::net::TcpListener, answers: Arc<(Answer, Answer)>) {
    while let Ok((stream, _)) = listener.accept().await {
        stream.set_nodelay(true).ok();
        let answers = Arc::clone(&answers);
        let service = service_fn(move |request: Request<Incoming>| {
            let answers = Arc::clone(&answers);
            async move {
                let answer = if request.method() == Method::GET { &answers.0 } else { &answers.1 };
                request.into_body().collect().await.ok();
                Ok::<_, Infallible>(answer.response())
            }
        });
        tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}
