//! Known flows: who may answer, and what ends a flow.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::frame::*;
use common::*;
use std::mem::offset_of;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};
use weft_abi::{Conn, ConnKey4, SLOT_IFINDEX_BASE};
use weft_datapath::{Probe, Program};
use weft_model::datapath::{Endpoint, MapOp};
use weft_model::id::Slot;
use weft_model::mac::Mac;
use weft_model::policy::{Direction, Protocol, Rule};

fn allow_80() -> Vec<Rule> {
    vec![
        rule(Direction::Ingress, tag_peer(7), ports(Protocol::Tcp, 80, 80)),
        rule(Direction::Ingress, tag_peer(7), ports(Protocol::Udp, 80, 80)),
    ]
}

fn segment(flags: u8) -> Vec<u8> {
    received(&tcp(REMOTE, OWN, (40000, 80), flags, b""))
}

fn answer(flags: u8) -> Vec<u8> {
    sent(&tcp(OWN, REMOTE, (80, 40000), flags, b""))
}

/// A connection from [`REMOTE`] with tag 7 to port 80, opened and answered.
fn established(bench: &Bench) {
    bench.expect("passed", PASS, |b| b.arrive(&segment(SYN), 7));
    bench.expect("passed", PASS, |b| b.out(&answer(SYN | ACK)));
    bench.expect("passed", PASS, |b| b.arrive(&segment(ACK), 7));
}

#[test]
fn replies_pass_without_a_policy_of_their_own() {
    let bench = Bench::new(vec![]);
    let reply = received(&tcp(OUTSIDE, OWN, (443, 40000), SYN | ACK, b""));
    bench.expect("mid-stream", DROP, |b| b.arrive(&reply, 0));
    bench.expect("passed", PASS, |b| b.out(&sent(&tcp(OWN, OUTSIDE, (40000, 443), SYN, b""))));
    bench.expect("passed", PASS, |b| b.arrive(&reply, 0));
    // Another port of the same server is another flow.
    let other = received(&tcp(OUTSIDE, OWN, (444, 40000), SYN | ACK, b""));
    bench.expect("mid-stream", DROP, |b| b.arrive(&other, 0));
    let answer = received(&udp(OUTSIDE, OWN, (53, 40000), b"!"));
    bench.expect("policy", DROP, |b| b.arrive(&answer, 0));
    bench.expect("passed", PASS, |b| b.out(&sent(&udp(OWN, OUTSIDE, (40000, 53), b"?"))));
    bench.expect("passed", PASS, |b| b.arrive(&answer, 0));
    let echo = received(&icmp(OUTSIDE, OWN, 0, 0, 77, b""));
    bench.expect("policy", DROP, |b| b.arrive(&echo, 0));
    bench.expect("passed", PASS, |b| b.out(&sent(&icmp(OWN, OUTSIDE, 8, 0, 77, b""))));
    bench.expect("passed", PASS, |b| b.arrive(&echo, 0));
    let request = received(&icmp(OUTSIDE, OWN, 8, 0, 77, b""));
    bench.expect("policy", DROP, |b| b.arrive(&request, 0));
}

#[test]
fn only_a_syn_of_the_workload_opens_the_way_back() {
    let bench = Bench::new(vec![]);
    bench.expect("passed", PASS, |b| b.out(&sent(&tcp(OWN, OUTSIDE, (40000, 443), ACK, b"x"))));
    bench.expect("mid-stream", DROP, |b| b.arrive(&received(&tcp(OUTSIDE, OWN, (443, 40000), ACK, b"x")), 0));
}

#[test]
fn a_syn_is_always_judged() {
    let bench = Bench::new(allow_80());
    established(&bench);
    // The address went to a workload of another group.
    bench.expect("policy", DROP, |b| b.arrive(&segment(SYN), 8));
    bench.expect("passed", PASS, |b| b.arrive(&segment(SYN), 7));
    // Ports that a flow used the other way round open nothing.
    bench.expect("passed", PASS, |b| b.out(&sent(&tcp(OWN, OUTSIDE, (80, 50000), SYN, b""))));
    bench.expect("policy", DROP, |b| b.arrive(&received(&tcp(OUTSIDE, OWN, (50000, 80), SYN, b"")), 0));
}

