//! What a connection to a server runs over: TCP, or TLS over it, in builds that have the feature `tls`.
//!
//! The server's certificate is always checked, against the authorities of a file or else those that the machine trusts; there is
//! no way to switch that off. A client certificate is shown where the settings name one. What fails is told in words of
//! ours: an error of the library quotes what the other side sent.

use std::error::Error;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::UpstreamConfig;
use super::target::Target;
use crate::engine::upstream::Fault;

/// What TLS needs beside an address. The files' contents are PEM.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct TlsSettings {
    /// Certificates of the authorities that are trusted, and no others; none: those that the machine trusts.
    pub authorities: Option<Vec<u8>>,
    /// The client's certificate with those between it and its authority, and its key.
    pub client: Option<(Vec<u8>, Vec<u8>)>,
    /// The name that the server's certificate must hold; none: the host of the address.
    pub server_name: Option<String>,
}

/// Shows what is there, not what it is.
impl fmt::Debug for TlsSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (authorities, client) = (self.authorities.is_some(), self.client.is_some());
        write!(f, "TlsSettings(authorities: {authorities}, client: {client}, server_name: {:?})", self.server_name)
    }
}

/// Which protocol is spoken inside of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Inside {
    Http1,
    Http2,
}

/// Opens connections to one server.
#[derive(Clone)]
pub(super) struct Dialer {
    host: String,
    port: u16,
    /// How long all of it may take, TLS included.
    patience: Duration,
    #[cfg(feature = "tls")]
    tls: Option<tls::Connector>,
}

impl Dialer {
    /// For connections to `target`.
    ///
    /// # Errors
    /// [`Fault::Tls`] where TLS to it cannot be spoken with these settings.
    pub(super) fn new(target: &Target, config: &UpstreamConfig, inside: Inside) -> Result<Self, Fault> {
        let (host, port, patience) = (target.host.clone(), target.port, config.connect_timeout);
        #[cfg(feature = "tls")]
        {
            let tls = target.tls.then(|| tls::Connector::new(&host, &config.tls, inside)).transpose();
            Ok(Self { host, port, patience, tls: tls.map_err(Fault::Tls)? })
        }
        #[cfg(not(feature = "tls"))]
        {
            let _ = inside;
            if target.tls { Err(Fault::Tls(NO_TLS.to_owned())) } else { Ok(Self { host, port, patience }) }
        }
    }

    /// Dials the first address that takes it.
    ///
    /// # Errors
    /// [`Fault::Unreachable`] and [`Fault::Handshake`].
    pub(super) async fn open(&self) -> Result<Stream, Fault> {
        timeout(self.patience, self.dial()).await.unwrap_or(Err(Fault::Unreachable))
    }

    async fn dial(&self) -> Result<Stream, Fault> {
        let stream = TcpStream::connect((&*self.host, self.port)).await.map_err(|_| Fault::Unreachable)?;
        stream.set_nodelay(true).map_err(|_| Fault::Unreachable)?;
        #[cfg(feature = "tls")]
        if let Some(connector) = &self.tls {
            return Ok(Stream::Tls(Box::new(connector.connect(stream).await.map_err(Fault::Handshake)?)));
        }
        Ok(Stream::Plain(stream))
    }
}

/// What is said where TLS is asked of a build without it.
#[cfg(not(feature = "tls"))]
pub(super) const NO_TLS: &str =
    "this build has no TLS (feature tls); reach the server over loopback, or through a mesh that encrypts";

