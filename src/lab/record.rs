//! What is kept beside a trained model: the run record (JSON), from which the model card is made (`card`).
//!
//! Both are made to be published: they name no path, host or user of the machine.

use serde::{Deserialize, Serialize};

use super::bank::distil::TeacherRecord;
use super::bank::inclusion::Design;
use super::device::Device;
use super::dp::PrivacyRecord;
use super::recipe::Recipe;
use super::train::score::RowScores;
use super::train::{EpochScore, Score};
use crate::audit::interval::Placements;
use crate::audit::null::Permutations;
use crate::audit::roc::{Ranking, Roc};
use crate::data::{Dataset, PartSizes};

/// The format that a run record names.
pub const FORMAT: &str = "sordino.run";
/// The version of that format.
pub const FORMAT_VERSION: u32 = 1;

/// Everything about a training run that somebody may ask later.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunRecord {
    /// [`FORMAT`].
    pub format: String,
    /// [`FORMAT_VERSION`].
    pub format_version: u32,
    /// Version of Sordino.
    pub sordino: String,
    /// How the run ended.
    pub status: Status,
    /// Every hyper-parameter.
    pub recipe: Recipe,
    /// Where the rows came from.
    pub data: DataRecord,
    /// Which rows served which purpose.
    pub split: SplitRecord,
    /// The model file.
    pub model: ModelRecord,
    /// What differential privacy the training gives; absent where it gives none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub privacy: Option<PrivacyRecord>,
    /// The other models that it was made from, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_from: Option<MadeFrom>,
    /// SHA-256 (hex) of the file that said how hard the rows are, for a curriculum by a first model or given numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub difficulty_from: Option<String>,
    /// Loss and accuracy at the end; absent when interrupted.
    pub results: Option<Results>,
    /// The epoch that early stopping chose, counted from 1: the model's weights are of this one. Absent when interrupted:
    /// the weights are then those of that moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best_epoch: Option<usize>,
    /// Loss and accuracy of each epoch that was run.
    pub history: Vec<EpochScore>,
    /// Seconds on the wall clock, evaluation included; of the last sitting when the run was resumed.
    pub wall_seconds: f64,
    /// What it was computed on; absent in older records, where it was the processor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<Device>,
    /// The source code that ran; absent for a build outside of a checkout.
    pub code: Option<CodeRecord>,
    /// The machine, in words.
    pub machine: MachineRecord,
}

/// The models that a model was made from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "how", deny_unknown_fields)]
pub enum MadeFrom {
    /// It is several models in one graph; recipe and parameters are those of its members.
    Joined {
        /// Digest of their bank.
        bank: String,
        /// How many there are.
        n_models: usize,
        /// Which rows trained which of them.
        design: Design,
        /// How their answers become one, in words.
        combine: String,
        /// The parts of the split whose rows trained them: their results stand under `train`; not in older records.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        pool: Vec<String>,
    },
    /// It learned what others say of its rows.
    Taught(TeacherRecord),
}

impl MadeFrom {
    /// One paragraph of a model card.
    pub(super) fn card(&self) -> String {
        match self {
            Self::Joined { bank, n_models, design, combine, pool } => format!(
                "{n_models} models of one bank (`{bank}`: {design}) in one graph: {combine}. Recipe and results of \
                 epochs are those of its members.{}\n\n",
                if pool.is_empty() { String::new() } else { trained_on(pool) }
            ),
            Self::Taught(teacher) => format!(
                "Its targets are not labels but the answers of {} models (`{}`, {}) on {} rows, of which \
                 {:.4} are the label.{}{}\n\n",
                teacher.n_models,
                teacher.digest,
                teacher.kind,
                teacher.n_rows,
                teacher.accuracy,
                trained_on(&teacher.rows),
                teacher.notes.iter().map(|note| format!(" Note: {note}.")).collect::<String>()
            ),
        }
    }
}

/// Which rows `train` means in the results, where the split's part of that name is not what was trained on.
fn trained_on(parts: &[String]) -> String {
    if parts == ["train"] {
        return String::new();
    }
    let parts = parts.join(" and ");
    format!(
        " It was trained on the part {parts} of the split: these rows are what the results call train, and none of them is in another line."
    )
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "is", deny_unknown_fields)]
pub enum Status {
    /// All epochs were done.
    Finished,
    /// Stopped by the user; the checkpoint beside the model goes on from here.
    Interrupted {
        /// The epoch that ran, counted from 1.
        epoch: usize,
        /// Training rows that it had seen.
        rows_seen: usize,
    },
}

/// The dataset of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataRecord {
    /// The source, in words.
    pub source: String,
    /// SHA-256 of the rows.
    pub digest: String,
    /// Rows in all.
    pub n_rows: usize,
    /// Shape of a row.
    pub row_shape: Vec<usize>,
    /// `false` for images whose values are taken as they are; absent for others, whose pixels are divided by 255, and for
    /// rows that are no images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pixels: Option<bool>,
    /// Names of the classes, in the order of the logits.
    pub labels: Vec<String>,
}

impl DataRecord {
    /// Of these rows, which came from `source`, in words.
    #[must_use]
    pub fn of(source: String, dataset: &Dataset) -> Self {
        let is_raw_image = dataset.row_shape().len() == 3 && !dataset.has_pixels();
        Self {
            source,
            digest: dataset.digest(),
            n_rows: dataset.n_rows(),
            row_shape: dataset.row_shape().to_vec(),
            pixels: is_raw_image.then_some(false),
            labels: dataset.class_names().to_vec(),
        }
    }
}

