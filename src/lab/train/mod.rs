//! The training loop: mini-batches, deterministic, interruptible, resumable.
//!
//! Knows no files and no clock: rows come from a [`Dataset`], reports go to a [`Watcher`], a checkpoint is a
//! vector of bytes.

pub(in crate::lab) mod loss;
mod optimizer;
mod private;
pub mod score;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{bail, ensure};
use burn::module::{AutodiffModule, Module};
use burn::optim::GradientsParams;
use burn::tensor::{Int, Tensor, TensorData};
use ndarray::{Array2, Axis};
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub(super) use optimizer::OptimizerRecord;
pub use score::{Score, evaluate};

use self::optimizer::Optimizer;
use self::private::Private;
use super::device::{Device, OpenDevice};
use super::network::{Network, Normalisation, Pass, Plan, Statistics, Weights, to_tensor};
use super::recipe::{Normalise, Recipe};
use super::{Compute, checkpoint, streams};
use crate::data::{Dataset, Part, Split, hex};

/// Steps whose losses are read back together from a device other than the processor: it need not wait for each.
const STEPS_READ_TOGETHER: usize = 16;

/// The share of a batch in the running statistics of a batch normalisation: torch's default.
const STATISTICS_MOMENTUM: f64 = 0.1;

/// What is learned from.
#[derive(Debug, Clone)]
pub struct Task<'a> {
    /// The rows, with their labels.
    pub dataset: &'a Dataset,
    /// Row numbers to train on; one that stands twice is seen twice in an epoch.
    pub train: Vec<usize>,
    /// Row numbers to look at after each epoch; may be empty.
    pub validation: Vec<usize>,
    /// Class distributions to learn instead of the labels: one row for each of `train`, each with as many classes as
    /// the dataset.
    pub teacher: Option<Array2<f32>>,
}

impl<'a> Task<'a> {
    /// The parts `train` and `validation` of a split.
    ///
    /// # Errors
    ///
    /// When the split was drawn from other rows.
    pub fn of_split(dataset: &'a Dataset, split: &Split) -> anyhow::Result<Self> {
        split.check(dataset)?;
        let [train, validation] = [Part::Train, Part::Validation].map(|part| split.part(part).to_vec());
        Ok(Self { dataset, train, validation, teacher: None })
    }

    fn check(&self) -> anyhow::Result<()> {
        let n_rows = self.dataset.n_rows();
        ensure!(!self.train.is_empty(), "expected at least one row to train on, got none");
        if let Some(row) = self.train.iter().chain(&self.validation).find(|&&row| row >= n_rows) {
            bail!("expected row numbers below {n_rows}, got {row}");
        }
        if let Some(teacher) = &self.teacher {
            let (expected, got) = ((self.train.len(), self.dataset.n_classes()), teacher.dim());
            ensure!(expected == got, "expected the teacher's answers in the shape {expected:?}, got {got:?}");
            let finite = teacher.iter().all(|share| share.is_finite() && *share >= 0.0);
            ensure!(finite, "expected shares of classes from the teacher, got a number that is none");
        }
        Ok(())
    }

    /// SHA-256 (hex) of which rows are learned, and of what the teacher says about them.
    fn digest(&self) -> String {
        let mut hash = Sha256::new();
        for rows in [&self.train, &self.validation] {
            hash.update((rows.len() as u64).to_le_bytes());
            rows.iter().for_each(|&row| hash.update((row as u64).to_le_bytes()));
        }
        if let Some(teacher) = &self.teacher {
            teacher.iter().for_each(|share| hash.update(share.to_le_bytes()));
        }
        hex(&hash.finalize())
    }
}

/// One finished epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EpochScore {
    /// Counted from 1.
    pub epoch: usize,
    /// Over the training rows as they were seen, each before its own step; the loss is the one that was made small.
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
    /// Mean loss over them.
    pub loss: f64,
    /// Accuracy over them.
    pub accuracy: f64,
}

/// Told how a training goes: for a progress bar, and to keep checkpoints.
pub trait Watcher {
    /// After some steps.
    fn step(&mut self, report: StepReport);
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
    /// All epochs are done.
    Finished,
    /// The stop flag was raised; the step that ran was finished.
    Interrupted,
}

