//! The Open Inference Protocol v2 over REST, as a client: a request of checked inputs for one output, and the scores out of the answer.
//!
//! Tensors travel as raw bytes where the server can (no text of numbers to write and read), whatever the client of ours
//! speaks; else as JSON.

use super::answer::{Answer, Output};
use super::numbers::Numbers;
use super::pass::Passing;
use super::{Fault, Plan, WireRequest};
use crate::protocol::Passed;
use crate::tensor::{DType, InputTensor, Inputs};

/// Writes a request for the score output, and of those that pass for these.
pub(super) fn write(plan: &Plan, inputs: &Inputs, passed: &[usize], id: &str) -> Result<WireRequest, Fault> {
    let mut body = Vec::with_capacity(256 + if plan.binary { n_bytes(inputs) } else { 12 * n_bytes(inputs) / 4 });
    body.extend_from_slice(b"{\"id\":");
    write_json(&mut body, id);
    body.extend_from_slice(b",\"inputs\":[");
    for (position, tensor) in inputs.tensors().iter().enumerate() {
        if position > 0 {
            body.push(b',');
        }
        write_input(&mut body, tensor, plan.binary)?;
    }
    body.extend_from_slice(b"],\"outputs\":[{\"name\":");
    write_json(&mut body, plan.spec.score_output.as_str());
    let as_raw: &[u8] = if plan.binary { b",\"parameters\":{\"binary_data\":true}" } else { b"" };
    body.extend_from_slice(as_raw);
    for &index in passed {
        body.extend_from_slice(b"},{\"name\":");
        write_json(&mut body, plan.passed[index].name.as_str());
        body.extend_from_slice(as_raw);
    }
    body.extend_from_slice(b"}]}");
    let header_length = plan.binary.then_some(body.len());
    if plan.binary {
        inputs.tensors().iter().for_each(|tensor| tensor.values().write_raw(&mut body));
    }
    Ok(WireRequest { header_length, body: body.into() })
}

fn n_bytes(inputs: &Inputs) -> usize {
    inputs.tensors().iter().map(|tensor| tensor.values().n_bytes()).sum()
}

fn write_input(body: &mut Vec<u8>, tensor: &InputTensor, binary: bool) -> Result<(), Fault> {
    let values = tensor.values();
    body.extend_from_slice(b"{\"name\":");
    write_json(body, tensor.name());
    body.extend_from_slice(b",\"shape\":");
    write_json(body, tensor.shape());
    body.extend_from_slice(b",\"datatype\":\"");
    body.extend_from_slice(values.dtype().oip_name().as_bytes());
    body.push(b'"');
    if binary {
        body.extend_from_slice(b",\"parameters\":{\"binary_data_size\":");
        write_json(body, &values.n_bytes());
        body.extend_from_slice(b"}}");
        return Ok(());
    }
    body.extend_from_slice(b",\"data\":[");
    values.write_json(body);
    body.extend_from_slice(b"]}");
    Ok(())
}

/// Appends a value as JSON; writing into a vector does not fail.
pub(super) fn write_json<T: serde::Serialize + ?Sized>(body: &mut Vec<u8>, value: &T) {
    if serde_json::to_writer(&mut *body, value).is_err() {
        body.extend_from_slice(b"null");
    }
}

