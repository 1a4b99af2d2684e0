//! The compute threads: ours, named and counted, behind a bounded queue that refuses at the door.
//!
//! A job carries the snapshot of the pipeline that its request took, its body, and the body's charge on the
//! byte budget, so that a client that leaves does not free what is still being worked on. A job whose client
//! has gone before its turn, or has waited too long for it, is skipped. A model in another server takes no thread: its
//! requests wait where they are, and the bound is the one on requests under way to it. A panic is caught, answered with a fixed sentence, and the thread goes
//! on.

use std::future::{Future as _, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use hyper::header::HeaderValue;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::body::{Charge, ReadBody};
use super::config::ComputeConfig;
use super::metrics::Metrics;
use crate::engine::CallContext;
use crate::pipeline::{Facts, Pipeline};
use crate::protocol::{Answer, Refusal, RefusalKind};

/// One request, ready to be computed.
pub(super) struct Call {
    pub(super) pipeline: Arc<Pipeline>,
    pub(super) header_length: Option<HeaderValue>,
    pub(super) body: ReadBody,
    /// What goes along to a model in another server.
    pub(super) context: CallContext,
}

/// What became of a call.
pub(super) struct Done {
    pub(super) result: Result<Answer, Refusal>,
    pub(super) facts: Facts,
    pub(super) queued: Duration,
    /// For the answer to hold until it has been sent.
    pub(super) charge: Charge,
}

struct Job {
    call: Call,
    queued_at: Instant,
    /// Set by whoever is first: the thread that runs it, or the client's side that has waited too long.
    claimed: Arc<AtomicBool>,
    reply: oneshot::Sender<Done>,
}

/// The threads and their queue.
pub(super) struct Compute {
    jobs: Sender<Job>,
    queue_timeout: Duration,
    inline: bool,
    metrics: Arc<Metrics>,
}

/// The threads, to be waited for when every [`Compute`] has been dropped.
pub(super) type Threads = Vec<JoinHandle<()>>;

impl Compute {
    /// Starts the threads.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(super) fn start(config: &ComputeConfig, metrics: &Arc<Metrics>) -> std::io::Result<(Self, Threads)> {
        let (jobs, received) = bounded(config.queue);
        let n_threads = if config.inline { 0 } else { config.threads };
        let threads = (0..n_threads).map(|index| {
            let received: Receiver<Job> = received.clone();
            let metrics = Arc::clone(metrics);
            let name = format!("sordino-compute-{index}");
            std::thread::Builder::new().name(name).spawn(move || work(&received, &metrics))
        });
        let threads = threads.collect::<Result<_, _>>()?;
        let (queue_timeout, inline) = (config.queue_timeout, config.inline);
        Ok((Self { jobs, queue_timeout, inline, metrics: Arc::clone(metrics) }, threads))
    }

    /// Requests that wait for a thread.
    pub(super) fn queue_depth(&self) -> usize {
        self.jobs.len()
    }

    /// Has `call` computed on a compute thread, or here if so configured.
    ///
    /// # Errors
    /// Overloaded, when the queue is full; a queue timeout, when no thread came in time. All that happens later is in [`Done`].
    pub(super) async fn run(&self, call: Call) -> Result<Done, Refusal> {
        if call.pipeline.remote().is_some() {
            return Ok(answer_upstream(call, &self.metrics).await);
        }
        if self.inline {
            return Ok(answer(call, Duration::ZERO, &self.metrics));
        }
        let (reply, mut done) = oneshot::channel();
        let claimed = Arc::new(AtomicBool::new(false));
        let job = Job { call, queued_at: Instant::now(), claimed: Arc::clone(&claimed), reply };
        self.jobs.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => Refusal::new(RefusalKind::Overloaded, "the queue is full; try again later"),
            TrySendError::Disconnected(_) => Refusal::internal(),
        })?;
        match timeout(self.queue_timeout, &mut done).await {
            Ok(done) => done.map_err(|_| Refusal::internal()),
            // It runs already: the answer is near.
            Err(_) if claimed.swap(true, Ordering::AcqRel) => done.await.map_err(|_| Refusal::internal()),
            Err(_) => {
                let waited = self.queue_timeout.as_secs_f64();
                let message = format!("no compute thread was free within {waited} seconds; try again later");
                Err(Refusal::new(RefusalKind::QueueTimeout, message))
            }
        }
    }
}

fn work(jobs: &Receiver<Job>, metrics: &Metrics) {
    for Job { call, queued_at, claimed, reply } in jobs {
        if reply.is_closed() || claimed.swap(true, Ordering::AcqRel) {
            metrics.skipped.inc();
            continue;
        }
        // A client that has left in the meantime does not want the answer.
        let _ = reply.send(answer(call, queued_at.elapsed(), metrics));
    }
}

/// The journey of one request through the pipeline, panics caught.
fn answer(call: Call, queued: Duration, metrics: &Metrics) -> Done {
    let journey = || match header_length(&call) {
        Ok(header_length) => call.pipeline.answer(header_length, &call.body.bytes),
        Err(refusal) => (Err(refusal), Facts::default()),
    };
    let (result, facts) = catch_unwind(AssertUnwindSafe(journey)).unwrap_or_else(|_| panicked(metrics));
    Done { result, facts, queued, charge: call.body.charge }
}

/// As [`answer`], for a model in another server.
async fn answer_upstream(call: Call, metrics: &Metrics) -> Done {
    let (result, facts) = journey_upstream(&call, metrics).await;
    Done { result, facts, queued: Duration::ZERO, charge: call.body.charge }
}

async fn journey_upstream(call: &Call, metrics: &Metrics) -> (Result<Answer, Refusal>, Facts) {
    let journey = async {
        match header_length(&call) {
            Ok(header_length) => call.pipeline.answer_upstream(header_length, &call.body.bytes, &call.context).await,
            Err(refusal) => (Err(refusal), Facts::default()),
        }
    };
    let mut journey = pin!(journey);
    let guarded = poll_fn(|context| {
        let turn = catch_unwind(AssertUnwindSafe(|| journey.as_mut().poll(context)));
        // After a panic it is not polled again.
        turn.unwrap_or_else(|_| Poll::Ready(panicked(metrics)))
    });
    guarded.await
}

fn header_length(call: &Call) -> Result<Option<&str>, Refusal> {
    let text = call.header_length.as_ref().map(HeaderValue::to_str).transpose();
    text.map_err(|_| Refusal::bad_request("Inference-Header-Content-Length is not a number"))
}

fn panicked(metrics: &Metrics) -> (Result<Answer, Refusal>, Facts) {
    metrics.panics.inc();
    (Err(Refusal::internal()), Facts::default())
}
