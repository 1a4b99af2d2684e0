//! Streams: inference requests one after another with their answers in the same order, and the watch on health.
//!
//! A stream has one request in work at a time, so it holds no more of the queue and the budget than a connection over
//! HTTP/1 does; the next message is read when the answer before has been taken. A refused request is an answer of the
//! stream, which goes on; a stream that cannot be read any more ends with a status.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::Response;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::http::request::Parts;
use prost::Message as _;
use tokio::sync::mpsc;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::super::trace::context;
use super::frames::{Messages, frame, ok_trailers};
use super::{GRPC, coding, deadline, health, read, status, too_late, unpacked};
use crate::engine::CallContext;
use crate::protocol::grpc::{read_target, stream_answer, stream_error};
use crate::protocol::{MAX_ID_BYTES, Refusal, RefusalKind};
use crate::server::body::Charge;
use crate::server::coding::Coding;
use crate::server::connection::{Activity, AnswerBody, Delivery, InFlight, Part, Running};
use crate::server::handler::{Reply, Shared};

/// How often a watched health is looked at.
const HEALTH_PAUSE: Duration = Duration::from_secs(1);

type Sender = mpsc::Sender<Part>;

/// Opens a stream of inference requests.
pub(super) fn infer(
    shared: Arc<Shared>,
    activity: Arc<Activity>,
    running: Running,
    head: &Parts,
    body: Incoming,
    id: HeaderValue,
) -> Result<Reply, Refusal> {
    let coding = coding(&head.headers)?;
    let deadline = deadline(&head.headers);
    let opened = Instant::now();
    let last = deadline.and_then(|time| opened.checked_add(time));
    let context = context(&head.headers, id.to_str().unwrap_or("-"), opened, last);
    let (sender, reply) = open();
    tokio::spawn(async move {
        let _running = running;
        let talk = Talk { shared: &shared, activity: &activity, sender: &sender, coding, context };
        let ended = match deadline {
            Some(time) => tokio::time::timeout(time, talk.go_on(body)).await.unwrap_or_else(|_| Err(too_late())),
            None => talk.go_on(body).await,
        };
        close(&sender, ended).await;
    });
    Ok(reply)
}

/// Opens a watch on the health of a service: its state, and every change.
pub(super) fn watch(shared: Arc<Shared>, body: Incoming) -> Reply {
    let (sender, reply) = open();
    tokio::spawn(async move {
        let ended = watched(&shared, &sender, body).await;
        close(&sender, ended).await;
    });
    reply
}

async fn watched(shared: &Shared, sender: &Sender, body: Incoming) -> Result<(), Refusal> {
    let mut messages = Messages::new(&shared.limits, body);
    let question = messages.next(shared.limits.deadline).await?;
    let question = question.ok_or_else(|| Refusal::bad_request("the call holds no message"))?;
    let HealthCheckRequest { service } = read(question.body.bytes)?;
    let mut draining = shared.draining.subscribe();
    let mut told = None;
    loop {
        let status = health(shared, &service).unwrap_or(ServingStatus::ServiceUnknown);
        if told.replace(status) != Some(status) {
            let message = HealthCheckResponse { status: status.into() }.encode_to_vec();
            if sender.send(Part::Message(frame(&message, false), Delivery::nothing_held())).await.is_err() {
                return Ok(());
            }
        }
        tokio::select! {
            // A model in another server comes and goes without a word.
            () = tokio::time::sleep(HEALTH_PAUSE) => {}
            changed = draining.changed() => if changed.is_err() { return Ok(()) },
            () = sender.closed() => return Ok(()),
        }
    }
}

fn open() -> (Sender, Reply) {
    let (sender, receiver) = mpsc::channel(1);
    let mut reply = Response::new(AnswerBody::stream(receiver));
    reply.headers_mut().insert(CONTENT_TYPE, GRPC);
    (sender, reply)
}

async fn close(sender: &Sender, ended: Result<(), Refusal>) {
    let mut trailers = ok_trailers();
    if let Err(refusal) = ended {
        trailers = HeaderMap::new();
        // A message that fits no header ends the stream all the same.
        let _ = status(&refusal).add_header(&mut trailers);
    }
    // A client that has gone wants no word.
    let _ = sender.send(Part::Trailers(trailers)).await;
}

/// One stream of inference requests.
struct Talk<'a> {
    shared: &'a Shared,
    activity: &'a Arc<Activity>,
    sender: &'a Sender,
    coding: Option<Coding>,
    context: CallContext,
}

impl Talk<'_> {
    /// Answers requests until the client ends the stream, leaves, or the server drains.
    async fn go_on(&self, body: Incoming) -> Result<(), Refusal> {
        let mut messages = Messages::new(&self.shared.limits, body);
        let mut draining = self.shared.draining.subscribe();
        loop {
            let message = tokio::select! {
                message = messages.next(self.shared.stream_idle) => message?,
                () = self.sender.closed() => return Ok(()),
                _ = draining.wait_for(|draining| *draining) => {
                    return Err(Refusal::new(RefusalKind::NotReady, "the server drains; open a stream elsewhere"));
                }
            };
            let Some(message) = message else { return Ok(()) };
            let _in_flight = InFlight::enter(&self.shared.metrics);
            let started = Instant::now();
            let body = unpacked(self.shared, message, self.coding).await?;
            // One that is too long is refused, and not sent back.
            let id =
                Some(read_target(body.bytes.clone())?.id).filter(|id| id.len() <= MAX_ID_BYTES).unwrap_or_default();
            let context = CallContext { started: Some(started), ..self.context.clone() };
            let (answer, charge): (Vec<u8>, Option<Charge>) =
                match super::infer(self.shared, body, None, started, context).await {
                    Ok((computed, charge)) => (stream_answer(&computed.answer), Some(charge)),
                    Err(refusal) => (stream_error(&refusal, &id), None),
                };
            // Until the peer has made room for all of it: whoever reads nothing is cut, and the answer is charged as long.
            let (delivery, taken) = Delivery::new(self.activity.cut_after(self.shared.write_timeout), charge);
            if self.sender.send(Part::Message(frame(&answer, false), delivery)).await.is_err() {
                return Ok(());
            }
            // Nothing is said but by dropping the other end.
            let _ = taken.await;
        }
    }
}
