//! What models say about rows: ONNX models run by tract, alone or averaged over those that may answer.
//!
//! Scores become logits by R2 (probabilities as `ln max(p, 1e-12)`), so that a teacher may be anybody's model.

use anyhow::{Context, ensure};
use ndarray::{Array2, Axis};
use prost::Message;
use rayon::prelude::*;
use tract_onnx::pb::ModelProto;
use tract_onnx::prelude::{Framework, InferenceModelExt, IntoRunnable, IntoTValue, Tensor, TypedRunnableModel, tvec};

use super::merge::Bank;
use super::place::Place;
use crate::data::Dataset;
use crate::defence::ScoreKind;
use crate::engine::{LoadOptions, inspect};
use crate::lab::train::{RowScores, Score};

/// Rows in a batch.
const BATCH: usize = 128;
/// Probabilities are not taken for less (R2).
const FLOOR: f64 = 1e-12;

/// A model that answers for rows of a dataset.
pub struct Answerer {
    runnable: std::sync::Arc<TypedRunnableModel>,
    /// Place of the scores among the graph's outputs.
    output: usize,
    kind: ScoreKind,
}

impl Answerer {
    /// Loads an ONNX model; which output holds scores, and of which kind, is read from the graph.
    ///
    /// # Errors
    ///
    /// When the bytes are no model that can be run, or the graph does not tell its scores.
    pub fn load(bytes: &[u8]) -> anyhow::Result<Self> {
        let proto = ModelProto::decode(bytes).context("expected an ONNX model")?;
        let decided = inspect::decide(&inspect::facts(&proto)?, &LoadOptions::default())?;
        let outputs = proto.graph.as_ref().map(|graph| graph.output.as_slice()).unwrap_or_default();
        let output = outputs.iter().position(|output| output.name == decided.output).context("the output of scores")?;
        let runnable = tract_onnx::onnx().model_for_read(&mut &bytes[..])?.into_optimized()?.into_runnable()?;
        Ok(Self { runnable, output, kind: decided.kind })
    }

    /// Logits of rows, by R2.
    ///
    /// # Shapes
    ///
    /// `(rows.len(), n_classes)`.
    ///
    /// # Errors
    ///
    /// When the model does not take these rows, or answers for other classes or with numbers that are not finite.
    pub fn logits(&self, dataset: &Dataset, rows: &[usize]) -> anyhow::Result<Array2<f32>> {
        let n_classes = dataset.n_classes();
        let answer = |rows: &[usize]| -> anyhow::Result<Vec<f32>> {
            let batch = dataset.batch(rows);
            let values = batch.as_slice().context("rows that lie in one piece")?;
            let input = Tensor::from_shape(batch.shape(), values)?;
            let outputs =
                self.runnable.run(tvec!(input.into_tvalue())).ok().context("the model failed on these rows")?;
            let scores = outputs.get(self.output).context("an output of scores")?.to_plain_array_view::<f32>()?;
            let expected = [rows.len(), n_classes];
            ensure!(scores.shape() == expected, "the model: expected scores {expected:?}, got {:?}", scores.shape());
            ensure!(scores.iter().all(|score| score.is_finite()), "the model gives scores that are not finite");
            let logit = |score: &f32| match self.kind {
                ScoreKind::Probabilities => f64::from(*score).max(FLOOR).ln() as f32,
                ScoreKind::Logits | ScoreKind::LogProbabilities => *score,
            };
            Ok(scores.iter().map(logit).collect())
        };
        let batches = rows.par_chunks(BATCH).map(answer).collect::<anyhow::Result<Vec<_>>>()?;
        Ok(Array2::from_shape_vec((rows.len(), n_classes), batches.concat())?)
    }

    /// Probabilities of rows: the softmax of the logits over a temperature, in f64.
    ///
    /// # Errors
    ///
    /// As [`logits`](Self::logits).
    pub fn probabilities(&self, dataset: &Dataset, rows: &[usize], temperature: f64) -> anyhow::Result<Array2<f64>> {
        Ok(softmax(&self.logits(dataset, rows)?, temperature))
    }
}

/// The softmax of each row over a temperature.
#[must_use]
pub fn softmax(logits: &Array2<f32>, temperature: f64) -> Array2<f64> {
    let mut shares = logits.mapv(|logit| f64::from(logit) / temperature);
    for mut row in shares.rows_mut() {
        let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        row.mapv_inplace(|logit| (logit - largest).exp());
        let sum = row.sum();
        row.mapv_inplace(|share| share / sum);
    }
    shares
}

