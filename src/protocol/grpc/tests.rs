//! The messages against their rules. The type of an element, its field and its values are tried one against another.

use bytes::Bytes;
use prost::Message as _;

use super::infer::{decode_infer, encode_infer};
use super::messages::infer_parameter::ParameterChoice;
use super::messages::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use super::messages::{
    InferParameter, InferTensorContents, ModelInferRequest, ModelInferResponse, ModelStreamInferResponse,
};
use super::{read_target, stream_answer, stream_error};
use crate::defence::{Defence, DefenceConfig, Defended, Form, Method, RawScores, ScoreKind};
use crate::protocol::{ModelDescription, OutputSpec, Refusal};
use crate::tensor::{DType, Dim, Inputs, TensorSpec, Values};

fn model(dtype: DType) -> ModelDescription {
    let output = |name: &str, form| OutputSpec { name: name.to_owned(), form };
    ModelDescription {
        name: "clf".to_owned(),
        version: "1".to_owned(),
        platform: "onnx_onnxv1".to_owned(),
        inputs: vec![TensorSpec { name: "x".to_owned(), dtype, shape: vec![Dim::Any, Dim::Fixed(2)] }],
        outputs: vec![output("logits", Form::LogProbabilities), output("probabilities", Form::Probabilities)],
        passed: Vec::new(),
        n_classes: 3,
        labels: vec!["cat".to_owned(), "dog".to_owned(), "fox".to_owned()],
        properties: Default::default(),
    }
}

fn defended() -> Defended {
    let config = DefenceConfig { method: Method::LabelOnly, top_k: None, digits: None };
    let defence = Defence::new(&config, None, ScoreKind::Logits, 3).unwrap();
    defence.apply(RawScores::new(ndarray::array![[0.5_f32, 7.25, 1.0]], ScoreKind::Logits).unwrap()).unwrap()
}

