//! What was measured, on what, with which command: as JSON and as a page.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;
use sordino::client::report::Latency;

/// A whole run.
#[derive(Serialize)]
pub(crate) struct Record {
    pub(crate) format: &'static str,
    pub(crate) command: String,
    pub(crate) commit: String,
    pub(crate) machine: Machine,
    pub(crate) tract: Vec<Latency>,
    pub(crate) turns: Vec<Turn>,
    pub(crate) added: Vec<Added>,
    pub(crate) saturation: Vec<Saturation>,
    pub(crate) open: Vec<OpenLoop>,
}

#[derive(Serialize)]
pub(crate) struct Machine {
    cpu: String,
    n_cores: usize,
    kernel: String,
    rustc: String,
    load_average_at_start: String,
}

/// One target in one round, one connection.
#[derive(Serialize)]
pub(crate) struct Turn {
    round: usize,
    target: &'static str,
    encoding: String,
    p50_us: f64,
    p99_us: f64,
    requests_per_s: f64,
    cpu_us_per_request: f64,
    request_bytes: f64,
}

/// What a server adds, per round and in the median.
#[derive(Serialize)]
pub(crate) struct Added {
    target: &'static str,
    encoding: &'static str,
    p50_us: Vec<f64>,
    median_us: f64,
}

/// One target under so many connections that never rest.
#[derive(Serialize)]
pub(crate) struct Saturation {
    target: &'static str,
    encoding: String,
    concurrency: usize,
    requests_per_s: f64,
    p50_us: f64,
    p99_us: f64,
    n_refused: f64,
}

/// One server at half of its peak, requests due at fixed times.
#[derive(Serialize)]
pub(crate) struct OpenLoop {
    target: &'static str,
    encoding: String,
    rate: f64,
    p50_us: f64,
    p99_us: f64,
    p99_9_us: f64,
    n_unsent: f64,
}

fn number(report: &Value, pointer: &str) -> Result<f64> {
    report.pointer(pointer).and_then(Value::as_f64).with_context(|| format!("the report has no number {pointer}"))
}

impl Turn {
    pub(crate) fn new(round: usize, target: &'static str, encoding: &str, cpu_s: f64, report: Value) -> Result<Self> {
        Ok(Self {
            round,
            target,
            encoding: encoding.to_owned(),
            p50_us: number(&report, "/latency_us/p50")?,
            p99_us: number(&report, "/latency_us/p99")?,
            requests_per_s: number(&report, "/requests_per_s")?,
            cpu_us_per_request: 1e6 * cpu_s / number(&report, "/n_ok")?,
            request_bytes: number(&report, "/request_bytes")?,
        })
    }
}

impl Saturation {
    pub(crate) fn new(target: &'static str, encoding: &str, concurrency: usize, report: Value) -> Result<Self> {
        Ok(Self {
            target,
            encoding: encoding.to_owned(),
            concurrency,
            requests_per_s: number(&report, "/requests_per_s")?,
            p50_us: number(&report, "/latency_us/p50")?,
            p99_us: number(&report, "/latency_us/p99")?,
            n_refused: number(&report, "/n_answered")? - number(&report, "/n_ok")?,
        })
    }
}

impl OpenLoop {
    pub(crate) fn new(target: &'static str, encoding: &str, rate: f64, report: Value) -> Result<Self> {
        Ok(Self {
            target,
            encoding: encoding.to_owned(),
            rate,
            p50_us: number(&report, "/latency_us/p50")?,
            p99_us: number(&report, "/latency_us/p99")?,
            p99_9_us: number(&report, "/latency_us/p99_9")?,
            n_unsent: number(&report, "/n_unsent")?,
        })
    }
}

impl Added {
    /// Of both servers in both encodings: within each round, the server less tract less the echo.
    pub(crate) fn all(tract: &[Latency], turns: &[Turn]) -> Vec<Self> {
        let of = |target: &str, encoding: &str, round: usize| {
            let turn = turns.iter().find(|t| t.target == target && t.encoding == encoding && t.round == round);
            turn.map_or(f64::NAN, |turn| turn.p50_us)
        };
        let mut all = Vec::new();
        for encoding in super::ENCODINGS {
            for target in ["queued", "inline"] {
                let added = |(round, tract): (usize, &Latency)| {
                    of(target, encoding, round) - tract.p50 - of("echo", encoding, round)
                };
                let p50_us: Vec<f64> = tract.iter().enumerate().map(added).collect();
                all.push(Self { target, encoding, median_us: median(p50_us.iter().copied()), p50_us });
            }
        }
        all
    }
}

/// The highest throughput of a target.
pub(crate) fn peak(saturation: &[Saturation], target: &str, encoding: &str) -> f64 {
    let of = saturation.iter().filter(|s| s.target == target && s.encoding == encoding);
    of.map(|s| s.requests_per_s).fold(1.0, f64::max)
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let n = values.len();
    if n == 0 { f64::NAN } else { (values[(n - 1) / 2] + values[n / 2]) / 2.0 }
}

impl Record {
    pub(crate) fn new(command: &str) -> Self {
        Self {
            format: "sordino.e2e/1",
            command: command.to_owned(),
            commit: commit(),
            machine: Machine::here(),
            tract: Vec::new(),
            turns: Vec::new(),
            added: Vec::new(),
            saturation: Vec::new(),
            open: Vec::new(),
        }
    }

