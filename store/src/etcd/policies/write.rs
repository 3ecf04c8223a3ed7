//! Requests that fit into one transaction, and waiting for one's turn.

use super::document::{Stored, json, now};
use super::large::Outcome;
use super::plan::{Plan, Request, plan};
use super::snapshot::{MAX_KEYS, Snapshot};
use super::tags::UsedTags;
use crate::StoreError;
use crate::etcd::EtcdStore;
use crate::policy::Changed;
use etcd_client::{Compare, CompareOp, GetOptions, Txn, TxnOp, TxnOpResponse};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use uuid::Uuid;
use weft_api::stored::{HeadDocument, IntentDocument, IntentState};
use weft_model::id::Tag;
use weft_model::policy::Policy;

/// Conflicting changes by others after which a request gives up.
const MAX_CONFLICTS: u32 = 100;

/// How long a request waits for a large change in preparation: longer than its etcd lease lives.
const INTENT_PATIENCE: Duration = Duration::from_secs(40);

/// How long a committed change is left to its owner before somebody else finishes it.
const OWNER_PATIENCE: Duration = Duration::from_secs(1);

/// How an attempt ended.
enum Attempt {
    Done(Changed),
    /// Somebody changed what the plan rested on.
    Conflict,
    /// There is no epoch: begin one.
    NoEpoch,
    /// A large change is under way.
    Intent(Stored<IntentDocument>),
}

/// One request's waiting.
struct Patience {
    conflicts: u32,
    deadline: Instant,
    intent: Option<(String, Instant)>,
}

impl EtcdStore {
    pub(super) async fn change(&self, request: Request, policies: &[Policy]) -> Result<Changed, StoreError> {
        let op = request.op();
        let policies: BTreeSet<Policy> = policies.iter().cloned().collect();
        let mut patience = Patience { conflicts: 0, deadline: self.deadline(), intent: None };
        loop {
            match self.attempt(request, &policies).await {
                Ok(Attempt::Done(changed)) => return Ok(changed),
                Ok(Attempt::NoEpoch) => self.begin_epoch(op).await?,
                Ok(Attempt::Conflict) => self.wait_out_conflict(op, &mut patience).await?,
                Ok(Attempt::Intent(intent)) => self.wait_out_intent(op, &mut patience, &intent).await?,
                // It may have happened: doing it again finds nothing left to do.
                Err(StoreError::Unreachable { .. }) if Instant::now() < patience.deadline => jitter(20).await,
                Err(error) => return Err(error),
            }
        }
    }

    async fn attempt(&self, request: Request, policies: &BTreeSet<Policy>) -> Result<Attempt, StoreError> {
        let op = request.op();
        let touched = self.touched(request, policies);
        if touched.len() > MAX_KEYS {
            return self.attempt_large(request, policies).await;
        }
        let snapshot = self.read_keys(op, touched.into_iter().collect()).await?;
        if let Some(intent) = snapshot.intent {
            return Ok(Attempt::Intent(intent));
        }
        if snapshot.epoch.is_none() {
            return Ok(Attempt::NoEpoch);
        }
        let plan = self.plan_with_tags(&snapshot, request, policies).await?;
        if plan.writes.is_empty() {
            return Ok(Attempt::Done(Changed { revision: snapshot.head_revision(), count: 0 }));
        }
        if !plan.fits() {
            return self.attempt_large(request, policies).await;
        }
        let committed = self.commit_plan(op, &snapshot, &plan).await?;
        let done = |revision| Attempt::Done(Changed { revision, count: plan.count });
        Ok(committed.map_or(Attempt::Conflict, done))
    }

    async fn attempt_large(&self, request: Request, policies: &BTreeSet<Policy>) -> Result<Attempt, StoreError> {
        let snapshot = self.read_keys(request.op(), Vec::new()).await?;
        if snapshot.epoch.is_none() {
            return Ok(Attempt::NoEpoch);
        }
        match self.large(request, policies).await {
            Ok(Outcome::Done(changed)) => Ok(Attempt::Done(changed)),
            Ok(Outcome::Busy(Some(intent))) => Ok(Attempt::Intent(intent)),
            Ok(Outcome::Busy(None)) | Err(StoreError::Contended { .. }) => Ok(Attempt::Conflict),
            Err(error) => Err(error),
        }
    }

    /// The keys a request looks at.
    fn touched(&self, request: Request, policies: &BTreeSet<Policy>) -> BTreeSet<String> {
        let mut touched: BTreeSet<_> = policies.iter().map(|policy| self.keys().source(&policy.source)).collect();
        if request == Request::Create {
            let named = policies.iter().flat_map(|policy| [&policy.source, &policy.destination]);
            touched.extend(named.map(|group| self.keys().group(group)));
        }
        touched
    }

    /// Plans with the tags we believe free; looks them up first if that belief is missing or says that
    /// none is.
    pub(super) async fn plan_with_tags(
        &self,
        snapshot: &Snapshot,
        request: Request,
        policies: &BTreeSet<Policy>,
    ) -> Result<Plan, StoreError> {
        let is_new = |group| !snapshot.groups.contains_key(group);
        let needs_tags = request == Request::Create
            && policies.iter().any(|policy| is_new(&policy.source) || is_new(&policy.destination));
        if !needs_tags {
            return self.plan_with(snapshot, request, policies, UsedTags::default());
        }
        let known = self.memory().tags.clone();
        if let Some(used) = known {
            match self.plan_with(snapshot, request, policies, used) {
                Err(StoreError::NoTagFree) => {}
                result => return result,
            }
        }
        let used = self.list_used_tags(request.op()).await?;
        self.plan_with(snapshot, request, policies, used)
    }

