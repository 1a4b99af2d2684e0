//! `sordino audit`: attack a model and its defences on rows whose membership is known, and report.
//!
//! This file knows the command line and the order of the work. `model`, `endpoint` and
//! `predictions` know where answers come from, `files` what is written, `record` what a report tells about the run.

mod endpoint;
mod files;
mod knowledge;
mod limits;
mod model;
mod pictures;
mod predictions;
mod questions;
mod random_points;
mod record;
mod shadows;
mod trainings;

use std::collections::HashSet;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use indicatif::{ProgressBar, ProgressStyle};

use self::endpoint::EndpointArgs;
use self::shadows::{Transfer, transfer};
use self::trainings::{Training, training};
use super::inspect::ScoreArgs;
use crate::audit::analysis::Analysis;
use crate::audit::duplicates::Duplicates;
use crate::audit::policy::Stands;
use crate::audit::render::{self, Layout};
use crate::audit::report::{self, Figure, Origin, Report, Settings};
use crate::audit::source::endpoint::Remote;
use crate::audit::source::predictions::TakenAs;
use crate::audit::source::sides::Sides;
use crate::audit::study::{self, Knowledge};
use crate::audit::system::{Skipped, System};
use crate::audit::target::Target;
use crate::audit::{analysis, enough, records};
use crate::data::{Canaries, DataSource, Dataset, Part, Split, read_row_numbers, write_atomic};
use crate::defence::{DefenceConfig, Method, ScoreKind};
use crate::pipeline::Pipeline;

/// Attack a model and its defences, and report what their answers tell about who was in the training set.
///
/// Members are the split's part `train`, non-members its part `test`; all go through the pipeline that `serve`
/// runs. Compared are the model itself, its temperature-scaled rival, the paper's method in several settings, the
/// defences given with --defence, and label-only answers, which are the floor of every defence that keeps the label.
/// Without arguments the bundled classifier is audited, on Debian's Fashion-MNIST.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The ONNX file; without it, the bundled classifier.
    #[arg(long, value_name = "FILE", requires = "data", requires = "sides", group = "audited")]
    model: Option<PathBuf>,
    /// The centroid file of that model; without it, only defences that need none.
    #[arg(long, value_name = "FILE", requires = "audited")]
    centroids: Option<PathBuf>,
    #[arg(long, value_name = "SOURCE", help = super::data_help("The labelled rows"))]
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
    /// The members are the canaries of `--data planted:…` that were trained on, the non-members those that were withheld: what
    /// a record that is hard to fit gives away. The split is the one that `sordino data plant` wrote.
    #[arg(long, requires = "split")]
    canaries: bool,
    /// A further training of the same recipe, with another seed or other members: its model, split and centroids. May be given
    /// several times; each is attacked as the first is, and the report tells mean and spread over trainings.
    #[arg(long, value_name = "MODEL,SPLIT[,CENTROIDS]", value_parser = training, requires = "model", requires = "split",
        conflicts_with_all = ["shadows", "shadow_model", "transfer_shadow", "random_points", "queries", "boundary", "canaries"])]
    training: Vec<Training>,
    /// Audit answers in a file (.csv with a header, .parquet, .npz) in place of a model: columns logit_N, p_N or log_p_N (N a class
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
    /// Hold the figures against limits (TOML, see deploy/audit-policy.toml): exit code 0 where all are held, 3 where one
    /// is violated, 4 where these rows cannot tell.
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// A bank of shadow models, as `sordino shadows` makes it: LiRA, RMIA and calibrated attacks, the defence before the
    /// shadow models too, and the risk of single records. Of a bank whose models never saw the audited rows (such as one of
    /// the split's part `shadow`) the offline attacks alone.
    #[arg(long, value_name = "DIR", conflicts_with = "predictions")]
    shadows: Option<PathBuf>,
    /// One shadow model: attacks are learned on its answers, behind the same defences, and judged on the target (ML-Leaks'
    /// adversary 1).
    #[arg(long, value_name = "FILE", requires = "shadow_split",
        conflicts_with_all = ["shadows", "predictions", "scores_only"])]
    shadow_model: Option<PathBuf>,
    /// The split of the shadow model's training: its part `train` it saw, `test` it did not; none of them the audit's rows.
    #[arg(long, value_name = "FILE", requires = "shadow_model")]
    shadow_split: Option<PathBuf>,
    /// A shadow model of OTHER data, of any shape and classes: its ONNX file, the split of its training and that data. Attacks
    /// on the three largest entries are learned on its answers, behind the same defences, and judged on the target (ML-Leaks'
    /// adversary 2).
    #[arg(long, value_name = "MODEL,SPLIT,SOURCE", value_parser = transfer, conflicts_with = "scores_only")]
    transfer_shadow: Option<Transfer>,
    /// Ask about N random points, each feature uniform over its range among the audited rows: whoever is answered more surely
    /// than nine in ten of them is called a member (ML-Leaks' adversary 3).
    #[arg(long, value_name = "N", conflicts_with = "predictions",
        value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    random_points: Option<u32>,
    /// Ask again about changed inputs (noise, flips, shifts), mixtures of records and the rows themselves: label-only
    /// attacks, and attacks on the scores around a record; 36 to 62 queries a row.
    #[arg(long, conflicts_with = "predictions")]
    queries: bool,
    /// Look for the decision boundary by labels alone (HopSkipJump; for binary tables by turning features over): some
    /// hundred queries a row.
    #[arg(long, conflicts_with = "predictions")]
    boundary: bool,
    /// Forms of each image that the shadow attacks look at: the image itself, its mirror image, then shifts. Each but the first
    /// is a further query.
    #[arg(long, value_name = "N", default_value_t = 1, requires = "shadows", conflicts_with = "predictions",
        value_parser = clap::value_parser!(u32).range(1..=10))]
    augment: u32,
    /// Audit the whole grid beside the standard defences: the paper's method at w = 1, .5 and 0, and masks and rounding
    /// with no method before them.
    #[arg(long, conflicts_with_all = ["predictions", "url"])]
    grid: bool,
    /// The score attacks alone: no classifier is trained, no threshold is set per class.
    #[arg(long)]
    scores_only: bool,
    /// The run record of the training, whose privacy claim the lower bound on ε is held against.
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Make the paper's analysis too: which rows are vulnerable and where they lie, with the controls (figures 2 and 3).
    #[arg(long)]
    analysis: bool,
    /// Draw the members that lie nearest to and farthest from their class centroid (images alone). The page and the JSON
    /// report then hold records of the training set.
    #[arg(long, requires = "analysis")]
    pictures: bool,
    /// The weights of the model (NAME.weights.safetensors, as `train` writes them): lays over each picture where the
    /// network sees the class (Grad-CAM at its last convolution).
    #[cfg(feature = "lab")]
    #[arg(long, value_name = "FILE", requires = "pictures", conflicts_with = "url")]
    heatmaps: Option<PathBuf>,
    /// Write the report as one page of HTML, which needs no network and no script.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write a line for each record: under every system its label, the scaled logit of the true label, and, for records of the
    /// verdict, the score of the headline's attack and whether its rule calls the record a member; with --shadows the
    /// record's risk over all shadow models too.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
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
    // Its headings hold for whatever follows.
    #[command(flatten)]
    endpoint: EndpointArgs,
}

