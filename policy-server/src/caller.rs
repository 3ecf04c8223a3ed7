//! Who asks, and for which version: checked before a body is read.

use crate::app::App;
use crate::refusal::Refusal;
use crate::version::Version;
use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::request::Parts;

/// An admitted request: a version we speak (406), then a token we know (401).
pub(crate) struct Caller {
    pub(crate) version: Version,
    pub(crate) name: String,
}

impl<S: Send + Sync> FromRequestParts<App<S>> for Caller {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, app: &App<S>) -> Result<Self, Refusal> {
        let params = RawPathParams::from_request_parts(parts, app)
            .await
            .map_err(|error| Refusal::bad_request(error.to_string()))?;
        let version = match params.iter().find(|(key, _)| *key == "version") {
            None => Version::V1,
            Some((_, text)) => Version::parse(text).ok_or_else(|| Refusal::version(text))?,
        };
        let name = app.shared.options.auth.check(&parts.headers)?;
        Ok(Self { version, name })
    }
}
