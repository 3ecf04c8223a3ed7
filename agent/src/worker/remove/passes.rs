//! Passes that are under way, and who hears first that one is over.

use super::{Command, Doomed, Removed, Worker};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use weft_hostnet::{Departed, Departures, Executor};
use weft_model::id::IfName;

/// Shared by the hands, which remove, and the watcher.
pub(super) struct Passes {
    worker: Worker,
    open: Mutex<Open>,
    /// A pass is over.
    over: Condvar,
}

#[derive(Default)]
struct Open {
    last: u64,
    passes: BTreeMap<u64, Pass>,
}

struct Pass {
    /// Its links, and those of them whose end was not heard of yet.
    links: Doomed,
    waiting: BTreeSet<u32>,
    removed: Vec<Removed>,
}

impl Passes {
    pub(super) fn new(worker: Worker) -> Self {
        Self { worker, open: Mutex::default(), over: Condvar::new() }
    }

    /// To be called before the kernel is asked, so that nothing can be heard too early.
    pub(super) fn begin(&self, links: Doomed, removed: Vec<Removed>) -> u64 {
        let mut open = self.lock();
        open.last += 1;
        let number = open.last;
        let waiting = links.keys().copied().collect();
        open.passes.insert(number, Pass { links, waiting, removed });
        number
    }

    /// Takes a pass that is over; `None`: somebody else did.
    pub(super) fn end(&self, number: u64) -> Option<Vec<Removed>> {
        let ended = self.lock().passes.remove(&number);
        self.over.notify_all();
        ended.map(|pass| pass.removed)
    }

    /// Waits until no links are on their way out.
    pub(super) fn wait_for_the_last(&self) {
        drop(self.over.wait_while(self.lock(), |open| !open.passes.is_empty()));
    }

    /// Says what became of workloads.
    pub(super) fn say(&self, removed: Vec<Removed>) {
        self.worker.send(Command::Removed(removed));
    }

    /// Listens, for good. Without ears the hands say it all, 20 ms later.
    pub(super) fn watch(&self, mut kernel: Executor, mut departures: Departures) {
        loop {
            let departed = match departures.wait() {
                Ok(departed) => departed,
                Err(error) => {
                    tracing::error!(%error, "no notifications of links that are gone: every DEL takes some 20 ms longer");
                    return;
                }
            };
            for (number, names) in self.heard(&departed) {
                // An index may have a new owner, and notifications get lost: the kernel has the last word.
                if names.iter().all(|name| matches!(kernel.link(name), Ok(None)))
                    && let Some(removed) = self.end(number)
                {
                    self.say(removed);
                }
            }
        }
    }

    /// Passes that may be over, with the names to look for.
    fn heard(&self, departed: &Departed) -> Vec<(u64, Vec<IfName>)> {
        let over = |pass: &mut Pass| match departed {
            Departed::Links(indexes) => {
                let before = pass.waiting.len();
                pass.waiting.retain(|index| !indexes.contains(index));
                pass.waiting.is_empty() && before > 0
            }
            Departed::Some => !pass.links.is_empty(),
        };
        let mut open = self.lock();
        let passes = open.passes.iter_mut().filter_map(|(number, pass)| over(pass).then_some((number, pass)));
        passes.map(|(number, pass)| (*number, pass.links.values().cloned().collect())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
