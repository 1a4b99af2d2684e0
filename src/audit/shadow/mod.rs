//! Attacks that compare a target with models that the attacker trained itself.
//!
//! Responsible for LiRA ([`lira`]), RMIA and difficulty calibration ([`relative`]), the study that takes each model
//! of a bank as the target in turn ([`leave_one_out`]), and the defence put in front of a shadow model
//! ([`behind`]). Not for training models nor for reading them: whoever has a bank asks its models about the audit's
//! rows and hands over answers, one model at a time, to a [`Bank`], which keeps one number an answer.
//!
//! **Online and offline.** Where every row has models that were trained on it and others that were not, all attacks are run.
//! An attacker whose models never saw an audited row has the offline ones ([`reach`]): LiRA's offline forms, RMIA's, and
//! difficulty calibration, which look at no model that was trained on the row.
//!
//! **The defence is applied to the shadows too.** Each shadow model stands behind the same defence, fitted to its own
//! members; a bank says whether that was done, and an attack on a defended target with undefended shadows bears
//! it in its name.

pub mod behind;
pub mod folder;
pub mod leave_one_out;
pub mod lira;
pub mod reach;
pub mod relative;
pub mod single;

use std::collections::HashMap;

use ndarray::{Array2, Array3, ArrayView2, Axis};

use crate::audit::answers::Answers;
use crate::audit::attack::{AttackId, Family, scaled_logit};
use crate::audit::invert::Inversion;
use crate::audit::rows::Allocation;
use crate::audit::study::GivenScores;
use crate::audit::target::Target;

/// Scaled logits are cut off here: the logarithm of the smallest normal f32 is −87, and an exact zero of a mask is
/// not to decide a mean and a variance alone.
pub const LOGIT_LIMIT: f64 = 100.0;

/// Why a bank cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShadowError {
    /// Answers, labels or inclusions are not of the same rows or queries.
    #[error("{what}: expected {expected}, got {got}")]
    Shape {
        /// What differs.
        what: &'static str,
        /// What was expected.
        expected: usize,
        /// What came.
        got: usize,
    },
    /// Too many models of the bank were trained on a row, or too few: nothing can be compared.
    #[error("row {row}: {n_in} models of the bank were trained on it, {n_out} were not; this attack needs {needs}")]
    TooFewModels {
        /// The row.
        row: usize,
        /// Models that were trained on it.
        n_in: usize,
        /// Models that were not.
        n_out: usize,
        /// What is needed.
        needs: &'static str,
    },
    /// RMIA compares with rows that are known not to be members.
    #[error("there are no rows that are known not to be members")]
    NoPopulation,
    /// No model of the bank was asked about a row of the target.
    #[error("the bank holds no answers about row {row} of the data")]
    NotAsked {
        /// Row of the data set.
        row: usize,
    },
    /// A bank of fewer than three models has no model to compare a left-out one with.
    #[error("a bank of {n_models} models is too small: at least {} are needed", reach::MIN_MODELS)]
    TooSmall {
        /// Models of the bank.
        n_models: usize,
    },
}

/// What stands in front of the shadow models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Shadowing {
    /// What stands in front of the target: the same defence fitted to each shadow's own members, or nothing before
    /// an undefended target.
    AsTarget,
    /// Nothing, although the target is defended.
    Undefended,
}

/// Scaled logits of the true label over models, rows and queries, and who was trained on what.
#[derive(Debug, Clone)]
pub struct Bank {
    /// Shape (n_models, n_rows, n_queries).
    logits: Array3<f64>,
    /// Shape (n_models, n_rows): whether the model was trained on the row.
    inclusion: Array2<bool>,
    shadowing: Shadowing,
}

impl Bank {
    /// A bank without models over `n_rows` rows, each asked `n_queries` times (the row itself, then its changed
    /// forms, in one order for all models).
    #[must_use]
    pub fn new(n_rows: usize, n_queries: usize, shadowing: Shadowing) -> Self {
        Self { logits: Array3::zeros((0, n_rows, n_queries)), inclusion: Array2::default((0, n_rows)), shadowing }
    }

