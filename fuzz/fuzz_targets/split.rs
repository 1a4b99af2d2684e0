//! A split file.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    sordino::data::Split::from_bytes(bytes).ok();
});
