//! What a denied packet is answered with, byte by byte.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::frame::*;
use common::*;
use std::net::Ipv4Addr;
use weft_abi::INJECTED_MARK;
use weft_datapath::{Outcome, Probe, Program};
use weft_model::datapath::DenyAction;
use weft_model::policy::{Direction, Peer, Rule, Traffic, Verdict};

fn bench() -> Bench {
    let deny = Rule {
        verdict: Verdict::Deny,
        ..rule(Direction::Egress, Peer::Cidr("198.51.100.0/24".parse().unwrap()), Traffic::All)
    };
    let mut bench = Bench::new(vec![deny]);
    bench.change(|endpoint| endpoint.deny = DenyAction::Reject);
    bench
}

/// The frame goes back: addresses swapped, IP header whole.
fn assert_returned(outcome: &Outcome, asked: &[u8], proto: u8) {
    assert_eq!((outcome.verdict, outcome.mark), (REDIRECT, INJECTED_MARK));
    let answer = &outcome.frame;
    assert_eq!((&answer[0..6], &answer[6..12]), (&asked[6..12], &asked[0..6]), "hardware addresses");
    assert_eq!(answer[12..14], [8, 0]);
    assert_eq!((answer[14], answer[23]), (0x45, proto));
    assert_eq!(usize::from(u16::from_be_bytes([answer[16], answer[17]])), answer.len() - 14, "IP length");
    assert_eq!((&answer[26..30], &answer[30..34]), (&asked[30..34], &asked[26..30]), "IP addresses");
    assert_eq!(sum(&answer[14..34]), 0xffff, "IP checksum");
}

fn addresses(frame: &[u8]) -> (Ipv4Addr, Ipv4Addr) {
    let at = |offset: usize| <[u8; 4]>::try_from(&frame[offset..offset + 4]).unwrap().into();
    (at(26), at(30))
}

/// Sequence and acknowledgement number and flags of a RST with a good checksum.
fn reset(answer: &[u8]) -> (u32, u32, u8) {
    assert_eq!(answer.len(), 54);
    let (source, destination) = addresses(answer);
    let all = u32::from(pseudo(source, destination, 6, 20)) + u32::from(sum(&answer[34..]));
    assert_eq!(all.rem_euclid(0xffff), 0, "TCP checksum");
    let word = |offset: usize| u32::from_be_bytes(answer[offset..offset + 4].try_into().unwrap());
    assert_eq!(answer[46], 0x50);
    (word(38), word(42), answer[47])
}

#[test]
fn a_syn_gets_a_reset_that_acknowledges_it() {
    let bench = bench();
    let asked = received(&tcp(REMOTE, OWN, (40000, 80), SYN, b""));
    let outcome = bench.expect("policy", REDIRECT, |b| b.arrive(&asked, 7));
    assert_returned(&outcome, &asked, 6);
    assert_eq!(reset(&outcome.frame), (0, 1001, RST | ACK));
    assert_eq!(outcome.frame[34..38], [0, 80, 0x9c, 0x40], "ports");
    // Data and FIN count too.
    let asked = received(&tcp(REMOTE, OWN, (40000, 80), SYN | FIN, b"fast open"));
    assert_eq!(reset(&bench.arrive(&asked, 7).frame), (0, 1000 + 9 + 2, RST | ACK));
    assert_eq!(bench.counter("rejected"), 2);
}

#[test]
fn a_segment_of_a_revoked_flow_gets_a_reset_its_sender_believes() {
    let mut bench = bench();
    bench.rules(vec![rule(Direction::Ingress, tag_peer(7), Traffic::All)]);
    let segment = |flags| received(&tcp(REMOTE, OWN, (40000, 80), flags, b""));
    bench.expect("passed", PASS, |b| b.arrive(&segment(SYN), 7));
    let answer = sent(&tcp(OWN, REMOTE, (80, 40000), SYN | ACK, b""));
    bench.expect("passed", PASS, |b| b.out(&answer));
    bench.rules(vec![]);
    let asked = segment(ACK);
    let outcome = bench.expect("revoked", REDIRECT, |b| b.arrive(&asked, 7));
    assert_returned(&outcome, &asked, 6);
    assert_eq!(reset(&outcome.frame), (2000, 0, RST));
    // A stray segment that no flow explains gets none.
    let stray = received(&tcp(REMOTE, OWN, (40001, 80), ACK, b""));
    bench.expect("mid-stream", DROP, |b| b.arrive(&stray, 7));
    // And the workload's own side ends as well.
    let outcome = bench.expect("revoked", REDIRECT, |b| b.out(&sent(&tcp(OWN, REMOTE, (80, 40000), ACK, b"x"))));
    assert_eq!(reset(&outcome.frame), (2000, 0, RST));
}

