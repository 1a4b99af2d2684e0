//! The audit, tried on targets whose leak is known because it was planted.

#![allow(clippy::unwrap_used, reason = "helpers of tests: a panic is how a test fails")]

use std::sync::Arc;

use ndarray::Array2;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sordino::artifact::ModelDigest;
use sordino::audit::attack::Attack;
use sordino::audit::duplicates::Duplicates;
use sordino::audit::interval::{Estimate, Interval};
use sordino::audit::policy::{Policy, Stands};
use sordino::audit::render::{self, Layout};
use sordino::audit::report::{
    self, AttackFindings, Figure, Findings, Origin, Report, Settings, SourceRecord, SystemFindings,
};
use sordino::audit::source::sides::Sides;
use sordino::audit::standing::{Leak, Standing};
use sordino::audit::system::{add_grid, build_all};
use sordino::audit::target::{Target, TargetError};
use sordino::audit::{roc::Roc, study, tried};
use sordino::data::{DataSource, Dataset, Part, PartSizes, Split};
use sordino::defence::{
    Bank, CentroidSums, ClassFallback, Defence, DefenceConfig, DistanceQuantiles, Fitted, Gate, Method, N_QUANTILES,
    RawScores, ScoreKind,
};
use sordino::engine::{Engine, EngineError, ModelSpec};
use sordino::pipeline::{Identity, Pipeline};
use sordino::tensor::{DType, Dim, Inputs, TensorSpec, Values};

const N_CLASSES: usize = 4;

/// How the rows of one side look: the margin by which the true class leads, and how often it does not.
#[derive(Clone, Copy)]
struct Side {
    margin: f64,
    errors: f64,
}

struct Planted {
    logits: Array2<f32>,
    labels: Vec<u32>,
    n_members: usize,
}

/// Rows whose true class leads by `margin` plus noise, except for a share of errors where another class does.
fn planted(n_per_side: usize, members: Side, non_members: Side, seed: u64) -> Planted {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let n_rows = 2 * n_per_side;
    let mut logits = Array2::zeros((n_rows, N_CLASSES));
    let mut labels = Vec::with_capacity(n_rows);
    for row in 0..n_rows {
        let side = if row < n_per_side { members } else { non_members };
        let label = rng.random_range(0..N_CLASSES);
        let shown = if rng.random_bool(side.errors) { (label + 1) % N_CLASSES } else { label };
        for class in 0..N_CLASSES {
            logits[(row, class)] = rng.random_range(-1.0..1.0_f32);
        }
        // Above the noise, so that the shown class is the argmax.
        logits[(row, shown)] = 1.0 + (side.margin * rng.random_range(0.2..1.8)) as f32;
        labels.push(label as u32);
    }
    Planted { logits, labels, n_members: n_per_side }
}

impl Planted {
    fn target(&self) -> Target {
        let seal = |rows: Array2<f32>| RawScores::new(rows, ScoreKind::Logits).unwrap();
        let batches = self.logits.axis_chunks_iter(ndarray::Axis(0), 100).map(|rows| seal(rows.to_owned())).collect();
        let calibration = planted(400, Side { margin: 2.0, errors: 0.3 }, Side { margin: 2.0, errors: 0.3 }, 99);
        Target::new(batches, self.labels.clone(), self.n_members, (vec![seal(calibration.logits)], calibration.labels))
            .unwrap()
    }

    fn fitted(&self) -> Arc<Fitted> {
        let names: Vec<String> = (0..N_CLASSES).map(|class| format!("class {class}")).collect();
        let mut sums = CentroidSums::new(N_CLASSES);
        for row in 0..self.n_members {
            let logits = self.logits.row(row).to_vec();
            sums.add(&logits, self.labels[row] as usize).unwrap();
        }
        let (centroids, _) = sums.finish(ClassFallback::Refuse, &names).unwrap();
        let table = Array2::from_shape_fn((N_CLASSES, N_QUANTILES), |(_, q)| q as f32 / (N_QUANTILES - 1) as f32);
        let quantiles = DistanceQuantiles::new(table, N_CLASSES).unwrap();
        Arc::new(Fitted::new(ScoreKind::Logits, names, centroids, quantiles, Bank::empty(N_CLASSES)).unwrap())
    }

    fn audit(&self, settings: &Settings) -> Findings {
        let fitted = self.fitted();
        let given = [("mine".to_owned(), DefenceConfig { method: Method::LabelOnly, top_k: Some(1), digits: None })];
        let (systems, skipped) = build_all(&given, Some(&fitted), ScoreKind::Logits, N_CLASSES).unwrap();
        study::run(&self.target(), &systems, skipped, settings).unwrap()
    }
}

