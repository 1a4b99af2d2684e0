//! The training loop: mini-batches, Adam, cross-entropy; deterministic, interruptible, resumable.
//!
//! Knows no files and no clock: rows come from a [`Dataset`], reports go to a [`Watcher`], a checkpoint is a
//! vector of bytes.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::bail;
use burn::module::{AutodiffModule, Module};
use burn::optim::adaptor::OptimizerAdaptor;
use burn::optim::decay::WeightDecayConfig;
use burn::optim::{Adam, AdamConfig, GradientsParams, Optimizer};
use burn::tensor::activation::log_softmax;
use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor, TensorData};
use ndarray::Array2;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::{Deserialize, Serialize};

use super::network::{Architecture, Network, to_tensor};
use super::{Cpu, Training, checkpoint};
use crate::data::{Dataset, Part, Split};

/// Adam's epsilon: torch's default. burn's own is a thousand times larger, which changes what is learned.
pub const ADAM_EPSILON: f32 = 1e-8;

/// Rows in a batch of an evaluation; the result does not depend on it.
const EVALUATION_BATCH: usize = 256;

/// The first stream of the generator that orders rows: stream 0 draws splits, stream 1 weights.
const FIRST_ORDER_STREAM: u64 = 2;

/// Everything that decides what is learned from given rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The network.
    pub network: Architecture,
    /// How often each training row is seen.
    pub epochs: usize,
    /// Rows in a step; the last step of an epoch takes what is left.
    pub batch_size: usize,
    /// Adam's step size.
    pub learning_rate: f64,
    /// L2 penalty added to the gradient (coupled, as in torch's `Adam`), on all parameters.
    pub weight_decay: f64,
    /// Decides the initial weights and the order of the rows.
    pub seed: u64,
}

impl Recipe {
    /// Names every hyper-parameter that is out of range.
    ///
    /// # Errors
    ///
    /// One message with all of them.
    pub fn check(&self) -> anyhow::Result<()> {
        let mut wrong = Vec::new();
        if self.epochs == 0 {
            wrong.push("epochs: expected at least 1, got 0".to_owned());
        }
        if self.batch_size == 0 {
            wrong.push("batch size: expected at least 1, got 0".to_owned());
        }
        if !(self.learning_rate.is_finite() && self.learning_rate > 0.0) {
            wrong.push(format!("learning rate: expected a positive number, got {}", self.learning_rate));
        }
        if !(self.weight_decay.is_finite() && self.weight_decay >= 0.0) {
            wrong.push(format!("weight decay: expected 0 or more, got {}", self.weight_decay));
        }
        if wrong.is_empty() { Ok(()) } else { bail!("{}", wrong.join("; ")) }
    }
}

impl Recipe {
    /// What differs from a recipe that a checkpoint was made with, one phrase each; the number of epochs may.
    #[must_use]
    pub fn differences(&self, saved: &Self) -> Vec<String> {
        let rows = [
            ("network", self.network.to_string(), saved.network.to_string()),
            ("batch size", self.batch_size.to_string(), saved.batch_size.to_string()),
            ("learning rate", self.learning_rate.to_string(), saved.learning_rate.to_string()),
            ("weight decay", self.weight_decay.to_string(), saved.weight_decay.to_string()),
            ("seed", self.seed.to_string(), saved.seed.to_string()),
        ];
        let differ = rows.into_iter().filter(|(_, own, saved)| own != saved);
        differ.map(|(name, own, saved)| format!("{name}: expected {own}, got {saved}")).collect()
    }
}

/// Mean loss and accuracy over some rows.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Score {
    /// Rows counted.
    pub n_rows: usize,
    /// Mean cross-entropy in nats.
    pub loss: f64,
    /// Share of rows whose largest logit (ties: lowest index) is that of the label.
    pub accuracy: f64,
}

/// One finished epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EpochScore {
    /// Counted from 1.
    pub epoch: usize,
    /// Over the training rows as they were seen, each before its own step.
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
    /// Training rows seen in the running epoch.
    pub rows_seen: usize,
    /// Sum of their losses.
    pub loss_sum: f64,
    /// How many of them were labelled right.
    pub n_correct: usize,
}

/// What a [`Watcher`] is told after each step.
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

/// Told how a training goes, for a progress bar.
pub trait Watcher {
    /// After each step.
    fn step(&mut self, report: StepReport);
    /// After each epoch.
    fn epoch(&mut self, score: &EpochScore);
}

/// A [`Watcher`] that does not look.
impl Watcher for () {
    fn step(&mut self, _: StepReport) {}
    fn epoch(&mut self, _: &EpochScore) {}
}

/// How [`Trainer::run`] ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All epochs are done.
    Finished,
    /// The stop flag was raised; the step that ran was finished.
    Interrupted,
}

/// The optimizer with its state.
pub(super) type AdamOf = OptimizerAdaptor<Adam, Network<Training>, Training>;

/// A network in training.
pub struct Trainer<'a> {
    dataset: &'a Dataset,
    split: &'a Split,
    recipe: Recipe,
    device: <Training as burn::tensor::backend::BackendTypes>::Device,
    network: Network<Training>,
    optimizer: AdamOf,
    position: Position,
}

