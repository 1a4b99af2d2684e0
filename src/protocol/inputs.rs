//! What every dialect does with inputs once it has read them: named against the model, checked, put in its order.
//!
//! Lengths are held against declared shapes before anything is copied. Messages hold names, shapes and sizes.

use super::raw::{RawProblem, read_raw};
use super::{ModelDescription, Refusal, quoted};
use crate::tensor::{InputTensor, Inputs, TensorSpec, Values, shape_text};

/// The inputs of a model as they come in, in any order.
pub(super) struct Slots<'m> {
    model: &'m ModelDescription,
    tensors: Vec<Option<InputTensor>>,
}

impl<'m> Slots<'m> {
    pub(super) fn new(model: &'m ModelDescription) -> Self {
        Self { model, tensors: model.inputs.iter().map(|_| None).collect() }
    }

    /// The place and the declaration of an input that has not come yet.
    pub(super) fn place(&self, name: &str) -> Result<(usize, &'m TensorSpec), Refusal> {
        let Some(index) = self.model.inputs.iter().position(|spec| spec.name == name) else {
            return Err(Refusal::bad_request(format!(
                "unexpected inference input {} for model {}, which has {}",
                quoted(name),
                quoted(&self.model.name),
                listed(self.model.inputs.iter().map(|spec| spec.name.as_str()))
            )));
        };
        if self.tensors[index].is_some() {
            return Err(Refusal::bad_request(format!("input {} is given twice", quoted(name))));
        }
        Ok((index, &self.model.inputs[index]))
    }

    /// Puts a tensor where [`Self::place`] said.
    pub(super) fn put(&mut self, index: usize, tensor: InputTensor) {
        self.tensors[index] = Some(tensor);
    }

    /// All inputs, if none is missing.
    pub(super) fn finish(self) -> Result<Inputs, Refusal> {
        let missing = self.model.inputs.iter().zip(&self.tensors).filter(|(_, tensor)| tensor.is_none());
        let missing: Vec<&str> = missing.map(|(spec, _)| spec.name.as_str()).collect();
        if !missing.is_empty() {
            return Err(Refusal::bad_request(format!(
                "expected {} inputs for model {}, missing {}",
                self.model.inputs.len(),
                quoted(&self.model.name),
                listed(missing)
            )));
        }
        one_batch(self.tensors.into_iter().flatten().collect())
    }
}

/// The element type that came must be the model's.
pub(super) fn same_dtype(
    model: &ModelDescription,
    spec: &TensorSpec,
    got: crate::tensor::DType,
) -> Result<(), Refusal> {
    if got == spec.dtype {
        return Ok(());
    }
    Err(Refusal::bad_request(format!(
        "input {} has datatype {got}, but model {} expects {}",
        quoted(&spec.name),
        quoted(&model.name),
        spec.dtype
    )))
}

/// A tensor from its raw bytes; the declared shape must match their number before anything is copied.
pub(super) fn raw_tensor(spec: &TensorSpec, shape: &[usize], bytes: &[u8]) -> Result<InputTensor, Refusal> {
    let shown = || quoted(&spec.name);
    let n_elements = shape.iter().try_fold(1_usize, |all, &size| all.checked_mul(size));
    let needed = n_elements.zip(spec.dtype.size()).and_then(|(n, size)| n.checked_mul(size));
    if spec.dtype.size().is_some() && needed != Some(bytes.len()) {
        let needed = needed.map_or_else(|| "more".to_owned(), |needed| needed.to_string());
        return Err(Refusal::bad_request(format!(
            "input {} of shape {} and datatype {} takes {needed} bytes, got {}",
            shown(),
            shape_text(shape),
            spec.dtype,
            bytes.len()
        )));
    }
    let values = read_raw(spec.dtype, bytes).map_err(|problem| {
        Refusal::bad_request(match problem {
            RawProblem::NotServed => format!("datatype {} of input {} is not served", spec.dtype, shown()),
            RawProblem::Size { element } => {
                format!("input {}: {} bytes are no multiple of the {element} of an element", shown(), bytes.len())
            }
            RawProblem::NotBool { position } => {
                format!("input {}: the BOOL at position {position} is neither 0 nor 1", shown())
            }
        })
    })?;
    checked(spec, shape, values)
}

/// A tensor from values that have been read.
pub(super) fn checked(spec: &TensorSpec, shape: &[usize], values: Values) -> Result<InputTensor, Refusal> {
    InputTensor::new(spec, shape, values).map_err(|error| Refusal::bad_request(error.to_string()))
}

/// Tensors of one batch, in the model's order.
pub(super) fn one_batch(tensors: Vec<InputTensor>) -> Result<Inputs, Refusal> {
    Inputs::new(tensors).map_err(|error| Refusal::bad_request(error.to_string()))
}

/// Names for a message.
pub(super) fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(quoted).collect::<Vec<_>>().join(", ")
}
