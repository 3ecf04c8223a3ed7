//! What a host's network is, as the planner wants to see it.

use crate::error::Error;
use crate::executor::Executor;
use crate::query::{mac, out_link};
use crate::{nft, sysctl};
use ipnetwork::Ipv4Network;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use weft_model::id::IfName;
use weft_model::mac::Mac;
use weft_model::op::{ROUTE_PROTOCOL, Route};
use weft_model::overlay::{Actual, Desired, Link, NftSeen};

/// What of the host's network is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotScope {
    /// Name of our bridge.
    pub bridge: IfName,
    /// Name of our VXLAN device.
    pub vxlan: IfName,
    /// Kernel settings, paths below `/proc/sys`.
    pub sysctls: BTreeSet<String>,
    /// Whether somebody is limited, so that token buckets are looked at.
    pub limits: bool,
}

impl SnapshotScope {
    /// What must be known to compare with `desired`.
    #[must_use]
    pub fn of(desired: &Desired) -> Self {
        Self {
            bridge: desired.bridge_name.clone(),
            vxlan: desired.vxlan.name.clone(),
            sysctls: desired.sysctls.keys().cloned().collect(),
            limits: desired.ports.values().any(|port| !port.limits.is_unlimited()),
        }
    }
}

/// NUD_PERMANENT and NUD_NOARP: what a VXLAN device never forgets. We set the former; `bridge fdb`
/// sets the latter too.
const FIXED: u16 = 0xc0;

/// Names of links by index.
pub(crate) type Names = BTreeMap<u32, IfName>;

impl Executor {
    /// Reads the namespace. The parts are read one after the other: what changes meanwhile is seen by
    /// the next pass, which the same change sets off.
    ///
    /// # Errors
    /// [`Error`] naming the part that could not be read.
    pub fn snapshot(&mut self, scope: &SnapshotScope) -> Result<Actual, Error> {
        let links = self.links()?;
        let names: Names = links.iter().map(|link| (link.index, link.name.clone())).collect();
        let index_of = |name: &IfName| links.iter().find(|link| &link.name == name).map(|link| link.index);
        let (bridge, vxlan) = (index_of(&scope.bridge), index_of(&scope.vxlan));
        let addresses = self.addresses()?;
        let buckets = if scope.limits { self.buckets()? } else { BTreeMap::new() };
        let ours: BTreeSet<u32> = [bridge, vxlan].into_iter().flatten().collect();
        let nft_table = self.nft_table.clone();
        let (sysctls, nft) = self
            .namespace
            .run(|| -> Result<_, Error> { Ok((read_sysctls(&scope.sysctls)?, nft::read(&nft_table)?)) })??;
        Ok(Actual {
            addresses: addresses
                .into_iter()
                .filter_map(|(index, address)| Some((names.get(&index)?.clone(), address)))
                .collect(),
            tunnels: vxlan.map(|index| self.tunnels(index)).transpose()?.unwrap_or_default(),
            port_entries: bridge.map(|index| self.port_entries(index, &names)).transpose()?.unwrap_or_default(),
            neighbours: self.neighbours(&ours, &names)?,
            routes: self.routes(&names)?,
            sysctls,
            nft,
            buckets,
            links: links
                .into_iter()
                .map(|link| {
                    let seen = Link {
                        index: link.index,
                        mac: link.mac,
                        mtu: link.mtu,
                        up: link.up,
                        master: link.master,
                        alias: link.alias,
                        kind: link.kind,
                        guarded_port: link.guarded_port,
                    };
                    (link.name, seen)
                })
                .collect(),
        })
    }

    /// Our nftables table; `None`: there is none.
    ///
    /// # Errors
    /// [`Error::Nft`].
    pub fn nft_table(&self) -> Result<Option<NftSeen>, Error> {
        self.namespace.run(|| nft::read(&self.nft_table))?
    }

    /// Permanent forwarding entries of a VXLAN device.
    fn tunnels(&mut self, vxlan: u32) -> Result<BTreeMap<Mac, Ipv4Addr>, Error> {
        let mut request = NeighbourMessage::default();
        request.header.family = AddressFamily::Bridge;
        request.header.ifindex = vxlan;
        let found = self.neighbour_dump("forwarding entries of the VXLAN device", request)?;
        let permanent = found.iter().filter(|entry| {
            entry.header.ifindex == vxlan
                && entry.header.flags.contains(NeighbourFlags::Own)
                && u16::from(entry.header.state) & FIXED != 0
        });
        Ok(permanent.filter_map(|entry| Some((hardware(entry)?, destination(entry)?))).collect())
    }

