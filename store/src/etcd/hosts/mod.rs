//! Hosts in etcd.

mod fold;
mod follow;
mod leases;
mod list;

pub use follow::EtcdHostsFollower;

use super::call::CallError;
use super::{EtcdStore, page};
use crate::StoreError;
use crate::hosts::{Claim, Hold, HostStore, HostsView};
use etcd_client::{Compare, CompareOp, GetOptions, Txn, TxnOp};
use weft_api::flannel::{Config, LeaseValue, parse_config};
use weft_api::stored::{EnforcedDocument, HostDocument};
use weft_model::id::NodeId;
use weft_model::net::Subnet;

impl HostStore for EtcdStore {
    type Follower = EtcdHostsFollower;

    async fn network(&self) -> Result<Option<Config>, StoreError> {
        const OP: &str = "read the network's configuration";
        let before = self.seen();
        let answer = self.get(OP, self.keys().config(), GetOptions::new()).await.map_err(|e| e.into_store(OP))?;
        self.check_forward(before, page::shown(&answer))?;
        answer.kvs().first().map(|kv| self.config(kv.value())).transpose()
    }

    async fn init_network(&self, json: &str) -> Result<Config, StoreError> {
        const OP: &str = "write the network's configuration";
        let config = self.config(json.as_bytes())?;
        let key = self.keys().config();
        let txn = Txn::new().when([Compare::version(key.as_str(), CompareOp::Equal, 0)]).and_then([TxnOp::put(
            key.as_str(),
            json,
            None,
        )]);
        // Repeating it is harmless: whoever writes second writes nothing.
        let answer = self.idempotent(OP, txn).await.map_err(|e| e.into_store(OP))?;
        if answer.succeeded() {
            return Ok(config);
        }
        let missing = || CallError::from(super::call::unreachable(OP, "it was removed meanwhile")).into_store(OP);
        self.network().await?.ok_or_else(missing)
    }

    fn accept_rewound(&self) {
        Self::accept_rewound(self);
    }

    async fn hosts(&self) -> Result<HostsView, StoreError> {
        const OP: &str = "list hosts";
        let before = self.seen();
        let listed = self.list_hosts(OP).await?;
        self.check_forward(before, listed.fold.view().revision)?;
        Ok(listed.fold.into_view())
    }

    async fn follow_hosts(&self) -> Result<EtcdHostsFollower, StoreError> {
        EtcdHostsFollower::start(self.clone()).await
    }

    async fn create(&self, subnet: Subnet, value: &LeaseValue, record: &HostDocument) -> Result<Claim, StoreError> {
        self.create_lease(subnet, value, record).await
    }

    async fn rewrite(
        &self,
        subnet: Subnet,
        expected: i64,
        value: &LeaseValue,
        record: &HostDocument,
    ) -> Result<Claim, StoreError> {
        self.rewrite_lease(subnet, expected, value, record).await
    }

    async fn keep_alive(&self, lease_id: i64) -> Result<Option<i64>, StoreError> {
        self.renew(lease_id).await
    }

    async fn release(&self, node: &NodeId, subnet: Subnet, hold: Hold) -> Result<Claim, StoreError> {
        self.release_lease(node, subnet, hold).await
    }

    async fn forget(&self, node: &NodeId) -> Result<(), StoreError> {
        self.delete_record(node).await
    }

    async fn report_enforced(
        &self,
        node: &NodeId,
        lease_id: i64,
        enforced: &EnforcedDocument,
    ) -> Result<(), StoreError> {
        self.put_enforced(node, lease_id, enforced).await
    }
}

impl EtcdStore {
    fn config(&self, json: &[u8]) -> Result<Config, StoreError> {
        parse_config(json)
            .map_err(|error| StoreError::Document { key: self.keys().config(), complaint: error.to_string() })
    }
}
