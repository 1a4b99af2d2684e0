//! What differential privacy a training has spent: Rényi accounting of the Poisson-subsampled Gaussian mechanism.
//!
//! ```text
//!  (σ, q, steps) ──compose──▶ RDP at each order ──(δ)──▶ (ε, δ) and the order that gave it
//!  (ε, δ, q, steps) ──noise_for──▶ σ
//! ```
//!
//! Pure numbers: it draws no sample and adds no noise ([`crate::lab::dp`] does), and reads no file.
//!
//! **What an ε of this module says.** Two sets of rows that differ in one row (added or removed) give models whose
//! distributions are `(ε, δ)`-close, where every step took each row with probability `q` independently of the
//! others, clipped each row's gradient to a norm of at most `C` and added `N(0, (σC)²)` to the sum. It speaks of **one
//! training run**: runs that were tried before it, on the same rows, to choose its settings, are not covered, nor is
//! whatever else was made from the rows (their mean and deviation, a centroid, a calibration).
//!
//! The step is Mironov, Talwar and Zhang 2019 (arXiv 1908.10530), the conversion Balle et al. 2020 (arXiv
//! 1905.09982, theorem 21), the orders are those of Opacus, with whose figures this module agrees. Rényi accounting is
//! an upper bound: the exact privacy loss of the same run is some 8 to 11 % smaller in ε (`docs/privacy.md`).

mod renyi;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

/// What this accountant is called in a record.
pub const NAME: &str = "rdp";

/// What two sets of rows may differ in, as a record says it.
pub const ADJACENCY: &str = "add-or-remove-one";

/// How a step takes its rows, as a record says it.
pub const SAMPLING: &str = "poisson";

/// No noise multiplier above this is proposed.
const MAX_NOISE: f64 = 1e6;

/// No noise multiplier below this is proposed.
const MIN_NOISE: f64 = 1e-2;

/// The noise that [`noise_for`] finds is at most this share above the least that would do.
const NOISE_PRECISION: f64 = 1e-6;

/// Why a question to the accountant has no answer.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum AccountantError {
    /// The noise multiplier is negative or no number.
    #[error("expected a noise multiplier of at least 0, got {0}")]
    NoiseMultiplier(f64),
    /// The sampling rate is no probability.
    #[error("expected a sampling rate from 0 to 1, got {0}")]
    SamplingRate(f64),
    /// δ is 0, 1 or outside of them: Rényi accounting gives no pure ε.
    #[error("expected a delta above 0 and below 1, got {0}")]
    Delta(f64),
    /// The wanted ε is 0, negative or no number.
    #[error("expected a target epsilon above 0, got {0}")]
    TargetEpsilon(f64),
    /// The orders start at 1 or below, are not rising, or are none.
    #[error("expected rising finite orders above 1")]
    Orders,
    /// No noise gives the wanted ε: the orders used cannot show a smaller one at this δ.
    #[error(
        "no noise gives epsilon {target} at delta {delta}: with the orders used none below {least:.4} can be shown"
    )]
    Unreachable {
        /// The wanted ε.
        target: f64,
        /// At this δ.
        delta: f64,
        /// The ε of a run that adds nearly endless noise.
        least: f64,
    },
}

/// The orders that Opacus uses: 1.1 to 10.9 in steps of 0.1, then 12 to 63.
#[must_use]
pub fn default_orders() -> Vec<f64> {
    (11..=109).map(|tenths| f64::from(tenths) / 10.0).chain((12..=63).map(f64::from)).collect()
}

/// Which end of the orders gave the smallest ε: beyond it there may be a smaller one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Edge {
    /// The first order.
    First,
    /// The last order.
    Last,
}

/// What a run has spent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spent {
    /// ε; infinite where nothing is protected (no noise).
    pub epsilon: f64,
    /// The δ that it holds at.
    pub delta: f64,
    /// The Rényi order that gave it; not a number where ε is infinite.
    pub order: f64,
    /// Set when that order is the first or the last.
    pub edge: Option<Edge>,
}

impl Spent {
    /// A sentence for the user where a smaller ε may hold than the orders show.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        let place = match self.edge? {
            Edge::First => "first",
            Edge::Last => "last",
        };
        Some(format!("the best order, {}, is the {place} of those used: a smaller epsilon may hold", self.order))
    }
}

/// Adds up the RDP of the steps of a run, at fixed orders.
#[derive(Debug, Clone, PartialEq)]
pub struct Accountant {
    orders: Vec<f64>,
    /// RDP so far at each order, in nats.
    rdp: Vec<f64>,
}

impl Default for Accountant {
    fn default() -> Self {
        let orders = default_orders();
        Self { rdp: vec![0.0; orders.len()], orders }
    }
}

