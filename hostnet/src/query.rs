//! Reading links, addresses and routes.

use crate::error::Error;
use crate::executor::Executor;
use crate::request::link_named;
use ipnetwork::Ipv4Network;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoVxlan, LinkAttribute, LinkExtentMask, LinkFlags,
    LinkInfo as Info, LinkMessage,
};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use weft_model::id::IfName;
use weft_model::mac::Mac;
use weft_model::overlay::LinkKind;

/// A link as the kernel shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkInfo {
    /// Its name.
    pub name: IfName,
    /// Interface index.
    pub index: u32,
    /// Hardware address; zero where it has none, or one that is not six bytes long.
    pub mac: Mac,
    /// MTU, bytes.
    pub mtu: u32,
    /// Whether it is administratively up.
    pub up: bool,
    /// Index of the bridge (or bond, or VRF) it is a port of.
    pub master: Option<u32>,
    /// `IFLA_LINK`: of a veth end the other end's index, in the namespace that is in.
    pub other_end: Option<u32>,
    /// `IFLA_IFALIAS`.
    pub alias: Option<String>,
    /// Its link group; 0 is none.
    pub group: u32,
    /// What it is.
    pub kind: LinkKind,
    /// Whether it is a bridge port that neither learns nor floods, but sends back what came from it (hairpin).
    pub guarded_port: bool,
}

impl Executor {
    /// All links.
    ///
    /// # Errors
    /// [`Error`] of the netlink socket or the kernel.
    pub fn links(&mut self) -> Result<Vec<LinkInfo>, Error> {
        let mut request = LinkMessage::default();
        request.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let found = self.connection.dump("links", RouteNetlinkMessage::GetLink(request))?;
        Ok(found.iter().filter_map(link_info).collect())
    }

    /// The link of that name, if there is one.
    ///
    /// # Errors
    /// [`Error`] of the netlink socket or the kernel.
    pub fn link(&mut self, name: &IfName) -> Result<Option<LinkInfo>, Error> {
        let mut request = link_named(name);
        request.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let found = self.connection.get("a link", RouteNetlinkMessage::GetLink(request))?;
        // The kernel also finds links by their alternative names; those are other links to us.
        Ok(found.as_ref().and_then(link_info).filter(|link| &link.name == name))
    }

    /// All IPv4 addresses with the index of the link each is on.
    ///
    /// # Errors
    /// [`Error`] of the netlink socket or the kernel.
    pub fn addresses(&mut self) -> Result<Vec<(u32, Ipv4Network)>, Error> {
        let mut request = AddressMessage::default();
        request.header.family = AddressFamily::Inet;
        let found = self.connection.dump("addresses", RouteNetlinkMessage::GetAddress(request))?;
        Ok(found.iter().filter_map(address).collect())
    }

    /// The IPv4 addresses of one link.
    ///
    /// # Errors
    /// [`Error`] of the netlink socket or the kernel.
    pub fn addresses_of(&mut self, link: &LinkInfo) -> Result<Vec<Ipv4Network>, Error> {
        let all = self.addresses()?;
        Ok(all.into_iter().filter(|(index, _)| *index == link.index).map(|(_, address)| address).collect())
    }

    /// The link that holds an address, if one does.
    ///
    /// # Errors
    /// [`Error`] of the netlink socket or the kernel.
    pub fn link_with_address(&mut self, ip: Ipv4Addr) -> Result<Option<LinkInfo>, Error> {
        let holder = self.addresses()?.into_iter().find(|(_, address)| address.ip() == ip);
        let Some((index, _)) = holder else {
            return Ok(None);
        };
        Ok(self.links()?.into_iter().find(|link| link.index == index))
    }

    /// The link of the IPv4 default route in the main table, the one with the lowest metric; `None`
    /// without one.
    ///
    /// # Errors
    /// [`Error`] of the netlink socket or the kernel.
    pub fn default_route_link(&mut self) -> Result<Option<LinkInfo>, Error> {
        let best = self.main_routes()?.iter().filter_map(default_route).min();
        let Some((_metric, index)) = best else {
            return Ok(None);
        };
        Ok(self.links()?.into_iter().find(|link| link.index == index))
    }

    /// Protocol of the route the kernel would replace, by destination, in the main table: the first
    /// without metric and type of service.
    pub(crate) fn route_owners(&mut self) -> Result<BTreeMap<Ipv4Network, u8>, Error> {
        let mut owners = BTreeMap::new();
        for route in self.main_routes()? {
            if let Some(destination) = destination(&route).filter(|_| metric(&route) == 0 && route.header.tos == 0) {
                owners.entry(destination).or_insert(route.header.protocol.into());
            }
        }
        Ok(owners)
    }

