//! Early stopping: which epoch is the best, and when there is no use in going on.

use serde::{Deserialize, Serialize};

use super::Score;
use crate::lab::recipe::{EarlyStopping, StopBy};

/// The best epoch so far.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Best {
    /// Counted from 1.
    pub epoch: usize,
    /// What the validation rows said then.
    pub validation: Score,
}

/// Whether these validation rows are better than the best ones so far; equally good ones are not.
pub(super) fn is_better(stopping: EarlyStopping, validation: Score, best: Option<&Best>) -> bool {
    best.is_none_or(|best| match stopping.by {
        StopBy::Loss => validation.loss < best.validation.loss,
        StopBy::Accuracy => validation.accuracy > best.validation.accuracy,
    })
}

/// Whether the training ends after `n_epochs`.
pub(super) fn ends(stopping: Option<EarlyStopping>, best: Option<&Best>, n_epochs: usize) -> bool {
    let (Some(stopping), Some(best)) = (stopping, best) else { return false };
    n_epochs >= best.epoch.saturating_add(stopping.patience)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(loss: f64, accuracy: f64) -> Score {
        Score { n_rows: 10, loss, accuracy }
    }

    #[test]
    fn better_is_a_lower_loss_or_a_higher_accuracy_and_ties_are_not() {
        let best = Best { epoch: 1, validation: score(1.0, 0.5) };
        let by = |by, validation| is_better(EarlyStopping { patience: 1, by }, validation, Some(&best));
        assert!(by(StopBy::Loss, score(0.9, 0.1)) && !by(StopBy::Loss, score(1.0, 0.9)));
        assert!(by(StopBy::Accuracy, score(9.0, 0.6)) && !by(StopBy::Accuracy, score(0.1, 0.5)));
        assert!(is_better(EarlyStopping { patience: 1, by: StopBy::Loss }, score(9.0, 0.0), None));
    }

    #[test]
    fn the_end_comes_patience_epochs_behind_the_best() {
        let stopping = Some(EarlyStopping { patience: 3, by: StopBy::Loss });
        let best = Best { epoch: 4, validation: score(1.0, 0.5) };
        assert_eq!([6, 7, 8].map(|n| ends(stopping, Some(&best), n)), [false, true, true]);
        assert!(!ends(None, Some(&best), 99) && !ends(stopping, None, 99));
    }
}
