//! The `data` field of a JSON tensor, read in one pass from text into typed values, row-major.
//!
//! Knows nothing of models: it counts, keeps the nesting it saw, and says what is no element of its type.
//! Problems go through [`Nesting::problem`] and hold positions, never values: the messages of the JSON reader
//! quote what they found, so those are dropped.

use std::fmt;

use half::{bf16, f16};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::quoted;
use crate::tensor::{DType, Values, shape_text};

/// Arrays nested deeper than this are refused; no tensor has that many dimensions.
pub(in crate::protocol) const MAX_RANK: usize = 16;

/// How the arrays of a `data` field were nested.
#[derive(Debug, Default)]
pub(super) struct Nesting {
    /// Length of the arrays at each depth, outermost first.
    lengths: Vec<Option<usize>>,
    /// Depth at which the elements stand.
    leaf_depth: Option<usize>,
    /// What was wrong, for the client.
    pub(super) problem: Option<String>,
}

impl Nesting {
    /// One array of `length` elements.
    pub(super) fn flat(length: usize) -> Self {
        Self { lengths: vec![Some(length)], leaf_depth: (length > 0).then_some(1), problem: None }
    }

    /// Whether arrays nested like this hold a tensor of `shape`: flat, or nested as the shape says, where the
    /// innermost arrays may run over all the remaining dimensions.
    pub(super) fn fits(&self, shape: &[usize]) -> bool {
        let depth = self.lengths.len();
        if depth > shape.len() {
            return false;
        }
        let Some(last) = depth.checked_sub(1) else {
            return false;
        };
        let rest = shape[last..].iter().try_fold(1_usize, |product, &size| product.checked_mul(size));
        let expected = shape[..last].iter().copied().map(Some).chain([rest]);
        self.lengths.iter().copied().map(Option::unwrap_or_default).map(Some).eq(expected)
    }

    /// The nesting in the form of a shape, outermost first.
    pub(super) fn shape(&self) -> Vec<usize> {
        self.lengths.iter().map(|length| length.unwrap_or_default()).collect()
    }

    /// The nesting in the form of a shape, for messages.
    pub(super) fn shape_text(&self) -> String {
        shape_text(&self.shape())
    }

    fn refuse<T, E: serde::de::Error>(&mut self, problem: String) -> Result<T, E> {
        self.problem.get_or_insert(problem);
        Err(E::custom("refused"))
    }

    fn leaf<E: serde::de::Error>(&mut self, depth: usize) -> Result<(), E> {
        if *self.leaf_depth.get_or_insert(depth) == depth && depth == self.lengths.len() {
            return Ok(());
        }
        self.refuse("mixes arrays and elements at one depth".to_owned())
    }

    fn open<E: serde::de::Error>(&mut self, depth: usize) -> Result<(), E> {
        if depth >= MAX_RANK {
            return self.refuse(format!("is nested deeper than {MAX_RANK} arrays"));
        }
        if self.lengths.len() <= depth {
            if self.leaf_depth.is_some() {
                return self.refuse("mixes arrays and elements at one depth".to_owned());
            }
            self.lengths.push(None);
        }
        Ok(())
    }

    fn close<E: serde::de::Error>(&mut self, depth: usize, length: usize) -> Result<(), E> {
        let seen = *self.lengths[depth].get_or_insert(length);
        if seen == length {
            return Ok(());
        }
        self.refuse(format!("is ragged: arrays of {seen} and of {length} elements at depth {}", depth + 1))
    }
}

/// A step from a JSON value towards the values of a tensor inside of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step<'k> {
    /// Into a field of an object.
    Field(&'k str),
    /// Into every element of an array, which is the first dimension.
    Each,
}

/// Reads the value at hand as elements of `dtype`: [`read_at`] without a step.
pub(super) fn read_values<'de, D: Deserializer<'de>>(
    deserializer: D,
    dtype: DType,
    expected: Option<usize>,
    max_elements: usize,
    nesting: &mut Nesting,
) -> Result<Values, D::Error> {
    read_at(deserializer, &[], dtype, expected, max_elements, nesting)
}

