//! TLS to another server, as the settings have it: which files, which name, and whether every address asks for it.

use std::path::PathBuf;

use super::super::tls::contents;
use super::config::Mistakes;
use super::section::Section;
use crate::client::tls::TlsSettings;
use crate::client::upstream::Target;

/// Where the files lie, read when the upstream is built, and the name to ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct WrittenTls {
    authorities: Option<PathBuf>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    server_name: Option<String>,
}

impl WrittenTls {
    /// Takes the keys of the table `upstream`.
    pub(super) fn read(&mut self, table: &mut Section<'_>, beside: impl Fn(PathBuf) -> PathBuf) {
        self.authorities = table.take("ca_file").map(&beside);
        self.certificate = table.take("client_certificate_file").map(&beside);
        self.key = table.take("client_key_file").map(&beside);
        self.server_name = table.take("server_name");
    }

    /// The flag wins over the file.
    pub(super) fn overlay(&mut self, authorities: Option<&PathBuf>) {
        if authorities.is_some() {
            self.authorities = authorities.cloned();
        }
    }

    /// What does not go together. Settings of TLS beside an address without it are a mistake: whoever wrote them expects that
    /// what is sent is encrypted, whichever server it goes to.
    pub(super) fn check(&self, targets: &[Target], mistakes: &mut Mistakes) {
        if self.certificate.is_some() != self.key.is_some() {
            mistakes.push("upstream.client_certificate_file, upstream.client_key_file: one needs the other".to_owned());
        }
        let some_plain = !targets.iter().all(Target::is_tls);
        let keys = [
            ("ca_file", self.authorities.is_some()),
            ("client_certificate_file", self.certificate.is_some()),
            ("client_key_file", self.key.is_some()),
            ("server_name", self.server_name.is_some()),
        ];
        for (key, _) in keys.into_iter().filter(|(_, is_given)| *is_given && some_plain) {
            mistakes.push(format!(
                "upstream.{key}: not every address of upstream.urls begins with https://, so not all is encrypted"
            ));
        }
    }

    /// Reads the files.
    ///
    /// # Errors
    /// The one that cannot be read.
    pub(super) fn load(&self) -> anyhow::Result<TlsSettings> {
        let authorities = self.authorities.as_deref().map(contents).transpose()?;
        let client = match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => Some((contents(certificate)?, contents(key)?)),
            _ => None,
        };
        Ok(TlsSettings { authorities, client, server_name: self.server_name.clone() })
    }
}
