//! LiRA (Carlini et al. 2022): is the target's scaled logit more like that of models that were trained on the row?
//!
//! | variant | score |
//! | --- | --- |
//! | online | `ln N(φ; in) − ln N(φ; out)` |
//! | offline, one-sided | `(φ − μ_out)/σ_out`, which orders like the paper's `1 − Pr[N(out) > φ]` |
//! | offline, density | `−ln N(φ; out)`, what the paper's published code computes: a row far *below* is called a member, too |
//!
//! Deviations are of each row's own models, or one pooled over all rows (fixed), which few models need. The pooled one
//! is within rows, and that of the models that were not trained on a row is taken of those (the published code takes
//! it of the others). Several queries of a row (its augmented forms) enter by their mean, or as one normal vector whose
//! covariance is pooled over all rows.

use ndarray::{Array2, ArrayView2};

use super::{Bank, ShadowError, Sides, mean};

/// No deviation is smaller: a label-only answer has two values.
const MIN_DEVIATION: f64 = 1e-3;

/// A variance of its own needs so many models.
const MIN_MODELS: usize = 2;

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Test {
    /// Both kinds of models.
    Online,
    /// Models that were not trained on the row, one-sided (the paper).
    OneSided,
    /// The same, by their density (the published code).
    Density,
}

/// Whose spread is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spread {
    /// That of each row's own models.
    PerRow,
    /// One for all rows.
    Fixed,
}

/// How several queries of one row are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queries {
    /// By the mean of their scaled logits.
    Mean,
    /// As a vector with a covariance that is pooled over all rows.
    Vector,
}

/// One form of LiRA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variant {
    /// What is compared.
    pub test: Test,
    /// Whose spread.
    pub spread: Spread,
    /// How queries are read.
    pub queries: Queries,
}

impl Variant {
    /// All forms for so many queries a row.
    #[must_use]
    pub fn all(n_queries: usize) -> Vec<Self> {
        let mut all = Vec::new();
        for test in [Test::Online, Test::OneSided, Test::Density] {
            for spread in [Spread::Fixed, Spread::PerRow] {
                all.push(Self { test, spread, queries: Queries::Mean });
            }
            if n_queries > 1 && test != Test::OneSided {
                all.push(Self { test, spread: Spread::Fixed, queries: Queries::Vector });
            }
        }
        all
    }

    /// The name in tables.
    #[must_use]
    pub fn name(&self) -> String {
        let test = match self.test {
            Test::Online => "LiRA online",
            Test::OneSided => "LiRA offline, one-sided",
            Test::Density => "LiRA offline, density",
        };
        let spread = if self.spread == Spread::Fixed { "fixed variance" } else { "variance per row" };
        let queries = if self.queries == Queries::Vector { ", all queries" } else { "" };
        format!("{test}, {spread}{queries}")
    }
}

/// Scores of all rows; the arguments are those of [`super::attacks`].
///
/// # Errors
/// [`ShadowError`].
pub fn scores(
    bank: &Bank,
    target: ArrayView2<'_, f64>,
    left_out: Option<usize>,
    variant: Variant,
) -> Result<Vec<f64>, ShadowError> {
    bank.check_target(target)?;
    match variant.queries {
        Queries::Mean => of_means(bank, target, left_out, variant),
        Queries::Vector => of_vectors(bank, target, left_out, variant),
    }
}

/// What one row's models say, in means over queries.
struct RowModels {
    inside: Vec<f64>,
    outside: Vec<f64>,
}

fn of_means(
    bank: &Bank,
    target: ArrayView2<'_, f64>,
    left_out: Option<usize>,
    variant: Variant,
) -> Result<Vec<f64>, ShadowError> {
    let n_queries = target.ncols();
    let mut sides = Sides::default();
    let mut rows = Vec::with_capacity(bank.n_rows());
    for row in 0..bank.n_rows() {
        let mut models = RowModels { inside: Vec::new(), outside: Vec::new() };
        for query in 0..n_queries {
            bank.sides(row, query, left_out, &mut sides);
            add(&mut models.inside, &sides.inside, n_queries);
            add(&mut models.outside, &sides.outside, n_queries);
        }
        check(row, models.inside.len(), models.outside.len(), variant.test)?;
        rows.push(models);
    }
    let fixed_in = pooled(rows.iter().map(|row| &row.inside[..]));
    let fixed_out = pooled(rows.iter().map(|row| &row.outside[..]));
    let each = rows.iter().zip(target.rows()).map(|(row, target)| {
        let phi = target.sum() / n_queries as f64;
        let outside = Normal::of(&row.outside, fixed_out, variant.spread);
        match variant.test {
            Test::Online => Normal::of(&row.inside, fixed_in, variant.spread).ln_density(phi) - outside.ln_density(phi),
            Test::OneSided => outside.standard(phi),
            Test::Density => -outside.ln_density(phi),
        }
    });
    Ok(each.collect())
}

