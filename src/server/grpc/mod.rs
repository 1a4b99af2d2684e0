//! The inference protocol over gRPC, on the same ports, connections, limits, threads and metrics as REST.
//!
//! A gRPC call is an HTTP/2 request whose content type says so; frames of five bytes are all that stands between its
//! body and the same admission as everywhere else, so they are read here. Methods are an allow-list: what is not named in
//! [`Method`] is UNIMPLEMENTED and never passed on. Health is answered from the same state as over REST; reflection is
//! `tonic`'s, from the committed descriptors.

mod frames;
mod services;
mod stream;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Response, Version};
use prost::Message;
use tokio::time::timeout;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use self::frames::{Framed, Messages, frame, ok_trailers};
pub(super) use self::services::Services;
use super::body::{Charge, ReadBody};
use super::coding::Coding;
use super::compute::{Computed, Dialect};
use super::connection::{Activity, AnswerBody, InFlight};
use super::handler::{Asked, Reply, Shared, compute, report};
use super::rest::{allowed_repository, allowed_statistics};
use super::trace::context;
use crate::engine::CallContext;
use crate::protocol::grpc::{self, SERVICE, messages as m};
use crate::protocol::{Refusal, RefusalKind};

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");
const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// The codings of messages that are served.
const SERVED_CODINGS: HeaderValue = HeaderValue::from_static("identity,gzip,deflate");
/// A packed message larger than this is unpacked beside the I/O threads.
const UNPACK_HERE: usize = 4 << 10;

/// A method that is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    ServerLive,
    ServerReady,
    ModelReady,
    ServerMetadata,
    ModelMetadata,
    ModelInfer,
    ModelStreamInfer,
    ModelConfig,
    ModelStatistics,
    RepositoryIndex,
    RepositoryModelLoad,
    RepositoryModelUnload,
    HealthCheck,
    HealthWatch,
    /// Reflection, in either version.
    Reflection,
}

impl Method {
    /// The method of a path.
    fn of(path: &str) -> Option<Self> {
        let (service, method) = path.strip_prefix('/')?.split_once('/')?;
        Some(match (service, method) {
            (SERVICE, "ServerLive") => Self::ServerLive,
            (SERVICE, "ServerReady") => Self::ServerReady,
            (SERVICE, "ModelReady") => Self::ModelReady,
            (SERVICE, "ServerMetadata") => Self::ServerMetadata,
            (SERVICE, "ModelMetadata") => Self::ModelMetadata,
            (SERVICE, "ModelInfer") => Self::ModelInfer,
            (SERVICE, "ModelStreamInfer") => Self::ModelStreamInfer,
            (SERVICE, "ModelConfig") => Self::ModelConfig,
            (SERVICE, "ModelStatistics") => Self::ModelStatistics,
            (SERVICE, "RepositoryIndex") => Self::RepositoryIndex,
            (SERVICE, "RepositoryModelLoad") => Self::RepositoryModelLoad,
            (SERVICE, "RepositoryModelUnload") => Self::RepositoryModelUnload,
            ("grpc.health.v1.Health", "Check") => Self::HealthCheck,
            ("grpc.health.v1.Health", "Watch") => Self::HealthWatch,
            (
                "grpc.reflection.v1.ServerReflection" | "grpc.reflection.v1alpha.ServerReflection",
                "ServerReflectionInfo",
            ) => Self::Reflection,
            _ => return None,
        })
    }

    /// The name that metrics use.
    fn name(self) -> &'static str {
        match self {
            Self::ServerLive | Self::ServerReady | Self::ModelReady | Self::HealthCheck | Self::HealthWatch => {
                "grpc_health"
            }
            Self::ServerMetadata | Self::ModelMetadata | Self::ModelConfig | Self::Reflection => "grpc_metadata",
            Self::ModelInfer => "grpc_infer",
            Self::ModelStreamInfer => "grpc_stream",
            Self::ModelStatistics => "grpc_statistics",
            Self::RepositoryIndex | Self::RepositoryModelLoad | Self::RepositoryModelUnload => "grpc_repository",
        }
    }
}

