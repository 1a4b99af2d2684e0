//! The permutation null of the two-sided advantage (R12 a): how wide `max |TPR − FPR|` gets when membership says
//! nothing.
//!
//! `max |TPR − FPR|` is never below 0 and grows with few rows, so it means nothing without this. The scores (and
//! their ties) stay, the memberships are dealt anew. Every score column of one run is judged under the same
//! deals, so the null of a *maximum over attacks* comes at no extra cost.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use crate::audit::interval::quantile;
use crate::audit::parallel;
use crate::audit::roc::Ranking;

/// How a null is drawn.
#[derive(Debug, Clone, Copy)]
pub struct Permutations {
    /// Number of deals.
    pub n: usize,
    /// Seed; deal `i` uses stream `i`, so the number of threads does not matter.
    pub seed: u64,
}

/// What the null says about one observed advantage.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Null {
    /// Mean of the null: the noise floor.
    pub mean: f64,
    /// Its 95 % quantile: an advantage up to here is within the null.
    pub q95: f64,
    /// `(1 + deals at least as wide as observed) / (1 + deals)`.
    pub p_value: f64,
}

/// The advantages of several score columns under the same deals.
#[derive(Debug, Clone)]
pub struct NullDraws {
    /// One row per deal, one column per ranking.
    draws: Vec<Vec<f64>>,
}

impl Permutations {
    /// Deals `n_members` memberships over the rows, `n` times, and takes the advantage of every ranking. All
    /// rankings must be of the same rows, with at least one row on each side.
    #[must_use]
    pub fn draw(&self, rankings: &[&Ranking], n_members: usize) -> NullDraws {
        let n_rows = rankings.first().map_or(0, |ranking| ranking.n_rows());
        debug_assert!(rankings.iter().all(|ranking| ranking.n_rows() == n_rows));
        let deal = |index: usize| -> Vec<f64> {
            let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
            rng.set_stream(index as u64);
            let mut memberships: Vec<u8> = (0..n_rows).map(|row| u8::from(row < n_members)).collect();
            memberships.shuffle(&mut rng);
            rankings.iter().map(|ranking| ranking.two_sided_advantage(&memberships, n_members as u64)).collect()
        };
        NullDraws { draws: parallel::map(self.n, deal) }
    }
}

impl NullDraws {
    /// The null of the maximum over the given columns, beside what was observed; `None` without deals or columns.
    #[must_use]
    pub fn of_maximum(&self, columns: &[usize], observed: f64) -> Option<Null> {
        if self.draws.is_empty() || columns.is_empty() {
            return None;
        }
        let mut maxima: Vec<f64> =
            self.draws.iter().map(|row| columns.iter().map(|&column| row[column]).fold(0.0, f64::max)).collect();
        maxima.sort_by(f64::total_cmp);
        // The same arithmetic made both sides, so equal advantages compare equal up to the last bits.
        let as_wide = maxima.len() - maxima.partition_point(|&width| width < observed - 1e-12);
        Some(Null {
            mean: maxima.iter().sum::<f64>() / maxima.len() as f64,
            q95: quantile(&maxima, 0.95),
            p_value: (1 + as_wide) as f64 / (1 + maxima.len()) as f64,
        })
    }
}

#[cfg(test)]
mod tests {
    use rand::Rng;

    use super::*;

    fn continuous(n_rows: usize, seed: u64) -> Ranking {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let scores: Vec<f64> = (0..n_rows).map(|_| rng.random::<f64>()).collect();
        Ranking::new(&scores).unwrap()
    }

    #[test]
    fn the_null_of_continuous_scores_is_the_known_one() {
        // Two-sample Kolmogorov-Smirnov: mean ≈ .8687·√(1/m + 1/n), 95 % ≈ 1.358·√(1/m + 1/n).
        let ranking = continuous(3_000, 1);
        let null = Permutations { n: 1_000, seed: 7 }.draw(&[&ranking], 1_500).of_maximum(&[0], 0.031).unwrap();
        let scale = (2.0 / 1_500.0_f64).sqrt();
        assert!((null.mean - 0.8687 * scale).abs() < 0.002, "{null:?}");
        assert!((null.q95 - 1.358 * scale).abs() < 0.004, "{null:?}");
        assert!((0.3..0.7).contains(&null.p_value), "{null:?}");
    }

    #[test]
    fn one_seed_gives_one_null() {
        let ranking = continuous(200, 2);
        let draw = |seed| Permutations { n: 50, seed }.draw(&[&ranking], 80).of_maximum(&[0], 0.1).unwrap();
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn constant_scores_have_no_null_width() {
        let ranking = Ranking::new(&[1.0; 40]).unwrap();
        let null = Permutations { n: 20, seed: 1 }.draw(&[&ranking], 20).of_maximum(&[0], 0.0).unwrap();
        assert_eq!((null.mean, null.q95, null.p_value), (0.0, 0.0, 1.0));
    }

    #[test]
    fn the_null_of_a_maximum_is_the_wider() {
        let (a, b) = (continuous(400, 3), continuous(400, 4));
        let draws = Permutations { n: 200, seed: 5 }.draw(&[&a, &b], 200);
        let one = draws.of_maximum(&[0], 0.2).unwrap();
        let both = draws.of_maximum(&[0, 1], 0.2).unwrap();
        assert!(both.mean > one.mean && both.q95 >= one.q95);
        assert!(draws.of_maximum(&[], 0.2).is_none());
    }
}
