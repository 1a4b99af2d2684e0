//! A centroid file.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    sordino::artifact::centroids::read(bytes).ok();
});
