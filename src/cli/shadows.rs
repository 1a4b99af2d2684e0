//! `sordino shadows`: a bank of models with a recorded inclusion matrix, on one machine or shard by shard.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};

use super::bank::{DealFlags, Rows, SourceFlags, Trained, WorkFlags, expect_no_input, print_bank};
use super::privacy::read_secret;
use crate::data::Dataset;
use crate::lab::bank::member::{State, state};
use crate::lab::bank::merge::{merge, seal};
use crate::lab::bank::place::Place;
use crate::lab::bank::plan::Planned;
use crate::lab::bank::run::Shard;

/// The number of this pod, counted from 0, in a Kubernetes Indexed Job.
const KUBERNETES_INDEX: &str = "JOB_COMPLETION_INDEX";
/// The number of this task of a Slurm array.
const SLURM_INDEX: &str = "SLURM_ARRAY_TASK_ID";
/// The number of tasks of a Slurm array.
const SLURM_COUNT: &str = "SLURM_ARRAY_TASK_COUNT";

/// Train a bank of models with a recorded inclusion matrix.
///
/// `plan` writes what is to be trained (which row trains which model, the recipe, a seed for each model); `run` trains what is
/// missing, several models at a time, as often as needed after a kill; `merge` gathers the shards of several workers and checks
/// them. A bank is a folder (or, in builds with the feature `cloud`, an object store): plan.json, inclusion.safetensors,
/// split.json, model-00017.onnx with its record model-00017.json, and bank.json when it is complete.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Plan(Box<PlanArgs>),
    Run(Box<RunArgs>),
    Merge(MergeArgs),
    Status(StatusArgs),
}

/// Write the plan of a bank: which row trains which model.
#[derive(Debug, clap::Args)]
struct PlanArgs {
    #[command(flatten)]
    source: SourceFlags,
    #[command(flatten)]
    deal: DealFlags,
    /// Where the bank goes: a folder or a URL.
    #[arg(long, value_name = "BANK")]
    out: String,
    /// The file that a private recipe's samples and noise will be drawn from: the plan names its digest, `run` takes the
    /// same file.
    #[arg(long, value_name = "FILE")]
    dp_secret: Option<PathBuf>,
}

/// Train what is missing of a bank.
///
/// Ctrl-C (or SIGTERM) leaves a checkpoint of each running model and exits with code 130 (143); the same command goes on. After
/// a kill it goes on too.
#[derive(Debug, clap::Args)]
struct RunArgs {
    /// The folder or URL with the plan.
    #[arg(value_name = "BANK")]
    bank: String,
    /// The rows of the plan.
    #[arg(long, value_name = "SOURCE")]
    data: Rows,
    /// Train only the models m with m mod N = I.
    #[arg(long, value_name = "I/N", conflicts_with = "shards")]
    shard: Option<Shard>,
    /// Train one of N shards: the one that JOB_COMPLETION_INDEX (Kubernetes) or SLURM_ARRAY_TASK_ID names.
    #[arg(long, value_name = "N")]
    shards: Option<usize>,
    /// Write models to this folder or URL in place of the plan's.
    #[arg(long, value_name = "PLACE")]
    into: Option<String>,
    #[command(flatten)]
    work: WorkFlags,
}

/// Gather the models of several workers into one bank, and check it.
///
/// Checks digests, tells of models that differ between places, lists what is missing (exit code 1), and writes bank.json.
#[derive(Debug, clap::Args)]
struct MergeArgs {
    /// Folders or URLs that workers wrote to; with none, --out alone is checked and sealed.
    #[arg(value_name = "PLACE")]
    from: Vec<String>,
    /// The bank: a folder or a URL.
    #[arg(long, value_name = "BANK")]
    out: String,
}

/// List the models of a bank that are missing or do not fit.
#[derive(Debug, clap::Args)]
struct StatusArgs {
    /// The folder or URL with the plan.
    #[arg(value_name = "BANK")]
    bank: String,
}

/// Runs the command.
///
/// # Errors
///
/// When an argument, a row or a file is wrong, a training diverges, or models are missing.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Plan(args) => plan(&args),
        Command::Run(args) => train(&args),
        Command::Merge(args) => gather(&args),
        Command::Status(args) => status(&args),
    }
}

fn plan(args: &PlanArgs) -> anyhow::Result<ExitCode> {
    let place = Place::open(&args.out)?;
    expect_no_input(&place, &args.source.data)?;
    let secret = args.dp_secret.as_deref().map(read_secret).transpose()?;
    let planned = args.source.load(secret.as_ref())?.plan(&args.deal)?;
    planned.write(&place)?;
    let n_rows = planned.inclusion.rows().len();
    println!(
        "{place}  {} on {n_rows} rows of {}  plan {}",
        planned.plan.design,
        planned.plan.pool.join(", "),
        planned.plan.digest()
    );
    Ok(ExitCode::SUCCESS)
}

