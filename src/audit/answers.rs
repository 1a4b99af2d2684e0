//! What a system answered on the audit's rows, as an attacker reads it.

use ndarray::{Array2, ArrayView1};

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

    /// Number of rows.
    #[must_use]
    pub fn n_rows(&self) -> usize {
        self.predicted.len()
    }
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