fn score_kind(word: &str) -> Result<ScoreKind, String> {
    let all = [ScoreKind::Logits, ScoreKind::Probabilities, ScoreKind::LogProbabilities];
    let found = all.into_iter().find(|kind| kind.name() == word);
    found.ok_or_else(|| format!("expected logits, probabilities or log_probabilities, got {word:?}"))
}

fn above_zero(word: &str) -> Result<f64, String> {
    let number = word.parse().ok().filter(|number: &f64| number.is_finite() && *number > 0.0);
    number.ok_or_else(|| format!("expected a number above 0, got {word:?}"))
}

/// What is to be studied, wherever its answers come from.
struct Case {
    target: Target,
    systems: Vec<System>,
    skipped: Vec<Skipped>,
    origin: Origin,
    /// What must be said of systems that use centroids.
    centroid_doubts: Vec<String>,
    /// The rows, where they are at hand.
    dataset: Option<Dataset>,
    /// Who is on which side of the data set.
    sides: Option<Sides>,
    /// Who answers further questions.
    asker: Asker,
    /// What defends an endpoint, where the auditor says so.
    known_defence: Option<DefenceConfig>,
}

/// Whoever answers further questions.
enum Asker {
    Pipeline(Box<Pipeline>),
    Remote(Box<Remote>),
    Nobody,
}

fn taken_as(word: &str) -> Result<TakenAs, String> {
    match word {
        "served" => Ok(TakenAs::Served),
        "undefended" => Ok(TakenAs::Undefended),
        other => Err(format!("expected served or undefended, got {other:?}")),
    }
}

/// Exit code where a limit of the policy is violated.
const VIOLATED: u8 = 3;
/// Exit code where the rows cannot tell whether a limit is held.
const UNDECIDED: u8 = 4;

