//! The figures of a page.

use maud::{Markup, html};

use super::plot::{Frame, Scale};
use crate::audit::analysis::{Embedding, Spot};
use crate::audit::attack::Attack;
use crate::audit::report::{Curve, Findings, Histogram, SystemFindings};
use crate::audit::system::Role;

/// The class of a system's marks, by which the style colours them.
fn class(role: Role) -> &'static str {
    match role {
        Role::Undefended => "undefended",
        Role::Rival => "rival",
        Role::Served => "served",
        Role::Floor => "floor",
    }
}

fn floor(findings: &Findings) -> Option<&SystemFindings> {
    findings.systems.iter().find(|system| system.role == Role::Floor)
}

fn fixed(system: &SystemFindings) -> Option<f64> {
    system.headline.value.as_ref().map(|headline| headline.fixed.value)
}

/// Each system's (b) with its interval, beside the floor and what chance gives.
pub(super) fn gains(findings: &Findings) -> Markup {
    const ROW: f64 = 26.0;
    let found: Vec<_> =
        findings.systems.iter().filter_map(|system| Some((system, system.headline.value.as_ref()?))).collect();
    if found.is_empty() {
        return html! { p .absent { "No attack works on the reference: there is nothing to draw." } };
    }
    let low = found.iter().map(|(_, headline)| headline.fixed.low).fold(0.0, f64::min);
    let high = found.iter().map(|(_, headline)| headline.fixed.high).fold(0.1, f64::max);
    let height = 52.0 + ROW * found.len() as f64;
    let x = Scale::Linear(low - 0.01, (high + 0.02).min(1.0));
    let frame = Frame { width: 860.0, height, room: [320.0, 70.0, 8.0, 40.0], x, y: Scale::Linear(0.0, 1.0) };
    let [left, right, top, bottom] = frame.edges();
    let noise =
        found.iter().filter_map(|(_, headline)| headline.widest_null.value).map(|null| null.q95).fold(0.0, f64::max);
    let row = |place: usize| top + ROW * (place as f64 + 0.5);
    html! {
        div .chart .broad { svg viewBox=(format!("0 0 {} {height}", frame.width)) role="img" aria-label="What an attacker gains from each system" {
            rect .noise x=(frame.x(-noise)) y=(top) width=(frame.x(noise) - frame.x(-noise)) height=(bottom - top) {}
            @for (value, words) in x.ticks() {
                line .grid x1=(frame.x(value)) x2=(frame.x(value)) y1=(top) y2=(bottom) {}
                text .tick x=(frame.x(value)) y=(bottom + 14.0) text-anchor="middle" { (words) }
            }
            @if let Some(floor) = floor(findings).and_then(fixed) {
                line .floorline x1=(frame.x(floor)) x2=(frame.x(floor)) y1=(top) y2=(bottom) {}
            }
            @for (place, (system, headline)) in found.iter().enumerate() {
                @let estimate = &headline.fixed;
                @let y = row(place);
                text .row x=(left - 10.0) y=(y) dy="0.35em" text-anchor="end" { (shortened(&system.name.replace(" (cannot be served)", " †"), 46)) }
                g .(class(system.role)) {
                    line .whisker x1=(frame.x(estimate.low)) x2=(frame.x(estimate.high)) y1=(y) y2=(y) {}
                    circle .dot cx=(frame.x(estimate.value)) cy=(y) r="4.5" {}
                }
                text .value x=(right + 10.0) y=(y) dy="0.35em" { (format!("{:.3}", estimate.value + 0.0)) }
            }
            path .axis d=(format!("M{left} {bottom}H{right}")) {}
            text .name x=((left + right) / 2.0) y=(height - 6.0) text-anchor="middle" { "TPR − FPR on rows that no attack was fitted on" }
        } }
    }
}

/// A name that fits its place.
fn shortened(name: &str, n: usize) -> String {
    if name.chars().count() <= n { name.to_owned() } else { name.chars().take(n - 1).chain(['…']).collect() }
}

/// The curve that stands for a system: that of its headline's attack, else the first.
fn curve(system: &SystemFindings) -> Option<&Curve> {
    let named = system.headline.value.as_ref().map(|headline| &headline.widest_attack);
    named.and_then(|named| system.curves.iter().find(|curve| curve.attack == *named)).or(system.curves.first())
}

