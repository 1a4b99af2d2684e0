//! The battery of further questions: every attack that asks a system again, about changed, repeated or mixed inputs.
//!
//! Responsible for choosing the questions of a row, asking them of all systems at once and turning answers into scores:
//! [`label_only`](crate::audit::label_only) and [`adaptive`](crate::audit::adaptive) hold the attacks themselves. Every
//! attack here ends in [`GivenScores`], one score a row, higher for members. What it costs is told before anything is
//! asked ([`Plan::queries_per_row`]).
//!
//! | attack | questions | reads |
//! | --- | --- | --- |
//! | label under noise, flips, shifts | changed forms of the row | labels |
//! | loss over neighbours, radius swept | the same answers | scores, as they stand and with the defence undone |
//! | loss of mixtures | the row moved towards its nearest record among the members, short of and past half-way | scores |
//! | repeated answers | the row itself, again | scores, averaged where they vary |
//! | distance to the boundary | a short HopSkipJump, or flips in random orders for rows of 0 and 1 | labels |

use ndarray::{Array2, ArrayD, ArrayView1, Axis};
use rand::SeedableRng;
use rand::seq::index::sample;
use rand_chacha::ChaCha8Rng;

use crate::audit::adaptive::mixed;
use crate::audit::answers::Answers;
use crate::audit::attack::{Attack, AttackId, Family};
use crate::audit::invert::Inversion;
use crate::audit::label_only::{BoundarySettings, Change, Range, boundary_distances, flip_distances};
use crate::audit::parallel;
use crate::audit::source::{Querier, QueryError};
use crate::audit::study::GivenScores;

/// Copies of each random change.
const COPIES: usize = 10;
/// Deviations of the noise, in shares of the range of the inputs: the radii of the sweep.
const DEVIATIONS: [f32; 3] = [0.02, 0.05, 0.1];
/// Shares of the features of rows of 0 and 1 that are turned over.
const FLIPS: [f32; 3] = [0.01, 0.02, 0.05];
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
/// Orders in which features are turned over.
const ORDERS: usize = 3;

/// Whoever answers for several systems at once: one inference, an answer behind each defence.
pub trait Systems {
    /// Answers of each system to `inputs` of shape `(n_rows, row shape…)`, always the same systems in one order.
    ///
    /// # Errors
    /// [`QueryError`].
    fn ask_all(&mut self, inputs: &ArrayD<f32>) -> Result<Vec<Answers>, QueryError>;

    /// Queries that may still be made; `None` where there is no limit.
    fn n_left(&self) -> Option<u64>;
}

/// One system that can be asked.
pub struct OneSystem<'a>(pub &'a mut dyn Querier);

impl Systems for OneSystem<'_> {
    fn ask_all(&mut self, inputs: &ArrayD<f32>) -> Result<Vec<Answers>, QueryError> {
        Ok(vec![self.0.ask(inputs)?])
    }

    fn n_left(&self) -> Option<u64> {
        self.0.n_left()
    }
}

/// A system among several, as one that is asked alone: every defence keeps the label, so any of them tells it.
struct First<'a>(&'a mut dyn Systems, u64);

impl Querier for First<'_> {
    fn ask(&mut self, inputs: &ArrayD<f32>) -> Result<Answers, QueryError> {
        self.1 += inputs.shape().first().copied().unwrap_or(0) as u64;
        let first = self.0.ask_all(inputs)?.into_iter().next();
        first.ok_or_else(|| QueryError::Refused { what: "there is no system to ask".to_owned() })
    }

    fn n_asked(&self) -> u64 {
        self.1
    }

    fn n_left(&self) -> Option<u64> {
        self.0.n_left()
    }
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
    /// How the attacker reads its answers back.
    pub inversion: Inversion,
    /// It answers with scores, not the label alone.
    pub has_scores: bool,
}