/// A network in training.
pub struct Trainer<'a> {
    task: Task<'a>,
    recipe: Recipe,
    device: OpenDevice,
    network: Network,
    optimizer: Optimizer,
    position: Position,
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
        let private = Private::new(&recipe, &task)?;
        let plan = Arc::new(plan_for(&recipe, &task)?);
        let network = Network::init(plan, recipe.seed, &device.training());
        let optimizer = Optimizer::new(&recipe);
        let device = device.clone();
        let position = Position::default();
        Ok(Self { task, recipe, device, network, optimizer, position, private, pending: vec![] })
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
        let weights = trainer.network.weights().clone().load_record(saved.weights);
        trainer.set_weights(weights);
        trainer.optimizer = trainer.optimizer.load_record(saved.optimizer);
        trainer.position = saved.position;
        if trainer.position.history.len() > trainer.recipe.epochs {
            bail!("expected a checkpoint of at most {} epochs", trainer.recipe.epochs);
        }
        Ok(trainer)
    }

    /// Everything needed to go on later.
    ///
    /// # Errors
    ///
    /// When burn cannot write its records.
    pub fn checkpoint(&self) -> anyhow::Result<Vec<u8>> {
        let weights = self.network.weights().clone().into_record();
        checkpoint::write(weights, self.optimizer.to_record(), &self.identity(), &self.position)
    }

    /// Trains until all epochs are done or `stop` is raised (looked at between two steps).
    ///
    /// # Errors
    ///
    /// When a loss is not finite (the recipe diverged), and what the watcher says.
    pub fn run(&mut self, stop: &AtomicBool, watcher: &mut dyn Watcher) -> anyhow::Result<Outcome> {
        while self.position.history.len() < self.recipe.epochs {
            let outcome = match self.private.clone() {
                Some(private) => self.run_private_epoch(&private, stop, watcher)?,
                None => self.run_epoch(stop, watcher)?,
            };
            if outcome == Outcome::Interrupted {
                return Ok(outcome);
            }
            let score = self.close_epoch();
            self.position = Position {
                history: std::mem::take(&mut self.position.history).into_iter().chain([score.clone()]).collect(),
                steps: self.position.steps,
                ..Position::default()
            };
            watcher.epoch(&score, self)?;
        }
        Ok(Outcome::Finished)
    }

    /// The steps that are left of the running epoch.
    fn run_epoch(&mut self, stop: &AtomicBool, watcher: &mut dyn Watcher) -> anyhow::Result<Outcome> {
        let order = self.order_of_rows();
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
            }
        }
        Ok(Outcome::Finished)
    }

    fn steps_read_together(&self) -> usize {
        if self.device.device() == Device::Cpu { 1 } else { STEPS_READ_TOGETHER }
    }

    /// The network for evaluation and export.
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

    /// The places of the training rows in the order of the running epoch: a function of seed and epoch alone, so
    /// that a resumed training finds it again.
    fn order_of_rows(&self) -> Vec<usize> {
        let mut places: Vec<usize> = (0..self.task.train.len()).collect();
        places.shuffle(&mut self.rng(streams::ORDER, self.position.history.len() as u64));
        places
    }

    /// One step over the training rows at these places.
    fn step(&mut self, places: &[usize]) -> anyhow::Result<()> {
        let rows: Vec<usize> = places.iter().map(|&place| self.task.train[place]).collect();
        let labels: Vec<u32> = rows.iter().map(|&row| self.task.dataset.labels()[row]).collect();
        let targets = match &self.task.teacher {
            Some(teacher) => teacher.select(Axis(0), places),
            None => loss::one_hot(&labels, self.task.dataset.n_classes(), self.recipe.label_smoothing),
        };
        let inputs = to_tensor(self.task.dataset.batch(&rows), self.network.device());
        let mut rng = self.rng(streams::DROPOUT, self.position.steps);
        let dropout = self.recipe.dropout.into();
        let mut pass = Pass { dropout, rng: &mut rng, statistics: vec![], hook: None };
        let recorded = self.network.record(inputs, &mut pass);
        let (logits, statistics) = (recorded.logits(), pass.statistics);
        let loss = loss::cross_entropies(logits.clone(), &targets).mean();
        self.pending.push((loss.clone().inner(), right_answers(logits.inner(), &labels), rows.len()));
        let gradients = recorded.gradients(&self.network, loss.backward());
        self.apply(gradients, statistics);
        Ok(())
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
                let (epoch, row) = (self.position.history.len() + 1, self.position.rows_seen);
                bail!(
                    "the loss is {loss} in epoch {epoch} after {row} rows: the training diverged; \
                     try a smaller learning rate than {}",
                    self.recipe.learning_rate
                );
            }
            let n_correct = n_correct.into_data().convert::<i64>().to_vec::<i64>().unwrap_or_default();
            self.position.rows_seen += n_rows;
            self.position.loss_sum += loss * n_rows as f64;
            self.position.n_correct += n_correct.first().map_or(0, |&n| usize::try_from(n).unwrap_or(0));
        }
        Ok(())
    }

    fn report(&self) -> StepReport {
        let n_rows = self.position.rows_seen.max(1) as f64;
        StepReport {
            epoch: self.position.history.len() + 1,
            rows_seen: self.position.rows_seen,
            loss: self.position.loss_sum / n_rows,
            accuracy: self.position.n_correct as f64 / n_rows,
        }
    }

    fn close_epoch(&self) -> EpochScore {
        let report = self.report();
        EpochScore {
            epoch: report.epoch,
            train: Score { n_rows: report.rows_seen, loss: report.loss, accuracy: report.accuracy },
            validation: evaluate(&self.network(), self.task.dataset, &self.task.validation),
        }
    }
}