fn settings() -> Settings {
    // Learning on every system takes long: the tests that need it ask for it.
    Settings { n_permutations: 200, n_resamples: 200, overhead_passes: 1, learned: false, ..Settings::default() }
}

fn system<'a>(findings: &'a Findings, name: &str) -> &'a SystemFindings {
    let found = findings.systems.iter().find(|system| system.name == name);
    found.unwrap_or_else(|| panic!("no system {name:?}"))
}

const EQUAL: Side = Side { margin: 2.0, errors: 0.3 };

#[test]
fn a_planted_leak_in_the_scores_is_found() {
    // As many errors on both sides: the label tells nothing, the margin much.
    let findings = planted(1_500, Side { margin: 4.0, errors: 0.3 }, EQUAL, 1).audit(&settings());
    let undefended = system(&findings, "undefended").headline.value.clone().unwrap();
    assert!(undefended.fixed.low > 0.1 && undefended.leak == Leak::Seen, "{undefended:?}");
    assert_eq!(undefended.standing, Standing::AboveFloor);
    assert!(undefended.widest > undefended.widest_null.value.unwrap().q95);
    // The rival keeps the leak (R15); the label alone has none.
    let rival = system(&findings, "temperature-scaled").headline.value.clone().unwrap();
    assert_eq!(rival.standing, Standing::AboveFloor);
    let floor = system(&findings, "label-only").headline.value.clone().unwrap();
    assert_ne!(floor.leak, Leak::Seen, "{floor:?}");
    assert_eq!(floor.standing, Standing::AtFloor);
}

#[test]
fn a_planted_leak_in_the_labels_reaches_through_every_defence() {
    let findings = planted(1_500, Side { margin: 2.0, errors: 0.02 }, EQUAL, 2).audit(&settings());
    for found in &findings.systems {
        let headline = found.headline.value.as_ref().unwrap();
        assert!(headline.fixed.value > 0.2 && headline.leak == Leak::Seen, "{}: {headline:?}", found.name);
        // A threshold that was fitted to noise loses a little against reading the label alone.
        assert!(headline.fixed_minus_floor.value > -0.05, "{}: {headline:?}", found.name);
        assert_eq!(found.utility.label_agreement.value, Some(1.0), "{}", found.name);
    }
}

#[test]
fn the_floor_is_no_lower_than_what_the_label_alone_tells() {
    // A leak of the labels, one of the scores, and several deals of the rows: rules fitted to noise must not displace it.
    for (seed, member) in [(2, Side { margin: 2.0, errors: 0.1 }), (3, Side { margin: 4.0, errors: 0.3 })] {
        for deal in 1..=4 {
            let findings = planted(400, member, EQUAL, seed).audit(&Settings { seed: deal, ..settings() });
            let floor = system(&findings, "label-only");
            let correctness = floor.attacks.iter().find(|found| found.attack == Attack::Correctness).unwrap();
            let headline = floor.headline.value.as_ref().unwrap();
            assert_eq!(headline.fixed.value, correctness.fixed.value, "{seed}, {deal}: {headline:?}");
            assert_eq!(headline.fixed_minus_floor.value, 0.0);
        }
    }
}

#[test]
fn a_target_without_a_leak_shows_none() {
    let findings = planted(1_500, EQUAL, EQUAL, 3).audit(&settings());
    for found in &findings.systems {
        let loss = &found.attacks[0];
        assert!(loss.auc.interval().covers(0.5), "{}: {loss:?}", found.name);
        assert!((loss.auc.value - 0.5).abs() < 0.03);
        assert!(loss.widest <= loss.widest_null.value.unwrap().q95, "{}: {loss:?}", found.name);
    }
}

