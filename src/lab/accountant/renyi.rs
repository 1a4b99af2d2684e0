//! The Rényi divergence of one step: the Gaussian mechanism on a Poisson sample.
//!
//! Mironov, Talwar and Zhang, *Rényi Differential Privacy of the Sampled Gaussian Mechanism* (arXiv 1908.10530),
//! section 3.3. With `μ₀ = N(0, σ²)` and `μ = (1−q)·N(0, σ²) + q·N(1, σ²)`, a step is `(α, ln A_α / (α−1))`-RDP with
//!
//! ```text
//! A_α = E_{z ~ μ₀} [(μ(z) / μ₀(z))^α]
//! ```
//!
//! which bounds both directions of adding or removing a row. Sums are kept as logarithms, since their terms
//! leave the range of an f64 for small σ or large α. Where a sum is cut or cancels, what is returned is an upper
//! bound: the error is on the side of privacy.

use std::f64::consts::{LN_2, PI, SQRT_2};

/// The series of a fractional order ends where a term is this far below the sum, as logarithms.
const NEGLIGIBLE: f64 = 36.0;

/// The series of a fractional order ends here at the latest: its terms then fall at least as `i^(−α−2)`.
const MAX_TERMS: u32 = 4096;

/// Above this `erfc` is near the smallest numbers that an f64 holds; its logarithm is then taken from a series.
const ERFC_TAIL: f64 = 20.0;

/// The RDP of one step at order `alpha` > 1, in nats. 0 for `q` = 0, infinite for `sigma` = 0.
///
/// `sigma` is the noise multiplier (the standard deviation of the noise over the clipping norm), `q` in [0, 1] the
/// probability with which a row enters the sample.
pub(super) fn of_step(q: f64, sigma: f64, alpha: f64) -> f64 {
    if q == 0.0 {
        return 0.0;
    }
    if sigma == 0.0 {
        return f64::INFINITY;
    }
    if q >= 1.0 {
        return alpha / (2.0 * sigma * sigma);
    }
    let log_a = if alpha.fract() == 0.0 { log_a_integer(q, sigma, alpha) } else { log_a_fractional(q, sigma, alpha) };
    (log_a / (alpha - 1.0)).max(0.0)
}

/// `ln A_α` for an integer order: a binomial sum.
///
/// The binomial weights sum to 1, so `A_α − 1 = Σ_{i≥2} C(α,i) q^i (1−q)^{α−i} (exp((i²−i)/2σ²) − 1)`: all terms are
/// positive, and a tiny `q` loses no digits.
fn log_a_integer(q: f64, sigma: f64, alpha: f64) -> f64 {
    let (log_q, log_rest) = (q.ln(), (-q).ln_1p());
    let mut log_binomial = 0.0;
    let mut log_excess = f64::NEG_INFINITY;
    let mut i = 0.0;
    while i < alpha {
        log_binomial += ((alpha - i) / (i + 1.0)).ln();
        i += 1.0;
        if i >= 2.0 {
            let exponent = (i * i - i) / (2.0 * sigma * sigma);
            log_excess = log_add(log_excess, log_binomial + i * log_q + (alpha - i) * log_rest + log_expm1(exponent));
        }
    }
    log_add(0.0, log_excess)
}

/// `ln A_α` for a fractional order: the integral is cut at `z₀`, where the two parts of `μ` are equal, and each half
/// is a binomial series. After the first ⌈α⌉ terms the signs alternate and the terms fall, so that the first
/// term left out bounds the rest.
fn log_a_fractional(q: f64, sigma: f64, alpha: f64) -> f64 {
    let (log_q, log_rest) = (q.ln(), (-q).ln_1p());
    let z0 = sigma * sigma * (log_rest - log_q) + 0.5;
    let (mut below, mut above) = (f64::NEG_INFINITY, f64::NEG_INFINITY);
    let (mut log_binomial, mut positive) = (0.0_f64, true);
    let mut previous = f64::INFINITY;
    for index in 0..MAX_TERMS {
        let i = f64::from(index);
        let j = alpha - i;
        let term = |exponent: f64, n_q: f64, n_rest: f64, cut: f64| {
            log_binomial + n_q * log_q + n_rest * log_rest + (exponent * exponent - exponent) / (2.0 * sigma * sigma)
                - LN_2
                + log_erfc(cut / (SQRT_2 * sigma))
        };
        let low = term(i, i, j, i - z0);
        let high = term(j, j, i, z0 - j);
        let size = low.max(high);
        let settled = i > alpha && size < previous;
        if settled && (size < log_add(below, above) - NEGLIGIBLE || index == MAX_TERMS - 1) {
            return log_add(log_add(below, above), log_add(low, high));
        }
        if positive {
            (below, above) = (log_add(below, low), log_add(above, high));
        } else {
            match (log_subtract(below, low), log_subtract(above, high)) {
                (Some(low), Some(high)) => (below, above) = (low, high),
                _ => break,
            }
        }
        previous = size;
        log_binomial += (j.abs() / (i + 1.0)).ln();
        positive ^= j < 0.0;
    }
    log_a_between(q, sigma, alpha)
}

