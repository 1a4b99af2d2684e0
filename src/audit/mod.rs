//! The audit: what a system's answers tell about who was in the training set, and what they cost.
//!
//! Members and non-members go through the **same** pipeline as in service (R13); scores are collected once and
//! every defence is applied to them, so what is measured is what is served. The flow, one type to the next:
//!
//! ```text
//! Pipeline + Dataset + Split ─▶ Target ─▶ Answers (per System) ─▶ scores (per Attack) ─▶ Findings ─▶ Report ─▶ tables, JSON
//! ```
//!
//! - [`target`]: the rows: members, non-members and calibration rows, with the model's own scores still sealed;
//! - [`source`]: where answers come from: the pipeline that serves, a running endpoint, a file of predictions;
//! - [`system`]: what is compared: the undefended model, its temperature-scaled rival (R15), defences, label-only;
//! - [`attack`]: an answer to a number that is higher for members;
//! - [`invert`]: the attacker who knows the defence, and what it recovers;
//! - [`thresholds`], [`learned`]: thresholds per class, and classifiers trained on answers (ML-Leaks' adversaries);
//! - [`shadow`]: LiRA, RMIA and calibrated attacks by models that the attacker trained, the defence before them too;
//! - [`label_only`], [`adaptive`]: attacks that ask again: changed, repeated, mixed inputs; letters of ties;
//! - [`asked`]: mixtures and repeated questions, asked of every system at once;
//! - [`lot`]: whether members and non-members differ without any model;
//! - [`exact`], [`spread`]: exact bounds, predictive values, a lower bound on ε; figures over several targets;
//! - [`roc`], [`null`], [`band`], [`fixed`], [`interval`]: the statistics of R12, exact under ties, seeded, with intervals;
//! - [`utility`], [`temperature`]: accuracy, NLL, ECE, labels kept;
//! - [`study`]: all of it put together on the rows of [`rows`] (R17), against the label-only floor (R14);
//! - [`duplicates`]: rows that stand on both sides; [`enough`]: whether there are enough of them;
//! - [`analysis`], [`pictures`]: the paper's figures 2 and 3, with their controls;
//! - [`standing`]: whether a leak is seen, and where a system stands against the floor;
//! - [`records`]: a line for each record;
//! - [`policy`]: limits, held against the intervals of a report;
//! - [`report`], [`render`], [`html`]: what was found, as JSON, as tables and as a page, with what was *not* tried ([`tried`]).
//!
//! It is not a proof: the headline is the strongest of the attacks that were run and that work on the undefended
//! model (R16), which is a lower bound on what an attacker can do. It is the only room beside the fitting and
//! measuring commands that opens undefended scores (`defence::offline`), and it never serves anything.

pub mod adaptive;
pub mod analysis;
pub mod answers;
pub mod asked;
pub mod attack;
pub mod band;
pub mod collect;
pub mod duplicates;
pub mod enough;
pub mod exact;
pub mod fixed;
pub mod html;
pub mod interval;
pub mod invert;
pub mod label_only;
pub mod learned;
pub mod lot;
pub mod null;
mod parallel;
pub mod pictures;
pub mod policy;
pub mod records;
pub mod render;
pub mod report;
pub mod roc;
pub mod rows;
pub mod shadow;
pub mod source;
pub mod spread;
pub mod standing;
pub mod study;
pub mod system;
pub mod target;
pub mod temperature;
pub mod thresholds;
pub mod tried;
pub mod utility;
mod words;
