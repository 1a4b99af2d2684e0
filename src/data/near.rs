//! Groups of rows that are copies of each other, exact or nearly so: a split that puts one into the train part and
//! another into the test part would call the same record a member and a non-member.

use serde::{Deserialize, Serialize};

/// How the nearness of two rows is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Measure {
    /// Equal values.
    Exact,
}

/// What was looked for, and what was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Near {
    /// The measure.
    pub measure: Measure,
    /// Rows up to this distance apart are near-duplicates.
    pub radius: f64,
    /// Groups of at least two rows.
    pub n_groups: usize,
    /// Rows in those groups.
    pub n_rows: usize,
    /// Rows in the largest of them.
    pub largest: usize,
}

/// Groups of near-duplicate rows: disjoint, each of at least two rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Groups {
    members: Vec<Vec<usize>>,
    near: Near,
}

impl Groups {
    /// Row numbers of each group, ascending; groups in the order of their first rows.
    #[must_use]
    pub fn members(&self) -> &[Vec<usize>] {
        &self.members
    }

    /// What was looked for, and what was found.
    #[must_use]
    pub fn near(&self) -> &Near {
        &self.near
    }

    #[cfg(test)]
    pub(super) fn of(members: Vec<Vec<usize>>) -> Self {
        let n_rows = members.iter().map(Vec::len).sum();
        let largest = members.iter().map(Vec::len).max().unwrap_or(0);
        let near = Near { measure: Measure::Exact, radius: 0.0, n_groups: members.len(), n_rows, largest };
        Self { members, near }
    }
}
