//! Fitting, as a stream: sums of logits by true label (R3) and quantiles of distances.
//!
//! Pure accumulators: whoever reads training rows and runs the model feeds them.

use ndarray::Array2;

use super::centroids::{CentroidError, Centroids, N_QUANTILES};
use super::label::{argmax, is_strictly_largest};

/// Which rows make a centroid (R3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClassFallback {
    /// The paper's: all rows whose true label is the class; refuse when the result is not largest at its class.
    #[default]
    Refuse,
    /// For a class where that fails: only the rows of the class that are also predicted as it.
    CorrectRows,
}

/// Streaming sums of logits, by true label, in f64.
#[derive(Debug, Clone)]
pub struct CentroidSums {
    n_classes: usize,
    all: Array2<f64>,
    n_all: Vec<u64>,
    correct: Array2<f64>,
    n_correct: Vec<u64>,
}

impl CentroidSums {
    /// Empty sums over `n_classes` classes.
    #[must_use]
    pub fn new(n_classes: usize) -> Self {
        let zeros = Array2::zeros((n_classes, n_classes));
        let none = vec![0; n_classes];
        Self { n_classes, all: zeros.clone(), n_all: none.clone(), correct: zeros, n_correct: none }
    }

    /// Adds one training row's logits (shape `(n_classes)`) under its true label.
    ///
    /// # Errors
    /// [`CentroidError::Row`] when the number of logits or the label does not fit.
    pub fn add(&mut self, logits: &[f32], true_label: usize) -> Result<(), CentroidError> {
        if logits.len() != self.n_classes || true_label >= self.n_classes {
            return Err(CentroidError::Row { expected: self.n_classes, got: logits.len(), label: true_label });
        }
        let add = |sums: &mut Array2<f64>, counts: &mut Vec<u64>| {
            counts[true_label] += 1;
            for (sum, &logit) in sums.row_mut(true_label).iter_mut().zip(logits) {
                *sum += f64::from(logit);
            }
        };
        add(&mut self.all, &mut self.n_all);
        if argmax(logits) == true_label {
            add(&mut self.correct, &mut self.n_correct);
        }
        Ok(())
    }

    /// Rows seen per true class.
    #[must_use]
    pub fn rows_per_class(&self) -> &[u64] {
        &self.n_all
    }

    /// The checked centroids (R3), and for each class whether the fallback made it.
    ///
    /// # Errors
    /// [`CentroidError`] naming the class that has no rows, or whose centroid is not largest at its class and
    /// `fallback` does not help.
    pub fn finish(&self, fallback: ClassFallback, labels: &[String]) -> Result<(Centroids, Vec<bool>), CentroidError> {
        let mean = |sums: &Array2<f64>, counts: &[u64], class: usize| -> Vec<f32> {
            sums.row(class).iter().map(|sum| (sum / counts[class] as f64) as f32).collect()
        };
        let name = |class: usize| labels.get(class).cloned().unwrap_or_default();
        let mut values = Array2::zeros((self.n_classes, self.n_classes));
        let mut fell_back = vec![false; self.n_classes];
        for (class, fell_back) in fell_back.iter_mut().enumerate() {
            if self.n_all[class] == 0 {
                return Err(CentroidError::NoRows { class, name: name(class) });
            }
            let mut centroid = mean(&self.all, &self.n_all, class);
            if fallback == ClassFallback::CorrectRows && !is_strictly_largest(&centroid, class) {
                if self.n_correct[class] == 0 {
                    return Err(CentroidError::NoCorrectRows { class, name: name(class) });
                }
                centroid = mean(&self.correct, &self.n_correct, class);
                *fell_back = true;
            }
            values.row_mut(class).assign(&ndarray::aview1(&centroid));
        }
        Ok((Centroids::new(values, labels)?, fell_back))
    }
}

/// The quantiles 0, 0.01, …, 1 of some distances, by linear interpolation between order statistics; zeros when
/// there is none. Clamped to [0, 2], the range of a cosine distance. Sorts `distances`.
#[must_use]
pub fn quantiles_of(distances: &mut [f32]) -> [f32; N_QUANTILES] {
    let mut table = [0.0; N_QUANTILES];
    if distances.is_empty() {
        return table;
    }
    distances.sort_unstable_by(f32::total_cmp);
    let last = distances.len() - 1;
    for (step, quantile) in table.iter_mut().enumerate() {
        let position = last as f64 * step as f64 / (N_QUANTILES - 1) as f64;
        let low = position.floor() as usize;
        let high = (low + 1).min(last);
        let (a, b) = (f64::from(distances[low]), f64::from(distances[high]));
        *quantile = ((a + (b - a) * (position - low as f64)) as f32).clamp(0.0, 2.0);
    }
    for step in 1..N_QUANTILES {
        table[step] = table[step].max(table[step - 1]);
    }
    table
}
