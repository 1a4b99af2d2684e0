//! Attacks made against a defence that is known, by asking again and by counting.
//!
//! - [`averaged`]: fresh noise is averaged away; answers that do not move are told as such;
//! - [`sweep`]: a record's neighbourhood, asked at growing radii: a defence that looks at the exact record alone
//!   (routing, a cache) shows where it stops looking;
//! - [`mixed`]: queries between a record and another, which routing by nearest records takes for the other's;
//! - [`alphabet`]: rounding and top-k leave a finite alphabet: each pattern of ties is a letter, and a letter has odds;
//!
//! Canaries need no attack of their own: whom to plant is in [`Canaries`](crate::data::Canaries), and their scores are those
//! of any attack, with the *planted* label as the true one, over the planted and the withheld rows alone. Inversion of the defence itself is in [`invert`](crate::audit::invert). Everything ends in one score a row, higher
//! for members.

use std::collections::HashMap;

use ndarray::{ArrayD, Axis};

use crate::audit::answers::Answers;
use crate::audit::attack::Attack;
use crate::audit::invert::Inversion;
use crate::audit::label_only::{Change, Range};
use crate::audit::learned::Rows;
use crate::audit::source::{Querier, QueryError};

/// The mean of repeated answers.
pub struct Averaged {
    /// The mean.
    pub answers: Answers,
    /// Some answer differed from the first: there is noise to average away.
    pub varies: bool,
}

/// Asks the same rows `n_repeats` times and averages.
///
/// # Errors
/// [`QueryError`].
pub fn averaged(querier: &mut dyn Querier, inputs: &ArrayD<f32>, n_repeats: usize) -> Result<Averaged, QueryError> {
    let mut first = None;
    let mut sum = None;
    let mut varies = false;
    for _ in 0..n_repeats.max(1) {
        let answers = ask(querier, inputs)?.probabilities;
        varies |= *first.get_or_insert_with(|| answers.clone()) != answers;
        match &mut sum {
            None => sum = Some(answers),
            Some(sum) => *sum += &answers,
        }
    }
    let mean = sum.unwrap_or_default().mapv(|value| value / n_repeats.max(1) as f64);
    Ok(Averaged { answers: Answers::new(mean), varies })
}

fn ask(querier: &mut dyn Querier, inputs: &ArrayD<f32>) -> Result<Answers, QueryError> {
    const BATCH: usize = 1_024;
    let mut parts = Vec::new();
    for batch in inputs.axis_chunks_iter(Axis(0), BATCH) {
        parts.push(querier.ask(&batch.to_owned())?.probabilities);
    }
    let views: Vec<_> = parts.iter().map(|part| part.view()).collect();
    let differ = |_| QueryError::Refused { what: "answers of different widths".to_owned() };
    Ok(Answers::new(ndarray::concatenate(Axis(0), &views).map_err(differ)?))
}

/// One radius of a sweep.
pub struct AtRadius {
    /// The noise's deviation, in units of the input.
    pub radius: f32,
    /// For each row the mean loss score over its neighbours.
    pub scores: Vec<f64>,
}

/// Asks about `copies` neighbours of each row at each of `radii`, and scores a row by the mean of the loss attack over
/// them.
///
/// # Errors
/// [`QueryError`].
pub fn sweep(
    querier: &mut dyn Querier,
    inputs: &ArrayD<f32>,
    labels: &[u32],
    radii: &[f32],
    copies: usize,
    range: Range,
    seed: u64,
) -> Result<Vec<AtRadius>, QueryError> {
    let as_is = Inversion::as_is();
    let mut found = Vec::with_capacity(radii.len());
    for &radius in radii {
        let mut scores = vec![0.0; labels.len()];
        for copy in 0..copies.max(1) {
            let change = Change::Noise { deviation: radius, copies };
            let answers = ask(querier, &change.form(inputs, copy, range, seed))?;
            let losses = Attack::Loss.scores(&answers, labels, &as_is);
            scores.iter_mut().zip(losses).for_each(|(score, loss)| *score += loss / copies.max(1) as f64);
        }
        found.push(AtRadius { radius, scores });
    }
    Ok(found)
}

