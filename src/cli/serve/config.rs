//! The settings of `serve` in three forms: what was written (a TOML file, flags over it), what is meant
//! ([`Settings`], checked), and what is built (in the parent module).
//!
//! All mistakes are gathered, unknown keys among them, and reported together.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use toml::{Table, Value};

use super::super::inspect::EngineArg;
use super::Args;
use super::batching::WrittenBatching;
use super::upstream::{UpstreamSettings, WrittenUpstream};
use crate::defence::{DefenceConfig, Method, ScoreKind};
use crate::engine::LoadOptions;
use crate::pipeline::{DEFAULT_MAX_ROWS, Preparation, bundled};
use crate::server::{Batching, ComputeConfig, Config};

/// The longest time that a setting may name.
const MAX_SECONDS: f64 = 86_400.0;
/// Bounds of counts, far beyond what is of use: a typing error is to be told, not to end in an abort.
const MAX_THREADS: usize = 1_024;
const MAX_QUEUE: usize = 100_000;
const MAX_ROWS: usize = 1_000_000;
const MAX_CONNECTIONS: usize = 1_000_000;
const MAX_BODY_BYTES: usize = 1 << 30;
const MAX_BUFFERED_BYTES: usize = 1 << 40;

/// What `serve` will do; nothing in it is unchecked but the contents of files.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Settings {
    pub(super) listen: SocketAddr,
    /// A further address, for gRPC on a port of its own.
    pub(super) grpc_listen: Option<SocketAddr>,
    /// `None`: metrics are not served.
    pub(super) metrics_listen: Option<SocketAddr>,
    pub(super) io_threads: usize,
    pub(super) max_rows: usize,
    pub(super) server: Config,
    pub(super) name: String,
    pub(super) version: String,
    /// A folder of models in place of one.
    pub(super) repository: Option<PathBuf>,
    /// `None`: the bundled classifier.
    pub(super) model: Option<ModelFiles>,
    /// A model in another server, in place of `model`.
    pub(super) upstream: Option<UpstreamSettings>,
    pub(super) load: LoadOptions,
    pub(super) preparation: Preparation,
    pub(super) defence: DefenceConfig,
    pub(super) log: LogSettings,
}

/// Files of a model that is not the bundled one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ModelFiles {
    pub(super) onnx: PathBuf,
    pub(super) centroids: Option<PathBuf>,
}

/// How much is logged, and in which form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LogSettings {
    pub(super) json: bool,
    pub(super) level: tracing::Level,
}

/// Every key of the file, as written.
#[derive(Debug, Default)]
pub(super) struct Written {
    listen: Option<String>,
    metrics_listen: Option<String>,
    grpc_listen: Option<String>,
    statistics: Option<bool>,
    repository_control: Option<bool>,
    pub(super) repository: Option<PathBuf>,
    io_threads: Option<usize>,
    max_rows: Option<usize>,
    max_body_bytes: Option<usize>,
    max_buffered_bytes: Option<usize>,
    max_connections: Option<usize>,
    header_timeout_seconds: Option<f64>,
    body_timeout_seconds: Option<f64>,
    body_window_seconds: Option<f64>,
    write_timeout_seconds: Option<f64>,
    lame_duck_seconds: Option<f64>,
    drain_seconds: Option<f64>,
    busy_poll_microseconds: Option<u16>,
    threads: Option<usize>,
    queue: Option<usize>,
    queue_timeout_seconds: Option<f64>,
    inline: Option<bool>,
    quick_microseconds: Option<u32>,
    batching: WrittenBatching,
    warm_up: Option<bool>,
    engine: Option<EngineArg>,
    engine_library: Option<PathBuf>,
    pub(super) model: Option<PathBuf>,
    pub(super) centroids: Option<PathBuf>,
    name: Option<String>,
    version: Option<String>,
    pub(super) score_output: Option<String>,
    pub(super) score_kind: Option<ScoreKind>,
    pub(super) defence: Option<DefenceConfig>,
    upstream: WrittenUpstream,
    log_format: Option<String>,
    log_level: Option<String>,
}

/// Mistakes in the order found, one sentence each.
pub(super) type Mistakes = Vec<String>;

