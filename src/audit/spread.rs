//! Figures of several targets: the same audit of models that differ in their seeds or their members.
//!
//! An interval over rows says how well these rows tell of *this* model. What another training would have shown is
//! another question, and its unit is the model: a t-interval over targets.

use serde::Serialize;

use crate::audit::exact::beta_quantile;
use crate::audit::report::{Figure, Findings};

/// Mean and spread of one figure over several targets.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// Targets.
    pub n: usize,
    /// Mean.
    pub mean: f64,
    /// Standard deviation of one target.
    pub deviation: f64,
    /// Smallest.
    pub least: f64,
    /// Largest.
    pub most: f64,
    /// Lower end of the t-interval of the mean.
    pub low: f64,
    /// Upper end of the t-interval of the mean.
    pub high: f64,
}

impl Spread {
    /// The spread of `values` with the t-interval at `level`; `None` for fewer than two.
    #[must_use]
    pub fn of(values: &[f64], level: f64) -> Option<Self> {
        let n = values.len();
        if n < 2 {
            return None;
        }
        let mean = values.iter().sum::<f64>() / n as f64;
        let square: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let deviation = (square / (n - 1) as f64).sqrt();
        let half = t_quantile(level, n - 1) * deviation / (n as f64).sqrt();
        Some(Self {
            n,
            mean,
            deviation,
            least: values.iter().copied().fold(f64::INFINITY, f64::min),
            most: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            low: mean - half,
            high: mean + half,
        })
    }
}

/// The two-sided quantile of Student's t: `Pr[|T| ≤ t] = level`.
fn t_quantile(level: f64, freedom: usize) -> f64 {
    let nu = freedom as f64;
    // |T| ≤ t where ν/(ν + T²), which is Beta(ν/2, 1/2), is at least ν/(ν + t²).
    let x = beta_quantile(1.0 - level, nu / 2.0, 0.5);
    (nu * (1.0 / x - 1.0)).sqrt()
}

/// One system's figures over several targets.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SystemSpread {
    /// Name of the system.
    pub system: String,
    /// Signed advantage of the headline, chosen for each target on its own attack-fit rows.
    pub headline: Figure<Spread>,
    /// The same minus the floor's.
    pub headline_minus_floor: Figure<Spread>,
    /// AUC of the loss attack.
    pub loss_auc: Figure<Spread>,
    /// Accuracy on non-members.
    pub accuracy: Figure<Spread>,
    /// Mean NLL of non-members.
    pub nll: Figure<Spread>,
    /// Calibration error of non-members.
    pub ece: Figure<Spread>,
}

/// Gathers the systems that all `targets` have, in the order of the first.
#[must_use]
pub fn over_targets(targets: &[Findings], level: f64) -> Vec<SystemSpread> {
    let Some(first) = targets.first() else { return Vec::new() };
    let found = first.systems.iter().filter_map(|system| {
        let same: Vec<_> =
            targets.iter().filter_map(|one| one.systems.iter().find(|other| other.name == system.name)).collect();
        if same.len() != targets.len() {
            return None;
        }
        let spread = |values: Vec<f64>, what: &str| match values.len() == targets.len() {
            true => Figure::or(Spread::of(&values, level), "one target has no spread"),
            false => Figure::missing(what),
        };
        let headlines = || same.iter().filter_map(|one| one.headline.value.as_ref());
        let no_headline = "some target has no headline";
        let loss = same.iter().filter_map(|one| one.attacks.iter().find(|found| found.attack.name() == "loss"));
        Some(SystemSpread {
            system: system.name.clone(),
            headline: spread(headlines().map(|one| one.fixed.value).collect(), no_headline),
            headline_minus_floor: spread(headlines().map(|one| one.fixed_minus_floor.value).collect(), no_headline),
            loss_auc: spread(loss.map(|found| found.auc.value).collect(), "the answers hold no loss"),
            accuracy: spread(same.iter().map(|one| one.utility.accuracy_non_members).collect(), ""),
            nll: spread(same.iter().map(|one| one.utility.nll).collect(), ""),
            ece: spread(same.iter().map(|one| one.utility.ece).collect(), ""),
        })
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_students() {
        // Tables: t(.975, 4) = 2.776, t(.975, 15) = 2.131, t(.975, 1) = 12.706.
        for (freedom, expected) in [(4, 2.776_445), (15, 2.131_450), (1, 12.706_205)] {
            assert!((t_quantile(0.95, freedom) - expected).abs() < 1e-5, "{freedom}");
        }
        let spread = Spread::of(&[1.0, 2.0, 3.0, 4.0, 5.0], 0.95).unwrap();
        assert_eq!((spread.n, spread.mean, spread.least, spread.most), (5, 3.0, 1.0, 5.0));
        assert!((spread.deviation - 2.5_f64.sqrt()).abs() < 1e-12);
        assert!((spread.high - (3.0 + 2.776_445 * (2.5_f64 / 5.0).sqrt())).abs() < 1e-5);
        assert!(Spread::of(&[1.0], 0.95).is_none());
    }
}
