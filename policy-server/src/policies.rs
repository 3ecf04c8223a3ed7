//! Listing, creating and deleting policies; tags.

use crate::app::App;
use crate::caller::Caller;
use crate::query::{Filter, Query};
use crate::refusal::Refusal;
use crate::version::{List, Version};
use axum::Json;
use axum::body::{Body, to_bytes};
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::json;
use tracing::{Instrument, error, info, warn};
use weft_api::enforced::REVISION_HEADER;
use weft_api::policies::{PolicyBody, PolicyList};
use weft_model::id::{GroupId, Tag};
use weft_model::policy::Policy;
use weft_store::StoreError;
use weft_store::policy::{Changed, PolicyStore, PolicyView};

/// The largest body, bytes (`MAX_REQ_BODY_SIZE` of Cloud Foundry's server).
const MAX_BODY: usize = 10 << 20;

const READ_FAILED: &str = "database read failed";

type Answer = Result<Response, Refusal>;

/// `GET …/external/policies`
pub(crate) async fn list<S: PolicyStore>(
    State(app): State<App<S>>,
    caller: Caller,
    RawQuery(query): RawQuery,
) -> Answer {
    let filter = filter(query.as_deref())?;
    let view = read(&app).await?;
    let shown = view.policies.iter().filter(|policy| filter.shows(policy));
    Ok(with_revision(view.revision, caller.version.list(shown)))
}

/// `GET …/internal/policies`: with tags, as Cloud Foundry's agents read them.
pub(crate) async fn list_internal<S: PolicyStore>(
    State(app): State<App<S>>,
    _caller: Caller,
    RawQuery(query): RawQuery,
) -> Answer {
    let filter = filter(query.as_deref())?;
    let view = read(&app).await?;
    let shown = view.policies.iter().filter(|policy| filter.shows(policy));
    let policies: Vec<_> = shown.map(|policy| with_tags(policy, &view)).collect();
    let list = List::V1(PolicyList { total_policies: policies.len(), policies });
    Ok(with_revision(view.revision, list))
}

fn with_tags(policy: &Policy, view: &PolicyView) -> PolicyBody {
    let tag = |group| view.tags.get(group).map(Tag::to_string).unwrap_or_default();
    let mut body = PolicyBody::from(policy);
    body.source.tag = tag(&policy.source);
    body.destination.tag = tag(&policy.destination);
    body
}

/// `GET …/external/tags`
pub(crate) async fn tags<S: PolicyStore>(State(app): State<App<S>>, _caller: Caller) -> Answer {
    #[derive(Serialize)]
    struct Shown<'a> {
        id: &'a GroupId,
        tag: Tag,
        r#type: &'static str,
    }
    let view = read(&app).await?;
    let shown = |(id, tag): (_, &Tag)| Shown { id, tag: *tag, r#type: "app" };
    let mut tags: Vec<_> = view.tags.iter().map(shown).collect();
    tags.sort_by_key(|shown| shown.tag);
    Ok(with_revision(view.revision, json!({ "tags": tags })))
}

/// `GET …/internal/policies_last_updated`
pub(crate) async fn last_updated<S: PolicyStore>(State(app): State<App<S>>, _caller: Caller) -> Answer {
    match app.store.last_updated().await {
        Ok(nanoseconds) => Ok(Json(nanoseconds).into_response()),
        Err(error) => Err(app.store_failed(READ_FAILED, &error)),
    }
}

/// `POST …/external/policies`
pub(crate) async fn create<S: PolicyStore>(State(app): State<App<S>>, caller: Caller, body: Body) -> Answer {
    let policies = policies_of(caller.version, body, "failed reading request body").await?;
    to_the_end(async move {
        let outcome = app.store.create(&policies).await;
        changed(&app, &caller, "created-policies", "database create failed", &policies, outcome)
    })
    .await
}

/// `POST …/external/policies/delete`
pub(crate) async fn delete<S: PolicyStore>(State(app): State<App<S>>, caller: Caller, body: Body) -> Answer {
    let policies = policies_of(caller.version, body, "invalid request body").await?;
    to_the_end(async move {
        let outcome = app.store.delete(&policies).await;
        changed(&app, &caller, "deleted-policies", "database delete failed", &policies, outcome)
    })
    .await
}

/// A change goes on, up to its audit line, when the client is gone: a dropped handler would leave it
/// made or not, and nobody would know.
async fn to_the_end(change: impl Future<Output = Answer> + Send + 'static) -> Answer {
    tokio::spawn(change.in_current_span()).await.unwrap_or_else(|error| {
        error!(%error, "a change broke off");
        Err(Refusal::internal("change broke off"))
    })
}

async fn policies_of(version: Version, body: Body, unreadable: &'static str) -> Result<Vec<Policy>, Refusal> {
    let body = to_bytes(body, MAX_BODY).await.map_err(|error| {
        warn!(%error, limit = MAX_BODY, "request body not read");
        Refusal::bad_request(unreadable)
    })?;
    Ok(version.read(&body)?)
}

/// Answers a change; one line for the audit whatever came of it.
fn changed<S>(
    app: &App<S>,
    caller: &Caller,
    event: &'static str,
    failure: &'static str,
    policies: &[Policy],
    outcome: Result<Changed, StoreError>,
) -> Answer {
    let who = caller.name.as_str();
    let policies = json!(policies.iter().map(PolicyBody::from).collect::<Vec<_>>());
    match outcome {
        Ok(Changed { revision, count }) => {
            info!(target: "audit", event, who, %policies, revision, count, "policies changed");
            Ok(with_revision(revision, json!({})))
        }
        Err(error) => {
            warn!(target: "audit", event, who, %policies, %error, "policies not changed");
            Err(app.store_failed(failure, &error))
        }
    }
}

async fn read<S: PolicyStore>(app: &App<S>) -> Result<PolicyView, Refusal> {
    match app.store.policies().await {
        Ok(view) => {
            app.shared.metrics.seen(&view);
            Ok(view)
        }
        Err(error) => Err(app.store_failed(READ_FAILED, &error)),
    }
}

fn filter(query: Option<&str>) -> Result<Filter, Refusal> {
    let query = Query::parse(query).map_err(Refusal::bad_request)?;
    Ok(Filter::of(&query))
}

fn with_revision(revision: i64, body: impl Serialize) -> Response {
    ([(REVISION_HEADER, revision.to_string())], Json(body)).into_response()
}
