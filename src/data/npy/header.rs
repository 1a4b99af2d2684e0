//! The header of an `.npy` file: magic, version, a length, and a line of Python such as
//! `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`, padded with spaces.

use std::io::Read;

use super::super::FormatError;
use super::super::element::{Element, Kind};

/// A longer header is none of an array of numbers.
const MAX_HEADER_BYTES: usize = 1 << 14;
/// More sizes than NumPy allows.
const MAX_SIZES: usize = 64;

/// What an array is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) element: Element,
    /// The sizes; their product, and the bytes of all values, can be counted.
    pub(super) shape: Vec<usize>,
    /// Bytes before the values.
    pub(super) n_bytes: u64,
}

impl Header {
    /// Reads the header and leaves the reader at the first value.
    pub(super) fn read(bytes: &mut impl Read) -> Result<Self, FormatError> {
        let mut take = |n: usize| -> Result<Vec<u8>, FormatError> {
            let mut taken = vec![0; n];
            let cut = |error: std::io::Error| FormatError::new("the header of an .npy array", error.kind().to_string());
            bytes.read_exact(&mut taken).map_err(cut).map(|()| taken)
        };
        let start = take(8)?;
        let n_length_bytes = match (&start[..6], start[6]) {
            (b"\x93NUMPY", 1) => 2,
            (b"\x93NUMPY", 2 | 3) => 4,
            _ => return Err(FormatError::new("an .npy array of version 1 to 3", "other bytes")),
        };
        let length = take(n_length_bytes)?.iter().rev().fold(0, |sum, &byte| sum << 8 | usize::from(byte));
        if length > MAX_HEADER_BYTES {
            return Err(FormatError::new(format!("a header of at most {MAX_HEADER_BYTES} bytes"), length.to_string()));
        }
        let line = take(length)?;
        let line = std::str::from_utf8(&line).map_err(|_| FormatError::new("a header of text", "other bytes"))?;
        let fields = Fields::parse(line).ok_or_else(|| {
            FormatError::new("a header with descr, fortran_order and shape of an array of numbers", "another")
        })?;
        let element = element(&fields.descr)?;
        if fields.is_fortran && fields.shape.len() > 1 {
            return Err(FormatError::new("an array in C order (numpy.ascontiguousarray)", "one in Fortran order"));
        }
        let n_bytes = fields.shape.iter().try_fold(element.n_bytes(), |product, &size| product.checked_mul(size));
        if n_bytes.is_none() {
            return Err(FormatError::new("sizes whose product can be counted", format!("{:?}", fields.shape)));
        }
        let n_bytes = (8 + n_length_bytes + length) as u64;
        Ok(Self { element, shape: fields.shape, n_bytes })
    }
}

/// The type that a descriptor such as `<f4` names.
fn element(descr: &str) -> Result<Element, FormatError> {
    let wrong = || {
        FormatError::new(
            "a type of numbers (f2, f4, f8, i1 to i8, u1 to u8, b1)",
            format!("'{}'", descr.escape_debug()),
        )
    };
    let kind = match descr.get(1..).ok_or_else(wrong)? {
        "b1" => Kind::Bool,
        "u1" => Kind::U8,
        "u2" => Kind::U16,
        "u4" => Kind::U32,
        "u8" => Kind::U64,
        "i1" => Kind::I8,
        "i2" => Kind::I16,
        "i4" => Kind::I32,
        "i8" => Kind::I64,
        "f2" => Kind::F16,
        "f4" => Kind::F32,
        "f8" => Kind::F64,
        _ => return Err(wrong()),
    };
    match descr.as_bytes()[0] {
        b'<' | b'|' => Ok(Element { kind, is_big_endian: false }),
        b'>' => Ok(Element { kind, is_big_endian: true }),
        _ => Err(wrong()),
    }
}

/// The three fields of the line.
#[derive(Default)]
struct Fields {
    descr: String,
    is_fortran: bool,
    shape: Vec<usize>,
}

