//! What is decided from metadata, and answers in each dialect.

use std::collections::BTreeMap;

use prost::Message as _;

use super::metadata::Found;
use super::*;
use crate::defence::offline;
use crate::engine::EngineError;
use crate::protocol::grpc::messages::model_infer_response::InferOutputTensor;
use crate::protocol::grpc::messages::{InferTensorContents, ModelInferResponse};
use crate::tensor::Values;

fn declared(dialect: Dialect) -> Declared {
    Declared {
        dialect,
        model: "clf".into(),
        version: None,
        score_output: Some("logits".into()),
        score_kind: Some(ScoreKind::Logits),
        n_classes: None,
        inputs: Vec::new(),
        rules: BTreeMap::new(),
        binary: None,
        signature: None,
    }
}

fn spec(name: &str, shape: &[i64]) -> TensorSpec {
    let shape = shape.iter().map(|&size| usize::try_from(size).map_or(Dim::Any, Dim::Fixed)).collect();
    TensorSpec { name: name.into(), dtype: DType::F32, shape }
}

fn found() -> Found {
    Found {
        inputs: vec![spec("x", &[-1, 2])],
        outputs: vec![spec("logits", &[-1, 3]), spec("embedding", &[-1, 8])],
        platform: "fake".into(),
        versions: vec!["1".into()],
        binary: true,
    }
}

fn plan(dialect: Dialect) -> Plan {
    Plan::new(&declared(dialect), found()).unwrap()
}

fn inputs() -> Inputs {
    let tensor = crate::tensor::InputTensor::new(&spec("x", &[-1, 2]), &[2, 2], Values::F32(vec![1.0, 2.5, -3.0, 0.5]));
    Inputs::new(vec![tensor.unwrap()]).unwrap()
}

fn refused(change: impl Fn(&mut Declared, &mut Found)) -> String {
    let (mut declared, mut found) = (declared(Dialect::OipHttp), found());
    change(&mut declared, &mut found);
    Plan::new(&declared, found).unwrap_err().to_string()
}

#[test]
fn what_cannot_be_told_must_be_declared() {
    let plan = plan(Dialect::OipHttp);
    assert_eq!((plan.spec.n_classes, &plan.spec.other_outputs[..]), (3, &["embedding".to_owned()][..]));
    assert!(refused(|declared, _| declared.score_kind = None).contains("score_kind"));
    assert!(refused(|declared, _| declared.score_output = None).contains("'logits', 'embedding'"));
    assert!(refused(|declared, _| declared.score_output = Some("y".into())).contains("got 'y'"));
    assert!(refused(|declared, _| declared.n_classes = Some(4)).contains("expected 4"));
    assert!(refused(|_, found| found.outputs[0].shape = vec![Dim::Any, Dim::Any]).contains("n_classes"));
    assert!(refused(|_, found| found.inputs.clear()).contains("[[upstream.inputs]]"));
    assert!(
        refused(|_, found| found.inputs[0].shape = vec![Dim::Fixed(4), Dim::Fixed(2)]).contains("fixed dimension of 4")
    );
    assert!(refused(|_, found| found.inputs[0].dtype = DType::Bytes).contains("cannot be fed"));
    assert!(refused(|_, found| found.versions.push("2".into())).contains("'1', '2'"));
}

#[test]
fn an_output_with_the_rule_refuse_is_not_served_beside() {
    let rule = |name: &str, rule| BTreeMap::from([(name.to_owned(), rule)]);
    assert!(refused(|declared, _| declared.rules = rule("embedding", OutputRule::Refuse)).contains("'embedding'"));
    assert!(refused(|declared, _| declared.rules = rule("logits", OutputRule::Drop)).contains("holds the scores"));
    let mut dropped = declared(Dialect::OipHttp);
    dropped.rules = rule("embedding", OutputRule::Drop);
    assert!(Plan::new(&dropped, found()).is_ok());
}

