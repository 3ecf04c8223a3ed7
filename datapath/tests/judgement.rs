//! Who may reach a workload, and whom it may reach, packet by packet: the table of docs/policies.md.

mod common;

use common::frame::*;
use common::*;
use std::net::Ipv4Addr;
use weft_model::policy::{
    Direction, Isolation, Peer, Precedence, Protocol, Rule, Tier, Traffic, Transport, Verdict, isolated,
};

fn syn(source: Ipv4Addr, port: u16) -> Vec<u8> {
    received(&tcp(source, OWN, (40000, port), SYN, b""))
}

#[test]
fn policy_allows_a_tag_on_its_port_and_nothing_else() {
    let bench = Bench::new(vec![
        rule(Direction::Ingress, tag_peer(7), ports(Protocol::Tcp, 80, 80)),
        rule(Direction::Ingress, tag_peer(7), ports(Protocol::Udp, 1000, 1999)),
    ]);
    bench.expect("passed", PASS, |b| b.arrive(&syn(REMOTE, 80), 7));
    bench.expect("policy", DROP, |b| b.arrive(&syn(REMOTE, 81), 7));
    bench.expect("policy", DROP, |b| b.arrive(&syn(REMOTE, 80), 8));
    let datagram = |port| received(&udp(REMOTE, OWN, (40000, port), b"x"));
    for (port, verdict) in [(999, DROP), (1000, PASS), (1500, PASS), (1999, PASS), (2000, DROP), (80, DROP)] {
        assert_eq!(bench.arrive(&datagram(port), 7).verdict, verdict, "udp {port}");
    }
    bench.expect("policy", DROP, |b| b.arrive(&received(&icmp(REMOTE, OWN, 8, 0, 1, b"")), 7));
}

/// An SCTP packet with its ports and an INIT chunk.
fn sctp(ports: (u16, u16)) -> Vec<u8> {
    let mut packet = ports.0.to_be_bytes().to_vec();
    packet.extend(ports.1.to_be_bytes());
    packet.extend([0; 8]);
    packet.extend([1, 0, 0, 20]);
    packet.extend([0; 16]);
    received(&ipv4(REMOTE, OWN, 132, 0, &packet))
}

#[test]
fn sctp_has_ports() {
    let few = rule(Direction::Ingress, tag_peer(7), ports(Transport::Sctp, 3868, 3868));
    let many = Rule { id: 2, ..rule(Direction::Ingress, tag_peer(7), ports(Transport::Sctp, 5000, 6000)) };
    let bench = Bench::new(vec![few, many]);
    for (port, verdict) in [(3868, PASS), (3869, DROP), (5000, PASS), (6000, PASS), (6001, DROP)] {
        assert_eq!(bench.arrive(&sctp((40000, port)), 7).verdict, verdict, "sctp {port}");
    }
    bench.expect("policy", DROP, |b| b.arrive(&syn(REMOTE, 3868), 7));
    // Too short for its header: no ports to judge by.
    bench.expect("malformed", DROP, |b| b.arrive(&received(&ipv4(REMOTE, OWN, 132, 0, &[0; 11])), 7));
}

#[test]
fn icmp_is_judged_by_type_and_code() {
    let message = |kind, code| received(&icmp(REMOTE, OWN, kind, code, 9, b""));
    let icmp = |kind, code| rule(Direction::Ingress, tag_peer(7), Traffic::Icmp { kind, code });
    let mut bench = Bench::new(vec![icmp(8, Some(0)), icmp(13, None), icmp(0, Some(3))]);
    for (kind, code, reason, verdict) in
        [(8, 0, "passed", PASS), (8, 1, "policy", DROP), (13, 0, "passed", PASS), (13, 255, "passed", PASS)]
    {
        bench.expect(reason, verdict, |b| b.arrive(&message(kind, code), 7));
    }
    for (kind, code, reason, verdict) in
        [(12, 255, "policy", DROP), (14, 0, "policy", DROP), (0, 3, "passed", PASS), (0, 4, "policy", DROP)]
    {
        bench.expect(reason, verdict, |b| b.arrive(&message(kind, code), 7));
    }
    bench.expect("policy", DROP, |b| b.arrive(&syn(REMOTE, 0x0800), 7));
    // A flow of echoes is judged again as what opened it.
    bench.rules(vec![icmp(8, Some(0))]);
    bench.expect("passed", PASS, |b| b.arrive(&message(8, 0), 7));
    bench.rules(vec![icmp(13, None)]);
    bench.expect("revoked", DROP, |b| b.arrive(&message(8, 0), 7));
}

