//! Intervals: Wilson and Newcombe for proportions, DeLong for areas, the paired bootstrap for everything that is
//! a difference of means over rows.
//!
//! Not responsible for what is compared. All intervals are two-sided and pointwise at the level that the caller
//! names; the caller widens the level where it has picked a maximum.

use rand::Rng;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use crate::audit::parallel;
use crate::audit::roc::{Ranking, Roc, RocError};

/// A two-sided interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Interval {
    /// Whether `value` lies inside, ends included.
    #[must_use]
    pub fn covers(&self, value: f64) -> bool {
        self.low <= value && value <= self.high
    }
}

/// A value and its interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Estimate {
    /// The point estimate.
    pub value: f64,
    /// Lower end of its interval.
    pub low: f64,
    /// Upper end of its interval.
    pub high: f64,
}

impl Estimate {
    /// Joins a value and its interval.
    #[must_use]
    pub fn new(value: f64, interval: Interval) -> Self {
        Self { value, low: interval.low, high: interval.high }
    }

    /// The interval alone.
    #[must_use]
    pub fn interval(&self) -> Interval {
        Interval { low: self.low, high: self.high }
    }
}

/// The quantile of the standard normal distribution at `probability` in (0, 1): Acklam's rational approximation
/// (relative error below 1.2e-9, far finer than any interval here needs).
#[must_use]
pub fn normal_quantile(probability: f64) -> f64 {
    const A: [f64; 6] = [
        -3.969_683_028_665_376e1,
        2.209_460_984_245_205e2,
        -2.759_285_104_469_687e2,
        1.383_577_518_672_69e2,
        -3.066_479_806_614_716e1,
        2.506_628_277_459_239,
    ];
    const B: [f64; 5] = [
        -5.447_609_879_822_406e1,
        1.615_858_368_580_409e2,
        -1.556_989_798_598_866e2,
        6.680_131_188_771_972e1,
        -1.328_068_155_288_572e1,
    ];
    const C: [f64; 6] = [
        -7.784_894_002_430_293e-3,
        -3.223_964_580_411_365e-1,
        -2.400_758_277_161_838,
        -2.549_732_539_343_734,
        4.374_664_141_464_968,
        2.938_163_982_698_783,
    ];
    const D: [f64; 4] =
        [7.784_695_709_041_462e-3, 3.224_671_290_700_398e-1, 2.445_134_137_142_996, 3.754_408_661_907_416];
    const TAIL: f64 = 0.024_25;
    let horner = |coefficients: &[f64], x: f64| coefficients.iter().fold(0.0, |sum, c| sum * x + c);
    let tail = |p: f64| {
        let q = (-2.0 * p.ln()).sqrt();
        horner(&C, q) / (horner(&D, q) * q + 1.0)
    };
    if probability < TAIL {
        tail(probability)
    } else if probability > 1.0 - TAIL {
        -tail(1.0 - probability)
    } else {
        let q = probability - 0.5;
        let r = q * q;
        q * horner(&A, r) / (horner(&B, r) * r + 1.0)
    }
}

/// The normal quantile of a two-sided interval at `level` (.95 gives 1.96).
#[must_use]
pub fn two_sided_z(level: f64) -> f64 {
    normal_quantile(0.5 + level / 2.0)
}

/// Wilson's score interval of `successes` out of `trials`; `[0, 1]` without trials.
#[must_use]
pub fn wilson(successes: u64, trials: u64, level: f64) -> Interval {
    wilson_of((proportion((successes, trials)), trials as f64), two_sided_z(level))
}

fn proportion((successes, trials): (u64, u64)) -> f64 {
    successes as f64 / trials.max(1) as f64
}

/// The same of a proportion `p` of `n` trials that need be no whole number of successes, by the normal quantile `z`.
fn wilson_of((p, n): (f64, f64), z: f64) -> Interval {
    if n == 0.0 {
        return Interval { low: 0.0, high: 1.0 };
    }
    let centre = p + z * z / (2.0 * n);
    let half = z * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
    let scale = 1.0 + z * z / n;
    Interval { low: ((centre - half) / scale).max(0.0), high: ((centre + half) / scale).min(1.0) }
}

