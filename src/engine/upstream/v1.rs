//! The V1 protocols as a client: TensorFlow Serving's REST by columns, and KServe's V1 by instances.
//!
//! Both answer with every output there is: the scores are picked by name, the rest is dropped.

use super::answer::field;
use super::numbers::{Numbers, Read};
use super::oip::write_json;
use super::{Fault, Plan, UNNAMED, WireRequest};
use crate::tensor::{Inputs, Values};

/// A TensorFlow Serving request: `{"signature_name":…,"inputs":{name: nested array}}`.
pub(super) fn write_columns(plan: &Plan, inputs: &Inputs) -> Result<WireRequest, Fault> {
    let mut body = Vec::new();
    body.push(b'{');
    if let Some(signature) = &plan.signature {
        body.extend_from_slice(b"\"signature_name\":");
        write_json(&mut body, signature.as_str());
        body.push(b',');
    }
    body.extend_from_slice(b"\"inputs\":{");
    for (position, tensor) in inputs.tensors().iter().enumerate() {
        if position > 0 {
            body.push(b',');
        }
        write_json(&mut body, tensor.name());
        body.push(b':');
        write_nested(&mut body, tensor.values(), tensor.shape())?;
    }
    body.extend_from_slice(b"}}");
    Ok(WireRequest { header_length: None, body: body.into() })
}

/// A KServe V1 request: `{"instances":[…]}`, one nested array a row, or an object by input name where there are several.
pub(super) fn write_instances(_plan: &Plan, inputs: &Inputs) -> Result<WireRequest, Fault> {
    let mut body = b"{\"instances\":".to_vec();
    if let [only] = inputs.tensors() {
        write_nested(&mut body, only.values(), only.shape())?;
    } else {
        body.push(b'[');
        for row in 0..inputs.n_rows() {
            body.extend_from_slice(if row == 0 { b"{" } else { b",{" });
            for (position, tensor) in inputs.tensors().iter().enumerate() {
                if position > 0 {
                    body.push(b',');
                }
                write_json(&mut body, tensor.name());
                body.push(b':');
                let shape = &tensor.shape()[1..];
                let size = shape.iter().product::<usize>();
                let values = part(tensor.values(), row * size, size);
                write_nested(&mut body, &values, shape)?;
            }
            body.push(b'}');
        }
        body.push(b']');
    }
    body.push(b'}');
    Ok(WireRequest { header_length: None, body: body.into() })
}

fn part(values: &Values, start: usize, size: usize) -> Values {
    macro_rules! part {
        ($($variant:ident),*) => {
            match values {
                $(Values::$variant(v) => Values::$variant(v[start..start + size].to_vec()),)*
            }
        };
    }
    part!(Bool, U8, U16, U32, U64, I8, I16, I32, I64, F32, F64, F16, Bf16)
}

/// Appends a tensor as arrays nested by its shape.
fn write_nested(body: &mut Vec<u8>, values: &Values, shape: &[usize]) -> Result<(), Fault> {
    let [size, rest @ ..] = shape else {
        values.write_json(body);
        return Ok(());
    };
    body.push(b'[');
    if rest.is_empty() {
        values.write_json(body);
    } else {
        let inner = rest.iter().product();
        for position in 0..*size {
            if position > 0 {
                body.push(b',');
            }
            write_nested(body, &part(values, position * inner, inner), rest)?;
        }
    }
    body.push(b']');
    Ok(())
}

/// The scores of a TensorFlow Serving answer by columns.
pub(super) fn read_outputs(plan: &Plan, body: &[u8], n_rows: usize) -> Result<Vec<f32>, Fault> {
    let name = &plan.spec.score_output;
    let read = Read { max: plan.n_scores(n_rows), of_whole: Some(name), of_rows: None };
    let numbers = field(body, "outputs", read)?;
    // A signature of one output is answered without its name.
    if !numbers.has_name && !plan.spec.other_outputs.is_empty() {
        return Err(missing(name));
    }
    rows(plan, numbers, n_rows)
}

/// The scores of a KServe V1 answer: a list of rows, or of objects that hold one under the name of the score output.
pub(super) fn read_predictions(plan: &Plan, body: &[u8], n_rows: usize) -> Result<Vec<f32>, Fault> {
    let name = &plan.spec.score_output;
    let read = Read { max: plan.n_scores(n_rows), of_whole: Some(name), of_rows: Some(name) };
    let numbers = field(body, "predictions", read)?;
    if !numbers.has_name && name != UNNAMED && !plan.spec.other_outputs.is_empty() {
        return Err(missing(name));
    }
    rows(plan, numbers, n_rows)
}

fn missing(name: &str) -> Fault {
    Fault::answer(format!("'{name}' is not in it"))
}

fn rows(plan: &Plan, numbers: Numbers, n_rows: usize) -> Result<Vec<f32>, Fault> {
    if !numbers.is_tensor {
        return Err(Fault::answer("its scores are no array of so many numbers"));
    }
    plan.check_shape(&numbers.shape, n_rows)?;
    Ok(numbers.values)
}
