//! Counters, gauges and histograms. Label values are fixed words of ours, never a client's, so that no client
//! can add a time series; and no metric is about scores or inputs.

use std::io::Write as _;
use std::sync::OnceLock;
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    Encoder as _, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

#[cfg(feature = "tls")]
use super::tls::Failed;
use crate::engine::RemoteFigures;
use crate::pipeline::Facts;
use crate::protocol::RefusalKind;

/// Bounds in seconds, from 10 µs: the usual sets start where a proxy of microseconds has long ended.
const BUCKETS: [f64; 21] = [
    10e-6, 20e-6, 35e-6, 50e-6, 75e-6, 100e-6, 150e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3,
    250e-3, 500e-3, 1.0, 2.5, 10.0,
];

/// Bounds of batches.
const SIZES: [f64; 11] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];

/// The routes of inference.
const OFTEN: [&str; 3] = ["infer", "predict", "grpc_infer"];

/// Every metric of one server.
#[derive(Debug)]
pub(super) struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    /// Of those the ones that there are most of, found once.
    answered: [(&'static str, OnceLock<IntCounter>); 3],
    rows: IntCounter,
    pub(super) in_flight: IntGauge,
    pub(super) connections: IntGauge,
    pub(super) connections_refused: IntCounter,
    pub(super) panics: IntCounter,
    pub(super) skipped: IntCounter,
    pub(super) batch_failures: IntCounter,
    batch_requests: Histogram,
    batch_rows: Histogram,
    queue_depth: IntGauge,
    stages: Stages,
    #[cfg(feature = "tls")]
    pub(super) tls: TlsMetrics,
}

/// What became of TLS.
#[cfg(feature = "tls")]
#[derive(Debug)]
pub(super) struct TlsMetrics {
    failures: [(Failed, IntCounter); 5],
    pub(super) reloads: IntCounter,
    pub(super) reload_failures: IntCounter,
    pub(super) refused: IntGauge,
}

#[cfg(feature = "tls")]
impl TlsMetrics {
    fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let failures = Opts::new("sordino_tls_handshake_failures_total", "TLS handshakes that failed, by reason.");
        let failures = registered(registry, IntCounterVec::new(failures, &["reason"])?)?;
        let reloads = Opts::new("sordino_tls_reloads_total", "Changes of the TLS files that were found, by outcome.");
        let reloads = registered(registry, IntCounterVec::new(reloads, &["outcome"])?)?;
        let refused = IntGauge::new(
            "sordino_tls_files_refused",
            "1 while the TLS files are of no use, and the certificate is the one from before.",
        )?;
        Ok(Self {
            failures: Failed::ALL.map(|(failed, word)| (failed, failures.with_label_values(&[word]))),
            reloads: reloads.with_label_values(&["ok"]),
            reload_failures: reloads.with_label_values(&["failed"]),
            refused: registered(registry, refused)?,
        })
    }

    /// Counts a handshake that failed.
    pub(super) fn failed(&self, failed: Failed) {
        self.failures.iter().filter(|(of, _)| *of == failed).for_each(|(_, counter)| counter.inc());
    }
}

#[derive(Debug)]
struct Stages {
    decode: Histogram,
    queue: Histogram,
    infer: Histogram,
    defend: Histogram,
    encode: Histogram,
    total: Histogram,
}

impl Metrics {
    /// Fresh metrics for a server of these models, by name and version.
    ///
    /// # Errors
    /// When a metric cannot be registered, which a test excludes.
    pub(super) fn new(models: &[(String, String)], queue_capacity: usize) -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let requests = Opts::new("sordino_requests_total", "Requests answered, by route and outcome.");
        let requests = registered(&registry, IntCounterVec::new(requests, &["route", "outcome"])?)?;
        let stages = HistogramOpts::new(
            "sordino_stage_duration_seconds",
            "Time per stage of an inference request; total is from the head read to the answer ready.",
        );
        let stages = HistogramVec::new(stages.buckets(BUCKETS.to_vec()), &["stage"])?;
        let stages = registered(&registry, stages)?;
        let counter = |name: &str, help: &str| registered(&registry, IntCounter::new(name, help)?);
        let gauge = |name: &str, help: &str| registered(&registry, IntGauge::new(name, help)?);
        let sizes = |name: &str, help: &str| {
            registered(&registry, Histogram::with_opts(HistogramOpts::new(name, help).buckets(SIZES.to_vec()))?)
        };
        gauge("sordino_queue_capacity", "Requests that may wait for a compute thread.")?
            .set(i64::try_from(queue_capacity).unwrap_or(i64::MAX));
        let info = |name: &str, help: &str, labels: &[&str]| {
            registered(&registry, IntGaugeVec::new(Opts::new(name, help), labels)?)
        };
        let build = info("sordino_build_info", "The running version.", &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let served = info("sordino_model_info", "The models served at the start.", &["model", "version"])?;
        models.iter().for_each(|(model, version)| served.with_label_values(&[model, version]).set(1));
        Ok(Self {
            answered: OFTEN.map(|route| (route, OnceLock::new())),
            requests,
            rows: counter("sordino_rows_total", "Rows answered.")?,
            in_flight: gauge(
                "sordino_in_flight_requests",
                "Inference requests being read, waiting, computed or sent.",
            )?,
            connections: gauge("sordino_connections", "Open connections.")?,
            connections_refused: counter("sordino_connections_refused_total", "Connections over the limit.")?,
            panics: counter("sordino_compute_panics_total", "Panics caught on a compute thread.")?,
            skipped: counter(
                "sordino_jobs_skipped_total",
                "Jobs whose client had gone, or had waited too long, before they were run.",
            )?,
            batch_failures: counter(
                "sordino_batch_failures_total",
                "Batches that the model failed on, whose requests then ran one by one.",
            )?,
            batch_requests: sizes(
                "sordino_batch_requests",
                "Requests that one inference was run for, where batching is on.",
            )?,
            batch_rows: sizes("sordino_batch_rows", "Rows of one inference, where batching is on.")?,
            queue_depth: gauge("sordino_queue_depth", "Requests waiting for a compute thread.")?,
            stages: Stages {
                decode: stages.with_label_values(&["decode"]),
                queue: stages.with_label_values(&["queue"]),
                infer: stages.with_label_values(&["infer"]),
                defend: stages.with_label_values(&["defend"]),
                encode: stages.with_label_values(&["encode"]),
                total: stages.with_label_values(&["total"]),
            },
            #[cfg(feature = "tls")]
            tls: TlsMetrics::new(&registry)?,
            registry,
        })
    }

