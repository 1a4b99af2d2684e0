//! The epochs of a private training: steps over Poisson samples, with clipped gradients and noise ([`crate::lab::dp`]).

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use sha2::{Digest, Sha256};

use super::batch::{Batch, Draws};
use super::{Outcome, Task, Trainer, Watcher};
use crate::data::hex;
use crate::lab::dp::{Gradients, NoiseKey, PrivacyRecord, Terms, clipped_sum, poisson};
use crate::lab::network::to_tensor;
use crate::lab::recipe::Recipe;
use crate::lab::streams;

/// What a private training knows beyond its recipe.
#[derive(Debug, Clone)]
pub(super) struct Private {
    terms: Terms,
    /// Of recipe, data and rows: the key is of these alone, see [`NoiseKey::of_training`].
    training: String,
    /// Absent until a recipe that names a secret is given it.
    key: Option<NoiseKey>,
}

impl Private {
    /// `None` for a recipe without privacy.
    pub(super) fn new(recipe: &Recipe, task: &Task<'_>) -> anyhow::Result<Option<Self>> {
        let Some(dp) = &recipe.dp else { return Ok(None) };
        dp.check(recipe, &task.train, &task.validation, task.teacher.is_some())?;
        let terms = dp.terms(task.train.len(), recipe.batch_size, recipe.epochs)?;
        let training = training(recipe, task);
        let key = if dp.key_digest.is_some() { None } else { Some(dp.key(recipe.seed, None)?.of_training(&training)) };
        Ok(Some(Self { terms, training, key }))
    }
}

/// SHA-256 (hex) of all that the steps of a private training follow from. The number of epochs is left out where no step
/// depends on it: a training that is resumed for more of them goes on with the same noise.
fn training(recipe: &Recipe, task: &Task<'_>) -> String {
    let epochs = if recipe.depends_on_epochs() { recipe.epochs } else { 0 };
    let recipe = Recipe { epochs, ..recipe.clone() }.digest();
    hex(&Sha256::digest(format!("{recipe} {} {}", task.dataset.digest(), task.digest())))
}

