//! Training what is missing of a bank: all of it or a shard, again after a kill.
//!
//! Knows neither networks nor data: a [`Worker`] trains one model. A model counts as done when its record stands in the
//! place and fits; everything else is trained, from its checkpoint where there is one. The model is written before its record and
//! both are written whole, and a checkpoint is kept behind each epoch: a kill at any moment costs at most one epoch.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use sha2::{Digest, Sha256};

use super::member::{
    FORMAT, FORMAT_VERSION, MemberRecord, MemberResults, State, checkpoint_file, model_file, record_file, state,
};
use super::place::Place;
use super::plan::Planned;
use super::slices;
use crate::data::hex;
use crate::lab::dp::PrivacyRecord;
use crate::lab::recipe::Recipe;
use crate::lab::record::{CodeRecord, MachineRecord};
use crate::lab::train::EpochScore;

/// One of several equal parts of a bank's work: the models `m` with `m mod count = index`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    index: usize,
    count: usize,
}

impl Shard {
    /// The whole of the work.
    pub const ALL: Self = Self { index: 0, count: 1 };

    /// Part `index`, counted from 0, of `count`.
    ///
    /// # Errors
    ///
    /// When there is no such part.
    pub fn new(index: usize, count: usize) -> anyhow::Result<Self> {
        ensure!(index < count, "expected a shard from 0 to below the number of shards, got {index} of {count}");
        Ok(Self { index, count })
    }

    /// Part `index`, counted from 0, of `count` parts of this part.
    ///
    /// # Errors
    ///
    /// When there is no such part.
    pub fn part(self, index: usize, count: usize) -> anyhow::Result<Self> {
        let Self { index: part, count: parts } = Self::new(index, count)?;
        let parts = parts.checked_mul(self.count).context("too many shards")?;
        Self::new(self.index + part * self.count, parts)
    }

    /// The models of this part, of `n_models`.
    pub fn members(self, n_models: usize) -> impl Iterator<Item = usize> {
        (self.index..n_models).step_by(self.count)
    }
}

/// `i/n`, with `i` from 0 to `n` − 1.
impl FromStr for Shard {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let numbers = text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        let (index, count) =
            numbers.with_context(|| format!("expected i/n, such as 0/8, got '{}'", text.escape_debug()))?;
        Self::new(index, count)
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

/// What a worker is to train.
#[derive(Debug)]
pub struct Assignment {
    /// The model's number in the plan.
    pub member: usize,
    /// Its recipe, with its own seed.
    pub recipe: Recipe,
    /// The rows to train on, by their numbers in the dataset; one that stands twice is seen twice.
    pub rows: Vec<usize>,
    /// The rows of the pool that it must not see.
    pub strangers: Vec<usize>,
    /// Where an earlier sitting stopped.
    pub checkpoint: Option<Vec<u8>>,
    /// The stage before, of a shard with slices: its weights are where this one begins.
    pub before: Option<Before>,
    /// Whether a model is wanted; if not, the checkpoint at the end is.
    pub is_last: bool,
}

/// A finished stage of a shard with slices.
#[derive(Debug)]
pub struct Before {
    /// The rows that it was trained on.
    pub rows: Vec<usize>,
    /// Its recipe.
    pub recipe: Recipe,
    /// What it left.
    pub checkpoint: Vec<u8>,
}

/// A trained model.
#[derive(Debug, Clone, PartialEq)]
pub struct Trained {
    /// The ONNX file.
    pub model: Vec<u8>,
    /// How good it is.
    pub results: MemberResults,
    /// Loss and accuracy of each epoch.
    pub history: Vec<EpochScore>,
    /// What differential privacy its training gives, if any.
    pub privacy: Option<PrivacyRecord>,
}

/// How a sitting ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Sitting {
    /// All epochs are done.
    Finished(Box<Trained>),
    /// All epochs of a stage that is not the last are done; the next one begins with this.
    Stage(Vec<u8>),
    /// It was asked to stop; this goes on from there.
    Interrupted(Vec<u8>),
}

