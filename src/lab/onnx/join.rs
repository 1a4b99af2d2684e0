//! Several exported graphs as one: the same input, the members side by side, one answer.
//!
//! | how | graph behind the members | what the engine reads of it (R2) |
//! | --- | --- | --- |
//! | [`Combine::MeanLogits`] | `Mean` | logits: linear in linear outputs |
//! | [`Combine::MeanProbabilities`] | `Softmax` each, `Mean`, `Clip`, `Log`, `LogSoftmax` | log-probabilities: the last operator |
//! | [`Combine::Stack`] | `Concat`, `Gemm` | logits |
//!
//! The logarithm of a mean of softmaxes sums to one already, so that the last `LogSoftmax` changes nothing but the
//! rounding: it is there to say what the values are. Not responsible for which members belong together, nor for
//! fitting the stacking layer.

use std::collections::BTreeSet;

use anyhow::{Context, bail, ensure};
use prost::Message;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto};

use super::{OUTPUT, int, to_i64, value};

/// The name of the output where it holds log-probabilities.
pub const LOG_PROBABILITIES: &str = "log_probabilities";

/// Mean probabilities are not taken for less: the logarithm of zero is no number.
const FLOOR: f32 = 1e-30;

/// No more models are joined.
const MAX_MODELS: usize = 4096;

/// How the answers of the members become one.
#[derive(Debug, Clone, PartialEq)]
pub enum Combine {
    /// The mean of the logits (the geometric mean of the probabilities, normalised).
    MeanLogits,
    /// The mean of the probabilities.
    MeanProbabilities,
    /// A linear layer over the members' logits, one after the other.
    Stack(Stacking),
}

/// A linear layer over the logits of all members.
#[derive(Debug, Clone, PartialEq)]
pub struct Stacking {
    /// `(n_models · n_classes, n_classes)`, row-major.
    pub weight: ndarray::Array2<f32>,
    /// One number a class.
    pub bias: ndarray::Array1<f32>,
}

/// Joins models into one.
///
/// Every member must be a graph with one input and with logits as its first output, as [`super::export`] writes them: the same
/// input (name, type, shape), the same number of classes, the same operator set and metadata.
///
/// # Errors
///
/// When there are no models or too many, they differ in what must be alike, or the stacking layer is of another shape.
pub fn join(models: &[Vec<u8>], combine: &Combine) -> anyhow::Result<Vec<u8>> {
    ensure!((1..=MAX_MODELS).contains(&models.len()), "expected 1 to {MAX_MODELS} models, got {}", models.len());
    let decode = |(place, bytes): (usize, &Vec<u8>)| {
        ModelProto::decode(bytes.as_slice()).with_context(|| format!("model {place} is no ONNX model"))
    };
    let mut models = models.iter().enumerate().map(decode).collect::<anyhow::Result<Vec<_>>>()?;
    let (first, rest) = models.split_first_mut().context("at least one model")?;
    let face = Face::of(first).context("model 0")?;
    let mut joined =
        GraphProto { name: "ensemble".to_owned(), input: vec![face.input.clone()], ..GraphProto::default() };
    let mut outputs = Vec::new();
    for (place, model) in std::iter::once(&mut *first).chain(rest).enumerate() {
        let other = Face::of(model).with_context(|| format!("model {place}"))?;
        face.expect_alike(&other).with_context(|| format!("model {place} and model 0"))?;
        let graph = model.graph.take().unwrap_or_default();
        outputs.push(adopt(&mut joined, graph, &format!("model_{place}."), &face.input.name)?);
    }
    let mut build = Build { graph: joined, n_classes: face.n_classes };
    let output = match combine {
        Combine::MeanLogits => build.mean(outputs, OUTPUT),
        Combine::MeanProbabilities => build.mean_probabilities(outputs),
        Combine::Stack(stacking) => build.stack(outputs, stacking)?,
    };
    build.graph.output = vec![value(output, &[face.n_classes])];
    let shell = models.swap_remove(0);
    Ok(ModelProto { graph: Some(build.graph), ..shell }.encode_to_vec())
}

/// What members must have in common.
#[derive(Debug, Clone, PartialEq)]
struct Face {
    input: ValueInfoProto,
    n_classes: usize,
    opset: Vec<(String, i64)>,
    labels: Vec<(String, String)>,
}

impl Face {
    fn of(model: &ModelProto) -> anyhow::Result<Self> {
        let graph = model.graph.as_ref().context("expected a graph, got none")?;
        let initialised = |name: &str| graph.initializer.iter().any(|tensor| tensor.name == name);
        let inputs: Vec<&ValueInfoProto> = graph.input.iter().filter(|input| !initialised(&input.name)).collect();
        let [input] = inputs[..] else { bail!("expected one input, got {}", inputs.len()) };
        let output = graph.output.first().context("expected an output, got none")?;
        let n_classes = n_classes(output).context("expected an output of shape (N, classes)")?;
        ensure!(model.functions.is_empty(), "expected a graph without functions of its own");
        ensure!(
            graph.node.iter().all(|node| node.attribute.iter().all(|a| a.g.is_none() && a.graphs.is_empty())),
            "expected a graph without graphs inside of its operators"
        );
        Ok(Self {
            input: input.clone(),
            n_classes,
            opset: model.opset_import.iter().map(|set| (set.domain.clone(), set.version)).collect(),
            labels: model.metadata_props.iter().map(|entry| (entry.key.clone(), entry.value.clone())).collect(),
        })
    }

