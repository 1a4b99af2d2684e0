//! Attacks that read the label alone, of changed inputs: a member's label tends to hold out longer (Choquette-Choo et
//! al. 2021).
//!
//! Responsible for changing inputs and counting answers; a [`Querier`] asks. Every attack here ends in one score a row,
//! higher for members, which enters a study as [`GivenScores`](crate::audit::study::GivenScores). No defence of scores
//! helps against them, so they belong to the floor as well. Changed inputs stay within the range that the caller
//! names. What a row costs in queries is told before anything is asked.

use ndarray::{Array2, ArrayD, ArrayView1, Axis, IxDyn};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::audit::source::{Querier, QueryError};

/// Rows asked at once.
const BATCH: usize = 1_024;

/// A change of an input that leaves what it shows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Change {
    /// Normal noise of this deviation, so many copies a row.
    Noise {
        /// Deviation, in units of the input.
        deviation: f32,
        /// Copies.
        copies: usize,
    },
    /// Binary features turned over, each with this probability.
    Flips {
        /// Probability.
        share: f32,
        /// Copies.
        copies: usize,
    },
    /// Images: the mirror image, and shifts by so many pixels in eight directions; what moves in is the edge.
    Shifts {
        /// Pixels.
        pixels: usize,
    },
}

/// The range of an input's values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Range {
    /// Smallest value.
    pub low: f32,
    /// Largest value.
    pub high: f32,
}

impl Change {
    /// Queries for each row.
    #[must_use]
    pub fn queries_per_row(&self) -> u64 {
        match self {
            Change::Noise { copies, .. } | Change::Flips { copies, .. } => *copies as u64,
            Change::Shifts { .. } => 10,
        }
    }

    /// The name in tables.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Change::Noise { deviation, copies } => format!("label under noise of {deviation}, {copies} queries"),
            Change::Flips { share, copies } => format!("label under flips of {share}, {copies} queries"),
            Change::Shifts { pixels } => format!("label under mirror and shifts by {pixels}, 10 queries"),
        }
    }

    /// The `copy`-th changed form of all rows of `inputs`, of shape (n_rows, row shape…).
    #[must_use]
    pub fn form(&self, inputs: &ArrayD<f32>, copy: usize, range: Range, seed: u64) -> ArrayD<f32> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(copy as u64);
        match *self {
            Change::Noise { deviation, .. } => {
                inputs.mapv(|value| (value + deviation * normal(&mut rng)).clamp(range.low, range.high))
            }
            Change::Flips { share, .. } => {
                inputs.mapv(|value| if rng.random::<f32>() < share { range.low + range.high - value } else { value })
            }
            Change::Shifts { pixels } => {
                let step = pixels as isize;
                let (mirror, dy, dx) = match copy {
                    0 => (false, 0, 0),
                    1 => (true, 0, 0),
                    // The eight neighbours, the middle left out.
                    _ => {
                        let place = copy - 2 + usize::from(copy - 2 >= 4);
                        (false, (place / 3) as isize - 1, (place % 3) as isize - 1)
                    }
                };
                moved(inputs, mirror, dy * step, dx * step)
            }
        }
    }
}

/// About normal: the sum of twelve uniform values.
fn normal(rng: &mut ChaCha8Rng) -> f32 {
    (0..12).map(|_| rng.random::<f32>()).sum::<f32>() - 6.0
}

/// Images of shape (n_rows, …, height, width), moved; other shapes as they are.
fn moved(inputs: &ArrayD<f32>, mirror: bool, dy: isize, dx: isize) -> ArrayD<f32> {
    let shape = inputs.shape().to_vec();
    if shape.len() < 3 {
        return inputs.clone();
    }
    let (height, width) = (shape[shape.len() - 2], shape[shape.len() - 1]);
    let clamp = |place: isize, size: usize| place.clamp(0, size as isize - 1) as usize;
    ArrayD::from_shape_fn(IxDyn(&shape), |mut index| {
        let n = shape.len();
        let (y, x) = (clamp(index[n - 2] as isize - dy, height), clamp(index[n - 1] as isize - dx, width));
        index[n - 2] = y;
        index[n - 1] = if mirror { width - 1 - x } else { x };
        inputs[index]
    })
}

