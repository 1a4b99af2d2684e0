//! The server over gRPC: the same models, limits and defence as over REST, on the same port.

use std::time::{Duration, Instant};

use prost::Message as _;
use sordino::client::ClientError;
use sordino::client::endpoint::{Endpoint, Reach};
use sordino::client::http::{Connection, Wire};
use sordino::client::load::{self, LoadConfig, LoadPlan, Pace};
use sordino::client::payload::{self, Encoding, ModelInputs};
use sordino::protocol::grpc::messages::*;
use sordino::server::Config;
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::grpc_support::{GrpcClient, asking, rows, values};
use crate::http_support::{GOOD, Server, StubEngine, called, gated, one_thread};

const ROW: [f32; 4] = [1.5, 2.0, 0.5, 4.0];

#[test]
fn an_inference_is_that_of_rest() {
    let server = Server::plain();
    let json = server.connect().infer(GOOD).json();
    let client = GrpcClient::to(server.address);
    let typed = {
        let mut request = rows(&ROW);
        request.raw_input_contents.clear();
        request.inputs[0].contents = Some(InferTensorContents { fp32_contents: ROW.to_vec(), ..Default::default() });
        request
    };
    for request in [rows(&ROW), typed] {
        let response = client.infer(request).unwrap();
        assert_eq!((response.id.as_str(), response.model_version.as_str()), ("q7", "1"));
        for (position, output) in response.outputs.iter().enumerate() {
            assert_eq!(output.name, json["outputs"][position]["name"].as_str().unwrap());
            let expected: Vec<f32> = serde_json::from_value(json["outputs"][position]["data"].clone()).unwrap();
            assert_eq!(values(&response, position), expected);
        }
    }
    assert_eq!(server.metric("sordino_requests_total{outcome=\"ok\",route=\"grpc_infer\"}"), 2.0);
    assert_eq!(server.metric("sordino_rows_total "), 3.0);
}

#[test]
fn health_and_metadata_are_told() {
    let server = Server::plain();
    let client = GrpcClient::to(server.address);
    assert!(client.call::<_, ServerLiveResponse>("ServerLive", ServerLiveRequest {}).unwrap().live);
    assert!(client.call::<_, ServerReadyResponse>("ServerReady", ServerReadyRequest {}).unwrap().ready);
    let ready = |name: &str, version: &str| {
        let request = ModelReadyRequest { name: name.to_owned(), version: version.to_owned() };
        client.call::<_, ModelReadyResponse>("ModelReady", request).unwrap().ready
    };
    assert!(ready("clf", "") && ready("clf", "1") && !ready("clf", "9") && !ready("nope", ""));
    let server_metadata: ServerMetadataResponse = client.call("ServerMetadata", ServerMetadataRequest {}).unwrap();
    assert_eq!(server_metadata.extensions, ["binary_tensor_data", "classification", "model_configuration"]);
    let request = ModelMetadataRequest { name: "clf".to_owned(), version: String::new() };
    let metadata: ModelMetadataResponse = client.call("ModelMetadata", request).unwrap();
    assert_eq!((metadata.versions, &metadata.inputs[0].shape[..]), (vec!["1".to_owned()], &[-1, 2, 2][..]));
    let request = ModelConfigRequest { name: "clf".to_owned(), version: String::new() };
    let config = client.call::<_, ModelConfigResponse>("ModelConfig", request).unwrap().config.unwrap();
    assert_eq!(
        (config.max_batch_size, &config.input[0].dims[..], &config.output[0].dims[..]),
        (1024, &[2, 2][..], &[3][..])
    );
    for (service, expected) in
        [("", Ok(ServingStatus::Serving)), ("clf", Ok(ServingStatus::Serving)), ("nope", Err(Code::NotFound))]
    {
        let request = tonic::Request::new(HealthCheckRequest { service: service.to_owned() });
        let status = client.call_path::<_, HealthCheckResponse>("/grpc.health.v1.Health/Check", request);
        let status = status.map(|answer| answer.status()).map_err(|status| status.code());
        assert_eq!(status, expected, "{service}");
    }
}

#[test]
fn each_failure_has_its_code() {
    let config = Config { max_body_bytes: 4096, ..Config::default() };
    let server = Server::start(StubEngine::new(|| None), config);
    let client = GrpcClient::to(server.address);
    let refused = |request| client.infer(request).unwrap_err();
    let named = |name: &str, version: &str| ModelInferRequest {
        model_name: name.to_owned(),
        model_version: version.to_owned(),
        ..rows(&ROW)
    };
    for (status, code, word) in [
        (refused(named("nope", "")), Code::NotFound, "'nope' is not found"),
        (refused(named("clf", "9")), Code::NotFound, "version '9'"),
        (refused(asking(&ROW, "zz")), Code::InvalidArgument, "'zz'"),
        (refused(rows(&[f32::NAN; 4])), Code::InvalidArgument, "position 0 is not a finite"),
        (refused(rows(&[0.0; 4096])), Code::ResourceExhausted, "at most 4096 bytes"),
        (
            client
                .call::<_, ModelConfigResponse>(
                    "ModelConfig",
                    ModelConfigRequest { name: "nope".to_owned(), ..Default::default() },
                )
                .unwrap_err(),
            Code::NotFound,
            "'nope'",
        ),
    ] {
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(word), "{status}");
    }
    assert_eq!(client.infer(rows(&ROW)).unwrap().id, "q7");
}

