//! The queue of a server that puts requests together: those of one version of a model that wait are run as one batch.
//!
//! A request is read first, by any free thread, so that one that cannot be read never comes into a batch and the rows of
//! the others are known. Then it waits in its model's lane until the lane is due: as many rows as a preferred size are
//! there, or the oldest request of it has waited `max_delay`. A lane that is due is taken by one thread, which adds what has
//! come in the meantime. What waits is bounded as without batches; requests leave in the order in which they came.
//!
//! ```text
//!  push ──▶ fresh ──▶ read ──▶ lane of the model ──▶ due: rows or delay ──▶ one inference ──▶ an answer for each
//! ```

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::compute::{Job, Ready};
use super::config::Batching;
use super::models::Served;

/// Requests that wait for a thread.
pub(super) struct Waiting {
    state: Mutex<State>,
    changed: Condvar,
    capacity: usize,
    batching: Batching,
}

#[derive(Default)]
struct State {
    /// As they came.
    fresh: VecDeque<Job>,
    /// Read, by model; never empty.
    lanes: Vec<Lane>,
    closed: bool,
}

struct Lane {
    served: Arc<Served>,
    /// Oldest first.
    ready: VecDeque<Ready>,
    n_rows: usize,
}

/// What a thread is to do next.
pub(super) enum Task {
    /// To read a request, or to answer one whose model takes no batches.
    Read(Job),
    /// To run these, and others of their model while there is room for so many rows.
    Run(Vec<Ready>, usize),
}

/// Why a request was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotTaken {
    Full,
    Closed,
}

impl Waiting {
    pub(super) fn new(capacity: usize, batching: Batching) -> Self {
        Self { state: Mutex::default(), changed: Condvar::new(), capacity, batching }
    }

    pub(super) fn len(&self) -> usize {
        self.state().len()
    }

    /// Takes a request in, if there is room.
    pub(super) fn push(&self, job: Job) -> Result<(), NotTaken> {
        let mut state = self.state();
        if state.closed {
            return Err(NotTaken::Closed);
        }
        if state.len() >= self.capacity {
            return Err(NotTaken::Full);
        }
        state.fresh.push_back(job);
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    /// Takes a request that has been read into the lane of its model.
    pub(super) fn put(&self, ready: Ready) {
        self.state().put(ready);
        self.changed.notify_one();
    }

    /// No more requests come: what waits is due at once, then the threads end.
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.changed.notify_all();
    }

    /// The next task of a thread, when there is one; `None` when no more will come.
    pub(super) fn next(&self) -> Option<Task> {
        let mut state = self.state();
        loop {
            let now = Instant::now();
            let task = match state.due(now, &self.batching) {
                Some((lane, limit)) => Some(Task::Run(state.take(lane, limit), limit)),
                None => state.fresh.pop_front().map(Task::Read),
            };
            if task.is_some() {
                // Whoever was woken for what is left may be busy now: another is to look.
                if state.len() > 0 {
                    self.changed.notify_one();
                }
                return task;
            }
            if state.closed && state.len() == 0 {
                return None;
            }
            state = match state.next_due(self.batching.max_delay) {
                Some(due) => {
                    let pause = due.saturating_duration_since(now).max(Duration::from_micros(1));
                    self.changed.wait_timeout(state, pause).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// The oldest request of this model that nobody has read yet.
    pub(super) fn fresh_of(&self, served: &Arc<Served>) -> Option<Job> {
        let mut state = self.state();
        let place = state.fresh.iter().position(|job| Arc::ptr_eq(&job.call.served, served))?;
        state.fresh.remove(place)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn len(&self) -> usize {
        self.fresh.len() + self.lanes.iter().map(|lane| lane.ready.len()).sum::<usize>()
    }

    fn put(&mut self, ready: Ready) {
        let served = &ready.job.call.served;
        let n_rows = ready.n_rows();
        let Some(lane) = self.lanes.iter_mut().find(|lane| Arc::ptr_eq(&lane.served, served)) else {
            let served = Arc::clone(served);
            self.lanes.push(Lane { served, ready: VecDeque::from([ready]), n_rows });
            return;
        };
        // Reading takes some longer than others: the order is that in which they came.
        let place = lane.ready.partition_point(|other| other.job.queued_at <= ready.job.queued_at);
        lane.ready.insert(place, ready);
        lane.n_rows += n_rows;
    }

    /// The lane that is due, with the rows that its batch may have; of several the one with the oldest request.
    fn due(&self, now: Instant, batching: &Batching) -> Option<(usize, usize)> {
        let due = |lane: &Lane| {
            let full = batching.reached(lane.n_rows);
            let waited = lane.oldest().is_some_and(|oldest| now >= oldest + batching.max_delay);
            full.or((waited || self.closed).then_some(batching.max_rows))
        };
        let lanes = self.lanes.iter().enumerate().filter_map(|(place, lane)| Some((place, due(lane)?, lane.oldest()?)));
        lanes.min_by_key(|&(_, _, oldest)| oldest).map(|(place, limit, _)| (place, limit))
    }

    /// When the first lane will be due, if nothing comes.
    fn next_due(&self, max_delay: Duration) -> Option<Instant> {
        self.lanes.iter().filter_map(Lane::oldest).min().map(|oldest| oldest + max_delay)
    }

    /// The oldest requests of a lane that have so many rows together: at least one, however many it has.
    fn take(&mut self, place: usize, limit: usize) -> Vec<Ready> {
        let Some(lane) = self.lanes.get_mut(place) else { return Vec::new() };
        let mut taken = Vec::new();
        let mut n_rows = 0;
        while let Some(next) = lane.ready.front() {
            if !taken.is_empty() && n_rows + next.n_rows() > limit {
                break;
            }
            n_rows += next.n_rows();
            taken.extend(lane.ready.pop_front());
        }
        lane.n_rows -= n_rows;
        if lane.ready.is_empty() {
            self.lanes.swap_remove(place);
        }
        taken
    }
}

impl Lane {
    fn oldest(&self) -> Option<Instant> {
        self.ready.front().map(|ready| ready.job.queued_at)
    }
}
