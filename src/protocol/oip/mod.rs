//! Open Inference Protocol v2 over REST: an inference request read, its reply written, and the bodies of the
//! metadata, health and error answers.
//!
//! A call is split at once into [`Inputs`] for the engine and a [`ReplyPlan`]; they meet again in
//! [`encode_infer`], which takes [`Defended`] scores and nothing else. Both forms are served in both
//! directions: JSON tensors, and the binary tensor data extension.
//!
//! What is refused rather than guessed: parameters without a rule (see the table in `parameters.rs`), unknown
//! or repeated inputs and outputs, FP16 and BF16 in JSON, BYTES inputs, ragged arrays, NaN and infinities (R8), bytes
//! too few or too many. Unknown fields outside of `parameters` are ignored, as the protocol asks.

mod bodies;
mod header;
mod numbers;
mod repository;
#[cfg(test)]
mod tests;

use std::io::Write as _;
use std::time::Duration;

use ndarray::ArrayView2;

use self::header::{Header, Payload, WireInput, read_header};
use super::inputs::{Slots, checked, one_batch, raw_tensor, same_dtype};
use super::outputs::{PlannedOutput, Scores, WantedOutput, is_score, passed_of, plan_outputs};
use super::{Answer, ModelDescription, Passed, Refusal, RefusalKind, quoted};
use crate::defence::Defended;
use crate::tensor::{Dim, InputTensor, Inputs, TensorSpec, shape_text};

#[cfg(feature = "serve")]
pub(in crate::protocol) use self::bodies::{SERVER, max_batch_size, properties};
pub use self::bodies::{
    error_body, index, live_body, model_config, model_list, model_metadata, model_ready_body, ready_body,
    server_metadata, statistics,
};
pub use self::repository::RepositoryRequest;
#[cfg(feature = "serve")]
pub(in crate::protocol) use self::repository::no_overrides;

/// The header that tells the length of the JSON part.
pub const HEADER_LENGTH: &str = "inference-header-content-length";

/// How a reply will be written: the id to echo, and the outputs in their order and form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplyPlan {
    id: Option<String>,
    /// How long the request may take, by its own word.
    pub(in crate::protocol) timeout: Option<Duration>,
    /// What passes by the defence.
    pub(in crate::protocol) passed: Passed,
    outputs: Vec<PlannedOutput>,
}

impl ReplyPlan {
    pub(in crate::protocol) fn wanted_to_pass(&self, model: &ModelDescription) -> Vec<usize> {
        passed_of(model, &self.outputs)
    }
}

/// Reads an inference request into checked inputs, in the model's order, and the plan of its reply.
///
/// `header_length` is the value of [`HEADER_LENGTH`]: absent, the whole body is JSON; `0`, the body is the raw
/// bytes of the model's only input, one row, and all outputs come back binary.
///
/// # Errors
/// A bad request that says what was expected and what came; never a value.
pub fn decode_infer(
    model: &ModelDescription,
    header_length: Option<&str>,
    body: &[u8],
) -> Result<(Inputs, ReplyPlan), Refusal> {
    let (json, raw) = match header_length {
        None => (body, &[][..]),
        Some(text) => match parse_header_length(text, body.len())? {
            0 => return decode_raw(model, body),
            length => body.split_at(length),
        },
    };
    let mut header = read_header(json, model.inputs.len())?;
    let plan = plan_reply(model, &mut header)?;
    let inputs = read_inputs(model, header.inputs, raw)?;
    Ok((inputs, plan))
}

fn parse_header_length(text: &str, body_length: usize) -> Result<usize, Refusal> {
    let digits = !text.is_empty() && text.len() <= 19 && text.bytes().all(|byte| byte.is_ascii_digit());
    let length = if digits { text.parse().ok() } else { None };
    length.filter(|&length: &usize| length <= body_length).ok_or_else(|| {
        Refusal::bad_request(format!(
            "Inference-Header-Content-Length is the number of bytes of the JSON part, from 0 to the {body_length} \
             bytes of this body, got {}",
            quoted(text)
        ))
    })
}

