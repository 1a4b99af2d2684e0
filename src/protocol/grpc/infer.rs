//! An inference request in its message, and its reply.
//!
//! Raw contents are taken as they stand in the message, without a copy before their length has been checked; typed
//! contents must stand in the field of their element type. The reply is always raw, as Triton's is. Parameters go by the
//! same table as over REST.

use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;

use super::messages::infer_parameter::ParameterChoice;
use super::messages::model_infer_request::InferInputTensor;
use super::messages::model_infer_response::InferOutputTensor;
use super::messages::{InferParameter, InferTensorContents, ModelInferRequest, ModelInferResponse};
use super::wire::{Malformed, fields};
use crate::defence::Defended;
use crate::protocol::data::MAX_RANK;
use crate::protocol::inputs::{Slots, checked, raw_tensor, same_dtype};
use crate::protocol::outputs::{PlannedOutput, Scores, WantedOutput, is_score, n_classes, passed_of, plan_outputs};
use crate::protocol::parameters::{Rule, Scope, rule, timeout};
use crate::protocol::{Answer, MAX_ID_BYTES, ModelDescription, Passed, Refusal, quoted};
use crate::tensor::{DType, InputTensor, Inputs, TensorSpec, Values};

/// Whom a request is for; read before the rest, which it costs next to nothing to pass over.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Target {
    /// The model.
    #[prost(string, tag = "1")]
    pub model_name: String,
    /// Its version; empty asks for the newest.
    #[prost(string, tag = "2")]
    pub model_version: String,
    /// The request's id.
    #[prost(string, tag = "3")]
    pub id: String,
}

/// Reads whom an encoded `ModelInferRequest` is for.
///
/// # Errors
/// When the bytes are no such message.
pub fn read_target(message: Bytes) -> Result<Target, Refusal> {
    Target::decode(message).map_err(|_| no_message())
}

fn no_message() -> Refusal {
    Refusal::bad_request("the message is no inference.ModelInferRequest")
}

/// The most parameters, inputs, outputs and raw contents together that a message may hold, those of inputs and outputs
/// among them.
const MAX_ENTRIES: usize = 1024;
/// The most bytes of the sizes of one shape.
const MAX_SHAPE_BYTES: usize = 10 * MAX_RANK;

/// Counts the entries of a message before any is made, since an empty one takes two bytes on the wire and some hundred in
/// memory; the result is how many bytes its typed contents take when they are read, for the budget.
///
/// # Errors
/// When there are too many entries, a shape has too many sizes, or strings are sent, which no model here takes.
pub fn decoded_size(message: &[u8]) -> Result<usize, Refusal> {
    let (mut n_entries, mut n_bytes) = (0, 0);
    fields(message, &mut |tag, value| {
        n_entries += usize::from((4..=7).contains(&tag));
        match (tag, value) {
            (5, Some(input)) => {
                fields(input, &mut |tag, value| {
                    match (tag, value) {
                        (3, Some(sizes)) if sizes.len() > MAX_SHAPE_BYTES => return Err(too_many_sizes()),
                        // A size of its own.
                        (3 | 4, _) => n_entries += 1,
                        (5, Some(contents)) => n_bytes += typed_size(contents)?,
                        _ => {}
                    }
                    few(n_entries)
                })?;
            }
            (6, Some(output)) => fields(output, &mut |tag, _| {
                n_entries += usize::from(tag == 2);
                few(n_entries)
            })?,
            _ => {}
        }
        few(n_entries)
    })?;
    Ok(n_bytes)
}

fn few(n_entries: usize) -> Result<(), Refusal> {
    if n_entries > MAX_ENTRIES {
        let most = format!("more than {MAX_ENTRIES} parameters, inputs, outputs and raw contents");
        return Err(Refusal::bad_request(format!("the message holds {most}")));
    }
    Ok(())
}

fn too_many_sizes() -> Refusal {
    Refusal::bad_request(format!("'shape' of an input has too many sizes, expected at most {MAX_RANK}"))
}

/// Bytes of typed contents in memory.
fn typed_size(contents: &[u8]) -> Result<usize, Refusal> {
    let mut n_bytes = 0_usize;
    fields(contents, &mut |tag, value| {
        let element = match tag {
            2 | 4 => 4,
            3 | 5 => 8,
            8 => return Err(Refusal::bad_request("'contents' of an input holds strings, which are not served")),
            _ => 1,
        };
        // Every number ends in the one byte of it that is below 128; floating-point ones are as long as in memory.
        let n_elements = match (tag, value) {
            (1..=5, Some(packed)) => packed.iter().filter(|byte| **byte < 128).count(),
            (_, Some(packed)) => packed.len(),
            (6 | 7, None) => 8,
            (_, None) => 1,
        };
        n_bytes = n_bytes.saturating_add(element * n_elements);
        Ok(())
    })?;
    Ok(n_bytes)
}

