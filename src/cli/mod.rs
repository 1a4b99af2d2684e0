//! Composition root: one file per command. The only room that knows all the others.

// First: its macros stand in all that follows.
#[macro_use]
mod tell;

#[cfg(feature = "lab")]
pub mod accountant;
pub mod audit;
#[cfg(feature = "lab")]
mod bank;
pub mod bench;
pub mod centroids;
pub mod check;
pub mod data;
#[cfg(feature = "lab")]
pub mod devices;
#[cfg(feature = "lab")]
pub mod ensemble;
#[cfg(feature = "lab")]
pub mod export;
#[cfg(feature = "lab")]
pub mod forget;
pub mod healthcheck;
pub mod inspect;
mod origin;
#[cfg(feature = "lab")]
mod privacy;
pub mod serve;
#[cfg(feature = "lab")]
pub mod shadows;
pub mod split;
#[cfg(feature = "lab")]
mod student;
mod tls;
#[cfg(feature = "lab")]
pub mod train;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Mutex;

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
    Split(Box<split::Args>),
    Data(data::Args),
    #[cfg(feature = "lab")]
    Train(Box<train::Args>),
    #[cfg(feature = "lab")]
    Export(export::Args),
    #[cfg(feature = "lab")]
    Devices(devices::Args),
    #[cfg(feature = "lab")]
    Shadows(shadows::Args),
    #[cfg(feature = "lab")]
    Ensemble(ensemble::Args),
    #[cfg(feature = "lab")]
    Forget(forget::Args),
    #[cfg(feature = "lab")]
    Accountant(accountant::Args),
    Bench(bench::Args),
    Check(check::Args),
    Healthcheck(healthcheck::Args),
}

/// The help of an argument that takes a source of rows.
fn data_help(what: &str) -> String {
    format!("{what}: {}", crate::data::DataSource::FORMS)
}

/// Makes the folder that a file goes to.
fn make_folder_of(path: &std::path::Path) -> anyhow::Result<()> {
    use anyhow::Context as _;
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => {
            std::fs::create_dir_all(dir).with_context(|| format!("cannot make the folder {}", dir.display()))
        }
        _ => Ok(()),
    }
}

/// Exit code after a panic, as Rust has it.
const PANICKED: u8 = 101;
/// Where the last panic was.
static LAST_PANIC: Mutex<String> = Mutex::new(String::new());

/// Parses the command line, runs the command and returns the exit code of the process.
#[must_use]
pub fn main() -> ExitCode {
    let command = Cli::parse().command;
    quiet_panics();
    let outcome = catch_unwind(AssertUnwindSafe(|| run(command))).unwrap_or_else(|_| {
        let place = LAST_PANIC.lock().map(|place| place.clone()).unwrap_or_default();
        eprintln!("error: an internal fault at {place}");
        Ok(ExitCode::from(PANICKED))
    });
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {}", told(&error));
        ExitCode::FAILURE
    })
}

/// An error with its causes, each told once: some errors tell their cause themselves.
fn told(error: &anyhow::Error) -> String {
    let mut said: Vec<String> = Vec::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if said.last().is_none_or(|before| !before.ends_with(&cause)) {
            said.push(cause);
        }
    }
    said.join(": ")
}

/// Replaces the process's panic hook by one that logs where a panic was, and not what it said: the message of
/// a panic inside a model may quote values, and one that the engine catches becomes an error with words of ours.
fn quiet_panics() {
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map(|place| format!("{}:{}", place.file(), place.line())).unwrap_or_default();
        let thread = std::thread::current();
        tracing::error!(thread = thread.name().unwrap_or("unnamed"), place, "panic");
        if let Ok(mut last) = LAST_PANIC.lock() {
            *last = place;
        }
    }));
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve(args) => serve::run(&args),
        Command::Audit(args) => audit::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Centroids(args) => centroids::run(&args),
        Command::Split(args) => split::run(&args),
        Command::Data(args) => data::run(&args),
        #[cfg(feature = "lab")]
        Command::Train(args) => train::run(*args),
        #[cfg(feature = "lab")]
        Command::Export(args) => export::run(&args),
        #[cfg(feature = "lab")]
        Command::Devices(args) => devices::run(&args),
        #[cfg(feature = "lab")]
        Command::Shadows(args) => shadows::run(args),
        #[cfg(feature = "lab")]
        Command::Ensemble(args) => ensemble::run(args),
        #[cfg(feature = "lab")]
        Command::Forget(args) => forget::run(&args),
        #[cfg(feature = "lab")]
        Command::Accountant(args) => accountant::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Healthcheck(args) => healthcheck::run(&args),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_that_an_error_tells_itself_is_not_told_twice() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot read it: {0}")]
        struct Outer(#[source] std::io::Error);
        let missing = || std::io::Error::new(std::io::ErrorKind::NotFound, "no such file");
        let twice = anyhow::Error::new(Outer(missing())).context("p.csv");
        assert_eq!(told(&twice), "p.csv: cannot read it: no such file");
        assert_eq!(told(&anyhow::Error::new(missing()).context("p.csv")), "p.csv: no such file");
    }
}
