//! The plan by which the answers of another server are read: three classes of logits, and one more output.

use std::collections::BTreeMap;

use sordino::defence::ScoreKind;
use sordino::engine::upstream::metadata::Found;
use sordino::engine::upstream::{Declared, Dialect, OutputRule, Plan, WireReply};
use sordino::tensor::{DType, Dim, TensorSpec};

fn spec(name: &str, size: usize) -> TensorSpec {
    TensorSpec { name: name.to_owned(), dtype: DType::F32, shape: vec![Dim::Any, Dim::Fixed(size)] }
}

/// The further output passes where the dialect has raw tensors, and is dropped where it has none.
pub fn plan(dialect: Dialect) -> Plan {
    let passes = matches!(dialect, Dialect::OipGrpc | Dialect::OipHttp);
    let rule = if passes { OutputRule::Pass } else { OutputRule::Drop };
    let declared = Declared {
        dialect,
        model: "clf".to_owned(),
        version: (dialect == Dialect::TfServing).then(|| "1".to_owned()),
        score_output: Some("logits".to_owned()),
        score_kind: Some(ScoreKind::Logits),
        n_classes: Some(3),
        inputs: Vec::new(),
        rules: BTreeMap::from([("e".to_owned(), rule)]),
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
}

/// Reads one answer as that to one row, and as that to two.
pub fn read(plan: &Plan, reply: &WireReply, passed: &[usize]) {
    for n_rows in [1, 2] {
        plan.read(reply, n_rows, passed, "7").ok();
    }
}
