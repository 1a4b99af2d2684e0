//! Reading a graph: its inputs, the output that holds scores, and what those scores are (R2).
//!
//! The kind is told by the operator that makes the scores: Softmax makes probabilities, LogSoftmax their logarithms,
//! a linear operator on top of weights logits. Operators that only reshape or copy are looked through. Anything else is an error that
//! asks for the answer in the configuration.

use tract_onnx::pb;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::dimension;
use tract_onnx::pb::type_proto;

use super::{EngineError, LoadOptions};
use crate::defence::ScoreKind;
use crate::tensor::{DType, Dim, TensorSpec};

/// The metadata entry that holds class names, as a JSON list.
pub const LABELS_KEY: &str = "sordino.labels";

/// The metadata entry that names the output which holds the scores, in a file with several outputs.
pub const SCORE_OUTPUT_KEY: &str = "sordino.score_output";

/// Operators that hand scores on as they are, with another shape or type.
const TRANSPARENT: [&str; 7] = ["Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Dropout"];

/// Operators with weights of their own: what they make is a plain sum of products.
const WEIGHTED: [&str; 3] = ["Gemm", "MatMul", "Conv"];

/// Operators that keep sums of products what they are, when all that goes in is.
const LINEAR: [&str; 11] = [
    "Add",
    "Sub",
    "Sum",
    "Mean",
    "Mul",
    "Div",
    "BatchNormalization",
    "GlobalAveragePool",
    "AveragePool",
    "ReduceMean",
    "ReduceSum",
];

/// The most operators that are looked at to tell the kind of an output.
const MAX_STEPS: usize = 10_000;

/// Operators that make (log-)probabilities or something like it: what is linear in them is no logit.
const SQUASHING: [&str; 5] = ["Softmax", "LogSoftmax", "Sigmoid", "Exp", "HardSigmoid"];

/// What a graph says of itself.
#[derive(Debug, Clone, PartialEq)]
pub struct GraphFacts {
    /// Inputs that a caller feeds (initialisers are not among them).
    pub inputs: Vec<TensorSpec>,
    /// All outputs.
    pub outputs: Vec<OutputFacts>,
    /// Class names of the metadata entry [`LABELS_KEY`].
    pub labels: Option<Vec<String>>,
    /// The output that the metadata entry [`SCORE_OUTPUT_KEY`] names.
    pub score_output: Option<String>,
    /// Who made the file.
    pub producer: String,
    /// Operator set of the default domain.
    pub opset: i64,
    /// Number of operators.
    pub n_nodes: usize,
}

/// What a graph says of one output.
#[derive(Debug, Clone, PartialEq)]
pub struct OutputFacts {
    /// Its name.
    pub name: String,
    /// Its declared element type, if any that is known here.
    pub dtype: Option<DType>,
    /// Its declared shape.
    pub shape: Option<Vec<Dim>>,
    /// The operators from the output backwards, up to the one that makes the values.
    pub made_by: Vec<String>,
    /// The axis of a Softmax or LogSoftmax among them.
    softmax_axis: Option<i64>,
    /// Whether the values are sums of products, all the way back to operators with weights.
    linear: bool,
}

/// The decision about scores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScoreDecision {
    /// The output.
    pub output: String,
    /// What its values are.
    pub kind: ScoreKind,
    /// Why, in words.
    pub how: String,
}

/// Reads what a graph declares.
///
/// # Errors
/// [`EngineError::NotOnnx`] without a graph, [`EngineError::Input`] for an input that cannot be fed.
pub fn facts(model: &pb::ModelProto) -> Result<GraphFacts, EngineError> {
    let graph = model.graph.as_ref().ok_or_else(|| EngineError::NotOnnx("the file holds no graph".into()))?;
    let initialised = |name: &str| graph.initializer.iter().any(|tensor| tensor.name == name);
    let inputs =
        graph.input.iter().filter(|input| !initialised(&input.name)).map(input_spec).collect::<Result<Vec<_>, _>>()?;
    if inputs.is_empty() {
        return Err(EngineError::Input("the graph has none".into()));
    }
    let opset = model.opset_import.iter().find(|import| import.domain.is_empty() || import.domain == "ai.onnx");
    let opset = opset.map_or(0, |import| import.version);
    let outputs = graph.output.iter().map(|output| output_facts(graph, output, opset)).collect();
    let entry = |key: &str| model.metadata_props.iter().find(|entry| entry.key == key).map(|entry| &entry.value);
    let labels = entry(LABELS_KEY).and_then(|text| serde_json::from_str(text).ok());
    let score_output = entry(SCORE_OUTPUT_KEY).cloned();
    let producer = format!("{} {}", model.producer_name, model.producer_version).trim().to_owned();
    Ok(GraphFacts { inputs, outputs, labels, score_output, producer, opset, n_nodes: graph.node.len() })
}

