//! Changes too large for one transaction.
//!
//! `intent` in preparation keeps all other changes out, on an etcd lease of 30 s; redo lines are
//! staged; one write makes the intent committed: from there on it will happen, and any server can
//! finish it. Readers see nothing of it before the head, the last write.

use super::document::{Stored, json};
use super::plan::{Request, Writes};
use super::redo;
use super::write::operation;
use crate::StoreError;
use crate::etcd::EtcdStore;
use crate::etcd::call::{CallError, PAUSE, classify};
use crate::etcd::change::Change;
use crate::policy::Changed;
use etcd_client::{Compare, CompareOp, DeleteOptions, PutOptions, Txn, TxnOp};
use futures_util::future::try_join_all;
use std::collections::BTreeSet;
use tokio::time::{Instant, sleep};
use uuid::Uuid;
use weft_api::stored::{IntentDocument, IntentState};
use weft_model::policy::Policy;

/// How long a preparation outlives its server, seconds.
const PREPARING_TTL: i64 = 30;

/// Transactions of one change under way at once: no key is in two of them, so their order is free.
const PARALLEL: usize = 8;

/// How a large request ended.
pub(super) enum Outcome {
    Done(Changed),
    /// Another change is, or was, under way.
    Busy(Option<Stored<IntentDocument>>),
}

/// A change in preparation: nobody else changes policies as long as it stands.
#[derive(Debug, Clone)]
pub(super) struct Preparation {
    pub(super) intent: Stored<IntentDocument>,
    lease: i64,
}

impl EtcdStore {
    pub(super) async fn large(&self, request: Request, policies: &BTreeSet<Policy>) -> Result<Outcome, StoreError> {
        let op = request.op();
        let Some(preparation) = self.prepare(op).await? else {
            return Ok(Outcome::Busy(self.read_keys(op, Vec::new()).await?.intent));
        };
        let committed = self.compute_and_commit(request, policies, &preparation).await;
        match committed {
            Ok(Some((intent, count))) => {
                let revision = self.roll_forward(op, &intent).await?;
                Ok(Outcome::Done(Changed { revision, count }))
            }
            Ok(None) => {
                self.withdraw(op, &preparation).await;
                let revision = self.read_keys(op, Vec::new()).await?.head_revision();
                Ok(Outcome::Done(Changed { revision, count: 0 }))
            }
            Err(error) => {
                // If the commit did happen, this changes nothing: it asks for the preparation.
                self.withdraw(op, &preparation).await;
                Err(error)
            }
        }
    }

    async fn compute_and_commit(
        &self,
        request: Request,
        policies: &BTreeSet<Policy>,
        preparation: &Preparation,
    ) -> Result<Option<(Stored<IntentDocument>, usize)>, StoreError> {
        let snapshot = self.read_all(request.op()).await?;
        // Nobody else gives tags out now: what is looked up holds until the end.
        self.memory().tags = None;
        let plan = self.plan_with_tags(&snapshot, request, policies).await?;
        if plan.writes.is_empty() {
            return Ok(None);
        }
        let document = self.stage(request.op(), preparation, &plan.writes).await?;
        let intent = self.commit(request.op(), preparation, document).await?;
        if let Some(used) = &mut self.memory().tags {
            plan.tags.iter().for_each(|tag| used.insert(*tag));
        }
        Ok(Some((intent, plan.count)))
    }

    /// Puts the intent; `None`: there is one already.
    pub(super) async fn prepare(&self, op: &'static str) -> Result<Option<Preparation>, StoreError> {
        let lease = self.repeated(op, || async {
            let mut client = self.client(op).await?.lease_client();
            client.grant(PREPARING_TTL, None).await.map_err(|error| classify(op, error))
        });
        let lease = lease.await.map_err(|error| error.into_store(op))?.id();
        let document = IntentDocument {
            change: Uuid::new_v4().to_string(),
            state: IntentState::Preparing,
            chunks: 0,
            sha256: String::new(),
            by: self.options().by.clone(),
        };
        let key = self.keys().intent();
        let put = TxnOp::put(key.as_str(), json(&document), Some(PutOptions::new().with_lease(lease)));
        let txn = Txn::new().when([Compare::version(key, CompareOp::Equal, 0)]).and_then([put]);
        let answer = self.write(op, txn).await.map_err(|error| error.into_store(op))?;
        if !answer.succeeded() {
            self.end_lease(op, lease).await;
            return Ok(None);
        }
        let revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
        Ok(Some(Preparation { intent: Stored { document, revision }, lease }))
    }