impl<'a> Trainer<'a> {
    /// A network with fresh weights.
    ///
    /// # Errors
    ///
    /// When the recipe is out of range, does not fit the rows, or the split was drawn from other rows.
    pub fn new(dataset: &'a Dataset, split: &'a Split, recipe: Recipe) -> anyhow::Result<Self> {
        recipe.check()?;
        split.check(dataset)?;
        let device = Default::default();
        let network = Network::init(&recipe.network, dataset.row_shape(), dataset.n_classes(), recipe.seed, &device)?;
        let decay = (recipe.weight_decay > 0.0).then(|| WeightDecayConfig::new(recipe.weight_decay as f32));
        let optimizer = AdamConfig::new().with_epsilon(ADAM_EPSILON).with_weight_decay(decay).init();
        Ok(Self { dataset, split, recipe, device, network, optimizer, position: Position::default() })
    }

    /// A network as [`checkpoint`](Self::checkpoint) left it. The rest of the training then goes as if it had
    /// never been interrupted.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new), and when the bytes are no checkpoint of this recipe (the number of epochs may
    /// differ) and these rows.
    pub fn resume(dataset: &'a Dataset, split: &'a Split, recipe: Recipe, bytes: &[u8]) -> anyhow::Result<Self> {
        let mut trainer = Self::new(dataset, split, recipe)?;
        let saved = checkpoint::read(bytes, &trainer.identity(), &trainer.device)?;
        trainer.network = trainer.network.load_record(saved.network);
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
        checkpoint::write(
            self.network.clone().into_record(),
            self.optimizer.to_record(),
            &self.identity(),
            &self.position,
        )
    }

    /// Trains until all epochs are done or `stop` is raised (looked at between two steps).
    ///
    /// # Errors
    ///
    /// When a loss is not finite: the recipe diverged.
    pub fn run(&mut self, stop: &AtomicBool, watcher: &mut dyn Watcher) -> anyhow::Result<Outcome> {
        while self.position.history.len() < self.recipe.epochs {
            let order = self.order_of_rows();
            while self.position.rows_seen < order.len() {
                if stop.load(Ordering::Relaxed) {
                    return Ok(Outcome::Interrupted);
                }
                let start = self.position.rows_seen;
                let end = order.len().min(start.saturating_add(self.recipe.batch_size));
                self.step(&order[start..end])?;
                watcher.step(self.report());
            }
            let score = self.close_epoch();
            watcher.epoch(&score);
            self.position = Position {
                history: std::mem::take(&mut self.position.history).into_iter().chain([score]).collect(),
                ..Position::default()
            };
        }
        Ok(Outcome::Finished)
    }

    /// The network for evaluation and export.
    #[must_use]
    pub fn network(&self) -> Network<Cpu> {
        self.network.valid()
    }

    /// Loss and accuracy of the network as it is on one part of the split; `None` when the part is empty.
    #[must_use]
    pub fn evaluate(&self, part: Part) -> Option<Score> {
        evaluate(&self.network(), self.dataset, self.split.part(part))
    }

    /// Where the training stands.
    #[must_use]
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// How many numbers are learned.
    #[must_use]
    pub fn n_parameters(&self) -> usize {
        self.network.num_params()
    }

    fn identity(&self) -> checkpoint::Identity {
        checkpoint::Identity { recipe: self.recipe.clone(), dataset: self.dataset.digest(), split: self.split.digest() }
    }

    /// The training rows in the order of the running epoch: a function of seed and epoch alone, so that a
    /// resumed training finds it again.
    fn order_of_rows(&self) -> Vec<usize> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.recipe.seed);
        rng.set_stream(FIRST_ORDER_STREAM + self.position.history.len() as u64);
        let mut rows = self.split.part(Part::Train).to_vec();
        rows.shuffle(&mut rng);
        rows
    }

    fn step(&mut self, rows: &[usize]) -> anyhow::Result<()> {
        let labels: Vec<u32> = rows.iter().map(|&row| self.dataset.labels()[row]).collect();
        let inputs = to_tensor(self.dataset.batch(rows), &self.device);
        let logits = self.network.forward(inputs, self.dataset.row_shape());
        let n_correct = count_correct(&to_array(logits.clone()), &labels);
        let loss = cross_entropy(logits, &labels, &self.device);
        let loss_value = loss.clone().into_data().convert::<f32>().to_vec::<f32>().unwrap_or_default();
        let loss_value = loss_value.first().map_or(f64::NAN, |&value| f64::from(value));
        if !loss_value.is_finite() {
            let (epoch, row) = (self.position.history.len() + 1, self.position.rows_seen);
            bail!(
                "the loss is {loss_value} in epoch {epoch} after {row} rows: the training diverged; \
                 try a smaller learning rate than {}",
                self.recipe.learning_rate
            );
        }
        let gradients = GradientsParams::from_grads(loss.backward(), &self.network);
        self.network = self.optimizer.step(self.recipe.learning_rate, self.network.clone(), gradients);
        self.position.rows_seen += rows.len();
        self.position.loss_sum += loss_value * rows.len() as f64;
        self.position.n_correct += n_correct;
        Ok(())
    }

    fn report(&self) -> StepReport {
        let n_rows = self.position.rows_seen as f64;
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
            validation: self.evaluate(Part::Validation),
        }
    }
}

