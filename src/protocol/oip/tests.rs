//! The request and reply codec against its own rules. The bytes of whole requests and answers are in
//! `tests/golden`.

use ndarray::array;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::defence::{Defence, DefenceConfig, Form, Method, RawScores, ScoreKind};
use crate::protocol::OutputSpec;
use crate::tensor::{DType, Values};

const SENTINEL: &str = "777777";

fn spec(name: &str, dtype: DType, shape: &[Dim]) -> TensorSpec {
    TensorSpec { name: name.to_owned(), dtype, shape: shape.to_vec() }
}

fn model_of(inputs: Vec<TensorSpec>, n_classes: usize) -> ModelDescription {
    let output = |name: &str, form| OutputSpec { name: name.to_owned(), form };
    ModelDescription {
        name: "clf".to_owned(),
        version: "1".to_owned(),
        platform: "onnx_onnxv1".to_owned(),
        inputs,
        outputs: vec![output("logits", Form::LogProbabilities), output("probabilities", Form::Probabilities)],
        passed: Vec::new(),
        n_classes,
        labels: vec!["cat".to_owned(), "dog, small".to_owned()],
        properties: Default::default(),
    }
}

fn model() -> ModelDescription {
    model_of(vec![spec("x", DType::F32, &[Dim::Any, Dim::Fixed(2), Dim::Fixed(2)])], 2)
}

fn two_inputs() -> ModelDescription {
    let any = Dim::Any;
    model_of(vec![spec("a", DType::F32, &[any, Dim::Fixed(2)]), spec("b", DType::I16, &[any, Dim::Fixed(1)])], 2)
}

fn defended(scores: ndarray::Array2<f32>) -> Defended {
    let n_classes = scores.ncols();
    let config = DefenceConfig { method: Method::LabelOnly, top_k: None, digits: None };
    let defence = Defence::new(&config, None, ScoreKind::Logits, n_classes).unwrap();
    defence.apply(RawScores::new(scores, ScoreKind::Logits).unwrap()).unwrap()
}

fn decode(body: &str) -> Result<(Inputs, ReplyPlan), Refusal> {
    decode_infer(&model(), None, body.as_bytes())
}

fn request(data: &str) -> String {
    format!(r#"{{"inputs":[{{"name":"x","shape":[1,2,2],"datatype":"FP32","data":{data}}}]}}"#)
}

fn f32_values(inputs: &Inputs) -> Vec<f32> {
    match inputs.tensors()[0].values() {
        Values::F32(values) => values.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn nested_flat_and_half_nested_data_are_one_tensor() {
    for data in ["[1,2,3,4]", "[[1,2,3,4]]", "[[[1,2],[3,4]]]"] {
        assert_eq!(f32_values(&decode(&request(data)).unwrap().0), [1.0, 2.0, 3.0, 4.0], "{data}");
    }
    for data in ["[[1,2],[3,4]]", "[[1],[2],[3],[4]]", "[1,2,3]", "[[[1,2],[3]]]", "[[[[1,2],[3,4]]]]", "[]", "[[]]"] {
        let refusal = decode(&request(data)).unwrap_err();
        assert_eq!(refusal.status(), 400, "{data}: {refusal}");
    }
}

#[test]
fn the_order_of_the_keys_does_not_matter() {
    let body = r#"{"outputs":null,"extra":{"a":[1]},"inputs":[{"data":[1,2,3,4],"parameters":null,"extra":1,
        "datatype":"FP32","shape":[1,2,2],"name":"x"}],"id":"7"}"#;
    let (inputs, plan) = decode(body).unwrap();
    assert_eq!(f32_values(&inputs), [1.0, 2.0, 3.0, 4.0]);
    assert_eq!(plan.id.as_deref(), Some("7"));
}

