//! The attacker who knows the defence (Kerckhoffs): from one emitted row back to the logits that it was made from.
//!
//! What it knows is what a deployment publishes or an insider reads: the settings of the defence and the class
//! centroids, for a gate also the distance quantiles. It has neither the model nor training rows. A blend
//! `m = s·z + (1−s)·c` is a known function of `z`, and `ln p = m − const`, so with `r_j = ln p_j − c_j`
//!
//! ```text
//! z_j = c_j + (r_j − mean r)/s        s = clamp(w · cos(z, c), 0, 1)
//! ```
//!
//! for every class whose probability is not 0. The additive constant is lost in the softmax; it is guessed by giving `z`
//! the mean of `c`, which only the cosine depends on. `s` is found by iterating from its largest value, `w`.
//! Classes that a mask or rounding has emptied are taken to lie at the centroid for the cosine, and are left out
//! of the recovered loss. A row with fewer than two classes left (label-only, "1.00") is read as it is.
//!
//! `s = w·cos(c + r/s, c)` may have a second solution: [`Inversion::other_logits`] gives the row that follows from it,
//! and the attacker scores both.
//!
//! Where the blend went towards a training row instead (R9) the attacker has the file with those rows. It takes the
//! rows of the class that lie nearest to the answer, undoes the blend with each, and keeps the first for which the row
//! so recovered has that very row as its nearest.

use ndarray::{Array2, ArrayView1, Axis};

use crate::audit::answers::Answers;
use crate::defence::{DefenceConfig, Fitted, Gate, Method};

/// More steps than the fixed point takes to settle.
const N_STEPS: usize = 60;

/// The smallest share, over the weight, that the iteration may reach: farther out the guessed constant makes the
/// iteration run away, and a rough share still keeps the rows in nearly the right order.
const LEAST_SHARE: f64 = 0.5;

/// A gated row is taken for reweighted only if as it stands it is nearer to the centroid than this quantile of the
/// training rows: the blend brings an outlier nearer than nearly all rows that are let pass.
const NEARER_THAN: f64 = 0.1;

/// How the answers of one system are read back.
#[derive(Debug, Clone)]
pub struct Inversion {
    how: How,
}

#[derive(Debug, Clone)]
enum How {
    /// As they stand: undefended, label-only.
    AsIs,
    /// Logarithms times the temperature.
    Temperature(f64),
    /// R4's blend undone.
    Blend { weight: f64, centroids: Array2<f64>, gates: Option<Vec<Gated>> },
    /// R9's blend undone: for each class the rows that it may have gone towards.
    Inlier { weight: f64, classes: Vec<Array2<f64>> },
}

/// So many inlier rows are tried for an answer.
const N_CANDIDATES: usize = 8;

/// Shares at which a second solution is looked for, geometrically below the weight.
const N_SHARES: usize = 48;

/// The least share, over the weight, of a second solution.
const LEAST_OTHER: f64 = 0.02;

/// What a gate of one class does, in cosine distances.
#[derive(Debug, Clone, Copy)]
struct Gated {
    /// Rows farther out than this are reweighted.
    beyond: f64,
    /// Rows that look nearer than this may be reweighted ones.
    suspect: f64,
}

impl Inversion {
    /// Reads answers as they stand.
    #[must_use]
    pub fn as_is() -> Self {
        Self { how: How::AsIs }
    }

    /// Whether answers are read as they stand: then what is recovered is what was answered.
    #[must_use]
    pub fn is_as_is(&self) -> bool {
        matches!(self.how, How::AsIs)
    }

    /// Whether a row may be recovered in two ways: see [`Inversion::other_logits`].
    #[must_use]
    pub fn has_two_roots(&self) -> bool {
        matches!(&self.how, How::Blend { weight, gates: None, .. } if *weight > 0.0)
    }

    /// Undoes a temperature.
    #[must_use]
    pub fn temperature(value: f64) -> Self {
        Self { how: How::Temperature(value) }
    }

    /// Undoes a defence, with what it was fitted to.
    #[must_use]
    pub fn of(config: &DefenceConfig, fitted: &Fitted) -> Self {
        let (weight, gate) = match config.method {
            Method::Reweight { weight, when: Gate::Always } => (weight, None),
            Method::Reweight { weight, when: Gate::DistanceAbove { quantile } } => (weight, Some(quantile)),
            Method::Inlier { weight, quantile } => {
                return Self { how: How::Inlier { weight, classes: inliers(fitted, quantile) } };
            }
            Method::LabelOnly | Method::AsIs => return Self::as_is(),
        };
        let of_class = |class, quantile| Gated {
            beyond: fitted.quantiles().at(class, quantile),
            suspect: fitted.quantiles().at(class, NEARER_THAN),
        };
        let gates = gate.map(|quantile| (0..fitted.n_classes()).map(|class| of_class(class, quantile)).collect());
        Self { how: How::Blend { weight, centroids: fitted.centroids().values().mapv(f64::from), gates } }
    }

