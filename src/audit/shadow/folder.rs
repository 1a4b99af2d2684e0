//! A bank of models in a folder, asked about its own pool: `inclusion.safetensors` and `model-00000.onnx` onwards, as
//! the lab writes them.
//!
//! Each model answers every row of the pool, undefended; then each of the audit's defences is fitted to the model's own
//! members and applied to those answers. So one pass gives a [`Bank`] for every system. Where changed forms of the rows
//! are wanted (images: mirror and shifts) the model is asked about those as well, behind the same defence. The answers of
//! the first models are kept whole: the learned attacks are trained on them ([`LearnedFrom`]).

use std::path::{Path, PathBuf};

use ndarray::{Array2, ArrayD};

use crate::artifact::inclusion::{InclusionError, InclusionMatrix};
use crate::audit::answers::Answers;
use crate::audit::label_only::{Change, Range};
use crate::audit::study::LearnedFrom;
use crate::data::Dataset;
use crate::defence::{ClassFallback, DefenceConfig, RawScores, ScoresError, offline};
use crate::engine::tract::TractEngine;
use crate::engine::{Engine, EngineError, LoadOptions};
use crate::tensor::{InputError, Inputs};

use super::behind::{BehindError, Front};
use super::{Bank, ShadowError, Shadowing, scaled_logits};

/// The file that says who was trained on what.
const INCLUSION_FILE: &str = "inclusion.safetensors";

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
    /// The answers make no bank.
    #[error(transparent)]
    Shadow(#[from] ShadowError),
}

/// What stands before the models: a name, and a defence or none.
pub type Before = (String, Option<DefenceConfig>);

/// Banks of one folder.
pub struct FolderBanks {
    /// The rows of the pool, by their numbers in the data set: the rows of every bank, in order.
    pub rows: Vec<usize>,
    /// For each system its bank.
    pub banks: Vec<(String, Bank)>,
    /// For each system answers of the first models on the whole pool.
    pub learned: Vec<LearnedFrom>,
}

/// How a bank is asked.
#[derive(Debug, Clone, Copy)]
pub struct Asking {
    /// What to do with a class whose centroid cannot be fitted (R3).
    pub fallback: ClassFallback,
    /// Rows per inference.
    pub batch_rows: usize,
    /// A change, of which every form is asked too; the first form of all is the row itself.
    pub change: Option<Change>,
}

/// Rows whose answers are kept for the learned attacks, about: one model's at least.
const MAX_LEARNED: usize = 20_000;

impl Asking {
    /// Queries of a row.
    #[must_use]
    pub fn n_queries(&self) -> usize {
        self.change.map_or(1, |change| change.queries_per_row() as usize)
    }

    /// The `query`-th form of rows; the first is the rows themselves.
    #[must_use]
    pub fn form(&self, inputs: ArrayD<f32>, query: usize) -> ArrayD<f32> {
        // Shifts keep the values; no range is needed and nothing is random.
        let range = Range { low: f32::MIN, high: f32::MAX };
        match self.change {
            Some(change) if query > 0 => change.form(&inputs, query, range, 0),
            _ => inputs,
        }
    }
}