/// The curve of the label alone: the gap attack.
fn floor_curve(findings: &Findings) -> Option<&Curve> {
    let floor = floor(findings)?;
    floor.curves.iter().find(|curve| curve.attack == Attack::Correctness).or_else(|| curve(floor))
}

/// A system's curve with its band, both axes logarithmic, beside the reference, the floor and chance.
pub(super) fn roc(system: &SystemFindings, findings: &Findings) -> Markup {
    let n_non_members = findings.rows.verdict_non_members.max(2) as f64;
    let lowest = 10_f64.powf((1.0 / n_non_members).log10().floor()).clamp(1e-6, 1e-2);
    let scale = Scale::Log(lowest, 1.0);
    let frame = Frame { width: 420.0, height: 330.0, room: [62.0, 12.0, 10.0, 40.0], x: scale, y: scale };
    let reference =
        findings.systems.iter().find(|one| one.name == findings.reference.system && one.name != system.name);
    let line = |curve: &Curve| frame.path(curve.points.iter().map(|point| (point.fpr, point.tpr)));
    let own = curve(system);
    let marks = html! {
        path .chance d=(frame.path([(lowest, lowest), (1.0, 1.0)])) {}
        line .resolution x1=(frame.x(1.0 / n_non_members)) x2=(frame.x(1.0 / n_non_members)) y1=(frame.edges()[2]) y2=(frame.edges()[3]) {}
        @if let Some(own) = own {
            @let band: Vec<_> = own.points.iter().map(|point| (point.fpr, point.tpr_interval.low, point.tpr_interval.high)).collect();
            path .band .(class(system.role)) d=(frame.band(&band)) {}
        }
        @if let Some(curve) = reference.and_then(curve) { path .curve .undefended .thin d=(line(curve)) {} }
        @if let Some(curve) = floor_curve(findings).filter(|_| system.role != Role::Floor) { path .curve .floor .thin d=(line(curve)) {} }
        @if let Some(own) = own { path .curve .(class(system.role)) d=(line(own)) {} }
    };
    html! {
        div .drawn {
            (frame.draw("ROC curve, both axes logarithmic", "false-positive rate", "true-positive rate", &marks))
            ul .keys { @for (class, words) in keys(system, own, reference) {
                li {
                    svg viewBox="0 0 24 10" aria-hidden="true" { path .curve .thin[class != "chance"] .(class) d="M0 5H24" {} }
                    span { (words) }
                }
            } }
        }
    }
}

fn keys(
    system: &SystemFindings,
    own: Option<&Curve>,
    reference: Option<&SystemFindings>,
) -> Vec<(&'static str, String)> {
    let mut keys = Vec::new();
    keys.extend(own.map(|own| (class(system.role), own.attack.name().to_owned())));
    keys.extend(reference.map(|reference| ("undefended", reference.name.clone())));
    if system.role != Role::Floor {
        keys.push(("floor", "label alone".to_owned()));
    }
    keys.push(("chance", "chance".to_owned()));
    keys
}

/// Scaled logits of members and non-members, as shares of their own side.
pub(super) fn histogram(histogram: &Histogram) -> Markup {
    let share = |counts: &[u64]| -> Vec<f64> {
        let total = counts.iter().sum::<u64>().max(1) as f64;
        counts.iter().map(|&count| count as f64 / total).collect()
    };
    let (members, non_members) = (share(&histogram.members), share(&histogram.non_members));
    let (Some(&low), Some(&high)) = (histogram.edges.first(), histogram.edges.last()) else {
        return html! { p .absent { "There is nothing to draw." } };
    };
    let top = members.iter().chain(&non_members).copied().fold(1e-9, f64::max);
    let (x, y) = (Scale::Linear(low, high), Scale::Linear(0.0, top * 1.05));
    let frame = Frame { width: 420.0, height: 330.0, room: [56.0, 12.0, 10.0, 40.0], x, y };
    let outline = |shares: &[f64]| {
        let steps = shares.iter().zip(histogram.edges.windows(2));
        let steps = steps.flat_map(|(&share, edges)| [(edges[0], share), (edges[1], share)]);
        frame.path([(low, 0.0)].into_iter().chain(steps).chain([(high, 0.0)])) + "Z"
    };
    let marks = html! {
        path .bars .members d=(outline(&members)) {}
        path .bars .nonmembers d=(outline(&non_members)) {}
        @for (place, (class, words)) in [("members", "members"), ("nonmembers", "non-members")].into_iter().enumerate() {
            @let y = 20.0 + 16.0 * place as f64;
            rect .bars .(class) x="70" y=(y - 5.0) width="16" height="10" {}
            text .key x="92" y=(y) dy="0.35em" { (words) }
        }
    };
    frame.draw("Scaled logits of members and non-members", "scaled logit", "share of the side", &marks)
}

