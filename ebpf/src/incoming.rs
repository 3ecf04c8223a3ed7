//! What reaches a workload.

use crate::counters::count;
use crate::denial::Refusal;
use crate::identity::{Identity, tag_of, through_mapped_port};
use crate::local::{Local, ingress_ifindex, mark};
use crate::packet::{ARP, IPV4, Packet, Part, ethernet, pull_headers, read_ipv4};
use crate::passage::Passage;
use crate::{arp, conntrack, fragment, icmp, readdressed};
use aya_ebpf::programs::TcContext;
use weft_abi::{INJECTED_MARK, Reason, direction::INGRESS};

#[inline(always)]
pub(crate) fn judge(ctx: &TcContext, packet: &mut Packet) -> Result<(), Refusal> {
    let local = Local::of(ctx)?;
    packet.mark = mark(ctx);
    packet.entered_as = readdressed::noted(ctx);
    if packet.mark == INJECTED_MARK {
        // Our own answer to a packet of the workload that was denied.
        count(Reason::Passed);
        return Ok(());
    }
    pull_headers(ctx);
    match ethernet(ctx)?.kind {
        ARP => arp::check_received(ctx, local.endpoint)?,
        IPV4 => {
            read_ipv4(ctx, packet)?;
            if packet.destination != local.endpoint.ip4 {
                return Err(Reason::WrongDestination.into());
            }
            let own_host = ingress_ifindex(ctx) == 0;
            let tag = if own_host { 0 } else { tag_of(local.host, packet.mark, packet.source) };
            packet.source_tag = tag;
            let mapped = !own_host && through_mapped_port(local.host, packet.mark, packet.source);
            check_flow(ctx, &local, packet, Identity { tag, own_host, mapped })?;
        }
        _ => return Err(Reason::EtherType.into()),
    }
    count(Reason::Passed);
    Ok(())
}

#[inline(always)]
fn check_flow(ctx: &TcContext, local: &Local, packet: &Packet, identity: Identity) -> Result<(), Refusal> {
    if packet.part == Part::Later {
        return fragment::follow(local, packet, INGRESS);
    }
    if packet.is_icmp_error() && icmp::quotes_known_flow(ctx, local, packet, INGRESS) {
        return Ok(());
    }
    let _known = conntrack::pass(&Passage { local, packet, direction: INGRESS, identity })?;
    if packet.part == Part::First {
        fragment::remember(local, packet, INGRESS)?;
    }
    Ok(())
}
