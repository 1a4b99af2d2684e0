//! `:predict` as TensorFlow Serving and KServe V1 speak it, which is one form on the wire: rows
//! (`{"instances": [...]}` answered by `{"predictions": [...]}`) and columns (`{"inputs": ...}` by `{"outputs": ...}`).
//!
//! An instance is the tensor of a row, or an object with a field for each input; a column form holds the whole tensor, or
//! an object of them. Shapes are those of the nesting. One output is answered, without its name: the probabilities, or
//! the output that `signature_name` names. Numbers go from text straight into a typed vector, in one pass for the
//! outline and one for each input. Other fields are passed over, as both servers do. Not served: `{"b64": ...}`, and the
//! calls `:classify`, `:regress` and `:explain`.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;

use super::data::{Nesting, Step, read_at};
use super::inputs::{Slots, checked, listed};
use super::oip::write_json;
use super::outputs::{PlannedOutput, Scores};
use super::{Answer, ModelDescription, Refusal, quoted};
use crate::defence::{Defended, Form};
use crate::tensor::{InputTensor, Inputs, TensorSpec};

mod bodies;
#[cfg(test)]
mod tests;

pub use self::bodies::{alive_body, model_list, model_metadata, model_status};

/// Names of a signature that ask for the model's usual answer.
const USUAL: [&str; 3] = ["", "serving_default", "predict"];

/// How a reply will be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ReplyPlan {
    rows: bool,
    output: PlannedOutput,
}

/// Reads a request into checked inputs, in the model's order, and the plan of its reply.
///
/// # Errors
/// A bad request that says what was expected and what came; never a value.
pub(super) fn decode(model: &ModelDescription, body: &[u8]) -> Result<(Inputs, ReplyPlan), Refusal> {
    let outline = outline(body)?;
    let (field, rows, content) = match (outline.instances, outline.inputs) {
        (Some(content), None) => ("instances", true, content),
        (None, Some(content)) => ("inputs", false, content),
        (None, None) => return Err(Refusal::bad_request("the request must hold 'instances' or 'inputs'")),
        (Some(_), Some(_)) => {
            return Err(Refusal::bad_request("the request must hold 'instances' or 'inputs', and not both"));
        }
    };
    let output = signature(model, outline.signature.as_deref())?;
    let inputs = read_inputs(model, body, field, rows, &content)?;
    Ok((inputs, ReplyPlan { rows, output }))
}

/// The output that a signature asks for.
fn signature(model: &ModelDescription, name: Option<&str>) -> Result<PlannedOutput, Refusal> {
    let name = name.unwrap_or_default();
    let of_name = model.outputs.iter().position(|output| output.name == name);
    let usual = || {
        let probabilities = model.outputs.iter().position(|output| output.form == Form::Probabilities);
        USUAL.contains(&name).then_some(probabilities.unwrap_or(0))
    };
    let index = of_name.or_else(usual).ok_or_else(|| {
        let known = listed(model.outputs.iter().map(|output| output.name.as_str()));
        Refusal::bad_request(format!(
            "signature {} is not found for model {}; known: 'serving_default', {known}",
            quoted(name),
            quoted(&model.name)
        ))
    })?;
    Ok(PlannedOutput { index, binary: false, classes: None })
}

fn read_inputs(
    model: &ModelDescription,
    body: &[u8],
    field: &str,
    rows: bool,
    content: &Content,
) -> Result<Inputs, Refusal> {
    let mut slots = Slots::new(model);
    match content {
        Content::Plain => {
            let [spec] = model.inputs.as_slice() else {
                return Err(Refusal::bad_request(format!(
                    "model {} has {} inputs: '{field}' must name them: {}",
                    quoted(&model.name),
                    model.inputs.len(),
                    listed(model.inputs.iter().map(|spec| spec.name.as_str()))
                )));
            };
            slots.put(0, read_tensor(spec, body, field, &[Step::Field(field)])?);
        }
        Content::Named(names) => {
            for name in names {
                let (index, spec) = slots.place(name)?;
                let path: &[Step<'_>] = if rows {
                    &[Step::Field(field), Step::Each, Step::Field(name)]
                } else {
                    &[Step::Field(field), Step::Field(name)]
                };
                slots.put(index, read_tensor(spec, body, field, path)?);
            }
        }
    }
    slots.finish()
}

