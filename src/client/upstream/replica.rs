//! One of the servers: its idle connections, how much is under way, and whether it is left out.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use http_body_util::Full;
use hyper::Request;
use hyper::body::Bytes;

use super::breaker::Breaker;
use super::connection::{Broken, Connection, Reply};
use super::dialer::Dialer;
use super::grpc::Line;
use super::target::Target;
use super::{Upstream, UpstreamConfig};
use crate::engine::upstream::{Dialect, Fault};

/// Counts over all servers.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) retries: AtomicU64,
    pub(super) ejections: AtomicU64,
    pub(super) connections: AtomicU64,
}

/// One server.
pub(super) struct Replica {
    pub(super) target: Target,
    dialer: Dialer,
    /// Where it is asked over gRPC.
    pub(super) line: Option<Line>,
    idle: Mutex<Vec<(Connection, Instant)>>,
    in_flight: AtomicUsize,
    breaker: Mutex<Breaker>,
    /// What the last probe said.
    pub(super) is_ready: AtomicBool,
}

/// A request under way to one server. Dropped without a verdict, nothing was learnt about the server.
pub(super) struct Lease {
    upstream: Arc<Upstream>,
    index: usize,
    judged: bool,
}

impl Replica {
    pub(super) fn new(target: Target, config: &UpstreamConfig) -> Result<Self, Fault> {
        let over_grpc = config.declared.dialect == Dialect::OipGrpc;
        let dialer = Dialer::new(&target, config, over_grpc)?;
        let line = over_grpc.then(|| Line::new(&target, config, &dialer)).transpose()?;
        Ok(Self {
            target,
            dialer,
            line,
            idle: Mutex::new(Vec::new()),
            in_flight: AtomicUsize::new(0),
            breaker: Mutex::new(Breaker::new(config.eject_after)),
            is_ready: AtomicBool::new(true),
        })
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Whether it may be sent a request, but for how many it has.
    pub(super) fn is_usable(&self, now: Instant) -> bool {
        self.is_ready.load(Ordering::Relaxed) && self.breaker().admits(now)
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<(Connection, Instant)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection used last, if one is idle and still open.
    async fn pooled(&self, config: &UpstreamConfig) -> Option<Connection> {
        loop {
            let (mut connection, since) = self.idle().pop()?;
            if since.elapsed() < config.idle_timeout && connection.is_usable().await {
                return Some(connection);
            }
        }
    }

    async fn opened(&self, counters: &Counters) -> Result<Connection, Fault> {
        let connection = Connection::open(&self.dialer).await?;
        counters.connections.fetch_add(1, Ordering::Relaxed);
        Ok(connection)
    }

    /// Sends a request over an idle connection or a new one, and reads an answer of at most `max_bytes`.
    /// [`Fault::is_unsent`] says that it was not sent.
    pub(super) async fn exchange(
        &self,
        config: &UpstreamConfig,
        counters: &Counters,
        max_bytes: usize,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Reply, Fault> {
        let mut connection = self.pooled(config).await;
        loop {
            let is_new = connection.is_none();
            let mut current = match connection.take() {
                Some(connection) => connection,
                None => self.opened(counters).await?,
            };
            match current.exchange(request, max_bytes).await {
                Ok(reply) => {
                    let mut idle = self.idle();
                    if idle.len() < config.max_idle {
                        idle.push((current, Instant::now()));
                    }
                    return Ok(reply);
                }
                Err(Broken::Sent(fault)) => return Err(fault),
                Err(Broken::Unsent(_, why)) if is_new => {
                    return Err(why.map_or(Fault::Unreachable, Fault::Handshake));
                }
                // It was closed while it was idle: nothing has left, so a new one may carry the request.
                Err(Broken::Unsent(unsent, _)) => request = *unsent,
            }
        }
    }
}

impl Lease {
    /// Counts a request in, if it may be sent.
    pub(super) fn take(upstream: &Arc<Upstream>, index: usize) -> Option<Self> {
        let replica = &upstream.replicas[index];
        let mut breaker = replica.breaker();
        if !breaker.admits(Instant::now()) || replica.in_flight() >= upstream.config.max_in_flight {
            return None;
        }
        breaker.enter();
        replica.in_flight.fetch_add(1, Ordering::Relaxed);
        Some(Self { upstream: Arc::clone(upstream), index, judged: false })
    }

    pub(super) fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    pub(super) fn replica(&self) -> &Replica {
        &self.upstream.replicas[self.index]
    }

    /// What the outcome of the request says about the server.
    pub(super) fn judge<T>(&mut self, outcome: &Result<T, Fault>) {
        self.judged = true;
        match outcome {
            Err(fault) if fault.is_of_server() => self.failed(fault),
            // It answered: if it said no, it is the request that it does not like.
            _ => self.replica().breaker().succeeded(),
        }
    }

    fn failed(&self, fault: &Fault) {
        // Two that fail at one time must not each take the other for the one that is left.
        let _one_at_a_time = self.upstream.judging.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let mut others = self.upstream.replicas.iter().enumerate().filter(|(index, _)| *index != self.index);
        let is_last = !others.any(|(_, other)| other.is_usable(now));
        let mut breaker = self.replica().breaker();
        if is_last && !fault.is_unsent() {
            breaker.spared();
        } else if breaker.failed(now) {
            self.upstream.counters.ejections.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(upstream = self.replica().target.shown(), last = %fault, "left out for a while after failures");
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.replica().in_flight.fetch_sub(1, Ordering::Relaxed);
        if !self.judged {
            self.replica().breaker().abandoned();
        }
    }
}
