//! When to stop: a first word to drain, a second to leave at once.

use std::future::Future;
use std::pin::Pin;

type Word = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The two words that end a server.
pub struct Shutdown {
    drain: Option<Word>,
    now: Option<Word>,
}

impl std::fmt::Debug for Shutdown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shutdown")
    }
}

impl Shutdown {
    /// Drains when `drain` ends, leaves at once when `now` ends.
    pub fn new(
        drain: impl Future<Output = ()> + Send + 'static,
        now: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        Self { drain: Some(Box::pin(drain)), now: Some(Box::pin(now)) }
    }

    /// Drains when `drain` ends.
    pub fn when(drain: impl Future<Output = ()> + Send + 'static) -> Self {
        Self::new(drain, std::future::pending())
    }

    /// The first SIGTERM or SIGINT is the first word, the second of either the second.
    ///
    /// # Errors
    /// When the system refuses the handlers. Needs a runtime.
    pub fn on_signals() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let (first_tx, first_rx) = tokio::sync::oneshot::channel::<()>();
        let (second_tx, second_rx) = tokio::sync::oneshot::channel::<()>();
        tokio::spawn(async move {
            for word in [first_tx, second_tx] {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                let _ = word.send(());
            }
        });
        Ok(Self::new(async { drop(first_rx.await) }, async { drop(second_rx.await) }))
    }

    /// Ends at the first word.
    pub(super) async fn drain(&mut self) {
        wait(&mut self.drain).await;
    }

    /// Ends at the second word.
    pub(super) async fn now(&mut self) {
        wait(&mut self.now).await;
    }
}

/// Waits for a word, also when it has been heard before.
async fn wait(word: &mut Option<Word>) {
    if let Some(heard) = word {
        heard.await;
    }
    *word = None;
}