impl Settings {
    /// Reads the file that the flags name, puts the flags over it, and checks the whole.
    ///
    /// # Errors
    /// Every mistake there is.
    pub(super) fn read(args: &Args) -> Result<Self, Mistakes> {
        let mut mistakes = Vec::new();
        let mut written = match &args.config {
            Some(path) => match std::fs::read_to_string(path) {
                Ok(text) => from_file(&text, path, &mut mistakes),
                Err(error) => return Err(vec![format!("cannot read {}: {error}", path.display())]),
            },
            None => Written::default(),
        };
        written.overlay(args);
        args.kserve.check(&mut mistakes);
        let settings = written.check(&mut mistakes);
        let files = settings.model.as_ref();
        readable("model.path", files.map(|files| files.onnx.as_path()), &mut mistakes);
        let of_upstream = settings.upstream.as_ref().and_then(|upstream| upstream.centroids.as_deref());
        let centroids = files.and_then(|files| files.centroids.as_deref()).or(of_upstream);
        readable("model.centroids", centroids, &mut mistakes);
        if mistakes.is_empty() { Ok(settings) } else { Err(mistakes) }
    }
}

impl Settings {
    /// The settings of a file's text, without flags, whose files are not looked for.
    ///
    /// # Errors
    /// Every mistake there is.
    pub(super) fn of_text(text: &str) -> Result<Self, Mistakes> {
        let mut mistakes = Vec::new();
        let settings = from_file(text, Path::new("the file"), &mut mistakes).check(&mut mistakes);
        if mistakes.is_empty() { Ok(settings) } else { Err(mistakes) }
    }
}

/// One table of the file, emptied key by key; what is left over is unknown.
pub(super) struct Section<'a> {
    name: &'static str,
    table: Table,
    known: Vec<&'static str>,
    mistakes: &'a mut Mistakes,
}

impl<'a> Section<'a> {
    fn open(name: &'static str, file: &mut Table, mistakes: &'a mut Mistakes) -> Self {
        let table = match file.remove(name) {
            None => Table::new(),
            Some(Value::Table(table)) => table,
            Some(other) => {
                mistakes.push(format!("{name}: expected a table, got {}", other.type_str()));
                Table::new()
            }
        };
        Self { name, table, known: Vec::new(), mistakes }
    }

    pub(super) fn take<T: DeserializeOwned>(&mut self, key: &'static str) -> Option<T> {
        self.known.push(key);
        let value = self.table.remove(key)?;
        match value.try_into() {
            Ok(value) => Some(value),
            Err(error) => {
                self.mistakes.push(format!("{}.{key}: {}", self.name, one_line(&error)));
                None
            }
        }
    }

    pub(super) fn seconds(&mut self, key: &'static str) -> Option<f64> {
        if let Some(Value::Integer(seconds)) = self.table.get(key) {
            let seconds = *seconds as f64;
            self.table.insert(key.to_owned(), Value::Float(seconds));
        }
        self.take(key)
    }

    fn close(self) {
        for key in self.table.keys() {
            let known = self.known.join(", ");
            self.mistakes.push(format!("unknown key '{}.{key}'; known: {known}", self.name));
        }
    }
}

fn one_line(error: &toml::de::Error) -> String {
    error.message().replace('\n', " ")
}

