//! The store's epoch: one life of it.

use super::document::{json, now};
use super::snapshot::Snapshot;
use crate::StoreError;
use crate::etcd::EtcdStore;
use etcd_client::{Compare, CompareOp, Txn, TxnOp};
use uuid::Uuid;
use weft_api::stored::EpochDocument;

impl EtcdStore {
    /// Begins an epoch unless one has begun.
    pub(super) async fn begin_epoch(&self, op: &'static str) -> Result<(), StoreError> {
        let key = self.keys().epoch();
        let base = i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX / 2);
        let document = EpochDocument { epoch: Uuid::new_v4().to_string(), base_ns: base, since: now() };
        let txn = Txn::new().when([Compare::version(key.as_str(), CompareOp::Equal, 0)]).and_then([TxnOp::put(
            key.as_str(),
            json(&document),
            None,
        )]);
        let answer = self.idempotent(op, txn).await.map_err(|error| error.into_store(op))?;
        if answer.succeeded() {
            tracing::info!(epoch = document.epoch, "began an epoch of the store");
        }
        Ok(())
    }

    pub(super) fn check_epoch_document(&self, snapshot: &Snapshot) -> Result<(), StoreError> {
        self.check_epoch(snapshot.epoch.as_ref().map_or("", |epoch| &epoch.document.epoch))
    }

    /// Refuses a store of another epoch than the one this handle knows; empty: none has begun.
    pub(super) fn check_epoch(&self, epoch: &str) -> Result<(), StoreError> {
        let mut memory = self.memory();
        match &memory.epoch {
            Some(known) if known != epoch => {
                let now = if epoch.is_empty() { "gone" } else { epoch };
                Err(StoreError::Rewound(format!("its epoch is {now}, it was {known} before")))
            }
            Some(_) => Ok(()),
            None => {
                memory.epoch = Some(epoch.to_owned()).filter(|epoch| !epoch.is_empty());
                Ok(())
            }
        }
    }

    pub(super) async fn policies_last_updated(&self) -> Result<i64, StoreError> {
        const OP: &str = "read the last change of policies";
        let snapshot = self.read_keys(OP, Vec::new()).await?;
        // 0 before the first change, as Cloud Foundry's server answers with an empty database.
        let base = snapshot.epoch.as_ref().map_or(0, |epoch| epoch.document.base_ns);
        Ok(base.saturating_add(snapshot.head_revision()))
    }
}
