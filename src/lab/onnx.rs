//! From a network to an ONNX file: opset 17, a dynamic batch, logits out.
//!
//! burn exports no ONNX; the message types of `onnx.proto` come with tract, and the operators of a plan need no more. The last operator is `Gemm`, by which the engine knows that the output holds logits (R2).

pub mod join;

use anyhow::{Context, bail};
use ndarray::{Array2, ArrayD};
use prost::Message;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension};
use tract_onnx::pb::type_proto;
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto, TensorProto,
    TensorShapeProto, TypeProto, ValueInfoProto,
};
use tract_onnx::prelude::{Framework, InferenceModelExt, IntoRunnable, IntoTValue, Tensor, tvec};

use super::Compute;
use super::network::plan::{At, Op, ValueId};
use super::network::{NORM_EPSILON, Network, Plain, Weights};

const IR_VERSION: i64 = 8;
const OPSET: i64 = 17;

/// The name of the output.
pub const OUTPUT: &str = "logits";

/// The name of the second output, where it is asked for.
pub const FEATURES: &str = "features";

/// The key of the metadata property that holds the class names, as a JSON list.
pub const LABELS_KEY: &str = "sordino.labels";

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
/// Input `(N, row_shape…)`, output `logits` `(N, class_names.len())`, both `f32`; with `features` a second output of
/// that name, `(N, n_penultimate)`: what goes into the last linear layer.
#[must_use]
pub fn export(network: &Network, class_names: &[String], features: bool) -> Vec<u8> {
    let plan = network.plan();
    let row_shape = plan.row_shape();
    let mut builder = Builder { network, names: vec![], nodes: vec![], initializers: vec![] };
    for at in 0..plan.steps().len() {
        builder.push(at);
    }
    let mut output = vec![value(OUTPUT, &[class_names.len()])];
    if features {
        let from = builder.names[plan.features()].clone();
        builder.node("Identity", vec![from], FEATURES, vec![]);
        output.push(value(FEATURES, &plan.steps()[plan.features()].shape));
    }
    let graph = GraphProto {
        name: "classifier".to_owned(),
        input: vec![value(input_name(row_shape), row_shape)],
        output,
        node: builder.nodes,
        initializer: builder.initializers,
        ..GraphProto::default()
    };
    let labels = serde_json::to_string(class_names).expect("names are plain text");
    ModelProto {
        ir_version: IR_VERSION,
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: OPSET }],
        producer_name: "sordino".to_owned(),
        producer_version: env!("CARGO_PKG_VERSION").to_owned(),
        graph: Some(graph),
        metadata_props: vec![StringStringEntryProto { key: LABELS_KEY.to_owned(), value: labels }],
        ..ModelProto::default()
    }
    .encode_to_vec()
}

/// The largest difference between a logit of the exported graph, run by tract, and the network's own.
///
/// # Shapes
///
/// `rows` `(n_rows, row_shape…)`, `logits` `(n_rows, n_classes)`.
///
/// # Errors
///
/// When the graph cannot be run or gives another shape.
pub fn disagreement(model: &[u8], rows: &ArrayD<f32>, logits: &Array2<f32>) -> anyhow::Result<f32> {
    let values = rows.as_slice().context("rows that lie in one piece")?;
    let input = Tensor::from_shape(rows.shape(), values)?;
    let runnable = tract_onnx::onnx().model_for_read(&mut &model[..])?.into_optimized()?.into_runnable()?;
    let outputs = runnable.run(tvec!(input.into_tvalue()))?;
    let got = outputs.first().context("an output")?.to_plain_array_view::<f32>()?;
    if got.shape() != logits.shape() {
        bail!("the exported graph gives logits of shape {:?}, expected {:?}", got.shape(), logits.shape());
    }
    Ok(got.iter().zip(logits).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max))
}

/// Walks over the plan; every step becomes one node, or a few.
struct Builder<'a> {
    network: &'a Network,
    /// The name of each step's value.
    names: Vec<String>,
    nodes: Vec<NodeProto>,
    initializers: Vec<TensorProto>,
}

