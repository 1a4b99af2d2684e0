//! One keep-alive connection, HTTP/1.1 or gRPC over HTTP/2, one exchange at a time.
//!
//! No pool and no redirects: whoever needs `n` connections opens `n` of them, which is what a load generator must
//! control anyway.

use http_body_util::{BodyExt, Collected, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, TE};
use hyper::{Method, Request, Response, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::ClientError;
use super::endpoint::Endpoint;
use super::stream::LastWords;

/// Longest answer that is read.
pub const MAX_REPLY_BYTES: usize = 64 * 1024 * 1024;

/// Tells the length of the JSON part of a body that ends in raw tensors.
pub static INFERENCE_HEADER_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

/// Bytes before a gRPC message: whether it is packed, and its length.
const GRPC_PREFIX: usize = 5;

/// What a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// HTTP/1.1.
    Http1,
    /// gRPC over HTTP/2 that nobody negotiates.
    Grpc,
}

/// A request, ready to be sent any number of times.
#[derive(Debug, Clone)]
pub struct Call {
    wire: Wire,
    method: Method,
    path: Uri,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Call {
    /// A `GET` of `path`.
    ///
    /// # Errors
    ///
    /// [`ClientError::BadUrl`] if `path` is not the path of a URL.
    pub fn get(path: &str) -> Result<Self, ClientError> {
        Ok(Self::of(Wire::Http1, Method::GET, uri(path)?, HeaderMap::new(), Bytes::new()))
    }

    /// A `POST` of `body` to `path`, with the headers given.
    ///
    /// # Errors
    ///
    /// [`ClientError::BadUrl`] if `path` is not the path of a URL.
    pub fn post(path: &str, headers: HeaderMap, body: Bytes) -> Result<Self, ClientError> {
        Ok(Self::of(Wire::Http1, Method::POST, uri(path)?, headers, body))
    }

    /// A gRPC call of `path` (`/package.Service/Method`) with one message, not packed.
    ///
    /// # Errors
    ///
    /// [`ClientError::BadUrl`] if `path` is not the path of a URL, [`ClientError::TooLong`] for 4 GiB and more.
    pub fn grpc(path: &str, message: &[u8]) -> Result<Self, ClientError> {
        let length = u32::try_from(message.len()).map_err(|_| ClientError::TooLong { max_bytes: u32::MAX as usize })?;
        let mut body = Vec::with_capacity(GRPC_PREFIX + message.len());
        body.push(0);
        body.extend(length.to_be_bytes());
        body.extend(message);
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(TE, HeaderValue::from_static("trailers"));
        Ok(Self::of(Wire::Grpc, Method::POST, uri(path)?, headers, Bytes::from(body)))
    }

    fn of(wire: Wire, method: Method, path: Uri, headers: HeaderMap, body: Bytes) -> Self {
        Self { wire, method, path, headers, body }
    }

    /// What a connection must speak to send it.
    #[must_use]
    pub fn wire(&self) -> Wire {
        self.wire
    }

    /// Bytes of the body.
    #[must_use]
    pub fn body_len(&self) -> usize {
        self.body.len()
    }
}

fn uri(path: &str) -> Result<Uri, ClientError> {
    let bad = || ClientError::BadUrl { url: path.to_owned(), reason: "it is not a path".to_owned() };
    if !path.starts_with('/') {
        return Err(bad());
    }
    path.parse().map_err(|_| bad())
}

/// A whole answer.
#[derive(Debug)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// Headers as they came.
    pub headers: HeaderMap,
    /// The body, at most [`MAX_REPLY_BYTES`]; of a gRPC answer its message.
    pub body: Bytes,
}

impl Reply {
    /// The answer if its status is 200.
    ///
    /// # Errors
    ///
    /// [`ClientError::Status`] with the first 200 characters of the body.
    pub fn expect_ok(self, path: &str) -> Result<Self, ClientError> {
        if self.status == 200 {
            return Ok(self);
        }
        let text: String = String::from_utf8_lossy(&self.body)
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .take(200)
            .collect();
        Err(ClientError::Status { path: path.to_owned(), status: self.status, text })
    }
}

/// An open connection. Dropping it closes it.
#[derive(Debug)]
pub struct Connection {
    sender: Sender,
    endpoint: Endpoint,
    authority: HeaderValue,
    words: LastWords,
}

#[derive(Debug)]
enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Grpc(http2::SendRequest<Full<Bytes>>),
}

impl Connection {
    /// Dials `endpoint` for HTTP/1.1 and spawns the task that drives the connection on the current runtime.
    ///
    /// # Errors
    ///
    /// [`ClientError::Connect`], [`ClientError::Tls`], or [`ClientError::Exchange`] if the connection closes at once.
    pub async fn open(endpoint: &Endpoint) -> Result<Self, ClientError> {
        Self::open_for(endpoint, Wire::Http1).await
    }