/// Newcombe's hybrid score interval of the difference of two independent proportions `a − b`, each given as
/// (successes, trials). It stays honest at 0 and 1, where the normal interval collapses.
#[must_use]
pub fn newcombe(a: (u64, u64), b: (u64, u64), level: f64) -> Estimate {
    newcombe_of((proportion(a), a.1 as f64), (proportion(b), b.1 as f64), two_sided_z(level))
}

/// The same of two proportions, each given with its trials, by the normal quantile `z`.
pub(crate) fn newcombe_of(a: (f64, f64), b: (f64, f64), z: f64) -> Estimate {
    let (of_a, of_b) = (wilson_of(a, z), wilson_of(b, z));
    let value = a.0 - b.0;
    let below = (a.0 - of_a.low).hypot(of_b.high - b.0);
    let above = (of_a.high - a.0).hypot(b.0 - of_b.low);
    Estimate::new(value, Interval { low: (value - below).max(-1.0), high: (value + above).min(1.0) })
}

/// For each row the share of the *other* side that it beats, half for ties: DeLong's structural components.
#[derive(Debug, Clone)]
pub struct Placements {
    members: Vec<f64>,
    non_members: Vec<f64>,
    auc: f64,
}

impl Placements {
    /// Components of the curve of `ranking` under `memberships`; rows of a side keep their order.
    ///
    /// # Errors
    /// As [`Roc::from_ranking`].
    pub fn new(ranking: &Ranking, memberships: &[bool]) -> Result<Self, RocError> {
        let roc = Roc::from_ranking(ranking, memberships)?;
        let n_members = memberships.iter().filter(|&&member| member).count();
        let n_non_members = memberships.len() - n_members;
        let mut by_row = vec![0.0; memberships.len()];
        for (window, (_, rows)) in roc.points().windows(2).zip(ranking.blocks()) {
            let (above, through) = (&window[0], &window[1]);
            // Non-members below this block, plus half of those in it; and the members above, plus half.
            let non_members = n_non_members as f64 - (above.false_positives + through.false_positives) as f64 / 2.0;
            let members = (above.true_positives + through.true_positives) as f64 / 2.0;
            for &row in rows {
                by_row[row as usize] = if memberships[row as usize] {
                    non_members / n_non_members as f64
                } else {
                    members / n_members as f64
                };
            }
        }
        let side = |wanted: bool| {
            by_row.iter().zip(memberships).filter(|(_, m)| **m == wanted).map(|(share, _)| *share).collect()
        };
        Ok(Self { members: side(true), non_members: side(false), auc: roc.auc() })
    }

    /// The area with DeLong's interval. It has no width where the curve is a step (a perfect order) or where all
    /// scores are equal.
    #[must_use]
    pub fn auc(&self, level: f64) -> Estimate {
        let variance = covariance(&self.members, &self.members) / self.members.len() as f64
            + covariance(&self.non_members, &self.non_members) / self.non_members.len() as f64;
        let half = two_sided_z(level) * variance.max(0.0).sqrt();
        Estimate::new(self.auc, Interval { low: (self.auc - half).max(0.0), high: (self.auc + half).min(1.0) })
    }

    /// This area minus `other`'s on the same rows, with DeLong's paired interval.
    #[must_use]
    pub fn auc_minus(&self, other: &Self, level: f64) -> Estimate {
        let difference = |a: &[f64], b: &[f64]| -> Vec<f64> { a.iter().zip(b).map(|(a, b)| a - b).collect() };
        let members = difference(&self.members, &other.members);
        let non_members = difference(&self.non_members, &other.non_members);
        let variance = covariance(&members, &members) / members.len() as f64
            + covariance(&non_members, &non_members) / non_members.len() as f64;
        let half = two_sided_z(level) * variance.max(0.0).sqrt();
        let value = self.auc - other.auc;
        Estimate::new(value, Interval { low: (value - half).max(-1.0), high: (value + half).min(1.0) })
    }
}

/// Sample covariance; 0 for fewer than two rows.
fn covariance(a: &[f64], b: &[f64]) -> f64 {
    if a.len() < 2 {
        return 0.0;
    }
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let (mean_a, mean_b) = (mean(a), mean(b));
    a.iter().zip(b).map(|(a, b)| (a - mean_a) * (b - mean_b)).sum::<f64>() / (a.len() - 1) as f64
}

/// One quantity that is `mean over members − mean over non-members` of a value per row. For a difference between
/// two systems the value is the difference of the two on that row, which is what makes the bootstrap paired.
#[derive(Debug, Clone)]
pub struct RowValues {
    /// One value for each member.
    pub members: Vec<f32>,
    /// One value for each non-member; may be empty when only a mean over members is meant, and the reverse.
    pub non_members: Vec<f32>,
}

