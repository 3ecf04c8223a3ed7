//! What a request looks at, all of one revision.

use super::document::{Stored, parse, parse_group, parse_source};
use crate::StoreError;
use crate::etcd::EtcdStore;
use crate::etcd::call::CallError;
use crate::etcd::change::Change;
use crate::etcd::keys::{Keys, PolicyPlace};
use etcd_client::{GetOptions, Txn, TxnOp, TxnOpResponse};
use std::collections::BTreeMap;
use weft_api::stored::{EpochDocument, GroupDocument, HeadDocument, IntentDocument, SourceDocument};
use weft_model::id::GroupId;

/// Documents at one revision.
#[derive(Debug, Clone, Default)]
pub(super) struct Snapshot {
    pub(super) revision: i64,
    pub(super) head: Option<Stored<HeadDocument>>,
    pub(super) intent: Option<Stored<IntentDocument>>,
    pub(super) epoch: Option<Stored<EpochDocument>>,
    pub(super) sources: BTreeMap<GroupId, Stored<SourceDocument>>,
    pub(super) groups: BTreeMap<GroupId, Stored<GroupDocument>>,
    /// Keys of sources and groups that cannot be read, and why.
    pub(super) unreadable: BTreeMap<String, String>,
}

impl Snapshot {
    /// Takes a key in.
    ///
    /// # Errors
    /// [`StoreError::Document`] for head, intent or epoch: without them nothing can be decided.
    pub(super) fn take(&mut self, keys: &Keys, change: &Change) -> Result<(), StoreError> {
        match keys.policy_place(&change.key) {
            PolicyPlace::Head => self.head = Some(parse(change)?),
            PolicyPlace::Intent => self.intent = Some(parse(change)?),
            PolicyPlace::Source => match parse_source(change) {
                Ok(stored) => drop(self.sources.insert(stored.document.source.clone(), stored)),
                Err(error) => self.note(change, &error),
            },
            PolicyPlace::Group => match parse_group(change) {
                Ok(stored) => drop(self.groups.insert(stored.document.group.clone(), stored)),
                Err(error) => self.note(change, &error),
            },
            PolicyPlace::Other if change.key == keys.epoch() => self.epoch = Some(parse(change)?),
            PolicyPlace::Other => {}
        }
        Ok(())
    }

    fn note(&mut self, change: &Change, error: &StoreError) {
        let complaint = match error {
            StoreError::Document { complaint, .. } => complaint.clone(),
            error => error.to_string(),
        };
        self.unreadable.insert(change.key.clone(), complaint);
    }

    /// Refuses a key that stands there and cannot be read.
    pub(super) fn readable(&self, key: &str) -> Result<(), StoreError> {
        match self.unreadable.get(key) {
            Some(complaint) => Err(StoreError::Document { key: key.to_owned(), complaint: complaint.clone() }),
            None => Ok(()),
        }
    }

    /// The revision of the last change.
    pub(super) fn head_revision(&self) -> i64 {
        self.head.as_ref().map_or(0, |head| head.revision)
    }
}

/// Keys one reading transaction takes besides head, intent and epoch.
pub(super) const MAX_KEYS: usize = super::plan::MAX_OPERATIONS - 3;

impl EtcdStore {
    /// Head, intent, epoch and `others` (at most [`MAX_KEYS`]), all of one revision.
    pub(super) async fn read_keys(&self, op: &'static str, others: Vec<String>) -> Result<Snapshot, StoreError> {
        let (before, known) = (self.seen(), self.known_epoch());
        let keys = self.keys();
        let all = [keys.head(), keys.intent(), keys.epoch()].into_iter().chain(others);
        let gets: Vec<_> = all.map(|key| TxnOp::get(key, Some(GetOptions::new()))).collect();
        let answer = self.idempotent(op, Txn::new().and_then(gets)).await.map_err(|error| error.into_store(op))?;
        let revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
        self.check_forward(before, revision)?;
        let mut snapshot = Snapshot { revision, ..Snapshot::default() };
        for response in answer.op_responses() {
            if let TxnOpResponse::Get(got) = response {
                got.kvs().iter().try_for_each(|kv| snapshot.take(keys, &Change::from(kv)))?;
            }
        }
        let epoch = snapshot.epoch.as_ref().map_or("", |epoch| &epoch.document.epoch);
        self.check_epoch(known.as_deref(), epoch)?;
        Ok(snapshot)
    }

    /// Everything as of now: first head, intent and epoch, then all documents at that revision.
    pub(super) async fn read_all(&self, op: &'static str) -> Result<Snapshot, StoreError> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let mut snapshot = self.read_keys(op, Vec::new()).await?;
            match self.list(op, &self.keys().policy_range(), Some(snapshot.revision)).await {
                Err(CallError::Compacted) if attempt < 3 => {}
                listing => {
                    let listing = listing.map_err(|error| error.into_store(op))?;
                    listing.changes.iter().try_for_each(|change| snapshot.take(self.keys(), change))?;
                    return Ok(snapshot);
                }
            }
        }
    }
}
