//! Bytes to calls and replies, without I/O: no socket, no clock, no runtime.
//!
//! Responsible for what a dialect says: how a call is read into [`Inputs`](crate::tensor::Inputs) and a
//! plan for the reply, and how [`Defended`](crate::defence::Defended) scores are written down. An encoder
//! takes nothing else, so undefended scores have no way out through here. Not responsible for who may call,
//! how long it may take or which thread works: that is the server's.
//!
//! [`oip`] is the Open Inference Protocol v2 over REST, `grpc` the same over gRPC, [`predict`] the REST of TensorFlow
//! Serving and KServe V1; [`Call`] is a request in any of them. Messages of a [`Refusal`] hold names, shapes, types and
//! limits, never a value of an input or a score.

use std::collections::BTreeMap;

use thiserror::Error;

use crate::defence::Form;
use crate::tensor::TensorSpec;

#[cfg(feature = "serve")]
pub mod grpc;
pub mod oip;
pub mod predict;
pub mod reports;

mod call;
mod data;
mod inputs;
mod outputs;
mod parameters;
mod passed;
mod raw;

pub use self::call::{Call, ReplyPlan, decode, encode};
pub use self::passed::Passed;
#[cfg(feature = "serve")]
pub(crate) use self::passed::PassedTensor;
#[cfg(feature = "serve")]
pub(crate) use self::raw::read_raw;

/// The longest `id`: it is echoed.
pub(crate) const MAX_ID_BYTES: usize = 1024;

/// What a client may know about the served model; every answer is planned against it.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelDescription {
    /// The name in the URL.
    pub name: String,
    /// The one version that is served.
    pub version: String,
    /// The platform string of the metadata, for example `onnx_onnxv1`.
    pub platform: String,
    /// Inputs in the order of the model's graph; `shape[0]` is the batch.
    pub inputs: Vec<TensorSpec>,
    /// Outputs that may be asked for; the default answer holds all of them, in this order.
    pub outputs: Vec<OutputSpec>,
    /// Outputs that pass by the defence, since their operator says that they hold no scores: those of a model in another
    /// server that have this rule, and else none. They too may be asked for, and are in the default answer, after the others.
    pub passed: Vec<TensorSpec>,
    /// Classes, the second dimension of every output.
    pub n_classes: usize,
    /// Names of the classes in index order; may be empty.
    pub labels: Vec<String>,
    /// Further facts for the metadata's `properties`.
    pub properties: BTreeMap<String, String>,
}

/// An output of scores under the name a client asks for it. All of these are FP32 of shape `(n_rows, n_classes)`.
#[derive(Debug, Clone, PartialEq)]
pub struct OutputSpec {
    /// The name on the wire.
    pub name: String,
    /// Whether the values are probabilities or log-probabilities (R2).
    pub form: Form,
}

/// An encoded reply. Only the encoders of this room make one, and they take [`Defended`](crate::defence::Defended)
/// scores: whoever sends nothing but answers sends no undefended scores, unless an operator has vouched for an output
/// that holds some ([`Passed`]).
///
/// ```compile_fail
/// let answer = sordino::protocol::Answer { header_length: None, body: b"scores".to_vec() };
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Answer {
    header_length: Option<usize>,
    body: Vec<u8>,
}

impl Answer {
    /// Length of the JSON part when binary tensors follow it; `None` when there is no such part.
    #[must_use]
    pub fn header_length(&self) -> Option<usize> {
        self.header_length
    }

    /// The body.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// The body, given away.
    #[must_use]
    pub fn into_body(self) -> Vec<u8> {
        self.body
    }
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Answer({} bytes)", self.body.len())
    }
}

/// Why a call is not answered, in words fit for the client: names, shapes and limits, never values.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct Refusal {
    /// What sort of failure it is.
    pub kind: RefusalKind,
    /// A sentence for the client.
    pub message: String,
}

/// The sorts of failure that a client can see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefusalKind {
    /// The request cannot be read or does not fit the model.
    BadRequest,
    /// No such path, model or version.
    NotFound,
    /// The path exists and is switched off.
    Forbidden,
    /// The path exists, the method does not.
    MethodNotAllowed,
    /// The request did not arrive in time.
    SlowRequest,
    /// The body is over the limit.
    TooLarge,
    /// A `Content-Encoding` that is not served.
    UnsupportedEncoding,
    /// The model failed on this request, or gave scores that are not finite (R8).
    ModelFailed,
    /// A fault of the server's own.
    Internal,
    /// The queue, the body budget or the connection table is full.
    Overloaded,
    /// No compute thread was free in time, or the client's own deadline has passed.
    QueueTimeout,
    /// The server behind this one cannot be reached, or takes no more requests.
    UpstreamUnavailable,
    /// The server behind this one did not answer in time.
    UpstreamTimeout,
    /// The server drains, or the model is not ready.
    NotReady,
}

