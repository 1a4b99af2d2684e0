//! Exact ROC curves under ties.
//!
//! Responsible for: ordering scores once ([`Ranking`]), and what follows from the order alone: the curve, the
//! area under it, the two-sided advantage, the true-positive rate at a stated false-positive rate. Not for
//! intervals or nulls (`interval`, `null`), nor for what a score means (`attack`).
//!
//! A defence that masks, rounds or bins makes massive ties, so a block of equal scores is always taken whole: a
//! threshold can stand between two blocks and never inside one. Everything is counted in integers; the only
//! divisions come last.
//!
//! A higher score says "member". `±∞` are ordinary scores; a NaN is an error.

use thiserror::Error;

use crate::audit::exact::Counts;

/// Why no curve can be drawn.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum RocError {
    /// A score is NaN: it has no place in an order.
    #[error("the score of row {row} is NaN")]
    NotANumber {
        /// Row of the score.
        row: usize,
    },
    /// The scores and the memberships are not of the same rows.
    #[error("{n_scores} scores and {n_memberships} memberships")]
    LengthsDiffer {
        /// Number of scores.
        n_scores: usize,
        /// Number of memberships.
        n_memberships: usize,
    },
    /// A curve needs both members and non-members.
    #[error("{n_members} members and {n_non_members} non-members: at least one of each is needed")]
    OneSided {
        /// Number of members.
        n_members: usize,
        /// Number of non-members.
        n_non_members: usize,
    },
    /// More rows than row numbers of 32 bits can name.
    #[error("{n_rows} rows are more than the audit can rank")]
    TooManyRows {
        /// Number of rows.
        n_rows: usize,
    },
}

/// Rows in order of falling score, cut into blocks of equal score.
#[derive(Debug, Clone)]
pub struct Ranking {
    /// Row numbers, highest score first; within a block by row number.
    order: Vec<u32>,
    /// For each block the position in `order` just behind its last row; the last entry is the number of rows.
    block_ends: Vec<u32>,
    /// For each block its score.
    block_scores: Vec<f64>,
}

impl Ranking {
    /// Sorts `scores` (one per row) once, in O(n log n). `-0.0` and `0.0` are equal.
    ///
    /// # Errors
    /// [`RocError::NotANumber`] for a NaN, [`RocError::TooManyRows`] for 2^32 rows or more.
    pub fn new(scores: &[f64]) -> Result<Self, RocError> {
        if let Some(row) = scores.iter().position(|score| score.is_nan()) {
            return Err(RocError::NotANumber { row });
        }
        let n_rows = u32::try_from(scores.len()).map_err(|_| RocError::TooManyRows { n_rows: scores.len() })?;
        let order = falling_order(scores, n_rows);
        let score = |row: u32| scores[row as usize];
        let mut block_ends = Vec::new();
        let mut block_scores = Vec::new();
        for position in 0..n_rows {
            let here = score(order[position as usize]);
            if order.get(position as usize + 1).is_none_or(|&next| score(next) != here) {
                block_ends.push(position + 1);
                block_scores.push(here);
            }
        }
        Ok(Self { order, block_ends, block_scores })
    }

    /// Number of rows.
    #[must_use]
    pub fn n_rows(&self) -> usize {
        self.order.len()
    }

    /// Number of distinct scores.
    #[must_use]
    pub fn n_blocks(&self) -> usize {
        self.block_ends.len()
    }

    /// The blocks, highest score first: the score and the rows that have it.
    pub fn blocks(&self) -> impl Iterator<Item = (f64, &[u32])> {
        let starts = std::iter::once(0).chain(self.block_ends.iter().copied());
        let ends = self.block_ends.iter().copied();
        starts
            .zip(ends)
            .zip(&self.block_scores)
            .map(|((start, end), &score)| (score, &self.order[start as usize..end as usize]))
    }

