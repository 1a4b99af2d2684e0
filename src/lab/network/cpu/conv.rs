//! Convolutions as matrix products over unfolded patches, there and back.

use std::ops::Range;

use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayView2, ArrayViewMut2, Axis, Slice};
use rayon::prelude::*;

/// Columns (places of rows) that a product has at least, where there are so many: below it packing the kernels costs
/// more than multiplying them.
const LEAST_COLUMNS: usize = 256;
/// Values of unfolded patches that are aimed at: they are to stay in a core's cache.
const PATCH_VALUES: usize = 1 << 17;
/// Shares that a batch is split into on the way back. Each has its own sum of kernel derivatives, and these are added
/// in order: the outcome does not depend on how many threads there are.
const SHARES: usize = 8;

/// How a kernel goes over images.
#[derive(Debug, Clone, Copy)]
pub(super) struct Geometry {
    /// Channels that go in.
    pub(super) inputs: usize,
    /// Channels that come out.
    pub(super) outputs: usize,
    pub(super) side: usize,
    pub(super) stride: usize,
    pub(super) padding: usize,
    /// Height and width of what goes in.
    pub(super) from: [usize; 2],
    /// Height and width of what comes out.
    pub(super) to: [usize; 2],
}

impl Geometry {
    /// Values of a patch.
    fn patch(&self) -> usize {
        self.inputs * self.side * self.side
    }

    fn places_in(&self) -> usize {
        self.from[0] * self.from[1]
    }

    fn places_out(&self) -> usize {
        self.to[0] * self.to[1]
    }

    /// Whether patches are the values themselves.
    fn is_plain(&self) -> bool {
        self.side == 1 && self.stride == 1 && self.padding == 0
    }

    /// Rows that are unfolded together.
    fn tile(&self) -> usize {
        let places = self.places_out().max(1);
        let by_cache = PATCH_VALUES / (self.patch() * places).max(1);
        by_cache.max(LEAST_COLUMNS.div_ceil(places)).max(1)
    }

    /// The places along one side whose patch, moved by `offset` into the kernel, lies within the image.
    fn within(&self, offset: usize, axis: usize) -> Range<usize> {
        let start = self.padding.saturating_sub(offset).div_ceil(self.stride);
        // Place `p` looks at `p · stride + offset − padding`, which is to be below the size.
        let end = match (self.from[axis] + self.padding).checked_sub(offset + 1) {
            Some(last) => (last / self.stride + 1).min(self.to[axis]),
            None => 0,
        };
        start.min(end)..end
    }

    /// Calls `line` for each line of places of each patch value: the channel, where its line of patches and its line of
    /// the image begin, and which places lie within.
    fn for_each_line(&self, n_rows: usize, mut line: impl FnMut(usize, usize, Option<(usize, Range<usize>)>)) {
        let [height, width] = self.to;
        let columns = n_rows * height * width;
        for value in 0..self.patch() {
            let (channel, y, x) = (value / (self.side * self.side), value / self.side % self.side, value % self.side);
            let (ys, xs) = (self.within(y, 0), self.within(x, 1));
            for row in 0..n_rows {
                for place in 0..height {
                    let patches = value * columns + (row * height + place) * width;
                    let image = ys.contains(&place).then(|| {
                        let from_y = place * self.stride + y - self.padding;
                        let from_x = xs.start * self.stride + x - self.padding;
                        (row * self.places_in() + from_y * self.from[1] + from_x, xs.clone())
                    });
                    line(channel, patches, image.filter(|(_, xs)| !xs.is_empty()));
                }
            }
        }
    }

