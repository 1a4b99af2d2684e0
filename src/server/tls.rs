//! TLS on the addresses of the service: certificates that may change while the server runs, and the handshake of each connection.
//!
//! Where TLS is spoken, nothing else is: whoever comes without it is told so and closed. What a handshake may take has a bound, a
//! connection in its handshake counts among those that are open, and one that fails is counted and no more: strangers decide
//! how often that happens, so it writes no line in the log. Where files lie is a [`TlsSource`]'s business: this room opens none.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio_rustls::rustls::{Error, RootCertStore, ServerConfig};
use tokio_rustls::server::TlsStream;

use super::connection::NEWCOMER;
use super::io::TimedIo;
use super::metrics::Metrics;

/// The first byte of a connection that begins with a handshake of TLS.
const HANDSHAKE: u8 = 0x16;
/// How long, and with how many bytes, somebody without TLS may go on while it is told so.
const FAREWELL: (Duration, usize) = (Duration::from_millis(500), 64 << 10);

/// What the server proves itself by, and whom it asks for the same. The contents are PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct TlsPem {
    /// The certificate, with those between it and its authority.
    pub certificates: Vec<u8>,
    /// Its key.
    pub key: Vec<u8>,
    /// The authorities of clients: each must show a certificate of one of them. None: no client is asked for one.
    pub client_authorities: Option<Vec<u8>>,
}

/// Shows no key.
impl fmt::Debug for TlsPem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TlsPem(client_authorities: {})", self.client_authorities.is_some())
    }
}

/// Where the certificate comes from, at the start and again and again while the server runs.
pub trait TlsSource: Send + Sync {
    /// What is there now.
    ///
    /// # Errors
    /// Why it cannot be read, for the log.
    fn read(&self) -> Result<TlsPem, String>;
}

/// TLS as a server speaks it.
pub struct Tls {
    source: Arc<dyn TlsSource>,
    acceptor: RwLock<TlsAcceptor>,
    files: Mutex<Files>,
    handshake_timeout: Duration,
    look_every: Duration,
}

/// What is known of the source's contents.
struct Files {
    /// Digest of what is served.
    served: [u8; 32],
    /// Why what is there now is not served, where it is not.
    refused: Option<String>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

impl Tls {
    /// TLS with the certificate that is at the source now. A handshake may take `handshake_timeout`; whether the source has
    /// changed is looked after each time `look_every` has passed, never for zero.
    ///
    /// # Errors
    /// Why the source's contents are of no use.
    pub fn new(source: Arc<dyn TlsSource>, handshake_timeout: Duration, look_every: Duration) -> Result<Self, String> {
        let pem = source.read()?;
        let acceptor = RwLock::new(acceptor(&pem)?);
        let files = Mutex::new(Files { served: digest(&pem), refused: None });
        Ok(Self { source, acceptor, files, handshake_timeout, look_every })
    }

    /// Takes new certificates for ever, for connections that come later. What is of no use leaves those in use that were.
    pub(super) async fn watch(self: Arc<Self>, metrics: Arc<Metrics>) {
        if self.look_every.is_zero() {
            return std::future::pending().await;
        }
        loop {
            tokio::time::sleep(self.look_every).await;
            let (tls, metrics) = (Arc::clone(&self), Arc::clone(&metrics));
            // Files may lie on a disk that is slow.
            let _ = tokio::task::spawn_blocking(move || tls.look(&metrics)).await;
        }
    }

    fn look(&self, metrics: &Metrics) {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let pem = self.source.read();
        let found = pem.as_ref().map(digest).ok();
        if found == Some(files.served) {
            files.refused = None;
        } else {
            match pem.and_then(|pem| acceptor(&pem)).and_then(|new| Ok((new, found.ok_or("")?))) {
                Ok((new, digest)) => {
                    *self.acceptor.write().unwrap_or_else(PoisonError::into_inner) = new;
                    *files = Files { served: digest, refused: None };
                    metrics.tls.reloads.inc();
                    tracing::info!("the TLS files have changed: new connections are shown the new certificate");
                }
                // Told once, however often it is looked.
                Err(reason) if files.refused.as_ref() != Some(&reason) => {
                    metrics.tls.reload_failures.inc();
                    tracing::error!(
                        reason,
                        "the TLS files have changed and are of no use: the certificate stays as it was"
                    );
                    files.refused = Some(reason);
                }
                Err(_) => {}
            }
        }
        metrics.tls.refused.set(i64::from(files.refused.is_some()));
    }

