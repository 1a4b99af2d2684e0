//! Another server's answer over REST: the first byte says how long a claimed JSON header is in quarters of the body, or that
//! there is none; the rest is the body. One output beside the scores passes.
#![no_main]

#[path = "upstream/plan.rs"]
mod plan;

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use sordino::engine::upstream::{Dialect, Plan, WireReply};

static PLAN: LazyLock<Plan> = LazyLock::new(|| plan::plan(Dialect::OipHttp));

fuzz_target!(|bytes: &[u8]| {
    let Some((&how, body)) = bytes.split_first() else { return };
    let header_length = match how % 6 {
        0 => None,
        5 => Some(how.to_string()),
        quarters => Some((body.len() * usize::from(quarters - 1) / 4).to_string()),
    };
    let reply = WireReply { header_length, body: body.to_vec().into(), ..WireReply::default() };
    plan::read(&PLAN, &reply, &[0]);
});
