//! Where the noise comes from, and how it is put on a sum.

use std::fmt;

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::StandardNormal;
use sha2::{Digest, Sha256};

use crate::data::hex;
use crate::lab::streams;

/// Least bytes of a secret: 256 bits, so that its digest in a record gives nothing to guess at.
const MIN_SECRET_BYTES: usize = 32;

/// What the samples and the noise of a private training are drawn from.
///
/// Who knows it can draw the same noise and take it away: the promise holds against those who do not. The key of a
/// recipe's seed is for experiments only, since the seed stands in the run record.
#[derive(Clone, PartialEq, Eq)]
pub struct NoiseKey([u8; 32]);

/// Without the key.
impl fmt::Debug for NoiseKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NoiseKey(..)")
    }
}

impl NoiseKey {
    /// The key of a recipe's seed: known to whoever reads the run record.
    #[must_use]
    pub fn of_seed(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed).get_seed())
    }

    /// The key of a secret, such as 32 bytes from the operating system's generator.
    ///
    /// # Errors
    ///
    /// When it has fewer than 32 bytes.
    pub fn of_secret(secret: &[u8]) -> anyhow::Result<Self> {
        let n_bytes = secret.len();
        anyhow::ensure!(
            n_bytes >= MIN_SECRET_BYTES,
            "expected a secret of at least {MIN_SECRET_BYTES} bytes, got {n_bytes}"
        );
        Ok(Self(Sha256::new_with_prefix(b"sordino dp key 1\n").chain_update(secret).finalize().into()))
    }

    /// The key of one training: of this key, and of everything that decides what the training's steps are.
    ///
    /// Noise that is drawn twice can be taken away: of two trainings with the same noise that differ in one row, in
    /// sigma or in anything else, a combination of the weights is free of it. So no two trainings draw from one key.
    #[must_use]
    pub fn of_training(&self, training: &str) -> Self {
        let hash = Sha256::new_with_prefix(b"sordino dp training key 1\n").chain_update(self.0);
        Self(hash.chain_update(training).finalize().into())
    }

    /// What a recipe may say of a secret key: tells whether a resumed training has the same, and nothing else.
    #[must_use]
    pub fn digest(&self) -> String {
        hex(&Sha256::new_with_prefix(b"sordino dp digest 1\n").chain_update(self.0).finalize())
    }

    /// The generator of a step's sample.
    pub(in crate::lab) fn sampling(&self, step: u64) -> ChaCha8Rng {
        self.stream(streams::POISSON + step)
    }

    /// The generator of a step's noise.
    pub(in crate::lab) fn noise(&self, step: u64) -> ChaCha8Rng {
        self.stream(streams::NOISE + step)
    }

    /// What is drawn for single rows in a step, for one purpose out of [`streams`].
    pub(in crate::lab) fn rows(&self, purpose: u64, step: u64) -> RowKeys {
        let hash = Sha256::new_with_prefix(b"sordino dp row keys 1\n").chain_update(self.0);
        RowKeys(hash.chain_update(purpose.to_le_bytes()).chain_update(step.to_le_bytes()).finalize().into())
    }

    fn stream(&self, stream: u64) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::from_seed(self.0);
        rng.set_stream(stream);
        rng
    }
}

/// A generator for each row, by its number: what is drawn for a row does not depend on which other rows there are.
///
/// One generator that goes through the rows of a sample would draw otherwise for every row behind one that is left
/// out, and so move the sum of clipped gradients by more than one row's clipping norm.
pub(in crate::lab) struct RowKeys([u8; 32]);

impl RowKeys {
    /// The generator of each of these rows.
    pub(in crate::lab) fn of(&self, rows: &[usize]) -> Vec<ChaCha8Rng> {
        let of_row = |&row: &usize| {
            let mut rng = ChaCha8Rng::from_seed(self.0);
            rng.set_stream(row as u64);
            rng
        };
        rows.iter().map(of_row).collect()
    }
}

/// Normal numbers about zero, by the ziggurat, drawn in f64 and rounded to f32 once.
///
/// This is no mechanism that is hardened against what floating-point numbers give away (Mironov, CCS 2012).
pub(super) fn normals(rng: &mut ChaCha8Rng, n_values: usize, deviation: f64) -> Vec<f32> {
    (0..n_values).map(|_| (rng.sample::<f64, _>(StandardNormal) * deviation) as f32).collect()
}
