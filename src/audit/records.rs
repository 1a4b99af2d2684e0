//! A line for each record: who it is, and what a study saw of it under every system.

use csv::WriterBuilder;

use crate::audit::study::Outcome;
use crate::audit::system::Role;
use crate::audit::target::Target;

/// The table as CSV: `row` of the data set, `member` (1 or 0), `part` (attack_fit or verdict), `label`; then for each
/// system its label, the scaled logit of the true label, the score of the headline's attack and whether its rule calls
/// the record a member (both of verdict rows alone). Where no attack counts there are no such columns, and the scaled
/// logit is empty where the answer is a label alone. It holds answers of single records: share it as you would those.
///
/// # Errors
/// What the writer says; there is none in memory.
pub fn csv(target: &Target, outcome: &Outcome) -> Result<Vec<u8>, csv::Error> {
    let mut header: Vec<String> = ["row", "member", "part", "label"].map(str::to_owned).to_vec();
    for system in &outcome.records {
        let mut columns = vec!["predicted".to_owned(), "scaled logit".to_owned()];
        if let Some(attack) = &system.attack {
            columns.extend([format!("score of {}", attack.name()), "called a member".to_owned()]);
        }
        header.extend(columns.iter().map(|column| format!("{}: {column}", system.system)));
    }
    let mut writer = WriterBuilder::new().from_writer(Vec::new());
    writer.write_record(&header)?;
    for row in 0..target.n_rows() {
        let part = if outcome.is_verdict[row] { "verdict" } else { "attack_fit" };
        let mut fields = vec![
            target.dataset_rows()[row].to_string(),
            u8::from(row < target.n_members()).to_string(),
            part.to_owned(),
            target.labels()[row].to_string(),
        ];
        for (system, found) in outcome.records.iter().zip(&outcome.findings.systems) {
            let has_scores = outcome.findings.allows.scores && found.role != Role::Floor;
            fields.push(system.predicted[row].to_string());
            fields.push(if has_scores { system.scaled_logit[row].to_string() } else { String::new() });
            if system.attack.is_some() {
                fields.push(system.score[row].map_or_else(String::new, |score| score.to_string()));
                fields.push(system.called_member[row].map_or_else(String::new, |called| u8::from(called).to_string()));
            }
        }
        writer.write_record(&fields)?;
    }
    writer.into_inner().map_err(|error| error.into_error().into())
}