fn add(sums: &mut Vec<f64>, values: &[f64], n_queries: usize) {
    sums.resize(values.len(), 0.0);
    sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value / n_queries as f64);
}

fn check(row: usize, n_in: usize, n_out: usize, test: Test) -> Result<(), ShadowError> {
    if n_out == 0 || test == Test::Online && n_in == 0 {
        let needs = if test == Test::Online { "one of each" } else { "one that was not" };
        return Err(ShadowError::TooFewModels { row, n_in, n_out, needs });
    }
    Ok(())
}

/// The deviation within rows, pooled over rows.
fn pooled<'a>(rows: impl Iterator<Item = &'a [f64]>) -> f64 {
    let (mut square, mut freedom) = (0.0, 0_usize);
    for values in rows.filter(|values| values.len() > 1) {
        let mean = mean(values);
        square += values.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
        freedom += values.len() - 1;
    }
    if freedom > 0 { (square / freedom as f64).sqrt().max(MIN_DEVIATION) } else { 1.0 }
}

struct Normal {
    mean: f64,
    deviation: f64,
}

impl Normal {
    fn of(values: &[f64], fixed: f64, spread: Spread) -> Self {
        let mean = mean(values);
        let own = || {
            let square: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
            (square / (values.len() - 1) as f64).sqrt().max(MIN_DEVIATION)
        };
        let deviation = if spread == Spread::PerRow && values.len() >= MIN_MODELS { own() } else { fixed };
        Self { mean, deviation }
    }

    fn standard(&self, value: f64) -> f64 {
        (value - self.mean) / self.deviation
    }

    /// Up to a constant.
    fn ln_density(&self, value: f64) -> f64 {
        -0.5 * self.standard(value).powi(2) - self.deviation.ln()
    }
}

/// A pooled covariance of the queries, as its Cholesky factor.
struct Pooled {
    factor: Array2<f64>,
    ln_determinant: f64,
}

impl Pooled {
    /// From the products of deviations, summed; a thousandth of the mean variance is added to the diagonal, so that
    /// queries that say the same have an inverse.
    fn new(mut products: Array2<f64>, freedom: usize) -> Self {
        let n = products.nrows();
        products.mapv_inplace(|value| value / freedom.max(1) as f64);
        let ridge = products.diag().sum() / n as f64 * 1e-3 + MIN_DEVIATION * MIN_DEVIATION;
        products.diag_mut().mapv_inplace(|value| value + ridge);
        let mut factor = Array2::<f64>::zeros((n, n));
        for i in 0..n {
            for j in 0..=i {
                let dot: f64 = (0..j).map(|k| factor[(i, k)] * factor[(j, k)]).sum();
                let rest = products[(i, j)] - dot;
                factor[(i, j)] = if i == j { rest.max(f64::MIN_POSITIVE).sqrt() } else { rest / factor[(j, j)] };
            }
        }
        let ln_determinant = factor.diag().iter().map(|value| value.ln()).sum();
        Self { factor, ln_determinant }
    }

    /// `ln N(value; mean)` up to a constant.
    fn ln_density(&self, value: &[f64], mean: &[f64]) -> f64 {
        let mut solved = vec![0.0; value.len()];
        for i in 0..value.len() {
            let dot: f64 = (0..i).map(|k| self.factor[(i, k)] * solved[k]).sum();
            solved[i] = (value[i] - mean[i] - dot) / self.factor[(i, i)];
        }
        -0.5 * solved.iter().map(|value| value * value).sum::<f64>() - self.ln_determinant
    }
}

