//! The agent's API on its unix socket; see `weft_api::agent` for the table.

use crate::denials::{Counts, DenialFeed, line};
use crate::worker::{Command, Reply, Worker};
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::StreamExt;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use tokio::net::UnixListener;
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::wrappers::errors::BroadcastStreamRecvError;
use weft_api::agent::{ApiError, ErrorCode};
use weft_api::explain::ExplainQuery;

#[derive(Clone)]
struct Shared {
    worker: Worker,
    denials: DenialFeed,
    counts: Arc<Counts>,
}

/// Makes the socket, for root only. One left over by an agent that died is replaced: the lock says
/// that no other lives.
///
/// # Errors
/// The socket cannot be made.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves for the agent's life.
///
/// # Errors
/// The listener broke.
pub async fn serve(listener: UnixListener, worker: Worker, denials: DenialFeed, counts: Arc<Counts>) -> io::Result<()> {
    let router = Router::new()
        .route("/v1/reserve", post(reserve))
        .route("/v1/commit", post(commit))
        .route("/v1/release", post(release))
        .route("/v1/remove", post(remove))
        .route("/v1/check", post(check))
        .route("/v1/gc", post(gc))
        .route("/v1/ready", get(ready))
        .route("/v1/status", get(status))
        .route("/v1/endpoints", get(endpoints))
        .route("/v1/explain", get(explain))
        .route("/v1/denials", get(denied))
        .route("/v1/logging", get(logging).put(change_logging).delete(reset_logging))
        .route("/metrics", get(crate::metrics::answer).with_state(worker.clone()))
        .with_state(Shared { worker, denials, counts });
    axum::serve(listener, router).await
}

async fn reserve(State(shared): State<Shared>, body: String) -> Response {
    match parse(&body) {
        Ok(request) => answer(shared.worker.ask(|reply| Command::Reserve(Box::new(request), reply)).await),
        Err(refusal) => refusal,
    }
}

async fn commit(State(shared): State<Shared>, body: String) -> Response {
    match parse(&body) {
        Ok(request) => answer(shared.worker.ask(|reply| Command::Commit(request, reply)).await),
        Err(refusal) => refusal,
    }
}

async fn release(State(shared): State<Shared>, body: String) -> Response {
    match parse(&body) {
        Ok(request) => answer(shared.worker.ask(|reply| Command::Release(request, reply)).await),
        Err(refusal) => refusal,
    }
}

async fn remove(State(shared): State<Shared>, body: String) -> Response {
    match parse(&body) {
        Ok(request) => answer(shared.worker.ask(|reply| Command::Remove(request, reply)).await),
        Err(refusal) => refusal,
    }
}

async fn check(State(shared): State<Shared>, body: String) -> Response {
    match parse(&body) {
        Ok(request) => answer(shared.worker.ask(|reply| Command::Check(request, reply)).await),
        Err(refusal) => refusal,
    }
}

async fn gc(State(shared): State<Shared>, body: String) -> Response {
    match parse(&body) {
        Ok(request) => answer(shared.worker.ask(|reply| Command::Gc(request, reply)).await),
        Err(refusal) => refusal,
    }
}

async fn ready(State(shared): State<Shared>) -> Response {
    answer(shared.worker.ask(Command::Ready).await)
}

async fn status(State(shared): State<Shared>) -> Response {
    answer(shared.worker.ask(Command::Status).await)
}

async fn endpoints(State(shared): State<Shared>) -> Response {
    answer(shared.worker.ask(Command::Endpoints).await)
}

async fn logging(State(shared): State<Shared>) -> Response {
    answer(shared.worker.ask(Command::Logging).await)
}

async fn change_logging(State(shared): State<Shared>, body: String) -> Response {
    match parse(&body) {
        Ok(change) => answer(shared.worker.ask(|reply| Command::ChangeLogging(change, reply)).await),
        Err(refusal) => refusal,
    }
}

async fn reset_logging(State(shared): State<Shared>) -> Response {
    answer(shared.worker.ask(Command::ResetLogging).await)
}

async fn explain(State(shared): State<Shared>, query: Result<Query<ExplainQuery>, QueryRejection>) -> Response {
    match query {
        Ok(Query(query)) => answer(shared.worker.ask(|reply| Command::Explain(query, reply)).await),
        Err(rejection) => refuse(&ApiError { code: ErrorCode::Invalid, message: rejection.body_text(), details: None }),
    }
}

#[derive(Deserialize)]
struct DenialQuery {
    #[serde(default)]
    follow: bool,
}

/// Recent records, then, if asked for, new ones as they come. What a reader misses because it is too
/// slow is counted.
async fn denied(State(shared): State<Shared>, Query(query): Query<DenialQuery>) -> Response {
    let (recent, live) = shared.denials.subscribe();
    let past = futures_util::stream::iter(recent.into_iter().map(|record| Ok::<_, io::Error>(line(&record))));
    let body = if query.follow {
        let counts = shared.counts;
        let live = BroadcastStream::new(live).filter_map(move |record| {
            if let Err(BroadcastStreamRecvError::Lagged(records)) = &record {
                counts.missed(*records);
            }
            std::future::ready(record.ok().map(|record| Ok(line(&record))))
        });
        Body::from_stream(past.chain(live))
    } else {
        Body::from_stream(past)
    };
    ([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response()
}

#[expect(clippy::result_large_err, reason = "the error is the response itself, made once")]
fn parse<T: DeserializeOwned>(body: &str) -> Result<T, Response> {
    serde_json::from_str(body).map_err(|error| {
        refuse(&ApiError { code: ErrorCode::Invalid, message: format!("request body: {error}"), details: None })
    })
}

fn answer<T: Serialize>(reply: Reply<T>) -> Response {
    match reply {
        Ok(body) => Json(body).into_response(),
        Err(error) => refuse(&error),
    }
}

fn refuse(error: &ApiError) -> Response {
    let status = StatusCode::from_u16(error.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, Json(error)).into_response()
}