/// A map of rows, with those that pass `n_passed` thresholds marked.
pub(super) fn map(embedding: &Embedding, n_passed: usize) -> Markup {
    const SIDE: f64 = 420.0;
    const N_COLOURS: u32 = 10;
    let place = |spot: &Spot| (8.0 + f64::from(spot.x) * (SIDE - 16.0), 8.0 + f64::from(spot.y) * (SIDE - 16.0));
    let passes = |spot: &&Spot| usize::from(spot.passes) >= n_passed;
    html! {
        div .chart { svg viewBox=(format!("0 0 {SIDE} {SIDE}")) role="img" aria-label="Map of the logits of members and non-members" {
            @for spot in embedding.points.iter().filter(|spot| !passes(spot)) {
                @let (x, y) = place(spot);
                circle .(format!("class{}", spot.class % N_COLOURS)) cx=(format!("{x:.1}")) cy=(format!("{y:.1}")) r="1.5" {}
            }
            @for spot in embedding.points.iter().filter(passes) {
                @let (x, y) = place(spot);
                @if spot.member {
                    circle .passing .members cx=(format!("{x:.1}")) cy=(format!("{y:.1}")) r="4.2" {}
                } @else {
                    path .passing .nonmembers d=(format!("M{x:.1} {:.1}l5 5l-5 5l-5 -5Z", y - 5.0)) {}
                }
            }
        } }
    }
}

/// What a defence costs an honest client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cost {
    /// Mean NLL of non-members.
    NegativeLogLikelihood,
    /// Their expected calibration error.
    CalibrationError,
}

/// Radius of a numbered spot, and of the point that it stands for.
const SPOT: f64 = 8.0;
const DOT: f64 = 3.0;

/// Places for numbered spots near their points, inside the frame: none over another, none over another's point where there
/// is room. The first free place on growing rings.
fn apart(points: &[(f64, f64)], [left, right, top, bottom]: [f64; 4]) -> Vec<(f64, f64)> {
    // The line around a spot is half outside of it.
    const ROOM: f64 = SPOT + 1.0;
    let mut placed: Vec<(f64, f64)> = Vec::with_capacity(points.len());
    for (place, &(x, y)) in points.iter().enumerate() {
        let ring = |n: usize| {
            // The nearest ring leaves the point itself in sight, and some of the line.
            let (radius, angle) =
                (ROOM + DOT + 4.0 + ROOM * (n / 16) as f64 / 2.0, (n % 16) as f64 * std::f64::consts::TAU / 16.0);
            (x + radius * angle.cos(), y - radius * angle.sin())
        };
        let others = || points.iter().enumerate().filter(|(other, _)| *other != place).map(|(_, point)| *point);
        let away =
            |(x, y): (f64, f64), (from_x, from_y): (f64, f64), distance: f64| (x - from_x).hypot(y - from_y) > distance;
        let is_inside =
            |(x, y): &(f64, f64)| *x >= left + ROOM && *x <= right - ROOM && *y >= top + ROOM && *y <= bottom - ROOM;
        let is_free = |spot: &(f64, f64)| is_inside(spot) && placed.iter().all(|other| away(*spot, *other, 2.0 * ROOM));
        let covers_none = |spot: &(f64, f64)| others().all(|point| away(*spot, point, ROOM + DOT));
        let places = || std::iter::once((x, y)).chain((0..1_600).map(ring));
        let found = places().find(|spot| is_free(spot) && covers_none(spot)).or_else(|| places().find(is_free));
        let within = |value: f64, low: f64, high: f64| value.max(low + ROOM).min(high - ROOM);
        placed.push(found.unwrap_or((within(x, left, right), within(y, top, bottom))));
    }
    placed
}

