//! What TLS needs, as commands are told it that dial an address: files, and the name to ask for.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

use crate::client::tls::TlsSettings;

/// No file of certificates is longer: the store of a whole system takes a quarter of a MiB.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// TLS to an address that begins with `https://`; the names are those of `serve`'s table `upstream`.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "TLS to an https:// address")]
pub(super) struct TlsArgs {
    /// Authorities that the server's certificate may be of, PEM [default: those that this machine trusts]
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// The certificate to show, with those between it and its authority, PEM
    #[arg(long, value_name = "FILE", requires = "client_key_file")]
    client_certificate_file: Option<PathBuf>,
    /// Its key, PEM
    #[arg(long, value_name = "FILE", requires = "client_certificate_file")]
    client_key_file: Option<PathBuf>,
    /// The name that the server's certificate must hold [default: the host of the address]
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,
}

impl TlsArgs {
    /// Reads the files.
    ///
    /// # Errors
    /// The one that cannot be read; and flags where none of `urls` asks for TLS: whoever wrote them expects that it is spoken.
    pub(super) fn settings(&self, urls: &[&str]) -> anyhow::Result<TlsSettings> {
        let given = [
            ("--ca-file", self.ca_file.is_some()),
            ("--client-certificate-file", self.client_certificate_file.is_some()),
            ("--server-name", self.server_name.is_some()),
        ];
        if let Some((flag, _)) = given.into_iter().find(|(_, is_given)| *is_given) {
            let is_tls = |url: &&str| url.starts_with("https://") || url.starts_with("grpcs://");
            ensure!(urls.iter().any(is_tls), "{flag}: it is for an address that begins with https://");
        }
        let client = match (&self.client_certificate_file, &self.client_key_file) {
            (Some(certificate), Some(key)) => Some((contents(certificate)?, contents(key)?)),
            _ => None,
        };
        let authorities = self.ca_file.as_deref().map(contents).transpose()?;
        Ok(TlsSettings { authorities, client, server_name: self.server_name.clone() })
    }
}

/// A file of certificates or a key.
///
/// # Errors
/// When it cannot be read, or is longer than such files are.
pub(super) fn contents(path: &Path) -> anyhow::Result<Vec<u8>> {
    let cannot = || format!("cannot read {}", path.display());
    let length = std::fs::metadata(path).with_context(cannot)?.len();
    ensure!(length <= MAX_FILE_BYTES, "{}: {length} bytes, too many for a file of certificates", path.display());
    std::fs::read(path).with_context(cannot)
}
