//! A bank of models in a folder, asked about its own pool: `inclusion.safetensors` and `model-00000.onnx` onwards, as
//! the lab writes them.
//!
//! Each model answers every row of the pool once, undefended; then each of the audit's defences is fitted to the model's
//! own members and applied to those answers. So one pass gives a [`Bank`] for every system. Of images, changed forms
//! (the mirror image, shifts) may be asked too, as LiRA does; the defence stays fitted to the rows themselves. The answers
//! of the first models are kept whole: attacks are learned on them ([`LearnedFrom`]).

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use ndarray::{Array2, ArrayD};

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
use super::{Bank, ShadowError, Shadowing, scaled_logits};

/// The file that says who was trained on what.
pub const INCLUSION_FILE: &str = "inclusion.safetensors";

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
    /// The pool names a row that the data set has not.
    #[error("the bank's pool holds row {row}, the data has {n_rows} rows")]
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
    /// The rows of the pool, by their numbers in the data set: the rows of every bank, in order.
    pub rows: Vec<usize>,
    /// For each system its bank.
    pub banks: Vec<(String, Bank)>,
    /// For each system the first models' answers to the pool.
    pub learned: Vec<LearnedFrom>,
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

/// Checks, before a model is asked, that the folder's models can tell about all of `rows`, numbers in the data set.
///
/// # Errors
/// [`FolderError::Inclusion`]; [`FolderError::Shadow`] with fewer than three models, and for the first row that is not in the
/// pool, or that all models or none were trained on.
pub fn check_rows(folder: &Path, rows: impl Iterator<Item = usize>) -> Result<(), FolderError> {
    let path = folder.join(INCLUSION_FILE);
    let matrix = InclusionMatrix::read(&read(&path)?).map_err(|error| FolderError::Inclusion { path, error })?;
    let n_models = matrix.n_models();
    if n_models < 3 {
        return Err(ShadowError::TooSmall { n_models }.into());
    }
    let places: HashMap<usize, usize> = matrix.rows.iter().enumerate().map(|(place, &row)| (row, place)).collect();
    for row in rows {
        let place = *places.get(&row).ok_or(ShadowError::NotInPool { row })?;
        let n_in = matrix.trained.column(place).iter().filter(|trained| **trained).count();
        if n_in == 0 || n_in == n_models {
            return Err(ShadowError::TooFewModels { row, n_in, n_out: n_models - n_in, needs: "one of each" }.into());
        }
    }
    Ok(())
}

/// Asks every model of the folder about its pool; `progress` is told the models done.
///
/// # Errors
/// [`FolderError`].
pub fn collect(
    folder: &Path,
    dataset: &Dataset,
    asking: &Asking<'_>,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<FolderBanks, FolderError> {
    let systems = asking.systems;
    let n_forms = asking.n_forms.max(1);
    let path = folder.join(INCLUSION_FILE);
    let matrix = InclusionMatrix::read(&read(&path)?).map_err(|error| FolderError::Inclusion { path, error })?;
    if let Some(&row) = matrix.rows.iter().find(|&&row| row >= dataset.n_rows()) {
        return Err(FolderError::OtherData { row, n_rows: dataset.n_rows() });
    }
    let labels: Vec<u32> = matrix.rows.iter().map(|&row| dataset.labels()[row]).collect();
    let empty = |before: &Before| Bank::new(matrix.rows.len(), n_forms, before.shadowing);
    let mut banks: Vec<(String, Bank)> = systems.iter().map(|one| (one.system.clone(), empty(one))).collect();
    let n_learned = (MAX_LEARNED / matrix.rows.len().max(1)).max(1);
    let mut learned: Vec<Vec<(Answers, Vec<bool>)>> = systems.iter().map(|_| Vec::new()).collect();
    for model in 0..matrix.n_models() {
        progress(model, matrix.n_models());
        let path = folder.join(format!("model-{model:05}.onnx"));
        check_is_other(&path, asking.target)?;
        let raw = ask(&path, dataset, &matrix.rows, asking.batch_rows, n_forms)?;
        let members = matrix.trained.row(model).to_vec();
        for ((before, (_, bank)), learned) in systems.iter().zip(&mut banks).zip(&mut learned) {
            let answers = behind_all(before, &raw, &labels, &members, asking.fallback, &path)?;
            let forms: Vec<&Answers> = answers.iter().collect();
            bank.push(scaled_logits(&forms, &labels)?.view(), &members)?;
            if model < n_learned {
                learned.extend(answers.into_iter().next().map(|answers| (answers, members.clone())));
            }
        }
    }
    progress(matrix.n_models(), matrix.n_models());
    let learned = systems.iter().zip(learned).map(|(before, shadows)| LearnedFrom {
        shadowing: before.shadowing,
        ..LearnedFrom::of(&before.system, &shadows, &labels)
    });
    Ok(FolderBanks { learned: learned.collect(), rows: matrix.rows, banks })
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
        let asking = Asking { systems: &[], fallback: ClassFallback::Refuse, batch_rows: 8, n_forms: 1, target: None };
        let error = collect(dir.path(), &data, &asking, &mut |_, _| {}).err().unwrap();
        assert!(error.to_string().contains("inclusion.safetensors"), "{error}");
        std::fs::write(dir.path().join(INCLUSION_FILE), b"{}").unwrap();
        let error = collect(dir.path(), &data, &asking, &mut |_, _| {}).err().unwrap();
        assert!(error.to_string().contains("expected an inclusion matrix"), "{error}");
    }
}
