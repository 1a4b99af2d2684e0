//! Which paths around the defence a server leaves open to whoever reaches it: some twenty harmless questions, none of which runs
//! the model, loads one or changes a setting.
//!
//! The numbers are those of the table in `docs/upstream.md`. What cannot be told from outside is said to be unknown, never
//! closed.

use std::time::Duration;

use hyper::body::Bytes;
use hyper::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue};
use serde::Serialize;
use serde_json::Value;
use tonic::transport::Endpoint as GrpcEndpoint;

use super::ClientError;
use super::endpoint::Endpoint;
use super::http::{Call, Connection, Reply};
use super::inference_client::grpc_inference_service_client::GrpcInferenceServiceClient;
use crate::protocol::grpc::messages::ServerLiveRequest;

/// Whether a path is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Undefended outputs can leave by it, or what they are made from can be changed.
    Open,
    /// It is not there, or refused.
    Closed,
    /// It cannot be told from outside.
    Unknown,
}

/// What was found out about one path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The number of the path.
    pub path: u8,
    /// What it is.
    pub name: &'static str,
    /// Whether it is open.
    pub state: State,
    /// What was seen; names and statuses, never a body.
    pub seen: String,
    /// What closes it.
    pub remedy: &'static str,
}

/// What was found out about a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Findings {
    /// Whether anything answered.
    pub reachable: bool,
    /// The name that the server gives itself.
    pub server: Option<String>,
    /// One for each path, by number.
    pub findings: Vec<Finding>,
}

impl Findings {
    /// How many paths are open.
    #[must_use]
    pub fn n_open(&self) -> usize {
        self.findings.iter().filter(|finding| finding.state == State::Open).count()
    }
}

/// Whom to ask.
#[derive(Debug, Clone)]
pub struct Subject {
    /// The server's REST address.
    pub rest: Endpoint,
    /// Its gRPC address, `host:port`; none: the port after that of REST.
    pub grpc: Option<String>,
    /// The address of its metrics; none: the port after that of gRPC.
    pub metrics: Option<Endpoint>,
    /// The model that is defended; none: what can be told without one.
    pub model: Option<String>,
    /// How long one question may take.
    pub timeout: Duration,
}

/// A name that no model has.
const NO_MODEL: &str = "sordino-check-no-such-model";

/// Asks a server which paths are open.
///
/// # Errors
/// [`ClientError::BadUrl`] where a name cannot stand in a path. A server that cannot be reached is a finding, not an error.
pub async fn check(subject: &Subject) -> Result<Findings, ClientError> {
    let asker = Asker { subject };
    let live = asker.get("/v2/health/live").await?;
    let server = asker.get("/v2").await?;
    let reachable = live.is_some();
    let about = json(server.as_ref());
    let name = about["name"].as_str().map(|name| name.chars().filter(|c| !c.is_control()).take(64).collect());
    let extensions: Vec<String> = about["extensions"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|name| Some(name.as_str()?.to_owned()))
        .collect();
    let has = |extension: &str| extensions.iter().any(|name| name == extension);
    let findings = vec![
        asker.shared_memory(&has).await?,
        asker.classification(&has),
        asker
            .routes_of_model(3, "generate and streaming routes", &["generate", "generate_stream", "infer_stream"])
            .await?,
        asker.grpc().await,
        asker.outputs().await?,
        asker.models().await?,
        asker.repository().await?,
        asker.explain().await?,
        asker.settings(9, "trace and log settings", &["/v2/trace/setting", "/v2/logging"]).await?,
        direct(reachable),
        asker.settings(11, "routes of other platforms, which redirect", &["/ping", "/invocations", "/models"]).await?,
        asker.figures().await?,
        asker.settings(13, "other protocols and pages", &["/v1/models", "/v2/docs", "/openai/v1/models"]).await?,
        asker.compression().await?,
        asker.cache().await?,
    ];
    Ok(Findings { reachable, server: name, findings })
}

struct Asker<'a> {
    subject: &'a Subject,
}

fn finding(path: u8, name: &'static str, state: State, seen: impl Into<String>, remedy: &'static str) -> Finding {
    Finding { path, name, state, seen: seen.into(), remedy }
}

fn direct(reachable: bool) -> Finding {
    let (state, seen) = if reachable {
        (State::Open, "it answers whoever asks from here")
    } else {
        (State::Closed, "nothing answers from here")
    };
    let remedy = "bind it to loopback beside the proxy, or let a network policy admit the proxy alone";
    finding(10, "the server itself, reached directly", state, seen, remedy)
}

fn json(reply: Option<&Reply>) -> Value {
    reply.and_then(|reply| serde_json::from_slice(&reply.body).ok()).unwrap_or_default()
}

/// Whether a route that takes POST is there, by the answer to a GET: 405 says so.
fn takes_post(status: u16) -> bool {
    status == 405 || status == 200 || status == 400
}

