//! What happens around every request: headers, CORS, counting.

use crate::app::App;
use crate::metrics::Request as Counted;
use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ALLOW,
    CONTENT_SECURITY_POLICY, HeaderName, ORIGIN, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS, X_XSS_PROTECTION,
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::time::Instant;
use tracing::{Instrument, debug, info_span};
use uuid::Uuid;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-vcap-request-id");

/// The headers Cloud Foundry's server sends, in front of and behind the handler.
pub(crate) async fn surround<S: Send + Sync + 'static>(
    State(app): State<App<S>>,
    path: MatchedPath,
    request: Request,
    next: Next,
) -> Response {
    let started = Instant::now();
    let method = request.method().clone();
    let origin = allowed_origin(&app.shared.options.cors_origins, request.headers());
    let id = request_id(request.headers());
    let span = info_span!("request", id = %id, %method, path = path.as_str());
    let mut response = next.run(request).instrument(span).await;
    let status = response.status();
    debug!(%id, %method, path = path.as_str(), status = status.as_u16(), "answered");
    let counted = Counted { method: known(&method), route: path.as_str().to_owned(), status: status.as_u16() };
    app.shared.metrics.request(counted, started.elapsed());
    // The wrong method never reaches Cloud Foundry's own handlers, hence has none of their headers.
    if status != StatusCode::METHOD_NOT_ALLOWED {
        let headers = response.headers_mut();
        protect(headers);
        if let Some(origin) = origin {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        }
        if method != Method::OPTIONS
            && let Ok(id) = HeaderValue::from_str(&id)
        {
            headers.insert(REQUEST_ID, id);
        }
    }
    response
}

fn protect(headers: &mut HeaderMap) {
    for (name, value) in [
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_XSS_PROTECTION, "1; mode=block"),
        (X_FRAME_OPTIONS, "deny"),
        (CONTENT_SECURITY_POLICY, "frame-ancestors 'none'"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

/// A new id, behind the one the request came with.
fn request_id(headers: &HeaderMap) -> String {
    let new = Uuid::new_v4();
    match headers.get(REQUEST_ID).and_then(|id| id.to_str().ok()) {
        Some(incoming) if !incoming.is_empty() => format!("{incoming}::{new}"),
        _ => new.to_string(),
    }
}

fn allowed_origin(allowed: &[String], headers: &HeaderMap) -> Option<HeaderValue> {
    let origin = headers.get(ORIGIN)?.to_str().ok()?;
    let entry = allowed.iter().find(|entry| *entry == origin || *entry == "*")?;
    HeaderValue::from_str(entry).ok()
}

/// A label from a closed set: anybody can send any method.
fn known(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        Method::PATCH => "PATCH",
        _ => "other",
    }
}

/// A path with other methods than the one asked for.
pub(crate) fn wrong_method(allow: &'static str) -> Response {
    let headers = [(X_CONTENT_TYPE_OPTIONS, "nosniff"), (ALLOW, allow)];
    let status = StatusCode::METHOD_NOT_ALLOWED;
    (status, headers, "Method Not Allowed\n").into_response()
}

/// No such path.
pub(crate) async fn not_found() -> Response {
    let headers = [(X_CONTENT_TYPE_OPTIONS, "nosniff")];
    (StatusCode::NOT_FOUND, headers, "404 page not found\n").into_response()
}

/// A browser asking what it may do.
pub(crate) fn preflight(allow: &'static str) -> Response {
    let headers = [(ACCESS_CONTROL_ALLOW_METHODS, allow), (ACCESS_CONTROL_ALLOW_HEADERS, "authorization")];
    (headers, Body::empty()).into_response()
}