    /// The logits of a row up to a constant, minus infinity for a class that cannot be known; `probabilities` and
    /// the result have shape (n_classes).
    #[must_use]
    pub fn logits(&self, probabilities: ArrayView1<'_, f64>, predicted: u32) -> Vec<f64> {
        let logs = || probabilities.iter().map(|p| p.ln());
        let (How::Blend { weight, .. } | How::Inlier { weight, .. }) = &self.how else {
            let factor = if let How::Temperature(value) = &self.how { *value } else { 1.0 };
            return logs().map(|log| log * factor).collect();
        };
        if *weight <= 0.0 || logs().filter(|log| log.is_finite()).count() < 2 {
            return logs().collect();
        }
        match &self.how {
            How::Blend { centroids, gates, .. } => {
                let centroid = centroids.row(predicted as usize);
                let moved = moved(probabilities, centroid);
                let mut share = first_share(&moved, centroid, *weight);
                if let Some(gates) = gates {
                    let gate = gates[predicted as usize];
                    let (near, far) = (1.0 - cosine(&moved, centroid, 1.0), 1.0 - cosine(&moved, centroid, share));
                    if near >= gate.suspect || far <= gate.beyond {
                        share = 1.0;
                    }
                }
                undone(&moved, centroid, share)
            }
            How::Inlier { classes, .. } => through_inlier(probabilities, &classes[predicted as usize], *weight),
            How::AsIs | How::Temperature(_) => logs().collect(),
        }
    }

    /// As [`Inversion::logits`], from the *smallest* solution for the share where there are several: with the
    /// first the attacker has both ends. The same as the first where there is one, or no blend.
    #[must_use]
    pub fn other_logits(&self, probabilities: ArrayView1<'_, f64>, predicted: u32) -> Vec<f64> {
        if let How::Blend { weight, centroids, gates: None } = &self.how
            && *weight > 0.0
            && probabilities.iter().filter(|p| **p > 0.0).count() >= 2
        {
            let centroid = centroids.row(predicted as usize);
            let moved = moved(probabilities, centroid);
            if let Some(share) = smallest_share(&moved, centroid, *weight) {
                return undone(&moved, centroid, share);
            }
        }
        self.logits(probabilities, predicted)
    }
}

impl Inversion {
    /// The answers of the undefended model as far as they can be recovered: a class that cannot be known has no share.
    /// The label stays.
    #[must_use]
    pub fn undone(&self, answers: &Answers) -> Answers {
        if self.is_as_is() {
            return answers.clone();
        }
        let n_classes = answers.probabilities.ncols();
        let of_row = |row: usize| {
            let mut z = self.logits(answers.probabilities.row(row), answers.predicted[row]);
            let top = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            z.iter_mut().for_each(|z| *z = (*z - top).exp());
            let sum: f64 = z.iter().sum();
            z.into_iter().map(move |z| z / sum)
        };
        let values: Vec<f64> = (0..answers.n_rows()).flat_map(of_row).collect();
        let probabilities = Array2::from_shape_vec((answers.n_rows(), n_classes), values);
        // A value for each class of each row was just made.
        let probabilities = probabilities.unwrap_or_else(|_| answers.probabilities.clone());
        Answers { probabilities, predicted: answers.predicted.clone() }
    }
}

/// For each class the bank's rows of it within the quantile, as they may be blended towards.
fn inliers(fitted: &Fitted, quantile: f64) -> Vec<Array2<f64>> {
    let bank = fitted.bank();
    let of_class = |class: usize| {
        let limit = fitted.quantiles().at(class, quantile);
        let rows: Vec<usize> = (0..bank.n_rows())
            .filter(|&row| bank.labels()[row] as usize == class && f64::from(bank.distances()[row]) <= limit)
            .collect();
        bank.logits().select(Axis(0), &rows).mapv(f64::from)
    };
    (0..fitted.n_classes()).map(of_class).collect()
}

/// `ln p − c` without its mean over the classes that are known.
fn moved(probabilities: ArrayView1<'_, f64>, centroid: ArrayView1<'_, f64>) -> Vec<f64> {
    let mut moved: Vec<f64> = probabilities.iter().zip(centroid).map(|(p, c)| p.ln() - c).collect();
    let known = moved.iter().filter(|r| r.is_finite());
    let (sum, n_known) = known.fold((0.0, 0.0), |(sum, n), r| (sum + r, n + 1.0));
    moved.iter_mut().for_each(|r| *r -= sum / n_known);
    moved
}

/// `c + r/s`.
fn undone(moved: &[f64], centroid: ArrayView1<'_, f64>, share: f64) -> Vec<f64> {
    moved.iter().zip(centroid).map(|(r, c)| c + r / share).collect()
}

