//! Types of numbers as they lie in files.

use half::f16;

/// The type of one value in a file, and the order of its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Element {
    pub(super) kind: Kind,
    pub(super) is_big_endian: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A byte that is divided by 255.
    Pixel,
    /// 0 or 1; any other byte counts as 1.
    Bool,
    U8,
    U16,
    U32,
    U64,
    I8,
    I16,
    I32,
    I64,
    F16,
    F32,
    F64,
}

impl Element {
    pub(super) const PIXEL: Self = Self { kind: Kind::Pixel, is_big_endian: false };

    pub(super) fn is_pixel(self) -> bool {
        self.kind == Kind::Pixel
    }

    /// Bytes of one value.
    pub(super) fn n_bytes(self) -> usize {
        match self.kind {
            Kind::Pixel | Kind::Bool | Kind::U8 | Kind::I8 => 1,
            Kind::U16 | Kind::I16 | Kind::F16 => 2,
            Kind::U32 | Kind::I32 | Kind::F32 => 4,
            Kind::U64 | Kind::I64 | Kind::F64 => 8,
        }
    }

    /// Bytes that one value may take in memory.
    pub(super) fn n_bytes_in_memory(self) -> usize {
        match self.kind {
            Kind::Pixel | Kind::Bool | Kind::U8 => 1,
            _ => size_of::<f32>(),
        }
    }

    /// Appends the values in `bytes`, each rounded to the nearest `f32`. A part of a value at the end is left out.
    pub(super) fn decode(self, bytes: &[u8], into: &mut Vec<f32>) {
        macro_rules! numbers {
            ($type:ty, $to_f32:expr) => {{
                let from: fn([u8; size_of::<$type>()]) -> $type =
                    if self.is_big_endian { <$type>::from_be_bytes } else { <$type>::from_le_bytes };
                into.extend(bytes.as_chunks().0.iter().map(|&bytes| $to_f32(from(bytes))))
            }};
        }
        match self.kind {
            Kind::Pixel => into.extend(bytes.iter().map(|&byte| f32::from(byte) / 255.0)),
            Kind::Bool => into.extend(bytes.iter().map(|&byte| f32::from(u8::from(byte != 0)))),
            Kind::U8 => into.extend(bytes.iter().map(|&byte| f32::from(byte))),
            Kind::I8 => numbers!(i8, f32::from),
            Kind::U16 => numbers!(u16, f32::from),
            Kind::I16 => numbers!(i16, f32::from),
            Kind::U32 => numbers!(u32, |number| number as f32),
            Kind::I32 => numbers!(i32, |number| number as f32),
            Kind::U64 => numbers!(u64, |number| number as f32),
            Kind::I64 => numbers!(i64, |number| number as f32),
            Kind::F16 => numbers!(f16, f16::to_f32),
            Kind::F32 => numbers!(f32, |number| number),
            Kind::F64 => numbers!(f64, |number| number as f32),
        }
    }

    /// Appends the values in `bytes` in f64, which holds each of them but the largest integers. A byte is a number, no
    /// pixel.
    pub(super) fn decode_wide(self, bytes: &[u8], into: &mut Vec<f64>) {
        macro_rules! numbers {
            ($type:ty, $to_f64:expr) => {{
                let from: fn([u8; size_of::<$type>()]) -> $type =
                    if self.is_big_endian { <$type>::from_be_bytes } else { <$type>::from_le_bytes };
                into.extend(bytes.as_chunks().0.iter().map(|&bytes| $to_f64(from(bytes))))
            }};
        }
        match self.kind {
            Kind::Bool => into.extend(bytes.iter().map(|&byte| f64::from(u8::from(byte != 0)))),
            Kind::Pixel | Kind::U8 => into.extend(bytes.iter().map(|&byte| f64::from(byte))),
            Kind::I8 => numbers!(i8, f64::from),
            Kind::U16 => numbers!(u16, f64::from),
            Kind::I16 => numbers!(i16, f64::from),
            Kind::U32 => numbers!(u32, f64::from),
            Kind::I32 => numbers!(i32, f64::from),
            Kind::U64 => numbers!(u64, |number| number as f64),
            Kind::I64 => numbers!(i64, |number| number as f64),
            Kind::F16 => numbers!(f16, f16::to_f64),
            Kind::F32 => numbers!(f32, f64::from),
            Kind::F64 => numbers!(f64, |number| number),
        }
    }