impl RefusalKind {
    /// Every kind, in the order of declaration.
    pub const ALL: [Self; 14] = [
        Self::BadRequest,
        Self::NotFound,
        Self::Forbidden,
        Self::MethodNotAllowed,
        Self::SlowRequest,
        Self::TooLarge,
        Self::UnsupportedEncoding,
        Self::ModelFailed,
        Self::Internal,
        Self::Overloaded,
        Self::QueueTimeout,
        Self::UpstreamUnavailable,
        Self::UpstreamTimeout,
        Self::NotReady,
    ];

    /// The one table from kinds of failure to HTTP status codes.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::SlowRequest => 408,
            Self::TooLarge => 413,
            Self::UnsupportedEncoding => 415,
            Self::Internal => 500,
            Self::ModelFailed => 502,
            Self::Overloaded | Self::NotReady | Self::UpstreamUnavailable => 503,
            Self::QueueTimeout | Self::UpstreamTimeout => 504,
        }
    }

    /// The one table from kinds of failure to gRPC status codes. Overload is RESOURCE_EXHAUSTED and not UNAVAILABLE, which
    /// clients take as a word to try again at once.
    #[must_use]
    pub fn grpc_code(self) -> i32 {
        match self {
            Self::BadRequest => 3,
            Self::SlowRequest | Self::QueueTimeout | Self::UpstreamTimeout => 4,
            Self::NotFound => 5,
            Self::Forbidden => 7,
            Self::TooLarge | Self::Overloaded | Self::UpstreamUnavailable => 8,
            Self::MethodNotAllowed | Self::UnsupportedEncoding => 12,
            Self::Internal | Self::ModelFailed => 13,
            Self::NotReady => 14,
        }
    }

    /// The name that metrics and logs use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::SlowRequest => "slow_request",
            Self::TooLarge => "too_large",
            Self::UnsupportedEncoding => "unsupported_encoding",
            Self::ModelFailed => "model_failed",
            Self::Internal => "internal",
            Self::Overloaded => "overloaded",
            Self::QueueTimeout => "queue_timeout",
            Self::UpstreamUnavailable => "upstream_unavailable",
            Self::UpstreamTimeout => "upstream_timeout",
            Self::NotReady => "not_ready",
        }
    }
}

impl Refusal {
    /// A refusal of `kind` that tells the client `message`.
    #[must_use]
    pub fn new(kind: RefusalKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// A request that cannot be read or does not fit the model.
    #[must_use]
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(RefusalKind::BadRequest, message)
    }

    /// The model failed. The sentence is fixed: what went wrong inside is for the log.
    #[must_use]
    pub fn model_failed() -> Self {
        Self::new(RefusalKind::ModelFailed, "the model gave no usable scores for this request")
    }

    /// A fault of the server's own. The sentence is fixed.
    #[must_use]
    pub fn internal() -> Self {
        Self::new(RefusalKind::Internal, "internal error; the request was not answered")
    }

    /// The HTTP status code of [`RefusalKind::status`].
    #[must_use]
    pub fn status(&self) -> u16 {
        self.kind.status()
    }
}

/// A name that came from outside, fit for a message: quoted, control characters escaped, cut at 64 characters.
pub(crate) fn quoted(name: &str) -> String {
    let mut shown: String = name.chars().take(64).flat_map(char::escape_debug).collect();
    if name.chars().nth(64).is_some() {
        shown.push_str("...");
    }
    format!("'{shown}'")
}

#[cfg(test)]
mod tests {
    use super::{RefusalKind, quoted};

    #[test]
    fn every_kind_has_an_error_status_and_its_own_name() {
        let mut names: Vec<_> = RefusalKind::ALL.iter().map(|kind| kind.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), RefusalKind::ALL.len());
        assert!(RefusalKind::ALL.iter().all(|kind| (400..600).contains(&kind.status())));
        assert!(RefusalKind::ALL.iter().all(|kind| (1..17).contains(&kind.grpc_code())));
    }

    #[test]
    fn a_name_from_outside_is_cut_and_escaped() {
        assert_eq!(quoted("x"), "'x'");
        assert_eq!(quoted("a\nb"), "'a\\nb'");
        let shown = quoted(&"y".repeat(1000));
        assert!(shown.len() < 80 && shown.ends_with("...'"), "{shown}");
    }
}
