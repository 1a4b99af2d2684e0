//! The first words with a server: what it says of its model, and the plan that follows.

use std::sync::Arc;
use std::time::{Duration, Instant};

use thiserror::Error;

use super::connection::Reply;
use super::grpc::Line;
use super::replica::{Counters, Replica};
use super::{MAX_ABOUT_BYTES, RestCall, Upstream, UpstreamConfig, probe};
use crate::engine::upstream::grpc;
use crate::engine::upstream::metadata::{self, Found};
use crate::engine::upstream::{Dialect, Fault, Plan, PlanError};

/// Pause between two attempts while no server answers.
const PAUSE: Duration = Duration::from_millis(500);

/// Why an upstream cannot be served.
#[derive(Debug, Error)]
pub enum StartError {
    /// No server answered in time.
    #[error("no answer from {servers} within {} seconds: {last}", .waited.as_secs_f64())]
    Silent {
        /// The addresses.
        servers: String,
        /// How long was waited.
        waited: Duration,
        /// The last failure.
        last: Fault,
    },
    /// It answered, but not with the model.
    #[error("{server} answered {path} with status {status}{hint}")]
    NoModel {
        /// The address.
        server: String,
        /// What was asked.
        path: String,
        /// The status.
        status: u16,
        /// What may be the reason.
        hint: &'static str,
    },
    /// It answered over gRPC, but not with the model.
    #[error(
        "{server} does not tell about the model '{model}' over gRPC: {fault}; is its name right, and is it loaded?"
    )]
    NoModelByGrpc {
        /// The address.
        server: String,
        /// What was asked.
        model: String,
        /// How it failed.
        fault: Fault,
    },
    /// TLS cannot be spoken as it is set up; nobody was asked.
    #[error(transparent)]
    Tls(Fault),
    /// The model cannot be served as declared.
    #[error(transparent)]
    Plan(#[from] PlanError),
}

/// Waits for a server, reads what it says of the model, and begins to watch its health. Needs a runtime.
///
/// # Errors
/// [`StartError`].
pub async fn connect(config: UpstreamConfig) -> Result<Arc<Upstream>, StartError> {
    let started = Instant::now();
    let mut said = String::new();
    loop {
        match find_any(&config).await {
            Ok(found) => {
                let plan = Plan::new(&config.declared, found)?;
                let upstream = Upstream::new(plan, config.clone()).map_err(|fault| silent(&config, fault))?;
                probe::start(&upstream);
                return Ok(upstream);
            }
            // A model that cannot be served as declared will not become one that can.
            Err(error @ (StartError::Plan(_) | StartError::Tls(_))) => return Err(error),
            Err(error) if started.elapsed() >= config.start_timeout => return Err(error),
            Err(error) => {
                let text = error.to_string();
                if said != text {
                    tracing::info!(error = text, "waiting for the upstream");
                    said = text;
                }
                tokio::time::sleep(PAUSE.min(config.start_timeout)).await;
            }
        }
    }
}

/// The model as the first server that answers describes it.
async fn find_any(config: &UpstreamConfig) -> Result<Found, StartError> {
    let mut last = None;
    for target in &config.targets {
        let replica = Replica::new(target.clone(), config).map_err(|fault| silent(config, fault))?;
        let asker = Asker { config, replica, counters: Counters::default() };
        match asker.find().await {
            Ok(found) => return Ok(found),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| silent(config, Fault::Unreachable)))
}

fn silent(config: &UpstreamConfig, last: Fault) -> StartError {
    if matches!(last, Fault::Tls(_)) {
        return StartError::Tls(last);
    }
    let servers: Vec<String> = config.targets.iter().map(super::Target::shown).collect();
    StartError::Silent { servers: servers.join(", "), waited: config.start_timeout, last }
}

struct Asker<'a> {
    config: &'a UpstreamConfig,
    replica: Replica,
    counters: Counters,
}

impl Asker<'_> {
    async fn get(&self, path: &str) -> Result<Reply, StartError> {
        let silent = |fault| silent(self.config, fault);
        let request = RestCall::get(path).request(&self.replica.target).map_err(silent)?;
        let exchange = self.replica.exchange(self.config, &self.counters, MAX_ABOUT_BYTES, request);
        let reply = tokio::time::timeout(self.config.timeout, exchange).await;
        reply.unwrap_or(Err(Fault::Timeout)).map_err(silent)
    }

    async fn wanted(&self, path: &str) -> Result<Reply, StartError> {
        let reply = self.get(path).await?;
        if reply.status == 200 {
            return Ok(reply);
        }
        let hint = self.hint().await;
        let server = self.replica.target.shown();
        Err(StartError::NoModel { server, path: path.to_owned(), status: reply.status, hint })
    }

    /// People mix the protocols up: whether the server knows the model by another one.
    async fn hint(&self) -> &'static str {
        let model = &self.config.declared.model;
        let v1 = self.config.declared.dialect != Dialect::OipHttp;
        let other = if v1 { format!("/v2/models/{model}") } else { format!("/v1/models/{model}") };
        let knows = self.get(&other).await.is_ok_and(|reply| reply.status == 200);
        match (knows, v1) {
            (true, true) => "; it knows the model by the Open Inference Protocol: try the protocol oip-http",
            (true, false) => "; it knows the model by V1: try the protocol kserve-v1 or tfserving",
            (false, _) => "; is the model's name right, and is it loaded?",
        }
    }

    async fn find_by_grpc(&self, line: &Line) -> Result<Found, StartError> {
        let declared = &self.config.declared;
        let asked = line.metadata(&declared.model, declared.version.as_deref());
        let answer = tokio::time::timeout(self.config.timeout, asked).await.unwrap_or(Err(Fault::Timeout));
        match answer {
            Ok(metadata) => Ok(grpc::found(metadata)?),
            Err(fault @ (Fault::Timeout | Fault::BrokenOff | Fault::TlsEnded(_))) => Err(silent(self.config, fault)),
            Err(fault) if fault.is_unsent() => Err(silent(self.config, fault)),
            Err(fault) => Err(StartError::NoModelByGrpc {
                server: self.replica.target.shown(),
                model: declared.model.clone(),
                fault,
            }),
        }
    }

    async fn find(&self) -> Result<Found, StartError> {
        if let Some(line) = &self.replica.line {
            return self.find_by_grpc(line).await;
        }
        let declared = &self.config.declared;
        let model = &declared.model;
        let version = declared.version.as_ref().map(|version| format!("/versions/{version}")).unwrap_or_default();
        match declared.dialect {
            Dialect::OipHttp | Dialect::OipGrpc => {
                let server = self.get("/v2").await?;
                let binary = metadata::has_extension(&server.body, "binary_tensor_data");
                let reply = self.wanted(&format!("/v2/models/{model}{version}")).await?;
                Ok(metadata::oip(&reply.body, binary)?)
            }
            Dialect::TfServing => {
                let reply = self.wanted(&format!("/v1/models/{model}{version}/metadata")).await?;
                let signature = declared.signature.as_deref().unwrap_or("serving_default");
                Ok(metadata::tfserving(&reply.body, signature)?)
            }
            Dialect::KserveV1 => {
                self.wanted(&format!("/v1/models/{model}")).await?;
                Ok(Found { platform: "kserve_v1".to_owned(), ..Found::default() })
            }
        }
    }
}
