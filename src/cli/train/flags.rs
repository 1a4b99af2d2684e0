//! A recipe from a file or a preset, and the flag for each of its entries that overrides it.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use clap::{ArgAction, ValueEnum};

use super::network_flags::NetworkFlags;
use crate::lab::recipe::{
    Curriculum, Difficulty, Distillation, EarlyStopping, LabelSmoothing, Mixup, Normalise, OptimizerKind, Recipe,
    RelaxLoss, Schedule, SmoothingForm, StopBy, presets,
};

/// No recipe file is larger.
const MAX_RECIPE_BYTES: u64 = 1 << 20;

/// What is learned from the rows. A flag overrides the entry of --recipe.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Recipe")]
pub(in crate::cli) struct RecipeFlags {
    /// A recipe: a TOML file, a run record (NAME.json), or the name of one of the papers' recipes, such as
    /// paper-a/cifar-original or cs2980/none.
    #[arg(long, value_name = "FILE|NAME")]
    pub(in crate::cli) recipe: Option<String>,
    #[command(flatten)]
    network: NetworkFlags,
    #[command(flatten)]
    steps: StepFlags,
    #[command(flatten)]
    defences: DefenceFlags,
    /// Decides the initial weights, the order of the rows and all else that is random, the drawn parts too.
    #[arg(long, value_name = "N")]
    pub(in crate::cli) seed: Option<u64>,
}

