//! The training loop: mini-batches, deterministic, interruptible, resumable.
//!
//! Knows no files and no clock: rows come from a [`Task`], reports go to a [`Watcher`], a checkpoint is a
//! vector of bytes. One step, in the order in which the recipe's defences touch it:
//!
//! ```text
//!  order ──▶ batch ──▶ augment, mix ──▶ forward ──▶ objective per row ──▶ of the batch ──▶ gradients ──▶ apply
//! ```

mod augment;
mod batch;
mod normalisation;
pub(in crate::lab) mod objective;
mod optimizer;
mod order;
mod private;
pub mod score;
mod stopping;
mod task;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{bail, ensure};
use burn::module::{AutodiffModule, Module};
use burn::optim::GradientsParams;
use burn::tensor::{Int, Tensor};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::{Deserialize, Serialize};

pub(super) use optimizer::OptimizerRecord;
pub use score::{RowScores, Score, evaluate, score};
pub use stopping::Best;
pub use task::Task;

use self::batch::Batch;
use self::objective::{Objective, are_right};
use self::optimizer::Optimizer;
use self::order::Order;
use self::private::Private;
use super::device::{Device, OpenDevice};
use super::network::{Network, Pass, Statistics, Weights, to_tensor};
use super::recipe::Recipe;
use super::{Compute, autodiff, checkpoint, streams};

/// Steps whose losses are read back together from a device other than the processor: it need not wait for each.
const STEPS_READ_TOGETHER: usize = 16;

/// Training rows whose answers are looked at before a checkpoint is made.
const PROBED_ROWS: usize = 16;

/// The share of a batch in the running statistics of a batch normalisation: torch's default.
const STATISTICS_MOMENTUM: f64 = 0.1;

/// One finished epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EpochScore {
    /// Counted from 1.
    pub epoch: usize,
    /// Over the training rows as they were seen, each before its own step; the loss is the recipe's own (smoothed,
    /// distilled, mixed, with its penalty), before RelaxLoss turns it.
    pub train: Score,
    /// Over the validation rows after the epoch; `None` without such rows.
    pub validation: Option<Score>,
}

/// Where a training stands, between two steps.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// Finished epochs.
    pub history: Vec<EpochScore>,
    /// The best of them, where early stopping looks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best: Option<Best>,
    /// Steps done in all.
    pub steps: u64,
    /// Training rows seen in the running epoch.
    pub rows_seen: usize,
    /// Sum of their losses.
    pub loss_sum: f64,
    /// How many of them were labelled right.
    pub n_correct: usize,
}

/// What a [`Watcher`] is told as steps are done.
#[derive(Debug, Clone, Copy)]
pub struct StepReport {
    /// The running epoch, counted from 1.
    pub epoch: usize,
    /// Training rows seen in it.
    pub rows_seen: usize,
    /// Training rows that it sees in all.
    pub rows_in_epoch: usize,
    /// Mean loss over them.
    pub loss: f64,
    /// Accuracy over them.
    pub accuracy: f64,
}

/// Told how a training goes: for a progress bar, and to keep checkpoints.
pub trait Watcher {
    /// After some steps.
    fn step(&mut self, report: StepReport);
    /// After the same steps, with the training as it stands: a checkpoint within a long epoch.
    ///
    /// # Errors
    ///
    /// Ends the training.
    fn between(&mut self, _: &Trainer<'_>) -> anyhow::Result<()> {
        Ok(())
    }
    /// After each epoch, with the training as it stands.
    ///
    /// # Errors
    ///
    /// Ends the training.
    fn epoch(&mut self, score: &EpochScore, trainer: &Trainer<'_>) -> anyhow::Result<()>;
}

/// A [`Watcher`] that does not look.
impl Watcher for () {
    fn step(&mut self, _: StepReport) {}
    fn epoch(&mut self, _: &EpochScore, _: &Trainer<'_>) -> anyhow::Result<()> {
        Ok(())
    }
}

/// How [`Trainer::run`] ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All epochs are done, or early stopping ended the training; the weights are then those of the best epoch.
    Finished,
    /// The stop flag was raised; the step that ran was finished.
    Interrupted,
}

/// A network in training.
pub struct Trainer<'a> {
    task: Task<'a>,
    recipe: Recipe,
    device: OpenDevice,
    objective: Objective,
    order: Order,
    network: Network,
    optimizer: Optimizer,
    position: Position,
    /// The weights of the best epoch, where early stopping looks for it.
    best: Option<Weights<Compute>>,
    private: Option<Private>,
    /// Losses and right answers of steps that are not read back yet, and how many rows each had.
    pending: Vec<(Tensor<Compute, 1>, Tensor<Compute, 1, Int>, usize)>,
}

