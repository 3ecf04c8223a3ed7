//! Claims on subnets. Every write that decides ownership is conditional.

use crate::StoreError;
use crate::etcd::EtcdStore;
use crate::etcd::call::{CallError, PAUSE, classify};
use crate::etcd::change::Change;
use crate::hosts::{Claim, Hold};
use etcd_client::{Compare, CompareOp, Error, GetOptions, PutOptions, Txn, TxnOp, TxnResponse};
use tokio::time::{Instant, sleep};
use weft_api::flannel::LeaseValue;
use weft_api::stored::{EnforcedDocument, HostDocument};
use weft_model::id::NodeId;
use weft_model::net::Subnet;

/// A grant's time to live, seconds: flannel's `subnetTTL`, 24 h.
const LEASE_TTL: i64 = 86_400;

impl EtcdStore {
    pub(super) async fn create_lease(
        &self,
        subnet: Subnet,
        value: &LeaseValue,
        record: &HostDocument,
    ) -> Result<Claim, StoreError> {
        const OP: &str = "claim a subnet";
        let lease = self.grant(OP).await?;
        let claim = self.put_lease(OP, subnet, 0, lease, value, record).await;
        if !matches!(claim, Ok(Claim::Won(_))) {
            self.revoke(OP, lease).await;
        }
        claim
    }

    pub(super) async fn rewrite_lease(
        &self,
        subnet: Subnet,
        expected: i64,
        value: &LeaseValue,
        record: &HostDocument,
    ) -> Result<Claim, StoreError> {
        const OP: &str = "rewrite a subnet's lease";
        match self.lease_key(OP, subnet).await? {
            // A reservation (no etcd lease) stays one: its owner may be away for longer than a grant.
            Some(key) if key.revision == expected => {
                self.put_lease(OP, subnet, expected, key.lease, value, record).await
            }
            _ => Ok(Claim::Lost),
        }
    }

    async fn lease_key(&self, op: &'static str, subnet: Subnet) -> Result<Option<Change>, StoreError> {
        let answer = self.get(op, self.keys().lease(subnet), GetOptions::new()).await;
        let answer = answer.map_err(|error| error.into_store(op))?;
        Ok(answer.kvs().first().map(Change::from))
    }

    /// Writes key and record if the key's modification revision is `expected` (0: absent).
    async fn put_lease(
        &self,
        op: &'static str,
        subnet: Subnet,
        expected: i64,
        lease: i64,
        value: &LeaseValue,
        record: &HostDocument,
    ) -> Result<Claim, StoreError> {
        let key = self.keys().lease(subnet);
        let value = value.to_json();
        let txn = Txn::new().when([Compare::mod_revision(key.as_str(), CompareOp::Equal, expected)]).and_then([
            TxnOp::put(key.as_str(), value.as_str(), Some(PutOptions::new().with_lease(lease))),
            TxnOp::put(self.keys().host(&record.node), json(record), None),
        ]);
        let deadline = self.deadline();
        let mut first = true;
        loop {
            let lost = match self.write(op, txn.clone()).await {
                Ok(answer) if answer.succeeded() => return Ok(won(lease, &answer)),
                Ok(_) if first => return Ok(Claim::Lost),
                // The lease ran out meanwhile, and the key with it.
                Err(CallError::NoLease) => return Ok(Claim::Lost),
                Ok(_) => None,
                Err(CallError::Store(error @ StoreError::Unreachable { .. })) => Some(error),
                Err(error) => return Err(error.into_store(op)),
            };
            // An answer was lost: the write may have happened. The key tells.
            let found = self.lease_key(op, subnet).await?;
            let ours = |found: &Change| {
                found.revision != expected && found.lease == lease && found.value.as_deref() == Some(value.as_bytes())
            };
            match found {
                Some(found) if ours(&found) => {
                    return Ok(Claim::Won(Hold { lease_id: lease, mod_revision: found.revision }));
                }
                found if found.as_ref().map_or(0, |found| found.revision) != expected => return Ok(Claim::Lost),
                _ => match lost {
                    Some(error) if Instant::now() + PAUSE > deadline => return Err(error),
                    _ => sleep(PAUSE).await,
                },
            }
            first = false;
        }
    }

