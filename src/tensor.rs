//! Inputs of a classifier: element types, shapes, and tensors that have been checked against them.
//!
//! Nothing here knows bytes on a wire, an engine, or scores. A [`Inputs`] has been checked when it exists: the
//! element type, the rank, every fixed dimension, the number of values and their finiteness (R8). Its `Debug`
//! prints shapes, never values.

mod values;

use std::fmt::{self, Write as _};
use std::ops::Range;

use ndarray::ArrayD;

pub use self::values::Values;
use self::values::exactly;

/// Element type of a tensor, by the names of the Open Inference Protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DType {
    /// One byte per element, 0 or 1.
    Bool,
    /// Unsigned 8-bit integer.
    U8,
    /// Unsigned 16-bit integer.
    U16,
    /// Unsigned 32-bit integer.
    U32,
    /// Unsigned 64-bit integer.
    U64,
    /// Signed 8-bit integer.
    I8,
    /// Signed 16-bit integer.
    I16,
    /// Signed 32-bit integer.
    I32,
    /// Signed 64-bit integer.
    I64,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    Bf16,
    /// IEEE single precision.
    F32,
    /// IEEE double precision.
    F64,
    /// Length-prefixed byte strings.
    Bytes,
}

/// Every element type with its protocol name and its size in bytes (`None`: no fixed size).
const DTYPES: [(DType, &str, Option<usize>); 14] = [
    (DType::Bool, "BOOL", Some(1)),
    (DType::U8, "UINT8", Some(1)),
    (DType::U16, "UINT16", Some(2)),
    (DType::U32, "UINT32", Some(4)),
    (DType::U64, "UINT64", Some(8)),
    (DType::I8, "INT8", Some(1)),
    (DType::I16, "INT16", Some(2)),
    (DType::I32, "INT32", Some(4)),
    (DType::I64, "INT64", Some(8)),
    (DType::F16, "FP16", Some(2)),
    (DType::Bf16, "BF16", Some(2)),
    (DType::F32, "FP32", Some(4)),
    (DType::F64, "FP64", Some(8)),
    (DType::Bytes, "BYTES", None),
];

impl DType {
    /// The name that the Open Inference Protocol gives this type, such as `FP32`.
    #[must_use]
    pub fn oip_name(self) -> &'static str {
        self.row().1
    }

    /// The type of that protocol name, if there is one.
    #[must_use]
    pub fn from_oip_name(name: &str) -> Option<Self> {
        DTYPES.iter().find(|row| row.1 == name).map(|row| row.0)
    }

    /// Bytes per element, `None` for [`DType::Bytes`].
    #[must_use]
    pub fn size(self) -> Option<usize> {
        self.row().2
    }

    fn row(self) -> &'static (DType, &'static str, Option<usize>) {
        DTYPES.iter().find(|row| row.0 == self).unwrap_or(&DTYPES[0])
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.oip_name())
    }
}

/// One dimension of a declared shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dim {
    /// Any size; printed as `-1`, as the protocol does.
    Any,
    /// Exactly this size.
    Fixed(usize),
}

impl Dim {
    /// The protocol's number for this dimension: its size, or −1 for any.
    #[must_use]
    pub fn oip_size(self) -> i64 {
        match self {
            Dim::Any => -1,
            Dim::Fixed(size) => i64::try_from(size).unwrap_or(i64::MAX),
        }
    }

    /// Whether a tensor may have this size here.
    #[must_use]
    pub fn admits(self, size: usize) -> bool {
        match self {
            Dim::Any => size > 0,
            Dim::Fixed(expected) => size == expected,
        }
    }
}

/// What a model declares of one input: its name, element type and shape. Dimension 0 is the batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// The input's name in the model's graph.
    pub name: String,
    /// Its element type.
    pub dtype: DType,
    /// Its dimensions; the first is the number of rows.
    pub shape: Vec<Dim>,
}

/// A shape as messages print it, for instance `[2,28,28]`.
pub(crate) fn shape_text(shape: &[usize]) -> String {
    // Shapes come from outside, too: no more is said than a line holds.
    const SHOWN: usize = 16;
    let mut text = String::from("[");
    for (position, size) in shape.iter().take(SHOWN).enumerate() {
        let comma = if position > 0 { "," } else { "" };
        // Writing into a string does not fail.
        let _ = write!(text, "{comma}{size}");
    }
    text.push_str(if shape.len() > SHOWN { ",…]" } else { "]" });
    text
}

