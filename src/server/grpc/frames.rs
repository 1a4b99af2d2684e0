//! Messages in their frames: one byte that says whether the message is packed, four of its length, the message.
//!
//! A message is read within the same limit, deadline, pace and budget as a body over REST; between messages a stream may
//! rest for a while.

use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use hyper::body::{Frame, Incoming};
use hyper::header::{HeaderMap, HeaderValue};
use tokio::time::timeout;

use super::super::body::{BodyLimits, Charge, Pace, ReadBody, next_frame};
use crate::protocol::{Refusal, RefusalKind};

/// Bytes before a message.
const HEAD: usize = 5;

/// A message as it came.
pub(super) struct Framed {
    pub(super) body: ReadBody,
    /// Whether it is packed.
    pub(super) packed: bool,
}

/// The messages of a request, one after another.
pub(super) struct Messages<'a> {
    limits: &'a BodyLimits,
    body: Incoming,
    buffer: BytesMut,
    charge: Charge,
    ended: bool,
}

impl<'a> Messages<'a> {
    pub(super) fn new(limits: &'a BodyLimits, body: Incoming) -> Self {
        let charge = Charge::new(&limits.budget);
        Self { limits, body, buffer: BytesMut::new(), charge, ended: false }
    }

    /// The next message; `None` at the end of the request. `idle` is the time for its first byte. What has arrived is
    /// kept if the future is dropped.
    pub(super) async fn next(&mut self, idle: Duration) -> Result<Option<Framed>, Refusal> {
        while self.buffer.is_empty() {
            if self.ended {
                return Ok(None);
            }
            let frame = timeout(idle, next_frame(&mut self.body)).await;
            self.take(frame.unwrap_or_else(|_| Err(no_message(idle)))?)?;
        }
        let mut pace = Pace::new(self.limits);
        loop {
            if let Some((packed, length)) = self.head()?
                && self.buffer.len() - HEAD >= length
            {
                self.buffer.advance(HEAD);
                let bytes = self.buffer.split_to(length).freeze();
                let rest = self.charge.of_same_budget();
                let charge = std::mem::replace(&mut self.charge, rest);
                return Ok(Some(Framed { body: ReadBody { bytes, charge }, packed }));
            }
            if self.ended {
                return Err(Refusal::bad_request("the call ends within a message"));
            }
            let frame = pace.next(&mut self.body).await?;
            self.take(frame)?;
        }
    }

    /// The head of the message at hand, once it is there.
    fn head(&self) -> Result<Option<(bool, usize)>, Refusal> {
        let Some((head, _)) = self.buffer.split_first_chunk::<HEAD>() else { return Ok(None) };
        let [packed, length @ ..] = *head;
        if packed > 1 {
            return Err(Refusal::bad_request("a message has a head that is none of gRPC's"));
        }
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        let max = self.limits.max_bytes;
        if length > max {
            let message = format!("a message may hold at most {max} bytes, got {length}");
            return Err(Refusal::new(RefusalKind::TooLarge, message));
        }
        Ok(Some((packed == 1, length)))
    }

    fn take(&mut self, frame: Option<Frame<Bytes>>) -> Result<(), Refusal> {
        match frame.map(Frame::into_data) {
            None => self.ended = true,
            Some(Ok(data)) => {
                self.charge.grow(self.buffer.len() + data.len())?;
                self.buffer.extend_from_slice(&data);
            }
            Some(Err(_)) => {}
        }
        Ok(())
    }
}

fn no_message(idle: Duration) -> Refusal {
    let message = format!("no message came within {} seconds", idle.as_secs_f64());
    Refusal::new(RefusalKind::SlowRequest, message)
}

/// A message in its frame.
pub(super) fn frame(message: &[u8], packed: bool) -> Bytes {
    let mut framed = Vec::with_capacity(HEAD + message.len());
    framed.push(u8::from(packed));
    framed.extend_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    framed.extend_from_slice(message);
    framed.into()
}

/// What ends a call that was answered.
pub(super) fn ok_trailers() -> HeaderMap {
    [(tonic::Status::GRPC_STATUS, HeaderValue::from_static("0"))].into_iter().collect()
}
