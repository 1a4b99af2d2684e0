//! What the defence is fitted to: class centroids (R3), distance quantiles (R4's gate), the inlier bank (R9).

use std::fmt;

use ndarray::{Array2, ArrayView2};

use super::inlier::Bank;
use super::reweight::norm;
use super::scores::ScoreKind;

/// Columns of [`DistanceQuantiles`]: the quantiles 0, 0.01, …, 1.
pub const N_QUANTILES: usize = 101;

/// Why centroids cannot be used. Class names come from the model's owner.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CentroidError {
    /// A class has no training row at all (R3).
    #[error("class {class} ('{name}') has no training row: expected at least one row of every class")]
    NoRows {
        /// The class index.
        class: usize,
        /// Its name.
        name: String,
    },
    /// With the fallback: no row of the class is predicted as that class.
    #[error("class {class} ('{name}') has no training row that the model predicts correctly")]
    NoCorrectRows {
        /// The class index.
        class: usize,
        /// Its name.
        name: String,
    },
    /// `c_k[k] > c_k[j]` does not hold (R3): blending towards this centroid could change labels.
    #[error(
        "the centroid of class {class} ('{name}') is not largest at its own class, but at class {rival}: \
         reweighting could change labels (try --class-fallback correct-rows)"
    )]
    NotDominant {
        /// The class index.
        class: usize,
        /// Its name.
        name: String,
        /// A class at which the centroid is at least as large.
        rival: usize,
    },
    /// A value is not finite.
    #[error("the centroid of class {class} holds a value that is not finite")]
    NonFinite {
        /// The class index.
        class: usize,
    },
    /// The matrix is not square, or empty.
    #[error("expected centroids of shape (n_classes, n_classes), got ({n_rows}, {n_columns})")]
    Shape {
        /// Rows that came.
        n_rows: usize,
        /// Columns that came.
        n_columns: usize,
    },
    /// The distance quantiles have another shape, fall, or leave [0, 2].
    #[error("distance quantiles: {what}")]
    Quantiles {
        /// What is wrong.
        what: &'static str,
    },
    /// The number of class names is not the number of classes.
    #[error("expected {expected} class names, got {got}")]
    Labels {
        /// Number of classes.
        expected: usize,
        /// Number of names.
        got: usize,
    },
    /// A row's logits or label do not fit.
    #[error("expected rows of {expected} logits with a label below {expected}, got {got} logits with label {label}")]
    Row {
        /// Number of classes.
        expected: usize,
        /// Logits that came.
        got: usize,
        /// Label that came.
        label: usize,
    },
}

/// Class centroids of shape `(n_classes, n_classes)`, checked by R3: row `k` is strictly largest at `k`.
#[derive(Debug, Clone, PartialEq)]
pub struct Centroids {
    values: Array2<f32>,
    norms: Vec<f64>,
}

impl Centroids {
    /// Checks centroids as stored, in f32.
    ///
    /// # Errors
    /// [`CentroidError`] when the matrix is not square, a value is not finite, or R3's inequality fails; the
    /// message names the class by `labels`.
    pub fn new(values: Array2<f32>, labels: &[String]) -> Result<Self, CentroidError> {
        let (n_rows, n_columns) = values.dim();
        if n_rows != n_columns || n_rows == 0 {
            return Err(CentroidError::Shape { n_rows, n_columns });
        }
        if labels.len() != n_rows {
            return Err(CentroidError::Labels { expected: n_rows, got: labels.len() });
        }
        let values = values.as_standard_layout().into_owned();
        for (class, row) in values.rows().into_iter().enumerate() {
            if !row.iter().all(|value| value.is_finite()) {
                return Err(CentroidError::NonFinite { class });
            }
            if let Some(rival) = (0..n_rows).find(|&j| j != class && row[j] >= row[class]) {
                return Err(CentroidError::NotDominant { class, name: labels[class].clone(), rival });
            }
        }
        let norms = values.rows().into_iter().map(|row| row.as_slice().map_or(0.0, norm)).collect();
        Ok(Self { values, norms })
    }

    /// The number of classes.
    #[must_use]
    pub fn n_classes(&self) -> usize {
        self.values.nrows()
    }

