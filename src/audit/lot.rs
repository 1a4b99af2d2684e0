//! Membership by lot: do members and non-members differ in anything *but* membership?
//!
//! If the two sets come from two places (two years, two sources, a filter) then any attack may learn the places and
//! call it membership. No model is needed to see that: a classifier on the inputs and their labels alone, cross-fitted
//! in two halves, must be at chance. Where it is not, every figure of the audit is in doubt, in either direction, and
//! the report says so in red. At chance it does not prove that the lot was fair; it says that these classifiers saw
//! no difference in these features.

use ndarray::{Array2, ArrayView1, Axis};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use crate::audit::interval::{Estimate, Placements};
use crate::audit::learned::{Network, NetworkSettings, Scale, Trees, balanced};
use crate::audit::parallel;
use crate::audit::roc::Ranking;
use crate::audit::words::counted;
use crate::data::Dataset;

/// At most so many rows of either side are looked at.
const MAX_ROWS: usize = 4_000;
/// Images are averaged down to so many cells a side.
const GRID: usize = 6;
/// Tables of more columns are projected onto so many random directions.
const MAX_COLUMNS: usize = 512;
/// With more classes than this the label is no feature.
const MAX_CLASSES: usize = 128;
/// The level at which a difference is called one, shared by the classifiers.
const LEVEL: f64 = 0.99;

/// What was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Lot {
    /// Members looked at.
    pub n_members: usize,
    /// Non-members looked at.
    pub n_non_members: usize,
    /// What the classifiers saw, in words.
    pub features: String,
    /// One entry for each classifier.
    pub classifiers: Vec<LotClassifier>,
    /// Some classifier tells the two sides apart without any model.
    pub differs: bool,
}

/// What one classifier reached on rows that it was not trained on.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LotClassifier {
    /// Its name.
    pub name: &'static str,
    /// Area under the curve with DeLong's interval, at a level that holds for all classifiers together.
    pub auc: Estimate,
}

impl Lot {
    /// In words, for the report.
    #[must_use]
    pub fn words(&self) -> String {
        let best = self.classifiers.iter().map(|one| one.auc.value).fold(0.0, f64::max);
        if self.differs {
            format!(
                "members and non-members differ in their inputs: without any model a classifier tells them apart with \
                 an AUC of {best:.3}, so every figure here may measure that difference and not membership"
            )
        } else {
            format!(
                "without any model, classifiers of inputs and labels do not tell members from non-members (AUC at most \
                 {best:.3})"
            )
        }
    }
}

