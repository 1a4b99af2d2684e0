//! Opens connections to one server, over TLS where its address asks for it.

use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::UpstreamConfig;
use super::target::Target;
#[cfg(feature = "tls")]
use crate::client::stream::Secured;
use crate::client::stream::{LastWords, Stream};
#[cfg(feature = "tls")]
use crate::client::tls::{self, Connector, Inside};
use crate::engine::upstream::Fault;

/// Opens connections to one server.
#[derive(Clone)]
pub(super) struct Dialer {
    host: String,
    port: u16,
    /// How long all of it may take, TLS included.
    patience: Duration,
    #[cfg(feature = "tls")]
    tls: Option<(Connector, Inside)>,
}

impl Dialer {
    /// For connections to `target`, over HTTP/2 or HTTP/1.1.
    ///
    /// # Errors
    /// [`Fault::Tls`] where TLS to it cannot be spoken with these settings.
    pub(super) fn new(target: &Target, config: &UpstreamConfig, over_http2: bool) -> Result<Self, Fault> {
        let (host, port, patience) = (target.host.clone(), target.port, config.connect_timeout);
        #[cfg(feature = "tls")]
        {
            let inside = if over_http2 { Inside::Http2 } else { Inside::Http1 };
            let tls = target.tls.then(|| Connector::new(&host, &config.tls)).transpose().map_err(Fault::Tls)?;
            Ok(Self { host, port, patience, tls: tls.map(|connector| (connector, inside)) })
        }
        #[cfg(not(feature = "tls"))]
        {
            let _ = over_http2;
            let none = || Fault::Tls(crate::client::tls::NO_TLS.to_owned());
            if target.tls { Err(none()) } else { Ok(Self { host, port, patience }) }
        }
    }

    /// Dials the first address that takes it. What TLS says of the connection goes to `words`, from nothing on.
    ///
    /// # Errors
    /// [`Fault::Unreachable`] and [`Fault::Handshake`].
    pub(super) async fn open(&self, words: &LastWords) -> Result<Stream, Fault> {
        words.forget();
        timeout(self.patience, self.dial(words)).await.unwrap_or(Err(Fault::Unreachable))
    }

    async fn dial(&self, words: &LastWords) -> Result<Stream, Fault> {
        let stream = TcpStream::connect((&*self.host, self.port)).await.map_err(|_| Fault::Unreachable)?;
        stream.set_nodelay(true).map_err(|_| Fault::Unreachable)?;
        #[cfg(feature = "tls")]
        if let Some((connector, inside)) = &self.tls {
            let cut = || "the connection broke off inside of it".to_owned();
            let stream = connector.connect(stream, *inside).await;
            let stream = stream.map_err(|error| Fault::Handshake(tls::words(&error).unwrap_or_else(cut)))?;
            return Ok(Stream::Tls(Secured::new(stream, words)));
        }
        let _ = words;
        Ok(Stream::Plain(stream))
    }
}
