//! The compute threads: ours, named and counted, behind a bounded queue that refuses at the door.
//!
//! A job carries the snapshot of the pipeline that its request took, its body, and the body's charge on the
//! byte budget, so that a client that leaves does not free what is still being worked on. A job whose client
//! has gone before its turn, or has waited too long for it, is skipped. A model in another server takes none of these
//! threads ([`upstream`]). A panic is caught, answered with a fixed sentence, and the thread goes
//! on.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use hyper::header::HeaderValue;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::body::{Charge, ReadBody};
use super::coding::Coding;
use super::config::ComputeConfig;
use super::metrics::Metrics;
use super::models::Served;
use super::upstream::{self, Beside};
use crate::engine::CallContext;
use crate::pipeline::Facts;
use crate::protocol::{self, Answer, Refusal, RefusalKind, grpc};

/// One request, ready to be computed.
pub(super) struct Call {
    pub(super) served: Arc<Served>,
    pub(super) dialect: Dialect,
    pub(super) body: ReadBody,
    /// How the body is packed.
    pub(super) packed: Option<Coding>,
    /// How the answer may be packed.
    pub(super) accepts: Option<Coding>,
    /// The most that the body may unpack to.
    pub(super) max_bytes: usize,
    /// What goes along to a model in another server.
    pub(super) context: CallContext,
}

/// How a body is to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Dialect {
    /// The inference protocol over REST, with the length of its JSON part.
    Oip(Option<HeaderValue>),
    /// A message of the inference protocol over gRPC.
    Grpc,
    /// `:predict`
    Predict,
}

/// What became of a call.
pub(super) struct Done {
    pub(super) result: Result<Computed, Refusal>,
    pub(super) facts: Facts,
    pub(super) queued: Duration,
    /// For the answer to hold until it has been sent.
    pub(super) charge: Charge,
}

/// An answer, packed if the client accepts that and it is worth it.
pub(super) struct Computed {
    pub(super) answer: Answer,
    pub(super) packed: Option<(Coding, Vec<u8>)>,
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
    quick: Duration,
    metrics: Arc<Metrics>,
    /// Where large requests to another server are read, and its large answers.
    beside: Beside,
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
        let (queue_timeout, inline, quick) = (config.queue_timeout, config.inline, config.quick);
        let (metrics, beside) = (Arc::clone(metrics), Beside::new(config));
        Ok((Self { jobs, queue_timeout, inline, quick, metrics, beside }, threads))
    }

    /// Requests that wait for a thread.
    pub(super) fn queue_depth(&self) -> usize {
        self.jobs.len()
    }

    /// Whether nobody gains by handing `call` to another thread.
    fn is_quick_and_alone(&self, call: &Call) -> bool {
        // The request itself is in flight.
        let is_alone = self.metrics.in_flight.get() <= 1 && self.jobs.is_empty();
        is_alone && call.packed.is_none() && call.served.quickness.promises(call.body.bytes.len(), self.quick)
    }

    /// Has `call` computed on a compute thread, or here if so configured or if it is quick and alone.
    ///
    /// # Errors
    /// Overloaded, when the queue is full; a queue timeout, when no thread came in time. All that happens later is in [`Done`].
    pub(super) async fn run(&self, call: Call) -> Result<Done, Refusal> {
        if call.served.pipeline.remote().is_some() {
            return Ok(upstream::answer(call, &self.beside, &self.metrics).await);
        }
        if self.inline || self.is_quick_and_alone(&call) {
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
    let charge = call.body.charge.of_same_budget();
    let unpacked = catch_unwind(AssertUnwindSafe(|| call.unpacked()));
    let call = match unpacked.unwrap_or_else(|_| Err((panicked(metrics), charge))) {
        Ok(call) => call,
        Err((refusal, charge)) => return Done { result: Err(refusal), facts: Facts::default(), queued, charge },
    };
    let mut call = call;
    let journey = || {
        let asked = call.charge_decoded().and_then(|()| call.dialect.call(&call.body));
        let (answer, facts) = match asked {
            Ok(asked) => call.served.pipeline.answer_within(asked, &call.context),
            Err(refusal) => (Err(refusal), Facts::default()),
        };
        (pack(answer, call.accepts), facts)
    };
    let begun = Instant::now();
    let (result, facts) =
        catch_unwind(AssertUnwindSafe(journey)).unwrap_or_else(|_| (Err(panicked(metrics)), Facts::default()));
    if result.is_ok() {
        call.served.quickness.learn(call.body.bytes.len(), begun.elapsed());
    }
    Done { result, facts, queued, charge: call.body.charge }
}

pub(super) fn pack(answer: Result<Answer, Refusal>, accepts: Option<Coding>) -> Result<Computed, Refusal> {
    let answer = answer?;
    let packed = accepts.and_then(|coding| Some((coding, coding.pack(answer.body())?)));
    Ok(Computed { answer, packed })
}

impl Call {
    /// The call with its body as it was before it was packed.
    pub(super) fn unpacked(self) -> Result<Self, (Refusal, Charge)> {
        let Some(coding) = self.packed else { return Ok(self) };
        let budget = self.body.charge.of_same_budget();
        match coding.unpack(self.body, self.max_bytes) {
            Ok(body) => Ok(Self { body, packed: None, ..self }),
            Err(refusal) => Err((refusal, budget)),
        }
    }

    /// Charges for what the body takes once it is read, where that is more than it took on the wire.
    pub(super) fn charge_decoded(&mut self) -> Result<(), Refusal> {
        if self.dialect == Dialect::Grpc {
            let more = grpc::decoded_size(&self.body.bytes)?;
            self.body.charge.grow(self.body.bytes.len().saturating_add(more))?;
        }
        Ok(())
    }
}

/// What is said when a panic was caught.
pub(super) fn panicked(metrics: &Metrics) -> Refusal {
    metrics.panics.inc();
    Refusal::internal()
}

impl Dialect {
    /// The call that a body is in this dialect.
    pub(super) fn call<'a>(&'a self, body: &'a ReadBody) -> Result<protocol::Call<'a>, Refusal> {
        Ok(match self {
            Self::Oip(length) => {
                let length = length.as_ref().map(HeaderValue::to_str).transpose();
                let not_a_number = |_| Refusal::bad_request("Inference-Header-Content-Length is not a number");
                protocol::Call::Oip { header_length: length.map_err(not_a_number)?, body: &body.bytes }
            }
            Self::Grpc => protocol::Call::Grpc(body.bytes.clone()),
            Self::Predict => protocol::Call::Predict(&body.bytes),
        })
    }
}
