//! How good a bank is as one classifier.
//!
//! For a row of the pool only models answer that never saw it (an exclusion ensemble, R11). Rows outside of it are answered in
//! two ways:
//!
//! | | rows of the pool | rows outside | |
//! | --- | --- | --- | --- |
//! | `routed` | their strangers | all models | the best answers, but a mean of many looks unlike one of few |
//! | `routed_alike` | their strangers | the strangers of a row of the pool, drawn with a seed | R13: as many models for both |
//! | `unrouted` | all models | all models | what an ensemble without exclusion tells |
//!
//! Both need to know, when they are asked, that a row is one of the pool. A router's guess by nearness is not measured here.

use std::collections::HashSet;

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::{Deserialize, Serialize};

use super::answers::Averaged;
use super::merge::Bank;
use super::pairs::Pairs;
use super::place::Place;
use crate::data::{Dataset, Part};
use crate::lab::record::Results;
use crate::lab::streams;
use crate::lab::train::{RowScores, Score};

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
    /// For how many pairs of rows of the pool no model may; absent in older records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pairs: Option<Pairs>,
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
    /// Rows of the pool (as `train`) by their strangers against test rows by all models, with the loss attack; absent
    /// in older records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routed: Option<Results>,
    /// The same against test rows that are answered as rows of the pool are (R13).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routed_alike: Option<Results>,
    /// Both by all models.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unrouted: Option<Results>,
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
    let members: HashSet<usize> = pool.iter().copied().collect();
    let outside = |part| -> Vec<usize> {
        bank.planned.split.part(part).iter().copied().filter(|row| !members.contains(row)).collect()
    };
    let mut rng = ChaCha8Rng::seed_from_u64(inclusion.seed());
    rng.set_stream(STAND_IN_STREAM);
    let mut as_members = |rows: &[usize]| -> anyhow::Result<RowScores> {
        let stand_ins: Vec<usize> = rows.iter().map(|_| rng.random_range(0..pool.len())).collect();
        let averaged = average(rows, &|model, at| counts[[model, stand_ins[at]]] == 0)?;
        Ok(averaged.row_scores(dataset, rows))
    };
    let by_all = |rows: &[usize]| anyhow::Ok(average(rows, &|_, _| true)?.row_scores(dataset, rows));

    let strangers = average(pool, &|model, at| counts[[model, at]] == 0)?;
    let pool_by_strangers = strangers.row_scores(dataset, pool);
    let pool_by_all = by_all(pool)?;
    let validation = as_members(&outside(Part::Validation))?.mean();
    let test = outside(Part::Test);
    let (test_as_members, test_by_all) = (as_members(&test)?, by_all(&test)?);

    let models = &bank.manifest.models;
    let single: Vec<f64> = models.iter().filter_map(|model| Some(model.results.test?.accuracy)).collect();
    let n_models: usize = strangers.n_models.iter().sum();
    let leak = |pool: &RowScores, test: &RowScores| {
        let none = RowScores::default;
        Results::of([pool.clone(), none(), none(), test.clone()], inclusion.seed()).map(Some)
    };
    Ok(EnsembleRecord {
        bank: bank.manifest.digest.clone(),
        pool_by_strangers: pool_by_strangers.mean(),
        n_without_model: strangers.n_models.iter().filter(|&&n| n == 0).count(),
        fewest_models: strangers.n_models.iter().copied().min().unwrap_or(0),
        mean_models: n_models as f64 / pool.len().max(1) as f64,
        pairs: Some(Pairs::of(inclusion)),
        pool_by_all: pool_by_all.mean(),
        validation,
        test: test_as_members.mean(),
        test_by_all: test_by_all.mean(),
        test_by_one: (!single.is_empty()).then(|| single.iter().sum::<f64>() / single.len() as f64),
        routed: leak(&pool_by_strangers, &test_by_all)?,
        routed_alike: leak(&pool_by_strangers, &test_as_members)?,
        unrouted: leak(&pool_by_all, &test_by_all)?,
    })
}
