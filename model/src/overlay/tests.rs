//! Properties of `plan`, tried on a small kernel in memory. It refuses what Linux refuses, and is
//! stricter: removing what is not there, or putting what is there as it is, fails the test.

use super::*;
use crate::bandwidth::{Limit, SHAPER_IFINDEX_BASE, shaper_ifname};
use crate::id::ContainerId;
use crate::op::{NftChain, NftElement, Op};
use crate::workload::SLOT_IFINDEX_BASE;
use proptest::prelude::*;
use std::num::NonZeroU16;

/// What Linux 6.18 was seen to do, as far as ops of the planner can tell.
#[derive(Debug, Clone)]
struct Kernel {
    state: Actual,
    next_index: u32,
    has_ipv6: bool,
}

fn name(text: &str) -> IfName {
    text.parse().unwrap()
}

impl Kernel {
    fn new(has_ipv6: bool) -> Self {
        let underlay = link(3, LinkKind::Other);
        let state = Actual {
            links: BTreeMap::from([(name("under"), underlay)]),
            sysctls: BTreeMap::from([
                ("net/ipv4/ip_forward".to_owned(), "0".to_owned()),
                ("net/ipv4/conf/all/send_redirects".to_owned(), "1".to_owned()),
            ]),
            ..Actual::default()
        };
        Self { state, next_index: 10, has_ipv6 }
    }

    fn create(&mut self, name: &IfName, mac: Mac, mtu: u32, kind: LinkKind) {
        assert!(!self.state.links.contains_key(name), "EEXIST: {name}");
        self.next_index += 1;
        self.state.links.insert(name.clone(), Link { mac, mtu, ..link(self.next_index, kind) });
        for (setting, value) in [("send_redirects", "1"), ("route_localnet", "0"), ("rp_filter", "0")] {
            self.state.sysctls.insert(format!("net/ipv4/conf/{name}/{setting}"), value.to_owned());
        }
        if self.has_ipv6 {
            self.state.sysctls.insert(format!("net/ipv6/conf/{name}/disable_ipv6"), "0".to_owned());
        }
    }

    /// What goes with a link, or with its being up.
    fn withdraw(&mut self, link: &IfName) {
        self.state.routes.retain(|_, route| &route.link != link);
        self.state.neighbours.retain(|(on, _), _| on != link);
    }

    fn delete(&mut self, name: &IfName) {
        let gone = self.state.links.remove(name).unwrap_or_else(|| panic!("ENODEV: {name}"));
        self.withdraw(name);
        self.state.buckets.remove(&gone.index);
        self.state.addresses.retain(|(on, _)| on != name);
        self.state.sysctls.retain(|key, _| !key.contains(&format!("/conf/{name}/")));
        if matches!(gone.kind, LinkKind::Vxlan { .. }) {
            self.state.tunnels.clear();
        }
        for port in self.state.links.values_mut().filter(|port| port.master == Some(gone.index)) {
            (port.master, port.guarded_port) = (None, false);
        }
        if gone.kind == LinkKind::Bridge {
            self.state.port_entries.clear();
        }
    }

    fn link(&mut self, name: &IfName) -> &mut Link {
        self.state.links.get_mut(name).unwrap_or_else(|| panic!("ENODEV: {name}"))
    }

    fn is_up(&self, name: &IfName) -> bool {
        self.state.links.get(name).unwrap_or_else(|| panic!("ENODEV: {name}")).up
    }

    fn set_mac(&mut self, name: &IfName, mac: Mac) {
        self.link(name).mac = mac;
        self.state.neighbours.retain(|(on, _), _| on != name);
    }

    fn delete_address(&mut self, link: &IfName, address: Ipv4Network) {
        assert!(self.state.addresses.remove(&(link.clone(), address)), "EADDRNOTAVAIL: {address}");
        // Routes go with their source address.
        if !self.state.addresses.iter().any(|(_, other)| other.ip() == address.ip()) {
            self.state.routes.retain(|_, route| route.source != Some(address.ip()));
        }
    }

    fn put_route(&mut self, route: &Route) {
        assert!(self.is_up(&route.link), "ENETDOWN: {route}");
        if let Some(source) = route.source {
            assert!(self.state.addresses.iter().any(|(_, address)| address.ip() == source), "EINVAL: {route}");
        }
        let old = self.state.routes.insert(route.destination, route.clone());
        assert_ne!(old.as_ref(), Some(route), "nothing to do");
    }

