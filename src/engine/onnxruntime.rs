//! ONNX graphs on ONNX Runtime: a library of the user's that is loaded when a model is.
//!
//! What the graph is asked for, which output holds scores and what they are, is read by [`inspect`] as for tract, so the
//! rules are the same (R2). A session runs one inference at a time: there are as many as requests may run at once, each on
//! the thread that asks, and each with the weights in memory. Nothing of this is unsafe here; the binding is, as a binding to a
//! foreign library must be, and a library of another origin than ONNX Runtime's can do what it likes.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crossbeam_channel::{Receiver, Sender, bounded};
use ndarray::{Array2, Axis};
use ort::environment::Environment;
use ort::logging::LogLevel;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::session::{HasSelectedOutputs, OutputSelector, RunOptions, Session, SessionInputValue};
use ort::value::{DynValue, TensorElementType, TensorRef};
use prost::Message as _;

use super::tract::read_model;
use super::{BLOCK, Engine, EngineError, LoadOptions, ModelSpec, answer_shape, blocks, inspect, same_alone};
use crate::defence::{RawScores, ScoresError};
use crate::tensor::{InputTensor, Inputs, Values};

/// What the system's loader is asked for where no path is given.
const LIBRARY: &str = if cfg!(target_os = "macos") { "libonnxruntime.dylib" } else { "libonnxruntime.so" };

/// The library that this process has loaded: there can be one.
static LOADED: Mutex<Option<(PathBuf, Environment)>> = Mutex::new(None);

/// A model on ONNX Runtime.
pub struct OnnxRuntimeEngine {
    spec: ModelSpec,
    pool: Pool,
}

/// The sessions of one model.
struct Pool {
    /// Those that nobody uses at this moment.
    idle: Receiver<Runner>,
    back: Sender<Runner>,
    /// The output that holds scores.
    output: String,
}

/// A session with the choice of its one output.
struct Runner {
    session: Session,
    options: RunOptions<HasSelectedOutputs>,
}

/// A runner that goes back where it came from, whatever happens.
struct Borrowed<'a> {
    runner: Option<Runner>,
    back: &'a Sender<Runner>,
}

impl Drop for Borrowed<'_> {
    fn drop(&mut self) {
        if let Some(runner) = self.runner.take() {
            // There is room for all of them.
            let _ = self.back.try_send(runner);
        }
    }
}

impl OnnxRuntimeEngine {
    /// Loads the library, unless it has been loaded, and the model from the bytes of an ONNX file; tries it on rows of
    /// zeros. `n_sessions` inferences may run at once, at least 1.
    ///
    /// # Errors
    /// [`EngineError::Library`] when the library cannot be loaded or is too old, else as
    /// [`TractEngine::load`](super::tract::TractEngine::load). Never panics, whatever the bytes.
    pub fn load(
        bytes: &[u8],
        options: &LoadOptions,
        library: Option<&Path>,
        n_sessions: usize,
    ) -> Result<Self, EngineError> {
        let load = || Self::load_unguarded(bytes, options, library, n_sessions.max(1));
        guarded(load).unwrap_or_else(|| Err(EngineError::Graph("the engine panicked while loading it".into())))
    }

    fn load_unguarded(
        bytes: &[u8],
        options: &LoadOptions,
        library: Option<&Path>,
        n_sessions: usize,
    ) -> Result<Self, EngineError> {
        let (proto, taken_off) = read_model(bytes)?;
        let facts = inspect::facts(&proto)?;
        let decision = inspect::decide(&facts, options)?;
        let changed = taken_off.then(|| proto.encode_to_vec());
        let builder = builder(library)?;
        let (back, idle) = bounded(n_sessions);
        for _ in 0..n_sessions {
            let session = builder.clone().commit_from_memory(changed.as_deref().unwrap_or(bytes)).map_err(graph)?;
            let selected = OutputSelector::no_default().with(decision.output.as_str());
            let options = RunOptions::new().map_err(graph)?.with_outputs(selected);
            // There is room for all of them.
            let _ = back.try_send(Runner { session, options });
        }
        let (kind, output) = (decision.kind, decision.output.clone());
        let pool = Pool { idle, back, output };
        let made_up = |rows, zeros| {
            let rows = Inputs::made_up(&facts.inputs, rows, zeros);
            rows.map_err(|error| EngineError::Input(error.to_string()))
        };
        let at_load = |error| match error {
            EngineError::Run => EngineError::Graph("it fails on a row of zeros".into()),
            error => error,
        };
        let zeros = pool.scores(&made_up(0..1, true)?, None).map_err(at_load)?;
        let n_classes = zeros.ncols();
        match RawScores::new(zeros, kind) {
            Err(error @ ScoresError::NotProbabilities { .. }) => return Err(error.into()),
            // As with tract: what a row of zeros is answered is not held against a model.
            Ok(_) | Err(ScoresError::NonFinite { .. } | ScoresError::NoClasses) => {}
        }
        let several = pool.scores(&made_up(0..3, false)?, Some(n_classes)).ok();
        let alone = |row| pool.scores(&made_up(row..row + 1, false)?, Some(n_classes));
        let row_by_row = !several.is_some_and(|several| same_alone(&several, alone));
        let spec = inspect::spec(facts, decision, n_classes, row_by_row)?;
        Ok(Self { spec, pool })
    }

