//! The inclusion matrix: which rows of a pool train which of `M` models.
//!
//! Pure: a [`Design`], a [`Pool`] of rows and a seed give one matrix, always the same. Not responsible for files
//! ([`super::matrix_file`]) or for training. What is dealt is not rows but *units*: rows of one group (near-duplicates)
//! share a unit, so that a model which is to know nothing of a row does not know its double either. On request the
//! units are dealt class by class, so that every model sees every class in about its share.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;

use ndarray::{Array2, ArrayView1, Axis};
use rand::Rng;
use rand::seq::{SliceRandom, index};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::{Deserialize, Serialize};

use crate::lab::streams;

/// No matrix has more models: a bank of more is a mistake, and a number of five digits names each.
pub const MAX_MODELS: usize = 65_536;

/// No matrix is larger: `n_models · n_rows` bytes of memory.
pub const MAX_CELLS: usize = 1 << 30;

/// No design has more folds.
pub const MAX_FOLDS: usize = 1024;

/// No shard has more slices.
pub const MAX_SLICES: usize = 256;

fn one() -> usize {
    1
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_one(number: &usize) -> bool {
    *number == 1
}

/// How rows are dealt to models.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Design {
    /// Each model trains on its own random share of the rows, without repetition.
    Share {
        /// Number of models.
        models: usize,
        /// Share of the rows, above 0 and below 1.
        share: f64,
    },
    /// The rows are cut into folds; one model for each choice of left-out folds, in lexicographic order. Any `leave`
    /// rows are unknown to at least one model.
    Folds {
        /// Number of folds.
        folds: usize,
        /// Folds left out by each model, below `folds`.
        leave: usize,
    },
    /// Each row trains exactly `of` of the models, drawn row by row: LiRA's design with `of` = half of the models,
    /// SELENA's Split-AI (K models, each row left out of L) with `of` = K − L.
    Balanced {
        /// Number of models.
        models: usize,
        /// Models that each row trains, at least 1 and below `models`.
        of: usize,
    },
    /// Bagging: each model trains on as many rows as there are, drawn with repetition.
    Bootstrap {
        /// Number of models.
        models: usize,
    },
    /// The rows are cut into disjoint shards and each trains one model (SISA), slice by slice ([`super::slices`]).
    Shards {
        /// Number of shards, and of models.
        shards: usize,
        /// Slices of each shard; 1 is no slices.
        #[serde(default = "one", skip_serializing_if = "is_one")]
        slices: usize,
    },
    /// Every model trains on all rows: they differ by their seeds alone.
    Whole {
        /// Number of models.
        models: usize,
    },
    /// As recorded, with repetition: who trains which model follows from the models before (boosting).
    Recorded {
        /// Number of models.
        models: usize,
    },
}

/// In the words of the options.
impl fmt::Display for Design {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Share { models, share } => write!(f, "{models} models, each on a share of {share}"),
            Self::Folds { folds, leave } => write!(f, "{folds} folds, {leave} left out by each model"),
            Self::Balanced { models, of } => write!(f, "{models} models, each row in {of} of them"),
            Self::Bootstrap { models } => write!(f, "{models} models on bootstrap samples"),
            Self::Shards { shards, slices: 1 } => write!(f, "{shards} disjoint shards"),
            Self::Shards { shards, slices } => write!(f, "{shards} disjoint shards, each of {slices} slices"),
            Self::Whole { models } => write!(f, "{models} models on all rows"),
            Self::Recorded { models } => write!(f, "{models} models on rows as recorded"),
        }
    }
}

/// Why a matrix cannot be drawn, or is not what it says it is. Holds counts, never values of rows.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum InclusionError {
    /// A number of the design is out of range.
    #[error("{what}: expected {expected}, got {got}")]
    Design {
        /// The number, in the words of the options.
        what: &'static str,
        /// What it may be.
        expected: String,
        /// What it is.
        got: String,
    },
    /// Fewer units than parts: some model would train on nothing, or leave out nothing.
    #[error("expected at least {expected} rows (near-duplicates counted once) for {design}, got {got}")]
    TooFewRows {
        /// The least number of units.
        expected: usize,
        /// The design.
        design: Design,
        /// Units of the pool.
        got: usize,
    },
    /// The pool names a row twice, or groups or classes for another number of rows.
    #[error("the pool of rows: expected {expected}, got {got}")]
    Pool {
        /// What was expected.
        expected: String,
        /// What came.
        got: String,
    },
    /// The matrix would not fit.
    #[error("expected at most {MAX_CELLS} cells (models times rows), got {models} models and {rows} rows")]
    TooLarge {
        /// Models.
        models: usize,
        /// Rows.
        rows: usize,
    },
    /// A matrix does not keep what its design promises.
    #[error("the inclusion matrix is not of its design ({design}): {broken}")]
    Broken {
        /// The design that it names.
        design: Design,
        /// The promise, with numbers.
        broken: String,
    },
}

