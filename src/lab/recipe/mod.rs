//! Everything that decides what is learned from given rows: one value, in a run record, a checkpoint or a TOML file.
//!
//! What a field is not given, it is off, so that a record of an earlier version reads as what it was.

mod defences;
mod normalise;
pub mod presets;
mod text;
mod words;

use anyhow::bail;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use defences::{
    Augmentation, Curriculum, Difficulty, Distillation, DropoutRates, EarlyStopping, LabelSmoothing, Mixup, RelaxLoss,
    SmoothingForm, StopBy,
};
pub use normalise::Normalise;

use super::dp::Privacy;
use super::network::{Architecture, Dropout};

/// Everything that decides what is learned from given rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The network.
    pub network: Architecture,
    /// How often each training row is seen.
    #[serde(default = "defaults::epochs")]
    pub epochs: usize,
    /// Rows in a step; the last step of an epoch takes what is left.
    #[serde(default = "defaults::batch_size")]
    pub batch_size: usize,
    /// Whether each epoch sees the rows in another order. The paper's code never reshuffles: its batches are the same
    /// in every epoch.
    #[serde(default = "defaults::yes", skip_serializing_if = "defaults::is_yes")]
    pub shuffle: bool,
    /// How steps follow from gradients.
    #[serde(default, skip_serializing_if = "is_default")]
    pub optimizer: OptimizerKind,
    /// The step size at the beginning.
    #[serde(default = "defaults::learning_rate")]
    pub learning_rate: f64,
    /// How the step size changes.
    #[serde(default, skip_serializing_if = "is_default")]
    pub schedule: Schedule,
    /// L2 penalty added to the gradient (coupled, as in torch's `Adam` and `SGD` and in the paper), on all parameters:
    /// `g ← g + λ θ`, the gradient of `½ λ ‖θ‖²`.
    #[serde(default)]
    pub weight_decay: f64,
    /// Weights shrink by this times the step size in each step, beside the gradient: `θ ← θ (1 − η λ)` before the step
    /// (Loshchilov and Hutter 2019, AdamW).
    #[serde(default, skip_serializing_if = "is_default")]
    pub decoupled_weight_decay: f64,
    /// Rates of dropout.
    #[serde(default, skip_serializing_if = "is_default")]
    pub dropout: DropoutRates,
    /// Mass moved away from the true class.
    #[serde(default, skip_serializing_if = "is_default")]
    pub label_smoothing: Option<LabelSmoothing>,
    /// What the network does to rows first.
    #[serde(default, skip_serializing_if = "is_default")]
    pub normalise: Normalise,
    /// When to stop before all epochs are done.
    #[serde(default, skip_serializing_if = "is_default")]
    pub early_stopping: Option<EarlyStopping>,
    /// Random changes of images.
    #[serde(default, skip_serializing_if = "is_default")]
    pub augmentation: Augmentation,
    /// Rows mixed with one another.
    #[serde(default, skip_serializing_if = "is_default")]
    pub mixup: Option<Mixup>,
    /// Easy rows first.
    #[serde(default, skip_serializing_if = "is_default")]
    pub curriculum: Option<Curriculum>,
    /// `β`: a row's loss is lowered by `β H(p)`, so that confident answers cost (Pereyra et al. 2017).
    #[serde(default, skip_serializing_if = "is_default")]
    pub confidence_penalty: f64,
    /// A mean loss that is held instead of the lowest one.
    #[serde(default, skip_serializing_if = "is_default")]
    pub relax_loss: Option<RelaxLoss>,
    /// How a teacher's answers and the labels are mixed.
    #[serde(default, skip_serializing_if = "is_default")]
    pub distillation: Option<Distillation>,
    /// Differential privacy: rows are then sampled, their gradients clipped and noise added.
    #[serde(default, skip_serializing_if = "is_default")]
    pub dp: Option<Privacy>,
    /// Decides the initial weights, the order of the rows and all else that is random.
    #[serde(default)]
    pub seed: u64,
}

/// What an entry is that a file leaves out.
mod defaults {
    pub(super) fn epochs() -> usize {
        10
    }

    pub(super) fn batch_size() -> usize {
        64
    }

    pub(super) fn learning_rate() -> f64 {
        1e-3
    }

