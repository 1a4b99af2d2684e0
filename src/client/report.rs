//! The figures of a load: counts, throughput and latency percentiles, as values that serialise to JSON.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Highest latency that is told apart from higher ones.
const MAX_LATENCY: Duration = Duration::from_secs(600);

/// What one worker thread saw; tallies of several threads add up.
#[derive(Debug)]
pub(super) struct Tally {
    latency_ns: Histogram<u64>,
    by_status: BTreeMap<u16, u64>,
    errors: BTreeMap<&'static str, u64>,
    sent_bytes: u64,
    received_bytes: u64,
}

impl Tally {
    pub(super) fn new() -> Self {
        let max = u64::try_from(MAX_LATENCY.as_nanos()).unwrap_or(u64::MAX);
        let latency_ns = Histogram::new_with_bounds(1, max, 3).expect("1 ns to 10 min at 3 digits are valid bounds");
        Self { latency_ns, by_status: BTreeMap::new(), errors: BTreeMap::new(), sent_bytes: 0, received_bytes: 0 }
    }

    /// Counts an answer. The latency of answers other than 2xx is left out: a refusal is quick, and would flatter.
    pub(super) fn answered(&mut self, status: u16, latency: Duration, sent: usize, received: usize) {
        if (200..300).contains(&status) {
            self.latency_ns.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX).max(1));
        }
        *self.by_status.entry(status).or_default() += 1;
        self.sent_bytes += sent as u64;
        self.received_bytes += received as u64;
    }

    pub(super) fn failed(&mut self, kind: &'static str) {
        *self.errors.entry(kind).or_default() += 1;
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.latency_ns.add(&other.latency_ns).expect("both histograms have the same bounds");
        for (status, n) in &other.by_status {
            *self.by_status.entry(*status).or_default() += n;
        }
        for (kind, n) in &other.errors {
            *self.errors.entry(kind).or_default() += n;
        }
        self.sent_bytes += other.sent_bytes;
        self.received_bytes += other.received_bytes;
    }

    pub(super) fn report(self, elapsed: Duration, n_rows: usize, n_unsent: u64) -> LoadReport {
        let n_ok: u64 = self.by_status.range(200..300).map(|(_, n)| n).sum();
        let seconds = elapsed.as_secs_f64().max(f64::MIN_POSITIVE);
        LoadReport {
            elapsed_s: elapsed.as_secs_f64(),
            n_ok,
            n_answered: self.by_status.values().sum(),
            n_failed: self.errors.values().sum(),
            n_unsent,
            by_status: self.by_status,
            errors: self.errors,
            requests_per_s: n_ok as f64 / seconds,
            rows_per_s: n_ok as f64 * n_rows as f64 / seconds,
            sent_bytes: self.sent_bytes,
            received_bytes: self.received_bytes,
            latency_us: Latency::of(&self.latency_ns),
            generator_cores: None,
            latency_ns: self.latency_ns,
        }
    }
}

/// The figures of the measured part of a load; the warm-up is in none of them.
#[derive(Debug, Clone, Serialize)]
pub struct LoadReport {
    /// From the end of the warm-up until the last answer.
    pub elapsed_s: f64,
    /// Answers with a status of 2xx.
    pub n_ok: u64,
    /// Answers of any status.
    pub n_answered: u64,
    /// Requests that got no answer.
    pub n_failed: u64,
    /// Open loop: requests that were due and were never sent, since every connection was still waiting at the end.
    pub n_unsent: u64,
    /// Answers by HTTP status.
    pub by_status: BTreeMap<u16, u64>,
    /// Requests without an answer, by the kind of failure.
    pub errors: BTreeMap<&'static str, u64>,
    /// 2xx answers per second of `elapsed_s`.
    pub requests_per_s: f64,
    /// Rows in 2xx answers per second.
    pub rows_per_s: f64,
    /// Bytes of the bodies sent.
    pub sent_bytes: u64,
    /// Bytes of the bodies received.
    pub received_bytes: u64,
    /// Latency of the 2xx answers; `None` when there was none.
    pub latency_us: Option<Latency>,
    /// Cores that this process kept busy on average, warm-up included, where the system tells. Near the number of its
    /// threads, it is the generator that was measured.
    pub generator_cores: Option<f64>,
    /// What `latency_us` was taken from, in nanoseconds.
    #[serde(skip)]
    pub latency_ns: Histogram<u64>,
}

impl LoadReport {
    /// The whole distribution of the latency in microseconds, in the text form that HdrHistogram's plotter reads.
    #[must_use]
    pub fn hgrm(&self) -> String {
        /// Lines for each halving of the distance to 100 %.
        const TICKS: u32 = 5;
        let histogram = &self.latency_ns;
        let mut text =
            format!("{:>12} {:>14} {:>10} {:>14}\n\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)");
        let mut total = 0;
        for step in histogram.iter_quantiles(TICKS) {
            total += step.count_since_last_iteration();
            let (value, quantile) = (step.value_iterated_to() as f64 / 1e3, step.quantile_iterated_to());
            let rest = 1.0 / (1.0 - quantile);
            // The last line has none, as in HdrHistogram's own.
            let rest = if rest.is_finite() { format!("{rest:>14.2}") } else { String::new() };
            text += &format!("{value:>12.3} {quantile:>14.12} {total:>10} {rest}\n");
        }
        let (mean, deviation) = (histogram.mean() / 1e3, histogram.stdev() / 1e3);
        let max = histogram.max() as f64 / 1e3;
        text += &format!("#[Mean    = {mean:>12.3}, StdDeviation   = {deviation:>12.3}]\n");
        text += &format!("#[Max     = {max:>12.3}, Total count    = {:>12}]\n", histogram.len());
        text
    }
}

