//! The only place that listens: sockets, admission, deadlines, compute threads, metrics.
//!
//! Bytes live here, values do not: a request's body goes to a compute thread as it came, and an answer comes
//! back as it will be sent. What a request means is [`protocol`](crate::protocol)'s business, what happens to
//! its scores is [`pipeline`](crate::pipeline)'s. Logs and metrics are about work: they hold routes, outcomes
//! and durations, never inputs, scores, or words of a client other than a plain request id.
//!
//! ```text
//!  accept ──▶ head ──▶ route ──▶ body (limit, deadline, budget) ──▶ queue ──▶ compute thread ──▶ response
//!    │          │        │                   │                        │             │
//!   503        close   404 405          413 408 503                503 504       400 500 502
//! ```
//!
//! REST and gRPC share ports, connections, limits, threads and metrics: a gRPC call is told by its content type.
//!
//! [`run`] takes listeners that are already bound, so that a test can bind port 0.

mod admin;
mod body;
mod busy;
mod coding;
mod compute;
mod config;
mod connection;
mod gather;
mod grpc;
mod handler;
mod io;
mod metrics;
mod models;
mod quick;
mod rest;
mod route;
mod shutdown;
mod statistics;
mod team;
mod trace;
mod upstream;

use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use self::admin::Admin;
use self::body::{BodyLimits, Budget};
use self::busy::BusyPoll;
use self::compute::{Compute, Threads};
use self::connection::{Activity, attend};
use self::grpc::Services;
use self::handler::{RequestIds, Shared, handle};
use self::io::TimedIo;
use self::metrics::Metrics;
use crate::protocol::reports::Extensions;

pub use self::config::{Batching, ComputeConfig, Config};
pub use self::models::{Models, Repository};
pub use self::shutdown::Shutdown;

/// Largest head of a request, in bytes; over it, 431.
const MAX_HEAD_BYTES: usize = 32 << 10;
/// Concurrent requests on one HTTP/2 connection.
const MAX_STREAMS: u32 = 128;
/// A stream may stay without a message so many times as long as a connection may without a request.
const STREAM_PATIENCE: u32 = 10;
/// Pause after a failed accept, for instance when file descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Failed accepts are logged no more often than this.
const ACCEPT_WARNINGS: Duration = Duration::from_secs(10);
/// Connections that are taken from the system's queue after the last regular accept.
const MAX_BACKLOG: usize = 4096;

/// Sockets that are already bound.
#[derive(Debug)]
pub struct Listeners {
    /// REST and gRPC, told apart by what a client sends.
    pub service: StdListener,
    /// A further address for the same, for clients that expect gRPC on a port of its own; `None`: there is none.
    pub grpc: Option<StdListener>,
    /// Metrics and health for the operator, on a thread of their own; `None`: not served.
    pub metrics: Option<StdListener>,
}

/// How a server came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Every connection was closed in order.
    Drained,
    /// The deadline, or a second signal, came first; so many connections were cut.
    Cut {
        /// Connections that were still open.
        n_connections: usize,
    },
}

/// Why a server did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// A listener cannot be used.
    #[error("the {which} listener cannot be used: {source}")]
    Listener {
        /// `service`, `grpc` or `metrics`.
        which: &'static str,
        /// What the system says.
        source: std::io::Error,
    },
    /// The system gives no thread.
    #[error("a thread cannot be started: {0}")]
    Thread(std::io::Error),
    /// A metric cannot be registered.
    #[error("metrics cannot be registered: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// Serves `models`, or one pipeline, until `shutdown` says otherwise: [`start`] and [`Server::serve`].
///
/// # Errors
/// [`StartError`], before the first connection is accepted.
pub async fn run(
    listeners: Listeners,
    config: Config,
    models: impl Into<Models>,
    shutdown: Shutdown,
) -> Result<Ended, StartError> {
    Ok(start(listeners, config, models)?.serve(shutdown).await)
}

/// A server whose threads stand and whose metrics are served, about to accept.
pub struct Server {
    listeners: Vec<TcpListener>,
    config: Config,
    shared: Arc<Shared>,
    threads: Threads,
    _admin: Option<Admin>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Server")
    }
}

