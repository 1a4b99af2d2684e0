//! The layers of each network, from numbers that [`super::check`] let pass.

use super::{Activation, Architecture, Norm, Normalisation};
use crate::lab::network::plan::{Begin, Op, Place, Plan, PlanBuilder, ValueId};

/// The plan of an architecture.
pub(super) fn plan(
    architecture: &Architecture,
    row_shape: &[usize],
    n_classes: usize,
    normalise: Option<&Normalisation>,
) -> Plan {
    let mut builder = PlanBuilder::new(row_shape);
    let mut at = 0;
    if let Some(Normalisation { mean, deviation }) = normalise {
        at = builder.keep(Op::Normalise { mean: mean.clone(), deviation: deviation.clone() }, at);
    }
    at = builder.keep(Op::Dropout(Place::Input), at);
    match architecture {
        Architecture::Cnn { channels, hidden } => {
            for (&n_outputs, side) in channels.iter().zip([5, 3]) {
                at = builder.convolution(at, n_outputs, side, side / 2);
                at = builder.keep(Op::Relu, at);
                at = builder.pool(Op::MaxPool2, at);
            }
            head(builder, at, &[*hidden], Activation::Relu, n_classes)
        }
        Architecture::Mlp { hidden, activation } => head(builder, at, hidden, *activation, n_classes),
        Architecture::Convnet { channels, side, norm, hidden, activation } => {
            for &n_outputs in channels {
                at = builder.convolution(at, n_outputs, *side, side / 2);
                at = normalised(&mut builder, at, *norm);
                at = builder.keep(activation.op(), at);
                at = builder.pool(Op::MaxPool2, at);
            }
            head(builder, at, hidden, *activation, n_classes)
        }
        Architecture::Densenet { depth, growth, compression, norm } => {
            densenet(builder, at, (*depth, *growth, *compression, *norm), n_classes)
        }
        Architecture::Resnet { blocks, width, norm } => resnet(builder, at, blocks, *width, *norm, n_classes),
        Architecture::Resnet9 { width, norm } => resnet9(builder, at, *width, *norm, n_classes),
        Architecture::MlLeaks => ml_leaks(builder, at, n_classes),
    }
}

/// Hidden linear layers, each with an activation and the place of a dropout, and the last linear layer.
fn head(mut builder: PlanBuilder, from: ValueId, hidden: &[usize], activation: Activation, n_classes: usize) -> Plan {
    let mut at = builder.flatten(from);
    for &n_outputs in hidden {
        at = builder.linear(at, n_outputs);
        at = builder.keep(activation.op(), at);
        at = builder.keep(Op::Dropout(Place::Hidden), at);
    }
    builder.linear(at, n_classes);
    builder.finish()
}