/// The share of each row's changed forms whose label is the true one: `inputs` has shape (n_rows, row shape…).
///
/// # Errors
/// [`QueryError`], before the first query where the budget does not hold all.
pub fn robustness(
    querier: &mut dyn Querier,
    inputs: &ArrayD<f32>,
    labels: &[u32],
    change: Change,
    range: Range,
    seed: u64,
) -> Result<Vec<f64>, QueryError> {
    within_budget(querier, change.queries_per_row() * labels.len() as u64)?;
    let n_copies = change.queries_per_row() as usize;
    let mut held = vec![0_u32; labels.len()];
    for copy in 0..n_copies {
        let predicted = ask(querier, &change.form(inputs, copy, range, seed))?;
        held.iter_mut().zip(predicted).zip(labels).for_each(|((held, got), &label)| *held += u32::from(got == label));
    }
    Ok(held.into_iter().map(|held| f64::from(held) / n_copies.max(1) as f64).collect())
}

fn within_budget(querier: &dyn Querier, wanted: u64) -> Result<(), QueryError> {
    match querier.n_left() {
        Some(left) if left < wanted => Err(QueryError::Budget { wanted, left }),
        _ => Ok(()),
    }
}

/// The labels of all rows, asked in batches.
fn ask(querier: &mut dyn Querier, inputs: &ArrayD<f32>) -> Result<Vec<u32>, QueryError> {
    let mut labels = Vec::with_capacity(inputs.shape()[0]);
    for batch in inputs.axis_chunks_iter(Axis(0), BATCH) {
        labels.extend(querier.ask(&batch.to_owned())?.predicted);
    }
    Ok(labels)
}

/// How far the boundary is looked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BoundarySettings {
    /// Halvings of a line from a row to a point of another label.
    pub n_halvings: usize,
    /// Steps along the boundary (HopSkipJump).
    pub n_steps: usize,
    /// Directions by which the slope of the boundary is told, each step.
    pub n_directions: usize,
    /// The range of the inputs.
    pub range: Range,
    /// Seed of the directions.
    pub seed: u64,
}

impl BoundarySettings {
    /// Queries for each row that has its label.
    #[must_use]
    pub fn queries_per_row(&self) -> u64 {
        (1 + self.n_halvings + self.n_steps * (self.n_directions + N_TRIES + self.n_halvings)) as u64
    }
}

/// Step lengths tried.
const N_TRIES: usize = 3;

/// Distance of each row to the decision boundary, 0 for a row whose label is wrong: a short HopSkipJump in lockstep
/// over all rows. `inputs` has shape (n_rows, row shape…), `starts` any rows of several classes to begin from. A row
/// for which no start has another label has the largest distance of all.
///
/// # Errors
/// [`QueryError`], before the first query where the budget does not hold all.
pub fn boundary_distances(
    querier: &mut dyn Querier,
    inputs: &ArrayD<f32>,
    labels: &[u32],
    starts: &ArrayD<f32>,
    settings: &BoundarySettings,
) -> Result<Vec<f64>, QueryError> {
    let n_starts = starts.shape()[0] as u64;
    within_budget(querier, n_starts + settings.queries_per_row() * labels.len() as u64)?;
    let shape = inputs.shape().to_vec();
    let (inputs, starts_flat) = (flat(inputs), flat(starts));
    let mut search = Search { querier, shape, labels: labels.to_vec(), settings, inputs };
    let right = search.has_label(&search.inputs.clone(), &(0..labels.len()).collect::<Vec<_>>())?;
    let of_starts = ask(search.querier, starts)?;

    // The nearest start of another label, for each row that has its own.
    let mut rows = Vec::new();
    let mut points = Vec::new();
    let mut unbounded = Vec::new();
    for row in (0..labels.len()).filter(|&row| right[row]) {
        let others = (0..of_starts.len()).filter(|&start| of_starts[start] != labels[row]);
        let far = |start: &usize| distance(starts_flat.row(*start), search.inputs.row(row));
        match others.min_by(|a, b| far(a).total_cmp(&far(b))) {
            None => unbounded.push(row),
            Some(start) => {
                rows.push(row);
                points.push(starts_flat.row(start).to_vec());
            }
        }
    }
    let width = search.inputs.ncols();
    let points: Vec<f32> = points.concat();
    let mut points = Array2::from_shape_vec((rows.len(), width), points).unwrap_or_else(|_| Array2::zeros((0, width)));
    search.halve(&rows, &mut points)?;
    for step in 0..settings.n_steps {
        search.hop(&rows, &mut points, step)?;
    }
    let mut distances = vec![0.0; labels.len()];
    for (place, &row) in rows.iter().enumerate() {
        distances[row] = distance(points.row(place), search.inputs.row(row));
    }
    let largest = distances.iter().copied().fold(0.0, f64::max);
    unbounded.into_iter().for_each(|row| distances[row] = largest);
    Ok(distances)
}

