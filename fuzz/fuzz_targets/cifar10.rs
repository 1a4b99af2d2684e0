//! A file of CIFAR-10's binary format.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    sordino::data::parse_cifar10(bytes).ok();
});
