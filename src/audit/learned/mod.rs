//! Attacks that are learned: a classifier of members and non-members, trained on answers of rows whose membership
//! the attacker knows.
//!
//! Responsible for turning answers into features and features into a score. Who the training rows are (shadow rows
//! or a disjoint half) is the caller's matter. [`ml_leaks`] holds the three adversaries of that paper.
//!
//! Three learners see two views of an answer: logistic regression and a network of one hidden layer (`network`),
//! gradient-boosted trees (`trees`); the vector in the order of the classes with the true label, and the sorted
//! vector with what the score attacks compute.

pub mod ml_leaks;
mod network;
pub mod random_points;
mod trees;

use ndarray::{Array2, ArrayView1};

use crate::audit::adaptive::{Alphabet, alphabet};
use crate::audit::answers::Answers;
use crate::audit::attack::{Attack, scaled_logit};
use crate::audit::invert::Inversion;

pub(crate) use network::{Network, NetworkSettings};
pub(crate) use trees::Trees;

/// Logarithms are cut off here before they become a feature: below what an f32 softmax tells, and near enough that
/// an exact zero is no outlier that dwarfs everything else.
const LOG_FLOOR: f64 = -50.0;

/// Entries of the sorted view.
const N_SORTED: usize = 10;

/// With more classes than this the true label is no feature of its own: few rows would have each.
const MAX_ONE_HOT: usize = 128;

/// How a classifier is trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Learner {
    /// Logistic regression.
    Logistic,
    /// One hidden layer of 64 units.
    Network,
    /// Gradient-boosted trees.
    Trees,
    /// Odds of each pattern of ties and digits ([`crate::audit::adaptive::alphabet`]): made against rounding and top-k.
    Alphabet,
}

/// What of an answer it sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// Logarithms of all entries in the order of the classes, the true label, whether it is right.
    Vector,
    /// Logarithms of the ten largest entries in falling order and the scores of the score attacks.
    Sorted,
    /// ML-Leaks: the three largest entries in falling order, nothing else.
    Top3,
}

/// One learned attack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LearnedAttack {
    /// How it is trained.
    pub learner: Learner,
    /// What it sees.
    pub view: View,
}

/// Answers of some rows with their true labels.
#[derive(Debug, Clone)]
pub struct Rows {
    probabilities: Array2<f64>,
    predicted: Vec<u32>,
    labels: Vec<u32>,
}

impl Rows {
    /// The rows `rows` of `answers`, whose true labels are `labels`.
    ///
    /// # Panics
    /// When a row number is not below the number of answers.
    #[must_use]
    pub fn of(answers: &Answers, labels: &[u32], rows: &[usize]) -> Self {
        Self {
            probabilities: answers.probabilities.select(ndarray::Axis(0), rows),
            predicted: rows.iter().map(|&row| answers.predicted[row]).collect(),
            labels: rows.iter().map(|&row| labels[row]).collect(),
        }
    }

    /// Some of these rows.
    ///
    /// # Panics
    /// When a row number is not below the number of rows.
    #[must_use]
    pub fn only(&self, rows: &[usize]) -> Self {
        Self {
            probabilities: self.probabilities.select(ndarray::Axis(0), rows),
            predicted: rows.iter().map(|&row| self.predicted[row]).collect(),
            labels: rows.iter().map(|&row| self.labels[row]).collect(),
        }
    }

    /// Number of rows.
    #[must_use]
    pub fn n_rows(&self) -> usize {
        self.labels.len()
    }

    /// The pattern that a row's answer shows: the rank of the true class (ties to the best) and, in falling order,
    /// the entries in thousandths (`fine`) or how many are equal and how many are 0.
    pub(crate) fn letter(&self, row: usize, fine: bool) -> (u32, Vec<i64>) {
        let p = self.probabilities.row(row);
        let of_label = p[self.labels[row] as usize];
        let rank = p.iter().filter(|&&other| other > of_label).count() as u32;
        let mut thousandths: Vec<i64> = p.iter().map(|p| (p * 1_000.0).round() as i64).collect();
        thousandths.sort_unstable_by(|a, b| b.cmp(a));
        if fine {
            thousandths.truncate(N_SORTED);
            return (rank, thousandths);
        }
        let n_zero = p.iter().filter(|&&p| p == 0.0).count() as i64;
        let n_tied = thousandths.windows(2).filter(|pair| pair[0] == pair[1] && pair[0] > 0).count() as i64;
        (rank, vec![thousandths[0] / 50, n_zero, n_tied])
    }

    /// Features of shape (n_rows, n_features).
    fn features(&self, view: View) -> Array2<f32> {
        let n_classes = self.probabilities.ncols();
        let width = match view {
            View::Vector => n_classes + if n_classes <= MAX_ONE_HOT { n_classes } else { 0 } + 2,
            View::Sorted => N_SORTED.min(n_classes) + 5,
            View::Top3 => 3,
        };
        let mut features = Array2::zeros((self.n_rows(), width));
        for (row, mut out) in features.rows_mut().into_iter().enumerate() {
            let p = self.probabilities.row(row);
            let values = self.row(view, p, self.predicted[row], self.labels[row]);
            debug_assert_eq!(values.len(), width);
            out.iter_mut().zip(values).for_each(|(out, value)| *out = value as f32);
        }
        features
    }

