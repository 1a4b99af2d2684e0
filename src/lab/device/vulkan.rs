//! Vulkan devices, through wgpu's list and burn's Vulkan backend.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use burn::DispatchDevice;
use burn::backend::wgpu::WgpuDevice;
use wgpu::{Adapter, AdapterInfo, Backends, DeviceType, Instance, InstanceDescriptor};

use super::{Device, Found, OpenDevice, guard, probe};

const LOADER: &str = "libvulkan.so.1";

/// The usable adapters, best sort first, each with burn's name of it.
fn adapters() -> Result<Vec<(AdapterInfo, WgpuDevice)>, String> {
    let found = guard::catch(enumerate)??;
    let mut numbered: Vec<(AdapterInfo, WgpuDevice)> = Vec::new();
    for sort in [DeviceType::DiscreteGpu, DeviceType::IntegratedGpu, DeviceType::VirtualGpu, DeviceType::Cpu] {
        let of_sort = found.iter().map(Adapter::get_info).filter(|info| info.device_type == sort);
        numbered.extend(of_sort.enumerate().filter_map(|(place, info)| Some((info, burn_name(sort, place)?))));
    }
    if !numbered.is_empty() {
        return Ok(numbered);
    }
    Err(if probe::loader_finds(LOADER) {
        format!(
            "the loader {LOADER} is here, but no driver offers a device: install the GPU's, or the package \
             mesa-vulkan-drivers for one in software"
        )
    } else {
        format!("the loader {LOADER} was not found (Debian, Ubuntu: package libvulkan1), so no driver can be asked")
    })
}

/// Burn counts each sort of adapter on its own, and knows one in software.
fn burn_name(sort: DeviceType, place: usize) -> Option<WgpuDevice> {
    match sort {
        DeviceType::DiscreteGpu => Some(WgpuDevice::DiscreteGpu(place)),
        DeviceType::IntegratedGpu => Some(WgpuDevice::IntegratedGpu(place)),
        DeviceType::VirtualGpu => Some(WgpuDevice::VirtualGpu(place)),
        DeviceType::Cpu if place == 0 => Some(WgpuDevice::Cpu),
        DeviceType::Cpu | DeviceType::Other => None,
    }
}

fn enumerate() -> Result<Vec<Adapter>, String> {
    let descriptor =
        InstanceDescriptor { backends: Backends::VULKAN, ..InstanceDescriptor::new_without_display_handle() };
    let instance = Instance::new(descriptor);
    let adapters = pin!(instance.enumerate_adapters(Backends::VULKAN));
    // Off the web the list is there at once: asynchronous in its type alone.
    match adapters.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(adapters) => Ok(adapters),
        Poll::Pending => Err("the driver gave no list of devices".to_owned()),
    }
}

fn sort(device_type: DeviceType) -> &'static str {
    match device_type {
        DeviceType::DiscreteGpu => "discrete GPU",
        DeviceType::IntegratedGpu => "integrated GPU",
        DeviceType::VirtualGpu => "virtual GPU",
        DeviceType::Cpu => "software",
        DeviceType::Other => "other",
    }
}

/// The devices with their numbers.
pub(super) fn list() -> Result<Vec<Found>, String> {
    let found = |(index, (info, _)): (usize, (AdapterInfo, WgpuDevice))| Found {
        device: Device::Vulkan(index),
        name: info.name,
        sort: sort(info.device_type).to_owned(),
        driver: format!("{} {}", info.driver, info.driver_info),
        memory_bytes: None,
    };
    Ok(adapters()?.into_iter().enumerate().map(found).collect())
}

/// The device of this number.
pub(super) fn open(index: usize) -> Result<OpenDevice, String> {
    let adapters = adapters()?;
    let n = adapters.len();
    let Some((info, name)) = adapters.into_iter().nth(index) else {
        return Err(super::too_few(n));
    };
    let title = match info.device_type {
        DeviceType::Cpu => format!("{}, in software", info.name),
        _ => info.name,
    };
    Ok(OpenDevice { device: Device::Vulkan(index), inner: DispatchDevice::Vulkan(name), name: title })
}
