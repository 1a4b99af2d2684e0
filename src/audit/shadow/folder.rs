//! A bank of models in a folder, asked about its own pool and the rows of an audit: `plan.json`, `inclusion.safetensors` and
//! `model-00000.onnx` onwards, as the lab writes them.
//!
//! An audited row that the pool does not hold was trained on by no model. Each model answers every row once, undefended; then each of the audit's defences is fitted to the model's
//! own members and applied to those answers. So one pass gives a [`Bank`] for every system. Of images, changed forms
//! (the mirror image, shifts) may be asked too, as LiRA does; the defence stays fitted to the rows themselves. The answers
//! of the first models to the pool are kept whole: attacks are learned on them ([`LearnedFrom`]).

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use ndarray::{Array2, ArrayD, Axis};
use serde::Deserialize;

use crate::artifact::ModelDigest;
use crate::artifact::inclusion::{InclusionError, InclusionMatrix};
use crate::audit::answers::Answers;
use crate::audit::label_only::{Change, Range};
use crate::audit::study::LearnedFrom;
use crate::audit::utility::softmax_at;
use crate::data::Dataset;
use crate::defence::{ClassFallback, Defence, DefenceConfig, Method, RawScores, ScoresError, offline};
use crate::engine::tract::TractEngine;
use crate::engine::{Engine, EngineError, LoadOptions};
use crate::tensor::{InputError, Inputs};

use super::behind::{self, BehindError};
use super::reach::Reach;
use super::single::MIN_ROWS;
use super::{Bank, ShadowError, Shadowing, scaled_logits};

/// The file that says who was trained on what.
pub const INCLUSION_FILE: &str = "inclusion.safetensors";
/// The file that says, among other things, on whose data.
pub const PLAN_FILE: &str = "plan.json";

/// Why a folder is no bank for this data.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// A file cannot be read.
    #[error("cannot read {}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        error: std::io::Error,
    },
    /// The inclusion matrix cannot be read.
    #[error("{}: {error}", path.display())]
    Inclusion {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: InclusionError,
    },
    /// The plan cannot be read.
    #[error("{}: expected the plan of a bank, with the digest of its data: {error}", path.display())]
    Plan {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: serde_json::Error,
    },
    /// The bank was trained on other data.
    #[error("the bank was trained on other data: expected the digest {expected}, {} names {got}", path.display())]
    OtherDigest {
        /// The bank's plan.
        path: PathBuf,
        /// Digest of the data set.
        expected: String,
        /// The one in the plan.
        got: String,
    },
    /// The pool, or the audit, names a row that the data set has not.
    #[error("the bank's models are to be asked about row {row}, the data has {n_rows} rows")]
    OtherData {
        /// The row.
        row: usize,
        /// Rows of the data set.
        n_rows: usize,
    },
    /// A model cannot be loaded, or does not answer.
    #[error("{}: {error}", path.display())]
    Model {
        /// The file.
        path: PathBuf,
        /// What the engine said.
        error: EngineError,
    },
    /// A model is not of this data: other inputs or other classes.
    #[error("{}: expected {expected}, got {got}", path.display())]
    OtherModel {
        /// The file.
        path: PathBuf,
        /// What was expected.
        expected: String,
        /// What it has.
        got: String,
    },
    /// The rows do not fit a model's input.
    #[error("{}: {error}", path.display())]
    Rows {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        error: InputError,
    },
    /// A model's scores are not finite.
    #[error("{}: {error}", path.display())]
    Scores {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: ScoresError,
    },
    /// A shadow cannot be put behind a defence.
    #[error("{}, behind {system}: {error}", path.display())]
    Behind {
        /// The file.
        path: PathBuf,
        /// The system.
        system: String,
        /// Why.
        error: BehindError,
    },
    /// A model of the bank is the one that is attacked.
    #[error("{} is the model that is audited: a shadow that is its own target tells nothing", path.display())]
    OwnTarget {
        /// The file.
        path: PathBuf,
    },
    /// A shadow saw too few rows, or too few are known that it did not see.
    #[error("{n_rows} {side} of the shadow model: an attack is learned on {needed} of each side at least")]
    TooFewRows {
        /// Which side.
        side: &'static str,
        /// Rows that it has.
        n_rows: usize,
        /// Rows that are needed.
        needed: usize,
    },
    /// The answers make no bank.
    #[error(transparent)]
    Shadow(#[from] ShadowError),
}

