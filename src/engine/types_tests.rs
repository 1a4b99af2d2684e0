//! Models whose inputs are no floats of single precision, as exporters write them (`tests/fixtures/onnx`).

use half::{bf16, f16};
use ndarray::Array2;

use super::tract::TractEngine;
use super::{Engine as _, LoadOptions};
use crate::defence::{ScoreKind, offline};
use crate::tensor::{InputTensor, Inputs, Values};

macro_rules! fixture {
    ($name:literal) => {
        include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/onnx/", $name, ".onnx"))
    };
}

fn load(bytes: &[u8]) -> TractEngine {
    TractEngine::load(bytes, &LoadOptions::default()).unwrap()
}

/// Logits (R2) of two rows of eight values.
fn logits(engine: &TractEngine, values: Values) -> Array2<f32> {
    let input = InputTensor::new(&engine.spec().inputs[0], &[2, 8], values).unwrap();
    offline::logits(engine.infer(&Inputs::new(vec![input]).unwrap()).unwrap())
}

fn probabilities(logits: &Array2<f32>) -> Array2<f32> {
    let exponentials = logits.mapv(f32::exp);
    let sums = exponentials.sum_axis(ndarray::Axis(1)).insert_axis(ndarray::Axis(1));
    exponentials / sums
}

fn whole() -> Vec<i64> {
    (0..16).map(|index| 20 + 13 * index).collect()
}

/// As `a == b`, up to `tolerance`.
fn close(a: &Array2<f32>, b: &Array2<f32>, tolerance: f32) -> bool {
    a.dim() == b.dim() && a.iter().zip(b).all(|(a, b)| (a - b).abs() <= tolerance)
}

#[test]
fn the_same_numbers_in_other_element_types_are_answered_alike() {
    let bytes = load(fixture!("torch-mlp-uint8"));
    let short = load(fixture!("torch-mlp-int16"));
    let int = load(fixture!("torch-mlp-int32"));
    let answers = [
        logits(&bytes, Values::U8(whole().iter().map(|&value| value as u8).collect())),
        logits(&short, Values::I16(whole().iter().map(|&value| value as i16).collect())),
        logits(&int, Values::I32(whole().iter().map(|&value| value as i32).collect())),
    ];
    assert_eq!(answers[0], answers[1]);
    assert_eq!(answers[0], answers[2]);
    assert!(answers[0].iter().all(|score| score.is_finite()));
    assert!([bytes, short, int].iter().all(|engine| !engine.spec().row_by_row));
}

#[test]
fn half_precision_runs_in_single() {
    let rows: Vec<f32> = (0..16).map(|index| index as f32 / 8.0 - 1.0).collect();
    let half = load(fixture!("torch-mlp-half"));
    let found = probabilities(&logits(&half, Values::F16(rows.iter().map(|&value| f16::from_f32(value)).collect())));
    // ONNX Runtime 1.32 on the same file, in half precision.
    let expected =
        ndarray::array![[3.620e-03, 9.155e-01, 7.526e-02, 5.733e-03], [9.722e-01, 7.410e-04, 2.457e-02, 2.676e-03]];
    assert!(close(&found, &expected, 1e-3), "{found}");
    let brain = load(fixture!("torch-mlp-bfloat16"));
    let found = probabilities(&logits(&brain, Values::Bf16(rows.iter().map(|&value| bf16::from_f32(value)).collect())));
    assert!(close(&found, &expected, 0.02), "{found}");
}

#[test]
fn doubles_that_the_engine_cannot_run_are_computed_in_single_precision_and_told() {
    let engine = load(fixture!("torch-mlp-double"));
    assert!(engine.spec().how_decided.contains("doubles are computed in single precision"));
    let found =
        probabilities(&logits(&engine, Values::F64((0..16).map(|index| f64::from(index) / 8.0 - 1.0).collect())));
    // ONNX Runtime 1.32 on the same file, in doubles.
    let expected = ndarray::array![
        [3.6134379e-03, 9.1528609e-01, 7.5365837e-02, 5.7346328e-03],
        [9.7200306e-01, 7.4036299e-04, 2.4579104e-02, 2.6774742e-03]
    ];
    assert!(close(&found, &expected, 1e-6), "{found}");
    // Where the engine has all operators, doubles stay doubles.
    assert!(!load(fixture!("sklearn-mlp-double")).spec().how_decided.contains("single"));
}

#[test]
fn a_scaler_of_whole_numbers_is_what_it_is_defined_as() {
    let declared = LoadOptions { score_kind: Some(ScoreKind::Probabilities), ..LoadOptions::default() };
    let engine = TractEngine::load(fixture!("sklearn-scaled-int64"), &declared).unwrap();
    let found = probabilities(&logits(&engine, Values::I64(whole())));
    // ONNX Runtime 1.32 on the same file.
    let expected = ndarray::array![
        [2.8181023e-07, 4.3657497e-01, 3.5671556e-01, 2.0670922e-01],
        [8.1173831e-01, 7.7398159e-02, 1.0802483e-01, 2.8387283e-03]
    ];
    assert!(close(&found, &expected, 1e-5), "{found}");
}

#[test]
fn words_are_refused_with_the_name_of_the_input() {
    let error = TractEngine::load(fixture!("sklearn-words"), &LoadOptions::default()).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("'X' takes strings: expected numbers or booleans"), "{error}");
}
