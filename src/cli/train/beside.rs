//! What a training takes beside its rows: the answers of a teacher, and how hard each row is.

use std::path::Path;

use anyhow::{Context, bail, ensure};
use ndarray::{Array2, Axis};

use super::Args;
use crate::data::{Dataset, Part, Split};
use crate::lab::device::OpenDevice;
use crate::lab::network::Network;
use crate::lab::train::score;

/// What a teacher says about the training rows, and how hard they are.
type Beside = (Option<Array2<f32>>, Option<Vec<f64>>);

impl Args {
    /// The teacher's answers and the difficulty of the training rows, in their order.
    pub(super) fn beside(&self, dataset: &Dataset, split: &Split, device: &OpenDevice) -> anyhow::Result<Beside> {
        let rows = split.part(Part::Train);
        let teacher = match &self.teacher {
            None => None,
            Some(path) => Some(answers(&read_network(path, dataset, device)?, dataset, rows)?),
        };
        let difficulty = match (&self.first_model, &self.difficulty) {
            (Some(path), _) => Some(score(&read_network(path, dataset, device)?, dataset, rows).losses),
            (None, Some(path)) => Some(read_numbers(path, rows.len())?),
            (None, None) => None,
        };
        Ok((teacher, difficulty))
    }
}

/// A network whose rows and classes are those of the data.
fn read_network(path: &Path, dataset: &Dataset, device: &OpenDevice) -> anyhow::Result<Network> {
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
    Ok(network)
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
fn read_numbers(path: &Path, n_rows: usize) -> anyhow::Result<Vec<f64>> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {shown}"))?;
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
