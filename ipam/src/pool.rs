//! The pool: who has which address of the subnet.

use crate::bits::Bits;
use crate::cooling::Cooling;
use crate::entry::{Entry, Request, State};
use crate::event::Event;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use weft_model::id::{Attachment, Slot, Token};
use weft_model::net::Subnet;

/// How long things wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// Seconds between an address's release and its next owner.
    pub cool_down: u64,
    /// Seconds after which a reservation without commit lapses.
    pub reservation: u64,
}

impl Default for Times {
    /// 30 s of cool-down, 120 s for a commit.
    fn default() -> Self {
        Self { cool_down: 30, reservation: 120 }
    }
}

/// Addresses of one subnet. Every address has at most one owner; the next one given is the next free
/// one after the last given, so that an address rests as long as possible.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    subnet: Subnet,
    times: Times,
    entries: BTreeMap<Attachment, Entry>,
    owners: BTreeMap<Slot, Attachment>,
    /// Owned, cooling, or no workload's address at all.
    taken: Bits,
    /// Shown by the kernel although nobody here owns them.
    blocked: Bits,
    cooling: Cooling,
    cursor: Slot,
}

/// Why the pool refuses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// Nothing is free.
    #[error(
        "subnet {subnet} is exhausted: {} of its {} workload addresses are in use, {} wait out their cool-down of {cool_down} s, {} are used by something weft does not know",
        usage.in_use, usage.size, usage.cooling, usage.blocked
    )]
    Exhausted {
        /// The subnet.
        subnet: Subnet,
        /// How it is used.
        usage: Usage,
        /// Seconds between owners.
        cool_down: u64,
    },
    /// A commit for what was never reserved, or was collected.
    #[error("{attachment} has no reservation: it lapsed or was released")]
    NotReserved {
        /// Whose.
        attachment: Attachment,
    },
    /// A commit with the token of another incarnation.
    #[error("{attachment} is reserved under another token than {token}: that reservation lapsed or was released")]
    OtherToken {
        /// Whose.
        attachment: Attachment,
        /// What the caller has.
        token: Token,
    },
    /// A slot that is no workload's, or of another owner.
    #[error("{attachment} cannot have slot {} of subnet {subnet}: {why}", slot.0)]
    BadSlot {
        /// Whose it would be.
        attachment: Attachment,
        /// Which.
        slot: Slot,
        /// The subnet.
        subnet: Subnet,
        /// What is wrong with it.
        why: String,
    },
}

/// How the subnet's addresses are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Addresses workloads may have.
    pub size: u32,
    /// Reserved or committed.
    pub in_use: u32,
    /// Waiting out their cool-down.
    pub cooling: u32,
    /// Neither, but the kernel shows them in use.
    pub blocked: u32,
    /// Free to give.
    pub free: u32,
}

/// What came of a reservation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reserved {
    /// The entry as it stands now.
    pub entry: Entry,
    /// What to write down; `None` if the attachment is committed already and nothing changed.
    pub event: Option<Event>,
}

/// What was released.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Freed {
    /// Whose it was.
    pub attachment: Attachment,
    /// What it was.
    pub entry: Entry,
    /// What to write down.
    pub event: Event,
}

/// What came of a release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Released {
    /// It is released.
    Yes(Box<Freed>),
    /// There was nothing.
    Nothing,
    /// The attachment has another token: a newer incarnation, which is left alone.
    OtherToken,
}

impl Pool {
    /// An empty pool.
    #[must_use]
    pub fn new(subnet: Subnet, times: Times) -> Self {
        let offsets = subnet.workload_offsets();
        let size = offsets.end + 1;
        let mut taken = Bits::new(size);
        (0..size).filter(|offset| !offsets.contains(offset)).for_each(|offset| taken.set(offset));
        Self {
            subnet,
            times,
            entries: BTreeMap::new(),
            owners: BTreeMap::new(),
            taken,
            blocked: Bits::new(size),
            cooling: Cooling::default(),
            cursor: Slot(0),
        }
    }

    /// Gives an address, or the one the attachment has: with its token as long as it is not released.
    /// Asking again renews a reservation and takes over what the request says of the workload; a
    /// committed attachment is answered unchanged.
    ///
    /// # Errors
    /// [`PoolError::Exhausted`].
    pub fn reserve(&mut self, request: Request, now: u64) -> Result<Reserved, PoolError> {
        let held = self.entries.get(&request.attachment);
        if let Some(entry) = held.filter(|entry| entry.state == State::Committed) {
            return Ok(Reserved { entry: entry.clone(), event: None });
        }
        let held = held.map(|entry| (entry.slot, entry.token.clone()));
        let Request { attachment, token, netns, identity, group } = request;
        let renewed = held.is_some();
        let (slot, token) = match held {
            Some(held) => held,
            None => (self.next_free(now)?, token),
        };
        let entry = Entry { token, slot, netns, identity, group, state: State::Reserved { since: now } };
        let event = {
            let entry = entry.clone();
            if renewed { Event::Hold { attachment, entry } } else { Event::Reserve { attachment, entry } }
        };
        self.apply(&event);
        Ok(Reserved { entry, event: Some(event) })
    }

