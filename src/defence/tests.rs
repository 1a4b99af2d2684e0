//! The rules R1 to R9 as vectors, and the invariants as properties against a slow f64 oracle.

use std::sync::Arc;

use ndarray::{Array2, array};
use proptest::prelude::*;

use super::*;

const LABELS: [&str; 3] = ["cat", "fox", "bird"];

fn names(n: usize) -> Vec<String> {
    (0..n).map(|k| LABELS.get(k).map_or_else(|| format!("class {k}"), |name| (*name).to_owned())).collect()
}

/// An artifact from centroids: the bank holds the centroids themselves and a stretched copy of each.
fn fitted_with(centroids: Array2<f32>, kind: ScoreKind) -> Arc<Fitted> {
    let n = centroids.nrows();
    let mut bank = Array2::zeros((2 * n, n));
    let mut labels = Vec::new();
    for (row, mut out) in bank.rows_mut().into_iter().enumerate() {
        let class = row % n;
        out.assign(&centroids.row(class));
        out[class] += if row < n { 0.0 } else { 1.0 };
        labels.push(class as u32);
    }
    let distances = vec![0.0; 2 * n];
    let quantiles = Array2::from_shape_fn((n, N_QUANTILES), |(_, step)| step as f32 / 100.0);
    let fitted = Fitted::new(
        kind,
        names(n),
        Centroids::new(centroids, &names(n)).unwrap(),
        DistanceQuantiles::new(quantiles, n).unwrap(),
        Bank::new(bank, labels, distances).unwrap(),
    );
    Arc::new(fitted.unwrap())
}

fn three() -> Array2<f32> {
    array![[4.0, -1.0, -2.0], [0.0, 3.0, -1.0], [-1.0, 0.5, 2.0]]
}

fn config(method: Method, top_k: Option<usize>, digits: Option<u8>) -> DefenceConfig {
    DefenceConfig { method, top_k, digits }
}

fn reweight(weight: f64) -> Method {
    Method::Reweight { weight, when: Gate::Always }
}

fn defend(config: &DefenceConfig, values: Array2<f32>, kind: ScoreKind) -> Defended {
    let n = values.ncols();
    let fitted = if n == 3 { fitted_with(three(), kind) } else { fitted_with(identity(n), kind) };
    let raw = RawScores::new(values, kind).unwrap();
    Defence::new(config, Some(fitted), kind, n).unwrap().apply(raw).unwrap()
}

fn identity(n: usize) -> Array2<f32> {
    Array2::from_shape_fn((n, n), |(k, j)| if k == j { 3.0 } else { -((k + 2 * j) as f32 % 5.0) / 4.0 })
}

fn assert_close(got: &[f32], expected: &[f64]) {
    for (got, expected) in got.iter().zip(expected) {
        assert!((f64::from(*got) - expected).abs() < 1e-6, "expected {expected}, got {got}");
    }
    assert_eq!(got.len(), expected.len());
}

// === vectors of the rules ===

#[test]
fn r1_the_label_is_the_argmax_with_ties_to_the_lowest_index() {
    let defended =
        defend(&config(reweight(0.1), None, None), array![[1.0, 1.0, 0.0], [0.0, 2.0, 2.0]], ScoreKind::Logits);
    assert_eq!(defended.labels(), [0, 1]);
}