/// Mean of `−log softmax(logits)[label]`.
fn cross_entropy(
    logits: Tensor<Training, 2>,
    labels: &[u32],
    device: &<Training as burn::tensor::backend::BackendTypes>::Device,
) -> Tensor<Training, 1> {
    let labels: Vec<i64> = labels.iter().map(|&label| i64::from(label)).collect();
    let n_rows = labels.len();
    let labels = Tensor::<Training, 2, Int>::from_data(TensorData::new(labels, [n_rows, 1]), device);
    log_softmax(logits, 1).gather(1, labels).mean().neg()
}

fn to_array<B: Backend>(logits: Tensor<B, 2>) -> Array2<f32> {
    let shape: [usize; 2] = logits.dims();
    let values = logits.into_data().convert::<f32>().to_vec().expect("the data was converted to f32");
    Array2::from_shape_vec(shape, values).expect("a tensor holds as many values as its shape says")
}

fn count_correct(logits: &Array2<f32>, labels: &[u32]) -> usize {
    logits.outer_iter().zip(labels).filter(|(row, label)| argmax(row.iter().copied()) == **label as usize).count()
}

/// The place of the largest value, the first of equals.
fn argmax(values: impl Iterator<Item = f32>) -> usize {
    values
        .enumerate()
        .fold((0, f32::NEG_INFINITY), |best, (place, value)| if value > best.1 { (place, value) } else { best })
        .0
}

/// Loss (in f64) and accuracy of a network on some rows; `None` for no rows.
#[must_use]
pub fn evaluate(network: &Network<Cpu>, dataset: &Dataset, rows: &[usize]) -> Option<Score> {
    let device = Default::default();
    let (mut loss, mut n_correct) = (0.0, 0);
    for rows in rows.chunks(EVALUATION_BATCH) {
        let logits = network.logits(dataset.batch(rows), dataset.row_shape(), &device);
        let labels: Vec<u32> = rows.iter().map(|&row| dataset.labels()[row]).collect();
        n_correct += count_correct(&logits, &labels);
        for (row, &label) in logits.outer_iter().zip(&labels) {
            let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f64 = row.iter().map(|&value| f64::from(value - largest).exp()).sum();
            loss += sum.ln() - f64::from(row[label as usize] - largest);
        }
    }
    let n_rows = rows.len();
    (n_rows > 0).then(|| Score { n_rows, loss: loss / n_rows as f64, accuracy: n_correct as f64 / n_rows as f64 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe() -> Recipe {
        Recipe {
            network: Architecture::Mlp { hidden: vec![4] },
            epochs: 1,
            batch_size: 8,
            learning_rate: 1e-3,
            weight_decay: 0.0,
            seed: 1,
        }
    }

    #[test]
    fn all_mistakes_of_a_recipe_are_told_together() {
        assert!(recipe().check().is_ok());
        let wrong = Recipe { epochs: 0, batch_size: 0, learning_rate: f64::NAN, weight_decay: -1.0, ..recipe() };
        let message = wrong.check().unwrap_err().to_string();
        for name in ["epochs", "batch size", "learning rate", "weight decay"] {
            assert!(message.contains(name), "{message}");
        }
    }

    #[test]
    fn recipes_are_told_apart_in_the_words_of_the_options() {
        let saved =
            Recipe { epochs: 7, learning_rate: 0.01, network: Architecture::Mlp { hidden: vec![] }, ..recipe() };
        let expected =
            ["network: expected mlp (hidden 4), got mlp (no hidden layer)", "learning rate: expected 0.001, got 0.01"];
        assert_eq!(recipe().differences(&saved), expected);
        assert!(recipe().differences(&Recipe { epochs: 7, ..recipe() }).is_empty());
        let cnn = Architecture::Cnn { channels: [3, 5], hidden: 4 };
        assert_eq!(cnn.to_string(), "cnn (channels 3,5, hidden 4)");
    }

    #[test]
    fn argmax_takes_the_first_of_equals() {
        assert_eq!(argmax([1.0, 3.0, 3.0].into_iter()), 1);
        assert_eq!(argmax([0.0, 0.0].into_iter()), 0);
    }

    #[test]
    fn cross_entropy_is_that_of_the_textbook() {
        let device = Default::default();
        let logits = Tensor::from_data(TensorData::new(vec![0.0f32, 0.0, 2.0, 0.0], [2, 2]), &device);
        let loss = cross_entropy(logits, &[0, 1], &device).into_data().to_vec::<f32>().unwrap()[0];
        let expected = (2f64.ln() + (1.0 + 2f64.exp()).ln()) / 2.0;
        assert!((f64::from(loss) - expected).abs() < 1e-6, "{loss} and {expected}");
    }
}