#[test]
fn packets_of_a_flow_must_bear_its_tag() {
    let bench = Bench::new(allow_80());
    established(&bench);
    bench.expect("mid-stream", DROP, |b| b.arrive(&segment(ACK), 8));
    bench.expect("mid-stream", DROP, |b| b.arrive(&segment(ACK), 0));
    bench.expect("passed", PASS, |b| b.arrive(&segment(ACK), 7));
}

#[test]
fn the_hosts_flows_are_not_a_strangers_with_its_address() {
    let bench = Bench::new(vec![]);
    let packet = |flags| received(&tcp(GATEWAY, OWN, (40000, 80), flags, b""));
    bench.expect("passed", PASS, |b| b.by_host(&packet(SYN)));
    bench.expect("passed", PASS, |b| b.out(&sent(&tcp(OWN, GATEWAY, (80, 40000), SYN | ACK, b""))));
    bench.expect("passed", PASS, |b| b.by_host(&packet(ACK)));
    bench.expect("mid-stream", DROP, |b| b.arrive(&packet(ACK), 0));
}

#[test]
fn a_changed_policy_revokes_at_the_next_packet_of_either_side() {
    for first_is_ours in [true, false] {
        let mut bench = Bench::new(allow_80());
        established(&bench);
        bench.rules(allow_80());
        bench.expect("passed", PASS, |b| b.arrive(&segment(ACK), 7));
        bench.expect("passed", PASS, |b| b.out(&answer(ACK)));
        bench.rules(vec![]);
        if first_is_ours {
            bench.expect("revoked", DROP, |b| b.out(&answer(ACK)));
        } else {
            bench.expect("revoked", DROP, |b| b.arrive(&segment(ACK), 7));
        }
        // Both sides are told, whichever came first.
        bench.expect("revoked", DROP, |b| b.arrive(&segment(ACK), 7));
        bench.expect("revoked", DROP, |b| b.out(&answer(ACK)));
        bench.expect("policy", DROP, |b| b.arrive(&segment(SYN), 7));
        bench.rules(allow_80());
        bench.expect("passed", PASS, |b| b.arrive(&segment(ACK), 7));
        bench.expect("passed", PASS, |b| b.out(&answer(ACK)));
    }
}

#[test]
fn what_a_workload_still_sends_does_not_reopen_a_revoked_udp_flow() {
    let mut bench = Bench::new(allow_80());
    let question = received(&udp(REMOTE, OWN, (40000, 80), b"?"));
    let answer = sent(&udp(OWN, REMOTE, (80, 40000), b"!"));
    bench.expect("passed", PASS, |b| b.arrive(&question, 7));
    bench.expect("passed", PASS, |b| b.out(&answer));
    bench.rules(vec![]);
    bench.expect("revoked", DROP, |b| b.arrive(&question, 7));
    bench.expect("revoked", DROP, |b| b.out(&answer));
    bench.expect("policy", DROP, |b| b.arrive(&question, 7));
    bench.rules(allow_80());
    bench.expect("passed", PASS, |b| b.out(&answer));
    bench.expect("passed", PASS, |b| b.arrive(&question, 7));
}

#[test]
fn a_flow_without_an_answer_is_revoked_too() {
    let mut bench = Bench::new(allow_80());
    bench.expect("passed", PASS, |b| b.arrive(&segment(SYN), 7));
    bench.rules(vec![]);
    bench.expect("revoked", DROP, |b| b.out(&answer(SYN | ACK)));
}

