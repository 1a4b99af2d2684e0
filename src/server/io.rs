//! A TCP stream with the two deadlines that the HTTP library has not: for the first bytes of a connection (it
//! waits for them to tell HTTP/1 from HTTP/2), and for a peer that does not read its answer.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// Length of the preface by which HTTP/2 is told; any HTTP/1 request that has come this far has its own timer.
const PREFACE: usize = 24;

/// A stream whose peer must keep moving.
#[derive(Debug)]
pub(super) struct TimedIo<S> {
    stream: S,
    first_bytes: Option<Pin<Box<Sleep>>>,
    n_read: usize,
    write_timeout: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> TimedIo<S> {
    /// `first_bytes` is the time for the first request to show itself, `write_timeout` that of a stalled write.
    pub(super) fn new(stream: S, first_bytes: Duration, write_timeout: Duration) -> Self {
        Self { stream, first_bytes: Some(Box::pin(sleep(first_bytes))), n_read: 0, write_timeout, stalled: None }
    }

    /// For what is not spoken in plain bytes: the time for the first ones runs elsewhere.
    #[cfg(feature = "tls")]
    pub(super) fn under_tls(stream: S, write_timeout: Duration) -> Self {
        Self { stream, first_bytes: None, n_read: 0, write_timeout, stalled: None }
    }

    /// Passes a write's result on, and fails it when it has been pending too long.
    fn guard_write(&mut self, cx: &mut Context<'_>, poll: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.first_bytes = None;
        if poll.is_ready() {
            self.stalled = None;
            return poll;
        }
        let timer = self.stalled.get_or_insert_with(|| Box::pin(sleep(self.write_timeout)));
        match timer.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for TimedIo<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        let poll = Pin::new(&mut this.stream).poll_read(cx, buf);
        if let Some(timer) = &mut this.first_bytes {
            this.n_read += buf.filled().len() - before;
            if this.n_read >= PREFACE {
                this.first_bytes = None;
            } else if poll.is_pending() && timer.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        poll
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for TimedIo<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.guard_write(cx, poll)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.guard_write(cx, poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    #[tokio::test(start_paused = true)]
    async fn a_silent_peer_is_released() {
        let (mut peer, ours) = duplex(64);
        let mut io = TimedIo::new(ours, Duration::from_secs(5), Duration::from_secs(7));
        peer.write_all(b"GET").await.unwrap();
        let mut buffer = [0; 3];
        io.read_exact(&mut buffer).await.unwrap();
        let started = tokio::time::Instant::now();
        assert_eq!(io.read(&mut buffer).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(started.elapsed().as_secs(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_does_not_read_is_released() {
        let (_peer, ours) = duplex(16);
        let mut io = TimedIo::new(ours, Duration::from_secs(5), Duration::from_secs(7));
        let started = tokio::time::Instant::now();
        assert_eq!(io.write_all(&[0; 64]).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(started.elapsed().as_secs(), 7);
    }
}
