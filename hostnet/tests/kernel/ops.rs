//! Every op: done by the executor, seen by an independent reader and by our own snapshot.

use crate::support::{Host, Space, ifname, ip, mac};
use serde_json::json;
use std::collections::BTreeSet;
use weft_hostnet::{Executor, SnapshotScope};
use weft_model::bandwidth::{Limit, SHAPER_IFINDEX_BASE, TokenBucket, shaper, shaper_ifname};
use weft_model::id::Slot;
use weft_model::op::{NftChain, NftTable, Op, Route, Vxlan};
use weft_model::overlay::{Actual, LinkKind, rule_id};

const SETTING: &str = "net/ipv4/conf/weft0/send_redirects";

fn snapshot(executor: &mut Executor) -> Actual {
    let scope = SnapshotScope {
        bridge: ifname("weft0"),
        vxlan: ifname("weft-vx1"),
        sysctls: BTreeSet::from([SETTING.to_owned(), "net/ipv4/conf/none/send_redirects".to_owned()]),
        limits: true,
    };
    executor.snapshot(&scope).unwrap()
}

/// A namespace with our bridge, up, and an executor.
fn with_bridge() -> (Space, Executor) {
    let space = Space::new();
    let mut executor = space.executor();
    let create = Op::CreateBridge { name: ifname("weft0"), mac: mac("02:00:00:00:00:01"), mtu: 1400 };
    executor.execute(&[create, Op::SetUp(ifname("weft0"))], None).unwrap();
    (space, executor)
}

fn vxlan(underlay: u32) -> Vxlan {
    Vxlan {
        name: ifname("weft-vx1"),
        vni: 77,
        port: 4789,
        local: ip("192.0.2.1"),
        underlay,
        mac: mac("02:00:00:00:00:02"),
        mtu: 1400,
        gbp: true,
    }
}

/// A namespace with our VXLAN device, up.
fn with_vxlan() -> (Host, Vxlan) {
    let mut host = Host::new();
    let vxlan = vxlan(host.placement.underlay_index);
    host.executor.execute(&[Op::CreateVxlan(vxlan.clone()), Op::SetUp(vxlan.name.clone())], None).unwrap();
    (host, vxlan)
}

#[test]
fn a_bridge_and_what_is_set_on_it() {
    let (space, mut executor) = with_bridge();
    let seen = space.link("weft0");
    assert_eq!((&seen["address"], &seen["mtu"]), (&json!("02:00:00:00:00:01"), &json!(1400)));
    assert_eq!(seen["linkinfo"]["info_kind"], "bridge");
    let link = snapshot(&mut executor).links[&ifname("weft0")].clone();
    assert_eq!((link.kind, link.up, link.mtu), (LinkKind::Bridge, true, 1400));

    let name = ifname("weft0");
    let ops = [Op::SetMac(name.clone(), mac("02:00:00:00:00:09")), Op::SetMtu(name.clone(), 1300)];
    executor.execute(&ops, None).unwrap();
    let seen = space.link("weft0");
    assert_eq!((&seen["address"], &seen["mtu"]), (&json!("02:00:00:00:00:09"), &json!(1300)));

    executor.execute(&[Op::DeleteLink(name.clone())], None).unwrap();
    assert!(!space.sh("ip -o link").contains("weft0"));
    assert!(!snapshot(&mut executor).links.contains_key(&name));
}

