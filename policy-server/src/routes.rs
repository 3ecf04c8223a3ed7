//! Paths and methods.

use crate::app::App;
use crate::enforced::enforced;
use crate::policies;
use crate::refusal::Refusal;
use crate::surround::{not_found, preflight, surround, wrong_method};
use crate::{caller::Caller, uptime::uptime};
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Json, Router};
use serde_json::json;
use weft_store::hosts::HostStore;
use weft_store::policy::PolicyStore;

const GET: &str = "GET,OPTIONS";
const POST: &str = "POST,OPTIONS";

pub(crate) fn routes<S: PolicyStore + HostStore>(app: App<S>) -> Router {
    let external = Router::new()
        .route("/policies", only("POST,GET,OPTIONS", get(policies::list).post(policies::create)))
        .route("/policies/delete", only(POST, post(policies::delete)))
        .route("/tags", only(GET, get(policies::tags)))
        .route("/whoami", only(GET, get(whoami)));
    let internal = Router::new()
        .route("/policies", only(GET, get(policies::list_internal)))
        .route("/policies_last_updated", only(GET, get(policies::last_updated)));
    Router::new()
        .route("/", only(GET, get(up)))
        .route("/networking", only(GET, get(up)))
        .route("/health", only(GET, get(health)))
        .route("/metrics", only(GET, get(metrics)))
        .route("/weft/v1/enforced", only(GET, get(enforced)))
        .nest("/networking/{version}/external", external)
        .nest("/networking/{version}/internal", internal)
        .route_layer(from_fn_with_state(app.clone(), surround))
        .fallback(not_found)
        .with_state(app)
}

/// These methods and no others; HEAD too is refused, as Cloud Foundry's server does.
fn only<S: Send + Sync + 'static>(allow: &'static str, methods: MethodRouter<App<S>>) -> MethodRouter<App<S>> {
    methods
        .options(move || async move { preflight(allow) })
        .head(move || async move { wrong_method(allow) })
        .fallback(move || async move { wrong_method(allow) })
}

/// `GET /`: works without the store.
async fn up<S>(State(app): State<App<S>>) -> String {
    let uptime = uptime(app.shared.started.elapsed());
    format!("Network policy server, up for {uptime}\n")
}

/// `GET /health`
async fn health<S: PolicyStore>(State(app): State<App<S>>) -> Result<(), Refusal> {
    let answer = app.store.last_updated().await;
    answer.map(drop).map_err(|error| app.store_failed("check database failed", &error))
}

/// `GET …/external/whoami`
async fn whoami(caller: Caller) -> Response {
    Json(json!({ "subject": caller.name })).into_response()
}

/// `GET /metrics`
async fn metrics<S>(State(app): State<App<S>>) -> Response {
    let text = app.shared.metrics.text(app.shared.started.elapsed());
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}