/// Of ICMP only echoes have an identifier: other messages must not pass as a flow of echoes without one.
#[test]
fn an_allowed_ping_lets_no_other_message_in() {
    let bench = Bench::new(vec![rule(Direction::Ingress, tag_peer(7), Traffic::Icmp { kind: 8, code: Some(0) })]);
    let message = |kind, code| received(&icmp(REMOTE, OWN, kind, code, 0, b""));
    bench.expect("passed", PASS, |b| b.arrive(&message(8, 0), 7));
    bench.expect("passed", PASS, |b| b.out(&sent(&icmp(OWN, REMOTE, 0, 0, 0, b""))));
    bench.expect("passed", PASS, |b| b.arrive(&message(8, 0), 7));
    for (kind, code) in [(13, 0), (5, 1), (17, 0), (8, 1), (0, 1)] {
        bench.expect("policy", DROP, |b| b.arrive(&message(kind, code), 7));
    }
}

#[test]
fn administrators_rules_come_before_and_after_the_owners() {
    let at = |tier, priority| Precedence { tier, priority };
    let tcp_80 = |id, peer, precedence, verdict| Rule {
        id,
        precedence,
        verdict,
        ..rule(Direction::Ingress, peer, ports(Transport::Tcp, 80, 80))
    };
    let mut bench = Bench::new(vec![
        tcp_80(1, tag_peer(9), at(Tier::Admin, 3), Verdict::Pass),
        tcp_80(2, tag_peer(7), at(Tier::Admin, 2), Verdict::Deny),
        tcp_80(3, tag_peer(8), at(Tier::Admin, 2), Verdict::Allow),
        tcp_80(4, Peer::Any, at(Tier::Admin, 1), Verdict::Pass),
        tcp_80(5, tag_peer(7), at(Tier::Policy, 1), Verdict::Allow),
        tcp_80(6, tag_peer(9), at(Tier::Policy, 1), Verdict::Allow),
        tcp_80(7, tag_peer(10), at(Tier::Baseline, 1), Verdict::Deny),
    ]);
    // Deny before the owners' allow; allow without one; pass on to it; and the owners' silence is a no.
    for (tag, verdict) in [(7, DROP), (8, PASS), (9, PASS), (10, DROP), (11, DROP)] {
        assert_eq!(bench.arrive(&syn(REMOTE, 80), tag).verdict, verdict, "isolated, tag {tag}");
    }
    bench.change(|endpoint| endpoint.isolated = false);
    for (tag, verdict) in [(7, DROP), (8, PASS), (9, PASS), (10, DROP), (11, PASS)] {
        assert_eq!(bench.arrive(&syn(REMOTE, 80), tag).verdict, verdict, "not isolated, tag {tag}");
    }
}

#[test]
fn networks_inside_networks() {
    let cidr = |id, text: &str, verdict| Rule {
        id,
        verdict,
        ..rule(Direction::Ingress, Peer::Cidr(text.parse().unwrap()), ports(Transport::Tcp, 80, 80))
    };
    let bench = Bench::new(vec![
        cidr(1, "198.51.0.0/16", Verdict::Allow),
        cidr(2, "198.51.100.0/24", Verdict::Deny),
        Rule { precedence: Precedence::policy(200), ..cidr(3, "198.51.100.128/25", Verdict::Allow) },
        cidr(4, "198.51.100.200/32", Verdict::Deny),
    ]);
    let from = |last_two: [u8; 2]| bench.arrive(&syn(Ipv4Addr::new(198, 51, last_two[0], last_two[1]), 80), 0).verdict;
    assert_eq!(from([1, 1]), PASS, "the wide network alone");
    assert_eq!(from([100, 1]), DROP, "denied inside it");
    assert_eq!(from([100, 129]), PASS, "a higher precedence inside that");
    assert_eq!(from([100, 200]), PASS, "the longest prefix alone decides nothing");
}