fn read_tensor(spec: &TensorSpec, body: &[u8], field: &str, path: &[Step<'_>]) -> Result<InputTensor, Refusal> {
    let mut nesting = Nesting::default();
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let values = read_at(&mut deserializer, path, spec.dtype, None, body.len() / 2 + 1, &mut nesting);
    let values = values.map_err(|error| match nesting.problem.take() {
        Some(problem) => Refusal::bad_request(format!("'{field}' for input {} {problem}", quoted(&spec.name))),
        None => malformed(&error),
    })?;
    checked(spec, &nesting.shape(), values)
}

/// What stands in a request, without the values.
#[derive(Debug, Default)]
struct Outline {
    signature: Option<String>,
    instances: Option<Content>,
    inputs: Option<Content>,
}

/// How the tensors stand in `instances` or `inputs`.
#[derive(Debug, PartialEq, Eq)]
enum Content {
    /// The tensor of the only input.
    Plain,
    /// Objects, with the fields that the first of them has.
    Named(Vec<String>),
}

fn outline(body: &[u8]) -> Result<Outline, Refusal> {
    let mut problem = None;
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let outline = Top(&mut problem).deserialize(&mut deserializer).and_then(|outline| {
        deserializer.end()?;
        Ok(outline)
    });
    outline.map_err(|error| match (error.classify(), problem) {
        (Category::Data, Some(problem)) => Refusal::bad_request(problem),
        _ => malformed(&error),
    })
}

/// What the JSON reader's error means, without the value that it may quote.
fn malformed(error: &serde_json::Error) -> Refusal {
    let what = match error.classify() {
        Category::Eof => "malformed JSON: it ends too early",
        Category::Syntax | Category::Io => "malformed JSON",
        Category::Data => "a field is of another type than expected",
    };
    Refusal::bad_request(format!("{what}, at line {} column {}", error.line(), error.column()))
}

/// The request's outermost object; holds what is wrong with it.
struct Top<'a>(&'a mut Option<String>);

impl<'de> DeserializeSeed<'de> for Top<'_> {
    type Value = Outline;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Outline, D::Error> {
        self.0.get_or_insert_with(|| "the request must be a JSON object".to_owned());
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Top<'_> {
    type Value = Outline;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a request")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Outline, A::Error> {
        *self.0 = None;
        let mut outline = Outline::default();
        while let Some(key) = map.next_key::<String>()? {
            let twice = match key.as_str() {
                "signature_name" => outline.signature.replace(map.next_value()?).is_some(),
                "instances" => outline.instances.replace(map.next_value_seed(Kind { rows: true })?).is_some(),
                "inputs" => outline.inputs.replace(map.next_value_seed(Kind { rows: false })?).is_some(),
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    false
                }
            };
            if twice {
                *self.0 = Some(format!("field '{key}' is given twice"));
                return Err(serde::de::Error::custom("refused"));
            }
        }
        Ok(outline)
    }
}

/// Reads a value for its kind only: `rows`, an array whose first element tells; else the value itself.
struct Kind {
    rows: bool,
}

impl<'de> DeserializeSeed<'de> for Kind {
    type Value = Content;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Content, D::Error> {
        deserializer.deserialize_any(self)
    }
}

/// Everything that is no object is read for its kind, and refused later by who reads its values.
macro_rules! plain {
    ($($visit:ident: $type:ty),*) => {$(
        fn $visit<E: serde::de::Error>(self, _: $type) -> Result<Content, E> {
            Ok(Content::Plain)
        }
    )*};
}

impl<'de> Visitor<'de> for Kind {
    type Value = Content;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("tensors")
    }

    plain!(visit_bool: bool, visit_u64: u64, visit_i64: i64, visit_f64: f64, visit_str: &str);

    fn visit_unit<E: serde::de::Error>(self) -> Result<Content, E> {
        Ok(Content::Plain)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Content, A::Error> {
        let mut content = Content::Plain;
        if self.rows
            && let Some(first) = seq.next_element_seed(Kind { rows: false })?
        {
            content = first;
        }
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(content)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Content, A::Error> {
        let mut names = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            map.next_value::<IgnoredAny>()?;
            names.push(name);
        }
        Ok(Content::Named(names))
    }
}

/// Writes the reply that was planned: one array of `n_classes` numbers for each row.
pub(super) fn encode(model: &ModelDescription, plan: &ReplyPlan, defended: &Defended) -> Answer {
    let scores = Scores::new(model, &[plan.output], defended);
    let values = scores.values(plan.output);
    let mut body = Vec::with_capacity(32 + values.len() * 12);
    body.extend_from_slice(if plan.rows { b"{\"predictions\":[" } else { b"{\"outputs\":[" });
    for (position, row) in values.rows().into_iter().enumerate() {
        body.extend_from_slice(if position > 0 { b",[" } else { b"[" });
        for (position, value) in row.iter().enumerate() {
            if position > 0 {
                body.push(b',');
            }
            write_json(&mut body, value);
        }
        body.push(b']');
    }
    body.extend_from_slice(b"]}");
    Answer { header_length: None, body }
}
