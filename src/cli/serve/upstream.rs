//! The settings of a model in another server: the table `upstream`, the flags, and KServe's own words for some of them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::BoolishValueParser;
use serde::Deserialize;

use super::config::{Mistakes, Written, count, duration, plain_word};
use super::section::Section;
use super::upstream_tls::WrittenTls;
use crate::artifact::ModelDigest;
use crate::client::upstream::{Target, UpstreamConfig};
use crate::defence::Method;
use crate::engine::upstream::{Declared, Dialect, OutputRule};
use crate::tensor::{DType, Dim, TensorSpec};

/// Bounds of counts: a typing error is to be told.
const MAX_SERVERS: usize = 1_024;
const MAX_CLASSES: usize = 1 << 20;
const MAX_RETRIES: usize = 16;
const MAX_FAILURES: usize = 1_000;
const MAX_IN_FLIGHT: usize = 100_000;
const MAX_ANSWER_BYTES: usize = 1 << 31;

/// A model in another server.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct UpstreamSettings {
    pub(super) config: UpstreamConfig,
    pub(super) centroids: Option<PathBuf>,
    pub(super) model_sha256: Option<ModelDigest>,
    /// What TLS needs, read when the upstream is built.
    pub(super) tls: WrittenTls,
}

/// A model that runs in another server, which is asked for raw scores; ours defends them.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Upstream")]
pub(super) struct UpstreamArgs {
    /// Where the model runs: http[s]://HOST:PORT[/PREFIX], several for several servers of the same model
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    pub(super) upstream: Vec<String>,
    /// The model's name there [default: --name]
    #[arg(long, value_name = "NAME")]
    pub(super) upstream_model: Option<String>,
    /// The version to ask for [default: the only one there is]
    #[arg(long, value_name = "VERSION")]
    pub(super) upstream_version: Option<String>,
    /// oip-http, oip-grpc, tfserving or kserve-v1 [default: oip-http]
    #[arg(long, value_name = "PROTOCOL")]
    pub(super) upstream_protocol: Option<String>,
    /// Authorities that its certificate may be of, PEM [default: those that this machine trusts]
    #[arg(long, value_name = "FILE")]
    pub(super) upstream_ca_file: Option<PathBuf>,
    /// How long a request to it may take [default: 30]
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    pub(super) upstream_timeout_seconds: Option<f64>,
}

/// KServe's names, so that the binary stands where a `transformer-container` does.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "As KServe's transformer-container")]
pub(super) struct KserveArgs {
    /// --name and --upstream-model
    #[arg(long = "model_name", value_name = "NAME")]
    pub(super) model_name: Option<String>,
    /// --upstream, HOST[:PORT]; listens on 0.0.0.0:8080 unless told otherwise
    #[arg(long = "predictor_host", value_name = "HOST")]
    pub(super) predictor_host: Option<String>,
    /// --upstream-protocol: v1, v2 or grpc-v2
    #[arg(long = "predictor_protocol", value_name = "PROTOCOL")]
    pub(super) predictor_protocol: Option<String>,
    /// TLS to the predictor
    #[arg(long = "predictor_use_ssl", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true",
          value_parser = BoolishValueParser::new())]
    pub(super) predictor_use_ssl: Option<bool>,
    /// --upstream-timeout-seconds
    #[arg(long = "predictor_request_timeout_seconds", value_name = "SECONDS")]
    pub(super) predictor_timeout: Option<f64>,
    /// How often a request that was not sent is tried elsewhere
    #[arg(long = "predictor_request_retries", value_name = "N")]
    pub(super) predictor_retries: Option<usize>,
    /// Taken, and always so: readiness follows the predictor
    #[arg(long = "enable_predictor_health_check", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    _health_check: Option<String>,
    /// --listen 0.0.0.0:PORT
    #[arg(long = "http_port", value_name = "PORT")]
    pub(super) http_port: Option<u16>,
    /// --grpc-listen 0.0.0.0:PORT
    #[arg(long = "grpc_port", value_name = "PORT")]
    pub(super) grpc_port: Option<u16>,
    /// Taken and ignored: one process serves with all its threads
    #[arg(long = "workers", value_name = "N")]
    _workers: Option<usize>,
    /// Taken and ignored
    #[arg(long = "log_config_file", value_name = "FILE")]
    _log_config_file: Option<PathBuf>,
}

