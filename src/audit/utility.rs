//! What an honest client gets: accuracy, negative log-likelihood, calibration error, labels kept.
//!
//! NLL and ECE are of non-members alone (R13): a member's answer is what a defence may spoil.

use ndarray::Array2;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::audit::answers::Answers;
use crate::audit::interval::{Estimate, quantile};
use crate::audit::parallel;

/// Probabilities below this are read as this in the NLL: the floor of served log-probabilities (R2).
pub const PROBABILITY_FLOOR: f64 = 1e-12;

/// Number of bins of the calibration error.
pub const N_ECE_BINS: usize = 15;

/// Share of `rows` whose label is right; `None` without rows.
#[must_use]
pub fn accuracy(answers: &Answers, labels: &[u32], rows: &[usize]) -> Option<f64> {
    let right = rows.iter().filter(|&&row| answers.predicted[row] == labels[row]).count();
    (!rows.is_empty()).then(|| right as f64 / rows.len() as f64)
}

/// `−ln p_y` of each of `rows`, the probability floored at 1e-12, and how many rows were below that floor.
#[must_use]
pub fn negative_log_likelihoods(answers: &Answers, labels: &[u32], rows: &[usize]) -> (Vec<f64>, usize) {
    let of_label = |row: usize| answers.probabilities[(row, labels[row] as usize)];
    let n_floored = rows.iter().filter(|&&row| of_label(row) < PROBABILITY_FLOOR).count();
    (rows.iter().map(|&row| -of_label(row).max(PROBABILITY_FLOOR).ln()).collect(), n_floored)
}

/// Brier score of each of `rows`: `Σ_j (p_j − [j = y])²`, between 0 and 2.
#[must_use]
pub fn brier_scores(answers: &Answers, labels: &[u32], rows: &[usize]) -> Vec<f64> {
    let of_row = |&row: &usize| {
        let truth = |class: usize| f64::from(u8::from(class == labels[row] as usize));
        answers.probabilities.row(row).iter().enumerate().map(|(class, p)| (p - truth(class)).powi(2)).sum()
    };
    rows.iter().map(of_row).collect()
}

/// [`expected_calibration_error`] with a percentile bootstrap interval over rows; 0 without rows. A resample's
/// error is on average larger than the sample's (noise never cancels in an absolute value), so the interval lies
/// rather high.
#[must_use]
pub fn calibration_error(
    answers: &Answers,
    labels: &[u32],
    rows: &[usize],
    n_resamples: usize,
    seed: u64,
    level: f64,
) -> Estimate {
    let value = expected_calibration_error(answers, labels, rows).unwrap_or_default();
    // Sorted once: a resample of positions needs no comparison of floats again.
    let mut graded = graded(answers, labels, rows);
    graded.sort_by(|a, b| a.0.total_cmp(&b.0));
    let draw = |index: usize| {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(index as u64);
        let mut counts = vec![0_u32; graded.len()];
        (0..graded.len()).for_each(|_| counts[rng.random_range(0..graded.len())] += 1);
        let each = graded.iter().zip(&counts);
        let drawn: Vec<(f64, bool)> = each.flat_map(|(&row, &n)| std::iter::repeat_n(row, n as usize)).collect();
        binned_error(&drawn)
    };
    if graded.is_empty() || n_resamples == 0 {
        return Estimate { value, low: value, high: value };
    }
    let mut draws = parallel::map(n_resamples, draw);
    draws.sort_by(f64::total_cmp);
    let at = |q: f64| quantile(&draws, q);
    Estimate { value, low: at((1.0 - level) / 2.0).min(value), high: at(f64::midpoint(1.0, level)).max(value) }
}

/// Confidence of the label of each row, and whether it is right.
fn graded(answers: &Answers, labels: &[u32], rows: &[usize]) -> Vec<(f64, bool)> {
    let of_row = |&row: &usize| {
        let predicted = answers.predicted[row];
        (answers.probabilities[(row, predicted as usize)], predicted == labels[row])
    };
    rows.iter().map(of_row).collect()
}

/// Expected calibration error of the top label over `rows`, in 15 bins of equal mass:
/// `Σ_bins |mean confidence − accuracy| · share`. `None` without rows.
///
/// Rows of equal confidence are never parted (the bin reaches to the end of their block), so the value does not
/// depend on the order of the rows; answers with few distinct confidences get fewer bins.
#[must_use]
pub fn expected_calibration_error(answers: &Answers, labels: &[u32], rows: &[usize]) -> Option<f64> {
    if rows.is_empty() {
        return None;
    }
    let mut graded = graded(answers, labels, rows);
    graded.sort_by(|a, b| a.0.total_cmp(&b.0));
    Some(binned_error(&graded))
}

