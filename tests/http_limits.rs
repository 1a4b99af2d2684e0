//! Admission and endings: too large, too slow, too many, a full queue, clients that leave, draining.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use sordino::server::{Config, Ended};

use crate::http_support::{Client, GOOD, Server, StubEngine, ask, called, gated, head, one_thread};

const INFER: &str = "/v2/models/clf/infer";

#[test]
fn a_full_queue_is_503_with_retry_after() {
    let (open, calls, engine) = gated();
    let server = Server::start(engine, one_thread(2));
    let mut running = ask(&server);
    called(&calls, 1);
    let mut waiting: Vec<Client> = (0..2).map(|_| ask(&server)).collect();
    server.wait_for("sordino_queue_depth", 2.0);
    let reply = server.connect().infer(GOOD);
    assert_eq!((reply.status, reply.header("retry-after")), (503, Some("1")));
    assert!(reply.json()["error"].as_str().unwrap().contains("queue"));
    assert_eq!(server.connect().get("/v2/health/ready").status, 200);
    (0..3).for_each(|_| open.send(()).unwrap());
    assert_eq!(running.read(false).status, 200);
    waiting.iter_mut().for_each(|client| assert_eq!(client.read(false).status, 200));
    assert_eq!(server.metric("sordino_requests_total{outcome=\"overloaded\",route=\"infer\"}"), 1.0);
    assert_eq!(server.metric("sordino_in_flight_requests"), 0.0);
}

#[test]
fn a_job_whose_client_has_gone_is_skipped() {
    let (open, calls, engine) = gated();
    let server = Server::start(engine, one_thread(2));
    let mut running = ask(&server);
    called(&calls, 1);
    let leaving = ask(&server);
    server.wait_for("sordino_queue_depth", 1.0);
    drop(leaving);
    server.wait_for("sordino_in_flight_requests", 1.0);
    open.send(()).unwrap();
    assert_eq!(running.read(false).status, 200);
    server.wait_for("sordino_jobs_skipped_total", 1.0);
    assert_eq!(calls.load(Ordering::Relaxed), 1);
}

#[test]
fn a_large_body_is_413_by_its_declared_length_and_by_its_real_one() {
    let config = Config { max_body_bytes: 2000, ..Config::default() };
    let server = Server::start(StubEngine::new(|| None), config);
    assert_eq!(server.connect().infer(GOOD).status, 200);
    let large = vec![b' '; 5000];
    let mut client = server.connect();
    let reply = client.send("POST", INFER, &[], &large);
    assert_eq!((reply.status, reply.header("connection")), (413, Some("close")));
    assert!(reply.json()["error"].as_str().unwrap().contains("at most 2000 bytes, got 5000"));
    assert!(client.is_closed());
    let mut client = server.connect();
    client.write(b"POST /v2/models/clf/infer HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n");
    for _ in 0..3 {
        client.write(b"3e8\r\n");
        client.write(&large[..1000]);
        client.write(b"\r\n");
    }
    client.write(b"0\r\n\r\n");
    assert_eq!(client.read(false).status, 413);
}

#[test]
fn a_body_in_chunks_is_read() {
    let server = Server::plain();
    let mut client = server.connect();
    client.write(b"POST /v2/models/clf/infer HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n");
    for part in GOOD.as_bytes().chunks(7) {
        client.write(format!("{:x}\r\n", part.len()).as_bytes());
        client.write(part);
        client.write(b"\r\n");
    }
    client.write(b"0\r\n\r\n");
    let reply = client.read(false);
    assert_eq!((reply.status, &reply.json()["id"]), (200, &serde_json::json!("q7")));
}

#[test]
fn a_client_that_waits_for_100_continue_is_told() {
    let config = Config { max_body_bytes: 2000, ..Config::default() };
    let server = Server::start(StubEngine::new(|| None), config);
    let expect = [("expect", "100-continue")];
    let mut client = server.connect();
    client.write(&head("POST", INFER, &expect, GOOD.len()));
    assert_eq!(client.read(false).status, 100);
    client.write(GOOD.as_bytes());
    assert_eq!(client.read(false).status, 200);
    for (path, length, status) in [(INFER, 5000, 413), ("/v2/models/nope/infer", 100, 404)] {
        let mut client = server.connect();
        client.write(&head("POST", path, &expect, length));
        assert_eq!(client.read(false).status, status, "refused without asking for the body");
    }
}

#[test]
fn bytes_held_over_all_connections_have_a_budget() {
    let (open, calls, engine) = gated();
    let config = Config { max_buffered_bytes: 1024, ..one_thread(9) };
    let server = Server::start(engine, config);
    let mut running = ask(&server);
    called(&calls, 1);
    let reply = server.connect().infer(GOOD);
    assert_eq!((reply.status, reply.header("retry-after")), (503, Some("1")));
    open.send(()).unwrap();
    assert_eq!(running.read(false).status, 200);
    open.send(()).unwrap();
    assert_eq!(server.connect().infer(GOOD).status, 200);
}

