//! A recipe as a TOML file.

use anyhow::Context;

use super::Recipe;

impl Recipe {
    /// Reads the text of a recipe file. What it leaves out is off, or 10 epochs, batches of 64, learning rate 1e-3, seed
    /// 0; a word that no recipe knows is an error.
    ///
    /// # Errors
    ///
    /// With line, column and what was expected there.
    pub fn from_toml(text: &str) -> anyhow::Result<Self> {
        toml::from_str(text).context("expected a recipe")
    }

    /// The recipe as a file that [`from_toml`](Self::from_toml) reads back.
    ///
    /// # Errors
    ///
    /// When a number has no form in TOML: a seed above 2^63.
    pub fn to_toml(&self) -> anyhow::Result<String> {
        toml::to_string(self).context("cannot write the recipe as TOML")
    }
}

#[cfg(test)]
mod tests {
    use super::super::{
        Augmentation, Curriculum, Difficulty, Distillation, DropoutRates, EarlyStopping, LabelSmoothing, Mixup,
        Normalise, OptimizerKind, Recipe, RelaxLoss, Schedule, SmoothingForm, StopBy,
    };
    use crate::lab::network::{Architecture, Normalisation};

    fn everything() -> Recipe {
        Recipe {
            batch_size: 7,
            shuffle: false,
            optimizer: OptimizerKind::Sgd { momentum: 0.9 },
            learning_rate: 0.1,
            schedule: Schedule::Steps { at: vec![30, 60], factor: 0.1 },
            weight_decay: 5e-4,
            decoupled_weight_decay: 0.01,
            dropout: DropoutRates { input: 0.5, hidden: 0.25 },
            label_smoothing: Some(LabelSmoothing { epsilon: 0.1, form: SmoothingForm::Others }),
            normalise: Normalise::Constants(Normalisation { mean: vec![0.1, 0.2], deviation: vec![0.3, 0.4] }),
            early_stopping: Some(EarlyStopping { patience: 3, by: StopBy::Accuracy }),
            augmentation: Augmentation { flip: true, shift: 4, rotate: 10.0, scale: 0.1 },
            mixup: Some(Mixup { alpha: 0.2 }),
            curriculum: Some(Curriculum { score: Difficulty::Loss, start: 0.5, epochs: 4 }),
            confidence_penalty: 0.1,
            relax_loss: Some(RelaxLoss { alpha: 0.5, upper: 0.9 }),
            distillation: Some(Distillation { temperature: 3.0, weight: 0.7 }),
            ..Recipe::plain(Architecture::densenet(), 9, 11)
        }
    }

    #[test]
    fn a_recipe_is_the_same_after_a_file() {
        for recipe in
            [everything(), Recipe::plain(Architecture::fcn(), 3, 0), Recipe::plain(Architecture::MlLeaks, 1, 2)]
        {
            let text = recipe.to_toml().unwrap();
            assert_eq!(Recipe::from_toml(&text).unwrap(), recipe, "{text}");
        }
        let cifar = Recipe { normalise: Normalise::Cifar10, ..everything() };
        let text = cifar.to_toml().unwrap();
        assert!(text.contains("normalise = \"cifar10\""), "{text}");
        assert_eq!(Recipe::from_toml(&text).unwrap(), cifar);
    }

    #[test]
    fn what_a_file_leaves_out_is_off() {
        let recipe = Recipe::from_toml("network = { kind = \"ml-leaks\" }").unwrap();
        assert_eq!(recipe, Recipe::plain(Architecture::MlLeaks, 10, 0));
    }

    #[test]
    fn a_mistake_in_a_file_is_told_with_its_line() {
        for (text, line, expected) in [
            ("epochs = 3\nbatches = 2\nnetwork = { kind = \"ml-leaks\" }", "line 2", "unknown field `batches`"),
            ("epochs = -3\nnetwork = { kind = \"ml-leaks\" }", "line 1", "invalid value"),
            ("network = { kind = \"ml-leaks\" }\n[mixup]\nalfa = 1.0", "line 3", "unknown field `alfa`"),
            ("normalise = \"cifar\"\nnetwork = { kind = \"ml-leaks\" }", "line 1", "expected one of none, cifar10"),
            ("seed = 1", "line 1", "missing field `network`"),
        ] {
            let error = format!("{:#}", Recipe::from_toml(text).unwrap_err());
            assert!(error.contains(line) && error.contains(expected), "{error}");
        }
    }
}