    fn join(&mut self, port: &IfName, bridge: &IfName) {
        let bridge = self.link(bridge).index;
        let port_link = self.link(port);
        assert!(!(port_link.master == Some(bridge) && port_link.guarded_port), "nothing to do: {port}");
        if port_link.master != Some(bridge) {
            self.state.port_entries.retain(|(on, _)| on != port);
        }
        let port_link = self.link(port);
        (port_link.master, port_link.guarded_port) = (Some(bridge), true);
    }

    fn set_sysctl(&mut self, key: &str, value: &str) {
        match self.state.sysctls.get_mut(key) {
            Some(current) => *current = value.to_owned(),
            None => assert!(key.starts_with("net/ipv6/") && !self.has_ipv6, "ENOENT: {key}"),
        }
    }

    fn put_nft(&mut self, table: &NftTable) {
        let ids = |chain: &NftChain| chain.rules.iter().map(|rule| rule_id(rule)).collect();
        self.state.nft = Some(NftSeen {
            chains: table.chains.iter().map(|chain| (chain.name.to_owned(), ids(chain))).collect(),
            sets: table
                .sets
                .iter()
                .map(|set| (set.name.to_owned(), (set.kind.to_owned(), set.elements.clone())))
                .collect(),
        });
    }

    fn change_elements(&mut self, delete: &[NftElement], add: &[NftElement]) {
        let seen = self.state.nft.as_mut().expect("ENOENT: no table");
        for (set, element) in delete {
            assert!(seen.sets.get_mut(*set).expect("ENOENT").1.remove(element), "ENOENT: {element}");
        }
        for (set, element) in add {
            let (_, elements) = seen.sets.get_mut(*set).expect("ENOENT");
            let key = element.split(" : ").next();
            assert!(!elements.iter().any(|other| other.split(" : ").next() == key), "EEXIST: {element}");
            elements.insert(element.clone());
        }
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::CreateBridge { name, mac, mtu } => self.create(name, *mac, *mtu, LinkKind::Bridge),
            Op::CreateVxlan(v) => self.create(&v.name, v.mac, v.mtu, vxlan_kind(v)),
            Op::CreateVeth(_) => panic!("the overlay's plan makes no veth"),
            Op::CreateShaper(shaper) => {
                assert!(self.state.links.values().all(|link| link.index != shaper.index), "EEXIST: {op}");
                self.create(&shaper.name, shaper.mac, shaper.mtu, LinkKind::Ifb);
                self.link(&shaper.name).index = shaper.index;
            }
            Op::Shape(link, bucket) => {
                let index = self.link(link).index;
                assert_ne!(self.state.buckets.insert(index, *bucket), Some(*bucket), "nothing to do: {op}");
            }
            Op::DeleteLink(link) => self.delete(link),
            Op::DeleteLinks(_) => panic!("the overlay's plan removes no workload's link"),
            Op::SetMac(link, mac) => self.set_mac(link, *mac),
            Op::SetMtu(link, mtu) => self.link(link).mtu = *mtu,
            Op::SetUp(link) => self.link(link).up = true,
            Op::JoinBridge { link, bridge } => self.join(link, bridge),
            Op::AddAddress(link, address) => {
                self.link(link);
                assert!(self.state.addresses.insert((link.clone(), *address)), "EEXIST: {address}");
            }
            Op::DeleteAddress(link, address) => self.delete_address(link, *address),
            Op::ReplaceNeighbour(link, ip, mac) => {
                assert!(self.is_up(link), "a neighbour on a link that is down: {op}");
                let old = self.state.neighbours.insert((link.clone(), *ip), *mac);
                assert_ne!(old, Some(*mac), "nothing to do: {op}");
            }
            Op::DeleteNeighbour(link, ip) => {
                assert!(self.state.neighbours.remove(&(link.clone(), *ip)).is_some(), "ENOENT: {op}");
            }
            Op::ReplaceTunnelEntry { link, mac, to } => {
                self.link(link);
                assert_ne!(self.state.tunnels.insert(*mac, *to), Some(*to), "nothing to do: {op}");
            }
            Op::DeleteTunnelEntry { mac, to, .. } => {
                assert_eq!(self.state.tunnels.remove(mac), Some(*to), "ENOENT: {op}");
            }
            Op::ReplacePortEntry(port, mac) => {
                assert!(self.link(port).master.is_some(), "EINVAL: {op}");
                self.state.port_entries.insert((port.clone(), *mac));
            }
            Op::ReplaceRoute(route) => self.put_route(route),
            Op::DeleteRoute(route) => {
                assert!(self.state.routes.remove(&route.destination).is_some(), "ESRCH: {op}");
            }
            Op::SetSysctl(key, value) => self.set_sysctl(key, value),
            Op::AcceptForward { .. } => {}
            Op::PutNft(table) => self.put_nft(table),
            Op::ChangeNftElements { delete, add } => self.change_elements(delete, add),
            Op::FlushConnections(_) => panic!("no plan knows of connections"),
        }
    }

    fn apply_all(&mut self, ops: &[Op]) {
        for op in ops {
            self.apply(op);
        }
    }

    /// Whether a packet to the subnet gets out of the host to the peer that has it.
    fn reaches(&self, destination: Ipv4Network) -> bool {
        self.state.routes.get(&destination).is_some_and(|route| {
            let next_hop = route.via.and_then(|via| self.state.neighbours.get(&(route.link.clone(), via)));
            next_hop.is_some_and(|mac| self.state.tunnels.contains_key(mac))
        })
    }
}