impl From<Malformed> for Refusal {
    fn from(Malformed: Malformed) -> Self {
        no_message()
    }
}

/// How a reply will be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::protocol) struct ReplyPlan {
    id: String,
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

/// Reads an encoded `ModelInferRequest` into checked inputs, in the model's order, and the plan of its reply.
pub(in crate::protocol) fn decode_infer(
    model: &ModelDescription,
    message: Bytes,
) -> Result<(Inputs, ReplyPlan), Refusal> {
    decoded_size(&message)?;
    let request = ModelInferRequest::decode(message).map_err(|_| no_message())?;
    if request.id.len() > MAX_ID_BYTES {
        let got = request.id.len();
        return Err(Refusal::bad_request(format!("'id' may hold at most {MAX_ID_BYTES} bytes, got {got}")));
    }
    let Known { timeout, .. } = check_parameters(Scope::Request, &request.parameters)?;
    let wanted = request.outputs.iter().map(|output| {
        let Known { classes, .. } = check_parameters(Scope::Output, &output.parameters)?;
        Ok(WantedOutput { name: &output.name, binary: true, classes })
    });
    let wanted = wanted.collect::<Result<Vec<_>, Refusal>>()?;
    let outputs = plan_outputs(model, wanted, true)?;
    let inputs = read_inputs(model, request.inputs, &request.raw_input_contents)?;
    Ok((inputs, ReplyPlan { id: request.id, timeout, passed: Passed::default(), outputs }))
}

/// What parameters ask for that have an effect.
#[derive(Debug, Default)]
struct Known {
    classes: Option<usize>,
    timeout: Option<Duration>,
}

/// Holds parameters against the table.
fn check_parameters<'a>(
    scope: Scope,
    parameters: impl IntoIterator<Item = (&'a String, &'a InferParameter)>,
) -> Result<Known, Refusal> {
    let mut known = Known::default();
    let whole = |parameter: &InferParameter| match parameter.parameter_choice {
        Some(ParameterChoice::Int64Param(wanted)) => u64::try_from(wanted).ok(),
        Some(ParameterChoice::Uint64Param(wanted)) => Some(wanted),
        _ => None,
    };
    for (key, parameter) in parameters {
        match rule(scope, key) {
            Rule::Refused(message) => return Err(Refusal::bad_request(message)),
            Rule::Classes => known.classes = Some(n_classes(whole(parameter))?),
            Rule::Timeout => known.timeout = timeout(whole(parameter))?,
            Rule::Binary | Rule::BinarySize | Rule::Ignored => {}
        }
    }
    Ok(known)
}

fn read_inputs(model: &ModelDescription, wire: Vec<InferInputTensor>, raw: &[Bytes]) -> Result<Inputs, Refusal> {
    if !raw.is_empty() && raw.len() != wire.len() {
        return Err(Refusal::bad_request(format!(
            "expected a raw_input_contents for each of the {} inputs, got {}",
            wire.len(),
            raw.len()
        )));
    }
    let mut slots = Slots::new(model);
    for (position, input) in wire.into_iter().enumerate() {
        check_parameters(Scope::Input, &input.parameters)?;
        let (index, spec) = slots.place(&input.name)?;
        slots.put(index, read_input(model, spec, input, raw.get(position))?);
    }
    slots.finish()
}

fn read_input(
    model: &ModelDescription,
    spec: &TensorSpec,
    input: InferInputTensor,
    raw: Option<&Bytes>,
) -> Result<InputTensor, Refusal> {
    let shown = quoted(&spec.name);
    let Some(dtype) = DType::from_oip_name(&input.datatype) else {
        return Err(Refusal::bad_request(format!("invalid datatype {} for input {shown}", quoted(&input.datatype))));
    };
    same_dtype(model, spec, dtype)?;
    let rank = input.shape.len();
    if rank > MAX_RANK {
        return Err(Refusal::bad_request(format!(
            "'shape' of input {shown} has {rank} sizes, expected at most {MAX_RANK}"
        )));
    }
    let shape =
        input.shape.iter().map(|&size| usize::try_from(size)).collect::<Result<Vec<_>, _>>().map_err(|_| {
            Refusal::bad_request(format!("'shape' of input {shown} must be whole numbers of at least 0"))
        })?;
    match (raw, input.contents) {
        (Some(raw), None) => raw_tensor(spec, &shape, raw),
        (None, Some(contents)) => {
            let values = typed(dtype, contents)
                .map_err(|problem| Refusal::bad_request(format!("'contents' of input {shown}: {problem}")))?;
            checked(spec, &shape, values)
        }
        (Some(_), Some(_)) => Err(Refusal::bad_request(format!(
            "contents field must not be specified when using raw_input_contents for input {shown}"
        ))),
        (None, None) => Err(Refusal::bad_request(format!("input {shown} has neither contents nor raw_input_contents"))),
    }
}

