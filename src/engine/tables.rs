//! Classifiers of tables, of scikit-learn above all, begin with operators that tract lacks or takes single precision for:
//! they are spelled out in operators that it has, before a plan is made.
//!
//! `Scaler` (a `StandardScaler` in a pipeline) becomes the difference and the product that it is defined as; a column of
//! whole numbers that goes straight into a classifier goes through the cast that the classifier's definition implies.

use tract_onnx::pb;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::type_proto;

/// Operators of `ai.onnx.ml` whose definition takes whole numbers, and computes in single precision.
const TAKES_NUMBERS: [&str; 4] = ["Scaler", "LinearClassifier", "TreeEnsembleClassifier", "Normalizer"];

/// Spells out what is listed above.
pub(super) fn spell_out(model: &mut pb::ModelProto) {
    let Some(graph) = &mut model.graph else { return };
    let mut nodes = Vec::with_capacity(graph.node.len());
    for mut node in std::mem::take(&mut graph.node) {
        if node.domain == "ai.onnx.ml" && TAKES_NUMBERS.contains(&node.op_type.as_str()) && whole_numbers(graph, &node)
        {
            let single = format!("{}/single", own_name(&node));
            nodes.push(cast(&node.input[0], &single));
            node.input[0] = single;
        }
        match scaler(&node) {
            Some((offset, scale)) => nodes.extend(scaled(graph, node, offset, scale)),
            None => nodes.push(node),
        }
    }
    graph.node = nodes;
}

/// A name that begins those of the values that take an operator's place.
fn own_name(node: &pb::NodeProto) -> String {
    format!("{}/{}", node.op_type, node.output.first().map(String::as_str).unwrap_or_default())
}

/// Whether the operator is fed straight from an input of the graph that is no float.
fn whole_numbers(graph: &pb::GraphProto, node: &pb::NodeProto) -> bool {
    let Some(name) = node.input.first() else { return false };
    let input = graph.input.iter().find(|input| input.name == *name);
    let Some(kind) = input.and_then(|input| input.r#type.as_ref()) else { return false };
    let Some(type_proto::Value::TensorType(tensor)) = &kind.value else { return false };
    [DataType::Int64, DataType::Int32].iter().any(|&known| known as i32 == tensor.elem_type)
}

/// Offset and scale of a `Scaler`.
fn scaler(node: &pb::NodeProto) -> Option<(Vec<f32>, Vec<f32>)> {
    if node.op_type != "Scaler" || node.domain != "ai.onnx.ml" || node.input.len() != 1 || node.output.len() != 1 {
        return None;
    }
    let floats = |name: &str| node.attribute.iter().find(|entry| entry.name == name).map(|entry| entry.floats.clone());
    Some((floats("offset").unwrap_or_else(|| vec![0.0]), floats("scale").unwrap_or_else(|| vec![1.0])))
}

/// `(x - offset) * scale`.
fn scaled(graph: &mut pb::GraphProto, node: pb::NodeProto, offset: Vec<f32>, scale: Vec<f32>) -> [pb::NodeProto; 3] {
    let own = own_name(&node);
    let named = |part: &str| format!("{own}/{part}");
    graph.initializer.push(vector(named("offset"), offset));
    graph.initializer.push(vector(named("scale"), scale));
    let (single, centred) = (named("float"), named("centred"));
    [
        cast(&node.input[0], &single),
        operator("Sub", [&single, &named("offset")], &centred),
        operator("Mul", [&centred, &named("scale")], &node.output[0]),
    ]
}

fn operator<const N: usize>(op: &str, inputs: [&str; N], output: &str) -> pb::NodeProto {
    pb::NodeProto {
        op_type: op.to_owned(),
        name: output.to_owned(),
        input: inputs.map(str::to_owned).to_vec(),
        output: vec![output.to_owned()],
        ..pb::NodeProto::default()
    }
}

fn cast(from: &str, to: &str) -> pb::NodeProto {
    let mut node = operator("Cast", [from], to);
    node.attribute.push(pb::AttributeProto {
        name: "to".to_owned(),
        r#type: AttributeType::Int as i32,
        i: DataType::Float as i64,
        ..pb::AttributeProto::default()
    });
    node
}

fn vector(name: String, values: Vec<f32>) -> pb::TensorProto {
    let dims = vec![i64::try_from(values.len()).unwrap_or(i64::MAX)];
    pb::TensorProto { name, dims, data_type: DataType::Float as i32, float_data: values, ..pb::TensorProto::default() }
}
