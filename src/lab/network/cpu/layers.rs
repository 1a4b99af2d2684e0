//! The operators between convolutions and norms, there and back.

use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayView2, ArrayViewMut2, Axis};
use rayon::prelude::*;

/// Values that one thread takes at a time.
const CHUNK: usize = 1 << 15;

/// Rows, or columns of a gradient, that one thread takes at a time in a linear layer.
const LINES: usize = 32;

/// Compiles a loop for the vector instructions of the machine.
pub(super) fn wide<R>(work: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(work)
}

/// Does something to pieces of one array in several threads.
fn each(values: &mut [f32], change: impl Fn(&mut f32) + Sync) {
    values.par_chunks_mut(CHUNK).for_each(|values| wide(|| values.iter_mut().for_each(&change)));
}

/// Does something to pieces of one array, beside another of the same length, in several threads.
fn each_with(values: &mut [f32], others: &[f32], change: impl Fn(&mut f32, f32) + Sync) {
    values.par_chunks_mut(CHUNK).zip(others.par_chunks(CHUNK)).for_each(|(values, others)| {
        wide(|| values.iter_mut().zip(others).for_each(|(value, &other)| change(value, other)));
    });
}

/// `(n_rows, channels, places)` to `(channels, n_rows, places)`.
pub(super) fn by_channels(rows: &[f32], n_rows: usize, channels: usize, places: usize) -> Vec<f32> {
    exchange(rows, n_rows, channels, places)
}

/// `(channels, n_rows, places)` to `(n_rows, channels, places)`.
pub(super) fn by_rows(values: &[f32], n_rows: usize, channels: usize, places: usize) -> Vec<f32> {
    exchange(values, channels, n_rows, places)
}

/// `(first, second, places)` to `(second, first, places)`.
fn exchange(values: &[f32], first: usize, second: usize, places: usize) -> Vec<f32> {
    let mut exchanged = Vec::with_capacity(values.len());
    for inner in 0..second {
        for outer in 0..first {
            let start = (outer * second + inner) * places;
            exchanged.extend_from_slice(&values[start..start + places]);
        }
    }
    exchanged
}

pub(super) fn add(sum: &mut [f32], other: &[f32]) {
    each_with(sum, other, |sum, other| *sum += other);
}

pub(super) fn multiply(values: &mut [f32], mask: &[f32]) {
    each_with(values, mask, |value, factor| *value *= factor);
}

/// A number that is none stays none: a training that diverged is to be seen.
pub(super) fn relu(mut values: Vec<f32>) -> Vec<f32> {
    each(&mut values, |value| *value = if *value < 0.0 { 0.0 } else { *value });
    values
}

/// `outcome` is what [`relu`] gave.
pub(super) fn relu_back(mut derivative: Vec<f32>, outcome: &[f32]) -> Vec<f32> {
    each_with(&mut derivative, outcome, |value, outcome| *value = if outcome > 0.0 { *value } else { 0.0 });
    derivative
}

pub(super) fn tanh(mut values: Vec<f32>) -> Vec<f32> {
    each(&mut values, |value| *value = value.tanh());
    values
}

/// `outcome` is what [`tanh`] gave.
pub(super) fn tanh_back(mut derivative: Vec<f32>, outcome: &[f32]) -> Vec<f32> {
    each_with(&mut derivative, outcome, |value, outcome| *value *= 1.0 - outcome * outcome);
    derivative
}

/// `(x − mean) · (1 / deviation)`, constants a channel or a value of a row.
pub(super) fn normalise(
    mut values: Vec<f32>,
    n_rows: usize,
    shape: &[usize],
    mean: &[f32],
    deviation: &[f32],
) -> Vec<f32> {
    let factors: Vec<f32> = deviation.iter().map(|deviation| 1.0 / deviation).collect();
    let &[channels, ref sides @ ..] = shape else { return values };
    let places: usize = sides.iter().product();
    let (by_value, is_image) = (mean.len() != channels, !sides.is_empty());
    for (line, values) in values.chunks_mut(places.max(1)).enumerate() {
        let channel = if is_image { line / n_rows } else { line % channels };
        for (place, value) in values.iter_mut().enumerate() {
            let constant = if by_value { channel * places + place } else { channel };
            *value = (*value - mean[constant]) * factors[constant];
        }
    }
    values
}

