//! What another server says of itself and of its model, read leniently: fields may be absent, `null` or of an unknown kind.

use serde::Deserialize;
use serde_json::Value;

use super::PlanError;
use crate::tensor::{DType, Dim, TensorSpec};

/// What was found out about a model.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Found {
    /// Inputs with element types that are known here.
    pub inputs: Vec<TensorSpec>,
    /// Outputs; one of an unknown type counts as bytes.
    pub outputs: Vec<TensorSpec>,
    /// The platform string.
    pub platform: String,
    /// The versions that it names.
    pub versions: Vec<String>,
    /// Whether the server takes and gives raw bytes over REST.
    pub binary: bool,
}

#[derive(Deserialize)]
struct Tensor {
    name: String,
    #[serde(default)]
    datatype: Option<String>,
    #[serde(default)]
    shape: Option<Vec<Value>>,
}

#[derive(Deserialize)]
struct Model {
    #[serde(default)]
    platform: Option<String>,
    #[serde(default)]
    versions: Option<Vec<String>>,
    #[serde(default)]
    inputs: Option<Vec<Tensor>>,
    #[serde(default)]
    outputs: Option<Vec<Tensor>>,
}

/// Reads `GET /v2/models/M`; `extensions` is whether the server's metadata named binary tensors.
///
/// # Errors
/// [`PlanError::Metadata`] and [`PlanError::Input`].
pub fn oip(body: &[u8], binary: bool) -> Result<Found, PlanError> {
    let model: Model = serde_json::from_slice(body)
        .map_err(|_| PlanError::Metadata("expected the JSON of a model with inputs and outputs".into()))?;
    let inputs = model.inputs.unwrap_or_default().into_iter().map(|tensor| {
        let dtype = tensor.datatype.as_deref().and_then(DType::from_oip_name);
        let dtype = dtype.ok_or_else(|| {
            let name = crate::protocol::quoted(&tensor.name);
            PlanError::Input(format!("{name} has an element type that is not known here"))
        })?;
        Ok(TensorSpec { shape: dims(tensor.shape.as_deref()), name: tensor.name, dtype })
    });
    let outputs = model.outputs.unwrap_or_default().into_iter().map(|tensor| TensorSpec {
        dtype: tensor.datatype.as_deref().and_then(DType::from_oip_name).unwrap_or(DType::Bytes),
        shape: dims(tensor.shape.as_deref()),
        name: tensor.name,
    });
    Ok(Found {
        inputs: inputs.collect::<Result<_, _>>()?,
        outputs: outputs.collect(),
        platform: model.platform.unwrap_or_default(),
        versions: model.versions.unwrap_or_default(),
        binary,
    })
}

/// Whether `GET /v2` names an extension.
#[must_use]
pub fn has_extension(body: &[u8], extension: &str) -> bool {
    let server: Value = serde_json::from_slice(body).unwrap_or_default();
    server["extensions"].as_array().is_some_and(|names| names.iter().any(|name| name == extension))
}

fn dims(shape: Option<&[Value]>) -> Vec<Dim> {
    // Some servers write sizes as text.
    let size = |value: &Value| value.as_i64().or_else(|| value.as_str()?.parse().ok()).unwrap_or(-1);
    shape.unwrap_or_default().iter().map(|value| usize::try_from(size(value)).map_or(Dim::Any, Dim::Fixed)).collect()
}

/// Reads `GET /v1/models/M/metadata` of TensorFlow Serving for one signature.
///
/// # Errors
/// [`PlanError`] where the signature is not there or an input cannot be fed.
pub fn tfserving(body: &[u8], signature: &str) -> Result<Found, PlanError> {
    let wrong = |text: &str| PlanError::Metadata(text.to_owned());
    let all: Value = serde_json::from_slice(body).map_err(|_| wrong("expected JSON"))?;
    let signatures = &all["metadata"]["signature_def"]["signature_def"];
    let found = signatures.get(signature).ok_or_else(|| {
        let names: Vec<String> =
            signatures.as_object().into_iter().flatten().map(|(name, _)| crate::protocol::quoted(name)).collect();
        PlanError::Metadata(format!("expected the signature '{signature}', it has {}", names.join(", ")))
    })?;
    let read = |key: &str| -> Vec<(String, Option<DType>, Vec<Dim>)> {
        let tensors = found[key].as_object().into_iter().flatten();
        tensors
            .map(|(name, tensor)| {
                let dim: Vec<Value> = tensor["tensor_shape"]["dim"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(|dim| dim["size"].clone())
                    .collect();
                (name.clone(), tensor["dtype"].as_str().and_then(tf_dtype), dims(Some(&dim)))
            })
            .collect()
    };
    let inputs = read("inputs").into_iter().map(|(name, dtype, shape)| {
        let unknown =
            || PlanError::Input(format!("{} has an element type that cannot be fed", crate::protocol::quoted(&name)));
        Ok(TensorSpec { dtype: dtype.ok_or_else(unknown)?, shape, name: name.clone() })
    });
    let outputs = read("outputs").into_iter().map(|(name, dtype, shape)| TensorSpec {
        name,
        dtype: dtype.unwrap_or(DType::Bytes),
        shape,
    });
    Ok(Found {
        inputs: inputs.collect::<Result<_, _>>()?,
        outputs: outputs.collect(),
        platform: "tensorflow_savedmodel".to_owned(),
        versions: version_of(&all["model_spec"]["version"]).into_iter().collect(),
        binary: false,
    })
}

/// A version, written as text or as a number.
fn version_of(value: &Value) -> Option<String> {
    let digits = |text: &String| !text.is_empty() && text.len() <= 19 && text.bytes().all(|byte| byte.is_ascii_digit());
    value.as_str().map(str::to_owned).or_else(|| value.as_u64().map(|number| number.to_string())).filter(digits)
}

fn tf_dtype(name: &str) -> Option<DType> {
    Some(match name {
        "DT_FLOAT" => DType::F32,
        "DT_DOUBLE" => DType::F64,
        "DT_INT8" => DType::I8,
        "DT_INT16" => DType::I16,
        "DT_INT32" => DType::I32,
        "DT_INT64" => DType::I64,
        "DT_UINT8" => DType::U8,
        "DT_UINT16" => DType::U16,
        "DT_UINT32" => DType::U32,
        "DT_UINT64" => DType::U64,
        "DT_BOOL" => DType::Bool,
        _ => return None,
    })
}

/// Whether an answer of a V1 model's status says that it serves: TensorFlow Serving's states, or KServe's `ready`.
#[must_use]
pub fn v1_is_ready(body: &[u8]) -> bool {
    let status: Value = serde_json::from_slice(body).unwrap_or_default();
    let available = |version: &Value| version["state"] == "AVAILABLE";
    let ready = &status["ready"];
    status["model_version_status"].as_array().is_some_and(|versions| versions.iter().any(available))
        || *ready == true
        || ready.as_str().is_some_and(|text| text.eq_ignore_ascii_case("true"))
}
