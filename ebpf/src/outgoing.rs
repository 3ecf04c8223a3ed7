//! What a workload sends: it cannot pretend to be somebody else, and gets its tag.

use crate::counters::count;
use crate::denial::Refusal;
use crate::identity::{Identity, is_own_host};
use crate::known::{self, Flow, NONE};
use crate::local::{Local, has_vlan, mark};
use crate::packet::{ARP, IPV4, Packet, Part, ethernet, pull_headers, read_ipv4, tcp};
use crate::passage::Passage;
use crate::verdict::PASS;
use crate::{arp, conntrack, direct, fragment, icmp, offload, readdressed, shape};
use aya_ebpf::programs::TcContext;
use weft_abi::{INJECTED_MARK, Reason, direction::EGRESS, host_flag, proto};

/// The verdict.
#[inline(always)]
pub(crate) fn judge(ctx: &TcContext, packet: &mut Packet) -> Result<i32, Refusal> {
    match check(ctx, packet) {
        Ok(verdict) => {
            count(Reason::Passed);
            Ok(verdict)
        }
        Err(refusal) => Err(refusal.outgoing()),
    }
}

#[inline(always)]
fn check(ctx: &TcContext, packet: &mut Packet) -> Result<i32, Refusal> {
    let local = Local::of(ctx)?;
    packet.mark = mark(ctx);
    packet.source_tag = local.endpoint.tag;
    pull_headers(ctx);
    let frame = ethernet(ctx)?;
    let (source, destination) = (frame.source, frame.destination);
    if !arp::same_mac(&source, &local.endpoint.mac) {
        return Err(Reason::SpoofedMac.into());
    }
    check_receiver(&local, &destination, packet.mark)?;
    let mut flow = NONE;
    match frame.kind {
        _ if has_vlan(ctx) => return Err(Reason::EtherType.into()),
        ARP => {
            offload::check_finished(ctx)?;
            arp::check_sent(ctx, local.endpoint)?;
        }
        IPV4 if packet.mark == INJECTED_MARK => {
            read_ipv4(ctx, packet)?;
            offload::check_answer(ctx, packet)?;
            check_answer(&local, packet)?;
        }
        IPV4 => {
            read_ipv4(ctx, packet)?;
            offload::check(ctx, packet)?;
            check_addresses(&local, packet, destination[0].to_ne_bytes()[0])?;
            check_services(&local, packet)?;
            flow = check_flow(ctx, &local, packet)?;
        }
        _ => return Err(Reason::EtherType.into()),
    }
    ctx.set_mark(local.mark());
    // SAFETY: an element of a map, as in `conntrack`.
    let direct = !flow.is_null() && known::goes_direct(unsafe { &*flow });
    // A reset of ours follows the flow that it ends.
    if direct || packet.mark == INJECTED_MARK {
        let verdict = direct::send(ctx, &local, packet, flow);
        if verdict != PASS {
            return Ok(verdict);
        }
    }
    // SAFETY: as above.
    if flow.is_null() || !known::is_answered(unsafe { &*flow }) {
        readdressed::note(ctx, packet);
    }
    Ok(shape::onward(&local))
}

/// Frames go to the gateway, or to everybody, of whom the bridge floods none: between its ports the bridge only
/// forwards what netfilter readdressed (br_netfilter with NAT), thus after this look. Our own answers go back to
/// whoever sent what was denied.
#[inline(always)]
fn check_receiver(local: &Local, receiver: &[u16; 3], mark: u32) -> Result<(), Reason> {
    let [a, b, c, d] = local.host.gateway.to_ne_bytes();
    let group = receiver[0].to_ne_bytes()[0] & 1 != 0;
    if group || mark == INJECTED_MARK || arp::same_mac(receiver, &[0xaa, 0xaa, a, b, c, d]) {
        return Ok(());
    }
    Err(Reason::WrongDestination)
}

/// Our own answer to a packet that was denied on its way to the workload. A workload with CAP_BPF can
/// forge the mark (`bpf_redirect_peer` keeps it): with it, nothing passes but what we send.
#[inline(always)]
fn check_answer(local: &Local, packet: &Packet) -> Result<(), Reason> {
    if packet.source != local.endpoint.ip4 {
        return Err(Reason::SpoofedIp);
    }
    let reset = packet.proto == proto::TCP && packet.flags & tcp::RST != 0;
    let unreachable = packet.proto == proto::ICMP && packet.flags == 3 && packet.icmp_code == 3;
    if reset || unreachable { Ok(()) } else { Err(Reason::Malformed) }
}

#[inline(always)]
fn check_addresses(local: &Local, packet: &Packet, first_byte: u8) -> Result<(), Reason> {
    if packet.source != local.endpoint.ip4 {
        return Err(Reason::SpoofedIp);
    }
    let destination = u32::from_be(packet.destination);
    if first_byte & 1 != 0 || destination >> 28 == 0xe || destination == u32::MAX {
        return Err(Reason::Multicast);
    }
    // The bridge takes 127.0.0.0/8 for the host's own, so that answers find back to it through mapped ports.
    if matches!(destination >> 24, 0 | 127 | 240..=255) {
        return Err(Reason::Martian);
    }
    // Source routes, and whatever else asks routers for something: nobody needs it, and hosts differ in what they do.
    if packet.header != 20 {
        return Err(Reason::IpOptions);
    }
    let link_local = destination >> 16 == 0xa9fe;
    if link_local && local.host.flags & host_flag::LINK_LOCAL == 0 && !is_own_host(local.host, packet.destination) {
        return Err(Reason::LinkLocal);
    }
    Ok(())
}

/// Services that a workload must not offer or use. A later fragment has no ports, and follows one
/// that was checked.
#[inline(always)]
fn check_services(local: &Local, packet: &Packet) -> Result<(), Reason> {
    if packet.proto != proto::UDP || packet.part == Part::Later {
        return Ok(());
    }
    if packet.source_port == 67_u16.to_be() {
        return Err(Reason::RogueServer);
    }
    if packet.destination_port == local.host.vxlan_port {
        return Err(Reason::WorkloadVxlan);
    }
    Ok(())
}

#[inline(always)]
fn check_flow(ctx: &TcContext, local: &Local, packet: &Packet) -> Result<Flow, Refusal> {
    if packet.part == Part::Later {
        fragment::follow(local, packet, EGRESS)?;
        return Ok(NONE);
    }
    if packet.is_icmp_error() {
        let flow = icmp::quoted(ctx, local, packet, EGRESS);
        // SAFETY: an element of a map, as in `conntrack`.
        if !flow.is_null() && known::is_current(local, unsafe { &*flow }) {
            return Ok(flow);
        }
    }
    let flow = conntrack::pass(&Passage { local, packet, direction: EGRESS, identity: Identity::UNKNOWN })?;
    if packet.part == Part::First {
        fragment::remember(local, packet, EGRESS)?;
    }
    Ok(flow)
}