/// The table `upstream`, as written.
#[derive(Debug, Default)]
pub(super) struct WrittenUpstream {
    pub(super) urls: Option<Vec<String>>,
    model: Option<String>,
    version: Option<String>,
    protocol: Option<String>,
    binary: Option<bool>,
    signature: Option<String>,
    n_classes: Option<usize>,
    inputs: Option<Vec<WrittenInput>>,
    outputs: Option<BTreeMap<String, WrittenRule>>,
    model_sha256: Option<ModelDigest>,
    connect_timeout_seconds: Option<f64>,
    timeout_seconds: Option<f64>,
    start_timeout_seconds: Option<f64>,
    health_interval_seconds: Option<f64>,
    idle_timeout_seconds: Option<f64>,
    retries: Option<usize>,
    max_in_flight: Option<usize>,
    eject_after: Option<usize>,
    max_answer_bytes: Option<usize>,
    tls: WrittenTls,
    /// KServe's flag asks for TLS.
    wants_tls: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenInput {
    name: String,
    datatype: String,
    shape: Vec<i64>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum WrittenRule {
    Drop,
    Refuse,
    Pass,
}

impl WrittenUpstream {
    /// Takes the keys of the table.
    pub(super) fn read(&mut self, table: &mut Section<'_>, beside: impl Fn(PathBuf) -> PathBuf) {
        self.tls.read(table, beside);
        self.urls = table.take("urls");
        self.model = table.take("model");
        self.version = table.take("version");
        self.protocol = table.take("protocol");
        self.binary = table.take("binary");
        self.signature = table.take("signature");
        self.n_classes = table.take("n_classes");
        self.inputs = table.take("inputs");
        self.outputs = table.take("outputs");
        self.model_sha256 = table.take("model_sha256");
        self.connect_timeout_seconds = table.seconds("connect_timeout_seconds");
        self.timeout_seconds = table.seconds("timeout_seconds");
        self.start_timeout_seconds = table.seconds("start_timeout_seconds");
        self.health_interval_seconds = table.seconds("health_interval_seconds");
        self.idle_timeout_seconds = table.seconds("idle_timeout_seconds");
        self.retries = table.take("retries");
        self.max_in_flight = table.take("max_in_flight");
        self.eject_after = table.take("eject_after");
        self.max_answer_bytes = table.take("max_answer_bytes");
    }

    /// Flags win over the file.
    pub(super) fn overlay(&mut self, flags: &UpstreamArgs, kserve: &KserveArgs) {
        fn over<T: Clone>(slot: &mut Option<T>, flags: [&Option<T>; 2]) {
            if let Some(flag) = flags.into_iter().flatten().next() {
                *slot = Some(flag.clone());
            }
        }
        let urls = (!flags.upstream.is_empty()).then(|| flags.upstream.clone());
        let predictor = kserve.predictor().map(|url| vec![url]);
        over(&mut self.urls, [&urls, &predictor]);
        self.tls.overlay(flags.upstream_ca_file.as_ref());
        self.wants_tls = kserve.predictor_use_ssl == Some(true);
        over(&mut self.model, [&flags.upstream_model, &kserve.model_name]);
        over(&mut self.version, [&flags.upstream_version, &None]);
        over(&mut self.protocol, [&flags.upstream_protocol, &kserve.predictor_protocol]);
        over(&mut self.timeout_seconds, [&flags.upstream_timeout_seconds, &kserve.predictor_timeout]);
        over(&mut self.retries, [&kserve.predictor_retries, &None]);
    }

    /// Whether there is an upstream at all.
    pub(super) fn is_meant(&self) -> bool {
        self.urls.is_some()
    }

    fn is_empty(&self) -> bool {
        self.model.is_none() && self.version.is_none() && self.protocol.is_none() && self.tls == WrittenTls::default()
    }

    /// The model's name there, for the name here where none is given.
    pub(super) fn model_name(&self) -> Option<&str> {
        self.model.as_deref()
    }

    /// What is meant; none without an address.
    pub(super) fn check(self, written: &Written, name: &str, mistakes: &mut Mistakes) -> Option<UpstreamSettings> {
        let Some(urls) = &self.urls else {
            if !self.is_empty() {
                mistakes.push("upstream.urls: a model in another server needs its address".to_owned());
            }
            return None;
        };
        for (key, given) in [("model.path", &written.model), ("model.repository", &written.repository)] {
            if given.is_some() {
                mistakes.push(format!("{key}: the model is served by upstream.urls, give one or the other"));
            }
        }
        needs_centroids(written, mistakes);
        let targets = targets(urls, mistakes);
        self.tls.check(&targets, mistakes);
        if self.wants_tls && !targets.iter().all(Target::is_tls) {
            mistakes.push("--predictor_use_ssl: an address begins with http://, so not all is encrypted".to_owned());
        }
        let declared = self.declared(written, name, mistakes);
        let default = UpstreamConfig::new(targets, declared);
        let mut time = |key, seconds: Option<f64>, default: Duration| duration(key, seconds, default, mistakes);
        let mut config = UpstreamConfig {
            connect_timeout: time(
                "upstream.connect_timeout_seconds",
                self.connect_timeout_seconds,
                default.connect_timeout,
            ),
            timeout: time("upstream.timeout_seconds", self.timeout_seconds, default.timeout),
            start_timeout: time("upstream.start_timeout_seconds", self.start_timeout_seconds, default.start_timeout),
            health_interval: time(
                "upstream.health_interval_seconds",
                self.health_interval_seconds,
                default.health_interval,
            ),
            idle_timeout: time("upstream.idle_timeout_seconds", self.idle_timeout_seconds, default.idle_timeout),
            ..default
        };
        for (key, time) in
            [("upstream.connect_timeout_seconds", config.connect_timeout), ("upstream.timeout_seconds", config.timeout)]
        {
            if time.is_zero() {
                mistakes.push(format!("{key}: must be above 0"));
            }
        }
        if let Some(retries) = self.retries {
            // None at all is a choice.
            config.retries = count("upstream.retries", retries.max(1), MAX_RETRIES, mistakes).min(retries) as u32;
        }
        if let Some(max) = self.max_in_flight {
            config.max_in_flight = count("upstream.max_in_flight", max, MAX_IN_FLIGHT, mistakes);
        }
        if let Some(after) = self.eject_after {
            config.eject_after = count("upstream.eject_after", after, MAX_FAILURES, mistakes) as u32;
        }
        if let Some(max) = self.max_answer_bytes {
            config.max_answer_bytes = count("upstream.max_answer_bytes", max, MAX_ANSWER_BYTES, mistakes);
        }
        let (centroids, tls) = (written.centroids.clone(), self.tls);
        Some(UpstreamSettings { config, centroids, model_sha256: self.model_sha256, tls })
    }

    fn declared(&self, written: &Written, name: &str, mistakes: &mut Mistakes) -> Declared {
        let protocol = self.protocol.as_deref().unwrap_or(Dialect::OipHttp.name());
        let dialect = Dialect::from_name(protocol).unwrap_or_else(|| {
            let known: Vec<&str> = Dialect::ALL.iter().map(|dialect| dialect.name()).collect();
            mistakes.push(format!("upstream.protocol: expected {}, got {protocol:?}", known.join(", ")));
            Dialect::OipHttp
        });
        let model = self.model.clone().unwrap_or_else(|| name.to_owned());
        plain_word("upstream.model", &model, mistakes);
        if let Some(version) = &self.version {
            plain_word("upstream.version", version, mistakes);
            if dialect == Dialect::KserveV1 {
                mistakes.push("upstream.version: KServe's V1 protocol has no versions".to_owned());
            }
        }
        if written.score_kind.is_none() {
            mistakes.push(
                "model.score_kind: say what the upstream's scores are, logits, probabilities or log_probabilities; \
                 no protocol tells"
                    .to_owned(),
            );
        }
        let n_classes = self.n_classes.map(|n| count("upstream.n_classes", n, MAX_CLASSES, mistakes));
        let inputs = self.inputs.iter().flatten().filter_map(|input| input.check(mistakes)).collect();
        let rule = |rule: &WrittenRule| match rule {
            WrittenRule::Drop => OutputRule::Drop,
            WrittenRule::Refuse => OutputRule::Refuse,
            WrittenRule::Pass => OutputRule::Pass,
        };
        Declared {
            dialect,
            model,
            version: self.version.clone(),
            score_output: written.score_output.clone(),
            score_kind: written.score_kind,
            n_classes,
            inputs,
            rules: self.outputs.iter().flatten().map(|(name, written)| (name.clone(), rule(written))).collect(),
            binary: self.binary,
            signature: self.signature.clone(),
        }
    }
}

impl WrittenInput {
    fn check(&self, mistakes: &mut Mistakes) -> Option<TensorSpec> {
        let Some(dtype) = DType::from_oip_name(&self.datatype) else {
            mistakes.push(format!(
                "upstream.inputs: expected a datatype such as FP32 for '{}', got {:?}",
                self.name, self.datatype
            ));
            return None;
        };
        let shape = self.shape.iter().map(|&size| usize::try_from(size).map_or(Dim::Any, Dim::Fixed)).collect();
        Some(TensorSpec { name: self.name.clone(), dtype, shape })
    }
}

fn needs_centroids(written: &Written, mistakes: &mut Mistakes) {
    let defence = written.defence.clone().unwrap_or_default();
    if written.centroids.is_none() && defence.method != Method::LabelOnly {
        mistakes.push(format!(
            "model.centroids: the defence '{}' needs a centroid file (`sordino centroids build` makes one from the \
             model that the upstream runs); only the method \"label-only\" does without",
            defence.summary()
        ));
    }
}

fn targets(urls: &[String], mistakes: &mut Mistakes) -> Vec<Target> {
    count("upstream.urls", urls.len(), MAX_SERVERS, mistakes);
    let target =
        |url: &String| Target::parse(url).map_err(|error| mistakes.push(format!("upstream.urls: {error}"))).ok();
    urls.iter().filter_map(target).collect()
}

impl KserveArgs {
    /// Whether any of KServe's words was used that says where to listen as KServe does.
    pub(super) fn is_meant(&self) -> bool {
        self.predictor_host.is_some() || self.model_name.is_some()
    }

    /// Where to listen: as KServe, on every address.
    pub(super) fn listen(&self) -> Option<String> {
        let port = self.http_port.or(self.is_meant().then_some(8080))?;
        Some(format!("0.0.0.0:{port}"))
    }

    /// Where gRPC has a port of its own, if it is asked for.
    pub(super) fn grpc_listen(&self) -> Option<String> {
        self.grpc_port.map(|port| format!("0.0.0.0:{port}"))
    }

    /// The predictor's address, `https` if its flag says so; an address with a scheme stays as it is.
    fn predictor(&self) -> Option<String> {
        let host = self.predictor_host.as_ref()?;
        let scheme = if self.predictor_use_ssl == Some(true) { "https" } else { "http" };
        Some(if host.contains("://") { host.clone() } else { format!("{scheme}://{host}") })
    }

    /// TLS that is asked for and would not be spoken.
    pub(super) fn check(&self, mistakes: &mut Mistakes) {
        let address = self.predictor();
        if self.predictor_use_ssl == Some(true) && !address.is_some_and(|url| url.starts_with("https://")) {
            mistakes.push("--predictor_use_ssl: needs --predictor_host, without http:// before it".to_owned());
        }
    }
}