/// The split of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SplitRecord {
    /// Name of the split file, beside the record.
    pub file: String,
    /// Its SHA-256.
    pub digest: String,
    /// The seed that it was drawn with.
    pub seed: u64,
    /// Rows in each part.
    pub sizes: PartSizes,
}

/// The model file of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelRecord {
    /// Name of the ONNX file, beside the record.
    pub file: String,
    /// Its SHA-256.
    pub sha256: String,
    /// Its size.
    pub n_bytes: usize,
    /// Numbers learned.
    pub n_parameters: usize,
    /// Name of the input.
    pub input: String,
    /// Name of the output, which holds logits, or where it says so the logarithms of probabilities.
    pub output: String,
}

/// Loss and accuracy on each part; `None` for a part without rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Results {
    /// On the rows that were trained on.
    pub train: Option<Score>,
    /// On the validation rows.
    pub validation: Option<Score>,
    /// On the calibration rows.
    pub calibration: Option<Score>,
    /// On the rows kept out of every fit.
    pub test: Option<Score>,
    /// Train accuracy minus test accuracy; absent without test rows, and in older records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap: Option<f64>,
    /// What the losses of train and test rows give away; absent without test rows, and in older records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_attack: Option<LossAttack>,
}

impl Results {
    /// The means of the parts train, validation, calibration and test, and what train and test give away together.
    ///
    /// # Errors
    ///
    /// When a loss is NaN.
    pub fn of([train, validation, calibration, test]: [RowScores; 4], seed: u64) -> anyhow::Result<Self> {
        let loss_attack = LossAttack::of(&train.losses, &test.losses, seed)?;
        let (train, test) = (train.mean(), test.mean());
        let gap = train.zip(test).map(|(train, test)| train.accuracy - test.accuracy);
        Ok(Self { train, validation: validation.mean(), calibration: calibration.mean(), test, gap, loss_attack })
    }

    /// The parts that were measured, by name.
    pub fn parts(&self) -> impl Iterator<Item = (&'static str, Score)> {
        let parts = [
            ("train", self.train),
            ("validation", self.validation),
            ("calibration", self.calibration),
            ("test", self.test),
        ];
        parts.into_iter().filter_map(|(name, score)| Some((name, score?)))
    }
}

/// The attack of the paper's tables on the undefended model: a row with a low loss is called a member. Members are the
/// train rows, non-members the test rows, losses in f64.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LossAttack {
    /// Members ranked.
    pub n_members: usize,
    /// Non-members ranked.
    pub n_non_members: usize,
    /// Area under the curve, ties by half.
    pub auc: f64,
    /// Its 95 % interval (DeLong).
    pub auc_interval: [f64; 2],
    /// R12 (a): the largest difference of true and false positive rate over all thresholds, two-sided, never below 0.
    pub advantage: f64,
    /// What an advantage is when membership says nothing: the mean over dealt memberships.
    pub null_mean: f64,
    /// The 95 % quantile of the same: an advantage up to here is within the noise.
    pub null_q95: f64,
    /// Deals.
    pub n_permutations: usize,
}

impl LossAttack {
    /// How often memberships are dealt for the null.
    const PERMUTATIONS: usize = 500;

    /// Ranks the losses of members and non-members; `None` where one side has no rows.
    ///
    /// # Errors
    ///
    /// When a loss is NaN.
    pub fn of(members: &[f64], non_members: &[f64], seed: u64) -> anyhow::Result<Option<Self>> {
        if members.is_empty() || non_members.is_empty() {
            return Ok(None);
        }
        let scores: Vec<f64> = members.iter().chain(non_members).map(|loss| -loss).collect();
        let memberships: Vec<bool> = (0..scores.len()).map(|row| row < members.len()).collect();
        let ranking = Ranking::new(&scores)?;
        let advantage = Roc::from_ranking(&ranking, &memberships)?.two_sided_advantage();
        let auc = Placements::new(&ranking, &memberships)?.auc(0.95);
        let permutations = Permutations { n: Self::PERMUTATIONS, seed };
        let null = permutations.draw(&[&ranking], members.len()).of_maximum(&[0], advantage);
        Ok(null.map(|null| Self {
            n_members: members.len(),
            n_non_members: non_members.len(),
            auc: auc.value,
            auc_interval: [auc.interval().low, auc.interval().high],
            advantage,
            null_mean: null.mean,
            null_q95: null.q95,
            n_permutations: Self::PERMUTATIONS,
        }))
    }
}

/// The source that the program was built from; the folder of the run has no say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CodeRecord {
    /// The commit.
    pub commit: String,
    /// Whether the sources had been changed since.
    pub dirty: bool,
}

/// The machine of a run, in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineRecord {
    /// The processor's model name.
    pub cpu: String,
    /// Cores that the run could use.
    pub n_cores: usize,
}

impl RunRecord {
    /// The record as indented JSON with a line feed at the end.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).expect("a record is plain numbers and text");
        bytes.push(b'\n');
        bytes
    }

    /// Train accuracy minus test accuracy, where both are known.
    #[must_use]
    pub fn gap(&self) -> Option<f64> {
        let results = self.results.as_ref()?;
        Some(results.train?.accuracy - results.test?.accuracy)
    }
}
