//! What a host's network should look like, and how to get there.

use crate::bandwidth::{Bandwidth, Buckets};
use crate::id::{Attachment, IfName};
use crate::mac::Mac;
use crate::net::{NetworkConfig, Subnet};
use crate::op::{NftTable, Route, Vxlan};
use crate::policy::Protocol;
use crate::ports::PortMapping;
use ipnetwork::Ipv4Network;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

mod limits;
mod nft;
mod plan;
#[cfg(test)]
mod tests;

pub use limits::limits_seen;
pub use nft::{mapped_ports_astray, mapped_ports_seen, port_elements};
pub use plan::plan;

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
    /// How much it may receive and send.
    pub limits: Bandwidth,
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
    /// For a bridge port: learning off, flooding off, hairpin on, as we set them.
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
    /// An intermediate device: a shaper, if it is ours.
    Ifb,
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
    /// Our nftables table; `None`: no such table.
    pub nft: Option<NftSeen>,
    /// Token buckets at the root of devices' queues; read only where somebody is limited.
    pub buckets: Buckets,
}

/// Our nftables table as the kernel shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NftSeen {
    /// Rules as ids (see [`rule_id`]) by chain.
    pub chains: BTreeMap<String, Vec<String>>,
    /// Sets and maps: type and elements, both as [`crate::op::NftSet`] has them.
    pub sets: BTreeMap<String, (String, BTreeSet<String>)>,
}

/// A committed workload, as far as the host's network is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    /// Its address.
    pub ip: Ipv4Addr,
    /// Its hardware address.
    pub mac: Mac,
    /// Ports of the host that lead to it.
    pub ports: Vec<PortMapping>,
    /// How much it may receive and send.
    pub limits: Bandwidth,
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
    /// How far tags are shifted in the skb mark, 0 to 16.
    pub mark_shift: u8,
    /// Services of the host itself that workloads may open connections to; `None`: all.
    pub host_services: Option<BTreeSet<(Protocol, u16)>>,
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
pub fn desired(placement: &Placement, peers: &[Peer], workloads: &BTreeMap<Attachment, Workload>) -> Desired {
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
        .map(|(attachment, workload)| {
            let Workload { ip, mac, limits, .. } = *workload;
            (crate::workload::host_ifname(attachment), Port { ip, mac, limits })
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
        sysctls: host_sysctls(bridge, vxlan),
        nft: nft::table(placement, workloads.values()),
    }
}

/// Kernel settings of the host, paths below `/proc/sys`.
#[must_use]
pub fn host_sysctls(bridge: &IfName, vxlan: &IfName) -> BTreeMap<String, String> {
    [
        ("net/ipv4/ip_forward".to_owned(), "1"),
        // Every packet between workloads of one host is routed over the bridge it came from: without
        // this the host tells them to talk directly, which the programs forbid.
        ("net/ipv4/conf/all/send_redirects".to_owned(), "0"),
        (format!("net/ipv4/conf/{bridge}/send_redirects"), "0"),
        // A process of the host that asks for a mapped port at 127.0.0.1 is answered through the bridge. What
        // workloads send there is dropped by programs and rules.
        (format!("net/ipv4/conf/{bridge}/route_localnet"), "1"),
        // Workloads' packets bear the workloads' addresses: also where a program is missing.
        (format!("net/ipv4/conf/{bridge}/rp_filter"), "1"),
        // IPv4 only so far: no router solicitations or multicast reports into the overlay.
        (format!("net/ipv6/conf/{bridge}/disable_ipv6"), "1"),
        (format!("net/ipv6/conf/{vxlan}/disable_ipv6"), "1"),
    ]
    .map(|(key, value)| (key, value.to_owned()))
    .into()
}

/// The id of an nftables rule, kept in its comment: a hash of its text. Our own text is compared
/// with our own text, whatever form the kernel prints it in.
#[must_use]
pub fn rule_id(text: &str) -> String {
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest(text.as_bytes());
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