fn out_of_range(what: &'static str, expected: impl Into<String>, got: impl fmt::Display) -> InclusionError {
    InclusionError::Design { what, expected: expected.into(), got: got.to_string() }
}

impl Design {
    /// Checks the numbers and counts the models.
    ///
    /// # Errors
    ///
    /// [`InclusionError::Design`] for the first number out of range.
    pub fn n_models(self) -> Result<usize, InclusionError> {
        let n_models = match self {
            Self::Share { models, share } => {
                if !(share > 0.0 && share < 1.0) {
                    return Err(out_of_range("share", "a number above 0 and below 1", share));
                }
                models
            }
            Self::Folds { folds, leave } => {
                if !(2..=MAX_FOLDS).contains(&folds) {
                    return Err(out_of_range("folds", format!("2 to {MAX_FOLDS}"), folds));
                }
                if leave == 0 || leave >= folds {
                    return Err(out_of_range("folds left out", format!("1 to {}", folds - 1), leave));
                }
                n_choices(folds, leave)
                    .filter(|&n| n <= MAX_MODELS)
                    .ok_or_else(|| out_of_range("folds", format!("at most {MAX_MODELS} choices of {leave}"), folds))?
            }
            Self::Balanced { models, of } => {
                if of == 0 || of >= models {
                    let expected = format!("1 to {}", models.saturating_sub(1));
                    return Err(out_of_range("models that each row trains", expected, of));
                }
                models
            }
            Self::Shards { shards, slices } => {
                if !(1..=MAX_SLICES).contains(&slices) {
                    return Err(out_of_range("slices", format!("1 to {MAX_SLICES}"), slices));
                }
                shards
            }
            Self::Bootstrap { models } | Self::Whole { models } | Self::Recorded { models } => models,
        };
        if !(1..=MAX_MODELS).contains(&n_models) {
            return Err(out_of_range("models", format!("1 to {MAX_MODELS}"), n_models));
        }
        Ok(n_models)
    }

    /// Whether a row may stand several times in a model.
    #[must_use]
    pub fn repeats(self) -> bool {
        matches!(self, Self::Bootstrap { .. } | Self::Recorded { .. })
    }

    /// The folds that each model leaves out, in lexicographic order; empty for other designs.
    #[must_use]
    pub fn left_out(self) -> Vec<Vec<usize>> {
        let Self::Folds { folds, leave } = self else { return Vec::new() };
        if self.n_models().is_err() {
            return Vec::new();
        }
        let mut choices = Vec::new();
        let mut choice: Vec<usize> = (0..leave).collect();
        loop {
            choices.push(choice.clone());
            // The last place that can still move on; everything after it follows closely.
            let Some(place) = (0..leave).rev().find(|&place| choice[place] < folds - leave + place) else { break };
            choice[place] += 1;
            for next in place + 1..leave {
                choice[next] = choice[next - 1] + 1;
            }
        }
        choices
    }

    /// The least number of units with which every model trains on something and keeps its promise.
    fn least_units(self) -> usize {
        match self {
            Self::Folds { folds, .. } => folds,
            Self::Shards { shards, .. } => shards,
            Self::Share { share, .. } => (0.5 / share.min(1.0 - share)).ceil().max(2.0) as usize,
            Self::Balanced { .. } => 2,
            Self::Bootstrap { .. } | Self::Whole { .. } | Self::Recorded { .. } => 1,
        }
    }
}

/// `n` over `k`, where it fits.
fn n_choices(n: usize, k: usize) -> Option<usize> {
    (0..k.min(n - k)).try_fold(1usize, |product, step| Some(product.checked_mul(n - step)? / (step + 1)))
}

