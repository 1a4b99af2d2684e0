//! R9: the paper's other form: logits of the nearest training row that lies close to the class centroid.
//!
//! A [`Bank`] holds such rows; the index over it finds, for a row's logits and label, the bank row of that class
//! at the smallest cosine distance. Candidates come from a kiddo tree over a few coordinates of the unit vectors
//! (those of the largest variance); as a projection never lengthens a distance, one range query around the first
//! candidate then holds the true nearest row, and the answer is exact.

use kiddo::SquaredEuclidean;
use kiddo::immutable::float::kdtree::ImmutableKdTree;
use ndarray::{Array2, ArrayView2};

use super::label::is_strictly_largest;
use super::reweight::norm;

/// Why a bank cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BankError {
    /// The parts have different numbers of rows.
    #[error("inlier bank: {logits} rows of logits, {labels} labels, {distances} distances")]
    Rows {
        /// Rows of logits.
        logits: usize,
        /// Labels.
        labels: usize,
        /// Distances.
        distances: usize,
    },
    /// A row is not finite, its distance is outside of [0, 2], or its label is not its strict argmax.
    #[error("inlier bank: row {row} is not finite, or its largest logit is not that of its label")]
    Row {
        /// The first such row.
        row: usize,
    },
}

/// Training rows as inliers: logits `(n_rows, n_classes)`, their class, and their cosine distance to its centroid.
/// Every row is of the class it is predicted as.
#[derive(Clone, PartialEq)]
pub struct Bank {
    logits: Array2<f32>,
    labels: Vec<u32>,
    distances: Vec<f32>,
}

impl Bank {
    /// Checks a bank.
    ///
    /// # Errors
    /// [`BankError`] when the parts disagree or a row breaks the promise above.
    pub fn new(logits: Array2<f32>, labels: Vec<u32>, distances: Vec<f32>) -> Result<Self, BankError> {
        if logits.nrows() != labels.len() || labels.len() != distances.len() {
            return Err(BankError::Rows { logits: logits.nrows(), labels: labels.len(), distances: distances.len() });
        }
        let logits = logits.as_standard_layout().into_owned();
        for (row, z) in logits.rows().into_iter().enumerate() {
            let strict = z.as_slice().is_some_and(|z| is_strictly_largest(z, labels[row] as usize));
            if !strict || !z.iter().all(|value| value.is_finite()) || !(0.0..=2.0).contains(&distances[row]) {
                return Err(BankError::Row { row });
            }
        }
        Ok(Self { logits, labels, distances })
    }

    /// A bank without rows.
    #[must_use]
    pub fn empty(n_classes: usize) -> Self {
        Self { logits: Array2::zeros((0, n_classes)), labels: Vec::new(), distances: Vec::new() }
    }

    /// Whether a row's logits may enter a bank under `label`: it is their strict argmax.
    #[must_use]
    pub fn admits(logits: &[f32], label: usize) -> bool {
        is_strictly_largest(logits, label)
    }

    /// The number of rows.
    #[must_use]
    pub fn n_rows(&self) -> usize {
        self.labels.len()
    }

    /// The number of classes.
    #[must_use]
    pub fn n_classes(&self) -> usize {
        self.logits.ncols()
    }

    /// The logits, shape `(n_rows, n_classes)`.
    #[must_use]
    pub fn logits(&self) -> ArrayView2<'_, f32> {
        self.logits.view()
    }

    /// The class of each row.
    #[must_use]
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// The cosine distance of each row to the centroid of its class.
    #[must_use]
    pub fn distances(&self) -> &[f32] {
        &self.distances
    }

    fn row(&self, row: usize) -> &[f32] {
        let n = self.n_classes();
        &self.logits.as_slice().unwrap_or(&[])[row * n..(row + 1) * n]
    }
}

/// A kiddo tree over so many coordinates.
enum Tree {
    Two(ImmutableKdTree<f32, u32, 2, 32>),
    Four(ImmutableKdTree<f32, u32, 4, 32>),
    Eight(ImmutableKdTree<f32, u32, 8, 32>),
    Sixteen(ImmutableKdTree<f32, u32, 16, 32>),
    /// Fewer than two classes: nothing to search by.
    First,
}

impl Tree {
    fn new(points: &[Vec<f32>], n_axes: usize) -> Self {
        fn cut<const D: usize>(points: &[Vec<f32>]) -> Vec<[f32; D]> {
            points.iter().map(|point| std::array::from_fn(|axis| point[axis])).collect()
        }
        match n_axes {
            16.. => Tree::Sixteen(ImmutableKdTree::new_from_slice(&cut(points))),
            8.. => Tree::Eight(ImmutableKdTree::new_from_slice(&cut(points))),
            4.. => Tree::Four(ImmutableKdTree::new_from_slice(&cut(points))),
            2.. => Tree::Two(ImmutableKdTree::new_from_slice(&cut(points))),
            _ => Tree::First,
        }
    }

    fn nearest(&self, query: &[f32]) -> u32 {
        fn cut<const D: usize>(query: &[f32]) -> [f32; D] {
            std::array::from_fn(|axis| query[axis])
        }
        match self {
            Tree::Two(tree) => tree.nearest_one::<SquaredEuclidean>(&cut(query)).item,
            Tree::Four(tree) => tree.nearest_one::<SquaredEuclidean>(&cut(query)).item,
            Tree::Eight(tree) => tree.nearest_one::<SquaredEuclidean>(&cut(query)).item,
            Tree::Sixteen(tree) => tree.nearest_one::<SquaredEuclidean>(&cut(query)).item,
            Tree::First => 0,
        }
    }

