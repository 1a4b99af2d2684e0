//! The default engine: ONNX graphs on tract, in process.
//!
//! Two plans are made of a graph: one for a single row, where every shape is known, and one for any number of rows. A
//! panic inside of tract, at load or later, becomes an error here.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use ndarray::Array2;
use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::TDim;
use tract_onnx::{Onnx, pb};

use super::inspect::{self, GraphFacts};
use super::{Engine, EngineError, LoadOptions, ModelSpec};
use crate::defence::RawScores;
use crate::tensor::{DType, Dim, InputTensor, Inputs, TensorSpec, Values};

type Plan = Arc<TypedRunnableModel>;

/// A model on tract.
pub struct TractEngine {
    spec: ModelSpec,
    /// For one row.
    single: Plan,
    /// For any number of rows; none where the graph insists on one.
    any: Option<Plan>,
}

impl TractEngine {
    /// Loads a model from the bytes of an ONNX file, and tries it on rows of zeros.
    ///
    /// # Errors
    /// [`EngineError`] when the bytes are no model, the scores cannot be told, or tract cannot run the graph. Never
    /// panics, whatever the bytes.
    pub fn load(bytes: &[u8], options: &LoadOptions) -> Result<Self, EngineError> {
        guarded(|| Self::load_unguarded(bytes, options))
            .unwrap_or_else(|| Err(EngineError::Graph("the engine panicked while loading it".into())))
    }

    fn load_unguarded(bytes: &[u8], options: &LoadOptions) -> Result<Self, EngineError> {
        let (onnx, proto) = read(bytes)?;
        let facts = inspect::facts(&proto)?;
        let decision = inspect::decide(&facts, options)?;
        let build = |batch| plan(&onnx, &proto, &facts, &decision.output, batch);
        let single = build(Batch::One)?;
        let n_classes = try_zeros(&single, &facts.inputs, 1, None)?;
        let any = build(Batch::Any).ok().filter(|plan| try_zeros(plan, &facts.inputs, 3, Some(n_classes)).is_ok());
        let other_outputs = facts.outputs.iter().map(|output| output.name.clone());
        let other_outputs = other_outputs.filter(|name| *name != decision.output).collect();
        let labels = match facts.labels {
            Some(labels) if labels.len() != n_classes => {
                let text = format!("its metadata names {} labels, its scores have {n_classes} classes", labels.len());
                return Err(EngineError::Output(text));
            }
            labels => labels,
        };
        let spec = ModelSpec {
            inputs: facts.inputs,
            score_output: decision.output,
            score_kind: decision.kind,
            n_classes,
            how_decided: decision.how,
            labels,
            other_outputs,
        };
        Ok(Self { spec, single, any })
    }

    fn run(&self, inputs: &Inputs) -> Result<Array2<f32>, EngineError> {
        let n_rows = inputs.n_rows();
        let n_classes = Some(self.spec.n_classes);
        if n_rows == 1 {
            return answer(&self.single, tensors(inputs.tensors(), None)?, 1, n_classes);
        }
        if let Some(any) = &self.any {
            return answer(any, tensors(inputs.tensors(), None)?, n_rows, n_classes);
        }
        let mut scores = Array2::zeros((n_rows, self.spec.n_classes));
        for (row, mut out) in scores.rows_mut().into_iter().enumerate() {
            let one = answer(&self.single, tensors(inputs.tensors(), Some(row))?, 1, n_classes)?;
            out.assign(&one.row(0));
        }
        Ok(scores)
    }
}

impl Engine for TractEngine {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn infer(&self, inputs: &Inputs) -> Result<RawScores, EngineError> {
        let scores = guarded(|| self.run(inputs)).unwrap_or(Err(EngineError::Run))?;
        Ok(RawScores::new(scores, self.spec.score_kind)?)
    }
}

/// Reads what a model file declares, without building a plan.
///
/// # Errors
/// [`EngineError::NotOnnx`] or [`EngineError::Input`]. Never panics, whatever the bytes.
pub fn graph_facts(bytes: &[u8]) -> Result<GraphFacts, EngineError> {
    guarded(|| inspect::facts(&read(bytes)?.1))
        .unwrap_or_else(|| Err(EngineError::NotOnnx("the reader panicked".into())))
}

fn guarded<T>(work: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(work)).ok()
}

fn read(bytes: &[u8]) -> Result<(Onnx, pb::ModelProto), EngineError> {
    let onnx = tract_onnx::onnx().with_ignore_output_shapes(true).with_ignore_value_info(true);
    let proto = onnx.proto_model_for_read(&mut Cursor::new(bytes));
    let proto = proto.map_err(|error| EngineError::NotOnnx(format!("{error:#}")))?;
    Ok((onnx, proto))
}

#[derive(Clone, Copy, PartialEq)]
enum Batch {
    One,
    Any,
}

