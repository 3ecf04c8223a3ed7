//! Denial records, and what is done when there are too many.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::frame::*;
use common::*;
use std::net::Ipv4Addr;
use std::time::Instant;
use weft_abi::{Reason, action, direction};
use weft_datapath::DenialReader;
use weft_model::datapath::{DenyAction, Host, RecordRate};
use weft_model::policy::{Direction, Protocol};

fn syn(source: Ipv4Addr) -> Vec<u8> {
    received(&tcp(source, OWN, (40000, 80), SYN, b""))
}

fn count(reader: &mut DenialReader) -> usize {
    std::iter::from_fn(|| reader.try_next()).count()
}

#[test]
fn a_record_says_who_what_and_why() {
    let mut bench = Bench::new(vec![]);
    bench.change(|endpoint| endpoint.deny = DenyAction::Reject);
    let mut reader = bench.datapath.denial_reader().unwrap();
    assert!(bench.datapath.denial_reader().is_err());
    bench.arrive(&syn(REMOTE), 0x0b07);
    let event = reader.try_next().unwrap();
    let mapped = |ip: Ipv4Addr| ip.to_ipv6_mapped().octets();
    assert_eq!((event.source, event.destination), (mapped(REMOTE), mapped(OWN)));
    assert_eq!((event.source_port, event.destination_port), (40000u16.to_be(), 80u16.to_be()));
    assert_eq!((event.slot, event.ifindex), (5, weft_abi::SLOT_IFINDEX_BASE + 5));
    assert_eq!(event.incarnation, bench.datapath.endpoints()[&SLOT].incarnation);
    assert_eq!((event.source_tag, event.mark), (0x0b07, 0x0b07 << SHIFT));
    assert_eq!((event.reason, event.action), (Reason::Policy as u8, action::REJECT));
    assert_eq!((event.direction, event.proto), (direction::INGRESS, 6));
    assert_eq!((event.tcp_flags_or_icmp_type, event.length, event.suppressed), (SYN, 40, 0));
    assert!(event.at_ns > 0);
    bench.out(&sent(&udp(NEIGHBOUR, OUTSIDE, (1, 2), b"")));
    let event = reader.try_next().unwrap();
    assert_eq!((event.reason, event.action), (Reason::SpoofedIp as u8, action::DROP));
    assert_eq!((event.direction, event.source_tag), (direction::EGRESS, OWN_TAG));
    assert!(reader.try_next().is_none());
}

#[test]
fn noise_is_counted_and_not_recorded() {
    let mut bench = Bench::new(vec![]);
    let mut reader = bench.datapath.denial_reader().unwrap();
    bench.expect("ether-type", DROP, |b| b.out(&ethernet(own_mac(), gateway_mac(), 0x86dd, &[0; 60])));
    bench.expect("wrong-destination", DROP, |b| b.by_host(&received(&udp(GATEWAY, NEIGHBOUR, (1, 2), b""))));
    assert_eq!(count(&mut reader), 0);
}

#[test]
fn a_pair_gets_its_share_and_no_more() {
    let mut bench = Bench::new(vec![]);
    bench.datapath.set_host(&Host { denials_per_second: 1, denials_burst: 3, ..host() }).unwrap();
    let mut reader = bench.datapath.denial_reader().unwrap();
    let start = Instant::now();
    for _ in 0..1000 {
        bench.arrive(&syn(REMOTE), 7);
    }
    let most = 3 + start.elapsed().as_secs();
    let (mut told, mut suppressed) = (0, 0);
    let mut read = |reader: &mut DenialReader| {
        for event in std::iter::from_fn(|| reader.try_next()) {
            told += 1;
            suppressed += u64::from(event.suppressed);
        }
        (told, suppressed)
    };
    let (first, _) = read(&mut reader);
    assert!((3..=most).contains(&first), "{first} records of 1000, {most} at most");
    assert_eq!(bench.counter("policy"), 1000);
    assert_eq!(bench.counter("record-limited"), 1000 - first);
    // Another pair has its own share.
    bench.arrive(&syn(NEIGHBOUR), 7);
    assert_eq!(count(&mut reader), 1);
    // Once a token is due, the record says how many were left out since the one before.
    let suppressed = until("a token", || {
        bench.arrive(&syn(REMOTE), 7);
        let (now, suppressed) = read(&mut reader);
        (now > first).then_some(suppressed)
    });
    assert_eq!(suppressed, bench.counter("record-limited"));
}

