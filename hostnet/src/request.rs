//! Ops as rtnetlink messages.

use crate::netlink::Request;
use ipnetwork::Ipv4Network;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth, InfoVxlan, LinkAttribute, LinkFlags,
    LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::RawFd;
use weft_model::id::IfName;
use weft_model::mac::Mac;
use weft_model::op::{DOOMED_GROUP, ROUTE_PROTOCOL, Route, Shaper, Veth, Vxlan};

const CREATE: u16 = NLM_F_CREATE | NLM_F_EXCL;
const REPLACE: u16 = NLM_F_CREATE | NLM_F_REPLACE;

/// A message about the link of that name. The kernel looks the name up, so that a link made by an
/// earlier message of the same datagram is found.
pub(crate) fn link_named(name: &IfName) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_string()));
    message
}

fn new_link(name: &IfName, mac: Mac, mtu: u32) -> LinkMessage {
    let mut message = link_named(name);
    message.attributes.extend([LinkAttribute::Address(mac.0.to_vec()), LinkAttribute::Mtu(mtu)]);
    message
}

fn create(mut message: LinkMessage, info: Vec<LinkInfo>) -> Request {
    message.attributes.push(LinkAttribute::LinkInfo(info));
    Request { message: RouteNetlinkMessage::NewLink(message), flags: CREATE }
}

pub(crate) fn create_bridge(name: &IfName, mac: Mac, mtu: u32) -> Request {
    create(new_link(name, mac, mtu), vec![LinkInfo::Kind(InfoKind::Bridge)])
}

pub(crate) fn create_vxlan(vxlan: &Vxlan) -> Request {
    let mut data = vec![
        InfoVxlan::Id(vxlan.vni),
        InfoVxlan::Link(vxlan.underlay),
        InfoVxlan::Local(vxlan.local),
        InfoVxlan::Port(vxlan.port),
        InfoVxlan::Learning(false),
    ];
    if vxlan.gbp {
        data.push(InfoVxlan::Gbp);
    }
    create(
        new_link(&vxlan.name, vxlan.mac, vxlan.mtu),
        vec![LinkInfo::Kind(InfoKind::Vxlan), LinkInfo::Data(InfoData::Vxlan(data))],
    )
}

/// Both ends in one message, each with everything it needs. Neither is up: the kernel refuses to raise
/// the peer before it is paired (ENOTCONN), and the host's end waits for its programs.
pub(crate) fn create_veth(veth: &Veth, workload: RawFd) -> Request {
    let mut peer = new_link(&veth.workload_name, veth.workload_mac, veth.mtu);
    peer.attributes.push(LinkAttribute::NetNsFd(workload));
    let mut host = new_link(&veth.host_name, veth.host_mac, veth.mtu);
    host.header.index = veth.host_index;
    host.attributes.push(LinkAttribute::Group(veth.group));
    create(host, vec![LinkInfo::Kind(InfoKind::Veth), LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer)))])
}

pub(crate) fn create_shaper(shaper: &Shaper) -> Request {
    let mut message = new_link(&shaper.name, shaper.mac, shaper.mtu);
    message.header.index = shaper.index;
    create(message, vec![LinkInfo::Kind(InfoKind::Ifb)])
}

/// A message of its own: the kernel ignores an alias in the message that creates a link
/// (`rtnl_create_link`; seen on 6.18).
pub(crate) fn set_alias(name: &IfName, alias: &str) -> Request {
    set_link(name, LinkAttribute::IfAlias(alias.to_owned()))
}

pub(crate) fn delete_link(name: &IfName) -> Request {
    Request { message: RouteNetlinkMessage::DelLink(link_named(name)), flags: 0 }
}

/// Marks a link to be removed with its group.
pub(crate) fn doom(name: &IfName) -> Request {
    set_link(name, LinkAttribute::Group(DOOMED_GROUP))
}

/// Removes all links of the group in one pass: the kernel waits for its readers once, not once a link
/// (`rtnl_group_dellink`).
pub(crate) fn delete_doomed() -> Request {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::Group(DOOMED_GROUP));
    Request { message: RouteNetlinkMessage::DelLink(message), flags: 0 }
}

fn set_link(name: &IfName, attribute: LinkAttribute) -> Request {
    let mut message = link_named(name);
    message.attributes.push(attribute);
    Request { message: RouteNetlinkMessage::SetLink(message), flags: 0 }
}

pub(crate) fn set_mac(name: &IfName, mac: Mac) -> Request {
    set_link(name, LinkAttribute::Address(mac.0.to_vec()))
}

pub(crate) fn set_mtu(name: &IfName, mtu: u32) -> Request {
    set_link(name, LinkAttribute::Mtu(mtu))
}

pub(crate) fn set_up(name: &IfName) -> Request {
    let mut message = link_named(name);
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    Request { message: RouteNetlinkMessage::SetLink(message), flags: 0 }
}

/// Two messages: a port's settings are read with the policy of the bridge the link is a port of when
/// the message arrives (`rtnl_newlink`), and only RTM_NEWLINK reads them at all.
pub(crate) fn join_bridge(link: &IfName, bridge_index: u32) -> [Request; 2] {
    let mut settings = link_named(link);
    settings.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::PortKind(InfoPortKind::Bridge),
        LinkInfo::PortData(InfoPortData::BridgePort(vec![
            InfoBridgePort::Isolated(false),
            InfoBridgePort::Learning(false),
            InfoBridgePort::UnicastFlood(false),
            InfoBridgePort::MulticastFlood(false),
            InfoBridgePort::BroadcastFlood(false),
            InfoBridgePort::HairpinMode(true),
        ])),
    ]));
    [
        set_link(link, LinkAttribute::Controller(bridge_index)),
        Request { message: RouteNetlinkMessage::NewLink(settings), flags: 0 },
    ]
}

