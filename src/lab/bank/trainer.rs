//! The worker that trains a bank's models with the lab's trainer: one function, [`train_member`], for every bank.

use std::collections::HashSet;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, bail, ensure};
use ndarray::Array2;

use super::member::MemberResults;
use super::plan::Planned;
use super::run::{Assignment, Before, Keep, Sitting, Trained, Worker};
use crate::data::{Dataset, Part};
use crate::lab::checkpoint;
use crate::lab::device::OpenDevice;
use crate::lab::dp::{NoiseKey, PrivacyRecord};
use crate::lab::network::Network;
use crate::lab::onnx;
use crate::lab::train::{EpochScore, Outcome, StepReport, Task, Trainer, Watcher, evaluate};

/// Rows on which an exported graph is compared with its network.
const PARITY_ROWS: usize = 32;
/// How far a logit of the exported graph may be from the network's own.
const PARITY_TOLERANCE: f32 = 1e-4;

/// Trains members on the rows of one dataset.
pub struct MemberTrainer<'a> {
    dataset: &'a Dataset,
    device: &'a OpenDevice,
    /// Rows to look at after each epoch.
    validation: Vec<usize>,
    /// Rows to measure at the end.
    test: Vec<usize>,
    /// What the plan's private recipe draws from, if it names one.
    secret: Option<NoiseKey>,
}

impl<'a> MemberTrainer<'a> {
    /// A worker for a plan. Rows that are dealt to models are neither looked at while training nor counted as unseen,
    /// whatever the split calls them.
    ///
    /// # Errors
    ///
    /// When the dataset is not the plan's, or the secret not the one that the plan's recipe names.
    pub fn new(
        dataset: &'a Dataset,
        planned: &Planned,
        device: &'a OpenDevice,
        secret: Option<NoiseKey>,
    ) -> anyhow::Result<Self> {
        planned.check(dataset)?;
        match (&planned.plan.recipe.dp, &secret) {
            (Some(dp), _) => {
                dp.key(planned.plan.recipe.seed, secret.clone())?;
            }
            (None, Some(_)) => bail!("a secret was given, and the bank's recipe is not private"),
            (None, None) => {}
        }
        let pool: HashSet<usize> = planned.inclusion.rows().iter().copied().collect();
        let outside = |part| planned.split.part(part).iter().copied().filter(|row| !pool.contains(row)).collect();
        Ok(Self { dataset, device, validation: outside(Part::Validation), test: outside(Part::Test), secret })
    }
}

impl Worker for MemberTrainer<'_> {
    fn check_checkpoint(&self, bytes: &[u8]) -> anyhow::Result<()> {
        checkpoint::check(bytes)
    }

    fn train(&self, assignment: Assignment, keep: &mut Keep<'_>, stop: &AtomicBool) -> anyhow::Result<Sitting> {
        let task = Task::new(self.dataset, assignment.rows.clone(), self.validation.clone());
        match train_member(task, (&assignment, self.secret.clone()), self.device, keep, stop)? {
            Ended::Interrupted(checkpoint) => Ok(Sitting::Interrupted(checkpoint)),
            Ended::Stage(checkpoint) => Ok(Sitting::Stage(checkpoint)),
            Ended::Finished(finished) => {
                let Finished { network, history, privacy, .. } = *finished;
                let members = distinct(assignment.rows);
                let score = |rows: &[usize]| evaluate(&network, self.dataset, rows);
                let results = MemberResults {
                    members: score(&members),
                    strangers: score(&assignment.strangers),
                    validation: score(&self.validation),
                    test: score(&self.test),
                };
                let model = export(&network, self.dataset, &members)?;
                Ok(Sitting::Finished(Box::new(Trained { model, results, history, privacy })))
            }
        }
    }
}

/// How [`train_member`] ended.
pub enum Ended {
    /// All epochs are done.
    Finished(Box<Finished>),
    /// All epochs of a stage that is not the last are done: a checkpoint.
    Stage(Vec<u8>),
    /// It was asked to stop: a checkpoint.
    Interrupted(Vec<u8>),
}

/// A network whose training is done.
pub struct Finished {
    /// For evaluation and export.
    pub network: Network,
    /// The course of the training.
    pub history: Vec<EpochScore>,
    /// The epoch whose weights these are, where early stopping chose one.
    pub best_epoch: Option<usize>,
    /// What differential privacy it gives, if any.
    pub privacy: Option<PrivacyRecord>,
}

/// Trains one model on one task, from its checkpoint where there is one, with the secret that its recipe names.
///
/// # Errors
///
/// When the training diverges, the checkpoint is of another training, or `keep` fails.
pub fn train_member(
    task: Task<'_>,
    (assignment, secret): (&Assignment, Option<NoiseKey>),
    device: &OpenDevice,
    keep: &mut Keep<'_>,
    stop: &AtomicBool,
) -> anyhow::Result<Ended> {
    let recipe = assignment.recipe.clone();
    let mut trainer = match (&assignment.checkpoint, &assignment.before) {
        (Some(bytes), _) => Trainer::resume(task, recipe, device, bytes)?,
        (None, Some(Before { rows, recipe: before, checkpoint })) => {
            let known = Task::new(task.dataset, rows.clone(), task.validation.clone());
            Trainer::after(task, recipe, device, (&known, before, checkpoint)).context("the slices before")?
        }
        (None, None) => Trainer::new(task, recipe, device)?,
    };
    if let Some(secret) = secret {
        trainer = trainer.with_secret(secret)?;
    }
    match trainer.run(stop, &mut Keeper(keep))? {
        Outcome::Interrupted => Ok(Ended::Interrupted(trainer.checkpoint()?)),
        Outcome::Finished if !assignment.is_last => Ok(Ended::Stage(trainer.checkpoint()?)),
        Outcome::Finished => {
            let (history, best) = (trainer.position().history.clone(), trainer.position().best);
            Ok(Ended::Finished(Box::new(Finished {
                network: trainer.network(),
                history,
                best_epoch: best.map(|best| best.epoch),
                privacy: trainer.privacy(vec![])?,
            })))
        }
    }
}

/// Offers a checkpoint after each epoch.
struct Keeper<'a, 'b>(&'a mut Keep<'b>);

impl Watcher for Keeper<'_, '_> {
    fn step(&mut self, _: StepReport) {}

    fn epoch(&mut self, _: &EpochScore, trainer: &Trainer<'_>) -> anyhow::Result<()> {
        (self.0)(&mut || trainer.checkpoint())
    }
}

/// The ONNX file of a network, checked against the network itself on a few of these rows.
///
/// # Errors
///
/// When the graph cannot be run, or its logits are off.
pub fn export(network: &Network, dataset: &Dataset, rows: &[usize]) -> anyhow::Result<Vec<u8>> {
    let model = onnx::export(network, dataset.class_names(), onnx::Export::default());
    let rows = dataset.batch(&rows[..rows.len().min(PARITY_ROWS)]);
    let logits: Array2<f32> = network.logits(rows.clone());
    let off = onnx::disagreement(&model, &rows, &logits).context("cannot run the exported graph")?;
    let largest = logits.iter().fold(1.0f32, |largest, logit| largest.max(logit.abs()));
    let tolerance = PARITY_TOLERANCE * largest;
    ensure!(off <= tolerance, "a logit of the exported graph is off by {off}, expected at most {tolerance}");
    Ok(model)
}

/// The rows without repetitions.
fn distinct(mut rows: Vec<usize>) -> Vec<usize> {
    rows.sort_unstable();
    rows.dedup();
    rows
}