impl Trainer<'_> {
    /// What samples and noise are drawn from.
    #[cfg(test)]
    pub(in crate::lab) fn noise_key(&self) -> Option<NoiseKey> {
        self.private.as_ref()?.key.clone()
    }

    /// Gives the secret that a private recipe draws its samples and noise from.
    ///
    /// # Errors
    ///
    /// When the recipe is not private, or names another secret or none.
    pub fn with_secret(mut self, secret: NoiseKey) -> anyhow::Result<Self> {
        let (dp, private) = self.recipe.dp.as_ref().zip(self.private.as_mut()).context("the recipe is not private")?;
        private.key = Some(dp.key(self.recipe.seed, Some(secret))?.of_training(&private.training));
        Ok(self)
    }

    /// What a private training has spent so far; `None` without privacy.
    ///
    /// # Errors
    ///
    /// When the accountant cannot say.
    pub fn privacy(&self, notes: Vec<String>) -> anyhow::Result<Option<PrivacyRecord>> {
        let Some((dp, private)) = self.recipe.dp.as_ref().zip(self.private.as_ref()) else { return Ok(None) };
        let stops_early = self.recipe.early_stopping.is_some();
        let planned = stops_early.then(|| private.terms.steps_per_epoch.saturating_mul(self.recipe.epochs as u64));
        Ok(Some(PrivacyRecord::new(dp, &private.terms, self.position.steps, planned, notes)?))
    }

    /// The steps that are left of the running epoch.
    pub(super) fn run_private_epoch(
        &mut self,
        private: &Private,
        stop: &AtomicBool,
        watcher: &mut dyn Watcher,
    ) -> anyhow::Result<Outcome> {
        let key = private.key.as_ref().context("the recipe draws its noise from a secret, which was not given")?;
        let n_steps = private.terms.steps_per_epoch;
        let done = self.position.steps.saturating_sub(self.position.history.len() as u64 * n_steps);
        for at in done..n_steps {
            if stop.load(Ordering::Relaxed) {
                self.read_back()?;
                return Ok(Outcome::Interrupted);
            }
            self.private_step(&private.terms, key);
            // By steps and not by what is pending: a step over nothing is a step to stop after, too.
            if (at + 1).is_multiple_of(self.steps_read_together() as u64) || at + 1 == n_steps {
                self.read_back()?;
                watcher.step(self.report());
                watcher.between(self)?;
            }
        }
        Ok(Outcome::Finished)
    }

    /// One step over a fresh sample, which may be empty.
    fn private_step(&mut self, terms: &Terms, key: &NoiseKey) {
        let step = self.position.steps;
        let places = poisson(self.task.train.len(), terms.sampling_rate, &mut key.sampling(step));
        let sum = self.private_sum(&places, terms.clip, key);
        let (noise, batch) = (terms.noise_multiplier * terms.clip, self.recipe.batch_size as f64);
        let plan = self.network.plan().clone();
        let gradients = sum.release(&plan, self.network.weights(), noise, batch, &mut key.noise(step));
        self.apply(gradients, vec![]);
    }

    /// The sum of the clipped gradients of the rows at these places, in the running step. Many rows are gone through in
    /// parts: the sum is the same. What is drawn for a row, its dropout and the change of its image, follows from the
    /// key, the step and the row's own number: a row more or less leaves the others' gradients as they are.
    fn private_sum(&mut self, places: &[usize], clip: f64, key: &NoiseKey) -> Gradients {
        let step = self.position.steps;
        let [dropout, augmentation] = [streams::DROPOUT, streams::AUGMENTATION].map(|purpose| key.rows(purpose, step));
        let mut sum = Gradients::default();
        for places in places.chunks(self.recipe.batch_size.saturating_mul(2)) {
            let rows: Vec<usize> = places.iter().map(|&place| self.task.train[place]).collect();
            let mut draws = Draws { augmentation: augmentation.of(&rows), ..self.draws() };
            let Batch { inputs, targets, labels } = self.batch(places, &mut draws);
            let inputs = to_tensor(inputs, self.network.device());
            let objective = self.objective;
            let losses = |logits| objective.per_row(&logits, &targets);
            let mut rngs = dropout.of(&rows);
            let dropout = (self.recipe.dropout.into(), rngs.as_mut_slice());
            let clipped = clipped_sum(&self.network, inputs, losses, clip, dropout);
            self.note(clipped.losses.mean(), clipped.logits, &labels);
            sum = sum.plus(clipped.sum);
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Dataset, parse_table};
    use crate::lab::device::Device;
    use crate::lab::dp::Privacy;
    use crate::lab::network::{Activation, Architecture};
    use crate::lab::recipe::{Augmentation, DropoutRates};

    const N_ROWS: usize = 24;
    const CLIP: f64 = 0.5;

    fn table() -> Dataset {
        let row = |row: usize| format!("{},{}.5,{},{}\n", ["a", "b"][row % 2], row % 5, row % 7, row % 3);
        parse_table((0..N_ROWS).map(row).collect::<String>().as_bytes()).unwrap()
    }

    fn images() -> Dataset {
        let dir = tempfile::tempdir().unwrap();
        for row in 0..N_ROWS {
            let class = dir.path().join(["a", "b"][row % 2]);
            std::fs::create_dir_all(&class).unwrap();
            let pixels = (0..48).map(|pixel| (pixel * 37 + row * 91) as u8).collect();
            let image = image::RgbImage::from_raw(4, 4, pixels).unwrap();
            image.save(class.join(format!("{row:02}.png"))).unwrap();
        }
        Dataset::load(&format!("folder:{}", dir.path().display()).parse().unwrap()).unwrap()
    }

    fn recipe(network: Architecture) -> Recipe {
        let dropout = DropoutRates { input: 0.0, hidden: 0.5 };
        let dp = Some(Privacy::new(CLIP, 1e-7));
        Recipe { batch_size: 5, dropout, dp, ..Recipe::plain(network, 1, 3) }
    }

    fn mlp() -> Architecture {
        Architecture::Mlp { hidden: vec![16, 8], activation: Activation::Tanh }
    }

    /// The sum over all these rows in one step, as plain numbers, whatever the noise.
    fn sum(dataset: &Dataset, recipe: &Recipe, rows: Vec<usize>) -> Vec<f64> {
        let places: Vec<usize> = (0..rows.len()).collect();
        let device = Device::Cpu.open().unwrap();
        let mut trainer = Trainer::new(Task::new(dataset, rows, vec![]), recipe.clone(), &device).unwrap();
        let plan = trainer.network.plan().clone();
        let plain = trainer.private_sum(&places, CLIP, &NoiseKey::of_seed(1)).plain(&plan);
        plain.into_iter().flat_map(|array| array.values).map(f64::from).collect()
    }

    fn largest_move(dataset: &Dataset, recipe: &Recipe) -> f64 {
        let whole = sum(dataset, recipe, (0..N_ROWS).collect());
        let moved = (0..N_ROWS).step_by(5).map(|without| {
            let rest = sum(dataset, recipe, (0..N_ROWS).filter(|&row| row != without).collect());
            whole.iter().zip(rest).map(|(one, other)| (one - other).powi(2)).sum::<f64>().sqrt()
        });
        moved.fold(0.0, f64::max)
    }

    #[test]
    fn a_row_more_moves_the_sum_by_one_clipping_norm_under_dropout_and_augmentation() {
        let image_changes = Augmentation { flip: true, shift: 1, rotate: 10.0, scale: 0.1 };
        let cnn = Architecture::Cnn { channels: [4, 6], hidden: 8 };
        let cases = [(table(), recipe(mlp())), (images(), Recipe { augmentation: image_changes, ..recipe(cnn) })];
        for (dataset, recipe) in &cases {
            let moved = largest_move(dataset, recipe);
            assert!(moved <= CLIP * (1.0 + 1e-4), "{}: {moved} of {CLIP}", recipe.network);
            assert!(moved > 0.9 * CLIP, "{}: no row is clipped, the bound is not tested: {moved}", recipe.network);
        }
    }

    #[test]
    fn no_two_trainings_of_one_secret_share_samples_or_noise() {
        let dataset = table();
        let secret = NoiseKey::of_secret(&[7; 32]).unwrap();
        let keyed = |dp: Privacy| Privacy { key_digest: Some(secret.digest()), ..dp };
        let plain = Recipe { dp: Some(keyed(Privacy::new(CLIP, 1.0))), ..recipe(mlp()) };
        let key = |recipe: &Recipe, dataset: &Dataset, rows: Vec<usize>| {
            let device = Device::Cpu.open().unwrap();
            let trainer = Trainer::new(Task::new(dataset, rows, vec![]), recipe.clone(), &device).unwrap();
            trainer.with_secret(secret.clone()).unwrap().private.unwrap().key.unwrap()
        };
        let all: Vec<usize> = (0..N_ROWS).collect();
        let own = key(&plain, &dataset, all.clone());
        assert_eq!(own, key(&plain, &dataset, all.clone()), "a training that is resumed draws what it drew");
        assert_eq!(own, key(&Recipe { epochs: 9, ..plain.clone() }, &dataset, all.clone()), "one of more epochs too");
        let other_data = parse_table(format!("a,9,9,9\n{}", "b,1,2,3\na,3,2,1\n".repeat(12)).as_bytes()).unwrap();
        let sigma = Recipe { dp: Some(keyed(Privacy::new(CLIP, 2.0))), ..plain.clone() };
        let others = [
            key(&plain, &dataset, all[1..].to_vec()),
            key(&sigma, &dataset, all.clone()),
            key(&Recipe { learning_rate: 0.5, ..plain.clone() }, &dataset, all.clone()),
            key(&Recipe { schedule: crate::lab::recipe::Schedule::Cosine, ..plain.clone() }, &dataset, all.clone()),
            key(&plain, &other_data, all.clone()),
        ];
        let draws = |key: &NoiseKey| {
            use rand::RngCore as _;
            [key.noise(0).next_u64(), key.sampling(0).next_u64(), key.rows(1, 0).of(&[5])[0].next_u64()]
        };
        let mut seen: Vec<u64> = draws(&own).to_vec();
        for other in &others {
            for draw in draws(other) {
                assert!(!seen.contains(&draw), "drawn twice");
                seen.push(draw);
            }
        }
    }
}