    /// The largest absolute sum of `weights`, one a row, over the rows above any threshold.
    pub(crate) fn largest_sum(&self, weights: &[f64]) -> f64 {
        let (mut sum, mut position, mut largest) = (0.0_f64, 0_usize, 0.0_f64);
        for &end in &self.block_ends {
            let end = end as usize;
            sum += self.order[position..end].iter().map(|&row| weights[row as usize]).sum::<f64>();
            position = end;
            largest = largest.max(sum.abs());
        }
        largest
    }

    /// `max over thresholds of |TPR − FPR|` for other memberships of the same rows, given as 0 and 1: the inner
    /// loop of the permutation null. Both sides must have at least one row.
    pub(crate) fn two_sided_advantage(&self, memberships: &[u8], n_members: u64) -> f64 {
        let n_rows = self.order.len() as u64;
        let n_non_members = n_rows - n_members;
        // TPR − FPR = (TP·n − position·m) / (m·(n − m)): one product a step, no division.
        let (n, m) = (n_rows as i64, n_members as i64);
        let (mut true_positives, mut position, mut widest) = (0_i64, 0_usize, 0_i64);
        for &end in &self.block_ends {
            let end = end as usize;
            for &row in &self.order[position..end] {
                true_positives += i64::from(memberships[row as usize]);
            }
            position = end;
            widest = widest.max((true_positives * n - position as i64 * m).abs());
        }
        widest as f64 / (n_members as f64 * n_non_members as f64)
    }
}

/// From here on a radix sort is quicker than one by comparison.
const RADIX_FROM: usize = 1 << 13;

/// Row numbers by falling score, equal scores by row number. No score is NaN.
fn falling_order(scores: &[f64], n_rows: u32) -> Vec<u32> {
    // A number that rises as the score falls: the bits of a positive float rise with it, those of a negative one
    // fall. `+ 0.0` folds the two zeros, which bits would tell apart.
    let key = |row: u32| {
        let bits = (scores[row as usize] + 0.0).to_bits();
        if bits >> 63 == 0 { !(bits | 1 << 63) } else { bits }
    };
    let mut keyed: Vec<(u64, u32)> = (0..n_rows).map(|row| (key(row), row)).collect();
    if keyed.len() < RADIX_FROM {
        keyed.sort_unstable();
    } else {
        radix_sort(&mut keyed);
    }
    keyed.into_iter().map(|(_, row)| row).collect()
}

/// Sorts by the first of each pair, stably: digits of 11 bits from the lowest, a digit that all share left out.
fn radix_sort(keyed: &mut Vec<(u64, u32)>) {
    const BITS: usize = 11;
    const N_DIGITS: usize = 64_usize.div_ceil(BITS);
    const MASK: u64 = (1 << BITS) - 1;
    let digit = |key: u64, place: usize| (key >> (place * BITS) & MASK) as usize;
    let mut counts = vec![[0_u32; 1 << BITS]; N_DIGITS];
    for &(key, _) in keyed.iter() {
        for (place, counts) in counts.iter_mut().enumerate() {
            counts[digit(key, place)] += 1;
        }
    }
    let mut other = vec![(0, 0); keyed.len()];
    for (place, counts) in counts.iter_mut().enumerate() {
        if counts.iter().any(|&count| count as usize == keyed.len()) {
            continue;
        }
        let mut start = 0;
        for count in counts.iter_mut() {
            start += std::mem::replace(count, start);
        }
        for &pair in keyed.iter() {
            let place = &mut counts[digit(pair.0, place)];
            other[*place as usize] = pair;
            *place += 1;
        }
        std::mem::swap(keyed, &mut other);
    }
}

/// One threshold of a curve: rows with `score >= threshold` are called members.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// The lowest score that is still called a member; `+∞` where nobody is called one and no score is `+∞`.
    pub threshold: f64,
    /// Members called members.
    pub true_positives: u64,
    /// Non-members called members.
    pub false_positives: u64,
}

