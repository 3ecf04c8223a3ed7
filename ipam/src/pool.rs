//! The pool: who has which address of the subnet.

use crate::bits::Bits;
use crate::cooling::Cooling;
use crate::entry::{Entry, Request, State};
use crate::error::{PoolError, Unavailable};
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
    /// Shown by the kernel, whoever owns them.
    blocked: BTreeSet<Slot>,
    /// Kept back by configuration.
    reserved: BTreeSet<Slot>,
    /// Any of these three: what is not given when nobody asks for it by name.
    busy: Bits,
    cooling: Cooling,
    cursor: Slot,
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
    /// None of these, but kept back by configuration.
    pub reserved: u32,
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
            busy: taken.clone(),
            taken,
            blocked: BTreeSet::new(),
            reserved: BTreeSet::new(),
            cooling: Cooling::default(),
            cursor: Slot(0),
        }
    }

    /// Gives an address, or the one the attachment has: with its token as long as it is not released.
    /// Asking again renews a reservation and takes over what the request says of the workload; a
    /// committed attachment is answered unchanged. An address asked for by name does not wait out its
    /// cool-down: who asks for it wants it back.
    ///
    /// # Errors
    /// [`PoolError::Exhausted`], [`PoolError::Unavailable`].
    pub fn reserve(&mut self, request: Request, now: u64) -> Result<Reserved, PoolError> {
        let held = self.entries.get(&request.attachment);
        if let Some(entry) = held.filter(|entry| entry.state == State::Committed) {
            return Ok(Reserved { entry: entry.clone(), event: None });
        }
        let held = held.map(|entry| (entry.slot, entry.token.clone()));
        let Request { attachment, token, netns, network, address, identity, group, capabilities } = request;
        // Asked for by name, it does not move the place where the next one is looked for.
        let renewed = held.is_some() || address.is_some();
        let wanted = match address {
            Some(address) => Some(self.requested(&attachment, address)?),
            None => None,
        };
        let (slot, token) = match (held, wanted) {
            (Some(held), _) => held,
            (None, Some(slot)) => (slot, token),
            (None, None) => (self.next_free(now)?, token),
        };
        let state = State::Reserved { since: now };
        let entry = Entry { token, slot, netns, network, identity, group, capabilities, state };
        let event = {
            let entry = entry.clone();
            if renewed { Event::Hold { attachment, entry } } else { Event::Reserve { attachment, entry } }
        };
        self.apply(&event);
        Ok(Reserved { entry, event: Some(event) })
    }

    /// The slot of an address asked for by name.
    fn requested(&self, attachment: &Attachment, address: Ipv4Addr) -> Result<Slot, PoolError> {
        let fail = |why| PoolError::Unavailable { attachment: attachment.clone(), address, why };
        let offset = self.subnet.offset(address).ok_or_else(|| fail(Unavailable::Outside(self.subnet)))?;
        let slot = Slot(u16::try_from(offset).unwrap_or(u16::MAX));
        if !self.is_workloads(slot) {
            let offsets = self.subnet.workload_offsets();
            let at = |offset| self.subnet.address(offset).unwrap_or(address);
            let (first, last) = (at(offsets.start), at(offsets.end - 1));
            return Err(fail(Unavailable::NotAWorkloads { subnet: self.subnet, first, last }));
        }
        if let Some(held) = self.entries.get(attachment).filter(|held| held.slot != slot) {
            return Err(fail(Unavailable::HasAnother(self.address(held.slot).unwrap_or(address))));
        }
        match self.owners.get(&slot) {
            Some(owner) if owner == attachment => Ok(slot),
            Some(owner) => Err(fail(Unavailable::Owned(owner.clone()))),
            None if self.reserved.contains(&slot) => Err(fail(Unavailable::Reserved)),
            None if self.blocked.contains(&slot) => Err(fail(Unavailable::Blocked)),
            None => Ok(slot),
        }
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

    /// Says which addresses the kernel shows in use (host addresses, links' slots), whoever owns them:
    /// those nobody here owns are not given. Replaces what was said before.
    pub fn block(&mut self, slots: BTreeSet<Slot>) {
        let before = std::mem::replace(&mut self.blocked, slots);
        self.weigh_all(&before);
    }

    /// Keeps addresses back: nobody gets them, also not by name. Who has one keeps it. Replaces what was
    /// said before.
    pub fn keep_back(&mut self, slots: BTreeSet<Slot>) {
        let before = std::mem::replace(&mut self.reserved, slots);
        self.weigh_all(&before);
    }

    fn weigh_all(&mut self, before: &BTreeSet<Slot>) {
        let changed: Vec<Slot> = before.iter().chain(&self.blocked).chain(&self.reserved).copied().collect();
        changed.into_iter().for_each(|slot| self.weigh(u32::from(slot.0)));
    }

    /// Notes whether an offset may be given.
    fn weigh(&mut self, offset: u32) {
        let held_back = u16::try_from(offset)
            .map(Slot)
            .is_ok_and(|slot| self.blocked.contains(&slot) || self.reserved.contains(&slot));
        if held_back || self.taken.is_set(offset) { self.busy.set(offset) } else { self.busy.clear(offset) }
    }

    fn take(&mut self, offset: u32) {
        self.taken.set(offset);
        self.busy.set(offset);
    }

    fn leave(&mut self, offset: u32) {
        self.taken.clear(offset);
        self.weigh(offset);
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
        self.take(u32::from(entry.slot.0));
        self.owners.insert(entry.slot, attachment.clone());
        self.entries.insert(attachment.clone(), entry.clone());
    }

    fn remove(&mut self, attachment: &Attachment) -> Option<Slot> {
        let entry = self.entries.remove(attachment)?;
        self.owners.remove(&entry.slot);
        self.leave(u32::from(entry.slot.0));
        Some(entry.slot)
    }

    fn cool(&mut self, slot: Slot, at: u64) {
        let offset = u32::from(slot.0);
        self.take(offset);
        self.cooling.push(offset, at);
    }

    fn next_free(&mut self, now: u64) -> Result<Slot, PoolError> {
        while let Some(offset) = self.cooling.pop(now, self.times.cool_down) {
            self.leave(offset);
        }
        let (found, _steps) = self.busy.next_clear(u32::from(self.cursor.0) + 1);
        found.and_then(|offset| u16::try_from(offset).ok()).map(Slot).ok_or_else(|| PoolError::Exhausted {
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
        let unused = |slot: &&Slot| {
            self.is_workloads(**slot) && !cooling.contains(&u32::from(slot.0)) && !self.owners.contains_key(slot)
        };
        let blocked = self.blocked.iter().filter(unused).count();
        let reserved = self.reserved.difference(&self.blocked).filter(unused).count();
        let (in_use, cooling) = (count(self.entries.len()), count(cooling.len()));
        let (blocked, reserved) = (count(blocked), count(reserved));
        Usage { size, in_use, cooling, blocked, reserved, free: size - in_use - cooling - blocked - reserved }
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

#[cfg(test)]
mod tests {
    use super::*;
    use weft_model::group::Identity;

    fn request(n: u32) -> Request {
        Request {
            attachment: Attachment { container_id: format!("c{n}").parse().unwrap(), ifname: "eth0".parse().unwrap() },
            token: Token::new(format!("{n:016x}")).unwrap(),
            netns: String::new(),
            network: String::new(),
            address: None,
            identity: Identity::default(),
            group: None,
            capabilities: weft_model::capability::Capabilities::default(),
        }
    }

    /// The largest subnet, at every fullness, with one address given back far from the cursor each time.
    #[test]
    fn the_next_of_4093_addresses_is_found_in_a_few_steps() {
        let network: ipnetwork::Ipv4Network = "10.1.0.0/20".parse().unwrap();
        let mut pool = Pool::new(Subnet::try_from(network).unwrap(), Times { cool_down: 0, reservation: 120 });
        let mut most = 0;
        for n in 0..4093 {
            most = most.max(pool.busy.next_clear(u32::from(pool.cursor.0) + 1).1);
            pool.reserve(request(n), 0).unwrap();
        }
        for n in 0..4093 {
            let n = n * 1237 % 4093;
            pool.release(&request(n).attachment, None, 0);
            pool.release(&request((n + 2000) % 4093).attachment, None, 0);
            for again in [n, (n + 2000) % 4093] {
                pool.reserve(request(again), 0).unwrap();
                most = most.max(pool.busy.next_clear(u32::from(pool.cursor.0) + 1).1);
            }
        }
        assert_eq!(pool.usage(0).free, 0);
        assert!((1..=8).contains(&most), "{most} steps");
        assert!(pool.cooling.queued() < 4093, "{}", pool.cooling.queued());
    }
}
