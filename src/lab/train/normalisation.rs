//! The constants that rows are normalised with.

use super::Task;
use crate::lab::network::{Normalisation, Plan};
use crate::lab::recipe::{Normalise, Recipe};

/// The plan of a recipe's network for these rows.
pub(super) fn plan_for(recipe: &Recipe, task: &Task<'_>) -> anyhow::Result<Plan> {
    let normalisation = normalisation(&recipe.normalise, task);
    let (row_shape, n_classes) = (task.dataset.row_shape(), task.dataset.n_classes());
    Ok(recipe.network.plan(row_shape, n_classes, normalisation.as_ref())?)
}

/// The constants; deviations of 0 become 1, those of single values 1/255 at least.
fn normalisation(normalise: &Normalise, task: &Task<'_>) -> Option<Normalisation> {
    let each_value = match normalise {
        Normalise::None | Normalise::Cifar10 | Normalise::Constants(_) => return normalise.constants(),
        Normalise::TrainingRows => false,
        Normalise::EachValue => true,
    };
    let row_shape = task.dataset.row_shape();
    let n_values: usize = row_shape.iter().product();
    let together = if each_value { 1 } else { n_values / row_shape[0] };
    let (mut sums, mut squares) = (vec![0.0f64; n_values], vec![0.0f64; n_values]);
    for rows in task.train.chunks(256) {
        for (place, &value) in task.dataset.batch(rows).iter().enumerate() {
            let value = f64::from(value);
            sums[place % n_values] += value;
            squares[place % n_values] += value * value;
        }
    }
    let count = (task.train.len() * together) as f64;
    let mut constants = Normalisation { mean: vec![], deviation: vec![] };
    for (sums, squares) in sums.chunks(together).zip(squares.chunks(together)) {
        let mean = sums.iter().sum::<f64>() / count;
        let deviation = (squares.iter().sum::<f64>() / count - mean * mean).max(0.0).sqrt();
        let deviation = match (each_value, deviation) {
            (true, deviation) => deviation.max(1.0 / 255.0),
            (false, 0.0) => 1.0,
            (false, deviation) => deviation,
        };
        constants.mean.push(mean as f32);
        constants.deviation.push(deviation as f32);
    }
    Some(constants)
}
