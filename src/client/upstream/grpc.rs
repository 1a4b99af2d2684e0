//! A server that is asked over gRPC: one HTTP/2 connection that all requests share, opened when it is needed.

use std::error::Error as _;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes};
use hyper::Uri;
use hyper_util::rt::TokioIo;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::Service;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, ConnectError, Request, Status};

use super::dialer::Dialer;
use super::target::Target;
use super::{MAX_ABOUT_BYTES, UpstreamConfig};
use crate::client::inference_client::grpc_inference_service_client::GrpcInferenceServiceClient as Client;
use crate::client::stream::{LastWords, Stream};
use crate::engine::CallContext;
use crate::engine::upstream::Fault;
use crate::protocol::grpc::messages::{ModelMetadataRequest, ModelMetadataResponse, ModelReadyRequest};

const INFER: &str = "/inference.GRPCInferenceService/ModelInfer";

/// The connection to one server.
pub(super) struct Line {
    channel: Channel,
    max_answer_bytes: usize,
    /// Of the connection that is open, or was last.
    words: LastWords,
}

impl Line {
    /// A connection that opens with the first call. Needs a runtime.
    pub(super) fn new(target: &Target, config: &UpstreamConfig, dialer: &Dialer) -> Result<Self, Fault> {
        let uri = format!("{}://{}", if target.tls { "https" } else { "http" }, target.shown());
        let endpoint = Endpoint::from_shared(uri).map_err(|_| Fault::Unreachable)?;
        // The dialer knows how long a connection may take.
        let words = LastWords::default();
        let channel = endpoint
            .http2_keep_alive_interval(Duration::from_secs(20))
            .connect_with_connector_lazy(Dial(dialer.clone(), words.clone()));
        Ok(Self { channel, max_answer_bytes: config.max_answer_bytes, words })
    }

    /// A client for questions about the model.
    fn client(&self) -> Client<Channel> {
        Client::new(self.channel.clone()).max_decoding_message_size(MAX_ABOUT_BYTES)
    }

    /// Sends an encoded request for scores; the answer comes as encoded. [`Fault::is_unsent`] says that nothing was sent.
    pub(super) async fn infer(&self, message: Bytes, call: &CallContext) -> Result<Bytes, Fault> {
        let mut request = Request::new(message);
        let named = [
            ("x-request-id", Some(&*call.request_id)),
            ("traceparent", call.traceparent.as_deref()),
            ("tracestate", call.tracestate.as_deref()),
        ];
        for (name, value) in named {
            if let Some(Ok(value)) = value.filter(|value| !value.is_empty()).map(MetadataValue::try_from) {
                request.metadata_mut().insert(name, value);
            }
        }
        if let Some(deadline) = call.deadline {
            request.set_timeout(deadline.saturating_duration_since(std::time::Instant::now()));
        }
        let mut grpc = tonic::client::Grpc::new(self.channel.clone()).max_decoding_message_size(self.max_answer_bytes);
        grpc.ready().await.map_err(|_| Fault::Unreachable)?;
        let answer = grpc.unary(request, PathAndQuery::from_static(INFER), AsItIs).await;
        answer.map(tonic::Response::into_inner).map_err(|status| self.fault(&status))
    }

    pub(super) async fn metadata(&self, name: &str, version: Option<&str>) -> Result<ModelMetadataResponse, Fault> {
        let version = version.unwrap_or_default().to_owned();
        let answer = self.client().model_metadata(ModelMetadataRequest { name: name.to_owned(), version }).await;
        answer.map(tonic::Response::into_inner).map_err(|status| self.fault(&status))
    }

    pub(super) async fn is_ready(&self, name: &str, version: Option<&str>) -> bool {
        let version = version.unwrap_or_default().to_owned();
        let answer = self.client().model_ready(ModelReadyRequest { name: name.to_owned(), version }).await;
        answer.is_ok_and(|answer| answer.into_inner().ready)
    }

    /// How a call failed; where its connection broke off by what TLS said, that.
    fn fault(&self, status: &Status) -> Fault {
        match fault(status) {
            Fault::BrokenOff => self.words.get().map_or(Fault::BrokenOff, Fault::TlsEnded),
            // Before a request was sent: in the first words of HTTP/2.
            Fault::Unreachable => self.words.get().map_or(Fault::Unreachable, Fault::Handshake),
            fault => fault,
        }
    }
}

/// Opens connections by our own hand, for the library's client.
struct Dial(Dialer, LastWords);

impl Service<Uri> for Dial {
    type Response = TokioIo<Stream>;
    type Error = Fault;
    type Future = Pin<Box<dyn Future<Output = Result<TokioIo<Stream>, Fault>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Self(dialer, words) = self;
        let (dialer, words) = (dialer.clone(), words.clone());
        Box::pin(async move { Ok(TokioIo::new(dialer.open(&words).await?)) })
    }
}

/// Messages that are written and read elsewhere: on a thread for that, within bounds.
#[derive(Debug, Clone, Copy)]
struct AsItIs;

impl Codec for AsItIs {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for AsItIs {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(message);
        Ok(())
    }
}

impl Decoder for AsItIs {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

/// What a failed call says about the server; never what the server said, which may quote values.
fn fault(status: &Status) -> Fault {
    let mut source = status.source();
    let transport = source.is_some();
    while let Some(error) = source {
        if let Some(fault) = error.downcast_ref::<Fault>() {
            return fault.clone();
        }
        if error.is::<ConnectError>() && error.source().is_none_or(|source| !source.is::<Fault>()) {
            return Fault::Unreachable;
        }
        source = error.source();
    }
    match status.code() {
        Code::DeadlineExceeded => Fault::Timeout,
        Code::OutOfRange => Fault::answer("it is longer than allowed"),
        _ if transport => Fault::BrokenOff,
        code => Fault::Grpc(code as i32),
    }
}
