//! The programs against `model::policy::evaluate`: random policy sets, random packets on new flows.
//!
//! What is drawn is reported and bounded from below, branch by branch of the reference, so that a change of a
//! generator cannot quietly stop testing something. A disagreement is shrunk, and printed with the set and
//! the packet; `WEFT_DIFFERENTIAL_CASES` sets how many sets are drawn.

#![allow(clippy::unwrap_used, reason = "strategies and helpers of tests are tests")]

mod common;

use common::frame::*;
use common::*;
use ipnetwork::Ipv4Network;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use weft_abi::Reason;
use weft_datapath::{DenialReader, Program};
use weft_model::datapath::{Host, MapOp, SetId};
use weft_model::id::Tag;
use weft_model::policy::{
    Direction, Peer, PolicySet, PortRange, Precedence, Remote, Rule, Ruling, Tier, Traffic, Transport, Verdict, Why,
    evaluate, icmp_port,
};

/// Sets drawn, and packets sent to each; how often at most, until each branch was taken often enough.
const SETS: u32 = 400;
const PACKETS: u32 = 50;
const ROUNDS: u32 = 5;

/// Few values each, so that rules and packets meet often.
const TAGS: [u16; 3] = [7, 8, 0xffff];
const NETWORKS: [&str; 7] = [
    "0.0.0.0/0",
    "198.51.0.0/16",
    "198.51.100.0/24",
    "198.51.100.0/28",
    "198.51.100.7/32",
    "10.255.3.0/24",
    "10.255.2.0/24",
];
const PORTS: [u16; 8] = [1, 79, 80, 81, 88, 1000, 1023, 65535];
const PROTOCOLS: [u8; 5] = [1, 6, 17, 47, 132];
/// Types and codes: of errors and answers too, which without a flow are judged like any packet.
const MESSAGES: [(u8, u8); 7] = [(8, 0), (8, 1), (0, 0), (13, 0), (3, 4), (5, 255), (255, 255)];

fn port() -> impl Strategy<Value = u16> {
    prop_oneof![9 => prop::sample::select(&PORTS[..]), 1 => 1u16..]
}

/// Wide ones, and some of a few ports.
fn ports() -> impl Strategy<Value = PortRange> {
    prop_oneof![
        (port(), port()).prop_map(|(a, b)| PortRange::new(a.min(b), a.max(b)).unwrap()),
        (prop::sample::select(&PORTS[..]), 0u16..9).prop_map(|(port, more)| PortRange::new(
            port,
            port.saturating_add(more)
        )
        .unwrap()),
    ]
}

fn traffic() -> impl Strategy<Value = Traffic> {
    let transport = prop_oneof![Just(Transport::Tcp), Just(Transport::Udp), Just(Transport::Sctp)];
    let message = (prop::sample::select(&MESSAGES[..]), any::<bool>());
    prop_oneof![
        1 => Just(Traffic::All),
        1 => prop::sample::select(&PROTOCOLS[..]).prop_map(Traffic::Protocol),
        6 => (transport, ports()).prop_map(|(transport, ports)| Traffic::Ports(transport, ports)),
        2 => message.prop_map(|((kind, code), exact)| Traffic::Icmp { kind, code: exact.then_some(code) }),
    ]
}

fn network() -> impl Strategy<Value = Peer> {
    prop::sample::select(&NETWORKS[..]).prop_map(|network| Peer::Cidr(network.parse::<Ipv4Network>().unwrap()))
}

/// An egress rule can name no tag.
fn direction_and_peer() -> impl Strategy<Value = (Direction, Peer)> {
    let tag = prop::sample::select(&TAGS[..]).prop_map(|tag| Peer::Tag(Tag::new(tag).unwrap()));
    let into = prop_oneof![1 => Just(Peer::Any), 1 => Just(Peer::Node), 3 => tag, 3 => network()];
    let out = prop_oneof![1 => Just(Peer::Any), 1 => Just(Peer::Node), 2 => Just(Peer::Host), 2 => network()];
    prop_oneof![
        3 => into.prop_map(|peer| (Direction::Ingress, peer)),
        2 => out.prop_map(|peer| (Direction::Egress, peer)),
    ]
}

fn precedence() -> impl Strategy<Value = Precedence> {
    let tier = prop_oneof![2 => Just(Tier::Admin), 3 => Just(Tier::Policy), 2 => Just(Tier::Baseline)];
    (tier, 0u32..3).prop_map(|(tier, priority)| Precedence { tier, priority })
}

