use super::*;

fn close(got: f64, expected: f64, relative: f64) -> bool {
    (got - expected).abs() <= relative * expected.abs()
}

/// `(σ, q, steps, δ, ε, order)` by Opacus 1.6.0, `opacus/accountants/analysis/rdp.py`, called with its default orders.
/// The first three are the settings of the paper's code (its ε 2.38, and what its CIFAR-10 settings really give);
/// the fourth is the vector of Opacus' own `accountants_test.py` (7.32911117143).
const OPACUS: [(f64, f64, u64, f64, f64, f64); 14] = [
    (1.0, 1.0 / 1234.0, 246_800, 1.0 / 157_859.0, 2.375_857_287_191_256_4, 9.2),
    (0.5, 1.0 / 782.0, 78_200, 2e-5, 15.964_940_291_758_827, 2.2),
    (1.0, 1.0 / 782.0, 78_200, 2e-5, 1.969_014_050_892_215_6, 9.6),
    (1.5, 0.04, 2250, 1e-5, 7.329_111_171_438_654_5, 3.9),
    (1.1, 256.0 / 60_000.0, 14_040, 1e-5, 2.594_363_354_953_112, 8.1),
    (1.3, 0.5, 20, 1e-5, 11.247_880_434_483_342, 2.8),
    (2.0, 0.1, 1000, 1e-6, 9.821_260_029_093_69, 3.7),
    (0.8, 1e-4, 100_000, 1e-6, 1.079_762_816_522_099_4, 10.9),
    (10.0, 1.0, 100, 1e-5, 4.728_507_067_217_623, 5.4),
    (3.0, 0.9, 10, 1e-5, 4.557_070_127_504_559, 5.5),
    (0.3, 0.01, 10, 1e-5, 18.429_453_859_923_335, 1.7),
    (4.0, 1e-6, 1000, 1e-8, 0.214_282_660_968_352_47, 63.0),
    (100.0, 0.01, 100, 1e-5, 0.102_898_754_688_863_7, 63.0),
    (0.05, 0.001, 100, 1e-5, 14_513.248_006_658_214, 1.1),
];

#[test]
fn agrees_with_opacus() {
    for (sigma, q, steps, delta, epsilon, order) in OPACUS {
        let spent = spent(sigma, q, steps, delta).unwrap();
        assert!(close(spent.epsilon, epsilon, 1e-7), "{sigma} {q} {steps}: {spent:?}, Opacus {epsilon}");
        assert!(close(spent.order, order, 1e-12), "{sigma} {q} {steps}: {spent:?}, Opacus {order}");
    }
}

#[test]
fn the_papers_settings_give_their_figures() {
    let rounded = |sigma, q, steps, delta| (spent(sigma, q, steps, delta).unwrap().epsilon * 1e3).round() / 1e3;
    assert_eq!(rounded(1.0, 1.0 / 1234.0, 246_800, 1.0 / 157_859.0), 2.376);
    assert_eq!(rounded(0.5, 1.0 / 782.0, 78_200, 2e-5), 15.965);
    assert_eq!(rounded(1.0, 1.0 / 782.0, 78_200, 2e-5), 1.969);
}

#[test]
fn steps_compose_by_addition() {
    let mut parts = Accountant::default();
    parts.compose(1.5, 0.04, 1000).unwrap();
    parts.compose(1.5, 0.04, 0).unwrap();
    parts.compose(1.5, 0.04, 1250).unwrap();
    assert!(close(parts.spent(1e-5).unwrap().epsilon, 7.329_111_171, 1e-9));
    // Two settings together cost more than each, and less than the costlier one for all steps.
    let mut mixed = Accountant::default();
    mixed.compose(1.5, 0.04, 1000).unwrap();
    mixed.compose(3.0, 0.04, 1250).unwrap();
    let epsilon = mixed.spent(1e-5).unwrap().epsilon;
    assert!(epsilon < 7.329 && epsilon > spent(1.5, 0.04, 1000, 1e-5).unwrap().epsilon);
}

#[test]
fn less_noise_more_steps_more_rows_cost_more() {
    let base = spent(1.0, 0.01, 1000, 1e-5).unwrap().epsilon;
    assert!(spent(0.9, 0.01, 1000, 1e-5).unwrap().epsilon > base);
    assert!(spent(1.0, 0.011, 1000, 1e-5).unwrap().epsilon > base);
    assert!(spent(1.0, 0.01, 1001, 1e-5).unwrap().epsilon > base);
    assert!(spent(1.0, 0.01, 1000, 1e-6).unwrap().epsilon > base);
}

#[test]
fn a_sample_of_everything_is_the_plain_gaussian_mechanism() {
    let whole = spent(2.0, 1.0, 7, 1e-5).unwrap().epsilon;
    // ε = min over α of 7α/(2·4) − (ln δ + ln α)/(α−1) + ln((α−1)/α).
    let by_hand = default_orders()
        .into_iter()
        .map(|a: f64| 7.0 * a / 8.0 - ((1e-5_f64).ln() + a.ln()) / (a - 1.0) + ((a - 1.0) / a).ln())
        .fold(f64::INFINITY, f64::min);
    assert!(close(whole, by_hand, 1e-12));
    // And nearly everything is nearly that, from below.
    let nearly = spent(2.0, 1.0 - 1e-9, 7, 1e-5).unwrap().epsilon;
    assert!(nearly <= whole * (1.0 + 1e-9) && close(nearly, whole, 1e-6), "{nearly} {whole}");
}

