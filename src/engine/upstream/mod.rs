//! A model in another server, without I/O: checked inputs to the bytes of a call, the bytes of an answer to raw scores.
//!
//! Nothing of a client's request is passed on: a call is written anew from checked [`Inputs`], asks for the one output that is
//! declared to hold scores, and for nothing else (no classification strings, no shared memory, no other output but those that
//! an operator has vouched for, `pass`). Of an answer that one output is read; every other is dropped unread, whatever it is called. The numbers go straight into
//! [`RawScores`], which only a defence can open. What an upstream says beside that is never repeated: a [`Fault`] holds
//! statuses, names and shapes.
//!
//! Dialing, pools and balancing are `client::upstream`'s. Here are the dialects: `oip` and [`grpc`] (Open Inference Protocol
//! v2 over REST and gRPC), `v1` (TensorFlow Serving's REST and KServe's V1). An answer is read without trust in who wrote it:
//! what it may hold is counted before it is made.

mod answer;
pub mod grpc;
pub mod metadata;
mod numbers;
mod oip;
mod pass;
#[cfg(test)]
mod tests;
mod v1;

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use ndarray::Array2;

use self::metadata::Found;
use super::ModelSpec;
use crate::defence::{RawScores, ScoreKind};
use crate::protocol::Passed;
use crate::tensor::{DType, Dim, Inputs, TensorSpec};

/// The name of a KServe V1 model's only input and output: the protocol gives them none.
pub const UNNAMED: &str = "predictions";

/// Why another server gave no scores. Holds statuses, names and shapes, never a body.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// No server could be connected to, or each is left out after failures.
    #[error("no server can be reached")]
    Unreachable,
    /// Every server has as many requests under way as it may.
    #[error("every server has as many requests as it may")]
    Busy,
    /// No whole answer came in time.
    #[error("no answer in time")]
    Timeout,
    /// The connection ended inside of an exchange.
    #[error("the connection broke off")]
    BrokenOff,
    /// The answer has another status than 200; redirects are not followed.
    #[error("it answered with status {0}")]
    Status(u16),
    /// A gRPC call failed.
    #[error("it answered with gRPC code {0}")]
    Grpc(i32),
    /// The answer is longer than allowed.
    #[error("its answer is longer than {max_bytes} bytes")]
    TooLong {
        /// The limit.
        max_bytes: usize,
    },
    /// The answer cannot be read, or is not the one that was asked for.
    #[error("its answer is of no use: {0}")]
    Answer(String),
    /// The inputs cannot be written in the server's protocol.
    #[error("the inputs cannot be sent: {0}")]
    Inputs(String),
    /// TLS cannot be spoken as the settings say: that will not change by itself.
    #[error("TLS cannot be spoken as it is set up: {0}")]
    Tls(String),
    /// The TLS handshake with a server failed; nothing of a request was sent.
    #[error("the TLS handshake failed: {0}")]
    Handshake(String),
    /// TLS ended while a request was under way: of a client certificate that is missing or not liked, some servers tell only then.
    #[error("TLS ended: {0}")]
    TlsEnded(String),
    /// Asked by a caller that cannot wait without holding its thread.
    #[error("a model in another server is asked asynchronously")]
    Asynchronous,
}

impl Fault {
    /// An answer that cannot be used.
    pub(crate) fn answer(reason: impl Into<String>) -> Self {
        Self::Answer(reason.into())
    }

    /// Whether trying later is the advice.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Busy | Self::Status(429 | 503) | Self::Grpc(8 | 14)) || self.is_unsent()
    }

    /// Whether this speaks against the server rather than the request: such failures in a row leave it out for a while.
    /// A status of 500 does not, since many servers give it to inputs that their model does not like.
    #[must_use]
    pub fn is_of_server(&self) -> bool {
        let broken = matches!(self, Self::Timeout | Self::BrokenOff | Self::TlsEnded(_));
        broken || self.is_unsent() || matches!(self, Self::Status(502..=504) | Self::Grpc(14))
    }

    /// Whether no connection came about, so that nothing of the request can have arrived.
    #[must_use]
    pub fn is_unsent(&self) -> bool {
        matches!(self, Self::Unreachable | Self::Handshake(_))
    }
}

/// The protocols that an upstream may speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Open Inference Protocol v2 over REST: Triton, KServe, MLServer.
    OipHttp,
    /// Open Inference Protocol v2 over gRPC.
    OipGrpc,
    /// TensorFlow Serving's REST, columns.
    TfServing,
    /// KServe's V1.
    KserveV1,
}

impl Dialect {
    /// Every dialect.
    pub const ALL: [Self; 4] = [Self::OipHttp, Self::OipGrpc, Self::TfServing, Self::KserveV1];

