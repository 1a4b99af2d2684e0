//! A training on disk: weights, the optimizer's state, and where it stands.
//!
//! One file: a line that names the format, the SHA-256 of the rest, then burn's record (named MessagePack,
//! full precision) of `(weights, optimizer, identity and position as JSON)`. The digest finds a damaged file before
//! burn reads it; it is no signature, so a checkpoint is to be trusted as much as whoever wrote it.

use anyhow::{Context, bail};
use burn::module::Module;
use burn::optim::Optimizer;
use burn::record::{FullPrecisionSettings, NamedMpkBytesRecorder, Recorder};
use burn::tensor::backend::BackendTypes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Training;
use super::network::Network;
use super::train::{AdamOf, Position, Recipe};

const MAGIC: &[u8] = b"sordino.checkpoint 1\n";
const DIGEST_BYTES: usize = 32;

type NetworkRecord = <Network<Training> as Module<Training>>::Record;
type OptimizerRecord = <AdamOf as Optimizer<Network<Training>, Training>>::Record;

/// What a checkpoint belongs to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// The recipe.
    pub recipe: Recipe,
    /// Digest of the dataset.
    pub dataset: String,
    /// Digest of the split.
    pub split: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    identity: Identity,
    position: Position,
}

/// A checkpoint as read.
pub(super) struct Saved {
    pub(super) network: NetworkRecord,
    pub(super) optimizer: OptimizerRecord,
    pub(super) position: Position,
}

fn recorder() -> NamedMpkBytesRecorder<FullPrecisionSettings> {
    NamedMpkBytesRecorder::new()
}

pub(super) fn write(
    network: NetworkRecord,
    optimizer: OptimizerRecord,
    identity: &Identity,
    position: &Position,
) -> anyhow::Result<Vec<u8>> {
    let state = serde_json::to_string(&State { identity: identity.clone(), position: position.clone() })?;
    let payload = Recorder::<Training>::record(&recorder(), (network, optimizer, state), ())
        .map_err(|error| anyhow::anyhow!("cannot write the checkpoint: {error}"))?;
    Ok([MAGIC, &Sha256::digest(&payload), &payload].concat())
}

pub(super) fn read(
    bytes: &[u8],
    identity: &Identity,
    device: &<Training as BackendTypes>::Device,
) -> anyhow::Result<Saved> {
    let Some((digest, payload)) = bytes.strip_prefix(MAGIC).and_then(|rest| rest.split_at_checked(DIGEST_BYTES)) else {
        bail!("expected a checkpoint of format version 1, got other bytes");
    };
    if Sha256::digest(payload).as_slice() != digest {
        bail!("the checkpoint is damaged: its bytes do not have the digest that it names");
    }
    let (network, optimizer, state): (NetworkRecord, OptimizerRecord, String) =
        Recorder::<Training>::load(&recorder(), payload.to_vec(), device)
            .map_err(|error| anyhow::anyhow!("cannot read the checkpoint: {error}"))?;
    let State { identity: saved, position } = serde_json::from_str(&state).context("the checkpoint's state")?;
    let differences = identity.recipe.differences(&saved.recipe);
    if !differences.is_empty() {
        bail!("the checkpoint is of another recipe: {}", differences.join("; "));
    }
    if (&saved.dataset, &saved.split) != (&identity.dataset, &identity.split) {
        bail!(
            "the checkpoint is of other rows: expected dataset {} and split {}, got {} and {}",
            identity.dataset,
            identity.split,
            saved.dataset,
            saved.split
        );
    }
    Ok(Saved { network, optimizer, position })
}
