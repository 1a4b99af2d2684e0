//! A model in another server, dialled: pooled connections, several servers, deadlines, and what is done when one fails.
//!
//! What is sent and how an answer is read is `engine::upstream`'s. A request goes to the server with the fewest requests under
//! way. It is sent again, to another server or over a new connection, only where nothing of it can have arrived: no
//! connection came about, or an idle one turned out to be closed. A server with failures in a row is left out
//! (`breaker`), and asked for its health in the background. No redirect is followed, no compressed answer taken, and
//! nothing that a server says in an error is repeated.

mod breaker;
mod connection;
mod dialer;
mod grpc;
mod probe;
mod replica;
mod start;
mod target;

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Uri};
use tokio::time::timeout_at;

use self::connection::Reply;
use self::replica::{Counters, Lease, Replica};
use super::http::INFERENCE_HEADER_LENGTH;
use super::tls::TlsSettings;
use crate::defence::RawScores;
use crate::engine::upstream::{Declared, Dialect, Fault, Plan, WireReply, WireRequest};
use crate::engine::{CallContext, EngineError, ModelSpec, RemoteEngine, RemoteFigures, ReplyFuture};
use crate::protocol::Passed;
use crate::tensor::{Inputs, TensorSpec};

pub use self::start::{StartError, connect};
pub use self::target::Target;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");
const IDENTITY: HeaderValue = HeaderValue::from_static("identity");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The longest answer to a question about the server or the model.
const MAX_ABOUT_BYTES: usize = 1 << 20;

/// How other servers are asked.
#[derive(Debug, Clone, PartialEq)]
pub struct UpstreamConfig {
    /// The servers, at least one; all run the same model.
    pub targets: Vec<Target>,
    /// What the operator declares of the model.
    pub declared: Declared,
    /// How long a connection may take to come about.
    pub connect_timeout: Duration,
    /// How long a request may take, connection and repetitions included.
    pub timeout: Duration,
    /// How long to wait at start for a server that answers.
    pub start_timeout: Duration,
    /// How often each server is asked whether it is ready; zero: never.
    pub health_interval: Duration,
    /// How often a request that was not sent may be tried elsewhere.
    pub retries: u32,
    /// Requests under way to one server; over it, 503.
    pub max_in_flight: usize,
    /// Idle connections kept to one server.
    pub max_idle: usize,
    /// How long a connection may be idle and still be used.
    pub idle_timeout: Duration,
    /// Failures in a row after which a server is left out for a while.
    pub eject_after: u32,
    /// The longest answer that is read.
    pub max_answer_bytes: usize,
    /// What TLS needs, where the address of a server asks for it.
    pub tls: TlsSettings,
}

impl UpstreamConfig {
    /// The default settings for these servers.
    #[must_use]
    pub fn new(targets: Vec<Target>, declared: Declared) -> Self {
        Self {
            targets,
            declared,
            connect_timeout: Duration::from_secs(1),
            timeout: Duration::from_secs(30),
            start_timeout: Duration::from_secs(60),
            health_interval: Duration::from_secs(2),
            retries: 1,
            max_in_flight: 256,
            max_idle: 64,
            idle_timeout: Duration::from_secs(30),
            eject_after: 5,
            max_answer_bytes: 64 << 20,
            tls: TlsSettings::default(),
        }
    }
}

/// The servers of one model.
pub struct Upstream {
    plan: Plan,
    config: UpstreamConfig,
    replicas: Vec<Replica>,
    counters: Counters,
    /// Where the search for the least loaded begins.
    turn: AtomicUsize,
    /// Held while a failure is judged.
    judging: Mutex<()>,
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Upstream({}, {} servers)", self.plan.dialect(), self.replicas.len())
    }
}

impl Upstream {
    fn new(plan: Plan, config: UpstreamConfig) -> Result<Arc<Self>, Fault> {
        let replicas = config.targets.iter().map(|target| Replica::new(target.clone(), &config));
        let replicas = replicas.collect::<Result<_, _>>()?;
        let (counters, turn, judging) = (Counters::default(), AtomicUsize::new(0), Mutex::new(()));
        Ok(Arc::new(Self { plan, config, replicas, counters, turn, judging }))
    }

