//! TLS as this side of a connection speaks it, in builds that have the feature `tls`: what it needs beside an address, and what
//! went wrong with it. Every command that dials has it from here; what is spoken over a connection is not known.
//!
//! The server's certificate is always checked, against the authorities of a file or else those that the machine trusts; there is
//! no way to switch that off. A client certificate is shown where the settings name one. What fails is told in words of
//! ours: an error of the library quotes what the other side sent.

use std::fmt;

#[cfg(feature = "tls")]
pub(super) use self::speaking::{Connector, Inside, words};

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

/// What ends the words of a server that wants a certificate of its clients.
const WANTS_CERTIFICATE: &str = ": it wants a client certificate";
/// The words for what answers, and not in TLS.
const IS_PLAIN: &str = "the server does not speak TLS on this port, or not as it should";

/// Whether these are words of a server that wants a certificate of its clients.
pub(super) fn wants_certificate(words: &str) -> bool {
    words.ends_with(WANTS_CERTIFICATE)
}

/// Whether these are the words for what answers, and not in TLS.
pub(super) fn is_plain(words: &str) -> bool {
    words == IS_PLAIN
}

/// What is said where TLS is asked of a build without it.
#[cfg(not(feature = "tls"))]
pub(super) const NO_TLS: &str =
    "this build has no TLS (feature tls); reach the server over loopback, or through a mesh that encrypts";

#[cfg(feature = "tls")]
mod speaking {
    use std::io;
    use std::sync::Arc;

    use tokio::net::TcpStream;
    use tokio_rustls::TlsConnector;
    use tokio_rustls::client::TlsStream;
    use tokio_rustls::rustls::crypto::ring::default_provider;
    use tokio_rustls::rustls::pki_types::pem::PemObject as _;
    use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
    use tokio_rustls::rustls::{AlertDescription, CertificateError, ClientConfig, Error, RootCertStore};

    use super::{IS_PLAIN, TlsSettings, WANTS_CERTIFICATE};

    /// Which protocol is spoken inside of TLS.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(in crate::client) enum Inside {
        Http1,
        Http2,
    }

    /// Speaks TLS to the server of one name.
    #[derive(Clone)]
    pub(in crate::client) struct Connector {
        http1: TlsConnector,
        http2: TlsConnector,
        name: ServerName<'static>,
    }

    impl Connector {
        /// # Errors
        /// What is wrong with the settings.
        pub(in crate::client) fn new(host: &str, settings: &TlsSettings) -> Result<Self, String> {
            let name = settings.server_name.as_deref().unwrap_or(host);
            let name = ServerName::try_from(name.to_owned())
                .map_err(|_| format!("'{name}' is no name that a certificate can hold"))?;
            let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
                .with_safe_default_protocol_versions()
                .map_err(|error| error.to_string())?
                .with_root_certificates(roots(settings)?);
            let config = match &settings.client {
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
            let speaking = |protocol: &[u8]| {
                let mut config = config.clone();
                config.alpn_protocols = vec![protocol.to_vec()];
                TlsConnector::from(Arc::new(config))
            };
            Ok(Self { http1: speaking(b"http/1.1"), http2: speaking(b"h2"), name })
        }

        /// # Errors
        /// How the handshake failed; [`words`] tells whether it was TLS.
        pub(in crate::client) async fn connect(
            &self,
            stream: TcpStream,
            inside: Inside,
        ) -> io::Result<TlsStream<TcpStream>> {
            let connector = match inside {
                Inside::Http1 => &self.http1,
                Inside::Http2 => &self.http2,
            };
            connector.connect(self.name.clone(), stream).await
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
    pub(in crate::client) fn words(error: &io::Error) -> Option<String> {
        let error = error.get_ref()?.downcast_ref::<Error>()?;
        Some(match error {
            Error::InvalidCertificate(error) => format!("the server's certificate {}", of_certificate(error)),
            Error::AlertReceived(alert) => format!("the server says {alert:?}{}", of_alert(*alert)),
            Error::InvalidMessage(_) => IS_PLAIN.to_owned(),
            Error::PeerIncompatible(_) => "no version or cipher in common with the server".to_owned(),
            Error::NoApplicationProtocol => "the server speaks another protocol inside of it".to_owned(),
            _ => "the server does not keep to the protocol".to_owned(),
        })
    }

    /// What an alert means to whoever set this side up.
    fn of_alert(alert: AlertDescription) -> &'static str {
        match alert {
            AlertDescription::CertificateRequired => WANTS_CERTIFICATE,
            AlertDescription::UnknownCA => ": our client certificate is of no authority that it trusts",
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired => ": it does not accept our client certificate",
            AlertDescription::NoApplicationProtocol => ": it speaks another protocol inside of TLS",
            _ => "",
        }
    }

    fn of_certificate(error: &CertificateError) -> &'static str {
        match error {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => "has expired",
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => "is not valid yet",
            CertificateError::UnknownIssuer => "is of no authority that is trusted here (see ca_file)",
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "is for other names than the one asked for (see server_name)"
            }
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => "is not for servers",
            CertificateError::Revoked => "was revoked",
            _ => "cannot be accepted",
        }
    }
}
