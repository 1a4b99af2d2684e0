//! R17: rows that are a member and a non-member at once, because the data holds them twice.

use std::collections::HashSet;

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::audit::words::{counted, counted_have};
use crate::data::Dataset;

/// Exact copies across the two sides, by the values of a row (labels are not compared).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Duplicates {
    /// Non-members whose values are those of some member.
    pub non_members: usize,
    /// Members whose values are those of some non-member.
    pub members: usize,
}

impl Duplicates {
    /// Compares the rows `members` of a data set with its rows `non_members`.
    #[must_use]
    pub fn count(dataset: &Dataset, members: &[usize], non_members: &[usize]) -> Self {
        let digests = |rows: &[usize]| -> Vec<[u8; 32]> { rows.iter().map(|&row| digest(dataset, row)).collect() };
        let (members, non_members) = (digests(members), digests(non_members));
        let shared = |rows: &[[u8; 32]], others: &[[u8; 32]]| {
            let others: HashSet<&[u8; 32]> = others.iter().collect();
            rows.iter().filter(|row| others.contains(row)).count()
        };
        Self { non_members: shared(&non_members, &members), members: shared(&members, &non_members) }
    }

    /// In words, for tables.
    #[must_use]
    pub fn words(&self) -> String {
        match self.non_members {
            0 => "no non-member has the values of a member".to_owned(),
            n => format!(
                "{} exactly the values of a member ({}): on them no attack can be right about both (R17)",
                counted_have(n, "non-member"),
                counted(self.members, "member")
            ),
        }
    }
}

fn digest(dataset: &Dataset, row: usize) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for value in dataset.batch(&[row]).iter() {
        hasher.update(value.to_bits().to_le_bytes());
    }
    hasher.finalize().into()
}
