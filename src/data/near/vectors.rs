//! Rows as vectors, joined where their Euclidean distance is small.
//!
//! Candidates come from a kiddo tree over the first sixteen principal directions: a projection onto orthonormal
//! directions makes no distance longer, so that none is missed.

use kiddo::SquaredEuclidean;
use kiddo::immutable::float::kdtree::ImmutableKdTree;

use super::super::{DataError, Dataset};
use super::each_row;
use super::union::Union;

/// Fields of the grid that images are averaged over, a side.
const GRID: usize = 16;
/// Directions of the tree.
const N_DIRECTIONS: usize = 16;
/// Rows that the directions are found from.
const N_SAMPLED: usize = 2_048;
/// Sums that are kept apart, for the machine's vector instructions; the order of additions is fixed.
const LANES: usize = 16;

/// Vectors of one length, one after the other.
pub(super) struct Vectors {
    values: Vec<f32>,
    n_rows: usize,
    width: usize,
}

impl Vectors {
    /// The rows `rows` (ascending) of a dataset of images: averaged over a grid, each channel less its mean, of
    /// length 1.
    pub(super) fn pooled(dataset: &Dataset, rows: &[usize]) -> Result<Self, DataError> {
        let &[n_channels, height, width] = dataset.row_shape() else {
            return Ok(Self { values: Vec::new(), n_rows: rows.len(), width: 0 });
        };
        let (down, across) = (height.min(GRID), width.min(GRID));
        Self::of(dataset, rows, n_channels * down * across, |image, vector| {
            for plane in image.chunks_exact(height * width) {
                for y in 0..down {
                    for x in 0..across {
                        vector.push(mean(
                            plane,
                            width,
                            [y, y + 1].map(|y| y * height / down),
                            [x, x + 1].map(|x| x * width / across),
                        ));
                    }
                }
            }
            for plane in vector.chunks_exact_mut(down * across) {
                let mean = (plane.iter().map(|&v| f64::from(v)).sum::<f64>() / plane.len() as f64) as f32;
                plane.iter_mut().for_each(|value| *value -= mean);
            }
            let length = vector.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
            // What rounding leaves of a flat image has no direction.
            let scale = if length < 1e-4 { 0.0 } else { (1.0 / length) as f32 };
            vector.iter_mut().for_each(|value| *value *= scale);
        })
    }

    /// The rows `rows` (ascending) of a dataset of numbers, each column less its mean, in units of its standard
    /// deviation, over the root of the number of columns. Columns that do not vary are left out.
    pub(super) fn standardised(dataset: &Dataset, rows: &[usize]) -> Result<Self, DataError> {
        let width = dataset.row_shape().iter().product();
        let n = dataset.n_rows() as f64;
        let mut means = vec![0.0f64; width];
        each_row(dataset, |_, row| means.iter_mut().zip(row).for_each(|(mean, &v)| *mean += f64::from(v) / n))?;
        let mut squares = vec![0.0f64; width];
        each_row(dataset, |_, row| {
            let off = row.iter().zip(&means).map(|(&value, mean)| (f64::from(value) - mean).powi(2));
            squares.iter_mut().zip(off).for_each(|(square, off)| *square += off / n);
        })?;
        let varies = |column: &usize| squares[*column] > 1e-12 * (1.0 + means[*column].powi(2));
        let columns: Vec<usize> = (0..width).filter(varies).collect();
        let scales: Vec<f64> =
            columns.iter().map(|&column| 1.0 / (squares[column] * columns.len() as f64).sqrt()).collect();
        Self::of(dataset, rows, columns.len(), |row, vector| {
            let scaled = |(&column, scale): (&usize, &f64)| ((f64::from(row[column]) - means[column]) * scale) as f32;
            vector.extend(columns.iter().zip(&scales).map(scaled));
        })
    }

    /// The rows `rows` (ascending) of a dataset, each made a vector of `width` values by `make`.
    pub(super) fn of(
        dataset: &Dataset,
        rows: &[usize],
        width: usize,
        make: impl Fn(&[f32], &mut Vec<f32>),
    ) -> Result<Self, DataError> {
        let mut values = Vec::with_capacity(rows.len() * width);
        let mut wanted = rows.iter().peekable();
        let mut vector = Vec::new();
        each_row(dataset, |row, numbers| {
            if wanted.next_if_eq(&&row).is_some() {
                vector.clear();
                make(numbers, &mut vector);
                values.extend_from_slice(&vector);
            }
        })?;
        Ok(Self { values, n_rows: rows.len(), width })
    }

    fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.width..(row + 1) * self.width]
    }

    /// Joins vectors at most `radius` apart.
    pub(super) fn within(&self, radius: f64) -> Union {
        if self.n_rows < 2 || self.width == 0 {
            return Union::new(self.n_rows);
        }
        let directions = self.directions();
        let points: Vec<[f32; N_DIRECTIONS]> = (0..self.n_rows)
            .map(|row| {
                std::array::from_fn(|at| directions.get(at).map_or(0.0, |direction| dot(self.row(row), direction)))
            })
            .collect();
        let tree: ImmutableKdTree<f32, u32, N_DIRECTIONS, 32> = ImmutableKdTree::new_from_slice(&points);
        let square = (radius * radius) as f32;
        // The projections are rounded; what is a candidate too many is found out below.
        let around = square * 1.001 + 1e-6;
        Union::gather(self.n_rows, |row, found| {
            for candidate in tree.within_unsorted::<SquaredEuclidean>(&points[row], around) {
                let other = candidate.item as usize;
                if other > row
                    && !found.are_joined(row, other)
                    && square_distance(self.row(row), self.row(other)) <= square
                {
                    found.join(row, other);
                }
            }
        })
    }

    /// Orthonormal directions in which the vectors vary most: subspace iteration on a sample of them. However well
    /// they are found, they are orthonormal.
    fn directions(&self) -> Vec<Vec<f32>> {
        let step = self.n_rows.div_ceil(N_SAMPLED);
        let sample: Vec<&[f32]> = (0..self.n_rows).step_by(step).map(|row| self.row(row)).collect();
        let mut directions: Vec<Vec<f64>> = (0..N_DIRECTIONS.min(self.width))
            .map(|at| sample[at * sample.len() / N_DIRECTIONS].iter().map(|&v| f64::from(v) + 1e-3).collect())
            .collect();
        for (at, direction) in directions.iter_mut().enumerate() {
            direction[at] += 1.0;
        }
        orthonormal(&mut directions);
        for _ in 0..6 {
            let mut next = vec![vec![0.0; self.width]; directions.len()];
            for row in &sample {
                for (next, direction) in next.iter_mut().zip(&directions) {
                    let along: f64 = row.iter().zip(direction).map(|(&v, d)| f64::from(v) * d).sum();
                    next.iter_mut().zip(*row).for_each(|(next, &v)| *next += along * f64::from(v));
                }
            }
            directions = next;
            orthonormal(&mut directions);
        }
        directions.iter().map(|direction| direction.iter().map(|&d| d as f32).collect()).collect()
    }
}

/// Makes directions orthonormal (Gram and Schmidt, twice over); one that depends on those before it becomes zero.
fn orthonormal(directions: &mut [Vec<f64>]) {
    for at in 0..directions.len() {
        let (before, after) = directions.split_at_mut(at);
        let direction = &mut after[0];
        let length = |direction: &[f64]| direction.iter().map(|d| d * d).sum::<f64>().sqrt();
        let whole = length(direction);
        for _ in 0..2 {
            for other in before.iter() {
                let along: f64 = direction.iter().zip(other).map(|(d, o)| d * o).sum();
                direction.iter_mut().zip(other).for_each(|(d, o)| *d -= along * o);
            }
        }
        let rest = length(direction);
        let scale = if rest > 1e-9 * whole && rest > 0.0 { 1.0 / rest } else { 0.0 };
        direction.iter_mut().for_each(|d| *d *= scale);
    }
}

/// The mean of a field of a plane.
fn mean(plane: &[f32], width: usize, [top, bottom]: [usize; 2], [left, right]: [usize; 2]) -> f32 {
    let sum: f32 = (top..bottom).flat_map(|y| &plane[y * width + left..y * width + right]).sum();
    sum / ((bottom - top) * (right - left)) as f32
}

fn dot(one: &[f32], other: &[f32]) -> f32 {
    sum(one, other, |a, b| a * b)
}

fn square_distance(one: &[f32], other: &[f32]) -> f32 {
    sum(one, other, |a, b| (a - b) * (a - b))
}

#[inline(always)]
fn sum(one: &[f32], other: &[f32], term: impl Fn(f32, f32) -> f32) -> f32 {
    let (ones, ones_rest) = one.as_chunks::<LANES>();
    let (others, others_rest) = other.as_chunks::<LANES>();
    let mut sums = [0.0f32; LANES];
    for (a, b) in ones.iter().zip(others) {
        for lane in 0..LANES {
            sums[lane] += term(a[lane], b[lane]);
        }
    }
    let rest: f32 = ones_rest.iter().zip(others_rest).map(|(&a, &b)| term(a, b)).sum();
    sums.iter().sum::<f32>() + rest
}
