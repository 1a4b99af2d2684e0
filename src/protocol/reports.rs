//! What a server reports about its models, as plain values: the dialects write them down, the server fills them in.
//! About work and states, never about scores or inputs.

use std::time::Duration;

/// How often something happened, and how long it took in all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// How often.
    pub count: u64,
    /// In all.
    pub time: Duration,
}

impl Tally {
    /// Nanoseconds in all.
    #[must_use]
    pub fn nanos(&self) -> u64 {
        u64::try_from(self.time.as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Counts and times of one version of a model since it was loaded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModelStatistics {
    /// The model.
    pub name: String,
    /// Its version.
    pub version: String,
    /// When it last answered, in milliseconds since 1970; 0 before.
    pub last_inference: u64,
    /// Rows answered.
    pub rows: u64,
    /// Runs of the model.
    pub runs: u64,
    /// Requests answered, from the head read to the answer ready.
    pub success: Tally,
    /// Requests refused or failed.
    pub fail: Tally,
    /// Waiting for a compute thread.
    pub queue: Tally,
    /// Bytes to inputs.
    pub input: Tally,
    /// Inputs to raw scores and raw scores to defended ones.
    pub infer: Tally,
    /// Defended scores to bytes.
    pub output: Tally,
}

/// One version of a model in the index of the repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexEntry {
    /// The model.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Whether it answers.
    pub ready: bool,
    /// Why it does not.
    pub reason: String,
}

impl IndexEntry {
    /// The state by its name on the wire.
    #[must_use]
    pub fn state(&self) -> &'static str {
        if self.ready { "READY" } else { "UNAVAILABLE" }
    }
}

/// Which extensions of the inference protocol a server speaks, beside those that it always does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Extensions {
    /// Statistics are shown to clients.
    pub statistics: bool,
    /// The repository may be read and changed by clients.
    pub repository: bool,
}

impl Extensions {
    /// Their names, only of what is served.
    #[must_use]
    pub fn names(self) -> Vec<&'static str> {
        let always = ["binary_tensor_data", "classification", "model_configuration"];
        let mut names = always.to_vec();
        names.extend(self.statistics.then_some("statistics"));
        names.extend(self.repository.then_some("model_repository"));
        names
    }
}