/// Reads what stands at the end of `path` as elements of `dtype`; other fields on the way are passed over.
///
/// `expected` is the number of elements if it is known; it only sizes the buffer, bounded by `max_elements`
/// (what the body can hold at all).
pub(super) fn read_at<'de, D: Deserializer<'de>>(
    deserializer: D,
    path: &[Step<'_>],
    dtype: DType,
    expected: Option<usize>,
    max_elements: usize,
    nesting: &mut Nesting,
) -> Result<Values, D::Error> {
    let capacity = expected.unwrap_or(0).min(max_elements);
    macro_rules! read {
        ($variant:ident) => {{
            let mut values = Vec::with_capacity(capacity);
            let at = At { path, flat: Flat { out: &mut values, nesting: &mut *nesting, depth: 0 } };
            at.deserialize(deserializer)?;
            Ok(Values::$variant(values))
        }};
    }
    match dtype {
        DType::Bool => read!(Bool),
        DType::U8 => read!(U8),
        DType::U16 => read!(U16),
        DType::U32 => read!(U32),
        DType::U64 => read!(U64),
        DType::I8 => read!(I8),
        DType::I16 => read!(I16),
        DType::I32 => read!(I32),
        DType::I64 => read!(I64),
        DType::F32 => read!(F32),
        DType::F64 => read!(F64),
        DType::F16 => read!(F16),
        DType::Bf16 => read!(Bf16),
        DType::Bytes => nesting.refuse(format!("of datatype {dtype} is not served")),
    }
}

/// A type that elements can have in JSON. Each reading may fail; the caller names the type.
trait Element: Sized {
    const EXPECTED: &'static str;
    fn from_bool(_: bool) -> Option<Self> {
        None
    }
    fn from_u64(_: u64) -> Option<Self> {
        None
    }
    fn from_i64(_: i64) -> Option<Self> {
        None
    }
    fn from_f64(_: f64) -> Option<Self> {
        None
    }
}

impl Element for bool {
    const EXPECTED: &'static str = "true or false (BOOL)";
    fn from_bool(value: bool) -> Option<Self> {
        Some(value)
    }
}

macro_rules! integer_element {
    ($($type:ty, $name:literal);*) => {$(
        impl Element for $type {
            const EXPECTED: &'static str = concat!("a whole number in the range of ", $name);
            fn from_u64(value: u64) -> Option<Self> {
                value.try_into().ok()
            }
            fn from_i64(value: i64) -> Option<Self> {
                value.try_into().ok()
            }
        }
    )*};
}
integer_element!(
    u8, "UINT8"; u16, "UINT16"; u32, "UINT32"; u64, "UINT64"; i8, "INT8"; i16, "INT16"; i32, "INT32"; i64, "INT64"
);

macro_rules! float_element {
    ($($type:ty, $name:literal, |$value:ident| $number:expr);*) => {$(
        impl Element for $type {
            const EXPECTED: &'static str = concat!("a number (", $name, ")");
            fn from_u64($value: u64) -> Option<Self> {
                Some($number)
            }
            fn from_i64($value: i64) -> Option<Self> {
                Some($number)
            }
            fn from_f64($value: f64) -> Option<Self> {
                Some($number)
            }
        }
    )*};
}
float_element!(
    f32, "FP32", |value| value as f32; f64, "FP64", |value| value as f64;
    f16, "FP16", |value| f16::from_f64(value as f64); bf16, "BF16", |value| bf16::from_f64(value as f64)
);

/// Follows a path, then reads the elements at its end.
struct At<'a, 'k, T> {
    path: &'a [Step<'k>],
    flat: Flat<'a, T>,
}

impl<'de, T: Element> DeserializeSeed<'de> for At<'_, '_, T> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match self.path.first() {
            None => self.flat.deserialize(deserializer),
            Some(_) => deserializer.deserialize_any(self),
        }
    }
}

impl<'de, T: Element> Visitor<'de> for At<'_, '_, T> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or an array on the way to a tensor")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Flat { out, nesting, depth } = self.flat;
        let Some((Step::Field(name), path)) = self.path.split_first() else {
            return nesting.refuse("has an object where an array must stand".to_owned());
        };
        let mut found = false;
        while let Some(key) = map.next_key::<std::borrow::Cow<'_, str>>()? {
            if key != *name {
                map.next_value::<IgnoredAny>()?;
            } else if found {
                return nesting.refuse(format!("has {} twice", quoted(name)));
            } else {
                map.next_value_seed(At { path, flat: Flat { out: &mut *out, nesting: &mut *nesting, depth } })?;
                found = true;
            }
        }
        if found { Ok(()) } else { nesting.refuse(format!("lacks {}", quoted(name))) }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let Flat { out, nesting, depth } = self.flat;
        let Some((Step::Each, path)) = self.path.split_first() else {
            return nesting.refuse("has an array where an object must stand".to_owned());
        };
        nesting.open(depth)?;
        let mut length = 0;
        loop {
            let flat = Flat { out: &mut *out, nesting: &mut *nesting, depth: depth + 1 };
            if seq.next_element_seed(At { path, flat })?.is_none() {
                return nesting.close(depth, length);
            }
            length += 1;
        }
    }
}