/// Latency in microseconds: from the (intended) start of a request until the last byte of its answer.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Latency {
    /// Smallest.
    pub min: f64,
    /// Arithmetic mean.
    pub mean: f64,
    /// Median.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 99th percentile.
    pub p99: f64,
    /// 99.9th percentile.
    pub p99_9: f64,
    /// Largest.
    pub max: f64,
}

impl Latency {
    /// The percentiles of a histogram of nanoseconds; `None` when it is empty.
    #[must_use]
    pub fn of(latency_ns: &Histogram<u64>) -> Option<Self> {
        if latency_ns.is_empty() {
            return None;
        }
        let at = |quantile| latency_ns.value_at_quantile(quantile) as f64 / 1e3;
        Some(Self {
            min: latency_ns.min() as f64 / 1e3,
            mean: latency_ns.mean() / 1e3,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            max: latency_ns.max() as f64 / 1e3,
        })
    }
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "answers   {} of 2xx in {:.2} s", self.n_ok, self.elapsed_s)?;
        writeln!(f, "rate      {:.0} requests/s, {:.0} rows/s", self.requests_per_s, self.rows_per_s)?;
        match self.latency_us {
            Some(l) => writeln!(
                f,
                "latency   min {:.0} µs  mean {:.0}  p50 {:.0}  p90 {:.0}  p99 {:.0}  p99.9 {:.0}  max {:.0}",
                l.min, l.mean, l.p50, l.p90, l.p99, l.p99_9, l.max
            )?,
            None => writeln!(f, "latency   no 2xx answer to measure")?,
        }
        writeln!(f, "bodies    {} bytes sent, {} bytes received", self.sent_bytes, self.received_bytes)?;
        if let Some(cores) = self.generator_cores {
            writeln!(f, "generator {cores:.2} of a core")?;
        }
        for (status, n) in self.by_status.iter().filter(|(status, _)| !(200..300).contains(*status)) {
            writeln!(f, "status    {status}: {n}")?;
        }
        for (kind, n) in &self.errors {
            writeln!(f, "failed    {kind}: {n}")?;
        }
        if self.n_unsent > 0 {
            writeln!(f, "unsent    {} were due and no connection was free: the rate was not reached", self.n_unsent)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_count_but_do_not_flatter_the_latency() {
        let mut tally = Tally::new();
        tally.answered(200, Duration::from_millis(2), 10, 20);
        tally.answered(503, Duration::from_micros(1), 10, 5);
        tally.failed("timeout");
        let mut other = Tally::new();
        other.answered(200, Duration::from_millis(2), 10, 20);
        tally.merge(&other);
        let report = tally.report(Duration::from_secs(2), 4, 0);
        assert_eq!((report.n_ok, report.n_answered, report.n_failed), (2, 3, 1));
        assert_eq!((report.sent_bytes, report.received_bytes), (30, 45));
        assert!((report.rows_per_s - 4.0).abs() < 1e-9);
        let latency = report.latency_us.expect("two answers");
        assert!((latency.min - 2000.0).abs() < 4.0 && (latency.max - 2000.0).abs() < 4.0, "{latency:?}");
    }

    #[test]
    fn the_distribution_ends_at_the_largest_and_counts_every_answer() {
        let mut tally = Tally::new();
        (1..=1000_u64).for_each(|n| tally.answered(200, Duration::from_micros(n), 1, 1));
        let text = tally.report(Duration::from_secs(1), 1, 0).hgrm();
        let rows: Vec<Vec<f64>> = text
            .lines()
            .skip(2)
            .filter(|line| !line.starts_with('#'))
            .map(|line| line.split_whitespace().map(|word| word.parse().expect("a number")).collect())
            .collect();
        assert!(rows.windows(2).all(|pair| pair[0][0] <= pair[1][0] && pair[0][1] <= pair[1][1]), "{text}");
        let last = rows.last().expect("rows");
        assert!((last[0] - 1000.0).abs() < 1.0 && (last[1] - 1.0).abs() < 1e-12 && last[2] as u64 == 1000, "{text}");
        let median = rows.iter().find(|row| row[1] >= 0.5).expect("a median");
        assert!((median[0] - 500.0).abs() < 1.0 && (median[3] - 2.0).abs() < 0.01, "{text}");
    }

    #[test]
    fn a_load_without_answers_has_no_latency() {
        let report = Tally::new().report(Duration::ZERO, 1, 3);
        assert!(report.latency_us.is_none());
        assert!(report.to_string().contains("no 2xx answer"));
    }
}
