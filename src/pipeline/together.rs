//! Requests of one model that are run as one, and what is tried before a model is ready.
//!
//! A request is begun alone and finished alone: its scores are defended as they are without others. Only what a model
//! answers to the bit alike is put together.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{AssembleError, Facts, Pipeline, PipelineError, Runner};
use crate::defence::{RawScores, ScoresError};
use crate::engine::{CallContext, EngineError};
use crate::protocol::{Answer, Call, Refusal, ReplyPlan};
use crate::tensor::Inputs;

/// How rows of different requests may be run at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Together {
    /// Not at all: rows would not be answered to the bit as each is alone, or it was not tried.
    Never,
    /// A row is answered to the bit alike in every batch of two rows and more; a single one is run twice.
    FromTwo,
    /// A row is answered to the bit alike however it is run.
    Any,
}

/// A request that has been read, on its way to the model.
#[derive(Debug)]
pub struct Begun {
    inputs: Arc<Inputs>,
    plan: ReplyPlan,
    facts: Facts,
    deadline: Option<Instant>,
}

impl Begun {
    /// The refusal of a request whose deadline has passed while it waited.
    #[must_use]
    pub fn late(&self) -> Option<Refusal> {
        super::late(self.deadline)
    }

    /// What has been done for it so far.
    #[must_use]
    pub fn facts(&self) -> Facts {
        self.facts.clone()
    }

    /// Its rows, at least one.
    #[must_use]
    pub fn n_rows(&self) -> usize {
        self.inputs.n_rows()
    }

    /// As many bytes as its values take.
    #[must_use]
    pub fn n_bytes(&self) -> usize {
        self.inputs.n_bytes()
    }

    /// What the model is asked, for whoever helps to answer it.
    #[must_use]
    pub fn inputs(&self) -> Arc<Inputs> {
        Arc::clone(&self.inputs)
    }
}

/// What is done with a model before it is said to be ready.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Preparation {
    /// Whether rows of zeros are run, one, and as many as each of `batches`.
    pub warm_up: bool,
    /// The sizes of the batches that rows of different requests will be put into; empty: they never will be.
    pub batches: Vec<usize>,
}

impl Pipeline {
    /// The same pipeline, tried: [`Together`] is found out for the batches that are to be, and zeros are run. For a model
    /// in another server nothing is done.
    ///
    /// # Errors
    /// [`AssembleError::WarmUp`] when the model or the defence fails. Scores that are not finite are no failure here: a
    /// row of zeros may lie outside of what a model takes.
    pub fn prepared(mut self, preparation: &Preparation) -> Result<Self, AssembleError> {
        if self.remote().is_some() {
            return Ok(self);
        }
        if !preparation.batches.is_empty() {
            self.together = self.tried_together(&preparation.batches);
        }
        if preparation.warm_up {
            let batches = if self.together == Together::Never { &[] } else { &preparation.batches[..] };
            for &rows in [1].iter().chain(batches) {
                self.warmed(rows).map_err(|error| AssembleError::WarmUp { rows, error })?;
            }
        }
        Ok(self)
    }

