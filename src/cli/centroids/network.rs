//! The logits of a network of the lab, from its weights or a checkpoint, on whatever device burn offers.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, ensure};
use ndarray::Array2;

use super::answers::{Answers, TractAnswers};
use crate::cli::train::read_network;
use crate::data::{Dataset, Split};
use crate::lab::checkpoint;
use crate::lab::device::{Device, OpenDevice};
use crate::lab::network::Network;
use crate::lab::train::{Task, Trainer};

/// How far the network's logits may be from those of the ONNX graph, as a share of the largest, where both are computed
/// by the processor: the weights behind another epoch, however late, are further off.
const SAME_NETWORK: f32 = 1e-4;

/// The same for the network on another device: a matrix unit that rounds its factors to 11 bits stays within. That it is
/// the same network, the processor has told before.
const SAME_ANSWERS: f32 = 1e-2;

/// Rows on which that is looked at.
const COMPARED_ROWS: usize = 64;

/// A network on a device.
pub(super) struct NetworkAnswers<'a> {
    /// One batch computes at a time; the next is prepared beside it.
    network: Mutex<Network>,
    device: OpenDevice,
    /// The same network on the processor, where the device is another.
    reference: Option<Network>,
    dataset: &'a Dataset,
}

impl<'a> NetworkAnswers<'a> {
    /// Reads the weights of a network for these rows, or a checkpoint of a training on them. `split` is the training's
    /// own; none: it used all rows.
    ///
    /// # Errors
    /// When the device cannot be opened, or the bytes are neither, or of other rows.
    pub(super) fn read(
        path: &Path,
        device: Device,
        dataset: &'a Dataset,
        split: Option<&Split>,
    ) -> anyhow::Result<Self> {
        let device = device.open()?;
        let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let read = |device: &OpenDevice| {
            if checkpoint::is_checkpoint(&bytes) {
                return of_checkpoint(&bytes, dataset, split, device).with_context(|| path.display().to_string());
            }
            Ok(read_network(path, dataset, device)?.0)
        };
        let network = device.guard("reading the weights", || read(&device))??;
        let is_other = device.device() != Device::Cpu;
        let reference = is_other.then(|| read(&Device::Cpu.open()?)).transpose()?;
        Ok(Self { network: Mutex::new(network), device, reference, dataset })
    }

    /// The device's name.
    pub(super) fn device(&self) -> String {
        format!("{} ({})", self.device.device(), self.device.name())
    }

    /// Makes sure that the network is of the model that the centroids will be used with.
    ///
    /// # Errors
    /// When logits differ by more than rounding.
    pub(super) fn check_same(&self, model: &TractAnswers<'_>, rows: &[usize]) -> anyhow::Result<()> {
        let rows = &rows[..rows.len().min(COMPARED_ROWS)];
        let (own, others) = (self.logits(rows)?, model.logits(rows)?);
        let Some(reference) = &self.reference else { return check_alike(&own, &others, SAME_NETWORK) };
        check_alike(&reference.logits(self.dataset.try_batch(rows)?), &others, SAME_NETWORK)?;
        check_alike(&own, &others, SAME_ANSWERS).with_context(|| format!("on {}", self.device()))
    }
}

/// Stops where logits differ by more than this share of the largest, or a number is none.
fn check_alike(own: &Array2<f32>, others: &Array2<f32>, tolerance: f32) -> anyhow::Result<()> {
    let largest = others.iter().fold(1.0_f32, |largest, z| largest.max(z.abs()));
    let apart = own.iter().zip(others).map(|(a, b)| (a - b).abs());
    let apart = apart.fold(0.0_f32, |most, apart| if apart <= most { most } else { apart });
    ensure!(
        own.dim() == others.dim() && apart <= tolerance * largest,
        "the weights are not of this model: a logit differs by {:.2} % of the largest",
        100.0 * apart / largest
    );
    Ok(())
}

/// The network of an unfinished training.
fn of_checkpoint(
    bytes: &[u8],
    dataset: &Dataset,
    split: Option<&Split>,
    device: &OpenDevice,
) -> anyhow::Result<Network> {
    let recipe = checkpoint::recipe(bytes)?;
    let task = match split {
        Some(split) => Task::of_split(dataset, split)?,
        None => Task::new(dataset, (0..dataset.n_rows()).collect(), Vec::new()),
    };
    ensure!(
        split.is_some() || recipe.early_stopping.is_none(),
        "the training stopped early on validation rows: expected its --split, or the weights beside the finished model"
    );
    Ok(Trainer::resume(task, recipe, device, bytes)?.network())
}

impl Answers for NetworkAnswers<'_> {
    fn logits(&self, rows: &[usize]) -> anyhow::Result<Array2<f32>> {
        let batch = self.dataset.try_batch(rows)?;
        let network = self.network.lock().unwrap_or_else(PoisonError::into_inner);
        let logits = self.device.guard("a batch", || network.logits(batch))?;
        ensure!(logits.iter().all(|z| z.is_finite()), "the network answers with a value that is not finite");
        Ok(logits)
    }

    fn n_threads(&self) -> usize {
        2
    }

    fn batch_size(&self) -> usize {
        256
    }
}