/// The rows that are dealt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    rows: Vec<usize>,
    units: Vec<usize>,
    n_units: usize,
    strata: Option<Vec<u32>>,
}

impl Pool {
    /// A pool of distinct rows of a dataset, each a unit of its own.
    ///
    /// # Errors
    ///
    /// [`InclusionError::Pool`] when a row stands twice.
    pub fn new(rows: &[usize]) -> Result<Self, InclusionError> {
        check_distinct(rows)?;
        Ok(Self { rows: rows.to_vec(), units: (0..rows.len()).collect(), n_units: rows.len(), strata: None })
    }

    /// Rows with the same group share their fate: one number for each row, any numbers.
    ///
    /// # Errors
    ///
    /// [`InclusionError::Pool`] when there are more or fewer groups than rows.
    pub fn grouped(mut self, groups: &[u32]) -> Result<Self, InclusionError> {
        self.expect_one_a_row("groups", groups.len())?;
        let mut places = HashMap::new();
        self.units = groups
            .iter()
            .map(|group| {
                let next = places.len();
                *places.entry(*group).or_insert(next)
            })
            .collect();
        self.n_units = places.len();
        Ok(self)
    }

    /// Deals class by class: one label for each row. A group counts as its first row's class.
    ///
    /// # Errors
    ///
    /// [`InclusionError::Pool`] when there are more or fewer labels than rows.
    pub fn stratified(mut self, labels: &[u32]) -> Result<Self, InclusionError> {
        self.expect_one_a_row("labels", labels.len())?;
        self.strata = Some(labels.to_vec());
        Ok(self)
    }

    fn expect_one_a_row(&self, what: &str, got: usize) -> Result<(), InclusionError> {
        if got == self.rows.len() {
            return Ok(());
        }
        Err(InclusionError::Pool {
            expected: format!("{} {what}, one for each row", self.rows.len()),
            got: got.to_string(),
        })
    }

    /// The rows, by their numbers in the dataset.
    #[must_use]
    pub fn rows(&self) -> &[usize] {
        &self.rows
    }

    /// The stratum of each unit.
    fn unit_strata(&self) -> Vec<u32> {
        let mut strata = vec![None; self.n_units];
        if let Some(labels) = &self.strata {
            for (&unit, &label) in self.units.iter().zip(labels) {
                strata[unit].get_or_insert(label);
            }
        }
        strata.into_iter().map(Option::unwrap_or_default).collect()
    }
}

pub(super) fn check_distinct(rows: &[usize]) -> Result<(), InclusionError> {
    let mut sorted = rows.to_vec();
    sorted.sort_unstable();
    match sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => {
            Err(InclusionError::Pool { expected: "distinct rows".to_owned(), got: format!("row {} twice", pair[0]) })
        }
        None => Ok(()),
    }
}

/// Which rows of a pool train which models, and how often.
#[derive(Debug, Clone, PartialEq)]
pub struct Inclusion {
    design: Design,
    seed: u64,
    rows: Vec<usize>,
    /// `(n_models, n_rows)`: how often a model has a row among its training rows.
    counts: Array2<u8>,
}

impl Inclusion {
    /// Deals the rows of a pool.
    ///
    /// # Errors
    ///
    /// [`InclusionError`] when the design is out of range or does not fit the pool.
    pub fn draw(design: Design, pool: &Pool, seed: u64) -> Result<Self, InclusionError> {
        let (n_models, n_rows) = (design.n_models()?, pool.rows.len());
        check_size(n_models, n_rows)?;
        let expected = design.least_units();
        if pool.n_units < expected {
            return Err(InclusionError::TooFewRows { expected, design, got: pool.n_units });
        }
        let dealt = Deal { seed, strata: pool.unit_strata() }.deal(design, n_models);
        let counts = Array2::from_shape_fn((n_models, n_rows), |(model, place)| dealt[[model, pool.units[place]]]);
        Self { design, seed, rows: pool.rows.clone(), counts }.checked()
    }

