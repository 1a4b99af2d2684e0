//! Batch normalisation as part of the convolution before it: in evaluation both are linear, so one does for two.

use crate::lab::network::plan::{Op, Plan, ValueId};
use crate::lab::network::{NORM_EPSILON, Plain};

/// For each step: the convolution that this batch normalisation can become part of. That is the one right before it,
/// where nothing else looks at its outcome.
pub(super) fn pairs(plan: &Plan) -> Vec<Option<ValueId>> {
    let steps = plan.steps();
    let uses = |value: ValueId| steps.iter().flat_map(|step| &step.inputs).filter(|&&input| input == value).count();
    let partner = |op: &Op, inputs: &[ValueId]| match (op, inputs) {
        (Op::BatchNorm { .. }, &[input]) => {
            (matches!(steps[input].op, Op::Convolution { .. }) && uses(input) == 1).then_some(input)
        }
        _ => None,
    };
    steps.iter().map(|step| partner(&step.op, &step.inputs)).collect()
}

/// The kernel and the bias of both together, computed in f64. `norm` is scale, shift, mean and variance.
pub(super) fn fold(kernel: Plain, bias: Option<Plain>, norm: [Plain; 4]) -> (Plain, Vec<f32>) {
    let [scale, shift, mean, variance] = norm.map(|plain| plain.values);
    let (mut values, mut biases) = (kernel.values, Vec::with_capacity(scale.len()));
    let n_weights = (values.len() / scale.len().max(1)).max(1);
    for (channel, weights) in values.chunks_mut(n_weights).enumerate() {
        let factor = f64::from(scale[channel]) / (f64::from(variance[channel]) + NORM_EPSILON).sqrt();
        weights.iter_mut().for_each(|weight| *weight = (f64::from(*weight) * factor) as f32);
        let bias = bias.as_ref().map_or(0.0, |bias| f64::from(bias.values[channel]));
        biases.push((f64::from(shift[channel]) + (bias - f64::from(mean[channel])) * factor) as f32);
    }
    (Plain { shape: kernel.shape, values }, biases)
}