    /// The handshake of a connection, or word of how it failed. Once the server drains, it is to end soon.
    pub(super) async fn shake(
        &self,
        mut stream: TcpStream,
        write_timeout: Duration,
        mut stop: watch::Receiver<bool>,
    ) -> Result<TlsStream<TimedIo<TcpStream>>, Failed> {
        let shaking = async {
            let mut first = [0];
            match stream.peek(&mut first).await {
                Ok(1) if first[0] == HANDSHAKE => {}
                Ok(1) => {
                    tell_plain(&mut stream).await;
                    return Err(Failed::Plain);
                }
                Ok(_) | Err(_) => return Err(Failed::Closed),
            }
            let acceptor = self.acceptor.read().unwrap_or_else(PoisonError::into_inner).clone();
            let stream = TimedIo::under_tls(stream, write_timeout);
            acceptor.accept(stream).await.map_err(|error| Failed::of(&error))
        };
        let draining = async {
            // A sender that has gone stops too.
            let _ = stop.wait_for(|stop| *stop).await;
            tokio::time::sleep(NEWCOMER).await;
        };
        tokio::select! {
            shaken = timeout(self.handshake_timeout, shaking) => shaken.unwrap_or(Err(Failed::TooSlow)),
            () = draining => Err(Failed::TooSlow),
        }
    }
}

/// Tells somebody who speaks HTTP without TLS what is spoken here, and reads on a little: an answer to somebody who is still
/// sending would be lost with the connection.
async fn tell_plain(stream: &mut TcpStream) {
    const BODY: &str = "{\"error\":\"this port speaks TLS: ask by https:// (gRPC: over TLS)\"}";
    let answer = format!(
        "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{BODY}",
        BODY.len()
    );
    let (patience, max_bytes) = FAREWELL;
    let farewell = async {
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await?;
        let mut rest = stream.take(max_bytes as u64);
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
    };
    let _ = timeout(patience, farewell).await;
}

/// How a handshake failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failed {
    /// It took too long, or the server drains.
    TooSlow,
    /// It was not TLS.
    Plain,
    /// The peer has gone.
    Closed,
    /// The peer showed no certificate, or none that is accepted.
    Certificate,
    /// Nothing in common, or not as the protocol says.
    Protocol,
}

impl Failed {
    /// Each, with its word for metrics.
    pub(super) const ALL: [(Self, &'static str); 5] = [
        (Self::TooSlow, "timeout"),
        (Self::Plain, "not_tls"),
        (Self::Closed, "closed"),
        (Self::Certificate, "client_certificate"),
        (Self::Protocol, "protocol"),
    ];

    fn of(error: &io::Error) -> Self {
        match error.get_ref().and_then(|error| error.downcast_ref::<Error>()) {
            Some(Error::NoCertificatesPresented | Error::InvalidCertificate(_)) => Self::Certificate,
            Some(_) => Self::Protocol,
            None => Self::Closed,
        }
    }
}

/// Over the parts and their lengths.
fn digest(pem: &TlsPem) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for part in [Some(&pem.certificates), Some(&pem.key), pem.client_authorities.as_ref()] {
        hasher.update(part.map_or(u64::MAX, |part| part.len() as u64).to_le_bytes());
        hasher.update(part.map_or(&[][..], |part| part));
    }
    hasher.finalize().into()
}

fn acceptor(pem: &TlsPem) -> Result<TlsAcceptor, String> {
    let provider = Arc::new(default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = match &pem.client_authorities {
        None => builder.with_no_client_auth(),
        Some(authorities) => {
            const NO_USE: &str = "the file of the clients' authorities holds a certificate that is of no use";
            let mut roots = RootCertStore::empty();
            for authority in certificates(authorities, "the file of the clients' authorities")? {
                roots.add(authority).map_err(|_| NO_USE)?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().map_err(|_| NO_USE)?)
        }
    };
    let chain = certificates(&pem.certificates, "the file of the certificate")?;
    let key = PrivateKeyDer::from_pem_slice(&pem.key)
        .map_err(|_| "the file of the key: expected one private key in PEM, without a password")?;
    let mut config = builder.with_single_cert(chain, key).map_err(|error| match error {
        Error::InconsistentKeys(_) => "the key is not that of the certificate",
        Error::InvalidCertificate(_) => {
            "the certificate is of no use: expected X.509 version 3, the server's own first"
        }
        _ => "the key is of no use, or not that of the certificate",
    })?;
    if pem.client_authorities.is_some() {
        // A session that is taken up again is not asked for its certificate: one that has expired would stay good.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn certificates(pem: &[u8], what: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let certificates = certificates.ok().filter(|certificates| !certificates.is_empty());
    certificates.ok_or_else(|| format!("{what}: expected certificates in PEM"))
}