    pub(super) fn yes() -> bool {
        true
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's form")]
    pub(super) fn is_yes(value: &bool) -> bool {
        *value
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// How steps follow from gradients.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", deny_unknown_fields)]
pub enum OptimizerKind {
    /// Adam with torch's constants (.9, .999, 1e-8).
    #[default]
    Adam,
    /// Gradient descent with momentum as torch has it: no dampening, no Nesterov.
    Sgd {
        /// Share of the last step that is kept; 0 for none.
        momentum: f64,
    },
}

/// How the step size changes.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", deny_unknown_fields)]
pub enum Schedule {
    /// Not at all.
    #[default]
    Constant,
    /// Times `factor` at the start of each of these epochs, counted from 0 (the paper: 30, 60, 90 and .1).
    Steps {
        /// The epochs.
        at: Vec<usize>,
        /// The factor.
        factor: f64,
    },
    /// `½ (1 + cos(π e / (E + 1)))` in epoch `e` of `E`, as the paper's private training has it.
    Cosine,
}

impl Schedule {
    /// What the step size is multiplied with in `epoch`, counted from 0.
    #[must_use]
    pub fn factor(&self, epoch: usize, epochs: usize) -> f64 {
        match self {
            Self::Constant => 1.0,
            Self::Steps { at, factor } => {
                factor.powi(i32::try_from(at.iter().filter(|&&start| epoch >= start).count()).unwrap_or(i32::MAX))
            }
            Self::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * epoch as f64 / (epochs + 1) as f64).cos()),
        }
    }
}

impl From<DropoutRates> for Dropout {
    fn from(rates: DropoutRates) -> Self {
        Self { input: rates.input, hidden: rates.hidden }
    }
}

impl Recipe {
    /// A plain recipe: Adam, cross-entropy, nothing else.
    #[must_use]
    pub fn plain(network: Architecture, epochs: usize, seed: u64) -> Self {
        Self {
            network,
            epochs,
            batch_size: defaults::batch_size(),
            shuffle: true,
            optimizer: OptimizerKind::Adam,
            learning_rate: defaults::learning_rate(),
            schedule: Schedule::Constant,
            weight_decay: 0.0,
            decoupled_weight_decay: 0.0,
            dropout: DropoutRates::default(),
            label_smoothing: None,
            normalise: Normalise::None,
            early_stopping: None,
            augmentation: Augmentation::default(),
            mixup: None,
            curriculum: None,
            confidence_penalty: 0.0,
            relax_loss: None,
            distillation: None,
            dp: None,
            seed,
        }
    }

    /// SHA-256 (hex) of the recipe as JSON: what a file of weights names it by.
    #[must_use]
    pub fn digest(&self) -> String {
        let bytes = serde_json::to_vec(self).expect("a recipe is plain numbers and text");
        crate::data::hex(&Sha256::digest(bytes))
    }

    /// Names every hyper-parameter that is out of range.
    ///
    /// # Errors
    ///
    /// One message with all of them.
    pub fn check(&self) -> anyhow::Result<()> {
        let mut wrong = Vec::new();
        let mut expect = |holds: bool, name: &str, expected: &str, got: String| {
            if !holds {
                wrong.push(format!("{name}: expected {expected}, got {got}"));
            }
        };
        expect(self.epochs > 0, "epochs", "at least 1", self.epochs.to_string());
        expect(self.batch_size > 0, "batch size", "at least 1", self.batch_size.to_string());
        let positive = |value: f64| value.is_finite() && value > 0.0;
        let at_least_0 = |value: f64| value.is_finite() && value >= 0.0;
        let share = |value: f64| (0.0..1.0).contains(&value);
        expect(positive(self.learning_rate), "learning rate", "a positive number", self.learning_rate.to_string());
        for (name, decay) in
            [("weight decay", self.weight_decay), ("decoupled weight decay", self.decoupled_weight_decay)]
        {
            expect(at_least_0(decay), name, "0 or more", decay.to_string());
        }
        for (name, rate) in [("input dropout", self.dropout.input), ("hidden dropout", self.dropout.hidden)] {
            expect(share(rate), name, "a rate from 0 to below 1", rate.to_string());
        }
        let has_place = self.dropout.hidden == 0.0 || self.network.has_hidden_dropout();
        expect(has_place, "hidden dropout", "a network with hidden layers to stand behind", self.network.to_string());
        if let OptimizerKind::Sgd { momentum } = self.optimizer {
            expect(share(momentum), "momentum", "a share from 0 to below 1", momentum.to_string());
        }
        if let Schedule::Steps { factor, .. } = &self.schedule {
            expect(positive(*factor), "schedule factor", "a positive number", factor.to_string());
        }
        if let Some(smoothing) = self.label_smoothing {
            let epsilon = smoothing.epsilon;
            expect(share(epsilon), "label smoothing", "a share from 0 to below 1", epsilon.to_string());
        }
        let Augmentation { rotate, scale, .. } = self.augmentation;
        expect((0.0..=180.0).contains(&rotate), "rotate", "0 to 180 degrees", rotate.to_string());
        expect(share(scale), "scale", "a share from 0 to below 1", scale.to_string());
        let penalty = self.confidence_penalty;
        expect(at_least_0(penalty), "confidence penalty", "0 or more", penalty.to_string());
        if let Some(EarlyStopping { patience, .. }) = self.early_stopping {
            expect(patience > 0, "patience", "at least 1", patience.to_string());
        }
        if let Some(Mixup { alpha }) = self.mixup {
            expect(positive(alpha), "mixup", "a positive alpha", alpha.to_string());
        }
        if let Some(Curriculum { start, .. }) = self.curriculum {
            expect(start > 0.0 && start <= 1.0, "curriculum start", "a share above 0, at most 1", start.to_string());
        }
        if let Some(RelaxLoss { alpha, upper }) = self.relax_loss {
            expect(positive(alpha), "RelaxLoss alpha", "a positive loss", alpha.to_string());
            expect(upper > 0.0 && upper <= 1.0, "RelaxLoss upper", "above 0, at most 1", upper.to_string());
        }
        if let Some(Distillation { temperature, weight }) = self.distillation {
            expect(positive(temperature), "distillation temperature", "a positive number", temperature.to_string());
            expect((0.0..=1.0).contains(&weight), "distillation weight", "0 to 1", weight.to_string());
        }
        wrong.extend(self.dp.iter().flat_map(Privacy::mistakes));
        if wrong.is_empty() { Ok(()) } else { bail!("{}", wrong.join("; ")) }
    }

