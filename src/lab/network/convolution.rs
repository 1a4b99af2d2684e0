//! Convolution in the forms that burn's backends are fast at: the choice of a form, nothing that is learned.
//!
//! Every form gives the same sums up to their order, and the derivatives that follow from it. Three are used:
//!
//! - *one product*: a kernel of 1×1 is a matrix; so are its derivatives, where burn's derivative by a kernel is a
//!   convolution with the outcome as kernel, one product a value;
//! - *columns*, on the processor: what each place sees is laid out as a column, and kernels and columns are multiplied.
//!   For what sees the rows themselves, since these have few channels, for which burn adds up value by value, and nobody
//!   asks for a derivative by them, which would have to be added up from the columns again. And where a column is
//!   worth its making: many outputs to an input, and many places to an output, so that a derivative by the
//!   kernel for each row is small beside the columns;
//! - *burn's*: everything else.

use burn::DispatchDevice;
use burn::tensor::module::conv2d;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Int, Tensor, TensorData};

use crate::lab::Compute;

/// More values in columns than these are not laid out: 128 MiB.
const MOST_IN_COLUMNS: usize = 32 << 20;

/// What a convolution sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sees {
    /// The rows, perhaps normalised: no derivative by them is asked for.
    Rows,
    /// Values that depend on what is learned.
    Values,
}

/// Where the kernels stand.
#[derive(Debug, Clone, Copy)]
struct Places {
    stride: usize,
    padding: usize,
}

impl Places {
    /// How many there are along a side of `length`.
    fn along(self, length: usize, side: usize) -> usize {
        (length + 2 * self.padding - side) / self.stride + 1
    }
}

/// Cross-correlation without bias.
///
/// # Shapes
///
/// `(n_rows, inputs, height, width)` and `(outputs, inputs, side, side)` to `(n_rows, outputs, places, places)`.
pub(super) fn convolution(
    values: Tensor<Compute, 4>,
    kernel: Tensor<Compute, 4>,
    stride: usize,
    padding: usize,
    sees: Sees,
) -> Tensor<Compute, 4> {
    let ([n_outputs, n_inputs, side, _], [n_rows, _, height, width]) = (kernel.dims(), values.dims());
    if (side, stride, padding) == (1, 1, 0) {
        let values = values.reshape([n_rows, n_inputs, height * width]);
        return kernel.reshape([1, n_outputs, n_inputs]).matmul(values).reshape([n_rows, n_outputs, height, width]);
    }
    let places = Places { stride, padding };
    let n_places = places.along(height, side) * places.along(width, side);
    let pays = sees == Sees::Rows || (n_outputs >= 2 * n_inputs && n_places >= 4 * n_outputs);
    let fits = n_rows * n_inputs * side * side * n_places <= MOST_IN_COLUMNS;
    if pays && fits && is_processor(&values.device()) {
        return by_columns(values, kernel, places);
    }
    conv2d(values, kernel, None, ConvOptions::new([stride; 2], [padding; 2], [1, 1], 1))
}

fn is_processor(device: &DispatchDevice) -> bool {
    match device {
        DispatchDevice::Flex(_) => true,
        DispatchDevice::Autodiff(inner) => matches!(**inner, DispatchDevice::Flex(_)),
        #[cfg(feature = "gpu")]
        _ => false,
    }
}

fn by_columns(values: Tensor<Compute, 4>, kernel: Tensor<Compute, 4>, places: Places) -> Tensor<Compute, 4> {
    let ([n_rows, n_inputs, height, width], [n_outputs, _, side, _]) = (values.dims(), kernel.dims());
    let device = values.device();
    // One zero behind each channel is what all places beyond the border see.
    let lines = values.reshape([n_rows * n_inputs, height * width]);
    let lines = Tensor::cat(vec![lines, Tensor::zeros([n_rows * n_inputs, 1], &device)], 1);
    let seen = seen(height, width, side, places);
    let n_seen = seen.len();
    let seen = Tensor::<Compute, 1, Int>::from_data(TensorData::new(seen, [n_seen]), &device);
    let columns = lines.select(1, seen).reshape([n_rows as i64, (n_inputs * side * side) as i64, -1]);
    let sums = kernel.reshape([1, n_outputs, n_inputs * side * side]).matmul(columns);
    sums.reshape([n_rows, n_outputs, places.along(height, side), places.along(width, side)])
}