    /// `(channels, n_rows · places)` to `(patch, n_rows · places out)`.
    fn unfold(&self, image: ArrayView2<'_, f32>, n_rows: usize, patches: &mut Vec<f32>) {
        let width = self.to[1];
        patches.resize(self.patch() * n_rows * self.places_out(), 0.0);
        let channels: Vec<&[f32]> = image.rows().into_iter().filter_map(|row| row.to_slice()).collect();
        self.for_each_line(n_rows, |channel, at, image| {
            let line = &mut patches[at..at + width];
            let Some((start, xs)) = image else { return line.fill(0.0) };
            line[..xs.start].fill(0.0);
            line[xs.end..].fill(0.0);
            let from = &channels[channel][start..];
            let line = &mut line[xs];
            if self.stride == 1 {
                line.copy_from_slice(&from[..line.len()]);
            } else {
                line.iter_mut().zip(from.iter().step_by(self.stride)).for_each(|(to, &from)| *to = from);
            }
        });
    }

    /// Adds patches back to where they came from.
    fn fold(&self, patches: &[f32], n_rows: usize, image: &mut ArrayViewMut2<'_, f32>) {
        let width = self.to[1];
        let mut channels: Vec<&mut [f32]> =
            image.rows_mut().into_iter().filter_map(ndarray::ArrayViewMut1::into_slice).collect();
        self.for_each_line(n_rows, |channel, at, image| {
            let Some((start, xs)) = image else { return };
            let line = &patches[at..at + width][xs];
            let to = &mut channels[channel][start..];
            if self.stride == 1 {
                to.iter_mut().zip(line).for_each(|(to, &from)| *to += from);
            } else {
                to.iter_mut().step_by(self.stride).zip(line).for_each(|(to, &from)| *to += from);
            }
        });
    }
}

fn matrix(values: &[f32], rows: usize) -> ArrayView2<'_, f32> {
    let columns = values.len() / rows.max(1);
    ArrayView2::from_shape((rows, columns), values).expect("as many values as rows and columns")
}

/// Splits the columns of a matrix into pieces, for several threads.
fn pieces(values: &mut [f32], rows: usize, columns: usize) -> Vec<ArrayViewMut2<'_, f32>> {
    let all = values.len() / rows.max(1);
    let mut rest = ArrayViewMut2::from_shape((rows, all), values).expect("as many values as rows and columns");
    let mut pieces = Vec::with_capacity(all.div_ceil(columns.max(1)));
    while rest.ncols() > columns {
        let (piece, others) = rest.split_at(Axis(1), columns);
        pieces.push(piece);
        rest = others;
    }
    pieces.push(rest);
    pieces
}

fn columns<'a>(matrix: &ArrayView2<'a, f32>, range: Range<usize>) -> ArrayView2<'a, f32> {
    matrix.slice_axis_move(Axis(1), Slice::from(range))
}

/// The outcome, `(outputs, n_rows, places)`.
pub(super) fn forward(
    geometry: Geometry,
    kernel: &[f32],
    bias: Option<&[f32]>,
    values: &[f32],
    n_rows: usize,
) -> Vec<f32> {
    let Geometry { inputs, outputs, .. } = geometry;
    let (places_in, places_out) = (geometry.places_in(), geometry.places_out());
    let (kernel, values, tile) = (matrix(kernel, outputs), matrix(values, inputs), geometry.tile());
    let mut sums = vec![0.0; outputs * n_rows * places_out];
    if let Some(bias) = bias {
        sums.par_chunks_mut(n_rows * places_out).zip(bias).for_each(|(channel, &bias)| channel.fill(bias));
    }
    let tiles = pieces(&mut sums, outputs, tile * places_out);
    tiles.into_par_iter().enumerate().for_each_init(Vec::new, |patches, (at, mut sums)| {
        let n_rows = sums.ncols() / places_out;
        let values = columns(&values, at * tile * places_in..(at * tile + n_rows) * places_in);
        if geometry.is_plain() {
            general_mat_mul(1.0, &kernel, &values, 1.0, &mut sums);
        } else {
            geometry.unfold(values, n_rows, patches);
            general_mat_mul(1.0, &kernel, &matrix(patches, geometry.patch()), 1.0, &mut sums);
        }
    });
    sums
}

