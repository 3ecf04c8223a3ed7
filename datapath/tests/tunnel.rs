//! The way past the host's stack between workloads of two hosts: which flows go it, to the tunnel and out of it.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::frame::*;
use common::way::*;
use common::*;
use std::mem::offset_of;
use std::net::Ipv4Addr;
use weft_abi::{Conn, INJECTED_MARK, SLOT_IFINDEX_BASE};
use weft_datapath::{Datapath, Outcome, Probe, Program, Version};
use weft_model::datapath::{DenyAction, Host, Limited, MapOp, MapSizes, PeerHost};
use weft_model::id::IfName;
use weft_model::mac::Mac;
use weft_model::policy::{Direction, Peer, Traffic};

/// The tag of the other host's workload.
const TAG: u16 = 0x0b07;
const MTU: usize = 1400;

/// A workload that other hosts' may ask by TCP on port 80 and UDP on port 53, and the VXLAN device.
struct Host1 {
    bench: Bench,
}

impl Host1 {
    fn new() -> Self {
        let mut here = Self::without_tunnel();
        here.add_device();
        here
    }

    fn add_device(&mut self) {
        run(&format!("ip link add weft-vx1 mtu {MTU} type vxlan id {VNI} dstport {VXLAN_PORT} nolearning gbp"));
        run("ip link set weft-vx1 up");
        self.bench.datapath.attach_vtep(&IfName::new("weft-vx1").unwrap()).unwrap();
    }

    fn without_tunnel() -> Self {
        Self { bench: Bench::new(open_doors(TAG)) }
    }

    /// What the workload sends.
    #[track_caller]
    fn leave(&self, packet: &[u8]) -> Way {
        let frame = ethernet(own_mac(), gateway_mac(), 0x0800, packet);
        let outcome = self.bench.out(&frame);
        if outcome.verdict != DROP {
            assert_eq!(
                (outcome.mark, outcome.frame),
                (u32::from(OWN_TAG) << SHIFT, frame),
                "the kernel readdresses it"
            );
        }
        match outcome.verdict {
            REDIRECT => Way::Direct,
            verdict => Way::Stack(verdict),
        }
    }

    /// What comes out of the tunnel with a tag.
    fn come_tagged(&self, packet: &[u8], tag: u16) -> Way {
        let frame = ethernet(Mac([2; 6]), Mac([4; 6]), 0x0800, packet);
        let before = self.bench.counter("direct");
        let outcome = self.bench.probe(Program::FromOverlay, &frame, tag.into(), 1);
        let taken = self.bench.counter("direct") > before;
        let readdressed = ethernet(gateway_mac(), own_mac(), 0x0800, packet);
        match (outcome.verdict, outcome.mark) {
            (PASS, mark) => Way::Stack(self.end(&readdressed, mark).verdict),
            (REDIRECT, 0) if taken => {
                assert_eq!(outcome.frame, readdressed, "as behind the bridge");
                Way::Direct
            }
            (REDIRECT, mark) => Way::Through(self.end(&outcome.frame, mark).verdict),
            other => panic!("{other:?}"),
        }
    }

    fn come(&self, packet: &[u8]) -> Way {
        self.come_tagged(packet, TAG)
    }

    /// The program in front of the workload.
    fn end(&self, frame: &[u8], mark: u32) -> Outcome {
        self.bench.probe(Program::ToWorkload, frame, mark, 1)
    }

    /// The workload asks another host's, up to the answer.
    #[track_caller]
    fn asks(&self, port: u16) {
        assert_eq!([self.leave(&asking(port, SYN)), self.come(&answering(port, HANDSHAKE))], [STACK, STACK]);
    }

    /// Another host's asks the workload, up to its answer.
    #[track_caller]
    fn is_asked(&self, port: u16) {
        assert_eq!([self.come(&asked(port, SYN)), self.leave(&answer(port, HANDSHAKE))], [STACK, STACK]);
    }

