//! One request on several compute threads: at once where threads are idle, and with the same answer however it was run.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use sordino::defence::RawScores;
use sordino::engine::{Engine, EngineError, ModelSpec};
use sordino::pipeline::Pipeline;
use sordino::server::{ComputeConfig, Config};
use sordino::tensor::{Inputs, Values};

use crate::http_support::{PATIENCE, Server, StubEngine, alone, called, defence, write};

/// A row of this fails its part, one of this panics.
const FAILS: f32 = 13.0;
const PANICS: f32 = 14.0;

/// A stub whose rows run in pairs. Each pair waits until as many run at once as it was told, or for too long.
struct InPairs {
    stub: Arc<StubEngine>,
    /// How many are to run at once.
    wanted: AtomicUsize,
    running: Mutex<usize>,
    changed: Condvar,
    most: AtomicUsize,
    calls: AtomicUsize,
}

impl InPairs {
    fn new(wanted: usize) -> Arc<Self> {
        Arc::new(Self {
            stub: StubEngine::new(|| None),
            wanted: AtomicUsize::new(wanted),
            running: Mutex::new(0),
            changed: Condvar::new(),
            most: AtomicUsize::new(0),
            calls: AtomicUsize::new(0),
        })
    }

    fn meet(&self) {
        let mut running = self.running.lock().unwrap();
        *running += 1;
        self.most.fetch_max(*running, Ordering::Relaxed);
        self.changed.notify_all();
        let enough = |_: &mut usize| self.most.load(Ordering::Relaxed) < self.wanted.load(Ordering::Relaxed);
        let (mut running, _) = self.changed.wait_timeout_while(running, PATIENCE, enough).unwrap();
        *running -= 1;
    }
}

impl Engine for InPairs {
    fn spec(&self) -> &ModelSpec {
        self.stub.spec()
    }

    fn infer(&self, inputs: &Inputs) -> Result<RawScores, EngineError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.meet();
        let Values::F32(values) = inputs.tensors()[0].values() else { return Err(EngineError::Run) };
        assert!(values.chunks(4).all(|row| row[0] != PANICS), "as asked");
        if values.chunks(4).any(|row| row[0] == FAILS) {
            return Err(EngineError::Run);
        }
        self.stub.infer(inputs)
    }

    fn blocks(&self, n_rows: usize) -> Vec<Range<usize>> {
        (0..n_rows).step_by(2).map(|start| start..(start + 2).min(n_rows)).collect()
    }
}

fn serve(engine: Arc<dyn Engine>, threads: usize) -> Server {
    let (defence, identity) = defence();
    let pipeline = Arc::new(Pipeline::new(engine, defence, identity).unwrap());
    let compute = ComputeConfig { threads, queue: 16, quick: Duration::ZERO, ..ComputeConfig::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let server = Server::of(runtime, pipeline, Config { compute, ..Config::default() });
    // By then the threads rest.
    std::thread::sleep(Duration::from_millis(20));
    server
}

fn request(n_rows: usize, last: f32) -> String {
    let first = |row: usize| if row + 1 == n_rows { last } else { row as f32 + 20.0 };
    let rows: Vec<f32> = (0..n_rows).flat_map(|row| [first(row), 2.0, 0.5, row as f32 / 3.0]).collect();
    format!(r#"{{"inputs":[{{"name":"x","shape":[{n_rows},2,2],"datatype":"FP32","data":{rows:?}}}]}}"#)
}

#[test]
fn idle_threads_share_a_request_and_no_bit_of_its_answer_tells() {
    let engine = InPairs::new(3);
    let server = serve(Arc::clone(&engine) as _, 3);
    for n_rows in [7, 12] {
        let body = request(n_rows, 5.0);
        let reply = server.connect().infer(&body);
        assert_eq!((reply.status, reply.text()), (200, alone(&body).text()));
    }
    assert_eq!(engine.most.load(Ordering::Relaxed), 3);
    assert_eq!(server.metric("sordino_rows_total"), 19.0);
}

#[test]
fn one_thread_runs_a_request_alone() {
    let engine = InPairs::new(1);
    let body = request(6, 5.0);
    assert_eq!(serve(Arc::clone(&engine) as _, 1).connect().infer(&body).text(), alone(&body).text());
    assert_eq!(engine.calls.load(Ordering::Relaxed), 1);
}

#[test]
fn a_part_that_fails_or_panics_fails_its_request_alone() {
    for bad in [FAILS, PANICS] {
        let engine = InPairs::new(2);
        let server = serve(Arc::clone(&engine) as _, 2);
        assert_eq!(server.connect().infer(&request(4, bad)).status, 502, "{bad}");
        assert_eq!(server.connect().infer(&request(4, 5.0)).status, 200, "{bad}");
    }
}

/// A stub whose pairs of rows each wait for a permit: the first of them for the first permit, and so on.
struct OnPermit {
    stub: Arc<StubEngine>,
    permits: Mutex<usize>,
    given: Condvar,
    calls: AtomicUsize,
}

impl OnPermit {
    fn give(&self, n: usize) {
        *self.permits.lock().unwrap() += n;
        self.given.notify_all();
    }
}

impl Engine for OnPermit {
    fn spec(&self) -> &ModelSpec {
        self.stub.spec()
    }

    fn infer(&self, inputs: &Inputs) -> Result<RawScores, EngineError> {
        if inputs.n_rows() == 2 {
            let number = self.calls.fetch_add(1, Ordering::Relaxed);
            let permits = self.permits.lock().unwrap();
            let (permits, waited) =
                self.given.wait_timeout_while(permits, PATIENCE, |permits| *permits <= number).unwrap();
            drop(permits);
            if waited.timed_out() {
                return Err(EngineError::Run);
            }
        }
        self.stub.infer(inputs)
    }

    fn blocks(&self, n_rows: usize) -> Vec<Range<usize>> {
        (0..n_rows).step_by(2).map(|start| start..(start + 2).min(n_rows)).collect()
    }
}

#[test]
fn a_thread_helps_no_longer_than_nobody_waits_and_comes_back() {
    let (permits, given, calls) = (Mutex::new(0), Condvar::new(), AtomicUsize::new(0));
    let engine = Arc::new(OnPermit { stub: StubEngine::new(|| None), permits, given, calls });
    let server = serve(Arc::clone(&engine) as _, 2);
    let mut large = write(&server, &request(20, 5.0));
    called(&engine.calls, 2);
    let mut small = write(&server, &request(1, 6.0));
    server.wait_for("sordino_queue_depth", 1.0);
    // Both threads end the part at hand: one must take the request that waits, the other runs the next part.
    engine.give(2);
    assert_eq!(small.read(false).status, 200);
    // The third part waits for its permit, and the fourth is taken by the thread that has nothing to do again.
    called(&engine.calls, 4);
    assert_eq!(engine.calls.load(Ordering::Relaxed), 4);
    engine.give(8);
    let reply = large.read(false);
    assert_eq!((reply.status, reply.text()), (200, alone(&request(20, 5.0)).text()));
}
