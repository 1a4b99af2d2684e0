//! A server on port 0 over a stub engine, and a client of plain sockets that shows every byte.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ndarray::{Array2, array};
use sordino::artifact::ModelDigest;
use sordino::defence::{
    Bank, Centroids, Defence, DefenceConfig, DistanceQuantiles, Fitted, Gate, Method, N_QUANTILES, RawScores, ScoreKind,
};
use sordino::engine::{Engine, EngineError, ModelSpec};
use sordino::pipeline::{Identity, Pipeline};
use sordino::server::{ComputeConfig, Config, Ended, Listeners, Shutdown, start};
use sordino::tensor::{DType, Dim, Inputs, TensorSpec, Values};

/// No test may take longer than this.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The logits of a row of inputs `x`, by a fixed linear map that no answer may show: `x[0] + 33.8125`,
/// `x[1] - 3`, `x[2] + 0.25 x[3]`.
pub(crate) fn logits(x: &[f32]) -> [f32; 3] {
    [x[0] + 33.8125, x[1] - 3.0, x[2] + 0.25 * x[3]]
}

/// What the stub does before it answers.
type Behaviour = Box<dyn Fn() -> Option<EngineError> + Send + Sync>;

pub(crate) struct StubEngine {
    spec: ModelSpec,
    behaviour: Behaviour,
}

impl StubEngine {
    pub(crate) fn new(behaviour: impl Fn() -> Option<EngineError> + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self::of(behaviour))
    }

    /// A stub whose graph has outputs beside the scores.
    pub(crate) fn with_other_outputs(outputs: &[&str]) -> Arc<Self> {
        let mut stub = Self::of(|| None);
        stub.spec.other_outputs = outputs.iter().map(|&output| output.to_owned()).collect();
        Arc::new(stub)
    }

    fn of(behaviour: impl Fn() -> Option<EngineError> + Send + Sync + 'static) -> Self {
        let input = |name: &str, dtype| TensorSpec {
            name: name.to_owned(),
            dtype,
            shape: vec![Dim::Any, Dim::Fixed(2), Dim::Fixed(2)],
        };
        let spec = ModelSpec {
            inputs: vec![input("x", DType::F32)],
            score_output: "logits".to_owned(),
            score_kind: ScoreKind::Logits,
            n_classes: 3,
            how_decided: "a stub".to_owned(),
            labels: None,
            other_outputs: Vec::new(),
            row_by_row: false,
        };
        Self { spec, behaviour: Box::new(behaviour) }
    }
}

impl Engine for StubEngine {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn infer(&self, inputs: &Inputs) -> Result<RawScores, EngineError> {
        if let Some(error) = (self.behaviour)() {
            return Err(error);
        }
        let Values::F32(values) = inputs.tensors()[0].values() else { return Err(EngineError::Run) };
        let rows: Vec<f32> = values.chunks(4).flat_map(logits).collect();
        let rows = Array2::from_shape_vec((inputs.n_rows(), 3), rows).map_err(|_| EngineError::Run)?;
        Ok(RawScores::new(rows, ScoreKind::Logits)?)
    }
}

/// The stub behind the paper's defence with three fixed centroids, and two of three probabilities kept.
pub(crate) fn pipeline(engine: Arc<StubEngine>) -> Arc<Pipeline> {
    let (defence, identity) = defence();
    Arc::new(Pipeline::new(engine, defence, identity).unwrap())
}

