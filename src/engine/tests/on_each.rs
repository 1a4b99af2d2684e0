//! For tests: a model on every engine that is there, whose answers must agree.
//!
//! tract always; ONNX Runtime in builds with its feature, where `SORDINO_ONNXRUNTIME` names its library.

use std::sync::{Arc, Once};

use ndarray::{Array2, Axis};

use crate::defence::{RawScores, offline};
use crate::engine::tract::TractEngine;
use crate::engine::{self, Engine, EngineError, LoadOptions, ModelSpec, Runtime};
use crate::tensor::Inputs;

/// How far probabilities may be apart.
pub(in crate::engine) const TOLERANCE: f32 = 1e-5;

/// The options that name ONNX Runtime, where there is one; else a word on why not, once.
pub(in crate::engine) fn onnx_runtime(options: &LoadOptions) -> Option<LoadOptions> {
    static TOLD: Once = Once::new();
    let library = std::env::var_os("SORDINO_ONNXRUNTIME").map(std::path::PathBuf::from);
    let reason = match library {
        Some(library) if cfg!(feature = "onnxruntime") => {
            let runtime = Runtime::OnnxRuntime { library: Some(library), sessions: Some(1) };
            return Some(LoadOptions { runtime, ..options.clone() });
        }
        Some(_) => "this build has no feature onnxruntime",
        None => "SORDINO_ONNXRUNTIME names no library",
    };
    TOLD.call_once(|| eprintln!("SKIPPED on ONNX Runtime: {reason}"));
    None
}

/// The model on tract, beside the other engine.
struct Both {
    tract: TractEngine,
    other: Option<Arc<dyn Engine>>,
}

impl Engine for Both {
    fn spec(&self) -> &ModelSpec {
        self.tract.spec()
    }

    fn infer(&self, inputs: &Inputs) -> Result<RawScores, EngineError> {
        let answer = self.tract.infer(inputs);
        if let Some(other) = &self.other {
            match (&answer, other.infer(inputs)) {
                (Ok(_), Ok(other)) => {
                    let tract = probabilities(&offline::logits(self.tract.infer(inputs)?));
                    let other = probabilities(&offline::logits(other));
                    assert!(apart(&tract, &other) <= TOLERANCE, "tract {tract}, ONNX Runtime {other}");
                }
                (Err(tract), Err(other)) => assert_eq!(*tract, other),
                (tract, other) => panic!("tract {tract:?}, ONNX Runtime {other:?}"),
            }
        }
        answer
    }
}

/// Loads a model on every engine; what they say of it must be the same, errors among it.
pub(in crate::engine) fn load(bytes: &[u8], options: &LoadOptions) -> Result<Arc<dyn Engine>, EngineError> {
    let tract = TractEngine::load(bytes, options);
    let other = onnx_runtime(options).map(|options| engine::load(bytes, &options));
    let other = match (&tract, other) {
        (Ok(tract), Some(Ok(other))) => {
            // A declared batch of 1 binds ONNX Runtime, which then runs row by row; tract opens it.
            let (ours, mut theirs) = (tract.spec(), other.spec().clone());
            assert!(theirs.row_by_row || !ours.row_by_row);
            theirs.row_by_row = ours.row_by_row;
            assert_eq!(*ours, theirs);
            Some(other)
        }
        (Err(tract), Some(Err(other))) => {
            // What an engine says of an operator that it does not know are its own words.
            let own = |error: &EngineError| matches!(error, EngineError::Graph(_));
            assert!(*tract == other || (own(tract) && own(&other)), "tract {tract}, ONNX Runtime {other}");
            None
        }
        (tract, Some(other)) => panic!("tract {:?}, ONNX Runtime {:?}", tract.as_ref().err(), other.err()),
        (_, None) => None,
    };
    Ok(Arc::new(Both { tract: tract?, other }))
}

/// The softmax of each row.
pub(in crate::engine) fn probabilities(logits: &Array2<f32>) -> Array2<f32> {
    let mut rows = logits.clone();
    for mut row in rows.rows_mut() {
        let largest = row.iter().fold(f32::NEG_INFINITY, |largest, &score| largest.max(score));
        row.mapv_inplace(|score| (score - largest).exp());
    }
    let sums = rows.sum_axis(Axis(1)).insert_axis(Axis(1));
    rows / sums
}

/// The largest difference; infinite where the shapes differ.
pub(in crate::engine) fn apart(a: &Array2<f32>, b: &Array2<f32>) -> f32 {
    if a.dim() != b.dim() {
        return f32::INFINITY;
    }
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}
