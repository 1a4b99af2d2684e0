//! Which rows an epoch sees, and in which order.

use anyhow::{Context, ensure};
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::Task;
use crate::lab::recipe::{Curriculum, Difficulty, Recipe};

/// Which rows which epoch sees: a function of recipe and rows, so that a resumed training finds it again.
pub(super) struct Order {
    n_rows: usize,
    shuffle: bool,
    /// The curriculum, and for each class the places of its rows, easiest first.
    curriculum: Option<(Curriculum, Vec<Vec<usize>>)>,
}

impl Order {
    pub(super) fn new(recipe: &Recipe, task: &Task<'_>) -> anyhow::Result<Self> {
        let curriculum = match recipe.curriculum {
            None => {
                let unused = "the task says how hard its rows are, and the recipe has no curriculum";
                ensure!(task.difficulty.is_none(), "{unused}");
                None
            }
            Some(curriculum) => Some((curriculum, easiest_first(task, &difficulty(curriculum.score, task)?))),
        };
        Ok(Self { n_rows: task.train.len(), shuffle: recipe.shuffle, curriculum })
    }

    /// How many rows `epoch` (from 0) sees.
    pub(super) fn n_rows(&self, epoch: usize) -> usize {
        match &self.curriculum {
            None => self.n_rows,
            Some((curriculum, classes)) => classes.iter().map(|class| seen(curriculum, epoch, class.len())).sum(),
        }
    }

    /// The places among the training rows that `epoch` sees, in their order; `rng` is that of the epoch.
    pub(super) fn places(&self, epoch: usize, rng: &mut ChaCha8Rng) -> Vec<usize> {
        let mut places: Vec<usize> = match &self.curriculum {
            None => (0..self.n_rows).collect(),
            Some((curriculum, classes)) => {
                let of_class = |class: &Vec<usize>| class[..seen(curriculum, epoch, class.len())].to_vec();
                let mut places: Vec<usize> = classes.iter().flat_map(of_class).collect();
                places.sort_unstable();
                places
            }
        };
        if self.shuffle {
            places.shuffle(rng);
        }
        places
    }
}

/// Rows of a class of `n_rows` that `epoch` sees.
fn seen(curriculum: &Curriculum, epoch: usize, n_rows: usize) -> usize {
    if epoch >= curriculum.epochs {
        return n_rows;
    }
    let share = curriculum.start + (1.0 - curriculum.start) * epoch as f64 / curriculum.epochs as f64;
    ((share * n_rows as f64).ceil() as usize).clamp(n_rows.min(1), n_rows)
}

fn difficulty(score: Difficulty, task: &Task<'_>) -> anyhow::Result<Vec<f64>> {
    match score {
        Difficulty::CentroidDistance => {
            ensure!(task.difficulty.is_none(), "a curriculum by centroid distance takes no numbers from elsewhere");
            Ok(centroid_distances(task))
        }
        Difficulty::Loss => task.difficulty.clone().context("a curriculum by loss needs the losses of a first model"),
        Difficulty::Given => task.difficulty.clone().context("a curriculum by given numbers needs the numbers"),
    }
}

/// The distance of each training row to the mean of its class; f64 sums.
fn centroid_distances(task: &Task<'_>) -> Vec<f64> {
    let dataset = task.dataset;
    let n_values: usize = dataset.row_shape().iter().product();
    let label = |row: usize| dataset.labels()[row] as usize;
    let mut sums = vec![vec![0.0f64; n_values]; dataset.n_classes()];
    let mut counts = vec![0usize; dataset.n_classes()];
    let each = |work: &mut dyn FnMut(usize, &[f32])| {
        for rows in task.train.chunks(256) {
            let batch = dataset.batch(rows);
            let values = batch.as_slice().expect("a batch lies in one piece");
            rows.iter().zip(values.chunks(n_values)).for_each(|(&row, values)| work(label(row), values));
        }
    };
    each(&mut |label, values| {
        counts[label] += 1;
        sums[label].iter_mut().zip(values).for_each(|(sum, &value)| *sum += f64::from(value));
    });
    for (sums, &count) in sums.iter_mut().zip(&counts) {
        sums.iter_mut().for_each(|sum| *sum /= count.max(1) as f64);
    }
    let mut distances = Vec::with_capacity(task.train.len());
    each(&mut |label, values| {
        let squares = sums[label].iter().zip(values).map(|(mean, &value)| (f64::from(value) - mean).powi(2));
        distances.push(squares.sum::<f64>().sqrt());
    });
    distances
}

