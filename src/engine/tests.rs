//! Graphs of a few operators, written with tract's own ONNX types: what is told, what is refused, what is answered.

use prost::Message as _;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension};
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto, TensorProto,
    TensorShapeProto, TypeProto, ValueInfoProto, attribute_proto, type_proto,
};

use super::inspect::LABELS_KEY;
use super::tract::{TractEngine, graph_facts};
use super::{Engine as _, EngineError, LoadOptions};
use crate::defence::{ScoreKind, offline};
use crate::tensor::{DType, Dim, Inputs};

/// A graph under construction: `x` [N, 2] goes in, `w` [2, 3] is a weight.
struct Graph {
    batch: Option<i64>,
    nodes: Vec<NodeProto>,
    outputs: Vec<(&'static str, DataType, Vec<Option<i64>>)>,
    labels: Option<&'static str>,
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
        Self { batch: None, nodes, outputs, labels: None }
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
        let graph = GraphProto {
            name: "g".into(),
            node: self.nodes,
            input: vec![value("x", DataType::Float, &[self.batch, Some(2)])],
            output: self.outputs.iter().map(|(name, dtype, shape)| value(name, *dtype, shape)).collect(),
            initializer: vec![weight],
            ..GraphProto::default()
        };
        let opset = OperatorSetIdProto { domain: String::new(), version: 17 };
        let label = |text: &str| StringStringEntryProto { key: LABELS_KEY.into(), value: text.into() };
        let metadata_props = self.labels.map(label).into_iter().collect();
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

fn load(graph: Graph) -> Result<TractEngine, EngineError> {
    TractEngine::load(&graph.bytes(), &LoadOptions::default())
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
    assert!(TractEngine::load(&bytes, &declared).unwrap().spec().how_decided.contains("declared in the configuration"));
}

#[test]
fn two_outputs_that_could_be_meant_are_an_error_that_asks() {
    let both = || Graph::new(vec![linear(), node("Softmax", &["logits"], "p")], &["logits", "p"]);
    let error = load(both()).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("'logits' and 'p'"), "{error}");
    let named = LoadOptions { score_output: Some("p".into()), ..LoadOptions::default() };
    let engine = TractEngine::load(&both().bytes(), &named).unwrap();
    assert_eq!(engine.spec().score_kind, ScoreKind::Probabilities);
    assert_eq!(engine.spec().other_outputs, ["logits"]);
    let unknown = LoadOptions { score_output: Some("z".into()), ..LoadOptions::default() };
    assert!(TractEngine::load(&both().bytes(), &unknown).is_err());
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
    let nodes = vec![linear(), node("Log", &["logits"], "l"), node("Add", &["l", "l"], "y")];
    let graph = Graph::new(nodes, &["y"]);
    let engine = load(graph).unwrap();
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
    assert!(matches!(TractEngine::load(b"", &LoadOptions::default()), Err(EngineError::NotOnnx(_))));
    assert!(TractEngine::load(b"no model at all", &LoadOptions::default()).is_err());
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
        let _ = graph_facts(&bytes[..at]);
    }
}
