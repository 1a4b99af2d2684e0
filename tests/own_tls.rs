//! TLS on the server's own addresses: what is spoken there, who is refused, and how the certificate changes.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sordino::client::ClientError;
use sordino::client::endpoint::{Endpoint, Reach};
use sordino::client::http::{Call, Connection, Reply};
use sordino::client::tls::TlsSettings;
use sordino::server::{Config, Ended, Tls, TlsPem, TlsSource};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{ClientConfig, HandshakeKind, ProtocolVersion, RootCertStore};

use super::http_support::{Client, GOOD, PATIENCE, Server, StubEngine, called, gated, head, one_thread, pipeline};
use super::tls_support::{AUTHORITY, CLIENT, CLIENT_KEY, EXPIRED, SERVER, SERVER_KEY, trusting};

const FAILURES: &str = "sordino_tls_handshake_failures_total";

/// Files that a test may change.
#[derive(Clone)]
struct Files(Arc<Mutex<Result<TlsPem, String>>>);

impl Files {
    fn of(certificate: &[u8]) -> Self {
        Self(Arc::new(Mutex::new(Ok(pem(certificate)))))
    }

    fn become_(&self, pem: Result<TlsPem, String>) {
        *self.0.lock().unwrap() = pem;
    }

    fn tls(&self, handshake_timeout: Duration) -> Tls {
        Tls::new(Arc::new(self.clone()), handshake_timeout, Duration::from_millis(20)).unwrap()
    }
}

impl TlsSource for Files {
    fn read(&self) -> Result<TlsPem, String> {
        self.0.lock().unwrap().clone()
    }
}

fn pem(certificate: &[u8]) -> TlsPem {
    TlsPem { certificates: certificate.to_vec(), key: SERVER_KEY.to_vec(), client_authorities: None }
}

fn strict(authority: &[u8]) -> TlsPem {
    TlsPem { client_authorities: Some(authority.to_vec()), ..pem(SERVER) }
}

fn served(tls: Tls, engine: Arc<StubEngine>, config: Config) -> Server {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    Server::made(runtime, pipeline(engine), config, |server| server.with_tls(tls))
}

fn plain_config(tls: Tls) -> Server {
    served(tls, StubEngine::new(|| None), Config::default())
}

/// A client with a runtime of its own.
struct Over {
    runtime: tokio::runtime::Runtime,
    connection: Connection,
}

impl Over {
    fn tls(server: &Server, wire: &Call, tls: &TlsSettings) -> Result<Self, ClientError> {
        let url = format!("https://localhost:{}", server.address.port());
        let endpoint = Endpoint::with_tls(&url, Reach::Loopback, tls)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let connection = runtime.block_on(Connection::open_for(&endpoint, wire.wire()))?;
        Ok(Self { runtime, connection })
    }

    fn send(&mut self, call: &Call) -> Result<Reply, ClientError> {
        self.runtime.block_on(self.connection.send(call))
    }
}

fn once(server: &Server, call: &Call, tls: &TlsSettings) -> Result<Reply, ClientError> {
    Over::tls(server, call, tls)?.send(call)
}

fn infer() -> Call {
    Call::post("/v2/models/clf/infer", Default::default(), GOOD.into()).unwrap()
}

fn ready_over_grpc() -> Call {
    Call::grpc("/inference.GRPCInferenceService/ServerReady", &[]).unwrap()
}

fn failures(server: &Server, reason: &str, n: f64) {
    server.wait_for(&format!("{FAILURES}{{reason=\"{reason}\"}}"), n);
}

#[test]
fn rest_and_grpc_are_answered_over_tls_as_without() {
    let server = plain_config(Files::of(SERVER).tls(PATIENCE));
    let plain = Server::plain().connect().infer(GOOD);
    let mut rest = Over::tls(&server, &infer(), &trusting(false)).unwrap();
    for _ in 0..2 {
        let reply = rest.send(&infer()).unwrap();
        assert_eq!((reply.status, &reply.body[..]), (200, &plain.body[..]));
    }
    let mut grpc = Over::tls(&server, &ready_over_grpc(), &trusting(false)).unwrap();
    for _ in 0..2 {
        assert_eq!(grpc.send(&ready_over_grpc()).unwrap().body.as_ref(), [8, 1], "ready: true");
    }
    assert_eq!(server.metric("sordino_connections "), 2.0, "connections are kept");
    // The operator's address is as it was.
    assert_eq!(Client::to(server.metrics).get("/health/ready").status, 200);
}

