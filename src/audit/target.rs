//! The target's scores on the audit's rows: collected once, kept sealed.

use ndarray::{Array2, Axis, concatenate};

use crate::audit::answers::Allows;
use crate::audit::enough::{self, TooFewRows};
use crate::defence::offline;
use crate::defence::{RawScores, ScoreKind};
use crate::engine::EngineError;
use crate::tensor::InputError;

/// Why a target cannot be attacked.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// A side has fewer rows than the audit can do with.
    #[error(transparent)]
    TooFewRows(#[from] TooFewRows),
    /// A label is not among the model's classes.
    #[error("row {row} of the data has label {label}, the model has {n_classes} classes")]
    Label {
        /// Row of the data set.
        row: usize,
        /// Its label.
        label: u32,
        /// Number of classes of the model.
        n_classes: usize,
    },
    /// All rows are of one class: nothing can be told about answers to the others.
    #[error("all {n_rows} rows are of class {label}: the audit needs rows of two classes at least")]
    OneClass {
        /// Number of rows.
        n_rows: usize,
        /// The class.
        label: u32,
    },
    /// Batches and labels are not of the same rows, or the batches are not of one kind.
    #[error("the scores do not fit the rows: {what}")]
    Mismatch {
        /// What differs.
        what: String,
    },
    /// The model takes several inputs; rows of a data set are one.
    #[error("the model takes {n_inputs} inputs, a row of a data set fills one")]
    Inputs {
        /// Number of inputs of the model.
        n_inputs: usize,
    },
    /// The rows are not of the shape of the model's input.
    #[error("the rows do not fit the model: {0}")]
    Rows(InputError),
    /// A batch could not be answered.
    #[error("rows {first} to {last} of the audit could not be answered: {error}")]
    Refused {
        /// First row of the batch, in the audit's table.
        first: usize,
        /// Last row of the batch.
        last: usize,
        /// What the engine said.
        error: EngineError,
    },
}

// Not `#[from]` and no field named `source`: the sentence holds its cause already, and whoever prints the chain would
// print it twice.
impl From<InputError> for TargetError {
    fn from(error: InputError) -> Self {
        Self::Rows(error)
    }
}

/// The audit's rows: true labels, membership, and, where the model's own scores are at hand, those, still sealed.
///
/// Rows are members (the split's `train`), then non-members (`test`); the calibration rows stand apart.
pub struct Target {
    batches: Vec<RawScores>,
    labels: Vec<u32>,
    n_members: usize,
    n_classes: usize,
    kind: ScoreKind,
    allows: Allows,
    calibration_logits: Array2<f32>,
    calibration_labels: Vec<u32>,
    dataset_rows: Vec<usize>,
}

impl Target {
    /// Puts a target together from sealed scores: `batches` in row order, members first, with `labels` for each
    /// row; and the calibration rows with theirs (may be empty: then there is no temperature).
    ///
    /// # Errors
    /// [`TargetError::TooFewRows`] as [`enough::check`] tells, [`TargetError::OneClass`],
    /// [`TargetError::Mismatch`] where rows, classes or kinds differ, [`TargetError::Label`].
    pub fn new(
        batches: Vec<RawScores>,
        labels: Vec<u32>,
        n_members: usize,
        calibration: (Vec<RawScores>, Vec<u32>),
    ) -> Result<Self, TargetError> {
        let (calibration_batches, calibration_labels) = calibration;
        let (kind, n_classes) = batches.first().map_or((ScoreKind::Logits, 0), |raw| (raw.kind(), raw.n_classes()));
        for raw in batches.iter().chain(&calibration_batches) {
            if (raw.kind(), raw.n_classes()) != (kind, n_classes) {
                let what = format!("a batch of {} {}, expected {n_classes} {kind}", raw.n_classes(), raw.kind());
                return Err(TargetError::Mismatch { what });
            }
        }
        for (batches, labels) in [(&batches, &labels), (&calibration_batches, &calibration_labels)] {
            let n_rows: usize = batches.iter().map(RawScores::n_rows).sum();
            if n_rows != labels.len() {
                return Err(TargetError::Mismatch {
                    what: format!("{n_rows} rows of scores, {} labels", labels.len()),
                });
            }
            if let Some(row) = labels.iter().position(|&label| label as usize >= n_classes) {
                return Err(TargetError::Label { row, label: labels[row], n_classes });
            }
        }
        let allows = Allows { logits: true, ..Allows::SCORES };
        let rows = Self::answered(labels, n_members, n_classes, allows)?;
        let calibration_logits = open(&calibration_batches, n_classes);
        Ok(Self { batches, kind, calibration_logits, calibration_labels, ..rows })
    }

