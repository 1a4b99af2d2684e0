//! Questions that put several systems at once to the test: a record moved towards another, and the same question again.
//!
//! | attack | questions | reads |
//! | --- | --- | --- |
//! | loss of a mixture | the row moved towards its nearest record among the members, short of and past half-way | scores |
//! | loss of many answers' mean | the row itself, again | scores, averaged where they vary |
//!
//! A system that answers a member by models which never saw it (routing) takes a mixture past half-way for the *other*
//! record's; fresh noise is averaged away. Not here: changed forms of a row and the way to the boundary
//! ([`label_only`](crate::audit::label_only)). Every attack ends in [`GivenScores`], one score a row, higher for members.

use ndarray::{Array2, ArrayD, ArrayView1, Axis};
use rand::SeedableRng;
use rand::seq::index::sample;
use rand_chacha::ChaCha8Rng;

use crate::audit::adaptive::mixed;
use crate::audit::answers::Answers;
use crate::audit::attack::{Attack, AttackId, Family};
use crate::audit::invert::Inversion;
use crate::audit::parallel;
use crate::audit::source::QueryError;
use crate::audit::study::GivenScores;

/// How far a row is moved towards another record: short of half-way, past it.
const MIXES: [f32; 3] = [0.45, 0.52, 0.6];
/// Answers to one question, to see whether they vary.
const REPEATS: usize = 3;
/// Answers that are averaged where they do.
const AVERAGED: usize = 16;
/// Rows asked at once.
const BATCH: usize = 1_024;
/// The most products that the search for the nearest record may cost; above it fewer records are looked at.
const MAX_PRODUCTS: usize = 20_000_000_000;
/// Whoever answers for several systems at once: one inference, an answer behind each defence.
pub trait Systems {
    /// Answers of each system to `inputs` of shape `(n_rows, row shape…)`, always the same systems in one order.
    ///
    /// # Errors
    /// [`QueryError`].
    fn ask_all(&mut self, inputs: &ArrayD<f32>) -> Result<Vec<Answers>, QueryError>;
}

/// The rows that are asked about.
pub struct Asked<'a> {
    /// Inputs of shape `(n_rows, row shape…)`, members first.
    pub inputs: &'a ArrayD<f32>,
    /// True labels.
    pub labels: &'a [u32],
    /// Members among them.
    pub n_members: usize,
    /// Seed of everything random.
    pub seed: u64,
}

/// One of the systems.
pub struct Named {
    /// Its name.
    pub name: String,
    /// It answers with scores, not the label alone.
    pub has_scores: bool,
}

/// What was found by asking again.
pub struct Again {
    /// Scores of each attack on each system.
    pub given: Vec<GivenScores>,
    /// Some system answered one question in two ways: there was noise to average away.
    pub varies: bool,
}

/// Queries for each row, at most.
pub const QUERIES_PER_ROW: u64 = (MIXES.len() + REPEATS + AVERAGED) as u64;

/// Asks all systems about mixtures and again, and attacks them; `progress` is told the queries made.
///
/// # Errors
/// [`QueryError`].
pub fn ask_again(
    systems: &mut dyn Systems,
    named: &[Named],
    rows: &Asked<'_>,
    progress: &mut dyn FnMut(u64),
) -> Result<Again, QueryError> {
    let mut found = Found { named, given: Vec::new() };
    let nearest = nearest_members(rows);
    for share in MIXES {
        let inputs = mixed(rows.inputs, &rows.inputs.select(Axis(0), &nearest), share);
        let answers = ask(systems, &inputs, named.len(), progress)?;
        for (system, answers) in answers.iter().enumerate().filter(|(system, _)| named[*system].has_scores) {
            let scores = Attack::Loss.scores(answers, rows.labels, &Inversion::as_is());
            found.push(system, format!("loss of a mixture, share {share}"), scores);
        }
    }
    let varies = repeated(systems, rows, &mut found, progress)?;
    Ok(Again { given: found.given, varies })
}

struct Found<'a> {
    named: &'a [Named],
    given: Vec<GivenScores>,
}

impl Found<'_> {
    fn push(&mut self, system: usize, name: String, scores: Vec<f64>) {
        let attack = AttackId::new(Family::Adaptive, name);
        self.given.push(GivenScores { system: self.named[system].name.clone(), attack, scores, rule: None });
    }
}

/// Answers of all systems to all rows, in batches.
fn ask(
    systems: &mut dyn Systems,
    inputs: &ArrayD<f32>,
    n_systems: usize,
    progress: &mut dyn FnMut(u64),
) -> Result<Vec<Answers>, QueryError> {
    let refused = |what: &str| QueryError::Refused { what: what.to_owned() };
    let mut parts: Vec<Vec<Array2<f64>>> = vec![Vec::new(); n_systems];
    let mut labels: Vec<Vec<u32>> = vec![Vec::new(); n_systems];
    for batch in inputs.axis_chunks_iter(Axis(0), BATCH) {
        let answers = systems.ask_all(&batch.to_owned())?;
        if answers.len() != n_systems {
            return Err(refused("another number of systems answered"));
        }
        for (system, answers) in answers.into_iter().enumerate() {
            labels[system].extend(answers.predicted);
            parts[system].push(answers.probabilities);
        }
        progress(batch.shape()[0] as u64);
    }
    let each = parts.iter().zip(labels).map(|(parts, predicted)| {
        let views: Vec<_> = parts.iter().map(|part| part.view()).collect();
        let probabilities =
            ndarray::concatenate(Axis(0), &views).map_err(|_| refused("answers of different widths came"))?;
        Ok(Answers { probabilities, predicted })
    });
    each.collect()
}

