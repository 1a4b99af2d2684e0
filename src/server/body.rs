//! Request bodies: read within a limit, a deadline, a least pace and a budget over all connections.
//!
//! The budget is charged for bytes that have arrived, never for bytes that a client says will come. A part of it
//! is kept for small bodies, so that a few large ones cannot shut out everybody else.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout, timeout_at};

use crate::protocol::{Refusal, RefusalKind};

/// The unit of the budget.
const CHUNK: usize = 1024;
/// A body of at most so many bytes may also use the reserve.
const SMALL: usize = 64 << 10;
/// One part in so many of the budget is the reserve, if the rest holds a body of the largest size.
const RESERVE: usize = 8;
/// The slowest that a body may arrive, in bytes per second, over each [`BodyLimits::window`].
const LEAST_PACE: f64 = 8192.0;
/// So much is set aside beyond what has arrived, whatever length a client declares.
const AHEAD: usize = 64 << 10;

/// How long the rest of a small body may take after a refusal for its connection to be kept.
const AT_HAND: Duration = Duration::from_millis(100);
/// The most that is read, behind the answer, from a client whose request has been refused.
const DISCARD_BYTES: usize = 64 << 20;
/// The longest that this may take.
const DISCARD_TIME: Duration = Duration::from_secs(2);

/// Limits of one body.
#[derive(Debug, Clone)]
pub(super) struct BodyLimits {
    pub(super) max_bytes: usize,
    pub(super) deadline: Duration,
    /// In each of these spans a body must end or come forward at [`LEAST_PACE`].
    pub(super) window: Duration,
    pub(super) budget: Arc<Budget>,
}

/// Bytes that bodies may hold over all connections.
#[derive(Debug)]
pub(super) struct Budget {
    common: Semaphore,
    /// For bodies of at most [`SMALL`] bytes.
    reserve: Semaphore,
}

/// What one body takes of the budget, until it is dropped.
#[derive(Debug)]
pub(super) struct Charge {
    budget: Arc<Budget>,
    common: usize,
    reserved: usize,
}

/// A body that has arrived.
#[derive(Debug)]
pub(super) struct ReadBody {
    pub(super) bytes: Bytes,
    pub(super) charge: Charge,
}

impl Budget {
    /// A budget of `bytes` for bodies of up to `max_body` bytes, in units of whole kibibytes.
    pub(super) fn new(bytes: usize, max_body: usize) -> Arc<Self> {
        let chunks = bytes.div_ceil(CHUNK).clamp(1, Semaphore::MAX_PERMITS);
        let reserve = (chunks / RESERVE).min(chunks.saturating_sub(max_body.div_ceil(CHUNK)));
        Arc::new(Self { common: Semaphore::new(chunks - reserve), reserve: Semaphore::new(reserve) })
    }
}

impl Charge {
    pub(super) fn new(budget: &Arc<Budget>) -> Self {
        Self { budget: Arc::clone(budget), common: 0, reserved: 0 }
    }

    /// Nothing yet, of the same budget.
    pub(super) fn of_same_budget(&self) -> Self {
        Self::new(&self.budget)
    }

    /// Charges for a body that has come to `length` bytes.
    pub(super) fn grow(&mut self, length: usize) -> Result<(), Refusal> {
        let missing = length.div_ceil(CHUNK).saturating_sub(self.common + self.reserved);
        let permits = u32::try_from(missing).unwrap_or(u32::MAX);
        let take = |part: &Semaphore| part.try_acquire_many(permits).map(SemaphorePermit::forget).is_ok();
        if take(&self.budget.common) {
            self.common += missing;
        } else if length <= SMALL && take(&self.budget.reserve) {
            self.reserved += missing;
        } else {
            let message = "too many request bytes are held at this time; try again later";
            return Err(Refusal::new(RefusalKind::Overloaded, message));
        }
        Ok(())
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.common.add_permits(self.common);
        self.budget.reserve.add_permits(self.reserved);
    }
}