fn from_file(text: &str, path: &Path, mistakes: &mut Mistakes) -> Written {
    let mut file: Table = match text.parse() {
        Ok(file) => file,
        Err(error) => {
            mistakes.push(format!("{} is not TOML: {error}", path.display()));
            return Written::default();
        }
    };
    let mut written = Written::default();
    let mut server = Section::open("server", &mut file, mistakes);
    written.listen = server.take("listen");
    written.metrics_listen = server.take("metrics_listen");
    written.grpc_listen = server.take("grpc_listen");
    written.statistics = server.take("statistics");
    written.repository_control = server.take("repository_control");
    written.io_threads = server.take("io_threads");
    written.max_rows = server.take("max_rows");
    written.max_body_bytes = server.take("max_body_bytes");
    written.max_buffered_bytes = server.take("max_buffered_bytes");
    written.max_connections = server.take("max_connections");
    written.header_timeout_seconds = server.seconds("header_timeout_seconds");
    written.body_timeout_seconds = server.seconds("body_timeout_seconds");
    written.body_window_seconds = server.seconds("body_window_seconds");
    written.write_timeout_seconds = server.seconds("write_timeout_seconds");
    written.lame_duck_seconds = server.seconds("lame_duck_seconds");
    written.drain_seconds = server.seconds("drain_seconds");
    written.busy_poll_microseconds = server.take("busy_poll_microseconds");
    server.close();
    let mut compute = Section::open("compute", &mut file, mistakes);
    written.threads = compute.take("threads");
    written.queue = compute.take("queue");
    written.queue_timeout_seconds = compute.seconds("queue_timeout_seconds");
    written.inline = compute.take("inline");
    written.quick_microseconds = compute.take("quick_microseconds");
    compute.close();
    let mut batching = Section::open("batching", &mut file, mistakes);
    written.batching.read(&mut batching);
    batching.close();
    let beside = |file: PathBuf| path.parent().map_or_else(|| file.clone(), |folder| folder.join(&file));
    let mut model = Section::open("model", &mut file, mistakes);
    written.repository = model.take("repository").map(beside);
    written.model = model.take("path").map(beside);
    written.centroids = model.take("centroids").map(beside);
    written.name = model.take("name");
    written.version = model.take("version");
    written.score_output = model.take("score_output");
    written.score_kind = model.take("score_kind");
    written.warm_up = model.take("warm_up");
    written.engine = model.take("engine");
    written.engine_library = model.take("engine_library");
    model.close();
    let mut upstream = Section::open("upstream", &mut file, mistakes);
    written.upstream.read(&mut upstream, beside);
    upstream.close();
    let mut log = Section::open("log", &mut file, mistakes);
    written.log_format = log.take("format");
    written.log_level = log.take("level");
    log.close();
    if let Some(defence) = file.remove("defence") {
        match defence.try_into() {
            Ok(defence) => written.defence = Some(defence),
            Err(error) => mistakes.push(format!("defence: {}", one_line(&error))),
        }
    }
    for key in file.keys() {
        mistakes.push(format!("unknown key '{key}'; known: server, compute, batching, model, upstream, defence, log"));
    }
    written
}

impl Written {
    /// Flags win over the file.
    fn overlay(&mut self, args: &Args) {
        fn over<T: Clone>(slot: &mut Option<T>, flag: &Option<T>) {
            if flag.is_some() {
                slot.clone_from(flag);
            }
        }
        over(&mut self.listen, &args.kserve.listen());
        over(&mut self.listen, &args.listen);
        over(&mut self.metrics_listen, &args.metrics_listen);
        over(&mut self.grpc_listen, &args.kserve.grpc_listen());
        over(&mut self.grpc_listen, &args.grpc_listen);
        over(&mut self.statistics, &args.statistics.then_some(true));
        over(&mut self.repository_control, &args.allow_repository_control.then_some(true));
        over(&mut self.repository, &args.repository);
        over(&mut self.io_threads, &args.io_threads);
        over(&mut self.max_rows, &args.max_rows);
        over(&mut self.max_body_bytes, &args.max_body_bytes);
        over(&mut self.max_connections, &args.max_connections);
        over(&mut self.body_timeout_seconds, &args.body_timeout_seconds);
        over(&mut self.lame_duck_seconds, &args.lame_duck_seconds);
        over(&mut self.drain_seconds, &args.drain_seconds);
        over(&mut self.threads, &args.threads);
        over(&mut self.queue, &args.queue);
        over(&mut self.queue_timeout_seconds, &args.queue_timeout_seconds);
        self.batching.overlay(&args.batching);
        over(&mut self.warm_up, &args.no_warm_up.then_some(false));
        over(&mut self.engine, &args.scores.engine);
        over(&mut self.engine_library, &args.scores.engine_library);
        over(&mut self.model, &args.model);
        over(&mut self.centroids, &args.centroids);
        over(&mut self.name, &args.kserve.model_name);
        over(&mut self.name, &args.name);
        over(&mut self.version, &args.model_version);
        let scores = args.scores.options();
        over(&mut self.score_output, &scores.score_output);
        over(&mut self.score_kind, &scores.score_kind);
        self.upstream.overlay(&args.upstream, &args.kserve);
        over(&mut self.log_format, &args.log_format);
        over(&mut self.log_level, &args.log_level);
    }

