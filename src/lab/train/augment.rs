//! Random changes of a batch before the network sees it: of images one by one, and of rows mixed with one another.

use ndarray::{Array2, ArrayD, Axis};
use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Beta, Distribution};

use crate::lab::recipe::{Augmentation, Mixup};

/// Changes each image of a batch as [`Augmentation`] says; one generator draws for all images, or one for each.
///
/// # Shapes
///
/// `images` is `(n_rows, channels, height, width)`.
pub(super) fn augment(images: &mut ArrayD<f32>, augmentation: Augmentation, rngs: &mut [ChaCha8Rng]) {
    let &[n_images, n_channels, height, width] = images.shape() else {
        unreachable!("augmentation is refused for rows that are no images")
    };
    let values = images.as_slice_mut().expect("a batch lies in one piece");
    let mut before = vec![0.0f32; n_channels * height * width];
    let images_each = n_images.div_ceil(rngs.len().max(1)).max(1);
    for (images, rng) in values.chunks_mut(before.len() * images_each).zip(rngs) {
        for image in images.chunks_mut(before.len()) {
            let change = Change::draw(augmentation, rng);
            before.copy_from_slice(image);
            change.apply(&before, image, (height, width));
        }
    }
}

/// What happens to one image.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Change {
    flip: bool,
    /// Pixels to the right and down.
    shift: (i64, i64),
    /// Radians, counter-clockwise as seen.
    angle: f64,
    factor: f64,
}

impl Change {
    fn draw(augmentation: Augmentation, rng: &mut ChaCha8Rng) -> Self {
        let Augmentation { flip, shift, rotate, scale } = augmentation;
        let shift = i64::try_from(shift).unwrap_or(i64::from(i32::MAX));
        Self {
            flip: flip && rng.random::<bool>(),
            shift: (rng.random_range(-shift..=shift), rng.random_range(-shift..=shift)),
            angle: rng.random_range(-rotate..=rotate).to_radians(),
            factor: rng.random_range(1.0 - scale..=1.0 + scale),
        }
    }

    /// For each pixel of the new image, the place in the old one that it shows: the change backwards.
    fn apply(self, before: &[f32], image: &mut [f32], (height, width): (usize, usize)) {
        let (sine, cosine) = self.angle.sin_cos();
        let centre = ((width as f64 - 1.0) / 2.0, (height as f64 - 1.0) / 2.0);
        let n_pixels = height * width;
        for y in 0..height {
            for x in 0..width {
                let right = x as f64 - centre.0 - self.shift.0 as f64;
                let down = y as f64 - centre.1 - self.shift.1 as f64;
                let from_right = (cosine * right - sine * down) / self.factor;
                let from_down = (sine * right + cosine * down) / self.factor;
                let from_right = if self.flip { -from_right } else { from_right };
                let corners = corners(from_right + centre.0, from_down + centre.1, height, width);
                for (plane, new) in before.chunks(n_pixels).zip(image.chunks_mut(n_pixels)) {
                    let sum: f64 = corners.iter().map(|&(at, share)| share * f64::from(plane[at])).sum();
                    new[y * width + x] = sum as f32;
                }
            }
        }
    }
}

/// The four pixels around a place with their shares; what lies outside has share 0.
fn corners(x: f64, y: f64, height: usize, width: usize) -> [(usize, f64); 4] {
    let (left, top) = (x.floor(), y.floor());
    let (right, below) = (x - left, y - top);
    [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0)].map(|(dx, dy): (f64, f64)| {
        let share = (if dx > 0.0 { right } else { 1.0 - right }) * (if dy > 0.0 { below } else { 1.0 - below });
        let (x, y) = (left + dx, top + dy);
        let inside = x >= 0.0 && y >= 0.0 && x < width as f64 && y < height as f64;
        if inside { (y as usize * width + x as usize, share) } else { (0, 0.0) }
    })
}

/// What mixup makes of one batch: each row's partner and its own share.
pub(super) struct Mixing {
    partners: Vec<usize>,
    share: f32,
}

impl Mixing {
    pub(super) fn draw(mixup: Mixup, n_rows: usize, rng: &mut ChaCha8Rng) -> Self {
        let mut partners: Vec<usize> = (0..n_rows).collect();
        partners.shuffle(rng);
        // Of an alpha so small that the draw is no number, nothing is mixed.
        let share = Beta::new(mixup.alpha, mixup.alpha).map_or(1.0, |beta| beta.sample(rng));
        Self { partners, share: if share.is_finite() { share as f32 } else { 1.0 } }
    }

    /// Mixes the rows of a batch, or their targets.
    pub(super) fn rows(&self, rows: &mut ArrayD<f32>) {
        let others = rows.select(Axis(0), &self.partners);
        rows.zip_mut_with(&others, |own, other| *own = self.share * *own + (1.0 - self.share) * other);
    }

    /// The same for targets.
    pub(super) fn targets(&self, targets: &mut Array2<f32>) {
        let others = targets.select(Axis(0), &self.partners);
        targets.zip_mut_with(&others, |own, other| *own = self.share * *own + (1.0 - self.share) * other);
    }