fn of_vectors(
    bank: &Bank,
    target: ArrayView2<'_, f64>,
    left_out: Option<usize>,
    variant: Variant,
) -> Result<Vec<f64>, ShadowError> {
    let (n_rows, n_queries) = target.dim();
    let mut means = [Array2::zeros((n_rows, n_queries)), Array2::zeros((n_rows, n_queries))];
    let mut products = [Array2::<f64>::zeros((n_queries, n_queries)), Array2::zeros((n_queries, n_queries))];
    let mut freedom = [0_usize; 2];
    for row in 0..n_rows {
        let models = |inside: bool| {
            let of_side = (0..bank.n_models()).filter(move |&model| Some(model) != left_out);
            of_side.filter(move |&model| bank.inclusion[(model, row)] == inside)
        };
        check(row, models(true).count(), models(false).count(), variant.test)?;
        for (side, inside) in [(0, true), (1, false)] {
            let n = models(inside).count();
            let mut mean = means[side].row_mut(row);
            models(inside).for_each(|model| mean += &bank.of_model(model).row(row));
            mean.mapv_inplace(|value| value / n.max(1) as f64);
            for model in models(inside) {
                let deviation = &bank.of_model(model).row(row) - &mean;
                for i in 0..n_queries {
                    for j in 0..n_queries {
                        products[side][(i, j)] += deviation[i] * deviation[j];
                    }
                }
            }
            freedom[side] += n.saturating_sub(1);
        }
    }
    let [inside, outside] = products;
    let (inside, outside) = (Pooled::new(inside, freedom[0]), Pooled::new(outside, freedom[1]));
    let each = target.rows().into_iter().enumerate().map(|(row, phi)| {
        let phi = phi.to_vec();
        let out = outside.ln_density(&phi, &means[1].row(row).to_vec());
        match variant.test {
            Test::Online => inside.ln_density(&phi, &means[0].row(row).to_vec()) - out,
            Test::OneSided | Test::Density => -out,
        }
    });
    Ok(each.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::roc::Roc;
    use crate::audit::shadow::{Shadowing, planted};

    fn auc(bank: &Bank, variant: Variant) -> f64 {
        let target = bank.of_model(0).to_owned();
        let scores = scores(bank, target.view(), Some(0), variant).unwrap();
        let memberships: Vec<bool> = bank.inclusion().row(0).to_vec();
        Roc::new(&scores, &memberships).unwrap().auc()
    }

    fn variant(test: Test, spread: Spread) -> Variant {
        Variant { test, spread, queries: Queries::Mean }
    }

    #[test]
    fn the_planted_leak_is_found_and_a_blind_bank_finds_nothing() {
        let (leaking, blind) = (planted::bank(33, 1_500, 1, 2.0, 1), planted::bank(33, 1_500, 1, 0.0, 2));
        // Two normals a distance of 2 apart: an area of .92 at best, whatever the difficulties.
        assert!(auc(&leaking, variant(Test::Online, Spread::Fixed)) > 0.88);
        assert!(auc(&leaking, variant(Test::Online, Spread::PerRow)) > 0.83);
        assert!(auc(&leaking, variant(Test::OneSided, Spread::Fixed)) > 0.88);
        for variant in Variant::all(1) {
            let found = auc(&blind, variant);
            assert!((found - 0.5).abs() < 0.05, "{}: {found}", variant.name());
        }
    }

    #[test]
    fn fixed_variance_of_the_out_models_is_theirs() {
        // The published code takes the deviation of the models that were trained on a row for both sides.
        let mut bank = Bank::new(2, 1, Shadowing::AsTarget);
        for (logits, inclusion) in [
            ([[9.0], [0.0]], [true, false]),
            ([[11.0], [4.0]], [true, false]),
            ([[0.0], [9.0]], [false, true]),
            ([[4.0], [11.0]], [false, true]),
        ] {
            bank.push(ndarray::arr2(&logits).view(), &inclusion).unwrap();
        }
        let target = ndarray::arr2(&[[5.0], [5.0]]);
        let found = scores(&bank, target.view(), None, variant(Test::OneSided, Spread::Fixed)).unwrap();
        // Outside: mean 2, squares 8 + 8 over 2 degrees of freedom.
        assert!((found[0] - 3.0 / 8.0_f64.sqrt()).abs() < 1e-12, "{found:?}");
        let online = scores(&bank, target.view(), None, variant(Test::Online, Spread::Fixed)).unwrap();
        let density = |at: f64, mean: f64, variance: f64| -0.5 * (at - mean).powi(2) / variance - 0.5 * variance.ln();
        assert!((online[0] - (density(5.0, 10.0, 2.0) - density(5.0, 2.0, 8.0))).abs() < 1e-12);
    }

    #[test]
    fn the_offline_test_is_one_sided_and_the_density_is_not() {
        let mut bank = Bank::new(1, 1, Shadowing::AsTarget);
        for logit in [-1.0, 0.0, 1.0] {
            bank.push(ndarray::arr2(&[[logit]]).view(), &[false]).unwrap();
        }
        let at = |phi: f64, test| {
            scores(&bank, ndarray::arr2(&[[phi]]).view(), None, variant(test, Spread::PerRow)).unwrap()[0]
        };
        assert!(at(3.0, Test::OneSided) > at(-3.0, Test::OneSided));
        assert_eq!(at(3.0, Test::Density), at(-3.0, Test::Density));
        assert!(at(3.0, Test::Density) > at(0.0, Test::Density));
    }

    #[test]
    fn a_far_row_does_not_saturate() {
        // 1 − Pr[N > φ] is 1 in f64 from eight deviations on: the standard score is not.
        let mut bank = Bank::new(1, 1, Shadowing::AsTarget);
        for logit in [-1.0, 1.0] {
            bank.push(ndarray::arr2(&[[logit]]).view(), &[false]).unwrap();
        }
        let at = |phi: f64| {
            scores(&bank, ndarray::arr2(&[[phi]]).view(), None, variant(Test::OneSided, Spread::PerRow)).unwrap()[0]
        };
        assert!(at(60.0) > at(50.0));
    }

    #[test]
    fn more_queries_tell_more() {
        let (one, many) = (planted::bank(17, 1_500, 1, 0.7, 3), planted::bank(17, 1_500, 6, 0.7, 3));
        let online = variant(Test::Online, Spread::Fixed);
        assert!(auc(&many, online) > auc(&one, online) + 0.1);
        let vector = Variant { queries: Queries::Vector, ..online };
        // Here the queries are independent and alike: the vector has more means to estimate than the mean has.
        assert!(auc(&many, vector) > auc(&one, online) && auc(&many, vector) < auc(&many, online));
    }

    #[test]
    fn the_vector_uses_what_queries_share() {
        // Query 1 is noise that query 0 shares: the mean drowns the lift in it, the covariance takes it out.
        use rand::{Rng, SeedableRng};
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(5);
        let mut bank = Bank::new(600, 2, Shadowing::AsTarget);
        for _ in 0..17 {
            let inclusion: Vec<bool> = (0..600).map(|_| rng.random_bool(0.5)).collect();
            let mut logits = Array2::zeros((600, 2));
            for row in 0..600 {
                let noise = rng.random_range(-3.0..3.0);
                logits[(row, 0)] = noise + if inclusion[row] { 1.0 } else { 0.0 } + rng.random_range(-0.5..0.5);
                logits[(row, 1)] = noise + rng.random_range(-0.5..0.5);
            }
            bank.push(logits.view(), &inclusion).unwrap();
        }
        let online = variant(Test::Online, Spread::Fixed);
        let vector = Variant { queries: Queries::Vector, ..online };
        assert!(auc(&bank, vector) > auc(&bank, online) + 0.15);
    }

    #[test]
    fn a_row_without_models_of_a_kind_is_refused() {
        let mut bank = Bank::new(1, 1, Shadowing::AsTarget);
        bank.push(ndarray::arr2(&[[1.0]]).view(), &[true]).unwrap();
        let target = ndarray::arr2(&[[1.0]]);
        let error = scores(&bank, target.view(), None, variant(Test::OneSided, Spread::Fixed)).unwrap_err();
        assert!(error.to_string().contains("row 0: 1 models of the bank were trained on it, 0 were not"), "{error}");
    }

    #[test]
    fn the_target_is_never_its_own_shadow() {
        // One row, the target an extreme outlier: left out, its own logit must not move the mean.
        let mut bank = Bank::new(1, 1, Shadowing::AsTarget);
        for logit in [50.0, 0.0, 1.0] {
            bank.push(ndarray::arr2(&[[logit]]).view(), &[false]).unwrap();
        }
        let target = bank.of_model(0).to_owned();
        let one_sided = variant(Test::OneSided, Spread::PerRow);
        let found = scores(&bank, target.view(), Some(0), one_sided).unwrap()[0];
        assert!((found - 49.5 / 0.5_f64.sqrt()).abs() < 1e-9, "{found}");
    }
}
