//! Open Inference Protocol v2 over gRPC, sans-I/O: its messages, made from `proto/inference.proto` by `just proto`.
//!
//! Nothing here knows sockets, frames or compression: those are the server's and the client's. The service's name is
//! [`SERVICE`]; what a server may say about itself by reflection is [`DESCRIPTORS`].

#[allow(clippy::doc_markdown, clippy::large_enum_variant, reason = "made by a generator")]
pub mod messages;

/// The service by its full name, as it stands in paths.
pub const SERVICE: &str = "inference.GRPCInferenceService";

/// The encoded `FileDescriptorSet` of the service, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!("descriptors.bin");
