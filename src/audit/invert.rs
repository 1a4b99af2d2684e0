//! The attacker who knows the defence (Kerckhoffs): from one emitted row back to the logits that it was made from.
//!
//! What it knows is what a deployment publishes or an insider reads: the settings of the defence and the class
//! centroids, for a gate also the distance quantiles. It has neither the model nor training rows. A blend
//! `m = s·z + (1−s)·c` is a known function of `z`, and `ln p = m − const`, so with `r_j = ln p_j − c_j`
//!
//! ```text
//! z_j = c_j + (r_j − mean r)/s        s = clamp(w · cos(z, c), 0, 1)
//! ```
//!
//! for every class whose probability is not 0. The additive constant is lost in the softmax; it is guessed by giving `z`
//! the mean of `c`, which only the cosine depends on. `s` is found by iterating from its largest value, `w`.
//! Classes that a mask or rounding has emptied are taken to lie at the centroid for the cosine, and are left out
//! of the recovered loss. A row with fewer than two classes left (label-only, "1.00") is read as it is.
//!
//! Where the blend went towards a training row instead (R9), that row is unknown and the centroid stands for it.

use ndarray::{Array2, ArrayView1};

use crate::defence::{DefenceConfig, Fitted, Gate, Method};

/// More steps than the fixed point takes to settle.
const N_STEPS: usize = 60;

/// The smallest share, over the weight, that the iteration may reach: farther out the guessed constant makes the
/// iteration run away, and a rough share still keeps the rows in nearly the right order.
const LEAST_SHARE: f64 = 0.5;

/// A gated row is taken for reweighted only if as it stands it is nearer to the centroid than this quantile of the
/// training rows: the blend brings an outlier nearer than nearly all rows that are let pass.
const NEARER_THAN: f64 = 0.1;

/// How the answers of one system are read back.
#[derive(Debug, Clone)]
pub struct Inversion {
    how: How,
}

#[derive(Debug, Clone)]
enum How {
    /// As they stand: undefended, label-only.
    AsIs,
    /// Logarithms times the temperature.
    Temperature(f64),
    /// R4's blend undone.
    Blend { weight: f64, centroids: Array2<f64>, gates: Option<Vec<Gated>> },
}

/// What a gate of one class does, in cosine distances.
#[derive(Debug, Clone, Copy)]
struct Gated {
    /// Rows farther out than this are reweighted.
    beyond: f64,
    /// Rows that look nearer than this may be reweighted ones.
    suspect: f64,
}

impl Inversion {
    /// Reads answers as they stand.
    #[must_use]
    pub fn as_is() -> Self {
        Self { how: How::AsIs }
    }

    /// Undoes a temperature.
    #[must_use]
    pub fn temperature(value: f64) -> Self {
        Self { how: How::Temperature(value) }
    }

    /// Undoes a defence, with what it was fitted to.
    #[must_use]
    pub fn of(config: &DefenceConfig, fitted: &Fitted) -> Self {
        let (weight, gate) = match config.method {
            Method::Reweight { weight, when: Gate::Always } => (weight, None),
            Method::Reweight { weight, when: Gate::DistanceAbove { quantile } } => (weight, Some(quantile)),
            Method::Inlier { weight, .. } => (weight, None),
            Method::LabelOnly => return Self::as_is(),
        };
        let of_class = |class, quantile| Gated {
            beyond: fitted.quantiles().at(class, quantile),
            suspect: fitted.quantiles().at(class, NEARER_THAN),
        };
        let gates = gate.map(|quantile| (0..fitted.n_classes()).map(|class| of_class(class, quantile)).collect());
        Self { how: How::Blend { weight, centroids: fitted.centroids().values().mapv(f64::from), gates } }
    }

    /// The logits of a row up to a constant, minus infinity for a class that cannot be known; `probabilities` and
    /// the result have shape (n_classes).
    #[must_use]
    pub fn logits(&self, probabilities: ArrayView1<'_, f64>, predicted: u32) -> Vec<f64> {
        let logs = || probabilities.iter().map(|p| p.ln());
        match &self.how {
            How::AsIs => logs().collect(),
            How::Temperature(value) => logs().map(|log| log * value).collect(),
            How::Blend { weight, .. } if *weight <= 0.0 || logs().filter(|log| log.is_finite()).count() < 2 => {
                logs().collect()
            }
            How::Blend { weight, centroids, gates } => {
                let centroid = centroids.row(predicted as usize);
                let mut moved: Vec<f64> = logs().zip(centroid).map(|(log, c)| log - c).collect();
                let known = moved.iter().filter(|r| r.is_finite());
                let (sum, n_known) = known.fold((0.0, 0.0), |(sum, n), r| (sum + r, n + 1.0));
                moved.iter_mut().for_each(|r| *r -= sum / n_known);
                let mut share = *weight;
                for _ in 0..N_STEPS {
                    share = (weight * cosine(&moved, centroid, share)).clamp(weight * LEAST_SHARE, 1.0);
                }
                if let Some(gates) = gates {
                    let gate = gates[predicted as usize];
                    let (near, far) = (1.0 - cosine(&moved, centroid, 1.0), 1.0 - cosine(&moved, centroid, share));
                    if near >= gate.suspect || far <= gate.beyond {
                        share = 1.0;
                    }
                }
                moved.iter().zip(centroid).map(|(r, c)| c + r / share).collect()
            }
        }
    }
}

/// `cos(z, c)` of `z = c + r/s`, where `r` is `moved`; a class that is not known lies at the centroid.
fn cosine(moved: &[f64], centroid: ArrayView1<'_, f64>, share: f64) -> f64 {
    let (mut dot, mut z_square, mut c_square) = (0.0, 0.0, 0.0);
    for (&r, &c) in moved.iter().zip(centroid) {
        let z = if r.is_finite() { c + r / share } else { c };
        dot += z * c;
        z_square += z * z;
        c_square += c * c;
    }
    let norms = f64::sqrt(z_square * c_square);
    if norms > 0.0 { dot / norms } else { 0.0 }
}
