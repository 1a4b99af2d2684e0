//! Paths: an allow-list. What is not named here does not exist, and nothing is ever passed on.

use hyper::Method;

/// A path that is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route<'a> {
    /// `/`
    Alive,
    /// `/openapi.json`
    OpenApi,
    /// `/v2` and `/v2/`
    ServerMetadata,
    /// `/v2/health/live`
    Live,
    /// `/v2/health/ready`
    Ready,
    /// `/v2/models`
    Models,
    /// `/v2/models/{m}` and `/v2/models/{m}/versions/{v}`
    ModelMetadata(Target<'a>),
    /// `…/ready`
    ModelReady(Target<'a>),
    /// `…/config`
    ModelConfig(Target<'a>),
    /// `…/stats`
    ModelStatistics(Target<'a>),
    /// `/v2/models/stats`
    AllStatistics,
    /// `…/infer`
    Infer(Target<'a>),
    /// `/v2/repository/index`
    RepositoryIndex,
    /// `/v2/repository/models/{m}/load`
    RepositoryLoad(&'a str),
    /// `/v2/repository/models/{m}/unload`
    RepositoryUnload(&'a str),
    /// `/v1/models`
    V1Models,
    /// `/v1/models/{m}` and `/v1/models/{m}/versions/{v}`
    V1Status(Target<'a>),
    /// `…/metadata`
    V1Metadata(Target<'a>),
    /// `…:predict`
    Predict(Target<'a>),
}

/// A model as the path names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Target<'a> {
    pub(super) model: &'a str,
    pub(super) version: Option<&'a str>,
}

impl<'a> Route<'a> {
    /// The route of a path without its query string.
    pub(super) fn of(path: &'a str) -> Option<Self> {
        match path {
            "/" => return Some(Self::Alive),
            "/openapi.json" => return Some(Self::OpenApi),
            _ => {}
        }
        match path.strip_prefix("/v2") {
            Some(rest) => Self::of_v2(rest),
            None => Self::of_v1(path.strip_prefix("/v1/models")?),
        }
    }

    fn of_v2(rest: &'a str) -> Option<Self> {
        match rest {
            "" | "/" => return Some(Self::ServerMetadata),
            "/health/live" => return Some(Self::Live),
            "/health/ready" => return Some(Self::Ready),
            "/models" => return Some(Self::Models),
            "/models/stats" => return Some(Self::AllStatistics),
            "/repository/index" => return Some(Self::RepositoryIndex),
            _ => {}
        }
        if let Some(rest) = rest.strip_prefix("/repository/models/") {
            return match rest.split_once('/')? {
                ("", _) => None,
                (model, "load") => Some(Self::RepositoryLoad(model)),
                (model, "unload") => Some(Self::RepositoryUnload(model)),
                _ => None,
            };
        }
        let (target, verb) = Target::split(rest.strip_prefix("/models/")?)?;
        match verb {
            None => Some(Self::ModelMetadata(target)),
            Some("ready") => Some(Self::ModelReady(target)),
            Some("config") => Some(Self::ModelConfig(target)),
            Some("stats") => Some(Self::ModelStatistics(target)),
            Some("infer") => Some(Self::Infer(target)),
            Some(_) => None,
        }
    }

    fn of_v1(rest: &'a str) -> Option<Self> {
        if rest.is_empty() {
            return Some(Self::V1Models);
        }
        let rest = rest.strip_prefix('/')?;
        if let Some(rest) = rest.strip_suffix(":predict") {
            return match Target::split(rest)? {
                (target, None) => Some(Self::Predict(target)),
                _ => None,
            };
        }
        match Target::split(rest)? {
            (target, None) if !rest.contains(':') => Some(Self::V1Status(target)),
            (target, Some("metadata")) => Some(Self::V1Metadata(target)),
            _ => None,
        }
    }

    /// The one method of this route.
    pub(super) fn method(self) -> Method {
        match self {
            Self::Infer(_)
            | Self::Predict(_)
            | Self::RepositoryIndex
            | Self::RepositoryLoad(_)
            | Self::RepositoryUnload(_) => Method::POST,
            _ => Method::GET,
        }
    }

    /// Whether it runs a model.
    pub(super) fn infers(self) -> bool {
        matches!(self, Self::Infer(_) | Self::Predict(_))
    }

    /// The name that metrics use.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::OpenApi
            | Self::ServerMetadata
            | Self::Models
            | Self::ModelMetadata(_)
            | Self::ModelConfig(_)
            | Self::V1Models
            | Self::V1Status(_)
            | Self::V1Metadata(_) => "metadata",
            Self::Alive | Self::Live | Self::Ready | Self::ModelReady(_) => "health",
            Self::ModelStatistics(_) | Self::AllStatistics => "statistics",
            Self::RepositoryIndex | Self::RepositoryLoad(_) | Self::RepositoryUnload(_) => "repository",
            Self::Infer(_) => "infer",
            Self::Predict(_) => "predict",
        }
    }
}

impl<'a> Target<'a> {
    /// `{m}` or `{m}/versions/{v}`, and the word behind it if there is one.
    fn split(path: &'a str) -> Option<(Self, Option<&'a str>)> {
        let mut segments = path.split('/');
        let model = segments.next().filter(|name| !name.is_empty())?;
        let mut verb = segments.next();
        let mut version = None;
        if verb == Some("versions") {
            version = Some(segments.next().filter(|version| !version.is_empty())?);
            verb = segments.next();
        }
        segments.next().is_none().then_some((Self { model, version }, verb))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_an_allow_list() {
        let clf = Target { model: "clf", version: None };
        let versioned = Target { model: "clf", version: Some("1") };
        for (path, route) in [
            ("/", Route::Alive),
            ("/openapi.json", Route::OpenApi),
            ("/v2", Route::ServerMetadata),
            ("/v2/", Route::ServerMetadata),
            ("/v2/health/live", Route::Live),
            ("/v2/health/ready", Route::Ready),
            ("/v2/models", Route::Models),
            ("/v2/models/stats", Route::AllStatistics),
            ("/v2/models/clf", Route::ModelMetadata(clf)),
            ("/v2/models/clf/versions/1", Route::ModelMetadata(versioned)),
            ("/v2/models/clf/ready", Route::ModelReady(clf)),
            ("/v2/models/clf/versions/1/ready", Route::ModelReady(versioned)),
            ("/v2/models/clf/config", Route::ModelConfig(clf)),
            ("/v2/models/clf/versions/1/stats", Route::ModelStatistics(versioned)),
            ("/v2/models/clf/infer", Route::Infer(clf)),
            ("/v2/models/clf/versions/1/infer", Route::Infer(versioned)),
            ("/v2/repository/index", Route::RepositoryIndex),
            ("/v2/repository/models/clf/load", Route::RepositoryLoad("clf")),
            ("/v2/repository/models/clf/unload", Route::RepositoryUnload("clf")),
            ("/v1/models", Route::V1Models),
            ("/v1/models/clf", Route::V1Status(clf)),
            ("/v1/models/clf/versions/1", Route::V1Status(versioned)),
            ("/v1/models/clf/metadata", Route::V1Metadata(clf)),
            ("/v1/models/clf:predict", Route::Predict(clf)),
            ("/v1/models/clf/versions/1:predict", Route::Predict(versioned)),
        ] {
            assert_eq!(Route::of(path), Some(route), "{path}");
        }
    }

    #[test]
    fn what_is_not_listed_does_not_exist() {
        for path in [
            "",
            "//",
            "/v2x",
            "/v2//",
            "/v2/models/",
            "/v2/models//infer",
            "/v2/models/clf/",
            "/v2/models/clf/versions",
            "/v2/models/clf/versions/",
            "/v2/models/clf/versions//infer",
            "/v2/models/clf/infer/",
            "/v2/models/clf/infer/x",
            "/v2/models/clf/generate",
            "/v2/models/clf/generate_stream",
            "/v2/models/clf/infer_stream",
            "/v2/models/clf/trace/setting",
            "/v2/systemsharedmemory/status",
            "/v2/cudasharedmemory/region/x/register",
            "/v2/repository/models/clf",
            "/v2/repository/models//load",
            "/v2/repository/models/clf/load/x",
            "/v2/repository/models/../x/load",
            "/v2/trace/setting",
            "/v2/logging",
            "/v1/models/",
            "/v1/modelsx",
            "/v1/models/:predict",
            "/v1/models/clf:explain",
            "/v1/models/clf:classify",
            "/v1/models/clf:regress",
            "/v1/models/clf/labels/stable:predict",
            "/v1/models/clf/metadata:predict",
            "/v1/models/clf/infer",
            "/metrics",
            "/invocations",
            "/predictions/clf",
            "/explanations/clf",
        ] {
            assert_eq!(Route::of(path), None, "{path}");
        }
    }
}
