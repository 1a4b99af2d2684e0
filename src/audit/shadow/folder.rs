//! A bank of models in a folder, asked about its own pool: `inclusion.safetensors` and `model-00000.onnx` onwards, as
//! the lab writes them.
//!
//! Each model answers every row of the pool once, undefended; then each of the audit's defences is fitted to the model's
//! own members and applied to those answers. So one pass gives a [`Bank`] for every system.

use std::path::{Path, PathBuf};

use ndarray::Array2;

use crate::artifact::inclusion::{InclusionError, InclusionMatrix};
use crate::audit::answers::Answers;
use crate::audit::utility::softmax_at;
use crate::data::Dataset;
use crate::defence::{ClassFallback, DefenceConfig, RawScores, ScoresError, offline};
use crate::engine::tract::TractEngine;
use crate::engine::{Engine, EngineError, LoadOptions};
use crate::tensor::{InputError, Inputs};

use super::behind::{self, BehindError};
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
}

/// Asks every model of the folder about its pool, `batch_rows` at a time; `progress` is told the models done.
///
/// # Errors
/// [`FolderError`].
pub fn collect(
    folder: &Path,
    dataset: &Dataset,
    systems: &[Before],
    fallback: ClassFallback,
    batch_rows: usize,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<FolderBanks, FolderError> {
    let path = folder.join(INCLUSION_FILE);
    let matrix = InclusionMatrix::read(&read(&path)?).map_err(|error| FolderError::Inclusion { path, error })?;
    if let Some(&row) = matrix.rows.iter().find(|&&row| row >= dataset.n_rows()) {
        return Err(FolderError::OtherData { row, n_rows: dataset.n_rows() });
    }
    let labels: Vec<u32> = matrix.rows.iter().map(|&row| dataset.labels()[row]).collect();
    let empty = || Bank::new(matrix.rows.len(), 1, Shadowing::AsTarget);
    let mut banks: Vec<(String, Bank)> = systems.iter().map(|(name, _)| (name.clone(), empty())).collect();
    for model in 0..matrix.n_models() {
        progress(model, matrix.n_models());
        let path = folder.join(format!("model-{model:05}.onnx"));
        let raw = ask(&path, dataset, &matrix.rows, batch_rows)?;
        let members = matrix.trained.row(model).to_vec();
        for ((name, config), (_, bank)) in systems.iter().zip(&mut banks) {
            let answers = match config {
                None => Answers::new(softmax_at(&offline::logits(offline::copy(&raw)), 1.0)),
                Some(config) => behind::answers(config, &raw, &labels, &members, fallback)
                    .map_err(|error| FolderError::Behind { path: path.clone(), system: name.clone(), error })?,
            };
            bank.push(scaled_logits(&[&answers], &labels)?.view(), &members)?;
        }
    }
    progress(matrix.n_models(), matrix.n_models());
    Ok(FolderBanks { rows: matrix.rows, banks })
}

fn read(path: &Path) -> Result<Vec<u8>, FolderError> {
    std::fs::read(path).map_err(|error| FolderError::Io { path: path.to_owned(), error })
}

/// One model's scores of the pool's rows, as one batch.
fn ask(path: &Path, dataset: &Dataset, rows: &[usize], batch_rows: usize) -> Result<RawScores, FolderError> {
    let failed = |error| FolderError::Model { path: path.to_owned(), error };
    let engine = TractEngine::load(&read(path)?, &LoadOptions::default()).map_err(failed)?;
    let spec = engine.spec();
    let other = |expected: String, got: String| FolderError::OtherModel { path: path.to_owned(), expected, got };
    if spec.n_classes != dataset.n_classes() {
        return Err(other(format!("{} classes", dataset.n_classes()), spec.n_classes.to_string()));
    }
    let [input] = &spec.inputs[..] else { return Err(other("one input".to_owned(), spec.inputs.len().to_string())) };
    let mut values = Vec::with_capacity(rows.len() * spec.n_classes);
    for batch in rows.chunks(batch_rows.max(1)) {
        let inputs = Inputs::from_f32(input, dataset.batch(batch))
            .map_err(|error| FolderError::Rows { path: path.to_owned(), error })?;
        values.extend(offline::logits(engine.infer(&inputs).map_err(failed)?));
    }
    let shape = (rows.len(), spec.n_classes);
    let logits = Array2::from_shape_vec(shape, values)
        .map_err(|_| other(format!("{} rows of scores", rows.len()), "another number".to_owned()))?;
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
        let error = collect(dir.path(), &data, &[], ClassFallback::Refuse, 8, &mut |_, _| {}).err().unwrap();
        assert!(error.to_string().contains("inclusion.safetensors"), "{error}");
        std::fs::write(dir.path().join(INCLUSION_FILE), b"{}").unwrap();
        let error = collect(dir.path(), &data, &[], ClassFallback::Refuse, 8, &mut |_, _| {}).err().unwrap();
        assert!(error.to_string().contains("expected an inclusion matrix"), "{error}");
    }
}
