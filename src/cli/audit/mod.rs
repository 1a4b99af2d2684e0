//! `sordino audit`: attack a model and its defences on rows whose membership is known, and report.
//!
//! This file knows the command line and the order of the work. [`model`] and [`predictions`] know
//! where answers come from, [`files`] what is written, [`record`] what a report tells about the run.

mod files;
mod model;
mod predictions;
mod record;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use indicatif::{ProgressBar, ProgressStyle};

use super::inspect::ScoreArgs;
use crate::audit::duplicates::Duplicates;
use crate::audit::render::{self, Layout};
use crate::audit::report::{self, Figure, Origin, Report, Settings};
use crate::audit::source::predictions::TakenAs;
use crate::audit::source::sides::Sides;
use crate::audit::study;
use crate::audit::system::{Skipped, System};
use crate::audit::target::Target;
use crate::data::{DataSource, Dataset, Split, read_row_numbers};
use crate::defence::DefenceConfig;

/// Attack a model and its defences, and report what their answers tell about who was in the training set.
///
/// Members are the split's part `train`, non-members its part `test`; all go through the pipeline that `serve`
/// runs. Compared are the model itself, its temperature-scaled rival, the paper's method in several settings, the
/// defences given with --defence, and label-only answers, which are the floor of every defence that keeps the label.
/// Without arguments the bundled classifier is audited, on Debian's Fashion-MNIST.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The ONNX file; without it, the bundled classifier.
    #[arg(long, value_name = "FILE", requires = "data", requires = "sides")]
    model: Option<PathBuf>,
    /// The centroid file of that model; without it, only defences that need none.
    #[arg(long, value_name = "FILE", requires = "model")]
    centroids: Option<PathBuf>,
    /// The labelled rows: `fashion-mnist`, `fashion-mnist:DIR`, `idx:DIR`, `folder:DIR` or `csv:FILE`.
    #[arg(long, value_name = "SOURCE")]
    data: Option<DataSource>,
    /// The split file of the training run: its part `train` are the members, `test` the non-members.
    #[arg(long, value_name = "FILE", group = "sides")]
    split: Option<PathBuf>,
    /// In place of a split: a file with the row numbers of the members, one a line, from 0.
    #[arg(long, value_name = "FILE", group = "sides", requires = "non_members", conflicts_with = "split")]
    members: Option<PathBuf>,
    /// The row numbers of the non-members.
    #[arg(long, value_name = "FILE", requires = "members")]
    non_members: Option<PathBuf>,
    /// The row numbers on which a temperature is fitted.
    #[arg(long, value_name = "FILE", requires = "members")]
    calibration_rows: Option<PathBuf>,
    /// Audit answers in a file (.csv, with a header) in place of a model: columns logit_N, p_N or log_p_N (N a class
    /// from 0) or `predicted`, with `label`, `member` and `row`; the last three may come from --data and --split.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["model", "centroids", "defence"])]
    predictions: Option<PathBuf>,
    /// What the file's scores are: `served`, what some system answered, judged as it stands; or `undefended`, the
    /// model's own scores, to which the audit's systems are applied.
    #[arg(long, value_name = "WHAT", default_value = "served", value_parser = taken_as, requires = "predictions")]
    scores_of: TakenAs,
    /// A defence to audit beside the standard ones: a TOML file with a `[defence]` section as `serve` takes it. May
    /// be given several times.
    #[arg(long, value_name = "FILE")]
    defence: Vec<PathBuf>,
    /// Seed of the deal of rows, the permutations and the bootstrap.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Permutations of the null; 0 leaves it out.
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    permutations: u32,
    /// Resamples of the paired bootstrap.
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    bootstrap: u32,
    /// Write the report as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the tables as Markdown.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Rows per inference.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    batch_size: u32,
    /// No progress bar.
    #[arg(long)]
    quiet: bool,
    #[command(flatten)]
    scores: ScoreArgs,
}

/// What is to be studied, wherever its answers come from.
struct Case {
    target: Target,
    systems: Vec<System>,
    skipped: Vec<Skipped>,
    origin: Origin,
}

fn taken_as(word: &str) -> Result<TakenAs, String> {
    match word {
        "served" => Ok(TakenAs::Served),
        "undefended" => Ok(TakenAs::Undefended),
        other => Err(format!("expected served or undefended, got {other:?}")),
    }
}

/// Runs the command. The exit code is 0 whatever was found: this is a measurement and no gate.
///
/// # Errors
/// When a file cannot be read or written, or model, centroids, data and split do not belong together.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    files::check(args)?;
    let settings = Settings {
        seed: args.seed,
        n_permutations: args.permutations as usize,
        n_resamples: args.bootstrap as usize,
        ..Settings::default()
    };
    let report = match &args.predictions {
        Some(path) => {
            let Case { target, systems, skipped, origin } = predictions::case(args, path)?;
            let findings = study::run(&target, &systems, skipped, &settings)?;
            finished(origin, findings)
        }
        None => model::report(args, &settings)?,
    };
    print!("{}", render::report(&report, Layout::Terminal));
    files::write(args, &report)?;
    Ok(ExitCode::SUCCESS)
}

fn finished(origin: Origin, findings: report::Findings) -> Report {
    Report {
        format: report::FORMAT,
        format_version: report::FORMAT_VERSION,
        origin,
        findings,
        not_tried: report::NOT_TRIED.to_vec(),
    }
}

