//! What a bank can tell about the rows of an audit: how many of its models were trained on them, and how many were not.
//!
//! Who has models of both kinds for every row attacks online, too. Who has not, such as an attacker whose shadow models
//! never saw an audited row, attacks offline: by models that were not trained on the row, **as many for every row**. The
//! number of models decides how far a score strays, and where the members alone were dealt to models (or the non-members
//! alone) it would tell the sides apart by itself. Only counts are judged here; [`Bank`](super::Bank) does the same to answers.

use std::collections::HashMap;

use serde::Serialize;

use super::ShadowError;
use crate::artifact::inclusion::InclusionMatrix;

/// A bank of fewer models is none.
pub const MIN_MODELS: usize = 3;
/// Models that were not trained on a row, below which nothing is said offline: fewer have no spread.
pub const MIN_STRANGERS: usize = 2;
/// What is needed offline, in words.
pub(super) const NEEDS_STRANGERS: &str = "two that were not";
/// Models of each kind that every row of a bank has where every model is the target in turn: one of them may be it.
pub(super) const EACH_IN_TURN: usize = 2;

/// By how many models of a bank the rows of an audit are judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Reach {
    /// Models of the bank.
    pub n_models: usize,
    /// Rows of the audit.
    pub n_rows: usize,
    /// Rows that some models were trained on and others were not.
    pub n_both: usize,
    /// Models that were not trained on the row, of the row that has the fewest: offline, every row is held against so many.
    pub n_strangers: usize,
    /// Whether every model of the bank can be the target in turn, over the rows that the bank was dealt.
    pub in_turn: bool,
}

impl Reach {
    /// Of a bank of this matrix over the audit's `rows`, numbers in the data set.
    ///
    /// # Errors
    /// [`ShadowError::TooSmall`]; [`ShadowError::TooFewModels`] for the row with the fewest models that were not trained on it,
    /// where those are too few to attack offline and some row has no model of either kind.
    pub fn of(matrix: &InclusionMatrix, rows: &[usize]) -> Result<Self, ShadowError> {
        let n_models = matrix.n_models();
        if n_models < MIN_MODELS {
            return Err(ShadowError::TooSmall { n_models });
        }
        let trained_on = |place: usize| matrix.trained.column(place).iter().filter(|trained| **trained).count();
        let of_pool: Vec<usize> = (0..matrix.rows.len()).map(trained_on).collect();
        let places: HashMap<usize, usize> = matrix.rows.iter().enumerate().map(|(place, &row)| (row, place)).collect();
        let n_in = |row: &usize| places.get(row).map_or(0, |&place| of_pool[place]);
        let n_both = rows.iter().filter(|row| (1..n_models).contains(&n_in(row))).count();
        let (n_in, row) = rows.iter().map(|row| (n_in(row), *row)).max_by_key(|(n_in, _)| *n_in).unwrap_or_default();
        let n_strangers = n_models - n_in;
        let is_online = n_both == rows.len();
        if !is_online && n_strangers < MIN_STRANGERS {
            return Err(ShadowError::TooFewModels { row, n_in, n_out: n_strangers, needs: NEEDS_STRANGERS });
        }
        let has_two = |n_in: &usize| (EACH_IN_TURN..=n_models - EACH_IN_TURN.min(n_models)).contains(n_in);
        let in_turn = is_online && of_pool.iter().all(has_two);
        Ok(Self { n_models, n_rows: rows.len(), n_both, n_strangers, in_turn })
    }

    /// Whether every row has models of both kinds.
    #[must_use]
    pub fn is_online(&self) -> bool {
        self.n_both == self.n_rows
    }

    /// What must be said in red: a few rows without models of both kinds weaken the attacks on all of them.
    #[must_use]
    pub fn doubt(&self) -> Option<String> {
        let Self { n_rows, n_both, n_strangers, .. } = *self;
        (!self.is_online() && n_both > 0).then(|| {
            format!(
                "{} of the {n_rows} audited rows lack shadow models of one kind, so that no row is attacked online and each is held \
                 against {n_strangers} models alone: a bank that is dealt all rows evenly (--balanced) finds more",
                n_rows - n_both
            )
        })
    }

