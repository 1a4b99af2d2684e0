//! The work of one request without its engine and without its sockets, to be counted in instructions: decode, defend,
//! encode, and the whole journey through a pipeline whose engine answers at once with fixed scores.
//!
//! `instructions CASE N` runs a case `N` times, `instructions --list` names the cases. `count.py` beside this file runs
//! each under valgrind's callgrind with two values of `N`: the difference is what one request costs, the start apart,
//! and is held against `baseline.json`. Values come from fixed formulas and no clock decides anything.

use std::hint::black_box;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use ndarray::Array2;
use prost::Message as _;
use sordino::artifact::ModelDigest;
use sordino::defence::{
    Bank, Centroids, Defence, DefenceConfig, DistanceQuantiles, Fitted, Gate, Method, N_QUANTILES, RawScores, ScoreKind,
};
use sordino::engine::{Engine, EngineError, ModelSpec};
use sordino::pipeline::{Identity, Pipeline};
use sordino::protocol::grpc::messages::ModelInferRequest;
use sordino::protocol::grpc::messages::model_infer_request::InferInputTensor;
use sordino::protocol::{Call, decode};
use sordino::tensor::{DType, Dim, Inputs, TensorSpec};

/// The cases by name: what is done, on rows of which shape, with how many classes and rows.
const CASES: [(&str, Work, &[usize], usize, usize); 14] = [
    ("decode json 64", Work::Decode(Wire::Json), &[64], 10, 1),
    ("decode json 3x32x32", Work::Decode(Wire::Json), &[3, 32, 32], 10, 1),
    ("decode binary 64", Work::Decode(Wire::Binary), &[64], 10, 1),
    ("decode binary 3x32x32", Work::Decode(Wire::Binary), &[3, 32, 32], 10, 1),
    ("decode grpc 3x32x32", Work::Decode(Wire::Grpc), &[3, 32, 32], 10, 1),
    ("decode predict 3x32x32", Work::Decode(Wire::Predict), &[3, 32, 32], 10, 1),
    ("defend 10", Work::Defend, &[1], 10, 1),
    ("defend 100", Work::Defend, &[1], 100, 1),
    ("defend 64 rows of 10", Work::Defend, &[1], 10, 64),
    // One value a row: what remains is writing 64 rows of 10 scores.
    ("encode json 64 rows of 10", Work::Answer(Wire::Json), &[1], 10, 64),
    ("encode binary 64 rows of 10", Work::Answer(Wire::Binary), &[1], 10, 64),
    ("answer json 64", Work::Answer(Wire::Json), &[64], 10, 1),
    ("answer binary 64", Work::Answer(Wire::Binary), &[64], 10, 1),
    ("answer grpc 64", Work::Answer(Wire::Grpc), &[64], 10, 1),
];

#[derive(Clone, Copy)]
enum Work {
    Decode(Wire),
    Defend,
    Answer(Wire),
}

#[derive(Clone, Copy)]
enum Wire {
    Json,
    Binary,
    Grpc,
    Predict,
}

fn main() -> Result<()> {
    // `cargo bench` adds a word of its own.
    let args: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        // Without words, as `cargo bench` starts it: each case once, to see that it works.
        [] => CASES.iter().try_for_each(|(name, ..)| run(name, 1)),
        ["--list"] => {
            CASES.iter().for_each(|(name, ..)| println!("{name}"));
            Ok(())
        }
        [name, n] => run(name, n.parse().context("expected how often")?),
        _ => bail!("expected CASE N, or --list"),
    }
}

fn run(name: &str, n: usize) -> Result<()> {
    let &(_, work, shape, n_classes, n_rows) =
        CASES.iter().find(|case| case.0 == name).with_context(|| format!("no case is called {name:?}"))?;
    let scores = scores(n_rows, n_classes);
    let pipeline = pipeline(shape, n_classes, &scores)?;
    match work {
        Work::Defend => {
            for _ in 0..n {
                let raw = RawScores::new(scores.clone(), ScoreKind::Logits)?;
                black_box(pipeline.defence().apply(black_box(raw))?);
            }
        }
        Work::Decode(wire) => {
            let body = Body::new(wire, shape, n_rows);
            for _ in 0..n {
                let decoded = decode(pipeline.description(), black_box(&body).call());
                ensure!(black_box(decoded).is_ok(), "the request was refused");
            }
        }
        Work::Answer(wire) => {
            let body = Body::new(wire, shape, n_rows);
            for _ in 0..n {
                let (answer, _) = pipeline.answer(black_box(&body).call());
                ensure!(black_box(answer).is_ok(), "the request was refused");
            }
        }
    }
    Ok(())
}

/// A request as it arrives.
struct Body {
    wire: Wire,
    header_length: Option<String>,
    bytes: Bytes,
}