/// The largest of each 2×2 square, the first of equals, and (where asked) which of the four it was.
pub(super) fn max_pool(values: &[f32], [height, width]: [usize; 2], remember: bool) -> (Vec<f32>, Vec<u8>) {
    let (rows, columns) = (height / 2, width / 2);
    let n_images = values.len() / (height * width);
    let mut pooled = vec![0.0; n_images * rows * columns];
    let mut largest = vec![0u8; pooled.len()];
    let work = |((pooled, largest), values): ((&mut [f32], &mut [u8]), &[f32])| {
        wide(|| {
            for row in 0..rows {
                let above = &values[2 * row * width..][..2 * columns];
                let below = &values[(2 * row + 1) * width..][..2 * columns];
                let outcomes = pooled[row * columns..].iter_mut().zip(&mut largest[row * columns..]);
                let squares = above.as_chunks::<2>().0.iter().zip(below.as_chunks::<2>().0);
                for ((value, which), (&[a, b], &[c, d])) in outcomes.zip(squares) {
                    let (mut best, mut place) = (a, 0);
                    for (other, at) in [(b, 1), (c, 2), (d, 3)] {
                        // A number that is none wins, and stays.
                        if other > best || other.is_nan() {
                            (best, place) = (other, at);
                        }
                    }
                    (*value, *which) = (best, place);
                }
            }
        });
    };
    let places = (rows * columns).max(1);
    pooled
        .par_chunks_mut(places)
        .zip(largest.par_chunks_mut(places))
        .zip(values.par_chunks(height * width))
        .with_min_len(CHUNK.div_ceil(height * width))
        .for_each(work);
    (pooled, if remember { largest } else { vec![] })
}

pub(super) fn max_pool_back(derivative: &[f32], largest: &[u8], [height, width]: [usize; 2]) -> Vec<f32> {
    let (rows, columns) = (height / 2, width / 2);
    let places = (rows * columns).max(1);
    let mut back = vec![0.0; derivative.len() / places * height * width];
    back.par_chunks_mut(height * width)
        .zip(derivative.par_chunks(places).zip(largest.par_chunks(places)))
        .with_min_len(CHUNK.div_ceil(height * width))
        .for_each(|(back, (derivative, largest))| {
            for (place, (&value, &which)) in derivative.iter().zip(largest).enumerate() {
                let (row, column) = (2 * (place / columns), 2 * (place % columns));
                let which = usize::from(which);
                back[(row + which / 2) * width + column + which % 2] = value;
            }
        });
    back
}

/// The mean of each 2×2 square.
pub(super) fn average_pool(values: &[f32], [height, width]: [usize; 2]) -> Vec<f32> {
    let (rows, columns) = (height / 2, width / 2);
    let mut pooled = vec![0.0; values.len() / (height * width) * rows * columns];
    pooled
        .par_chunks_mut((rows * columns).max(1))
        .zip(values.par_chunks(height * width))
        .with_min_len(CHUNK.div_ceil(height * width))
        .for_each(|(pooled, values)| {
            for (row, pooled) in pooled.chunks_mut(columns.max(1)).enumerate() {
                let above = values[2 * row * width..].as_chunks::<2>().0;
                let below = values[(2 * row + 1) * width..].as_chunks::<2>().0;
                for ((value, [a, b]), [c, d]) in pooled.iter_mut().zip(above).zip(below) {
                    *value = 0.25 * (a + b + c + d);
                }
            }
        });
    pooled
}

pub(super) fn average_pool_back(derivative: &[f32], [height, width]: [usize; 2]) -> Vec<f32> {
    let (rows, columns) = (height / 2, width / 2);
    let places = (rows * columns).max(1);
    let mut back = vec![0.0; derivative.len() / places * height * width];
    back.par_chunks_mut(height * width)
        .zip(derivative.par_chunks(places))
        .with_min_len(CHUNK.div_ceil(height * width))
        .for_each(|(back, derivative)| {
            for (place, &value) in derivative.iter().enumerate() {
                let start = 2 * (place / columns) * width + 2 * (place % columns);
                for at in [start, start + 1, start + width, start + width + 1] {
                    back[at] = 0.25 * value;
                }
            }
        });
    back
}

/// The mean of each channel: `(channels, n_rows, places)` to `(n_rows, channels)`.
pub(super) fn global_average(values: &[f32], n_rows: usize, channels: usize) -> Vec<f32> {
    let places = values.len() / (n_rows * channels).max(1);
    let mut means = vec![0.0; n_rows * channels];
    for (line, values) in values.chunks(places.max(1)).enumerate() {
        let (channel, row) = (line / n_rows, line % n_rows);
        means[row * channels + channel] = (sum(values) / places as f64) as f32;
    }
    means
}

pub(super) fn global_average_back(derivative: &[f32], n_rows: usize, channels: usize, places: usize) -> Vec<f32> {
    let mut back = Vec::with_capacity(n_rows * channels * places);
    for channel in 0..channels {
        for row in 0..n_rows {
            let value = derivative[row * channels + channel] / places as f32;
            back.extend(std::iter::repeat_n(value, places));
        }
    }
    back
}

/// A sum in f64 of short sums in f32.
pub(super) fn sum(values: &[f32]) -> f64 {
    sum_by(values, values, |value, _| value)
}

