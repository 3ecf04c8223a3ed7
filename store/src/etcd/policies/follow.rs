//! A live view of policies.

use super::document::parse;
use super::fold::PolicyFold;
use crate::StoreError;
use crate::etcd::EtcdStore;
use crate::etcd::call::{CallError, PAUSE};
use crate::etcd::change::Change;
use crate::etcd::watch::{Batch, Section, Watch, WatchEnd};
use crate::policy::{PolicyFollower, PolicyView};
use etcd_client::{GetOptions, Txn, TxnOp, TxnOpResponse};
use weft_api::stored::{EpochDocument, HeadDocument, IntentState};

const OP: &str = "follow policies";

/// All policies at one revision.
pub(super) struct PoliciesListing {
    pub(super) revision: i64,
    pub(super) epoch: String,
    pub(super) fold: PolicyFold,
}

impl EtcdStore {
    pub(super) async fn list_policies(&self, op: &'static str) -> Result<PoliciesListing, StoreError> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            match self.list_policies_once(op).await {
                Err(CallError::Compacted) if attempt < 3 => {}
                result => return result.map_err(|error| error.into_store(op)),
            }
        }
    }

    async fn list_policies_once(&self, op: &'static str) -> Result<PoliciesListing, CallError> {
        let listing = self.list(op, &self.keys().policy_range(), None).await?;
        let at = GetOptions::new().with_revision(listing.revision);
        let epoch = self.get(op, self.keys().epoch(), at).await?;
        let epoch = epoch.kvs().first().map(|kv| parse::<EpochDocument>(&Change::from(kv))).transpose()?;
        let epoch = epoch.map_or_else(String::new, |epoch| epoch.document.epoch);
        let intent = listing.changes.iter().find(|change| change.key == self.keys().intent()).map(parse).transpose()?;
        let committed = match intent.filter(|intent| is_committed(&intent.document)) {
            None => None,
            Some(intent) => {
                let range = self.keys().chunk_range(&intent.document.change);
                let chunks = self.list(op, &range, Some(listing.revision)).await?;
                Some(self.decode(&intent, &chunks.changes)?)
            }
        };
        let fold = PolicyFold::of(self.keys().clone(), &listing.changes, committed.as_ref(), epoch.clone())?;
        Ok(PoliciesListing { revision: listing.revision, epoch, fold })
    }
}

fn is_committed(intent: &weft_api::stored::IntentDocument) -> bool {
    intent.state == IntentState::Committed
}

/// Follows policies in etcd.
pub struct EtcdPolicyFollower {
    store: EtcdStore,
    fold: PolicyFold,
    /// The revision up to which everything is in the view; 0: nothing is known, a list is needed.
    position: i64,
    watch: Option<Watch>,
    stale: bool,
    /// The view shows something that was not told yet.
    fresh: bool,
}

impl EtcdPolicyFollower {
    /// With a view to go on from this asks nothing: the first [`PolicyFollower::changed`] finds out
    /// whether the store still knows it, so that an agent starts without etcd.
    pub(super) async fn start(store: EtcdStore, from: Option<PolicyView>) -> Result<Self, StoreError> {
        if let Some(view) = from.filter(|view| view.revision > 0) {
            let position = view.revision;
            let fold = PolicyFold::new(store.keys().clone(), view);
            return Ok(Self { store, fold, position, watch: None, stale: false, fresh: false });
        }
        let (before, known) = (store.seen(), store.known_epoch());
        let listed = store.list_policies(OP).await?;
        store.check_forward(before, listed.revision)?;
        store.check_epoch(known.as_deref(), &listed.epoch)?;
        Ok(Self { store, fold: listed.fold, position: listed.revision, watch: None, stale: false, fresh: false })
    }

    async fn step(&mut self) -> Result<(), StoreError> {
        if self.stale {
            return self.relist().await;
        }
        let ended = match &mut self.watch {
            Some(watch) => match watch.next().await {
                Ok(batch) => return self.take(batch),
                Err(ended) => ended,
            },
            None => match self.open().await {
                Ok(()) => return Ok(()),
                Err(ended) => ended,
            },
        };
        let streaming = self.watch.take().is_some();
        self.fold.discard();
        match ended {
            WatchEnd::Compacted => self.stale = true,
            WatchEnd::Rewound(what) => return Err(StoreError::Rewound(what)),
            WatchEnd::Broken(error) if streaming => {
                tracing::debug!(%error, "the watch on policies broke: opening another one");
                tokio::time::sleep(PAUSE).await;
            }
            WatchEnd::Broken(error) => return Err(error),
        }
        Ok(())
    }

