//! TensorFlow Serving's answer, by columns.
#![no_main]

use std::collections::BTreeMap;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use sordino::defence::ScoreKind;
use sordino::engine::upstream::metadata::Found;
use sordino::engine::upstream::{Declared, Dialect, OutputRule, Plan, WireReply};
use sordino::tensor::{DType, Dim, TensorSpec};

fn spec(name: &str, size: usize) -> TensorSpec {
    TensorSpec { name: name.to_owned(), dtype: DType::F32, shape: vec![Dim::Any, Dim::Fixed(size)] }
}

static PLAN: LazyLock<Plan> = LazyLock::new(|| {
    let declared = Declared {
        dialect: Dialect::TfServing,
        model: "clf".to_owned(),
        version: Some("1".to_owned()),
        score_output: Some("logits".to_owned()),
        score_kind: Some(ScoreKind::Logits),
        n_classes: Some(3),
        inputs: Vec::new(),
        rules: BTreeMap::from([("e".to_owned(), OutputRule::Drop)]),
        binary: None,
        signature: None,
    };
    let found = Found {
        inputs: vec![spec("x", 2)],
        outputs: vec![spec("logits", 3), spec("e", 4)],
        binary: true,
        ..Found::default()
    };
    Plan::new(&declared, found).expect("the model can be served as declared")
});

fuzz_target!(|body: &[u8]| {
    let reply = WireReply { body: body.to_vec().into(), ..WireReply::default() };
    for n_rows in [1, 2] {
        PLAN.read(&reply, n_rows, &[], "7").ok();
    }
});
