//! The way past the host's stack: which flows go it, and that each end's judgement is as it would be behind the bridge.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::frame::*;
use common::way::*;
use common::*;
use std::mem::offset_of;
use std::net::Ipv4Addr;
use weft_abi::{Conn, INJECTED_MARK, SLOT_IFINDEX_BASE};
use weft_datapath::{Datapath, Outcome, Probe, Program, Version};
use weft_model::datapath::{DenyAction, Endpoint, Host, Limited, MapOp, MapSizes, SetId};
use weft_model::id::{Slot, Tag};
use weft_model::mac::Mac;
use weft_model::policy::Rule;
use weft_model::ports::mapped_mark;

const SERVER: Slot = Slot(6);
const SERVER_TAG: u16 = 0x0b06;

/// The client of slot 5 and a server in slot 6, which takes TCP on port 80 and UDP on port 53.
struct Two {
    bench: Bench,
    server: Endpoint,
    sets: u32,
}

impl Two {
    fn new() -> Self {
        let bench = Bench::new(vec![]);
        run(&format!("ip link add w6 index {} type veth peer name c6", SLOT_IFINDEX_BASE + u32::from(SERVER.0)));
        let server = Endpoint {
            slot: SERVER,
            ip: NEIGHBOUR,
            mac: Mac::for_workload(NEIGHBOUR),
            tag: Tag::new(SERVER_TAG),
            ..endpoint()
        };
        let mut two = Self { bench, server, sets: 100 };
        two.rules(open_doors(OWN_TAG));
        two
    }

    /// Puts other rules in force for the server.
    fn rules(&mut self, rules: Vec<Rule>) {
        self.sets += 1;
        self.server.set = SetId(self.sets);
        let ops = [MapOp::PutSet(self.server.set, set(rules)), MapOp::PutEndpoint(self.server.clone()), MapOp::Barrier];
        self.bench.datapath.apply(&ops).unwrap();
    }

    fn switch(&mut self, fast_path: bool) {
        self.bench.datapath.set_host(&Host { fast_path, ..host() }).unwrap();
    }

    fn probe(&self, slot: Slot, program: Program, frame: &[u8], mark: u32, ingress_ifindex: u32) -> Outcome {
        let ifindex = SLOT_IFINDEX_BASE + u32::from(slot.0);
        let probe = Probe { frame, mark, ifindex, ingress_ifindex, gso_size: 0, repeat: 1 };
        self.bench.datapath.probe(program, &probe).unwrap()
    }

    /// The program of the workload that sends `packet`.
    fn leave(&self, packet: &[u8]) -> Outcome {
        self.sent_with(packet, 0)
    }

    fn sent_with(&self, packet: &[u8], mark: u32) -> Outcome {
        let (slot, mac) = of(address(packet, 12));
        self.probe(slot, Program::FromWorkload, &ethernet(mac, gateway_mac(), 0x0800, packet), mark, 0)
    }

    /// The program of the workload that `packet` reaches, with the mark that it has there.
    fn reach(&self, packet: &[u8], mark: u32, ingress_ifindex: u32) -> Outcome {
        let (slot, mac) = of(address(packet, 16));
        self.probe(slot, Program::ToWorkload, &ethernet(gateway_mac(), mac, 0x0800, packet), mark, ingress_ifindex)
    }

    /// A packet from one to the other, on the way that it takes.
    #[track_caller]
    fn go(&self, packet: &[u8]) -> Way {
        let (to, mac) = of(address(packet, 16));
        let sent = self.leave(packet);
        match (sent.verdict, sent.mark) {
            (PASS, mark) => Way::Stack(self.reach(packet, mark, 1).verdict),
            (REDIRECT, 0) => {
                assert_eq!(sent.frame, ethernet(gateway_mac(), mac, 0x0800, packet), "as behind the bridge");
                Way::Direct
            }
            (REDIRECT, mark) => {
                let from = SLOT_IFINDEX_BASE + 5;
                Way::Through(self.probe(to, Program::ToWorkload, &sent.frame, mark, from).verdict)
            }
            other => panic!("{other:?}"),
        }
    }

    /// Connections that both ends hold as established.
    fn held(&self) -> usize {
        use aya::maps::{HashMap, Map, MapData};
        let data = MapData::from_pin(maps(&self.bench.folder).join("ct_est4")).unwrap();
        HashMap::<_, [u8; 16], [u8; 24]>::try_from(Map::LruHashMap(data)).unwrap().keys().count()
    }

