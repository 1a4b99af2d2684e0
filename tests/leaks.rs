//! The ways by which undefended scores leave other servers, tried one after another: fifteen of them, and a detector that
//! looks at every byte of an answer for the model's own numbers.
//!
//! Ways through another server (a proxy's) are tried where that is reached; here are those that a server has by itself.

use std::io::Read as _;

use prost::Message as _;
use serde_json::{Value, json};
use sordino::protocol::grpc::SERVICE;
use sordino::protocol::grpc::messages::infer_parameter::ParameterChoice;
use sordino::protocol::grpc::messages::*;
use sordino::server::Config;
use tonic::{Code, Request};

use crate::grpc_support::{GrpcClient, asking, rows, values};
use crate::http_support::{Client, Reply, Server, StubEngine, logits};

/// A row whose logits are told from all else: 0.8125, 0.3217, 0.1443.
const ROW: [f32; 4] = [-33.0, 3.3217, 0.1443, 0.0];
const INFER: &str = "/v2/models/clf/infer";

fn softmax(logits: [f32; 3]) -> [f32; 3] {
    let sum: f32 = logits.iter().map(|logit| logit.exp()).sum();
    logits.map(|logit| logit.exp() / sum)
}

/// What of the model's own numbers stands in an answer, as text or as bytes.
fn leaked(answer: &[u8]) -> Vec<String> {
    let logits = logits(&ROW);
    let probabilities = softmax(logits);
    let numbers = logits.into_iter().chain(probabilities).chain(probabilities.map(f32::ln));
    let text = String::from_utf8_lossy(answer);
    let mut found = Vec::new();
    for number in numbers {
        let shown = format!("{number:.4}");
        if text.contains(&shown) {
            found.push(shown);
        }
        let near = |bytes: &[u8]| {
            let bytes: [u8; 4] = bytes.try_into().unwrap();
            [f32::from_le_bytes(bytes), f32::from_be_bytes(bytes)].iter().any(|got| (got - number).abs() < 1e-6)
        };
        if answer.windows(4).any(near) {
            found.push(format!("{number} in bytes"));
        }
    }
    found
}

fn clean(what: &str, answer: &[u8]) {
    let found = leaked(answer);
    assert!(found.is_empty(), "{what}: {found:?}");
}

