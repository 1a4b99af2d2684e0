//! The JSON part of an inference request, read into typed fields in one pass.
//!
//! Numbers of a tensor go from text straight into a typed vector; no generic JSON tree is built. That needs the
//! tensor's `datatype` to stand before its `data`, as every client writes it; where it does not, the header is
//! read a second time with the datatypes known. Objects nest by a fixed grammar and arrays to a bounded depth,
//! so the stack is bounded. Messages hold names and positions, never values: those of the JSON reader that
//! quote what they found are replaced.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use serde::Deserialize as _;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;

use super::numbers::{Apart, take_apart};
use crate::protocol::data::{MAX_RANK, Nesting, read_values};
use crate::protocol::outputs::n_classes;
use crate::protocol::parameters::{Rule, Scope, rule};
use crate::protocol::{MAX_ID_BYTES, Refusal, quoted};
use crate::tensor::{DType, Values};

/// A `shape` as written, read no further than [`MAX_RANK`] dimensions.
struct Shape(Vec<usize>);

impl<'de> serde::Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ShapeVisitor)
    }
}

struct ShapeVisitor;

impl<'de> Visitor<'de> for ShapeVisitor {
    type Value = Shape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a shape")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Shape, A::Error> {
        let mut sizes = Vec::new();
        while let Some(size) = seq.next_element()? {
            if sizes.len() == MAX_RANK {
                return Err(serde::de::Error::custom("too many dimensions"));
            }
            sizes.push(size);
        }
        Ok(Shape(sizes))
    }
}

/// A key or a short word that is only compared: borrowed from the JSON part, but for one with an escape.
struct Word<'de>(Cow<'de, str>);

impl<'de> serde::Deserialize<'de> for Word<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(WordVisitor)
    }
}

struct WordVisitor;

