//! What a network does to its rows first, and how a recipe writes it: a word, or a table of constants.

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde::ser::{Serialize, Serializer};

use crate::lab::network::Normalisation;

/// What the network does to rows before anything else; it is part of the exported graph.
///
/// In a file: `"none"`, `"cifar10"`, `"training-rows"`, `"each-value"`, or a table with the lists `mean` and
/// `deviation`.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Normalise {
    /// Nothing.
    #[default]
    None,
    /// With the mean and deviation of CIFAR-10's channels that the paper's code has: (.4914, .4822, .4465) and (.2023,
    /// .1994, .2010).
    Cifar10,
    /// With mean and deviation of each channel (of tables: of each feature) over the training rows.
    TrainingRows,
    /// With mean and deviation of each value over the training rows, deviations not below 1/255 (the CS2980 report).
    EachValue,
    /// With these constants.
    Constants(Normalisation),
}

impl Normalise {
    /// The words that stand for a form, and the forms.
    pub const WORDS: [(&str, Self); 4] = [
        ("none", Self::None),
        ("cifar10", Self::Cifar10),
        ("training-rows", Self::TrainingRows),
        ("each-value", Self::EachValue),
    ];

    /// The constants where they do not depend on the rows.
    #[must_use]
    pub fn constants(&self) -> Option<Normalisation> {
        match self {
            Self::None | Self::TrainingRows | Self::EachValue => None,
            Self::Cifar10 => {
                Some(Normalisation { mean: vec![0.4914, 0.4822, 0.4465], deviation: vec![0.2023, 0.1994, 0.2010] })
            }
            Self::Constants(constants) => Some(constants.clone()),
        }
    }

    fn word(&self) -> Option<&'static str> {
        Self::WORDS.iter().find(|(_, form)| form == self).map(|(word, _)| *word)
    }
}

impl std::str::FromStr for Normalise {
    type Err = String;

    fn from_str(given: &str) -> Result<Self, String> {
        let form = Self::WORDS.into_iter().find(|(word, _)| *word == given).map(|(_, form)| form);
        form.ok_or_else(|| {
            let words = Self::WORDS.map(|(word, _)| word).join(", ");
            format!("expected one of {words}, got {given:?}")
        })
    }
}

impl Serialize for Normalise {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match (self, self.word()) {
            (Self::Constants(constants), _) => constants.serialize(serializer),
            (_, word) => serializer.serialize_str(word.unwrap_or("none")),
        }
    }
}

impl<'de> Deserialize<'de> for Normalise {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;

        impl<'de> Visitor<'de> for Form {
            type Value = Normalise;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a word, or a table with the lists 'mean' and 'deviation'")
            }

            fn visit_str<E: de::Error>(self, word: &str) -> Result<Normalise, E> {
                word.parse().map_err(E::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Normalise, A::Error> {
                Normalisation::deserialize(MapAccessDeserializer::new(map)).map(Normalise::Constants)
            }
        }

        deserializer.deserialize_any(Form)
    }
}
