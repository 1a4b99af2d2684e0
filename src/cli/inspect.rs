//! `sordino inspect`: what a model takes and gives, which output holds scores, and how that was decided.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::ValueEnum;

use crate::artifact::ModelDigest;
use crate::defence::ScoreKind;
use crate::engine::inspect::{GraphFacts, decide};
use crate::engine::tract::graph_facts;
use crate::engine::{self, LoadOptions, Runtime};
use crate::tensor::Dim;

/// Show a model's inputs and outputs, which output holds scores, and whether they are logits or probabilities.
///
/// The kind of scores is told by the graph's last operator. Where the graph does not tell, `serve` refuses to start;
/// this command says what to write into the configuration.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The ONNX file.
    model: PathBuf,
    #[command(flatten)]
    scores: ScoreArgs,
}

/// What a user can decide about a model's scores in place of its graph.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ScoreArgs {
    /// The output that holds the scores, where the graph has several that could.
    #[arg(long, value_name = "NAME")]
    pub score_output: Option<String>,
    /// What the scores are, where the graph's last operator does not tell.
    #[arg(long, value_name = "KIND")]
    pub score_kind: Option<KindArg>,
    /// What runs the graph: tract, or ONNX Runtime, a library of yours, in builds with the feature `onnxruntime`
    /// [default: tract]
    #[arg(long, value_name = "ENGINE")]
    pub engine: Option<EngineArg>,
    /// ONNX Runtime's library, 1.17 or newer [default: as the system finds it]
    #[arg(long, value_name = "FILE", env = "ORT_DYLIB_PATH")]
    pub engine_library: Option<PathBuf>,
}

/// What runs a graph, on the command line and in files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Deserialize)]
#[value(rename_all = "lowercase")]
#[serde(rename_all = "lowercase")]
pub enum EngineArg {
    /// Part of every build.
    Tract,
    /// A library of the user's.
    OnnxRuntime,
}

impl EngineArg {
    /// As the engine room takes it.
    #[must_use]
    pub fn runtime(self, library: Option<PathBuf>, sessions: Option<usize>) -> Runtime {
        match self {
            Self::Tract => Runtime::Tract,
            Self::OnnxRuntime => Runtime::OnnxRuntime { library, sessions },
        }
    }
}

/// A kind of scores on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum KindArg {
    /// Unnormalised scores, before any softmax.
    Logits,
    /// Non-negative scores that sum to 1.
    Probabilities,
    /// Natural logarithms of probabilities.
    LogProbabilities,
}

impl ScoreArgs {
    /// As the engine takes them.
    #[must_use]
    pub fn options(&self) -> LoadOptions {
        let kind = self.score_kind.map(|kind| match kind {
            KindArg::Logits => ScoreKind::Logits,
            KindArg::Probabilities => ScoreKind::Probabilities,
            KindArg::LogProbabilities => ScoreKind::LogProbabilities,
        });
        let engine = self.engine.unwrap_or(EngineArg::Tract);
        let runtime = engine.runtime(self.engine_library.clone(), None);
        LoadOptions { score_output: self.score_output.clone(), score_kind: kind, runtime }
    }
}

/// Runs the command.
///
/// # Errors
/// When the file cannot be read, is no model, or cannot be served as it is.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let bytes = std::fs::read(&args.model).with_context(|| format!("cannot read {}", args.model.display()))?;
    let facts = graph_facts(&bytes).with_context(|| args.model.display().to_string())?;
    print!("{}", describe(&facts, ModelDigest::of(&bytes), bytes.len()));
    let options = args.scores.options();
    decide(&facts, &options)?;
    let engine = engine::load(&bytes, &options)?;
    let spec = engine.spec();
    println!("scores    {}", spec.how_decided);
    println!("classes   {}", spec.n_classes);
    match &spec.labels {
        Some(labels) => println!("labels    {}", labels.join(", ")),
        None => println!("labels    none in the file"),
    }
    if !spec.other_outputs.is_empty() {
        println!("withheld  {}: never served", spec.other_outputs.join(", "));
    }
    let batches =
        if spec.row_by_row { "row by row: it takes one row only, or mixes the rows of a batch" } else { "in batches" };
    let name = if options.runtime == Runtime::Tract { "tract" } else { "onnxruntime" };
    println!("engine    {name} loads it and runs it {batches}");
    Ok(ExitCode::SUCCESS)
}

fn describe(facts: &GraphFacts, digest: ModelDigest, size: usize) -> String {
    let mut text = format!("sha256    {digest}\nsize      {size} bytes, {} operators", facts.n_nodes);
    text.push_str(&format!(
        ", opset {}, made by {}\n",
        facts.opset,
        if facts.producer.is_empty() { "?" } else { &facts.producer }
    ));
    for input in &facts.inputs {
        text.push_str(&format!("input     {} {} {}\n", input.name, input.dtype, input.shape_text()));
    }
    for output in &facts.outputs {
        let dtype = output.dtype.map_or("?", |dtype| dtype.oip_name());
        let shape = output.shape.as_deref().map_or_else(|| "[?]".to_owned(), shape_text);
        text.push_str(&format!("output    {} {dtype} {shape}, made by {}\n", output.name, output.made_by.join(" <- ")));
    }
    text
}

fn shape_text(shape: &[Dim]) -> String {
    let sizes: Vec<String> = shape.iter().map(|dim| dim.oip_size().to_string()).collect();
    format!("[{}]", sizes.join(","))
}