/// Trains one model.
pub trait Worker: Sync {
    /// Looks at what [`Sitting::Interrupted`] or [`Sitting::Stage`] gave, as it was read back.
    ///
    /// # Errors
    ///
    /// When it is damaged, so that the training is to begin anew.
    fn check_checkpoint(&self, bytes: &[u8]) -> anyhow::Result<()>;

    /// Trains until done or until `stop` is raised. After each epoch `keep` is offered a way to write a checkpoint.
    ///
    /// # Errors
    ///
    /// When the training diverges, the checkpoint is of another training, or `keep` fails.
    fn train(&self, assignment: Assignment, keep: &mut Keep<'_>, stop: &AtomicBool) -> anyhow::Result<Sitting>;
}

/// Is offered a checkpoint after each epoch.
pub type Keep<'a> = dyn FnMut(&mut dyn FnMut() -> anyhow::Result<Vec<u8>>) -> anyhow::Result<()> + 'a;

/// What is told as a bank is trained.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A model stands already.
    Stands(usize),
    /// Something stands that does not fit, in words; it is trained anew.
    Unfit(usize, String),
    /// A model is being trained; whether from a checkpoint.
    Started(usize, bool),
    /// A model is done.
    Done(Box<MemberRecord>),
    /// A model was left where it stands.
    Interrupted(usize),
    /// A model could not be trained, in words. The others go on.
    Failed(usize, String),
}

/// How the models of a bank are trained in one process.
pub struct Run<'a> {
    /// Where the bank lies.
    pub place: &'a Place,
    /// What it is to be.
    pub planned: &'a Planned,
    /// Who trains.
    pub worker: &'a dyn Worker,
    /// Which of the models.
    pub shard: Shard,
    /// Threads that each of them is trained with.
    pub threads: usize,
    /// The program's source.
    pub code: Option<CodeRecord>,
    /// The machine, in words.
    pub machine: MachineRecord,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Every model of the shard stands.
    Complete,
    /// It was asked to stop.
    Interrupted,
}

