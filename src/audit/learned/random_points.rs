//! Random inputs for ML-Leaks' adversary 3: points of the input space that nobody was trained on.

use ndarray::{ArrayD, Axis, IxDyn};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The range of each feature over some rows, and which features hold whole numbers alone.
#[derive(Debug, Clone, PartialEq)]
pub struct FeatureRanges {
    low: ArrayD<f32>,
    high: ArrayD<f32>,
    whole: ArrayD<bool>,
}

impl FeatureRanges {
    /// Over all rows of `batches`, each of shape (n_rows, row shape…); `None` without a row.
    #[must_use]
    pub fn of(batches: impl IntoIterator<Item = ArrayD<f32>>) -> Option<Self> {
        let mut ranges: Option<Self> = None;
        for row in batches.into_iter().flat_map(|batch| {
            let rows: Vec<ArrayD<f32>> = batch.axis_iter(Axis(0)).map(|row| row.to_owned()).collect();
            rows
        }) {
            let whole = row.mapv(|value| value.fract() == 0.0);
            match &mut ranges {
                None => ranges = Some(Self { low: row.clone(), high: row, whole }),
                Some(ranges) => {
                    ranges.low.zip_mut_with(&row, |low, &value| *low = low.min(value));
                    ranges.high.zip_mut_with(&row, |high, &value| *high = high.max(value));
                    ranges.whole.zip_mut_with(&whole, |all, &one| *all &= one);
                }
            }
        }
        ranges
    }

    /// `n` points, each feature drawn uniformly from its range and on its own; a feature of whole numbers from those.
    /// Shape (n, row shape…).
    #[must_use]
    pub fn draw(&self, n: usize, rng: &mut ChaCha8Rng) -> ArrayD<f32> {
        let shape: Vec<usize> = std::iter::once(n).chain(self.low.shape().iter().copied()).collect();
        let mut points = ArrayD::zeros(IxDyn(&shape));
        for mut point in points.axis_iter_mut(Axis(0)) {
            let features = point.iter_mut().zip(&self.low).zip(self.high.iter().zip(&self.whole));
            for ((value, &low), (&high, &whole)) in features {
                *value = if whole {
                    (f64::from(low) + rng.random_range(0.0..1.0) * (f64::from(high - low) + 1.0))
                        .floor()
                        .min(f64::from(high)) as f32
                } else {
                    low + rng.random_range(0.0..=1.0_f32) * (high - low)
                };
            }
        }
        points
    }

    /// The generator of a study's points.
    #[must_use]
    pub fn generator(seed: u64) -> ChaCha8Rng {
        ChaCha8Rng::seed_from_u64(seed)
    }
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    #[test]
    fn points_lie_in_the_range_of_each_feature_and_whole_numbers_stay_whole() {
        let rows = array![[0.0, -2.5, 10.0], [1.0, 4.5, 10.0], [1.0, 0.0, 10.0]].into_dyn();
        let ranges = FeatureRanges::of([rows]).unwrap();
        let points = ranges.draw(2_000, &mut FeatureRanges::generator(1));
        assert_eq!(points.shape(), [2_000, 3]);
        let column = |feature: usize| points.index_axis(Axis(1), feature).iter().copied().collect::<Vec<f32>>();
        let ones = column(0).iter().filter(|&&value| value == 1.0).count();
        assert!(column(0).iter().all(|&value| value == 0.0 || value == 1.0) && (850..1_150).contains(&ones), "{ones}");
        let wide = column(1);
        assert!(wide.iter().all(|value| (-2.5..=4.5).contains(value)));
        let mean = wide.iter().sum::<f32>() / 2_000.0;
        assert!((mean - 1.0).abs() < 0.2, "{mean}");
        assert!(column(2).iter().all(|&value| value == 10.0));
        // Features are drawn on their own.
        let both = column(0).iter().zip(&wide).filter(|(bit, value)| **bit == 1.0 && **value > 1.0).count();
        assert!((400..600).contains(&both), "{both}");
    }

    #[test]
    fn one_seed_gives_the_same_points_in_one_draw_or_in_two() {
        let ranges = FeatureRanges::of([array![[0.0, 0.5], [1.0, 0.7]].into_dyn()]).unwrap();
        let whole = ranges.draw(6, &mut FeatureRanges::generator(4));
        let mut rng = FeatureRanges::generator(4);
        let parts = [ranges.draw(2, &mut rng), ranges.draw(4, &mut rng)];
        let parts = ndarray::concatenate(Axis(0), &[parts[0].view(), parts[1].view()]).unwrap();
        assert_eq!(whole, parts);
        assert!(FeatureRanges::of([]).is_none());
    }
}
