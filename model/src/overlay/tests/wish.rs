//! What a host may be asked to be.

use super::*;

/// A host's wishes.
#[derive(Debug, Clone)]
pub(super) struct Wish {
    pub(super) subnet: u32,
    pub(super) vni: u32,
    pub(super) mtu: u32,
    pub(super) masquerade: bool,
    /// Number, underlay address and hardware address by peer's subnet.
    pub(super) peers: BTreeMap<u32, (u8, u8)>,
    /// The host's port that leads to it, by slot.
    pub(super) workloads: BTreeMap<u16, Option<u16>>,
}

pub(super) fn wish() -> impl Strategy<Value = Wish> {
    let peers = proptest::collection::btree_map(10..16_u32, (1..4_u8, 0..3_u8), 0..5);
    let ports = proptest::option::of(80..83_u16);
    let workloads = proptest::collection::btree_map(2..6_u16, ports, 0..4);
    (0..2_u32, 1..3_u32, prop_oneof![Just(1450_u32), Just(1400)], any::<bool>(), peers, workloads).prop_map(
        |(subnet, vni, mtu, masquerade, peers, workloads)| Wish { subnet, vni, mtu, masquerade, peers, workloads },
    )
}

impl Wish {
    pub(super) fn placement(&self) -> Placement {
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

    pub(super) fn desired(&self) -> Desired {
        let placement = self.placement();
        let network = placement.network;
        let peers: Vec<Peer> = self.peers.iter().map(|(number, seed)| peer(network, *number, *seed)).collect();
        let (usable, _refused) = usable_peers(&placement, &peers);
        desired(&placement, &usable, &self.workloads(&placement))
    }

    pub(super) fn workloads(&self, placement: &Placement) -> BTreeMap<Attachment, Workload> {
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
    pub(super) fn limits(&self, slot: u16) -> Bandwidth {
        let limit = Some(Limit { rate: 8_000_000, burst: 800_000 });
        Bandwidth {
            ingress: limit.filter(|_| slot % 2 == 1 || self.masquerade && slot == 4),
            egress: limit.filter(|_| slot % 2 == 1 || !self.masquerade && slot == 4),
        }
    }
}

/// Even ports at one address, odd ones at all.
pub(super) fn mapping(port: u16) -> PortMapping {
    PortMapping {
        protocol: if port == 82 { Protocol::Udp } else { Protocol::Tcp },
        host_ip: port.is_multiple_of(2).then_some(Ipv4Addr::new(192, 0, 2, 1)),
        host_port: NonZeroU16::new(port).unwrap(),
        container_port: NonZeroU16::new(8080).unwrap(),
    }
}

pub(super) fn peer(network: NetworkConfig, number: u32, (host, incarnation): (u8, u8)) -> Peer {
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

pub(super) fn attachment(slot: u16) -> Attachment {
    Attachment { container_id: ContainerId::new(format!("c{slot}")).unwrap(), ifname: name("eth0") }
}