impl<'de> Visitor<'de> for WordVisitor {
    type Value = Word<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Word<'de>, E> {
        Ok(Word(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Word<'de>, E> {
        Ok(Word(Cow::Owned(text.to_owned())))
    }
}

/// The JSON part of a request.
#[derive(Debug, Default)]
pub(super) struct Header {
    pub(super) id: Option<String>,
    /// `binary_data_output`, if given.
    pub(super) binary_outputs: Option<bool>,
    /// `timeout`, if given and not 0.
    pub(super) timeout: Option<Duration>,
    pub(super) inputs: Vec<WireInput>,
    /// In the order asked for; empty asks for all.
    pub(super) outputs: Vec<WireOutput>,
}

/// An input as written, not yet checked against the model.
#[derive(Debug)]
pub(super) struct WireInput {
    pub(super) name: String,
    pub(super) dtype: DType,
    pub(super) shape: Vec<usize>,
    pub(super) payload: Payload,
}

/// Where the values of an input are.
#[derive(Debug)]
pub(super) enum Payload {
    /// They stood in the JSON part.
    Json(Values, Nesting),
    /// This many bytes after the JSON part.
    Binary(usize),
    /// `data` stood before `datatype`: the header must be read again.
    Unread,
}

/// An output that was asked for.
#[derive(Debug)]
pub(super) struct WireOutput {
    pub(super) name: String,
    pub(super) binary: Option<bool>,
    pub(super) classes: Option<usize>,
}

/// Reads the JSON part of a request.
///
/// More than `max_inputs` inputs are refused at the first one too many, so that buffers sized by declared shapes
/// stay bounded by the body.
///
/// # Errors
/// A bad request with a sentence that names the field.
pub(super) fn read_header(json: &[u8], max_inputs: usize) -> Result<Header, Refusal> {
    if let Some(header) = read_quickly(json, max_inputs) {
        return Ok(header);
    }
    let header = read_pass(json, max_inputs, &[])?;
    if !header.inputs.iter().any(|input| matches!(input.payload, Payload::Unread)) {
        return Ok(header);
    }
    let dtypes: Vec<DType> = header.inputs.iter().map(|input| input.dtype).collect();
    read_pass(json, max_inputs, &dtypes)
}

/// The usual request, its numbers apart; `None` where it is not one, or is to be refused.
fn read_quickly(json: &[u8], max_inputs: usize) -> Option<Header> {
    let Apart { rest, arrays } = take_apart(json, max_inputs)?;
    let mut header = read_pass(&rest, max_inputs, &[]).ok()?;
    for (position, values) in arrays {
        let payload = &mut header.inputs.get_mut(position)?.payload;
        // The empty array that stands in for the values.
        if !matches!(payload, Payload::Json(Values::F32(read), _) if read.is_empty()) {
            return None;
        }
        let nesting = Nesting::flat(values.len());
        *payload = Payload::Json(Values::F32(values), nesting);
    }
    let unread = header.inputs.iter().any(|input| matches!(input.payload, Payload::Unread));
    (!unread).then_some(header)
}

fn read_pass(json: &[u8], max_inputs: usize, known_dtypes: &[DType]) -> Result<Header, Refusal> {
    let max_elements = json.len() / 2 + 1;
    let mut context = Context { known_dtypes, max_inputs, max_elements, expected: "", refusal: None };
    // Text that is known to be text is not looked at again, string by string.
    let result = match std::str::from_utf8(json) {
        Ok(text) => read_top(serde_json::Deserializer::from_str(text), &mut context),
        Err(_) => read_top(serde_json::Deserializer::from_slice(json), &mut context),
    };
    result.map_err(|error| context.refusal.take().unwrap_or_else(|| describe(&error, context.expected, json)))
}

fn read_top<'de, R: serde_json::de::Read<'de>>(
    mut json: serde_json::Deserializer<R>,
    context: &mut Context<'_>,
) -> serde_json::Result<Header> {
    let header = Top(context).deserialize(&mut json)?;
    json.end()?;
    Ok(header)
}

/// What the JSON reader's error means, without the value that it may quote.
fn describe(error: &serde_json::Error, expected: &str, json: &[u8]) -> Refusal {
    let place = format!("at line {} column {}", error.line(), error.column());
    Refusal::bad_request(match error.classify() {
        Category::Eof => format!("malformed JSON: it ends too early, {place}"),
        Category::Data => format!("{expected} ({place})"),
        Category::Syntax | Category::Io if near(json, error, &[b"NaN", b"Inf", b"nan", b"inf"]) => {
            format!("NaN and Infinity are no JSON and no input of a model, {place}")
        }
        Category::Syntax | Category::Io => {
            let text = error.to_string();
            let reason = text.split(" at line").next().unwrap_or_default();
            let hint = if reason == "trailing characters" {
                "; if binary tensors follow the JSON part, its length must stand in Inference-Header-Content-Length"
            } else {
                ""
            };
            format!("malformed JSON: {reason} {place}{hint}")
        }
    })
}

/// Whether one of `words` stands within a few bytes of the error.
fn near(json: &[u8], error: &serde_json::Error, words: &[&[u8]]) -> bool {
    let line = json.split(|&byte| byte == b'\n').nth(error.line().saturating_sub(1)).unwrap_or_default();
    let start = error.column().saturating_sub(4).min(line.len());
    let end = (error.column() + 4).min(line.len());
    line[start..end].windows(3).any(|window| words.contains(&window))
}

/// What the readers below share.
struct Context<'a> {
    /// Datatypes by input position, from an earlier pass.
    known_dtypes: &'a [DType],
    /// The model has no more.
    max_inputs: usize,
    /// No array of the body can have more elements.
    max_elements: usize,
    /// What to say if the next value is of the wrong type.
    expected: &'static str,
    /// What to say instead of the JSON reader's message.
    refusal: Option<Refusal>,
}

