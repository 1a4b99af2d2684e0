//! Models whose inputs are no floats of single precision, as exporters write them (`tests/fixtures/onnx`).

use half::{bf16, f16};
use ndarray::Array2;

use super::on_each::{TOLERANCE, apart, load as load_on_each, onnx_runtime, probabilities};
use crate::defence::{ScoreKind, offline};
use crate::engine::tract::TractEngine;
use crate::engine::{self, Engine, EngineError, LoadOptions, Runtime};
use crate::tensor::{InputTensor, Inputs, Values};

/// The bundled classifier.
const BUNDLED: &[u8] = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/models/fashion_cnn.onnx"));

macro_rules! fixture {
    ($name:literal) => {
        include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/onnx/", $name, ".onnx"))
    };
}

fn load(bytes: &[u8]) -> TractEngine {
    TractEngine::load(bytes, &LoadOptions::default()).unwrap()
}

/// Logits (R2) of two rows of eight values.
fn logits(engine: &dyn Engine, values: Values) -> Array2<f32> {
    let input = InputTensor::new(&engine.spec().inputs[0], &[2, 8], values).unwrap();
    offline::logits(engine.infer(&Inputs::new(vec![input]).unwrap()).unwrap())
}

fn whole() -> Vec<i64> {
    (0..16).map(|index| 20 + 13 * index).collect()
}

#[test]
fn the_same_numbers_in_other_element_types_are_answered_alike() {
    let on_each = |bytes: &[u8]| load_on_each(bytes, &LoadOptions::default()).unwrap();
    let bytes = on_each(fixture!("torch-mlp-uint8"));
    let short = on_each(fixture!("torch-mlp-int16"));
    let int = on_each(fixture!("torch-mlp-int32"));
    let answers = [
        logits(&*bytes, Values::U8(whole().iter().map(|&value| value as u8).collect())),
        logits(&*short, Values::I16(whole().iter().map(|&value| value as i16).collect())),
        logits(&*int, Values::I32(whole().iter().map(|&value| value as i32).collect())),
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
    assert!(apart(&found, &expected) <= 1e-3, "{found}");
    let brain = load(fixture!("torch-mlp-bfloat16"));
    let found = probabilities(&logits(&brain, Values::Bf16(rows.iter().map(|&value| bf16::from_f32(value)).collect())));
    assert!(apart(&found, &expected) <= 0.02, "{found}");
}

#[test]
fn doubles_that_the_engine_cannot_run_are_computed_in_single_precision_and_told() {
    let engine = load(fixture!("torch-mlp-double"));
    assert!(engine.spec().how_decided.contains("doubles are computed in single precision"));
    let found =
        probabilities(&logits(&engine, Values::F64((0..16).map(|index| f64::from(index) / 8.0 - 1.0).collect())));
    // ONNX Runtime 1.32 on the same file, in doubles.
    let expected = ndarray::array![
        [0.003_613_44, 0.915_286, 0.075_365_8, 0.005_734_63],
        [0.972_003, 0.000_740_363, 0.024_579_1, 0.002_677_47]
    ];
    assert!(apart(&found, &expected) <= 1e-6, "{found}");
    // Where the engine has all operators, doubles stay doubles.
    assert!(!load(fixture!("sklearn-mlp-double")).spec().how_decided.contains("single"));
}

#[test]
fn a_scaler_of_whole_numbers_is_what_it_is_defined_as() {
    let declared = LoadOptions { score_kind: Some(ScoreKind::Probabilities), ..LoadOptions::default() };
    let engine = load_on_each(fixture!("sklearn-scaled-int64"), &declared).unwrap();
    let found = probabilities(&logits(&*engine, Values::I64(whole())));
    // ONNX Runtime 1.32 on the same file.
    let expected = ndarray::array![
        [2.818_1e-7, 0.436_575, 0.356_716, 0.206_709],
        [0.811_738, 0.077_398_2, 0.108_025, 0.002_838_73]
    ];
    assert!(apart(&found, &expected) <= 1e-5, "{found}");
}

#[test]
fn words_are_refused_with_the_name_of_the_input() {
    let error = TractEngine::load(fixture!("sklearn-words"), &LoadOptions::default()).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("'X' takes strings: expected numbers or booleans"), "{error}");
}

