//! Gathering a bank from the places that its workers wrote to, and the manifest of one that is complete.

use std::fmt;

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::inclusion::Design;
use super::member::{MemberRecord, MemberResults, State, model_file, record_file, state};
use super::place::Place;
use super::plan::{PLAN_FILE, Planned};
use super::slices;
use crate::data::hex;

/// The format's name.
pub const FORMAT: &str = "sordino.bank";
/// The version that this build writes and reads.
pub const FORMAT_VERSION: u32 = 1;
/// The manifest's file in a bank. It stands where the bank is complete.
pub const MANIFEST_FILE: &str = "bank.json";

/// What a complete bank holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: String,
    /// [`FORMAT_VERSION`].
    pub format_version: u32,
    /// The bank's identity: SHA-256 (hex) over the plan's digest and the models' digests in order. It does not depend on
    /// who trained which model, when, or in how many sittings.
    pub digest: String,
    /// Digest of the plan.
    pub plan: String,
    /// How the rows were dealt.
    pub design: Design,
    /// Digest of the inclusion matrix.
    pub inclusion: String,
    /// The models, in order.
    pub models: Vec<Entry>,
    /// Seconds that all trainings took together.
    pub train_seconds: f64,
}

/// One model of a bank.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The ONNX file.
    pub file: String,
    /// Its SHA-256 (hex).
    pub sha256: String,
    /// Its seed.
    pub seed: u64,
    /// Rows that it was trained on, repetitions counted.
    pub n_rows: usize,
    /// How good it is.
    pub results: MemberResults,
}

impl Manifest {
    fn new(planned: &Planned, records: &[MemberRecord]) -> Self {
        let plan = planned.plan.digest();
        let mut hash = Sha256::new();
        hash.update(b"sordino.bank 1\n");
        hash.update(plan.as_bytes());
        records.iter().for_each(|record| hash.update(record.sha256.as_bytes()));
        let models = records.iter().map(|record| Entry {
            file: model_file(record.member),
            sha256: record.sha256.clone(),
            seed: record.seed,
            n_rows: record.n_rows,
            results: record.results,
        });
        let seconds: f64 = records.iter().map(|record| record.wall_seconds).sum();
        Self {
            format: FORMAT.to_owned(),
            format_version: FORMAT_VERSION,
            digest: hex(&hash.finalize()),
            plan,
            design: planned.plan.design,
            inclusion: planned.plan.inclusion.clone(),
            models: models.collect(),
            train_seconds: (seconds * 100.0).round() / 100.0,
        }
    }

    /// The manifest as indented JSON with a line feed at the end.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).expect("a manifest is plain numbers and text");
        bytes.push(b'\n');
        bytes
    }
}

/// A complete bank, as read.
#[derive(Debug, Clone)]
pub struct Bank {
    /// The plan, the inclusion matrix and the split.
    pub planned: Planned,
    /// The manifest.
    pub manifest: Manifest,
}

impl Bank {
    /// Reads and checks a complete bank: manifest against plan; each model's bytes as they are read.
    ///
    /// # Errors
    ///
    /// When a file is missing, damaged, or of another bank.
    pub fn read(place: &Place) -> anyhow::Result<Self> {
        let planned = Planned::read(place)?;
        let bytes = place.read(MANIFEST_FILE)?;
        let bytes = bytes.with_context(|| {
            format!("{place} holds no {MANIFEST_FILE}: the bank is not complete (`sordino shadows run`, then `merge`)")
        })?;
        let manifest: Manifest =
            serde_json::from_slice(&bytes).with_context(|| format!("{MANIFEST_FILE} in {place}"))?;
        let expected = (FORMAT, FORMAT_VERSION, planned.plan.digest(), planned.plan.n_models());
        let got = (manifest.format.as_str(), manifest.format_version, manifest.plan.clone(), manifest.models.len());
        ensure!(
            got == expected,
            "{MANIFEST_FILE} in {place}: expected format, version, plan and models {expected:?}, got {got:?}"
        );
        Ok(Self { planned, manifest })
    }

    /// The bytes of one model.
    ///
    /// # Errors
    ///
    /// When they are missing or not those that the manifest names.
    pub fn model(&self, place: &Place, member: usize) -> anyhow::Result<Vec<u8>> {
        let entry = self.manifest.models.get(member).context("a model that the bank does not have")?;
        let bytes = place.read(&entry.file)?.with_context(|| format!("{} is missing in {place}", entry.file))?;
        let got = hex(&Sha256::digest(&bytes));
        ensure!(got == entry.sha256, "{} in {place}: expected SHA-256 {}, got {got}", entry.file, entry.sha256);
        Ok(bytes)
    }
}