impl Context<'_> {
    fn refuse<T, E: serde::de::Error>(&mut self, message: impl Into<String>) -> Result<T, E> {
        self.refusal.get_or_insert_with(|| Refusal::bad_request(message));
        Err(E::custom("refused"))
    }

    /// Reads a map value of a simple type, with `expected` as the message for any other type.
    fn value<'de, T: serde::Deserialize<'de>, A: MapAccess<'de>>(
        &mut self,
        map: &mut A,
        expected: &'static str,
    ) -> Result<T, A::Error> {
        self.expected = expected;
        map.next_value()
    }

    /// As [`Self::value`], for a field that may stand once only.
    fn once<'de, T: serde::Deserialize<'de>, A: MapAccess<'de>>(
        &mut self,
        slot: &mut Option<T>,
        map: &mut A,
        expected: &'static str,
    ) -> Result<(), A::Error> {
        if slot.is_some() {
            return self.refuse(format!("a field is given twice: {expected}"));
        }
        *slot = Some(self.value(map, expected)?);
        Ok(())
    }
}

/// Declares a seed that reads one JSON object by hand.
macro_rules! object {
    ($name:ident -> $value:ty, $what:literal, |$seed:ident, $map:ident| $body:block) => {
        impl<'de> DeserializeSeed<'de> for $name<'_, '_> {
            type Value = $value;
            fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<$value, D::Error> {
                self.0.expected = $what;
                deserializer.deserialize_map(self)
            }
        }
        impl<'de> Visitor<'de> for $name<'_, '_> {
            type Value = $value;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str($what)
            }
            fn visit_map<A: MapAccess<'de>>(self, mut $map: A) -> Result<$value, A::Error> {
                let $seed = self;
                $body
            }
        }
    };
}

/// The seed of one element: an input knows its position, an output does not need it.
macro_rules! element_seed {
    (Input, $context:expr, $position:expr) => {
        Input($context, $position)
    };
    (Output, $context:expr, $position:expr) => {
        Output($context)
    };
}

/// Declares a seed that reads an array of objects, `null` as empty.
macro_rules! array_of {
    ($name:ident of $element:ident -> $value:ty, $what:literal) => {
        impl<'de> DeserializeSeed<'de> for $name<'_, '_> {
            type Value = Vec<$value>;
            fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
                self.0.expected = $what;
                deserializer.deserialize_any(self)
            }
        }
        impl<'de> Visitor<'de> for $name<'_, '_> {
            type Value = Vec<$value>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str($what)
            }
            fn visit_unit<E: serde::de::Error>(self) -> Result<Self::Value, E> {
                Ok(Vec::new())
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut elements = Vec::new();
                while let Some(element) = seq.next_element_seed(element_seed!($element, self.0, elements.len()))? {
                    elements.push(element);
                }
                Ok(elements)
            }
        }
    };
}

struct Top<'c, 'a>(&'c mut Context<'a>);
struct InputList<'c, 'a>(&'c mut Context<'a>);
struct OutputList<'c, 'a>(&'c mut Context<'a>);
struct Input<'c, 'a>(&'c mut Context<'a>, usize);
struct Output<'c, 'a>(&'c mut Context<'a>);
struct Parameters<'c, 'a>(&'c mut Context<'a>, Scope);

array_of!(InputList of Input -> WireInput, "'inputs' must be an array of objects");
array_of!(OutputList of Output -> WireOutput, "'outputs' must be an array of objects");

object!(Top -> Header, "the request must be a JSON object", |seed, map| {
    let context = seed.0;
    let mut id: Option<Option<String>> = None;
    let (mut inputs, mut outputs, mut parameters) = (None, None, None);
    while let Some(Word(key)) = map.next_key()? {
        match &*key {
            "id" => context.once(&mut id, &mut map, "'id' must be a string")?,
            "inputs" if inputs.is_none() => inputs = Some(map.next_value_seed(InputList(&mut *context))?),
            "outputs" if outputs.is_none() => outputs = Some(map.next_value_seed(OutputList(&mut *context))?),
            "parameters" if parameters.is_none() => {
                parameters = Some(map.next_value_seed(Parameters(&mut *context, Scope::Request))?);
            }
            "inputs" | "outputs" | "parameters" => {
                return context.refuse(format!("field '{key}' is given twice"));
            }
            _ => {
                map.next_value::<IgnoredAny>()?;
            }
        }
    }
    let Some(inputs) = inputs else {
        return context.refuse("field 'inputs' is missing");
    };
    if let Some(Some(id)) = &id
        && id.len() > MAX_ID_BYTES
    {
        return context.refuse(format!("'id' may hold at most {MAX_ID_BYTES} bytes, got {}", id.len()));
    }
    let known = parameters.unwrap_or_default();
    Ok(Header {
        id: id.flatten(),
        binary_outputs: known.binary,
        timeout: known.timeout,
        inputs,
        outputs: outputs.unwrap_or_default(),
    })
});

