//! Messages of the answers that are no inference, filled from the same facts as the bodies over REST.

use prost::Message as _;

use super::messages;
use super::messages::model_metadata_response::TensorMetadata;
use super::messages::repository_index_response::ModelIndex;
use super::messages::{
    DataType, InferStatistics, ModelConfig, ModelConfigResponse, ModelInput, ModelMetadataResponse, ModelOutput,
    ModelStatisticsResponse, ModelTransactionPolicy, ModelVersionPolicy, RepositoryIndexResponse,
    ServerMetadataResponse, StatisticDuration, model_version_policy,
};
use crate::protocol::reports::{Extensions, IndexEntry, ModelStatistics, Tally};
use crate::protocol::{Answer, ModelDescription, Refusal, oip};
use crate::tensor::{DType, TensorSpec};

/// Answers `ServerMetadata`.
#[must_use]
pub fn server_metadata(version: &str, extensions: Extensions) -> ServerMetadataResponse {
    ServerMetadataResponse {
        name: oip::SERVER.to_owned(),
        version: version.to_owned(),
        extensions: extensions.names().into_iter().map(str::to_owned).collect(),
    }
}

/// Answers `ModelMetadata`.
#[must_use]
pub fn model_metadata(model: &ModelDescription, versions: &[&str]) -> ModelMetadataResponse {
    let tensor = |name: &str, dtype: DType, shape: Vec<i64>| TensorMetadata {
        name: name.to_owned(),
        datatype: dtype.oip_name().to_owned(),
        shape,
    };
    let inputs = model
        .inputs
        .iter()
        .map(|spec| tensor(&spec.name, spec.dtype, spec.shape.iter().map(|dim| dim.oip_size()).collect()));
    let outputs = model.outputs.iter().map(|output| tensor(&output.name, DType::F32, vec![-1, n_classes(model)]));
    let sizes = |spec: &TensorSpec| spec.shape.iter().map(|dim| dim.oip_size()).collect();
    let passed = model.passed.iter().map(|spec| tensor(&spec.name, spec.dtype, sizes(spec)));
    ModelMetadataResponse {
        name: model.name.clone(),
        versions: versions.iter().map(|&version| version.to_owned()).collect(),
        platform: model.platform.clone(),
        inputs: inputs.collect(),
        outputs: outputs.chain(passed).collect(),
        properties: oip::properties(model),
    }
}

fn n_classes(model: &ModelDescription) -> i64 {
    i64::try_from(model.n_classes).unwrap_or(i64::MAX)
}

/// Answers `ModelConfig`: as [`oip::model_config`].
#[must_use]
pub fn model_config(model: &ModelDescription, max_rows: usize) -> ModelConfigResponse {
    let inputs = model.inputs.iter().map(|spec| ModelInput {
        name: spec.name.clone(),
        data_type: data_type(spec.dtype).into(),
        dims: spec.shape.iter().skip(1).map(|dim| dim.oip_size()).collect(),
    });
    let outputs = model.outputs.iter().map(|output| ModelOutput {
        name: output.name.clone(),
        data_type: data_type(DType::F32).into(),
        dims: vec![n_classes(model)],
        label_filename: String::new(),
    });
    let passed = model.passed.iter().map(|spec| ModelOutput {
        name: spec.name.clone(),
        data_type: data_type(spec.dtype).into(),
        dims: spec.shape.iter().skip(1).map(|dim| dim.oip_size()).collect(),
        label_filename: String::new(),
    });
    let all = model_version_policy::PolicyChoice::All(model_version_policy::All {});
    ModelConfigResponse {
        config: Some(ModelConfig {
            name: model.name.clone(),
            platform: model.platform.clone(),
            backend: oip::SERVER.to_owned(),
            version_policy: Some(ModelVersionPolicy { policy_choice: Some(all) }),
            max_batch_size: oip::max_batch_size(max_rows),
            input: inputs.collect(),
            output: outputs.chain(passed).collect(),
            model_transaction_policy: Some(ModelTransactionPolicy { decoupled: false }),
            ..ModelConfig::default()
        }),
    }
}

fn data_type(dtype: DType) -> DataType {
    match dtype {
        DType::Bool => DataType::TypeBool,
        DType::U8 => DataType::TypeUint8,
        DType::U16 => DataType::TypeUint16,
        DType::U32 => DataType::TypeUint32,
        DType::U64 => DataType::TypeUint64,
        DType::I8 => DataType::TypeInt8,
        DType::I16 => DataType::TypeInt16,
        DType::I32 => DataType::TypeInt32,
        DType::I64 => DataType::TypeInt64,
        DType::F16 => DataType::TypeFp16,
        DType::Bf16 => DataType::TypeBf16,
        DType::F32 => DataType::TypeFp32,
        DType::F64 => DataType::TypeFp64,
        DType::Bytes => DataType::TypeString,
    }
}

/// Answers `ModelStatistics`: as [`oip::statistics`].
#[must_use]
pub fn statistics(models: &[ModelStatistics]) -> ModelStatisticsResponse {
    let tally = |tally: &Tally| Some(StatisticDuration { count: tally.count, ns: tally.nanos() });
    let none = Tally::default();
    let entries = models.iter().map(|model| messages::ModelStatistics {
        name: model.name.clone(),
        version: model.version.clone(),
        last_inference: model.last_inference,
        inference_count: model.rows,
        execution_count: model.runs,
        inference_stats: Some(InferStatistics {
            success: tally(&model.success),
            fail: tally(&model.fail),
            queue: tally(&model.queue),
            compute_input: tally(&model.input),
            compute_infer: tally(&model.infer),
            compute_output: tally(&model.output),
            cache_hit: tally(&none),
            cache_miss: tally(&none),
        }),
        batch_stats: Vec::new(),
    });
    ModelStatisticsResponse { model_stats: entries.collect() }
}

/// Answers `RepositoryIndex`.
#[must_use]
pub fn index(entries: &[IndexEntry]) -> RepositoryIndexResponse {
    let models = entries.iter().map(|entry| ModelIndex {
        name: entry.name.clone(),
        version: entry.version.clone(),
        state: entry.state().to_owned(),
        reason: entry.reason.clone(),
    });
    RepositoryIndexResponse { models: models.collect() }
}

/// The field of a `ModelStreamInferResponse` that holds an answer, by its number and wire type.
const INFER_RESPONSE: u8 = (2 << 3) | 2;

/// An answer as an encoded message of a stream: the encoded answer stands in it as it is.
#[must_use]
pub fn stream_answer(answer: &Answer) -> Vec<u8> {
    let mut message = Vec::with_capacity(answer.body.len() + 11);
    message.push(INFER_RESPONSE);
    prost::encoding::encode_varint(answer.body.len() as u64, &mut message);
    message.extend_from_slice(&answer.body);
    message
}

/// A refusal as an encoded message of a stream; the request's id is told, so that the client knows which one.
#[must_use]
pub fn stream_error(refusal: &Refusal, id: &str) -> Vec<u8> {
    let answer = messages::ModelInferResponse { id: id.to_owned(), ..Default::default() };
    let message =
        messages::ModelStreamInferResponse { error_message: refusal.message.clone(), infer_response: Some(answer) };
    message.encode_to_vec()
}

/// Refuses parameters of a load: files and configurations come from the operator's folder alone.
///
/// # Errors
/// When there is one.
pub fn no_overrides<'a>(keys: impl IntoIterator<Item = &'a String>) -> Result<(), Refusal> {
    oip::no_overrides(keys)
}
