//! `sordino ensemble`: many models as one classifier, or as the teachers of one.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use clap::ValueEnum;
use ndarray::{Array2, Axis, concatenate};

use super::bank::{
    DealFlags, ModelFiles, Rows, SourceFlags, Trained, WorkFlags, code, expect_no_input, machine, part, print_bank,
    run_record,
};
use super::student::{self, teach};
use super::train::Stop;
use crate::data::{Dataset, Part, Split};
use crate::lab::bank::answers::{Answerer, Averaged, softmax};
use crate::lab::bank::boost_run::Boosting;
use crate::lab::bank::distil::Teacher;
use crate::lab::bank::ensemble::{EnsembleRecord, measure};
use crate::lab::bank::inclusion::{Design, Inclusion};
use crate::lab::bank::merge::Bank;
use crate::lab::bank::pairs::Pairs;
use crate::lab::bank::place::Place;
use crate::lab::bank::plan::Planned;
use crate::lab::bank::run::Shard;
use crate::lab::bank::stack;
use crate::lab::bank::trainer::MemberTrainer;
use crate::lab::onnx::join::{Combine, join};
use crate::lab::recipe::{Distillation, Recipe};
use crate::lab::record::{MadeFrom, Results};
use crate::lab::train::{RowScores, Score};

/// The file that says how good a bank is as one classifier.
const RECORD_FILE: &str = "ensemble.json";
/// Rows on which a joined graph is held against its members.
const PARITY_ROWS: usize = 64;
/// How far a probability of the joined graph may be from that of its members.
const PARITY_TOLERANCE: f64 = 1e-5;

/// Train ensembles, join them into one ONNX graph, and teach a student from them.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Train(Box<TrainArgs>),
    Join(JoinArgs),
    Boost(Box<BoostArgs>),
    Selena(Box<SelenaArgs>),
    Distil(Box<DistilArgs>),
}

/// Train an ensemble: models on recorded shares of the training rows, each its own ONNX file beside an inclusion matrix.
///
/// With --folds F --leave 2, or --ensemble M --share X, a row can be answered by models that never saw it. ensemble.json says how good
/// those answers are. The same command goes on after an interruption or a kill.
#[derive(Debug, clap::Args)]
struct TrainArgs {
    #[command(flatten)]
    source: SourceFlags,
    #[command(flatten)]
    deal: DealFlags,
    /// The bank: a folder or a URL.
    #[arg(long, value_name = "BANK")]
    out: String,
    #[command(flatten)]
    work: WorkFlags,
}

