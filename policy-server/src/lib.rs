//! The REST API for policies: compatible with Cloud Foundry's network policy server (v0 and v1 of
//! `/networking/:version/external`), plus routes of our own below `/weft/v1`.
//!
//! | route | what |
//! |---|---|
//! | `GET`, `POST /networking/:version/external/policies` | list, with the filters `id`, `source_id`, `dest_id`; create |
//! | `POST /networking/:version/external/policies/delete` | delete |
//! | `GET /networking/:version/external/tags`, `…/whoami` | groups and their tags; the token's name |
//! | `GET /networking/:version/internal/policies`, `…/policies_last_updated` | policies with tags; a number that grows with each change |
//! | `GET /weft/v1/enforced?revision=N&timeout=10s` | waits until every host enforces N |
//! | `GET /`, `/networking`, `/health`, `/metrics` | without a token |
//!
//! Every answer that speaks of a revision of the policies has it in the header `X-Weft-Revision`.

#![forbid(unsafe_code)]

mod app;
mod auth;
mod caller;
pub mod config;
mod enforced;
mod json;
mod metrics;
mod policies;
mod query;
mod refusal;
mod routes;
mod serve;
mod surround;
mod uptime;
mod version;

pub use auth::{Auth, Token, Unauthorized};
pub use serve::{ServeError, run, serve};

use axum::Router;
use std::sync::Arc;
use weft_store::hosts::HostStore;
use weft_store::policy::PolicyStore;

/// What a router needs to know besides the store.
#[derive(Debug, Clone)]
pub struct Options {
    /// Who may use it.
    pub auth: Auth,
    /// Origins browsers may ask from; `*`: any.
    pub cors_origins: Vec<String>,
}

/// The whole API on top of a store.
pub fn router<S: PolicyStore + HostStore>(store: Arc<S>, options: Options) -> Router {
    routes::routes(app::App::new(store, options))
}
