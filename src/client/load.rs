//! A load: requests sent to one endpoint over a fixed number of keep-alive connections, timed.
//!
//! **Closed loop**: each connection sends its next request when the answer to the last has come. The rate is what
//! the endpoint makes of it. **Open loop**: request `i` is due at `start + i / rate`, whatever became of the others,
//! and its latency counts from that moment and not from when a connection came free. An endpoint that stalls is thus
//! charged for every request that would have arrived meanwhile ("coordinated omission" is not committed).
//!
//! Every load is bounded in time, in connections and in requests. It runs on threads of its own with one
//! single-threaded runtime each; the caller's thread waits.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::sync::Semaphore;
use tokio::task::LocalSet;

use super::ClientError;
use super::endpoint::Endpoint;
use super::http::{Call, Connection, Reply, Wire};
use super::report::{LoadReport, Tally};

/// Most connections of one load.
pub const MAX_CONNECTIONS: usize = 4096;
/// Most threads of one load.
pub const MAX_THREADS: usize = 64;
/// Longest load, warm-up included.
pub const MAX_DURATION: Duration = Duration::from_secs(3600);
/// Lowest rate of an open loop, in requests per second.
pub const MIN_RATE: f64 = 0.01;
/// Highest rate of an open loop, in requests per second.
pub const MAX_RATE: f64 = 1_000_000.0;

/// Rest of a connection after it could not be opened, so that a dead endpoint is not hammered.
const RECONNECT_PAUSE: Duration = Duration::from_millis(10);

/// When the next request goes out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// When the last answer on that connection has come.
    Closed,
    /// At a fixed rate in requests per second over all connections.
    Open {
        /// Requests per second.
        rate: f64,
    },
}

/// What a load should be, unchecked.
#[derive(Debug, Clone)]
pub struct LoadConfig {
    /// Open connections, each with one request under way at most.
    pub n_connections: usize,
    /// Threads that the connections are dealt out to.
    pub n_threads: usize,
    /// When requests go out.
    pub pace: Pace,
    /// Time before the measurement, under the same load.
    pub warmup: Duration,
    /// Time of the measurement.
    pub duration: Duration,
    /// Stops the measurement early after so many requests.
    pub max_requests: Option<u64>,
    /// Longest wait for one answer.
    pub timeout: Duration,
}

/// Why a load is refused before it begins.
#[derive(Debug, Error, PartialEq)]
#[non_exhaustive]
pub enum LoadConfigError {
    /// Too few or too many connections.
    #[error("expected 1 to {MAX_CONNECTIONS} connections, got {0}")]
    Connections(usize),
    /// Too few or too many threads.
    #[error("expected 1 to {MAX_THREADS} threads and no more than connections, got {0}")]
    Threads(usize),
    /// A rate that is not a number or out of reach.
    #[error("expected a rate of {MIN_RATE} to {MAX_RATE} requests per second, got {0}")]
    Rate(f64),
    /// Nothing to measure, or more than an hour of it.
    #[error("expected a duration above 0 and with the warm-up at most {} s, got {} s", MAX_DURATION.as_secs(), .0.as_secs_f64())]
    Duration(Duration),
    /// A measurement of no request.
    #[error("expected one request or more, got 0")]
    NoRequests,
    /// A timeout of zero.
    #[error("expected a timeout above 0")]
    NoTimeout,
}

/// A load that was checked and may run.
#[derive(Debug, Clone)]
pub struct LoadPlan {
    config: LoadConfig,
}

impl LoadPlan {
    /// Checks `config` against the bounds of this module.
    ///
    /// # Errors
    ///
    /// The first [`LoadConfigError`] that applies.
    pub fn new(config: LoadConfig) -> Result<Self, LoadConfigError> {
        if !(1..=MAX_CONNECTIONS).contains(&config.n_connections) {
            return Err(LoadConfigError::Connections(config.n_connections));
        }
        if !(1..=MAX_THREADS.min(config.n_connections)).contains(&config.n_threads) {
            return Err(LoadConfigError::Threads(config.n_threads));
        }
        if let Pace::Open { rate } = config.pace
            && !(MIN_RATE..=MAX_RATE).contains(&rate)
        {
            return Err(LoadConfigError::Rate(rate));
        }
        let whole = config.warmup.saturating_add(config.duration);
        if config.duration.is_zero() || whole > MAX_DURATION {
            return Err(LoadConfigError::Duration(whole));
        }
        if config.max_requests == Some(0) {
            return Err(LoadConfigError::NoRequests);
        }
        if config.timeout.is_zero() {
            return Err(LoadConfigError::NoTimeout);
        }
        Ok(Self { config })
    }

    /// How long the load takes at most, its last answers apart.
    #[must_use]
    pub fn whole_duration(&self) -> Duration {
        self.config.warmup + self.config.duration
    }
}