    /// Whether a flow of datagrams, or one without an answer, is taken for one between workloads.
    fn marked(&self) -> bool {
        use aya::maps::{HashMap, Map, MapData};
        let data = MapData::from_pin(maps(&self.bench.folder).join("ct_short4")).unwrap();
        let flows = HashMap::<_, [u8; 16], [u8; 24]>::try_from(Map::LruHashMap(data)).unwrap();
        let flags = offset_of!(Conn, flags);
        flows.iter().any(|flow| flow.unwrap().1[flags] & weft_abi::conn_flag::DIRECT != 0)
    }

    /// A TCP connection from the client's port, up to the server's answer.
    #[track_caller]
    fn connect(&self, port: u16) {
        assert_eq!([SYN, HANDSHAKE].map(|flags| self.tcp(port, flags)), [STACK, STACK]);
    }

    /// The packet with these flags that comes next on the connection; the server's are those with `HANDSHAKE`.
    #[track_caller]
    fn tcp(&self, port: u16, flags: u8) -> Way {
        self.go(&if flags == HANDSHAKE { answer(port, flags) } else { request(port, flags) })
    }
}

fn request(port: u16, flags: u8) -> Vec<u8> {
    tcp(OWN, NEIGHBOUR, (port, 80), flags, b"")
}

fn answer(port: u16, flags: u8) -> Vec<u8> {
    tcp(NEIGHBOUR, OWN, (80, port), flags, b"")
}

fn address(packet: &[u8], at: usize) -> Ipv4Addr {
    let bytes: [u8; 4] = packet[at..at + 4].try_into().unwrap();
    bytes.into()
}

fn of(ip: Ipv4Addr) -> (Slot, Mac) {
    (if ip == OWN { SLOT } else { SERVER }, Mac::for_workload(ip))
}

#[test]
fn an_answered_connection_goes_past_the_stack_and_is_counted_as_behind_it() {
    let two = Two::new();
    two.connect(40000);
    let counted = || {
        let counters = two.bench.datapath.counters().unwrap();
        ["passed", "direct"].map(|name| counters[name])
    };
    // A handshake that is repeated follows the first one.
    assert_eq!(two.tcp(40000, HANDSHAKE), STACK);
    for packet in [
        request(40000, ACK),
        answer(40000, ACK),
        request(40000, FIN | ACK),
        answer(40000, FIN | ACK),
        request(40000, ACK),
    ] {
        let [passed, direct] = counted();
        assert_eq!(two.go(&packet), Way::Direct);
        assert_eq!(counted(), [passed + 2, direct + 1], "once for each end");
    }
    // Both ends know that it is over: its share is free, and the next one begins as any.
    assert_eq!(two.held(), 0);
    two.connect(40000);
    assert_eq!(two.tcp(40000, ACK), Way::Direct);
    assert_eq!(two.tcp(40000, RST | ACK), Way::Direct);
    assert_eq!(two.held(), 0, "whoever is reset says nothing more");
    two.connect(40000);
}

#[test]
fn the_one_who_was_asked_may_speak_first() {
    let two = Two::new();
    two.connect(40000);
    assert_eq!(two.go(&answer(40000, ACK)), Way::Direct);
}

#[test]
fn datagrams_go_past_the_stack_once_they_were_answered() {
    let two = Two::new();
    let question = udp(OWN, NEIGHBOUR, (40000, 53), b"?");
    let answer = udp(NEIGHBOUR, OWN, (53, 40000), b"!");
    assert_eq!([&question, &question, &answer].map(|packet| two.go(packet)), [STACK, STACK, STACK]);
    assert_eq!([&question, &answer].map(|packet| two.go(packet)), [Way::Direct, Way::Direct]);
    // Its conntrack is reminded of the flow now and then, whoever speaks.
    for packet in [&question, &answer] {
        two.bench.age("ct_short4", offset_of!(Conn, in_stack), 10);
        assert_eq!([packet, packet].map(|packet| two.go(packet)), [STACK, Way::Direct]);
    }
    // What comes in pieces is put together by the host, and takes nothing from the rest.
    let piece = ipv4(OWN, NEIGHBOUR, 17, 0x2000, &datagram(OWN, NEIGHBOUR, (40000, 53), &[0; 16]));
    assert_eq!([&piece, &question].map(|packet| two.go(packet)), [STACK, Way::Direct]);
}

/// It would be looked for among workloads and peers at every packet.
#[test]
fn datagrams_to_elsewhere_are_not_taken_for_a_workloads() {
    let two = Two::new();
    assert_eq!(two.leave(&udp(OWN, OUTSIDE, (40000, 53), b"?")).verdict, PASS);
    assert_eq!(two.bench.arrive(&received(&udp(OUTSIDE, OWN, (53, 40000), b"!")), 0).verdict, PASS);
    assert!(!two.marked());
    assert_eq!(two.go(&udp(OWN, NEIGHBOUR, (40000, 53), b"?")), STACK);
    assert!(two.marked());
}

