//! From a request's head to its response: route, admission, and the journey's two crossings between the async
//! world of bytes and the compute threads.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hyper::body::{Body as _, Incoming};
use hyper::header::{
    ACCEPT_ENCODING, ALLOW, CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue,
    RETRY_AFTER, TRANSFER_ENCODING,
};
use hyper::http::request::Parts;
use hyper::{Request, Response, StatusCode, Version};

use super::body::{BodyLimits, at_end, discard};
use super::compute::{Call, Compute, Done};
use super::connection::{Activity, AnswerBody, InFlight};
use super::metrics::Metrics;
use super::route::{Route, Target};
use crate::engine::CallContext;
use crate::pipeline::Pipeline;
use crate::protocol::oip;
use crate::protocol::{Answer, Refusal, RefusalKind};

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const HEADER_LENGTH: HeaderName = HeaderName::from_static(oip::HEADER_LENGTH);
/// Seconds after which a client that was refused for load may try again.
const RETRY_SECONDS: HeaderValue = HeaderValue::from_static("1");

/// What all connections share.
pub(super) struct Shared {
    pub(super) pipeline: Arc<Pipeline>,
    pub(super) compute: Compute,
    pub(super) limits: BodyLimits,
    pub(super) metrics: Arc<Metrics>,
    pub(super) draining: AtomicBool,
    /// How long an answer may be left unread.
    pub(super) write_timeout: Duration,
    pub(super) ids: RequestIds,
}

impl Shared {
    /// Whether requests that come now will be answered: not while draining, nor while the model's own server is away.
    pub(super) fn is_ready(&self) -> bool {
        !self.draining.load(Ordering::Relaxed) && self.pipeline.is_ready()
    }
}

/// Numbers requests that bring no id of their own.
#[derive(Debug)]
pub(super) struct RequestIds {
    started: u64,
    next: AtomicU64,
}

impl RequestIds {
    /// Ids that begin with the time of this call, so that those of two runs differ.
    pub(super) fn new() -> Self {
        let started = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        Self { started, next: AtomicU64::new(0) }
    }

