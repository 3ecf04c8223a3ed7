//! Changes to a network namespace, as values. `hostnet` has one executor for them.

use crate::bandwidth::TokenBucket;
use crate::id::IfName;
use crate::mac::Mac;
use crate::policy::Protocol;
use ipnetwork::Ipv4Network;
use std::collections::BTreeSet;
use std::fmt;
use std::net::Ipv4Addr;

/// Route protocol number of every route we make (`ip route show proto 119`); 'w' in ASCII. Routes
/// with another number are not ours and never touched.
pub const ROUTE_PROTOCOL: u8 = 119;

/// Link group of devices that are about to be removed together (`ip link show group`); "weft" in ASCII.
/// Whatever is in it is ours and doomed.
pub const DOOMED_GROUP: u32 = 0x7765_6674;

/// A VXLAN device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vxlan {
    /// Its name.
    pub name: IfName,
    /// VXLAN network identifier, 24 bits.
    pub vni: u32,
    /// UDP port.
    pub port: u16,
    /// Outer source address.
    pub local: Ipv4Addr,
    /// Interface index of the underlay device.
    pub underlay: u32,
    /// Hardware address, set at creation so that nobody (udev) makes up another.
    pub mac: Mac,
    /// MTU in bytes.
    pub mtu: u32,
    /// Whether the group policy extension is on.
    pub gbp: bool,
}

/// A veth pair: one end in the namespace the op runs in, the other in a workload's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Veth {
    /// Name of the end that stays.
    pub host_name: IfName,
    /// Interface index of the end that stays.
    pub host_index: u32,
    /// Hardware address of the end that stays.
    pub host_mac: Mac,
    /// Name of the end in the workload.
    pub workload_name: IfName,
    /// Hardware address of the end in the workload.
    pub workload_mac: Mac,
    /// MTU of both, in bytes.
    pub mtu: u32,
    /// `IFLA_IFALIAS` of the end that stays: who made it and for whom.
    pub alias: String,
    /// Link group of the end that stays; 0 is none.
    pub group: u32,
}

/// The device through which goes what one workload sends (`ifb`): see [`crate::bandwidth`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shaper {
    /// Its name.
    pub name: IfName,
    /// Its interface index.
    pub index: u32,
    /// Its hardware address, set at creation so that nobody (udev) makes up another.
    pub mac: Mac,
    /// MTU, bytes.
    pub mtu: u32,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// Where to.
    pub destination: Ipv4Network,
    /// Next hop; `None`: on the link itself.
    pub via: Option<Ipv4Addr>,
    /// Over which device.
    pub link: IfName,
    /// Whether the next hop is reached over `link` although no route says so.
    pub onlink: bool,
    /// Preferred source address.
    pub source: Option<Ipv4Addr>,
}

/// An nftables table that is replaced as a whole, in one transaction.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NftTable {
    /// Its chains in order.
    pub chains: Vec<NftChain>,
    /// Its sets and maps.
    pub sets: Vec<NftSet>,
}

/// A set or map of our table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NftSet {
    /// Its name.
    pub name: &'static str,
    /// Its type as `nft` writes it, such as `ipv4_addr . inet_service`; of a map with ` : ` and the type of its data.
    pub kind: &'static str,
    /// What is in it.
    pub elements: BTreeSet<String>,
}

impl NftSet {
    /// Whether it is a map.
    #[must_use]
    pub fn is_map(&self) -> bool {
        self.kind.contains(" : ")
    }
}

/// An element of a set or map: the set's name, and the element as `nft` writes it (`tcp . 80 : 10.255.1.2 . 8080`).
pub type NftElement = (&'static str, String);

/// A base chain of our table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NftChain {
    /// Its name.
    pub name: &'static str,
    /// Type, hook and priority as `nft` writes them, such as `type nat hook postrouting priority 100;`.
    pub hook: &'static str,
    /// Rules as `nft` writes them, without comment.
    pub rules: Vec<String>,
}

