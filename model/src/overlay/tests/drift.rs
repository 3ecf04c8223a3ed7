//! What people do to a host by hand.

use super::*;

/// What somebody does by hand.
#[derive(Debug, Clone)]
pub(super) enum Drift {
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
    PortMtu(u16, u32),
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

pub(super) fn drift() -> impl Strategy<Value = Drift> {
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
        (2..5_u16, 1000..2000_u32).prop_map(|(slot, mtu)| Drift::PortMtu(slot, mtu)),
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
    pub(super) fn device(&self, bridge: bool) -> Option<IfName> {
        let device = name(if bridge { "weft0" } else { "weft-vx1" });
        self.state.links.contains_key(&device).then_some(device)
    }

    pub(super) fn shaper(&self, slot: u16) -> Option<IfName> {
        Some(shaper_ifname(crate::id::Slot(slot))).filter(|name| self.state.links.contains_key(name))
    }

    pub(super) fn stray(&mut self, slot: u16, base: u32) {
        let name = shaper_ifname(crate::id::Slot(slot));
        self.create(&name, Mac([8; 6]), 1500, LinkKind::Ifb);
        self.link(&name).index = base + u32::from(slot);
    }

    pub(super) fn drift(&mut self, drift: &Drift) {
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
            Drift::PortOut(_) | Drift::PortUnguarded(_) | Drift::PortDown(_) | Drift::PortMtu(..) => {
                self.port_drift(drift)
            }
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

    pub(super) fn port_drift(&mut self, drift: &Drift) {
        let (Drift::PortOut(slot) | Drift::PortUnguarded(slot) | Drift::PortDown(slot) | Drift::PortMtu(slot, _)) =
            drift
        else {
            return;
        };
        let port = crate::workload::host_ifname(&attachment(*slot));
        match drift {
            Drift::PortOut(_) => {
                (self.link(&port).master, self.link(&port).guarded_port) = (None, false);
                self.state.port_entries.retain(|(on, _)| on != &port);
            }
            Drift::PortUnguarded(_) => self.link(&port).guarded_port = false,
            Drift::PortMtu(_, mtu) => self.link(&port).mtu = *mtu,
            _ => self.link(&port).up = false,
        }
    }
}
