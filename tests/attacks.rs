//! The battery, tried on leaks that are known because they were planted, and on the defects of other tools, each as
//! a rule that is kept here.

#![allow(clippy::unwrap_used, reason = "helpers of tests: a panic is how a test fails")]

use ndarray::Array2;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sordino::audit::answers::{Allows, Answers};
use sordino::audit::attack::{Attack, AttackId, Family};
use sordino::audit::interval::Interval;
use sordino::audit::invert::Inversion;
use sordino::audit::report::{Claim, Findings, Settings, SystemFindings};
use sordino::audit::roc::{Roc, TprAtFpr};
use sordino::audit::shadow::{Bank, Shadowing, given};
use sordino::audit::standing::{Leak, Standing};
use sordino::audit::study::{self, GivenScores, Knowledge, LearnedFrom, Outcome};
use sordino::audit::system::{Role, System, SystemKind};
use sordino::audit::target::Target;

const N_CLASSES: usize = 4;

/// Answers of half members, half others, of one system and its labels alone.
struct Case {
    labels: Vec<u32>,
    n_members: usize,
    answers: Answers,
}

/// Rows whose true class leads by `margin(is_member, class)` plus noise; one in five shows another class.
fn case(n_per_side: usize, margin: impl Fn(bool, u32) -> f64, seed: u64) -> Case {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let n_rows = 2 * n_per_side;
    let mut p = Array2::zeros((n_rows, N_CLASSES));
    let mut labels = Vec::new();
    for row in 0..n_rows {
        let label = rng.random_range(0..N_CLASSES as u32);
        let shown = if rng.random_bool(0.2) { (label + 1) % N_CLASSES as u32 } else { label };
        let lead = margin(row < n_per_side, label) + rng.random_range(-1.0..1.0);
        let weights: Vec<f64> = (0..N_CLASSES as u32)
            .map(|class| f64::exp(rng.random_range(-0.5..0.5) + if class == shown { lead } else { 0.0 }))
            .collect();
        let sum: f64 = weights.iter().sum();
        (0..N_CLASSES).for_each(|class| p[(row, class)] = weights[class] / sum);
        labels.push(label);
    }
    Case { labels, n_members: n_per_side, answers: Answers::new(p) }
}

impl Case {
    fn target(&self) -> Target {
        Target::answered(self.labels.clone(), self.n_members, N_CLASSES, Allows::SCORES).unwrap()
    }

    fn run(&self, settings: &Settings, knowledge: &Knowledge) -> Outcome {
        let of = |name: &str, role, answers: Answers| System {
            name: name.to_owned(),
            kind: SystemKind::Answered { role, answers, inversion: Inversion::as_is() },
            fitted: None,
        };
        let labels = Answers::of_labels(self.answers.predicted.clone(), N_CLASSES);
        let systems = [of("model", Role::Undefended, self.answers.clone()), of("label-only", Role::Floor, labels)];
        study::run_with(&self.target(), &systems, Vec::new(), settings, knowledge, &mut |_, _| {}).unwrap()
    }
}

fn settings(learned: bool) -> Settings {
    Settings { n_permutations: 100, n_resamples: 100, overhead_passes: 1, learned, ..Settings::default() }
}

fn model(findings: &Findings) -> &SystemFindings {
    &findings.systems[0]
}

fn auc(found: &SystemFindings, name: &str) -> f64 {
    found.attacks.iter().find(|one| one.attack.name() == name).unwrap_or_else(|| panic!("no {name}")).auc.value
}

#[test]
fn a_leak_that_thresholds_per_class_alone_can_see_is_seen() {
    // Each class has its own level, far from the others'; a member is surer by little.
    let level = |member: bool, class: u32| f64::from(class) * 3.0 + if member { 1.2 } else { 0.0 };
    let found = case(1_500, level, 1).run(&settings(false), &Knowledge::default()).findings;
    let found = model(&found);
    let (plain, per_class) = (auc(found, "scaled logit"), auc(found, "scaled logit per true class"));
    assert!(per_class > plain + 0.1, "{per_class} {plain}");
    assert_eq!(found.headline.value.as_ref().unwrap().fixed_attack.family, Family::PerClass);
}