    /// Packets both ways of a connection that the workload opened.
    #[track_caller]
    fn both(&self, port: u16) -> [Way; 2] {
        [self.leave(&asking(port, ACK)), self.come(&answering(port, ACK))]
    }

    fn switch(&mut self, fast_path: bool) {
        self.bench.datapath.set_host(&Host { fast_path, ..host() }).unwrap();
    }
}

fn asking(port: u16, flags: u8) -> Vec<u8> {
    tcp(OWN, REMOTE, (port, 8080), flags, b"")
}

fn answering(port: u16, flags: u8) -> Vec<u8> {
    tcp(REMOTE, OWN, (8080, port), flags, b"")
}

fn asked(port: u16, flags: u8) -> Vec<u8> {
    tcp(REMOTE, OWN, (port, 80), flags, b"")
}

fn answer(port: u16, flags: u8) -> Vec<u8> {
    tcp(OWN, REMOTE, (80, port), flags, b"")
}

const BOTH: [Way; 2] = [Way::Direct, Way::Direct];

#[test]
fn an_answered_connection_goes_past_the_stack_and_is_counted_as_behind_it() {
    let here = Host1::new();
    let counted = || {
        let counters = here.bench.datapath.counters().unwrap();
        ["passed", "carried", "direct"].map(|name| counters[name])
    };
    here.asks(40000);
    // A handshake that is repeated follows the first one.
    assert_eq!([here.leave(&asking(40000, SYN)), here.come(&answering(40000, HANDSHAKE))], [STACK, STACK]);
    let [passed, carried, direct] = counted();
    assert_eq!(here.leave(&asking(40000, ACK)), Way::Direct);
    assert_eq!(counted(), [passed + 1, carried, direct + 1], "the tunnel's program counts it too");
    assert_eq!(here.come(&answering(40000, ACK)), Way::Direct);
    assert_eq!(counted(), [passed + 2, carried + 1, direct + 2]);
    assert_eq!([here.leave(&asking(40000, FIN | ACK)), here.come(&answering(40000, FIN | ACK))], BOTH);
    assert_eq!(here.leave(&asking(40000, ACK)), Way::Direct, "to the last acknowledgement");
    here.asks(40000);
    assert_eq!(here.both(40000), BOTH);
}

#[test]
fn so_does_one_that_the_other_host_opened() {
    let here = Host1::new();
    here.is_asked(40000);
    assert_eq!([here.come(&asked(40000, ACK)), here.leave(&answer(40000, ACK))], BOTH);
    // Who shows another tag is somebody else.
    assert_eq!(here.come_tagged(&asked(40000, ACK), TAG + 1), Way::Stack(DROP));
    assert_eq!(here.come_tagged(&asked(40000, ACK), 0), Way::Stack(DROP));
    assert_eq!([here.come(&asked(40000, ACK)), here.leave(&answer(40000, ACK))], BOTH);
}

#[test]
fn datagrams_go_past_the_stack_once_they_were_answered() {
    let here = Host1::new();
    let (question, answer) = (udp(OWN, REMOTE, (40000, 53), b"?"), udp(REMOTE, OWN, (53, 40000), b"!"));
    assert_eq!([here.leave(&question), here.leave(&question), here.come(&answer)], [STACK, STACK, STACK]);
    assert_eq!([here.leave(&question), here.come(&answer)], BOTH);
    here.bench.age("ct_short4", offset_of!(Conn, in_stack), 10);
    assert_eq!([here.leave(&question), here.leave(&question)], [STACK, Way::Direct]);
    here.bench.age("ct_short4", offset_of!(Conn, in_stack), 10);
    assert_eq!([here.come(&answer), here.come(&answer)], [STACK, Way::Direct]);
    let piece = ipv4(REMOTE, OWN, 17, 0x2000, &datagram(REMOTE, OWN, (53, 40000), &[0; 16]));
    assert_eq!([here.come(&piece), here.come(&answer)], [STACK, Way::Direct]);
    let (question, answer) = (udp(REMOTE, OWN, (40000, 53), b"?"), udp(OWN, REMOTE, (53, 40000), b"!"));
    assert_eq!([here.come(&question), here.leave(&answer)], [STACK, STACK]);
    assert_eq!([here.come(&question), here.leave(&answer)], BOTH);
}

