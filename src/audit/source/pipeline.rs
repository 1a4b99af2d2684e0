//! Further questions to the pipeline that serves, behind any of the audit's systems.

use ndarray::ArrayD;

use super::QueryError;
use crate::audit::answers::Answers;
use crate::audit::asked::Systems;
use crate::audit::system::{System, SystemKind};
use crate::audit::temperature::Temperature;
use crate::audit::utility::softmax_at;
use crate::defence::{RawScores, offline};
use crate::pipeline::Pipeline;
use crate::tensor::Inputs;

/// Asks systems over the model of a pipeline: one inference serves all.
pub struct PipelineQuerier<'a> {
    pipeline: &'a Pipeline,
    systems: Vec<&'a System>,
    temperature: Option<&'a Temperature>,
    n_asked: u64,
}

impl<'a> PipelineQuerier<'a> {
    /// A querier of `systems`, in that order; `temperature` is the rival's.
    #[must_use]
    pub fn new(pipeline: &'a Pipeline, systems: Vec<&'a System>, temperature: Option<&'a Temperature>) -> Self {
        Self { pipeline, systems, temperature, n_asked: 0 }
    }

    /// Queries made so far.
    #[must_use]
    pub fn n_asked(&self) -> u64 {
        self.n_asked
    }
}

/// One system's answers to scores.
fn answer(system: &System, raw: &RawScores, temperature: Option<&Temperature>) -> Result<Answers, QueryError> {
    let refused = |what: String| QueryError::Refused { what };
    let at = |value| Answers::new(softmax_at(&offline::logits(offline::copy(raw)), value));
    match &system.kind {
        SystemKind::Undefended => Ok(at(1.0)),
        SystemKind::TemperatureScaled => Ok(at(temperature.map_or(1.0, |fitted| fitted.value))),
        SystemKind::Defended(defence) | SystemKind::LabelOnly(defence) => {
            let defended = defence.apply(offline::copy(raw)).map_err(|error| refused(error.to_string()))?;
            Ok(Answers::new(defended.probabilities().mapv(f64::from)))
        }
        SystemKind::Answered { .. } => Err(refused("its answers came from elsewhere".to_owned())),
    }
}

impl Systems for PipelineQuerier<'_> {
    fn ask_all(&mut self, inputs: &ArrayD<f32>) -> Result<Vec<Answers>, QueryError> {
        let refused = |what: String| QueryError::Refused { what };
        let specs = &self.pipeline.description().inputs;
        let [spec] = specs.as_slice() else {
            return Err(refused(format!("the model takes {} inputs, a row fills one", specs.len())));
        };
        let n_rows = inputs.shape().first().copied().unwrap_or(0);
        let inputs = Inputs::from_f32(spec, inputs.clone()).map_err(|error| refused(error.to_string()))?;
        let raw = self.pipeline.raw(&inputs).map_err(|error| refused(error.to_string()))?;
        let answers = self.systems.iter().map(|system| answer(system, &raw, self.temperature));
        let answers = answers.collect::<Result<Vec<_>, _>>()?;
        self.n_asked += n_rows as u64;
        Ok(answers)
    }

    fn n_left(&self) -> Option<u64> {
        None
    }
}