impl RowValues {
    fn mean_difference(&self) -> f64 {
        mean(&self.members) - mean(&self.non_members)
    }
}

fn mean(values: &[f32]) -> f64 {
    if values.is_empty() {
        return 0.0;
    }
    values.iter().map(|&value| f64::from(value)).sum::<f64>() / values.len() as f64
}

/// How a bootstrap is drawn.
#[derive(Debug, Clone, Copy)]
pub struct Bootstrap {
    /// Number of resamples.
    pub n_resamples: usize,
    /// Seed; resample `i` uses stream `i`, so the number of threads does not matter.
    pub seed: u64,
}

/// Several quantities under the same resamples.
#[derive(Debug, Clone)]
pub struct BootstrapDraws {
    /// The quantities on the rows as they are.
    values: Vec<f64>,
    /// For each quantity its resampled values, rising.
    sorted: Vec<Vec<f64>>,
}

impl Bootstrap {
    /// Resamples all `quantities`, which must be over the same rows: members and non-members each among
    /// themselves, with the same draw for every quantity.
    #[must_use]
    pub fn draw(&self, quantities: &[RowValues]) -> BootstrapDraws {
        let side_len = |side: fn(&RowValues) -> &Vec<f32>| quantities.iter().map(|q| side(q).len()).max().unwrap_or(0);
        let (n_members, n_non_members) = (side_len(|q| &q.members), side_len(|q| &q.non_members));
        let resample = |index: usize| -> Vec<f64> {
            let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
            rng.set_stream(index as u64);
            let members = draw_counts(&mut rng, n_members);
            let non_members = draw_counts(&mut rng, n_non_members);
            quantities
                .iter()
                .map(|q| weighted_mean(&q.members, &members) - weighted_mean(&q.non_members, &non_members))
                .collect()
        };
        let draws = parallel::map(self.n_resamples, resample);
        let sorted = (0..quantities.len()).map(|column| {
            let mut values: Vec<f64> = draws.iter().map(|row| row[column]).collect();
            values.sort_by(f64::total_cmp);
            values
        });
        BootstrapDraws { sorted: sorted.collect(), values: quantities.iter().map(RowValues::mean_difference).collect() }
    }
}

impl BootstrapDraws {
    /// Quantity `column` with its percentile interval; without resamples the interval is the point.
    #[must_use]
    pub fn estimate(&self, column: usize, level: f64) -> Estimate {
        let (value, sorted) = (self.values[column], &self.sorted[column]);
        let interval = if sorted.is_empty() {
            Interval { low: value, high: value }
        } else {
            Interval { low: quantile(sorted, (1.0 - level) / 2.0), high: quantile(sorted, (1.0 + level) / 2.0) }
        };
        Estimate::new(value, interval)
    }
}

/// How often each of `n` rows is drawn in a resample of `n`.
fn draw_counts(rng: &mut ChaCha8Rng, n: usize) -> Vec<f32> {
    let mut counts = vec![0.0_f32; n];
    for _ in 0..n {
        counts[rng.random_range(0..n)] += 1.0;
    }
    counts
}

/// Σ count·value / Σ count, in partial sums of 64 rows so that f32 lanes lose nothing that matters; 0 if empty.
fn weighted_mean(values: &[f32], counts: &[f32]) -> f64 {
    if values.is_empty() {
        return 0.0;
    }
    let sum: f64 = values
        .chunks(64)
        .zip(counts.chunks(64))
        .map(|(values, counts)| f64::from(values.iter().zip(counts).map(|(v, c)| v * c).sum::<f32>()))
        .sum();
    sum / values.len() as f64
}

