//! TLS on our own addresses, as the settings have it: which files, and how often they are looked after.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::config::{Mistakes, duration};
use super::section::Section;

/// TLS on the addresses of the service.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "TLS on our own addresses")]
pub(super) struct OwnTlsArgs {
    /// Our certificate, with those between it and its authority, PEM; then TLS alone is spoken on --listen and --grpc-listen
    #[arg(long, value_name = "FILE")]
    pub(super) tls_cert_file: Option<PathBuf>,
    /// Its key, PEM
    #[arg(long, value_name = "FILE")]
    pub(super) tls_key_file: Option<PathBuf>,
    /// Authorities of clients, PEM: each client must show a certificate of one of them [default: none is asked for one]
    #[arg(long, value_name = "FILE")]
    pub(super) tls_client_ca_file: Option<PathBuf>,
}

/// The table `tls`, as written.
#[derive(Debug, Default)]
pub(super) struct WrittenOwnTls {
    /// Whether the file has the table: an empty one asks for TLS, too.
    is_there: bool,
    certificates: Option<PathBuf>,
    key: Option<PathBuf>,
    client_authorities: Option<PathBuf>,
    handshake_timeout_seconds: Option<f64>,
    reload_seconds: Option<f64>,
}

/// Where the files lie, and how they are used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OwnTls {
    certificates: PathBuf,
    key: PathBuf,
    client_authorities: Option<PathBuf>,
    handshake_timeout: Duration,
    /// Zero: never again.
    look_every: Duration,
}

impl WrittenOwnTls {
    /// Takes the keys of the table.
    pub(super) fn read(&mut self, table: &mut Section<'_>, beside: impl Fn(PathBuf) -> PathBuf) {
        self.is_there = table.is_there();
        self.certificates = table.take("cert_file").map(&beside);
        self.key = table.take("key_file").map(&beside);
        self.client_authorities = table.take("client_ca_file").map(&beside);
        self.handshake_timeout_seconds = table.seconds("handshake_timeout_seconds");
        self.reload_seconds = table.seconds("reload_seconds");
    }

    /// Flags win over the file.
    pub(super) fn overlay(&mut self, flags: &OwnTlsArgs) {
        let over = |slot: &mut Option<PathBuf>, flag: &Option<PathBuf>| {
            if flag.is_some() {
                slot.clone_from(flag);
            }
        };
        over(&mut self.certificates, &flags.tls_cert_file);
        over(&mut self.key, &flags.tls_key_file);
        over(&mut self.client_authorities, &flags.tls_client_ca_file);
    }

    /// What is meant; none where nothing is said of TLS. Whoever says anything of it expects that it is spoken.
    pub(super) fn check(self, mistakes: &mut Mistakes) -> Option<OwnTls> {
        let files = [&self.certificates, &self.key, &self.client_authorities];
        let times = [self.handshake_timeout_seconds, self.reload_seconds];
        if !self.is_there && files.iter().all(|file| file.is_none()) && times.iter().all(Option::is_none) {
            return None;
        }
        #[cfg(not(feature = "tls"))]
        mistakes.push("tls: this build has no TLS (feature tls)".to_owned());
        for (key, file) in [("tls.cert_file", &self.certificates), ("tls.key_file", &self.key)] {
            if file.is_none() {
                mistakes.push(format!("{key}: TLS needs a certificate and its key"));
            }
        }
        let mut time = |key, seconds, default| duration(key, seconds, Duration::from_secs(default), mistakes);
        let handshake_timeout = time("tls.handshake_timeout_seconds", self.handshake_timeout_seconds, 10);
        let look_every = time("tls.reload_seconds", self.reload_seconds, 10);
        if handshake_timeout.is_zero() {
            mistakes.push("tls.handshake_timeout_seconds: must be above 0".to_owned());
        }
        let (certificates, key) = (self.certificates?, self.key?);
        Some(OwnTls { certificates, key, client_authorities: self.client_authorities, handshake_timeout, look_every })
    }
}

impl OwnTls {
    /// Its files, by their keys.
    pub(super) fn files(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let always = [("tls.cert_file", &*self.certificates), ("tls.key_file", &*self.key)];
        always.into_iter().chain(self.client_authorities.as_deref().map(|file| ("tls.client_ca_file", file)))
    }
}

#[cfg(feature = "tls")]
mod source {
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use anyhow::Context as _;

    use super::OwnTls;
    use crate::cli::tls::contents;
    use crate::server::{Tls, TlsPem, TlsSource};

    /// Who beside its owner may read or write a key, its group's reading apart.
    const LOOSE: u32 = 0o027;

    /// The files, read again and again.
    struct Files {
        of: OwnTls,
        /// Whether was said that others may read the key.
        has_warned: AtomicBool,
    }

    impl OwnTls {
        /// Reads the files.
        ///
        /// # Errors
        /// The one that cannot be read, or why they are of no use.
        pub(in crate::cli::serve) fn load(&self) -> anyhow::Result<Tls> {
            let files = Files { of: self.clone(), has_warned: AtomicBool::new(false) };
            let tls = Tls::new(Arc::new(files), self.handshake_timeout, self.look_every);
            tls.map_err(anyhow::Error::msg).context("cannot speak TLS")
        }
    }

    impl TlsSource for Files {
        fn read(&self) -> Result<TlsPem, String> {
            let OwnTls { certificates, key, client_authorities, .. } = &self.of;
            let read = |path: &Path| contents(path).map_err(|error| format!("{error:#}"));
            let pem = TlsPem {
                certificates: read(certificates)?,
                key: read(key)?,
                client_authorities: client_authorities.as_deref().map(read).transpose()?,
            };
            let is_loose = is_loose(key);
            if is_loose && !self.has_warned.swap(is_loose, Ordering::Relaxed) {
                tracing::warn!(file = %key.display(), "others than its owner and group may read or change the key");
            }
            Ok(pem)
        }
    }

    fn is_loose(key: &Path) -> bool {
        std::fs::metadata(key).is_ok_and(|facts| facts.permissions().mode() & LOOSE != 0)
    }
}