#[test]
fn no_rule_is_the_headline_for_its_luck_on_the_rows_that_chose_it() {
    // The labels leak, the scores tell nothing more: rules with a threshold to choose are as good by luck alone.
    let member = Side { margin: 2.0, errors: 0.1 };
    let mut n_passed_over = 0;
    for deal in 1..=8 {
        let findings = planted(400, member, EQUAL, deal).audit(&Settings { seed: deal, ..settings() });
        for name in ["undefended", "temperature-scaled"] {
            let found = system(&findings, name);
            let on_fit = |wanted: &dyn Fn(&AttackFindings) -> bool| {
                let counted = found.attacks.iter().filter(|one| one.counts && wanted(one));
                counted.map(|one| one.fixed_on_fit).fold(f64::NEG_INFINITY, f64::max)
            };
            let (plainest, luckiest) = (on_fit(&|one| one.attack == Attack::Correctness), on_fit(&|_| true));
            let headline = found.headline.value.as_ref().unwrap();
            if headline.fixed_attack == Attack::Correctness {
                n_passed_over += usize::from(luckiest > plainest);
                assert_eq!(headline.fixed_minus_floor.value, 0.0);
            } else {
                assert_eq!(on_fit(&|one| one.attack == headline.fixed_attack), luckiest, "{deal}, {name}");
            }
        }
    }
    assert!(n_passed_over > 0, "a rule that led by less than its error was the headline each time");
}

#[test]
fn attacks_that_fail_on_the_undefended_model_do_not_count() {
    let findings = planted(1_500, EQUAL, EQUAL, 3).audit(&settings());
    assert!(findings.validity.iter().all(|validity| !validity.counts));
    let headline = &system(&findings, "undefended").headline;
    assert!(headline.value.is_none() && headline.reason.as_ref().unwrap().contains("cannot tell"));
    // A model without a leak is not for ever undecided: what none of the attacks finds is held against the limit.
    let judged = |limit: f64| {
        let policy = Policy { max_advantage: Some(limit), max_advantage_over_floor: Some(limit), ..Policy::default() };
        policy.judge(&findings).unwrap().stands
    };
    assert_eq!((judged(0.25), judged(0.001)), (Stands::Held, Stands::Undecided));
}

#[test]
fn the_label_only_floor_is_the_gap() {
    let findings = planted(1_500, Side { margin: 3.0, errors: 0.05 }, EQUAL, 4).audit(&settings());
    let floor = system(&findings, "label-only");
    let gap = floor.utility.accuracy_members - floor.utility.accuracy_non_members;
    for found in &floor.attacks {
        // What is fitted may use the label itself, too.
        let Some(attack) = Attack::ALL.into_iter().find(|&attack| found.attack == attack) else { continue };
        match attack {
            // One bit: every attack that uses the true label sees the same curve.
            Attack::Loss
            | Attack::ModifiedEntropy
            | Attack::ScaledLogit
            | Attack::Correctness
            | Attack::InvertedLoss
            | Attack::InvertedOther => {
                assert!((found.widest - gap).abs() < 1e-12 && (found.fixed.value - gap).abs() < 1e-12, "{found:?}");
                assert!((found.auc.value - (0.5 + gap / 2.0)).abs() < 1e-12);
            }
            // A constant: nothing to see at all.
            Attack::Confidence | Attack::Entropy => {
                assert_eq!((found.widest, found.fixed.value, found.auc.value), (0.0, 0.0, 0.5));
            }
        }
    }
    // The correctness attack asks only the label, which no defence moves.
    for found in &findings.systems {
        let correctness = found.attacks.iter().find(|found| found.attack == Attack::Correctness).unwrap();
        assert!((correctness.fixed.value - gap).abs() < 1e-12, "{}", found.name);
        assert_eq!(correctness.fixed_minus_floor, Estimate::new(0.0, Interval { low: 0.0, high: 0.0 }));
    }
    let row = findings.before_and_after.iter().find(|row| row.system == "label-only").unwrap();
    assert!((row.advantage - row.gap).abs() < 1e-12);
}

#[test]
fn the_reweighted_curve_agrees_with_an_f64_oracle() {
    let planted = planted(800, Side { margin: 4.0, errors: 0.1 }, EQUAL, 5);
    let findings = planted.audit(&settings());
    let fitted = planted.fitted();
    let centroids = fitted.centroids().values();
    let scores: Vec<f64> = (0..planted.labels.len())
        .map(|row| {
            let z: Vec<f64> = planted.logits.row(row).iter().map(|&z| f64::from(z)).collect();
            let label = (0..N_CLASSES).fold(0, |best, class| if z[class] > z[best] { class } else { best });
            let c: Vec<f64> = centroids.row(label).iter().map(|&c| f64::from(c)).collect();
            let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
            let share = (0.1 * dot(&z, &c) / (dot(&z, &z) * dot(&c, &c)).sqrt()).clamp(0.0, 1.0);
            let moved: Vec<f64> = z.iter().zip(&c).map(|(z, c)| share * z + (1.0 - share) * c).collect();
            let total: f64 = moved.iter().map(|m| m.exp()).sum();
            moved[planted.labels[row] as usize] - total.ln()
        })
        .collect();
    let memberships: Vec<bool> = (0..scores.len()).map(|row| row < planted.n_members).collect();
    let oracle = Roc::new(&scores, &memberships).unwrap();
    let row = findings.before_and_after.iter().find(|row| row.system == "reweight w=0.1").unwrap();
    assert!((row.auc - oracle.auc()).abs() < 1e-4, "{} {}", row.auc, oracle.auc());
    assert!((row.advantage - oracle.two_sided_advantage()).abs() < 1e-2);
}

