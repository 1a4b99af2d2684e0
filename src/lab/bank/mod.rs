//! Many models from one pool of rows.
//!
//! ```text
//!  Design + Pool + seed ──▶ Inclusion ──▶ Plan ──▶ models, k at a time or shard by shard ──▶ merge ──▶ Bank
//!                          who trains    written       each resumable, each with its record           manifest
//!                          which model   first
//! ```
//!
//! Responsible for dealing rows to models, for the folder or object store that a bank lies in, for training what is
//! missing of it, and for what is made of banks: ensembles, distilled students, models that can forget. Not
//! responsible for how one model is trained ([`crate::lab::train`]), nor for attacks, which read banks as files.

pub mod answers;
pub mod boost;
pub mod boost_run;
#[cfg(feature = "cloud")]
mod cloud;
pub mod distil;
pub mod ensemble;
pub mod forget;
pub mod inclusion;
pub mod matrix_file;
pub mod member;
pub mod merge;
pub mod pairs;
pub mod place;
pub mod plan;
pub mod run;
pub mod slices;
pub mod stack;
#[cfg(test)]
mod tests;
pub mod trainer;
