//! The life of one connection: which of its requests are still being answered, and when it is to end.
//!
//! HTTP/1 has deadlines of its own in the library and in [`io`](super::io). An HTTP/2 client has ways around them: it
//! may leave answers in their streams by never opening its window, or stay for nothing but pings. Here a connection
//! without a request ends after a while, and so does one that leaves an answer unread.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::HeaderMap;
use hyper::body::{Body, Frame, SizeHint};
use hyper_util::server::graceful::GracefulConnection;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};

use super::body::Charge;
use super::metrics::Metrics;

/// How long a connection may take to end after it was asked to, once nothing runs on it.
const LAST_WORD: Duration = Duration::from_secs(1);
/// How long a connection without a request yet may bring one after the server began to drain.
pub(super) const NEWCOMER: Duration = Duration::from_millis(500);

/// What happens on one connection.
#[derive(Debug)]
pub(super) struct Activity {
    opened: Instant,
    /// Requests from their head to the end of their answer.
    running: AtomicUsize,
    n_requests: AtomicUsize,
    /// When the last of them ended, in milliseconds after `opened`.
    last_ended: AtomicU64,
    first_request: Notify,
    cut: Notify,
}

impl Activity {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            opened: Instant::now(),
            running: AtomicUsize::new(0),
            n_requests: AtomicUsize::new(0),
            last_ended: AtomicU64::new(0),
            first_request: Notify::new(),
            cut: Notify::new(),
        })
    }

    /// Counts a request as running until the result is dropped.
    pub(super) fn enter(self: &Arc<Self>) -> Running {
        self.running.fetch_add(1, Ordering::AcqRel);
        if self.n_requests.fetch_add(1, Ordering::AcqRel) == 0 {
            self.first_request.notify_one();
        }
        Running(Arc::clone(self))
    }

    /// Cuts the connection after `time`, unless the result is dropped before.
    pub(super) fn cut_after(self: &Arc<Self>, time: Duration) -> Fuse {
        let activity = Arc::clone(self);
        let burning = tokio::spawn(async move {
            sleep(time).await;
            activity.cut.notify_one();
        });
        Fuse(burning.abort_handle())
    }

    /// Ends when nothing has run for `time`.
    async fn idle(&self, time: Duration) {
        loop {
            let since = self.opened + Duration::from_millis(self.last_ended.load(Ordering::Acquire));
            let left = match self.running.load(Ordering::Acquire) {
                0 => time.saturating_sub(since.elapsed()),
                _ => time,
            };
            if left.is_zero() {
                return;
            }
            sleep(left).await;
        }
    }

    /// Ends when the server drains, and a connection that was just opened has had its chance.
    async fn stopped(&self, mut stop: watch::Receiver<bool>) {
        // A sender that has gone stops too.
        let _ = stop.wait_for(|stop| *stop).await;
        if self.n_requests.load(Ordering::Acquire) == 0 {
            let _ = timeout(NEWCOMER, self.first_request.notified()).await;
        }
    }
}

/// Keeps a connection until it ends, the peer leaves an answer unread, nothing has run for `idle`, or the server
/// drains; in the last two cases what runs comes to its end first.
///
/// # Errors
/// What the connection ended with.
pub(super) async fn attend<C: GracefulConnection>(
    connection: C,
    activity: &Activity,
    stop: watch::Receiver<bool>,
    idle: Duration,
) -> Result<(), C::Error> {
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        biased;
        ended = connection.as_mut() => return ended,
        () = activity.cut.notified() => return Ok(()),
        () = activity.idle(idle) => {}
        () = activity.stopped(stop) => {}
    }
    connection.as_mut().graceful_shutdown();
    let patience = LAST_WORD.min(idle);
    tokio::select! {
        ended = connection => ended,
        () = activity.cut.notified() => Ok(()),
        () = async { sleep(patience).await; activity.idle(patience).await } => Ok(()),
    }
}

/// A request that runs, or whose answer has not been taken.
#[derive(Debug)]
pub(super) struct Running(Arc<Activity>);