    /// The values, shape `(n_classes, n_classes)`; row `k` is the centroid of class `k`.
    #[must_use]
    pub fn values(&self) -> ArrayView2<'_, f32> {
        self.values.view()
    }

    /// Centroid of a class and its Euclidean norm.
    pub(super) fn of(&self, class: usize) -> (&[f32], f64) {
        let n = self.n_classes();
        let all = self.values.as_slice().unwrap_or(&[]);
        (&all[class * n..(class + 1) * n], self.norms[class])
    }
}

/// Quantiles 0, 0.01, …, 1 of the training rows' cosine distance `1 − cos(z, c_k)` to the centroid of their true
/// class, shape `(n_classes, 101)`.
#[derive(Debug, Clone, PartialEq)]
pub struct DistanceQuantiles(Array2<f32>);

impl DistanceQuantiles {
    /// Checks a table.
    ///
    /// # Errors
    /// [`CentroidError::Quantiles`] when the shape is another, a row falls, or a value is not in [0, 2].
    pub fn new(table: Array2<f32>, n_classes: usize) -> Result<Self, CentroidError> {
        let wrong = |what| Err(CentroidError::Quantiles { what });
        if table.dim() != (n_classes, N_QUANTILES) {
            return wrong("expected shape (n_classes, 101)");
        }
        if !table.iter().all(|value| (0.0..=2.0).contains(value)) {
            return wrong("expected values between 0 and 2");
        }
        if table.rows().into_iter().any(|row| row.iter().zip(row.iter().skip(1)).any(|(a, b)| a > b)) {
            return wrong("expected values that do not fall along a row");
        }
        Ok(Self(table))
    }

    /// The quantile `q` in [0, 1] of a class, by linear interpolation.
    #[must_use]
    pub fn at(&self, class: usize, q: f64) -> f64 {
        let position = q.clamp(0.0, 1.0) * (N_QUANTILES - 1) as f64;
        let low = (position.floor() as usize).min(N_QUANTILES - 1);
        let high = (low + 1).min(N_QUANTILES - 1);
        let (a, b) = (f64::from(self.0[(class, low)]), f64::from(self.0[(class, high)]));
        a + (b - a) * (position - low as f64)
    }

    /// The table, shape `(n_classes, 101)`.
    #[must_use]
    pub fn values(&self) -> ArrayView2<'_, f32> {
        self.0.view()
    }
}

/// Everything a defence is fitted to, for one model: checked and consistent.
#[derive(Clone, PartialEq)]
pub struct Fitted {
    kind: ScoreKind,
    labels: Vec<String>,
    centroids: Centroids,
    quantiles: DistanceQuantiles,
    bank: Bank,
}

impl Fitted {
    /// Puts the parts together; their number of classes must agree (each part checks its own rules).
    ///
    /// # Errors
    /// [`CentroidError::Labels`] or [`CentroidError::Quantiles`] when the parts disagree.
    pub fn new(
        kind: ScoreKind,
        labels: Vec<String>,
        centroids: Centroids,
        quantiles: DistanceQuantiles,
        bank: Bank,
    ) -> Result<Self, CentroidError> {
        let n = centroids.n_classes();
        if labels.len() != n {
            return Err(CentroidError::Labels { expected: n, got: labels.len() });
        }
        if quantiles.values().nrows() != n || bank.n_classes() != n {
            return Err(CentroidError::Quantiles { what: "expected as many classes as the centroids have" });
        }
        Ok(Self { kind, labels, centroids, quantiles, bank })
    }

    /// The kind of scores it was fitted on.
    #[must_use]
    pub fn kind(&self) -> ScoreKind {
        self.kind
    }

    /// The class names, by index.
    #[must_use]
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// The number of classes.
    #[must_use]
    pub fn n_classes(&self) -> usize {
        self.centroids.n_classes()
    }

    /// The centroids (R3).
    #[must_use]
    pub fn centroids(&self) -> &Centroids {
        &self.centroids
    }

    /// The distance quantiles (R4's gate, R9).
    #[must_use]
    pub fn quantiles(&self) -> &DistanceQuantiles {
        &self.quantiles
    }

    /// The inlier bank (R9).
    #[must_use]
    pub fn bank(&self) -> &Bank {
        &self.bank
    }
}

impl fmt::Debug for Fitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fitted({} classes, {}, {} inlier rows)", self.n_classes(), self.kind, self.bank.n_rows())
    }
}
