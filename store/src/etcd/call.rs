//! Single calls: connection, time limits, repetition, what errors mean.

use super::EtcdStore;
use crate::StoreError;
use etcd_client::{Client, ConnectOptions, Error, GetOptions, GetResponse, KvClient, Txn, TxnResponse};
use std::future::Future;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

/// How an attempt ended that a caller may want to tell from other failures.
#[derive(Debug)]
pub(super) enum CallError {
    /// The revision asked for was compacted.
    Compacted,
    /// The revision asked for is later than the store's.
    Future,
    /// The answer is larger than we take.
    TooLarge,
    /// The etcd lease does not exist.
    NoLease,
    /// Anything else.
    Store(StoreError),
}

impl From<StoreError> for CallError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl CallError {
    /// The error for callers to whom the distinctions mean nothing.
    pub(super) fn into_store(self, op: &'static str) -> StoreError {
        let refused = |message: &str| StoreError::Refused { op, message: message.to_owned() };
        match self {
            Self::Compacted => unreachable(op, "the revision was compacted meanwhile"),
            Self::Future => StoreError::Rewound("it knows nothing of a revision we have seen".to_owned()),
            Self::TooLarge => refused("the answer is too large"),
            Self::NoLease => refused("the etcd lease has run out"),
            Self::Store(error) => error,
        }
    }
}

/// An error that says "not now".
pub(super) fn unreachable(op: &'static str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StoreError {
    StoreError::Unreachable { op, source: source.into() }
}

/// Largest answer taken, bytes; etcd-client's own limit, 4 MiB, is less than pages usually have. A page
/// that is larger is asked for in parts.
pub(super) const MAX_ANSWER: usize = 16 << 20;

/// Pause between repetitions.
pub(super) const PAUSE: Duration = Duration::from_millis(50);

// gRPC status codes (grpc.io, statuscodes).
const INVALID_ARGUMENT: i32 = 3;
const NOT_FOUND: i32 = 5;
const PERMISSION_DENIED: i32 = 7;
const FAILED_PRECONDITION: i32 = 9;
const OUT_OF_RANGE: i32 = 11;
const UNAUTHENTICATED: i32 = 16;

/// What etcd's error means.
pub(super) fn classify(op: &'static str, error: Error) -> CallError {
    let Error::GRpcStatus(status) = &error else {
        return CallError::Store(unreachable(op, error));
    };
    let message = status.message();
    let refused = || CallError::Store(StoreError::Refused { op, message: message.to_owned() });
    let denied = || CallError::Store(StoreError::NotPermitted { op, message: message.to_owned() });
    match i32::from(status.code()) {
        OUT_OF_RANGE if message.contains("compacted") => CallError::Compacted,
        OUT_OF_RANGE if message.contains("future revision") => CallError::Future,
        OUT_OF_RANGE => CallError::TooLarge,
        NOT_FOUND if message.contains("lease") => CallError::NoLease,
        PERMISSION_DENIED | UNAUTHENTICATED => denied(),
        INVALID_ARGUMENT if message.contains("authentication failed") || message.contains("user name") => denied(),
        INVALID_ARGUMENT | FAILED_PRECONDITION => refused(),
        _ => CallError::Store(unreachable(op, error)),
    }
}

impl EtcdStore {
    /// The client. With a user it authenticates first, which needs etcd.
    pub(super) async fn client(&self, op: &'static str) -> Result<Client, CallError> {
        let connect = || async {
            let options = self.options();
            let mut connect = ConnectOptions::new()
                // etcd closes connections whose pings come more often than every 5 s.
                .with_keep_alive(Duration::from_secs(10), Duration::from_secs(5))
                .with_keep_alive_while_idle(true)
                .with_connect_timeout(options.timeout.min(Duration::from_secs(2)))
                // A member cut off from its cluster must not keep a watch silent.
                .with_require_leader(true)
                .with_auto_token_refresh(true);
            if let Some((user, password)) = &options.user {
                connect = connect.with_user(user, password);
            }
            Client::connect(&options.endpoints, Some(connect)).await
        };
        let client = self.inner.client.get_or_try_init(connect).await.map_err(|error| classify(op, error))?;
        Ok(client.clone())
    }

    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.options().timeout
    }

    async fn kv(&self, op: &'static str) -> Result<KvClient, CallError> {
        Ok(self.client(op).await?.kv_client().max_decoding_message_size(MAX_ANSWER))
    }

    /// One attempt, within the time limit.
    pub(super) async fn limited<T>(
        &self,
        op: &'static str,
        call: impl Future<Output = Result<T, CallError>>,
    ) -> Result<T, CallError> {
        let Ok(result) = timeout_at(self.deadline(), call).await else {
            return Err(CallError::Store(unreachable(op, "no answer in time")));
        };
        result
    }

    /// Attempts without effect, repeated while the store does not answer: of several members one may be
    /// down, and the client hands every call to any of them.
    pub(super) async fn repeated<T, F: Future<Output = Result<T, CallError>>>(
        &self,
        op: &'static str,
        mut call: impl FnMut() -> F,
    ) -> Result<T, CallError> {
        let deadline = self.deadline();
        loop {
            match timeout_at(deadline, call()).await {
                Ok(Err(CallError::Store(StoreError::Unreachable { .. }))) if Instant::now() + PAUSE < deadline => {
                    sleep(PAUSE).await;
                }
                Ok(result) => return result,
                Err(_elapsed) => return Err(CallError::Store(unreachable(op, "no answer in time"))),
            }
        }
    }

    /// Reads keys.
    pub(super) async fn get(
        &self,
        op: &'static str,
        key: impl Into<Vec<u8>>,
        options: GetOptions,
    ) -> Result<GetResponse, CallError> {
        let key = key.into();
        self.repeated(op, || async {
            let mut kv = self.kv(op).await?;
            kv.get(key.clone(), Some(options.clone())).await.map_err(|error| classify(op, error))
        })
        .await
    }

    /// A transaction that reads, or does no harm when it happens twice: repeated like a read.
    pub(super) async fn idempotent(&self, op: &'static str, txn: Txn) -> Result<TxnResponse, CallError> {
        self.repeated(op, || async {
            let mut kv = self.kv(op).await?;
            kv.txn(txn.clone()).await.map_err(|error| classify(op, error))
        })
        .await
    }

    /// A transaction that writes: one attempt. After [`StoreError::Unreachable`] it may have happened.
    pub(super) async fn write(&self, op: &'static str, txn: Txn) -> Result<TxnResponse, CallError> {
        self.limited(op, async {
            let mut kv = self.kv(op).await?;
            kv.txn(txn).await.map_err(|error| classify(op, error))
        })
        .await
    }
}
