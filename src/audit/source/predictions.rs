//! Answers from a file: one row a record, with scores or a label, the true label, and who was a member.
//!
//! | column (array of an archive) | holds |
//! | --- | --- |
//! | `logit_0`, `logit_1`, … (`logits`) | unnormalised scores, one column a class |
//! | `p_0`, … (`probabilities`) | probabilities |
//! | `log_p_0`, … (`log_probabilities`) | natural logarithms of probabilities; −∞ is a zero |
//! | `predicted` | the label that was answered; alone where there are no scores |
//! | `label` | the true label, a number from 0 |
//! | `member` | 1 (`member`), 0 (`non-member`), 2 (`calibration`: for the temperature alone) or 3 (`unused`) |
//! | `row` | the record's number in its data set; without it, rows are numbered from 0 |
//!
//! `label` and `member` may be left out where a data set and a split, or files of row numbers, tell them; where both
//! tell them they must agree, and the file must hold every member and non-member that is named. Any file
//! may be damaged; errors name rows and columns, never a value.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use csv::{ReaderBuilder, StringRecord};
use ndarray::{Array2, Axis};

use crate::audit::answers::{Allows, Answers, argmax};
use crate::audit::invert::Inversion;
use crate::audit::system::{Role, Skipped, System, SystemKind, build_all};
use crate::audit::target::{Target, TargetError};
use crate::data::npy::{self, NamedArray};
use crate::data::{DataError, parquet};
use crate::defence::{RawScores, ScoreKind, ScoresError};

/// Why a file of predictions cannot be audited.
#[derive(Debug, thiserror::Error)]
pub enum PredictionError {
    /// The file could not be read.
    #[error("cannot read it")]
    Io(#[from] std::io::Error),
    /// The archive or the table is damaged, or holds anything but numbers.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The file as a whole, or its columns together, are not as they must be.
    #[error("expected {expected}, got {got}")]
    Wrong {
        /// What was expected.
        expected: String,
        /// What was found.
        got: String,
    },
    /// One row is not as it must be.
    #[error("row {row} (from 0): expected {expected}, got {got}")]
    BadRow {
        /// The row, in the file's order.
        row: usize,
        /// What was expected there.
        expected: String,
        /// What was found.
        got: String,
    },
    /// One record stands on both sides.
    #[error("record {record} is a member and a non-member at once: the two sides must not share a record")]
    BothSides {
        /// Its number.
        record: u64,
    },
    /// One record stands there twice.
    #[error("record {record} is there twice")]
    Twice {
        /// Its number.
        record: u64,
    },
    /// The file says otherwise than what was given beside it.
    #[error("{n} {} {what}: the first is record {first}", if *.n == 1 { "row contradicts" } else { "rows contradict" })]
    Contradiction {
        /// Rows that do.
        n: usize,
        /// What the file holds, and what stands against it.
        what: &'static str,
        /// Number of the first such record, in the file's order.
        first: u64,
    },
    /// Records that were named are not in the file.
    #[error("{n} of the {side} that were named {} not in the file: the first is record {first}", if *.n == 1 { "is" } else { "are" })]
    Absent {
        /// How many.
        n: usize,
        /// Which side names them.
        side: &'static str,
        /// The least number of such a record.
        first: u64,
    },
    /// The rows do not make a target.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The scores are none.
    #[error("{0}")]
    Scores(ScoresError),
}

fn wrong(expected: impl Into<String>, got: impl Into<String>) -> PredictionError {
    PredictionError::Wrong { expected: expected.into(), got: got.into() }
}

fn bad_row(row: usize, expected: impl Into<String>, got: impl Into<String>) -> PredictionError {
    PredictionError::BadRow { row, expected: expected.into(), got: got.into() }
}

/// The part that a record plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// It was trained on.
    Member,
    /// It was not.
    NonMember,
    /// It was not, and serves the temperature alone.
    Calibration,
    /// It plays none here.
    Unused,
}

impl Side {
    fn of_number(number: f64) -> Option<Self> {
        [Self::NonMember, Self::Member, Self::Calibration, Self::Unused]
            .into_iter()
            .zip([0.0, 1.0, 2.0, 3.0])
            .find_map(|(side, known)| (number == known).then_some(side))
    }

