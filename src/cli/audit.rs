//! `sordino audit`: attack a model and its defences on rows whose membership is known, and report.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest, Sha256};

use super::inspect::ScoreArgs;
use super::origin::{Commit, Machine};
use crate::artifact::ModelDigest;
use crate::audit::duplicates::Duplicates;
use crate::audit::render::{self, Layout};
use crate::audit::report::{self, Figure, Findings, Origin, Report, Settings};
use crate::audit::system::{System, build_all};
use crate::audit::target::Target;
use crate::audit::{collect, study};
use crate::data::{DataSource, Dataset, Part, Split, check_writable, hex, is_same_file, write_atomic};
use crate::defence::{Defence, DefenceConfig, Fitted, Method};
use crate::engine::Engine as _;
use crate::engine::tract::TractEngine;
use crate::pipeline::{Identity, Pipeline, bundled, read_for};

/// Attack a model and its defences, and report what their answers tell about who was in the training set.
///
/// Members are the split's part `train`, non-members its part `test`; all go through the pipeline that `serve`
/// runs. Compared are the model itself, its temperature-scaled rival, the paper's method in several settings, the
/// defences given with --defence, and label-only answers, which are the floor of every defence that keeps the label.
/// Without arguments the bundled classifier is audited, on Debian's Fashion-MNIST.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The ONNX file; without it, the bundled classifier.
    #[arg(long, value_name = "FILE", requires = "data", requires = "split")]
    model: Option<PathBuf>,
    /// The centroid file of that model; without it, only defences that need none.
    #[arg(long, value_name = "FILE", requires = "model")]
    centroids: Option<PathBuf>,
    #[arg(long, value_name = "SOURCE", help = super::data_help("The labelled rows"))]
    data: Option<DataSource>,
    /// The split file of the training run.
    #[arg(long, value_name = "FILE", requires = "model")]
    split: Option<PathBuf>,
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

/// Everything that an audit reads, checked to belong together.
struct Subject {
    name: String,
    model_digest: ModelDigest,
    scores_decided: String,
    artifact_digest: Figure<String>,
    fitted: Option<Arc<Fitted>>,
    /// What must be said about the centroid file's rows.
    doubts: Vec<String>,
    pipeline: Pipeline,
    source: DataSource,
    dataset: Dataset,
    split: Split,
}

/// Runs the command. The exit code is 0 whatever was found: this is a measurement and no gate.
///
/// # Errors
/// When a file cannot be read or written, or model, centroids, data and split do not belong together.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    args.check_outputs()?;
    let given = args.defence.iter().map(|path| read_defence(path)).collect::<anyhow::Result<Vec<_>>>()?;
    let subject = Subject::load(args)?;
    let spec = subject.pipeline.engine().spec().clone();
    let (systems, skipped) = build_all(&given, subject.fitted.as_ref(), spec.score_kind, spec.n_classes)
        .map_err(|(name, error)| anyhow::Error::new(error).context(format!("defence {name:?}")))?;

    let start = Instant::now();
    let target = subject.collect(args)?;
    let inference_seconds = start.elapsed().as_secs_f64();
    let settings = Settings {
        seed: args.seed,
        n_permutations: args.permutations as usize,
        n_resamples: args.bootstrap as usize,
        ..Settings::default()
    };
    let mut findings = study::run(&target, &systems, skipped, &settings)?;
    for found in findings.systems.iter_mut().filter(|found| found.defence.as_ref().is_some_and(needs_centroids)) {
        found.flags.extend(subject.doubts.iter().cloned());
    }
    let pipeline_agrees = subject.pipeline_agrees(args.batch_size as usize, &systems, &target)?;
    let report = subject.report(findings, pipeline_agrees, inference_seconds);
    subject.dataset.check_read().map_err(|error| anyhow::anyhow!("{error}"))?;

    print!("{}", render::report(&report, Layout::Terminal));
    if let Some(path) = &args.json {
        let mut json = serde_json::to_vec_pretty(&report)?;
        json.push(b'\n');
        write(path, &json)?;
    }
    if let Some(path) = &args.markdown {
        write(path, render::report(&report, Layout::Markdown).as_bytes())?;
    }
    Ok(ExitCode::SUCCESS)
}

impl Args {
    /// Stops before the first inference where a report could not be written, or would replace an input or the other
    /// report.
    fn check_outputs(&self) -> anyhow::Result<()> {
        let source = self.data.clone().unwrap_or(DataSource::FashionMnist(None));
        let inputs = [&self.model, &self.centroids, &self.split].into_iter().flatten().chain(&self.defence);
        let inputs: Vec<&PathBuf> = inputs.collect();
        for (argument, out) in [("--json", &self.json), ("--markdown", &self.markdown)] {
            let Some(out) = out else { continue };
            let is_input = inputs.iter().any(|input| is_same_file(input, out)) || source.reads(out);
            ensure!(!is_input, "{argument}: {} is an input", out.display());
            check_writable(out).with_context(|| format!("cannot write {}", out.display()))?;
        }
        let is_twice = matches!((&self.json, &self.markdown), (Some(json), Some(markdown))
            if json == markdown || is_same_file(json, markdown));
        ensure!(!is_twice, "--json and --markdown name one file");
        Ok(())
    }
}

fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    write_atomic(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

fn needs_centroids(config: &DefenceConfig) -> bool {
    config.method != Method::LabelOnly
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

impl Subject {
    fn load(args: &Args) -> anyhow::Result<Self> {
        let (name, model, centroids, split) = match &args.model {
            None => {
                let split = Split::from_bytes(bundled::SPLIT).context("the bundled split")?;
                (bundled::NAME.to_owned(), bundled::MODEL.to_vec(), Some(bundled::CENTROIDS.to_vec()), split)
            }
            Some(path) => {
                let Some(split) = &args.split else { bail!("--model needs --split") };
                let split = Split::read(split).with_context(|| split.display().to_string())?;
                let centroids = args.centroids.as_deref().map(read).transpose()?;
                let name = path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
                (name, read(path)?, centroids, split)
            }
        };
        let source = args.data.clone().unwrap_or(DataSource::FashionMnist(None));
        let dataset = Dataset::load(&source)?;
        split.check(&dataset)?;
        let model_digest = ModelDigest::of(&model);
        let file = centroids.as_deref().map(|bytes| read_for(bytes, model_digest)).transpose()?;
        let engine = TractEngine::load(&model, &args.scores.options())?;
        let spec = engine.spec();
        ensure!(
            spec.n_classes == dataset.n_classes(),
            "the model has {} classes, the data has {}",
            spec.n_classes,
            dataset.n_classes()
        );
        if let Some(labels) = &spec.labels {
            dataset.check_names(labels)?;
        }
        let mut doubts = Vec::new();
        if let Some(file) = &file {
            let expected = format!("{} {}", split.digest(), Part::Train.name());
            if file.metadata.data.split.as_deref() != Some(expected.as_str()) {
                doubts.push(
                    "the centroid file does not say that it was fitted on this split's train rows: if it saw others, \
                     they are not untouched here (R17)"
                        .to_owned(),
                );
            }
        }
        let fitted = file.map(|file| file.fitted);
        // What `serve` runs by default; without centroids the one defence that needs none.
        let config = match fitted {
            Some(_) => DefenceConfig::default(),
            None => DefenceConfig { method: Method::LabelOnly, top_k: None, digits: None },
        };
        let defence = Defence::new(&config, fitted.clone(), spec.score_kind, spec.n_classes)?;
        let scores_decided = spec.how_decided.clone();
        let identity =
            Identity { name: name.clone(), version: "1".to_owned(), labels: Vec::new(), model: model_digest };
        let pipeline = Pipeline::new(Arc::new(engine), defence, identity)?;
        let digest = centroids.map(|bytes| hex(&Sha256::digest(bytes)));
        let artifact_digest = Figure::or(digest, "no centroid file was given");
        Ok(Self {
            name,
            model_digest,
            scores_decided,
            artifact_digest,
            fitted,
            doubts,
            pipeline,
            source,
            dataset,
            split,
        })
    }

    fn collect(&self, args: &Args) -> anyhow::Result<Target> {
        let parts = [Part::Train, Part::Test, Part::Calibration];
        let n_rows: usize = parts.iter().map(|&part| self.split.part(part).len()).sum();
        let bar = if args.quiet { ProgressBar::hidden() } else { ProgressBar::new(n_rows as u64) };
        if let Ok(style) = ProgressStyle::with_template("{msg:10} {wide_bar} {pos}/{len} rows, {per_sec}, {eta} left") {
            bar.set_style(style);
        }
        bar.set_message("inference");
        let mut progress = |n: usize| bar.inc(n as u64);
        let batch_rows = args.batch_size as usize;
        let target = Target::collect(&self.pipeline, &self.dataset, &self.split, batch_rows, &mut progress);
        bar.finish_and_clear();
        Ok(target?)
    }

    /// Whether the pipeline as it serves answers the first batch as the system of the same settings did.
    fn pipeline_agrees(&self, batch_rows: usize, systems: &[System], target: &Target) -> anyhow::Result<Figure<bool>> {
        let served = self.pipeline.defence().config();
        let Some(system) = systems.iter().find(|system| system.config() == Some(served)) else {
            return Ok(Figure::missing("no system has the pipeline's settings"));
        };
        let rows = &target.dataset_rows()[..batch_rows.min(target.n_rows())];
        let inputs = collect::inputs_of(&self.pipeline, &self.dataset, rows)?;
        let answer = self.pipeline.defend(&inputs)?;
        let Some(measured) = system.answer(target, &target.logits(), None)? else {
            return Ok(Figure::missing("the system gave no answer"));
        };
        let measured = measured.probabilities.iter().take(rows.len() * target.n_classes());
        Ok(Figure::known(answer.probabilities().iter().map(|&p| f64::from(p)).eq(measured.copied())))
    }

    fn report(&self, findings: Findings, pipeline_agrees: Figure<bool>, inference_seconds: f64) -> Report {
        Report {
            format: report::FORMAT,
            format_version: report::FORMAT_VERSION,
            origin: Origin {
                command: command_line(),
                sordino_version: env!("CARGO_PKG_VERSION"),
                commit: commit(),
                machine: machine(),
                model: self.name.clone(),
                model_digest: self.model_digest.to_string(),
                scores_decided: self.scores_decided.clone(),
                artifact_digest: self.artifact_digest.clone(),
                data_source: self.source.to_string(),
                dataset_digest: self.dataset.digest(),
                split_digest: self.split.digest(),
                split_seed: self.split.seed(),
                duplicates: Duplicates::count(&self.dataset, self.split.part(Part::Train), self.split.part(Part::Test)),
                pipeline_agrees,
                inference_seconds,
            },
            findings,
            not_tried: report::NOT_TRIED.to_vec(),
        }
    }
}

/// The command line as it was typed, of the program its name alone and of absolute paths the last part alone: a
/// report never tells about the machine that it was made on.
fn command_line() -> String {
    let words = std::env::args().skip(1).map(|word| {
        let word = shortened(&word);
        if word.contains(' ') { format!("'{word}'") } else { word }
    });
    std::iter::once("sordino".to_owned()).chain(words).collect::<Vec<_>>().join(" ")
}

/// A word of the command line: `/a/b`, `csv:/a/b`, `--data=/a/b` without `/a/`.
fn shortened(word: &str) -> String {
    let start = if word.starts_with('/') { Some(0) } else { [":/", "=/"].iter().filter_map(|at| word.find(at)).min() };
    let Some(start) = start else { return word.to_owned() };
    let (prefix, path) = word.split_at(if start == 0 { 0 } else { start + 1 });
    let name = Path::new(path).file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    format!("{prefix}{name}")
}

/// The commit that this program was built from.
fn commit() -> Figure<String> {
    Figure::or(Commit::of_build().map(|commit| commit.to_string()), "not built in a checkout of the source")
}

/// The machine in words: processor, cores, operating system.
fn machine() -> String {
    Machine::here().to_string()
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
    fn a_record_of_the_command_line_holds_no_absolute_path() {
        for (typed, shown) in [
            ("/a/b/m.onnx", "m.onnx"),
            ("csv:/a/b", "csv:b"),
            ("--data=csv:/a/b", "--data=csv:b"),
            ("--model=/a/m.onnx", "--model=m.onnx"),
            ("target/m.onnx", "target/m.onnx"),
            ("--seed", "--seed"),
        ] {
            assert_eq!(shortened(typed), shown);
        }
    }

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn parse(words: &[&str]) -> Result<Args, clap::Error> {
        <Line as clap::Parser>::try_parse_from([&["audit"], words].concat()).map(|line| line.args)
    }

    #[test]
    fn a_report_replaces_no_input_and_no_other_report() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| {
            std::fs::write(dir.path().join(name), "").unwrap();
            dir.path().join(name).display().to_string()
        };
        let [model, centroids, split, table, defence] =
            ["m.onnx", "c.safetensors", "s.json", "t.csv", "d.toml"].map(|name| at(name));
        let data = format!("csv:{table}");
        let out = dir.path().join("report").display().to_string();
        let words =
            ["--model", &model, "--centroids", &centroids, "--split", &split, "--data", &data, "--defence", &defence];
        let check = |more: &[&str]| parse(&[&words, more].concat()).unwrap().check_outputs();
        assert!(check(&["--json", &out]).is_ok());
        for input in [&model, &centroids, &split, &table, &defence] {
            for argument in ["--json", "--markdown"] {
                let error = check(&[argument, input]).unwrap_err().to_string();
                assert!(error.starts_with(argument) && error.ends_with("is an input"), "{error}");
            }
        }
        assert!(check(&["--json", &out, "--markdown", &out]).unwrap_err().to_string().contains("one file"));
        assert!(check(&["--json", &format!("{out}/none/r.json")]).is_err());
    }

    #[test]
    fn the_arguments_hang_together() {
        assert!(parse(&[]).is_ok());
        assert!(parse(&["--data", "fashion-mnist:d", "--permutations", "0"]).is_ok());
        assert!(parse(&["--model", "m.onnx", "--data", "idx:d"]).is_err());
        assert!(parse(&["--model", "m.onnx", "--data", "idx:d", "--split", "s"]).is_ok());
        assert!(parse(&["--centroids", "c"]).is_err());
        assert!(parse(&["--bootstrap", "5"]).is_err());
    }
}
