//! What a private step costs: plain step, ghost clipping, and one backward pass a row, on the paper's network for
//! Purchase-100 (600-1024-512-256-128-100, Tanh), batches of 128.
//!
//! `cargo bench --features lab --bench dp`. Whole steps go through the trainer (rows gathered, forward, backward, noise,
//! optimizer), batch for batch in turns; the parts are timed alone. Rows are made outside of the clock, from a fixed seed.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::Result;
use burn::tensor::{Tensor, TensorData};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sordino::data::Dataset;
use sordino::lab::Compute;
use sordino::lab::device::{Device, OpenDevice};
use sordino::lab::dp::reference::gradient_of_row;
use sordino::lab::dp::{Privacy, clipped_sum};
use sordino::lab::network::{Architecture, Dropout, Network};
use sordino::lab::recipe::{OptimizerKind, Recipe};
use sordino::lab::train::{Task, Trainer};

const SEED: u64 = 7;
const BATCH: usize = 128;
const N_STEPS: usize = 20;
const ROUNDS: usize = 7;

fn main() -> Result<()> {
    let device = Device::Cpu.open()?;
    let dataset = rows(N_STEPS * BATCH)?;
    let plain = Recipe {
        batch_size: BATCH,
        optimizer: OptimizerKind::Sgd { momentum: 0.9 },
        learning_rate: 1e-3,
        ..Recipe::plain(Architecture::fcn(), 1, SEED)
    };
    let private = Recipe { dp: Some(Privacy::new(1.0, 1.0)), ..plain.clone() };
    let (mut plain_ms, mut private_ms) = (vec![], vec![]);
    for _ in 0..ROUNDS {
        plain_ms.push(epoch(&dataset, &plain, &device)? / N_STEPS as f64);
        private_ms.push(epoch(&dataset, &private, &device)? / N_STEPS as f64);
    }
    let (mut ghost_ms, mut loop_ms) = (vec![], vec![]);
    let parts = Parts::new(&dataset, &device)?;
    for _ in 0..ROUNDS {
        ghost_ms.push(timed(|| parts.ghost()));
        loop_ms.push(timed(|| parts.one_by_one()));
    }
    println!("| what | median ms | least | most |\n| --- | ---: | ---: | ---: |");
    row("plain step, whole", plain_ms);
    row("private step, whole", private_ms);
    row("clipped sum by ghost clipping, alone", ghost_ms);
    row("gradients row by row, alone", loop_ms);
    Ok(())
}

fn row(name: &str, mut ms: Vec<f64>) {
    ms.sort_by(f64::total_cmp);
    println!("| {name} | {:.1} | {:.1} | {:.1} |", ms[ms.len() / 2], ms[0], ms[ms.len() - 1]);
}

fn timed(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64() * 1e3
}

/// Rows of 600 zeros and ones in 100 classes, as in Purchase-100.
fn rows(n_rows: usize) -> Result<Dataset> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("rows.csv");
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    let mut text = String::from("label");
    (0..600).for_each(|column| text += &format!(",{column}"));
    text.push('\n');
    for row in 0..n_rows {
        text += &(row % 100).to_string();
        (0..600).for_each(|_| text += if rng.random_bool(0.3) { ",1" } else { ",0" });
        text.push('\n');
    }
    std::fs::write(&path, text)?;
    Ok(Dataset::load(&format!("csv:{}", path.display()).parse().map_err(anyhow::Error::msg)?)?)
}

/// Milliseconds of one epoch.
fn epoch(dataset: &Dataset, recipe: &Recipe, device: &OpenDevice) -> Result<f64> {
    let task =
        Task { dataset, train: (0..dataset.n_rows()).collect(), validation: vec![], teacher: None, difficulty: None };
    let mut trainer = Trainer::new(task, recipe.clone(), device)?;
    let start = Instant::now();
    trainer.run(&AtomicBool::new(false), &mut ())?;
    Ok(start.elapsed().as_secs_f64() * 1e3)
}

/// The two ways to a batch's gradients, without the rest of a step.
struct Parts {
    network: Network,
    rows: Vec<f32>,
    targets: Vec<f32>,
}

impl Parts {
    fn new(dataset: &Dataset, device: &OpenDevice) -> Result<Self> {
        let plan = Arc::new(Architecture::fcn().plan(&[600], 100, None)?);
        let network = Network::init(plan, SEED, &device.training());
        let places: Vec<usize> = (0..BATCH).collect();
        let mut targets = vec![0f32; BATCH * 100];
        places.iter().for_each(|&row| targets[row * 100 + dataset.labels()[row] as usize] = 1.0);
        Ok(Self { network, rows: dataset.batch(&places).iter().copied().collect(), targets })
    }

    fn tensor(&self, values: &[f32], width: usize) -> Tensor<Compute, 2> {
        Tensor::from_data(TensorData::new(values.to_vec(), [values.len() / width, width]), self.network.device())
    }

    fn losses(&self, from: usize, to: usize) -> impl FnOnce(Tensor<Compute, 2>) -> Tensor<Compute, 1> {
        let targets = self.tensor(&self.targets[from * 100..to * 100], 100);
        move |logits| (burn::tensor::activation::log_softmax(logits, 1) * targets).sum_dim(1).neg().squeeze_dim(1)
    }

    fn ghost(&self) {
        let mut rng = ChaCha8Rng::seed_from_u64(SEED);
        let rows = self.tensor(&self.rows, 600);
        let clipped = clipped_sum(
            &self.network,
            rows,
            self.losses(0, BATCH),
            1.0,
            (Dropout::default(), std::slice::from_mut(&mut rng)),
        );
        let _ = clipped.norms.into_data();
    }

    fn one_by_one(&self) {
        for row in 0..BATCH {
            let own = self.tensor(&self.rows[row * 600..(row + 1) * 600], 600);
            let gradient = gradient_of_row(&self.network, own, self.losses(row, row + 1));
            assert_eq!(gradient.len(), self.network.n_parameters());
        }
    }
}