    fn warmed(&self, rows: usize) -> Result<(), PipelineError> {
        let zeros = Inputs::made_up(&self.spec().inputs, 0..rows, true);
        let zeros = zeros.map_err(|error| EngineError::Input(error.to_string()))?;
        match self.defend(&zeros) {
            Ok(_) | Err(PipelineError::Engine(EngineError::Scores(ScoresError::NonFinite { .. }))) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Whether made-up rows are answered to the bit alike in batches of these sizes and alone. The first row, the last
    /// and one in the middle are looked at.
    fn tried_together(&self, sizes: &[usize]) -> Together {
        let run = |rows: Range<usize>| self.raw(&Inputs::made_up(&self.spec().inputs, rows, false).ok()?).ok();
        let twice = |row: usize| {
            let one = Inputs::made_up(&self.spec().inputs, row..row + 1, false).ok()?;
            self.raw(&Inputs::joined(&[&one, &one])?).ok()
        };
        if self.spec().row_by_row {
            return Together::Never;
        }
        let mut found = Together::Any;
        for &size in [2, 3].iter().chain(sizes) {
            let Some(batch) = run(0..size) else { return Together::Never };
            for row in [0, size / 2, size - 1] {
                let (Some(pair), Some(alone)) = (twice(row), run(row..row + 1)) else { return Together::Never };
                if !(batch.same_row(row, &pair, 0) && batch.same_row(row, &pair, 1)) {
                    return Together::Never;
                }
                if !batch.same_row(row, &alone, 0) {
                    found = Together::FromTwo;
                }
            }
        }
        found
    }

    /// How rows of different requests may be run at once, as [`Self::prepared`] found it.
    #[must_use]
    pub fn together(&self) -> Together {
        self.together
    }

    /// The first part of [`Self::answer`], for a request that is to be run with others. `facts` go along with it; after a
    /// refusal they are the work done until then.
    ///
    /// # Errors
    /// The refusal.
    pub fn begun(&self, call: Call<'_>, context: &CallContext, facts: &mut Facts) -> Result<Begun, Refusal> {
        let (inputs, plan, deadline) = self.begin(call, context, facts)?;
        Ok(Begun { inputs: Arc::new(inputs), plan, facts: std::mem::take(facts), deadline })
    }

    /// The scores of requests that are run as one, still sealed: for each its own.
    ///
    /// # Errors
    /// [`EngineError`] when the model fails on the batch; a request of it may do well alone.
    pub fn infer_together(&self, requests: &[&Begun]) -> Result<Vec<RawScores>, EngineError> {
        let inputs: Vec<&Inputs> = requests.iter().map(|request| &*request.inputs).collect();
        let n_rows: Vec<usize> = requests.iter().map(|request| request.n_rows()).collect();
        let scores = match inputs[..] {
            // As it would be among others.
            [one] if n_rows == [1] && self.together == Together::FromTwo => {
                let pair = Inputs::joined(&[one, one]).ok_or(EngineError::Run)?;
                let mut rows = self.runner.infer(&pair)?.split(&[1, 1]).ok_or(EngineError::Run)?;
                rows.truncate(1);
                return Ok(rows);
            }
            [one] => self.runner.infer(one)?,
            _ => self.runner.infer(&Inputs::joined(&inputs).ok_or(EngineError::Run)?)?,
        };
        scores.split(&n_rows).ok_or(EngineError::Run)
    }

    /// The parts of so many rows that may be run at once, in order: joined, their scores are those of the whole, to the bit.
    #[must_use]
    pub fn blocks(&self, n_rows: usize) -> Vec<Range<usize>> {
        match &self.runner {
            Runner::Here(engine) => engine.blocks(n_rows),
            Runner::Upstream(_) => std::iter::once(0..n_rows).collect(),
        }
    }

    /// The scores of one of these parts, still sealed.
    ///
    /// # Errors
    /// [`EngineError`] when the model fails on it.
    pub fn infer_block(&self, inputs: &Inputs, rows: Range<usize>) -> Result<RawScores, EngineError> {
        let start = rows.start;
        let part = inputs.rows(rows).ok_or(EngineError::Run)?;
        self.runner.infer(&part).map_err(|error| error.of_part(start))
    }

    /// The last part of [`Self::answer`]: the scores of a request to bytes, by way of the defence. `infer` is the time that
    /// its batch took.
    pub fn finished(
        &self,
        request: Begun,
        raw: Result<RawScores, EngineError>,
        infer: Duration,
    ) -> (Result<Answer, Refusal>, Facts) {
        let Begun { plan, mut facts, .. } = request;
        facts.infer = infer;
        let answer = self.finish(raw, plan, &mut facts);
        (answer, facts)
    }
}