impl Body {
    fn new(wire: Wire, row_shape: &[usize], n_rows: usize) -> Self {
        let shape: Vec<usize> = std::iter::once(n_rows).chain(row_shape.iter().copied()).collect();
        let n_values = shape.iter().product();
        let values: Vec<f32> = (0..n_values).map(|i| ((i * 7919) % 10_007) as f32 / 10_007.0).collect();
        let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let text = values.iter().map(ToString::to_string).collect::<Vec<_>>();
        let tensor = |content: &str| format!(r#"{{"name":"x","shape":{shape:?},"datatype":"FP32",{content}}}"#);
        let (header_length, bytes) = match wire {
            Wire::Json => {
                let tensor = tensor(&format!(r#""data":[{}]"#, text.join(",")));
                (None, format!(r#"{{"id":"42","inputs":[{tensor}],"outputs":[{{"name":"logits"}}]}}"#).into_bytes())
            }
            Wire::Binary => {
                let tensor = tensor(&format!(r#""parameters":{{"binary_data_size":{}}}"#, raw.len()));
                let outputs = r#"[{"name":"logits","parameters":{"binary_data":true}}]"#;
                let mut body = format!(r#"{{"id":"42","inputs":[{tensor}],"outputs":{outputs}}}"#).into_bytes();
                let length = body.len().to_string();
                body.extend(raw);
                (Some(length), body)
            }
            Wire::Grpc => {
                let input = InferInputTensor {
                    name: "x".to_owned(),
                    datatype: "FP32".to_owned(),
                    shape: shape.iter().map(|&dim| dim as i64).collect(),
                    ..InferInputTensor::default()
                };
                let message = ModelInferRequest {
                    model_name: "clf".to_owned(),
                    id: "42".to_owned(),
                    inputs: vec![input],
                    raw_input_contents: vec![Bytes::from(raw)],
                    ..ModelInferRequest::default()
                };
                (None, message.encode_to_vec())
            }
            Wire::Predict => (None, format!(r#"{{"instances":[{}]}}"#, nested(&text, row_shape)).into_bytes()),
        };
        Self { wire, header_length, bytes: Bytes::from(bytes) }
    }

    fn call(&self) -> Call<'_> {
        match self.wire {
            Wire::Json | Wire::Binary => Call::Oip { header_length: self.header_length.as_deref(), body: &self.bytes },
            Wire::Grpc => Call::Grpc(self.bytes.clone()),
            Wire::Predict => Call::Predict(&self.bytes),
        }
    }
}

/// Rows of `shape` as nested lists.
fn nested(values: &[String], shape: &[usize]) -> String {
    let n_rows = values.len() / shape.iter().product::<usize>();
    let mut parts = values.to_vec();
    for dim in shape.iter().rev() {
        parts = parts.chunks(*dim).map(|chunk| format!("[{}]", chunk.join(","))).collect();
    }
    debug_assert_eq!(parts.len(), n_rows);
    parts.join(",")
}

fn scores(n_rows: usize, n_classes: usize) -> Array2<f32> {
    Array2::from_shape_fn((n_rows, n_classes), |(row, class)| ((row * 31 + class * 17) % 41) as f32 / 4.0 - 5.0)
}

/// Fixed scores behind the default defence.
fn pipeline(row_shape: &[usize], n_classes: usize, scores: &Array2<f32>) -> Result<Pipeline> {
    let labels: Vec<String> = (0..n_classes).map(|class| class.to_string()).collect();
    let centroids = Array2::from_shape_fn((n_classes, n_classes), |(row, column)| {
        if row == column { 9.0 } else { ((row * 13 + column * 7) % 29) as f32 / 4.0 - 3.0 }
    });
    let quantiles = Array2::from_shape_fn((n_classes, N_QUANTILES), |(_, step)| step as f32 / 100.0);
    let fitted = Fitted::new(
        ScoreKind::Logits,
        labels.clone(),
        Centroids::new(centroids, &labels)?,
        DistanceQuantiles::new(quantiles, n_classes)?,
        Bank::empty(n_classes),
    )?;
    let method = Method::Reweight { weight: 0.1, when: Gate::Always };
    let config = DefenceConfig { method, top_k: Some(3), digits: None };
    let defence = Defence::new(&config, Some(Arc::new(fitted)), ScoreKind::Logits, n_classes)?;
    let shape = std::iter::once(Dim::Any).chain(row_shape.iter().map(|&dim| Dim::Fixed(dim))).collect();
    let spec = ModelSpec {
        inputs: vec![TensorSpec { name: "x".to_owned(), dtype: DType::F32, shape }],
        score_output: "logits".to_owned(),
        score_kind: ScoreKind::Logits,
        n_classes,
        how_decided: "fixed".to_owned(),
        labels: None,
        other_outputs: Vec::new(),
        row_by_row: false,
    };
    let identity =
        Identity { name: "clf".to_owned(), version: "1".to_owned(), labels, model: ModelDigest::of(b"none") };
    let engine = Arc::new(FixedScores { spec, scores: scores.clone() });
    Ok(Pipeline::new(engine, defence, identity)?)
}

/// An engine that costs a copy.
struct FixedScores {
    spec: ModelSpec,
    scores: Array2<f32>,
}

impl Engine for FixedScores {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn infer(&self, _: &Inputs) -> Result<RawScores, EngineError> {
        RawScores::new(self.scores.clone(), ScoreKind::Logits).map_err(|_| EngineError::Run)
    }
}
