//! TensorFlow Serving's answer, by columns.
#![no_main]

#[path = "upstream/plan.rs"]
mod plan;

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use sordino::engine::upstream::{Dialect, Plan, WireReply};

static PLAN: LazyLock<Plan> = LazyLock::new(|| plan::plan(Dialect::TfServing));

fuzz_target!(|body: &[u8]| {
    let reply = WireReply { body: body.to_vec().into(), ..WireReply::default() };
    plan::read(&PLAN, &reply, &[]);
});
