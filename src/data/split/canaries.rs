//! A split of a set in which canaries were planted.

use super::super::{Canaries, DataSource, Dataset};
use super::{DatasetId, Drawn, FORMAT_VERSION, Part, Parts, Split, SplitError};

impl Split {
    /// This split for the planted set: the canaries that are trained on join the train part, all leave the part they were
    /// in, and the split records the withheld ones as taken out.
    ///
    /// # Errors
    ///
    /// [`SplitError::Canary`] where a canary is a train, validation or calibration row: what a model, its stopping or
    /// its temperature has seen anyway is no canary.
    pub fn with_canaries(
        &self,
        source: &DataSource,
        planted: &Dataset,
        canaries: &Canaries,
    ) -> Result<Self, SplitError> {
        let mut split = self.clone();
        split.format_version = FORMAT_VERSION;
        split.drawn.get_or_insert_with(Drawn::default);
        split.parts.shadow.get_or_insert_default();
        split.dataset = DatasetId { source: source.to_string(), digest: planted.digest(), n_rows: planted.n_rows() };
        for part in [Part::Train, Part::Validation, Part::Calibration] {
            if let Some(canary) = canaries.rows().iter().find(|canary| self.part(part).contains(&canary.row)) {
                return Err(SplitError::Canary { row: canary.row, part: part.name() });
            }
        }
        let is_canary = |row: &usize| canaries.rows().binary_search_by_key(row, |canary| canary.row).is_ok();
        let Parts { train, test, shadow, .. } = &mut split.parts;
        for part in [test].into_iter().chain(shadow) {
            part.retain(|row| !is_canary(row));
        }
        train.extend(canaries.trained());
        let mut removed = [self.removed(), &canaries.withheld()].concat();
        removed.sort_unstable();
        removed.dedup();
        split.without = Some(removed);
        split.checked()
    }
}