/// The share by iteration from its largest value.
fn first_share(moved: &[f64], centroid: ArrayView1<'_, f64>, weight: f64) -> f64 {
    let mut share = weight;
    for _ in 0..N_STEPS {
        let next = (weight * cosine(moved, centroid, share)).clamp(weight * LEAST_SHARE, 1.0);
        if (next - share).abs() <= 1e-15 {
            break;
        }
        share = next;
    }
    share
}

/// The smallest share that solves `s = w·cos(c + r/s, c)`, by a change of sign on a grid and bisection.
fn smallest_share(moved: &[f64], centroid: ArrayView1<'_, f64>, weight: f64) -> Option<f64> {
    let excess = |share: f64| weight * cosine(moved, centroid, share) - share;
    let grid = |step: usize| weight * LEAST_OTHER.powf(1.0 - step as f64 / N_SHARES as f64);
    let mut below = grid(0);
    let mut at_below = excess(below);
    for step in 1..=N_SHARES {
        let above = grid(step);
        let at_above = excess(above);
        if at_below.signum() != at_above.signum() {
            let (mut low, mut high) = (below, above);
            for _ in 0..50 {
                let middle = f64::midpoint(low, high);
                if excess(middle).signum() == at_below.signum() { low = middle } else { high = middle }
            }
            return Some(f64::midpoint(low, high));
        }
        (below, at_below) = (above, at_above);
    }
    None
}

/// The row behind an answer that was blended towards one of `inliers` (n_rows, n_classes).
fn through_inlier(probabilities: ArrayView1<'_, f64>, inliers: &Array2<f64>, weight: f64) -> Vec<f64> {
    let distance = |row: usize| -> f64 {
        let moved = moved(probabilities, inliers.row(row));
        moved.iter().filter(|r| r.is_finite()).map(|r| r * r).sum()
    };
    let mut order: Vec<(f64, usize)> = (0..inliers.nrows()).map(|row| (distance(row), row)).collect();
    order.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut first = None;
    for &(_, row) in order.iter().take(N_CANDIDATES) {
        let inlier = inliers.row(row);
        let moved = moved(probabilities, inlier);
        let z = undone(&moved, inlier, first_share(&moved, inlier, weight));
        if nearest(&z, inliers) == Some(row) {
            return z;
        }
        first.get_or_insert(z);
    }
    first.unwrap_or_else(|| probabilities.iter().map(|p| p.ln()).collect())
}

/// The inlier row at the smallest cosine distance from `z`; a class that is not known counts for nothing.
fn nearest(z: &[f64], inliers: &Array2<f64>) -> Option<usize> {
    let cosine = |row: ArrayView1<'_, f64>| {
        let known = || z.iter().zip(row).filter(|(z, _)| z.is_finite());
        let dot: f64 = known().map(|(z, c)| z * c).sum();
        let square: f64 = row.iter().map(|c| c * c).sum();
        dot / square.sqrt().max(f64::MIN_POSITIVE)
    };
    let each = inliers.rows().into_iter().enumerate().map(|(row, values)| (row, cosine(values)));
    each.reduce(|best, next| if next.1 > best.1 { next } else { best }).map(|(row, _)| row)
}

