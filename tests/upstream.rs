//! In front of another server: the same answers as with a model of our own, and what goes to whom.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;
use sordino::client::upstream::{Target, UpstreamConfig, connect};
use sordino::defence::{Defence, DefenceConfig, Method, ScoreKind};
use sordino::engine::RemoteEngine as _;
use sordino::engine::upstream::{Declared, Dialect};
use sordino::pipeline::Pipeline;
use sordino::server::Config;
use sordino::tensor::{DType, Dim, TensorSpec};

use super::http_support::{GOOD, Reply, Server};
use super::upstream_support::{Does, Fake, Seen, about, config, declared, good, in_front, json_answer, scores};

const TWO_ROWS: &str = r#"{"inputs":[{"name":"x","shape":[2,2,2],"datatype":"FP32","data":[1.5,2,0.5,4,0,9,1,1]}]}"#;

#[test]
fn an_answer_of_another_server_is_defended_as_one_of_our_own() {
    let plain = Server::plain();
    let local = |body: &str| plain.connect().infer(body).text();
    for binary in [true, false] {
        let fake = Fake::all(move |seen| if seen.method == "POST" { good(seen) } else { about(seen, binary) });
        let (server, _) = in_front(config(&[&fake]));
        assert_eq!(server.connect().infer(GOOD).text(), local(GOOD));
        assert_eq!(server.connect().infer(TWO_ROWS).text(), local(TWO_ROWS));
        let metadata = server.connect().get("/v2/models/clf").json();
        assert_eq!(metadata["platform"], "fake");
        assert_eq!(metadata["outputs"][0], json!({"name": "logits", "datatype": "FP32", "shape": [-1, 3]}));
        assert_eq!(metadata["outputs"][1]["name"], "probabilities", "{metadata}");
        assert!(!metadata.to_string().contains("embedding"));
        let sent_raw = fake.inferences()[0].headers.contains_key("inference-header-content-length");
        assert_eq!(sent_raw, binary, "raw bytes are used where the server says that it can");
    }
}

