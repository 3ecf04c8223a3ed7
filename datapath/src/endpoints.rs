//! The endpoint table, mapped into our memory: an update by system call copies the value byte by
//! byte for all the kernel promises, while a store of one aligned word is atomic.

use crate::error::DatapathError;
use crate::surroundings::{address, wire};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use weft_abi::{Head, MAX_SLOTS, SHAPER_IFINDEX_BASE, SLOT_IFINDEX_BASE, flag, limited};
use weft_model::datapath::{DenyAction, Endpoint, Limited, SetId};
use weft_model::id::{Slot, Tag};
use weft_model::mac::Mac;

// What the programs compute, the planner gives to the devices.
const _: () = assert!(SLOT_IFINDEX_BASE == weft_model::workload::SLOT_IFINDEX_BASE);
const _: () = assert!(SHAPER_IFINDEX_BASE == weft_model::bandwidth::SHAPER_IFINDEX_BASE);

/// An endpoint as the maps have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointView {
    /// What was put.
    pub endpoint: Endpoint,
    /// Its policy's version in the data plane.
    pub generation: u32,
    /// Which workload of the slot it is, counted from 1.
    pub incarnation: u32,
}

const BYTES: NonZeroUsize = match NonZeroUsize::new(MAX_SLOTS as usize * size_of::<weft_abi::Endpoint>()) {
    Some(bytes) => bytes,
    None => NonZeroUsize::MIN,
};

/// Map `ep`.
pub(crate) struct Endpoints {
    base: NonNull<weft_abi::Endpoint>,
}

// SAFETY: the memory belongs to the map, and every change needs `&mut self`.
unsafe impl Send for Endpoints {}

impl Endpoints {
    /// Maps the memory of the map behind `fd`.
    pub(crate) fn map(fd: impl AsFd) -> Result<Self, DatapathError> {
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping, of a map that the layout check or the loader made this large.
        let base = unsafe { mmap(None, BYTES, protection, MapFlags::MAP_SHARED, fd, 0) };
        let base = base.map_err(|source| DatapathError::Mmap { map: "ep", source })?;
        Ok(Self { base: base.cast() })
    }

    fn at(&self, slot: Slot) -> Result<NonNull<weft_abi::Endpoint>, DatapathError> {
        if u32::from(slot.0) >= MAX_SLOTS {
            return Err(DatapathError::Slot(slot));
        }
        // SAFETY: inside the mapping, as just checked.
        Ok(unsafe { self.base.add(usize::from(slot.0)) })
    }

    /// The head's word, shared with running programs.
    fn head(&self, slot: Slot) -> Result<&AtomicU64, DatapathError> {
        let entry = self.at(slot)?;
        // SAFETY: the field is aligned, lives as long as the mapping, and is only ever accessed
        // as one word, here and by the programs.
        Ok(unsafe { AtomicU64::from_ptr(&raw mut (*entry.as_ptr()).head) })
    }

    fn read(&self, slot: Slot) -> Result<(Head, weft_abi::Endpoint), DatapathError> {
        let head = Head::unpack(self.head(slot)?.load(Ordering::Acquire));
        // SAFETY: inside the mapping; only `&mut self` writes the other fields.
        Ok((head, unsafe { self.at(slot)?.as_ptr().read_volatile() }))
    }

