//! What workloads of a host share, and one of them uses up; and what they leave behind.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Instant;
use weft_lab::WorkloadOptions;
use weft_lab::probe::{self, HttpServer};
use weft_lab::wait::until;
use weft_tests::frames::{Ip, contains, udp};
use weft_tests::hostile::{Cast, EVIL, FENCE_PORT, FRIEND_PORT, Station, cast};
use weft_tests::{PATIENCE, lab_with};

/// The host's table of connections is everybody's: full, it would take new ones from the neighbours and
/// from the host itself.
#[test]
fn one_workload_does_not_fill_the_hosts_connection_table() {
    let Cast { attacker, friend, victims: [near, ..], lab } = cast("table");
    let host = lab.host("n1");
    let outside = weft_lab::underlay::CTL;
    // The flood may well take longer than the 30 s for which a host remembers a datagram.
    for kind in ["udp_timeout", "udp_timeout_stream"] {
        host.sh(&format!("sysctl -qw net.netfilter.nf_conntrack_{kind}=3600")).unwrap();
    }
    // Flows of both directions before the flood: later they would be new ones too.
    attacker.reaches_only_the_fence("nothing yet", &near);
    near.wire.send(&near.datagram(attacker.ip, FENCE_PORT, 7, b"reply")).unwrap();
    attacker.wire.seen_until(b"reply", PATIENCE).expect("an answer");
    let answering = probe::inside(&lab.ctl(), || UdpSocket::bind((outside, 30_000))).unwrap().unwrap();
    answering.set_read_timeout(Some(PATIENCE)).unwrap();
    attacker.wire.send(&attacker.datagram(outside, 1, 30_000, b"before")).unwrap();
    let (_, asking) = answering.recv_from(&mut [0; 100]).expect("a datagram of the attacker");
    answering.send_to(b"from outside", asking).unwrap();
    attacker.wire.seen_until(b"from outside", PATIENCE).expect("an answer from outside");
    for number in 0..40_000_u32 {
        let [_, _, high, low] = number.to_be_bytes();
        let (from, to) = (u16::from_be_bytes([high, low]), 20_000 + u16::try_from(number / 50_000).unwrap());
        attacker.wire.send(&attacker.datagram(outside, from.max(1), to, b"x")).unwrap();
    }
    attacker.reaches_only_the_fence("the flood", &near);
    let count = host.sh("sysctl -n net.netfilter.nf_conntrack_count").unwrap();
    let count: u32 = count.trim().parse().unwrap();
    assert!((16_000..17_000).contains(&count), "{count} connections of one workload");
    let _server = HttpServer::start(&lab.ctl(), 9000).unwrap();
    let to = (outside, 9000).into();
    probe::get(&friend.workload.netns, to, PATIENCE).expect("the neighbour");
    probe::get(&host.netns, to, PATIENCE).expect("the host");
    attacker.wire.send(&attacker.datagram(outside, 2, 30_000, EVIL)).unwrap();
    attacker.wire.send(&attacker.datagram(outside, 1, 30_000, b"afterwards")).unwrap();
    let mut buffer = [0; 100];
    let length = answering.recv(&mut buffer).expect("what was answered before passes");
    assert_eq!(&buffer[..length], b"afterwards", "no limit was met");
}

/// Records of denials are told for everybody in turn, and the agent goes on meanwhile.
#[test]
fn a_flood_of_denials_leaves_the_others_their_records() {
    let Cast { attacker, friend, victims: [near, ..], lab } = cast("noise");
    let host = lab.host("n1");
    let forged = |number: u32| {
        let to = Ipv4Addr::from(0x0b00_0000 + number);
        attacker.frame(&Ip::udp(friend.ip, to).with(&udp(1, 2, EVIL)))
    };
    let began = Instant::now();
    // Each address is another pair, with a burst of records of its own.
    for number in 0..100_000 {
        attacker.wire.send(&forged(number)).unwrap();
    }
    let log = host.run_file("denials.log");
    let (text, _) = until("the neighbour's record", PATIENCE, || {
        // Again, as who is denied does: where the agent has had no time to read, the ring is still full of the flood.
        friend.wire.send(&friend.datagram(near.ip, 1, 12_345, b"denied"))?;
        let text = std::fs::read_to_string(&log)?;
        anyhow::ensure!(text.contains("12345"), "{} records", text.lines().count());
        Ok(text)
    })
    .unwrap();
    // 500 at once and 50 a second are its share, and the neighbour's.
    let (lines, share) = (text.lines().count(), 500 + 50 * (began.elapsed().as_secs() + 1));
    assert!(u64::try_from(lines).unwrap() <= 2 * share, "{lines} records of one workload's flood");
    let counters = host.status().unwrap().counters;
    assert!(counters["spoofed-ip"] >= 100_000, "not all counted: {}", counters["spoofed-ip"]);
}

