//! Whole trainings: what a step does to the weights, what is refused, what is recorded.

use std::sync::atomic::{AtomicBool, Ordering};

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::StandardNormal;

use crate::data::Dataset;
use crate::lab::accountant;
use crate::lab::device::Device;
use crate::lab::dp::reference::{add_clipped, gradient_of_row};
use crate::lab::dp::{NoiseKey, Privacy, poisson, with_private_norm};
use crate::lab::network::{Activation, Architecture, Network, Norm, Normalisation, Weights, to_tensor};
use crate::lab::recipe::{EarlyStopping, Normalise, OptimizerKind, Recipe, Schedule, StopBy};
use crate::lab::train::objective::Objective;
use crate::lab::train::{EpochScore, Outcome, StepReport, Task, Trainer, Watcher, evaluate};

/// Two overlapping clusters a class, eight numbers a row.
fn dataset(n_rows: usize, n_classes: usize) -> Dataset {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("table.csv");
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let mut text = String::from("label,a,b,c,d,e,f,g,h\n");
    for row in 0..n_rows {
        let label = row % n_classes;
        text += &format!("{label}");
        for column in 0..8 {
            let centre = if column % n_classes == label { 1.0 } else { 0.0 };
            text += &format!(",{:.4}", centre + rng.random_range(-0.6..0.6));
        }
        text.push('\n');
    }
    std::fs::write(&path, text).unwrap();
    Dataset::load(&format!("csv:{}", path.display()).parse().unwrap()).unwrap()
}

fn recipe(hidden: &[usize], epochs: usize, batch_size: usize, dp: Privacy) -> Recipe {
    let network = Architecture::Mlp { hidden: hidden.to_vec(), activation: Activation::Tanh };
    Recipe {
        batch_size,
        learning_rate: 1.0,
        optimizer: OptimizerKind::Sgd { momentum: 0.0 },
        dp: Some(dp),
        ..Recipe::plain(network, epochs, 7)
    }
}

fn task(dataset: &Dataset, n_train: usize) -> Task<'_> {
    let validation = (n_train..dataset.n_rows()).collect();
    Task::new(dataset, (0..n_train).collect(), validation)
}

fn trainer<'a>(task: Task<'a>, recipe: Recipe) -> anyhow::Result<Trainer<'a>> {
    Trainer::new(task, recipe, &Device::Cpu.open().unwrap())
}

fn numbers(network: &Network) -> Vec<f64> {
    let plan = network.plan().parameters().iter();
    plan.flat_map(|parameter| network.weights().plain(parameter.at).values).map(f64::from).collect()
}

/// Stops after a number of steps.
struct StopAfter<'a>(usize, &'a AtomicBool);

impl Watcher for StopAfter<'_> {
    fn step(&mut self, _: StepReport) {
        self.0 -= 1;
        self.1.store(self.0 == 0, Ordering::Relaxed);
    }

    fn epoch(&mut self, _: &EpochScore, _: &Trainer<'_>) -> anyhow::Result<()> {
        Ok(())
    }
}

/// Runs so many steps and returns by how much the weights changed.
fn change(trainer: &mut Trainer<'_>, n_steps: usize) -> Vec<f64> {
    let before = numbers(&trainer.network());
    let stop = AtomicBool::new(false);
    trainer.run(&stop, &mut StopAfter(n_steps, &stop)).unwrap();
    numbers(&trainer.network()).iter().zip(before).map(|(after, before)| after - before).collect()
}

fn variance(values: &[f64]) -> f64 {
    values.iter().map(|value| value * value).sum::<f64>() / values.len() as f64
}

/// What a step adds to the weights, by hand: the same sample, the gradients one by one, the same noise.
fn step_by_hand(trainer: &Trainer<'_>, step: u64) -> (usize, Vec<f64>) {
    let device = Device::Cpu.open().unwrap().training();
    let (network, task) = (trainer.network(), trainer.task());
    let plan = network.plan().clone();
    let weights = Weights::fill(&plan, &device, |parameter| network.weights().plain(parameter.at));
    let network = Network::with(plan, weights, device.clone());
    let key = trainer.noise_key().unwrap();
    let sample = poisson(task.train.len(), 0.2, &mut key.sampling(step));
    let objective = Objective::new(trainer.recipe(), 3);
    let mut sum = vec![0f64; network.n_parameters()];
    for &row in &sample {
        let target = objective.targets(&[task.dataset.labels()[row]], None);
        let losses = |logits| objective.per_row(&logits, &target);
        add_clipped(&mut sum, &gradient_of_row(&network, to_tensor(task.dataset.batch(&[row]), &device), losses), 0.7);
    }
    let mut rng = key.noise(step);
    let mut noise = || 0.4 * 0.7 * rng.sample::<f64, _>(StandardNormal);
    (sample.len(), sum.iter().map(|sum| -(sum + noise()) / 8.0).collect())
}

