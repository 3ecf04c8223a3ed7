//! The VXLAN device: the tag goes from the skb mark into the GBP header and back. There the kernel
//! takes the mark's low 16 bits for the tag; bits above reach the wire as GBP flags, so all 32 are
//! always written.

use crate::counters::count;
use crate::denial::Refusal;
use crate::identity::{peer_of, tag_of};
use crate::local::{host, ingress_ifindex, mark};
use crate::packet::{IPV4, Packet, ethernet, ipv4, pull_headers, read_ipv4};
use aya_ebpf::programs::TcContext;
use weft_abi::{Reason, peer_flag};

/// Egress: a tag for peers that speak GBP, nothing for the others. A device without GBP drops
/// packets that carry one.
#[inline(always)]
pub(crate) fn send(ctx: &TcContext) {
    ctx.set_mark(tag_to_send(ctx).unwrap_or(0).into());
    count(Reason::Carried);
}

#[inline(always)]
fn tag_to_send(ctx: &TcContext) -> Result<u16, Reason> {
    let host = host()?;
    pull_headers(ctx);
    // What the host itself sends has no tag, whatever mark other software gave it.
    if ethernet(ctx)?.kind != IPV4 || ingress_ifindex(ctx) == 0 {
        return Ok(0);
    }
    let ip = ipv4(ctx)?;
    match peer_of(ip.destination) {
        Some(peer) if peer.flags & peer_flag::GBP != 0 => Ok(tag_of(host, mark(ctx), ip.source)),
        _ => Ok(0),
    }
}

/// Ingress: a tag counts only from a peer that speaks GBP.
#[inline(always)]
pub(crate) fn receive(ctx: &TcContext, packet: &mut Packet) -> Result<(), Refusal> {
    let host = host()?;
    packet.mark = mark(ctx);
    pull_headers(ctx);
    if ethernet(ctx)?.kind != IPV4 {
        return Err(Reason::EtherType.into());
    }
    read_ipv4(ctx, packet)?;
    // An underlay address of 0 marks our own subnet: nobody sends from it through the tunnel.
    let peer = match peer_of(packet.source) {
        Some(peer) if peer.underlay != 0 => peer,
        _ => return Err(Reason::InnerSource.into()),
    };
    let tag = if peer.flags & peer_flag::GBP != 0 { packet.mark & 0xffff } else { 0 };
    packet.source_tag = tag as u16;
    ctx.set_mark(tag << (host.mark_shift & 31));
    count(Reason::Carried);
    Ok(())
}