    /// What is meant; meaningless where `mistakes` grew.
    fn check(mut self, mistakes: &mut Mistakes) -> Settings {
        one_source(&self, mistakes);
        let default = Config::default();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let listen = address("server.listen", self.listen.as_deref().unwrap_or("127.0.0.1:8000"), mistakes);
        let metrics_listen = match self.metrics_listen.as_deref().unwrap_or("127.0.0.1:8002") {
            "off" => None,
            text => Some(address("server.metrics_listen", text, mistakes)),
        };
        if metrics_listen == Some(listen) && listen.port() != 0 {
            mistakes.push(format!("server.metrics_listen: {listen} is the address of server.listen too"));
        }
        let grpc_listen = match self.grpc_listen.as_deref().unwrap_or("off") {
            "off" => None,
            text => Some(address("server.grpc_listen", text, mistakes)),
        };
        if let Some(grpc) =
            grpc_listen.filter(|grpc| grpc.port() != 0 && [Some(listen), metrics_listen].contains(&Some(*grpc)))
        {
            mistakes.push(format!(
                "server.grpc_listen: {grpc} is taken by server.listen, which speaks gRPC too, or by server.metrics_listen"
            ));
        }
        let io_threads = self.io_threads.unwrap_or((cores / 2).clamp(1, 8));
        let threads = self.threads.unwrap_or(default.compute.threads);
        let mut compute = ComputeConfig {
            threads: count("compute.threads", threads, MAX_THREADS, mistakes),
            queue: count(
                "compute.queue",
                self.queue.unwrap_or(16 * threads.clamp(1, MAX_THREADS)),
                MAX_QUEUE,
                mistakes,
            ),
            queue_timeout: duration(
                "compute.queue_timeout_seconds",
                self.queue_timeout_seconds,
                default.compute.queue_timeout,
                mistakes,
            ),
            inline: self.inline.unwrap_or(default.compute.inline),
            quick: self.quick_microseconds.map_or(default.compute.quick, |time| Duration::from_micros(time.into())),
            batching: None,
        };
        compute.batching = std::mem::take(&mut self.batching).check(compute.inline, compute.queue_timeout, mistakes);
        let preparation = Preparation {
            warm_up: self.warm_up.unwrap_or(true),
            batches: compute.batching.as_ref().map(Batching::sizes).unwrap_or_default(),
        };
        let mut time = |key, seconds: Option<f64>, default: Duration| duration(key, seconds, default, mistakes);
        let server = Config {
            max_body_bytes: self.max_body_bytes.unwrap_or(default.max_body_bytes),
            max_buffered_bytes: self.max_buffered_bytes.unwrap_or(default.max_buffered_bytes),
            max_connections: self.max_connections.unwrap_or(default.max_connections),
            header_timeout: time("server.header_timeout_seconds", self.header_timeout_seconds, default.header_timeout),
            body_timeout: time("server.body_timeout_seconds", self.body_timeout_seconds, default.body_timeout),
            body_window: time("server.body_window_seconds", self.body_window_seconds, default.body_window),
            write_timeout: time("server.write_timeout_seconds", self.write_timeout_seconds, default.write_timeout),
            lame_duck: time("server.lame_duck_seconds", self.lame_duck_seconds, default.lame_duck),
            drain: time("server.drain_seconds", self.drain_seconds, default.drain),
            statistics: self.statistics.unwrap_or(default.statistics),
            repository_control: self.repository_control.unwrap_or(default.repository_control),
            busy_poll: Duration::from_micros(self.busy_poll_microseconds.unwrap_or_default().into()),
            compute,
        };
        for (key, time) in [
            ("server.header_timeout_seconds", server.header_timeout),
            ("server.body_timeout_seconds", server.body_timeout),
            ("server.body_window_seconds", server.body_window),
            ("server.write_timeout_seconds", server.write_timeout),
            ("compute.queue_timeout_seconds", server.compute.queue_timeout),
        ] {
            if time.is_zero() {
                mistakes.push(format!("{key}: must be above 0"));
            }
        }
        count("server.max_body_bytes", server.max_body_bytes, MAX_BODY_BYTES, mistakes);
        count("server.max_buffered_bytes", server.max_buffered_bytes, MAX_BUFFERED_BYTES, mistakes);
        count("server.max_connections", server.max_connections, MAX_CONNECTIONS, mistakes);
        if server.max_buffered_bytes < server.max_body_bytes {
            mistakes.push(format!(
                "server.max_buffered_bytes: {} is less than server.max_body_bytes, {}",
                server.max_buffered_bytes, server.max_body_bytes
            ));
        }
        let upstream = std::mem::take(&mut self.upstream);
        let of_upstream = upstream.is_meant().then(|| upstream.model_name().unwrap_or(bundled::NAME).to_owned());
        let in_upstream = self.name.clone().or_else(|| of_upstream.clone()).unwrap_or_default();
        let upstream = upstream.check(&self, &in_upstream, mistakes);
        let engine = self.engine.unwrap_or(EngineArg::Tract);
        let runtime = engine.runtime(self.engine_library.take(), Some(server.compute.threads));
        let log = log_settings(self.log_format.as_deref(), self.log_level.as_deref(), mistakes);
        let defence = self.defence.clone().unwrap_or_default();
        if let Err(wrong) = defence.check() {
            mistakes.extend(wrong.iter().map(ToString::to_string));
        }
        let model = match &upstream {
            Some(_) => None,
            None => model_files(self.model, self.centroids, &defence, mistakes),
        };
        let name = self.name.or(of_upstream).unwrap_or_else(|| default_name(model.as_ref()));
        plain_word("model.name", &name, mistakes);
        let version = self.version.unwrap_or_else(|| "1".to_owned());
        plain_word("model.version", &version, mistakes);
        Settings {
            listen,
            grpc_listen,
            metrics_listen,
            io_threads: count("server.io_threads", io_threads, MAX_THREADS, mistakes),
            max_rows: count("server.max_rows", self.max_rows.unwrap_or(DEFAULT_MAX_ROWS), MAX_ROWS, mistakes),
            server,
            name,
            version,
            repository: self.repository,
            model,
            upstream,
            load: LoadOptions { runtime, score_output: self.score_output, score_kind: self.score_kind },
            preparation,
            defence,
            log,
        }
    }
}

