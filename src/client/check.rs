//! Which paths around the defence a server leaves open to whoever reaches it: some twenty harmless questions, none of which runs
//! the model, loads one or changes a setting.
//!
//! The numbers are those of the table in `docs/upstream.md`. A path is open where something says so, closed where the server
//! says that it is not there or not for us, or where nothing listens at an address that was named; everything else cannot be
//! told: no answer in time, an answer that says neither, a port that was guessed.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use hyper::body::Bytes;
use hyper::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue};
use serde::Serialize;
use serde_json::Value;
use tokio::net::TcpStream;

use super::ClientError;
use super::endpoint::{Endpoint, Reach};
use super::http::{Call, Connection, Reply, Wire};
use super::tls::{self, TlsSettings};

/// Whether a path is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Undefended outputs can leave by it, or what they are made from can be changed.
    Open,
    /// It is not there, or refused.
    Closed,
    /// It cannot be told from here.
    #[serde(rename = "cannot tell")]
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
    /// How many paths are in this state.
    #[must_use]
    pub fn count(&self, state: State) -> usize {
        self.findings.iter().filter(|finding| finding.state == state).count()
    }
}

/// Whom to ask.
#[derive(Debug, Clone)]
pub struct Subject {
    /// The server's REST address.
    pub rest: Endpoint,
    /// Its gRPC address, `host:port`, or `grpc://` or `grpcs://` before it where it is known whether TLS is spoken there; none:
    /// the port after that of REST.
    pub grpc: Option<String>,
    /// The address of its metrics; none: that of REST.
    pub metrics: Option<Endpoint>,
    /// The model that is defended; none: what can be told without one.
    pub model: Option<String>,
    /// How long one question may take.
    pub timeout: Duration,
    /// What TLS to the gRPC address needs, where it is spoken there.
    pub tls: TlsSettings,
}

/// A name that no model has.
const NO_MODEL: &str = "sordino-check-no-such-model";

/// Asks a server which paths are open.
///
/// # Errors
/// [`ClientError::BadUrl`] where a name cannot stand in a path, and [`ClientError::Tls`] where TLS with it does not come about. A server
/// that cannot be reached is a finding, not an error, and so is one that wants a certificate of its clients.
pub async fn check(subject: &Subject) -> Result<Findings, ClientError> {
    let asker = Asker { subject };
    let live = asker.get("/v2/health/live").await?;
    let server = asker.get("/v2").await?;
    let about = server.json();
    let name = about["name"].as_str().map(|name| name.chars().filter(|c| !c.is_control()).take(64).collect());
    let extensions = about["extensions"]
        .as_array()
        .map(|names| names.iter().filter_map(|name| Some(name.as_str()?.to_owned())).collect::<Vec<String>>());
    let has = |extension: &str| match &extensions {
        Some(names) => Some(names.iter().any(|name| name == extension)),
        // Where nothing listens, nothing is offered.
        None => server.is_shut().then_some(false),
    };
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
        direct(&live),
        asker.settings(11, "routes of other platforms, which redirect", &["/ping", "/invocations", "/models"]).await?,
        asker.figures().await?,
        asker.settings(13, "other protocols and pages", &["/v1/models", "/v2/docs", "/openai/v1/models"]).await?,
        asker.compression().await?,
        asker.cache().await?,
    ];
    Ok(Findings { reachable: live.status().is_some(), server: name, findings })
}

struct Asker<'a> {
    subject: &'a Subject,
}

/// What came of a question.
enum Heard {
    Reply(Reply),
    /// Nothing listens there.
    Refused,
    /// It wants a certificate that we have not got.
    Barred,
    /// No whole answer, for whatever reason.
    Nothing,
}

impl Heard {
    fn status(&self) -> Option<u16> {
        match self {
            Self::Reply(reply) => Some(reply.status),
            Self::Refused | Self::Barred | Self::Nothing => None,
        }
    }

    /// Whether nobody is answered there, or not we.
    fn is_shut(&self) -> bool {
        matches!(self, Self::Refused | Self::Barred)
    }

    /// The body of an answer of 200.
    fn json(&self) -> Value {
        match self {
            Self::Reply(reply) if reply.status == 200 => serde_json::from_slice(&reply.body).unwrap_or_default(),
            _ => Value::Null,
        }
    }

