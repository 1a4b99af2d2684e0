//! R17: which row plays which part.
//!
//! The target's split says who is a member (`train`), who is not (`test`), and on which rows a temperature may be
//! fitted (`calibration`). Members and non-members are each dealt, seeded, into *attack-fit* rows (thresholds,
//! signs, R16's question whether an attack counts) and *verdict* rows (everything that is reported). The two sides
//! are not balanced against each other: TPR and FPR are rates of their own side, and more rows resolve more.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use sha2::{Digest, Sha256};

/// The parts, as positions in the audit's own table of rows: members first (in the split's order), then
/// non-members. Each list rises.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allocation {
    /// Number of members; rows below it are members.
    pub n_members: usize,
    /// Number of non-members.
    pub n_non_members: usize,
    /// Rows on which thresholds and signs are fixed: members, then non-members.
    pub attack_fit: Vec<usize>,
    /// Rows on which everything reported is measured: members, then non-members.
    pub verdict: Vec<usize>,
}

/// Counts and digests of the parts, for the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AllocationRecord {
    /// Members in the attack-fit part.
    pub attack_fit_members: usize,
    /// Non-members in the attack-fit part.
    pub attack_fit_non_members: usize,
    /// Members in the verdict part.
    pub verdict_members: usize,
    /// Non-members in the verdict part.
    pub verdict_non_members: usize,
    /// SHA-256 over the data set's row numbers of the attack-fit part (u64, little-endian, in order).
    pub attack_fit_digest: String,
    /// SHA-256 over the data set's row numbers of the verdict part.
    pub verdict_digest: String,
}

impl Allocation {
    /// Deals the rows: half of each side to the attack, the rest (the odd one too) to the verdict.
    #[must_use]
    pub fn deal(n_members: usize, n_non_members: usize, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (mut attack_fit, mut verdict) = (Vec::new(), Vec::new());
        for (first, n_rows) in [(0, n_members), (n_members, n_non_members)] {
            let mut rows: Vec<usize> = (first..first + n_rows).collect();
            rows.shuffle(&mut rng);
            let (fit, rest) = rows.split_at_mut(n_rows / 2);
            fit.sort_unstable();
            rest.sort_unstable();
            attack_fit.extend_from_slice(fit);
            verdict.extend_from_slice(rest);
        }
        Self { n_members, n_non_members, attack_fit, verdict }
    }

    /// Whether each of `rows` is a member.
    #[must_use]
    pub fn memberships(&self, rows: &[usize]) -> Vec<bool> {
        rows.iter().map(|&row| row < self.n_members).collect()
    }

    /// The record; `dataset_rows` gives for each position of the audit's table the row of the data set.
    #[must_use]
    pub fn record(&self, dataset_rows: &[usize]) -> AllocationRecord {
        let members = |rows: &[usize]| rows.partition_point(|&row| row < self.n_members);
        let digest = |rows: &[usize]| digest_of_rows(rows.iter().map(|&row| dataset_rows[row]));
        AllocationRecord {
            attack_fit_members: members(&self.attack_fit),
            attack_fit_non_members: self.attack_fit.len() - members(&self.attack_fit),
            verdict_members: members(&self.verdict),
            verdict_non_members: self.verdict.len() - members(&self.verdict),
            attack_fit_digest: digest(&self.attack_fit),
            verdict_digest: digest(&self.verdict),
        }
    }
}

/// SHA-256 over row numbers as u64, little-endian, in hexadecimal.
#[must_use]
pub fn digest_of_rows(rows: impl Iterator<Item = usize>) -> String {
    let mut hasher = Sha256::new();
    for row in rows {
        hasher.update((row as u64).to_le_bytes());
    }
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_are_disjoint_and_complete() {
        let dealt = Allocation::deal(101, 60, 4);
        let mut all: Vec<usize> = dealt.attack_fit.iter().chain(&dealt.verdict).copied().collect();
        all.sort_unstable();
        assert_eq!(all, (0..161).collect::<Vec<_>>());
        let record = dealt.record(&(0..161).collect::<Vec<_>>());
        assert_eq!((record.attack_fit_members, record.attack_fit_non_members), (50, 30));
        assert_eq!((record.verdict_members, record.verdict_non_members), (51, 30));
        assert_ne!(record.attack_fit_digest, record.verdict_digest);
        assert_eq!(dealt.memberships(&dealt.verdict).iter().filter(|m| **m).count(), 51);
    }

    #[test]
    fn one_seed_gives_one_deal() {
        assert_eq!(Allocation::deal(50, 50, 1), Allocation::deal(50, 50, 1));
        assert_ne!(Allocation::deal(50, 50, 1), Allocation::deal(50, 50, 2));
    }
}
