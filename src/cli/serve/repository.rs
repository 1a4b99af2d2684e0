//! A folder of models: `MODEL/VERSION/model.onnx`, `MODEL/VERSION/centroids.safetensors` beside it, `MODEL/sordino.toml`
//! for what belongs to all versions of a model.
//!
//! Nothing outside of the folder is read, and only names that stand in it: a client that may ask for a load cannot bring
//! a file, a path or a setting.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;

use super::config::{FolderSettings, Settings, folder_settings, is_plain_word};
use super::warn_alone;
use crate::defence::{DefenceConfig, Method};
use crate::pipeline::{Parts, Pipeline, Preparation};
use crate::server::Repository;

/// The file of a model.
const MODEL: &str = "model.onnx";
/// The file of its centroids.
const CENTROIDS: &str = "centroids.safetensors";
/// The file of its settings.
const SETTINGS: &str = "sordino.toml";

/// A folder of models.
#[derive(Debug)]
pub(super) struct Folder {
    root: PathBuf,
    /// For models that have none of their own.
    defence: DefenceConfig,
    max_rows: usize,
    preparation: Preparation,
}

impl Folder {
    /// A folder, which must be readable.
    pub(super) fn open(root: &Path, settings: &Settings) -> anyhow::Result<Self> {
        std::fs::read_dir(root).with_context(|| format!("cannot read the repository {}", root.display()))?;
        Ok(Self {
            root: root.to_owned(),
            defence: settings.defence.clone(),
            max_rows: settings.max_rows,
            preparation: settings.preparation.clone(),
        })
    }

    /// Every version of every model.
    pub(super) fn load_all(&self) -> anyhow::Result<Vec<Arc<Pipeline>>> {
        let mut all = Vec::new();
        for name in self.names() {
            all.extend(self.load_model(&name).with_context(|| format!("cannot serve '{name}'"))?);
        }
        Ok(all)
    }

    fn load_model(&self, name: &str) -> anyhow::Result<Vec<Arc<Pipeline>>> {
        let folder = self.root.join(name);
        let settings = read_settings(&folder.join(SETTINGS))?;
        let defence = settings.defence.as_ref().unwrap_or(&self.defence);
        let versions = versions(&folder);
        anyhow::ensure!(!versions.is_empty(), "no VERSION/{MODEL} in {}", folder.display());
        versions.iter().map(|version| self.load_version(&folder, name, version, &settings, defence)).collect()
    }

    fn load_version(
        &self,
        folder: &Path,
        name: &str,
        version: &str,
        settings: &FolderSettings,
        defence: &DefenceConfig,
    ) -> anyhow::Result<Arc<Pipeline>> {
        let folder = folder.join(version);
        let read = |file: &str| {
            let path = folder.join(file);
            std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        let model = read(MODEL)?;
        let centroids = (defence.method != Method::LabelOnly).then(|| read(CENTROIDS)).transpose()?;
        let parts = Parts {
            name,
            version,
            model: &model,
            centroids: centroids.as_deref(),
            load: settings.load.clone(),
            defence: defence.clone(),
        };
        let pipeline = parts.assemble().and_then(|pipeline| pipeline.prepared(&self.preparation));
        let pipeline = pipeline.with_context(|| format!("version {version}"))?;
        let pipeline = pipeline.with_max_rows(self.max_rows);
        warn_alone(&pipeline, &self.preparation);
        tracing::info!(
            model = name,
            version,
            sha256 = %pipeline.model_digest(),
            scores = pipeline.spec().how_decided,
            defence = defence.summary(),
            "loaded"
        );
        Ok(Arc::new(pipeline))
    }
}

impl Repository for Folder {
    fn names(&self) -> Vec<String> {
        let mut names = plain_folders(&self.root);
        names.retain(|name| !versions(&self.root.join(name)).is_empty());
        names
    }

    fn load(&self, name: &str) -> Result<Vec<Arc<Pipeline>>, String> {
        if !is_plain_word(name) {
            return Err("not the name of a model".to_owned());
        }
        self.load_model(name).map_err(|error| format!("{error:#}"))
    }
}

/// The folders with a model in them.
fn versions(folder: &Path) -> Vec<String> {
    let mut versions = plain_folders(folder);
    versions.retain(|version| folder.join(version).join(MODEL).is_file());
    versions
}

/// The folders below one whose names can stand in URLs, in order.
fn plain_folders(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.path().is_dir());
    let mut names: Vec<String> =
        folders.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| is_plain_word(name)).collect();
    names.sort();
    names
}

fn read_settings(path: &Path) -> anyhow::Result<FolderSettings> {
    match std::fs::read_to_string(path) {
        Ok(text) => {
            folder_settings(&text).map_err(|mistakes| anyhow::anyhow!("{}: {}", path.display(), mistakes.join("; ")))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(FolderSettings::default()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::bundled;

    fn folder(root: &Path) -> Folder {
        Folder {
            root: root.to_owned(),
            defence: DefenceConfig::default(),
            max_rows: 7,
            preparation: Preparation::default(),
        }
    }

    fn put(root: &Path, path: &str, bytes: &[u8]) {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    #[test]
    fn models_and_versions_are_folders_with_their_own_settings() {
        let root = tempfile::tempdir().unwrap();
        put(root.path(), "a/1/model.onnx", bundled::MODEL);
        put(root.path(), "a/1/centroids.safetensors", bundled::CENTROIDS);
        put(root.path(), "b/10/model.onnx", bundled::MODEL);
        put(root.path(), "b/9/model.onnx", bundled::MODEL);
        put(root.path(), "b/sordino.toml", b"[defence]\nmethod = \"label-only\"\n");
        put(root.path(), "notes/readme.txt", b"no model");
        put(root.path(), ".git/1/model.onnx", b"hidden");
        let folder = folder(root.path());
        assert_eq!(folder.names(), ["a", "b"]);
        let loaded = folder.load_all().unwrap();
        let names: Vec<_> =
            loaded.iter().map(|p| (p.description().name.as_str(), p.description().version.as_str())).collect();
        assert_eq!(names, [("a", "1"), ("b", "10"), ("b", "9")]);
        assert!(loaded.iter().all(|pipeline| pipeline.max_rows() == 7));
        assert!(loaded[1].description().properties["defence"].contains("label"));
    }

    #[test]
    fn a_model_that_does_not_fit_names_what_is_wrong() {
        let root = tempfile::tempdir().unwrap();
        put(root.path(), "a/1/model.onnx", bundled::MODEL);
        let folder = folder(root.path());
        assert!(folder.load("a").err().unwrap().contains("centroids.safetensors"));
        put(root.path(), "a/sordino.toml", b"[server]\nlisten = \"x\"\n");
        assert!(folder.load("a").err().unwrap().contains("unknown key 'server'"));
        for name in ["../a", "", "..", "a/1", ".hidden", "nope"] {
            assert!(folder.load(name).is_err(), "{name}");
        }
    }
}
