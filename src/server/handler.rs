//! From a request's head to its response: route, admission, and the journey's two crossings between the async
//! world of bytes and the compute threads.

use std::convert::Infallible;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hyper::body::{Body as _, Incoming};
use hyper::header::{CONNECTION, HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Request, Response, Version};
use tokio::sync::watch;

use super::body::{BodyLimits, Charge, ReadBody, at_end, discard};
use super::busy::BusyPoll;
use super::coding::Coding;
use super::compute::{Call, Compute, Computed, Dialect, Done};
use super::connection::{Activity, AnswerBody, InFlight};
use super::grpc::{self, Services};
use super::metrics::Metrics;
use super::models::{Models, Served};
use super::rest;
use super::route::Route;
use crate::engine::CallContext;
use crate::protocol::reports::Extensions;
use crate::protocol::{Refusal, RefusalKind};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What all connections share.
pub(super) struct Shared {
    pub(super) models: Models,
    pub(super) compute: Compute,
    pub(super) limits: BodyLimits,
    pub(super) metrics: Arc<Metrics>,
    /// Whether the server drains.
    pub(super) draining: watch::Sender<bool>,
    /// What clients may see and do beyond inference.
    pub(super) extensions: Extensions,
    /// gRPC services that are none of the models'.
    pub(super) services: Services,
    /// How long a stream may stay without a message.
    pub(super) stream_idle: Duration,
    /// How long an answer may be left unread.
    pub(super) write_timeout: Duration,
    pub(super) ids: RequestIds,
    /// What keeps an I/O thread looking for the next request.
    pub(super) busy: Arc<BusyPoll>,
}

impl Shared {
    /// Whether requests are taken, and every model can answer them.
    pub(super) fn ready(&self) -> bool {
        !self.drains() && self.models.are_ready()
    }

    /// Whether the server is on its way out.
    pub(super) fn drains(&self) -> bool {
        *self.draining.borrow()
    }
}

/// Numbers requests that bring no id of their own.
#[derive(Debug)]
pub(super) struct RequestIds {
    /// What all of them begin with.
    run: String,
    next: AtomicU64,
}

impl RequestIds {
    /// Ids that begin with the time of this call, so that those of two runs differ.
    pub(super) fn new() -> Self {
        let started = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        Self { run: format!("{started:x}-"), next: AtomicU64::new(0) }
    }

    /// The client's `X-Request-Id` if it is a short plain word, else a number of ours.
    pub(super) fn of(&self, headers: &HeaderMap) -> HeaderValue {
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
        if let Some(id) = headers.get(REQUEST_ID)
            && (1..=64).contains(&id.len())
            && id.as_bytes().iter().all(plain)
        {
            return id.clone();
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut id = Vec::with_capacity(32);
        // Writing into a vector does not fail.
        let _ = write!(id, "{}{number:x}", self.run);
        HeaderValue::try_from(id).unwrap_or(HeaderValue::from_static("-"))
    }
}

/// A response on its way: what it says, and for whom it counts.
pub(super) type Reply = Response<AnswerBody>;

/// Answers one request. Never fails: what goes wrong is an answer too.
pub(super) async fn handle(
    shared: Arc<Shared>,
    activity: Arc<Activity>,
    request: Request<Incoming>,
) -> Result<Reply, Infallible> {
    let started = Instant::now();
    let (head, mut body) = request.into_parts();
    if grpc::is_call(&head) {
        return Ok(grpc::handle(shared, activity, head, body, started).await);
    }
    let running = activity.enter();
    let id = shared.ids.of(&head.headers);
    let route = Route::of(head.uri.path());
    let in_flight = route.is_some_and(Route::infers).then(|| InFlight::enter(&shared.metrics));
    let shown = id.to_str().unwrap_or("-");
    let (mut reply, refused) = match rest::respond(&shared, route, &head, &mut body, started, shown).await {
        Ok(reply) => (reply, None),
        Err(refusal) => (rest::refused(&refusal, route), Some(refusal.kind)),
    };
    let name = route.map_or("unknown", Route::name);
    report(&shared, name, reply.status().as_u16(), refused, started, shown);
    reply.headers_mut().insert(REQUEST_ID, id);
    let whole = settle(&head, body, refused).await;
    if head.version < Version::HTTP_2 {
        if !whole || shared.drains() {
            reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
    } else {
        reply.body_mut().split_last();
        reply.body_mut().held.fuse = Some(activity.cut_after(shared.write_timeout));
    }
    let held = &mut reply.body_mut().held;
    held.running = Some(running);
    held.in_flight = in_flight;
    Ok(reply)
}

/// Counts and logs one answered request.
pub(super) fn report(
    shared: &Shared,
    route: &'static str,
    status: u16,
    refused: Option<RefusalKind>,
    started: Instant,
    id: &str,
) {
    shared.metrics.answered(route, refused);
    let micros = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
    match refused {
        Some(kind @ RefusalKind::Internal) => {
            tracing::warn!(request_id = id, route, status, outcome = kind.name(), micros, "failed");
        }
        kind => {
            let outcome = kind.map_or("ok", RefusalKind::name);
            tracing::debug!(request_id = id, route, status, outcome, micros, "answered");
        }
    }
}

/// Whether the request's body has been read to its end. The rest of one that has not is read behind the answer,
/// unless the client is slow or waits for a word before it sends its body.
async fn settle(head: &Parts, mut body: Incoming, refused: Option<RefusalKind>) -> bool {
    if refused == Some(RefusalKind::SlowRequest) {
        return false;
    }
    if expects_continue(&head.headers) {
        return body.is_end_stream();
    }
    let whole = at_end(&mut body).await;
    if !whole && head.version < Version::HTTP_2 {
        tokio::spawn(discard(body));
    }
    whole && refused != Some(RefusalKind::TooLarge)
}

/// What a request asks of a model, besides its body.
pub(super) struct Asked<'a> {
    pub(super) served: Arc<Served>,
    pub(super) dialect: Dialect,
    pub(super) packed: Option<Coding>,
    pub(super) accepts: Option<Coding>,
    pub(super) started: Instant,
    /// The request's id, for the log.
    pub(super) id: &'a str,
    /// What goes along to a model in another server.
    pub(super) context: CallContext,
}

/// Has a body answered on a compute thread, and counts what became of it. The answer comes with the charge of its body,
/// to be held until it has been sent.
pub(super) async fn compute(shared: &Shared, asked: Asked<'_>, body: ReadBody) -> Result<(Computed, Charge), Refusal> {
    let Asked { served, dialect, packed, accepts, started, id, context } = asked;
    let max_bytes = shared.limits.max_bytes;
    let call = Call { served: Arc::clone(&served), dialect, body, packed, accepts, max_bytes, context };
    shared.busy.moved();
    let done = shared.compute.run(call).await;
    shared.busy.moved();
    let done = done.inspect_err(|_| served.statistics.failed(started.elapsed()))?;
    let Done { result, facts, queued, charge } = done;
    let total = started.elapsed();
    shared.metrics.handled(&facts, queued, total, result.is_ok());
    match &result {
        Ok(_) => served.statistics.answered(&facts, queued, total),
        Err(_) => served.statistics.failed(total),
    }
    if let Some(failure) = &facts.failure {
        tracing::warn!(request_id = id, rows = facts.rows, %failure, "an inference failed");
    }
    Ok((result?, charge))
}

/// Whether the client waits for a word before it sends its body; reading would give that word.
fn expects_continue(headers: &HeaderMap) -> bool {
    headers.get(hyper::header::EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}
