//! TLS to a model's server: a relay that speaks it stands before the servers of the other tests.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use sordino::client::tls::TlsSettings;
use sordino::client::upstream::{StartError, Target, UpstreamConfig, connect};
use sordino::defence::{Defence, DefenceConfig, Method, ScoreKind};
use sordino::engine::RemoteEngine as _;
use sordino::engine::upstream::{Declared, Dialect, Fault};
use sordino::pipeline::Pipeline;
use sordino::server::Config;

use super::http_support::{GOOD, Server, defence};
use super::tls_support::{AUTHORITY, CLIENT, CLIENT_KEY, EXPIRED, PLAIN, Proof, Relay, SERVER_KEY, STRICT, trusting};
use super::upstream_support::{Does, Fake, config, declared, good, in_front};

/// Settings for one server, which is asked once.
fn once(target: Target, tls: TlsSettings) -> UpstreamConfig {
    let declared = declared(Dialect::OipHttp);
    UpstreamConfig {
        start_timeout: Duration::ZERO,
        health_interval: Duration::ZERO,
        tls,
        ..UpstreamConfig::new(vec![target], declared)
    }
}

/// How the start ends: without a word, or in these.
fn started(settings: UpstreamConfig) -> Result<(), StartError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(connect(settings)).map(drop)
}