#[test]
fn one_seed_gives_one_report() {
    let audit = |seed| {
        let mut findings =
            planted(300, Side { margin: 4.0, errors: 0.1 }, EQUAL, 6).audit(&Settings { seed, ..settings() });
        // Time is all that two runs may differ in.
        findings.before_and_after.iter_mut().for_each(|row| row.overhead_seconds = Figure::known(0.0));
        serde_json::to_string(&findings).unwrap()
    };
    assert_eq!(audit(7), audit(7));
    assert_ne!(audit(7), audit(8));
}

#[test]
fn a_standing_is_read_from_the_interval() {
    let standing = |low, high| Standing::of(&Estimate::new((low + high) / 2.0, Interval { low, high }), 0.05);
    assert_eq!(standing(0.01, 0.03), Standing::AboveFloor);
    assert_eq!(standing(-0.01, 0.03), Standing::AtFloor);
    assert_eq!(standing(0.0, 0.0), Standing::AtFloor);
    assert_eq!(standing(-0.01, 0.06), Standing::NotToldApart);
    assert_eq!(standing(-0.06, 0.01), Standing::NotToldApart);
    assert_eq!(standing(-0.03, -0.01), Standing::BelowFloor);
}

#[test]
fn no_leak_is_seen_only_where_one_could_have_been() {
    let leak = |low, high, null| Leak::of(&Estimate::new((low + high) / 2.0, Interval { low, high }), null, 0.05);
    assert_eq!(leak(0.01, 0.03, Some((true, 0.02))), Leak::Seen);
    assert_eq!(leak(-0.01, 0.03, Some((false, 0.02))), Leak::Seen);
    assert_eq!(leak(-0.01, 0.03, Some((true, 0.02))), Leak::NotSeen);
    assert_eq!(leak(-0.01, 0.03, Some((true, 0.06))), Leak::Undecidable);
    assert_eq!(leak(-0.06, 0.06, Some((true, 0.02))), Leak::Undecidable);
    assert_eq!(leak(-0.01, 0.03, None), Leak::Undecidable);
}

#[test]
fn an_attack_counts_in_either_direction_and_where_the_leak_is_weak() {
    // Members lead by less: every AUC of a score attack is below one half.
    let findings = planted(1_500, Side { margin: 1.0, errors: 0.3 }, EQUAL, 11).audit(&settings());
    let confidence = &findings.validity[1];
    assert!(confidence.counts && confidence.auc_undefended.high < 0.5, "{confidence:?}");
    // An AUC of .53 is no chance on 12,000 rows.
    let weak = planted(6_000, Side { margin: 2.15, errors: 0.3 }, EQUAL, 12).audit(&settings());
    let confidence = &weak.validity[1];
    assert!(confidence.counts && confidence.auc_undefended.value < 0.55, "{confidence:?}");
}

fn advantage(found: &SystemFindings, wanted: Attack) -> f64 {
    found.attacks.iter().find(|found| found.attack == wanted).unwrap().fixed.value
}

#[test]
fn the_leak_that_reweighting_hides_is_found_again_by_inverting_it() {
    let findings = planted(1_500, Side { margin: 4.0, errors: 0.3 }, EQUAL, 1).audit(&settings());
    let of = |name: &str, attack| advantage(system(&findings, name), attack);
    let undefended = of("undefended", Attack::Loss);
    assert_eq!(of("undefended", Attack::InvertedLoss), undefended);
    assert_eq!(of("temperature-scaled", Attack::InvertedLoss), undefended);
    let inverted = of("reweight w=0.1", Attack::InvertedLoss);
    assert!(inverted > undefended - 0.03, "{inverted} {undefended}");
    // Rounding to 2 digits leaves little, the label alone nothing.
    assert!(of("label-only", Attack::InvertedLoss).abs() < 0.05);
}

