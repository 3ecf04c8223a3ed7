//! Is a workload as ADD left it? Of its namespace the plan itself says what should be there, so a step
//! added to it is looked for without another word.

use crate::id::IfName;
use crate::mac::Mac;
use crate::op::{Op, Route};
use crate::overlay::Link;
use crate::workload::Wiring;
use ipnetwork::Ipv4Network;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// A workload's namespace, as far as wiring is concerned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inside {
    /// Whether the loopback device is up.
    pub loopback_up: bool,
    /// The workload's interface; `None`: there is none of that name.
    pub link: Option<InsideLink>,
    /// IPv4 addresses on it.
    pub addresses: BTreeSet<Ipv4Network>,
    /// Permanent neighbours on it.
    pub neighbours: BTreeMap<Ipv4Addr, Mac>,
    /// Routes with our protocol number, whatever device they lead over.
    pub routes: BTreeMap<Ipv4Network, Route>,
    /// Kernel settings that the plan writes; a missing file is a missing key.
    pub sysctls: BTreeMap<String, String>,
}

/// The workload's end of its veth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InsideLink {
    /// Its hardware address.
    pub mac: Mac,
    /// Its MTU, bytes.
    pub mtu: u32,
    /// Whether it is administratively up.
    pub up: bool,
    /// Index of the other end in the namespace that is in; `None`: it is no veth.
    pub other_end: Option<u32>,
}

/// What is not as `plan` left it, one line each. What is more than the plan is not looked at: later
/// plugins of a chain may add to it.
#[must_use]
pub fn differences(wiring: &Wiring, plan: &[Op], inside: &Inside) -> Vec<String> {
    let name = &wiring.attachment.ifname;
    let Some(link) = &inside.link else {
        return vec![format!("{name} is missing")];
    };
    let mut found = link_differences(wiring, link);
    found.extend(plan.iter().filter_map(|op| unmet(op, name, link, inside)));
    found
}

fn link_differences(wiring: &Wiring, link: &InsideLink) -> Vec<String> {
    let name = &wiring.attachment.ifname;
    let mut found = Vec::new();
    if link.other_end != Some(wiring.host_index()) {
        found.push(format!("{name} is not the other end of {}", wiring.host_ifname()));
    }
    if link.mac != wiring.workload_mac() {
        let given = wiring.workload_mac();
        found.push(format!("{name} has hardware address {} instead of {given}: what it sends is dropped", link.mac));
    }
    // A later plugin may lower it.
    if link.mtu > wiring.mtu {
        found.push(format!("{name} has MTU {}, more than the overlay's {}", link.mtu, wiring.mtu));
    }
    found
}

/// What an op was to achieve and is not there.
fn unmet(op: &Op, name: &IfName, link: &InsideLink, inside: &Inside) -> Option<String> {
    let (met, what) = match op {
        Op::SetUp(other) if other == name => (link.up, format!("{name} is down")),
        Op::SetUp(other) => (inside.loopback_up, format!("{other} is down")),
        Op::AddAddress(_, address) => {
            (inside.addresses.contains(address), format!("{name} lacks its address {address}"))
        }
        Op::ReplaceNeighbour(_, ip, mac) => {
            (inside.neighbours.get(ip) == Some(mac), format!("{name} lacks the permanent neighbour {ip} at {mac}"))
        }
        Op::ReplaceRoute(route) => {
            (inside.routes.get(&route.destination) == Some(route), format!("the route {route} is missing"))
        }
        Op::SetSysctl(key, value) => {
            let found = inside.sysctls.get(key);
            // Without IPv6 there is nothing to switch off.
            let absent = found.is_none() && key.starts_with("net/ipv6/");
            (absent || found == Some(value), format!("{key} is {} instead of {value}", found.map_or("missing", |v| v)))
        }
        _ => return None,
    };
    (!met).then_some(what)
}

/// A workload on its host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostSide {
    /// The host's end of its veth, found by name.
    pub port: Option<Link>,
    /// The bridge.
    pub bridge: Option<Link>,
    /// Whether the bridge has the gateway's address.
    pub gateway: bool,
    /// Whether the bridge has a static forwarding entry for the workload.
    pub port_entry: bool,
    /// Whether the host has a permanent neighbour entry for it.
    pub neighbour: bool,
    /// Kernel settings that are not as they should be: key, wanted, found.
    pub sysctls: Vec<(String, String, String)>,
}