    /// The state of a path that is there by these statuses.
    fn state(&self, there: &[u16]) -> State {
        match self {
            Self::Reply(reply) if there.contains(&reply.status) => State::Open,
            Self::Reply(reply) if NOT_THERE.contains(&reply.status) => State::Closed,
            Self::Refused | Self::Barred => State::Closed,
            Self::Reply(_) | Self::Nothing => State::Unknown,
        }
    }
}

/// Statuses that say that a path is not there, or not for us.
const NOT_THERE: [u16; 6] = [401, 403, 404, 405, 410, 501];

fn finding(path: u8, name: &'static str, state: State, seen: impl Into<String>, remedy: &'static str) -> Finding {
    Finding { path, name, state, seen: seen.into(), remedy }
}

/// One finding of several questions: open where one is, else unknown where one is.
fn of_several(path: u8, name: &'static str, heard: &[(&str, State)], remedy: &'static str) -> Finding {
    let named =
        |state: State| -> Vec<&str> { heard.iter().filter(|(_, of)| *of == state).map(|(what, _)| *what).collect() };
    let (open, unknown) = (named(State::Open), named(State::Unknown));
    if !open.is_empty() {
        finding(path, name, State::Open, open.join(", "), remedy)
    } else if !unknown.is_empty() {
        let seen = format!("no answer that says whether it is there: {}", unknown.join(", "));
        finding(path, name, State::Unknown, seen, remedy)
    } else {
        finding(path, name, State::Closed, "not there, or not for us", remedy)
    }
}

fn direct(live: &Heard) -> Finding {
    let (state, seen) = match live {
        Heard::Reply(_) => (State::Open, "it answers whoever asks from here"),
        Heard::Refused => (State::Closed, "nothing listens there, as seen from here"),
        Heard::Barred => (State::Closed, "it answers those alone who show a certificate"),
        Heard::Nothing => (State::Unknown, "no answer: it is shut off from here, or it is slow or down"),
    };
    let remedy = "bind it to loopback beside the proxy, or let a network policy admit the proxy alone";
    finding(10, "the server itself, reached directly", state, seen, remedy)
}

