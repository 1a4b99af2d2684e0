//! Which requests are computed where they arrived: one that is alone, to a model that has been quick of late.
//!
//! To hand a request to a compute thread and its answer back wakes two sleeping threads, which takes longer than a small
//! model does. Where no other inference is in flight nobody gains by that, so such a request is computed on the thread that
//! read it. As soon as there is another, the queue spreads both over the cores. What a request will take is told by what
//! the last ones to the same model took for each byte of their bodies; where nothing is known, it is queued.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What a kibibyte of requests to one model has taken of late, in nanoseconds; 0 where nothing is known.
#[derive(Debug, Default)]
pub(super) struct Quickness(AtomicU64);

impl Quickness {
    /// Whether a body of `n_bytes` will be answered within `limit`, as far as can be told.
    pub(super) fn promises(&self, n_bytes: usize, limit: Duration) -> bool {
        let rate = u128::from(self.0.load(Ordering::Relaxed));
        rate > 0 && rate * n_bytes as u128 / 1024 <= limit.as_nanos()
    }

    /// Counts a request. A slower one is believed at once, a quicker one by an eighth.
    pub(super) fn learn(&self, n_bytes: usize, took: Duration) {
        let seen = took.as_nanos() * 1024 / (n_bytes.max(1) as u128);
        let seen = u64::try_from(seen).unwrap_or(u64::MAX).max(1);
        let known = self.0.load(Ordering::Relaxed);
        let next = if known == 0 || seen >= known { seen } else { known - (known - seen).div_ceil(8) };
        // Of two at the same time one may be lost: it is a guess anyway.
        self.0.store(next, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_micros(300);

    #[test]
    fn nothing_is_promised_before_the_first_answer() {
        assert!(!Quickness::default().promises(0, LIMIT));
    }

    #[test]
    fn a_longer_body_is_expected_to_take_longer() {
        let quickness = Quickness::default();
        quickness.learn(1024, Duration::from_micros(30));
        assert!(quickness.promises(1024, LIMIT) && quickness.promises(10 * 1024, LIMIT));
        assert!(!quickness.promises(11 * 1024, LIMIT) && !quickness.promises(usize::MAX, LIMIT));
        assert!(!quickness.promises(1024, Duration::ZERO));
    }

    #[test]
    fn one_slow_answer_counts_at_once_and_is_forgotten_slowly() {
        let quickness = Quickness::default();
        let learn = |micros| quickness.learn(1024, Duration::from_micros(micros));
        learn(30);
        learn(3000);
        assert!(!quickness.promises(1024, LIMIT));
        (0..5).for_each(|_| learn(30));
        assert!(!quickness.promises(1024, LIMIT));
        (0..30).for_each(|_| learn(30));
        assert!(quickness.promises(1024, LIMIT));
    }
}