#[test]
fn of_attacks_that_tie_the_plainest_is_named_and_nothing_is_undone_where_nothing_was_done() {
    // Every label is right, so that the loss, the confidence and the scaled logit order the rows alike.
    let side = |margin| Side { margin, errors: 0.0 };
    let rows = planted(600, side(4.0), side(2.0), 1);
    let settings = Settings { per_class: false, ..settings() };
    let findings = rows.audit(&settings);
    for found in &findings.systems {
        let Some(headline) = &found.headline.value else { continue };
        let first = found.attacks.iter().find(|one| one.counts && one.widest == headline.widest).unwrap();
        assert_eq!(first.attack, headline.widest_attack, "{}", found.name);
    }
    let undefended = system(&findings, "undefended");
    let of = |wanted: Attack| undefended.attacks.iter().find(|found| found.attack == wanted).unwrap();
    // The model itself read back is the model itself: the same scores under other names, of which the first is told.
    let headline = undefended.headline.value.as_ref().unwrap();
    assert_eq!(of(Attack::Loss).widest, of(Attack::InvertedLoss).widest);
    assert!(of(Attack::Loss).widest == headline.widest && headline.widest_attack == Attack::Loss, "{headline:?}");
    assert!(!headline.fixed_attack.name().contains("inverted"), "{headline:?}");
    // Without a defence that can be read back there is no such attack at all.
    let (systems, skipped) = build_all(&[], None, ScoreKind::Logits, N_CLASSES).unwrap();
    let systems: Vec<_> = systems.into_iter().filter(|one| one.name != "temperature-scaled").collect();
    let bare = study::run(&rows.target(), &systems, skipped, &settings).unwrap();
    let tried = bare.systems.iter().flat_map(|found| &found.attacks).map(|found| &found.attack);
    assert!(tried.chain(bare.validity.iter().map(|one| &one.attack)).all(|one| !one.name().contains("inverted")));
    assert_eq!(system(&bare, "undefended").headline.value.as_ref().unwrap().widest_attack, Attack::Loss);
}

#[test]
fn inverting_the_blend_restores_the_order_of_the_undefended_losses() {
    let planted = planted(800, Side { margin: 4.0, errors: 0.1 }, EQUAL, 5);
    let findings = planted.audit(&settings());
    let auc = |name: &str, wanted: Attack| {
        let attacks = &system(&findings, name).attacks;
        attacks.iter().find(|found| found.attack == wanted).unwrap().auc.value
    };
    let undefended = auc("undefended", Attack::Loss);
    let inverted = auc("reweight w=0.1", Attack::InvertedLoss);
    assert!((inverted - undefended).abs() < 0.02, "{inverted} {undefended}");
}

#[test]
fn a_gate_that_cannot_be_served_is_marked() {
    let findings = planted(300, EQUAL, EQUAL, 14).audit(&settings());
    let marked: Vec<&str> = findings
        .systems
        .iter()
        .map(|found| found.name.as_str())
        .filter(|name| name.contains("cannot be served"))
        .collect();
    assert_eq!(marked, ["reweight w=0.1 when distance>q0.9 (cannot be served)"]);
    system(&findings, "reweight w=0.1 when distance>q0.9 + 2 digits");
}

#[test]
fn a_row_on_both_sides_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rows.csv");
    std::fs::write(&file, "1,0.5,1\n2,0.25,1\n1,0.5,1\n2,0.75,0\n2,0.5,1\n").unwrap();
    let dataset = Dataset::load(&DataSource::Csv(file.into())).unwrap();
    assert_eq!(Duplicates::count(&dataset, &[0, 1], &[2, 3, 4]), Duplicates { non_members: 2, members: 1 });
    assert_eq!(Duplicates::count(&dataset, &[0, 1], &[3]), Duplicates { non_members: 0, members: 0 });
}

#[test]
fn a_target_needs_both_sides_and_rows_that_fit() {
    let seal = |n_rows| RawScores::new(Array2::zeros((n_rows, 3)), ScoreKind::Logits).unwrap();
    let refused = |n_rows, labels: Vec<u32>, n_members| {
        Target::new(vec![seal(n_rows)], labels, n_members, (Vec::new(), Vec::new())).err().unwrap()
    };
    let too_few = refused(4, vec![0; 4], 1);
    assert!(matches!(too_few, TargetError::TooFewRows { part: "members", n_rows: 1, .. }));
    assert_eq!(too_few.to_string(), "the members have 1 row: the audit needs two members at least");
    assert!(matches!(refused(4, vec![0; 4], 3), TargetError::TooFewRows { part: "non-members", n_rows: 1, .. }));
    assert!(matches!(refused(4, vec![1; 4], 2), TargetError::OneClass { n_rows: 4, label: 1 }));
    assert!(matches!(refused(4, vec![0; 5], 2), TargetError::Mismatch { .. }));
    assert!(matches!(refused(4, vec![0, 0, 3, 0], 2), TargetError::Label { row: 2, label: 3, n_classes: 3 }));
}