impl BodyLimits {
    /// Reads the whole body.
    ///
    /// # Errors
    /// Too large (also before anything is read, by the declared length), too slow, over the budget, or broken
    /// off by the client.
    pub(super) async fn read(&self, body: &mut Incoming) -> Result<ReadBody, Refusal> {
        let declared = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
        if declared > self.max_bytes {
            return Err(self.too_large(Some(declared)));
        }
        let mut pace = Pace::new(self);
        let mut charge = Charge::new(&self.budget);
        let mut first = Bytes::new();
        let mut rest: Option<BytesMut> = None;
        let mut length = 0_usize;
        while let Some(frame) = pace.next(body).await? {
            let Ok(data) = frame.into_data() else { continue };
            length = length.saturating_add(data.len());
            if length > self.max_bytes {
                return Err(self.too_large(None));
            }
            charge.grow(length)?;
            match &mut rest {
                Some(rest) => rest.extend_from_slice(&data),
                None if first.is_empty() => first = data,
                None => {
                    let mut joined = BytesMut::with_capacity(declared.clamp(length, length + AHEAD));
                    joined.extend_from_slice(&first);
                    joined.extend_from_slice(&data);
                    rest = Some(joined);
                }
            }
        }
        Ok(ReadBody { bytes: rest.map_or(first, BytesMut::freeze), charge })
    }

    fn too_large(&self, declared: Option<usize>) -> Refusal {
        let got = declared.map_or_else(|| "more came".to_owned(), |declared| format!("got {declared}"));
        let max = self.max_bytes;
        Refusal::new(RefusalKind::TooLarge, format!("the request body may hold at most {max} bytes, {got}"))
    }
}

/// The deadlines of one body.
pub(super) struct Pace<'a> {
    limits: &'a BodyLimits,
    deadline: Instant,
    window_ends: Instant,
    in_window: usize,
}

impl<'a> Pace<'a> {
    pub(super) fn new(limits: &'a BodyLimits) -> Self {
        let now = Instant::now();
        Self { limits, deadline: now + limits.deadline, window_ends: now + limits.window, in_window: 0 }
    }

    /// The next frame, if it comes in time.
    pub(super) async fn next(&mut self, body: &mut Incoming) -> Result<Option<Frame<Bytes>>, Refusal> {
        let Ok(frame) = timeout_at(self.deadline.min(self.window_ends), next_frame(body)).await else {
            return Err(self.too_slow());
        };
        let frame = frame?;
        self.in_window += frame.as_ref().and_then(Frame::data_ref).map_or(0, Bytes::len);
        if self.in_window as f64 >= LEAST_PACE * self.limits.window.as_secs_f64() {
            self.in_window = 0;
            self.window_ends = Instant::now() + self.limits.window;
        }
        Ok(frame)
    }

    fn too_slow(&self) -> Refusal {
        let message = if self.deadline <= self.window_ends {
            format!("the request body did not arrive within {} seconds", self.limits.deadline.as_secs_f64())
        } else {
            let window = self.limits.window.as_secs_f64();
            format!("the request body came at less than {LEAST_PACE} bytes a second over {window} seconds")
        };
        Refusal::new(RefusalKind::SlowRequest, message)
    }
}

/// The next frame, however long it takes; `None` at the end.
pub(super) async fn next_frame(body: &mut Incoming) -> Result<Option<Frame<Bytes>>, Refusal> {
    body.frame().await.transpose().map_err(|_| Refusal::bad_request("the request body was broken off"))
}

/// Whether a body has been read to its end, or is small and can be at once: only then can its connection carry
/// another HTTP/1 request.
pub(super) async fn at_end(body: &mut Incoming) -> bool {
    if body.is_end_stream() {
        return true;
    }
    if body.size_hint().lower() > SMALL as u64 {
        return false;
    }
    timeout(AT_HAND, to_end(body)).await.unwrap_or(false)
}

/// Reads on behind the answer, within bounds: a client that is still writing would otherwise see its connection
/// reset before it reads why it was refused.
pub(super) async fn discard(mut body: Incoming) {
    let _ = timeout(DISCARD_TIME, to_end(&mut body)).await;
}

async fn to_end(body: &mut Incoming) -> bool {
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return false };
        length += frame.data_ref().map_or(0, Bytes::len);
        if length > DISCARD_BYTES {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_is_for_small_bodies_and_leaves_room_for_the_largest() {
        for (total, largest) in [(1 << 20, 1 << 20), (1 << 20, 1000 << 10), (8 << 20, 1 << 20)] {
            let budget = Budget::new(total, largest);
            let mut large = Charge::new(&budget);
            assert!(large.grow(largest).is_ok());
        }
        let budget = Budget::new(1 << 20, 1 << 19);
        let mut large = Charge::new(&budget);
        assert!(large.grow(896 << 10).is_ok() && large.grow(897 << 10).is_err());
        let mut small = Charge::new(&budget);
        assert!(small.grow(10 << 10).is_ok() && small.grow(64 << 10).is_ok());
        assert!(small.grow(65 << 10).is_err());
        drop((large, small));
        assert_eq!((budget.common.available_permits(), budget.reserve.available_permits()), (896, 128));
    }
}
