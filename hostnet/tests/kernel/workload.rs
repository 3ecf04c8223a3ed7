//! Wiring a workload, and traffic through it.

use crate::support::{Host, ifname};
use serde_json::json;
use weft_model::wired::{differences, sysctls_of};
use weft_model::workload::plan_workload;

#[test]
fn the_plugins_plans_make_what_the_design_asks_for() {
    let mut host = Host::new();
    let wiring = host.add_workload(2);
    let (space, inside) = (&host.space, &host.inside[0]);
    let port = space.link(wiring.host_ifname().as_str());
    assert_eq!(port["ifindex"], json!(0x0100_0002));
    assert_eq!(port["address"], "aa:aa:0a:ff:01:02");
    assert_eq!(port["mtu"], 1450);
    assert_eq!(port["ifalias"], "weft:1:0123456789abcdef:container-2:eth0");
    assert_eq!(port["master"], json!(null));
    assert!(!port["flags"].as_array().unwrap().contains(&json!("UP")), "raised only by the agent");
    let eth0 = inside.link("eth0");
    assert_eq!(eth0["address"], "ee:ee:0a:ff:01:02");
    assert_eq!(eth0["mtu"], 1450);
    assert!(eth0["flags"].as_array().unwrap().contains(&json!("UP")));
    assert!(inside.link("lo")["flags"].as_array().unwrap().contains(&json!("UP")));
    assert_eq!(inside.sh("sysctl -n net.ipv6.conf.eth0.disable_ipv6").trim(), "1");
    let address = &inside.json("ip -4 -j addr show dev eth0")[0]["addr_info"][0];
    assert_eq!((&address["local"], &address["prefixlen"]), (&json!("10.255.1.2"), &json!(32)));
    let gateway = &inside.json("ip -j neigh")[0];
    assert_eq!((&gateway["dst"], &gateway["lladdr"]), (&json!("10.255.1.1"), &json!("aa:aa:0a:ff:01:01")));
    assert_eq!(gateway["state"], json!(["PERMANENT"]));
}

#[test]
fn workloads_reach_their_host_and_each_other() {
    let mut host = Host::new();
    host.add_workload(2);
    host.add_workload(3);
    host.reconcile();
    let inside = &host.inside[0];
    assert!(inside.sh("ip -4 route").contains("default via 10.255.1.1 dev eth0 proto 119 src 10.255.1.2"));
    inside.ping("10.255.1.1");
    inside.ping("10.255.1.3");
    host.space.ping("10.255.1.2");
    // Nobody learned anything, nobody was asked by broadcast.
    let learned = host.space.sh("bridge fdb show br weft0");
    assert!(!learned.lines().any(|line| line.contains("ee:ee:") && !line.contains("static")), "{learned}");
    assert_eq!(host.space.sh("ip neigh show dev weft0 nud stale nud reachable").trim(), "");
    assert_eq!(host.executor.link(&ifname("weft0")).unwrap().unwrap().mtu, 1450);
}

#[test]
fn a_removed_workload_is_gone_at_once() {
    let mut host = Host::new();
    let wiring = host.add_workload(2);
    host.reconcile();
    let delete = weft_model::op::Op::DeleteLink(wiring.host_ifname());
    host.executor.execute(&[delete.clone(), delete], None).unwrap();
    assert_eq!(host.executor.link(&wiring.host_ifname()).unwrap(), None);
    assert!(!host.inside[0].sh("ip -o link").contains("eth0"));
    host.workloads.clear();
    host.reconcile();
}

#[test]
fn workloads_are_removed_together_and_nothing_else_goes() {
    let mut host = Host::new();
    let wirings: Vec<_> = (2..6).map(|slot| host.add_workload(slot)).collect();
    host.reconcile();
    // Doomed by an agent that was killed before it removed them: goes with the next pass.
    let group = weft_model::op::DOOMED_GROUP;
    host.space.sh(&format!("ip link set {} group {group}", wirings[3].host_ifname()));
    let mut doomed: Vec<_> = wirings[..2].iter().map(weft_model::workload::Wiring::host_ifname).collect();
    doomed.push(ifname("weft-is-not"));
    let ops = [weft_model::op::Op::DeleteLinks(doomed)];
    host.executor.execute(&ops, None).unwrap();
    host.executor.execute(&ops, None).expect("again, with nothing there");
    let left = |host: &mut Host, number: usize| host.executor.link(&wirings[number].host_ifname()).unwrap().is_some();
    assert_eq!([0, 1, 2, 3].map(|number| left(&mut host, number)), [false, false, true, false]);
    for (number, inside) in host.inside.iter().enumerate() {
        assert_eq!(inside.sh("ip -o link").contains("eth0"), number == 2, "{number}");
    }
    host.inside[2].ping("10.255.1.1");
    host.executor.execute(&[weft_model::op::Op::DeleteLinks(vec![wirings[2].host_ifname()])], None).unwrap();
    assert!(!left(&mut host, 2));
}

#[test]
fn a_wired_namespace_reads_as_its_plan_and_what_is_changed_by_hand_is_seen() {
    let mut host = Host::new();
    let wiring = host.add_workload(2);
    host.reconcile();
    let plan = plan_workload(&wiring);
    let mut inside = host.inside[0].executor();
    let mut found = || {
        let seen = inside.inside(&ifname("eth0"), &sysctls_of(&plan)).unwrap();
        differences(&wiring, &plan, &seen)
    };
    assert_eq!(found(), Vec::<String>::new());
    let space = &host.inside[0];
    for (line, said) in [
        ("ip link set eth0 mtu 1500", "MTU 1500"),
        ("ip neigh del 10.255.1.1 dev eth0", "neighbour 10.255.1.1"),
        ("ip link set eth0 address 02:00:00:00:00:01", "hardware address 02:00:00:00:00:01"),
        ("sysctl -qw net.ipv6.conf.eth0.disable_ipv6=0", "disable_ipv6 is 0"),
        ("ip route del default", "route 0.0.0.0/0"),
        ("ip addr add 192.0.2.9/24 dev eth0", ""),
        ("ip addr del 10.255.1.2/32 dev eth0", "address 10.255.1.2/32"),
        ("ip link set lo down", "lo is down"),
        ("ip link set eth0 down", "eth0 is down"),
    ] {
        space.sh(line);
        let found = found();
        assert!(found.iter().any(|difference| difference.contains(said)) || said.is_empty(), "{line}: {found:?}");
    }
    space.sh("ip link set eth0 name other");
    assert_eq!(found(), ["eth0 is missing"]);
    let (port, bridge) = (wiring.host_ifname(), ifname("weft0"));
    let mut link = |name| host.executor.link(name).unwrap().unwrap();
    let (port, bridge) = (link(&port), link(&bridge));
    let wired = |host: &mut Host| {
        let executor = &mut host.executor;
        let entry = executor.has_port_entry(&bridge, &port, wiring.workload_mac()).unwrap();
        (entry, executor.has_neighbour(&bridge, wiring.address, wiring.workload_mac()).unwrap())
    };
    assert_eq!(wired(&mut host), (true, true));
    host.space.sh(&format!("bridge fdb del {} dev {} master", wiring.workload_mac(), port.name));
    host.space.sh("ip neigh del 10.255.1.2 dev weft0");
    assert_eq!(wired(&mut host), (false, false));
}