    /// The usable server with the fewest requests under way, but for those that were tried.
    fn choose(self: &Arc<Self>, tried: &[usize]) -> Result<(usize, Lease), Fault> {
        let now = Instant::now();
        let n = self.replicas.len();
        let first = if n > 1 { self.turn.fetch_add(1, Ordering::Relaxed) } else { 0 };
        let mut usable: Vec<usize> = (0..n)
            .map(|offset| (first.wrapping_add(offset)) % n)
            .filter(|index| !tried.contains(index) && self.replicas[*index].is_usable(now))
            .collect();
        if usable.is_empty() {
            return Err(Fault::Unreachable);
        }
        // Stable: of equals the one whose turn it is.
        usable.sort_by_key(|&index| self.replicas[index].in_flight());
        usable.iter().find_map(|&index| Some((index, Lease::take(self, index)?))).ok_or(Fault::Busy)
    }

    /// Sends a request to one server, or to the next where the first did not get it.
    async fn asked(self: Arc<Self>, request: WireRequest, call: CallContext) -> Result<WireReply, Fault> {
        let started = tokio::time::Instant::now();
        let own = started + self.config.timeout;
        let deadline = call.deadline.map(tokio::time::Instant::from).filter(|deadline| *deadline < own);
        let outgoing = Arc::new(Outgoing::new(&self.plan, request, call));
        let mut tried = Vec::new();
        let mut last = None;
        loop {
            let (index, lease) = self.choose(&tried).map_err(|fault| last.take().unwrap_or(fault))?;
            let attempt = Attempt::new(lease, Arc::clone(&outgoing), own);
            // The client's own haste says nothing about the server. Without any, the attempt itself ends in time.
            let outcome = match deadline {
                Some(deadline) => timeout_at(deadline, attempt).await.map_err(|_| Fault::Timeout)?,
                None => attempt.await,
            };
            match outcome {
                Ok(reply) => return Ok(reply),
                Err(fault) if fault.is_unsent() && tried.len() < self.config.retries as usize => {
                    tried.push(index);
                    self.counters.retries.fetch_add(1, Ordering::Relaxed);
                    last = Some(fault);
                }
                Err(fault) => return Err(fault),
            }
        }
    }

    /// Sends to one server, and takes the whole answer.
    async fn exchange(&self, replica: &Replica, outgoing: &Outgoing) -> Result<WireReply, Fault> {
        match (outgoing, &replica.line) {
            (Outgoing::Grpc { message, call }, Some(line)) => {
                let body = line.infer(message.clone(), call).await?;
                Ok(WireReply { body, ..WireReply::default() })
            }
            (Outgoing::Grpc { .. }, None) => Err(Fault::Inputs("this server is not asked over gRPC".to_owned())),
            (Outgoing::Rest(asked), _) => {
                let request = asked.request(&replica.target)?;
                let max_bytes = self.config.max_answer_bytes;
                let reply = replica.exchange(&self.config, &self.counters, max_bytes, request).await?;
                if reply.status == 200 { Ok(taken(reply)) } else { Err(Fault::Status(reply.status)) }
            }
        }
    }
}

/// Of an answer over REST what is read of it.
fn taken(reply: Reply) -> WireReply {
    let identity = |encoding: &HeaderValue| encoding.as_bytes().eq_ignore_ascii_case(b"identity");
    let header_length = reply.headers.get(&INFERENCE_HEADER_LENGTH).map(|value| value.to_str().unwrap_or(""));
    WireReply {
        header_length: header_length.map(str::to_owned),
        is_compressed: !reply.headers.get_all(CONTENT_ENCODING).iter().all(identity),
        body: reply.body,
        place: None,
    }
}

/// One request to one server. Whoever waits may leave: a server goes on working all the same, so what was sent keeps its place
/// until the server has answered or its time is over, and tells as much about the server.
struct Attempt {
    running: Option<Running>,
    has_begun: bool,
}

type Running = Pin<Box<dyn Future<Output = Result<WireReply, Fault>> + Send>>;

impl Attempt {
    fn new(mut lease: Lease, outgoing: Arc<Outgoing>, until: tokio::time::Instant) -> Self {
        let running = Box::pin(async move {
            let exchange = lease.upstream().exchange(lease.replica(), &outgoing);
            let outcome = timeout_at(until, exchange).await.unwrap_or(Err(Fault::Timeout));
            lease.judge(&outcome);
            // The answer has still to be read: that counts as under way too, so the number of those is bounded.
            outcome.map(|reply| WireReply { place: Some(Box::new(lease)), ..reply })
        });
        Self { running: Some(running), has_begun: false }
    }
}