/// Looks at rows `members` and `non_members` of a data set.
///
/// # Errors
/// A sentence, when a side has fewer than ten rows or a classifier cannot be fitted.
pub fn check(dataset: &Dataset, members: &[usize], non_members: &[usize], seed: u64) -> Result<Lot, String> {
    if members.len() < 10 || non_members.len() < 10 {
        return Err(format!(
            "{} and {}: at least ten of each are needed",
            counted(members.len(), "member"),
            counted(non_members.len(), "non-member")
        ));
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut drawn = |rows: &[usize]| {
        let mut rows = rows.to_vec();
        rows.shuffle(&mut rng);
        rows.truncate(MAX_ROWS);
        rows
    };
    let (members, non_members) = (drawn(members), drawn(non_members));
    let rows: Vec<usize> = members.iter().chain(&non_members).copied().collect();
    let memberships: Vec<bool> = (0..rows.len()).map(|place| place < members.len()).collect();
    let (features, words) = features(dataset, &rows, seed);
    let kinds = ["logistic", "trees"];
    let level = 1.0 - (1.0 - LEVEL) / kinds.len() as f64;
    let scored = parallel::map(kinds.len(), |kind| cross_fitted(kinds[kind], &features, &memberships, seed));
    let mut classifiers = Vec::new();
    for (name, scores) in kinds.into_iter().zip(scored) {
        let placements = Ranking::new(&scores?).and_then(|ranking| Placements::new(&ranking, &memberships));
        classifiers.push(LotClassifier { name, auc: placements.map_err(|error| error.to_string())?.auc(level) });
    }
    Ok(Lot {
        n_members: members.len(),
        n_non_members: non_members.len(),
        features: words,
        differs: classifiers.iter().any(|one| one.auc.low > 0.5),
        classifiers,
    })
}

/// Log-odds of every row by a classifier that was trained on the other half.
fn cross_fitted(kind: &str, features: &Array2<f32>, memberships: &[bool], seed: u64) -> Result<Vec<f64>, String> {
    let n_members = memberships.iter().filter(|&&member| member).count();
    // The rows stand in random order within each side.
    let half = |place: usize| (if place < n_members { place } else { place - n_members }) % 2;
    let mut scores = vec![0.0; memberships.len()];
    for test in 0..2 {
        let (held, train): (Vec<usize>, Vec<usize>) = (0..memberships.len()).partition(|&place| half(place) == test);
        let of_train: Vec<bool> = train.iter().map(|&place| memberships[place]).collect();
        let train = features.select(Axis(0), &train);
        let scale = Scale::of(&train);
        let (train, rows) = (scale.apply(train), scale.apply(features.select(Axis(0), &held)));
        let weights = balanced(&of_train)?;
        let of_held = if kind == "trees" {
            Trees::fit(&train, &of_train, &weights, seed)?.scores(&rows)
        } else {
            Network::fit(&train, &of_train, &weights, &NetworkSettings::logistic(seed)).scores(&rows)
        };
        held.iter().zip(of_held).for_each(|(&place, score)| scores[place] = score);
    }
    Ok(scores)
}

/// What the classifiers see: shape (rows, features).
fn features(dataset: &Dataset, rows: &[usize], seed: u64) -> (Array2<f32>, String) {
    let n_classes = dataset.n_classes();
    let with_label = n_classes <= MAX_CLASSES;
    let label = if with_label { " and the label" } else { "" };
    let is_image = matches!(dataset.row_shape(), [channels, height, width]
        if *channels <= 4 && *height >= GRID && *width >= GRID);
    let width: usize = dataset.row_shape().iter().product();
    let directions = (!is_image && width > MAX_COLUMNS).then(|| directions(width, seed));
    let of_row = |row: usize| {
        let values = dataset.batch(&[row]);
        let flat: Vec<f32> = values.iter().copied().collect();
        let mut out = match (&directions, is_image) {
            (_, true) => image(&flat, dataset.row_shape()),
            (Some(directions), _) => directions.dot(&ArrayView1::from(&flat)).to_vec(),
            (None, _) => flat,
        };
        if with_label {
            let label = dataset.labels()[row] as usize;
            out.extend((0..n_classes).map(|class| f32::from(u8::from(class == label))));
        }
        out
    };
    let table: Vec<Vec<f32>> = rows.iter().map(|&row| of_row(row)).collect();
    let n_features = table.first().map_or(0, Vec::len);
    let features = Array2::from_shape_fn((rows.len(), n_features), |(row, column)| table[row][column]);
    let words = if is_image {
        format!("means of {GRID} × {GRID} cells, means, deviations and roughness of each channel{label}")
    } else if directions.is_some() {
        format!("{MAX_COLUMNS} random projections of {width} columns{label}")
    } else {
        format!("all {width} columns{label}")
    };
    (features, words)
}

fn directions(width: usize, seed: u64) -> Array2<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(1);
    Array2::from_shape_fn((MAX_COLUMNS, width), |_| if rng.random::<bool>() { 1.0 } else { -1.0 })
}

