//! The journey of a request whose model runs in another server: read, asked, answered.
//!
//! The time that the other server takes holds no thread. Reading and writing are work for the processor: small messages are
//! worked on where they are, as the switch to another thread would cost more; large ones beside the threads that serve
//! connections, as many at a time as there are compute threads. How many requests may wait for that has a bound, as the
//! queue of the compute threads has; how many answers may, the one on requests under way, which they are until they
//! have been read.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::body::{Charge, ReadBody};
use super::compute::{Call, Computed, Done, pack, panicked};
use super::config::ComputeConfig;
use super::metrics::Metrics;
use crate::engine::EngineError;
use crate::engine::upstream::WireReply;
use crate::pipeline::{Facts, Voyage};
use crate::protocol::{Refusal, RefusalKind};

/// A larger request or answer is worked on beside the threads that serve connections.
const HERE: usize = 32 << 10;

/// Work that is done beside the threads that serve connections, within bounds.
pub(super) struct Beside {
    /// Requests that are worked on, or wait for that.
    places: Arc<Semaphore>,
    /// What is worked on at one time.
    threads: Arc<Semaphore>,
    patience: Duration,
}

impl Beside {
    pub(super) fn new(config: &ComputeConfig) -> Self {
        let threads = config.threads.clamp(1, Semaphore::MAX_PERMITS);
        let places = threads.saturating_add(config.queue).min(Semaphore::MAX_PERMITS);
        let (places, threads) = (Arc::new(Semaphore::new(places)), Arc::new(Semaphore::new(threads)));
        Self { places, threads, patience: config.queue_timeout }
    }

    /// Works on a request, if there is room for it and a thread in time. The place goes with the work: a client that leaves
    /// frees nothing that is still being worked on.
    async fn read<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
        let full = |_| Refusal::new(RefusalKind::Overloaded, "the queue is full; try again later");
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(full)?;
        let thread = timeout(self.patience, Arc::clone(&self.threads).acquire_owned()).await;
        let late = |_| Refusal::new(RefusalKind::QueueTimeout, "no thread was free in time; try again later");
        let thread = thread.map_err(late)?.map_err(|_| Refusal::internal())?;
        spawned(work, (place, thread)).await
    }

    /// Works on an answer, whose number has a bound already.
    async fn answer<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
        let thread = Arc::clone(&self.threads).acquire_owned().await.map_err(|_| Refusal::internal())?;
        spawned(work, thread).await
    }
}

async fn spawned<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
    held: impl Send + 'static,
) -> Result<T, Refusal> {
    let done = tokio::task::spawn_blocking(move || {
        let done = work();
        drop(held);
        done
    });
    done.await.map_err(|_| Refusal::internal())
}

/// A request that has been read, or why not.
struct Begun {
    voyage: Result<Voyage, Refusal>,
    call: Call,
    facts: Facts,
}

/// The journey of one request, panics caught.
pub(super) async fn answer(call: Call, beside: &Beside, metrics: &Arc<Metrics>) -> Done {
    let charge = call.body.charge.of_same_budget();
    let begun = if call.packed.is_none() && call.body.bytes.len() <= HERE {
        begin(call, metrics)
    } else {
        let metrics = Arc::clone(metrics);
        match beside.read(move || begin(call, &metrics)).await {
            Ok(begun) => begun,
            Err(refusal) => Err((refusal, charge)),
        }
    };
    let (voyage, call, facts) = match begun {
        Ok(Begun { voyage: Ok(voyage), call, facts }) => (voyage, call, facts),
        Ok(Begun { voyage: Err(refusal), call, facts }) => return done(Err(refusal), facts, call.body.charge),
        Err((refusal, charge)) => return done(Err(refusal), Facts::default(), charge),
    };
    let asked = std::time::Instant::now();
    let reply = call.served.pipeline.ask(&voyage).await;
    let facts = Facts { infer: asked.elapsed(), ..facts };
    let size = reply.as_ref().map_or(0, |reply| reply.body.len());
    if size <= HERE {
        return end(call, voyage, reply, facts, metrics);
    }
    let charge = call.body.charge.of_same_budget();
    let (shared, lost) = (Arc::clone(metrics), facts.clone());
    let ended = beside.answer(move || end(call, voyage, reply, facts, &shared)).await;
    ended.unwrap_or_else(|refusal| done(Err(refusal), lost, charge))
}

fn done(result: Result<Computed, Refusal>, facts: Facts, charge: Charge) -> Done {
    Done { result, facts, queued: Duration::ZERO, charge }
}

/// Bytes to a request for the other server. The body is not held any longer; what is sent is charged in its place.
fn begin(call: Call, metrics: &Metrics) -> Result<Begun, (Refusal, Charge)> {
    let charge = call.body.charge.of_same_budget();
    let work = || {
        let mut call = call.unpacked()?;
        let read = call.charge_decoded().and_then(|()| call.dialect.call(&call.body));
        let (voyage, facts) = match read {
            Ok(asked) => call.served.pipeline.set_out(asked, call.context.clone()),
            Err(refusal) => (Err(refusal), Facts::default()),
        };
        let ReadBody { charge, .. } = &mut call.body;
        let voyage = voyage.and_then(|voyage| charge.grow(voyage.n_bytes()).map(|()| voyage));
        call.body.bytes = bytes::Bytes::new();
        Ok(Begun { voyage, call, facts })
    };
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err((panicked(metrics), charge)))
}

/// The other server's answer to bytes, by way of the defence.
fn end(call: Call, voyage: Voyage, reply: Result<WireReply, EngineError>, mut facts: Facts, metrics: &Metrics) -> Done {
    let work = || pack(call.served.pipeline.come_home(voyage, reply, &mut facts), call.accepts);
    let result = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(panicked(metrics)));
    done(result, facts, call.body.charge)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;
    use crate::protocol::RefusalKind;

    #[tokio::test]
    async fn work_beside_has_a_bound_that_leaving_clients_do_not_lift() {
        let config = ComputeConfig {
            threads: 1,
            queue: 1,
            queue_timeout: Duration::from_millis(50),
            ..ComputeConfig::default()
        };
        let beside = Arc::new(Beside::new(&config));
        let (open, gate) = channel::<()>();
        let (begun, has_begun) = tokio::sync::oneshot::channel();
        let of_leaver = Arc::clone(&beside);
        let leaver = tokio::spawn(async move {
            let work = move || {
                let _ = begun.send(());
                let _ = gate.recv();
            };
            of_leaver.read(work).await
        });
        has_begun.await.unwrap();
        leaver.abort();
        assert!(leaver.await.unwrap_err().is_cancelled());
        let (waits, over) = tokio::join!(beside.read(|| ()), beside.read(|| ()));
        assert_eq!(waits.unwrap_err().kind, RefusalKind::QueueTimeout);
        assert_eq!(over.unwrap_err().kind, RefusalKind::Overloaded);
        let answer = tokio::spawn({
            let beside = Arc::clone(&beside);
            async move { beside.answer(|| 7).await }
        });
        open.send(()).unwrap();
        assert_eq!(answer.await.unwrap().unwrap(), 7);
        assert_eq!(beside.read(|| 8).await.unwrap(), 8);
    }
}