/// An exact ROC curve: the origin, then one point for each distinct score.
#[derive(Debug, Clone)]
pub struct Roc {
    points: Vec<Point>,
    n_members: u64,
    n_non_members: u64,
}

/// The highest true-positive rate whose false-positive rate does not exceed a target.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum TprAtFpr {
    /// The curve has a point at or below the target; nothing is interpolated.
    Resolved {
        /// True-positive rate at that point.
        tpr: f64,
        /// Its own false-positive rate, at most the target.
        attained_fpr: f64,
    },
    /// The target is below one false positive in all non-members (R17).
    NotResolvable {
        /// Number of non-members: the smallest rate that they resolve is 1 over it.
        n_non_members: u64,
    },
}

impl Roc {
    /// Draws the curve of `scores` (n_rows), where `memberships` (n_rows) tells the members.
    ///
    /// # Errors
    /// As [`RocError`] says.
    pub fn new(scores: &[f64], memberships: &[bool]) -> Result<Self, RocError> {
        Self::from_ranking(&Ranking::new(scores)?, memberships)
    }

    /// As [`Roc::new`], where the scores are already in order.
    ///
    /// # Errors
    /// [`RocError::LengthsDiffer`], [`RocError::OneSided`].
    pub fn from_ranking(ranking: &Ranking, memberships: &[bool]) -> Result<Self, RocError> {
        let n_rows = ranking.n_rows();
        if n_rows != memberships.len() {
            return Err(RocError::LengthsDiffer { n_scores: n_rows, n_memberships: memberships.len() });
        }
        let n_members = memberships.iter().filter(|&&member| member).count();
        let n_non_members = n_rows - n_members;
        if n_members == 0 || n_non_members == 0 {
            return Err(RocError::OneSided { n_members, n_non_members });
        }
        let mut points = Vec::with_capacity(ranking.n_blocks() + 1);
        let mut here = Point { threshold: f64::INFINITY, true_positives: 0, false_positives: 0 };
        points.push(here);
        for (score, rows) in ranking.blocks() {
            let members = rows.iter().filter(|&&row| memberships[row as usize]).count();
            here.threshold = score;
            here.true_positives += members as u64;
            here.false_positives += (rows.len() - members) as u64;
            points.push(here);
        }
        Ok(Self { points, n_members: n_members as u64, n_non_members: n_non_members as u64 })
    }

    /// The points, from (0, 0) to (1, 1), one for each distinct score behind the origin.
    #[must_use]
    pub fn points(&self) -> &[Point] {
        &self.points
    }

    /// True-positive rate at `point`.
    #[must_use]
    pub fn tpr(&self, point: &Point) -> f64 {
        point.true_positives as f64 / self.n_members as f64
    }

    /// False-positive rate at `point`.
    #[must_use]
    pub fn fpr(&self, point: &Point) -> f64 {
        point.false_positives as f64 / self.n_non_members as f64
    }

    /// Area under the curve = P(member scores higher) + ½ P(equal) (Mann-Whitney with half ties).
    #[must_use]
    pub fn auc(&self) -> f64 {
        // Twice the number of won pairs, so that half ties stay whole numbers.
        let twice_won: u128 = self
            .points
            .windows(2)
            .map(|pair| {
                let step = u128::from(pair[1].false_positives - pair[0].false_positives);
                step * u128::from(pair[1].true_positives + pair[0].true_positives)
            })
            .sum();
        let pairs = u128::from(self.n_members) * u128::from(self.n_non_members);
        twice_won as f64 / (2 * pairs) as f64
    }

    /// The point of the widest `|TPR − FPR|` (the first such from the left) and the signed difference there.
    #[must_use]
    pub fn widest(&self) -> (Point, f64) {
        self.widest_of(false)
    }

