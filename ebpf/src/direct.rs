//! The way past the host's stack: what one workload sends to another of the same host goes straight into its
//! namespace (`bpf_redirect_peer`), judged for both ends here; what it sends to another host's goes to the VXLAN device
//! (`bpf_redirect_neigh`), and what comes from there into the workload's namespace.
//!
//! A flow is opened through the stack, and goes this way once it is answered, if both ends know it by the same
//! addresses and ports: then the host's NAT had nothing to do with it. What another host's workload knows is not to be
//! seen; there, packets that come out of the tunnel as the workload here knows them say the same. Of TCP all
//! goes this way from there on, or nothing any more. The host's conntrack saw a TCP handshake and takes what followed for
//! invalid if it met it again: even what the destination refuses, and the reset that tells of it, keep clear of it.

use crate::conntrack::{self, Arrival};
use crate::counters::count;
use crate::identity::{Identity, in_overlay, peer_of};
use crate::known::{self, Flow, NONE};
use crate::local::{Local, host};
use crate::packet::{Packet, Part};
use crate::passage::Passage;
use crate::verdict::PASS;
use crate::{icmp, readdressed};
use aya_ebpf::bindings::{
    __sk_buff, bpf_check_mtu_flags::BPF_MTU_CHK_SEGS, bpf_redir_neigh, bpf_redir_neigh__bindgen_ty_1,
};
use aya_ebpf::helpers::generated::{
    bpf_check_mtu, bpf_redirect, bpf_redirect_neigh, bpf_redirect_peer, bpf_skb_change_type, bpf_skb_store_bytes,
};
use aya_ebpf::programs::TcContext;
use weft_abi::{Conn, Reason, SLOT_IFINDEX_BASE, direction, proto};

/// Written by the loader before the programs are loaded, and never after: 1 where the kernel has `bpf_redirect_peer`
/// and the other helpers of this way.
#[unsafe(no_mangle)]
static REDIRECT_PEER: u32 = 1;

/// `PACKET_HOST` (linux/if_packet.h).
const PACKET_HOST: u32 = 0;
/// `AF_INET` (linux/socket.h).
const AF_INET: u32 = 2;
/// `-ENODEV` (asm-generic/errno-base.h).
const NO_DEVICE: i64 = -19;
/// In place of the sender's slot: the packet came out of the tunnel.
const TUNNEL: u32 = u32::MAX;

/// The verdict on a packet that passed its sender's judgement, as one of `flow` or as a reset of ours.
#[inline(always)]
pub(crate) fn send(ctx: &TcContext, local: &Local, packet: &Packet, flow: Flow) -> i32 {
    // SAFETY: the pointers are good for the call; the flow is a map's element, or null.
    unsafe { weft_direct(ctx.skb.skb, packet, local.slot, flow) }
}

/// The verdict on a packet that came out of the tunnel from its peer, with its tag.
#[inline(always)]
pub(crate) fn receive(ctx: &TcContext, packet: &Packet) -> i32 {
    // SAFETY: the pointer is good for the call.
    unsafe { weft_direct(ctx.skb.skb, packet, TUNNEL, NONE) }
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
    // SAFETY: a constant of ours; volatile, because the loader may have changed it since it was compiled.
    let can = unsafe { (&raw const REDIRECT_PEER).read_volatile() } != 0;
    let error = packet.is_icmp_error();
    if !can || packet.part != Part::Whole || !(matches!(packet.proto, proto::TCP | proto::UDP) || error) {
        return PASS;
    }
    let ctx = TcContext::new(skb);
    if sender == TUNNEL {
        return deliver(&ctx, packet, None).unwrap_or_else(|| {
            readdressed::note(&ctx, packet);
            PASS
        });
    }
    if packet.is_handshake() {
        // The handshake again.
        return PASS;
    }
    let Ok(from) = Local::at(sender) else { return PASS };
    if let Some(verdict) = deliver(&ctx, packet, Some(&from)).or_else(|| depart(&ctx, packet, &from, flow)) {
        return verdict;
    }
    if !flow.is_null() {
        // SAFETY: the caller's, and not null.
        conntrack::keep_in_stack(packet.proto, unsafe { &mut *flow });
    }
    PASS
}