#[test]
fn what_is_not_allowed_meets_the_servers_own_program() {
    let two = Two::new();
    for packet in [
        tcp(OWN, NEIGHBOUR, (40000, 81), SYN, b""),
        tcp(OWN, NEIGHBOUR, (40000, 81), ACK, b""),
        udp(OWN, NEIGHBOUR, (40000, 80), b""),
        answer(40001, SYN),
    ] {
        assert_eq!(two.go(&packet), Way::Stack(DROP));
    }
    assert_eq!(two.bench.counter("direct"), 0);
}

/// The client asks a service's address, of which NAT makes the server's; what comes back, it changes back.
#[test]
fn a_service_stays_in_the_stack() {
    let two = Two::new();
    for (flags, back) in [(SYN, HANDSHAKE), (ACK, ACK), (FIN | ACK, ACK)] {
        let sent = two.leave(&tcp(OWN, SERVICE, (40000, 80), flags, b""));
        assert_eq!(sent.verdict, PASS);
        assert_eq!(two.reach(&request(40000, flags), sent.mark, 1).verdict, PASS);
        let sent = two.leave(&answer(40000, back));
        assert_eq!(sent.verdict, PASS, "the host's NAT has to see it");
        assert_eq!(two.reach(&tcp(SERVICE, OWN, (80, 40000), back, b""), sent.mark, 1).verdict, PASS);
    }
    for _ in 0..3 {
        let sent = two.leave(&udp(OWN, SERVICE, (40000, 53), b"?"));
        assert_eq!(two.reach(&udp(OWN, NEIGHBOUR, (40000, 53), b"?"), sent.mark, 1).verdict, PASS);
        let sent = two.leave(&udp(NEIGHBOUR, OWN, (53, 40000), b"!"));
        assert_eq!(sent.verdict, PASS);
        assert_eq!(two.reach(&udp(SERVICE, OWN, (53, 40000), b"!"), sent.mark, 1).verdict, PASS);
    }
}

/// A proxy of the host that shows the client's address to the server.
#[test]
fn what_the_host_answers_for_stays_in_the_stack() {
    let two = Two::new();
    for packet in [request(40000, SYN), answer(40000, HANDSHAKE), answer(40000, ACK), request(40000, ACK)] {
        assert_eq!(two.leave(&packet).verdict, PASS);
        assert_eq!(two.reach(&packet, 0, 0).verdict, PASS, "by the host");
    }
}

#[test]
fn what_comes_through_a_mapped_port_stays_in_the_stack() {
    let two = Two::new();
    let mark = mapped_mark(SHIFT);
    for (flags, back) in [(SYN, HANDSHAKE), (ACK, ACK)] {
        assert_eq!(two.reach(&tcp(GATEWAY, NEIGHBOUR, (40000, 80), flags, b""), mark, 1).verdict, PASS);
        assert_eq!(two.leave(&tcp(NEIGHBOUR, GATEWAY, (80, 40000), back, b"")).verdict, PASS);
    }
    // A workload that reaches itself by one: nothing leaves it for its own address.
    for (flags, ports) in [(SYN, (40000, 80)), (HANDSHAKE, (80, 40000)), (ACK, (40000, 80))] {
        let packet = tcp(OWN, OWN, ports, flags, b"");
        assert_eq!(two.leave(&packet).verdict, PASS);
        assert_eq!(two.reach(&packet, u32::from(OWN_TAG) << SHIFT, 1).verdict, PASS);
    }
}

#[test]
fn echoes_stay_in_the_stack_and_errors_go_the_way_of_the_flow_that_they_quote() {
    let mut two = Two::new();
    for kind in [8, 0, 8] {
        let (from, to) = if kind == 8 { (NEIGHBOUR, OWN) } else { (OWN, NEIGHBOUR) };
        assert_eq!(two.leave(&icmp(from, to, kind, 0, 7, b"")).verdict, PASS);
    }
    let error = |port| icmp(NEIGHBOUR, OWN, 3, 4, 0, &request(port, ACK)[..28]);
    assert_eq!(two.go(&error(40000)), Way::Stack(DROP), "of no flow");
    two.connect(40000);
    assert_eq!(two.go(&error(40000)), Way::Direct);
    assert_eq!(two.tcp(40000, ACK), Way::Direct);
    // Of a flow that stays in the stack, and under a policy by which the flow was not judged yet.
    assert_eq!(two.tcp(40001, SYN), STACK);
    assert_eq!(two.go(&error(40001)), STACK);
    two.bench.rules(vec![]);
    assert_eq!(two.go(&error(40000)), Way::Stack(DROP));
    two.switch(false);
    two.connect(40002);
    assert_eq!(two.go(&error(40002)), STACK);
}

