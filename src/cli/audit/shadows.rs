//! Shadow models of the command line: a bank, one of the target's data, one of other data; each behind what stands before
//! the target, where that is known.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};

use super::questions::{self, Forms};
use super::{Args, Case};
use crate::artifact::ModelDigest;
use crate::audit::answers::Answers;
use crate::audit::report::Settings;
use crate::audit::shadow::folder::{self, Asking, Before, Folder, FolderBanks};
use crate::audit::shadow::leave_one_out::{self, LeaveOneOutSettings};
use crate::audit::shadow::reach::ShadowModels;
use crate::audit::shadow::single::SingleShadow;
use crate::audit::shadow::{Bank, Shadowing, given_forms, given_undone};
use crate::audit::source::sides::Sides;
use crate::audit::study::{Knowledge, ShadowOf};
use crate::audit::system::{Role, System, SystemKind};
use crate::audit::temperature::Temperature;
use crate::data::{DataSource, Dataset, Split};
use crate::defence::{ClassFallback, DefenceConfig, Method};
use crate::pipeline::bundled;

/// A shadow model of other data, as the command line names it.
#[derive(Debug, Clone)]
pub(super) struct Transfer {
    model: PathBuf,
    split: PathBuf,
    source: DataSource,
}

impl Transfer {
    /// The files that are read, the data's apart.
    pub(super) fn files(&self) -> [&Path; 2] {
        [&self.model, &self.split]
    }

    /// Whether `path` is read.
    pub(super) fn reads_data(&self, path: &Path) -> bool {
        self.source.reads(path)
    }
}

/// `MODEL,SPLIT,SOURCE`; a source may hold further commas.
pub(super) fn transfer(words: &str) -> Result<Transfer, String> {
    let parts: Vec<&str> = words.splitn(3, ',').collect();
    match parts[..] {
        [model, split, source] if !model.is_empty() && !split.is_empty() => Ok(Transfer {
            model: model.into(),
            split: split.into(),
            source: source.parse().map_err(|error| format!("the source of MODEL,SPLIT,SOURCE: {error}"))?,
        }),
        _ => Err(format!("expected MODEL,SPLIT,SOURCE, got {words:?}")),
    }
}

/// A shadow of other data that has been asked, and whose data it was.
pub(super) struct Transferred {
    shadow: SingleShadow,
    dataset_digest: String,
}

/// Looks for the files of shadow models before anything is asked.
///
/// # Errors
/// The first that is not there, with its option.
pub(super) fn check(args: &Args) -> anyhow::Result<()> {
    let transfer = args.transfer_shadow.as_ref();
    let files = [
        ("--shadow-model", args.shadow_model.as_ref()),
        ("--shadow-split", args.shadow_split.as_ref()),
        ("--transfer-shadow", transfer.map(|one| &one.model)),
        ("--transfer-shadow", transfer.map(|one| &one.split)),
    ];
    for (option, path) in files.into_iter().filter_map(|(option, path)| Some((option, path?))) {
        ensure!(path.is_file(), "{option}: no file {}", path.display());
    }
    if let Some(path) = &args.shadows {
        ensure!(path.is_dir(), "--shadows: no folder {}", path.display());
        let matrix = path.join(folder::INCLUSION_FILE);
        ensure!(matrix.is_file(), "--shadows: no file {}: expected a bank of `sordino shadows`", matrix.display());
    }
    Ok(())
}

/// Checks that the bank can tell about the rows of all sides, and that they have as many forms as are asked for, before one
/// is asked about.
///
/// # Errors
/// When it is none, or one of other data, or has too few models that were not trained on a row.
pub(super) fn check_rows(args: &Args, dataset: &Dataset, sides: &Sides) -> anyhow::Result<()> {
    let Some(path) = &args.shadows else { return Ok(()) };
    let is_image = dataset.row_shape().len() == 3;
    ensure!(args.augment == 1 || is_image, "--augment: expected images, got rows of shape {:?}", dataset.row_shape());
    let rows: Vec<usize> = sides.members().iter().chain(sides.non_members()).copied().collect();
    Folder::open(path, dataset, &rows).with_context(|| format!("--shadows {}", path.display()))?;
    Ok(())
}

/// Asks the shadow model of other data, before a row of the target is asked about: what is wrong with it is told early.
///
/// # Errors
/// When its data, split or model cannot be had or do not belong together, or when they are the audit's own.
pub(super) fn transferred(args: &Args) -> anyhow::Result<Option<Transferred>> {
    const OPTION: &str = "--transfer-shadow";
    let Some(Transfer { model, split, source }) = &args.transfer_shadow else { return Ok(None) };
    ensure!(args.data.as_ref() != Some(source), "{OPTION}: {OWN_DATA}");
    let dataset = Dataset::load(source).context(OPTION)?;
    let split = Split::read(split).with_context(|| format!("{OPTION}: {}", split.display()))?;
    split.check(&dataset).context(OPTION)?;
    let target = match (&args.model, &args.endpoint.url, &args.predictions) {
        (Some(path), ..) => Some(ModelDigest::of(&super::read(path)?).to_string()),
        (None, None, None) => Some(ModelDigest::of(bundled::MODEL).to_string()),
        (None, ..) => None,
    };
    let sides = Sides::of_split(&split);
    let batch_rows = args.batch_size as usize;
    let shadow = SingleShadow::ask(model, (&dataset, &sides), ShadowOf::OtherData, batch_rows, target.as_deref());
    Ok(Some(Transferred { shadow: shadow.context(OPTION)?, dataset_digest: dataset.digest() }))
}