/// What is agreed on with a client that offers these protocols.
fn agreed(server: &Server, old_version: bool, offers: &[&[u8]]) -> Option<(ProtocolVersion, Option<Vec<u8>>)> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(AUTHORITY).unwrap()).unwrap();
    let versions = if old_version { [&TLS12] } else { [&TLS13] };
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
    let builder = builder.with_protocol_versions(&versions).unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = offers.iter().map(|offer| offer.to_vec()).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.ok()?;
        let session = stream.get_ref().1;
        Some((session.protocol_version().unwrap(), session.alpn_protocol().map(<[u8]>::to_vec)))
    })
}

#[test]
fn the_protocol_inside_is_agreed_on_and_both_versions_are_spoken() {
    let server = plain_config(Files::of(SERVER).tls(PATIENCE));
    for (old_version, version) in [(true, ProtocolVersion::TLSv1_2), (false, ProtocolVersion::TLSv1_3)] {
        for (offers, agreed_on) in [
            (vec![&b"http/1.1"[..], b"h2"], Some(b"h2".to_vec())),
            (vec![b"http/1.1"], Some(b"http/1.1".to_vec())),
            (Vec::new(), None),
        ] {
            assert_eq!(agreed(&server, old_version, &offers), Some((version, agreed_on)), "{offers:?}");
        }
        assert_eq!(agreed(&server, old_version, &[b"ftp"]), None);
    }
    failures(&server, "protocol", 2.0);
}

