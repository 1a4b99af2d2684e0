//! A call in any dialect, and its two crossings: [`decode`] splits it at once into [`Inputs`] and a [`ReplyPlan`], which
//! meet again in [`encode`]. That takes [`Defended`] scores, whatever the dialect.

use std::time::Duration;

use super::{Answer, ModelDescription, Passed, Refusal, oip, predict};
use crate::defence::Defended;
use crate::tensor::Inputs;

/// The body of an inference request with what says how to read it.
#[derive(Clone)]
pub enum Call<'a> {
    /// Open Inference Protocol v2 over REST.
    Oip {
        /// The value of `Inference-Header-Content-Length`.
        header_length: Option<&'a str>,
        /// The body.
        body: &'a [u8],
    },
    /// Open Inference Protocol v2 over gRPC: an encoded `inference.ModelInferRequest`.
    #[cfg(feature = "serve")]
    Grpc(bytes::Bytes),
    /// `:predict`, as TensorFlow Serving and KServe V1 speak it.
    Predict(&'a [u8]),
}

impl std::fmt::Debug for Call<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Call")
    }
}

/// How the reply to a call will be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplyPlan(Kind);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Oip(oip::ReplyPlan),
    #[cfg(feature = "serve")]
    Grpc(super::grpc::ReplyPlan),
    Predict(predict::ReplyPlan),
}

impl ReplyPlan {
    /// How long the request may take by its own word, the parameter `timeout`.
    #[must_use]
    pub fn timeout(&self) -> Option<Duration> {
        match &self.0 {
            Kind::Oip(plan) => plan.timeout,
            #[cfg(feature = "serve")]
            Kind::Grpc(plan) => plan.timeout,
            Kind::Predict(_) => None,
        }
    }
}

impl ReplyPlan {
    /// Which of [`ModelDescription::passed`] the reply will hold.
    #[must_use]
    pub fn wanted_to_pass(&self, model: &ModelDescription) -> Vec<usize> {
        match &self.0 {
            Kind::Oip(plan) => plan.wanted_to_pass(model),
            #[cfg(feature = "serve")]
            Kind::Grpc(plan) => plan.wanted_to_pass(model),
            // These dialects have one output.
            Kind::Predict(_) => Vec::new(),
        }
    }

    /// The plan with what passes by the defence.
    #[must_use]
    pub fn with_passed(mut self, tensors: Passed) -> Self {
        match &mut self.0 {
            Kind::Oip(plan) => plan.passed = tensors,
            #[cfg(feature = "serve")]
            Kind::Grpc(plan) => plan.passed = tensors,
            Kind::Predict(_) => {}
        }
        self
    }
}

/// Reads a call into checked inputs, in the model's order, and the plan of its reply.
///
/// # Errors
/// A bad request that says what was expected and what came; never a value.
pub fn decode(model: &ModelDescription, call: Call<'_>) -> Result<(Inputs, ReplyPlan), Refusal> {
    Ok(match call {
        Call::Oip { header_length, body } => {
            let (inputs, plan) = oip::decode_infer(model, header_length, body)?;
            (inputs, ReplyPlan(Kind::Oip(plan)))
        }
        #[cfg(feature = "serve")]
        Call::Grpc(message) => {
            let (inputs, plan) = super::grpc::decode_infer(model, message)?;
            (inputs, ReplyPlan(Kind::Grpc(plan)))
        }
        Call::Predict(body) => {
            let (inputs, plan) = predict::decode(model, body)?;
            (inputs, ReplyPlan(Kind::Predict(plan)))
        }
    })
}

/// Writes the reply that was planned, in the dialect of its call.
#[must_use]
pub fn encode(model: &ModelDescription, plan: ReplyPlan, defended: &Defended) -> Answer {
    match plan.0 {
        Kind::Oip(plan) => oip::encode_infer(model, plan, defended),
        #[cfg(feature = "serve")]
        Kind::Grpc(plan) => super::grpc::encode_infer(model, plan, defended),
        Kind::Predict(plan) => predict::encode(model, &plan, defended),
    }
}
