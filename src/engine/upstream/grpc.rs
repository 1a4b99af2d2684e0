//! The Open Inference Protocol v2 over gRPC, as a client: messages out of checked inputs, and the scores out of an answer in
//! either of the two forms that servers use.

use super::metadata::Found;
use super::oip::{check_version, read_floats, write_raw};
use super::{Fault, Plan, PlanError};
use crate::defence::RawScores;
use crate::engine::EngineError;
use crate::protocol::grpc::messages::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use crate::protocol::grpc::messages::{
    InferTensorContents, ModelInferRequest, ModelInferResponse, ModelMetadataResponse,
};
use crate::tensor::{DType, Dim, Inputs, TensorSpec};

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

impl Plan {
    /// Writes a call for `inputs` that asks for the score output alone, as raw bytes.
    #[must_use]
    pub fn write_message(&self, inputs: &Inputs, id: &str) -> ModelInferRequest {
        let mut request = ModelInferRequest {
            model_name: self.model.clone(),
            model_version: self.version.clone().unwrap_or_default(),
            id: id.to_owned(),
            outputs: vec![InferRequestedOutputTensor { name: self.spec.score_output.clone(), ..Default::default() }],
            ..Default::default()
        };
        for tensor in inputs.tensors() {
            let mut raw = Vec::new();
            write_raw(&mut raw, tensor.values());
            request.raw_input_contents.push(raw.into());
            request.inputs.push(InferInputTensor {
                name: tensor.name().to_owned(),
                datatype: tensor.values().dtype().to_string(),
                shape: tensor.shape().iter().map(|&size| i64::try_from(size).unwrap_or(i64::MAX)).collect(),
                ..Default::default()
            });
        }
        request
    }

    /// Reads an answer to a call of `n_rows` rows.
    ///
    /// # Errors
    /// As [`Plan::read`].
    pub fn read_message(&self, answer: ModelInferResponse, n_rows: usize, id: &str) -> Result<RawScores, EngineError> {
        if !answer.id.is_empty() && answer.id != id {
            return Err(Fault::answer("it answers another request").into());
        }
        check_version(self, Some(&answer.model_version))?;
        let raw = answer.raw_output_contents;
        if !raw.is_empty() && raw.len() != answer.outputs.len() {
            return Err(Fault::answer("it has not as many raw tensors as outputs").into());
        }
        let name = &self.spec.score_output;
        let mut found = answer.outputs.into_iter().enumerate().filter(|(_, output)| output.name == *name);
        let (position, output) = found.next().ok_or_else(|| Fault::answer(format!("'{name}' is not in it")))?;
        if found.next().is_some() {
            return Err(Fault::answer(format!("it has '{name}' twice")).into());
        }
        let shape: Option<Vec<usize>> = output.shape.iter().map(|&size| usize::try_from(size).ok()).collect();
        let shape = shape.ok_or_else(|| Fault::answer("its scores have a negative size"))?;
        self.check_shape(&shape, n_rows)?;
        let dtype =
            DType::from_oip_name(&output.datatype).ok_or_else(|| Fault::answer("its scores have an unknown type"))?;
        // MLServer sends empty contents beside raw ones.
        let is_held = |contents: &InferTensorContents| raw.is_empty() || *contents != InferTensorContents::default();
        let values = match (raw.get(position), output.contents.filter(is_held)) {
            (Some(raw), None) => read_floats(dtype, raw)?,
            (None, Some(contents)) => typed(dtype, contents)?,
            (Some(_), Some(_)) | (None, None) => return Err(Fault::answer("its scores stand in no one place").into()),
        };
        self.seal(values, n_rows)
    }
}

fn typed(dtype: DType, contents: InferTensorContents) -> Result<Vec<f32>, Fault> {
    match dtype {
        DType::F32 => Ok(contents.fp32_contents),
        DType::F64 => Ok(contents.fp64_contents.into_iter().map(|value| value as f32).collect()),
        _ => Err(Fault::answer(format!("its scores are {dtype}, expected floating-point numbers"))),
    }
}
