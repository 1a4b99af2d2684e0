//! Drawing the parts: an order of all rows from a seed, cut into parts.
//!
//! The order is a shuffle, or a shuffle dealt out class by class; the cut keeps groups of near-duplicates whole.

use std::collections::HashSet;

use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::super::near::Groups;
use super::super::{DataSource, Dataset};
use super::{DatasetId, Drawn, FORMAT, FORMAT_VERSION, Part, PartSizes, Parts, Split, SplitError};

/// What decides the parts of a split.
#[derive(Debug, Clone, Copy, Default)]
pub struct Drawing<'a> {
    /// How many rows each part gets.
    pub sizes: PartSizes,
    /// Seed of the shuffle.
    pub seed: u64,
    /// Whether each part holds the classes in the data's proportions: the number of rows of each class in any part is
    /// less than two off its exact share (less than one in the train part). Groups bend this by their size.
    pub stratified: bool,
    /// Rows to keep together in one part.
    pub groups: Option<&'a Groups>,
}

impl Split {
    /// Draws disjoint parts: all row numbers are shuffled with `ChaCha8Rng::seed_from_u64(seed)`, then the
    /// parts are cut off in the order of [`Part::ALL`]. Rows that are left over belong to no part.
    ///
    /// # Errors
    ///
    /// As [`draw_with`](Self::draw_with).
    pub fn draw(source: &DataSource, dataset: &Dataset, sizes: PartSizes, seed: u64) -> Result<Self, SplitError> {
        Self::draw_with(source, dataset, &Drawing { sizes, seed, ..Drawing::default() })
    }

    /// Draws disjoint parts as [`draw`](Self::draw) does, and by class or with groups kept whole where that is asked
    /// for. With neither the rows are those of `draw` for the same seed.
    ///
    /// A group is put into the part that its first row falls into, or, where it does not fit into what is left of
    /// that part, into the first later part that has room; into none where no part has. Where a part would stay short
    /// of its size so, its groups are dealt by size, the largest first.
    ///
    /// # Errors
    ///
    /// [`SplitError::TooMany`] when the sizes do not fit the data, [`SplitError::NoTrainRows`],
    /// [`SplitError::EmptyClasses`], [`SplitError::Groups`].
    ///
    /// # Panics
    ///
    /// When the groups were found in another dataset with more rows.
    pub fn draw_with(source: &DataSource, dataset: &Dataset, drawing: &Drawing<'_>) -> Result<Self, SplitError> {
        let id = DatasetId { source: source.to_string(), digest: dataset.digest(), n_rows: dataset.n_rows() };
        let split = Self::draw_rows(id, dataset.labels(), drawing)?;
        split.check_classes(dataset)?;
        Ok(split)
    }

    /// As `draw_with`, from labels alone: one a row.
    pub(super) fn draw_rows(dataset: DatasetId, labels: &[u32], drawing: &Drawing<'_>) -> Result<Self, SplitError> {
        let (wanted, n_rows) = (drawing.sizes.total(), dataset.n_rows);
        if wanted > n_rows {
            return Err(SplitError::TooMany { wanted, n_rows });
        }
        let mut rows: Vec<usize> = (0..n_rows).collect();
        rows.shuffle(&mut ChaCha8Rng::seed_from_u64(drawing.seed));
        if drawing.stratified {
            rows = dealt_by_class(&rows, labels);
        }
        let parts = match drawing.groups {
            None => cut(&rows, &drawing.sizes),
            Some(groups) => cut_whole_groups(&rows, &drawing.sizes, groups)?,
        };
        let near_duplicates = drawing.groups.map(|groups| groups.near().clone());
        Self {
            format: FORMAT.to_owned(),
            format_version: FORMAT_VERSION,
            dataset,
            seed: drawing.seed,
            drawn: Some(Drawn { stratified: drawing.stratified, near_duplicates }),
            without: Some(Vec::new()),
            parts,
        }
        .checked()
    }
}

impl Parts {
    pub(super) fn of_mut(&mut self, part: Part) -> &mut Vec<usize> {
        match part {
            Part::Train => &mut self.train,
            Part::Validation => &mut self.validation,
            Part::Calibration => &mut self.calibration,
            Part::Test => &mut self.test,
            Part::Shadow => self.shadow.get_or_insert_default(),
        }
    }
}

