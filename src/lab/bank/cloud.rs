//! Banks in an object store (feature `cloud`): S3 and what speaks its protocol, Google Cloud Storage.
//!
//! Credentials, region and endpoint come from the environment, under the names that each store's own tools read
//! (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, `GOOGLE_APPLICATION_CREDENTIALS`, …); they are never written anywhere.

use std::fmt;
use std::sync::Arc;

use anyhow::{Context, bail};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use tokio::runtime::Runtime;
use url::Url;

/// An object store and the prefix of a bank in it.
pub struct Cloud {
    address: String,
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    runtime: Runtime,
}

/// As given.
impl fmt::Display for Cloud {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address)
    }
}

/// The address alone: a store's own text may hold keys.
impl fmt::Debug for Cloud {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cloud").field("address", &self.address).finish()
    }
}

impl Cloud {
    /// Opens `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX`, or `memory:///PREFIX` for tests.
    ///
    /// # Errors
    ///
    /// When the address is of another kind, holds a password, or the environment does not fit it.
    pub(super) fn open(address: &str) -> anyhow::Result<Self> {
        let url = Url::parse(address).context("expected the URL of an object store")?;
        if !url.username().is_empty() || url.password().is_some() {
            bail!("expected an address without a name or a password: credentials are read from the environment");
        }
        let options = std::env::vars().map(|(name, value)| (name.to_ascii_lowercase(), value));
        let (store, prefix) = object_store::parse_url_opts(&url, options).context("cannot open the object store")?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        Ok(Self { address: address.to_owned(), store: store.into(), prefix, runtime })
    }

    fn path(&self, name: &str) -> Path {
        self.prefix.clone().join(name)
    }

    pub(super) fn read(&self, name: &str) -> anyhow::Result<Option<Vec<u8>>> {
        let path = self.path(name);
        let read = self.runtime.block_on(async { self.store.get(&path).await?.bytes().await });
        match read {
            Ok(bytes) => Ok(Some(bytes.to_vec())),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {name} in {self}")),
        }
    }

    pub(super) fn write(&self, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
        let (path, payload) = (self.path(name), bytes.to_vec().into());
        let written = self.runtime.block_on(self.store.put(&path, payload));
        written.map(|_| ()).with_context(|| format!("cannot write {name} ({} bytes) in {self}", bytes.len()))
    }

    pub(super) fn remove(&self, name: &str) -> anyhow::Result<()> {
        match self.runtime.block_on(self.store.delete(&self.path(name))) {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("cannot remove {name} in {self}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_what_was_not_is_none() {
        let cloud = Cloud::open("memory:///banks/a").unwrap();
        assert_eq!(cloud.read("x.json").unwrap(), None);
        cloud.write("x.json", b"one").unwrap();
        cloud.write("x.json", b"two").unwrap();
        assert_eq!(cloud.read("x.json").unwrap().unwrap(), b"two");
        assert_eq!(cloud.path("x.json").as_ref(), "banks/a/x.json");
        cloud.remove("x.json").unwrap();
        cloud.remove("x.json").unwrap();
        assert_eq!(cloud.read("x.json").unwrap(), None);
    }

    #[test]
    fn an_address_with_a_password_is_refused_and_nothing_repeats_it() {
        let error = format!("{:#}", Cloud::open("s3://key:hunter2@bucket/x").unwrap_err());
        assert!(error.contains("from the environment") && !error.contains("hunter2"), "{error}");
        assert!(Cloud::open("ftp://host/x").is_err());
        let cloud = Cloud::open("memory:///x").unwrap();
        assert_eq!(format!("{cloud:?} {cloud}"), "Cloud { address: \"memory:///x\" } memory:///x");
    }
}
