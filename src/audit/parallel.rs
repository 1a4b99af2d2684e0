//! A numbered loop over the machine's cores, for the permutation null and the bootstrap.
//!
//! The result depends on the numbers alone, never on the threads: each call gets its own index (and draws from
//! the random stream of that index), and results come back in order.

use std::num::NonZeroUsize;

/// `work(0), …, work(n − 1)`, in order. A panic in `work` is passed on.
pub(crate) fn map<T: Send>(n: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let n_threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get).min(n.max(1));
    let share = n.div_ceil(n_threads).max(1);
    let work = &work;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..n_threads)
            .map(|thread| {
                let indices = (thread * share).min(n)..((thread + 1) * share).min(n);
                scope.spawn(move || indices.map(work).collect::<Vec<T>>())
            })
            .collect();
        let mut results = Vec::with_capacity(n);
        for thread in threads {
            match thread.join() {
                Ok(part) => results.extend(part),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        results
    })
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