/// A body that is nothing but the raw bytes of the only input.
fn decode_raw(model: &ModelDescription, body: &[u8]) -> Result<(Inputs, ReplyPlan), Refusal> {
    let [spec] = model.inputs.as_slice() else {
        return Err(Refusal::bad_request(format!(
            "a raw binary request needs a model of one input, model {} has {}",
            quoted(&model.name),
            model.inputs.len()
        )));
    };
    let shape = raw_shape(spec, body.len()).ok_or_else(|| {
        Refusal::bad_request(format!(
            "a raw binary request holds one row of input {} ({} {}), got {} bytes",
            quoted(&spec.name),
            spec.dtype,
            spec.shape_text(),
            body.len()
        ))
    })?;
    let tensor = raw_tensor(spec, &shape, body)?;
    Ok((
        one_batch(vec![tensor])?,
        ReplyPlan { id: None, timeout: None, passed: Passed::default(), outputs: plan_outputs(model, [], true)? },
    ))
}

/// The shape of one row, if that is what `n_bytes` are. A model with an open dimension after the batch is not served.
fn raw_shape(spec: &TensorSpec, n_bytes: usize) -> Option<Vec<usize>> {
    let mut shape = vec![1];
    for dim in spec.shape.iter().skip(1) {
        match *dim {
            Dim::Fixed(size) => shape.push(size),
            Dim::Any => return None,
        }
    }
    let n_elements = shape.iter().try_fold(1_usize, |all, &size| all.checked_mul(size))?;
    (n_bytes > 0 && n_elements.checked_mul(spec.dtype.size()?) == Some(n_bytes)).then_some(shape)
}

/// `binary_data_output` is the default of every output, listed or not; `binary_data` overrides it.
fn plan_reply(model: &ModelDescription, header: &mut Header) -> Result<ReplyPlan, Refusal> {
    let default = header.binary_outputs.unwrap_or(false);
    let wanted = header.outputs.iter().map(|output| WantedOutput {
        name: &output.name,
        binary: output.binary.unwrap_or(default),
        classes: output.classes,
    });
    let outputs = plan_outputs(model, wanted, default)?;
    Ok(ReplyPlan { id: header.id.take(), timeout: header.timeout, passed: Passed::default(), outputs })
}

/// Checks the inputs against the model and puts them in its order. Binary tensors are taken from `raw` in the
/// order of the request.
fn read_inputs(model: &ModelDescription, wire: Vec<WireInput>, mut raw: &[u8]) -> Result<Inputs, Refusal> {
    let mut slots = Slots::new(model);
    for input in wire {
        let (index, spec) = slots.place(&input.name)?;
        slots.put(index, read_input(model, spec, input, &mut raw)?);
    }
    if !raw.is_empty() {
        return Err(Refusal::bad_request(format!(
            "unexpected additional input data for model {}: {} bytes after the last binary tensor",
            quoted(&model.name),
            raw.len()
        )));
    }
    slots.finish()
}

fn read_input(
    model: &ModelDescription,
    spec: &TensorSpec,
    input: WireInput,
    raw: &mut &[u8],
) -> Result<InputTensor, Refusal> {
    let shown = || quoted(&spec.name);
    same_dtype(model, spec, input.dtype)?;
    match input.payload {
        Payload::Json(values, nesting) => {
            if nesting.fits(&input.shape) {
                return checked(spec, &input.shape, values);
            }
            Err(Refusal::bad_request(format!(
                "'data' of input {} is an array of shape {}, its 'shape' says {}",
                shown(),
                nesting.shape_text(),
                shape_text(&input.shape)
            )))
        }
        Payload::Binary(size) => {
            let Some((bytes, rest)) = raw.split_at_checked(size) else {
                return Err(Refusal::bad_request(format!(
                    "unexpected size for input {}, expecting {} additional bytes for model {}; the length of the \
                     JSON part must stand in Inference-Header-Content-Length",
                    shown(),
                    size - raw.len(),
                    quoted(&model.name)
                )));
            };
            *raw = rest;
            raw_tensor(spec, &input.shape, bytes)
        }
        Payload::Unread => Err(Refusal::bad_request(format!("'data' of input {} cannot be read", shown()))),
    }
}