#[derive(Debug, Clone, Default, clap::Args)]
struct StepFlags {
    /// How often each training row is seen [default: 10].
    #[arg(long, value_name = "N")]
    epochs: Option<usize>,
    /// Rows in a step [default: 64].
    #[arg(long, value_name = "N")]
    batch_size: Option<usize>,
    /// Whether each epoch sees the rows in another order [default: true].
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", action = ArgAction::Set)]
    shuffle: Option<bool>,
    /// How steps follow from gradients: adam or sgd [default: adam].
    #[arg(long, value_enum)]
    optimizer: Option<OptimizerName>,
    /// Share of the last step that sgd keeps [default: 0].
    #[arg(long, value_name = "X")]
    momentum: Option<f64>,
    /// The step size at the beginning [default: 0.001].
    #[arg(long, value_name = "X")]
    learning_rate: Option<f64>,
    /// How the step size changes: constant, steps or cosine [default: constant].
    #[arg(long, value_enum)]
    schedule: Option<ScheduleName>,
    /// Epochs, from 0, at whose start the step size is multiplied with --schedule-factor.
    #[arg(long, value_name = "N,..", value_delimiter = ',')]
    schedule_at: Vec<usize>,
    /// See --schedule-at [default: 0.1].
    #[arg(long, value_name = "X")]
    schedule_factor: Option<f64>,
    /// What the network does to rows first: none, cifar10 (the constants of the paper's code), training-rows or
    /// each-value (mean and deviation over the training rows) [default: none].
    #[arg(long, value_name = "WORD")]
    normalise: Option<Normalise>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OptimizerName {
    /// With torch's constants.
    Adam,
    /// Gradient descent with momentum.
    Sgd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ScheduleName {
    /// The step size stays.
    Constant,
    /// It is multiplied with a factor at some epochs.
    Steps,
    /// Half a cosine down to nearly 0.
    Cosine,
}

#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Defences (combine freely; 0 turns one of the recipe off)")]
struct DefenceFlags {
    /// L2 penalty on all parameters, added to the gradient.
    #[arg(long, value_name = "X")]
    weight_decay: Option<f64>,
    /// Weights shrink by this times the step size in each step.
    #[arg(long, value_name = "X")]
    decoupled_weight_decay: Option<f64>,
    /// Rate of dropout on the rows.
    #[arg(long, value_name = "RATE")]
    dropout_input: Option<f64>,
    /// Rate of dropout behind hidden activations (RegDrop).
    #[arg(long, value_name = "RATE")]
    dropout_hidden: Option<f64>,
    /// Mass moved away from the true class.
    #[arg(long, value_name = "EPSILON")]
    label_smoothing: Option<f64>,
    /// To whom: all (EPSILON/K each, the true class too) or others (EPSILON/(K-1) each) [default: all].
    #[arg(long, value_parser = word::<SmoothingForm>)]
    label_smoothing_form: Option<SmoothingForm>,
    /// Stop when the validation rows were not better for so many epochs, and keep the best epoch.
    #[arg(long, value_name = "EPOCHS")]
    early_stopping: Option<usize>,
    /// What is to be better: loss or accuracy [default: loss].
    #[arg(long, value_parser = word::<StopBy>)]
    early_stopping_by: Option<StopBy>,
    /// Swap left and right of images at random.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", action = ArgAction::Set)]
    flip: Option<bool>,
    /// Shift images by up to so many pixels, both ways.
    #[arg(long, value_name = "PIXELS")]
    shift: Option<usize>,
    /// Rotate images by up to so many degrees.
    #[arg(long, value_name = "DEGREES")]
    rotate: Option<f64>,
    /// Scale images by a factor of up to 1 plus or minus this.
    #[arg(long, value_name = "SHARE")]
    scale: Option<f64>,
    /// Mix rows with one another, the share drawn from Beta(ALPHA, ALPHA).
    #[arg(long, value_name = "ALPHA")]
    mixup: Option<f64>,
    /// Easy rows first, by centroid-distance, loss (of --first-model) or given (by --difficulty).
    #[arg(long, value_parser = word::<Difficulty>)]
    curriculum: Option<Difficulty>,
    /// The share of the rows that the first epoch of a curriculum sees [default: 1/3].
    #[arg(long, value_name = "SHARE")]
    curriculum_start: Option<f64>,
    /// The first epoch, from 0, of a curriculum that sees all rows [default: half of the epochs; with --resume what the
    /// checkpoint says]; 0 for no curriculum.
    #[arg(long, value_name = "N")]
    curriculum_epochs: Option<usize>,
    /// Lower the loss by so much of the answer's entropy.
    #[arg(long, value_name = "BETA")]
    confidence_penalty: Option<f64>,
    /// Hold the mean loss at this level (RelaxLoss).
    #[arg(long, value_name = "ALPHA")]
    relax_loss: Option<f64>,
    /// The largest posterior of the true class that RelaxLoss flattens to [default: 1].
    #[arg(long, value_name = "P")]
    relax_loss_upper: Option<f64>,
    /// Temperature at which a teacher is learned [default: 1].
    #[arg(long, value_name = "T")]
    distil_temperature: Option<f64>,
    /// How much the teacher counts beside the labels, 0 to 1 [default: 1].
    #[arg(long, value_name = "W")]
    distil_weight: Option<f64>,
}

/// A word of an enum that recipes are written with.
pub(super) fn word<T: serde::de::DeserializeOwned>(given: &str) -> Result<T, String> {
    serde_json::from_value(serde_json::Value::from(given)).map_err(|error| error.to_string())
}

/// The recipe of a TOML file, of a run record, or of a preset.
pub(in crate::cli) fn read_recipe(given: &str) -> anyhow::Result<Recipe> {
    let path = Path::new(given);
    let text = match path.metadata() {
        Ok(metadata) => {
            let size = metadata.len();
            ensure!(size <= MAX_RECIPE_BYTES, "--recipe: {given} is no recipe, it has {size} bytes");
            std::fs::read_to_string(path).with_context(|| format!("cannot read the recipe {given}"))?
        }
        Err(error) => match presets::preset(given) {
            Some(text) => text.to_owned(),
            None => bail!("cannot read the recipe {given}: {error}; the papers' recipes are {}", presets::names()),
        },
    };
    let recipe = if PathBuf::from(given).extension().is_some_and(|ending| ending == "json") {
        let record: serde_json::Value = serde_json::from_str(&text).with_context(|| format!("the record {given}"))?;
        let recipe = record.get("recipe").cloned().unwrap_or(record);
        serde_json::from_value(recipe).with_context(|| format!("the recipe of the record {given}"))?
    } else {
        Recipe::from_toml(&text).with_context(|| given.to_owned())?
    };
    Ok(recipe)
}

impl RecipeFlags {
    /// The recipe that is meant.
    ///
    /// # Errors
    ///
    /// When the file is no recipe, a flag does not belong to what it refines, or a number is out of range.
    pub(in crate::cli) fn recipe(&self) -> anyhow::Result<Recipe> {
        let mut recipe = match (&self.recipe, self.network.plain()) {
            (Some(given), _) => read_recipe(given)?,
            (None, Some(network)) => Recipe::plain(network, 10, 0),
            (None, None) => bail!("expected --recipe or --network"),
        };
        self.network.apply(&mut recipe.network)?;
        self.steps.apply(&mut recipe)?;
        self.defences.apply(&mut recipe)?;
        recipe.seed = self.seed.unwrap_or(recipe.seed);
        recipe.check()?;
        Ok(recipe)
    }
}

impl RecipeFlags {
    /// Where nobody said how long a curriculum lasts, it lasts as long as in the training that is gone on with: half of
    /// another number of epochs would be another training.
    pub(super) fn keep_curriculum(&self, recipe: &mut Recipe, saved: &Recipe) {
        let is_said = self.defences.curriculum.is_none() || self.defences.curriculum_epochs.is_some();
        if let (false, Some(own), Some(saved)) = (is_said, &mut recipe.curriculum, &saved.curriculum) {
            own.epochs = saved.epochs;
        }
    }
}

impl StepFlags {
    fn apply(&self, recipe: &mut Recipe) -> anyhow::Result<()> {
        recipe.epochs = self.epochs.unwrap_or(recipe.epochs);
        recipe.batch_size = self.batch_size.unwrap_or(recipe.batch_size);
        recipe.shuffle = self.shuffle.unwrap_or(recipe.shuffle);
        recipe.learning_rate = self.learning_rate.unwrap_or(recipe.learning_rate);
        if let Some(normalise) = &self.normalise {
            recipe.normalise = normalise.clone();
        }
        match self.optimizer {
            Some(OptimizerName::Adam) => recipe.optimizer = OptimizerKind::Adam,
            Some(OptimizerName::Sgd) if recipe.optimizer == OptimizerKind::Adam => {
                recipe.optimizer = OptimizerKind::Sgd { momentum: 0.0 };
            }
            _ => {}
        }
        match (&mut recipe.optimizer, self.momentum) {
            (_, None) => {}
            (OptimizerKind::Sgd { momentum }, Some(given)) => *momentum = given,
            (OptimizerKind::Adam, Some(_)) => bail!("--momentum is for --optimizer sgd"),
        }
        self.apply_schedule(recipe)
    }

    fn apply_schedule(&self, recipe: &mut Recipe) -> anyhow::Result<()> {
        match self.schedule {
            Some(ScheduleName::Constant) => recipe.schedule = Schedule::Constant,
            Some(ScheduleName::Cosine) => recipe.schedule = Schedule::Cosine,
            Some(ScheduleName::Steps) if !matches!(recipe.schedule, Schedule::Steps { .. }) => {
                recipe.schedule = Schedule::Steps { at: vec![], factor: 0.1 };
            }
            _ => {}
        }
        match &mut recipe.schedule {
            Schedule::Steps { at, factor } => {
                if !self.schedule_at.is_empty() {
                    at.clone_from(&self.schedule_at);
                }
                *factor = self.schedule_factor.unwrap_or(*factor);
                ensure!(!at.is_empty(), "--schedule steps: expected the epochs by --schedule-at");
                Ok(())
            }
            _ if !self.schedule_at.is_empty() || self.schedule_factor.is_some() => {
                bail!("--schedule-at and --schedule-factor are for --schedule steps")
            }
            _ => Ok(()),
        }
    }
}

impl DefenceFlags {
    fn apply(&self, recipe: &mut Recipe) -> anyhow::Result<()> {
        let number = |entry: &mut f64, given: Option<f64>| *entry = given.unwrap_or(*entry);
        number(&mut recipe.weight_decay, self.weight_decay);
        number(&mut recipe.decoupled_weight_decay, self.decoupled_weight_decay);
        number(&mut recipe.dropout.input, self.dropout_input);
        number(&mut recipe.dropout.hidden, self.dropout_hidden);
        number(&mut recipe.confidence_penalty, self.confidence_penalty);
        number(&mut recipe.augmentation.rotate, self.rotate);
        number(&mut recipe.augmentation.scale, self.scale);
        recipe.augmentation.flip = self.flip.unwrap_or(recipe.augmentation.flip);
        recipe.augmentation.shift = self.shift.unwrap_or(recipe.augmentation.shift);
        if let Some(epsilon) = self.label_smoothing {
            let form = recipe.label_smoothing.map(|smoothing| smoothing.form).unwrap_or_default();
            recipe.label_smoothing = (epsilon != 0.0).then_some(LabelSmoothing { epsilon, form });
        }
        refine(&mut recipe.label_smoothing, self.label_smoothing_form, "--label-smoothing", |smoothing, form| {
            smoothing.form = form;
        })?;
        if let Some(patience) = self.early_stopping {
            let by = recipe.early_stopping.map(|stopping| stopping.by).unwrap_or_default();
            recipe.early_stopping = (patience != 0).then_some(EarlyStopping { patience, by });
        }
        refine(&mut recipe.early_stopping, self.early_stopping_by, "--early-stopping", |stopping, by| {
            stopping.by = by
        })?;
        if let Some(alpha) = self.mixup {
            recipe.mixup = (alpha != 0.0).then_some(Mixup { alpha });
        }
        if let Some(alpha) = self.relax_loss {
            let upper = recipe.relax_loss.map_or(1.0, |relax| relax.upper);
            recipe.relax_loss = (alpha != 0.0).then_some(RelaxLoss { alpha, upper });
        }
        refine(&mut recipe.relax_loss, self.relax_loss_upper, "--relax-loss", |relax, upper| relax.upper = upper)?;
        self.apply_curriculum(recipe)?;
        if self.distil_temperature.is_some() || self.distil_weight.is_some() {
            let own = recipe.distillation.unwrap_or_default();
            recipe.distillation = Some(Distillation {
                temperature: self.distil_temperature.unwrap_or(own.temperature),
                weight: self.distil_weight.unwrap_or(own.weight),
            });
        }
        Ok(())
    }

    fn apply_curriculum(&self, recipe: &mut Recipe) -> anyhow::Result<()> {
        if let Some(score) = self.curriculum {
            let own = recipe.curriculum.unwrap_or(Curriculum { score, start: 1.0 / 3.0, epochs: recipe.epochs / 2 });
            recipe.curriculum = Some(Curriculum { score, ..own });
        }
        if self.curriculum_epochs == Some(0) {
            recipe.curriculum = None;
            return Ok(());
        }
        refine(&mut recipe.curriculum, self.curriculum_start, "--curriculum", |own, start| own.start = start)?;
        refine(&mut recipe.curriculum, self.curriculum_epochs, "--curriculum", |own, epochs| own.epochs = epochs)
    }
}

/// Changes a defence by a flag that refines it, and asks for the defence where there is none.
fn refine<T, V>(
    defence: &mut Option<T>,
    given: Option<V>,
    needs: &str,
    change: impl FnOnce(&mut T, V),
) -> anyhow::Result<()> {
    match (defence, given) {
        (_, None) => Ok(()),
        (Some(defence), Some(value)) => {
            change(defence, value);
            Ok(())
        }
        (None, Some(_)) => bail!("a flag that refines {needs} was given without it"),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::lab::network::{Activation, Architecture, Norm};
    use crate::lab::recipe::{Augmentation, DropoutRates};

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        flags: RecipeFlags,
    }

    fn recipe(words: &str) -> anyhow::Result<Recipe> {
        Line::try_parse_from(["train"].into_iter().chain(words.split_whitespace()))?.flags.recipe()
    }

    #[test]
    fn every_network_goes_by_a_word_and_its_numbers() {
        assert_eq!(recipe("--network fcn").unwrap(), Recipe::plain(Architecture::fcn(), 10, 0));
        assert_eq!(recipe("--network resnet18").unwrap().network, Architecture::resnet18());
        assert_eq!(recipe("--network ml-leaks").unwrap().network, Architecture::MlLeaks);
        let densenet = recipe("--network densenet --depth 22 --growth 8 --norm group").unwrap().network;
        let expected = Architecture::Densenet { depth: 22, growth: 8, compression: 0.5, norm: Norm::Group };
        assert_eq!(densenet, expected);
        let cnn = recipe("--network cnn --channels 8,9 --hidden 10").unwrap().network;
        assert_eq!(cnn, Architecture::Cnn { channels: [8, 9], hidden: 10 });
        let convnet = "--network convnet --channels 4,5,6 --hidden 0 --side 5 --norm none --activation tanh";
        let expected = Architecture::Convnet {
            channels: vec![4, 5, 6],
            side: 5,
            norm: Norm::None,
            hidden: vec![],
            activation: Activation::Tanh,
        };
        assert_eq!(recipe(convnet).unwrap().network, expected);
        let error = recipe("--network mlp --depth 3 --side 3").unwrap_err().to_string();
        assert!(error.contains("--side and --depth is not for mlp"), "{error}");
        assert!(recipe("--network cnn --hidden 1,2").unwrap_err().to_string().contains("--hidden: expected 1"));
    }

    #[test]
    fn every_entry_has_a_flag_that_overrides_it() {
        let words = "--recipe paper-a/cifar-regdrop-25 --epochs 3 --batch-size 8 --shuffle --optimizer sgd --momentum .5 \
            --learning-rate .2 --schedule-at 1,2 --schedule-factor .5 --weight-decay .1 --decoupled-weight-decay .2 \
            --dropout-input .3 --dropout-hidden .4 --label-smoothing .05 --label-smoothing-form others \
            --normalise each-value --early-stopping 4 --early-stopping-by accuracy --flip --shift 2 --rotate 3 --scale .1 \
            --mixup .2 --curriculum loss --curriculum-start .5 --curriculum-epochs 2 --confidence-penalty .6 \
            --relax-loss .7 --relax-loss-upper .8 --distil-temperature 4 --distil-weight .9 --seed 12 --depth 16";
        let network = Architecture::Densenet { depth: 16, growth: 12, compression: 0.5, norm: Norm::Batch };
        let expected = Recipe {
            network,
            epochs: 3,
            batch_size: 8,
            shuffle: true,
            optimizer: OptimizerKind::Sgd { momentum: 0.5 },
            learning_rate: 0.2,
            schedule: Schedule::Steps { at: vec![1, 2], factor: 0.5 },
            weight_decay: 0.1,
            decoupled_weight_decay: 0.2,
            dropout: DropoutRates { input: 0.3, hidden: 0.4 },
            label_smoothing: Some(LabelSmoothing { epsilon: 0.05, form: SmoothingForm::Others }),
            normalise: Normalise::EachValue,
            early_stopping: Some(EarlyStopping { patience: 4, by: StopBy::Accuracy }),
            augmentation: Augmentation { flip: true, shift: 2, rotate: 3.0, scale: 0.1 },
            mixup: Some(Mixup { alpha: 0.2 }),
            curriculum: Some(Curriculum { score: Difficulty::Loss, start: 0.5, epochs: 2 }),
            confidence_penalty: 0.6,
            relax_loss: Some(RelaxLoss { alpha: 0.7, upper: 0.8 }),
            distillation: Some(Distillation { temperature: 4.0, weight: 0.9 }),
            dp: None,
            seed: 12,
        };
        assert_eq!(recipe(words).unwrap(), expected);
    }

    #[test]
    fn what_a_recipe_says_stays_where_no_flag_is_given_and_0_turns_a_defence_off() {
        let own = presets::preset("paper-a/cifar-label-smoothing-10").unwrap();
        let own = Recipe::from_toml(own).unwrap();
        assert_eq!(recipe("--recipe paper-a/cifar-label-smoothing-10").unwrap(), own);
        assert_eq!(recipe("--recipe paper-a/cifar-label-smoothing-10 --network densenet").unwrap(), own);
        let off = recipe("--recipe paper-a/cifar-label-smoothing-10 --label-smoothing 0 --schedule constant").unwrap();
        assert_eq!(off, Recipe { label_smoothing: None, schedule: Schedule::Constant, ..own });
    }

    #[test]
    fn flags_without_what_they_refine_and_unknown_recipes_are_refused() {
        for (words, expected) in [
            ("", "expected --recipe or --network"),
            ("--network mlp --momentum .9", "--momentum is for --optimizer sgd"),
            ("--network mlp --schedule steps", "expected the epochs by --schedule-at"),
            ("--network mlp --schedule-factor .5", "are for --schedule steps"),
            ("--network mlp --early-stopping-by loss", "--early-stopping"),
            ("--network mlp --relax-loss-upper .5", "--relax-loss"),
            ("--network mlp --curriculum-start .5", "--curriculum"),
            ("--network mlp --mixup=-1", "mixup: expected a positive alpha"),
            ("--recipe paper-z", "the papers' recipes are cs2980/dropout"),
            ("--network mlp --hidden 0 --dropout-hidden .5", "hidden dropout: expected a network with hidden layers"),
            ("--network mlp --norm batches", "unknown variant `batches`"),
        ] {
            let error = recipe(words).unwrap_err().to_string();
            assert!(error.contains(expected), "{words}: {error}");
        }
    }
}
