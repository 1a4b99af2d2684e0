use proptest::prelude::*;

use super::*;

fn pool(n_rows: usize) -> Pool {
    Pool::new(&(0..n_rows).map(|row| 7 * row + 3).collect::<Vec<_>>()).unwrap()
}

fn draw(design: Design, n_rows: usize, seed: u64) -> Inclusion {
    Inclusion::draw(design, &pool(n_rows), seed).unwrap()
}

#[test]
fn shards_without_slices_are_written_as_they_were_before_there_were_slices() {
    let words = |slices| serde_json::to_string(&Design::Shards { shards: 3, slices }).unwrap();
    assert_eq!(words(1), r#"{"kind":"shards","shards":3}"#);
    assert_eq!(serde_json::from_str::<Design>(&words(1)).unwrap(), Design::Shards { shards: 3, slices: 1 });
    assert_eq!(serde_json::from_str::<Design>(&words(4)).unwrap(), Design::Shards { shards: 3, slices: 4 });
    let none = Inclusion::draw(Design::Shards { shards: 2, slices: 0 }, &pool(8), 1).unwrap_err().to_string();
    assert!(none.contains("slices: expected 1 to 256, got 0"), "{none}");
}

#[test]
fn there_is_one_model_for_each_choice_of_left_out_folds() {
    for (folds, leave, expected) in [(7, 2, 21), (10, 1, 10), (5, 4, 5), (25, 2, 300), (8, 3, 56)] {
        let design = Design::Folds { folds, leave };
        assert_eq!(design.n_models().unwrap(), expected);
        let mut choices = design.left_out();
        assert_eq!(choices.len(), expected);
        choices.dedup();
        assert_eq!(choices.len(), expected);
        assert!(choices.iter().all(|choice| choice.len() == leave && choice.is_sorted()));
    }
}

#[test]
fn a_design_out_of_range_says_which_number_and_what_was_expected() {
    for (design, expected) in [
        (Design::Share { models: 3, share: 1.0 }, "share: expected a number above 0 and below 1, got 1"),
        (Design::Share { models: 3, share: f64::NAN }, "share: expected a number above 0 and below 1, got NaN"),
        (Design::Share { models: 0, share: 0.5 }, "models: expected 1 to 65536, got 0"),
        (Design::Folds { folds: 1, leave: 1 }, "folds: expected 2 to 1024, got 1"),
        (Design::Folds { folds: 7, leave: 7 }, "folds left out: expected 1 to 6, got 7"),
        (Design::Folds { folds: 60, leave: 30 }, "folds: expected at most 65536 choices of 30, got 60"),
        (Design::Balanced { models: 4, of: 4 }, "models that each row trains: expected 1 to 3, got 4"),
    ] {
        assert_eq!(design.n_models().unwrap_err().to_string(), expected);
        assert!(Inclusion::draw(design, &pool(500), 1).is_err());
    }
    let few = Inclusion::draw(Design::Shards { shards: 9, slices: 1 }, &pool(8), 1).unwrap_err().to_string();
    assert!(few.contains("at least 9 rows") && few.contains("9 disjoint shards, got 8"), "{few}");
    assert!(Inclusion::draw(Design::Share { models: 2, share: 0.1 }, &pool(4), 1).is_err());
    assert!(Pool::new(&[4, 1, 4]).unwrap_err().to_string().contains("row 4 twice"));
    assert!(pool(3).grouped(&[1, 2]).is_err() && pool(3).stratified(&[1, 2]).is_err());
}

#[test]
fn any_two_rows_are_unknown_to_some_model_when_two_folds_are_left_out() {
    let matrix = draw(Design::Folds { folds: 7, leave: 2 }, 61, 5);
    for one in 0..61 {
        for other in 0..61 {
            let eligible = matrix.eligible(&[one, other]);
            assert!(!eligible.is_empty(), "rows {one} and {other} are known to all");
            assert!(eligible.iter().all(|&model| matrix.counts()[[model, one]] == 0));
        }
    }
    // One fold left out does not do it.
    let weaker = draw(Design::Folds { folds: 7, leave: 1 }, 61, 5);
    assert!((0..61).any(|other| weaker.eligible(&[0, other]).is_empty()));
}

#[test]
fn half_of_the_models_train_on_each_row_and_models_differ() {
    let matrix = draw(Design::Balanced { models: 16, of: 8 }, 400, 9);
    assert!((0..400).all(|place| matrix.of_row(place).sum() == 8));
    let sizes: Vec<usize> = (0..16).map(|model| matrix.members(model).len()).collect();
    // Binomial(400, 1/2): eight standard deviations either side.
    assert!(sizes.iter().all(|size| (120..=280).contains(size)), "{sizes:?}");
    assert!((1..16).all(|model| matrix.members(model) != matrix.members(0)));
}

#[test]
fn shards_are_disjoint_and_cover_the_pool() {
    let matrix = draw(Design::Shards { shards: 6, slices: 1 }, 100, 2);
    let mut all: Vec<usize> = (0..6).flat_map(|shard| matrix.members(shard)).collect();
    all.sort_unstable();
    assert_eq!(all, pool(100).rows());
    assert!((0..6).all(|shard| (16..=17).contains(&matrix.members(shard).len())));
}

#[test]
fn bootstrap_samples_have_repetitions_and_leave_a_third_out() {
    let matrix = draw(Design::Bootstrap { models: 5 }, 2000, 3);
    for model in 0..5 {
        assert_eq!(matrix.members(model).len(), 2000);
        let out = matrix.strangers(model).len() as f64 / 2000.0;
        assert!((out - (-1f64).exp()).abs() < 0.05, "{out}");
    }
    assert!(matrix.counts().iter().any(|&count| count > 2));
}

#[test]
fn members_and_strangers_are_the_pool() {
    let matrix = draw(Design::Share { models: 4, share: 0.6 }, 50, 8);
    for model in 0..4 {
        assert_eq!((matrix.members(model).len(), matrix.strangers(model).len()), (30, 20));
        let mut all = [matrix.members(model), matrix.strangers(model)].concat();
        all.sort_unstable();
        assert_eq!(all, pool(50).rows());
    }
}

/// Known for good: the same seed must deal the same rows in every later version.
#[test]
fn the_seed_decides_the_deal_today_and_tomorrow() {
    let design = Design::Share { models: 3, share: 0.5 };
    assert_eq!(draw(design, 40, 4), draw(design, 40, 4));
    assert_ne!(draw(design, 40, 4), draw(design, 40, 5));
    let dealt: Vec<Vec<u8>> = draw(Design::Shards { shards: 3, slices: 1 }, 12, 1)
        .counts()
        .rows()
        .into_iter()
        .map(|row| row.to_vec())
        .collect();
    assert_eq!(dealt, KNOWN_SHARDS);
    // A model more does not change the ones before it.
    let (three, four) = (draw(design, 40, 4), draw(Design::Share { models: 4, share: 0.5 }, 40, 4));
    assert!((0..3).all(|model| three.members(model) == four.members(model)));
}
const KNOWN_SHARDS: [[u8; 12]; 3] =
    [[0, 0, 0, 1, 0, 0, 0, 1, 0, 1, 1, 0], [1, 1, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0], [0, 0, 1, 0, 0, 1, 0, 0, 1, 0, 0, 1]];

#[test]
fn a_matrix_that_breaks_its_design_is_refused() {
    let broken = |design, change: &dyn Fn(&mut Array2<u8>)| {
        let mut counts = draw(design, 30, 1).counts().clone();
        change(&mut counts);
        Inclusion::from_parts(design, 1, pool(30).rows().to_vec(), counts).unwrap_err().to_string()
    };
    let flip = |counts: &mut Array2<u8>| counts[[0, 0]] ^= 1;
    assert!(broken(Design::Balanced { models: 4, of: 2 }, &flip).contains("expected each row in 2 models"));
    assert!(broken(Design::Shards { shards: 3, slices: 1 }, &flip).contains("expected each row in 1 models"));
    assert!(broken(Design::Whole { models: 3 }, &flip).contains("expected each row in 3 models, got one in 2"));
    assert!(broken(Design::Folds { folds: 5, leave: 2 }, &flip).contains("in no fold"));
    let share = Design::Share { models: 3, share: 0.5 };
    assert!(broken(share, &|counts| counts.row_mut(1).fill(0)).contains("model 1 trains on no row"));
    assert!(broken(share, &|counts| counts[[2, 4]] = 2).contains("stands 2 times"));
    let (counts, rows) = (draw(share, 30, 1).counts().clone(), pool(29).rows().to_vec());
    assert!(Inclusion::from_parts(share, 1, rows, counts).is_err());
}

fn designs() -> impl Strategy<Value = Design> {
    prop_oneof![
        (1usize..9, 0.05f64..0.95).prop_map(|(models, share)| Design::Share { models, share }),
        (2usize..9, 1usize..3).prop_map(|(folds, leave)| Design::Folds { folds, leave: leave.min(folds - 1) }),
        (2usize..9, 1usize..8).prop_map(|(models, of)| Design::Balanced { models, of: of.min(models - 1) }),
        (1usize..9).prop_map(|models| Design::Bootstrap { models }),
        (1usize..9).prop_map(|shards| Design::Shards { shards, slices: 1 }),
        (1usize..9).prop_map(|models| Design::Whole { models }),
    ]
}

proptest! {
    #[test]
    fn near_duplicates_share_their_fate_in_every_design(
        design in designs(), groups in proptest::collection::vec(0u32..30, 40..120), seed: u64
    ) {
        let pool = pool(groups.len()).grouped(&groups).unwrap();
        let Ok(matrix) = Inclusion::draw(design, &pool, seed) else { return Ok(()) };
        for one in 0..groups.len() {
            let other = groups.iter().position(|group| *group == groups[one]).unwrap();
            prop_assert_eq!(matrix.of_row(one), matrix.of_row(other));
        }
    }

    #[test]
    fn every_class_is_dealt_in_its_share(labels in proptest::collection::vec(0u32..4, 60..160), seed: u64) {
        let pool = pool(labels.len()).stratified(&labels).unwrap();
        let folds = Inclusion::draw(Design::Folds { folds: 5, leave: 1 }, &pool, seed).unwrap();
        let share = Inclusion::draw(Design::Share { models: 3, share: 0.6 }, &pool, seed).unwrap();
        for label in 0..4 {
            let of_class = |row: ArrayView1<'_, u8>| {
                labels.iter().zip(row).filter(|(own, count)| **own == label && **count > 0).count() as f64
            };
            let n = labels.iter().filter(|&&own| own == label).count() as f64;
            for row in folds.counts().rows() {
                prop_assert!((of_class(row) - 0.8 * n).abs() <= 2.0);
            }
            for row in share.counts().rows() {
                prop_assert!((of_class(row) - 0.6 * n).abs() <= 1.0);
            }
        }
    }

    #[test]
    fn what_is_drawn_passes_its_own_check(design in designs(), n_rows in 1usize..80, seed: u64) {
        match Inclusion::draw(design, &pool(n_rows), seed) {
            Ok(matrix) => {
                prop_assert_eq!(matrix.n_models(), design.n_models().unwrap());
                let again = Inclusion::from_parts(design, seed, matrix.rows().to_vec(), matrix.counts().clone());
                prop_assert_eq!(again.unwrap(), matrix);
            }
            Err(error) => {
                let told = matches!(error, InclusionError::TooFewRows { .. } | InclusionError::Broken { .. });
                prop_assert!(told, "{error}");
            },
        }
    }
}