#[test]
fn learned_attacks_show_what_they_reach_on_rows_they_never_saw() {
    let leaking = case(700, |member, _| if member { 3.0 } else { 2.0 }, 2);
    let found = leaking.run(&settings(true), &Knowledge::default()).findings;
    let learned: Vec<_> = found.validity.iter().filter(|one| one.attack.family == Family::Learned).collect();
    assert_eq!(learned.len(), 6);
    assert!(learned.iter().all(|one| one.counts), "{learned:?}");
    // A model that never saw the "members": what a classifier learns by heart must not be told as a leak.
    let blind = case(700, |_, _| 2.0, 3).run(&settings(true), &Knowledge::default()).findings;
    for one in &blind.validity {
        assert!(!one.counts || one.auc_undefended.value < 0.57, "{one:?}");
    }
    for one in model(&blind).attacks.iter().filter(|one| one.attack.family == Family::Learned) {
        assert!((one.auc.value - 0.5).abs() < 0.06, "{one:?}");
    }
    let headline = model(&blind).headline.value.as_ref();
    assert!(headline.is_none_or(|headline| headline.fixed.interval().covers(0.0)), "{headline:?}");
}

#[test]
fn a_claim_that_the_rows_refute_is_flagged_and_one_that_they_do_not_is_not() {
    let leaking = case(1_500, |member, _| if member { 5.0 } else { 1.0 }, 4);
    let with = |epsilon| {
        let knowledge = Knowledge { claim: Some(Claim { epsilon, delta: 1e-5 }), ..Knowledge::default() };
        leaking.run(&settings(false), &knowledge).findings
    };
    let (refuted, kept) = (with(0.5), with(50.0));
    let (refuted, kept) = (model(&refuted), model(&kept));
    assert!(refuted.epsilon.contradicts_claim && refuted.epsilon.lower_bound > 1.0, "{:?}", refuted.epsilon);
    assert!(refuted.flags.iter().any(|flag| flag.contains("lower bound on ε")));
    assert!(!kept.epsilon.contradicts_claim && kept.epsilon.lower_bound <= kept.epsilon.ceiling);
}

#[test]
fn the_class_that_leaks_alone_is_the_worst() {
    let margin = |member: bool, class: u32| if member && class == 2 { 5.0 } else { 2.0 };
    let found = case(2_000, margin, 5).run(&settings(false), &Knowledge::default()).findings;
    assert_eq!(model(&found).worst_class.value, Some(2));
    let classes = &model(&found).classes;
    assert_eq!(classes.len(), N_CLASSES);
    assert!(classes[2].advantage.low > 0.2, "{classes:?}");
    assert!(classes.iter().all(|one| one.class == 2 || one.advantage.interval().covers(0.0)), "{classes:?}");
}

