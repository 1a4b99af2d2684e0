//! Forgetting rows: a bank in which only the models that saw them are trained anew.
//!
//! With disjoint shards (SISA: Bourtoule et al. 2021) a row is in one model, so that one model of S is trained again; where the
//! shards have slices, from the stage before the row's ([`super::slices`]). The rows are taken out of the inclusion matrix and out of the split; the models that never saw them are carried
//! over byte by byte, with records that name the bank they come from. What is left is the bank that would have been trained
//! had the rows never been dealt to those shards: the deal of the others and all seeds are kept. Other designs can forget too; there a
//! row is in many models, and little is saved.

use std::collections::{BTreeMap, HashSet};

use anyhow::{Context, ensure};
use ndarray::Axis;
use serde::{Deserialize, Serialize};

use super::inclusion::{Design, Inclusion};
use super::member::{State, model_file, record_file, state};
use super::merge::{Bank, Manifest, carry_slices};
use super::place::Place;
use super::plan::Planned;
use super::slices;
use crate::data::Dataset;

/// Trainings that took less all together are not compared.
const LEAST_SECONDS: f64 = 0.1;

/// The file of the [`ForgetRecord`] in a bank.
pub const FORGET_FILE: &str = "forget.json";

/// What is to be done to forget some rows.
#[derive(Debug, Clone)]
pub struct Forgetting {
    /// The plan without them.
    pub planned: Planned,
    /// The models that saw some of them.
    pub retrain: Vec<usize>,
    /// Rows that are forgotten.
    pub n_rows: usize,
    /// For each model of `retrain` the first stage that saw one of them, from 0.
    pub from_stage: Vec<usize>,
}

/// What forgetting cost, beside what training everything anew would have.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForgetRecord {
    /// Digest of the bank that knew the rows.
    pub from: String,
    /// Digest of the bank that does not.
    pub bank: String,
    /// Rows that were forgotten.
    pub n_rows: usize,
    /// Models that had seen them and were trained anew.
    pub retrained: Vec<usize>,
    /// For each of them the first slice, from 0, that was trained anew; absent without slices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_stage: Option<Vec<usize>>,
    /// Models in all.
    pub n_models: usize,
    /// Seconds that training those took.
    pub retrain_seconds: f64,
    /// Seconds that training all models of the bank took when it was made: on whatever machine that was.
    pub full_seconds: f64,
    /// `1 − retrain_seconds / full_seconds`, below 0 where the clock says so; absent where a model on either side was
    /// trained in several sittings, of which only the last was timed, or all took no time to speak of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saved: Option<f64>,
}

impl Forgetting {
    /// Plans to forget rows, by their numbers in the dataset.
    ///
    /// # Errors
    ///
    /// When a row is not in the bank's pool, none is named, a model or class would be left without rows, or the bank is a
    /// boosted one, in which every model is what it is by every row.
    pub fn plan(bank: &Bank, dataset: &Dataset, rows: &[usize]) -> anyhow::Result<Self> {
        let old = &bank.planned;
        old.check(dataset)?;
        let forgotten: HashSet<usize> = rows.iter().copied().collect();
        ensure!(!forgotten.is_empty(), "expected rows to forget, got none");
        ensure!(
            !matches!(old.plan.design, Design::Recorded { .. }),
            "a boosted bank forgets nothing: what the rounds before got wrong, the rows among it, drew the rows of each round; \
             boost anew on a split without the rows (`sordino split --without`)"
        );
        let places = old.inclusion.places();
        let mut retrain = BTreeMap::new();
        for row in &forgotten {
            let place = *places.get(row).with_context(|| format!("row {row} is not in the bank's pool"))?;
            let stage = slices::slice_of(&old.inclusion, *row);
            for (model, _) in old.inclusion.of_row(place).iter().enumerate().filter(|(_, n)| **n > 0) {
                let first = retrain.entry(model).or_insert(stage);
                *first = stage.min(*first);
            }
        }
        let (retrain, from_stage) = retrain.into_iter().unzip();
        let kept: Vec<usize> =
            (0..old.inclusion.rows().len()).filter(|&at| !forgotten.contains(&old.inclusion.rows()[at])).collect();
        let inclusion = Inclusion::from_parts(
            old.inclusion.design(),
            old.inclusion.seed(),
            kept.iter().map(|&at| old.inclusion.rows()[at]).collect(),
            old.inclusion.counts().select(Axis(1), &kept),
        )
        .context("without the rows")?;
        // Out of every part: what else is fitted on a part, a stacking or an attacker's models, is not to know them either.
        let split = old.split.forgetting(rows)?;
        split.check_classes(dataset)?;
        let (plan, n_rows) = (&old.plan, forgotten.len());
        let planned =
            Planned::new(plan.recipe.clone(), (dataset, plan.data.clone()), split, plan.pool.clone(), inclusion)?;
        Ok(Self { planned, retrain, n_rows, from_stage })
    }

    /// Writes the plan, and carries over what never saw the rows: models, and stages of the others.
    ///
    /// # Errors
    ///
    /// When a place cannot be read or written, or holds another bank.
    pub fn carry(&self, (from, bank): (&Place, &Bank), to: &Place) -> anyhow::Result<()> {
        self.planned.write(to)?;
        let digest = self.planned.plan.digest();
        for (&member, &stage) in self.retrain.iter().zip(&self.from_stage) {
            carry_slices((from, to), member, stage)?;
        }
        for member in (0..self.planned.plan.n_models()).filter(|member| !self.retrain.contains(member)) {
            if matches!(state(to, &self.planned, member)?, State::Whole(_)) {
                continue;
            }
            let model = bank.model(from, member)?;
            let State::Whole(record) = state(from, &bank.planned, member)? else {
                anyhow::bail!("{} is missing or does not fit in {from}", record_file(member));
            };
            carry_slices((from, to), member, slices::n_stages(self.planned.plan.design) - 1)?;
            let mut record = *record;
            record.kept_from = Some(std::mem::replace(&mut record.plan, digest.clone()));
            to.write(&model_file(member), &model)?;
            to.write(&record_file(member), &record.to_json())?;
        }
        Ok(())
    }

    /// The record, once everything is trained.
    ///
    /// # Errors
    ///
    /// When a model is missing.
    pub fn record(
        &self,
        (from, old): (&Place, &Bank),
        (place, new): (&Place, &Manifest),
    ) -> anyhow::Result<ForgetRecord> {
        let mut retrain_seconds = 0.0;
        let mut is_timed = true;
        for member in 0..old.manifest.models.len() {
            let record = state(from, &old.planned, member)?;
            is_timed &= matches!(record, State::Whole(record) if !record.resumed);
        }
        for &member in &self.retrain {
            let State::Whole(record) = state(place, &self.planned, member)? else {
                anyhow::bail!("model {member} is missing");
            };
            retrain_seconds += record.wall_seconds;
            is_timed &= !record.resumed;
        }
        let full_seconds = old.manifest.train_seconds;
        let round = |value: f64| (value * 1000.0).round() / 1000.0;
        Ok(ForgetRecord {
            from: old.manifest.digest.clone(),
            bank: new.digest.clone(),
            n_rows: self.n_rows,
            retrained: self.retrain.clone(),
            from_stage: (slices::n_stages(self.planned.plan.design) > 1).then(|| self.from_stage.clone()),
            n_models: self.planned.plan.n_models(),
            retrain_seconds: round(retrain_seconds),
            full_seconds,
            saved: (is_timed && full_seconds >= LEAST_SECONDS).then(|| round(1.0 - retrain_seconds / full_seconds)),
        })
    }
}
