//! An ONNX file, loaded and tried on a row of zeros. A panic inside of tract is caught and told as an error: libFuzzer's own
//! hook, which ends the process at every panic, is taken off, so that what is not caught still ends it.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(init: { std::panic::set_hook(Box::new(|_| {})); }, |bytes: &[u8]| {
    sordino::engine::tract::TractEngine::load(bytes, &sordino::engine::LoadOptions::default()).ok();
});
