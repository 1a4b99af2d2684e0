//! The model card (Markdown): what a model is for, what it was made from, how good it is, and what it gives away.

use std::fmt::Write as _;

use super::onnx::join::LOG_PROBABILITIES;
use super::record::{MadeFrom, RunRecord, Status};

impl RunRecord {
    /// The model card: what the model is for, what it was made from, how good it is, and what it gives away.
    #[must_use]
    pub fn card(&self) -> String {
        let mut text = format!("# {}\n\n", self.model.file);
        let recipe = &self.recipe;
        let n_classes = self.data.labels.len();
        let _ = write!(
            text,
            "A small classifier of {n_classes} classes with {} parameters, trained by `sordino train` {}.\n\n\
             ## Intended use\n\nExamples, tests and measurements of membership inference and of defences against it. \
             It is no product: it was not made to decide anything about anybody.\n\n\
             ## Input and output\n\nInput `{}`: `f32`, shape `[N{}]`{}. Output `{}`: `f32`, shape `[N, {n_classes}]`, \
             {} in this order: {}.\n\n",
            self.model.n_parameters,
            self.sordino,
            self.model.input,
            self.data.row_shape.iter().map(|size| format!(", {size}")).collect::<String>(),
            match (self.data.row_shape.len(), self.data.pixels) {
                (3, Some(false)) => ", values as they are",
                (3, _) => ", pixels divided by 255",
                _ => "",
            },
            self.model.output,
            if self.model.output == LOG_PROBABILITIES { "logarithms of probabilities" } else { "logits" },
            self.data.labels.join(", "),
        );
        let sizes = &self.split.sizes;
        let _ = write!(
            text,
            "## Data\n\n`{}`, {} rows (SHA-256 of the rows `{}`). `{}` lists the rows of each part, drawn with seed {}: \
             {} train, {} validation, {} calibration, {} test.\n\n\
             ## Recipe\n\n`{}`, {}, {}, batches of {}, seed {}.\n\n",
            self.data.source,
            self.data.n_rows,
            self.data.digest,
            self.split.file,
            self.split.seed,
            sizes.train,
            sizes.validation,
            sizes.calibration,
            sizes.test,
            serde_json::to_string(&recipe.network).unwrap_or_default(),
            recipe.steps_in_words(),
            self.epochs_done(),
            recipe.batch_size,
            recipe.seed,
        );
        let defences = recipe.defences_in_words();
        if defences.is_empty() {
            text.push_str("No defence was trained in.\n\n");
        } else {
            let _ = write!(text, "Trained with these defences: {}.\n\n", defences.join("; "));
        }
        if let Some(made_from) = &self.made_from {
            text.push_str(&made_from.card());
        }
        self.write_results(&mut text);
        text
    }

    /// How far the training went, in words.
    fn epochs_done(&self) -> String {
        let planned = self.recipe.epochs;
        match self.status {
            Status::Finished => match self.best_epoch {
                None => format!("{planned} epochs"),
                Some(best) => {
                    let done = self.history.len();
                    format!(
                        "{done} of at most {planned} epochs with the weights of epoch {best}, the best on validation"
                    )
                }
            },
            Status::Interrupted { rows_seen, .. } => {
                let n_train = self.split.sizes.train;
                format!(
                    "interrupted after {} of {planned} epochs and {rows_seen} of {n_train} rows of the next",
                    self.history.len()
                )
            }
        }
    }

