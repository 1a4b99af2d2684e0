//! The defences, seen through whole trainings: each does something, and each goes on after an interruption as if there
//! had been none.

use std::sync::atomic::{AtomicBool, Ordering};

use ndarray::Array2;

use super::*;
use crate::data::{Dataset, parse_table};
use crate::lab::network::{Activation, Architecture, Norm};
use crate::lab::onnx;
use crate::lab::recipe::{
    Augmentation, Curriculum, Difficulty, Distillation, DropoutRates, EarlyStopping, LabelSmoothing, Mixup,
    OptimizerKind, RelaxLoss, SmoothingForm, StopBy,
};

/// Ninety rows of three classes, four numbers each; every seventh row bears a wrong label, which can only be learned by
/// heart.
fn table() -> Dataset {
    let mut text = String::new();
    for row in 0..90usize {
        let label = row % 3;
        let values = (0..4).map(|column| {
            let noise = ((row * 37 + column * 101) % 97) as f32 / 97.0 - 0.5;
            format!(",{:.3}", if column == label { 1.0 + noise } else { noise })
        });
        let written = if row % 7 == 0 { (label + 1) % 3 } else { label };
        text += &format!("c{written}{}\n", values.collect::<String>());
    }
    parse_table(text.as_bytes()).unwrap()
}

/// Thirty images of 1×8×8 in two classes.
fn images() -> (tempfile::TempDir, Dataset) {
    let dir = tempfile::tempdir().unwrap();
    for row in 0..30u8 {
        let folder = dir.path().join(["a", "b"][usize::from(row % 2)]);
        std::fs::create_dir_all(&folder).unwrap();
        let pixels: Vec<u8> = (0..64u8).map(|pixel| pixel.wrapping_mul(row).wrapping_add((row % 2) * pixel)).collect();
        image::GrayImage::from_raw(8, 8, pixels).unwrap().save(folder.join(format!("{row:03}.png"))).unwrap();
    }
    let source = format!("folder:{}", dir.path().display()).parse().unwrap();
    let dataset = Dataset::load(&source).unwrap();
    (dir, dataset)
}

fn task(dataset: &Dataset) -> Task<'_> {
    let n_train = dataset.n_rows() * 2 / 3;
    Task::new(dataset, (0..n_train).collect(), (n_train..dataset.n_rows()).collect())
}

fn plain() -> Recipe {
    let network = Architecture::Mlp { hidden: vec![8], activation: Activation::Tanh };
    Recipe { batch_size: 16, learning_rate: 1e-2, ..Recipe::plain(network, 4, 3) }
}

fn plain_cnn() -> Recipe {
    let network = Architecture::Convnet {
        channels: vec![4],
        side: 3,
        norm: Norm::Batch,
        hidden: vec![8],
        activation: Activation::Relu,
    };
    Recipe { network, batch_size: 7, ..plain() }
}

fn new<'a>(task: &Task<'a>, recipe: &Recipe) -> Trainer<'a> {
    Trainer::new(task.clone(), recipe.clone(), &Device::Cpu.open().unwrap()).unwrap()
}

fn export(trainer: &Trainer<'_>) -> Vec<u8> {
    onnx::export(&trainer.network(), trainer.task().dataset.class_names(), onnx::Export::default())
}

fn train(task: &Task<'_>, recipe: &Recipe) -> Vec<u8> {
    let mut trainer = new(task, recipe);
    assert_eq!(trainer.run(&AtomicBool::new(false), &mut ()).unwrap(), Outcome::Finished);
    export(&trainer)
}

/// Raises a flag after a number of steps.
struct StopAfter<'a>(usize, &'a AtomicBool);

impl Watcher for StopAfter<'_> {
    fn step(&mut self, _: StepReport) {
        self.0 = self.0.saturating_sub(1);
        self.1.store(self.0 == 0, Ordering::Relaxed);
    }
    fn epoch(&mut self, _: &EpochScore, _: &Trainer<'_>) -> anyhow::Result<()> {
        Ok(())
    }
}

/// Trains with an interruption after each of these numbers of steps.
fn train_in_pieces(task: &Task<'_>, recipe: &Recipe, pieces: &[usize]) -> Vec<u8> {
    let mut trainer = new(task, recipe);
    for &steps in pieces {
        let stop = AtomicBool::new(false);
        if trainer.run(&stop, &mut StopAfter(steps, &stop)).unwrap() == Outcome::Finished {
            break;
        }
        let checkpoint = trainer.checkpoint().unwrap();
        let device = Device::Cpu.open().unwrap();
        trainer = Trainer::resume(task.clone(), recipe.clone(), &device, &checkpoint).unwrap();
    }
    assert_eq!(trainer.run(&AtomicBool::new(false), &mut ()).unwrap(), Outcome::Finished);
    export(&trainer)
}