    /// Writes `results.json` and `README.md` into `folder`.
    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder)?;
        fs::write(folder.join("results.json"), serde_json::to_string_pretty(self)? + "\n")?;
        fs::write(folder.join("README.md"), self.markdown())?;
        Ok(())
    }

    /// The page: what was run, on what, and the tables.
    pub(crate) fn markdown(&self) -> String {
        let mut page = String::from("# End-to-end latency of the bundled classifier, one row a request\n\n");
        let Machine { cpu, n_cores, kernel, rustc, load_average_at_start } = &self.machine;
        page += &format!(
            "```\n{}\n```\n\ncommit {} · {cpu}, {n_cores} cores · Linux {kernel} · {rustc} · load average at the \
             start {load_average_at_start}\n\nLoad generator, server and echo share these cores. Medians over {} rounds, \
             everything measured once in each round. *queued*: compute threads behind a queue; *inline*: the model \
             runs on the I/O thread.\n\n",
            self.command,
            self.commit,
            self.tract.len(),
        );
        page += &self.latency_tables();
        page += &self.throughput_tables();
        page
    }

    fn latency_tables(&self) -> String {
        let mut page = String::from("## One connection, closed loop\n\n");
        page += "| | p50 µs | p99 µs | requests/s | CPU µs a request | request bytes |\n| --- | ---: | ---: | ---: | ---: | ---: |\n";
        let tract = |value: fn(&Latency) -> f64| median(self.tract.iter().map(value));
        writeln!(page, "| bare tract | {:.1} | {:.1} | | | |", tract(|l| l.p50), tract(|l| l.p99)).ok();
        for encoding in super::ENCODINGS {
            for target in ["echo", "queued", "inline"] {
                let of = |value: fn(&Turn) -> f64| {
                    median(self.turns.iter().filter(|t| t.target == target && t.encoding == encoding).map(value))
                };
                let (p50, p99, rps) = (of(|t| t.p50_us), of(|t| t.p99_us), of(|t| t.requests_per_s));
                let (cpu, bytes) = (of(|t| t.cpu_us_per_request), of(|t| t.request_bytes));
                writeln!(page, "| {target}, {encoding} | {p50:.1} | {p99:.1} | {rps:.0} | {cpu:.0} | {bytes:.0} |")
                    .ok();
            }
        }
        page += "\n**Added** at p50: server − bare tract − echo of the same bytes, within each round.\n\n";
        page += "| | median µs | least µs | most µs |\n| --- | ---: | ---: | ---: |\n";
        for Added { target, encoding, p50_us, median_us } in &self.added {
            let least = p50_us.iter().copied().fold(f64::INFINITY, f64::min);
            let most = p50_us.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            writeln!(page, "| {target}, {encoding} | {median_us:.1} | {least:.1} | {most:.1} |").ok();
        }
        page
    }

    fn throughput_tables(&self) -> String {
        let mut page = String::from("\n## Closed loop, more connections\n\n");
        page +=
            "| | connections | requests/s | p50 µs | p99 µs | refused |\n| --- | ---: | ---: | ---: | ---: | ---: |\n";
        for s in &self.saturation {
            let Saturation { target, encoding, concurrency, requests_per_s, p50_us, p99_us, n_refused } = s;
            let row = format!("{concurrency} | {requests_per_s:.0} | {p50_us:.0} | {p99_us:.0} | {n_refused}");
            writeln!(page, "| {target}, {encoding} | {row} |").ok();
        }
        page += "\n## Open loop at half of the peak, 64 connections\n\n";
        page += "| | due requests/s | p50 µs | p99 µs | p99.9 µs | due and unsent |\n| --- | ---: | ---: | ---: | ---: | ---: |\n";
        for o in &self.open {
            let OpenLoop { target, encoding, rate, p50_us, p99_us, p99_9_us, n_unsent } = o;
            let row = format!("{rate:.0} | {p50_us:.0} | {p99_us:.0} | {p99_9_us:.0} | {n_unsent}");
            writeln!(page, "| {target}, {encoding} | {row} |").ok();
        }
        page
    }
}

impl Machine {
    fn here() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let cpu = read("/proc/cpuinfo");
        let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map_or("", |x| x.1);
        Self {
            cpu: cpu.to_owned(),
            n_cores: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: version(&read("/proc/sys/kernel/osrelease")),
            rustc: said("rustc", &["--version"]),
            load_average_at_start: read("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" "),
        }
    }
}

/// The commit that was built and measured, as `build.rs` stamped it, short.
fn commit() -> String {
    let commit = env!("SORDINO_BUILD_COMMIT");
    let dirty = if env!("SORDINO_BUILD_DIRTY") == "true" { "-dirty" } else { "" };
    if commit.is_empty() { "unknown".to_owned() } else { format!("{}{dirty}", &commit[..commit.len().min(12)]) }
}

/// The numbers at the head of a kernel's release: what follows them names somebody's own build.
fn version(release: &str) -> String {
    let numbers: String = release.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
    numbers.trim_end_matches('.').to_owned()
}

fn said(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}