#[test]
fn a_vxlan_device() {
    let (mut host, vxlan) = with_vxlan();
    let seen = host.space.link("weft-vx1");
    let data = &seen["linkinfo"]["info_data"];
    assert_eq!((&data["id"], &data["port"], &data["local"]), (&json!(77), &json!(4789), &json!("192.0.2.1")));
    assert_eq!((&data["learning"], &data["link"]), (&json!(false), &json!("under")));
    assert!(host.space.sh("ip -d link show dev weft-vx1").contains(" gbp "));
    assert_eq!((&seen["address"], &seen["mtu"]), (&json!("02:00:00:00:00:02"), &json!(1400)));
    let link = snapshot(&mut host.executor).links[&vxlan.name].clone();
    let kind = LinkKind::Vxlan {
        vni: 77,
        port: 4789,
        local: Some(vxlan.local),
        underlay: Some(vxlan.underlay),
        gbp: true,
        learning: false,
    };
    assert_eq!((link.kind, link.mac, link.up), (kind, vxlan.mac, true));

    host.executor.execute(&[Op::DeleteLink(vxlan.name.clone())], None).unwrap();
    host.executor.execute(&[Op::CreateVxlan(Vxlan { gbp: false, ..vxlan.clone() })], None).unwrap();
    assert!(!host.space.sh("ip -d link show dev weft-vx1").contains(" gbp "));
    let link = snapshot(&mut host.executor).links[&vxlan.name].clone();
    assert!(matches!(link.kind, LinkKind::Vxlan { gbp: false, .. }));
}

#[test]
fn addresses() {
    let (space, mut executor) = with_bridge();
    let (link, address) = (ifname("weft0"), "10.255.1.1/32".parse().unwrap());
    let add = Op::AddAddress(link.clone(), address);
    executor.execute(&[add.clone(), add], None).unwrap();
    let seen = &space.json("ip -4 -j addr show dev weft0")[0]["addr_info"];
    assert_eq!(seen.as_array().unwrap().len(), 1);
    assert_eq!((&seen[0]["local"], &seen[0]["prefixlen"]), (&json!("10.255.1.1"), &json!(32)));
    assert_eq!(snapshot(&mut executor).addresses, BTreeSet::from([(link.clone(), address)]));
    executor.execute(&[Op::DeleteAddress(link, address)], None).unwrap();
    assert_eq!(space.sh("ip -4 -o addr show dev weft0"), "");
    assert_eq!(snapshot(&mut executor).addresses, BTreeSet::new());
}

#[test]
fn neighbours() {
    let (space, mut executor) = with_bridge();
    let link = ifname("weft0");
    space.sh("ip neigh add 10.255.1.9 lladdr 02:00:00:00:00:09 dev weft0 nud stale");
    space.sh("ip link add other type bridge");
    space.sh("ip link set other up");
    space.sh("ip neigh add 10.255.1.9 lladdr 02:00:00:00:00:09 dev other nud permanent");
    for hardware in ["02:00:00:00:00:0a", "02:00:00:00:00:0b"] {
        executor.execute(&[Op::ReplaceNeighbour(link.clone(), ip("10.255.1.2"), mac(hardware))], None).unwrap();
        let seen = space.json("ip -j neigh show 10.255.1.2");
        assert_eq!((&seen[0]["lladdr"], &seen[0]["state"]), (&json!(hardware), &json!(["PERMANENT"])));
        let snapshot = snapshot(&mut executor).neighbours;
        assert_eq!(snapshot.into_iter().collect::<Vec<_>>(), [((link.clone(), ip("10.255.1.2")), mac(hardware))]);
    }
    // One that the kernel learned becomes permanent.
    executor.execute(&[Op::ReplaceNeighbour(link.clone(), ip("10.255.1.9"), mac("02:00:00:00:00:09"))], None).unwrap();
    assert_eq!(snapshot(&mut executor).neighbours.len(), 2);
    for gone in ["10.255.1.2", "10.255.1.9"] {
        executor.execute(&[Op::DeleteNeighbour(link.clone(), ip(gone))], None).unwrap();
    }
    assert_eq!(space.sh("ip neigh show dev weft0 nud permanent"), "");
    assert!(snapshot(&mut executor).neighbours.is_empty());
}

