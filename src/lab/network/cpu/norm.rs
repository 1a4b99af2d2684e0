//! Batch and group normalisation, there and back.

use rayon::prelude::*;

use super::layers::{sum, sum_by, wide};
use crate::lab::network::NORM_EPSILON;

/// Mean and variance of some values, the variance biased.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moments {
    pub(super) mean: f32,
    pub(super) variance: f32,
}

impl Moments {
    /// `1 / √(variance + ε)`.
    fn inverse(self) -> f32 {
        (f64::from(self.variance) + NORM_EPSILON).sqrt().recip() as f32
    }

    /// Of values that lie in pieces, one of the same length after the other.
    fn of<'a>(pieces: impl Iterator<Item = &'a [f32]> + Clone) -> Self {
        let n_values: usize = pieces.clone().map(<[f32]>::len).sum();
        let n_values = n_values.max(1) as f64;
        let mean = (pieces.clone().map(sum).sum::<f64>() / n_values) as f32;
        let square = |value: f32, _| (value - mean) * (value - mean);
        let variance = (pieces.map(|values| sum_by(values, values, square)).sum::<f64>() / n_values) as f32;
        Self { mean, variance }
    }
}

fn channel_length(values: &[f32], n_channels: usize) -> usize {
    (values.len() / n_channels.max(1)).max(1)
}

/// Each channel to mean 0 and variance 1 over the batch, then scaled and shifted.
pub(super) fn batch(values: &[f32], scale: &[f32], shift: &[f32]) -> (Vec<f32>, Vec<Moments>) {
    let length = channel_length(values, scale.len());
    let mut normal = vec![0.0; values.len()];
    let channels = normal.par_chunks_mut(length).zip(values.par_chunks(length)).zip(scale.par_iter().zip(shift));
    let moments = channels.map(|((normal, values), (&scale, &shift))| {
        wide(|| {
            let moments = Moments::of(std::iter::once(values));
            let factor = scale * moments.inverse();
            for (normal, value) in normal.iter_mut().zip(values) {
                *normal = (value - moments.mean) * factor + shift;
            }
            moments
        })
    });
    let moments = moments.collect();
    (normal, moments)
}

/// The same with the running statistics: one product and one sum a value.
pub(super) fn batch_in_evaluation(
    mut values: Vec<f32>,
    scale: &[f32],
    shift: &[f32],
    mean: &[f32],
    variance: &[f32],
) -> Vec<f32> {
    let length = channel_length(&values, scale.len());
    values.par_chunks_mut(length).enumerate().for_each(|(channel, values)| {
        let moments = Moments { mean: mean[channel], variance: variance[channel] };
        let factor = scale[channel] * moments.inverse();
        let offset = shift[channel] - moments.mean * factor;
        wide(|| values.iter_mut().for_each(|value| *value = *value * factor + offset));
    });
    values
}

/// The derivatives by the values, the scale and the shift.
///
/// With `x̂` the normalised value, `m` their number and `d` the derivative by the outcome: `Σ d` by the shift,
/// `Σ d x̂` by the scale, `scale / √(v + ε) · (d − Σ d / m − x̂ Σ d x̂ / m)` by the value.
pub(super) fn batch_back(
    mut derivative: Vec<f32>,
    values: &[f32],
    moments: &[Moments],
    scale: &[f32],
) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let length = channel_length(values, scale.len());
    let channels = derivative.par_chunks_mut(length).zip(values.par_chunks(length));
    let channels = channels.zip(moments.par_iter().zip(scale));
    let sums: Vec<(f32, f32)> = channels
        .map(|((derivative, values), (&moments, &scale))| {
            wide(|| {
                let (mean, inverse) = (moments.mean, moments.inverse());
                let by_shift = sum(derivative);
                let by_scale = sum_by(derivative, values, |d, value| d * (value - mean)) * f64::from(inverse);
                let n_values = values.len() as f64;
                let (a, b) = ((by_shift / n_values) as f32, (by_scale / n_values) as f32 * inverse);
                let factor = scale * inverse;
                for (d, value) in derivative.iter_mut().zip(values) {
                    *d = factor * (*d - a - (value - mean) * b);
                }
                (by_scale as f32, by_shift as f32)
            })
        })
        .collect();
    let (by_scale, by_shift) = sums.into_iter().unzip();
    (derivative, by_scale, by_shift)
}

/// The pieces of one row in the channels of a group: `group` holds `(channels, n_rows, places)`.
fn pieces(group: &[f32], row: usize, n_rows: usize, places: usize) -> impl Iterator<Item = &[f32]> + Clone {
    group.chunks(n_rows * places).map(move |channel| &channel[row * places..(row + 1) * places])
}

