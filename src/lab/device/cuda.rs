//! CUDA devices, through the driver's list and burn's CUDA backend.
//!
//! Nothing of CUDA is linked: the driver (`libcuda`), the run-time compiler (`libnvrtc`) and the headers that the
//! kernels include are looked for when a device is opened.

use std::path::PathBuf;

use burn::DispatchDevice;
use burn::backend::cuda::CudaDevice;
use cudarc::driver::CudaContext;

use super::{Device, Found, OpenDevice, guard, probe};

/// How many devices the driver has.
fn count() -> Result<usize, String> {
    let count = guard::catch(|| {
        // The count alone starts no driver; a context does, and is refused with the driver's reason.
        CudaContext::device_count().map_err(|error| format!("the NVIDIA driver did not start: {error}"))
    });
    match count {
        Ok(count) => {
            let count = usize::try_from(count?).unwrap_or(0);
            if count == 0 { Err("the NVIDIA driver is here, but it offers no device".to_owned()) } else { Ok(count) }
        }
        Err(_) if !probe::loader_finds("libcuda.so.1") => {
            Err("the driver's library libcuda.so.1 was not found: it comes with the NVIDIA driver".to_owned())
        }
        Err(fault) => Err(format!("the NVIDIA driver did not start: {fault}")),
    }
}

/// What kernels are compiled with: NVRTC and CUDA's headers.
fn compiler() -> Result<(), String> {
    let compiled = guard::catch(|| cudarc::nvrtc::compile_ptx("extern \"C\" __global__ void nothing() {}").map(drop));
    match compiled {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return Err(format!("libnvrtc compiles nothing: {error}")),
        Err(_) => {
            return Err("the run-time compiler libnvrtc.so was not found: it comes with the CUDA toolkit (package \
                        cuda-nvrtc); LD_LIBRARY_PATH may have to name its folder"
                .to_owned());
        }
    }
    let Some(toolkit) = toolkit() else {
        return Err(
            "CUDA's headers were not found: CUDA_PATH is to name the folder that holds include/cuda_runtime.h \
                    (packages cuda-cudart-dev, cuda-cccl)"
                .to_owned(),
        );
    };
    let header = toolkit.join("include/cuda_runtime.h");
    if header.exists() {
        Ok(())
    } else {
        Err(format!("CUDA's headers were not found: there is no {}", header.display()))
    }
}

/// Where burn looks for the headers, in its order.
fn toolkit() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("CUDA_PATH") {
        return Some(PathBuf::from(path));
    }
    let places = [("/usr/local/cuda", "/usr/local/cuda"), ("/opt/cuda", "/opt/cuda"), ("/usr/bin/nvcc", "/usr")];
    places.into_iter().find(|(sign, _)| PathBuf::from(sign).exists()).map(|(_, path)| PathBuf::from(path))
}

fn found(index: usize) -> Result<Found, String> {
    let context = guard::catch(|| CudaContext::new(index))?.map_err(|error| error.to_string())?;
    let name = context.name().map_err(|error| error.to_string())?;
    let driver = match context.compute_capability() {
        Ok((major, minor)) => format!("CUDA, compute capability {major}.{minor}"),
        Err(_) => "CUDA".to_owned(),
    };
    let memory_bytes = context.total_mem().ok().and_then(|bytes| u64::try_from(bytes).ok());
    Ok(Found { device: Device::Cuda(index), name, sort: "discrete GPU".to_owned(), driver, memory_bytes })
}

/// The devices with their numbers.
pub(super) fn list() -> Result<Vec<Found>, String> {
    let n = count()?;
    compiler()?;
    (0..n).map(found).collect()
}

/// The device of this number.
pub(super) fn open(index: usize) -> Result<OpenDevice, String> {
    let n = count()?;
    if index >= n {
        return Err(super::too_few(n));
    }
    compiler()?;
    let name = found(index)?.name;
    Ok(OpenDevice { device: Device::Cuda(index), inner: DispatchDevice::Cuda(CudaDevice::new(index)), name })
}
