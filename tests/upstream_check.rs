//! `sordino check`: what an open server shows, and a closed one.

use std::time::Duration;

use serde_json::json;
use sordino::client::check::{Findings, State, Subject, check};
use sordino::client::endpoint::{Endpoint, Reach};
use sordino::client::tls::TlsSettings;

use super::http_support::Server;
use super::upstream_support::{Does, Fake, about};

fn found(url: &str) -> Findings {
    ask(&Subject {
        rest: Endpoint::parse(url, Reach::Loopback).unwrap(),
        grpc: Some("127.0.0.1:1".to_owned()),
        metrics: None,
        model: Some("clf".to_owned()),
        timeout: Duration::from_secs(5),
        tls: TlsSettings::default(),
    })
}

fn ask(subject: &Subject) -> Findings {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(check(subject)).unwrap()
}

fn of_state(findings: &Findings, state: State) -> Vec<u8> {
    findings.findings.iter().filter(|finding| finding.state == state).map(|finding| finding.path).collect()
}

fn open(findings: &Findings) -> Vec<u8> {
    of_state(findings, State::Open)
}

#[test]
fn a_server_like_triton_is_open_in_many_places() {
    let fake = Fake::all(|seen| {
        let not = |status: u16| Does::Raw(status, Vec::new(), b"{\"error\":\"x\"}".to_vec());
        match (seen.method.as_str(), seen.path.as_str()) {
            ("GET", "/v2") => Does::Raw(
                200,
                vec![("content-encoding", "identity".to_owned())],
                json!({"name": "triton", "extensions": ["classification", "system_shared_memory"]})
                    .to_string()
                    .into_bytes(),
            ),
            (
                "GET",
                "/v2/health/live"
                | "/v2/trace/setting"
                | "/v2/systemsharedmemory/status"
                | "/metrics"
                | "/v2/models/clf/stats",
            ) => Does::Json(json!({})),
            ("GET", "/v2/models/clf/generate" | "/v1/models/clf:explain") => not(405),
            ("GET", "/v2/models/clf/config") => Does::Json(json!({"response_cache": {"enable": true}})),
            ("POST", "/v2/repository/index") => Does::Json(json!([{"name": "clf"}, {"name": "clf_backbone"}])),
            ("POST", _) => not(400),
            _ => about(seen, true),
        }
    });
    let findings = found(&fake.url());
    assert_eq!(findings.server.as_deref(), Some("triton"));
    assert_eq!(open(&findings), [1, 2, 3, 5, 6, 7, 8, 9, 10, 12, 14, 15]);
    let numbers: Vec<u8> = findings.findings.iter().map(|finding| finding.path).collect();
    assert_eq!(numbers, (1..=15).collect::<Vec<_>>());
    let infers = fake.inferences().iter().any(|seen| seen.path.contains("infer"));
    assert!(!infers, "the model is not run");
}

/// An address that nobody listens at, and none will for the time of a test.
fn nobody() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

#[test]
fn where_nothing_listens_all_is_closed_that_was_named() {
    let url = nobody();
    let findings = found(&url);
    assert!(!findings.reachable && open(&findings).is_empty());
    assert_eq!(of_state(&findings, State::Unknown), [12], "where its metrics are was not said: {findings:?}");
    let endpoint = |url: &str| Endpoint::parse(url, Reach::Loopback).unwrap();
    let subject = Subject {
        rest: endpoint(&url),
        grpc: Some("127.0.0.1:1".to_owned()),
        metrics: Some(endpoint(&url)),
        model: Some("clf".to_owned()),
        timeout: Duration::from_secs(5),
        tls: TlsSettings::default(),
    };
    assert_eq!(ask(&subject).count(State::Closed), 15);
    let unnamed = ask(&Subject { grpc: None, model: None, ..subject });
    assert_eq!(of_state(&unnamed, State::Unknown), [3, 4, 5, 8, 15], "{unnamed:?}");
}

/// A server that takes every connection and says nothing, or nothing of use.
#[test]
fn what_gives_no_answer_is_not_closed() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let endpoint = Endpoint::parse(&format!("http://{address}"), Reach::Loopback).unwrap();
    let subject = Subject {
        rest: endpoint.clone(),
        grpc: Some(address.to_string()),
        metrics: Some(endpoint),
        model: Some("clf".to_owned()),
        timeout: Duration::from_millis(20),
        tls: TlsSettings::default(),
    };
    let findings = ask(&subject);
    assert_eq!(findings.count(State::Unknown), 15, "{findings:?}");

    let broken = Fake::all(|_| Does::Raw(500, Vec::new(), Vec::new()));
    let endpoint = Endpoint::parse(&broken.url(), Reach::Loopback).unwrap();
    let findings = ask(&Subject {
        rest: endpoint.clone(),
        grpc: Some(broken.address.to_string()),
        metrics: Some(endpoint),
        timeout: Duration::from_secs(5),
        ..subject
    });
    // That it answers is one path; the load of a model that is not there is answered so by servers that would load.
    assert_eq!((open(&findings), findings.count(State::Closed)), (vec![7, 10], 0), "{findings:?}");
}

#[test]
fn our_own_server_offers_none_but_what_it_defends() {
    let server = Server::plain();
    let findings = found(&format!("http://{}", server.address));
    assert_eq!(findings.server.as_deref(), Some("sordino"));
    let raw: Vec<u8> = open(&findings).into_iter().filter(|path| ![2, 5, 10, 13].contains(path)).collect();
    assert_eq!(raw, [] as [u8; 0], "{findings:?}");
}
