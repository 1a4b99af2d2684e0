//! What a connection runs over: TCP, or TLS over it, in builds that have the feature `tls`; and what TLS last said of it.

use std::io;
use std::pin::Pin;
#[cfg(feature = "tls")]
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

#[cfg(feature = "tls")]
use tokio::io::AsyncBufRead as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
#[cfg(feature = "tls")]
use tokio_rustls::client::TlsStream;

/// Why TLS ended a connection, if it was TLS that did. The protocols above lose the error itself on its way: HTTP/2 keeps
/// its text alone.
#[derive(Debug, Clone, Default)]
pub(super) struct LastWords(#[cfg(feature = "tls")] Arc<Mutex<Option<String>>>);

impl LastWords {
    /// What TLS said, in words of ours.
    pub(super) fn get(&self) -> Option<String> {
        #[cfg(feature = "tls")]
        return self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        #[cfg(not(feature = "tls"))]
        None
    }

    /// Nothing has been said: for a new connection.
    pub(super) fn forget(&self) {
        #[cfg(feature = "tls")]
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    #[cfg(feature = "tls")]
    fn hear<T>(&self, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(error)) = &outcome
            && let Some(words) = super::tls::words(error)
        {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(words);
        }
        outcome
    }
}

/// An open connection.
pub(super) enum Stream {
    Plain(TcpStream),
    #[cfg(feature = "tls")]
    Tls(Secured),
}

/// TLS over TCP.
#[cfg(feature = "tls")]
pub(super) struct Secured {
    stream: Box<TlsStream<TcpStream>>,
    words: LastWords,
    /// A write that failed because the other side has gone.
    failed: Option<io::Error>,
}

#[cfg(feature = "tls")]
impl Secured {
    /// What TLS says of `stream` from now on goes to `words`.
    pub(super) fn new(stream: TlsStream<TcpStream>, words: &LastWords) -> Self {
        Self { stream: Box::new(stream), words: words.clone(), failed: None }
    }

    /// Writes. A write that fails because the other side has gone has its reason in what can still be read: that is waited
    /// for, and comes at once, since the connection has ended.
    fn write<T>(
        &mut self,
        context: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut TlsStream<TcpStream>>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
        let error = match self.failed.take() {
            Some(error) => error,
            None => match self.words.hear(write(Pin::new(&mut self.stream), context)) {
                Poll::Ready(Err(error)) if [BrokenPipe, ConnectionAborted, ConnectionReset].contains(&error.kind()) => {
                    error
                }
                outcome => return outcome,
            },
        };
        if self.words.hear(Pin::new(&mut self.stream).poll_fill_buf(context)).is_pending() {
            self.failed = Some(error);
            return Poll::Pending;
        }
        Poll::Ready(Err(error))
    }
}

/// Calls a method that writes, of whichever it is.
macro_rules! either {
    ($stream:expr, $method:ident($context:expr $(, $argument:expr)*)) => {
        match &mut *$stream {
            Stream::Plain(stream) => Pin::new(stream).$method($context $(, $argument)*),
            #[cfg(feature = "tls")]
            Stream::Tls(tls) => tls.write($context, |stream, context| stream.$method(context $(, $argument)*)),
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, into),
            #[cfg(feature = "tls")]
            Self::Tls(tls) => tls.words.hear(Pin::new(&mut tls.stream).poll_read(context, into)),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        either!(self, poll_write(context, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self, poll_write_vectored(context, parts))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            #[cfg(feature = "tls")]
            Self::Tls(tls) => tls.stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, poll_flush(context))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, poll_shutdown(context))
    }
}
