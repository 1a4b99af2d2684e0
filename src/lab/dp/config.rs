//! What a recipe asks of a private training, and what it may not be combined with.

use anyhow::{bail, ensure};
use serde::{Deserialize, Serialize};

use super::noise::NoiseKey;
use crate::lab::accountant;
use crate::lab::network::Norm;
use crate::lab::recipe::{Normalise, Recipe};

/// The entry `[dp]` of a recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Privacy {
    /// The norm `C` that each row's gradient is clipped to.
    pub clip: f64,
    /// σ: the noise's standard deviation over `C`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub noise_multiplier: Option<f64>,
    /// In place of the noise: the ε that the planned epochs may spend; the least noise that keeps to it is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_epsilon: Option<f64>,
    /// δ; without it 1 / training rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delta: Option<f64>,
    /// [`NoiseKey::digest`] of the secret that samples and noise are drawn from. Without it they are drawn from the
    /// recipe's seed, which is for experiments: whoever reads the record can draw the same noise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_digest: Option<String>,
}

/// The numbers of a private training of given rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Terms {
    /// `C`.
    pub clip: f64,
    /// σ.
    pub noise_multiplier: f64,
    /// The probability with which a row enters a step: batch size / rows.
    pub sampling_rate: f64,
    /// Steps in an epoch: rows / batch size, rounded up.
    pub steps_per_epoch: u64,
    /// δ.
    pub delta: f64,
    /// Rows that are trained on.
    pub n_rows: usize,
}

/// Above this an ε says next to nothing about a row.
const MEANINGLESS_EPSILON: f64 = 100.0;

impl Terms {
    /// What is to be said of a δ that allows a row to be given away whole.
    #[must_use]
    pub fn delta_warning(&self) -> Option<String> {
        // The default, 1 / rows, is the paper's; above it a mechanism that publishes rows picked at random would do.
        (self.delta > (1.0 + 1e-9) / self.n_rows.max(2) as f64).then(|| {
            format!(
                "delta {:.2e} is above 1 / rows ({:.2e}): it allows that a row of the {} is published whole",
                self.delta,
                1.0 / self.n_rows.max(2) as f64,
                self.n_rows
            )
        })
    }

    /// What is to be said of an ε that bounds nothing worth bounding.
    #[must_use]
    pub fn epsilon_warning(epsilon: f64) -> Option<String> {
        (epsilon > MEANINGLESS_EPSILON).then(|| {
            format!("epsilon {epsilon:.1} is no protection worth the name: whether a row was there may show e^{epsilon:.0} times over")
        })
    }
}

impl Privacy {
    /// A norm and a noise multiplier, δ = 1 / rows, drawn from the recipe's seed.
    #[must_use]
    pub fn new(clip: f64, noise_multiplier: f64) -> Self {
        Self { clip, noise_multiplier: Some(noise_multiplier), target_epsilon: None, delta: None, key_digest: None }
    }

    /// Names every number that is out of range.
    pub(in crate::lab) fn mistakes(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let positive = |value: f64| value.is_finite() && value > 0.0;
        if !positive(self.clip) {
            wrong.push(format!("clip: expected a positive norm, got {}", self.clip));
        }
        match (self.noise_multiplier, self.target_epsilon) {
            (Some(noise), None) if !positive(noise) => {
                wrong.push(format!("noise multiplier: expected a positive number, got {noise}"));
            }
            (None, Some(target)) if !positive(target) => {
                wrong.push(format!("target epsilon: expected a positive number, got {target}"));
            }
            (Some(_), None) | (None, Some(_)) => {}
            (None, None) => wrong.push("dp: expected a noise multiplier or a target epsilon, got neither".to_owned()),
            (Some(_), Some(_)) => {
                wrong.push("dp: expected a noise multiplier or a target epsilon, got both".to_owned());
            }
        }
        if let Some(delta) = self.delta.filter(|&delta| !(delta > 0.0 && delta < 1.0)) {
            wrong.push(format!("delta: expected a number above 0 and below 1, got {delta}"));
        }
        wrong
    }

    /// Holds the promise against a recipe and the rows that it is for: everything that would break it, together.
    ///
    /// # Errors
    ///
    /// One message that names what breaks it and what to do.
    pub fn check(
        &self,
        recipe: &Recipe,
        train: &[usize],
        validation: &[usize],
        has_teacher: bool,
    ) -> anyhow::Result<()> {
        let mut broken = breaks(recipe);
        if has_teacher {
            broken.push("a teacher: its answers were learned from rows without noise".to_owned());
        }
        let mut rows = train.to_vec();
        rows.sort_unstable();
        if let Some(pair) = rows.windows(2).find(|pair| pair[0] == pair[1]) {
            broken.push(format!(
                "row {} stands among the training rows more than once, so it counts more than once",
                pair[0]
            ));
        }
        if let Some(row) = validation.iter().find(|row| rows.binary_search(row).is_ok()) {
            broken.push(format!("row {row} is trained on and validates: validation is outside of the promise"));
        }
        if recipe.batch_size > train.len() {
            broken.push(format!("batches of {} rows of {}", recipe.batch_size, train.len()));
        }
        ensure!(broken.is_empty(), "differential privacy does not hold with: {}", broken.join("; "));
        Ok(())
    }