fn train(args: &RunArgs) -> anyhow::Result<ExitCode> {
    let shard = match args.shards {
        Some(count) => shard_of_environment(Some(count), |name| std::env::var(name).ok())?,
        None => args.shard.unwrap_or(Shard::ALL),
    };
    let place = Place::open(&args.bank)?;
    let planned = Planned::read(&place)?;
    let into = match &args.into {
        Some(into) => {
            let into = Place::open(into)?;
            planned.write(&into)?;
            into
        }
        None => place,
    };
    expect_no_input(&into, &args.data)?;
    let dataset = Dataset::load(&args.data.source)?;
    match args.work.train(&into, &planned, (&args.data, &dataset), shard)? {
        Trained::Interrupted(code) => return Ok(code),
        Trained::Whole(manifest) => print_bank(&into, &manifest),
        Trained::Shard => {
            let n_models = shard.members(planned.plan.n_models()).count();
            println!("{into}  shard {shard}: {n_models} models; gather the shards with `sordino shadows merge`");
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The shard that a Kubernetes Indexed Job or a Slurm array gives to this process.
fn shard_of_environment(count: Option<usize>, variable: impl Fn(&str) -> Option<String>) -> anyhow::Result<Shard> {
    let number = |name: &str| -> anyhow::Result<Option<usize>> {
        let Some(text) = variable(name) else { return Ok(None) };
        Ok(Some(
            text.trim().parse().with_context(|| format!("{name}: expected a number, got '{}'", text.escape_debug()))?,
        ))
    };
    let index = match number(KUBERNETES_INDEX)? {
        Some(index) => Some(index),
        None => number(SLURM_INDEX)?,
    };
    let count = match count {
        Some(0) | None => number(SLURM_COUNT)?,
        count => count,
    };
    let (Some(index), Some(count)) = (index, count) else {
        bail!(
            "--shards: expected {KUBERNETES_INDEX} or {SLURM_INDEX} in the environment, got neither; or give --shard I/N"
        );
    };
    Shard::new(index, count)
}

fn gather(args: &MergeArgs) -> anyhow::Result<ExitCode> {
    let to = Place::open(&args.out)?;
    let from = args.from.iter().map(|place| Place::open(place)).collect::<anyhow::Result<Vec<_>>>()?;
    if from.is_empty() {
        print_bank(&to, &seal(&to, &Planned::read(&to)?)?);
        return Ok(ExitCode::SUCCESS);
    }
    let merged = merge(&from, &to)?;
    print_bank(&to, &merged.manifest);
    println!("{} models copied, {} stood in several places", merged.n_copied, merged.n_repeated);
    Ok(ExitCode::SUCCESS)
}

fn status(args: &StatusArgs) -> anyhow::Result<ExitCode> {
    let place = Place::open(&args.bank)?;
    let planned = Planned::read(&place)?;
    let n_models = planned.plan.n_models();
    let mut n_whole = 0;
    for member in 0..n_models {
        match state(&place, &planned, member)? {
            State::Whole(_) => n_whole += 1,
            other => println!("model {member}: {other}"),
        }
    }
    println!("{n_whole} of {n_models} models stand; plan {}", planned.plan.digest());
    Ok(if n_whole == n_models { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(count: usize, variables: &[(&str, &str)]) -> anyhow::Result<String> {
        let find = |name: &str| variables.iter().find(|(own, _)| *own == name).map(|(_, value)| (*value).to_owned());
        shard_of_environment(Some(count), find).map(|shard| shard.to_string())
    }

    #[test]
    fn a_pod_and_a_task_of_an_array_find_their_shard() {
        assert_eq!(shard(8, &[(KUBERNETES_INDEX, "3")]).unwrap(), "3/8");
        assert_eq!(shard(8, &[(SLURM_INDEX, "7")]).unwrap(), "7/8");
        assert_eq!(shard(0, &[(SLURM_INDEX, "7"), (SLURM_COUNT, "9")]).unwrap(), "7/9");
        for (variables, expected) in [
            ([].as_slice(), "expected JOB_COMPLETION_INDEX or SLURM_ARRAY_TASK_ID"),
            (&[(SLURM_INDEX, "8")], "got 8 of 8"),
            (&[(KUBERNETES_INDEX, "x")], "expected a number, got 'x'"),
        ] {
            let error = format!("{:#}", shard(8, variables).unwrap_err());
            assert!(error.contains(expected), "{error}");
        }
    }
}
