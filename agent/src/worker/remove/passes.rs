//! The pass whose links are on their way out, and who hears first that they are gone.

use super::{Command, Doomed, Removed, Worker};
use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use weft_hostnet::{Departed, Departures, Executor};
use weft_model::id::IfName;

/// Shared by the hands, which remove, and the watcher.
pub(super) struct Passes {
    worker: Worker,
    state: Mutex<State>,
    /// A pass is over.
    over: Condvar,
}

#[derive(Default)]
struct State {
    /// The number of the last one that began.
    last: u64,
    /// That one, while it is not over.
    open: Option<Pass>,
}

struct Pass {
    /// Its links, and those of them whose end was not heard of yet.
    links: Doomed,
    waiting: BTreeSet<u32>,
    removed: Vec<Removed>,
}

impl Passes {
    pub(super) fn new(worker: Worker) -> Self {
        Self { worker, state: Mutex::default(), over: Condvar::new() }
    }

    /// Waits until no links are on their way out. Whoever waits must be the only one to begin a pass then.
    pub(super) fn wait_for_the_last(&self) {
        drop(self.over.wait_while(self.lock(), |state| state.open.is_some()));
    }

    /// To be called before the kernel is asked, so that nothing can be heard too early; the pass's number.
    pub(super) fn begin(&self, links: Doomed, removed: Vec<Removed>) -> u64 {
        let mut state = self.lock();
        state.last += 1;
        state.open = Some(Pass { waiting: links.keys().copied().collect(), links, removed });
        state.last
    }

    /// Takes a pass that is over; `None`: somebody else did.
    pub(super) fn end(&self, number: u64) -> Option<Vec<Removed>> {
        let mut state = self.lock();
        let pass = if state.last == number { state.open.take() } else { None };
        self.over.notify_all();
        pass.map(|pass| pass.removed)
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
                    tracing::error!(%error, "no notifications of links that are gone: every DEL takes some 20 ms longer, until weftd is started again");
                    return;
                }
            };
            // An index may have a new owner, and notifications get lost: the kernel has the last word.
            if let Some((number, names)) = self.heard(&departed)
                && names.iter().all(|name| matches!(kernel.link(name), Ok(None)))
                && let Some(removed) = self.end(number)
            {
                self.say(removed);
            }
        }
    }

    /// The pass, if it may be over now, and the names to look for.
    fn heard(&self, departed: &Departed) -> Option<(u64, Vec<IfName>)> {
        let mut state = self.lock();
        let number = state.last;
        let pass = state.open.as_mut()?;
        let over = match departed {
            Departed::Links(indexes) => {
                let before = pass.waiting.len();
                pass.waiting.retain(|index| !indexes.contains(index));
                pass.waiting.is_empty() && before > 0
            }
            Departed::Some => true,
        };
        over.then(|| (number, pass.links.values().cloned().collect()))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