    /// Marks a reservation as wired; `None`: it was already.
    ///
    /// # Errors
    /// [`PoolError::NotReserved`], [`PoolError::OtherToken`]: the caller must undo what it wired.
    pub fn commit(&mut self, attachment: &Attachment, token: &Token) -> Result<Option<Event>, PoolError> {
        let Some(entry) = self.entries.get(attachment) else {
            return Err(PoolError::NotReserved { attachment: attachment.clone() });
        };
        if entry.token != *token {
            return Err(PoolError::OtherToken { attachment: attachment.clone(), token: token.clone() });
        }
        if entry.state == State::Committed {
            return Ok(None);
        }
        let event = Event::Commit { attachment: attachment.clone() };
        self.apply(&event);
        Ok(Some(event))
    }

    /// Takes an address back. With a token, only from that incarnation: a late note about an old one
    /// must not take the new one's.
    pub fn release(&mut self, attachment: &Attachment, token: Option<&Token>, now: u64) -> Released {
        let Some(entry) = self.entries.get(attachment) else {
            return Released::Nothing;
        };
        if token.is_some_and(|token| entry.token != *token) {
            return Released::OtherToken;
        }
        self.free(attachment.clone(), now).map_or(Released::Nothing, |freed| Released::Yes(Box::new(freed)))
    }

    /// Releases reservations whose time is over and for which `in_use` (is there a link with its
    /// token?) says no.
    pub fn expire(&mut self, now: u64, in_use: impl Fn(&Attachment, &Entry) -> bool) -> Vec<Freed> {
        let lapsed: Vec<Attachment> = self
            .entries
            .iter()
            .filter(|(attachment, entry)| self.lapsed(entry, now) && !in_use(attachment, entry))
            .map(|(attachment, _)| attachment.clone())
            .collect();
        lapsed.into_iter().filter_map(|attachment| self.free(attachment, now)).collect()
    }

    fn free(&mut self, attachment: Attachment, now: u64) -> Option<Freed> {
        let entry = self.entries.get(&attachment)?.clone();
        let event = Event::Release { attachment: attachment.clone(), at: now };
        self.apply(&event);
        Some(Freed { attachment, entry, event })
    }

    /// Takes in a workload that the kernel shows (by its link's alias) and the journal lost.
    ///
    /// # Errors
    /// [`PoolError::BadSlot`] if the slot is no workload's, or another attachment's, or if this
    /// attachment has another one.
    pub fn adopt(&mut self, attachment: Attachment, entry: Entry) -> Result<Event, PoolError> {
        let bad = |why: String| PoolError::BadSlot {
            attachment: attachment.clone(),
            slot: entry.slot,
            subnet: self.subnet,
            why,
        };
        if !self.is_workloads(entry.slot) {
            return Err(bad("it is no workload's address".to_owned()));
        }
        match self.owners.get(&entry.slot) {
            Some(owner) if *owner != attachment => return Err(bad(format!("{owner} has it"))),
            _ => {}
        }
        match self.entries.get(&attachment) {
            Some(held) if held.slot != entry.slot => {
                return Err(bad(format!("it has slot {} already", held.slot.0)));
            }
            _ => {}
        }
        let event = Event::Hold { attachment, entry };
        self.apply(&event);
        Ok(event)
    }

    /// Says which addresses the kernel shows in use (routes, links' slots), whoever owns them: those
    /// nobody here owns are not given. Replaces what was said before.
    pub fn block(&mut self, slots: &BTreeSet<Slot>) {
        let mut blocked = Bits::new(self.subnet.workload_offsets().end + 1);
        slots.iter().filter(|slot| self.is_workloads(**slot)).for_each(|slot| blocked.set(u32::from(slot.0)));
        self.blocked = blocked;
    }

    /// Makes a change that is known to have happened. Total, so that a journal with a lost line
    /// still gives a pool without double owners: the later line is the truth.
    pub(crate) fn apply(&mut self, event: &Event) {
        match event {
            Event::Reserve { attachment, entry } => {
                self.put(attachment, entry);
                self.cursor = entry.slot;
            }
            Event::Hold { attachment, entry } => self.put(attachment, entry),
            Event::Commit { attachment } => {
                if let Some(entry) = self.entries.get_mut(attachment) {
                    entry.state = State::Committed;
                }
            }
            Event::Release { attachment, at } => {
                if let Some(slot) = self.remove(attachment) {
                    self.cool(slot, *at);
                }
            }
            Event::Cool { slot, at } => {
                if self.is_workloads(*slot) && !self.owners.contains_key(slot) {
                    self.cool(*slot, *at);
                }
            }
        }
    }

