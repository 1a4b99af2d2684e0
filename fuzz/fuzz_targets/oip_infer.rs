//! An inference request: the first byte says how long a claimed JSON header is in quarters of the body, or that
//! there is none; the rest is the body.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use sordino::pipeline::{Parts, Pipeline};
use sordino::protocol::oip;

static PIPELINE: LazyLock<Pipeline> = LazyLock::new(|| Parts::bundled().assemble().expect("the bundled parts fit"));

fuzz_target!(|bytes: &[u8]| {
    let Some((&how, body)) = bytes.split_first() else { return };
    let header = match how % 6 {
        0 => None,
        5 => Some(how.to_string()),
        quarters => Some((body.len() * usize::from(quarters - 1) / 4).to_string()),
    };
    oip::decode_infer(PIPELINE.description(), header.as_deref(), body).ok();
});
