//! A recipe in words, for model cards.

use super::{Difficulty, OptimizerKind, Recipe, Schedule, SmoothingForm, StopBy};

impl Recipe {
    /// The optimizer, its step size and how that changes, in words.
    #[must_use]
    pub fn steps_in_words(&self) -> String {
        let rate = self.learning_rate;
        let optimizer = match self.optimizer {
            OptimizerKind::Adam => format!("Adam (learning rate {rate}"),
            OptimizerKind::Sgd { momentum } => format!("SGD with momentum {momentum} (learning rate {rate}"),
        };
        let schedule = match &self.schedule {
            Schedule::Constant => ")".to_owned(),
            Schedule::Steps { at, factor } => {
                let at: Vec<String> = at.iter().map(ToString::to_string).collect();
                format!(", times {factor} at the epochs {})", at.join(", "))
            }
            Schedule::Cosine => ", half a cosine down)".to_owned(),
        };
        let order = if self.shuffle { "" } else { ", rows always in the same order" };
        optimizer + &schedule + order
    }

    /// What was done so that the model says less about its rows, one phrase each. Differential privacy is told by its
    /// own record.
    #[must_use]
    pub fn defences_in_words(&self) -> Vec<String> {
        let mut words = Vec::new();
        let mut number = |value: f64, say: &dyn Fn(f64) -> String| {
            if value > 0.0 {
                words.push(say(value));
            }
        };
        number(self.weight_decay, &|x| format!("L2 penalty {x} (coupled)"));
        number(self.decoupled_weight_decay, &|x| format!("decoupled weight decay {x}"));
        number(self.dropout.input, &|x| format!("dropout {x} on the rows"));
        number(self.dropout.hidden, &|x| format!("dropout {x} behind hidden activations"));
        number(self.confidence_penalty, &|x| format!("confidence penalty {x}"));
        number(self.augmentation.shift as f64, &|x| format!("shifts by up to {x} pixels"));
        number(self.augmentation.rotate, &|x| format!("rotations by up to {x} degrees"));
        number(self.augmentation.scale, &|x| format!("scaling by up to {x}"));
        if self.augmentation.flip {
            words.push("flips".to_owned());
        }
        if let Some(smoothing) = self.label_smoothing {
            let to = match smoothing.form {
                SmoothingForm::All => "over all classes",
                SmoothingForm::Others => "over the other classes",
            };
            words.push(format!("label smoothing {} {to}", smoothing.epsilon));
        }
        if let Some(mixup) = self.mixup {
            words.push(format!("mixup (alpha {})", mixup.alpha));
        }
        if let Some(curriculum) = self.curriculum {
            let by = match curriculum.score {
                Difficulty::CentroidDistance => "distance to the class mean",
                Difficulty::Loss => "the loss of a first model",
                Difficulty::Given => "given numbers",
            };
            let (start, epochs) = (curriculum.start, curriculum.epochs);
            words.push(format!("easy rows first, by {by} (from {start:.3} of them to all at epoch {epochs})"));
        }
        if let Some(relax) = self.relax_loss {
            words.push(format!("RelaxLoss (alpha {})", relax.alpha));
        }
        if let Some(distillation) = self.distillation {
            let (temperature, weight) = (distillation.temperature, distillation.weight);
            words.push(format!("distillation (temperature {temperature}, weight {weight})"));
        }
        if let Some(stopping) = self.early_stopping {
            let by = match stopping.by {
                StopBy::Loss => "loss",
                StopBy::Accuracy => "accuracy",
            };
            words.push(format!("early stopping by validation {by} (patience {})", stopping.patience));
        }
        if self.dp.is_some() {
            words.push("DP-SGD (see below)".to_owned());
        }
        words
    }
}