    /// As [`Roc::widest`]; with `one_sided` of the points where TPR is the larger alone.
    pub(crate) fn widest_of(&self, one_sided: bool) -> (Point, f64) {
        let (m, n) = (self.n_members as i128, self.n_non_members as i128);
        let signed = |point: &Point| i128::from(point.true_positives) * n - i128::from(point.false_positives) * m;
        let mut best = (self.points[0], 0_i128);
        for point in &self.points {
            let here = signed(point);
            if here.abs() > best.1.abs() && !(one_sided && here < 0) {
                best = (*point, here);
            }
        }
        (best.0, best.1 as f64 / (m * n) as f64)
    }

    /// Half-way between the threshold of `point` and the next lower one; the threshold itself where there is none or
    /// the middle is not finite.
    #[must_use]
    pub fn threshold_below(&self, point: &Point) -> f64 {
        let next = self.points.partition_point(|other| other.threshold >= point.threshold);
        let middle = self.points.get(next).map_or(f64::NAN, |next| f64::midpoint(point.threshold, next.threshold));
        if middle.is_finite() { middle } else { point.threshold }
    }

    /// The last point whose false-positive rate does not exceed `target_fpr`: the origin always qualifies.
    #[must_use]
    pub fn last_at(&self, target_fpr: f64) -> Point {
        // Both rates only grow along the curve.
        self.points[self.points.partition_point(|point| self.fpr(point) <= target_fpr).max(1) - 1]
    }

    /// What the rule of one point says.
    #[must_use]
    pub fn counts(&self, point: &Point) -> Counts {
        Counts {
            true_positives: point.true_positives,
            false_positives: point.false_positives,
            n_members: self.n_members,
            n_non_members: self.n_non_members,
        }
    }

    /// R12 (a): `max over thresholds of |TPR − FPR|`, two-sided, as TF-Privacy reports it.
    #[must_use]
    pub fn two_sided_advantage(&self) -> f64 {
        self.widest().1.abs()
    }