    fn number_of_word(word: &str) -> Option<f64> {
        match word.trim().to_ascii_lowercase().as_str() {
            "non-member" | "non_member" | "nonmember" | "false" | "test" => Some(0.0),
            "member" | "true" | "train" => Some(1.0),
            "calibration" => Some(2.0),
            "unused" | "validation" | "shadow" => Some(3.0),
            other => other.parse().ok(),
        }
    }
}

/// What the labels and the sides of a file's records are, where they come from elsewhere.
#[derive(Debug, Default)]
pub struct Elsewhere<'a> {
    /// The true label of each record of the data set.
    pub labels: Option<&'a [u32]>,
    /// The part that each named record plays; records that are not named play none.
    pub sides: Option<HashMap<u64, Side>>,
}

/// The numbers of a file by the names of their columns, all of one length.
#[derive(Debug, Default)]
pub struct Columns {
    n_rows: usize,
    columns: BTreeMap<String, Vec<f64>>,
}

impl Columns {
    /// Reads a file by the ending of its name.
    ///
    /// # Errors
    /// [`PredictionError::Io`], [`PredictionError::Wrong`] and [`PredictionError::BadRow`] for what does not fit.
    pub fn read(path: &Path) -> Result<Self, PredictionError> {
        let ending = path.extension().map_or_else(String::new, |ending| ending.to_string_lossy().to_ascii_lowercase());
        match ending.as_str() {
            "csv" => Self::parse_csv(&std::fs::read(path)?),
            "npz" => Self::of_arrays(npy::read_arrays(path)?),
            "parquet" => {
                let mut all = Self::default();
                parquet::read_columns(path)?.into_iter().try_for_each(|(name, values)| all.add(name, values))?;
                Ok(all)
            }
            _ => Err(wrong("a file whose name ends in .csv, .npz or .parquet", format!("{ending:?}"))),
        }
    }

    /// Columns of the arrays of an archive: one of two sizes gives a column for each class, one of one size a column.
    ///
    /// # Errors
    /// [`PredictionError::Wrong`] for an array of another number of sizes, or another number of rows.
    pub fn of_arrays(arrays: Vec<NamedArray>) -> Result<Self, PredictionError> {
        let mut all = Self::default();
        for NamedArray { name, shape, values } in arrays {
            match shape[..] {
                [_] | [_, 1] => all.add(name, values)?,
                [n_rows, width] => {
                    let stem =
                        SCORES.iter().find(|(stems, _)| stems.contains(&name.as_str())).map(|(stems, _)| stems[0]);
                    let stem = stem.ok_or_else(|| {
                        let known = "arrays of two sizes named logits, probabilities or log_probabilities";
                        wrong(known, format!("{name:?} of sizes {shape:?}"))
                    })?;
                    for class in 0..width {
                        let column = (0..n_rows).map(|row| values[row * width + class]).collect();
                        all.add(format!("{stem}_{class}"), column)?;
                    }
                }
                _ => return Err(wrong("arrays of one or two sizes", format!("{name:?} of sizes {shape:?}"))),
            }
        }
        Ok(all)
    }

    /// Reads a table with a header line.
    ///
    /// # Errors
    /// As [`Columns::read`].
    pub fn parse_csv(bytes: &[u8]) -> Result<Self, PredictionError> {
        let not_text = |row: usize| bad_row(row, "comma-separated UTF-8 text, as many fields as the header", "another");
        let mut reader = ReaderBuilder::new().from_reader(bytes);
        let header = reader.headers().map_err(|_| not_text(0))?.clone();
        let names: Vec<String> = header.iter().map(|name| name.trim().to_owned()).collect();
        let mut columns = vec![Vec::new(); names.len()];
        let mut record = StringRecord::new();
        let mut row = 0;
        while reader.read_record(&mut record).map_err(|_| not_text(row))? {
            for ((name, column), field) in names.iter().zip(&mut columns).zip(&record) {
                let number = if MEMBER.contains(&name.as_str()) {
                    Side::number_of_word(field)
                } else {
                    field.trim().parse().ok()
                };
                column.push(number.ok_or_else(|| bad_row(row, format!("a number in column {name:?}"), "other text"))?);
            }
            row += 1;
        }
        let mut all = Self { n_rows: row, columns: BTreeMap::new() };
        for (name, column) in names.into_iter().zip(columns) {
            all.add(name, column)?;
        }
        Ok(all)
    }

