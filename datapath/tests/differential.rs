//! The programs against `model::policy::judge`: random policy sets, random packets on new flows.

#![allow(clippy::unwrap_used, reason = "strategies and helpers of tests are tests")]

mod common;

use common::frame::*;
use common::*;
use ipnetwork::Ipv4Network;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use weft_abi::Reason;
use weft_datapath::{DenialReader, Program};
use weft_model::datapath::{Host, MapOp, SetId};
use weft_model::id::Tag;
use weft_model::policy::{Direction, Peer, PolicySet, PortRange, Protocol, Remote, Rule, Traffic, Verdict, judge};

/// Few values each, so that rules and packets meet often.
const TAGS: [u16; 3] = [7, 8, 0xffff];
const NETWORKS: [&str; 6] =
    ["0.0.0.0/0", "198.51.100.0/24", "198.51.100.0/28", "198.51.100.7/32", "10.255.3.0/24", "10.255.2.0/24"];
const PORTS: [u16; 8] = [1, 79, 80, 81, 88, 1000, 1023, 65535];
const PROTOCOLS: [u8; 5] = [1, 6, 17, 47, 132];

fn port() -> impl Strategy<Value = u16> {
    prop_oneof![3 => prop::sample::select(&PORTS[..]), 1 => 1u16..]
}

fn traffic() -> impl Strategy<Value = Traffic> {
    let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)];
    prop_oneof![
        1 => Just(Traffic::All),
        1 => prop::sample::select(&PROTOCOLS[..]).prop_map(Traffic::Protocol),
        4 => (protocol, port(), port()).prop_map(|(protocol, a, b)| {
            Traffic::Ports(protocol, PortRange::new(a.min(b), a.max(b)).unwrap())
        }),
    ]
}

fn peer() -> impl Strategy<Value = Peer> {
    prop_oneof![
        1 => Just(Peer::Any),
        1 => Just(Peer::Host),
        1 => Just(Peer::Node),
        3 => prop::sample::select(&TAGS[..]).prop_map(|tag| Peer::Tag(Tag::new(tag).unwrap())),
        3 => prop::sample::select(&NETWORKS[..])
            .prop_map(|network| Peer::Cidr(network.parse::<Ipv4Network>().unwrap())),
    ]
}

fn rules() -> impl Strategy<Value = Vec<Rule>> {
    let direction = prop_oneof![Just(Direction::Ingress), Just(Direction::Egress)];
    let verdict = prop_oneof![2 => Just(Verdict::Allow), 1 => Just(Verdict::Deny)];
    let rule =
        (direction, peer(), traffic(), 0u32..3, verdict).prop_map(|(direction, peer, traffic, precedence, verdict)| {
            Rule { direction, peer, traffic, precedence, verdict, id: 0 }
        });
    prop::collection::vec(rule, 0..14).prop_map(|mut rules| {
        for (rule, id) in rules.iter_mut().zip(1..) {
            rule.id = id;
        }
        rules
    })
}

fn policy_set() -> impl Strategy<Value = PolicySet> {
    (prop::bool::weighted(0.8), any::<bool>(), any::<bool>(), rules()).prop_map(
        |(isolated, hosts_may_reach, host_listed_only, rules)| PolicySet {
            isolated,
            hosts_may_reach,
            host_listed_only,
            rules,
        },
    )
}

/// The other side: address, mark, where it entered the host, and what that makes it.
type Origin = (Ipv4Addr, u16, u32, Remote);

fn origin() -> impl Strategy<Value = Origin> {
    let outside = prop_oneof![Just(OUTSIDE), Just(Ipv4Addr::new(198, 51, 100, 200)), Just(Ipv4Addr::new(8, 8, 8, 8))];
    let tag = prop::sample::select(&TAGS[..]);
    prop_oneof![
        Just((GATEWAY, OWN_TAG, 1, Remote::Itself)),
        Just((HOST, 0, 0, Remote::OwnHost)),
        Just((REMOTE_VTEP, 0, 1, Remote::OtherHost)),
        tag.prop_map(|tag| (REMOTE, tag, 1, Remote::Tagged(Tag::new(tag).unwrap()))),
        Just((NEIGHBOUR, 0, 1, Remote::Nobody)),
        Just((PLAIN, 0, 1, Remote::Nobody)),
        Just((FLANNEL, 0, 1, Remote::Address(FLANNEL))),
        outside.prop_map(|ip| (ip, 0, 1, Remote::Address(ip))),
    ]
}

/// Whom the workload calls, and what that makes it: tags are not known there.
fn target() -> impl Strategy<Value = (Ipv4Addr, Remote)> {
    prop_oneof![
        Just((HOST, Remote::OwnHost)),
        Just((REMOTE_VTEP, Remote::OtherHost)),
        Just((REMOTE, Remote::Nobody)),
        Just((FLANNEL, Remote::Address(FLANNEL))),
        Just((OUTSIDE, Remote::Address(OUTSIDE))),
    ]
}

#[derive(Debug, Clone)]
enum Case {
    In(Origin, u8, u16),
    Out((Ipv4Addr, Remote), u8, u16),
}