impl Fields {
    fn parse(line: &str) -> Option<Self> {
        let mut rest = line.trim().strip_prefix('{')?.strip_suffix('}')?.trim();
        let mut fields = Self::default();
        let mut seen = Vec::new();
        while !rest.is_empty() {
            let (key, after) = quoted(rest)?;
            let value = after.trim_start().strip_prefix(':')?.trim_start();
            rest = match key {
                "descr" => {
                    let (descr, after) = quoted(value)?;
                    fields.descr = descr.to_owned();
                    after
                }
                "fortran_order" => {
                    fields.is_fortran = value.starts_with("True");
                    value.strip_prefix("True").or_else(|| value.strip_prefix("False"))?
                }
                "shape" => {
                    let (sizes, after) = value.strip_prefix('(')?.split_once(')')?;
                    fields.shape = shape(sizes)?;
                    after
                }
                _ => return None,
            };
            if seen.contains(&key) {
                return None;
            }
            seen.push(key);
            rest = rest.trim_start();
            rest = match rest.strip_prefix(',') {
                Some(after) => after.trim_start(),
                None if rest.is_empty() => rest,
                None => return None,
            };
        }
        (seen.len() == 3).then_some(fields)
    }
}

/// A word in quotes, and what comes after it.
fn quoted(text: &str) -> Option<(&str, &str)> {
    let quote = text.chars().next().filter(|quote| ['\'', '"'].contains(quote))?;
    text[1..].split_once(quote)
}

/// Sizes with commas between them and perhaps one at the end.
fn shape(text: &str) -> Option<Vec<usize>> {
    let text = text.trim();
    let text = text.strip_suffix(',').unwrap_or(text);
    if text.is_empty() {
        return Some(Vec::new());
    }
    // Python 2 wrote an L behind large sizes.
    let sizes: Option<Vec<usize>> =
        text.split(',').map(|size| size.trim().trim_end_matches('L').parse().ok()).collect();
    sizes.filter(|sizes| sizes.len() <= MAX_SIZES)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(line: &str) -> Result<Header, FormatError> {
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((line.len() as u16).to_le_bytes());
        bytes.extend(line.as_bytes());
        Header::read(&mut bytes.as_slice())
    }

    #[test]
    fn lines_as_numpy_writes_them_are_read() {
        let read = header("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }          \n").unwrap();
        assert_eq!((read.shape, read.element.kind, read.n_bytes), (vec![3, 4], Kind::F32, 10 + 70));
        let read = header("{\"shape\": (3L,), 'fortran_order': True, 'descr': '>i8'}").unwrap();
        assert_eq!((read.shape, read.element), (vec![3], Element { kind: Kind::I64, is_big_endian: true }));
        assert!(header("{'descr': '|u1', 'fortran_order': False, 'shape': ()}").unwrap().shape.is_empty());
    }

    #[test]
    fn what_is_no_array_of_numbers_is_refused() {
        let refused = |line: &str| header(line).unwrap_err().to_string();
        let with = |descr: &str, order: &str, shape: &str| {
            format!("{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}}}")
        };
        assert!(refused(&with("'|O'", "False", "(3,)")).contains("got '|O'"));
        assert!(refused(&with("'<U5'", "False", "(3,)")).contains("a type of numbers"));
        assert!(refused(&with("''", "False", "(3,)")).contains("a type of numbers"));
        assert!(refused(&with("'éf4'", "False", "(3,)")).contains("a type of numbers"));
        assert!(refused(&with("'<f4'", "True", "(3, 2)")).contains("C order"));
        assert!(refused(&with("'<f4'", "False", "(18446744073709551615, 2)")).contains("can be counted"));
        for bad in
            ["", "{}", "{'descr': '<f4'}", &with("[('a', '<f4')]", "False", "(3,)"), &with("'<f4'", "No", "(3,)")]
        {
            assert!(refused(bad).contains("descr, fortran_order and shape"), "{bad}");
        }
        assert!(refused(&with("'<f4'", "False", "(-3,)")).contains("descr"));
        let twice = "{'shape': (3,), 'shape': (3,), 'descr': '<f4', 'fortran_order': False}";
        assert!(header(twice).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80), version in 0u8..5) {
            let _ = Header::read(&mut bytes.as_slice());
            let mut likely = b"\x93NUMPY".to_vec();
            likely.push(version);
            likely.extend(&bytes);
            let _ = Header::read(&mut likely.as_slice());
        }

        #[test]
        fn no_line_makes_the_reader_panic(line in "[{}()',: a-z0-9<>|é\"]{0,80}") {
            let _ = header(&line);
        }
    }
}