/// One change. All are idempotent or replace what is there, except the creations, which fail with
/// EEXIST, and the removals, which succeed when there is nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Create a bridge, down.
    CreateBridge {
        /// Its name.
        name: IfName,
        /// Its hardware address, explicit: otherwise it changes with the ports.
        mac: Mac,
        /// MTU in bytes.
        mtu: u32,
    },
    /// Create a VXLAN device, down, without learning.
    CreateVxlan(Vxlan),
    /// Create a veth pair, both ends down, the workload's end in the workload's namespace.
    CreateVeth(Veth),
    /// Create a shaper, down.
    CreateShaper(Shaper),
    /// Put a token bucket at the root of a device's queues.
    Shape(IfName, TokenBucket),
    /// Remove a device.
    DeleteLink(IfName),
    /// Remove devices in one pass of the kernel: it takes as long for many as for one. What is not there is
    /// removed already.
    DeleteLinks(Vec<IfName>),
    /// Set a device's hardware address.
    SetMac(IfName, Mac),
    /// Set a device's MTU, bytes.
    SetMtu(IfName, u32),
    /// Bring a device up.
    SetUp(IfName),
    /// Make a device a port of a bridge, without learning and flooding. It may send back what came from it: with
    /// br_netfilter, what NAT readdresses to another port, or to the same, is forwarded there.
    JoinBridge {
        /// The port.
        link: IfName,
        /// The bridge.
        bridge: IfName,
    },
    /// Add an address.
    AddAddress(IfName, Ipv4Network),
    /// Remove an address.
    DeleteAddress(IfName, Ipv4Network),
    /// Put a permanent neighbour entry.
    ReplaceNeighbour(IfName, Ipv4Addr, Mac),
    /// Remove one.
    DeleteNeighbour(IfName, Ipv4Addr),
    /// Put a permanent forwarding entry of a VXLAN device: frames to `mac` go to host `to`.
    ReplaceTunnelEntry {
        /// The VXLAN device.
        link: IfName,
        /// The peer's hardware address.
        mac: Mac,
        /// The peer's underlay address.
        to: Ipv4Addr,
    },
    /// Remove one.
    DeleteTunnelEntry {
        /// The VXLAN device.
        link: IfName,
        /// The peer's hardware address.
        mac: Mac,
        /// The peer's underlay address.
        to: Ipv4Addr,
    },
    /// Put a static forwarding entry of a bridge: frames to the address leave through the port.
    ReplacePortEntry(IfName, Mac),
    /// Put a route with our protocol number.
    ReplaceRoute(Route),
    /// Remove a route with our protocol number.
    DeleteRoute(Route),
    /// Write a kernel setting: path below `/proc/sys` with slashes, value.
    SetSysctl(String, String),
    /// Replace our nftables table (`ip weft`, or the name the executor was given).
    PutNft(NftTable),
    /// Accept what comes from our bridge and what goes there in chain FORWARD of somebody else's table.
    AcceptForward {
        /// Family and table, or [`crate::others::LEGACY`].
        table: String,
        /// Our bridge.
        bridge: IfName,
    },
    /// Change elements of our table's sets and maps, in one transaction: first what goes, whether it is there or
    /// not, then what comes.
    ChangeNftElements {
        /// What goes.
        delete: Vec<NftElement>,
        /// What comes.
        add: Vec<NftElement>,
    },
    /// Forget connections in the host's conntrack, whose packets then meet the rules as they are now.
    FlushConnections(Vec<Connections>),
}

/// Connections in the host's conntrack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Connections {
    /// The protocol.
    pub protocol: Protocol,
    /// The port asked for.
    pub port: u16,
    /// The address asked for; `None`: any.
    pub to: Option<Ipv4Addr>,
    /// The address that answers; `None`: any.
    pub answered_by: Option<Ipv4Addr>,
}

impl fmt::Display for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |ip: Option<Ipv4Addr>| ip.map_or_else(|| "*".to_owned(), |ip| ip.to_string());
        write!(f, "{} {}:{}->{}", self.protocol, shown(self.to), self.port, shown(self.answered_by))
    }
}