/// An upper bound of `ln A_α` from the integer orders around it: `ln A_α` is convex in `α`, and `A_1` = 1.
fn log_a_between(q: f64, sigma: f64, alpha: f64) -> f64 {
    let floor = alpha.floor();
    let at_floor = if floor <= 1.0 { 0.0 } else { log_a_integer(q, sigma, floor) };
    let share = alpha - floor;
    (1.0 - share) * at_floor + share * log_a_integer(q, sigma, floor + 1.0)
}

/// `ln(eᵃ + eᵇ)`.
fn log_add(a: f64, b: f64) -> f64 {
    let (small, large) = if a < b { (a, b) } else { (b, a) };
    if small == f64::NEG_INFINITY { large } else { large + (small - large).exp().ln_1p() }
}

/// `ln(eᵃ − eᵇ)`, unless that is no logarithm of anything.
fn log_subtract(a: f64, b: f64) -> Option<f64> {
    if b == f64::NEG_INFINITY {
        return Some(a);
    }
    (a > b).then(|| a + (-(b - a).exp()).ln_1p())
}

/// `ln(eˣ − 1)` for `x` > 0.
fn log_expm1(x: f64) -> f64 {
    if x > 40.0 { x } else { x.exp_m1().ln() }
}

/// `ln erfc(x)`, also where `erfc(x)` is too small for an f64.
fn log_erfc(x: f64) -> f64 {
    if x < ERFC_TAIL {
        return libm::erfc(x).ln();
    }
    let t = 1.0 / (2.0 * x * x);
    // 1 − t + 3t² − 15t³ + 105t⁴ − 945t⁵ + …
    let series = 1.0 - t * (1.0 - 3.0 * t * (1.0 - 5.0 * t * (1.0 - 7.0 * t * (1.0 - 9.0 * t * (1.0 - 11.0 * t)))));
    series.ln() - x * x - (x * PI.sqrt()).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `(x, ln erfc(x))` by mpmath 1.4.1 with 50 digits.
    const LOG_ERFC: [(f64, f64); 6] = [
        (-3.0, 0.693_136_135_250_446_8),
        (0.1, -0.119_304_973_737_395_6),
        (5.0, -27.200_889_545_537_437),
        (19.9, -399.574_343_308_279),
        (20.1, -407.584_318_545_200_4),
        (300.0, -90_006.276_152_973_06),
    ];

    #[test]
    fn the_logarithm_of_erfc_holds_in_the_tail() {
        for (x, expected) in LOG_ERFC {
            let got = log_erfc(x);
            assert!((got - expected).abs() <= 1e-13 * expected.abs().max(1e-2), "{x}: {got} {expected}");
        }
    }

    /// `(q, σ, α, RDP)` by numerical integration of `A_α` in mpmath 1.4.1 with 30 digits: shares nothing with the
    /// series.
    const INTEGRATED: [(f64, f64, f64, f64); 17] = [
        (0.01, 1.0, 1.1, 9.241_471_084_686_96e-5),
        (0.01, 1.0, 2.0, 0.000_171_813_422_074_548),
        (0.01, 1.0, 9.2, 0.002_607_731_073_082_5),
        (0.001, 0.5, 2.2, 6.343_406_194_970_3e-5),
        (0.001, 0.5, 10.9, 14.194_491_662_534_8),
        (0.25, 1.3, 3.7, 0.123_151_853_398_831),
        (0.5, 2.0, 1.1, 0.035_627_629_850_551_8),
        (0.5, 0.8, 1.5, 0.409_838_860_453_657),
        (0.9, 3.0, 4.5, 0.209_216_402_979_774),
        (0.99, 1.0, 7.3, 3.638_375_867_444_83),
        (0.0001, 0.3, 1.4, 5.439_003_199_938_71e-5),
        (0.0001, 4.0, 32.0, 1.032_115_325_231_67e-8),
        (0.0001, 4.0, 63.0, 2.032_392_250_669_18e-8),
        (1e-6, 2.0, 12.0, 1.704_157_798_618_11e-12),
        (0.3, 0.2, 5.5, 67.278_477_683_601_6),
        (0.02, 10.0, 2.5, 5.025_569_990_843_45e-6),
        (0.001, 0.7, 10.9, 3.516_942_490_796_86),
    ];

    #[test]
    fn one_step_agrees_with_the_integral() {
        for (q, sigma, alpha, expected) in INTEGRATED {
            let got = of_step(q, sigma, alpha);
            // A fractional order sums numbers near 1, so that its error is absolute; where its series is cut it errs above.
            let above = 1e-9 * expected + 2e-14;
            assert!(got >= expected - 2e-14 && got <= expected + above, "{q} {sigma} {alpha}: {got} {expected}");
            if alpha.fract() == 0.0 {
                assert!((got - expected).abs() <= 1e-10 * expected, "{q} {sigma} {alpha}: {got} {expected}");
            }
        }
    }

    #[test]
    fn the_bound_between_integer_orders_is_above_the_series() {
        for (q, sigma) in [(0.01, 1.0), (0.2, 0.7), (0.5, 2.0), (1e-4, 0.5), (0.9, 3.0)] {
            for tenths in (11..110).filter(|tenths| tenths % 10 != 0) {
                let alpha = f64::from(tenths) / 10.0;
                let series = log_a_fractional(q, sigma, alpha);
                let bound = log_a_between(q, sigma, alpha);
                assert!(series <= bound + 1e-12, "q {q} sigma {sigma} order {alpha}: {series} {bound}");
            }
        }
    }
}
