//! Engines: checked inputs in, sealed raw scores out.
//!
//! An engine knows one model. Which output holds scores, and of which kind, is decided at load time by [`inspect`]
//! and written down in [`ModelSpec::how_decided`]; it is never guessed silently (R2).

pub mod inspect;
pub mod memory;
#[cfg(feature = "onnxruntime")]
pub mod onnxruntime;
mod tables;
// The test graphs are written with prost, which comes with the lab.
#[cfg(all(test, feature = "lab"))]
mod tests;
pub mod tract;
pub mod upstream;
mod widen;
mod zipmap;

use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ndarray::Array2;

use self::upstream::{WireReply, WireRequest};
use crate::defence::{RawScores, ScoreKind, ScoresError};
use crate::protocol::Passed;
use crate::tensor::{Inputs, TensorSpec, shape_text};

/// What an engine knows of its model.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSpec {
    /// The inputs, in the order of the graph; dimension 0 of each is the batch.
    pub inputs: Vec<TensorSpec>,
    /// The name of the output that holds scores.
    pub score_output: String,
    /// What the scores are (R2).
    pub score_kind: ScoreKind,
    /// The number of classes.
    pub n_classes: usize,
    /// How the output and its kind were decided, in words.
    pub how_decided: String,
    /// Class names, where the model carries them (metadata entry `sordino.labels`).
    pub labels: Option<Vec<String>>,
    /// The graph's other outputs: never served.
    pub other_outputs: Vec<String>,
    /// Whether batches are run row by row, because the graph takes one row only or mixes the rows of a batch.
    pub row_by_row: bool,
}

/// Why a model cannot be loaded, or did not answer. Holds names and shapes, never values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// The bytes are no ONNX model.
    #[error("not an ONNX model: {0}")]
    NotOnnx(String),
    /// The model has no input or one that cannot be fed.
    #[error("model input: {0}")]
    Input(String),
    /// Which output holds scores cannot be told.
    #[error("model output: {0}")]
    Output(String),
    /// What the scores are cannot be told.
    #[error("kind of scores: {0}")]
    Kind(String),
    /// The engine cannot run this graph.
    #[error("the graph cannot be loaded: {0}")]
    Graph(String),
    /// The library that is to run the model cannot be loaded, or is not in this build.
    #[error("onnxruntime: {0}")]
    Library(String),
    /// The graph failed on an input. What the engine said is withheld: it may quote values.
    #[error("the model failed on this input")]
    Run,
    /// The model's answer has another shape than it had at load time.
    #[error("the model answered with shape {got}, expected {expected}")]
    AnswerShape {
        /// Rows and classes expected.
        expected: String,
        /// What came.
        got: String,
    },
    /// The answer is no score matrix (R8).
    #[error(transparent)]
    Scores(#[from] ScoresError),
    /// Another server was asked and gave no answer that can be used.
    #[error("upstream: {0}")]
    Upstream(#[from] upstream::Fault),
}

impl EngineError {
    /// The same error of a part that begins at row `start`, as one of the whole.
    pub(crate) fn of_part(self, start: usize) -> Self {
        Self::Scores(match self {
            Self::Scores(ScoresError::NonFinite { row }) => ScoresError::NonFinite { row: start + row },
            Self::Scores(ScoresError::NotProbabilities { kind, row }) => {
                ScoresError::NotProbabilities { kind, row: start + row }
            }
            other => return other,
        })
    }
}

/// Runs one model.
pub trait Engine: Send + Sync {
    /// What the model takes and gives.
    fn spec(&self) -> &ModelSpec;

    /// Raw scores of shape `(n_rows, n_classes)` for a batch.
    ///
    /// # Errors
    /// [`EngineError`] when the model fails on the batch, answers in another shape, or with non-finite scores (R8).
    fn infer(&self, inputs: &Inputs) -> Result<RawScores, EngineError>;

    /// The rows that [`Self::infer`] runs one part after the other, in order: given to it alone, each part is answered to
    /// the bit as it is among the others, so they may be run at once. One part: all rows are run together.
    fn blocks(&self, n_rows: usize) -> Vec<Range<usize>> {
        std::iter::once(0..n_rows).collect()
    }
}

/// What goes along with a call to another server, beside the inputs: names and times, no values.
#[derive(Debug, Clone, Default)]
pub struct CallContext {
    /// Our id of the request; empty where there is none.
    pub request_id: Arc<str>,
    /// W3C `traceparent`, as the client sent it.
    pub traceparent: Option<String>,
    /// W3C `tracestate`, as the client sent it.
    pub tracestate: Option<String>,
    /// When the request began to arrive.
    pub started: Option<Instant>,
    /// When nobody waits for the answer any more.
    pub deadline: Option<Instant>,
}

impl CallContext {
    /// When nobody waits any more, if the request itself also says how long it may take: whichever comes first.
    #[must_use]
    pub fn deadline_with(&self, timeout: Option<Duration>) -> Option<Instant> {
        let of_request = timeout.and_then(|time| self.started.unwrap_or_else(Instant::now).checked_add(time));
        [self.deadline, of_request].into_iter().flatten().min()
    }
}

/// An answer that is on its way.
pub type ReplyFuture = Pin<Box<dyn Future<Output = Result<WireReply, EngineError>> + Send>>;

/// A model that runs in another server: asked without holding a thread. Writing a request and reading an answer is work for
/// the processor, asking is none; whoever drives this says where each is done.
pub trait RemoteEngine: Send + Sync {
    /// What the model takes and gives.
    fn spec(&self) -> &ModelSpec;

    /// The platform string of its metadata.
    fn platform(&self) -> &str;

    /// The outputs that pass by the defence, since the operator vouches that they hold no scores.
    fn passed(&self) -> &[TensorSpec];

    /// Writes the request for a batch, for the scores and these of the outputs that pass.
    ///
    /// # Errors
    /// [`upstream::Fault::Inputs`] for values that the protocol cannot carry.
    fn write(&self, inputs: &Inputs, passed: &[usize], call: &CallContext) -> Result<WireRequest, EngineError>;

    /// Sends a request and waits for its answer.
    fn ask(self: Arc<Self>, request: WireRequest, call: CallContext) -> ReplyFuture;

    /// Reads raw scores of shape `(n_rows, n_classes)` out of an answer, and these of the outputs that pass.
    ///
    /// # Errors
    /// [`EngineError`] where it is no answer to that request, or holds no finite scores (R8).
    fn read(
        &self,
        reply: &WireReply,
        n_rows: usize,
        passed: &[usize],
        call: &CallContext,
    ) -> Result<(RawScores, Passed), EngineError>;

    /// Whether a request sent now would have somewhere to go.
    fn is_ready(&self) -> bool;

    /// What has happened so far, for metrics.
    fn figures(&self) -> RemoteFigures;
}

impl fmt::Debug for dyn RemoteEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RemoteEngine({})", self.platform())
    }
}