fn rules() -> impl Strategy<Value = Vec<Rule>> {
    let verdict = prop_oneof![Just(Verdict::Allow), Just(Verdict::Deny), Just(Verdict::Pass)];
    let rule = (direction_and_peer(), traffic(), precedence(), verdict).prop_map(
        |((direction, peer), traffic, precedence, verdict)| Rule {
            direction,
            peer,
            traffic,
            precedence,
            verdict,
            id: 0,
        },
    );
    prop::collection::vec(rule, 0..30).prop_map(|mut rules| {
        for (rule, id) in rules.iter_mut().zip(1..) {
            rule.id = id;
        }
        rules
    })
}

fn policy_set() -> impl Strategy<Value = PolicySet> {
    (prop::bool::weighted(0.7), any::<bool>(), any::<bool>(), rules()).prop_map(
        |(isolated, hosts_may_reach, host_listed_only, rules)| PolicySet {
            isolated,
            hosts_may_reach,
            host_listed_only,
            rules,
        },
    )
}

/// The other side: address, mark, where it entered the host, and what that makes it.
type Origin = (Ipv4Addr, u32, u32, Remote);

const MAPPED: u32 = weft_model::ports::mapped_mark(SHIFT);

fn mark(tag: u16) -> u32 {
    u32::from(tag) << SHIFT
}

fn outside() -> impl Strategy<Value = Ipv4Addr> {
    let addresses =
        [OUTSIDE, Ipv4Addr::new(198, 51, 100, 9), Ipv4Addr::new(198, 51, 200, 1), Ipv4Addr::new(8, 8, 8, 8)];
    prop::sample::select(addresses.to_vec())
}

fn origin() -> impl Strategy<Value = Origin> {
    let tag = prop::sample::select(&TAGS[..]);
    prop_oneof![
        1 => Just((GATEWAY, mark(OWN_TAG), 1, Remote::Itself)),
        1 => Just((HOST, 0, 0, Remote::OwnHost)),
        1 => Just((REMOTE_VTEP, 0, 1, Remote::OtherHost)),
        3 => tag.prop_map(|tag| (REMOTE, mark(tag), 1, Remote::Tagged(Tag::new(tag).unwrap()))),
        1 => Just((NEIGHBOUR, 0, 1, Remote::Nobody)),
        1 => Just((PLAIN, 0, 1, Remote::Nobody)),
        1 => Just((FLANNEL, 0, 1, Remote::Address(FLANNEL))),
        3 => outside().prop_map(|ip| (ip, 0, 1, Remote::Address(ip))),
        1 => outside().prop_map(|ip| (ip, MAPPED, 1, Remote::Mapped)),
        1 => Just((GATEWAY, MAPPED, 1, Remote::Mapped)),
    ]
}

/// Whom the workload calls, and what that makes it: tags are not known there.
fn target() -> impl Strategy<Value = (Ipv4Addr, Remote)> {
    prop_oneof![
        2 => Just((HOST, Remote::OwnHost)),
        1 => Just((REMOTE_VTEP, Remote::OtherHost)),
        1 => Just((REMOTE, Remote::Nobody)),
        1 => Just((FLANNEL, Remote::Address(FLANNEL))),
        2 => outside().prop_map(|ip| (ip, Remote::Address(ip))),
    ]
}

/// What is asked for: a protocol, and its port or what stands for it.
#[derive(Debug, Clone, Copy)]
struct Asked {
    proto: u8,
    port: u16,
}

fn asked() -> impl Strategy<Value = Asked> {
    let message = prop::sample::select(&MESSAGES[..]);
    prop_oneof![
        2 => message.prop_map(|(kind, code)| Asked { proto: 1, port: icmp_port(kind, code) }),
        7 => (prop::sample::select(vec![6u8, 17, 132]), port()).prop_map(|(proto, port)| Asked { proto, port }),
        1 => Just(Asked { proto: 47, port: 0 }),
    ]
}

#[derive(Debug, Clone)]
enum Case {
    In(Origin, Asked),
    Out((Ipv4Addr, Remote), Asked),
}

fn case() -> impl Strategy<Value = Case> {
    prop_oneof![
        3 => (origin(), asked()).prop_map(|(origin, asked)| Case::In(origin, asked)),
        2 => (target(), asked()).prop_map(|(target, asked)| Case::Out(target, asked)),
    ]
}

