//! R12 (b): a threshold *and a sign* that are fixed on one set of rows and judged on another.

use crate::audit::interval::{Estimate, newcombe};
use crate::audit::roc::{Ranking, Roc, RocError};

/// A rule that calls rows members, fixed on the attack-fit rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FixedThreshold {
    threshold: f64,
    /// Members score *lower*: the rule is turned round.
    members_score_lower: bool,
}

impl FixedThreshold {
    /// A rule that calls a row a member from this score on.
    #[must_use]
    pub fn at(threshold: f64) -> Self {
        Self { threshold, members_score_lower: false }
    }

    /// A rule that calls a row a member above this score.
    #[must_use]
    pub fn above(threshold: f64) -> Self {
        Self::at(threshold.next_up())
    }

    /// Takes the sign and the threshold of the widest `|TPR − FPR|` on the given rows. The threshold stands half-way
    /// to the next lower score, so that scores of another fit of the same attack, which differ in their last digits,
    /// fall on the same side.
    ///
    /// # Errors
    /// As [`Roc::new`].
    pub fn fit(scores: &[f64], memberships: &[bool]) -> Result<Self, RocError> {
        let roc = Roc::from_ranking(&Ranking::new(scores)?, memberships)?;
        let (point, signed) = roc.widest();
        Ok(Self { threshold: roc.threshold_below(&point), members_score_lower: signed < 0.0 })
    }

    /// Whether a row with this score is called a member.
    #[must_use]
    pub fn says_member(&self, score: f64) -> bool {
        (score >= self.threshold) != self.members_score_lower
    }
}

/// Signed `TPR − FPR` of calls made on rows that the rule has not seen, with Newcombe's interval.
#[must_use]
pub fn signed_advantage(says_member: &[bool], memberships: &[bool], level: f64) -> Estimate {
    let side = |wanted: bool| {
        let of_side = says_member.iter().zip(memberships).filter(|(_, member)| **member == wanted);
        of_side.fold((0_u64, 0_u64), |(called, rows), (says, _)| (called + u64::from(*says), rows + 1))
    };
    newcombe(side(true), side(false), level)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMBERSHIPS: [bool; 6] = [true, true, true, false, false, false];

    #[test]
    fn the_sign_is_fixed_on_the_fit_rows() {
        // On the fit rows members score lower; on the verdict rows it is the other way round.
        let rule = FixedThreshold::fit(&[1.0, 1.0, 2.0, 5.0, 6.0, 7.0], &MEMBERSHIPS).unwrap();
        let says: Vec<bool> = [9.0, 9.0, 9.0, 0.0, 0.0, 0.0].iter().map(|&s| rule.says_member(s)).collect();
        assert_eq!(signed_advantage(&says, &MEMBERSHIPS, 0.95).value, -1.0);
        let says: Vec<bool> = [0.0, 0.0, 0.0, 9.0, 9.0, 9.0].iter().map(|&s| rule.says_member(s)).collect();
        assert_eq!(signed_advantage(&says, &MEMBERSHIPS, 0.95).value, 1.0);
    }

    #[test]
    fn constant_scores_give_no_advantage() {
        let rule = FixedThreshold::fit(&[3.0; 6], &MEMBERSHIPS).unwrap();
        let says = [rule.says_member(3.0); 6];
        let estimate = signed_advantage(&says, &MEMBERSHIPS, 0.95);
        assert_eq!(estimate.value, 0.0);
        assert!(estimate.interval().covers(0.0));
    }

    #[test]
    fn a_threshold_includes_its_own_score() {
        let rule = FixedThreshold::fit(&[5.0, 5.0, 4.0, 1.0, 1.0, 1.0], &MEMBERSHIPS).unwrap();
        // Half-way to the next: 2.5.
        assert!(rule.says_member(4.0) && rule.says_member(2.5) && !rule.says_member(2.4));
    }
}
