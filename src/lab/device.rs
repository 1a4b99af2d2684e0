//! The device that the lab computes on, chosen at run time.

use std::fmt;
use std::str::FromStr;

use anyhow::bail;
use burn::DispatchDevice;
use serde::{Deserialize, Serialize};

/// A device by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Device {
    /// The processor, with burn's own kernels.
    #[default]
    Cpu,
    /// A graphics processor through Vulkan, by number.
    Vulkan(usize),
    /// An NVIDIA graphics processor, by number.
    Cuda(usize),
}

impl FromStr for Device {
    type Err = String;

    fn from_str(given: &str) -> Result<Self, String> {
        let (kind, number) = given.split_once(':').unwrap_or((given, "0"));
        let number = number.parse().ok();
        match (kind, number) {
            ("cpu", _) if given == "cpu" => Ok(Self::Cpu),
            ("vulkan", Some(number)) => Ok(Self::Vulkan(number)),
            ("cuda", Some(number)) => Ok(Self::Cuda(number)),
            _ => Err(format!("expected cpu, vulkan, vulkan:N, cuda or cuda:N, got {given:?}")),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Vulkan(number) => write!(f, "vulkan:{number}"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

impl From<Device> for String {
    fn from(device: Device) -> Self {
        device.to_string()
    }
}

impl TryFrom<String> for Device {
    type Error = String;

    fn try_from(given: String) -> Result<Self, String> {
        given.parse()
    }
}

impl Device {
    /// Makes the device ready.
    ///
    /// # Errors
    ///
    /// When this program was built without it, or the machine has none.
    pub fn open(self) -> anyhow::Result<OpenDevice> {
        match self {
            Self::Cpu => Ok(OpenDevice { device: self, inner: DispatchDevice::Flex(burn::backend::flex::FlexDevice) }),
            Self::Vulkan(_) => bail!("this program was built without the feature vulkan"),
            Self::Cuda(_) => bail!("this program was built without the feature cuda"),
        }
    }
}

/// A device that is ready.
#[derive(Debug, Clone)]
pub struct OpenDevice {
    device: Device,
    inner: DispatchDevice,
}

impl OpenDevice {
    /// Its name.
    #[must_use]
    pub fn device(&self) -> Device {
        self.device
    }

    /// For evaluation.
    #[must_use]
    pub fn evaluation(&self) -> DispatchDevice {
        self.inner.clone()
    }

    /// For training: the same with gradients.
    #[must_use]
    pub fn training(&self) -> DispatchDevice {
        DispatchDevice::autodiff(self.inner.clone())
    }
}
