//! A line for each record: who it is, and what a study saw of it under every system.

use std::collections::HashMap;

use csv::WriterBuilder;

use crate::audit::report::BankFindings;
use crate::audit::shadow::leave_one_out::RecordRisk;
use crate::audit::study::Outcome;
use crate::audit::system::Role;
use crate::audit::target::Target;

/// The table as CSV: `row` of the data set, `member` (1 or 0), `part` (attack_fit or verdict), `label`; then for each
/// system its label, the scaled logit of the true label, the score of the headline's attack and whether its rule calls
/// the record a member (both of verdict rows alone). Where no attack counts there are no such columns, and the scaled
/// logit is empty where the answer is a label alone. With shadow models each system has two columns more, over all of them
/// as targets: the record's risk ([`RecordRisk::risk`]) and the AUC of its pairs, by which the worst records are told;
/// empty for a row that was not judged by models of both kinds. It holds answers of single records: share it as you would those.
///
/// # Errors
/// What the writer says; there is none in memory.
pub fn csv(target: &Target, outcome: &Outcome) -> Result<Vec<u8>, csv::Error> {
    let bank_of = |system: &str| outcome.findings.leave_one_out.iter().find(|bank| bank.system == system);
    let risks: Vec<Option<HashMap<usize, &RecordRisk>>> =
        outcome.records.iter().map(|system| bank_of(&system.system).map(by_row)).collect();
    let mut header: Vec<String> = ["row", "member", "part", "label"].map(str::to_owned).to_vec();
    for system in &outcome.records {
        let mut columns = vec!["predicted".to_owned(), "scaled logit".to_owned()];
        if let Some(attack) = &system.attack {
            columns.extend([format!("score of {}", attack.name()), "called a member".to_owned()]);
        }
        if bank_of(&system.system).is_some() {
            columns.extend(["risk over shadow models", "AUC over shadow models"].map(str::to_owned));
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
        for ((system, found), risks) in outcome.records.iter().zip(&outcome.findings.systems).zip(&risks) {
            let has_scores = outcome.findings.allows.scores && found.role != Role::Floor;
            fields.push(system.predicted[row].to_string());
            fields.push(if has_scores { system.scaled_logit[row].to_string() } else { String::new() });
            if system.attack.is_some() {
                fields.push(system.score[row].map_or_else(String::new, |score| score.to_string()));
                fields.push(system.called_member[row].map_or_else(String::new, |called| u8::from(called).to_string()));
            }
            if let Some(risks) = risks {
                let found = risks.get(&target.dataset_rows()[row]);
                let risk = found.and_then(|risk| Some([risk.risk()?, risk.auc]));
                fields
                    .extend(risk.map_or_else(|| [String::new(), String::new()], |risk| risk.map(|of| of.to_string())));
            }
        }
        writer.write_record(&fields)?;
    }
    writer.into_inner().map_err(|error| error.into_error().into())
}

/// What the shadow models of one system tell of each row of the data set.
fn by_row(bank: &BankFindings) -> HashMap<usize, &RecordRisk> {
    bank.study.records.iter().map(|risk| (risk.row, risk)).collect()
}
