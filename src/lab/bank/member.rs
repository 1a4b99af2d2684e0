//! One model of a bank: its files, and whether they are whole.

use std::fmt;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::place::Place;
use super::plan::Planned;
use crate::data::hex;
use crate::lab::dp::PrivacyRecord;
use crate::lab::record::{CodeRecord, MachineRecord};
use crate::lab::train::{EpochScore, Score};

/// The format's name.
pub const FORMAT: &str = "sordino.bank-member";
/// The version that this build writes and reads.
pub const FORMAT_VERSION: u32 = 1;

/// The model's file in a bank.
#[must_use]
pub fn model_file(member: usize) -> String {
    format!("model-{member:05}.onnx")
}

/// The record's file in a bank. It is written last: where it stands and fits, the model does too.
#[must_use]
pub fn record_file(member: usize) -> String {
    format!("model-{member:05}.json")
}

/// The file of a training that is not done.
#[must_use]
pub fn checkpoint_file(member: usize) -> String {
    format!("model-{member:05}.checkpoint")
}

/// How one model was made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberRecord {
    /// [`FORMAT`].
    pub format: String,
    /// [`FORMAT_VERSION`].
    pub format_version: u32,
    /// Digest of the plan that it belongs to.
    pub plan: String,
    /// Its place in the plan, from 0.
    pub member: usize,
    /// Its seed.
    pub seed: u64,
    /// Rows that it was trained on, repetitions counted.
    pub n_rows: usize,
    /// SHA-256 (hex) of the ONNX file.
    pub sha256: String,
    /// How good it is.
    pub results: MemberResults,
    /// Loss and accuracy of each epoch.
    pub history: Vec<EpochScore>,
    /// What differential privacy its training gives; absent where it gives none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub privacy: Option<PrivacyRecord>,
    /// The plan of the bank that it was taken from unchanged, when that bank forgot rows which it never saw.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_from: Option<String>,
    /// Seconds on the wall clock; of the last sitting where it was resumed.
    pub wall_seconds: f64,
    /// Whether there was a sitting before, of which the seconds are not counted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub resumed: bool,
    /// The source code that ran; absent for a build outside of a checkout.
    pub code: Option<CodeRecord>,
    /// The machine, in words.
    pub machine: MachineRecord,
}

/// Loss and accuracy of one model; `None` for no rows.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberResults {
    /// On the rows that it was trained on.
    pub members: Option<Score>,
    /// On the rows of the pool that it never saw.
    pub strangers: Option<Score>,
    /// On the split's validation rows, where they are not in the pool.
    pub validation: Option<Score>,
    /// On the split's test rows, where they are not in the pool.
    pub test: Option<Score>,
}

impl MemberRecord {
    /// The record as indented JSON with a line feed at the end.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).expect("a record is plain numbers and text");
        bytes.push(b'\n');
        bytes
    }
}

/// What stands in a place of one model.
#[derive(Debug, Clone, PartialEq)]
pub enum State {
    /// Nothing.
    Missing,
    /// Model and record, and they fit the plan and each other.
    Whole(Box<MemberRecord>),
    /// Something else, in words.
    Unfit(String),
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("missing"),
            Self::Whole(record) => write!(f, "whole, sha256 {}", record.sha256),
            Self::Unfit(why) => f.write_str(why),
        }
    }
}

/// Looks at the files of one model: the record must be of this plan, and the model's bytes of the digest that it names.
///
/// # Errors
///
/// When the place cannot be read.
pub fn state(place: &Place, planned: &Planned, member: usize) -> anyhow::Result<State> {
    let Some(record) = place.read(&record_file(member))? else { return Ok(State::Missing) };
    let record = match check_record(&record, planned, member) {
        Ok(record) => record,
        Err(error) => return Ok(State::Unfit(format!("{}: {error:#}", record_file(member)))),
    };
    let Some(model) = place.read(&model_file(member))? else {
        return Ok(State::Unfit(format!("{} is missing", model_file(member))));
    };
    let got = hex(&Sha256::digest(&model));
    if got != record.sha256 {
        let name = model_file(member);
        return Ok(State::Unfit(format!("{name}: expected the file with SHA-256 {}, got {got}", record.sha256)));
    }
    Ok(State::Whole(Box::new(record)))
}

fn check_record(bytes: &[u8], planned: &Planned, member: usize) -> anyhow::Result<MemberRecord> {
    let record: MemberRecord = serde_json::from_slice(bytes).context("expected the record of a bank's model")?;
    let (plan, seed) = (planned.plan.digest(), planned.plan.seeds[member]);
    let expected = (FORMAT, FORMAT_VERSION, plan.as_str(), member, seed);
    let got = (record.format.as_str(), record.format_version, record.plan.as_str(), record.member, record.seed);
    anyhow::ensure!(got == expected, "expected format, version, plan, number and seed {expected:?}, got {got:?}");
    Ok(record)
}