/// Runs the command. Without a policy the exit code is 0 whatever was found: a measurement, and no gate.
///
/// # Errors
/// When a file cannot be read or written, or model, centroids, data and split do not belong together.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    files::check(args)?;
    shadows::check(args)?;
    #[cfg(feature = "lab")]
    pictures::check_weights(args)?;
    let policy = args.policy.as_deref().map(limits::read).transpose()?;
    let mut settings = Settings {
        seed: args.seed,
        n_permutations: args.permutations as usize,
        n_resamples: args.bootstrap as usize,
        learned: !args.scores_only,
        per_class: !args.scores_only,
        ..Settings::default()
    };
    for limit in policy.iter().flat_map(|policy| &policy.tpr_at_fpr) {
        if !settings.fpr_targets.contains(&limit.fpr) {
            settings.fpr_targets.push(limit.fpr);
        }
    }
    trainings::check(args)?;
    let claim = args.record.as_deref().map(record::claim).transpose().context("--record")?;
    let transferred = shadows::transferred(args)?;
    if args.endpoint.url.is_none() {
        // Flags of TLS are for an endpoint alone.
        args.endpoint.tls.settings(&[])?;
    }
    let mut case = match (&args.predictions, &args.endpoint.url) {
        (Some(path), _) => predictions::case(args, path)?,
        (None, Some(url)) => endpoint::case(args, url)?,
        (None, None) => model::case(args)?,
    };
    if let Some(policy) = &policy {
        limits::check(policy, &case.systems, !case.target.calibration().1.is_empty())?;
    }
    pictures::check(args, &case)?;
    let knowledge = knowledge::gather(args, &mut case, claim, transferred.as_ref(), &settings)?;
    let bar = args.bar(case.systems.len(), "attacks", "systems");
    let mut progress = |_: &str, done: usize| bar.set_position(done as u64);
    let skipped = std::mem::take(&mut case.skipped);
    let outcome = study::run_with(&case.target, &case.systems, skipped, &settings, &knowledge, &mut progress);
    bar.finish_and_clear();
    let mut outcome = outcome?;
    let findings = &mut outcome.findings;
    for found in findings.systems.iter_mut().filter(|found| found.defence.as_ref().is_some_and(needs_centroids)) {
        found.flags.extend(case.centroid_doubts.iter().cloned());
    }
    let mut report = Report {
        format: report::FORMAT,
        format_version: report::FORMAT_VERSION,
        origin: case.origin.clone(),
        findings: outcome.findings.clone(),
        trainings: Figure::missing("one training was audited (--training)"),
        analysis: Figure::missing("it was not asked for (--analysis)"),
        policy: Figure::missing("no policy was given"),
        not_tried: knowledge::not_tried(args, &case, &knowledge),
    };
    // What fails from here on must not cost the study: the report is written first.
    let mut failed: Vec<anyhow::Error> = Vec::new();
    if !args.training.is_empty()
        && let Some(found) = kept(trainings::over_trainings(args, &report, &settings), &mut failed)
    {
        report.trainings = Figure::known(found);
    }
    if args.analysis {
        report.analysis = analysed(&case, &knowledge, &settings);
        if let Some(reason) = &report.analysis.reason {
            alarm(&[format!("--analysis: there is none, {reason}")]);
        }
        if let Some(found) = report.analysis.value.as_mut().filter(|_| args.pictures) {
            found.pictures = kept(pictures::draw(args, &case, &found.extremes), &mut failed).unwrap_or_default();
        }
    }
    if let Some(policy) = policy {
        report.policy = match policy.judge(&report.findings) {
            Ok(verdict) => Figure::known(verdict),
            Err(error) => {
                let missing = Figure::missing(format!("the policy could not be held: {error}"));
                failed.push(anyhow::Error::new(error).context("--policy"));
                missing
            }
        };
    }
    print!("{}", render::report(&report, Layout::Terminal));
    alarm(&report.findings.warnings);
    files::write(args, &report, &mut failed);
    if let Some(path) = &args.csv {
        let table = records::csv(&case.target, &outcome).context("--csv");
        let written = table
            .and_then(|table| write_atomic(path, &table).with_context(|| format!("cannot write {}", path.display())));
        kept(written, &mut failed);
    }
    if let Some(first) = failed.into_iter().next() {
        return Err(first);
    }
    Ok(match report.policy.value.map(|verdict| verdict.stands) {
        None | Some(Stands::Held) => ExitCode::SUCCESS,
        Some(Stands::Violated) => ExitCode::from(VIOLATED),
        Some(Stands::Undecided) => ExitCode::from(UNDECIDED),
    })
}

/// A value, or nothing and its error kept for the end.
fn kept<T>(result: anyhow::Result<T>, failed: &mut Vec<anyhow::Error>) -> Option<T> {
    result.map_err(|error| failed.push(error)).ok()
}

