//! Exact binomial bounds (Clopper-Pearson), and what follows from two of them: predictive value at a prior, and a
//! lower bound on ε.
//!
//! A rule that was fixed before the rows were looked at calls `tp` of `m` members and `fp` of `n` non-members
//! members. Everything here is a function of those four counts; how the rule was chosen is the caller's matter, and
//! a bound holds only if it was chosen on other rows.

use serde::Serialize;

use crate::audit::interval::{Estimate, Interval};

/// Steps of the bisection for a quantile of the beta distribution: more than the bits of an f64.
const N_STEPS: usize = 100;

/// The two-sided Clopper-Pearson interval of `successes` out of `trials` at `level`; `[0, 1]` without trials.
#[must_use]
pub fn clopper_pearson(successes: u64, trials: u64, level: f64) -> Interval {
    let tail = (1.0 - level) / 2.0;
    Interval { low: lower_bound(successes, trials, tail), high: upper_bound(successes, trials, tail) }
}

/// A proportion with its Clopper-Pearson interval; the value is 0 without trials.
#[must_use]
pub fn proportion(successes: u64, trials: u64, level: f64) -> Estimate {
    Estimate::new(successes as f64 / trials.max(1) as f64, clopper_pearson(successes, trials, level))
}

/// The exact one-sided lower bound that fails with probability at most `tail`.
#[must_use]
pub fn lower_bound(successes: u64, trials: u64, tail: f64) -> f64 {
    if successes == 0 || trials == 0 {
        return 0.0;
    }
    beta_quantile(tail, successes as f64, (trials - successes) as f64 + 1.0)
}

/// The exact one-sided upper bound that fails with probability at most `tail`.
#[must_use]
pub fn upper_bound(successes: u64, trials: u64, tail: f64) -> f64 {
    if successes >= trials {
        return 1.0;
    }
    beta_quantile(1.0 - tail, successes as f64 + 1.0, (trials - successes) as f64)
}

/// `x` with `I_x(a, b) = probability`, by bisection.
pub(crate) fn beta_quantile(probability: f64, a: f64, b: f64) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..N_STEPS {
        let middle = f64::midpoint(low, high);
        if incomplete_beta(middle, a, b) < probability {
            low = middle;
        } else {
            high = middle;
        }
    }
    f64::midpoint(low, high)
}

/// The regularised incomplete beta function `I_x(a, b)`, by its continued fraction (modified Lentz).
fn incomplete_beta(x: f64, a: f64, b: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    if x >= 1.0 {
        return 1.0;
    }
    let front = (ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b) + a * x.ln() + b * (-x).ln_1p()).exp();
    if x < (a + 1.0) / (a + b + 2.0) {
        front * beta_fraction(x, a, b) / a
    } else {
        1.0 - front * beta_fraction(1.0 - x, b, a) / b
    }
}

fn beta_fraction(x: f64, a: f64, b: f64) -> f64 {
    const TINY: f64 = 1e-300;
    // About √(max(a, b)) terms are needed; a million rows ask for some thousands.
    const MAX_TERMS: u32 = 100_000;
    let away = |value: f64| if value.abs() < TINY { TINY } else { value };
    let (mut c, mut d) = (1.0, 1.0 / away(1.0 - (a + b) * x / (a + 1.0)));
    let mut value = d;
    for term in 1..=MAX_TERMS {
        let m = f64::from(term);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        d = 1.0 / away(1.0 + even * d);
        c = away(1.0 + even / c);
        value *= d * c;
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        d = 1.0 / away(1.0 + odd * d);
        c = away(1.0 + odd / c);
        value *= d * c;
        if (d * c - 1.0).abs() < 1e-15 {
            break;
        }
    }
    value
}

