//! Slices of a shard (SISA: Bourtoule et al. 2021, section IV-B), so that forgetting a row trains a part of one shard anew.
//!
//! ```text
//!  slice 1 ──▶ train ──▶ kept ──▶ slices 1, 2 ──▶ train ──▶ kept ──▶ … ──▶ all slices ──▶ train ──▶ the model
//! ```
//!
//! A row's slice is a function of the deal's seed and the row's number alone: it stays when other rows are forgotten, and slices are
//! about equally large. Every stage begins with the weights and the optimizer's state of the one before, draws from a seed of
//! its own, and has `⌈2 E / (R + 1)⌉` epochs: with `R` slices all stages together see as many rows as `E` epochs of all
//! rows do. What a stage makes depends on the rows of its slices and on nothing behind them, so that a model which went back to the stage before
//! a forgotten row is, byte for byte, the model that never knew it.

use anyhow::ensure;
use sha2::{Digest, Sha256};

use super::inclusion::{Design, Inclusion};
use crate::lab::recipe::Recipe;

/// Seeds lie below 2^53, as those of the plan.
const SEEDS: u64 = 1 << 53;

/// The number of stages that each model of a design is trained in.
#[must_use]
pub fn n_stages(design: Design) -> usize {
    match design {
        Design::Shards { slices, .. } => slices,
        _ => 1,
    }
}

/// The slice of a row of the dataset, from 0.
#[must_use]
pub fn slice_of(inclusion: &Inclusion, row: usize) -> usize {
    let n_slices = n_stages(inclusion.design());
    let hash = Sha256::new_with_prefix(b"sordino.slice 1\n").chain_update(inclusion.seed().to_le_bytes());
    let hash = hash.chain_update((row as u64).to_le_bytes()).finalize();
    let number = hash.iter().take(8).fold(0u64, |number, byte| (number << 8) | u64::from(*byte));
    (number % n_slices as u64) as usize
}

/// The rows that a stage, from 0, of a model trains on: those of its own slice and of all before.
#[must_use]
pub fn rows_of(inclusion: &Inclusion, model: usize, stage: usize) -> Vec<usize> {
    let rows = inclusion.members(model);
    if stage + 1 >= n_stages(inclusion.design()) {
        return rows;
    }
    rows.into_iter().filter(|&row| slice_of(inclusion, row) <= stage).collect()
}

/// The recipe of a stage of a model whose own recipe is this.
#[must_use]
pub fn recipe_of(design: Design, recipe: Recipe, stage: usize) -> Recipe {
    let n_stages = n_stages(design);
    if n_stages == 1 {
        return recipe;
    }
    let epochs = (2 * recipe.epochs).div_ceil(n_stages + 1);
    let seed = recipe.seed.wrapping_add(stage as u64) % SEEDS;
    Recipe { epochs, seed, ..recipe }
}

/// Checks that a deal and a recipe can be trained in slices.
///
/// # Errors
///
/// When a first slice has no row, or the recipe is private: its ε would have to be that of all stages together.
pub fn check(inclusion: &Inclusion, recipe: &Recipe) -> anyhow::Result<()> {
    if n_stages(inclusion.design()) == 1 {
        return Ok(());
    }
    ensure!(recipe.dp.is_none(), "slices: a private recipe's epsilon is of one training, expected no slices");
    let empty = (0..inclusion.n_models()).find(|&model| rows_of(inclusion, model, 0).is_empty());
    ensure!(
        empty.is_none(),
        "slices: the first slice of shard {} has no row, expected fewer slices",
        empty.unwrap_or(0)
    );
    Ok(())
}

/// The checkpoint behind a finished stage that is not the last.
#[must_use]
pub fn kept_file(member: usize, stage: usize) -> String {
    format!("model-{member:05}.after-slice-{}.checkpoint", stage + 1)
}

/// The checkpoint of a running stage of several.
#[must_use]
pub fn running_file(member: usize, stage: usize) -> String {
    format!("model-{member:05}.slice-{}.checkpoint", stage + 1)
}

#[cfg(test)]
mod tests {
    use super::super::inclusion::Pool;
    use super::*;
    use crate::lab::network::Architecture;

    fn inclusion(rows: &[usize], slices: usize) -> Inclusion {
        Inclusion::draw(Design::Shards { shards: 2, slices }, &Pool::new(rows).unwrap(), 5).unwrap()
    }

    #[test]
    fn slices_grow_to_the_whole_shard_and_are_about_equal() {
        let rows: Vec<usize> = (100..1100).collect();
        let inclusion = inclusion(&rows, 4);
        let mut before = 0;
        for stage in 0..4 {
            let rows = rows_of(&inclusion, 1, stage);
            assert!((90..160).contains(&(rows.len() - before)), "{stage}: {} after {before}", rows.len());
            before = rows.len();
        }
        assert_eq!(rows_of(&inclusion, 1, 3), inclusion.members(1));
    }

    #[test]
    fn a_row_keeps_its_slice_when_others_are_forgotten() {
        let rows: Vec<usize> = (0..60).collect();
        let (whole, less) = (inclusion(&rows, 3), inclusion(&rows[7..], 3));
        assert!(rows[7..].iter().all(|&row| slice_of(&whole, row) == slice_of(&less, row)));
    }

    #[test]
    fn stages_see_as_many_rows_as_the_epochs_of_the_recipe_and_draw_from_seeds_of_their_own() {
        let recipe = Recipe::plain(Architecture::fcn(), 60, 9);
        let design = |slices| Design::Shards { shards: 2, slices };
        assert_eq!(recipe_of(design(1), recipe.clone(), 0), recipe);
        let stages: Vec<Recipe> = (0..4).map(|stage| recipe_of(design(4), recipe.clone(), stage)).collect();
        assert_eq!(stages.iter().map(|stage| stage.epochs).collect::<Vec<_>>(), [24; 4]);
        assert_eq!(stages.iter().map(|stage| stage.seed).collect::<Vec<_>>(), [9, 10, 11, 12]);
        // 24 epochs of 1/4, 2/4, 3/4 and 4/4 of the rows are 60 of all.
        assert_eq!(24 * (1 + 2 + 3 + 4) / 4, 60);
    }

    #[test]
    fn an_empty_first_slice_and_a_private_recipe_are_refused() {
        let recipe = Recipe::plain(Architecture::fcn(), 6, 1);
        let error = check(&inclusion(&[1, 2, 3, 4], 200), &recipe).unwrap_err().to_string();
        assert!(error.contains("the first slice of shard") && error.contains("fewer slices"), "{error}");
        let private = Recipe { dp: Some(crate::lab::dp::Privacy::new(1.0, 1.0)), ..recipe };
        assert!(check(&inclusion(&[1, 2, 3, 4], 2), &private).unwrap_err().to_string().contains("private"));
        check(&inclusion(&[1, 2, 3, 4], 1), &private).unwrap();
    }
}
