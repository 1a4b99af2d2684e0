//! Names, errors and the guard. That a driver computes what the CPU does is in `tests/lab_gpu.rs`.

use super::*;

fn error(text: &str) -> String {
    text.parse::<Device>().unwrap_err()
}

#[test]
fn a_device_is_read_as_it_is_written() {
    for (text, device) in [("cpu", Device::Cpu), ("vulkan:3", Device::Vulkan(3)), ("cuda:0", Device::Cuda(0))] {
        assert_eq!(text.parse::<Device>().unwrap(), device);
        assert_eq!(device.to_string(), text);
        let json = serde_json::to_string(&device).unwrap();
        assert_eq!(json, format!("\"{text}\""));
        assert_eq!(serde_json::from_str::<Device>(&json).unwrap(), device);
    }
    assert_eq!("vulkan".parse::<Device>().unwrap(), Device::Vulkan(0));
    assert_eq!("cuda".parse::<Device>().unwrap(), Device::Cuda(0));
    assert_eq!(Device::default(), Device::Cpu);
}

#[test]
fn a_wrong_name_is_refused_with_the_right_ones() {
    for text in ["", "gpu", "CPU", "cpu:0", "metal:1", "cuda0"] {
        assert!(error(text).contains("expected cpu, vulkan, vulkan:N, cuda or cuda:N"), "{text}: {}", error(text));
    }
    for text in ["cuda:", "cuda:-1", "cuda:+1", "vulkan:x", "vulkan:65536", "cuda:1:2"] {
        assert!(error(text).contains("expected a number"), "{text}: {}", error(text));
    }
}

#[test]
fn the_processor_opens_computes_and_is_listed_first() {
    let open = Device::Cpu.open().unwrap();
    assert_eq!(open.device(), Device::Cpu);
    assert!(!open.name().is_empty());
    assert_eq!(open.training(), open.evaluation());
    let survey = survey();
    assert_eq!(survey.devices[0].device, Device::Cpu);
    assert!(survey.devices[0].driver.starts_with("burn-flex, "));
}

#[test]
fn every_kind_is_listed_or_has_a_reason() {
    let survey = survey();
    for kind in [Kind::Vulkan, Kind::Cuda] {
        let listed = survey.devices.iter().any(|found| found.device.kind() == kind);
        let reason = survey.unavailable.iter().find(|missing| missing.kind == kind);
        assert_ne!(listed, reason.is_some(), "{kind}");
        assert!(reason.is_none_or(|missing| !missing.reason.is_empty()));
    }
}

#[cfg(not(feature = "vulkan"))]
#[test]
fn a_kind_left_out_of_the_build_names_its_feature() {
    let error = Device::Vulkan(0).open().unwrap_err().to_string();
    assert!(error.starts_with("vulkan:0: this binary was built without the feature 'vulkan'"), "{error}");
}

#[test]
fn a_panic_of_a_driver_becomes_an_error_that_names_device_and_work() {
    let open = Device::Cpu.open().unwrap();
    let error = open.guard("a test", || panic!("the driver\n  is {}", "gone")).unwrap_err().to_string();
    assert!(error.starts_with("cpu (") && error.ends_with("failed during a test: the driver is gone"), "{error}");
    assert_eq!(open.guard("a test", || 7).unwrap(), 7);
}

#[test]
fn a_number_beyond_the_last_device_says_how_many_there_are() {
    assert_eq!(too_few(1), "there is 1 such device, numbered 0");
    assert_eq!(too_few(3), "there are 3 such devices, numbered 0 to 2");
}

#[test]
fn the_loader_is_asked_for_whole_names() {
    assert!(!probe::loader_finds("libno-such-driver.so.1"));
}
