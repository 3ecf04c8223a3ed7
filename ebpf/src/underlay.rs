//! The underlay: VXLAN of our network comes from peers only, each for its own subnet. The sender's
//! outer address is not to be seen behind the VXLAN device, so it is checked in front of it.

use crate::counters::count;
use crate::denial::Refusal;
use crate::identity::peer_of;
use crate::local::{host, mark};
use crate::packet::{ETH_LEN, Ethernet, IPV4, Ipv4, Packet, read};
use aya_ebpf::programs::TcContext;
use weft_abi::{Host, Reason, proto};

/// UDP and what follows it in a VXLAN packet (RFC 7348), up to the inner IP header.
#[repr(C, packed(2))]
#[derive(Clone, Copy)]
struct Vxlan {
    source_port: u16,
    destination_port: u16,
    length: u16,
    checksum: u16,
    flags: u32,
    vni: u32,
    frame: Ethernet,
}

/// The bit that says that the VNI is valid.
const HAS_VNI: u32 = 0x0800_0000_u32.to_be();

#[inline(always)]
pub(crate) fn receive(ctx: &TcContext, packet: &mut Packet) -> Result<(), Refusal> {
    count(check(ctx, packet)?);
    Ok(())
}

/// What of the packet passes: our VXLAN, or what is not ours.
#[inline(always)]
fn check(ctx: &TcContext, packet: &mut Packet) -> Result<Reason, Refusal> {
    // Whatever cannot be read as our VXLAN is other people's traffic, and not ours to drop.
    let Some(outer) = outer_udp(ctx) else { return Ok(Reason::Foreign) };
    let host = host()?;
    let offset = ETH_LEN + usize::from(outer.version_ihl & 0x0f) * 4;
    let fragment = u16::from_be(outer.fragment);
    if fragment & 0x1fff != 0 {
        // Its first fragment is dropped below, if it is VXLAN's.
        return Ok(Reason::Foreign);
    }
    let Ok(ports) = read::<[u16; 2]>(ctx, offset) else { return Ok(Reason::Foreign) };
    if ports[1] != host.vxlan_port {
        return Ok(Reason::Foreign);
    }
    packet.mark = mark(ctx);
    packet.source = outer.source;
    packet.destination = outer.destination;
    packet.source_port = ports[0];
    packet.destination_port = ports[1];
    packet.proto = proto::UDP;
    packet.length = u16::from_be(outer.length);
    if fragment & 0x2000 != 0 {
        return Err(Reason::Fragment.into());
    }
    inner(ctx, host, &outer, offset)
}

/// The outer header, if it is IPv4 with UDP.
#[inline(always)]
fn outer_udp(ctx: &TcContext) -> Option<Ipv4> {
    // A driver may leave even the IP header in fragments of the skb.
    let frame = read::<Ethernet>(ctx, 0).ok()?;
    if frame.kind != IPV4 {
        return None;
    }
    let ip = read::<Ipv4>(ctx, ETH_LEN).ok()?;
    (ip.proto == proto::UDP).then_some(ip)
}

#[inline(always)]
fn inner(ctx: &TcContext, host: &Host, outer: &Ipv4, offset: usize) -> Result<Reason, Refusal> {
    let vxlan = read::<Vxlan>(ctx, offset)?;
    if vxlan.flags & HAS_VNI == 0 || u32::from_be(vxlan.vni) >> 8 != host.vni {
        return Ok(Reason::Foreign);
    }
    if vxlan.frame.kind != IPV4 {
        return Err(Reason::EtherType.into());
    }
    let ip = read::<Ipv4>(ctx, offset + size_of::<Vxlan>())?;
    match peer_of(ip.source) {
        Some(peer) if peer.underlay == outer.source && peer.underlay != 0 => Ok(Reason::Carried),
        Some(_) => Err(Reason::InnerSource.into()),
        None => Err(Reason::NotAPeer.into()),
    }
}
