//! The usual request, quickly: long flat arrays of numbers are taken out of the JSON part before it is read as such.
//!
//! Nearly all bytes of a request in JSON are the `data` of its FP32 inputs, and a reader of any JSON spends several times as
//! long on a number as its digits need. [`take_apart`] finds those arrays by the structure around them, reads them, and
//! leaves an empty array in place of each. It knows the plain form alone: whatever else it meets, it gives up, and the
//! request is read the other way, which also words every refusal. So it decides nothing: what it reads is what the other
//! way reads (a test holds that), and what it does not read is nobody's loss.

use std::ops::Range;

/// Below this the other way is as quick.
const MIN_BYTES: usize = 512;
/// What remains without the arrays may be this long; more is no usual request.
const MAX_REST: usize = 64 << 10;
/// Whole numbers up to here are exact in f64.
const MAX_EXACT: u64 = 1 << 53;
/// Powers of ten that are exact in f64.
const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];

/// A JSON part without its long arrays.
pub(super) struct Apart {
    /// The JSON, `[]` in place of each array.
    pub(super) rest: Vec<u8>,
    /// The position of each such input, and its values.
    pub(super) arrays: Vec<(usize, Vec<f32>)>,
}

/// Takes the flat `data` arrays of the first `max_inputs` inputs out, where `"datatype": "FP32"` stands before them.
pub(super) fn take_apart(json: &[u8], max_inputs: usize) -> Option<Apart> {
    if json.len() < MIN_BYTES {
        return None;
    }
    let mut scan = Scan { json, at: 0 };
    let mut found = Vec::new();
    let mut inputs_seen = false;
    scan.members(|scan, key| {
        if key != b"inputs" {
            return scan.skip();
        }
        if std::mem::replace(&mut inputs_seen, true) {
            return None;
        }
        scan.elements(|scan, position| {
            let (mut is_f32, mut data_seen) = (false, false);
            scan.members(|scan, key| match key {
                b"datatype" => {
                    is_f32 = scan.string()? == b"FP32";
                    Some(())
                }
                b"data" if is_f32 => {
                    if position >= max_inputs || std::mem::replace(&mut data_seen, true) {
                        return None;
                    }
                    let begin = scan.at;
                    let values = scan.numbers()?;
                    found.push((position, values, begin..scan.at));
                    Some(())
                }
                _ => scan.skip(),
            })
        })
    })?;
    let taken: usize = found.iter().map(|(_, _, range)| range.len()).sum();
    if found.is_empty() || json.len() - taken > MAX_REST {
        return None;
    }
    let rest = without(json, found.iter().map(|(_, _, range)| range.clone()));
    Some(Apart { rest, arrays: found.into_iter().map(|(position, values, _)| (position, values)).collect() })
}

/// `json` with `[]` in place of each of `ranges`, which come in order.
fn without(json: &[u8], ranges: impl Iterator<Item = Range<usize>>) -> Vec<u8> {
    let mut rest = Vec::new();
    let mut from = 0;
    for range in ranges {
        rest.extend_from_slice(&json[from..range.start]);
        rest.extend_from_slice(b"[]");
        from = range.end;
    }
    rest.extend_from_slice(&json[from..]);
    rest
}

/// A place in the text. `None` anywhere: not the plain form.
struct Scan<'a> {
    json: &'a [u8],
    at: usize,
}

impl<'a> Scan<'a> {
    fn peek(&self) -> Option<u8> {
        self.json.get(self.at).copied()
    }

