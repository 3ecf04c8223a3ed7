//! What the worker is told and asked.

use super::{internal, remove};
use crate::cache::CachedPeer;
use crate::overlay::Overlay;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use tokio::sync::oneshot;
use weft_api::agent::{
    ApiError, CheckRequest, CheckResponse, CommitRequest, CommitResponse, EndpointView, GcRequest, GcResponse, Ready,
    ReleaseRequest, ReleaseResponse, RemoveRequest, RemoveResponse, ReserveRequest, ReserveResponse, Status,
};
use weft_api::explain::{ExplainQuery, Explanation};
use weft_api::logging::{Logging, LoggingChange, LoggingView};
use weft_model::lease;
use weft_store::policy::PolicyView;

/// An answer.
pub type Reply<T> = Result<T, ApiError>;

/// A message to the worker.
#[derive(Debug)]
pub enum Command {
    /// Step one of ADD.
    Reserve(Box<ReserveRequest>, oneshot::Sender<Reply<ReserveResponse>>),
    /// Step two of ADD.
    Commit(CommitRequest, oneshot::Sender<Reply<CommitResponse>>),
    /// A hint that a workload is gone.
    Release(ReleaseRequest, oneshot::Sender<Reply<ReleaseResponse>>),
    /// DEL.
    Remove(RemoveRequest, oneshot::Sender<Reply<RemoveResponse>>),
    /// What came of a pass of the remover.
    Removed(Vec<remove::Removed>),
    /// CHECK.
    Check(CheckRequest, oneshot::Sender<Reply<CheckResponse>>),
    /// GC.
    Gc(GcRequest, oneshot::Sender<Reply<GcResponse>>),
    /// Would an ADD work?
    Ready(oneshot::Sender<Reply<Ready>>),
    /// How is the host?
    Status(oneshot::Sender<Reply<Status>>),
    /// Who is here?
    Endpoints(oneshot::Sender<Reply<Vec<EndpointView>>>),
    /// Would a connection pass, and why?
    Explain(ExplainQuery, oneshot::Sender<Reply<Explanation>>),
    /// The lease and the overlay as the store (or the disk) shows them.
    Lease {
        /// The lease's state.
        state: lease::State,
        /// The overlay.
        overlay: Overlay,
        /// The other hosts.
        peers: Vec<CachedPeer>,
    },
    /// Only the lease's state changed.
    LeaseState(lease::State),
    /// A new revision of policies.
    Policies(Arc<PolicyView>),
    /// Whether the store answers.
    Store {
        /// It does.
        connected: bool,
        /// What it said, if it does not.
        error: Option<String>,
    },
    /// Something a person should know, or that it is over.
    Alarm {
        /// About what; one alarm each.
        about: &'static str,
        /// The alarm; `None`: over.
        text: Option<String>,
    },
    /// What is logged, and how that differs from the configuration.
    Logging(oneshot::Sender<Reply<LoggingView>>),
    /// Log otherwise, until that is taken back.
    ChangeLogging(LoggingChange, oneshot::Sender<Reply<LoggingView>>),
    /// Log as configured.
    ResetLogging(oneshot::Sender<Reply<LoggingView>>),
    /// The configuration was read again.
    Reconfigure {
        /// What is logged.
        logging: Logging,
        /// Whether flows go past the host's stack.
        fast_path: bool,
    },
    /// The kernel says that something changed.
    KernelChanged,
    /// End.
    Stop,
}

impl Command {
    /// Whether somebody still waits for the answer of an ADD's step: a plugin that gave up has undone what it did,
    /// and an address would be reserved for nobody.
    pub(super) fn is_awaited(&self) -> bool {
        match self {
            Self::Reserve(_, reply) => !reply.is_closed(),
            Self::Commit(_, reply) => !reply.is_closed(),
            _ => true,
        }
    }
}

/// The worker's address.
#[derive(Debug, Clone)]
pub struct Worker(pub(super) Sender<Command>);

impl Worker {
    /// Sends a message; after the worker's end it goes nowhere, and the agent is about to end too.
    pub fn send(&self, command: Command) {
        drop(self.0.send(command));
    }

    /// Sends a question and waits for its answer.
    ///
    /// # Errors
    /// What the worker answers, or that it is gone.
    pub async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<Reply<T>>) -> Command) -> Reply<T> {
        let (sender, receiver) = oneshot::channel();
        self.send(question(sender));
        receiver.await.unwrap_or_else(|_gone| Err(internal("the agent is ending")))
    }
}
