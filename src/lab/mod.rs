//! The offline side: trains classifiers with burn and exports them as ONNX.
//!
//! ```text
//!  Dataset + Split ──▶ Training ──▶ Trained ──▶ NAME.onnx, NAME.json, NAME.split.json, NAME.md
//!                        │    ▲
//!        Ctrl-C, a file ◀┘    └─ the same file, with --resume
//! ```
//!
//! Responsible for the networks, the training loop, checkpoints, the ONNX graph and the record of a run. Not
//! responsible for reading data ([`crate::data`]), for fitting centroids, or for anything that is served: the
//! online side learns of a trained network through the ONNX file alone, and no burn type leaves this room.
//!
//! Everything random (initial weights, the order of the rows) comes from a seed that is an argument, through
//! `ChaCha8Rng` and never through burn's global generator. On one machine the same recipe gives the same ONNX
//! bytes; another processor may add in another order and so differ in the last bits.

pub mod accountant;
pub mod autodiff;
pub mod bank;
mod card;
pub mod checkpoint;
pub mod device;
pub mod dp;
pub mod network;
pub mod onnx;
pub mod plot;
pub mod recipe;
pub mod record;
pub mod run;
pub mod streams;
pub mod train;

/// What every tensor of the lab lives on: the device is a value that is chosen at run time.
pub type Compute = burn::Dispatch;
