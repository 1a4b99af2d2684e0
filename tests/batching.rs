//! Requests that are run as one: each gets its own answer, to the bit, and nobody else's failure.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ndarray::Array2;
use sordino::defence::{RawScores, ScoreKind};
use sordino::engine::{Engine, EngineError, ModelSpec};
use sordino::pipeline::{AssembleError, Parts, Pipeline, Preparation, Together};
use sordino::server::{Batching, ComputeConfig, Config};
use sordino::tensor::{Inputs, Values};

use crate::http_support::{Client, PATIENCE, Reply, Server, StubEngine, alone, defence, logits, write};

/// A row of this is an error of the model, for the whole batch.
const FAILS: f32 = 13.0;
/// A row of this is answered with NaN.
const NOT_FINITE: f32 = 14.0;
/// A row of this is a panic in the engine.
const PANICS: f32 = 15.0;

/// How a model treats the rows of a batch.
#[derive(Clone, Copy, PartialEq)]
enum Rows {
    Alike,
    /// One alone by other kernels, in the last bit.
    OtherAlone,
    /// Otherwise in every size of a batch, in the last bit.
    OtherBySize,
}

/// A stub that notes how many rows each call has, and waits for a word before each while its gate is shut.
struct Watched {
    spec: ModelSpec,
    rows: Rows,
    calls: Mutex<Vec<usize>>,
    shut: AtomicBool,
    gate: Mutex<Receiver<()>>,
}

impl Watched {
    fn new(rows: Rows) -> (Arc<Self>, Sender<()>) {
        let (open, gate) = channel();
        let spec = StubEngine::new(|| None).spec().clone();
        let (calls, shut) = (Mutex::default(), AtomicBool::new(false));
        (Arc::new(Self { spec, rows, calls, shut, gate: Mutex::new(gate) }), open)
    }

    fn calls(&self) -> Vec<usize> {
        self.calls.lock().unwrap().clone()
    }

    fn shut(&self) {
        self.calls.lock().unwrap().clear();
        self.shut.store(true, Ordering::Relaxed);
    }