/// A repository names its models itself, and only a repository can be controlled.
fn one_source(written: &Written, mistakes: &mut Mistakes) {
    if written.repository.is_none() {
        if written.repository_control == Some(true) {
            mistakes
                .push("server.repository_control: there is no repository to control, see model.repository".to_owned());
        }
        return;
    }
    let single = [
        ("model.path", written.model.is_some()),
        ("model.centroids", written.centroids.is_some()),
        ("model.name", written.name.is_some()),
        ("model.version", written.version.is_some()),
        ("model.score_output", written.score_output.is_some()),
        ("model.score_kind", written.score_kind.is_some()),
    ];
    for (key, _) in single.iter().filter(|(_, given)| *given) {
        mistakes.push(format!("{key}: it is for one model; with model.repository each model's folder says it"));
    }
}

/// What a model's folder in a repository says about the model.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct FolderSettings {
    pub(super) load: LoadOptions,
    /// `None`: the repository's.
    pub(super) defence: Option<DefenceConfig>,
}

/// Reads the settings of a model's folder: `score_output` and `score_kind` of table `model`, and table `defence`.
///
/// # Errors
/// Every mistake there is.
pub(super) fn folder_settings(text: &str) -> Result<FolderSettings, Mistakes> {
    let mut mistakes = Vec::new();
    let mut file: Table = text.parse().map_err(|error| vec![format!("not TOML: {error}")])?;
    let mut settings = FolderSettings::default();
    let mut model = Section::open("model", &mut file, &mut mistakes);
    settings.load.score_output = model.take("score_output");
    settings.load.score_kind = model.take("score_kind");
    model.close();
    if let Some(defence) = file.remove("defence") {
        match defence.try_into::<DefenceConfig>() {
            Ok(defence) => {
                mistakes.extend(defence.check().err().iter().flatten().map(ToString::to_string));
                settings.defence = Some(defence);
            }
            Err(error) => mistakes.push(format!("defence: {}", one_line(&error))),
        }
    }
    mistakes.extend(file.keys().map(|key| format!("unknown key '{key}'; known: model, defence")));
    if mistakes.is_empty() { Ok(settings) } else { Err(mistakes) }
}

