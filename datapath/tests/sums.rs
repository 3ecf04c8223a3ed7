//! Every packet a program sees is counted once by what became of it: passed, carried, left alone, or
//! a reason it was refused for.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::frame::*;
use common::*;
use std::net::Ipv4Addr;
use weft_abi::capacity;
use weft_datapath::{Outcome, Program, Reason};
use weft_model::datapath::DenyAction;
use weft_model::mac::Mac;
use weft_model::policy::{Direction, Protocol};

/// Reasons that are counted besides a packet's fate.
const BESIDES: [Reason; 7] = [
    Reason::Audited,
    Reason::Rejected,
    Reason::ConntrackFull,
    Reason::RecordLimited,
    Reason::RecordLost,
    Reason::AnswerLimited,
    Reason::Direct,
];
/// Fates of packets that pass.
const PASSED: [Reason; 3] = [Reason::Passed, Reason::Carried, Reason::Foreign];

/// Packets counted so far by fate: (passed, refused).
fn counted(bench: &Bench) -> (u64, u64) {
    let counters = bench.datapath.counters().unwrap();
    let sum = |reasons: &mut dyn Iterator<Item = &Reason>| reasons.map(|reason| counters[reason.name()]).sum();
    let refused = &mut Reason::ALL.iter().filter(|reason| !BESIDES.contains(reason) && !PASSED.contains(reason));
    (sum(&mut PASSED.iter()), sum(refused))
}

/// Frames of every kind: what a workload may send and receive, what it may not, and what is none.
fn frames() -> Vec<Vec<u8>> {
    let addresses = [OWN, NEIGHBOUR, GATEWAY, REMOTE, PLAIN, FLANNEL, OUTSIDE, HOST, Ipv4Addr::new(224, 0, 0, 1)];
    let mut frames = vec![vec![0; 14], ethernet(own_mac(), gateway_mac(), 0x86dd, &[0; 60])];
    for source in addresses {
        for destination in addresses {
            let packets = [
                tcp(source, destination, (40000, 80), SYN, b""),
                tcp(source, destination, (80, 40000), SYN | ACK, b""),
                tcp(source, destination, (40001, 81), ACK, b"x"),
                tcp(source, destination, (40001, 81), RST, b""),
                udp(source, destination, (67, VXLAN_PORT), b"?"),
                udp(source, destination, (5000, VXLAN_PORT), &[8; 60]),
                udp(source, destination, (5000, 53), b"?"),
                icmp(source, destination, 8, 0, 7, b""),
                icmp(source, destination, 3, 3, 0, &udp(destination, source, (1, 2), b"")[..28]),
                ipv4(source, destination, 17, 0x2000, &datagram(source, destination, (1, 2), &[0; 16])),
                ipv4(source, destination, 17, 2, &[0; 16]),
                ipv4(source, destination, 47, 0, &[0; 16]),
                ipv4(source, destination, 6, 0, &[0; 4]),
            ];
            frames.extend(packets.iter().flat_map(|packet| [sent(packet), received(packet)]));
        }
        for inner in [OWN, REMOTE, FLANNEL] {
            let inner = sent(&udp(inner, OWN, (1, 2), b""));
            frames.push(vxlan((source, HOST), VXLAN_PORT, VNI, &inner));
            frames.push(vxlan((source, HOST), VXLAN_PORT, VNI + 1, &inner));
        }
        frames.push(ethernet(own_mac(), Mac([0xff; 6]), 0x0806, &arp((own_mac(), source), OWN)));
    }
    frames
}

#[test]
fn packets_in_are_packets_passed_and_packets_refused() {
    let mut bench = Bench::new(vec![rule(Direction::Ingress, tag_peer(7), ports(Protocol::Tcp, 80, 80))]);
    let frames = frames();
    for (deny, audit) in [(DenyAction::Drop, false), (DenyAction::Reject, false), (DenyAction::Drop, true)] {
        // A closed host, so that what the workload sends is answered too.
        bench.change(|endpoint| (endpoint.deny, endpoint.audit, endpoint.host_listed_only) = (deny, audit, true));
        for program in Program::ALL.into_iter().filter(|program| *program != Program::Empty) {
            let before = counted(&bench);
            let (mut passed, mut refused, mut answers) = (0, 0, 0);
            for frame in &frames {
                let Outcome { verdict, frame: answer, mark, .. } = bench.probe(program, frame, 7 << SHIFT, 1);
                if verdict == PASS {
                    passed += 1
                } else {
                    refused += 1
                }
                if verdict == REDIRECT {
                    // The answer meets our other program on the same veth, and is a packet there.
                    answers += 1;
                    let other = match program {
                        Program::FromWorkload => Program::ToWorkload,
                        _ => Program::FromWorkload,
                    };
                    let verdict = bench.probe(other, &answer, mark, 1).verdict;
                    if verdict == PASS { passed += 1 } else { refused += 1 }
                }
            }
            let after = counted(&bench);
            let moved = (after.0 - before.0, after.1 - before.1);
            assert_eq!(moved, (passed, refused), "{program:?}, {deny:?}, audit {audit}");
            assert!(passed + refused >= frames.len() as u64);
            let answering =
                deny == DenyAction::Reject && matches!(program, Program::FromWorkload | Program::ToWorkload);
            assert_eq!(answers > 0, answering, "{program:?}, {deny:?}: {answers} answers");
        }
    }
    assert!(bench.counter("rejected") > 0 && bench.counter("audited") > 0);
    // And where more is refused than may be answered.
    bench.change(|endpoint| (endpoint.deny, endpoint.audit) = (DenyAction::Reject, false));
    let before = counted(&bench);
    let mut sent = 0;
    until("a packet beyond the limit of answers", || {
        for _ in 0..2 * capacity::SHARE_ANSWERS {
            bench.arrive(&received(&udp(REMOTE, OWN, (40000, 9), b"?")), 7);
        }
        sent += 2 * u64::from(capacity::SHARE_ANSWERS);
        (bench.counter("answer-limited") > 0).then_some(())
    });
    let after = counted(&bench);
    assert_eq!((after.0 - before.0, after.1 - before.1), (0, sent));
}
