//! The JSON of an inference answer, read without trust in who wrote it: no more outputs, dimensions and numbers are held than
//! an answer to our question has.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::Fault;
use super::numbers::{IsName, Numbers, Read, Wanted};

/// The most outputs that an answer may name.
pub(super) const MAX_OUTPUTS: usize = 1024;
/// The most dimensions of an output.
pub(super) const MAX_RANK: usize = 16;
/// The longest name, type, id or version that is read.
const MAX_TEXT: usize = 4096;

/// An answer.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) id: Option<String>,
    pub(super) model_version: Option<String>,
    pub(super) outputs: Vec<Output>,
}

/// An output of an answer.
#[derive(Debug, Default)]
pub(super) struct Output {
    pub(super) name: String,
    pub(super) datatype: String,
    pub(super) shape: Vec<usize>,
    pub(super) binary_size: Option<usize>,
    pub(super) data: Option<Numbers>,
}

impl Answer {
    /// Reads an answer, of each output at most `max` numbers.
    pub(super) fn read(json: &[u8], max: usize) -> Result<Self, Fault> {
        // Text that is known to be text is not looked at again, string by string.
        let answer = match std::str::from_utf8(json) {
            Ok(text) => read_top(serde_json::Deserializer::from_str(text), max),
            Err(_) => read_top(serde_json::Deserializer::from_slice(json), max),
        };
        answer.map_err(|_| Fault::answer("expected the JSON of an inference answer"))
    }
}

fn read_top<'de, R: serde_json::de::Read<'de>>(
    mut json: serde_json::Deserializer<R>,
    max: usize,
) -> serde_json::Result<Answer> {
    let answer = json.deserialize_map(Object(Top(max)))?;
    json.end()?;
    Ok(answer)
}

/// What is read of one kind of object.
trait Fields: Copy {
    type Out: Default;

    /// Reads the value of `key` into `out`; other fields are passed over.
    fn take<'de, A: MapAccess<'de>>(self, key: Key, out: &mut Self::Out, map: &mut A) -> Result<(), A::Error>;

    /// Whether nothing is missing.
    fn is_whole(_seen: Seen) -> bool {
        true
    }
}

/// Fields that have been seen.
#[derive(Debug, Clone, Copy, Default)]
struct Seen(u16);

impl Seen {
    /// Whether `key` is new.
    fn add(&mut self, key: Key) -> bool {
        let is_new = !self.has(key);
        self.0 |= 1 << key as u16;
        is_new
    }

    fn has(self, key: Key) -> bool {
        self.0 & (1 << key as u16) != 0
    }
}

/// A field that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Id,
    Version,
    Outputs,
    Name,
    Datatype,
    Shape,
    Parameters,
    Data,
    BinarySize,
    Other,
}

struct KeySeed;

impl<'de> DeserializeSeed<'de> for KeySeed {
    type Value = Key;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Key, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl Visitor<'_> for KeySeed {
    type Value = Key;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field")
    }

    fn visit_str<E>(self, key: &str) -> Result<Key, E> {
        Ok(match key {
            "id" => Key::Id,
            "model_version" => Key::Version,
            "outputs" => Key::Outputs,
            "name" => Key::Name,
            "datatype" => Key::Datatype,
            "shape" => Key::Shape,
            "parameters" => Key::Parameters,
            "data" => Key::Data,
            "binary_data_size" => Key::BinarySize,
            _ => Key::Other,
        })
    }
}

/// One object; `null` is one without fields.
#[derive(Clone, Copy)]
struct Object<F>(F);

