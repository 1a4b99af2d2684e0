//! Panics of drivers, caught: burn, wgpu and cudarc report a missing library or a failed call by panicking.

use std::panic::{AssertUnwindSafe, catch_unwind};

use anyhow::ensure;
use burn::tensor::Tensor;
use burn::{Dispatch, DispatchDevice};

/// What was said by the panic, on one line and short: the message of a driver, never a row of data.
pub(super) fn catch<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    const LONGEST: usize = 300;
    catch_unwind(AssertUnwindSafe(work)).map_err(|payload| {
        let text = payload
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| payload.downcast_ref::<&str>().copied())
            .unwrap_or("a fault without words");
        let line: Vec<&str> = text.split_whitespace().collect();
        line.join(" ").chars().take(LONGEST).collect()
    })
}

/// Adds 1..=64 on the device.
///
/// # Errors
/// When the device's answer is another.
pub(super) fn first_sum(device: &DispatchDevice) -> anyhow::Result<()> {
    let values: Vec<f32> = (1..=64u8).map(f32::from).collect();
    let expected: f32 = values.iter().sum();
    let sum = Tensor::<Dispatch, 1>::from_floats(&values[..], device).sum().into_data().convert::<f32>();
    let sum = sum.to_vec::<f32>().ok().and_then(|sum| sum.first().copied());
    ensure!(sum == Some(expected), "it adds 1 to 64 as {sum:?}, which is {expected}");
    Ok(())
}