object!(Input -> WireInput, "'inputs' must be an array of objects", |seed, map| {
    let Input(context, position) = seed;
    if position >= context.max_inputs {
        return context.refuse(format!("more inputs than the {} of the model", context.max_inputs));
    }
    let known = context.known_dtypes.get(position).copied();
    let (mut name, mut dtype, mut parameters) = (None::<String>, None::<Word<'_>>, None);
    let (mut shape, mut data) = (None::<Shape>, None);
    while let Some(Word(key)) = map.next_key()? {
        match &*key {
            "name" => context.once(&mut name, &mut map, "'name' of an input must be a string")?,
            "datatype" => context.once(&mut dtype, &mut map, "'datatype' of an input must be a string")?,
            "shape" => {
                let expected = "'shape' of an input must be an array of at most 16 whole numbers of at least 0";
                context.once(&mut shape, &mut map, expected)?;
            }
            "parameters" if parameters.is_none() => {
                parameters = Some(map.next_value_seed(Parameters(&mut *context, Scope::Input))?);
            }
            "data" if data.is_none() => {
                let dtype = known.or_else(|| dtype.as_ref().and_then(|word| DType::from_oip_name(&word.0)));
                let name = name.as_deref();
                data = Some(map.next_value_seed(Data { context: &mut *context, dtype, name, shape: shape.as_ref().map(|shape| shape.0.as_slice()) })?);
            }
            "data" | "parameters" => return context.refuse(format!("field '{key}' of an input is given twice")),
            _ => {
                map.next_value::<IgnoredAny>()?;
            }
        }
    }
    let shape = shape.map(|shape| shape.0);
    let dtype = dtype.as_ref().map(|word| &*word.0);
    finish_input(context, name, dtype, shape, data, parameters.unwrap_or_default().size)
});

fn finish_input<E: serde::de::Error>(
    context: &mut Context<'_>,
    name: Option<String>,
    dtype: Option<&str>,
    shape: Option<Vec<usize>>,
    data: Option<Payload>,
    binary_size: Option<usize>,
) -> Result<WireInput, E> {
    let Some(name) = name else {
        return context.refuse("an input has no 'name'");
    };
    let shown = || quoted(&name);
    let Some(shape) = shape else {
        return context.refuse(format!("input {} has no 'shape'", shown()));
    };
    let Some(dtype) = dtype else {
        return context.refuse(format!("input {} has no 'datatype'", shown()));
    };
    let Some(dtype) = DType::from_oip_name(dtype) else {
        return context.refuse(format!("invalid datatype {} for input {}", quoted(dtype), shown()));
    };
    let payload = match (data, binary_size) {
        (Some(payload), None) => payload,
        (None, Some(size)) => Payload::Binary(size),
        (None, None) => {
            return context.refuse(format!("input {} has neither 'data' nor parameter 'binary_data_size'", shown()));
        }
        (Some(_), Some(_)) => {
            return context.refuse(format!("input {} has both 'data' and parameter 'binary_data_size'", shown()));
        }
    };
    Ok(WireInput { name, dtype, shape, payload })
}

/// The `data` of one input.
struct Data<'c, 'a, 'n> {
    context: &'c mut Context<'a>,
    dtype: Option<DType>,
    name: Option<&'n str>,
    shape: Option<&'n [usize]>,
}

