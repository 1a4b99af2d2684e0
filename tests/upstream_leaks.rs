//! The paths by which undefended outputs leave a server that has a proxy in front of it: each is closed here, seen from both
//! sides. What a client may try is sent to us; what arrives behind us is looked at byte by byte.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sordino::engine::upstream::OutputRule;

use super::grpc_support::{GrpcClient, rows, values};
use super::http_support::{GOOD, Reply, head};
use super::upstream_support::{Does, Fake, Seen, config, good, in_front, json_answer, scores};

/// Undefended scores of [`GOOD`], as text and as bytes.
const SENTINELS: [&str; 2] = ["35.3125", "33.8125"];

fn no_scores(reply: &Reply) {
    let text = reply.text();
    let raw = [35.3125_f32, -1.0, 1.5].map(f32::to_le_bytes);
    assert!(!SENTINELS.iter().any(|sentinel| text.contains(sentinel)), "{text}");
    assert!(!raw[..1].iter().any(|bytes| reply.body.windows(4).any(|window| window == bytes)), "{text}");
    let headers = format!("{:?}", reply.headers);
    assert!(!SENTINELS.iter().any(|sentinel| headers.contains(sentinel)), "{headers}");
}

/// What may arrive behind us: one inference of this model, for this output, in this form.
fn only_plain_inferences(fake: &Fake) {
    for seen in fake.inferences() {
        assert_eq!((seen.method.as_str(), seen.path.as_str()), ("POST", "/v2/models/clf/infer"));
        let json = seen.json();
        let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(&json), ["id", "inputs", "outputs"]);
        assert_eq!(json["outputs"], json!([{"name": "logits", "parameters": {"binary_data": true}}]));
        for input in json["inputs"].as_array().unwrap() {
            assert_eq!(keys(input), ["datatype", "name", "parameters", "shape"]);
            assert_eq!(keys(&input["parameters"]), ["binary_data_size"]);
        }
    }
}

/// A request with something put into it.
fn with(change: impl Fn(&mut Value)) -> String {
    let mut request: Value = serde_json::from_str(GOOD).unwrap();
    change(&mut request);
    request.to_string()
}

#[test]
fn path_1_shared_memory_is_asked_for_by_nobody() {
    let fake = Fake::good();
    let (server, _) = in_front(config(&[&fake]));
    let mut client = server.connect();
    for body in [
        with(|r| {
            r["outputs"] =
                json!([{"name": "logits", "parameters": {"shared_memory_region": "r", "shared_memory_byte_size": 12}}])
        }),
        with(|r| r["inputs"][0]["parameters"] = json!({"shared_memory_region": "r"})),
    ] {
        assert_eq!(client.infer(&body).status, 400);
    }
    for path in
        ["/v2/systemsharedmemory/status", "/v2/systemsharedmemory/region/r/register", "/v2/cudasharedmemory/status"]
    {
        assert_eq!(client.send("POST", path, &[], b"{}").status, 404, "{path}");
    }
    assert!(fake.inferences().is_empty());
}

#[test]
fn path_2_classification_strings_are_never_made_behind_us() {
    let fake = Fake::good();
    let (server, _) = in_front(config(&[&fake]));
    let body = with(|r| r["outputs"] = json!([{"name": "logits", "parameters": {"classification": 3}}]));
    no_scores(&server.connect().infer(&body));
    only_plain_inferences(&fake);
}

#[test]
fn paths_3_7_8_9_11_and_13_do_not_exist_here() {
    let fake = Fake::good();
    let (server, _) = in_front(config(&[&fake]));
    for path in [
        "/v2/models/clf/generate",
        "/v2/models/clf/generate_stream",
        "/v2/models/clf/infer_stream",
        "/v2/models/clf/versions/1/generate",
        "/v2/repository/models/clf/load",
        "/v2/repository/models/clf/unload",
        "/v1/models/clf:explain",
        "/v1/models/clf:classify",
        "/v1/models/clf:regress",
        "/v2/models/clf/explain",
        "/explanations/clf",
        "/v2/trace/setting",
        "/v2/models/clf/trace/setting",
        "/v2/logging",
        "/models/clf/invoke",
        "/openai/v1/completions",
        "/v2/models/clf/infer/",
        "/v2/models/clf/%69nfer",
        "/v2/../v2/models/clf/infer",
        "//v2/models/clf/infer",
    ] {
        let mut client = server.connect();
        for method in ["POST", "GET", "PUT", "TRACE"] {
            let reply =
                client.send(method, path, &[("x-vertex-ai-triton-redirect", "v2/models/clf/infer")], GOOD.as_bytes());
            assert!((400..500).contains(&reply.status), "{method} {path}: {}", reply.status);
            no_scores(&reply);
        }
    }
    assert!(fake.inferences().is_empty(), "{:?}", fake.inferences());
}

