//! What another server says of itself and of its model, before it is asked for scores.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sordino::engine::upstream::metadata;

fuzz_target!(|body: &[u8]| {
    metadata::oip(body, true).ok();
    metadata::tfserving(body, "serving_default").ok();
    let _ = metadata::has_extension(body, "binary_tensor_data");
    let _ = metadata::v1_is_ready(body);
});