/// Each system by what it leaks and what it costs.
pub(super) fn frontier(findings: &Findings, cost: Cost) -> Markup {
    let of = |system: &SystemFindings| match cost {
        Cost::NegativeLogLikelihood => system.utility.nll,
        Cost::CalibrationError => system.utility.ece,
    };
    let found: Vec<(usize, &SystemFindings, f64)> =
        findings.systems.iter().enumerate().filter_map(|(n, system)| Some((n + 1, system, fixed(system)?))).collect();
    if found.is_empty() {
        return html! { p .absent { "No attack works on the reference: there is nothing to draw." } };
    }
    let low = found.iter().map(|(.., gain)| *gain).fold(0.0, f64::min);
    let high = found.iter().map(|(.., gain)| *gain).fold(0.05, f64::max);
    let top = found.iter().map(|(_, system, _)| of(system)).fold(1e-3, f64::max);
    let (x, y) = (Scale::Linear(low, high * 1.08), Scale::Linear(0.0, top * 1.1));
    let frame = Frame { width: 420.0, height: 320.0, room: [52.0, 14.0, 12.0, 40.0], x, y };
    let name = match cost {
        Cost::NegativeLogLikelihood => "NLL of non-members",
        Cost::CalibrationError => "ECE of non-members",
    };
    let [_, _, upper, lower] = frame.edges();
    let spots: Vec<(f64, f64)> = found.iter().map(|(_, system, gain)| (frame.x(*gain), frame.y(of(system)))).collect();
    let labels = apart(&spots, frame.edges());
    let marks = html! {
        @if let Some(floor) = floor(findings).and_then(fixed) {
            line .floorline x1=(frame.x(floor)) x2=(frame.x(floor)) y1=(upper) y2=(lower) {}
        }
        // What is read lies on top: lines, then points, then numbers.
        @for ((_, system, _), ((x, y), (label_x, label_y))) in found.iter().zip(spots.iter().zip(&labels)) {
            line .leader .(class(system.role)) x1=(x) y1=(y) x2=(label_x) y2=(label_y) {}
        }
        @for ((_, system, _), (x, y)) in found.iter().zip(&spots) {
            circle .dot .(class(system.role)) cx=(x) cy=(y) r=(DOT) {}
        }
        @for ((number, system, _), (x, y)) in found.iter().zip(&labels) {
            circle .spot .(class(system.role)) cx=(x) cy=(y) r=(SPOT) {}
            text .number x=(x) y=(y) dy="0.35em" text-anchor="middle" { (number) }
        }
    };
    frame.draw(&format!("Advantage and {name}"), "TPR − FPR of the strongest attack", name, &marks)
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn no_number_covers_another_or_anothers_point_or_leaves_the_frame() {
        let edges = [52.0, 406.0, 12.0, 280.0];
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut crowds: Vec<Vec<(f64, f64)>> = (0..20)
            .map(|_| (0..16).map(|_| (rng.random_range(52.0..406.0), rng.random_range(12.0..280.0))).collect())
            .collect();
        // All in one corner; all in one place; a row as close as defences that differ in next to nothing.
        crowds.push((0..12).map(|n| (52.0 + f64::from(n), 12.0)).collect());
        crowds.push(vec![(200.0, 100.0); 9]);
        crowds.push((0..14).map(|n| (300.0 + 4.0 * f64::from(n), 150.0 + 2.0 * f64::from(n % 3))).collect());
        for points in crowds {
            let labels = apart(&points, edges);
            for (place, &(x, y)) in labels.iter().enumerate() {
                let from_own = (points[place].0 - x).hypot(points[place].1 - y);
                assert!(from_own == 0.0 || from_own > SPOT + DOT, "{place} over half of its own point");
                assert!(x - SPOT >= edges[0] && x + SPOT <= edges[1], "{x}");
                assert!(y - SPOT >= edges[2] && y + SPOT <= edges[3], "{y}");
                for (other, (label, point)) in labels.iter().zip(&points).enumerate().filter(|(n, _)| *n != place) {
                    assert!((label.0 - x).hypot(label.1 - y) > 2.0 * SPOT, "{place} over the number of {other}");
                    assert!((point.0 - x).hypot(point.1 - y) > SPOT + DOT, "{place} over the point of {other}");
                }
            }
        }
    }

    #[test]
    fn a_number_stands_on_its_point_where_there_is_room() {
        let points = [(100.0, 100.0), (200.0, 200.0)];
        assert_eq!(apart(&points, [52.0, 406.0, 12.0, 280.0]), points);
        // More than there is room for: inside the frame all the same.
        let crowd = apart(&vec![(10.0, 10.0); 30], [0.0, 40.0, 0.0, 40.0]);
        assert!(crowd.iter().all(|(x, y)| (8.0..=32.0).contains(x) && (8.0..=32.0).contains(y)));
    }
}
