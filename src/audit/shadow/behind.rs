//! A shadow model behind the target's defence: fitted to the shadow's own members, as the target's is to its own.
//!
//! An attacker who trains shadows fits the defence to them exactly as the owner did: centroids, distance quantiles
//! and inlier rows of each shadow's own training rows. Only so do the shadows' answers look like the target's.

use std::sync::Arc;

use ndarray::Array2;

use crate::audit::answers::Answers;
use crate::defence::{
    Bank as Inliers, BankError, CentroidError, CentroidSums, ClassFallback, Defence, DefenceConfig, DefenceError,
    DefendError, DistanceQuantiles, Fitted, Method, N_QUANTILES, RawScores, ScoreKind, ScoresError, offline,
    quantiles_of,
};

/// Inlier rows kept for each class, as the command that builds centroids keeps by default.
const N_INLIERS: usize = 128;

/// Why a shadow cannot be put behind the defence.
#[derive(Debug, thiserror::Error)]
pub enum BehindError {
    /// Its centroids cannot be fitted (R3).
    #[error("the shadow's centroids: {0}")]
    Centroids(#[from] CentroidError),
    /// Its inlier rows cannot be kept.
    #[error("the shadow's inlier rows: {0}")]
    Inliers(#[from] BankError),
    /// The defence cannot be built from them.
    #[error(transparent)]
    Defence(#[from] DefenceError),
    /// The defence does not take its scores.
    #[error(transparent)]
    Defend(#[from] DefendError),
    /// Its scores are no scores.
    #[error(transparent)]
    Scores(#[from] ScoresError),
}

/// Fits what the defence needs to a shadow: `raw` are its scores of rows with true `labels`, of which `members` were
/// trained on.
///
/// # Errors
/// [`BehindError`].
pub fn fit(
    raw: &RawScores,
    labels: &[u32],
    members: &[bool],
    fallback: ClassFallback,
) -> Result<Arc<Fitted>, BehindError> {
    let n_classes = raw.n_classes();
    let logits = offline::logits(offline::copy(raw));
    let names: Vec<String> = (0..n_classes).map(|class| class.to_string()).collect();
    let member_rows = || {
        let rows = logits.rows().into_iter().zip(labels).zip(members);
        rows.filter(|(_, member)| **member).map(|((row, label), _)| (row.to_vec(), *label as usize))
    };
    let mut sums = CentroidSums::new(n_classes);
    for (row, label) in member_rows() {
        sums.add(&row, label)?;
    }
    let (centroids, _) = sums.finish(fallback, &names)?;
    let mut distances = vec![Vec::new(); n_classes];
    let mut candidates: Vec<Vec<(f32, Vec<f32>)>> = vec![Vec::new(); n_classes];
    for (row, label) in member_rows() {
        let centroid = centroids.values().row(label).to_vec();
        let distance = (offline::cosine_distance(&row, &centroid) as f32).clamp(0.0, 2.0);
        distances[label].push(distance);
        if Inliers::admits(&row, label) {
            candidates[label].push((distance, row));
        }
    }
    let tables: Vec<[f32; N_QUANTILES]> = distances.iter_mut().map(|values| quantiles_of(values)).collect();
    let table = Array2::from_shape_fn((n_classes, N_QUANTILES), |(class, step)| tables[class][step]);
    let quantiles = DistanceQuantiles::new(table, n_classes)?;
    let inliers = inliers(candidates, n_classes)?;
    Ok(Arc::new(Fitted::new(raw.kind(), names, centroids, quantiles, inliers)?))
}

/// [`N_INLIERS`] rows of each class, evenly over their distances.
fn inliers(candidates: Vec<Vec<(f32, Vec<f32>)>>, n_classes: usize) -> Result<Inliers, BankError> {
    let (mut logits, mut labels, mut distances) = (Vec::new(), Vec::new(), Vec::new());
    for (class, mut rows) in (0_u32..).zip(candidates) {
        rows.sort_by(|a, b| a.0.total_cmp(&b.0));
        let n = rows.len().min(N_INLIERS);
        for place in 0..n {
            let (distance, row) = &rows[place * rows.len() / n];
            logits.extend_from_slice(row);
            labels.push(class);
            distances.push(*distance);
        }
    }
    let shape = (labels.len(), n_classes);
    let logits = Array2::from_shape_vec(shape, logits).unwrap_or_else(|_| Array2::zeros(shape));
    Inliers::new(logits, labels, distances)
}

/// What a shadow answers behind a defence of this configuration: `raw` are its scores of all rows.
///
/// # Errors
/// [`BehindError`].
pub fn answers(
    config: &DefenceConfig,
    raw: &RawScores,
    labels: &[u32],
    members: &[bool],
    fallback: ClassFallback,
) -> Result<Answers, BehindError> {
    let fitted = match config.method {
        Method::LabelOnly | Method::AsIs => None,
        Method::Reweight { .. } | Method::Inlier { .. } => Some(fit(raw, labels, members, fallback)?),
    };
    let defence = Defence::new(config, fitted, raw.kind(), raw.n_classes())?;
    let defended = defence.apply(offline::copy(raw))?;
    Ok(Answers::new(defended.probabilities().mapv(f64::from)))
}

/// Seals logits of shape (n_rows, n_classes) that somebody computed, so that they can be put behind a defence.
///
/// # Errors
/// [`BehindError::Scores`] for a value that is not finite.
pub fn seal(logits: Array2<f32>) -> Result<RawScores, BehindError> {
    Ok(RawScores::new(logits, ScoreKind::Logits)?)
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;
    use crate::defence::Gate;

    #[test]
    fn each_shadow_has_the_centroids_of_its_own_members() {
        let logits = array![[4.0, 0.0], [0.0, 4.0], [6.0, 0.0], [0.0, 6.0], [1.0, 0.5]];
        let raw = seal(logits).unwrap();
        let labels = [0, 1, 0, 1, 0];
        let first = fit(&raw, &labels, &[true, true, false, false, false], ClassFallback::Refuse).unwrap();
        let second = fit(&raw, &labels, &[false, false, true, true, false], ClassFallback::Refuse).unwrap();
        assert_eq!(first.centroids().values().row(0).to_vec(), vec![4.0, 0.0]);
        assert_eq!(second.centroids().values().row(0).to_vec(), vec![6.0, 0.0]);

        let config =
            DefenceConfig { method: Method::Reweight { weight: 0.1, when: Gate::Always }, top_k: None, digits: None };
        let answer = |members: [bool; 5]| answers(&config, &raw, &labels, &members, ClassFallback::Refuse).unwrap();
        let (first, second) = (answer([true, true, false, false, false]), answer([false, false, true, true, false]));
        // The same row of the same model, drawn to another centroid.
        assert!(first.probabilities[(4, 0)] < second.probabilities[(4, 0)]);
        assert_eq!(first.predicted, second.predicted);
    }

    #[test]
    fn a_label_only_shadow_needs_no_members() {
        let config = DefenceConfig { method: Method::LabelOnly, top_k: None, digits: None };
        let raw = seal(array![[4.0, 0.0], [0.0, 4.0]]).unwrap();
        let answers = answers(&config, &raw, &[0, 1], &[false, false], ClassFallback::Refuse).unwrap();
        assert_eq!(answers.predicted, vec![0, 1]);
    }
}