fn typed(datatype: &str, contents: InferTensorContents) -> ModelInferRequest {
    ModelInferRequest {
        model_name: "clf".to_owned(),
        id: "q7".to_owned(),
        inputs: vec![InferInputTensor {
            name: "x".to_owned(),
            datatype: datatype.to_owned(),
            shape: vec![1, 2],
            contents: Some(contents),
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn floats(values: &[f32]) -> InferTensorContents {
    InferTensorContents { fp32_contents: values.to_vec(), ..Default::default() }
}

fn raw(values: &[f32]) -> ModelInferRequest {
    let mut request = typed("FP32", InferTensorContents::default());
    request.inputs[0].contents = None;
    request.raw_input_contents = vec![values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>().into()];
    request
}

fn read(dtype: DType, request: &ModelInferRequest) -> Result<Inputs, Refusal> {
    decode_infer(&model(dtype), request.encode_to_vec().into()).map(|(inputs, _)| inputs)
}

fn parameter(choice: ParameterChoice) -> InferParameter {
    InferParameter { parameter_choice: Some(choice) }
}

#[test]
fn raw_and_typed_contents_are_one_tensor() {
    for request in [raw(&[1.5, -2.0]), typed("FP32", floats(&[1.5, -2.0]))] {
        assert!(read(DType::F32, &request).unwrap().tensors()[0].values() == &Values::F32(vec![1.5, -2.0]));
    }
}

#[test]
fn every_element_type_is_read_from_its_own_field() {
    let contents = |fill: &dyn Fn(&mut InferTensorContents)| {
        let mut contents = InferTensorContents::default();
        fill(&mut contents);
        contents
    };
    for (dtype, contents, expected) in [
        (DType::Bool, contents(&|c| c.bool_contents = vec![true, false]), Values::Bool(vec![true, false])),
        (DType::I8, contents(&|c| c.int_contents = vec![-128, 127]), Values::I8(vec![-128, 127])),
        (DType::I16, contents(&|c| c.int_contents = vec![-300, 300]), Values::I16(vec![-300, 300])),
        (DType::I32, contents(&|c| c.int_contents = vec![-1, 1]), Values::I32(vec![-1, 1])),
        (DType::I64, contents(&|c| c.int64_contents = vec![-1, 1]), Values::I64(vec![-1, 1])),
        (DType::U8, contents(&|c| c.uint_contents = vec![0, 255]), Values::U8(vec![0, 255])),
        (DType::U16, contents(&|c| c.uint_contents = vec![0, 65_535]), Values::U16(vec![0, 65_535])),
        (DType::U32, contents(&|c| c.uint_contents = vec![0, 1]), Values::U32(vec![0, 1])),
        (DType::U64, contents(&|c| c.uint64_contents = vec![0, 1]), Values::U64(vec![0, 1])),
        (DType::F64, contents(&|c| c.fp64_contents = vec![0.5, 1.0]), Values::F64(vec![0.5, 1.0])),
    ] {
        let got = read(dtype, &typed(dtype.oip_name(), contents)).unwrap_or_else(|refusal| panic!("{refusal}"));
        assert!(got.tensors()[0].values() == &expected, "{dtype}");
    }
}

#[test]
fn each_mistake_has_its_own_sentence_and_no_value() {
    let mut cases: Vec<(ModelInferRequest, &str)> = Vec::new();
    let mut with = |request: ModelInferRequest, change: &dyn Fn(&mut ModelInferRequest), word| {
        let mut request = request;
        change(&mut request);
        cases.push((request, word));
    };
    let good = || typed("FP32", floats(&[777_777.0, 1.0]));
    with(good(), &|r| r.raw_input_contents = vec![Bytes::from_static(&[0; 8])], "must not be specified when using raw");
    with(raw(&[1.0, 2.0]), &|r| r.raw_input_contents.push(Bytes::new()), "for each of the 1 inputs, got 2");
    with(raw(&[1.0]), &|_| {}, "takes 8 bytes, got 4");
    with(raw(&[1.0, f32::NAN]), &|_| {}, "position 1 is not a finite");
    with(good(), &|r| r.inputs[0].contents = None, "neither contents nor");
    with(good(), &|r| r.inputs[0].name = "nope".to_owned(), "unexpected inference input 'nope'");
    with(good(), &|r| r.inputs[0].datatype = "FP64".to_owned(), "FP64, but model 'clf' expects FP32");
    with(good(), &|r| r.inputs[0].datatype = "BOGUS".to_owned(), "invalid datatype 'BOGUS'");
    with(good(), &|r| r.inputs[0].shape = vec![-1, 2], "whole numbers");
    with(good(), &|r| r.inputs[0].shape = vec![1, 3], "[-1,2]");
    with(good(), &|r| r.inputs[0].shape = vec![i64::MAX, 2], "its shape holds");
    with(good(), &|r| r.inputs.clear(), "missing 'x'");
    with(good(), &|r| r.inputs[0].shape = vec![1; 17], "has 17 sizes, expected at most 16");
    with(good(), &|r| r.raw_input_contents = vec![Bytes::new(); 2000], "holds more than 1024 parameters");
    with(good(), &|r| r.outputs = vec![InferRequestedOutputTensor::default(); 2000], "holds more than 1024 parameters");
    with(good(), &|r| r.inputs.push(r.inputs[0].clone()), "twice");
    with(good(), &|r| r.inputs[0].contents.as_mut().unwrap().fp64_contents.push(1.0), "fp64_contents holds values");
    with(good(), &|r| r.inputs[0].contents.as_mut().unwrap().fp32_contents.push(1.0), "holds 2 values, got 3");
    with(good(), &|r| r.id = "x".repeat(2000), "at most 1024 bytes");
    with(
        good(),
        &|r| r.outputs.push(InferRequestedOutputTensor { name: "zz".to_owned(), ..Default::default() }),
        "unexpected inference output 'zz'",
    );
    for (key, word) in [
        ("shared_memory_region", "shared memory"),
        ("sequence_id", "no state"),
        ("triton_final_response", "reserved"),
        ("headers", "known here"),
        ("raw_scores", "known here"),
    ] {
        let value = || parameter(ParameterChoice::StringParam("777777".to_owned()));
        with(good(), &|r| drop(r.parameters.insert(key.to_owned(), value())), word);
        with(good(), &|r| drop(r.inputs[0].parameters.insert(key.to_owned(), value())), word);
        let output = InferRequestedOutputTensor {
            name: "logits".to_owned(),
            parameters: [(key.to_owned(), value())].into_iter().collect(),
        };
        with(good(), &|r| r.outputs.push(output.clone()), word);
    }
    for (request, word) in cases {
        let refusal = read(DType::F32, &request).unwrap_err();
        assert!(refusal.message.contains(word), "{refusal} does not hold {word:?}");
        assert!(!refusal.message.contains("777777"), "{refusal}");
    }
    let narrow = InferTensorContents { int_contents: vec![1, 300], ..Default::default() };
    assert!(read(DType::I8, &typed("INT8", narrow)).unwrap_err().message.contains("position 1 is no INT8"));
    assert!(read_target(Bytes::from_static(&[0xff; 9])).is_err());
}

#[test]
fn a_reply_is_raw_and_holds_what_the_encoder_was_given() {
    let request = typed("FP32", floats(&[1.0, 2.0]));
    let (_, plan) = decode_infer(&model(DType::F32), request.encode_to_vec().into()).unwrap();
    let answer = encode_infer(&model(DType::F32), plan, &defended());
    let response = ModelInferResponse::decode(answer.body()).unwrap();
    assert_eq!(
        (response.id.as_str(), response.model_name.as_str(), response.model_version.as_str()),
        ("q7", "clf", "1")
    );
    assert!(response.outputs.iter().all(|output| output.contents.is_none() && output.shape == [1, 3]));
    let ones: Vec<u8> = [0.0_f32, 1.0, 0.0].iter().flat_map(|value| value.to_le_bytes()).collect();
    assert_eq!(response.raw_output_contents.len(), 2);
    assert_eq!(response.raw_output_contents[1], ones);
    let streamed = ModelStreamInferResponse::decode(&stream_answer(&answer)[..]).unwrap();
    assert_eq!(streamed, ModelStreamInferResponse { error_message: String::new(), infer_response: Some(response) });
    let refused = ModelStreamInferResponse::decode(&stream_error(&Refusal::bad_request("no"), "q7")[..]).unwrap();
    assert_eq!(refused.error_message, "no");
}

#[test]
fn a_classification_holds_defended_values_and_as_many_strings_in_every_row() {
    let mut request = raw(&[1.0, 2.0]);
    request.outputs = vec![InferRequestedOutputTensor {
        name: "probabilities".to_owned(),
        parameters: [("classification".to_owned(), parameter(ParameterChoice::Int64Param(2)))].into_iter().collect(),
    }];
    let (_, plan) = decode_infer(&model(DType::F32), request.encode_to_vec().into()).unwrap();
    let answer = encode_infer(&model(DType::F32), plan, &defended());
    let response = ModelInferResponse::decode(answer.body()).unwrap();
    assert_eq!((response.outputs[0].datatype.as_str(), &response.outputs[0].shape[..]), ("BYTES", &[1, 2][..]));
    assert_eq!(&response.raw_output_contents[0][..], b"\x0e\0\0\x001.000000:1:dog\x0e\0\0\x000.000000:0:cat");
    for wanted in [0, -1, i64::MAX] {
        request.outputs[0]
            .parameters
            .insert("classification".to_owned(), parameter(ParameterChoice::Int64Param(wanted)));
        assert!(read(DType::F32, &request).is_err(), "{wanted}");
    }
}
