//! The paper's analysis, done with the controls that it left out (figures 2 and 3): which rows are vulnerable, where
//! they lie, and whether distance to the class centroid is what singles them out.
//!
//! - A member is *vulnerable* where its scaled logit passes a threshold that a stated share of non-members passes
//!   (the 99th percentile in the paper). The non-members that pass it are shown too: where as many pass of both
//!   sides, the threshold says nothing about membership.
//! - Distances are cosine distances of the logits to the mean of the members of the same true class, as in figure 3.
//! - The thesis: outliers are what an attack finds. It is tried by rank correlation of distance and score, by how well
//!   distance tells the vulnerable members from the others, and by the attack's AUC within quarters of distance.
//!
//! All of it reads one model's logits, so it is about that model's answers, not about the records as such.

use ndarray::{Array2, ArrayView1};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use crate::audit::answers::{Answers, argmax};
use crate::audit::attack::Attack;
use crate::audit::interval::{Estimate, Interval, Placements, newcombe, two_sided_z};
use crate::audit::invert::Inversion;
use crate::audit::pictures::Picture;
use crate::audit::roc::Ranking;
use crate::audit::utility::softmax_at;
use crate::audit::words::counted;

/// Shares of non-members that pass the thresholds: 1 % and .5 %, as the paper draws.
const FPRS: [f64; 2] = [0.01, 0.005];
/// Nearest and farthest rows of each class.
const N_EXTREMES: usize = 10;
/// Most rows of the embedding; vulnerable rows are always among them.
const MAX_EMBEDDED: usize = 3_000;
const PERPLEXITY: f32 = 30.0;
const EPOCHS: usize = 1_000;
const THETA: f32 = 0.5;

/// What was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Analysis {
    /// The score by which a row is vulnerable.
    pub score: &'static str,
    /// One entry for each threshold.
    pub vulnerable: Vec<Vulnerable>,
    /// Nearest and farthest members of each class centroid.
    pub extremes: Vec<Extremes>,
    /// How distance goes with the score, within each side.
    pub correlations: Vec<Correlation>,
    /// The attack within quarters of distance, nearest first.
    pub quarters: Vec<Quarter>,
    /// A map of the logits; `None` where none was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub embedding: Option<Embedding>,
    /// Images of the first of [`Analysis::extremes`]: the records themselves, where somebody asked for them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pictures: Vec<Picture>,
    /// What it comes to, in words.
    pub finding: String,
}

/// The rows beyond one threshold.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Vulnerable {
    /// The share of non-members that may pass.
    pub fpr: f64,
    /// The threshold: a score above it passes.
    pub threshold: f64,
    /// Members that pass.
    pub n_members: usize,
    /// Non-members that pass.
    pub n_non_members: usize,
    /// Share of members minus share of non-members that pass, with an interval (pointwise, as if the threshold had been
    /// known before).
    pub difference: Estimate,
    /// How often their label is right, members that pass.
    pub accuracy: f64,
    /// How well distance tells the members that pass from those that do not: AUC above .5 says that they lie farther
    /// out; `None` where all or none pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distance_auc: Option<Estimate>,
    /// How well each record's vulnerability over shadow models tells the same; `None` where it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vulnerability_auc: Option<Estimate>,
    /// Numbers in the data set of the members that pass, highest score first.
    pub members: Vec<usize>,
}

/// One row near or far.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Extreme {
    /// Number in the data set.
    pub row: usize,
    /// Cosine distance to the centroid.
    pub distance: f64,
    /// Whether it passes the first threshold.
    pub vulnerable: bool,
}

/// The members of one class that are nearest to its centroid, and those farthest from it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Extremes {
    /// The true label.
    pub class: u32,
    /// Nearest first.
    pub nearest: Vec<Extreme>,
    /// Farthest first.
    pub farthest: Vec<Extreme>,
}