/// Decides which output holds scores and what they are: the one that the configuration names, else the one that the
/// file's metadata names, else the only one that could.
///
/// # Errors
/// [`EngineError::Output`] when no output or more than one could be meant, [`EngineError::Kind`] when the last
/// operator does not tell; both say what to write into the configuration.
pub fn decide(facts: &GraphFacts, options: &LoadOptions) -> Result<ScoreDecision, EngineError> {
    let names = || facts.outputs.iter().map(|output| format!("'{}'", output.name)).collect::<Vec<_>>().join(", ");
    let by_config = options.score_output.as_ref().map(|name| (name, "named in the configuration"));
    let by_file = facts.score_output.as_ref().map(|name| (name, "named in the model's metadata"));
    let (output, how) = if let Some((name, how)) = by_config.or(by_file) {
        let output = facts.outputs.iter().find(|output| output.name == *name);
        let missing = || EngineError::Output(format!("expected one of {}, got '{name}' ({how})", names()));
        (output.ok_or_else(missing)?, how)
    } else {
        let fits = |output: &&OutputFacts| {
            matches!(output.dtype, None | Some(DType::F16 | DType::Bf16 | DType::F32 | DType::F64))
                && output.shape.as_ref().is_none_or(|shape| shape.len() == 2)
        };
        let candidates: Vec<&OutputFacts> = facts.outputs.iter().filter(fits).collect();
        match candidates[..] {
            [only] => (only, "the only output of floats with two dimensions"),
            [] => {
                let text = format!("none of {} is a matrix of floats; name one as score_output", names());
                return Err(EngineError::Output(text));
            }
            _ => {
                let several: Vec<String> = candidates.iter().map(|output| format!("'{}'", output.name)).collect();
                let text = format!("{} could hold the scores; name one as score_output", several.join(" and "));
                return Err(EngineError::Output(text));
            }
        }
    };
    let (kind, why) = match options.score_kind {
        Some(kind) => (kind, "declared in the configuration".to_owned()),
        None => kind_of(output)?,
    };
    let how = format!("output '{}': {how}; {kind}: {why}", output.name);
    Ok(ScoreDecision { output: output.name.clone(), kind, how })
}

fn kind_of(output: &OutputFacts) -> Result<(ScoreKind, String), EngineError> {
    let ask = "declare score_kind as logits, probabilities or log_probabilities";
    let Some(maker) = output.made_by.last() else {
        return Err(EngineError::Kind(format!("nothing in the graph makes output '{}'; {ask}", output.name)));
    };
    let through = match &output.made_by[..output.made_by.len() - 1] {
        [] => String::new(),
        passed => format!(" (through {})", passed.join(", ")),
    };
    let kind = match maker.as_str() {
        "Softmax" | "LogSoftmax" if !matches!(output.softmax_axis, None | Some(-1 | 1)) => {
            let axis = output.softmax_axis.unwrap_or_default();
            let text = format!("output '{}' ends in {maker} over axis {axis}, expected axis 1; {ask}", output.name);
            return Err(EngineError::Kind(text));
        }
        "Softmax" => ScoreKind::Probabilities,
        "LogSoftmax" => ScoreKind::LogProbabilities,
        _ if output.linear => ScoreKind::Logits,
        _ => {
            let text = format!("output '{}' ends in {maker}{through}, which does not tell; {ask}", output.name);
            return Err(EngineError::Kind(text));
        }
    };
    Ok((kind, format!("the graph's last operator is {maker}{through}")))
}

fn input_spec(input: &pb::ValueInfoProto) -> Result<TensorSpec, EngineError> {
    let name = input.name.clone();
    let (dtype, shape) = declared(input);
    let wrong = |what: String| EngineError::Input(format!("'{name}' {what}"));
    let dtype = match (dtype, input.r#type.as_ref().and_then(|kind| kind.value.as_ref())) {
        (Some(DType::Bytes), _) => {
            return Err(wrong(
                "takes strings: expected numbers or booleans; put the encoding of words before the model".into(),
            ));
        }
        (Some(dtype), _) => dtype,
        (None, Some(type_proto::Value::TensorType(tensor))) => {
            let number = tensor.elem_type;
            let name = DataType::try_from(number).map_or_else(|_| number.to_string(), |known| format!("{known:?}"));
            return Err(wrong(format!("has element type {name}, which cannot be fed: expected numbers or booleans")));
        }
        (None, None) => {
            return Err(wrong("is no tensor (a sequence, a map), or declares no type: expected a tensor".into()));
        }
    };
    let mut shape = shape.ok_or_else(|| wrong("declares no shape".into()))?;
    match shape.first_mut() {
        None => return Err(wrong("is a scalar: expected the batch as first dimension".into())),
        Some(batch @ Dim::Fixed(1)) => *batch = Dim::Any,
        Some(Dim::Fixed(size)) => {
            return Err(wrong(format!("has a fixed batch of {size}: expected a dynamic one, or 1")));
        }
        Some(Dim::Any) => {}
    }
    if let Some(position) = shape.iter().skip(1).position(|dim| *dim == Dim::Any) {
        return Err(wrong(format!("has a dynamic dimension {}: only the batch may be dynamic", position + 1)));
    }
    Ok(TensorSpec { name, dtype, shape })
}

