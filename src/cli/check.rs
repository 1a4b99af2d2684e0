//! `sordino check`: which paths lead around the defence.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;

use super::tls::TlsArgs;
use crate::client::check::{Findings, State, Subject, check};
use crate::client::endpoint::{Endpoint, Reach};

/// Exit code when a path is open.
const OPEN: u8 = 3;
/// Exit code when none is open, and of some it cannot be told.
const CANNOT_TELL: u8 = 4;

/// List the paths by which undefended outputs can leave a server that Sordino stands in front of.
///
/// Run it from where the clients are: what it reaches, they reach. It asks some twenty harmless questions; no model is run, loaded
/// or changed.
///
/// Exit codes: 0 when every path is closed, 3 when one is open, 4 when none is open and of some it cannot be told from here,
/// 1 when the question cannot be asked.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The server behind Sordino, as a client would reach it: http://HOST:PORT or https://HOST:PORT
    #[arg(long, value_name = "URL")]
    upstream: String,
    /// The model that is defended
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// The server's gRPC address, HOST:PORT; with grpc:// or grpcs:// before it, without or with TLS alone. Without it gRPC cannot be told
    /// to be closed [default: the port after that of the URL]
    #[arg(long, value_name = "ADDRESS")]
    grpc: Option<String>,
    /// The server's metrics; without it they cannot be told to be closed [default: /metrics of the URL]
    #[arg(long, value_name = "URL")]
    metrics: Option<String>,
    /// How long one question may take
    #[arg(long, value_name = "SECONDS", default_value_t = 3.0)]
    timeout_seconds: f64,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    tls: TlsArgs,
}

/// Runs the command.
///
/// # Errors
/// When an address cannot be used.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let plain =
        |name: &String| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    anyhow::ensure!(args.model.as_ref().is_none_or(plain), "--model: expected letters, digits, '.', '_' or '-'");
    let timeout = Duration::try_from_secs_f64(args.timeout_seconds).ok().filter(|time| !time.is_zero());
    let urls = [Some(&args.upstream), args.grpc.as_ref(), args.metrics.as_ref()];
    let urls: Vec<&str> = urls.into_iter().flatten().map(String::as_str).collect();
    let tls = args.tls.settings(&urls)?;
    let endpoint = |url: &str| Endpoint::with_tls(url, Reach::Anywhere, &tls);
    let subject = Subject {
        rest: endpoint(&args.upstream)?,
        grpc: args.grpc.clone(),
        metrics: args.metrics.as_deref().map(endpoint).transpose()?,
        model: args.model.clone(),
        timeout: timeout.context("--timeout-seconds: must be above 0")?,
        tls,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let findings = runtime.block_on(check(&subject))?;
    let text = if args.json { format!("{}\n", serde_json::to_string_pretty(&findings)?) } else { table(&findings) };
    print!("{text}");
    Ok(match (findings.count(State::Open), findings.count(State::Unknown)) {
        (0, 0) => ExitCode::SUCCESS,
        (0, _) => ExitCode::from(CANNOT_TELL),
        _ => ExitCode::from(OPEN),
    })
}

fn table(findings: &Findings) -> String {
    let mut text = String::new();
    match (&findings.server, findings.reachable) {
        (Some(server), _) if server == "sordino" => {
            text.push_str("this is Sordino itself: give the address of the server behind it\n");
        }
        (Some(server), _) => text.push_str(&format!("the server calls itself {server:?}\n")),
        (None, true) => text.push_str("the server does not say what it is\n"),
        (None, false) => text.push_str("nothing answers from here\n"),
    }
    for finding in &findings.findings {
        let state = match finding.state {
            State::Open => "OPEN       ",
            State::Closed => "closed     ",
            State::Unknown => "cannot tell",
        };
        text.push_str(&format!("{:>2}  {state}  {}: {}\n", finding.path, finding.name, finding.seen));
        if finding.state == State::Open {
            text.push_str(&format!("                 {}\n", finding.remedy));
        }
    }
    let (n_open, n_unknown) = (findings.count(State::Open), findings.count(State::Unknown));
    text.push_str(&format!("of {} paths {n_open} open, {n_unknown} cannot be told\n", findings.findings.len()));
    text
}
