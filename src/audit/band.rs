//! How far an empirical `max |TPR − FPR|` may be from the population's, its threshold having been chosen on the very
//! rows that it is told about.
//!
//! The error of the maximum is at most the largest error of `TPR − FPR` over *all* thresholds, whichever of them was
//! chosen: `|D̂ − D| ≤ sup_t |(T̂PR − F̂PR)(t) − (TPR − FPR)(t)|`. The law of that supremum is had by resampling members
//! and non-members each among themselves and taking the supremum of the *centred* difference, which is consistent whether
//! or not anything leaks (the bootstrap of the maximum itself is not, where nothing does). The same draws serve all
//! attacks, so the band of a maximum over attacks is the quantile of the largest supremum: corrected for having tried many.
//! It is the wider price of the figure (a) of R12; (b), whose threshold is fixed elsewhere, has the narrower interval.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::audit::interval::Interval;
use crate::audit::parallel;
use crate::audit::roc::Ranking;

/// How bands are drawn.
#[derive(Debug, Clone, Copy)]
pub struct Bands {
    /// Number of resamples.
    pub n: usize,
    /// Seed; resample `i` uses stream `i`, so the number of threads does not matter.
    pub seed: u64,
}

/// The largest centred differences of several rankings under the same resamples.
#[derive(Debug, Clone)]
pub struct BandDraws {
    /// One row a resample, one column a ranking.
    draws: Vec<Vec<f64>>,
}

impl Bands {
    /// Resamples the rows of all `rankings`, which must be of the same rows with these `memberships`, at least one on
    /// each side.
    #[must_use]
    pub fn draw(&self, rankings: &[&Ranking], memberships: &[bool]) -> BandDraws {
        let side =
            |wanted: bool| -> Vec<usize> { (0..memberships.len()).filter(|&row| memberships[row] == wanted).collect() };
        let (members, non_members) = (side(true), side(false));
        let resample = |index: usize| -> Vec<f64> {
            let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
            rng.set_stream(index as u64);
            let mut weights = vec![0.0; memberships.len()];
            for (rows, sign) in [(&members, 1.0), (&non_members, -1.0)] {
                let unit = sign / rows.len() as f64;
                // Each row once less than it was drawn: the draw minus the sample itself.
                rows.iter().for_each(|&row| weights[row] -= unit);
                (0..rows.len()).for_each(|_| weights[rows[rng.random_range(0..rows.len())]] += unit);
            }
            rankings.iter().map(|ranking| ranking.largest_sum(&weights)).collect()
        };
        BandDraws { draws: parallel::map(self.n, resample) }
    }
}

impl BandDraws {
    /// Half the width of the band that holds for the given columns at once at `level`; `None` without draws or columns.
    #[must_use]
    pub fn half_width(&self, columns: &[usize], level: f64) -> Option<f64> {
        if self.draws.is_empty() || columns.is_empty() {
            return None;
        }
        let largest = |row: &Vec<f64>| columns.iter().map(|&column| row[column]).fold(0.0, f64::max);
        let mut maxima: Vec<f64> = self.draws.iter().map(largest).collect();
        maxima.sort_by(f64::total_cmp);
        // The next higher order statistic: never narrower than the level asks.
        let place = (level * (maxima.len() + 1) as f64).ceil() as usize;
        Some(maxima[place.clamp(1, maxima.len()) - 1])
    }
}

/// `D̂ ± half_width` within [0, 1].
#[must_use]
pub fn around(widest: f64, half_width: f64) -> Interval {
    Interval { low: (widest - half_width).max(0.0), high: (widest + half_width).min(1.0) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::interval::newcombe;
    use crate::audit::roc::Roc;

    /// Members are higher by `shift` in (0, 1): the population's widest difference is `shift`.
    fn sample(n_per_side: usize, shift: f64, seed: u64) -> (Vec<f64>, Vec<bool>) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let memberships: Vec<bool> = (0..2 * n_per_side).map(|row| row % 2 == 0).collect();
        let scores = memberships.iter().map(|&member| rng.random::<f64>() + if member { shift } else { 0.0 }).collect();
        (scores, memberships)
    }

    #[test]
    fn the_band_covers_the_populations_advantage_where_newcombes_does_not() {
        for (shift, seed) in [(0.0, 100), (0.1, 1_000), (0.4, 2_000)] {
            let (mut covered, mut by_newcombe) = (0, 0);
            for sample_number in 0..120 {
                let (scores, memberships) = sample(150, shift, seed + sample_number);
                let ranking = Ranking::new(&scores).unwrap();
                let roc = Roc::from_ranking(&ranking, &memberships).unwrap();
                let half = Bands { n: 100, seed: 5 }.draw(&[&ranking], &memberships).half_width(&[0], 0.95).unwrap();
                covered += usize::from(around(roc.two_sided_advantage(), half).covers(shift));
                let counts = roc.counts(&roc.widest().0);
                let naive = newcombe((counts.true_positives, 150), (counts.false_positives, 150), 0.95);
                by_newcombe += usize::from(naive.interval().covers(shift));
            }
            // 114 are expected; two and a half standard deviations fewer are chance.
            assert!(covered >= 108, "{covered} of 120 at {shift}");
            // At its own threshold nothing looks like a leak far too often.
            assert!(shift > 0.0 || by_newcombe < 100, "{by_newcombe}");
        }
    }

    #[test]
    fn the_band_of_many_attacks_is_the_wider() {
        let (first, memberships) = sample(200, 0.0, 1);
        let rankings: Vec<Ranking> =
            (0..20).map(|seed| Ranking::new(&sample(200, 0.0, 50 + seed).0).unwrap()).collect();
        let own = Ranking::new(&first).unwrap();
        let all: Vec<&Ranking> = std::iter::once(&own).chain(&rankings).collect();
        let draws = Bands { n: 200, seed: 3 }.draw(&all, &memberships);
        let one = draws.half_width(&[0], 0.95).unwrap();
        let every = draws.half_width(&(0..21).collect::<Vec<_>>(), 0.95).unwrap();
        assert!(every > 1.15 * one, "{every} {one}");
        // Kolmogorov and Smirnov's: 1.358·√(1/m + 1/n).
        assert!((one - 1.358 * (2.0 / 200.0_f64).sqrt()).abs() < 0.025, "{one}");
        assert!(draws.half_width(&[], 0.95).is_none());
    }

    #[test]
    fn rows_that_tie_have_no_error() {
        let ranking = Ranking::new(&[1.0; 30]).unwrap();
        let memberships: Vec<bool> = (0..30).map(|row| row < 10).collect();
        let half = Bands { n: 50, seed: 1 }.draw(&[&ranking], &memberships).half_width(&[0], 0.95).unwrap();
        assert!(half < 1e-12, "{half}");
    }
}
