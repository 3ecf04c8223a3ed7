//! Peers, the host's own addresses and its mapped ports in the maps.

use crate::counters::Fill;
use crate::error::DatapathError;
use crate::pod::Raw;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{HashMap, MapData, MapError};
use ipnetwork::Ipv4Network;
use std::net::Ipv4Addr;
use weft_abi::{MappedPort, Peer, capacity, peer_flag, proto};
use weft_model::datapath::{PeerHost, Surroundings};
use weft_model::policy::Protocol;

/// An address as it stands in a packet.
pub(crate) fn wire(address: Ipv4Addr) -> u32 {
    u32::from_ne_bytes(address.octets())
}

/// The reverse of [`wire`].
pub(crate) fn address(wire: u32) -> Ipv4Addr {
    Ipv4Addr::from(wire.to_ne_bytes())
}

/// Maps `peers4`, `host4` and `mapped`.
pub(crate) struct SurroundingsMaps {
    pub(crate) peers: LpmTrie<MapData, u32, Raw<Peer>>,
    pub(crate) addresses: HashMap<MapData, u32, u8>,
    pub(crate) mapped: HashMap<MapData, Raw<MappedPort>, u8>,
}

impl SurroundingsMaps {
    pub(crate) fn put_peer(&mut self, subnet: Ipv4Network, peer: &PeerHost) -> Result<(), DatapathError> {
        let mut flags = 0;
        if peer.gbp {
            flags |= peer_flag::GBP;
        }
        if peer.unmanaged {
            flags |= peer_flag::UNMANAGED;
        }
        let value = Peer { underlay: wire(peer.underlay), flags, vtep: wire(peer.vtep), class: 0 };
        let written = self.peers.insert(&key(subnet), Raw(value), 0);
        written.map_err(|source| full_or_failed("peers4", capacity::PEERS4, source, || format!("peer {subnet}")))
    }

    pub(crate) fn remove_peer(&mut self, subnet: Ipv4Network) -> Result<(), DatapathError> {
        gone(self.peers.remove(&key(subnet)), "peers4")
    }

    pub(crate) fn put_address(&mut self, ip: Ipv4Addr) -> Result<(), DatapathError> {
        let written = self.addresses.insert(wire(ip), 1, 0);
        written.map_err(|source| full_or_failed("host4", capacity::HOST4, source, || format!("host address {ip}")))
    }

    pub(crate) fn remove_address(&mut self, ip: Ipv4Addr) -> Result<(), DatapathError> {
        gone(self.addresses.remove(&wire(ip)), "host4")
    }

    pub(crate) fn put_mapped(&mut self, protocol: Protocol, port: u16) -> Result<(), DatapathError> {
        let written = self.mapped.insert(Raw(mapped_key(protocol, port)), 1, 0);
        written.map_err(|source| {
            full_or_failed("mapped", capacity::MAPPED, source, || format!("mapped port {protocol} {port}"))
        })
    }

    pub(crate) fn remove_mapped(&mut self, protocol: Protocol, port: u16) -> Result<(), DatapathError> {
        gone(self.mapped.remove(&Raw(mapped_key(protocol, port))), "mapped")
    }

    /// How full the three maps are.
    pub(crate) fn fill(&self) -> [(&'static str, Fill); 3] {
        [
            ("peers4", Fill::of(self.peers.keys().count(), capacity::PEERS4)),
            ("host4", Fill::of(self.addresses.keys().count(), capacity::HOST4)),
            ("mapped", Fill::of(self.mapped.keys().count(), capacity::MAPPED)),
        ]
    }

    /// What the maps hold.
    pub(crate) fn read(&self) -> Result<Surroundings, DatapathError> {
        let mut found = Surroundings::default();
        for entry in self.peers.iter() {
            let (key, Raw(peer)) = entry.map_err(|source| DatapathError::Map { map: "peers4", source })?;
            let length = u8::try_from(key.prefix_len()).unwrap_or(32);
            if let Ok(subnet) = Ipv4Network::new(address(key.data()), length) {
                found.peers.insert(
                    subnet,
                    PeerHost {
                        underlay: address(peer.underlay),
                        vtep: address(peer.vtep),
                        gbp: peer.flags & peer_flag::GBP != 0,
                        unmanaged: peer.flags & peer_flag::UNMANAGED != 0,
                    },
                );
            }
        }
        for key in self.addresses.keys() {
            let key = key.map_err(|source| DatapathError::Map { map: "host4", source })?;
            found.host_addresses.insert(address(key));
        }
        for key in self.mapped.keys() {
            let Raw(key) = key.map_err(|source| DatapathError::Map { map: "mapped", source })?;
            let protocol = if key.proto == proto::TCP { Protocol::Tcp } else { Protocol::Udp };
            found.mapped_ports.insert((protocol, u16::from_be(key.port)));
        }
        Ok(found)
    }
}

fn mapped_key(protocol: Protocol, port: u16) -> MappedPort {
    MappedPort { port: port.to_be(), proto: protocol.number(), reserved: 0 }
}

fn key(subnet: Ipv4Network) -> Key<u32> {
    Key::new(u32::from(subnet.prefix()), wire(subnet.network()))
}

/// An entry that is not there is removed.
fn gone(result: Result<(), MapError>, map: &'static str) -> Result<(), DatapathError> {
    match result {
        Err(MapError::SyscallError(error)) if error.io_error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(|source| DatapathError::Map { map, source }),
    }
}

/// Hash maps say E2BIG when they are full, tries ENOSPC.
fn full_or_failed(map: &'static str, capacity: u32, source: MapError, what: impl FnOnce() -> String) -> DatapathError {
    match &source {
        MapError::SyscallError(error)
            if matches!(error.io_error.raw_os_error(), Some(nix::libc::E2BIG | nix::libc::ENOSPC)) =>
        {
            DatapathError::MapFull { map, capacity, what: what() }
        }
        _ => DatapathError::Map { map, source },
    }
}
