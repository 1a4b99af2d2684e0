//! The epochs of a private training: steps over Poisson samples, with clipped gradients and noise ([`crate::lab::dp`]).

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;

use super::batch::Batch;
use super::{Outcome, Task, Trainer, Watcher};
use crate::lab::dp::{Gradients, NoiseKey, PrivacyRecord, Terms, clipped_sum, poisson};
use crate::lab::network::to_tensor;
use crate::lab::recipe::Recipe;
use crate::lab::streams;

/// What a private training knows beyond its recipe.
#[derive(Debug, Clone)]
pub(super) struct Private {
    terms: Terms,
    /// Absent until a recipe that names a secret is given it.
    key: Option<NoiseKey>,
}

impl Private {
    /// `None` for a recipe without privacy.
    pub(super) fn new(recipe: &Recipe, task: &Task<'_>) -> anyhow::Result<Option<Self>> {
        let Some(dp) = &recipe.dp else { return Ok(None) };
        dp.check(recipe, &task.train, &task.validation, task.teacher.is_some())?;
        let terms = dp.terms(task.train.len(), recipe.batch_size, recipe.epochs)?;
        let key = if dp.key_digest.is_some() { None } else { Some(dp.key(recipe.seed, None)?) };
        Ok(Some(Self { terms, key }))
    }
}

impl Trainer<'_> {
    /// Gives the secret that a private recipe draws its samples and noise from, by a key of this training alone.
    ///
    /// # Errors
    ///
    /// When the recipe is not private, or names another secret or none.
    pub fn with_secret(mut self, secret: NoiseKey) -> anyhow::Result<Self> {
        // Whatever may differ between two trainings, but for the epochs, which may grow when one is resumed.
        let recipe = Recipe { epochs: 1, ..self.recipe.clone() }.digest();
        let training = format!("{recipe} {} {}", self.task.dataset.digest(), self.task.digest());
        let (dp, private) = self.recipe.dp.as_ref().zip(self.private.as_mut()).context("the recipe is not private")?;
        private.key = Some(dp.key(self.recipe.seed, Some(secret))?.of_training(&training));
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

    /// One step over a fresh sample, which may be empty. A large sample is gone through in parts: the sum is the same.
    fn private_step(&mut self, terms: &Terms, key: &NoiseKey) {
        let step = self.position.steps;
        let places = poisson(self.task.train.len(), terms.sampling_rate, &mut key.sampling(step));
        let mut dropout_rng = self.rng(streams::DROPOUT, step);
        let mut draws = self.draws();
        let mut sum = Gradients::default();
        for places in places.chunks(self.recipe.batch_size.saturating_mul(2)) {
            let Batch { inputs, targets, labels } = self.batch(places, &mut draws);
            let inputs = to_tensor(inputs, self.network.device());
            let objective = self.objective;
            let losses = |logits| objective.per_row(&logits, &targets);
            let dropout = (self.recipe.dropout.into(), &mut dropout_rng);
            let clipped = clipped_sum(&self.network, inputs, losses, terms.clip, dropout);
            self.note(clipped.losses.mean(), clipped.logits, &labels);
            sum = sum.plus(clipped.sum);
        }
        let (noise, batch) = (terms.noise_multiplier * terms.clip, self.recipe.batch_size as f64);
        let plan = self.network.plan().clone();
        let gradients = sum.release(&plan, self.network.weights(), noise, batch, &mut key.noise(step));
        self.apply(gradients, vec![]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::parse_table;
    use crate::lab::device::Device;
    use crate::lab::dp::Privacy;
    use crate::lab::network::{Activation, Architecture};

    #[test]
    fn trainings_that_share_a_secret_share_no_noise_and_a_longer_one_is_the_same_training() {
        let dataset = parse_table(b"a,0\nb,1\na,2\nb,3\na,4\nb,5\n").unwrap();
        let device = Device::Cpu.open().unwrap();
        let secret = NoiseKey::of_secret(&[9; 32]).unwrap();
        let dp = Privacy { key_digest: Some(secret.digest()), ..Privacy::new(1.0, 1.0) };
        let network = Architecture::Mlp { hidden: vec![2], activation: Activation::Relu };
        let recipe = Recipe { dp: Some(dp), batch_size: 2, ..Recipe::plain(network, 2, 1) };
        let key = |rows: &[usize], recipe: Recipe| {
            let trainer = Trainer::new(Task::new(&dataset, rows.to_vec(), vec![]), recipe, &device).unwrap();
            trainer.with_secret(secret.clone()).unwrap().private.unwrap().key.unwrap()
        };
        let own = key(&[0, 1, 2, 3], recipe.clone());
        assert!(own == key(&[0, 1, 2, 3], Recipe { epochs: 9, ..recipe.clone() }));
        assert!(own != key(&[0, 1, 2], recipe.clone()), "a training without one of the rows draws the same noise");
        assert!(own != key(&[0, 1, 2, 3], Recipe { seed: 2, ..recipe.clone() }));
        assert!(own != key(&[0, 1, 2, 3], Recipe { learning_rate: 0.5, ..recipe }));
        assert!(own != secret);
    }
}
