//! `sordino check`: what an open server shows, and a closed one.

use std::time::Duration;

use serde_json::json;
use sordino::client::check::{Findings, State, Subject, check};
use sordino::client::endpoint::{Endpoint, Reach};

use super::http_support::Server;
use super::upstream_support::{Does, Fake, about};

fn found(url: &str) -> Findings {
    let subject = Subject {
        rest: Endpoint::parse(url, Reach::Loopback).unwrap(),
        grpc: Some("127.0.0.1:1".to_owned()),
        metrics: None,
        model: Some("clf".to_owned()),
        timeout: Duration::from_secs(5),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(check(&subject)).unwrap()
}

fn open(findings: &Findings) -> Vec<u8> {
    let open = findings.findings.iter().filter(|finding| finding.state == State::Open);
    open.map(|finding| finding.path).collect()
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

#[test]
fn nothing_is_open_where_nothing_answers() {
    let findings = found("http://127.0.0.1:1");
    assert!(!findings.reachable && open(&findings).is_empty());
}

#[test]
fn our_own_server_offers_none_but_what_it_defends() {
    let server = Server::plain();
    let findings = found(&format!("http://{}", server.address));
    assert_eq!(findings.server.as_deref(), Some("sordino"));
    let raw: Vec<u8> = open(&findings).into_iter().filter(|path| ![2, 5, 10, 13].contains(path)).collect();
    assert_eq!(raw, [] as [u8; 0], "{findings:?}");
}