    /// Static forwarding entries of a bridge's ports.
    pub(crate) fn port_entries(&mut self, bridge: u32, names: &Names) -> Result<BTreeSet<(IfName, Mac)>, Error> {
        let mut request = NeighbourMessage::default();
        request.header.family = AddressFamily::Bridge;
        request.attributes.push(NeighbourAttribute::Controller(bridge));
        let found = self.neighbour_dump("forwarding entries of the bridge", request)?;
        // Entries with a VLAN are copies the bridge makes for its default VLAN, which it does not use
        // as long as VLAN filtering is off.
        let fixed = found.iter().filter(|entry| {
            entry.header.state == NeighbourState::Noarp
                && entry.attributes.contains(&NeighbourAttribute::Controller(bridge))
                && !entry.attributes.iter().any(|attribute| matches!(attribute, NeighbourAttribute::Vlan(_)))
        });
        Ok(fixed.filter_map(|entry| Some((names.get(&entry.header.ifindex)?.clone(), hardware(entry)?))).collect())
    }

    /// Permanent neighbours on the given links.
    pub(crate) fn neighbours(
        &mut self,
        links: &BTreeSet<u32>,
        names: &Names,
    ) -> Result<BTreeMap<(IfName, Ipv4Addr), Mac>, Error> {
        let mut request = NeighbourMessage::default();
        request.header.family = AddressFamily::Inet;
        let found = self.neighbour_dump("neighbours", request)?;
        let permanent = found
            .iter()
            .filter(|entry| links.contains(&entry.header.ifindex) && entry.header.state == NeighbourState::Permanent);
        Ok(permanent
            .filter_map(|entry| {
                let link = names.get(&entry.header.ifindex)?.clone();
                Some(((link, destination(entry)?), hardware(entry)?))
            })
            .collect())
    }

    fn neighbour_dump(
        &mut self,
        what: &'static str,
        request: NeighbourMessage,
    ) -> Result<Vec<NeighbourMessage>, Error> {
        let found = self.connection.dump(what, RouteNetlinkMessage::GetNeighbour(request))?;
        Ok(found
            .into_iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewNeighbour(entry) => Some(entry),
                _ => None,
            })
            .collect())
    }

    /// Routes of ours in the main table. Of several to one destination the one the kernel would take:
    /// it lists them by metric.
    pub(crate) fn routes(&mut self, names: &Names) -> Result<BTreeMap<Ipv4Network, Route>, Error> {
        let mut request = RouteMessage::default();
        request.header.address_family = AddressFamily::Inet;
        request.header.table = RouteHeader::RT_TABLE_MAIN;
        request.header.protocol = RouteProtocol::Other(ROUTE_PROTOCOL);
        let found = self.connection.dump("routes", RouteNetlinkMessage::GetRoute(request))?;
        let mut routes = BTreeMap::new();
        for message in &found {
            if let RouteNetlinkMessage::NewRoute(message) = message
                && let Some(route) = route(message, names)
            {
                routes.entry(route.destination).or_insert(route);
            }
        }
        Ok(routes)
    }
}

pub(crate) fn read_sysctls(keys: &BTreeSet<String>) -> Result<BTreeMap<String, String>, Error> {
    keys.iter().filter_map(|key| sysctl::read(key).map(|value| Some((key.clone(), value?))).transpose()).collect()
}

fn hardware(entry: &NeighbourMessage) -> Option<Mac> {
    entry.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => mac(bytes),
        _ => None,
    })
}

/// A neighbour's address. Of a forwarding entry, whose family does not tell, it is bare bytes.
fn destination(entry: &NeighbourMessage) -> Option<Ipv4Addr> {
    entry.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => Some(*ip),
        NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => {
            <[u8; 4]>::try_from(bytes.as_slice()).ok().map(Ipv4Addr::from)
        }
        _ => None,
    })
}

/// A route of ours. One that leads nowhere (a blackhole put by hand) counts as one over the loopback
/// device: never what we want, so it is replaced or removed.
fn route(message: &RouteMessage, names: &Names) -> Option<Route> {
    let header = &message.header;
    if header.protocol != RouteProtocol::Other(ROUTE_PROTOCOL)
        || header.table != RouteHeader::RT_TABLE_MAIN
        || header.flags.contains(RouteFlags::Cloned)
    {
        return None;
    }
    let inet = |pick: fn(&RouteAttribute) -> Option<&RouteAddress>| {
        message.attributes.iter().find_map(pick).and_then(|address| match address {
            RouteAddress::Inet(ip) => Some(*ip),
            _ => None,
        })
    };
    Some(Route {
        destination: crate::query::destination(message)?,
        via: inet(|attribute| match attribute {
            RouteAttribute::Gateway(address) => Some(address),
            _ => None,
        }),
        link: match out_link(message) {
            Some(index) => names.get(&index)?.clone(),
            None => IfName::new("lo").ok()?,
        },
        onlink: header.flags.contains(RouteFlags::Onlink),
        source: inet(|attribute| match attribute {
            RouteAttribute::PrefSource(address) => Some(address),
            _ => None,
        }),
    })
}
