//! A recipe.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = std::str::from_utf8(bytes) {
        sordino::lab::recipe::Recipe::from_toml(text).ok();
    }
});
