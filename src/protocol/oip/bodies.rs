//! Bodies of the answers that are no inference: metadata, health, errors. The union of what the protocol's
//! clients read: a status code for some, JSON fields for others.

use serde::Serialize;
use serde_json::json;

use crate::defence::Form;
use crate::protocol::{ModelDescription, Refusal};
use crate::tensor::DType;

/// Only what is served is advertised.
const EXTENSIONS: [&str; 1] = ["binary_tensor_data"];

fn text(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_else(|_| b"{}".to_vec())
}

/// Body of `GET /v2`.
#[must_use]
pub fn server_metadata(version: &str) -> Vec<u8> {
    #[derive(Serialize)]
    struct Body<'a> {
        name: &'a str,
        version: &'a str,
        extensions: [&'a str; 1],
    }
    text(&Body { name: "sordino", version, extensions: EXTENSIONS })
}

/// Body of `GET /v2/models/{m}`: `-1` stands for the batch. `properties` holds the class names and, for every
/// output, what its values are (R2).
#[must_use]
pub fn model_metadata(model: &ModelDescription) -> Vec<u8> {
    #[derive(Serialize)]
    struct Tensor<'a> {
        name: &'a str,
        datatype: &'a str,
        shape: Vec<i64>,
    }
    #[derive(Serialize)]
    struct Body<'a> {
        name: &'a str,
        versions: [&'a str; 1],
        platform: &'a str,
        inputs: Vec<Tensor<'a>>,
        outputs: Vec<Tensor<'a>>,
        properties: std::collections::BTreeMap<String, String>,
    }
    let inputs = model.inputs.iter().map(|input| Tensor {
        name: &input.name,
        datatype: input.dtype.oip_name(),
        shape: input.shape.iter().map(|dim| dim.oip_size()).collect(),
    });
    let n_classes = i64::try_from(model.n_classes).unwrap_or(i64::MAX);
    let outputs = model.outputs.iter().map(|output| Tensor {
        name: &output.name,
        datatype: DType::F32.oip_name(),
        shape: vec![-1, n_classes],
    });
    let mut properties = model.properties.clone();
    if !model.labels.is_empty() {
        properties.entry("labels".to_owned()).or_insert_with(|| json!(model.labels).to_string());
    }
    for output in &model.outputs {
        let form = match output.form {
            Form::Probabilities => "probabilities",
            Form::LogProbabilities => "log_probabilities, floored at ln 1e-12",
        };
        properties.insert(format!("output.{}", output.name), form.to_owned());
    }
    text(&Body {
        name: &model.name,
        versions: [&model.version],
        platform: &model.platform,
        inputs: inputs.collect(),
        outputs: outputs.collect(),
        properties,
    })
}

/// Body of `GET /v2/health/live`.
#[must_use]
pub fn live_body() -> Vec<u8> {
    b"{\"live\":true}".to_vec()
}

/// Body of `GET /v2/health/ready`. `live` stands there too: one reading of the protocol looks for it.
#[must_use]
pub fn ready_body(ready: bool) -> Vec<u8> {
    format!("{{\"live\":true,\"ready\":{ready}}}").into_bytes()
}

/// Body of `GET /v2/models/{m}/ready`.
#[must_use]
pub fn model_ready_body(name: &str, ready: bool) -> Vec<u8> {
    #[derive(Serialize)]
    struct Body<'a> {
        name: &'a str,
        ready: bool,
    }
    text(&Body { name, ready })
}

/// Body of every answer that is an error.
#[must_use]
pub fn error_body(refusal: &Refusal) -> Vec<u8> {
    #[derive(Serialize)]
    struct Body<'a> {
        error: &'a str,
    }
    text(&Body { error: &refusal.message })
}
