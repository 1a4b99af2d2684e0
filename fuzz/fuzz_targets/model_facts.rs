//! What an ONNX file declares.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    sordino::engine::tract::graph_facts(bytes).ok();
});