    /// Counts one answered request. `route` is a word of ours.
    pub(super) fn answered(&self, route: &'static str, refused: Option<RefusalKind>) {
        match self.answered.iter().find(|(often, _)| refused.is_none() && *often == route) {
            Some((_, counter)) => counter.get_or_init(|| self.requests.with_label_values(&[route, "ok"])).inc(),
            None => self.requests.with_label_values(&[route, refused.map_or("ok", RefusalKind::name)]).inc(),
        }
    }

    /// Records the stages of a request that a compute thread has handled. A stage that was not reached has no
    /// time.
    pub(super) fn handled(&self, facts: &Facts, queue: Duration, total: Duration, ok: bool) {
        if ok {
            self.rows.inc_by(facts.rows as u64);
        }
        let Stages { decode, infer, defend, encode, .. } = &self.stages;
        for (histogram, time) in
            [(decode, facts.decode), (infer, facts.infer), (defend, facts.defend), (encode, facts.encode)]
        {
            if !time.is_zero() {
                histogram.observe(time.as_secs_f64());
            }
        }
        self.stages.queue.observe(queue.as_secs_f64());
        self.stages.total.observe(total.as_secs_f64());
    }

    /// Records one inference of requests that were put together.
    pub(super) fn batch(&self, n_requests: usize, n_rows: usize) {
        self.batch_requests.observe(n_requests as f64);
        self.batch_rows.observe(n_rows as f64);
    }

    /// The text that a Prometheus server scrapes.
    pub(super) fn text(&self, queue_depth: usize, upstream: Option<RemoteFigures>) -> Vec<u8> {
        self.queue_depth.set(i64::try_from(queue_depth).unwrap_or(i64::MAX));
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "metrics cannot be encoded");
        }
        if let Some(figures) = upstream {
            write_upstream(&mut text, &figures);
        }
        text
    }
}

/// The figures of a model in another server, which are counted there and not here.
fn write_upstream(text: &mut Vec<u8>, figures: &RemoteFigures) {
    let gauge = |value: usize| value as u64;
    for (name, kind, help, value) in [
        ("sordino_upstream_servers", "gauge", "Servers behind this one.", gauge(figures.replicas)),
        ("sordino_upstream_usable_servers", "gauge", "Servers that requests are sent to now.", gauge(figures.usable)),
        ("sordino_upstream_in_flight_requests", "gauge", "Requests under way to them.", gauge(figures.in_flight)),
        ("sordino_upstream_retries_total", "counter", "Requests that had not been sent, sent again.", figures.retries),
        ("sordino_upstream_ejections_total", "counter", "Times that a server was left out.", figures.ejections),
        ("sordino_upstream_connections_total", "counter", "Connections opened.", figures.connections),
    ] {
        // Writing into a vector does not fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
    }
}

fn registered<C: Collector + Clone + 'static>(registry: &Registry, metric: C) -> Result<C, prometheus::Error> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_promised_metric_is_in_the_text() {
        let metrics = Metrics::new(&[("clf".to_owned(), "1".to_owned())], 7).unwrap();
        metrics.answered("infer", None);
        metrics.answered("infer", Some(RefusalKind::BadRequest));
        let text =
            String::from_utf8(metrics.text(3, Some(RemoteFigures { usable: 2, ..RemoteFigures::default() }))).unwrap();
        for line in [
            "sordino_requests_total{outcome=\"ok\",route=\"infer\"} 1",
            "sordino_requests_total{outcome=\"bad_request\",route=\"infer\"} 1",
            "sordino_queue_depth 3",
            "sordino_queue_capacity 7",
            "sordino_in_flight_requests 0",
            "sordino_rows_total 0",
            "sordino_batch_rows_bucket{le=\"2\"} 0",
            "sordino_batch_requests_count 0",
            "sordino_batch_failures_total 0",
            "sordino_stage_duration_seconds_bucket{stage=\"defend\",le=\"0.00001\"} 0",
            "sordino_upstream_usable_servers 2",
            "sordino_model_info{model=\"clf\",version=\"1\"} 1",
        ] {
            assert!(text.lines().any(|got| got == line), "{line} is not in\n{text}");
        }
    }
}
