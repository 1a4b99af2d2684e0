//! The body of a `:predict`.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use sordino::pipeline::{Parts, Pipeline};
use sordino::protocol::{Call, decode};

static PIPELINE: LazyLock<Pipeline> = LazyLock::new(|| Parts::bundled().assemble().expect("the bundled parts fit"));

fuzz_target!(|body: &[u8]| {
    decode(PIPELINE.description(), Call::Predict(body)).ok();
});