impl fmt::Display for Op {
    /// In the words of `ip`, `bridge`, `sysctl` and `nft`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateBridge { name, mac, mtu } => {
                write!(f, "link add {name} address {mac} mtu {mtu} type bridge")
            }
            Self::CreateVxlan(v) => write!(
                f,
                "link add {} address {} mtu {} type vxlan id {} local {} dev if{} dstport {} nolearning{}",
                v.name,
                v.mac,
                v.mtu,
                v.vni,
                v.local,
                v.underlay,
                v.port,
                if v.gbp { " gbp" } else { "" }
            ),
            Self::CreateVeth(v) => write!(
                f,
                "link add {} index {} address {} mtu {} type veth peer name {} address {} netns workload",
                v.host_name, v.host_index, v.host_mac, v.mtu, v.workload_name, v.workload_mac
            ),
            Self::CreateShaper(Shaper { name, index, mac, mtu }) => {
                write!(f, "link add {name} index {index} address {mac} mtu {mtu} type ifb")
            }
            Self::Shape(link, bucket) => write!(f, "qdisc replace dev {link} root {bucket}"),
            Self::DeleteLink(link) => write!(f, "link del {link}"),
            Self::DeleteLinks(links) => {
                let names: Vec<&str> = links.iter().map(IfName::as_str).collect();
                write!(f, "link del {} in one pass", names.join(" "))
            }
            Self::SetMac(link, mac) => write!(f, "link set {link} address {mac}"),
            Self::SetMtu(link, mtu) => write!(f, "link set {link} mtu {mtu}"),
            Self::SetUp(link) => write!(f, "link set {link} up"),
            Self::JoinBridge { link, bridge } => {
                write!(f, "link set {link} master {bridge} hairpin on learning off flood off")
            }
            Self::AddAddress(link, address) => write!(f, "addr add {address} dev {link}"),
            Self::DeleteAddress(link, address) => write!(f, "addr del {address} dev {link}"),
            Self::ReplaceNeighbour(link, ip, mac) => {
                write!(f, "neigh replace {ip} lladdr {mac} dev {link} nud permanent")
            }
            Self::DeleteNeighbour(link, ip) => write!(f, "neigh del {ip} dev {link}"),
            Self::ReplaceTunnelEntry { link, mac, to } => {
                write!(f, "fdb replace {mac} dev {link} dst {to} self permanent")
            }
            Self::DeleteTunnelEntry { link, mac, to } => {
                write!(f, "fdb del {mac} dev {link} dst {to} self")
            }
            Self::ReplacePortEntry(link, mac) => {
                write!(f, "fdb replace {mac} dev {link} master static")
            }
            Self::ReplaceRoute(route) => write!(f, "route replace {route} proto {ROUTE_PROTOCOL}"),
            Self::DeleteRoute(route) => write!(f, "route del {route} proto {ROUTE_PROTOCOL}"),
            Self::SetSysctl(key, value) => write!(f, "sysctl {key} = {value}"),
            Self::AcceptForward { table, bridge } => {
                write!(f, "insert rule {table} FORWARD iifname {bridge} accept, oifname {bridge} accept")
            }
            Self::PutNft(table) => {
                write!(f, "nft replace table:")?;
                for chain in &table.chains {
                    write!(f, " chain {} {{ {} {} }}", chain.name, chain.hook, chain.rules.join("; "))?;
                }
                for set in &table.sets {
                    let kind = if set.is_map() { "map" } else { "set" };
                    let elements: Vec<&str> = set.elements.iter().map(String::as_str).collect();
                    write!(f, " {kind} {} {{ {} }}", set.name, elements.join(", "))?;
                }
                Ok(())
            }
            Self::ChangeNftElements { delete, add } => {
                write!(f, "nft")?;
                delete.iter().try_for_each(|(set, element)| write!(f, " delete element {set} {{ {element} }}"))?;
                add.iter().try_for_each(|(set, element)| write!(f, " add element {set} {{ {element} }}"))
            }
            Self::FlushConnections(all) => {
                write!(f, "conntrack flush")?;
                all.iter().try_for_each(|connections| write!(f, " {connections}"))
            }
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.destination)?;
        if let Some(via) = self.via {
            write!(f, " via {via}")?;
        }
        write!(f, " dev {}", self.link)?;
        if self.onlink {
            write!(f, " onlink")?;
        }
        if let Some(source) = self.source {
            write!(f, " src {source}")?;
        }
        Ok(())
    }
}
