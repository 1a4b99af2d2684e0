//! The models that are served: by name and version, each with its pipeline, swapped as a whole.
//!
//! A request takes its [`Served`] once and keeps it, so a model that is loaded again or let go of in the meantime answers
//! to its end, with its own centroids. Where models come from is a [`Repository`]'s business: this room opens no file.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use super::quick::Quickness;
use super::statistics::Statistics;
use crate::engine::RemoteFigures;
use crate::pipeline::Pipeline;
use crate::protocol::reports::{IndexEntry, ModelStatistics};
use crate::protocol::{Refusal, RefusalKind, oip, quoted};

/// Where models are loaded from while the server runs.
pub trait Repository: Send + Sync {
    /// The names of the models that are there, loaded or not.
    fn names(&self) -> Vec<String>;

    /// Every version of a model, put together and checked.
    ///
    /// # Errors
    /// Why not, for the log: a client is told only that it failed.
    fn load(&self, name: &str) -> Result<Vec<Arc<Pipeline>>, String>;
}

/// One version of a model.
pub(super) struct Served {
    pub(super) pipeline: Arc<Pipeline>,
    pub(super) statistics: Statistics,
    pub(super) quickness: Quickness,
}

/// A version, ordered as people count: numbers before words, 9 before 10.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Version(u8, u64, String);

impl Version {
    fn new(text: &str) -> Self {
        let number = text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
        Self(u8::from(number.is_none()), number.unwrap_or(0), text.to_owned())
    }
}

type Versions = BTreeMap<Version, Arc<Served>>;
type Table = BTreeMap<String, Versions>;

/// The models of a server.
pub struct Models {
    table: RwLock<Arc<Table>>,
    repository: Option<Arc<dyn Repository>>,
    /// One change at a time.
    changing: tokio::sync::Semaphore,
}

impl std::fmt::Debug for Models {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.table().keys()).finish()
    }
}

impl From<Arc<Pipeline>> for Models {
    fn from(pipeline: Arc<Pipeline>) -> Self {
        Self::new([pipeline])
    }
}

impl Models {
    /// These pipelines, under the names and versions that they have; of two with the same, the later one.
    #[must_use]
    pub fn new(pipelines: impl IntoIterator<Item = Arc<Pipeline>>) -> Self {
        let mut table = Table::new();
        for pipeline in pipelines {
            let name = pipeline.description().name.clone();
            table.entry(name).or_default().extend([entry(pipeline)]);
        }
        let changing = tokio::sync::Semaphore::new(1);
        Self { table: RwLock::new(Arc::new(table)), repository: None, changing }
    }

    /// The same with a place to load from.
    #[must_use]
    pub fn with_repository(self, repository: Arc<dyn Repository>) -> Self {
        Self { repository: Some(repository), ..self }
    }