    /// Adds a model by its scaled logits of shape (n_rows, n_queries), as [`scaled_logits`] makes them, and whether
    /// it was trained on each row.
    ///
    /// # Errors
    /// [`ShadowError::Shape`].
    pub fn push(&mut self, logits: ArrayView2<'_, f64>, inclusion: &[bool]) -> Result<(), ShadowError> {
        let (_, n_rows, n_queries) = self.logits.dim();
        for (what, expected, got) in [
            ("rows of answers", n_rows, logits.nrows()),
            ("queries of a row", n_queries, logits.ncols()),
            ("inclusions", n_rows, inclusion.len()),
        ] {
            if expected != got {
                return Err(ShadowError::Shape { what, expected, got });
            }
        }
        let fits = "the shapes were just compared";
        self.logits.push(Axis(0), logits).expect(fits);
        self.inclusion.push(Axis(0), ndarray::aview1(inclusion)).expect(fits);
        Ok(())
    }

    /// Number of models.
    #[must_use]
    pub fn n_models(&self) -> usize {
        self.inclusion.nrows()
    }

    /// Number of rows.
    #[must_use]
    pub fn n_rows(&self) -> usize {
        self.inclusion.ncols()
    }

    /// Whether each model was trained on each row, shape (n_models, n_rows).
    #[must_use]
    pub fn inclusion(&self) -> ArrayView2<'_, bool> {
        self.inclusion.view()
    }

    /// Scaled logits of one model, shape (n_rows, n_queries).
    ///
    /// # Panics
    /// When `model` is not below the number of models.
    #[must_use]
    pub fn of_model(&self, model: usize) -> ArrayView2<'_, f64> {
        self.logits.index_axis(Axis(0), model)
    }

    /// The bank over some of its rows, in that order.
    ///
    /// # Panics
    /// When a row is not below the number of rows.
    #[must_use]
    pub fn of_rows(&self, rows: &[usize]) -> Self {
        Self {
            logits: self.logits.select(Axis(1), rows),
            inclusion: self.inclusion.select(Axis(1), rows),
            shadowing: self.shadowing,
        }
    }

    /// The first row that fewer than `least` models were trained on, or were not, the model `left_out` apart; with both
    /// counts.
    fn lacking(&self, least: usize, left_out: Option<usize>) -> Option<(usize, usize, usize)> {
        let n_models = self.n_models() - usize::from(left_out.is_some());
        let n_in =
            |row: usize| (0..self.n_models()).filter(|&m| Some(m) != left_out && self.inclusion[(m, row)]).count();
        let counts = (0..self.n_rows()).map(|row| (row, n_in(row), n_models - n_in(row)));
        counts.into_iter().find(|&(_, n_in, n_out)| n_in.min(n_out) < least)
    }

    /// What an offline attacker has of the bank, the model `left_out` apart: of each row the answers of models that were not
    /// trained on it, and of no row more than of another: those of the first models.
    fn strangers(&self, left_out: Option<usize>) -> Result<Self, ShadowError> {
        let of_row = |row: usize| {
            (0..self.n_models()).filter(move |&model| Some(model) != left_out && !self.inclusion[(model, row)])
        };
        let of_rows: Vec<Vec<usize>> = (0..self.n_rows()).map(|row| of_row(row).collect()).collect();
        let (row, fewest) = of_rows.iter().map(Vec::len).enumerate().min_by_key(|(_, n)| *n).unwrap_or_default();
        if fewest < reach::MIN_STRANGERS {
            let n_in = self.n_models() - usize::from(left_out.is_some()) - fewest;
            return Err(ShadowError::TooFewModels { row, n_in, n_out: fewest, needs: reach::NEEDS_STRANGERS });
        }
        let shape = (fewest, self.n_rows(), self.logits.dim().2);
        Ok(Self {
            logits: Array3::from_shape_fn(shape, |(place, row, query)| self.logits[(of_rows[row][place], row, query)]),
            inclusion: Array2::default((fewest, self.n_rows())),
            shadowing: self.shadowing,
        })
    }

    /// An attack's name, with what stands before the shadows where that is not what stands before the target.
    fn id(&self, name: &str) -> AttackId {
        AttackId::new(Family::Shadow, name).with_shadows(self.shadowing)
    }

    fn check_target(&self, target: ArrayView2<'_, f64>) -> Result<(), ShadowError> {
        let (_, n_rows, n_queries) = self.logits.dim();
        for (what, expected, got) in
            [("rows of the target", n_rows, target.nrows()), ("queries of a row", n_queries, target.ncols())]
        {
            if expected != got {
                return Err(ShadowError::Shape { what, expected, got });
            }
        }
        Ok(())
    }

    /// Logits of `query` for one row over the models that were trained on it and over those that were not, the
    /// model `left_out` apart; into buffers that are emptied first.
    fn sides(&self, row: usize, query: usize, left_out: Option<usize>, into: &mut Sides) {
        into.inside.clear();
        into.outside.clear();
        for model in (0..self.n_models()).filter(|&model| Some(model) != left_out) {
            let side = if self.inclusion[(model, row)] { &mut into.inside } else { &mut into.outside };
            side.push(self.logits[(model, row, query)]);
        }
    }
}

