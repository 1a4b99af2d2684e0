//! What a training takes beside its rows: the answers of a teacher, and how hard each row is.

use std::path::Path;

use anyhow::{Context, bail, ensure};
use ndarray::{Array2, Axis};
use sha2::{Digest, Sha256};

use super::Args;
use crate::data::{Dataset, Part, Split, hex};
use crate::lab::bank::distil::{ROWS_UNKNOWN, TeacherRecord};
use crate::lab::device::OpenDevice;
use crate::lab::network::Network;
use crate::lab::train::{RowScores, score};

/// What stands beside the rows.
#[derive(Debug, Default)]
pub(super) struct Beside {
    pub(super) teacher: Option<Array2<f32>>,
    pub(super) taught_by: Option<TeacherRecord>,
    pub(super) difficulty: Option<Vec<f64>>,
    pub(super) difficulty_from: Option<String>,
}

impl Args {
    /// The teacher's answers and the difficulty of the training rows, in their order.
    pub(super) fn beside(&self, dataset: &Dataset, split: &Split, device: &OpenDevice) -> anyhow::Result<Beside> {
        let rows = split.part(Part::Train);
        let mut beside = Beside::default();
        if let Some(path) = &self.teacher {
            let (network, digest) = read_network(path, dataset, device)?;
            let answers = answers(&network, dataset, rows)?;
            eprintln!("note: {ROWS_UNKNOWN}");
            beside.taught_by = Some(teacher_record(&answers, digest, dataset, rows));
            beside.teacher = Some(answers);
        }
        if let Some(path) = &self.first_model {
            let (network, digest) = read_network(path, dataset, device)?;
            beside.difficulty = Some(score(&network, dataset, rows).losses);
            beside.difficulty_from = Some(digest);
        } else if let Some(path) = &self.difficulty {
            let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            beside.difficulty = Some(read_numbers(path, &text, rows.len())?);
            beside.difficulty_from = Some(hex(&Sha256::digest(text)));
        }
        Ok(beside)
    }
}

fn teacher_record(answers: &Array2<f32>, digest: String, dataset: &Dataset, rows: &[usize]) -> TeacherRecord {
    let labels: Vec<u32> = rows.iter().map(|&row| dataset.labels()[row]).collect();
    let accuracy = RowScores::of_logits(answers, &labels).mean().map_or(0.0, |score| score.accuracy);
    TeacherRecord {
        kind: "model".to_owned(),
        digest,
        n_models: 1,
        design: None,
        rows: vec![Part::Train.name().to_owned()],
        n_rows: rows.len(),
        accuracy,
        notes: vec![ROWS_UNKNOWN.to_owned()],
    }
}

/// A network whose rows and classes are those of the data, and the SHA-256 (hex) of its file.
pub(in crate::cli) fn read_network(
    path: &Path,
    dataset: &Dataset,
    device: &OpenDevice,
) -> anyhow::Result<(Network, String)> {
    let shown = path.display();
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {shown}"))?;
    let (network, about) =
        Network::from_safetensors(&bytes, &device.evaluation()).with_context(|| shown.to_string())?;
    ensure!(
        about.row_shape == dataset.row_shape(),
        "{shown}: expected a network for rows of shape {:?}, got one for {:?}",
        dataset.row_shape(),
        about.row_shape
    );
    let (expected, got) = (dataset.n_classes(), about.labels.len());
    ensure!(expected == got, "{shown}: expected a network with {expected} classes, got one with {got}");
    dataset.check_names(&about.labels).with_context(|| shown.to_string())?;
    Ok((network, hex(&Sha256::digest(&bytes))))
}

/// The class distributions that a network answers rows with.
fn answers(network: &Network, dataset: &Dataset, rows: &[usize]) -> anyhow::Result<Array2<f32>> {
    let mut all = Array2::zeros((0, dataset.n_classes()));
    network.for_each_batch(dataset, rows, |_, logits| {
        let mut shares = logits;
        for mut row in shares.axis_iter_mut(Axis(0)) {
            let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let powers: Vec<f64> = row.iter().map(|&value| (f64::from(value) - f64::from(largest)).exp()).collect();
            let sum: f64 = powers.iter().sum();
            row.iter_mut().zip(powers).for_each(|(share, power)| *share = (power / sum) as f32);
        }
        Ok(all.append(Axis(0), shares.view())?)
    })?;
    Ok(all)
}

/// One number a line.
fn read_numbers(path: &Path, text: &str, n_rows: usize) -> anyhow::Result<Vec<f64>> {
    let shown = path.display();
    let mut numbers = Vec::with_capacity(n_rows);
    for (line, text) in (1..).zip(text.lines()) {
        match text.trim().parse::<f64>() {
            Ok(number) if !number.is_nan() => numbers.push(number),
            _ => bail!("{shown}, line {line}: expected a number"),
        }
    }
    ensure!(
        numbers.len() == n_rows,
        "{shown}: expected one number for each of {n_rows} training rows, got {}",
        numbers.len()
    );
    Ok(numbers)
}