    /// IPv4 routes of the main table.
    fn main_routes(&mut self) -> Result<Vec<RouteMessage>, Error> {
        let mut request = RouteMessage::default();
        request.header.address_family = AddressFamily::Inet;
        request.header.table = RouteHeader::RT_TABLE_MAIN;
        let found = self.connection.dump("routes", RouteNetlinkMessage::GetRoute(request))?;
        Ok(found
            .into_iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewRoute(route) if !route.header.flags.contains(RouteFlags::Cloned) => Some(route),
                _ => None,
            })
            .collect())
    }
}

/// Metric and link index of a default route.
fn default_route(route: &RouteMessage) -> Option<(u32, u32)> {
    if route.header.destination_prefix_length != 0 {
        return None;
    }
    Some((metric(route), out_link(route)?))
}

fn metric(route: &RouteMessage) -> u32 {
    let found = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Priority(metric) => Some(*metric),
        _ => None,
    });
    found.unwrap_or(0)
}

/// An IPv4 route's destination.
pub(crate) fn destination(route: &RouteMessage) -> Option<Ipv4Network> {
    let found = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(ip)) => Some(*ip),
        _ => None,
    });
    Ipv4Network::new(found.unwrap_or(Ipv4Addr::UNSPECIFIED), route.header.destination_prefix_length).ok()
}

/// The link a route leads over; of several next hops the first's.
pub(crate) fn out_link(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        RouteAttribute::MultiPath(hops) => hops.first().map(|hop| hop.interface_index),
        _ => None,
    })
}

fn address(message: &RouteNetlinkMessage) -> Option<(u32, Ipv4Network)> {
    let RouteNetlinkMessage::NewAddress(message) = message else {
        return None;
    };
    let ip = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(IpAddr::V4(ip)) => Some(*ip),
        _ => None,
    })?;
    Some((message.header.index, Ipv4Network::new(ip, message.header.prefix_len).ok()?))
}

fn link_info(message: &RouteNetlinkMessage) -> Option<LinkInfo> {
    let RouteNetlinkMessage::NewLink(message) = message else {
        return None;
    };
    let (mut name, mut link) = (None, blank(message));
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name = IfName::new(text.clone()).ok(),
            LinkAttribute::Address(bytes) => link.mac = mac(bytes).unwrap_or(Mac([0; 6])),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Controller(index) => link.master = Some(*index),
            LinkAttribute::Link(index) => link.other_end = Some(*index),
            LinkAttribute::Group(group) => link.group = *group,
            LinkAttribute::IfAlias(text) => link.alias = Some(text.clone()),
            LinkAttribute::LinkInfo(infos) => read_infos(infos, &mut link),
            _ => {}
        }
    }
    link.name = name?;
    Some(link)
}

fn blank(message: &LinkMessage) -> LinkInfo {
    #[expect(clippy::unwrap_used, reason = "a valid constant; the kernel always sends the real name")]
    let name = IfName::new("-").unwrap();
    LinkInfo {
        name,
        index: message.header.index,
        mac: Mac([0; 6]),
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
        master: None,
        other_end: None,
        alias: None,
        group: 0,
        kind: LinkKind::Other,
        guarded_port: false,
    }
}

/// A hardware address, if it is an Ethernet one.
pub(crate) fn mac(bytes: &[u8]) -> Option<Mac> {
    bytes.try_into().ok().map(Mac)
}

fn read_infos(infos: &[Info], link: &mut LinkInfo) {
    for info in infos {
        match info {
            Info::Kind(InfoKind::Bridge) => link.kind = LinkKind::Bridge,
            Info::Kind(InfoKind::Veth) => link.kind = LinkKind::Veth,
            Info::Kind(InfoKind::Ifb) => link.kind = LinkKind::Ifb,
            Info::Data(InfoData::Vxlan(attributes)) => link.kind = vxlan_kind(attributes),
            Info::PortData(InfoPortData::BridgePort(settings)) => link.guarded_port = is_guarded(settings),
            _ => {}
        }
    }
}

fn vxlan_kind(attributes: &[InfoVxlan]) -> LinkKind {
    let (mut vni, mut port, mut local, mut underlay, mut gbp, mut learning) = (0, 0, None, None, false, false);
    for attribute in attributes {
        match attribute {
            InfoVxlan::Id(id) => vni = *id,
            InfoVxlan::Port(number) => port = *number,
            InfoVxlan::Local(ip) => local = Some(*ip),
            InfoVxlan::Link(index) => underlay = Some(*index),
            InfoVxlan::Gbp => gbp = true,
            InfoVxlan::Learning(on) => learning = *on,
            _ => {}
        }
    }
    LinkKind::Vxlan { vni, port, local, underlay, gbp, learning }
}

fn is_guarded(settings: &[InfoBridgePort]) -> bool {
    let wanted = [
        InfoBridgePort::Isolated(false),
        InfoBridgePort::Learning(false),
        InfoBridgePort::UnicastFlood(false),
        InfoBridgePort::MulticastFlood(false),
        InfoBridgePort::BroadcastFlood(false),
        InfoBridgePort::HairpinMode(true),
    ];
    wanted.iter().all(|setting| settings.contains(setting))
}
