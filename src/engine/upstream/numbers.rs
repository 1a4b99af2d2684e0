//! Numbers of a JSON answer, nested or flat, without a tree in between, and no more of them than were asked for.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Deeper arrays are no tensor.
const MAX_DEPTH: usize = 16;

/// The leaves of an array in order, if they are numbers.
#[derive(Default, PartialEq)]
pub(super) struct Numbers {
    pub(super) values: Vec<f32>,
    /// Sizes by depth, the first of each; empty for a bare number.
    pub(super) shape: Vec<usize>,
    /// Whether every leaf is a number at one depth, all arrays of a depth are equally long, and there are no more leaves than
    /// were to be read.
    pub(super) is_tensor: bool,
    /// Whether it is a bare `null`.
    pub(super) is_null: bool,
    /// Whether the name that was looked for stands in it, where there are objects.
    pub(super) has_name: bool,
    /// Objects among the rows.
    n_objects: usize,
    leaf_depth: Option<usize>,
}

/// Shows shapes alone.
impl fmt::Debug for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Numbers({:?})", self.shape)
    }
}

/// How numbers are read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Read<'a> {
    /// The most leaves that are kept; more are no tensor.
    pub(super) max: usize,
    /// A field that is looked for in the object that may stand in place of the whole.
    pub(super) of_whole: Option<&'a str>,
    /// A field that is looked for in objects that may stand in place of the rows.
    pub(super) of_rows: Option<&'a str>,
}

impl Read<'_> {
    /// At most `max` leaves, no objects.
    pub(super) fn plain(max: usize) -> Self {
        Self { max, of_whole: None, of_rows: None }
    }
}

impl<'de> DeserializeSeed<'de> for Read<'_> {
    type Value = Numbers;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Numbers, D::Error> {
        let mut numbers = Numbers { is_tensor: true, ..Numbers::default() };
        Node { numbers: &mut numbers, read: self, depth: 0 }.deserialize(deserializer)?;
        Ok(numbers)
    }
}

struct Node<'n, 'a> {
    numbers: &'n mut Numbers,
    read: Read<'a>,
    depth: usize,
}

impl Node<'_, '_> {
    fn push(self, value: f64) {
        let numbers = self.numbers;
        numbers.is_tensor &= *numbers.leaf_depth.get_or_insert(self.depth) == self.depth;
        if numbers.values.len() < self.read.max {
            numbers.values.push(value as f32);
        } else {
            numbers.is_tensor = false;
        }
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("numbers")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let Self { numbers, read, depth } = self;
        if depth >= MAX_DEPTH {
            return Err(A::Error::custom("nested too deep"));
        }
        let known = numbers.shape.len() > depth;
        if !known {
            numbers.shape.push(0);
        }
        let mut length = 0;
        loop {
            // What is no tensor any more is passed over: that costs the least.
            let has_next = if numbers.is_tensor {
                seq.next_element_seed(Node { numbers: &mut *numbers, read, depth: depth + 1 })?.is_some()
            } else {
                seq.next_element::<IgnoredAny>()?.is_some()
            };
            if !has_next {
                break;
            }
            length += 1;
        }
        if known {
            numbers.is_tensor &= numbers.shape[depth] == length;
        } else {
            numbers.shape[depth] = length;
        }
        if depth == 0 {
            // Rows are objects or they are not.
            numbers.is_tensor &= numbers.n_objects == 0 || numbers.n_objects == length;
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
        self.numbers.is_null = self.depth == 0;
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
        let Self { numbers, read, depth } = self;
        let name = match depth {
            0 => read.of_whole,
            1 => read.of_rows,
            _ => None,
        };
        let Some(name) = name else {
            numbers.is_tensor = false;
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return Ok(());
        };
        numbers.n_objects += depth;
        let mut found = false;
        while let Some(IsName(is_name)) = map.next_key_seed(Wanted(name))? {
            if !is_name {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            // A name that stands twice says nothing.
            numbers.is_tensor &= !std::mem::replace(&mut found, true);
            // What stands under a name holds no further names.
            let read = Read { of_whole: None, of_rows: None, ..read };
            map.next_value_seed(Node { numbers: &mut *numbers, read, depth })?;
        }
        numbers.has_name |= found;
        numbers.is_tensor &= found;
        Ok(())
    }
}

/// Compares a key with a name, without a copy of it.
pub(super) struct Wanted<'a>(pub(super) &'a str);

/// Whether a key was the name.
pub(super) struct IsName(pub(super) bool);

impl<'de> DeserializeSeed<'de> for Wanted<'_> {
    type Value = IsName;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<IsName, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl Visitor<'_> for Wanted<'_> {
    type Value = IsName;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, key: &str) -> Result<IsName, E> {
        Ok(IsName(key == self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(read: Read<'_>, text: &str) -> Result<Numbers, serde_json::Error> {
        read.deserialize(&mut serde_json::Deserializer::from_str(text))
    }

    fn read(text: &str) -> Numbers {
        with(Read::plain(100), text).unwrap()
    }

    #[test]
    fn nested_and_flat_numbers_keep_their_order_and_shape() {
        let nested = read("[[1,2.5],[3,-4]]");
        assert_eq!((nested.values, nested.shape, nested.is_tensor), (vec![1.0, 2.5, 3.0, -4.0], vec![2, 2], true));
        let flat = read("[1,2]");
        assert_eq!((flat.shape, flat.is_tensor), (vec![2], true));
        assert!(read("[null]").values[0].is_nan() && read("null").is_null && !read("[null]").is_null);
    }

    #[test]
    fn what_is_no_tensor_is_told() {
        for text in ["[[1],[2,3]]", "[1,[2]]", "[\"a\"]", "[{}]", "{\"a\":1}", "[true]", "\"x\""] {
            assert!(!read(text).is_tensor, "{text}");
        }
        let deep = format!("{}1{}", "[".repeat(20), "]".repeat(20));
        assert!(with(Read::plain(1), &deep).is_err());
    }

    #[test]
    fn no_more_is_kept_than_was_asked_for() {
        let many = format!("[{}0]", "0,".repeat(10_000));
        let numbers = with(Read::plain(8), &many).unwrap();
        assert!(!numbers.is_tensor && numbers.values.capacity() <= 8, "{}", numbers.values.capacity());
    }

    #[test]
    fn a_name_is_found_in_place_of_the_whole_or_of_each_row() {
        let both = Read { max: 9, of_whole: Some("a"), of_rows: Some("a") };
        for text in
            [r#"{"b":[["x"]],"a":[[1,2],[3,4]]}"#, r#"[{"a":[1,2],"b":{}},{"b":[],"a":[3,4]}]"#, "[[1,2],[3,4]]"]
        {
            let numbers = with(both, text).unwrap();
            assert_eq!(
                (numbers.values, numbers.shape, numbers.is_tensor),
                (vec![1.0, 2.0, 3.0, 4.0], vec![2, 2], true)
            );
        }
        for text in [
            r#"{"b":[1]}"#,
            r#"[{"a":[1]},{"b":[1]}]"#,
            r#"[{"a":[1]},[1]]"#,
            r#"[{"a":[1],"a":[1]}]"#,
            r#"{"a":{"a":[1]}}"#,
            r#"{"a":[{"a":[1]}]}"#,
            r#"[{"a":[1]},{"b":[1]},{"a":[1]}]"#,
        ] {
            assert!(!with(both, text).unwrap().is_tensor, "{text}");
        }
    }
}
