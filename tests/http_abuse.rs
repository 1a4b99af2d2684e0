//! Clients that mean no good, or know no better: what they hold, and for how long.

use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use sordino::protocol::grpc::SERVICE;
use sordino::server::{ComputeConfig, Config, Ended};

use crate::grpc_support::rows as rows_over_grpc;
use crate::http_support::{Client, GOOD, Server, StubEngine, ask, called, gated, head, one_thread};

const INFER: &str = "/v2/models/clf/infer";
/// Seven eighths of a mebibyte.
const LARGE: usize = 896 << 10;

fn rows(n: usize) -> String {
    let data = vec!["1"; 4 * n].join(",");
    format!(r#"{{"inputs":[{{"name":"x","shape":[{n},2,2],"datatype":"FP32","data":[{data}]}}]}}"#)
}

#[test]
fn rows_have_a_limit_that_is_told() {
    let server = Server::plain();
    let mut client = server.connect();
    assert_eq!(client.infer(&rows(1024)).status, 200);
    let reply = client.infer(&rows(1025));
    let message = reply.json()["error"].to_string();
    assert_eq!(reply.status, 400);
    assert!(message.contains("1024") && message.contains("1025"), "{message}");
}

#[test]
fn a_request_that_waits_too_long_for_a_thread_is_504_and_skipped() {
    let (open, calls, engine) = gated();
    let mut config = one_thread(4);
    config.compute.queue_timeout = Duration::from_millis(50);
    let server = Server::start(engine, config);
    let mut running = ask(&server);
    called(&calls, 1);
    let reply = server.connect().infer(GOOD);
    assert_eq!(reply.status, 504);
    assert!(reply.json()["error"].as_str().unwrap().contains("0.05 seconds"));
    assert_eq!(server.metric("sordino_requests_total{outcome=\"queue_timeout\",route=\"infer\"}"), 1.0);
    open.send(()).unwrap();
    assert_eq!(running.read(false).status, 200, "what runs is not timed out");
    server.wait_for("sordino_jobs_skipped_total", 1.0);
    open.send(()).unwrap();
    assert_eq!(server.connect().infer(GOOD).status, 200);
}

#[test]
fn large_bodies_leave_room_for_small_ones() {
    let config = Config { max_body_bytes: LARGE, max_buffered_bytes: 1 << 20, ..Config::default() };
    let server = Server::start(StubEngine::new(|| None), config);
    let _greedy = [half(&server, 880 << 10), half(&server, 120 << 10)];
    // Together they are below the budget, and above the part of it that large bodies may take.
    server.wait_for("sordino_requests_total{outcome=\"overloaded\",route=\"infer\"}", 1.0);
    let padding = " ".repeat(60 << 10);
    assert_eq!(server.connect().infer(&format!("{GOOD}{padding}")).status, 200);
}

/// A client that has sent so much of a body that goes on.
fn half(server: &Server, n_bytes: usize) -> Client {
    let mut client = server.connect();
    client.write(&head("POST", INFER, &[], LARGE));
    client.write(&vec![b' '; n_bytes]);
    client
}

#[test]
fn a_body_that_trickles_is_408_long_before_its_deadline() {
    let config = Config { body_window: Duration::from_millis(100), ..Config::default() };
    let server = Server::start(StubEngine::new(|| None), config);
    let mut client = half(&server, 100_000);
    let reply = client.read(false);
    assert_eq!((reply.status, reply.header("connection")), (408, Some("close")));
    assert!(reply.json()["error"].as_str().unwrap().contains("8192 bytes a second over 0.1 seconds"));
    assert!(client.is_closed());
}

/// An HTTP/2 client whose streams have room for `window` bytes each.
async fn http2_client(server: &Server, window: u32) -> http2::SendRequest<Full<Bytes>> {
    let stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.initial_stream_window_size(window);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender.ready().await.unwrap();
    sender
}

fn good_request() -> hyper::Request<Full<Bytes>> {
    let request = hyper::Request::post(format!("http://test{INFER}"));
    request.body(Full::new(Bytes::from_static(GOOD.as_bytes()))).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn http2_answers_left_unread_end_their_connection() {
    for window in [0, 1, 200] {
        let config = Config { write_timeout: Duration::from_millis(100), ..Config::default() };
        let server = Server::start(StubEngine::new(|| None), config);
        let mut sender = http2_client(&server, window).await;
        let mut unread = Vec::new();
        unread.push(sender.send_request(good_request()).await.unwrap());
        for _ in 0..8 {
            // Later ones may find the connection cut already.
            unread.extend(sender.send_request(good_request()).await);
        }
        server.wait_for("sordino_connections ", 0.0);
        server.wait_for("sordino_in_flight_requests", 0.0);
        drop(unread);
    }
}

/// `n` messages in one gRPC call, and its end.
fn grpc_call(method: &str, n: usize) -> hyper::Request<Full<Bytes>> {
    let message = rows_over_grpc(&[1.5, 2.0, 0.5, 4.0]).encode_to_vec();
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    let body = [&[0][..], &length, &message].concat().repeat(n);
    let request = hyper::Request::post(format!("http://test/{SERVICE}/{method}"));
    request.header("content-type", "application/grpc").header("te", "trailers").body(Full::new(body.into())).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn grpc_answers_left_unread_end_their_connection() {
    for (method, n) in [("ModelInfer", 1), ("ModelStreamInfer", 1), ("ModelStreamInfer", 8)] {
        for window in [0, 1] {
            let config = Config { write_timeout: Duration::from_millis(100), ..Config::default() };
            let server = Server::start(StubEngine::new(|| None), config);
            let mut sender = http2_client(&server, window).await;
            let unread = sender.send_request(grpc_call(method, n)).await.unwrap();
            server.wait_for("sordino_connections ", 0.0);
            server.wait_for("sordino_in_flight_requests", 0.0);
            drop(unread);
        }
    }
}

/// A window of one byte makes the HTTP/2 library take an answer off our hands; it is ours to account for all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_grpc_answer_is_charged_and_in_flight_until_all_of_it_has_been_taken() {
    for method in ["ModelInfer", "ModelStreamInfer"] {
        let config = Config { max_buffered_bytes: 1024, ..Config::default() };
        let server = Server::start(StubEngine::new(|| None), config);
        let mut sender = http2_client(&server, 1).await;
        let unread = sender.send_request(grpc_call(method, 1)).await.unwrap();
        assert_eq!(unread.status(), 200);
        server.wait_for("sordino_rows_total ", 1.0);
        // Long enough for the answer to be handed to the library.
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(server.metric("sordino_in_flight_requests"), 1.0, "{method}");
        assert_eq!(server.connect().infer(GOOD).status, 503, "{method}: its bytes are charged no more");
        drop(unread);
        server.wait_for("sordino_in_flight_requests", 0.0);
        assert_eq!(server.connect().infer(GOOD).status, 200, "{method}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_request_is_in_flight_until_its_answer_has_been_taken() {
    let server = Server::plain();
    let mut sender = http2_client(&server, 1).await;
    let unread = sender.send_request(good_request()).await.unwrap();
    assert_eq!((unread.status().as_u16(), server.metric("sordino_in_flight_requests")), (200, 1.0));
    drop(unread);
    server.wait_for("sordino_in_flight_requests", 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_http2_connection_without_requests_is_closed_though_it_acknowledges_pings() {
    let config = Config { header_timeout: Duration::from_millis(100), ..Config::default() };
    let server = Server::start(StubEngine::new(|| None), config);
    let mut sender = http2_client(&server, 65_535).await;
    assert_eq!(sender.send_request(good_request()).await.unwrap().status(), 200);
    let silent = http2_client(&server, 65_535).await;
    server.wait_for("sordino_connections ", 0.0);
    drop(silent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_long_answer_does_not_count_as_idle() {
    let (open, gate) = channel::<()>();
    let gate = Mutex::new(gate);
    let engine = StubEngine::new(move || {
        let _ = gate.lock().unwrap().recv();
        None
    });
    let config = Config { header_timeout: Duration::from_millis(50), ..Config::default() };
    let server = Server::start(engine, config);
    let mut sender = http2_client(&server, 65_535).await;
    let answer = tokio::spawn(sender.send_request(good_request()));
    tokio::time::sleep(Duration::from_millis(200)).await;
    open.send(()).unwrap();
    assert_eq!(answer.await.unwrap().unwrap().status(), 200);
}

#[test]
fn refusals_are_short_whatever_they_refuse() {
    let server = Server::plain();
    let mut client = server.connect();
    let ones = vec!["1"; 100_000].join(",");
    let shape = format!(r#"{{"inputs":[{{"name":"x","shape":[{ones}],"datatype":"FP32","data":[1]}}]}}"#);
    let id = GOOD.replace("q7", &"i".repeat(100_000));
    for (body, word) in [(shape, "at most 16 whole numbers"), (id, "at most 1024 bytes, got 100000")] {
        let reply = client.infer(&body);
        assert_eq!(reply.status, 400);
        assert!(reply.body.len() < 300 && reply.text().contains(word), "{:.300}", reply.text());
    }
    let id = GOOD.replace("q7", &"i".repeat(1024));
    assert_eq!(client.infer(&id).status, 200);
}

#[test]
fn a_refusal_does_not_wait_for_the_body() {
    let config = Config { max_body_bytes: 100_000, ..Config::default() };
    let server = Server::start(StubEngine::new(|| None), config);
    for (path, length, status) in [("/nope", 1000, 404), (INFER, 1_000_000, 413), ("/nope", 1_000_000, 404)] {
        let mut client = server.connect();
        client.stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        client.write(&head("POST", path, &[], length));
        let reply = client.read(false);
        assert_eq!((reply.status, reply.header("connection")), (status, Some("close")), "{path}");
    }
}

#[test]
fn transfer_codings_other_than_chunked_are_415() {
    let server = Server::plain();
    let mut client = server.connect();
    client.write(b"POST /v2/models/clf/infer HTTP/1.1\r\nhost: t\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n");
    let reply = client.read(false);
    assert_eq!(reply.status, 415);
    assert!(reply.json()["error"].as_str().unwrap().contains("chunked"));
}

#[test]
fn answers_while_draining_say_that_the_connection_ends() {
    let config = Config { lame_duck: Duration::from_secs(60), ..Config::default() };
    let mut server = Server::start(StubEngine::new(|| None), config);
    let mut kept = server.connect();
    assert_eq!(kept.infer(GOOD).header("connection"), None);
    server.drain();
    let mut probe = server.connect();
    while probe.get("/v2/health/ready").status == 200 {
        probe = server.connect();
    }
    assert_eq!(kept.infer(GOOD).header("connection"), Some("close"));
    assert!(kept.is_closed());
}

#[test]
fn requests_on_connections_that_the_system_has_accepted_are_answered() {
    // Whether the accepting or the word to drain comes first is chance: several rounds.
    for _ in 0..5 {
        let (open, calls, engine) = gated();
        let compute = ComputeConfig { inline: true, ..ComputeConfig::default() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut server = Server::on(runtime, engine, Config { compute, ..Config::default() });
        let mut running = ask(&server);
        called(&calls, 1);
        // The only thread computes: these connections wait with the system.
        let mut waiting: Vec<Client> = (0..8).map(|_| ask(&server)).collect();
        server.drain();
        (0..9).for_each(|_| open.send(()).unwrap());
        assert_eq!(running.read(false).status, 200);
        waiting.iter_mut().for_each(|client| assert_eq!(client.read(false).status, 200));
        assert_eq!(server.wait(), Ended::Drained);
    }
}

#[test]
fn a_connection_that_was_just_opened_may_still_ask() {
    let mut server = Server::plain();
    let mut newcomer = server.connect();
    server.wait_for("sordino_connections ", 1.0);
    server.drain();
    while Client::to(server.metrics).get("/health/ready").status == 200 {}
    // The listener closes at once after that.
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(newcomer.infer(GOOD).status, 200);
    assert_eq!(server.wait(), Ended::Drained);
}

#[test]
fn a_silent_connection_does_not_hold_up_the_end() {
    let mut server = Server::plain();
    let silent = TcpStream::connect(server.address).unwrap();
    server.wait_for("sordino_connections ", 1.0);
    server.drain();
    assert_eq!(server.wait(), Ended::Drained);
    drop(silent);
}

#[test]
fn a_server_that_keeps_looking_for_requests_answers_alike_drains_and_ends() {
    use tokio::runtime::Builder;
    let expected = Server::plain().connect().infer(GOOD);
    for mut builder in [Builder::new_current_thread(), Builder::new_multi_thread()] {
        let runtime = builder.worker_threads(2).enable_all().build().unwrap();
        let config = Config { busy_poll: Duration::from_millis(5), ..Config::default() };
        let mut server = Server::on(runtime, StubEngine::new(|| None), config);
        let mut clients: Vec<Client> = (0..4).map(|_| server.connect()).collect();
        for pause in [0, 1, 20] {
            clients.iter_mut().for_each(|client| assert_eq!(client.infer(GOOD).body, expected.body));
            std::thread::sleep(Duration::from_millis(pause));
        }
        server.drain();
        assert_eq!(server.wait(), Ended::Drained);
    }
}