/// `ln Γ(x)` for x > 0 (Lanczos, g = 7).
fn ln_gamma(x: f64) -> f64 {
    const G: [f64; 8] = [
        676.520_368_121_885_1,
        -1_259.139_216_722_402_8,
        771.323_428_777_653_1,
        -176.615_029_162_140_6,
        12.507_343_278_686_905,
        -0.138_571_095_265_720_12,
        9.984_369_578_019_572e-6,
        1.505_632_735_149_311_6e-7,
    ];
    let x = x - 1.0;
    let series = G.iter().zip(1_u32..).fold(0.999_999_999_999_809_9, |sum, (g, i)| sum + g / (x + f64::from(i)));
    let t = x + 7.5;
    0.5 * (2.0 * std::f64::consts::PI).ln() + (x + 0.5) * t.ln() - t + series.ln()
}

/// What a fixed rule said on rows that it was not chosen on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Members called members.
    pub true_positives: u64,
    /// Non-members called members.
    pub false_positives: u64,
    /// Members.
    pub n_members: u64,
    /// Non-members.
    pub n_non_members: u64,
}

impl Counts {
    /// Counts the calls of a rule.
    #[must_use]
    pub fn of(says_member: &[bool], memberships: &[bool]) -> Self {
        let mut counts = Self { true_positives: 0, false_positives: 0, n_members: 0, n_non_members: 0 };
        for (&says, &member) in says_member.iter().zip(memberships) {
            if member {
                counts.n_members += 1;
                counts.true_positives += u64::from(says);
            } else {
                counts.n_non_members += 1;
                counts.false_positives += u64::from(says);
            }
        }
        counts
    }

    /// Share of the members that are called members, with its exact interval.
    #[must_use]
    pub fn tpr(&self, level: f64) -> Estimate {
        proportion(self.true_positives, self.n_members, level)
    }

    /// Share of the non-members that are called members, with its exact interval.
    #[must_use]
    pub fn fpr(&self, level: f64) -> Estimate {
        proportion(self.false_positives, self.n_non_members, level)
    }

    /// P(member | called a member) where a share `prior` of the records asked about are members; `None` where
    /// nobody is called one. The interval joins two exact ones, each at the level that makes both hold together
    /// (Bonferroni), so it is wide.
    #[must_use]
    pub fn predictive_value(&self, prior: f64, level: f64) -> Option<Estimate> {
        let value = |tpr: f64, fpr: f64| prior * tpr / (prior * tpr + (1.0 - prior) * fpr);
        let each = of_two(level);
        let (tpr, fpr) = (self.tpr(each), self.fpr(each));
        let at = value(tpr.value, fpr.value);
        let or = |value: f64, other: f64| if value.is_nan() { other } else { value };
        let interval = Interval { low: or(value(tpr.low, fpr.high), 0.0), high: or(value(tpr.high, fpr.low), 1.0) };
        (!at.is_nan()).then(|| Estimate::new(at, interval))
    }

    /// The largest ε that these counts refute at confidence `level` for a mechanism that is (ε, δ)-private:
    /// `TPR ≤ e^ε·FPR + δ` and `1 − FPR ≤ e^ε·(1 − TPR) + δ` must hold, and here one of them does not for any
    /// smaller ε. Both rates are bounded exactly, each with half of what may fail; 0 where nothing is refuted.
    #[must_use]
    pub fn epsilon_lower_bound(&self, delta: f64, level: f64) -> f64 {
        // Two inequalities, two bounds in each.
        let tail = (1.0 - level) / 4.0;
        let (m, n) = (self.n_members, self.n_non_members);
        let of = |hits: u64, hits_of: u64, misses: u64, misses_of: u64| {
            let ratio = (lower_bound(hits, hits_of, tail) - delta) / upper_bound(misses, misses_of, tail);
            if ratio > 1.0 { ratio.ln() } else { 0.0 }
        };
        let calls = of(self.true_positives, m, self.false_positives, n);
        let rest = of(n - self.false_positives, n, m - self.true_positives, m);
        calls.max(rest)
    }

    /// The ε that a perfect attack on as many rows would have shown: no audit of this size can show more.
    #[must_use]
    pub fn epsilon_ceiling(n_members: u64, n_non_members: u64, delta: f64, level: f64) -> f64 {
        let perfect = Self { true_positives: n_members, false_positives: 0, n_members, n_non_members };
        perfect.epsilon_lower_bound(delta, level)
    }
}