/// Each group of channels of each row to mean 0 and variance 1, then scaled and shifted a channel.
pub(super) fn group(
    values: &[f32],
    n_rows: usize,
    groups: usize,
    scale: &[f32],
    shift: &[f32],
) -> (Vec<f32>, Vec<Moments>) {
    let places = channel_length(values, scale.len() * n_rows);
    let in_group = scale.len() / groups;
    let length = in_group * n_rows * places;
    let mut normal = vec![0.0; values.len()];
    let by_group = normal.par_chunks_mut(length).zip(values.par_chunks(length));
    let by_group = by_group.zip(scale.par_chunks(in_group).zip(shift.par_chunks(in_group)));
    let moments: Vec<Vec<Moments>> = by_group
        .map(|((normal, values), (scale, shift))| {
            wide(|| {
                let moments: Vec<Moments> =
                    (0..n_rows).map(|row| Moments::of(pieces(values, row, n_rows, places))).collect();
                for (line, (normal, values)) in normal.chunks_mut(places).zip(values.chunks(places)).enumerate() {
                    let (channel, row) = (line / n_rows, line % n_rows);
                    let factor = scale[channel] * moments[row].inverse();
                    for (normal, value) in normal.iter_mut().zip(values) {
                        *normal = (value - moments[row].mean) * factor + shift[channel];
                    }
                }
                moments
            })
        })
        .collect();
    (normal, moments.concat())
}

/// The derivatives by the values, the scale and the shift; as [`batch_back`], each group of each row for itself, with
/// the derivatives times the scale of their channel in the place of `d`.
pub(super) fn group_back(
    mut derivative: Vec<f32>,
    values: &[f32],
    moments: &[Moments],
    n_rows: usize,
    scale: &[f32],
) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let groups = moments.len() / n_rows.max(1);
    let places = channel_length(values, scale.len() * n_rows);
    let in_group = scale.len() / groups.max(1);
    let length = in_group * n_rows * places;
    let by_group = derivative.par_chunks_mut(length).zip(values.par_chunks(length));
    let by_group = by_group.zip(moments.par_chunks(n_rows).zip(scale.par_chunks(in_group)));
    let sums: Vec<Vec<(f32, f32)>> = by_group
        .map(|((d, values), (moments, scale))| wide(|| one_group_back(d, values, moments, places, scale)))
        .collect();
    let (by_scale, by_shift) = sums.into_iter().flatten().unzip();
    (derivative, by_scale, by_shift)
}

/// One group of channels, all rows; the derivatives by scale and shift of each of its channels.
fn one_group_back(
    derivative: &mut [f32],
    values: &[f32],
    moments: &[Moments],
    places: usize,
    scale: &[f32],
) -> Vec<(f32, f32)> {
    let n_rows = moments.len();
    // Σ d x̂ and Σ d of each channel of each row.
    let lines = derivative.chunks(places).zip(values.chunks(places)).enumerate();
    let sums: Vec<(f64, f64)> = lines
        .map(|(line, (derivative, values))| {
            let Moments { mean, .. } = moments[line % n_rows];
            let inverse = f64::from(moments[line % n_rows].inverse());
            (sum_by(derivative, values, |d, value| d * (value - mean)) * inverse, sum(derivative))
        })
        .collect();
    let n_values = (places * scale.len()) as f64;
    let means: Vec<(f32, f32)> = (0..n_rows)
        .map(|row| {
            let of_row = scale.iter().enumerate().map(|(channel, &scale)| {
                let (by_scale, by_shift) = sums[channel * n_rows + row];
                (f64::from(scale) * by_scale, f64::from(scale) * by_shift)
            });
            let (product, plain) = of_row.fold((0.0, 0.0), |sum, next| (sum.0 + next.0, sum.1 + next.1));
            ((product / n_values) as f32, (plain / n_values) as f32)
        })
        .collect();
    for (line, (derivative, values)) in derivative.chunks_mut(places).zip(values.chunks(places)).enumerate() {
        let (channel, row) = (line / n_rows, line % n_rows);
        let (mean, inverse) = (moments[row].mean, moments[row].inverse());
        let (b, a) = (means[row].0 * inverse, means[row].1);
        for (d, value) in derivative.iter_mut().zip(values) {
            *d = inverse * (*d * scale[channel] - a - (value - mean) * b);
        }
    }
    let of_channel = sums.chunks(n_rows.max(1)).map(|rows| {
        let (by_scale, by_shift) = rows.iter().fold((0.0, 0.0), |sum, next| (sum.0 + next.0, sum.1 + next.1));
        (by_scale as f32, by_shift as f32)
    });
    of_channel.collect()
}