/// A workload that gets the address and the slot of one that is gone gets nothing else of it.
#[test]
fn a_slot_inherits_nothing() {
    let mut lab = lab_with("heir", |host| {
        host.flags.extend(["--address-cool-down", "0", "--subnet-len", "28"].map(str::to_owned))
    });
    let client = Station::add(&mut lab, "n2", &WorkloadOptions::pod("client", "clients")).unwrap();
    for to in ["old", "new"] {
        let (from, to) = (if to == "old" { "k8s:lab/clients" } else { "k8s:lab/nobody" }, format!("k8s:lab/{to}"));
        lab.weft(&["policies", "allow", "--from", from, "--to", &to, "--protocol", "udp", "--port", "9000", "--wait"])
            .unwrap();
    }
    let old = Station::add(&mut lab, "n1", &WorkloadOptions::pod("old", "old")).unwrap();
    let question = |to: Ipv4Addr, data: &[u8]| client.datagram(to, 6000, 9000, data);
    client.wire.send(&question(old.ip, b"question")).unwrap();
    old.wire.seen_until(b"question", PATIENCE).expect("allowed");
    old.wire.send(&old.datagram(client.ip, 9000, 6000, b"answer")).unwrap();
    client.wire.seen_until(b"answer", PATIENCE).expect("a flow in both directions");
    lab.del("n1", &old.workload).unwrap();
    let mut heir = Station::add(&mut lab, "n1", &WorkloadOptions::pod("heir", "new")).unwrap();
    let mut others = Vec::new();
    while heir.ip != old.ip {
        others.push(heir);
        assert!(others.len() < 16, "the address is not given again");
        heir = Station::add(&mut lab, "n1", &WorkloadOptions::pod("heir", "new")).unwrap();
    }
    let nobody = Station::add(&mut lab, "n2", &WorkloadOptions::pod("nobody", "nobody")).unwrap();
    for _ in 0..3 {
        client.wire.send(&question(heir.ip, EVIL)).unwrap();
    }
    nobody.wire.send(&nobody.datagram(heir.ip, 1, 9000, b"allowed")).unwrap();
    let seen = heir.wire.seen_until(b"allowed", PATIENCE).expect("its own policy");
    assert!(!seen.iter().any(|frame| contains(frame, EVIL)), "the flow of the one before it arrived");
}

/// Both sides want to go on.
#[test]
fn a_revoked_flow_stays_dead_in_both_directions() {
    let Cast { attacker, friend, victims: [_, far, _], lab } = cast("revoked");
    let question = |data: &[u8]| friend.datagram(far.ip, 6000, FRIEND_PORT, data);
    let answer = |data: &[u8]| far.datagram(friend.ip, FRIEND_PORT, 6000, data);
    friend.wire.send(&question(b"question")).unwrap();
    far.wire.seen_until(b"question", PATIENCE).expect("allowed");
    far.wire.send(&answer(b"answer")).unwrap();
    friend.wire.seen_until(b"answer", PATIENCE).expect("allowed");
    let port = FRIEND_PORT.to_string();
    let revoke =
        ["--from", "k8s:lab/friends", "--to", "k8s:lab/victims", "--protocol", "udp", "--port", &port, "--wait"];
    lab.weft(&[&["policies", "deny"], &revoke[..]].concat()).unwrap();
    for _ in 0..20 {
        friend.wire.send(&question(EVIL)).unwrap();
        far.wire.send(&answer(EVIL)).unwrap();
    }
    attacker.reaches_only_the_fence("a question after the revocation", &far);
    far.wire.send(&far.datagram(friend.ip, 1, 2, b"another flow")).unwrap();
    let seen = friend.wire.seen_until(b"another flow", PATIENCE).expect("the victim may open flows");
    let answers = |frame: &&Vec<u8>| contains(frame, EVIL) && frame[26..30] == far.ip.octets() && frame[23] == 17;
    assert_eq!(seen.iter().filter(answers).count(), 0, "answers after the revocation");
}
