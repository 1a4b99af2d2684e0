//! What a study is given beside answers: shadow models, further questions, the lot, a privacy claim.

use std::collections::HashSet;
use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;

use super::{Args, Asker, Case};
use crate::audit::answers::Answers;
use crate::audit::asked::{self, Asked, Named, OneSystem, Plan, Systems as _};
use crate::audit::attack::Family;
use crate::audit::label_only::Change;
use crate::audit::lot;
use crate::audit::report::{Claim, Figure, Settings};
use crate::audit::shadow::folder::{self, Asking, Before};
use crate::audit::shadow::given;
use crate::audit::shadow::leave_one_out::{self, LeaveOneOutSettings};
use crate::audit::source::pipeline::PipelineQuerier;
use crate::audit::source::sides::Sides;
use crate::audit::study::{GivenScores, Knowledge, LearnedFrom};
use crate::audit::system::{Role, System, SystemKind};
use crate::audit::temperature::Temperature;
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

/// Asks every model of a bank, each behind each defence, and attacks every system with them.
fn shadows(
    args: &Args,
    path: &Path,
    case: &mut Case,
    settings: &Settings,
    knowledge: &mut Knowledge,
) -> anyhow::Result<()> {
    let before = before(case).context("--shadows")?;
    let dataset = case.dataset.as_ref().context("--shadows needs --data, the rows that the bank was drawn from")?;
    if args.augmented && dataset.row_shape().len() != 3 {
        bail!("--augmented: the rows are no images, so there is no mirror image and nothing to shift");
    }
    let change = args.augmented.then_some(Change::Shifts { pixels: 1 });
    let asking = asking(args, change);
    let bar = args.bar(0, "shadows");
    let mut progress = |done: usize, all: usize| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
    };
    let found = folder::collect(path, dataset, &before, &asking, &mut progress);
    bar.finish_and_clear();
    let found = found.with_context(|| path.display().to_string())?;
    let forms = forms(case, &asking)?;
    for (name, bank) in &found.banks {
        if let Some(queries) = forms.iter().find(|(of, _)| of == name).map(|(_, queries)| queries) {
            let queries: Vec<&Answers> = queries.iter().collect();
            let scores = given(bank, &found.rows, name, &queries, &case.target, settings.seed);
            knowledge.given.extend(scores.with_context(|| format!("{name}, shadow models"))?);
        }
        let study = leave_one_out::study(bank, &LeaveOneOutSettings::default());
        knowledge.leave_one_out.push((name.clone(), study.with_context(|| format!("{name}, shadow models"))?));
    }
    knowledge.learned_from.extend(found.learned);
    Ok(())
}

fn asking(args: &Args, change: Option<Change>) -> Asking {
    Asking { fallback: ClassFallback::CorrectRows, batch_rows: args.batch_size as usize, change }
}

/// For each system its answers to the target's rows, then to every further form of them.
fn forms(case: &Case, asking: &Asking) -> anyhow::Result<Vec<(String, Vec<Answers>)>> {
    let logits = case.target.logits();
    let temperature = temperature(case);
    let mut forms = Vec::new();
    for system in &case.systems {
        let answers = system.answer(&case.target, &logits, temperature.as_ref())?;
        forms.extend(answers.map(|answers| (system.name.clone(), vec![answers])));
    }
    if asking.n_queries() > 1 {
        let Asker::Pipeline(pipeline) = &case.asker else {
            bail!("--augmented: only a model can be asked about changed inputs behind every defence");
        };
        let dataset = case.dataset.as_ref().context("--augmented needs --data")?;
        let asked: Vec<&System> =
            case.systems.iter().filter(|system| forms.iter().any(|(name, _)| *name == system.name)).collect();
        let mut systems = PipelineQuerier::new(pipeline, asked, temperature.as_ref());
        for query in 1..asking.n_queries() {
            let mut parts: Vec<Vec<Answers>> = forms.iter().map(|_| Vec::new()).collect();
            for rows in case.target.dataset_rows().chunks(BATCH) {
                let answers = systems.ask_all(&asking.form(dataset.batch(rows), query))?;
                parts.iter_mut().zip(answers).for_each(|(parts, answers)| parts.push(answers));
            }
            for ((_, queries), parts) in forms.iter_mut().zip(parts) {
                queries.push(Answers::joined(&parts));
            }
        }
    }
    Ok(forms)
}

fn temperature(case: &Case) -> Option<Temperature> {
    let (calibration, labels) = case.target.calibration();
    Temperature::fit(calibration, labels)
}

/// Answers of one shadow model behind each defence, for the attacks that are learned on them.
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
    Ok(folder::learned_from(model, dataset, (&rows, &members), &before, &asking(args, None))?)
}

/// Attacks by changed, mixed and repeated inputs, on every system at once.
fn queries(args: &Args, case: &mut Case, settings: &Settings, knowledge: &mut Knowledge) -> anyhow::Result<()> {
    let temperature = temperature(case);
    let dataset = case.dataset.as_ref().context("--queries needs --data, the rows to change")?;
    let inputs = dataset.batch(case.target.dataset_rows());
    let target = &case.target;
    let rows = Asked { inputs: &inputs, labels: target.labels(), n_members: target.n_members(), seed: settings.seed };
    let plan = Plan::for_rows(&rows);
    let named = |system: &System| Named {
        name: system.name.clone(),
        inversion: system.inversion(temperature.as_ref()),
        has_scores: system.role() != Role::Floor && target.allows().scores,
    };
    let served: Vec<&System> = match &case.asker {
        // The rival answers where there is a temperature.
        Asker::Pipeline(_) => {
            let answers = |system: &&System| system.role() != Role::Rival || temperature.is_some();
            case.systems.iter().filter(answers).collect()
        }
        // What was read is the one system that can be asked; the others are made of its answers.
        _ => case.systems.iter().filter(|system| system.role() == Role::Served).take(1).collect(),
    };
    let named: Vec<Named> = served.iter().map(|system| named(system)).collect();
    let bar = args.bar(plan.queries_per_row() as usize * rows.labels.len(), "queries");
    let mut progress = |n: u64| bar.inc(n);
    let found = match &mut case.asker {
        Asker::Pipeline(pipeline) => {
            let mut systems = PipelineQuerier::new(pipeline, served, temperature.as_ref());
            asked::ask_again(&mut systems, &named, &rows, &plan, &mut progress)
        }
        Asker::Remote(remote) => asked::ask_again(&mut OneSystem(remote.as_mut()), &named, &rows, &plan, &mut progress),
        Asker::Nobody => bail!("--queries: a file of predictions answers no further questions"),
    };
    bar.finish_and_clear();
    let found = found?;
    // Labels are the same behind every defence: what reads them alone is an attack on each system.
    let others = case.systems.iter().filter(|system| named.iter().all(|named| named.name != system.name));
    let of_first = |one: &&GivenScores| one.attack.family == Family::LabelOnly && one.system == named[0].name;
    for other in others {
        let labels_alone = found.given.iter().filter(of_first);
        knowledge.given.extend(labels_alone.map(|one| GivenScores { system: other.name.clone(), ..one.clone() }));
    }
    knowledge.given.extend(found.given);
    Ok(())
}

/// Rows whose changed forms are in memory at once.
const BATCH: usize = 1_024;

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