#[test]
fn without_calibration_rows_or_centroids_systems_are_left_out_with_the_reason() {
    let rows = planted(50, EQUAL, EQUAL, 8);
    let raw = RawScores::new(rows.logits, ScoreKind::Logits).unwrap();
    let target = Target::new(vec![raw], rows.labels, 50, (Vec::new(), Vec::new())).unwrap();
    let (systems, skipped) = build_all(&[], None, ScoreKind::Logits, N_CLASSES).unwrap();
    let findings = study::run(&target, &systems, skipped, &settings()).unwrap();
    let names: Vec<&str> = findings.systems.iter().map(|system| system.name.as_str()).collect();
    assert_eq!(names, ["undefended", "label-only"]);
    let reason = |name: &str| findings.skipped.iter().find(|one| one.name == name).unwrap().reason.clone();
    assert!(reason("temperature-scaled").contains("calibration rows"));
    assert!(reason("reweight w=0.1").contains("centroid file"));
    assert!(findings.temperature.reason.is_some());
    // The three who asked for a defence that cannot be built hear which one.
    let given = [(
        "mine".to_owned(),
        DefenceConfig { method: Method::Reweight { weight: 0.1, when: Gate::Always }, top_k: None, digits: None },
    )];
    assert_eq!(build_all(&given, None, ScoreKind::Logits, N_CLASSES).err().unwrap().0, "mine");
}

/// An engine whose logits are the row itself.
struct Mirror(ModelSpec);

impl Mirror {
    fn new() -> Self {
        Self(ModelSpec {
            inputs: vec![TensorSpec {
                name: "features".to_owned(),
                dtype: DType::F32,
                shape: vec![Dim::Any, Dim::Fixed(N_CLASSES)],
            }],
            score_output: "logits".to_owned(),
            score_kind: ScoreKind::Logits,
            n_classes: N_CLASSES,
            how_decided: "planted".to_owned(),
            labels: None,
            other_outputs: Vec::new(),
            row_by_row: false,
        })
    }
}

impl Engine for Mirror {
    fn spec(&self) -> &ModelSpec {
        &self.0
    }

    fn infer(&self, inputs: &Inputs) -> Result<RawScores, EngineError> {
        let Values::F32(values) = inputs.tensors()[0].values() else { return Err(EngineError::Run) };
        let rows =
            Array2::from_shape_vec((inputs.n_rows(), N_CLASSES), values.clone()).map_err(|_| EngineError::Run)?;
        Ok(RawScores::new(rows, ScoreKind::Logits)?)
    }
}

#[test]
fn every_row_goes_through_the_pipeline_in_the_order_of_the_split() {
    let rows = planted(60, EQUAL, EQUAL, 10);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rows.csv");
    let line = |row: usize| {
        let values: Vec<String> = rows.logits.row(row).iter().map(f32::to_string).collect();
        // Labels of a table count from 1.
        format!("{},{}\n", rows.labels[row] + 1, values.join(","))
    };
    std::fs::write(&file, (0..120).map(line).collect::<String>()).unwrap();
    let source = DataSource::Csv(file.into());
    let dataset = Dataset::load(&source).unwrap();
    let sizes = PartSizes { train: 40, validation: 0, calibration: 20, test: 50, shadow: 0 };
    let split = Split::draw(&source, &dataset, sizes, 3).unwrap();
    let config = DefenceConfig { method: Method::LabelOnly, top_k: None, digits: None };
    let defence = Defence::new(&config, None, ScoreKind::Logits, N_CLASSES).unwrap();
    let identity = Identity {
        name: "mirror".to_owned(),
        version: "1".to_owned(),
        labels: Vec::new(),
        model: ModelDigest::of(b"mirror"),
    };
    let pipeline = Pipeline::new(Arc::new(Mirror::new()), defence, identity).unwrap();

    let mut done = 0;
    let target = Target::collect(&pipeline, &dataset, &Sides::of_split(&split), 7, &mut |n| done += n).unwrap();
    assert_eq!(done, 110);
    assert_eq!((target.n_members(), target.n_rows(), target.calibration().1.len()), (40, 90, 20));
    let expected: Vec<usize> = split.part(Part::Train).iter().chain(split.part(Part::Test)).copied().collect();
    assert_eq!(target.dataset_rows(), expected);
    let logits = target.logits();
    for (position, &row) in expected.iter().enumerate() {
        assert_eq!(logits.row(position), rows.logits.row(row));
        assert_eq!(target.labels()[position], rows.labels[row]);
    }
}

