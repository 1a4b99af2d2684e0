//! Composition root: one file per command. The only room that knows all the others.

pub mod audit;
pub mod bench;
pub mod centroids;
pub mod healthcheck;
pub mod inspect;
mod origin;
pub mod serve;
#[cfg(feature = "lab")]
pub mod train;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Serve classifiers without betraying who was in the training set.
#[derive(Debug, Parser)]
#[command(name = "sordino", version, about, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(Box<serve::Args>),
    Audit(Box<audit::Args>),
    Inspect(inspect::Args),
    Centroids(centroids::Args),
    #[cfg(feature = "lab")]
    Train(Box<train::Args>),
    Bench(bench::Args),
    Healthcheck(healthcheck::Args),
}

/// Parses the command line, runs the command and returns the exit code of the process.
#[must_use]
pub fn main() -> ExitCode {
    let outcome: anyhow::Result<ExitCode> = match Cli::parse().command {
        Command::Serve(args) => serve::run(&args),
        Command::Audit(args) => audit::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Centroids(args) => centroids::run(&args),
        #[cfg(feature = "lab")]
        Command::Train(args) => train::run(*args),
        Command::Bench(args) => bench::run(&args),
        Command::Healthcheck(args) => healthcheck::run(&args),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
