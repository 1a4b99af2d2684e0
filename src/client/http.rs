//! One keep-alive HTTP/1.1 connection, one exchange at a time.
//!
//! No pool and no redirects: whoever needs `n` connections opens `n` of them, which is what a load generator must
//! control anyway.

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{HOST, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::ClientError;
use super::endpoint::Endpoint;

/// Longest answer that is read.
pub const MAX_REPLY_BYTES: usize = 64 * 1024 * 1024;

/// Tells the length of the JSON part of a body that ends in raw tensors.
pub static INFERENCE_HEADER_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

/// A request, ready to be sent any number of times.
#[derive(Debug, Clone)]
pub struct Call {
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
        Ok(Self { method: Method::GET, path: uri(path)?, headers: HeaderMap::new(), body: Bytes::new() })
    }

    /// A `POST` of `body` to `path`, with the headers given.
    ///
    /// # Errors
    ///
    /// [`ClientError::BadUrl`] if `path` is not the path of a URL.
    pub fn post(path: &str, headers: HeaderMap, body: Bytes) -> Result<Self, ClientError> {
        Ok(Self { method: Method::POST, path: uri(path)?, headers, body })
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
    /// The body, at most [`MAX_REPLY_BYTES`].
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
    sender: SendRequest<Full<Bytes>>,
    host: HeaderValue,
}

impl Connection {
    /// Dials `endpoint` and spawns the task that drives the connection on the current runtime.
    ///
    /// # Errors
    ///
    /// [`ClientError::Connect`], or [`ClientError::Exchange`] if the connection closes at once.
    pub async fn open(endpoint: &Endpoint) -> Result<Self, ClientError> {
        let address = endpoint.address();
        let connect = |source| ClientError::Connect { address, source };
        let stream = TcpStream::connect(address).await.map_err(connect)?;
        stream.set_nodelay(true).map_err(connect)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(exchange)?;
        // Its failure reaches the caller through `sender`.
        tokio::spawn(async move { connection.await.ok() });
        let host = HeaderValue::from_str(endpoint.authority())
            .map_err(|_| ClientError::Exchange("the host is not a header value".to_owned()))?;
        Ok(Self { sender, host })
    }

    /// Sends `call` and reads the whole answer. After an error the connection is not to be used again.
    ///
    /// # Errors
    ///
    /// [`ClientError::Exchange`] and [`ClientError::TooLong`].
    pub async fn send(&mut self, call: &Call) -> Result<Reply, ClientError> {
        self.sender.ready().await.map_err(exchange)?;
        let mut request = Request::new(Full::new(call.body.clone()));
        *request.method_mut() = call.method.clone();
        *request.uri_mut() = call.path.clone();
        *request.headers_mut() = call.headers.clone();
        request.headers_mut().insert(HOST, self.host.clone());
        let (head, body) = self.sender.send_request(request).await.map_err(exchange)?.into_parts();
        let body = Limited::new(body, MAX_REPLY_BYTES).collect().await.map_err(|error| {
            if error.is::<http_body_util::LengthLimitError>() {
                ClientError::TooLong { max_bytes: MAX_REPLY_BYTES }
            } else {
                ClientError::Exchange(error.to_string())
            }
        })?;
        Ok(Reply { status: head.status.as_u16(), headers: head.headers, body: body.to_bytes() })
    }
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