fn cut(rows: &[usize], sizes: &PartSizes) -> Parts {
    let mut parts = Parts::default();
    let mut rest = rows.iter();
    for part in Part::ALL {
        *parts.of_mut(part) = rest.by_ref().take(sizes.of(part)).copied().collect();
    }
    parts
}

fn cut_whole_groups(rows: &[usize], sizes: &PartSizes, groups: &Groups) -> Result<Parts, SplitError> {
    let mut place = vec![0; rows.len()];
    rows.iter().enumerate().for_each(|(at, &row)| place[row] = at);
    let mut waiting = units(rows, groups);
    let mut parts = Parts::default();
    for part in Part::ALL {
        let wanted = sizes.of(part);
        let mut taken = fill(&mut waiting, wanted);
        if taken.len() < wanted {
            // The rows alone came first and left no room for a group that was needed: the largest groups first, then.
            let got = taken.len();
            let dealt: HashSet<usize> = Part::ALL.iter().flat_map(|&part| parts.of_mut(part).clone()).collect();
            waiting = units(rows, groups);
            waiting.retain(|unit| !dealt.contains(&unit[0]));
            waiting.sort_by_key(|unit| std::cmp::Reverse(unit.len()));
            taken = fill(&mut waiting, wanted);
            if taken.len() < wanted {
                return Err(SplitError::Groups { part: part.name(), wanted, got: got.max(taken.len()) });
            }
            waiting.sort_by_key(|unit| place[unit[0]]);
        }
        taken.sort_unstable_by_key(|&row| place[row]);
        *parts.of_mut(part) = taken;
    }
    Ok(parts)
}

/// Takes units, in their order, as long as they fit into `wanted` rows.
fn fill(waiting: &mut Vec<&[usize]>, wanted: usize) -> Vec<usize> {
    let mut taken = Vec::with_capacity(wanted);
    waiting.retain(|unit| {
        let fits = unit.len() <= wanted - taken.len();
        if fits {
            taken.extend_from_slice(unit);
        }
        !fits
    });
    taken
}

/// What is dealt as one: a group, at the place of its first row, or a row alone.
fn units<'a>(rows: &'a [usize], groups: &'a Groups) -> Vec<&'a [usize]> {
    let mut group_of = vec![None; rows.len()];
    for (group, members) in groups.members().iter().enumerate() {
        members.iter().for_each(|&row| group_of[row] = Some(group));
    }
    let mut dealt = HashSet::new();
    rows.iter()
        .zip(rows.chunks(1))
        .filter_map(|(&row, alone)| match group_of[row] {
            None => Some(alone),
            Some(group) => dealt.insert(group).then(|| groups.members()[group].as_slice()),
        })
        .collect()
}

/// The rows, in an order in which every prefix holds each class in its proportion, to within one row; inside of a
/// class they keep their order.
///
/// R. Tijdeman's rule for the chairman assignment problem (Discrete Mathematics 32, 1980): of the classes that
/// lag behind their share by at least `1/(2C-2)` rows, the one that would be the first to lag too far.
fn dealt_by_class(rows: &[usize], labels: &[u32]) -> Vec<usize> {
    let mut classes: Vec<Vec<usize>> = Vec::new();
    for &row in rows {
        let class = labels[row] as usize;
        if classes.len() <= class {
            classes.resize(class + 1, Vec::new());
        }
        classes[class].push(row);
    }
    classes.retain(|class| !class.is_empty());
    if classes.len() < 2 {
        return rows.to_vec();
    }
    let slack = 1.0 / (2 * classes.len() - 2) as f64;
    let mut given = vec![0usize; classes.len()];
    let mut order = Vec::with_capacity(rows.len());
    for n_dealt in 1..=rows.len() {
        let mut best = None;
        for (class, members) in classes.iter().enumerate().filter(|(class, members)| given[*class] < members.len()) {
            let share = members.len() as f64 / rows.len() as f64;
            let lag = share * n_dealt as f64 - given[class] as f64;
            // Classes that do not lag wait, unless rounding left no other.
            let key = (lag < slack, (1.0 - slack - lag) / share);
            if best.is_none_or(|(best, _)| key < best) {
                best = Some((key, class));
            }
        }
        let (_, class) = best.expect("as many rows are dealt as the classes have");
        order.push(classes[class][given[class]]);
        given[class] += 1;
    }
    order
}
