//! `sordino forget`: a bank without some rows, of which only the models that saw them are trained anew.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{bail, ensure};

use super::bank::{Rows, Trained, WorkFlags, expect_no_input, print_bank};
use crate::data::{Dataset, read_row_numbers};
use crate::lab::bank::forget::{FORGET_FILE, ForgetRecord, Forgetting};
use crate::lab::bank::merge::Bank;
use crate::lab::bank::place::Place;
use crate::lab::bank::run::Shard;

/// Make a bank forget rows: train anew the models that saw them, carry the others over.
///
/// With a bank of disjoint shards (`sordino ensemble train --sisa S`, SISA) each row is in one model of S. The new bank's plan, split
/// and inclusion matrix no longer hold the rows; forget.json says which models were trained anew and what that saved against
/// the recorded time of training all. Serve the new bank's joined graph, and remove the old bank: it still knows the rows.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A complete bank.
    #[arg(value_name = "BANK")]
    bank: String,
    /// The rows of the bank.
    #[arg(long, value_name = "SOURCE")]
    data: Rows,
    /// The rows to forget: one row number a line, counted from 0 as in a split file; `#` starts a comment.
    #[arg(long, value_name = "FILE")]
    rows: PathBuf,
    /// The bank without them: another folder or URL.
    #[arg(long, value_name = "BANK")]
    out: String,
    #[command(flatten)]
    work: WorkFlags,
}

/// Runs the command.
///
/// # Errors
///
/// When a file or a row is wrong, or a training diverges; the old bank is never changed.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let (from, to) = (Place::open(&args.bank)?, Place::open(&args.out)?);
    ensure!(args.bank != args.out, "--out: expected another place than the bank's");
    expect_no_input(&to, &args.data)?;
    let rows = read_row_numbers(&args.rows)?;
    let bank = Bank::read(&from)?;
    let dataset = Dataset::load(&args.data.source)?;
    let forgetting = Forgetting::plan(&bank, &dataset, &rows)?;
    forgetting.carry((&from, &bank), &to)?;
    let (n_retrained, n_models) = (forgetting.retrain.len(), forgetting.planned.plan.n_models());
    eprintln!("{} rows are in {n_retrained} of {n_models} models", forgetting.n_rows);
    let manifest = match args.work.train(&to, &forgetting.planned, (&args.data, &dataset), Shard::ALL)? {
        Trained::Interrupted(code) => return Ok(code),
        Trained::Shard => bail!("the whole bank is one shard here"),
        Trained::Whole(manifest) => manifest,
    };
    let record = forgetting.record((&from, &bank), (&to, &manifest))?;
    let mut bytes = serde_json::to_vec_pretty(&record)?;
    bytes.push(b'\n');
    to.write(FORGET_FILE, &bytes)?;
    print_bank(&to, &manifest);
    let (n, seconds, full) = (record.retrained.len(), record.retrain_seconds, record.full_seconds);
    println!(
        "{n} of {} models trained anew in {seconds} s; all of them took {full} s{}",
        record.n_models,
        saved(&record)
    );
    Ok(ExitCode::SUCCESS)
}

/// What that is less than all, where the clock can tell.
fn saved(record: &ForgetRecord) -> String {
    match record.saved {
        None => " (not to be compared: too short, or in several sittings)".to_owned(),
        Some(saved) if saved < 0.0 => format!(": {:.0} % more", -100.0 * saved),
        Some(saved) => format!(": {:.0} % saved", 100.0 * saved),
    }
}
