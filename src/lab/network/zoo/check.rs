//! Which numbers make a network: whatever a recipe file says, building one ends in a network or in an error.

use super::{Architecture, MAX_WIDTH, NetworkError, Normalisation};
use crate::lab::network::plan::Plan;

/// No network has more weights: 1 GiB in `f32`, to which a training adds its gradients and the optimizer's state.
pub const MAX_PARAMETERS: usize = 1 << 28;
/// No network has more values between its layers for one row: 512 MiB in `f32`.
pub const MAX_VALUES: usize = 1 << 27;
/// No network has more layers of one kind.
const MAX_DEPTH: usize = 1_024;

fn number<T>(what: &'static str, expected: &'static str, got: String) -> Result<T, NetworkError> {
    Err(NetworkError::Number { what, expected, got })
}

/// Rows of one or three dimensions with something in each, and classes to tell apart.
pub(super) fn rows(row_shape: &[usize], n_classes: usize) -> Result<(), NetworkError> {
    let n_values = row_shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size)).unwrap_or(usize::MAX);
    if !matches!(row_shape.len(), 1 | 3) || n_values == 0 || n_values > MAX_VALUES {
        let expected = "[features] or [channels, height, width] of at least one value, at most 2^27";
        return number("rows", expected, format!("{row_shape:?}"));
    }
    if n_classes == 0 || n_classes > MAX_WIDTH {
        return number("classes", "1 to 65536", n_classes.to_string());
    }
    Ok(())
}

/// As many constants as there are channels or values, all of them finite, nothing divided by zero.
pub(super) fn normalisation(constants: &Normalisation, row_shape: &[usize]) -> Result<(), NetworkError> {
    let Normalisation { mean, deviation } = constants;
    let n_values: usize = row_shape.iter().product();
    if mean.len() != deviation.len() || !(mean.len() == n_values || mean.len() == row_shape[0]) {
        let expected = "one mean and one deviation a channel, or one of each a value of a row";
        let got = format!("{} and {} for rows of shape {row_shape:?}", mean.len(), deviation.len());
        return number("normalisation", expected, got);
    }
    if let Some(mean) = mean.iter().find(|mean| !mean.is_finite()) {
        return number("normalisation", "means that are finite", mean.to_string());
    }
    // The reciprocal is what rows are multiplied with.
    match deviation.iter().find(|deviation| !(deviation.is_finite() && deviation.recip().is_finite())) {
        Some(deviation) => number("normalisation", "deviations that are finite and not 0", deviation.to_string()),
        None => Ok(()),
    }
}

/// The numbers of an architecture, for rows that passed [`rows`].
pub(super) fn numbers(architecture: &Architecture, row_shape: &[usize]) -> Result<(), NetworkError> {
    let (widths, least): (Vec<usize>, Option<usize>) = match architecture {
        Architecture::Cnn { channels, hidden } => (channels.iter().chain([hidden]).copied().collect(), Some(4)),
        Architecture::Mlp { hidden, .. } => {
            hidden_layers(hidden)?;
            (hidden.clone(), None)
        }
        Architecture::Convnet { channels, side, hidden, .. } => {
            if side % 2 == 0 || *side > 31 {
                return number("side", "an odd number up to 31", side.to_string());
            }
            if channels.is_empty() || channels.len() > 12 {
                return number("channels", "1 to 12 blocks", channels.len().to_string());
            }
            hidden_layers(hidden)?;
            (channels.iter().chain(hidden).copied().collect(), Some(1 << channels.len()))
        }
        Architecture::Densenet { depth, growth, compression, .. } => {
            if *depth < 10 || *depth > MAX_DEPTH || !(depth - 4).is_multiple_of(6) {
                return number("depth", "6 n + 4, from 10 to 1024", depth.to_string());
            }
            if !(*compression > 0.0 && *compression <= 1.0) {
                return number("compression", "above 0, at most 1", compression.to_string());
            }
            (vec![*growth, growth.saturating_mul(*depth)], Some(4))
        }
        Architecture::Resnet { blocks, width, .. } => {
            if blocks.is_empty() || blocks.len() > 6 || blocks.iter().any(|&n| n == 0 || n > MAX_DEPTH) {
                return number("blocks", "1 to 6 stages of 1 to 1024 blocks", format!("{blocks:?}"));
            }
            (vec![*width, width.saturating_mul(1 << (blocks.len() - 1))], Some(1 << (blocks.len() - 1)))
        }
        Architecture::Resnet9 { width, .. } => (vec![*width, width.saturating_mul(8)], Some(8)),
        Architecture::MlLeaks => (vec![], Some(12)),
    };
    if let Some(&width) = widths.iter().find(|&&width| width == 0 || width > MAX_WIDTH) {
        return Err(NetworkError::Width(width));
    }
    let fits = |least: usize| matches!(row_shape, &[_, height, width] if height >= least && width >= least);
    match least {
        Some(least) if !fits(least) => {
            Err(NetworkError::NotImages { network: architecture.to_string(), least, got: row_shape.to_vec() })
        }
        _ => Ok(()),
    }
}

fn hidden_layers(hidden: &[usize]) -> Result<(), NetworkError> {
    if hidden.len() > MAX_DEPTH {
        return number("hidden", "at most 1024 layers", hidden.len().to_string());
    }
    Ok(())
}

/// A plan holds no weights yet: what they would take is known before any memory is asked for.
pub(super) fn size(architecture: &Architecture, plan: &Plan) -> Result<(), NetworkError> {
    let sum = |sizes: &mut dyn Iterator<Item = &Vec<usize>>| {
        sizes.fold(0usize, |sum, shape| {
            sum.saturating_add(shape.iter().fold(1usize, |product, &size| product.saturating_mul(size)))
        })
    };
    let n_parameters = sum(&mut plan.parameters().iter().map(|parameter| &parameter.shape));
    let n_values = sum(&mut plan.steps().iter().map(|step| &step.shape));
    for (what, most, got) in
        [("weights", MAX_PARAMETERS, n_parameters), ("values between the layers for one row", MAX_VALUES, n_values)]
    {
        if got > most {
            return Err(NetworkError::TooLarge { network: architecture.to_string(), what, most, got });
        }
    }
    Ok(())
}