#[test]
fn r1_a_tie_made_by_rounding_to_f32_is_raised_by_one_ulp() {
    // Centroid of class 1 barely larger at 1 than at 0, logits one ulp apart: equal as f32 probabilities.
    let near = 0.001_f32;
    let centroids = array![[1.0, 0.0, 0.0], [near, near.next_up(), -5.0], [0.0, 0.0, 1.0]];
    let labels = names(3);
    let fitted = Fitted::new(
        ScoreKind::Logits,
        labels.clone(),
        Centroids::new(centroids, &labels).unwrap(),
        DistanceQuantiles::new(Array2::zeros((3, N_QUANTILES)), 3).unwrap(),
        Bank::empty(3),
    );
    let fitted = Arc::new(fitted.unwrap());
    for top_k in [None, Some(2)] {
        let config = config(reweight(0.1), top_k, None);
        let defence = Defence::new(&config, Some(Arc::clone(&fitted)), ScoreKind::Logits, 3).unwrap();
        let raw = RawScores::new(array![[near, near.next_up(), -5.0]], ScoreKind::Logits).unwrap();
        let defended = defence.apply(raw).unwrap();
        let row = defended.probabilities();
        assert_eq!(row[(0, 1)], row[(0, 0)].next_up(), "{top_k:?}");
        let logs = defended.log_probabilities();
        assert!(logs[(0, 1)] > logs[(0, 0)], "{top_k:?}");
    }
}

#[test]
fn r2_probabilities_become_centred_logarithms() {
    let raw = RawScores::new(array![[0.5, 0.5, 0.0]], ScoreKind::Probabilities).unwrap();
    let z = offline::logits(raw);
    let (half, floor) = (0.5_f64.ln(), 1e-12_f64.ln());
    let mean = (half + half + floor) / 3.0;
    for (got, expected) in z.iter().zip([half - mean, half - mean, floor - mean]) {
        assert!((f64::from(*got) - expected).abs() < 1e-5);
    }
}

#[test]
fn r2_log_probabilities_are_floored_and_finite() {
    let defended = defend(&config(Method::LabelOnly, None, None), array![[1.0, 5.0, 0.0]], ScoreKind::Logits);
    assert_eq!(defended.log_probabilities(), array![[LOG_FLOOR, 0.0, LOG_FLOOR]]);
    assert!((f64::from(LOG_FLOOR) - 1e-12_f64.ln()).abs() < 1e-5);
}

#[test]
fn r2_a_row_that_is_no_distribution_is_refused() {
    let kinds = [ScoreKind::Probabilities, ScoreKind::LogProbabilities];
    for kind in kinds {
        let refused = RawScores::new(array![[0.25, 0.75], [3.0, -1.0]], kind);
        assert!(matches!(refused, Err(ScoresError::NotProbabilities { .. })), "{kind}");
    }
    assert!(RawScores::new(array![[0.0, f32::NEG_INFINITY]], ScoreKind::LogProbabilities).is_ok());
}

#[test]
fn r3_a_centroid_that_is_not_largest_at_its_class_is_refused_by_name() {
    let error = Centroids::new(array![[4.0, -1.0, -2.0], [3.0, 3.0, -1.0], [-1.0, 0.5, 2.0]], &names(3)).unwrap_err();
    assert_eq!(error, CentroidError::NotDominant { class: 1, name: "fox".into(), rival: 0 });
    assert!(error.to_string().contains("fox"), "{error}");
}

#[test]
fn r3_centroids_are_means_by_true_label_and_the_fallback_takes_correct_rows() {
    let mut sums = CentroidSums::new(2);
    for (logits, label) in [([2.0, 0.0], 0), ([4.0, 1.0], 0), ([9.0, 1.0], 1), ([0.0, 3.0], 1)] {
        sums.add(&logits, label).unwrap();
    }
    let refused = sums.finish(ClassFallback::Refuse, &names(2)).unwrap_err();
    assert!(matches!(refused, CentroidError::NotDominant { class: 1, .. }));
    let (centroids, fell_back) = sums.finish(ClassFallback::CorrectRows, &names(2)).unwrap();
    assert_eq!(centroids.values(), array![[3.0, 0.5], [0.0, 3.0]]);
    assert_eq!(fell_back, [false, true]);
    assert_eq!(sums.rows_per_class(), [2, 2]);
}

