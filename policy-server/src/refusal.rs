//! Answers that are not 200: Cloud Foundry's status codes and texts, in JSON that can be parsed.

use crate::auth::Unauthorized;
use crate::version::BodyFault;
use axum::Json;
use axum::http::header::WWW_AUTHENTICATE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// Why a request is not served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    status: StatusCode,
    error: String,
}

impl Refusal {
    pub(crate) fn version(version: &str) -> Self {
        Self { status: StatusCode::NOT_ACCEPTABLE, error: format!("api version '{version}' not supported") }
    }

    pub(crate) fn bad_request(error: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, error: error.into() }
    }

    /// A failure on our side. Why is said in the log, not to the client.
    pub(crate) fn internal(error: &'static str) -> Self {
        Self { status: StatusCode::INTERNAL_SERVER_ERROR, error: error.to_owned() }
    }
}

impl From<Unauthorized> for Refusal {
    fn from(error: Unauthorized) -> Self {
        Self { status: StatusCode::UNAUTHORIZED, error: error.to_string() }
    }
}

impl From<BodyFault> for Refusal {
    fn from(fault: BodyFault) -> Self {
        Self::bad_request(fault.to_string())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(json!({ "error": self.error }))).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        }
        response
    }
}
