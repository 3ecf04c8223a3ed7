//! What a host's network should look like, and how to get there.

use crate::id::{Attachment, IfName};
use crate::mac::Mac;
use crate::net::{NetworkConfig, Subnet};
use crate::op::{NftChain, NftTable, Op, Route, Vxlan};
use ipnetwork::Ipv4Network;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// Bytes VXLAN over IPv4 adds to a packet: outer Ethernet 14, IP 20, UDP 8, VXLAN 8.
pub const VXLAN_OVERHEAD: u32 = 50;

/// A device of ours that is a bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bridge {
    /// Its hardware address.
    pub mac: Mac,
    /// MTU, bytes.
    pub mtu: u32,
}

/// A workload's host veth as a port of the bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port {
    /// The workload's address.
    pub ip: Ipv4Addr,
    /// The workload's hardware address.
    pub mac: Mac,
}

/// What a host's network should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// Name of the bridge.
    pub bridge_name: IfName,
    /// The bridge.
    pub bridge: Bridge,
    /// The VXLAN device.
    pub vxlan: Vxlan,
    /// Addresses of our devices.
    pub addresses: BTreeSet<(IfName, Ipv4Network)>,
    /// Forwarding entries of the VXLAN device.
    pub tunnels: BTreeMap<Mac, Ipv4Addr>,
    /// Permanent neighbours on our devices.
    pub neighbours: BTreeMap<(IfName, Ipv4Addr), Mac>,
    /// Our routes by destination.
    pub routes: BTreeMap<Ipv4Network, Route>,
    /// Committed workloads by host veth.
    pub ports: BTreeMap<IfName, Port>,
    /// Kernel settings.
    pub sysctls: BTreeMap<String, String>,
    /// Our nftables table.
    pub nft: NftTable,
}

/// A link as the kernel shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Hardware address.
    pub mac: Mac,
    /// MTU, bytes.
    pub mtu: u32,
    /// Whether it is administratively up.
    pub up: bool,
    /// Index of the bridge it is a port of.
    pub master: Option<u32>,
    /// `IFLA_IFALIAS`.
    pub alias: Option<String>,
    /// What it is.
    pub kind: LinkKind,
    /// For a bridge port: isolated, learning off and flooding off, as we set them.
    pub guarded_port: bool,
}

/// Kinds of links we tell apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkKind {
    /// A bridge.
    Bridge,
    /// A VXLAN device, as far as its attributes decide whether it can stay.
    Vxlan {
        /// VXLAN network identifier.
        vni: u32,
        /// UDP port.
        port: u16,
        /// Outer source address.
        local: Option<Ipv4Addr>,
        /// Index of the underlay device.
        underlay: Option<u32>,
        /// Group policy extension.
        gbp: bool,
        /// Whether it learns.
        learning: bool,
    },
    /// A veth end.
    Veth,
    /// Anything else.
    Other,
}

/// What a host's network is: all links, and of the rest only what is on our devices or bears our
/// protocol number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Actual {
    /// All links by name.
    pub links: BTreeMap<IfName, Link>,
    /// IPv4 addresses of all links.
    pub addresses: BTreeSet<(IfName, Ipv4Network)>,
    /// Permanent forwarding entries of the VXLAN device.
    pub tunnels: BTreeMap<Mac, Ipv4Addr>,
    /// Static forwarding entries of bridge ports.
    pub port_entries: BTreeSet<(IfName, Mac)>,
    /// Permanent neighbours on our two devices.
    pub neighbours: BTreeMap<(IfName, Ipv4Addr), Mac>,
    /// Routes with our protocol number in the main table.
    pub routes: BTreeMap<Ipv4Network, Route>,
    /// The settings that were asked for; a missing file is a missing key.
    pub sysctls: BTreeMap<String, String>,
    /// Our nftables table, rules as ids (see [`rule_id`]) by chain; `None`: no such table.
    pub nft: Option<BTreeMap<String, Vec<String>>>,
}

