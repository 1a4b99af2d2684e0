//! One of the servers: its idle connections, how much is under way, and whether it is left out.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use http_body_util::Full;
use hyper::Request;
use hyper::body::Bytes;

use super::UpstreamConfig;
use super::breaker::Breaker;
use super::connection::{Broken, Connection, Reply};
use super::target::Target;
use crate::engine::upstream::Fault;

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
    idle: Mutex<Vec<(Connection, Instant)>>,
    in_flight: AtomicUsize,
    breaker: Mutex<Breaker>,
    /// What the last probe said.
    pub(super) is_ready: AtomicBool,
}

/// A request under way to one server. Dropped without a verdict, nothing was learnt about the server.
pub(super) struct Lease<'a> {
    replica: &'a Replica,
    counters: &'a Counters,
    judged: bool,
}

impl Replica {
    pub(super) fn new(target: Target, eject_after: u32) -> Self {
        Self {
            target,
            idle: Mutex::new(Vec::new()),
            in_flight: AtomicUsize::new(0),
            breaker: Mutex::new(Breaker::new(eject_after)),
            is_ready: AtomicBool::new(true),
        }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Whether it may be sent a request, but for how many it has.
    pub(super) fn is_usable(&self, now: Instant) -> bool {
        self.is_ready.load(Ordering::Relaxed) && self.breaker().admits(now)
    }

    /// Counts a request in, if it may be sent.
    pub(super) fn enter<'a>(&'a self, counters: &'a Counters, max_in_flight: usize) -> Option<Lease<'a>> {
        let mut breaker = self.breaker();
        if !breaker.admits(Instant::now()) || self.in_flight() >= max_in_flight {
            return None;
        }
        breaker.enter();
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Some(Lease { replica: self, counters, judged: false })
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

    async fn opened(&self, config: &UpstreamConfig, counters: &Counters) -> Result<Connection, Fault> {
        let open = Connection::open(&self.target.host, self.target.port);
        match tokio::time::timeout(config.connect_timeout, open).await {
            Ok(Ok(connection)) => {
                counters.connections.fetch_add(1, Ordering::Relaxed);
                Ok(connection)
            }
            Ok(Err(_)) | Err(_) => Err(Fault::Unreachable),
        }
    }

    /// Sends a request over an idle connection or a new one. [`Fault::Unreachable`] says that it was not sent.
    pub(super) async fn exchange(
        &self,
        config: &UpstreamConfig,
        counters: &Counters,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Reply, Fault> {
        let mut connection = self.pooled(config).await;
        loop {
            let is_new = connection.is_none();
            let mut current = match connection.take() {
                Some(connection) => connection,
                None => self.opened(config, counters).await?,
            };
            match current.exchange(request, config.max_answer_bytes).await {
                Ok(reply) => {
                    let mut idle = self.idle();
                    if idle.len() < config.max_idle {
                        idle.push((current, Instant::now()));
                    }
                    return Ok(reply);
                }
                Err(Broken::Sent(fault)) => return Err(fault),
                Err(Broken::Unsent(_)) if is_new => return Err(Fault::Unreachable),
                // It was closed while it was idle: nothing has left, so a new one may carry the request.
                Err(Broken::Unsent(unsent)) => request = *unsent,
            }
        }
    }
}

impl Lease<'_> {
    pub(super) fn replica(&self) -> &Replica {
        self.replica
    }

    /// The server answered, whatever it said.
    pub(super) fn succeeded(mut self) {
        self.judged = true;
        self.replica.breaker().succeeded();
    }

    /// It failed for reasons of its own.
    pub(super) fn failed(mut self) {
        self.judged = true;
        if self.replica.breaker().failed(Instant::now()) {
            self.counters.ejections.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(upstream = self.replica.target.shown(), "left out for a while after failures");
        }
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        self.replica.in_flight.fetch_sub(1, Ordering::Relaxed);
        if !self.judged {
            self.replica.breaker().abandoned();
        }
    }
}