    fn within(&self, query: &[f32], square: f32) -> Vec<u32> {
        fn cut<const D: usize>(query: &[f32]) -> [f32; D] {
            std::array::from_fn(|axis| query[axis])
        }
        let found = match self {
            Tree::Two(tree) => tree.within_unsorted::<SquaredEuclidean>(&cut(query), square),
            Tree::Four(tree) => tree.within_unsorted::<SquaredEuclidean>(&cut(query), square),
            Tree::Eight(tree) => tree.within_unsorted::<SquaredEuclidean>(&cut(query), square),
            Tree::Sixteen(tree) => tree.within_unsorted::<SquaredEuclidean>(&cut(query), square),
            Tree::First => Vec::new(),
        };
        found.into_iter().map(|neighbour| neighbour.item).collect()
    }
}

/// The rows of one class, ready to be searched.
struct ClassIndex {
    /// Rows of the bank.
    rows: Vec<usize>,
    /// Their unit vectors.
    units: Vec<Vec<f32>>,
    /// The coordinates that the tree holds.
    axes: Vec<usize>,
    tree: Tree,
}

/// Nearest-row search over a bank, one tree per class.
pub(super) struct InlierIndex {
    bank: Bank,
    classes: Vec<ClassIndex>,
}

impl InlierIndex {
    /// Indexes the rows whose distance is at most `limit(class)`. The class without such a row is the error.
    pub(super) fn new(bank: &Bank, limit: impl Fn(usize) -> f64) -> Result<Self, usize> {
        let classes = (0..bank.n_classes())
            .map(|class| {
                let rows: Vec<usize> = (0..bank.n_rows())
                    .filter(|&row| bank.labels[row] as usize == class && f64::from(bank.distances[row]) <= limit(class))
                    .collect();
                if rows.is_empty() { Err(class) } else { Ok(ClassIndex::new(bank, rows)) }
            })
            .collect::<Result<_, usize>>()?;
        Ok(Self { bank: bank.clone(), classes })
    }

    /// The logits of the bank row of class `label` at the smallest cosine distance from `z`; ties: lowest row.
    pub(super) fn nearest(&self, z: &[f32], label: usize) -> &[f32] {
        let class = &self.classes[label];
        self.bank.row(class.rows[class.nearest(&unit(z))])
    }
}

impl ClassIndex {
    fn new(bank: &Bank, rows: Vec<usize>) -> Self {
        let units: Vec<Vec<f32>> = rows.iter().map(|&row| unit(bank.row(row))).collect();
        let axes = widest_axes(&units);
        let points: Vec<Vec<f32>> = units.iter().map(|unit| axes.iter().map(|&axis| unit[axis]).collect()).collect();
        let tree = Tree::new(&points, axes.len());
        Self { rows, units, axes, tree }
    }

    fn nearest(&self, query: &[f32]) -> usize {
        let cut: Vec<f32> = self.axes.iter().map(|&axis| query[axis]).collect();
        let first = self.tree.nearest(&cut) as usize;
        let square = square_distance(&self.units[first], query);
        // The tree measures in f32: widen the range by more than its rounding.
        let candidates = self.tree.within(&cut, (square * 1.0001 + 1e-6) as f32);
        let better = |best: (f64, usize), row: usize| {
            let square = square_distance(&self.units[row], query);
            if square < best.0 || (square == best.0 && row < best.1) { (square, row) } else { best }
        };
        candidates.into_iter().fold((square, first), |best, row| better(best, row as usize)).1
    }
}

/// `z / |z|`; a zero vector stays zero.
fn unit(z: &[f32]) -> Vec<f32> {
    let norm = norm(z);
    z.iter().map(|&value| if norm > 0.0 { (f64::from(value) / norm) as f32 } else { 0.0 }).collect()
}

fn square_distance(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2)).sum()
}

/// The 16, 8, 4 or 2 coordinates of the largest variance (as many as there are), none below two coordinates.
fn widest_axes(units: &[Vec<f32>]) -> Vec<usize> {
    let n_classes = units.first().map_or(0, Vec::len);
    let n_axes = [16, 8, 4, 2].into_iter().find(|&n| n <= n_classes).unwrap_or(0);
    let n = units.len().max(1) as f64;
    let variance = |axis: usize| {
        let mean = units.iter().map(|unit| f64::from(unit[axis])).sum::<f64>() / n;
        units.iter().map(|unit| (f64::from(unit[axis]) - mean).powi(2)).sum::<f64>()
    };
    let mut axes: Vec<(f64, usize)> = (0..n_classes).map(|axis| (variance(axis), axis)).collect();
    axes.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    axes.into_iter().take(n_axes).map(|(_, axis)| axis).collect()
}

#[cfg(test)]
impl InlierIndex {
    /// Brute force over all rows of the class: the oracle of the tests.
    pub(super) fn nearest_by_brute_force(&self, z: &[f32], label: usize) -> &[f32] {
        let class = &self.classes[label];
        let query = unit(z);
        let mut best = (f64::INFINITY, 0);
        for (row, unit) in class.units.iter().enumerate() {
            let square = square_distance(unit, &query);
            if square < best.0 {
                best = (square, row);
            }
        }
        self.bank.row(class.rows[best.1])
    }
}