#[test]
fn forwarding_entries_of_the_vxlan_device() {
    let (mut host, vxlan) = with_vxlan();
    let (link, peer) = (vxlan.name, mac("ee:ee:0a:ff:0b:00"));
    for to in [ip("192.0.2.7"), ip("192.0.2.8")] {
        host.executor.execute(&[Op::ReplaceTunnelEntry { link: link.clone(), mac: peer, to }], None).unwrap();
        let seen = host.space.sh("bridge fdb show dev weft-vx1");
        assert_eq!(seen.trim(), format!("ee:ee:0a:ff:0b:00 dst {to} self permanent"));
        let snapshot = snapshot(&mut host.executor).tunnels;
        assert_eq!(snapshot.into_iter().collect::<Vec<_>>(), [(peer, to)]);
    }
    let delete = Op::DeleteTunnelEntry { link, mac: peer, to: ip("192.0.2.8") };
    host.executor.execute(&[delete], None).unwrap();
    assert_eq!(host.space.sh("bridge fdb show dev weft-vx1"), "");
    assert!(snapshot(&mut host.executor).tunnels.is_empty());
}

#[test]
fn bridge_ports_and_their_forwarding_entries() {
    let (space, mut executor) = with_bridge();
    space.sh("ip link add p0 type veth peer name p1");
    let port = ifname("p0");
    let before = snapshot(&mut executor).links[&port].clone();
    assert_eq!((before.kind, before.guarded_port, before.master), (LinkKind::Veth, false, None));
    let join = Op::JoinBridge { link: port.clone(), bridge: ifname("weft0") };
    executor.execute(&[join, Op::ReplacePortEntry(port.clone(), mac("ee:ee:0a:ff:01:02"))], None).unwrap();
    let seen = space.link("p0");
    assert_eq!(seen["master"], "weft0");
    let data = &seen["linkinfo"]["info_slave_data"];
    for (setting, wanted) in [
        ("isolated", false),
        ("learning", false),
        ("flood", false),
        ("mcast_flood", false),
        ("bcast_flood", false),
        ("hairpin", true),
    ] {
        assert_eq!(data[setting], wanted, "{setting}");
    }
    assert!(space.sh("bridge fdb show dev p0").contains("ee:ee:0a:ff:01:02 master weft0 static"));
    let after = snapshot(&mut executor);
    assert!(after.links[&port].guarded_port);
    assert_eq!(after.links[&port].master, Some(after.links[&ifname("weft0")].index));
    assert_eq!(after.port_entries, BTreeSet::from([(port.clone(), mac("ee:ee:0a:ff:01:02"))]));
    executor.execute(&[Op::SetUp(port)], None).unwrap();
    assert!(space.link("p0")["flags"].as_array().unwrap().contains(&json!("UP")));
}

#[test]
fn routes() {
    let (space, mut executor) = with_bridge();
    let link = ifname("weft0");
    executor.execute(&[Op::AddAddress(link.clone(), "10.255.1.1/32".parse().unwrap())], None).unwrap();
    let on_link = Route {
        destination: "10.255.1.0/24".parse().unwrap(),
        via: None,
        link: link.clone(),
        onlink: false,
        source: Some(ip("10.255.1.1")),
    };
    let far = Route {
        destination: "10.255.2.0/24".parse().unwrap(),
        via: Some(ip("10.255.2.0")),
        link: link.clone(),
        onlink: true,
        source: None,
    };
    let default =
        Route { destination: "0.0.0.0/0".parse().unwrap(), via: Some(ip("10.255.1.9")), onlink: false, ..far.clone() };
    let routes = [on_link, far, default];
    for route in &routes {
        let put = Op::ReplaceRoute(route.clone());
        executor.execute(&[put.clone(), put], None).unwrap();
    }
    let seen = space.sh("ip route show proto 119");
    let mut seen: Vec<&str> = seen.lines().map(str::trim).collect();
    seen.sort_unstable();
    assert_eq!(
        seen,
        [
            "10.255.1.0/24 dev weft0 scope link src 10.255.1.1 linkdown",
            "10.255.2.0/24 via 10.255.2.0 dev weft0 onlink linkdown",
            "default via 10.255.1.9 dev weft0 linkdown",
        ]
    );
    let found: Vec<Route> = snapshot(&mut executor).routes.into_values().collect();
    assert_eq!(found.iter().collect::<BTreeSet<_>>(), routes.iter().collect());

    let changed = Route { via: Some(ip("10.255.1.8")), ..routes[2].clone() };
    executor.execute(&[Op::ReplaceRoute(changed.clone())], None).unwrap();
    assert_eq!(snapshot(&mut executor).routes[&changed.destination], changed);
    let delete: Vec<Op> = routes.iter().cloned().map(Op::DeleteRoute).collect();
    executor.execute(&delete, None).unwrap();
    assert_eq!(space.sh("ip route show proto 119"), "");
    assert!(snapshot(&mut executor).routes.is_empty());
}