/// Starts the threads of a server. Needs a runtime.
///
/// # Errors
/// [`StartError`].
pub fn start(listeners: Listeners, config: Config, models: impl Into<Models>) -> Result<Server, StartError> {
    let models = models.into();
    let mut service = Vec::new();
    for (which, listener) in [("service", Some(listeners.service)), ("grpc", listeners.grpc)] {
        let listener = listener.map(into_tokio).transpose();
        service.extend(listener.map_err(|source| StartError::Listener { which, source })?);
    }
    let metrics = Arc::new(Metrics::new(&models.all(), config.compute.queue)?);
    let (compute, threads) = Compute::start(&config.compute, &metrics).map_err(StartError::Thread)?;
    let shared = Arc::new(Shared {
        models,
        compute,
        limits: BodyLimits {
            max_bytes: config.max_body_bytes,
            deadline: config.body_timeout,
            window: config.body_window,
            budget: Budget::new(config.max_buffered_bytes, config.max_body_bytes),
        },
        metrics,
        draining: watch::Sender::new(false),
        extensions: Extensions { statistics: config.statistics, repository: config.repository_control },
        services: Services::new(),
        stream_idle: config.header_timeout * STREAM_PATIENCE,
        write_timeout: config.write_timeout,
        ids: RequestIds::new(),
        busy: BusyPoll::new(config.busy_poll),
    });
    let _admin = listeners.metrics.map(|listener| admin::start(listener, &shared)).transpose()?;
    Ok(Server { listeners: service, config, shared, threads, _admin })
}

impl Server {
    /// Serves until `shutdown` says otherwise, then drains: readiness turns 503 first, the listener closes after
    /// [`Config::lame_duck`], and running requests have [`Config::drain`] to end.
    pub async fn serve(self, mut shutdown: Shutdown) -> Ended {
        let Self { listeners, config, shared, threads, _admin } = self;
        let mut connections = Connections::new(&config, &shared);
        let in_flight = shared.metrics.in_flight.clone();
        let awake = tokio::spawn(Arc::clone(&shared.busy).keep_awake(move || in_flight.get() <= 1)).abort_handle();
        tokio::select! {
            () = connections.accept(&listeners) => {}
            () = shutdown.drain() => {}
        }
        shared.draining.send_replace(true);
        tracing::info!("not ready any more, draining");
        let lame_duck = tokio::time::sleep(config.lame_duck);
        tokio::select! {
            () = connections.accept(&listeners) => {}
            () = lame_duck => {}
            () = shutdown.now() => {}
        }
        listeners.into_iter().for_each(|listener| connections.accept_backlog(listener));
        let deadline = Instant::now() + config.drain;
        let ended = connections.drain(deadline, &mut shutdown).await;
        awake.abort();
        drop(shared);
        // The last sender of the queue is gone: a thread ends with the job at hand, which may be a client's that left.
        tokio::select! {
            () = finished(&threads) => {}
            () = sleep_until(deadline) => tracing::warn!("left with a busy compute thread"),
            () = shutdown.now() => {}
        }
        ended
    }
}