#[test]
fn path_5_other_outputs_are_neither_asked_for_nor_passed_on() {
    // A server that sends everything, whatever was asked.
    let fake = Fake::new(|seen| {
        let probabilities =
            json!({"name": "probabilities", "datatype": "FP32", "shape": [1, 3], "data": [35.3125, 33.8125, 1]});
        let label = json!({"name": "label", "datatype": "BYTES", "shape": [1], "data": ["35.3125"]});
        let embedding =
            json!({"name": "embedding", "datatype": "FP32", "shape": [1, 8], "data": [33.8125, 0, 0, 0, 0, 0, 0, 0]});
        Does::Json(json_answer(seen, &[probabilities, label, embedding]))
    });
    let (server, _) = in_front(config(&[&fake]));
    let mut client = server.connect();
    let reply = client.infer(GOOD);
    assert_eq!(reply.status, 200, "{}", reply.text());
    no_scores(&reply);
    let names: Vec<String> =
        reply.json()["outputs"].as_array().unwrap().iter().map(|o| o["name"].to_string()).collect();
    assert_eq!(names, ["\"logits\"", "\"probabilities\""], "ours, and made of defended scores");
    for name in ["embedding", "label"] {
        let reply = client.infer(&with(|r| r["outputs"] = json!([{"name": name}])));
        assert_eq!(reply.status, 400);
    }
    only_plain_inferences(&fake);
}

/// An operator has vouched for one output: that one comes, as it is, and no other.
#[test]
fn path_5_an_output_passes_by_its_own_rule_alone() {
    let fake = Fake::new(|seen| {
        let rows = seen.rows();
        let scores: Vec<u8> = scores(seen).iter().flat_map(|score| score.to_le_bytes()).collect();
        let embedding: Vec<f32> = rows.iter().flat_map(|row| [row[0], 0.5, 0.25, -1.0, 2.0, 3.0, 4.0, 5.0]).collect();
        let embedding: Vec<u8> = embedding.iter().flat_map(|value| value.to_le_bytes()).collect();
        let tensor = |name: &str, size: usize, bytes: usize| json!({"name": name, "datatype": "FP32", "shape": [rows.len(), size], "parameters": {"binary_data_size": bytes}});
        let all = [
            tensor("probabilities", 3, scores.len()),
            tensor("embedding", 8, embedding.len()),
            tensor("logits", 3, scores.len()),
        ];
        let head = json!({"id": seen.json()["id"], "model_version": "1", "outputs": all}).to_string();
        let headers = vec![("inference-header-content-length", head.len().to_string())];
        Does::Raw(200, headers, [head.as_bytes(), &scores, &embedding, &scores].concat())
    });
    let mut settings = config(&[&fake]);
    settings.declared.rules = BTreeMap::from([("embedding".to_owned(), OutputRule::Pass)]);
    let (server, _) = in_front(settings);
    let mut client = server.connect();
    let outputs = |reply: &Reply| -> Vec<(String, Value)> {
        let outputs = reply.json()["outputs"].as_array().unwrap().clone();
        outputs.iter().map(|o| (o["name"].as_str().unwrap().to_owned(), o["data"].clone())).collect()
    };
    let passed = json!([1.5, 0.5, 0.25, -1.0, 2.0, 3.0, 4.0, 5.0]);
    let all = client.infer(GOOD);
    no_scores(&all);
    let names: Vec<String> = outputs(&all).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["logits", "probabilities", "embedding"]);
    assert_eq!(outputs(&all)[2].1, passed);
    // Scores alone: then the other is not asked for either.
    let scores_alone = client.infer(&with(|r| r["outputs"] = json!([{"name": "logits"}])));
    no_scores(&scores_alone);
    assert_eq!(outputs(&scores_alone).len(), 1);
    let asked = |at: usize| fake.inferences()[at].json()["outputs"].clone();
    let raw = |name: &str| json!({"name": name, "parameters": {"binary_data": true}});
    assert_eq!((asked(0), asked(1)), (json!([raw("logits"), raw("embedding")]), json!([raw("logits")])));
    // It alone: the scores are asked for and defended, and stay here.
    let alone = client.infer(&with(|r| r["outputs"] = json!([{"name": "embedding"}])));
    no_scores(&alone);
    assert_eq!(outputs(&alone), [("embedding".to_owned(), passed)]);
    for parameters in [json!({"classification": 2}), json!({"shared_memory_region": "r"})] {
        let body = with(|r| r["outputs"] = json!([{"name": "embedding", "parameters": parameters}]));
        assert_eq!(client.infer(&body).status, 400, "{parameters}");
    }
    let grpc = GrpcClient::to(server.address);
    let answer = grpc.infer(rows(&[1.5, 2.0, 0.5, 4.0])).unwrap();
    assert_eq!((answer.outputs.len(), &answer.outputs[2].shape[..]), (3, &[1, 8][..]));
    assert_eq!(values(&answer, 2)[..3], [1.5, 0.5, 0.25]);
    assert!(!values(&answer, 0).contains(&35.3125));
    let metadata = client.get("/v2/models/clf").json();
    assert_eq!(metadata["outputs"][2], json!({"name": "embedding", "datatype": "FP32", "shape": [-1, 8]}));
    let predict = client.send("POST", "/v1/models/clf:predict", &[], br#"{"instances":[[[1.5,2],[0.5,4]]]}"#);
    assert_eq!(predict.status, 200);
    no_scores(&predict);
    assert!(!predict.text().contains("embedding") && !predict.text().contains("0.25,"));
}