/// The derivatives by the kernel and (where asked) by the values.
pub(super) fn backward(
    geometry: Geometry,
    kernel: &[f32],
    values: &[f32],
    derivative: &[f32],
    n_rows: usize,
    wants_input: bool,
) -> (Vec<f32>, Option<Vec<f32>>) {
    let Geometry { inputs, outputs, .. } = geometry;
    let way = Back {
        geometry,
        kernel: matrix(kernel, outputs),
        values: matrix(values, inputs),
        derivative: matrix(derivative, outputs),
    };
    let share = n_rows.div_ceil(SHARES).max(1);
    let n_shares = n_rows.div_ceil(share);
    let rows = |at: usize| at * share..((at + 1) * share).min(n_rows);
    if !wants_input {
        let sums: Vec<Vec<f32>> = (0..n_shares).into_par_iter().map(|at| way.share(rows(at), None)).collect();
        return (add_up(sums), None);
    }
    let mut back = vec![0.0; values.len()];
    let parts = pieces(&mut back, inputs, share * geometry.places_in());
    let shares = parts.into_par_iter().enumerate();
    let sums: Vec<Vec<f32>> = shares.map(|(at, part)| way.share(rows(at), Some(part))).collect();
    (add_up(sums), Some(back))
}

fn add_up(sums: Vec<Vec<f32>>) -> Vec<f32> {
    let mut sums = sums.into_iter();
    let mut total = sums.next().unwrap_or_default();
    sums.for_each(|sum| super::layers::add(&mut total, &sum));
    total
}

/// What all shares of the way back look at.
struct Back<'a> {
    geometry: Geometry,
    kernel: ArrayView2<'a, f32>,
    values: ArrayView2<'a, f32>,
    derivative: ArrayView2<'a, f32>,
}

impl Back<'_> {
    /// The kernel's derivative over some rows; `back` are the places of the same rows.
    fn share(&self, rows: Range<usize>, mut back: Option<ArrayViewMut2<'_, f32>>) -> Vec<f32> {
        let geometry = self.geometry;
        let (places_in, places_out) = (geometry.places_in(), geometry.places_out());
        let mut sum = vec![0.0; self.kernel.len()];
        let mut by_kernel =
            ArrayViewMut2::from_shape(self.kernel.dim(), &mut sum).expect("as many values as the kernel");
        let (mut patches, mut by_patches) = (Vec::new(), Vec::new());
        for start in rows.clone().step_by(geometry.tile()) {
            let end = (start + geometry.tile()).min(rows.end);
            let n_rows = end - start;
            let values = columns(&self.values, start * places_in..end * places_in);
            let derivative = columns(&self.derivative, start * places_out..end * places_out);
            let mut back = back.as_mut().map(|back| {
                let range = (start - rows.start) * places_in..(end - rows.start) * places_in;
                back.slice_axis_mut(Axis(1), Slice::from(range))
            });
            if geometry.is_plain() {
                general_mat_mul(1.0, &derivative, &values.t(), 1.0, &mut by_kernel);
                if let Some(back) = &mut back {
                    general_mat_mul(1.0, &self.kernel.t(), &derivative, 0.0, back);
                }
                continue;
            }
            geometry.unfold(values, n_rows, &mut patches);
            let unfolded = matrix(&patches, geometry.patch());
            general_mat_mul(1.0, &derivative, &unfolded.t(), 1.0, &mut by_kernel);
            if let Some(back) = &mut back {
                by_patches.resize(patches.len(), 0.0);
                let mut product = ArrayViewMut2::from_shape(unfolded.dim(), &mut by_patches).expect("as many values");
                general_mat_mul(1.0, &self.kernel.t(), &derivative, 0.0, &mut product);
                geometry.fold(&by_patches, n_rows, back);
            }
        }
        sum
    }
}