/// A rank correlation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Correlation {
    /// What is correlated with distance, and over which rows.
    pub what: String,
    /// Spearman's ρ, with Bonett and Wright's interval.
    pub rho: Estimate,
    /// Rows.
    pub n_rows: usize,
}

/// The rows of one quarter of distance.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Quarter {
    /// Distances from here …
    pub from: f64,
    /// … to here.
    pub to: f64,
    /// Members.
    pub n_members: usize,
    /// Non-members.
    pub n_non_members: usize,
    /// AUC of the score among them, with DeLong's interval; `None` where a side is empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auc: Option<Estimate>,
}

/// A map of rows by t-SNE of their logits.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Embedding {
    /// How it was made.
    pub how: String,
    /// Its rows.
    pub points: Vec<Spot>,
}

/// One row on the map.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spot {
    /// Place, from 0 to 1.
    pub x: f32,
    /// Place, from 0 to 1.
    pub y: f32,
    /// True label.
    pub class: u32,
    /// Whether it is a member.
    pub member: bool,
    /// How many of the thresholds it passes.
    pub passes: u8,
}

/// The rows that are analysed: members first.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    /// The model's logits, shape (n_rows, n_classes).
    pub logits: &'a Array2<f32>,
    /// True labels.
    pub labels: &'a [u32],
    /// Number of members.
    pub n_members: usize,
    /// Numbers in the data set.
    pub dataset_rows: &'a [usize],
    /// Vulnerability of each record from elsewhere (LiRA over shadows), where it is known.
    pub vulnerability: Option<&'a [f64]>,
}

/// Analyses rows of a target: two of each side at least, and every label below the number of classes. With `map` the
/// embedding is made too, from `seed`.
#[must_use]
pub fn analyse(rows: &Rows<'_>, level: f64, seed: u64, map: bool) -> Analysis {
    let answers = Answers {
        predicted: rows.logits.rows().into_iter().map(argmax).collect(),
        probabilities: softmax_at(rows.logits, 1.0),
    };
    let scores = Attack::ScaledLogit.scores(&answers, rows.labels, &Inversion::as_is());
    let distances = distances(rows);
    let thresholds = FPRS.map(|fpr| threshold(&scores[rows.n_members..], fpr));
    let vulnerable: Vec<Vulnerable> = FPRS
        .iter()
        .zip(thresholds)
        .map(|(&fpr, threshold)| beyond(rows, &answers, &scores, &distances, (fpr, threshold), level))
        .collect();
    let correlations = correlations(rows, &scores, &distances, level);
    let quarters = quarters(rows, &scores, &distances, level);
    Analysis {
        score: Attack::ScaledLogit.name(),
        finding: finding(&vulnerable, &correlations, &quarters),
        extremes: extremes(rows, &scores, &distances, thresholds[0]),
        embedding: map.then(|| embed(rows, &scores, &thresholds, seed)),
        pictures: Vec::new(),
        vulnerable,
        correlations,
        quarters,
    }
}

/// The score that at most a share `fpr` of the non-members passes.
fn threshold(non_members: &[f64], fpr: f64) -> f64 {
    let mut sorted = non_members.to_vec();
    sorted.sort_by(|a, b| b.total_cmp(a));
    let n_may = (fpr * sorted.len() as f64).floor() as usize;
    sorted.get(n_may).copied().unwrap_or(f64::MAX)
}

