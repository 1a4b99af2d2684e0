//! A table of predictions.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    sordino::audit::source::predictions::Columns::parse_csv(bytes).ok();
});
