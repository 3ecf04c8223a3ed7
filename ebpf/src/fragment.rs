//! Fragments: only the first has ports, so it is judged, and the others follow it or are dropped.

use crate::denial::{Refusal, count};
use crate::local::Local;
use crate::maps::FRAG4;
use crate::packet::Packet;
use weft_abi::{Frag, FragKey4, Reason};

#[inline(always)]
fn key(local: &Local, packet: &Packet, direction: u8) -> FragKey4 {
    FragKey4 {
        slot: local.slot,
        source: packet.source,
        destination: packet.destination,
        id: packet.id,
        proto: packet.proto,
        direction,
    }
}

/// Remembers a first fragment that passed.
#[inline(always)]
pub(crate) fn remember(local: &Local, packet: &Packet, direction: u8) {
    let value = Frag { generation: local.head.generation, incarnation: local.endpoint.incarnation };
    if FRAG4.insert(key(local, packet, direction), &value, 0).is_err() {
        count(Reason::ConntrackFull);
    }
}

/// Passes a later fragment whose first one passed under the policy in force.
#[inline(always)]
pub(crate) fn follow(local: &Local, packet: &Packet, direction: u8) -> Result<(), Refusal> {
    // SAFETY: LRU elements are preallocated: a recycled one has another datagram's stamps, of an
    // endpoint of the same generation by chance at most.
    let passed = match unsafe { FRAG4.get(key(local, packet, direction)) } {
        Some(value) => value.generation == local.head.generation && value.incarnation == local.endpoint.incarnation,
        None => false,
    };
    if passed { Ok(()) } else { Err(Reason::Fragment.into()) }
}