/// A defence that does nothing gives the plain model; one that is resumed wrongly gives another than in one piece.
fn does_something_and_resumes(name: &str, task: &Task<'_>, plain: &Recipe, recipe: &Recipe) {
    let whole = train(task, recipe);
    assert!(whole == train(task, recipe), "{name} is not deterministic");
    assert!(whole == train_in_pieces(task, recipe, &[1, 4, 3]), "{name} is lost by an interruption");
    assert!(whole != train(&Task { difficulty: None, teacher: None, ..task.clone() }, plain), "{name} does nothing");
}

#[test]
fn every_defence_does_something_and_outlives_an_interruption() {
    let dataset = table();
    let task = task(&dataset);
    let defences = [
        ("weight decay", Recipe { weight_decay: 1e-2, ..plain() }),
        ("decoupled weight decay", Recipe { decoupled_weight_decay: 1e-1, ..plain() }),
        ("input dropout", Recipe { dropout: DropoutRates { input: 0.3, hidden: 0.0 }, ..plain() }),
        ("hidden dropout", Recipe { dropout: DropoutRates { input: 0.0, hidden: 0.3 }, ..plain() }),
        (
            "label smoothing",
            Recipe { label_smoothing: Some(LabelSmoothing { epsilon: 0.1, form: SmoothingForm::All }), ..plain() },
        ),
        ("mixup", Recipe { mixup: Some(Mixup { alpha: 1.0 }), ..plain() }),
        (
            "curriculum",
            Recipe {
                curriculum: Some(Curriculum { score: Difficulty::CentroidDistance, start: 0.3, epochs: 3 }),
                ..plain()
            },
        ),
        ("confidence penalty", Recipe { confidence_penalty: 0.2, ..plain() }),
        ("RelaxLoss", Recipe { relax_loss: Some(RelaxLoss { alpha: 2.0, upper: 1.0 }), ..plain() }),
        ("a fixed order", Recipe { shuffle: false, ..plain() }),
        ("SGD", Recipe { optimizer: OptimizerKind::Sgd { momentum: 0.9 }, ..plain() }),
    ];
    for (name, recipe) in defences {
        does_something_and_resumes(name, &task, &plain(), &recipe);
    }
}

#[test]
fn a_teacher_and_given_difficulties_do_something_and_outlive_an_interruption() {
    let dataset = table();
    let mut task = task(&dataset);
    task.teacher = Some(Array2::from_shape_fn((60, 3), |(row, class)| if row % 3 == class { 0.6 } else { 0.2 }));
    let recipe = Recipe { distillation: Some(Distillation { temperature: 2.0, weight: 0.5 }), ..plain() };
    does_something_and_resumes("distillation", &task, &plain(), &recipe);
    does_something_and_resumes("a teacher alone", &task, &plain(), &plain());
    assert!(train(&task, &recipe) != train(&task, &plain()), "the weight of the teacher does nothing");

    task.teacher = None;
    task.difficulty = Some((0..60).map(|row| f64::from(row * 7 % 60)).collect());
    let curriculum = Some(Curriculum { score: Difficulty::Given, start: 0.3, epochs: 3 });
    does_something_and_resumes("given difficulty", &task, &plain(), &Recipe { curriculum, ..plain() });
}

#[test]
fn augmentation_does_something_and_outlives_an_interruption_and_is_for_images() {
    let (_dir, dataset) = images();
    let task = task(&dataset);
    for (name, augmentation) in [
        ("flip", Augmentation { flip: true, ..Augmentation::default() }),
        ("shift", Augmentation { shift: 1, ..Augmentation::default() }),
        ("rotate", Augmentation { rotate: 20.0, ..Augmentation::default() }),
        ("scale", Augmentation { scale: 0.2, ..Augmentation::default() }),
    ] {
        does_something_and_resumes(name, &task, &plain_cnn(), &Recipe { augmentation, ..plain_cnn() });
    }
    let dataset = table();
    let augmentation = Augmentation { flip: true, ..Augmentation::default() };
    let refused = Trainer::new(self::task(&dataset), Recipe { augmentation, ..plain() }, &Device::Cpu.open().unwrap());
    assert!(refused.err().unwrap().to_string().contains("augmentation is for images"));
}