/// One source of the table: how its packets look, and whether they pass when the workload is
/// isolated.
struct Source {
    name: &'static str,
    address: Ipv4Addr,
    mark: u32,
    ingress: u32,
    isolated: bool,
}

fn sources() -> Vec<Source> {
    let tagged = |tag: u16| u32::from(tag) << SHIFT;
    let source = |name, address, mark, ingress, isolated| Source { name, address, mark, ingress, isolated };
    vec![
        source("itself, masqueraded", GATEWAY, tagged(OWN_TAG), 1, true),
        source("itself", OWN, tagged(OWN_TAG), 1, true),
        source("its address without its tag", OWN, 0, 1, false),
        source("the same group elsewhere", REMOTE, tagged(OWN_TAG), 1, false),
        source("a group with a policy", REMOTE, tagged(7), 1, true),
        source("a group without", NEIGHBOUR, tagged(8), 1, false),
        source("this host", GATEWAY, 0, 0, true),
        source("this host, with somebody's mark", HOST, tagged(8) | 0x4000, 0, true),
        source("another weft host", REMOTE_VTEP, 0, 1, false),
        source("an untagged workload of a weft host", REMOTE, 0, 1, false),
        source("our own subnet, untagged", NEIGHBOUR, 0, 1, false),
        source("somebody masqueraded as this host", GATEWAY, 0, 1, false),
        source("an unmanaged peer with a policy", FLANNEL, 0, 1, true),
        source("an unmanaged peer without", Ipv4Addr::new(10, 255, 3, 10), 0, 1, false),
        source("outside with a policy", OUTSIDE, 0, 1, true),
        source("outside without", Ipv4Addr::new(203, 0, 113, 1), 0, 1, false),
        source(
            "outside, with a foreign mark that looks like a tag",
            Ipv4Addr::new(203, 0, 113, 1),
            tagged(7),
            1,
            false,
        ),
        source("outside with a policy, with a foreign mark", OUTSIDE, tagged(8), 1, true),
    ]
}

#[test]
fn the_matrix_of_sources_and_modes() {
    let to_80 = |peer| rule(Direction::Ingress, peer, ports(Protocol::Tcp, 80, 80));
    let mut bench = Bench::new(vec![
        to_80(tag_peer(7)),
        to_80(Peer::Cidr("10.255.3.9/32".parse().unwrap())),
        to_80(Peer::Cidr("198.51.100.0/24".parse().unwrap())),
        // Networks of the overlay's managed part name nobody.
        to_80(Peer::Cidr("10.255.2.0/24".parse().unwrap())),
        to_80(Peer::Cidr("10.255.1.0/24".parse().unwrap())),
    ]);
    let modes = [Isolation::Always, Isolation::Selected, Isolation::Never];
    for (mode, is_destination) in modes.into_iter().flat_map(|mode| [(mode, false), (mode, true)]) {
        for hosts_may_reach in [false, true] {
            let isolated = isolated(mode, is_destination);
            bench.change(|endpoint| {
                endpoint.isolated = isolated;
                endpoint.hosts_may_reach = hosts_may_reach;
            });
            for source in sources() {
                let host = source.name == "another weft host" && hosts_may_reach;
                let expected = if !isolated || source.isolated || host { PASS } else { DROP };
                let outcome = bench.probe(
                    weft_datapath::Program::ToWorkload,
                    &syn(source.address, 80),
                    source.mark,
                    source.ingress,
                );
                assert_eq!(outcome.verdict, expected, "{} {mode:?} {is_destination} {hosts_may_reach}", source.name);
            }
        }
    }
}