#[test]
fn settings() {
    let (space, mut executor) = with_bridge();
    for value in ["0", "1"] {
        executor.execute(&[Op::SetSysctl(SETTING.to_owned(), value.to_owned())], None).unwrap();
        assert_eq!(space.sh("sysctl -n net.ipv4.conf.weft0.send_redirects").trim(), value);
        let sysctls = snapshot(&mut executor).sysctls;
        assert_eq!(sysctls.into_iter().collect::<Vec<_>>(), [(SETTING.to_owned(), value.to_owned())]);
    }
}

#[test]
fn the_nftables_table() {
    let (space, mut executor) = with_bridge();
    assert_eq!(snapshot(&mut executor).nft, None);
    let rule = |port: u16| format!("udp dport {port} meta mark set 0 notrack");
    let table = |ports: &[u16]| NftTable {
        chains: vec![NftChain {
            name: "raw_output",
            hook: "type filter hook output priority -300; policy accept;",
            rules: ports.iter().copied().map(rule).collect(),
        }],
        sets: Vec::new(),
    };
    for ports in [[1, 2, 3].as_slice(), &[2], &[]] {
        executor.execute(&[Op::PutNft(table(ports))], None).unwrap();
        let seen = space.json("nft -j list table ip weft");
        let comments: Vec<&str> = seen["nftables"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|object| object["rule"]["comment"].as_str())
            .collect();
        let ids: Vec<String> = ports.iter().map(|port| rule_id(&rule(*port))).collect();
        assert_eq!(comments, ids.iter().map(|id| format!("weft:{id}")).collect::<Vec<_>>());
        let chains = snapshot(&mut executor).nft.unwrap().chains;
        assert_eq!(chains.into_iter().collect::<Vec<_>>(), [("raw_output".to_owned(), ids)]);
    }
    let mut other = space.executor().with_nft_table("weft_lab");
    other.execute(&[Op::PutNft(table(&[9]))], None).unwrap();
    assert!(space.sh("nft list tables").contains("table ip weft_lab"));
    assert_eq!(snapshot(&mut executor).nft.unwrap().chains["raw_output"], [""; 0]);
}

/// The kernel says exactly what it was told, from the slowest to what needs 64 bits; other kinds of queues are not ours.
#[test]
fn buckets_and_shapers_are_seen_as_they_were_put() {
    let (_space, mut executor) = with_bridge();
    let (name, index) = (shaper_ifname(Slot(7)), SHAPER_IFINDEX_BASE + 7);
    executor.execute(&[Op::CreateShaper(shaper(Slot(7), 1450))], None).unwrap();
    for (rate, burst) in [(8, 8), (1_000_000, 10_000), (50_000_000, u64::from(u32::MAX)), (1 << 40, 1 << 30)] {
        let bucket = TokenBucket::of(Limit { rate, burst }, 1450);
        executor.execute(&[Op::Shape(name.clone(), bucket), Op::SetUp(name.clone())], None).unwrap();
        let seen = snapshot(&mut executor);
        assert_eq!(seen.buckets, [(index, bucket)].into(), "{rate} {burst}");
        let link = &seen.links[&name];
        assert_eq!((link.index, &link.kind, link.up), (index, &LinkKind::Ifb, true));
    }
    executor.execute(&[Op::DeleteLink(name.clone())], None).unwrap();
    assert!(snapshot(&mut executor).buckets.is_empty());
    let error =
        executor.execute(&[Op::Shape(name, TokenBucket::of(Limit { rate: 8, burst: 8 }, 1450))], None).unwrap_err();
    assert!(error.to_string().contains("No such device"), "{error}");
}
