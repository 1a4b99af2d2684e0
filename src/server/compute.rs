//! The compute threads: ours, named and counted, behind a bounded queue that refuses at the door.
//!
//! A job carries the snapshot of the pipeline that its request took, its body, and the body's charge on the
//! byte budget, so that a client that leaves does not free what is still being worked on. A job whose client
//! has gone before its turn, or has waited too long for it, is skipped. A model in another server takes none of these
//! threads ([`upstream`]). A panic is caught, answered with a fixed sentence, and the thread goes on. Where requests are
//! put together ([`gather`](super::gather)), each is read alone, defended alone and answered alone: only the model runs once
//! for all.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::{Sender, TrySendError, bounded};
use hyper::header::HeaderValue;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::body::{Charge, ReadBody};
use super::coding::Coding;
use super::config::ComputeConfig;
use super::gather::{NotTaken, Task, Waiting};
use super::metrics::Metrics;
use super::models::Served;
use super::team::{Next, Team};
use super::upstream::{self, Beside};
use crate::defence::RawScores;
use crate::engine::{CallContext, EngineError};
use crate::pipeline::{Begun, Facts, Pipeline, Together};
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

pub(super) struct Job {
    pub(super) call: Call,
    pub(super) queued_at: Instant,
    /// Set by whoever is first: the thread that runs it, or the client's side that has waited too long.
    claimed: Arc<AtomicBool>,
    reply: oneshot::Sender<Done>,
}

/// A request that has been read and waits for others.
pub(super) struct Ready {
    /// Its body has been let go of; what its values take is charged.
    pub(super) job: Job,
    begun: Begun,
}

enum Queue {
    Plain(Sender<Job>),
    Gathering(Arc<Waiting>),
}

