//! A server of the Open Inference Protocol that does as it is told, also what no server should, and keeps what it was sent.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};
use sordino::client::upstream::{Target, Upstream, UpstreamConfig, connect};
use sordino::defence::ScoreKind;
use sordino::engine::upstream::{Declared, Dialect};
use sordino::pipeline::Pipeline;
use sordino::server::Config;

use super::http_support::{Server, defence, logits};

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Seen {
    /// The JSON part of the body.
    pub(crate) fn json(&self) -> Value {
        let length = self.headers.get("inference-header-content-length");
        let length = length.map_or(self.body.len(), |length| length.parse().unwrap());
        serde_json::from_slice(&self.body[..length]).unwrap()
    }

    /// The rows of four numbers that it asks for.
    pub(crate) fn rows(&self) -> Vec<[f32; 4]> {
        let json = self.json();
        let values: Vec<f32> = match self.headers.get("inference-header-content-length") {
            Some(length) => {
                let raw = &self.body[length.parse().unwrap()..];
                raw.as_chunks().0.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect()
            }
            None => {
                let data = ["/inputs/0/data", "/inputs/x", "/instances"].iter().find_map(|at| json.pointer(at));
                let mut flat = Vec::new();
                flatten(data.unwrap(), &mut flat);
                flat
            }
        };
        values.as_chunks().0.to_vec()
    }
}

fn flatten(value: &Value, into: &mut Vec<f32>) {
    match value {
        Value::Array(values) => values.iter().for_each(|value| flatten(value, into)),
        value => into.push(value.as_f64().unwrap() as f32),
    }
}

/// What the server does with a request.
pub(crate) enum Does {
    /// Answers 200 with JSON.
    Json(Value),
    /// Answers with a status, more headers, and a body.
    Raw(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// Writes these bytes and closes.
    Bytes(Vec<u8>),
    /// Closes without a word.
    Close,
    /// Answers as `Json` and closes the connection without having said so.
    JsonThenClose(Value),
    /// Waits for as long before it answers like the next.
    After(Duration, Box<Does>),
}

type Behaviour = dyn Fn(&Seen) -> Does + Send + Sync;

/// A server in threads; dropped, it accepts no more.
pub(crate) struct Fake {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Fake {
    /// A server that answers inferences by `behaviour`, and everything else as Triton does.
    pub(crate) fn new(behaviour: impl Fn(&Seen) -> Does + Send + Sync + 'static) -> Self {
        Self::all(move |seen| if seen.method == "POST" { behaviour(seen) } else { about(seen, true) })
    }

    /// A server that answers everything by `behaviour`.
    pub(crate) fn all(behaviour: impl Fn(&Seen) -> Does + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let behaviour: Arc<Behaviour> = Arc::new(behaviour);
        let (seen, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (all, stopped) = (Arc::clone(&seen), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let (behaviour, seen) = (Arc::clone(&behaviour), Arc::clone(&all));
                std::thread::spawn(move || attend(stream, &behaviour, &seen));
            }
        });
        Self { address, seen, stop, thread: Some(thread) }
    }

    /// A server that answers with the stub's logits, in the form that was asked for.
    pub(crate) fn good() -> Self {
        Self::new(good)
    }