/// What is not as the agent's commit left it, one line each.
#[must_use]
pub fn host_differences(wiring: &Wiring, bridge_name: &IfName, side: &HostSide) -> Vec<String> {
    let name = wiring.host_ifname();
    let Some(bridge) = &side.bridge else {
        return vec![format!("bridge {bridge_name} is missing")];
    };
    let Some(port) = &side.port else {
        return vec![format!("its host end {name} is missing")];
    };
    let checks = [
        (bridge.up, format!("bridge {bridge_name} is down")),
        (side.gateway, format!("bridge {bridge_name} lacks the gateway's address {}", wiring.gateway)),
        (
            port.index == wiring.host_index() && port.alias.as_deref() == Some(wiring.alias().to_string().as_str()),
            format!("its host end {name} is another incarnation's (index {}, alias {:?})", port.index, port.alias),
        ),
        (port.up, format!("its host end {name} is down")),
        (port.mac == wiring.host_mac(), format!("its host end {name} has hardware address {}", port.mac)),
        // A larger one loses nothing: what is sent to it has come over the bridge.
        (port.mtu >= wiring.mtu, format!("its host end {name} has MTU {} instead of {}", port.mtu, wiring.mtu)),
        (port.master == Some(bridge.index), format!("its host end {name} is no port of bridge {bridge_name}")),
        (port.guarded_port, format!("its port {name} does not hairpin, or learns or floods")),
        (side.port_entry, format!("the bridge has no static entry for {} at {name}", wiring.workload_mac())),
        (side.neighbour, format!("the host has no permanent neighbour {}", wiring.address)),
    ];
    let sysctls = side.sysctls.iter().map(|(key, wanted, found)| format!("{key} is {found} instead of {wanted}"));
    checks.into_iter().filter(|(met, _)| !met).map(|(_, what)| what).chain(sysctls).collect()
}