fn flat(inputs: &ArrayD<f32>) -> Array2<f32> {
    let n_rows = inputs.shape()[0];
    let width = inputs.len().checked_div(n_rows).unwrap_or(0);
    let values: Vec<f32> = inputs.iter().copied().collect();
    Array2::from_shape_vec((n_rows, width), values).unwrap_or_else(|_| Array2::zeros((n_rows, 0)))
}

fn distance(a: ArrayView1<'_, f32>, b: ArrayView1<'_, f32>) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt()
}

/// A search of many rows at once.
struct Search<'a> {
    querier: &'a mut dyn Querier,
    shape: Vec<usize>,
    labels: Vec<u32>,
    settings: &'a BoundarySettings,
    inputs: Array2<f32>,
}

impl Search<'_> {
    /// Whether each of `points`, which belong to `rows`, has its row's true label.
    fn has_label(&mut self, points: &Array2<f32>, rows: &[usize]) -> Result<Vec<bool>, QueryError> {
        let mut shape = self.shape.clone();
        shape[0] = points.nrows();
        let values: Vec<f32> = points.iter().copied().collect();
        let refused = |_| QueryError::Refused { what: "points of another width than the rows".to_owned() };
        let points = ArrayD::from_shape_vec(IxDyn(&shape), values).map_err(refused)?;
        let predicted = ask(self.querier, &points)?;
        Ok(predicted.iter().zip(rows).map(|(&got, &row)| got == self.labels[row]).collect())
    }

    /// Draws each point along the line to its row as near as it keeps another label.
    fn halve(&mut self, rows: &[usize], points: &mut Array2<f32>) -> Result<(), QueryError> {
        let mut near = vec![0.0_f32; rows.len()];
        let mut far = vec![1.0_f32; rows.len()];
        let at = |search: &Self, shares: &[f32], points: &Array2<f32>| {
            Array2::from_shape_fn(points.raw_dim(), |(place, column)| {
                let from = search.inputs[(rows[place], column)];
                from + shares[place] * (points[(place, column)] - from)
            })
        };
        for _ in 0..self.settings.n_halvings {
            let middle: Vec<f32> = near.iter().zip(&far).map(|(a, b)| f32::midpoint(*a, *b)).collect();
            let inside = self.has_label(&at(self, &middle, points), rows)?;
            for (place, inside) in inside.into_iter().enumerate() {
                if inside { near[place] = middle[place] } else { far[place] = middle[place] }
            }
        }
        *points = at(self, &far, points);
        Ok(())
    }

    /// One step: the slope by random directions, a step along it, back to the boundary. A row keeps its point where
    /// the step does not bring it nearer.
    fn hop(&mut self, rows: &[usize], points: &mut Array2<f32>, step: usize) -> Result<(), QueryError> {
        let settings = *self.settings;
        let width = points.ncols();
        let reach: Vec<f64> =
            rows.iter().enumerate().map(|(place, &row)| distance(points.row(place), self.inputs.row(row))).collect();
        let clip = |value: f32| value.clamp(settings.range.low, settings.range.high);
        let mut slopes = Array2::<f32>::zeros(points.raw_dim());
        let (mut signs, mut sums) = (vec![0.0_f32; rows.len()], Array2::<f32>::zeros(points.raw_dim()));
        for direction in 0..settings.n_directions {
            let mut rng = ChaCha8Rng::seed_from_u64(settings.seed);
            rng.set_stream((step * settings.n_directions + direction) as u64);
            let mut unit: Vec<f32> = (0..width).map(|_| normal(&mut rng)).collect();
            let norm = unit.iter().map(|value| value * value).sum::<f32>().sqrt();
            unit.iter_mut().for_each(|value| *value /= norm);
            let tried = Array2::from_shape_fn(points.raw_dim(), |(place, column)| {
                clip(points[(place, column)] + 0.1 * reach[place] as f32 * unit[column])
            });
            let inside = self.has_label(&tried, rows)?;
            for (place, inside) in inside.into_iter().enumerate() {
                let sign = if inside { -1.0 } else { 1.0 };
                signs[place] += sign;
                for column in 0..width {
                    slopes[(place, column)] += sign * unit[column];
                    sums[(place, column)] += unit[column];
                }
            }
        }
        // The mean sign as a baseline, as HopSkipJump takes it.
        for (place, sign) in signs.iter().enumerate() {
            let baseline = sign / settings.n_directions.max(1) as f32;
            let mut slope = slopes.row_mut(place);
            slope.scaled_add(-baseline, &sums.row(place));
            let norm = slope.iter().map(|value| value * value).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
            slope.mapv_inplace(|value| value / norm);
        }
        let mut candidate = points.clone();
        let mut open = vec![true; rows.len()];
        for attempt in 0..N_TRIES {
            let length = |place: usize| reach[place] as f32 / ((step + 1) as f32).sqrt() / (1 << attempt) as f32;
            let tried = Array2::from_shape_fn(points.raw_dim(), |(place, column)| {
                clip(points[(place, column)] + length(place) * slopes[(place, column)])
            });
            let inside = self.has_label(&tried, rows)?;
            for place in 0..rows.len() {
                if open[place] && !inside[place] {
                    open[place] = false;
                    candidate.row_mut(place).assign(&tried.row(place));
                }
            }
        }
        self.halve(rows, &mut candidate)?;
        for (place, &row) in rows.iter().enumerate() {
            if distance(candidate.row(place), self.inputs.row(row)) < reach[place] {
                points.row_mut(place).assign(&candidate.row(place));
            }
        }
        Ok(())
    }
}