    /// The next byte that is no space, which is not taken.
    fn next(&mut self) -> Option<u8> {
        while let Some(byte) = self.peek() {
            if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return Some(byte);
            }
            self.at += 1;
        }
        None
    }

    fn take(&mut self, byte: u8) -> Option<()> {
        (self.next()? == byte).then(|| self.at += 1)
    }

    /// A string as it stands between its quotes: a name with an escape in it is none that is looked for.
    fn string(&mut self) -> Option<&'a [u8]> {
        self.take(b'"')?;
        let begin = self.at;
        loop {
            match self.peek()? {
                b'"' => break,
                b'\\' => self.at += 2,
                _ => self.at += 1,
            }
        }
        let text = self.json.get(begin..self.at)?;
        self.at += 1;
        Some(text)
    }

    /// The members of an object; `member` stands before each value and must take it.
    fn members(&mut self, mut member: impl FnMut(&mut Self, &[u8]) -> Option<()>) -> Option<()> {
        self.take(b'{')?;
        if self.next()? == b'}' {
            return self.take(b'}');
        }
        loop {
            let key = self.string()?;
            self.take(b':')?;
            self.next()?;
            member(self, key)?;
            match self.next()? {
                b',' => self.at += 1,
                _ => return self.take(b'}'),
            }
        }
    }

    /// The elements of an array; `element` stands before each and must take it.
    fn elements(&mut self, mut element: impl FnMut(&mut Self, usize) -> Option<()>) -> Option<()> {
        self.take(b'[')?;
        if self.next()? == b']' {
            return self.take(b']');
        }
        for position in 0.. {
            self.next()?;
            element(self, position)?;
            match self.next()? {
                b',' => self.at += 1,
                _ => return self.take(b']'),
            }
        }
        None
    }

    /// Any value, without a look at what it is.
    fn skip(&mut self) -> Option<()> {
        let mut depth = 0_usize;
        loop {
            match self.next()? {
                b'"' => {
                    self.string()?;
                }
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                }
                // The end of what is around it.
                b'}' | b']' if depth == 0 => return None,
                b'}' | b']' => {
                    depth -= 1;
                    self.at += 1;
                }
                _ => self.at += 1,
            }
            if depth == 0 && matches!(self.next()?, b',' | b'}' | b']') {
                return Some(());
            }
        }
    }

    /// A flat array of numbers.
    fn numbers(&mut self) -> Option<Vec<f32>> {
        self.take(b'[')?;
        // Ten bytes a number, about; never more than what is there.
        let mut values = Vec::with_capacity((self.json.len() - self.at) / 10);
        if self.next()? == b']' {
            self.take(b']')?;
            return Some(values);
        }
        loop {
            self.next()?;
            values.push(self.number()? as f32);
            match self.next()? {
                b',' => self.at += 1,
                _ => {
                    self.take(b']')?;
                    return Some(values);
                }
            }
        }
    }

    /// A number as JSON writes it, rounded to the nearest f64.
    fn number(&mut self) -> Option<f64> {
        let begin = self.at;
        let negative = self.peek()? == b'-';
        self.at += usize::from(negative);
        let leading = self.at;
        let (mut digits, mut n_digits) = (0_u64, 0_usize);
        self.digits(&mut digits, &mut n_digits)?;
        if self.json[leading] == b'0' && n_digits > 1 {
            return None;
        }
        let n_whole = n_digits;
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits(&mut digits, &mut n_digits)?;
        }
        let n_behind = n_digits - n_whole;
        let has_exponent = matches!(self.peek(), Some(b'e' | b'E'));
        // Up to 19 digits cannot overflow.
        let value = if !has_exponent && n_digits <= 19 && digits <= MAX_EXACT && n_behind < POWERS.len() {
            // Both are exact, so that one division rounds once.
            digits as f64 / POWERS[n_behind]
        } else {
            return self.long_number(begin, has_exponent);
        };
        Some(if negative { -value } else { value })
    }

    fn digits(&mut self, digits: &mut u64, n_digits: &mut usize) -> Option<()> {
        let begin = self.at;
        while let Some(byte @ b'0'..=b'9') = self.peek() {
            *digits = digits.wrapping_mul(10).wrapping_add(u64::from(byte - b'0'));
            self.at += 1;
        }
        *n_digits += self.at - begin;
        (self.at > begin).then_some(())
    }

    /// A number with an exponent or with more digits than are exact; whole ones beyond f64 are left to the other way.
    fn long_number(&mut self, begin: usize, has_exponent: bool) -> Option<f64> {
        if has_exponent {
            self.at += 1;
            self.at += usize::from(matches!(self.peek(), Some(b'+' | b'-')));
            self.digits(&mut 0, &mut 0)?;
        }
        let text = std::str::from_utf8(&self.json[begin..self.at]).ok()?;
        if !text.contains(['.', 'e', 'E']) {
            return None;
        }
        text.parse().ok().filter(|value: &f64| value.is_finite())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::data::{Nesting, read_values};
    use crate::tensor::{DType, Values};

    fn request(data: &str) -> String {
        let pad = " ".repeat(MIN_BYTES);
        format!(
            r#"{{"id":"4\"2",{pad}"x":{{"data":[1,[2]]}},"inputs":[{{"name":"a","shape":[1,3],"datatype":"FP32","data":{data}}}],"outputs":[]}}"#
        )
    }

    fn quick(data: &str) -> Option<Vec<f32>> {
        let mut apart = take_apart(request(data).as_bytes(), 1)?;
        assert_eq!(apart.rest, request("[]").into_bytes());
        assert_eq!((apart.arrays.len(), apart.arrays[0].0), (1, 0));
        Some(apart.arrays.remove(0).1)
    }

    fn slow(data: &str) -> Option<Vec<f32>> {
        let mut deserializer = serde_json::Deserializer::from_str(data);
        match read_values(&mut deserializer, DType::F32, None, data.len(), &mut Nesting::default()) {
            Ok(Values::F32(values)) => Some(values),
            _ => None,
        }
    }

    fn bits(values: Option<Vec<f32>>) -> Option<Vec<u32>> {
        values.map(|values| values.into_iter().map(f32::to_bits).collect())
    }

    #[test]
    fn what_is_read_quickly_is_what_is_read_slowly() {
        for data in [
            "[]",
            " [ 1 , -2.50,\n3 ]",
            "[0,-0,-0.0,0.5,10,9007199254740993.5,9007199254740992,0.1234567890123456789,1e-3,-1.5E+2,3e38,1e-400]",
            "[0.59684270620346069,16777217,16777217.0,1.00000005960464477539,340282356779733661637539395458142568448.0]",
        ] {
            assert!(slow(data).is_some(), "{data}");
            assert_eq!(bits(quick(data)), bits(slow(data)), "{data}");
        }
    }

    #[test]
    fn all_but_plain_numbers_is_left_to_the_other_way() {
        for data in [
            "[[1]]",
            "[1,]",
            "[,1]",
            "[1 2]",
            "[01]",
            "[-]",
            "[1.]",
            "[.5]",
            "[1e]",
            "[1e999]",
            "[NaN]",
            "[true]",
            "[\"1\"]",
            "[null]",
            "{}",
            "1",
            "[1",
            "[18446744073709551616]",
            "[+1]",
            "[0x1]",
        ] {
            assert!(quick(data).is_none(), "{data}");
        }
        let plain = request("[1,2,3]");
        for (from, to) in [
            ("FP32", "FP64"),
            ("\"datatype\"", "\"other\""),
            ("\"inputs\"", "\"inputs\":[],\"inputs\""),
            ("\"data\":[1,2,3]", "\"data\":[1],\"data\":[1,2,3]"),
            ("],\"outputs\":[]}", ""),
        ] {
            assert!(plain.contains(from));
            assert!(take_apart(plain.replace(from, to).as_bytes(), 1).is_none(), "{to}");
        }
        assert!(take_apart(plain.as_bytes(), 0).is_none() && take_apart(b"{}", 1).is_none());
        let long = plain.replace("4\\\"2", &"x".repeat(MAX_REST));
        assert!(take_apart(long.as_bytes(), 1).is_none());
    }

    proptest! {
        #[test]
        fn numbers_round_alike(values in proptest::collection::vec("-?(0|[1-9][0-9]{0,18})(\\.[0-9]{1,24})?([eE][+-]?[0-9]{1,2})?", 1..40)) {
            let data = format!("[{}]", values.join(","));
            if let Some(read) = quick(&data) {
                prop_assert_eq!(bits(Some(read)), bits(slow(&data)));
            }
        }

        #[test]
        fn printed_floats_are_read_back(values in proptest::collection::vec(any::<f32>().prop_filter("finite", |v| v.is_finite()), 1..40)) {
            let data = format!("{values:?}");
            prop_assert_eq!(bits(quick(&data)), bits(Some(values)));
        }

        #[test]
        fn no_text_makes_it_fall(text in "[\\[\\]{}\",:0-9a-z.\\\\ -]{0,40}", at in 0_usize..700) {
            let mut whole = request("[1,2,3]");
            whole.insert_str(at.min(whole.len()), &text);
            let _ = take_apart(whole.as_bytes(), 1);
        }
    }
}