/// Asks every model of the folder about its pool; `progress` is told the models done.
///
/// # Errors
/// [`FolderError`].
pub fn collect(
    folder: &Path,
    dataset: &Dataset,
    systems: &[Before],
    asking: &Asking,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<FolderBanks, FolderError> {
    let path = folder.join(INCLUSION_FILE);
    let matrix = InclusionMatrix::read(&read(&path)?).map_err(|error| FolderError::Inclusion { path, error })?;
    if let Some(&row) = matrix.rows.iter().find(|&&row| row >= dataset.n_rows()) {
        return Err(FolderError::OtherData { row, n_rows: dataset.n_rows() });
    }
    let labels: Vec<u32> = matrix.rows.iter().map(|&row| dataset.labels()[row]).collect();
    let n_queries = asking.n_queries();
    let empty = || Bank::new(matrix.rows.len(), n_queries, Shadowing::AsTarget);
    let mut banks: Vec<(String, Bank)> = systems.iter().map(|(name, _)| (name.clone(), empty())).collect();
    let n_learned = (MAX_LEARNED / matrix.rows.len().max(1)).clamp(1, matrix.n_models().max(1));
    let mut learned: Vec<Vec<(Answers, Vec<bool>)>> = systems.iter().map(|_| Vec::new()).collect();
    for model in 0..matrix.n_models() {
        progress(model, matrix.n_models());
        let path = folder.join(format!("model-{model:05}.onnx"));
        let engine = load(&path, dataset)?;
        let raw = |query| ask(&path, &engine, dataset, &matrix.rows, asking, query);
        let raw = (0..n_queries).map(raw).collect::<Result<Vec<_>, _>>()?;
        let members = matrix.trained.row(model).to_vec();
        for (index, (name, config)) in systems.iter().enumerate() {
            let behind = |error| FolderError::Behind { path: path.clone(), system: name.clone(), error };
            let front = Front::fit(config.as_ref(), &raw[0], &labels, &members, asking.fallback).map_err(behind)?;
            let answers = raw.iter().map(|raw| front.answers(raw)).collect::<Result<Vec<_>, _>>().map_err(behind)?;
            let views: Vec<&Answers> = answers.iter().collect();
            banks[index].1.push(scaled_logits(&views, &labels)?.view(), &members)?;
            if model < n_learned {
                learned[index].extend(answers.into_iter().next().map(|answers| (answers, members.clone())));
            }
        }
    }
    progress(matrix.n_models(), matrix.n_models());
    let learned = systems.iter().zip(learned).map(|((name, _), parts)| LearnedFrom::of(name, &parts, &labels));
    Ok(FolderBanks { rows: matrix.rows, learned: learned.collect(), banks })
}

/// Answers of one model to rows of which `members` were trained on, behind each of `systems`: what a single shadow gives
/// to the learned attacks.
///
/// # Errors
/// [`FolderError`].
pub fn learned_from(
    model: &Path,
    dataset: &Dataset,
    (rows, members): (&[usize], &[bool]),
    systems: &[Before],
    asking: &Asking,
) -> Result<Vec<LearnedFrom>, FolderError> {
    let labels: Vec<u32> = rows.iter().map(|&row| dataset.labels()[row]).collect();
    let raw = ask(model, &load(model, dataset)?, dataset, rows, asking, 0)?;
    let of_system = |(name, config): &Before| {
        let behind = |error| FolderError::Behind { path: model.to_owned(), system: name.clone(), error };
        let front = Front::fit(config.as_ref(), &raw, &labels, members, asking.fallback).map_err(behind)?;
        let answers = front.answers(&raw).map_err(behind)?;
        Ok(LearnedFrom::of(name, &[(answers, members.to_vec())], &labels))
    };
    systems.iter().map(of_system).collect()
}

fn read(path: &Path) -> Result<Vec<u8>, FolderError> {
    std::fs::read(path).map_err(|error| FolderError::Io { path: path.to_owned(), error })
}

/// Loads a model and checks that it is of this data.
fn load(path: &Path, dataset: &Dataset) -> Result<TractEngine, FolderError> {
    let failed = |error| FolderError::Model { path: path.to_owned(), error };
    let engine = TractEngine::load(&read(path)?, &LoadOptions::default()).map_err(failed)?;
    let spec = engine.spec();
    let other = |expected: String, got: String| FolderError::OtherModel { path: path.to_owned(), expected, got };
    if spec.n_classes != dataset.n_classes() {
        return Err(other(format!("{} classes", dataset.n_classes()), spec.n_classes.to_string()));
    }
    if spec.inputs.len() != 1 {
        return Err(other("one input".to_owned(), spec.inputs.len().to_string()));
    }
    Ok(engine)
}

/// One model's scores of the `query`-th form of the rows, as one batch.
fn ask(
    path: &Path,
    engine: &TractEngine,
    dataset: &Dataset,
    rows: &[usize],
    asking: &Asking,
    query: usize,
) -> Result<RawScores, FolderError> {
    let spec = engine.spec();
    let mut values = Vec::with_capacity(rows.len() * spec.n_classes);
    for batch in rows.chunks(asking.batch_rows.max(1)) {
        let inputs = asking.form(dataset.batch(batch), query);
        let inputs = Inputs::from_f32(&spec.inputs[0], inputs)
            .map_err(|error| FolderError::Rows { path: path.to_owned(), error })?;
        let scores = engine.infer(&inputs).map_err(|error| FolderError::Model { path: path.to_owned(), error })?;
        values.extend(offline::logits(scores));
    }
    let got = format!("{} values", values.len());
    let logits = Array2::from_shape_vec((rows.len(), spec.n_classes), values).map_err(|_| FolderError::OtherModel {
        path: path.to_owned(),
        expected: format!("{} rows of {} scores", rows.len(), spec.n_classes),
        got,
    })?;
    // Logits of R2 whatever the model ends in: sealed as such, so that a defence is built for them alike.
    RawScores::new(logits, crate::defence::ScoreKind::Logits)
        .map_err(|error| FolderError::Scores { path: path.to_owned(), error })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::parse_table;

    #[test]
    fn a_folder_without_a_matrix_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let data = parse_table(b"0,1\n1,2\n").unwrap();
        let asking = Asking { fallback: ClassFallback::Refuse, batch_rows: 8, change: None };
        let error = collect(dir.path(), &data, &[], &asking, &mut |_, _| {}).err().unwrap();
        assert!(error.to_string().contains("inclusion.safetensors"), "{error}");
        std::fs::write(dir.path().join(INCLUSION_FILE), b"{}").unwrap();
        let error = collect(dir.path(), &data, &[], &asking, &mut |_, _| {}).err().unwrap();
        assert!(error.to_string().contains("expected an inclusion matrix"), "{error}");
    }
}