#[test]
fn nothing_sampled_or_no_step_costs_nothing() {
    for (q, steps) in [(0.0, 1000), (0.5, 0)] {
        let spent = spent(1.0, q, steps, 1e-5).unwrap();
        assert_eq!((spent.epsilon, spent.edge), (0.0, None));
        assert!(spent.order.is_nan() && spent.warning().is_none());
    }
}

#[test]
fn no_noise_protects_nothing() {
    let spent = spent(0.0, 0.01, 1, 1e-5).unwrap();
    assert!(spent.epsilon.is_infinite() && spent.order.is_nan() && spent.edge.is_none());
}

#[test]
fn a_tiny_rate_and_endless_noise_stay_finite_and_small() {
    for (sigma, q) in [(1.0, 1e-300), (1.0, f64::MIN_POSITIVE), (1e5, 0.5), (1e-3, 1e-12), (1.0, 1.0 - f64::EPSILON)] {
        let spent = spent(sigma, q, 10, 1e-5).unwrap();
        assert!(spent.epsilon.is_finite() && spent.epsilon >= 0.0, "{sigma} {q}: {spent:?}");
    }
    assert!(spent(1.0, 1e-300, 10, 1e-5).unwrap().epsilon < 0.11);
}

#[test]
fn the_first_and_the_last_order_are_pointed_out() {
    let last = spent(100.0, 0.01, 100, 1e-5).unwrap();
    assert_eq!((last.order, last.edge), (63.0, Some(Edge::Last)));
    assert!(last.warning().unwrap().contains("the last of those used"));
    let first = spent(0.05, 0.001, 100, 1e-5).unwrap();
    assert_eq!((first.order, first.edge), (1.1, Some(Edge::First)));
    assert!(spent(1.5, 0.04, 2250, 1e-5).unwrap().warning().is_none());
    // More orders show a smaller ε.
    let mut wide =
        Accountant::with_orders(default_orders().into_iter().chain([128.0, 256.0, 512.0]).collect()).unwrap();
    wide.compose(100.0, 0.01, 100).unwrap();
    assert!(wide.spent(1e-5).unwrap().epsilon < last.epsilon);
}

#[test]
fn numbers_outside_of_their_range_are_refused() {
    for sigma in [-1.0, f64::NAN] {
        assert!(matches!(spent(sigma, 0.1, 1, 1e-5), Err(AccountantError::NoiseMultiplier(_))));
    }
    for q in [-0.1, 1.1, f64::NAN] {
        assert!(matches!(spent(1.0, q, 1, 1e-5), Err(AccountantError::SamplingRate(_))));
    }
    for delta in [0.0, 1.0, -1.0, f64::NAN] {
        assert!(matches!(spent(1.0, 0.1, 1, delta), Err(AccountantError::Delta(_))));
    }
    for target in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(matches!(noise_for(target, 1e-5, 0.1, 1), Err(AccountantError::TargetEpsilon(_))));
    }
    for orders in [vec![], vec![1.0], vec![3.0, 2.0], vec![2.0, f64::INFINITY], vec![f64::NAN]] {
        assert_eq!(Accountant::with_orders(orders), Err(AccountantError::Orders));
    }
}

#[test]
fn the_noise_found_keeps_the_target_and_is_the_least_that_does() {
    for (target, delta, q, steps) in [
        (2.376, 1.0 / 157_859.0, 1.0 / 1234.0, 246_800),
        (8.0, 1e-5, 0.04, 2250),
        (1.0, 1e-6, 0.5, 30),
        (50.0, 1e-5, 1.0, 1),
    ] {
        let noise = noise_for(target, delta, q, steps).unwrap();
        assert!(spent(noise, q, steps, delta).unwrap().epsilon <= target);
        assert!(spent(noise * (1.0 - 2e-6), q, steps, delta).unwrap().epsilon > target, "{noise}");
    }
    // Opacus' own `test_get_noise_multiplier_rdp_epochs` and `_steps`, whose search stops at .01 in ε.
    assert!((noise_for(8.0, 1e-5, 0.04, 2250).unwrap() - 1.416).abs() < 1e-3);
    assert!((noise_for(8.0, 1e-5, 0.04, 2000).unwrap() - 1.3562).abs() < 1e-3);
}

#[test]
fn a_target_that_no_noise_reaches_is_refused() {
    let error = noise_for(0.05, 1e-5, 0.01, 100).unwrap_err();
    assert!(matches!(error, AccountantError::Unreachable { least, .. } if least > 0.1), "{error}");
    assert!(error.to_string().contains("none below 0.10"));
}

#[test]
fn a_target_that_is_met_without_sampling_needs_least_noise() {
    assert!(noise_for(1.0, 1e-5, 0.0, 100).unwrap() <= 2.0 * MIN_NOISE);
}