/// Cosine distance of each row to the mean of the members of its true class; 1 where the class has none.
fn distances(rows: &Rows<'_>) -> Vec<f64> {
    let n_classes = rows.logits.ncols();
    let mut centroids = Array2::<f64>::zeros((n_classes, n_classes));
    for (row, &label) in rows.logits.rows().into_iter().zip(rows.labels).take(rows.n_members) {
        centroids.row_mut(label as usize).iter_mut().zip(row).for_each(|(sum, &z)| *sum += f64::from(z));
    }
    let of_row = |(row, &label): (ArrayView1<'_, f32>, &u32)| 1.0 - cosine(row, centroids.row(label as usize));
    rows.logits.rows().into_iter().zip(rows.labels).map(of_row).collect()
}

fn cosine(z: ArrayView1<'_, f32>, c: ArrayView1<'_, f64>) -> f64 {
    let (mut dot, mut zz, mut cc) = (0.0, 0.0, 0.0);
    for (&z, &c) in z.iter().zip(c) {
        let z = f64::from(z);
        dot += z * c;
        zz += z * z;
        cc += c * c;
    }
    let norms = (zz * cc).sqrt();
    if norms > 0.0 { dot / norms } else { 0.0 }
}

fn beyond(
    rows: &Rows<'_>,
    answers: &Answers,
    scores: &[f64],
    distances: &[f64],
    (fpr, threshold): (f64, f64),
    level: f64,
) -> Vulnerable {
    let n_non_members = scores.len() - rows.n_members;
    let mut passing: Vec<usize> = (0..rows.n_members).filter(|&row| scores[row] > threshold).collect();
    passing.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    let others = (rows.n_members..scores.len()).filter(|&row| scores[row] > threshold).count();
    let right = passing.iter().filter(|&&row| answers.predicted[row] == rows.labels[row]).count();
    let passes: Vec<bool> = scores[..rows.n_members].iter().map(|&score| score > threshold).collect();
    Vulnerable {
        fpr,
        threshold,
        n_members: passing.len(),
        n_non_members: others,
        difference: newcombe(
            (passing.len() as u64, rows.n_members as u64),
            (others as u64, n_non_members as u64),
            level,
        ),
        accuracy: right as f64 / passing.len().max(1) as f64,
        distance_auc: auc(&distances[..rows.n_members], &passes, level),
        vulnerability_auc: rows.vulnerability.and_then(|given| auc(given.get(..rows.n_members)?, &passes, level)),
        members: passing.iter().map(|&row| rows.dataset_rows[row]).collect(),
    }
}

/// AUC with DeLong's interval; `None` where a side is empty.
fn auc(scores: &[f64], positives: &[bool], level: f64) -> Option<Estimate> {
    let ranking = Ranking::new(scores).ok()?;
    Placements::new(&ranking, positives).ok().map(|placements| placements.auc(level))
}

fn extremes(rows: &Rows<'_>, scores: &[f64], distances: &[f64], threshold: f64) -> Vec<Extremes> {
    let of_class = |class: u32| {
        let mut members: Vec<usize> = (0..rows.n_members).filter(|&row| rows.labels[row] == class).collect();
        members.sort_by(|&a, &b| distances[a].total_cmp(&distances[b]));
        let one = |&row: &usize| Extreme {
            row: rows.dataset_rows[row],
            distance: distances[row],
            vulnerable: scores[row] > threshold,
        };
        let nearest = members.iter().take(N_EXTREMES).map(one).collect();
        Extremes { class, nearest, farthest: members.iter().rev().take(N_EXTREMES).map(one).collect() }
    };
    (0..rows.logits.ncols() as u32).map(of_class).filter(|found: &Extremes| !found.nearest.is_empty()).collect()
}

fn correlations(rows: &Rows<'_>, scores: &[f64], distances: &[f64], level: f64) -> Vec<Correlation> {
    let n = rows.n_members;
    let one = |what: &str, a: &[f64], b: &[f64]| Correlation {
        what: what.to_owned(),
        rho: spearman(a, b, level),
        n_rows: a.len(),
    };
    let mut found = vec![
        one("the score, members", &distances[..n], &scores[..n]),
        one("the score, non-members (the control)", &distances[n..], &scores[n..]),
    ];
    if let Some(vulnerability) = rows.vulnerability.filter(|given| given.len() == scores.len()) {
        found.push(one("vulnerability over shadow models, members", &distances[..n], &vulnerability[..n]));
        found.push(one("vulnerability over shadow models, non-members", &distances[n..], &vulnerability[n..]));
    }
    found
}

/// Spearman's ρ with middle ranks for ties; the interval by Fisher's z with Bonett and Wright's variance
/// `(1 + ρ²/2)/(n − 3)`.
fn spearman(a: &[f64], b: &[f64], level: f64) -> Estimate {
    let (a, b) = (ranks(a), ranks(b));
    let n = a.len() as f64;
    let mean = (n + 1.0) / 2.0;
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (a, b) in a.iter().zip(&b) {
        ab += (a - mean) * (b - mean);
        aa += (a - mean) * (a - mean);
        bb += (b - mean) * (b - mean);
    }
    let norms = (aa * bb).sqrt();
    let rho: f64 = if norms > 0.0 { (ab / norms).clamp(-1.0, 1.0) } else { 0.0 };
    if n <= 3.0 {
        return Estimate::new(rho, Interval { low: -1.0, high: 1.0 });
    }
    let half = two_sided_z(level) * ((1.0 + rho * rho / 2.0) / (n - 3.0)).sqrt();
    let z = rho.clamp(-1.0 + 1e-12, 1.0 - 1e-12).atanh();
    Estimate::new(rho, Interval { low: (z - half).tanh(), high: (z + half).tanh() })
}

/// Ranks from 1, the middle one for ties.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    while start < order.len() {
        let value = values[order[start]];
        let end = start + order[start..].iter().take_while(|&&row| values[row] == value).count();
        for &row in &order[start..end] {
            ranks[row] = (start + 1 + end) as f64 / 2.0;
        }
        start = end.max(start + 1);
    }
    ranks
}