/// To a workload of this host, from another one or out of the tunnel.
#[inline(always)]
fn deliver(ctx: &TcContext, packet: &Packet, from: Option<&Local>) -> Option<i32> {
    // Slots are counted from the subnet's first address, which is the host's own.
    let host = host().ok()?;
    let slot = u32::from_be(packet.destination).wrapping_sub(u32::from_be(host.vtep));
    let local = Local::at(slot).ok()?;
    let on =
        from.is_none_or(|from| from.slot != slot && conntrack::is_direct_on(from) && conntrack::is_direct_on(&local));
    if !on || local.endpoint.ip4 != packet.destination {
        return None;
    }
    let tag = if in_overlay(host, packet.source) { packet.source_tag } else { 0 };
    let identity = Identity { tag, ..Identity::UNKNOWN };
    let arrival = if packet.is_icmp_error() {
        tell(ctx, &local, packet)
    } else {
        let passage = Passage { local: &local, packet, direction: direction::INGRESS, identity };
        conntrack::arrive(&passage, from.is_none())
    };
    match arrival {
        Arrival::Unknown => None,
        // Nobody asks any more by which addresses it came.
        Arrival::Stays => from.is_none().then_some(PASS),
        arrival => readdress(ctx, &local).then(|| redirect(ctx, SLOT_IFINDEX_BASE.wrapping_add(slot), arrival)),
    }
}

/// What becomes of an error that quotes a flow of its destination: it goes the way of the flow. The host's conntrack
/// does not know that one any more, and takes what tells of it for invalid.
#[inline(always)]
fn tell(ctx: &TcContext, local: &Local, packet: &Packet) -> Arrival {
    let flow = icmp::quoted(ctx, local, packet, direction::INGRESS);
    // SAFETY: an element of a map, as in `conntrack`.
    let goes = |conn: &Conn| known::goes_direct(conn) && known::is_current(local, conn);
    if !flow.is_null() && goes(unsafe { &*flow }) && conntrack::is_direct_on(local) {
        Arrival::Taken
    } else {
        Arrival::Unknown
    }
}

/// To the VXLAN device, as the route to the peer's subnet would lead it there. What does not fit into the tunnel the
/// host has to say so of.
#[inline(always)]
fn depart(ctx: &TcContext, packet: &Packet, from: &Local, flow: Flow) -> Option<i32> {
    let flow = if !flow.is_null() {
        flow
    } else if packet.is_icmp_error() {
        icmp::quoted(ctx, from, packet, direction::EGRESS)
    } else {
        known::flow_of(&Passage { local: from, packet, direction: direction::EGRESS, identity: Identity::UNKNOWN })
    };
    // SAFETY: an element of a map, as in `conntrack`, or the caller's.
    if flow.is_null() || !known::goes_by_tunnel(unsafe { &*flow }) || !conntrack::is_direct_on(from) {
        return None;
    }
    let ifindex = from.host.vxlan_ifindex;
    let peer = peer_of(packet.destination).filter(|peer| peer.underlay != 0)?;
    if ifindex == 0 || !fits(ctx, ifindex) {
        return None;
    }
    count(Reason::Direct);
    let address = bpf_redir_neigh__bindgen_ty_1 { ipv6_nh: [peer.vtep, 0, 0, 0] };
    let mut next = bpf_redir_neigh { nh_family: AF_INET, __bindgen_anon_1: address };
    // SAFETY: reads `next`, and notes where the skb goes.
    Some(unsafe { bpf_redirect_neigh(ifindex, &raw mut next, size_of_val(&next) as i32, 0) as i32 })
}

/// Whether the packet, or each segment of it, fits a device: what cannot be measured is the host's to look at. A device
/// that is gone will be back: what is sent to it meanwhile is lost, as nothing may take another way.
#[inline(always)]
fn fits(ctx: &TcContext, ifindex: u32) -> bool {
    let mut mtu = 0;
    // SAFETY: looks at the skb's length and writes the device's MTU.
    let checked = unsafe { bpf_check_mtu(ctx.skb.skb.cast(), ifindex, &raw mut mtu, 0, u64::from(BPF_MTU_CHK_SEGS)) };
    checked == 0 || checked == NO_DEVICE
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