    async fn open(&mut self) -> Result<(), WatchEnd> {
        self.same_store().await?;
        let section = Section { range: self.store.keys().policy_range(), start: self.position + 1 };
        self.watch = Some(Watch::open(&self.store, OP, &[section], self.position).await?);
        Ok(())
    }

    /// One question: the head as of our revision, and the epoch.
    async fn same_store(&mut self) -> Result<(), WatchEnd> {
        let view = self.fold.view();
        if view.revision == 0 {
            return Ok(());
        }
        let rewound = |what: String| Err(WatchEnd::Rewound(what));
        let head = GetOptions::new().with_revision(view.revision);
        let gets = [
            TxnOp::get(self.store.keys().head(), Some(head)),
            TxnOp::get(self.store.keys().epoch(), Some(GetOptions::new())),
        ];
        let answer = match self.store.idempotent(OP, Txn::new().and_then(gets)).await {
            Ok(answer) => answer,
            Err(CallError::Compacted) => return Err(WatchEnd::Compacted),
            Err(CallError::Future) => return rewound(format!("it has not reached revision {} yet", view.revision)),
            Err(error) => return Err(WatchEnd::Broken(error.into_store(OP))),
        };
        let broken = |error| WatchEnd::Broken(error);
        let mut found = answer.op_responses().into_iter().map(|response| match response {
            TxnOpResponse::Get(got) => got.kvs().first().map(Change::from),
            _ => None,
        });
        let head = found.next().flatten().map(|change| parse::<HeadDocument>(&change)).transpose().map_err(broken)?;
        let epoch = found.next().flatten().map(|change| parse::<EpochDocument>(&change)).transpose().map_err(broken)?;
        let epoch = epoch.map_or_else(String::new, |epoch| epoch.document.epoch);
        match head {
            Some(head) if head.revision == view.revision && head.document.change == view.change => {}
            Some(head) => return rewound(format!("revision {} is change {}", view.revision, head.document.change)),
            None => return rewound(format!("at revision {} it had no policies yet", view.revision)),
        }
        if view.epoch.is_empty() {
            // Listed before the first write began an epoch; the change's id says it is the same store.
            self.fold.set_epoch(epoch);
        } else if view.epoch != epoch {
            return rewound(format!("its epoch is {epoch:?}, it was {:?} before", view.epoch));
        }
        Ok(())
    }

    /// Folds a batch, and all that is there already.
    fn take(&mut self, batch: Batch) -> Result<(), StoreError> {
        let mut next = Some(batch);
        while let Some(batch) = next {
            for change in batch.changes {
                match self.fold.push(change) {
                    Ok(false) => {}
                    Ok(true) => {
                        self.position = self.fold.view().revision;
                        self.fresh = true;
                    }
                    Err(error) => {
                        self.watch = None;
                        self.fold.discard();
                        return Err(error);
                    }
                }
            }
            next = self.watch.as_mut().and_then(Watch::ready);
        }
        Ok(())
    }

    /// The epoch, which begins just before the first change and is not part of the watch.
    async fn learn_epoch(&mut self) -> Result<(), StoreError> {
        if self.fold.view().epoch.is_empty() {
            let snapshot = self.store.read_keys(OP, Vec::new()).await?;
            self.fold.set_epoch(snapshot.epoch.map_or_else(String::new, |epoch| epoch.document.epoch));
        }
        Ok(())
    }

    async fn relist(&mut self) -> Result<(), StoreError> {
        let listed = self.store.list_policies(OP).await?;
        self.check(&listed)?;
        self.fresh |= listed.fold.view() != self.fold.view();
        self.fold = listed.fold;
        self.position = listed.revision;
        self.stale = false;
        Ok(())
    }

    fn check(&self, listed: &PoliciesListing) -> Result<(), StoreError> {
        let (before, now) = (self.fold.view(), listed.fold.view());
        let rewound = |what| Err(StoreError::Rewound(what));
        if listed.revision < self.position {
            return rewound(format!("its revision is {}, it was {} before", listed.revision, self.position));
        }
        if now.revision < before.revision {
            return rewound(format!("its last change is {}, it was {} before", now.revision, before.revision));
        }
        if now.revision == before.revision && now.change != before.change {
            return rewound(format!(
                "revision {} is change {}, it was {} before",
                now.revision, now.change, before.change
            ));
        }
        if !before.epoch.is_empty() && before.epoch != now.epoch {
            return rewound(format!("its epoch is {:?}, it was {:?} before", now.epoch, before.epoch));
        }
        Ok(())
    }
}

impl PolicyFollower for EtcdPolicyFollower {
    fn view(&self) -> &PolicyView {
        self.fold.view()
    }

    async fn changed(&mut self) -> Result<(), StoreError> {
        while !self.fresh {
            self.step().await?;
        }
        self.learn_epoch().await?;
        self.fresh = false;
        Ok(())
    }
}