/// Another host, as its lease and record show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its subnet.
    pub subnet: Subnet,
    /// Its underlay address.
    pub public_ip: Ipv4Addr,
    /// Hardware address of its VXLAN device.
    pub vtep_mac: Mac,
    /// Whether its weft host record says that it speaks GBP.
    pub gbp: bool,
    /// Whether a weft host record exists for it.
    pub managed: bool,
}

/// This host's place in the overlay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// The overlay.
    pub network: NetworkConfig,
    /// This host's subnet.
    pub subnet: Subnet,
    /// Its underlay address.
    pub public_ip: Ipv4Addr,
    /// Index of its underlay device.
    pub underlay_index: u32,
    /// MTU of the overlay, bytes.
    pub mtu: u32,
    /// Name of the bridge.
    pub bridge: IfName,
    /// Name of the VXLAN device.
    pub vxlan: IfName,
    /// VXLAN network identifier.
    pub vni: u32,
    /// UDP port.
    pub port: u16,
    /// Whether traffic that leaves the overlay is masqueraded.
    pub masquerade: bool,
}

/// Peers that can be used, and why the others cannot: read tolerantly what would hurt us.
#[must_use]
pub fn usable_peers(placement: &Placement, peers: &[Peer]) -> (Vec<Peer>, Vec<(Peer, &'static str)>) {
    let mut usable: Vec<Peer> = Vec::new();
    let mut refused = Vec::new();
    for peer in peers {
        let complaint = if !placement.network.network().contains(peer.subnet.network().network()) {
            Some("subnet is outside the network")
        } else if peer.subnet.overlaps(placement.subnet) {
            Some("subnet overlaps ours")
        } else if peer.public_ip.is_unspecified() || peer.public_ip == placement.public_ip {
            Some("public address is unspecified or ours")
        } else if usable.iter().any(|other| other.subnet.overlaps(peer.subnet)) {
            Some("subnet overlaps another peer's")
        } else if usable.iter().any(|other| other.vtep_mac == peer.vtep_mac)
            || peer.vtep_mac == placement.subnet.vtep_mac()
        {
            Some("hardware address is in use already")
        } else {
            None
        };
        match complaint {
            Some(why) => refused.push((peer.clone(), why)),
            None => usable.push(peer.clone()),
        }
    }
    (usable, refused)
}

/// What the host's network should be, with these peers (usable ones) and these committed workloads.
#[must_use]
pub fn desired(placement: &Placement, peers: &[Peer], workloads: &BTreeMap<Attachment, Ipv4Addr>) -> Desired {
    let (subnet, bridge, vxlan) = (placement.subnet, &placement.bridge, &placement.vxlan);
    let own_route = Route {
        destination: subnet.network(),
        via: None,
        link: bridge.clone(),
        onlink: false,
        source: Some(subnet.gateway()),
    };
    let peer_route = |peer: &Peer| Route {
        destination: peer.subnet.network(),
        via: Some(peer.subnet.vtep_ip()),
        link: vxlan.clone(),
        onlink: true,
        source: Some(subnet.vtep_ip()),
    };
    let ports: BTreeMap<IfName, Port> = workloads
        .iter()
        .map(|(attachment, ip)| {
            (crate::workload::host_ifname(attachment), Port { ip: *ip, mac: Mac::for_workload(*ip) })
        })
        .collect();
    let peer_neighbours = peers.iter().map(|peer| ((vxlan.clone(), peer.subnet.vtep_ip()), peer.vtep_mac));
    let port_neighbours = ports.values().map(|port| ((bridge.clone(), port.ip), port.mac));
    Desired {
        bridge_name: bridge.clone(),
        bridge: Bridge { mac: subnet.gateway_mac(), mtu: placement.mtu },
        vxlan: Vxlan {
            name: vxlan.clone(),
            vni: placement.vni,
            port: placement.port,
            local: placement.public_ip,
            underlay: placement.underlay_index,
            mac: subnet.vtep_mac(),
            mtu: placement.mtu,
            gbp: true,
        },
        addresses: BTreeSet::from([
            (bridge.clone(), Ipv4Network::from(subnet.gateway())),
            (vxlan.clone(), Ipv4Network::from(subnet.vtep_ip())),
        ]),
        tunnels: peers.iter().map(|peer| (peer.vtep_mac, peer.public_ip)).collect(),
        neighbours: peer_neighbours.chain(port_neighbours).collect(),
        routes: peers
            .iter()
            .map(|peer| (peer.subnet.network(), peer_route(peer)))
            .chain([(subnet.network(), own_route)])
            .collect(),
        ports,
        sysctls: sysctls(bridge, vxlan),
        nft: nft(placement),
    }
}

fn sysctls(bridge: &IfName, vxlan: &IfName) -> BTreeMap<String, String> {
    [
        ("net/ipv4/ip_forward".to_owned(), "1"),
        // Every packet between workloads of one host is routed over the bridge it came from: without
        // this the host tells them to talk directly, which isolated ports forbid.
        ("net/ipv4/conf/all/send_redirects".to_owned(), "0"),
        (format!("net/ipv4/conf/{bridge}/send_redirects"), "0"),
        // IPv4 only so far: no router solicitations or multicast reports into the overlay.
        (format!("net/ipv6/conf/{bridge}/disable_ipv6"), "1"),
        (format!("net/ipv6/conf/{vxlan}/disable_ipv6"), "1"),
    ]
    .map(|(key, value)| (key, value.to_owned()))
    .into()
}

/// Masquerade for what leaves the overlay and nothing else; no connection tracking and no mark for
/// the outer VXLAN packets: the kernel copies the inner packet's mark to the outer one, where
/// somebody else's rule (kube-proxy's `mark & 0x4000`) would act on it.
fn nft(placement: &Placement) -> NftTable {
    let (own, all, port) = (placement.subnet, placement.network.network(), placement.port);
    let mut chains = vec![
        NftChain {
            name: "raw_output",
            hook: "type filter hook output priority -300; policy accept;",
            rules: vec![format!("udp dport {port} meta mark set 0 notrack")],
        },
        NftChain {
            name: "raw_prerouting",
            hook: "type filter hook prerouting priority -300; policy accept;",
            rules: vec![format!("udp dport {port} notrack")],
        },
        // Late, because the mark a packet has here is what a VXLAN packet without a tag would pass
        // on to its inner packet.
        NftChain {
            name: "late_input",
            hook: "type filter hook input priority 300; policy accept;",
            rules: vec![format!("udp dport {port} meta mark set 0")],
        },
    ];
    if placement.masquerade {
        chains.push(NftChain {
            name: "postrouting",
            hook: "type nat hook postrouting priority 100; policy accept;",
            rules: vec![format!(
                "ip saddr {own} ip daddr != {all} ip daddr != 224.0.0.0/4 meta mark & 0x00004000 == 0x00000000 masquerade fully-random"
            )],
        });
    }
    NftTable { chains }
}

/// The id of an nftables rule, kept in its comment: a hash of its text. Our own text is compared
/// with our own text, whatever form the kernel prints it in.
#[must_use]
pub fn rule_id(text: &str) -> String {
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest(text.as_bytes());
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// The ops that turn `actual` into `desired`. Traffic is withdrawn before its next hop goes, and
/// steered only after its next hop exists, so that every prefix of the plan is harmless. Nothing we
/// did not make is in the plan.
#[must_use]
pub fn plan(desired: &Desired, actual: &Actual) -> Vec<Op> {
    let mut ops = Vec::new();
    let kept = Kept {
        bridge: plan_bridge(desired, actual, &mut ops),
        vxlan: plan_vxlan(desired, actual, &mut ops),
        desired,
        actual,
    };
    plan_sysctls(&kept, &mut ops);
    plan_addresses(&kept, &mut ops);
    plan_withdrawals(&kept, &mut ops);
    plan_next_hops(&kept, &mut ops);
    plan_removals(&kept, &mut ops);
    plan_ports(&kept, &mut ops);
    plan_nft(desired, actual, &mut ops);
    ops
}

/// What of our two devices outlives the first ops of a plan.
struct Kept<'a> {
    /// The bridge stays.
    bridge: bool,
    /// The VXLAN device stays.
    vxlan: bool,
    desired: &'a Desired,
    actual: &'a Actual,
}

impl Kept<'_> {
    /// Whether what is on the link now can stay.
    fn link(&self, link: &IfName) -> bool {
        (link == &self.desired.bridge_name && self.bridge) || (link == &self.desired.vxlan.name && self.vxlan)
    }

    /// Whether the neighbours on the link can stay. A new hardware address flushes them all, the
    /// permanent ones too (`neigh_changeaddr`; seen on 6.18).
    fn neighbours(&self, link: &IfName) -> bool {
        let mac = if link == &self.desired.vxlan.name { self.desired.vxlan.mac } else { self.desired.bridge.mac };
        self.link(link) && self.actual.links.get(link).is_some_and(|seen| seen.mac == mac)
    }
}

