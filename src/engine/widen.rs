//! Graphs in floats that tract has no operators for, computed in single precision.
//!
//! Of half precision it has few, of bfloat16 none: such graphs always run in floats that hold every number of theirs, so
//! the answers are those of the file within its own rounding. Of doubles it lacks some (`Gemm`): a graph that cannot be
//! loaded as it is runs in single precision, and the load says so.

use half::{bf16, f16};
use tract_onnx::pb;
use tract_onnx::pb::tensor_proto::{DataLocation, DataType};
use tract_onnx::pb::type_proto;

use super::EngineError;

/// Attributes that name an element type.
const TYPE_ATTRIBUTES: [&str; 3] = ["to", "dtype", "stash_type"];

/// Which floats are turned into single precision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum From {
    /// Half precision and bfloat16.
    Half,
    /// Doubles.
    Double,
}

impl From {
    fn is(self, elem_type: i32) -> bool {
        let known: &[DataType] = match self {
            Self::Half => &[DataType::Float16, DataType::Bfloat16],
            Self::Double => &[DataType::Double],
        };
        known.iter().any(|&known| known as i32 == elem_type)
    }
}

/// Turns all weights, constants, casts and declared types of such floats into those of single precision, and tells whether
/// there were any.
///
/// # Errors
/// [`EngineError::NotOnnx`] when a tensor has not as many bytes as its values take.
pub(super) fn to_single(model: &mut pb::ModelProto, from: From) -> Result<bool, EngineError> {
    let mut found = false;
    if let Some(graph) = &mut model.graph {
        of_graph(graph, from, &mut found)?;
    }
    for function in &mut model.functions {
        of_nodes(&mut function.node, from, &mut found)?;
    }
    Ok(found)
}

/// Graphs in graphs are as deep as the reader of the file takes, which is bounded.
fn of_graph(graph: &mut pb::GraphProto, from: From, found: &mut bool) -> Result<(), EngineError> {
    for value in graph.input.iter_mut().chain(&mut graph.output).chain(&mut graph.value_info) {
        if let Some(type_proto::Value::TensorType(tensor)) = value.r#type.as_mut().and_then(|kind| kind.value.as_mut())
            && from.is(tensor.elem_type)
        {
            tensor.elem_type = DataType::Float as i32;
            *found = true;
        }
    }
    graph.initializer.iter_mut().try_for_each(|tensor| of_tensor(tensor, from, found))?;
    of_nodes(&mut graph.node, from, found)
}

fn of_nodes(nodes: &mut [pb::NodeProto], from: From, found: &mut bool) -> Result<(), EngineError> {
    for attribute in nodes.iter_mut().flat_map(|node| &mut node.attribute) {
        if TYPE_ATTRIBUTES.contains(&attribute.name.as_str())
            && i32::try_from(attribute.i).is_ok_and(|kind| from.is(kind))
        {
            attribute.i = DataType::Float as i64;
            *found = true;
        }
        attribute.t.iter_mut().chain(&mut attribute.tensors).try_for_each(|tensor| of_tensor(tensor, from, found))?;
        attribute.g.iter_mut().chain(&mut attribute.graphs).try_for_each(|graph| of_graph(graph, from, found))?;
    }
    Ok(())
}

fn of_tensor(tensor: &mut pb::TensorProto, from: From, found: &mut bool) -> Result<(), EngineError> {
    // Values in another file are refused by whoever reads them.
    if !from.is(tensor.data_type) || tensor.data_location == Some(DataLocation::External as i32) {
        return Ok(());
    }
    let raw = std::mem::take(&mut tensor.raw_data);
    let size = if from == From::Double { 8 } else { 2 };
    if !raw.len().is_multiple_of(size) {
        let text = format!("the tensor '{}' has {} bytes, no multiple of {size}", tensor.name, raw.len());
        return Err(EngineError::NotOnnx(text));
    }
    let listed = std::mem::take(&mut tensor.int32_data).into_iter().map(|bits| bits as u16);
    let bits = raw.as_chunks().0.iter().map(|chunk| u16::from_le_bytes(*chunk)).chain(listed);
    tensor.float_data = if tensor.data_type == DataType::Double as i32 {
        let listed = std::mem::take(&mut tensor.double_data).into_iter();
        raw.as_chunks()
            .0
            .iter()
            .map(|chunk| f64::from_le_bytes(*chunk))
            .chain(listed)
            .map(|value| value as f32)
            .collect()
    } else if tensor.data_type == DataType::Bfloat16 as i32 {
        bits.map(|bits| bf16::from_bits(bits).to_f32()).collect()
    } else {
        bits.map(|bits| f16::from_bits(bits).to_f32()).collect()
    };
    tensor.data_type = DataType::Float as i32;
    *found = true;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(tensor: pb::TensorProto) -> pb::ModelProto {
        let graph = pb::GraphProto { initializer: vec![tensor], ..pb::GraphProto::default() };
        pb::ModelProto { graph: Some(graph), ..pb::ModelProto::default() }
    }

    fn tensor(data_type: DataType) -> pb::TensorProto {
        pb::TensorProto { name: "w".into(), dims: vec![2], data_type: data_type as i32, ..pb::TensorProto::default() }
    }

    fn widened(tensor: pb::TensorProto, from: From) -> Result<Vec<f32>, EngineError> {
        let mut model = model(tensor);
        assert!(to_single(&mut model, from)?);
        let tensor = model.graph.unwrap().initializer.remove(0);
        assert_eq!((tensor.data_type, tensor.raw_data.len()), (DataType::Float as i32, 0));
        Ok(tensor.float_data)
    }

    #[test]
    fn weights_are_the_same_numbers_in_either_form_of_the_file() {
        let values = [1.5_f32, -0.25];
        for (kind, bits) in [
            (DataType::Float16, values.map(|value| f16::from_f32(value).to_bits())),
            (DataType::Bfloat16, values.map(|value| bf16::from_f32(value).to_bits())),
        ] {
            let raw =
                pb::TensorProto { raw_data: bits.iter().flat_map(|bits| bits.to_le_bytes()).collect(), ..tensor(kind) };
            assert_eq!(widened(raw, From::Half).unwrap(), values);
            let listed = pb::TensorProto { int32_data: bits.map(i32::from).to_vec(), ..tensor(kind) };
            assert_eq!(widened(listed, From::Half).unwrap(), values);
        }
        let doubles = pb::TensorProto { double_data: values.map(f64::from).to_vec(), ..tensor(DataType::Double) };
        assert_eq!(widened(doubles.clone(), From::Double).unwrap(), values);
        assert!(!to_single(&mut model(doubles), From::Half).unwrap());
    }

    #[test]
    fn a_broken_tensor_is_an_error() {
        let odd = pb::TensorProto { raw_data: vec![0; 3], ..tensor(DataType::Float16) };
        assert!(widened(odd, From::Half).unwrap_err().to_string().contains("'w' has 3 bytes"));
    }

    #[test]
    fn casts_to_half_precision_go_along() {
        let attribute =
            pb::AttributeProto { name: "to".into(), i: DataType::Float16 as i64, ..pb::AttributeProto::default() };
        let node = pb::NodeProto { op_type: "Cast".into(), attribute: vec![attribute], ..pb::NodeProto::default() };
        let mut model = model(tensor(DataType::Float));
        model.graph.as_mut().unwrap().node.push(node);
        assert!(to_single(&mut model, From::Half).unwrap());
        assert_eq!(model.graph.unwrap().node[0].attribute[0].i, DataType::Float as i64);
    }
}