    /// Whether each step depends on how many epochs are planned.
    pub(in crate::lab) fn depends_on_epochs(&self) -> bool {
        self.schedule == Schedule::Cosine || self.dp.as_ref().is_some_and(|dp| dp.target_epsilon.is_some())
    }

    /// What differs from a recipe that a checkpoint was made with, one phrase each; the number of epochs may, unless
    /// the schedule or the noise depends on it.
    #[must_use]
    pub fn differences(&self, saved: &Self) -> Vec<String> {
        let fields = |recipe: &Self| match serde_json::to_value(recipe) {
            Ok(serde_json::Value::Object(fields)) => fields,
            _ => serde_json::Map::new(),
        };
        let (own, saved_fields) = (fields(self), fields(saved));
        let mut names: Vec<&String> = own.keys().chain(saved_fields.keys()).collect();
        names.sort_unstable();
        names.dedup();
        let mut phrases = Vec::new();
        for name in names {
            if name == "epochs" && !self.depends_on_epochs() {
                continue;
            }
            let (expected, got) = (own.get(name), saved_fields.get(name));
            if expected != got {
                let shown = |value: Option<&serde_json::Value>| value.map_or("nothing".to_owned(), ToString::to_string);
                let (expected, got) = match name.as_str() {
                    "network" => (self.network.to_string(), saved.network.to_string()),
                    _ => (shown(expected), shown(got)),
                };
                phrases.push(format!("{}: expected {expected}, got {got}", name.replace('_', " ")));
            }
        }
        phrases
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::network::Activation;

    fn mlp(hidden: Vec<usize>) -> Architecture {
        Architecture::Mlp { hidden, activation: Activation::Relu }
    }

    #[test]
    fn all_mistakes_of_a_recipe_are_told_together() {
        let recipe = Recipe::plain(mlp(vec![4]), 1, 1);
        assert!(recipe.check().is_ok());
        let wrong = Recipe {
            epochs: 0,
            batch_size: 0,
            learning_rate: f64::NAN,
            weight_decay: -1.0,
            dropout: DropoutRates { input: 1.0, hidden: 0.5 },
            ..recipe
        };
        let message = wrong.check().unwrap_err().to_string();
        for name in ["epochs", "batch size", "learning rate", "weight decay", "input dropout"] {
            assert!(message.contains(name), "{message}");
        }
        assert!(!message.contains("hidden dropout"), "{message}");
    }

    #[test]
    fn recipes_are_told_apart_field_by_field() {
        let recipe = Recipe::plain(mlp(vec![4]), 1, 1);
        let saved = Recipe { epochs: 7, learning_rate: 0.01, network: mlp(vec![]), ..recipe.clone() };
        let expected =
            ["learning rate: expected 0.001, got 0.01", "network: expected mlp (hidden 4), got mlp (no hidden layer)"];
        assert_eq!(recipe.differences(&saved), expected);
        assert!(recipe.differences(&Recipe { epochs: 7, ..recipe.clone() }).is_empty());
        let cosine = |epochs| Recipe { epochs, schedule: Schedule::Cosine, ..recipe.clone() };
        assert_eq!(cosine(1).differences(&cosine(2)), ["epochs: expected 1, got 2"]);
    }

    #[test]
    fn a_record_of_the_first_version_reads_as_what_it_was() {
        let text = r#"{"network":{"kind":"cnn","channels":[32,64],"hidden":128},"epochs":10,"batch_size":64,
            "learning_rate":0.001,"weight_decay":0.0,"seed":1}"#;
        let recipe: Recipe = serde_json::from_str(text).unwrap();
        assert_eq!(recipe, Recipe::plain(Architecture::Cnn { channels: [32, 64], hidden: 128 }, 10, 1));
        let again: serde_json::Value = serde_json::to_value(&recipe).unwrap();
        assert_eq!(again, serde_json::from_str::<serde_json::Value>(text).unwrap());
        assert!(serde_json::from_str::<Recipe>(&text.replace("seed", "seeds")).is_err());
    }

    #[test]
    fn schedules_are_the_papers() {
        let steps = Schedule::Steps { at: vec![30, 60, 90], factor: 0.1 };
        let factors = [0, 29, 30, 60, 99].map(|epoch| steps.factor(epoch, 100));
        for (factor, expected) in factors.iter().zip([1.0, 1.0, 0.1, 0.01, 0.001]) {
            assert!((factor - expected).abs() < 1e-12);
        }
        assert!((Schedule::Cosine.factor(0, 100) - 1.0).abs() < 1e-12);
        assert!((Schedule::Cosine.factor(100, 199) - 0.5).abs() < 1e-12);
    }
}
