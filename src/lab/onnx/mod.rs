//! From a network to an ONNX file: opset 17, a dynamic batch, logits out.
//!
//! burn exports no ONNX; the message types of `onnx.proto` come with tract, and the operators of a plan need no more.
//! The last operator is `Gemm`, by which the engine knows that the output holds logits (R2). A second output with the
//! penultimate features is for the offline side: the file then says itself which output holds the scores, and the
//! server serves no other.

mod fold;
mod graph;
pub mod join;
mod proto;
#[cfg(test)]
mod tests;

use anyhow::{Context, bail};
use ndarray::{Array2, ArrayD};
use prost::Message;
use tract_onnx::pb::{GraphProto, ModelProto, OperatorSetIdProto, StringStringEntryProto};
use tract_onnx::prelude::{Framework, InferenceModelExt, IntoRunnable, IntoTValue, Tensor, tvec};

use self::graph::Builder;
use self::proto::value;
use super::network::Network;
use crate::engine::inspect::{LABELS_KEY, SCORE_OUTPUT_KEY};

const IR_VERSION: i64 = 8;
const OPSET: i64 = 17;

/// The name of the output.
pub const OUTPUT: &str = "logits";

/// The name of the second output, where it is asked for. (`features` is the input of networks for tables.)
pub const FEATURES: &str = "penultimate_features";

/// What an exported graph is to be like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Export {
    /// Whether the penultimate features (the paper's latent features) are a second output.
    pub features: bool,
    /// Whether a batch normalisation right behind a convolution becomes part of that convolution. Without it every one
    /// is an operator of its own; engines fold them at load.
    pub fold_batch_norm: bool,
}

/// The name of the input: `image` for rows of shape `[channels, height, width]`, else `features`.
#[must_use]
pub fn input_name(row_shape: &[usize]) -> &'static str {
    if row_shape.len() == 3 { "image" } else { "features" }
}

/// The bytes of an ONNX model that runs `network` as in evaluation: dropout is left out, statistics are those that the
/// training followed, the softmax is not part of it.
///
/// # Shapes
///
/// Input `(N, row_shape…)`, output `logits` `(N, class_names.len())`, both `f32`; with [`Export::features`] a second
/// output [`FEATURES`], `(N, n_penultimate)`: what goes into the last linear layer.
#[must_use]
pub fn export(network: &Network, class_names: &[String], options: Export) -> Vec<u8> {
    let plan = network.plan();
    let mut builder = Builder::new(network, options.fold_batch_norm);
    for at in 0..plan.steps().len() {
        builder.push(at);
    }
    let mut output = vec![value(OUTPUT, &[class_names.len()])];
    let entry = |key: &str, value: String| StringStringEntryProto { key: key.to_owned(), value };
    let labels = serde_json::to_string(class_names).expect("names are plain text");
    let mut metadata_props = vec![entry(LABELS_KEY, labels)];
    if options.features {
        builder.copy(plan.features(), FEATURES);
        output.push(value(FEATURES, &plan.steps()[plan.features()].shape));
        metadata_props.push(entry(SCORE_OUTPUT_KEY, OUTPUT.to_owned()));
    }
    let input = vec![value(input_name(plan.row_shape()), plan.row_shape())];
    let (node, initializer) = builder.finish();
    let graph = GraphProto { name: "classifier".to_owned(), input, output, node, initializer, ..GraphProto::default() };
    ModelProto {
        ir_version: IR_VERSION,
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: OPSET }],
        producer_name: "sordino".to_owned(),
        producer_version: env!("CARGO_PKG_VERSION").to_owned(),
        graph: Some(graph),
        metadata_props,
        ..ModelProto::default()
    }
    .encode_to_vec()
}

/// The largest difference between a score of the exported graph, run by tract, and the network's own.
///
/// # Shapes
///
/// `rows` `(n_rows, row_shape…)`, `logits` `(n_rows, n_classes)`.
///
/// # Errors
///
/// When the graph cannot be run, gives another shape, or numbers that are not finite.
pub fn disagreement(model: &[u8], rows: &ArrayD<f32>, logits: &Array2<f32>) -> anyhow::Result<f32> {
    let graph = ModelProto::decode(model).context("an ONNX model")?;
    let named = graph.metadata_props.iter().find(|entry| entry.key == SCORE_OUTPUT_KEY).map(|entry| &entry.value);
    let first = || graph.graph.as_ref().and_then(|graph| graph.output.first()).map(|output| &output.name);
    let output = named.or_else(first).context("an output")?;
    distance(&run(model, rows, output)?, logits)
}

/// What tract gives for an output of a model, by name.
fn run(model: &[u8], rows: &ArrayD<f32>, output: &str) -> anyhow::Result<ArrayD<f32>> {
    let values = rows.as_slice().context("rows that lie in one piece")?;
    let input = Tensor::from_shape(rows.shape(), values)?;
    let model = tract_onnx::onnx().model_for_read(&mut &model[..])?.with_outputs_by_name([output])?;
    let outputs = model.into_optimized()?.into_runnable()?.run(tvec!(input.into_tvalue()))?;
    Ok(outputs.first().context("an output")?.to_plain_array_view::<f32>()?.to_owned())
}

/// The largest difference of two answers.
fn distance(got: &ArrayD<f32>, expected: &Array2<f32>) -> anyhow::Result<f32> {
    if got.shape() != expected.shape() {
        bail!("the exported graph gives values of shape {:?}, expected {:?}", got.shape(), expected.shape());
    }
    let apart = got.iter().zip(expected).map(|(a, b)| (a - b).abs());
    apart.into_iter().try_fold(0.0f32, |worst, apart| {
        if !apart.is_finite() {
            bail!("the exported graph or the network gives a number that is not finite");
        }
        Ok(worst.max(apart))
    })
}
