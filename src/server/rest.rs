//! The answers over REST: what each route says, and the heads around it.

use std::sync::Arc;
use std::time::Instant;

use hyper::body::Incoming;
use hyper::header::{
    ACCEPT_ENCODING, ALLOW, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER,
    TRANSFER_ENCODING, VARY,
};
use hyper::http::request::Parts;
use hyper::{Response, StatusCode};

use super::body::ReadBody;
use super::coding::{Coding, SERVED};
use super::compute::{Computed, Dialect};
use super::connection::AnswerBody;
use super::handler::{Asked, Reply, Shared, compute};
use super::models::Served;
use super::route::{Route, Target};
use super::trace::context;
use crate::protocol::{Refusal, RefusalKind, oip, predict};

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");
const HEADER_LENGTH: HeaderName = HeaderName::from_static(oip::HEADER_LENGTH);
/// Seconds after which a client that was refused for load may try again.
const RETRY_SECONDS: HeaderValue = HeaderValue::from_static("1");
/// What this side of the server speaks, for people and their tools.
const OPENAPI: &[u8] = include_bytes!("../../docs/openapi.json");

/// Answers one request.
pub(super) async fn respond(
    shared: &Shared,
    route: Option<Route<'_>>,
    head: &Parts,
    body: &mut Incoming,
    started: Instant,
    id: &str,
) -> Result<Reply, Refusal> {
    let route = route.ok_or_else(|| {
        let message = "no such path; /openapi.json lists those that there are";
        Refusal::new(RefusalKind::NotFound, message)
    })?;
    if head.method != route.method() {
        let message = format!("this path takes {} only", route.method());
        return Err(Refusal::new(RefusalKind::MethodNotAllowed, message));
    }
    match route {
        Route::Infer(target) => {
            let served = find(shared, target)?;
            let dialect = Dialect::Oip(header_length(&head.headers)?);
            infer(shared, head, body, served, dialect, started, id).await
        }
        Route::Predict(target) => {
            let served = find(shared, target)?;
            infer(shared, head, body, served, Dialect::Predict, started, id).await
        }
        Route::RepositoryIndex | Route::RepositoryLoad(_) | Route::RepositoryUnload(_) => {
            repository(shared, route, body).await
        }
        _ => facts(shared, route),
    }
}

/// What is said about the server and its models.
fn facts(shared: &Shared, route: Route<'_>) -> Result<Reply, Refusal> {
    let (models, ready) = (&shared.models, shared.ready());
    let ok = |body| Ok(json(StatusCode::OK, body));
    let names = models.names();
    let names = || names.iter().map(String::as_str);
    match route {
        Route::OpenApi => ok(OPENAPI.to_vec()),
        Route::Alive => ok(predict::alive_body()),
        Route::Live => ok(oip::live_body()),
        Route::Ready => Ok(json(health(ready), oip::ready_body(ready))),
        Route::Models => ok(oip::model_list(names())),
        Route::V1Models => ok(predict::model_list(names())),
        Route::ModelMetadata(target) => {
            let served = find(shared, target)?;
            let versions = models.versions(target.model);
            let versions: Vec<&str> = versions.iter().map(String::as_str).collect();
            ok(oip::model_metadata(served.pipeline.description(), &versions))
        }
        Route::ModelReady(target) => {
            let ready = !shared.drains() && find(shared, target)?.pipeline.is_ready();
            Ok(json(health(ready), oip::model_ready_body(target.model, ready)))
        }
        Route::ModelConfig(target) => {
            let pipeline = &find(shared, target)?.pipeline;
            ok(oip::model_config(pipeline.description(), pipeline.max_rows()))
        }
        Route::AllStatistics => ok(oip::statistics(&statistics(shared, None)?)),
        Route::ModelStatistics(target) => ok(oip::statistics(&statistics(shared, Some(target))?)),
        Route::V1Status(target) => {
            let ready = !shared.drains() && find(shared, target)?.pipeline.is_ready();
            let versions = match target.version {
                Some(version) => vec![version.to_owned()],
                None => models.versions(target.model),
            };
            let body = predict::model_status(target.model, versions.iter().map(String::as_str), ready);
            Ok(json(health(ready), body))
        }
        Route::V1Metadata(target) => ok(predict::model_metadata(find(shared, target)?.pipeline.description())),
        // The rest is answered by `respond`.
        _ => ok(oip::server_metadata(env!("CARGO_PKG_VERSION"), shared.extensions)),
    }
}

fn find(shared: &Shared, target: Target<'_>) -> Result<Arc<Served>, Refusal> {
    shared.models.find(target.model, target.version)
}