#[test]
fn each_step_is_the_clipped_sum_of_its_own_sample_plus_its_own_noise_over_the_expected_batch() {
    let dataset = dataset(40, 3);
    let mut trainer = trainer(task(&dataset, 40), recipe(&[6], 1, 8, Privacy::new(0.7, 0.4))).unwrap();
    let mut sizes = vec![];
    for step in 0..3 {
        let (size, expected) = step_by_hand(&trainer, step);
        for (got, expected) in change(&mut trainer, 1).iter().zip(&expected) {
            assert!((got - expected).abs() < 1e-6, "step {step}: {got} {expected}");
        }
        sizes.push(size);
    }
    assert!(
        sizes.iter().any(|&size| size > 1 && size != 8),
        "a sample of the expected size hides what it is divided by"
    );
}

#[test]
fn the_weights_move_by_noise_of_the_stated_variance() {
    // All gradients of the run together are not longer than 30 clipping norms: half a per cent of what the noise has.
    let dataset = dataset(30, 3);
    let (clip, sigma, batch, n_steps) = (0.5, 1.7, 6, 5);
    let recipe = recipe(&[200, 50], 1, batch, Privacy::new(clip, sigma));
    let mut trainer = trainer(task(&dataset, 30), recipe).unwrap();
    let moved = change(&mut trainer, n_steps);
    let expected = n_steps as f64 * (sigma * clip / batch as f64).powi(2);
    // A chi-square of as many degrees of freedom as there are weights: five standard deviations.
    let bound = 5.0 * (2.0 / moved.len() as f64).sqrt();
    assert!((variance(&moved) / expected - 1.0).abs() < bound, "{} {expected}", variance(&moved));
    // Every array has its share, none is left without.
    assert!(moved.iter().all(|&value| value != 0.0));
}

#[test]
fn an_empty_sample_still_takes_a_noisy_step() {
    let dataset = dataset(2, 2);
    let (clip, sigma) = (1.0, 2.0);
    let seeded = |seed| Recipe { seed, ..recipe(&[100, 100], 1, 1, Privacy::new(clip, sigma)) };
    let mut trainers = (0..100).map(|seed| trainer(task(&dataset, 2), seeded(seed)).unwrap());
    let is_empty = |trainer: &Trainer<'_>| poisson(2, 0.5, &mut trainer.noise_key().unwrap().sampling(0)).is_empty();
    let mut trainer = trainers.find(is_empty).unwrap();
    let moved = change(&mut trainer, 1);
    assert_eq!((trainer.position().steps, trainer.position().rows_seen), (1, 0));
    let bound = 5.0 * (2.0 / moved.len() as f64).sqrt();
    assert!((variance(&moved) / (sigma * clip).powi(2) - 1.0).abs() < bound);
}

#[test]
fn a_private_training_learns() {
    let dataset = dataset(600, 3);
    let recipe = Recipe {
        learning_rate: 0.5,
        schedule: Schedule::Cosine,
        optimizer: OptimizerKind::Sgd { momentum: 0.5 },
        ..recipe(&[16], 8, 50, Privacy::new(1.0, 1.0))
    };
    let mut trainer = trainer(task(&dataset, 500), recipe).unwrap();
    assert_eq!(trainer.run(&AtomicBool::new(false), &mut ()).unwrap(), Outcome::Finished);
    assert_eq!(trainer.position().steps, 80);
    let score = evaluate(&trainer.network(), &dataset, &(500..600).collect::<Vec<_>>()).unwrap();
    assert!(score.accuracy > 0.8, "{score:?}");
    let record = trainer.privacy(vec!["said before".to_owned()]).unwrap().unwrap();
    let spent = accountant::spent(1.0, 0.1, 80, 1.0 / 500.0).unwrap();
    assert_eq!((record.epsilon, record.order, record.steps), (spent.epsilon, Some(spent.order), 80));
    assert!(!record.covers_hyperparameter_search && !record.secret_noise);
    assert_eq!(record.notes[0], "said before");
    assert!(record.card().contains("Said before.") && record.card().contains("runs that chose its settings"));
}

