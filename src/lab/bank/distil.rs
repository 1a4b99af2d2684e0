//! Soft targets for a student: a teacher's answers.
//!
//! | teacher | rows | what |
//! | --- | --- | --- |
//! | a bank, by its strangers | the rows of its pool | SELENA (Tang et al. 2022): Split-AI, then self-distillation |
//! | a bank or any ONNX model | any rows, e.g. the shadow part | knowledge distillation |
//!
//! In Split-AI each row trains K − L of K models; its target is the mean answer of the other L, and the student learns
//! the targets of all rows. A temperature, and the labels' share beside the teacher's, are the student's recipe's
//! (`distillation`): what is given here are the teacher's answers as they are.

use anyhow::{Context, ensure};
use ndarray::Array2;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::answers::{Answerer, Averaged};
use super::merge::Bank;
use super::place::Place;
use crate::data::{Dataset, hex};

/// Who answers, and how.
pub enum Teacher<'a> {
    /// One model (the bytes of an ONNX file).
    Model(&'a [u8]),
    /// The mean probabilities of all models of a bank.
    Bank(&'a Place, &'a Bank),
    /// The mean probabilities of the models of a bank that never saw the row.
    Strangers(&'a Place, &'a Bank),
}

/// What a student was taught by, for its record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TeacherRecord {
    /// `model`, `bank` or `strangers` (each row is answered by models that never saw it: SELENA).
    pub kind: String,
    /// SHA-256 (hex) of the model, or the bank's digest.
    pub digest: String,
    /// Models that answer.
    pub n_models: usize,
    /// Models that each row trains, where the bank says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub design: Option<super::inclusion::Design>,
    /// The parts of the split whose rows were taught, in words.
    pub rows: Vec<String>,
    /// Rows that were taught.
    pub n_rows: usize,
    /// Share of them on which the teacher's answer is the label.
    pub accuracy: f64,
    /// What else a reader must know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// What a record says of a teacher that is a model alone.
pub const ROWS_UNKNOWN: &str = "which rows the teacher was trained on is not known: where they are validation, calibration or \
    test rows of this split, the student has learned of them too, and the figures on these parts and the loss attack do not \
    count them as members";

impl Teacher<'_> {
    /// The targets of rows.
    ///
    /// # Shapes
    ///
    /// `(rows.len(), n_classes)`; each row sums to 1 within f32.
    ///
    /// # Errors
    ///
    /// When a model cannot be run on these rows, or a row was seen by every model of a
    /// bank whose strangers are asked.
    pub fn targets(
        &self,
        dataset: &Dataset,
        (parts, rows): (&[String], &[usize]),
    ) -> anyhow::Result<(Array2<f32>, TeacherRecord)> {
        ensure!(!rows.is_empty(), "expected rows to teach on, got none");
        let probabilities = match self {
            Self::Model(bytes) => Answerer::load(bytes)?.probabilities(dataset, rows, 1.0)?,
            Self::Bank(place, bank) => Averaged::of_bank((place, bank), dataset, rows, 1.0, |_, _| true)?.probabilities,
            Self::Strangers(place, bank) => {
                let places = bank.planned.inclusion.places();
                let at: Vec<usize> = rows
                    .iter()
                    .map(|row| places.get(row).copied().with_context(|| format!("row {row} is not in the bank's pool")))
                    .collect::<anyhow::Result<_>>()?;
                let counts = bank.planned.inclusion.counts();
                let may_answer = |model: usize, row: usize| counts[[model, at[row]]] == 0;
                let averaged = Averaged::of_bank((place, bank), dataset, rows, 1.0, may_answer)?;
                let without = averaged.n_models.iter().filter(|&&n| n == 0).count();
                ensure!(
                    without == 0,
                    "{without} rows were seen by every model of the bank: nobody may answer for them"
                );
                averaged.probabilities
            }
        };
        let labels: Vec<u32> = rows.iter().map(|&row| dataset.labels()[row]).collect();
        let score = super::answers::score(&probabilities, &labels).context("rows to teach on")?;
        let (kind, digest, n_models, design) = match self {
            Self::Model(bytes) => ("model", hex(&Sha256::digest(bytes)), 1, None),
            Self::Bank(_, bank) => {
                ("bank", bank.manifest.digest.clone(), bank.manifest.models.len(), Some(bank.manifest.design))
            }
            Self::Strangers(_, bank) => {
                ("strangers", bank.manifest.digest.clone(), bank.manifest.models.len(), Some(bank.manifest.design))
            }
        };
        let notes = match self {
            Self::Model(_) => vec![ROWS_UNKNOWN.to_owned()],
            Self::Bank(..) | Self::Strangers(..) => vec![],
        };
        let record = TeacherRecord {
            kind: kind.to_owned(),
            digest,
            n_models,
            design,
            rows: parts.to_vec(),
            n_rows: rows.len(),
            accuracy: score.accuracy,
            notes,
        };
        Ok((probabilities.mapv(|share| share as f32), record))
    }
}