#[test]
fn a_workload_without_a_tag_is_reached_by_its_host_only() {
    let mut bench = Bench::new(vec![]);
    bench.change(|endpoint| endpoint.tag = None);
    bench.expect("passed", PASS, |b| b.by_host(&syn(GATEWAY, 80)));
    // Tag 0 is no identity: two workloads without one are not "the same".
    bench.expect("policy", DROP, |b| b.arrive(&syn(GATEWAY, 80), 0));
    bench.expect("policy", DROP, |b| b.arrive(&syn(NEIGHBOUR, 80), 0));
    assert_eq!(bench.out(&sent(&tcp(OWN, OUTSIDE, (1, 80), SYN, b""))).mark, 0);
}

#[test]
fn egress_is_open_and_carries_the_tag() {
    let bench = Bench::new(vec![]);
    let syn = sent(&tcp(OWN, OUTSIDE, (40000, 443), SYN, b""));
    let outcome = bench.expect("passed", PASS, |b| b.out(&syn));
    assert_eq!(outcome.mark, u32::from(OWN_TAG) << SHIFT);
    // The whole mark is ours, whatever stood in it.
    let forged = bench.probe(weft_datapath::Program::FromWorkload, &syn, 0x1234_5678, 0);
    assert_eq!((forged.verdict, forged.mark), (PASS, u32::from(OWN_TAG) << SHIFT));
}

#[test]
fn egress_rules_deny_and_a_higher_precedence_wins() {
    let deny = Rule {
        verdict: Verdict::Deny,
        ..rule(Direction::Egress, Peer::Cidr("198.51.100.0/24".parse().unwrap()), Traffic::All)
    };
    let exception = Rule {
        precedence: Precedence::policy(200),
        ..rule(Direction::Egress, Peer::Any, ports(Protocol::Tcp, 443, 443))
    };
    let bench = Bench::new(vec![deny, exception]);
    let syn = |to, port| sent(&tcp(OWN, to, (40000, port), SYN, b""));
    bench.expect("policy", DROP, |b| b.out(&syn(OUTSIDE, 80)));
    bench.expect("passed", PASS, |b| b.out(&syn(OUTSIDE, 443)));
    bench.expect("passed", PASS, |b| b.out(&syn(Ipv4Addr::new(203, 0, 113, 1), 80)));
}

#[test]
fn the_own_host_is_closed_but_for_what_is_listed() {
    let mut bench = Bench::new(vec![rule(Direction::Egress, Peer::Host, ports(Protocol::Udp, 53, 53))]);
    let dns = |to| sent(&udp(OWN, to, (40000, 53), b"?"));
    let ssh = |to| sent(&tcp(OWN, to, (40000, 22), SYN, b""));
    for address in [HOST, GATEWAY, VTEP] {
        bench.expect("passed", PASS, |b| b.out(&ssh(address)));
    }
    bench.change(|endpoint| endpoint.host_listed_only = true);
    for address in [HOST, GATEWAY, VTEP] {
        bench.expect("host-access", DROP, |b| b.out(&ssh(address)));
        bench.expect("passed", PASS, |b| b.out(&dns(address)));
    }
    bench.expect("passed", PASS, |b| b.out(&ssh(REMOTE_VTEP)));
}

#[test]
fn audit_passes_and_says_so() {
    let mut bench = Bench::new(vec![]);
    bench.change(|endpoint| endpoint.audit = true);
    let mut reader = bench.datapath.denial_reader().unwrap();
    let before = bench.datapath.counters().unwrap();
    let packet = syn(REMOTE, 80);
    assert_eq!(bench.arrive(&packet, 7).verdict, PASS);
    let after = bench.datapath.counters().unwrap();
    assert_eq!((after["audited"] - before["audited"], after["passed"] - before["passed"]), (1, 1));
    let event = reader.try_next().unwrap();
    assert_eq!((event.action, event.reason), (weft_abi::action::AUDIT, weft_abi::Reason::Audited as u8));
    // The flow is known then: its next packet is not a new offence.
    let next = received(&tcp(REMOTE, OWN, (40000, 80), ACK, b"data"));
    bench.expect("passed", PASS, |b| b.arrive(&next, 7));
    // Audit ends: so does the flow, at its next packet.
    bench.change(|endpoint| endpoint.audit = false);
    bench.expect("revoked", DROP, |b| b.arrive(&next, 7));
}