fn quarters(rows: &Rows<'_>, scores: &[f64], distances: &[f64], level: f64) -> Vec<Quarter> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| distances[a].total_cmp(&distances[b]));
    let size = order.len().div_ceil(4).max(1);
    let of = |inside: &[usize]| {
        let memberships: Vec<bool> = inside.iter().map(|&row| row < rows.n_members).collect();
        let of_inside: Vec<f64> = inside.iter().map(|&row| scores[row]).collect();
        let n_members = memberships.iter().filter(|&&member| member).count();
        Quarter {
            from: distances[inside[0]],
            to: distances[inside[inside.len() - 1]],
            n_members,
            n_non_members: inside.len() - n_members,
            auc: auc(&of_inside, &memberships, level),
        }
    };
    order.chunks(size).map(of).collect()
}

fn finding(vulnerable: &[Vulnerable], correlations: &[Correlation], quarters: &[Quarter]) -> String {
    let mut said = Vec::new();
    if let Some(first) = vulnerable.first() {
        let passing = [counted(first.n_members, "member"), counted(first.n_non_members, "non-member")].join(" and ");
        said.push(if first.difference.low > 0.0 {
            format!("{passing} pass the threshold of {} % of the non-members: more members than chance.", 100.0 * first.fpr)
        } else {
            format!(
                "{passing} pass the threshold of {} % of the non-members: no more members than chance, so passing it is \
                 no sign of membership.",
                100.0 * first.fpr
            )
        });
        if let Some(auc) = first.distance_auc {
            let lie = match (auc.low > 0.5, auc.high < 0.5) {
                (true, _) => "lie farther from their class centroid than other members",
                (_, true) => "lie nearer to their class centroid than other members, against the thesis",
                _ => "lie no farther from their class centroid than other members",
            };
            said.push(format!("The members that pass {lie} (AUC {:.3} [{:.3}, {:.3}]).", auc.value, auc.low, auc.high));
        }
        if let Some(auc) = first.vulnerability_auc {
            let tells = match (auc.low > 0.5, auc.high < 0.5) {
                (true, _) => "are those that shadow models call vulnerable, more often than other members",
                (_, true) => "are called vulnerable by shadow models less often than other members",
                _ => "are called vulnerable by shadow models no more often than other members",
            };
            said.push(format!("They {tells} (AUC {:.3} [{:.3}, {:.3}]).", auc.value, auc.low, auc.high));
        }
    }
    if let Some(over_shadows) = correlations.get(2) {
        said.push(format!(
            "Distance goes with a member's vulnerability over shadow models by ρ = {:.2} [{:.2}, {:.2}].",
            over_shadows.rho.value + 0.0,
            over_shadows.rho.low + 0.0,
            over_shadows.rho.high + 0.0
        ));
    }
    if let (Some(members), Some(control)) = (correlations.first(), correlations.get(1)) {
        said.push(format!(
            "Distance and score go together with ρ = {:.2} among members and {:.2} among non-members.",
            members.rho.value + 0.0,
            control.rho.value + 0.0
        ));
    }
    let known: Vec<Estimate> = quarters.iter().filter_map(|quarter| quarter.auc).collect();
    if let (Some(near), Some(far), true) = (known.first(), known.last(), known.len() > 1) {
        let verdict = if far.low > near.high {
            "the attack does better on outliers, as the thesis says"
        } else if far.high < near.low {
            "the attack does worse on outliers, against the thesis"
        } else {
            "the two are not told apart"
        };
        said.push(format!(
            "AUC is {:.3} in the nearest quarter and {:.3} in the farthest: {verdict}.",
            near.value, far.value
        ));
    }
    said.join(" ")
}

