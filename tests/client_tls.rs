//! Audits, loads, checks and health checks over TLS: a relay that speaks it stands before the servers of the other tests.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use sordino::client::ClientError;
use sordino::client::check::{Findings, State, Subject, check};
use sordino::client::endpoint::{Endpoint, Reach};
use sordino::client::http::{Call, Connection, Reply, get};
use sordino::client::tls::TlsSettings;

use super::command_support::{done, refused, sordino};
use super::http_support::Server;
use super::tls_support::{AUTHORITY, CLIENT, CLIENT_KEY, EXPIRED, PLAIN, Proof, Relay, STRICT, trusting};
use super::upstream_support::{Does, Fake, about};

const PATIENCE: Duration = Duration::from_secs(20);

fn asked(url: &str, tls: &TlsSettings, calls: &[Call]) -> Result<Vec<Reply>, ClientError> {
    let endpoint = Endpoint::with_tls(url, Reach::Loopback, tls)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let exchange = async {
        let mut connection = Connection::open_for(&endpoint, calls[0].wire()).await?;
        let mut replies = Vec::new();
        for call in calls {
            replies.push(connection.send(call).await?);
        }
        Ok(replies)
    };
    runtime
        .block_on(async { tokio::time::timeout(PATIENCE, exchange).await })
        .map_err(|_| ClientError::Timeout(PATIENCE))?
}

fn metadata() -> Call {
    Call::get("/v2/models/clf").unwrap()
}

fn live_over_grpc() -> Call {
    Call::grpc("/inference.GRPCInferenceService/ServerLive", &[]).unwrap()
}

#[test]
fn one_connection_is_kept_and_answers_as_without_tls() {
    let server = Server::plain();
    let plain = asked(&format!("http://{}", server.address), &TlsSettings::default(), &[metadata()]).unwrap();
    for proof in [PLAIN, STRICT, Proof { old_version: true, ..PLAIN }, Proof { old_version: true, ..STRICT }] {
        let relay = Relay::to(server.address, proof);
        let tls = trusting(proof.asks_for_certificates);
        let replies = asked(&relay.url("localhost"), &tls, &[metadata(), metadata()]).unwrap();
        assert!(replies.iter().all(|reply| reply.status == 200 && reply.body == plain[0].body));
        assert!(asked(&relay.url("127.0.0.1"), &tls, &[live_over_grpc(), live_over_grpc()]).is_ok());
        assert_eq!(relay.agreed.load(Ordering::Relaxed), 2);
    }
}

/// What went wrong, whichever protocol was to be spoken.
fn reasons(url: &str, tls: &TlsSettings) -> Vec<ClientError> {
    [metadata(), live_over_grpc()].map(|call| asked(url, tls, &[call]).unwrap_err()).into()
}

#[test]
fn what_keeps_tls_from_coming_about_is_told() {
    let server = Server::plain();
    let relay = Relay::to(server.address, PLAIN);
    let expired = Relay::to(server.address, Proof { certificate: EXPIRED, ..PLAIN });
    let of_client = TlsSettings { authorities: Some(CLIENT.to_vec()), ..trusting(false) };
    let other_name = TlsSettings { server_name: Some("triton.example".to_owned()), ..trusting(false) };
    let plain = format!("https://{}", server.address);
    for (url, tls, words) in [
        (relay.url("localhost"), of_client, "is of no authority that is trusted here"),
        (relay.url("localhost"), other_name, "is for other names"),
        (expired.url("localhost"), trusting(false), "has expired"),
        (plain, trusting(false), "does not speak TLS"),
    ] {
        for error in reasons(&url, &tls) {
            assert!(matches!(&error, ClientError::Tls { .. }) && error.kind() == "tls", "{error:?}");
            let said = error.to_string();
            assert!(said.contains(words) && said.contains(&url["https://".len()..]), "{words}: {said}");
        }
    }
    assert_eq!(relay.agreed.load(Ordering::Relaxed) + expired.agreed.load(Ordering::Relaxed), 0);
}

/// Under TLS 1.3 a server says so only once the first request is under way.
#[test]
fn a_client_certificate_that_is_missing_is_told_over_rest_and_grpc() {
    let server = Server::plain();
    for old_version in [true, false] {
        let strict = Relay::to(server.address, Proof { old_version, ..STRICT });
        for error in reasons(&strict.url("localhost"), &trusting(false)) {
            assert!(error.to_string().ends_with("it wants a client certificate"), "{old_version}: {error}");
        }
    }
}