fn model_files(
    onnx: Option<PathBuf>,
    centroids: Option<PathBuf>,
    defence: &DefenceConfig,
    mistakes: &mut Mistakes,
) -> Option<ModelFiles> {
    let Some(onnx) = onnx else {
        if centroids.is_some() {
            mistakes
                .push("model.centroids: a centroid file belongs to a model, and model.path is not given".to_owned());
        }
        return None;
    };
    if centroids.is_none() && !matches!(defence.method, Method::LabelOnly | Method::AsIs) {
        mistakes.push(format!(
            "model.centroids: the defence '{}' needs a centroid file (`sordino centroids build` makes one); \
             only the method \"label-only\" does without",
            defence.summary()
        ));
    }
    Some(ModelFiles { onnx, centroids })
}

/// A file that cannot be read is a mistake among the others.
fn readable(key: &str, path: Option<&Path>, mistakes: &mut Mistakes) {
    let Some(path) = path else { return };
    match std::fs::File::open(path).and_then(|file| file.metadata()) {
        Ok(facts) if facts.is_dir() => mistakes.push(format!("{key}: {} is a folder", path.display())),
        Ok(_) => {}
        Err(error) => mistakes.push(format!("{key}: cannot read {}: {error}", path.display())),
    }
}

/// The name of the file without its ending, with what a URL would have to escape replaced.
fn default_name(model: Option<&ModelFiles>) -> String {
    let Some(stem) = model.and_then(|files| files.onnx.file_stem()) else {
        return bundled::NAME.to_owned();
    };
    stem.to_string_lossy().chars().map(|c| if is_plain(c) { c } else { '_' }).take(MAX_WORD).collect()
}

/// The longest name of a model or version.
const MAX_WORD: usize = 128;

/// Whether a word may name a model or a version.
pub(super) fn is_plain_word(word: &str) -> bool {
    !word.is_empty() && word.len() <= MAX_WORD && !word.starts_with('.') && word.chars().all(is_plain)
}

fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || "._-".contains(c)
}

pub(super) fn plain_word(key: &str, word: &str, mistakes: &mut Mistakes) {
    if word.is_empty() || word.len() > MAX_WORD || !word.chars().all(is_plain) {
        mistakes.push(format!(
            "{key}: expected 1 to {MAX_WORD} letters, digits, '.', '_' or '-' (it stands in URLs), got {word:?}"
        ));
    }
}

fn address(key: &str, text: &str, mistakes: &mut Mistakes) -> SocketAddr {
    text.parse().unwrap_or_else(|_| {
        mistakes.push(format!("{key}: expected an IP address and a port such as 127.0.0.1:8000, got {text:?}"));
        SocketAddr::from(([127, 0, 0, 1], 0))
    })
}

pub(super) fn count(key: &str, value: usize, most: usize, mistakes: &mut Mistakes) -> usize {
    if value == 0 {
        mistakes.push(format!("{key}: must be at least 1"));
    } else if value > most {
        mistakes.push(format!("{key}: must be at most {most}, got {value}"));
    }
    value.clamp(1, most)
}

pub(super) fn duration(key: &str, seconds: Option<f64>, default: Duration, mistakes: &mut Mistakes) -> Duration {
    let Some(seconds) = seconds else { return default };
    if (0.0..=MAX_SECONDS).contains(&seconds) {
        return Duration::from_secs_f64(seconds);
    }
    mistakes.push(format!("{key}: expected 0 to {MAX_SECONDS} seconds, got {seconds}"));
    default
}

fn log_settings(format: Option<&str>, level: Option<&str>, mistakes: &mut Mistakes) -> LogSettings {
    let json = match format.unwrap_or("text") {
        "text" => false,
        "json" => true,
        other => {
            mistakes.push(format!("log.format: expected text or json, got {other:?}"));
            false
        }
    };
    let level = level.unwrap_or("info").parse().unwrap_or_else(|_| {
        let got = level.unwrap_or_default();
        mistakes.push(format!("log.level: expected error, warn, info, debug or trace, got {got:?}"));
        tracing::Level::INFO
    });
    LogSettings { json, level }
}

#[cfg(test)]
mod tests;
