//! A defence that has been checked, and its application to a batch (R7).

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

use super::centroids::Fitted;
use super::config::{DefenceConfig, DefenceError, Gate, MAX_SERVED_WEIGHT, Method};
use super::defended::Defended;
use super::inlier::InlierIndex;
use super::label::keep;
use super::reweight::{blend, cosine, share};
use super::round::round;
use super::scores::{RawScores, ScoreKind, centre, label_of};
use super::softmax::{Entry, keep_all, keep_top, softmax_all, softmax_entries};

/// Why scores cannot be defended: they are not those that the defence was built for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DefendError {
    /// Another number of classes.
    #[error("expected scores over {expected} classes, got {got}")]
    Classes {
        /// Classes of the defence.
        expected: usize,
        /// Classes that came.
        got: usize,
    },
    /// Another kind of scores.
    #[error("expected {expected}, got {got}")]
    Kind {
        /// Kind of the defence.
        expected: ScoreKind,
        /// Kind that came.
        got: ScoreKind,
    },
}

/// A batch on its way through the rows, to be compiled for each set of vector instructions.
struct Batch<'a> {
    defence: &'a Defence,
    rows: &'a mut [f32],
    labels: &'a mut Vec<u32>,
    scratch: &'a mut Scratch,
}

impl pulp::WithSimd for Batch<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _instructions: S) {
        let Batch { defence, rows, labels, scratch } = self;
        for row in rows.chunks_exact_mut(defence.n_classes) {
            let label = label_of(row);
            defence.defend_row(row, label, scratch);
            labels.push(label as u32);
        }
    }
}

/// What is done to logits, with all that it needs.
enum Step {
    Reweight { fitted: Arc<Fitted>, weight: f64, gates: Option<Vec<f64>> },
    Inlier { index: InlierIndex, weight: f64 },
    LabelOnly,
    AsIs,
}

/// A checked defence for one model: settings, what they were fitted to, the kind and number of scores.
pub struct Defence {
    config: DefenceConfig,
    step: Step,
    kind: ScoreKind,
    n_classes: usize,
}

/// Buffers of one row.
#[derive(Default)]
struct Scratch {
    z: Vec<f64>,
    entries: Vec<Entry>,
}