/// A planted target and what a study of it saw of each row.
pub(crate) fn planted_outcome() -> (Target, study::Outcome) {
    let rows = planted(300, Side { margin: 4.0, errors: 0.1 }, EQUAL, 9);
    let (systems, skipped) = build_all(&[], Some(&rows.fitted()), ScoreKind::Logits, N_CLASSES).unwrap();
    let (target, knowledge) = (rows.target(), study::Knowledge::default());
    let outcome = study::run_with(&target, &systems, skipped, &settings(), &knowledge, &mut |_, _| {}).unwrap();
    (target, outcome)
}

pub(crate) fn small_report() -> Report {
    let findings = planted(300, Side { margin: 4.0, errors: 0.1 }, EQUAL, 9).audit(&settings());
    Report {
        format: report::FORMAT,
        format_version: report::FORMAT_VERSION,
        origin: Origin {
            command: "sordino audit".to_owned(),
            sordino_version: "0",
            commit: Figure::missing("not a checkout"),
            machine: "a machine".to_owned(),
            source: SourceRecord::Pipeline,
            model: "planted".to_owned(),
            model_digest: Figure::known("d".to_owned()),
            scores_decided: "told".to_owned(),
            artifact_digest: Figure::missing("none given"),
            data_source: "none".to_owned(),
            dataset_digest: Figure::known("d".to_owned()),
            split_digest: Figure::known("d".to_owned()),
            split_seed: Figure::known(1),
            duplicates: Figure::known(Duplicates { non_members: 2, members: 1 }),
            pipeline_agrees: Figure::missing("no pipeline"),
            inference_seconds: Figure::known(0.0),
            doubts: Vec::new(),
        },
        findings,
        analysis: Figure::missing("not asked for"),
        trainings: Figure::missing("one training"),
        policy: Figure::missing("no policy was given"),
        not_tried: tried::not_tried(&tried::Tried::default()),
    }
}

/// Every null in a report stands beside its reason.
fn check_nulls(value: &serde_json::Value, path: &str) {
    match value {
        serde_json::Value::Object(fields) => {
            for (name, value) in fields {
                let explained = ["reason", "tpr"].iter().any(|field| fields.get(*field).is_some_and(|f| !f.is_null()));
                assert!(!value.is_null() || explained, "{path}.{name} is null without a reason");
                check_nulls(value, &format!("{path}.{name}"));
            }
        }
        serde_json::Value::Array(items) => {
            items.iter().enumerate().for_each(|(index, item)| check_nulls(item, &format!("{path}[{index}]")));
        }
        _ => {}
    }
}

#[test]
fn no_figure_is_null_without_a_reason() {
    let json = serde_json::to_value(small_report()).unwrap();
    assert_eq!((json["format"].as_str(), json["format_version"].as_u64()), (Some("sordino.audit"), Some(3)));
    check_nulls(&json, "report");
    // 150 non-members cannot resolve a rate of .001, and the report says so.
    let tpr = &json["findings"]["systems"][0]["attacks"][0]["tpr_at_fpr"][1]["tpr"];
    assert!(tpr["value"].is_null() && tpr["reason"].as_str().unwrap().contains("not resolvable"));
}

#[test]
fn the_tables_name_every_system_and_what_was_not_tried() {
    let report = small_report();
    for layout in [Layout::Terminal, Layout::Markdown] {
        let text = render::report(&report, layout);
        for system in &report.findings.systems {
            assert!(text.matches(&system.name).count() >= 4, "{} in {layout:?}", system.name);
        }
        for line in tried::NOT_TRIED {
            assert!(text.contains(line));
        }
        assert!(!text.contains("NaN"));
        let utility = &report.findings.systems[0].utility;
        let of = |value: f64, low: f64, high: f64| format!("{value:.3} [{low:.3}, {high:.3}]");
        let brier = of(utility.brier.value, utility.brier.low, utility.brier.high);
        let nll = of(utility.nll, utility.nll_interval.low, utility.nll_interval.high);
        let widest = report.findings.systems[0].headline.value.as_ref().unwrap();
        let widest = of(widest.widest, widest.widest_interval.low, widest.widest_interval.high);
        for told in [brier, nll, widest] {
            assert!(text.contains(&told), "{told} in {layout:?}");
        }
        let kept = utility.label_agreement_interval.unwrap();
        assert!(kept.low < 1.0 && kept.high == 1.0, "{kept:?}");
    }
    // A Markdown table has as many cells in each line as in its header.
    let markdown = render::report(&report, Layout::Markdown);
    for block in markdown.split("\n\n").filter(|block| block.starts_with('|')) {
        let cells: Vec<usize> = block.lines().map(|line| line.matches('|').count()).collect();
        assert!(cells.iter().all(|&n| n == cells[0]), "{block}");
    }
}