/// Whether a request is a gRPC call.
pub(super) fn is_call(head: &Parts) -> bool {
    let kind = head.headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    head.version == Version::HTTP_2
        && kind.is_some_and(|kind| kind == b"application/grpc" || kind.starts_with(b"application/grpc+"))
}

/// Answers one call. Never fails: what goes wrong is an answer too.
pub(super) async fn handle(
    shared: Arc<Shared>,
    activity: Arc<Activity>,
    head: Parts,
    body: Incoming,
    started: Instant,
) -> Reply {
    let id = shared.ids.of(&head.headers);
    let method = Method::of(head.uri.path());
    let name = method.map_or("grpc_unknown", Method::name);
    let (mut reply, refused) = match method {
        None => {
            let refusal =
                Refusal::new(RefusalKind::MethodNotAllowed, "no such method; reflection lists those that there are");
            (refusal_reply(&refusal), Some(refusal.kind))
        }
        Some(Method::Reflection) => (shared.services.reflect(head, body).await, None),
        Some(Method::HealthWatch) => (stream::watch(Arc::clone(&shared), body), None),
        Some(Method::ModelStreamInfer) => {
            let running = activity.enter();
            match stream::infer(Arc::clone(&shared), Arc::clone(&activity), running, &head, body, id.clone()) {
                Ok(reply) => (reply, None),
                Err(refusal) => (refusal_reply(&refusal), Some(refusal.kind)),
            }
        }
        Some(method) => unary(&shared, &activity, method, &head, body, started, &id).await,
    };
    report(&shared, name, reply.status().as_u16(), refused, started, id.to_str().unwrap_or("-"));
    reply.headers_mut().insert(HeaderName::from_static("x-request-id"), id);
    reply
}

/// A call of one message each way.
async fn unary(
    shared: &Arc<Shared>,
    activity: &Arc<Activity>,
    method: Method,
    head: &Parts,
    body: Incoming,
    started: Instant,
    id: &HeaderValue,
) -> (Reply, Option<RefusalKind>) {
    let running = activity.enter();
    let in_flight = (method == Method::ModelInfer).then(|| InFlight::enter(&shared.metrics));
    let work = answered(shared, method, head, body, started, id.to_str().unwrap_or("-"));
    let answer = match deadline(&head.headers) {
        Some(time) => timeout(time, work).await.unwrap_or_else(|_| Err(too_late())),
        None => work.await,
    };
    let (mut reply, refused) = match answer {
        Ok((message, coding, charge)) => {
            let mut reply = Response::new(AnswerBody::framed(frame(&message, coding.is_some()), ok_trailers()));
            reply.headers_mut().insert(CONTENT_TYPE, GRPC);
            if let Some(coding) = coding {
                reply.headers_mut().insert(ENCODING, coding.header());
            }
            reply.body_mut().held.charge = charge;
            (reply, None)
        }
        Err(refusal) => (refusal_reply(&refusal), Some(refusal.kind)),
    };
    reply.body_mut().split_last();
    let held = &mut reply.body_mut().held;
    held.fuse = Some(activity.cut_after(shared.write_timeout));
    held.running = Some(running);
    held.in_flight = in_flight;
    (reply, refused)
}

/// The message of an answer, how it is packed, and what it holds of the budget.
type Answered = (Vec<u8>, Option<Coding>, Option<Charge>);

async fn answered(
    shared: &Shared,
    method: Method,
    head: &Parts,
    body: Incoming,
    started: Instant,
    id: &str,
) -> Result<Answered, Refusal> {
    let coding = coding(&head.headers)?;
    let mut messages = Messages::new(&shared.limits, body);
    let message = messages.next(shared.limits.deadline).await?;
    let message = message.ok_or_else(|| Refusal::bad_request("the call holds no message"))?;
    if messages.next(shared.limits.deadline).await?.is_some() {
        return Err(Refusal::bad_request("the call holds more than one message"));
    }
    let packed = message.packed;
    let body = unpacked(shared, message, coding).await?;
    if method != Method::ModelInfer {
        return Ok((facts(shared, method, body.bytes).await?, None, None));
    }
    // What comes packed is answered packed; clients name codings in every call, also those that want none.
    let accepts = if packed { Coding::accepted(&head.headers, &ACCEPT_ENCODING) } else { None };
    let context =
        context(&head.headers, id, started, deadline(&head.headers).and_then(|time| started.checked_add(time)));
    let (Computed { answer, packed }, charge) = infer(shared, body, accepts, started, context).await?;
    Ok(match packed {
        Some((coding, message)) => (message, Some(coding), Some(charge)),
        None => (answer.into_body(), None, Some(charge)),
    })
}