#[test]
fn a_slots_next_workload_inherits_nothing() {
    let mut bench = Bench::new(allow_80());
    established(&bench);
    bench.expect("passed", PASS, |b| b.out(&sent(&udp(OWN, OUTSIDE, (40000, 53), b"?"))));
    let views = bench.datapath.endpoints();
    bench.datapath.apply(&[MapOp::RemoveEndpoint(SLOT)]).unwrap();
    bench.expect("no-endpoint", DROP, |b| b.arrive(&segment(ACK), 7));
    bench.expect("no-endpoint", DROP, |b| b.out(&answer(ACK)));
    bench.rules(vec![]);
    bench.expect("mid-stream", DROP, |b| b.arrive(&segment(ACK), 7));
    bench.expect("policy", DROP, |b| b.arrive(&received(&udp(OUTSIDE, OWN, (53, 40000), b"!")), 0));
    let now = &bench.datapath.endpoints()[&SLOT];
    assert!(now.generation > views[&SLOT].generation);
    assert_eq!(now.incarnation, views[&SLOT].incarnation + 1);
}

#[test]
fn another_address_or_mac_is_another_workload() {
    let mut bench = Bench::new(vec![]);
    let first = bench.datapath.endpoints()[&SLOT].incarnation;
    bench.change(|endpoint| endpoint.audit = true);
    assert_eq!(bench.datapath.endpoints()[&SLOT].incarnation, first);
    bench.change(|endpoint| endpoint.mac = Mac([2, 0, 0, 0, 0, 9]));
    assert_eq!(bench.datapath.endpoints()[&SLOT].incarnation, first + 1);
    bench.change(|endpoint| endpoint.ip = Ipv4Addr::new(10, 255, 1, 77));
    assert_eq!(bench.datapath.endpoints()[&SLOT].incarnation, first + 2);
}

#[test]
fn icmp_errors_pass_if_they_quote_a_known_flow() {
    let mut bench = Bench::new(vec![]);
    let syn = tcp(OWN, OUTSIDE, (40000, 443), SYN, b"");
    let router = Ipv4Addr::new(203, 0, 113, 99);
    let error = |quoted: &[u8]| received(&icmp(router, OWN, 3, 4, 0, &quoted[..28]));
    bench.expect("policy", DROP, |b| b.arrive(&error(&syn), 0));
    bench.expect("passed", PASS, |b| b.out(&sent(&syn)));
    bench.expect("passed", PASS, |b| b.arrive(&error(&syn), 0));
    let other = tcp(OWN, OUTSIDE, (40001, 443), SYN, b"");
    bench.expect("policy", DROP, |b| b.arrive(&error(&other), 0));
    let cut = received(&icmp(router, OWN, 3, 4, 0, &syn[..20]));
    bench.expect("policy", DROP, |b| b.arrive(&cut, 0));
    // The host itself may always tell.
    bench.expect("passed", PASS, |b| b.by_host(&error(&other)));
    // Of a flow in the overlay its other end may tell, and hosts; no other workload, whatever it has heard.
    let asked = tcp(OWN, REMOTE, (40000, 443), SYN, b"");
    bench.expect("passed", PASS, |b| b.out(&sent(&asked)));
    let told_by = |sender| received(&icmp(sender, OWN, 3, 4, 0, &asked[..28]));
    bench.expect("policy", DROP, |b| b.arrive(&told_by(NEIGHBOUR), 8));
    bench.expect("policy", DROP, |b| b.arrive(&told_by(Ipv4Addr::new(10, 255, 2, 77)), 7));
    bench.expect("policy", DROP, |b| b.arrive(&told_by(REMOTE_VTEP), 7));
    for (sender, tag) in [(REMOTE, 7), (REMOTE_VTEP, 0), (GATEWAY, 0), (router, 0)] {
        bench.expect("passed", PASS, |b| b.arrive(&told_by(sender), tag));
    }
    // Errors that the workload sends are egress, which its rules may close but for known flows.
    let deny = Rule {
        verdict: weft_model::policy::Verdict::Deny,
        ..rule(Direction::Egress, weft_model::policy::Peer::Any, weft_model::policy::Traffic::Protocol(1))
    };
    bench.rules(vec![deny, rule(Direction::Ingress, tag_peer(7), ports(Protocol::Udp, 80, 80))]);
    let question = udp(REMOTE, OWN, (40000, 80), b"?");
    let unreachable = sent(&icmp(OWN, REMOTE, 3, 3, 0, &question[..28]));
    bench.expect("policy", DROP, |b| b.out(&unreachable));
    bench.expect("passed", PASS, |b| b.arrive(&received(&question), 7));
    bench.expect("passed", PASS, |b| b.out(&unreachable));
    // A flow that is to be judged again, or was and is revoked, carries no errors.
    bench.rules(vec![deny]);
    bench.expect("policy", DROP, |b| b.out(&unreachable));
    bench.expect("revoked", DROP, |b| b.arrive(&received(&question), 7));
    bench.expect("policy", DROP, |b| b.out(&unreachable));
}

