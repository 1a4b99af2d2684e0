//! What the server answers: routes, forms, failures, and what never stands in an answer.

use http_body_util::{BodyExt as _, Full};
use proptest::prelude::*;
use serde_json::{Value, json};
use sordino::engine::EngineError;
use sordino::server::Config;

use crate::http_support::{Client, GOOD, Server, StubEngine, head, logits};

#[test]
fn health_and_metadata_satisfy_every_client() {
    let server = Server::plain();
    let mut client = server.connect();
    for (path, body) in [
        ("/v2/health/live", json!({"live": true})),
        ("/v2/health/ready", json!({"live": true, "ready": true})),
        ("/v2/models/clf/ready", json!({"name": "clf", "ready": true})),
        ("/v2/models/clf/versions/1/ready", json!({"name": "clf", "ready": true})),
    ] {
        let reply = client.get(path);
        assert_eq!((reply.status, reply.json()), (200, body), "{path}");
        assert_eq!(reply.header("content-type"), Some("application/json"));
    }
    for path in ["/v2", "/v2/", "/v2?x=1", "/v2/?"] {
        let reply = client.get(path);
        assert_eq!((reply.status, &reply.json()["name"]), (200, &json!("sordino")), "{path}");
        assert_eq!(reply.json()["extensions"], json!(["binary_tensor_data", "classification", "model_configuration"]));
    }
    for path in ["/v2/models/clf", "/v2/models/clf/versions/1", "/v2/models/clf?verbose=1"] {
        let json = client.get(path).json();
        assert_eq!(json["versions"], json!(["1"]));
        assert_eq!(json["inputs"], json!([{"name": "x", "datatype": "FP32", "shape": [-1, 2, 2]}]));
        assert_eq!(json["outputs"][0], json!({"name": "logits", "datatype": "FP32", "shape": [-1, 3]}));
    }
}

#[test]
fn an_inference_is_answered_with_defended_scores() {
    let server = Server::plain();
    let reply = server.connect().infer(GOOD);
    let json = reply.json();
    assert_eq!((reply.status, &json["id"], &json["model_name"]), (200, &json!("q7"), &json!("clf")));
    assert_eq!(json["outputs"][0]["name"], "logits");
    let probabilities: Vec<f64> = serde_json::from_value(json["outputs"][1]["data"].clone()).unwrap();
    assert_eq!(json["outputs"][1]["shape"], json!([1, 3]));
    assert!((probabilities.iter().sum::<f64>() - 1.0).abs() < 1e-6);
    assert_eq!(probabilities.iter().filter(|&&p| p > 0.0).count(), 2, "two of three classes are kept");
    assert!(probabilities[0] > probabilities[1] && probabilities[0] < 1.0, "{probabilities:?}");
}

#[test]
fn binary_and_json_give_the_same_scores() {
    let server = Server::plain();
    let mut client = server.connect();
    let from_json = client.infer(GOOD).json();
    let head = r#"{"inputs":[{"name":"x","shape":[1,2,2],"datatype":"FP32","parameters":{"binary_data_size":16}}],"outputs":[{"name":"probabilities","parameters":{"binary_data":true}}]}"#;
    let mut body = head.as_bytes().to_vec();
    body.extend([1.5_f32, 2.0, 0.5, 4.0].iter().flat_map(|value| value.to_le_bytes()));
    let length = head.len().to_string();
    let reply = client.send("POST", "/v2/models/clf/infer", &[("Inference-Header-Content-Length", &length)], &body);
    assert_eq!(reply.header("content-type"), Some("application/octet-stream"));
    let header_length: usize = reply.header("inference-header-content-length").unwrap().parse().unwrap();
    let (json, raw) = reply.body.split_at(header_length);
    let json: Value = serde_json::from_slice(json).unwrap();
    assert_eq!(json["outputs"][0]["parameters"]["binary_data_size"], 12);
    assert!(json.get("id").is_none());
    let raw: Vec<f32> = raw.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    let text: Vec<f32> = serde_json::from_value(from_json["outputs"][1]["data"].clone()).unwrap();
    assert_eq!(raw, text);
}

#[test]
fn a_connection_carries_many_requests_also_after_a_refusal() {
    let server = Server::plain();
    let mut client = server.connect();
    for _ in 0..3 {
        assert_eq!(client.infer(GOOD).status, 200);
        assert_eq!(client.infer("{bad").status, 400);
        assert_eq!(client.get("/nope").status, 404);
        assert_eq!(client.send("PUT", "/v2/models/clf/infer", &[], GOOD.as_bytes()).status, 405);
    }
    assert_eq!(server.metric("sordino_connections "), 1.0);
}