/// The coding of packed messages, as the head says.
fn coding(headers: &HeaderMap) -> Result<Option<Coding>, Refusal> {
    Coding::of_message(headers, &ENCODING)
}

/// A message as it was before it was packed, if it was.
async fn unpacked(shared: &Shared, message: Framed, coding: Option<Coding>) -> Result<ReadBody, Refusal> {
    let Framed { body, packed } = message;
    if !packed {
        return Ok(body);
    }
    let coding = coding
        .ok_or_else(|| Refusal::bad_request("a message is marked as compressed, and grpc-encoding names nothing"))?;
    let max_bytes = shared.limits.max_bytes;
    if body.bytes.len() <= UNPACK_HERE {
        return coding.unpack(body, max_bytes);
    }
    tokio::task::spawn_blocking(move || coding.unpack(body, max_bytes))
        .await
        .unwrap_or_else(|_| Err(Refusal::internal()))
}

/// Has one inference request answered on a compute thread.
async fn infer(
    shared: &Shared,
    body: ReadBody,
    accepts: Option<Coding>,
    started: Instant,
    context: CallContext,
) -> Result<(Computed, Charge), Refusal> {
    let target = grpc::read_target(body.bytes.clone())?;
    let served = shared.models.find(&target.model_name, given(&target.model_version))?;
    let id = context.request_id.clone();
    let asked = Asked { served, dialect: Dialect::Grpc, packed: None, accepts, started, id: &id, context };
    compute(shared, asked, body).await
}