thread_local! {
    /// One per thread, so that nothing is allocated per row (the inlier search aside).
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Defence {
    /// Builds a defence for scores of this kind over `n_classes` classes. `fitted` may be missing only for
    /// [`Method::LabelOnly`] and [`Method::AsIs`].
    ///
    /// # Errors
    /// The first [`DefenceError`] of the settings, or a mismatch between model and artifact.
    pub fn new(
        config: &DefenceConfig,
        fitted: Option<Arc<Fitted>>,
        kind: ScoreKind,
        n_classes: usize,
    ) -> Result<Self, DefenceError> {
        config.check().map_err(|mut wrong| wrong.swap_remove(0))?;
        if let Some(fitted) = &fitted {
            if fitted.n_classes() != n_classes {
                return Err(DefenceError::Classes { model: n_classes, artifact: fitted.n_classes() });
            }
            if fitted.kind() != kind {
                return Err(DefenceError::Kind { model: kind, artifact: fitted.kind() });
            }
        }
        let step = match config.method {
            Method::LabelOnly => Step::LabelOnly,
            Method::AsIs => Step::AsIs,
            Method::Reweight { weight, when } => {
                let fitted = fitted.ok_or(DefenceError::NeedsArtifact { method: "reweight" })?;
                let gates = match when {
                    Gate::Always => None,
                    Gate::DistanceAbove { quantile } => {
                        Some((0..n_classes).map(|class| fitted.quantiles().at(class, quantile)).collect())
                    }
                };
                Step::Reweight { fitted, weight, gates }
            }
            Method::Inlier { weight, quantile } => {
                let fitted = fitted.ok_or(DefenceError::NeedsArtifact { method: "inlier" })?;
                let index = InlierIndex::new(fitted.bank(), |class| fitted.quantiles().at(class, quantile))
                    .map_err(|class| DefenceError::NoInlier { class, quantile })?;
                Step::Inlier { index, weight }
            }
        };
        Ok(Self { config: config.clone(), step, kind, n_classes })
    }

    /// The settings it was built from.
    #[must_use]
    pub fn config(&self) -> &DefenceConfig {
        &self.config
    }

    /// Whether this defence may stand in front of clients.
    ///
    /// # Errors
    /// [`DefenceError::LetsRowsPass`] for a gate without rounding, [`DefenceError::KeepsScores`] for a weight above
    /// [`MAX_SERVED_WEIGHT`](super::MAX_SERVED_WEIGHT), [`DefenceError::MovesNothing`] for [`Method::AsIs`]. All can be audited all the same. Passing is no promise that
    /// the answers tell little: that is what the audit is for.
    pub fn check_served(&self) -> Result<(), DefenceError> {
        let (weight, gated) = match &self.step {
            Step::Reweight { weight, gates, .. } => (*weight, gates.is_some()),
            Step::Inlier { weight, .. } => (*weight, false),
            Step::LabelOnly => (0.0, false),
            Step::AsIs => return Err(DefenceError::MovesNothing),
        };
        if gated && self.config.digits.is_none() {
            return Err(DefenceError::LetsRowsPass);
        }
        if weight > MAX_SERVED_WEIGHT {
            return Err(DefenceError::KeepsScores { weight });
        }
        Ok(())
    }

    /// The kind of its scores.
    #[must_use]
    pub fn kind(&self) -> ScoreKind {
        self.kind
    }

    /// The number of classes of its scores.
    #[must_use]
    pub fn n_classes(&self) -> usize {
        self.n_classes
    }

    /// Defends a batch, in the order of R7. Shape `(n_rows, n_classes)` in and out.
    ///
    /// # Errors
    /// [`DefendError`] when the scores are not of the kind and number that this defence was built for.
    pub fn apply(&self, raw: RawScores) -> Result<Defended, DefendError> {
        if raw.n_classes() != self.n_classes {
            return Err(DefendError::Classes { expected: self.n_classes, got: raw.n_classes() });
        }
        if raw.kind() != self.kind {
            return Err(DefendError::Kind { expected: self.kind, got: raw.kind() });
        }
        let mut values = raw.into_values();
        let mut labels = Vec::with_capacity(values.nrows());
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.z.resize(self.n_classes, 0.0);
            let rows = values.as_slice_mut().unwrap_or(&mut []);
            // The widest vector registers of this machine: the same arithmetic, hence the same answers.
            pulp::Arch::new().dispatch(Batch { defence: self, rows, labels: &mut labels, scratch });
        });
        Ok(Defended::new(values, labels))
    }

    /// Replaces a row of scores by its defended probabilities.
    #[inline(always)]
    fn defend_row(&self, row: &mut [f32], label: usize, scratch: &mut Scratch) {
        if self.kind != ScoreKind::Logits {
            centre(row, self.kind);
        }
        if matches!(self.step, Step::LabelOnly) {
            row.fill(0.0);
            row[label] = 1.0;
            return;
        }
        let Scratch { z, entries } = scratch;
        self.move_logits(row, label, z);
        match (self.config.top_k.filter(|&k| k < row.len()), self.config.digits) {
            (None, None) => {
                softmax_all(z, label);
                row.iter_mut().zip(z).for_each(|(out, p)| *out = *p as f32);
                keep(row, label);
            }
            (top_k, digits) => {
                match top_k {
                    Some(k) => keep_top(z, label, k, entries),
                    None => keep_all(row.len(), entries),
                }
                softmax_entries(z, label, entries);
                match digits {
                    Some(digits) => round(entries, label, digits, row),
                    None => scatter(entries, label, row),
                }
            }
        }
    }

    /// `z'` of R4 or R9 into `out`.
    #[inline(always)]
    fn move_logits(&self, z: &[f32], label: usize, out: &mut [f64]) {
        match &self.step {
            Step::Reweight { fitted, weight, gates } => {
                let (centroid, norm) = fitted.centroids().of(label);
                let cosine = cosine(z, centroid, norm);
                let passes = gates.as_ref().is_none_or(|gates| 1.0 - cosine > gates[label]);
                blend(z, centroid, if passes { share(*weight, cosine) } else { 1.0 }, out);
            }
            Step::Inlier { index, weight } => {
                let inlier = index.nearest(z, label);
                let cosine = cosine(z, inlier, super::reweight::norm(inlier));
                blend(z, inlier, share(*weight, cosine), out);
            }
            Step::LabelOnly | Step::AsIs => blend(z, z, 1.0, out),
        }
    }
}

/// Writes the kept entries into a row of zeros, the label kept (R1).
#[inline(always)]
fn scatter(entries: &[Entry], label: usize, row: &mut [f32]) {
    row.fill(0.0);
    entries.iter().for_each(|&(j, p)| row[j as usize] = p as f32);
    let top = row[label];
    if entries.iter().any(|&(j, _)| (j as usize) < label && row[j as usize] >= top) {
        row[label] = top.next_up();
    }
}

impl fmt::Debug for Defence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Defence({}, {} classes, {})", self.config.summary(), self.n_classes, self.kind)
    }
}