    /// The numbers for `n_rows` training rows.
    ///
    /// # Errors
    ///
    /// When no noise keeps to the wanted ε.
    pub fn terms(&self, n_rows: usize, batch_size: usize, epochs: usize) -> anyhow::Result<Terms> {
        ensure!(n_rows > 0 && batch_size > 0 && batch_size <= n_rows, "expected a batch of 1 to {n_rows} rows");
        let sampling_rate = batch_size as f64 / n_rows as f64;
        let steps_per_epoch = n_rows.div_ceil(batch_size) as u64;
        // With one row 1/n is 1, which promises nothing.
        let delta = self.delta.unwrap_or(1.0 / n_rows.max(2) as f64);
        let noise_multiplier = match (self.noise_multiplier, self.target_epsilon) {
            (Some(noise), None) => noise,
            (None, Some(target)) => {
                let steps = steps_per_epoch.saturating_mul(epochs as u64);
                accountant::noise_for(target, delta, sampling_rate, steps)?
            }
            _ => bail!("expected a noise multiplier or a target epsilon"),
        };
        Ok(Terms { clip: self.clip, noise_multiplier, sampling_rate, steps_per_epoch, delta, n_rows })
    }

    /// What is to be said before a training of so many rows begins: a promise that means little. Nothing where the numbers
    /// are out of range; the training says that.
    #[must_use]
    pub fn warnings(&self, n_rows: usize, batch_size: usize, epochs: usize) -> Vec<String> {
        let Ok(terms) = self.terms(n_rows, batch_size, epochs) else { return vec![] };
        let steps = terms.steps_per_epoch.saturating_mul(epochs as u64);
        let spent = accountant::spent(terms.noise_multiplier, terms.sampling_rate, steps, terms.delta);
        let epsilon = spent.ok().and_then(|spent| Terms::epsilon_warning(spent.epsilon));
        terms.delta_warning().into_iter().chain(epsilon).collect()
    }

    /// The key to draw from: the secret one that the recipe names, or else that of the seed; each training then draws
    /// from one of its own ([`NoiseKey::of_training`]).
    ///
    /// # Errors
    ///
    /// When the recipe names a key and another one, or none, is given; or the other way round.
    pub fn key(&self, seed: u64, secret: Option<NoiseKey>) -> anyhow::Result<NoiseKey> {
        match (&self.key_digest, secret) {
            (None, None) => Ok(NoiseKey::of_seed(seed)),
            (Some(digest), Some(key)) if *digest == key.digest() => Ok(key),
            (Some(_), Some(_)) => bail!("the secret is not the one whose digest the recipe names"),
            (Some(_), None) => bail!("the recipe draws its noise from a secret: expected that secret, got none"),
            (None, Some(_)) => bail!("the recipe names no digest of a secret, but a secret was given"),
        }
    }
}

/// What in a recipe breaks the promise. Every field is looked at: a new one does not compile before it is.
fn breaks(recipe: &Recipe) -> Vec<String> {
    let Recipe {
        network,
        epochs: _,
        batch_size: _,
        // What follows from released gradients and constants alone is as private as these.
        optimizer: _,
        learning_rate: _,
        schedule: _,
        weight_decay: _,
        decoupled_weight_decay: _,
        // Drawn for each row from its own number: a row more or less leaves the others' draws as they are.
        dropout: _,
        augmentation: _,
        // Functions of each row's own label and values.
        label_smoothing: _,
        confidence_penalty: _,
        // Rows are sampled, whatever their order.
        shuffle: _,
        // Looks at validation rows, which are outside of the promise, and at released weights; all planned epochs are
        // then accounted for.
        early_stopping: _,
        // Refused with its teacher.
        distillation: _,
        normalise,
        mixup,
        curriculum,
        relax_loss,
        seed: _,
        dp: _,
    } = recipe;
    let mut broken = Vec::new();
    if network.norm() == Norm::Batch {
        broken.push("batch normalisation, which mixes the rows of a batch: use the norm 'group'".to_owned());
    }
    match normalise {
        Normalise::None | Normalise::Cifar10 | Normalise::Constants(_) => {}
        Normalise::TrainingRows | Normalise::EachValue => broken.push(
            "mean and deviation of the training rows, which are learned without noise: give constants".to_owned(),
        ),
    }
    if mixup.is_some() {
        broken.push("mixup: a row's gradient would depend on another row".to_owned());
    }
    if curriculum.is_some() {
        broken.push("a curriculum: which rows are seen would follow from the rows without noise".to_owned());
    }
    if relax_loss.is_some() {
        broken.push("RelaxLoss: a row's gradient would depend on the mean loss of its batch".to_owned());
    }
    broken
}

/// Replaces batch normalisation by group normalisation, which a private training needs; with what was done, in words.
#[must_use]
pub fn with_private_norm(mut recipe: Recipe) -> (Recipe, Option<String>) {
    if recipe.network.norm() != Norm::Batch {
        return (recipe, None);
    }
    recipe.network = recipe.network.with_norm(Norm::Group);
    let note = "batch normalisation was replaced by group normalisation with gcd(32, channels) groups: \
                it mixes the rows of a batch, so no row's gradient could be clipped alone";
    (recipe, Some(note.to_owned()))
}
