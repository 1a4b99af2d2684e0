//! Looking for the next request instead of sleeping until it comes: what low latency costs in processor time.
//!
//! A thread that sleeps is woken by the system when bytes arrive, which on a virtual machine takes longer than a small
//! model does. For some time after an inference has been asked for or answered, an I/O thread asks again and again whether there is
//! more, for clients and for another server's answer alike. Where nothing comes for that time it sleeps as ever, and so it does while
//! several requests are in flight: then something is always ready, and the processor is wanted elsewhere. Zero, the default, turns it
//! off.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::yield_now;

/// What tells that something moves.
#[derive(Debug)]
pub(super) struct BusyPoll {
    time: Duration,
    moves: AtomicU64,
    asleep: AtomicBool,
    woken: Notify,
}

impl BusyPoll {
    /// Looks for requests for `time` after the last one; zero: never.
    pub(super) fn new(time: Duration) -> Arc<Self> {
        let moves = AtomicU64::new(0);
        Arc::new(Self { time, moves, asleep: AtomicBool::new(true), woken: Notify::new() })
    }

    /// An inference has been asked for, or has been answered.
    pub(super) fn moved(&self) {
        if self.time.is_zero() {
            return;
        }
        self.moves.fetch_add(1, Ordering::Relaxed);
        if self.asleep.load(Ordering::Relaxed) {
            self.woken.notify_one();
        }
    }

    /// Keeps the runtime's thread from sleeping while something moves and `is_calm`. Never ends, unless it is turned off.
    pub(super) async fn keep_awake(self: Arc<Self>, is_calm: impl Fn() -> bool) {
        while !self.time.is_zero() {
            self.asleep.store(true, Ordering::Relaxed);
            self.woken.notified().await;
            self.asleep.store(false, Ordering::Relaxed);
            let (mut seen, mut since) = (self.moves.load(Ordering::Relaxed), Instant::now());
            while since.elapsed() < self.time && is_calm() {
                // Whoever yields lets the runtime look at its sockets before it goes on.
                yield_now().await;
                let moves = self.moves.load(Ordering::Relaxed);
                if moves != seen {
                    (seen, since) = (moves, Instant::now());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// A runtime of one thread, and how often that thread has gone to sleep.
    fn runtime() -> (tokio::runtime::Runtime, Arc<AtomicUsize>) {
        let sleeps = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&sleeps);
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().on_thread_park(move || _ = counted.fetch_add(1, Ordering::Relaxed));
        (builder.build().unwrap(), sleeps)
    }

    #[test]
    fn a_thread_does_not_sleep_while_the_last_request_is_recent_and_sees_what_comes_meanwhile() {
        let (runtime, sleeps) = runtime();
        runtime.block_on(async {
            let busy = BusyPoll::new(Duration::from_secs(3600));
            let awake = tokio::spawn(Arc::clone(&busy).keep_awake(|| true));
            yield_now().await;
            busy.moved();
            yield_now().await;
            sleeps.store(0, Ordering::Relaxed);
            let (mut client, ours) = std::os::unix::net::UnixStream::pair().unwrap();
            ours.set_nonblocking(true).unwrap();
            let ours = tokio::net::UnixStream::from_std(ours).unwrap();
            let writing = std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(30));
                std::io::Write::write_all(&mut client, b"request").unwrap();
                client
            });
            ours.readable().await.unwrap();
            assert_eq!(sleeps.load(Ordering::Relaxed), 0);
            awake.abort();
            drop(writing.join().unwrap());
        });
    }

    #[test]
    fn a_thread_sleeps_again_when_nothing_moves() {
        let (runtime, sleeps) = runtime();
        runtime.block_on(async {
            let busy = BusyPoll::new(Duration::from_millis(1));
            tokio::spawn(Arc::clone(&busy).keep_awake(|| true));
            for _ in 0..3 {
                busy.moved();
                let before = sleeps.load(Ordering::Relaxed);
                let end = Instant::now() + PATIENCE;
                while sleeps.load(Ordering::Relaxed) < before + 3 {
                    assert!(Instant::now() < end, "the thread never sleeps");
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                assert!(busy.asleep.load(Ordering::Relaxed));
            }
        });
    }

    #[test]
    fn a_thread_sleeps_while_several_requests_are_in_flight() {
        let (runtime, sleeps) = runtime();
        runtime.block_on(async {
            let busy = BusyPoll::new(Duration::from_secs(3600));
            tokio::spawn(Arc::clone(&busy).keep_awake(|| false));
            for _ in 0..3 {
                let before = sleeps.load(Ordering::Relaxed);
                busy.moved();
                tokio::time::sleep(Duration::from_millis(2)).await;
                assert!(sleeps.load(Ordering::Relaxed) > before);
            }
        });
    }

    #[test]
    fn turned_off_it_ends_and_counts_nothing() {
        let (runtime, _) = runtime();
        let busy = BusyPoll::new(Duration::ZERO);
        busy.moved();
        runtime.block_on(Arc::clone(&busy).keep_awake(|| true));
        assert_eq!(busy.moves.load(Ordering::Relaxed), 0);
    }
}
