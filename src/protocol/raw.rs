//! Raw tensor bytes, little endian, row-major, as the binary tensor data extension carries them.
//!
//! Lengths are checked before anything is allocated. Nothing here knows JSON or models.

use half::{bf16, f16};

use crate::tensor::{DType, Values};

/// Why raw bytes are no tensor of their type. Holds sizes and positions, never values.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum RawProblem {
    /// The type has no fixed size.
    NotServed,
    /// The byte count is no multiple of the element size.
    Size { element: usize },
    /// A BOOL byte is neither 0 nor 1.
    NotBool { position: usize },
}

/// Reads `bytes` as elements of `dtype`.
pub(crate) fn read_raw(dtype: DType, bytes: &[u8]) -> Result<Values, RawProblem> {
    let element = dtype.size().ok_or(RawProblem::NotServed)?;
    if !bytes.len().is_multiple_of(element) {
        return Err(RawProblem::Size { element });
    }
    macro_rules! read {
        ($variant:ident, $type:ty) => {
            Values::$variant(bytes.as_chunks().0.iter().map(|chunk| <$type>::from_le_bytes(*chunk)).collect())
        };
    }
    Ok(match dtype {
        DType::Bool => match bytes.iter().position(|&byte| byte > 1) {
            Some(position) => return Err(RawProblem::NotBool { position }),
            None => Values::Bool(bytes.iter().map(|&byte| byte == 1).collect()),
        },
        DType::U8 => Values::U8(bytes.to_vec()),
        DType::U16 => read!(U16, u16),
        DType::U32 => read!(U32, u32),
        DType::U64 => read!(U64, u64),
        DType::I8 => read!(I8, i8),
        DType::I16 => read!(I16, i16),
        DType::I32 => read!(I32, i32),
        DType::I64 => read!(I64, i64),
        DType::F32 => read!(F32, f32),
        DType::F64 => read!(F64, f64),
        DType::F16 => read!(F16, f16),
        DType::Bf16 => read!(Bf16, bf16),
        DType::Bytes => return Err(RawProblem::NotServed),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raw_bytes_are_little_endian_and_checked() {
        assert!(read_raw(DType::U16, &[1, 2, 3, 4]) == Ok(Values::U16(vec![0x0201, 0x0403])));
        assert!(read_raw(DType::F32, &1.5_f32.to_le_bytes()) == Ok(Values::F32(vec![1.5])));
        assert!(read_raw(DType::F16, &[0x00, 0x3e]) == Ok(Values::F16(vec![f16::from_f32(1.5)])));
        assert!(read_raw(DType::Bf16, &[0xc0, 0x3f]) == Ok(Values::Bf16(vec![bf16::from_f32(1.5)])));
        assert_eq!(read_raw(DType::F16, &[0; 3]), Err(RawProblem::Size { element: 2 }));
        assert!(read_raw(DType::Bool, &[0, 1]) == Ok(Values::Bool(vec![false, true])));
        assert_eq!(read_raw(DType::Bool, &[0, 2]), Err(RawProblem::NotBool { position: 1 }));
        assert_eq!(read_raw(DType::F64, &[0; 12]), Err(RawProblem::Size { element: 8 }));
        assert_eq!(read_raw(DType::Bytes, &[]), Err(RawProblem::NotServed));
    }
}
