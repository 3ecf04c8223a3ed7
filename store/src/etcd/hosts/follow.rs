//! A live view of hosts.

use super::fold::{Anchor, HostsFold};
use super::list::HostsListing;
use crate::StoreError;
use crate::etcd::EtcdStore;
use crate::etcd::call::{CallError, PAUSE};
use crate::etcd::page::shown;
use crate::etcd::watch::{Batch, Section, Watch, WatchEnd};
use crate::hosts::{HostsFollower, HostsView};
use etcd_client::GetOptions;
use weft_api::stored::WantedDocument;

const OP: &str = "follow hosts";

/// Follows hosts in etcd.
pub struct EtcdHostsFollower {
    store: EtcdStore,
    fold: HostsFold,
    epoch: Option<String>,
    /// No configuration, head or epoch stood there when hosts were listed last.
    blank: bool,
    /// Where each section's watch goes on. The last revision seen is asked for again: a fragment may
    /// have been its first half, and folding twice is harmless.
    starts: [i64; 3],
    watch: Option<Watch>,
    stale: bool,
}

impl EtcdHostsFollower {
    pub(super) async fn start(store: EtcdStore) -> Result<Self, StoreError> {
        let before = store.seen();
        let listed = store.list_hosts(OP).await?;
        let revision = listed.fold.view().revision;
        store.check_forward(before, revision)?;
        Ok(Self {
            store,
            fold: listed.fold,
            epoch: listed.epoch,
            blank: listed.blank,
            starts: [revision + 1; 3],
            watch: None,
            stale: false,
        })
    }

    async fn step(&mut self) -> Result<bool, StoreError> {
        if self.stale {
            return self.relist().await;
        }
        let ended = match &mut self.watch {
            Some(watch) => match watch.next().await {
                Ok(batch) => return self.take(batch).await,
                Err(ended) => ended,
            },
            None => match self.open().await {
                Ok(()) => return Ok(false),
                Err(ended) => ended,
            },
        };
        let streaming = self.watch.take().is_some();
        match ended {
            WatchEnd::Compacted => self.stale = true,
            WatchEnd::Rewound(what) => return Err(StoreError::Rewound(what)),
            WatchEnd::Broken(error) if streaming => {
                tracing::debug!(%error, "the watch on hosts broke: opening another one");
                tokio::time::sleep(PAUSE).await;
            }
            WatchEnd::Broken(error) => return Err(error),
        }
        Ok(false)
    }

    async fn open(&mut self) -> Result<(), WatchEnd> {
        self.same_store().await?;
        let keys = self.store.keys();
        let ranges = [keys.lease_range(), keys.host_range(), keys.wanted_range()];
        let sections: Vec<_> =
            ranges.into_iter().zip(self.starts).map(|(range, start)| Section { range, start }).collect();
        let seen = self.fold.view().revision;
        self.watch = Some(Watch::open(&self.store, OP, &sections, seen).await?);
        Ok(())
    }

    /// Asks for the last key put, as of then: a restored store that has gone on since does not have it
    /// there.
    async fn same_store(&self) -> Result<(), WatchEnd> {
        let Some(Anchor { key, revision, lease }) = self.fold.anchor() else { return Ok(()) };
        let rewound = |what| Err(WatchEnd::Rewound(what));
        let answer = match self.store.get(OP, key.as_str(), GetOptions::new().with_revision(*revision)).await {
            Ok(answer) => answer,
            Err(CallError::Compacted) => return Err(WatchEnd::Compacted),
            Err(CallError::Future) => return rewound(format!("it has not reached revision {revision}, seen before")),
            Err(error) => return Err(WatchEnd::Broken(error.into_store(OP))),
        };
        let (now, before) = (shown(&answer), self.fold.view().revision);
        if now < before {
            return rewound(format!("its revision is {now}, it was {before} before"));
        }
        match answer.kvs().first() {
            Some(kv) if kv.mod_revision() == *revision && kv.lease() == *lease => Ok(()),
            _ => rewound(format!("{key} was written at revision {revision}, this store does not know of it")),
        }
    }

    /// Folds a batch, and all that is there already, into the view.
    async fn take(&mut self, batch: Batch) -> Result<bool, StoreError> {
        let mut batches = vec![batch];
        while let Some(batch) = self.watch.as_mut().and_then(Watch::ready) {
            batches.push(batch);
        }
        let mut starts = self.starts;
        for (section, change) in batches.iter().flat_map(|batch| batch.changes.iter().map(|c| (batch.section, c))) {
            starts[section] = change.revision;
        }
        let changes = || batches.iter().flat_map(|batch| &batch.changes);
        if changes().any(|change| change.value.is_none()) {
            let mut fold = self.fold.clone();
            changes().for_each(|change| fold.apply(change));
            if self.fold.has_hosts() && !fold.has_hosts() {
                // Everything vanished: is that a network without hosts, or no network any more? The watch
                // is opened anew, so that nothing is lost if this question has no answer.
                self.watch = None;
                if self.store.is_blank(OP).await? {
                    return Err(StoreError::Rewound("it is empty".to_owned()));
                }
            }
            self.fold = fold;
        } else {
            changes().for_each(|change| self.fold.apply(change));
        }
        self.starts = starts;
        Ok(true)
    }

    async fn relist(&mut self) -> Result<bool, StoreError> {
        let listed = self.store.list_hosts(OP).await?;
        self.check(&listed)?;
        let changed = listed.fold.view() != self.fold.view() || listed.fold.wanted() != self.fold.wanted();
        self.starts = [listed.fold.view().revision + 1; 3];
        self.fold = listed.fold;
        self.blank = listed.blank;
        self.epoch = listed.epoch.or(self.epoch.take());
        self.stale = false;
        Ok(changed)
    }

    fn check(&self, listed: &HostsListing) -> Result<(), StoreError> {
        let (before, now) = (self.fold.view().revision, listed.fold.view().revision);
        let rewound = |what| Err(StoreError::Rewound(what));
        if now < before {
            return rewound(format!("its revision is {now}, it was {before} before"));
        }
        let vanished = self.fold.has_hosts() && !listed.fold.has_hosts();
        if listed.blank && (vanished || !self.blank) {
            return rewound("it is empty".to_owned());
        }
        match (&self.epoch, &listed.epoch) {
            (Some(before), now) if Some(before) != now.as_ref() => {
                rewound(format!("its epoch is {}, it was {before} before", now.as_deref().unwrap_or("gone")))
            }
            _ => Ok(()),
        }
    }
}

impl HostsFollower for EtcdHostsFollower {
    fn view(&self) -> &HostsView {
        self.fold.view()
    }

    fn wanted(&self) -> Option<&WantedDocument> {
        self.fold.wanted()
    }

    async fn changed(&mut self) -> Result<(), StoreError> {
        while !self.step().await? {}
        Ok(())
    }
}
