//! A line for each record: who it is, and what an attacker makes of its answer under every system.

use csv::WriterBuilder;

use crate::audit::attack::Attack;
use crate::audit::rows::Allocation;
use crate::audit::system::System;
use crate::audit::target::Target;
use crate::audit::temperature::Temperature;
use crate::defence::DefendError;

/// The attacks whose scores stand in the table; a higher one says member.
const ATTACKS: [Attack; 4] = [Attack::Loss, Attack::ModifiedEntropy, Attack::ScaledLogit, Attack::InvertedLoss];

/// Why the table could not be made.
#[derive(Debug, thiserror::Error)]
pub enum RecordsError {
    /// A defence does not fit the scores.
    #[error("{0}")]
    Defend(DefendError),
    /// The table could not be written into memory.
    #[error("the table of records could not be written")]
    Write,
}

/// The table as CSV: `row` of the data set, `member` (1 or 0), `part` (attack_fit or verdict), `label`; then for each
/// system its label, its probability of the true label, and the score of each attack that the answers allow. The
/// parts are those of a study with the same `seed`. It holds answers of single records: share it as you would those.
///
/// # Errors
/// [`RecordsError`].
pub fn csv(target: &Target, systems: &[System], seed: u64) -> Result<Vec<u8>, RecordsError> {
    let logits = target.logits();
    let (calibration, calibration_labels) = target.calibration();
    let temperature = Temperature::fit(calibration, calibration_labels);
    let n_rows = target.n_rows();
    let allocation = Allocation::deal(target.n_members(), n_rows - target.n_members(), seed);
    let mut part = vec!["attack_fit"; n_rows];
    allocation.verdict.iter().for_each(|&row| part[row] = "verdict");
    let battery: Vec<Attack> =
        ATTACKS.into_iter().filter(|attack| target.allows().lacks(&attack.needs()).is_none()).collect();

    let mut header: Vec<String> = ["row", "member", "part", "label"].map(str::to_owned).to_vec();
    let mut columns: Vec<Vec<String>> = Vec::new();
    for system in systems {
        let answers = system.answer(target, &logits, temperature.as_ref()).map_err(RecordsError::Defend)?;
        let Some(answers) = answers else { continue };
        let inversion = system.inversion(temperature.as_ref());
        header.push(format!("{}: predicted", system.name));
        columns.push(answers.predicted.iter().map(u32::to_string).collect());
        header.push(format!("{}: p_label", system.name));
        let of_label = |(row, &label): (usize, &u32)| answers.probabilities[(row, label as usize)].to_string();
        columns.push(target.labels().iter().enumerate().map(of_label).collect());
        for attack in &battery {
            header.push(format!("{}: {}", system.name, attack.name()));
            let scores = attack.scores(&answers, target.labels(), &inversion);
            columns.push(scores.iter().map(f64::to_string).collect());
        }
    }
    let mut writer = WriterBuilder::new().from_writer(Vec::new());
    writer.write_record(&header).map_err(|_| RecordsError::Write)?;
    for row in 0..n_rows {
        let member = u8::from(row < target.n_members()).to_string();
        let [number, label] = [target.dataset_rows()[row].to_string(), target.labels()[row].to_string()];
        let first = [number.as_str(), &member, part[row], &label];
        let rest = columns.iter().map(|column| column[row].as_str());
        writer.write_record(first.into_iter().chain(rest)).map_err(|_| RecordsError::Write)?;
    }
    writer.into_inner().map_err(|_| RecordsError::Write)
}