/// What stands before the models in place of one system of the audit.
#[derive(Debug, Clone)]
pub struct Before {
    /// Name of the system.
    pub system: String,
    /// The defence, fitted to each model's own members; none for the model as it is.
    pub config: Option<DefenceConfig>,
    /// Whether this is what stands before the target.
    pub shadowing: Shadowing,
}

/// Banks of one folder.
pub struct FolderBanks {
    /// The rows of every bank in order, by their numbers in the data set: those of the pool, then audited rows that it has not.
    pub rows: Vec<usize>,
    /// For each system its bank.
    pub banks: Vec<(String, Bank)>,
    /// For each system the first models' answers to the pool; none where too few of its rows are known to be members of a
    /// model, or not to be.
    pub learned: Vec<LearnedFrom>,
    /// Why there is nothing to learn on.
    pub not_learned: Option<String>,
}

/// Rows whose answers are kept for the learned attacks, about: one model's at least.
const MAX_LEARNED: usize = 20_000;

/// How the models of a folder are asked.
#[derive(Debug, Clone, Copy)]
pub struct Asking<'a> {
    /// What stands before them.
    pub systems: &'a [Before],
    /// What is done for a class without a centroid (R3).
    pub fallback: ClassFallback,
    /// Rows of one inference.
    pub batch_rows: usize,
    /// Forms of each row: 1 is the row itself; [`form`] makes the others.
    pub n_forms: usize,
    /// SHA-256 (hex) of the audited model's bytes, where they are at hand: no shadow may be it.
    pub target: Option<&'a str>,
}

/// The `number`-th form of images (n_rows, channels, height, width): 0 as they are, 1 the mirror image, then shifts by
/// two pixels in eight directions.
#[must_use]
pub fn form(inputs: &ArrayD<f32>, number: usize) -> ArrayD<f32> {
    // Neither a range nor a seed is looked at by a shift.
    Change::Shifts { pixels: 2 }.form(inputs, number, Range { low: 0.0, high: 0.0 }, 0)
}

/// A folder whose models were not asked yet, held against the data and the rows of an audit.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    matrix: InclusionMatrix,
    audited: Vec<usize>,
    reach: Reach,
}

impl Folder {
    /// Reads who was trained on what, and checks that the models are of this data and can tell about all of `audited`, numbers
    /// in the data set.
    ///
    /// # Errors
    /// [`FolderError::Inclusion`], [`FolderError::Plan`]; [`FolderError::OtherDigest`], [`FolderError::OtherData`];
    /// [`FolderError::Shadow`] as [`Reach::of`] says.
    pub fn open(path: &Path, dataset: &Dataset, audited: &[usize]) -> Result<Self, FolderError> {
        let file = path.join(INCLUSION_FILE);
        let read_in = InclusionMatrix::read(&read(&file)?);
        let matrix = read_in.map_err(|error| FolderError::Inclusion { path: file, error })?;
        check_data(path.join(PLAN_FILE), dataset)?;
        let n_rows = dataset.n_rows();
        if let Some(&row) = matrix.rows.iter().chain(audited).find(|&&row| row >= n_rows) {
            return Err(FolderError::OtherData { row, n_rows });
        }
        let reach = Reach::of(&matrix, audited)?;
        Ok(Self { path: path.to_owned(), matrix, audited: audited.to_vec(), reach })
    }

    /// What the models can tell about the audited rows.
    #[must_use]
    pub fn reach(&self) -> Reach {
        self.reach
    }

    /// The rows of its banks: the pool's, then the audited ones that it has not.
    fn rows(&self) -> Vec<usize> {
        let pool: HashSet<usize> = self.matrix.rows.iter().copied().collect();
        let further = self.audited.iter().filter(|row| !pool.contains(row));
        self.matrix.rows.iter().chain(further).copied().collect()
    }

