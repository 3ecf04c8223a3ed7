//! Mapped ports: what the mark of our rules opens, and for whom it opens nothing.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::frame::*;
use common::*;
use std::net::Ipv4Addr;
use weft_datapath::{Outcome, Program};
use weft_model::datapath::MapOp;
use weft_model::policy::Protocol;
use weft_model::ports::mapped_mark;

const MARK: u32 = mapped_mark(SHIFT);

fn arrive(bench: &Bench, source: Ipv4Addr, flags: u8, mark: u32) -> Outcome {
    bench.probe(Program::ToWorkload, &received(&tcp(source, OWN, (40000, 80), flags, b"")), mark, 1)
}

#[test]
fn the_outside_comes_in_by_a_mapped_port_only() {
    let bench = Bench::new(vec![]);
    bench.expect("policy", DROP, |b| arrive(b, OUTSIDE, SYN, 0));
    bench.expect("passed", PASS, |b| arrive(b, OUTSIDE, SYN, MARK));
    bench.expect("passed", PASS, |b| b.out(&sent(&tcp(OWN, OUTSIDE, (80, 40000), SYN | ACK, b""))));
    bench.expect("passed", PASS, |b| arrive(b, OUTSIDE, ACK, MARK));
    // The same addresses and ports, but past the mapping.
    bench.expect("mid-stream", DROP, |b| arrive(b, OUTSIDE, ACK, 0));
    bench.expect("policy", DROP, |b| arrive(b, OUTSIDE, SYN, 0));
    // Other bits of other software say nothing, nor hide ours.
    bench.expect("policy", DROP, |b| arrive(b, OUTSIDE, SYN, !MARK & 0x0fff_ffff));
    bench.expect("passed", PASS, |b| arrive(b, OUTSIDE, SYN, MARK | 0xc000));
}

#[test]
fn it_opens_nothing_for_what_shows_an_address_of_the_overlay() {
    let bench = Bench::new(vec![]);
    for source in [REMOTE, REMOTE_VTEP, NEIGHBOUR, PLAIN, FLANNEL, VTEP] {
        bench.expect("policy", DROP, |b| arrive(b, source, SYN, MARK));
        bench.expect("policy", DROP, |b| arrive(b, source, SYN, MARK | 7 << SHIFT));
    }
    // What a workload without a tag sends to itself through the host comes back with the gateway's address.
    bench.expect("passed", PASS, |b| arrive(b, GATEWAY, SYN, MARK));
    bench.expect("policy", DROP, |b| arrive(b, GATEWAY, SYN, 0));
}

#[test]
fn a_changed_policy_leaves_mapped_flows_alone() {
    let mut bench = Bench::new(vec![]);
    bench.expect("passed", PASS, |b| arrive(b, OUTSIDE, SYN, MARK));
    bench.expect("passed", PASS, |b| b.out(&sent(&tcp(OWN, OUTSIDE, (80, 40000), SYN | ACK, b""))));
    bench.rules(vec![]);
    bench.expect("passed", PASS, |b| b.out(&sent(&tcp(OWN, OUTSIDE, (80, 40000), ACK, b""))));
    bench.rules(vec![]);
    bench.expect("passed", PASS, |b| arrive(b, OUTSIDE, ACK, MARK));
    bench.expect("mid-stream", DROP, |b| arrive(b, OUTSIDE, ACK, 0));
}

#[test]
fn a_closed_host_is_open_at_its_mapped_ports() {
    let mut bench = Bench::new(vec![]);
    bench.change(|endpoint| endpoint.host_listed_only = true);
    let ask = |protocol, port| {
        let packet = match protocol {
            Protocol::Tcp => tcp(OWN, HOST, (40000, port), SYN, b""),
            Protocol::Udp => udp(OWN, HOST, (40000, port), b""),
        };
        sent(&packet)
    };
    bench.expect("host-access", DROP, |b| b.out(&ask(Protocol::Tcp, 61000)));
    bench.datapath.apply(&[MapOp::PutMappedPort(Protocol::Tcp, 61000)]).unwrap();
    assert_eq!(bench.datapath.surroundings().unwrap().mapped_ports, [(Protocol::Tcp, 61000)].into());
    bench.expect("passed", PASS, |b| b.out(&ask(Protocol::Tcp, 61000)));
    bench.expect("host-access", DROP, |b| b.out(&ask(Protocol::Udp, 61000)));
    bench.expect("host-access", DROP, |b| b.out(&ask(Protocol::Tcp, 61001)));
    bench.datapath.apply(&[MapOp::RemoveMappedPort(Protocol::Tcp, 61000)]).unwrap();
    bench.expect("host-access", DROP, |b| b.out(&ask(Protocol::Tcp, 61000)));
}

#[test]
fn frames_go_to_the_gateway_and_to_no_neighbour() {
    let bench = Bench::new(vec![]);
    let packet = tcp(OWN, OUTSIDE, (40000, 80), SYN, b"");
    bench.expect("passed", PASS, |b| b.out(&sent(&packet)));
    let mut astray = sent(&packet);
    astray[..6].copy_from_slice(&weft_model::mac::Mac::for_workload(NEIGHBOUR).0);
    bench.expect("wrong-destination", DROP, |b| b.out(&astray));
    let loopback = sent(&tcp(OWN, Ipv4Addr::LOCALHOST, (40000, 80), SYN, b""));
    bench.expect("martian", DROP, |b| b.out(&loopback));
}
