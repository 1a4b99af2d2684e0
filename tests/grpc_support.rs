//! A gRPC client over tonic's channel and the project's own messages: one call at a time, from a blocking test.

use std::net::SocketAddr;
use std::time::Duration;

use prost::Message;
use sordino::protocol::grpc::SERVICE;
use sordino::protocol::grpc::messages::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use sordino::protocol::grpc::messages::{ModelInferRequest, ModelInferResponse, ModelStreamInferResponse};
use tokio::runtime::Runtime;
use tonic::client::Grpc;
use tonic::codec::CompressionEncoding;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::tokio_stream::{self, StreamExt as _};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

use crate::http_support::PATIENCE;

pub(crate) struct GrpcClient {
    runtime: Runtime,
    channel: Channel,
    pub(crate) compressed: bool,
}

impl GrpcClient {
    pub(crate) fn to(address: SocketAddr) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        let channel = runtime.block_on(endpoint.connect()).unwrap();
        Self { runtime, channel, compressed: false }
    }

    fn grpc(&self) -> Grpc<Channel> {
        let grpc = Grpc::new(self.channel.clone());
        if self.compressed {
            let gzip = CompressionEncoding::Gzip;
            return grpc.send_compressed(gzip).accept_compressed(gzip);
        }
        grpc
    }

    /// A call of the inference service.
    pub(crate) fn call<M, N>(&self, method: &str, message: M) -> Result<N, Status>
    where
        M: Message + Send + Sync + 'static,
        N: Message + Default + Send + Sync + 'static,
    {
        self.call_path(&format!("/{SERVICE}/{method}"), Request::new(message))
    }

    /// A call of any path.
    pub(crate) fn call_path<M, N>(&self, path: &str, request: Request<M>) -> Result<N, Status>
    where
        M: Message + Send + Sync + 'static,
        N: Message + Default + Send + Sync + 'static,
    {
        let path: PathAndQuery = path.parse().unwrap();
        let mut grpc = self.grpc();
        self.runtime.block_on(async {
            grpc.ready().await.unwrap();
            let call = grpc.unary(request, path, ProstCodec::<M, N>::default());
            Ok(tokio::time::timeout(PATIENCE, call).await.expect("an answer in time")?.into_inner())
        })
    }

    /// A stream of requests and what comes of it, to its end.
    pub(crate) fn stream(
        &self,
        requests: Vec<ModelInferRequest>,
    ) -> (Vec<ModelStreamInferResponse>, Result<(), Status>) {
        self.converse(tokio_stream::iter(requests), |_| {})
    }

    /// A stream that the client leaves open; `answered` is told how many answers there are so far.
    pub(crate) fn resting_stream(
        &self,
        requests: Vec<ModelInferRequest>,
        answered: impl FnMut(usize),
    ) -> (Vec<ModelStreamInferResponse>, Result<(), Status>) {
        self.converse(tokio_stream::iter(requests).chain(tokio_stream::pending()), answered)
    }

    fn converse(
        &self,
        requests: impl tokio_stream::Stream<Item = ModelInferRequest> + Send + 'static,
        mut answered: impl FnMut(usize),
    ) -> (Vec<ModelStreamInferResponse>, Result<(), Status>) {
        let path: PathAndQuery = format!("/{SERVICE}/ModelStreamInfer").parse().unwrap();
        let mut grpc = self.grpc();
        self.runtime.block_on(async {
            grpc.ready().await.unwrap();
            let codec = ProstCodec::<ModelInferRequest, ModelStreamInferResponse>::default();
            let opened = grpc.streaming(Request::new(requests), path, codec).await;
            let mut answers = match opened {
                Ok(answers) => answers.into_inner(),
                Err(status) => return (Vec::new(), Err(status)),
            };
            let mut got = Vec::new();
            loop {
                match tokio::time::timeout(PATIENCE, answers.message()).await.expect("an answer in time") {
                    Ok(Some(answer)) => {
                        got.push(answer);
                        answered(got.len());
                    }
                    Ok(None) => return (got, Ok(())),
                    Err(status) => return (got, Err(status)),
                }
            }
        })
    }

    pub(crate) fn infer(&self, request: ModelInferRequest) -> Result<ModelInferResponse, Status> {
        self.call("ModelInfer", request)
    }

    /// As [`Self::infer`], with a deadline that the server is told.
    pub(crate) fn infer_within(
        &self,
        request: ModelInferRequest,
        time: Duration,
    ) -> Result<ModelInferResponse, Status> {
        let mut request = Request::new(request);
        request.set_timeout(time);
        self.call_path(&format!("/{SERVICE}/ModelInfer"), request)
    }
}

/// A good request of these rows of four values.
pub(crate) fn rows(values: &[f32]) -> ModelInferRequest {
    ModelInferRequest {
        model_name: "clf".to_owned(),
        id: "q7".to_owned(),
        inputs: vec![InferInputTensor {
            name: "x".to_owned(),
            datatype: "FP32".to_owned(),
            shape: vec![i64::try_from(values.len() / 4).unwrap(), 2, 2],
            ..Default::default()
        }],
        raw_input_contents: vec![values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>().into()],
        ..Default::default()
    }
}

/// The same, asking for an output.
pub(crate) fn asking(values: &[f32], output: &str) -> ModelInferRequest {
    let output = InferRequestedOutputTensor { name: output.to_owned(), ..Default::default() };
    ModelInferRequest { outputs: vec![output], ..rows(values) }
}

/// The values of an output.
pub(crate) fn values(response: &ModelInferResponse, output: usize) -> Vec<f32> {
    response.raw_output_contents[output].as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}
