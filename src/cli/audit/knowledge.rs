//! What a study is given beside answers: shadow models, the lot, a privacy claim; `questions` has what is asked again.

use std::collections::HashSet;
use std::path::Path;

use anyhow::{Context as _, ensure};
use serde::Deserialize;

use super::{Args, Case, questions};
use crate::audit::answers::Answers;
use crate::audit::attack::Family;
use crate::audit::lot;
use crate::audit::report::{Claim, Figure, Settings};
use crate::audit::shadow::folder::{self, Asking, Before, FolderBanks};
use crate::audit::shadow::leave_one_out::{self, LeaveOneOutSettings};
use crate::audit::shadow::{Bank, given_forms, given_undone};
use crate::audit::source::sides::Sides;
use crate::audit::study::{Knowledge, LearnedFrom};
use crate::audit::system::{Role, SystemKind};
use crate::audit::target::Target;
use crate::audit::temperature::Temperature;
use crate::audit::tried::{self, Tried};
use crate::data::Split;
use crate::defence::ClassFallback;

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
    if let (Some(model), Some(split)) = (&args.shadow_model, &args.shadow_split) {
        knowledge.learned_from = shadow_model(args, model, split, case)?;
    }
    if args.queries || args.boundary {
        questions::ask(args, case, settings, &mut knowledge)?;
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

/// What stands before shadow models: each system of the audit that is known, the rival apart.
fn before(case: &Case) -> anyhow::Result<Vec<Before>> {
    let known = case.systems.iter().filter_map(|system| match (&system.kind, system.role()) {
        (SystemKind::Answered { .. }, _) | (_, Role::Rival) => None,
        (_, Role::Undefended) => Some((system.name.clone(), None)),
        (_, Role::Served | Role::Floor) => Some((system.name.clone(), system.config().cloned())),
    });
    let known: Vec<Before> = known.collect();
    ensure!(!known.is_empty(), "the answers come from elsewhere, so nobody knows what to put before the shadow models");
    Ok(known)
}

/// Answers of one shadow model behind each system, for the attacks that are learned on them.
fn shadow_model(args: &Args, model: &Path, split: &Path, case: &Case) -> anyhow::Result<Vec<LearnedFrom>> {
    let before = before(case).context("--shadow-model")?;
    let dataset = case.dataset.as_ref().context("--shadow-model needs --data, the rows that it was drawn from")?;
    let split = Split::read(split).with_context(|| split.display().to_string())?;
    split.check(dataset).context("--shadow-split")?;
    let sides = Sides::of_split(&split);
    let rows: Vec<usize> = sides.members().iter().chain(sides.non_members()).copied().collect();
    let members: Vec<bool> = (0..rows.len()).map(|place| place < sides.members().len()).collect();
    let own: HashSet<usize> = case.target.dataset_rows().iter().copied().collect();
    let shared = rows.iter().filter(|row| own.contains(row)).count();
    ensure!(
        shared == 0,
        "--shadow-split: {shared} of its rows are rows of the audit: the shadow's must be its own, or the attack is \
         learned on what it is judged on"
    );
    let batch_rows = args.batch_size as usize;
    let asking = Asking { systems: &before, fallback: ClassFallback::CorrectRows, batch_rows, n_forms: 1 };
    Ok(folder::learned_from(model, dataset, (&rows, &members), &asking)?)
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
    let before = before(case).context("--shadows")?;
    let bar = args.bar(0, "shadows");
    let mut progress = |done: usize, all: usize| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
    };
    let n_forms = args.augment as usize;
    let is_image = dataset.row_shape().len() == 3;
    ensure!(n_forms == 1 || is_image, "--augment: expected images, got rows of shape {:?}", dataset.row_shape());
    let batch_rows = args.batch_size as usize;
    let asking = Asking { systems: &before, fallback: ClassFallback::CorrectRows, batch_rows, n_forms };
    let found = folder::collect(path, dataset, &asking, &mut progress);
    bar.finish_and_clear();
    let found = found.with_context(|| path.display().to_string())?;
    let logits = case.target.logits();
    let (calibration, labels) = case.target.calibration();
    let temperature = Temperature::fit(calibration, labels);
    let forms = questions::forms(case, n_forms, batch_rows)?;
    undone(case, &found, (&forms[..], temperature.as_ref()), settings, knowledge)?;
    for (name, bank) in &found.banks {
        let system = case.systems.iter().find(|system| system.name == *name).context("a bank of no system")?;
        if let Some(answers) = system.answer(&case.target, &logits, temperature.as_ref())? {
            let changed = forms.iter().map(|form| system.answer(form, &form.logits(), temperature.as_ref()));
            let changed: Vec<Answers> = changed.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect();
            let all: Vec<&Answers> = std::iter::once(&answers).chain(&changed).collect();
            let scores = given_forms(bank, &found.rows, name, &all, &case.target, settings.seed);
            knowledge.given.extend(scores.with_context(|| format!("{name}, shadow models"))?);
        }
        let study = leave_one_out::study(bank, &LeaveOneOutSettings::default());
        let mut study = study.with_context(|| format!("{name}, shadow models"))?;
        // By their numbers in the data set, as every other list of the report has them.
        study.records.iter_mut().for_each(|record| record.row = found.rows[record.row]);
        knowledge.leave_one_out.push((name.clone(), study));
    }
    if !args.scores_only {
        knowledge.learned_from = found.learned;
    }
    Ok(())
}