    fn row(&self, view: View, p: ArrayView1<'_, f64>, predicted: u32, label: u32) -> Vec<f64> {
        let (y, n_classes) = (label as usize, p.len());
        let log = |value: f64| value.ln().max(LOG_FLOOR);
        let right = f64::from(u8::from(predicted == label));
        let sorted = || {
            let mut sorted = p.to_vec();
            sorted.sort_by(|a, b| b.total_cmp(a));
            sorted
        };
        match view {
            View::Vector => {
                let mut values: Vec<f64> = p.iter().map(|&p| log(p)).collect();
                if n_classes <= MAX_ONE_HOT {
                    values.extend((0..n_classes).map(|class| f64::from(u8::from(class == y))));
                }
                values.extend([log(p[y]), right]);
                values
            }
            View::Sorted => {
                let as_is = Inversion::as_is();
                let score = |attack: Attack| attack.score(p, predicted, label, &as_is);
                // The sum of the rest, not one minus the top: it keeps its digits.
                let rest = -score(Attack::Confidence);
                let mut values: Vec<f64> = sorted().into_iter().take(N_SORTED).map(log).collect();
                let logit = scaled_logit(p, y).clamp(LOG_FLOOR, -LOG_FLOOR);
                values.extend([log(p[y]), logit, log(rest), score(Attack::Entropy), right]);
                values
            }
            View::Top3 => (0..3).map(|place| sorted().get(place).copied().unwrap_or(0.0)).collect(),
        }
    }
}

/// A trained attack.
pub struct Learned {
    view: View,
    scale: Scale,
    model: Trained,
}

enum Trained {
    Network(Network),
    Trees(Box<Trees>),
    Alphabet(Alphabet),
}

impl LearnedAttack {
    /// The learned attacks of a study. An answer that is a label alone has one view.
    #[must_use]
    pub fn all(has_scores: bool) -> Vec<Self> {
        let views: &[View] = if has_scores { &[View::Vector, View::Sorted] } else { &[View::Vector] };
        let learners = [Learner::Network, Learner::Trees, Learner::Logistic];
        let alphabet = Self { learner: Learner::Alphabet, view: View::Sorted };
        let each = learners.into_iter().flat_map(|learner| views.iter().map(move |&view| Self { learner, view }));
        each.chain(has_scores.then_some(alphabet)).collect()
    }

    /// The name in tables.
    #[must_use]
    pub fn name(&self) -> String {
        let learner = match self.learner {
            Learner::Logistic => "logistic",
            Learner::Network => "network",
            Learner::Trees => "trees",
            Learner::Alphabet => return "alphabet of ties and digits".to_owned(),
        };
        let view = match self.view {
            View::Vector => "answer",
            View::Sorted => "sorted answer",
            View::Top3 => "top 3",
        };
        format!("{learner} on {view}")
    }

    /// Trains it on `rows` of known `memberships`. Both sides weigh the same, however many rows each has.
    ///
    /// # Errors
    /// A sentence, when a side has no row or the trees cannot be fitted.
    pub fn fit(&self, rows: &Rows, memberships: &[bool], seed: u64) -> Result<Learned, String> {
        if self.learner == Learner::Alphabet {
            let model = Trained::Alphabet(alphabet(rows, memberships)?);
            return Ok(Learned { view: self.view, scale: Scale::of(&Array2::zeros((0, 0))), model });
        }
        let features = rows.features(self.view);
        let scale = Scale::of(&features);
        let features = scale.apply(features);
        let weights = balanced(memberships)?;
        let model = match self.learner {
            Learner::Trees => Trained::Trees(Box::new(Trees::fit(&features, memberships, &weights, seed)?)),
            Learner::Logistic | Learner::Alphabet => {
                Trained::Network(Network::fit(&features, memberships, &weights, &NetworkSettings::logistic(seed)))
            }
            Learner::Network => {
                Trained::Network(Network::fit(&features, memberships, &weights, &NetworkSettings::hidden(seed)))
            }
        };
        Ok(Learned { view: self.view, scale, model })
    }
}

impl Learned {
    /// A score for each row: the log-odds of membership.
    ///
    /// # Errors
    /// A sentence, when a score is not finite.
    pub fn scores(&self, rows: &Rows) -> Result<Vec<f64>, String> {
        let features = || self.scale.apply(rows.features(self.view));
        let scores = match &self.model {
            Trained::Network(network) => network.scores(&features()),
            Trained::Trees(trees) => trees.scores(&features()),
            Trained::Alphabet(alphabet) => alphabet.scores(rows),
        };
        match scores.iter().position(|score| !score.is_finite()) {
            Some(row) => Err(format!("the score of row {row} is not finite")),
            None => Ok(scores),
        }
    }
}

