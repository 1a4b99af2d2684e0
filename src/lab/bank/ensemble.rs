//! How good a bank is as one classifier.
//!
//! For a row of the pool only models answer that never saw it (an exclusion ensemble, R11); rows outside of the pool are
//! answered in the same way (R13): each is given the models of some row of the pool, drawn with a seed, so that members
//! and others are answered by as many models. What a router adds, exclusion by nearness, is not measured here.

use std::collections::HashSet;

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::{Deserialize, Serialize};

use super::answers::Averaged;
use super::merge::Bank;
use super::place::Place;
use crate::data::{Dataset, Part};
use crate::lab::streams;
use crate::lab::train::Score;

/// The stream of the generator that gives rows outside of the pool a row of the pool.
const STAND_IN_STREAM: u64 = streams::INCLUSION + (1 << 31) + 1;

/// How good the averaged answers of a bank are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnsembleRecord {
    /// Digest of the bank.
    pub bank: String,
    /// On the rows of the pool, each answered by the models that never saw it.
    pub pool_by_strangers: Option<Score>,
    /// Rows of the pool that every model saw: nobody may answer for them.
    pub n_without_model: usize,
    /// The fewest models that may answer for a row of the pool.
    pub fewest_models: usize,
    /// How many may, in the mean.
    pub mean_models: f64,
    /// On the rows of the pool, each answered by all models: what an ensemble without exclusion tells its members.
    pub pool_by_all: Option<Score>,
    /// On validation rows outside of the pool, answered as rows of the pool are.
    pub validation: Option<Score>,
    /// On test rows outside of the pool, answered as rows of the pool are.
    pub test: Option<Score>,
    /// On test rows outside of the pool, answered by all models.
    pub test_by_all: Option<Score>,
    /// On test rows outside of the pool, by one model: the mean accuracy.
    pub test_by_one: Option<f64>,
}

/// Measures a bank.
///
/// # Errors
///
/// When a model is missing, damaged or cannot be run.
pub fn measure(place: &Place, bank: &Bank, dataset: &Dataset) -> anyhow::Result<EnsembleRecord> {
    let inclusion = &bank.planned.inclusion;
    let counts = inclusion.counts();
    let pool = inclusion.rows();
    let average = |rows: &[usize], may_answer: &dyn Fn(usize, usize) -> bool| {
        Averaged::of_bank((place, bank), dataset, rows, 1.0, may_answer)
    };
    let by_strangers = average(pool, &|model, at| counts[[model, at]] == 0)?;
    let by_all = average(pool, &|_, _| true)?;
    let members: HashSet<usize> = pool.iter().copied().collect();
    let outside = |part| -> Vec<usize> {
        bank.planned.split.part(part).iter().copied().filter(|row| !members.contains(row)).collect()
    };
    let mut rng = ChaCha8Rng::seed_from_u64(inclusion.seed());
    rng.set_stream(STAND_IN_STREAM);
    let mut as_members = |rows: &[usize]| -> anyhow::Result<Option<Score>> {
        let stand_ins: Vec<usize> = rows.iter().map(|_| rng.random_range(0..pool.len())).collect();
        let averaged = average(rows, &|model, at| counts[[model, stand_ins[at]]] == 0)?;
        Ok(averaged.score(dataset, rows))
    };
    let test = outside(Part::Test);
    let models = &bank.manifest.models;
    let single: Vec<f64> = models.iter().filter_map(|model| Some(model.results.test?.accuracy)).collect();
    let n_models: usize = by_strangers.n_models.iter().sum();
    Ok(EnsembleRecord {
        bank: bank.manifest.digest.clone(),
        pool_by_strangers: by_strangers.score(dataset, pool),
        n_without_model: by_strangers.n_models.iter().filter(|&&n| n == 0).count(),
        fewest_models: by_strangers.n_models.iter().copied().min().unwrap_or(0),
        mean_models: n_models as f64 / pool.len().max(1) as f64,
        pool_by_all: by_all.score(dataset, pool),
        validation: as_members(&outside(Part::Validation))?,
        test: as_members(&test)?,
        test_by_all: average(&test, &|_, _| true)?.score(dataset, &test),
        test_by_one: (!single.is_empty()).then(|| single.iter().sum::<f64>() / single.len() as f64),
    })
}