/// Attacks of who undoes the defence first and then compares with undefended shadow models, on every system that answers
/// scores: on the undefended one they are the shadow attacks themselves, by which it is told whether they count (R16).
fn undone(
    case: &Case,
    found: &FolderBanks,
    (forms, temperature): (&[Target], Option<&Temperature>),
    settings: &Settings,
    knowledge: &mut Knowledge,
) -> anyhow::Result<()> {
    let undefended = |(name, _): &&(String, Bank)| {
        case.systems.iter().any(|system| system.name == *name && system.role() == Role::Undefended)
    };
    let Some((_, bank)) = found.banks.iter().find(undefended) else { return Ok(()) };
    let logits = case.target.logits();
    for system in case.systems.iter().filter(|system| system.role() != Role::Floor) {
        let Some(answers) = system.answer(&case.target, &logits, temperature)? else { continue };
        let changed = forms.iter().map(|form| system.answer(form, &form.logits(), temperature));
        let changed: Vec<Answers> = changed.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect();
        let all: Vec<&Answers> = std::iter::once(&answers).chain(&changed).collect();
        let inversion = system.inversion(temperature);
        let read = (&all[..], &inversion);
        let scores = given_undone(bank, &found.rows, &system.name, read, &case.target, settings.seed);
        knowledge.given.extend(scores.with_context(|| format!("{}, undone", system.name))?);
    }
    Ok(())
}

/// What was not tried, given what the study had.
pub(super) fn not_tried(args: &Args, knowledge: &Knowledge) -> Vec<String> {
    let any = |family| knowledge.given.iter().any(|given| given.attack.family == family);
    tried::not_tried(Tried {
        shadows: !knowledge.leave_one_out.is_empty(),
        changed: args.queries && any(Family::LabelOnly),
        boundary: args.boundary,
        learned: !args.scores_only,
        canaries: args.canaries,
    })
}

/// Each record's vulnerability over the shadow models of the undefended system, by the target's rows.
pub(super) fn vulnerability(case: &Case, knowledge: &Knowledge) -> Figure<Vec<f64>> {
    let undefended = case.systems.iter().find(|system| system.role() == Role::Undefended);
    let lira = undefended.and_then(|system| {
        knowledge.given.iter().find(|given| given.system == system.name && given.attack.name().starts_with("LiRA"))
    });
    Figure::or(lira.map(|given| given.scores.clone()), "there are no shadow models")
}
