//! Where a bank lies: a folder, or (feature `cloud`) an object store. Names to bytes, nothing more.
//!
//! Every write is whole or not there: files are renamed into their place, objects appear when they are complete. So a
//! worker that is killed leaves nothing half-written, and two workers that write the same name leave one whole file.

use std::fmt;
use std::path::PathBuf;

use anyhow::{Context, bail};

use crate::data::write_atomic;

#[cfg(feature = "cloud")]
use super::cloud::Cloud;

/// A folder or an object store.
#[derive(Debug)]
pub enum Place {
    /// A folder of this machine, or one that it has mounted.
    Folder(PathBuf),
    /// An object store, under a prefix.
    #[cfg(feature = "cloud")]
    Cloud(Cloud),
}

/// As given.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) => write!(f, "{}", path.display()),
            #[cfg(feature = "cloud")]
            Self::Cloud(cloud) => cloud.fmt(f),
        }
    }
}

impl Place {
    /// Opens `DIR`, `file:DIR` or, with the feature `cloud`, `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX`, `https://…`
    /// with credentials from the environment. Nothing is made yet: the first write makes a folder that is not there.
    ///
    /// # Errors
    ///
    /// When the address is of a kind that this build does not know.
    pub fn open(address: &str) -> anyhow::Result<Self> {
        let folder = match address.split_once("://") {
            Some(("file", path)) => path,
            Some((scheme, _)) => return Self::open_url(scheme, address),
            None => address.strip_prefix("file:").unwrap_or(address),
        };
        if folder.is_empty() {
            bail!("expected a folder or a URL, got nothing");
        }
        Ok(Self::Folder(folder.into()))
    }

    #[cfg(feature = "cloud")]
    fn open_url(_: &str, address: &str) -> anyhow::Result<Self> {
        Ok(Self::Cloud(Cloud::open(address)?))
    }

    #[cfg(not(feature = "cloud"))]
    fn open_url(scheme: &str, _: &str) -> anyhow::Result<Self> {
        bail!("{scheme}:// is an object store: this build knows folders alone, build with the feature `cloud`")
    }

    /// The bytes under a name; `None` where there are none.
    ///
    /// # Errors
    ///
    /// When they cannot be read.
    pub fn read(&self, name: &str) -> anyhow::Result<Option<Vec<u8>>> {
        check_name(name)?;
        match self {
            Self::Folder(folder) => match std::fs::read(folder.join(name)) {
                Ok(bytes) => Ok(Some(bytes)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(error).with_context(|| format!("cannot read {name} in {self}")),
            },
            #[cfg(feature = "cloud")]
            Self::Cloud(cloud) => cloud.read(name),
        }
    }

    /// Writes the bytes under a name, in place of what was there.
    ///
    /// # Errors
    ///
    /// When they cannot be written; what was there stays then.
    pub fn write(&self, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
        check_name(name)?;
        match self {
            Self::Folder(folder) => {
                std::fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {self}"))?;
                write_atomic(&folder.join(name), bytes)
                    .with_context(|| format!("cannot write {name} ({} bytes) in {self}", bytes.len()))
            }
            #[cfg(feature = "cloud")]
            Self::Cloud(cloud) => cloud.write(name, bytes),
        }
    }

    /// Removes a name; nothing happens where there is none.
    ///
    /// # Errors
    ///
    /// When it is there and cannot be removed.
    pub fn remove(&self, name: &str) -> anyhow::Result<()> {
        check_name(name)?;
        match self {
            Self::Folder(folder) => match std::fs::remove_file(folder.join(name)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    Err(error).with_context(|| format!("cannot remove {name} in {self}"))
                }
                _ => Ok(()),
            },
            #[cfg(feature = "cloud")]
            Self::Cloud(cloud) => cloud.remove(name),
        }
    }
}

/// Names come from records, which anyone may have written: none may lead out of the place.
fn check_name(name: &str) -> anyhow::Result<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if name.is_empty() || name.starts_with('.') || !name.chars().all(allowed) {
        bail!("expected the plain name of a file, got '{}'", name.escape_debug());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_what_was_not_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let address = dir.path().join("a/b");
        for address in [address.display().to_string(), format!("file://{}", address.display())] {
            let place = Place::open(&address).unwrap();
            assert_eq!(place.read("x.json").unwrap(), None);
            place.write("x.json", b"one").unwrap();
            place.write("x.json", b"two").unwrap();
            assert_eq!(place.read("x.json").unwrap().unwrap(), b"two");
            place.remove("x.json").unwrap();
            place.remove("x.json").unwrap();
        }
        assert_eq!(std::fs::read_dir(&address).unwrap().count(), 0, "a write left something beside it");
    }

    #[test]
    fn looking_into_a_place_makes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::open(&dir.path().join("bank").display().to_string()).unwrap();
        assert_eq!(place.read("plan.json").unwrap(), None);
        place.remove("plan.json").unwrap();
        assert!(!dir.path().join("bank").exists());
    }

    #[test]
    fn no_name_leads_out_of_the_place() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::open(&dir.path().join("bank").display().to_string()).unwrap();
        std::fs::write(dir.path().join("secret"), "x").unwrap();
        for name in ["../secret", "", ".", "..", ".hidden", "a/b", "a\\b", "/etc/passwd"] {
            assert!(
                place.read(name).is_err() && place.write(name, b"x").is_err() && place.remove(name).is_err(),
                "{name}"
            );
        }
        assert!(dir.path().join("secret").exists());
    }

    #[cfg(not(feature = "cloud"))]
    #[test]
    fn an_object_store_names_the_missing_feature() {
        let error = Place::open("s3://bucket/bank").unwrap_err().to_string();
        assert!(error.contains("s3://") && error.contains("`cloud`"), "{error}");
    }
}
