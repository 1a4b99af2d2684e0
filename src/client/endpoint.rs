//! Where a connection may lead: an `http` or `https` URL, resolved once, loopback unless somebody said otherwise.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};

use hyper::Uri;
use tokio::net::TcpStream;

use super::ClientError;
use super::http::Wire;
#[cfg(feature = "tls")]
use super::stream::Secured;
use super::stream::{LastWords, Stream};
use super::tls::TlsSettings;
#[cfg(feature = "tls")]
use super::tls::{Connector, Inside, words};

/// How far away an endpoint may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// This machine alone.
    Loopback,
    /// Any address: the caller has the consent of whoever runs it.
    Anywhere,
}

/// An address that was resolved and found to be within [`Reach`], with what TLS to it needs.
#[derive(Clone)]
pub struct Endpoint {
    authority: String,
    address: SocketAddr,
    path: String,
    #[cfg(feature = "tls")]
    tls: Option<Connector>,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Endpoint({} at {})", self.url(), self.address)
    }
}

impl Endpoint {
    /// As [`Self::with_tls`], for an `https` URL with the authorities that the machine trusts.
    ///
    /// # Errors
    ///
    /// As [`Self::with_tls`].
    pub fn parse(url: &str, reach: Reach) -> Result<Self, ClientError> {
        Self::with_tls(url, reach, &TlsSettings::default())
    }

    /// Parses and resolves `url`, such as `http://127.0.0.1:8000`; the port is 80 where none is given, 443 for `https`. The
    /// settings are for `https` alone.
    ///
    /// Of several addresses of a host the first is taken, and under [`Reach::Loopback`] it must be a loopback
    /// address. `localhost` is 127.0.0.1 without asking a resolver.
    ///
    /// # Errors
    ///
    /// [`ClientError::BadUrl`] for anything but an `http` or `https` URL with a host that resolves,
    /// [`ClientError::NotLoopback`], and [`ClientError::TlsSettings`].
    pub fn with_tls(url: &str, reach: Reach, settings: &TlsSettings) -> Result<Self, ClientError> {
        let bad = |reason: &str| ClientError::BadUrl { url: url.to_owned(), reason: reason.to_owned() };
        let uri: Uri = url.parse().map_err(|_| bad("it is not a URL"))?;
        let is_tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(bad("it must begin with http:// or https://")),
        };
        #[cfg(not(feature = "tls"))]
        if is_tls {
            let _ = settings;
            return Err(bad(super::tls::NO_TLS));
        }
        let authority = uri.authority().ok_or_else(|| bad("it names no host"))?;
        if authority.as_str().contains('@') {
            return Err(bad("credentials in a URL are not sent"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let ip = resolve(host, authority.port_u16().unwrap_or(if is_tls { 443 } else { 80 }))
            .ok_or_else(|| bad("its host does not resolve to an address"))?;
        if reach == Reach::Loopback && !ip.ip().is_loopback() {
            return Err(ClientError::NotLoopback { host: host.to_owned(), address: ip.ip() });
        }
        Ok(Self {
            authority: authority.as_str().to_owned(),
            address: ip,
            path: uri.path().trim_end_matches('/').to_owned(),
            #[cfg(feature = "tls")]
            tls: is_tls.then(|| Connector::new(host, settings)).transpose().map_err(ClientError::TlsSettings)?,
        })
    }

    /// The address to dial.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What goes into the `Host` header.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The path of the URL without a slash at its end; empty for the root.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// `https` where TLS is spoken to it, else `http`.
    #[must_use]
    pub fn scheme(&self) -> &'static str {
        #[cfg(feature = "tls")]
        if self.tls.is_some() {
            return "https";
        }
        "http"
    }

    /// The URL, without a slash at its end.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}://{}{}", self.scheme(), self.authority, self.path)
    }