/// Answers averaged over models.
#[derive(Debug, Clone, PartialEq)]
pub struct Averaged {
    /// Mean probabilities, `(n_rows, n_classes)`; zeros where no model may answer.
    pub probabilities: Array2<f64>,
    /// How many models answered for each row.
    pub n_models: Vec<usize>,
}

impl Averaged {
    /// Averages the answers of a bank's models for rows. `may_answer` says whether a model (by number) may answer for a
    /// row (by its place in `rows`).
    ///
    /// # Errors
    ///
    /// When a model is missing, damaged or cannot be run.
    pub fn of_bank(
        (place, bank): (&Place, &Bank),
        dataset: &Dataset,
        rows: &[usize],
        temperature: f64,
        may_answer: impl Fn(usize, usize) -> bool,
    ) -> anyhow::Result<Self> {
        let mut sums = Array2::zeros((rows.len(), dataset.n_classes()));
        let mut n_models = vec![0usize; rows.len()];
        for member in 0..bank.manifest.models.len() {
            let places: Vec<usize> = (0..rows.len()).filter(|&at| may_answer(member, at)).collect();
            if places.is_empty() {
                continue;
            }
            let model = Answerer::load(&bank.model(place, member)?).with_context(|| format!("model {member}"))?;
            let asked: Vec<usize> = places.iter().map(|&at| rows[at]).collect();
            let shares =
                model.probabilities(dataset, &asked, temperature).with_context(|| format!("model {member}"))?;
            for (&at, shares) in places.iter().zip(shares.rows()) {
                let mut sum = sums.row_mut(at);
                sum += &shares;
                n_models[at] += 1;
            }
        }
        for (mut sum, &n) in sums.axis_iter_mut(Axis(0)).zip(&n_models) {
            sum.mapv_inplace(|sum| sum / n.max(1) as f64);
        }
        Ok(Self { probabilities: sums, n_models })
    }

    /// Loss and accuracy of each of the rows that some model answered for.
    #[must_use]
    pub fn row_scores(&self, dataset: &Dataset, rows: &[usize]) -> RowScores {
        let answered: Vec<usize> = (0..rows.len()).filter(|&at| self.n_models[at] > 0).collect();
        let labels: Vec<u32> = answered.iter().map(|&at| dataset.labels()[rows[at]]).collect();
        row_scores(&self.probabilities.select(Axis(0), &answered), &labels)
    }
}

/// Mean cross-entropy (probabilities floored as in R2) and accuracy (ties: lowest index); `None` for no rows.
#[must_use]
pub fn score(probabilities: &Array2<f64>, labels: &[u32]) -> Option<Score> {
    row_scores(probabilities, labels).mean()
}

/// The same row by row.
#[must_use]
pub fn row_scores(probabilities: &Array2<f64>, labels: &[u32]) -> RowScores {
    let mut scores = RowScores::default();
    for (row, &label) in probabilities.rows().into_iter().zip(labels) {
        let best = row.iter().enumerate().fold(0, |best, (class, share)| if *share > row[best] { class } else { best });
        scores.is_right.push(best == label as usize);
        scores.losses.push(-row[label as usize].max(FLOOR).ln());
    }
    scores
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    #[test]
    fn a_score_counts_first_of_equals_and_floors_zero() {
        let shares = array![[0.5, 0.5], [0.0, 1.0], [0.25, 0.75]];
        let got = score(&shares, &[0, 0, 1]).unwrap();
        assert_eq!((got.n_rows, got.accuracy), (3, 2.0 / 3.0));
        let expected = -(0.5f64.ln() + 1e-12f64.ln() + 0.75f64.ln()) / 3.0;
        assert!((got.loss - expected).abs() < 1e-12);
        assert!(score(&shares, &[]).is_none());
    }

    #[test]
    fn a_temperature_softens_and_rows_sum_to_one() {
        let logits = array![[0.0f32, 2.0, -1.0], [1000.0, 0.0, -1000.0]];
        let (hard, soft) = (softmax(&logits, 1.0), softmax(&logits, 4.0));
        assert!((hard.row(0).sum() - 1.0).abs() < 1e-12 && (soft.row(1).sum() - 1.0).abs() < 1e-12);
        assert!(soft[[0, 1]] < hard[[0, 1]] && soft[[0, 1]] > soft[[0, 0]]);
    }
}