/// Brings the bridge about; says whether what is on it now can stay.
fn plan_bridge(desired: &Desired, actual: &Actual, ops: &mut Vec<Op>) -> bool {
    let name = &desired.bridge_name;
    let Bridge { mac, mtu } = desired.bridge;
    let create = Op::CreateBridge { name: name.clone(), mac, mtu };
    let link = match actual.links.get(name) {
        Some(link) if link.kind == LinkKind::Bridge => link,
        Some(_) => {
            ops.extend([Op::DeleteLink(name.clone()), create, Op::SetUp(name.clone())]);
            return false;
        }
        None => {
            ops.extend([create, Op::SetUp(name.clone())]);
            return false;
        }
    };
    if link.mac != mac {
        ops.push(Op::SetMac(name.clone(), mac));
    }
    if link.mtu != mtu {
        ops.push(Op::SetMtu(name.clone(), mtu));
    }
    if !link.up {
        ops.push(Op::SetUp(name.clone()));
    }
    true
}

/// Brings the VXLAN device about; says whether what is on it now can stay.
fn plan_vxlan(desired: &Desired, actual: &Actual, ops: &mut Vec<Op>) -> bool {
    let want = &desired.vxlan;
    let compatible = LinkKind::Vxlan {
        vni: want.vni,
        port: want.port,
        local: Some(want.local),
        underlay: Some(want.underlay),
        gbp: want.gbp,
        learning: false,
    };
    match actual.links.get(&want.name) {
        Some(link) if link.kind == compatible => {
            if link.mac != want.mac {
                ops.push(Op::SetMac(want.name.clone(), want.mac));
            }
            if link.mtu != want.mtu {
                ops.push(Op::SetMtu(want.name.clone(), want.mtu));
            }
            if !link.up {
                ops.push(Op::SetUp(want.name.clone()));
            }
            true
        }
        existing => {
            if existing.is_some() {
                ops.push(Op::DeleteLink(want.name.clone()));
            }
            ops.extend([Op::CreateVxlan(want.clone()), Op::SetUp(want.name.clone())]);
            false
        }
    }
}