#[test]
fn flows_end_after_their_time() {
    // (packet out, packet in that passes as its reply, table, seconds that it lives, answered first)
    let tcp_out = |flags| sent(&tcp(OWN, OUTSIDE, (40000, 443), flags, b""));
    let tcp_in = |flags| received(&tcp(OUTSIDE, OWN, (443, 40000), flags, b""));
    let udp_out = sent(&udp(OWN, OUTSIDE, (40000, 53), b"?"));
    let udp_in = received(&udp(OUTSIDE, OWN, (53, 40000), b"!"));
    let echo_out = sent(&icmp(OWN, OUTSIDE, 8, 0, 7, b""));
    let echo_in = received(&icmp(OUTSIDE, OWN, 0, 0, 7, b""));
    for (name, out, back, answered, seconds) in [
        ("half TCP", tcp_out(SYN), tcp_in(SYN | ACK), vec![], 120),
        ("TCP", tcp_out(SYN), tcp_in(ACK), vec![tcp_in(SYN | ACK)], 86_400),
        ("TCP after a RST", tcp_out(SYN), tcp_in(ACK), vec![tcp_in(RST | ACK)], 10),
        ("half UDP", udp_out.clone(), udp_in.clone(), vec![], 60),
        ("UDP", udp_out, udp_in.clone(), vec![udp_in], 180),
        ("echo", echo_out, echo_in, vec![], 30),
    ] {
        let table = if name == "TCP" { "ct_est4" } else { "ct_short4" };
        // What becomes of the reply after so long, and how much longer it really was.
        let after = |seconds| {
            let bench = Bench::new(vec![]);
            let begun = Instant::now();
            assert_eq!(bench.out(&out).verdict, PASS, "{name}");
            for frame in &answered {
                assert_eq!(bench.arrive(frame, 0).verdict, PASS, "{name}");
            }
            bench.age(table, offset_of!(Conn, seen), seconds);
            (bench.arrive(&back, 0).verdict, begun.elapsed())
        };
        assert_eq!(after(seconds + 4).0, DROP, "{name}, late");
        until("a reply in time", || {
            let (verdict, more) = after(seconds - 4);
            (more < Duration::from_secs(2)).then(|| assert_eq!(verdict, PASS, "{name}, in time"))
        });
    }
}

/// Revoked, it takes nothing of what the workload sends for a flow of the workload's own; and while the workload goes
/// on sending, it is not forgotten.
#[test]
fn a_revoked_flow_is_remembered_for_as_long_as_somebody_goes_on_with_it() {
    let question = received(&udp(REMOTE, OWN, (40000, 80), b"?"));
    let answer = sent(&udp(OWN, REMOTE, (80, 40000), b"!"));
    let mut bench = Bench::new(allow_80());
    bench.expect("passed", PASS, |b| b.arrive(&question, 7));
    bench.rules(vec![]);
    bench.expect("revoked", DROP, |b| b.out(&answer));
    for _ in 0..3 {
        bench.age("ct_short4", offset_of!(Conn, seen), 100);
        bench.expect("revoked", DROP, |b| b.out(&answer));
    }
    bench.age("ct_short4", offset_of!(Conn, seen), 184);
    bench.expect("passed", PASS, |b| b.out(&answer));
}