#[test]
fn shadow_scores_enter_the_battery_and_are_judged_with_it() {
    // Rows differ in difficulty by far more than a member is surer.
    let mut rng = ChaCha8Rng::seed_from_u64(6);
    let n_rows = 1_200;
    let normal = |rng: &mut ChaCha8Rng| (0..12).map(|_| rng.random_range(-0.5..0.5)).sum::<f64>();
    let difficulty: Vec<f64> = (0..n_rows).map(|_| rng.random_range(-3.0..3.0)).collect();
    let mut bank = Bank::new(n_rows, 1, Shadowing::AsTarget);
    for model in 0..16 {
        let inclusion: Vec<bool> = (0..n_rows).map(|row| (row * 7 + model * 3 + row / 16) % 16 < 8).collect();
        let logits = Array2::from_shape_fn((n_rows, 1), |(row, _)| {
            difficulty[row] + normal(&mut rng) + if inclusion[row] { 1.5 } else { 0.0 }
        });
        bank.push(logits.view(), &inclusion).unwrap();
    }
    let mut p = Array2::zeros((n_rows, N_CLASSES));
    for row in 0..n_rows {
        let phi = difficulty[row] + normal(&mut rng) + if row < n_rows / 2 { 1.5 } else { 0.0 };
        let top = 1.0 / (1.0 + f64::exp(-phi));
        (0..N_CLASSES).for_each(|class| p[(row, class)] = if class == 0 { top } else { (1.0 - top) / 3.0 });
    }
    // One row of another class: a single class is refused.
    let mut labels = vec![0; n_rows];
    labels[n_rows - 1] = 1;
    let case = Case { labels, n_members: n_rows / 2, answers: Answers::new(p) };
    let pool: Vec<usize> = (0..n_rows).collect();
    let given = given(&bank, &pool, "model", &case.answers, &case.target(), 1).unwrap();
    let knowledge = Knowledge { given, ..Knowledge::default() };
    let found = case.run(&settings(false), &knowledge).findings;
    let lira = auc(model(&found), "LiRA online, fixed variance");
    assert!(lira > auc(model(&found), "loss") + 0.05, "{lira}");
    let headline = model(&found).headline.value.as_ref().unwrap();
    assert_eq!((headline.fixed_attack.family, headline.leak), (Family::Shadow, Leak::Seen));
    // A row that no model of the bank was asked about.
    let short: Vec<usize> = (1..n_rows + 1).collect();
    let error = sordino::audit::shadow::given(&bank, &short, "model", &case.answers, &case.target(), 1).unwrap_err();
    assert!(error.to_string().contains("the bank holds no answers about row 0 of the data"), "{error}");
}

#[test]
fn scores_of_other_rows_are_refused_before_anything_is_run() {
    let case = case(50, |_, _| 2.0, 7);
    let scores = vec![0.0; 99];
    let attack = AttackId::new(Family::LabelOnly, "noise");
    let knowledge = Knowledge {
        given: vec![GivenScores { system: "model".to_owned(), attack, scores, rule: None }],
        ..Knowledge::default()
    };
    let labels = Answers::of_labels(case.answers.predicted.clone(), N_CLASSES);
    let kind = SystemKind::Answered { role: Role::Undefended, answers: labels, inversion: Inversion::as_is() };
    let systems = [System { name: "model".to_owned(), kind, fitted: None }];
    let run = study::run_with(&case.target(), &systems, Vec::new(), &settings(false), &knowledge, &mut |_, _| {});
    let error = run.err().unwrap().to_string();
    assert!(error.contains("99 scores were given, the target has 100 rows"), "{error}");
}

#[test]
fn records_hold_a_call_for_verdict_rows_alone() {
    let found = case(400, |member, _| if member { 4.0 } else { 1.0 }, 8).run(&settings(false), &Knowledge::default());
    let records = &found.records[0];
    assert!(records.attack.is_some());
    for row in 0..800 {
        assert_eq!(records.called_member[row].is_some(), found.is_verdict[row]);
        assert_eq!(records.score[row].is_some(), found.is_verdict[row]);
    }
    assert_eq!(found.is_verdict.iter().filter(|verdict| **verdict).count(), 400);
}

#[test]
fn figures_hang_together() {
    let found = case(600, |member, _| if member { 4.0 } else { 1.0 }, 9).run(&settings(false), &Knowledge::default());
    for one in found.findings.systems.iter().flat_map(|system| &system.attacks) {
        let calls = &one.calls;
        let mean = f64::midpoint(calls.recall_members.value, calls.recall_non_members.value);
        assert!((calls.balanced_accuracy.value - mean).abs() < 1e-12);
        assert!((one.fixed.value - (2.0 * mean - 1.0)).abs() < 1e-12);
        assert!(one.widest_interval.low <= one.widest && one.widest <= one.widest_interval.high);
        for at in one.tpr_at_fpr.iter().filter(|at| at.tpr.value.is_some()) {
            let interval = at.tpr_interval.unwrap();
            assert!(interval.covers(at.tpr.value.unwrap()) && at.attained_fpr.unwrap() <= at.target_fpr);
        }
    }
    let utility = &model(&found.findings).utility;
    assert!(utility.nll_interval.covers(utility.nll) && utility.ece_interval.covers(utility.ece));
    assert!(utility.brier.interval().covers(utility.brier.value) && utility.brier.value < 2.0);
    assert!(utility.accuracy_members_interval.covers(utility.accuracy_members));
    let histogram = model(&found.findings).histogram.value.as_ref().unwrap();
    assert_eq!(histogram.members.iter().sum::<u64>() + histogram.non_members.iter().sum::<u64>(), 1_200);
}