fn link(index: u32, kind: LinkKind) -> Link {
    Link { index, mac: Mac([0; 6]), mtu: 1500, up: false, master: None, alias: None, kind, guarded_port: false }
}

fn vxlan_kind(v: &Vxlan) -> LinkKind {
    LinkKind::Vxlan {
        vni: v.vni,
        port: v.port,
        local: Some(v.local),
        underlay: Some(v.underlay),
        gbp: v.gbp,
        learning: false,
    }
}

/// A host's wishes.
#[derive(Debug, Clone)]
struct Wish {
    subnet: u32,
    vni: u32,
    mtu: u32,
    masquerade: bool,
    /// Number, underlay address and hardware address by peer's subnet.
    peers: BTreeMap<u32, (u8, u8)>,
    /// The host's port that leads to it, by slot.
    workloads: BTreeMap<u16, Option<u16>>,
}

fn wish() -> impl Strategy<Value = Wish> {
    let peers = proptest::collection::btree_map(10..16_u32, (1..4_u8, 0..3_u8), 0..5);
    let ports = proptest::option::of(80..83_u16);
    let workloads = proptest::collection::btree_map(2..6_u16, ports, 0..4);
    (0..2_u32, 1..3_u32, prop_oneof![Just(1450_u32), Just(1400)], any::<bool>(), peers, workloads).prop_map(
        |(subnet, vni, mtu, masquerade, peers, workloads)| Wish { subnet, vni, mtu, masquerade, peers, workloads },
    )
}

impl Wish {
    fn placement(&self) -> Placement {
        let network = NetworkConfig::new("10.255.0.0/16".parse().unwrap(), None, None, None).unwrap();
        Placement {
            network,
            subnet: network.subnet(self.subnet).unwrap(),
            public_ip: "192.0.2.1".parse().unwrap(),
            underlay_index: 3,
            mtu: self.mtu,
            bridge: name("weft0"),
            vxlan: name("weft-vx1"),
            vni: self.vni,
            port: 8472,
            masquerade: self.masquerade,
            mark_shift: 16,
            host_services: None,
        }
    }

    fn desired(&self) -> Desired {
        let placement = self.placement();
        let network = placement.network;
        let peers: Vec<Peer> = self.peers.iter().map(|(number, seed)| peer(network, *number, *seed)).collect();
        let (usable, _refused) = usable_peers(&placement, &peers);
        desired(&placement, &usable, &self.workloads(&placement))
    }

    fn workloads(&self, placement: &Placement) -> BTreeMap<Attachment, Workload> {
        // Slots beyond the first that wants a port do without: the agent gives none twice.
        let mut given = BTreeSet::new();
        let workloads = self.workloads.iter().map(|(slot, port)| {
            let ip = placement.subnet.address(u32::from(*slot)).unwrap();
            let port = port.filter(|port| given.insert(*port));
            let ports = port.map(mapping).into_iter().collect();
            (attachment(*slot), Workload { ip, mac: Mac::for_workload(ip), ports, limits: self.limits(*slot) })
        });
        workloads.collect()
    }
}

