//! Somebody removes what we made, by hand: it is back at the kernel's notification.

use std::net::SocketAddr;
use std::time::{Duration, Instant};
use weft_lab::probe::{self, HttpServer};
use weft_lab::wait;
use weft_lab::workload::WorkloadOptions;
use weft_tests::{PATIENCE, lab};

/// Twice seven things: by the timer alone, every ten seconds, they would be back after 130 s and more.
const ROUNDS: u32 = 2;
/// Less than that, and much more than the notifications need on any machine.
const SOONER: Duration = PATIENCE.saturating_mul(2);

#[test]
fn what_is_removed_by_hand_is_back_without_waiting_for_the_timer() {
    let mut lab = lab("drift");
    let a = lab.add("n1", &WorkloadOptions::pod("a", "open")).unwrap();
    let b = lab.add("n2", &WorkloadOptions::pod("b", "open")).unwrap();
    let _server = HttpServer::start(&b.netns, 8080).unwrap();
    let to = SocketAddr::from((b.ip, 8080));
    // A packet that met the hole is lost: soon anew, and with more time where the machine needs it.
    let answer = |what: &str| {
        let mut limit = Duration::from_millis(50);
        let answered = || {
            limit = (limit * 2).min(Duration::from_secs(5));
            probe::get(&a.netns, to, limit)
        };
        wait::until(what, PATIENCE, answered).unwrap();
    };
    answer("the first answer");
    let host = lab.host("n1");
    let peer = lab.host("n2").status().unwrap().subnet.unwrap();
    let mac = peer.vtep_mac();
    let lines = [
        "ip link del weft-vx1".to_owned(),
        "ip link set weft-vx1 down".to_owned(),
        "ip link del weft0".to_owned(),
        "ip link set weft0 down".to_owned(),
        format!("ip route del {peer} proto 119"),
        format!("ip neigh del {} dev weft-vx1", peer.vtep_ip()),
        format!("bridge fdb del {mac} dev weft-vx1 dst {} self", lab.host("n2").address),
    ];
    let start = Instant::now();
    for line in (0..ROUNDS).flat_map(|_| &lines) {
        host.sh(line).unwrap();
        answer(line);
    }
    assert!(start.elapsed() < SOONER, "healed only after {:?}", start.elapsed());
}

/// Nobody tells of these: they are looked for.
#[test]
fn settings_changed_by_hand_are_back_at_the_latest_with_the_timer() {
    let lab = lab("settings");
    let host = lab.host("n1");
    for (key, ours, theirs) in [("net.ipv4.ip_forward", "1", "0"), ("net.ipv4.conf.weft0.send_redirects", "0", "1")] {
        let value = || host.sh(&format!("sysctl -n {key}"));
        assert_eq!(value().unwrap().trim(), ours, "{key}");
        host.sh(&format!("sysctl -qw {key}={theirs}")).unwrap();
        wait::until_true(key, PATIENCE, || Ok(value()?.trim() == ours)).unwrap();
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
    host.sh("ip link set weft0 down").unwrap();
    let healed = || Ok(host.sh("ip link show up dev weft0")?.contains("weft0"));
    wait::until_true("a pass", PATIENCE, healed).unwrap();
    assert!(host.sh("ip addr show br-other").unwrap().contains("198.51.100.1/24"));
    assert!(host.sh("ip route show 203.0.113.0/24").unwrap().contains("192.0.2.100"));
    assert!(host.sh("nft list tables").unwrap().contains("other"));
}
