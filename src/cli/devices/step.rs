//! `sordino devices step`: how long a training step takes on a device.
//!
//! Times whole steps of the real trainer on made-up rows: batch from memory, forward, backward, Adam. For a comparison
//! with PyTorch see `benches/steps`.

use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::Context as _;
use serde::Serialize;

use crate::data::{Dataset, parse_cifar10, parse_table};
use crate::lab::device::Device;
use crate::lab::network::{Activation, Architecture, Norm};
use crate::lab::recipe::Recipe;
use crate::lab::train::{EpochScore, StepReport, Task, Trainer, Watcher};

/// Time the training step of a network.
///
/// One round of steps is done before the clock starts: it compiles what the device needs. Rows are made up; what is
/// learned from them is thrown away.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The network.
    #[arg(long, value_enum, default_value_t = Known::Cnn)]
    network: Known,
    /// Rows in a step.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=4096))]
    batch_size: u16,
    /// Steps in a round.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1000))]
    steps: u16,
    /// Timed rounds.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// Where: cpu, vulkan[:N] or cuda[:N].
    #[arg(long, value_name = "DEVICE", default_value_t = Device::Cpu)]
    device: Device,
    /// One JSON object.
    #[arg(long)]
    json: bool,
}

/// Networks by name, with the rows that they are made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Known {
    /// 600-1024-512-256-128-100 with Tanh: Purchase100.
    Fcn,
    /// Two convolutions with pooling, two linear layers: CIFAR-10.
    Cnn,
    /// DenseNet-BC, depth 100, growth 12: CIFAR-10.
    DensenetBc,
    /// The ResNet-9 of fast trainings (Page): CIFAR-10.
    #[value(name = "resnet-9")]
    Resnet9,
    /// ResNet-18 for 32×32: CIFAR-10.
    #[value(name = "resnet-18")]
    Resnet18,
}

impl Known {
    fn architecture(self) -> Architecture {
        match self {
            Self::Fcn => Architecture::Mlp { hidden: vec![1024, 512, 256, 128], activation: Activation::Tanh },
            Self::Cnn => Architecture::Cnn { channels: [32, 64], hidden: 128 },
            Self::DensenetBc => Architecture::Densenet { depth: 100, growth: 12, compression: 0.5, norm: Norm::Batch },
            Self::Resnet9 => Architecture::resnet9(),
            Self::Resnet18 => Architecture::Resnet { blocks: vec![2; 4], width: 64, norm: Norm::Batch },
        }
    }

    /// Made-up rows of the shape and with the classes that the network is made for.
    fn rows(self, n_rows: usize) -> anyhow::Result<Dataset> {
        // Any fixed numbers do: a step takes as long whatever it sees.
        let number = |place: usize| (place as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56;
        if self == Self::Fcn {
            let mut table = String::new();
            // At least a row of each class, so that there are as many.
            for row in 0..n_rows.max(100) {
                table += &(row % 100).to_string();
                (0..600).for_each(|column| table += if number(600 * row + column) < 128 { ",0" } else { ",1" });
                table.push('\n');
            }
            return Ok(parse_table(table.as_bytes())?);
        }
        let record = |row: usize| {
            let pixels = (0..3072).map(move |place| number(3072 * row + place) as u8);
            std::iter::once((row % 10) as u8).chain(pixels)
        };
        Ok(parse_cifar10(&(0..n_rows).flat_map(record).collect::<Vec<u8>>())?)
    }
}

#[derive(Debug, Serialize)]
struct Report {
    network: String,
    n_parameters: usize,
    batch: u16,
    device: Device,
    name: String,
    /// Milliseconds of a step, the mean of each round.
    ms: Vec<f64>,
}

/// Notes when each round ended.
struct Clock(Vec<Instant>);

impl Watcher for Clock {
    fn step(&mut self, _: StepReport) {}
    fn epoch(&mut self, _: &EpochScore, _: &Trainer<'_>) -> anyhow::Result<()> {
        self.0.push(Instant::now());
        Ok(())
    }
}

/// Runs the command.
///
/// # Errors
/// When the device cannot be opened or fails.
pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let device = args.device.open()?;
    let n_rows = usize::from(args.batch_size) * usize::from(args.steps);
    let dataset = args.network.rows(n_rows)?;
    let recipe = Recipe {
        batch_size: args.batch_size.into(),
        ..Recipe::plain(args.network.architecture(), usize::from(args.rounds) + 1, 1)
    };
    let task = Task::new(&dataset, (0..n_rows).collect(), vec![]);
    let mut clock = Clock(vec![]);
    let n_parameters = device.guard("its steps", || {
        let mut trainer = Trainer::new(task, recipe, &device)?;
        trainer.run(&AtomicBool::new(false), &mut clock)?;
        anyhow::Ok(trainer.network().n_parameters())
    })??;
    let round = |ends: &[Instant]| 1e3 * (ends[1] - ends[0]).as_secs_f64() / f64::from(args.steps);
    let ms: Vec<f64> = clock.0.windows(2).map(round).collect();
    let network = clap::ValueEnum::to_possible_value(&args.network).context("a network has a name")?;
    let network = network.get_name().to_owned();
    let report = Report { network, n_parameters, batch: args.batch_size, device: args.device, name: device.name(), ms };
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        let mut sorted = report.ms.clone();
        sorted.sort_by(f64::total_cmp);
        println!(
            "{} ({} parameters), batches of {}, {} ({}): {:.1} ms a step (median of {} rounds, {:.1} to {:.1})",
            report.network,
            report.n_parameters,
            report.batch,
            report.device,
            report.name,
            sorted[sorted.len() / 2],
            sorted.len(),
            sorted[0],
            sorted[sorted.len() - 1]
        );
    }
    Ok(ExitCode::SUCCESS)
}