    /// A matrix out of its parts, checked against its design.
    ///
    /// # Errors
    ///
    /// [`InclusionError`] when rows stand twice, the shapes differ, or the counts are not of the design.
    pub fn from_parts(design: Design, seed: u64, rows: Vec<usize>, counts: Array2<u8>) -> Result<Self, InclusionError> {
        let n_models = design.n_models()?;
        check_size(n_models, rows.len())?;
        check_distinct(&rows)?;
        if counts.dim() != (n_models, rows.len()) {
            let broken = format!("expected {n_models} models and {} rows, got {:?}", rows.len(), counts.dim());
            return Err(InclusionError::Broken { design, broken });
        }
        Self { design, seed, rows, counts }.checked()
    }

    /// How the rows were dealt.
    #[must_use]
    pub fn design(&self) -> Design {
        self.design
    }

    /// The seed that dealt them.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The number of models.
    #[must_use]
    pub fn n_models(&self) -> usize {
        self.counts.nrows()
    }

    /// The rows of the pool, by their numbers in the dataset; their places are the columns of [`counts`](Self::counts).
    #[must_use]
    pub fn rows(&self) -> &[usize] {
        &self.rows
    }

    /// How often each model trains on each row.
    ///
    /// # Shapes
    ///
    /// `(n_models, n_rows)`.
    #[must_use]
    pub fn counts(&self) -> &Array2<u8> {
        &self.counts
    }

    /// The rows that a model trains on, by their numbers in the dataset, in the order of the pool; a row that was drawn
    /// several times stands several times.
    ///
    /// # Panics
    ///
    /// When `model` is not below [`n_models`](Self::n_models), as in the following.
    #[must_use]
    pub fn members(&self, model: usize) -> Vec<usize> {
        let repeat = |(&row, &count): (&usize, &u8)| std::iter::repeat_n(row, usize::from(count));
        self.rows.iter().zip(self.counts.row(model)).flat_map(repeat).collect()
    }

    /// The rows of the pool that a model never saw.
    #[must_use]
    pub fn strangers(&self, model: usize) -> Vec<usize> {
        self.rows.iter().zip(self.counts.row(model)).filter(|(_, count)| **count == 0).map(|(&row, _)| row).collect()
    }

    /// How often each model trains on the row at a place of the pool.
    #[must_use]
    pub fn of_row(&self, place: usize) -> ArrayView1<'_, u8> {
        self.counts.column(place)
    }

    /// The models that saw none of the rows at these places of the pool: those eligible to answer for them (R11).
    #[must_use]
    pub fn eligible(&self, places: &[usize]) -> Vec<usize> {
        let knows_none = |model: &ArrayView1<'_, u8>| places.iter().all(|&place| model[place] == 0);
        self.counts.axis_iter(Axis(0)).enumerate().filter(|(_, model)| knows_none(model)).map(|(at, _)| at).collect()
    }

    /// The place in the pool of each row number.
    #[must_use]
    pub fn places(&self) -> HashMap<usize, usize> {
        self.rows.iter().copied().zip(0..).collect()
    }

    /// What the design promises, held against the counts.
    fn checked(self) -> Result<Self, InclusionError> {
        let broken = |broken: String| InclusionError::Broken { design: self.design, broken };
        if let Some(model) = self.counts.rows().into_iter().position(|model| model.iter().all(|&count| count == 0)) {
            return Err(broken(format!("model {model} trains on no row")));
        }
        if !self.design.repeats()
            && let Some(&count) = self.counts.iter().find(|&&count| count > 1)
        {
            return Err(broken(format!("a row stands {count} times in a model without repetition")));
        }
        let uses = |place: usize| self.of_row(place).iter().filter(|&&count| count > 0).count();
        let promised = match self.design {
            Design::Balanced { of, .. } => Some(of),
            Design::Shards { .. } => Some(1),
            Design::Whole { models } => Some(models),
            _ => None,
        };
        if let Some(expected) = promised
            && let Some(place) = (0..self.rows.len()).find(|&place| uses(place) != expected)
        {
            return Err(broken(format!("expected each row in {expected} models, got one in {}", uses(place))));
        }
        if let Some(place) = self.first_in_no_fold() {
            return Err(broken(format!("the row at place {place} is in no fold: its models are no choice's")));
        }
        Ok(self)
    }

    /// A row of fold `f` is left out exactly by the models whose choice holds `f`.
    fn first_in_no_fold(&self) -> Option<usize> {
        let Design::Folds { folds, .. } = self.design else { return None };
        let choices = self.design.left_out();
        let columns: std::collections::HashSet<Vec<u8>> =
            (0..folds).map(|fold| choices.iter().map(|choice| u8::from(!choice.contains(&fold))).collect()).collect();
        (0..self.rows.len()).find(|&place| !columns.contains(&self.of_row(place).to_vec()))
    }
}