/// The questions of an audit.
#[derive(Debug, Clone)]
pub struct Plan {
    changes: Vec<Change>,
    range: Range,
    is_binary: bool,
    width: usize,
    boundary: BoundarySettings,
}

impl Plan {
    /// What suits the rows: noise, or flips where all values are 0 and 1; shifts for images.
    #[must_use]
    pub fn for_rows(rows: &Asked<'_>) -> Self {
        let looked_at = rows.inputs.iter();
        let (low, high) = looked_at.fold((f32::MAX, f32::MIN), |(low, high), &value| (low.min(value), high.max(value)));
        let is_binary = rows.inputs.iter().all(|&value| value == 0.0 || value == 1.0);
        let range = Range { low, high };
        let mut changes: Vec<Change> = if is_binary {
            FLIPS.map(|share| Change::Flips { share, copies: COPIES }).to_vec()
        } else {
            DEVIATIONS.map(|share| Change::Noise { deviation: share * (high - low), copies: COPIES }).to_vec()
        };
        if rows.inputs.ndim() == 4 {
            changes.push(Change::Shifts { pixels: 2 });
        }
        let n_rows = rows.labels.len().max(1);
        let boundary = BoundarySettings { n_halvings: 8, n_steps: 1, n_directions: 12, range, seed: rows.seed };
        Self { changes, range, is_binary, width: rows.inputs.len() / n_rows, boundary }
    }

    /// Queries for each row, at most.
    #[must_use]
    pub fn queries_per_row(&self) -> u64 {
        let changes: u64 = self.changes.iter().map(Change::queries_per_row).sum();
        let boundary = if self.is_binary {
            1 + (ORDERS * ((self.width.max(1) as f64).log2().ceil() as usize + 1)) as u64
        } else {
            self.boundary.queries_per_row()
        };
        changes + MIXES.len() as u64 + (REPEATS + AVERAGED) as u64 + boundary
    }
}

/// What was found by asking again.
pub struct Again {
    /// Scores of each attack on each system.
    pub given: Vec<GivenScores>,
    /// Some system answered one question in two ways: there was noise to average away.
    pub varies: bool,
}

/// Asks all systems again and attacks them; `progress` is told the queries made.
///
/// # Errors
/// [`QueryError`], before the first query where the budget does not hold all.
pub fn ask_again(
    systems: &mut dyn Systems,
    named: &[Named],
    rows: &Asked<'_>,
    plan: &Plan,
    progress: &mut dyn FnMut(u64),
) -> Result<Again, QueryError> {
    let wanted = plan.queries_per_row() * rows.labels.len() as u64;
    if let Some(left) = systems.n_left().filter(|&left| left < wanted) {
        return Err(QueryError::Budget { wanted, left });
    }
    let mut found = Found { named, given: Vec::new() };
    for &change in &plan.changes {
        neighbours(systems, rows, change, plan.range, &mut found, progress)?;
    }
    let nearest = nearest_members(rows);
    for share in MIXES {
        let inputs = mixed(rows.inputs, &rows.inputs.select(Axis(0), &nearest), share);
        let answers = ask(systems, &inputs, named.len(), progress)?;
        for (system, answers) in answers.iter().enumerate().filter(|(system, _)| named[*system].has_scores) {
            let scores = Attack::Loss.scores(answers, rows.labels, &Inversion::as_is());
            found.push(system, Family::Adaptive, format!("loss of a mixture, share {share}"), scores);
        }
    }
    let varies = repeated(systems, rows, &mut found, progress)?;
    let mut one = First(systems, 0);
    let (name, distances) = if plan.is_binary {
        let name = format!("flips to another label, {ORDERS} orders");
        (name, flip_distances(&mut one, rows.inputs, rows.labels, ORDERS, plan.range, rows.seed)?)
    } else {
        let starts: Vec<usize> = (0..rows.labels.len()).step_by((rows.labels.len() / 64).max(1)).collect();
        let starts = rows.inputs.select(Axis(0), &starts);
        let name = format!("distance to the boundary, {} queries", plan.boundary.queries_per_row());
        (name, boundary_distances(&mut one, rows.inputs, rows.labels, &starts, &plan.boundary)?)
    };
    progress(one.1);
    found.push_all(Family::LabelOnly, &name, &distances);
    Ok(Again { given: found.given, varies })
}

