//! `sordino healthcheck`: asks one URL and says by exit code whether it answered 200. Made for containers without a
//! shell, where no `curl` is at hand.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};

use super::tls::TlsArgs;
use crate::client::endpoint::{Endpoint, Reach};
use crate::client::http;

/// Asks an endpoint whether it is ready: exit code 0 if it answers 200, 1 otherwise.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to ask, by http:// or https://.
    #[arg(long, default_value = "http://127.0.0.1:8000/v2/health/ready", value_name = "URL")]
    url: String,
    /// Longest wait for the answer, in milliseconds.
    #[arg(long, default_value_t = 2000, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=60_000))]
    timeout_ms: u64,
    #[command(flatten)]
    tls: TlsArgs,
}

/// Runs the command.
///
/// # Errors
///
/// When the URL cannot be used or nothing answers; another status than 200 is exit code 1 with a line on stderr.
pub fn run(args: &Args) -> Result<ExitCode> {
    let endpoint = Endpoint::with_tls(&args.url, Reach::Anywhere, &args.tls.settings(&[&args.url])?)?;
    let path = if endpoint.path().is_empty() { "/" } else { endpoint.path() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    runtime.block_on(http::get(&endpoint, path, Duration::from_millis(args.timeout_ms)))?.expect_ok(path)?;
    Ok(ExitCode::SUCCESS)
}
