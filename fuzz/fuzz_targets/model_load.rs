//! An ONNX file, loaded and tried on a row of zeros.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    sordino::engine::tract::TractEngine::load(bytes, &sordino::engine::LoadOptions::default()).ok();
});