/// A packet that opens a flow of its own: `unique` makes its ports or its ICMP identifier.
fn packet(source: Ipv4Addr, destination: Ipv4Addr, asked: Asked, unique: u16) -> Vec<u8> {
    let Asked { proto, port } = asked;
    match proto {
        1 => {
            let [kind, code] = port.to_be_bytes();
            icmp(source, destination, kind, code, unique, b"")
        }
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

/// The data plane under test, and how often each branch of the reference was taken.
struct Subject {
    bench: Bench,
    reader: DenialReader,
    number: u32,
    unique: u16,
    covered: BTreeMap<String, u32>,
}

impl Subject {
    fn new() -> Self {
        let mut bench = Bench::new(vec![]);
        bench.datapath.set_host(&Host { denials_per_second: u32::MAX, denials_burst: u32::MAX, ..host() }).unwrap();
        let reader = bench.datapath.denial_reader().unwrap();
        Self { bench, reader, number: 100, unique: 1024, covered: BTreeMap::new() }
    }

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
        let (direction, remote, asked, outcome) = match *case {
            Case::In((source, mark, ingress, remote), asked) => {
                let frame = received(&packet(source, OWN, asked, self.unique));
                let outcome = self.bench.probe(Program::ToWorkload, &frame, mark, ingress);
                (Direction::Ingress, remote, asked, outcome)
            }
            Case::Out((destination, remote), asked) => {
                let frame = sent(&packet(OWN, destination, asked, self.unique));
                (Direction::Egress, remote, asked, self.bench.out(&frame))
            }
        };
        let ruling = evaluate(set, direction, remote, asked.proto, asked.port);
        self.cover(set, direction, remote, asked, ruling);
        let allowed = outcome.verdict == PASS;
        prop_assert_eq!(allowed, ruling.allowed, "{:?}: {:?}", case, ruling);
        if !allowed {
            let reason = if ruling.why == Why::HostNotListed { Reason::HostAccess } else { Reason::Policy };
            let last = std::iter::from_fn(|| self.reader.try_next()).last().map(|event| (event.rule, event.reason));
            prop_assert_eq!(last, Some((ruling.rule(), reason as u8)), "{:?}", case);
        }
        Ok(())
    }

    fn cover(&mut self, set: &PolicySet, direction: Direction, remote: Remote, asked: Asked, ruling: Ruling) {
        let mut count = |what: String| *self.covered.entry(what).or_default() += 1;
        count(format!("{direction:?} protocol {}, allowed: {}", asked.proto, ruling.allowed));
        let kind = format!("{remote:?}");
        count(format!("{direction:?} {}", kind.split('(').next().unwrap_or_default()));
        let Some(rule) = set.rules.iter().find(|rule| rule.id == ruling.rule()) else {
            return count(format!("{direction:?} {:?}", ruling.why));
        };
        let named = format!("{:?}", rule.peer);
        let named = named.split('(').next().unwrap_or_default();
        count(format!("{direction:?} {:?} {:?}", rule.precedence.tier, rule.verdict));
        count(format!("{direction:?} rule of {named}"));
        count(format!(
            "rule of {}",
            match rule.traffic {
                Traffic::Ports(transport, ports) if ports.end() - ports.start() < 8 =>
                    format!("few ports of {transport}"),
                Traffic::Ports(transport, _) => format!("a range of {transport}"),
                Traffic::Icmp { code, .. } => format!("an ICMP type, with code: {}", code.is_some()),
                Traffic::Protocol(_) => "a protocol".to_owned(),
                Traffic::All => "everything".to_owned(),
            }
        ));
        let rivals: Vec<&Rule> =
            set.rules.iter().filter(|other| other.id != rule.id && matches(other, direction, remote, asked)).collect();
        if rule.traffic.ports().is_some() && rivals.iter().any(|other| other.traffic.ports().is_some()) {
            count("overlapping ports".to_owned());
        }
        if matches!(rule.peer, Peer::Cidr(_)) && rivals.iter().any(|other| matches!(other.peer, Peer::Cidr(_))) {
            count("overlapping networks".to_owned());
        }
        if rivals.iter().any(|other| other.precedence == rule.precedence) {
            count("equal precedence".to_owned());
        }
        if rivals.iter().any(|other| other.precedence.tier < rule.precedence.tier) {
            count(format!("decided in {:?} after an earlier tier passed", rule.precedence.tier));
        }
    }
}

/// Whether a rule speaks of a packet, whatever it says.
fn matches(rule: &Rule, direction: Direction, remote: Remote, asked: Asked) -> bool {
    let rules = vec![Rule { verdict: Verdict::Deny, ..*rule }];
    let alone = PolicySet { isolated: true, hosts_may_reach: false, host_listed_only: false, rules };
    evaluate(&alone, direction, remote, asked.proto, asked.port).rule() == rule.id
}

/// Every branch of the reference that packets can take, and how often at least with [`SETS`].
fn expected() -> BTreeMap<String, u32> {
    let mut expected = BTreeMap::new();
    let mut expect = |what: &str, least: u32| {
        expected.insert(what.to_owned(), least);
    };
    for direction in ["Ingress", "Egress"] {
        for proto in PROTOCOLS {
            for allowed in [true, false] {
                expect(&format!("{direction} protocol {proto}, allowed: {allowed}"), 50);
            }
        }
        for tier in Tier::ALL {
            for verdict in [Verdict::Allow, Verdict::Deny] {
                expect(&format!("{direction} {tier:?} {verdict:?}"), 20);
            }
        }
        for peer in ["Any", "Node", "Cidr"] {
            expect(&format!("{direction} rule of {peer}"), 20);
        }
        expect(&format!("{direction} Open"), 100);
    }
    for remote in ["Itself", "OwnHost", "Mapped", "OtherHost", "Tagged", "Nobody", "Address"] {
        expect(&format!("Ingress {remote}"), 100);
    }
    for remote in ["OwnHost", "OtherHost", "Nobody", "Address"] {
        expect(&format!("Egress {remote}"), 100);
    }
    for why in [
        "Ingress Isolated",
        "Ingress HostsMayReach",
        "Egress HostNotListed",
        "Egress rule of Host",
        "Ingress rule of Tag",
    ] {
        expect(why, 50);
    }
    for transport in [Transport::Tcp, Transport::Udp, Transport::Sctp] {
        expect(&format!("rule of few ports of {transport}"), 20);
        expect(&format!("rule of a range of {transport}"), 50);
    }
    for traffic in ["an ICMP type, with code: true", "an ICMP type, with code: false", "a protocol", "everything"] {
        expect(&format!("rule of {traffic}"), 20);
    }
    for what in ["overlapping ports", "overlapping networks", "equal precedence"] {
        expect(what, 20);
    }
    for tier in [Tier::Policy, Tier::Baseline] {
        expect(&format!("decided in {tier:?} after an earlier tier passed"), 10);
    }
    expected
}

/// Draws so many sets, with packets for each, and compares.
fn compare(subject: &RefCell<Subject>, sets: u32) {
    let config = Config { cases: sets, failure_persistence: None, ..Config::default() };
    let cases = (policy_set(), prop::collection::vec(case(), PACKETS as usize));
    let result = TestRunner::new(config).run(&cases, |(set, cases)| {
        let mut subject = subject.borrow_mut();
        subject.put(&set);
        // Without ports there is one flow a direction and remote: the second is no new one.
        let mut asked = BTreeSet::new();
        for case in &cases {
            let flow = match *case {
                Case::In((address, ..), Asked { proto: 47, .. }) | Case::Out((address, _), Asked { proto: 47, .. }) => {
                    Some(address)
                }
                _ => None,
            };
            if flow.is_none_or(|address| asked.insert(address)) {
                subject.check(&set, case)?;
            }
        }
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

#[test]
#[expect(clippy::print_stdout, reason = "what was covered is the test's result too")]
fn programs_and_model_agree_on_new_flows() {
    let sets = std::env::var("WEFT_DIFFERENTIAL_CASES").ok().and_then(|sets| sets.parse().ok()).unwrap_or(SETS);
    let subject = RefCell::new(Subject::new());
    let started = std::time::Instant::now();
    // What is drawn seldom is seldom scarce by chance once, and never again and again.
    for round in 1..=ROUNDS {
        compare(&subject, sets);
        let covered = &subject.borrow().covered;
        println!("{round} times {sets} sets of rules in {:?}: {covered:#?}", started.elapsed());
        let often = |what: &str| u64::from(covered.get(what).copied().unwrap_or(0)) * u64::from(SETS) / u64::from(sets);
        let scarce: Vec<_> = expected().into_iter().filter(|(what, least)| often(what) < u64::from(*least)).collect();
        if scarce.is_empty() {
            return;
        }
        assert!(round < ROUNDS, "hardly tested: {scarce:?} of {covered:#?}");
    }
}