/// Cell means, and for each channel mean, deviation and the mean step between neighbours.
fn image(values: &[f32], shape: &[usize]) -> Vec<f32> {
    let (channels, height, width) = (shape[0], shape[1], shape[2]);
    let mut out = Vec::with_capacity(channels * (GRID * GRID + 3));
    for channel in values.chunks(height * width).take(channels) {
        let at = |y: usize, x: usize| f64::from(channel[y * width + x]);
        for cell in 0..GRID * GRID {
            let range = |place: usize, size: usize| place * size / GRID..(place + 1) * size / GRID;
            let (ys, xs) = (range(cell / GRID, height), range(cell % GRID, width));
            let n = (ys.len() * xs.len()) as f64;
            out.push((ys.flat_map(|y| xs.clone().map(move |x| (y, x))).map(|(y, x)| at(y, x)).sum::<f64>() / n) as f32);
        }
        let n = channel.len() as f64;
        let mean = channel.iter().map(|&value| f64::from(value)).sum::<f64>() / n;
        let square = channel.iter().map(|&value| (f64::from(value) - mean).powi(2)).sum::<f64>() / n;
        let steps =
            (0..height).flat_map(|y| (1..width).map(move |x| (y, x))).map(|(y, x)| (at(y, x) - at(y, x - 1)).abs());
        out.extend([mean as f32, square.sqrt() as f32, (steps.sum::<f64>() / n) as f32]);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::parse_table;

    /// A table whose first 300 rows have their second column moved by `shift`.
    fn table(shift: f32) -> Dataset {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let mut text = String::new();
        for row in 0..600 {
            let moved = if row < 300 { shift } else { 0.0 };
            let (label, a, b) = (row % 3, rng.random::<f32>(), rng.random::<f32>() + moved);
            text.push_str(&format!("{label},{a},{b}\n"));
        }
        parse_table(text.as_bytes()).unwrap()
    }

    fn sides() -> (Vec<usize>, Vec<usize>) {
        ((0..300).collect(), (300..600).collect())
    }

    #[test]
    fn sides_that_differ_in_a_column_are_seen_without_a_model() {
        let (members, non_members) = sides();
        let found = check(&table(0.5), &members, &non_members, 1).unwrap();
        assert!(found.differs && found.words().contains("differ in their inputs"), "{found:?}");
        assert!(found.classifiers.iter().all(|one| one.auc.value > 0.75), "{found:?}");
    }

    #[test]
    fn sides_drawn_by_lot_are_at_chance() {
        let (members, non_members) = sides();
        let found = check(&table(0.0), &members, &non_members, 1).unwrap();
        assert!(!found.differs, "{found:?}");
        // And whichever way the rows are dealt.
        let (even, odd): (Vec<usize>, Vec<usize>) = (0..600).partition(|row| row % 2 == 0);
        assert!(!check(&table(0.0), &even, &odd, 2).unwrap().differs);
    }

    #[test]
    fn another_mix_of_labels_is_seen() {
        let data = table(0.0);
        let (members, non_members): (Vec<usize>, Vec<usize>) =
            (0..600).partition(|&row| data.labels()[row] == 0 || row % 4 == 0);
        assert!(check(&data, &members, &non_members, 1).unwrap().differs);
    }

    #[test]
    fn too_few_rows_are_refused() {
        assert!(check(&table(0.0), &[1, 2], &[3, 4], 1).unwrap_err().contains("at least ten"));
    }

    #[test]
    fn an_image_is_its_cells_and_its_roughness() {
        let flat = image(&[0.5; 64], &[1, 8, 8]);
        assert_eq!(flat.len(), GRID * GRID + 3);
        assert!(flat[..=GRID * GRID].iter().all(|&value| (value - 0.5).abs() < 1e-6));
        assert_eq!(flat[GRID * GRID + 1..], [0.0, 0.0]);
        let stripes: Vec<f32> = (0..64).map(|pixel| (pixel % 2) as f32).collect();
        assert!(image(&stripes, &[1, 8, 8])[GRID * GRID + 2] > 0.8);
    }
}