    fn plan_with(
        &self,
        snapshot: &Snapshot,
        request: Request,
        policies: &BTreeSet<Policy>,
        mut used: UsedTags,
    ) -> Result<Plan, StoreError> {
        let free = || {
            let tag = used.choose(Uuid::new_v4().as_u128())?;
            used.insert(tag);
            Some(tag)
        };
        plan(self.keys(), snapshot, request, policies, free)
    }

    async fn list_used_tags(&self, op: &'static str) -> Result<UsedTags, StoreError> {
        let listing = self.list_keys(op, &self.keys().tag_range(), None).await.map_err(|error| error.into_store(op))?;
        let folder = self.keys().tags();
        let tag = |key: &str| key.strip_prefix(&folder)?.parse::<Tag>().ok();
        let used: UsedTags = listing.changes.iter().filter_map(|change| tag(&change.key)).collect();
        self.memory().tags = Some(used.clone());
        Ok(used)
    }

    /// One transaction; `None`: something it rests on has changed.
    pub(super) async fn commit_plan(
        &self,
        op: &'static str,
        snapshot: &Snapshot,
        plan: &Plan,
    ) -> Result<Option<i64>, StoreError> {
        let mut compares = self.compares(snapshot);
        compares.extend(
            plan.expect.iter().map(|(key, revision)| Compare::mod_revision(key.as_str(), CompareOp::Equal, *revision)),
        );
        let mut operations: Vec<_> = plan.writes.iter().map(|(key, value)| operation(key, value.as_deref())).collect();
        operations.push(self.head(&Uuid::new_v4().to_string(), &self.options().by));
        let keys_only = || Some(GetOptions::new().with_keys_only());
        let taken: Vec<_> = plan.tags.iter().map(|tag| TxnOp::get(self.keys().tag(*tag), keys_only())).collect();
        let txn = Txn::new().when(compares).and_then(operations).or_else(taken);
        let answer = self.write(op, txn).await.map_err(|error| error.into_store(op))?;
        let revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
        let mut memory = self.memory();
        if answer.succeeded() {
            if let Some(used) = &mut memory.tags {
                plan.tags.iter().for_each(|tag| used.insert(*tag));
            }
            return Ok(Some(revision));
        }
        let got = |response: &TxnOpResponse| matches!(response, TxnOpResponse::Get(got) if !got.kvs().is_empty());
        if answer.op_responses().iter().any(got) {
            // Others give tags out too: what we believe free is out of date.
            memory.tags = None;
        }
        Ok(None)
    }

    /// What every change rests on: no large change is under way, and the store is the one it was.
    pub(super) fn compares(&self, snapshot: &Snapshot) -> Vec<Compare> {
        let epoch = snapshot.epoch.as_ref().map_or(0, |epoch| epoch.revision);
        vec![
            Compare::version(self.keys().intent(), CompareOp::Equal, 0),
            Compare::mod_revision(self.keys().epoch(), CompareOp::Equal, epoch),
        ]
    }

    /// The last operation of every change.
    pub(super) fn head(&self, change: &str, by: &str) -> TxnOp {
        let document = HeadDocument { change: change.to_owned(), at: now(), by: by.to_owned() };
        TxnOp::put(self.keys().head(), json(&document), None)
    }

    async fn wait_out_conflict(&self, op: &'static str, patience: &mut Patience) -> Result<(), StoreError> {
        patience.conflicts += 1;
        if patience.conflicts >= MAX_CONFLICTS {
            return Err(StoreError::Contended { op, attempts: patience.conflicts });
        }
        jitter(patience.conflicts.min(20)).await;
        Ok(())
    }

    async fn wait_out_intent(
        &self,
        op: &'static str,
        patience: &mut Patience,
        intent: &Stored<IntentDocument>,
    ) -> Result<(), StoreError> {
        let change = &intent.document.change;
        let waited = match &patience.intent {
            Some((known, since)) if known == change => since.elapsed(),
            _ => {
                patience.intent = Some((change.clone(), Instant::now()));
                Duration::ZERO
            }
        };
        let committed = intent.document.state == IntentState::Committed;
        if committed && waited > OWNER_PATIENCE {
            self.roll_forward(op, intent).await?;
        } else if waited > INTENT_PATIENCE {
            return Err(StoreError::Contended { op, attempts: patience.conflicts + 1 });
        } else {
            jitter(20).await;
        }
        // The time limit is for a store that does not answer; this one does.
        patience.deadline = self.deadline();
        Ok(())
    }
}

/// A write as an operation.
pub(super) fn operation(key: &str, value: Option<&str>) -> TxnOp {
    match value {
        Some(value) => TxnOp::put(key, value, None),
        None => TxnOp::delete(key, None),
    }
}

/// Waits up to `milliseconds` so that those who collided do not again.
async fn jitter(milliseconds: u32) {
    let random = u64::try_from(Uuid::new_v4().as_u128() & 0xFFFF).unwrap_or(0);
    sleep(Duration::from_micros(500 + random * u64::from(milliseconds) * 1000 / 0x10000)).await;
}
