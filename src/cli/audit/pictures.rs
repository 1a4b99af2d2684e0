//! Pictures of records for the paper's figure 3, with heat maps where the lab can make them.

use std::collections::HashMap;

use anyhow::Context as _;
use ndarray::{ArrayD, Ix4};

#[cfg(feature = "lab")]
use anyhow::ensure;

use super::{Args, Case};
use crate::audit::analysis::Extremes;
use crate::audit::pictures::{self, N_SHOWN, Picture};
use crate::data::Dataset;
#[cfg(feature = "lab")]
use crate::lab::{device::Device, network::Network};

/// Looks at the weights before anything is asked: whether there is a convolution to look at.
///
/// # Errors
/// When they cannot be read, or are those of a network without one.
#[cfg(feature = "lab")]
pub(super) fn check_weights(args: &Args) -> anyhow::Result<()> {
    let Some(path) = &args.heatmaps else { return Ok(()) };
    let shown = path.display();
    let network = network(path)?;
    ensure!(
        network.last_convolution().is_some(),
        "--heatmaps: expected weights of a network with a convolution, {shown} holds one without: where it sees the class \
         cannot be drawn"
    );
    Ok(())
}

#[cfg(feature = "lab")]
fn network(path: &std::path::Path) -> anyhow::Result<Network> {
    let device = Device::Cpu.open()?;
    let read = Network::from_safetensors(&super::read(path)?, &device.training());
    let (network, _) = read.with_context(|| format!("--heatmaps: {}", path.display()))?;
    Ok(network)
}

/// Checks early that pictures can be made.
///
/// # Errors
/// When there are no rows, they are no images, or the weights are those of another network than the model.
pub(super) fn check(args: &Args, case: &Case) -> anyhow::Result<()> {
    if args.pictures {
        pictures::check_shape(dataset(case)?.row_shape())?;
    }
    #[cfg(feature = "lab")]
    weights(args, case)?;
    Ok(())
}

fn dataset(case: &Case) -> anyhow::Result<&Dataset> {
    case.dataset.as_ref().context("--pictures needs --data, the rows to draw")
}

/// Draws the first of the nearest and of the farthest members of each class.
///
/// # Errors
/// When a heat map cannot be made.
pub(super) fn draw(args: &Args, case: &Case, extremes: &[Extremes]) -> anyhow::Result<Vec<Picture>> {
    let mut wanted: Vec<(usize, u32)> = Vec::new();
    for of_class in extremes {
        let ends = of_class.nearest.iter().take(N_SHOWN).chain(of_class.farthest.iter().take(N_SHOWN));
        wanted.extend(ends.map(|one| (one.row, of_class.class)));
    }
    wanted.sort_unstable();
    wanted.dedup();
    let rows: Vec<usize> = wanted.iter().map(|&(row, _)| row).collect();
    let images = dataset(case)?.batch(&rows);
    let maps = heat(args, case, &images, &wanted)?;
    let images = images.into_dimensionality::<Ix4>().context("--pictures: the rows are no images")?;
    let each = images.outer_iter().zip(&wanted);
    let drawn = each
        .map(|(pixels, &(row, _))| Picture::new(row, pixels, maps.get(&row).map(|map| map.view())).map_err(Into::into));
    drawn.collect()
}

/// Rows on which the weights are held against the model before the study.
#[cfg(feature = "lab")]
const N_CHECKED: usize = 32;

/// The network of `--heatmaps`, checked to answer the rows of the study as the model does; none without the weights.
#[cfg(feature = "lab")]
fn weights(args: &Args, case: &Case) -> anyhow::Result<Option<Network>> {
    /// How far the weights' logits may be from the model's, beside the largest of them.
    const TOLERANCE: f32 = 1e-2;

    let Some(path) = &args.heatmaps else { return Ok(None) };
    let shown = path.display();
    let network = network(path)?;
    let (row_shape, n_classes) = (network.plan().row_shape(), network.plan().n_classes());
    let dataset = dataset(case)?;
    ensure!(
        dataset.row_shape() == row_shape && n_classes == case.target.n_classes(),
        "--heatmaps: {shown} takes rows of shape {row_shape:?} to {n_classes} classes, the data has {:?} and {}",
        dataset.row_shape(),
        case.target.n_classes()
    );
    ensure!(case.target.allows().logits, "--heatmaps: there are no scores of the model to hold {shown} against");
    // From both sides, so that a network is told that was trained on the same rows.
    let n_rows = case.target.n_rows();
    let places: Vec<usize> = (0..n_rows).step_by((n_rows / N_CHECKED).max(1)).collect();
    let rows: Vec<usize> = places.iter().map(|&place| case.target.dataset_rows()[place]).collect();
    let (of_model, of_weights) = (case.target.logits(), network.logits(dataset.batch(&rows)));
    for (&place, of_weights) in places.iter().zip(of_weights.rows()) {
        let model = of_model.row(place);
        let mean = |row: ndarray::ArrayView1<'_, f32>| row.sum() / n_classes as f32;
        let (a, b) = (mean(model), mean(of_weights));
        let largest = model.iter().fold(1.0_f32, |top, value| top.max((value - a).abs()));
        let differs = model.iter().zip(of_weights).any(|(m, w)| ((m - a) - (w - b)).abs() > TOLERANCE * largest);
        ensure!(!differs, "--heatmaps: {shown} holds the weights of another network than the model");
    }
    Ok(Some(network))
}

/// The map of each row; none without the weights.
#[cfg(feature = "lab")]
fn heat(
    args: &Args,
    case: &Case,
    images: &ArrayD<f32>,
    wanted: &[(usize, u32)],
) -> anyhow::Result<HashMap<usize, ndarray::Array2<f32>>> {
    let Some(network) = weights(args, case)? else { return Ok(HashMap::new()) };
    let classes: Vec<u32> = wanted.iter().map(|&(_, class)| class).collect();
    let maps = network.grad_cam(images.clone(), &classes).context("--heatmaps")?;
    Ok(wanted.iter().zip(maps.outer_iter()).map(|(&(row, _), map)| (row, map.to_owned())).collect())
}

/// Without the lab there are no gradients.
#[cfg(not(feature = "lab"))]
#[allow(clippy::unnecessary_wraps, reason = "the lab's own can fail")]
fn heat(
    _: &Args,
    _: &Case,
    _: &ArrayD<f32>,
    _: &[(usize, u32)],
) -> anyhow::Result<HashMap<usize, ndarray::Array2<f32>>> {
    Ok(HashMap::new())
}