fn fault(settings: UpstreamConfig) -> Fault {
    match started(settings) {
        Err(StartError::Silent { last, .. } | StartError::Tls(last)) => last,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_server_is_asked_over_tls_as_without() {
    let plain = Server::plain();
    let fake = Fake::good();
    for (proof, old_version) in [(PLAIN, false), (STRICT, false), (PLAIN, true), (STRICT, true)] {
        let relay = Relay::to(fake.address, Proof { old_version, ..proof });
        for host in ["localhost", "127.0.0.1"] {
            let targets = vec![relay.target("https", host)];
            let tls = trusting(proof.asks_for_certificates);
            let (server, upstream) = in_front(UpstreamConfig { targets, tls, ..config(&[&fake]) });
            let mut client = server.connect();
            for _ in 0..2 {
                assert_eq!(client.infer(GOOD).text(), plain.connect().infer(GOOD).text());
            }
            assert_eq!(upstream.figures().connections, 1, "connections are kept");
        }
        assert!(relay.agreed.load(Ordering::Relaxed) > 0, "all of it went over TLS");
    }
}

#[test]
fn a_server_that_cannot_prove_itself_is_not_spoken_to() {
    let fake = Fake::good();
    let relay = Relay::to(fake.address, PLAIN);
    let expired = Relay::to(fake.address, Proof { certificate: EXPIRED, ..PLAIN });
    let elsewhere = Relay::at("127.0.0.2", fake.address, PLAIN);
    let of_client = TlsSettings { authorities: Some(CLIENT.to_vec()), ..trusting(false) };
    for (relay, host, tls, words) in [
        (&elsewhere, "127.0.0.2", trusting(false), "is for other names"),
        (
            &relay,
            "localhost",
            TlsSettings { server_name: Some("triton.example".to_owned()), ..trusting(false) },
            "other names",
        ),
        (&relay, "localhost", of_client, "is of no authority that is trusted here"),
        (&expired, "localhost", trusting(false), "has expired"),
    ] {
        let fault = fault(once(relay.target("https", host), tls));
        assert!(matches!(&fault, Fault::Handshake(said) if said.contains(words)), "{words}: {fault:?}");
        let shown = fault.to_string();
        assert!(!shown.contains("DnsName"), "what the certificate says is not repeated: {shown}");
    }
    assert_eq!(relay.agreed.load(Ordering::Relaxed) + expired.agreed.load(Ordering::Relaxed), 0);
    assert!(started(once(relay.target("https", "localhost"), trusting(false))).is_ok());
    assert!(fake.inferences().is_empty());
}

#[test]
fn without_a_file_of_authorities_only_those_of_the_machine_are_trusted() {
    let relay = Relay::to(Fake::good().address, PLAIN);
    // Where the machine trusts nobody that is told, and nobody is dialled.
    let fault = fault(once(relay.target("https", "localhost"), TlsSettings::default()));
    assert!(matches!(fault, Fault::Handshake(_) | Fault::Tls(_)), "{fault:?}");
    assert_eq!(relay.agreed.load(Ordering::Relaxed), 0);
}

#[test]
fn the_name_asked_for_may_be_another_than_that_of_the_address() {
    let fake = Fake::good();
    let relay = Relay::at("127.0.0.2", fake.address, PLAIN);
    let tls = TlsSettings { server_name: Some("localhost".to_owned()), ..trusting(false) };
    started(once(relay.target("https", "127.0.0.2"), tls)).unwrap();
}

/// Under TLS 1.3 a server says so only once the first request is under way.
#[test]
fn a_client_certificate_that_is_missing_is_told_in_words() {
    let fake = Fake::good();
    for old_version in [true, false] {
        let strict = Relay::to(fake.address, Proof { old_version, ..STRICT });
        for dialect in [Dialect::OipHttp, Dialect::OipGrpc] {
            let settings = UpstreamConfig {
                declared: declared(dialect),
                ..once(strict.target("https", "localhost"), trusting(false))
            };
            let fault = fault(settings);
            let told = matches!(&fault, Fault::Handshake(said) | Fault::TlsEnded(said) if said.contains("it wants a client certificate"));
            assert!(told, "{dialect} {old_version}: {fault:?}");
        }
    }
    assert!(fake.inferences().is_empty());
}

#[test]
fn files_that_are_of_no_use_are_told_at_once() {
    let relay = Relay::to(Fake::good().address, PLAIN);
    let junk = || b"no PEM".to_vec();
    let authorities = Some(AUTHORITY.to_vec());
    let with = |certificate: &[u8], key: &[u8]| TlsSettings {
        authorities: authorities.clone(),
        client: Some((certificate.to_vec(), key.to_vec())),
        server_name: None,
    };
    for (tls, word) in [
        (TlsSettings { authorities: Some(junk()), ..TlsSettings::default() }, "file of authorities"),
        (TlsSettings { authorities: Some(CLIENT_KEY.to_vec()), ..TlsSettings::default() }, "file of authorities"),
        (with(&junk(), CLIENT_KEY), "client certificate"),
        (with(CLIENT, &junk()), "client key"),
        (with(CLIENT, SERVER_KEY), "client key"),
        (TlsSettings { server_name: Some("no name".to_owned()), ..trusting(false) }, "'no name'"),
    ] {
        assert!(!format!("{tls:?}").contains("45, 45"), "{tls:?} shows what is in the files");
        let long =
            UpstreamConfig { start_timeout: Duration::from_secs(600), ..once(relay.target("https", "localhost"), tls) };
        let fault = fault(long);
        assert!(matches!(&fault, Fault::Tls(said) if said.contains(word)), "{word}: {fault:?}");
    }
}

#[test]
fn a_handshake_takes_no_longer_than_a_connection_may() {
    // Takes connections and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    for dialect in [Dialect::OipHttp, Dialect::OipGrpc] {
        let target = Target::parse(&format!("https://localhost:{port}")).unwrap();
        let settings = UpstreamConfig {
            connect_timeout: Duration::from_millis(50),
            timeout: Duration::from_secs(600),
            declared: declared(dialect),
            ..once(target, trusting(false))
        };
        let began = Instant::now();
        assert_eq!(fault(settings), Fault::Unreachable, "{dialect}");
        assert!(began.elapsed() < Duration::from_secs(300), "{dialect}");
    }
}

#[test]
fn a_server_without_tls_is_told_from_one_with_it() {
    let plain = Server::plain();
    let target = Target::parse(&format!("https://{}", plain.address)).unwrap();
    let fault = fault(UpstreamConfig { connect_timeout: Duration::from_secs(60), ..once(target, trusting(false)) });
    assert!(matches!(&fault, Fault::Handshake(said) if said.contains("does not speak TLS")), "{fault:?}");
    // The other way round: plain words to a server that expects TLS.
    let relay = Relay::to(plain.address, PLAIN);
    assert!(started(once(relay.target("http", "localhost"), TlsSettings::default())).is_err());
    assert_eq!(relay.agreed.load(Ordering::Relaxed), 0);
}

/// A request that was not sent goes to the next server, also where it is the handshake that failed.
#[test]
fn a_server_that_no_longer_proves_itself_is_left_out() {
    let fake = Fake::new(|seen| Does::After(Duration::from_millis(1), Box::new(good(seen))));
    let (well, ill) =
        (Relay::to(fake.address, PLAIN), Relay::to(fake.address, Proof { certificate: EXPIRED, ..PLAIN }));
    let targets = vec![well.target("https", "localhost"), ill.target("https", "localhost")];
    let settings = UpstreamConfig { targets, tls: trusting(false), eject_after: 2, ..config(&[&fake]) };
    let (server, upstream) = in_front(settings);
    let mut client = server.connect();
    for _ in 0..8 {
        assert_eq!(client.infer(GOOD).status, 200);
    }
    let figures = upstream.figures();
    assert_eq!((figures.ejections, figures.usable), (1, 1), "{figures:?}");
    assert_eq!(ill.agreed.load(Ordering::Relaxed), 0);
}

#[test]
fn grpc_is_spoken_over_tls() {
    let behind = Server::plain();
    let declared = Declared { score_kind: Some(ScoreKind::LogProbabilities), ..declared(Dialect::OipGrpc) };
    let expired = Relay::to(behind.address, Proof { certificate: EXPIRED, ..STRICT });
    let ill =
        UpstreamConfig { declared: declared.clone(), ..once(expired.target("grpcs", "localhost"), trusting(true)) };
    let ill = fault(ill);
    assert!(matches!(&ill, Fault::Handshake(said) if said.contains("has expired")), "{ill:?}");

    let relay = Relay::to(behind.address, STRICT);
    let settings = UpstreamConfig {
        start_timeout: Duration::from_secs(5),
        declared,
        ..once(relay.target("grpcs", "localhost"), trusting(true))
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let upstream = runtime.block_on(connect(settings)).unwrap();
    let config = DefenceConfig { method: Method::LabelOnly, top_k: None, digits: None };
    let defence_of = Defence::new(&config, None, ScoreKind::LogProbabilities, 3).unwrap();
    let (_, identity) = defence();
    let pipeline = Arc::new(Pipeline::upstream(upstream, defence_of, identity).unwrap());
    let server = Server::of(runtime, pipeline, Config::default());
    for _ in 0..2 {
        assert_eq!(server.connect().infer(GOOD).status, 200);
    }
    assert_eq!(relay.agreed.load(Ordering::Relaxed), 2, "one asked about the model, one is shared by all requests");
}