/// t-SNE of the logits of some rows of both sides, the vulnerable ones among them.
fn embed(rows: &Rows<'_>, scores: &[f64], thresholds: &[f64], seed: u64) -> Embedding {
    let n_rows = scores.len();
    let passes = |row: usize| thresholds.iter().filter(|&&threshold| scores[row] > threshold).count() as u8;
    let mut order: Vec<usize> = (0..n_rows).collect();
    order.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    // The vulnerable first: a stable sort keeps the rest in its drawn order.
    order.sort_by_key(|&row| passes(row) == 0);
    order.truncate(MAX_EMBEDDED);
    let samples: Vec<Vec<f32>> = order.iter().map(|&row| rows.logits.row(row).to_vec()).collect();
    let views: Vec<&[f32]> = samples.iter().map(Vec::as_slice).collect();
    let perplexity = PERPLEXITY.min((views.len() as f32 - 1.0) / 3.0 - 0.01).max(1.0);
    let places = places(&views, perplexity, seed);
    let axis = |axis: usize| {
        let values: Vec<f32> = places.iter().map(|place| place[axis]).collect();
        let low = values.iter().copied().fold(f32::INFINITY, f32::min);
        let span = values.iter().copied().fold(f32::NEG_INFINITY, f32::max) - low;
        values.into_iter().map(move |value| if span > 0.0 { (value - low) / span } else { 0.5 }).collect::<Vec<f32>>()
    };
    let (xs, ys) = (axis(0), axis(1));
    let spot = |(place, &row): (usize, &usize)| Spot {
        x: xs[place],
        y: ys[place],
        class: rows.labels[row],
        member: row < rows.n_members,
        passes: passes(row),
    };
    let how = format!(
        "t-SNE of the logits of {} of {n_rows} rows, all vulnerable ones among them; perplexity {perplexity:.0}, {EPOCHS} \
         epochs, θ = {THETA}, seed {seed}",
        order.len()
    );
    Embedding { how, points: order.iter().enumerate().map(spot).collect() }
}

