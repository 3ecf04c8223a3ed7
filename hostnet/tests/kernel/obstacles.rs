//! What the kernel refuses: one error that names the op, with the kernel's words.

use crate::support::{Host, Space, ifname, ip, mac};
use weft_model::op::{NftChain, NftTable, Op, Route, Veth};

#[test]
fn an_error_names_the_op_and_has_the_kernels_words() {
    let space = Space::new();
    let mut executor = space.executor();
    let bridge = Op::CreateBridge { name: ifname("b0"), mac: mac("02:00:00:00:00:01"), mtu: 1450 };
    let up = Op::SetUp(ifname("b0"));
    let onlink = |via| Route {
        destination: "10.1.0.0/16".parse().unwrap(),
        via: Some(ip(via)),
        link: ifname("b0"),
        onlink: false,
        source: None,
    };
    let ops = [bridge.clone(), up, Op::ReplaceRoute(onlink("192.0.2.1"))];
    let error = executor.execute(&ops, None).unwrap_err();
    assert_eq!(error.index, 2);
    assert_eq!(
        error.to_string(),
        "route replace 10.1.0.0/16 via 192.0.2.1 dev b0 proto 119: Nexthop has invalid gateway (ENETUNREACH)"
    );
    let error = executor.execute(&[bridge], None).unwrap_err();
    assert!(error.already_exists());
    assert_eq!(error.to_string(), "link add b0 address 02:00:00:00:00:01 mtu 1450 type bridge: File exists (EEXIST)");
    let error = executor.execute(&[Op::SetUp(ifname("none"))], None).unwrap_err();
    assert_eq!(error.to_string(), "link set none up: No such device (ENODEV)");
    let error = executor.execute(&[Op::AddAddress(ifname("none"), "10.0.0.1/32".parse().unwrap())], None).unwrap_err();
    assert_eq!(error.to_string(), "addr add 10.0.0.1/32 dev none: none: No such device (ENODEV)");
}

#[test]
fn of_many_ops_in_a_datagram_the_one_that_failed_is_named() {
    let space = Space::new();
    let mut executor = space.executor();
    let neighbour = |n: u8| Op::ReplaceNeighbour(ifname("b0"), ip(&format!("10.1.0.{n}")), mac("02:00:00:00:00:01"));
    let bridge = Op::CreateBridge { name: ifname("b0"), mac: mac("02:00:00:00:00:01"), mtu: 1450 };
    let mut ops = vec![bridge, Op::SetUp(ifname("b0"))];
    ops.extend((1..100).map(neighbour));
    ops.insert(50, Op::SetMtu(ifname("b0"), 70_000));
    let error = executor.execute(&ops, None).unwrap_err();
    assert_eq!((error.index, error.op.as_str()), (50, "link set b0 mtu 70000"));
    assert_eq!(error.text, "mtu greater than device maximum");
}

#[test]
fn a_port_taken_by_a_device_without_gbp_does_not_keep_the_rest_from_being_done() {
    let mut host = Host::new();
    host.add_workload(2);
    host.space.sh("ip link add flannel.1 type vxlan id 9 dstport 8472 dev under nolearning");
    host.space.sh("ip link set flannel.1 up");
    let ops = host.plan();
    let errors = host.executor.execute_all(&ops, None).unwrap_err();
    assert_eq!(errors[0].to_string(), "link set weft-vx1 up: Address already in use (EADDRINUSE)");
    let port = host.port(2);
    assert_eq!(host.space.link(port.as_str())["master"], "weft0");
    assert!(host.space.sh("nft list table ip weft").contains("notrack"));
    // The obstacle goes away: everything is done.
    host.space.sh("ip link del flannel.1");
    host.reconcile();
}

#[test]
fn a_route_of_somebody_elses_is_reported_and_left_alone() {
    let mut host = Host::new();
    host.space.sh("ip route add 10.255.11.0/24 via 192.0.2.9 proto static");
    let ops = host.plan();
    let errors = host.executor.execute_all(&ops, None).unwrap_err();
    assert_eq!(errors.len(), 1);
    assert_eq!(
        errors[0].to_string(),
        "route replace 10.255.11.0/24 via 10.255.11.0 dev weft-vx1 onlink src 10.255.1.0 proto 119: \
         another's route is in the way (protocol 4) (EEXIST)"
    );
    assert_eq!(
        host.space.sh("ip route show 10.255.11.0/24").trim(),
        "10.255.11.0/24 via 192.0.2.9 dev under proto static"
    );
    host.space.sh("ip route del 10.255.11.0/24");
    host.reconcile();
}