fn plan_sysctls(kept: &Kept<'_>, ops: &mut Vec<Op>) {
    let ours = [&kept.desired.bridge_name, &kept.desired.vxlan.name];
    for (key, value) in &kept.desired.sysctls {
        // Settings of a device are born and die with it.
        let device = ours.into_iter().find(|link| key.contains(&format!("/conf/{link}/")));
        let lasts = device.is_none_or(|link| kept.link(link));
        let is_set = match kept.actual.sysctls.get(key) {
            Some(seen) => seen == value,
            // No IPv6 in the kernel, or none on the device because of its small MTU: nothing to set.
            None => key.starts_with("net/ipv6/"),
        };
        if !(lasts && is_set) {
            ops.push(Op::SetSysctl(key.clone(), value.clone()));
        }
    }
}

fn plan_addresses(kept: &Kept<'_>, ops: &mut Vec<Op>) {
    let Kept { desired, actual, .. } = kept;
    for (link, address) in &desired.addresses {
        if !(kept.link(link) && actual.addresses.contains(&(link.clone(), *address))) {
            ops.push(Op::AddAddress(link.clone(), *address));
        }
    }
    for (link, address) in &actual.addresses {
        if kept.link(link) && !desired.addresses.contains(&(link.clone(), *address)) {
            ops.push(Op::DeleteAddress(link.clone(), *address));
        }
    }
}

