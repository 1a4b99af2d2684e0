//! Loads against small servers on port 0: a quick one, a stalling one, a refusing one.

use std::convert::Infallible;
use std::net::SocketAddr;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::HeaderMap;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use super::*;
use crate::client::endpoint::Reach;

/// A server on a thread of its own that answers request `n` with `behave(n)`: a pause and a status.
fn server(behave: fn(u64) -> (Duration, u16)) -> SocketAddr {
    let (address_tx, address_rx) = std::sync::mpsc::channel();
    thread::spawn(move || {
        runtime().expect("a runtime").block_on(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            address_tx.send(listener.local_addr().expect("an address")).expect("the test waits");
            let count = Arc::new(AtomicU64::new(0));
            while let Ok((stream, _)) = listener.accept().await {
                let count = Arc::clone(&count);
                let answer = service_fn(move |request: Request<Incoming>| {
                    let n = count.fetch_add(1, Ordering::Relaxed);
                    async move {
                        request.into_body().collect().await.ok();
                        let (pause, status) = behave(n);
                        tokio::time::sleep(pause).await;
                        let mut response = Response::new(Full::new(Bytes::from_static(b"{}")));
                        *response.status_mut() = status.try_into().expect("a status");
                        Ok::<_, Infallible>(response)
                    }
                });
                let http = hyper::server::conn::http1::Builder::new();
                tokio::spawn(http.serve_connection(TokioIo::new(stream), answer));
            }
        });
    });
    address_rx.recv().expect("the server tells its address")
}

fn config() -> LoadConfig {
    LoadConfig {
        n_connections: 2,
        n_threads: 1,
        pace: Pace::Closed,
        warmup: Duration::ZERO,
        duration: Duration::from_millis(500),
        max_requests: None,
        timeout: Duration::from_secs(2),
    }
}

fn load(address: SocketAddr, config: LoadConfig) -> LoadReport {
    let endpoint = Endpoint::parse(&format!("http://{address}"), Reach::Loopback).expect("loopback");
    let calls = vec![Call::post("/", HeaderMap::new(), Bytes::from_static(b"abc")).expect("a path")];
    let plan = LoadPlan::new(config).expect("a good plan");
    run(&plan, &endpoint, calls, 1, Arc::default()).expect("the load runs")
}

#[test]
fn a_closed_loop_stops_after_the_requests_asked_for() {
    let address = server(|_| (Duration::ZERO, 200));
    let report = load(address, LoadConfig { max_requests: Some(50), n_threads: 2, ..config() });
    assert_eq!((report.n_ok, report.n_failed, report.n_unsent), (50, 0, 0));
    assert_eq!((report.sent_bytes, report.received_bytes), (150, 100));
}

#[test]
fn an_open_loop_sends_what_is_due_and_no_more() {
    let address = server(|_| (Duration::ZERO, 200));
    let pace = Pace::Open { rate: 200.0 };
    let report = load(address, LoadConfig { pace, warmup: Duration::from_millis(100), ..config() });
    assert_eq!(report.n_ok + report.n_unsent, 100, "{report:?}");
    assert!(report.n_ok > 0, "{report:?}");
}

#[test]
fn an_open_loop_charges_a_stall_to_every_request_that_was_due_meanwhile() {
    // One stall of 250 ms at request 20 of 100, on the only connection: at 200 a second, 50 requests are due
    // meanwhile. A closed loop would see one slow request; here at least a quarter of them wait 50 ms and more.
    let stall = |n| (Duration::from_millis(if n == 20 { 250 } else { 0 }), 200);
    let pace = Pace::Open { rate: 200.0 };
    let open = load(server(stall), LoadConfig { pace, n_connections: 1, ..config() });
    let latency = open.latency_us.expect("answers");
    assert!(latency.p90 > 50_000.0, "{open:?}");
    let closed = load(server(stall), LoadConfig { n_connections: 1, max_requests: Some(100), ..config() });
    assert!(closed.latency_us.expect("answers").p90 < latency.p90, "{closed:?}");
}

#[test]
fn a_rate_out_of_reach_is_reported_as_unsent() {
    let address = server(|_| (Duration::from_millis(50), 200));
    let report = load(address, LoadConfig { pace: Pace::Open { rate: 1000.0 }, ..config() });
    assert!(report.n_unsent > 400, "{report:?}");
    assert_eq!(report.n_ok + report.n_unsent, 500, "{report:?}");
}

#[test]
fn refusals_and_timeouts_are_told_apart() {
    let address = server(|n| if n % 2 == 0 { (Duration::ZERO, 503) } else { (Duration::from_secs(30), 200) });
    let config = LoadConfig { max_requests: Some(4), timeout: Duration::from_millis(50), ..config() };
    let report = load(address, config);
    assert_eq!(report.n_ok, 0);
    assert!(report.by_status.get(&503).is_some_and(|n| *n >= 1), "{report:?}");
    assert!(report.errors.get("timeout").is_some_and(|n| *n >= 1), "{report:?}");
    assert_eq!(report.n_answered + report.n_failed, 4);
}

#[test]
fn an_endpoint_that_is_not_there_is_an_error_at_once() {
    let gone = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let endpoint = Endpoint::parse(&format!("http://{gone}"), Reach::Loopback).expect("loopback");
    let calls = vec![Call::get("/").expect("a path")];
    let plan = LoadPlan::new(config()).expect("a good plan");
    assert!(matches!(run(&plan, &endpoint, calls, 1, Arc::default()), Err(ClientError::Connect { .. })));
}

#[test]
fn plans_without_bounds_are_refused() {
    use LoadConfigError as E;
    let refused = |config| LoadPlan::new(config).expect_err("a bad plan");
    assert_eq!(refused(LoadConfig { n_connections: 0, ..config() }), E::Connections(0));
    assert_eq!(refused(LoadConfig { n_connections: 5000, ..config() }), E::Connections(5000));
    assert_eq!(refused(LoadConfig { n_threads: 3, ..config() }), E::Threads(3));
    assert_eq!(refused(LoadConfig { pace: Pace::Open { rate: 0.0 }, ..config() }), E::Rate(0.0));
    assert!(matches!(refused(LoadConfig { pace: Pace::Open { rate: f64::NAN }, ..config() }), E::Rate(_)));
    assert!(matches!(refused(LoadConfig { duration: Duration::ZERO, ..config() }), E::Duration(_)));
    assert!(matches!(refused(LoadConfig { duration: Duration::MAX, ..config() }), E::Duration(_)));
    assert_eq!(refused(LoadConfig { max_requests: Some(0), ..config() }), E::NoRequests);
    assert_eq!(refused(LoadConfig { timeout: Duration::ZERO, ..config() }), E::NoTimeout);
}
