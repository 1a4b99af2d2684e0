//! What a study is given beside answers: shadow models, further questions, the lot, a privacy claim.

use std::path::Path;

use anyhow::{Context as _, bail};
use ndarray::ArrayD;
use serde::Deserialize;

use super::{Args, Asker, Case};
use crate::audit::attack::{AttackId, Family};
use crate::audit::label_only::{Change, Range, robustness};
use crate::audit::lot;
use crate::audit::report::{Claim, Figure, Settings};
use crate::audit::shadow::folder::{self, Before};
use crate::audit::shadow::given;
use crate::audit::shadow::leave_one_out::{self, LeaveOneOutSettings};
use crate::audit::source::Querier;
use crate::audit::source::pipeline::PipelineQuerier;
use crate::audit::study::{GivenScores, Knowledge};
use crate::audit::system::{Role, SystemKind};
use crate::audit::temperature::Temperature;
use crate::data::Dataset;
use crate::defence::ClassFallback;

/// Rows of changed inputs asked at once.
const COPIES: usize = 10;
/// Deviations of the noise, in shares of the range of the inputs.
const DEVIATIONS: [f32; 2] = [0.05, 0.1];

/// Gathers all that the command line asks for.
///
/// # Errors
/// When a bank, a record or an answer cannot be had.
pub(super) fn gather(args: &Args, case: &mut Case, settings: &Settings) -> anyhow::Result<Knowledge> {
    let mut knowledge = Knowledge { claim: args.record.as_deref().map(claim).transpose()?, ..Knowledge::default() };
    if let (Some(dataset), Some(sides)) = (&case.dataset, &case.sides) {
        knowledge.lot = lot::check(dataset, sides.members(), sides.non_members(), settings.seed).ok();
    }
    if let Some(path) = &args.shadows {
        shadows(args, path, case, settings, &mut knowledge)?;
    }
    if args.queries {
        queries(args, case, settings, &mut knowledge)?;
    }
    Ok(knowledge)
}

/// The privacy that a run record claims.
fn claim(path: &Path) -> anyhow::Result<Claim> {
    #[derive(Deserialize)]
    struct Record {
        privacy: Option<Claim>,
    }
    let shown = path.display();
    let record: Record =
        serde_json::from_slice(&super::read(path)?).with_context(|| format!("{shown}: not a run record"))?;
    record.privacy.with_context(|| format!("{shown}: the record claims no privacy"))
}

/// Asks every model of a bank, each behind each defence, and attacks every system with them.
fn shadows(
    args: &Args,
    path: &Path,
    case: &Case,
    settings: &Settings,
    knowledge: &mut Knowledge,
) -> anyhow::Result<()> {
    let dataset = case.dataset.as_ref().context("--shadows needs --data, the rows that the bank was drawn from")?;
    let before: Vec<Before> = case
        .systems
        .iter()
        .filter_map(|system| match (&system.kind, system.role()) {
            (SystemKind::Answered { .. }, _) | (_, Role::Rival) => None,
            (_, Role::Undefended) => Some((system.name.clone(), None)),
            (_, Role::Served | Role::Floor) => Some((system.name.clone(), system.config().cloned())),
        })
        .collect();
    if before.is_empty() {
        bail!("--shadows: the answers come from elsewhere, so nobody knows what to put before the shadow models");
    }
    let bar = args.bar(0, "shadows");
    let mut progress = |done: usize, all: usize| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
    };
    let fallback = ClassFallback::CorrectRows;
    let found = folder::collect(path, dataset, &before, fallback, args.batch_size as usize, &mut progress);
    bar.finish_and_clear();
    let found = found.with_context(|| path.display().to_string())?;
    let logits = case.target.logits();
    let (calibration, labels) = case.target.calibration();
    let temperature = Temperature::fit(calibration, labels);
    for (name, bank) in &found.banks {
        let system = case.systems.iter().find(|system| system.name == *name).context("a bank of no system")?;
        if let Some(answers) = system.answer(&case.target, &logits, temperature.as_ref())? {
            let scores = given(bank, &found.rows, name, &answers, &case.target, settings.seed);
            knowledge.given.extend(scores.with_context(|| format!("{name}, shadow models"))?);
        }
        let study = leave_one_out::study(bank, &LeaveOneOutSettings::default());
        knowledge.leave_one_out.push((name.clone(), study.with_context(|| format!("{name}, shadow models"))?));
    }
    Ok(())
}

