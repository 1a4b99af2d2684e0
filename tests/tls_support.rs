//! A relay that speaks TLS before the servers of the other tests, and the certificates of the tests.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sordino::client::tls::TlsSettings;
use sordino::client::upstream::Target;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

pub(crate) const AUTHORITY: &[u8] = include_bytes!("fixtures/tls/test-authority.pem");
pub(crate) const SERVER: &[u8] = include_bytes!("fixtures/tls/test-server.pem");
pub(crate) const EXPIRED: &[u8] = include_bytes!("fixtures/tls/test-server-expired.pem");
pub(crate) const SERVER_KEY: &[u8] = include_bytes!("fixtures/tls/test-server.key");
pub(crate) const CLIENT: &[u8] = include_bytes!("fixtures/tls/test-client.pem");
pub(crate) const CLIENT_KEY: &[u8] = include_bytes!("fixtures/tls/test-client.key");

/// How a relay proves itself, and what it asks.
#[derive(Clone, Copy)]
pub(crate) struct Proof {
    pub(crate) certificate: &'static [u8],
    pub(crate) asks_for_certificates: bool,
    pub(crate) old_version: bool,
}

pub(crate) const PLAIN: Proof = Proof { certificate: SERVER, asks_for_certificates: false, old_version: false };
pub(crate) const STRICT: Proof = Proof { asks_for_certificates: true, ..PLAIN };

/// Speaks TLS to whoever comes, and plainly to the server behind it; dropped, it ends.
pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    /// Connections over which TLS came about.
    pub(crate) agreed: Arc<AtomicUsize>,
    _runtime: Runtime,
}

impl Relay {
    pub(crate) fn to(behind: SocketAddr, proof: Proof) -> Self {
        Self::at("127.0.0.1", behind, proof)
    }

    pub(crate) fn at(ip: &str, behind: SocketAddr, proof: Proof) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind((ip, 0))).unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(server_config(proof)));
        let agreed = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&agreed);
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, count) = (acceptor.clone(), Arc::clone(&count));
                tokio::spawn(async move {
                    let Ok(mut outside) = acceptor.accept(stream).await else { return };
                    count.fetch_add(1, Ordering::Relaxed);
                    let mut inside = TcpStream::connect(behind).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut outside, &mut inside).await;
                });
            }
        });
        Self { address, agreed, _runtime: runtime }
    }

    pub(crate) fn url(&self, host: &str) -> String {
        format!("https://{host}:{}", self.address.port())
    }

    pub(crate) fn target(&self, scheme: &str, host: &str) -> Target {
        Target::parse(&format!("{scheme}://{host}:{}", self.address.port())).unwrap()
    }
}

fn server_config(proof: Proof) -> ServerConfig {
    let certificate = CertificateDer::from_pem_slice(proof.certificate).unwrap();
    let key = PrivateKeyDer::from_pem_slice(SERVER_KEY).unwrap();
    let provider = Arc::new(default_provider());
    let versions = if proof.old_version { vec![&TLS12] } else { vec![&TLS13] };
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(&versions).unwrap();
    let builder = if proof.asks_for_certificates {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(AUTHORITY).unwrap()).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        builder.with_client_cert_verifier(verifier)
    } else {
        builder.with_no_client_auth()
    };
    let mut config = builder.with_single_cert(vec![certificate], key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config
}

/// Trusts the tests' authority, and shows the tests' certificate or none.
pub(crate) fn trusting(with_client: bool) -> TlsSettings {
    let client = with_client.then(|| (CLIENT.to_vec(), CLIENT_KEY.to_vec()));
    TlsSettings { authorities: Some(AUTHORITY.to_vec()), client, server_name: None }
}
