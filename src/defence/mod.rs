//! The defence: raw scores in, defended scores out. Pure: no files, sockets, clocks, logs, randomness.
//!
//! A row's logits are `z` (shape `(n_classes)`), its label `ŷ` is their argmax. [`Defence::apply`] consumes
//! [`RawScores`] and returns [`Defended`], in the order of R7: scores to logits (R2), one of
//! {[`Method::Reweight`] (R4), [`Method::Inlier`] (R9), [`Method::LabelOnly`]}, softmax, mask (R5), round (R6),
//! keep the label (R1). All arithmetic is in f64; what is emitted is f32.
//!
//! What a caller can rely on, for any finite scores:
//! - every emitted value is finite and ≥ 0, each row sums to 1 within 1e-6;
//! - the argmax of the emitted f32 row (ties: lowest index) is the argmax of the scores (R1);
//! - nothing outside R5's kept set is non-zero;
//! - a row's answer depends on that row alone, and on nothing but its scores.
//!
//! What this room is not: it says nothing about who asked or how often, and none of its methods is a privacy
//! guarantee. Reweighting can be inverted by who knows the centroids, masked or not: each kept pair of classes tells its
//! own equation. Without a gate, 2 digits (R6) stood at the label-only floor against the inversion that was tried
//! (`docs/evidence/README.md`); that is a measurement on three models, and no bound.
//!
//! The paper is "Membership Inference Attacks Beyond Overfitting" (arXiv 2511.16792).
//!
//! # Undefended scores cannot leave
//!
//! [`RawScores`] has no serialiser, its `Debug` prints a shape, and [`Defended`] has no public constructor:
//!
//! ```compile_fail,E0277
//! let raw = sordino::defence::RawScores::new(
//!     ndarray::array![[1.0_f32, 0.0]], sordino::defence::ScoreKind::Logits).unwrap();
//! serde_json::to_string(&raw).unwrap(); // RawScores is not Serialize
//! ```
//! ```compile_fail,E0616
//! let raw = sordino::defence::RawScores::new(
//!     ndarray::array![[1.0_f32, 0.0]], sordino::defence::ScoreKind::Logits).unwrap();
//! let values = raw.values; // private, and there is no getter
//! ```
//! ```compile_fail,E0451
//! let forged = sordino::defence::Defended { // private fields
//!     probabilities: ndarray::array![[1.0_f32, 0.0]], labels: vec![0] };
//! ```
//! ```compile_fail,E0277
//! let raw = sordino::defence::RawScores::new(
//!     ndarray::array![[1.0_f32, 0.0]], sordino::defence::ScoreKind::Logits).unwrap();
//! let defended: sordino::defence::Defended = raw.into(); // no conversion goes around the defence
//! ```
//! The same lines compile when they go through the defence:
//! ```
//! use sordino::defence::{Defence, DefenceConfig, Method, RawScores, ScoreKind};
//! let raw = RawScores::new(ndarray::array![[1.0_f32, 0.0]], ScoreKind::Logits).unwrap();
//! assert_eq!(format!("{raw:?}"), "RawScores(1 rows × 2 classes, logits)");
//! let config = DefenceConfig { method: Method::LabelOnly, top_k: None, digits: None };
//! let defence = Defence::new(&config, None, ScoreKind::Logits, 2).unwrap();
//! assert_eq!(defence.apply(raw).unwrap().labels(), [0]);
//! ```

mod apply;
mod centroids;
mod config;
mod defended;
mod fit;
mod inlier;
mod label;
pub mod offline;
mod reweight;
mod round;
mod scores;
mod softmax;

#[cfg(test)]
mod tests;

pub use apply::{Defence, DefendError};
pub use centroids::{CentroidError, Centroids, DistanceQuantiles, Fitted, N_QUANTILES};
pub use config::{DefenceConfig, DefenceError, Gate, MAX_DIGITS, MAX_SERVED_WEIGHT, Method};
pub use defended::{Defended, Form, LOG_FLOOR};
pub use fit::{CentroidSums, ClassFallback, quantiles_of};
pub use inlier::{Bank, BankError};
pub use scores::{PROBABILITY_FLOOR, RawScores, ScoreKind, ScoresError};