    /// The label of the larger share.
    pub(super) fn labels(&self, labels: &mut Vec<u32>) {
        if self.share < 0.5 {
            *labels = self.partners.iter().map(|&partner| labels[partner]).collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use rand_chacha::rand_core::SeedableRng;

    use super::*;

    const STILL: Change = Change { flip: false, shift: (0, 0), angle: 0.0, factor: 1.0 };

    /// `change` of the 3×3 image 1 to 9.
    fn changed(change: Change) -> Vec<f32> {
        let before: Vec<f32> = (1..=9u8).map(f32::from).collect();
        let mut image = vec![0.0; 9];
        change.apply(&before, &mut image, (3, 3));
        image
    }

    #[test]
    fn an_image_is_flipped_shifted_rotated_and_scaled_about_its_centre() {
        assert_eq!(changed(STILL), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]);
        assert_eq!(changed(Change { flip: true, ..STILL }), [3.0, 2.0, 1.0, 6.0, 5.0, 4.0, 9.0, 8.0, 7.0]);
        assert_eq!(changed(Change { shift: (1, 0), ..STILL }), [0.0, 1.0, 2.0, 0.0, 4.0, 5.0, 0.0, 7.0, 8.0]);
        assert_eq!(changed(Change { shift: (0, -2), ..STILL }), [7.0, 8.0, 9.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        let turned = changed(Change { angle: std::f64::consts::FRAC_PI_2, ..STILL });
        for (got, expected) in turned.iter().zip([3.0, 6.0, 9.0, 2.0, 5.0, 8.0, 1.0, 4.0, 7.0]) {
            assert!((got - expected).abs() < 1e-5, "{turned:?}");
        }
        // Twice as large: the corner shows the place half-way to the centre.
        let enlarged = changed(Change { factor: 2.0, ..STILL });
        assert_eq!((enlarged[0], enlarged[4], enlarged[5]), (3.0, 5.0, 5.5));
    }

    #[test]
    fn draws_keep_their_bounds_and_reach_them() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let augmentation = Augmentation { flip: true, shift: 2, rotate: 10.0, scale: 0.1 };
        let changes: Vec<Change> = (0..500).map(|_| Change::draw(augmentation, &mut rng)).collect();
        let flips = changes.iter().filter(|change| change.flip).count();
        assert!((200..300).contains(&flips), "{flips}");
        for side in -2..=2 {
            assert!(changes.iter().any(|change| change.shift.0 == side));
            assert!(changes.iter().any(|change| change.shift.1 == side));
        }
        let widest =
            |of: fn(&Change) -> f64| changes.iter().map(of).fold(0.0f64, |widest, value| widest.max(value.abs()));
        let degrees = widest(|change| change.angle.to_degrees());
        let factor = widest(|change| change.factor - 1.0);
        assert!((9.0..=10.0 + 1e-9).contains(&degrees) && (0.09..=0.1 + 1e-9).contains(&factor), "{degrees} {factor}");
        assert!(changes.iter().all(|change| change.shift.0.abs() <= 2 && change.shift.1.abs() <= 2));
        let none = Change::draw(Augmentation::default(), &mut rng);
        assert_eq!(none, STILL);
    }

    #[test]
    fn mixing_is_a_weighted_mean_with_a_partner_for_rows_and_targets_alike() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let mixing = Mixing::draw(Mixup { alpha: 1.0 }, 4, &mut rng);
        let mut rows = ArrayD::from_shape_vec(vec![4, 1], vec![1.0, 2.0, 3.0, 4.0]).unwrap();
        mixing.rows(&mut rows);
        let mut targets = Array2::eye(4);
        mixing.targets(&mut targets);
        assert!(mixing.share > 0.0 && mixing.share < 1.0);
        for (row, &partner) in mixing.partners.iter().enumerate() {
            let expected = mixing.share * (row as f32 + 1.0) + (1.0 - mixing.share) * (partner as f32 + 1.0);
            assert!((rows[[row, 0]] - expected).abs() < 1e-6);
            if row != partner {
                assert!((targets[[row, row]] - mixing.share).abs() < 1e-6);
                assert!((targets[[row, partner]] - (1.0 - mixing.share)).abs() < 1e-6);
            }
        }
        let mut labels = vec![10, 11, 12, 13];
        mixing.labels(&mut labels);
        let own = mixing.share >= 0.5;
        assert_eq!(labels[0] == 10, own || mixing.partners[0] == 0);
    }

    #[test]
    fn shares_are_beta_distributed() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let shares: Vec<f64> =
            (0..4_000).map(|_| f64::from(Mixing::draw(Mixup { alpha: 0.5 }, 1, &mut rng).share)).collect();
        let mean = shares.iter().sum::<f64>() / 4_000.0;
        let variance = shares.iter().map(|share| (share - mean).powi(2)).sum::<f64>() / 4_000.0;
        // Beta(α, α): mean ½, variance 1 / (4 (2α + 1)).
        assert!((mean - 0.5).abs() < 0.02 && (variance - 0.125).abs() < 0.005, "{mean} {variance}");
    }
}
