//! Composition root: one file per command. The only room that knows all the others.

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
enum Command {}

/// Parses the command line, runs the command and returns the exit code of the process.
#[must_use]
pub fn main() -> ExitCode {
    match Cli::parse().command {}
}