    /// What the bank does not allow, each with the reason, in words.
    #[must_use]
    pub fn left_out(&self) -> Vec<String> {
        const IN_TURN: &str = "every shadow model as the target in turn, the risk of single records";
        let Self { n_models, n_rows, n_both, n_strangers, .. } = self;
        let why = match (self.is_online(), self.n_both) {
            (true, _) if self.in_turn => return Vec::new(),
            (true, _) => {
                let why = "some row of the bank has fewer than two models that were trained on it, or that were not";
                return vec![format!("{IN_TURN}: {why}")];
            }
            (false, 0) => format!(
                "none of the {n_models} shadow models was trained on an audited row (a bank that is dealt all of them, \
                 --pool train,test of `sordino shadows plan`, has models of both kinds)"
            ),
            (false, _) => format!(
                "shadow models were trained on {n_both} of the {n_rows} audited rows and on none of the others, so that every \
                 row is held against {n_strangers} models that were not trained on it, as many as that with the fewest has"
            ),
        };
        vec![format!("online attacks of shadow models (LiRA online, RMIA online), {IN_TURN}: {why}")]
    }
}

/// What a report tells of a bank.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ShadowModels {
    /// By how many models the audited rows are judged.
    #[serde(flatten)]
    pub reach: Reach,
    /// Forms of each row that were looked at.
    pub n_queries: usize,
    /// What was left out, each with the reason.
    pub left_out: Vec<String>,
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;

    use super::*;

    /// Rows 10, 11, … of a pool, each trained on by so many of the models, the first ones.
    fn matrix(n_models: usize, trained_on: &[usize]) -> InclusionMatrix {
        InclusionMatrix {
            rows: (10..10 + trained_on.len()).collect(),
            trained: Array2::from_shape_fn((n_models, trained_on.len()), |(model, row)| model < trained_on[row]),
        }
    }

    #[test]
    fn a_bank_is_online_where_every_audited_row_has_both_kinds_of_models() {
        let found = Reach::of(&matrix(4, &[2, 2, 2]), &[10, 12]).unwrap();
        assert_eq!(found, Reach { n_models: 4, n_rows: 2, n_both: 2, n_strangers: 2, in_turn: true });
        assert!(found.is_online() && found.left_out().is_empty());
        // A row of the pool that is not audited decides about targets alone.
        let found = Reach::of(&matrix(4, &[2, 1, 2]), &[10, 12]).unwrap();
        assert!(found.is_online() && !found.in_turn);
        let [told] = &found.left_out()[..] else { panic!("{:?}", found.left_out()) };
        assert!(told.contains("in turn") && !told.contains("online"), "{told}");
    }

    #[test]
    fn rows_that_no_model_saw_are_attacked_offline_whether_the_pool_holds_them_or_not() {
        for (pool, rows) in [(matrix(5, &[2, 2, 2]), [0, 1]), (matrix(5, &[0, 2, 0]), [10, 12])] {
            let found = Reach::of(&pool, &rows).unwrap();
            assert_eq!(found, Reach { n_models: 5, n_rows: 2, n_both: 0, n_strangers: 5, in_turn: false });
            let told = found.left_out().join("\n");
            assert!(told.contains("LiRA online") && told.contains("RMIA online") && told.contains("single records"));
            assert!(told.contains("none of the 5 shadow models was trained on an audited row"), "{told}");
            assert_eq!(found.doubt(), None, "such an attacker is no mistake");
        }
    }

    #[test]
    fn where_some_rows_were_trained_on_all_are_held_against_as_many_strangers() {
        let found = Reach::of(&matrix(6, &[3, 4, 2]), &[10, 11, 99]).unwrap();
        assert_eq!(found, Reach { n_models: 6, n_rows: 3, n_both: 2, n_strangers: 2, in_turn: false });
        assert!(found.left_out()[0].contains("trained on 2 of the 3 audited rows"), "{:?}", found.left_out());
        assert!(found.doubt().unwrap().starts_with("1 of the 3 audited rows lack"), "{:?}", found.doubt());
    }

    #[test]
    fn too_few_models_are_refused() {
        let refused = |pool: &InclusionMatrix, rows: &[usize]| Reach::of(pool, rows).unwrap_err().to_string();
        assert!(refused(&matrix(2, &[0]), &[10]).contains("a bank of 2 models is too small"));
        let whole = refused(&matrix(4, &[4, 4]), &[0, 11]);
        assert_eq!(
            whole,
            "row 11: 4 models of the bank were trained on it, 0 were not; this attack needs two that were not"
        );
        assert!(refused(&matrix(4, &[3, 2]), &[0, 10]).contains("row 10: 3 models"));
        // One stranger a row is enough where every row has a model of the other kind, too.
        assert!(Reach::of(&matrix(4, &[3, 3]), &[10, 11]).unwrap().is_online());
    }
}