fn places(samples: &[&[f32]], perplexity: f32, seed: u64) -> Vec<[f32; 2]> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let start: Vec<f32> = (0..2 * samples.len()).map(|_| rng.random_range(-1e-4..1e-4)).collect();
    let euclidean = |a: &&[f32], b: &&[f32]| a.iter().zip(*b).map(|(a, b)| (a - b).powi(2)).sum::<f32>().sqrt();
    let mut tsne = bhtsne::tSNE::<f32, &[f32], 2>::new(samples);
    tsne.perplexity(perplexity).epochs(EPOCHS).initial_embedding(start).barnes_hut(THETA, euclidean);
    let finite = |value: f32| if value.is_finite() { value } else { 0.0 };
    tsne.embedding().as_chunks::<2>().0.iter().map(|&[x, y]| [finite(x), finite(y)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 4 classes of 100 members and 100 non-members; a member's true class leads by `margin` more.
    fn planted(margin: f32) -> (Array2<f32>, Vec<u32>) {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let labels: Vec<u32> = (0..800).map(|row| row % 4).collect();
        let logits = Array2::from_shape_fn((800, 4), |(row, class)| {
            let lead = if class == row % 4 { 3.0 + if row < 400 { margin } else { 0.0 } } else { 0.0 };
            lead + rng.random_range(-1.5..1.5_f32)
        });
        (logits, labels)
    }

    fn analysed(margin: f32, map: bool) -> Analysis {
        let (logits, labels) = planted(margin);
        let dataset_rows: Vec<usize> = (1_000..1_800).collect();
        let rows =
            Rows { logits: &logits, labels: &labels, n_members: 400, dataset_rows: &dataset_rows, vulnerability: None };
        analyse(&rows, 0.95, 1, map)
    }

    #[test]
    fn the_non_members_that_pass_are_counted_beside_the_members() {
        let null = analysed(0.0, false);
        let first = &null.vulnerable[0];
        assert!(first.n_non_members <= 4 && first.n_members < 20, "{first:?}");
        assert!(first.difference.interval().covers(0.0), "{first:?}");
        assert!(null.finding.contains("no more members than chance"), "{}", null.finding);
        let leak = analysed(3.0, false);
        assert!(leak.vulnerable[0].n_members > 100 && leak.vulnerable[0].n_non_members <= 4);
        assert!(leak.vulnerable[0].members.iter().all(|row| (1_000..1_400).contains(row)));
        assert!(leak.finding.contains("more members than chance"), "{}", leak.finding);
    }

    #[test]
    fn nearest_and_farthest_are_members_in_order() {
        let found = analysed(1.0, false);
        assert_eq!(found.extremes.len(), 4);
        for class in &found.extremes {
            assert_eq!((class.nearest.len(), class.farthest.len()), (N_EXTREMES, N_EXTREMES));
            assert!(class.nearest.windows(2).all(|pair| pair[0].distance <= pair[1].distance));
            assert!(class.farthest.windows(2).all(|pair| pair[0].distance >= pair[1].distance));
            assert!(class.nearest[0].distance < class.farthest[0].distance);
        }
        assert_eq!(found.quarters.iter().map(|quarter| quarter.n_members + quarter.n_non_members).sum::<usize>(), 800);
    }

    #[test]
    fn spearman_is_as_by_hand() {
        // Ranks 1 2 3 4 against 1.5 1.5 3 4: ρ = 4.5 / √(5 · 4.5).
        let rho = spearman(&[1.0, 2.0, 3.0, 4.0], &[7.0, 7.0, 8.0, 9.0], 0.95);
        assert!((rho.value - 4.5 / 22.5_f64.sqrt()).abs() < 1e-12, "{rho:?}");
        assert!(rho.low < rho.value && rho.value < rho.high && rho.high <= 1.0);
        let constant = spearman(&[1.0; 5], &[1.0, 2.0, 3.0, 4.0, 5.0], 0.95);
        assert_eq!(constant.value, 0.0);
    }

    #[test]
    fn a_map_holds_every_vulnerable_row_on_the_paper() {
        let found = analysed(3.0, true);
        let map = found.embedding.unwrap();
        assert_eq!(map.points.len(), 800);
        assert!(map.points.iter().all(|spot| (0.0..=1.0).contains(&spot.x) && (0.0..=1.0).contains(&spot.y)));
        let passing = map.points.iter().filter(|spot| spot.member && spot.passes > 0).count();
        assert_eq!(passing, found.vulnerable[0].n_members);
        assert!(map.points.iter().all(|spot| spot.member || spot.passes == 0 || spot.class < 4));
    }
}
