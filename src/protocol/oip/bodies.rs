//! Bodies of the answers that are no inference: metadata, health, errors. The union of what the protocol's
//! clients read: a status code for some, JSON fields for others.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};

use crate::defence::Form;
use crate::protocol::reports::{Extensions, IndexEntry, ModelStatistics, Tally};
use crate::protocol::{ModelDescription, Refusal};
use crate::tensor::DType;

fn text(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_else(|_| b"{}".to_vec())
}

/// The server's name in its metadata.
pub(in crate::protocol) const SERVER: &str = "sordino";

/// Body of `GET /v2`: only what is served is advertised.
#[must_use]
pub fn server_metadata(version: &str, extensions: Extensions) -> Vec<u8> {
    #[derive(Serialize)]
    struct Body<'a> {
        name: &'a str,
        version: &'a str,
        extensions: Vec<&'static str>,
    }
    text(&Body { name: SERVER, version, extensions: extensions.names() })
}

/// Body of `GET /v2/models/{m}`: `-1` stands for the batch. `properties` holds the class names and, for every
/// output, what its values are (R2).
#[must_use]
pub fn model_metadata(model: &ModelDescription, versions: &[&str]) -> Vec<u8> {
    #[derive(Serialize)]
    struct Tensor<'a> {
        name: &'a str,
        datatype: &'a str,
        shape: Vec<i64>,
    }
    #[derive(Serialize)]
    struct Body<'a> {
        name: &'a str,
        versions: &'a [&'a str],
        platform: &'a str,
        inputs: Vec<Tensor<'a>>,
        outputs: Vec<Tensor<'a>>,
        properties: BTreeMap<String, String>,
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
    let passed = model.passed.iter().map(|spec| Tensor {
        name: &spec.name,
        datatype: spec.dtype.oip_name(),
        shape: spec.shape.iter().map(|dim| dim.oip_size()).collect(),
    });
    text(&Body {
        name: &model.name,
        versions,
        platform: &model.platform,
        inputs: inputs.collect(),
        outputs: outputs.chain(passed).collect(),
        properties: properties(model),
    })
}

/// The facts of a model that have no field of their own: its labels, and what the values of each output are (R2).
pub(in crate::protocol) fn properties(model: &ModelDescription) -> BTreeMap<String, String> {
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
    for spec in &model.passed {
        properties.insert(format!("output.{}", spec.name), "passed on undefended, as its operator says".to_owned());
    }
    properties
}

/// Body of `GET /v2/models/{m}/config`: what load tools and clients read of Triton's model configuration.
///
/// A request may hold up to `max_rows` rows, so shapes leave out the batch. No files, instances or schedules are told.
#[must_use]
pub fn model_config(model: &ModelDescription, max_rows: usize) -> Vec<u8> {
    let dims = |spec: &crate::tensor::TensorSpec| -> Vec<i64> {
        spec.shape.iter().skip(1).map(|dim| dim.oip_size()).collect()
    };
    let inputs: Vec<Value> = model
        .inputs
        .iter()
        .map(|spec| json!({ "name": spec.name, "data_type": config_type(spec.dtype), "format": "FORMAT_NONE", "dims": dims(spec) }))
        .collect();
    let outputs: Vec<Value> = model
        .outputs
        .iter()
        .map(|output| json!({ "name": output.name, "data_type": config_type(DType::F32), "dims": [model.n_classes], "label_filename": "" }))
        .chain(model.passed.iter().map(|spec| {
            json!({ "name": spec.name, "data_type": config_type(spec.dtype), "dims": dims(spec), "label_filename": "" })
        }))
        .collect();
    text(&json!({
        "name": model.name,
        "platform": model.platform,
        "backend": SERVER,
        "version_policy": { "all": {} },
        "max_batch_size": max_batch_size(max_rows),
        "input": inputs,
        "output": outputs,
        "instance_group": [],
        "model_transaction_policy": { "decoupled": false },
        "parameters": {},
    }))
}

/// The most rows as the configuration counts them.
pub(in crate::protocol) fn max_batch_size(max_rows: usize) -> i32 {
    i32::try_from(max_rows).unwrap_or(i32::MAX)
}

/// The name of an element type in a model's configuration.
fn config_type(dtype: DType) -> String {
    match dtype {
        DType::Bytes => "TYPE_STRING".to_owned(),
        dtype => format!("TYPE_{dtype}"),
    }
}

/// Body of `GET /v2/models/{m}/stats` and `GET /v2/models/stats`. Nothing is told by batch size.
#[must_use]
pub fn statistics(models: &[ModelStatistics]) -> Vec<u8> {
    let tally = |tally: &Tally| json!({ "count": tally.count, "ns": tally.nanos() });
    let none = Tally::default();
    let entries: Vec<Value> = models
        .iter()
        .map(|model| {
            json!({
                "name": model.name,
                "version": model.version,
                "last_inference": model.last_inference,
                "inference_count": model.rows,
                "execution_count": model.runs,
                "inference_stats": {
                    "success": tally(&model.success),
                    "fail": tally(&model.fail),
                    "queue": tally(&model.queue),
                    "compute_input": tally(&model.input),
                    "compute_infer": tally(&model.infer),
                    "compute_output": tally(&model.output),
                    "cache_hit": tally(&none),
                    "cache_miss": tally(&none),
                },
                "response_stats": {},
                "batch_stats": [],
                "memory_usage": [],
            })
        })
        .collect();
    text(&json!({ "model_stats": entries }))
}

/// Body of `POST /v2/repository/index`.
#[must_use]
pub fn index(entries: &[IndexEntry]) -> Vec<u8> {
    let entry = |entry: &IndexEntry| json!({ "name": entry.name, "version": entry.version, "state": entry.state(), "reason": entry.reason });
    text(&entries.iter().map(entry).collect::<Vec<_>>())
}

/// Body of `GET /v2/models`: KServe's list.
#[must_use]
pub fn model_list<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<u8> {
    text(&json!({ "models": names.into_iter().collect::<Vec<_>>() }))
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