#[test]
fn settings_that_are_of_no_use_are_told_before_anybody_is_dialled() {
    let relay = Relay::to(Server::plain().address, PLAIN);
    for tls in [
        TlsSettings { authorities: Some(b"no PEM".to_vec()), ..TlsSettings::default() },
        TlsSettings { client: Some((CLIENT.to_vec(), AUTHORITY.to_vec())), ..trusting(false) },
    ] {
        let error = Endpoint::with_tls(&relay.url("localhost"), Reach::Loopback, &tls).unwrap_err();
        assert!(matches!(&error, ClientError::TlsSettings(_)), "{error:?}");
    }
    let endpoint = Endpoint::with_tls(&relay.url("localhost"), Reach::Loopback, &trusting(true)).unwrap();
    assert!(!format!("{endpoint:?}").contains("BEGIN"), "{endpoint:?}");
}

#[test]
fn a_handshake_takes_no_longer_than_an_answer_may() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://localhost:{}", silent.local_addr().unwrap().port());
    let endpoint = Endpoint::with_tls(&url, Reach::Loopback, &trusting(false)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let error = runtime.block_on(get(&endpoint, "/", Duration::from_millis(50))).unwrap_err();
    assert!(matches!(error, ClientError::Timeout(_)), "{error}");
}

fn found(url: &str, grpc: Option<String>, tls: &TlsSettings) -> Result<Findings, ClientError> {
    let subject = Subject {
        rest: Endpoint::with_tls(url, Reach::Loopback, tls)?,
        grpc,
        metrics: None,
        model: Some("clf".to_owned()),
        timeout: PATIENCE,
        tls: tls.clone(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(check(&subject))
}

fn state(findings: &Findings, path: u8) -> State {
    findings.findings.iter().find(|finding| finding.path == path).unwrap().state
}

#[test]
fn paths_are_found_over_tls_as_without() {
    let fake = Fake::all(|seen| about(seen, true));
    let relay = Relay::to(fake.address, PLAIN);
    let server = Server::plain();
    let of_grpc = Relay::to(server.address, PLAIN);
    for (given, answers) in [
        (of_grpc.address.to_string(), State::Open),
        (format!("grpcs://{}", of_grpc.address), State::Open),
        (format!("grpc://{}", of_grpc.address), State::Unknown),
        (server.address.to_string(), State::Open),
        (format!("grpcs://{}", server.address), State::Unknown),
    ] {
        let over_tls = found(&relay.url("localhost"), Some(given.clone()), &trusting(false)).unwrap();
        assert_eq!((over_tls.server.as_deref(), over_tls.reachable), (Some("fake"), true));
        let plain = found(&fake.url(), None, &TlsSettings::default()).unwrap();
        for path in (1..=15).filter(|path| *path != 4) {
            assert_eq!(state(&over_tls, path), state(&plain, path), "path {path}");
        }
        assert_eq!(state(&over_tls, 4), answers, "{given}: {over_tls:?}");
    }
    let strange = TlsSettings { authorities: Some(CLIENT.to_vec()), ..TlsSettings::default() };
    assert!(matches!(found(&relay.url("localhost"), None, &strange), Err(ClientError::Tls { .. })));
}

/// Who asks it without the certificate that the proxy has, as clients do, is not answered.
#[test]
fn a_server_that_wants_a_certificate_is_closed_to_those_without() {
    let server = Server::plain();
    let strict = Relay::to(server.address, STRICT);
    let grpc = Some(strict.address.to_string());
    let without = found(&strict.url("localhost"), grpc.clone(), &trusting(false)).unwrap();
    assert_eq!((state(&without, 10), state(&without, 4)), (State::Closed, State::Closed), "{without:?}");
    assert!(!without.reachable && without.count(State::Open) == 0);
    let with = found(&strict.url("localhost"), grpc, &trusting(true)).unwrap();
    assert_eq!((state(&with, 10), state(&with, 4)), (State::Open, State::Open), "{with:?}");
}

/// The files of the tests in a folder.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in [("ca.pem", AUTHORITY), ("client.pem", CLIENT), ("client.key", CLIENT_KEY)] {
        std::fs::write(dir.path().join(name), bytes).unwrap();
    }
    dir
}

const PROVEN: &str = "--ca-file ca.pem --client-certificate-file client.pem --client-key-file client.key";