fn declared(value: &pb::ValueInfoProto) -> (Option<DType>, Option<Vec<Dim>>) {
    let Some(type_proto::Value::TensorType(tensor)) = value.r#type.as_ref().and_then(|kind| kind.value.as_ref()) else {
        return (None, None);
    };
    let dim = |dim: &pb::tensor_shape_proto::Dimension| match dim.value {
        Some(dimension::Value::DimValue(size)) => usize::try_from(size).map_or(Dim::Any, Dim::Fixed),
        Some(dimension::Value::DimParam(_)) | None => Dim::Any,
    };
    (dtype(tensor.elem_type), tensor.shape.as_ref().map(|shape| shape.dim.iter().map(dim).collect()))
}

fn dtype(elem_type: i32) -> Option<DType> {
    let known = [
        (DataType::Float, DType::F32),
        (DataType::Double, DType::F64),
        (DataType::Float16, DType::F16),
        (DataType::Bfloat16, DType::Bf16),
        (DataType::Bool, DType::Bool),
        (DataType::Uint8, DType::U8),
        (DataType::Uint16, DType::U16),
        (DataType::Uint32, DType::U32),
        (DataType::Uint64, DType::U64),
        (DataType::Int8, DType::I8),
        (DataType::Int16, DType::I16),
        (DataType::Int32, DType::I32),
        (DataType::Int64, DType::I64),
        (DataType::String, DType::Bytes),
    ];
    known.iter().find(|(onnx, _)| *onnx as i32 == elem_type).map(|(_, dtype)| *dtype)
}

fn output_facts(graph: &pb::GraphProto, output: &pb::ValueInfoProto, opset: i64) -> OutputFacts {
    let (dtype, shape) = declared(output);
    let mut made_by = Vec::new();
    let mut softmax_axis = None;
    let mut value = output.name.as_str();
    // A graph is acyclic by its specification; a file need not be.
    for _ in 0..graph.node.len() {
        let Some(node) = maker(graph, value) else { break };
        made_by.push(node.op_type.clone());
        if matches!(node.op_type.as_str(), "Softmax" | "LogSoftmax") {
            let default = if opset >= 13 { -1 } else { 1 };
            softmax_axis = Some(node.attribute.iter().find(|a| a.name == "axis").map_or(default, |a| a.i));
        }
        match node.input.first() {
            Some(input) if TRANSPARENT.contains(&node.op_type.as_str()) => value = input,
            _ => break,
        }
    }
    let linear = is_linear(graph, &output.name, &mut { MAX_STEPS });
    OutputFacts { name: output.name.clone(), dtype, shape, made_by, softmax_axis, linear }
}

fn maker<'a>(graph: &'a pb::GraphProto, value: &str) -> Option<&'a pb::NodeProto> {
    graph.node.iter().find(|node| node.output.iter().any(|name| name == value))
}

/// The inputs of an operator that are computed from the graph's inputs: no weights, no constants.
fn data_inputs<'a>(graph: &'a pb::GraphProto, node: &'a pb::NodeProto) -> impl Iterator<Item = &'a str> {
    let weight = |name: &str| {
        graph.initializer.iter().any(|tensor| tensor.name == name)
            || maker(graph, name).is_some_and(|node| node.op_type == "Constant")
    };
    node.input.iter().map(String::as_str).filter(move |name| !name.is_empty() && !weight(name))
}

/// Whether a value is a sum of products with weights. An average of softmaxes is not, nor is what a last layer makes of
/// probabilities. `budget` bounds the operators looked at: a file's graph need not be acyclic.
fn is_linear(graph: &pb::GraphProto, value: &str, budget: &mut usize) -> bool {
    let Some(node) = maker(graph, value).filter(|_| *budget > 0) else { return false };
    *budget -= 1;
    let op = node.op_type.as_str();
    if WEIGHTED.contains(&op) {
        return data_inputs(graph, node).all(|input| !is_squashed(graph, input));
    }
    if TRANSPARENT.contains(&op) {
        return node.input.first().is_some_and(|input| is_linear(graph, input, budget));
    }
    LINEAR.contains(&op) && data_inputs(graph, node).all(|input| is_linear(graph, input, budget))
}

/// Whether a value comes straight out of a [`SQUASHING`] operator, reshaped or not.
fn is_squashed(graph: &pb::GraphProto, value: &str) -> bool {
    let mut value = value;
    for _ in 0..graph.node.len() {
        let Some(node) = maker(graph, value) else { return false };
        match node.input.first() {
            Some(input) if TRANSPARENT.contains(&node.op_type.as_str()) => value = input,
            _ => return SQUASHING.contains(&node.op_type.as_str()),
        }
    }
    false
}