/// The host masquerades what the workload sends: the answers come out of the tunnel for the host.
#[test]
fn what_the_hosts_nat_changes_stays_in_the_stack() {
    let here = Host1::new();
    assert_eq!(here.leave(&asking(40000, SYN)), STACK);
    assert_eq!(here.come(&tcp(REMOTE, VTEP, (8080, 40000), HANDSHAKE, b"")), Way::Stack(DROP), "not the workload's");
    let unmasked = |flags| ethernet(gateway_mac(), own_mac(), 0x0800, &answering(40000, flags));
    assert_eq!(here.end(&unmasked(HANDSHAKE), u32::from(TAG) << SHIFT).verdict, PASS);
    assert_eq!(here.leave(&asking(40000, ACK)), STACK);
    assert_eq!(here.end(&unmasked(ACK), u32::from(TAG) << SHIFT).verdict, PASS);
    // All or nothing: what the stack has, it keeps.
    assert_eq!(here.both(40000), [STACK, STACK]);
    assert_eq!(here.both(40000), [STACK, STACK]);
    // The workload asks a service; what comes back, NAT changes back.
    assert_eq!(here.leave(&tcp(OWN, SERVICE, (40001, 80), SYN, b"")), STACK);
    for flags in [HANDSHAKE, ACK] {
        let frame = ethernet(Mac([2; 6]), Mac([4; 6]), 0x0800, &answering(40001, flags));
        assert_eq!(here.bench.probe(Program::FromOverlay, &frame, TAG.into(), 1).verdict, PASS);
        let changed = ethernet(gateway_mac(), own_mac(), 0x0800, &tcp(SERVICE, OWN, (80, 40001), flags, b""));
        assert_eq!(here.end(&changed, u32::from(TAG) << SHIFT).verdict, PASS);
        assert_eq!(here.leave(&tcp(OWN, SERVICE, (40001, 80), ACK, b"")), STACK);
    }
}

/// A proxy of the host that asks in the workload's name: what is for it comes out of the tunnel as if for the workload.
#[test]
fn what_the_host_answers_for_stays_in_the_stack() {
    let here = Host1::new();
    let through_proxy = |question: &[u8], answer: &[u8]| {
        assert_eq!(here.leave(question), STACK);
        let frame = ethernet(Mac([2; 6]), Mac([4; 6]), 0x0800, answer);
        assert_eq!(here.bench.probe(Program::FromOverlay, &frame, TAG.into(), 1).verdict, PASS, "its socket's");
        assert_eq!(here.bench.by_host(&received(answer)).verdict, PASS);
    };
    for _ in 0..3 {
        through_proxy(&udp(OWN, REMOTE, (40000, 53), b"?"), &udp(REMOTE, OWN, (53, 40000), b"!"));
    }
    through_proxy(&asking(40000, SYN), &answering(40000, HANDSHAKE));
    for _ in 0..3 {
        through_proxy(&asking(40000, ACK), &answering(40000, ACK));
    }
}

#[test]
fn without_the_device_or_the_peer_it_is_left_to_the_stack() {
    let here = Host1::without_tunnel();
    here.asks(40000);
    assert_eq!(here.both(40000), [STACK, STACK]);
    let mut here = Host1::new();
    here.asks(40000);
    assert_eq!(here.both(40000), BOTH);
    // Whatever the agent says of its host next, the device is known.
    here.switch(true);
    assert_eq!(here.both(40000), BOTH);
    // A device that is gone is made again, and takes the flow as it was.
    run("ip link del weft-vx1");
    assert_eq!(here.both(40000), BOTH);
    here.add_device();
    assert_eq!(here.both(40000), BOTH);
    here.bench.datapath.apply(&[MapOp::RemovePeer("10.255.2.0/24".parse().unwrap())]).unwrap();
    assert_eq!(here.leave(&asking(40000, ACK)), STACK);
}