/// Waits for threads without blocking the runtime; they are asked rarely, since this is the end.
async fn finished(threads: &Threads) {
    while !threads.iter().all(std::thread::JoinHandle::is_finished) {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// The next connection of whichever listener has one.
async fn any_of(listeners: &[TcpListener]) -> std::io::Result<(TcpStream, std::net::SocketAddr)> {
    std::future::poll_fn(|cx| {
        let ready = listeners.iter().map(|listener| listener.poll_accept(cx)).find(std::task::Poll::is_ready);
        ready.unwrap_or(std::task::Poll::Pending)
    })
    .await
}

fn into_tokio(listener: StdListener) -> std::io::Result<TcpListener> {
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// The open connections of a server.
struct Connections {
    shared: Arc<Shared>,
    builder: auto::Builder<TokioExecutor>,
    /// Says that the server drains.
    stop: watch::Sender<bool>,
    slots: Arc<Semaphore>,
    open: JoinSet<()>,
    /// For the first bytes of a connection, and for its next request.
    idle_timeout: Duration,
    write_timeout: Duration,
}

impl Connections {
    fn new(config: &Config, shared: &Arc<Shared>) -> Self {
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(config.header_timeout)
            .max_buf_size(MAX_HEAD_BYTES);
        builder
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(config.header_timeout)
            .keep_alive_timeout(config.header_timeout)
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(u32::try_from(MAX_HEAD_BYTES).unwrap_or(u32::MAX));
        Self {
            shared: Arc::clone(shared),
            builder,
            stop: watch::Sender::new(false),
            slots: Arc::new(Semaphore::new(config.max_connections.min(Semaphore::MAX_PERMITS))),
            open: JoinSet::new(),
            idle_timeout: config.header_timeout,
            write_timeout: config.write_timeout,
        }
    }

    /// Accepts for ever.
    async fn accept(&mut self, listeners: &[TcpListener]) {
        let mut warned: Option<Instant> = None;
        loop {
            tokio::select! {
                accepted = any_of(listeners) => match accepted {
                    Ok((stream, _)) => self.admit(stream),
                    Err(error) => {
                        if warned.is_none_or(|warned| warned.elapsed() >= ACCEPT_WARNINGS) {
                            tracing::warn!(%error, "connections cannot be accepted");
                            warned = Some(Instant::now());
                        }
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(_) = self.open.join_next(), if !self.open.is_empty() => {}
            }
        }
    }

    /// Closes the listener, after the connections that the system has accepted for it.
    fn accept_backlog(&mut self, listener: TcpListener) {
        let Ok(listener) = listener.into_std() else { return };
        for _ in 0..MAX_BACKLOG {
            let Ok((stream, _)) = listener.accept() else { return };
            if stream.set_nonblocking(true).is_ok()
                && let Ok(stream) = TcpStream::from_std(stream)
            {
                self.admit(stream);
            }
        }
    }

    fn admit(&mut self, stream: TcpStream) {
        match Arc::clone(&self.slots).try_acquire_owned() {
            Ok(slot) => self.serve(stream, slot),
            Err(_) => {
                self.shared.metrics.connections_refused.inc();
                turn_away(stream);
            }
        }
    }

    fn serve(&mut self, stream: TcpStream, slot: OwnedSemaphorePermit) {
        // A small answer must not wait for the acknowledgement of the one before; without it, it is only slower.
        let _ = stream.set_nodelay(true);
        let io = TokioIo::new(TimedIo::new(stream, self.idle_timeout, self.write_timeout));
        let shared = Arc::clone(&self.shared);
        let metrics = Arc::clone(&shared.metrics);
        let activity = Activity::new();
        let requests = Arc::clone(&activity);
        let service = service_fn(move |request| handle(Arc::clone(&shared), Arc::clone(&requests), request));
        let connection = self.builder.serve_connection(io, service).into_owned();
        let (stop, idle) = (self.stop.subscribe(), self.idle_timeout);
        self.open.spawn(async move {
            metrics.connections.inc();
            if let Err(error) = attend(connection, &activity, stop, idle).await {
                tracing::debug!(error = %kind_of(error.as_ref()), "connection ended");
            }
            metrics.connections.dec();
            drop(slot);
        });
    }

    /// Lets what runs come to its end, until `deadline`, and cuts the rest.
    async fn drain(self, deadline: Instant, shutdown: &mut Shutdown) -> Ended {
        let Self { stop, mut open, .. } = self;
        stop.send_replace(true);
        tokio::select! {
            () = async { while open.join_next().await.is_some() {} } => {}
            () = sleep_until(deadline) => {}
            () = shutdown.now() => {}
        }
        while open.try_join_next().is_some() {}
        let n_connections = open.len();
        open.shutdown().await;
        if n_connections == 0 { Ended::Drained } else { Ended::Cut { n_connections } }
    }
}

/// What sort of error ended a connection: the library's words, none of the client's.
fn kind_of(error: &(dyn std::error::Error + 'static)) -> String {
    error.downcast_ref::<hyper::Error>().map_or_else(|| "i/o".to_owned(), ToString::to_string)
}

/// Answers a connection over the limit without reading from it.
fn turn_away(stream: TcpStream) {
    use std::io::Write as _;
    const BODY: &str = "{\"error\":\"too many connections; try again later\"}";
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{BODY}",
        BODY.len()
    );
    if let Ok(mut stream) = stream.into_std() {
        // Best effort, without waiting: the socket is non-blocking and its buffer empty.
        let _ = stream.write(answer.as_bytes());
    }
}
