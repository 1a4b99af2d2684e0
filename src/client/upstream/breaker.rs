//! When a server is left out: after failures in a row, for a while that doubles, until one request has been answered. The last
//! one in use is left out only when it cannot be connected to: everything else may be one client's doing.

use std::time::{Duration, Instant};

/// The first time that a server is left out for.
const FIRST: Duration = Duration::from_secs(1);
/// The longest.
const LONGEST: Duration = Duration::from_secs(30);

/// The state of one server.
#[derive(Debug)]
pub(super) struct Breaker {
    after: u32,
    failures: u32,
    /// Times in a row that it was left out.
    opened: u32,
    open_until: Option<Instant>,
    /// Whether the one request that tries it again is under way.
    trying: bool,
}

impl Breaker {
    /// Leaves a server out after so many failures in a row, at least one.
    pub(super) fn new(after: u32) -> Self {
        Self { after: after.max(1), failures: 0, opened: 0, open_until: None, trying: false }
    }

    /// Whether a request may be sent now.
    pub(super) fn admits(&self, now: Instant) -> bool {
        self.open_until.is_none_or(|until| now >= until && !self.trying)
    }

    /// A request is sent: after a time out of use, the only one until it is answered.
    pub(super) fn enter(&mut self) {
        self.trying = self.open_until.is_some();
    }

    /// A request was answered.
    pub(super) fn succeeded(&mut self) {
        *self = Self::new(self.after);
    }

    /// A request was given up by its client: nothing was learnt.
    pub(super) fn abandoned(&mut self) {
        self.trying = false;
    }

    /// A request failed in a way that its client may have brought about, and no other server is in use: this one stays in.
    pub(super) fn spared(&mut self) {
        self.failures = self.failures.saturating_add(1);
        self.trying = false;
        self.open_until = None;
    }

    /// A request failed for the server's own reasons; whether the server is left out from now on.
    pub(super) fn failed(&mut self, now: Instant) -> bool {
        self.failures = self.failures.saturating_add(1);
        let opens = self.trying || (self.open_until.is_none() && self.failures >= self.after);
        self.trying = false;
        if opens {
            let time = FIRST.saturating_mul(1 << self.opened.min(10)).min(LONGEST);
            self.opened = self.opened.saturating_add(1);
            self.open_until = Some(now + time);
        }
        opens
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_left_out_after_failures_in_a_row_and_tried_by_one_request() {
        let mut breaker = Breaker::new(2);
        let start = Instant::now();
        breaker.enter();
        assert!(!breaker.failed(start) && breaker.admits(start));
        breaker.enter();
        breaker.succeeded();
        breaker.enter();
        assert!(!breaker.failed(start));
        breaker.enter();
        assert!(breaker.failed(start) && !breaker.admits(start));
        let later = start + FIRST;
        assert!(breaker.admits(later));
        breaker.enter();
        assert!(!breaker.admits(later), "one request tries it");
        breaker.abandoned();
        assert!(breaker.admits(later));
        breaker.enter();
        assert!(breaker.failed(later) && !breaker.admits(later + FIRST), "the time doubles");
        assert!(breaker.admits(later + 2 * FIRST));
        breaker.enter();
        breaker.succeeded();
        assert!(breaker.admits(later));
    }

    #[test]
    fn a_server_that_is_spared_stays_in_and_is_left_out_once_there_is_another() {
        let mut breaker = Breaker::new(2);
        let start = Instant::now();
        for _ in 0..5 {
            breaker.enter();
            breaker.spared();
            assert!(breaker.admits(start));
        }
        assert!(breaker.failed(start) && !breaker.admits(start));
        breaker.spared();
        assert!(breaker.admits(start));
    }

    #[test]
    fn late_failures_of_requests_under_way_do_not_lengthen_the_time() {
        let mut breaker = Breaker::new(1);
        let start = Instant::now();
        assert!(breaker.failed(start));
        assert!(!breaker.failed(start + FIRST / 2));
        assert!(breaker.admits(start + FIRST));
    }
}