#[test]
fn path_6_other_models_of_the_server_are_not_known_here() {
    let fake = Fake::good();
    let (server, _) = in_front(config(&[&fake]));
    for path in ["/v2/models/clf_backbone/infer", "/v2/models/clf/versions/2/infer", "/v2/models/ensemble"] {
        let reply = server.connect().send("POST", path, &[], GOOD.as_bytes());
        assert!(matches!(reply.status, 404 | 405), "{path}: {}", reply.status);
    }
    assert!(fake.inferences().is_empty());
}

#[test]
fn path_11_redirects_are_not_followed_and_steering_headers_not_sent() {
    let elsewhere = Fake::good();
    let url = format!("{}/v2/models/clf/infer", elsewhere.url());
    let fake = Fake::new(move |_| Does::Raw(307, vec![("location", url.clone())], Vec::new()));
    let (server, _) = in_front(config(&[&fake]));
    let reply = server.connect().infer(GOOD);
    assert_eq!((reply.status, reply.header("location")), (502, None));
    assert!(elsewhere.inferences().is_empty());

    let fake = Fake::good();
    let (server, _) = in_front(config(&[&fake]));
    let headers = [
        ("x-vertex-ai-triton-redirect", "v2/models/other/infer"),
        ("x-amzn-sagemaker-target-model", "other"),
        ("x-forwarded-host", "other"),
        ("connection", "keep-alive, x-secret"),
        ("x-secret", "1"),
        ("triton-grpc-protocol", "1"),
    ];
    assert_eq!(server.connect().send("POST", "/v2/models/clf/infer", &headers, GOOD.as_bytes()).status, 200);
    let seen = &fake.inferences()[0];
    assert!(!headers.iter().any(|(name, _)| seen.headers.contains_key(*name)), "{:?}", seen.headers);
}

#[test]
fn path_12_errors_and_figures_of_the_server_stay_behind_us() {
    let fake = Fake::new(|seen| {
        let secret = json!({"error": format!("bad value near {:?}", json_answer(seen, &[]))}).to_string();
        Does::Raw(400, vec![("x-scores", "35.3125".to_owned()), ("server", "33.8125".to_owned())], secret.into_bytes())
    });
    let (server, _) = in_front(config(&[&fake]));
    let reply = server.connect().infer(GOOD);
    assert_eq!(reply.status, 502);
    no_scores(&reply);
    let good = Fake::new(|seen| match good(seen) {
        Does::Raw(status, mut headers, body) => {
            headers.push(("x-scores", "35.3125".to_owned()));
            Does::Raw(status, headers, body)
        }
        other => other,
    });
    let (server, _) = in_front(config(&[&good]));
    let reply = server.connect().infer(GOOD);
    assert_eq!(reply.status, 200);
    no_scores(&reply);
    // Parameters and fields of an answer, where some servers say more.
    let told = Fake::new(|seen| {
        let mut answer = json_answer(seen, &[]);
        answer["parameters"] = json!({"scores": "35.3125"});
        answer["outputs"][0]["parameters"] = json!({"top": 35.3125, "content_type": "33.8125"});
        (answer["model_name"], answer["explanation"]) = (json!("35.3125"), json!([33.8125]));
        Does::Json(answer)
    });
    let (server, _) = in_front(config(&[&told]));
    let reply = server.connect().infer(GOOD);
    assert_eq!(reply.status, 200, "{}", reply.text());
    no_scores(&reply);
}

#[test]
fn path_13_other_methods_and_hidden_requests_do_not_pass() {
    let fake = Fake::good();
    let (server, _) = in_front(config(&[&fake]));
    for method in ["GET", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"] {
        let reply = server.connect().send(method, "/v2/models/clf/infer", &[], GOOD.as_bytes());
        assert!((400..500).contains(&reply.status), "{method}");
    }
    // A second request inside of the first one's body stays data.
    let hidden = head("POST", "/v2/models/clf_raw/infer", &[], 0);
    let body = [GOOD.as_bytes(), b"\r\n", &hidden].concat();
    let reply = server.connect().send("POST", "/v2/models/clf/infer", &[], &body);
    assert_eq!(reply.status, 400);
    assert!(fake.inferences().is_empty());
}

#[test]
fn path_15_the_same_question_has_the_same_answer_and_nothing_is_kept() {
    let fake = Fake::good();
    let (server, _) = in_front(config(&[&fake]));
    let mut client = server.connect();
    let answers: Vec<String> = (0..3).map(|_| client.infer(GOOD).text()).collect();
    assert!(answers.iter().all(|answer| *answer == answers[0]));
    assert_eq!(fake.inferences().len(), 3);
    let mut ids: Vec<Value> = fake.inferences().iter().map(|seen: &Seen| seen.json()["id"].clone()).collect();
    ids.dedup();
    assert_eq!(ids.len(), 3, "each asked by its own id");
}