fn plan_withdrawals(kept: &Kept<'_>, ops: &mut Vec<Op>) {
    let Kept { desired, actual, .. } = kept;
    for (destination, route) in &actual.routes {
        let gone_with_its_link =
            [&desired.bridge_name, &desired.vxlan.name].contains(&&route.link) && !kept.link(&route.link);
        if !desired.routes.contains_key(destination) && !gone_with_its_link {
            ops.push(Op::DeleteRoute(route.clone()));
        }
    }
}

fn plan_next_hops(kept: &Kept<'_>, ops: &mut Vec<Op>) {
    let Kept { desired, actual, .. } = kept;
    let vxlan = &desired.vxlan.name;
    for (mac, to) in &desired.tunnels {
        if !(kept.vxlan && actual.tunnels.get(mac) == Some(to)) {
            ops.push(Op::ReplaceTunnelEntry { link: vxlan.clone(), mac: *mac, to: *to });
        }
    }
    for ((link, ip), mac) in &desired.neighbours {
        if !(kept.neighbours(link) && actual.neighbours.get(&(link.clone(), *ip)) == Some(mac)) {
            ops.push(Op::ReplaceNeighbour(link.clone(), *ip, *mac));
        }
    }
    for (destination, route) in &desired.routes {
        if !(kept.link(&route.link) && actual.routes.get(destination) == Some(route)) {
            ops.push(Op::ReplaceRoute(route.clone()));
        }
    }
}

/// Next hops nobody uses any more: last, because a peer's new hardware address replaces its neighbour
/// before the old forwarding entry goes.
fn plan_removals(kept: &Kept<'_>, ops: &mut Vec<Op>) {
    let Kept { desired, actual, .. } = kept;
    for (link, ip) in actual.neighbours.keys() {
        if kept.neighbours(link) && !desired.neighbours.contains_key(&(link.clone(), *ip)) {
            ops.push(Op::DeleteNeighbour(link.clone(), *ip));
        }
    }
    for (mac, to) in &actual.tunnels {
        if kept.vxlan && !desired.tunnels.contains_key(mac) {
            ops.push(Op::DeleteTunnelEntry { link: desired.vxlan.name.clone(), mac: *mac, to: *to });
        }
    }
}

/// Puts committed workloads' veths back on the bridge and up. A veth that is gone is not ours to
/// make: its workload is gone, and collection follows.
fn plan_ports(kept: &Kept<'_>, ops: &mut Vec<Op>) {
    let Kept { desired, actual, .. } = kept;
    let bridge_index = actual.links.get(&desired.bridge_name).map(|link| link.index);
    for (name, port) in &desired.ports {
        let Some(link) = actual.links.get(name) else {
            continue;
        };
        let joined = kept.bridge && link.master == bridge_index && link.guarded_port;
        if !joined {
            ops.push(Op::JoinBridge { link: name.clone(), bridge: desired.bridge_name.clone() });
        }
        if !(joined && actual.port_entries.contains(&(name.clone(), port.mac))) {
            ops.push(Op::ReplacePortEntry(name.clone(), port.mac));
        }
        if !link.up {
            ops.push(Op::SetUp(name.clone()));
        }
    }
}

fn plan_nft(desired: &Desired, actual: &Actual, ops: &mut Vec<Op>) {
    let want: BTreeMap<String, Vec<String>> = desired
        .nft
        .chains
        .iter()
        .map(|chain| (chain.name.to_owned(), chain.rules.iter().map(|rule| rule_id(rule)).collect()))
        .collect();
    if actual.nft.as_ref() != Some(&want) {
        ops.push(Op::PutNft(desired.nft.clone()));
    }
}