#[test]
fn what_is_not_there_is_refused_in_json() {
    let server = Server::plain();
    let mut client = server.connect();
    let infer = "/v2/models/clf/infer";
    for (method, path, status, allow) in [
        ("GET", "//", 404, None),
        ("GET", "/metrics", 404, None),
        ("POST", "/v2/models/clf/generate", 404, None),
        ("POST", "/v2/repository/index", 403, None),
        ("GET", "/v2/systemsharedmemory/status", 404, None),
        ("GET", "/v2/models/nope", 404, None),
        ("GET", "/v2/models/nope/ready", 404, None),
        ("GET", "/v2/models/clf/versions/9", 404, None),
        ("GET", "/v2/models/%63lf", 404, None),
        ("POST", "/v2/models/nope/infer", 404, None),
        ("POST", "/v2/models/clf/versions/9/infer", 404, None),
        ("GET", infer, 405, Some("POST")),
        ("DELETE", infer, 405, Some("POST")),
        ("POST", "/v2/health/ready", 405, Some("GET")),
        ("POST", "/v2", 405, Some("GET")),
        ("HEAD", "/v2", 405, Some("GET")),
        ("OPTIONS", "/v2/models/clf", 405, Some("GET")),
    ] {
        let reply = client.send(method, path, &[], b"");
        assert_eq!((reply.status, reply.header("allow")), (status, allow), "{method} {path}");
        assert_eq!(reply.header("content-type"), Some("application/json"));
        if method != "HEAD" {
            assert!(reply.json()["error"].is_string(), "{method} {path}");
        }
    }
    let message = client.get("/v2/models/clf/versions/9").json()["error"].to_string();
    assert!(message.contains("'clf' version '9'"), "{message}");
}