fn normalised(builder: &mut PlanBuilder, from: ValueId, norm: Norm) -> ValueId {
    match norm {
        Norm::None => from,
        Norm::Batch => builder.batch_norm(from),
        Norm::Group => {
            let groups = gcd(32, builder.shape(from)[0]);
            builder.group_norm(from, groups)
        }
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// He's normal beginning over the outputs, as the paper's DenseNet has it: deviation √(2 / (side² · outputs)).
fn he(n_outputs: usize, side: usize) -> Begin {
    Begin::Normal((2.0 / (side * side * n_outputs) as f32).sqrt())
}

/// As the paper's code: norm, ReLU, convolution; the dropout stands behind each bottleneck's 3×3 convolution.
fn densenet(
    mut builder: PlanBuilder,
    from: ValueId,
    (depth, growth, compression, norm): (usize, usize, f64, Norm),
    n_classes: usize,
) -> Plan {
    let n_bottlenecks = (depth - 4) / 6;
    let mut at = builder.convolution_with(from, 2 * growth, (3, 1, 1), he(2 * growth, 3), None);
    let activated = |builder: &mut PlanBuilder, from: ValueId| {
        let at = normalised(builder, from, norm);
        builder.keep(Op::Relu, at)
    };
    for block in 0..3 {
        for _ in 0..n_bottlenecks {
            let mut new = activated(&mut builder, at);
            new = builder.convolution_with(new, 4 * growth, (1, 1, 0), he(4 * growth, 1), None);
            new = activated(&mut builder, new);
            new = builder.convolution_with(new, growth, (3, 1, 1), he(growth, 3), None);
            new = builder.keep(Op::Dropout(Place::Hidden), new);
            at = builder.concatenate(at, new);
        }
        if block < 2 {
            let n_outputs = ((builder.shape(at)[0] as f64 * compression) as usize).max(1);
            at = activated(&mut builder, at);
            at = builder.convolution_with(at, n_outputs, (1, 1, 0), he(n_outputs, 1), None);
            at = builder.pool(Op::AveragePool2, at);
        }
    }
    at = activated(&mut builder, at);
    at = builder.global_average_pool(at);
    builder.linear(at, n_classes);
    builder.finish()
}

/// A convolution without bias that keeps the size (divides it by the stride) and begins as torch's do, and its norm.
fn normed(
    builder: &mut PlanBuilder,
    from: ValueId,
    n_outputs: usize,
    (side, stride): (usize, usize),
    norm: Norm,
) -> ValueId {
    let fan_in = builder.shape(from)[0] * side * side;
    let begin = Begin::Uniform(1.0 / (fan_in as f32).sqrt());
    let at = builder.convolution_with(from, n_outputs, (side, stride, side / 2), begin, None);
    normalised(builder, at, norm)
}

/// Basic blocks: convolution, norm, ReLU, convolution, norm, plus the shortcut, ReLU. Where a stage changes the
/// shape, the shortcut is a 1×1 convolution with a norm. Convolutions begin as torch's do.
fn resnet(
    mut builder: PlanBuilder,
    from: ValueId,
    blocks: &[usize],
    width: usize,
    norm: Norm,
    n_classes: usize,
) -> Plan {
    let mut at = normed(&mut builder, from, width, (3, 1), norm);
    at = builder.keep(Op::Relu, at);
    for (stage, &n_blocks) in blocks.iter().enumerate() {
        let n_channels = width << stage;
        for block in 0..n_blocks {
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            let mut new = normed(&mut builder, at, n_channels, (3, stride), norm);
            new = builder.keep(Op::Relu, new);
            new = normed(&mut builder, new, n_channels, (3, 1), norm);
            if builder.shape(at) != builder.shape(new) {
                at = normed(&mut builder, at, n_channels, (1, stride), norm);
            }
            at = builder.add(new, at);
            at = builder.keep(Op::Relu, at);
        }
    }
    at = builder.global_average_pool(at);
    at = builder.keep(Op::Dropout(Place::Hidden), at);
    builder.linear(at, n_classes);
    builder.finish()
}

/// Page's layers: convolution; convolution, pool, residual; convolution, pool; convolution, pool, residual; the
/// largest of what is left of 32×32 (4×4: two pools of 2×2), linear.
fn resnet9(mut builder: PlanBuilder, from: ValueId, width: usize, norm: Norm, n_classes: usize) -> Plan {
    let block = |builder: &mut PlanBuilder, from: ValueId, n_outputs: usize| {
        let at = normed(builder, from, n_outputs, (3, 1), norm);
        builder.keep(Op::Relu, at)
    };
    let mut at = block(&mut builder, from, width);
    for (times, residual) in [(2, true), (4, false), (8, true)] {
        at = block(&mut builder, at, times * width);
        at = builder.pool(Op::MaxPool2, at);
        if residual {
            let new = block(&mut builder, at, times * width);
            let new = block(&mut builder, new, times * width);
            at = builder.add(at, new);
        }
    }
    for _ in 0..2 {
        if builder.shape(at)[1..].iter().all(|&side| side >= 2) {
            at = builder.pool(Op::MaxPool2, at);
        }
    }
    at = builder.flatten(at);
    at = builder.keep(Op::Dropout(Place::Hidden), at);
    builder.linear(at, n_classes);
    builder.finish()
}

/// Glorot's uniform beginning, with gain √2 before a ReLU (Lasagne's `GlorotUniform('relu')`); biases 0.
fn ml_leaks(mut builder: PlanBuilder, from: ValueId, n_classes: usize) -> Plan {
    let glorot =
        |gain: f32, fan_in: usize, fan_out: usize| Begin::Uniform(gain * (6.0 / (fan_in + fan_out) as f32).sqrt());
    let zero = Begin::Constant(0.0);
    let mut at = from;
    for padding in [2, 0] {
        let n_inputs = builder.shape(at)[0];
        let begin = glorot(std::f32::consts::SQRT_2, 25 * n_inputs, 25 * 32);
        at = builder.convolution_with(at, 32, (5, 1, padding), begin, Some(zero));
        at = builder.keep(Op::Relu, at);
        at = builder.pool(Op::MaxPool2, at);
    }
    at = builder.flatten(at);
    let n_inputs = builder.shape(at)[0];
    at = builder.linear_with(at, 128, glorot(1.0, n_inputs, 128), zero);
    at = builder.keep(Op::Tanh, at);
    at = builder.keep(Op::Dropout(Place::Hidden), at);
    builder.linear_with(at, n_classes, glorot(1.0, 128, n_classes), zero);
    builder.finish()
}