impl Wish {
    /// Slot 2 has none, 3 and 5 one in both directions, 4 in one of them.
    fn limits(&self, slot: u16) -> Bandwidth {
        let limit = Some(Limit { rate: 8_000_000, burst: 800_000 });
        Bandwidth {
            ingress: limit.filter(|_| slot % 2 == 1 || self.masquerade && slot == 4),
            egress: limit.filter(|_| slot % 2 == 1 || !self.masquerade && slot == 4),
        }
    }
}

/// Even ports at one address, odd ones at all.
fn mapping(port: u16) -> PortMapping {
    PortMapping {
        protocol: if port == 82 { Protocol::Udp } else { Protocol::Tcp },
        host_ip: port.is_multiple_of(2).then_some(Ipv4Addr::new(192, 0, 2, 1)),
        host_port: NonZeroU16::new(port).unwrap(),
        container_port: NonZeroU16::new(8080).unwrap(),
    }
}

fn peer(network: NetworkConfig, number: u32, (host, incarnation): (u8, u8)) -> Peer {
    let subnet = network.subnet(number).unwrap();
    let Mac([a, b, c, d, e, _]) = subnet.vtep_mac();
    Peer {
        subnet,
        public_ip: Ipv4Addr::new(192, 0, 2, 100 + host),
        vtep_mac: Mac([a, b, c, d, e, incarnation]),
        gbp: true,
        managed: true,
    }
}

fn attachment(slot: u16) -> Attachment {
    Attachment { container_id: ContainerId::new(format!("c{slot}")).unwrap(), ifname: name("eth0") }
}

/// A kernel with the veths of workloads 2 to 4: that of 5 is missing.
fn kernel(has_ipv6: bool) -> Kernel {
    let mut kernel = Kernel::new(has_ipv6);
    for slot in 2..5 {
        let veth = crate::workload::host_ifname(&attachment(slot));
        kernel.create(&veth, Mac([2; 6]), 1450, LinkKind::Veth);
        kernel.link(&veth).index = SLOT_IFINDEX_BASE + u32::from(slot);
    }
    // Somebody else's, which no plan may touch.
    kernel.create(&name("docker0"), Mac([4; 6]), 1500, LinkKind::Bridge);
    kernel.state.addresses.insert((name("docker0"), "172.17.0.1/16".parse().unwrap()));
    kernel
}

/// What somebody does by hand.
#[derive(Debug, Clone)]
enum Drift {
    DeleteBridge,
    DeleteVxlan,
    Down(bool),
    Mac(bool),
    Mtu(bool, u32),
    Learning,
    WrongKind,
    Address(bool),
    FlushAddresses,
    FlushRoutes,
    StrayRoute,
    FlushNeighbours,
    StrayNeighbour(bool),
    FlushTunnels,
    StrayTunnel,
    PortOut(u16),
    PortUnguarded(u16),
    PortDown(u16),
    PortEntries,
    Sysctl(usize),
    Nft(Option<bool>),
    StrayElement,
    NoElements,
    NoBuckets,
    OtherBuckets,
    NoShaper(u16),
    ShaperDown(u16),
    StrayShaper(u16),
    WrongShaper(u16),
}

fn drift() -> impl Strategy<Value = Drift> {
    prop_oneof![
        Just(Drift::DeleteBridge),
        Just(Drift::DeleteVxlan),
        any::<bool>().prop_map(Drift::Down),
        any::<bool>().prop_map(Drift::Mac),
        (any::<bool>(), 1000..2000_u32).prop_map(|(which, mtu)| Drift::Mtu(which, mtu)),
        Just(Drift::Learning),
        Just(Drift::WrongKind),
        any::<bool>().prop_map(Drift::Address),
        Just(Drift::FlushAddresses),
        Just(Drift::FlushRoutes),
        Just(Drift::StrayRoute),
        Just(Drift::FlushNeighbours),
        any::<bool>().prop_map(Drift::StrayNeighbour),
        Just(Drift::FlushTunnels),
        Just(Drift::StrayTunnel),
        (2..5_u16).prop_map(Drift::PortOut),
        (2..5_u16).prop_map(Drift::PortUnguarded),
        (2..5_u16).prop_map(Drift::PortDown),
        Just(Drift::PortEntries),
        any::<usize>().prop_map(Drift::Sysctl),
        any::<Option<bool>>().prop_map(Drift::Nft),
        Just(Drift::StrayElement),
        Just(Drift::NoElements),
        Just(Drift::NoBuckets),
        Just(Drift::OtherBuckets),
        (2..5_u16).prop_map(Drift::NoShaper),
        (2..5_u16).prop_map(Drift::ShaperDown),
        (2..9_u16).prop_map(Drift::StrayShaper),
        (2..5_u16).prop_map(Drift::WrongShaper),
    ]
}