    /// As [`Self::open`], for calls of `wire`.
    ///
    /// # Errors
    ///
    /// As [`Self::open`].
    pub async fn open_for(endpoint: &Endpoint, wire: Wire) -> Result<Self, ClientError> {
        let words = LastWords::default();
        let io = TokioIo::new(endpoint.dial(wire, &words).await?);
        let ended = |error| endpoint.ended(exchange(error), &words);
        // The failure of a connection reaches the caller through its sender.
        let sender = match wire {
            Wire::Http1 => {
                let (sender, connection) = http1::handshake(io).await.map_err(ended)?;
                tokio::spawn(async move { connection.await.ok() });
                Sender::Http1(sender)
            }
            Wire::Grpc => {
                let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.map_err(ended)?;
                tokio::spawn(async move { connection.await.ok() });
                Sender::Grpc(sender)
            }
        };
        let authority = HeaderValue::from_str(endpoint.authority())
            .map_err(|_| ClientError::Exchange("the host is not a header value".to_owned()))?;
        Ok(Self { sender, endpoint: endpoint.clone(), authority, words })
    }

    /// Sends `call` and reads the whole answer. After an error the connection is not to be used again.
    ///
    /// # Errors
    ///
    /// [`ClientError::Exchange`], also for a call of another wire; [`ClientError::Tls`] where that ended the connection;
    /// [`ClientError::TooLong`]; [`ClientError::Grpc`] for a gRPC status other than 0.
    pub async fn send(&mut self, call: &Call) -> Result<Reply, ClientError> {
        // Of a client certificate that is missing or not liked, a server may tell only now.
        self.exchange(call).await.map_err(|error| self.endpoint.ended(error, &self.words))
    }

    async fn exchange(&mut self, call: &Call) -> Result<Reply, ClientError> {
        let mut request = Request::new(Full::new(call.body.clone()));
        *request.method_mut() = call.method.clone();
        request.headers_mut().clone_from(&call.headers);
        match (&mut self.sender, call.wire) {
            (Sender::Http1(sender), Wire::Http1) => {
                *request.uri_mut() = call.path.clone();
                request.headers_mut().insert(HOST, self.authority.clone());
                sender.ready().await.map_err(exchange)?;
                let (head, body) = read(sender.send_request(request).await.map_err(exchange)?).await?;
                Ok(Reply { status: head.status.as_u16(), headers: head.headers, body: body.to_bytes() })
            }
            (Sender::Grpc(sender), Wire::Grpc) => {
                *request.uri_mut() = absolute(self.endpoint.scheme(), &self.authority, &call.path)?;
                sender.ready().await.map_err(exchange)?;
                let (head, body) = read(sender.send_request(request).await.map_err(exchange)?).await?;
                let code = grpc_status(body.trailers().unwrap_or(&head.headers));
                let body = body.to_bytes();
                match code {
                    Some(0) if body.first() == Some(&0) && body.len() >= GRPC_PREFIX => {
                        let body = body.slice(GRPC_PREFIX..);
                        Ok(Reply { status: head.status.as_u16(), headers: head.headers, body })
                    }
                    Some(0) | None => Err(ClientError::Exchange("the answer is not a plain gRPC message".to_owned())),
                    Some(code) => Err(ClientError::Grpc(code)),
                }
            }
            _ => Err(ClientError::Exchange("the call is not what this connection speaks".to_owned())),
        }
    }
}

async fn read(response: Response<Incoming>) -> Result<(hyper::http::response::Parts, Collected<Bytes>), ClientError> {
    let (head, body) = response.into_parts();
    let body = Limited::new(body, MAX_REPLY_BYTES).collect().await.map_err(|error| {
        if error.is::<http_body_util::LengthLimitError>() {
            ClientError::TooLong { max_bytes: MAX_REPLY_BYTES }
        } else {
            ClientError::Exchange(error.to_string())
        }
    })?;
    Ok((head, body))
}

/// HTTP/2 wants the whole address.
fn absolute(scheme: &str, authority: &HeaderValue, path: &Uri) -> Result<Uri, ClientError> {
    let path = path.path_and_query().map_or("/", |path| path.as_str());
    let uri = Uri::builder().scheme(scheme).authority(authority.as_bytes()).path_and_query(path).build();
    uri.map_err(|_| ClientError::Exchange("the address is not one for HTTP/2".to_owned()))
}

fn grpc_status(headers: &HeaderMap) -> Option<u32> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

fn exchange(error: hyper::Error) -> ClientError {
    ClientError::Exchange(error.to_string())
}

/// Opens a connection for one `GET` of `path` and gives the answer, whatever its status.
///
/// # Errors
///
/// As [`Connection::open`] and [`Connection::send`], and [`ClientError::Timeout`].
pub async fn get(endpoint: &Endpoint, path: &str, timeout: std::time::Duration) -> Result<Reply, ClientError> {
    let call = Call::get(path)?;
    let exchange = async { Connection::open(endpoint).await?.send(&call).await };
    tokio::time::timeout(timeout, exchange).await.map_err(|_| ClientError::Timeout(timeout))?
}