#[test]
fn a_resumed_private_training_is_the_unbroken_one_and_counts_all_steps() {
    let dataset = dataset(60, 3);
    let recipe = recipe(&[8], 3, 10, Privacy::new(1.0, 0.8));
    let mut whole = trainer(task(&dataset, 50), recipe.clone()).unwrap();
    whole.run(&AtomicBool::new(false), &mut ()).unwrap();
    // Interrupted in the second of three epochs of five steps.
    let mut first = trainer(task(&dataset, 50), recipe.clone()).unwrap();
    change(&mut first, 7);
    assert_eq!(first.privacy(vec![]).unwrap().unwrap().steps, 7);
    let bytes = first.checkpoint().unwrap();
    let device = Device::Cpu.open().unwrap();
    let mut second = Trainer::resume(task(&dataset, 50), recipe.clone(), &device, &bytes).unwrap();
    second.run(&AtomicBool::new(false), &mut ()).unwrap();
    assert_eq!(numbers(&second.network()), numbers(&whole.network()));
    assert_eq!(second.position(), whole.position());
    assert_eq!(second.privacy(vec![]).unwrap(), whole.privacy(vec![]).unwrap());
    assert_eq!(second.privacy(vec![]).unwrap().unwrap().steps, 15);
    // More noise, or none, is another training.
    let louder = Recipe { dp: Some(Privacy::new(1.0, 0.9)), ..recipe.clone() };
    assert!(Trainer::resume(task(&dataset, 50), louder, &device, &bytes).is_err());
    assert!(Trainer::resume(task(&dataset, 50), Recipe { dp: None, ..recipe }, &device, &bytes).is_err());
}

#[test]
fn a_target_is_kept_and_fixes_the_number_of_epochs() {
    let dataset = dataset(60, 3);
    let dp = Privacy { noise_multiplier: None, target_epsilon: Some(3.0), delta: Some(1e-4), ..Privacy::new(1.0, 1.0) };
    let recipe = recipe(&[4], 4, 10, dp);
    let mut private = trainer(task(&dataset, 60), recipe.clone()).unwrap();
    private.run(&AtomicBool::new(false), &mut ()).unwrap();
    let record = private.privacy(vec![]).unwrap().unwrap();
    assert!(record.epsilon <= 3.0 && record.epsilon > 2.99, "{record:?}");
    assert_eq!((record.delta, record.steps), (1e-4, 24));
    let longer = Recipe { epochs: 5, ..recipe.clone() };
    assert_eq!(longer.differences(&recipe), ["epochs: expected 5, got 4"]);
    let unreachable = Privacy { target_epsilon: Some(1e-3), ..recipe.dp.clone().unwrap() };
    let error = trainer(task(&dataset, 60), Recipe { dp: Some(unreachable), ..recipe }).err().unwrap();
    assert!(error.to_string().contains("no noise gives epsilon 0.001"), "{error}");
}

#[test]
fn a_training_that_chooses_when_to_stop_pays_for_all_that_was_planned() {
    let dataset = dataset(60, 3);
    let early_stopping = Some(EarlyStopping { patience: 1, by: StopBy::Loss });
    let stopping = Recipe { early_stopping, ..recipe(&[4], 30, 10, Privacy::new(1.0, 5.0)) };
    let mut private = trainer(task(&dataset, 50), stopping).unwrap();
    private.run(&AtomicBool::new(false), &mut ()).unwrap();
    let record = private.privacy(vec![]).unwrap().unwrap();
    assert!(record.steps < 150, "it did not stop early: {}", record.steps);
    assert_eq!(record.steps_accounted, 150);
    assert_eq!(record.epsilon, accountant::spent(5.0, 0.2, 150, 1.0 / 50.0).unwrap().epsilon);
}

