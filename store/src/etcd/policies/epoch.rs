//! The store's epoch: one life of it.

use super::document::{json, now};
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

    /// The epoch this handle knows, to be asked before a read whose answer is to be checked: an answer
    /// that was under way while an epoch began may still be without it.
    pub(super) fn known_epoch(&self) -> Option<String> {
        self.memory().epoch.clone()
    }

    /// Refuses a store of another epoch than the one that was known `before` it was read; empty: none
    /// has begun.
    pub(super) fn check_epoch(&self, before: Option<&str>, epoch: &str) -> Result<(), StoreError> {
        if let Some(known) = before.filter(|known| *known != epoch) {
            let now = if epoch.is_empty() { "gone" } else { epoch };
            return Err(StoreError::Rewound(format!("its epoch is {now}, it was {known} before")));
        }
        let mut memory = self.memory();
        if memory.epoch.is_none() && !epoch.is_empty() {
            memory.epoch = Some(epoch.to_owned());
        }
        Ok(())
    }

    pub(super) async fn policies_last_updated(&self) -> Result<i64, StoreError> {
        const OP: &str = "read the last change of policies";
        let snapshot = self.read_keys(OP, Vec::new()).await?;
        // 0 before the first change, as Cloud Foundry's server answers with an empty database.
        let base = snapshot.epoch.as_ref().map_or(0, |epoch| epoch.document.base_ns);
        Ok(base.saturating_add(snapshot.head_revision()))
    }
}
