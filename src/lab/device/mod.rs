//! Compute devices: their names on the command line, what of them this machine has, and one that is ready for work.
//!
//! Responsible for turning `cpu`, `vulkan:1` or `cuda` into a device of burn's that has already computed something,
//! or into an error that names what is missing: the cargo feature, the driver's library, the device. Not responsible
//! for what is computed there. No panic of a driver leaves this module: whatever touches one runs inside
//! [`OpenDevice::guard`].
//!
//! The device is a value, chosen at run time: one binary with the features `vulkan` and `cuda` holds all three kinds.

#[cfg(feature = "cuda")]
mod cuda;
mod guard;
mod probe;
#[cfg(feature = "vulkan")]
mod vulkan;

use std::fmt;
use std::str::FromStr;

use anyhow::anyhow;
use burn::DispatchDevice;
use serde::{Serialize, Serializer};

/// A device as it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Device {
    /// The processor: burn's own kernels, on as many threads as rayon has.
    #[default]
    Cpu,
    /// The Vulkan device of this number, in the order of [`survey`]: discrete GPUs first, software last.
    Vulkan(usize),
    /// The CUDA device of this number, in the driver's order.
    Cuda(usize),
}

/// The kinds of device, each one way to reach hardware.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The processor.
    Cpu,
    /// Vulkan, through wgpu and SPIR-V.
    Vulkan,
    /// CUDA, through the driver and NVRTC.
    Cuda,
}

impl Device {
    /// Its kind.
    #[must_use]
    pub fn kind(self) -> Kind {
        match self {
            Self::Cpu => Kind::Cpu,
            Self::Vulkan(_) => Kind::Vulkan,
            Self::Cuda(_) => Kind::Cuda,
        }
    }

    /// Opens the device and has it compute a sum.
    ///
    /// # Errors
    /// When this binary was built without the device's feature, a library of its driver is missing, there are fewer
    /// devices than its number asks for, or it gets the sum wrong.
    pub fn open(self) -> anyhow::Result<OpenDevice> {
        let open = match self {
            Self::Cpu => {
                crate::engine::memory::keep_freed();
                OpenDevice { device: self, inner: DispatchDevice::Flex(Default::default()), name: cpu_name() }
            }
            Self::Vulkan(index) => vulkan_open(index).map_err(|reason| anyhow!("{self}: {reason}"))?,
            Self::Cuda(index) => cuda_open(index).map_err(|reason| anyhow!("{self}: {reason}"))?,
        };
        open.guard("its first sum", || guard::first_sum(&open.inner))??;
        Ok(open)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "cpu",
            Self::Vulkan => "vulkan",
            Self::Cuda => "cuda",
        })
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Vulkan(index) => write!(f, "vulkan:{index}"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

impl FromStr for Device {
    type Err = String;

    /// Reads `cpu`, `vulkan[:n]` or `cuda[:n]`; without a number, the first of its kind.
    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, index) = match text.split_once(':') {
            Some((kind, index)) => (kind, Some(index)),
            None => (text, None),
        };
        let number = || match index {
            None => Ok(0),
            // Numbers beyond this are beyond what the backends can name, and no machine has them.
            Some(digits) => match digits.parse::<u16>() {
                Ok(number) if digits.bytes().all(|byte| byte.is_ascii_digit()) => Ok(usize::from(number)),
                _ => Err(format!("device '{text}': expected a number after '{kind}:', such as {kind}:0")),
            },
        };
        match kind {
            "cpu" if index.is_none() => Ok(Self::Cpu),
            "vulkan" => Ok(Self::Vulkan(number()?)),
            "cuda" => Ok(Self::Cuda(number()?)),
            _ => Err(format!("unknown device '{text}': expected cpu, vulkan, vulkan:N, cuda or cuda:N")),
        }
    }
}

impl Serialize for Device {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Device {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A device that has computed something in this process.
#[derive(Debug, Clone)]
pub struct OpenDevice {
    device: Device,
    inner: DispatchDevice,
    name: String,
}

impl OpenDevice {
    /// What was asked for.
    #[must_use]
    pub fn device(&self) -> Device {
        self.device
    }

