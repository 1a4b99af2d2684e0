//! Pieces of `onnx.proto`.

use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension};
use tract_onnx::pb::type_proto;
use tract_onnx::pb::{AttributeProto, TensorShapeProto, TypeProto, ValueInfoProto};

pub(super) fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto { name: name.to_owned(), r#type: AttributeType::Float as i32, f: value, ..AttributeProto::default() }
}

pub(super) fn ints(name: &str, values: &[usize]) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        r#type: AttributeType::Ints as i32,
        ints: values.iter().map(|&value| to_i64(value)).collect(),
        ..AttributeProto::default()
    }
}

pub(super) fn int(name: &str, value: usize) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        r#type: AttributeType::Int as i32,
        i: to_i64(value),
        ..AttributeProto::default()
    }
}

/// A float value of shape `(N, dims…)`, `N` free.
pub(super) fn value(name: &str, dims: &[usize]) -> ValueInfoProto {
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

pub(super) fn to_i64(size: usize) -> i64 {
    i64::try_from(size).expect("a size in memory is below 2^63")
}