    /// Adds a column; the first one says how many rows there are.
    ///
    /// # Errors
    /// [`PredictionError::Wrong`] where the length differs or the name is there already.
    pub fn add(&mut self, name: String, values: Vec<f64>) -> Result<(), PredictionError> {
        if self.columns.is_empty() {
            self.n_rows = values.len();
        }
        if values.len() != self.n_rows {
            return Err(wrong(
                format!("{} rows in every column", self.n_rows),
                format!("{} in {name:?}", values.len()),
            ));
        }
        if self.columns.contains_key(&name) {
            return Err(wrong("each column once", format!("two named {name:?}")));
        }
        self.columns.insert(name, values);
        Ok(())
    }

    fn take(&mut self, names: &[&str]) -> Option<Vec<f64>> {
        names.iter().find_map(|name| self.columns.remove(*name))
    }
}

/// Most classes; and most rows times classes, for a label is spread over as many values as there are classes.
const MAX_CLASSES: u64 = 1 << 20;
const MAX_ANSWERS: usize = 1 << 28;
const ROW: [&str; 2] = ["row", "rows"];
const LABEL: [&str; 4] = ["label", "labels", "true_label", "y"];
const MEMBER: [&str; 3] = ["member", "members", "membership"];
const PREDICTED: [&str; 2] = ["predicted", "prediction"];
/// The names before a class number, with what the numbers are.
const SCORES: [(&[&str], ScoreKind); 3] = [
    (&["logit", "logits"], ScoreKind::Logits),
    (&["p", "prob", "probability", "probabilities"], ScoreKind::Probabilities),
    (&["log_p", "log_prob", "log_probability", "log_probabilities"], ScoreKind::LogProbabilities),
];

/// A file of predictions, checked: every record that plays a part has a label, and a score for each class or a
/// predicted label.
#[derive(Debug)]
pub struct Predictions {
    kind: Option<ScoreKind>,
    /// As they stand in the file, members first, then non-members, then calibration rows.
    scores: Array2<f64>,
    predicted: Vec<u32>,
    labels: Vec<u32>,
    records: Vec<u64>,
    n_members: usize,
    n_non_members: usize,
    n_classes: usize,
    n_labels_unlike_scores: usize,
}

/// What the answers of a file are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TakenAs {
    /// What some system answered, defended or not: it is judged as it stands.
    Served,
    /// The undefended model's own scores: the audit's systems are applied to them here.
    Undefended,
}

impl Predictions {
    /// Checks the columns of a file, and puts its records in order.
    ///
    /// # Errors
    /// [`PredictionError`]: unknown or missing columns, values that are no numbers, labels, sides or scores, records
    /// that are there twice or on both sides, records that were named and are not there, columns that say otherwise
    /// than what is known from elsewhere.
    pub fn new(mut columns: Columns, elsewhere: &Elsewhere<'_>) -> Result<Self, PredictionError> {
        let n_rows = columns.n_rows;
        let records = match columns.take(&ROW) {
            Some(rows) => whole_numbers(&rows, "a record's number", u64::MAX >> 11)?,
            None => (0..n_rows as u64).collect(),
        };
        let label = columns.take(&LABEL);
        let member = columns.take(&MEMBER);
        let predicted = columns.take(&PREDICTED);
        let (kind, scores) = scores(&mut columns, n_rows)?;
        if let Some(name) = columns.columns.keys().next() {
            let known = "columns named row, label, member, predicted, logit_N, p_N, log_p_N";
            return Err(wrong(known, format!("{name:?}")));
        }
        let sides = sides(member, elsewhere.sides.as_ref(), &records)?;
        let labels = labels(label, elsewhere.labels, &records, &sides)?;
        let order = ordered(&sides, &records)?;
        let n_classes = match kind {
            Some(_) => scores.ncols(),
            None => {
                let predicted =
                    whole_numbers(predicted.as_deref().unwrap_or_default(), "a predicted label", MAX_CLASSES)?;
                let top = predicted.into_iter().max().unwrap_or(0) as usize;
                1 + labels.iter().map(|&label| label as usize).max().unwrap_or(0).max(top)
            }
        };
        if n_classes.saturating_mul(n_rows) > MAX_ANSWERS {
            let expected = format!("{} classes at most for {n_rows} rows", MAX_ANSWERS / n_rows.max(1));
            return Err(wrong(expected, format!("{n_classes}, told by the largest label")));
        }
        if let Some(row) = order.iter().find(|&&row| labels[row] as usize >= n_classes) {
            return Err(bad_row(*row, format!("a label below {n_classes}"), labels[*row].to_string()));
        }
        let scores = scores.select(Axis(0), &order);
        if let Some(place) = scores.rows().into_iter().position(|row| row.iter().any(|value| !is_score(*value, kind))) {
            return Err(bad_row(order[place], "a finite score for each class", "NaN or an infinity"));
        }
        let read_off: Vec<u32> = scores.rows().into_iter().map(argmax).collect();
        let predicted = match predicted {
            Some(given) => {
                let given = whole_numbers(&given, "a predicted label", n_classes as u64)?;
                order.iter().map(|&row| given[row] as u32).collect()
            }
            None if kind.is_some() => read_off.clone(),
            None => return Err(wrong("scores, or a column \"predicted\"", "neither")),
        };
        let unlike = kind.map_or(0, |_| read_off.iter().zip(&predicted).filter(|(a, b)| a != b).count());
        let count = |side| sides.iter().filter(|&&of_row| of_row == side).count();
        Ok(Self {
            n_labels_unlike_scores: unlike,
            kind,
            scores,
            predicted,
            labels: order.iter().map(|&row| labels[row]).collect(),
            records: order.iter().map(|&row| records[row]).collect(),
            n_members: count(Side::Member),
            n_non_members: count(Side::NonMember),
            n_classes,
        })
    }