#[test]
fn r3_a_class_without_rows_stops_the_build() {
    let mut sums = CentroidSums::new(2);
    sums.add(&[1.0, 0.0], 0).unwrap();
    let refused = sums.finish(ClassFallback::CorrectRows, &names(2)).unwrap_err();
    assert_eq!(refused, CentroidError::NoRows { class: 1, name: "fox".into() });
    sums.add(&[1.0, 0.0], 1).unwrap();
    let refused = sums.finish(ClassFallback::CorrectRows, &names(2)).unwrap_err();
    assert_eq!(refused, CentroidError::NoCorrectRows { class: 1, name: "fox".into() });
    assert!(matches!(sums.add(&[1.0], 0), Err(CentroidError::Row { .. })));
    assert!(matches!(sums.add(&[1.0, 0.0], 2), Err(CentroidError::Row { .. })));
}

#[test]
fn r4_reweights_towards_the_centroid_of_the_label() {
    // z = (2, 1, 0), c = (4, -1, -2): cos = 7/(√5·√21), s = .1·cos.
    let defended = defend(&config(reweight(0.1), None, None), array![[2.0, 1.0, 0.0]], ScoreKind::Logits);
    let s = 0.1 * 7.0 / (5.0_f64.sqrt() * 21.0_f64.sqrt());
    let z = [2.0 * s + 4.0 * (1.0 - s), s - (1.0 - s), -2.0 * (1.0 - s)];
    let sum: f64 = z.iter().map(|z| z.exp()).sum();
    assert_close(defended.probabilities().as_slice().unwrap(), &z.map(|z| z.exp() / sum));
}

#[test]
fn r4_a_zero_norm_and_a_negative_cosine_give_the_centroid() {
    let c: Vec<f64> = [4.0_f64, -1.0, -2.0].iter().map(|z| z.exp()).collect();
    let sum: f64 = c.iter().sum();
    let expected: Vec<f64> = c.iter().map(|c| c / sum).collect();
    for z in [[0.0, 0.0, 0.0], [-1.0, -1.1, -1.1]] {
        let defended = defend(&config(reweight(0.1), None, None), array![z], ScoreKind::Logits);
        assert_close(defended.probabilities().as_slice().unwrap(), &expected);
    }
}

#[test]
fn r4_the_gate_leaves_inliers_as_they_are() {
    // In this artifact the quantile q of distance is q itself. cos((4,-1,-2), c_0) = 1: distance 0.
    let gated = Method::Reweight { weight: 0.0, when: Gate::DistanceAbove { quantile: 0.5 } };
    let near = defend(&config(gated.clone(), None, None), array![[2.0, -0.5, -1.0]], ScoreKind::Logits);
    let z = [2.0_f64.exp(), (-0.5_f64).exp(), (-1.0_f64).exp()];
    assert_close(near.probabilities().as_slice().unwrap(), &z.map(|e| e / z.iter().sum::<f64>()));
    let far = defend(&config(gated, None, None), array![[1.0, 0.9, 0.9]], ScoreKind::Logits);
    let c = [4.0_f64.exp(), (-1.0_f64).exp(), (-2.0_f64).exp()];
    assert_close(far.probabilities().as_slice().unwrap(), &c.map(|e| e / c.iter().sum::<f64>()));
}

#[test]
fn r5_keeps_the_label_first_then_by_score_then_by_index() {
    let kept = |z: &[f64], label, k| {
        let mut entries = Vec::new();
        softmax::keep_top(z, label, k, &mut entries);
        entries.iter().map(|entry| entry.0).collect::<Vec<_>>()
    };
    assert_eq!(kept(&[1.0, 3.0, 3.0, 2.0, 3.0], 4, 3), [4, 1, 2]);
    assert_eq!(kept(&[1.0, 1.0], 1, 9), [1, 0]);
    assert_eq!(kept(&[5.0, 1.0], 1, 1), [1]);
    let long: Vec<f64> = (0..40).map(|j| f64::from(j % 7)).collect();
    assert_eq!(kept(&long, 0, 4), [0, 6, 13, 20]);
    let mut many = kept(&long, 0, 12);
    many.sort_unstable();
    assert_eq!(many, [0, 4, 5, 6, 12, 13, 19, 20, 26, 27, 33, 34]);
}