#[test]
fn a_slow_client_is_released() {
    let soon = Duration::from_millis(150);
    let config = Config { header_timeout: soon, body_timeout: soon, ..Config::default() };
    let server = Server::start(StubEngine::new(|| None), config);
    let mut silent = server.connect();
    let mut slow_head = server.connect();
    slow_head.write(b"POST /v2/models/clf/infer HTTP/1.1\r\nhost: t\r\n");
    let mut slow_body = server.connect();
    slow_body.write(&head("POST", INFER, &[], GOOD.len()));
    slow_body.write(&GOOD.as_bytes()[..20]);
    assert!(silent.is_closed());
    assert!(slow_head.is_closed());
    let reply = slow_body.read(false);
    assert_eq!((reply.status, reply.header("connection")), (408, Some("close")));
    assert!(reply.json()["error"].as_str().unwrap().contains("0.15 seconds"));
    assert!(slow_body.is_closed());
    server.wait_for("sordino_connections ", 0.0);
}

#[test]
fn connections_over_the_limit_are_turned_away() {
    let config = Config { max_connections: 2, ..Config::default() };
    let server = Server::start(StubEngine::new(|| None), config);
    let mut held: Vec<Client> = (0..2).map(|_| server.connect()).collect();
    held.iter_mut().for_each(|client| assert_eq!(client.get("/v2").status, 200));
    let mut third = server.connect();
    let reply = third.read(false);
    assert_eq!((reply.status, reply.header("retry-after")), (503, Some("1")));
    drop(held);
    server.wait_for("sordino_connections ", 0.0);
    assert_eq!(server.connect().get("/v2").status, 200);
    assert_eq!(server.metric("sordino_connections_refused_total"), 1.0);
}

#[test]
fn draining_turns_readiness_off_first_and_finishes_what_runs() {
    let (open, calls, engine) = gated();
    let config = Config { lame_duck: Duration::from_secs(60), ..one_thread(4) };
    let mut server = Server::start(engine, config);
    let mut running = ask(&server);
    called(&calls, 1);
    server.drain();
    let started = Instant::now();
    while server.connect().get("/v2/health/ready").status == 200 {
        assert!(started.elapsed() < Duration::from_secs(20));
    }
    let body = serde_json::json!({"live": true, "ready": false});
    assert_eq!(server.connect().get("/v2/health/ready").json(), body);
    assert_eq!(server.connect().get("/v2/models/clf/ready").status, 503);
    assert_eq!(server.connect().get("/v2/health/live").status, 200);
    assert_eq!(Client::to(server.metrics).get("/health/ready").status, 503);
    let mut late = ask(&server);
    server.wait_for("sordino_queue_depth", 1.0);
    (0..2).for_each(|_| open.send(()).unwrap());
    assert_eq!(running.read(false).status, 200);
    assert_eq!(late.read(false).status, 200);
}

#[test]
fn draining_waits_for_requests_and_refuses_new_connections() {
    let (open, calls, engine) = gated();
    let mut server = Server::start(engine, one_thread(4));
    let mut idle = server.connect();
    assert_eq!(idle.get("/v2").status, 200);
    let mut running = ask(&server);
    called(&calls, 1);
    server.drain();
    assert!(idle.is_closed());
    // The listener closes beside the idle connection, not before it.
    let started = Instant::now();
    while std::net::TcpStream::connect(server.address).is_ok() {
        assert!(started.elapsed() < Duration::from_secs(20), "new connections are still accepted");
    }
    open.send(()).unwrap();
    assert_eq!(running.read(false).status, 200);
    assert_eq!(server.wait(), Ended::Drained);
}

#[test]
fn draining_has_a_deadline_and_a_second_word_ends_it() {
    for impatient in [false, true] {
        let (open, calls, engine) = gated();
        let drain = if impatient { Duration::from_secs(600) } else { Duration::from_millis(50) };
        let mut server = Server::start(engine, Config { drain, ..one_thread(4) });
        let mut running = ask(&server);
        called(&calls, 1);
        server.drain();
        if impatient {
            server.leave_now();
        }
        assert_eq!(server.wait(), Ended::Cut { n_connections: 1 });
        assert!(running.is_closed());
        drop(open);
    }
}

#[test]
fn a_stuck_model_does_not_hold_up_the_end() {
    let (open, calls, engine) = gated();
    let mut server = Server::start(engine, Config { drain: Duration::from_millis(50), ..one_thread(4) });
    let leaving = ask(&server);
    called(&calls, 1);
    drop(leaving);
    server.wait_for("sordino_connections ", 0.0);
    server.drain();
    assert_eq!(server.wait(), Ended::Drained);
    drop(open);
}