    /// Asks every model of the folder; `progress` is told the models done.
    ///
    /// # Errors
    /// [`FolderError`].
    pub fn collect(
        &self,
        dataset: &Dataset,
        asking: &Asking<'_>,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<FolderBanks, FolderError> {
        let (systems, n_forms) = (asking.systems, asking.n_forms.max(1));
        let (rows, n_pool, n_models) = (self.rows(), self.matrix.rows.len(), self.matrix.n_models());
        let labels: Vec<u32> = rows.iter().map(|&row| dataset.labels()[row]).collect();
        let empty = |before: &Before| Bank::new(rows.len(), n_forms, before.shadowing);
        let mut banks: Vec<(String, Bank)> = systems.iter().map(|one| (one.system.clone(), empty(one))).collect();
        let n_learned = n_models.min((MAX_LEARNED / n_pool.max(1)).max(1));
        let not_learned = self.not_learned(n_learned);
        let mut learned: Vec<Vec<(Answers, Vec<bool>)>> = systems.iter().map(|_| Vec::new()).collect();
        for model in 0..n_models {
            progress(model, n_models);
            let path = self.path.join(format!("model-{model:05}.onnx"));
            check_is_other(&path, asking.target)?;
            let raw = ask(&path, dataset, &rows, asking.batch_rows, n_forms)?;
            let mut members = self.matrix.trained.row(model).to_vec();
            members.resize(rows.len(), false);
            for ((before, (_, bank)), learned) in systems.iter().zip(&mut banks).zip(&mut learned) {
                let answers = behind_all(before, &raw, &labels, &members, asking.fallback, &path)?;
                let forms: Vec<&Answers> = answers.iter().collect();
                bank.push(scaled_logits(&forms, &labels)?.view(), &members)?;
                if model < n_learned && not_learned.is_none() {
                    let of_pool =
                        answers.first().map(|answers| (first_rows(answers, n_pool), members[..n_pool].to_vec()));
                    learned.extend(of_pool);
                }
            }
        }
        progress(n_models, n_models);
        let each = systems.iter().zip(learned).filter(|(_, shadows)| !shadows.is_empty());
        let learned = each.map(|(before, shadows)| LearnedFrom {
            shadowing: before.shadowing,
            ..LearnedFrom::of(&before.system, &shadows, &labels[..n_pool])
        });
        Ok(FolderBanks { learned: learned.collect(), not_learned, rows, banks })
    }

    /// What keeps attacks from being learned on the first `n_learned` models.
    fn not_learned(&self, n_learned: usize) -> Option<String> {
        let trained = self.matrix.trained.slice_axis(Axis(0), (..n_learned).into());
        let n_members = trained.iter().filter(|trained| **trained).count();
        let n_others = trained.len() - n_members;
        (n_members.min(n_others) < MIN_ROWS).then(|| {
            format!(
                "attacks learned on the bank's models: of the rows that it was dealt {n_members} are members of the models that \
                 are learned on and {n_others} are not; {MIN_ROWS} of each are needed"
            )
        })
    }
}

/// Checks that the bank of this plan was trained on this data.
fn check_data(path: PathBuf, dataset: &Dataset) -> Result<(), FolderError> {
    #[derive(Deserialize)]
    struct Plan {
        data: Data,
    }
    #[derive(Deserialize)]
    struct Data {
        digest: String,
    }
    match serde_json::from_slice::<Plan>(&read(&path)?) {
        Err(error) => Err(FolderError::Plan { path, error }),
        Ok(plan) if plan.data.digest == dataset.digest() => Ok(()),
        Ok(plan) => {
            let got = plan.data.digest.chars().take(64).collect();
            Err(FolderError::OtherDigest { path, expected: dataset.digest(), got })
        }
    }
}

fn first_rows(answers: &Answers, n_rows: usize) -> Answers {
    Answers {
        probabilities: answers.probabilities.slice_axis(Axis(0), (..n_rows).into()).to_owned(),
        predicted: answers.predicted[..n_rows].to_vec(),
    }
}

/// A shadow must not be the model that is attacked.
pub(super) fn check_is_other(path: &Path, target: Option<&str>) -> Result<(), FolderError> {
    let Some(target) = target else { return Ok(()) };
    if ModelDigest::of(&read(path)?).to_string() == target {
        return Err(FolderError::OwnTarget { path: path.to_owned() });
    }
    Ok(())
}

