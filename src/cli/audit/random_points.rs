//! ML-Leaks' adversary 3: what the target answers to random points, and the threshold that they give.

use indicatif::ProgressBar;

use super::Asker;
use super::questions::{BATCH, Subject, answers};
use crate::audit::attack::{Attack, AttackId, Family, ML_LEAKS};
use crate::audit::fixed::FixedThreshold;
use crate::audit::invert::Inversion;
use crate::audit::learned::ml_leaks::{RANDOM_SHARE, random_point_threshold};
use crate::audit::learned::random_points::FeatureRanges;
use crate::audit::study::{BroughtRule, GivenScores};
use crate::audit::system::{Role, System};
use crate::audit::target::Target;
use crate::audit::temperature::Temperature;

/// Asks about `n_points` random points, and gives for each system the largest entry of every row with the threshold that
/// one in ten of the points passes.
///
/// # Errors
/// When the target does not answer.
pub(super) fn ask(
    subject: &Subject<'_>,
    n_points: usize,
    target: &Target,
    systems: &[System],
    asker: &mut Asker,
    bar: &ProgressBar,
) -> anyhow::Result<Vec<GivenScores>> {
    let ranges = FeatureRanges::of(subject.rows.chunks(BATCH).map(|rows| subject.dataset.batch(rows)));
    let Some(ranges) = ranges else { return Ok(Vec::new()) };
    let (calibration, labels) = target.calibration();
    let temperature = Temperature::fit(calibration, labels);
    let can_answer = |system: &&System| system.role() != Role::Rival || temperature.is_some();
    let systems: Vec<&System> = systems.iter().filter(can_answer).collect();
    let attack = Attack::Confidence;
    let mut of_points: Vec<Vec<f64>> = vec![Vec::with_capacity(n_points); systems.len()];
    let mut rng = FeatureRanges::generator(subject.seed);
    let mut left = n_points;
    while left > 0 {
        let n = left.min(BATCH);
        let points = ranges.draw(n, &mut rng);
        // The points have no true label, and the largest entry asks for none.
        let labels = vec![0; n];
        let answered = answers(asker, &points, &labels, &systems, temperature.as_ref())?;
        for (scores, answers) in of_points.iter_mut().zip(answered.of_systems) {
            scores.extend(answers.iter().flat_map(|answers| attack.scores(answers, &labels, &Inversion::as_is())));
        }
        left -= n;
        bar.inc(n as u64);
    }
    let logits = target.logits();
    let mut given = Vec::new();
    for (system, scores) in systems.into_iter().zip(of_points) {
        let Some(answers) = system.answer(target, &logits, temperature.as_ref())? else { continue };
        let Some(threshold) = random_point_threshold(scores.clone(), RANDOM_SHARE) else { continue };
        // Fewer than the share that was asked for where points tie.
        let passing = scores.iter().filter(|&&score| score > threshold).count();
        let share = 100.0 * passing as f64 / n_points.max(1) as f64;
        let words =
            format!("largest entry above {}, which {share:.0} % of {n_points} random points pass", entry(-threshold));
        given.push(GivenScores {
            system: system.name.clone(),
            attack: AttackId::new(Family::Score, format!("{ML_LEAKS}3, largest entry against random points")),
            scores: attack.scores(&answers, target.labels(), &Inversion::as_is()),
            rule: Some(BroughtRule { threshold: FixedThreshold::above(threshold), words }),
        });
    }
    Ok(given)
}

/// The entry that lies `below_one` under 1, in words that keep its digits.
fn entry(below_one: f64) -> String {
    match below_one {
        0.0 => "1".to_owned(),
        small if small < 1e-3 => format!("1 − {small:.1e}"),
        other => format!("{:.4}", 1.0 - other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threshold_near_one_keeps_its_digits() {
        assert_eq!([0.0, 0.25, 3.21e-9].map(entry), ["1", "0.7500", "1 − 3.2e-9"]);
    }
}