    /// The inferences that came.
    pub(crate) fn inferences(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().iter().filter(|seen| seen.method != "GET").cloned().collect()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(TcpStream::connect(self.address));
        // When this returns, nobody listens there any more.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn attend(mut stream: TcpStream, behaviour: &Arc<Behaviour>, all: &Mutex<Vec<Seen>>) {
    let mut pending = Vec::new();
    while let Some(seen) = read(&mut stream, &mut pending) {
        all.lock().unwrap().push(seen.clone());
        if !act(&mut stream, behaviour(&seen)) {
            return;
        }
    }
}

fn act(stream: &mut TcpStream, does: Does) -> bool {
    let json =
        |value: &Value| answer(200, &[("content-type", "application/json".to_owned())], value.to_string().as_bytes());
    match does {
        Does::Json(value) => stream.write_all(&json(&value)).is_ok(),
        Does::JsonThenClose(value) => {
            let _ = stream.write_all(&json(&value));
            false
        }
        Does::Raw(status, headers, body) => stream.write_all(&answer(status, &headers, &body)).is_ok(),
        Does::Bytes(bytes) => {
            let _ = stream.write_all(&bytes);
            false
        }
        Does::Close => false,
        Does::After(time, next) => {
            std::thread::sleep(time);
            act(stream, *next)
        }
    }
}

pub(crate) fn answer(status: u16, headers: &[(&str, String)], body: &[u8]) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\n", body.len());
    headers.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
    [head.as_bytes(), b"\r\n", body].concat()
}

fn read(stream: &mut TcpStream, pending: &mut Vec<u8>) -> Option<Seen> {
    let end = loop {
        if let Some(end) = pending.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        more(stream, pending)?;
    };
    let head = String::from_utf8(pending.drain(..end).collect()).unwrap();
    let mut lines = head.lines();
    let mut first = lines.next()?.split(' ');
    let (method, path) = (first.next()?.to_owned(), first.next()?.to_owned());
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    while pending.len() < length {
        more(stream, pending)?;
    }
    Some(Seen { method, path, headers, body: pending.drain(..length).collect() })
}

fn more(stream: &mut TcpStream, pending: &mut Vec<u8>) -> Option<()> {
    let mut buffer = [0; 4096];
    let n = stream.read(&mut buffer).ok().filter(|&n| n > 0)?;
    pending.extend_from_slice(&buffer[..n]);
    Some(())
}

/// Metadata and health.
pub(crate) fn about(seen: &Seen, binary: bool) -> Does {
    match seen.path.as_str() {
        "/v2" => {
            let extensions = if binary { json!(["classification", "binary_tensor_data"]) } else { json!([]) };
            Does::Json(json!({"name": "fake", "version": "1", "extensions": extensions}))
        }
        "/v2/models/clf" => Does::Json(json!({
            "name": "clf", "versions": ["1"], "platform": "fake",
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2, 2]}],
            "outputs": [
                {"name": "logits", "datatype": "FP32", "shape": [-1, 3]},
                {"name": "embedding", "datatype": "FP32", "shape": [-1, 8]},
            ],
        })),
        "/v2/models/clf/ready" => Does::Raw(200, Vec::new(), Vec::new()),
        _ => Does::Raw(404, Vec::new(), b"{\"error\":\"Not Found\"}".to_vec()),
    }
}

/// The logits of the rows that were asked.
pub(crate) fn scores(seen: &Seen) -> Vec<f32> {
    seen.rows().iter().flat_map(|row| logits(row)).collect()
}

/// An answer of JSON tensors: the logits, and whatever else `more` holds.
pub(crate) fn json_answer(seen: &Seen, more: &[Value]) -> Value {
    let n_rows = seen.rows().len();
    let logits = json!({"name": "logits", "datatype": "FP32", "shape": [n_rows, 3], "data": scores(seen)});
    let outputs: Vec<Value> = std::iter::once(logits).chain(more.iter().cloned()).collect();
    json!({"id": seen.json()["id"], "model_name": "clf", "model_version": "1", "outputs": outputs})
}

/// The answer of a server that does as the protocol says.
pub(crate) fn good(seen: &Seen) -> Does {
    if seen.json()["outputs"][0]["parameters"]["binary_data"] != true {
        return Does::Json(json_answer(seen, &[]));
    }
    let raw: Vec<u8> = scores(seen).iter().flat_map(|score| score.to_le_bytes()).collect();
    let head = json!({
        "id": seen.json()["id"], "model_name": "clf", "model_version": "1",
        "outputs": [{
            "name": "logits", "datatype": "FP32", "shape": [seen.rows().len(), 3],
            "parameters": {"binary_data_size": raw.len()},
        }],
    })
    .to_string();
    let headers = vec![("inference-header-content-length", head.len().to_string())];
    Does::Raw(200, headers, [head.into_bytes(), raw].concat())
}

/// What the tests declare of the model.
pub(crate) fn declared(dialect: Dialect) -> Declared {
    Declared {
        dialect,
        model: "clf".to_owned(),
        version: None,
        score_output: Some("logits".to_owned()),
        score_kind: Some(ScoreKind::Logits),
        n_classes: Some(3),
        inputs: Vec::new(),
        rules: BTreeMap::new(),
        binary: None,
        signature: None,
    }
}

/// Settings for these servers, without probes.
pub(crate) fn config(fakes: &[&Fake]) -> UpstreamConfig {
    let targets = fakes.iter().map(|fake| Target::parse(&fake.url()).unwrap()).collect();
    UpstreamConfig {
        start_timeout: Duration::from_secs(5),
        health_interval: Duration::ZERO,
        ..UpstreamConfig::new(targets, declared(Dialect::OipHttp))
    }
}

/// Our server in front of these, with the defence of the other tests.
pub(crate) fn in_front(config: UpstreamConfig) -> (Server, Arc<Upstream>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let upstream = runtime.block_on(connect(config)).unwrap();
    let (defence, identity) = defence();
    let engine = Arc::clone(&upstream);
    let pipeline = Arc::new(Pipeline::upstream(engine, defence, identity).unwrap());
    (Server::of(runtime, pipeline, Config::default()), upstream)
}