#[test]
fn wrong_requests_are_a_clear_400() {
    let server = Server::plain();
    let mut client = server.connect();
    let length = "Inference-Header-Content-Length";
    for (headers, body, word) in [
        (&[][..], "", "ends too early"),
        (&[], "{bad", "malformed JSON"),
        (&[], r#"{"inputs":[{"name":"x","shape":[1,3],"datatype":"FP32","data":[1,2,3]}]}"#, "[-1,2,2], got [1,3]"),
        (&[], r#"{"inputs":[{"name":"x","shape":[1,2,2],"datatype":"INT8","data":[1,2,3,4]}]}"#, "expects FP32"),
        (&[], r#"{"inputs":[{"name":"x","shape":[1,2,2],"datatype":"FP32","data":[1,2,3,NaN]}]}"#, "NaN"),
        (&[], r#"{"inputs":[{"name":"z","shape":[1,2,2],"datatype":"FP32","data":[1,2,3,4]}]}"#, "'z'"),
        (&[(length, "abc")], GOOD, "'abc'"),
        (&[(length, "99999")], GOOD, "'99999'"),
        (&[(length, "0")], GOOD, "one row"),
        (&[(length, "7"), (length, "7")], GOOD, "more than once"),
        (&[(length, "\u{e9}")], GOOD, "not a number"),
    ] {
        let reply = client.send("POST", "/v2/models/clf/infer", headers, body.as_bytes());
        assert_eq!(reply.status, 400, "{body}");
        let message = reply.json()["error"].as_str().unwrap().to_owned();
        assert!(message.contains(word), "{body} -> {message} lacks {word}");
    }
    assert_eq!(client.infer(GOOD).status, 200);
    assert_eq!(server.metric("sordino_requests_total{outcome=\"bad_request\",route=\"infer\"}"), 11.0);
    assert_eq!(server.metric("sordino_requests_total{outcome=\"ok\",route=\"infer\"}"), 1.0);
    assert_eq!(server.metric("sordino_rows_total"), 1.0);
    assert_eq!(server.metric("sordino_in_flight_requests"), 0.0);
}

#[test]
fn a_coding_that_is_not_served_is_415_and_names_those_that_are() {
    let server = Server::plain();
    let mut client = server.connect();
    for encoding in ["br", "zstd", "identity, gzip", "gzip, gzip"] {
        let headers = [("content-encoding", encoding)];
        let reply = client.send("POST", "/v2/models/clf/infer", &headers, GOOD.as_bytes());
        let served = Some("gzip, deflate, identity");
        assert_eq!((reply.status, reply.header("accept-encoding")), (415, served), "{encoding}");
    }
    let headers = [("content-encoding", "Identity"), ("content-type", "text/plain")];
    assert_eq!(client.send("POST", "/v2/models/clf/infer", &headers, GOOD.as_bytes()).status, 200);
}

#[test]
fn a_failing_model_is_a_fixed_sentence() {
    let failures: [fn() -> Option<EngineError>; 2] =
        [|| Some(EngineError::Run), || Some(EngineError::Scores(sordino::defence::ScoresError::NonFinite { row: 0 }))];
    for failure in failures {
        let server = Server::start(StubEngine::new(failure), Config::default());
        let reply = server.connect().infer(GOOD);
        assert_eq!(reply.status, 502);
        assert_eq!(reply.json(), json!({"error": "the model gave no usable scores for this request"}));
    }
}

#[test]
fn a_model_that_overflows_is_refused_without_values() {
    let server = Server::plain();
    let body = GOOD.replace("0.5,4", "3e38,3e38");
    let reply = server.connect().infer(&body);
    assert_eq!(
        (reply.status, reply.json()["error"].as_str()),
        (502, Some("the model gave no usable scores for this request"))
    );
}

#[test]
fn a_panicking_model_is_500_and_the_thread_goes_on() {
    let calls = std::sync::atomic::AtomicUsize::new(0);
    let engine = StubEngine::new(move || {
        assert!(calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed) != 0, "first call");
        None
    });
    let mut config = Config::default();
    config.compute.threads = 1;
    let server = Server::start(engine, config);
    let mut client = server.connect();
    let reply = client.infer(GOOD);
    assert_eq!((reply.status, reply.json()), (500, json!({"error": "internal error; the request was not answered"})));
    assert_eq!(client.infer(GOOD).status, 200);
    assert_eq!(server.metric("sordino_compute_panics_total"), 1.0);
}

#[test]
fn inline_compute_answers_the_same() {
    let mut config = Config::default();
    config.compute.inline = true;
    let inline = Server::start(StubEngine::new(|| None), config);
    assert_eq!(inline.connect().infer(GOOD).body, Server::plain().connect().infer(GOOD).body);
}

#[test]
fn a_request_that_is_alone_and_was_quick_stays_on_its_thread() {
    let threads = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = std::sync::Arc::clone(&threads);
    let engine = move || {
        seen.lock().unwrap().push(std::thread::current().name().unwrap_or_default().starts_with("sordino-compute"));
        None
    };
    let mut config = Config::default();
    config.compute.quick = std::time::Duration::from_secs(60);
    let server = Server::start(StubEngine::new(engine), config);
    let mut client = server.connect();
    // Nothing is known before the first answer.
    let first = client.infer(GOOD);
    assert_eq!(client.infer(GOOD).body, first.body);
    assert_eq!(*threads.lock().unwrap(), [true, false]);
    // Another is in flight from its head on.
    let mut other = server.connect();
    other.write(&head("POST", "/v2/models/clf/infer", &[], GOOD.len()));
    server.wait_for("sordino_in_flight_requests ", 1.0);
    assert_eq!(client.infer(GOOD).body, first.body);
    other.write(GOOD.as_bytes());
    assert_eq!(other.read(false).body, first.body);
    assert_eq!(*threads.lock().unwrap(), [true, false, true, false]);
}

#[test]
fn a_slow_model_is_always_computed_elsewhere() {
    let engine = || {
        assert!(std::thread::current().name().unwrap_or_default().starts_with("sordino-compute"));
        std::thread::sleep(std::time::Duration::from_millis(1));
        None
    };
    let server = Server::start(StubEngine::new(engine), Config::default());
    let mut client = server.connect();
    assert!((0..5).all(|_| client.infer(GOOD).status == 200));
}

#[test]
fn a_plain_request_id_is_echoed_and_another_replaced() {
    let server = Server::plain();
    let mut client = server.connect();
    let mut id =
        |headers: &[(&str, &str)]| client.send("GET", "/v2", headers, b"").header("x-request-id").unwrap().to_owned();
    assert_eq!(id(&[("X-Request-Id", "abc-1.2_3")]), "abc-1.2_3");
    let own = id(&[]);
    assert!(own != id(&[("x-request-id", "two words")]) && own != id(&[("x-request-id", &"a".repeat(65))]));
}

#[test]
fn metrics_are_on_their_own_listener_with_no_words_of_a_client() {
    let server = Server::plain();
    let mut client = server.connect();
    client.infer(GOOD);
    client.get("/v2/models/sentinel_model/versions/sentinel_version");
    client.get("/sentinel_path");
    let mut operator = Client::to(server.metrics);
    let text = operator.get("/metrics").text();
    for stage in ["decode", "queue", "infer", "defend", "encode", "total"] {
        let line = format!("sordino_stage_duration_seconds_count{{stage=\"{stage}\"}} 1");
        assert!(text.contains(&line), "{line} is not in\n{text}");
    }
    assert!(!text.contains("sentinel"), "{text}");
    assert!(text.contains("sordino_requests_total{outcome=\"not_found\",route=\"unknown\"} 1"), "{text}");
    assert_eq!(operator.get("/health/live").status, 200);
    assert_eq!(operator.get("/health/ready").json(), json!({"live": true, "ready": true}));
    assert_eq!(operator.get("/v2/models/clf").status, 404);
    assert_eq!(operator.send("POST", "/metrics", &[], b"").status, 405);
}

#[tokio::test]
async fn http2_without_tls_carries_requests_side_by_side() {
    let server = Server::plain();
    let stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    tokio::spawn(connection);
    let mut pending = Vec::new();
    for _ in 0..5 {
        let request = hyper::Request::post("http://test/v2/models/clf/infer");
        let request = request.body(Full::new(bytes::Bytes::from_static(GOOD.as_bytes()))).unwrap();
        sender.ready().await.unwrap();
        pending.push(sender.send_request(request));
    }
    for answer in pending {
        let answer = answer.await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.version()), (200, hyper::Version::HTTP_2));
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(serde_json::from_slice::<Value>(&body).unwrap()["id"], "q7");
    }
}

/// Whether a text holds a number that reads as `value`.
fn shows(text: &str, value: f32) -> bool {
    text.split(|c: char| !(c.is_ascii_digit() || "+-.eE".contains(c)))
        .filter_map(|word| word.parse::<f32>().ok())
        .any(|got| got == value || (got - value).abs() < 1e-4 * value.abs())
}

#[test]
fn no_answer_shows_an_undefended_score() {
    let server = Server::plain();
    let client = std::cell::RefCell::new(server.connect());
    let (first, finite) = (0.0_f32..10.0, -1000.0_f32..1000.0);
    proptest!(ProptestConfig::with_cases(64), |(x in (first, finite.clone(), finite.clone(), finite),
                                                binary in any::<bool>())| {
        let x = [x.0, x.1, x.2, x.3];
        let body = json!({"inputs": [{"name": "x", "shape": [1, 2, 2], "datatype": "FP32", "data": x}],
                          "parameters": {"binary_data_output": binary}});
        let reply = client.borrow_mut().infer(&body.to_string());
        prop_assert_eq!(reply.status, 200);
        // The stub's first logit stands for all: no probability and no log-probability is above 1.
        let score = logits(&x)[0];
        prop_assert!(!shows(&reply.text(), score));
        let raw = score.to_le_bytes();
        prop_assert!(!reply.body.windows(4).any(|window| window == raw));
    });
}

#[test]
fn no_refusal_and_no_log_shows_an_input() {
    #[derive(Clone, Default)]
    struct Log(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);
    impl std::io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let log = Log::default();
    let writer = log.clone();
    let subscriber =
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(move || writer.clone());
    // For the whole process: the server's threads are not this one. No other test sets one.
    tracing::subscriber::set_global_default(subscriber.finish()).unwrap();
    let server = Server::plain();
    let mut client = server.connect();
    for data in [
        "[424242.5,1,2",
        "[424242.5,1,2]",
        "[424242.5,1,2,\"a\"]",
        "[424242.5,1,2,[3]]",
        "[424242.5,1,2,4242425e36]",
        "{\"424242.5\":1}",
        "\"424242.5\"",
        "424242.5",
        "[424242.5,1,2,3]",
    ] {
        let body = format!(r#"{{"inputs":[{{"name":"x","shape":[1,2,2],"datatype":"FP32","data":{data}}}]}}"#);
        let reply = client.infer(&body);
        assert!(!reply.text().contains("424242"), "{data}: {}", reply.text());
    }
    client.send("POST", "/v2/models/424242/infer", &[], b"424242");
    drop(server);
    let failing = Server::start(StubEngine::new(|| Some(EngineError::Run)), Config::default());
    let headers = [("x-request-id", "one-line")];
    assert_eq!(failing.connect().send("POST", "/v2/models/clf/infer", &headers, GOOD.as_bytes()).status, 502);
    drop(failing);
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let failed = |line: &&str| line.contains("WARN") && line.contains("failed");
    assert!(text.lines().filter(failed).all(|line| line.contains("request_id")), "{text}");
    assert_eq!(text.lines().filter(failed).filter(|line| line.contains("one-line")).count(), 1, "{text}");
    assert!(text.contains("bad_request") && !text.contains("424242"), "{text}");
}
