//! What somebody breaks by hand is as before after one pass.

use crate::support::{Host, assert_same};

/// Command lines that break something; `{port}` is a workload's end on the host.
const DRIFTS: &[&str] = &[
    "ip link del weft-vx1",
    "ip link del weft0",
    "ip link set weft-vx1 down",
    "ip link set weft0 down",
    "ip link set weft-vx1 address 02:00:00:00:00:01",
    "ip link set weft0 address 02:00:00:00:00:02",
    "ip link set weft-vx1 mtu 1300",
    "ip link set weft0 mtu 1300",
    "ip link set weft-vx1 type vxlan learning",
    "ip addr flush dev weft-vx1",
    "ip addr flush dev weft0",
    "ip addr add 10.99.0.1/24 dev weft0",
    "ip addr add 10.255.1.1/24 dev weft0",
    "ip route flush proto 119",
    "ip route del 10.255.11.0/24",
    "ip route replace 10.255.11.0/24 via 192.0.2.9 proto 119",
    "ip route replace blackhole 10.255.11.0/24 proto 119",
    "ip route add 10.250.0.0/16 via 192.0.2.9 proto 119",
    "ip route add blackhole 10.251.0.0/16 proto 119",
    "ip route add 10.252.0.0/16 proto 119 nexthop via 192.0.2.9 nexthop via 192.0.2.10",
    "ip neigh del 10.255.11.0 dev weft-vx1",
    "ip neigh replace 10.255.11.0 lladdr 02:00:00:00:00:03 dev weft-vx1 nud permanent",
    "ip neigh add 10.255.200.0 lladdr 02:00:00:00:00:04 dev weft-vx1 nud permanent",
    "ip neigh del 10.255.1.2 dev weft0",
    "bridge fdb del ee:ee:0a:ff:0c:00 dev weft-vx1 dst 192.0.2.111",
    "bridge fdb replace ee:ee:0a:ff:0c:00 dev weft-vx1 dst 192.0.2.250",
    "bridge fdb add 02:00:00:00:00:05 dev weft-vx1 dst 192.0.2.250",
    "bridge fdb append 00:00:00:00:00:00 dev weft-vx1 dst 192.0.2.250",
    "ip link set {port} nomaster",
    "ip link set {port} down",
    "bridge link set dev {port} isolated on",
    "bridge link set dev {port} learning on",
    "bridge link set dev {port} flood on",
    "bridge link set dev {port} mcast_flood on",
    "bridge link set dev {port} bcast_flood on",
    "bridge link set dev {port} hairpin off",
    "bridge fdb del ee:ee:0a:ff:01:02 dev {port} master",
    "sysctl -w net.ipv4.ip_forward=0",
    "sysctl -w net.ipv4.conf.all.send_redirects=1",
    "sysctl -w net.ipv4.conf.weft0.send_redirects=1",
    "sysctl -w net.ipv4.conf.weft0.route_localnet=0",
    "sysctl -w net.ipv4.conf.weft0.rp_filter=0",
    "sysctl -w net.ipv6.conf.weft0.disable_ipv6=0",
    "nft delete table ip weft",
    "nft flush table ip weft",
    "nft flush chain ip weft raw_output",
    "nft add rule ip weft raw_output udp dport 53 drop",
    "nft delete chain ip weft late_input",
    "nft add chain ip weft mine",
    "nft delete element ip weft ports { tcp . 8080 }",
    "nft add element ip weft ports { tcp . 8081 : 10.255.1.3 . 80 }",
    "nft add element ip weft hairpin { 10.255.1.9 . 10.255.1.9 }",
    "nft flush set ip weft arrivals_at",
    "nft add chain ip weft raw_output { policy drop ; }",
];

#[test]
fn drift_heals_in_one_pass() {
    let mut host = Host::new();
    host.add_workload(2);
    host.add_workload(3);
    host.reconcile();
    let wanted = host.portrait();
    for drift in DRIFTS {
        let line = drift.replace("{port}", host.port(2).as_str());
        host.space.sh(&line);
        let broken = host.plan();
        assert!(!broken.is_empty(), "`{line}` was not noticed");
        host.reconcile();
        assert_same(&host.portrait(), &wanted, &format!("after `{line}`"));
    }
}

#[test]
fn a_device_too_small_for_ipv6_has_no_ipv6_settings_and_there_is_rest() {
    let mut host = Host::new();
    host.placement.mtu = 1200;
    let ops = host.reconcile();
    assert!(!ops.is_empty());
    assert_eq!(host.plan(), []);
}
