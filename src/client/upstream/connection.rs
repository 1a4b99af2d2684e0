//! One keep-alive HTTP/1.1 connection that is driven by whoever waits for its answer: no task of its own stands between the
//! socket and the request, and dropping a request closes its connection, which tells the other server.
//!
//! There is one request at a time, written as a whole, and its answer is read as a whole: that is little enough to be done on
//! the socket itself, which takes a fifth of the instructions of a client for everything. Heads and chunk sizes are read
//! by `httparse`. A connection that is not exactly at the end of its answer carries no other request.

use std::io;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::reply::{self, Framing, Head};
use crate::engine::upstream::Fault;

/// So much room there is for what comes next, and so much is kept of it between two answers.
const ROOM: usize = 8 << 10;
/// An answer's body is made room for so far ahead, whatever length it declares.
const AHEAD: usize = 64 << 10;

/// A request, written.
#[derive(Debug)]
pub(super) struct Written {
    /// With the empty line at its end.
    pub(super) head: Bytes,
    pub(super) body: Bytes,
}

/// A whole answer.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    /// The length of the JSON part, as it says.
    pub(super) header_length: Option<String>,
    pub(super) is_compressed: bool,
    pub(super) body: Bytes,
}

/// How an exchange failed.
#[derive(Debug)]
pub(super) enum Broken {
    /// Not a byte of the request left: it may be sent elsewhere.
    Unsent,
    /// The other side may have got it.
    Sent(Fault),
}

/// An open connection.
pub(super) struct Connection {
    stream: TcpStream,
    /// What has come and has not been taken; empty between two exchanges.
    buffer: BytesMut,
    is_whole: bool,
}

impl Connection {
    /// Dials the first address that takes it.
    pub(super) async fn open(host: &str, port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect((host, port)).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: BytesMut::new(), is_whole: true })
    }

    /// Whether the last answer is at its end, and another request may follow.
    pub(super) fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// Whether another request may be sent: the last answer is at its end, and the other side has not closed in the meantime,
    /// nor sent what nobody asked for.
    pub(super) fn is_usable(&self) -> bool {
        let came = || self.stream.try_read(&mut [0]);
        self.is_whole && came().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Sends a request and reads the whole answer, of at most `max_bytes` of body.
    pub(super) async fn exchange(&mut self, request: &Written, max_bytes: usize) -> Result<Reply, Broken> {
        self.is_whole = false;
        let all_sent = self.send(request).await?;
        let (reply, keeps) = self.answer(max_bytes).await.map_err(Broken::Sent)?;
        self.is_whole = all_sent && keeps && self.buffer.is_empty();
        if self.buffer.capacity() > AHEAD {
            self.buffer = BytesMut::new();
        }
        Ok(reply)
    }

    /// Writes a request; whether all of it has left. One that is answered before is not written on.
    async fn send(&mut self, request: &Written) -> Result<bool, Broken> {
        let mut left = request.head.clone().chain(request.body.clone());
        let total = left.remaining();
        let (read, mut write) = self.stream.split();
        loop {
            tokio::select! {
                biased;
                written = write.write_all_buf(&mut left) => match written {
                    Ok(()) => return Ok(true),
                    Err(_) if left.remaining() == total => return Err(Broken::Unsent),
                    // Whoever closed may have said why.
                    Err(_) => return Ok(false),
                },
                _ = read.readable() => match read.try_read_buf(&mut self.buffer) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    _ => return Ok(false),
                },
            }
        }
    }

    /// Reads an answer; whether the connection may be used on, as far as that tells.
    async fn answer(&mut self, max_bytes: usize) -> Result<(Reply, bool), Fault> {
        let Head { status, framing, keeps, header_length, is_compressed } = self.head().await?;
        let body = match framing {
            Framing::Length(length) if length > max_bytes => return Err(Fault::TooLong { max_bytes }),
            Framing::Length(length) => {
                self.fill(length).await?;
                self.buffer.split_to(length).freeze()
            }
            Framing::Chunked => self.chunks(max_bytes).await?,
            Framing::UntilClosed => self.rest(max_bytes).await?,
        };
        Ok((Reply { status, header_length, is_compressed, body }, keeps))
    }

    /// Reads heads until that of the answer itself: those before it, of status 1xx, say nothing.
    async fn head(&mut self) -> Result<Head, Fault> {
        loop {
            match reply::head(&self.buffer)? {
                Some((Some(head), length)) => {
                    self.buffer.advance(length);
                    return Ok(head);
                }
                Some((None, length)) => self.buffer.advance(length),
                None => self.more().await?,
            }
        }
    }

    /// Reads until `length` bytes are there.
    async fn fill(&mut self, length: usize) -> Result<(), Fault> {
        while let Some(missing) = length.checked_sub(self.buffer.len()).filter(|&missing| missing > 0) {
            self.buffer.reserve(missing.clamp(ROOM, AHEAD));
            self.more().await?;
        }
        Ok(())
    }

    async fn chunks(&mut self, max_bytes: usize) -> Result<Bytes, Fault> {
        let mut body = BytesMut::new();
        loop {
            let Some((start, size)) = reply::chunk(&self.buffer)? else {
                self.more().await?;
                continue;
            };
            self.buffer.advance(start);
            if size == 0 {
                break;
            }
            if size > max_bytes - body.len() {
                return Err(Fault::TooLong { max_bytes });
            }
            self.fill(size).await?;
            body.extend_from_slice(&self.buffer.split_to(size));
            self.fill(2).await?;
            if &self.buffer.split_to(2)[..] != b"\r\n" {
                return Err(Fault::BrokenOff);
            }
        }
        loop {
            if let Some(length) = reply::trailers(&self.buffer)? {
                self.buffer.advance(length);
                return Ok(body.freeze());
            }
            self.more().await?;
        }
    }

    /// Everything until the other side closes.
    async fn rest(&mut self, max_bytes: usize) -> Result<Bytes, Fault> {
        loop {
            if self.buffer.len() > max_bytes {
                return Err(Fault::TooLong { max_bytes });
            }
            self.buffer.reserve(ROOM);
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(0) => return Ok(self.buffer.split().freeze()),
                Ok(_) => {}
                Err(_) => return Err(Fault::BrokenOff),
            }
        }
    }

    /// Reads what comes next, at least a byte.
    async fn more(&mut self) -> Result<(), Fault> {
        self.buffer.reserve(ROOM);
        match self.stream.read_buf(&mut self.buffer).await {
            Ok(n_read) if n_read > 0 => Ok(()),
            _ => Err(Fault::BrokenOff),
        }
    }
}