#[test]
fn r5_masked_rows_are_renormalised() {
    let all = defend(&config(reweight(0.5), None, None), array![[2.0, 1.0, 0.0]], ScoreKind::Logits);
    let two = defend(&config(reweight(0.5), Some(2), None), array![[2.0, 1.0, 0.0]], ScoreKind::Logits);
    let (all, two) = (all.probabilities().to_owned(), two.probabilities().to_owned());
    let kept = f64::from(all[(0, 0)]) + f64::from(all[(0, 1)]);
    assert_close(two.as_slice().unwrap(), &[f64::from(all[(0, 0)]) / kept, f64::from(all[(0, 1)]) / kept, 0.0]);
}

fn rounded<const N: usize>(p: [f64; N], label: usize, digits: u8) -> [f32; N] {
    let mut entries: Vec<(u32, f64)> = (0..N as u32).zip(p).collect();
    let mut out = [0.0; N];
    round::round(&mut entries, label, digits, &mut out);
    out
}

#[test]
fn r6_spare_units_go_to_the_label_first_then_to_the_largest_remainders() {
    let third = [1.0 / 3.0; 3];
    assert_eq!(rounded(third, 0, 2), [0.34, 0.33, 0.33]);
    assert_eq!(rounded(third, 2, 1), [0.3, 0.3, 0.4]);
    // Whole units 0, 9, 0: the spare one goes to the label, whatever the remainders.
    assert_eq!(rounded([0.05, 0.90, 0.05], 1, 1), [0.0, 1.0, 0.0]);
    // Whole units 3, 2, 2, 2 of 10: one to the label, none left.
    assert_eq!(rounded([0.31, 0.23, 0.23, 0.23], 0, 1), [0.4, 0.2, 0.2, 0.2]);
    // Whole units 26, 24, 24, 24 of 100: one to the label, one to the largest remainder, the earlier of two.
    assert_eq!(rounded([0.261, 0.2465, 0.246, 0.2465], 0, 2), [0.27, 0.25, 0.24, 0.24]);
}

#[test]
fn r6_an_earlier_index_that_ties_gives_one_unit_up() {
    // Whole units 3, 3, 3: the spare one to the label.
    assert_eq!(rounded([0.349, 0.351, 0.3], 1, 1), [0.3, 0.4, 0.3]);
    // Uniform over 1,000 classes at 2 digits: 100 units, the label 999 gets the first, 99 others tie with it.
    let uniform = rounded([0.001; 1_000], 999, 2);
    assert_eq!(uniform[999], 0.02);
    assert_eq!(uniform.iter().filter(|p| **p > 0.0).count(), 99);
    assert_eq!(uniform[0], 0.0);
}

#[test]
fn r7_mask_comes_before_rounding_and_label_only_needs_no_artifact() {
    let defended = defend(&config(reweight(1.0), Some(2), Some(2)), array![[1.0, 1.0, 0.9]], ScoreKind::Logits);
    assert_eq!(defended.probabilities()[(0, 2)], 0.0);
    let defence = Defence::new(&config(Method::LabelOnly, None, None), None, ScoreKind::Logits, 2).unwrap();
    let raw = RawScores::new(array![[0.0, 1e30]], ScoreKind::Logits).unwrap();
    assert_eq!(defence.apply(raw).unwrap().probabilities(), array![[0.0, 1.0]]);
}

#[test]
fn r8_non_finite_scores_are_never_sealed() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for kind in [ScoreKind::Logits, ScoreKind::Probabilities] {
            assert_eq!(
                RawScores::new(array![[0.5, 0.5], [0.0, bad]], kind).unwrap_err(),
                ScoresError::NonFinite { row: 1 }
            );
        }
    }
    assert_eq!(RawScores::new(Array2::zeros((1, 0)), ScoreKind::Logits).unwrap_err(), ScoresError::NoClasses);
}

