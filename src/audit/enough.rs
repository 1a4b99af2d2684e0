//! How many rows an audit needs, told before a model is asked: with fewer no attack could show anything, however good.
//!
//! Half of either side is for fitting attacks, the other half for the verdict (`rows`). What is asked here is what the
//! *best* attack could show on the verdict's half, so no figure of this file depends on what was found.

use crate::audit::exact::{Counts, of_two};
use crate::audit::interval::{newcombe_of, two_sided_z};
use crate::audit::words::counted;

/// The level at which the rows are asked whether they are enough: that of the report's intervals.
pub const LEVEL: f64 = 0.95;

/// Rows of a side in a half, below which an area under the curve has no variance.
const MIN_OF_HALF: usize = 2;

/// An advantage that the rows must be able to tell from chance, or the report says in red that they are few.
pub const COARSE: f64 = 0.2;

/// The rows are too few for an audit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.words())]
pub struct TooFewRows {
    /// Members that there are.
    pub n_members: usize,
    /// Non-members that there are.
    pub n_non_members: usize,
    /// Members that are needed: those that there are, or more.
    pub needed_members: usize,
    /// Non-members that are needed: those that there are, or more.
    pub needed_non_members: usize,
}

impl TooFewRows {
    fn words(&self) -> String {
        let members = |n: usize| counted(n, "member");
        let others = |n: usize| counted(n, "non-member");
        let needed = match (self.needed_members > self.n_members, self.needed_non_members > self.n_non_members) {
            (true, false) => format!("{} beside as many non-members", members(self.needed_members)),
            (false, true) => format!("{} beside as many members", others(self.needed_non_members)),
            _ => format!("{} and {}", members(self.needed_members), others(self.needed_non_members)),
        };
        format!(
            "{} and {} are too few: attacks are fitted on half of each, and on the other half ({} + {}) even a perfect attack \
             could not be told from chance; at least {needed} are needed",
            members(self.n_members),
            others(self.n_non_members),
            verdict(self.n_members),
            verdict(self.n_non_members),
        )
    }
}

/// Rows of a side's verdict half: the odd one is there.
fn verdict(n_rows: usize) -> usize {
    n_rows - n_rows / 2
}

/// Whether so many rows of the sides make an audit.
///
/// A perfect attack calls every member of the verdict a member and no non-member. It is told from chance where the exact
/// (Clopper-Pearson) bounds of its two rates are apart, which is where the largest ε that these rows could show is above
/// 0. The permutation null of so few rows then leaves a perfect order outside, in both halves.
///
/// # Errors
/// [`TooFewRows`], with the least number on the shorter side that would do, or on both.
pub fn check(n_members: usize, n_non_members: usize, level: f64) -> Result<(), TooFewRows> {
    if are_enough(n_members, n_non_members, level) {
        return Ok(());
    }
    // The shorter side is raised up to the longer, then both together.
    let (short, long) = (n_members.min(n_non_members), n_members.max(n_non_members));
    let raised = (short + 1..long).find(|&n| are_enough(n, long, level)).map(|n| (n, long));
    let alike = || (long.max(2 * MIN_OF_HALF)..).find(|&n| are_enough(n, n, level)).map(|n| (n, n));
    let (of_short, of_long) = raised.or_else(alike).unwrap_or((long, long));
    let (needed_members, needed_non_members) =
        if n_members <= n_non_members { (of_short, of_long) } else { (of_long, of_short) };
    Err(TooFewRows { n_members, n_non_members, needed_members, needed_non_members })
}

fn are_enough(n_members: usize, n_non_members: usize, level: f64) -> bool {
    let [m, n] = [n_members, n_non_members].map(|n_rows| verdict(n_rows) as u64);
    [n_members, n_non_members].iter().all(|n_rows| n_rows / 2 >= MIN_OF_HALF)
        && Counts::epsilon_ceiling(m, n, 0.0, of_two(level)) > 0.0
}

/// The least advantage that a verdict of so many rows can tell from chance: the TPR − FPR, about rates of one half, from
/// which on (b)'s interval leaves 0. An attack that calls few of the rows members, or nearly all, can be told at somewhat
/// less.
#[must_use]
pub fn resolvable_advantage(verdict_members: usize, verdict_non_members: usize, level: f64) -> f64 {
    let z = two_sided_z(level);
    let leaves_zero = |advantage: f64| {
        let (tpr, fpr) = (0.5 + advantage / 2.0, 0.5 - advantage / 2.0);
        newcombe_of((tpr, verdict_members as f64), (fpr, verdict_non_members as f64), z).low > 0.0
    };
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..40 {
        let middle = f64::midpoint(low, high);
        if leaves_zero(middle) {
            high = middle;
        } else {
            low = middle;
        }
    }
    high
}