#[test]
fn what_does_not_fit_into_the_tunnel_is_the_hosts_to_answer() {
    let here = Host1::new();
    let sized = |port, length: usize| tcp(OWN, REMOTE, (port, 8080), ACK, &vec![0; length - 40]);
    for port in [40000, 40001] {
        here.asks(port);
        assert_eq!(here.leave(&sized(port, MTU)), Way::Direct);
    }
    assert_eq!(here.leave(&sized(40001, MTU + 1)), STACK);
    assert_eq!([here.both(40000), here.both(40001)], [BOTH, [STACK, STACK]]);
}

/// So is what stands for several segments of which nobody can say how long they are: test runs have no transport
/// header. `tests/tests/fast_path_hosts.rs` has real ones.
#[test]
fn what_cannot_be_measured_is_left_to_the_stack() {
    let here = Host1::new();
    here.asks(40000);
    let frame = sent(&tcp(OWN, REMOTE, (40000, 8080), ACK, &[7; 3000]));
    let ifindex = SLOT_IFINDEX_BASE + u32::from(SLOT.0);
    let probe = Probe { frame: &frame, mark: 0, ifindex, ingress_ifindex: 0, gso_size: 1000, repeat: 1 };
    assert_eq!(here.bench.datapath.probe(Program::FromWorkload, &probe).unwrap().verdict, PASS);
}

/// What tells of a flow goes its way: the host's conntrack does not know the flow any more.
#[test]
fn errors_go_the_way_of_the_flow_that_they_quote() {
    let here = Host1::new();
    let (question, answer) = (udp(OWN, REMOTE, (40000, 53), b"?"), udp(REMOTE, OWN, (53, 40000), b"!"));
    let about = |kind, code, quoted: &[u8]| {
        let [from, to] = [16, 12].map(|at| Ipv4Addr::from(<[u8; 4]>::try_from(&quoted[at..at + 4]).unwrap()));
        icmp(from, to, kind, code, 0, &quoted[..28])
    };
    assert_eq!([here.leave(&question), here.come(&answer)], [STACK, STACK]);
    let errors = [about(3, 3, &answer), about(3, 3, &question)];
    assert_eq!([here.leave(&errors[0]), here.come(&errors[1])], BOTH);
    assert_eq!([here.leave(&question), here.come(&answer)], BOTH, "the flow goes on");
    // Of the other host, too; of nobody else.
    let by = |sender| icmp(sender, OWN, 11, 0, 0, &question[..28]);
    assert_eq!(here.come_tagged(&by(REMOTE_VTEP), 0), Way::Direct);
    assert_eq!(here.come(&by(REMOTE_VTEP)), Way::Stack(DROP), "a host has no tag");
    assert_eq!(here.come(&by(Ipv4Addr::new(10, 255, 2, 10))), Way::Stack(DROP));
    // Of another flow, or of one that stays in the stack.
    let other = udp(OWN, REMOTE, (40001, 53), b"?");
    assert_eq!(here.come(&about(3, 3, &other)), Way::Stack(DROP));
    assert_eq!(here.leave(&other), STACK);
    assert_eq!(here.come(&about(3, 3, &other)), STACK);
}