impl Kernel {
    fn device(&self, bridge: bool) -> Option<IfName> {
        let device = name(if bridge { "weft0" } else { "weft-vx1" });
        self.state.links.contains_key(&device).then_some(device)
    }

    fn shaper(&self, slot: u16) -> Option<IfName> {
        Some(shaper_ifname(crate::id::Slot(slot))).filter(|name| self.state.links.contains_key(name))
    }

    fn stray(&mut self, slot: u16, base: u32) {
        let name = shaper_ifname(crate::id::Slot(slot));
        self.create(&name, Mac([8; 6]), 1500, LinkKind::Ifb);
        self.link(&name).index = base + u32::from(slot);
    }

    fn drift(&mut self, drift: &Drift) {
        match drift {
            Drift::DeleteBridge => self.device(true).iter().for_each(|link| self.delete(link)),
            Drift::DeleteVxlan => self.device(false).iter().for_each(|link| self.delete(link)),
            Drift::Down(bridge) => self.device(*bridge).iter().for_each(|link| {
                self.link(link).up = false;
                self.withdraw(link);
            }),
            Drift::Mac(bridge) => self.device(*bridge).iter().for_each(|link| self.set_mac(link, Mac([6; 6]))),
            Drift::Mtu(bridge, mtu) => self.device(*bridge).iter().for_each(|link| self.link(link).mtu = *mtu),
            Drift::Learning => self.device(false).iter().for_each(|link| {
                if let LinkKind::Vxlan { learning, .. } = &mut self.link(link).kind {
                    *learning = true;
                }
            }),
            Drift::WrongKind => self.device(true).iter().for_each(|link| {
                self.delete(link);
                self.create(link, Mac([2; 6]), 1500, LinkKind::Veth);
            }),
            Drift::Address(bridge) => {
                let added = self.device(*bridge).map(|link| (link, "10.99.0.1/24".parse().unwrap()));
                self.state.addresses.extend(added);
            }
            Drift::FlushAddresses => {
                let all: Vec<_> =
                    self.state.addresses.iter().filter(|(on, _)| on != &name("docker0")).cloned().collect();
                all.into_iter().for_each(|(link, address)| self.delete_address(&link, address));
            }
            Drift::FlushRoutes => self.state.routes.clear(),
            Drift::StrayRoute => {
                let (destination, link) = ("10.99.0.0/16".parse().unwrap(), name("under"));
                let route = Route { destination, via: None, link, onlink: false, source: None };
                self.state.routes.insert(destination, route);
            }
            Drift::FlushNeighbours => self.state.neighbours.clear(),
            Drift::StrayNeighbour(bridge) => {
                let link = self.device(*bridge).filter(|link| self.is_up(link));
                let entry = link.map(|link| ((link, Ipv4Addr::new(10, 255, 99, 0)), Mac([6; 6])));
                self.state.neighbours.extend(entry);
            }
            Drift::NoBuckets => self.state.buckets.clear(),
            Drift::OtherBuckets => self.state.buckets.values_mut().for_each(|bucket| bucket.rate += 1),
            Drift::NoShaper(slot) => self.shaper(*slot).iter().for_each(|shaper| self.delete(shaper)),
            Drift::ShaperDown(slot) => self.shaper(*slot).iter().for_each(|shaper| self.link(shaper).up = false),
            Drift::StrayShaper(slot) if self.shaper(*slot).is_none() => self.stray(*slot, SHAPER_IFINDEX_BASE),
            Drift::StrayShaper(_) => {}
            Drift::WrongShaper(slot) => {
                self.shaper(*slot).iter().for_each(|shaper| self.delete(shaper));
                self.stray(*slot, 2000);
            }
            Drift::FlushTunnels => self.state.tunnels.clear(),
            Drift::StrayTunnel => {
                let entry = self.device(false).map(|_| (Mac([6; 6]), Ipv4Addr::new(192, 0, 2, 99)));
                self.state.tunnels.extend(entry);
            }
            Drift::PortOut(_) | Drift::PortUnguarded(_) | Drift::PortDown(_) => self.port_drift(drift),
            Drift::PortEntries => self.state.port_entries.clear(),
            Drift::Sysctl(number) => {
                let count = self.state.sysctls.len();
                *self.state.sysctls.values_mut().nth(number % count).unwrap() = "9".to_owned();
            }
            Drift::Nft(None) => self.state.nft = None,
            Drift::Nft(Some(stray)) => {
                self.state.nft.iter_mut().flat_map(|seen| seen.chains.values_mut()).for_each(|rules| {
                    rules.clear();
                    rules.extend(stray.then(|| "foreign".to_owned()));
                })
            }
            Drift::StrayElement => self.state.nft.iter_mut().for_each(|seen| {
                if let Some((_, elements)) = seen.sets.get_mut("hairpin") {
                    elements.insert("10.99.0.1 . 10.99.0.1".to_owned());
                }
            }),
            Drift::NoElements => {
                self.state.nft.iter_mut().flat_map(|seen| seen.sets.values_mut()).for_each(|(_, all)| all.clear());
            }
        }
    }