/// The plan of a recipe's network for these rows.
fn plan_for(recipe: &Recipe, task: &Task<'_>) -> anyhow::Result<Plan> {
    let normalisation = normalisation(&recipe.normalise, task);
    let (row_shape, n_classes) = (task.dataset.row_shape(), task.dataset.n_classes());
    Ok(recipe.network.plan(row_shape, n_classes, normalisation.as_ref())?)
}

/// The constants that rows are normalised with; deviations of 0 become 1, those of single values 1/255 at least.
fn normalisation(normalise: &Normalise, task: &Task<'_>) -> Option<Normalisation> {
    let each_value = match normalise {
        Normalise::None => return None,
        Normalise::Constants(constants) => return Some(constants.clone()),
        Normalise::TrainingRows => false,
        Normalise::EachValue => true,
    };
    let row_shape = task.dataset.row_shape();
    let n_values: usize = row_shape.iter().product();
    let together = if each_value { 1 } else { n_values / row_shape[0] };
    let (mut sums, mut squares) = (vec![0.0f64; n_values], vec![0.0f64; n_values]);
    for rows in task.train.chunks(256) {
        for (place, &value) in task.dataset.batch(rows).iter().enumerate() {
            let value = f64::from(value);
            sums[place % n_values] += value;
            squares[place % n_values] += value * value;
        }
    }
    let count = (task.train.len() * together) as f64;
    let mut constants = Normalisation { mean: vec![], deviation: vec![] };
    for (sums, squares) in sums.chunks(together).zip(squares.chunks(together)) {
        let mean = sums.iter().sum::<f64>() / count;
        let deviation = (squares.iter().sum::<f64>() / count - mean * mean).max(0.0).sqrt();
        let deviation = match (each_value, deviation) {
            (true, deviation) => deviation.max(1.0 / 255.0),
            (false, 0.0) => 1.0,
            (false, deviation) => deviation,
        };
        constants.mean.push(mean as f32);
        constants.deviation.push(deviation as f32);
    }
    Some(constants)
}

/// How many rows have their largest logit at their label.
fn right_answers(logits: Tensor<Compute, 2>, labels: &[u32]) -> Tensor<Compute, 1, Int> {
    let device = logits.device();
    let labels: Vec<i32> = labels.iter().map(|&label| i32::try_from(label).unwrap_or(i32::MAX)).collect();
    let n_rows = labels.len();
    let labels = Tensor::<Compute, 2, Int>::from_data(TensorData::new(labels, [n_rows, 1]), &device);
    logits.argmax(1).equal(labels).int().sum()
}
