//! From a pipeline and the rows of a data set to a [`Target`]: the audit's only contact with a running model.

use ndarray::ArrayD;

use crate::audit::enough;
use crate::audit::source::sides::Sides;
use crate::audit::target::{Target, TargetError};
use crate::data::Dataset;
use crate::defence::RawScores;
use crate::pipeline::Pipeline;
use crate::tensor::Inputs;

impl Target {
    /// Sends the rows of all sides through `pipeline`, `batch_rows` at a time; `progress` is told the rows done.
    ///
    /// # Errors
    /// As [`Target::new`], too few rows before the first is sent; [`TargetError::Refused`] where the pipeline refuses a batch.
    pub fn collect(
        pipeline: &Pipeline,
        dataset: &Dataset,
        sides: &Sides,
        batch_rows: usize,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Self, TargetError> {
        let (members, non_members) = (sides.members(), sides.non_members());
        enough::check(members.len(), non_members.len(), enough::LEVEL)?;
        let rows: Vec<usize> = members.iter().chain(non_members).copied().collect();
        let label_of = |rows: &[usize]| rows.iter().map(|&row| dataset.labels()[row]).collect::<Vec<u32>>();
        let n_classes = pipeline.description().n_classes;
        let calibration = sides.calibration();
        if let Some(&row) = rows.iter().chain(calibration).find(|&&row| dataset.labels()[row] as usize >= n_classes) {
            return Err(TargetError::Label { row, label: dataset.labels()[row], n_classes });
        }
        let mut infer = |rows: &[usize]| raw_batches(pipeline, dataset, rows, batch_rows, progress);
        let batches = infer(&rows)?;
        let calibration = (infer(calibration)?, label_of(calibration));
        Ok(Self::new(batches, label_of(&rows), members.len(), calibration)?.with_dataset_rows(rows))
    }
}

fn raw_batches(
    pipeline: &Pipeline,
    dataset: &Dataset,
    rows: &[usize],
    batch_rows: usize,
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<RawScores>, TargetError> {
    let mut batches = Vec::with_capacity(rows.len().div_ceil(batch_rows.max(1)));
    let mut done = 0;
    for batch in rows.chunks(batch_rows.max(1)) {
        let inputs = inputs_of(pipeline, dataset, batch)?;
        let refused = |error| TargetError::Refused { first: done, last: done + batch.len() - 1, error };
        batches.push(pipeline.raw(&inputs).map_err(refused)?);
        done += batch.len();
        progress(batch.len());
    }
    Ok(batches)
}

/// The rows of a data set as the one input of the pipeline's model.
///
/// # Errors
/// [`TargetError::Inputs`] where the model takes several, [`TargetError::Rows`] where the rows are not of its shape.
pub fn inputs_of(pipeline: &Pipeline, dataset: &Dataset, rows: &[usize]) -> Result<Inputs, TargetError> {
    inputs_of_values(pipeline, dataset.batch(rows))
}

/// Values of shape (n_rows, row shape…) as the one input of the pipeline's model.
///
/// # Errors
/// As [`inputs_of`].
pub fn inputs_of_values(pipeline: &Pipeline, values: ArrayD<f32>) -> Result<Inputs, TargetError> {
    let specs = &pipeline.description().inputs;
    let [spec] = specs.as_slice() else {
        return Err(TargetError::Inputs { n_inputs: specs.len() });
    };
    Ok(Inputs::from_f32(spec, values)?)
}
