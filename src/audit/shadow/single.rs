//! One shadow model that an attacker trained: what ML-Leaks' adversaries learn on.
//!
//! It is asked once about the rows that it was trained on and about as many others of its own data; then it stands behind
//! the defence of each system, fitted to its own members. Its data may be the target's (adversary 1) or any other
//! (adversary 2), of other shape and classes: what is learned reads the three largest entries alone. A folder of shadow
//! models is [`folder`](super::folder)'s matter.

use std::path::{Path, PathBuf};

use crate::audit::source::sides::Sides;
use crate::audit::study::{LearnedFrom, ShadowOf};
use crate::data::Dataset;
use crate::defence::{ClassFallback, RawScores};

use super::Shadowing;
use super::folder::{Before, FolderError, ask, behind_all, check_is_other};

/// Rows of a side below which nothing is learned on a shadow.
pub const MIN_ROWS: usize = 20;

/// One shadow model's scores of its own rows, still undefended.
pub struct SingleShadow {
    path: PathBuf,
    raw: RawScores,
    labels: Vec<u32>,
    memberships: Vec<bool>,
    shadow_of: ShadowOf,
}

/// What a shadow gives behind one system, with what must be said of it.
pub struct Behind {
    /// What is learned on.
    pub learned_from: LearnedFrom,
    /// Why it does not stand behind the system's defence, where it should.
    pub not_defended: Option<String>,
}

impl SingleShadow {
    /// Asks the model `path` about the rows of `sides` in `dataset`, its own data. `target` is the SHA-256 (hex) of the
    /// audited model's bytes, where they are at hand.
    ///
    /// # Errors
    /// [`FolderError`]: too few rows, the audited model itself, a model of other rows or classes than the data.
    pub fn ask(
        path: &Path,
        (dataset, sides): (&Dataset, &Sides),
        shadow_of: ShadowOf,
        batch_rows: usize,
        target: Option<&str>,
    ) -> Result<Self, FolderError> {
        let (members, others) = (sides.members(), sides.non_members());
        for (side, n_rows) in [("members", members.len()), ("non-members", others.len())] {
            if n_rows < MIN_ROWS {
                return Err(FolderError::TooFewRows { side, n_rows, needed: MIN_ROWS });
            }
        }
        check_is_other(path, target)?;
        let rows: Vec<usize> = members.iter().chain(others).copied().collect();
        let mut forms = ask(path, dataset, &rows, batch_rows, 1)?;
        let raw = forms.swap_remove(0);
        Ok(Self {
            path: path.to_owned(),
            raw,
            labels: rows.iter().map(|&row| dataset.labels()[row]).collect(),
            memberships: (0..rows.len()).map(|place| place < members.len()).collect(),
            shadow_of,
        })
    }

    /// Its answers behind what stands `before` it. A shadow of other data that the defence cannot be fitted to is taken as it
    /// is, and the reason is told; one of the target's data is refused then.
    ///
    /// # Errors
    /// [`FolderError::Behind`].
    pub fn behind(&self, before: &Before) -> Result<Behind, FolderError> {
        let forms = std::slice::from_ref(&self.raw);
        let answer = |before: &Before| {
            behind_all(before, forms, &self.labels, &self.memberships, ClassFallback::CorrectRows, &self.path)
        };
        let (answers, shadowing, not_defended) = match answer(before) {
            Ok(answers) => (answers, before.shadowing, None),
            Err(error) if self.shadow_of == ShadowOf::OtherData => {
                let bare = Before { config: None, ..before.clone() };
                (answer(&bare)?, Shadowing::Undefended, Some(error.to_string()))
            }
            Err(error) => return Err(error),
        };
        let shadows: Vec<_> = answers.into_iter().map(|answers| (answers, self.memberships.clone())).collect();
        let learned_from = LearnedFrom {
            shadow_of: self.shadow_of,
            shadowing,
            ..LearnedFrom::of(&before.system, &shadows, &self.labels)
        };
        Ok(Behind { learned_from, not_defended })
    }
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;

    use super::*;
    use crate::audit::shadow::behind::seal;
    use crate::defence::{DefenceConfig, Gate, Method};

    /// Four members and four others of three classes.
    fn shadow(shadow_of: ShadowOf, labels: Vec<u32>) -> SingleShadow {
        let logits =
            Array2::from_shape_fn((8, 3), |(row, class)| if labels[row] as usize == class { 5.0 } else { 0.0 });
        let memberships = (0..8).map(|row| row < 4).collect();
        SingleShadow { path: "s.onnx".into(), raw: seal(logits).unwrap(), labels, memberships, shadow_of }
    }

    fn reweighted() -> Before {
        let method = Method::Reweight { weight: 0.1, when: Gate::Always };
        let config = Some(DefenceConfig { method, top_k: None, digits: None });
        Before { system: "reweight".to_owned(), config, shadowing: Shadowing::AsTarget }
    }

    #[test]
    fn a_shadow_of_other_data_that_cannot_be_defended_is_taken_as_it_is_and_that_is_told() {
        // No member of class 2, so that there is no centroid of it.
        let labels = vec![0, 1, 0, 1, 0, 1, 2, 2];
        let found = shadow(ShadowOf::OtherData, labels.clone()).behind(&reweighted()).unwrap();
        assert!(found.not_defended.unwrap().contains("class"), "the reason names the class");
        assert_eq!(found.learned_from.shadowing, Shadowing::Undefended);
        // The one of the target's own data is refused, as it would be in the target's place.
        assert!(shadow(ShadowOf::SameData, labels).behind(&reweighted()).is_err());
    }

    #[test]
    fn a_shadow_stands_behind_the_defence_fitted_to_its_own_members() {
        let found = shadow(ShadowOf::OtherData, vec![0, 1, 2, 1, 0, 1, 2, 2]).behind(&reweighted()).unwrap();
        assert!(found.not_defended.is_none() && found.learned_from.shadowing == Shadowing::AsTarget);
        assert_eq!(found.learned_from.memberships.iter().filter(|member| **member).count(), 4);
        assert_eq!((found.learned_from.shadow_of, found.learned_from.answers.n_rows()), (ShadowOf::OtherData, 8));
    }
}
