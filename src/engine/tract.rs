//! The default engine: ONNX graphs on tract, in process.
//!
//! Two plans are made of a graph: one for a single row, where every shape is known, and one for several. The second is
//! used only if it answers different rows as the first answers each of them alone: a graph that mixes the rows of a batch
//! is run row by row. Large batches run in blocks of a bounded number of rows, so that memory does not grow with the batch. A panic
//! inside of tract, at load or later, becomes an error here.

use std::io::Cursor;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use ndarray::{Array2, Axis};
use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::TDim;
use tract_onnx::{Onnx, pb};

use super::inspect::{self, GraphFacts};
use super::{
    BLOCK, Engine, EngineError, LoadOptions, ModelSpec, answer_shape, blocks, same_alone, tables, widen, zipmap,
};
use crate::defence::{RawScores, ScoresError};
use crate::tensor::{DType, Dim, InputTensor, Inputs, TensorSpec, Values};

/// Rows run at once while the largest tensor between two operators takes no more than this: what one writes the next reads
/// from a core's own cache, and no operator asks the system for fresh memory. A convolution that takes more is twice as slow.
const BLOCK_BYTES: usize = 512 << 10;
/// The most values that one row of an input may have.
const MAX_ROW_VALUES: usize = 1 << 28;

type Plan = Arc<TypedRunnableModel>;

/// A model on tract.
pub struct TractEngine {
    spec: ModelSpec,
    /// For one row.
    single: Plan,
    /// For any number of rows; none where the graph insists on one.
    any: Option<Plan>,
    /// Rows that run at once.
    block: usize,
    floats: Floats,
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
        let (onnx, mut proto) = read(bytes)?;
        let facts = inspect::facts(&proto)?;
        let decision = inspect::decide(&facts, options)?;
        widen::to_single(&mut proto, widen::From::Half)?;
        let output = decision.output.as_str();
        let mut build = Build { onnx: &onnx, proto: &proto, facts: &facts, output, floats: Floats::AsTheyAre };
        let narrowed;
        let (single, zeros) = match build.tried() {
            Ok(tried) => tried,
            Err(error) => {
                let mut copy = proto.clone();
                if !widen::to_single(&mut copy, widen::From::Double)? {
                    return Err(error);
                }
                narrowed = copy;
                build = Build { proto: &narrowed, floats: Floats::Single, ..build };
                build.tried().map_err(|_| error)?
            }
        };
        let floats = build.floats;
        let n_classes = zeros.ncols();
        match RawScores::new(zeros, decision.kind) {
            Err(error @ ScoresError::NotProbabilities { .. }) => return Err(error.into()),
            // A row of zeros may lie outside of what a model takes: what it answers there is not held against it.
            Ok(_) | Err(ScoresError::NonFinite { .. } | ScoresError::NoClasses) => {}
        }
        let any = build.plan(Batch::Any).ok();
        let any = any.filter(|any| agrees(any, &single, &facts.inputs, n_classes, floats));
        let row_by_row = any.is_none();
        let block = if row_by_row { 1 } else { block_rows(largest_bytes(&single)) };
        let mut decision = decision;
        if floats == Floats::Single {
            decision.how += "; its doubles are computed in single precision";
        }
        let spec = inspect::spec(facts, decision, n_classes, row_by_row)?;
        Ok(Self { spec, single, any, block, floats })
    }

    fn run(&self, inputs: &Inputs) -> Result<Array2<f32>, EngineError> {
        let (n_rows, n_classes) = (inputs.n_rows(), self.spec.n_classes);
        let run = |rows: Range<usize>| {
            let plan = self.any.as_ref().filter(|_| rows.len() > 1).unwrap_or(&self.single);
            answer(plan, tensors(inputs.tensors(), rows.clone(), self.floats)?, rows.len(), Some(n_classes))
        };
        if n_rows <= self.block {
            return run(0..n_rows);
        }
        let mut scores = Array2::zeros((n_rows, n_classes));
        for rows in self.blocks(n_rows) {
            scores.slice_axis_mut(Axis(0), rows.clone().into()).assign(&run(rows)?);
        }
        Ok(scores)
    }
}

/// The rows of a block whose largest tensor takes so many bytes a row. Not 2: the last of an odd number would be alone.
fn block_rows(row_bytes: usize) -> usize {
    let most = (BLOCK_BYTES / row_bytes.max(1)).clamp(1, BLOCK);
    if most < 4 { 1 } else { 1 << most.ilog2() }
}

