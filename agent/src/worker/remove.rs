//! DEL: links are removed by threads of their own, in passes.
//!
//! Whoever asks the kernel to remove links waits some 20 ms, for one as for a hundred, though they are gone after
//! one or two (`weft_hostnet::Departures`). So there are several hands, each takes all that waits when the links of
//! the pass before are gone, and a watcher hears that while hands still wait: whoever of the two knows it first says so.
//! A DEL is answered when its link is gone; an agent that is killed before leaves the plugin without an
//! answer, which then removes the link itself.

mod passes;

use super::collect::{alias, slot_of};
use super::limits::is_shaper;
use super::{Command, Core, Reply, Worker, answer, internal};
use crate::fault;
use passes::Passes;
use std::collections::BTreeMap;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::oneshot;
use weft_api::agent::{RemoveRequest, RemoveResponse};
use weft_hostnet::{Departures, Error, Executor, LinkInfo};
use weft_model::id::{Attachment, IfName, Slot, Token};
use weft_model::op::Op;
use weft_model::overlay::LinkKind;
use weft_model::workload::host_ifname;

/// Passes that may wait for the kernel at a time: DELs one after another come every few milliseconds.
const HANDS: usize = 8;

type Caller = oneshot::Sender<Reply<RemoveResponse>>;

/// One workload to remove.
#[derive(Debug)]
pub(super) struct Removal {
    attachment: Attachment,
    /// The incarnation that had an address when the DEL came. One that comes later keeps its own.
    token: Option<Token>,
    /// Its slot.
    slot: Option<Slot>,
    /// The device that what it sends goes through, if it is limited.
    shaper: Option<IfName>,
    caller: Caller,
}

/// One workload a pass is over with.
#[derive(Debug)]
pub struct Removed {
    removal: Removal,
    link: Result<End, String>,
}

/// What became of the link with its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Gone,
    Foreign,
}

/// Links of a pass, by index.
type Doomed = BTreeMap<u32, IfName>;

/// Starts the threads; they end with the sender, the watcher with the process.
///
/// # Errors
/// A thread, or its netlink socket, cannot be made.
pub(super) fn spawn(worker: Worker) -> anyhow::Result<Sender<Removal>> {
    let (sender, removals) = mpsc::channel();
    let removals = Arc::new(Mutex::new(removals));
    let passes = Arc::new(Passes::new(worker));
    let (kernel, departures) = (Executor::here()?, Departures::here()?);
    let watched = Arc::clone(&passes);
    std::thread::Builder::new().name("departures".to_owned()).spawn(move || watched.watch(kernel, departures))?;
    for number in 1..=HANDS {
        let (removals, passes, kernel) = (Arc::clone(&removals), Arc::clone(&passes), Executor::here()?);
        let name = format!("remover-{number}");
        std::thread::Builder::new().name(name).spawn(move || run(kernel, &removals, &passes))?;
    }
    Ok(sender)
}

fn run(mut kernel: Executor, removals: &Mutex<Receiver<Removal>>, passes: &Passes) {
    while let Some((number, delete)) = next_pass(&mut kernel, removals, passes) {
        let result = kernel.execute(&[delete], None);
        let Some(mut removed) = passes.end(number) else { continue };
        if let Err(failure) = result {
            tracing::error!(%failure, "cannot remove workloads' links: those left are the plugin's to remove");
            for one in removed.iter_mut().filter(|one| one.link == Ok(End::Gone)) {
                one.link = still_there(&mut kernel, &host_ifname(&one.removal.attachment), &failure.to_string());
            }
        }
        passes.say(removed);
    }
}

