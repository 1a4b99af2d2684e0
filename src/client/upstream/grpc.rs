//! A server that is asked over gRPC: one HTTP/2 connection that all requests share, opened when it is needed.

use std::error::Error as _;
use std::time::Duration;

use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, ConnectError, Request, Status};

use super::UpstreamConfig;
use super::target::Target;
use crate::client::inference_client::grpc_inference_service_client::GrpcInferenceServiceClient as Client;
use crate::engine::CallContext;
use crate::engine::upstream::Fault;
use crate::protocol::grpc::messages::{
    ModelInferRequest, ModelInferResponse, ModelMetadataRequest, ModelMetadataResponse, ModelReadyRequest,
};

/// The connection to one server.
pub(super) struct Line {
    client: Client<Channel>,
}

impl Line {
    /// A connection that opens with the first call. Needs a runtime.
    pub(super) fn new(target: &Target, config: &UpstreamConfig) -> Result<Self, Fault> {
        let uri = format!("http://{}", target.shown());
        let endpoint = Endpoint::from_shared(uri).map_err(|_| Fault::Unreachable)?;
        let channel = endpoint
            .connect_timeout(config.connect_timeout)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(20))
            .connect_lazy();
        let client = Client::new(channel).max_decoding_message_size(config.max_answer_bytes);
        Ok(Self { client })
    }

    /// Asks for scores. [`Fault::Unreachable`] says that nothing was sent.
    pub(super) async fn infer(
        &self,
        message: ModelInferRequest,
        call: &CallContext,
    ) -> Result<ModelInferResponse, Fault> {
        let mut request = Request::new(message);
        let named = [
            ("x-request-id", Some(&call.request_id)),
            ("traceparent", call.traceparent.as_ref()),
            ("tracestate", call.tracestate.as_ref()),
        ];
        for (name, value) in named {
            if let Some(Ok(value)) = value.filter(|value| !value.is_empty()).map(MetadataValue::try_from) {
                request.metadata_mut().insert(name, value);
            }
        }
        if let Some(deadline) = call.deadline {
            request.set_timeout(deadline.saturating_duration_since(std::time::Instant::now()));
        }
        let answer = self.client.clone().model_infer(request).await;
        answer.map(tonic::Response::into_inner).map_err(|status| fault(&status))
    }

    pub(super) async fn metadata(&self, name: &str, version: Option<&str>) -> Result<ModelMetadataResponse, Fault> {
        let version = version.unwrap_or_default().to_owned();
        let answer = self.client.clone().model_metadata(ModelMetadataRequest { name: name.to_owned(), version }).await;
        answer.map(tonic::Response::into_inner).map_err(|status| fault(&status))
    }

    pub(super) async fn is_ready(&self, name: &str, version: Option<&str>) -> bool {
        let version = version.unwrap_or_default().to_owned();
        let answer = self.client.clone().model_ready(ModelReadyRequest { name: name.to_owned(), version }).await;
        answer.is_ok_and(|answer| answer.into_inner().ready)
    }
}

/// What a failed call says about the server; never what the server said, which may quote values.
fn fault(status: &Status) -> Fault {
    let mut source = status.source();
    let transport = source.is_some();
    while let Some(error) = source {
        if error.is::<ConnectError>() {
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