impl Asker<'_> {
    async fn send(&self, call: &Call) -> Result<Heard, ClientError> {
        self.send_to(&self.subject.rest, call).await
    }

    async fn send_to(&self, endpoint: &Endpoint, call: &Call) -> Result<Heard, ClientError> {
        let exchange = async { Connection::open(endpoint).await?.send(call).await };
        match tokio::time::timeout(self.subject.timeout, exchange).await {
            Ok(Ok(reply)) => Ok(Heard::Reply(reply)),
            Ok(Err(ClientError::Tls { reason, .. })) if tls::wants_certificate(&reason) => Ok(Heard::Barred),
            Ok(Err(error @ (ClientError::BadUrl { .. } | ClientError::Tls { .. }))) => Err(error),
            Ok(Err(ClientError::Connect { source, .. })) if source.kind() == ErrorKind::ConnectionRefused => {
                Ok(Heard::Refused)
            }
            Ok(Err(_)) | Err(_) => Ok(Heard::Nothing),
        }
    }

    fn at(&self, path: &str) -> String {
        format!("{}{path}", self.subject.rest.path())
    }

    async fn get(&self, path: &str) -> Result<Heard, ClientError> {
        self.send(&Call::get(&self.at(path))?).await
    }

    async fn post(&self, path: &str) -> Result<Heard, ClientError> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self.send(&Call::post(&self.at(path), headers, Bytes::from_static(b"{}"))?).await
    }

    async fn shared_memory(&self, has: &impl Fn(&str) -> Option<bool>) -> Result<Finding, ClientError> {
        let name = "outputs into shared memory";
        let remedy = "restrict the shared-memory API; share no /dev/shm and no IPC namespace with clients";
        let mut heard = Vec::new();
        for (path, extension) in [
            ("/v2/systemsharedmemory/status", "system_shared_memory"),
            ("/v2/cudasharedmemory/status", "cuda_shared_memory"),
        ] {
            let state = self.get(path).await?.state(&[200]);
            heard.push((extension, if has(extension) == Some(true) { State::Open } else { state }));
        }
        Ok(of_several(1, name, &heard, remedy))
    }

    fn classification(&self, has: &impl Fn(&str) -> Option<bool>) -> Finding {
        let (state, seen) = match has("classification") {
            Some(true) => (State::Open, "offered"),
            Some(false) => (State::Closed, "not offered"),
            None => (State::Unknown, "the server does not list its extensions"),
        };
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
        let mut heard = Vec::new();
        for route in routes {
            // They take POST: a GET is answered by 405 where they are there.
            heard.push((*route, self.get(&format!("/v2/models/{model}/{route}")).await?.state(&[200, 400, 405])));
        }
        Ok(of_several(path, name, &heard, remedy))
    }

    async fn grpc(&self) -> Finding {
        let (name, remedy) = ("gRPC, with its streams", "bind the gRPC port to loopback, or switch it off");
        let found = |state, seen: String| finding(4, name, state, seen, remedy);
        let Subject { grpc: given, timeout, rest, .. } = self.subject;
        let guessed = || SocketAddr::new(rest.address().ip(), rest.address().port().saturating_add(1)).to_string();
        let text = given.clone().unwrap_or_else(guessed);
        let (scheme, address) = text.split_once("://").map_or((None, &*text), |(scheme, rest)| (Some(scheme), rest));
        match tokio::time::timeout(*timeout, TcpStream::connect(address)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused && given.is_some() => {
                return found(State::Closed, format!("nothing listens at {address}"));
            }
            Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => {
                return found(State::Unknown, format!("nothing listens at {address}; name its address with --grpc"));
            }
            Ok(Err(_)) | Err(_) => return found(State::Unknown, format!("no connection to {address}")),
        }
        let schemes: &[&str] = match scheme {
            Some("grpc" | "http") => &["http"],
            Some("grpcs" | "https") => &["https"],
            Some(_) => return found(State::Unknown, format!("{text}: expected HOST:PORT, grpc:// or grpcs://")),
            None if cfg!(feature = "tls") => &["http", "https"],
            None => &["http"],
        };
        let mut seen = format!("something listens at {address}, and does not answer this question");
        for scheme in schemes {
            match self.live_over_grpc(&format!("{scheme}://{address}")).await {
                Ok(()) => return found(State::Open, format!("answers at {address}")),
                Err(ClientError::Tls { reason, .. }) if tls::wants_certificate(&reason) => {
                    return found(State::Closed, format!("at {address} it answers those alone who show a certificate"));
                }
                Err(ClientError::Tls { reason, .. }) if schemes.len() == 1 || !tls::is_plain(&reason) => {
                    seen = format!("{seen}: {reason}");
                }
                Err(_) => {}
            }
        }
        found(State::Unknown, seen)
    }

    /// Whether it answers the harmless question whether it lives.
    async fn live_over_grpc(&self, url: &str) -> Result<(), ClientError> {
        let endpoint = Endpoint::with_tls(url, Reach::Anywhere, &self.subject.tls)?;
        let call = Call::grpc("/inference.GRPCInferenceService/ServerLive", &[])?;
        let asked = async { Connection::open_for(&endpoint, Wire::Grpc).await?.send(&call).await };
        let timeout = self.subject.timeout;
        tokio::time::timeout(timeout, asked).await.map_err(|_| ClientError::Timeout(timeout))?.map(drop)
    }

    async fn outputs(&self) -> Result<Finding, ClientError> {
        let (name, remedy) = ("further outputs of the model", "the proxy asks for the declared one and drops the rest");
        let Some(model) = &self.subject.model else {
            return Ok(finding(5, name, State::Unknown, "no model is named", remedy));
        };
        let reply = self.get(&format!("/v2/models/{model}")).await?;
        let Some(outputs) = reply.json()["outputs"].as_array().map(Vec::len) else {
            let state = if reply.is_shut() { State::Closed } else { State::Unknown };
            return Ok(finding(5, name, state, "no metadata of the model", remedy));
        };
        let state = if outputs > 1 { State::Open } else { State::Closed };
        Ok(finding(5, name, state, format!("{outputs} outputs"), remedy))
    }

    async fn models(&self) -> Result<Finding, ClientError> {
        let (name, remedy) =
            ("other models, such as the members of an ensemble", "only the proxy may reach the server");
        let index = self.post("/v2/repository/index").await?;
        let listed = self.get("/v2/models").await?.json();
        if index.is_shut() {
            return Ok(finding(6, name, State::Closed, "nobody answers", remedy));
        }
        let index = index.json();
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
        let heard = self.post(&format!("/v2/repository/models/{NO_MODEL}/load")).await?;
        let Heard::Reply(reply) = &heard else {
            return Ok(finding(7, name, heard.state(&[]), "no answer", remedy));
        };
        // A server that would load says that this model is not there; one that would not says that loading is not allowed.
        let refused = String::from_utf8_lossy(&reply.body).contains("not allowed");
        let state = if refused { State::Closed } else { heard.state(&[200, 400, 500]) };
        Ok(finding(7, name, state, format!("a load of an unknown model is answered with {}", reply.status), remedy))
    }

    async fn explain(&self) -> Result<Finding, ClientError> {
        let (name, remedy) = ("explain, classify and regress", "serve no explainer beside the proxy");
        let Some(model) = &self.subject.model else {
            return Ok(finding(8, name, State::Unknown, "no model is named", remedy));
        };
        let mut heard = Vec::new();
        for verb in ["explain", "classify", "regress"] {
            heard.push((verb, self.get(&format!("/v1/models/{model}:{verb}")).await?.state(&[200, 400, 405])));
        }
        Ok(of_several(8, name, &heard, remedy))
    }

    /// Paths that answer a plain GET where they are there.
    async fn settings(&self, path: u8, name: &'static str, paths: &[&'static str]) -> Result<Finding, ClientError> {
        let mut heard = Vec::new();
        for asked in paths {
            heard.push((*asked, self.get(asked).await?.state(&[200, 400, 405])));
        }
        Ok(of_several(path, name, &heard, "restrict these to the operator, or switch them off"))
    }

    async fn figures(&self) -> Result<Finding, ClientError> {
        let (name, remedy) =
            ("statistics and metrics, which tell times", "keep metrics on an address of the operator's");
        let mut heard = Vec::new();
        if let Some(model) = &self.subject.model {
            heard.push(("statistics", self.get(&format!("/v2/models/{model}/stats")).await?.state(&[200])));
        }
        let state = match &self.subject.metrics {
            Some(endpoint) => self.send_to(endpoint, &Call::get("/metrics")?).await?.state(&[200]),
            // They may be at another port, which is not known.
            None => match self.get("/metrics").await?.state(&[200]) {
                State::Closed => State::Unknown,
                state => state,
            },
        };
        heard.push((if self.subject.metrics.is_some() { "metrics" } else { "metrics (see --metrics)" }, state));
        Ok(of_several(12, name, &heard, remedy))
    }

    async fn compression(&self) -> Result<Finding, ClientError> {
        let (name, remedy) =
            ("compressed answers, which a rewriter cannot read", "the proxy asks for none and takes none");
        let mut call = Call::get(&self.at("/v2"))?;
        call.headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip, deflate"));
        Ok(match self.send(&call).await? {
            Heard::Refused | Heard::Barred => finding(14, name, State::Closed, "nobody answers", remedy),
            Heard::Nothing => finding(14, name, State::Unknown, "no answer", remedy),
            Heard::Reply(reply) if reply.headers.contains_key(CONTENT_ENCODING) => {
                finding(14, name, State::Open, "it compresses when asked", remedy)
            }
            // Some compress inferences alone, and none is run here.
            Heard::Reply(_) => finding(14, name, State::Unknown, "its metadata come uncompressed", remedy),
        })
    }

    async fn cache(&self) -> Result<Finding, ClientError> {
        let (name, remedy) = ("a cache of undefended answers", "switch the response cache off for this model");
        let Some(model) = &self.subject.model else {
            return Ok(finding(15, name, State::Unknown, "no model is named", remedy));
        };
        let heard = self.get(&format!("/v2/models/{model}/config")).await?;
        let config = heard.json();
        if config.is_null() {
            let state = if heard.is_shut() { State::Closed } else { State::Unknown };
            return Ok(finding(15, name, state, "it does not show the model's configuration", remedy));
        }
        Ok(if config["response_cache"]["enable"] == true {
            finding(15, name, State::Open, "switched on", remedy)
        } else {
            finding(15, name, State::Closed, "switched off", remedy)
        })
    }
}
