//! A training on disk: weights, the optimizer's state, and where it stands.
//!
//! One file: a line that names the format, the SHA-256 of the rest, then burn's record (named MessagePack,
//! full precision) of `((weights, weights of the best epoch), optimizer, identity and position as JSON)`. The digest finds a damaged file before
//! burn reads it; it is no signature, so a checkpoint is to be trusted as much as whoever wrote it.

use anyhow::{Context, bail};
use burn::module::Module;
use burn::record::{FullPrecisionSettings, NamedMpkBytesRecorder, Recorder};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Compute;
use super::device::OpenDevice;
use super::network::Weights;
use super::recipe::Recipe;
use super::train::{OptimizerRecord, Position};

const MAGIC: &[u8] = b"sordino.checkpoint 3\n";
const DIGEST_BYTES: usize = 32;

pub(super) type WeightsRecord = <Weights<Compute> as Module<Compute>>::Record;
/// The weights as they stand, and those of the best epoch.
pub(super) type BothWeights = (WeightsRecord, Option<WeightsRecord>);

/// What a checkpoint belongs to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// The recipe.
    pub recipe: Recipe,
    /// Digest of the dataset.
    pub dataset: String,
    /// Digest of which rows are learned.
    pub rows: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    identity: Identity,
    position: Position,
}

/// A checkpoint as read.
pub(super) struct Saved {
    pub(super) weights: WeightsRecord,
    /// Those of the best epoch, where early stopping looks for it.
    pub(super) best: Option<WeightsRecord>,
    pub(super) optimizer: OptimizerRecord,
    pub(super) position: Position,
}

fn recorder() -> NamedMpkBytesRecorder<FullPrecisionSettings> {
    NamedMpkBytesRecorder::new()
}

pub(super) fn write(
    weights: BothWeights,
    optimizer: OptimizerRecord,
    identity: &Identity,
    position: &Position,
) -> anyhow::Result<Vec<u8>> {
    let state = serde_json::to_string(&State { identity: identity.clone(), position: position.clone() })?;
    let payload = Recorder::<Compute>::record(&recorder(), (weights, optimizer, state), ())
        .map_err(|error| anyhow::anyhow!("cannot write the checkpoint: {error}"))?;
    Ok([MAGIC, &Sha256::digest(&payload), &payload].concat())
}

fn load(payload: &[u8], device: &burn::DispatchDevice) -> anyhow::Result<(BothWeights, OptimizerRecord, String)> {
    Recorder::<Compute>::load(&recorder(), payload.to_vec(), device)
        .map_err(|error| anyhow::anyhow!("cannot read the checkpoint: {error}"))
}

/// The recipe that a checkpoint was made with.
///
/// # Errors
///
/// When the bytes are no checkpoint.
pub fn recipe(bytes: &[u8]) -> anyhow::Result<Recipe> {
    let device = super::device::Device::Cpu.open()?;
    let (_, _, state) = load(payload(bytes)?, &device.evaluation())?;
    let State { identity, .. } = serde_json::from_str(&state).context("the checkpoint's state")?;
    Ok(identity.recipe)
}

/// Whether bytes say that they are a checkpoint, of any version.
#[must_use]
pub fn is_checkpoint(bytes: &[u8]) -> bool {
    bytes.starts_with(b"sordino.checkpoint ")
}

/// Whether bytes are a checkpoint of this version as it was written; of which training is not looked at.
///
/// # Errors
///
/// When they are not, in words.
pub fn check(bytes: &[u8]) -> anyhow::Result<()> {
    payload(bytes).map(drop)
}

/// What is behind the format's name and the digest.
fn payload(bytes: &[u8]) -> anyhow::Result<&[u8]> {
    let Some((digest, payload)) = bytes.strip_prefix(MAGIC).and_then(|rest| rest.split_at_checked(DIGEST_BYTES)) else {
        bail!("expected a checkpoint of format version 3, got other bytes");
    };
    if Sha256::digest(payload).as_slice() != digest {
        bail!("the checkpoint is damaged: its bytes do not have the digest that it names");
    }
    Ok(payload)
}

pub(super) fn read(bytes: &[u8], identity: &Identity, device: &OpenDevice) -> anyhow::Result<Saved> {
    let payload = payload(bytes)?;
    // Weights live where gradients are kept, the optimizer's state where they are not.
    let ((weights, best), _, state) = load(payload, &device.training())?;
    let (_, optimizer, _) = load(payload, &device.evaluation())?;
    let State { identity: saved, position } = serde_json::from_str(&state).context("the checkpoint's state")?;
    let differences = identity.recipe.differences(&saved.recipe);
    if !differences.is_empty() {
        bail!("the checkpoint is of another recipe: {}", differences.join("; "));
    }
    if (&saved.dataset, &saved.rows) != (&identity.dataset, &identity.rows) {
        bail!(
            "the checkpoint is of other rows: expected dataset {} and rows {}, got {} and {}",
            identity.dataset,
            identity.rows,
            saved.dataset,
            saved.rows
        );
    }
    Ok(Saved { weights, best, optimizer, position })
}
