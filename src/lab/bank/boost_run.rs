//! The rounds of boosting on disk: each waits for the one before, all are kept, the whole becomes a bank.

use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use ndarray::Array2;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::boost::Weights;
use super::inclusion::{Design, Inclusion};
use super::member::{self, MemberRecord, checkpoint_file, model_file, record_file};
use super::merge::{Manifest, seal};
use super::place::Place;
use super::plan::Planned;
use super::run::{Assignment, Sitting, Trained, Worker};
use crate::data::{Dataset, hex};
use crate::lab::record::{CodeRecord, MachineRecord};

/// The file that says how far the rounds are; removed when the bank is complete.
pub const ROUNDS_FILE: &str = "rounds.json";

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rounds {
    /// Digest of the plan before any row was drawn, and of the rate.
    identity: String,
    /// The models that stand.
    done: Vec<Round>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Round {
    sha256: String,
    wall_seconds: f64,
}

/// A bank to be boosted.
pub struct Boosting<'a> {
    /// Where it lies.
    pub place: &'a Place,
    /// The plan as it would be with every row in every round: recipe, seeds, split, pool.
    pub planned: &'a Planned,
    /// The rows.
    pub dataset: &'a Dataset,
    /// Who trains.
    pub worker: &'a dyn Worker,
    /// How much a round changes the weights: 1 for SAMME.R, less for smaller steps.
    pub rate: f64,
    /// The program's source.
    pub code: Option<CodeRecord>,
    /// The machine, in words.
    pub machine: MachineRecord,
}

