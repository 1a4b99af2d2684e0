//! Graphs of a few operators, written with tract's own ONNX types: what is told, what is refused, what is answered.

mod on_each;
#[allow(clippy::unwrap_used, reason = "a test that panics has failed, which is its purpose")]
mod types;

use std::sync::Arc;

use prost::Message as _;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension};
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto, TensorProto,
    TensorShapeProto, TypeProto, ValueInfoProto, attribute_proto, type_proto,
};

use self::on_each::{load as load_bytes, onnx_runtime};
use super::inspect::{LABELS_KEY, SCORE_OUTPUT_KEY};
use super::tract::{TractEngine, graph_facts};
use super::{BLOCK, Engine, EngineError, LoadOptions, blocks};
use crate::defence::{ScoreKind, offline};
use crate::tensor::{DType, Dim, Inputs};

/// A graph under construction: `x` [N, 2] goes in, `w` [2, 3] is a weight.
struct Graph {
    batch: Option<i64>,
    nodes: Vec<NodeProto>,
    outputs: Vec<(&'static str, DataType, Vec<Option<i64>>)>,
    labels: Option<&'static str>,
    score_output: Option<&'static str>,
    /// Whether there are also weights `v` [3, 3] and `b` [3].
    square: bool,
}

fn node(op: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto {
        op_type: op.into(),
        name: format!("{op}_{output}"),
        input: inputs.iter().map(|&name| name.into()).collect(),
        output: vec![output.into()],
        ..NodeProto::default()
    }
}

fn axis(mut node: NodeProto, axis: i64) -> NodeProto {
    let kind = attribute_proto::AttributeType::Int as i32;
    node.attribute.push(AttributeProto { name: "axis".into(), i: axis, r#type: kind, ..AttributeProto::default() });
    node
}

fn value(name: &str, dtype: DataType, shape: &[Option<i64>]) -> ValueInfoProto {
    let dim = |size: &Option<i64>| {
        let value = match size {
            Some(size) => dimension::Value::DimValue(*size),
            None => dimension::Value::DimParam("N".into()),
        };
        Dimension { value: Some(value), ..Dimension::default() }
    };
    let shape = TensorShapeProto { dim: shape.iter().map(dim).collect() };
    let tensor = type_proto::Tensor { elem_type: dtype as i32, shape: Some(shape) };
    let kind = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() };
    ValueInfoProto { name: name.into(), r#type: Some(kind), ..ValueInfoProto::default() }
}

impl Graph {
    fn new(nodes: Vec<NodeProto>, outputs: &[&'static str]) -> Self {
        let outputs = outputs.iter().map(|&name| (name, DataType::Float, vec![None, Some(3)])).collect();
        Self { batch: None, nodes, outputs, labels: None, score_output: None, square: false }
    }

    fn bytes(self) -> Vec<u8> {
        let weights = [1.0_f32, 0.0, -1.0, 0.5, 2.0, 0.0];
        let weight = TensorProto {
            name: "w".into(),
            dims: vec![2, 3],
            data_type: DataType::Float as i32,
            raw_data: weights.iter().flat_map(|w| w.to_le_bytes()).collect(),
            ..TensorProto::default()
        };
        let ones = |name: &str, dims: &[i64]| TensorProto {
            name: name.into(),
            dims: dims.to_vec(),
            data_type: DataType::Float as i32,
            raw_data: (0..dims.iter().product()).flat_map(|_: i64| 1.0_f32.to_le_bytes()).collect(),
            ..TensorProto::default()
        };
        let mut initializer = vec![weight];
        if self.square {
            initializer.extend([ones("v", &[3, 3]), ones("b", &[3])]);
        }
        let graph = GraphProto {
            name: "g".into(),
            node: self.nodes,
            input: vec![value("x", DataType::Float, &[self.batch, Some(2)])],
            output: self.outputs.iter().map(|(name, dtype, shape)| value(name, *dtype, shape)).collect(),
            initializer,
            ..GraphProto::default()
        };
        let opset = OperatorSetIdProto { domain: String::new(), version: 17 };
        let entry = |key: &str, text: &str| StringStringEntryProto { key: key.into(), value: text.into() };
        let metadata = [(LABELS_KEY, self.labels), (SCORE_OUTPUT_KEY, self.score_output)];
        let metadata_props = metadata.iter().filter_map(|&(key, text)| Some(entry(key, text?))).collect();
        let model = ModelProto {
            ir_version: 8,
            graph: Some(graph),
            opset_import: vec![opset],
            metadata_props,
            ..ModelProto::default()
        };
        model.encode_to_vec()
    }
}

fn linear() -> NodeProto {
    node("MatMul", &["x", "w"], "logits")
}

fn load(graph: Graph) -> Result<Arc<dyn Engine>, EngineError> {
    load_bytes(&graph.bytes(), &LoadOptions::default())
}

fn kind_of(nodes: Vec<NodeProto>, output: &'static str) -> Result<ScoreKind, EngineError> {
    load(Graph::new(nodes, &[output])).map(|engine| engine.spec().score_kind)
}

#[test]
fn the_last_operator_tells_what_the_scores_are() {
    assert_eq!(kind_of(vec![linear()], "logits"), Ok(ScoreKind::Logits));
    let softmax = axis(node("Softmax", &["logits"], "p"), -1);
    assert_eq!(kind_of(vec![linear(), softmax.clone()], "p"), Ok(ScoreKind::Probabilities));
    let log = axis(node("LogSoftmax", &["logits"], "p"), 1);
    assert_eq!(kind_of(vec![linear(), log], "p"), Ok(ScoreKind::LogProbabilities));
    let through = vec![linear(), softmax, node("Identity", &["p"], "q")];
    assert_eq!(kind_of(through, "q"), Ok(ScoreKind::Probabilities));
}

#[test]
fn an_operator_that_does_not_tell_is_an_error_that_asks() {
    for op in ["Sigmoid", "Relu", "Tanh"] {
        let error = kind_of(vec![linear(), node(op, &["logits"], "y")], "y").unwrap_err();
        assert!(matches!(error, EngineError::Kind(_)), "{error}");
        assert!(error.to_string().contains(op) && error.to_string().contains("score_kind"), "{error}");
    }
    let rows = axis(node("Softmax", &["logits"], "p"), 0);
    assert!(matches!(kind_of(vec![linear(), rows], "p"), Err(EngineError::Kind(_))));
    let bytes = Graph::new(vec![linear(), node("Relu", &["logits"], "y")], &["y"]).bytes();
    let declared = LoadOptions { score_kind: Some(ScoreKind::Logits), ..LoadOptions::default() };
    assert!(load_bytes(&bytes, &declared).unwrap().spec().how_decided.contains("declared in the configuration"));
}

#[test]
fn a_list_of_maps_is_served_as_the_matrix_that_it_was_made_of() {
    let softmax = axis(node("Softmax", &["logits"], "p"), -1);
    let mut zip = node("ZipMap", &["p"], "maps");
    zip.domain = "ai.onnx.ml".into();
    let engine = load(Graph::new(vec![linear(), softmax.clone(), zip.clone()], &["maps"])).unwrap();
    let spec = engine.spec();
    assert_eq!((spec.score_output.as_str(), spec.score_kind, spec.n_classes), ("maps", ScoreKind::Probabilities, 3));
    // A matrix that is an output of its own is the one to name.
    let both = Graph::new(vec![linear(), softmax, zip], &["maps", "p"]);
    let error = load(both).map(|_| ()).unwrap_err();
    assert!(matches!(error, EngineError::Output(_)), "{error}");
}

#[test]
fn what_is_linear_in_probabilities_is_no_logit() {
    let softmax = |output| axis(node("Softmax", &["logits"], output), -1);
    let average = vec![linear(), softmax("p"), softmax("q"), node("Add", &["p", "q"], "y")];
    assert!(matches!(kind_of(average, "y"), Err(EngineError::Kind(_))));
    let mut graph = Graph::new(vec![linear(), softmax("p"), node("MatMul", &["p", "v"], "y")], &["y"]);
    graph.square = true;
    assert!(matches!(load(graph), Err(EngineError::Kind(_))));
    let bias = vec![linear(), node("Add", &["logits", "b"], "y")];
    let mut graph = Graph::new(bias, &["y"]);
    graph.square = true;
    assert_eq!(load(graph).unwrap().spec().score_kind, ScoreKind::Logits);
}

#[test]
fn a_declaration_that_the_model_belies_stops_the_start() {
    let bytes = Graph::new(vec![linear()], &["logits"]).bytes();
    let declared = LoadOptions { score_kind: Some(ScoreKind::Probabilities), ..LoadOptions::default() };
    let error = load_bytes(&bytes, &declared).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("declared as probabilities"), "{error}");
}

#[test]
fn a_graph_that_mixes_rows_is_run_row_by_row() {
    let mut mean = axis(node("ReduceMean", &["logits"], "m"), 0);
    // The mean is over the batch: rows know each other.
    mean.attribute[0] = AttributeProto {
        name: "axes".into(),
        ints: vec![0],
        r#type: attribute_proto::AttributeType::Ints as i32,
        ..AttributeProto::default()
    };
    let engine = load(Graph::new(vec![linear(), mean, node("Sub", &["logits", "m"], "y")], &["y"])).unwrap();
    assert!(engine.spec().row_by_row);
    let rows = ndarray::array![[1.0_f32, 2.0], [-1.0, 0.5]].into_dyn();
    let scores = offline::logits(engine.infer(&Inputs::from_f32(&engine.spec().inputs[0], rows).unwrap()).unwrap());
    assert!(scores.iter().all(|&score| score == 0.0));
}

#[test]
fn large_batches_run_in_blocks() {
    let engine = load(Graph::new(vec![linear()], &["logits"])).unwrap();
    assert!(!engine.spec().row_by_row);
    let n = 2 * BLOCK + 7;
    let rows = ndarray::Array2::from_shape_fn((n, 2), |(row, column)| (row * 2 + column) as f32).into_dyn();
    let scores = offline::logits(engine.infer(&Inputs::from_f32(&engine.spec().inputs[0], rows).unwrap()).unwrap());
    assert_eq!(scores.nrows(), n);
    for (row, scores) in scores.rows().into_iter().enumerate() {
        let (a, b) = ((row * 2) as f32, (row * 2 + 1) as f32);
        assert_eq!(scores.to_vec(), [a + 0.5 * b, 2.0 * b, -a]);
    }
}

#[test]
fn two_outputs_that_could_be_meant_are_an_error_that_asks() {
    let both = || Graph::new(vec![linear(), node("Softmax", &["logits"], "p")], &["logits", "p"]);
    let error = load(both()).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("'logits' and 'p'"), "{error}");
    let named = LoadOptions { score_output: Some("p".into()), ..LoadOptions::default() };
    let engine = load_bytes(&both().bytes(), &named).unwrap();
    assert_eq!(engine.spec().score_kind, ScoreKind::Probabilities);
    assert_eq!(engine.spec().other_outputs, ["logits"]);
    let unknown = LoadOptions { score_output: Some("z".into()), ..LoadOptions::default() };
    assert!(load_bytes(&both().bytes(), &unknown).is_err());
}

#[test]
fn a_file_may_say_which_output_holds_the_scores_and_the_configuration_overrules_it() {
    let graph = |score_output| {
        let mut graph = Graph::new(vec![linear(), node("Softmax", &["logits"], "p")], &["p", "logits"]);
        graph.score_output = Some(score_output);
        graph.bytes()
    };
    let engine = load_bytes(&graph("logits"), &LoadOptions::default()).unwrap();
    assert_eq!((engine.spec().score_output.as_str(), engine.spec().score_kind), ("logits", ScoreKind::Logits));
    assert_eq!(engine.spec().other_outputs, ["p"]);
    let named = LoadOptions { score_output: Some("p".into()), ..LoadOptions::default() };
    assert_eq!(load_bytes(&graph("logits"), &named).unwrap().spec().score_output, "p");
    let error = load_bytes(&graph("q"), &LoadOptions::default()).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("'q'") && error.to_string().contains("metadata"), "{error}");
}

#[test]
fn a_vector_or_an_integer_output_is_not_taken_for_scores() {
    let mut graph = Graph::new(vec![linear()], &["logits"]);
    graph.outputs[0].2 = vec![None, Some(3), Some(1)];
    assert!(matches!(load(graph), Err(EngineError::Output(_))));
    let mut graph = Graph::new(vec![linear()], &["logits"]);
    graph.outputs[0].1 = DataType::Int64;
    assert!(matches!(load(graph), Err(EngineError::Output(_))));
}

#[test]
fn rows_are_answered_alone_and_in_batches_alike() {
    for batch in [None, Some(1)] {
        let mut graph = Graph::new(vec![linear()], &["logits"]);
        graph.batch = batch;
        let engine = load(graph).unwrap();
        assert_eq!(engine.spec().inputs[0].shape, [Dim::Any, Dim::Fixed(2)]);
        assert_eq!(engine.spec().inputs[0].dtype, DType::F32);
        let rows = ndarray::array![[1.0_f32, 2.0], [-1.0, 0.5], [0.0, 3.0]];
        let spec = &engine.spec().inputs[0];
        let all = offline::logits(engine.infer(&Inputs::from_f32(spec, rows.clone().into_dyn()).unwrap()).unwrap());
        assert_eq!(all, ndarray::array![[2.0, 4.0, -1.0], [-0.75, 1.0, 1.0], [1.5, 6.0, 0.0]]);
        for row in 0..3 {
            let one = rows.select(ndarray::Axis(0), &[row]).into_dyn();
            let one = offline::logits(engine.infer(&Inputs::from_f32(spec, one).unwrap()).unwrap());
            assert_eq!(one.row(0), all.row(row));
        }
    }
}

#[test]
fn a_model_that_answers_with_nan_is_an_error_and_no_score() {
    let bytes = Graph::new(vec![linear(), node("Log", &["logits"], "y")], &["y"]).bytes();
    let declared = LoadOptions { score_kind: Some(ScoreKind::Logits), ..LoadOptions::default() };
    let engine = load_bytes(&bytes, &declared).unwrap();
    let rows = ndarray::array![[-5.0_f32, -5.0]].into_dyn();
    let error = engine.infer(&Inputs::from_f32(&engine.spec().inputs[0], rows).unwrap()).unwrap_err();
    assert!(matches!(error, EngineError::Scores(_)), "{error}");
}

#[test]
fn labels_come_from_the_file_and_must_be_as_many_as_classes() {
    let mut graph = Graph::new(vec![linear()], &["logits"]);
    graph.labels = Some("[\"a\",\"b\",\"c\"]");
    assert_eq!(load(graph).unwrap().spec().labels.as_deref(), Some(&["a", "b", "c"].map(String::from)[..]));
    let mut graph = Graph::new(vec![linear()], &["logits"]);
    graph.labels = Some("[\"a\"]");
    assert!(load(graph).is_err());
}

#[test]
fn graphs_that_cannot_be_served_are_refused_with_a_reason() {
    assert!(matches!(load_bytes(b"", &LoadOptions::default()), Err(EngineError::NotOnnx(_))));
    assert!(load_bytes(b"no model at all", &LoadOptions::default()).is_err());
    let mut graph = Graph::new(vec![linear()], &["logits"]);
    graph.batch = Some(4);
    assert!(load(graph).map(|_| ()).unwrap_err().to_string().contains("batch of 4"));
    let unknown =
        Graph::new(vec![node("NoSuchOperator", &["x"], "y"), node("MatMul", &["y", "w"], "logits")], &["logits"]);
    assert!(matches!(load(unknown), Err(EngineError::Graph(_))));
    let circle = Graph::new(vec![node("Identity", &["b"], "a"), node("Identity", &["a"], "b")], &["b"]);
    assert!(load(circle).is_err());
}

#[test]
fn damaged_models_never_panic() {
    let bytes = Graph::new(vec![linear(), axis(node("Softmax", &["logits"], "p"), -1)], &["p"]).bytes();
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x15;
        let _ = graph_facts(&damaged);
        let _ = TractEngine::load(&damaged, &LoadOptions::default());
        if let Some(options) = onnx_runtime(&LoadOptions::default()) {
            let _ = super::load(&damaged, &options);
        }
        let _ = graph_facts(&bytes[..at]);
    }
}

