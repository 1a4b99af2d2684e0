//! Attacks that divide by what is usual for the row: RMIA (Zarifzadeh et al. 2024) and difficulty calibration (Watson
//! et al. 2022).

use ndarray::ArrayView2;

use super::{Bank, ShadowError, Sides, mean};

/// A form of RMIA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rmia {
    /// `p(x)` is the mean over all models of the bank: half of them were trained on the row.
    Online,
    /// `p(x) = ((1 + a)·p_out + 1 − a)/2` with a = .3, the paper's for CIFAR-10: from the others alone.
    Offline,
}

/// γ of `Pr_z[LR(x)/LR(z) ≥ γ]`.
const GAMMA: f64 = 1.0;
/// The offline correction.
const A: f64 = 0.3;

impl Rmia {
    /// Both.
    pub const ALL: [Rmia; 2] = [Rmia::Online, Rmia::Offline];

    /// The name in tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Rmia::Online => "RMIA online",
            Rmia::Offline => "RMIA offline",
        }
    }
}

/// The probability of the true label behind a scaled logit.
fn probability(logit: f64) -> f64 {
    1.0 / (1.0 + (-logit).exp())
}

/// RMIA's scores of all rows: the share of the rows `population`, none of which is a member, that the row dominates
/// in `p(·|target)/p(·)`. Several queries enter by the mean of that ratio. As the population is the same for every row
/// the share orders like the ratio itself, in steps of 1 over the population.
///
/// # Errors
/// [`ShadowError`].
pub fn rmia(
    bank: &Bank,
    target: ArrayView2<'_, f64>,
    left_out: Option<usize>,
    population: &[usize],
    form: Rmia,
) -> Result<Vec<f64>, ShadowError> {
    bank.check_target(target)?;
    if population.is_empty() {
        return Err(ShadowError::NoPopulation);
    }
    let mut ratios = Vec::with_capacity(bank.n_rows());
    let mut sides = Sides::default();
    for (row, answers) in target.rows().into_iter().enumerate() {
        let mut sum = 0.0;
        for (query, &logit) in answers.iter().enumerate() {
            bank.sides(row, query, left_out, &mut sides);
            let of = |logits: &[f64]| mean(&logits.iter().map(|&logit| probability(logit)).collect::<Vec<_>>());
            let (n_in, n_out) = (sides.inside.len(), sides.outside.len());
            if n_out == 0 || form == Rmia::Online && n_in == 0 {
                let needs = "one that was not, and online one that was";
                return Err(ShadowError::TooFewModels { row, n_in, n_out, needs });
            }
            let usual = match form {
                Rmia::Online => f64::midpoint(of(&sides.inside), of(&sides.outside)),
                Rmia::Offline => f64::midpoint((1.0 + A) * of(&sides.outside), 1.0 - A),
            };
            sum += probability(logit) / usual.max(f64::MIN_POSITIVE);
        }
        ratios.push(sum / answers.len() as f64);
    }
    let mut others: Vec<f64> = population.iter().filter_map(|&row| ratios.get(row).copied()).collect();
    if others.is_empty() {
        return Err(ShadowError::NoPopulation);
    }
    others.sort_by(f64::total_cmp);
    let dominated = |ratio: f64| others.partition_point(|&z| ratio >= GAMMA * z);
    Ok(ratios.iter().map(|&ratio| dominated(ratio) as f64 / others.len() as f64).collect())
}

/// `ln p_y` of the target minus its mean over the models that were not trained on the row.
///
/// # Errors
/// [`ShadowError`].
pub fn calibrated(bank: &Bank, target: ArrayView2<'_, f64>, left_out: Option<usize>) -> Result<Vec<f64>, ShadowError> {
    bank.check_target(target)?;
    let log = |logit: f64| -(-logit).exp().ln_1p();
    let mut sides = Sides::default();
    let mut scores = Vec::with_capacity(bank.n_rows());
    for (row, answers) in target.rows().into_iter().enumerate() {
        let mut sum = 0.0;
        for (query, &logit) in answers.iter().enumerate() {
            bank.sides(row, query, left_out, &mut sides);
            let (n_in, n_out) = (sides.inside.len(), sides.outside.len());
            if n_out == 0 {
                return Err(ShadowError::TooFewModels { row, n_in, n_out, needs: "one that was not" });
            }
            let usual: Vec<f64> = sides.outside.iter().map(|&logit| log(logit)).collect();
            sum += log(logit) - mean(&usual);
        }
        scores.push(sum / answers.len() as f64);
    }
    Ok(scores)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::roc::Roc;
    use crate::audit::shadow::planted;

    #[test]
    fn what_is_usual_for_the_row_is_taken_out() {
        let bank = planted::bank(33, 1_500, 1, 2.0, 1);
        let target = bank.of_model(0).to_owned();
        let memberships: Vec<bool> = bank.inclusion().row(0).to_vec();
        let auc = |scores: &[f64]| Roc::new(scores, &memberships).unwrap().auc();
        let population: Vec<usize> = (0..1_500).filter(|&row| !memberships[row]).take(300).collect();
        let plain = auc(&target.column(0).to_vec());
        for form in Rmia::ALL {
            let found = auc(&rmia(&bank, target.view(), Some(0), &population, form).unwrap());
            assert!(found > plain + 0.03, "{form:?}: {found} {plain}");
        }
        assert!(auc(&calibrated(&bank, target.view(), Some(0)).unwrap()) > plain + 0.1);
    }

    #[test]
    fn a_blind_bank_finds_nothing() {
        let bank = planted::bank(17, 1_500, 2, 0.0, 2);
        let target = bank.of_model(0).to_owned();
        let memberships: Vec<bool> = bank.inclusion().row(0).to_vec();
        let auc = |scores: &[f64]| Roc::new(scores, &memberships).unwrap().auc();
        let population: Vec<usize> = (0..1_500).filter(|&row| !memberships[row]).take(300).collect();
        for form in Rmia::ALL {
            let found = auc(&rmia(&bank, target.view(), Some(0), &population, form).unwrap());
            assert!((found - 0.5).abs() < 0.05, "{form:?}: {found}");
        }
        let found = auc(&calibrated(&bank, target.view(), Some(0)).unwrap());
        assert!((found - 0.5).abs() < 0.05, "{found}");
    }

    #[test]
    fn rmia_needs_rows_that_are_no_members() {
        let bank = planted::bank(5, 10, 1, 1.0, 1);
        let target = bank.of_model(0).to_owned();
        assert_eq!(rmia(&bank, target.view(), None, &[], Rmia::Offline), Err(ShadowError::NoPopulation));
    }
}