/// What the load has done so far, for somebody who watches.
#[derive(Debug, Default)]
pub struct Progress {
    done: AtomicU64,
}

impl Progress {
    /// Requests that ended, well or not, warm-up included.
    #[must_use]
    pub fn n_done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }
}

/// Runs the load: `calls` in turn, all of one wire, each answer of which stands for `n_rows` rows.
///
/// Blocks until the last answer has come or timed out. Must not be called from an async context.
///
/// # Errors
///
/// [`ClientError`] when the first connection does not come about, or a runtime does not. Failures after that are
/// counted in the report.
pub fn run(
    plan: &LoadPlan,
    endpoint: &Endpoint,
    calls: Vec<Call>,
    n_rows: usize,
    progress: Arc<Progress>,
) -> Result<LoadReport, ClientError> {
    if calls.is_empty() {
        return Err(ClientError::Metadata("expected one request or more to send, got none".to_owned()));
    }
    try_once(endpoint, calls[0].wire(), plan.config.timeout)?;
    let (cpu_before, began) = (cpu_seconds(), Instant::now());
    let config = plan.config.clone();
    let LoadConfig { n_connections, n_threads, .. } = config;
    let schedule = Schedule::new(&config);
    let shared = Arc::new(Shared { schedule, config, endpoint: endpoint.clone(), calls, progress });
    let workers: Vec<_> = (0..n_threads)
        .map(|i| {
            let n = n_connections / n_threads + usize::from(i < n_connections % n_threads);
            let shared = Arc::clone(&shared);
            thread::spawn(move || drive(&shared, n))
        })
        .collect();
    shared.schedule.release_until_over(n_connections);
    let mut sum = Tally::new();
    for worker in workers {
        let tally = worker.join().map_err(|_| ClientError::Exchange("a load thread ended early".to_owned()))?;
        sum.merge(&tally?);
    }
    let elapsed = Instant::now().saturating_duration_since(shared.schedule.measure_from);
    let cpu = cpu_before.zip(cpu_seconds()).map(|(before, after)| after - before);
    let generator_cores = cpu.map(|cpu| cpu / began.elapsed().as_secs_f64().max(f64::MIN_POSITIVE));
    Ok(LoadReport { generator_cores, ..sum.report(elapsed, n_rows, shared.schedule.n_unsent()) })
}

/// Whether a connection comes about, TLS included.
fn try_once(endpoint: &Endpoint, wire: Wire, patience: Duration) -> Result<(), ClientError> {
    let opening = async { tokio::time::timeout(patience, Connection::open_for(endpoint, wire)).await };
    runtime()?.block_on(opening).map_err(|_| ClientError::Timeout(patience))?.map(drop)
}

/// CPU time of this process so far, in user and system mode, where the system has `/proc` in Linux's form.
fn cpu_seconds() -> Option<f64> {
    /// Of the times in `/proc`, on every Linux that this runs on.
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name in brackets may hold spaces; utime and stime are fields 14 and 15 of the whole line.
    let (_, after_name) = stat.rsplit_once(')')?;
    let ticks = after_name.split_whitespace().skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>().ok()?;
    Some(ticks as f64 / TICKS_PER_SECOND)
}

fn runtime() -> Result<tokio::runtime::Runtime, ClientError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| ClientError::Exchange(format!("no runtime: {error}")))
}

/// What all workers of a load see.
struct Shared {
    schedule: Schedule,
    config: LoadConfig,
    endpoint: Endpoint,
    calls: Vec<Call>,
    progress: Arc<Progress>,
}

/// One thread: `n_connections` workers on a runtime of their own.
fn drive(shared: &Arc<Shared>, n_connections: usize) -> Result<Tally, ClientError> {
    let tally = Rc::new(RefCell::new(Tally::new()));
    let local = LocalSet::new();
    for _ in 0..n_connections {
        local.spawn_local(work(Arc::clone(shared), Rc::clone(&tally)));
    }
    runtime()?.block_on(local);
    Ok(tally.replace(Tally::new()))
}

/// One connection, from its first request to its last.
async fn work(shared: Arc<Shared>, tally: Rc<RefCell<Tally>>) {
    let mut connection = None;
    let mut n_sent = 0_usize;
    while let Some(ticket) = shared.schedule.next().await {
        let call = &shared.calls[n_sent % shared.calls.len()];
        n_sent += 1;
        let outcome = exchange(&mut connection, &shared, call).await;
        let latency = ticket.from.elapsed();
        shared.progress.done.fetch_add(1, Ordering::Relaxed);
        if let Err(ClientError::Connect { .. } | ClientError::Tls { .. }) = outcome {
            tokio::time::sleep(RECONNECT_PAUSE).await;
        }
        if ticket.measured {
            let mut tally = tally.borrow_mut();
            match outcome {
                Ok(reply) => tally.answered(reply.status, latency, call.body_len(), reply.body.len()),
                Err(error) => tally.failed(error.kind()),
            }
        }
    }
}

