//! Whether the host's NAT has changed a packet on its way through the stack. Who lets it in notes by which addresses and
//! ports it came, in `tc_index`: the stack carries that along and uses it for nothing (only the queueing disciplines
//! GRED and DSMARK ever did). Who sees it last compares.

use crate::packet::Packet;
use aya_ebpf::programs::TcContext;

/// Nothing was noted, or others have overwritten it (a clsact program of theirs that returns `TC_ACT_OK`): then
/// nothing is said of the packet.
const NOTHING: u16 = 0;

/// Notes how the packet entered the stack.
#[inline(always)]
pub(crate) fn note(ctx: &TcContext, packet: &Packet) {
    // SAFETY: the context is valid while its program runs, and this field is a program's to write.
    unsafe { (*ctx.skb.skb).tc_index = fingerprint(packet).into() }
}

/// What was noted of a packet.
#[inline(always)]
pub(crate) fn noted(ctx: &TcContext) -> u16 {
    // SAFETY: as above.
    unsafe { (*ctx.skb.skb).tc_index as u16 }
}

/// Whether the packet's addresses or ports are other ones than when it entered the stack.
#[inline(always)]
pub(crate) fn is(packet: &Packet) -> bool {
    packet.entered_as != NOTHING && packet.entered_as != fingerprint(packet)
}

/// Of addresses and ports, never [`NOTHING`]. One in 65,536 changes goes unnoticed. Who sends can choose such ones, for
/// flows of its own.
#[inline(always)]
fn fingerprint(packet: &Packet) -> u16 {
    // Odd numbers without a pattern, so that what is the same in two fields does not cancel out.
    let ports = u32::from(packet.source_port) << 16 | u32::from(packet.destination_port);
    let mixed = packet.source.wrapping_mul(0x9e37_79b1)
        ^ packet.destination.wrapping_mul(0x85eb_ca77)
        ^ ports.wrapping_mul(0xc2b2_ae3d);
    let folded = (mixed >> 16) as u16 ^ mixed as u16;
    if folded == NOTHING { 1 } else { folded }
}
