use serde_json::{Value, json};

use super::*;
use crate::defence::{Defence, DefenceConfig, Method, RawScores, ScoreKind};
use crate::protocol::OutputSpec;
use crate::tensor::{DType, Dim, Values};

fn model(inputs: &[(&str, DType, &[Dim])]) -> ModelDescription {
    let output = |name: &str, form| OutputSpec { name: name.to_owned(), form };
    let spec = |&(name, dtype, shape): &(&str, DType, &[Dim])| TensorSpec {
        name: name.to_owned(),
        dtype,
        shape: shape.to_vec(),
    };
    ModelDescription {
        name: "clf".to_owned(),
        version: "1".to_owned(),
        platform: "onnx_onnxv1".to_owned(),
        inputs: inputs.iter().map(spec).collect(),
        outputs: vec![output("logits", Form::LogProbabilities), output("probabilities", Form::Probabilities)],
        passed: Vec::new(),
        n_classes: 2,
        labels: Vec::new(),
        properties: Default::default(),
    }
}

fn one() -> ModelDescription {
    model(&[("x", DType::F32, &[Dim::Any, Dim::Fixed(2)])])
}

fn two() -> ModelDescription {
    model(&[("a", DType::F32, &[Dim::Any, Dim::Fixed(2)]), ("b", DType::I16, &[Dim::Any])])
}

#[test]
fn rows_and_columns_plain_and_named_are_one_tensor() {
    for body in [
        r#"{"instances":[[1,2],[3,4]]}"#,
        r#"{"signature_name":"serving_default","instances":[{"x":[1,2]},{"x":[3,4]}],"other":[{"deep":1}]}"#,
        r#"{"inputs":[[1,2],[3,4]]}"#,
        r#"{"inputs":{"x":[[1,2],[3,4]]}}"#,
    ] {
        let (inputs, _) = decode(&one(), body.as_bytes()).unwrap_or_else(|refusal| panic!("{body}: {refusal}"));
        assert!(inputs.tensors()[0].values() == &Values::F32(vec![1.0, 2.0, 3.0, 4.0]), "{body}");
        assert_eq!(inputs.n_rows(), 2);
    }
    for body in
        [r#"{"instances":[{"b":7,"a":[1,2]},{"a":[3,4],"b":8}]}"#, r#"{"inputs":{"b":[7,8],"a":[[1,2],[3,4]]}}"#]
    {
        let (inputs, _) = decode(&two(), body.as_bytes()).unwrap_or_else(|refusal| panic!("{body}: {refusal}"));
        assert!(inputs.tensors()[1].values() == &Values::I16(vec![7, 8]), "{body}");
    }
}

#[test]
fn each_mistake_has_its_own_sentence_and_no_value() {
    for (body, word) in [
        ("", "ends too early"),
        ("[]", "must be a JSON object"),
        ("{}", "'instances' or 'inputs'"),
        (r#"{"instances":[[1,2]],"inputs":[[1,2]]}"#, "not both"),
        (r#"{"instances":[[1,2]],"instances":[[1,2]]}"#, "twice"),
        (r#"{"instances":[[1,2],[3]]}"#, "ragged"),
        (r#"{"instances":[1,2]}"#, "unexpected shape"),
        (r#"{"instances":[]}"#, "unexpected shape"),
        (r#"{"instances":777777}"#, "must be an array"),
        (r#"{"instances":[["777777",1]]}"#, "position 0"),
        (r#"{"instances":[{"b64":"777777"}]}"#, "unexpected inference input 'b64'"),
        (r#"{"instances":[{"x":[1,2]},{"y":[777777]}]}"#, "lacks 'x'"),
        (r#"{"instances":[{"x":[1,2]},[777777,1]]}"#, "array where an object"),
        (r#"{"instances":[{"x":[1,2],"x":[777777,1]}]}"#, "twice"),
        (r#"{"instances":[[1,2]],"signature_name":777777}"#, "another type"),
        (r#"{"instances":[[1,2]],"signature_name":"nope"}"#, "signature 'nope'"),
        (r#"{"instances":[[1,1e39]]}"#, "not a finite number"),
        (r#"{"instances":[[1,NaN]]}"#, "malformed JSON"),
        (r#"{"instances":[[1,2]]}x"#, "malformed JSON"),
    ] {
        let refusal = decode(&one(), body.as_bytes()).unwrap_err();
        assert_eq!(refusal.status(), 400, "{body}");
        assert!(refusal.message.contains(word), "{body}: {refusal}");
        assert!(!refusal.message.contains("777777"), "{body}: {refusal}");
    }
    let refusal = decode(&two(), br#"{"instances":[[1,2]]}"#).unwrap_err();
    assert!(refusal.message.contains("must name them"), "{refusal}");
}

#[test]
fn a_reply_has_the_form_of_its_call_and_the_output_of_its_signature() {
    let config = DefenceConfig { method: Method::LabelOnly, top_k: None, digits: None };
    let defence = Defence::new(&config, None, ScoreKind::Logits, 2).unwrap();
    let scores = ndarray::array![[0.25_f32, 3.75], [9.5, -1.0]];
    let defended = defence.apply(RawScores::new(scores, ScoreKind::Logits).unwrap()).unwrap();
    let answer = |body: &str| -> Value {
        let (_, plan) = decode(&one(), body.as_bytes()).unwrap();
        serde_json::from_slice(encode(&one(), &plan, &defended).body()).unwrap()
    };
    let rows = json!([[0.0, 1.0], [1.0, 0.0]]);
    assert_eq!(answer(r#"{"instances":[[1,2],[3,4]]}"#), json!({ "predictions": rows }));
    assert_eq!(answer(r#"{"inputs":[[1,2],[3,4]]}"#), json!({ "outputs": rows }));
    let logs = answer(r#"{"instances":[[1,2],[3,4]],"signature_name":"logits"}"#);
    assert_eq!(logs["predictions"][0][1], 0.0);
}