    fn run(&self, inputs: &Inputs) -> Result<Array2<f32>, EngineError> {
        let (n_rows, n_classes) = (inputs.n_rows(), self.spec.n_classes);
        let block = if self.spec.row_by_row { 1 } else { BLOCK };
        if n_rows <= block {
            return self.pool.scores(inputs, Some(n_classes));
        }
        let mut scores = Array2::zeros((n_rows, n_classes));
        for rows in blocks(n_rows, block) {
            let part = inputs.rows(rows.clone()).ok_or(EngineError::Run)?;
            scores.slice_axis_mut(Axis(0), rows.into()).assign(&self.pool.scores(&part, Some(n_classes))?);
        }
        Ok(scores)
    }
}

impl Pool {
    /// One run of a session that is idle, or comes to be.
    fn scores(&self, inputs: &Inputs, n_classes: Option<usize>) -> Result<Array2<f32>, EngineError> {
        // What the library says of a failure is withheld: it may quote values.
        let feeds: Vec<(&str, SessionInputValue<'_>)> = inputs
            .tensors()
            .iter()
            .map(|input| Ok((input.name(), feed(input).map_err(|_| EngineError::Run)?)))
            .collect::<Result<_, EngineError>>()?;
        let runner = self.idle.recv().map_err(|_| EngineError::Run)?;
        let mut borrowed = Borrowed { runner: Some(runner), back: &self.back };
        let Some(Runner { session, options }) = &mut borrowed.runner else { return Err(EngineError::Run) };
        let outputs = session.run_with_options(feeds, options).map_err(|_| EngineError::Run)?;
        let output = outputs.get(&self.output).ok_or(EngineError::Run)?;
        let (shape, values) = numbers(output).ok_or(EngineError::Run)?;
        let shape = answer_shape(&shape, inputs.n_rows(), n_classes)?;
        Array2::from_shape_vec(shape, values).map_err(|_| EngineError::Run)
    }
}

impl Engine for OnnxRuntimeEngine {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn infer(&self, inputs: &Inputs) -> Result<RawScores, EngineError> {
        let scores = guarded(|| self.run(inputs)).unwrap_or(Err(EngineError::Run))?;
        Ok(RawScores::new(scores, self.spec.score_kind)?)
    }
}

fn guarded<T>(work: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(work)).ok()
}

fn graph<R>(error: ort::Error<R>) -> EngineError {
    EngineError::Graph(error.to_string())
}

/// Settings of every session: one thread, the one that asks, and no log, which may quote values.
fn builder(library: Option<&Path>) -> Result<SessionBuilder, EngineError> {
    let environment = environment(library)?;
    Session::builder(&environment)
        .map_err(graph)?
        .with_optimization_level(GraphOptimizationLevel::All)
        .map_err(graph)?
        .with_intra_threads(1)
        .map_err(graph)?
        .with_inter_threads(1)
        .map_err(graph)?
        .with_log_level(LogLevel::Fatal)
        .map_err(graph)
}

/// The library, loaded once for the life of the process.
fn environment(library: Option<&Path>) -> Result<Environment, EngineError> {
    let path = library.unwrap_or_else(|| Path::new(LIBRARY));
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((known, environment)) = &*loaded {
        if known != path {
            let text =
                format!("{} is loaded already, and one process has one: got {}", known.display(), path.display());
            return Err(EngineError::Library(text));
        }
        return Ok(environment.clone());
    }
    let hint =
        "give the path of libonnxruntime.so.1.17 or newer, as in the folder capi of the Python package onnxruntime";
    let found = match guarded(|| ort::init_from(path)) {
        Some(found) => found.map_err(|error| EngineError::Library(format!("{error}; {hint}")))?,
        None => return Err(EngineError::Library(format!("{} cannot be used; {hint}", path.display()))),
    };
    let environment = found.with_name("sordino").with_telemetry(false).build();
    let environment = environment.map_err(|error| EngineError::Library(format!("{}: {error}", path.display())))?;
    *loaded = Some((path.to_owned(), environment.clone()));
    Ok(environment)
}

/// An input as the library takes it, without a copy.
fn feed(input: &InputTensor) -> ort::Result<SessionInputValue<'_>> {
    let shape = input.shape().to_vec();
    macro_rules! fed {
        ($($variant:ident),*) => {
            match input.values() {
                $(Values::$variant(values) => TensorRef::from_array_view((shape, &values[..]))?.into(),)*
            }
        };
    }
    Ok(fed!(Bool, U8, U16, U32, U64, I8, I16, I32, I64, F32, F64, F16, Bf16))
}

/// The values of an output of floats, in single precision, with their shape.
fn numbers(output: &DynValue) -> Option<(Vec<usize>, Vec<f32>)> {
    macro_rules! read {
        ($type:ty, $number:expr) => {{
            let (shape, values) = output.try_extract_tensor::<$type>().ok()?;
            let shape = shape.iter().map(|&size| usize::try_from(size).ok()).collect::<Option<_>>()?;
            Some((shape, values.iter().map($number).collect()))
        }};
    }
    match output.dtype().tensor_type()? {
        TensorElementType::Float32 => read!(f32, |&value| value),
        TensorElementType::Float64 => read!(f64, |&value| value as f32),
        TensorElementType::Float16 => read!(half::f16, |value| value.to_f32()),
        TensorElementType::Bfloat16 => read!(half::bf16, |value| value.to_f32()),
        _ => None,
    }
}