    /// Its name in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::OipHttp => "oip-http",
            Self::OipGrpc => "oip-grpc",
            Self::TfServing => "tfserving",
            Self::KserveV1 => "kserve-v1",
        }
    }

    /// The dialect of a name; KServe's own words for the two versions of its REST protocol are understood.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "v1" => Some(Self::KserveV1),
            "v2" => Some(Self::OipHttp),
            "grpc-v2" => Some(Self::OipGrpc),
            name => Self::ALL.into_iter().find(|dialect| dialect.name() == name),
        }
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What becomes of an output of the upstream's model that holds no scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputRule {
    /// It is not asked for, and dropped where it comes all the same. The rule of every output without one.
    Drop,
    /// A model that has it is not served.
    Refuse,
    /// It is passed on as it is: the operator vouches that it holds no scores.
    Pass,
}

/// What an operator declares of a model in another server.
#[derive(Debug, Clone, PartialEq)]
pub struct Declared {
    /// The protocol.
    pub dialect: Dialect,
    /// The model's name there.
    pub model: String,
    /// The version to ask for; none: the only one that the server names, TensorFlow Serving's newest at start.
    pub version: Option<String>,
    /// The output that holds scores; may be left out where there is one output.
    pub score_output: Option<String>,
    /// What its values are (R2): no protocol tells.
    pub score_kind: Option<ScoreKind>,
    /// The number of classes, where the server's metadata do not tell.
    pub n_classes: Option<usize>,
    /// The inputs, where the server's metadata do not tell.
    pub inputs: Vec<TensorSpec>,
    /// Rules for outputs that hold no scores.
    pub rules: BTreeMap<String, OutputRule>,
    /// Whether tensors travel as raw bytes over REST; none: where the server says that it can.
    pub binary: Option<bool>,
    /// TensorFlow Serving's signature; none: the default one.
    pub signature: Option<String>,
}

/// Why a model of another server cannot be served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// What the server says of its model cannot be read.
    #[error("the upstream's metadata: {0}")]
    Metadata(String),
    /// An input cannot be fed.
    #[error("input of the upstream's model: {0}")]
    Input(String),
    /// Which output holds scores cannot be told, or an output has the rule `refuse`.
    #[error("output of the upstream's model: {0}")]
    Output(String),
    /// What the scores are was not declared.
    #[error(
        "declare score_kind as logits, probabilities or log_probabilities: no protocol tells what the values of '{output}' are"
    )]
    Kind {
        /// The output.
        output: String,
    },
    /// It serves several versions of the model.
    #[error("declare the version: the upstream serves {0}, and a defence is fitted to one")]
    Version(String),
    /// It does not say which version of the model it serves.
    #[error("declare the version: the upstream does not say which one it serves, nor do its answers")]
    NoVersion,
    /// How many classes there are cannot be told.
    #[error("declare n_classes: the upstream does not tell how many '{output}' has")]
    Classes {
        /// The output.
        output: String,
    },
}

/// How a model of another server is asked: everything that is decided before the first request.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    pub(super) dialect: Dialect,
    pub(super) model: String,
    pub(super) version: Option<String>,
    /// The version that answers must be of, as far as they say.
    pub(super) answers_version: Option<String>,
    pub(super) signature: Option<String>,
    pub(super) binary: bool,
    pub(super) spec: ModelSpec,
    pub(super) platform: String,
    /// Outputs that pass by the defence.
    pub(super) passed: Vec<TensorSpec>,
}

/// A request of ours, written.
#[derive(Clone, PartialEq, Eq)]
pub struct WireRequest {
    /// Length of the JSON part where raw tensors follow it.
    pub header_length: Option<usize>,
    /// The body, or the message.
    pub body: Bytes,
}

impl fmt::Debug for WireRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WireRequest({} bytes)", self.body.len())
    }
}

/// An answer as it came, not read.
#[derive(Default)]
pub struct WireReply {
    /// What it says of the length of its JSON part.
    pub header_length: Option<String>,
    /// Whether it is compressed, which was not asked for.
    pub is_compressed: bool,
    /// The body, or the message.
    pub body: Bytes,
    /// The place among the requests under way, given back when this is dropped.
    pub place: Option<Box<dyn Send + Sync>>,
}

impl fmt::Debug for WireReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WireReply({} bytes)", self.body.len())
    }
}