/// What puts every figure in doubt, once more at the end and in red, where somebody looks.
fn alarm(warnings: &[String]) {
    let (red, plain) = if std::io::stderr().is_terminal() { ("\x1b[1;31m", "\x1b[0m") } else { ("", "") };
    for warning in warnings {
        eprintln!("{red}WARNING: {warning}{plain}");
    }
}

/// The paper's analysis; it needs the model's own scores.
fn analysed(case: &Case, knowledge: &Knowledge, settings: &Settings) -> Figure<Analysis> {
    let target = &case.target;
    if !target.allows().logits {
        return Figure::missing("it needs the model's own scores");
    }
    let logits = target.logits();
    let (labels, n_members, dataset_rows) = (target.labels(), target.n_members(), target.dataset_rows());
    let vulnerability = knowledge::vulnerability(case, knowledge).value;
    let vulnerability = vulnerability.as_deref();
    let rows = analysis::Rows { logits: &logits, labels, n_members, dataset_rows, vulnerability };
    Figure::known(analysis::analyse(&rows, settings.level, settings.seed, true))
}

fn needs_centroids(config: &DefenceConfig) -> bool {
    !matches!(config.method, Method::LabelOnly | Method::AsIs)
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
                let sides = if self.canaries { self.canary_sides(&split)? } else { Sides::of_split(&split) };
                (sides, Some(split))
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
        enough::check(sides.members().len(), sides.non_members().len(), enough::LEVEL)?;
        Ok(Some((sides, split)))
    }

    /// The canaries of the planted data, and the split's calibration rows.
    fn canary_sides(&self, split: &Split) -> anyhow::Result<Sides> {
        let Some(DataSource::Planted { canaries, .. }) = &self.data else {
            bail!("--canaries: expected --data planted:CANARIES,SOURCE");
        };
        let canaries = Canaries::read(canaries)?;
        let train: HashSet<usize> = split.part(Part::Train).iter().copied().collect();
        let wrong = canaries.rows().iter().find(|canary| train.contains(&canary.row) != canary.trained);
        if let Some(canary) = wrong {
            bail!(
                "--split: row {} is a canary that the split {} and the file of canaries {}",
                canary.row,
                if canary.trained { "does not train on" } else { "trains on" },
                if canary.trained { "does" } else { "does not" }
            );
        }
        Ok(Sides::new(canaries.trained(), canaries.withheld(), split.part(Part::Calibration).to_vec())?)
    }

    /// A bar over `n` things that `unit` names, hidden where none is wanted.
    fn bar(&self, n: usize, what: &'static str, unit: &'static str) -> ProgressBar {
        let bar = if self.quiet { ProgressBar::hidden() } else { ProgressBar::new(n as u64) };
        let template = format!("{{msg:10}} {{wide_bar}} {{pos}}/{{len}} {unit}, {{per_sec}}, {{eta}} left");
        if let Ok(style) = ProgressStyle::with_template(&template) {
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
        assert!(parse(&["--model", "m.onnx", "--data", "idx:d", "--split", "s", "--canaries"]).is_ok());
        assert!(parse(&["--canaries"]).is_err(), "canaries are of a split");
        let first = ["--model", "m.onnx", "--data", "idx:d", "--split", "s"];
        assert!(parse(&[&first[..], &["--training", "n.onnx,t", "--training", "o.onnx,u,c"]].concat()).is_ok());
        for bad in ["n.onnx", "n.onnx,", ",t", "n.onnx,t,", "n.onnx,t,c,d"] {
            assert!(parse(&[&first[..], &["--training", bad]].concat()).is_err(), "{bad}");
        }
        assert!(parse(&[&first[..], &["--training", "n.onnx,t", "--queries"]].concat()).is_err());
        assert!(parse(&["--predictions", "p.csv"]).is_ok());
        assert!(parse(&["--predictions", "p.csv", "--scores-of", "undefended"]).is_ok());
        assert!(parse(&["--predictions", "p.csv", "--scores-of", "else"]).is_err());
        assert!(parse(&["--predictions", "p.csv", "--model", "m", "--data", "idx:d", "--split", "s"]).is_err());
        assert!(parse(&["--scores-of", "undefended"]).is_err());
        let asked = ["--endpoint", "http://127.0.0.1:1/v2/models/m", "--data", "idx:d", "--split", "s"];
        assert!(parse(&asked).is_ok());
        assert!(parse(&[&asked[..], &["--rate", "0"]].concat()).is_err());
        assert!(parse(&[&asked[..], &["--rate", "5", "--query-budget", "100"]].concat()).is_ok());
        assert!(parse(&[&asked[..], &["--model", "m.onnx"]].concat()).is_err());
        assert!(parse(&["--rate", "5"]).is_err());
        assert!(parse(&["--centroids", "c"]).is_err());
        assert!(parse(&["--bootstrap", "5"]).is_err());
    }
}