/// Appends the elements below one JSON value to `out`.
struct Flat<'a, T> {
    out: &'a mut Vec<T>,
    nesting: &'a mut Nesting,
    depth: usize,
}

impl<T: Element> Flat<'_, T> {
    fn push<E: serde::de::Error>(self, element: Option<T>) -> Result<(), E> {
        if self.depth == 0 {
            return self.nesting.refuse("must be an array".to_owned());
        }
        self.nesting.leaf(self.depth)?;
        match element {
            Some(element) => {
                self.out.push(element);
                Ok(())
            }
            None => self.wrong(),
        }
    }

    fn wrong<V, E: serde::de::Error>(self) -> Result<V, E> {
        let position = self.out.len();
        self.nesting.refuse(format!("must hold {} at position {position}", T::EXPECTED))
    }
}

impl<'de, T: Element> DeserializeSeed<'de> for Flat<'_, T> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, T: Element> Visitor<'de> for Flat<'_, T> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        self.nesting.open(self.depth)?;
        let (out, nesting, depth) = (self.out, self.nesting, self.depth);
        let mut length = 0;
        while seq.next_element_seed(Flat { out: &mut *out, nesting: &mut *nesting, depth: depth + 1 })?.is_some() {
            length += 1;
        }
        nesting.close(depth, length)
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<(), E> {
        self.push(T::from_bool(value))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<(), E> {
        self.push(T::from_u64(value))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<(), E> {
        self.push(T::from_i64(value))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<(), E> {
        self.push(T::from_f64(value))
    }

    fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<(), E> {
        self.wrong()
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        self.wrong()
    }

    fn visit_map<A: serde::de::MapAccess<'de>>(self, _: A) -> Result<(), A::Error> {
        self.wrong()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, dtype: DType) -> (Result<Values, serde_json::Error>, Nesting) {
        let mut nesting = Nesting::default();
        let mut deserializer = serde_json::Deserializer::from_str(text);
        (read_values(&mut deserializer, dtype, None, text.len(), &mut nesting), nesting)
    }

    #[test]
    fn nested_and_flat_read_alike() {
        let (flat, flat_nesting) = read("[1,2.5,3,4]", DType::F32);
        let (nested, nesting) = read("[[1,2.5],[3,4]]", DType::F32);
        assert!(flat.unwrap() == Values::F32(vec![1.0, 2.5, 3.0, 4.0]));
        assert!(nested.unwrap() == Values::F32(vec![1.0, 2.5, 3.0, 4.0]));
        assert!(flat_nesting.fits(&[2, 2]) && flat_nesting.fits(&[4]) && !flat_nesting.fits(&[5]));
        assert!(nesting.fits(&[2, 2]) && nesting.fits(&[2, 1, 2]) && !nesting.fits(&[4]) && !nesting.fits(&[1, 4]));
    }

    #[test]
    fn ragged_mixed_and_deep_arrays_are_refused() {
        for (text, word) in [
            ("[[1,2],[3]]", "ragged"),
            ("[1,[2]]", "mixes"),
            ("[[1],2]", "mixes"),
            ("[[],[[1]]]", "ragged"),
            ("3", "array"),
            ("{}", "position 0"),
        ] {
            let (values, nesting) = read(text, DType::F32);
            assert!(values.is_err(), "{text}");
            assert!(nesting.problem.as_deref().unwrap_or_default().contains(word), "{text}: {:?}", nesting.problem);
        }
        let deep = format!("{}1{}", "[".repeat(40), "]".repeat(40));
        assert!(read(&deep, DType::F32).1.problem.unwrap().contains("deeper"));
    }

    #[test]
    fn elements_are_of_their_type_and_messages_hold_no_value() {
        for (text, dtype) in [
            ("[777777]", DType::U8),
            ("[-777777]", DType::U32),
            ("[777777.5]", DType::I64),
            ("[true,777777]", DType::Bool),
            ("[\"777777\"]", DType::F32),
            ("[null]", DType::F64),
            ("[true]", DType::F32),
        ] {
            let (values, nesting) = read(text, dtype);
            assert!(values.is_err(), "{text}");
            let problem = nesting.problem.unwrap();
            assert!(problem.contains(" at position ") && !problem.contains("777777"), "{problem}");
        }
    }
}
