//! The paths by which undefended outputs leave, where the server behind is asked over gRPC: a server that keeps every call as it
//! came, and whose answers hold the scores wherever the protocol has room for them.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{HeaderMap, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use sordino::client::upstream::{Target, UpstreamConfig};
use sordino::engine::upstream::Dialect;
use sordino::protocol::grpc::messages::model_infer_response::InferOutputTensor;
use sordino::protocol::grpc::messages::model_metadata_response::TensorMetadata;
use sordino::protocol::grpc::messages::*;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tonic::Code;

use super::grpc_support::{GrpcClient, asking, rows};
use super::http_support::{GOOD, Server, logits};
use super::upstream_support::{declared, in_front};

const ROW: [f32; 4] = [1.5, 2.0, 0.5, 4.0];
/// Undefended scores of [`ROW`], as text.
const SENTINELS: [&str; 2] = ["35.3125", "33.8125"];

/// Whether undefended scores stand in these bytes.
fn has_scores(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer);
    let raw = 35.3125_f32.to_le_bytes();
    SENTINELS.iter().any(|sentinel| text.contains(sentinel)) || answer.windows(4).any(|at| at == raw)
}

fn no_scores(what: &str, answer: &[u8]) {
    assert!(!has_scores(answer), "{what}: {}", String::from_utf8_lossy(answer));
}

/// What the server does with an inference.
#[derive(Clone, Copy, PartialEq)]
enum Does {
    /// Scores, and more of them in every other place.
    TellsAll,
    /// An error whose text and headers hold scores.
    FailsWithScores,
    /// Says that the message is packed, which was not asked for.
    Packs,
}

struct Fake {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<(HeaderMap, Bytes)>>>,
    _runtime: Runtime,
}

impl Fake {
    fn new(does: Does) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&seen);
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let all = Arc::clone(&all);
                let service = service_fn(move |request| answer(request, does, Arc::clone(&all)));
                let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                tokio::spawn(http.serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { address, seen, _runtime: runtime }
    }

    /// Ours in front of it.
    fn behind(&self) -> Server {
        let target = Target::parse(&format!("http://{}", self.address)).unwrap();
        in_front(UpstreamConfig {
            start_timeout: Duration::from_secs(5),
            health_interval: Duration::ZERO,
            ..UpstreamConfig::new(vec![target], declared(Dialect::OipGrpc))
        })
        .0
    }
}

type Body = http_body_util::combinators::BoxBody<Bytes, Infallible>;

async fn answer(
    request: Request<Incoming>,
    does: Does,
    all: Arc<Mutex<Vec<(HeaderMap, Bytes)>>>,
) -> Result<Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes().slice(5..);
    if head.uri.path().ends_with("/ModelMetadata") {
        return Ok(said(&metadata(), "0", does));
    }
    assert!(head.uri.path().ends_with("/ModelInfer"), "{}", head.uri);
    all.lock().unwrap().push((head.headers, body.clone()));
    let asked = ModelInferRequest::decode(body).unwrap();
    Ok(match does {
        Does::FailsWithScores => said(&ModelInferResponse::default(), "3", does),
        Does::TellsAll | Does::Packs => said(&tells_all(&asked), "0", does),
    })
}

fn said(message: &impl Message, status: &str, does: Does) -> Response<Body> {
    let message = message.encode_to_vec();
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    let packed = u8::from(does == Does::Packs && status == "0" && message.len() > 200);
    let frame = [&[packed], &length[..], &message].concat();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_str(status).unwrap());
    trailers.insert("grpc-message", HeaderValue::from_static("bad value near 35.3125"));
    trailers.insert("x-scores", HeaderValue::from_static("33.8125"));
    let frame = if status == "0" { Bytes::from(frame) } else { Bytes::new() };
    let body = Full::new(frame).with_trailers(async move { Some(Ok(trailers)) });
    let response = Response::builder().header("content-type", "application/grpc").header("x-scores", "35.3125");
    let response = if packed == 1 { response.header("grpc-encoding", "gzip") } else { response };
    response.body(body.boxed()).unwrap()
}

fn metadata() -> ModelMetadataResponse {
    let tensor = |name: &str, shape: &[i64]| TensorMetadata {
        name: name.to_owned(),
        datatype: "FP32".to_owned(),
        shape: shape.to_vec(),
    };
    ModelMetadataResponse {
        name: "clf".to_owned(),
        versions: vec!["1".to_owned()],
        platform: "fake".to_owned(),
        inputs: vec![tensor("x", &[-1, 2, 2])],
        outputs: vec![tensor("logits", &[-1, 3]), tensor("embedding", &[-1, 8])],
        ..Default::default()
    }
}

