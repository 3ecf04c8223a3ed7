//! Mapped ports: destination NAT from the host's ports to workloads', by look-ups in maps, so that a mapping is a
//! few elements and no rule. A mark tells the programs which packets came that way.

use crate::op::{NftChain, NftElement, NftSet};
use crate::overlay::{NftSeen, Placement, Workload};
use crate::policy::Protocol;
use crate::ports::{PortMapping, mapped_mark};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// Where a port leads that is mapped at all addresses of the host.
const PORTS: NftSet = set("ports", "inet_proto . inet_service : ipv4_addr . inet_service");
/// Where a port leads that is mapped at one address.
const PORTS_AT: NftSet = set("ports_at", "ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service");
/// The same the other way round: the port asked for, and where such a packet goes now.
const ARRIVALS: NftSet = set("arrivals", "inet_service . inet_proto . ipv4_addr . inet_service");
/// The same with the address asked for in front.
const ARRIVALS_AT: NftSet = set("arrivals_at", "ipv4_addr . inet_service . inet_proto . ipv4_addr . inet_service");
/// Workloads with mapped ports, each with itself.
const HAIRPIN: NftSet = set("hairpin", "ipv4_addr . ipv4_addr");

const fn set(name: &'static str, kind: &'static str) -> NftSet {
    NftSet { name, kind, elements: BTreeSet::new() }
}

/// See [`super::port_elements`].
pub(super) fn elements(workload: &Workload) -> Vec<NftElement> {
    let hairpin = (!workload.ports.is_empty()).then(|| hairpin(workload));
    workload.ports.iter().flat_map(|mapping| mapping_elements(workload, mapping)).chain(hairpin).collect()
}

fn mapping_elements(workload: &Workload, mapping: &PortMapping) -> [NftElement; 2] {
    let PortMapping { protocol, host_ip, host_port, container_port } = mapping;
    let to = format!("{} . {container_port}", workload.ip);
    let (there, back) = (format!("{protocol} . {host_port} : {to}"), format!("{host_port} . {protocol} . {to}"));
    match host_ip {
        None => [(PORTS.name, there), (ARRIVALS.name, back)],
        Some(at) => [(PORTS_AT.name, format!("{at} . {there}")), (ARRIVALS_AT.name, format!("{at} . {back}"))],
    }
}

/// See [`super::mapped_ports_astray`].
pub(super) fn astray(seen: Option<&NftSeen>, workload: &Workload) -> Vec<PortMapping> {
    let has = |(set, element): &NftElement| {
        seen.and_then(|seen| seen.sets.get(*set)).is_some_and(|(_, elements)| elements.contains(element))
    };
    let hairpins = has(&hairpin(workload));
    let led = |mapping: &&PortMapping| hairpins && mapping_elements(workload, mapping).iter().all(has);
    workload.ports.iter().filter(|mapping| !led(mapping)).copied().collect()
}

fn hairpin(workload: &Workload) -> NftElement {
    (HAIRPIN.name, format!("{ip} . {ip}", ip = workload.ip))
}

pub(super) fn sets<'a>(workloads: impl Iterator<Item = &'a Workload>) -> Vec<NftSet> {
    let mut sets = vec![PORTS, PORTS_AT, ARRIVALS, ARRIVALS_AT, HAIRPIN];
    for (name, element) in workloads.flat_map(elements) {
        for set in sets.iter_mut().filter(|set| set.name == name) {
            set.elements.insert(element.clone());
        }
    }
    sets
}

/// The reverse of [`elements`]; what nobody but us writes is left out.
pub(super) fn seen(table: &NftSeen) -> BTreeMap<Ipv4Addr, Vec<PortMapping>> {
    let mut found: BTreeMap<Ipv4Addr, Vec<PortMapping>> = BTreeMap::new();
    for set in [PORTS, PORTS_AT] {
        let elements = table.sets.get(set.name).map(|(_, elements)| elements);
        for (ip, mapping) in elements.into_iter().flatten().filter_map(|element| read(element)) {
            found.entry(ip).or_default().push(mapping);
        }
    }
    found
}

fn read(element: &str) -> Option<(Ipv4Addr, PortMapping)> {
    let (key, to) = element.split_once(" : ")?;
    let (ip, container_port) = to.split_once(" . ")?;
    let (host_ip, key) = match key.matches(" . ").count() {
        1 => (None, key),
        _ => key.split_once(" . ").map(|(at, rest)| (at.parse().ok(), rest))?,
    };
    let (protocol, host_port) = key.split_once(" . ")?;
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        _ => return None,
    };
    let (host_port, container_port) = (host_port.parse().ok()?, container_port.parse().ok()?);
    Some((ip.parse().ok()?, PortMapping { protocol, host_ip, host_port, container_port }))
}

pub(super) fn chains(placement: &Placement) -> [NftChain; 4] {
    let Placement { bridge, .. } = placement;
    // From the network nobody asks for a loopback address in good faith.
    let outside = [vec!["ip daddr 127.0.0.0/8 accept".to_owned()], redirect()].concat();
    [
        // After kube-proxy's (-100): what an operator made a service of is no workload's port.
        chain("ports_prerouting", "type nat hook prerouting priority -99; policy accept;", outside),
        chain("ports_output", "type nat hook output priority -99; policy accept;", redirect()),
        chain(
            "ports_postrouting",
            "type nat hook postrouting priority 99; policy accept;",
            // Whose answers would not come back otherwise: a workload answers 127.0.0.1 and itself at home.
            vec![
                format!("oifname \"{bridge}\" ip saddr 127.0.0.0/8 masquerade"),
                format!("oifname \"{bridge}\" ct status dnat ip saddr . ip daddr @hairpin masquerade"),
            ],
        ),
        chain("mapped", "type filter hook postrouting priority 300; policy accept;", mark(placement)),
    ]
}

fn chain(name: &'static str, hook: &'static str, rules: Vec<String>) -> NftChain {
    NftChain { name, hook, rules }
}

fn redirect() -> Vec<String> {
    let local = "fib daddr type local meta l4proto { tcp, udp } dnat ip to";
    vec![
        format!("{local} ip daddr . meta l4proto . th dport map @ports_at"),
        format!("{local} meta l4proto . th dport map @ports"),
    ]
}

/// After everybody else's rules, for every packet to a workload: the bit is set by a mapping or it is not set. What
/// workloads send bears their tag, and is left alone, but for what comes back to its sender with the gateway's
/// address.
fn mark(placement: &Placement) -> Vec<String> {
    let (bridge, gateway, all) = (&placement.bridge, placement.subnet.gateway(), placement.network.network());
    let bit = mapped_mark(placement.mark_shift);
    let mut rules =
        vec![format!("oifname != \"{bridge}\" accept"), format!("ip saddr {all} ip saddr != {gateway} accept")];
    // `nft` reads these keys only after a match of one protocol.
    for protocol in ["tcp", "udp"] {
        for (asked, set) in [
            ("ct original proto-dst", ARRIVALS.name),
            ("ct original ip daddr . ct original proto-dst", ARRIVALS_AT.name),
        ] {
            rules.push(format!(
                "ct direction original ct status dnat meta l4proto {protocol} {asked} . meta l4proto . ip daddr . th dport @{set} meta mark set meta mark or {bit:#010x} accept"
            ));
        }
    }
    rules.push(format!("meta mark set meta mark and {:#010x}", !bit));
    rules
}