/// A field that is empty is not given.
fn given(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

/// What is said about the server and its models.
async fn facts(shared: &Shared, method: Method, message: Bytes) -> Result<Vec<u8>, Refusal> {
    let (models, ready) = (&shared.models, shared.ready());
    Ok(match method {
        Method::ServerReady => m::ServerReadyResponse { ready }.encode_to_vec(),
        Method::ModelReady => {
            let m::ModelReadyRequest { name, version } = read(message)?;
            let is_ready = models.find(&name, given(&version)).is_ok_and(|served| served.pipeline.is_ready());
            m::ModelReadyResponse { ready: !shared.drains() && is_ready }.encode_to_vec()
        }
        Method::ServerMetadata => grpc::server_metadata(env!("CARGO_PKG_VERSION"), shared.extensions).encode_to_vec(),
        Method::ModelMetadata => {
            let m::ModelMetadataRequest { name, version } = read(message)?;
            let served = models.find(&name, given(&version))?;
            let versions = models.versions(&name);
            let versions: Vec<&str> = versions.iter().map(String::as_str).collect();
            grpc::model_metadata(served.pipeline.description(), &versions).encode_to_vec()
        }
        Method::ModelConfig => {
            let m::ModelConfigRequest { name, version } = read(message)?;
            let pipeline = &models.find(&name, given(&version))?.pipeline;
            grpc::model_config(pipeline.description(), pipeline.max_rows()).encode_to_vec()
        }
        Method::ModelStatistics => {
            allowed_statistics(shared)?;
            let m::ModelStatisticsRequest { name, version } = read(message)?;
            grpc::statistics(&models.statistics(given(&name), given(&version))?).encode_to_vec()
        }
        Method::RepositoryIndex | Method::RepositoryModelLoad | Method::RepositoryModelUnload => {
            repository(shared, method, message).await?
        }
        Method::HealthCheck => {
            let HealthCheckRequest { service } = read(message)?;
            let status = health(shared, &service).ok_or_else(|| {
                Refusal::new(RefusalKind::NotFound, "no service and no model of that name has a health")
            })?;
            HealthCheckResponse { status: status.into() }.encode_to_vec()
        }
        // Streams are not answered here.
        _ => m::ServerLiveResponse { live: true }.encode_to_vec(),
    })
}

async fn repository(shared: &Shared, method: Method, message: Bytes) -> Result<Vec<u8>, Refusal> {
    allowed_repository(shared)?;
    Ok(match method {
        Method::RepositoryModelLoad => {
            let m::RepositoryModelLoadRequest { model_name, parameters, .. } = read(message)?;
            grpc::no_overrides(parameters.keys())?;
            shared.models.load(&model_name).await?;
            m::RepositoryModelLoadResponse {}.encode_to_vec()
        }
        Method::RepositoryModelUnload => {
            let m::RepositoryModelUnloadRequest { model_name, .. } = read(message)?;
            shared.models.unload(&model_name).await?;
            m::RepositoryModelUnloadResponse {}.encode_to_vec()
        }
        _ => {
            let m::RepositoryIndexRequest { ready, .. } = read(message)?;
            grpc::index(&shared.models.index(ready)).encode_to_vec()
        }
    })
}

/// The health of the server (an empty name, or the service's) or of a model.
fn health(shared: &Shared, service: &str) -> Option<ServingStatus> {
    let is_ready = if service.is_empty() || service == SERVICE {
        shared.ready()
    } else {
        !shared.drains() && shared.models.find(service, None).ok()?.pipeline.is_ready()
    };
    Some(if is_ready { ServingStatus::Serving } else { ServingStatus::NotServing })
}

fn read<M: Message + Default>(message: Bytes) -> Result<M, Refusal> {
    M::decode(message).map_err(|_| Refusal::bad_request("the message is not of the method's type"))
}

/// The client's own deadline: digits and a unit.
fn deadline(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

fn too_late() -> Refusal {
    Refusal::new(RefusalKind::QueueTimeout, "the deadline of the call has passed")
}

fn status(refusal: &Refusal) -> tonic::Status {
    tonic::Status::new(tonic::Code::from_i32(refusal.kind.grpc_code()), refusal.message.clone())
}

/// The answer to a call that is not answered otherwise: a head and nothing else.
fn refusal_reply(refusal: &Refusal) -> Reply {
    let mut reply = status(refusal).into_http::<()>().map(|()| AnswerBody::new(Bytes::new()));
    if refusal.kind == RefusalKind::UnsupportedEncoding {
        reply.headers_mut().insert(ACCEPT_ENCODING, SERVED_CODINGS);
    }
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_an_allow_list() {
        assert_eq!(Method::of("/inference.GRPCInferenceService/ModelInfer"), Some(Method::ModelInfer));
        assert_eq!(Method::of("/grpc.health.v1.Health/Check"), Some(Method::HealthCheck));
        for path in [
            "/inference.GRPCInferenceService/SystemSharedMemoryRegister",
            "/inference.GRPCInferenceService/CudaSharedMemoryStatus",
            "/inference.GRPCInferenceService/TraceSetting",
            "/inference.GRPCInferenceService/LogSettings",
            "/inference.GRPCInferenceService/",
            "/inference.GRPCInferenceService",
            "/tensorflow.serving.PredictionService/Predict",
            "/tensorflow.serving.PredictionService/MultiInference",
            "/grpc.channelz.v1.Channelz/GetServers",
            "",
        ] {
            assert_eq!(Method::of(path), None, "{path}");
        }
    }

    #[test]
    fn a_deadline_is_digits_and_a_unit() {
        let of = |text: &'static str| deadline(&[(TIMEOUT, HeaderValue::from_static(text))].into_iter().collect());
        assert_eq!(of("100m"), Some(Duration::from_millis(100)));
        assert_eq!(of("2S"), Some(Duration::from_secs(2)));
        assert_eq!(of("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for text in ["", "m", "100", "1x", "999999999S", "-1S", "1.5S"] {
            assert_eq!(of(text), None, "{text}");
        }
    }
}