/// Why TLS ended a connection, if it was TLS that did.
pub(super) fn tls_ended(error: &(dyn Error + 'static)) -> Option<String> {
    #[cfg(feature = "tls")]
    {
        let mut source = Some(error);
        while let Some(error) = source {
            if let Some(words) = error.downcast_ref::<io::Error>().and_then(tls::words) {
                return Some(words);
            }
            source = error.source();
        }
    }
    let _ = error;
    None
}

/// An open connection.
pub(super) enum Stream {
    Plain(TcpStream),
    #[cfg(feature = "tls")]
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

/// Calls a method of whichever it is.
macro_rules! either {
    ($stream:expr, $method:ident($($argument:expr),*)) => {
        match &mut *$stream {
            Stream::Plain(stream) => Pin::new(stream).$method($($argument),*),
            #[cfg(feature = "tls")]
            Stream::Tls(stream) => Pin::new(stream).$method($($argument),*),
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        either!(self, poll_read(context, into))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        either!(self, poll_write(context, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self, poll_write_vectored(context, parts))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, poll_flush(context))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, poll_shutdown(context))
    }
}

#[cfg(feature = "tls")]
mod tls {
    use std::io;
    use std::sync::Arc;

    use tokio::net::TcpStream;
    use tokio_rustls::TlsConnector;
    use tokio_rustls::client::TlsStream;
    use tokio_rustls::rustls::crypto::ring::default_provider;
    use tokio_rustls::rustls::pki_types::pem::PemObject as _;
    use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
    use tokio_rustls::rustls::{CertificateError, ClientConfig, Error, RootCertStore};

    use super::{Inside, TlsSettings};

    /// Speaks TLS to the server of one name.
    #[derive(Clone)]
    pub(super) struct Connector {
        connector: TlsConnector,
        name: ServerName<'static>,
    }

    impl Connector {
        pub(super) fn new(host: &str, settings: &TlsSettings, inside: Inside) -> Result<Self, String> {
            let name = settings.server_name.as_deref().unwrap_or(host);
            let name = ServerName::try_from(name.to_owned())
                .map_err(|_| format!("'{name}' is no name that a certificate can hold"))?;
            let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
                .with_safe_default_protocol_versions()
                .map_err(|error| error.to_string())?
                .with_root_certificates(roots(settings)?);
            let mut config = match &settings.client {
                None => builder.with_no_client_auth(),
                Some((certificates, key)) => {
                    let chain = certificates_of(certificates, "the file of the client certificate")?;
                    let key = PrivateKeyDer::from_pem_slice(key).map_err(
                        |_| "the file of the client key: expected one private key in PEM, without a password",
                    )?;
                    builder
                        .with_client_auth_cert(chain, key)
                        .map_err(|_| "the client key is of no use, or not that of the client certificate")?
                }
            };
            config.alpn_protocols = vec![match inside {
                Inside::Http1 => b"http/1.1".to_vec(),
                Inside::Http2 => b"h2".to_vec(),
            }];
            Ok(Self { connector: TlsConnector::from(Arc::new(config)), name })
        }

        /// # Errors
        /// Why the handshake failed.
        pub(super) async fn connect(&self, stream: TcpStream) -> Result<TlsStream<TcpStream>, String> {
            let handshake = self.connector.connect(self.name.clone(), stream).await;
            handshake
                .map_err(|error| words(&error).unwrap_or_else(|| "the connection broke off inside of it".to_owned()))
        }
    }

    fn roots(settings: &TlsSettings) -> Result<RootCertStore, String> {
        let mut roots = RootCertStore::empty();
        match &settings.authorities {
            Some(pem) => {
                for certificate in certificates_of(pem, "the file of authorities")? {
                    let added = roots.add(certificate);
                    added.map_err(|_| "the file of authorities holds a certificate that is of no use")?;
                }
            }
            None => {
                // Of a machine's store some may be of no use; an unreadable one counts as none.
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
        }
        if roots.is_empty() {
            return Err("this machine names no authorities that it trusts: name a file of them (ca_file)".to_owned());
        }
        Ok(roots)
    }

    fn certificates_of(pem: &[u8], what: &str) -> Result<Vec<CertificateDer<'static>>, String> {
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        let certificates = certificates.ok().filter(|certificates| !certificates.is_empty());
        certificates.ok_or_else(|| format!("{what}: expected certificates in PEM"))
    }

    /// What went wrong, if TLS it was. Nothing of what the other side sent is quoted.
    pub(super) fn words(error: &io::Error) -> Option<String> {
        let error = error.get_ref()?.downcast_ref::<Error>()?;
        Some(match error {
            Error::InvalidCertificate(error) => format!("the server's certificate {}", of_certificate(error)),
            Error::AlertReceived(alert) => format!("the server says {alert:?}"),
            Error::InvalidMessage(_) => "the server does not speak TLS on this port, or not as it should".to_owned(),
            Error::PeerIncompatible(_) => "no version or cipher in common with the server".to_owned(),
            Error::NoApplicationProtocol => "the server speaks another protocol inside of it".to_owned(),
            _ => "the server does not keep to the protocol".to_owned(),
        })
    }

    fn of_certificate(error: &CertificateError) -> &'static str {
        match error {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => "has expired",
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => "is not valid yet",
            CertificateError::UnknownIssuer => "is of no authority that is trusted here",
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "is for other names than the one asked for (see server_name)"
            }
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => "is not for servers",
            CertificateError::Revoked => "was revoked",
            _ => "cannot be accepted",
        }
    }
}