    /// The highest true-positive rate at a false-positive rate of at most `target_fpr`: conservative, without
    /// interpolation. A target above 1 is read as 1.
    #[must_use]
    pub fn tpr_at_fpr(&self, target_fpr: f64) -> TprAtFpr {
        let resolution = 1.0 / self.n_non_members as f64;
        if target_fpr.is_nan() || target_fpr < resolution {
            return TprAtFpr::NotResolvable { n_non_members: self.n_non_members };
        }
        let point = self.last_at(target_fpr);
        TprAtFpr::Resolved { tpr: self.tpr(&point), attained_fpr: self.fpr(&point) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EXACT: f64 = 1e-12;

    /// P(member higher) + ½ P(equal), pair by pair.
    fn auc_by_pairs(scores: &[f64], memberships: &[bool]) -> f64 {
        let (mut won, mut pairs) = (0.0, 0.0);
        for (a, _) in scores.iter().zip(memberships).filter(|(_, member)| **member) {
            for (b, _) in scores.iter().zip(memberships).filter(|(_, member)| !**member) {
                pairs += 1.0;
                won += if a > b {
                    1.0
                } else if a == b {
                    0.5
                } else {
                    0.0
                };
            }
        }
        won / pairs
    }

    fn rates(scores: &[f64], memberships: &[bool], threshold: f64) -> (f64, f64) {
        let rate = |side: bool| {
            let of_side: Vec<f64> =
                scores.iter().zip(memberships).filter(|(_, m)| **m == side).map(|(s, _)| *s).collect();
            of_side.iter().filter(|score| **score >= threshold).count() as f64 / of_side.len() as f64
        };
        (rate(true), rate(false))
    }

    fn advantage_by_thresholds(scores: &[f64], memberships: &[bool]) -> f64 {
        scores
            .iter()
            .map(|&threshold| {
                let (tpr, fpr) = rates(scores, memberships, threshold);
                (tpr - fpr).abs()
            })
            .fold(0.0, f64::max)
    }

    #[test]
    fn tie_blocks_are_taken_whole() {
        let roc = Roc::new(&[9.0, 9.0, 5.0, 5.0], &[true, false, true, false]).unwrap();
        assert_eq!(roc.auc(), 0.5);
        assert_eq!(roc.two_sided_advantage(), 0.0);
        assert_eq!(roc.points().len(), 3);
    }

    #[test]
    fn a_perfect_order_has_area_one_and_its_mirror_zero() {
        let memberships = [true, true, false, false];
        let right = Roc::new(&[f64::INFINITY, 3.0, 2.0, f64::NEG_INFINITY], &memberships).unwrap();
        assert_eq!((right.auc(), right.two_sided_advantage()), (1.0, 1.0));
        let mirrored = Roc::new(&[f64::NEG_INFINITY, 2.0, 3.0, f64::INFINITY], &memberships).unwrap();
        assert_eq!((mirrored.auc(), mirrored.two_sided_advantage()), (0.0, 1.0));
        assert_eq!(mirrored.widest().1, -1.0);
    }

    #[test]
    fn many_rows_are_ordered_as_few_are() {
        // Above the size from which the digits are sorted: signs, infinities, both zeros, ties, tiny and huge.
        let palette = [0.0, -0.0, 1.0, -1.0, f64::INFINITY, f64::NEG_INFINITY, 5e-324, -1e300, 1e-10, -1e-10];
        let scores: Vec<f64> = (0..3 * RADIX_FROM)
            .map(|row| {
                let spread = (row as f64 * 12.9898).sin() * 43_758.545_3;
                if row % 3 == 0 { palette[row % palette.len()] } else { spread.fract() }
            })
            .collect();
        let mut slow: Vec<u32> = (0..scores.len() as u32).collect();
        slow.sort_by(|&a, &b| (scores[b as usize] + 0.0).total_cmp(&(scores[a as usize] + 0.0)).then(a.cmp(&b)));
        assert_eq!(Ranking::new(&scores).unwrap().order, slow);
    }

    #[test]
    fn both_zeros_are_one_score() {
        let roc = Roc::new(&[0.0, -0.0], &[true, false]).unwrap();
        assert_eq!(roc.auc(), 0.5);
    }

    #[test]
    fn refuses_nan_one_side_and_lengths_that_differ() {
        assert_eq!(Roc::new(&[1.0, f64::NAN], &[true, false]).unwrap_err(), RocError::NotANumber { row: 1 });
        assert_eq!(
            Roc::new(&[1.0, 2.0], &[true, true]).unwrap_err(),
            RocError::OneSided { n_members: 2, n_non_members: 0 }
        );
        assert_eq!(Roc::new(&[], &[]).unwrap_err(), RocError::OneSided { n_members: 0, n_non_members: 0 });
        assert_eq!(
            Roc::new(&[1.0], &[true, false]).unwrap_err(),
            RocError::LengthsDiffer { n_scores: 1, n_memberships: 2 }
        );
    }

    #[test]
    fn tpr_at_fpr_is_conservative_and_says_when_it_cannot_tell() {
        // Ten non-members; a tie block takes the curve from FPR 0 to .2 at once.
        let mut scores = vec![9.0, 8.0, 5.0, 5.0, 5.0];
        scores.extend([1.0; 8]);
        let mut memberships = vec![true, true, true, false, false];
        memberships.extend([false; 8]);
        let roc = Roc::new(&scores, &memberships).unwrap();
        assert_eq!(roc.tpr_at_fpr(0.099), TprAtFpr::NotResolvable { n_non_members: 10 });
        assert_eq!(roc.tpr_at_fpr(0.1), TprAtFpr::Resolved { tpr: 2.0 / 3.0, attained_fpr: 0.0 });
        assert_eq!(roc.tpr_at_fpr(0.2), TprAtFpr::Resolved { tpr: 1.0, attained_fpr: 0.2 });
        assert_eq!(roc.tpr_at_fpr(7.0), TprAtFpr::Resolved { tpr: 1.0, attained_fpr: 1.0 });
        assert_eq!(roc.tpr_at_fpr(f64::NAN), TprAtFpr::NotResolvable { n_non_members: 10 });
    }

    fn scored_rows() -> impl Strategy<Value = (Vec<f64>, Vec<bool>)> {
        let score =
            prop_oneof![(-3_i32..3).prop_map(f64::from), -1e3..1e3_f64, Just(f64::INFINITY), Just(f64::NEG_INFINITY)];
        proptest::collection::vec((score, any::<bool>()), 2..60).prop_filter_map("one side only", |rows| {
            let (scores, memberships): (Vec<f64>, Vec<bool>) = rows.into_iter().unzip();
            let n_members = memberships.iter().filter(|m| **m).count();
            (n_members > 0 && n_members < memberships.len()).then_some((scores, memberships))
        })
    }

    proptest! {
        #[test]
        fn agrees_with_brute_force((scores, memberships) in scored_rows()) {
            let ranking = Ranking::new(&scores).unwrap();
            let roc = Roc::from_ranking(&ranking, &memberships).unwrap();
            prop_assert!((roc.auc() - auc_by_pairs(&scores, &memberships)).abs() < EXACT);
            let slow = advantage_by_thresholds(&scores, &memberships);
            prop_assert!((roc.two_sided_advantage() - slow).abs() < EXACT);
            let bytes: Vec<u8> = memberships.iter().map(|&m| u8::from(m)).collect();
            let n_members = memberships.iter().filter(|m| **m).count() as u64;
            prop_assert!((ranking.two_sided_advantage(&bytes, n_members) - slow).abs() < EXACT);
        }

        #[test]
        fn every_point_has_the_rates_of_its_threshold((scores, memberships) in scored_rows()) {
            let roc = Roc::new(&scores, &memberships).unwrap();
            for point in &roc.points()[1..] {
                prop_assert_eq!((roc.tpr(point), roc.fpr(point)), rates(&scores, &memberships, point.threshold));
            }
            let last = roc.points().last().unwrap();
            prop_assert_eq!((roc.tpr(last), roc.fpr(last)), (1.0, 1.0));
        }

        #[test]
        fn tpr_at_fpr_is_the_best_threshold_that_keeps_the_target(
            (scores, memberships) in scored_rows(), target in 0.0..1.0_f64,
        ) {
            let roc = Roc::new(&scores, &memberships).unwrap();
            if let TprAtFpr::Resolved { tpr, attained_fpr } = roc.tpr_at_fpr(target) {
                let slow = scores.iter().map(|&t| rates(&scores, &memberships, t))
                    .filter(|(_, fpr)| *fpr <= target).map(|(tpr, _)| tpr).fold(0.0, f64::max);
                prop_assert_eq!(tpr, slow);
                prop_assert!(attained_fpr <= target);
            }
        }

        #[test]
        fn the_order_of_the_rows_does_not_matter((scores, memberships) in scored_rows(), turn in 0_usize..60) {
            let turn = turn % scores.len();
            let (mut turned, mut with) = (scores.clone(), memberships.clone());
            turned.rotate_left(turn);
            with.rotate_left(turn);
            let (a, b) = (Roc::new(&scores, &memberships).unwrap(), Roc::new(&turned, &with).unwrap());
            prop_assert_eq!(a.points(), b.points());
        }

        #[test]
        fn negating_the_scores_mirrors_the_area((scores, memberships) in scored_rows()) {
            let mirrored: Vec<f64> = scores.iter().map(|score| -score).collect();
            let (a, b) = (Roc::new(&scores, &memberships).unwrap(), Roc::new(&mirrored, &memberships).unwrap());
            prop_assert!((a.auc() + b.auc() - 1.0).abs() < EXACT);
            prop_assert!((a.two_sided_advantage() - b.two_sided_advantage()).abs() < EXACT);
        }
    }
}
