//! What the operators of the small CNN cost on burn's processor backend, alone: forward, and the derivatives of a
//! weighted sum of what comes out. `torch_ops.py` beside this file does the same in PyTorch; `run.py --ops` runs both.
//!
//! One line of JSON: milliseconds of the least of some runs. Batches of 64.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench is a program of its own: a panic ends it")]

use std::time::Instant;

use burn::tensor::activation::relu;
use burn::tensor::module::{conv2d, max_pool2d};
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Int, Tensor, TensorData};
use serde_json::{Map, json};
use sordino::lab::Compute;
use sordino::lab::device::Device;

const N_ROWS: usize = 64;
const N_RUNS: usize = 9;

type Image = Tensor<Compute, 4>;

fn drawn(shape: [usize; 4], device: &burn::DispatchDevice) -> Image {
    let mut state = 7u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 16_777_216.0 - 0.5
    };
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| next()).collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// Least milliseconds of the operator, and of the derivatives by its weights and, where asked, by its values.
fn timed(op: &dyn Fn(Image, Image) -> Image, values: &Image, weights: &Image, by_values: bool) -> [f64; 2] {
    let mut least = [f64::INFINITY; 2];
    for _ in 0..N_RUNS {
        let values = if by_values { values.clone().require_grad() } else { values.clone() };
        let weights = weights.clone().require_grad();
        let start = Instant::now();
        let out = op(values, weights);
        least[0] = least[0].min(1e3 * start.elapsed().as_secs_f64());
        let sum = (out.clone() * out.detach()).sum();
        let start = Instant::now();
        std::hint::black_box(sum.backward());
        least[1] = least[1].min(1e3 * start.elapsed().as_secs_f64());
    }
    least
}

fn burns(values: Image, kernel: Image) -> Image {
    let padding = kernel.dims()[2] / 2;
    conv2d(values, kernel, None, ConvOptions::new([1; 2], [padding; 2], [1, 1], 1))
}

/// The lab's form: what each place sees as a column, times the kernels.
fn columns(values: Image, kernel: Image, seen: &Tensor<Compute, 1, Int>) -> Image {
    let ([n_rows, inputs, height, width], [outputs, _, side, _]) = (values.dims(), kernel.dims());
    let zero = Tensor::zeros([n_rows * inputs, 1], &values.device());
    let lines = Tensor::cat(vec![values.reshape([n_rows * inputs, height * width]), zero], 1);
    let columns = lines.select(1, seen.clone()).reshape([n_rows, inputs * side * side, height * width]);
    let sums = kernel.reshape([1, outputs, inputs * side * side]).matmul(columns);
    sums.reshape([n_rows, outputs, height, width])
}

fn seen(length: usize, side: usize, device: &burn::DispatchDevice) -> Tensor<Compute, 1, Int> {
    let inside = |at: usize| at.checked_sub(side / 2).filter(|&at| at < length);
    let mut seen = Vec::new();
    for at in 0..side * side * length * length {
        let (kernel, place) = (at / (length * length), at % (length * length));
        let met = inside(place / length + kernel / side).zip(inside(place % length + kernel % side));
        seen.push(met.map_or(length * length, |(y, x)| y * length + x) as i64);
    }
    let n = seen.len();
    Tensor::from_data(TensorData::new(seen, [n]), device)
}

fn main() {
    let device = Device::Cpu.open().unwrap().training();
    let mut found = Map::new();
    let one = drawn([1; 4], &device);
    for (name, [inputs, outputs, length, side], by_values) in [
        ("convolution 5x5, 3 to 32 channels, 32x32", [3, 32, 32, 5], false),
        ("convolution 3x3, 32 to 64 channels, 16x16", [32, 64, 16, 3], true),
    ] {
        let (values, kernel) =
            (drawn([N_ROWS, inputs, length, length], &device), drawn([outputs, inputs, side, side], &device));
        found.insert(name.to_owned(), json!(timed(&burns, &values, &kernel, by_values)));
        let seen = seen(length, side, &device);
        let form = |values, kernel| columns(values, kernel, &seen);
        found.insert(format!("{name}: columns"), json!(timed(&form, &values, &kernel, by_values)));
    }
    let values = drawn([N_ROWS, 32, 32, 32], &device);
    let pool = |values: Image, _| max_pool2d(values, [2, 2], [2, 2], [0, 0], [1, 1], false);
    found.insert("pool 2x2, 32 channels, 32x32".to_owned(), json!(timed(&pool, &values, &one, true)));
    found.insert("ReLU, 32 channels, 32x32".to_owned(), json!(timed(&|values, _| relu(values), &values, &one, true)));
    let (values, matrix) = (drawn([1, 1, N_ROWS, 4096], &device), drawn([1, 1, 4096, 128], &device));
    found.insert("linear, 4096 to 128".to_owned(), json!(timed(&Image::matmul, &values, &matrix, true)));
    println!("{}", serde_json::Value::Object(found));
}