impl Run<'_> {
    /// Trains what is missing or does not fit, one model after the other: gradients of two models are not to be taken in
    /// one process at a time (`lab::autodiff`), so models that are trained beside each other are shards in processes of
    /// their own.
    ///
    /// # Errors
    ///
    /// When the place cannot be read or written, or models could not be trained: then the others are, first.
    pub fn run(&self, stop: &AtomicBool, told: &(dyn Fn(Event) + Sync)) -> anyhow::Result<Ended> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(self.threads.max(1)).build();
        pool.context("cannot start threads")?.install(|| self.members(stop, told))
    }

    fn members(&self, stop: &AtomicBool, told: &(dyn Fn(Event) + Sync)) -> anyhow::Result<Ended> {
        let mut failures = Vec::new();
        for member in self.shard.members(self.planned.plan.n_models()) {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            if let Err(error) = self.member(member, stop, told) {
                told(Event::Failed(member, format!("{error:#}")));
                failures.push((member, error));
            }
        }
        let n_failed = failures.len();
        if let Some((member, error)) = failures.into_iter().next() {
            return Err(
                error.context(format!("{n_failed} models could not be trained, the first of them model {member}"))
            );
        }
        Ok(if stop.load(Ordering::Relaxed) { Ended::Interrupted } else { Ended::Complete })
    }

    fn member(&self, member: usize, stop: &AtomicBool, told: &(dyn Fn(Event) + Sync)) -> anyhow::Result<()> {
        let n_stages = slices::n_stages(self.planned.plan.design);
        match state(self.place, self.planned, member)? {
            State::Whole(_) => {
                // A kill between the record and this leaves one.
                self.place.remove(&self.running_file(member, n_stages - 1))?;
                told(Event::Stands(member));
                return Ok(());
            }
            State::Unfit(why) => told(Event::Unfit(member, why)),
            State::Missing => {}
        }
        let started = Instant::now();
        let mut before = self.last_kept(member, n_stages, told)?;
        let mut resumed = false;
        let first = before.as_ref().map_or(0, |(stage, _)| stage + 1);
        for stage in first..n_stages {
            let running = self.running_file(member, stage);
            let checkpoint = self.whole(member, &running, told)?;
            let goes_on = checkpoint.is_some();
            if stage == first {
                resumed = goes_on;
                told(Event::Started(member, goes_on || stage > 0));
            }
            let mut keep = |write: &mut dyn FnMut() -> anyhow::Result<Vec<u8>>| self.place.write(&running, &write()?);
            let assignment = self.assignment(member, (stage, n_stages), checkpoint, before.take());
            let sitting = self.worker.train(assignment, &mut keep, stop);
            let sitting = if goes_on { sitting.with_context(|| format!("from {running}")) } else { sitting };
            match sitting? {
                Sitting::Interrupted(checkpoint) => {
                    self.place.write(&running, &checkpoint)?;
                    told(Event::Interrupted(member));
                    return Ok(());
                }
                Sitting::Stage(checkpoint) => {
                    self.place.write(&slices::kept_file(member, stage), &checkpoint)?;
                    self.place.remove(&running)?;
                    before = Some((stage, checkpoint));
                }
                Sitting::Finished(trained) => {
                    let record = self.write(member, *trained, (started.elapsed(), resumed))?;
                    told(Event::Done(Box::new(record)));
                    self.place.remove(&running)?;
                }
            }
        }
        Ok(())
    }

    /// The last finished stage of a model that is not done, and what it left.
    fn last_kept(
        &self,
        member: usize,
        n_stages: usize,
        told: &(dyn Fn(Event) + Sync),
    ) -> anyhow::Result<Option<(usize, Vec<u8>)>> {
        for stage in (0..n_stages - 1).rev() {
            if let Some(bytes) = self.whole(member, &slices::kept_file(member, stage), told)? {
                return Ok(Some((stage, bytes)));
            }
        }
        Ok(None)
    }

    /// A checkpoint that can be gone on from; one that is damaged is told and left.
    fn whole(&self, member: usize, name: &str, told: &(dyn Fn(Event) + Sync)) -> anyhow::Result<Option<Vec<u8>>> {
        let Some(bytes) = self.place.read(name)? else { return Ok(None) };
        match self.worker.check_checkpoint(&bytes) {
            Ok(()) => Ok(Some(bytes)),
            Err(error) => {
                told(Event::Unfit(member, format!("{name}: {error:#}")));
                Ok(None)
            }
        }
    }

    fn running_file(&self, member: usize, stage: usize) -> String {
        match slices::n_stages(self.planned.plan.design) {
            1 => checkpoint_file(member),
            _ => slices::running_file(member, stage),
        }
    }

    fn assignment(
        &self,
        member: usize,
        (stage, n_stages): (usize, usize),
        checkpoint: Option<Vec<u8>>,
        before: Option<(usize, Vec<u8>)>,
    ) -> Assignment {
        let Planned { plan, inclusion, .. } = self.planned;
        let of_stage = |stage| {
            let recipe = slices::recipe_of(plan.design, plan.recipe_of(member), stage);
            (slices::rows_of(inclusion, member, stage), recipe)
        };
        let (rows, recipe) = of_stage(stage);
        Assignment {
            member,
            recipe,
            rows,
            strangers: inclusion.strangers(member),
            checkpoint,
            before: before.map(|(stage, checkpoint)| {
                let (rows, recipe) = of_stage(stage);
                Before { rows, recipe, checkpoint }
            }),
            is_last: stage + 1 == n_stages,
        }
    }

    /// Writes the model, then its record.
    fn write(
        &self,
        member: usize,
        trained: Trained,
        (took, resumed): (Duration, bool),
    ) -> anyhow::Result<MemberRecord> {
        let record = MemberRecord {
            format: FORMAT.to_owned(),
            format_version: FORMAT_VERSION,
            plan: self.planned.plan.digest(),
            member,
            seed: self.planned.plan.seeds[member],
            n_rows: self.planned.inclusion.members(member).len(),
            sha256: hex(&Sha256::digest(&trained.model)),
            results: trained.results,
            history: trained.history,
            privacy: trained.privacy,
            kept_from: None,
            wall_seconds: (took.as_secs_f64() * 100.0).round() / 100.0,
            resumed,
            code: self.code.clone(),
            machine: self.machine.clone(),
        };
        self.place.write(&model_file(member), &trained.model)?;
        self.place.write(&record_file(member), &record.to_json())?;
        Ok(record)
    }
}
