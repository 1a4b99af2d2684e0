//! Numbers of a JSON answer, nested or flat, without a tree in between.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Deeper arrays are no tensor.
const MAX_DEPTH: usize = 16;

/// The leaves of an array in order, if they are numbers.
#[derive(Default, PartialEq)]
pub(super) struct Numbers {
    pub(super) values: Vec<f32>,
    /// Sizes by depth, the first of each; empty for a bare number.
    pub(super) shape: Vec<usize>,
    /// Whether every leaf is a number at one depth, and all arrays of a depth are equally long.
    pub(super) is_tensor: bool,
}

/// Shows shapes alone.
impl fmt::Debug for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Numbers({:?})", self.shape)
    }
}

impl<'de> Deserialize<'de> for Numbers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut numbers = Self { is_tensor: true, ..Self::default() };
        let mut leaf_depth = None;
        deserializer.deserialize_any(Node { numbers: &mut numbers, leaf_depth: &mut leaf_depth, depth: 0 })?;
        Ok(numbers)
    }
}

struct Node<'a> {
    numbers: &'a mut Numbers,
    leaf_depth: &'a mut Option<usize>,
    depth: usize,
}

impl Node<'_> {
    fn push(self, value: f64) {
        self.numbers.is_tensor &= *self.leaf_depth.get_or_insert(self.depth) == self.depth;
        self.numbers.values.push(value as f32);
    }
}

impl<'de> serde::de::DeserializeSeed<'de> for Node<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("numbers")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let Self { numbers, leaf_depth, depth } = self;
        if depth >= MAX_DEPTH {
            return Err(A::Error::custom("nested too deep"));
        }
        let known = numbers.shape.len() > depth;
        if !known {
            numbers.shape.push(0);
        }
        let mut length = 0;
        loop {
            let node = Node { numbers: &mut *numbers, leaf_depth: &mut *leaf_depth, depth: depth + 1 };
            if seq.next_element_seed(node)?.is_none() {
                break;
            }
            length += 1;
        }
        if known {
            numbers.is_tensor &= numbers.shape[depth] == length;
        } else {
            numbers.shape[depth] = length;
        }
        Ok(())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.push(value as f64);
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.push(value as f64);
        Ok(())
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        self.push(value);
        Ok(())
    }

    /// Some servers write a score that is no number as `null`: kept as one, for R8 to refuse.
    fn visit_unit<E>(self) -> Result<(), E> {
        self.push(f64::NAN);
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        self.numbers.is_tensor = false;
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        self.numbers.is_tensor = false;
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        self.numbers.is_tensor = false;
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Numbers {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn nested_and_flat_numbers_keep_their_order_and_shape() {
        let nested = read("[[1,2.5],[3,-4]]");
        assert_eq!((nested.values, nested.shape, nested.is_tensor), (vec![1.0, 2.5, 3.0, -4.0], vec![2, 2], true));
        let flat = read("[1,2]");
        assert_eq!((flat.shape, flat.is_tensor), (vec![2], true));
        assert!(read("[null]").values[0].is_nan());
    }

    #[test]
    fn what_is_no_tensor_is_told() {
        for text in ["[[1],[2,3]]", "[1,[2]]", "[\"a\"]", "[{}]", "{\"a\":1}", "[true]", "\"x\""] {
            assert!(!read(text).is_tensor, "{text}");
        }
        let deep = format!("{}1{}", "[".repeat(20), "]".repeat(20));
        assert!(serde_json::from_str::<Numbers>(&deep).is_err());
    }
}