impl Drop for Running {
    fn drop(&mut self) {
        let now = u64::try_from(self.0.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.last_ended.store(now, Ordering::Release);
        self.0.running.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Cuts a connection if it is not dropped in time.
#[derive(Debug)]
pub(super) struct Fuse(AbortHandle);

impl Drop for Fuse {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Counts an inference request as in flight until it is dropped, answered or not.
#[derive(Debug)]
pub(super) struct InFlight(Arc<Metrics>);

impl InFlight {
    pub(super) fn enter(metrics: &Arc<Metrics>) -> Self {
        metrics.in_flight.inc();
        Self(Arc::clone(metrics))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.dec();
    }
}

/// What an answer holds on to until it has been taken or dropped.
#[derive(Debug, Default)]
pub(super) struct Held {
    pub(super) running: Option<Running>,
    pub(super) fuse: Option<Fuse>,
    pub(super) in_flight: Option<InFlight>,
    pub(super) charge: Option<Charge>,
}

/// The body of an answer.
#[derive(Debug)]
pub(super) struct AnswerBody {
    content: Content,
    pub(super) held: Held,
}

/// A part of a streamed body.
#[derive(Debug)]
pub(super) enum Part {
    /// A message, with what is held until the peer has made room for all of it.
    Message(Bytes, Delivery),
    /// What ends the stream.
    Trailers(HeaderMap),
}

/// What one message of a stream holds on to until it has been taken or dropped; dropped, it gives word of that.
#[derive(Debug)]
pub(super) struct Delivery {
    _fuse: Option<Fuse>,
    _charge: Option<Charge>,
    _taken: Option<oneshot::Sender<()>>,
}

impl Delivery {
    /// A message that nobody waits for.
    pub(super) fn nothing_held() -> Self {
        Self { _fuse: None, _charge: None, _taken: None }
    }

    /// A message that `charge` is held for, whose connection `fuse` cuts; the receiver ends when it has been taken.
    pub(super) fn new(fuse: Fuse, charge: Option<Charge>) -> (Self, oneshot::Receiver<()>) {
        let (taken, when_taken) = oneshot::channel();
        (Self { _fuse: Some(fuse), _charge: charge, _taken: Some(taken) }, when_taken)
    }
}

#[derive(Debug)]
enum Content {
    /// All of it, and what follows it.
    Whole { bytes: Bytes, last: Bytes, trailers: Option<HeaderMap> },
    /// Messages as they come: the last byte of the one that is on its way, and what that one holds.
    Stream { parts: mpsc::Receiver<Part>, last: Bytes, delivery: Option<Delivery> },
    /// The answer of a service that is not ours; no model's.
    Foreign(tonic::body::Body),
}

impl AnswerBody {
    pub(super) fn new(bytes: impl Into<Bytes>) -> Self {
        Self::of(Content::Whole { bytes: bytes.into(), last: Bytes::new(), trailers: None })
    }

    /// A body with trailers.
    pub(super) fn framed(bytes: Bytes, trailers: HeaderMap) -> Self {
        Self::of(Content::Whole { bytes, last: Bytes::new(), trailers: Some(trailers) })
    }

    /// A body that is sent as it comes.
    pub(super) fn stream(parts: mpsc::Receiver<Part>) -> Self {
        Self::of(Content::Stream { parts, last: Bytes::new(), delivery: None })
    }

    /// A body of a service that is not ours.
    pub(super) fn foreign(body: tonic::body::Body) -> Self {
        Self::of(Content::Foreign(body))
    }

    fn of(content: Content) -> Self {
        Self { content, held: Held::default() }
    }

    /// Sends the last byte as a frame of its own. An HTTP/2 frame is taken from here as soon as the peer's window
    /// has room for one byte of it, but the next one only when all of it has gone out: so this body lives until
    /// the peer has made room for the whole answer.
    pub(super) fn split_last(&mut self) {
        if let Content::Whole { bytes, last, .. } = &mut self.content {
            *last = split_last(bytes);
        }
    }
}

/// Takes the last byte off; see [`AnswerBody::split_last`].
fn split_last(bytes: &mut Bytes) -> Bytes {
    bytes.split_off(bytes.len().saturating_sub(1))
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        match &mut self.content {
            Content::Whole { bytes, last, trailers } => {
                let bytes = std::mem::take(bytes);
                let next = if bytes.is_empty() { std::mem::take(last) } else { bytes };
                if !next.is_empty() {
                    return Poll::Ready(Some(Ok(Frame::data(next))));
                }
                Poll::Ready(trailers.take().map(|trailers| Ok(Frame::trailers(trailers))))
            }
            Content::Stream { parts, last, delivery } => {
                let rest = std::mem::take(last);
                if !rest.is_empty() {
                    return Poll::Ready(Some(Ok(Frame::data(rest))));
                }
                // Whoever asks for more has sent what was there.
                *delivery = None;
                let part = std::task::ready!(parts.poll_recv(cx));
                Poll::Ready(part.map(|part| match part {
                    Part::Message(mut bytes, held) => {
                        *delivery = Some(held);
                        *last = split_last(&mut bytes);
                        let first = if bytes.is_empty() { std::mem::take(last) } else { bytes };
                        Ok(Frame::data(first))
                    }
                    Part::Trailers(trailers) => Ok(Frame::trailers(trailers)),
                }))
            }
            Content::Foreign(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Whole { bytes, last, trailers } => bytes.is_empty() && last.is_empty() && trailers.is_none(),
            Content::Stream { .. } => false,
            Content::Foreign(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Whole { bytes, last, trailers: None } => SizeHint::with_exact((bytes.len() + last.len()) as u64),
            Content::Foreign(body) => body.size_hint(),
            _ => SizeHint::default(),
        }
    }
}
