//! Finishing what a dead server left, and giving tags back.

use super::document::{Stored, json, now, parse};
use super::snapshot::Snapshot;
use crate::StoreError;
use crate::etcd::EtcdStore;
use crate::etcd::change::Change;
use crate::policy::PolicyStore;
use etcd_client::{Compare, CompareOp, Txn, TxnOp};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;
use weft_api::stored::{GroupDocument, GroupState, IntentState, TagDocument};
use weft_model::id::{GroupId, Tag};

const OP: &str = "sweep policies";

/// Groups or tags a transaction.
const BATCH: usize = 40;

impl EtcdStore {
    pub(super) async fn sweep_policies(&self) -> Result<(), StoreError> {
        let snapshot = self.read_keys(OP, Vec::new()).await?;
        match snapshot.intent {
            Some(intent) if intent.document.state == IntentState::Committed => {
                tracing::info!(change = intent.document.change, by = intent.document.by, "finishing a large change");
                self.roll_forward(OP, &intent).await?;
            }
            // Somebody is at it, or its lease will end it.
            Some(_) => return Ok(()),
            None => self.sweep_chunks(snapshot.revision).await?,
        }
        if self.mark_releasing().await? {
            self.release().await?;
        }
        self.reuse().await
    }

    /// Removes chunks of changes that will never be: staged ones without an intent at the same revision.
    async fn sweep_chunks(&self, revision: i64) -> Result<(), StoreError> {
        let range = self.keys().staged_range();
        let listing = self.list_keys(OP, &range, Some(revision)).await.map_err(|error| error.into_store(OP))?;
        let folder = self.keys().staged_folder();
        let change = |key: &str| Some(key.strip_prefix(&folder)?.split_once('/')?.0.to_owned());
        let orphans: BTreeSet<_> = listing.changes.iter().filter_map(|listed| change(&listed.key)).collect();
        for orphan in orphans {
            tracing::info!(change = orphan, "removing the chunks of a change that never was");
            let txn = Txn::new().and_then([self.delete_chunks(&orphan)]);
            self.idempotent(OP, txn).await.map_err(|error| error.into_store(OP))?;
        }
        Ok(())
    }

    /// Live groups that no policy names become releasing; `true`: there are releasing ones.
    pub(super) async fn mark_releasing(&self) -> Result<bool, StoreError> {
        let snapshot = self.read_all(OP).await?;
        let Some(unused) = unused(&snapshot) else { return Ok(false) };
        let live: Vec<_> = unused.iter().copied().filter(|stored| stored.document.state == GroupState::Live).collect();
        for batch in live.chunks(BATCH) {
            let change = batch.iter().map(|stored| GroupChange::State(stored, GroupState::Releasing));
            self.change_groups(&snapshot, change.collect(), false).await?;
        }
        Ok(snapshot.groups.values().any(|stored| stored.document.state == GroupState::Releasing) || !live.is_empty())
    }

    /// Releasing groups that no policy names, looked up after they were marked, lose their tags; the
    /// others are live again.
    async fn release(&self) -> Result<(), StoreError> {
        let snapshot = self.read_all(OP).await?;
        let Some(unused) = unused(&snapshot) else { return Ok(()) };
        let unused: BTreeSet<_> = unused.iter().map(|stored| &stored.document.group).collect();
        let releasing = snapshot.groups.values().filter(|stored| stored.document.state == GroupState::Releasing);
        let changes: Vec<_> = releasing
            .map(|stored| match unused.contains(&stored.document.group) {
                true => GroupChange::Release(stored),
                false => GroupChange::State(stored, GroupState::Live),
            })
            .collect();
        for batch in changes.chunks(BATCH) {
            self.change_groups(&snapshot, batch.to_vec(), true).await?;
        }
        Ok(())
    }

    /// One transaction; losing it is no harm, the next sweep looks again.
    pub(super) async fn change_groups(
        &self,
        snapshot: &Snapshot,
        changes: Vec<GroupChange<'_>>,
        head: bool,
    ) -> Result<(), StoreError> {
        let mut compares = self.compares(snapshot);
        let mut operations = Vec::new();
        for change in &changes {
            let stored = change.stored();
            let GroupDocument { group, tag, .. } = &stored.document;
            let key = self.keys().group(group);
            compares.push(Compare::mod_revision(key.as_str(), CompareOp::Equal, stored.revision));
            match change {
                GroupChange::State(_, state) => {
                    let document = GroupDocument { group: group.clone(), tag: *tag, state: *state };
                    operations.push(TxnOp::put(key, json(&document), None));
                }
                GroupChange::Release(_) => {
                    // The key's own modification revision is the release's; this one is a little older.
                    let quarantined = TagDocument::Quarantined { tag: *tag, released: snapshot.revision, at: now() };
                    operations.push(TxnOp::delete(key, None));
                    operations.push(TxnOp::put(self.keys().tag(*tag), json(&quarantined), None));
                }
            }
        }
        if head {
            operations.push(self.head(&Uuid::new_v4().to_string(), &self.options().by));
        }
        let txn = Txn::new().when(compares).and_then(operations);
        let answer = self.idempotent(OP, txn).await.map_err(|error| error.into_store(OP))?;
        tracing::debug!(groups = changes.len(), done = answer.succeeded(), "swept groups");
        Ok(())
    }