impl<'a> Trainer<'a> {
    /// A network with fresh weights.
    ///
    /// # Errors
    ///
    /// When the recipe is out of range or does not fit the rows.
    pub fn new(task: Task<'a>, recipe: Recipe, device: &OpenDevice) -> anyhow::Result<Self> {
        recipe.check()?;
        task.check()?;
        check_together(&recipe, &task)?;
        let plan = Arc::new(normalisation::plan_for(&recipe, &task)?);
        let network = Network::init(plan, recipe.seed, &device.training());
        Ok(Self {
            objective: Objective::new(&recipe, task.dataset.n_classes()),
            order: Order::new(&recipe, &task)?,
            optimizer: Optimizer::new(&recipe),
            device: device.clone(),
            network,
            position: Position::default(),
            best: None,
            private: Private::new(&recipe, &task)?,
            pending: vec![],
            task,
            recipe,
        })
    }

    /// A network as [`checkpoint`](Self::checkpoint) left it. The rest of the training then goes as if it had
    /// never been interrupted.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new), and when the bytes are no checkpoint of this recipe (the number of epochs may
    /// differ) and these rows.
    pub fn resume(task: Task<'a>, recipe: Recipe, device: &OpenDevice, bytes: &[u8]) -> anyhow::Result<Self> {
        let mut trainer = Self::new(task, recipe, device)?;
        let saved = checkpoint::read(bytes, &trainer.identity(), device)?;
        trainer.best = saved.best.map(|best| trainer.network.weights().clone().load_record(best));
        let weights = trainer.network.weights().clone().load_record(saved.weights);
        trainer.set_weights(weights);
        trainer.optimizer = trainer.optimizer.load_record(saved.optimizer);
        trainer.position = saved.position;
        ensure!(
            trainer.position.best.is_some() == trainer.best.is_some(),
            "expected a checkpoint with the weights of its best epoch"
        );
        if trainer.position.history.len() > trainer.recipe.epochs {
            bail!("expected a checkpoint of at most {} epochs", trainer.recipe.epochs);
        }
        Ok(trainer)
    }

    /// A network that learns these rows with the weights and the optimizer's state that a finished training of other rows
    /// left: of that task and recipe, in these bytes.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new), and when the bytes are no checkpoint of that training.
    pub fn after(
        task: Task<'a>,
        recipe: Recipe,
        device: &OpenDevice,
        (known, before, bytes): (&Task<'_>, &Recipe, &[u8]),
    ) -> anyhow::Result<Self> {
        let mut trainer = Self::new(task, recipe, device)?;
        let dataset = known.dataset.digest();
        let identity = checkpoint::Identity { recipe: before.clone(), dataset, rows: known.digest() };
        let saved = checkpoint::read(bytes, &identity, device)?;
        let weights = trainer.network.weights().clone().load_record(saved.weights);
        trainer.set_weights(weights);
        trainer.optimizer = trainer.optimizer.load_record(saved.optimizer);
        Ok(trainer)
    }

    /// Everything needed to go on later.
    ///
    /// # Errors
    ///
    /// When a weight is not finite, so that an older checkpoint is the better one; when burn cannot write its records.
    pub fn checkpoint(&self) -> anyhow::Result<Vec<u8>> {
        self.check_finite()?;
        let weights = self.network.weights().clone().into_record();
        let best = self.best.clone().map(Module::into_record);
        checkpoint::write((weights, best), self.optimizer.to_record(), &self.identity(), &self.position)
    }

    /// Trains until all epochs are done, early stopping ends it, or `stop` is raised (looked at between two steps).
    ///
    /// # Errors
    ///
    /// When a loss or a weight is not finite (the recipe diverged), and what the watcher says.
    pub fn run(&mut self, stop: &AtomicBool, watcher: &mut dyn Watcher) -> anyhow::Result<Outcome> {
        while !self.is_done() {
            let outcome = match self.private.clone() {
                Some(private) => self.run_private_epoch(&private, stop, watcher)?,
                None => self.run_epoch(stop, watcher)?,
            };
            if outcome == Outcome::Interrupted {
                return Ok(outcome);
            }
            let score = self.close_epoch()?;
            watcher.epoch(&score, self)?;
        }
        if let Some(best) = self.best.clone() {
            self.set_weights(best);
        }
        Ok(Outcome::Finished)
    }

    /// The steps that are left of the running epoch.
    fn run_epoch(&mut self, stop: &AtomicBool, watcher: &mut dyn Watcher) -> anyhow::Result<Outcome> {
        let epoch = self.position.history.len();
        let order = self.order.places(epoch, &mut self.rng(streams::ORDER, epoch as u64));
        let n_rows = order.len();
        let together = self.steps_read_together();
        let mut seen = self.position.rows_seen;
        while seen < n_rows {
            if stop.load(Ordering::Relaxed) {
                self.read_back()?;
                return Ok(Outcome::Interrupted);
            }
            let end = n_rows.min(seen.saturating_add(self.recipe.batch_size));
            self.step(&order[seen..end])?;
            seen = end;
            if self.pending.len() >= together || end == n_rows {
                self.read_back()?;
                watcher.step(self.report());
                watcher.between(self)?;
            }
        }
        Ok(Outcome::Finished)
    }

    fn steps_read_together(&self) -> usize {
        if self.device.device() == Device::Cpu { 1 } else { STEPS_READ_TOGETHER }
    }

    /// Whether there is nothing left to do.
    fn is_done(&self) -> bool {
        let n_epochs = self.position.history.len();
        let best = self.position.best.as_ref();
        n_epochs >= self.recipe.epochs || stopping::ends(self.recipe.early_stopping, best, n_epochs)
    }

    /// How many rows the epochs see that are planned, all together; early stopping may end before.
    #[must_use]
    pub fn rows_planned(&self) -> usize {
        (0..self.recipe.epochs).map(|epoch| self.order.n_rows(epoch)).sum()
    }

    /// How many of them were seen.
    #[must_use]
    pub fn rows_done(&self) -> usize {
        (0..self.position.history.len()).map(|epoch| self.order.n_rows(epoch)).sum::<usize>() + self.position.rows_seen
    }

    /// The network for evaluation and export: after a finished [`run`](Self::run) that of the best epoch where early
    /// stopping looked for it, before that the network as it stands.
    #[must_use]
    pub fn network(&self) -> Network {
        let weights = self.network.weights().valid();
        Network::with(self.network.plan().clone(), weights, self.device.evaluation())
    }

    /// Where the training stands.
    #[must_use]
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// How it is trained.
    #[must_use]
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// What it is trained on.
    #[must_use]
    pub fn task(&self) -> &Task<'a> {
        &self.task
    }