#[test]
fn connections_are_kept_and_a_closed_one_is_replaced_without_a_word() {
    let fake = Fake::good();
    let (server, upstream) = in_front(config(&[&fake]));
    let mut client = server.connect();
    (0..5).for_each(|_| assert_eq!(client.infer(GOOD).status, 200));
    assert_eq!(upstream.figures().connections, 1);

    let fake = Fake::new(|seen| Does::JsonThenClose(json_answer(seen, &[])));
    let (server, upstream) = in_front(config(&[&fake]));
    let mut client = server.connect();
    for _ in 0..3 {
        assert_eq!(client.infer(GOOD).status, 200);
        // For the end of the connection to arrive.
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(upstream.figures().connections, 3);
    assert_eq!((fake.inferences().len(), upstream.figures().ejections), (3, 0));
}

#[test]
fn a_server_that_cannot_be_reached_is_passed_over() {
    let (gone, fake) = (Fake::good(), Fake::good());
    let (server, upstream) = in_front(UpstreamConfig { eject_after: 2, ..config(&[&fake, &gone]) });
    drop(gone);
    let mut client = server.connect();
    (0..6).for_each(|_| assert_eq!(client.infer(GOOD).status, 200));
    let figures = upstream.figures();
    assert!(figures.ejections >= 1 && figures.retries >= 2, "{figures:?}");
    assert_eq!(fake.inferences().len(), 6);
}

#[test]
fn the_server_with_the_fewest_requests_under_way_is_asked() {
    let stuck = Fake::new(|seen| Does::After(Duration::from_secs(3), Box::new(good(seen))));
    let quick = Fake::good();
    let (server, upstream) = in_front(config(&[&stuck, &quick]));
    let mut waiting = super::http_support::ask(&server);
    while stuck.inferences().is_empty() {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(upstream.figures().in_flight, 1);
    let mut client = server.connect();
    (0..4).for_each(|_| assert_eq!(client.infer(GOOD).status, 200));
    assert_eq!((stuck.inferences().len(), quick.inferences().len()), (1, 4));
    assert_eq!(waiting.read(false).status, 200);
}

#[test]
fn readiness_follows_the_servers() {
    let up = Arc::new(AtomicBool::new(true));
    let says = Arc::clone(&up);
    let fake = Fake::all(move |seen: &Seen| match seen.path.as_str() {
        "/v2/models/clf/ready" if !says.load(Ordering::Relaxed) => Does::Raw(400, Vec::new(), Vec::new()),
        _ if seen.method == "POST" => good(seen),
        _ => about(seen, true),
    });
    let (server, _) = in_front(UpstreamConfig { health_interval: Duration::from_millis(20), ..config(&[&fake]) });
    let status = |path: &str| server.connect().get(path).status;
    let wait = |path: &str, expected: u16| {
        for _ in 0..500 {
            if status(path) == expected {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{path} is not {expected}");
    };
    wait("/v2/health/ready", 200);
    up.store(false, Ordering::Relaxed);
    wait("/v2/health/ready", 503);
    assert_eq!((status("/v2/models/clf/ready"), status("/v2/health/live")), (503, 200));
    assert_eq!(server.connect().infer(GOOD).status, 503);
    up.store(true, Ordering::Relaxed);
    wait("/v2/health/ready", 200);
    assert_eq!(server.connect().infer(GOOD).status, 200);
    assert_eq!(server.metric("sordino_upstream_usable_servers "), 1.0);
}

#[test]
fn ids_and_traces_go_along_and_nothing_else_of_the_head() {
    let fake = Fake::good();
    let (server, _) = in_front(config(&[&fake]));
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let headers = [
        ("x-request-id", "abc-1"),
        ("traceparent", trace),
        ("tracestate", "a=b"),
        ("authorization", "Bearer secret"),
        ("cookie", "secret"),
        ("x-forwarded-for", "192.0.2.1"),
        ("accept-encoding", "gzip"),
    ];
    let reply = server.connect().send("POST", "/v2/models/clf/infer", &headers, GOOD.as_bytes());
    assert_eq!((reply.status, reply.header("x-request-id")), (200, Some("abc-1")));
    assert_eq!(reply.json()["id"], "q7", "the client's own id is echoed");
    let seen = &fake.inferences()[0];
    assert_eq!(seen.headers["x-request-id"], "abc-1");
    assert_eq!((&*seen.headers["traceparent"], &*seen.headers["tracestate"]), (trace, "a=b"));
    assert_eq!(seen.json()["id"], "abc-1");
    let names: Vec<&str> = seen.headers.keys().map(String::as_str).collect();
    let expected = [
        "accept-encoding",
        "content-length",
        "content-type",
        "host",
        "inference-header-content-length",
        "traceparent",
        "tracestate",
        "x-request-id",
    ];
    assert_eq!(names, expected);
    assert_eq!(seen.headers["accept-encoding"], "identity");
}

#[test]
fn tensorflow_serving_and_kserve_v1_are_spoken() {
    let tensorflow = Fake::all(|seen| match (seen.method.as_str(), seen.path.as_str()) {
        ("GET", "/v1/models/clf/metadata") => {
            Does::Json(json!({"model_spec": {"version": "3"}, "metadata": {"signature_def": {"signature_def": {
                "serving_default": {
                    "inputs": {"x": {"dtype": "DT_FLOAT", "tensor_shape": {"dim": [{"size": "-1"}, {"size": "2"}, {"size": "2"}]}}},
                    "outputs": {
                        "logits": {"dtype": "DT_FLOAT", "tensor_shape": {"dim": [{"size": "-1"}, {"size": "3"}]}},
                        "embedding": {"dtype": "DT_FLOAT", "tensor_shape": {"dim": [{"size": "-1"}, {"size": "8"}]}},
                    },
                },
            }}}}))
        }
        // Of the version that was there at start, and of no other.
        ("POST", "/v1/models/clf/versions/3:predict") => {
            let rows: Vec<Vec<f32>> = scores(seen).chunks(3).map(<[f32]>::to_vec).collect();
            Does::Json(json!({"outputs": {"embedding": [[33.8125]], "logits": rows}}))
        }
        _ => Does::Raw(404, Vec::new(), Vec::new()),
    });
    let kserve = Fake::all(|seen| match (seen.method.as_str(), seen.path.as_str()) {
        ("GET", "/v1/models/clf") => Does::Json(json!({"name": "clf", "ready": "True"})),
        ("POST", "/v1/models/clf:predict") => {
            let rows: Vec<Vec<f32>> = scores(seen).chunks(3).map(<[f32]>::to_vec).collect();
            Does::Json(json!({"predictions": rows}))
        }
        _ => Does::Raw(404, Vec::new(), Vec::new()),
    });
    let plain = Server::plain();
    let shape = vec![Dim::Any, Dim::Fixed(2), Dim::Fixed(2)];
    let x = TensorSpec { name: "x".to_owned(), dtype: DType::F32, shape };
    let of = |dialect| {
        let mut declared = declared(dialect);
        if dialect == Dialect::KserveV1 {
            declared.inputs = vec![x.clone()];
        }
        declared
    };
    for (fake, dialect) in [(&tensorflow, Dialect::TfServing), (&kserve, Dialect::KserveV1)] {
        let (server, _) = in_front(UpstreamConfig { declared: of(dialect), ..config(&[fake]) });
        for body in [GOOD, TWO_ROWS] {
            assert_eq!(server.connect().infer(body).text(), plain.connect().infer(body).text(), "{dialect}");
        }
    }
}

/// Beside the threads that serve connections, and back.
#[test]
fn large_requests_and_answers_are_those_of_a_model_of_our_own() {
    let plain = Server::plain();
    // An answer that is long by what is dropped of it.
    let fake = Fake::new(|seen| {
        let shape = [seen.rows().len(), 8];
        let embedding = vec![1234.5; shape[0] * shape[1]];
        let more = json!({"name": "embedding", "datatype": "FP32", "shape": shape, "data": embedding});
        let answer = json_answer(seen, &[more]);
        assert!(answer.to_string().len() > 32 << 10);
        Does::Json(answer)
    });
    let (server, _) = in_front(config(&[&fake]));
    let data: Vec<f32> = (0..4 * 1000_u16).map(|n| f32::from(n % 97) / 8.0).collect();
    let body = json!({"inputs": [{"name": "x", "shape": [1000, 2, 2], "datatype": "FP32", "data": data}]}).to_string();
    let reply = server.connect().infer(&body);
    assert!(reply.status == 200 && body.len() > 10_000 && reply.body.len() > 32 << 10, "{}", reply.body.len());
    assert_eq!(reply.text(), plain.connect().infer(&body).text());
    let padded = format!("{body}{}", " ".repeat(64 << 10));
    assert_eq!(server.connect().infer(&padded).text(), reply.text());
    let refused = server.connect().infer(&padded.replace("\"x\"", "\"y\""));
    assert_eq!(refused.status, 400, "{}", refused.text());
}

#[test]
fn a_server_is_asked_over_grpc() {
    // Ours stands in for somebody else's: its log-probabilities are the scores.
    let behind = Server::plain();
    let target = Target::parse(&format!("http://{}", behind.address)).unwrap();
    let declared = Declared { score_kind: Some(ScoreKind::LogProbabilities), ..declared(Dialect::OipGrpc) };
    let settings = UpstreamConfig {
        start_timeout: Duration::from_secs(5),
        health_interval: Duration::from_millis(20),
        ..UpstreamConfig::new(vec![target], declared)
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let upstream = runtime.block_on(connect(settings)).unwrap();
    let config = DefenceConfig { method: Method::LabelOnly, top_k: None, digits: None };
    let defence = Defence::new(&config, None, ScoreKind::LogProbabilities, 3).unwrap();
    let (_, identity) = super::http_support::defence();
    let engine = Arc::clone(&upstream);
    let pipeline = Arc::new(Pipeline::upstream(engine, defence, identity).unwrap());
    let server = Server::of(runtime, pipeline, Config::default());
    let label = |reply: Reply| {
        let json = reply.json();
        let output = json["outputs"].as_array().unwrap().iter().find(|o| o["name"] == "probabilities").unwrap().clone();
        let data: Vec<f64> = output["data"].as_array().unwrap().iter().map(|p| p.as_f64().unwrap()).collect();
        data.chunks(3).map(|row| (0..3).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap()).collect::<Vec<_>>()
    };
    for body in [GOOD, TWO_ROWS] {
        assert_eq!(label(server.connect().infer(body)), label(behind.connect().infer(body)));
    }
    drop(behind);
    let status = server.connect().infer(GOOD).status;
    assert!(matches!(status, 502 | 503), "{status}");
    for _ in 0..500 {
        if server.connect().get("/v2/health/ready").status == 503 {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("readiness does not follow");
}

#[test]
fn a_mixed_up_protocol_is_told() {
    let fake = Fake::good();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let settings =
        UpstreamConfig { declared: declared(Dialect::TfServing), start_timeout: Duration::ZERO, ..config(&[&fake]) };
    let error = runtime.block_on(connect(settings)).unwrap_err().to_string();
    assert!(error.contains("try the protocol oip-http"), "{error}");
}