#[test]
fn an_unfinished_checksum_stays_unfinished() {
    let bench = bench();
    let mut asked = received(&tcp(REMOTE, OWN, (40000, 80), SYN, b"data"));
    // As the stack leaves it to the device: the pseudo header's sum, not complemented.
    let partial = pseudo(REMOTE, OWN, 6, 24);
    asked[50..52].copy_from_slice(&partial.to_be_bytes());
    let outcome = bench.expect("policy", REDIRECT, |b| b.arrive(&asked, 7));
    assert_returned(&outcome, &asked, 6);
    assert_eq!(outcome.frame[50..52], pseudo(OWN, REMOTE, 6, 20).to_be_bytes());
    // A segment that stands for several is always unfinished, whatever its field says.
    let asked = received(&tcp(REMOTE, OWN, (40000, 80), SYN, &[7; 1200]));
    let probe = Probe {
        frame: &asked,
        mark: 7 << SHIFT,
        ifindex: weft_abi::SLOT_IFINDEX_BASE + u32::from(SLOT.0),
        ingress_ifindex: 1,
        gso_size: 500,
        repeat: 1,
    };
    let outcome = bench.datapath.probe(Program::ToWorkload, &probe).unwrap();
    assert_eq!(outcome.frame.len(), 54);
    assert_eq!(outcome.frame[50..52], pseudo(OWN, REMOTE, 6, 20).to_be_bytes());
}

/// Checks an ICMP port unreachable and returns what it quotes.
fn quoted(outcome: &Outcome, asked: &[u8]) -> Vec<u8> {
    assert_returned(outcome, asked, 1);
    assert_eq!(outcome.frame.len(), 70);
    assert_eq!(outcome.frame[34..36], [3, 3]);
    assert_eq!(outcome.frame[38..42], [0; 4]);
    outcome.frame[42..].to_vec()
}

#[test]
fn other_packets_get_port_unreachable_with_what_they_were() {
    let bench = bench();
    for packet in [
        udp(REMOTE, OWN, (40000, 80), b"payload"),
        udp(REMOTE, OWN, (40000, 80), b""),
        udp(REMOTE, OWN, (40000, 80), &[9; 1200]),
        icmp(REMOTE, OWN, 8, 0, 5, b"ping"),
    ] {
        let asked = received(&packet);
        let outcome = bench.expect("policy", REDIRECT, |b| b.arrive(&asked, 7));
        assert_eq!(quoted(&outcome, &asked), packet[..28]);
        assert_eq!(sum(&outcome.frame[34..]), 0xffff, "ICMP checksum");
    }
}

#[test]
fn an_unfinished_udp_checksum_is_finished_inside_the_quote() {
    let bench = bench();
    let mut packet = udp(REMOTE, OWN, (40000, 80), b"payload");
    let partial = pseudo(REMOTE, OWN, 17, 15);
    packet[26..28].copy_from_slice(&partial.to_be_bytes());
    let asked = received(&packet);
    let outcome = bench.expect("policy", REDIRECT, |b| b.arrive(&asked, 7));
    let quote = quoted(&outcome, &asked);
    assert_eq!(quote[26..28], [0, 0]);
    // What the device will do: sum from the quoted UDP header to the end, into its checksum.
    let mut finished = outcome.frame.clone();
    let check = !sum(&finished[62..]);
    finished[68..70].copy_from_slice(&check.to_be_bytes());
    assert_eq!(sum(&finished[34..]), 0xffff, "ICMP checksum");
}

#[test]
fn answers_errors_and_fragments_get_no_answer() {
    let bench = bench();
    for (reason, packet) in [
        ("mid-stream", tcp(REMOTE, OWN, (40000, 80), RST, b"")),
        ("mid-stream", tcp(REMOTE, OWN, (40000, 80), RST | ACK, b"")),
        ("policy", icmp(REMOTE, OWN, 0, 0, 5, b"")),
        ("policy", icmp(REMOTE, OWN, 3, 3, 0, &udp(OWN, REMOTE, (1, 2), b"")[..28])),
        ("policy", icmp(REMOTE, OWN, 11, 0, 0, &[0; 28])),
        ("policy", ipv4(REMOTE, OWN, 17, 0x2000, &datagram(REMOTE, OWN, (1, 2), &[0; 16]))),
    ] {
        bench.expect(reason, DROP, |b| b.arrive(&received(&packet), 7));
    }
    assert_eq!(bench.counter("rejected"), 0);
}

#[test]
fn the_workload_gets_its_answer_too() {
    let bench = bench();
    let asked = sent(&tcp(OWN, OUTSIDE, (40000, 80), SYN, b""));
    let outcome = bench.expect("policy", REDIRECT, |b| b.out(&asked));
    assert_returned(&outcome, &asked, 6);
    assert_eq!(reset(&outcome.frame), (0, 1001, RST | ACK));
    // On its way it meets our other program.
    let back = bench.probe(Program::ToWorkload, &outcome.frame, outcome.mark, 1);
    assert_eq!(back.verdict, PASS);
    let asked = sent(&udp(OWN, OUTSIDE, (40000, 80), b"?"));
    let outcome = bench.expect("policy", REDIRECT, |b| b.out(&asked));
    assert_eq!(quoted(&outcome, &asked), asked[14..42]);
}

#[test]
fn an_answer_enters_the_host_as_the_workloads() {
    let bench = bench();
    let outcome = bench.arrive(&received(&tcp(REMOTE, OWN, (40000, 80), SYN, b"")), 7);
    let back = bench.expect("passed", PASS, |b| b.probe(Program::FromWorkload, &outcome.frame, outcome.mark, 0));
    assert_eq!(back.mark, u32::from(OWN_TAG) << SHIFT);
}