impl Args {
    /// The sides by a split or by files of row numbers, with the split; `None` where neither is given.
    fn sides(&self, dataset: Option<&Dataset>) -> anyhow::Result<Option<(Sides, Option<Split>)>> {
        let (sides, split) = match (&self.split, &self.members) {
            (Some(path), _) => {
                let split = Split::read(path).with_context(|| path.display().to_string())?;
                if let Some(dataset) = dataset {
                    split.check(dataset)?;
                }
                (Sides::of_split(&split), Some(split))
            }
            (None, Some(members)) => {
                let rows = |path: &Option<PathBuf>| {
                    let rows = path.as_ref().map(|path| read_row_numbers(path)).transpose();
                    rows.map(Option::unwrap_or_default)
                };
                let members = read_row_numbers(members)?;
                (Sides::new(members, rows(&self.non_members)?, rows(&self.calibration_rows)?)?, None)
            }
            (None, None) => return Ok(None),
        };
        if let Some(dataset) = dataset {
            sides.check(dataset.n_rows())?;
        }
        Ok(Some((sides, split)))
    }

    /// A bar over `n_rows` rows, hidden where none is wanted.
    fn bar(&self, n_rows: usize, what: &'static str) -> ProgressBar {
        let bar = if self.quiet { ProgressBar::hidden() } else { ProgressBar::new(n_rows as u64) };
        if let Ok(style) = ProgressStyle::with_template("{msg:10} {wide_bar} {pos}/{len} rows, {per_sec}, {eta} left") {
            bar.set_style(style);
        }
        bar.set_message(what);
        bar
    }
}

/// What a report holds of a split: its digest and its seed.
fn split_record(split: Option<&Split>) -> (Figure<String>, Figure<u64>) {
    let none = "the sides do not come from a split";
    (Figure::or(split.map(Split::digest), none), Figure::or(split.map(Split::seed), none))
}

fn duplicates(dataset: &Dataset, sides: &Sides) -> Duplicates {
    Duplicates::count(dataset, sides.members(), sides.non_members())
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// A defence from the `[defence]` section of a TOML file, other sections left alone; its name is the file's.
fn read_defence(path: &Path) -> anyhow::Result<(String, DefenceConfig)> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {shown}"))?;
    let file: toml::Table = text.parse().with_context(|| shown.to_string())?;
    let Some(section) = file.get("defence") else {
        bail!("{shown}: expected a section [defence], there is none");
    };
    let config: DefenceConfig = section.clone().try_into().with_context(|| format!("{shown}, [defence]"))?;
    if let Err(wrong) = config.check() {
        let wrong: Vec<String> = wrong.iter().map(ToString::to_string).collect();
        bail!("{shown}: {}", wrong.join("; "));
    }
    let name = path.file_stem().map_or_else(|| shown.to_string(), |stem| stem.to_string_lossy().into_owned());
    Ok((name, config))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::defence::Method;

    fn defence_file(text: &str) -> anyhow::Result<(String, DefenceConfig)> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mine.toml");
        std::fs::write(&path, text).unwrap();
        read_defence(&path)
    }

    #[test]
    fn a_defence_is_read_from_its_section() {
        let text = "[server]\nlisten = 1\n[defence]\ntop_k = 2\nmethod = { reweight = { weight = 0.3 } }\n";
        let (name, config) = defence_file(text).unwrap();
        assert_eq!((name.as_str(), config.summary().as_str()), ("mine", "reweight w=0.3 + top-2"));
        let (_, config) = defence_file("defence = { method = \"label-only\" }").unwrap();
        assert_eq!(config.method, Method::LabelOnly);
    }

    #[test]
    fn a_defence_file_that_is_wrong_is_refused_with_what_is_wrong() {
        let refused = |text: &str| format!("{:#}", defence_file(text).unwrap_err());
        assert!(refused("method = \"label-only\"").contains("expected a section [defence]"));
        assert!(refused("[defence]\nmethod = \"label-only\"\nextra = 1").contains("unknown field `extra`"));
        let both = refused("[defence]\ntop_k = 0\nmethod = { reweight = { weight = 3.0 } }");
        assert!(both.contains("weight must be") && both.contains("top_k must be"), "{both}");
    }

    #[test]
    fn the_arguments_hang_together() {
        #[derive(Debug, clap::Parser)]
        struct Line {
            #[command(flatten)]
            args: Args,
        }
        let parse =
            |words: &[&str]| <Line as clap::Parser>::try_parse_from([&["audit"], words].concat()).map(|line| line.args);
        assert!(parse(&[]).is_ok());
        assert!(parse(&["--data", "fashion-mnist:d", "--permutations", "0"]).is_ok());
        assert!(parse(&["--model", "m.onnx", "--data", "idx:d"]).is_err());
        assert!(parse(&["--model", "m.onnx", "--data", "idx:d", "--split", "s"]).is_ok());
        assert!(parse(&["--model", "m.onnx", "--data", "idx:d", "--members", "a", "--non-members", "b"]).is_ok());
        assert!(parse(&["--model", "m.onnx", "--data", "idx:d", "--members", "a"]).is_err());
        assert!(parse(&["--predictions", "p.csv"]).is_ok());
        assert!(parse(&["--predictions", "p.csv", "--scores-of", "undefended"]).is_ok());
        assert!(parse(&["--predictions", "p.csv", "--scores-of", "else"]).is_err());
        assert!(parse(&["--predictions", "p.csv", "--model", "m", "--data", "idx:d", "--split", "s"]).is_err());
        assert!(parse(&["--scores-of", "undefended"]).is_err());
        assert!(parse(&["--centroids", "c"]).is_err());
        assert!(parse(&["--bootstrap", "5"]).is_err());
    }
}