/// Quantile of sorted values with linear interpolation; `values` must not be empty.
#[must_use]
pub(crate) fn quantile(values: &[f64], at: f64) -> f64 {
    let place = at.clamp(0.0, 1.0) * (values.len() - 1) as f64;
    let below = place.floor() as usize;
    let above = (below + 1).min(values.len() - 1);
    values[below] + (values[above] - values[below]) * (place - below as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Within(f64);
    impl Within {
        fn check(&self, got: f64, expected: f64) {
            assert!((got - expected).abs() <= self.0, "{got} is not within {} of {expected}", self.0);
        }
    }

    #[test]
    fn normal_quantiles_agree_with_tables() {
        let near = Within(1e-8);
        near.check(normal_quantile(0.5), 0.0);
        near.check(normal_quantile(0.975), 1.959_963_984_540);
        near.check(normal_quantile(0.995), 2.575_829_303_549);
        near.check(normal_quantile(0.001), -3.090_232_306_168);
        near.check(two_sided_z(0.95), 1.959_963_984_540);
    }

    #[test]
    fn wilson_and_newcombe_agree_with_published_values() {
        // Newcombe 1998, table I and II (56/70 against 48/80, method 10).
        let one = wilson(81, 263, 0.95);
        Within(5e-5).check(one.low, 0.2553);
        Within(5e-5).check(one.high, 0.3662);
        let two = newcombe((56, 70), (48, 80), 0.95);
        Within(5e-5).check(two.value, 0.2);
        Within(5e-5).check(two.low, 0.0524);
        Within(5e-5).check(two.high, 0.3339);
    }

    #[test]
    fn an_interval_at_the_border_has_width() {
        let none = newcombe((0, 100), (0, 100), 0.95);
        assert_eq!(none.value, 0.0);
        assert!(none.low < -0.03 && none.high > 0.03);
    }

    #[test]
    fn delong_agrees_with_the_definition() {
        // Members 3, 1; non-members 2, 1: placements by hand are 1 and 1/4; 1/2 and 3/4.
        let scores = [3.0, 1.0, 2.0, 1.0];
        let memberships = [true, true, false, false];
        let placements = Placements::new(&Ranking::new(&scores).unwrap(), &memberships).unwrap();
        assert_eq!(placements.members, vec![1.0, 0.25]);
        assert_eq!(placements.non_members, vec![0.5, 0.75]);
        let estimate = placements.auc(0.95);
        assert_eq!(estimate.value, 0.625);
        // Variances: .28125 and .03125, each over two rows.
        let half = 1.959_963_984_540 * ((0.281_25 + 0.031_25) / 2.0_f64).sqrt();
        Within(1e-9).check(estimate.low, (0.625 - half).max(0.0));
        let itself = placements.auc_minus(&placements, 0.95);
        assert_eq!((itself.value, itself.low, itself.high), (0.0, 0.0, 0.0));
    }

    #[test]
    fn delong_covers_the_true_area_about_as_often_as_it_says() {
        // 400 null samples: members and non-members from one distribution, area .5.
        let mut rng = ChaCha8Rng::seed_from_u64(11);
        let mut covered = 0;
        for _ in 0..400 {
            let scores: Vec<f64> = (0..120).map(|_| f64::from(rng.random_range(0..40_u32))).collect();
            let memberships: Vec<bool> = (0..120).map(|row| row < 50).collect();
            let placements = Placements::new(&Ranking::new(&scores).unwrap(), &memberships).unwrap();
            covered += usize::from(placements.auc(0.95).interval().covers(0.5));
        }
        assert!((364..=396).contains(&covered), "{covered} of 400");
    }

    #[test]
    fn the_bootstrap_has_the_width_of_the_normal_interval() {
        let members: Vec<f32> = (0..2_000).map(|row| f32::from(u8::from(row % 4 == 0))).collect();
        let non_members: Vec<f32> = (0..2_000).map(|row| f32::from(u8::from(row % 10 == 0))).collect();
        let draws = Bootstrap { n_resamples: 2_000, seed: 3 }.draw(&[RowValues { members, non_members }]);
        let estimates = [draws.estimate(0, 0.95)];
        Within(1e-9).check(estimates[0].value, 0.15);
        let half = 1.96 * (0.25 * 0.75 / 2_000.0 + 0.1 * 0.9 / 2_000.0_f64).sqrt();
        Within(0.002).check(estimates[0].low, 0.15 - half);
        Within(0.002).check(estimates[0].high, 0.15 + half);
    }

    #[test]
    fn one_seed_gives_one_bootstrap() {
        let rows = || RowValues { members: vec![0.0, 1.0, 0.5, 0.25], non_members: vec![1.0, 0.0] };
        let draw = |seed| Bootstrap { n_resamples: 50, seed }.draw(&[rows()]).estimate(0, 0.9);
        assert_eq!(draw(5), draw(5));
        assert_ne!(draw(5), draw(6));
    }
}