    /// Writes the redo lines, each chunk only while the preparation stands.
    pub(super) async fn stage(
        &self,
        op: &'static str,
        preparation: &Preparation,
        writes: &Writes,
    ) -> Result<IntentDocument, StoreError> {
        let change = &preparation.intent.document.change;
        let chunks = redo::chunks(writes);
        for (number, chunk) in chunks.iter().enumerate() {
            self.stay_alive(op, preparation).await?;
            let put = TxnOp::put(self.keys().chunk(change, number), chunk.as_str(), None);
            let txn = Txn::new().when([self.stands(&preparation.intent)]).and_then([put]);
            let answer = self.idempotent(op, txn).await.map_err(|error| error.into_store(op))?;
            if !answer.succeeded() {
                return Err(StoreError::Contended { op, attempts: 1 });
            }
        }
        Ok(IntentDocument {
            state: IntentState::Committed,
            chunks: u32::try_from(chunks.len()).unwrap_or(u32::MAX),
            sha256: redo::digest(&chunks),
            ..preparation.intent.document.clone()
        })
    }

    /// The commit point: takes the intent off its lease and says that it will happen.
    pub(super) async fn commit(
        &self,
        op: &'static str,
        preparation: &Preparation,
        document: IntentDocument,
    ) -> Result<Stored<IntentDocument>, StoreError> {
        let key = self.keys().intent();
        let put = TxnOp::put(key.as_str(), json(&document), None);
        let txn = Txn::new().when([self.stands(&preparation.intent)]).and_then([put]);
        let deadline = self.deadline();
        loop {
            let lost = match self.write(op, txn.clone()).await {
                Ok(answer) if answer.succeeded() => {
                    let revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
                    self.end_lease(op, preparation.lease).await;
                    return Ok(Stored { document, revision });
                }
                Err(CallError::Store(error @ StoreError::Unreachable { .. })) if Instant::now() < deadline => error,
                Err(error) => return Err(error.into_store(op)),
                // Not ours any more, or ours and committed by a write whose answer was lost.
                Ok(_) => StoreError::Contended { op, attempts: 1 },
            };
            match self.read_keys(op, Vec::new()).await?.intent {
                Some(found) if found.document == document => return Ok(found),
                Some(found) if found == preparation.intent => sleep(PAUSE).await,
                _ => return Err(lost),
            }
        }
    }

    /// Takes a preparation back, best effort: its lease ends it anyway, and a sweep its chunks.
    async fn withdraw(&self, op: &'static str, preparation: &Preparation) {
        let Preparation { intent, lease } = preparation;
        let operations = [self.delete_chunks(&intent.document.change), TxnOp::delete(self.keys().intent(), None)];
        let txn = Txn::new().when([self.stands(intent)]).and_then(operations);
        if let Err(error) = self.write(op, txn).await {
            let error = error.into_store(op);
            tracing::warn!(change = intent.document.change, %error, "a prepared change was left to run out");
        }
        self.end_lease(op, *lease).await;
    }

    /// Applies a committed change, whoever committed it, and answers with the revision that has it. Doing
    /// so twice, or two at once, is harmless: each write asks for the intent.
    pub(super) async fn roll_forward(
        &self,
        op: &'static str,
        intent: &Stored<IntentDocument>,
    ) -> Result<i64, StoreError> {
        let change = &intent.document.change;
        let Some(writes) = self.staged(op, intent).await? else {
            return Ok(self.read_keys(op, Vec::new()).await?.head_revision());
        };
        if !self.apply(op, intent, &redo::batches(&writes)).await? {
            return Ok(self.read_keys(op, Vec::new()).await?.head_revision());
        }
        let end = [
            TxnOp::delete(self.keys().intent(), None),
            self.delete_chunks(change),
            self.head(change, &intent.document.by),
        ];
        let txn = Txn::new().when([self.stands(intent)]).and_then(end);
        let answer = self.idempotent(op, txn).await.map_err(|error| error.into_store(op))?;
        if answer.succeeded() {
            return Ok(answer.header().map_or(0, etcd_client::ResponseHeader::revision));
        }
        Ok(self.read_keys(op, Vec::new()).await?.head_revision())
    }