/// Builds an optimised plan that ends in the score output alone.
fn plan(
    onnx: &Onnx,
    proto: &pb::ModelProto,
    facts: &GraphFacts,
    output: &str,
    batch: Batch,
) -> Result<Plan, EngineError> {
    let graph = |error: TractError| EngineError::Graph(format!("{error:#}"));
    let mut model = onnx.model_for_proto_model(proto).map_err(graph)?;
    let n_rows = match batch {
        Batch::One => 1.to_dim(),
        Batch::Any => TDim::Sym(model.symbols.sym("N")),
    };
    let names: Vec<&str> = facts.inputs.iter().map(|input| input.name.as_str()).collect();
    model = model.with_input_names(names).map_err(graph)?;
    for (index, input) in facts.inputs.iter().enumerate() {
        let dims = input.shape.iter().skip(1).map(|dim| match dim {
            Dim::Fixed(size) => size.to_dim(),
            Dim::Any => 1.to_dim(),
        });
        let shape: TVec<TDim> = std::iter::once(n_rows.clone()).chain(dims).collect();
        let fact = InferenceFact::dt_shape(datum_type(input.dtype)?, shape);
        model = model.with_input_fact(index, fact).map_err(graph)?;
    }
    let model = model.with_outputs_by_name([output]).map_err(graph)?;
    model.into_optimized().and_then(IntoRunnable::into_runnable).map_err(graph)
}

fn datum_type(dtype: DType) -> Result<DatumType, EngineError> {
    Ok(match dtype {
        DType::Bool => DatumType::Bool,
        DType::U8 => DatumType::U8,
        DType::U16 => DatumType::U16,
        DType::U32 => DatumType::U32,
        DType::U64 => DatumType::U64,
        DType::I8 => DatumType::I8,
        DType::I16 => DatumType::I16,
        DType::I32 => DatumType::I32,
        DType::I64 => DatumType::I64,
        DType::F32 => DatumType::F32,
        DType::F64 => DatumType::F64,
        DType::F16 | DType::Bf16 | DType::Bytes => {
            return Err(EngineError::Input(format!("element type {dtype} cannot be fed")));
        }
    })
}

/// Runs a plan on rows of zeros and returns the number of classes that it answered with.
fn try_zeros(
    plan: &Plan,
    inputs: &[TensorSpec],
    n_rows: usize,
    n_classes: Option<usize>,
) -> Result<usize, EngineError> {
    let zeros = |spec: &TensorSpec| {
        let dims = spec.shape.iter().skip(1).map(|dim| if let Dim::Fixed(size) = dim { *size } else { 1 });
        let shape: Vec<usize> = std::iter::once(n_rows).chain(dims).collect();
        let zeros = Tensor::zero_dt(datum_type(spec.dtype)?, &shape);
        zeros.map(IntoTValue::into_tvalue).map_err(|error| EngineError::Graph(format!("{error:#}")))
    };
    let tensors = inputs.iter().map(zeros).collect::<Result<TVec<_>, _>>()?;
    let failed = |error| match error {
        EngineError::Run => EngineError::Graph("it fails on a row of zeros".into()),
        error => error,
    };
    Ok(answer(plan, tensors, n_rows, n_classes).map_err(failed)?.ncols())
}

/// Runs a plan and takes its one output as a matrix of `n_rows` rows.
fn answer(
    plan: &Plan,
    tensors: TVec<TValue>,
    n_rows: usize,
    n_classes: Option<usize>,
) -> Result<Array2<f32>, EngineError> {
    let outputs = plan.run(tensors).map_err(|_| EngineError::Run)?;
    let output = outputs.first().ok_or(EngineError::Run)?;
    let output = output.cast_to::<f32>().map_err(|_| EngineError::Run)?;
    let values = output.to_plain_array_view::<f32>().map_err(|_| EngineError::Run)?;
    let shape = values.shape();
    let fits = shape.len() >= 2
        && shape[0] == n_rows
        && shape[1] > 0
        && n_classes.is_none_or(|n| n == shape[1])
        && shape[2..].iter().all(|&size| size == 1);
    if !fits {
        return Err(EngineError::AnswerShape {
            expected: format!("[{n_rows},{}]", n_classes.map_or_else(|| "classes".to_owned(), |n| n.to_string())),
            got: format!("{shape:?}").replace(' ', ""),
        });
    }
    let shape = (shape[0], shape[1]);
    Array2::from_shape_vec(shape, values.iter().copied().collect()).map_err(|_| EngineError::Run)
}

/// The inputs as tract's tensors: all rows, or one of them.
fn tensors(inputs: &[InputTensor], row: Option<usize>) -> Result<TVec<TValue>, EngineError> {
    inputs.iter().map(|input| tensor(input, row).map(IntoTValue::into_tvalue)).collect()
}

fn tensor(input: &InputTensor, row: Option<usize>) -> Result<Tensor, EngineError> {
    fn part<T: Datum + Copy>(values: &[T], shape: &[usize], row: Option<usize>) -> TractResult<Tensor> {
        let Some(row) = row else { return Tensor::from_shape(shape, values) };
        let size: usize = shape[1..].iter().product();
        let mut one = shape.to_vec();
        one[0] = 1;
        Tensor::from_shape(&one, &values[row * size..(row + 1) * size])
    }
    let shape = input.shape();
    let tensor = match input.values() {
        Values::Bool(v) => part(v, shape, row),
        Values::U8(v) => part(v, shape, row),
        Values::U16(v) => part(v, shape, row),
        Values::U32(v) => part(v, shape, row),
        Values::U64(v) => part(v, shape, row),
        Values::I8(v) => part(v, shape, row),
        Values::I16(v) => part(v, shape, row),
        Values::I32(v) => part(v, shape, row),
        Values::I64(v) => part(v, shape, row),
        Values::F32(v) => part(v, shape, row),
        Values::F64(v) => part(v, shape, row),
    };
    tensor.map_err(|_| EngineError::Run)
}