#[test]
fn an_output_passes_only_by_its_own_rule_and_where_it_can_hold_no_scores() {
    let pass = |name: &str| BTreeMap::from([(name.to_owned(), OutputRule::Pass)]);
    let plan = |dialect, name: &str, change: fn(&mut Found)| {
        let mut found = found();
        change(&mut found);
        Plan::new(&Declared { rules: pass(name), ..declared(dialect) }, found).map(|plan| plan.passed)
    };
    assert_eq!(plan(Dialect::OipHttp, "embedding", |_| {}).unwrap(), [spec("embedding", &[-1, 8])]);
    assert!(plan(Dialect::OipGrpc, "embedding", |found| found.binary = false).is_ok());
    type Refused = (Dialect, &'static str, fn(&mut Found), &'static str);
    let refusals: [Refused; 11] = [
        (Dialect::OipHttp, "logits", |_| {}, "holds the scores"),
        (Dialect::OipHttp, "nope", |_| {}, "expected one of 'logits', 'embedding'"),
        (Dialect::TfServing, "embedding", |_| {}, "not for tfserving"),
        (Dialect::KserveV1, "embedding", |_| {}, "not for kserve-v1"),
        (Dialect::OipHttp, "embedding", |found| found.binary = false, "raw tensors"),
        (
            Dialect::OipHttp,
            "embedding",
            |found| found.outputs[1] = spec("embedding", &[-1, 3]),
            "each of the 3 classes",
        ),
        (Dialect::OipHttp, "embedding", |found| found.outputs[1] = spec("embedding", &[-1, 4, 3]), "3 classes"),
        (Dialect::OipHttp, "embedding", |found| found.outputs[1] = spec("embedding", &[-1, -1]), "not known"),
        (Dialect::OipHttp, "embedding", |found| found.outputs[1] = spec("embedding", &[]), "not known"),
        (Dialect::OipHttp, "embedding", |found| found.outputs[1].dtype = DType::Bytes, "BYTES"),
        (Dialect::OipHttp, "probabilities", |found| found.outputs[1] = spec("probabilities", &[-1, 8]), "this name"),
    ];
    for (dialect, name, change, word) in refusals {
        let error = plan(dialect, name, change).unwrap_err().to_string();
        assert!(error.contains(word), "{name} {dialect}: {error}");
    }
    let mut quantised = found();
    quantised.outputs[1] = TensorSpec { dtype: DType::U8, ..spec("embedding", &[-1, 3]) };
    assert!(Plan::new(&Declared { rules: pass("embedding"), ..declared(Dialect::OipHttp) }, quantised).is_err());
}

#[test]
fn what_passes_is_held_to_the_type_and_shape_that_it_had_at_start() {
    let rules = BTreeMap::from([("embedding".to_owned(), OutputRule::Pass)]);
    let plan = Plan::new(&Declared { rules, ..declared(Dialect::OipGrpc) }, found()).unwrap();
    let read = |change: fn(&mut ModelInferResponse), wanted: &[usize]| {
        let mut answer = answer();
        change(&mut answer);
        plan.read(&reply(None, &answer.encode_to_vec()), 1, wanted, "7").map(|(_, passed)| passed)
    };
    assert!(
        format!("{:?}", read(|_| {}, &[0]).unwrap()) == "Passed(1)" && read(|_| {}, &[]).unwrap() == Passed::default()
    );
    let wrong: [fn(&mut ModelInferResponse); 9] = [
        |answer| answer.outputs[0].name = "other".into(),
        |answer| answer.outputs[0].datatype = "INT32".into(),
        |answer| answer.outputs[0].shape = vec![1, 2, 4],
        |answer| answer.outputs[0].shape = vec![2, 4],
        |answer| answer.outputs[0].shape = vec![8],
        |answer| answer.outputs[0].shape = vec![1, -8],
        |answer| answer.raw_output_contents[0] = vec![0; 31].into(),
        |answer| answer.raw_output_contents[0] = f32::NAN.to_le_bytes().repeat(8).into(),
        |answer| {
            answer.outputs.push(answer.outputs[0].clone());
            answer.raw_output_contents.push(answer.raw_output_contents[0].clone());
        },
    ];
    for (position, change) in wrong.into_iter().enumerate() {
        assert!(matches!(read(change, &[0]), Err(EngineError::Upstream(Fault::Answer(_)))), "{position}");
        assert_eq!(read(change, &[]).unwrap(), Passed::default(), "{position}: dropped unread");
    }
    let written = plan.write(&inputs(), &[0], "7").unwrap();
    let request = crate::protocol::grpc::messages::ModelInferRequest::decode(written.body).unwrap();
    let names: Vec<&str> = request.outputs.iter().map(|output| &*output.name).collect();
    assert_eq!(names, ["logits", "embedding"]);
}