    /// What the numbers are; `None` where there are labels alone.
    #[must_use]
    pub fn kind(&self) -> Option<ScoreKind> {
        self.kind
    }

    /// Rows that play a part.
    #[must_use]
    pub fn n_rows(&self) -> usize {
        self.labels.len()
    }

    /// What a reader must know about the file.
    #[must_use]
    pub fn doubts(&self) -> Vec<String> {
        let unlike = crate::audit::words::counted(self.n_labels_unlike_scores, "row");
        let doubt = format!("the predicted label of {unlike} is not the one of the largest score (R1)");
        (self.n_labels_unlike_scores > 0).then_some(doubt).into_iter().collect()
    }

    /// The rows, the systems to judge on them, and those that cannot be.
    ///
    /// # Errors
    /// [`PredictionError::Target`], [`PredictionError::Scores`]; [`PredictionError::Wrong`] where labels alone are
    /// taken as the undefended model's scores.
    pub fn study(&self, taken_as: TakenAs) -> Result<(Target, Vec<System>, Vec<Skipped>), PredictionError> {
        let n_rows = self.n_members + self.n_non_members;
        let allows = if self.kind.is_some() { Allows::SCORES } else { Allows::LABELS };
        let labels = self.labels[..n_rows].to_vec();
        let rows = self.records[..n_rows].iter().map(|&record| record as usize).collect();
        let answers = self.answers(n_rows);
        if taken_as == TakenAs::Served {
            let target = Target::answered(labels, self.n_members, self.n_classes, allows)?.with_dataset_rows(rows);
            return Ok((target, served(answers, Inversion::as_is(), self.n_classes), Vec::new()));
        }
        let Some(kind) = self.kind else {
            return Err(wrong("scores, to apply defences to", "labels alone"));
        };
        let batches = self.sealed(0..n_rows, kind)?;
        let calibration = (self.sealed(n_rows..self.n_rows(), kind)?, self.labels[n_rows..].to_vec());
        let target = Target::new(batches, labels, self.n_members, calibration)?.with_dataset_rows(rows);
        let (mut systems, skipped) = build_all(&[], None, kind, self.n_classes)
            .map_err(|(name, error)| wrong(format!("a system {name:?}"), error.to_string()))?;
        // The answers as they stand, in f64: sealed scores are f32.
        for system in systems.iter_mut().filter(|system| system.role() == Role::Undefended) {
            let (role, answers, inversion) = (Role::Undefended, answers.clone(), Inversion::as_is());
            system.kind = SystemKind::Answered { role, answers, inversion };
        }
        Ok((target, systems, skipped))
    }

    fn answers(&self, n_rows: usize) -> Answers {
        let predicted = self.predicted[..n_rows].to_vec();
        let scores = self.scores.slice_axis(Axis(0), (..n_rows).into());
        match self.kind {
            None => Answers::of_labels(predicted, self.n_classes),
            Some(kind) => Answers { predicted, ..Answers::of_scores(scores.to_owned(), kind) },
        }
    }

