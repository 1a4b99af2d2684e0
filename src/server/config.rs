//! What the server is told: limits, deadlines, threads. Already checked values; how they are written down in
//! files and flags is the command line's business.

use std::time::Duration;

/// Settings of the server.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Largest request body; over it, 413.
    pub max_body_bytes: usize,
    /// Bytes of request bodies held at one time, over all connections; over it, 503.
    pub max_buffered_bytes: usize,
    /// Open connections; over it, 503 and close.
    pub max_connections: usize,
    /// How long the head of a request may take, and how long a connection may stay without a request.
    pub header_timeout: Duration,
    /// How long a body may take; over it, 408 and close.
    pub body_timeout: Duration,
    /// In each of these spans a body must end or come forward at 8 KiB a second; else, 408 and close.
    pub body_window: Duration,
    /// How long a client may leave its answer unread before the connection is dropped.
    pub write_timeout: Duration,
    /// Between the signal to stop and the last accepted connection: not ready, yet serving.
    pub lame_duck: Duration,
    /// How long running requests may take after that.
    pub drain: Duration,
    /// Whether clients are shown counts and times of each model.
    pub statistics: bool,
    /// Whether clients may list, load and unload the models of a repository.
    pub repository_control: bool,
    /// How long an I/O thread looks for the next request after the last one before it sleeps; zero: not at all.
    pub busy_poll: Duration,
    /// Where the model runs.
    pub compute: ComputeConfig,
}

/// Where the model runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ComputeConfig {
    /// Compute threads, at least 1.
    pub threads: usize,
    /// Requests that may wait for one; over it, 503 with `Retry-After`.
    pub queue: usize,
    /// How long they may wait; over it, 504.
    pub queue_timeout: Duration,
    /// Run on the I/O thread instead: for measuring very cheap models. A slow model then stalls all clients.
    pub inline: bool,
    /// A request that is alone is computed on the I/O thread if it will take no longer than this, by what the last ones to
    /// the same model took. Zero: none is.
    pub quick: Duration,
    /// How requests that wait are put together; `None`: each runs alone.
    pub batching: Option<Batching>,
}

/// How requests of one version of a model are put together into one inference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batching {
    /// The most rows of a batch, at least 2; a request with more runs alone.
    pub max_rows: usize,
    /// The longest that a request waits for others while a compute thread is free; zero: those that wait anyway run together.
    pub max_delay: Duration,
    /// Rows at which a batch runs without waiting for more, in ascending order; `max_rows` is always one of them.
    pub preferred: Vec<usize>,
}

impl Batching {
    /// The largest size that so many rows fill, if they fill one.
    pub(super) fn reached(&self, n_rows: usize) -> Option<usize> {
        if n_rows >= self.max_rows {
            return Some(self.max_rows);
        }
        self.preferred.iter().copied().filter(|&size| size <= n_rows).max()
    }

    /// The sizes that batches will mostly have.
    #[must_use]
    pub fn sizes(&self) -> Vec<usize> {
        let mut sizes = self.preferred.clone();
        sizes.push(self.max_rows);
        sizes.sort_unstable();
        sizes.dedup();
        sizes
    }
}

impl Default for ComputeConfig {
    /// One thread per core, 16 waiting requests for each, 5 seconds of waiting, 300 microseconds are quick.
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let (queue_timeout, quick) = (Duration::from_secs(5), Duration::from_micros(300));
        Self { threads, queue: 16 * threads, queue_timeout, inline: false, quick, batching: None }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_body_bytes: 16 << 20,
            max_buffered_bytes: 256 << 20,
            max_connections: 1024,
            header_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(30),
            body_window: Duration::from_secs(5),
            write_timeout: Duration::from_secs(30),
            lame_duck: Duration::ZERO,
            drain: Duration::from_secs(20),
            statistics: false,
            repository_control: false,
            busy_poll: Duration::ZERO,
            compute: ComputeConfig::default(),
        }
    }
}
