//! What a study is given beside answers: the lot, a privacy claim; `shadows` has shadow models, `questions` what is asked again.

use super::shadows::Transferred;
use super::{Args, Asker, Case, questions, shadows};
use crate::audit::attack::Family;
use crate::audit::lot;
use crate::audit::report::{Claim, Figure, Settings, SourceRecord};
use crate::audit::study::{Knowledge, ShadowOf};
use crate::audit::system::{Role, System};
use crate::audit::tried::{self, Source, Tried};

/// Gathers all that the command line asks for.
///
/// # Errors
/// When a bank or an answer cannot be had.
pub(super) fn gather(
    args: &Args,
    case: &mut Case,
    claim: Option<Claim>,
    transferred: Option<&Transferred>,
    settings: &Settings,
) -> anyhow::Result<Knowledge> {
    let mut knowledge = Knowledge { claim, ..Knowledge::default() };
    if let (Some(dataset), Some(sides)) = (&case.dataset, &case.sides) {
        let lot = lot::check(dataset, sides.members(), sides.non_members(), settings.seed);
        knowledge.lot = Some(lot);
    }
    shadows::gather(args, case, transferred, settings, &mut knowledge)?;
    if args.queries || args.boundary || args.random_points.is_some() {
        questions::ask(args, case, settings, &mut knowledge)?;
    }
    if let (Asker::Remote(remote), SourceRecord::Endpoint { n_asked, .. }) = (&case.asker, &mut case.origin.source) {
        *n_asked = remote.n_asked();
    }
    Ok(knowledge)
}

/// What was not tried, given what the study had.
pub(super) fn not_tried(args: &Args, case: &Case, knowledge: &Knowledge) -> Vec<String> {
    let any = |family| knowledge.given.iter().any(|given| given.attack.family == family);
    // The rival is no defence: whoever multiplies its logits undoes it.
    let undone = |system: &System| system.role() != Role::Rival && !system.inversion(None).is_as_is();
    let of_bank = knowledge.shadow_models.iter().flat_map(|bank| bank.left_out.iter().cloned());
    let lacking = tried::not_tried(&Tried {
        source: match &case.asker {
            Asker::Pipeline(_) => Source::Model,
            Asker::Remote(_) => Source::Endpoint,
            Asker::Nobody => Source::Predictions,
        },
        undone: case.systems.iter().any(undone),
        lot: knowledge.lot.as_ref().map(|lot| lot.as_ref().map(|_| ()).map_err(String::clone)),
        shadows: knowledge.shadow_models.is_some(),
        changed: args.queries && any(Family::LabelOnly),
        boundary: args.boundary,
        learned: !args.scores_only,
        adversary_one: knowledge.learned_from.iter().any(|shadow| shadow.shadow_of == ShadowOf::SameData),
        adversary_two: args.transfer_shadow.is_some(),
        adversary_three: args.random_points.is_some(),
        canaries: args.canaries,
        trainings: !args.training.is_empty(),
    });
    of_bank.chain(lacking).collect()
}

/// Each record's vulnerability over the shadow models of the undefended system, by the target's rows.
pub(super) fn vulnerability(case: &Case, knowledge: &Knowledge) -> Figure<Vec<f64>> {
    let undefended = case.systems.iter().find(|system| system.role() == Role::Undefended);
    let lira = undefended.and_then(|system| {
        knowledge.given.iter().find(|given| given.system == system.name && given.attack.name().starts_with("LiRA"))
    });
    Figure::or(lira.map(|given| given.scores.clone()), "there are no shadow models")
}
