//! The weights of a network.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let device = sordino::lab::device::Device::Cpu.open().expect("the processor is there");
    sordino::lab::network::Network::from_safetensors(bytes, &device.evaluation()).ok();
});
