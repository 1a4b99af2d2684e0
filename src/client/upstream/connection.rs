//! One keep-alive HTTP/1.1 connection that is driven by whoever waits for its answer: no task of its own stands between the
//! socket and the request, and dropping a request closes its connection, which tells the other server.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::Poll;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Bytes};
use hyper::client::conn::http1::{Connection as Driver, SendRequest, handshake};
use hyper::header::HeaderMap;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;

use super::dialer::Dialer;
use crate::client::stream::{LastWords, Stream};
use crate::engine::upstream::Fault;

/// A whole answer.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// How an exchange failed.
#[derive(Debug)]
pub(super) enum Broken {
    /// Not a byte of the request left: it may be sent elsewhere. With the words of TLS, where that ended the connection.
    Unsent(Box<Request<Full<Bytes>>>, Option<String>),
    /// The other side may have got it.
    Sent(Fault),
}

type Io = TokioIo<Stream>;

/// What moves a connection on; none once it has ended.
type Driven = Option<Pin<Box<Driver<Io, Full<Bytes>>>>>;

/// An open connection.
pub(super) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driver: Driven,
    words: LastWords,
}

impl Connection {
    /// A new connection.
    ///
    /// # Errors
    /// [`Fault::Unreachable`] and [`Fault::Handshake`].
    pub(super) async fn open(dialer: &Dialer) -> Result<Self, Fault> {
        let words = LastWords::default();
        let stream = dialer.open(&words).await?;
        let (sender, driver) = handshake(TokioIo::new(stream)).await.map_err(|_| Fault::Unreachable)?;
        Ok(Self { sender, driver: Some(Box::pin(driver)), words })
    }

    /// Whether another request may be sent: the other side has not closed in the meantime.
    pub(super) async fn is_usable(&mut self) -> bool {
        let Self { sender, driver, .. } = self;
        // One turn reads an end that has come; then the sender knows.
        drive(driver, std::future::ready(())).await;
        driver.is_some() && drive(driver, sender.ready()).await.is_ok()
    }

    /// Sends a request and reads the whole answer, of at most `max_bytes` of body. After a failure the connection is not
    /// to be used again.
    pub(super) async fn exchange(&mut self, request: Request<Full<Bytes>>, max_bytes: usize) -> Result<Reply, Broken> {
        let Self { sender, driver, words } = self;
        let head = drive(driver, sender.try_send_request(request)).await;
        let head = head.map_err(|mut error| match error.take_message() {
            Some(request) => Broken::Unsent(Box::new(request), words.get()),
            None => Broken::Sent(broken_off(words)),
        })?;
        read(driver, words, head, max_bytes).await.map_err(Broken::Sent)
    }
}

/// How a connection ended inside of an exchange.
fn broken_off(words: &LastWords) -> Fault {
    words.get().map_or(Fault::BrokenOff, Fault::TlsEnded)
}

async fn read(
    driver: &mut Driven,
    words: &LastWords,
    head: Response<hyper::body::Incoming>,
    max_bytes: usize,
) -> Result<Reply, Fault> {
    let (head, mut body) = head.into_parts();
    let too_long = || Fault::TooLong { max_bytes };
    if usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX) > max_bytes {
        return Err(too_long());
    }
    let mut first = Bytes::new();
    let mut rest: Vec<u8> = Vec::new();
    while let Some(frame) = drive(driver, body.frame()).await {
        let Ok(data) = frame.map_err(|_| broken_off(words))?.into_data() else { continue };
        if first.len() + rest.len() + data.len() > max_bytes {
            return Err(too_long());
        }
        if first.is_empty() && rest.is_empty() {
            first = data;
        } else {
            if rest.is_empty() {
                rest.extend_from_slice(&first);
                first = Bytes::new();
            }
            rest.extend_from_slice(&data);
        }
    }
    let body = if rest.is_empty() { first } else { rest.into() };
    Ok(Reply { status: head.status.as_u16(), headers: head.headers, body })
}

/// Waits for `work` and moves the connection on beside it.
async fn drive<T>(driver: &mut Driven, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    std::future::poll_fn(move |context| {
        if let Some(running) = driver
            && running.as_mut().poll(context).is_ready()
        {
            *driver = None;
        }
        if let Poll::Ready(done) = work.as_mut().poll(context) {
            return Poll::Ready(done);
        }
        // What was just asked for is to be written without waiting for another word from the socket.
        if let Some(running) = driver
            && running.as_mut().poll(context).is_ready()
        {
            *driver = None;
        }
        work.as_mut().poll(context)
    })
    .await
}
