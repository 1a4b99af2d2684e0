//! Defended scores: the only thing that an encoder takes.

use std::fmt;

use ndarray::{Array2, ArrayView2};
use serde::{Deserialize, Serialize};

use super::label::keep;

/// The floor of emitted log-probabilities, ln 1e-12 as f32: finite, so that JSON can carry it (R2).
pub const LOG_FLOOR: f32 = -27.631_021;

/// The two forms in which defended scores are emitted (R2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// Probabilities.
    Probabilities,
    /// Natural logarithms of the probabilities, floored at [`LOG_FLOOR`].
    LogProbabilities,
}

impl Form {
    /// The form in words, as metadata names it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Form::Probabilities => "probabilities",
            Form::LogProbabilities => "log_probabilities",
        }
    }
}

/// Defended scores of shape `(n_rows, n_classes)`, with the label of each row.
///
/// Built by this room alone, from [`RawScores`](super::RawScores). `Debug` prints the shape.
pub struct Defended {
    probabilities: Array2<f32>,
    labels: Vec<u32>,
}

impl Defended {
    pub(super) fn new(probabilities: Array2<f32>, labels: Vec<u32>) -> Self {
        Self { probabilities, labels }
    }

    /// The probabilities, shape `(n_rows, n_classes)`; rows sum to 1 within 1e-6.
    #[must_use]
    pub fn probabilities(&self) -> ArrayView2<'_, f32> {
        self.probabilities.view()
    }

    /// The natural logarithms of the probabilities, shape `(n_rows, n_classes)`, floored at [`LOG_FLOOR`]; the
    /// label is kept here as well (R1).
    #[must_use]
    pub fn log_probabilities(&self) -> Array2<f32> {
        let mut logs =
            self.probabilities.mapv(|p| if p > 0.0 { (f64::from(p).ln() as f32).max(LOG_FLOOR) } else { LOG_FLOOR });
        for (mut row, &label) in logs.rows_mut().into_iter().zip(&self.labels) {
            if let Some(row) = row.as_slice_mut() {
                keep(row, label as usize);
            }
        }
        logs
    }

    /// The label `ŷ` of each row.
    #[must_use]
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// The number of rows.
    #[must_use]
    pub fn n_rows(&self) -> usize {
        self.probabilities.nrows()
    }

    /// The number of classes.
    #[must_use]
    pub fn n_classes(&self) -> usize {
        self.probabilities.ncols()
    }
}

impl fmt::Debug for Defended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Defended({} rows × {} classes)", self.n_rows(), self.n_classes())
    }
}
