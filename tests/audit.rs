//! The audit, tried on targets whose leak is known because it was planted: what is found, and against what it is held.

#![allow(clippy::unwrap_used, reason = "helpers of tests: a panic is how a test fails")]

use sordino::audit::attack::Attack;
use sordino::audit::interval::{Estimate, Interval};
use sordino::audit::policy::{Policy, Stands};
use sordino::audit::report::{AttackFindings, Figure, Settings, SystemFindings};
use sordino::audit::standing::{Leak, Standing};
use sordino::audit::system::{Role, build_all};
use sordino::audit::{roc::Roc, study};
use sordino::defence::ScoreKind;

use crate::audit_support::{EQUAL, N_CLASSES, Side, planted, settings, system};

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
fn no_answer_is_told_a_smaller_epsilon_than_its_label_alone() {
    // The labels leak, the scores tell nothing more: what is strongest on the attack-fit rows is so by luck.
    let member = Side { margin: 2.0, errors: 0.02 };
    let mut n_by_label = 0;
    for deal in 1..=8 {
        let findings = planted(400, member, EQUAL, deal).audit(&Settings { seed: deal, ..settings() });
        let floor = &system(&findings, "label-only").epsilon;
        assert!(floor.lower_bound > 0.0 && floor.lower_bound < floor.ceiling, "{floor:?}");
        for found in &findings.systems {
            assert!(found.epsilon.lower_bound >= floor.lower_bound, "{deal}, {}: {:?}", found.name, found.epsilon);
            n_by_label += usize::from(found.epsilon.attack == floor.attack);
            // Two rules at once cost a little against one at the full level.
            let correctness = found.attacks.iter().find(|one| one.attack == Attack::Correctness).unwrap();
            if found.epsilon.attack == Attack::Correctness {
                let cost = correctness.epsilon_lower_bound - found.epsilon.lower_bound;
                assert!(cost > 0.0 && cost < 0.4, "{deal}, {}: {cost}", found.name);
            }
        }
    }
    assert!(n_by_label > 30, "{n_by_label}");
    // Where the scores tell more, they are what it is told by.
    let findings = planted(1_500, Side { margin: 6.0, errors: 0.3 }, EQUAL, 1).audit(&settings());
    let (undefended, floor) = (system(&findings, "undefended"), system(&findings, "label-only"));
    assert!(undefended.epsilon.lower_bound > floor.epsilon.lower_bound + 0.2, "{:?}", undefended.epsilon);
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
fn a_difference_to_the_floor_without_a_width_holds_no_limit_on_few_rows() {
    let findings = planted(200, Side { margin: 3.0, errors: 0.05 }, EQUAL, 4).audit(&settings());
    let is_flat = |one: &&SystemFindings| {
        let difference = one.headline.value.as_ref().map(|headline| headline.fixed_minus_floor);
        one.role == Role::Served && difference.is_some_and(|found| found.low == 0.0 && found.high == 0.0)
    };
    let flat: Vec<&SystemFindings> = findings.systems.iter().filter(is_flat).collect();
    assert!(!flat.is_empty(), "no system's headline is the reading of its label");
    for one in flat {
        let judged = |limit: f64| {
            let systems = vec![one.name.clone()];
            let policy = Policy { systems, max_advantage_over_floor: Some(limit), ..Policy::default() };
            policy.judge(&findings).unwrap().stands
        };
        assert_eq!((judged(0.03), judged(0.9)), (Stands::Undecided, Stands::Held), "{}", one.name);
    }
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