/// Models that a bank lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gaps(pub Vec<(usize, String)>);

/// One line for each.
impl fmt::Display for Gaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} models are missing or do not fit:", self.0.len())?;
        self.0.iter().try_for_each(|(member, why)| write!(f, "\n  model {member}: {why}"))
    }
}

impl std::error::Error for Gaps {}

/// Writes the manifest of a place in which every model stands.
///
/// # Errors
///
/// [`Gaps`], and when the place cannot be read or written.
pub fn seal(place: &Place, planned: &Planned) -> anyhow::Result<Manifest> {
    let (mut records, mut gaps) = (Vec::new(), Vec::new());
    for member in 0..planned.plan.n_models() {
        match state(place, planned, member)? {
            State::Whole(record) => records.push(*record),
            other => gaps.push((member, other.to_string())),
        }
    }
    if !gaps.is_empty() {
        return Err(Gaps(gaps).into());
    }
    let manifest = Manifest::new(planned, &records);
    place.write(MANIFEST_FILE, &manifest.to_json())?;
    Ok(manifest)
}

/// What was gathered.
#[derive(Debug, Clone, PartialEq)]
pub struct Merged {
    /// The manifest that was written.
    pub manifest: Manifest,
    /// Models copied into the bank.
    pub n_copied: usize,
    /// Models that stood in more than one place, with the same bytes.
    pub n_repeated: usize,
}

/// Copies the models of one plan from the places of its workers into one bank, and writes its manifest.
///
/// # Errors
///
/// When a place holds another plan, two places hold different models of one number (naming both), or models are
/// missing ([`Gaps`]); what was found is copied all the same.
pub fn merge(from: &[Place], to: &Place) -> anyhow::Result<Merged> {
    let first = from.first().context("expected at least one place to gather from, got none")?;
    let planned = Planned::read(first)?;
    for place in &from[1..] {
        let plan = place.read(PLAN_FILE)?.with_context(|| format!("{place} holds no {PLAN_FILE}"))?;
        if plan != planned.plan.to_bytes() {
            bail!("{place} holds the plan of another bank than {first}");
        }
    }
    planned.write(to)?;
    let (mut n_copied, mut n_repeated) = (0, 0);
    for member in 0..planned.plan.n_models() {
        let mut found = whole(to, &planned, member)?.map(|record| (to, record));
        for place in from.iter().filter(|place| place.to_string() != to.to_string()) {
            let Some(record) = whole(place, &planned, member)? else { continue };
            match &found {
                Some((other, same)) if same.sha256 == record.sha256 => n_repeated += 1,
                Some((other, same)) => bail!(
                    "model {member} differs: {other} holds SHA-256 {}, {place} holds {}; remove one of them",
                    same.sha256,
                    record.sha256
                ),
                None => {
                    copy((place, to), &planned, member)?;
                    n_copied += 1;
                    found = Some((place, record));
                }
            }
        }
    }
    Ok(Merged { manifest: seal(to, &planned)?, n_copied, n_repeated })
}

fn whole(place: &Place, planned: &Planned, member: usize) -> anyhow::Result<Option<MemberRecord>> {
    match state(place, planned, member)? {
        State::Whole(record) => Ok(Some(*record)),
        State::Missing => Ok(None),
        State::Unfit(why) => {
            tracing::warn!(member, %place, why, "left out");
            Ok(None)
        }
    }
}

/// Copies the checkpoints behind the first stages of a model, where there are any.
pub(super) fn carry_slices((from, to): (&Place, &Place), member: usize, n_stages: usize) -> anyhow::Result<()> {
    for name in (0..n_stages).map(|stage| slices::kept_file(member, stage)) {
        if let Some(bytes) = from.read(&name)? {
            to.write(&name, &bytes)?;
        }
    }
    Ok(())
}

/// What stands behind its slices, the model, its record last.
fn copy((from, to): (&Place, &Place), planned: &Planned, member: usize) -> anyhow::Result<()> {
    carry_slices((from, to), member, slices::n_stages(planned.plan.design) - 1)?;
    for name in [model_file(member), record_file(member)] {
        let bytes = from.read(&name)?.with_context(|| format!("{name} went away in {from}"))?;
        to.write(&name, &bytes)?;
    }
    Ok(())
}
