//! Poisson sampling: each row enters a step with the same probability, whatever the others do.

use rand::RngCore;
use rand_chacha::ChaCha8Rng;

/// The places, of `n_rows`, that enter a step, in rising order: each with probability `rate`, independently.
///
/// One draw of 64 bits a row, so that whether a row is in does not depend on how many rows there are before it
/// being in. The probability is exact to 2⁻⁶⁴.
pub(in crate::lab) fn poisson(n_rows: usize, rate: f64, rng: &mut ChaCha8Rng) -> Vec<usize> {
    // 2^64; a rate of 1 saturates at the largest u64, and is told apart.
    let threshold = (rate * 18_446_744_073_709_551_616.0) as u64;
    (0..n_rows).filter(|_| rng.next_u64() < threshold || rate >= 1.0).collect()
}