/// For each number of a kernel and each place, the place of the image that they meet at; `height · width` beyond the
/// border.
fn seen(height: usize, width: usize, side: usize, places: Places) -> Vec<i64> {
    let mut seen = Vec::with_capacity(side * side * places.along(height, side) * places.along(width, side));
    let inside = |place: usize, at: usize, length: usize| {
        (place * places.stride + at).checked_sub(places.padding).filter(|&at| at < length)
    };
    for (line, column) in (0..side).flat_map(|line| (0..side).map(move |column| (line, column))) {
        for top in 0..places.along(height, side) {
            for left in 0..places.along(width, side) {
                let met = inside(top, line, height).zip(inside(left, column, width));
                seen.push(met.map_or(height * width, |(y, x)| y * width + x) as i64);
            }
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::device::Device;

    fn counted(shape: [usize; 4], device: &DispatchDevice) -> Tensor<Compute, 4> {
        let n_values: usize = shape.iter().product();
        // Small whole numbers: sums are exact in any order.
        let values: Vec<f32> = (0..n_values).map(|at| ((at * 7 + at / 5) % 11) as f32 - 5.0).collect();
        Tensor::from_data(TensorData::new(values, shape), device)
    }

    /// The outcome, and the derivatives of the sum of its squares by the values and by the kernel.
    fn all(
        form: impl Fn(Tensor<Compute, 4>, Tensor<Compute, 4>) -> Tensor<Compute, 4>,
        [values, kernel]: [[usize; 4]; 2],
    ) -> [Vec<f32>; 3] {
        let _one = crate::lab::autodiff::one_at_a_time();
        let device = Device::Cpu.open().unwrap().training();
        let (values, kernel) = (counted(values, &device).require_grad(), counted(kernel, &device).require_grad());
        let sums = form(values.clone(), kernel.clone());
        let gradients = sums.clone().powi_scalar(2).sum().backward();
        let plain = |values: Tensor<Compute, 4>| values.into_data().to_vec::<f32>().unwrap();
        [plain(sums.inner()), plain(values.grad(&gradients).unwrap()), plain(kernel.grad(&gradients).unwrap())]
    }

    #[test]
    fn columns_give_burns_sums_and_derivatives() {
        for (values, kernel, stride, padding) in [
            ([2, 3, 6, 6], [4, 3, 5, 5], 1, 2),
            ([3, 1, 5, 7], [2, 1, 3, 3], 1, 1),
            ([2, 2, 7, 6], [3, 2, 3, 3], 2, 1),
            ([1, 3, 4, 4], [2, 3, 3, 3], 1, 0),
            ([2, 1, 8, 8], [1, 1, 1, 1], 2, 0),
            ([2, 1, 6, 6], [2, 1, 3, 3], 1, 1),
        ] {
            let places = Places { stride, padding };
            let columns = all(|x, k| by_columns(x, k, places), [values, kernel]);
            let burns = |x, k| conv2d(x, k, None, ConvOptions::new([stride; 2], [padding; 2], [1, 1], 1));
            assert_eq!(columns, all(burns, [values, kernel]), "{values:?} {kernel:?} {stride} {padding}");
            for sees in [Sees::Rows, Sees::Values] {
                let chosen = all(|x, k| convolution(x, k, stride, padding, sees), [values, kernel]);
                assert_eq!(columns, chosen, "{values:?} {kernel:?} {stride} {padding} {sees:?}");
            }
        }
    }
}