/// For binary features: how many must be turned over, in a random order, until the label changes; the mean over
/// `n_orders` orders, found by halving (as if the label changed once along the way), 0 for a row whose label is wrong.
///
/// # Errors
/// [`QueryError`], before the first query where the budget does not hold all.
pub fn flip_distances(
    querier: &mut dyn Querier,
    inputs: &ArrayD<f32>,
    labels: &[u32],
    n_orders: usize,
    range: Range,
    seed: u64,
) -> Result<Vec<f64>, QueryError> {
    let shape = inputs.shape().to_vec();
    let inputs = flat(inputs);
    let width = inputs.ncols();
    let n_halvings = (width.max(1) as f64).log2().ceil() as usize + 1;
    within_budget(querier, ((1 + n_orders * n_halvings) * labels.len()) as u64)?;
    let all: Vec<usize> = (0..labels.len()).collect();
    let placeholder = BoundarySettings { n_halvings: 0, n_steps: 0, n_directions: 0, range, seed };
    let mut search = Search { querier, shape, labels: labels.to_vec(), settings: &placeholder, inputs };
    let right = search.has_label(&search.inputs.clone(), &all)?;
    let mut sums = vec![0.0; labels.len()];
    for turn in 0..n_orders {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(turn as u64);
        let mut order: Vec<usize> = (0..width).collect();
        order.shuffle(&mut rng);
        let mut rank = vec![0; width];
        order.iter().enumerate().for_each(|(place, &column)| rank[column] = place);
        let (mut near, mut far) = (vec![0; labels.len()], vec![width; labels.len()]);
        for _ in 0..n_halvings {
            let middle: Vec<usize> = near.iter().zip(&far).map(|(a, b)| (a + b) / 2).collect();
            let tried = Array2::from_shape_fn(search.inputs.raw_dim(), |(row, column)| {
                let value = search.inputs[(row, column)];
                if rank[column] < middle[row] { range.low + range.high - value } else { value }
            });
            let inside = search.has_label(&tried, &all)?;
            for (row, inside) in inside.into_iter().enumerate() {
                if inside { near[row] = middle[row] } else { far[row] = middle[row] }
            }
        }
        sums.iter_mut().zip(&far).for_each(|(sum, &far)| *sum += far as f64 / n_orders as f64);
    }
    Ok(sums.into_iter().zip(right).map(|(sum, right)| if right { sum } else { 0.0 }).collect())
}

#[cfg(test)]
pub(super) mod half_plane {
    //! A system whose boundary is known: label 1 where the first value is above the second.

    use super::*;
    use crate::audit::answers::Answers;

    pub(in crate::audit) struct HalfPlane {
        pub(in crate::audit) n_asked: u64,
        pub(in crate::audit) budget: Option<u64>,
    }

    impl Querier for HalfPlane {
        fn ask(&mut self, inputs: &ArrayD<f32>) -> Result<Answers, QueryError> {
            let flat = flat(inputs);
            self.n_asked += flat.nrows() as u64;
            let labels = flat.rows().into_iter().map(|row| u32::from(row[0] > row[1])).collect();
            Ok(Answers::of_labels(labels, 2))
        }

        fn n_asked(&self) -> u64 {
            self.n_asked
        }

        fn n_left(&self) -> Option<u64> {
            self.budget.map(|budget| budget - self.n_asked)
        }
    }
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::half_plane::HalfPlane;
    use super::*;

    const RANGE: Range = Range { low: -10.0, high: 10.0 };

    fn asked() -> HalfPlane {
        HalfPlane { n_asked: 0, budget: None }
    }

