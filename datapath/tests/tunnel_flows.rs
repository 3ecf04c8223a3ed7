//! The way between the VXLAN device and workloads past the host's stack: whose flows go it, and what changes on the way
//! while they do: policies, agents, the device.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::frame::*;
use common::*;
use weft_datapath::{Datapath, Outcome, Program, Version};
use weft_model::datapath::{Host, MapSizes};
use weft_model::policy::{Direction, Protocol, Rule};

const REMOTE_TAG: u16 = 0x0c09;
const HANDSHAKE: u8 = SYN | ACK;

/// How a packet goes through the host.
#[derive(Debug, PartialEq, Eq)]
enum Way {
    /// Through the host's stack; the verdict of the workload's program at its end.
    Stack(i32),
    /// Between device and workload.
    Direct,
    /// Past the stack to the workload's own program; its verdict.
    Through(i32),
}

const STACK: Way = Way::Stack(PASS);

/// The remote workload's group may connect to port 80, and ask port 53.
fn open_doors() -> Vec<Rule> {
    let allow = |protocol, port| rule(Direction::Ingress, tag_peer(REMOTE_TAG), ports(protocol, port, port));
    vec![allow(Protocol::Tcp, 80), allow(Protocol::Udp, 53)]
}

fn bench() -> Bench {
    let mut bench = Bench::new(open_doors());
    run("ip link add vx type vxlan id 1 dstport 8472 nolearning gbp");
    run("ip link set vx up");
    bench.datapath.attach_vtep(&"vx".parse().unwrap()).unwrap();
    bench
}

/// What the workload sends.
#[track_caller]
fn leaves(bench: &Bench, packet: &[u8]) -> Way {
    let sent = bench.out(&ethernet(own_mac(), gateway_mac(), 0x0800, packet));
    assert!(sent.verdict == DROP || sent.mark == u32::from(OWN_TAG) << SHIFT, "its tag comes along");
    match sent.verdict {
        REDIRECT => Way::Direct,
        verdict => Way::Stack(verdict),
    }
}

fn from_wire(bench: &Bench, packet: &[u8], tag: u16) -> Outcome {
    bench.probe(Program::FromOverlay, &ethernet(gateway_mac(), gateway_mac(), 0x0800, packet), tag.into(), 1)
}