#[test]
fn requests_are_written_in_each_dialect() {
    let text = |dialect| {
        let found = Found { binary: false, ..found() };
        let plan = Plan::new(&declared(dialect), found).unwrap();
        String::from_utf8(plan.write(&inputs(), &[], "7").unwrap().body.to_vec()).unwrap()
    };
    let oip = r#"{"id":"7","inputs":[{"name":"x","shape":[2,2],"datatype":"FP32","data":[1.0,2.5,-3.0,0.5]}],"outputs":[{"name":"logits"}]}"#;
    assert_eq!(text(Dialect::OipHttp), oip);
    assert_eq!(text(Dialect::TfServing), r#"{"inputs":{"x":[[1.0,2.5],[-3.0,0.5]]}}"#);
    assert_eq!(text(Dialect::KserveV1), r#"{"instances":[[1.0,2.5],[-3.0,0.5]]}"#);
    let raw = plan(Dialect::OipHttp).write(&inputs(), &[], "7").unwrap();
    let (head, tail) = raw.body.split_at(raw.header_length.unwrap());
    assert!(std::str::from_utf8(head).unwrap().contains(r#""parameters":{"binary_data_size":16}}"#));
    assert_eq!(tail, [1.0_f32, 2.5, -3.0, 0.5].map(f32::to_le_bytes).as_flattened());
}

#[test]
fn several_inputs_are_written_row_by_row_for_v1() {
    let mut two = found();
    two.inputs.push(spec("y", &[-1, 1]));
    let plan = Plan::new(&declared(Dialect::KserveV1), two).unwrap();
    let tensor = |name: &str, size: i64, values: Vec<f32>| {
        crate::tensor::InputTensor::new(&spec(name, &[-1, size]), &[2, size as usize], Values::F32(values)).unwrap()
    };
    let inputs = Inputs::new(vec![tensor("x", 2, vec![1.0, 2.0, 3.0, 4.0]), tensor("y", 1, vec![5.0, 6.0])]).unwrap();
    let body = String::from_utf8(plan.write(&inputs, &[], "").unwrap().body.to_vec()).unwrap();
    assert_eq!(body, r#"{"instances":[{"x":[1.0,2.0],"y":[5.0]},{"x":[3.0,4.0],"y":[6.0]}]}"#);
}

fn reply(header_length: Option<usize>, body: &[u8]) -> WireReply {
    let header_length = header_length.map(|length| length.to_string());
    WireReply { header_length, body: Bytes::copy_from_slice(body), ..WireReply::default() }
}

fn plain(body: &str) -> WireReply {
    reply(None, body.as_bytes())
}

fn values(read: Result<(RawScores, Passed), EngineError>) -> Vec<f32> {
    offline::logits(read.unwrap().0).into_iter().collect()
}

#[test]
fn scores_are_read_in_each_dialect() {
    let expected = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
    let read = |dialect, body: &str| values(plan(dialect).read(&plain(body), 2, &[], "7"));
    for data in ["[1,2,3,4,5,6]", "[[1,2,3],[4,5,6]]"] {
        let answer = format!(
            r#"{{"outputs":[{{"data":{data},"shape":[2,3],"datatype":"FP64","name":"logits","parameters":null}}],"model_version":null}}"#
        );
        assert_eq!(read(Dialect::OipHttp, &answer), expected);
    }
    assert_eq!(read(Dialect::TfServing, r#"{"outputs":{"embedding":[["x"]],"logits":[[1,2,3],[4,5,6]]}}"#), expected);
    assert_eq!(
        read(Dialect::KserveV1, r#"{"predictions":[{"logits":[1,2,3],"label":"x"},{"logits":[4,5,6]}]}"#),
        expected
    );
    let half: Vec<u8> =
        [1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0].iter().flat_map(|&v| half::f16::from_f32(v).to_le_bytes()).collect();
    let head =
        r#"{"outputs":[{"name":"logits","shape":[2,3],"datatype":"FP16","parameters":{"binary_data_size":12}}]}"#;
    let body = [head.as_bytes(), &half].concat();
    assert_eq!(values(plan(Dialect::OipHttp).read(&reply(Some(head.len()), &body), 2, &[], "7")), expected);
}

#[test]
fn answers_of_v1_that_are_no_scores_are_refused() {
    for body in [
        "[]",
        "{}",
        r#"{"outputs":[[1,2,3],[4,5,6]]}"#,
        r#"{"outputs":{"logits":[[1,2,3]]}}"#,
        r#"{"outputs":{"logits":[[1,2],[4,5]]}}"#,
        r#"{"outputs":{"logits":[["1","2","3"],["4","5","6"]]}}"#,
        r#"{"outputs":{"probabilities":[[1,2,3],[4,5,6]]}}"#,
    ] {
        let read = plan(Dialect::TfServing).read(&plain(body), 2, &[], "");
        assert!(matches!(read, Err(EngineError::Upstream(Fault::Answer(_)))), "{body}");
    }
    for body in
        [r#"{"predictions":[[1,2,3],[4,5,6]]}"#, r#"{"predictions":[{"logits":[1,2,3]},{}]}"#, r#"{"predictions":1}"#]
    {
        assert!(plan(Dialect::KserveV1).read(&plain(body), 2, &[], "").is_err(), "{body}");
    }
}

fn message(change: impl Fn(&mut ModelInferResponse)) -> Result<(RawScores, Passed), EngineError> {
    let mut answer = answer();
    change(&mut answer);
    plan(Dialect::OipGrpc).read(&reply(None, &answer.encode_to_vec()), 1, &[], "7")
}

fn answer() -> ModelInferResponse {
    let output = |name: &str, shape: &[i64]| InferOutputTensor {
        name: name.into(),
        datatype: "FP32".into(),
        shape: shape.to_vec(),
        ..Default::default()
    };
    let raw: Vec<u8> = [1.0_f32, 2.0, 3.0].iter().flat_map(|value| value.to_le_bytes()).collect();
    ModelInferResponse {
        model_version: "1".into(),
        id: "7".into(),
        outputs: vec![output("embedding", &[1, 8]), output("logits", &[1, 3])],
        raw_output_contents: vec![vec![0; 32].into(), raw.into()],
        ..Default::default()
    }
}

#[test]
fn messages_are_read_raw_or_typed_and_held_to_what_was_asked() {
    assert_eq!(values(message(|_| {})), [1.0, 2.0, 3.0]);
    let typed = message(|answer| {
        answer.raw_output_contents.clear();
        let contents = InferTensorContents { fp32_contents: vec![1.0, 2.0, 3.0], ..Default::default() };
        answer.outputs[1].contents = Some(contents);
    });
    assert_eq!(values(typed), [1.0, 2.0, 3.0]);
    // As MLServer does it.
    let beside = message(|answer| answer.outputs[1].contents = Some(InferTensorContents::default()));
    assert_eq!(values(beside), [1.0, 2.0, 3.0]);
    let wrong: [fn(&mut ModelInferResponse); 10] = [
        |answer| {
            answer.outputs[1].contents = Some(InferTensorContents { fp32_contents: vec![1.0], ..Default::default() })
        },
        |answer| answer.id = "8".into(),
        |answer| answer.model_version = "2".into(),
        |answer| answer.outputs[1].name = "probabilities".into(),
        |answer| answer.outputs[0].name = "logits".into(),
        |answer| answer.outputs[1].shape = vec![1, 4],
        |answer| answer.outputs[1].shape = vec![-1, 3],
        |answer| answer.outputs[1].datatype = "BYTES".into(),
        |answer| drop(answer.raw_output_contents.pop()),
        |answer| answer.raw_output_contents[1] = vec![0; 8].into(),
    ];
    for (position, change) in wrong.iter().enumerate() {
        assert!(matches!(message(change), Err(EngineError::Upstream(Fault::Answer(_)))), "{position}");
    }
    let nan = message(|answer| answer.raw_output_contents[1] = f32::NAN.to_le_bytes().repeat(3).into());
    assert!(matches!(nan, Err(EngineError::Scores(_))));
}

/// What an answer says beside the scores costs a few bytes to send and some hundred to hold.
#[test]
fn what_an_answer_may_hold_is_counted_before_it_is_made() {
    let many = 5_000;
    let crowds: [fn(&mut ModelInferResponse, usize); 4] = [
        |answer, many| answer.outputs.extend(vec![InferOutputTensor::default(); many]),
        |answer, many| answer.raw_output_contents.extend(vec![Bytes::new(); many]),
        |answer, many| answer.outputs[0].shape = vec![1; 10 * many],
        |answer, many| answer.outputs[1].shape = vec![1; 10 * many],
    ];
    for (position, crowd) in crowds.into_iter().enumerate() {
        let error = message(|answer| crowd(answer, many)).unwrap_err().to_string();
        assert!(error.contains("more than"), "{position}: {error}");
    }
    // Strings and whole numbers of other outputs are passed over.
    let label = message(|answer| {
        let raw = answer.raw_output_contents.pop().unwrap();
        answer.raw_output_contents.clear();
        let fp32_contents = raw.as_chunks().0.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect();
        answer.outputs[1].contents = Some(InferTensorContents { fp32_contents, ..Default::default() });
        let bytes_contents = vec![Bytes::new(); 100_000];
        answer.outputs[0].contents = Some(InferTensorContents { bytes_contents, ..Default::default() });
    });
    assert_eq!(values(label), [1.0, 2.0, 3.0]);

    let json = |more: &str, data: &str| {
        let text =
            format!(r#"{{"outputs":[{more}{{"name":"logits","datatype":"FP32","shape":[1,3],"data":{data}}}]}}"#);
        plan(Dialect::OipHttp).read(&plain(&text), 1, &[], "7")
    };
    let small = r#"{"name":"","datatype":"","shape":[]},"#;
    assert_eq!(values(json(small, "[1,2,3]")), [1.0, 2.0, 3.0]);
    assert!(json(&small.repeat(many), "[1,2,3]").is_err());
    assert!(json(&format!(r#"{{"name":"","datatype":"","shape":[{}1]}},"#, "1,".repeat(16)), "[1,2,3]").is_err());
    assert!(json(&format!(r#"{{"name":"{}","datatype":"","shape":[]}},"#, "x".repeat(many)), "[1,2,3]").is_err());
    assert!(json("", &format!("[1,2,3{}]", ",4".repeat(many))).is_err());
    // Another output may be as long as it likes: its numbers are not kept.
    let long = format!(r#"{{"data":[1{}],"name":"e","datatype":"FP32","shape":[1]}},"#, ",4".repeat(many));
    assert_eq!(values(json(&long, "[1,2,3]")), [1.0, 2.0, 3.0]);
}

#[test]
fn tensorflow_serving_is_held_to_the_version_that_it_had_at_start() {
    let with = |versions: &[&str], declared_version: Option<&str>| {
        let versions = versions.iter().map(|&version| version.to_owned()).collect();
        let mut declared = declared(Dialect::TfServing);
        declared.version = declared_version.map(str::to_owned);
        Plan::new(&declared, Found { versions, ..found() }).map(|plan| plan.infer_path())
    };
    assert_eq!(with(&["3"], None).unwrap(), "/v1/models/clf/versions/3:predict");
    assert_eq!(with(&[], Some("3")).unwrap(), "/v1/models/clf/versions/3:predict");
    assert_eq!(with(&[], None), Err(PlanError::NoVersion));
    for (spec, expected) in [(r#"{"version":"12"}"#, vec!["12"]), (r#"{"version":12}"#, vec!["12"]), ("{}", vec![])] {
        let body = format!(
            r#"{{"model_spec":{spec},"metadata":{{"signature_def":{{"signature_def":{{"serving_default":{{}}}}}}}}}}"#
        );
        assert_eq!(metadata::tfserving(body.as_bytes(), "serving_default").unwrap().versions, expected);
    }
}

#[test]
fn damaged_answers_never_panic() {
    let head = r#"{"id":"7","outputs":[{"name":"logits","shape":[2,3],"datatype":"FP32","parameters":{"binary_data_size":24}}]}"#;
    let body = [head.as_bytes(), &[0; 24]].concat();
    let length = Some(head.len());
    let plan = plan(Dialect::OipHttp);
    assert!(plan.read(&reply(length, &body), 2, &[], "7").is_ok());
    for at in 0..body.len() {
        let mut damaged = body.clone();
        damaged[at] ^= 0x15;
        let _ = plan.read(&reply(length, &damaged), 2, &[], "7");
        let _ = plan.read(&reply(None, &damaged[..at]), 2, &[], "7");
        let _ = plan.read(&reply(Some(at), &body), 2, &[], "7");
    }
}

#[test]
fn faults_show_no_body() {
    let error = plan(Dialect::OipHttp).read(&plain(r#"{"outputs":"35.3125"}"#), 1, &[], "7").unwrap_err();
    assert!(!format!("{error} {error:?}").contains("35.3125"));
}
