//! Sordino stands in front of a classifier, leaves the predicted label as it is, and softens what the scores
//! tell about who was in the training set.
//!
//! # The journey of a request
//!
//! ```text
//!  async: bytes                    sync: values, on a compute thread                     async: bytes
//!  read body (limit) ──▶  decode ──▶ infer ──▶ defend ──▶ encode  ──▶ write response
//!  take permit             Bytes     Inputs    RawScores   Defended     Bytes
//!                            └─────────────── ReplyPlan ─────────▲
//! ```
//!
//! Data flows one way. [`protocol`] turns bytes into [`tensor::Inputs`] and a reply plan; an engine turns
//! inputs into [`defence::RawScores`], which can be neither printed nor serialised; [`defence`] **consumes**
//! them and returns [`defence::Defended`], which no other module can build, and an encoder takes nothing else.
//! "Undefended scores cannot leave" is thus a fact of the types, with one door: `defence::offline`, for fitting and for the
//! audit, which `tests/layering.rs` keeps closed to the server, the protocols and the pipeline.
//!
//! # Layout
//!
//! | module | responsible for | may name |
//! | --- | --- | --- |
//! | [`tensor`] | inputs, shapes, element types | nothing of ours |
//! | [`defence`] | pure: raw scores to defended scores | nothing of ours |
//! | [`artifact`] | bytes on disk to checked values and back; digests | tensor, defence |
//! | [`protocol`] | bytes to calls and replies, sans-I/O | tensor, defence |
//! | `data` | labelled rows from files, splits | tensor |
//! | `engine` | inputs to raw scores | tensor, defence, artifact, protocol |
//! | `pipeline` | the journey above | all of the above |
//! | `client` | the only place that dials out | up to pipeline |
//! | `server` | the only place that listens | up to client |
//! | `audit` | attacks, metrics, report | up to client, not server |
//! | `lab` (feature) | training, ONNX export | up to audit, not server |
//! | `cli` | composition root, one file per command | all |
//!
//! `tests/layering.rs` holds this table and goes red when a path breaks it.

#![cfg_attr(not(test), forbid(unsafe_code))]

pub mod artifact;
pub mod defence;
pub mod protocol;
pub mod tensor;

#[cfg(feature = "serve")]
pub mod audit;
#[cfg(feature = "serve")]
pub mod cli;
#[cfg(feature = "serve")]
pub mod client;
#[cfg(feature = "serve")]
pub mod data;
#[cfg(feature = "serve")]
pub mod engine;
#[cfg(feature = "lab")]
pub mod lab;
#[cfg(feature = "serve")]
pub mod pipeline;
#[cfg(feature = "serve")]
pub mod server;