const OWN_DATA: &str =
    "its data are the audit's own: a shadow of the same data is given by --shadow-model and --shadow-split";

/// Whether shadows of any kind were given.
pub(super) fn any(args: &Args) -> bool {
    args.shadows.is_some() || args.shadow_model.is_some() || args.transfer_shadow.is_some()
}

/// Attacks by all shadows that were given.
///
/// # Errors
/// When they and the audited rows do not belong together.
pub(super) fn gather(
    args: &Args,
    case: &mut Case,
    transferred: Option<&Transferred>,
    settings: &Settings,
    knowledge: &mut Knowledge,
) -> anyhow::Result<()> {
    if !any(args) {
        return Ok(());
    }
    let before = before(case)?;
    if before.iter().any(|one| one.shadowing == Shadowing::Undefended) {
        case.origin.doubts.push(NOT_DEFENDED.to_owned());
    }
    if let Some(path) = &args.shadows {
        bank(args, path, case, &before, settings, knowledge)?;
    }
    if let (Some(model), Some(split)) = (&args.shadow_model, &args.shadow_split) {
        let shadow = of_same_data(args, model, split, case)?;
        for before in &before {
            knowledge.learned_from.push(shadow.behind(before).context("--shadow-model")?.learned_from);
        }
    }
    if let Some(transferred) = transferred {
        transfer_to(transferred, case, &before, knowledge).context("--transfer-shadow")?;
    }
    Ok(())
}

const NOT_DEFENDED: &str = "nobody said what defends these answers (--defence, of an endpoint): the shadow models stood \
                            undefended, and attacks by them bear “(undefended shadows)” in their names";

/// What stands before shadow models in the place of each system, the rival apart.
fn before(case: &Case) -> anyhow::Result<Vec<Before>> {
    let label_only = || DefenceConfig { method: Method::LabelOnly, top_k: None, digits: None };
    let of = |system: &System| {
        let (config, shadowing) = match (&system.kind, system.role()) {
            (_, Role::Rival) => return None,
            (_, Role::Undefended) => (None, Shadowing::AsTarget),
            (SystemKind::Answered { .. }, Role::Floor) => (Some(label_only()), Shadowing::AsTarget),
            (SystemKind::Answered { .. }, Role::Served) if !case.target.allows().scores => {
                (Some(label_only()), Shadowing::AsTarget)
            }
            (SystemKind::Answered { .. }, Role::Served) => match &case.known_defence {
                Some(config) => (Some(config.clone()), Shadowing::AsTarget),
                None => (None, Shadowing::Undefended),
            },
            (_, Role::Served | Role::Floor) => (system.config().cloned(), Shadowing::AsTarget),
        };
        Some(Before { system: system.name.clone(), config, shadowing })
    };
    let known: Vec<Before> = case.systems.iter().filter_map(of).collect();
    ensure!(!known.is_empty(), "there is no system to put shadow models beside");
    Ok(known)
}

/// The shadow model of other rows of the target's data.
fn of_same_data(args: &Args, model: &Path, split: &Path, case: &Case) -> anyhow::Result<SingleShadow> {
    let dataset = case.dataset.as_ref().context("--shadow-model needs --data, the rows that it was drawn from")?;
    let split = Split::read(split).with_context(|| split.display().to_string())?;
    split.check(dataset).context("--shadow-split")?;
    let sides = Sides::of_split(&split);
    let own: HashSet<usize> = case.target.dataset_rows().iter().copied().collect();
    let shared = sides.members().iter().chain(sides.non_members()).filter(|row| own.contains(row)).count();
    ensure!(
        shared == 0,
        "--shadow-split: {shared} of its rows are rows of the audit: the shadow's must be its own, or the attack is \
         learned on what it is judged on"
    );
    let target = case.origin.model_digest.value.as_deref();
    let batch_rows = args.batch_size as usize;
    SingleShadow::ask(model, (dataset, &sides), ShadowOf::SameData, batch_rows, target).context("--shadow-model")
}

/// Learns on the shadow of other data, behind each system.
fn transfer_to(
    transferred: &Transferred,
    case: &mut Case,
    before: &[Before],
    knowledge: &mut Knowledge,
) -> anyhow::Result<()> {
    ensure!(case.origin.dataset_digest.value.as_ref() != Some(&transferred.dataset_digest), "{OWN_DATA}");
    if !case.target.allows().scores {
        bail!("it learns on scores, and these answers are labels alone");
    }
    for before in before {
        let behind = transferred.shadow.behind(before)?;
        if let Some(reason) = behind.not_defended {
            let system = &before.system;
            let doubt = format!("{system}: the shadow of other data stood undefended before it, since {reason}");
            case.origin.doubts.push(doubt);
        }
        knowledge.learned_from.push(behind.learned_from);
    }
    Ok(())
}