impl Boosting<'_> {
    /// Trains the rounds that are missing and completes the bank; `None` when it was asked to stop.
    ///
    /// # Errors
    ///
    /// When the place holds another bank, a round diverges, or something cannot be read or written.
    pub fn run(&self, stop: &AtomicBool, told: &dyn Fn(&MemberRecord)) -> anyhow::Result<Option<Manifest>> {
        ensure!(self.rate.is_finite() && self.rate > 0.0, "rate: expected a positive number, got {}", self.rate);
        let rows = self.planned.inclusion.rows();
        let n_rounds = self.planned.plan.n_models();
        let mut rounds = self.rounds()?;
        let mut weights = Weights::equal(rows.len());
        let (mut counts, mut records) = (Vec::new(), Vec::new());
        for round in 0..n_rounds {
            let drawn = weights.draw(self.planned.plan.recipe.seed, round);
            let standing = match rounds.done.get(round) {
                Some(done) => self.standing(round, done)?,
                None => None,
            };
            let (model, record) = match standing {
                Some(found) => found,
                None => {
                    rounds.done.truncate(round);
                    let Some((model, record)) = self.train(round, &drawn, stop)? else { return Ok(None) };
                    rounds.done.push(Round { sha256: record.sha256.clone(), wall_seconds: record.wall_seconds });
                    self.place.write(ROUNDS_FILE, &serde_json::to_vec_pretty(&rounds)?)?;
                    self.place.remove(&checkpoint_file(round))?;
                    told(&record);
                    (model, record)
                }
            };
            weights = weights.after_model(&model, self.dataset, rows, self.rate)?;
            counts.extend(drawn);
            records.push(record);
        }
        let counts = Array2::from_shape_vec((n_rounds, rows.len()), counts)?;
        Ok(Some(self.complete(counts, records)?))
    }

    fn rounds(&self) -> anyhow::Result<Rounds> {
        let identity = hex(&Sha256::digest(format!("{} {}", self.planned.plan.digest(), self.rate)));
        let Some(bytes) = self.place.read(ROUNDS_FILE)? else { return Ok(Rounds { identity, done: vec![] }) };
        let found: Rounds =
            serde_json::from_slice(&bytes).with_context(|| format!("{ROUNDS_FILE} in {}", self.place))?;
        ensure!(
            found.identity == identity,
            "{} holds rounds of another bank (recipe, rows, number of rounds or rate): name another folder, or remove it",
            self.place
        );
        Ok(found)
    }

    /// A round that stands, if it does.
    fn standing(&self, round: usize, done: &Round) -> anyhow::Result<Option<(Vec<u8>, MemberRecord)>> {
        let (Some(model), Some(record)) = (self.place.read(&model_file(round))?, self.place.read(&record_file(round))?)
        else {
            return Ok(None);
        };
        let Ok(record) = serde_json::from_slice::<MemberRecord>(&record) else { return Ok(None) };
        let fits = hex(&Sha256::digest(&model)) == done.sha256 && record.sha256 == done.sha256;
        Ok(fits.then_some((model, record)))
    }

    fn train(&self, round: usize, drawn: &[u8], stop: &AtomicBool) -> anyhow::Result<Option<(Vec<u8>, MemberRecord)>> {
        let started = Instant::now();
        let repeated = |(&row, &count): (&usize, &u8)| std::iter::repeat_n(row, usize::from(count));
        let pool = self.planned.inclusion.rows();
        let rows: Vec<usize> = pool.iter().zip(drawn).flat_map(repeated).collect();
        let strangers = pool.iter().zip(drawn).filter(|(_, count)| **count == 0).map(|(&row, _)| row).collect();
        let n_rows = rows.len();
        let running = checkpoint_file(round);
        let checkpoint = self.place.read(&running)?.filter(|bytes| match self.worker.check_checkpoint(bytes) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!("{running}: {error:#}; round {round} begins anew");
                false
            }
        });
        let resumed = checkpoint.is_some();
        let assignment = Assignment {
            member: round,
            recipe: self.planned.plan.recipe_of(round),
            rows,
            strangers,
            checkpoint,
            before: None,
            is_last: true,
        };
        let mut keep = |write: &mut dyn FnMut() -> anyhow::Result<Vec<u8>>| self.place.write(&running, &write()?);
        let trained = match self.worker.train(assignment, &mut keep, stop)? {
            Sitting::Interrupted(checkpoint) => {
                self.place.write(&checkpoint_file(round), &checkpoint)?;
                return Ok(None);
            }
            Sitting::Finished(trained) => *trained,
            Sitting::Stage(_) => bail!("a round has one stage"),
        };
        let Trained { model, results, history, privacy } = trained;
        let record = MemberRecord {
            format: member::FORMAT.to_owned(),
            format_version: member::FORMAT_VERSION,
            plan: self.planned.plan.digest(),
            member: round,
            seed: self.planned.plan.seeds[round],
            n_rows,
            sha256: hex(&Sha256::digest(&model)),
            results,
            history,
            privacy,
            kept_from: None,
            wall_seconds: (started.elapsed().as_secs_f64() * 100.0).round() / 100.0,
            resumed,
            code: self.code.clone(),
            machine: self.machine.clone(),
        };
        self.place.write(&model_file(round), &model)?;
        self.place.write(&record_file(round), &record.to_json())?;
        Ok(Some((model, record)))
    }

    /// The plan with the rows as they were drawn, the records under it, the manifest.
    fn complete(&self, counts: Array2<u8>, records: Vec<MemberRecord>) -> anyhow::Result<Manifest> {
        let old = &self.planned.plan;
        let (seed, rows) = (old.recipe.seed, self.planned.inclusion.rows().to_vec());
        let inclusion = Inclusion::from_parts(Design::Recorded { models: records.len() }, seed, rows, counts)?;
        let data = (self.dataset, old.data.clone());
        let planned = Planned::new(old.recipe.clone(), data, self.planned.split.clone(), old.pool.clone(), inclusion)?;
        planned.write(self.place)?;
        let digest = planned.plan.digest();
        for record in records {
            let record = MemberRecord { plan: digest.clone(), ..record };
            self.place.write(&record_file(record.member), &record.to_json())?;
        }
        let manifest = seal(self.place, &planned)?;
        self.place.remove(ROUNDS_FILE)?;
        Ok(manifest)
    }
}
