//! Where a server is: `http://host:port[/prefix]`, or `https://`, resolved anew for each connection.

use hyper::Uri;
use hyper::header::HeaderValue;

use crate::client::ClientError;

/// The address of one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) authority: HeaderValue,
    /// Whether TLS is spoken to it.
    pub(super) tls: bool,
    /// Stands before every path; without a slash at its end.
    pub(super) prefix: String,
}

impl Target {
    /// Parses `http://host:port[/prefix]`, or `https://` for TLS; without a scheme `http` is meant, without a port 80 or 443.
    ///
    /// # Errors
    /// [`ClientError::BadUrl`] for another scheme, no host, credentials or a query.
    pub fn parse(url: &str) -> Result<Self, ClientError> {
        let bad = |reason: &str| ClientError::BadUrl { url: url.to_owned(), reason: reason.to_owned() };
        let full = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        let uri: Uri = full.parse().map_err(|_| bad("it is not a URL"))?;
        let tls = match uri.scheme_str() {
            Some("http" | "grpc") => false,
            Some("https" | "grpcs") => true,
            _ => return Err(bad("it must begin with http:// or https://")),
        };
        #[cfg(not(feature = "tls"))]
        if tls {
            return Err(bad(crate::client::tls::NO_TLS));
        }
        let authority = uri.authority().ok_or_else(|| bad("it names no host"))?;
        if authority.as_str().contains('@') {
            return Err(bad("credentials in a URL are not sent"));
        }
        if uri.query().is_some() {
            return Err(bad("a query has no meaning here"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return Err(bad("it names no host"));
        }
        let value = HeaderValue::from_str(authority.as_str()).map_err(|_| bad("its host is no header value"))?;
        let prefix = uri.path().trim_end_matches('/').to_owned();
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        Ok(Self { host, port, authority: value, tls, prefix })
    }

    /// Whether TLS is spoken to it.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// `host:port`, for messages.
    #[must_use]
    pub fn shown(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        format!("{host}:{}", self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scheme_and_a_port_may_be_left_out() {
        let shown = |url: &str| Target::parse(url).map(|target| (target.shown(), target.prefix)).unwrap();
        assert_eq!(shown("http://triton:8000/"), ("triton:8000".to_owned(), String::new()));
        assert_eq!(shown("localhost:8085"), ("localhost:8085".to_owned(), String::new()));
        assert_eq!(shown("http://[::1]:1/a/b"), ("[::1]:1".to_owned(), "/a/b".to_owned()));
        assert_eq!(shown("clf-predictor.default"), ("clf-predictor.default:80".to_owned(), String::new()));
    }

    #[test]
    fn what_cannot_be_dialled_is_told() {
        #[cfg(not(feature = "tls"))]
        assert!(Target::parse("https://a").unwrap_err().to_string().contains("feature tls"));
        #[cfg(feature = "tls")]
        assert_eq!(Target::parse("grpcs://a").map(|target| (target.tls, target.port)).unwrap(), (true, 443));
        for url in ["", "ftp://a", "http://u:p@a", "http://", "http://a/?x=1", "a b"] {
            assert!(matches!(Target::parse(url), Err(ClientError::BadUrl { .. })), "{url}");
        }
    }
}