/// For each class the places of its training rows, easiest first; of equally hard ones the first.
fn easiest_first(task: &Task<'_>, difficulty: &[f64]) -> Vec<Vec<usize>> {
    let mut classes = vec![vec![]; task.dataset.n_classes()];
    for (place, &row) in task.train.iter().enumerate() {
        classes[task.dataset.labels()[row] as usize].push(place);
    }
    for class in &mut classes {
        class.sort_by(|&a, &b| difficulty[a].total_cmp(&difficulty[b]));
    }
    classes
}

#[cfg(test)]
mod tests {
    use rand_chacha::rand_core::SeedableRng;

    use super::*;
    use crate::data::parse_table;
    use crate::lab::network::Architecture;

    fn recipe(curriculum: Option<Curriculum>, shuffle: bool) -> Recipe {
        Recipe { curriculum, shuffle, ..Recipe::plain(Architecture::fcn(), 6, 1) }
    }

    fn rng() -> ChaCha8Rng {
        ChaCha8Rng::seed_from_u64(1)
    }

    /// Class `a` at 0, 1, 2, 9 (mean 3), class `b` at 0, 0, 12 (mean 4).
    fn table() -> crate::data::Dataset {
        parse_table(b"a,0\na,1\na,2\na,9\nb,0\nb,0\nb,12\n").unwrap()
    }

    #[test]
    fn an_epoch_sees_the_easiest_rows_of_each_class_first_and_all_of_them_at_last() {
        let dataset = table();
        let task = Task::new(&dataset, (0..7).collect(), vec![]);
        let curriculum = Curriculum { score: Difficulty::CentroidDistance, start: 0.5, epochs: 2 };
        let order = Order::new(&recipe(Some(curriculum), false), &task).unwrap();
        // Distances: 3, 2, 1, 6 and 4, 4, 8.
        assert_eq!(order.places(0, &mut rng()), [1, 2, 4, 5]);
        assert_eq!(order.places(1, &mut rng()), [0, 1, 2, 4, 5, 6]);
        assert_eq!(order.places(2, &mut rng()), (0..7).collect::<Vec<_>>());
        assert_eq!([0, 1, 2, 9].map(|epoch| order.n_rows(epoch)), [4, 6, 7, 7]);
    }

    #[test]
    fn given_numbers_order_the_rows_and_are_asked_for() {
        let dataset = table();
        let mut task = Task::new(&dataset, (0..7).collect(), vec![]);
        let curriculum = Curriculum { score: Difficulty::Given, start: 0.25, epochs: 2 };
        let recipe = recipe(Some(curriculum), false);
        assert!(Order::new(&recipe, &task).err().unwrap().to_string().contains("needs the numbers"));
        task.difficulty = Some(vec![4.0, 3.0, 2.0, 1.0, 9.0, 8.0, 7.0]);
        assert_eq!(Order::new(&recipe, &task).unwrap().places(0, &mut rng()), [3, 6]);
    }

    #[test]
    fn rows_stay_in_their_order_where_they_are_not_shuffled() {
        let dataset = table();
        let task = Task::new(&dataset, (0..7).collect(), vec![]);
        let still = Order::new(&recipe(None, false), &task).unwrap();
        assert_eq!(still.places(0, &mut rng()), (0..7).collect::<Vec<_>>());
        let shuffled = Order::new(&recipe(None, true), &task).unwrap().places(0, &mut rng());
        assert_ne!(shuffled, (0..7).collect::<Vec<_>>());
    }
}
