//! The way past the host's stack: what one workload sends to another of the same host goes straight into its
//! namespace (`bpf_redirect_peer`), judged for both ends here.
//!
//! A flow is opened through the stack, and goes this way once it is answered, if both ends know it by the same
//! addresses and ports: then the host's NAT had nothing to do with it. From there on all of it goes this way, or none
//! of it any more. The host's conntrack saw a TCP handshake and takes what followed for invalid if it met it again:
//! even what the destination refuses, and the reset that tells of it, keep clear of it.

use crate::conntrack::{self, Arrival, Flow, Passage};
use crate::denial::count;
use crate::identity::Identity;
use crate::local::Local;
use crate::packet::{Packet, Part, tcp};
use crate::programs::PASS;
use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::{bpf_redirect, bpf_redirect_peer, bpf_skb_change_type, bpf_skb_store_bytes};
use aya_ebpf::programs::TcContext;
use weft_abi::{Conn, Reason, SLOT_IFINDEX_BASE, direction::INGRESS, host_flag, proto};

/// Written by the loader before the programs are loaded, and never after: 1 where the kernel has `bpf_redirect_peer`.
#[unsafe(no_mangle)]
static REDIRECT_PEER: u32 = 1;

/// `PACKET_HOST` (linux/if_packet.h).
const PACKET_HOST: u32 = 0;

/// The verdict on a packet that passed its sender's judgement, as one of `flow` or as a reset of ours.
#[inline(always)]
pub(crate) fn send(ctx: &TcContext, local: &Local, packet: &Packet, flow: Flow) -> i32 {
    // SAFETY: the pointers are good for the call; the flow is a map's element, or null.
    unsafe { weft_direct(ctx.skb.skb, packet, local.slot, flow) }
}

/// A function of its own for the verifier (see [`crate::denial`]), and for its stack.
///
/// # Safety
/// `packet` must be readable, `flow` writable or null.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn weft_direct(skb: *mut __sk_buff, packet: *const Packet, sender: u32, flow: *mut Conn) -> i32 {
    if packet.is_null() {
        return PASS;
    }
    // SAFETY: the caller's, and not null.
    let packet = unsafe { &*packet };
    if packet.proto == proto::TCP && packet.flags & tcp::SYN != 0 {
        // The handshake again.
        return PASS;
    }
    if let Some(verdict) = deliver(&TcContext::new(skb), packet, sender) {
        return verdict;
    }
    // The host's conntrack has windows for TCP only: a datagram may take either way.
    if packet.proto == proto::TCP && !flow.is_null() {
        // SAFETY: the caller's, and not null.
        conntrack::keep_in_stack(unsafe { &mut *flow });
    }
    PASS
}

#[inline(always)]
fn deliver(ctx: &TcContext, packet: &Packet, sender: u32) -> Option<i32> {
    // SAFETY: a constant of ours; volatile, because the loader may have changed it since it was compiled.
    let can = unsafe { (&raw const REDIRECT_PEER).read_volatile() } != 0;
    if !can || packet.part != Part::Whole || !matches!(packet.proto, proto::TCP | proto::UDP) {
        return None;
    }
    let from = Local::at(sender).ok()?;
    // Slots are counted from the subnet's first address, which is the host's own.
    let slot = u32::from_be(packet.destination).wrapping_sub(u32::from_be(from.host.vtep));
    let local = Local::at(slot).ok()?;
    let on = local.host.flags & host_flag::DIRECT != 0 && from.endpoint.limited | local.endpoint.limited == 0;
    if !on || slot == sender || local.endpoint.ip4 != packet.destination {
        return None;
    }
    let identity = Identity { tag: packet.source_tag, ..Identity::UNKNOWN };
    let arrival = conntrack::arrive(&Passage { local: &local, packet, direction: INGRESS, identity });
    if arrival == Arrival::Unknown || !readdress(ctx, &local) {
        return None;
    }
    Some(redirect(ctx, SLOT_IFINDEX_BASE.wrapping_add(slot), arrival))
}

/// Gives the frame the addresses it would have had behind the bridge. Kernels before 6.14 keep the packet type
/// that the frame had by the old ones: somebody else's.
#[inline(always)]
fn readdress(ctx: &TcContext, local: &Local) -> bool {
    let [a, b, c, d, e, f] = local.endpoint.mac;
    let [g, h, i, j] = local.host.gateway.to_ne_bytes();
    let addresses = [a, b, c, d, e, f, 0xaa, 0xaa, g, h, i, j];
    let skb = ctx.skb.skb;
    // SAFETY: writes twelve initialised bytes over the frame's addresses, or fails.
    unsafe {
        bpf_skb_store_bytes(skb, 0, addresses.as_ptr().cast(), size_of_val(&addresses) as u32, 0) == 0
            && bpf_skb_change_type(skb, PACKET_HOST) == 0
    }
}

/// Into the namespace behind a veth, or, where its program has to look, out through it.
#[inline(always)]
fn redirect(ctx: &TcContext, ifindex: u32, arrival: Arrival) -> i32 {
    if arrival == Arrival::Doubtful {
        // SAFETY: only notes where the skb goes.
        return unsafe { bpf_redirect(ifindex, 0) as i32 };
    }
    count(Reason::Passed);
    count(Reason::Direct);
    // Marks are the host's own affair.
    ctx.set_mark(0);
    // SAFETY: as above.
    unsafe { bpf_redirect_peer(ifindex, 0) as i32 }
}
