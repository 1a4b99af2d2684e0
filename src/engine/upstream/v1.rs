//! The V1 protocols as a client: TensorFlow Serving's REST by columns, and KServe's V1 by instances.
//!
//! Both answer with every output there is: the scores are picked by name, the rest is dropped.

use serde_json::Value;

use super::numbers::Numbers;
use super::oip::{write_json, write_list};
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
    Ok(WireRequest { header_length: None, body })
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
    Ok(WireRequest { header_length: None, body })
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
    let [size, rest @ ..] = shape else { return write_list(body, values) };
    body.push(b'[');
    if rest.is_empty() {
        write_list(body, values)?;
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
    let mut answer = object(body)?;
    let outputs = answer.get_mut("outputs").map(Value::take).ok_or_else(|| Fault::answer("it has no 'outputs'"))?;
    let scores = match outputs {
        Value::Object(mut named) => named
            .remove(&plan.spec.score_output)
            .ok_or_else(|| Fault::answer(format!("'{}' is not in it", plan.spec.score_output)))?,
        // A signature of one output is answered without its name.
        unnamed if plan.spec.other_outputs.is_empty() => unnamed,
        _ => return Err(Fault::answer("it names no outputs, and the model has several")),
    };
    rows(plan, scores, n_rows)
}

/// The scores of a KServe V1 answer: a list of rows, or of objects that hold one under the name of the score output.
pub(super) fn read_predictions(plan: &Plan, body: &[u8], n_rows: usize) -> Result<Vec<f32>, Fault> {
    let mut answer = object(body)?;
    let predictions = answer.get_mut("predictions").map(Value::take);
    let predictions = predictions.ok_or_else(|| Fault::answer("it has no 'predictions'"))?;
    let name = &plan.spec.score_output;
    let missing = || Fault::answer(format!("'{name}' is not in it"));
    let scores = match predictions {
        Value::Object(mut named) => named.remove(name).ok_or_else(missing)?,
        Value::Array(mut list) if list.first().is_some_and(Value::is_object) => {
            let row = |entry: &mut Value| entry.get_mut(name).map(Value::take).ok_or_else(missing);
            Value::Array(list.iter_mut().map(row).collect::<Result<_, _>>()?)
        }
        unnamed if name == UNNAMED || plan.spec.other_outputs.is_empty() => unnamed,
        _ => return Err(missing()),
    };
    rows(plan, scores, n_rows)
}

fn object(body: &[u8]) -> Result<Value, Fault> {
    let answer: Value = serde_json::from_slice(body).map_err(|_| Fault::answer("expected JSON"))?;
    if answer.is_object() { Ok(answer) } else { Err(Fault::answer("expected a JSON object")) }
}

fn rows(plan: &Plan, scores: Value, n_rows: usize) -> Result<Vec<f32>, Fault> {
    let numbers: Numbers = serde_json::from_value(scores).map_err(|_| Fault::answer("its scores are no numbers"))?;
    if !numbers.is_tensor {
        return Err(Fault::answer("its scores are no array of numbers"));
    }
    plan.check_shape(&numbers.shape, n_rows)?;
    Ok(numbers.values)
}
