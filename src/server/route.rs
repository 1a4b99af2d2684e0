//! Paths: an allow-list. What is not named here does not exist, and nothing is ever passed on.

use hyper::Method;

/// A path that is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route<'a> {
    /// `/v2` and `/v2/`
    ServerMetadata,
    /// `/v2/health/live`
    Live,
    /// `/v2/health/ready`
    Ready,
    /// `/v2/models/{m}` and `/v2/models/{m}/versions/{v}`
    ModelMetadata(Target<'a>),
    /// `…/ready`
    ModelReady(Target<'a>),
    /// `…/infer`
    Infer(Target<'a>),
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
        let rest = path.strip_prefix("/v2")?;
        match rest {
            "" | "/" => return Some(Self::ServerMetadata),
            "/health/live" => return Some(Self::Live),
            "/health/ready" => return Some(Self::Ready),
            _ => {}
        }
        let mut segments = rest.strip_prefix("/models/")?.split('/');
        let model = segments.next().filter(|name| !name.is_empty())?;
        let mut verb = segments.next();
        let mut version = None;
        if verb == Some("versions") {
            version = Some(segments.next().filter(|version| !version.is_empty())?);
            verb = segments.next();
        }
        if segments.next().is_some() {
            return None;
        }
        let target = Target { model, version };
        match verb {
            None => Some(Self::ModelMetadata(target)),
            Some("ready") => Some(Self::ModelReady(target)),
            Some("infer") => Some(Self::Infer(target)),
            Some(_) => None,
        }
    }

    /// The one method of this route.
    pub(super) fn method(self) -> Method {
        match self {
            Self::Infer(_) => Method::POST,
            _ => Method::GET,
        }
    }

    /// The name that metrics use.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::ServerMetadata | Self::ModelMetadata(_) => "metadata",
            Self::Live | Self::Ready | Self::ModelReady(_) => "health",
            Self::Infer(_) => "infer",
        }
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
            ("/v2", Route::ServerMetadata),
            ("/v2/", Route::ServerMetadata),
            ("/v2/health/live", Route::Live),
            ("/v2/health/ready", Route::Ready),
            ("/v2/models/clf", Route::ModelMetadata(clf)),
            ("/v2/models/clf/versions/1", Route::ModelMetadata(versioned)),
            ("/v2/models/clf/ready", Route::ModelReady(clf)),
            ("/v2/models/clf/versions/1/ready", Route::ModelReady(versioned)),
            ("/v2/models/clf/infer", Route::Infer(clf)),
            ("/v2/models/clf/versions/1/infer", Route::Infer(versioned)),
        ] {
            assert_eq!(Route::of(path), Some(route), "{path}");
        }
        for path in [
            "/",
            "",
            "/v1/models/clf:predict",
            "/v2x",
            "/v2//",
            "/v2/models",
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
            "/v2/models/clf/config",
            "/v2/models/clf/trace/setting",
            "/v2/systemsharedmemory/status",
            "/v2/cudasharedmemory/region/x/register",
            "/v2/repository/index",
            "/v2/repository/models/clf/load",
            "/v2/trace/setting",
            "/v2/logging",
            "/metrics",
            "/invocations",
        ] {
            assert_eq!(Route::of(path), None, "{path}");
        }
    }
}
