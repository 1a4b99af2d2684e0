//! Whether a bank has a model for every two rows: one that saw neither of them.
//!
//! A router that leaves out the two records nearest to a query (R11) needs one. A deal by folds that leaves out two has one for every
//! pair; a deal of random shares has one for most, and which it lacks is known only by looking.

use std::collections::HashMap;

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::{Deserialize, Serialize};

use super::inclusion::Inclusion;
use crate::lab::streams;

/// The stream of the generator that draws pairs.
const PAIRS_STREAM: u64 = streams::INCLUSION + (1 << 31) + 2;
/// So many pairs of unlike rows are all looked at; of more a sample is drawn.
const MAX_EXACT: u64 = 100_000_000;
/// Pairs in a sample.
const SAMPLED: u64 = 1_000_000;

/// How many pairs of rows of a pool no model may answer for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pairs {
    /// Pairs that were looked at.
    pub n_pairs: u64,
    /// Those of them of which every model saw a row.
    pub n_without_model: u64,
    /// Whether all pairs of the pool were looked at; if not, a sample that the deal's seed draws.
    pub exact: bool,
}

impl Pairs {
    /// Looks at the pairs of a pool.
    #[must_use]
    pub fn of(inclusion: &Inclusion) -> Self {
        let rows: Vec<Vec<u64>> = (0..inclusion.rows().len()).map(|place| strangers(inclusion, place)).collect();
        let mut alike: HashMap<&[u64], u64> = HashMap::new();
        rows.iter().for_each(|row| *alike.entry(row).or_default() += 1);
        let n_kinds = alike.len() as u64;
        if n_kinds * n_kinds / 2 <= MAX_EXACT { exact(&alike) } else { sampled(&rows, inclusion.seed()) }
    }
}

/// One bit for each model that never saw the row at this place.
fn strangers(inclusion: &Inclusion, place: usize) -> Vec<u64> {
    let mut words = vec![0; inclusion.n_models().div_ceil(64)];
    for (model, _) in inclusion.of_row(place).iter().enumerate().filter(|(_, count)| **count == 0) {
        words[model / 64] |= 1 << (model % 64);
    }
    words
}

fn none_for_both(one: &[u64], other: &[u64]) -> bool {
    one.iter().zip(other).all(|(one, other)| one & other == 0)
}

/// Rows that the same models saw are counted together.
fn exact(alike: &HashMap<&[u64], u64>) -> Pairs {
    let kinds: Vec<(&[u64], u64)> = alike.iter().map(|(kind, n)| (*kind, *n)).collect();
    let (mut n_pairs, mut n_without_model) = (0, 0);
    for (at, (one, n)) in kinds.iter().enumerate() {
        let own = n * (n - 1) / 2;
        let pairs = kinds[at + 1..].iter().map(|(other, m)| (none_for_both(one, other), n * m));
        for (is_without, pairs) in pairs.chain([(none_for_both(one, one), own)]) {
            n_pairs += pairs;
            n_without_model += if is_without { pairs } else { 0 };
        }
    }
    Pairs { n_pairs, n_without_model, exact: true }
}

fn sampled(rows: &[Vec<u64>], seed: u64) -> Pairs {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(PAIRS_STREAM);
    let draw = |rng: &mut ChaCha8Rng| {
        let (one, other) = (rng.random_range(0..rows.len()), rng.random_range(0..rows.len() - 1));
        none_for_both(&rows[one], &rows[other + usize::from(other >= one)])
    };
    let n_without_model = (0..SAMPLED).filter(|_| draw(&mut rng)).count() as u64;
    Pairs { n_pairs: SAMPLED, n_without_model, exact: false }
}

#[cfg(test)]
mod tests {
    use super::super::inclusion::{Design, Pool};
    use super::*;

    fn deal(design: Design, n_rows: usize) -> Inclusion {
        let rows: Vec<usize> = (0..n_rows).collect();
        Inclusion::draw(design, &Pool::new(&rows).unwrap(), 5).unwrap()
    }

    #[test]
    fn two_of_some_folds_left_out_have_a_model_for_every_pair_and_one_left_out_has_none_across() {
        let two = Pairs::of(&deal(Design::Folds { folds: 5, leave: 2 }, 40));
        assert_eq!(two, Pairs { n_pairs: 780, n_without_model: 0, exact: true });
        // Five folds of eight: only pairs within a fold have a model.
        let one = Pairs::of(&deal(Design::Folds { folds: 5, leave: 1 }, 40));
        assert_eq!(one, Pairs { n_pairs: 780, n_without_model: 780 - 5 * 28, exact: true });
    }

    #[test]
    fn pairs_are_counted_as_one_by_one_and_a_sample_is_near() {
        let inclusion = deal(Design::Share { models: 24, share: 0.6 }, 60);
        let pairs = Pairs::of(&inclusion);
        let by_hand = (0..60).flat_map(|one| (0..one).map(move |other| [one, other]));
        let without = by_hand.filter(|pair| inclusion.eligible(pair).is_empty()).count() as u64;
        assert_eq!(pairs, Pairs { n_pairs: 1770, n_without_model: without, exact: true });
        assert!(without > 0, "a deal of shares that lacks none tests nothing");
        let rows: Vec<Vec<u64>> = (0..60).map(|place| strangers(&inclusion, place)).collect();
        let sample = sampled(&rows, 1);
        let share = |pairs: Pairs| pairs.n_without_model as f64 / pairs.n_pairs as f64;
        assert!((share(sample) - share(pairs)).abs() < 1e-3 && !sample.exact, "{sample:?} {pairs:?}");
    }
}
