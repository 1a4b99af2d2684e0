//! The weights of a network.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use sordino::lab::device::{Device, OpenDevice};
use sordino::lab::network::Network;

static DEVICE: LazyLock<OpenDevice> = LazyLock::new(|| Device::Cpu.open().expect("the processor is there"));

fuzz_target!(|bytes: &[u8]| {
    Network::from_safetensors(bytes, &DEVICE.evaluation()).ok();
});