/// The threads and their queue.
pub(super) struct Compute {
    jobs: Queue,
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
        let (jobs, worker) = match config.batching.clone().filter(|_| !config.inline) {
            None => {
                let (jobs, received) = bounded(config.queue);
                (Queue::Plain(jobs), Worker::Plain(Arc::new(Team::new(received, config.threads, config.quick))))
            }
            Some(batching) => {
                let waiting = Arc::new(Waiting::new(config.queue, batching));
                (Queue::Gathering(Arc::clone(&waiting)), Worker::Gathering(waiting))
            }
        };
        let n_threads = if config.inline { 0 } else { config.threads };
        let threads = (0..n_threads).map(|index| {
            let worker = worker.clone();
            let metrics = Arc::clone(metrics);
            let name = format!("sordino-compute-{index}");
            std::thread::Builder::new().name(name).spawn(move || match worker {
                Worker::Plain(team) => work(&team, &metrics),
                Worker::Gathering(waiting) => work_together(&waiting, &metrics),
            })
        });
        let threads = threads.collect::<Result<_, _>>()?;
        let (queue_timeout, inline, quick) = (config.queue_timeout, config.inline, config.quick);
        let (metrics, beside) = (Arc::clone(metrics), Beside::new(config));
        Ok((Self { jobs, queue_timeout, inline, quick, metrics, beside }, threads))
    }

    /// Requests that wait for a thread.
    pub(super) fn queue_depth(&self) -> usize {
        match &self.jobs {
            Queue::Plain(jobs) => jobs.len(),
            Queue::Gathering(waiting) => waiting.len(),
        }
    }

    fn push(&self, job: Job) -> Result<(), NotTaken> {
        match &self.jobs {
            Queue::Plain(jobs) => jobs.try_send(job).map_err(|error| match error {
                TrySendError::Full(_) => NotTaken::Full,
                TrySendError::Disconnected(_) => NotTaken::Closed,
            }),
            Queue::Gathering(waiting) => waiting.push(job),
        }
    }

    /// Whether nobody gains by handing `call` to another thread.
    fn is_quick_and_alone(&self, call: &Call) -> bool {
        // The request itself is in flight.
        // A request that would be put together with others is answered as if it had been, bit for bit.
        let nobody_waits = matches!(&self.jobs, Queue::Plain(jobs) if jobs.is_empty());
        let is_alone = self.metrics.in_flight.get() <= 1 && nobody_waits;
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
            return Ok(answer(call, Duration::ZERO, None, &self.metrics));
        }
        let (reply, mut done) = oneshot::channel();
        let claimed = Arc::new(AtomicBool::new(false));
        let job = Job { call, queued_at: Instant::now(), claimed: Arc::clone(&claimed), reply };
        self.push(job).map_err(|reason| match reason {
            NotTaken::Full => Refusal::new(RefusalKind::Overloaded, "the queue is full; try again later"),
            NotTaken::Closed => Refusal::internal(),
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

impl Drop for Compute {
    fn drop(&mut self) {
        if let Queue::Gathering(waiting) = &self.jobs {
            waiting.close();
        }
    }
}

/// What a thread works from.
#[derive(Clone)]
enum Worker {
    Plain(Arc<Team>),
    Gathering(Arc<Waiting>),
}

impl Job {
    /// Whether its client still waits, and nobody else has it: whoever gets `true` must answer.
    fn claim(&self, metrics: &Metrics) -> bool {
        let taken = !self.reply.is_closed() && !self.claimed.swap(true, Ordering::AcqRel);
        if !taken {
            metrics.skipped.inc();
        }
        taken
    }

    /// Answers it alone, with the help of others that are idle.
    fn run(self, team: Option<&Team>, metrics: &Metrics) {
        if self.claim(metrics) {
            let Self { call, queued_at, reply, .. } = self;
            // A client that has left in the meantime does not want the answer.
            let _ = reply.send(answer(call, queued_at.elapsed(), team, metrics));
        }
    }

    /// Reads it, to be run with others; one that cannot be read is answered here.
    fn read(mut self, metrics: &Metrics) -> Option<Ready> {
        if self.reply.is_closed() || self.claimed.load(Ordering::Acquire) {
            metrics.skipped.inc();
            return None;
        }
        let queued = self.queued_at.elapsed();
        let mut facts = Facts::default();
        let read = catch_unwind(AssertUnwindSafe(|| self.call.begin(&mut facts)));
        match read.unwrap_or_else(|_| Err(panicked(metrics))) {
            Ok(begun) => Some(Ready { job: self, begun }),
            Err(refusal) => {
                if self.claim(metrics) {
                    let charge = self.call.body.charge;
                    let _ = self.reply.send(Done { result: Err(refusal), facts, queued, charge });
                }
                None
            }
        }
    }
}

impl Ready {
    pub(super) fn n_rows(&self) -> usize {
        self.begun.n_rows()
    }

    /// Answers it with a refusal in place of scores.
    fn refuse(self, refusal: Refusal, queued: Duration) {
        let Self { job: Job { call, reply, .. }, begun } = self;
        let _ = reply.send(Done { result: Err(refusal), facts: begun.facts(), queued, charge: call.body.charge });
    }

    /// Answers it with its own scores, panics caught.
    fn finish(self, raw: Result<RawScores, EngineError>, infer: Duration, queued: Duration, metrics: &Metrics) {
        let Self { job: Job { call, reply, .. }, begun } = self;
        let Call { served, accepts, body, .. } = call;
        let journey = || {
            let (answer, facts) = served.pipeline.finished(begun, raw, infer);
            (pack(answer, accepts), facts)
        };
        let (result, facts) =
            catch_unwind(AssertUnwindSafe(journey)).unwrap_or_else(|_| (Err(panicked(metrics)), Facts::default()));
        let _ = reply.send(Done { result, facts, queued, charge: body.charge });
    }
}

fn work(team: &Team, metrics: &Metrics) {
    while let Some(next) = team.next() {
        match next {
            Next::Answer(job) => job.run(Some(team), metrics),
            Next::Help(call) => team.help(call),
        }
    }
}

fn work_together(waiting: &Waiting, metrics: &Metrics) {
    while let Some(task) = waiting.next() {
        match task {
            Task::Read(job) if job.call.served.pipeline.together() == Together::Never => job.run(None, metrics),
            Task::Read(job) => job.read(metrics).into_iter().for_each(|ready| waiting.put(ready)),
            Task::Run(mut batch, limit) => {
                fill(&mut batch, limit, waiting, metrics);
                run_together(batch, metrics);
            }
        }
    }
}

/// Adds requests of the same model that have come in the meantime, while there is room for their rows.
fn fill(batch: &mut Vec<Ready>, limit: usize, waiting: &Waiting, metrics: &Metrics) {
    let Some(served) = batch.first().map(|ready| Arc::clone(&ready.job.call.served)) else { return };
    let mut n_rows: usize = batch.iter().map(Ready::n_rows).sum();
    while n_rows < limit {
        let Some(job) = waiting.fresh_of(&served) else { return };
        let Some(ready) = job.read(metrics) else { continue };
        if n_rows + ready.n_rows() > limit {
            return waiting.put(ready);
        }
        n_rows += ready.n_rows();
        batch.push(ready);
    }
}

/// Runs requests of one model as one, and each of them alone where that fails: a request that the model cannot answer must
/// not fail its neighbours.
fn run_together(batch: Vec<Ready>, metrics: &Metrics) {
    let mut batch: Vec<Ready> = batch.into_iter().filter(|ready| ready.job.claim(metrics)).collect();
    for late in batch.extract_if(.., |ready| ready.begun.late().is_some()) {
        let queued = late.job.queued_at.elapsed();
        if let Some(refusal) = late.begun.late() {
            late.refuse(refusal, queued);
        }
    }
    let Some(pipeline) = batch.first().map(|ready| Arc::clone(&ready.job.call.served.pipeline)) else { return };
    let queued: Vec<Duration> = batch.iter().map(|ready| ready.job.queued_at.elapsed()).collect();
    let infer = |requests: &[&Begun]| {
        let start = Instant::now();
        let scores = catch_unwind(AssertUnwindSafe(|| pipeline.infer_together(requests)));
        (scores.unwrap_or(Err(EngineError::Run)), start.elapsed())
    };
    metrics.batch(batch.len(), batch.iter().map(Ready::n_rows).sum());
    let (scores, taken) = infer(&batch.iter().map(|ready| &ready.begun).collect::<Vec<_>>());
    match scores {
        Ok(scores) => {
            for ((ready, raw), queued) in batch.into_iter().zip(scores).zip(queued) {
                ready.finish(Ok(raw), taken, queued, metrics);
            }
        }
        Err(error) => {
            let alone = batch.len() == 1;
            if !alone {
                metrics.batch_failures.inc();
            }
            for (ready, queued) in batch.into_iter().zip(queued) {
                if ready.job.reply.is_closed() {
                    metrics.skipped.inc();
                    continue;
                }
                let (raw, taken) = if alone { (Err(error.clone()), taken) } else { infer(&[&ready.begun]) };
                ready.finish(raw.map(|mut scores| scores.swap_remove(0)), taken, queued, metrics);
            }
        }
    }
}

/// The journey of one request through the pipeline, panics caught.
fn answer(call: Call, queued: Duration, team: Option<&Team>, metrics: &Metrics) -> Done {
    let charge = call.body.charge.of_same_budget();
    let unpacked = catch_unwind(AssertUnwindSafe(|| call.unpacked()));
    let mut call = match unpacked.unwrap_or_else(|_| Err((panicked(metrics), charge))) {
        Ok(call) => call,
        Err((refusal, charge)) => return Done { result: Err(refusal), facts: Facts::default(), queued, charge },
    };
    let is_slow = |team: &Team| !call.served.quickness.promises(call.body.bytes.len(), team.quick());
    let team = team.filter(|team| team.has_idle() && is_slow(team));
    let journey = || {
        let asked = call.charge_decoded().and_then(|()| call.dialect.call(&call.body));
        let ((answer, facts), saved) = match (asked, team) {
            (Ok(asked), None) => (call.served.pipeline.answer_within(asked, &call.context), Duration::ZERO),
            (Ok(asked), Some(team)) => shared_out(team, &call.served.pipeline, asked, &call.context),
            (Err(refusal), _) => ((Err(refusal), Facts::default()), Duration::ZERO),
        };
        (pack(answer, call.accepts), facts, saved)
    };
    let begun = Instant::now();
    let (result, facts, saved) = catch_unwind(AssertUnwindSafe(journey))
        .unwrap_or_else(|_| (Err(panicked(metrics)), Facts::default(), Duration::ZERO));
    if result.is_ok() {
        // As long as it would have taken alone.
        call.served.quickness.learn(call.body.bytes.len(), begun.elapsed() + saved);
    }
    Done { result, facts, queued, charge: call.body.charge }
}

/// The journey of one request, its rows shared out, and what that saved.
fn shared_out(
    team: &Team,
    pipeline: &Arc<Pipeline>,
    asked: protocol::Call<'_>,
    context: &CallContext,
) -> ((Result<Answer, Refusal>, Facts), Duration) {
    let mut facts = Facts::default();
    let begun = match pipeline.begun(asked, context, &mut facts) {
        Ok(begun) => begun,
        Err(refusal) => return ((Err(refusal), facts), Duration::ZERO),
    };
    let start = Instant::now();
    let (raw, saved) = team.infer(pipeline, &begun);
    (pipeline.finished(begun, raw, start.elapsed()), saved)
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

    /// Reads the request, unpacked; the body is let go of, and charged for what its values take.
    fn begin(&mut self, facts: &mut Facts) -> Result<Begun, Refusal> {
        if let Some(coding) = self.packed.take() {
            let empty = ReadBody { bytes: Bytes::new(), charge: self.body.charge.of_same_budget() };
            let packed = std::mem::replace(&mut self.body, empty);
            self.body = coding.unpack(packed, self.max_bytes)?;
        }
        self.charge_decoded()?;
        let asked = self.dialect.call(&self.body)?;
        let begun = self.served.pipeline.begun(asked, &self.context, facts)?;
        self.body.bytes = Bytes::new();
        self.body.charge.grow(begun.n_bytes())?;
        Ok(begun)
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
