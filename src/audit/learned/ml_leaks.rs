//! The three adversaries of ML-Leaks (Salem et al. 2019), done as the paper describes them.
//!
//! | adversary | has | learns | where |
//! | --- | --- | --- | --- |
//! | 1 | a shadow model of the same data | a classifier of the three largest entries | [`LearnedFrom`](crate::audit::study::LearnedFrom) |
//! | 2 | a shadow model of *other* data, of any classes | the same | the same, [`ShadowOf::OtherData`](crate::audit::study::ShadowOf) |
//! | 3 | no shadow | nothing: the largest entry is the score | [`random_point_threshold`] |
//!
//! What 1 and 2 learn is **fitted on the shadow and judged on the target**. (The paper's published code does it the other way
//! round, and so does the report that copies it.) Their rule is odds of 1 and none fitted to the target's rows; adversary 3's
//! is what one in ten random points passes. No adversary sees labels that a training defence has changed.

use crate::audit::interval::quantile;

/// The share of random points that pass adversary 3's threshold: the paper's t.
pub const RANDOM_SHARE: f64 = 0.1;

/// Adversary 3's threshold: what the share `passing` of `largest` pass, the largest entries of answers to random inputs,
/// none of which is a member. `None` without answers.
#[must_use]
pub fn random_point_threshold(mut largest: Vec<f64>, passing: f64) -> Option<f64> {
    largest.sort_by(f64::total_cmp);
    (!largest.is_empty()).then(|| quantile(&largest, 1.0 - passing))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_in_ten_random_points_passes() {
        let largest: Vec<f64> = (0..=1_000).rev().map(|n| f64::from(n) / 1_000.0).collect();
        let threshold = random_point_threshold(largest.clone(), RANDOM_SHARE).unwrap();
        assert!((threshold - 0.9).abs() < 1e-12, "{threshold}");
        assert_eq!(largest.iter().filter(|&&value| value > threshold).count(), 100);
        assert!(random_point_threshold(Vec::new(), RANDOM_SHARE).is_none());
    }
}