#[test]
fn r9_blends_with_the_nearest_inlier_of_the_label() {
    // The bank of class 0 holds (4, -1, -2) and (5, -1, -2); z points along the second.
    let method = Method::Inlier { weight: 0.0, quantile: 0.5 };
    let defended = defend(&config(method, None, None), array![[10.0, -2.0, -4.0]], ScoreKind::Logits);
    let z = [5.0_f64.exp(), (-1.0_f64).exp(), (-2.0_f64).exp()];
    assert_close(defended.probabilities().as_slice().unwrap(), &z.map(|e| e / z.iter().sum::<f64>()));
}

#[test]
fn r9_a_class_without_an_inlier_stops_the_build() {
    let fitted = Fitted::new(
        ScoreKind::Logits,
        names(3),
        Centroids::new(three(), &names(3)).unwrap(),
        DistanceQuantiles::new(Array2::zeros((3, N_QUANTILES)), 3).unwrap(),
        Bank::new(array![[4.0, 0.0, 0.0], [0.0, 4.0, 0.0]], vec![0, 1], vec![0.0, 0.1]).unwrap(),
    );
    let method = Method::Inlier { weight: 0.1, quantile: 0.5 };
    let error = Defence::new(&config(method, None, None), Some(Arc::new(fitted.unwrap())), ScoreKind::Logits, 3);
    assert_eq!(error.map(|_| ()).unwrap_err(), DefenceError::NoInlier { class: 1, quantile: 0.5 });
}

#[test]
fn a_bank_row_is_of_the_class_it_is_predicted_as() {
    let bad = Bank::new(array![[1.0, 1.0]], vec![0], vec![0.0]);
    assert_eq!(bad.map(|_| ()).unwrap_err(), BankError::Row { row: 0 });
    assert!(Bank::admits(&[0.0, 1.0], 1) && !Bank::admits(&[1.0, 1.0], 0) && !Bank::admits(&[0.0, 1.0], 0));
}

#[test]
fn settings_are_refused_one_by_one() {
    let wrong = config(Method::Inlier { weight: 1.5, quantile: 0.0 }, Some(0), Some(7));
    assert_eq!(
        wrong.check().unwrap_err(),
        [
            DefenceError::Weight { got: 1.5 },
            DefenceError::Quantile { got: 0.0 },
            DefenceError::TopK,
            DefenceError::Digits { got: 7 }
        ]
    );
    assert!(config(reweight(f64::NAN), None, None).check().is_err());
    for quantile in [-0.1, 1.0, f64::NAN] {
        let gate = Method::Reweight { weight: 0.1, when: Gate::DistanceAbove { quantile } };
        assert!(config(gate, None, None).check().is_err(), "{quantile}");
    }
}

#[test]
fn what_leaves_rows_as_they_are_is_not_served() {
    let served = |method, top_k, digits| {
        let fitted = fitted_with(three(), ScoreKind::Logits);
        Defence::new(&config(method, top_k, digits), Some(fitted), ScoreKind::Logits, 3).unwrap().check_served()
    };
    let gate = || Method::Reweight { weight: 0.1, when: Gate::DistanceAbove { quantile: 0.9 } };
    assert_eq!(served(gate(), None, None), Err(DefenceError::LetsRowsPass));
    assert_eq!(served(gate(), Some(2), None), Err(DefenceError::LetsRowsPass));
    assert_eq!(served(gate(), None, Some(2)), Ok(()));
    assert_eq!(served(reweight(0.1), None, None), Ok(()));
    assert_eq!(served(reweight(0.51), Some(2), Some(2)), Err(DefenceError::KeepsScores { weight: 0.51 }));
    let inlier = Method::Inlier { weight: 1.0, quantile: 0.5 };
    assert_eq!(served(inlier, None, None), Err(DefenceError::KeepsScores { weight: 1.0 }));
    assert_eq!(served(Method::LabelOnly, None, None), Ok(()));
    assert_eq!(served(Method::AsIs, Some(1), Some(1)), Err(DefenceError::MovesNothing));
    assert_eq!(config(Method::AsIs, None, None).check(), Err(vec![DefenceError::Nothing]));
}