    fn port_drift(&mut self, drift: &Drift) {
        let (Drift::PortOut(slot) | Drift::PortUnguarded(slot) | Drift::PortDown(slot)) = drift else {
            return;
        };
        let port = crate::workload::host_ifname(&attachment(*slot));
        match drift {
            Drift::PortOut(_) => {
                (self.link(&port).master, self.link(&port).guarded_port) = (None, false);
                self.state.port_entries.retain(|(on, _)| on != &port);
            }
            Drift::PortUnguarded(_) => self.link(&port).guarded_port = false,
            _ => self.link(&port).up = false,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// One plan is enough (reach), then there is nothing to do (rest).
    #[test]
    fn one_pass_is_enough(first in wish(), drifts in proptest::collection::vec(drift(), 0..6), then in wish(), ipv6: bool) {
        let mut kernel = kernel(ipv6);
        kernel.apply_all(&plan(&first.desired(), &kernel.state.clone()));
        prop_assert_eq!(plan(&first.desired(), &kernel.state), vec![]);
        drifts.iter().for_each(|drift| kernel.drift(drift));
        let desired = then.desired();
        kernel.apply_all(&plan(&desired, &kernel.state.clone()));
        prop_assert_eq!(plan(&desired, &kernel.state), vec![]);
        // The planner's own opinion is not enough.
        let seen = &kernel.state;
        let ours = |link: &IfName| link == &desired.bridge_name || link == &desired.vxlan.name;
        prop_assert_eq!(&seen.routes, &desired.routes);
        prop_assert_eq!(&seen.neighbours, &desired.neighbours);
        prop_assert_eq!(&seen.tunnels, &desired.tunnels);
        let addresses: BTreeSet<_> = seen.addresses.iter().filter(|(link, _)| ours(link)).cloned().collect();
        prop_assert_eq!(&addresses, &desired.addresses);
        for (key, value) in &desired.sysctls {
            prop_assert_eq!(seen.sysctls.get(key), Some(value).filter(|_| ipv6 || !key.starts_with("net/ipv6/")));
        }
        for (port, want) in &desired.ports {
            if let Some(link) = seen.links.get(port) {
                prop_assert!(link.up && link.guarded_port && link.master == Some(seen.links[&desired.bridge_name].index));
                prop_assert!(seen.port_entries.contains(&(port.clone(), want.mac)));
            }
        }
        // Ours only.
        prop_assert!(seen.addresses.contains(&(name("docker0"), "172.17.0.1/16".parse().unwrap())));
        prop_assert_eq!(seen.links[&name("docker0")].mac, Mac([4; 6]));
        prop_assert!(!seen.links[&name("under")].up);
    }

    /// A plan cut anywhere is completed by the next.
    #[test]
    fn a_cut_plan_resumes(first in wish(), then in wish(), cut: prop::sample::Index, again: prop::sample::Index) {
        let mut kernel = kernel(true);
        kernel.apply_all(&plan(&first.desired(), &kernel.state.clone()));
        let desired = then.desired();
        for cut in [cut, again] {
            let ops = plan(&desired, &kernel.state);
            kernel.apply_all(&ops[..cut.index(ops.len() + 1)]);
        }
        kernel.apply_all(&plan(&desired, &kernel.state.clone()));
        prop_assert_eq!(plan(&desired, &kernel.state), vec![]);
    }

    /// As long as the devices stay, no step cuts off a peer that was and will be reached.
    #[test]
    fn no_step_cuts_off_a_peer(first in wish(), then in wish()) {
        let then = Wish { vni: first.vni, subnet: first.subnet, ..then };
        let mut kernel = kernel(true);
        kernel.apply_all(&plan(&first.desired(), &kernel.state.clone()));
        let (before, after) = (first.desired(), then.desired());
        let lasting: Vec<Ipv4Network> = before
            .routes
            .iter()
            .filter(|(destination, route)| route.via.is_some() && after.routes.contains_key(*destination))
            .map(|(destination, _)| *destination)
            .collect();
        for op in plan(&after, &kernel.state.clone()) {
            kernel.apply(&op);
            for destination in &lasting {
                prop_assert!(kernel.reaches(*destination), "{} is cut off by: {}", destination, op);
            }
        }
    }
}

#[test]
fn peers_that_would_hurt_are_refused_and_the_others_used() {
    let network = NetworkConfig::new("10.255.0.0/16".parse().unwrap(), None, None, None).unwrap();
    let good = peer(network, 10, (1, 0));
    let wide =
        Peer { subnet: Subnet::try_from("10.255.8.0/21".parse::<Ipv4Network>().unwrap()).unwrap(), ..good.clone() };
    let outside =
        Peer { subnet: Subnet::try_from("10.1.0.0/24".parse::<Ipv4Network>().unwrap()).unwrap(), ..good.clone() };
    let same_mac = Peer { vtep_mac: good.vtep_mac, ..peer(network, 12, (2, 0)) };
    let ourselves = Peer { public_ip: "192.0.2.1".parse().unwrap(), ..peer(network, 13, (2, 0)) };
    let own_subnet = peer(network, 0, (2, 0));
    let placement = Placement {
        network,
        subnet: network.subnet(0).unwrap(),
        public_ip: "192.0.2.1".parse().unwrap(),
        underlay_index: 3,
        mtu: 1450,
        bridge: name("weft0"),
        vxlan: name("weft-vx1"),
        vni: 1,
        port: 8472,
        masquerade: true,
        mark_shift: 16,
        host_services: None,
    };
    let all = [good.clone(), wide, outside, same_mac, ourselves, own_subnet];
    let (usable, refused) = usable_peers(&placement, &all);
    assert_eq!(usable, [good]);
    let complaints: Vec<&str> = refused.iter().map(|(_, why)| *why).collect();
    assert_eq!(
        complaints,
        [
            "subnet overlaps another peer's",
            "subnet is outside the network",
            "hardware address is in use already",
            "public address is unspecified or ours",
            "subnet overlaps ours",
        ]
    );
}

proptest! {
    /// An agent whose journal is lost reads its workloads' ports from the kernel.
    #[test]
    fn mapped_ports_read_back(wish in wish()) {
        let desired = wish.desired();
        let mut kernel = kernel(true);
        kernel.put_nft(&desired.nft);
        let wanted: usize = desired.nft.sets.iter().filter(|set| set.is_map()).map(|set| set.elements.len()).sum();
        for workload in wish.workloads(&wish.placement()).values() {
            prop_assert_eq!(mapped_ports_astray(kernel.state.nft.as_ref(), workload), vec![]);
            prop_assert_eq!(&mapped_ports_astray(None, workload), &workload.ports);
        }
        let seen = mapped_ports_seen(kernel.state.nft.as_ref().unwrap());
        prop_assert_eq!(seen.values().map(Vec::len).sum::<usize>(), wanted);
        for (ip, ports) in seen {
            let workload = Workload { ip, mac: Mac::for_workload(ip), ports, limits: Bandwidth::default() };
            for (set, element) in port_elements(&workload) {
                let set = desired.nft.sets.iter().find(|other| other.name == set).unwrap();
                prop_assert!(set.elements.contains(&element), "{element}");
            }
        }
    }
}