    /// Puts or changes an endpoint, whose policy set gives it more [`flag`]s; returns its new generation.
    pub(crate) fn put(&mut self, endpoint: &Endpoint, of_set: u8) -> Result<u32, DatapathError> {
        let slot = endpoint.slot;
        let (head, old) = self.read(slot)?;
        let same = head.flags & flag::ACTIVE != 0 && old.ip4 == wire(endpoint.ip) && old.mac == endpoint.mac.0;
        let incarnation = if same { old.incarnation } else { next(old.incarnation) };
        if !same {
            self.remove(slot)?;
        }
        let entry = self.at(slot)?.as_ptr();
        // SAFETY: inside the mapping. Programs may read while we write: of an inactive slot they
        // use nothing, and of an active one only `tag` and `limited` can change, each one aligned store.
        unsafe {
            (&raw mut (*entry).tag).write_volatile(endpoint.tag.map_or(0, Tag::get));
            (&raw mut (*entry).limited).write_volatile(limits(endpoint.limited));
            if !same {
                (&raw mut (*entry).incarnation).write_volatile(incarnation);
                (&raw mut (*entry).ip4).write_volatile(wire(endpoint.ip));
                (&raw mut (*entry).mac).write_volatile(endpoint.mac.0);
                (&raw mut (*entry).ifindex).write_volatile(SLOT_IFINDEX_BASE + u32::from(slot.0));
            }
        }
        let generation = next(head.generation);
        let head = Head { generation, policy_set: endpoint.set.0, flags: flags(endpoint) | of_set };
        self.head(slot)?.store(head.pack(), Ordering::Release);
        Ok(generation)
    }

    /// Empties a slot; generation and incarnation stay, so that they never go back.
    pub(crate) fn remove(&mut self, slot: Slot) -> Result<(), DatapathError> {
        let (head, _) = self.read(slot)?;
        let empty = Head { policy_set: 0, flags: 0, ..head };
        self.head(slot)?.store(empty.pack(), Ordering::Release);
        Ok(())
    }

    /// A slot's endpoint, if it is active.
    pub(crate) fn view(&self, slot: Slot) -> Option<EndpointView> {
        let (head, value) = self.read(slot).ok()?;
        (head.flags & flag::ACTIVE != 0).then(|| view(slot, head, &value))
    }

    /// The endpoints that are active.
    pub(crate) fn active(&self) -> impl Iterator<Item = EndpointView> + '_ {
        (0..MAX_SLOTS).filter_map(|number| self.view(Slot(u16::try_from(number).ok()?)))
    }
}

impl Drop for Endpoints {
    fn drop(&mut self) {
        // SAFETY: our own mapping; no reference outlives `self`.
        if let Err(error) = unsafe { munmap(self.base.cast(), BYTES.get()) } {
            tracing::debug!(%error, "munmap of map ep");
        }
    }
}

/// The number after this one; 0 is never used again.
fn next(number: u32) -> u32 {
    number.wrapping_add(1).max(1)
}

fn flags(endpoint: &Endpoint) -> u8 {
    let bits = [
        (endpoint.isolated, flag::ISOLATED),
        (endpoint.deny == DenyAction::Reject, flag::REJECT),
        (endpoint.audit, flag::AUDIT),
        (endpoint.hosts_may_reach, flag::HOSTS_MAY_REACH),
        (endpoint.host_listed_only, flag::HOST_LISTED_ONLY),
    ];
    bits.iter().filter(|(set, _)| *set).fold(flag::ACTIVE, |flags, (_, bit)| flags | bit)
}

fn limits(Limited { ingress, egress }: Limited) -> u32 {
    let bit = |limited: bool, bit: u32| if limited { bit } else { 0 };
    bit(ingress, limited::INGRESS) | bit(egress, limited::EGRESS)
}

fn view(slot: Slot, head: Head, value: &weft_abi::Endpoint) -> EndpointView {
    let has = |bit| head.flags & bit != 0;
    EndpointView {
        endpoint: Endpoint {
            slot,
            ip: address(value.ip4),
            mac: Mac(value.mac),
            tag: Tag::new(value.tag),
            set: SetId(head.policy_set),
            isolated: has(flag::ISOLATED),
            hosts_may_reach: has(flag::HOSTS_MAY_REACH),
            host_listed_only: has(flag::HOST_LISTED_ONLY),
            deny: if has(flag::REJECT) { DenyAction::Reject } else { DenyAction::Drop },
            audit: has(flag::AUDIT),
            limited: Limited {
                ingress: value.limited & limited::INGRESS != 0,
                egress: value.limited & limited::EGRESS != 0,
            },
        },
        generation: head.generation,
        incarnation: value.incarnation,
    }
}