    /// The client's `X-Request-Id` if it is a short plain word, else a number of ours.
    fn of(&self, headers: &HeaderMap) -> HeaderValue {
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
        if let Some(id) = headers.get(REQUEST_ID)
            && (1..=64).contains(&id.len())
            && id.as_bytes().iter().all(plain)
        {
            return id.clone();
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        HeaderValue::from_str(&format!("{:x}-{number:x}", self.started)).unwrap_or(HeaderValue::from_static("-"))
    }
}

/// A response on its way: what it says, and for whom it counts.
type Reply = Response<AnswerBody>;

/// Answers one request. Never fails: what goes wrong is an answer too.
pub(super) async fn handle(
    shared: Arc<Shared>,
    activity: Arc<Activity>,
    request: Request<Incoming>,
) -> Result<Reply, Infallible> {
    let running = activity.enter();
    let started = Instant::now();
    let (head, mut body) = request.into_parts();
    let id = shared.ids.of(&head.headers);
    let route = Route::of(head.uri.path());
    let in_flight = matches!(route, Some(Route::Infer(_))).then(|| InFlight::enter(&shared.metrics));
    let shown = id.to_str().unwrap_or("-");
    let (mut reply, refused) = match respond(&shared, route, &head, &mut body, started, shown).await {
        Ok(reply) => (reply, None),
        Err(refusal) => (refused(&refusal, route), Some(refusal.kind)),
    };
    let name = route.map_or("unknown", Route::name);
    shared.metrics.answered(name, refused);
    let status = reply.status().as_u16();
    let micros = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
    match refused {
        Some(kind @ RefusalKind::Internal) => {
            tracing::warn!(request_id = shown, route = name, status, outcome = kind.name(), micros, "failed");
        }
        kind => {
            let outcome = kind.map_or("ok", RefusalKind::name);
            tracing::debug!(request_id = shown, route = name, status, outcome, micros, "answered");
        }
    }
    reply.headers_mut().insert(REQUEST_ID, id);
    let whole = settle(&head, body, refused).await;
    if head.version < Version::HTTP_2 {
        if !whole || shared.draining.load(Ordering::Relaxed) {
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

async fn respond(
    shared: &Shared,
    route: Option<Route<'_>>,
    head: &Parts,
    body: &mut Incoming,
    started: Instant,
    id: &str,
) -> Result<Reply, Refusal> {
    let route = route.ok_or_else(|| {
        Refusal::new(RefusalKind::NotFound, "no such path; this server speaks the Open Inference Protocol under /v2")
    })?;
    if head.method != route.method() {
        let message = format!("this path takes {} only", route.method());
        return Err(Refusal::new(RefusalKind::MethodNotAllowed, message));
    }
    let ready = shared.is_ready();
    let model = shared.pipeline.description();
    match route {
        Route::ServerMetadata => Ok(json(StatusCode::OK, oip::server_metadata(env!("CARGO_PKG_VERSION")))),
        Route::Live => Ok(json(StatusCode::OK, oip::live_body())),
        Route::Ready => Ok(json(health(ready), oip::ready_body(ready))),
        Route::ModelMetadata(target) => {
            known(shared, target)?;
            Ok(json(StatusCode::OK, oip::model_metadata(model)))
        }
        Route::ModelReady(target) => {
            known(shared, target)?;
            Ok(json(health(ready), oip::model_ready_body(&model.name, ready)))
        }
        Route::Infer(target) => {
            known(shared, target)?;
            infer(shared, head, body, started, id).await
        }
    }
}

/// The model and version of the path must be the served ones.
fn known(shared: &Shared, target: Target<'_>) -> Result<(), Refusal> {
    let model = shared.pipeline.description();
    if target.model != model.name || target.version.is_some_and(|version| version != model.version) {
        return Err(oip::unknown_model(target.model, target.version));
    }
    Ok(())
}

async fn infer(
    shared: &Shared,
    head: &Parts,
    body: &mut Incoming,
    started: Instant,
    id: &str,
) -> Result<Reply, Refusal> {
    let header_length = read_head(&head.headers)?;
    let body = shared.limits.read(body).await?;
    let context = context(&head.headers, id);
    let call = Call { pipeline: Arc::clone(&shared.pipeline), header_length, body, context };
    let Done { result, facts, queued, charge } = shared.compute.run(call).await?;
    shared.metrics.handled(&facts, queued, started.elapsed(), result.is_ok());
    if let Some(failure) = &facts.failure {
        tracing::warn!(request_id = id, rows = facts.rows, %failure, "an inference failed");
    }
    let mut reply = inferred(result?);
    reply.body_mut().held.charge = Some(charge);
    Ok(reply)
}

/// What goes along to a model in another server: the request's id, and where it stands in a trace.
fn context(headers: &HeaderMap, id: &str) -> CallContext {
    let word = |name: HeaderName, max: usize| {
        let text = headers.get(name)?.to_str().ok()?;
        (1..=max).contains(&text.len()).then(|| text.to_owned())
    };
    // The first stands for the second: a state without a parent says nothing.
    let is_hex = |text: &String| text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    let traceparent = word(TRACEPARENT, 128).filter(is_hex);
    let tracestate = traceparent.as_ref().and_then(|_| word(TRACESTATE, 512));
    CallContext { request_id: id.to_owned(), traceparent, tracestate, deadline: None }
}

/// What the head of an inference request says about its body.
fn read_head(headers: &HeaderMap) -> Result<Option<HeaderValue>, Refusal> {
    let identity = |encoding: &HeaderValue| encoding.as_bytes().eq_ignore_ascii_case(b"identity");
    if !headers.get_all(CONTENT_ENCODING).iter().all(identity) {
        let message = "compressed request bodies are not served: send the body without Content-Encoding";
        return Err(Refusal::new(RefusalKind::UnsupportedEncoding, message));
    }
    let chunked = |coding: &HeaderValue| coding.as_bytes().eq_ignore_ascii_case(b"chunked");
    if !headers.get_all(TRANSFER_ENCODING).iter().all(chunked) {
        let message = "of transfer codings only chunked is served";
        return Err(Refusal::new(RefusalKind::UnsupportedEncoding, message));
    }
    let mut lengths = headers.get_all(HEADER_LENGTH).iter();
    let length = lengths.next().cloned();
    if lengths.next().is_some() {
        return Err(Refusal::bad_request("Inference-Header-Content-Length is given more than once"));
    }
    Ok(length)
}

fn inferred(answer: Answer) -> Reply {
    let mut reply = Response::new(AnswerBody::new(answer.body));
    let headers = reply.headers_mut();
    match answer.header_length {
        Some(length) => {
            headers.insert(CONTENT_TYPE, OCTETS);
            headers.insert(HEADER_LENGTH, HeaderValue::from(length));
        }
        None => {
            headers.insert(CONTENT_TYPE, JSON);
        }
    }
    reply
}

fn json(status: StatusCode, body: Vec<u8>) -> Reply {
    let mut reply = Response::new(AnswerBody::new(body));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, JSON);
    if status == StatusCode::SERVICE_UNAVAILABLE {
        reply.headers_mut().insert(RETRY_AFTER, RETRY_SECONDS);
    }
    reply
}

fn health(ready: bool) -> StatusCode {
    if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

fn refused(refusal: &Refusal, route: Option<Route<'_>>) -> Reply {
    let status = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut reply = json(status, oip::error_body(refusal));
    let headers = reply.headers_mut();
    match (refusal.kind, route) {
        (RefusalKind::MethodNotAllowed, Some(route)) => {
            let allow = HeaderValue::from_str(route.method().as_str()).unwrap_or(HeaderValue::from_static("GET"));
            headers.insert(ALLOW, allow);
        }
        (RefusalKind::UnsupportedEncoding, _) => {
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        }
        _ => {}
    }
    reply
}

/// Whether the client waits for a word before it sends its body; reading would give that word.
fn expects_continue(headers: &HeaderMap) -> bool {
    headers.get(hyper::header::EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}