    /// Burn's device for tensors without gradients.
    #[must_use]
    pub fn evaluation(&self) -> DispatchDevice {
        self.inner.clone()
    }

    /// Burn's device for tensors that record what happens to them, for gradients.
    #[must_use]
    pub fn training(&self) -> DispatchDevice {
        DispatchDevice::autodiff(self.inner.clone())
    }

    /// The hardware's own name, for records and progress.
    #[must_use]
    pub fn name(&self) -> String {
        self.name.clone()
    }

    /// Runs `work` and turns a panic inside of it, which is how burn reports that a driver failed or memory ran out,
    /// into an error that names the device and `what` was under way.
    ///
    /// What `work` was changing is to be dropped after an error: a panic may have left it half-way.
    ///
    /// # Errors
    /// When `work` panics.
    pub fn guard<T>(&self, what: &str, work: impl FnOnce() -> T) -> anyhow::Result<T> {
        guard::catch(work).map_err(|fault| anyhow!("{} ({}) failed during {what}: {fault}", self.device, self.name))
    }
}

/// A device that this machine has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Found {
    /// What to ask for it by.
    pub device: Device,
    /// The hardware's own name.
    pub name: String,
    /// `software`, `integrated`, ...: what sort of hardware it is.
    pub sort: String,
    /// Driver and version, or burn's kernels, and what they use.
    pub driver: String,
    /// Bytes of its own memory, where the interface tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
}

/// Why devices of a kind cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unavailable {
    /// The kind.
    pub kind: Kind,
    /// What is missing.
    pub reason: String,
}

/// What there is on this machine, for this binary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Survey {
    /// Devices that can be asked for.
    pub devices: Vec<Found>,
    /// Kinds that have none, with the reason.
    pub unavailable: Vec<Unavailable>,
}

/// Looks for devices of every kind. Asks the drivers for their lists; computes nothing.
#[must_use]
pub fn survey() -> Survey {
    let mut survey = Survey { devices: vec![cpu_found()], unavailable: Vec::new() };
    for (kind, found) in [(Kind::Vulkan, vulkan_list()), (Kind::Cuda, cuda_list())] {
        match found {
            Ok(found) => survey.devices.extend(found),
            Err(reason) => survey.unavailable.push(Unavailable { kind, reason }),
        }
    }
    survey
}

fn cpu_name() -> String {
    probe::processor()
}

fn cpu_found() -> Found {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (threads, plural) = (threads, if threads == 1 { "" } else { "s" });
    Found {
        device: Device::Cpu,
        name: cpu_name(),
        sort: "processor".to_owned(),
        driver: format!("burn-flex, {threads} thread{plural}, {}", probe::vector_instructions()),
        memory_bytes: probe::memory_bytes(),
    }
}

/// What to say of a number that no device has.
#[cfg_attr(
    not(any(test, feature = "vulkan", feature = "cuda")),
    allow(dead_code, reason = "there is one processor, which has no number")
)]
fn too_few(n: usize) -> String {
    match n {
        1 => "there is 1 such device, numbered 0".to_owned(),
        n => format!("there are {n} such devices, numbered 0 to {}", n.saturating_sub(1)),
    }
}

#[cfg(feature = "vulkan")]
use vulkan::{list as vulkan_list, open as vulkan_open};
#[cfg(not(feature = "vulkan"))]
fn vulkan_list() -> Result<Vec<Found>, String> {
    Err(probe::not_built("vulkan"))
}
#[cfg(not(feature = "vulkan"))]
fn vulkan_open(_index: usize) -> Result<OpenDevice, String> {
    Err(probe::not_built("vulkan"))
}

#[cfg(feature = "cuda")]
use cuda::{list as cuda_list, open as cuda_open};
#[cfg(not(feature = "cuda"))]
fn cuda_list() -> Result<Vec<Found>, String> {
    Err(probe::not_built("cuda"))
}
#[cfg(not(feature = "cuda"))]
fn cuda_open(_index: usize) -> Result<OpenDevice, String> {
    Err(probe::not_built("cuda"))
}

#[cfg(test)]
mod tests;
