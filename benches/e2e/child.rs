//! Processes of ours: the server under load, and the load. Each ends with its handle.

use std::io::Write as _;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

const SORDINO: &str = env!("CARGO_BIN_EXE_sordino");

/// Ticks per second of the times in `/proc`, on every Linux that this runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// A running `sordino serve` with the bundled classifier.
pub(crate) struct Server {
    child: Child,
    url: String,
    _config: tempfile::NamedTempFile,
}

impl Server {
    /// Starts it on a free port and waits until it is ready.
    pub(crate) fn start(inline: bool) -> Result<Self> {
        let mut config = tempfile::NamedTempFile::new()?;
        write!(
            config,
            "[server]\nio_threads = {}\n[compute]\ninline = {inline}\n[log]\nlevel = \"warn\"\n",
            io_threads()
        )?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let child = Command::new(SORDINO)
            .args(["serve", "--metrics-listen", "off", "--listen", &address.to_string(), "--config"])
            .arg(config.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("cannot start the server")?;
        let mut server = Self { child, url: format!("http://{address}"), _config: config };
        server.wait_ready()?;
        Ok(server)
    }

    fn wait_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                bail!("the server ended before it was ready: {status}");
            }
            let ready = format!("{}/v2/health/ready", self.url);
            let asked = Command::new(SORDINO).args(["healthcheck", "--url", &ready]).stderr(Stdio::null()).status()?;
            if asked.success() {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(50));
        }
        bail!("the server is not ready after 30 s")
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn io_threads(&self) -> usize {
        io_threads()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// As many as the server takes when nobody says.
fn io_threads() -> usize {
    (thread::available_parallelism().map_or(1, usize::from) / 2).clamp(1, 8)
}

/// One run of `sordino bench`.
pub(crate) struct Load {
    args: Vec<String>,
}

impl Load {
    pub(crate) fn closed(encoding: &str, concurrency: usize, time: Duration) -> Self {
        let mut args = vec!["bench".to_owned(), "--json".to_owned(), "--warmup".to_owned(), "0".to_owned()];
        for (flag, value) in [
            ("--encoding", encoding.to_owned()),
            ("--concurrency", concurrency.to_string()),
            ("--duration", time.as_secs_f64().to_string()),
        ] {
            args.extend([flag.to_owned(), value]);
        }
        Self { args }
    }

    pub(crate) fn open(encoding: &str, concurrency: usize, rate: f64, time: Duration) -> Self {
        let mut load = Self::closed(encoding, concurrency, time);
        load.args.extend(["--rate".to_owned(), rate.to_string()]);
        load
    }

    /// Puts the load on `url` and gives the report as JSON.
    pub(crate) fn run(self, url: &str) -> Result<serde_json::Value> {
        let output = Command::new(SORDINO).args(&self.args).args(["--url", url]).stderr(Stdio::inherit()).output()?;
        ensure!(output.status.success(), "the load ended with {}", output.status);
        serde_json::from_slice(&output.stdout).context("the load's report")
    }
}

/// Seconds of CPU that a process has used, in user and system mode.
pub(crate) fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in brackets may hold spaces; utime and stime are fields 14 and 15 of the whole line.
    let (_, after_name) = stat.rsplit_once(')').context("not a stat line")?;
    let ticks = after_name.split_whitespace().skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    Ok(ticks as f64 / TICKS_PER_SECOND)
}