struct Found<'a> {
    named: &'a [Named],
    given: Vec<GivenScores>,
}

impl Found<'_> {
    fn push(&mut self, system: usize, family: Family, name: String, scores: Vec<f64>) {
        let attack = AttackId::new(family, name);
        self.given.push(GivenScores { system: self.named[system].name.clone(), attack, scores });
    }

    fn push_all(&mut self, family: Family, name: &str, scores: &[f64]) {
        (0..self.named.len()).for_each(|system| self.push(system, family, name.to_owned(), scores.to_vec()));
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

/// One change: the share of labels that hold, and the mean loss over the changed forms, as it stands and recovered.
fn neighbours(
    systems: &mut dyn Systems,
    rows: &Asked<'_>,
    change: Change,
    range: Range,
    found: &mut Found<'_>,
    progress: &mut dyn FnMut(u64),
) -> Result<(), QueryError> {
    let n_copies = change.queries_per_row() as usize;
    let named = found.named;
    let mut held = vec![0.0; rows.labels.len()];
    let mut losses = vec![[vec![0.0; rows.labels.len()], vec![0.0; rows.labels.len()]]; named.len()];
    for copy in 0..n_copies {
        let answers = ask(systems, &change.form(rows.inputs, copy, range, rows.seed), named.len(), progress)?;
        let share = 1.0 / n_copies as f64;
        if let Some(first) = answers.first() {
            let right = first.predicted.iter().zip(rows.labels).map(|(got, label)| got == label);
            held.iter_mut().zip(right).for_each(|(held, right)| *held += share * f64::from(u8::from(right)));
        }
        for ((answers, named), sums) in answers.iter().zip(named).zip(&mut losses) {
            for (attack, sums) in [Attack::Loss, Attack::InvertedLoss].into_iter().zip(sums) {
                let scores = attack.scores(answers, rows.labels, &named.inversion);
                sums.iter_mut().zip(scores).for_each(|(sum, score)| *sum += share * score);
            }
        }
    }
    found.push_all(Family::LabelOnly, &change.name(), &held);
    let words = change.name().replacen("label under ", "", 1);
    for (system, [read, recovered]) in losses.into_iter().enumerate().filter(|(system, _)| named[*system].has_scores) {
        found.push(system, Family::Adaptive, format!("loss over neighbours: {words}"), read);
        if !named[system].inversion.is_as_is() {
            found.push(system, Family::Adaptive, format!("inverted loss over neighbours: {words}"), recovered);
        }
    }
    Ok(())
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
        found.push(system, Family::Adaptive, format!("loss of {} answers' mean", REPEATS + AVERAGED), scores);
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
    use crate::audit::label_only::half_plane::HalfPlane;

    /// Two systems over one model: the model, and its labels alone. Rows near the first three are answered surely.
    struct Pair {
        n_asked: u64,
        noise: f64,
    }

    impl Systems for Pair {
        fn ask_all(&mut self, inputs: &ArrayD<f32>) -> Result<Vec<Answers>, QueryError> {
            let n_rows = inputs.shape()[0];
            self.n_asked += n_rows as u64;
            let wobble = if self.n_asked / n_rows as u64 % 2 == 0 { self.noise } else { -self.noise };
            let values: Vec<f32> = inputs.iter().copied().collect();
            let p = Array2::from_shape_fn((n_rows, 2), |(row, j)| {
                let top = 1.0 / (1.0 + f64::exp(f64::from(-values[2 * row]))) + wobble;
                if j == 1 { top } else { 1.0 - top }
            });
            let scored = Answers::new(p);
            let labels = Answers::of_labels(scored.predicted.clone(), 2);
            Ok(vec![scored, labels])
        }

        fn n_left(&self) -> Option<u64> {
            None
        }
    }

    fn named() -> Vec<Named> {
        let one = |name: &str, has_scores| Named { name: name.to_owned(), inversion: Inversion::as_is(), has_scores };
        vec![one("model", true), one("label-only", false)]
    }

    fn rows(inputs: &ArrayD<f32>) -> Asked<'_> {
        Asked { inputs, labels: &[1, 1, 1, 1, 1, 1], n_members: 3, seed: 1 }
    }

    fn inputs() -> ArrayD<f32> {
        array![[4.0, 1.0], [5.0, 2.0], [6.0, 0.0], [0.2, 3.0], [0.1, 4.0], [-0.3, 5.0]].into_dyn()
    }

    #[test]
    fn every_kind_of_question_ends_in_a_score_for_each_row() {
        let inputs = inputs();
        let rows = rows(&inputs);
        let plan = Plan::for_rows(&rows);
        let mut pair = Pair { n_asked: 0, noise: 0.0 };
        let mut told = 0;
        let found = ask_again(&mut pair, &named(), &rows, &plan, &mut |n| told += n).unwrap();
        assert!(!found.varies);
        assert!(told <= plan.queries_per_row() * 6 && pair.n_asked >= told);
        assert!(
            found.given.iter().all(|one| one.scores.len() == 6 && one.scores.iter().all(|score| score.is_finite()))
        );
        let names: Vec<&str> = found.given.iter().map(|one| one.attack.name()).collect();
        for word in ["label under noise", "loss over neighbours", "loss of a mixture", "distance to the boundary"] {
            assert!(names.iter().any(|name| name.starts_with(word)), "{word}: {names:?}");
        }
        // A label alone has no loss to average.
        assert!(
            found
                .given
                .iter()
                .filter(|one| one.system == "label-only")
                .all(|one| one.attack.family == Family::LabelOnly)
        );
        // What was planted: the members are answered surely, near them too.
        for one in found.given.iter().filter(|one| one.system == "model" && one.attack.name().contains("neighbours")) {
            assert!(
                one.scores[..3].iter().all(|&member| one.scores[3..].iter().all(|&other| member > other)),
                "{one:?}"
            );
        }
    }

    #[test]
    fn answers_that_vary_are_averaged() {
        let inputs = inputs();
        let rows = rows(&inputs);
        let plan = Plan::for_rows(&rows);
        let found = ask_again(&mut Pair { n_asked: 0, noise: 0.01 }, &named(), &rows, &plan, &mut |_| {}).unwrap();
        assert!(found.varies);
        assert!(found.given.iter().any(|one| one.attack.name().contains("answers' mean")));
    }

    #[test]
    fn a_budget_that_does_not_hold_all_is_told_first() {
        let inputs = inputs();
        let rows = rows(&inputs);
        let plan = Plan::for_rows(&rows);
        let mut system = HalfPlane { n_asked: 0, budget: Some(100) };
        let error = ask_again(&mut OneSystem(&mut system), &named()[1..], &rows, &plan, &mut |_| {}).err().unwrap();
        assert!(matches!(error, QueryError::Budget { left: 100, .. }), "{error}");
        assert_eq!(system.n_asked, 0);
    }

    #[test]
    fn rows_of_bits_are_turned_over_and_not_made_noisy() {
        let inputs = array![[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]].into_dyn();
        let plan = Plan::for_rows(&rows(&inputs));
        assert!(plan.is_binary && plan.changes.iter().all(|change| matches!(change, Change::Flips { .. })));
    }

    #[test]
    fn the_nearest_record_is_another_member() {
        let inputs = inputs();
        assert_eq!(nearest_members(&rows(&inputs)), [1, 0, 1, 0, 0, 0]);
    }
}
