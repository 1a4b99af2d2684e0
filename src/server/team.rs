//! One request on several compute threads: the parts of its rows that a model runs apart are run at once by threads that would
//! rest otherwise.
//!
//! Whoever has the request runs parts of it until none is left; idle threads are called, and each that comes runs parts, too.
//! A thread that helps goes back as soon as another request waits, with the part at hand done, so no request waits for
//! longer than a part takes; what it leaves is there for whoever has nothing to do next. Who runs a part changes no bit
//! of its scores. A small request is not shared: to wake a thread takes longer than it does.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, select_biased};

use super::compute::Job;
use crate::defence::RawScores;
use crate::engine::EngineError;
use crate::pipeline::{Begun, Pipeline};
use crate::tensor::Inputs;

/// The compute threads of a server, for each other.
pub(super) struct Team {
    jobs: Receiver<Job>,
    /// For requests that may have been answered meanwhile.
    calls: (Sender<Weak<Shared>>, Receiver<Weak<Shared>>),
    /// Threads that have nothing to do.
    idle: AtomicUsize,
    /// What takes no longer is not shared.
    quick: Duration,
}

/// What a thread is to do next.
#[allow(clippy::large_enum_variant, reason = "made and taken apart at once, never stored")]
pub(super) enum Next {
    /// To answer a request.
    Answer(Job),
    /// To help with one, if it has not been answered yet.
    Help(Weak<Shared>),
}

/// The parts of a request.
pub(super) struct Shared {
    pipeline: Arc<Pipeline>,
    inputs: Arc<Inputs>,
    parts: Vec<Range<usize>>,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// The next part that nobody has taken.
    next: usize,
    /// Parts that are being run.
    running: usize,
    /// How long the parts took, one after the other.
    busy: Duration,
    scores: Vec<Option<Result<RawScores, EngineError>>>,
}

impl Team {
    pub(super) fn new(jobs: Receiver<Job>, threads: usize, quick: Duration) -> Self {
        Self { jobs, calls: bounded(threads.max(1)), idle: AtomicUsize::new(0), quick }
    }

    /// What there is to do next for a thread; none at the end.
    pub(super) fn next(&self) -> Option<Next> {
        self.idle.fetch_add(1, Ordering::AcqRel);
        let next = select_biased! {
            recv(self.jobs) -> job => job.ok().map(Next::Answer),
            recv(self.calls.1) -> shared => shared.ok().map(Next::Help),
        };
        self.idle.fetch_sub(1, Ordering::AcqRel);
        next
    }

    /// What takes no longer than this is not shared.
    pub(super) fn quick(&self) -> Duration {
        self.quick
    }

    /// Whether somebody would help.
    pub(super) fn has_idle(&self) -> bool {
        self.idle.load(Ordering::Acquire) > 0 && self.jobs.is_empty()
    }

    /// The scores of a request, with the help of whoever is idle, and how much longer one thread alone would have taken. An
    /// error is that of the first part that the model fails on.
    pub(super) fn infer(
        &self,
        pipeline: &Arc<Pipeline>,
        request: &Begun,
    ) -> (Result<RawScores, EngineError>, Duration) {
        let shared = Arc::new(Shared::new(pipeline, request));
        if shared.parts.len() == 1 {
            return (pipeline.raw(&shared.inputs), Duration::ZERO);
        }
        let start = Instant::now();
        let helpers = self.idle.load(Ordering::Acquire).min(shared.parts.len().saturating_sub(1));
        for _ in 0..helpers {
            // Where as many calls wait, nobody is idle.
            let _ = self.calls.0.try_send(Arc::downgrade(&shared));
        }
        shared.run(|| true);
        let scores = shared.scores();
        (scores, shared.state().busy.saturating_sub(start.elapsed()))
    }

    /// Helps until nothing is left to take, or another request waits: then the call goes on to the next that is idle, who
    /// takes requests before calls.
    pub(super) fn help(&self, call: Weak<Shared>) {
        let Some(shared) = call.upgrade() else { return };
        shared.run(|| self.jobs.is_empty());
        if shared.has_more() {
            let _ = self.calls.0.try_send(call);
        }
    }
}

impl Shared {
    fn new(pipeline: &Arc<Pipeline>, request: &Begun) -> Self {
        let parts = pipeline.blocks(request.n_rows());
        let scores = parts.iter().map(|_| None).collect();
        let state = Mutex::new(State { next: 0, running: 0, busy: Duration::ZERO, scores });
        let (pipeline, inputs) = (Arc::clone(pipeline), request.inputs());
        Self { pipeline, inputs, parts, state, changed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs one part after the other, for as long as there are some and `goes_on`.
    fn run(&self, goes_on: impl Fn() -> bool) {
        while goes_on()
            && let Some(index) = self.take()
        {
            let rows = self.parts[index].clone();
            let infer = || self.pipeline.infer_block(&self.inputs, rows);
            let start = Instant::now();
            let scores = catch_unwind(AssertUnwindSafe(infer)).unwrap_or(Err(EngineError::Run));
            self.put(index, scores, start.elapsed());
        }
    }

    /// Whether there are parts that nobody has taken.
    fn has_more(&self) -> bool {
        self.state().next < self.parts.len()
    }

    fn take(&self) -> Option<usize> {
        let mut state = self.state();
        let index = Some(state.next).filter(|&index| index < self.parts.len())?;
        state.next += 1;
        state.running += 1;
        Some(index)
    }

    fn put(&self, index: usize, scores: Result<RawScores, EngineError>, took: Duration) {
        let mut state = self.state();
        state.busy += took;
        if scores.is_err() {
            // There will be no answer: the rest is not run.
            state.next = self.parts.len();
        }
        state.scores[index] = Some(scores);
        state.running -= 1;
        self.changed.notify_all();
    }

    /// The scores of all parts, once those that others run are there, too.
    fn scores(&self) -> Result<RawScores, EngineError> {
        let state = self.changed.wait_while(self.state(), |state| state.running > 0);
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        let parts: Vec<RawScores> = state.scores.drain(..).flatten().collect::<Result<_, _>>()?;
        RawScores::joined(&parts).filter(|scores| scores.n_rows() == self.inputs.n_rows()).ok_or(EngineError::Run)
    }
}