impl Asker<'_> {
    /// The answer, if the server can be reached.
    async fn send(&self, call: &Call) -> Result<Option<Reply>, ClientError> {
        self.send_to(&self.subject.rest, call).await
    }

    async fn send_to(&self, endpoint: &Endpoint, call: &Call) -> Result<Option<Reply>, ClientError> {
        let exchange = async { Connection::open(endpoint).await?.send(call).await };
        match tokio::time::timeout(self.subject.timeout, exchange).await {
            Ok(Ok(reply)) => Ok(Some(reply)),
            Ok(Err(error @ ClientError::BadUrl { .. })) => Err(error),
            Ok(Err(_)) | Err(_) => Ok(None),
        }
    }

    fn at(&self, path: &str) -> String {
        format!("{}{path}", self.subject.rest.path())
    }

    async fn get(&self, path: &str) -> Result<Option<Reply>, ClientError> {
        self.send(&Call::get(&self.at(path))?).await
    }

    async fn status(&self, path: &str) -> Result<Option<u16>, ClientError> {
        Ok(self.get(path).await?.map(|reply| reply.status))
    }

    async fn post(&self, path: &str) -> Result<Option<Reply>, ClientError> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self.send(&Call::post(&self.at(path), headers, Bytes::from_static(b"{}"))?).await
    }

    async fn shared_memory(&self, has: &impl Fn(&str) -> bool) -> Result<Finding, ClientError> {
        let name = "outputs into shared memory";
        let remedy = "restrict the shared-memory API; share no /dev/shm and no IPC namespace with clients";
        let mut open = Vec::new();
        for (path, extension) in [
            ("/v2/systemsharedmemory/status", "system_shared_memory"),
            ("/v2/cudasharedmemory/status", "cuda_shared_memory"),
        ] {
            if self.status(path).await? == Some(200) || has(extension) {
                open.push(extension);
            }
        }
        Ok(match &open[..] {
            [] => finding(1, name, State::Closed, "not offered", remedy),
            open => finding(1, name, State::Open, open.join(", "), remedy),
        })
    }

    fn classification(&self, has: &impl Fn(&str) -> bool) -> Finding {
        let (state, seen) =
            if has("classification") { (State::Open, "offered") } else { (State::Closed, "not offered") };
        finding(2, "classification strings made of raw scores", state, seen, "only the proxy may reach the server")
    }

    async fn routes_of_model(
        &self,
        path: u8,
        name: &'static str,
        routes: &[&'static str],
    ) -> Result<Finding, ClientError> {
        let remedy = "only the proxy may reach the server";
        let Some(model) = &self.subject.model else {
            return Ok(finding(path, name, State::Unknown, "no model is named", remedy));
        };
        let mut open = Vec::new();
        for route in routes {
            if self.status(&format!("/v2/models/{model}/{route}")).await?.is_some_and(takes_post) {
                open.push(*route);
            }
        }
        let state = if open.is_empty() { State::Closed } else { State::Open };
        let seen = if open.is_empty() { "not there".to_owned() } else { open.join(", ") };
        Ok(finding(path, name, state, seen, remedy))
    }

    async fn grpc(&self) -> Finding {
        let (name, remedy) = ("gRPC, with its streams", "bind the gRPC port to loopback, or switch it off");
        let rest = self.subject.rest.address();
        let address = self
            .subject
            .grpc
            .clone()
            .unwrap_or_else(|| std::net::SocketAddr::new(rest.ip(), rest.port().saturating_add(1)).to_string());
        let Ok(endpoint) = GrpcEndpoint::from_shared(format!("http://{address}")) else {
            return finding(4, name, State::Unknown, "its address cannot be used", remedy);
        };
        let ask = async {
            let channel = endpoint.connect_timeout(self.subject.timeout).connect().await.ok()?;
            GrpcInferenceServiceClient::new(channel).server_live(ServerLiveRequest {}).await.ok()
        };
        match tokio::time::timeout(self.subject.timeout, ask).await {
            Ok(Some(_)) => finding(4, name, State::Open, format!("answers at {address}"), remedy),
            Ok(None) | Err(_) => finding(4, name, State::Closed, format!("nothing answers at {address}"), remedy),
        }
    }

    async fn outputs(&self) -> Result<Finding, ClientError> {
        let (name, remedy) = ("further outputs of the model", "the proxy asks for the declared one and drops the rest");
        let Some(model) = &self.subject.model else {
            return Ok(finding(5, name, State::Unknown, "no model is named", remedy));
        };
        let reply = self.get(&format!("/v2/models/{model}")).await?;
        let Some(outputs) = json(reply.as_ref())["outputs"].as_array().map(Vec::len) else {
            return Ok(finding(5, name, State::Unknown, "no metadata of the model", remedy));
        };
        let state = if outputs > 1 { State::Open } else { State::Closed };
        Ok(finding(5, name, state, format!("{outputs} outputs"), remedy))
    }

    async fn models(&self) -> Result<Finding, ClientError> {
        let (name, remedy) =
            ("other models, such as the members of an ensemble", "only the proxy may reach the server");
        let index = self.post("/v2/repository/index").await?.filter(|reply| reply.status == 200);
        let listed = self.get("/v2/models").await?.filter(|reply| reply.status == 200);
        let index = json(index.as_ref());
        let listed = json(listed.as_ref());
        let of_index = index.as_array().into_iter().flatten().map(|entry| &entry["name"]);
        let of_list = listed["models"].as_array().into_iter().flatten();
        let names = of_index.chain(of_list).filter_map(Value::as_str);
        let others = names.filter(|name| self.subject.model.as_deref() != Some(*name)).count();
        Ok(match others {
            0 if index.is_null() && listed.is_null() => finding(6, name, State::Unknown, "it lists no models", remedy),
            0 => finding(6, name, State::Closed, "none is listed", remedy),
            n => finding(6, name, State::Open, format!("{n} are listed"), remedy),
        })
    }

    async fn repository(&self) -> Result<Finding, ClientError> {
        let (name, remedy) =
            ("loading of models", "start it without model control, or restrict the repository API to the operator");
        let reply = self.post(&format!("/v2/repository/models/{NO_MODEL}/load")).await?;
        let Some(reply) = reply else { return Ok(finding(7, name, State::Closed, "nothing answers", remedy)) };
        // A server that would load says that this model is not there; one that would not says that loading is not allowed.
        let refused = String::from_utf8_lossy(&reply.body).contains("not allowed");
        let open = matches!(reply.status, 200 | 400 | 500) && !refused;
        let state = if open { State::Open } else { State::Closed };
        Ok(finding(7, name, state, format!("a load of an unknown model is answered with {}", reply.status), remedy))
    }

    async fn explain(&self) -> Result<Finding, ClientError> {
        let (name, remedy) = ("explain, classify and regress", "serve no explainer beside the proxy");
        let Some(model) = &self.subject.model else {
            return Ok(finding(8, name, State::Unknown, "no model is named", remedy));
        };
        let mut open = Vec::new();
        for verb in ["explain", "classify", "regress"] {
            if self.status(&format!("/v1/models/{model}:{verb}")).await? == Some(405) {
                open.push(verb);
            }
        }
        let state = if open.is_empty() { State::Closed } else { State::Open };
        let seen = if open.is_empty() { "not there".to_owned() } else { open.join(", ") };
        Ok(finding(8, name, state, seen, remedy))
    }

    /// Paths that answer a plain GET where they are there.
    async fn settings(&self, path: u8, name: &'static str, paths: &[&'static str]) -> Result<Finding, ClientError> {
        let mut open = Vec::new();
        for asked in paths {
            if self.status(asked).await?.is_some_and(|status| matches!(status, 200 | 405)) {
                open.push(*asked);
            }
        }
        let state = if open.is_empty() { State::Closed } else { State::Open };
        let seen = if open.is_empty() { "not there".to_owned() } else { open.join(", ") };
        Ok(finding(path, name, state, seen, "restrict these to the operator, or switch them off"))
    }

    async fn figures(&self) -> Result<Finding, ClientError> {
        let (name, remedy) =
            ("statistics and metrics, which tell times", "keep metrics on an address of the operator's");
        let mut open = Vec::new();
        if let Some(model) = &self.subject.model
            && self.status(&format!("/v2/models/{model}/stats")).await? == Some(200)
        {
            open.push("statistics");
        }
        let metrics = match &self.subject.metrics {
            Some(endpoint) => self.send_to(endpoint, &Call::get("/metrics")?).await?,
            None => self.get("/metrics").await?,
        };
        if metrics.is_some_and(|reply| reply.status == 200) {
            open.push("metrics");
        }
        let state = if open.is_empty() { State::Closed } else { State::Open };
        let seen = if open.is_empty() { "not shown".to_owned() } else { open.join(", ") };
        Ok(finding(12, name, state, seen, remedy))
    }

    async fn compression(&self) -> Result<Finding, ClientError> {
        let (name, remedy) =
            ("compressed answers, which a rewriter cannot read", "the proxy asks for none and takes none");
        let mut call = Call::get(&self.at("/v2"))?;
        call.headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip, deflate"));
        let reply = self.send(&call).await?;
        let Some(reply) = reply else { return Ok(finding(14, name, State::Closed, "nothing answers", remedy)) };
        Ok(if reply.headers.contains_key(CONTENT_ENCODING) {
            finding(14, name, State::Open, "it compresses when asked", remedy)
        } else {
            // Some compress inferences alone, and none is run here.
            finding(14, name, State::Unknown, "its metadata come uncompressed", remedy)
        })
    }

    async fn cache(&self) -> Result<Finding, ClientError> {
        let (name, remedy) = ("a cache of undefended answers", "switch the response cache off for this model");
        let Some(model) = &self.subject.model else {
            return Ok(finding(15, name, State::Unknown, "no model is named", remedy));
        };
        let reply = self.get(&format!("/v2/models/{model}/config")).await?;
        let config = json(reply.filter(|reply| reply.status == 200).as_ref());
        if config.is_null() {
            return Ok(finding(15, name, State::Unknown, "it does not show the model's configuration", remedy));
        }
        Ok(if config["response_cache"]["enable"] == true {
            finding(15, name, State::Open, "switched on", remedy)
        } else {
            finding(15, name, State::Closed, "switched off", remedy)
        })
    }
}
