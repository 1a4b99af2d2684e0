//! Tensors of outputs that pass by the defence, because their operator has said, output by output, that they hold no scores.
//!
//! Only a reader of another server's answer makes one, for outputs with that rule; no model of our own has any.

use std::fmt;

use crate::tensor::Values;

/// One tensor that passes.
#[derive(Clone, PartialEq)]
pub(crate) struct PassedTensor {
    /// Index into [`ModelDescription::passed`](super::ModelDescription::passed).
    pub(crate) index: usize,
    pub(crate) shape: Vec<usize>,
    pub(crate) values: Values,
}

/// What passes with one answer.
///
/// ```compile_fail
/// let passed = sordino::protocol::Passed(Vec::new());
/// ```
#[derive(Clone, Default, PartialEq)]
pub struct Passed(Vec<PassedTensor>);

impl Passed {
    #[cfg(feature = "serve")]
    pub(crate) fn new(tensors: Vec<PassedTensor>) -> Self {
        Self(tensors)
    }

    /// The tensor of an output, if it came.
    pub(super) fn find(&self, index: usize) -> Option<&PassedTensor> {
        self.0.iter().find(|tensor| tensor.index == index)
    }
}

impl Eq for Passed {}

/// Shows how many there are.
impl fmt::Debug for Passed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Passed({})", self.0.len())
    }
}
