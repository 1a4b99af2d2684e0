//! The body of a repository call: empty, or an object of wishes. None that would change what is loaded is granted.

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::protocol::{Refusal, quoted};

/// What a repository call asks for.
#[derive(Debug, Default, Deserialize)]
pub struct RepositoryRequest {
    #[serde(default)]
    ready: bool,
    #[serde(default)]
    parameters: Option<std::collections::BTreeMap<String, IgnoredAny>>,
}

impl RepositoryRequest {
    /// Reads a body.
    ///
    /// # Errors
    /// When it is not empty and no such object.
    pub fn read(body: &[u8]) -> Result<Self, Refusal> {
        if body.iter().all(u8::is_ascii_whitespace) {
            return Ok(Self::default());
        }
        serde_json::from_slice(body).map_err(|error| {
            let place = format!("at line {} column {}", error.line(), error.column());
            Refusal::bad_request(format!("the body of a repository call is empty or a JSON object, {place}"))
        })
    }

    /// Whether only models that answer are asked for.
    #[must_use]
    pub fn ready_only(&self) -> bool {
        self.ready
    }

    /// Refuses parameters of a load: files and configurations come from the operator's folder alone.
    ///
    /// # Errors
    /// When there is one.
    pub fn no_overrides(&self) -> Result<(), Refusal> {
        no_overrides(self.parameters.iter().flat_map(|parameters| parameters.keys()))
    }
}

/// Refuses parameters of a load, whatever the dialect.
pub(in crate::protocol) fn no_overrides<'a>(keys: impl IntoIterator<Item = &'a String>) -> Result<(), Refusal> {
    match keys.into_iter().next() {
        None => Ok(()),
        Some(key) => Err(Refusal::bad_request(format!(
            "parameter {} of a load is refused: models and their settings come from the operator's folder alone",
            quoted(key)
        ))),
    }
}