    #[test]
    fn the_distance_to_a_straight_boundary_is_found() {
        // Distances |a − b|/√2: 1, 2, 3; the last row has a wrong label.
        let r = 2.0_f32.sqrt();
        let inputs = array![[r, 0.0], [2.0 * r, 0.0], [0.0, 3.0 * r], [0.0, 1.0]].into_dyn();
        let starts = array![[-4.0, 5.0], [6.0, 1.0]].into_dyn();
        let settings = BoundarySettings { n_halvings: 14, n_steps: 6, n_directions: 40, range: RANGE, seed: 1 };
        let mut system = asked();
        let found = boundary_distances(&mut system, &inputs, &[1, 1, 0, 1], &starts, &settings).unwrap();
        for (found, expected) in found.iter().zip([1.0, 2.0, 3.0, 0.0]) {
            assert!(*found >= expected - 1e-3 && *found < expected * 1.1 + 1e-3, "{found} {expected}");
        }
        // The row with the wrong label costs its one query alone.
        assert!(system.n_asked <= 2 + 4 * settings.queries_per_row());
        assert!(found[0] < found[1] && found[1] < found[2]);
    }

    #[test]
    fn a_budget_is_held_before_the_first_query() {
        let inputs = array![[1.0, 0.0], [2.0, 0.0]].into_dyn();
        let change = Change::Noise { deviation: 1.0, copies: 50 };
        let mut system = HalfPlane { n_asked: 0, budget: Some(99) };
        let error = robustness(&mut system, &inputs, &[1, 1], change, RANGE, 1).unwrap_err();
        assert!(matches!(error, QueryError::Budget { wanted: 100, left: 99 }));
        assert_eq!(system.n_asked, 0);
        let settings = BoundarySettings { n_halvings: 9, n_steps: 3, n_directions: 20, range: RANGE, seed: 1 };
        assert!(boundary_distances(&mut system, &inputs, &[1, 1], &inputs, &settings).is_err());
        assert!(flip_distances(&mut system, &inputs, &[1, 1], 40, RANGE, 1).is_err());
        assert_eq!(system.n_asked, 0);
    }

    #[test]
    fn rows_far_from_the_boundary_keep_their_label_under_noise() {
        let inputs = array![[0.2, 0.0], [9.0, 0.0], [0.0, 1.0]].into_dyn();
        let change = Change::Noise { deviation: 1.0, copies: 200 };
        let mut system = asked();
        let held = robustness(&mut system, &inputs, &[1, 1, 1], change, RANGE, 3).unwrap();
        assert!(held[0] > 0.5 && held[0] < 0.7, "{held:?}");
        assert!(held[1] > 0.99 && held[2] < 0.4, "{held:?}");
        assert_eq!(system.n_asked, 600);
        assert_eq!(held, robustness(&mut asked(), &inputs, &[1, 1, 1], change, RANGE, 3).unwrap());
    }

    #[test]
    fn an_image_is_mirrored_and_shifted_in_eight_directions() {
        let image = ArrayD::from_shape_vec(IxDyn(&[1, 1, 3, 3]), (0..9).map(|v| v as f32).collect()).unwrap();
        let change = Change::Shifts { pixels: 1 };
        let forms: Vec<Vec<f32>> =
            (0..10).map(|copy| change.form(&image, copy, RANGE, 1).iter().copied().collect()).collect();
        assert_eq!(forms[0], image.iter().copied().collect::<Vec<_>>());
        assert_eq!(forms[1], [2.0, 1.0, 0.0, 5.0, 4.0, 3.0, 8.0, 7.0, 6.0]);
        // Up and to the left: what stood in the middle stands in the corner, the edge is repeated.
        assert_eq!(forms[2], [4.0, 5.0, 5.0, 7.0, 8.0, 8.0, 7.0, 8.0, 8.0]);
        let mut distinct = forms.clone();
        distinct.sort_by(|a, b| a.partial_cmp(b).unwrap());
        distinct.dedup();
        assert_eq!(distinct.len(), 10);
    }

    #[test]
    fn binary_rows_are_flipped_until_the_label_changes() {
        // [1, 0, …] has label 1; turning over the first two columns makes it 0.
        let inputs = array![[1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 0.0]].into_dyn();
        let range = Range { low: 0.0, high: 1.0 };
        let found = flip_distances(&mut asked(), &inputs, &[1, 1], 30, range, 1).unwrap();
        // The label goes with the first of the two columns in the order: 5/3 on average.
        assert!((found[0] - 5.0 / 3.0).abs() < 0.4 && found[1] == 0.0, "{found:?}");
    }
}
