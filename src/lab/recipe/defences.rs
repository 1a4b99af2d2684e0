//! What is changed about a training so that the model says less about its rows, each with its formula and source.
//!
//! Notation: a row's logits `z`, its softmax `p`, its target `t` (a class distribution), `K` classes. All of them may
//! be combined; the order in which they touch a batch is: rows (curriculum), values (augmentation), values and
//! targets (mixup), loss (smoothing and distillation in the target, confidence penalty), mean of the batch (RelaxLoss).

use serde::{Deserialize, Serialize};

/// Rates of dropout by place.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DropoutRates {
    /// On the rows (the CS2980 report).
    #[serde(default)]
    pub input: f64,
    /// Behind hidden activations (the paper's RegDrop; the report's second place).
    #[serde(default)]
    pub hidden: f64,
}

/// Mass that is moved away from the true class.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelSmoothing {
    /// How much.
    pub epsilon: f64,
    /// To whom.
    #[serde(default)]
    pub form: SmoothingForm,
}

/// Who gets the mass of a label smoothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SmoothingForm {
    /// All classes alike, ε/K each, the true one too (the paper).
    #[default]
    All,
    /// The other classes, ε/(K − 1) each (the CS2980 report: .9 and .1/(K − 1)).
    Others,
}

/// The training ends when the validation rows have not become better for some epochs, and the weights of the best
/// epoch are kept (of equally good ones the first). It needs validation rows, and those are never test rows: the
/// paper's code chose its epoch on the very rows that its attack took for non-members.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EarlyStopping {
    /// Epochs without a better one before the training ends; at least 1.
    pub patience: usize,
    /// What is to become better.
    #[serde(default)]
    pub by: StopBy,
}

/// What early stopping looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StopBy {
    /// The mean cross-entropy of the validation rows: lower is better.
    #[default]
    Loss,
    /// The share of validation rows labelled right: higher is better.
    Accuracy,
}

/// Each image of a batch is changed at random, each time anew: flipped, then scaled and rotated about its centre,
/// then shifted; bilinear between pixels, zero outside.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Augmentation {
    /// Left and right are swapped with probability ½.
    pub flip: bool,
    /// Shifted by a whole number of pixels, uniform in ± this, both ways.
    pub shift: usize,
    /// Rotated by an angle in degrees, uniform in ± this.
    pub rotate: f64,
    /// Enlarged by a factor, uniform in 1 ± this.
    pub scale: f64,
}

/// Zhang et al. 2018: each row of a batch is mixed with another one, `λ x_i + (1 − λ) x_j` with the target
/// `λ t_i + (1 − λ) t_j`; `λ ~ Beta(α, α)` is drawn once a batch and the partner by a permutation of it, as in the
/// authors' code. Reported accuracy counts the label of the larger share.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mixup {
    /// `α`.
    pub alpha: f64,
}

/// Bengio et al. 2009, with the pacing of Hacohen and Weinshall 2019: epoch `e` (from 0) sees, of each class, the
/// easiest share `g(e) = min(1, start + (1 − start) · e / epochs)` of the rows, at least one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Curriculum {
    /// What makes a row hard.
    pub score: Difficulty,
    /// The share of the first epoch.
    #[serde(default = "third")]
    pub start: f64,
    /// The first epoch, from 0, that sees all rows.
    pub epochs: usize,
}

fn third() -> f64 {
    1.0 / 3.0
}

/// What makes a row hard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Difficulty {
    /// The Euclidean distance of its values, as they are before any normalisation, to the mean of its class over the
    /// training rows.
    CentroidDistance,
    /// Its loss under a model that was trained before; whoever starts the training gives the losses.
    Loss,
    /// A number from elsewhere, higher for harder rows; whoever starts the training gives the numbers.
    Given,
}

/// Chen, Yu and Fritz 2022, as in the authors' code. With `L` the batch's mean loss: in even epochs (from 0)
/// `|L − α|` is made small, that is, gradient ascent where `L < α`. In odd epochs `L` where `L > α`, and else the
/// posterior is flattened: the mean of `[ŷ ≠ y] · CE(q, p) − CE(t, p)` with `q_y = min(p_y, upper)` and
/// `q_k = (1 − q_y) / (K − 1)` for the others; gradients flow through `q` too.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RelaxLoss {
    /// The mean loss that is aimed at, in nats.
    pub alpha: f64,
    /// The largest posterior of the true class that a flattened target has.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub upper: f64,
}

/// Hinton, Vinyals and Dean 2015: `(1 − w) · CE(t, softmax(z)) + w T² · CE(q, softmax(z / T))`, where `q ∝ a^(1/T)`
/// softens the teacher's answers `a`. A teacher without this entry is learned alone: `w = 1`, `T = 1`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Distillation {
    /// `T`.
    #[serde(default = "one")]
    pub temperature: f64,
    /// `w`.
    #[serde(default = "one")]
    pub weight: f64,
}

impl Default for Distillation {
    fn default() -> Self {
        Self { temperature: 1.0, weight: 1.0 }
    }
}

fn one() -> f64 {
    1.0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's form")]
fn is_one(value: &f64) -> bool {
    *value == 1.0
}
