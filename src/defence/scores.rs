//! Raw scores: what an engine hands over, sealed.

use std::fmt;

use ndarray::{Array2, Axis};
use serde::{Deserialize, Serialize};

use super::label::argmax;

/// The smallest probability that is told apart from zero (R2).
pub const PROBABILITY_FLOOR: f64 = 1e-12;

/// How far a row of declared probabilities may be from summing to 1 before the declaration is disbelieved.
const SUM_TOLERANCE: f64 = 1e-2;

/// What the numbers are in which a model ends (R2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScoreKind {
    /// Unnormalised scores, before any softmax.
    Logits,
    /// Non-negative, rows sum to 1.
    Probabilities,
    /// Natural logarithms of probabilities (a graph that ends in LogSoftmax).
    LogProbabilities,
}

impl ScoreKind {
    /// The kind in words, as artifacts and messages name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            ScoreKind::Logits => "logits",
            ScoreKind::Probabilities => "probabilities",
            ScoreKind::LogProbabilities => "log_probabilities",
        }
    }
}

impl fmt::Display for ScoreKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Undefended scores of shape `(n_rows, n_classes)`.
///
/// Cannot be serialised or read outside of this room; `Debug` prints the shape. Every value is finite (R8).
/// The one way out is [`Defence::apply`](super::Defence::apply), and for offline code
/// [`offline`](super::offline).
pub struct RawScores {
    values: Array2<f32>,
    kind: ScoreKind,
}

/// Why an engine's output is no score matrix. Holds positions, never values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScoresError {
    /// A score is NaN or infinite (R8).
    #[error("the model returned a non-finite score in row {row}")]
    NonFinite {
        /// The first such row.
        row: usize,
    },
    /// There is no class at all.
    #[error("the model returned scores over no class")]
    NoClasses,
    /// The scores were declared as (log-)probabilities, but a row is none.
    #[error("the model's output is declared as {kind}, but row {row} is no probability distribution")]
    NotProbabilities {
        /// What was declared.
        kind: ScoreKind,
        /// The first such row.
        row: usize,
    },
}

impl RawScores {
    /// Seals scores of shape `(n_rows, n_classes)`.
    ///
    /// # Errors
    /// [`ScoresError`] for a value that is not finite (R8; minus infinity counts as probability 0 where the kind
    /// is log-probabilities), for no classes, and for a row that is not what `kind` declares.
    pub fn new(mut values: Array2<f32>, kind: ScoreKind) -> Result<Self, ScoresError> {
        if values.ncols() == 0 {
            return Err(ScoresError::NoClasses);
        }
        if kind == ScoreKind::LogProbabilities {
            let floor = PROBABILITY_FLOOR.ln() as f32;
            values.mapv_inplace(|value| if value == f32::NEG_INFINITY { floor } else { value });
        }
        if !values.is_standard_layout() {
            values = values.as_standard_layout().into_owned();
        }
        for (row, scores) in values.rows().into_iter().enumerate() {
            if !scores.iter().all(|value| value.is_finite()) {
                return Err(ScoresError::NonFinite { row });
            }
            let total: f64 = match kind {
                ScoreKind::Logits => continue,
                ScoreKind::Probabilities if scores.iter().any(|&p| p < -1e-6) => f64::NAN,
                ScoreKind::Probabilities => scores.iter().map(|&p| f64::from(p)).sum(),
                ScoreKind::LogProbabilities => scores.iter().map(|&lp| f64::from(lp).exp()).sum(),
            };
            if (total - 1.0).abs() <= SUM_TOLERANCE {
                continue;
            }
            return Err(ScoresError::NotProbabilities { kind, row });
        }
        Ok(Self { values, kind })
    }

    /// The number of rows.
    #[must_use]
    pub fn n_rows(&self) -> usize {
        self.values.nrows()
    }

    /// The number of classes, at least 1.
    #[must_use]
    pub fn n_classes(&self) -> usize {
        self.values.ncols()
    }

    /// What the scores are.
    #[must_use]
    pub fn kind(&self) -> ScoreKind {
        self.kind
    }

    /// The scores of several calls that were run as one, each with its own rows, still sealed; `None` where the rows are
    /// not as many as those of the calls together.
    #[must_use]
    pub fn split(self, n_rows: &[usize]) -> Option<Vec<Self>> {
        if n_rows.iter().try_fold(0_usize, |all, &n| all.checked_add(n)) != Some(self.n_rows()) {
            return None;
        }
        let mut start = 0;
        let part = |&n: &usize| {
            let values = self.values.slice_axis(Axis(0), (start..start + n).into()).to_owned();
            start += n;
            Self { values, kind: self.kind }
        };
        Some(n_rows.iter().map(part).collect())
    }

    /// The rows of several parts that were run apart, one after the other, still sealed; `None` for no part, and for parts
    /// of different classes or kinds.
    #[must_use]
    pub fn joined(parts: &[Self]) -> Option<Self> {
        let kind = parts.first()?.kind;
        let views: Vec<_> = parts.iter().filter(|part| part.kind == kind).map(|part| part.values.view()).collect();
        let values = ndarray::concatenate(Axis(0), &views).ok().filter(|_| views.len() == parts.len())?;
        Some(Self { values, kind })
    }

    /// Whether a row is another's to the bit: all that is told of either.
    #[must_use]
    pub fn same_row(&self, row: usize, other: &Self, other_row: usize) -> bool {
        let bits = |scores: &Self, row: usize| -> Option<Vec<u32>> {
            (row < scores.n_rows()).then(|| scores.values.row(row).iter().map(|score| score.to_bits()).collect())
        };
        bits(self, row).is_some_and(|own| Some(own) == bits(other, other_row))
    }

    pub(super) fn values(&self) -> &Array2<f32> {
        &self.values
    }

    pub(super) fn into_values(self) -> Array2<f32> {
        self.values
    }

    /// The values as logits (R2), shape `(n_rows, n_classes)`: logits as they are; for the other kinds
    /// `ln max(p, 1e-12)` minus the row's mean.
    pub(super) fn into_logits(self) -> Array2<f32> {
        let mut values = self.values;
        if self.kind != ScoreKind::Logits {
            for mut row in values.rows_mut() {
                if let Some(row) = row.as_slice_mut() {
                    centre(row, self.kind);
                }
            }
        }
        values
    }
}

/// Turns a row of (log-)probabilities into logits of mean 0 (R2), in place.
pub(super) fn centre(row: &mut [f32], kind: ScoreKind) {
    let floor = PROBABILITY_FLOOR.ln();
    let log = |score: f32| match kind {
        ScoreKind::Probabilities => f64::from(score).max(PROBABILITY_FLOOR).ln(),
        ScoreKind::Logits | ScoreKind::LogProbabilities => f64::from(score).max(floor),
    };
    let mean = row.iter().map(|&score| log(score)).sum::<f64>() / row.len() as f64;
    for score in row {
        *score = (log(*score) - mean) as f32;
    }
}

/// The label of a row of scores of any kind: taking logarithms keeps the order, so the argmax is that of `z`.
#[inline(always)]
pub(super) fn label_of(scores: &[f32]) -> usize {
    argmax(scores)
}

impl fmt::Debug for RawScores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RawScores({} rows × {} classes, {})", self.n_rows(), self.n_classes(), self.kind)
    }
}