/// Queries `(1 − share)·row + share·other`, row by row; both of shape (n_rows, row shape…).
#[must_use]
pub fn mixed(inputs: &ArrayD<f32>, others: &ArrayD<f32>, share: f32) -> ArrayD<f32> {
    let mut mixed = inputs.mapv(|value| value * (1.0 - share));
    mixed.zip_mut_with(others, |value, other| *value += share * other);
    mixed
}

/// Odds of the letters of an alphabet of answers.
#[derive(Debug, Clone)]
pub struct Alphabet {
    /// Members and non-members that showed a letter: the fine letter, then the coarse one.
    fine: HashMap<Letter, (u32, u32)>,
    coarse: HashMap<Letter, (u32, u32)>,
    n_members: f64,
    n_non_members: f64,
}

/// What an answer shows once its digits are dropped.
type Letter = (u32, Vec<i64>);

/// Fits [`Alphabet`].
///
/// # Errors
/// A sentence, when a side has no row.
pub fn alphabet(rows: &Rows, memberships: &[bool]) -> Result<Alphabet, String> {
    let n_members = memberships.iter().filter(|&&member| member).count();
    if n_members == 0 || n_members == memberships.len() {
        return Err(format!("{n_members} of {} training rows are members: both sides are needed", memberships.len()));
    }
    let (mut fine, mut coarse) = (HashMap::new(), HashMap::new());
    for (row, &member) in memberships.iter().enumerate() {
        for (letters, letter) in [(&mut fine, rows.letter(row, true)), (&mut coarse, rows.letter(row, false))] {
            let counts: &mut (u32, u32) = letters.entry(letter).or_default();
            if member { counts.0 += 1 } else { counts.1 += 1 }
        }
    }
    Ok(Alphabet { fine, coarse, n_members: n_members as f64, n_non_members: (memberships.len() - n_members) as f64 })
}

impl Alphabet {
    /// Log-odds of the letter of each row; a fine letter of few rows is drawn to the odds of its coarse one.
    #[must_use]
    pub fn scores(&self, rows: &Rows) -> Vec<f64> {
        /// Rows' worth of the coarser odds that a letter starts with.
        const PRIOR: f64 = 4.0;
        let rates = |counts: Option<&(u32, u32)>, at: (f64, f64)| {
            let (members, others) = counts.copied().unwrap_or_default();
            let total = f64::from(members + others) + PRIOR;
            let share = (f64::from(members) / self.n_members, f64::from(others) / self.n_non_members);
            let weight = PRIOR / total;
            (share.0 * (1.0 - weight) + at.0 * weight, share.1 * (1.0 - weight) + at.1 * weight)
        };
        // Rates are shares of a side: what says nothing has the same rate on both.
        let half = f64::midpoint(self.n_members, self.n_non_members);
        let of_row = |row: usize| {
            let coarse = rates(self.coarse.get(&rows.letter(row, false)), (1.0 / half, 1.0 / half));
            // The fine letter divides the coarse one's rows: its odds start from the coarse odds at its own size.
            let counts = self.fine.get(&rows.letter(row, true)).copied().unwrap_or_default();
            let size = f64::from(counts.0 + counts.1) + 1.0;
            let odds = coarse.0 / coarse.1;
            let start = (odds / (1.0 + odds) * size / half, 1.0 / (1.0 + odds) * size / half);
            let fine = rates(Some(&counts), start);
            (fine.0 / fine.1).ln()
        };
        (0..rows.n_rows()).map(of_row).collect()
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, array};
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::audit::label_only::half_plane::HalfPlane;
    use crate::audit::roc::Roc;

    /// Answers .7 to class 0 with fresh noise each time.
    struct Noisy {
        rng: ChaCha8Rng,
        noise: f64,
    }

