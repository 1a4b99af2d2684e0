//! Counts and times of one version of a model since it was loaded: about work, never about scores or inputs.
//!
//! Shown to clients only where the operator says so: exact times of single requests are a side channel of their own.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::pipeline::Facts;
use crate::protocol::reports::{ModelStatistics, Tally};

/// What is counted; every field only grows.
#[derive(Debug, Default)]
pub(super) struct Statistics {
    last_inference: AtomicU64,
    rows: AtomicU64,
    success: Counter,
    fail: Counter,
    queue: Counter,
    input: Counter,
    infer: Counter,
    output: Counter,
}

#[derive(Debug, Default)]
struct Counter {
    count: AtomicU64,
    nanos: AtomicU64,
}

impl Counter {
    fn add(&self, time: Duration) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.nanos.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn tally(&self) -> Tally {
        let nanos = self.nanos.load(Ordering::Relaxed);
        Tally { count: self.count.load(Ordering::Relaxed), time: Duration::from_nanos(nanos) }
    }
}

impl Statistics {
    /// Counts a request that was answered.
    pub(super) fn answered(&self, facts: &Facts, queued: Duration, total: Duration) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis());
        self.last_inference.store(u64::try_from(now).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.rows.fetch_add(facts.rows as u64, Ordering::Relaxed);
        self.success.add(total);
        self.queue.add(queued);
        self.input.add(facts.decode);
        self.infer.add(facts.infer + facts.defend);
        self.output.add(facts.encode);
    }

    /// Counts a request that was not.
    pub(super) fn failed(&self, total: Duration) {
        self.fail.add(total);
    }

    /// All of it under a name.
    pub(super) fn report(&self, name: &str, version: &str) -> ModelStatistics {
        ModelStatistics {
            name: name.to_owned(),
            version: version.to_owned(),
            last_inference: self.last_inference.load(Ordering::Relaxed),
            rows: self.rows.load(Ordering::Relaxed),
            runs: self.success.tally().count,
            success: self.success.tally(),
            fail: self.fail.tally(),
            queue: self.queue.tally(),
            input: self.input.tally(),
            infer: self.infer.tally(),
            output: self.output.tally(),
        }
    }
}