/// Bytes of the largest tensor between two operators of a plan for one row.
fn largest_bytes(single: &Plan) -> usize {
    let outputs = single.model().nodes().iter().filter(|node| node.op.name() != "Const").flat_map(|node| &node.outputs);
    let bytes = |fact: &TypedFact| {
        let n_values = fact.shape.as_concrete()?.iter().try_fold(1_usize, |all, &size| all.checked_mul(size))?;
        n_values.checked_mul(fact.datum_type.size_of())
    };
    outputs.filter_map(|output| bytes(&output.fact)).max().unwrap_or(0)
}

impl Engine for TractEngine {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn infer(&self, inputs: &Inputs) -> Result<RawScores, EngineError> {
        let scores = guarded(|| self.run(inputs)).unwrap_or(Err(EngineError::Run))?;
        Ok(RawScores::new(scores, self.spec.score_kind)?)
    }

    fn blocks(&self, n_rows: usize) -> Vec<Range<usize>> {
        blocks(n_rows, self.block)
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
    let (mut proto, _) = read_model(bytes)?;
    tables::spell_out(&mut proto);
    Ok((reader(), proto))
}

fn reader() -> Onnx {
    tract_onnx::onnx().with_ignore_output_shapes(true).with_ignore_value_info(true)
}

/// Reads a model file, a last `ZipMap` taken off, and tells whether there was one.
pub(super) fn read_model(bytes: &[u8]) -> Result<(pb::ModelProto, bool), EngineError> {
    let proto = reader().proto_model_for_read(&mut Cursor::new(bytes));
    let mut proto = proto.map_err(|error| EngineError::NotOnnx(format!("{error:#}")))?;
    let taken_off = zipmap::take_off(&mut proto);
    Ok((proto, taken_off))
}

#[derive(Clone, Copy, PartialEq)]
enum Batch {
    One,
    Any,
}

/// How the doubles of a graph are computed; half precision always runs in floats of single precision ([`widen`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Floats {
    AsTheyAre,
    /// Doubles, too, in single precision, since tract cannot run them.
    Single,
}

/// What plans are made of.
#[derive(Clone, Copy)]
struct Build<'a> {
    onnx: &'a Onnx,
    proto: &'a pb::ModelProto,
    facts: &'a GraphFacts,
    output: &'a str,
    floats: Floats,
}

impl Build<'_> {
    /// The plan for one row, and what it answers to a row of zeros.
    fn tried(self) -> Result<(Plan, Array2<f32>), EngineError> {
        let plan = self.plan(Batch::One)?;
        let zeros = probe(&self.facts.inputs, 0..1, Fill::Zeros, self.floats)?;
        let zeros = answer(&plan, zeros, 1, None).map_err(at_load)?;
        Ok((plan, zeros))
    }

    /// An optimised plan that ends in the score output alone.
    fn plan(self, batch: Batch) -> Result<Plan, EngineError> {
        let graph = |error: TractError| EngineError::Graph(format!("{error:#}"));
        let mut model = self.onnx.model_for_proto_model(self.proto).map_err(graph)?;
        let n_rows = match batch {
            Batch::One => 1.to_dim(),
            Batch::Any => TDim::Sym(model.symbols.sym("N")),
        };
        let names: Vec<&str> = self.facts.inputs.iter().map(|input| input.name.as_str()).collect();
        model = model.with_input_names(names).map_err(graph)?;
        for (index, input) in self.facts.inputs.iter().enumerate() {
            let dims = input.shape.iter().skip(1).map(|dim| match dim {
                Dim::Fixed(size) => size.to_dim(),
                Dim::Any => 1.to_dim(),
            });
            let shape: TVec<TDim> = std::iter::once(n_rows.clone()).chain(dims).collect();
            let fact = InferenceFact::dt_shape(datum_type(input.dtype, self.floats)?, shape);
            model = model.with_input_fact(index, fact).map_err(graph)?;
        }
        let model = model.with_outputs_by_name([self.output]).map_err(graph)?;
        model.into_optimized().and_then(IntoRunnable::into_runnable).map_err(graph)
    }
}

fn datum_type(dtype: DType, floats: Floats) -> Result<DatumType, EngineError> {
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
        DType::F64 if floats == Floats::AsTheyAre => DatumType::F64,
        DType::F16 | DType::Bf16 | DType::F32 | DType::F64 => DatumType::F32,
        DType::Bytes => {
            return Err(EngineError::Input(format!("element type {dtype} cannot be fed")));
        }
    })
}