#[test]
fn where_labels_alone_count_nothing_is_said_of_scores() {
    // Members' labels are right more often, and nobody answers with a score.
    let mut case = case(400, |_, _| 2.0, 13);
    for row in 0..400 {
        case.labels[row] = case.answers.predicted[row];
    }
    let labels = Answers::of_labels(case.answers.predicted.clone(), N_CLASSES);
    let of = |name: &str, role| System {
        name: name.to_owned(),
        kind: SystemKind::Answered { role, answers: labels.clone(), inversion: Inversion::as_is() },
        fitted: None,
    };
    let systems = [of("model", Role::Undefended), of("label-only", Role::Floor)];
    let target = Target::answered(case.labels.clone(), case.n_members, N_CLASSES, Allows::LABELS).unwrap();
    let found = study::run(&target, &systems, Vec::new(), &settings(false)).unwrap();
    let headline = model(&found).headline.value.as_ref().unwrap();
    assert_eq!((headline.leak, headline.standing), (Leak::Seen, Standing::CannotTell));
    assert!(found.not_allowed.iter().any(|one| one.attack == Attack::Loss && one.lacks.contains("score")));
}

#[test]
fn adversary_one_learns_on_the_shadow_alone() {
    let lead = |member: bool, _: u32| if member { 4.0 } else { 2.0 };
    let shadow = |lead: fn(bool, u32) -> f64| {
        let shadow = case(600, lead, 14);
        let members: Vec<bool> = (0..1_200).map(|row| row < 600).collect();
        LearnedFrom::of("model", &[(shadow.answers, members)], &shadow.labels)
    };
    let run = |learned_from: LearnedFrom| {
        let knowledge = Knowledge { learned_from: vec![learned_from], ..Knowledge::default() };
        case(600, lead, 15).run(&settings(false), &knowledge).findings
    };
    let name = "ML-Leaks adversary 1, softmax on top 3";
    let of = |found: &Findings| model(found).attacks.iter().find(|one| one.attack.name() == name).unwrap().clone();
    let found = of(&run(shadow(lead)));
    assert!(found.auc.value > 0.75 && found.calls.balanced_accuracy.low > 0.6, "{found:?}");
}

#[test]
fn the_headlines_interval_allows_for_every_attack_that_was_tried() {
    let found = case(400, |member, _| if member { 3.0 } else { 2.0 }, 16).run(&settings(false), &Knowledge::default());
    let found = model(&found.findings);
    let headline = found.headline.value.as_ref().unwrap();
    let width = |interval: &Interval| interval.high - interval.low;
    let own = found.attacks.iter().find(|one| one.attack == headline.widest_attack).unwrap();
    assert!(headline.widest_interval.covers(headline.widest));
    assert!(width(&headline.widest_interval) >= width(&own.widest_interval), "{headline:?}");
}

// Defects of other tools, each turned into a rule.

#[test]
fn leakpro_465_a_block_of_ties_is_one_point() {
    assert_eq!(Roc::new(&[9.0, 9.0, 5.0, 5.0], &[true, false, true, false]).unwrap().auc(), 0.5);
}

