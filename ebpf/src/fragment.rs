//! Fragments: only the first has ports, so it is judged, and the others follow it or are dropped.

use crate::clock::now;
use crate::counters::count;
use crate::denial::Refusal;
use crate::local::Local;
use crate::maps::FRAG4;
use crate::packet::Packet;
use crate::share;
use weft_abi::{Frag, FragKey4, PIECES_WINDOW, Reason, capacity, direction, proto};

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
pub(crate) fn remember(local: &Local, packet: &Packet, direction: u8) -> Result<(), Refusal> {
    let mut value =
        Frag { generation: local.head.generation, incarnation: local.endpoint.incarnation, next: 0, charged: 0 };
    if direction == direction::EGRESS {
        charge(local, packet, &mut value)?;
    }
    if FRAG4.insert(key(local, packet, direction), &value, 0).is_err() {
        count(Reason::ConntrackFull);
    }
    Ok(())
}

/// Passes a later fragment whose first one passed under the policy in force.
#[inline(always)]
pub(crate) fn follow(local: &Local, packet: &Packet, direction: u8) -> Result<(), Refusal> {
    let Some(value) = FRAG4.get_ptr_mut(key(local, packet, direction)) else { return Err(Reason::Fragment.into()) };
    // SAFETY: LRU elements are preallocated: a recycled one has another datagram's stamps, of an
    // endpoint of the same generation by chance at most.
    let value = unsafe { &mut *value };
    if value.generation != local.head.generation || value.incarnation != local.endpoint.incarnation {
        return Err(Reason::Fragment.into());
    }
    // Over a TCP header that was judged nothing is laid.
    if packet.proto == proto::TCP && packet.offset() < TCP_HEADER {
        return Err(Reason::Fragment.into());
    }
    if direction == direction::EGRESS { charge(local, packet, value) } else { Ok(()) }
}

/// Bytes of a TCP header without options.
const TCP_HEADER: u32 = 20;

/// Bytes of kernel memory that a piece takes besides its own, or little more (an skb and its data's end).
const OVERHEAD: u32 = 768;

/// The host puts pieces together before it routes them, in memory that is everybody's. A slot pays for its pieces
/// until their datagram is whole. Only pieces in their order make it so here: others are paid for until the
/// window ends, and so are those that are laid over others, which the kernel throws away.
#[inline(always)]
fn charge(local: &Local, packet: &Packet, value: &mut Frag) -> Result<(), Refusal> {
    let Some(share) = share::of(local.slot) else { return Err(Reason::FragmentShare.into()) };
    let window = now() / PIECES_WINDOW;
    // SAFETY: of a share.
    let pieces = unsafe { &raw mut (*share).pieces };
    let length = u32::from(packet.length).saturating_sub(packet.header.into());
    let cost = length + OVERHEAD;
    if share::count(pieces, window, cost.into()) > capacity::SHARE_PIECES.into() {
        share::count(pieces, window, -i64::from(cost));
        return Err(Reason::FragmentShare.into());
    }
    value.charged = value.charged.saturating_add(cost);
    if packet.offset() == value.next {
        value.next += length;
        if packet.is_last() {
            share::count(pieces, window, -i64::from(value.charged));
            // Paid back once.
            *value = Frag { next: 0, charged: 0, ..*value };
        }
    }
    Ok(())
}