impl Plan {
    /// Decides how to ask, from what the server says and what the operator declares.
    ///
    /// # Errors
    /// [`PlanError`], which says what to declare.
    pub fn new(declared: &Declared, found: Found) -> Result<Self, PlanError> {
        let inputs = if declared.inputs.is_empty() { found.inputs } else { declared.inputs.clone() };
        if inputs.is_empty() {
            return Err(PlanError::Input("the upstream names none; declare [[upstream.inputs]]".into()));
        }
        inputs.iter().try_for_each(fit_to_send)?;
        let output = score_output(declared, &found.outputs)?;
        let score_kind = declared.score_kind.ok_or_else(|| PlanError::Kind { output: output.clone() })?;
        let shape = found.outputs.iter().find(|spec| spec.name == output).map(|spec| &spec.shape);
        let told = shape.and_then(|shape| classes_of(shape));
        let n_classes = match (declared.n_classes, told) {
            (Some(declared), Some(told)) if declared != told => {
                let text = format!("'{output}' has {told} classes by the upstream's metadata, expected {declared}");
                return Err(PlanError::Output(text));
            }
            (declared, told) => told.or(declared).ok_or_else(|| PlanError::Classes { output: output.clone() })?,
        };
        let passed = pass::passed(declared, &found.outputs, n_classes)?;
        let other_outputs = found.outputs.into_iter().map(|spec| spec.name);
        let other_outputs = other_outputs.filter(|name| *name != output).collect();
        let answers_version = match (&declared.version, &found.versions[..]) {
            (Some(declared), _) => Some(declared.clone()),
            // Its answers do not tell their version: without one it could not be held.
            (None, []) if declared.dialect == Dialect::TfServing => return Err(PlanError::NoVersion),
            (None, []) => None,
            (None, [only]) => Some(only.clone()),
            (None, several) => {
                let several: Vec<String> = several.iter().map(|version| crate::protocol::quoted(version)).collect();
                return Err(PlanError::Version(several.join(", ")));
            }
        };
        let dialect = declared.dialect;
        let how_decided = format!("output '{output}' of the upstream's '{}': {score_kind}, declared", declared.model);
        let spec = ModelSpec {
            inputs,
            score_output: output,
            score_kind,
            n_classes,
            how_decided,
            labels: None,
            other_outputs,
            row_by_row: false,
        };
        let binary = declared.binary.unwrap_or(found.binary);
        let (model, mut version) = (declared.model.clone(), declared.version.clone());
        if dialect == Dialect::TfServing {
            // Asked for by its number, a version that has been rolled away is a 404, and never another model's scores.
            version.clone_from(&answers_version);
        }
        let (signature, platform) = (declared.signature.clone(), found.platform);
        if dialect == Dialect::OipHttp && !binary && !passed.is_empty() {
            let text = "the rule pass needs raw tensors, which this server does not send over REST: ask it by oip-grpc";
            return Err(PlanError::Output(text.into()));
        }
        Ok(Self { dialect, model, version, answers_version, signature, binary, spec, platform, passed })
    }

    /// The protocol.
    #[must_use]
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// What is known of the model.
    #[must_use]
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// The platform string of the upstream's metadata.
    #[must_use]
    pub fn platform(&self) -> &str {
        &self.platform
    }

    /// The version that is asked for; none: whichever the server serves.
    #[must_use]
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// The path of an inference.
    #[must_use]
    pub fn infer_path(&self) -> String {
        infer_path(self.dialect, &self.model, self.version.as_deref())
    }

    /// The outputs that pass by the defence, since the operator vouches for them.
    #[must_use]
    pub fn passed(&self) -> &[TensorSpec] {
        &self.passed
    }

    /// Writes a call for `inputs`, for the scores and these of the outputs that pass; `id` is ours, and an answer that echoes another is not taken.
    ///
    /// # Errors
    /// [`Fault::Inputs`] for values that the protocol cannot carry.
    pub fn write(&self, inputs: &Inputs, passed: &[usize], id: &str) -> Result<WireRequest, Fault> {
        match self.dialect {
            Dialect::OipHttp => oip::write(self, inputs, passed, id),
            Dialect::OipGrpc => Ok(grpc::write(self, inputs, passed, id)),
            Dialect::TfServing => v1::write_columns(self, inputs),
            Dialect::KserveV1 => v1::write_instances(self, inputs),
        }
    }

    /// Reads an answer to a call of `n_rows` rows.
    ///
    /// # Errors
    /// [`Fault::Answer`] where it is not the answer to that call; [`super::EngineError::Scores`] for numbers that are no
    /// scores (R8).
    pub fn read(
        &self,
        reply: &WireReply,
        n_rows: usize,
        passed: &[usize],
        id: &str,
    ) -> Result<(RawScores, Passed), super::EngineError> {
        if reply.is_compressed {
            return Err(Fault::answer("it is compressed, which was not asked for").into());
        }
        let body = &reply.body;
        let (values, passed) = match self.dialect {
            Dialect::OipHttp => oip::read(self, reply.header_length.as_deref(), body, n_rows, passed, id)?,
            Dialect::OipGrpc => grpc::read(self, body, n_rows, passed, id)?,
            Dialect::TfServing => (v1::read_outputs(self, body, n_rows)?, Passed::default()),
            Dialect::KserveV1 => (v1::read_predictions(self, body, n_rows)?, Passed::default()),
        };
        Ok((self.seal(values, n_rows)?, passed))
    }

