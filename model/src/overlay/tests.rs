//! Properties of `plan`, tried on a small kernel in memory. It refuses what Linux refuses, and is
//! stricter: removing what is not there, or putting what is there as it is, fails the test.

mod drift;
mod kernel;
mod wish;

use super::*;
use crate::bandwidth::{Limit, SHAPER_IFINDEX_BASE, shaper_ifname};
use crate::id::ContainerId;
use crate::op::{NftChain, NftElement, Op};
use crate::workload::SLOT_IFINDEX_BASE;
use drift::drift;
use kernel::{Kernel, kernel, name};
use proptest::prelude::*;
use std::num::NonZeroU16;
use wish::{Wish, attachment, peer, wish};

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
                prop_assert!(link.mtu >= desired.bridge.mtu);
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