/// All forms of one model behind one system.
pub(super) fn behind_all(
    before: &Before,
    forms: &[RawScores],
    labels: &[u32],
    members: &[bool],
    fallback: ClassFallback,
    path: &Path,
) -> Result<Vec<Answers>, FolderError> {
    match &before.config {
        None => Ok(forms.iter().map(undefended).collect()),
        Some(config) => defended(config, forms, labels, members, fallback).map_err(|error| FolderError::Behind {
            path: path.to_owned(),
            system: before.system.clone(),
            error,
        }),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, FolderError> {
    std::fs::read(path).map_err(|error| FolderError::Io { path: path.to_owned(), error })
}

fn undefended(raw: &RawScores) -> Answers {
    Answers::new(softmax_at(&offline::logits(offline::copy(raw)), 1.0))
}

/// All forms behind one defence, which is fitted to the members as they are: the first form.
fn defended(
    config: &DefenceConfig,
    forms: &[RawScores],
    labels: &[u32],
    members: &[bool],
    fallback: ClassFallback,
) -> Result<Vec<Answers>, BehindError> {
    let [first, ..] = forms else { return Ok(Vec::new()) };
    let fitted = match config.method {
        Method::LabelOnly | Method::AsIs => None,
        Method::Reweight { .. } | Method::Inlier { .. } => Some(behind::fit(first, labels, members, fallback)?),
    };
    let defence = Defence::new(config, fitted, first.kind(), first.n_classes())?;
    let answer = |raw: &RawScores| -> Result<Answers, BehindError> {
        Ok(Answers::new(defence.apply(offline::copy(raw))?.probabilities().mapv(f64::from)))
    };
    forms.iter().map(answer).collect()
}

/// One model's scores of the pool's rows: one batch for each form.
pub(super) fn ask(
    path: &Path,
    dataset: &Dataset,
    rows: &[usize],
    batch_rows: usize,
    n_forms: usize,
) -> Result<Vec<RawScores>, FolderError> {
    let failed = |error| FolderError::Model { path: path.to_owned(), error };
    let engine = TractEngine::load(&read(path)?, &LoadOptions::default()).map_err(failed)?;
    let spec = engine.spec();
    let other = |expected: String, got: String| FolderError::OtherModel { path: path.to_owned(), expected, got };
    if spec.n_classes != dataset.n_classes() {
        return Err(other(format!("{} classes", dataset.n_classes()), spec.n_classes.to_string()));
    }
    let [input] = &spec.inputs[..] else { return Err(other("one input".to_owned(), spec.inputs.len().to_string())) };
    let mut values = vec![Vec::with_capacity(rows.len() * spec.n_classes); n_forms];
    for batch in rows.chunks(batch_rows.max(1)) {
        let batch = dataset.batch(batch);
        for (number, values) in values.iter_mut().enumerate() {
            let changed = if number == 0 { batch.clone() } else { form(&batch, number) };
            let inputs =
                Inputs::from_f32(input, changed).map_err(|error| FolderError::Rows { path: path.to_owned(), error })?;
            values.extend(offline::logits(engine.infer(&inputs).map_err(failed)?));
        }
    }
    let sealed = |values| {
        let shape = (rows.len(), spec.n_classes);
        let logits = Array2::from_shape_vec(shape, values)
            .map_err(|_| other(format!("{} rows of scores", rows.len()), "another number".to_owned()))?;
        // Logits of R2 whatever the model ends in: sealed as such, so that a defence is built for them alike.
        RawScores::new(logits, crate::defence::ScoreKind::Logits)
            .map_err(|error| FolderError::Scores { path: path.to_owned(), error })
    };
    values.into_iter().map(sealed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::parse_table;

    #[test]
    fn a_folder_without_a_matrix_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let data = parse_table(b"0,1\n1,2\n").unwrap();
        let error = || Folder::open(dir.path(), &data, &[0, 1]).unwrap_err().to_string();
        assert!(error().contains("inclusion.safetensors"), "{}", error());
        std::fs::write(dir.path().join(INCLUSION_FILE), b"{}").unwrap();
        assert!(error().contains("expected an inclusion matrix"), "{}", error());
    }

    #[test]
    fn a_bank_of_other_data_is_refused_by_its_plan() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(PLAN_FILE);
        let data = parse_table(b"0,1\n1,2\n").unwrap();
        let check = |text: &str| {
            std::fs::write(&path, text).unwrap();
            check_data(path.clone(), &data).map_err(|error| error.to_string())
        };
        assert!(check(&format!(r#"{{"data": {{"digest": "{}"}}, "seeds": []}}"#, data.digest())).is_ok());
        let other = check(r#"{"data": {"digest": "abc"}}"#).unwrap_err();
        assert!(other.contains("other data") && other.contains(&data.digest()) && other.contains("abc"), "{other}");
        assert!(check("{}").unwrap_err().contains("expected the plan of a bank"));
        std::fs::remove_file(&path).unwrap();
        assert!(check_data(path.clone(), &data).unwrap_err().to_string().contains("cannot read"));
    }
}
