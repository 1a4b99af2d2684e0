//! Training with differential privacy: DP-SGD (Abadi et al. 2016) on any network of the lab.
//!
//! ```text
//!  rows ──sample──▶ a Poisson sample ──ghost──▶ Σ of clipped gradients ──noise──▶ (Σ + N(0, (σC)²)) / B ──▶ optimizer
//!          each with                  per row: g · min(1, C / (‖g‖ + 1e-6))
//!          probability q = B / n
//! ```
//!
//! Responsible for what one private step does, for which recipes keep the promise ([`Privacy::check`]) and for what a
//! record says of it ([`PrivacyRecord`]). Not responsible for what many steps spend ([`crate::lab::accountant`]) or
//! for the loop around the steps (`train`). What is promised and what is not: `docs/privacy.md`.
//!
//! The step differs from an ordinary one in four ways, and each is needed for the accountant's ε to hold: every row
//! enters a step independently of the others, so that batches vary and may be empty; each row's whole gradient, over
//! all layers together, is clipped to the norm `C`; the noise is drawn for the *sum*, at every step, the empty one too;
//! and the sum is divided by the *expected* batch size, which tells nothing about the sample.

mod config;
mod ghost;
mod gradients;
mod noise;
mod record;
pub mod reference;
mod sample;
#[cfg(test)]
mod tests;

pub use config::{Privacy, Terms, with_private_norm};
pub use ghost::{Clipped, clipped_sum};
pub use gradients::Gradients;
pub use noise::NoiseKey;
pub use record::PrivacyRecord;
pub(in crate::lab) use sample::poisson;
