//! Two NumPy arrays, rows and labels; the first byte says where the one ends.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((&share, bytes)) = bytes.split_first() else { return };
    let (features, labels) = bytes.split_at(bytes.len() * usize::from(share) / 255);
    sordino::data::parse_npy(features, labels).ok();
});