    fn table(&self) -> Arc<Table> {
        Arc::clone(&self.table.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn change(&self, change: impl FnOnce(&mut Table)) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let mut changed = Table::clone(&table);
        change(&mut changed);
        *table = Arc::new(changed);
    }

    /// A model by its name, the newest version where none is asked for.
    pub(super) fn find(&self, name: &str, version: Option<&str>) -> Result<Arc<Served>, Refusal> {
        let table = self.table();
        let versions = table.get(name);
        let found = versions.and_then(|versions| match version {
            Some(version) => versions.get(&Version::new(version)),
            None => versions.values().next_back(),
        });
        found.cloned().ok_or_else(|| oip::unknown_model(name, version))
    }

    /// The versions of a model, oldest first.
    pub(super) fn versions(&self, name: &str) -> Vec<String> {
        self.table().get(name).into_iter().flatten().map(|(version, _)| version.2.clone()).collect()
    }

    /// Whether every model can answer requests that come now.
    pub(super) fn are_ready(&self) -> bool {
        self.table().values().flat_map(BTreeMap::values).all(|served| served.pipeline.is_ready())
    }

    /// The figures of the first model that runs in another server.
    pub(super) fn upstream_figures(&self) -> Option<RemoteFigures> {
        let table = self.table();
        let mut all = table.values().flat_map(BTreeMap::values);
        all.find_map(|served| Some(served.pipeline.remote()?.figures()))
    }

    /// The names of all models.
    pub(super) fn names(&self) -> Vec<String> {
        self.table().keys().cloned().collect()
    }

    /// Every name with every version.
    pub(super) fn all(&self) -> Vec<(String, String)> {
        let table = self.table();
        let pairs =
            table.iter().flat_map(|(name, versions)| versions.keys().map(|version| (name.clone(), version.2.clone())));
        pairs.collect()
    }

    /// Counts and times: of all models, of one, or of one version.
    pub(super) fn statistics(
        &self,
        name: Option<&str>,
        version: Option<&str>,
    ) -> Result<Vec<ModelStatistics>, Refusal> {
        if let Some(name) = name {
            self.find(name, version)?;
        }
        let table = self.table();
        let mut reports = Vec::new();
        for (model, versions) in table.iter().filter(|(model, _)| name.is_none_or(|name| name == *model)) {
            for (key, served) in versions {
                if version.is_none_or(|version| version == key.2) {
                    reports.push(served.statistics.report(model, &key.2));
                }
            }
        }
        Ok(reports)
    }

    /// What is served, and what could be loaded.
    pub(super) fn index(&self, ready_only: bool) -> Vec<IndexEntry> {
        let entry = |(name, version)| IndexEntry { name, version, ready: true, reason: String::new() };
        let mut index: Vec<IndexEntry> = self.all().into_iter().map(entry).collect();
        if let (Some(repository), false) = (&self.repository, ready_only) {
            let known = self.names();
            for name in repository.names().into_iter().filter(|name| !known.contains(name)) {
                index.push(IndexEntry { name, version: String::new(), ready: false, reason: "unloaded".to_owned() });
            }
        }
        index
    }

    /// Loads a model, or loads it again: all its versions or none.
    pub(super) async fn load(&self, name: &str) -> Result<(), Refusal> {
        let _turn = self.changing.acquire().await.map_err(|_| Refusal::internal())?;
        let repository = self.repository()?;
        if !repository.names().iter().any(|known| known == name) {
            return Err(failed_to_load(name, "it is not in the repository"));
        }
        let wanted = name.to_owned();
        let loaded = tokio::task::spawn_blocking(move || repository.load(&wanted)).await;
        let pipelines = match loaded {
            Ok(Ok(pipelines)) => pipelines,
            Ok(Err(reason)) => {
                tracing::warn!(model = name, reason, "a model could not be loaded");
                return Err(failed_to_load(name, "the server's log says why"));
            }
            Err(_) => return Err(Refusal::internal()),
        };
        tracing::info!(model = name, versions = pipelines.len(), "loaded by request");
        self.change(|table| drop(table.insert(name.to_owned(), pipelines.into_iter().map(entry).collect())));
        Ok(())
    }

    /// Lets go of a model. Requests that have it already are answered.
    pub(super) async fn unload(&self, name: &str) -> Result<(), Refusal> {
        let _turn = self.changing.acquire().await.map_err(|_| Refusal::internal())?;
        self.repository()?;
        self.find(name, None)?;
        self.change(|table| drop(table.remove(name)));
        tracing::info!(model = name, "unloaded by request");
        Ok(())
    }

    fn repository(&self) -> Result<Arc<dyn Repository>, Refusal> {
        self.repository.clone().ok_or_else(|| {
            Refusal::new(RefusalKind::Forbidden, "this server has no repository: its models stay as they are")
        })
    }
}

fn entry(pipeline: Arc<Pipeline>) -> (Version, Arc<Served>) {
    let version = Version::new(&pipeline.description().version);
    (version, Arc::new(Served { pipeline, statistics: Statistics::default(), quickness: Quickness::default() }))
}

fn failed_to_load(name: &str, reason: &str) -> Refusal {
    Refusal::bad_request(format!("failed to load {}: {reason}", quoted(name)))
}

#[cfg(test)]
mod tests {
    use super::Version;

    #[test]
    fn versions_are_ordered_as_people_count() {
        let mut versions = ["v2", "10", "9", "1.5", "latest"].map(Version::new);
        versions.sort();
        assert_eq!(versions.map(|version| version.2), ["9", "10", "1.5", "latest", "v2"]);
    }
}
