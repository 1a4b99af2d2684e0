//! From layers to an ONNX file: opset 17, a dynamic batch, logits out.
//!
//! burn exports no ONNX; the message types of `onnx.proto` come with tract, and a chain of seven operators
//! needs no more. The last operator is `Gemm`, by which the engine knows that the output holds logits (R2).

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

use super::network::{Layer, Weights};

const IR_VERSION: i64 = 8;
const OPSET: i64 = 17;

/// The name of the output.
pub const OUTPUT: &str = "logits";

/// The key of the metadata property that holds the class names, as a JSON list.
pub const LABELS_KEY: &str = "sordino.labels";

/// The name of the input: `image` for rows of shape `[channels, height, width]`, else `features`.
#[must_use]
pub fn input_name(row_shape: &[usize]) -> &'static str {
    if row_shape.len() == 3 { "image" } else { "features" }
}

/// The bytes of an ONNX model that runs `layers`.
///
/// # Shapes
///
/// Input `(N, row_shape…)`, output `logits` `(N, class_names.len())`, both `f32`.
#[must_use]
pub fn export(layers: &[Layer], row_shape: &[usize], class_names: &[String]) -> Vec<u8> {
    let mut builder = Builder { at: input_name(row_shape).to_owned(), ..Builder::default() };
    for (index, layer) in layers.iter().enumerate() {
        builder.push(layer, index, index + 1 == layers.len());
    }
    let graph = GraphProto {
        name: "classifier".to_owned(),
        input: vec![value(input_name(row_shape), row_shape)],
        output: vec![value(OUTPUT, &[class_names.len()])],
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

/// A chain of nodes: each takes the value that the one before it gave.
#[derive(Default)]
struct Builder {
    at: String,
    nodes: Vec<NodeProto>,
    initializers: Vec<TensorProto>,
}

impl Builder {
    fn push(&mut self, layer: &Layer, index: usize, is_last: bool) {
        let (operator, attributes, weights) = match layer {
            Layer::Convolution { weight, bias, padding } => {
                let sides: Vec<usize> = weight.shape[2..].to_vec();
                let attributes = vec![
                    ints("dilations", &[1, 1]),
                    int("group", 1),
                    ints("kernel_shape", &sides),
                    ints("pads", &[*padding; 4]),
                    ints("strides", &[1, 1]),
                ];
                ("Conv", attributes, vec![("weight", weight), ("bias", bias)])
            }
            Layer::Relu => ("Relu", vec![], vec![]),
            Layer::MaxPool2 => ("MaxPool", vec![ints("kernel_shape", &[2, 2]), ints("strides", &[2, 2])], vec![]),
            Layer::Flatten => ("Flatten", vec![int("axis", 1)], vec![]),
            Layer::Linear { weight, bias } => ("Gemm", vec![], vec![("weight", weight), ("bias", bias)]),
        };
        let name = format!("{}_{index}", operator.to_lowercase());
        let output = if is_last { OUTPUT.to_owned() } else { format!("{name}.out") };
        let mut input = vec![std::mem::replace(&mut self.at, output.clone())];
        for (role, weights) in weights {
            let name = format!("{name}.{role}");
            self.initializers.push(initializer(&name, weights));
            input.push(name);
        }
        self.nodes.push(NodeProto {
            input,
            output: vec![output],
            name,
            op_type: operator.to_owned(),
            attribute: attributes,
            ..NodeProto::default()
        });
    }
}

fn initializer(name: &str, weights: &Weights) -> TensorProto {
    TensorProto {
        name: name.to_owned(),
        dims: weights.shape.iter().map(|&dim| to_i64(dim)).collect(),
        data_type: DataType::Float as i32,
        raw_data: weights.values.iter().flat_map(|number| number.to_le_bytes()).collect(),
        ..TensorProto::default()
    }
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
    use super::*;

    #[test]
    fn the_last_operator_is_gemm_and_gives_the_logits() {
        let weight = Weights { shape: vec![4, 2], values: vec![0.5; 8] };
        let bias = Weights { shape: vec![2], values: vec![0.0; 2] };
        let layers = [Layer::Flatten, Layer::Linear { weight, bias }];
        let bytes = export(&layers, &[4], &["a".to_owned(), "b".to_owned()]);
        let model = ModelProto::decode(bytes.as_slice()).unwrap();
        let graph = model.graph.unwrap();
        let last = graph.node.last().unwrap();
        assert_eq!((last.op_type.as_str(), last.output.as_slice()), ("Gemm", [OUTPUT.to_owned()].as_slice()));
        assert_eq!(graph.input[0].name, "features");
        assert_eq!(model.metadata_props[0].value, r#"["a","b"]"#);
        assert_eq!(graph.initializer.len(), 2);
    }
}
