//! How intervals are read: whether a leak is seen (R12), and where a system stands against the label-only floor (R14).
//!
//! It computes no interval, and each reading knows "these rows cannot tell".

use serde::Serialize;

use crate::audit::interval::Estimate;

/// Whether anything is seen at all, and whether these rows could have shown it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Leak {
    /// (b)'s interval leaves 0, or (a) leaves its null.
    Seen,
    /// Neither does, and both are narrow enough to say so.
    NotSeen,
    /// Neither does, but a leak of the stated margin would not have been seen either.
    Undecidable,
}

impl Leak {
    /// Reads (b) and (a): `within_null` and the null's 95 % (`None` where no null was drawn).
    #[must_use]
    pub fn of(fixed: &Estimate, null: Option<(bool, f64)>, margin: f64) -> Self {
        if !fixed.interval().covers(0.0) || null.is_some_and(|(within, _)| !within) {
            Self::Seen
        } else if half_width(fixed) > margin || null.is_none_or(|(_, q95)| q95 > margin) {
            Self::Undecidable
        } else {
            Self::NotSeen
        }
    }

    /// In words, for tables.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Seen => "yes",
            Self::NotSeen => "no",
            Self::Undecidable => "undecidable",
        }
    }
}

/// Where a system stands against the label-only floor: by the interval of the paired difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// The scores tell more than the label does.
    AboveFloor,
    /// No difference is seen, and the interval is narrow: these attacks can use next to nothing in the scores.
    AtFloor,
    /// No difference is seen, but the interval reaches beyond the stated margin.
    NotToldApart,
    /// Less than the label alone tells, which is in every answer: a flag, not a success.
    BelowFloor,
    /// No attack on scores works on the undefended model: this battery says nothing about a defence of them (R16).
    CannotTell,
}

impl Standing {
    /// Reads the interval of a paired difference to the floor.
    #[must_use]
    pub fn of(difference: &Estimate, margin: f64) -> Self {
        if difference.low > 0.0 {
            Self::AboveFloor
        } else if difference.high < 0.0 {
            Self::BelowFloor
        } else if difference.low < -margin || difference.high > margin {
            Self::NotToldApart
        } else {
            Self::AtFloor
        }
    }

    /// In words, for tables.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::AboveFloor => "above floor",
            Self::AtFloor => "at floor",
            Self::NotToldApart => "not told apart",
            Self::BelowFloor => "BELOW FLOOR",
            Self::CannotTell => "cannot tell",
        }
    }
}

fn half_width(estimate: &Estimate) -> f64 {
    (estimate.high - estimate.low) / 2.0
}