impl TensorSpec {
    /// The shape as the protocol prints it, for instance `[-1,1,28,28]`.
    #[must_use]
    pub fn shape_text(&self) -> String {
        let sizes: Vec<String> = self.shape.iter().map(|dim| dim.oip_size().to_string()).collect();
        format!("[{}]", sizes.join(","))
    }
}

/// Why a tensor is no input of this model. Holds names, shapes and positions, never values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InputError {
    /// The element type is another than the model's.
    #[error("input '{name}': data-type is {got}, but the model expects {expected}")]
    WrongDType {
        /// The input.
        name: String,
        /// What the model declares.
        expected: DType,
        /// What came.
        got: DType,
    },
    /// The rank or a dimension is another than the model's.
    #[error("input '{name}': unexpected shape, expected {expected}, got {got}")]
    WrongShape {
        /// The input.
        name: String,
        /// The declared shape, `-1` for any size.
        expected: String,
        /// The shape that came.
        got: String,
    },
    /// The number of values is not the product of the shape.
    #[error("input '{name}': its shape holds {expected} values, got {got}")]
    WrongCount {
        /// The input.
        name: String,
        /// Product of the shape.
        expected: usize,
        /// Number of values that came.
        got: usize,
    },
    /// A value is NaN or infinite (R8).
    #[error("input '{name}': the value at position {index} is not a finite number")]
    NonFinite {
        /// The input.
        name: String,
        /// Row-major position of the first such value.
        index: usize,
    },
    /// Two inputs disagree about the number of rows.
    #[error("input '{name}' has {got} rows, input '{first}' has {expected}")]
    RowsDiffer {
        /// The input that differs.
        name: String,
        /// The first input.
        first: String,
        /// Rows of the first.
        expected: usize,
        /// Rows of this one.
        got: usize,
    },
    /// There is no input at all.
    #[error("expected at least one input, got none")]
    Empty,
}

/// One checked input tensor.
#[derive(Clone)]
pub struct InputTensor {
    name: String,
    shape: Vec<usize>,
    values: Values,
}

impl InputTensor {
    /// Checks `values` of shape `shape` against what the model declares.
    ///
    /// # Errors
    /// [`InputError`] when the element type, the rank, a fixed dimension, the number of values, or the
    /// finiteness of a value (R8) is off.
    pub fn new(spec: &TensorSpec, shape: &[usize], values: Values) -> Result<Self, InputError> {
        let name = || spec.name.clone();
        if values.dtype() != spec.dtype {
            return Err(InputError::WrongDType { name: name(), expected: spec.dtype, got: values.dtype() });
        }
        let fits = shape.len() == spec.shape.len()
            && !shape.is_empty()
            && spec.shape.iter().zip(shape).all(|(dim, &size)| dim.admits(size));
        let expected = shape.iter().try_fold(1_usize, |product, &size| product.checked_mul(size));
        let (true, Some(expected)) = (fits, expected) else {
            return Err(InputError::WrongShape { name: name(), expected: spec.shape_text(), got: shape_text(shape) });
        };
        if values.len() != expected {
            return Err(InputError::WrongCount { name: name(), expected, got: values.len() });
        }
        if let Some(index) = values.first_non_finite() {
            return Err(InputError::NonFinite { name: name(), index });
        }
        Ok(Self { name: name(), shape: shape.to_vec(), values })
    }

    /// The input's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its shape; the first dimension is the number of rows.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Its values, row-major.
    #[must_use]
    pub fn values(&self) -> &Values {
        &self.values
    }

    /// Its shape and values, for an engine that takes them over.
    #[must_use]
    pub fn into_parts(self) -> (Vec<usize>, Values) {
        (self.shape, self.values)
    }
}

impl fmt::Debug for InputTensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} {}", self.name, self.shape, self.values.dtype())
    }
}

/// The most values that are made up for one input.
const MAX_MADE_UP: usize = 1 << 30;

/// The checked inputs of one call, in the order of the model's inputs.
#[derive(Debug, Clone)]
pub struct Inputs {
    tensors: Vec<InputTensor>,
}

impl Inputs {
    /// Puts checked tensors together.
    ///
    /// # Errors
    /// [`InputError::Empty`] without a tensor, [`InputError::RowsDiffer`] when their batches differ.
    pub fn new(tensors: Vec<InputTensor>) -> Result<Self, InputError> {
        let first = tensors.first().ok_or(InputError::Empty)?;
        let expected = first.shape[0];
        if let Some(other) = tensors.iter().find(|tensor| tensor.shape[0] != expected) {
            return Err(InputError::RowsDiffer {
                name: other.name.clone(),
                first: first.name.clone(),
                expected,
                got: other.shape[0],
            });
        }
        Ok(Self { tensors })
    }

