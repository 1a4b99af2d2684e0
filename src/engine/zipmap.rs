//! Classifiers of tables (scikit-learn, LightGBM, CatBoost) are exported with a last operator `ZipMap`, which turns the
//! matrix of scores into a list of maps from class to score. The matrix is what is served: the operator is taken off, and
//! the matrix bears the output's name.

use tract_onnx::pb;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::Dimension;
use tract_onnx::pb::{TensorShapeProto, TypeProto, type_proto};

/// Takes every `ZipMap` off that makes an output of the graph. One whose matrix is an output itself stays, and its own
/// output is none that can be served.
pub(super) fn take_off(model: &mut pb::ModelProto) -> bool {
    let Some(graph) = &mut model.graph else { return false };
    let before = graph.node.len();
    while let Some(place) = graph.node.iter().position(|node| removable(graph, node)) {
        let zip = graph.node.remove(place);
        let (matrix, name) = (&zip.input[0], &zip.output[0]);
        for value in graph.node.iter_mut().flat_map(|node| node.input.iter_mut().chain(&mut node.output)) {
            if value == matrix {
                value.clone_from(name);
            }
        }
        for output in graph.output.iter_mut().filter(|output| output.name == *name) {
            let shape = TensorShapeProto { dim: vec![Dimension::default(), Dimension::default()] };
            let tensor = type_proto::Tensor { elem_type: DataType::Float as i32, shape: Some(shape) };
            output.r#type =
                Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() });
        }
    }
    graph.node.len() < before
}

fn removable(graph: &pb::GraphProto, node: &pb::NodeProto) -> bool {
    let is_output = |name: &String| graph.output.iter().any(|output| output.name == *name);
    let makes = |name: &String| graph.node.iter().any(|node| node.output.contains(name));
    node.op_type == "ZipMap"
        && node.input.first().is_some_and(|matrix| makes(matrix) && !is_output(matrix))
        && node.output.first().is_some_and(is_output)
}
