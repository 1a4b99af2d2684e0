//! A Parquet table.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    sordino::data::parse_parquet(bytes).ok();
});