#[test]
fn each_mistake_has_its_own_sentence() {
    let input = |fields: &str| format!(r#"{{"inputs":[{{{fields}}}]}}"#);
    let good = r#""name":"x","shape":[1,2,2],"datatype":"FP32""#;
    let with = |rest: &str| format!(r#"{{"inputs":[{{{good},"data":[1,2,3,4]}}]{rest}}}"#);
    for (body, word) in [
        (String::new(), "ends too early"),
        ("{bad".to_owned(), "malformed JSON"),
        ("[]".to_owned(), "must be a JSON object"),
        ("{}".to_owned(), "'inputs' is missing"),
        (r#"{"inputs":[]}"#.to_owned(), "missing 'x'"),
        (r#"{"inputs":{}}"#.to_owned(), "'inputs' must be an array"),
        (r#"{"inputs":[7]}"#.to_owned(), "array of objects"),
        (input(r#""shape":[1,2,2],"datatype":"FP32","data":[1]"#), "no 'name'"),
        (input(r#""name":"x","datatype":"FP32","data":[1]"#), "no 'shape'"),
        (input(r#""name":"x","shape":[1,2,2],"data":[1]"#), "no 'datatype'"),
        (input(good), "neither 'data' nor"),
        (input(&format!(r#"{good},"data":[1,2,3,4],"data":[1]"#)), "twice"),
        (input(&format!(r#"{good},"name":"x","data":[1,2,3,4]"#)), "twice"),
        (input(r#""name":"nope","shape":[1],"datatype":"FP32","data":[1]"#), "unexpected inference input 'nope'"),
        (input(r#""name":"x","shape":[1,2,2],"datatype":"BOGUS","data":[1,2,3,4]"#), "invalid datatype 'BOGUS'"),
        (
            input(r#""name":"x","shape":[1,2,2],"datatype":"FP64","data":[1,2,3,4]"#),
            "FP64, but model 'clf' expects FP32",
        ),
        (input(r#""name":"x","shape":[1,2,2],"datatype":"FP16","data":[1,2,3,4]"#), "FP16"),
        (input(r#""name":"x","shape":[1,2,2],"datatype":"BYTES","data":["a"]"#), "BYTES"),
        (input(r#""name":"x","shape":[1,4],"datatype":"FP32","data":[1,2,3,4]"#), "[-1,2,2]"),
        (input(r#""name":"x","shape":[0,2,2],"datatype":"FP32","data":[]"#), "[-1,2,2]"),
        (input(r#""name":"x","shape":[-1,2,2],"datatype":"FP32","data":[1,2,3,4]"#), "'shape' of an input must be"),
        (input(r#""name":"x","shape":[1.5],"datatype":"FP32","data":[1]"#), "'shape' of an input must be"),
        (input(r#""name":7,"shape":[1],"datatype":"FP32","data":[1]"#), "'name' of an input must be a string"),
        (request("[1,2,3,4,5]"), "array of shape [5]"),
        (request(r#"["a",2,3,4]"#), "must hold a number (FP32) at position 0"),
        (request("[1,2,NaN,4]"), "NaN and Infinity"),
        (request("[1,2,-Infinity,4]"), "NaN and Infinity"),
        (request("[1,2,3,1e39]"), "position 3 is not a finite number"),
        (request("[1,2,3,1e999]"), "out of range"),
        (request("[1,2,3,4]") + "x", "Inference-Header-Content-Length"),
        (with(r#","id":42"#), "'id' must be a string"),
        (with(r#","id":"a","id":"b""#), "twice"),
        (with(r#","parameters":7"#), "'parameters' must be an object"),
        (with(r#","parameters":{"binary_data_output":1}"#), "must be true or false"),
        (with(r#","parameters":{"triton_x":1}"#), "reserved"),
        (with(r#","parameters":{"sequence_id":1}"#), "no state"),
        (with(r#","parameters":{"mine":1}"#), "known here"),
        (
            with(r#","outputs":[{"name":"zz"}]"#),
            "unexpected inference output 'zz' for model 'clf', which has 'logits', 'probabilities'",
        ),
        (with(r#","outputs":[{"name":"logits"},{"name":"logits"}]"#), "twice"),
        (with(r#","outputs":[{}]"#), "no 'name'"),
        (with(r#","outputs":[{"name":"logits","parameters":{"shared_memory_region":"r"}}]"#), "shared memory"),
        (with(r#","outputs":[{"name":"logits","parameters":{"classification":0}}]"#), "from 1 to 1000000"),
        (with(r#","outputs":[{"name":"logits","parameters":{"classification":"3"}}]"#), "classification"),
        (with(r#","parameters":{"classification":3}"#), "classification"),
        (
            format!(r#"{{"inputs":[{{{good},"data":[1,2,3,4]}},{{{good},"data":[1,2,3,4]}}]}}"#),
            "more inputs than the 1",
        ),
        (format!(r#"{{"x":{}}}"#, "[".repeat(5000)), "malformed JSON"),
    ] {
        let refusal = decode(&body).map(|_| ()).unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::BadRequest);
        assert!(refusal.message.contains(word), "{body}\n  -> {refusal}\n  lacks {word}");
    }
}

#[test]
fn integers_and_booleans_read_as_their_type() {
    let read = |dtype: DType, data: &str| {
        let model = model_of(vec![spec("x", dtype, &[Dim::Any])], 2);
        let body = format!(r#"{{"inputs":[{{"name":"x","shape":[2],"datatype":"{dtype}","data":{data}}}]}}"#);
        decode_infer(&model, None, body.as_bytes()).map(|(inputs, _)| inputs.tensors()[0].values().clone())
    };
    assert!(read(DType::Bool, "[true,false]").unwrap() == Values::Bool(vec![true, false]));
    assert!(read(DType::U8, "[0,255]").unwrap() == Values::U8(vec![0, 255]));
    assert!(read(DType::I64, "[-9223372036854775808,1]").unwrap() == Values::I64(vec![i64::MIN, 1]));
    assert!(read(DType::U64, "[18446744073709551615,1]").unwrap() == Values::U64(vec![u64::MAX, 1]));
    assert!(read(DType::F64, "[0.1,1]").unwrap() == Values::F64(vec![0.1, 1.0]));
    assert!(read(DType::U8, "[0,256]").is_err() && read(DType::I8, "[1.5,1]").is_err());
    assert!(read(DType::Bool, "[1,0]").is_err() && read(DType::F32, "[true,1]").is_err());
}

/// A request whose inputs travel as raw bytes, in the order given.
fn binary_request(inputs: &[(&str, &str, &str, &[u8])], rest: &str) -> (String, Vec<u8>) {
    let list: Vec<String> = inputs
        .iter()
        .map(|(name, dtype, shape, raw)| {
            let size = raw.len();
            format!(
                r#"{{"name":"{name}","shape":{shape},"datatype":"{dtype}","parameters":{{"binary_data_size":{size}}}}}"#
            )
        })
        .collect();
    let mut body = format!(r#"{{"inputs":[{}]{rest}}}"#, list.join(",")).into_bytes();
    let length = body.len().to_string();
    inputs.iter().for_each(|input| body.extend_from_slice(input.3));
    (length, body)
}

fn le(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

#[test]
fn binary_inputs_are_taken_in_the_order_of_the_request() {
    let a = le(&[1.0, 2.0]);
    let b = [5_u8, 1];
    let (length, body) = binary_request(&[("b", "INT16", "[1,1]", &b), ("a", "FP32", "[1,2]", &a)], "");
    let (inputs, _) = decode_infer(&two_inputs(), Some(&length), &body).unwrap();
    assert_eq!(f32_values(&inputs), [1.0, 2.0]);
    assert!(*inputs.tensors()[1].values() == Values::I16(vec![261]));
}

#[test]
fn an_input_given_twice_is_refused() {
    let (length, body) = binary_request(&[("a", "FP32", "[1,2]", &[0; 8]), ("a", "FP32", "[1,2]", &[0; 8])], "");
    let refusal = decode_infer(&two_inputs(), Some(&length), &body).unwrap_err();
    assert_eq!(refusal.message, "input 'a' is given twice");
}

#[test]
fn rows_of_two_inputs_must_agree() {
    let (length, body) =
        binary_request(&[("b", "INT16", "[1,1]", &[0, 0]), ("a", "FP32", "[2,2]", &le(&[0.0; 4]))], "");
    let refusal = decode_infer(&two_inputs(), Some(&length), &body).unwrap_err();
    assert!(refusal.message.contains("rows"), "{refusal}");
}

#[test]
fn binary_bodies_of_a_wrong_length_are_refused() {
    let raw = le(&[1.0, 2.0, 3.0, 4.0]);
    let (length, body) = binary_request(&[("x", "FP32", "[1,2,2]", &raw)], "");
    let decode =
        |length: Option<&str>, body: &[u8]| decode_infer(&model(), length, body).map(|_| ()).unwrap_err().message;
    assert!(decode_infer(&model(), Some(&length), &body).is_ok());
    let short = decode(Some(&length), &body[..body.len() - 4]);
    assert!(short.contains("expecting 4 additional bytes"), "{short}");
    let mut long = body.clone();
    long.extend([0; 3]);
    assert!(decode(Some(&length), &long).contains("3 bytes after"), "{}", decode(Some(&length), &long));
    for header in ["abc", "-1", "+1", "", " 12", "1e2", "99999", "99999999999999999999999"] {
        let message = decode(Some(header), &body);
        assert!(message.contains("Inference-Header-Content-Length"), "{header}: {message}");
    }
    assert!(decode(None, &body).contains("Inference-Header-Content-Length"));
    assert!(decode(Some(&(length.parse::<usize>().unwrap() - 1).to_string()), &body).contains("malformed"));
    let (length, body) = binary_request(&[("x", "FP32", "[1,2,3]", &raw)], "");
    assert!(decode(Some(&length), &body).contains("takes 24 bytes, got 16"));
    let (length, body) = binary_request(&[("x", "FP32", "[9223372036854775807,9,9]", &raw)], "");
    assert!(decode(Some(&length), &body).contains("takes more bytes"));
    let nan = le(&[1.0, f32::NAN, 3.0, 4.0]);
    let (length, body) = binary_request(&[("x", "FP32", "[1,2,2]", &nan)], "");
    assert!(decode(Some(&length), &body).contains("position 1 is not a finite number"));
}

#[test]
fn header_length_zero_is_one_raw_row_and_answers_binary() {
    let raw = le(&[1.0, 2.0, 3.0, 4.0]);
    let (inputs, plan) = decode_infer(&model(), Some("0"), &raw).unwrap();
    assert_eq!(f32_values(&inputs), [1.0, 2.0, 3.0, 4.0]);
    assert_eq!(inputs.n_rows(), 1);
    assert!(plan.id.is_none() && plan.outputs.len() == 2 && plan.outputs.iter().all(|output| output.binary));
    for wrong in [&raw[..12], &[][..], &[0; 32]] {
        assert!(decode_infer(&model(), Some("0"), wrong).unwrap_err().message.contains("one row"));
    }
    assert!(decode_infer(&two_inputs(), Some("0"), &raw).unwrap_err().message.contains("one input"));
    let open = model_of(vec![spec("x", DType::F32, &[Dim::Any, Dim::Any])], 2);
    assert!(decode_infer(&open, Some("0"), &raw).unwrap_err().message.contains("one row"));
}

#[test]
fn outputs_come_in_the_order_and_form_asked_for() {
    let ask = |rest: &str| {
        let body = format!(r#"{{"inputs":[{{"name":"x","shape":[1,2,2],"datatype":"FP32","data":[1,2,3,4]}}]{rest}}}"#);
        let (_, plan) = decode(&body).unwrap();
        let forms: Vec<(usize, bool)> = plan.outputs.iter().map(|output| (output.index, output.binary)).collect();
        forms
    };
    assert_eq!(ask(""), [(0, false), (1, false)]);
    assert_eq!(ask(r#","outputs":[]"#), [(0, false), (1, false)]);
    assert_eq!(ask(r#","parameters":{"binary_data_output":true}"#), [(0, true), (1, true)]);
    assert_eq!(ask(r#","outputs":[{"name":"probabilities"},{"name":"logits"}]"#), [(1, false), (0, false)]);
    let mixed = r#","parameters":{"binary_data_output":true,"timeout":5,"priority":1},
        "outputs":[{"name":"probabilities"},{"name":"logits","parameters":{"binary_data":false}}]"#;
    assert_eq!(ask(mixed), [(1, true), (0, false)]);
}

#[test]
fn a_reply_echoes_the_id_and_stays_silent_without_one() {
    let scores = defended(array![[0.0, 1.0]]);
    let plan = |id: Option<&str>| ReplyPlan {
        id: id.map(str::to_owned),
        timeout: None,
        passed: Passed::default(),
        outputs: vec![PlannedOutput { index: 1, binary: false, classes: None }],
    };
    let answer = encode_infer(&model(), plan(Some("a\"\u{1F600}\n")), &scores);
    let text = String::from_utf8(answer.into_body()).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["id"], "a\"\u{1F600}\n");
    let answer = encode_infer(&model(), plan(None), &scores);
    assert_eq!(
        String::from_utf8(answer.into_body()).unwrap(),
        r#"{"model_name":"clf","model_version":"1","outputs":[{"name":"probabilities","datatype":"FP32","shape":[1,2],"data":[0.0,1.0]}]}"#
    );
}

#[test]
fn binary_outputs_follow_the_json_part_in_order() {
    let scores = defended(array![[0.0, 1.0], [3.0, -1.0]]);
    let outputs = vec![
        PlannedOutput { index: 1, binary: true, classes: None },
        PlannedOutput { index: 0, binary: true, classes: None },
    ];
    let answer =
        encode_infer(&model(), ReplyPlan { id: None, timeout: None, passed: Passed::default(), outputs }, &scores);
    let (json, raw) = answer.body().split_at(answer.header_length().unwrap());
    let json: Value = serde_json::from_slice(json).unwrap();
    assert_eq!(json["outputs"][0]["parameters"], json!({"binary_data_size": 16}));
    assert!(json["outputs"][0].get("data").is_none());
    let expected: Vec<f32> = scores.probabilities().iter().chain(scores.log_probabilities().iter()).copied().collect();
    assert_eq!(raw, le(&expected));
}

#[test]
fn metadata_tell_shapes_forms_and_labels() {
    let json: Value = serde_json::from_slice(&model_metadata(&model(), &["1"])).unwrap();
    assert_eq!(json["versions"], json!(["1"]));
    assert_eq!(json["inputs"], json!([{"name": "x", "datatype": "FP32", "shape": [-1, 2, 2]}]));
    assert_eq!(json["outputs"][0], json!({"name": "logits", "datatype": "FP32", "shape": [-1, 2]}));
    assert_eq!(json["properties"]["labels"], r#"["cat","dog, small"]"#);
    assert!(json["properties"]["output.logits"].as_str().unwrap().starts_with("log_probabilities"));
}

#[test]
fn refusals_hold_no_value() {
    for body in [
        request(&format!("[\"{SENTINEL}\",1,2,3]")),
        request(&format!("[{SENTINEL},1,2]")),
        request(&format!("[{SENTINEL},[1],2]")),
        request(&format!("{{\"{SENTINEL}\":1}}")),
        request(&format!("[{SENTINEL},1,2,3")),
        request(&format!("[{SENTINEL},NaN,2,3]")),
        request(&format!("[{SENTINEL}e400,1,2,3]")),
        request(&format!("[{SENTINEL}e35,1,2,3]")),
        request(SENTINEL),
        request(&format!("\"{SENTINEL}\"")),
        format!(r#"{{"inputs":"{SENTINEL}"}}"#),
        format!(r#"{{"inputs":[{SENTINEL}]}}"#),
        format!("\"{SENTINEL}\""),
        SENTINEL.to_owned(),
        format!(r#"{{"id":{SENTINEL}}}"#),
    ] {
        let refusal = decode(&body).map(|_| ()).unwrap_err();
        assert!(!refusal.message.contains(SENTINEL), "{body}: {refusal}");
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(body in proptest::collection::vec(any::<u8>(), 0..300), header in "[0-9]{0,3}|[ -~]{0,5}") {
        let _ = decode_infer(&model(), None, &body);
        let _ = decode_infer(&model(), Some(&header), &body);
        let _ = decode_infer(&two_inputs(), Some(&header), &body);
    }

    #[test]
    fn damaged_requests_never_panic(at in 0_usize..200, byte in any::<u8>(), cut in 0_usize..200, header in 0_usize..220) {
        let (_, mut body) = binary_request(&[("x", "FP32", "[1,2,2]", &[0; 16])], r#","outputs":[{"name":"logits"}],"id":"q""#);
        let at = at % body.len();
        body[at] = byte;
        body.truncate(body.len() - cut % body.len());
        let _ = decode_infer(&model(), Some(&header.to_string()), &body);
        let _ = decode_infer(&model(), None, &body);
    }

    #[test]
    fn json_text_of_any_shape_never_panics(text in r#"[\[\]{}:,"a-z0-9.eE+-]{0,80}"#) {
        let _ = decode(&text);
        let _ = decode(&request(&text));
    }

    #[test]
    fn binary_and_json_inputs_are_the_same(values in proptest::collection::vec(any::<f32>().prop_filter("finite", |v| v.is_finite()), 4)) {
        let json = request(&serde_json::to_string(&values).unwrap());
        let (length, body) = binary_request(&[("x", "FP32", "[1,2,2]", &le(&values))], "");
        let from_json = f32_values(&decode(&json).unwrap().0);
        let from_binary = f32_values(&decode_infer(&model(), Some(&length), &body).unwrap().0);
        prop_assert_eq!(&from_json, &from_binary);
        prop_assert_eq!(from_json, values);
    }

    #[test]
    fn numbers_in_a_reply_read_back_as_the_same_f32(value in any::<f32>().prop_filter("finite", |v| v.is_finite())) {
        let mut text = Vec::new();
        write_json(&mut text, &value);
        let text = String::from_utf8(text).unwrap();
        prop_assert_eq!(text.parse::<f32>().unwrap().to_bits(), value.to_bits());
    }
}