impl<'de, F: Fields> DeserializeSeed<'de> for Object<F> {
    type Value = F::Out;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<F::Out, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, F: Fields> Visitor<'de> for Object<F> {
    type Value = F::Out;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<F::Out, E> {
        if F::is_whole(Seen::default()) { Ok(F::Out::default()) } else { Err(E::custom("null")) }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<F::Out, A::Error> {
        let mut out = F::Out::default();
        let mut seen = Seen::default();
        while let Some(key) = map.next_key_seed(KeySeed)? {
            if key == Key::Other {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            if !seen.add(key) {
                return Err(A::Error::custom("a field stands twice"));
            }
            self.0.take(key, &mut out, &mut map)?;
        }
        if F::is_whole(seen) { Ok(out) } else { Err(A::Error::custom("a field is missing")) }
    }
}

/// The answer itself, with the most numbers of an output.
#[derive(Clone, Copy)]
struct Top(usize);

impl Fields for Top {
    type Out = Answer;

    fn take<'de, A: MapAccess<'de>>(self, key: Key, out: &mut Answer, map: &mut A) -> Result<(), A::Error> {
        match key {
            Key::Id => out.id = map.next_value_seed(Text)?,
            Key::Version => out.model_version = map.next_value_seed(Text)?,
            Key::Outputs => {
                out.outputs = map.next_value_seed(List { element: Object(One(self.0)), max: MAX_OUTPUTS })?
            }
            _ => drop(map.next_value::<IgnoredAny>()?),
        }
        Ok(())
    }

    fn is_whole(seen: Seen) -> bool {
        seen.has(Key::Outputs)
    }
}

/// One output.
#[derive(Clone, Copy)]
struct One(usize);

impl Fields for One {
    type Out = Output;

    fn take<'de, A: MapAccess<'de>>(self, key: Key, out: &mut Output, map: &mut A) -> Result<(), A::Error> {
        match key {
            Key::Name => out.name = map.next_value_seed(Text)?.unwrap_or_default(),
            Key::Datatype => out.datatype = map.next_value_seed(Text)?.unwrap_or_default(),
            Key::Shape => out.shape = map.next_value_seed(List { element: Plain, max: MAX_RANK })?,
            Key::Parameters => out.binary_size = map.next_value_seed(Object(Parameters))?,
            Key::Data => out.data = Some(map.next_value_seed(Read::plain(self.0))?).filter(|data| !data.is_null),
            _ => drop(map.next_value::<IgnoredAny>()?),
        }
        Ok(())
    }

    fn is_whole(seen: Seen) -> bool {
        [Key::Name, Key::Datatype, Key::Shape].into_iter().all(|key| seen.has(key))
    }
}

/// Parameters of an output: where its bytes are.
#[derive(Clone, Copy)]
struct Parameters;

impl Fields for Parameters {
    type Out = Option<usize>;

    fn take<'de, A: MapAccess<'de>>(self, key: Key, out: &mut Option<usize>, map: &mut A) -> Result<(), A::Error> {
        match key {
            Key::BinarySize => *out = map.next_value()?,
            _ => drop(map.next_value::<IgnoredAny>()?),
        }
        Ok(())
    }
}

/// A whole number.
#[derive(Clone, Copy)]
struct Plain;

impl<'de> DeserializeSeed<'de> for Plain {
    type Value = usize;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<usize, D::Error> {
        serde::Deserialize::deserialize(deserializer)
    }
}

/// A short text, or `null`.
struct Text;

impl<'de> DeserializeSeed<'de> for Text {
    type Value = Option<String>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Visitor<'_> for Text {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a short text")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
        if text.len() > MAX_TEXT {
            return Err(E::custom("too long"));
        }
        Ok(Some(text.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}

/// An array of at most so many elements.
#[derive(Clone, Copy)]
struct List<S> {
    element: S,
    max: usize,
}

impl<'de, S: DeserializeSeed<'de> + Copy> DeserializeSeed<'de> for List<S> {
    type Value = Vec<S::Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de, S: DeserializeSeed<'de> + Copy> Visitor<'de> for List<S> {
    type Value = Vec<S::Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = seq.next_element_seed(self.element)? {
            if elements.len() == self.max {
                return Err(A::Error::custom("too many"));
            }
            elements.push(element);
        }
        Ok(elements)
    }
}

/// What stands in one field of an object; every other is passed over, and none is held.
pub(super) fn field(body: &[u8], name: &str, read: Read<'_>) -> Result<Numbers, Fault> {
    let mut answer = serde_json::Deserializer::from_slice(body);
    let found = Field { name, read }.deserialize(&mut answer).and_then(|found| {
        answer.end()?;
        Ok(found)
    });
    let found = found.map_err(|_| Fault::answer(format!("expected a JSON object with one '{name}'")))?;
    found.ok_or_else(|| Fault::answer(format!("it has no '{name}'")))
}

struct Field<'a> {
    name: &'a str,
    read: Read<'a>,
}

impl<'de> DeserializeSeed<'de> for Field<'_> {
    type Value = Option<Numbers>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Field<'_> {
    type Value = Option<Numbers>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(IsName(is_name)) = map.next_key_seed(Wanted(self.name))? {
            if !is_name {
                map.next_value::<IgnoredAny>()?;
            } else if found.replace(map.next_value_seed(self.read)?).is_some() {
                return Err(A::Error::custom("twice"));
            }
        }
        Ok(found)
    }
}