/// Begins a pass with all that waits, once there is something; `None` at the end. While links of another pass are
/// still going, the kernel would let nobody else in, so more is gathered.
fn next_pass(kernel: &mut Executor, removals: &Mutex<Receiver<Removal>>, passes: &Passes) -> Option<(u64, Op)> {
    let removals = removals.lock().unwrap_or_else(PoisonError::into_inner);
    let first = removals.recv().ok()?;
    passes.wait_for_the_last();
    let mut doomed = Doomed::new();
    let removed: Vec<Removed> =
        std::iter::once(first).chain(removals.try_iter()).map(|removal| look(kernel, removal, &mut doomed)).collect();
    tracing::debug!(links = doomed.len(), "removing links in one pass");
    let delete = Op::DeleteLinks(doomed.values().cloned().collect());
    Some((passes.begin(doomed, removed), delete))
}

/// What of a workload is there to be removed.
fn look(kernel: &mut Executor, removal: Removal, doomed: &mut Doomed) -> Removed {
    // With the veth: a device of its own would be a pass of its own. One that stays is the next pass's over the host's
    // network to remove.
    if let Some(shaper) = &removal.shaper
        && let Ok(Some(link)) = kernel.link(shaper)
        && is_shaper(&link)
    {
        doomed.insert(link.index, link.name);
    }
    let link = match kernel.link(&host_ifname(&removal.attachment)) {
        Ok(Some(link)) if belongs(&link, &removal) => {
            doomed.insert(link.index, link.name);
            Ok(End::Gone)
        }
        Ok(Some(_)) => Ok(End::Foreign),
        Ok(None) => Ok(End::Gone),
        Err(error) => Err(error.to_string()),
    };
    Removed { removal, link }
}

/// After a pass that failed: some may be gone.
fn still_there(kernel: &mut Executor, name: &IfName, failure: &str) -> Result<End, String> {
    match kernel.link(name) {
        Ok(None) => Ok(End::Gone),
        Ok(Some(_)) => Err(failure.to_owned()),
        Err(error) => Err(Error::to_string(&error)),
    }
}

/// Whether a link of that name is the attachment's: by its alias, or, where the plugin was killed before
/// it wrote one, by kind and index, or, where somebody wrote another, by the index that we gave it.
fn belongs(link: &LinkInfo, removal: &Removal) -> bool {
    if let Some(alias) = alias(link) {
        return alias.attachment == removal.attachment;
    }
    let slot = slot_of(link).filter(|_slot| link.kind == LinkKind::Veth);
    let has_none = link.alias.as_deref().is_none_or(str::is_empty);
    slot.is_some() && (has_none || slot == removal.slot)
}

impl Core {
    /// Hands a workload to the remover.
    pub(super) fn remove(&mut self, request: RemoveRequest, caller: Caller) {
        let RemoveRequest { attachment } = request;
        let entry = self.pool.as_ref().and_then(|pool| pool.get(&attachment));
        let (token, slot) = (entry.map(|entry| entry.token.clone()), entry.map(|entry| entry.slot));
        let shaper = self.shaper_of(&attachment);
        fault::point("remove-asked", &attachment);
        if let Err(mpsc::SendError(removal)) = self.remover.send(Removal { attachment, token, slot, shaper, caller }) {
            answer(removal.caller, Err(internal("the thread that removes links has ended")));
        }
    }

    /// Gives back the addresses of those whose links are gone, and answers.
    pub(super) fn removed(&mut self, removed: Vec<Removed>) {
        removed.iter().for_each(|one| fault::point("remove-passed", &one.removal.attachment));
        let over = |one: &&Removed| one.link.is_ok() && one.removal.token.is_some();
        let gone = removed.iter().filter(over).map(|one| (&one.removal.attachment, one.removal.token.as_ref()));
        let mut forgotten = self.forget_all(gone).into_iter();
        removed.iter().for_each(|one| fault::point("remove-forgotten", &one.removal.attachment));
        for one in removed {
            let released = over(&&one) && forgotten.next().unwrap_or(false);
            let result = one.link.map(|end| RemoveResponse { released, foreign: end == End::Foreign });
            answer(one.removal.caller, result.map_err(internal));
        }
    }
}
