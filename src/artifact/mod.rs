//! Artifacts: bytes on disk to checked values, and back. Reads no files itself: callers hand in bytes.
//!
//! An artifact names the SHA-256 of the model that it was fitted to ([`ModelDigest`]), so that a pair that does
//! not belong together is refused. Values that come out of here have passed the checks of
//! [`crate::defence`].

pub mod centroids;
pub mod inclusion;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::defence::{BankError, CentroidError};

/// Why bytes are no artifact of ours.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// The bytes are no safetensors file.
    #[error("not a safetensors file: {0}")]
    Container(String),
    /// The file is one, but not of our format or of another version of it.
    #[error("expected format '{expected}', got {got}")]
    Format {
        /// What this version reads.
        expected: String,
        /// What the file says.
        got: String,
    },
    /// The metadata entry is missing or does not parse.
    #[error("metadata: {0}")]
    Metadata(String),
    /// A tensor is missing or of another shape or type.
    #[error("tensor '{name}': expected {expected}, got {got}")]
    Tensor {
        /// The tensor.
        name: &'static str,
        /// What this version reads.
        expected: String,
        /// What the file holds.
        got: String,
    },
    /// The values break a rule.
    #[error(transparent)]
    Centroids(#[from] CentroidError),
    /// The inlier rows break a rule.
    #[error(transparent)]
    Bank(#[from] BankError),
    /// No SHA-256 in hexadecimal.
    #[error("expected 64 hexadecimal digits of a SHA-256, got {got} characters")]
    Digest {
        /// Length of what came.
        got: usize,
    },
}

/// The SHA-256 of a model file: the identity that artifacts are bound to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ModelDigest([u8; 32]);

impl ModelDigest {
    /// The digest of a model file's bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl fmt::Display for ModelDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ModelDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ModelDigest({self})")
    }
}

impl FromStr for ModelDigest {
    type Err = ArtifactError;

    fn from_str(text: &str) -> Result<Self, ArtifactError> {
        let wrong = || ArtifactError::Digest { got: text.len() };
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| wrong())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| wrong())?;
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for ModelDigest {
    type Error = ArtifactError;

    fn try_from(text: String) -> Result<Self, ArtifactError> {
        text.parse()
    }
}

impl From<ModelDigest> for String {
    fn from(digest: ModelDigest) -> Self {
        digest.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_hexadecimal_both_ways() {
        let digest = ModelDigest::of(b"abc");
        assert_eq!(digest.to_string(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(digest.to_string().parse::<ModelDigest>().unwrap(), digest);
        for wrong in ["", "ba", "ü", &"g".repeat(64), &"é".repeat(32), &"+1".repeat(32)] {
            assert!(wrong.parse::<ModelDigest>().is_err(), "{wrong}");
        }
    }
}