/// Typed contents as values; no field but that of the element type may hold any.
fn typed(dtype: DType, contents: InferTensorContents) -> Result<Values, String> {
    let InferTensorContents {
        bool_contents,
        int_contents,
        int64_contents,
        uint_contents,
        uint64_contents,
        fp32_contents,
        fp64_contents,
        bytes_contents,
    } = contents;
    let lengths = [
        ("bool_contents", bool_contents.len()),
        ("int_contents", int_contents.len()),
        ("int64_contents", int64_contents.len()),
        ("uint_contents", uint_contents.len()),
        ("uint64_contents", uint64_contents.len()),
        ("fp32_contents", fp32_contents.len()),
        ("fp64_contents", fp64_contents.len()),
        ("bytes_contents", bytes_contents.len()),
    ];
    let field = match dtype {
        DType::Bool => "bool_contents",
        DType::I8 | DType::I16 | DType::I32 => "int_contents",
        DType::I64 => "int64_contents",
        DType::U8 | DType::U16 | DType::U32 => "uint_contents",
        DType::U64 => "uint64_contents",
        DType::F32 => "fp32_contents",
        DType::F64 => "fp64_contents",
        DType::F16 | DType::Bf16 => return Err(format!("datatype {dtype} travels in raw_input_contents alone")),
        DType::Bytes => return Err(format!("datatype {dtype} is not served")),
    };
    if let Some((other, _)) = lengths.iter().find(|(name, length)| *name != field && *length > 0) {
        return Err(format!("datatype {dtype} stands in {field}, and {other} holds values"));
    }
    Ok(match dtype {
        DType::Bool => Values::Bool(bool_contents),
        DType::I8 => Values::I8(narrow(dtype, &int_contents)?),
        DType::I16 => Values::I16(narrow(dtype, &int_contents)?),
        DType::I32 => Values::I32(int_contents),
        DType::I64 => Values::I64(int64_contents),
        DType::U8 => Values::U8(narrow(dtype, &uint_contents)?),
        DType::U16 => Values::U16(narrow(dtype, &uint_contents)?),
        DType::U32 => Values::U32(uint_contents),
        DType::U64 => Values::U64(uint64_contents),
        DType::F64 => Values::F64(fp64_contents),
        _ => Values::F32(fp32_contents),
    })
}

/// Numbers of a wider field as those of a narrower type.
fn narrow<A: Copy, B: TryFrom<A>>(dtype: DType, values: &[A]) -> Result<Vec<B>, String> {
    let narrowed = values.iter().enumerate().map(|(position, &value)| {
        B::try_from(value).map_err(|_| format!("the value at position {position} is no {dtype}"))
    });
    narrowed.collect()
}

/// Writes the reply that was planned, as an encoded `ModelInferResponse` with raw contents.
pub(in crate::protocol) fn encode_infer(model: &ModelDescription, plan: ReplyPlan, defended: &Defended) -> Answer {
    let scores = Scores::new(model, &plan.outputs, defended);
    let mut response = ModelInferResponse {
        model_name: model.name.clone(),
        model_version: model.version.clone(),
        id: plan.id,
        ..ModelInferResponse::default()
    };
    for &planned in &plan.outputs {
        let (name, datatype, shape, raw) = if is_score(model, planned) {
            let name = &model.outputs[planned.index].name;
            let mut raw = Vec::new();
            scores.write_raw(planned, &mut raw);
            (name, Scores::datatype(planned), scores.shape(planned).to_vec(), raw)
        } else {
            let (spec, shape, raw) = passed_parts(model, &plan.passed, planned.index - model.outputs.len());
            (&spec.name, spec.dtype.oip_name(), shape, raw)
        };
        response.outputs.push(InferOutputTensor {
            name: name.clone(),
            datatype: datatype.to_owned(),
            shape: shape.iter().map(|&size| i64::try_from(size).unwrap_or(i64::MAX)).collect(),
            ..InferOutputTensor::default()
        });
        response.raw_output_contents.push(raw.into());
    }
    Answer { header_length: None, body: response.encode_to_vec() }
}

/// An output that passes by the defence, as it came: what it is, its shape and its bytes.
fn passed_parts<'m>(
    model: &'m ModelDescription,
    passed: &Passed,
    index: usize,
) -> (&'m TensorSpec, Vec<usize>, Vec<u8>) {
    let mut raw = Vec::new();
    let shape = passed.find(index).map(|tensor| {
        tensor.values.write_raw(&mut raw);
        tensor.shape.clone()
    });
    (&model.passed[index], shape.unwrap_or_else(|| vec![0]), raw)
}