    fn identity(&self) -> checkpoint::Identity {
        checkpoint::Identity {
            recipe: self.recipe.clone(),
            dataset: self.task.dataset.digest(),
            rows: self.task.digest(),
        }
    }

    fn set_weights(&mut self, weights: Weights<Compute>) {
        let device = self.network.device().clone();
        self.network = Network::with(self.network.plan().clone(), weights, device);
    }

    /// A generator for one purpose and one step.
    fn rng(&self, stream: u64, number: u64) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::seed_from_u64(self.recipe.seed);
        rng.set_stream(stream + number);
        rng
    }

    /// One step over the training rows at these places.
    fn step(&mut self, places: &[usize]) -> anyhow::Result<()> {
        let Batch { inputs, targets, labels } = self.batch(places, &mut self.draws());
        let inputs = to_tensor(inputs, self.network.device());
        let mut rng = self.rng(streams::DROPOUT, self.position.steps);
        let dropout = self.recipe.dropout.into();
        let mut pass = Pass { dropout, rngs: std::slice::from_mut(&mut rng), statistics: vec![], hook: None };
        let alone = autodiff::one_at_a_time();
        let logits = self.network.forward_training(inputs, &mut pass);
        let statistics = pass.statistics;
        let losses = self.objective.per_row(&logits, &targets);
        let epoch = self.position.history.len();
        let (small, mean) = self.objective.of_batch(losses, &logits, &labels, epoch);
        self.note(mean.inner(), logits.inner(), &labels);
        let gradients = GradientsParams::from_grads(small.backward(), self.network.weights());
        drop(alone);
        self.apply(gradients, statistics);
        Ok(())
    }

    /// Keeps what a step said about its rows until it is read back.
    fn note(&mut self, mean_loss: Tensor<Compute, 1>, logits: Tensor<Compute, 2>, labels: &[u32]) {
        self.pending.push((mean_loss, are_right(logits, labels).sum(), labels.len()));
    }

    /// Moves the weights along the gradients, and the running statistics towards those of the batch.
    fn apply(&mut self, gradients: GradientsParams, statistics: Vec<Statistics>) {
        let epoch = self.position.history.len();
        let rate = self.recipe.learning_rate * self.recipe.schedule.factor(epoch, self.recipe.epochs);
        let shrink = rate * self.recipe.decoupled_weight_decay;
        let weights = self.network.weights().clone();
        let mut weights = self.optimizer.step(rate, shrink, weights, gradients);
        for Statistics { mean, variance } in statistics {
            for (id, batch) in [mean, variance] {
                let running = weights.running[id].clone();
                weights.running[id] = running.map(|running| {
                    let followed = running.inner() * (1.0 - STATISTICS_MOMENTUM) + batch.inner() * STATISTICS_MOMENTUM;
                    Tensor::from_inner(followed)
                });
            }
        }
        self.set_weights(weights);
        self.position.steps += 1;
    }

    /// Takes the losses and right answers of the last steps from the device.
    fn read_back(&mut self) -> anyhow::Result<()> {
        for (loss, n_correct, n_rows) in std::mem::take(&mut self.pending) {
            let loss = loss.into_data().convert::<f32>().to_vec::<f32>().unwrap_or_default();
            let loss = loss.first().map_or(f64::NAN, |&value| f64::from(value));
            if !loss.is_finite() {
                // Rows that cannot be read any more are NaN.
                self.task.dataset.check_read().map_err(|error| anyhow::anyhow!("{error}"))?;
                bail!(self.diverged(&format!("the loss is {loss}")));
            }
            let n_correct = n_correct.into_data().convert::<i64>().to_vec::<i64>().unwrap_or_default();
            self.position.rows_seen += n_rows;
            self.position.loss_sum += loss * n_rows as f64;
            self.position.n_correct += n_correct.first().map_or(0, |&n| usize::try_from(n).unwrap_or(0));
        }
        Ok(())
    }

    /// The sentence for a training that went wrong.
    fn diverged(&self, what: &str) -> String {
        let (epoch, row, rate) = (self.position.history.len() + 1, self.position.rows_seen, self.recipe.learning_rate);
        format!(
            "{what} in epoch {epoch} after {row} rows: the training diverged; try a smaller learning rate than {rate}"
        )
    }

    /// Stops where a weight is no finite number, or an answer to some training rows is none: weights that are finite and
    /// huge answer with NaN, and no later step makes them better.
    fn check_finite(&self) -> anyhow::Result<()> {
        let Weights { kernels, matrices, vectors, running } = self.network.weights();
        let sizes = kernels.iter().map(|array| array.val().inner().abs().sum());
        let sizes = sizes.chain(matrices.iter().map(|array| array.val().inner().abs().sum()));
        let sizes = sizes.chain(vectors.iter().chain(running).map(|array| array.val().inner().abs().sum()));
        let sum = sizes.reduce(|sum, size| sum + size).map(|sum| sum.into_data().convert::<f32>().to_vec::<f32>());
        let finite = matches!(sum, Some(Ok(sum)) if sum.iter().all(|sum| sum.is_finite()));
        ensure!(finite, self.diverged("a weight is not finite"));
        let rows = self.task.dataset.batch(&self.task.train[..self.task.train.len().min(PROBED_ROWS)]);
        self.task.dataset.check_read().map_err(|error| anyhow::anyhow!("{error}"))?;
        let finite = self.network().logits(rows).iter().all(|logit| logit.is_finite());
        ensure!(finite, self.diverged("an answer is not finite"));
        Ok(())
    }

    fn report(&self) -> StepReport {
        let n_rows = self.position.rows_seen.max(1) as f64;
        let epoch = self.position.history.len();
        StepReport {
            epoch: epoch + 1,
            rows_seen: self.position.rows_seen,
            rows_in_epoch: self.order.n_rows(epoch),
            loss: self.position.loss_sum / n_rows,
            accuracy: self.position.n_correct as f64 / n_rows,
        }
    }

    /// Ends the running epoch: its score goes into the history, and its weights are kept where they are the best.
    fn close_epoch(&mut self) -> anyhow::Result<EpochScore> {
        self.check_finite()?;
        let report = self.report();
        let validation = evaluate(&self.network(), self.task.dataset, &self.task.validation);
        if validation.is_some_and(|score| !score.loss.is_finite()) {
            bail!(self.diverged("the validation loss is not finite"));
        }
        let score = EpochScore {
            epoch: report.epoch,
            train: Score { n_rows: report.rows_seen, loss: report.loss, accuracy: report.accuracy },
            validation,
        };
        let Position { history, best, steps, .. } = std::mem::take(&mut self.position);
        self.position = Position { history, best, steps, ..Position::default() };
        self.position.history.push(score.clone());
        if let (Some(stopping), Some(validation)) = (self.recipe.early_stopping, validation)
            && stopping::is_better(stopping, validation, self.position.best.as_ref())
        {
            self.position.best = Some(Best { epoch: score.epoch, validation });
            self.best = Some(self.network.weights().clone());
        }
        Ok(score)
    }
}

/// What a recipe and its rows must have of each other.
fn check_together(recipe: &Recipe, task: &Task<'_>) -> anyhow::Result<()> {
    if recipe.early_stopping.is_some() && task.validation.is_empty() {
        bail!("early stopping needs validation rows, and there are none; it never looks at test rows");
    }
    let row_shape = task.dataset.row_shape();
    if recipe.augmentation != Default::default() && row_shape.len() != 3 {
        bail!("augmentation is for images: expected rows of shape [channels, height, width], got {row_shape:?}");
    }
    if recipe.distillation.is_some() && task.teacher.is_none() {
        bail!("the recipe distils a teacher's answers, and there is no teacher");
    }
    Ok(())
}