    /// Frees the tags whose quarantine is over.
    async fn reuse(&self) -> Result<(), StoreError> {
        let listing = self.list(OP, &self.keys().tag_range(), None).await.map_err(|error| error.into_store(OP))?;
        let quarantined: Vec<_> = listing.changes.iter().filter_map(read_quarantined).collect();
        if quarantined.is_empty() {
            return Ok(());
        }
        let enforced = self.enforced().await?;
        let holders = self.hosts_holding_leases().await?;
        // Who never said what it enforces holds everything up.
        let everywhere = holders.iter().map(|node| enforced.get(node).map_or(0, |enforced| enforced.revision)).min();
        let is_over = |tag: &Quarantined| {
            let age = jiff::Timestamp::now().duration_since(tag.since);
            let old = age.as_secs_f64() >= self.options().quarantine.as_secs_f64();
            old && everywhere.is_none_or(|everywhere| everywhere >= tag.released)
        };
        let over: Vec<_> = quarantined.iter().filter(|tag| is_over(tag)).collect();
        for batch in over.chunks(BATCH) {
            self.free_tags(batch).await?;
        }
        Ok(())
    }

    async fn free_tags(&self, tags: &[&Quarantined]) -> Result<(), StoreError> {
        let key = |tag: &Quarantined| self.keys().tag(tag.tag);
        let compares: Vec<_> =
            tags.iter().map(|tag| Compare::mod_revision(key(tag), CompareOp::Equal, tag.revision)).collect();
        let operations: Vec<_> = tags.iter().map(|tag| TxnOp::delete(key(tag), None)).collect();
        let txn = Txn::new().when(compares).and_then(operations);
        let answer = self.idempotent(OP, txn).await.map_err(|error| error.into_store(OP))?;
        if answer.succeeded()
            && let Some(used) = &mut self.memory().tags
        {
            tags.iter().for_each(|tag| used.remove(tag.tag));
        }
        Ok(())
    }
}

/// What becomes of a group.
#[derive(Debug, Clone, Copy)]
pub(super) enum GroupChange<'a> {
    State(&'a Stored<GroupDocument>, GroupState),
    Release(&'a Stored<GroupDocument>),
}

impl<'a> GroupChange<'a> {
    fn stored(&self) -> &'a Stored<GroupDocument> {
        match self {
            Self::State(stored, _) | Self::Release(stored) => stored,
        }
    }
}

/// A tag in quarantine.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Quarantined {
    tag: Tag,
    /// Of its key.
    revision: i64,
    released: i64,
    since: jiff::Timestamp,
}

fn read_quarantined(change: &Change) -> Option<Quarantined> {
    match parse::<TagDocument>(change) {
        Ok(Stored { document: TagDocument::Quarantined { tag, released, at }, revision }) => {
            let since = at.parse().ok()?;
            Some(Quarantined { tag, revision, released: released.max(revision), since })
        }
        Ok(_) => None,
        Err(error) => {
            tracing::error!(%error, "a tag's document cannot be read: the tag stays out of use");
            None
        }
    }
}

/// Groups that no policy names; `None` if a source's document cannot be read, and so nobody knows.
fn unused(snapshot: &Snapshot) -> Option<Vec<&Stored<GroupDocument>>> {
    if let Some((key, complaint)) = snapshot.unreadable.first_key_value() {
        tracing::error!(key, complaint, "no tags are given back while a document cannot be read");
        return None;
    }
    let named: BTreeSet<&GroupId> = snapshot
        .sources
        .values()
        .flat_map(|stored| {
            let targets = stored.document.policies.iter().map(|target| &target.to);
            targets.chain([&stored.document.source])
        })
        .collect();
    let groups: &BTreeMap<_, _> = &snapshot.groups;
    Some(groups.values().filter(|stored| !named.contains(&stored.document.group)).collect())
}
