//! Somebody removes what we made, by hand: it is back within a second of the kernel's notification.

use std::net::SocketAddr;
use std::time::Duration;
use weft_lab::probe::{self, HttpServer};
use weft_lab::wait;
use weft_lab::workload::WorkloadOptions;
use weft_tests::lab;

#[test]
fn what_is_removed_by_hand_is_back_within_a_second() {
    let mut lab = lab("drift");
    let a = lab.add("n1", &WorkloadOptions::pod("a", "open")).unwrap();
    let b = lab.add("n2", &WorkloadOptions::pod("b", "open")).unwrap();
    let _server = HttpServer::start(&b.netns, 8080).unwrap();
    let to = SocketAddr::from((b.ip, 8080));
    let answered = || probe::get(&a.netns, to, Duration::from_millis(100));
    wait::until("the first answer", Duration::from_secs(5), answered).unwrap();
    let host = lab.host("n1");
    let peer = lab.host("n2").status().unwrap().subnet.unwrap();
    let mac = peer.vtep_mac();
    for line in [
        "ip link del weft-vx1".to_owned(),
        "ip link set weft-vx1 down".to_owned(),
        "ip link del weft0".to_owned(),
        "ip link set weft0 down".to_owned(),
        format!("ip route del {peer} proto 119"),
        format!("ip neigh del {} dev weft-vx1", peer.vtep_ip()),
        format!("bridge fdb del {mac} dev weft-vx1 dst {} self", lab.host("n2").address),
    ] {
        host.sh(&line).unwrap();
        let (_, took) = wait::until(&line, Duration::from_secs(5), answered).unwrap();
        assert!(took < Duration::from_millis(1200), "{line}: healed only after {took:?}");
    }
}

/// What others made stays: a route, an address, a bridge of somebody else.
#[test]
fn what_others_made_is_never_touched() {
    let lab = lab("others");
    let host = lab.host("n1");
    for line in [
        "ip link add br-other type bridge",
        "ip addr add 198.51.100.1/24 dev br-other",
        "ip link set br-other up",
        "ip route add 203.0.113.0/24 via 192.0.2.100 proto static",
        "nft add table ip other",
    ] {
        host.sh(line).unwrap();
    }
    let before = host.status().unwrap().network.changes;
    host.sh("ip link set weft0 down").unwrap();
    wait::until_true("a pass", Duration::from_secs(5), || Ok(host.status()?.network.changes > before)).unwrap();
    assert!(host.sh("ip addr show br-other").unwrap().contains("198.51.100.1/24"));
    assert!(host.sh("ip route show 203.0.113.0/24").unwrap().contains("192.0.2.100"));
    assert!(host.sh("nft list tables").unwrap().contains("other"));
}
