//! Norms and clipped sums, against one backward pass a row.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::Case;
use crate::lab::dp::reference::{add_clipped, gradient_of_row, norm};
use crate::lab::dp::{Clipped, NoiseKey, clipped_sum};
use crate::lab::network::Dropout;

/// How far two norms, or two sums, may be apart as a share of the norm.
const TOLERANCE: f64 = 1e-5;

fn clipped(case: &Case, rows: &[usize], clip: f64) -> Clipped {
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    clipped_sum(
        &case.network,
        case.tensor(rows),
        case.losses(rows),
        clip,
        (Dropout::default(), std::slice::from_mut(&mut rng)),
    )
}

fn sum(case: &Case, rows: &[usize], clip: f64) -> Vec<f64> {
    let plain = clipped(case, rows, clip).sum.plain(case.network.plan());
    plain.into_iter().flat_map(|array| array.values).map(f64::from).collect()
}

fn own_gradients(case: &Case) -> Vec<Vec<f32>> {
    let rows = case.all_rows().into_iter();
    rows.map(|row| gradient_of_row(&case.network, case.tensor(&[row]), case.losses(&[row]))).collect()
}

fn median_norm(gradients: &[Vec<f32>]) -> f64 {
    let mut norms: Vec<f64> = gradients.iter().map(|gradient| norm(gradient)).collect();
    norms.sort_by(f64::total_cmp);
    norms[norms.len() / 2]
}

fn norm_of(values: &[f64]) -> f64 {
    values.iter().map(|value| value * value).sum::<f64>().sqrt()
}

fn difference(one: &[f64], other: &[f64]) -> f64 {
    assert_eq!(one.len(), other.len());
    norm_of(&one.iter().zip(other).map(|(one, other)| one - other).collect::<Vec<_>>())
}

#[test]
fn ghost_norms_are_the_norms_of_single_rows() {
    for case in Case::all() {
        let norms = clipped(&case, &case.all_rows(), 1.0).norms.into_data().to_vec::<f32>().unwrap();
        for (row, gradient) in own_gradients(&case).iter().enumerate() {
            let (expected, got) = (norm(gradient), f64::from(norms[row]));
            assert!(expected > 1e-4, "{} row {row}: a gradient of nothing tests nothing", case.name);
            assert!((got - expected).abs() <= TOLERANCE * expected, "{} row {row}: {got}, {expected}", case.name);
        }
    }
}

#[test]
fn the_clipped_sum_is_that_of_single_rows() {
    for case in Case::all() {
        let gradients = own_gradients(&case);
        // Some rows are clipped and some are not.
        let clip = median_norm(&gradients);
        let mut expected = vec![0f64; case.network.n_parameters()];
        gradients.iter().for_each(|gradient| add_clipped(&mut expected, gradient, clip));
        let got = sum(&case, &case.all_rows(), clip);
        let off = difference(&got, &expected) / norm_of(&expected);
        assert!(off <= TOLERANCE, "{}: the sums differ by {off} of their norm", case.name);
    }
}

#[test]
fn one_row_moves_the_sum_by_at_most_the_clipping_norm() {
    for case in Case::all() {
        let gradients = own_gradients(&case);
        let clip = 0.5 * median_norm(&gradients);
        let all = case.all_rows();
        let with_all = sum(&case, &all, clip);
        let mut largest = 0f64;
        for without in &all {
            let rest: Vec<usize> = all.iter().copied().filter(|row| row != without).collect();
            let moved = difference(&with_all, &sum(&case, &rest, clip));
            assert!(moved <= clip * (1.0 + TOLERANCE), "{} row {without}: {moved} of {clip}", case.name);
            largest = largest.max(moved);
        }
        assert!(largest > 0.99 * clip, "{}: no row reaches the bound: it is not tested", case.name);
    }
}

#[test]
fn a_single_clipped_row_has_the_clipping_norm_and_its_own_direction() {
    for case in Case::all() {
        let gradients = own_gradients(&case);
        for (row, gradient) in gradients.iter().enumerate() {
            let clip = norm(gradient) / 3.0;
            let got = sum(&case, &[row], clip);
            assert!((norm_of(&got) - clip).abs() <= 1e-4 * clip, "{} row {row}", case.name);
            let third: Vec<f64> = gradient.iter().map(|&value| f64::from(value) / 3.0).collect();
            assert!(difference(&got, &third) <= 1e-4 * clip, "{} row {row}", case.name);
        }
    }
}

#[test]
fn parts_of_a_sample_add_up_to_the_whole() {
    for case in Case::all() {
        let all = case.all_rows();
        let (first, second) = all.split_at(2);
        let parts = clipped(&case, first, 0.3).sum.plus(clipped(&case, second, 0.3).sum);
        let parts: Vec<f64> =
            parts.plain(case.network.plan()).into_iter().flat_map(|array| array.values).map(f64::from).collect();
        let whole = sum(&case, &all, 0.3);
        assert!(difference(&parts, &whole) <= TOLERANCE * norm_of(&whole), "{}", case.name);
    }
}

#[test]
fn the_losses_and_logits_are_those_of_the_network() {
    for case in Case::all() {
        let all = case.all_rows();
        let step = clipped(&case, &all, 1.0);
        let logits = case.network.forward(case.tensor(&all));
        let losses = case.losses(&all)(logits.clone()).inner();
        let off = (step.losses - losses).abs().max().into_scalar();
        let off_logits = (step.logits - logits.inner()).abs().max().into_scalar();
        assert!(off < 1e-5 && off_logits < 1e-5, "{}: {off} {off_logits}", case.name);
    }
}

#[test]
fn dropout_leaves_each_row_its_own_gradient_within_the_bound() {
    let case = &Case::all()[1];
    let all = case.all_rows();
    let dropout = Dropout { input: 0.2, hidden: 0.5 };
    let step = |rows: &[usize]| {
        let mut rngs = NoiseKey::of_seed(5).rows(1, 0).of(rows);
        clipped_sum(&case.network, case.tensor(rows), case.losses(rows), 0.05, (dropout, &mut rngs))
    };
    let values = |clipped: Clipped| -> Vec<f64> {
        clipped.sum.plain(case.network.plan()).into_iter().flat_map(|array| array.values).map(f64::from).collect()
    };
    let whole = values(step(&all));
    for row in &all {
        let rest: Vec<usize> = all.iter().copied().filter(|other| other != row).collect();
        assert!(difference(&whole, &values(step(&rest))) <= 0.05 * (1.0 + TOLERANCE), "row {row}");
    }
}