/// The settings a plan writes: what [`Inside::sysctls`] has to hold.
#[must_use]
pub fn sysctls_of(plan: &[Op]) -> BTreeSet<String> {
    let key = |op: &Op| match op {
        Op::SetSysctl(key, _) => Some(key.clone()),
        _ => None,
    };
    plan.iter().filter_map(key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Attachment;
    use crate::workload::plan_workload;

    fn wiring() -> Wiring {
        Wiring {
            attachment: Attachment { container_id: "c1".parse().unwrap(), ifname: "eth0".parse().unwrap() },
            token: "0123456789abcdef".parse().unwrap(),
            slot: crate::id::Slot(7),
            address: "10.255.30.7".parse().unwrap(),
            gateway: "10.255.30.1".parse().unwrap(),
            gateway_mac: "aa:aa:0a:ff:1e:01".parse().unwrap(),
            mtu: 1450,
            bridge: None,
            mac: None,
        }
    }

    /// What carrying out the plan gives.
    fn made() -> Inside {
        let (wiring, mut inside) = (wiring(), Inside { loopback_up: true, ..Inside::default() });
        inside.link = Some(InsideLink {
            mac: wiring.workload_mac(),
            mtu: wiring.mtu,
            up: true,
            other_end: Some(wiring.host_index()),
        });
        for op in plan_workload(&wiring) {
            match op {
                Op::AddAddress(_, address) => drop(inside.addresses.insert(address)),
                Op::ReplaceNeighbour(_, ip, mac) => drop(inside.neighbours.insert(ip, mac)),
                Op::ReplaceRoute(route) => drop(inside.routes.insert(route.destination, route)),
                Op::SetSysctl(key, value) => drop(inside.sysctls.insert(key, value)),
                _ => {}
            }
        }
        inside
    }

    fn on_its_host() -> HostSide {
        let link = |index, name_mac: Mac| Link {
            index,
            mac: name_mac,
            mtu: 1450,
            up: true,
            master: None,
            alias: None,
            kind: crate::overlay::LinkKind::Veth,
            guarded_port: true,
        };
        let wiring = wiring();
        let mut port = link(wiring.host_index(), wiring.host_mac());
        (port.master, port.alias) = (Some(5), Some(wiring.alias().to_string()));
        let bridge = link(5, wiring.gateway_mac);
        let sysctls = Vec::new();
        HostSide { port: Some(port), bridge: Some(bridge), gateway: true, port_entry: true, neighbour: true, sysctls }
    }

    /// A change of a host.
    type BreakHost = fn(&mut HostSide, &mut Link);

    #[test]
    fn each_thing_that_is_wrong_on_the_host_is_named() {
        let bridge: IfName = "weft0".parse().unwrap();
        let of = |side: &HostSide| host_differences(&wiring(), &bridge, side);
        assert_eq!(of(&on_its_host()), Vec::<String>::new());
        assert_eq!(of(&HostSide { bridge: None, ..on_its_host() }), ["bridge weft0 is missing"]);
        assert!(of(&HostSide { port: None, ..on_its_host() })[0].ends_with("is missing"));
        let cases: [(BreakHost, &str); 13] = [
            (|side, _| side.bridge.as_mut().unwrap().up = false, "bridge weft0 is down"),
            (|side, _| side.gateway = false, "lacks the gateway's address 10.255.30.1"),
            (|_, port| port.index = 9, "another incarnation's (index 9"),
            (|_, port| port.alias = Some("weft:1:fedcba98:c1:eth0".to_owned()), "another incarnation's"),
            (|_, port| port.up = false, "is down"),
            (|_, port| port.mac = Mac([2; 6]), "hardware address 02:02:02:02:02:02"),
            (|_, port| port.mtu = 1400, "MTU 1400 instead of 1450"),
            (|_, port| port.master = None, "is no port of bridge weft0"),
            (|_, port| port.master = Some(6), "is no port of bridge weft0"),
            (|_, port| port.guarded_port = false, "does not hairpin"),
            (|side, _| side.port_entry = false, "no static entry for ee:ee:0a:ff:1e:07"),
            (|side, _| side.neighbour = false, "no permanent neighbour 10.255.30.7"),
            (
                |side, _| side.sysctls.push(("net/ipv4/ip_forward".to_owned(), "1".to_owned(), "0".to_owned())),
                "net/ipv4/ip_forward is 0 instead of 1",
            ),
        ];
        for (break_it, said) in cases {
            let mut side = on_its_host();
            let mut port = side.port.take().unwrap();
            break_it(&mut side, &mut port);
            side.port = Some(port);
            let found = of(&side);
            assert!(found.len() == 1 && found[0].contains(said), "{found:?} instead of {said}");
        }
    }

    fn of(inside: &Inside) -> Vec<String> {
        differences(&wiring(), &plan_workload(&wiring()), inside)
    }

    #[test]
    fn what_the_plan_made_is_right_and_more_does_no_harm() {
        assert_eq!(of(&made()), Vec::<String>::new());
        let mut more = made();
        more.addresses.insert("192.0.2.1/24".parse().unwrap());
        more.link.as_mut().unwrap().mtu = 1400;
        more.sysctls.clear();
        assert_eq!(of(&more), Vec::<String>::new(), "a kernel without IPv6");
    }

    /// A change of a namespace.
    type Break = fn(&mut Inside);

    #[test]
    fn each_thing_that_is_missing_is_named() {
        let cases: [(Break, &str); 12] = [
            (|i| i.link = None, "eth0 is missing"),
            (|i| i.link.as_mut().unwrap().up = false, "eth0 is down"),
            (|i| i.link.as_mut().unwrap().mtu = 9000, "eth0 has MTU 9000, more than the overlay's 1450"),
            (
                |i| i.link.as_mut().unwrap().mac = Mac([2, 0, 0, 0, 0, 1]),
                "eth0 has hardware address 02:00:00:00:00:01 instead of ee:ee:0a:ff:1e:07: what it sends is dropped",
            ),
            (|i| i.link.as_mut().unwrap().other_end = Some(3), "eth0 is not the other end of "),
            (|i| i.link.as_mut().unwrap().other_end = None, "eth0 is not the other end of "),
            (|i| i.loopback_up = false, "lo is down"),
            (|i| i.addresses.clear(), "eth0 lacks its address 10.255.30.7/32"),
            (|i| i.neighbours.clear(), "eth0 lacks the permanent neighbour 10.255.30.1 at aa:aa:0a:ff:1e:01"),
            (
                |i| drop(i.routes.remove(&"0.0.0.0/0".parse().unwrap())),
                "the route 0.0.0.0/0 via 10.255.30.1 dev eth0 src 10.255.30.7 is missing",
            ),
            (
                |i| drop(i.routes.remove(&"10.255.30.1/32".parse().unwrap())),
                "the route 10.255.30.1/32 dev eth0 src 10.255.30.7 is missing",
            ),
            (
                |i| drop(i.sysctls.insert("net/ipv6/conf/eth0/disable_ipv6".to_owned(), "0".to_owned())),
                "net/ipv6/conf/eth0/disable_ipv6 is 0 instead of 1",
            ),
        ];
        for (break_it, said) in cases {
            let mut inside = made();
            break_it(&mut inside);
            let found = of(&inside);
            assert!(found.len() == 1 && found[0].starts_with(said), "{found:?} instead of {said}");
        }
    }
}