/// Join the models of a bank into one ONNX graph, with its record, split and card beside it.
#[derive(Debug, clap::Args)]
struct JoinArgs {
    /// A complete bank.
    #[arg(value_name = "BANK")]
    bank: String,
    /// The rows of the bank.
    #[arg(long, value_name = "SOURCE")]
    data: Rows,
    /// How the answers become one.
    #[arg(long, value_enum, default_value = "probabilities")]
    combine: CombineKind,
    /// Where the model goes: DIR/NAME.onnx.
    #[arg(long, value_name = "DIR/NAME.onnx")]
    out: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CombineKind {
    /// The mean of the probabilities.
    Probabilities,
    /// The mean of the logits.
    Logits,
    /// A linear layer over all logits, fitted on the validation rows of the split.
    Stack,
}

/// Boost: round after round on rows that the rounds before got wrong (SAMME.R by resampling); join with --combine logits.
#[derive(Debug, clap::Args)]
struct BoostArgs {
    #[command(flatten)]
    source: SourceFlags,
    /// Rounds, and models.
    #[arg(long, value_name = "N", default_value_t = 10)]
    rounds: usize,
    /// How much a round changes the weights of the rows; 1 is SAMME.R's own.
    #[arg(long, value_name = "X", default_value_t = 0.5)]
    rate: f64,
    /// The bank: a folder or a URL.
    #[arg(long, value_name = "BANK")]
    out: String,
    #[command(flatten)]
    work: WorkFlags,
}

/// SELENA: K models of which each training row is left out of L, then one model that learns, for each row, the mean answer of
/// those L.
#[derive(Debug, clap::Args)]
struct SelenaArgs {
    #[command(flatten)]
    source: SourceFlags,
    /// Models (K).
    #[arg(long, value_name = "K", default_value_t = 25)]
    models: usize,
    /// Models that never see a row (L).
    #[arg(long, value_name = "L", default_value_t = 10)]
    leave_out: usize,
    /// Deal class by class, so that each of the K models sees each class in its share.
    #[arg(long)]
    stratified: bool,
    /// Give rows with equal values to the same models: else a copy of a row trains models that answer for it.
    #[arg(long)]
    group_copies: bool,
    /// Where the K models go: a folder or a URL.
    #[arg(long, value_name = "BANK")]
    bank: String,
    /// Where the model that is served goes: DIR/NAME.onnx.
    #[arg(long, value_name = "DIR/NAME.onnx")]
    out: PathBuf,
    #[command(flatten)]
    work: WorkFlags,
}

/// Teach a model what another, or a whole bank, says of some rows.
#[derive(Debug, clap::Args)]
struct DistilArgs {
    #[command(flatten)]
    source: SourceFlags,
    /// The teacher: an ONNX file, or the folder or URL of a bank (whose models are averaged).
    #[arg(long, value_name = "FILE|BANK")]
    teacher: String,
    /// Each row is answered by those models of the bank that never saw it.
    #[arg(long)]
    strangers: bool,
    /// Parts of the split that are taught.
    #[arg(long, value_name = "PART,..", value_delimiter = ',', default_values_t = ["train".to_owned()])]
    rows: Vec<String>,
    /// The temperature T of Hinton's distillation: the teacher's answers and the student's logits are softened by it
    /// [default: the recipe's, else 1].
    #[arg(long, value_name = "T")]
    temperature: Option<f64>,
    /// The teacher's weight beside the labels' [default: the recipe's, else 1: no labels].
    #[arg(long, value_name = "W")]
    weight: Option<f64>,
    /// Where the model goes: DIR/NAME.onnx.
    #[arg(long, value_name = "DIR/NAME.onnx")]
    out: PathBuf,
    #[command(flatten)]
    work: WorkFlags,
}

/// Runs the command.
///
/// # Errors
///
/// When an argument, a row or a file is wrong, or a training diverges.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Train(args) => train(&args),
        Command::Join(args) => join_bank(&args),
        Command::Boost(args) => boost(&args),
        Command::Selena(args) => selena(&args),
        Command::Distil(args) => distil(&args),
    }
}