#[test]
fn an_artifact_for_another_model_is_refused() {
    let new = |kind, n| Defence::new(&DefenceConfig::default(), Some(fitted_with(three(), ScoreKind::Logits)), kind, n);
    assert_eq!(new(ScoreKind::Logits, 4).map(|_| ()).unwrap_err(), DefenceError::Classes { model: 4, artifact: 3 });
    assert!(matches!(new(ScoreKind::Probabilities, 3), Err(DefenceError::Kind { .. })));
    let none = Defence::new(&DefenceConfig::default(), None, ScoreKind::Logits, 3);
    assert!(matches!(none, Err(DefenceError::NeedsArtifact { .. })));
    let defence = new(ScoreKind::Logits, 3).unwrap();
    let other = RawScores::new(array![[0.0, 1.0]], ScoreKind::Logits).unwrap();
    assert!(matches!(defence.apply(other), Err(DefendError::Classes { .. })));
}

#[test]
fn quantiles_do_not_fall_and_interpolate() {
    let table = quantiles_of(&mut [0.4, 0.0, 0.2]);
    assert_eq!((table[0], table[50], table[100]), (0.0, 0.2, 0.4));
    assert!((table[25] - 0.1).abs() < 1e-6);
    let quantiles = DistanceQuantiles::new(Array2::from_shape_fn((1, N_QUANTILES), |(_, j)| table[j]), 1).unwrap();
    assert!((quantiles.at(0, 0.755) - 0.302).abs() < 1e-6);
    assert_eq!(quantiles_of(&mut []), [0.0; N_QUANTILES]);
}

// === properties ===

/// Logits of every size: usual, equal, one ulp apart, huge, tiny.
fn logit() -> impl Strategy<Value = f32> {
    prop_oneof![
        6 => -30.0_f32..30.0,
        2 => prop_oneof![Just(0.0_f32), Just(1.0), Just(1.0_f32.next_up()), Just(-0.0), Just(-1.0)],
        1 => prop_oneof![Just(f32::MAX), Just(f32::MIN), Just(f32::MAX.next_down()), Just(1e38), Just(-1e38)],
        1 => prop_oneof![Just(f32::MIN_POSITIVE), Just(1e-45), Just(-1e-45), Just(1e-30)],
    ]
}

fn rows(max_classes: usize) -> impl Strategy<Value = Array2<f32>> {
    (1_usize..6, 1..=max_classes).prop_flat_map(|(n, k)| {
        prop::collection::vec(logit(), n * k).prop_map(move |v| Array2::from_shape_vec((n, k), v).unwrap())
    })
}

fn any_config() -> impl Strategy<Value = DefenceConfig> {
    let gate = prop_oneof![Just(Gate::Always), (0.0..1.0).prop_map(|quantile| Gate::DistanceAbove { quantile })];
    let method = prop_oneof![
        3 => (0.0..=1.0, gate).prop_map(|(weight, when)| Method::Reweight { weight, when }),
        2 => (0.0..=1.0, 0.01..=1.0).prop_map(|(weight, quantile)| Method::Inlier { weight, quantile }),
        1 => Just(Method::LabelOnly),
        1 => Just(Method::AsIs),
    ];
    (method, prop::option::of(1_usize..14), prop::option::of(1..=MAX_DIGITS)).prop_map(|(method, top_k, digits)| {
        // The model's own scores want a mask or rounding.
        let top_k = if method == Method::AsIs && digits.is_none() { top_k.or(Some(2)) } else { top_k };
        DefenceConfig { method, top_k, digits }
    })
}

fn argmax_of(row: &[f32]) -> usize {
    (0..row.len()).rev().max_by(|&a, &b| row[a].partial_cmp(&row[b]).unwrap()).unwrap()
}