#[test]
fn a_full_ring_buffer_is_counted() {
    let mut bench = Bench::new(vec![]);
    bench.datapath.set_host(&Host { denials_burst: u32::MAX, ..host() }).unwrap();
    let mut reader = bench.datapath.denial_reader().unwrap();
    let total = 80_000;
    let frame = syn(REMOTE);
    let probe = weft_datapath::Probe {
        frame: &frame,
        mark: 7 << SHIFT,
        ifindex: weft_abi::SLOT_IFINDEX_BASE + u32::from(SLOT.0),
        ingress_ifindex: 1,
        gso_size: 0,
        repeat: total,
    };
    bench.datapath.probe(weft_datapath::Program::ToWorkload, &probe).unwrap();
    assert_eq!(bench.counter("policy"), u64::from(total));
    let lost = bench.counter("record-lost");
    assert!(lost > 0);
    assert_eq!(count(&mut reader) as u64 + lost, u64::from(total));
}

#[test]
fn without_a_limit_every_packet_leaves_a_record() {
    let mut bench = Bench::new(vec![]);
    bench.datapath.set_host(&Host { denials_per_second: 0, denials_burst: 1, ..host() }).unwrap();
    let mut reader = bench.datapath.denial_reader().unwrap();
    for _ in 0..5000 {
        bench.arrive(&syn(REMOTE), 7);
    }
    assert_eq!((count(&mut reader), bench.counter("record-limited")), (5000, 0));
}

/// A data plane that records what passes from tag 7 to port 80, and its reader.
fn telling() -> (Bench, DenialReader) {
    let mut bench = Bench::new(vec![rule(Direction::Ingress, tag_peer(7), ports(Protocol::Tcp, 80, 80))]);
    let reader = bench.datapath.denial_reader().unwrap();
    let allowed = Some(RecordRate { per_second: 0, burst: 0 });
    bench.datapath.set_host(&Host { allowed, ..host() }).unwrap();
    (bench, reader)
}

#[test]
fn a_connection_that_passes_is_told_once_by_its_first_packet() {
    let (bench, mut reader) = telling();
    bench.arrive(&syn(REMOTE), 7);
    let event = reader.try_next().unwrap();
    assert_eq!((event.reason, event.action, event.rule), (Reason::Passed as u8, action::ALLOW, 1));
    assert_eq!((event.direction, event.source_tag, event.tcp_flags_or_icmp_type), (direction::INGRESS, 7, SYN));
    // Sent again, answered, gone on with.
    bench.arrive(&syn(REMOTE), 7);
    bench.out(&sent(&tcp(OWN, REMOTE, (80, 40000), SYN | ACK, b"")));
    bench.arrive(&received(&tcp(REMOTE, OWN, (40000, 80), ACK, b"x")), 7);
    assert_eq!(count(&mut reader), 0);
    // The same ports again, after both sides closed: another connection.
    bench.out(&sent(&tcp(OWN, REMOTE, (80, 40000), FIN | ACK, b"")));
    bench.arrive(&received(&tcp(REMOTE, OWN, (40000, 80), FIN | ACK, b"")), 7);
    bench.arrive(&syn(REMOTE), 7);
    assert_eq!(count(&mut reader), 1);
}

#[test]
fn what_leaves_the_overlay_is_told_by_its_source_and_what_stays_by_its_destination() {
    let (bench, mut reader) = telling();
    bench.out(&sent(&udp(OWN, OUTSIDE, (40000, 53), b"?")));
    bench.out(&sent(&udp(OWN, OUTSIDE, (40000, 53), b"?")));
    let event = reader.try_next().unwrap();
    assert_eq!((event.action, event.direction, event.proto, event.rule), (action::ALLOW, direction::EGRESS, 17, 0));
    bench.out(&sent(&udp(OWN, REMOTE, (40000, 53), b"?")));
    assert_eq!(count(&mut reader), 0);
}

#[test]
fn nothing_that_passes_is_told_unless_asked_for() {
    let mut bench = Bench::new(vec![rule(Direction::Ingress, tag_peer(7), ports(Protocol::Tcp, 80, 80))]);
    let mut reader = bench.datapath.denial_reader().unwrap();
    bench.expect("passed", PASS, |b| b.arrive(&syn(REMOTE), 7));
    assert_eq!(count(&mut reader), 0);
}

#[test]
fn what_passes_takes_no_record_from_what_is_denied() {
    let (mut bench, mut reader) = telling();
    let rate = Some(RecordRate { per_second: 1, burst: 2 });
    bench.datapath.set_host(&Host { allowed: rate, denials_burst: 1, ..host() }).unwrap();
    let start = Instant::now();
    for port in 1..=1000 {
        bench.arrive(&received(&tcp(REMOTE, OWN, (port, 80), SYN, b"")), 7);
    }
    let most = 2 + start.elapsed().as_secs();
    let passed = count(&mut reader) as u64;
    assert!((2..=most).contains(&passed), "{passed} records of 1000, {most} at most");
    assert_eq!(bench.counter("record-limited"), 1000 - passed);
    bench.arrive(&received(&tcp(REMOTE, OWN, (1, 81), SYN, b"")), 7);
    assert_eq!(reader.try_next().unwrap().action, action::DROP);
}
