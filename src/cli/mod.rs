//! Composition root: one file per command. The only room that knows all the others.

mod bench;
mod healthcheck;

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
    Bench(bench::Args),
    Healthcheck(healthcheck::Args),
}

/// Parses the command line, runs the command and returns the exit code of the process.
#[must_use]
pub fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Bench(args) => bench::run(&args),
        Command::Healthcheck(args) => healthcheck::run(&args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("sordino: {error:#}");
        ExitCode::FAILURE
    })
}
