//! Gradient-boosted trees, by the crate `forust-ml`.

use std::panic::{AssertUnwindSafe, catch_unwind};

use forust_ml::gradientbooster::GradientBooster;
use forust_ml::objective::ObjectiveType;
use forust_ml::{Matrix, sampler::SampleMethod};
use ndarray::Array2;

/// Rounds of boosting.
const N_ROUNDS: usize = 100;
/// Depth of a tree.
const DEPTH: usize = 4;

/// Boosted trees that tell members from non-members.
pub(crate) struct Trees(GradientBooster);

impl Trees {
    /// Trains on `features` (n_rows, n_features), one thread. `weights` are one a row.
    ///
    /// # Errors
    /// What the crate said.
    pub(crate) fn fit(
        features: &Array2<f32>,
        memberships: &[bool],
        weights: &[f32],
        seed: u64,
    ) -> Result<Self, String> {
        let columns = column_major(features);
        let data = Matrix::new(&columns, features.nrows(), features.ncols());
        let targets: Vec<f64> = memberships.iter().map(|&member| f64::from(u8::from(member))).collect();
        let weights: Vec<f64> = weights.iter().map(|&weight| f64::from(weight)).collect();
        let mut booster = GradientBooster::default()
            .set_objective_type(ObjectiveType::LogLoss)
            .set_iterations(N_ROUNDS)
            .set_learning_rate(0.1)
            .set_max_depth(DEPTH)
            .set_max_leaves(1 << DEPTH)
            .set_min_leaf_weight(2.0)
            .set_l2(1.0)
            .set_subsample(0.8)
            .set_sample_method(SampleMethod::Random)
            .set_seed(seed)
            .set_parallel(false);
        // Answers come from files and endpoints: whatever the crate makes of them, an audit must not end in a panic.
        let fitted = catch_unwind(AssertUnwindSafe(|| booster.fit(&data, &targets, &weights, None)));
        match fitted {
            Ok(fitted) => fitted.map_err(|error| error.to_string())?,
            Err(_) => return Err("the trees could not be fitted".to_owned()),
        }
        Ok(Self(booster))
    }

    /// Log-odds of membership of each row.
    pub(crate) fn scores(&self, features: &Array2<f32>) -> Vec<f64> {
        let columns = column_major(features);
        self.0.predict(&Matrix::new(&columns, features.nrows(), features.ncols()), false)
    }
}

fn column_major(features: &Array2<f32>) -> Vec<f64> {
    features.columns().into_iter().flat_map(|column| column.into_iter().map(|&value| f64::from(value))).collect()
}