    /// One input from an array of shape `(n_rows, …)`, as offline code has it. A model of doubles gets the same numbers as
    /// doubles, one of half precision the nearest that it has, one of whole numbers or booleans gets them where all are such.
    ///
    /// # Errors
    /// As [`InputTensor::new`].
    pub fn from_f32(spec: &TensorSpec, rows: ArrayD<f32>) -> Result<Self, InputError> {
        let shape = rows.shape().to_vec();
        let values: Vec<f32> = if rows.is_standard_layout() {
            let (values, offset) = rows.into_raw_vec_and_offset();
            match offset {
                None | Some(0) => values,
                Some(start) => values[start..].to_vec(),
            }
        } else {
            rows.iter().copied().collect()
        };
        Self::new(vec![InputTensor::new(spec, &shape, exactly(spec.dtype, values))?])
    }

    /// Made-up rows of what a model declares, to try it with: zeros, or values that differ at every position, 0 to 1 for
    /// floats, 0 and 1 for the others. Row `r` is the same in every range that holds it. Open dimensions are 1.
    ///
    /// # Errors
    /// As [`InputTensor::new`], for an empty range, and for strings.
    pub fn made_up(specs: &[TensorSpec], rows: Range<usize>, zeros: bool) -> Result<Self, InputError> {
        let tensor = |spec: &TensorSpec| {
            let dims = spec.shape.iter().skip(1).map(|dim| if let Dim::Fixed(size) = dim { *size } else { 1 });
            let shape: Vec<usize> = std::iter::once(rows.len()).chain(dims).collect();
            let size = shape[1..].iter().try_fold(1_usize, |n, &size| n.checked_mul(size));
            let span = size.and_then(|size| Some(rows.start.checked_mul(size)?..rows.end.checked_mul(size)?));
            let too_many = || InputError::WrongCount { name: spec.name.clone(), expected: usize::MAX, got: 0 };
            let span = span.filter(|span| span.len() <= MAX_MADE_UP).ok_or_else(too_many)?;
            let whole = !matches!(spec.dtype, DType::F16 | DType::Bf16 | DType::F32 | DType::F64);
            let value = |index: usize| match (index as u64).wrapping_mul(2_654_435_761) % 1_009 {
                _ if zeros => 0.0,
                scattered if whole => (scattered % 2) as f32,
                scattered => scattered as f32 / 1_008.0,
            };
            InputTensor::new(spec, &shape, exactly(spec.dtype, span.map(value).collect()))
        };
        Self::new(specs.iter().map(tensor).collect::<Result<_, _>>()?)
    }

    /// The rows of several calls of one model, one after the other; `None` where they are not of one model, or there is
    /// none.
    #[must_use]
    pub fn joined(calls: &[&Self]) -> Option<Self> {
        let (first, rest) = calls.split_first()?;
        let mut joined = (*first).clone();
        for call in rest {
            if call.tensors.len() != joined.tensors.len() {
                return None;
            }
            for (all, more) in joined.tensors.iter_mut().zip(&call.tensors) {
                if all.shape.get(1..) != more.shape.get(1..) || !all.values.append(&more.values) {
                    return None;
                }
                all.shape[0] += more.shape[0];
            }
        }
        Some(joined)
    }

    /// Some of the rows alone; `None` where there are not as many, or none is asked for.
    #[must_use]
    pub fn rows(&self, rows: Range<usize>) -> Option<Self> {
        if rows.is_empty() {
            return None;
        }
        let part = |tensor: &InputTensor| {
            let size = tensor.shape.get(1..)?.iter().product::<usize>();
            let values = tensor.values.part(rows.start.checked_mul(size)?, rows.len().checked_mul(size)?)?;
            let mut shape = tensor.shape.clone();
            shape[0] = rows.len();
            Some(InputTensor { name: tensor.name.clone(), shape, values })
        };
        Some(Self { tensors: self.tensors.iter().map(part).collect::<Option<_>>()? })
    }

    /// As many bytes as the values take.
    #[must_use]
    pub fn n_bytes(&self) -> usize {
        self.tensors.iter().map(|tensor| tensor.values.n_bytes()).sum()
    }

    /// The number of rows, at least one.
    #[must_use]
    pub fn n_rows(&self) -> usize {
        self.tensors[0].shape[0]
    }

    /// The tensors, in the order of the model's inputs.
    #[must_use]
    pub fn tensors(&self) -> &[InputTensor] {
        &self.tensors
    }

    /// The tensors, given away.
    #[must_use]
    pub fn into_tensors(self) -> Vec<InputTensor> {
        self.tensors
    }
}

#[cfg(test)]
mod tests;