fn tells_all(asked: &ModelInferRequest) -> ModelInferResponse {
    let raw = &asked.raw_input_contents[0];
    let rows: Vec<f32> = raw.as_chunks().0.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect();
    let n_rows = rows.len() / 4;
    let scores: Vec<u8> =
        rows.as_chunks().0.iter().flat_map(|row: &[f32; 4]| logits(row)).flat_map(f32::to_le_bytes).collect();
    let told = |text: &str| InferParameter {
        parameter_choice: Some(infer_parameter::ParameterChoice::StringParam(text.to_owned())),
    };
    let output = |name: &str, size: i64| InferOutputTensor {
        name: name.to_owned(),
        datatype: "FP32".to_owned(),
        shape: vec![n_rows as i64, size],
        parameters: [("scores".to_owned(), told("35.3125"))].into(),
        ..Default::default()
    };
    let filler = vec![0_u8; 200 * n_rows];
    ModelInferResponse {
        model_name: "35.3125".to_owned(),
        model_version: "1".to_owned(),
        id: asked.id.clone(),
        parameters: [("scores".to_owned(), told("33.8125"))].into(),
        outputs: vec![output("probabilities", 3), output("logits", 3), output("embedding", 50)],
        raw_output_contents: vec![scores.clone().into(), scores.into(), filler.into()],
    }
}

#[test]
fn nothing_but_the_defended_scores_comes_through_and_each_message_of_a_stream_is_defended() {
    let said = tells_all(&rows(&ROW));
    assert!(said.raw_output_contents.iter().take(2).all(|raw| has_scores(raw)), "the detector sees them");
    let fake = Fake::new(Does::TellsAll);
    let server = fake.behind();
    let reply = server.connect().infer(GOOD);
    assert_eq!(reply.status, 200, "{}", reply.text());
    no_scores("REST", &reply.body);
    no_scores("headers", format!("{:?}", reply.headers).as_bytes());
    let grpc = GrpcClient::to(server.address);
    no_scores("a call", &grpc.infer(rows(&ROW)).unwrap().encode_to_vec());
    let (answers, ended) = grpc.stream(vec![rows(&ROW), asking(&ROW, "logits"), rows(&ROW)]);
    ended.unwrap();
    assert_eq!(answers.len(), 3);
    for answer in &answers {
        assert!(answer.infer_response.is_some(), "{}", answer.error_message);
        no_scores("a message of a stream", &answer.encode_to_vec());
    }
    assert_eq!(fake.seen.lock().unwrap().len(), 5);
}

/// Shared memory, classification strings, other outputs, steering headers: none is asked for by a client's word.
#[test]
fn what_is_asked_behind_is_one_plain_inference_of_one_output() {
    let fake = Fake::new(Does::TellsAll);
    let server = fake.behind();
    let headers = [("x-vertex-ai-triton-redirect", "other"), ("triton-grpc-protocol", "1"), ("x-secret", "1")];
    let body = GOOD.replacen('{', r#"{"outputs":[{"name":"probabilities","parameters":{"classification":2}}],"#, 1);
    let reply = server.connect().send("POST", "/v2/models/clf/infer", &headers, body.as_bytes());
    assert_eq!(reply.status, 200, "{}", reply.text());
    no_scores("classification", &reply.body);
    for parameters in [r#"{"shared_memory_region":"r"}"#, r#"{"classification":"all"}"#] {
        let outputs = format!(r#"{{"outputs":[{{"name":"logits","parameters":{parameters}}}],"#);
        assert_eq!(server.connect().infer(&GOOD.replacen('{', &outputs, 1)).status, 400);
    }
    let embedding = GOOD.replacen('{', r#"{"outputs":[{"name":"embedding"}],"#, 1);
    assert_eq!(server.connect().infer(&embedding).status, 400);

    let seen = fake.seen.lock().unwrap();
    assert_eq!(seen.len(), 1);
    let (head, body) = &seen[0];
    assert!(!headers.iter().any(|(name, _)| head.contains_key(*name)), "{head:?}");
    let asked = ModelInferRequest::decode(body.clone()).unwrap();
    let output = &asked.outputs[0];
    assert_eq!((asked.outputs.len(), output.name.as_str(), output.parameters.len()), (1, "logits", 0));
    assert!(asked.parameters.is_empty() && asked.inputs.iter().all(|input| input.parameters.is_empty()));
    assert_eq!((asked.model_name.as_str(), asked.inputs.len(), asked.raw_input_contents.len()), ("clf", 1, 1));
}

#[test]
fn what_a_failing_server_says_stays_behind() {
    let server = Fake::new(Does::FailsWithScores);
    let front = server.behind();
    let reply = front.connect().infer(GOOD);
    assert_eq!(reply.status, 502);
    no_scores("REST", &reply.body);
    no_scores("headers", format!("{:?}", reply.headers).as_bytes());
    let grpc = GrpcClient::to(front.address);
    let status = grpc.infer(rows(&ROW)).unwrap_err();
    no_scores("a status", format!("{status:?}").as_bytes());
    let (answers, _) = grpc.stream(vec![rows(&ROW)]);
    answers.iter().for_each(|answer| no_scores("a message of a stream", &answer.encode_to_vec()));
}

#[test]
fn a_packed_answer_that_was_not_asked_for_is_refused() {
    let fake = Fake::new(Does::Packs);
    let front = fake.behind();
    assert_eq!(front.connect().infer(GOOD).status, 502);
    let status = GrpcClient::to(front.address).infer(rows(&ROW)).unwrap_err();
    assert_ne!(status.code(), Code::Ok);
    no_scores("a status", format!("{status:?}").as_bytes());
    let (head, _) = &fake.seen.lock().unwrap()[0];
    let accepts = head.get("grpc-accept-encoding");
    assert!(accepts.is_none_or(|accepts| accepts == "identity"), "{accepts:?}");
}