/// R4, R5 and softmax, plainly, in f64.
fn oracle(config: &DefenceConfig, z: &[f32], centroids: &Array2<f32>) -> Option<(Vec<f64>, f64)> {
    let Method::Reweight { weight, when: Gate::Always } = config.method else { return None };
    let label = argmax_of(z);
    let z: Vec<f64> = z.iter().map(|&z| f64::from(z)).collect();
    let c: Vec<f64> = centroids.row(label).iter().map(|&c| f64::from(c)).collect();
    let dot: f64 = z.iter().zip(&c).map(|(a, b)| a * b).sum();
    let norm = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
    let cosine = if norm(&z) * norm(&c) > 0.0 { dot / (norm(&z) * norm(&c)) } else { 0.0 };
    let s = (weight * cosine).clamp(0.0, 1.0);
    let moved: Vec<f64> = z.iter().zip(&c).map(|(z, c)| s * z + (1.0 - s) * c).collect();
    let mut order: Vec<usize> = (0..z.len()).collect();
    order.sort_by(|&a, &b| (b == label).cmp(&(a == label)).then(moved[b].total_cmp(&moved[a])).then(a.cmp(&b)));
    let kept = &order[..config.top_k.unwrap_or(z.len()).min(z.len())];
    // How near the last kept entry is to the first dropped one: closer than rounding, either may be kept.
    let gap = order.get(kept.len()).map_or(f64::INFINITY, |&next| (moved[*kept.last().unwrap()] - moved[next]).abs());
    let sum: f64 = kept.iter().map(|&j| (moved[j] - moved[label]).exp()).sum();
    let mut p = vec![0.0; z.len()];
    for &j in kept {
        p[j] = (moved[j] - moved[label]).exp() / sum;
    }
    Some((p, gap))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn rows_are_distributions_that_keep_the_label(values in rows(12), config in any_config()) {
        let expected: Vec<u32> = values.rows().into_iter().map(|row| argmax_of(row.as_slice().unwrap()) as u32).collect();
        let n_kept = config.top_k.unwrap_or(usize::MAX);
        let defended = defend(&config, values, ScoreKind::Logits);
        prop_assert_eq!(defended.labels(), &expected[..]);
        let logs = defended.log_probabilities();
        for (row, label) in defended.probabilities().rows().into_iter().zip(&expected) {
            let row = row.as_slice().unwrap();
            prop_assert!(row.iter().all(|p| p.is_finite() && *p >= 0.0), "{row:?}");
            prop_assert!((row.iter().map(|&p| f64::from(p)).sum::<f64>() - 1.0).abs() < 1e-6, "{row:?}");
            prop_assert_eq!(argmax_of(row), *label as usize, "{:?}", row);
            prop_assert!(row.iter().filter(|p| **p != 0.0).count() <= n_kept, "{row:?}");
        }
        for (row, label) in logs.rows().into_iter().zip(&expected) {
            let row = row.as_slice().unwrap();
            prop_assert!(row.iter().all(|p| p.is_finite() && *p <= 0.0), "{row:?}");
            prop_assert_eq!(argmax_of(row), *label as usize, "{:?}", row);
        }
    }

    #[test]
    fn rounded_rows_sum_to_one_in_units(values in rows(12), digits in 1..=MAX_DIGITS, top_k in prop::option::of(1_usize..14)) {
        let defended = defend(&config(reweight(0.3), top_k, Some(digits)), values, ScoreKind::Logits);
        let scale = 10_f64.powi(i32::from(digits));
        for row in defended.probabilities().rows() {
            let units: Vec<i64> = row.iter().map(|&p| (f64::from(p) * scale).round() as i64).collect();
            prop_assert_eq!(units.iter().sum::<i64>(), scale as i64);
            for (&p, &unit) in row.iter().zip(&units) {
                prop_assert_eq!(p, (unit as f64 / scale) as f32);
            }
        }
    }

    #[test]
    fn permuting_rows_permutes_the_output(values in rows(12), config in any_config(), turn in 0_usize..6) {
        let n = values.nrows();
        let order: Vec<usize> = (0..n).map(|row| (row + turn) % n).collect();
        let whole = defend(&config, values.clone(), ScoreKind::Logits);
        let turned = defend(&config, values.select(ndarray::Axis(0), &order), ScoreKind::Logits);
        prop_assert_eq!(turned.probabilities(), whole.probabilities().select(ndarray::Axis(0), &order));
    }

    #[test]
    fn the_fast_path_agrees_with_the_slow_oracle(values in rows(40), weight in 0.0..=1.0, top_k in prop::option::of(1_usize..45)) {
        let config = config(reweight(weight), top_k, None);
        let centroids = if values.ncols() == 3 { three() } else { identity(values.ncols()) };
        let defended = defend(&config, values.clone(), ScoreKind::Logits);
        for (z, row) in values.rows().into_iter().zip(defended.probabilities().rows()) {
            let (expected, gap) = oracle(&config, z.as_slice().unwrap(), &centroids).unwrap();
            prop_assume!(gap > 1e-9);
            for (got, expected) in row.iter().zip(&expected) {
                prop_assert!((f64::from(*got) - expected).abs() < 2e-7, "{got} {expected}");
            }
        }
    }

    #[test]
    fn probabilities_in_keep_their_label(values in rows(12), config in any_config()) {
        let soft = offline::softmax(&values, 1.0).mapv(|p| p as f32);
        let expected: Vec<u32> = soft.rows().into_iter().map(|row| argmax_of(row.as_slice().unwrap()) as u32).collect();
        for (kind, scores) in [(ScoreKind::Probabilities, soft.clone()), (ScoreKind::LogProbabilities, soft.mapv(f32::ln))] {
            let defended = defend(&config, scores, kind);
            for (row, label) in defended.probabilities().rows().into_iter().zip(&expected) {
                if kind == ScoreKind::Probabilities {
                    prop_assert_eq!(argmax_of(row.as_slice().unwrap()), *label as usize);
                }
                prop_assert!((row.iter().map(|&p| f64::from(p)).sum::<f64>() - 1.0).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn no_input_makes_the_defence_panic(bits in prop::collection::vec(any::<u32>(), 1..40), k in 1_usize..6, config in any_config(), kind in 0..3) {
        let kind = [ScoreKind::Logits, ScoreKind::Probabilities, ScoreKind::LogProbabilities][kind as usize];
        let n = bits.len() / k;
        prop_assume!(n > 0);
        let values: Vec<f32> = bits[..n * k].iter().map(|&bits| f32::from_bits(bits)).collect();
        if let Ok(raw) = RawScores::new(Array2::from_shape_vec((n, k), values).unwrap(), kind) {
            let defence = Defence::new(&config, Some(fitted_with(identity(k), kind)), kind, k).unwrap();
            let defended = defence.apply(raw).unwrap();
            prop_assert!(defended.probabilities().iter().all(|p| p.is_finite()));
        }
    }

    #[test]
    fn the_tree_finds_what_brute_force_finds(k in 1_usize..40, n in 1_usize..200, seed in any::<u64>(), equal in 0_usize..3) {
        use rand::{Rng, SeedableRng};
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let mut draw = |class: usize| -> Vec<f32> {
            let mut z: Vec<f32> = (0..k).map(|_| match equal {
                0 => rng.random_range(-3.0..3.0),
                1 => f32::from(rng.random_range(0_u8..2)),
                _ => 0.25,
            }).collect();
            z[class] = 4.0;
            z
        };
        let labels: Vec<u32> = (0..n.max(k)).map(|row| (row % k) as u32).collect();
        let values: Vec<f32> = labels.iter().flat_map(|&label| draw(label as usize)).collect();
        let query: Vec<f32> = draw(0).iter().map(|z| z * 0.7 - 0.1).collect();
        let bank = Bank::new(Array2::from_shape_vec((labels.len(), k), values).unwrap(), labels.clone(), vec![0.0; labels.len()]).unwrap();
        let index = inlier::InlierIndex::new(&bank, |_| 1.0).unwrap();
        for label in 0..k {
            prop_assert_eq!(index.nearest(&query, label), index.nearest_by_brute_force(&query, label));
        }
    }
}