#[test]
fn sacro_475_a_rate_of_one_percent_is_one_in_a_hundred() {
    // 1,000 non-members: the rate .01 lets ten of them pass, not a thousand.
    let scores: Vec<f64> = (0..2_000).map(f64::from).collect();
    let memberships: Vec<bool> = (0..2_000).map(|row| row % 2 == 0).collect();
    let roc = Roc::new(&scores, &memberships).unwrap();
    let TprAtFpr::Resolved { attained_fpr, .. } = roc.tpr_at_fpr(0.01) else { panic!("not resolved") };
    assert_eq!(attained_fpr, 0.01);
    assert_eq!(roc.counts(&roc.last_at(0.01)).false_positives, 10);
    // And far below one in all of them nothing is made up.
    assert_eq!(roc.tpr_at_fpr(1e-7), TprAtFpr::NotResolvable { n_non_members: 1_000 });
}

#[test]
fn tf_privacy_probabilities_alone_have_entropy_attacks_too() {
    let found = case(200, |member, _| if member { 4.0 } else { 1.0 }, 10).run(&settings(false), &Knowledge::default());
    for name in ["entropy", "modified entropy"] {
        assert!(auc(model(&found.findings), name) > 0.6);
    }
}

#[test]
fn art_class_labels_one_row_writes_its_own_column_alone() {
    let answers = Answers::of_labels(vec![2, 0, 2], 3);
    assert_eq!(answers.probabilities, ndarray::array![[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]);
}

#[test]
fn sacro_472_the_gap_is_train_minus_test() {
    // Members' labels are right more often.
    let mut case = case(500, |_, _| 2.0, 11);
    for row in 0..500 {
        case.labels[row] = case.answers.predicted[row];
    }
    let found = case.run(&settings(false), &Knowledge::default()).findings;
    assert!(found.before_and_after[0].gap > 0.1);
    let correctness = model(&found).attacks.iter().find(|one| one.attack == Attack::Correctness).unwrap();
    assert!(correctness.fixed.value > 0.1);
}

#[test]
fn sacro_421_nothing_that_is_written_is_nan() {
    // A label-only target and an answer of exact zeros: where infinities come from.
    let mut case = case(60, |_, _| 2.0, 12);
    case.answers = Answers::of_labels(case.answers.predicted.clone(), N_CLASSES);
    let found = case.run(&settings(true), &Knowledge::default()).findings;
    let text = serde_json::to_string(&found).unwrap();
    assert!(!text.contains("NaN") && !text.contains("inf"));
    for one in &model(&found).attacks {
        assert!(one.auc.value.is_finite() && one.epsilon_lower_bound.is_finite(), "{one:?}");
    }
}

#[cfg(feature = "lab")]
#[test]
fn art_shadow_models_the_last_row_is_drawn_too() {
    use sordino::lab::bank::inclusion::{Design, Inclusion, Pool};
    let rows: Vec<usize> = (0..50).collect();
    let pool = Pool::new(&rows).unwrap();
    for design in [Design::Share { models: 40, share: 0.5 }, Design::Bootstrap { models: 40 }] {
        let drawn = Inclusion::draw(design, &pool, 1).unwrap();
        for row in [0, 49] {
            let n = (0..40).filter(|&model| drawn.members(model).contains(&row)).count();
            assert!((10..35).contains(&n), "{design:?}: row {row} trains {n} of 40 models");
        }
    }
    let audits = (0..40).map(|seed| sordino::audit::rows::Allocation::deal(25, 25, seed));
    let n_last = audits.filter(|dealt| dealt.verdict.contains(&49)).count();
    assert!((10..31).contains(&n_last), "the last row is judged in {n_last} of 40 deals");
}

#[test]
fn leakpro_393_accuracies_are_told_and_443_no_band_is() {
    let found = case(200, |member, _| if member { 4.0 } else { 1.0 }, 17).run(&settings(false), &Knowledge::default());
    for one in &found.findings.before_and_after {
        assert!((0.0..=1.0).contains(&one.train_accuracy) && (0.0..=1.0).contains(&one.test_accuracy));
    }
    // A verdict is an interval against the floor and the null, never a word for a range of areas.
    let text = serde_json::to_string(&found.findings).unwrap().to_lowercase();
    let bands = [":\"high\"", ":\"medium\"", ":\"low\"", "high risk", "low risk"];
    assert!(bands.iter().all(|band| !text.contains(band)));
}
