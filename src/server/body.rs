//! Request bodies: read within a limit, a deadline and a budget over all connections.
//!
//! The budget is charged for bytes that have arrived, never for bytes that a client says will come, and goes on
//! being charged until the request has been computed.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Incoming};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::protocol::{Refusal, RefusalKind};

/// The unit of the budget.
const CHUNK: usize = 1024;

/// The most that is read from a client whose request has been refused, so that it gets to read why.
const DISCARD_BYTES: usize = 64 << 20;
/// The longest that this may take.
const DISCARD_TIME: Duration = Duration::from_secs(2);

/// Limits of one body.
#[derive(Debug, Clone)]
pub(super) struct BodyLimits {
    pub(super) max_bytes: usize,
    pub(super) deadline: Duration,
    pub(super) budget: Arc<Semaphore>,
}

/// A body that has arrived; its charge on the budget ends when this is dropped.
#[derive(Debug)]
pub(super) struct ReadBody {
    pub(super) bytes: Bytes,
    _charge: OwnedSemaphorePermit,
}

/// A budget of `bytes`, in units of whole kibibytes.
pub(super) fn budget(bytes: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(bytes.div_ceil(CHUNK).clamp(1, Semaphore::MAX_PERMITS)))
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
        tokio::time::timeout(self.deadline, self.collect(body, declared)).await.unwrap_or_else(|_| {
            let seconds = self.deadline.as_secs_f64();
            Err(Refusal::new(
                RefusalKind::SlowRequest,
                format!("the request body did not arrive within {seconds} seconds"),
            ))
        })
    }

    async fn collect(&self, body: &mut Incoming, declared: usize) -> Result<ReadBody, Refusal> {
        let mut charge = self.charge(0)?;
        let mut first = Bytes::new();
        let mut rest: Option<BytesMut> = None;
        let mut length = 0_usize;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| Refusal::bad_request("the request body was broken off"))?;
            let Ok(data) = frame.into_data() else { continue };
            length = length.saturating_add(data.len());
            if length > self.max_bytes {
                return Err(self.too_large(None));
            }
            let missing = length.div_ceil(CHUNK).saturating_sub(charge.num_permits());
            charge.merge(self.charge(missing)?);
            match &mut rest {
                Some(rest) => rest.extend_from_slice(&data),
                None if first.is_empty() => first = data,
                None => {
                    let mut joined = BytesMut::with_capacity(declared.max(length));
                    joined.extend_from_slice(&first);
                    joined.extend_from_slice(&data);
                    rest = Some(joined);
                }
            }
        }
        Ok(ReadBody { bytes: rest.map_or(first, BytesMut::freeze), _charge: charge })
    }

    fn charge(&self, chunks: usize) -> Result<OwnedSemaphorePermit, Refusal> {
        let chunks = u32::try_from(chunks).unwrap_or(u32::MAX);
        Arc::clone(&self.budget).try_acquire_many_owned(chunks).map_err(|_| {
            Refusal::new(RefusalKind::Overloaded, "too many request bytes are held at this time; try again later")
        })
    }

    fn too_large(&self, declared: Option<usize>) -> Refusal {
        let got = declared.map_or_else(|| "more came".to_owned(), |declared| format!("got {declared}"));
        let max = self.max_bytes;
        Refusal::new(RefusalKind::TooLarge, format!("the request body may hold at most {max} bytes, {got}"))
    }
}

/// Reads on, within bounds, after a refusal: a client that is still writing would otherwise see its connection
/// reset before it reads the answer.
pub(super) async fn discard(body: &mut Incoming) {
    let reading = async {
        let mut length = 0;
        while let Some(Ok(frame)) = body.frame().await {
            length += frame.data_ref().map_or(0, Bytes::len);
            if length > DISCARD_BYTES {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(DISCARD_TIME, reading).await;
}