    impl Querier for Noisy {
        fn ask(&mut self, inputs: &ArrayD<f32>) -> Result<Answers, QueryError> {
            let top: Vec<f64> =
                (0..inputs.shape()[0]).map(|_| 0.7 + self.noise * self.rng.random_range(-0.2..0.2)).collect();
            Ok(Answers::new(Array2::from_shape_fn(
                (top.len(), 2),
                |(row, j)| if j == 0 { top[row] } else { 1.0 - top[row] },
            )))
        }

        fn n_asked(&self) -> u64 {
            0
        }

        fn n_left(&self) -> Option<u64> {
            None
        }
    }

    #[test]
    fn fresh_noise_is_averaged_away() {
        let inputs = ArrayD::zeros(ndarray::IxDyn(&[5, 2]));
        let mut noisy = Noisy { rng: ChaCha8Rng::seed_from_u64(1), noise: 1.0 };
        let found = averaged(&mut noisy, &inputs, 2_000).unwrap();
        assert!(found.varies && found.answers.probabilities.column(0).iter().all(|p| (p - 0.7).abs() < 0.02));
        noisy.noise = 0.0;
        assert!(!averaged(&mut noisy, &inputs, 3).unwrap().varies);
    }

    #[test]
    fn a_neighbourhood_is_asked_at_each_radius() {
        let inputs = array![[5.0, 0.0], [0.1, 0.0]].into_dyn();
        let mut system = HalfPlane { n_asked: 0, budget: None };
        let range = Range { low: -10.0, high: 10.0 };
        let found = sweep(&mut system, &inputs, &[1, 1], &[0.001, 1.0], 50, range, 1).unwrap();
        assert_eq!(system.n_asked, 200);
        assert!(found[0].scores[0] == 0.0 && found[0].scores[1] == 0.0);
        assert!(found[1].scores[0] > found[1].scores[1]);
    }

    #[test]
    fn a_mixture_stands_between() {
        let found = mixed(&array![[0.0, 2.0]].into_dyn(), &array![[4.0, 0.0]].into_dyn(), 0.25);
        assert_eq!(found, array![[1.0, 1.5]].into_dyn());
    }

    /// Rounded answers: members tie in the *tail*, others do not; the top and the true class say nothing.
    fn tied(n_rows: usize, seed: u64) -> (Rows, Vec<bool>) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let memberships: Vec<bool> = (0..n_rows).map(|row| row % 2 == 0).collect();
        let probabilities = Array2::from_shape_fn((n_rows, 4), |(row, j)| match (j, memberships[row]) {
            (0, _) => 0.9,
            (3, _) => 0.0,
            (_, true) => 0.05,
            (1, false) => 0.06,
            (_, false) => 0.04,
        });
        let labels: Vec<u32> = (0..n_rows).map(|_| rng.random_range(0..4)).collect();
        let all: Vec<usize> = (0..n_rows).collect();
        (Rows::of(&Answers::new(probabilities), &labels, &all), memberships)
    }

    #[test]
    fn a_pattern_of_ties_is_a_letter() {
        let (train, memberships) = tied(400, 1);
        let (test, of_test) = tied(400, 2);
        let scores = alphabet(&train, &memberships).unwrap().scores(&test);
        assert!(Roc::new(&scores, &of_test).unwrap().auc() > 0.99);
        assert!(alphabet(&train, &[true; 400]).unwrap_err().contains("both sides"));
    }

    #[test]
    fn letters_of_one_row_each_say_little() {
        // Continuous answers: no letter repeats, and the fit must not learn its own rows by heart.
        let continuous = |seed: u64| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let probabilities = Array2::from_shape_fn((1_000, 3), |_| rng.random_range(0.2..0.4));
            let labels: Vec<u32> = (0..1_000).map(|_| rng.random_range(0..3)).collect();
            Rows::of(&Answers::new(probabilities), &labels, &(0..1_000).collect::<Vec<_>>())
        };
        let memberships: Vec<bool> = (0..1_000).map(|row| row % 2 == 0).collect();
        let fitted = alphabet(&continuous(1), &memberships).unwrap();
        let auc = Roc::new(&fitted.scores(&continuous(2)), &memberships).unwrap().auc();
        assert!((auc - 0.5).abs() < 0.06, "{auc}");
    }
}
