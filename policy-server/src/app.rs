//! What all requests share.

use crate::Options;
use crate::metrics::Metrics;
use crate::refusal::Refusal;
use std::sync::Arc;
use std::time::Instant;
use tracing::error;
use weft_store::StoreError;

pub(crate) struct App<S> {
    pub(crate) store: Arc<S>,
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) options: Options,
    pub(crate) metrics: Metrics,
    pub(crate) started: Instant,
}

impl<S> Clone for App<S> {
    fn clone(&self) -> Self {
        Self { store: Arc::clone(&self.store), shared: Arc::clone(&self.shared) }
    }
}

impl<S> App<S> {
    pub(crate) fn new(store: Arc<S>, options: Options) -> Self {
        Self { store, shared: Arc::new(Shared { options, metrics: Metrics::default(), started: Instant::now() }) }
    }

    /// The answer when the store failed: Cloud Foundry's text for the client, the cause for the log.
    pub(crate) fn store_failed(&self, answer: &'static str, cause: &StoreError) -> Refusal {
        self.shared.metrics.store_error(answer);
        error!(error = %cause, answer, next = what_next(cause), "store failed");
        Refusal::internal(answer)
    }
}

/// What happens after a failure, and what a person should do about it.
pub(crate) fn what_next(error: &StoreError) -> &'static str {
    match error {
        StoreError::Unreachable { .. } => {
            "requests fail until the store answers again; hosts go on enforcing what they have; \
             an interrupted change may or may not have been made, repeating it is harmless"
        }
        StoreError::Rewound(_) => "hosts keep the policies they have until an import or an explicit accept",
        StoreError::TooLarge { .. } | StoreError::Refused { .. } => {
            "nothing was changed; the same request will fail again"
        }
        StoreError::Document { .. } => "requests fail until the document is repaired",
        StoreError::Contended { .. } => "nothing was changed; the client may try again",
        StoreError::Option { .. } => "requests fail until the server is started with other options",
        StoreError::NoTagFree => {
            "changes that name no new group still work; delete policies of groups no longer needed"
        }
        StoreError::NotPermitted { .. } => "requests fail until the store's role for this server is corrected",
    }
}