fn check_size(models: usize, rows: usize) -> Result<(), InclusionError> {
    match models.checked_mul(rows) {
        Some(cells) if cells <= MAX_CELLS => Ok(()),
        _ => Err(InclusionError::TooLarge { models, rows }),
    }
}

/// One deal of units to models.
struct Deal {
    seed: u64,
    strata: Vec<u32>,
}

impl Deal {
    /// Stream 0 of a deal decides about all models together, stream `1 + m` about model `m`.
    fn generator(&self, stream: u64) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(streams::INCLUSION + stream);
        rng
    }

    fn of_model(&self, model: usize) -> ChaCha8Rng {
        self.generator(1 + model as u64)
    }

    /// All units, shuffled within their strata, stratum after stratum.
    fn shuffled(&self, rng: &mut ChaCha8Rng) -> Vec<usize> {
        let mut units: Vec<usize> = (0..self.strata.len()).collect();
        units.shuffle(rng);
        units.sort_by_key(|&unit| self.strata[unit]);
        units
    }

    /// The units cut into parts whose sizes differ by one at most, in each stratum too.
    fn parts(&self, n_parts: usize) -> Vec<usize> {
        let mut part_of = vec![0; self.strata.len()];
        for (place, unit) in self.shuffled(&mut self.generator(0)).into_iter().enumerate() {
            part_of[unit] = place % n_parts;
        }
        part_of
    }

    /// # Shapes
    ///
    /// `(n_models, n_units)`.
    fn deal(&self, design: Design, n_models: usize) -> Array2<u8> {
        let n_units = self.strata.len();
        let mut counts = Array2::zeros((n_models, n_units));
        match design {
            Design::Share { share, .. } => {
                for (model, mut row) in counts.rows_mut().into_iter().enumerate() {
                    self.share(model, share).for_each(|unit| row[unit] = 1);
                }
            }
            Design::Folds { folds, .. } => {
                let fold_of = self.parts(folds);
                for (model, choice) in design.left_out().into_iter().enumerate() {
                    (0..n_units).for_each(|unit| counts[[model, unit]] = u8::from(!choice.contains(&fold_of[unit])));
                }
            }
            Design::Balanced { of, .. } => {
                let mut rng = self.generator(0);
                for unit in 0..n_units {
                    index::sample(&mut rng, n_models, of).into_iter().for_each(|model| counts[[model, unit]] = 1);
                }
            }
            Design::Bootstrap { .. } => {
                for (model, mut row) in counts.rows_mut().into_iter().enumerate() {
                    let mut rng = self.of_model(model);
                    for unit in (0..n_units).map(|_| rng.random_range(Range { start: 0, end: n_units })) {
                        // More than 255 draws of one unit among n draws of n units: 1 in 255!.
                        row[unit] = u8::saturating_add(row[unit], 1);
                    }
                }
            }
            Design::Shards { shards, .. } => {
                for (unit, shard) in self.parts(shards).into_iter().enumerate() {
                    counts[[shard, unit]] = 1;
                }
            }
            // Nothing is dealt: the matrix is filled in as the models are trained.
            Design::Recorded { .. } => {}
            Design::Whole { .. } => counts.fill(1),
        }
        counts
    }

    /// A share of the units, to the nearest whole number, of each stratum to within one: of the shuffled units those at
    /// whose place the running total `⌊place · share + ½⌋` steps up.
    fn share(&self, model: usize, share: f64) -> impl Iterator<Item = usize> {
        let total = move |place: usize| (place as f64 * share + 0.5).floor();
        let units = self.shuffled(&mut self.of_model(model));
        units.into_iter().enumerate().filter(move |(place, _)| total(place + 1) > total(*place)).map(|(_, unit)| unit)
    }
}

#[cfg(test)]
mod tests;