/// Writes the reply that was planned. An output is FP32 of shape `(n_rows, n_classes)`, or BYTES where a classification
/// was asked for.
///
/// Numbers are the shortest decimals that read back as the same f32. Keys stand in a fixed order: `id`,
/// `model_name`, `model_version`, `outputs`; in an output `name`, `datatype`, `shape`, then `data` or
/// `parameters`.
#[must_use]
pub fn encode_infer(model: &ModelDescription, plan: ReplyPlan, defended: &Defended) -> Answer {
    let n_values = defended.n_rows() * defended.n_classes();
    let mut body = Vec::with_capacity(256 + plan.outputs.len() * (96 + n_values * 12));
    let scores = Scores::new(model, &plan.outputs, defended);
    body.push(b'{');
    if let Some(id) = &plan.id {
        body.extend_from_slice(b"\"id\":");
        write_json(&mut body, id.as_str());
        body.push(b',');
    }
    body.extend_from_slice(b"\"model_name\":");
    write_json(&mut body, model.name.as_str());
    body.extend_from_slice(b",\"model_version\":");
    write_json(&mut body, model.version.as_str());
    body.extend_from_slice(b",\"outputs\":[");
    let mut raw = Vec::new();
    for (position, &planned) in plan.outputs.iter().enumerate() {
        if position > 0 {
            body.push(b',');
        }
        if is_score(model, planned) {
            write_output(&mut body, &mut raw, model, &scores, planned);
        } else {
            write_passed(&mut body, &mut raw, model, &plan.passed, planned);
        }
    }
    body.extend_from_slice(b"]}");
    let binary = plan.outputs.iter().any(|planned| planned.binary);
    let header_length = binary.then_some(body.len());
    body.append(&mut raw);
    Answer { header_length, body }
}

fn write_output(
    body: &mut Vec<u8>,
    raw: &mut Vec<u8>,
    model: &ModelDescription,
    scores: &Scores<'_>,
    planned: PlannedOutput,
) {
    body.extend_from_slice(b"{\"name\":");
    write_json(body, model.outputs[planned.index].name.as_str());
    body.extend_from_slice(b",\"datatype\":\"");
    body.extend_from_slice(Scores::datatype(planned).as_bytes());
    body.extend_from_slice(b"\",\"shape\":");
    write_json(body, &scores.shape(planned));
    if planned.binary {
        let start = raw.len();
        scores.write_raw(planned, raw);
        body.extend_from_slice(b",\"parameters\":{\"binary_data_size\":");
        write_json(body, &(raw.len() - start));
        body.extend_from_slice(b"}}");
        return;
    }
    body.extend_from_slice(b",\"data\":");
    match planned.classes {
        None => write_data(body, &scores.values(planned)),
        Some(_) => write_json(body, &scores.classes(planned)),
    }
    body.push(b'}');
}

/// An output that passes by the defence, as it came.
fn write_passed(
    body: &mut Vec<u8>,
    raw: &mut Vec<u8>,
    model: &ModelDescription,
    passed: &Passed,
    planned: PlannedOutput,
) {
    let index = planned.index - model.outputs.len();
    let spec = &model.passed[index];
    body.extend_from_slice(b"{\"name\":");
    write_json(body, spec.name.as_str());
    let (shape, values) = passed.find(index).map_or((&[0][..], None), |found| (&found.shape[..], Some(&found.values)));
    // Writing into a vector does not fail.
    let _ = write!(body, ",\"datatype\":\"{}\",\"shape\":{}", spec.dtype, shape_text(shape));
    if planned.binary {
        let start = raw.len();
        values.into_iter().for_each(|values| values.write_raw(raw));
        let _ = write!(body, ",\"parameters\":{{\"binary_data_size\":{}}}}}", raw.len() - start);
        return;
    }
    body.extend_from_slice(b",\"data\":[");
    values.into_iter().for_each(|values| values.write_json(body));
    body.extend_from_slice(b"]}");
}

fn write_data(body: &mut Vec<u8>, values: &ArrayView2<'_, f32>) {
    body.push(b'[');
    for (position, value) in values.iter().enumerate() {
        if position > 0 {
            body.push(b',');
        }
        write_json(body, value);
    }
    body.push(b']');
}

/// Appends a string or a number as JSON; writing into a vector does not fail.
pub(super) fn write_json<T: serde::Serialize + ?Sized>(body: &mut Vec<u8>, value: &T) {
    if serde_json::to_writer(&mut *body, value).is_err() {
        body.extend_from_slice(b"null");
    }
}

/// The refusal of an unknown model or version, as every route words it.
#[must_use]
pub fn unknown_model(name: &str, version: Option<&str>) -> Refusal {
    let version = version.map(|version| format!(" version {}", quoted(version))).unwrap_or_default();
    Refusal::new(RefusalKind::NotFound, format!("request for unknown model: {}{version} is not found", quoted(name)))
}
