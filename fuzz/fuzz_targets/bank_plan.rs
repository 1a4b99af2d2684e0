//! The plan of a bank.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    sordino::lab::bank::plan::Plan::from_bytes(bytes).ok();
});