impl<'de> DeserializeSeed<'de> for Data<'_, '_, '_> {
    type Value = Payload;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Payload, D::Error> {
        let Some(dtype) = self.dtype else {
            IgnoredAny::deserialize(deserializer)?;
            return Ok(Payload::Unread);
        };
        let expected = self.shape.and_then(|shape| shape.iter().try_fold(1_usize, |all, &size| all.checked_mul(size)));
        if matches!(dtype, DType::F16 | DType::Bf16) {
            // As Triton has it: a JSON number is not told to be one that this type holds.
            let whose = self.name.map(|name| format!(" of input {}", quoted(name))).unwrap_or_default();
            let text = format!("'data'{whose}: datatype {dtype} travels as binary data alone, with binary_data_size");
            return self.context.refuse(text);
        }
        let mut nesting = Nesting::default();
        let values = read_values(deserializer, dtype, expected, self.context.max_elements, &mut nesting);
        if let (Err(_), Some(problem)) = (&values, nesting.problem.take()) {
            let whose = self.name.map(|name| format!(" of input {}", quoted(name))).unwrap_or_default();
            return self.context.refuse(format!("'data'{whose} {problem}"));
        }
        Ok(Payload::Json(values?, nesting))
    }
}

object!(Output -> WireOutput, "'outputs' must be an array of objects", |seed, map| {
    let Output(context) = seed;
    let (mut name, mut parameters) = (None::<String>, None);
    while let Some(Word(key)) = map.next_key()? {
        match &*key {
            "name" => context.once(&mut name, &mut map, "'name' of an output must be a string")?,
            "parameters" if parameters.is_none() => {
                parameters = Some(map.next_value_seed(Parameters(&mut *context, Scope::Output))?);
            }
            "parameters" => return context.refuse("field 'parameters' of an output is given twice"),
            _ => {
                map.next_value::<IgnoredAny>()?;
            }
        }
    }
    let Some(name) = name else {
        return context.refuse("an output has no 'name'");
    };
    let known = parameters.unwrap_or_default();
    Ok(WireOutput { name, binary: known.binary, classes: known.classes })
});

/// The parameters that have an effect.
#[derive(Debug, Default)]
struct Known {
    binary: Option<bool>,
    size: Option<usize>,
    classes: Option<usize>,
    timeout: Option<Duration>,
}

impl<'de> DeserializeSeed<'de> for Parameters<'_, '_> {
    type Value = Known;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Known, D::Error> {
        self.0.expected = "'parameters' must be an object";
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Parameters<'_, '_> {
    type Value = Known;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("'parameters' must be an object")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Known, E> {
        Ok(Known::default())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Known, A::Error> {
        let Parameters(context, scope) = self;
        let mut known = Known::default();
        while let Some(Word(key)) = map.next_key()? {
            match rule(scope, &key) {
                Rule::Binary => {
                    let expected = match scope {
                        Scope::Request => "parameter 'binary_data_output' must be true or false",
                        Scope::Input | Scope::Output => "parameter 'binary_data' must be true or false",
                    };
                    context.once(&mut known.binary, &mut map, expected)?;
                }
                Rule::BinarySize => {
                    let expected = "parameter 'binary_data_size' must be a whole number of bytes";
                    context.once(&mut known.size, &mut map, expected)?;
                }
                Rule::Classes => {
                    let wanted: i64 = context.value(&mut map, "parameter 'classification' must be a whole number")?;
                    match n_classes(u64::try_from(wanted).ok()) {
                        Ok(wanted) => known.classes = Some(wanted),
                        Err(refusal) => return context.refuse(refusal.message),
                    }
                }
                Rule::Timeout => {
                    let wanted: u64 = context
                        .value(&mut map, "parameter 'timeout' must be a whole number of microseconds of at least 0")?;
                    known.timeout = (wanted > 0).then(|| Duration::from_micros(wanted));
                }
                Rule::Ignored => {
                    map.next_value::<IgnoredAny>()?;
                }
                Rule::Refused(message) => return context.refuse(message),
            }
        }
        Ok(known)
    }
}
