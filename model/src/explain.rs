//! Who somebody is to this host, for questions about connections nobody has opened yet. The programs learn it
//! from packets (`ebpf/src/identity.rs`); here it is concluded from addresses and names.

use crate::datapath::{Host, Surroundings};
use crate::id::Tag;
use crate::policy::Remote;
use std::net::Ipv4Addr;

/// A side of a connection, as this host knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Party {
    /// A workload of this host.
    Workload {
        /// Its address.
        address: Ipv4Addr,
        /// Its group's tag.
        tag: Option<Tag>,
    },
    /// Any workload of a group.
    Group(Option<Tag>),
    /// This host.
    OwnHost(Ipv4Addr),
    /// Another weft host.
    OtherHost(Ipv4Addr),
    /// A workload of another weft host: which group it is in, only that host knows.
    Elsewhere(Ipv4Addr),
    /// An address of the overlay that no workload here and no other host has.
    Vacant(Ipv4Addr),
    /// An unmanaged peer's or an outside address.
    Address(Ipv4Addr),
}

/// Why what a workload sends goes nowhere, whatever the policies say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// Multicast or broadcast.
    Multicast,
    /// 169.254.0.0/16 beyond the own host, where that is not configured.
    LinkLocal,
    /// VXLAN sent by a workload.
    WorkloadVxlan,
}

/// Whose an address is that none of this host's workloads has.
#[must_use]
pub fn party(address: Ipv4Addr, host: &Host, around: &Surroundings) -> Party {
    if is_own_host(address, host, around) {
        return Party::OwnHost(address);
    }
    match around.peers.iter().find(|(subnet, _)| subnet.contains(address)) {
        Some((_, peer)) if peer.unmanaged => Party::Address(address),
        Some((_, peer)) if peer.vtep == address => Party::OtherHost(address),
        Some(_) => Party::Elsewhere(address),
        None if host.overlay.contains(address) => Party::Vacant(address),
        None => Party::Address(address),
    }
}

fn is_own_host(address: Ipv4Addr, host: &Host, around: &Surroundings) -> bool {
    address == host.gateway || address == host.vtep || around.host_addresses.contains(&address)
}

/// What the destination's programs take the source for; `None`: that depends on what is not known here.
#[must_use]
pub fn opener(source: &Party, destination: &Party) -> Option<Remote> {
    let tagged = |tag: Option<Tag>| tag.map_or(Remote::Nobody, Remote::Tagged);
    Some(match *source {
        Party::Workload { .. } if source == destination => Remote::Itself,
        Party::Workload { tag, .. } | Party::Group(tag) => tagged(tag),
        Party::OwnHost(_) => Remote::OwnHost,
        Party::OtherHost(_) => Remote::OtherHost,
        Party::Elsewhere(_) => return None,
        Party::Vacant(_) => Remote::Nobody,
        Party::Address(address) => Remote::Address(address),
    })
}

/// What the source's programs take the destination for.
#[must_use]
pub fn target(destination: &Party) -> Remote {
    match *destination {
        Party::OwnHost(_) => Remote::OwnHost,
        Party::OtherHost(_) => Remote::OtherHost,
        Party::Workload { .. } | Party::Group(_) | Party::Elsewhere(_) | Party::Vacant(_) => Remote::Nobody,
        Party::Address(address) => Remote::Address(address),
    }
}

/// What the source's programs refuse before they ask any rule.
#[must_use]
pub fn closed_door(destination: &Party, udp_port: Option<u16>, host: &Host) -> Option<Door> {
    let address = match *destination {
        Party::OtherHost(ip) | Party::Elsewhere(ip) | Party::Vacant(ip) | Party::Address(ip) | Party::OwnHost(ip) => ip,
        Party::Workload { address, .. } => address,
        Party::Group(_) => host.gateway,
    };
    if address.is_multicast() || address.is_broadcast() {
        return Some(Door::Multicast);
    }
    if address.is_link_local() && !host.link_local && !matches!(destination, Party::OwnHost(_)) {
        return Some(Door::LinkLocal);
    }
    (udp_port == Some(host.vxlan_port)).then_some(Door::WorkloadVxlan)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::PeerHost;

    fn ip(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
    }

    fn host() -> Host {
        Host {
            overlay: "10.255.0.0/16".parse().unwrap(),
            gateway: ip("10.255.1.1"),
            vtep: ip("10.255.1.0"),
            vni: 1,
            vxlan_port: 8472,
            mark_shift: 16,
            link_local: false,
            denials_per_second: 1,
            denials_burst: 1,
            allowed: None,
            fast_path: false,
        }
    }

    fn around() -> Surroundings {
        let peer = |vtep: &str, unmanaged| PeerHost { underlay: ip("192.0.2.2"), vtep: ip(vtep), gbp: true, unmanaged };
        Surroundings {
            peers: [
                ("10.255.2.0/24".parse().unwrap(), peer("10.255.2.0", false)),
                ("10.255.3.0/24".parse().unwrap(), peer("10.255.3.0", true)),
            ]
            .into(),
            host_addresses: [ip("192.0.2.1")].into(),
            mapped_ports: [].into(),
        }
    }

    #[test]
    fn whose_an_address_is() {
        for (address, want) in [
            ("10.255.1.1", Party::OwnHost as fn(Ipv4Addr) -> Party),
            ("10.255.1.0", Party::OwnHost),
            ("192.0.2.1", Party::OwnHost),
            ("10.255.2.0", Party::OtherHost),
            ("10.255.2.9", Party::Elsewhere),
            ("10.255.3.9", Party::Address),
            ("10.255.3.0", Party::Address),
            ("10.255.1.9", Party::Vacant),
            ("10.255.9.9", Party::Vacant),
            ("198.51.100.1", Party::Address),
        ] {
            assert_eq!(party(ip(address), &host(), &around()), want(ip(address)), "{address}");
        }
    }

    #[test]
    fn a_source_is_what_its_packets_would_show() {
        let workload = Party::Workload { address: ip("10.255.1.5"), tag: Tag::new(7) };
        let other = Party::Workload { address: ip("10.255.1.6"), tag: None };
        assert_eq!(opener(&workload, &workload), Some(Remote::Itself));
        assert_eq!(opener(&workload, &other), Tag::new(7).map(Remote::Tagged));
        assert_eq!(opener(&other, &workload), Some(Remote::Nobody));
        assert_eq!(opener(&Party::Group(None), &workload), Some(Remote::Nobody));
        assert_eq!(opener(&Party::Elsewhere(ip("10.255.2.9")), &workload), None);
    }

    #[test]
    fn doors_that_no_policy_opens() {
        let to = |address: &str| party(ip(address), &host(), &around());
        assert_eq!(closed_door(&to("169.254.169.254"), None, &host()), Some(Door::LinkLocal));
        assert_eq!(closed_door(&to("169.254.169.254"), None, &Host { link_local: true, ..host() }), None);
        assert_eq!(closed_door(&to("224.0.0.1"), None, &host()), Some(Door::Multicast));
        assert_eq!(closed_door(&to("198.51.100.1"), Some(8472), &host()), Some(Door::WorkloadVxlan));
        assert_eq!(closed_door(&to("198.51.100.1"), Some(53), &host()), None);
    }
}