/// The error of rows that rise in confidence; 0 without rows.
fn binned_error(graded: &[(f64, bool)]) -> f64 {
    let n_rows = graded.len();
    let (mut start, mut error) = (0, 0.0);
    for bin in 1..=N_ECE_BINS {
        let mut end = bin * n_rows / N_ECE_BINS;
        while end > 0 && end < n_rows && graded[end].0 == graded[end - 1].0 {
            end += 1;
        }
        if end > start {
            let inside = &graded[start..end];
            let confidence: f64 = inside.iter().map(|(confidence, _)| confidence).sum();
            let right = inside.iter().filter(|(_, right)| *right).count() as f64;
            error += (confidence - right).abs() / n_rows as f64;
            start = end;
        }
    }
    error
}

/// Share of rows whose label is that of `undefended`: 1 for every defence here (R1). `None` without rows.
#[must_use]
pub fn label_agreement(answers: &Answers, undefended: &Answers) -> Option<f64> {
    let n_rows = answers.n_rows();
    (n_rows > 0).then(|| n_labels_kept(answers, undefended) as f64 / n_rows as f64)
}

/// Rows whose label is the undefended model's.
#[must_use]
pub fn n_labels_kept(answers: &Answers, undefended: &Answers) -> usize {
    answers.predicted.iter().zip(&undefended.predicted).filter(|(a, b)| a == b).count()
}

/// Probabilities of logits `z` (n_rows, n_classes) at a temperature: `softmax(z/T)`, in f64.
#[must_use]
pub fn softmax_at(logits: &Array2<f32>, temperature: f64) -> Array2<f64> {
    crate::defence::offline::softmax(logits, temperature)
}

#[cfg(test)]
mod tests {
    use ndarray::array;
    use proptest::prelude::*;

    use super::*;

    fn two_class(confidences: &[f64]) -> Answers {
        let rows: Vec<f64> = confidences.iter().flat_map(|&c| [c, 1.0 - c]).collect();
        Answers::new(Array2::from_shape_vec((confidences.len(), 2), rows).unwrap())
    }

    #[test]
    fn utility_of_a_small_table_is_as_by_hand() {
        let answers = Answers::new(array![[0.9, 0.1], [0.8, 0.2], [0.0, 1.0]]);
        let labels = [0, 1, 0];
        let rows = [0, 1, 2];
        assert_eq!(accuracy(&answers, &labels, &rows), Some(1.0 / 3.0));
        let (nll, n_floored) = negative_log_likelihoods(&answers, &labels, &rows);
        assert_eq!(nll, vec![-0.9_f64.ln(), -0.2_f64.ln(), -PROBABILITY_FLOOR.ln()]);
        assert_eq!(n_floored, 1);
        // Three rows, one per bin: |.8−0| + |.9−1| + |1−0|, over 3.
        let ece = expected_calibration_error(&answers, &labels, &rows).unwrap();
        assert!((ece - (0.8 + 0.1 + 1.0) / 3.0).abs() < 1e-12);
        assert_eq!(accuracy(&answers, &labels, &[]), None);
        assert_eq!(expected_calibration_error(&answers, &labels, &[]), None);
    }

    #[test]
    fn a_calibrated_table_has_no_error() {
        // Confidence .75 throughout, right in three of four: one block, one bin, no error.
        let answers = two_class(&[0.75; 40]);
        let labels: Vec<u32> = (0..40).map(|row| u32::from(row % 4 == 0)).collect();
        let rows: Vec<usize> = (0..40).collect();
        assert!(expected_calibration_error(&answers, &labels, &rows).unwrap() < 1e-12);
    }

    #[test]
    fn bins_have_equal_mass() {
        // 15 distinct confidences, 10 rows each, wrong throughout: each bin holds one confidence.
        let confidences: Vec<f64> = (0..150).map(|row| 0.6 + (row % 15) as f64 * 0.02).collect();
        let answers = two_class(&confidences);
        let rows: Vec<usize> = (0..150).collect();
        let ece = expected_calibration_error(&answers, &[1; 150], &rows).unwrap();
        let expected = confidences.iter().sum::<f64>() / 150.0;
        assert!((ece - expected).abs() < 1e-12);
    }

    proptest! {
        #[test]
        fn calibration_error_does_not_depend_on_the_order_of_rows(
            rows in proptest::collection::vec((5_u32..10, 0_u32..2), 1..80), turn in 0_usize..80,
        ) {
            let answers = two_class(&rows.iter().map(|(c, _)| f64::from(*c) / 10.0).collect::<Vec<_>>());
            let labels: Vec<u32> = rows.iter().map(|(_, label)| *label).collect();
            let order: Vec<usize> = (0..rows.len()).collect();
            let mut turned = order.clone();
            turned.rotate_left(turn % rows.len());
            turned.reverse();
            let a = expected_calibration_error(&answers, &labels, &order).unwrap();
            let b = expected_calibration_error(&answers, &labels, &turned).unwrap();
            prop_assert!((a - b).abs() < 1e-12);
        }
    }
}