#[test]
fn all_of_them_together_outlive_an_interruption() {
    let (_dir, dataset) = images();
    let mut task = task(&dataset);
    task.teacher = Some(Array2::from_elem((20, 2), 0.5));
    let recipe = Recipe {
        epochs: 6,
        weight_decay: 1e-3,
        decoupled_weight_decay: 1e-3,
        dropout: DropoutRates { input: 0.1, hidden: 0.2 },
        label_smoothing: Some(LabelSmoothing { epsilon: 0.1, form: SmoothingForm::Others }),
        early_stopping: Some(EarlyStopping { patience: 2, by: StopBy::Loss }),
        augmentation: Augmentation { flip: true, shift: 1, rotate: 5.0, scale: 0.1 },
        mixup: Some(Mixup { alpha: 0.4 }),
        curriculum: Some(Curriculum { score: Difficulty::CentroidDistance, start: 0.5, epochs: 2 }),
        confidence_penalty: 0.1,
        relax_loss: Some(RelaxLoss { alpha: 0.5, upper: 0.9 }),
        distillation: Some(Distillation { temperature: 2.0, weight: 0.5 }),
        ..plain_cnn()
    };
    let whole = train(&task, &recipe);
    for pieces in [&[1, 1, 1][..], &[5, 2, 4], &[2, 9]] {
        assert!(whole == train_in_pieces(&task, &recipe, pieces), "{pieces:?}");
    }
}

#[test]
fn early_stopping_keeps_the_best_epoch_and_ends_patience_behind_it() {
    let dataset = table();
    let task = task(&dataset);
    // A rate so high that the validation rows get worse soon.
    let recipe = Recipe {
        epochs: 40,
        learning_rate: 0.2,
        early_stopping: Some(EarlyStopping { patience: 4, by: StopBy::Loss }),
        ..plain()
    };
    let mut trainer = new(&task, &recipe);
    trainer.run(&AtomicBool::new(false), &mut ()).unwrap();
    let position = trainer.position();
    let best = position.best.unwrap();
    let losses: Vec<f64> = position.history.iter().map(|score| score.validation.unwrap().loss).collect();
    assert_eq!(position.history.len(), best.epoch + 4, "{losses:?}");
    assert!(losses.iter().all(|loss| *loss >= best.validation.loss) && losses[best.epoch - 1] == best.validation.loss);
    // The network is that epoch's: what a training of so many epochs ends with.
    assert_eq!(evaluate(&trainer.network(), &dataset, &task.validation), Some(best.validation));
    let without = Recipe { epochs: best.epoch, early_stopping: None, ..recipe.clone() };
    assert!(export(&trainer) == train(&task, &without));
    // An interruption behind the best epoch loses neither it nor the count.
    let steps = best.epoch * 4 + 6;
    assert!(train_in_pieces(&task, &recipe, &[steps]) == export(&trainer));
}

#[test]
fn early_stopping_without_validation_rows_is_refused() {
    let dataset = table();
    let task = Task::new(&dataset, (0..60).collect(), vec![]);
    let recipe = Recipe { early_stopping: Some(EarlyStopping { patience: 1, by: StopBy::Loss }), ..plain() };
    let refused = Trainer::new(task, recipe, &Device::Cpu.open().unwrap()).err().unwrap().to_string();
    assert!(refused.contains("needs validation rows") && refused.contains("never looks at test rows"), "{refused}");
}

