//! A model in another server, dialled: pooled connections, several servers, deadlines, and what is done when one fails.
//!
//! What is sent and how an answer is read is `engine::upstream`'s. A request goes to the server with the fewest requests under
//! way. It is sent again, to another server or over a new connection, only where nothing of it can have arrived: no
//! connection came about, or an idle one turned out to be closed. A server with failures in a row is left out
//! (`breaker`), and asked for its health in the background. No redirect is followed, no compressed answer taken, and
//! nothing that a server says in an error is repeated.

mod breaker;
mod connection;
mod grpc;
mod probe;
mod replica;
mod start;
mod target;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Uri};
use tokio::time::timeout_at;

use self::connection::Reply;
use self::replica::{Counters, Lease, Replica};
use super::http::INFERENCE_HEADER_LENGTH;
use crate::defence::RawScores;
use crate::engine::upstream::{Declared, Dialect, Fault, Plan};
use crate::engine::{CallContext, EngineError, ModelSpec, RemoteEngine, RemoteFigures, ScoresFuture};
use crate::protocol::grpc::messages::{ModelInferRequest, ModelInferResponse};
use crate::tensor::Inputs;

pub use self::start::{StartError, connect};
pub use self::target::Target;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");
const IDENTITY: HeaderValue = HeaderValue::from_static("identity");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

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
        let upstream = Self { plan, config, replicas, counters: Counters::default(), turn: AtomicUsize::new(0) };
        Ok(Arc::new(upstream))
    }

    /// The usable server with the fewest requests under way, but for those that were tried.
    fn choose(&self, tried: &[usize]) -> Result<(usize, Lease<'_>), Fault> {
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
        let lease = |&index: &usize| {
            let lease = self.replicas[index].enter(&self.counters, self.config.max_in_flight)?;
            Some((index, lease))
        };
        usable.iter().find_map(lease).ok_or(Fault::Busy)
    }

    /// Sends a request to one server, or to the next where the first did not get it.
    async fn ask(&self, outgoing: &Outgoing, call: &CallContext) -> Result<Incoming, Fault> {
        let started = tokio::time::Instant::now();
        let own = started + self.config.timeout;
        let deadline = call.deadline.map_or(own, |deadline| deadline.into()).min(own);
        let mut tried = Vec::new();
        let mut last = None;
        loop {
            let (index, lease) = self.choose(&tried).map_err(|fault| last.take().unwrap_or(fault))?;
            let exchange = self.exchange(lease.replica(), outgoing, call);
            let outcome = timeout_at(deadline, exchange).await.unwrap_or(Err(Fault::Timeout));
            match outcome {
                Ok(reply) => {
                    lease.succeeded();
                    return Ok(reply);
                }
                // The client's own haste says nothing about the server.
                Err(Fault::Timeout) if deadline < own => return Err(Fault::Timeout),
                // The server answered: it is the request that it does not like.
                Err(fault) if !fault.is_of_server() => {
                    lease.succeeded();
                    return Err(fault);
                }
                Err(fault) => {
                    lease.failed();
                    tried.push(index);
                    if fault != Fault::Unreachable || tried.len() > self.config.retries as usize {
                        return Err(fault);
                    }
                    self.counters.retries.fetch_add(1, Ordering::Relaxed);
                    last = Some(fault);
                }
            }
        }
    }

    /// Sends to one server, and reads the whole answer.
    async fn exchange(&self, replica: &Replica, outgoing: &Outgoing, call: &CallContext) -> Result<Incoming, Fault> {
        match (outgoing, &replica.line) {
            (Outgoing::Grpc(message), Some(line)) => Ok(Incoming::Grpc(line.infer(message.clone(), call).await?)),
            (Outgoing::Grpc(_), None) => Err(Fault::Inputs("this server is not asked over gRPC".to_owned())),
            (Outgoing::Rest(asked), _) => {
                let request = asked.request(&replica.target)?;
                let reply = replica.exchange(&self.config, &self.counters, request).await?;
                if reply.status == 200 { Ok(Incoming::Rest(reply)) } else { Err(Fault::Status(reply.status)) }
            }
        }
    }

    async fn scores(&self, inputs: &Inputs, call: &CallContext) -> Result<RawScores, EngineError> {
        let (n_rows, id) = (inputs.n_rows(), &call.request_id);
        let outgoing = if self.plan.dialect() == Dialect::OipGrpc {
            Outgoing::Grpc(self.plan.write_message(inputs, id))
        } else {
            let wire = self.plan.write(inputs, id)?;
            Outgoing::Rest(RestCall::infer(&self.plan, wire.header_length, wire.body, call))
        };
        let reply = match self.ask(&outgoing, call).await? {
            Incoming::Grpc(answer) => return self.plan.read_message(answer, n_rows, id),
            Incoming::Rest(reply) => reply,
        };
        let identity = |encoding: &HeaderValue| encoding.as_bytes().eq_ignore_ascii_case(b"identity");
        if !reply.headers.get_all(CONTENT_ENCODING).iter().all(identity) {
            return Err(Fault::Answer("it is compressed, which was not asked for".to_owned()).into());
        }
        let header_length = reply.headers.get(&INFERENCE_HEADER_LENGTH).map(|value| value.to_str().unwrap_or(""));
        self.plan.read(header_length, &reply.body, n_rows, id)
    }
}

