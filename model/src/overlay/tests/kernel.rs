//! A small kernel in memory.

use super::*;

/// What Linux 6.18 was seen to do, as far as ops of the planner can tell.
#[derive(Debug, Clone)]
pub(super) struct Kernel {
    pub(super) state: Actual,
    pub(super) next_index: u32,
    pub(super) has_ipv6: bool,
}

pub(super) fn name(text: &str) -> IfName {
    text.parse().unwrap()
}

impl Kernel {
    pub(super) fn new(has_ipv6: bool) -> Self {
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

    pub(super) fn create(&mut self, name: &IfName, mac: Mac, mtu: u32, kind: LinkKind) {
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
    pub(super) fn withdraw(&mut self, link: &IfName) {
        self.state.routes.retain(|_, route| &route.link != link);
        self.state.neighbours.retain(|(on, _), _| on != link);
    }

    pub(super) fn delete(&mut self, name: &IfName) {
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

    pub(super) fn link(&mut self, name: &IfName) -> &mut Link {
        self.state.links.get_mut(name).unwrap_or_else(|| panic!("ENODEV: {name}"))
    }

    pub(super) fn is_up(&self, name: &IfName) -> bool {
        self.state.links.get(name).unwrap_or_else(|| panic!("ENODEV: {name}")).up
    }

    pub(super) fn set_mac(&mut self, name: &IfName, mac: Mac) {
        self.link(name).mac = mac;
        self.state.neighbours.retain(|(on, _), _| on != name);
    }

    pub(super) fn delete_address(&mut self, link: &IfName, address: Ipv4Network) {
        assert!(self.state.addresses.remove(&(link.clone(), address)), "EADDRNOTAVAIL: {address}");
        // Routes go with their source address.
        if !self.state.addresses.iter().any(|(_, other)| other.ip() == address.ip()) {
            self.state.routes.retain(|_, route| route.source != Some(address.ip()));
        }
    }

    pub(super) fn put_route(&mut self, route: &Route) {
        assert!(self.is_up(&route.link), "ENETDOWN: {route}");
        if let Some(source) = route.source {
            assert!(self.state.addresses.iter().any(|(_, address)| address.ip() == source), "EINVAL: {route}");
        }
        let old = self.state.routes.insert(route.destination, route.clone());
        assert_ne!(old.as_ref(), Some(route), "nothing to do");
    }

    pub(super) fn join(&mut self, port: &IfName, bridge: &IfName) {
        let bridge = self.link(bridge).index;
        let port_link = self.link(port);
        assert!(!(port_link.master == Some(bridge) && port_link.guarded_port), "nothing to do: {port}");
        if port_link.master != Some(bridge) {
            self.state.port_entries.retain(|(on, _)| on != port);
        }
        let port_link = self.link(port);
        (port_link.master, port_link.guarded_port) = (Some(bridge), true);
    }

    pub(super) fn set_sysctl(&mut self, key: &str, value: &str) {
        match self.state.sysctls.get_mut(key) {
            Some(current) => *current = value.to_owned(),
            None => assert!(key.starts_with("net/ipv6/") && !self.has_ipv6, "ENOENT: {key}"),
        }
    }

    pub(super) fn put_nft(&mut self, table: &NftTable) {
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

    pub(super) fn change_elements(&mut self, delete: &[NftElement], add: &[NftElement]) {
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

    pub(super) fn apply(&mut self, op: &Op) {
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

    pub(super) fn apply_all(&mut self, ops: &[Op]) {
        for op in ops {
            self.apply(op);
        }
    }

    /// Whether a packet to the subnet gets out of the host to the peer that has it.
    pub(super) fn reaches(&self, destination: Ipv4Network) -> bool {
        self.state.routes.get(&destination).is_some_and(|route| {
            let next_hop = route.via.and_then(|via| self.state.neighbours.get(&(route.link.clone(), via)));
            next_hop.is_some_and(|mac| self.state.tunnels.contains_key(mac))
        })
    }
}

pub(super) fn link(index: u32, kind: LinkKind) -> Link {
    Link { index, mac: Mac([0; 6]), mtu: 1500, up: false, master: None, alias: None, kind, guarded_port: false }
}

pub(super) fn vxlan_kind(v: &Vxlan) -> LinkKind {
    LinkKind::Vxlan {
        vni: v.vni,
        port: v.port,
        local: Some(v.local),
        underlay: Some(v.underlay),
        gbp: v.gbp,
        learning: false,
    }
}

/// A kernel with the veths of workloads 2 to 4: that of 5 is missing.
pub(super) fn kernel(has_ipv6: bool) -> Kernel {
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