#[test]
fn the_grid_stands_before_the_floor_and_its_masks_are_audited_alone() {
    let rows = planted(200, Side { margin: 4.0, errors: 0.1 }, EQUAL, 3);
    let fitted = rows.fitted();
    let (mut systems, mut skipped) = build_all(&[], Some(&fitted), ScoreKind::Logits, N_CLASSES).unwrap();
    let before = systems.len();
    add_grid(&mut systems, &mut skipped, Some(&fitted), ScoreKind::Logits, N_CLASSES);
    let names: Vec<&str> = systems.iter().map(|system| system.name.as_str()).collect();
    assert_eq!((names.len(), names[before + 5]), (before + 6, "label-only"), "{names:?}");
    for one in
        ["reweight w=0.5", "reweight w=0", "as-is + top-1 (cannot be served)", "as-is + top-3 (cannot be served)"]
    {
        assert!(names.contains(&one), "{one} is not among {names:?}");
    }
    // Without centroids the masks are there all the same.
    let (mut systems, mut skipped) = build_all(&[], None, ScoreKind::Logits, N_CLASSES).unwrap();
    add_grid(&mut systems, &mut skipped, None, ScoreKind::Logits, N_CLASSES);
    assert_eq!(systems.iter().filter(|system| system.name.starts_with("as-is")).count(), 3);
    // One entry a row: the model's own probability of its label.
    let target = rows.target();
    let top = systems.iter().find(|system| system.name.contains("top-1")).unwrap();
    let answers = top.answer(&target, &target.logits(), None).unwrap().unwrap();
    assert!(answers.probabilities.rows().into_iter().all(|row| row.iter().filter(|p| **p > 0.0).count() == 1));
}

#[test]
fn what_was_not_tried_is_told_apart() {
    use sordino::audit::tried::{Source, Tried, not_tried};

    let said = |tried| not_tried(&tried).join("\n");
    let nothing = said(Tried::default());
    let all = said(Tried {
        source: Source::Model,
        shadows: true,
        changed: true,
        boundary: true,
        learned: true,
        adversary_one: true,
        adversary_two: true,
        adversary_three: true,
        canaries: true,
        trainings: true,
        undone: true,
        lot: Some(Ok(())),
    });
    let words = ["LiRA", "single records", "changed inputs", "repeated", "mix a record", "boundary", "--scores-only"];
    for word in words.into_iter().chain(["undo it", "by lot", "adversary 1", "adversary 2", "adversary 3"]) {
        assert!(nothing.contains(word) && !all.contains(word), "{word}");
    }
    // Labels under noise are no walk to the boundary, and neither plants a record.
    let queries = said(Tried { changed: true, ..Tried::default() });
    assert!(
        !queries.contains("changed inputs")
            && queries.contains("boundary")
            && queries.contains("canaries")
            && !all.contains("canaries")
    );
    // Nothing is advised that the command line refuses.
    let file = said(Tried { source: Source::Predictions, ..Tried::default() });
    let refused = ["--shadows", "--queries", "--boundary", "--shadow-model", "--random-points"];
    assert!(refused.iter().all(|option| !file.contains(option)), "{file}");
    assert!(file.contains("--transfer-shadow"), "a shadow of other data needs none of the target's rows");
    let endpoint = said(Tried { source: Source::Endpoint, ..Tried::default() });
    assert!(endpoint.contains("--queries") && endpoint.contains("--shadows"), "{endpoint}");
    assert!(endpoint.contains("give --defence and --centroids"), "{endpoint}");
    let few = said(Tried { lot: Some(Err("5 members".to_owned())), ..Tried::default() });
    assert!(few.contains("by lot") && few.contains("5 members"), "{few}");
}
