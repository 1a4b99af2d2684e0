//! Who draws from which stream of a seed's generator, so that no two purposes share random numbers.
//!
//! Stream 0 draws splits (`data::Split`). The streams of an epoch or a step are counted up from the numbers here.

/// Initial weights.
pub const WEIGHTS: u64 = 1;
/// The order of the rows: plus the epoch.
pub const ORDER: u64 = 2;
/// Dropout: plus the step.
pub const DROPOUT: u64 = 1 << 32;
/// Augmentation: plus the step.
pub const AUGMENTATION: u64 = 2 << 32;
/// Mixup: plus the step.
pub const MIXUP: u64 = 3 << 32;
/// Poisson sampling: plus the step.
pub const POISSON: u64 = 4 << 32;
/// The noise of differential privacy: plus the step.
pub const NOISE: u64 = 5 << 32;
/// Which row trains which model of a bank.
pub const INCLUSION: u64 = 6 << 32;