/// Counts of a [`RemoteEngine`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RemoteFigures {
    /// Servers that are known.
    pub replicas: usize,
    /// Servers that requests are sent to at this moment.
    pub usable: usize,
    /// Requests under way.
    pub in_flight: usize,
    /// Requests that were sent to another server, or again, because the first had not got them.
    pub retries: u64,
    /// Times that a server was left out for a while after failures.
    pub ejections: u64,
    /// Connections opened.
    pub connections: u64,
}

/// What runs a model's graph in this process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Runtime {
    /// tract, which is part of every build.
    #[default]
    Tract,
    /// A library of the user's, in builds with the feature `onnxruntime`.
    OnnxRuntime {
        /// Where it lies; none: where the system's loader finds it.
        library: Option<PathBuf>,
        /// Inferences that may run at once, each with the weights in memory; none: one for each core.
        sessions: Option<usize>,
    },
}

/// What a caller decides about a model in place of its graph.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadOptions {
    /// What runs it.
    pub runtime: Runtime,
    /// The output that holds scores.
    pub score_output: Option<String>,
    /// What the scores are.
    pub score_kind: Option<ScoreKind>,
}

/// Loads a model from the bytes of an ONNX file on the engine that the options name, and tries it on rows of zeros.
///
/// # Errors
/// [`EngineError`] when the bytes are no model, the scores cannot be told, or the engine cannot run the graph. Never
/// panics, whatever the bytes.
pub fn load(bytes: &[u8], options: &LoadOptions) -> Result<Arc<dyn Engine>, EngineError> {
    match &options.runtime {
        Runtime::Tract => Ok(Arc::new(tract::TractEngine::load(bytes, options)?)),
        #[cfg(feature = "onnxruntime")]
        Runtime::OnnxRuntime { library, sessions } => {
            let cores = || std::thread::available_parallelism().map_or(1, usize::from);
            let n_sessions = sessions.unwrap_or_else(cores);
            let engine = onnxruntime::OnnxRuntimeEngine::load(bytes, options, library.as_deref(), n_sessions)?;
            Ok(Arc::new(engine))
        }
        #[cfg(not(feature = "onnxruntime"))]
        Runtime::OnnxRuntime { .. } => {
            Err(EngineError::Library("this build has no such engine: build it with the feature `onnxruntime`".into()))
        }
    }
}

/// The most rows that run at once: memory does not grow with a batch.
pub(crate) const BLOCK: usize = 64;

/// How far a row of a batch may be from the same row alone, relative to the largest score: other kernels, another order of
/// sums.
const BATCH_TOLERANCE: f32 = 1e-3;

/// Whether the rows of a batch were answered as each of them is alone.
fn same_alone(together: &Array2<f32>, alone: impl Fn(usize) -> Result<Array2<f32>, EngineError>) -> bool {
    let largest = together.iter().fold(1.0_f32, |largest, score| largest.max(score.abs()));
    let alike =
        |(a, b): (&f32, &f32)| a == b || (a - b).abs() <= BATCH_TOLERANCE * largest || (a.is_nan() && b.is_nan());
    let same = |row: usize| alone(row).is_ok_and(|alone| together.row(row).iter().zip(alone.row(0)).all(alike));
    (0..together.nrows()).all(same)
}

/// The shape of a score output as that of a matrix of `n_rows` rows.
fn answer_shape(shape: &[usize], n_rows: usize, n_classes: Option<usize>) -> Result<(usize, usize), EngineError> {
    let fits = shape.len() >= 2
        && shape[0] == n_rows
        && shape[1] > 0
        && n_classes.is_none_or(|n| n == shape[1])
        && shape[2..].iter().all(|&size| size == 1);
    if fits {
        return Ok((shape[0], shape[1]));
    }
    Err(EngineError::AnswerShape {
        expected: format!("[{n_rows},{}]", n_classes.map_or_else(|| "classes".to_owned(), |n| n.to_string())),
        got: shape_text(shape),
    })
}

/// Rows `0..n_rows` in blocks of `block`, the last one shorter. In blocks of several rows none has one alone, which other
/// kernels would compute: a row is to be answered alike wherever in a batch it stands.
fn blocks(n_rows: usize, block: usize) -> Vec<Range<usize>> {
    let mut blocks: Vec<Range<usize>> =
        (0..n_rows).step_by(block.max(1)).map(|start| start..(start + block).min(n_rows)).collect();
    if let [.., before, last] = &mut blocks[..]
        && block > 2
        && last.len() == 1
    {
        before.end -= 1;
        last.start -= 1;
    }
    blocks
}
