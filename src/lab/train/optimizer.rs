//! burn's optimizers behind one type, with torch's constants, and weight decay apart from the gradient.

use burn::module::{Module, ModuleMapper, Param};
use burn::optim::adaptor::OptimizerAdaptor;
use burn::optim::decay::WeightDecayConfig;
use burn::optim::momentum::MomentumConfig;
use burn::optim::{Adam, AdamConfig, GradientsParams, Optimizer as _, Sgd, SgdConfig};
use burn::tensor::Tensor;

use crate::lab::Compute;
use crate::lab::network::Weights;
use crate::lab::recipe::{OptimizerKind, Recipe};

/// Adam's epsilon: torch's default. burn's own is a thousand times larger, which changes what is learned.
const ADAM_EPSILON: f32 = 1e-8;

type AdamOf = OptimizerAdaptor<Adam, Weights<Compute>, Compute>;
type SgdOf = OptimizerAdaptor<Sgd<Compute>, Weights<Compute>, Compute>;
type RecordOf<O> = <O as burn::optim::Optimizer<Weights<Compute>, Compute>>::Record;

/// The state of an optimizer on disk: that of one kind, none of the other.
pub(in crate::lab) type OptimizerRecord = (Option<RecordOf<AdamOf>>, Option<RecordOf<SgdOf>>);

/// An optimizer with its state.
#[derive(Clone)]
pub(super) enum Optimizer {
    Adam(AdamOf),
    Sgd(SgdOf),
}

impl Optimizer {
    pub(super) fn new(recipe: &Recipe) -> Self {
        let decay = (recipe.weight_decay > 0.0).then(|| WeightDecayConfig::new(recipe.weight_decay as f32));
        match recipe.optimizer {
            OptimizerKind::Adam => {
                Self::Adam(AdamConfig::new().with_epsilon(ADAM_EPSILON).with_weight_decay(decay).init())
            }
            OptimizerKind::Sgd { momentum } => {
                let momentum = (momentum > 0.0).then_some(MomentumConfig { momentum, dampening: 0.0, nesterov: false });
                Self::Sgd(SgdConfig::new().with_momentum(momentum).with_weight_decay(decay).init())
            }
        }
    }

    /// One step; `shrink` is taken off the weights first (decoupled weight decay).
    pub(super) fn step(
        &mut self,
        learning_rate: f64,
        shrink: f64,
        weights: Weights<Compute>,
        gradients: GradientsParams,
    ) -> Weights<Compute> {
        let weights = if shrink > 0.0 { weights.map(&mut Shrink(1.0 - shrink)) } else { weights };
        match self {
            Self::Adam(adam) => adam.step(learning_rate, weights, gradients),
            Self::Sgd(sgd) => sgd.step(learning_rate, weights, gradients),
        }
    }

    pub(super) fn to_record(&self) -> OptimizerRecord {
        match self {
            Self::Adam(adam) => (Some(adam.to_record()), None),
            Self::Sgd(sgd) => (None, Some(sgd.to_record())),
        }
    }

    /// The optimizer with a saved state; a state of the other kind leaves it as it is.
    pub(super) fn load_record(self, record: OptimizerRecord) -> Self {
        match (self, record) {
            (Self::Adam(adam), (Some(record), _)) => Self::Adam(adam.load_record(record)),
            (Self::Sgd(sgd), (_, Some(record))) => Self::Sgd(sgd.load_record(record)),
            (same, _) => same,
        }
    }
}

/// Multiplies what is learned; running statistics stay.
struct Shrink(f64);

impl ModuleMapper<Compute> for Shrink {
    fn map_float<const D: usize>(&mut self, parameter: Param<Tensor<Compute, D>>) -> Param<Tensor<Compute, D>> {
        if !parameter.is_require_grad() {
            return parameter;
        }
        parameter.map(|values| Tensor::from_inner(values.inner() * self.0).require_grad())
    }
}
