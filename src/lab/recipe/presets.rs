//! The papers' recipes, which this program carries: the files under `recipes/`, by name.
//!
//! They are the papers' own sizes; the flags of `train` scale them down.

/// A preset: its name and the text of its file.
pub type Preset = (&'static str, &'static str);

macro_rules! preset {
    ($name:literal) => {
        ($name, include_str!(concat!("../../../recipes/", $name, ".toml")))
    };
}

/// All presets by name, in alphabetical order.
pub const PRESETS: &[Preset] = &[
    preset!("cs2980/dropout"),
    preset!("cs2980/dropout-smoothing"),
    preset!("cs2980/none"),
    preset!("cs2980/smoothing"),
    preset!("paper-a/cifar-dp"),
    preset!("paper-a/cifar-early-stopping"),
    preset!("paper-a/cifar-l2-1e-3"),
    preset!("paper-a/cifar-l2-5e-3"),
    preset!("paper-a/cifar-l2-5e-4"),
    preset!("paper-a/cifar-label-smoothing-01"),
    preset!("paper-a/cifar-label-smoothing-03"),
    preset!("paper-a/cifar-label-smoothing-10"),
    preset!("paper-a/cifar-original"),
    preset!("paper-a/cifar-regdrop-25"),
    preset!("paper-a/cifar-regdrop-50"),
    preset!("paper-a/purchase-dp"),
    preset!("paper-a/purchase-early-stopping"),
    preset!("paper-a/purchase-l2-1e-3"),
    preset!("paper-a/purchase-l2-5e-3"),
    preset!("paper-a/purchase-l2-5e-4"),
    preset!("paper-a/purchase-label-smoothing-01"),
    preset!("paper-a/purchase-label-smoothing-03"),
    preset!("paper-a/purchase-label-smoothing-10"),
    preset!("paper-a/purchase-original"),
    preset!("paper-a/purchase-regdrop-25"),
    preset!("paper-a/purchase-regdrop-50"),
];

/// The text of a preset.
#[must_use]
pub fn preset(name: &str) -> Option<&'static str> {
    PRESETS.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}

/// The names of all presets, one after the other.
#[must_use]
pub fn names() -> String {
    PRESETS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::{LabelSmoothing, Normalise, OptimizerKind, Recipe, SmoothingForm};
    use super::*;
    use crate::lab::network::Architecture;

    fn read(name: &str) -> Recipe {
        Recipe::from_toml(preset(name).unwrap()).unwrap()
    }

    #[test]
    fn every_file_of_the_folder_is_a_preset_and_reads() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes");
        let mut found = Vec::new();
        let entries = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
        for source in entries.filter(|path| path.is_dir()) {
            for file in std::fs::read_dir(&source).unwrap().map(|entry| entry.unwrap().path()) {
                let stem = file.strip_prefix(&folder).unwrap().with_extension("");
                found.push(stem.to_string_lossy().replace('\\', "/"));
            }
        }
        found.sort_unstable();
        assert_eq!(found, PRESETS.iter().map(|(name, _)| (*name).to_owned()).collect::<Vec<_>>());
        for (name, text) in PRESETS {
            let recipe = Recipe::from_toml(text).unwrap_or_else(|error| panic!("{name}: {error:#}"));
            recipe.check().unwrap_or_else(|error| panic!("{name}: {error:#}"));
            assert!(text.lines().all(|line| line.len() <= 120), "{name}");
        }
    }

    #[test]
    fn presets_are_the_papers_recipes() {
        let original = read("paper-a/cifar-original");
        assert_eq!(original.network, Architecture::densenet());
        assert_eq!(original.optimizer, OptimizerKind::Sgd { momentum: 0.9 });
        assert_eq!((original.batch_size, original.epochs, original.shuffle), (64, 100, false));
        assert_eq!((original.weight_decay, &original.normalise), (0.0, &Normalise::Cifar10));
        assert!((original.schedule.factor(90, 100) - 1e-3).abs() < 1e-12);
        let purchase = read("paper-a/purchase-regdrop-50");
        assert_eq!((purchase.network, purchase.batch_size, purchase.learning_rate), (Architecture::fcn(), 32, 5e-4));
        assert_eq!((purchase.weight_decay, purchase.dropout.hidden, purchase.dropout.input), (5e-4, 0.5, 0.0));
        assert_eq!(read("paper-a/cifar-l2-5e-3").weight_decay, 5e-3);
        assert!(read("paper-a/cifar-early-stopping").early_stopping.is_some());
        let private = read("paper-a/purchase-dp");
        let dp = private.dp.unwrap();
        assert_eq!((dp.clip, dp.noise_multiplier, private.batch_size), (1.0, Some(1.0), 128));
        let report = read("cs2980/dropout-smoothing");
        assert_eq!((report.network, report.normalise), (Architecture::MlLeaks, Normalise::EachValue));
        assert_eq!((report.dropout.input, report.dropout.hidden), (0.5, 0.5));
        assert_eq!(report.label_smoothing, Some(LabelSmoothing { epsilon: 0.1, form: SmoothingForm::Others }));
    }
}