/// Label-only attacks by changed inputs. Every label is kept by every defence, so one system's labels serve for all.
fn queries(args: &Args, case: &mut Case, settings: &Settings, knowledge: &mut Knowledge) -> anyhow::Result<()> {
    let dataset = case.dataset.as_ref().context("--queries needs --data, the rows to change")?;
    let rows = case.target.dataset_rows().to_vec();
    let labels = case.target.labels().to_vec();
    let (range, is_binary) = range(dataset, &rows);
    let mut changes: Vec<Change> = if is_binary {
        [0.02, 0.05].map(|share| Change::Flips { share, copies: COPIES }).to_vec()
    } else {
        let width = range.high - range.low;
        DEVIATIONS.map(|share| Change::Noise { deviation: share * width, copies: COPIES }).to_vec()
    };
    if dataset.row_shape().len() == 3 {
        changes.push(Change::Shifts { pixels: 2 });
    }
    let names: Vec<String> = case.systems.iter().map(|system| system.name.clone()).collect();
    let floor = case.systems.iter().find(|system| system.role() == Role::Floor).context("there is no floor")?;
    let mut local;
    let querier: &mut dyn Querier = match &mut case.asker {
        Asker::Pipeline(pipeline) => {
            local = PipelineQuerier::new(pipeline, floor, None);
            &mut local
        }
        Asker::Remote(remote) => remote.as_mut(),
        Asker::Nobody => bail!("--queries: a file of predictions answers no further questions"),
    };
    let bar = args.bar(changes.len() * rows.len(), "queries");
    for change in changes {
        let id = AttackId::new(Family::LabelOnly, change.name());
        let mut scores = Vec::with_capacity(rows.len());
        for (batch, labels) in rows.chunks(BATCH).zip(labels.chunks(BATCH)) {
            let inputs: ArrayD<f32> = dataset.batch(batch);
            scores.extend(robustness(querier, &inputs, labels, change, range, settings.seed)?);
            bar.inc(batch.len() as u64);
        }
        let given =
            |system: &String| GivenScores { system: system.clone(), attack: id.clone(), scores: scores.clone() };
        knowledge.given.extend(names.iter().map(given));
    }
    bar.finish_and_clear();
    Ok(())
}

/// Rows whose changed forms are in memory at once.
const BATCH: usize = 1_024;

/// The range of the inputs, and whether they are 0 and 1 alone, told from the first rows.
fn range(dataset: &Dataset, rows: &[usize]) -> (Range, bool) {
    let looked_at = dataset.batch(&rows[..rows.len().min(BATCH)]);
    let (low, high) =
        looked_at.iter().fold((f32::MAX, f32::MIN), |(low, high), &value| (low.min(value), high.max(value)));
    (Range { low, high }, looked_at.iter().all(|&value| value == 0.0 || value == 1.0))
}

/// What was not tried, given what the study had.
pub(super) fn not_tried(knowledge: &Knowledge) -> Vec<String> {
    crate::audit::report::not_tried(
        !knowledge.leave_one_out.is_empty(),
        knowledge.given.iter().any(|given| given.attack.family == Family::LabelOnly),
    )
}

/// Each record's vulnerability over the shadow models of the undefended system, by the target's rows.
pub(super) fn vulnerability(case: &Case, knowledge: &Knowledge) -> Figure<Vec<f64>> {
    let undefended = case.systems.iter().find(|system| system.role() == Role::Undefended);
    let lira = undefended.and_then(|system| {
        knowledge.given.iter().find(|given| given.system == system.name && given.attack.name().starts_with("LiRA"))
    });
    Figure::or(lira.map(|given| given.scores.clone()), "there are no shadow models")
}
