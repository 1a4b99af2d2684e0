//! What a defence is asked to do: settings as written, and what is wrong with them.

use serde::{Deserialize, Serialize};

use super::scores::ScoreKind;

/// The most digits that R6 can round to: up to here, every count of units is a distinct f32.
pub const MAX_DIGITS: u8 = 6;

/// The largest weight (R4, R9) that is served: above it an answer holds more of the row's own scores than of what they
/// are blended with.
pub const MAX_SERVED_WEIGHT: f64 = 0.5;

/// A defence as configured: one method, then the mask (R5) and the rounding (R6).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DefenceConfig {
    /// What is done to the logits.
    pub method: Method,
    /// Keep the `k` largest probabilities, the label's first (R5). At least 1; none: keep all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_k: Option<usize>,
    /// Round to this many decimal digits (R6), 1 to 6; none: f32 as it comes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digits: Option<u8>,
}

impl Default for DefenceConfig {
    /// The paper's defence, then the three largest probabilities.
    fn default() -> Self {
        Self { method: Method::Reweight { weight: 0.1, when: Gate::Always }, top_k: Some(3), digits: None }
    }
}

/// What is done to a row's logits (one of them: R7).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Method {
    /// R4, the paper's §6.2: `s·z + (1−s)·c_ŷ` with `s = clamp(weight·cos(z, c_ŷ), 0, 1)`.
    Reweight {
        /// `w` in [0, 1]; the paper's code has 0.1.
        weight: f64,
        /// Which rows are reweighted.
        #[serde(default)]
        when: Gate,
    },
    /// R9: as R4, towards the nearest row of the predicted class that lies inside the `quantile` of distance
    /// to the centroid. The answer then resembles that training row's.
    Inlier {
        /// `w` in [0, 1].
        weight: f64,
        /// Quantile in (0, 1] of the training rows' cosine distance; rows farther out are never blended in.
        quantile: f64,
    },
    /// Probability 1 for the label, 0 for the rest.
    LabelOnly,
    /// The model's own logits, so that a mask or rounding alone can be audited beside the other methods. Never served.
    AsIs,
}

/// Which rows R4 touches.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Gate {
    /// Every row.
    #[default]
    Always,
    /// Only rows whose cosine distance to the centroid of their label is above that quantile of the training
    /// rows' distances. The gate is then part of what an attacker sees.
    DistanceAbove {
        /// In [0, 1).
        quantile: f64,
    },
}

/// Why a defence cannot be built from its settings and artifact.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum DefenceError {
    /// `weight` is outside of [0, 1] or no number.
    #[error("defence: weight must be between 0 and 1, got {got}")]
    Weight {
        /// What was given.
        got: f64,
    },
    /// A quantile is outside of [0, 1) for a gate, of (0, 1] for the inlier method, or no number.
    #[error("defence: quantile must be between 0 and 1 (below 1 for a gate, above 0 for the inlier method), got {got}")]
    Quantile {
        /// What was given.
        got: f64,
    },
    /// `top_k` is 0.
    #[error("defence: top_k must be at least 1, got 0")]
    TopK,
    /// `digits` is 0 or above [`MAX_DIGITS`].
    #[error("defence: digits must be between 1 and {MAX_DIGITS}, got {got}")]
    Digits {
        /// What was given.
        got: u8,
    },
    /// The method needs an artifact and none was given.
    #[error("defence: the {method} method needs a centroid file, none was given")]
    NeedsArtifact {
        /// The method's name.
        method: &'static str,
    },
    /// The artifact is about another number of classes.
    #[error("defence: the model has {model} classes, the centroid file has {artifact}")]
    Classes {
        /// Classes of the model.
        model: usize,
        /// Classes of the artifact.
        artifact: usize,
    },
    /// The artifact was fitted on another kind of scores (R2).
    #[error("defence: the model's scores are {model}, the centroid file was fitted on {artifact}")]
    Kind {
        /// Kind of the model.
        model: ScoreKind,
        /// Kind of the artifact.
        artifact: ScoreKind,
    },
    /// The model's own scores without a mask or rounding are no defence.
    #[error("defence: the method as-is needs top_k or digits: without them nothing is defended")]
    Nothing,
    /// The model's own scores behind a mask or rounding alone.
    #[error("defence: the method as-is moves no score: it can be audited, not served")]
    MovesNothing,
    /// A gate leaves rows as they are and no rounding follows: such answers are undefended (a mask alone can be
    /// inverted, or tells what it keeps).
    #[error(
        "defence: a gate (when = distance-above) leaves rows inside of the quantile as they are: it can be audited, and \
         served only with digits"
    )]
    LetsRowsPass,
    /// A weight that keeps most of a row's own scores.
    #[error(
        "defence: a weight of {weight} keeps most of a row's own scores: it can be audited, and served only up to \
         {MAX_SERVED_WEIGHT}"
    )]
    KeepsScores {
        /// The weight.
        weight: f64,
    },
    /// The inlier method found no row of a class inside the quantile.
    #[error("defence: the centroid file has no inlier row of class {class} inside quantile {quantile}")]
    NoInlier {
        /// The class index.
        class: usize,
        /// The quantile asked for.
        quantile: f64,
    },
}

impl DefenceConfig {
    /// Checks every setting on its own.
    ///
    /// # Errors
    /// The list of all that is wrong, in the order of the fields.
    pub fn check(&self) -> Result<(), Vec<DefenceError>> {
        let mut wrong = Vec::new();
        let unit = |value: f64| (0.0..=1.0).contains(&value);
        match self.method {
            Method::Reweight { weight, when } => {
                if !unit(weight) {
                    wrong.push(DefenceError::Weight { got: weight });
                }
                if let Gate::DistanceAbove { quantile } = when
                    && !(0.0..1.0).contains(&quantile)
                {
                    wrong.push(DefenceError::Quantile { got: quantile });
                }
            }
            Method::Inlier { weight, quantile } => {
                if !unit(weight) {
                    wrong.push(DefenceError::Weight { got: weight });
                }
                if !unit(quantile) || quantile == 0.0 {
                    wrong.push(DefenceError::Quantile { got: quantile });
                }
            }
            Method::LabelOnly => {}
            Method::AsIs => {
                if self.top_k.is_none() && self.digits.is_none() {
                    wrong.push(DefenceError::Nothing);
                }
            }
        }
        if self.top_k == Some(0) {
            wrong.push(DefenceError::TopK);
        }
        if let Some(got) = self.digits.filter(|digits| !(1..=MAX_DIGITS).contains(digits)) {
            wrong.push(DefenceError::Digits { got });
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }

    /// The defence in a few words, as metadata and tables show it.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut text = match self.method {
            Method::Reweight { weight, when: Gate::Always } => format!("reweight w={weight}"),
            Method::Reweight { weight, when: Gate::DistanceAbove { quantile } } => {
                format!("reweight w={weight} when distance>q{quantile}")
            }
            Method::Inlier { weight, quantile } => format!("inlier w={weight} q={quantile}"),
            Method::LabelOnly => "label-only".to_owned(),
            Method::AsIs => "as-is".to_owned(),
        };
        if let Some(k) = self.top_k {
            text.push_str(&format!(" + top-{k}"));
        }
        if let Some(digits) = self.digits {
            text.push_str(&format!(" + {digits} digits"));
        }
        text
    }
}