#[test]
fn a_packed_request_is_answered_packed_and_a_bomb_is_refused() {
    let config = Config { max_body_bytes: 256 << 10, ..Config::default() };
    let server = Server::start(StubEngine::new(|| None), config);
    let mut client = GrpcClient::to(server.address);
    let many: Vec<f32> = ROW.iter().copied().cycle().take(4 * 500).collect();
    let plain = client.infer(rows(&many)).unwrap();
    client.compressed = true;
    assert_eq!(client.infer(rows(&many)).unwrap(), plain);
    let status = client.infer(rows(&vec![0.0; 1 << 20])).unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
}

#[test]
fn typed_contents_count_by_what_they_take_in_memory() {
    let config = Config { max_buffered_bytes: 1 << 20, max_body_bytes: 1 << 19, ..Config::default() };
    let server = Server::start(StubEngine::new(|| None), config);
    let client = GrpcClient::to(server.address);
    let typed = |contents: InferTensorContents| {
        let mut request = rows(&ROW);
        request.raw_input_contents.clear();
        request.inputs[0].contents = Some(contents);
        client.infer(request).unwrap_err()
    };
    // On the wire a byte each, in memory eight.
    let numbers = typed(InferTensorContents { int64_contents: vec![0; 300_000], ..Default::default() });
    assert_eq!(numbers.code(), Code::ResourceExhausted, "{numbers}");
    let few = typed(InferTensorContents { int64_contents: vec![0; 10_000], ..Default::default() });
    assert_eq!(few.code(), Code::InvalidArgument, "{few}");
    let bytes_contents = vec![Default::default(); 100_000];
    let strings = typed(InferTensorContents { bytes_contents, ..Default::default() });
    assert!(strings.code() == Code::InvalidArgument && strings.message().contains("strings"), "{strings}");
    let mut crowded = rows(&ROW);
    crowded.inputs[0].parameters = (0..2000).map(|n| (n.to_string(), InferParameter::default())).collect();
    let status = client.infer(crowded).unwrap_err();
    assert!(status.message().contains("more than 1024"), "{status}");
    assert_eq!(client.infer(rows(&ROW)).unwrap().id, "q7");
}