#[test]
fn what_breaks_the_promise_is_refused_together() {
    let dataset = dataset(20, 2);
    let plain = recipe(&[4], 1, 5, Privacy::new(1.0, 1.0));
    let constants = Normalisation { mean: vec![0.0; 8], deviation: vec![1.0; 8] };
    let fine = Recipe { normalise: Normalise::Constants(constants), ..plain.clone() };
    assert!(trainer(task(&dataset, 15), fine).is_ok());
    let learned = Recipe { normalise: Normalise::TrainingRows, ..plain.clone() };
    let mut twice = task(&dataset, 15);
    twice.train.push(3);
    twice.validation.push(4);
    let error = trainer(twice, learned).err().unwrap().to_string();
    for word in ["mean and deviation of the training rows", "row 3 stands", "more than once", "row 4 is trained on"] {
        assert!(error.contains(word), "{word}: {error}");
    }
    let teacher = Some(ndarray::Array2::from_elem((15, 2), 0.5));
    let error = trainer(Task { teacher, ..task(&dataset, 15) }, plain.clone()).err().unwrap();
    assert!(error.to_string().contains("teacher"), "{error}");
    let error = trainer(task(&dataset, 15), Recipe { batch_size: 16, ..plain.clone() }).err().unwrap();
    assert!(error.to_string().contains("batches of 16 rows of 15"), "{error}");
    let batch_norm = Recipe { network: Architecture::resnet18(), ..plain };
    let error = batch_norm.dp.clone().unwrap().check(&batch_norm, &[0, 1, 2, 3, 4], &[], false).unwrap_err();
    assert!(error.to_string().contains("batch normalisation"), "{error}");
}

#[test]
fn batch_normalisation_is_replaced_with_a_word() {
    let plain = recipe(&[4], 1, 5, Privacy::new(1.0, 1.0));
    assert_eq!(with_private_norm(plain.clone()), (plain.clone(), None));
    let (replaced, note) = with_private_norm(Recipe { network: Architecture::densenet(), ..plain });
    assert_eq!(replaced.network.norm(), Norm::Group);
    assert!(note.unwrap().contains("gcd(32, channels)"));
    assert!(replaced.dp.clone().unwrap().check(&replaced, &[0, 1, 2, 3, 4], &[], false).is_ok());
}

#[test]
fn numbers_out_of_range_are_told_together_with_the_recipes() {
    let dp = Privacy { target_epsilon: Some(1.0), delta: Some(1.0), ..Privacy::new(0.0, 1.0) };
    let message = Recipe { epochs: 0, ..recipe(&[4], 1, 5, dp) }.check().unwrap_err().to_string();
    for word in ["epochs", "clip: expected", "got both", "delta: expected"] {
        assert!(message.contains(word), "{word}: {message}");
    }
    for (noise, target) in [(Some(0.0), None), (Some(f64::NAN), None), (None, Some(-1.0)), (None, None)] {
        let dp = Privacy { noise_multiplier: noise, target_epsilon: target, ..Privacy::new(1.0, 1.0) };
        assert!(recipe(&[4], 1, 5, dp).check().is_err(), "{noise:?} {target:?}");
    }
}

#[test]
fn the_entry_of_a_recipe_reads_back_and_knows_its_names() {
    let recipe = recipe(&[4], 1, 5, Privacy::new(1.0, 0.5));
    let text = serde_json::to_string(&recipe).unwrap();
    assert!(text.contains(r#""dp":{"clip":1.0,"noise_multiplier":0.5}"#), "{text}");
    assert_eq!(serde_json::from_str::<Recipe>(&text).unwrap(), recipe);
    assert!(serde_json::from_str::<Recipe>(&text.replace("noise_multiplier", "sigma")).is_err());
}

#[test]
fn a_secret_is_asked_for_held_against_its_digest_and_changes_the_draws() {
    let dataset = dataset(20, 2);
    let secret = NoiseKey::of_secret(&[9; 32]).unwrap();
    let dp = Privacy { key_digest: Some(secret.digest()), ..Privacy::new(1.0, 1.0) };
    let private = recipe(&[4], 1, 5, dp);
    let new = || trainer(task(&dataset, 20), private.clone()).unwrap();
    let error = new().run(&AtomicBool::new(false), &mut ()).unwrap_err();
    assert!(error.to_string().contains("which was not given"), "{error}");
    assert!(new().with_secret(NoiseKey::of_secret(&[8; 32]).unwrap()).is_err());
    let mut with_secret = new().with_secret(secret.clone()).unwrap();
    with_secret.run(&AtomicBool::new(false), &mut ()).unwrap();
    let record = with_secret.privacy(vec![]).unwrap().unwrap();
    assert!(record.secret_noise && record.notes.iter().all(|note| !note.contains("seed")));
    let open = Recipe { dp: Some(Privacy::new(1.0, 1.0)), ..private.clone() };
    let mut seeded = trainer(task(&dataset, 20), open.clone()).unwrap();
    seeded.run(&AtomicBool::new(false), &mut ()).unwrap();
    assert_ne!(numbers(&seeded.network()), numbers(&with_secret.network()));
    assert!(trainer(task(&dataset, 20), open).unwrap().with_secret(secret).is_err());
}
