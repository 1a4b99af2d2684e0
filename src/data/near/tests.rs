use proptest::prelude::*;

use super::super::values::{Numbers, Rows};
use super::super::{Classes, Split};
use super::*;

fn dataset(row_shape: Vec<usize>, rows: Rows, n_rows: usize) -> Dataset {
    let labels = (0..n_rows as u32).map(|row| row % 2).collect();
    Dataset::new(row_shape, Classes::numbered(2), labels, rows)
}

fn numbers(rows: &[Vec<f32>]) -> Dataset {
    let mut numbers = Numbers::default();
    rows.iter().for_each(|row| numbers.extend(row));
    dataset(vec![rows[0].len()], Rows::Numbers(numbers), rows.len())
}

/// Groups by comparing every pair with `are_near`.
fn slowly(n: usize, are_near: impl Fn(usize, usize) -> bool) -> Vec<Vec<usize>> {
    let mut union = Union::new(n);
    for one in 0..n {
        (0..one).filter(|&other| are_near(one, other)).for_each(|other| union.join(one, other));
    }
    union.groups()
}

#[test]
fn exact_copies_are_grouped_at_radius_0_and_nothing_else_is() {
    let rows = [[1., 0., 1.], [0., 1., 0.], [1., 0., 1.], [1., 1., 1.], [-0., 1., 0.]].map(Vec::from);
    let groups = Groups::find(&numbers(&rows), Some(0.0)).unwrap();
    assert_eq!(groups.members(), [vec![0, 2], vec![1, 4]]);
    let near = groups.near();
    assert_eq!((near.n_groups, near.n_rows, near.largest, near.measure), (2, 4, 2, Measure::Jaccard));
}

#[test]
fn a_radius_that_is_of_no_use_is_refused() {
    let data = numbers(&[vec![0.5, 1.0], vec![2.0, 1.0]]);
    for radius in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
        let error = Groups::find(&data, Some(radius)).unwrap_err().to_string();
        assert!(error.starts_with("expected a radius from 0 to 1 for the root mean square"), "{error}");
    }
}

#[test]
fn brighter_and_recoded_images_are_near_and_others_are_not() {
    let image =
        |seed: usize| -> Vec<u8> { (0..3 * 32 * 32).map(|at| ((at / 7 * (seed + 3)) % 90 + 60) as u8).collect() };
    let original = image(1);
    let brighter: Vec<u8> = original.iter().map(|&pixel| (f32::from(pixel) * 1.3 + 12.0) as u8).collect();
    let noisy: Vec<u8> = original.iter().enumerate().map(|(at, &p)| p + (at * 31 % 7) as u8 - 3).collect();
    let flat = [100; 3 * 32 * 32].to_vec();
    let darker_flat = [20; 3 * 32 * 32].to_vec();
    let pixels = [original, image(5), brighter, noisy, flat, darker_flat].concat();
    let data = dataset(vec![3, 32, 32], Rows::Pixels(pixels), 6);
    let groups = Groups::find(&data, None).unwrap();
    assert_eq!(groups.members(), [vec![0, 2, 3], vec![4, 5]]);
    assert_eq!(groups.near().measure, Measure::PooledCosine);
}

#[test]
fn a_chain_is_one_group_and_a_split_keeps_it_whole() {
    // Each row differs from the one before in one of 20 ones: 2 of 21 places.
    let row = |first: usize| (0..40).map(|at| if (first..first + 20).contains(&at) { 1.0 } else { 0.0 }).collect();
    let mut rows: Vec<Vec<f32>> = (0..8).map(row).collect();
    rows.extend((0..8).map(|at| (0..40).map(|x| if (x * 7 + at * 11) % 5 < 2 { 1.0 } else { 0.0 }).collect()));
    let data = numbers(&rows);
    let groups = Groups::find(&data, None).unwrap();
    assert_eq!(groups.members()[0], [0, 1, 2, 3, 4, 5, 6, 7]);
    let source = "csv:t.csv".parse().unwrap();
    let sizes = super::super::PartSizes { train: 8, test: 8, ..Default::default() };
    let drawing = super::super::Drawing { sizes, seed: 3, stratified: false, groups: Some(&groups) };
    let split = Split::draw_with(&source, &data, &drawing).unwrap();
    assert_eq!(split.drawn().near_duplicates.as_ref(), Some(groups.near()));
}

proptest! {
    #[test]
    fn bits_find_what_comparing_every_pair_finds(
        rows in proptest::collection::vec(proptest::collection::vec(0u8..2, 70), 2..40), radius in 0.01..0.5f64
    ) {
        // Neighbours are made near: each row keeps most of the one before.
        let mut rows: Vec<Vec<f32>> = rows.iter().map(|row| row.iter().map(|&bit| f32::from(bit)).collect()).collect();
        for at in 1..rows.len() {
            let before = rows[at - 1].clone();
            let keep = at * 13 % 70;
            rows[at][..keep].copy_from_slice(&before[..keep]);
        }
        let data = numbers(&rows);
        let expected = slowly(rows.len(), |one, other| {
            let pairs = || rows[one].iter().zip(&rows[other]);
            let either = pairs().filter(|(a, b)| **a == 1.0 || **b == 1.0).count() as f64;
            let both = pairs().filter(|(a, b)| **a == 1.0 && **b == 1.0).count() as f64;
            either - both <= radius * either
        });
        let groups = Groups::find(&data, Some(radius)).unwrap();
        prop_assert_eq!(groups.members(), expected);
    }

    #[test]
    fn vectors_find_what_comparing_every_pair_finds(
        rows in proptest::collection::vec(proptest::collection::vec(-1.0..1.0f32, 24), 2..60), radius in 0.05..1.0f64
    ) {
        let vectors = Vectors::of(&numbers(&rows), &(0..rows.len()).collect::<Vec<_>>(), 24, |row, v| v.extend_from_slice(row));
        let vectors = vectors.unwrap();
        let radius = radius * 4.0;
        let distance = |one: usize, other: usize| {
            rows[one].iter().zip(&rows[other]).map(|(&a, &b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt()
        };
        // Distances so close to the radius that rounding decides are left out.
        let is_close = |d: f64| (d - radius).abs() < 1e-4;
        prop_assume!(!(0..rows.len()).any(|one| (0..one).any(|other| is_close(distance(one, other)))));
        let expected = slowly(rows.len(), |one, other| distance(one, other) <= radius);
        prop_assert_eq!(vectors.within(radius).groups(), expected);
    }

    #[test]
    fn numbers_of_any_scale_are_searched_without_a_panic(
        rows in proptest::collection::vec(proptest::collection::vec(-1e30..1e30f32, 3), 2..20), same in 0usize..3
    ) {
        let mut rows = rows;
        rows.iter_mut().for_each(|row| row[same] = 7.0);
        let last = rows.len() - 1;
        rows[last] = rows[0].clone();
        let groups = Groups::find(&numbers(&rows), None).unwrap();
        prop_assert!(groups.members()[0].starts_with(&[0]));
    }
}
