//! The Open Inference Protocol v2 over gRPC, as a client: messages out of checked inputs, and the scores out of an answer in
//! either of the two forms that servers use.

use bytes::Bytes;
use prost::Message as _;

use super::answer::{MAX_OUTPUTS, MAX_RANK};
use super::metadata::Found;
use super::oip::{check_version, read_floats};
use super::pass::Passing;
use super::{Fault, Plan, PlanError, WireRequest};
use crate::protocol::Passed;
use crate::protocol::grpc::messages::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use crate::protocol::grpc::messages::{ModelInferRequest, ModelMetadataResponse};
use crate::protocol::grpc::{Malformed, fields};
use crate::tensor::{DType, Dim, Inputs, TensorSpec};

/// Of a `ModelInferResponse` what is read here; the rest is passed over without being made.
#[derive(Clone, PartialEq, prost::Message)]
struct Answer {
    #[prost(string, tag = "2")]
    model_version: String,
    #[prost(string, tag = "3")]
    id: String,
    #[prost(message, repeated, tag = "5")]
    outputs: Vec<Output>,
    #[prost(bytes = "bytes", repeated, tag = "6")]
    raw: Vec<Bytes>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Output {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    datatype: String,
    #[prost(int64, repeated, tag = "3")]
    shape: Vec<i64>,
    #[prost(message, optional, tag = "5")]
    contents: Option<Contents>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Contents {
    #[prost(float, repeated, tag = "6")]
    fp32: Vec<f32>,
    #[prost(double, repeated, tag = "7")]
    fp64: Vec<f64>,
}

/// What a model's metadata say.
///
/// # Errors
/// [`PlanError::Input`] for an input of an unknown element type.
pub fn found(metadata: ModelMetadataResponse) -> Result<Found, PlanError> {
    let dims =
        |shape: Vec<i64>| shape.into_iter().map(|size| usize::try_from(size).map_or(Dim::Any, Dim::Fixed)).collect();
    let inputs = metadata.inputs.into_iter().map(|tensor| {
        let dtype = DType::from_oip_name(&tensor.datatype).ok_or_else(|| {
            let name = crate::protocol::quoted(&tensor.name);
            PlanError::Input(format!("{name} has an element type that is not known here"))
        })?;
        Ok(TensorSpec { name: tensor.name, dtype, shape: dims(tensor.shape) })
    });
    let outputs = metadata.outputs.into_iter().map(|tensor| TensorSpec {
        dtype: DType::from_oip_name(&tensor.datatype).unwrap_or(DType::Bytes),
        name: tensor.name,
        shape: dims(tensor.shape),
    });
    Ok(Found {
        inputs: inputs.collect::<Result<_, _>>()?,
        outputs: outputs.collect(),
        platform: metadata.platform,
        versions: metadata.versions,
        binary: true,
    })
}

/// Writes a call for `inputs` that asks for the score output, and of those that pass for these, as raw bytes: an encoded
/// `ModelInferRequest`.
pub(super) fn write(plan: &Plan, inputs: &Inputs, passed: &[usize], id: &str) -> WireRequest {
    let passed = passed.iter().map(|&index| &plan.passed[index].name);
    let outputs = std::iter::once(&plan.spec.score_output).chain(passed);
    let outputs = outputs.map(|name| InferRequestedOutputTensor { name: name.clone(), ..Default::default() });
    let mut request = ModelInferRequest {
        model_name: plan.model.clone(),
        model_version: plan.version.clone().unwrap_or_default(),
        id: id.to_owned(),
        outputs: outputs.collect(),
        ..Default::default()
    };
    for tensor in inputs.tensors() {
        let mut raw = Vec::new();
        tensor.values().write_raw(&mut raw);
        request.raw_input_contents.push(raw.into());
        request.inputs.push(InferInputTensor {
            name: tensor.name().to_owned(),
            datatype: tensor.values().dtype().to_string(),
            shape: tensor.shape().iter().map(|&size| i64::try_from(size).unwrap_or(i64::MAX)).collect(),
            ..Default::default()
        });
    }
    WireRequest { header_length: None, body: request.encode_to_vec().into() }
}

/// Reads the scores of an encoded `ModelInferResponse`, and of the outputs that pass these; the others are dropped.
pub(super) fn read(
    plan: &Plan,
    body: &Bytes,
    n_rows: usize,
    passed: &[usize],
    id: &str,
) -> Result<(Vec<f32>, Passed), Fault> {
    check_size(body)?;
    // Clones a handle; raw tensors stay where they are.
    let answer = Answer::decode(body.clone()).map_err(|_| no_answer())?;
    if !answer.id.is_empty() && answer.id != id {
        return Err(Fault::answer("it answers another request"));
    }
    check_version(plan, Some(&answer.model_version))?;
    let raw = answer.raw;
    if !raw.is_empty() && raw.len() != answer.outputs.len() {
        return Err(Fault::answer("it has not as many raw tensors as outputs"));
    }
    let name = &plan.spec.score_output;
    let mut found = None;
    let mut passing = Passing::new(plan, passed, n_rows);
    for (position, output) in answer.outputs.into_iter().enumerate() {
        let shape: Option<Vec<usize>> = output.shape.iter().map(|&size| usize::try_from(size).ok()).collect();
        let raw = raw.get(position);
        if output.name != *name {
            passing.take(&output.name, &output.datatype, &shape.unwrap_or_default(), raw.map(|raw| &raw[..]))?;
        } else if found.is_some() {
            return Err(Fault::answer(format!("it has '{name}' twice")));
        } else {
            let shape = shape.ok_or_else(|| Fault::answer("its scores have a negative size"))?;
            plan.check_shape(&shape, n_rows)?;
            found = Some(scores(plan, output, raw, n_rows)?);
        }
    }
    let found = found.ok_or_else(|| Fault::answer(format!("'{name}' is not in it")))?;
    Ok((found, passing.finish()?))
}

fn scores(plan: &Plan, output: Output, raw: Option<&Bytes>, n_rows: usize) -> Result<Vec<f32>, Fault> {
    let dtype =
        DType::from_oip_name(&output.datatype).ok_or_else(|| Fault::answer("its scores have an unknown type"))?;
    // MLServer sends empty contents beside raw ones.
    let is_held = |contents: &Contents| raw.is_none() || *contents != Contents::default();
    match (raw, output.contents.filter(is_held)) {
        (Some(raw), None) => read_floats(dtype, raw, plan.n_scores(n_rows)),
        (None, Some(contents)) => typed(dtype, contents),
        (Some(_), Some(_)) | (None, None) => Err(Fault::answer("its scores stand in no one place")),
    }
}

fn typed(dtype: DType, contents: Contents) -> Result<Vec<f32>, Fault> {
    match dtype {
        DType::F32 => Ok(contents.fp32),
        DType::F64 => Ok(contents.fp64.into_iter().map(|value| value as f32).collect()),
        _ => Err(Fault::answer(format!("its scores are {dtype}, expected floating-point numbers"))),
    }
}

fn no_answer() -> Fault {
    Fault::answer("expected an inference.ModelInferResponse")
}

/// Counts outputs, raw tensors and dimensions before any is made: an empty output takes two bytes on the wire and some
/// hundred in memory.
fn check_size(message: &[u8]) -> Result<(), Fault> {
    let too_many = |what: &str, most: usize| Fault::answer(format!("it has more than {most} {what}"));
    let (mut n_outputs, mut n_raw, mut n_dims) = (0, 0, 0);
    fields(message, &mut |tag, value| {
        match (tag, value) {
            (5, Some(output)) => {
                n_outputs += 1;
                fields(output, &mut |tag, value| {
                    // Packed, a size takes at least a byte.
                    n_dims += usize::from(tag == 3) * value.map_or(1, <[u8]>::len);
                    if n_dims > MAX_OUTPUTS * MAX_RANK {
                        Err(too_many("dimensions", MAX_OUTPUTS * MAX_RANK))
                    } else {
                        Ok(())
                    }
                })?;
            }
            (6, _) => n_raw += 1,
            _ => {}
        }
        if n_outputs > MAX_OUTPUTS || n_raw > MAX_OUTPUTS { Err(too_many("outputs", MAX_OUTPUTS)) } else { Ok(()) }
    })
}

impl From<Malformed> for Fault {
    fn from(Malformed: Malformed) -> Self {
        no_answer()
    }
}
