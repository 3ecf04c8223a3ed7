//! Policies and tags in etcd: a document per source group, one per group, one per tag.
//!
//! `plan`, `tags`, `redo` and `fold` decide; the others read and write. Every change of policies
//! compares that no `intent` stands, and has the head as its last operation.

mod document;
mod epoch;
mod fold;
mod follow;
mod large;
#[cfg(test)]
mod large_test;
mod plan;
#[cfg(test)]
mod race_test;
mod redo;
mod snapshot;
mod status;
mod sweep;
pub(super) mod tags;
mod write;

pub use follow::EtcdPolicyFollower;

use super::EtcdStore;
use crate::StoreError;
use crate::policy::{Changed, PolicyStore, PolicyView};
use std::collections::{BTreeMap, BTreeSet};
use weft_api::stored::EnforcedDocument;
use weft_model::id::NodeId;
use weft_model::policy::Policy;

impl PolicyStore for EtcdStore {
    type Follower = EtcdPolicyFollower;

    async fn create(&self, policies: &[Policy]) -> Result<Changed, StoreError> {
        self.change(plan::Request::Create, policies).await
    }

    async fn delete(&self, policies: &[Policy]) -> Result<Changed, StoreError> {
        self.change(plan::Request::Delete, policies).await
    }

    async fn policies(&self) -> Result<PolicyView, StoreError> {
        const OP: &str = "list policies";
        let (before, known) = (self.seen(), self.known_epoch());
        let listed = self.list_policies(OP).await?;
        self.check_forward(before, listed.revision)?;
        self.check_epoch(known.as_deref(), &listed.epoch)?;
        Ok(listed.fold.into_view())
    }

    async fn follow_policies(&self, from: Option<PolicyView>) -> Result<EtcdPolicyFollower, StoreError> {
        EtcdPolicyFollower::start(self.clone(), from).await
    }

    async fn last_updated(&self) -> Result<i64, StoreError> {
        self.policies_last_updated().await
    }

    async fn sweep(&self) -> Result<(), StoreError> {
        self.sweep_policies().await
    }

    async fn want(&self, revision: i64) -> Result<(), StoreError> {
        self.put_wanted(revision).await
    }

    async fn enforced(&self) -> Result<BTreeMap<NodeId, EnforcedDocument>, StoreError> {
        self.list_enforced().await
    }

    async fn hosts_holding_leases(&self) -> Result<BTreeSet<NodeId>, StoreError> {
        self.list_holders().await
    }
}
