//! Further questions to the pipeline that serves, behind any of the audit's systems.

use ndarray::ArrayD;

use super::{Querier, QueryError};
use crate::audit::answers::Answers;
use crate::audit::system::{System, SystemKind};
use crate::audit::temperature::Temperature;
use crate::audit::utility::softmax_at;
use crate::defence::offline;
use crate::pipeline::Pipeline;
use crate::tensor::Inputs;

/// Asks one system over the model of a pipeline.
pub struct PipelineQuerier<'a> {
    pipeline: &'a Pipeline,
    system: &'a System,
    temperature: Option<&'a Temperature>,
    n_asked: u64,
}

impl<'a> PipelineQuerier<'a> {
    /// A querier of `system`; `temperature` is the rival's.
    #[must_use]
    pub fn new(pipeline: &'a Pipeline, system: &'a System, temperature: Option<&'a Temperature>) -> Self {
        Self { pipeline, system, temperature, n_asked: 0 }
    }
}

impl Querier for PipelineQuerier<'_> {
    fn ask(&mut self, inputs: &ArrayD<f32>) -> Result<Answers, QueryError> {
        let refused = |what: String| QueryError::Refused { what };
        let specs = &self.pipeline.description().inputs;
        let [spec] = specs.as_slice() else {
            return Err(refused(format!("the model takes {} inputs, a row fills one", specs.len())));
        };
        let n_rows = inputs.shape().first().copied().unwrap_or(0);
        let inputs = Inputs::from_f32(spec, inputs.clone()).map_err(|error| refused(error.to_string()))?;
        let raw = self.pipeline.raw(&inputs).map_err(|error| refused(error.to_string()))?;
        let answers = match &self.system.kind {
            SystemKind::Undefended => Answers::new(softmax_at(&offline::logits(raw), 1.0)),
            SystemKind::TemperatureScaled => {
                let value = self.temperature.map_or(1.0, |fitted| fitted.value);
                Answers::new(softmax_at(&offline::logits(raw), value))
            }
            SystemKind::Defended(defence) | SystemKind::LabelOnly(defence) => {
                let defended = defence.apply(raw).map_err(|error| refused(error.to_string()))?;
                Answers::new(defended.probabilities().mapv(f64::from))
            }
            SystemKind::Answered { .. } => return Err(refused("its answers came from elsewhere".to_owned())),
        };
        self.n_asked += n_rows as u64;
        Ok(answers)
    }

    fn n_asked(&self) -> u64 {
        self.n_asked
    }

    fn n_left(&self) -> Option<u64> {
        None
    }
}