#[test]
fn a_switch_and_limits_turn_it_off_at_the_next_packet() {
    for first_out in [true, false] {
        let mut here = Host1::new();
        here.asks(40000);
        assert_eq!(here.both(40000), BOTH);
        here.switch(false);
        let next = if first_out { here.leave(&asking(40000, ACK)) } else { here.come(&answering(40000, ACK)) };
        assert_eq!(next, STACK);
        here.switch(true);
        // The host's conntrack has taken it over.
        assert_eq!(here.both(40000), [STACK, STACK]);
        here.asks(40001);
        assert_eq!(here.both(40001), BOTH);
        here.bench.change(|endpoint| endpoint.limited = Limited { ingress: true, egress: false });
        let next = if first_out { here.leave(&asking(40001, ACK)) } else { here.come(&answering(40001, ACK)) };
        assert_eq!(next, STACK);
    }
}

#[test]
fn what_policy_takes_back_meets_the_workloads_own_program_and_resets_follow_the_flow() {
    let mut here = Host1::new();
    here.bench.change(|endpoint| endpoint.deny = DenyAction::Reject);
    let reset = |here: &Host1, port| {
        let frame = ethernet(own_mac(), gateway_mac(), 0x0800, &answer(port, RST | ACK));
        here.bench.probe(Program::FromWorkload, &frame, INJECTED_MARK, 1).verdict
    };
    here.is_asked(40000);
    assert_eq!([here.come(&asked(40000, ACK)), here.leave(&answer(40000, ACK))], BOTH);
    // One that the host's NAT may have to do with.
    here.is_asked(40001);
    assert_eq!(here.leave(&answer(40001, ACK)), STACK);
    here.bench.rules(vec![]);
    assert_eq!(here.come(&asked(40000, ACK)), Way::Through(REDIRECT));
    assert_eq!([reset(&here, 40000), reset(&here, 40001), reset(&here, 40002)], [REDIRECT, PASS, PASS]);
    assert_eq!(here.come(&asked(40000, ACK)), Way::Through(REDIRECT), "it stays revoked");
    here.bench.rules(open_doors(TAG));
    here.is_asked(40003);
    assert_eq!([here.come(&asked(40003, ACK)), here.leave(&answer(40003, ACK))], BOTH);
    // A policy that still allows it makes no difference.
    here.bench.rules(open_doors(TAG));
    assert_eq!([here.leave(&answer(40003, ACK)), here.come(&asked(40003, ACK))], BOTH);
}

/// Whom the tunnel's own checks refuse is not delivered past them.
#[test]
fn a_peers_packets_count_for_its_own_subnet_only() {
    let here = Host1::new();
    here.is_asked(40000);
    assert_eq!(here.come(&asked(40000, ACK)), Way::Direct);
    let forged = ethernet(Mac([2; 6]), Mac([4; 6]), 0x0800, &tcp(NEIGHBOUR, OWN, (40000, 80), ACK, b""));
    here.bench.expect("inner-source", DROP, |bench| bench.probe(Program::FromOverlay, &forged, TAG.into(), 1));
    // Peers without GBP have no tag, whatever the header says.
    let untagged = ethernet(Mac([2; 6]), Mac([4; 6]), 0x0800, &tcp(PLAIN, OWN, (40000, 80), SYN, b""));
    let outcome = here.bench.probe(Program::FromOverlay, &untagged, TAG.into(), 1);
    assert_eq!((outcome.verdict, outcome.mark), (PASS, 0));
}

#[test]
fn what_is_not_allowed_meets_the_workloads_own_program() {
    let here = Host1::new();
    let midway = tcp(REMOTE, OWN, (40000, 81), ACK, b"");
    for packet in [midway, tcp(REMOTE, OWN, (40000, 81), SYN, b""), udp(REMOTE, OWN, (40000, 54), b"?")] {
        assert_eq!(here.come(&packet), Way::Stack(DROP));
    }
    assert_eq!(here.bench.counter("direct"), 0);
}