/// The defence and the identity of [`pipeline`].
pub(crate) fn defence() -> (Defence, Identity) {
    let labels: Vec<String> = ["cat", "dog", "fox"].map(str::to_owned).to_vec();
    let centroids = Centroids::new(array![[2.0, 0.5, 0.0], [0.25, 1.5, 0.5], [0.0, 0.25, 1.0]], &labels).unwrap();
    let quantiles = DistanceQuantiles::new(Array2::zeros((3, N_QUANTILES)), 3).unwrap();
    let fitted = Fitted::new(ScoreKind::Logits, labels.clone(), centroids, quantiles, Bank::empty(3)).unwrap();
    let config =
        DefenceConfig { method: Method::Reweight { weight: 0.1, when: Gate::Always }, top_k: Some(2), digits: None };
    let defence = Defence::new(&config, Some(Arc::new(fitted)), ScoreKind::Logits, 3).unwrap();
    let identity =
        Identity { name: "clf".to_owned(), version: "1".to_owned(), labels, model: ModelDigest::of(b"stub") };
    (defence, identity)
}

/// A model that waits for a word before each answer, and counts its calls.
pub(crate) fn gated() -> (Sender<()>, Arc<AtomicUsize>, Arc<StubEngine>) {
    let (open, gate) = channel::<()>();
    let gate = Mutex::new(gate);
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let engine = StubEngine::new(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        let _ = gate.lock().unwrap().recv();
        None
    });
    (open, calls, engine)
}

/// One compute thread, and nothing computed elsewhere: a model of a test may wait.
pub(crate) fn one_thread(queue: usize) -> Config {
    let compute = ComputeConfig { threads: 1, queue, quick: Duration::ZERO, ..ComputeConfig::default() };
    Config { compute, ..Config::default() }
}

/// Sends a good request and leaves the answer for later.
pub(crate) fn ask(server: &Server) -> Client {
    let mut client = server.connect();
    client.write(&head("POST", "/v2/models/clf/infer", &[], GOOD.len()));
    client.write(GOOD.as_bytes());
    client
}

