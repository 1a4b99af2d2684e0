//! Made-up rows of the shape of Purchase100, so that its network can be trained at full size without the set.
//!
//! How a row is made, in whole numbers of sixteen bits alone, so that every machine makes the same bytes:
//!
//! 1. Each of the 600 features has a popularity `⌊u³ / 2³²⌋`, `u` uniform on 0..2¹⁶: a few are common, most are rare.
//! 2. Each of the 100 classes has a profile: the popularities, but each with chance `CHANGED / 2¹⁶` replaced by a new
//!    one drawn in the same way.
//! 3. A row is of a uniform class; each feature is 1 with its profile's chance, independently (Bernoulli clusters).
//!
//! So classes differ in few features, and a network must learn which: 20,000 rows are too few to do that as well as
//! Bayes' rule does, which is where the gap between train and test accuracy comes from.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};

use super::values::{Numbers, Rows};
use super::{Classes, Dataset};

/// The word that names it in a source.
pub(super) const WORD: &str = "purchase-look-alike";
/// Rows of Purchase100.
pub(super) const N_ROWS: usize = 197_324;
/// More are not made: they lie in memory.
pub(super) const MAX_ROWS: usize = 10_000_000;
/// Classes of Purchase100.
pub(super) const N_CLASSES: usize = 100;
const N_FEATURES: usize = 600;
/// Of 2¹⁶: the chance that a class has its own popularity for a feature. It was chosen so that the fully connected
/// network of the papers, trained on 20,000 rows, is about as far from its train accuracy on other rows as on
/// Purchase100.
const CHANGED: u16 = 2_690;
/// Streams of the generator that nothing else draws from: profiles, then rows.
const STREAMS: [u64; 2] = [7 << 32, (7 << 32) + 1];

/// Makes rows. Fewer rows of a seed are the first of more.
pub(super) fn purchase(n_rows: usize, seed: u64) -> Dataset {
    let [mut of_profiles, mut of_rows] = STREAMS.map(|stream| {
        let mut generator = ChaCha8Rng::seed_from_u64(seed);
        generator.set_stream(stream);
        generator
    });
    let profiles = profiles(&mut of_profiles);
    let mut labels = Vec::with_capacity(n_rows);
    let mut features = Vec::with_capacity(n_rows * N_FEATURES);
    let mut draws = [0; 2 * N_FEATURES];
    for _ in 0..n_rows {
        let label = (u64::from(of_rows.next_u32()) * N_CLASSES as u64) >> 32;
        labels.push(label as u32);
        of_rows.fill_bytes(&mut draws);
        let profile = &profiles[label as usize];
        let draws = draws.as_chunks().0.iter().map(|&bytes| u16::from_le_bytes(bytes));
        features.extend(draws.zip(profile).map(|(draw, &chance)| u8::from(draw < chance)));
    }
    let names = (1..=N_CLASSES).map(|label| label.to_string()).collect();
    Dataset::new(vec![N_FEATURES], Classes::named(names), labels, Rows::Numbers(Numbers::Bytes(features)))
}

/// The chance of each feature in each class, of 2¹⁶.
fn profiles(generator: &mut ChaCha8Rng) -> Vec<[u16; N_FEATURES]> {
    let mut sixteen = || {
        let mut bytes = [0; 2];
        generator.fill_bytes(&mut bytes);
        u16::from_le_bytes(bytes)
    };
    let common: [u16; N_FEATURES] = std::array::from_fn(|_| popularity(sixteen()));
    let profile = |_| {
        common.map(|common| {
            let (is_changed, own) = (sixteen() < CHANGED, popularity(sixteen()));
            if is_changed { own } else { common }
        })
    };
    (0..N_CLASSES).map(profile).collect()
}

fn popularity(uniform: u16) -> u16 {
    (u64::from(uniform).pow(3) >> 32) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_machine_makes_the_same_bytes() {
        assert_eq!(purchase(1_000, 0).digest(), "81619a521fd6517d038458ab502ff524ba846eab26eceacb259a279d050f050b");
        assert_ne!(purchase(1_000, 1).digest(), purchase(1_000, 0).digest());
    }

    #[test]
    fn rows_are_of_the_shape_of_purchase100_and_fewer_are_the_first_of_more() {
        let (few, more) = (purchase(300, 5), purchase(2_000, 5));
        assert_eq!((few.row_shape(), few.n_classes()), ([600].as_slice(), 100));
        assert_eq!(few.labels(), &more.labels()[..300]);
        assert_eq!(few.batch(&[0, 299]), more.batch(&[0, 299]));
        let all: Vec<usize> = (0..2_000).collect();
        let batch = more.batch(&all);
        assert!(batch.iter().all(|&value| value == 0.0 || value == 1.0));
        let share = batch.iter().sum::<f32>() / batch.len() as f32;
        assert!((0.2..0.3).contains(&share), "a quarter of u³ on average, not {share}");
    }
}