/// Sends `call` over `slot`'s connection, opened first where there is none; after a failure there is none.
async fn exchange(slot: &mut Option<Connection>, shared: &Shared, call: &Call) -> Result<Reply, ClientError> {
    let timeout = shared.config.timeout;
    let attempt = async {
        let mut connection = match slot.take() {
            Some(connection) => connection,
            None => Connection::open_for(&shared.endpoint, call.wire()).await?,
        };
        let reply = connection.send(call).await?;
        *slot = Some(connection);
        Ok(reply)
    };
    tokio::time::timeout(timeout, attempt).await.unwrap_or(Err(ClientError::Timeout(timeout)))
}

/// Leave to send one request.
struct Ticket {
    /// From when its latency counts.
    from: Instant,
    /// Whether it belongs to the measurement and not to the warm-up.
    measured: bool,
}

/// Deals out tickets: at once in a closed loop, when they are due in an open one.
struct Schedule {
    pace: Pace,
    start: Instant,
    measure_from: Instant,
    end: Instant,
    max_requests: u64,
    /// Tickets asked for: of the measurement in a closed loop, of the whole load in an open one.
    n_asked: AtomicU64,
    /// Tickets of the measurement that were given.
    n_given: AtomicU64,
    /// Open loop: one permit for each request that is due and that no connection has taken.
    due: Semaphore,
}

impl Schedule {
    fn new(config: &LoadConfig) -> Self {
        let start = Instant::now();
        let measure_from = start + config.warmup;
        Self {
            pace: config.pace,
            start,
            measure_from,
            end: measure_from + config.duration,
            max_requests: config.max_requests.unwrap_or(u64::MAX),
            n_asked: AtomicU64::new(0),
            n_given: AtomicU64::new(0),
            due: Semaphore::new(0),
        }
    }

    /// Waits for the next ticket; `None` when the load is over.
    async fn next(&self) -> Option<Ticket> {
        let ticket = match self.pace {
            Pace::Closed => self.next_closed(),
            Pace::Open { rate } => {
                self.due.acquire().await.ok()?.forget();
                self.next_open(rate)
            }
        }?;
        if ticket.measured {
            self.n_given.fetch_add(1, Ordering::Relaxed);
        }
        Some(ticket)
    }

    fn next_closed(&self) -> Option<Ticket> {
        let from = Instant::now();
        let measured = from >= self.measure_from;
        let over = from >= self.end || (measured && self.n_asked.fetch_add(1, Ordering::Relaxed) >= self.max_requests);
        (!over).then_some(Ticket { from, measured })
    }

    fn next_open(&self, rate: f64) -> Option<Ticket> {
        let index = self.n_asked.fetch_add(1, Ordering::Relaxed);
        if index >= self.n_arrivals(rate) || Instant::now() >= self.end {
            return None;
        }
        let measured = index >= self.n_warmup_arrivals(rate);
        Some(Ticket { from: self.start + Duration::from_secs_f64(index as f64 / rate), measured })
    }

    /// Open loop: arrivals before the measurement.
    fn n_warmup_arrivals(&self, rate: f64) -> u64 {
        ((self.measure_from - self.start).as_secs_f64() * rate).ceil() as u64
    }

    /// Open loop: arrivals of the whole load.
    fn n_arrivals(&self, rate: f64) -> u64 {
        let by_time = ((self.end - self.start).as_secs_f64() * rate).ceil() as u64;
        by_time.min(self.n_warmup_arrivals(rate).saturating_add(self.max_requests))
    }

    /// Open loop: makes each request due at its time, on the calling thread, whose sleep is finer than the
    /// runtime's timer; then wakes the `n_connections` workers once more, to find that the load is over.
    fn release_until_over(&self, n_connections: usize) {
        let Pace::Open { rate } = self.pace else {
            return;
        };
        let n_arrivals = self.n_arrivals(rate);
        let mut n_released = 0;
        while n_released < n_arrivals {
            let due = (self.start.elapsed().as_secs_f64() * rate) as u64 + 1;
            let due = due.min(n_arrivals);
            self.due.add_permits((due - n_released) as usize);
            n_released = due;
            let next = self.start + Duration::from_secs_f64(n_released as f64 / rate);
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        thread::sleep(self.end.saturating_duration_since(Instant::now()).min(Duration::from_secs_f64(1.0 / rate)));
        self.due.add_permits(n_connections);
    }

    /// Open loop: requests of the measurement that were due and were not sent.
    fn n_unsent(&self) -> u64 {
        match self.pace {
            Pace::Closed => 0,
            Pace::Open { rate } => (self.n_arrivals(rate) - self.n_warmup_arrivals(rate))
                .saturating_sub(self.n_given.load(Ordering::Relaxed)),
        }
    }
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
