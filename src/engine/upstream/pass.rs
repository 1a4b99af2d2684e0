//! Outputs that pass by the defence, by an explicit rule for each: the operator vouches that they hold no scores. What can be
//! seen to speak against that is refused: the score output itself, a tensor with a number for each class, strings, and
//! whatever comes in another type or shape than was there at start.

use super::{Declared, Dialect, Fault, OutputRule, Plan, PlanError};
use crate::protocol::{Passed, PassedTensor, read_raw};
use crate::tensor::{DType, Dim, TensorSpec, shape_text};

/// The name of the output of probabilities that every model has here.
const OURS: &str = "probabilities";

/// The outputs that pass, of those that the server has.
pub(super) fn passed(
    declared: &Declared,
    outputs: &[TensorSpec],
    n_classes: usize,
) -> Result<Vec<TensorSpec>, PlanError> {
    let rules = declared.rules.iter().filter(|(_, rule)| **rule == OutputRule::Pass);
    rules.map(|(name, _)| one(declared.dialect, name, outputs, n_classes)).collect()
}

fn one(dialect: Dialect, name: &str, outputs: &[TensorSpec], n_classes: usize) -> Result<TensorSpec, PlanError> {
    let wrong = |reason: String| PlanError::Output(format!("'{name}' cannot have the rule pass: {reason}"));
    if !matches!(dialect, Dialect::OipHttp | Dialect::OipGrpc) {
        return Err(wrong(format!("it is for oip-http and oip-grpc, not for {dialect}")));
    }
    let known = || outputs.iter().map(|spec| format!("'{}'", spec.name)).collect::<Vec<_>>().join(", ");
    let spec = outputs.iter().find(|spec| spec.name == name);
    let spec = spec.ok_or_else(|| wrong(format!("expected one of {}", known())))?;
    if matches!(spec.dtype, DType::Bytes | DType::F16 | DType::Bf16) {
        return Err(wrong(format!(
            "its type is {} or not known here, expected whole numbers, FP32 or FP64",
            spec.dtype
        )));
    }
    if name == OURS {
        return Err(wrong("the proxy's own output of probabilities has this name".into()));
    }
    let [_, rest @ ..] = &spec.shape[..] else { return Err(wrong("its shape is not known".into())) };
    let sizes: Option<Vec<usize>> =
        rest.iter().map(|dim| if let Dim::Fixed(size) = dim { Some(*size) } else { None }).collect();
    let Some(sizes) = sizes else {
        let shape = spec.shape_text();
        return Err(wrong(format!(
            "its shape {shape} is not known beyond the batch, it could hold a score for each class"
        )));
    };
    if could_be_scores(&sizes, n_classes) {
        let shape = spec.shape_text();
        return Err(wrong(format!("its shape {shape} has room for a score for each of the {n_classes} classes")));
    }
    Ok(spec.clone())
}

/// Whether a row of this shape has a number for each class.
fn could_be_scores(sizes: &[usize], n_classes: usize) -> bool {
    sizes.contains(&n_classes) || sizes.iter().try_fold(1_usize, |all, &size| all.checked_mul(size)) == Some(n_classes)
}

/// Takes the tensors that pass out of an answer.
pub(super) struct Passing<'a> {
    plan: &'a Plan,
    wanted: &'a [usize],
    n_rows: usize,
    taken: Vec<PassedTensor>,
}

impl<'a> Passing<'a> {
    /// For an answer of `n_rows` rows that should hold these of the outputs that pass.
    pub(super) fn new(plan: &'a Plan, wanted: &'a [usize], n_rows: usize) -> Self {
        Self { plan, wanted, n_rows, taken: Vec::new() }
    }

    /// Takes an output if it is one of them; every other is dropped.
    pub(super) fn take(
        &mut self,
        name: &str,
        datatype: &str,
        shape: &[usize],
        raw: Option<&[u8]>,
    ) -> Result<(), Fault> {
        let wanted = self.wanted.iter().find(|&&index| self.plan.passed[index].name == name);
        let Some(&index) = wanted else { return Ok(()) };
        let spec = &self.plan.passed[index];
        let wrong = |reason: &str| Fault::answer(format!("its '{name}' {reason}"));
        if self.taken.iter().any(|taken| taken.index == index) {
            return Err(wrong("is there twice"));
        }
        if DType::from_oip_name(datatype) != Some(spec.dtype) {
            return Err(wrong(&format!("has another type than {}", spec.dtype)));
        }
        let fits = spec.shape.iter().zip(shape).all(|(dim, &size)| *dim == Dim::Fixed(size) || *dim == Dim::Any);
        if !fits || spec.shape.len() != shape.len() || shape.first() != Some(&self.n_rows) {
            let expected = spec.shape_text();
            return Err(wrong(&format!(
                "has shape {}, expected {expected} with {} rows",
                shape_text(shape),
                self.n_rows
            )));
        }
        let raw = raw.ok_or_else(|| wrong("is not raw, as was asked for"))?;
        let n_bytes = shape.iter().chain(&spec.dtype.size()).try_fold(1_usize, |all, &size| all.checked_mul(size));
        if n_bytes != Some(raw.len()) {
            return Err(wrong(&format!("has {} bytes, which are not those of its shape", raw.len())));
        }
        let values = read_raw(spec.dtype, raw).map_err(|_| wrong("cannot be read"))?;
        if values.first_non_finite().is_some() {
            return Err(wrong("holds a number that is not finite"));
        }
        self.taken.push(PassedTensor { index, shape: shape.to_vec(), values });
        Ok(())
    }

    /// What was taken, if nothing is missing.
    pub(super) fn finish(self) -> Result<Passed, Fault> {
        let missing = self.wanted.iter().find(|&&index| !self.taken.iter().any(|taken| taken.index == index));
        if let Some(&index) = missing {
            return Err(Fault::answer(format!("'{}' is not in it", self.plan.passed[index].name)));
        }
        Ok(Passed::new(self.taken))
    }
}