/// Every file that both engines run, with what a user declares of it and how far the probabilities may be apart.
const FILES: [(&str, &[u8], Option<ScoreKind>, f32); 24] = {
    const P: Option<ScoreKind> = Some(ScoreKind::Probabilities);
    [
        ("catboost-zipmap", fixture!("catboost-zipmap"), P, TOLERANCE),
        ("keras-softmax", fixture!("keras-softmax"), None, TOLERANCE),
        ("lightgbm", fixture!("lightgbm"), P, TOLERANCE),
        ("lightgbm-zipmap", fixture!("lightgbm-zipmap"), P, TOLERANCE),
        ("sklearn-columns", fixture!("sklearn-columns"), P, TOLERANCE),
        ("sklearn-forest", fixture!("sklearn-forest"), P, TOLERANCE),
        ("sklearn-forest-int64", fixture!("sklearn-forest-int64"), P, TOLERANCE),
        ("sklearn-logistic-zipmap", fixture!("sklearn-logistic-zipmap"), P, TOLERANCE),
        ("sklearn-mlp", fixture!("sklearn-mlp"), None, TOLERANCE),
        ("sklearn-mlp-double", fixture!("sklearn-mlp-double"), None, TOLERANCE),
        ("sklearn-scaled-int64", fixture!("sklearn-scaled-int64"), P, TOLERANCE),
        ("sklearn-scaled-logistic", fixture!("sklearn-scaled-logistic"), P, TOLERANCE),
        ("tf2onnx-softmax", fixture!("tf2onnx-softmax"), None, TOLERANCE),
        ("torch-conv-log-softmax", fixture!("torch-conv-log-softmax"), None, TOLERANCE),
        ("torch-dynamo-softmax", fixture!("torch-dynamo-softmax"), None, TOLERANCE),
        ("torch-embedding-int64", fixture!("torch-embedding-int64"), None, TOLERANCE),
        ("torch-linear-bool", fixture!("torch-linear-bool"), None, TOLERANCE),
        ("torch-mlp-double", fixture!("torch-mlp-double"), None, TOLERANCE),
        // In half precision there, in single here.
        ("torch-mlp-half", fixture!("torch-mlp-half"), None, 2e-3),
        ("torch-mlp-int16", fixture!("torch-mlp-int16"), None, TOLERANCE),
        ("torch-mlp-int32", fixture!("torch-mlp-int32"), None, TOLERANCE),
        ("torch-mlp-logits", fixture!("torch-mlp-logits"), None, TOLERANCE),
        ("torch-mlp-uint8", fixture!("torch-mlp-uint8"), None, TOLERANCE),
        ("xgboost", fixture!("xgboost"), P, TOLERANCE),
    ]
};

#[test]
fn both_engines_answer_the_files_of_other_tools_alike() {
    for (name, bytes, score_kind, tolerance) in FILES {
        let options = LoadOptions { score_kind, ..LoadOptions::default() };
        let tract = TractEngine::load(bytes, &options).unwrap_or_else(|error| panic!("{name}: {error}"));
        let Some(options) = onnx_runtime(&options) else { continue };
        let other = engine::load(bytes, &options).unwrap_or_else(|error| panic!("{name}: {error}"));
        let (ours, theirs) = (tract.spec(), other.spec());
        assert_eq!(
            (&ours.inputs, &ours.score_output, ours.n_classes),
            (&theirs.inputs, &theirs.score_output, theirs.n_classes)
        );
        assert_eq!((ours.score_kind, ours.row_by_row), (theirs.score_kind, theirs.row_by_row), "{name}");
        for rows in [0..1, 5..40] {
            let inputs = Inputs::made_up(&ours.inputs, rows, false).unwrap();
            let of = |engine: &dyn Engine| probabilities(&offline::logits(engine.infer(&inputs).unwrap()));
            let apart = apart(&of(&tract), &of(&*other));
            assert!(apart <= tolerance, "{name}: {apart}");
        }
    }
}

#[test]
fn both_engines_answer_the_bundled_model_alike() {
    let engine = load_on_each(BUNDLED, &LoadOptions::default()).unwrap();
    for rows in [0..1, 7..80] {
        engine.infer(&Inputs::made_up(&engine.spec().inputs, rows, false).unwrap()).unwrap();
    }
}

#[test]
fn a_library_that_cannot_be_used_is_an_error_that_names_it() {
    for library in ["/nowhere/libonnxruntime.so", "libm.so.6"] {
        let runtime = Runtime::OnnxRuntime { library: Some(library.into()), sessions: None };
        let options = LoadOptions { runtime, ..LoadOptions::default() };
        let error = engine::load(BUNDLED, &options).map(|_| ()).unwrap_err();
        assert!(matches!(error, EngineError::Library(_)), "{error}");
        if cfg!(feature = "onnxruntime") {
            assert!(error.to_string().contains(library), "{error}");
        } else {
            assert!(error.to_string().contains("feature `onnxruntime`"), "{error}");
        }
    }
}
