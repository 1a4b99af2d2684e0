//! Where a connection may lead: a plain `http` URL, resolved once, loopback unless somebody said otherwise.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};

use hyper::Uri;

use super::ClientError;

/// How far away an endpoint may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// This machine alone.
    Loopback,
    /// Any address: the caller has the consent of whoever runs it.
    Anywhere,
}

/// An `http` address that was resolved and found to be within [`Reach`].
#[derive(Debug, Clone)]
pub struct Endpoint {
    authority: String,
    address: SocketAddr,
    path: String,
}

impl Endpoint {
    /// Parses and resolves `url`, such as `http://127.0.0.1:8000`; the port is 80 where none is given.
    ///
    /// Of several addresses of a host the first is taken, and under [`Reach::Loopback`] it must be a loopback
    /// address. `localhost` is 127.0.0.1 without asking a resolver.
    ///
    /// # Errors
    ///
    /// [`ClientError::BadUrl`] for anything but a plain `http` URL with a host that resolves, and
    /// [`ClientError::NotLoopback`].
    pub fn parse(url: &str, reach: Reach) -> Result<Self, ClientError> {
        let bad = |reason: &str| ClientError::BadUrl { url: url.to_owned(), reason: reason.to_owned() };
        let uri: Uri = url.parse().map_err(|_| bad("it is not a URL"))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => return Err(bad("TLS is not spoken here; give an http:// URL")),
            _ => return Err(bad("it must begin with http://")),
        }
        let authority = uri.authority().ok_or_else(|| bad("it names no host"))?;
        if authority.as_str().contains('@') {
            return Err(bad("credentials in a URL are not sent"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let ip = resolve(host, authority.port_u16().unwrap_or(80))
            .ok_or_else(|| bad("its host does not resolve to an address"))?;
        if reach == Reach::Loopback && !ip.ip().is_loopback() {
            return Err(ClientError::NotLoopback { host: host.to_owned(), address: ip.ip() });
        }
        let path = uri.path().trim_end_matches('/').to_owned();
        Ok(Self { authority: authority.as_str().to_owned(), address: ip, path })
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
        for url in ["https://127.0.0.1", "127.0.0.1:8000", "ftp://127.0.0.1", "http://", "http://a@127.0.0.1/", ""] {
            assert!(matches!(Endpoint::parse(url, Reach::Anywhere), Err(ClientError::BadUrl { .. })), "{url}");
        }
    }

    #[test]
    fn the_path_keeps_no_slash_at_its_end() {
        let path = |url| Endpoint::parse(url, Reach::Loopback).map(|e| e.path().to_owned()).unwrap_or_default();
        assert_eq!(path("http://127.0.0.1:1/"), "");
        assert_eq!(path("http://127.0.0.1:1/v2/health/ready"), "/v2/health/ready");
    }
}