#[test]
fn commands_speak_tls_by_flags_of_the_same_names() {
    let (dir, server) = (folder(), Server::plain());
    let strict = Relay::to(server.address, STRICT);
    let url = strict.url("localhost");
    done(dir.path(), &format!("healthcheck --url {url}/v2/health/ready {PROVEN}"));
    for encoding in ["json", "binary", "grpc"] {
        let load =
            format!("bench --url {url} --model clf --encoding {encoding} --warmup 0 --requests 5 --duration 20 --json");
        let report: Value = serde_json::from_str(&done(dir.path(), &format!("{load} {PROVEN}"))).unwrap();
        assert_eq!((report["n_ok"].as_u64(), report["url"].as_str()), (Some(5), Some(&*url)), "{report}");
    }
    let checked =
        sordino(dir.path(), &format!("check --upstream {url} --model clf --grpc {} {PROVEN}", strict.address));
    let said = String::from_utf8(checked.stdout).unwrap();
    assert!(said.contains("this is Sordino itself"), "{said} {}", String::from_utf8_lossy(&checked.stderr));
    // By another address, if the name to ask for is given.
    let elsewhere = Relay::at("127.0.0.2", server.address, PLAIN);
    let url = format!("{}/v2/health/ready", elsewhere.url("127.0.0.2"));
    assert!(refused(dir.path(), &format!("healthcheck --url {url} --ca-file ca.pem")).contains("is for other names"));
    done(dir.path(), &format!("healthcheck --url {url} --ca-file ca.pem --server-name localhost"));
}

#[test]
fn flags_of_tls_beside_an_address_without_it_are_a_mistake() {
    let (dir, server) = (folder(), Server::plain());
    let url = format!("http://{}", server.address);
    for command in ["healthcheck --url", "bench --model clf --url", "check --upstream"] {
        let said = refused(dir.path(), &format!("{command} {url} --ca-file ca.pem"));
        assert!(said.contains("--ca-file: it is for an address that begins with https://"), "{command}: {said}");
    }
    assert!(refused(dir.path(), "audit --ca-file ca.pem").contains("--ca-file: it is for an address"));
    let missing = refused(dir.path(), "healthcheck --url https://localhost:1 --ca-file none.pem");
    assert!(missing.contains("cannot read none.pem"), "{missing}");
    let alone = refused(dir.path(), "healthcheck --url https://localhost:1 --client-key-file client.key");
    assert!(alone.contains("--client-certificate-file"), "{alone}");
}

/// A model of two classes that answers so many calls and then none.
fn answers(n_calls: usize) -> (Fake, Arc<AtomicUsize>) {
    let answered = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&answered);
    let fake = Fake::all(move |seen| {
        if seen.method == "GET" {
            return Does::Json(json!({
                "name": "m", "platform": "fake",
                "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
                "outputs": [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 2]}],
            }));
        }
        if count.fetch_add(1, Ordering::Relaxed) >= n_calls {
            return Does::Close;
        }
        let asked = seen.json();
        let values = asked["inputs"][0]["data"].as_array().unwrap();
        let first = values.iter().step_by(2).map(|value| value.as_f64().unwrap());
        let data: Vec<f64> = first.flat_map(|first| [first, 1.0 - first]).collect();
        Does::Json(json!({"model_name": "m", "outputs": [{"name": "probabilities", "data": data}]}))
    });
    (fake, answered)
}

fn write_rows(dir: &Path) {
    let row = |n: usize| format!("{},{},{n}\n", n % 2, 0.5 + 0.4 * (1.0 - 2.0 * (n % 2) as f64) - 0.0004 * n as f64);
    std::fs::write(dir.join("rows.csv"), (0..200).map(row).collect::<String>()).unwrap();
    let numbers = |from: usize| (from..from + 100).map(|n| format!("{n}\n")).collect::<String>();
    std::fs::write(dir.join("members"), numbers(0)).unwrap();
    std::fs::write(dir.join("others"), numbers(100)).unwrap();
}

#[test]
fn an_audit_over_tls_goes_on_where_it_stopped() {
    let dir = folder();
    write_rows(dir.path());
    let audit = |relay: &Relay| {
        format!(
            "audit --endpoint {} --endpoint-model m --ca-file ca.pem --data csv:rows.csv --members members --non-members others \
             --batch-size 40 --scores-only --permutations 20 --bootstrap 100 --quiet --json report.json",
            relay.url("localhost")
        )
    };
    let (dying, _) = answers(2);
    let gone = refused(dir.path(), &audit(&Relay::to(dying.address, PLAIN)));
    assert!(gone.contains("after 80 of 200 rows") && gone.contains("report.answers"), "{gone}");
    let (back, answered) = answers(usize::MAX);
    let relay = Relay::to(back.address, PLAIN);
    done(dir.path(), &audit(&relay));
    assert_eq!(answered.load(Ordering::Relaxed), 4, "three of five batches, and one row again");
    let report: Value = serde_json::from_slice(&std::fs::read(dir.path().join("report.json")).unwrap()).unwrap();
    let text = report.to_string();
    assert!(text.contains(&relay.url("localhost")) && !text.contains("BEGIN"), "{text}");
    let strange = audit(&relay).replace("ca.pem", "client.pem");
    assert!(refused(dir.path(), &strange).contains("is of no authority that is trusted here"));
}