    fn sealed(&self, rows: std::ops::Range<usize>, kind: ScoreKind) -> Result<Vec<RawScores>, PredictionError> {
        const BATCH: usize = 1_024;
        let scores = self.scores.slice_axis(Axis(0), rows.into());
        let seal = |batch: ndarray::ArrayView2<'_, f64>| RawScores::new(batch.mapv(|score| score as f32), kind);
        scores.axis_chunks_iter(Axis(0), BATCH).map(seal).collect::<Result<_, _>>().map_err(PredictionError::Scores)
    }
}

/// Answers that are judged as they stand, beside the labels that they carry (the floor).
#[must_use]
pub fn served(answers: Answers, inversion: Inversion, n_classes: usize) -> Vec<System> {
    let labels = Answers::of_labels(answers.predicted.clone(), n_classes);
    let system = |name: &str, role, answers, inversion| System {
        name: name.to_owned(),
        kind: SystemKind::Answered { role, answers, inversion },
        fitted: None,
    };
    vec![
        system("as answered", Role::Served, answers, inversion),
        system("label-only", Role::Floor, labels, Inversion::as_is()),
    ]
}

fn is_score(value: f64, kind: Option<ScoreKind>) -> bool {
    value.is_finite() || kind == Some(ScoreKind::LogProbabilities) && value == f64::NEG_INFINITY
}

/// Takes the columns of scores out: classes from 0 without a gap, of one kind.
fn scores(columns: &mut Columns, n_rows: usize) -> Result<(Option<ScoreKind>, Array2<f64>), PredictionError> {
    let mut found: BTreeMap<(usize, usize), String> = BTreeMap::new();
    for name in columns.columns.keys() {
        let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
        let Ok(class) = name[stem.len()..].parse::<usize>() else { continue };
        let stem = stem.trim_end_matches('_');
        if let Some(kind) = SCORES.iter().position(|(stems, _)| stems.contains(&stem))
            && found.insert((kind, class), name.clone()).is_some()
        {
            return Err(wrong("one column a class", format!("two for class {class}")));
        }
    }
    let Some((&(kind, _), _)) = found.first_key_value() else { return Ok((None, Array2::zeros((n_rows, 0)))) };
    if let Some((_, other)) = found.iter().find(|((other, _), _)| *other != kind) {
        return Err(wrong("scores of one kind", format!("{} and {other:?}", SCORES[kind].1)));
    }
    if let Some(gap) = found.keys().zip(0..).find_map(|(&(_, class), place)| (class != place).then_some(place)) {
        return Err(wrong("a column for each class from 0", format!("none for class {gap}")));
    }
    if found.len() < 2 {
        return Err(wrong("scores of two classes at least", "one column"));
    }
    let mut scores = Array2::zeros((n_rows, found.len()));
    for ((_, class), name) in &found {
        let column = columns.columns.remove(name).unwrap_or_default();
        scores.column_mut(*class).iter_mut().zip(column).for_each(|(place, value)| *place = value);
    }
    let kind = SCORES[kind].1;
    if kind == ScoreKind::Probabilities {
        let is_none =
            |row: ndarray::ArrayView1<'_, f64>| row.iter().any(|&p| p < 0.0) || (row.sum() - 1.0).abs() > 1e-2;
        if let Some(row) = scores.rows().into_iter().position(is_none) {
            return Err(bad_row(row, "probabilities that sum to 1", "other numbers"));
        }
    }
    Ok((Some(kind), scores))
}

fn whole_numbers(values: &[f64], what: &str, below: u64) -> Result<Vec<u64>, PredictionError> {
    let whole = |(row, &value): (usize, &f64)| {
        let is_one = value >= 0.0 && value < below as f64 && value.fract() == 0.0;
        is_one
            .then_some(value as u64)
            .ok_or_else(|| bad_row(row, format!("{what}, a whole number below {below}"), "another"))
    };
    values.iter().enumerate().map(whole).collect()
}