/// The same of something made of two values each.
pub(super) fn sum_by(values: &[f32], others: &[f32], of: impl Fn(f32, f32) -> f32) -> f64 {
    let mut total = 0.0;
    for (values, others) in values.chunks(1024).zip(others.chunks(1024)) {
        let mut lanes = [0.0f32; 16];
        let (values, rest) = values.as_chunks::<16>();
        let (others, other_rest) = others.as_chunks::<16>();
        for (values, others) in values.iter().zip(others) {
            for lane in 0..16 {
                lanes[lane] += of(values[lane], others[lane]);
            }
        }
        let rest = rest.iter().zip(other_rest).map(|(&value, &other)| f64::from(of(value, other)));
        total += lanes.iter().map(|&lane| f64::from(lane)).sum::<f64>() + rest.sum::<f64>();
    }
    total
}

/// Flat values side by side.
pub(super) fn concatenate_rows(one: &[f32], other: &[f32], n_rows: usize) -> Vec<f32> {
    let (first, second) = (one.len() / n_rows.max(1), other.len() / n_rows.max(1));
    let rows = one.chunks(first.max(1)).zip(other.chunks(second.max(1)));
    rows.flat_map(|(one, other)| one.iter().chain(other).copied()).collect()
}

/// The first `first` values of each row, and the others.
pub(super) fn split_rows(values: &[f32], first: usize, second: usize) -> (Vec<f32>, Vec<f32>) {
    let rows = values.chunks((first + second).max(1));
    rows.clone().map(|row| (&row[..first], &row[first..])).fold((vec![], vec![]), |(mut one, mut other), row| {
        one.extend_from_slice(row.0);
        other.extend_from_slice(row.1);
        (one, other)
    })
}

fn view(values: &[f32], rows: usize) -> ArrayView2<'_, f32> {
    let columns = values.len() / rows.max(1);
    ArrayView2::from_shape((rows, columns), values).expect("as many values as rows and columns")
}

/// Splits a matrix into pieces of [`LINES`] rows, for several threads.
fn pieces(values: &mut [f32], rows: usize) -> Vec<ArrayViewMut2<'_, f32>> {
    let columns = values.len() / rows.max(1);
    let whole = ArrayViewMut2::from_shape((rows, columns), values).expect("as many values as rows and columns");
    let mut rest = whole;
    let mut pieces = Vec::with_capacity(rows.div_ceil(LINES));
    while rest.nrows() > LINES {
        let (piece, others) = rest.split_at(Axis(0), LINES);
        pieces.push(piece);
        rest = others;
    }
    pieces.push(rest);
    pieces
}

fn lines(matrix: ArrayView2<'_, f32>, piece: usize, count: usize) -> ArrayView2<'_, f32> {
    matrix.slice_axis_move(Axis(0), (piece * LINES..piece * LINES + count).into())
}

/// `x · matrix + bias`; the matrix is `(inputs, outputs)`.
pub(super) fn linear(values: &[f32], n_rows: usize, matrix: &[f32], bias: &[f32]) -> Vec<f32> {
    let (values, matrix) = (view(values, n_rows), view(matrix, matrix.len() / bias.len().max(1)));
    let mut sums: Vec<f32> = std::iter::repeat_n(bias, n_rows).flatten().copied().collect();
    pieces(&mut sums, n_rows).into_par_iter().enumerate().for_each(|(piece, mut sums)| {
        let count = sums.nrows();
        general_mat_mul(1.0, &lines(values, piece, count), &matrix, 1.0, &mut sums);
    });
    sums
}

/// The derivatives by the matrix and the bias, and (where asked) by the values.
pub(super) fn linear_back(
    derivative: &[f32],
    values: &[f32],
    n_rows: usize,
    matrix: &[f32],
    wants_input: bool,
) -> (Vec<f32>, Vec<f32>, Option<Vec<f32>>) {
    let n_inputs = values.len() / n_rows.max(1);
    let (derivative, values, matrix) = (view(derivative, n_rows), view(values, n_rows), view(matrix, n_inputs));
    let mut by_matrix = vec![0.0; matrix.len()];
    pieces(&mut by_matrix, n_inputs).into_par_iter().enumerate().for_each(|(piece, mut sums)| {
        let count = sums.nrows();
        general_mat_mul(1.0, &lines(values.reversed_axes(), piece, count), &derivative, 0.0, &mut sums);
    });
    let by_bias =
        derivative.columns().into_iter().map(|column| column.iter().map(|&value| f64::from(value)).sum::<f64>());
    let by_bias = by_bias.map(|sum| sum as f32).collect();
    let by_values = wants_input.then(|| {
        let mut by_values = vec![0.0; values.len()];
        pieces(&mut by_values, n_rows).into_par_iter().enumerate().for_each(|(piece, mut sums)| {
            let count = sums.nrows();
            general_mat_mul(1.0, &lines(derivative, piece, count), &matrix.t(), 0.0, &mut sums);
        });
        by_values
    });
    (by_matrix, by_bias, by_values)
}
