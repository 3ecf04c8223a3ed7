//! Who enforces what, and who waits for it.

use super::document::{json, parse};
use crate::StoreError;
use crate::etcd::EtcdStore;
use crate::etcd::change::Change;
use crate::hosts::{HostStore, HostsView};
use etcd_client::{Compare, CompareOp, GetOptions, Txn, TxnOp};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use weft_api::stored::{EnforcedDocument, EpochDocument, WantedDocument};
use weft_model::id::NodeId;

/// How long a wish holds unless it is repeated.
const WANTED_FOR: Duration = Duration::from_secs(60);

impl EtcdStore {
    pub(super) async fn list_enforced(&self) -> Result<BTreeMap<NodeId, EnforcedDocument>, StoreError> {
        const OP: &str = "list enforced revisions";
        let range = self.keys().enforced_range();
        let listing = self.list(OP, &range, None).await.map_err(|error| error.into_store(OP))?;
        let epoch = self.get(OP, self.keys().epoch(), GetOptions::new()).await.map_err(|error| error.into_store(OP))?;
        let epoch = epoch.kvs().first().map(Change::from).map(|change| parse::<EpochDocument>(&change)).transpose()?;
        let epoch = epoch.map_or_else(String::new, |epoch| epoch.document.epoch);
        let folder = self.keys().enforced_folder();
        let read = |change: &Change| {
            let node = NodeId::new(change.key.strip_prefix(&folder)?).ok()?;
            match parse::<EnforcedDocument>(change) {
                // A revision of another life of the store says nothing about this one's.
                Ok(stored) if !["", &epoch].contains(&stored.document.epoch.as_str()) => None,
                Ok(stored) => Some((node, stored.document)),
                Err(error) => {
                    tracing::warn!(%error, "an enforced revision cannot be read");
                    None
                }
            }
        };
        Ok(listing.changes.iter().filter_map(read).collect())
    }

    pub(super) async fn list_holders(&self) -> Result<BTreeSet<NodeId>, StoreError> {
        Ok(holders(&self.hosts().await?))
    }

    pub(super) async fn put_wanted(&self, revision: i64) -> Result<(), StoreError> {
        const OP: &str = "ask for a revision to be enforced";
        let key = self.keys().wanted();
        loop {
            let answer = self.get(OP, key.as_str(), GetOptions::new()).await.map_err(|error| error.into_store(OP))?;
            let known = answer.kvs().first().map(Change::from);
            // An unreadable wish is nobody's.
            let wish = known.as_ref().and_then(|known| parse::<WantedDocument>(known).ok());
            let now = jiff::Timestamp::now();
            if wish.is_some_and(|wish| covers(&wish.document, revision, now)) {
                return Ok(());
            }
            let until = now.checked_add(WANTED_FOR).unwrap_or(now);
            let document = WantedDocument { revision, until: format!("{until:.3}") };
            let expected = known.map_or(0, |known| known.revision);
            let txn = Txn::new()
                .when([Compare::mod_revision(key.as_str(), CompareOp::Equal, expected)])
                .and_then([TxnOp::put(key.as_str(), json(&document), None)]);
            let answer = self.idempotent(OP, txn).await.map_err(|error| error.into_store(OP))?;
            if answer.succeeded() {
                return Ok(());
            }
        }
    }
}

/// Whether a wish asks for `revision` too, and for at least half the usual time from now on. A wish for
/// less is part of one for more: it is never lowered while it holds.
fn covers(wish: &WantedDocument, revision: i64, now: jiff::Timestamp) -> bool {
    let left = wish.until.parse::<jiff::Timestamp>().map(|until| until.duration_since(now));
    left.is_ok_and(|left| wish.revision >= revision && left.as_secs_f64() > WANTED_FOR.as_secs_f64() / 2.0)
}

/// The weft hosts whose record names a subnet that is leased to their address.
fn holders(view: &HostsView) -> BTreeSet<NodeId> {
    let holds = |(node, record): (&NodeId, &weft_api::stored::HostDocument)| {
        let lease = view.leases.get(&record.subnet)?;
        (lease.value.public_ip == record.public_ip).then(|| node.clone())
    };
    view.records.iter().filter_map(holds).collect()
}