    /// Writes batches; `false`: somebody else has finished.
    pub(super) async fn apply(
        &self,
        op: &'static str,
        intent: &Stored<IntentDocument>,
        batches: &[Vec<(&String, &Option<String>)>],
    ) -> Result<bool, StoreError> {
        for some in batches.chunks(PARALLEL) {
            let mut calls = Vec::new();
            for batch in some {
                let operations: Vec<_> = batch.iter().map(|(key, value)| operation(key, value.as_deref())).collect();
                let txn = Txn::new().when([self.stands(intent)]).and_then(operations);
                calls.push(self.idempotent(op, txn));
            }
            let answers = try_join_all(calls).await.map_err(|error| error.into_store(op))?;
            if !answers.iter().all(etcd_client::TxnResponse::succeeded) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The writes of a committed change; `None`: somebody else has finished it meanwhile.
    pub(super) async fn staged(
        &self,
        op: &'static str,
        intent: &Stored<IntentDocument>,
    ) -> Result<Option<Writes>, StoreError> {
        let range = self.keys().chunk_range(&intent.document.change);
        let listing = self.list(op, &range, None).await.map_err(|error| error.into_store(op))?;
        match self.decode(intent, &listing.changes) {
            Ok(writes) => Ok(Some(writes)),
            Err(error) => match self.read_keys(op, Vec::new()).await?.intent {
                Some(now) if now == *intent => Err(error),
                _ => Ok(None),
            },
        }
    }

    /// Checks number and digest of staged chunks and reads them.
    pub(super) fn decode(&self, intent: &Stored<IntentDocument>, chunks: &[Change]) -> Result<Writes, StoreError> {
        let IntentDocument { change, chunks: expected, sha256, .. } = &intent.document;
        let complaint = |complaint: String| StoreError::Document { key: self.keys().intent(), complaint };
        let texts: Vec<_> = chunks.iter().filter_map(|chunk| chunk.value.as_deref()).collect();
        if u32::try_from(texts.len()) != Ok(*expected) || redo::digest(&texts) != *sha256 {
            return Err(complaint(format!(
                "chunks: {expected} were staged for change {change}, {} are there, or they are not the same",
                texts.len()
            )));
        }
        redo::writes(&texts).map_err(complaint)
    }

    fn stands(&self, intent: &Stored<IntentDocument>) -> Compare {
        Compare::mod_revision(self.keys().intent(), CompareOp::Equal, intent.revision)
    }

    pub(super) fn delete_chunks(&self, change: &str) -> TxnOp {
        let range = self.keys().chunk_range(change);
        TxnOp::delete(range.from, Some(DeleteOptions::new().with_range(range.to)))
    }

    async fn stay_alive(&self, op: &'static str, preparation: &Preparation) -> Result<(), StoreError> {
        let kept = self.repeated(op, || async {
            let mut client = self.client(op).await?.lease_client();
            match client.keep_alive(preparation.lease).await {
                Ok(_) => Ok(()),
                Err(etcd_client::Error::LeaseKeepAliveError(_)) => {
                    Err(CallError::Store(StoreError::Contended { op, attempts: 1 }))
                }
                Err(error) => Err(classify(op, error)),
            }
        });
        kept.await.map_err(|error| error.into_store(op))
    }

    async fn end_lease(&self, op: &'static str, lease: i64) {
        let revoked = self.limited(op, async {
            let mut client = self.client(op).await?.lease_client();
            client.revoke(lease).await.map_err(|error| classify(op, error))
        });
        if let Err(error) = revoked.await {
            let error = error.into_store(op);
            tracing::debug!(lease, %error, "a lease was left to run out");
        }
    }
}
