//! The elements of a tensor: one vector of each type, as raw bytes or JSON, in parts, and numbers brought to another type.
//!
//! Shapes, names and what is checked of an input are not known here.

use std::fmt;

use half::{bf16, f16};

use super::DType;

/// The values of a tensor, row-major.
#[derive(Clone, PartialEq)]
pub enum Values {
    /// Booleans.
    Bool(Vec<bool>),
    /// Unsigned 8-bit integers.
    U8(Vec<u8>),
    /// Unsigned 16-bit integers.
    U16(Vec<u16>),
    /// Unsigned 32-bit integers.
    U32(Vec<u32>),
    /// Unsigned 64-bit integers.
    U64(Vec<u64>),
    /// Signed 8-bit integers.
    I8(Vec<i8>),
    /// Signed 16-bit integers.
    I16(Vec<i16>),
    /// Signed 32-bit integers.
    I32(Vec<i32>),
    /// Signed 64-bit integers.
    I64(Vec<i64>),
    /// Single precision.
    F32(Vec<f32>),
    /// Double precision.
    F64(Vec<f64>),
    /// Half precision.
    F16(Vec<f16>),
    /// bfloat16.
    Bf16(Vec<bf16>),
}

impl Values {
    /// The element type.
    #[must_use]
    pub fn dtype(&self) -> DType {
        match self {
            Values::Bool(_) => DType::Bool,
            Values::U8(_) => DType::U8,
            Values::U16(_) => DType::U16,
            Values::U32(_) => DType::U32,
            Values::U64(_) => DType::U64,
            Values::I8(_) => DType::I8,
            Values::I16(_) => DType::I16,
            Values::I32(_) => DType::I32,
            Values::I64(_) => DType::I64,
            Values::F32(_) => DType::F32,
            Values::F64(_) => DType::F64,
            Values::F16(_) => DType::F16,
            Values::Bf16(_) => DType::Bf16,
        }
    }