/// Waits until the model has been called `n` times.
pub(crate) fn called(calls: &AtomicUsize, n: usize) {
    let started = Instant::now();
    while calls.load(Ordering::Relaxed) < n {
        assert!(started.elapsed() < PATIENCE, "the model was not called");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Sends a request and does not wait for its answer.
pub(crate) fn write(server: &Server, body: &str) -> Client {
    let mut client = server.connect();
    client.write(&head("POST", "/v2/models/clf/infer", &[], body.len()));
    client.write(body.as_bytes());
    client
}

/// What a plain server answers to the same: no batches, nothing shared.
pub(crate) fn alone(body: &str) -> Reply {
    Server::plain().connect().infer(body)
}

/// A running server; dropped, it drains.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) metrics: SocketAddr,
    drain: Option<tokio::sync::oneshot::Sender<()>>,
    now: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<Ended>>,
}

impl Server {
    /// A server that answers with the stub's scores.
    pub(crate) fn plain() -> Self {
        Self::start(StubEngine::new(|| None), Config::default())
    }

    pub(crate) fn start(engine: Arc<StubEngine>, config: Config) -> Self {
        Self::on(
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap(),
            engine,
            config,
        )
    }

    pub(crate) fn on(runtime: tokio::runtime::Runtime, engine: Arc<StubEngine>, config: Config) -> Self {
        Self::of(runtime, pipeline(engine), config)
    }

    pub(crate) fn of(runtime: tokio::runtime::Runtime, pipeline: Arc<Pipeline>, config: Config) -> Self {
        Self::made(runtime, pipeline, config, |server| server)
    }

    /// A server that `make` has the last word on.
    pub(crate) fn made(
        runtime: tokio::runtime::Runtime,
        pipeline: Arc<Pipeline>,
        config: Config,
        make: impl FnOnce(sordino::server::Server) -> sordino::server::Server + Send + 'static,
    ) -> Self {
        let bind = || TcpListener::bind("127.0.0.1:0").unwrap();
        let (service, metrics) = (bind(), bind());
        let (address, metrics_address) = (service.local_addr().unwrap(), metrics.local_addr().unwrap());
        let (drain, drain_rx) = tokio::sync::oneshot::channel::<()>();
        let (now, now_rx) = tokio::sync::oneshot::channel::<()>();
        let shutdown = Shutdown::new(async { drop(drain_rx.await) }, async { drop(now_rx.await) });
        let thread = std::thread::spawn(move || {
            let listeners = Listeners { service, grpc: None, metrics: Some(metrics) };
            runtime.block_on(async { make(start(listeners, config, pipeline).unwrap()).serve(shutdown).await })
        });
        Self { address, metrics: metrics_address, drain: Some(drain), now: Some(now), thread: Some(thread) }
    }

    /// The first word; returns at once.
    pub(crate) fn drain(&mut self) {
        drop(self.drain.take());
    }

    /// The second word; returns at once.
    pub(crate) fn leave_now(&mut self) {
        drop(self.now.take());
    }

    pub(crate) fn wait(&mut self) -> Ended {
        self.thread.take().unwrap().join().unwrap()
    }

    pub(crate) fn connect(&self) -> Client {
        Client::to(self.address)
    }

    /// The value of one line of the metrics, 0 if it is not there.
    pub(crate) fn metric(&self, line: &str) -> f64 {
        let text = Client::to(self.metrics).get("/metrics").text();
        let value = text.lines().find_map(|got| got.strip_prefix(line)?.trim().parse().ok());
        value.unwrap_or(0.0)
    }

    /// Waits until a metric has a value.
    pub(crate) fn wait_for(&self, line: &str, value: f64) {
        let started = Instant::now();
        while self.metric(line) != value {
            assert!(started.elapsed() < PATIENCE, "{line} is {}, not {value}", self.metric(line));
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.drain();
        self.leave_now();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// An answer as it came.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// One HTTP/1.1 connection.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    pending: Vec<u8>,
}

impl Client {
    pub(crate) fn to(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, pending: Vec::new() }
    }

    pub(crate) fn get(&mut self, path: &str) -> Reply {
        self.send("GET", path, &[], &[])
    }

    pub(crate) fn infer(&mut self, body: &str) -> Reply {
        self.send("POST", "/v2/models/clf/infer", &[], body.as_bytes())
    }

    pub(crate) fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        self.write(&[&head(method, path, headers, body.len())[..], body].concat());
        self.read(method == "HEAD")
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        // A server that has already refused may have closed: what it said is read next.
        let _ = self.stream.write_all(bytes);
    }

    /// Reads one answer.
    pub(crate) fn read(&mut self, headless: bool) -> Reply {
        let end = loop {
            if let Some(end) = self.pending.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            assert!(self.more(), "closed inside of a head: {:?}", String::from_utf8_lossy(&self.pending));
        };
        let head = String::from_utf8(self.pending.drain(..end).collect()).unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers: BTreeMap<String, String> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
        let length = if headless { 0 } else { length };
        while self.pending.len() < length {
            assert!(self.more(), "closed inside of a body");
        }
        Reply { status, headers, body: self.pending.drain(..length).collect() }
    }

    /// Whether the server closes the connection without another byte.
    pub(crate) fn is_closed(&mut self) -> bool {
        self.pending.is_empty() && !self.more()
    }

    fn more(&mut self) -> bool {
        let mut buffer = [0; 4096];
        match self.stream.read(&mut buffer) {
            Ok(0) => false,
            Ok(n) => {
                self.pending.extend_from_slice(&buffer[..n]);
                true
            }
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => false,
            Err(error) => panic!("{error}"),
        }
    }
}

pub(crate) fn head(method: &str, path: &str, headers: &[(&str, &str)], length: usize) -> Vec<u8> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: test\r\n");
    if length > 0 || method == "POST" {
        head += &format!("content-length: {length}\r\n");
    }
    headers.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
    (head + "\r\n").into_bytes()
}

/// A good request of one row.
pub(crate) const GOOD: &str =
    r#"{"id":"q7","inputs":[{"name":"x","shape":[1,2,2],"datatype":"FP32","data":[1.5,2,0.5,4]}]}"#;