/// The level of each of two bounds that hold together at `level` (Bonferroni).
#[must_use]
pub fn of_two(level: f64) -> f64 {
    f64::midpoint(level, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(got: f64, expected: f64) {
        assert!((got - expected).abs() < 1e-9, "{got} is not {expected}");
    }

    #[test]
    fn clopper_pearson_agrees_with_scipy() {
        // scipy.stats.binomtest(k, n).proportion_ci(0.95, "exact").
        let one = clopper_pearson(7, 10, 0.95);
        near(one.low, 0.347_547_149_940_002_7);
        near(one.high, 0.933_260_488_822_265_5);
        let rare = clopper_pearson(1, 10_000, 0.95);
        near(rare.low, 2.531_777_593_474_686_6e-6);
        near(rare.high, 5.570_369_979_470_473e-4);
        // Rule of three, exactly: 1 − .025^(1/n).
        near(clopper_pearson(0, 1_000, 0.95).high, 1.0 - 0.025_f64.powf(0.001));
        near(clopper_pearson(1_000, 1_000, 0.95).low, 0.025_f64.powf(0.001));
        assert_eq!(clopper_pearson(0, 0, 0.95), Interval { low: 0.0, high: 1.0 });
    }

    #[test]
    fn a_bound_over_many_rows_is_still_exact() {
        // The normal interval at a million rows, to its own accuracy.
        let wide = clopper_pearson(500_000, 1_000_000, 0.95);
        assert!((wide.low - (0.5 - 1.96 * 0.0005)).abs() < 2e-6, "{wide:?}");
    }

    #[test]
    fn predictive_value_falls_with_the_prior() {
        let counts = Counts { true_positives: 100, false_positives: 10, n_members: 1_000, n_non_members: 1_000 };
        let at = |prior| counts.predictive_value(prior, 0.95).unwrap();
        near(at(0.5).value, 10.0 / 11.0);
        near(at(0.01).value, 0.001 / (0.001 + 0.0099));
        assert!(at(0.1).low < at(0.1).value && at(0.1).value < at(0.1).high);
        let silent = Counts { true_positives: 0, false_positives: 0, ..counts };
        assert!(silent.predictive_value(0.5, 0.95).is_none());
    }

    #[test]
    fn epsilon_is_bounded_by_what_the_sample_could_show() {
        let perfect = Counts { true_positives: 500, false_positives: 0, n_members: 500, n_non_members: 500 };
        let ceiling = Counts::epsilon_ceiling(500, 500, 0.0, 0.95);
        near(perfect.epsilon_lower_bound(0.0, 0.95), ceiling);
        // About ln(r / ln(1/α)).
        assert!((ceiling - (500.0 / (1.0_f64 / 0.0125).ln()).ln()).abs() < 0.05, "{ceiling}");
        let blind = Counts { true_positives: 250, false_positives: 250, n_members: 500, n_non_members: 500 };
        assert_eq!(blind.epsilon_lower_bound(0.0, 0.95), 0.0);
        // Members that are never called: told by the other inequality.
        let inverse = Counts { true_positives: 500, false_positives: 400, n_members: 500, n_non_members: 500 };
        assert!(inverse.epsilon_lower_bound(0.0, 0.95) > 2.5);
    }

    #[test]
    fn randomised_response_never_refutes_its_own_epsilon_too_often() {
        // TPR = e/(1+e), FPR = 1/(1+e): ε = 1 exactly. With expected counts the bound stays below it.
        let (n, p) = (10_000_u64, 1.0_f64.exp() / (1.0 + 1.0_f64.exp()));
        let hits = (n as f64 * p).round() as u64;
        let counts = Counts { true_positives: hits, false_positives: n - hits, n_members: n, n_non_members: n };
        let bound = counts.epsilon_lower_bound(0.0, 0.95);
        assert!(bound < 1.0 && bound > 0.9, "{bound}");
    }
}