    async fn grant(&self, op: &'static str) -> Result<i64, StoreError> {
        let granted = self.repeated(op, || async {
            let mut client = self.client(op).await?.lease_client();
            client.grant(LEASE_TTL, None).await.map_err(|error| classify(op, error))
        });
        Ok(granted.await.map_err(|error| error.into_store(op))?.id())
    }

    /// Best effort: what is left behind hangs on no key and runs out by itself.
    async fn revoke(&self, op: &'static str, lease: i64) {
        let revoked = self.limited(op, async {
            let mut client = self.client(op).await?.lease_client();
            client.revoke(lease).await.map_err(|error| classify(op, error))
        });
        if let Err(error) = revoked.await {
            let error = error.into_store(op);
            tracing::debug!(lease, %error, "a lease without keys was left to run out");
        }
    }

    pub(super) async fn renew(&self, lease: i64) -> Result<Option<i64>, StoreError> {
        const OP: &str = "keep the lease alive";
        if lease == 0 {
            // A reservation does not run out.
            return Ok(Some(LEASE_TTL));
        }
        let renewed = self.repeated(OP, || async {
            let mut client = self.client(OP).await?.lease_client();
            match client.keep_alive(lease).await {
                Ok(_streams) => {}
                // etcd-client's word for an answer with TTL 0.
                Err(Error::LeaseKeepAliveError(_)) => return Ok(None),
                Err(error) => return Err(classify(OP, error)),
            }
            let left = client.time_to_live(lease, None).await.map_err(|error| classify(OP, error))?;
            Ok((left.ttl() > 0).then(|| left.ttl()))
        });
        renewed.await.map_err(|error| error.into_store(OP))
    }

    pub(super) async fn release_lease(&self, node: &NodeId, subnet: Subnet, hold: Hold) -> Result<Claim, StoreError> {
        const OP: &str = "give a subnet back";
        let key = self.keys().lease(subnet);
        let txn = Txn::new()
            .when([
                Compare::mod_revision(key.as_str(), CompareOp::Equal, hold.mod_revision),
                Compare::lease(key.as_str(), CompareOp::Equal, hold.lease_id),
            ])
            .and_then([TxnOp::delete(key.as_str(), None), TxnOp::delete(self.keys().host(node), None)]);
        let answer = self.write(OP, txn).await.map_err(|error| error.into_store(OP))?;
        if !answer.succeeded() {
            return Ok(Claim::Lost);
        }
        if hold.lease_id != 0 {
            self.revoke(OP, hold.lease_id).await;
        }
        Ok(won(0, &answer))
    }

    pub(super) async fn delete_record(&self, node: &NodeId) -> Result<(), StoreError> {
        const OP: &str = "forget a host";
        let deletes = [TxnOp::delete(self.keys().host(node), None), TxnOp::delete(self.keys().enforced(node), None)];
        let deleted = self.idempotent(OP, Txn::new().and_then(deletes)).await;
        deleted.map(|_| ()).map_err(|error| error.into_store(OP))
    }

    pub(super) async fn put_enforced(
        &self,
        node: &NodeId,
        lease: i64,
        enforced: &EnforcedDocument,
    ) -> Result<(), StoreError> {
        const OP: &str = "report the enforced revision";
        let options = PutOptions::new().with_lease(lease);
        let put = TxnOp::put(self.keys().enforced(node), json(enforced), Some(options));
        let written = self.idempotent(OP, Txn::new().and_then([put])).await;
        written.map(|_| ()).map_err(|error| error.into_store(OP))
    }
}

fn won(lease: i64, answer: &TxnResponse) -> Claim {
    let revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
    Claim::Won(Hold { lease_id: lease, mod_revision: revision })
}

#[expect(clippy::unwrap_used, reason = "our documents have text keys and no values that can fail")]
fn json(document: &impl serde::Serialize) -> String {
    serde_json::to_string(document).unwrap()
}