/// Whether a second connection with the same memory of sessions is let in without a whole handshake.
fn resumes(server: &Server, old_version: bool) -> bool {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(AUTHORITY).unwrap()).unwrap();
    let versions = if old_version { [&TLS12] } else { [&TLS13] };
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
    let builder = builder.with_protocol_versions(&versions).unwrap().with_root_certificates(roots);
    let chain = CertificateDer::pem_slice_iter(CLIENT).collect::<Result<Vec<_>, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(CLIENT_KEY).unwrap();
    let connector = TlsConnector::from(Arc::new(builder.with_client_auth_cert(chain, key).unwrap()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let connect = || {
        runtime.block_on(async {
            let stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
            let name = ServerName::try_from("localhost").unwrap();
            let mut stream = connector.connect(name, stream).await.unwrap();
            // Tickets come behind the handshake, before the answer.
            stream.write_all(b"GET /v2 HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n").await.unwrap();
            let _ = stream.read_to_end(&mut Vec::new()).await;
            stream.get_ref().1.handshake_kind().unwrap()
        })
    };
    assert_ne!(connect(), HandshakeKind::Resumed);
    connect() == HandshakeKind::Resumed
}

#[test]
fn a_client_that_must_show_a_certificate_shows_it_each_time() {
    let files = Files::of(SERVER);
    for (pem, is_asked) in [(pem(SERVER), false), (strict(AUTHORITY), true)] {
        files.become_(Ok(pem));
        let server = plain_config(files.tls(PATIENCE));
        for old_version in [true, false] {
            assert_eq!(resumes(&server, old_version), !is_asked, "TLS 1.2: {old_version}");
        }
    }
}

#[test]
fn a_client_without_a_certificate_of_the_authority_is_refused() {
    let files = Files::of(SERVER);
    files.become_(Ok(strict(AUTHORITY)));
    let server = plain_config(files.tls(PATIENCE));
    for call in [infer(), ready_over_grpc()] {
        assert_eq!(once(&server, &call, &trusting(true)).unwrap().status, 200);
        let refused = once(&server, &call, &trusting(false)).unwrap_err();
        assert!(refused.to_string().ends_with("it wants a client certificate"), "{refused}");
    }
    failures(&server, "client_certificate", 2.0);
    assert_eq!(server.metric("sordino_rows_total "), 1.0);

    // Of another authority: the certificate itself in its place.
    files.become_(Ok(strict(CLIENT)));
    let server = plain_config(files.tls(PATIENCE));
    let refused = once(&server, &infer(), &trusting(true)).unwrap_err();
    assert!(matches!(refused, ClientError::Tls { .. }), "{refused}");
    failures(&server, "client_certificate", 1.0);
}

#[test]
fn a_new_certificate_is_for_new_connections_and_a_broken_one_for_none() {
    let files = Files::of(SERVER);
    let server = plain_config(files.tls(PATIENCE));
    let mut old = Over::tls(&server, &infer(), &trusting(false)).unwrap();
    assert_eq!(old.send(&infer()).unwrap().status, 200);

    files.become_(Ok(pem(EXPIRED)));
    server.wait_for("sordino_tls_reloads_total{outcome=\"ok\"}", 1.0);
    let refused = once(&server, &infer(), &trusting(false)).unwrap_err();
    assert!(refused.to_string().contains("has expired"), "{refused}");
    assert_eq!(old.send(&infer()).unwrap().status, 200, "connections stay");

    for (n, broken) in [
        Err("cannot read it".to_owned()),
        Ok(TlsPem { key: CLIENT_KEY.to_vec(), ..pem(SERVER) }),
        Ok(TlsPem { certificates: b"no PEM".to_vec(), ..pem(SERVER) }),
        Ok(TlsPem { client_authorities: Some(Vec::new()), ..pem(SERVER) }),
    ]
    .into_iter()
    .enumerate()
    {
        files.become_(broken);
        server.wait_for("sordino_tls_reloads_total{outcome=\"failed\"}", 1.0 + n as f64);
        assert_eq!(server.metric("sordino_tls_files_refused "), 1.0);
        let refused = once(&server, &infer(), &trusting(false)).unwrap_err();
        assert!(refused.to_string().contains("has expired"), "the one before is served: {refused}");
    }
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(server.metric("sordino_tls_reloads_total{outcome=\"failed\"}"), 4.0, "each is counted once");

    files.become_(Ok(pem(SERVER)));
    server.wait_for("sordino_tls_files_refused ", 0.0);
    assert_eq!(once(&server, &infer(), &trusting(false)).unwrap().status, 200);
    assert_eq!(old.send(&infer()).unwrap().status, 200);
}

#[test]
fn files_that_are_of_no_use_are_told_at_the_start_without_a_key() {
    let junk = || b"no PEM".to_vec();
    for (pem, word) in [
        (TlsPem { certificates: junk(), ..pem(SERVER) }, "file of the certificate"),
        (TlsPem { key: junk(), ..pem(SERVER) }, "file of the key"),
        (TlsPem { key: CLIENT_KEY.to_vec(), ..pem(SERVER) }, "not that of the certificate"),
        (strict(b"no PEM"), "clients' authorities"),
    ] {
        let shown = format!("{pem:?}");
        assert!(!shown.contains("BEGIN") && !shown.contains("45, 45"), "{shown}");
        let files = Files(Arc::new(Mutex::new(Ok(pem))));
        let refused = Tls::new(Arc::new(files), PATIENCE, Duration::ZERO).unwrap_err();
        assert!(refused.contains(word) && !refused.contains("BEGIN"), "{word}: {refused}");
    }
}

#[test]
fn who_speaks_no_tls_is_told_so_and_closed() {
    let server = plain_config(Files::of(SERVER).tls(PATIENCE));
    let mut client = server.connect();
    let reply = client.infer(GOOD);
    assert_eq!(reply.status, 400);
    assert!(reply.text().contains("speaks TLS"), "{}", reply.text());
    assert!(client.is_closed());
    // gRPC, and bytes of no protocol.
    for bytes in [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], b"\x00\xff"] {
        let mut stream = TcpStream::connect(server.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(bytes).unwrap();
        let mut said = Vec::new();
        stream.read_to_end(&mut said).unwrap();
        assert!(String::from_utf8_lossy(&said).contains("speaks TLS"));
    }
    failures(&server, "not_tls", 3.0);
    server.wait_for("sordino_connections ", 0.0);
    // And the other way round: TLS where none is spoken.
    let refused = once(&Server::plain(), &infer(), &trusting(false)).unwrap_err();
    assert!(refused.to_string().contains("does not speak TLS"), "{refused}");
}

#[test]
fn a_handshake_that_stops_half_way_counts_among_the_connections_and_ends() {
    let config = Config { max_connections: 1, ..Config::default() };
    for begun in [&b""[..], b"\x16", b"\x16\x03\x01\x02\x00\x01"] {
        let server = served(Files::of(SERVER).tls(Duration::from_secs(2)), StubEngine::new(|| None), config.clone());
        let mut half = server.connect();
        half.write(begun);
        server.wait_for("sordino_connections ", 1.0);
        let over = once(&server, &infer(), &trusting(false)).unwrap_err();
        assert!(
            matches!(over, ClientError::Exchange(_) | ClientError::Connect { .. }),
            "closed without a word: {over}"
        );
        assert_eq!(server.metric("sordino_connections_refused_total"), 1.0);
        assert!(half.is_closed());
        failures(&server, "timeout", 1.0);
        server.wait_for("sordino_connections ", 0.0);
        assert_eq!(once(&server, &infer(), &trusting(false)).unwrap().status, 200);
    }
}

#[test]
fn a_peer_that_goes_inside_of_its_handshake_is_counted_and_no_more() {
    let server = plain_config(Files::of(SERVER).tls(PATIENCE));
    for begun in [&b""[..], b"\x16\x03\x01\x02\x00\x01"] {
        let mut stream = TcpStream::connect(server.address).unwrap();
        stream.write_all(begun).unwrap();
    }
    failures(&server, "closed", 2.0);
    assert_eq!(once(&server, &infer(), &trusting(false)).unwrap().status, 200);
}

#[test]
fn a_request_over_tls_is_answered_during_the_drain() {
    let (open, calls, engine) = gated();
    let mut server = served(Files::of(SERVER).tls(PATIENCE), engine, one_thread(4));
    let mut over = Over::tls(&server, &infer(), &trusting(false)).unwrap();
    let asking = std::thread::spawn(move || over.send(&infer()));
    called(&calls, 1);
    server.drain();
    std::thread::sleep(Duration::from_millis(50));
    open.send(()).unwrap();
    assert_eq!(asking.join().unwrap().unwrap().status, 200);
    assert_eq!(server.wait(), Ended::Drained);
}

#[test]
fn a_handshake_that_stops_half_way_does_not_hold_up_the_drain() {
    let mut server = plain_config(Files::of(SERVER).tls(Duration::from_secs(600)));
    let mut half = server.connect();
    half.write(b"\x16");
    server.wait_for("sordino_connections ", 1.0);
    let began = Instant::now();
    server.drain();
    assert_eq!(server.wait(), Ended::Drained);
    assert!(began.elapsed() < Duration::from_secs(15), "the drain has 20 seconds: {:?}", began.elapsed());
}

/// What TLS has taken to be sent is not sent: the time for it runs all the same.
#[test]
fn an_answer_left_unread_ends_its_connection_over_tls_too() {
    let config = Config { write_timeout: Duration::from_millis(100), ..Config::default() };
    let server = served(Files::of(SERVER).tls(PATIENCE), StubEngine::new(|| None), config);
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(AUTHORITY).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let config = builder.with_root_certificates(roots).with_no_client_auth();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let asks = head("GET", "/openapi.json", &[], 0).repeat(400);
    let unread = runtime.block_on(async {
        use tokio::io::AsyncWriteExt as _;
        let stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        let mut stream = connector.connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap();
        let _ = tokio::time::timeout(PATIENCE, stream.write_all(&asks)).await;
        let _ = tokio::time::timeout(PATIENCE, stream.flush()).await;
        stream
    });
    server.wait_for("sordino_connections ", 0.0);
    drop(unread);
}