    /// Dials it for calls of `wire`. What TLS says of the connection later goes to `words`.
    ///
    /// # Errors
    ///
    /// [`ClientError::Connect`], [`ClientError::Tls`], and [`ClientError::Exchange`] where the handshake was cut off.
    pub(super) async fn dial(&self, wire: Wire, words: &LastWords) -> Result<Stream, ClientError> {
        let address = self.address;
        let connect = |source| ClientError::Connect { address, source };
        let stream = TcpStream::connect(address).await.map_err(connect)?;
        stream.set_nodelay(true).map_err(connect)?;
        #[cfg(feature = "tls")]
        if let Some(connector) = &self.tls {
            let inside = match wire {
                Wire::Http1 => Inside::Http1,
                Wire::Grpc => Inside::Http2,
            };
            let stream = connector.connect(stream, inside).await.map_err(|error| match self::words(&error) {
                Some(reason) => ClientError::Tls { host: self.authority.clone(), reason },
                None => ClientError::Exchange("inside of the TLS handshake".to_owned()),
            })?;
            return Ok(Stream::Tls(Secured::new(stream, words)));
        }
        let _ = (wire, words);
        Ok(Stream::Plain(stream))
    }

    /// How an exchange with it ended: by what TLS said, where it broke off for that.
    pub(super) fn ended(&self, error: ClientError, words: &LastWords) -> ClientError {
        match (error, words.get()) {
            (ClientError::Exchange(_), Some(reason)) => ClientError::Tls { host: self.authority.clone(), reason },
            (error, _) => error,
        }
    }
}

fn resolve(host: &str, port: u16) -> Option<SocketAddr> {
    if host.eq_ignore_ascii_case("localhost") {
        return Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    }
    (host, port).to_socket_addrs().ok()?.next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_the_only_reach_by_default() {
        for url in ["http://127.0.0.1:8000", "http://localhost:8000/", "http://[::1]:1", "http://127.8.9.1"] {
            assert!(Endpoint::parse(url, Reach::Loopback).is_ok(), "{url}");
        }
        for url in ["http://192.0.2.1:8000", "http://0.0.0.0:8000", "http://[2001:db8::1]:80"] {
            let refused = Endpoint::parse(url, Reach::Loopback);
            assert!(matches!(refused, Err(ClientError::NotLoopback { .. })), "{url}: {refused:?}");
            assert!(Endpoint::parse(url, Reach::Anywhere).is_ok(), "{url}");
        }
    }

    #[test]
    fn other_schemes_and_credentials_are_refused() {
        for url in ["127.0.0.1:8000", "ftp://127.0.0.1", "http://", "http://a@127.0.0.1/", "https://a@127.0.0.1/", ""] {
            assert!(matches!(Endpoint::parse(url, Reach::Anywhere), Err(ClientError::BadUrl { .. })), "{url}");
        }
    }

    #[cfg(not(feature = "tls"))]
    #[test]
    fn a_build_without_tls_says_so() {
        let refused = Endpoint::parse("https://127.0.0.1", Reach::Loopback).unwrap_err();
        assert!(refused.to_string().contains("feature tls"), "{refused}");
    }

    #[cfg(feature = "tls")]
    #[test]
    fn tls_has_a_port_of_its_own_and_the_same_reach() {
        let authorities = include_bytes!("../../tests/fixtures/tls/test-authority.pem").to_vec();
        let settings = TlsSettings { authorities: Some(authorities), ..TlsSettings::default() };
        let endpoint = |url: &str, reach| Endpoint::with_tls(url, reach, &settings);
        let found = endpoint("https://localhost/v2/", Reach::Loopback).unwrap();
        assert_eq!((found.address().port(), found.url()), (443, "https://localhost/v2".to_owned()));
        let plain = endpoint("http://localhost", Reach::Loopback).unwrap();
        assert_eq!((plain.address().port(), plain.scheme()), (80, "http"));
        let refused = endpoint("https://192.0.2.1", Reach::Loopback);
        assert!(matches!(refused, Err(ClientError::NotLoopback { .. })), "{refused:?}");
    }

    #[test]
    fn the_path_keeps_no_slash_at_its_end() {
        let path = |url| Endpoint::parse(url, Reach::Loopback).map(|e| e.path().to_owned()).unwrap_or_default();
        assert_eq!(path("http://127.0.0.1:1/"), "");
        assert_eq!(path("http://127.0.0.1:1/v2/health/ready"), "/v2/health/ready");
    }
}
