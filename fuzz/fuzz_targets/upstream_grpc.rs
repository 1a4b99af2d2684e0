//! Another server's answer over gRPC: an encoded `inference.ModelInferResponse`. One output beside the scores passes.
#![no_main]

#[path = "upstream/plan.rs"]
mod plan;

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use sordino::engine::upstream::{Dialect, Plan, WireReply};

static PLAN: LazyLock<Plan> = LazyLock::new(|| plan::plan(Dialect::OipGrpc));

fuzz_target!(|body: &[u8]| {
    let reply = WireReply { body: body.to_vec().into(), ..WireReply::default() };
    plan::read(&PLAN, &reply, &[0]);
});