#[test]
fn the_outside_stays_in_the_stack() {
    let here = Host1::new();
    for (flags, back) in [(SYN, HANDSHAKE), (ACK, ACK), (ACK, ACK)] {
        assert_eq!(here.leave(&tcp(OWN, OUTSIDE, (40000, 443), flags, b"")), STACK);
        let frame = ethernet(gateway_mac(), own_mac(), 0x0800, &tcp(OUTSIDE, OWN, (443, 40000), back, b""));
        assert_eq!(here.end(&frame, 0).verdict, PASS);
    }
    assert_eq!(here.bench.counter("direct"), 0);
}

#[test]
fn peers_without_tags_go_the_same_way() {
    let here = Host1::new();
    for peer in [PLAIN, FLANNEL] {
        let leave = |flags| here.leave(&tcp(OWN, peer, (40000, 443), flags, b""));
        let come = |flags| here.come_tagged(&tcp(peer, OWN, (443, 40000), flags, b""), 0);
        assert_eq!([leave(SYN), come(HANDSHAKE)], [STACK, STACK]);
        assert_eq!([leave(ACK), come(ACK)], BOTH);
    }
}

/// A host that is replaced by one without tags, or by one that is not ours, while flows of its workloads are known.
#[test]
fn a_peer_that_loses_its_tags_is_judged_by_its_addresses() {
    let mut here = Host1::new();
    here.is_asked(40000);
    assert_eq!([here.come(&asked(40000, ACK)), here.leave(&answer(40000, ACK))], BOTH);
    let become_unmanaged = |unmanaged| {
        let peer = PeerHost { underlay: REMOTE_UNDERLAY, vtep: REMOTE_VTEP, gbp: false, unmanaged };
        MapOp::PutPeer("10.255.2.0/24".parse().unwrap(), peer)
    };
    here.bench.datapath.apply(&[become_unmanaged(false)]).unwrap();
    assert_eq!(here.come(&asked(40000, ACK)), Way::Stack(DROP), "whatever the packet says");
    let from_there = rule(Direction::Ingress, Peer::Cidr("10.255.2.0/24".parse().unwrap()), Traffic::All);
    here.bench.rules(vec![from_there]);
    assert_eq!(here.come(&asked(40000, ACK)), Way::Stack(DROP), "networks name nobody of ours");
    here.bench.datapath.apply(&[become_unmanaged(true)]).unwrap();
    here.is_asked(40001);
    assert_eq!([here.come(&asked(40001, ACK)), here.leave(&answer(40001, ACK))], BOTH);
    here.bench.rules(vec![]);
    assert_eq!(here.come(&asked(40001, ACK)), Way::Through(DROP));
}

#[test]
fn one_that_was_opened_before_it_was_on_stays_in_the_stack() {
    let mut here = Host1::new();
    here.switch(false);
    here.asks(40000);
    here.switch(true);
    assert_eq!(here.both(40000), [STACK, STACK]);
}

#[test]
fn connections_go_on_as_they_were_under_the_next_agent_and_the_next_programs() {
    let mut here = Host1::new();
    here.asks(40000);
    assert_eq!(here.both(40000), BOTH);
    for programs in [0, 7] {
        let version = Version { layout: weft_abi::LAYOUT_VERSION, programs };
        here.bench.datapath = Datapath::open_as(version, &here.bench.folder, &host(), &MapSizes::default()).unwrap();
        assert_eq!(here.both(40000), BOTH);
    }
}

/// With silence configured, nobody is told.
#[test]
fn a_policy_taken_back_and_given_again() {
    let mut here = Host1::new();
    here.is_asked(40000);
    assert_eq!(here.come(&asked(40000, ACK)), Way::Direct);
    here.bench.rules(vec![]);
    assert_eq!([ACK, ACK].map(|flags| here.come(&asked(40000, flags))), [Way::Through(DROP), Way::Through(DROP)]);
    assert_eq!(here.leave(&answer(40000, ACK)), Way::Stack(DROP));
    here.bench.rules(open_doors(TAG));
    assert_eq!([here.come(&asked(40000, ACK)), here.leave(&answer(40000, ACK))], BOTH);
}
