//! A server behind ours that misbehaves: what the client is told, what is not sent twice, and who is left out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sordino::client::upstream::{UpstreamConfig, connect};
use sordino::engine::{CallContext, RemoteEngine as _};
use sordino::tensor::{InputTensor, Inputs, Values};

use super::http_support::{GOOD, Reply};
use super::upstream_support::{Does, Fake, Seen, answer, config, good, in_front, json_answer};

/// Part of every undefended score of [`GOOD`]: 1.5 + 33.8125.
const SENTINEL: &str = "35.3125";

fn with_scores(seen: &Seen, change: impl Fn(&mut Value)) -> Does {
    let mut answer = json_answer(seen, &[]);
    change(&mut answer);
    Does::Json(answer)
}

fn ask(fake: &Fake) -> Reply {
    let settings = UpstreamConfig { timeout: Duration::from_millis(700), max_answer_bytes: 4096, ..config(&[fake]) };
    let (server, _) = in_front(settings);
    server.connect().infer(GOOD)
}

/// Every answer that is none: 502, a fixed sentence, and nothing of what came.
#[test]
fn answers_that_cannot_be_trusted_are_not_passed_on() {
    type Case = (&'static str, fn(&Seen) -> Does);
    let cases: [Case; 24] = [
        ("another status", |seen| Does::Raw(500, Vec::new(), json_answer(seen, &[]).to_string().into_bytes())),
        ("a redirect with an answer", |seen| {
            Does::Raw(302, Vec::new(), json_answer(seen, &[]).to_string().into_bytes())
        }),
        ("a part with an answer", |seen| Does::Raw(206, Vec::new(), json_answer(seen, &[]).to_string().into_bytes())),
        ("an error that quotes scores", |_| {
            Does::Raw(400, Vec::new(), format!("{{\"error\":\"{SENTINEL}\"}}").into_bytes())
        }),
        ("no JSON", |_| Does::Raw(200, Vec::new(), SENTINEL.as_bytes().to_vec())),
        ("no outputs", |seen| with_scores(seen, |answer| answer["outputs"] = json!([]))),
        ("another output", |seen| with_scores(seen, |answer| answer["outputs"][0]["name"] = json!("embedding"))),
        ("twice", |seen| Does::Json(json_answer(seen, &[json_answer(seen, &[])["outputs"][0].clone()]))),
        ("more rows", |seen| with_scores(seen, |answer| answer["outputs"][0]["shape"] = json!([2, 3]))),
        ("other classes", |seen| with_scores(seen, |answer| answer["outputs"][0]["shape"] = json!([1, 4]))),
        ("fewer values", |seen| with_scores(seen, |answer| answer["outputs"][0]["data"] = json!([35.3125]))),
        ("a huge shape", |seen| with_scores(seen, |answer| answer["outputs"][0]["shape"] = json!([1, 3, u64::MAX]))),
        ("ragged", |seen| with_scores(seen, |answer| answer["outputs"][0]["data"] = json!([[35.3125, 1], [2]]))),
        ("strings", |seen| with_scores(seen, |answer| answer["outputs"][0]["data"] = json!(["35.3125", "1", "2"]))),
        ("classification strings", |seen| {
            with_scores(seen, |answer| {
                answer["outputs"][0]["datatype"] = json!("BYTES");
                answer["outputs"][0]["data"] = json!(["35.312500:0", "1.0:1", "2.0:2"]);
            })
        }),
        ("null for NaN", |seen| with_scores(seen, |answer| answer["outputs"][0]["data"][1] = Value::Null)),
        ("an infinity", |seen| with_scores(seen, |answer| answer["outputs"][0]["data"][1] = json!(1e300))),
        ("another id", |seen| with_scores(seen, |answer| answer["id"] = json!("other"))),
        ("another version", |seen| with_scores(seen, |answer| answer["model_version"] = json!("2"))),
        ("no data", |seen| with_scores(seen, |answer| answer["outputs"][0]["data"] = Value::Null)),
        ("shared memory", |seen| {
            with_scores(seen, |answer| {
                answer["outputs"][0]["data"] = Value::Null;
                answer["outputs"][0]["parameters"] = json!({"shared_memory_region": "r"});
            })
        }),
        ("a long answer", |seen| {
            Does::Json(json_answer(seen, &[json!({"name": "x".repeat(5000), "datatype": "FP32", "shape": [0]})]))
        }),
        ("header length beyond", |_| {
            Does::Raw(200, vec![("inference-header-content-length", "9999".to_owned())], b"{}".to_vec())
        }),
        ("compressed", |seen| match good(seen) {
            Does::Raw(status, mut headers, body) => {
                headers.push(("content-encoding", "gzip".to_owned()));
                Does::Raw(status, headers, body)
            }
            other => other,
        }),
    ];
    for (name, behaviour) in cases {
        let fake = Fake::new(behaviour);
        let reply = ask(&fake);
        assert_eq!(reply.status, 502, "{name}: {}", reply.text());
        assert_eq!(reply.json()["error"], "the model gave no usable scores for this request", "{name}");
        assert_eq!(fake.inferences().len(), 1, "{name}: sent again");
    }
}

#[test]
fn raw_answers_are_held_to_their_lengths() {
    let broken: [fn(Vec<u8>) -> Vec<u8>; 3] = [
        |mut body| {
            body.truncate(body.len() - 4);
            body
        },
        |mut body| {
            body.extend([0; 4]);
            body
        },
        |mut body| {
            let at = body.len() - 12;
            body[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
            body
        },
    ];
    for change in broken {
        let fake = Fake::new(move |seen| match good(seen) {
            Does::Raw(status, headers, body) => Does::Raw(status, headers, change(body)),
            other => other,
        });
        assert_eq!(ask(&fake).status, 502);
    }
}

#[test]
fn a_request_that_may_have_arrived_is_not_sent_again() {
    let mid_head: fn(&Seen) -> Does = |_| Does::Bytes(b"HTTP/1.1 200 OK\r\ncontent-le".to_vec());
    let mid_body: fn(&Seen) -> Does = |seen| {
        let whole = answer(200, &[], json_answer(seen, &[]).to_string().as_bytes());
        Does::Bytes(whole[..whole.len() - 40].to_vec())
    };
    let nothing: fn(&Seen) -> Does = |_| Does::Close;
    let no_http: fn(&Seen) -> Does = |_| Does::Bytes(format!("{SENTINEL}\r\n\r\n").into_bytes());
    for behaviour in [mid_head, mid_body, nothing, no_http] {
        let (first, second) = (Fake::new(behaviour), Fake::new(behaviour));
        let (server, upstream) = in_front(UpstreamConfig { retries: 3, ..config(&[&first, &second]) });
        let reply = server.connect().infer(GOOD);
        assert_eq!(reply.status, 502, "{}", reply.text());
        assert!(!reply.text().contains(SENTINEL));
        assert_eq!(first.inferences().len() + second.inferences().len(), 1);
        assert_eq!(upstream.figures().retries, 0);
    }
}

#[test]
fn a_slow_server_is_not_waited_for_and_in_the_end_left_out() {
    let slow = Fake::new(|seen| Does::After(Duration::from_secs(3), Box::new(good(seen))));
    let quick = Fake::good();
    let settings = UpstreamConfig { timeout: Duration::from_millis(100), eject_after: 1, ..config(&[&slow, &quick]) };
    let (server, upstream) = in_front(settings);
    let mut client = server.connect();
    while slow.inferences().is_empty() {
        client.infer(GOOD);
    }
    let replies: Vec<Reply> = (0..4).map(|_| client.infer(GOOD)).collect();
    assert!(replies.iter().all(|reply| reply.status == 200));
    assert_eq!((upstream.figures().ejections, upstream.figures().usable), (1, 1));
    assert_eq!(slow.inferences().len(), 1);
}

#[test]
fn the_only_server_in_use_is_kept_however_often_requests_fail() {
    let slow = Fake::new(|seen| Does::After(Duration::from_secs(3), Box::new(good(seen))));
    let settings = UpstreamConfig { timeout: Duration::from_millis(100), eject_after: 2, ..config(&[&slow]) };
    let (server, upstream) = in_front(settings);
    let mut client = server.connect();
    for _ in 0..4 {
        let reply = client.infer(GOOD);
        let error = reply.json()["error"].to_string();
        assert_eq!((reply.status, &*error), (504, "\"the model's server did not answer in time\""));
    }
    assert_eq!((upstream.figures().ejections, slow.inferences().len()), (0, 4));
}

/// One client whose requests make every server break the connection off, and another whose requests do not.
#[test]
fn no_client_can_have_all_servers_left_out() {
    let poison = GOOD.replace("1.5", "666");
    let fragile: fn(&Seen) -> Does = |seen| if seen.rows()[0][0] == 666.0 { Does::Close } else { good(seen) };
    for n_servers in [1, 3] {
        let fakes: Vec<Fake> = (0..n_servers).map(|_| Fake::new(fragile)).collect();
        let settings = UpstreamConfig { eject_after: 2, ..config(&fakes.iter().collect::<Vec<_>>()) };
        let (server, upstream) = in_front(settings);
        let (mut hostile, mut client) = (server.connect(), server.connect());
        for _ in 0..12 {
            assert_eq!(hostile.infer(&poison).status, 502);
            assert_eq!(upstream.figures().usable.min(1), 1);
        }
        assert_eq!(client.infer(GOOD).status, 200, "{n_servers} servers");
        assert_eq!(upstream.figures().ejections, n_servers - 1);
        assert_eq!(client.get("/v2/health/ready").status, 200);
    }
}

#[test]
fn the_only_server_is_left_out_where_it_cannot_be_connected_to() {
    let gone = Fake::good();
    let (server, upstream) = in_front(UpstreamConfig { eject_after: 2, retries: 0, ..config(&[&gone]) });
    drop(gone);
    let mut client = server.connect();
    for _ in 0..3 {
        let reply = client.infer(GOOD);
        assert_eq!((reply.status, reply.header("retry-after")), (503, Some("1")));
    }
    assert_eq!((upstream.figures().ejections, upstream.figures().usable), (1, 0));
    assert_eq!(client.get("/v2/health/ready").status, 503);
}

#[test]
fn a_deadline_of_the_request_is_that_of_the_answer() {
    let slow = Fake::new(|seen| Does::After(Duration::from_secs(3), Box::new(good(seen))));
    let other = Fake::new(|seen| Does::After(Duration::from_secs(3), Box::new(good(seen))));
    let (server, upstream) = in_front(UpstreamConfig { eject_after: 1, ..config(&[&slow, &other]) });
    let within = |micros: u64| {
        let started = Instant::now();
        let body = GOOD.replacen('{', &format!(r#"{{"parameters":{{"timeout":{micros}}},"#), 1);
        let reply = server.connect().infer(&body);
        assert!(started.elapsed() < Duration::from_secs(2));
        (reply.status, reply.json()["error"].as_str().unwrap().to_owned())
    };
    assert_eq!(within(1), (504, "the deadline of the call has passed".to_owned()));
    assert!(slow.inferences().is_empty() && other.inferences().is_empty(), "nobody is asked for what nobody waits for");
    assert_eq!(within(100_000), (504, "the model's server did not answer in time".to_owned()));
    let (asked, figures) = (slow.inferences().len() + other.inferences().len(), upstream.figures());
    assert_eq!((asked, figures.ejections, figures.usable), (1, 0, 2), "a client's haste says nothing about the server");
}

#[test]
fn a_refusal_to_take_more_is_handed_on_as_one() {
    for (status, expected) in [(503, 503), (429, 503), (400, 502), (404, 502), (302, 502)] {
        let fake = Fake::new(move |_| Does::Raw(status, Vec::new(), Vec::new()));
        assert_eq!(ask(&fake).status, expected, "{status}");
    }
}

#[test]
fn no_more_requests_are_under_way_than_allowed() {
    let fake = Fake::new(|seen| Does::After(Duration::from_millis(400), Box::new(good(seen))));
    let (server, upstream) = in_front(UpstreamConfig { max_in_flight: 1, ..config(&[&fake]) });
    let mut waiting = super::http_support::ask(&server);
    while upstream.figures().in_flight == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(server.connect().infer(GOOD).status, 503);
    assert_eq!(waiting.read(false).status, 200);
    assert_eq!(server.connect().infer(GOOD).status, 200, "being refused counts against nobody");
}

#[test]
fn an_answer_counts_as_under_way_until_it_has_been_read() {
    let fake = Fake::good();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let upstream = runtime.block_on(connect(config(&[&fake]))).unwrap();
    let values = Values::F32(vec![1.5, 2.0, 0.5, 4.0]);
    let inputs = InputTensor::new(&upstream.spec().inputs[0], &[1, 2, 2], values).unwrap();
    let call = CallContext::default();
    let request = upstream.write(&Inputs::new(vec![inputs]).unwrap(), &[], &call).unwrap();
    let reply = runtime.block_on(Arc::clone(&upstream).ask(request, call.clone())).unwrap();
    assert_eq!(upstream.figures().in_flight, 1);
    upstream.read(&reply, 1, &[], &call).unwrap();
    drop(reply);
    assert_eq!(upstream.figures().in_flight, 0);
}

#[test]
fn a_client_that_leaves_frees_no_place_that_the_server_still_works_for() {
    let fake = Fake::new(|seen| Does::After(Duration::from_millis(700), Box::new(good(seen))));
    let (server, upstream) = in_front(UpstreamConfig { max_in_flight: 1, ..config(&[&fake]) });
    let waiting = super::http_support::ask(&server);
    let wait = |n: usize| {
        let started = Instant::now();
        while upstream.figures().in_flight != n {
            assert!(started.elapsed() < Duration::from_secs(5), "{} under way", upstream.figures().in_flight);
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    wait(1);
    while fake.inferences().is_empty() {
        std::thread::sleep(Duration::from_millis(1));
    }
    drop(waiting);
    server.wait_for("sordino_connections ", 0.0);
    assert_eq!(server.connect().infer(GOOD).status, 503, "the server has all the work that it may have");
    wait(0);
    assert_eq!(server.connect().infer(GOOD).status, 200);
    assert_eq!((fake.inferences().len(), upstream.figures().connections), (2, 1), "its connection is kept");
}