impl RemoteEngine for Upstream {
    fn spec(&self) -> &ModelSpec {
        self.plan.spec()
    }

    fn platform(&self) -> &str {
        self.plan.platform()
    }

    fn infer<'a>(&'a self, inputs: &'a Inputs, call: &'a CallContext) -> ScoresFuture<'a> {
        Box::pin(self.scores(inputs, call))
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
    Grpc(ModelInferRequest),
}

/// A whole answer.
enum Incoming {
    Rest(Reply),
    Grpc(ModelInferResponse),
}

/// A request of ours, for whichever server will get it. Its headers are all written here: none is a client's, but for
/// the three that name it to those who follow it through the servers.
struct RestCall {
    method: Method,
    path: String,
    headers: HeaderMap,
    body: Bytes,
}

impl RestCall {
    fn get(path: &str) -> Self {
        let mut headers = HeaderMap::with_capacity(2);
        headers.insert(ACCEPT_ENCODING, IDENTITY);
        Self { method: Method::GET, path: path.to_owned(), headers, body: Bytes::new() }
    }

    fn infer(plan: &Plan, header_length: Option<usize>, body: Vec<u8>, call: &CallContext) -> Self {
        let mut headers = HeaderMap::with_capacity(8);
        headers.insert(ACCEPT_ENCODING, IDENTITY);
        match header_length {
            Some(length) => {
                headers.insert(CONTENT_TYPE, OCTETS);
                headers.insert(&INFERENCE_HEADER_LENGTH, HeaderValue::from(length));
            }
            None => {
                headers.insert(CONTENT_TYPE, JSON);
            }
        }
        let named = [
            (REQUEST_ID, Some(&call.request_id)),
            (TRACEPARENT, call.traceparent.as_ref()),
            (TRACESTATE, call.tracestate.as_ref()),
        ];
        for (name, value) in named {
            if let Some(Ok(value)) = value.filter(|value| !value.is_empty()).map(|value| HeaderValue::from_str(value)) {
                headers.insert(name, value);
            }
        }
        Self { method: Method::POST, path: plan.infer_path(), headers, body: body.into() }
    }

    fn request(&self, target: &Target) -> Result<Request<Full<Bytes>>, Fault> {
        let path = format!("{}{}", target.prefix, self.path);
        let uri: Uri = path.parse().map_err(|_| Fault::Inputs("the path is none".to_owned()))?;
        let mut request = Request::new(Full::new(self.body.clone()));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = uri;
        *request.headers_mut() = self.headers.clone();
        request.headers_mut().insert(HOST, target.authority.clone());
        Ok(request)
    }
}
