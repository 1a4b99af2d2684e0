//! Where answers come from: the pipeline that serves, a running endpoint, a file of predictions.
//!
//! Each source ends in a [`Target`](crate::audit::target::Target) (rows, labels, membership, what it
//! [allows](crate::audit::answers::Allows)) and, for answers that were made elsewhere, in ready
//! [systems](crate::audit::system::System). A source that can be asked again also gives a [`Querier`].

pub mod endpoint;
mod further;
pub mod kept;
pub mod pipeline;
pub mod predictions;
pub mod sides;

use ndarray::ArrayD;

use crate::audit::answers::Answers;

/// Whoever answers further questions: the same rows again, or changed inputs.
pub trait Querier {
    /// Answers `inputs` of shape `(n_rows, row shape…)`. Every row is one query.
    ///
    /// # Errors
    /// [`QueryError`]; rows of a call that failed are not counted.
    fn ask(&mut self, inputs: &ArrayD<f32>) -> Result<Answers, QueryError>;

    /// Queries made so far.
    fn n_asked(&self) -> u64;

    /// Queries that may still be made; `None` where there is no limit.
    fn n_left(&self) -> Option<u64>;
}

/// Why a question was not answered.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The budget does not hold as many.
    #[error("{wanted} queries are wanted, the budget holds {left} more")]
    Budget {
        /// Queries wanted.
        wanted: u64,
        /// Queries left.
        left: u64,
    },
    /// The system refused the rows, or could not be reached.
    #[error("the system did not answer: {what}")]
    Refused {
        /// What it said.
        what: String,
    },
}
