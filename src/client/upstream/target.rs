//! Where a server is: `http://host:port[/prefix]`, resolved anew for each connection.

use hyper::Uri;
use hyper::header::HeaderValue;

use crate::client::ClientError;

/// The address of one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) authority: HeaderValue,
    /// Stands before every path; without a slash at its end.
    pub(super) prefix: String,
}

impl Target {
    /// Parses `http://host:port[/prefix]`; without a scheme `http` is meant, without a port 80.
    ///
    /// # Errors
    /// [`ClientError::BadUrl`] for another scheme, no host, credentials or a query.
    pub fn parse(url: &str) -> Result<Self, ClientError> {
        let bad = |reason: &str| ClientError::BadUrl { url: url.to_owned(), reason: reason.to_owned() };
        let full = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        let uri: Uri = full.parse().map_err(|_| bad("it is not a URL"))?;
        match uri.scheme_str() {
            Some("http" | "grpc") => {}
            Some("https" | "grpcs") => {
                return Err(bad("TLS is not spoken here; reach it over loopback, or through a mesh that encrypts"));
            }
            _ => return Err(bad("it must begin with http://")),
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
        Ok(Self { host, port: authority.port_u16().unwrap_or(80), authority: value, prefix })
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
        for url in ["", "https://a", "ftp://a", "http://u:p@a", "http://", "http://a/?x=1", "a b"] {
            assert!(matches!(Target::parse(url), Err(ClientError::BadUrl { .. })), "{url}");
        }
    }
}