/// `cos(z, c)` of `z = c + r/s`, where `r` is `moved`; a class that is not known lies at the centroid.
fn cosine(moved: &[f64], centroid: ArrayView1<'_, f64>, share: f64) -> f64 {
    let (mut dot, mut z_square, mut c_square) = (0.0, 0.0, 0.0);
    for (&r, &c) in moved.iter().zip(centroid) {
        let z = if r.is_finite() { c + r / share } else { c };
        dot += z * c;
        z_square += z * z;
        c_square += c * c;
    }
    let norms = f64::sqrt(z_square * c_square);
    if norms > 0.0 { dot / norms } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ndarray::array;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::defence::{Bank, Centroids, Defence, DistanceQuantiles, N_QUANTILES, RawScores, ScoreKind};

    const N: usize = 4;

    fn names() -> Vec<String> {
        (0..N).map(|class| class.to_string()).collect()
    }

    /// Centroids of mean zero, and 40 inlier rows a class around them.
    fn fitted(seed: u64) -> Arc<Fitted> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let centroids = Array2::from_shape_fn((N, N), |(k, j)| if k == j { 4.5 } else { -1.5 });
        let (mut logits, mut labels) = (Vec::new(), Vec::new());
        for class in 0..N {
            for _ in 0..40 {
                let row: Vec<f32> = (0..N).map(|j| centroids[(class, j)] + rng.random_range(-1.0..1.0_f32)).collect();
                let mean = row.iter().sum::<f32>() / N as f32;
                logits.extend(row.iter().map(|z| z - mean));
                labels.push(class as u32);
            }
        }
        let bank = Bank::new(Array2::from_shape_vec((40 * N, N), logits).unwrap(), labels, vec![0.0; 40 * N]).unwrap();
        let table = Array2::from_shape_fn((N, N_QUANTILES), |(_, q)| q as f32 / (N_QUANTILES - 1) as f32);
        let centroids = Centroids::new(centroids, &names()).unwrap();
        let quantiles = DistanceQuantiles::new(table, N).unwrap();
        Arc::new(Fitted::new(ScoreKind::Logits, names(), centroids, quantiles, bank).unwrap())
    }

    /// Rows of mean zero, as logarithms of probabilities centred by R2 are.
    fn rows(n: usize, seed: u64) -> Array2<f32> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut rows = Array2::from_shape_fn((n, N), |_| rng.random_range(-3.0..5.0_f32));
        for mut row in rows.rows_mut() {
            let mean = row.sum() / N as f32;
            row.mapv_inplace(|z| z - mean);
        }
        rows
    }

    /// The share of rows whose logits come back within 1e-2 of what they were, from either candidate.
    fn recovered(method: Method, both: bool) -> f64 {
        let (fitted, logits) = (fitted(1), rows(400, 2));
        let config = DefenceConfig { method, top_k: None, digits: None };
        let defence = Defence::new(&config, Some(Arc::clone(&fitted)), ScoreKind::Logits, N).unwrap();
        let answers = defence.apply(RawScores::new(logits.clone(), ScoreKind::Logits).unwrap()).unwrap();
        let answers = crate::audit::answers::Answers::new(answers.probabilities().mapv(f64::from));
        let inversion = Inversion::of(&config, &fitted);
        let near = |found: &[f64], truth: ArrayView1<'_, f32>| {
            let mean = found.iter().sum::<f64>() / N as f64;
            found.iter().zip(truth).all(|(found, truth)| (found - mean - f64::from(*truth)).abs() < 1e-2)
        };
        let back = (0..400).filter(|&row| {
            let (p, predicted) = (answers.probabilities.row(row), answers.predicted[row]);
            near(&inversion.logits(p, predicted), logits.row(row))
                || both && near(&inversion.other_logits(p, predicted), logits.row(row))
        });
        back.count() as f64 / 400.0
    }

    #[test]
    fn the_blend_is_undone_for_nearly_all_rows_by_one_root_or_the_other() {
        let method = Method::Reweight { weight: 0.1, when: Gate::Always };
        let (one, both) = (recovered(method.clone(), false), recovered(method, true));
        assert!(one > 0.5 && both > one + 0.1, "{both} {one}");
        assert!(both > 0.8, "{both}");
    }

    #[test]
    fn what_is_undone_is_a_distribution_of_the_undefended_logits() {
        let (fitted, logits) = (fitted(1), rows(200, 5));
        let config =
            DefenceConfig { method: Method::Reweight { weight: 0.1, when: Gate::Always }, top_k: None, digits: None };
        let defence = Defence::new(&config, Some(Arc::clone(&fitted)), ScoreKind::Logits, N).unwrap();
        let defended = defence.apply(RawScores::new(logits.clone(), ScoreKind::Logits).unwrap()).unwrap();
        let answers = Answers::new(defended.probabilities().mapv(f64::from));
        let undone = Inversion::of(&config, &fitted).undone(&answers);
        let truth = Answers::of_scores(logits.mapv(f64::from), ScoreKind::Logits);
        let near = (0..200).filter(|&row| {
            let apart = &undone.probabilities.row(row) - &truth.probabilities.row(row);
            apart.iter().all(|apart| apart.abs() < 1e-2)
        });
        assert!(near.count() > 90 && undone.predicted == answers.predicted);
        for row in undone.probabilities.rows() {
            assert!((row.sum() - 1.0).abs() < 1e-9 && row.iter().all(|p| *p >= 0.0));
        }
    }

    #[test]
    fn with_the_bank_the_inlier_blend_is_undone() {
        let share = recovered(Method::Inlier { weight: 0.1, quantile: 1.0 }, false);
        assert!(share > 0.5, "{share}");
    }

    #[test]
    fn what_holds_one_class_alone_is_read_as_it_is() {
        let fitted = fitted(1);
        let config = DefenceConfig {
            method: Method::Reweight { weight: 0.1, when: Gate::Always },
            top_k: Some(1),
            digits: None,
        };
        let p = array![0.0, 1.0, 0.0, 0.0];
        let inversion = Inversion::of(&config, &fitted);
        for found in [inversion.logits(p.view(), 1), inversion.other_logits(p.view(), 1)] {
            assert_eq!(found, vec![f64::NEG_INFINITY, 0.0, f64::NEG_INFINITY, f64::NEG_INFINITY]);
        }
    }
}
