//! An IDX file, as Fashion-MNIST comes in.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    sordino::data::parse_idx(bytes).ok();
});
