//! What the kernel programs are told, and in which order: changes to maps as values.

use crate::bandwidth::Bandwidth;
use crate::id::{Slot, Tag};
use crate::mac::Mac;
use crate::policy::{PolicySet, Protocol};
use ipnetwork::Ipv4Network;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// Number of a policy set in the maps, 1 to 2^24 − 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SetId(pub u32);

/// The largest [`SetId`].
pub const MAX_SET_ID: u32 = (1 << 24) - 1;

/// What is done with a packet that policy denies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DenyAction {
    /// TCP RST, else ICMP port unreachable.
    Reject,
    /// Silence.
    Drop,
}

/// One endpoint in the data plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its slot.
    pub slot: Slot,
    /// Its address.
    pub ip: Ipv4Addr,
    /// Its hardware address.
    pub mac: Mac,
    /// Its group's tag, if the group has one.
    pub tag: Option<Tag>,
    /// The policy set it is judged by.
    pub set: SetId,
    /// From the policy set: see [`PolicySet`].
    pub isolated: bool,
    /// From the policy set.
    pub hosts_may_reach: bool,
    /// From the policy set.
    pub host_listed_only: bool,
    /// What is done with denied packets.
    pub deny: DenyAction,
    /// Whether denied packets pass and are only logged.
    pub audit: bool,
    /// The directions in which it is limited.
    pub limited: Limited,
}

/// Directions with a limit (see [`crate::bandwidth`]).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limited {
    /// What the workload receives: it must pass its veth's queue.
    pub ingress: bool,
    /// What it sends: it must pass its shaper.
    pub egress: bool,
}

impl Limited {
    /// Of these limits.
    #[must_use]
    pub const fn of(limits: &Bandwidth) -> Self {
        Self { ingress: limits.ingress.is_some(), egress: limits.egress.is_some() }
    }
}

/// What the programs know of their host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Host {
    /// The overlay's network.
    pub overlay: Ipv4Network,
    /// The gateway of this host's workloads.
    pub gateway: Ipv4Addr,
    /// This host's own address in the overlay.
    pub vtep: Ipv4Addr,
    /// VXLAN network identifier.
    pub vni: u32,
    /// UDP port of VXLAN.
    pub vxlan_port: u16,
    /// How far tags are shifted in the skb mark, 0 to 16.
    pub mark_shift: u8,
    /// Whether workloads may talk to 169.254.0.0/16 beyond their own host.
    pub link_local: bool,
    /// Denial records a second for one pair of addresses; 0: no limit.
    pub denials_per_second: u32,
    /// Denial records such a pair may have at once.
    pub denials_burst: u32,
    /// Whether connections that pass leave a record each, and how many.
    pub allowed: Option<RecordRate>,
    /// Whether answered flows between its workloads go past its stack, where the kernel can do that.
    pub fast_path: bool,
}

/// How large the maps are that may be larger or smaller: entries, and bytes of the record buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapSizes {
    /// Answered TCP connections.
    pub connections: u32,
    /// Flows that are forgotten within minutes, and as many beyond their workload's share.
    pub unanswered: u32,
    /// Entries of policies, and as many prefixes of port ranges.
    pub policy_entries: u32,
    /// Bytes for records of denials that nobody has read yet: a power of two, at least 4096.
    pub record_bytes: u32,
}

impl Default for MapSizes {
    fn default() -> Self {
        Self { connections: 131_072, unanswered: 65_536, policy_entries: 262_144, record_bytes: 4 << 20 }
    }
}

/// How many records one pair of addresses may leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordRate {
    /// A second; 0: no limit.
    pub per_second: u32,
    /// At once.
    pub burst: u32,
}

/// Another host of the overlay as the programs know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PeerHost {
    /// Its underlay address.
    pub underlay: Ipv4Addr,
    /// Its own address in the overlay.
    pub vtep: Ipv4Addr,
    /// Whether it speaks GBP: then tags go to it, and count from it.
    pub gbp: bool,
    /// Whether no weft agent runs there.
    pub unmanaged: bool,
}

/// Everything the maps should hold besides endpoints and policy sets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// Peers by their subnet.
    pub peers: BTreeMap<Ipv4Network, PeerHost>,
    /// Addresses of this host itself.
    pub host_addresses: BTreeSet<Ipv4Addr>,
    /// Ports of this host that are mapped to its workloads.
    pub mapped_ports: BTreeSet<(Protocol, u16)>,
}

/// A change to the maps. [`MapOp::PutSet`] is complete before any endpoint points to the set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MapOp {
    /// Write a whole policy set under a number nothing refers to yet.
    PutSet(SetId, PolicySet),
    /// Put or change an endpoint: one atomic store of set, flags and a generation higher than any before.
    PutEndpoint(Endpoint),
    /// Empty a slot; its workload's conntrack entries become void with it.
    RemoveEndpoint(Slot),
    /// Wait until no program runs that could still read what was replaced.
    Barrier,
    /// Remove a policy set nothing refers to any more.
    RemoveSet(SetId),
    /// Put or change a peer.
    PutPeer(Ipv4Network, PeerHost),
    /// Remove a peer.
    RemovePeer(Ipv4Network),
    /// Add an address of this host.
    PutHostAddress(Ipv4Addr),
    /// Remove one.
    RemoveHostAddress(Ipv4Addr),
    /// Add a port of this host that is mapped to a workload.
    PutMappedPort(Protocol, u16),
    /// Remove one.
    RemoveMappedPort(Protocol, u16),
}

/// The ops that turn one set of surroundings into another: additions first, so that no peer is
/// unknown in between.
#[must_use]
pub fn plan_surroundings(desired: &Surroundings, actual: &Surroundings) -> Vec<MapOp> {
    let mut ops = Vec::new();
    for (subnet, peer) in &desired.peers {
        if actual.peers.get(subnet) != Some(peer) {
            ops.push(MapOp::PutPeer(*subnet, *peer));
        }
    }
    ops.extend(desired.host_addresses.difference(&actual.host_addresses).map(|ip| MapOp::PutHostAddress(*ip)));
    let (mapped, known) = (&desired.mapped_ports, &actual.mapped_ports);
    ops.extend(mapped.difference(known).map(|(protocol, port)| MapOp::PutMappedPort(*protocol, *port)));
    ops.extend(known.difference(mapped).map(|(protocol, port)| MapOp::RemoveMappedPort(*protocol, *port)));
    ops.extend(
        actual
            .peers
            .keys()
            .filter(|subnet| !desired.peers.contains_key(subnet))
            .map(|subnet| MapOp::RemovePeer(*subnet)),
    );
    ops.extend(actual.host_addresses.difference(&desired.host_addresses).map(|ip| MapOp::RemoveHostAddress(*ip)));
    ops
}