/// What must be said where the rows resolve only what is coarse.
#[must_use]
pub fn coarse(verdict_members: usize, verdict_non_members: usize, level: f64) -> Option<String> {
    let advantage = resolvable_advantage(verdict_members, verdict_non_members, level);
    (advantage > COARSE).then(|| {
        format!(
            "there are few rows: with {} and {} in the verdict an advantage below {advantage:.2} cannot be told from chance \
             (TPR − FPR about rates of one half, intervals at {level}), so a leak of that size may be there and not be seen",
            counted(verdict_members, "member"),
            counted(verdict_non_members, "non-member"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::interval::newcombe;

    fn needed(n_members: usize, n_non_members: usize) -> Option<(usize, usize)> {
        let checked = check(n_members, n_non_members, LEVEL).err();
        checked.map(|error| (error.needed_members, error.needed_non_members))
    }

    #[test]
    fn the_least_number_of_rows_is_where_the_exact_bounds_of_a_perfect_attack_part() {
        // .00625^(1/n) > 1 − .00625^(1/n) from n = 8 verdict rows a side on: 15 rows, of which 7 fit.
        assert!(0.006_25_f64.powf(1.0 / 7.0) < 0.5 && 0.006_25_f64.powf(1.0 / 8.0) > 0.5);
        assert_eq!((needed(14, 14), needed(15, 15)), (Some((15, 15)), None));
        assert_eq!(needed(5, 5), Some((15, 15)));
        assert_eq!(needed(0, 0), Some((15, 15)));
        // Many rows on one side make up for few on the other, in either direction.
        assert_eq!((needed(8, 32), needed(32, 8)), (None, None));
        assert_eq!((needed(8, 16), needed(16, 8)), (Some((13, 16)), Some((16, 13))));
        // A half of one row has no variance, whatever stands beside it.
        assert_eq!((needed(3, 100_000), needed(4, 100_000)), (Some((4, 100_000)), None));
    }

    #[test]
    fn where_rows_are_enough_the_permutation_null_leaves_a_perfect_order_outside() {
        // Of all deals two are perfect orders: one in either direction.
        let deals = |m: usize, n: usize| (0..m).fold(1.0, |deals, k| deals * (n + m - k) as f64 / (m - k) as f64);
        assert_eq!((deals(2, 2), deals(3, 3)), (6.0, 20.0));
        for (m, n) in (4..40).flat_map(|m| (4..40).map(move |n| (m, n))) {
            if check(m, n, LEVEL).is_ok() {
                for (m, n) in [(m / 2, n / 2), (verdict(m), verdict(n))] {
                    assert!(2.0 / deals(m, n) <= 1.0 - LEVEL, "{m} + {n}");
                }
            }
        }
    }

    #[test]
    fn what_is_too_few_is_told_with_what_is_needed_and_on_which_side() {
        let said = |m, n| check(m, n, LEVEL).unwrap_err().to_string();
        let both = said(1, 5);
        assert!(both.starts_with("1 member and 5 non-members are too few") && both.contains("(1 + 3)"), "{both}");
        assert!(both.ends_with("at least 15 members and 15 non-members are needed"), "{both}");
        assert!(said(8, 16).ends_with("at least 13 members beside as many non-members are needed"), "{}", said(8, 16));
        assert!(said(16, 8).ends_with("at least 13 non-members beside as many members are needed"), "{}", said(16, 8));
    }

    #[test]
    fn what_can_be_told_from_chance_shrinks_with_the_root_of_the_rows() {
        let at = |n| resolvable_advantage(n, n, LEVEL);
        // About 1.96·√(.5/n) where n is large.
        assert!((at(10_000) - 1.96 * (0.5 / 10_000.0_f64).sqrt()).abs() < 1e-4, "{}", at(10_000));
        assert!(at(47) > COARSE && at(48) < COARSE, "{} {}", at(47), at(48));
        let said = coarse(7, 8, LEVEL).unwrap();
        assert!(
            said.contains("7 members and 8 non-members")
                && said.contains(&format!("{:.2}", resolvable_advantage(7, 8, LEVEL))),
            "{said}"
        );
        assert_eq!(coarse(50, 50, LEVEL), None);
        // It is where the interval of (b) leaves 0.
        for more in 0..=50_u64 {
            let found = newcombe((50 + more, 100), (50 - more, 100), LEVEL);
            assert_eq!(found.low > 0.0, found.value > at(100), "{found:?} {}", at(100));
        }
    }
}
