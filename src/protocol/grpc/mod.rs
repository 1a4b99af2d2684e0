//! Open Inference Protocol v2 over gRPC, sans-I/O: its messages, made from `proto/inference.proto` by `just proto`, an
//! inference request read and its reply written, and the messages of the other answers.
//!
//! Nothing here knows sockets, frames or compression: those are the server's and the client's. A message of this room
//! may be built by anybody; what a server sends as an answer to an inference is an [`Answer`](super::Answer), which only
//! `encode_infer` makes here, from [`Defended`](crate::defence::Defended) scores.

mod bodies;
mod infer;
#[allow(clippy::doc_markdown, clippy::large_enum_variant, reason = "made by a generator")]
pub mod messages;
#[cfg(test)]
mod tests;
mod wire;

pub use self::bodies::no_overrides;
pub use self::bodies::{index, model_config, model_metadata, server_metadata, statistics, stream_answer, stream_error};
pub(super) use self::infer::{ReplyPlan, decode_infer, encode_infer};
pub use self::infer::{Target, decoded_size, read_target};
pub(crate) use self::wire::{Malformed, fields};

/// The service by its full name, as it stands in paths.
pub const SERVICE: &str = "inference.GRPCInferenceService";

/// The encoded `FileDescriptorSet` of the service, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!("descriptors.bin");