/// Weights that give both sides half of the whole; their mean is 1.
///
/// # Errors
/// A sentence, when a side has no row.
pub(crate) fn balanced(memberships: &[bool]) -> Result<Vec<f32>, String> {
    let n_rows = memberships.len();
    let n_members = memberships.iter().filter(|&&member| member).count();
    if n_members == 0 || n_members == n_rows {
        return Err(format!("{n_members} of {n_rows} training rows are members: both sides are needed"));
    }
    let weight = |n_of_side: usize| n_rows as f32 / (2 * n_of_side) as f32;
    let (of_members, of_others) = (weight(n_members), weight(n_rows - n_members));
    Ok(memberships.iter().map(|&member| if member { of_members } else { of_others }).collect())
}

/// Mean 0 and deviation 1 on the training rows.
pub(crate) struct Scale {
    means: Vec<f32>,
    factors: Vec<f32>,
}

impl Scale {
    pub(crate) fn of(features: &Array2<f32>) -> Self {
        let n = features.nrows().max(1) as f64;
        let columns = features.columns().into_iter().map(|column| {
            let mean = column.iter().map(|&value| f64::from(value)).sum::<f64>() / n;
            let square = column.iter().map(|&value| (f64::from(value) - mean).powi(2)).sum::<f64>() / n;
            let deviation = square.sqrt();
            (mean as f32, if deviation > 1e-9 { (1.0 / deviation) as f32 } else { 0.0 })
        });
        let (means, factors) = columns.unzip();
        Self { means, factors }
    }

    /// Values far out are cut at eight deviations: new rows may hold what no training row did.
    pub(crate) fn apply(&self, mut features: Array2<f32>) -> Array2<f32> {
        for mut row in features.rows_mut() {
            for ((value, mean), factor) in row.iter_mut().zip(&self.means).zip(&self.factors) {
                *value = ((*value - mean) * factor).clamp(-8.0, 8.0);
            }
        }
        features
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::audit::roc::Roc;

    /// Members carry their mark in the *third* entry alone: no score attack with one threshold can use it all.
    fn marked(n_rows: usize, strength: f64, seed: u64) -> (Rows, Vec<bool>) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let memberships: Vec<bool> = (0..n_rows).map(|row| row % 2 == 0).collect();
        let mut probabilities = Array2::zeros((n_rows, 4));
        for (row, &member) in memberships.iter().enumerate() {
            let mark = if member { strength } else { 0.0 };
            let weights = [
                rng.random_range(0.5..2.0),
                rng.random_range(0.5..2.0),
                rng.random_range(0.5..2.0) * f64::exp(mark),
                rng.random_range(0.5..2.0),
            ];
            let sum: f64 = weights.iter().sum();
            (0..4).for_each(|class| probabilities[(row, class)] = weights[class] / sum);
        }
        let labels = (0..n_rows).map(|_| rng.random_range(0..4_u32)).collect();
        let answers = Answers::new(probabilities);
        let all: Vec<usize> = (0..n_rows).collect();
        (Rows::of(&answers, &labels_of(labels), &all), memberships)
    }

    fn labels_of(labels: Vec<u32>) -> Vec<u32> {
        labels
    }

    fn auc(attack: LearnedAttack, strength: f64) -> f64 {
        let (train, memberships) = marked(1_000, strength, 1);
        let (test, of_test) = marked(2_000, strength, 2);
        let scores = attack.fit(&train, &memberships, 3).unwrap().scores(&test).unwrap();
        Roc::new(&scores, &of_test).unwrap().auc()
    }

    #[test]
    fn every_learner_finds_a_mark_in_the_vector() {
        for learner in [Learner::Logistic, Learner::Network, Learner::Trees] {
            let found = auc(LearnedAttack { learner, view: View::Vector }, 1.0);
            assert!(found > 0.75, "{learner:?}: {found}");
        }
    }

    #[test]
    fn no_learner_finds_what_is_not_there() {
        // 2,000 rows: the area has a standard error of .013.
        for attack in LearnedAttack::all(true) {
            let found = auc(attack, 0.0);
            assert!((found - 0.5).abs() < 0.045, "{}: {found}", attack.name());
        }
    }

    #[test]
    fn one_seed_gives_one_classifier() {
        let (train, memberships) = marked(300, 0.5, 1);
        for learner in [Learner::Logistic, Learner::Network, Learner::Trees] {
            let fit = |seed| {
                let attack = LearnedAttack { learner, view: View::Sorted };
                attack.fit(&train, &memberships, seed).unwrap().scores(&train).unwrap()
            };
            assert_eq!(fit(1), fit(1), "{learner:?}");
        }
    }

    #[test]
    fn one_sided_training_rows_are_refused() {
        let (train, _) = marked(20, 0.5, 1);
        let attack = LearnedAttack { learner: Learner::Logistic, view: View::Vector };
        assert!(attack.fit(&train, &[true; 20], 1).err().unwrap().contains("20 of 20"));
    }

    #[test]
    fn sides_of_unequal_size_weigh_the_same() {
        let weights = balanced(&[true, false, false, false]).unwrap();
        assert_eq!(weights, vec![2.0, 2.0 / 3.0, 2.0 / 3.0, 2.0 / 3.0]);
    }
}