impl Future for Attempt {
    type Output = Result<WireReply, Fault>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.has_begun = true;
        let Some(running) = &mut self.running else { return Poll::Pending };
        let outcome = std::task::ready!(running.as_mut().poll(context));
        self.running = None;
        Poll::Ready(outcome)
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if let Some(running) = self.running.take().filter(|_| self.has_begun)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async { drop(running.await) });
        }
    }
}

impl RemoteEngine for Upstream {
    fn spec(&self) -> &ModelSpec {
        self.plan.spec()
    }

    fn platform(&self) -> &str {
        self.plan.platform()
    }

    fn passed(&self) -> &[TensorSpec] {
        self.plan.passed()
    }

    fn write(&self, inputs: &Inputs, passed: &[usize], call: &CallContext) -> Result<WireRequest, EngineError> {
        Ok(self.plan.write(inputs, passed, &call.request_id)?)
    }

    fn ask(self: Arc<Self>, request: WireRequest, call: CallContext) -> ReplyFuture {
        Box::pin(async move { Ok(self.asked(request, call).await?) })
    }

    fn read(
        &self,
        reply: &WireReply,
        n_rows: usize,
        passed: &[usize],
        call: &CallContext,
    ) -> Result<(RawScores, Passed), EngineError> {
        self.plan.read(reply, n_rows, passed, &call.request_id)
    }

    fn is_ready(&self) -> bool {
        let now = Instant::now();
        self.replicas.iter().any(|replica| replica.is_usable(now))
    }

    fn figures(&self) -> RemoteFigures {
        let now = Instant::now();
        RemoteFigures {
            replicas: self.replicas.len(),
            usable: self.replicas.iter().filter(|replica| replica.is_usable(now)).count(),
            in_flight: self.replicas.iter().map(Replica::in_flight).sum(),
            retries: self.counters.retries.load(Ordering::Relaxed),
            ejections: self.counters.ejections.load(Ordering::Relaxed),
            connections: self.counters.connections.load(Ordering::Relaxed),
        }
    }
}

/// A request of ours.
enum Outgoing {
    Rest(RestCall),
    Grpc { message: Bytes, call: CallContext },
}

impl Outgoing {
    fn new(plan: &Plan, request: WireRequest, call: CallContext) -> Self {
        if plan.dialect() == Dialect::OipGrpc {
            return Self::Grpc { message: request.body, call };
        }
        Self::Rest(RestCall::infer(plan, request, call))
    }
}

/// A request of ours, for whichever server will get it. Its headers are all written here: none is a client's, but for
/// the three that name it to those who follow it through the servers.
struct RestCall {
    method: Method,
    path: String,
    /// The length of the JSON part, where raw tensors follow it.
    header_length: Option<usize>,
    body: Bytes,
    call: CallContext,
}

impl RestCall {
    fn get(path: &str) -> Self {
        let (method, path, call) = (Method::GET, path.to_owned(), CallContext::default());
        Self { method, path, header_length: None, body: Bytes::new(), call }
    }

    fn infer(plan: &Plan, request: WireRequest, call: CallContext) -> Self {
        let WireRequest { header_length, body } = request;
        Self { method: Method::POST, path: plan.infer_path(), header_length, body, call }
    }

    /// The head of the request to one server, made where it is sent: most are sent once.
    fn headers(&self, target: &Target) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(8);
        headers.insert(HOST, target.authority.clone());
        headers.insert(ACCEPT_ENCODING, IDENTITY);
        if self.method == Method::POST {
            headers.insert(CONTENT_TYPE, if self.header_length.is_some() { OCTETS } else { JSON });
        }
        if let Some(length) = self.header_length {
            headers.insert(&INFERENCE_HEADER_LENGTH, HeaderValue::from(length));
        }
        let named = [
            (REQUEST_ID, Some(&*self.call.request_id)),
            (TRACEPARENT, self.call.traceparent.as_deref()),
            (TRACESTATE, self.call.tracestate.as_deref()),
        ];
        for (name, value) in named {
            if let Some(Ok(value)) = value.filter(|value| !value.is_empty()).map(HeaderValue::from_str) {
                headers.insert(name, value);
            }
        }
        headers
    }

    fn request(&self, target: &Target) -> Result<Request<Full<Bytes>>, Fault> {
        let path = [target.prefix.as_str(), self.path.as_str()].concat();
        let uri: Uri = path.try_into().map_err(|_| Fault::Inputs("the path is none".to_owned()))?;
        let mut request = Request::new(Full::new(self.body.clone()));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = uri;
        *request.headers_mut() = self.headers(target);
        Ok(request)
    }
}