/// Asks every model of a bank, each behind each defence, and attacks every system with them.
fn bank(
    args: &Args,
    path: &Path,
    case: &mut Case,
    before: &[Before],
    settings: &Settings,
    knowledge: &mut Knowledge,
) -> anyhow::Result<()> {
    // Before the models of the bank: answers that come over the wire are kept, wherever the rest stops.
    let forms = questions::forms(args, case)?;
    let dataset = case.dataset.as_ref().context("--shadows needs --data, the rows that the bank was drawn from")?;
    let folder = Folder::open(path, dataset, case.target.dataset_rows()).with_context(|| path.display().to_string())?;
    let reach = folder.reach();
    case.origin.doubts.extend(reach.doubt());
    let case = &*case;
    let dataset = case.dataset.as_ref().context("--shadows needs --data, the rows that the bank was drawn from")?;
    let mut systems = before.to_vec();
    systems.extend(bare(case));
    let bar = args.bar(0, "shadows", "models");
    let mut progress = |done: usize, all: usize| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
    };
    let n_forms = args.augment as usize;
    let batch_rows = args.batch_size as usize;
    let target = case.origin.model_digest.value.as_deref();
    let asking = Asking { systems: &systems, fallback: ClassFallback::CorrectRows, batch_rows, n_forms, target };
    let found = folder.collect(dataset, &asking, &mut progress);
    bar.finish_and_clear();
    let found = found.with_context(|| path.display().to_string())?;
    let logits = case.target.logits();
    let (calibration, labels) = case.target.calibration();
    let temperature = Temperature::fit(calibration, labels);
    for (name, bank) in found.banks.iter().take(before.len()) {
        let system = case.systems.iter().find(|system| system.name == *name).context("a bank of no system")?;
        if let Some(answers) = system.answer(&case.target, &logits, temperature.as_ref())? {
            let changed = forms.behind(system, temperature.as_ref())?;
            let all: Vec<&Answers> = std::iter::once(&answers).chain(&changed).collect();
            let scores = given_forms(bank, &found.rows, name, &all, &case.target, settings.seed);
            knowledge.given.extend(scores.with_context(|| format!("{name}, shadow models"))?);
        }
        if !reach.in_turn {
            continue;
        }
        let study = leave_one_out::study(bank, &LeaveOneOutSettings::default());
        let mut study = study.with_context(|| format!("{name}, shadow models"))?;
        // By their numbers in the data set, as every other list of the report has them.
        study.records.iter_mut().for_each(|record| record.row = found.rows[record.row]);
        knowledge.leave_one_out.push((name.clone(), study));
    }
    // After the plain ones: of two attacks of the same scores the first is named.
    undone(case, &found, (&forms, temperature.as_ref()), settings, knowledge)?;
    let mut left_out = reach.left_out();
    if !args.scores_only {
        knowledge.learned_from.extend(found.learned);
        left_out.extend(found.not_learned);
    }
    knowledge.shadow_models = Some(ShadowModels { reach, n_queries: n_forms, left_out });
    Ok(())
}

/// The bank of undefended shadows for an attacker who undoes an endpoint's defence: there is no undefended system, whose
/// bank it would be.
fn bare(case: &Case) -> Option<Before> {
    let has_undefended = case.systems.iter().any(|system| system.role() == Role::Undefended);
    let undone = case.systems.iter().any(|system| !system.inversion(None).is_as_is());
    let before = Before { system: BARE.to_owned(), config: None, shadowing: Shadowing::AsTarget };
    (!has_undefended && undone && case.known_defence.is_some()).then_some(before)
}

const BARE: &str = "the shadow models themselves";

/// Attacks of who undoes the defence first and then compares with undefended shadow models, on every system that answers
/// scores: on the undefended one they are the shadow attacks themselves, by which it is told whether they count (R16).
fn undone(
    case: &Case,
    found: &FolderBanks,
    (forms, temperature): (&Forms, Option<&Temperature>),
    settings: &Settings,
    knowledge: &mut Knowledge,
) -> anyhow::Result<()> {
    let undefended = |(name, _): &&(String, Bank)| {
        name == BARE || case.systems.iter().any(|system| system.name == *name && system.role() == Role::Undefended)
    };
    let Some((_, bank)) = found.banks.iter().find(undefended) else { return Ok(()) };
    let logits = case.target.logits();
    for system in case.systems.iter().filter(|system| system.role() != Role::Floor) {
        let Some(answers) = system.answer(&case.target, &logits, temperature)? else { continue };
        let changed = forms.behind(system, temperature)?;
        let all: Vec<&Answers> = std::iter::once(&answers).chain(&changed).collect();
        let inversion = system.inversion(temperature);
        let read = (&all[..], &inversion);
        let scores = given_undone(bank, &found.rows, &system.name, read, &case.target, settings.seed);
        knowledge.given.extend(scores.with_context(|| format!("{}, undone", system.name))?);
    }
    Ok(())
}