#[test]
fn a_switch_turns_it_off_at_the_next_packet_and_on_for_what_begins_then() {
    let mut two = Two::new();
    two.connect(40000);
    assert_eq!(two.tcp(40000, ACK), Way::Direct);
    two.switch(false);
    two.connect(40001);
    assert_eq!([40000, 40001].map(|port| two.tcp(port, ACK)), [STACK, STACK]);
    two.switch(true);
    // The host's conntrack has taken them over.
    assert_eq!([40000, 40001].map(|port| two.tcp(port, ACK)), [STACK, STACK]);
    assert_eq!([40000, 40001].map(|port| two.go(&answer(port, ACK))), [STACK, STACK]);
    two.connect(40002);
    assert_eq!(two.tcp(40002, ACK), Way::Direct);
}

/// One side alone would leave the host's conntrack with half a connection.
#[test]
fn a_flow_that_one_side_keeps_in_the_stack_the_other_keeps_too() {
    let mut two = Two::new();
    two.connect(40000);
    two.switch(false);
    assert_eq!(two.tcp(40000, ACK), STACK);
    two.switch(true);
    assert_eq!(two.go(&answer(40000, ACK)), STACK);
}

#[test]
fn what_a_limited_workload_sends_goes_to_its_shaper_as_it_is_once_it_passed() {
    let mut two = Two::new();
    two.connect(40000);
    let packets = [SYN, ACK].map(|flags| request(40000, flags));
    let allowed = two.leave(&packets[0]);
    assert_eq!(allowed.verdict, PASS);
    two.bench.change(|endpoint| endpoint.limited = Limited { ingress: false, egress: true });
    for packet in &packets {
        let sent = two.leave(packet);
        assert_eq!((sent.verdict, sent.mark), (REDIRECT, allowed.mark));
        assert_eq!(sent.frame[..12], allowed.frame[..12], "not readdressed: it comes back to the bridge");
    }
    // Refused before it could be queued.
    let mut forged = packets[1].clone();
    forged[15] ^= 0x40;
    assert_ne!(two.bench.out(&ethernet(own_mac(), gateway_mac(), 0x0800, &forged)).verdict, REDIRECT);
}

#[test]
fn a_limited_workload_stays_in_the_stack_whichever_end_it_is() {
    let received = Limited { ingress: true, egress: false };
    for client in [false, true] {
        let mut two = Two::new();
        two.connect(40000);
        assert_eq!(two.tcp(40000, ACK), Way::Direct);
        if client {
            two.bench.change(|endpoint| endpoint.limited = received);
        } else {
            two.server.limited = received;
            two.rules(open_doors(OWN_TAG));
        }
        let limited = two.bench.datapath.endpoints();
        assert_eq!(limited[&if client { SLOT } else { SERVER }].endpoint.limited, received);
        two.connect(40001);
        for port in [40000, 40001] {
            assert_eq!([request(port, ACK), answer(port, ACK)].map(|packet| two.go(&packet)), [STACK, STACK]);
        }
    }
}

#[test]
fn a_changed_policy_that_still_allows_it_leaves_it_where_it_is() {
    let mut two = Two::new();
    two.connect(40000);
    for _ in 0..2 {
        two.rules(open_doors(OWN_TAG));
        assert_eq!(two.tcp(40000, ACK), Way::Direct);
        two.bench.rules(vec![]);
        assert_eq!(two.go(&answer(40000, ACK)), Way::Direct);
    }
}