#[test]
fn a_model_with_large_tensors_runs_few_rows_at_once_and_each_part_alike_alone() {
    let tract = |bytes: &[u8]| TractEngine::load(bytes, &LoadOptions::default()).unwrap();
    let bundled = tract(include_bytes!("../../models/fashion_cnn.onnx"));
    let blocks = bundled.blocks(41);
    assert!(blocks.len() > 4 && blocks.iter().cloned().flatten().eq(0..41), "{blocks:?}");
    let rows = |range| Inputs::made_up(&bundled.spec().inputs, range, false).unwrap();
    let whole = bundled.infer(&rows(0..41)).unwrap();
    let parts: Vec<_> = blocks.into_iter().map(|rows_of| bundled.infer(&rows(rows_of)).unwrap()).collect();
    let joined = crate::defence::RawScores::joined(&parts).unwrap();
    assert!((0..41).all(|row| whole.same_row(row, &joined, row)));
    let small = tract(&Graph::new(vec![linear()], &["logits"]).bytes());
    assert_eq!(small.blocks(2 * BLOCK), [0..BLOCK, BLOCK..2 * BLOCK]);
}

#[test]
fn blocks_hold_every_row_once_and_none_alone() {
    for n_rows in 1..200 {
        let blocks = blocks(n_rows, BLOCK);
        assert!(blocks.iter().cloned().flatten().eq(0..n_rows), "{n_rows}");
        assert!(n_rows == 1 || blocks.iter().all(|block| (2..=BLOCK).contains(&block.len())), "{n_rows}");
    }
    assert_eq!(blocks(3, 1), [0..1, 1..2, 2..3]);
}