/// What a probe at load time is filled with.
#[derive(Clone, Copy, PartialEq)]
enum Fill {
    Zeros,
    /// Another value at every position, between 0 and 1.
    Various,
}

/// Rows for a try at load time: row `r` of a probe is the same in every range that holds it.
fn probe(inputs: &[TensorSpec], rows: Range<usize>, fill: Fill, floats: Floats) -> Result<TVec<TValue>, EngineError> {
    let fill_input = |spec: &TensorSpec| {
        let dims = spec.shape.iter().skip(1).map(|dim| if let Dim::Fixed(size) = dim { *size } else { 1 });
        let shape: Vec<usize> = std::iter::once(rows.len()).chain(dims).collect();
        let graph = |error: TractError| EngineError::Graph(format!("{error:#}"));
        let size: usize = shape[1..].iter().try_fold(1_usize, |n, &size| n.checked_mul(size)).unwrap_or(usize::MAX);
        if size > MAX_ROW_VALUES {
            let text = format!("'{}' has {size} values a row, expected at most {MAX_ROW_VALUES}", spec.name);
            return Err(EngineError::Input(text));
        }
        let value = |index: usize| match fill {
            Fill::Zeros => 0.0,
            Fill::Various => ((index as u64).wrapping_mul(2_654_435_761) % 1_009) as f32 / 1_008.0,
        };
        let values: Vec<f32> = (rows.start * size..rows.end * size).map(value).collect();
        let tensor = Tensor::from_shape(&shape, &values).map_err(graph)?;
        let cast = tensor.cast_to_dt(datum_type(spec.dtype, floats)?).map_err(graph)?;
        Ok(cast.into_owned().into_tvalue())
    };
    inputs.iter().map(fill_input).collect()
}

/// Whether a plan for several rows answers three different rows as the other answers each of them alone.
fn agrees(any: &Plan, single: &Plan, inputs: &[TensorSpec], n_classes: usize, floats: Floats) -> bool {
    let run = |plan: &Plan, rows: Range<usize>| {
        let n_rows = rows.len();
        answer(plan, probe(inputs, rows, Fill::Various, floats)?, n_rows, Some(n_classes))
    };
    let Ok(together) = run(any, 0..3) else { return false };
    same_alone(&together, |row| run(single, row..row + 1))
}

fn at_load(error: EngineError) -> EngineError {
    match error {
        EngineError::Run => EngineError::Graph("it fails on a row of zeros".into()),
        error => error,
    }
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
    let shape = answer_shape(shape, n_rows, n_classes)?;
    Array2::from_shape_vec(shape, values.iter().copied().collect()).map_err(|_| EngineError::Run)
}

/// Some rows of the inputs as tract's tensors.
fn tensors(inputs: &[InputTensor], rows: Range<usize>, floats: Floats) -> Result<TVec<TValue>, EngineError> {
    inputs.iter().map(|input| tensor(input, &rows, floats).map(IntoTValue::into_tvalue)).collect()
}

fn tensor(input: &InputTensor, rows: &Range<usize>, floats: Floats) -> Result<Tensor, EngineError> {
    let size: usize = input.shape()[1..].iter().product();
    let mut shape = input.shape().to_vec();
    shape[0] = rows.len();
    let part = rows.start * size..rows.end * size;
    macro_rules! as_is {
        ($values:expr) => {
            Tensor::from_shape(&shape, &$values[part])
        };
    }
    macro_rules! in_single {
        ($values:expr, $number:expr) => {
            Tensor::from_shape(&shape, &$values[part].iter().map($number).collect::<Vec<f32>>())
        };
    }
    let tensor = match input.values() {
        Values::Bool(v) => as_is!(v),
        Values::U8(v) => as_is!(v),
        Values::U16(v) => as_is!(v),
        Values::U32(v) => as_is!(v),
        Values::U64(v) => as_is!(v),
        Values::I8(v) => as_is!(v),
        Values::I16(v) => as_is!(v),
        Values::I32(v) => as_is!(v),
        Values::I64(v) => as_is!(v),
        Values::F32(v) => as_is!(v),
        Values::F64(v) if floats == Floats::AsTheyAre => as_is!(v),
        Values::F64(v) => in_single!(v, |&value| value as f32),
        Values::F16(v) => in_single!(v, |value| value.to_f32()),
        Values::Bf16(v) => in_single!(v, |value| value.to_f32()),
    };
    tensor.map_err(|_| EngineError::Run)
}