/// One row's values over two kinds of models.
#[derive(Debug, Default)]
struct Sides {
    inside: Vec<f64>,
    outside: Vec<f64>,
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Scaled logits of the true `labels` in `queries`, each the answers to one form of every row; shape (n_rows,
/// n_queries).
///
/// # Errors
/// [`ShadowError::Shape`] where the answers are not of as many rows as there are labels.
pub fn scaled_logits(queries: &[&Answers], labels: &[u32]) -> Result<Array2<f64>, ShadowError> {
    let mut logits = Array2::zeros((labels.len(), queries.len()));
    for (query, answers) in queries.iter().enumerate() {
        if answers.n_rows() != labels.len() {
            return Err(ShadowError::Shape { what: "answers", expected: labels.len(), got: answers.n_rows() });
        }
        for (row, &label) in labels.iter().enumerate() {
            let logit = scaled_logit(answers.probabilities.row(row), label as usize);
            logits[(row, query)] = logit.clamp(-LOGIT_LIMIT, LOGIT_LIMIT);
        }
    }
    Ok(logits)
}

/// All shadow attacks on one target: `target` are its scaled logits (n_rows, n_queries); `population` are rows that
/// the attacker knows not to be its members (RMIA's z), which the caller keeps out of the verdict; `left_out` is
/// the model of the bank that is the target itself, if it is one. One score a row, higher for members. Where some row has
/// no model that was trained on it, offline attacks alone are run, and every row is held against as many models.
///
/// # Errors
/// [`ShadowError`].
pub fn attacks(
    bank: &Bank,
    target: ArrayView2<'_, f64>,
    left_out: Option<usize>,
    population: &[usize],
) -> Result<Vec<(AttackId, Vec<f64>)>, ShadowError> {
    bank.check_target(target)?;
    let is_online = bank.lacking(1, left_out).is_none();
    let strangers;
    let (bank, left_out) = match is_online {
        true => (bank, left_out),
        false => {
            strangers = bank.strangers(left_out)?;
            (&strangers, None)
        }
    };
    let mut found = Vec::new();
    for variant in lira::Variant::all(bank.logits.dim().2) {
        if is_online || variant.test != lira::Test::Online {
            found.push((bank.id(&variant.name()), lira::scores(bank, target, left_out, variant)?));
        }
    }
    for variant in relative::Rmia::ALL {
        if is_online || variant != relative::Rmia::Online {
            found.push((bank.id(variant.name()), relative::rmia(bank, target, left_out, population, variant)?));
        }
    }
    found.push((bank.id("loss calibrated by difficulty"), relative::calibrated(bank, target, left_out)?));
    Ok(found)
}

/// The shadow attacks on one system of a study, as scores of the target's rows: `bank` is the system's, over the data
/// set's rows `asked`; `answers` are the system's on `target`. RMIA's population is [`population`]'s.
///
/// # Errors
/// [`ShadowError`].
pub fn given(
    bank: &Bank,
    asked: &[usize],
    system: &str,
    answers: &Answers,
    target: &Target,
    seed: u64,
) -> Result<Vec<GivenScores>, ShadowError> {
    given_forms(bank, asked, system, &[answers], target, seed)
}

/// Rows of the target that RMIA compares with: the non-members on which attacks are fitted in a study with this `seed`, so
/// that they are neither members nor judged.
#[must_use]
pub fn population(target: &Target, seed: u64) -> Vec<usize> {
    let n_members = target.n_members();
    let mut population = Allocation::deal(n_members, target.n_rows() - n_members, seed).attack_fit;
    population.retain(|&row| row >= n_members);
    population
}

/// As [`given`], with the system's answers to every form of the rows that the bank was asked about, in its order.
///
/// # Errors
/// [`ShadowError`].
pub fn given_forms(
    bank: &Bank,
    asked: &[usize],
    system: &str,
    forms: &[&Answers],
    target: &Target,
    seed: u64,
) -> Result<Vec<GivenScores>, ShadowError> {
    let places: HashMap<usize, usize> = asked.iter().enumerate().map(|(place, &row)| (row, place)).collect();
    let place = |&row: &usize| places.get(&row).copied().ok_or(ShadowError::NotAsked { row });
    let rows = target.dataset_rows().iter().map(place).collect::<Result<Vec<_>, _>>()?;
    let logits = scaled_logits(forms, target.labels())?;
    let found = attacks(&bank.of_rows(&rows), logits.view(), None, &population(target, seed))?;
    let one = |(attack, scores)| GivenScores { system: system.to_owned(), attack, scores, rule: None };
    Ok(found.into_iter().map(one).collect())
}

/// The shadow attacks of an attacker who first undoes the defence: `forms` are the system's answers, `bank` that of the
/// **undefended** shadow models, `inversion` how the system is read back. A map that can be undone takes nothing from
/// the likelihood ratio, whatever it does to the scaled logits of the answers as they stand.
///
/// # Errors
/// [`ShadowError`].
pub fn given_undone(
    bank: &Bank,
    asked: &[usize],
    system: &str,
    (forms, inversion): (&[&Answers], &Inversion),
    target: &Target,
    seed: u64,
) -> Result<Vec<GivenScores>, ShadowError> {
    let undone: Vec<Answers> = forms.iter().map(|answers| inversion.undone(answers)).collect();
    let undone: Vec<&Answers> = undone.iter().collect();
    let mut given = given_forms(bank, asked, system, &undone, target, seed)?;
    // A selection where there are online ones: beside these the density and the calibrated loss are weaker.
    let beside_online = given.iter().any(|one| one.attack.name().contains("online"));
    let weaker = |name: &str| name.contains("density") || name.contains("calibrated");
    given.retain(|one| !(beside_online && weaker(one.attack.name())));
    for one in &mut given {
        one.attack = AttackId::new(Family::Adaptive, format!("{} on undone answers", one.attack.name()));
    }
    Ok(given)
}

#[cfg(test)]
pub(super) mod planted {
    //! A bank whose leak is known: each row has its own difficulty, and a model that saw it is surer by `lift`.

    use rand::seq::SliceRandom;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    pub(in crate::audit) fn bank(n_models: usize, n_rows: usize, n_queries: usize, lift: f64, seed: u64) -> Bank {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let difficulty: Vec<f64> = (0..n_rows).map(|_| rng.random_range(-4.0..4.0)).collect();
        let mut bank = Bank::new(n_rows, n_queries, Shadowing::AsTarget);
        // Each row trains half of the models, drawn row by row.
        let halves: Vec<Vec<bool>> = (0..n_rows)
            .map(|_| {
                let mut half: Vec<bool> = (0..n_models).map(|model| model < n_models / 2).collect();
                half.shuffle(&mut rng);
                half
            })
            .collect();
        for model in 0..n_models {
            let inclusion: Vec<bool> = halves.iter().map(|half| half[model]).collect();
            let logits = Array2::from_shape_fn((n_rows, n_queries), |(row, _)| {
                // About normal with deviation 1.
                let noise: f64 = (0..12).map(|_| rng.random_range(-0.5..0.5_f64)).sum();
                difficulty[row] + noise + if inclusion[row] { lift } else { 0.0 }
            });
            bank.push(logits.view(), &inclusion).unwrap();
        }
        bank
    }
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    #[test]
    fn a_model_of_other_rows_is_refused() {
        let mut bank = Bank::new(3, 2, Shadowing::AsTarget);
        let wrong = bank.push(Array2::zeros((2, 2)).view(), &[true; 3]).unwrap_err();
        assert!(wrong.to_string().contains("rows of answers: expected 3, got 2"), "{wrong}");
        assert!(bank.push(Array2::zeros((3, 1)).view(), &[true; 3]).is_err());
        assert!(bank.push(Array2::zeros((3, 2)).view(), &[true; 2]).is_err());
        bank.push(Array2::zeros((3, 2)).view(), &[true; 3]).unwrap();
        assert_eq!((bank.n_models(), bank.n_rows()), (1, 3));
    }

    #[test]
    fn undefended_shadows_before_a_defended_target_are_told_by_the_name() {
        let planted = planted::bank(8, 20, 1, 1.0, 1);
        let blind = Bank { shadowing: Shadowing::Undefended, ..planted };
        let target = blind.of_model(0).to_owned();
        let named = attacks(&blind, target.view(), Some(0), &[0]).unwrap();
        assert!(named.iter().all(|(id, _)| id.name().ends_with("(undefended shadows)")));
    }

    /// One bank after the other, model by model in turn.
    fn shuffled(banks: [&Bank; 2]) -> Bank {
        let mut both = Bank::new(banks[0].n_rows(), banks[0].logits.dim().2, banks[0].shadowing);
        for model in 0..banks[0].n_models().max(banks[1].n_models()) {
            for bank in banks.iter().filter(|bank| model < bank.n_models()) {
                both.push(bank.of_model(model), &bank.inclusion().row(model).to_vec()).unwrap();
            }
        }
        both
    }

    /// Models that were trained on all rows, or on none.
    fn of_one_kind(n_models: usize, n_rows: usize, inside: bool, seed: u64) -> Bank {
        let mut bank = planted::bank(n_models, n_rows, 3, 2.0, seed);
        bank.inclusion.fill(inside);
        bank
    }

    #[test]
    fn an_offline_bank_gives_to_the_bit_what_its_models_give_among_others() {
        let (outside, inside) = (of_one_kind(7, 60, false, 1), of_one_kind(4, 60, true, 2));
        let target = planted::bank(2, 60, 3, 2.0, 3).of_model(0).to_owned();
        let of = |bank: &Bank| attacks(bank, target.view(), None, &[40, 41, 42]).unwrap();
        let (alone, among) = (of(&outside), of(&shuffled([&inside, &outside])));
        let is_online = |id: &AttackId| id.name().contains("online");
        assert!(!alone.iter().any(|(id, _)| is_online(id)), "an online attack was run offline");
        let n_online = among.iter().filter(|(id, _)| is_online(id)).count();
        assert_eq!(
            (alone.len(), n_online),
            (7, 4),
            "of LiRA five and three, of RMIA one each, and the calibrated loss"
        );
        let offline: Vec<_> = among.into_iter().filter(|(id, _)| !is_online(id)).collect();
        assert_eq!(alone, offline);
    }

    #[test]
    fn no_row_is_held_against_more_strangers_than_another() {
        // Rows 0 to 399 trained half of the models each, the others none: nothing leaks, but with all the models that were
        // not trained on it a row of the second half would be told by how little its scores stray.
        let mut bank = planted::bank(8, 800, 1, 0.0, 11);
        bank.inclusion.slice_axis_mut(Axis(1), (400..).into()).fill(false);
        let target = planted::bank(8, 800, 1, 0.0, 11).of_model(0).mapv(|logit| logit * 0.5 + 1.0);
        let found = attacks(&bank, target.view(), None, &[500, 501]).unwrap();
        let strangers = bank.strangers(None).unwrap();
        assert_eq!((strangers.n_models(), strangers.n_rows()), (4, 800));
        assert!(!strangers.inclusion().iter().any(|trained| *trained));
        assert_eq!(found, attacks(&strangers, target.view(), None, &[500, 501]).unwrap());
        // The first models that were not trained on the row, in the bank's order.
        for row in [0, 399, 400, 799] {
            let first: Vec<usize> = (0..8).filter(|&model| !bank.inclusion[(model, row)]).take(4).collect();
            let of = |place: usize| strangers.logits[(place, row, 0)];
            assert!((0..4).all(|place| of(place) == bank.logits[(first[place], row, 0)]), "row {row}");
        }
        bank.inclusion.column_mut(7).fill(true);
        let refused = attacks(&bank, target.view(), None, &[500]).unwrap_err();
        assert_eq!(refused, ShadowError::TooFewModels { row: 7, n_in: 8, n_out: 0, needs: "two that were not" });
    }

    #[test]
    fn a_planted_leak_is_found_by_models_that_never_saw_a_row() {
        let auc = |lift: f64| {
            let bank = planted::bank(17, 1_500, 1, lift, 6);
            let target = bank.of_model(0).to_owned();
            let memberships = bank.inclusion().row(0).to_vec();
            // Without the target, and as if no row had been dealt to a model: of each the answers of eight strangers.
            let bank = bank.strangers(Some(0)).unwrap();
            assert!(bank.n_models() >= 7, "{}", bank.n_models());
            let others: Vec<usize> = (0..1_500).filter(|&row| !memberships[row]).take(200).collect();
            let found = attacks(&bank, target.view(), None, &others).unwrap();
            let curve = |scores: &[f64]| crate::audit::roc::Roc::new(scores, &memberships).unwrap().auc();
            found.into_iter().map(|(id, scores)| (id.name().to_owned(), curve(&scores))).collect::<Vec<_>>()
        };
        for (name, auc) in auc(2.0) {
            // The density calls rows far below their usual members, too.
            let least = if name.contains("density") { 0.6 } else { 0.75 };
            assert!(auc > least, "{name}: {auc}");
        }
        for (name, auc) in auc(0.0) {
            assert!((auc - 0.5).abs() < 0.05, "{name}: {auc}");
        }
    }

    #[test]
    fn rmia_compares_with_no_member_and_with_nobody_who_is_judged() {
        use crate::audit::answers::Allows;
        let labels: Vec<u32> = (0..60).map(|row| row % 3).collect();
        let target = Target::answered(labels, 25, 3, Allows::SCORES).unwrap();
        for seed in 0..20 {
            let verdict = Allocation::deal(25, 35, seed).verdict;
            let population = population(&target, seed);
            assert!(!population.is_empty());
            assert!(population.iter().all(|row| *row >= 25 && !verdict.contains(row)), "seed {seed}: {population:?}");
        }
    }

    #[test]
    fn exact_zeros_do_not_decide_a_mean_alone() {
        let answers = Answers::new(array![[1.0, 0.0], [0.25, 0.75]]);
        let logits = scaled_logits(&[&answers], &[1, 1]).unwrap();
        assert_eq!(logits[(0, 0)], -LOGIT_LIMIT);
        assert!((logits[(1, 0)] - 3.0_f64.ln()).abs() < 1e-12);
    }
}