/// The same question again: scores by the mean answer, for the systems whose answers vary.
fn repeated(
    systems: &mut dyn Systems,
    rows: &Asked<'_>,
    found: &mut Found<'_>,
    progress: &mut dyn FnMut(u64),
) -> Result<bool, QueryError> {
    let n_systems = found.named.len();
    let mut sums: Vec<Array2<f64>> = Vec::new();
    let mut varies = vec![false; n_systems];
    for repeat in 0..REPEATS + AVERAGED {
        if repeat >= REPEATS && !varies.contains(&true) {
            break;
        }
        let answers = ask(systems, rows.inputs, n_systems, progress)?;
        if sums.is_empty() {
            sums = answers.into_iter().map(|answers| answers.probabilities).collect();
            continue;
        }
        for (system, answers) in answers.iter().enumerate() {
            let so_far = &mut sums[system];
            let mean = so_far.mapv(|sum| sum / repeat as f64);
            let apart = mean.iter().zip(&answers.probabilities).any(|(mean, answer)| (mean - answer).abs() > 1e-12);
            varies[system] |= apart;
            *so_far += &answers.probabilities;
        }
    }
    for system in (0..n_systems).filter(|&system| varies[system] && found.named[system].has_scores) {
        let mean = Answers::new(sums[system].mapv(|sum| sum / (REPEATS + AVERAGED) as f64));
        let scores = Attack::Loss.scores(&mean, rows.labels, &Inversion::as_is());
        found.push(system, format!("loss of {} answers' mean", REPEATS + AVERAGED), scores);
    }
    Ok(varies.contains(&true))
}

/// For each row the member nearest to it, itself apart. Where all pairs would cost too much, of a sample of members.
fn nearest_members(rows: &Asked<'_>) -> Vec<usize> {
    let n_rows = rows.labels.len();
    let width = rows.inputs.len() / n_rows.max(1);
    let flat: Vec<f32> = rows.inputs.iter().copied().collect();
    let row = |index: usize| ArrayView1::from(&flat[index * width..(index + 1) * width]);
    let most = (MAX_PRODUCTS / (n_rows * width).max(1)).clamp(1, rows.n_members);
    let mut rng = ChaCha8Rng::seed_from_u64(rows.seed);
    let mut members = sample(&mut rng, rows.n_members, most).into_vec();
    members.sort_unstable();
    let squares: Vec<f32> = members.iter().map(|&member| row(member).dot(&row(member))).collect();
    parallel::map(n_rows, |index| {
        let own = row(index);
        let others = members.iter().zip(&squares).filter(|(member, _)| **member != index);
        let far = others.map(|(&member, square)| (square - 2.0 * own.dot(&row(member)), member));
        far.min_by(|a, b| a.0.total_cmp(&b.0)).map_or(index, |(_, member)| member)
    })
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    /// Two systems over one model: the model, and its labels alone. Rows near the first three are answered surely.
    struct Pair {
        n_asked: u64,
        noise: f64,
    }

    impl Systems for Pair {
        fn ask_all(&mut self, inputs: &ArrayD<f32>) -> Result<Vec<Answers>, QueryError> {
            let n_rows = inputs.shape()[0];
            self.n_asked += n_rows as u64;
            let wobble = if (self.n_asked / n_rows as u64).is_multiple_of(2) { self.noise } else { -self.noise };
            let values: Vec<f32> = inputs.iter().copied().collect();
            let p = Array2::from_shape_fn((n_rows, 2), |(row, j)| {
                let top = 1.0 / (1.0 + f64::exp(f64::from(-values[2 * row]))) + wobble;
                if j == 1 { top } else { 1.0 - top }
            });
            let scored = Answers::new(p);
            let labels = Answers::of_labels(scored.predicted.clone(), 2);
            Ok(vec![scored, labels])
        }
    }

    fn named() -> Vec<Named> {
        let one = |name: &str, has_scores| Named { name: name.to_owned(), has_scores };
        vec![one("model", true), one("label-only", false)]
    }

    fn rows(inputs: &ArrayD<f32>) -> Asked<'_> {
        Asked { inputs, labels: &[1, 1, 1, 1, 1, 1], n_members: 3, seed: 1 }
    }

    fn inputs() -> ArrayD<f32> {
        array![[4.0, 1.0], [5.0, 2.0], [6.0, 0.0], [0.2, 3.0], [0.1, 4.0], [-0.3, 5.0]].into_dyn()
    }

    #[test]
    fn a_member_shows_in_mixtures_with_it_short_of_half_way() {
        let inputs = inputs();
        let rows = rows(&inputs);
        let mut pair = Pair { n_asked: 0, noise: 0.0 };
        let mut told = 0;
        let found = ask_again(&mut pair, &named(), &rows, &mut |n| told += n).unwrap();
        assert!(!found.varies && told == 6 * (MIXES.len() + REPEATS) as u64 && told <= 6 * QUERIES_PER_ROW);
        // A label alone has no loss.
        assert!(found.given.len() == MIXES.len() && found.given.iter().all(|one| one.system == "model"));
        for one in &found.given {
            assert!(one.scores[..3].iter().all(|&member| one.scores[3..].iter().all(|&other| member > other)));
        }
    }

    #[test]
    fn answers_that_vary_are_averaged() {
        let inputs = inputs();
        let found = ask_again(&mut Pair { n_asked: 0, noise: 0.01 }, &named(), &rows(&inputs), &mut |_| {}).unwrap();
        assert!(found.varies);
        assert!(found.given.iter().any(|one| one.attack.name().contains("answers' mean")));
    }

    #[test]
    fn the_nearest_record_is_another_member() {
        let inputs = inputs();
        // The third is as far from both others: the first of them.
        assert_eq!(nearest_members(&rows(&inputs)), [1, 0, 0, 0, 0, 0]);
    }
}
