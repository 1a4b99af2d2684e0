//! What a run record says of differential privacy.

use serde::{Deserialize, Serialize};

use super::config::{Privacy, Terms};
use crate::lab::accountant::{self, AccountantError};

/// What a private training has spent, and what that means.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrivacyRecord {
    /// ε of the steps that are accounted for.
    pub epsilon: f64,
    /// δ.
    pub delta: f64,
    /// The Rényi order that gave ε; absent when no step was done.
    pub order: Option<f64>,
    /// Steps done, over all sittings.
    pub steps: u64,
    /// Steps that ε accounts for: those done, and all that were planned where the training itself chose when to stop.
    pub steps_accounted: u64,
    /// The probability with which a row entered a step.
    pub sampling_rate: f64,
    /// σ: the noise's standard deviation over the clipping norm.
    pub noise_multiplier: f64,
    /// The norm that each row's gradient was clipped to.
    pub clip: f64,
    /// Which accountant said so.
    pub accountant: String,
    /// What neighbouring sets of rows differ in.
    pub adjacency: String,
    /// How rows entered a step.
    pub sampling: String,
    /// Whether runs that chose the settings are covered: never.
    pub covers_hyperparameter_search: bool,
    /// Whether the noise came from a secret; if not, whoever knows the seed can draw it again.
    pub secret_noise: bool,
    /// What else a reader must know.
    pub notes: Vec<String>,
}

impl PrivacyRecord {
    /// The record after `steps` steps; `planned` are those that were planned, where the training chose when to stop. The
    /// moment follows from the run then, and ε at such a moment would not be one of the whole mechanism.
    ///
    /// # Errors
    ///
    /// When the terms are out of range.
    pub fn new(
        privacy: &Privacy,
        terms: &Terms,
        steps: u64,
        planned: Option<u64>,
        notes: Vec<String>,
    ) -> Result<Self, AccountantError> {
        let steps_accounted = planned.map_or(steps, |planned| planned.max(steps));
        let spent = accountant::spent(terms.noise_multiplier, terms.sampling_rate, steps_accounted, terms.delta)?;
        let secret_noise = privacy.key_digest.is_some();
        let mut notes = notes;
        notes.push("epsilon speaks of the model; this record's figures on training rows are outside of it".to_owned());
        if !secret_noise {
            let note = "samples and noise were drawn from the seed in this record: epsilon holds only against those \
                        who do not know it";
            notes.push(note.to_owned());
        }
        if planned.is_some() {
            notes.push("all planned epochs are accounted for, since when it stopped followed from the run".to_owned());
        }
        notes.extend(terms.delta_warning());
        notes.extend(Terms::epsilon_warning(spent.epsilon));
        notes.extend(spent.warning());
        Ok(Self {
            epsilon: spent.epsilon,
            delta: spent.delta,
            order: spent.order.is_finite().then_some(spent.order),
            steps,
            steps_accounted,
            sampling_rate: terms.sampling_rate,
            noise_multiplier: terms.noise_multiplier,
            clip: terms.clip,
            accountant: accountant::NAME.to_owned(),
            adjacency: accountant::ADJACENCY.to_owned(),
            sampling: accountant::SAMPLING.to_owned(),
            covers_hyperparameter_search: false,
            secret_noise,
            notes,
        })
    }

    /// A paragraph for the model card.
    #[must_use]
    pub fn card(&self) -> String {
        let mut text = format!(
            "The training was differentially private: ε = {:.3} at δ = {:.2e} for one row added or removed ({} steps, \
             each row in a step with probability {:.3e}, gradients clipped to {} and noise of {:.4} times that on their \
             sum; Rényi accountant). It covers this one run and not the runs that chose its settings. ",
            self.epsilon, self.delta, self.steps_accounted, self.sampling_rate, self.clip, self.noise_multiplier
        );
        for note in &self.notes {
            let mut letters = note.chars();
            let first = letters.next().map(|first| first.to_uppercase().collect::<String>()).unwrap_or_default();
            text += &format!("{first}{}. ", letters.as_str());
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
        text
    }
}