/// What comes from the VXLAN device.
#[track_caller]
fn arrives_as(bench: &Bench, packet: &[u8], tag: u16) -> Way {
    let got = from_wire(bench, packet, tag);
    match (got.verdict, got.mark) {
        (PASS, mark) => {
            let frame = ethernet(gateway_mac(), own_mac(), 0x0800, packet);
            Way::Stack(bench.probe(Program::ToWorkload, &frame, mark, 1).verdict)
        }
        (REDIRECT, 0) => {
            assert_eq!(got.frame, ethernet(gateway_mac(), own_mac(), 0x0800, packet), "as behind the bridge");
            Way::Direct
        }
        (REDIRECT, mark) => Way::Through(bench.probe(Program::ToWorkload, &got.frame, mark, 1).verdict),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn arrives(bench: &Bench, packet: &[u8]) -> Way {
    arrives_as(bench, packet, REMOTE_TAG)
}

/// A connection that the remote workload opens to port 80; ours answers.
fn asked(port: u16, flags: u8) -> Vec<u8> {
    tcp(REMOTE, OWN, (port, 80), flags, b"")
}

fn answered(port: u16, flags: u8) -> Vec<u8> {
    tcp(OWN, REMOTE, (80, port), flags, b"")
}

#[track_caller]
fn accept(bench: &Bench, port: u16) {
    assert_eq!(arrives(bench, &asked(port, SYN)), STACK);
    assert_eq!(leaves(bench, &answered(port, HANDSHAKE)), STACK);
}

#[test]
fn what_is_not_allowed_meets_the_workloads_own_program() {
    let bench = bench();
    let midway = tcp(REMOTE, OWN, (40000, 81), ACK, b"");
    for packet in [midway, tcp(REMOTE, OWN, (40000, 81), SYN, b""), udp(REMOTE, OWN, (40000, 54), b"?")] {
        assert_eq!(arrives(&bench, &packet), Way::Stack(DROP));
    }
    assert_eq!(bench.counter("direct"), 0);
}

fn to_own(packet: &[u8]) -> Vec<u8> {
    ethernet(gateway_mac(), own_mac(), 0x0800, packet)
}

#[test]
fn the_outside_stays_in_the_stack() {
    let bench = bench();
    for (flags, back) in [(SYN, HANDSHAKE), (ACK, ACK), (ACK, ACK)] {
        assert_eq!(leaves(&bench, &tcp(OWN, OUTSIDE, (40000, 443), flags, b"")), STACK);
        assert_eq!(bench.arrive(&to_own(&tcp(OUTSIDE, OWN, (443, 40000), back, b"")), 0).verdict, PASS);
    }
    assert_eq!(bench.counter("direct"), 0);
}

#[test]
fn peers_without_tags_go_the_same_way() {
    let bench = bench();
    for peer in [PLAIN, FLANNEL] {
        assert_eq!(leaves(&bench, &tcp(OWN, peer, (40000, 443), SYN, b"")), STACK);
        assert_eq!(arrives_as(&bench, &tcp(peer, OWN, (443, 40000), HANDSHAKE, b""), 0), STACK);
        assert_eq!(leaves(&bench, &tcp(OWN, peer, (40000, 443), ACK, b"")), Way::Direct);
        assert_eq!(arrives_as(&bench, &tcp(peer, OWN, (443, 40000), ACK, b""), 0), Way::Direct);
    }
}

#[test]
fn another_identity_is_judged_by_the_workloads_own_program() {
    let bench = bench();
    accept(&bench, 40000);
    assert_eq!(arrives_as(&bench, &asked(40000, ACK), 0x0d0d), Way::Stack(DROP));
    assert_eq!(arrives(&bench, &asked(40000, ACK)), Way::Direct);
}

#[test]
fn one_that_was_opened_before_it_was_on_stays_in_the_stack() {
    let mut bench = bench();
    bench.datapath.set_host(&Host { fast_path: false, ..host() }).unwrap();
    accept(&bench, 40000);
    bench.datapath.set_host(&host()).unwrap();
    assert_eq!([arrives(&bench, &asked(40000, ACK)), leaves(&bench, &answered(40000, ACK))], [STACK, STACK]);
}

/// Without the device, as long as no programs are on it, there is no way.
#[test]
fn the_device_is_known_from_when_it_has_its_programs() {
    let mut bench = Bench::new(open_doors());
    accept(&bench, 40000);
    assert_eq!(arrives(&bench, &asked(40000, ACK)), Way::Direct);
    assert_eq!(leaves(&bench, &answered(40000, ACK)), STACK);
    assert_eq!(arrives(&bench, &asked(40000, ACK)), STACK, "what one side keeps in the stack, the other keeps too");
    run("ip link add vx type vxlan id 1 dstport 8472 nolearning gbp");
    bench.datapath.attach_vtep(&"vx".parse().unwrap()).unwrap();
    let go = |bench: &Bench, port| {
        accept(bench, port);
        assert_eq!(arrives(bench, &asked(port, ACK)), Way::Direct);
        assert_eq!(leaves(bench, &answered(port, ACK)), Way::Direct);
    };
    go(&bench, 40001);
    // The next agent, also of another version, and a changed configuration, do not forget it.
    bench.datapath.set_host(&Host { link_local: true, ..host() }).unwrap();
    go(&bench, 40002);
    for programs in [0, 7] {
        let version = Version { layout: weft_abi::LAYOUT_VERSION, programs };
        bench.datapath = Datapath::open_as(version, &bench.folder, &host(), &MapSizes::default()).unwrap();
        assert_eq!(leaves(&bench, &answered(40002, ACK)), Way::Direct);
    }
}

#[test]
fn a_changed_policy_that_still_allows_it_leaves_it_where_it_is() {
    let mut bench = bench();
    accept(&bench, 40000);
    for _ in 0..2 {
        bench.rules(open_doors());
        assert_eq!(arrives(&bench, &asked(40000, ACK)), Way::Direct);
        assert_eq!(leaves(&bench, &answered(40000, ACK)), Way::Direct);
        bench.rules(open_doors());
        assert_eq!(leaves(&bench, &answered(40000, ACK)), Way::Direct);
    }
}

/// With silence configured, nobody is told.
#[test]
fn a_policy_taken_back_and_given_again() {
    let mut bench = bench();
    accept(&bench, 40000);
    assert_eq!(arrives(&bench, &asked(40000, ACK)), Way::Direct);
    bench.rules(vec![]);
    assert_eq!([ACK, ACK].map(|flags| arrives(&bench, &asked(40000, flags))), [Way::Through(DROP), Way::Through(DROP)]);
    assert_eq!(leaves(&bench, &answered(40000, ACK)), Way::Stack(DROP));
    bench.rules(open_doors());
    assert_eq!(arrives(&bench, &asked(40000, ACK)), Way::Direct);
    assert_eq!(leaves(&bench, &answered(40000, ACK)), Way::Direct);
}