fn address(index: u32, address: Ipv4Network) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = address.prefix();
    message.header.index = index;
    let ip = IpAddr::V4(address.ip());
    message.attributes.extend([AddressAttribute::Local(ip), AddressAttribute::Address(ip)]);
    message
}

pub(crate) fn add_address(index: u32, network: Ipv4Network) -> Request {
    Request { message: RouteNetlinkMessage::NewAddress(address(index, network)), flags: REPLACE }
}

pub(crate) fn delete_address(index: u32, network: Ipv4Network) -> Request {
    Request { message: RouteNetlinkMessage::DelAddress(address(index, network)), flags: 0 }
}

fn neighbour(index: u32, family: AddressFamily, state: NeighbourState, flags: NeighbourFlags) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family;
    message.header.ifindex = index;
    message.header.state = state;
    message.header.flags = flags;
    message
}

fn destination(ip: Ipv4Addr) -> NeighbourAttribute {
    NeighbourAttribute::Destination(NeighbourAddress::Inet(ip))
}

fn hardware(mac: Mac) -> NeighbourAttribute {
    NeighbourAttribute::LinkLayerAddress(mac.0.to_vec())
}

pub(crate) fn replace_neighbour(index: u32, ip: Ipv4Addr, mac: Mac) -> Request {
    let mut message = neighbour(index, AddressFamily::Inet, NeighbourState::Permanent, NeighbourFlags::empty());
    message.attributes.extend([destination(ip), hardware(mac)]);
    Request { message: RouteNetlinkMessage::NewNeighbour(message), flags: REPLACE }
}

pub(crate) fn delete_neighbour(index: u32, ip: Ipv4Addr) -> Request {
    let mut message = neighbour(index, AddressFamily::Inet, NeighbourState::None, NeighbourFlags::empty());
    message.attributes.push(destination(ip));
    Request { message: RouteNetlinkMessage::DelNeighbour(message), flags: 0 }
}

fn tunnel_entry(index: u32, mac: Mac, to: Ipv4Addr) -> NeighbourMessage {
    let mut message = neighbour(index, AddressFamily::Bridge, NeighbourState::Permanent, NeighbourFlags::Own);
    message.attributes.extend([hardware(mac), destination(to)]);
    message
}

pub(crate) fn replace_tunnel_entry(index: u32, mac: Mac, to: Ipv4Addr) -> Request {
    Request { message: RouteNetlinkMessage::NewNeighbour(tunnel_entry(index, mac, to)), flags: REPLACE }
}

pub(crate) fn delete_tunnel_entry(index: u32, mac: Mac, to: Ipv4Addr) -> Request {
    Request { message: RouteNetlinkMessage::DelNeighbour(tunnel_entry(index, mac, to)), flags: 0 }
}

/// NUD_NOARP is what `bridge` calls static: neither aged nor local (`fdb_add_entry`).
pub(crate) fn replace_port_entry(index: u32, mac: Mac) -> Request {
    let mut message = neighbour(index, AddressFamily::Bridge, NeighbourState::Noarp, NeighbourFlags::Controller);
    message.attributes.push(hardware(mac));
    Request { message: RouteNetlinkMessage::NewNeighbour(message), flags: REPLACE }
}

fn route_header(destination: Ipv4Network) -> RouteHeader {
    RouteHeader {
        address_family: AddressFamily::Inet,
        destination_prefix_length: destination.prefix(),
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: RouteProtocol::Other(ROUTE_PROTOCOL),
        ..RouteHeader::default()
    }
}

/// Fails with EEXIST if there is a route to the destination, anybody's.
pub(crate) fn create_route(index: u32, route: &Route) -> Request {
    Request { message: new_route(index, route), flags: CREATE }
}

/// Replaces the first route to the destination, anybody's.
pub(crate) fn replace_route(index: u32, route: &Route) -> Request {
    Request { message: new_route(index, route), flags: REPLACE }
}

fn new_route(index: u32, route: &Route) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    message.header = route_header(route.destination);
    message.header.kind = RouteType::Unicast;
    message.header.scope = if route.via.is_some() { RouteScope::Universe } else { RouteScope::Link };
    if route.onlink {
        message.header.flags = RouteFlags::Onlink;
    }
    message.attributes.push(RouteAttribute::Destination(route.destination.network().into()));
    message.attributes.push(RouteAttribute::Oif(index));
    message.attributes.extend(route.via.map(|via| RouteAttribute::Gateway(via.into())));
    message.attributes.extend(route.source.map(|source| RouteAttribute::PrefSource(source.into())));
    RouteNetlinkMessage::NewRoute(message)
}

/// Destination and protocol say it all: whatever next hop a route of ours has got, it goes, and
/// another's never does.
pub(crate) fn delete_route(route: &Route) -> Request {
    let mut message = RouteMessage::default();
    message.header = route_header(route.destination);
    message.header.scope = RouteScope::NoWhere;
    message.attributes.push(RouteAttribute::Destination(route.destination.network().into()));
    Request { message: RouteNetlinkMessage::DelRoute(message), flags: 0 }
}
