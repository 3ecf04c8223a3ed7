//! One watch stream over several ranges of keys.

use super::EtcdStore;
use super::call::{MAX_ANSWER, PAUSE, classify, unreachable};
use super::change::Change;
use super::keys::Range;
use crate::StoreError;
use etcd_client::{WatchOptions, WatchResponse, WatchStream};
use futures_util::FutureExt;
use std::collections::VecDeque;
use tokio::time::{Instant, sleep, timeout_at};

/// Where to watch, and from which revision on (that one included).
#[derive(Debug, Clone)]
pub(super) struct Section {
    pub(super) range: Range,
    pub(super) start: i64,
}

/// Why a watch ended.
#[derive(Debug)]
pub(super) enum WatchEnd {
    /// It was to start, or has fallen behind, before the compacted revision.
    Compacted,
    /// The store is younger than what we have seen.
    Rewound(String),
    /// The stream broke; another one may go on where it ended.
    Broken(StoreError),
}

/// What happened in one section.
#[derive(Debug)]
pub(super) struct Batch {
    /// Its place in the list given to [`Watch::open`].
    pub(super) section: usize,
    /// In the order of revisions, and within a revision of operations. A revision may be divided among
    /// batches (fragments).
    pub(super) changes: Vec<Change>,
}

/// An open watch. Dropping it ends it.
pub(super) struct Watch {
    op: &'static str,
    stream: WatchStream,
    early: VecDeque<Batch>,
    ended: Option<WatchEnd>,
}

impl Watch {
    /// Starts watching; `seen` is the latest revision known of the store.
    pub(super) async fn open(
        store: &EtcdStore,
        op: &'static str,
        sections: &[Section],
        seen: i64,
    ) -> Result<Self, WatchEnd> {
        let deadline = store.deadline();
        loop {
            match timeout_at(deadline, Self::start(store, op, sections, seen)).await {
                Ok(Err(WatchEnd::Broken(StoreError::Unreachable { .. }))) if Instant::now() + PAUSE < deadline => {
                    sleep(PAUSE).await;
                }
                Ok(result) => return result,
                Err(_elapsed) => return Err(WatchEnd::Broken(unreachable(op, "no answer in time"))),
            }
        }
    }

    async fn start(store: &EtcdStore, op: &'static str, sections: &[Section], seen: i64) -> Result<Self, WatchEnd> {
        let broken = |error| WatchEnd::Broken(classify(op, error).into_store(op));
        let client = store.client(op).await.map_err(|error| WatchEnd::Broken(error.into_store(op)))?;
        let mut client = client.watch_client().max_decoding_message_size(MAX_ANSWER);
        let mut sections = (1..).zip(sections);
        let Some((id, first)) = sections.next() else {
            return Err(WatchEnd::Broken(unreachable(op, "nothing to watch")));
        };
        let stream = client.watch(first.range.from.clone(), Some(first.options(id))).await.map_err(broken)?;
        let mut watch = Self { op, stream, early: VecDeque::new(), ended: None };
        let mut missing = 1;
        for (id, section) in sections {
            watch.stream.watch(section.range.from.clone(), Some(section.options(id))).await.map_err(broken)?;
            missing += 1;
        }
        while missing > 0 {
            let answer = watch.answer().await?;
            if answer.created() {
                created_after(&answer, seen)?;
                missing -= 1;
            }
            watch.early.extend(batch(op, &answer)?);
        }
        Ok(watch)
    }

    /// The next batch. May be dropped while it waits: nothing is lost.
    pub(super) async fn next(&mut self) -> Result<Batch, WatchEnd> {
        loop {
            if let Some(batch) = self.early.pop_front() {
                return Ok(batch);
            }
            if let Some(ended) = self.ended.take() {
                return Err(ended);
            }
            let answer = self.answer().await?;
            self.early.extend(batch(self.op, &answer)?);
        }
    }

    /// The next batch if it is there already. The end of the watch is left to [`Self::next`].
    pub(super) fn ready(&mut self) -> Option<Batch> {
        match self.next().now_or_never()? {
            Ok(batch) => Some(batch),
            Err(ended) => {
                self.ended = Some(ended);
                None
            }
        }
    }

    async fn answer(&mut self) -> Result<WatchResponse, WatchEnd> {
        let op = self.op;
        let broken = |error| WatchEnd::Broken(classify(op, error).into_store(op));
        let ended = || WatchEnd::Broken(unreachable(op, "the watch ended"));
        self.stream.message().await.map_err(broken)?.ok_or_else(ended)
    }
}

impl Section {
    fn options(&self, id: i64) -> WatchOptions {
        WatchOptions::new()
            .with_range(self.range.to.clone())
            .with_start_revision(self.start)
            .with_watch_id(id)
            .with_fragment()
    }
}

/// A watch that starts after the store's own revision is created, and then silent: the store is not
/// the one we knew (etcd 3.4).
fn created_after(answer: &WatchResponse, seen: i64) -> Result<(), WatchEnd> {
    let revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
    if revision < seen {
        return Err(WatchEnd::Rewound(format!("its revision is {revision}, it was {seen} before")));
    }
    Ok(())
}

fn batch(op: &'static str, answer: &WatchResponse) -> Result<Option<Batch>, WatchEnd> {
    if answer.canceled() {
        return Err(match answer.compact_revision() {
            0 => WatchEnd::Broken(unreachable(op, format!("watch cancelled: {}", answer.cancel_reason()))),
            _ => WatchEnd::Compacted,
        });
    }
    let changes: Vec<_> = answer.events().iter().filter_map(Change::of).collect();
    let section = usize::try_from(answer.watch_id() - 1).unwrap_or(0);
    Ok((!changes.is_empty()).then_some(Batch { section, changes }))
}
