//! ICMP errors: they pass if what they quote is a packet of a flow that may pass itself.

use crate::identity::{in_overlay, is_own_host, peer_of};
use crate::known::{self, Flow, NONE};
use crate::local::Local;
use crate::packet::{ETH_LEN, Ipv4, Packet, copy};
use aya_ebpf::programs::TcContext;
use weft_abi::{ConnKey4, direction, proto};

/// An IPv4 header without options and the eight bytes after it, as errors quote them (RFC 792).
#[repr(C, packed(2))]
#[derive(Clone, Copy)]
struct Quote {
    ip: Ipv4,
    transport: [u16; 4],
}

/// Whether the error in `packet`, going in `direction`, quotes a flow of the endpoint that may pass as it is.
#[inline(always)]
pub(crate) fn quotes_known_flow(ctx: &TcContext, local: &Local, packet: &Packet, direction: u8) -> bool {
    let flow = quoted(ctx, local, packet, direction);
    // SAFETY: an element of a map, as in `conntrack`.
    !flow.is_null() && known::is_current(local, unsafe { &*flow })
}

/// The flow of the endpoint that the error in `packet`, going in `direction`, quotes, if its sender may tell of it.
#[inline(always)]
pub(crate) fn quoted(ctx: &TcContext, local: &Local, packet: &Packet, direction: u8) -> Flow {
    let offset = ETH_LEN as u32 + u32::from(packet.header) + 8;
    // Pages behind an skb's own memory may be the sender's still: what is judged is moved out of them.
    if ctx.pull_data(offset + size_of::<Quote>() as u32).is_err() {
        return NONE;
    }
    let Ok(quote) = copy::<Quote>(ctx, offset) else { return NONE };
    let ip = quote.ip;
    // A quote with IP options is judged like any packet: nobody sends such packets any more.
    if ip.version_ihl != 0x45 {
        return NONE;
    }
    let [first, second, third, _] = quote.transport;
    let (source_port, destination_port) = match ip.proto {
        proto::TCP | proto::UDP | proto::SCTP => (first, second),
        proto::ICMP => (third, third),
        _ => (0, 0),
    };
    // An error towards the workload quotes what the workload sent, and the other way round.
    let (own, remote, local_port, remote_port) = if direction == direction::INGRESS {
        (ip.source, ip.destination, source_port, destination_port)
    } else {
        (ip.destination, ip.source, destination_port, source_port)
    };
    if own != local.endpoint.ip4 || !may_tell(local, packet, remote, direction) {
        return NONE;
    }
    known::look(
        local,
        &ConnKey4 { slot: local.slot, remote, remote_port, local_port, proto: ip.proto, reserved: [0; 3] },
    )
}

/// Whether somebody who may know of a flow tells of it: a workload only of its own, hosts and routers,
/// who are on its way, of any.
#[inline(always)]
fn may_tell(local: &Local, packet: &Packet, remote: u32, direction: u8) -> bool {
    if direction == direction::EGRESS {
        return packet.destination == remote;
    }
    let sender = packet.source;
    let host = || {
        // A host's two addresses in the overlay are its subnet's first.
        is_own_host(local.host, sender)
            || peer_of(sender).is_some_and(|peer| u32::from_be(sender).wrapping_sub(u32::from_be(peer.vtep)) <= 1)
    };
    sender == remote || !in_overlay(local.host, sender) || (packet.source_tag == 0 && host())
}
