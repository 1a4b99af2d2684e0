//! The options of a private training, and the file of its secret.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::lab::dp::{NoiseKey, Privacy, with_private_norm};
use crate::lab::recipe::Recipe;

/// No file of a secret is read beyond this.
const MAX_SECRET_BYTES: u64 = 4096;

/// How to train with differential privacy.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Differential privacy (DP-SGD)")]
pub(super) struct PrivacyArgs {
    /// Train privately: clip each row's gradient to this norm and add noise. Rows are then sampled for each step
    /// with probability batch size / rows.
    #[arg(long, value_name = "NORM")]
    dp_clip: Option<f64>,
    /// The noise's standard deviation over the clipping norm.
    #[arg(long, value_name = "X", conflicts_with = "dp_target_epsilon")]
    dp_noise_multiplier: Option<f64>,
    /// Use the least noise with which all epochs together spend at most this epsilon.
    #[arg(long, value_name = "X")]
    dp_target_epsilon: Option<f64>,
    /// The delta that epsilon is stated at [default: 1 / training rows].
    #[arg(long, value_name = "X")]
    dp_delta: Option<f64>,
    /// A file of at least 32 random bytes to draw samples and noise from. Without it they are drawn from --seed, which
    /// stands in the record: fit for experiments, but whoever knows it can take the noise away. Trainings that differ in
    /// recipe or rows share no noise although they share the file.
    #[arg(long, value_name = "FILE")]
    dp_secret: Option<PathBuf>,
}

/// A recipe made private, and what goes beside it.
#[derive(Debug)]
pub(super) struct PrivateRecipe {
    pub(super) recipe: Recipe,
    /// Given to the trainer; in no record.
    pub(super) secret: Option<NoiseKey>,
    /// What was changed, for the user and the record.
    pub(super) notes: Vec<String>,
}

impl PrivacyArgs {
    /// Puts the options into a recipe, over what it says itself; a recipe without any stays as it is.
    ///
    /// # Errors
    ///
    /// When the secret cannot be read or is short, or no norm or noise was asked for.
    pub(super) fn apply(&self, recipe: Recipe) -> anyhow::Result<PrivateRecipe> {
        let given = self.dp_clip.is_some()
            || self.dp_noise_multiplier.is_some()
            || self.dp_target_epsilon.is_some()
            || self.dp_delta.is_some()
            || self.dp_secret.is_some();
        if !given && recipe.dp.is_none() {
            return Ok(PrivateRecipe { recipe, secret: None, notes: vec![] });
        }
        let secret = self.secret()?;
        let dp = self.over(recipe.dp.clone(), secret.as_ref())?;
        let (mut recipe, note) = with_private_norm(recipe);
        recipe.dp = Some(dp);
        Ok(PrivateRecipe { recipe, secret, notes: note.into_iter().collect() })
    }

    /// The options over the recipe's own entry.
    fn over(&self, own: Option<Privacy>, secret: Option<&NoiseKey>) -> anyhow::Result<Privacy> {
        let own_clip = own.as_ref().map(|own| own.clip);
        let Some(clip) = self.dp_clip.or(own_clip) else { bail!("expected --dp-clip with the other --dp options") };
        let (noise_multiplier, target_epsilon) = match (self.dp_noise_multiplier, self.dp_target_epsilon, &own) {
            (None, None, Some(own)) => (own.noise_multiplier, own.target_epsilon),
            (None, None, None) => bail!("expected --dp-noise-multiplier or --dp-target-epsilon with --dp-clip"),
            (noise, target, _) => (noise, target),
        };
        let own_digest = own.as_ref().and_then(|own| own.key_digest.clone());
        Ok(Privacy {
            clip,
            noise_multiplier,
            target_epsilon,
            delta: self.dp_delta.or(own.and_then(|own| own.delta)),
            key_digest: secret.map(NoiseKey::digest).or(own_digest),
        })
    }

    fn secret(&self) -> anyhow::Result<Option<NoiseKey>> {
        self.dp_secret.as_deref().map(read_secret).transpose()
    }
}

/// The key of a file's bytes.
///
/// # Errors
///
/// When the file cannot be read, or is short.
pub(super) fn read_secret(path: &Path) -> anyhow::Result<NoiseKey> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    file.take(MAX_SECRET_BYTES).read_to_end(&mut bytes).with_context(|| format!("cannot read {}", path.display()))?;
    NoiseKey::of_secret(&bytes).with_context(|| path.display().to_string())
}
