//! A settings file of `sordino serve`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = std::str::from_utf8(bytes) {
        sordino::cli::serve::check_settings(text).ok();
    }
});