fn body(more: &str) -> String {
    format!(r#"{{"inputs":[{{"name":"x","shape":[1,2,2],"datatype":"FP32","data":{}}}]{more}}}"#, json!(ROW))
}

fn post(client: &mut Client, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
    let reply = client.send("POST", path, headers, body.as_bytes());
    // A refusal may name a field and never a value.
    clean(path, &reply.body);
    reply
}

fn refused(client: &mut Client, path: &str, body: &str, status: u16) {
    let reply = post(client, path, &[], body);
    assert_eq!(reply.status, status, "{path} {body}: {}", reply.text());
}

fn parameter(key: &str, choice: ParameterChoice) -> (String, InferParameter) {
    (key.to_owned(), InferParameter { parameter_choice: Some(choice) })
}

#[test]
fn the_detector_sees_the_models_numbers_in_every_form() {
    let logits = logits(&ROW);
    for answer in [
        serde_json::to_vec(&logits).unwrap(),
        serde_json::to_vec(&softmax(logits)).unwrap(),
        format!("{:.6}:0:cat", logits[0]).into_bytes(),
        logits.iter().flat_map(|value| value.to_le_bytes()).collect(),
        [b"x".to_vec(), softmax(logits).iter().flat_map(|value| value.to_le_bytes()).collect()].concat(),
    ] {
        assert!(!leaked(&answer).is_empty(), "{}", answer.escape_ascii());
    }
}

#[test]
fn answers_in_every_dialect_and_form_are_defended() {
    let server = Server::plain();
    let mut client = server.connect();
    let grpc = GrpcClient::to(server.address);
    for more in ["", r#","parameters":{"binary_data_output":true}"#, r#","outputs":[{"name":"logits"}]"#] {
        assert_eq!(post(&mut client, INFER, &[], &body(more)).status, 200, "{more}");
    }
    for predict in [
        json!({"instances": [[[-33.0, 3.3217], [0.1443, 0.0]]]}),
        json!({"inputs": {"x": [[[-33.0, 3.3217], [0.1443, 0.0]]]}, "signature_name": "logits"}),
    ] {
        assert_eq!(post(&mut client, "/v1/models/clf:predict", &[], &predict.to_string()).status, 200);
    }
    clean("ModelInfer", &grpc.infer(rows(&ROW)).unwrap().encode_to_vec());
}

#[test]
fn path_1_shared_memory_takes_no_scores() {
    let server = Server::plain();
    let mut client = server.connect();
    let region = r#"{"shared_memory_region":"r","shared_memory_byte_size":12}"#;
    refused(&mut client, INFER, &body(&format!(r#","outputs":[{{"name":"logits","parameters":{region}}}]"#)), 400);
    refused(&mut client, INFER, &body(&format!(r#","parameters":{region}"#)), 400);
    for kind in ["systemsharedmemory", "cudasharedmemory"] {
        for rest in ["status", "region/r/register", "region/r/unregister", "register"] {
            refused(&mut client, &format!("/v2/{kind}/{rest}"), r#"{"key":"/k","byte_size":12}"#, 404);
        }
    }
    let grpc = GrpcClient::to(server.address);
    let mut request = asking(&ROW, "logits");
    request.outputs[0]
        .parameters
        .extend([parameter("shared_memory_region", ParameterChoice::StringParam("r".to_owned()))]);
    assert_eq!(grpc.infer(request).unwrap_err().code(), Code::InvalidArgument);
    for method in ["SystemSharedMemoryRegister", "CudaSharedMemoryRegister", "SystemSharedMemoryStatus"] {
        let answer = grpc.call::<_, ServerLiveResponse>(method, ServerLiveRequest {});
        assert_eq!(answer.unwrap_err().code(), Code::Unimplemented, "{method}");
    }
}

#[test]
fn path_2_a_classification_holds_defended_values() {
    let server = Server::plain();
    let mut client = server.connect();
    let defended = post(&mut client, INFER, &[], &body("")).json();
    for (position, output) in ["logits", "probabilities"].into_iter().enumerate() {
        let more = format!(r#","outputs":[{{"name":"{output}","parameters":{{"classification":9}}}}]"#);
        let reply = post(&mut client, INFER, &[], &body(&more)).json();
        let output = &reply["outputs"][0];
        assert_eq!((&output["datatype"], &output["shape"]), (&json!("BYTES"), &json!([1, 3])));
        let strings: Vec<String> = serde_json::from_value(output["data"].clone()).unwrap();
        let values: Vec<f64> = serde_json::from_value(defended["outputs"][position]["data"].clone()).unwrap();
        for string in &strings {
            let mut parts = string.split(':');
            let value: f64 = parts.next().unwrap().parse().unwrap();
            let index: usize = parts.next().unwrap().parse().unwrap();
            assert!((value - values[index]).abs() < 1e-5, "{string} {values:?}");
            assert_eq!(parts.next(), Some(["cat", "dog", "fox"][index]));
        }
    }
    let mut request = asking(&ROW, "logits");
    request.outputs[0].parameters.extend([parameter("classification", ParameterChoice::Int64Param(3))]);
    clean("classification", &GrpcClient::to(server.address).infer(request).unwrap().encode_to_vec());
}

#[test]
fn path_3_there_is_no_generate_and_no_stream_over_rest() {
    let server = Server::plain();
    let mut client = server.connect();
    for verb in ["generate", "generate_stream", "infer_stream"] {
        refused(&mut client, &format!("/v2/models/clf/{verb}"), &body(""), 404);
    }
    refused(&mut client, "/v1/chat/completions", "{}", 404);
    refused(&mut client, "/openai/v1/completions", "{}", 404);
}

#[test]
fn path_4_every_message_of_a_stream_is_defended() {
    let server = Server::plain();
    let grpc = GrpcClient::to(server.address);
    let (answers, ended) = grpc.stream(vec![rows(&ROW), asking(&ROW, "logits"), rows(&ROW)]);
    ended.unwrap();
    let alone = grpc.infer(rows(&ROW)).unwrap();
    assert_eq!(answers.len(), 3);
    for answer in &answers {
        clean("stream", &answer.encode_to_vec());
        assert_eq!(values(answer.infer_response.as_ref().unwrap(), 0), values(&alone, 0));
    }
    let mut decoupled = rows(&ROW);
    decoupled.parameters.extend([parameter("triton_enable_empty_final_response", ParameterChoice::BoolParam(true))]);
    let (answers, ended) = grpc.stream(vec![decoupled]);
    ended.unwrap();
    assert_eq!(answers.len(), 1, "no empty answer behind the one that is defended");
    clean("stream", &answers[0].encode_to_vec());
    assert_eq!(values(answers[0].infer_response.as_ref().unwrap(), 0), values(&alone, 0));
}

#[test]
fn path_5_outputs_that_are_no_scores_do_not_exist() {
    let server = Server::start(StubEngine::with_other_outputs(&["embedding", "penultimate"]), Config::default());
    let mut client = server.connect();
    let metadata = client.get("/v2/models/clf").text() + &client.get("/v2/models/clf/config").text();
    for output in ["embedding", "penultimate"] {
        assert!(!metadata.contains(output), "{metadata}");
        refused(&mut client, INFER, &body(&format!(r#","outputs":[{{"name":"{output}"}}]"#)), 400);
        let predict = json!({"instances": [[[-33.0, 3.3217], [0.1443, 0.0]]], "signature_name": output});
        refused(&mut client, "/v1/models/clf:predict", &predict.to_string(), 400);
        assert_eq!(
            GrpcClient::to(server.address).infer(asking(&ROW, output)).unwrap_err().code(),
            Code::InvalidArgument
        );
    }
    let all = post(&mut client, INFER, &[], &body("")).json();
    assert_eq!(all["outputs"].as_array().unwrap().len(), 2);
}

#[test]
fn path_6_only_models_of_the_table_answer() {
    let server = Server::plain();
    let mut client = server.connect();
    for model in ["clf_backbone", "ensemble", "clf%2f1", "CLF", "clf%00", "..", "clf/versions/2"] {
        refused(&mut client, &format!("/v2/models/{model}/infer"), &body(""), 404);
        refused(&mut client, &format!("/v1/models/{model}:predict"), r#"{"instances":[[[1,2],[3,4]]]}"#, 404);
    }
    let request = ModelInferRequest { model_name: "clf_backbone".to_owned(), ..rows(&ROW) };
    assert_eq!(GrpcClient::to(server.address).infer(request).unwrap_err().code(), Code::NotFound);
}

#[test]
fn path_7_the_repository_is_closed_and_takes_no_files() {
    let load = "/v2/repository/models/clf/load";
    let upload = r#"{"parameters":{"config":"{}","file:1/model.onnx":"AAAA"}}"#;
    let server = Server::plain();
    let mut client = server.connect();
    for path in ["/v2/repository/index", load, "/v2/repository/models/clf/unload"] {
        refused(&mut client, path, "", 403);
    }
    let grpc = GrpcClient::to(server.address);
    let index = grpc.call::<_, RepositoryIndexResponse>("RepositoryIndex", RepositoryIndexRequest::default());
    assert_eq!(index.unwrap_err().code(), Code::PermissionDenied);
    let opened = Server::start(StubEngine::new(|| None), Config { repository_control: true, ..Config::default() });
    let mut client = opened.connect();
    refused(&mut client, load, upload, 400);
    let mut request = RepositoryModelLoadRequest { model_name: "clf".to_owned(), ..Default::default() };
    let bytes = ModelRepositoryParameter {
        parameter_choice: Some(model_repository_parameter::ParameterChoice::BytesParam(vec![0; 4].into())),
    };
    request.parameters.insert("file:1/model.onnx".to_owned(), bytes);
    let answer = GrpcClient::to(opened.address).call::<_, RepositoryModelLoadResponse>("RepositoryModelLoad", request);
    assert_eq!(answer.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(post(&mut client, INFER, &[], &body("")).status, 200);
}

#[test]
fn path_8_nothing_is_explained_or_classified_elsewhere() {
    let server = Server::plain();
    let mut client = server.connect();
    for path in [
        "/v1/models/clf:explain",
        "/v1/models/clf:classify",
        "/v1/models/clf:regress",
        "/v2/models/clf/explain",
        "/explanations/clf",
        "/predictions/clf",
        "/invocations",
        "/predict",
    ] {
        refused(&mut client, path, r#"{"instances":[[[1,2],[3,4]]]}"#, 404);
    }
    let grpc = GrpcClient::to(server.address);
    for method in ["Classify", "Regress", "MultiInference", "Predict"] {
        let path = format!("/tensorflow.serving.PredictionService/{method}");
        let answer = grpc.call_path::<_, ServerLiveResponse>(&path, Request::new(ServerLiveRequest {}));
        assert_eq!(answer.unwrap_err().code(), Code::Unimplemented, "{method}");
    }
}

#[test]
fn path_9_traces_and_logs_are_no_call_of_a_client() {
    let server = Server::plain();
    let mut client = server.connect();
    for path in ["/v2/trace/setting", "/v2/models/clf/trace/setting", "/v2/logging"] {
        refused(&mut client, path, r#"{"trace_level":["TENSORS"]}"#, 404);
        assert_eq!(client.get(path).status, 404);
    }
    let grpc = GrpcClient::to(server.address);
    for method in ["TraceSetting", "LogSettings"] {
        let answer = grpc.call::<_, ServerLiveResponse>(method, ServerLiveRequest {});
        assert_eq!(answer.unwrap_err().code(), Code::Unimplemented, "{method}");
    }
}

#[test]
fn path_10_the_operators_port_runs_no_model() {
    let server = Server::plain();
    let reply = Client::to(server.metrics).send("POST", INFER, &[], body("").as_bytes());
    assert_eq!(reply.status, 404);
    server.connect().infer(&body(""));
    for path in ["/metrics", "/statistics"] {
        clean(path, &Client::to(server.metrics).get(path).body);
    }
}

#[test]
fn path_11_headers_redirect_nothing() {
    let server = Server::plain();
    let mut client = server.connect();
    let plain = post(&mut client, INFER, &[], &body(""));
    for header in [
        ("X-Vertex-Ai-Triton-Redirect", "v2/models/clf/generate"),
        ("X-Amzn-SageMaker-Target-Model", "other"),
        ("X-Original-URL", "/v2/models/other/infer"),
        ("X-Forwarded-Host", "other"),
        ("X-HTTP-Method-Override", "GET"),
        ("Content-Type", "application/vnd.sagemaker-triton.binary+json;json-header-size=4"),
    ] {
        let reply = post(&mut client, INFER, &[header], &body(""));
        assert_eq!((reply.status, &reply.body), (200, &plain.body), "{header:?}");
    }
    refused(&mut client, "/models/clf/invoke", &body(""), 404);
}

#[test]
fn path_12_lengths_statistics_and_errors_tell_nothing_of_scores() {
    let server = Server::plain();
    let mut client = server.connect();
    for path in ["/v2/models/stats", "/v2/models/clf/stats"] {
        assert_eq!(client.get(path).status, 403, "{path}");
    }
    let statistics = GrpcClient::to(server.address)
        .call::<_, ModelStatisticsResponse>("ModelStatistics", ModelStatisticsRequest::default());
    assert_eq!(statistics.unwrap_err().code(), Code::PermissionDenied);
    // Two of three classes are kept; which, and of which values, does not show in the length of a binary answer.
    let grpc = GrpcClient::to(server.address);
    let lengths: Vec<usize> = [ROW, [9.0, 0.0, 0.0, 0.0], [-50.0, 9.0, 9.0, 0.0], [-33.8, 3.0, 0.0, 0.0]]
        .iter()
        .map(|row| grpc.infer(rows(row)).unwrap().encode_to_vec().len())
        .collect();
    assert!(lengths.iter().all(|length| *length == lengths[0]), "{lengths:?}");
    let shown = Server::start(StubEngine::new(|| None), Config { statistics: true, ..Config::default() });
    let mut client = shown.connect();
    post(&mut client, INFER, &[], &body(""));
    let statistics = client.get("/v2/models/clf/stats");
    clean("statistics", &statistics.body);
    let statistics: Value = statistics.json();
    assert_eq!(statistics["model_stats"][0]["inference_count"], 1);
    assert_eq!(statistics["model_stats"][0]["batch_stats"], json!([]));
}

#[test]
fn path_13_what_is_unknown_is_refused_and_passed_on_nowhere() {
    let server = Server::plain();
    let mut client = server.connect();
    for path in
        ["//", "/v3/models/clf/infer", "/v2/models/clf/infer2", "//v2/models/clf/infer", "/v2/models/clf/infer;x"]
    {
        refused(&mut client, path, &body(""), 404);
    }
    let grpc = GrpcClient::to(server.address);
    for path in [format!("/{SERVICE}/Infer"), "/inference.Other/ModelInfer".to_owned(), "/x/y".to_owned()] {
        let answer = grpc.call_path::<_, ModelInferResponse>(&path, Request::new(rows(&ROW)));
        assert_eq!(answer.unwrap_err().code(), Code::Unimplemented, "{path}");
    }
}

#[test]
fn path_14_a_packed_answer_is_the_defended_one() {
    let server = Server::plain();
    let mut client = server.connect();
    let many = json!(ROW.iter().cycle().take(4 * 200).collect::<Vec<_>>());
    let body = format!(r#"{{"inputs":[{{"name":"x","shape":[200,2,2],"datatype":"FP32","data":{many}}}]}}"#);
    let plain = post(&mut client, INFER, &[], &body);
    for (coding, unpack) in [("gzip", gunzip as fn(&[u8]) -> Vec<u8>), ("deflate", inflate)] {
        let reply = client.send("POST", INFER, &[("Accept-Encoding", coding)], body.as_bytes());
        assert_eq!(reply.header("content-encoding"), Some(coding));
        assert!(reply.body.len() < plain.body.len());
        assert_eq!(unpack(&reply.body), plain.body);
    }
    let reply = client.send("POST", INFER, &[("Accept-Encoding", "br")], body.as_bytes());
    assert_eq!((reply.header("content-encoding"), &reply.body), (None, &plain.body));
}

fn gunzip(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(bytes).read_to_end(&mut plain).unwrap();
    plain
}

fn inflate(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    flate2::read::ZlibDecoder::new(bytes).read_to_end(&mut plain).unwrap();
    plain
}

#[test]
fn path_15_a_question_asked_again_has_the_same_answer_to_the_bit() {
    let server = Server::plain();
    let mut client = server.connect();
    let grpc = GrpcClient::to(server.address);
    let first = post(&mut client, INFER, &[], &body("")).body;
    let first_message = grpc.infer(rows(&ROW)).unwrap();
    for _ in 0..20 {
        assert_eq!(post(&mut client, INFER, &[], &body("")).body, first);
        assert_eq!(grpc.infer(rows(&ROW)).unwrap(), first_message);
    }
    // Also among other rows: a row's answer does not depend on its company.
    let together: Vec<f32> = [ROW, [9.0, 1.0, 2.0, 3.0]].concat();
    assert_eq!(values(&grpc.infer(rows(&together)).unwrap(), 0)[..3], values(&first_message, 0)[..]);
}