fn train(args: &TrainArgs) -> anyhow::Result<ExitCode> {
    let place = Place::open(&args.out)?;
    expect_no_input(&place, &args.source.data)?;
    let source = args.source.load(args.work.secret()?.as_ref())?;
    let planned = source.plan(&args.deal)?;
    planned.write(&place)?;
    warn_of_pairs(&planned);
    match args.work.train(&place, &planned, (&args.source.data, &source.dataset), Shard::ALL)? {
        Trained::Interrupted(code) => Ok(code),
        Trained::Shard => bail!("the whole bank is one shard here"),
        Trained::Whole(manifest) => {
            print_bank(&place, &manifest);
            report(&place, &Bank { planned, manifest }, &source.dataset)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Tells of pairs that a deal of shares has no model for; a deal by folds has what it says.
fn warn_of_pairs(planned: &Planned) {
    let Design::Share { .. } = planned.plan.design else { return };
    let Pairs { n_pairs, n_without_model, exact } = Pairs::of(&planned.inclusion);
    if n_without_model > 0 {
        let of = if exact { "" } else { " that were drawn" };
        eprintln!(
            "note: for {n_without_model} of {n_pairs} pairs of rows{of} no model saw neither row: one that leaves out the \
             two nearest records cannot answer everywhere; --folds F --leave 2, more models or a smaller --share can"
        );
    }
}

/// Measures a bank as one classifier, writes and prints it.
fn report(place: &Place, bank: &Bank, dataset: &Dataset) -> anyhow::Result<()> {
    let record = measure(place, bank, dataset)?;
    let mut bytes = serde_json::to_vec_pretty(&record)?;
    bytes.push(b'\n');
    place.write(RECORD_FILE, &bytes)?;
    print_ensemble(&record);
    Ok(())
}

fn print_ensemble(record: &EnsembleRecord) {
    let line = |name: &str, score: Option<Score>| {
        if let Some(score) = score {
            println!("{name:<34} rows {:>6}  accuracy {:.4}  loss {:.4}", score.n_rows, score.accuracy, score.loss);
        }
    };
    line("pool, by models that never saw it", record.pool_by_strangers);
    line("pool, by all models", record.pool_by_all);
    line("validation, by as many", record.validation);
    line("test, by as many", record.test);
    line("test, by all models", record.test_by_all);
    if let Some(accuracy) = record.test_by_one {
        println!("{:<34} accuracy {accuracy:.4} (mean)", "test, by one model");
    }
    let leaks = [
        ("pool by its strangers, test by all", &record.routed),
        ("the same, test by as many", &record.routed_alike),
        ("pool and test by all models", &record.unrouted),
    ];
    for (name, leak) in leaks {
        if let Some(attack) = leak.as_ref().and_then(|leak| leak.loss_attack) {
            let (auc, advantage, noise) = (attack.auc, attack.advantage, attack.null_q95);
            println!("{name:<34} loss attack: AUC {auc:.4}  advantage {advantage:.4} (up to {noise:.4} is noise)");
        }
    }
    if let Some(Pairs { n_pairs, n_without_model, exact }) = record.pairs {
        let of = if exact { "" } else { ", drawn" };
        println!("pairs of rows of the pool without a model that saw neither: {n_without_model} of {n_pairs}{of}");
    }
    println!(
        "models that may answer for a row of the pool: {} at least, {:.1} in the mean; none for {} rows",
        record.fewest_models, record.mean_models, record.n_without_model
    );
}

fn join_bank(args: &JoinArgs) -> anyhow::Result<ExitCode> {
    let started = Instant::now();
    let files = ModelFiles::beside(&args.out, &args.data)?;
    let place = Place::open(&args.bank)?;
    let bank = Bank::read(&place)?;
    let dataset = Dataset::load(&args.data.source)?;
    bank.planned.check(&dataset)?;
    let models =
        (0..bank.manifest.models.len()).map(|member| bank.model(&place, member)).collect::<anyhow::Result<Vec<_>>>()?;
    let (combine, words, fitted_on) = combine(args.combine, &models, &bank, &dataset)?;
    let pool: Vec<usize> = bank.planned.inclusion.rows().iter().chain(&fitted_on).copied().collect();
    let split = if fitted_on.is_empty() {
        bank.planned.split.clone()
    } else {
        // They are known to the graph: nothing that is given this split may take them for unseen.
        println!(
            "the stacking layer was fitted on {} validation rows: in the split and the results of the joined graph they are \
             train rows",
            fitted_on.len()
        );
        bank.planned.split.moving(&fitted_on, (Part::Validation, Part::Train))?
    };
    let model = join(&models, &combine)?;
    check_joined(&model, &combine, (&place, &bank), &dataset)?;
    let answers = Answerer::load(&model)?;
    let evaluate = |rows: &[usize]| -> anyhow::Result<RowScores> {
        let labels: Vec<u32> = rows.iter().map(|&row| dataset.labels()[row]).collect();
        Ok(crate::lab::bank::answers::row_scores(&answers.probabilities(&dataset, rows, 1.0)?, &labels))
    };
    let made_from = MadeFrom::Joined {
        pool: bank.planned.plan.pool.clone(),
        bank: bank.manifest.digest.clone(),
        n_models: models.len(),
        design: bank.manifest.design,
        combine: words,
    };
    let plan = &bank.planned.plan;
    let mut record = run_record(&files, plan.recipe.clone(), plan.data.clone(), &split, &model)?;
    record.made_from = Some(made_from);
    let [validation, calibration, test] = unknown_rows(&split, &pool.iter().copied().collect());
    let scores = [evaluate(&pool)?, evaluate(&validation)?, evaluate(&calibration)?, evaluate(&test)?];
    record.results = Some(Results::of(scores, plan.recipe.seed)?);
    record.wall_seconds = (started.elapsed().as_secs_f64() * 10.0).round() / 10.0;
    files.write(&model, &record, &split, &[])?;
    Ok(ExitCode::SUCCESS)
}

/// The validation, calibration and test rows that a model was not made from, whatever the split calls these.
pub(super) fn unknown_rows(split: &Split, known: &HashSet<usize>) -> [Vec<usize>; 3] {
    [Part::Validation, Part::Calibration, Part::Test]
        .map(|part| split.part(part).iter().copied().filter(|row| !known.contains(row)).collect())
}

/// The way of joining, with its words for the record, and the rows that it was fitted on.
fn combine(
    kind: CombineKind,
    models: &[Vec<u8>],
    bank: &Bank,
    dataset: &Dataset,
) -> anyhow::Result<(Combine, String, Vec<usize>)> {
    match kind {
        CombineKind::Probabilities => {
            Ok((Combine::MeanProbabilities, "the mean of the probabilities".to_owned(), vec![]))
        }
        CombineKind::Logits => Ok((Combine::MeanLogits, "the mean of the logits".to_owned(), vec![])),
        CombineKind::Stack => {
            let pool = bank.planned.inclusion.rows().iter().copied().collect();
            let [rows, ..] = unknown_rows(&bank.planned.split, &pool);
            let logits = models
                .iter()
                .map(|model| Answerer::load(model)?.logits(dataset, &rows))
                .collect::<anyhow::Result<Vec<_>>>()?;
            let views: Vec<_> = logits.iter().map(|logits| logits.view()).collect();
            let labels: Vec<u32> = rows.iter().map(|&row| dataset.labels()[row]).collect();
            let fit = stack::fit(&concatenate(Axis(1), &views)?, &labels, dataset.n_classes())?;
            let words = format!(
                "a linear layer over all logits, fitted on {} validation rows of the bank's split, which are train rows of this \
                 one and count as members in the results (penalty {} towards the mean; held-out loss \
                 {:.4}, of the mean {:.4})",
                rows.len(),
                fit.strength,
                fit.held_out_loss,
                fit.mean_loss
            );
            Ok((Combine::Stack(fit.stacking), words, rows))
        }
    }
}

/// Holds the joined graph against its members, on a few rows of the split.
fn check_joined(
    model: &[u8],
    combine: &Combine,
    (place, bank): (&Place, &Bank),
    dataset: &Dataset,
) -> anyhow::Result<()> {
    let rows: Vec<usize> = bank.planned.inclusion.rows().iter().copied().take(PARITY_ROWS).collect();
    let member = |at| Answerer::load(&bank.model(place, at)?)?.logits(dataset, &rows);
    let expected = match combine {
        Combine::MeanProbabilities => Averaged::of_bank((place, bank), dataset, &rows, 1.0, |_, _| true)?.probabilities,
        Combine::MeanLogits | Combine::Stack(_) => {
            let logits = (0..bank.manifest.models.len()).map(member).collect::<anyhow::Result<Vec<_>>>()?;
            let combined = match combine {
                Combine::Stack(stacking) => {
                    let views: Vec<_> = logits.iter().map(|logits| logits.view()).collect();
                    let features: Array2<f32> = concatenate(Axis(1), &views)?;
                    features.dot(&stacking.weight) + &stacking.bias
                }
                _ => logits.iter().fold(Array2::zeros(logits[0].dim()), |sum, next| sum + next) / logits.len() as f32,
            };
            softmax(&combined, 1.0)
        }
    };
    let got = Answerer::load(model)?.probabilities(dataset, &rows, 1.0)?;
    let off = got.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    ensure!(
        off <= PARITY_TOLERANCE,
        "a probability of the joined graph is off by {off}, expected at most {PARITY_TOLERANCE}"
    );
    Ok(())
}

fn boost(args: &BoostArgs) -> anyhow::Result<ExitCode> {
    args.work.expect_one_job("a round waits for the one before")?;
    let place = Place::open(&args.out)?;
    expect_no_input(&place, &args.source.data)?;
    let source = args.source.load(args.work.secret()?.as_ref())?;
    let rows = source.split.part(Part::Train).to_vec();
    // As it would be with every row in every round: the rows of a round follow from the rounds before.
    let design = Design::Recorded { models: args.rounds };
    let counts = Array2::ones((design.n_models()?, rows.len()));
    let inclusion = Inclusion::from_parts(design, source.recipe.seed, rows, counts)?;
    let data = (&source.dataset, source.data.clone());
    let pool = vec![Part::Train.name().to_owned()];
    let recipe = Recipe { distillation: None, ..source.recipe.clone() };
    let planned = Planned::new(recipe, data, source.split.clone(), pool, inclusion)?;
    let device = args.work.device.open()?;
    let worker = MemberTrainer::new(&source.dataset, &planned, &device, args.work.secret()?)?;
    let boosting = Boosting {
        place: &place,
        planned: &planned,
        dataset: &source.dataset,
        worker: &worker,
        rate: args.rate,
        code: code(),
        machine: machine(),
    };
    let stop = Stop::listen()?;
    let told = |record: &crate::lab::bank::member::MemberRecord| {
        let accuracy = |score: Option<Score>| score.map_or(String::new(), |score| format!("{:.4}", score.accuracy));
        let results = &record.results;
        eprintln!(
            "round {:>4}  accuracy: own rows {}  test {}  {} s",
            record.member,
            accuracy(results.members),
            accuracy(results.test),
            record.wall_seconds
        );
    };
    let Some(manifest) = args.work.alone(|| boosting.run(&stop.flag, &told))?? else {
        eprintln!("interrupted; the same command goes on");
        return Ok(ExitCode::from(stop.exit_code.load(Ordering::Relaxed)));
    };
    print_bank(&place, &manifest);
    Ok(ExitCode::SUCCESS)
}

fn selena(args: &SelenaArgs) -> anyhow::Result<ExitCode> {
    let files = ModelFiles::beside(&args.out, &args.source.data)?;
    let place = Place::open(&args.bank)?;
    expect_no_input(&place, &args.source.data)?;
    let source = args.source.load(args.work.secret()?.as_ref())?;
    student::expect_no_privacy(&source.recipe)?;
    // The members learn labels; the recipe's distillation is the student's.
    ensure!(
        args.leave_out >= 1 && args.leave_out < args.models,
        "--leave-out: expected 1 to {}, got {}",
        args.models.saturating_sub(1),
        args.leave_out
    );
    let design = Design::Balanced { models: args.models, of: args.models - args.leave_out };
    let planned = source.plan_with(design, &[Part::Train], args.stratified, args.group_copies)?;
    planned.write(&place)?;
    let manifest = match args.work.train(&place, &planned, (&args.source.data, &source.dataset), Shard::ALL)? {
        Trained::Interrupted(code) => return Ok(code),
        Trained::Shard => bail!("the whole bank is one shard here"),
        Trained::Whole(manifest) => manifest,
    };
    let bank = Bank { planned, manifest };
    report(&place, &bank, &source.dataset)?;
    let parts = [Part::Train.name().to_owned()];
    let rows = source.split.part(Part::Train).to_vec();
    let taught = Teacher::Strangers(&place, &bank).targets(&source.dataset, (&parts, &rows))?;
    teach(&source, (rows, vec![]), taught, &files, &args.work)
}

fn distil(args: &DistilArgs) -> anyhow::Result<ExitCode> {
    args.work.expect_one_job("there is one student")?;
    let files = ModelFiles::beside(&args.out, &args.source.data)?;
    let mut source = args.source.load(args.work.secret()?.as_ref())?;
    student::expect_no_privacy(&source.recipe)?;
    let given = source.recipe.distillation.unwrap_or_default();
    let distillation = Distillation {
        temperature: args.temperature.unwrap_or(given.temperature),
        weight: args.weight.unwrap_or(given.weight),
    };
    source.recipe.distillation = Some(distillation);
    source.recipe.check()?;
    let parts = args.rows.iter().map(|name| part(name)).collect::<anyhow::Result<Vec<_>>>()?;
    let rows: Vec<usize> = parts.iter().flat_map(|part| source.split.part(*part)).copied().collect();
    let about = (args.rows.as_slice(), rows.as_slice());
    let is_model = Path::new(&args.teacher).extension().is_some_and(|ending| ending == "onnx");
    let mut known = vec![];
    let taught = if is_model {
        ensure!(!args.strangers, "--strangers: expected a bank as --teacher, got one model");
        let bytes =
            std::fs::read(&args.teacher).with_context(|| format!("cannot read the teacher {}", args.teacher))?;
        Teacher::Model(&bytes).targets(&source.dataset, about)?
    } else {
        ensure!(
            !Path::new(&args.teacher).is_file(),
            "--teacher: expected a model that ends in .onnx, or the folder or URL of a bank, got the file {}",
            args.teacher
        );
        let place = Place::open(&args.teacher)?;
        let bank = Bank::read(&place)?;
        bank.planned.check(&source.dataset)?;
        known.extend_from_slice(bank.planned.inclusion.rows());
        let teacher = if args.strangers { Teacher::Strangers(&place, &bank) } else { Teacher::Bank(&place, &bank) };
        teacher.targets(&source.dataset, about)?
    };
    taught.1.notes.iter().for_each(|note| eprintln!("note: {note}"));
    teach(&source, (rows, known), taught, &files, &args.work)
}
