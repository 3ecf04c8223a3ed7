//! Our nftables rules: masquerade, and what the programs on the devices cannot see: what NAT makes of
//! a packet, and by which other ways packets get into the host.

use super::{NftSeen, Placement, Workload};
use crate::op::{NftChain, NftElement, NftTable};
use crate::policy::Protocol;
use crate::ports::PortMapping;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

mod ports;

/// Ports that lead to workloads by their addresses, as a table shows them.
#[must_use]
pub fn mapped_ports_seen(seen: &NftSeen) -> BTreeMap<Ipv4Addr, Vec<PortMapping>> {
    ports::seen(seen)
}

/// The elements that lead a workload's mapped ports to it.
#[must_use]
pub fn port_elements(workload: &Workload) -> Vec<NftElement> {
    ports::elements(workload)
}

/// A workload's mapped ports that a table does not lead to it, there or back; `None`: there is no table.
#[must_use]
pub fn mapped_ports_astray(seen: Option<&NftSeen>, workload: &Workload) -> Vec<PortMapping> {
    ports::astray(seen, workload)
}

/// Connections in the host's conntrack that one workload may have opened at a time. The table is
/// everybody's: once it is full, the host itself opens no connection any more.
const CONNECTIONS_PER_WORKLOAD: u32 = 16_384;

/// The table.
pub(super) fn table<'a>(placement: &Placement, workloads: impl Iterator<Item = &'a Workload>) -> NftTable {
    let port = placement.port;
    let mut chains = vec![
        NftChain {
            name: "raw_output",
            hook: "type filter hook output priority -300; policy accept;",
            // The kernel copies the inner packet's mark to the outer one, where somebody else's rule
            // (kube-proxy's `mark & 0x4000`) would act on it.
            rules: vec![format!("udp dport {port} meta mark set 0 notrack")],
        },
        NftChain {
            name: "raw_prerouting",
            hook: "type filter hook prerouting priority -300; policy accept;",
            rules: vec![
                plain_overlay(placement),
                // Only answers to the host's own processes are readdressed to 127.0.0.1, later.
                format!("ip daddr 127.0.0.0/8 iifname \"{}\" drop", placement.bridge),
                format!("udp dport {port} notrack"),
            ],
        },
        NftChain {
            name: "workloads",
            // After other people's DNAT.
            hook: "type filter hook prerouting priority -50; policy accept;",
            rules: [vec![plain_overlay(placement)], self::workloads(placement)].concat(),
        },
        NftChain {
            name: "late_input",
            hook: "type filter hook input priority 300; policy accept;",
            rules: input(placement),
        },
    ];
    chains.extend(ports::chains(placement));
    if placement.masquerade {
        chains.push(masquerade(placement));
    }
    NftTable { chains, sets: ports::sets(workloads) }
}

/// Addresses come first here and below: the kernel compares them in place, while a device's name is copied and hashed
/// for every packet that gets as far as that, and each of the tunnel's would.
///
/// Between addresses of the overlay nothing travels but through our devices: a plain packet from
/// elsewhere has a forged source, and replies are not judged by identity.
fn plain_overlay(placement: &Placement) -> String {
    let Placement { bridge, vxlan, network, .. } = placement;
    let all = network.network();
    format!("ip saddr {all} ip daddr {all} iifname != {{ \"lo\", \"{bridge}\", \"{vxlan}\" }} drop")
}

/// What workloads send. The programs have seen the address that was asked for; a service may have made
/// a host's VXLAN port of it, and that host takes what comes from here for ours, tag and all.
fn workloads(placement: &Placement) -> Vec<String> {
    let Placement { bridge, port, .. } = placement;
    vec![
        format!("iifname != \"{bridge}\" accept"),
        format!("udp dport {port} drop"),
        format!("ct state new meter connections {{ ip saddr ct count over {CONNECTIONS_PER_WORKLOAD} }} drop"),
    ]
}

/// What reaches the host itself.
fn input(placement: &Placement) -> Vec<String> {
    let Placement { underlay_index, port, vni, .. } = placement;
    let mut rules = vec![
        // Only the underlay's device has the program that knows our peers. The VNI stands at bit 96 from
        // the UDP header on; other VXLANs on the same port are not ours to drop.
        format!("iif != {underlay_index} udp dport {port} @th,96,24 {vni} drop"),
        // Late, because the mark a packet has here is what a VXLAN packet without a tag would pass on to
        // its inner packet.
        format!("udp dport {port} meta mark set 0"),
    ];
    rules.extend(closed_host(placement));
    rules
}

/// A closed host is closed by whatever address it is reached, for workloads of other hosts too: a
/// firewall on the underlay does not see into VXLAN. Hosts' own addresses end in zeros.
fn closed_host(placement: &Placement) -> Vec<String> {
    let Placement { bridge, vxlan, subnet, .. } = placement;
    let Some(services) = &placement.host_services else { return Vec::new() };
    let ours = format!("iifname {{ \"{bridge}\", \"{vxlan}\" }}");
    let host_bits = !subnet.network().mask();
    let open = services.iter().map(|(protocol, port)| {
        let protocol = match protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        format!("{ours} {protocol} dport {port} accept")
    });
    let closed = format!("{ours} ct state != {{ established, related }} ip saddr & {host_bits} != 0.0.0.0 reject");
    open.chain([closed]).collect()
}

/// Masquerade for what leaves the overlay and nothing else.
fn masquerade(placement: &Placement) -> NftChain {
    let (own, all) = (placement.subnet, placement.network.network());
    NftChain {
        name: "postrouting",
        hook: "type nat hook postrouting priority 100; policy accept;",
        rules: vec![format!(
            "ip saddr {own} ip daddr != {all} ip daddr != 224.0.0.0/4 meta mark & 0x00004000 == 0x00000000 masquerade fully-random"
        )],
    }
}