    /// The number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Values::Bool(v) => v.len(),
            Values::U8(v) => v.len(),
            Values::U16(v) => v.len(),
            Values::U32(v) => v.len(),
            Values::U64(v) => v.len(),
            Values::I8(v) => v.len(),
            Values::I16(v) => v.len(),
            Values::I32(v) => v.len(),
            Values::I64(v) => v.len(),
            Values::F32(v) => v.len(),
            Values::F64(v) => v.len(),
            Values::F16(v) => v.len(),
            Values::Bf16(v) => v.len(),
        }
    }

    /// Whether there is no element.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// As many bytes as the elements take.
    #[must_use]
    pub fn n_bytes(&self) -> usize {
        self.len().saturating_mul(self.dtype().size().unwrap_or(1))
    }

    /// So many elements from a place on, if there are as many.
    pub(super) fn part(&self, start: usize, size: usize) -> Option<Self> {
        macro_rules! part {
            ($($variant:ident),*) => {
                match self {
                    $(Values::$variant(all) => Values::$variant(all.get(start..start.checked_add(size)?)?.to_vec()),)*
                }
            };
        }
        Some(part!(Bool, U8, U16, U32, U64, I8, I16, I32, I64, F32, F64, F16, Bf16))
    }

    /// Appends elements of the same type; those of another type are not, and the answer is `false`.
    pub(super) fn append(&mut self, other: &Self) -> bool {
        macro_rules! append {
            ($($variant:ident),*) => {
                match (self, other) {
                    $((Values::$variant(all), Values::$variant(more)) => all.extend_from_slice(more),)*
                    _ => return false,
                }
            };
        }
        append!(Bool, U8, U16, U32, U64, I8, I16, I32, I64, F32, F64, F16, Bf16);
        true
    }

    /// Appends the values as raw little-endian bytes.
    pub(crate) fn write_raw(&self, out: &mut Vec<u8>) {
        let start = out.len();
        macro_rules! raw {
            ($values:expr) => {{
                out.resize(start + self.n_bytes(), 0);
                for (bytes, value) in out[start..].as_chunks_mut().0.iter_mut().zip($values) {
                    *bytes = value.to_le_bytes();
                }
            }};
        }
        match self {
            Values::Bool(v) => out.extend(v.iter().map(|&value| u8::from(value))),
            Values::U8(v) => out.extend_from_slice(v),
            Values::U16(v) => raw!(v),
            Values::U32(v) => raw!(v),
            Values::U64(v) => raw!(v),
            Values::I8(v) => raw!(v),
            Values::I16(v) => raw!(v),
            Values::I32(v) => raw!(v),
            Values::I64(v) => raw!(v),
            Values::F32(v) => raw!(v),
            Values::F64(v) => raw!(v),
            Values::F16(v) => raw!(v),
            Values::Bf16(v) => raw!(v),
        }
    }

    /// Appends the values as a JSON list without its brackets.
    pub(crate) fn write_json(&self, body: &mut Vec<u8>) {
        fn list<T: serde::Serialize>(body: &mut Vec<u8>, values: &[T]) {
            for (position, value) in values.iter().enumerate() {
                if position > 0 {
                    body.push(b',');
                }
                // Writing a number into a vector does not fail.
                if serde_json::to_writer(&mut *body, value).is_err() {
                    body.extend_from_slice(b"null");
                }
            }
        }
        match self {
            Values::Bool(v) => list(body, v),
            Values::U8(v) => list(body, v),
            Values::U16(v) => list(body, v),
            Values::U32(v) => list(body, v),
            Values::U64(v) => list(body, v),
            Values::I8(v) => list(body, v),
            Values::I16(v) => list(body, v),
            Values::I32(v) => list(body, v),
            Values::I64(v) => list(body, v),
            Values::F32(v) => list(body, v),
            Values::F64(v) => list(body, v),
            Values::F16(v) => list(body, &v.iter().map(|value| value.to_f32()).collect::<Vec<_>>()),
            Values::Bf16(v) => list(body, &v.iter().map(|value| value.to_f32()).collect::<Vec<_>>()),
        }
    }

    /// Position of the first NaN or infinity.
    pub(crate) fn first_non_finite(&self) -> Option<usize> {
        match self {
            Values::F32(v) => v.iter().position(|x| !x.is_finite()),
            Values::F64(v) => v.iter().position(|x| !x.is_finite()),
            Values::F16(v) => v.iter().position(|x| !x.is_finite()),
            Values::Bf16(v) => v.iter().position(|x| !x.is_finite()),
            _ => None,
        }
    }
}

impl fmt::Debug for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} × {}", self.len(), self.dtype())
    }
}

/// The same numbers in the model's element type, where it holds every one of them; else as they are. Floats of half the
/// width hold the nearest number that they have.
pub(super) fn exactly(dtype: DType, values: Vec<f32>) -> Values {
    // Whole numbers up to here are exact in f32.
    const MAX_WHOLE: f32 = 16_777_216.0;
    macro_rules! whole {
        ($variant:ident, $type:ty) => {{
            let holds = |&value: &f32| {
                value.fract() == 0.0 && value.abs() <= MAX_WHOLE && <$type>::try_from(value as i64).is_ok()
            };
            if !values.iter().all(holds) {
                return Values::F32(values);
            }
            Values::$variant(values.into_iter().map(|value| value as $type).collect())
        }};
    }
    match dtype {
        DType::F64 => Values::F64(values.into_iter().map(f64::from).collect()),
        DType::F16 => Values::F16(values.into_iter().map(f16::from_f32).collect()),
        DType::Bf16 => Values::Bf16(values.into_iter().map(bf16::from_f32).collect()),
        DType::Bool if values.iter().all(|&value| value == 0.0 || value == 1.0) => {
            Values::Bool(values.into_iter().map(|value| value == 1.0).collect())
        }
        DType::U8 => whole!(U8, u8),
        DType::U16 => whole!(U16, u16),
        DType::U32 => whole!(U32, u32),
        DType::U64 => whole!(U64, u64),
        DType::I8 => whole!(I8, i8),
        DType::I16 => whole!(I16, i16),
        DType::I32 => whole!(I32, i32),
        DType::I64 => whole!(I64, i64),
        DType::F32 | DType::Bool | DType::Bytes => Values::F32(values),
    }
}
