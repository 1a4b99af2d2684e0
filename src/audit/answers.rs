//! What a system answered on the audit's rows, as an attacker reads it, and what a source of answers allows.

use ndarray::{Array2, ArrayView1};
use serde::Serialize;

use crate::defence::ScoreKind;

/// Answers of one system: probabilities of shape (n_rows, n_classes) and the label that each carries.
///
/// A defended system's probabilities are the emitted f32 values, read as f64. An undefended one's are computed in
/// f64 from the scores: an endpoint that answers with logits gives all of that away.
#[derive(Clone)]
pub struct Answers {
    /// Probabilities, shape (n_rows, n_classes).
    pub probabilities: Array2<f64>,
    /// The label of each row that a client would read off: the argmax, ties to the lowest index (R1).
    pub predicted: Vec<u32>,
}

impl Answers {
    /// Reads the label off the probabilities themselves.
    #[must_use]
    pub fn new(probabilities: Array2<f64>) -> Self {
        let predicted = probabilities.rows().into_iter().map(argmax).collect();
        Self { probabilities, predicted }
    }

    /// Answers of finite scores (n_rows, n_classes), in f64: what `kind` says, as probabilities.
    #[must_use]
    pub fn of_scores(scores: Array2<f64>, kind: ScoreKind) -> Self {
        let predicted = scores.rows().into_iter().map(argmax).collect();
        let probabilities = match kind {
            ScoreKind::Probabilities => scores,
            ScoreKind::LogProbabilities => scores.mapv(f64::exp),
            ScoreKind::Logits => softmax(scores),
        };
        Self { probabilities, predicted }
    }

    /// Answers that hold a label and nothing else: probability 1 for it. Labels must be below `n_classes`.
    #[must_use]
    pub fn of_labels(predicted: Vec<u32>, n_classes: usize) -> Self {
        let mut probabilities = Array2::zeros((predicted.len(), n_classes));
        for (row, &label) in predicted.iter().enumerate() {
            probabilities[(row, label as usize)] = 1.0;
        }
        Self { probabilities, predicted }
    }

    /// One system's answers to several batches, one after the other; no rows where their widths differ.
    #[must_use]
    pub fn joined(parts: &[Answers]) -> Self {
        let views: Vec<_> = parts.iter().map(|part| part.probabilities.view()).collect();
        match ndarray::concatenate(ndarray::Axis(0), &views) {
            Ok(probabilities) => Self {
                probabilities,
                predicted: parts.iter().flat_map(|part| part.predicted.iter().copied()).collect(),
            },
            Err(_) => Self { probabilities: Array2::zeros((0, 0)), predicted: Vec::new() },
        }
    }

    /// Number of rows.
    #[must_use]
    pub fn n_rows(&self) -> usize {
        self.predicted.len()
    }
}

/// What a source of answers allows an attacker to do; also what an attack needs of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Allows {
    /// Answers hold a score for each class, and not the label alone.
    pub scores: bool,
    /// The model's own scores are there, so that defences can be applied to them here.
    pub logits: bool,
    /// More questions can be asked: the same rows again, or changed inputs.
    pub queries: bool,
    /// Shadow models are there.
    pub shadows: bool,
}

impl Allows {
    /// The label of each row and nothing else.
    pub const LABELS: Self = Self { scores: false, logits: false, queries: false, shadows: false };
    /// One answer of scores a row.
    pub const SCORES: Self = Self { scores: true, ..Self::LABELS };

    /// What of `needs` is not there, in words; `None` where all of it is.
    #[must_use]
    pub fn lacks(&self, needs: &Self) -> Option<String> {
        let all = [
            (self.scores, needs.scores, "a score for each class"),
            (self.logits, needs.logits, "the model's own scores"),
            (self.queries, needs.queries, "answers to further questions"),
            (self.shadows, needs.shadows, "shadow models"),
        ];
        let missing: Vec<&str> =
            all.into_iter().filter(|(there, needed, _)| *needed && !there).map(|(_, _, words)| words).collect();
        (!missing.is_empty()).then(|| missing.join(", "))
    }
}

fn softmax(mut z: Array2<f64>) -> Array2<f64> {
    for mut row in z.rows_mut() {
        let top = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        row.mapv_inplace(|z| (z - top).exp());
        let sum = row.sum();
        row.mapv_inplace(|p| p / sum);
    }
    z
}

/// R1: the index of the largest value, ties to the lowest index; 0 for an empty row.
#[must_use]
pub fn argmax<T: PartialOrd + Copy>(row: ArrayView1<'_, T>) -> u32 {
    let mut best = 0;
    for (index, &value) in row.iter().enumerate() {
        if value > row[best] {
            best = index;
        }
    }
    best as u32
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    #[test]
    fn ties_go_to_the_lowest_index() {
        assert_eq!(Answers::new(array![[0.2, 0.4, 0.4], [0.5, 0.5, 0.0]]).predicted, vec![1, 0]);
    }
}