    /// The number of scores of `n_rows` rows.
    pub(super) fn n_scores(&self, n_rows: usize) -> usize {
        n_rows.saturating_mul(self.spec.n_classes)
    }

    /// `values` as sealed scores of shape `(n_rows, n_classes)`.
    fn seal(&self, values: Vec<f32>, n_rows: usize) -> Result<RawScores, super::EngineError> {
        let shape = (n_rows, self.spec.n_classes);
        let got = values.len();
        let scores = Array2::from_shape_vec(shape, values).map_err(|_| {
            let expected = shape.0 * shape.1;
            Fault::answer(format!("expected {expected} scores, got {got}"))
        })?;
        Ok(RawScores::new(scores, self.spec.score_kind)?)
    }

    /// Whether an output of this shape holds `n_rows` rows of scores.
    pub(super) fn check_shape(&self, shape: &[usize], n_rows: usize) -> Result<(), Fault> {
        let n_classes = self.spec.n_classes;
        let fits = match shape {
            [rows, classes, ones @ ..] => *rows == n_rows && *classes == n_classes && ones.iter().all(|&one| one == 1),
            [classes] => n_rows == 1 && *classes == n_classes,
            [] => false,
        };
        if fits {
            return Ok(());
        }
        let shape = crate::tensor::shape_text(shape);
        Err(Fault::answer(format!("expected scores of shape [{n_rows},{n_classes}], got {shape}")))
    }
}

/// The path of an inference by `dialect`. Empty for gRPC.
#[must_use]
pub fn infer_path(dialect: Dialect, model: &str, version: Option<&str>) -> String {
    let version = version.map(|version| format!("/versions/{version}")).unwrap_or_default();
    match dialect {
        Dialect::OipHttp => format!("/v2/models/{model}{version}/infer"),
        Dialect::TfServing => format!("/v1/models/{model}{version}:predict"),
        Dialect::KserveV1 => format!("/v1/models/{model}:predict"),
        Dialect::OipGrpc => String::new(),
    }
}

fn fit_to_send(spec: &TensorSpec) -> Result<(), PlanError> {
    let name = &spec.name;
    match spec.shape.first() {
        None => return Err(PlanError::Input(format!("'{name}' has no dimension: expected the batch as the first"))),
        Some(Dim::Fixed(size)) if *size != 1 => {
            return Err(PlanError::Input(format!(
                "'{name}' begins with a fixed dimension of {size}: expected the batch, -1 or 1"
            )));
        }
        Some(_) => {}
    }
    if spec.dtype == DType::Bytes {
        return Err(PlanError::Input(format!("'{name}' takes {}, which cannot be fed", spec.dtype)));
    }
    Ok(())
}

/// Which output holds scores, with the rules of the others held against what the server has.
fn score_output(declared: &Declared, outputs: &[TensorSpec]) -> Result<String, PlanError> {
    let names = || outputs.iter().map(|spec| format!("'{}'", spec.name)).collect::<Vec<_>>().join(", ");
    let output = match (&declared.score_output, outputs) {
        (Some(name), []) => name.clone(),
        (Some(name), outputs) if outputs.iter().any(|spec| spec.name == *name) => name.clone(),
        (Some(name), _) => return Err(PlanError::Output(format!("expected one of {}, got '{name}'", names()))),
        (None, [only]) => only.name.clone(),
        (None, []) if declared.dialect == Dialect::KserveV1 => UNNAMED.to_owned(),
        (None, []) => return Err(PlanError::Output("the upstream names none; declare score_output".into())),
        (None, _) => {
            return Err(PlanError::Output(format!("{} could hold the scores; declare one as score_output", names())));
        }
    };
    for spec in outputs.iter().filter(|spec| spec.name != output) {
        if declared.rules.get(&spec.name) == Some(&OutputRule::Refuse) {
            let text = format!("it has '{}', and the rule of that output is refuse", spec.name);
            return Err(PlanError::Output(text));
        }
    }
    if let Some(name) = declared.rules.keys().find(|name| **name == output) {
        return Err(PlanError::Output(format!("'{name}' holds the scores, and has a rule as if it did not")));
    }
    Ok(output)
}

fn classes_of(shape: &[Dim]) -> Option<usize> {
    let rest = match shape {
        [_, rest @ ..] if !rest.is_empty() => rest,
        _ => return None,
    };
    match rest {
        [Dim::Fixed(classes), ones @ ..] if ones.iter().all(|dim| *dim == Dim::Fixed(1)) => Some(*classes),
        _ => None,
    }
}