/// One step of SGD over all rows by hand, in f64: softmax regression, the gradient of the mean loss plus `decay` times
/// each weight, and the weights times `1 − shrink` before it.
fn by_hand(trainer: &Trainer<'_>, rate: f64, decay: f64, shrink: f64) -> (Vec<f64>, Vec<f64>) {
    let weights = trainer.network().weights().clone();
    let plain = |at| weights.plain(at).values.into_iter().map(f64::from).collect::<Vec<f64>>();
    use crate::lab::network::plan::At;
    let (mut matrix, mut bias) = (plain(At::Matrix(0)), plain(At::Vector(0)));
    let task = trainer.task();
    let batch = task.dataset.batch(&task.train);
    let n_rows = task.train.len();
    let (mut of_matrix, mut of_bias) = (vec![0.0; 12], vec![0.0; 3]);
    for (row, &number) in task.train.iter().enumerate() {
        let x: Vec<f64> = (0..4).map(|i| f64::from(batch[[row, i]])).collect();
        let z: Vec<f64> = (0..3).map(|k| bias[k] + (0..4).map(|i| x[i] * matrix[i * 3 + k]).sum::<f64>()).collect();
        let sum: f64 = z.iter().map(|z| z.exp()).sum();
        for k in 0..3 {
            let own = if task.dataset.labels()[number] as usize == k { 1.0 } else { 0.0 };
            let slope = (z[k].exp() / sum - own) / n_rows as f64;
            of_bias[k] += slope;
            (0..4).for_each(|i| of_matrix[i * 3 + k] += slope * x[i]);
        }
    }
    let step = |weight: &mut f64, slope: f64| *weight = *weight * (1.0 - shrink) - rate * (slope + decay * *weight);
    matrix.iter_mut().zip(of_matrix).for_each(|(weight, slope)| step(weight, slope));
    bias.iter_mut().zip(of_bias).for_each(|(weight, slope)| step(weight, slope));
    (matrix, bias)
}

#[test]
fn coupled_and_decoupled_decay_have_the_papers_forms_on_all_parameters() {
    use crate::lab::network::plan::At;
    let dataset = table();
    let task = Task::new(&dataset, (0..60).collect(), vec![]);
    let network = Architecture::Mlp { hidden: vec![], activation: Activation::Relu };
    for (weight_decay, decoupled) in [(0.0, 0.0), (0.3, 0.0), (0.0, 0.2)] {
        let recipe = Recipe {
            network: network.clone(),
            epochs: 1,
            batch_size: 60,
            learning_rate: 0.5,
            optimizer: OptimizerKind::Sgd { momentum: 0.0 },
            weight_decay,
            decoupled_weight_decay: decoupled,
            ..plain()
        };
        let mut trainer = new(&task, &recipe);
        // The shrunk weights are the ones that the decay of the gradient sees; here only one of them is on.
        let (matrix, bias) = by_hand(&trainer, 0.5, weight_decay, 0.5 * decoupled);
        trainer.run(&AtomicBool::new(false), &mut ()).unwrap();
        let network = trainer.network();
        for (at, expected) in [(At::Matrix(0), matrix), (At::Vector(0), bias)] {
            for (got, expected) in network.weights().plain(at).values.into_iter().zip(expected) {
                assert!((f64::from(got) - expected).abs() < 1e-5, "{got} and {expected}, {weight_decay} {decoupled}");
            }
        }
    }
}

#[test]
fn a_weight_that_is_not_finite_ends_the_training_and_is_never_kept() {
    let dataset = table();
    let task = task(&dataset);
    // One step an epoch: its loss is still finite, its weights are not.
    let recipe = Recipe { batch_size: 60, learning_rate: 1e38, weight_decay: 1e38, ..plain() };
    let mut trainer = new(&task, &Recipe { optimizer: OptimizerKind::Sgd { momentum: 0.0 }, ..recipe });
    let message = trainer.run(&AtomicBool::new(false), &mut ()).unwrap_err().to_string();
    assert!(message.contains("in epoch 1 after 60 rows: the training diverged"), "{message}");
    assert!(trainer.position().history.is_empty());
    assert!(trainer.checkpoint().unwrap_err().to_string().contains("not finite"));
}

#[test]
fn progress_counts_the_rows_of_a_curriculum() {
    let dataset = table();
    let task = task(&dataset);
    let curriculum = Some(Curriculum { score: Difficulty::CentroidDistance, start: 0.5, epochs: 2 });
    let mut trainer = new(&task, &Recipe { curriculum, ..plain() });
    let of_class = |label| task.train.iter().filter(|&&row| dataset.labels()[row] == label).count();
    let first: usize = (0..3).map(|label| of_class(label).div_ceil(2)).sum();
    let planned = trainer.rows_planned();
    assert_eq!(trainer.rows_done(), 0);
    trainer.run(&AtomicBool::new(false), &mut ()).unwrap();
    let seen: Vec<usize> = trainer.position().history.iter().map(|score| score.train.n_rows).collect();
    assert!(seen[0] == first && first < seen[1] && seen[1] < 60 && seen[2..] == [60, 60], "{seen:?}");
    assert_eq!((trainer.rows_done(), seen.iter().sum::<usize>()), (planned, planned));
}