fn sides(
    column: Option<Vec<f64>>,
    elsewhere: Option<&HashMap<u64, Side>>,
    records: &[u64],
) -> Result<Vec<Side>, PredictionError> {
    let side = |(row, &number): (usize, &f64)| {
        Side::of_number(number).ok_or_else(|| bad_row(row, "0, 1, 2 or 3 as member", "another"))
    };
    let column = column.map(|column| column.iter().enumerate().map(side).collect::<Result<Vec<Side>, _>>());
    match (elsewhere, column.transpose()?) {
        (Some(sides), column) => {
            all_there(sides, records)?;
            let named: Vec<Side> =
                records.iter().map(|record| sides.get(record).copied().unwrap_or(Side::Unused)).collect();
            if let Some(column) = column {
                // Whom nobody names, and whom the column leaves out, no one speaks about.
                let says = |side: Side| (side != Side::Unused).then_some(side == Side::Member);
                let contradicts = |row: usize, named: &[Side]| match (says(column[row]), says(named[row])) {
                    (Some(a), Some(b)) => a != b,
                    _ => false,
                };
                let what = "in column \"member\" the split or the files of row numbers";
                agree(what, records, |row| contradicts(row, &named))?;
            }
            Ok(named)
        }
        (None, Some(column)) => Ok(column),
        (None, None) => Err(wrong("a column \"member\", or a split, or files of row numbers", "none of them")),
    }
}

/// Refuses rows that say otherwise than what is known.
fn agree(what: &'static str, records: &[u64], contradicts: impl Fn(usize) -> bool) -> Result<(), PredictionError> {
    let rows: Vec<usize> = (0..records.len()).filter(|&row| contradicts(row)).collect();
    match rows.first() {
        None => Ok(()),
        Some(&first) => Err(PredictionError::Contradiction { n: rows.len(), what, first: records[first] }),
    }
}

/// Checks that members and non-members that were named are in the file; of the calibration rows all or none, for a
/// file of answers may well do without.
fn all_there(sides: &HashMap<u64, Side>, records: &[u64]) -> Result<(), PredictionError> {
    let there: HashSet<u64> = records.iter().copied().collect();
    let words = [(Side::Member, "members"), (Side::NonMember, "non-members"), (Side::Calibration, "calibration rows")];
    for (side, words) in words {
        let of_side = || sides.iter().filter(|(_, of)| **of == side).map(|(record, _)| *record);
        let absent = || of_side().filter(|record| !there.contains(record));
        let (n, n_named) = (absent().count(), of_side().count());
        let may_lack_all = side == Side::Calibration && n == n_named;
        if let Some(first) = absent().min().filter(|_| !may_lack_all) {
            return Err(PredictionError::Absent { n, side: words, first });
        }
    }
    Ok(())
}

fn labels(
    column: Option<Vec<f64>>,
    elsewhere: Option<&[u32]>,
    records: &[u64],
    sides: &[Side],
) -> Result<Vec<u32>, PredictionError> {
    match (column, elsewhere) {
        (Some(column), known) => {
            let labels: Vec<u32> =
                whole_numbers(&column, "a label", MAX_CLASSES)?.into_iter().map(|label| label as u32).collect();
            if let Some(known) = known {
                let of_data = |row: usize| known.get(records[row] as usize);
                let what = "in column \"label\" the labels of the data set";
                agree(what, records, |row| of_data(row).is_some_and(|label| *label != labels[row]))?;
            }
            Ok(labels)
        }
        (None, Some(labels)) => {
            let of = |(row, (&record, &side)): (usize, (&u64, &Side))| match labels.get(record as usize) {
                Some(&label) => Ok(label),
                None if side == Side::Unused => Ok(0),
                None => {
                    Err(bad_row(row, format!("a record below {}, as the data has", labels.len()), record.to_string()))
                }
            };
            records.iter().zip(sides).enumerate().map(of).collect()
        }
        (None, None) => Err(wrong("a column \"label\", or a data set", "neither")),
    }
}

/// The rows that play a part: members, non-members, calibration rows, each in the file's order.
fn ordered(sides: &[Side], records: &[u64]) -> Result<Vec<usize>, PredictionError> {
    let mut seen: HashMap<u64, Side> = HashMap::with_capacity(records.len());
    for (&record, &side) in records.iter().zip(sides) {
        match seen.insert(record, side) {
            None => {}
            Some(before) if before == side => return Err(PredictionError::Twice { record }),
            Some(_) => return Err(PredictionError::BothSides { record }),
        }
    }
    let of = |side: Side| (0..sides.len()).filter(move |&row| sides[row] == side);
    Ok(of(Side::Member).chain(of(Side::NonMember)).chain(of(Side::Calibration)).collect())
}
