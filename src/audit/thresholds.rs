//! A threshold for each class (Song and Mittal): a row is judged against the rows of its own class.
//!
//! A score that is no rank within its class says little where classes differ in difficulty. Per class the
//! threshold of the widest `TPR − FPR` is taken on rows whose membership is known; the new score is the old one
//! minus the threshold of the row's class, so that one curve and one fixed rule over all classes exist again.

use crate::audit::roc::{Ranking, Roc, RocError};

/// A class with fewer rows than this on either side keeps the global threshold.
const MIN_ROWS: usize = 10;

/// Thresholds of all classes.
#[derive(Debug, Clone, PartialEq)]
pub struct PerClass {
    thresholds: Vec<f64>,
}

impl PerClass {
    /// Fits thresholds to `scores` (n_rows) of known `memberships` (n_rows), where `classes` (n_rows, below
    /// `n_classes`) are true or predicted labels. A class with fewer than ten members or ten non-members, or in
    /// which members score no higher, has the threshold of all rows.
    ///
    /// # Errors
    /// As [`Roc::new`] for all rows.
    pub fn fit(scores: &[f64], memberships: &[bool], classes: &[u32], n_classes: usize) -> Result<Self, RocError> {
        let global = threshold(scores, memberships)?.unwrap_or_else(|| scores.iter().copied().fold(f64::MIN, f64::max));
        let mut rows: Vec<(Vec<f64>, Vec<bool>)> = vec![(Vec::new(), Vec::new()); n_classes];
        for ((&score, &member), &class) in scores.iter().zip(memberships).zip(classes) {
            let (scores, memberships) = &mut rows[class as usize];
            scores.push(score);
            memberships.push(member);
        }
        let of_class = |(scores, memberships): &(Vec<f64>, Vec<bool>)| {
            let n_members = memberships.iter().filter(|&&member| member).count();
            if n_members < MIN_ROWS || memberships.len() - n_members < MIN_ROWS {
                return Ok(global);
            }
            Ok(threshold(scores, memberships)?.unwrap_or(global))
        };
        Ok(Self { thresholds: rows.iter().map(of_class).collect::<Result<_, RocError>>()? })
    }

    /// `score` relative to its class.
    #[must_use]
    pub fn shifted(&self, score: f64, class: u32) -> f64 {
        score - self.thresholds[class as usize]
    }
}

/// The threshold of the widest `TPR − FPR`, if there is one above 0: half-way to the next lower score.
fn threshold(scores: &[f64], memberships: &[bool]) -> Result<Option<f64>, RocError> {
    let roc = Roc::from_ranking(&Ranking::new(scores)?, memberships)?;
    let (point, signed) = roc.widest_of(true);
    Ok((signed > 0.0).then(|| roc.threshold_below(&point)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_of_other_difficulty_are_told_by_their_own_thresholds() {
        // Class 0: members at 10, others at 8. Class 1: members at 2, others at 0. No one threshold does better
        // than one half of one class.
        let (mut scores, mut memberships, mut classes) = (Vec::new(), Vec::new(), Vec::new());
        for class in 0..2_u32 {
            for row in 0..40 {
                let member = row % 2 == 0;
                scores.push(10.0 - 8.0 * f64::from(class) - if member { 0.0 } else { 2.0 });
                memberships.push(member);
                classes.push(class);
            }
        }
        let global = Roc::new(&scores, &memberships).unwrap().two_sided_advantage();
        assert_eq!(global, 0.5);
        let fitted = PerClass::fit(&scores, &memberships, &classes, 2).unwrap();
        let shifted: Vec<f64> = scores.iter().zip(&classes).map(|(&s, &c)| fitted.shifted(s, c)).collect();
        assert_eq!(Roc::new(&shifted, &memberships).unwrap().two_sided_advantage(), 1.0);
    }

    #[test]
    fn a_class_of_few_rows_keeps_the_global_threshold() {
        let scores = [5.0, 4.0, 1.0, 0.0];
        let fitted = PerClass::fit(&scores, &[true, true, false, false], &[0, 0, 1, 1], 3).unwrap();
        assert_eq!(fitted.thresholds, vec![2.5; 3]);
    }
}