impl Builder<'_> {
    fn push(&mut self, at: ValueId) {
        let plan = self.network.plan().clone();
        let step = &plan.steps()[at];
        let from: Vec<String> = step.inputs.iter().map(|&input| self.names[input].clone()).collect();
        let output = if at + 1 == plan.steps().len() { OUTPUT.to_owned() } else { format!("value_{at}") };
        let pool = || vec![ints("kernel_shape", &[2, 2]), ints("strides", &[2, 2])];
        match &step.op {
            Op::Input => return self.names.push(input_name(&step.shape).to_owned()),
            Op::Dropout(_) => return self.names.extend(from),
            Op::Normalise { mean, deviation } => self.normalise(at, from, &output, mean, deviation),
            Op::Convolution { kernel, bias, side, stride, padding } => {
                let attributes = vec![
                    ints("dilations", &[1, 1]),
                    int("group", 1),
                    ints("kernel_shape", &[*side; 2]),
                    ints("pads", &[*padding; 4]),
                    ints("strides", &[*stride; 2]),
                ];
                let arrays = std::iter::once(At::Kernel(*kernel)).chain(bias.map(At::Vector));
                let arrays = arrays.map(|at| self.array(at));
                let inputs = from.into_iter().chain(arrays.collect::<Vec<_>>()).collect();
                self.node("Conv", inputs, &output, attributes);
            }
            Op::BatchNorm { scale, shift, mean, variance } => {
                let arrays = [At::Vector(*scale), At::Vector(*shift), At::Running(*mean), At::Running(*variance)];
                let inputs = from.into_iter().chain(arrays.map(|at| self.array(at))).collect();
                self.node("BatchNormalization", inputs, &output, vec![float("epsilon", NORM_EPSILON as f32)]);
            }
            Op::GroupNorm { scale, shift, groups } => {
                let arrays = [At::Vector(*scale), At::Vector(*shift)];
                self.group_norm(at, from, &output, arrays, *groups);
            }
            Op::Relu => self.node("Relu", from, &output, vec![]),
            Op::Tanh => self.node("Tanh", from, &output, vec![]),
            Op::MaxPool2 => self.node("MaxPool", from, &output, pool()),
            Op::AveragePool2 => self.node("AveragePool", from, &output, pool()),
            Op::GlobalAveragePool => {
                let pooled = format!("value_{at}.pooled");
                self.node("GlobalAveragePool", from, &pooled, vec![]);
                self.node("Flatten", vec![pooled], &output, vec![int("axis", 1)]);
            }
            Op::Add => self.node("Add", from, &output, vec![]),
            Op::Concatenate => self.node("Concat", from, &output, vec![int("axis", 1)]),
            Op::Flatten => self.node("Flatten", from, &output, vec![int("axis", 1)]),
            Op::Linear { matrix, bias } => {
                let arrays = [At::Matrix(*matrix), At::Vector(*bias)].map(|at| self.array(at));
                self.node("Gemm", from.into_iter().chain(arrays).collect(), &output, vec![]);
            }
        }
        self.names.push(output);
    }

    fn node(&mut self, operator: &str, input: Vec<String>, output: &str, attribute: Vec<AttributeProto>) {
        self.nodes.push(NodeProto {
            input,
            output: vec![output.to_owned()],
            name: format!("{}_{}", operator.to_lowercase(), self.nodes.len()),
            op_type: operator.to_owned(),
            attribute,
            ..NodeProto::default()
        });
    }

    /// `(x − mean) · (1 / deviation)`, as the forward pass has it.
    fn normalise(&mut self, at: ValueId, from: Vec<String>, output: &str, mean: &[f32], deviation: &[f32]) {
        let row_shape = &self.network.plan().steps()[at].shape;
        let mut shape = row_shape.clone();
        if mean.len() == row_shape[0] {
            shape.iter_mut().skip(1).for_each(|size| *size = 1);
        }
        let factor = deviation.iter().map(|deviation| 1.0 / deviation).collect();
        let mean = self.constant("rows.mean", shape.clone(), mean.to_vec());
        let factor = self.constant("rows.factor", shape, factor);
        self.node("Sub", from.into_iter().chain([mean]).collect(), "rows.centred", vec![]);
        self.node("Mul", vec!["rows.centred".to_owned(), factor], output, vec![]);
    }

    /// In means of lines: an operator for it comes with opset 18 only.
    fn group_norm(&mut self, at: ValueId, from: Vec<String>, output: &str, arrays: [At; 2], groups: usize) {
        let shape = self.network.plan().steps()[at].shape.clone();
        let name = |what: &str| format!("value_{at}.{what}");
        let dims = |dims: &[usize]| std::iter::once(-1).chain(dims.iter().map(|&dim| to_i64(dim))).collect();
        let lines = self.shape(&name("lines.shape"), dims(&[groups, shape.iter().product::<usize>() / groups]));
        let back = self.shape(&name("shape"), dims(&shape));
        let epsilon = self.constant(&name("epsilon"), vec![1], vec![NORM_EPSILON as f32]);
        let mean = || vec![ints("axes", &[2]), int("keepdims", 1)];
        self.node("Reshape", from.into_iter().chain([lines]).collect(), &name("lines"), vec![]);
        self.node("ReduceMean", vec![name("lines")], &name("mean"), mean());
        self.node("Sub", vec![name("lines"), name("mean")], &name("centred"), vec![]);
        self.node("Mul", vec![name("centred"), name("centred")], &name("squares"), vec![]);
        self.node("ReduceMean", vec![name("squares")], &name("variance"), mean());
        self.node("Add", vec![name("variance"), epsilon], &name("positive"), vec![]);
        self.node("Sqrt", vec![name("positive")], &name("deviation"), vec![]);
        self.node("Div", vec![name("centred"), name("deviation")], &name("normal"), vec![]);
        self.node("Reshape", vec![name("normal"), back], &name("image"), vec![]);
        let [scale, shift] = arrays.map(|array| {
            let plain = self.network.weights().plain(array);
            let n_channels = plain.values.len();
            self.constant(&Weights::<Compute>::name(array), vec![n_channels, 1, 1], plain.values)
        });
        self.node("Mul", vec![name("image"), scale], &name("scaled"), vec![]);
        self.node("Add", vec![name("scaled"), shift], output, vec![]);
    }

    /// One of the network's arrays.
    fn array(&mut self, at: At) -> String {
        let Plain { shape, values } = self.network.weights().plain(at);
        self.constant(&Weights::<Compute>::name(at), shape, values)
    }

    fn constant(&mut self, name: &str, shape: Vec<usize>, values: Vec<f32>) -> String {
        self.initializers.push(TensorProto {
            name: name.to_owned(),
            dims: shape.into_iter().map(to_i64).collect(),
            data_type: DataType::Float as i32,
            raw_data: values.iter().flat_map(|number| number.to_le_bytes()).collect(),
            ..TensorProto::default()
        });
        name.to_owned()
    }

    fn shape(&mut self, name: &str, dims: Vec<i64>) -> String {
        self.initializers.push(TensorProto {
            name: name.to_owned(),
            dims: vec![to_i64(dims.len())],
            data_type: DataType::Int64 as i32,
            raw_data: dims.iter().flat_map(|number| number.to_le_bytes()).collect(),
            ..TensorProto::default()
        });
        name.to_owned()
    }
}

fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto { name: name.to_owned(), r#type: AttributeType::Float as i32, f: value, ..AttributeProto::default() }
}

fn ints(name: &str, values: &[usize]) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        r#type: AttributeType::Ints as i32,
        ints: values.iter().map(|&value| to_i64(value)).collect(),
        ..AttributeProto::default()
    }
}

fn int(name: &str, value: usize) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        r#type: AttributeType::Int as i32,
        i: to_i64(value),
        ..AttributeProto::default()
    }
}

/// A float value of shape `(N, dims…)`, `N` free.
fn value(name: &str, dims: &[usize]) -> ValueInfoProto {
    let dimension = |value| Dimension { denotation: String::new(), value: Some(value) };
    let batch = dimension(dimension::Value::DimParam("N".to_owned()));
    let rest = dims.iter().map(|&dim| dimension(dimension::Value::DimValue(to_i64(dim))));
    let tensor = type_proto::Tensor {
        elem_type: DataType::Float as i32,
        shape: Some(TensorShapeProto { dim: std::iter::once(batch).chain(rest).collect() }),
    };
    let r#type = TypeProto { denotation: String::new(), value: Some(type_proto::Value::TensorType(tensor)) };
    ValueInfoProto { name: name.to_owned(), r#type: Some(r#type), doc_string: String::new() }
}

fn to_i64(size: usize) -> i64 {
    i64::try_from(size).expect("a size in memory is below 2^63")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::lab::network::{Activation, Architecture, Norm, Normalisation};

    #[test]
    fn the_last_operator_is_gemm_and_gives_the_logits() {
        let device = crate::lab::device::Device::Cpu.open().unwrap().evaluation();
        let mlp = Architecture::Mlp { hidden: vec![], activation: Activation::Relu };
        let network = Network::init(Arc::new(mlp.plan(&[4], 2, None).unwrap()), 1, &device);
        let bytes = export(&network, &["a".to_owned(), "b".to_owned()], false);
        let model = ModelProto::decode(bytes.as_slice()).unwrap();
        let graph = model.graph.unwrap();
        let last = graph.node.last().unwrap();
        assert_eq!((last.op_type.as_str(), last.output.as_slice()), ("Gemm", [OUTPUT.to_owned()].as_slice()));
        assert_eq!(graph.input[0].name, "features");
        assert_eq!(model.metadata_props[0].value, r#"["a","b"]"#);
        assert_eq!(graph.initializer.len(), 2);
    }

    #[test]
    fn every_network_runs_alike_in_burn_and_in_tract() {
        let device = crate::lab::device::Device::Cpu.open().unwrap().evaluation();
        let densenet = |norm| Architecture::Densenet { depth: 10, growth: 4, compression: 0.5, norm };
        let convnet = Architecture::Convnet {
            channels: vec![4, 6],
            side: 3,
            norm: Norm::Group,
            hidden: vec![5],
            activation: Activation::Tanh,
        };
        let resnet = Architecture::Resnet { blocks: vec![1, 1], width: 4, norm: Norm::Batch };
        let cnn = Architecture::Cnn { channels: [2, 3], hidden: 4 };
        let shape = [3, 16, 16];
        let constants = Normalisation { mean: vec![0.5, 0.4, 0.3], deviation: vec![0.2, 0.25, 0.3] };
        for architecture in [cnn, convnet, densenet(Norm::Batch), densenet(Norm::Group), resnet, Architecture::MlLeaks]
        {
            let plan = Arc::new(architecture.plan(&shape, 3, Some(&constants)).unwrap());
            let network = Network::init(plan, 5, &device);
            let rows = ArrayD::from_shape_fn(vec![2, 3, 16, 16], |at| {
                ((at[0] * 7 + at[1] * 5 + at[2] * 3 + at[3]) % 11) as f32 / 11.0
            });
            let model = export(&network, &["a", "b", "c"].map(str::to_owned), false);
            let off = disagreement(&model, &rows, &network.logits(rows.clone())).unwrap();
            assert!(off < 1e-5, "{architecture}: {off}");
            let with_features = export(&network, &["a", "b", "c"].map(str::to_owned), true);
            assert!(disagreement(&with_features, &rows, &network.logits(rows.clone())).unwrap() < 1e-5);
        }
    }
}