    fn expect_alike(&self, other: &Self) -> anyhow::Result<()> {
        for (what, differ) in [
            ("inputs (name, type and shape)", self.input != other.input),
            ("numbers of classes", self.n_classes != other.n_classes),
            ("operator sets", self.opset != other.opset),
            ("class names", self.labels != other.labels),
        ] {
            ensure!(!differ, "expected the same {what}, got different ones");
        }
        Ok(())
    }
}

fn n_classes(output: &ValueInfoProto) -> Option<usize> {
    use tract_onnx::pb::tensor_shape_proto::dimension::Value;
    use tract_onnx::pb::type_proto::Value::TensorType;
    let TensorType(tensor) = output.r#type.as_ref()?.value.as_ref()?;
    match tensor.shape.as_ref()?.dim.as_slice() {
        [_, classes] => match classes.value.as_ref()? {
            Value::DimValue(size) => usize::try_from(*size).ok().filter(|&n| n > 0),
            Value::DimParam(_) => None,
        },
        _ => None,
    }
}

/// Takes a member's nodes and weights under names of its own, the input's name kept; the name of its first output.
fn adopt(joined: &mut GraphProto, graph: GraphProto, prefix: &str, input: &str) -> anyhow::Result<String> {
    let renamed = |name: &str| match name {
        "" => String::new(),
        name if name == input => name.to_owned(),
        name => format!("{prefix}{name}"),
    };
    let output = renamed(&graph.output.first().context("expected an output, got none")?.name);
    for mut tensor in graph.initializer {
        tensor.name = renamed(&tensor.name);
        joined.initializer.push(tensor);
    }
    ensure!(graph.sparse_initializer.is_empty(), "expected weights in full, got sparse ones");
    // Only what the first output needs: a second output of the member is left out.
    let needed = needed(&graph.node, &graph.output[0].name);
    for (at, mut node) in graph.node.into_iter().enumerate() {
        if needed.contains(&at) {
            node.name = format!("{prefix}{}", node.name);
            node.input = node.input.iter().map(|name| renamed(name)).collect();
            node.output = node.output.iter().map(|name| renamed(name)).collect();
            joined.node.push(node);
        }
    }
    Ok(output)
}

/// The places of the nodes that a value is made from.
fn needed(nodes: &[NodeProto], value: &str) -> BTreeSet<usize> {
    let (mut needed, mut open) = (BTreeSet::new(), vec![value]);
    while let Some(value) = open.pop() {
        let makers = nodes.iter().enumerate().filter(|(_, node)| node.output.iter().any(|name| name == value));
        for (at, node) in makers {
            if needed.insert(at) {
                open.extend(node.input.iter().map(String::as_str));
            }
        }
    }
    needed
}

/// The end of the joined graph.
struct Build {
    graph: GraphProto,
    n_classes: usize,
}

impl Build {
    fn node(&mut self, operator: &str, input: Vec<String>, output: &str, axis: Option<usize>) {
        self.graph.node.push(NodeProto {
            input,
            output: vec![output.to_owned()],
            name: format!("ensemble.{}_{}", operator.to_lowercase(), self.graph.node.len()),
            op_type: operator.to_owned(),
            attribute: axis.map(|axis| int("axis", axis)).into_iter().collect(),
            ..NodeProto::default()
        });
    }

    fn constant(&mut self, name: &str, dims: &[usize], values: impl Iterator<Item = f32>) -> String {
        self.graph.initializer.push(TensorProto {
            name: name.to_owned(),
            dims: dims.iter().map(|&dim| to_i64(dim)).collect(),
            data_type: DataType::Float as i32,
            raw_data: values.flat_map(f32::to_le_bytes).collect(),
            ..TensorProto::default()
        });
        name.to_owned()
    }

    fn mean(&mut self, outputs: Vec<String>, output: &'static str) -> &'static str {
        self.node("Mean", outputs, output, None);
        output
    }

    fn mean_probabilities(&mut self, outputs: Vec<String>) -> &'static str {
        let probabilities = outputs.into_iter().enumerate().map(|(place, logits)| {
            let name = format!("ensemble.probabilities_{place}");
            self.node("Softmax", vec![logits], &name, Some(1));
            name
        });
        let probabilities = probabilities.collect();
        self.mean(probabilities, "ensemble.mean");
        let floor = self.constant("ensemble.floor", &[], std::iter::once(FLOOR));
        self.node("Clip", vec!["ensemble.mean".to_owned(), floor], "ensemble.clipped", None);
        self.node("Log", vec!["ensemble.clipped".to_owned()], "ensemble.log", None);
        self.node("LogSoftmax", vec!["ensemble.log".to_owned()], LOG_PROBABILITIES, Some(1));
        LOG_PROBABILITIES
    }

    fn stack(&mut self, outputs: Vec<String>, stacking: &Stacking) -> anyhow::Result<&'static str> {
        let expected = ((outputs.len() * self.n_classes, self.n_classes), self.n_classes);
        let got = (stacking.weight.dim(), stacking.bias.len());
        ensure!(expected == got, "expected a stacking layer of shape {expected:?}, got {got:?}");
        let (n_inputs, n_outputs) = stacking.weight.dim();
        let weight = self.constant("ensemble.weight", &[n_inputs, n_outputs], stacking.weight.iter().copied());
        let bias = self.constant("ensemble.bias", &[n_outputs], stacking.bias.iter().copied());
        self.node("Concat", outputs, "ensemble.logits", Some(1));
        self.node("Gemm", vec!["ensemble.logits".to_owned(), weight, bias], OUTPUT, None);
        Ok(OUTPUT)
    }
}
