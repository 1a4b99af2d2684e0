//! A table of text.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    sordino::data::parse_table(bytes).ok();
});