    /// Appends the whole numbers in `bytes`; `None` at the place of a value that is not whole or too large.
    pub(super) fn decode_whole(self, bytes: &[u8], into: &mut Vec<Option<i64>>) {
        let whole = |number: f64| (number.fract() == 0.0 && number.abs() < 9e15).then_some(number as i64);
        macro_rules! numbers {
            ($type:ty, $to_i64:expr) => {{
                let from: fn([u8; size_of::<$type>()]) -> $type =
                    if self.is_big_endian { <$type>::from_be_bytes } else { <$type>::from_le_bytes };
                into.extend(bytes.as_chunks().0.iter().map(|&bytes| $to_i64(from(bytes))))
            }};
        }
        match self.kind {
            Kind::Bool => into.extend(bytes.iter().map(|&byte| Some(i64::from(byte != 0)))),
            Kind::Pixel | Kind::U8 => into.extend(bytes.iter().map(|&byte| Some(i64::from(byte)))),
            Kind::I8 => numbers!(i8, |number| Some(i64::from(number))),
            Kind::U16 => numbers!(u16, |number| Some(i64::from(number))),
            Kind::I16 => numbers!(i16, |number| Some(i64::from(number))),
            Kind::U32 => numbers!(u32, |number| Some(i64::from(number))),
            Kind::I32 => numbers!(i32, |number| Some(i64::from(number))),
            Kind::U64 => numbers!(u64, |number| i64::try_from(number).ok()),
            Kind::I64 => numbers!(i64, Some),
            Kind::F16 => numbers!(f16, |number: f16| whole(number.to_f64())),
            Kind::F32 => numbers!(f32, |number| whole(f64::from(number))),
            Kind::F64 => numbers!(f64, whole),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_orders_of_bytes_are_read() {
        let read = |kind, is_big_endian, bytes: &[u8]| {
            let (mut floats, mut whole) = (Vec::new(), Vec::new());
            Element { kind, is_big_endian }.decode(bytes, &mut floats);
            Element { kind, is_big_endian }.decode_whole(bytes, &mut whole);
            let mut wide = Vec::new();
            Element { kind, is_big_endian }.decode_wide(bytes, &mut wide);
            let narrow: Vec<f32> = wide.into_iter().map(|number| number as f32).collect();
            assert!(kind == Kind::Pixel || narrow == floats, "{kind:?}: {narrow:?}");
            (floats, whole)
        };
        assert_eq!(read(Kind::I16, false, &[0xfe, 0xff, 1, 0]), (vec![-2.0, 1.0], vec![Some(-2), Some(1)]));
        assert_eq!(read(Kind::I16, true, &[0xff, 0xfe, 0, 1]), (vec![-2.0, 1.0], vec![Some(-2), Some(1)]));
        assert_eq!(read(Kind::F16, false, &[0x00, 0x3e]), (vec![1.5], vec![None]));
        assert_eq!(read(Kind::F64, true, &2.0f64.to_be_bytes()), (vec![2.0], vec![Some(2)]));
        assert_eq!(read(Kind::U64, false, &u64::MAX.to_le_bytes()), (vec![u64::MAX as f32], vec![None]));
        assert_eq!(read(Kind::Bool, false, &[0, 1, 7]), (vec![0.0, 1.0, 1.0], vec![Some(0), Some(1), Some(1)]));
        assert_eq!(read(Kind::Pixel, false, &[255, 51]).0, [1.0, 0.2]);
        assert!(read(Kind::F32, false, &[0, 0, 0]).0.is_empty(), "a part of a value");
    }
}