#[test]
fn a_closed_connection_is_forgotten_soon() {
    let bench = Bench::new(vec![]);
    let out = |flags| sent(&tcp(OWN, OUTSIDE, (40000, 443), flags, b""));
    let back = |flags| received(&tcp(OUTSIDE, OWN, (443, 40000), flags, b""));
    assert_eq!(bench.out(&out(SYN)).verdict, PASS);
    for frame in [back(SYN | ACK), back(FIN | ACK)] {
        assert_eq!(bench.arrive(&frame, 0).verdict, PASS);
    }
    bench.age("ct_est4", offset_of!(Conn, seen), 60);
    assert_eq!(bench.arrive(&back(ACK), 0).verdict, PASS, "half closed lives on");
    assert_eq!(bench.out(&out(FIN | ACK)).verdict, PASS);
    assert_eq!(bench.arrive(&back(ACK), 0).verdict, PASS, "the last acknowledgement");
    bench.age("ct_more4", offset_of!(Conn, seen), 14);
    assert_eq!(bench.arrive(&back(ACK), 0).verdict, DROP);
}

/// What is noted of the end of the flow between [`REMOTE`]'s port 40000 and port 80, if it is among the answered.
fn noted_end(bench: &Bench) -> Option<u8> {
    use aya::maps::{HashMap, Map, MapData};
    let data = MapData::from_pin(maps(&bench.folder).join("ct_est4")).unwrap();
    let flows: HashMap<_, [u8; size_of::<ConnKey4>()], [u8; size_of::<Conn>()]> =
        HashMap::try_from(Map::LruHashMap(data)).unwrap();
    let ports = [40000_u16.to_be_bytes(), 80_u16.to_be_bytes()].concat();
    let key = [&u32::from(SLOT.0).to_ne_bytes()[..], &REMOTE.octets(), &ports, &[6, 0, 0, 0]].concat();
    flows.get(&key.try_into().unwrap(), 0).ok().map(|conn| conn[std::mem::offset_of!(Conn, tcp)])
}

/// Sequence numbers are not looked at: a reset counts whatever it bears. So whoever is not one of the two ends must
/// not get one to the program that would believe it.
#[test]
fn only_its_two_ends_end_a_flow() {
    let mut bench = Bench::new(allow_80());
    let neighbour = SLOT_IFINDEX_BASE + 6;
    run(&format!("ip link add w6 index {neighbour} type veth peer name c6"));
    let mac = Mac::for_workload(NEIGHBOUR);
    let other = Endpoint { slot: Slot(6), ip: NEIGHBOUR, mac, ..bench.endpoint.clone() };
    bench.datapath.apply(&[MapOp::PutEndpoint(other)]).unwrap();
    established(&bench);
    assert_eq!(noted_end(&bench), Some(0));

    let towards = |flags| tcp(REMOTE, OWN, (40000, 80), flags, b"");
    let back = |flags| tcp(OWN, REMOTE, (80, 40000), flags, b"");
    for flags in [RST, RST | ACK, FIN | ACK] {
        // A neighbour, in either end's name.
        for packet in [towards(flags), back(flags)] {
            let frame = ethernet(mac, gateway_mac(), 0x0800, &packet);
            let probe =
                Probe { frame: &frame, mark: 0, ifindex: neighbour, ingress_ifindex: 0, gso_size: 0, repeat: 1 };
            bench.expect("spoofed-ip", DROP, |b| b.datapath.probe(Program::FromWorkload, &probe).unwrap());
        }
        // Other hosts, by the tunnel; strangers on the underlay.
        let inner = ethernet(Mac([2; 6]), Mac([4; 6]), 0x0800, &towards(flags));
        for outer in [PLAIN_UNDERLAY, FLANNEL_UNDERLAY, Ipv4Addr::new(192, 0, 2, 66)] {
            let frame = vxlan((outer, HOST), VXLAN_PORT, VNI, &inner);
            bench.expect("inner-source", DROP, |b| b.probe(Program::FromUnderlay, &frame, 0, 1));
        }
        // Whatever has the address and not the tag, by another way.
        for tag in [0, 8] {
            bench.expect("mid-stream", DROP, |b| b.arrive(&segment(flags), tag));
        }
    }
    assert_eq!(noted_end(&bench), Some(0), "somebody else has ended it");
    bench.expect("passed", PASS, |b| b.arrive(&segment(RST), 7));
    assert_eq!(noted_end(&bench), None, "its own end cannot");
}
