//! A Parquet table. A panic inside of the parquet crate is caught and told as an error: libFuzzer's own hook, which ends the
//! process at every panic, is taken off, so that what is not caught still ends it.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(init: { std::panic::set_hook(Box::new(|_| {})); }, |bytes: &[u8]| {
    sordino::data::parse_parquet(bytes).ok();
});
