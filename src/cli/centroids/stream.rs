//! Batches through many threads, their results in order: what the centroid build runs a model with.
//!
//! Knows no model and no data: a number in, a value out. At most [`WINDOW`] batches for each thread are under way or
//! waiting for an earlier one, so memory does not grow with their number.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crossbeam_channel::unbounded;

/// Batches under way or waiting, for each thread: enough that a slow batch does not stop the other threads.
const WINDOW: usize = 4;

/// Calls `work(0), …, work(n − 1)` on `n_threads` threads and hands the results to `take` on this one, in order:
/// what `take` adds up does not depend on the number of threads.
///
/// # Errors
/// The first error, in order, of `work` or `take`; batches behind it may have been worked on in vain.
pub(super) fn in_order<T: Send, E: Send>(
    n: usize,
    n_threads: usize,
    work: impl Fn(usize) -> Result<T, E> + Sync,
    mut take: impl FnMut(usize, T) -> Result<(), E>,
) -> Result<(), E> {
    let n_threads = n_threads.clamp(1, n.max(1));
    let (task_tx, task_rx) = unbounded::<usize>();
    let (result_tx, result_rx) = unbounded();
    std::thread::scope(|scope| {
        for _ in 0..n_threads {
            let (tasks, results, work) = (task_rx.clone(), result_tx.clone(), &work);
            scope.spawn(move || {
                for task in tasks {
                    // A panic is handed over too: this thread would be missed for ever.
                    let result = catch_unwind(AssertUnwindSafe(|| work(task)));
                    if results.send((task, result)).is_err() {
                        break;
                    }
                }
            });
        }
        // Moved in, so that leaving early closes them and the threads end.
        let (task_tx, result_rx) = (task_tx, result_rx);
        let mut waiting = BTreeMap::new();
        let (mut sent, mut taken) = (0, 0);
        while taken < n {
            while sent < n && sent - taken < WINDOW * n_threads {
                if task_tx.send(sent).is_err() {
                    break;
                }
                sent += 1;
            }
            let Ok((task, result)) = result_rx.recv() else { break };
            waiting.insert(task, result);
            while let Some(result) = waiting.remove(&taken) {
                take(taken, result.unwrap_or_else(|panic| resume_unwind(panic))?)?;
                taken += 1;
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    /// Later batches are done first within every group of eight.
    fn uneven(task: usize) -> Result<usize, String> {
        std::thread::sleep(Duration::from_micros(800 - 100 * (task % 8) as u64));
        Ok(task * 3)
    }

    #[test]
    fn results_come_in_order_whatever_the_number_of_threads() {
        for (n, n_threads) in [(0, 4), (1, 4), (50, 1), (50, 3), (50, 16)] {
            let mut got = Vec::new();
            in_order(n, n_threads, uneven, |task, value| {
                assert_eq!(task, got.len());
                got.push(value);
                Ok(())
            })
            .unwrap();
            assert_eq!(got, (0..n).map(|task| task * 3).collect::<Vec<_>>());
        }
    }

    #[test]
    fn no_more_is_under_way_than_the_window_holds() {
        let (begun, ended, most) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        let work = |task: usize| {
            let ahead = begun.fetch_add(1, Ordering::SeqCst) + 1 - ended.load(Ordering::SeqCst);
            most.fetch_max(ahead, Ordering::SeqCst);
            uneven(task)
        };
        in_order(100, 2, work, |_, _| {
            std::thread::sleep(Duration::from_micros(300));
            ended.fetch_add(1, Ordering::SeqCst);
            Ok(())
        })
        .unwrap();
        assert!(most.into_inner() <= 2 * WINDOW);
    }

    #[test]
    fn the_first_error_in_order_is_the_answer() {
        let work = |task: usize| match task {
            3 => {
                std::thread::sleep(Duration::from_millis(5));
                Err("three".to_owned())
            }
            4 => Err("four".to_owned()),
            task => Ok(task),
        };
        let mut n_taken = 0;
        let outcome = in_order(1_000, 4, work, |_, _| {
            n_taken += 1;
            Ok(())
        });
        assert_eq!((outcome, n_taken), (Err("three".to_owned()), 3));
        let outcome =
            in_order(1_000, 4, Ok::<_, String>, |task, _| if task == 7 { Err("taker".to_owned()) } else { Ok(()) });
        assert_eq!(outcome, Err("taker".to_owned()));
    }

    #[test]
    #[should_panic(expected = "planted")]
    fn a_panic_in_a_thread_is_passed_on() {
        let _ = in_order(8, 2, |task| if task == 2 { panic!("planted") } else { Ok::<_, String>(task) }, |_, _| Ok(()));
    }
}
