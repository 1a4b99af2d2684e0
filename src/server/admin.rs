//! Metrics and health for the operator: a listener, a thread and a runtime of their own, so that they answer
//! when the service is busy.

use std::convert::Infallible;
use std::net::TcpListener as StdListener;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::{Semaphore, oneshot};

use super::handler::Shared;
use super::{ACCEPT_PAUSE, StartError, into_tokio};
use crate::protocol::oip;

/// More scrapers than this at one time are closed unheard.
const MAX_CONNECTIONS: usize = 64;
/// How long a scraper may take over its request, or stay idle.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// Stops the thread when dropped.
#[derive(Debug)]
pub(super) struct Admin {
    _stop: oneshot::Sender<()>,
}

/// Starts the thread. It holds no more than a weak hand on the server.
pub(super) fn start(listener: StdListener, shared: &Arc<Shared>) -> Result<Admin, StartError> {
    let refused = |source| StartError::Listener { which: "metrics", source };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::Thread)?;
    let listener = {
        let _inside = runtime.enter();
        into_tokio(listener).map_err(refused)?
    };
    let shared = Arc::downgrade(shared);
    let (stop, stopped) = oneshot::channel::<()>();
    let serve = move || {
        runtime.block_on(async {
            tokio::select! {
                () = accept(&listener, &shared) => {}
                _ = stopped => {}
            }
        });
    };
    std::thread::Builder::new().name("sordino-metrics".to_owned()).spawn(serve).map_err(StartError::Thread)?;
    Ok(Admin { _stop: stop })
}

async fn accept(listener: &tokio::net::TcpListener, shared: &Weak<Shared>) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else { continue };
        let shared = Weak::clone(shared);
        let service = service_fn(move |request: Request<Incoming>| {
            let answer = answer(shared.upgrade().as_deref(), &request);
            async move { Ok::<_, Infallible>(answer) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service);
        tokio::spawn(async move {
            let _ = connection.await;
            drop(slot);
        });
    }
}

fn answer(shared: Option<&Shared>, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let ready = shared.is_some_and(Shared::is_ready);
    let (status, kind, body) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => {
            let text = shared.map(|shared| {
                let upstream = shared.pipeline.remote().map(|engine| engine.figures());
                shared.metrics.text(shared.compute.queue_depth(), upstream)
            });
            let text = text.unwrap_or_default();
            (StatusCode::OK, prometheus::TEXT_FORMAT, text)
        }
        (&Method::GET, "/health/live") => (StatusCode::OK, "application/json", oip::live_body()),
        (&Method::GET, "/health/ready") => {
            let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            (status, "application/json", oip::ready_body(ready))
        }
        (_, "/metrics" | "/health/live" | "/health/ready") => {
            let body = b"{\"error\":\"this path takes GET only\"}".to_vec();
            (StatusCode::METHOD_NOT_ALLOWED, "application/json", body)
        }
        _ => {
            let body = b"{\"error\":\"no such path; here are /metrics, /health/live and /health/ready\"}".to_vec();
            (StatusCode::NOT_FOUND, "application/json", body)
        }
    };
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
    }
    answer
}