    fn wait_for_calls(&self, n: usize) {
        let started = std::time::Instant::now();
        while self.calls().len() < n {
            assert!(started.elapsed() < PATIENCE, "the model was not called");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Engine for Watched {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn infer(&self, inputs: &Inputs) -> Result<RawScores, EngineError> {
        self.calls.lock().unwrap().push(inputs.n_rows());
        if self.shut.load(Ordering::Relaxed) {
            let _ = self.gate.lock().unwrap().recv();
        }
        let Values::F32(values) = inputs.tensors()[0].values() else { return Err(EngineError::Run) };
        let has = |sign: f32| values.chunks(4).any(|row| row[0] == sign);
        assert!(!has(PANICS), "as asked");
        if has(FAILS) {
            return Err(EngineError::Run);
        }
        let n_rows = inputs.n_rows();
        let ulps = match self.rows {
            Rows::Alike => 0,
            Rows::OtherAlone => u32::from(n_rows == 1),
            Rows::OtherBySize => n_rows as u32,
        };
        let row = |x: &[f32]| if x[0] == NOT_FINITE { [f32::NAN; 3] } else { logits(x) };
        let moved = |score: f32| f32::from_bits(score.to_bits() + ulps);
        let rows: Vec<f32> = values.chunks(4).flat_map(row).map(moved).collect();
        Ok(RawScores::new(Array2::from_shape_vec((n_rows, 3), rows).unwrap(), ScoreKind::Logits)?)
    }
}

fn prepared(engine: &Arc<Watched>, batches: &[usize]) -> Pipeline {
    let (defence, identity) = defence();
    let engine: Arc<dyn Engine> = Arc::clone(engine) as _;
    let pipeline = Pipeline::new(engine, defence, identity).unwrap();
    pipeline.prepared(&Preparation { warm_up: true, batches: batches.to_vec() }).unwrap()
}

fn config(threads: usize, queue: usize, batching: Batching) -> Config {
    let compute = ComputeConfig { threads, queue, batching: Some(batching), ..ComputeConfig::default() };
    Config { compute, ..Config::default() }
}

fn batching(max_rows: usize, max_delay: Duration, preferred: &[usize]) -> Batching {
    Batching { max_rows, max_delay, preferred: preferred.to_vec() }
}

fn serve(engine: &Arc<Watched>, threads: usize, batching: Batching) -> Server {
    let pipeline = Arc::new(prepared(engine, &batching.sizes()));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    Server::of(runtime, pipeline, config(threads, 64, batching))
}

/// A request of these rows, whose first values tell them apart.
fn request(firsts: &[f32]) -> String {
    let rows: Vec<f32> = firsts.iter().flat_map(|&first| [first, 2.0, 0.5, first / 3.0]).collect();
    let shape = format!("[{},2,2]", firsts.len());
    format!(r#"{{"inputs":[{{"name":"x","shape":{shape},"datatype":"FP32","data":{rows:?}}}]}}"#)
}

/// Has requests wait together behind one that is being run.
fn behind_one(engine: &Arc<Watched>, open: &Sender<()>, server: &Server, bodies: &[String]) -> Vec<Reply> {
    engine.shut();
    let mut first = write(server, &request(&[1.0]));
    engine.wait_for_calls(1);
    let clients: Vec<Client> = bodies
        .iter()
        .enumerate()
        .map(|(index, body)| {
            let client = write(server, body);
            server.wait_for("sordino_queue_depth", index as f64 + 1.0);
            client
        })
        .collect();
    engine.shut.store(false, Ordering::Relaxed);
    open.send(()).unwrap();
    assert_eq!(first.read(false).status, 200);
    clients.into_iter().map(|mut client| client.read(false)).collect()
}

#[test]
fn requests_that_wait_are_one_inference_and_each_has_its_own_answer() {
    let (engine, open) = Watched::new(Rows::Alike);
    let server = serve(&engine, 1, batching(8, Duration::ZERO, &[]));
    let bodies: Vec<String> = [&[2.0][..], &[3.0, 4.0], &[5.0]].iter().map(|firsts| request(firsts)).collect();
    let replies = behind_one(&engine, &open, &server, &bodies);
    assert_eq!(engine.calls(), [1, 4]);
    for (reply, body) in replies.iter().zip(&bodies) {
        assert_eq!((reply.status, reply.text()), (200, alone(body).text()));
    }
    assert_eq!(server.metric("sordino_batch_rows_sum"), 5.0);
    assert_eq!(server.metric("sordino_batch_requests_sum"), 4.0);
    assert_eq!(server.metric("sordino_batch_requests_count"), 2.0);
}

#[test]
fn no_answer_is_ever_given_to_another_request() {
    let (engine, _open) = Watched::new(Rows::OtherAlone);
    let server = serve(&engine, 3, batching(6, Duration::from_micros(300), &[2, 4]));
    let expected: Vec<(String, String)> = (0..24)
        .map(|index| {
            let firsts: Vec<f32> = (0..=index % 3).map(|row| (index * 3 + row) as f32 / 7.0 + 20.0).collect();
            (request(&firsts), alone(&request(&firsts)).text())
        })
        .collect();
    std::thread::scope(|scope| {
        for client in 0..8 {
            let (server, expected) = (&server, &expected);
            scope.spawn(move || {
                let mut connection = server.connect();
                for turn in 0..40 {
                    let (body, answer) = &expected[(client * 5 + turn * 7) % expected.len()];
                    let reply = connection.infer(body);
                    assert_eq!((reply.status, &reply.text()), (200, answer));
                }
            });
        }
    });
    assert!(engine.calls().iter().any(|&n_rows| n_rows > 3), "nothing was put together");
    // Six, but for a single row that is run twice.
    assert!(engine.calls().iter().all(|&n_rows| n_rows <= 6));
}

#[test]
fn a_request_that_the_model_fails_on_does_not_fail_its_neighbours() {
    for bad in [FAILS, NOT_FINITE, PANICS] {
        let (engine, open) = Watched::new(Rows::Alike);
        let server = serve(&engine, 1, batching(8, Duration::ZERO, &[]));
        let bodies = [request(&[2.0]), request(&[3.0, bad]), request(&[4.0])];
        let replies = behind_one(&engine, &open, &server, &bodies);
        assert_eq!(engine.calls(), [1, 4, 1, 2, 1], "{bad}");
        assert_eq!(replies[1].status, 502, "{bad}");
        for index in [0, 2] {
            assert_eq!((replies[index].status, replies[index].text()), (200, alone(&bodies[index]).text()), "{bad}");
        }
        assert_eq!(server.metric("sordino_batch_failures_total"), 1.0);
    }
}

#[test]
fn a_request_that_cannot_be_read_never_comes_into_a_batch() {
    let (engine, open) = Watched::new(Rows::Alike);
    let server = serve(&engine, 1, batching(8, Duration::ZERO, &[]));
    let wrong = request(&[2.0]).replace("[1,2,2]", "[1,4]");
    let bodies = [request(&[2.0]), wrong, request(&[3.0]).replace("2.0", "1e39"), "{".to_owned(), request(&[4.0])];
    let replies = behind_one(&engine, &open, &server, &bodies);
    assert_eq!(replies.iter().map(|reply| reply.status).collect::<Vec<_>>(), [200, 400, 400, 400, 200]);
    assert_eq!(engine.calls(), [1, 2]);
    assert_eq!(server.metric("sordino_batch_failures_total"), 0.0);
}

#[test]
fn a_batch_has_no_more_rows_than_it_may_and_a_larger_request_runs_alone() {
    let (engine, open) = Watched::new(Rows::Alike);
    let server = serve(&engine, 1, batching(4, Duration::ZERO, &[]));
    let sizes: [&[f32]; 5] = [&[2.0, 3.0, 4.0], &[5.0, 6.0], &[7.0; 9], &[8.0], &[9.0]];
    let bodies: Vec<String> = sizes.iter().map(|firsts| request(firsts)).collect();
    let replies = behind_one(&engine, &open, &server, &bodies);
    assert!(replies.iter().all(|reply| reply.status == 200));
    assert_eq!(engine.calls(), [1, 3, 2, 9, 2]);
}

#[test]
fn a_preferred_size_runs_without_waiting_and_a_lone_request_after_the_delay() {
    let (engine, _open) = Watched::new(Rows::Alike);
    // Nobody would wait for so long.
    let server = serve(&engine, 2, batching(8, PATIENCE * 2, &[2]));
    engine.calls.lock().unwrap().clear();
    let mut clients = [write(&server, &request(&[2.0])), write(&server, &request(&[3.0]))];
    assert!(clients.iter_mut().all(|client| client.read(false).status == 200));
    assert_eq!(engine.calls(), [2]);
    let server = serve(&engine, 2, batching(8, Duration::from_millis(20), &[]));
    assert_eq!(server.connect().infer(&request(&[2.0])).status, 200);
}

#[test]
fn a_request_whose_deadline_passes_while_it_waits_for_others_is_refused_and_not_run() {
    let (engine, _) = Watched::new(Rows::Alike);
    let server = serve(&engine, 1, batching(8, Duration::from_millis(400), &[]));
    engine.shut();
    let body = request(&[1.0]).replacen('{', r#"{"parameters":{"timeout":50000},"#, 1);
    let reply = server.connect().infer(&body);
    assert_eq!(reply.status, 504, "{}", reply.text());
    assert!(engine.calls().is_empty(), "the model was run for nobody");
    assert_eq!(server.connect().infer(&request(&[2.0])).status, 200, "one in time is answered");
}

#[test]
fn what_waits_for_others_is_answered_while_the_server_drains() {
    let (engine, _open) = Watched::new(Rows::Alike);
    let mut server = serve(&engine, 1, batching(8, Duration::from_millis(200), &[]));
    let mut client = write(&server, &request(&[2.0]));
    server.wait_for("sordino_queue_depth", 1.0);
    server.drain();
    assert_eq!(client.read(false).status, 200);
    assert_eq!(server.wait(), sordino::server::Ended::Drained);
}

#[test]
fn a_request_whose_client_has_gone_is_not_run() {
    let (engine, open) = Watched::new(Rows::Alike);
    let server = serve(&engine, 1, batching(8, Duration::ZERO, &[]));
    engine.shut();
    let mut first = write(&server, &request(&[1.0]));
    engine.wait_for_calls(1);
    let gone = write(&server, &request(&[2.0]));
    server.wait_for("sordino_queue_depth", 1.0);
    let mut stays = write(&server, &request(&[3.0]));
    server.wait_for("sordino_queue_depth", 2.0);
    drop(gone);
    server.wait_for("sordino_in_flight_requests", 2.0);
    engine.shut.store(false, Ordering::Relaxed);
    open.send(()).unwrap();
    assert_eq!((first.read(false).status, stays.read(false).status), (200, 200));
    assert_eq!(engine.calls(), [1, 1]);
    assert_eq!(server.metric("sordino_jobs_skipped_total"), 1.0);
}

#[test]
fn the_queue_is_bounded_and_waiting_has_an_end() {
    let (engine, open) = Watched::new(Rows::Alike);
    let pipeline = Arc::new(prepared(&engine, &[8]));
    let mut config = config(1, 1, batching(8, Duration::ZERO, &[]));
    config.compute.queue_timeout = Duration::from_millis(50);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let server = Server::of(runtime, pipeline, config);
    engine.shut();
    let mut first = write(&server, &request(&[1.0]));
    engine.wait_for_calls(1);
    let mut second = write(&server, &request(&[2.0]));
    server.wait_for("sordino_queue_depth", 1.0);
    assert_eq!(server.connect().infer(&request(&[3.0])).status, 503);
    assert_eq!(second.read(false).status, 504);
    engine.shut.store(false, Ordering::Relaxed);
    open.send(()).unwrap();
    assert_eq!(first.read(false).status, 200);
}

#[test]
fn a_model_whose_rows_depend_on_their_batch_runs_each_request_alone() {
    let (engine, open) = Watched::new(Rows::OtherBySize);
    assert_eq!(prepared(&engine, &[4]).together(), Together::Never);
    let server = serve(&engine, 1, batching(8, Duration::ZERO, &[]));
    let bodies = [request(&[2.0]), request(&[3.0])];
    assert!(behind_one(&engine, &open, &server, &bodies).iter().all(|reply| reply.status == 200));
    assert_eq!(engine.calls(), [1, 1, 1]);
    assert_eq!(server.metric("sordino_batch_rows_count"), 0.0);
}

#[test]
fn a_row_alone_is_answered_as_it_is_among_others() {
    let (engine, open) = Watched::new(Rows::OtherAlone);
    assert_eq!(prepared(&engine, &[4]).together(), Together::FromTwo);
    let server = serve(&engine, 1, batching(8, Duration::ZERO, &[]));
    let bodies = [request(&[2.0]), request(&[3.0])];
    let among = behind_one(&engine, &open, &server, &bodies);
    assert_eq!(engine.calls(), [2, 2]);
    for (reply, body) in among.iter().zip(&bodies) {
        assert_eq!(server.connect().infer(body).text(), reply.text());
    }
}

#[test]
fn the_bundled_model_answers_a_row_to_the_bit_alike_in_batches_of_every_size() {
    let pipeline = Parts::bundled().assemble().unwrap();
    let pipeline = pipeline.prepared(&Preparation { warm_up: true, batches: vec![8, 64] }).unwrap();
    assert_ne!(pipeline.together(), Together::Never);
    let specs = &pipeline.spec().inputs;
    let bits = |inputs: &Inputs, row: usize| -> Vec<u32> {
        let defended = pipeline.defend(inputs).unwrap();
        defended.probabilities().row(row).iter().map(|p| p.to_bits()).collect()
    };
    let one = Inputs::made_up(specs, 500..501, false).unwrap();
    let expected = bits(&Inputs::joined(&[&one, &one]).unwrap(), 0);
    if pipeline.together() == Together::Any {
        assert_eq!(bits(&one, 0), expected);
    }
    for (size, place) in [(2, 1), (3, 0), (4, 3), (5, 2), (7, 6), (9, 4), (16, 15), (33, 32), (65, 64), (67, 1)] {
        let parts: Vec<Inputs> = (0..size).map(|row| Inputs::made_up(specs, row..row + 1, false).unwrap()).collect();
        let mut rows: Vec<&Inputs> = parts.iter().collect();
        rows[place] = &one;
        assert_eq!(bits(&Inputs::joined(&rows).unwrap(), place), expected, "row {place} of {size}");
    }
}

#[test]
fn a_model_that_fails_on_zeros_is_not_loaded() {
    let engine = StubEngine::new(|| Some(EngineError::Run));
    let (defence, identity) = defence();
    let pipeline = Pipeline::new(engine, defence, identity).unwrap();
    let error = pipeline.prepared(&Preparation { warm_up: true, batches: vec![] }).map(|_| ()).unwrap_err();
    assert!(matches!(error, AssembleError::WarmUp { rows: 1, .. }));
    assert!(error.to_string().contains("warm-up with 1 rows of zeros"), "{error}");
}