    fn put(&mut self, attachment: &Attachment, entry: &Entry) {
        if !self.is_workloads(entry.slot) {
            return;
        }
        if let Some(other) = self.owners.get(&entry.slot).cloned() {
            self.remove(&other);
        }
        self.remove(attachment);
        self.cooling.remove(u32::from(entry.slot.0));
        self.taken.set(u32::from(entry.slot.0));
        self.owners.insert(entry.slot, attachment.clone());
        self.entries.insert(attachment.clone(), entry.clone());
    }

    fn remove(&mut self, attachment: &Attachment) -> Option<Slot> {
        let entry = self.entries.remove(attachment)?;
        self.owners.remove(&entry.slot);
        self.taken.clear(u32::from(entry.slot.0));
        Some(entry.slot)
    }

    fn cool(&mut self, slot: Slot, at: u64) {
        let offset = u32::from(slot.0);
        self.cooling.remove(offset);
        self.taken.set(offset);
        self.cooling.push(offset, at);
    }

    fn next_free(&mut self, now: u64) -> Result<Slot, PoolError> {
        while let Some(offset) = self.cooling.pop(now, self.times.cool_down) {
            self.taken.clear(offset);
        }
        self.taken
            .next_clear(&self.blocked, u32::from(self.cursor.0) + 1)
            .and_then(|offset| u16::try_from(offset).ok())
            .map(Slot)
            .ok_or_else(|| PoolError::Exhausted {
                subnet: self.subnet,
                usage: self.usage(now),
                cool_down: self.times.cool_down,
            })
    }

    fn lapsed(&self, entry: &Entry, now: u64) -> bool {
        match entry.state {
            State::Reserved { since } => now.saturating_sub(since) > self.times.reservation,
            State::Committed => false,
        }
    }

    fn is_workloads(&self, slot: Slot) -> bool {
        self.subnet.workload_offsets().contains(&u32::from(slot.0))
    }

    /// How the subnet is used at `now`.
    #[must_use]
    pub fn usage(&self, now: u64) -> Usage {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let offsets = self.subnet.workload_offsets();
        let size = offsets.end - offsets.start;
        let cooling: BTreeSet<u32> =
            self.cooling.waiting(now, self.times.cool_down).map(|(offset, _)| offset).collect();
        let owned = |offset: u32| u16::try_from(offset).is_ok_and(|slot| self.owners.contains_key(&Slot(slot)));
        let blocked = offsets
            .filter(|offset| self.blocked.is_set(*offset))
            .filter(|offset| !cooling.contains(offset) && !owned(*offset))
            .count();
        let (in_use, cooling, blocked) = (count(self.entries.len()), count(cooling.len()), count(blocked));
        Usage { size, in_use, cooling, blocked, free: size - in_use - cooling - blocked }
    }

    /// The subnet.
    #[must_use]
    pub fn subnet(&self) -> Subnet {
        self.subnet
    }

    /// The address of a slot, if the subnet holds it.
    #[must_use]
    pub fn address(&self, slot: Slot) -> Option<Ipv4Addr> {
        self.subnet.address(u32::from(slot.0))
    }

    /// All attachments in order.
    #[must_use]
    pub fn entries(&self) -> &BTreeMap<Attachment, Entry> {
        &self.entries
    }

    /// What an attachment has.
    #[must_use]
    pub fn get(&self, attachment: &Attachment) -> Option<&Entry> {
        self.entries.get(attachment)
    }

    /// Who has a slot.
    #[must_use]
    pub fn owner(&self, slot: Slot) -> Option<&Attachment> {
        self.owners.get(&slot)
    }

    /// The slot given last.
    #[must_use]
    pub fn cursor(&self) -> Slot {
        self.cursor
    }

    /// Goes on after `slot`: from the journal of an earlier boot, or a file kept on disk.
    pub fn set_cursor(&mut self, slot: Slot) {
        self.cursor = slot;
    }

    /// Slots that wait out their cool-down, and when they were given back.
    pub(crate) fn cooling(&self, now: u64) -> impl Iterator<Item = (Slot, u64)> {
        self.cooling
            .waiting(now, self.times.cool_down)
            .filter_map(|(offset, at)| Some((Slot(u16::try_from(offset).ok()?), at)))
    }
}
