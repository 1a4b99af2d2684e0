//! Ctrl-C and SIGTERM: the first ends the training behind the running step, the second ends the process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

/// The exit code after Ctrl-C, as shells count it: 128 + SIGINT.
const EXIT_INTERRUPTED: u8 = 130;

/// The exit code after SIGTERM, counted the same way.
#[cfg(unix)]
const EXIT_TERMINATED: u8 = 143;

/// Raised by the first Ctrl-C or SIGTERM; the second ends the process at once.
pub(in crate::cli) struct Stop {
    pub(in crate::cli) flag: Arc<AtomicBool>,
    pub(in crate::cli) exit_code: Arc<AtomicU8>,
}

impl Stop {
    pub(in crate::cli) fn listen() -> anyhow::Result<Self> {
        let stop =
            Self { flag: Arc::new(AtomicBool::new(false)), exit_code: Arc::new(AtomicU8::new(EXIT_INTERRUPTED)) };
        let (flag, exit_code) = (Arc::clone(&stop.flag), Arc::clone(&stop.exit_code));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        // Registered before training starts, on this thread, so that no early signal is lost.
        let mut signals = {
            let _guard = runtime.enter();
            Signals::listen()?
        };
        std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            exit_code.store(runtime.block_on(signals.next()), Ordering::Relaxed);
            flag.store(true, Ordering::Relaxed);
            eprintln!("finishing the running step; a second Ctrl-C loses it");
            std::process::exit(i32::from(runtime.block_on(signals.next())));
        })?;
        Ok(stop)
    }
}

#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn listen() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Waits for a signal and names the exit code that it asks for.
    async fn next(&mut self) -> u8 {
        tokio::select! {
            _ = self.interrupt.recv() => EXIT_INTERRUPTED,
            _ = self.terminate.recv() => EXIT_TERMINATED,
        }
    }
}

#[cfg(windows)]
struct Signals(tokio::signal::windows::CtrlC);

#[cfg(windows)]
impl Signals {
    fn listen() -> std::io::Result<Self> {
        tokio::signal::windows::ctrl_c().map(Self)
    }

    async fn next(&mut self) -> u8 {
        self.0.recv().await;
        EXIT_INTERRUPTED
    }
}