/// Reads the score output of an answer, and of those that pass these; the others are dropped.
pub(super) fn read(
    plan: &Plan,
    header_length: Option<&str>,
    body: &[u8],
    n_rows: usize,
    passed: &[usize],
    id: &str,
) -> Result<(Vec<f32>, Passed), Fault> {
    let (json, raw) = match header_length {
        None => (body, &[][..]),
        Some(text) => {
            let split = text.parse().ok().and_then(|length: usize| body.split_at_checked(length));
            split.ok_or_else(|| Fault::answer("its header length is no length within the body"))?
        }
    };
    let answer = Answer::read(json, plan.n_scores(n_rows))?;
    if answer.id.as_deref().is_some_and(|got| !got.is_empty() && got != id) {
        return Err(Fault::answer("it answers another request"));
    }
    check_version(plan, answer.model_version.as_deref())?;
    let mut found = None;
    let mut passing = Passing::new(plan, passed, n_rows);
    let mut start = 0_usize;
    for output in answer.outputs {
        let bytes = match output.binary_size {
            None => None,
            Some(size) => {
                let end = start.checked_add(size).filter(|&end| end <= raw.len());
                let end = end.ok_or_else(|| Fault::answer("its raw tensors are longer than the body"))?;
                Some(&raw[std::mem::replace(&mut start, end)..end])
            }
        };
        if output.name != plan.spec.score_output {
            passing.take(&output.name, &output.datatype, &output.shape, bytes)?;
            continue;
        }
        if found.is_some() {
            return Err(Fault::answer(format!("it has '{}' twice", plan.spec.score_output)));
        }
        found = Some(scores(plan, output, bytes, n_rows)?);
    }
    if start != raw.len() {
        return Err(Fault::answer("bytes stand after its last raw tensor"));
    }
    let found = found.ok_or_else(|| Fault::answer(format!("'{}' is not in it", plan.spec.score_output)))?;
    Ok((found, passing.finish()?))
}

/// An answer of another version is of another model than the one that the defence was fitted to.
pub(super) fn check_version(plan: &Plan, got: Option<&str>) -> Result<(), Fault> {
    match (&plan.answers_version, got) {
        (Some(expected), Some(got)) if !got.is_empty() && got != expected => {
            let got = crate::protocol::quoted(got);
            Err(Fault::answer(format!("it is of version {got}, expected '{expected}'")))
        }
        _ => Ok(()),
    }
}

fn scores(plan: &Plan, output: Output, raw: Option<&[u8]>, n_rows: usize) -> Result<Vec<f32>, Fault> {
    let Output { datatype, shape, data, .. } = output;
    plan.check_shape(&shape, n_rows)?;
    let dtype = DType::from_oip_name(&datatype).ok_or_else(|| Fault::answer("its scores have an unknown type"))?;
    let n_values: usize = shape.iter().product();
    match (raw, data) {
        (Some(raw), None) => read_floats(dtype, raw, n_values),
        (None, Some(_)) if !matches!(dtype, DType::F16 | DType::F32 | DType::F64 | DType::Bf16) => {
            Err(not_floats(dtype))
        }
        (None, Some(numbers)) => from_numbers(numbers, &shape, n_values),
        (Some(_), Some(_)) | (None, None) => Err(Fault::answer("its scores stand in no one place")),
    }
}

/// Flat, or nested as the shape says.
fn from_numbers(numbers: Numbers, shape: &[usize], n_values: usize) -> Result<Vec<f32>, Fault> {
    if !numbers.is_tensor || (numbers.shape.len() != 1 && numbers.shape != shape) {
        return Err(Fault::answer("its scores are no array of that shape"));
    }
    if numbers.values.len() != n_values {
        return Err(Fault::answer(format!("expected {n_values} scores, got {}", numbers.values.len())));
    }
    Ok(numbers.values)
}

fn not_floats(dtype: DType) -> Fault {
    Fault::answer(format!("its scores are {dtype}, expected floating-point numbers"))
}

/// Raw bytes of so many floating-point numbers as f32.
pub(super) fn read_floats(dtype: DType, raw: &[u8], n_values: usize) -> Result<Vec<f32>, Fault> {
    let expected = dtype.size().and_then(|size| size.checked_mul(n_values));
    if expected.is_some_and(|expected| expected != raw.len()) {
        return Err(Fault::answer(format!("{} bytes are not those of {n_values} scores of {dtype}", raw.len())));
    }
    Ok(match dtype {
        DType::F32 => raw.as_chunks().0.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect(),
        DType::F64 => raw.as_chunks().0.iter().map(|chunk| f64::from_le_bytes(*chunk) as f32).collect(),
        DType::F16 => raw.as_chunks().0.iter().map(|chunk| half::f16::from_le_bytes(*chunk).to_f32()).collect(),
        DType::Bf16 => raw.as_chunks().0.iter().map(|chunk| half::bf16::from_le_bytes(*chunk).to_f32()).collect(),
        _ => return Err(not_floats(dtype)),
    })
}