fn statistics(
    shared: &Shared,
    target: Option<Target<'_>>,
) -> Result<Vec<crate::protocol::reports::ModelStatistics>, Refusal> {
    allowed_statistics(shared)?;
    shared.models.statistics(target.map(|target| target.model), target.and_then(|target| target.version))
}

/// Statistics are a side channel of their own: shown only where the operator says so.
pub(super) fn allowed_statistics(shared: &Shared) -> Result<(), Refusal> {
    if shared.extensions.statistics {
        return Ok(());
    }
    let message = "statistics are not shown to clients here; the server shows them when started with --statistics";
    Err(Refusal::new(RefusalKind::Forbidden, message))
}

/// The repository is the operator's, unless said otherwise.
pub(super) fn allowed_repository(shared: &Shared) -> Result<(), Refusal> {
    if shared.extensions.repository {
        return Ok(());
    }
    let message = "the model repository is closed to clients here; --allow-repository-control opens it";
    Err(Refusal::new(RefusalKind::Forbidden, message))
}

async fn repository(shared: &Shared, route: Route<'_>, body: &mut Incoming) -> Result<Reply, Refusal> {
    allowed_repository(shared)?;
    let ReadBody { bytes, .. } = shared.limits.read(body).await?;
    let request = oip::RepositoryRequest::read(&bytes)?;
    match route {
        Route::RepositoryLoad(name) => {
            request.no_overrides()?;
            shared.models.load(name).await?;
        }
        Route::RepositoryUnload(name) => shared.models.unload(name).await?,
        _ => return Ok(json(StatusCode::OK, oip::index(&shared.models.index(request.ready_only())))),
    }
    Ok(json(StatusCode::OK, Vec::new()))
}

async fn infer(
    shared: &Shared,
    head: &Parts,
    body: &mut Incoming,
    served: Arc<Served>,
    dialect: Dialect,
    started: Instant,
    id: &str,
) -> Result<Reply, Refusal> {
    let packed = Coding::of_message(&head.headers, &CONTENT_ENCODING)?;
    let accepts = Coding::accepted(&head.headers, &ACCEPT_ENCODING);
    let chunked = |coding: &HeaderValue| coding.as_bytes().eq_ignore_ascii_case(b"chunked");
    if !head.headers.get_all(TRANSFER_ENCODING).iter().all(chunked) {
        let message = "of transfer codings only chunked is served";
        return Err(Refusal::new(RefusalKind::UnsupportedEncoding, message));
    }
    let body = shared.limits.read(body).await?;
    let context = context(&head.headers, id, started, None);
    let asked = Asked { served, dialect, packed, accepts, started, id, context };
    let (computed, charge) = compute(shared, asked, body).await?;
    let mut reply = inferred(computed, accepts.is_some());
    reply.body_mut().held.charge = Some(charge);
    Ok(reply)
}

/// The length of the JSON part, as the head says.
fn header_length(headers: &HeaderMap) -> Result<Option<HeaderValue>, Refusal> {
    let mut lengths = headers.get_all(HEADER_LENGTH).iter();
    let length = lengths.next().cloned();
    if lengths.next().is_some() {
        return Err(Refusal::bad_request("Inference-Header-Content-Length is given more than once"));
    }
    Ok(length)
}

fn inferred(computed: Computed, varies: bool) -> Reply {
    let Computed { answer, packed } = computed;
    let length = answer.header_length();
    let (coding, body) = match packed {
        Some((coding, body)) => (Some(coding), body),
        None => (None, answer.into_body()),
    };
    let mut reply = Response::new(AnswerBody::new(body));
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, if length.is_some() { OCTETS } else { JSON });
    if let Some(length) = length {
        headers.insert(HEADER_LENGTH, HeaderValue::from(length));
    }
    if let Some(coding) = coding {
        headers.insert(CONTENT_ENCODING, coding.header());
    }
    if varies {
        headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
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

/// The answer to a request that is not answered otherwise.
pub(super) fn refused(refusal: &Refusal, route: Option<Route<'_>>) -> Reply {
    let status = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut reply = json(status, oip::error_body(refusal));
    let headers = reply.headers_mut();
    match (refusal.kind, route) {
        (RefusalKind::MethodNotAllowed, Some(route)) => {
            let allow = HeaderValue::from_str(route.method().as_str()).unwrap_or(HeaderValue::from_static("GET"));
            headers.insert(ALLOW, allow);
        }
        (RefusalKind::UnsupportedEncoding, _) => {
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(SERVED));
        }
        _ => {}
    }
    reply
}
