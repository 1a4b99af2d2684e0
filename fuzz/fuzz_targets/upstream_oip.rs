//! Another server's answer over REST: the first byte says how long a claimed JSON header is in quarters of the body, or that
//! there is none; the rest is the body. One output beside the scores passes.
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
        dialect: Dialect::OipHttp,
        model: "clf".to_owned(),
        version: None,
        score_output: Some("logits".to_owned()),
        score_kind: Some(ScoreKind::Logits),
        n_classes: Some(3),
        inputs: Vec::new(),
        rules: BTreeMap::from([("e".to_owned(), OutputRule::Pass)]),
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

fuzz_target!(|bytes: &[u8]| {
    let Some((&how, body)) = bytes.split_first() else { return };
    let header_length = match how % 6 {
        0 => None,
        5 => Some(how.to_string()),
        quarters => Some((body.len() * usize::from(quarters - 1) / 4).to_string()),
    };
    let reply = WireReply { header_length, body: body.to_vec().into(), ..WireReply::default() };
    for n_rows in [1, 2] {
        PLAN.read(&reply, n_rows, &[0], "7").ok();
    }
});