/// Neither the refusal nor the reset meets the host's conntrack, which would take them for invalid.
#[test]
fn a_policy_taken_back_stops_it_at_its_next_packet_and_resets_both_ends() {
    for server_first in [false, true] {
        let mut two = Two::new();
        two.server.deny = DenyAction::Reject;
        two.bench.change(|endpoint| endpoint.deny = DenyAction::Reject);
        two.rules(open_doors(OWN_TAG));
        two.connect(40000);
        assert_eq!(two.tcp(40000, ACK), Way::Direct);
        two.rules(vec![]);
        let before = two.bench.counter("revoked");
        let (packet, refused) = if server_first {
            let sent = two.leave(&answer(40000, ACK));
            (answer(40000, ACK), sent)
        } else {
            let sent = two.leave(&request(40000, ACK));
            assert_eq!((sent.verdict, sent.mark), (REDIRECT, u32::from(OWN_TAG) << SHIFT));
            (request(40000, ACK), two.probe(SERVER, Program::ToWorkload, &sent.frame, sent.mark, SLOT_IFINDEX_BASE + 5))
        };
        assert_eq!((refused.verdict, refused.mark), (REDIRECT, INJECTED_MARK), "the reset");
        assert_eq!(two.bench.counter("revoked"), before + 1);
        assert_eq!(address(&refused.frame[14..], 16), address(&packet, 12), "to whom it came from");
        if !server_first {
            // It enters the host from the server.
            let reset = two.probe(SERVER, Program::FromWorkload, &refused.frame, INJECTED_MARK, 0);
            assert_eq!((reset.verdict, reset.mark), (REDIRECT, 0), "straight to the client");
            assert_eq!(reset.frame[..6], own_mac().0);
        }
        // What the other side still sends is refused as well.
        let more = if server_first { two.leave(&request(40000, ACK)) } else { two.leave(&answer(40000, ACK)) };
        assert_eq!(more.verdict, REDIRECT);
        assert_eq!(two.go(&request(40001, SYN)), Way::Stack(REDIRECT), "no other one begins");
    }
}

/// With others' silence configured, nobody is told.
#[test]
fn a_policy_taken_back_and_given_again() {
    let mut two = Two::new();
    two.connect(40000);
    two.rules(vec![]);
    assert_eq!([ACK, ACK].map(|flags| two.tcp(40000, flags)), [Way::Through(DROP), Way::Through(DROP)]);
    assert_eq!(two.leave(&answer(40000, ACK)).verdict, DROP);
    two.rules(open_doors(OWN_TAG));
    assert_eq!(two.tcp(40000, ACK), Way::Direct);
    assert_eq!(two.go(&answer(40000, ACK)), Way::Direct);
}

#[test]
fn a_slots_next_workload_gets_nothing_of_it() {
    let mut two = Two::new();
    two.connect(40000);
    assert_eq!(two.tcp(40000, ACK), Way::Direct);
    two.bench.datapath.apply(&[MapOp::RemoveEndpoint(SERVER)]).unwrap();
    assert_eq!(two.tcp(40000, ACK), Way::Stack(DROP));
    two.rules(vec![]);
    assert_eq!(two.tcp(40000, ACK), Way::Stack(DROP));
}

/// Another group's workload, by the same address and ports.
#[test]
fn another_identity_is_judged_by_the_servers_own_program() {
    let mut two = Two::new();
    two.connect(40000);
    two.bench.change(|endpoint| endpoint.tag = Tag::new(99));
    assert_eq!(two.tcp(40000, ACK), Way::Stack(DROP));
}

#[test]
fn connections_go_on_as_they_were_under_the_next_agent_and_the_next_programs() {
    let mut two = Two::new();
    two.connect(40000);
    assert_eq!(two.tcp(40000, ACK), Way::Direct);
    for programs in [0, 7] {
        let version = Version { layout: weft_abi::LAYOUT_VERSION, programs };
        two.bench.datapath = Datapath::open_as(version, &two.bench.folder, &host(), &MapSizes::default()).unwrap();
        assert_eq!([request(40000, ACK), answer(40000, ACK)].map(|packet| two.go(&packet)), [Way::Direct, Way::Direct]);
    }
}

/// What may be pushed out of the tables has to find its way through the stack then.
#[test]
fn connections_beyond_a_workloads_share_stay_in_the_stack() {
    let mut two = Two::new();
    // Maps of another size are made anew.
    let sizes = MapSizes { connections: 1024, ..MapSizes::default() };
    two.bench.datapath = Datapath::open_sized(&two.bench.folder, &host(), &sizes).unwrap();
    two.bench.rules(vec![]);
    two.rules(open_doors(OWN_TAG));
    let share = weft_abi::FlowShares::of(sizes.connections, sizes.unanswered).established;
    for number in 0..share as u16 + 2 {
        let port = 40000 + number;
        two.connect(port);
        let want = || if u32::from(number) < share { Way::Direct } else { STACK };
        assert_eq!([request(port, ACK), answer(port, ACK)].map(|packet| two.go(&packet)), [want(), want()], "{port}");
        if u32::from(number) >= share {
            // To its end: the host's conntrack has to see that too.
            assert_eq!([RST | ACK].map(|flags| two.tcp(port, flags)), [STACK]);
        }
    }
}
