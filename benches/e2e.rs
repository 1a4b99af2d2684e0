//! What the server adds: the bundled classifier on bare tract, a bare hyper echo of the same bytes, and `sordino
//! serve`, measured in turns in one run.
//!
//! Bare tract and the echo run in this process, the server in a child, the load in another child (`sordino bench`),
//! so that nobody shares a runtime. Every round measures each of them once; what is reported is the median over the
//! rounds, since a machine with something else to do is slow for seconds at a time. **added** is, within one round,
//! p50(server) − p50(tract) − p50(echo). Nothing here is asserted: the figures are written down.
//!
//! ```text
//! cargo bench --features lab --bench e2e -- --rounds 7 --out benches/runs/<date>-e2e
//! ```

#[path = "e2e/baseline.rs"]
mod baseline;
#[path = "e2e/child.rs"]
mod child;
#[path = "e2e/record.rs"]
mod record;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;

use baseline::{Echo, Tract};
use child::{Load, Server};
use record::{Added, OpenLoop, Record, Saturation, Turn};

/// End-to-end latency beside bare tract and a bare echo.
#[derive(Debug, Parser)]
struct Args {
    /// Rounds in which everything is measured once.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Connections of the saturation runs.
    #[arg(long, value_delimiter = ',', default_value = "1,2,4,8,16,32,64")]
    sweep: Vec<usize>,
    /// Folder for README.md and results.json; none prints only.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Both wire forms, as `sordino bench` names them.
const ENCODINGS: [&str; 2] = ["binary", "json"];

fn main() -> Result<()> {
    let args = Args::parse();
    let seconds = Duration::from_secs_f64(args.seconds);
    let queued = Server::start(false)?;
    let inline = Server::start(true)?;
    let tract = Tract::load()?;
    let echoes = ENCODINGS.map(|encoding| Echo::of(&queued, encoding));
    let [binary, json] = echoes;
    let echoes = [binary?, json?];
    let targets = [
        Target { name: "echo", url: |_, _, echo| echo.url().to_owned(), pid: |_, _| std::process::id() },
        Target { name: "queued", url: |queued, _, _| queued.url().to_owned(), pid: |queued, _| queued.pid() },
        Target { name: "inline", url: |_, inline, _| inline.url().to_owned(), pid: |_, inline| inline.pid() },
    ];

    let mut turns = Vec::new();
    let mut tract_rounds = Vec::new();
    for round in 0..args.rounds {
        eprintln!("round {} of {}", round + 1, args.rounds);
        tract_rounds.push(tract.measure(seconds)?);
        for (encoding, echo) in ENCODINGS.iter().zip(&echoes) {
            for target in &targets {
                let (url, pid) = ((target.url)(&queued, &inline, echo), (target.pid)(&queued, &inline));
                Load::closed(encoding, 1, Duration::from_millis(200)).run(&url)?;
                let before = child::cpu_seconds(pid)?;
                let report = Load::closed(encoding, 1, seconds).run(&url)?;
                let cpu_s = child::cpu_seconds(pid)? - before;
                turns.push(Turn::new(round, target.name, encoding, cpu_s, report)?);
            }
        }
    }

    let mut saturation = Vec::new();
    for &concurrency in &args.sweep {
        eprintln!("saturation, {concurrency} connections");
        for (encoding, echo) in ENCODINGS.iter().zip(&echoes) {
            for target in &targets {
                let url = (target.url)(&queued, &inline, echo);
                let report = Load::closed(encoding, concurrency, seconds).run(&url)?;
                saturation.push(Saturation::new(target.name, encoding, concurrency, report)?);
            }
        }
    }

    let mut open = Vec::new();
    for (encoding, echo) in ENCODINGS.iter().zip(&echoes) {
        for target in &targets[1..] {
            let peak = record::peak(&saturation, target.name, encoding);
            let rate = (peak / 2.0).floor();
            eprintln!("open loop, {} {encoding} at {rate} requests/s", target.name);
            let url = (target.url)(&queued, &inline, echo);
            let report = Load::open(encoding, 64, rate, 2 * seconds).run(&url)?;
            open.push(OpenLoop::new(target.name, encoding, rate, report)?);
        }
    }

    let added = Added::all(&tract_rounds, &turns);
    let record = Record { tract: tract_rounds, turns, added, saturation, open, ..Record::new(&args.shape()) };
    println!("{}", record.markdown());
    if let Some(folder) = &args.out {
        record.write(folder)?;
    }
    Ok(())
}

/// Somebody to put a load on.
struct Target {
    name: &'static str,
    url: fn(&Server, &Server, &Echo) -> String,
    pid: fn(&Server, &Server) -> u32,
}

impl Args {
    /// The command that repeats the run.
    fn shape(&self) -> String {
        let sweep: Vec<_> = self.sweep.iter().map(ToString::to_string).collect();
        format!(
            "cargo bench --features lab --bench e2e -- --rounds {} --seconds {} --sweep {}",
            self.rounds,
            self.seconds,
            sweep.join(",")
        )
    }
}