#[test]
fn the_parameter_timeout_is_a_deadline_in_microseconds() {
    let (open, calls, engine) = gated();
    let server = Server::start(engine, one_thread(4));
    let client = GrpcClient::to(server.address);
    let within = |choice: infer_parameter::ParameterChoice| {
        let mut request = rows(&ROW);
        let parameter = InferParameter { parameter_choice: Some(choice) };
        request.parameters.insert("timeout".to_owned(), parameter);
        request
    };
    use infer_parameter::ParameterChoice::{Int64Param, StringParam, Uint64Param};
    let late = within(Int64Param(1));
    assert_eq!(client.infer(late.clone()).unwrap_err().code(), Code::DeadlineExceeded);
    assert_eq!(client.infer_within(late, Duration::from_secs(10)).unwrap_err().code(), Code::DeadlineExceeded);
    let body = |value: &str| GOOD.replacen('{', &format!(r#"{{"parameters":{{"timeout":{value}}},"#), 1);
    let reply = server.connect().infer(&body("1"));
    assert_eq!((reply.status, &reply.json()["error"]), (504, &"the deadline of the call has passed".into()));
    for wrong in ["-1", "1.5", "\"1\"", "null"] {
        assert_eq!(server.connect().infer(&body(wrong)).status, 400, "{wrong}");
    }
    for wrong in [Int64Param(-1), StringParam("1".to_owned())] {
        assert_eq!(client.infer(within(wrong)).unwrap_err().code(), Code::InvalidArgument);
    }
    assert_eq!(calls.load(std::sync::atomic::Ordering::Relaxed), 0, "the model is not run");
    (0..4).for_each(|_| open.send(()).unwrap());
    assert_eq!(client.infer(within(Int64Param(0))).unwrap().id, "q7");
    assert_eq!(client.infer(within(Uint64Param(10_000_000))).unwrap().id, "q7");
    for value in ["0", "10000000"] {
        assert_eq!(server.connect().infer(&body(value)).status, 200, "{value}");
    }
}

#[test]
fn a_stream_answers_each_request_in_order_and_goes_on_after_a_refusal() {
    let server = Server::plain();
    let client = GrpcClient::to(server.address);
    let numbered = |id: &str, request: ModelInferRequest| ModelInferRequest { id: id.to_owned(), ..request };
    let requests = vec![numbered("1", rows(&ROW)), numbered("2", asking(&ROW, "zz")), numbered("3", rows(&[0.5; 8]))];
    let (answers, ended) = client.stream(requests);
    ended.unwrap();
    assert_eq!(answers.len(), 3);
    assert_eq!(answers[0].infer_response.as_ref().unwrap(), &client.infer(numbered("1", rows(&ROW))).unwrap());
    assert!(answers[1].error_message.contains("'zz'"));
    assert_eq!(answers[1].infer_response.as_ref().unwrap().id, "2");
    let third = answers[2].infer_response.as_ref().unwrap();
    assert_eq!((third.id.as_str(), &third.outputs[0].shape[..]), ("3", &[2, 3][..]));
}

#[test]
fn a_deadline_ends_a_call_that_waits() {
    let (open, calls, engine) = gated();
    let server = Server::start(engine, one_thread(4));
    let client = GrpcClient::to(server.address);
    let started = Instant::now();
    let status = client.infer_within(rows(&ROW), Duration::from_millis(200)).unwrap_err();
    assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status}");
    assert!(started.elapsed() < Duration::from_secs(5));
    called(&calls, 1);
    open.send(()).unwrap();
    open.send(()).unwrap();
    assert_eq!(client.infer(rows(&ROW)).unwrap().id, "q7");
}

#[test]
fn a_full_queue_is_no_word_to_try_again_at_once() {
    let (open, calls, engine) = gated();
    let server = Server::start(engine, one_thread(1));
    let first = crate::http_support::ask(&server);
    called(&calls, 1);
    let second = crate::http_support::ask(&server);
    server.wait_for("sordino_queue_depth ", 1.0);
    let status = GrpcClient::to(server.address).infer(rows(&ROW)).unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    open.send(()).unwrap();
    open.send(()).unwrap();
    drop((first, second));
}

#[test]
fn a_stream_that_rests_ends_with_a_word_when_the_server_drains() {
    let mut server = Server::plain();
    let client = GrpcClient::to(server.address);
    let (answers, ended) = client.resting_stream(vec![rows(&ROW); 3], |answered| {
        if answered == 3 {
            server.drain();
        }
    });
    assert_eq!(answers.len(), 3);
    assert_eq!(ended.unwrap_err().code(), Code::Unavailable);
    assert_eq!(server.wait(), sordino::server::Ended::Drained);
}

#[test]
fn an_answer_is_byte_for_byte_the_one_on_disk() {
    let server = Server::plain();
    let response = GrpcClient::to(server.address).infer(rows(&ROW)).unwrap();
    let shown: String = response.encode_to_vec().iter().map(|byte| format!("{byte:02x}")).collect();
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/grpc_infer.hex");
    if std::env::var_os("SORDINO_BLESS").is_some() {
        std::fs::write(&path, format!("{shown}\n")).unwrap();
    }
    assert_eq!(shown, std::fs::read_to_string(&path).unwrap_or_default().trim());
}

/// What `sordino bench --encoding grpc` sends, and what it makes of the answers.
#[test]
fn a_load_over_grpc_asks_for_metadata_and_then_for_answers() {
    let server = Server::plain();
    let endpoint = Endpoint::parse(&format!("http://{}", server.address), Reach::Loopback).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let ask = |model: &str| {
        let call = payload::metadata_call("", model, Encoding::Grpc).unwrap();
        runtime.block_on(async { Connection::open_for(&endpoint, Wire::Grpc).await?.send(&call).await })
    };
    assert!(matches!(ask("nope"), Err(ClientError::Grpc(5))));
    let inputs = ModelInputs::from_answer(&ask("clf").unwrap(), Encoding::Grpc).unwrap();
    let config = LoadConfig {
        n_connections: 2,
        n_threads: 1,
        pace: Pace::Closed,
        warmup: Duration::ZERO,
        duration: Duration::from_secs(30),
        max_requests: Some(20),
        timeout: Duration::from_secs(10),
    };
    let plan = LoadPlan::new(config).unwrap();
    let calls = inputs.calls(("", "clf"), Encoding::Grpc, 2, 3, 1).unwrap();
    let report = load::run(&plan, &endpoint, calls, 2, std::sync::Arc::default()).unwrap();
    assert_eq!((report.n_ok, report.n_failed), (20, 0), "{report:?}");
    assert_eq!(server.metric("sordino_rows_total "), 40.0);
    let calls = inputs.calls(("", "nope"), Encoding::Grpc, 1, 1, 1).unwrap();
    let report = load::run(&plan, &endpoint, calls, 1, std::sync::Arc::default()).unwrap();
    assert_eq!((report.n_ok, report.errors.get("grpc")), (0, Some(&20)), "{report:?}");
}
