//! Bodies of the answers that are no prediction. One object carries what the clients of both servers read.

use serde_json::{Value, json};

use crate::protocol::ModelDescription;
use crate::tensor::DType;

/// Body of `GET /`: KServe's word that the process runs.
#[must_use]
pub fn alive_body() -> Vec<u8> {
    b"{\"status\":\"alive\"}".to_vec()
}

/// Body of `GET /v1/models`: KServe's list.
#[must_use]
pub fn model_list<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<u8> {
    let names: Vec<&str> = names.into_iter().collect();
    json!({ "models": names }).to_string().into_bytes()
}

/// Body of `GET /v1/models/M`: TensorFlow Serving's state of each version, KServe's `ready`.
#[must_use]
pub fn model_status<'a>(name: &str, versions: impl IntoIterator<Item = &'a str>, ready: bool) -> Vec<u8> {
    let state = if ready { "AVAILABLE" } else { "UNLOADING" };
    let status: Vec<Value> = versions
        .into_iter()
        .map(|version| {
            json!({ "version": version, "state": state, "status": { "error_code": "OK", "error_message": "" } })
        })
        .collect();
    json!({ "name": name, "ready": ready, "model_version_status": status }).to_string().into_bytes()
}

/// Body of `GET /v1/models/M/metadata`: the signature that is served, under its usual name.
#[must_use]
pub fn model_metadata(model: &ModelDescription) -> Vec<u8> {
    let shape = |sizes: &[i64]| {
        let dims: Vec<Value> = sizes.iter().map(|size| json!({ "size": size.to_string(), "name": "" })).collect();
        json!({ "dim": dims, "unknown_rank": false })
    };
    let tensor = |name: &str, dtype: DType, sizes: &[i64]| json!({ "dtype": dtype_name(dtype), "tensor_shape": shape(sizes), "name": name });
    let inputs: serde_json::Map<String, Value> = model
        .inputs
        .iter()
        .map(|spec| {
            let sizes: Vec<i64> = spec.shape.iter().map(|dim| dim.oip_size()).collect();
            (spec.name.clone(), tensor(&spec.name, spec.dtype, &sizes))
        })
        .collect();
    let sizes = [-1, i64::try_from(model.n_classes).unwrap_or(i64::MAX)];
    let outputs: serde_json::Map<String, Value> =
        model.outputs.iter().map(|output| (output.name.clone(), tensor(&output.name, DType::F32, &sizes))).collect();
    let signature = json!({ "inputs": inputs, "outputs": outputs, "method_name": "tensorflow/serving/predict" });
    json!({
        "model_spec": { "name": model.name, "signature_name": "", "version": model.version },
        "metadata": { "signature_def": { "signature_def": { "serving_default": signature } } },
    })
    .to_string()
    .into_bytes()
}

/// The name that TensorFlow gives an element type.
fn dtype_name(dtype: DType) -> &'static str {
    match dtype {
        DType::Bool => "DT_BOOL",
        DType::U8 => "DT_UINT8",
        DType::U16 => "DT_UINT16",
        DType::U32 => "DT_UINT32",
        DType::U64 => "DT_UINT64",
        DType::I8 => "DT_INT8",
        DType::I16 => "DT_INT16",
        DType::I32 => "DT_INT32",
        DType::I64 => "DT_INT64",
        DType::F16 => "DT_HALF",
        DType::Bf16 => "DT_BFLOAT16",
        DType::F32 => "DT_FLOAT",
        DType::F64 => "DT_DOUBLE",
        DType::Bytes => "DT_STRING",
    }
}