impl Accountant {
    /// An accountant at the given orders. [`Accountant::default`] has those of Opacus.
    ///
    /// # Errors
    ///
    /// [`AccountantError::Orders`] unless they rise, are finite and above 1.
    pub fn with_orders(orders: Vec<f64>) -> Result<Self, AccountantError> {
        let rising = orders.windows(2).all(|pair| pair[0] < pair[1]);
        if orders.is_empty() || !rising || orders.iter().any(|order| !order.is_finite() || *order <= 1.0) {
            return Err(AccountantError::Orders);
        }
        Ok(Self { rdp: vec![0.0; orders.len()], orders })
    }

    /// Adds `steps` steps, each with noise `N(0, (noise_multiplier·C)²)` on the sum of a sample that every row enters
    /// with probability `sampling_rate`. Runs with changing noise or batch size are several calls.
    ///
    /// # Errors
    ///
    /// When a number is outside of its range; nothing is added then.
    pub fn compose(&mut self, noise_multiplier: f64, sampling_rate: f64, steps: u64) -> Result<(), AccountantError> {
        if noise_multiplier.is_nan() || noise_multiplier < 0.0 {
            return Err(AccountantError::NoiseMultiplier(noise_multiplier));
        }
        if !(0.0..=1.0).contains(&sampling_rate) {
            return Err(AccountantError::SamplingRate(sampling_rate));
        }
        if steps == 0 {
            return Ok(());
        }
        for (order, rdp) in self.orders.iter().zip(&mut self.rdp) {
            *rdp += steps as f64 * renyi::of_step(sampling_rate, noise_multiplier, *order);
        }
        Ok(())
    }

    /// The smallest `ε` of all orders at `delta`: `RDP(α) − (ln δ + ln α)/(α−1) + ln((α−1)/α)`, never below 0.
    ///
    /// # Errors
    ///
    /// [`AccountantError::Delta`].
    pub fn spent(&self, delta: f64) -> Result<Spent, AccountantError> {
        if !(delta > 0.0 && delta < 1.0) {
            return Err(AccountantError::Delta(delta));
        }
        if self.rdp.iter().all(|rdp| *rdp == 0.0) {
            return Ok(Spent { epsilon: 0.0, delta, order: f64::NAN, edge: None });
        }
        let mut best = (f64::INFINITY, f64::NAN, None);
        for (index, (&order, &rdp)) in self.orders.iter().zip(&self.rdp).enumerate() {
            let epsilon = rdp - (delta.ln() + order.ln()) / (order - 1.0) + (-1.0 / order).ln_1p();
            if epsilon < best.0 {
                best = (epsilon, order, Some(index));
            }
        }
        let (epsilon, order, index) = best;
        let edge = match index {
            Some(0) => Some(Edge::First),
            Some(index) if index + 1 == self.orders.len() => Some(Edge::Last),
            _ => None,
        };
        Ok(Spent { epsilon: epsilon.max(0.0), delta, order, edge })
    }
}

/// What a run of equal steps spends, at the default orders.
///
/// # Errors
///
/// When a number is outside of its range.
pub fn spent(noise_multiplier: f64, sampling_rate: f64, steps: u64, delta: f64) -> Result<Spent, AccountantError> {
    let mut accountant = Accountant::default();
    accountant.compose(noise_multiplier, sampling_rate, steps)?;
    accountant.spent(delta)
}

/// The least noise multiplier, to one part in a million, with which a run of equal steps spends at most
/// `target_epsilon` at `delta`. That it does is computed for the very number that is returned.
///
/// # Errors
///
/// When a number is outside of its range, or [`AccountantError::Unreachable`].
pub fn noise_for(target_epsilon: f64, delta: f64, sampling_rate: f64, steps: u64) -> Result<f64, AccountantError> {
    if !(target_epsilon > 0.0 && target_epsilon.is_finite()) {
        return Err(AccountantError::TargetEpsilon(target_epsilon));
    }
    let epsilon = |noise: f64| spent(noise, sampling_rate, steps, delta).map(|spent| spent.epsilon);
    let mut high = 1.0;
    while epsilon(high)? > target_epsilon {
        if high >= MAX_NOISE {
            return Err(AccountantError::Unreachable { target: target_epsilon, delta, least: epsilon(high)? });
        }
        high *= 2.0;
    }
    let mut low = high / 2.0;
    while low > MIN_NOISE && epsilon(low)? <= target_epsilon {
        (low, high) = (low / 2.0, low);
    }
    if low <= MIN_NOISE {
        return Ok(high);
    }
    while high - low > NOISE_PRECISION * high {
        let middle = f64::midpoint(low, high);
        if epsilon(middle)? <= target_epsilon { high = middle } else { low = middle }
    }
    Ok(high)
}
