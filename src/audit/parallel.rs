//! A numbered loop over the machine's cores, for the permutation null, the bootstrap and the attacks of a battery.
//!
//! The result depends on the numbers alone, never on the threads: each call gets its own index (and draws from
//! the random stream of that index), and results come back in order.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};

/// `work(0), …, work(n − 1)`, in order. Whoever is free takes the next number, so that calls of unequal length
/// share the cores. A panic in `work` is passed on.
pub(crate) fn map<T: Send>(n: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let n_threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get).min(n.max(1));
    let next = AtomicUsize::new(0);
    let (work, next) = (&work, &next);
    let take = move || {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= n {
                return done;
            }
            done.push((index, work(index)));
        }
    };
    let mut results: Vec<(usize, T)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..n_threads).map(|_| scope.spawn(take)).collect();
        let mut results = Vec::with_capacity(n);
        for thread in threads {
            match thread.join() {
                Ok(part) => results.extend(part),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        results
    });
    results.sort_unstable_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn results_come_back_in_order() {
        for n in [0, 1, 2, 7, 100] {
            assert_eq!(super::map(n, |index| index * 3), (0..n).map(|index| index * 3).collect::<Vec<_>>());
        }
    }
}