fn case() -> impl Strategy<Value = Case> {
    let proto = || prop::sample::select(&PROTOCOLS[..]);
    prop_oneof![
        2 => (origin(), proto(), port()).prop_map(|(origin, proto, port)| Case::In(origin, proto, port)),
        1 => (target(), proto(), port()).prop_map(|(target, proto, port)| Case::Out(target, proto, port)),
    ]
}

/// A packet that opens a flow of its own: `unique` makes its ports or its ICMP identifier.
fn packet(source: Ipv4Addr, destination: Ipv4Addr, proto: u8, port: u16, unique: u16) -> Vec<u8> {
    match proto {
        1 => icmp(source, destination, 8, 0, unique, b""),
        6 => tcp(source, destination, (unique, port), SYN, b""),
        17 => udp(source, destination, (unique, port), b""),
        132 => {
            let mut payload = unique.to_be_bytes().to_vec();
            payload.extend(port.to_be_bytes());
            payload.extend([0; 8]);
            ipv4(source, destination, proto, 0, &payload)
        }
        _ => ipv4(source, destination, proto, 0, &[0; 8]),
    }
}

/// The rule that the last refusal names.
fn last_rule(reader: &mut DenialReader) -> Option<(u32, u8)> {
    std::iter::from_fn(|| reader.try_next()).last().map(|event| (event.rule, event.reason))
}

/// The data plane under test and what it was asked so far.
struct Subject {
    bench: Bench,
    reader: DenialReader,
    number: u32,
    unique: u16,
    allowed: u32,
    denied: u32,
}

impl Subject {
    /// Puts a set in force for a new incarnation, so that every flow is new, also of protocols
    /// without ports.
    fn put(&mut self, set: &PolicySet) {
        self.number += 1;
        let endpoint = &mut self.bench.endpoint;
        let old = endpoint.set;
        endpoint.set = SetId(self.number);
        endpoint.isolated = set.isolated;
        endpoint.hosts_may_reach = set.hosts_may_reach;
        endpoint.host_listed_only = set.host_listed_only;
        let ops = [
            MapOp::PutSet(endpoint.set, set.clone()),
            MapOp::RemoveEndpoint(SLOT),
            MapOp::PutEndpoint(endpoint.clone()),
            MapOp::RemoveSet(old),
        ];
        self.bench.datapath.apply(&ops).unwrap();
    }

    fn check(&mut self, set: &PolicySet, case: &Case) -> Result<(), TestCaseError> {
        self.unique = self.unique.checked_add(1).unwrap_or(1024);
        let (direction, remote, proto, port, outcome) = match *case {
            Case::In((source, tag, ingress, remote), proto, port) => {
                let frame = received(&packet(source, OWN, proto, port, self.unique));
                let outcome = self.bench.probe(Program::ToWorkload, &frame, u32::from(tag) << SHIFT, ingress);
                (Direction::Ingress, remote, proto, port, outcome)
            }
            Case::Out((destination, remote), proto, port) => {
                let frame = sent(&packet(OWN, destination, proto, port, self.unique));
                (Direction::Egress, remote, proto, port, self.bench.out(&frame))
            }
        };
        let port = if matches!(proto, 6 | 17) { port } else { 0 };
        let (verdict, rule) = judge(set, direction, remote, proto, port);
        let allowed = outcome.verdict == PASS;
        prop_assert_eq!(allowed, verdict == Verdict::Allow, "{:?}: rule {}", case, rule);
        if allowed {
            self.allowed += 1;
            return Ok(());
        }
        self.denied += 1;
        let own_host = direction == Direction::Egress && remote == Remote::OwnHost && rule == 0;
        let reason = if own_host { Reason::HostAccess } else { Reason::Policy };
        prop_assert_eq!(last_rule(&mut self.reader), Some((rule, reason as u8)), "{:?}", case);
        Ok(())
    }
}

#[test]
fn programs_and_model_agree_on_new_flows() {
    let mut bench = Bench::new(vec![]);
    bench.datapath.set_host(&Host { denials_per_second: u32::MAX, denials_burst: u32::MAX, ..host() }).unwrap();
    let reader = bench.datapath.denial_reader().unwrap();
    let subject = RefCell::new(Subject { bench, reader, number: 100, unique: 1024, allowed: 0, denied: 0 });
    let config = Config { cases: 800, failure_persistence: None, ..Config::default() };
    let cases = (policy_set(), prop::collection::vec(case(), 12));
    let result = TestRunner::new(config).run(&cases, |(set, cases)| {
        let mut subject = subject.borrow_mut();
        subject.put(&set);
        // Without ports there is one flow a direction and remote: the second is no new one.
        let mut asked = BTreeSet::new();
        for case in &cases {
            let flow = match *case {
                Case::In((address, ..), 47, _) | Case::Out((address, _), 47, _) => Some(address),
                _ => None,
            };
            if flow.is_none_or(|address| asked.insert(address)) {
                subject.check(&set, case)?;
            }
        }
        Ok(())
    });
    result.unwrap();
    // A generator that only ever allows, or only denies, would prove nothing.
    let Subject { allowed, denied, .. } = subject.into_inner();
    assert!(allowed > 1500 && denied > 1500, "{allowed} allowed, {denied} denied");
}