    fn write_results(&self, text: &mut String) {
        text.push_str("## Results\n\n");
        match &self.results {
            Some(results) => {
                text.push_str("| part | rows | accuracy | cross-entropy |\n| --- | --- | --- | --- |\n");
                for (name, score) in results.parts() {
                    let _ = writeln!(text, "| {name} | {} | {:.4} | {:.4} |", score.n_rows, score.accuracy, score.loss);
                }
                if let Some(attack) = &results.loss_attack {
                    let _ = write!(
                        text,
                        "\nThe loss of a row tells {} training rows from {} test rows with an AUC of {:.4} ({:.4} to \
                         {:.4}) and an advantage of {:.4}; by chance it would be {:.4}, and at most {:.4} in 95 of 100 \
                         cases.\n",
                        attack.n_members,
                        attack.n_non_members,
                        attack.auc,
                        attack.auc_interval[0],
                        attack.auc_interval[1],
                        attack.advantage,
                        attack.null_mean,
                        attack.null_q95,
                    );
                }
            }
            None => text.push_str("The run was interrupted; nothing was measured.\n"),
        }
        text.push_str("\n## Privacy\n\n");
        match self.gap() {
            Some(gap) if gap > 0.0 => {
                let _ = write!(
                    text,
                    "Train accuracy is {gap:.4} above test accuracy: whoever sees the predicted label and knows the \
                     true one tells training rows from others with about that advantage, before any better attack. "
                );
            }
            _ => {}
        }
        match &self.privacy {
            Some(privacy) => text.push_str(&privacy.card()),
            None if self.recipe.dp.is_some() && matches!(self.made_from, Some(MadeFrom::Joined { .. })) => text.push_str(
                "Each of its models was trained with differential privacy: the records of their bank state the epsilon of \
                 each. A row in several of them has spent what these spend together; no figure for that is given here.\n",
            ),
            None => text.push_str(
                "The training gives no differential privacy, and the weights themselves are not protected: a defence \
                 in front of the model protects its answers, not this file.\n",
            ),
        }
        let _ = write!(text, "\nSHA-256 of the model: `{}`.\n", self.model.sha256);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::device::Device;
    use crate::lab::network::Architecture;
    use crate::lab::recipe::{EarlyStopping, Mixup, Recipe, StopBy};
    use crate::lab::record::LossAttack;

    fn record() -> RunRecord {
        let text = include_str!("../../models/fashion_cnn.json");
        serde_json::from_str(text).expect("the record of the bundled model")
    }

    #[test]
    fn a_record_of_an_earlier_version_reads_and_its_card_has_no_new_lines() {
        let card = record().card();
        assert!(card.contains("Adam (learning rate 0.002)") && card.contains("No defence was trained in."), "{card}");
        assert!(!card.contains("AUC") && !card.contains("of at most"), "{card}");
    }

    #[test]
    fn a_card_says_what_goes_in_and_what_comes_out() {
        let mut record = record();
        assert!(record.card().contains("pixels divided by 255. Output `logits`"), "{}", record.card());
        assert!(record.card().contains("logits in this order"));
        record.data.pixels = Some(false);
        record.model.output = LOG_PROBABILITIES.to_owned();
        let card = record.card();
        assert!(card.contains("values as they are") && !card.contains("divided by 255"), "{card}");
        assert!(card.contains("logarithms of probabilities in this order") && !card.contains("logits"), "{card}");
    }

    #[test]
    fn a_graph_of_private_models_is_not_said_to_have_no_privacy() {
        let mut record = record();
        record.recipe.dp = Some(crate::lab::dp::Privacy::new(1.0, 1.0));
        assert!(record.card().contains("gives no differential privacy"));
        let design = crate::lab::bank::inclusion::Design::Whole { models: 2 };
        let (bank, combine) = (String::new(), String::new());
        record.made_from = Some(MadeFrom::Joined { bank, n_models: 2, design, combine, pool: vec![] });
        let card = record.card();
        assert!(card.contains("Each of its models was trained with differential privacy"), "{card}");
        assert!(!card.contains("gives no differential privacy"), "{card}");
    }

    #[test]
    fn a_card_names_the_defences_the_chosen_epoch_and_the_loss_attack() {
        let mut record = record();
        record.recipe = Recipe {
            weight_decay: 5e-4,
            mixup: Some(Mixup { alpha: 0.3 }),
            early_stopping: Some(EarlyStopping { patience: 4, by: StopBy::Accuracy }),
            ..Recipe::plain(Architecture::MlLeaks, 100, 1)
        };
        record.best_epoch = Some(3);
        record.device = Some(Device::Cpu);
        let losses: Vec<f64> = (0..100).map(f64::from).collect();
        let higher: Vec<f64> = losses.iter().map(|loss| loss + 20.5).collect();
        let attack = LossAttack::of(&losses, &higher, 1).unwrap().unwrap();
        record.results.as_mut().unwrap().loss_attack = Some(attack);
        let card = record.card();
        for words in [
            "L2 penalty 0.0005",
            "mixup (alpha 0.3)",
            "early stopping by validation accuracy (patience 4)",
            "with the weights of epoch 3",
            "an AUC of 0.68",
        ] {
            assert!(card.contains(words), "{words}: {card}");
        }
    }

    #[test]
    fn the_loss_attack_ranks_low_losses_first_and_knows_its_noise() {
        assert_eq!(LossAttack::of(&[], &[1.0], 1).unwrap(), None);
        assert!(LossAttack::of(&[f64::NAN], &[1.0], 1).is_err());
        let perfect = LossAttack::of(&[0.1, 0.2, 0.3], &[1.0, 2.0], 1).unwrap().unwrap();
        assert_eq!((perfect.auc, perfect.advantage, perfect.n_members, perfect.n_non_members), (1.0, 1.0, 3, 2));
        let losses: Vec<f64> = (0..1_000).map(|row| f64::from(row * 7_919 % 1_000)).collect();
        let none = LossAttack::of(&losses[..500], &losses[500..], 1).unwrap().unwrap();
        assert!((none.auc - 0.5).abs() < 0.05 && none.advantage < none.null_q95 + 0.02, "{none:?}");
        // .8687 and 1.358 times the square root of 1/500 + 1/500.
        assert!((none.null_mean - 0.0549).abs() < 0.005 && (none.null_q95 - 0.0859).abs() < 0.01, "{none:?}");
        assert!(none.auc_interval[0] < none.auc && none.auc < none.auc_interval[1]);
    }
}
