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

use super::OUTPUT;
use super::proto::{int, to_i64, value};
use crate::engine::inspect::SCORE_OUTPUT_KEY;

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
    let mut shell = models.swap_remove(0);
    // The joined graph has one output; which one of a member's held its scores is no longer said.
    shell.metadata_props.retain(|entry| entry.key != SCORE_OUTPUT_KEY);
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ndarray::{Array1, Array2, ArrayD};

    use super::super::{Export, disagreement, export};
    use super::*;
    use crate::defence::ScoreKind;
    use crate::engine::{LoadOptions, inspect};
    use crate::lab::network::{Activation, Architecture, Network};

    const NAMES: [&str; 3] = ["a", "b", "c"];

    fn network(architecture: &Architecture, row_shape: &[usize], seed: u64) -> Network {
        let device = crate::lab::device::Device::Cpu.open().unwrap().evaluation();
        Network::init(Arc::new(architecture.plan(row_shape, 3, None).unwrap()), seed, &device)
    }

    fn members(features: bool) -> (Vec<Network>, Vec<Vec<u8>>) {
        let mlp = Architecture::Mlp { hidden: vec![5], activation: Activation::Relu };
        let resnet = Architecture::Resnet { blocks: vec![1], width: 4, norm: crate::lab::network::Norm::Batch };
        let cnn = Architecture::Cnn { channels: [2, 3], hidden: 4 };
        let networks: Vec<Network> =
            [mlp, resnet, cnn].iter().zip(1..).map(|(kind, seed)| network(kind, &[1, 8, 8], seed)).collect();
        let models = networks
            .iter()
            .map(|network| export(network, &NAMES.map(str::to_owned), Export { features, ..Export::default() }))
            .collect();
        (networks, models)
    }

    fn rows() -> ArrayD<f32> {
        ArrayD::from_shape_fn(vec![5, 1, 8, 8], |at| ((at[0] * 7 + at[2] * 5 + at[3] * 3) % 11) as f32 / 5.0 - 1.0)
    }

    fn kind(model: &[u8]) -> (String, ScoreKind) {
        let facts = inspect::facts(&ModelProto::decode(model).unwrap()).unwrap();
        let decided = inspect::decide(&facts, &LoadOptions::default()).unwrap();
        assert_eq!(facts.labels.unwrap(), NAMES);
        (decided.output, decided.kind)
    }

    fn stacking() -> Stacking {
        Stacking {
            weight: Array2::from_shape_fn((9, 3), |(i, k)| (i as f32 - 4.0) / 5.0 + k as f32 / 3.0),
            bias: Array1::from_vec(vec![0.5, -0.5, 0.0]),
        }
    }

    #[test]
    fn the_joined_graph_gives_what_its_members_give_together_and_says_what_it_is() {
        for features in [false, true] {
            let (networks, models) = members(features);
            let logits: Vec<Array2<f32>> = networks.iter().map(|network| network.logits(rows())).collect();
            let mean = logits.iter().fold(Array2::zeros((5, 3)), |sum, next| sum + next) / 3.0;
            let joined = join(&models, &Combine::MeanLogits).unwrap();
            assert_eq!(kind(&joined), (OUTPUT.to_owned(), ScoreKind::Logits));
            assert!(disagreement(&joined, &rows(), &mean).unwrap() < 1e-5);

            let softmax = |logits: &Array2<f32>| crate::lab::bank::answers::softmax(logits, 1.0);
            let mean = logits.iter().fold(Array2::zeros((5, 3)), |sum, next| sum + softmax(next)) / 3.0;
            let joined = join(&models, &Combine::MeanProbabilities).unwrap();
            assert_eq!(kind(&joined), (LOG_PROBABILITIES.to_owned(), ScoreKind::LogProbabilities));
            assert!(disagreement(&joined, &rows(), &mean.mapv(|share: f64| share.ln() as f32)).unwrap() < 1e-5);

            let joined = join(&models, &Combine::Stack(stacking())).unwrap();
            assert_eq!(kind(&joined), (OUTPUT.to_owned(), ScoreKind::Logits));
            let views: Vec<_> = logits.iter().map(|logits| logits.view()).collect();
            let all: Array2<f32> = ndarray::concatenate(ndarray::Axis(1), &views).unwrap();
            let expected = all.dot(&stacking().weight) + &stacking().bias;
            assert!(disagreement(&joined, &rows(), &expected).unwrap() < 1e-5);
        }
    }

    #[test]
    fn a_class_that_every_member_rules_out_has_a_finite_score() {
        let mlp = Architecture::Mlp { hidden: vec![], activation: Activation::Relu };
        let mut model = ModelProto::decode(
            export(&network(&mlp, &[2], 1), &NAMES.map(str::to_owned), Export::default()).as_slice(),
        );
        let graph = model.as_mut().unwrap().graph.as_mut().unwrap();
        let bias = graph.initializer.iter_mut().find(|tensor| tensor.dims == [3]).unwrap();
        bias.raw_data = [500.0f32, 0.0, -500.0].iter().flat_map(|value| value.to_le_bytes()).collect();
        let model = model.unwrap().encode_to_vec();
        let joined = join(&[model.clone(), model], &Combine::MeanProbabilities).unwrap();
        let expected = Array2::from_shape_fn((1, 3), |(_, class)| if class == 0 { 0.0 } else { FLOOR.ln() });
        assert!(disagreement(&joined, &ArrayD::zeros(vec![1, 2]), &expected).unwrap() < 1e-3);
    }

    #[test]
    fn members_that_differ_in_what_must_be_alike_are_refused() {
        let names = NAMES.map(str::to_owned);
        let mlp = Architecture::Mlp { hidden: vec![], activation: Activation::Relu };
        let model = |shape: &[usize], names: &[String]| export(&network(&mlp, shape, 1), names, Export::default());
        let first = model(&[4], &names);
        let renamed = model(&[4], &["x", "y", "z"].map(str::to_owned));
        for (other, expected) in [
            (model(&[5], &names), "the same inputs"),
            (renamed, "the same class names"),
            (vec![8, 1, 255], "is no ONNX model"),
            (vec![], "expected a graph, got none"),
        ] {
            let error = format!("{:#}", join(&[first.clone(), other], &Combine::MeanLogits).unwrap_err());
            assert!(error.contains("model 1") && error.contains(expected), "{error}");
        }
        assert!(join(&[], &Combine::MeanLogits).is_err());
        let error = join(&[first], &Combine::Stack(stacking())).unwrap_err().to_string();
        assert!(error.contains("expected a stacking layer of shape ((3, 3), 3), got ((9, 3), 3)"), "{error}");
    }
}