    /// Rows without sides: answers of systems to them can be computed, and no attack can be judged on them.
    ///
    /// # Errors
    /// [`TargetError::Mismatch`] where there is not a label for each row of scores.
    pub fn unsided(batches: Vec<RawScores>, labels: Vec<u32>) -> Result<Self, TargetError> {
        let n_rows: usize = batches.iter().map(RawScores::n_rows).sum();
        if n_rows != labels.len() {
            return Err(TargetError::Mismatch { what: format!("{n_rows} rows of scores, {} labels", labels.len()) });
        }
        let (kind, n_classes) = batches.first().map_or((ScoreKind::Logits, 0), |raw| (raw.kind(), raw.n_classes()));
        Ok(Self {
            n_classes,
            kind,
            calibration_logits: Array2::zeros((0, n_classes)),
            batches,
            dataset_rows: (0..labels.len()).collect(),
            labels,
            n_members: 0,
            allows: Allows { logits: true, ..Allows::SCORES },
            calibration_labels: Vec::new(),
        })
    }

    /// Rows whose answers come from elsewhere (an endpoint, a file): members first, with `labels` for each row. The
    /// model's own scores are not there, whatever `allows` says of queries and shadows.
    ///
    /// # Errors
    /// [`TargetError::TooFewRows`], [`TargetError::Label`], [`TargetError::OneClass`].
    pub fn answered(labels: Vec<u32>, n_members: usize, n_classes: usize, allows: Allows) -> Result<Self, TargetError> {
        enough::check(n_members, labels.len().saturating_sub(n_members), enough::LEVEL)?;
        if let Some(row) = labels.iter().position(|&label| label as usize >= n_classes) {
            return Err(TargetError::Label { row, label: labels[row], n_classes });
        }
        if labels.iter().all(|&label| label == labels[0]) {
            return Err(TargetError::OneClass { n_rows: labels.len(), label: labels[0] });
        }
        Ok(Self {
            batches: Vec::new(),
            dataset_rows: (0..labels.len()).collect(),
            labels,
            n_members,
            n_classes,
            kind: ScoreKind::Probabilities,
            allows,
            calibration_logits: Array2::zeros((0, n_classes)),
            calibration_labels: Vec::new(),
        })
    }

    /// The same rows with their numbers in the data set that they come from, one for each row.
    #[must_use]
    pub fn with_dataset_rows(self, dataset_rows: Vec<usize>) -> Self {
        debug_assert_eq!(dataset_rows.len(), self.labels.len());
        Self { dataset_rows, ..self }
    }

    /// What the source of the answers allows.
    #[must_use]
    pub fn allows(&self) -> Allows {
        self.allows
    }

    /// Number of rows, calibration rows not counted.
    #[must_use]
    pub fn n_rows(&self) -> usize {
        self.labels.len()
    }

    /// Number of members: the first rows.
    #[must_use]
    pub fn n_members(&self) -> usize {
        self.n_members
    }

    /// Number of classes.
    #[must_use]
    pub fn n_classes(&self) -> usize {
        self.n_classes
    }

    /// What the model ends in (R2), or what its answers are.
    #[must_use]
    pub fn kind(&self) -> ScoreKind {
        self.kind
    }

    /// True label of each row.
    #[must_use]
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// For each row its number in the data set.
    #[must_use]
    pub fn dataset_rows(&self) -> &[usize] {
        &self.dataset_rows
    }

    /// The logits (R2) of the calibration rows, shape (n_rows, n_classes), and their labels.
    #[must_use]
    pub fn calibration(&self) -> (&Array2<f32>, &[u32]) {
        (&self.calibration_logits, &self.calibration_labels)
    }

    /// The logits (R2) of all rows, shape (n_rows, n_classes); no rows where the model's own scores are not there.
    #[must_use]
    pub fn logits(&self) -> Array2<f32> {
        open(&self.batches, self.n_classes())
    }

    /// Sealed copies of the batches, in row order: what a defence consumes.
    pub fn batches(&self) -> impl Iterator<Item = RawScores> {
        self.batches.iter().map(offline::copy)
    }
}

fn open(batches: &[RawScores], n_classes: usize) -> Array2<f32> {
    let opened: Vec<Array2<f32>> = batches.iter().map(|raw| offline::logits(offline::copy(raw))).collect();
    let views: Vec<_> = opened.iter().map(|batch| batch.view()).collect();
    // Fails only without batches: all have n_classes columns.
    concatenate(Axis(0), &views).unwrap_or_else(|_| Array2::zeros((0, n_classes)))
}