#[test]
fn a_veth_that_fails_leaves_an_older_one_as_it_is() {
    let mut host = Host::new();
    let wiring = host.add_workload(2);
    let other = Space::new();
    let veth = Veth {
        host_name: wiring.host_ifname(),
        host_index: wiring.host_index() + 1,
        host_mac: wiring.host_mac(),
        workload_name: ifname("eth0"),
        workload_mac: wiring.workload_mac(),
        mtu: 1450,
        alias: "weft:1:ffffffff:other:eth0".to_owned(),
        group: 0,
    };
    let error = host.executor.execute(&[Op::CreateVeth(veth.clone())], Some(&other.netns())).unwrap_err();
    assert!(error.already_exists(), "{error}");
    let link = host.executor.link(&wiring.host_ifname()).unwrap().unwrap();
    assert_eq!(link.alias, Some(wiring.alias().to_string()));
    let error = host.executor.execute(&[Op::CreateVeth(veth)], None).unwrap_err();
    assert_eq!(error.text, "no namespace for the workload's end was given");
}

#[test]
fn removing_what_is_not_there_is_a_success() {
    let space = Space::new();
    let mut executor = space.executor();
    let (link, none) = (ifname("b0"), ifname("none"));
    let route = Route {
        destination: "10.9.0.0/16".parse().unwrap(),
        via: None,
        link: link.clone(),
        onlink: false,
        source: None,
    };
    space.sh("ip link add b0 type bridge");
    space.sh("ip link add b1 type vxlan id 3 dstport 8472");
    let mut ops = vec![Op::DeleteLink(none.clone()), Op::DeleteRoute(route)];
    for link in [link, none] {
        ops.push(Op::DeleteAddress(link.clone(), "10.9.0.1/32".parse().unwrap()));
        ops.push(Op::DeleteNeighbour(link.clone(), ip("10.9.0.1")));
    }
    let mac = mac("02:00:00:00:00:01");
    ops.push(Op::DeleteTunnelEntry { link: ifname("b1"), mac, to: ip("192.0.2.1") });
    executor.execute(&ops, None).unwrap();
}

#[test]
fn settings_that_cannot_be_written_are_named() {
    let mut executor = Space::new().executor();
    let set = |key: &str, value: &str| Op::SetSysctl(key.to_owned(), value.to_owned());
    let error = executor.execute(&[set("net/ipv4/conf/none/send_redirects", "0")], None).unwrap_err();
    assert_eq!(error.to_string(), "sysctl net/ipv4/conf/none/send_redirects = 0: No such file or directory (ENOENT)");
    executor.execute(&[set("net/ipv6/conf/none/disable_ipv6", "1")], None).unwrap();
    let error = executor.execute(&[set("net/ipv4/ip_forward", "maybe")], None).unwrap_err();
    assert_eq!(error.to_string(), "sysctl net/ipv4/ip_forward = maybe: Invalid argument (EINVAL)");
    let error = executor.execute(&[set("../../etc/passwd", "x")], None).unwrap_err();
    assert_eq!(error.text, "not a path below /proc/sys");
}

#[test]
fn a_table_nft_cannot_read_is_refused_and_the_old_one_stays() {
    let mut host = Host::new();
    host.reconcile();
    let before = host.space.sh("nft list ruleset");
    let table = NftTable {
        chains: vec![NftChain {
            name: "raw_output",
            hook: "type filter hook output priority -300; policy accept;",
            rules: vec!["udp dport 1 accept".to_owned(), "nonsense".to_owned()],
        }],
        sets: Vec::new(),
    };
    let error = host.executor.execute(&[Op::PutNft(table)], None).unwrap_err();
    assert!(error.text.contains("syntax error"), "{error}");
    assert_eq!(host.space.sh("nft list ruleset"), before);
}

#[test]
fn nothing_after_the_op_that_failed_is_begun() {
    let space = Space::new();
    let mut executor = space.executor();
    let (link, absent) = (ifname("b0"), ifname("none"));
    let bridge = Op::CreateBridge { name: link.clone(), mac: mac("02:00:00:00:00:01"), mtu: 1450 };
    let address = Op::AddAddress(link.clone(), "10.9.0.1/32".parse().unwrap());
    // The look-up of b0 sends what is pending, and that fails.
    let ops = [bridge, Op::SetUp(absent), address, Op::SetUp(link)];
    let error = executor.execute(&ops, None).unwrap_err();
    assert_eq!(error.index, 1);
    assert_eq!(space.sh("ip -4 -o addr show dev b0"), "");
    let errors = executor.execute_all(&ops, None).unwrap_err();
    assert_eq!(errors.iter().map(|error| error.index).collect::<Vec<_>>(), [0, 1], "b0 is there by now");
    assert!(space.sh("ip -4 -o addr show dev b0").contains("10.9.0.1/32"));
}

#[test]
fn a_missing_nft_program_is_named() {
    const NAMESPACE: &str = "WEFT_TEST_NAMESPACE";
    if let Ok(path) = std::env::var(NAMESPACE) {
        let mut executor = weft_hostnet::Executor::in_namespace(&weft_hostnet::Netns::open(path).unwrap()).unwrap();
        let error = executor.execute(&[Op::PutNft(NftTable::default())], None).unwrap_err();
        panic!("{error}");
    }
    // The same test in a process of its own, because PATH belongs to the whole process.
    let space = Space::new();
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "obstacles::a_missing_nft_program_is_named"])
        .envs([("PATH", "/nowhere"), (NAMESPACE, &space.path())])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("nft replace table:: the program `nft` is not installed (package nftables)"), "{text}");
}
