//! What a workload may leave to the device: a frame by `PACKET_VNET_HDR` says where a checksum is to be written
//! and how to cut it, and somebody does so long after the programs have looked. Nothing that was judged
//! changes by that, and what ordinary sockets and tunnels leave to the device passes.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use weft_lab::WorkloadOptions;
use weft_lab::probe::{self, HttpServer, Stream};
use weft_lab::shell::sh_in;
use weft_tests::frames::{Ip, MORE, Offload, Wire, arp, checksum, contains, ethernet, icmp, kind, tcp, udp};
use weft_tests::hostile::{Cast, EVIL, FENCE_PORT, FRIEND_PORT, Station, cast};
use weft_tests::{PATIENCE, lab};

const TCP: u8 = 6;
const UDP: u8 = 17;
/// Where the lower half of the sender's address is in a frame.
const SOURCE_LOW: u16 = 28;

/// Bytes of a packet longer than its next device takes: the host cuts it, and finishes its checksum before that. A
/// veth takes four bytes more than its MTU, for a VLAN tag.
const LONG: usize = 1454;

/// The attacker's device for frames with an offload header in front.
fn offloading(attacker: &Station) -> Wire {
    let wire = Wire::open(&attacker.workload.netns, "eth0").expect("a device");
    wire.prepend_offload_header().expect("a kernel with PACKET_VNET_HDR");
    wire
}

/// An open connection of the victim to its friend.
fn connection(victim: &Station, friend: &Station, port: u16) -> (TcpStream, TcpStream) {
    let bound = probe::inside(&friend.workload.netns, || TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)));
    let listener = bound.expect("a namespace").expect("a free port");
    let asked = probe::connects(&victim.workload.netns, (friend.ip, port).into(), PATIENCE).expect("a connection");
    (asked, listener.accept().expect("the same connection").0)
}

/// The frame with its last two bytes such that the sum from `at` on, written there, becomes `wanted`.
fn summing_up_to(mut frame: Vec<u8>, at: usize, wanted: u16) -> Vec<u8> {
    let end = frame.len() - 2;
    frame[end..].copy_from_slice(&[0, 0]);
    let missing = (u32::from(checksum(&frame[at..])) + 0xffff - u32::from(wanted)) % 0xffff;
    frame[end..].copy_from_slice(&u16::try_from(missing).expect("a rest").to_be_bytes());
    frame
}

/// The sum becomes the lower half of the friend's address: an answer to what the victim asked the friend.
#[test]
fn a_checksum_is_not_written_over_the_sender() {
    let Cast { attacker, friend, victims, lab } = cast("sums");
    let wire = offloading(&attacker);
    sh_in(&attacker.workload.netns, "ip link set eth0 mtu 1500").expect("a longer MTU");
    for (number, victim) in victims.iter().enumerate() {
        victim.wire.send(&victim.datagram(friend.ip, 6000, 7000, b"question")).unwrap();
        friend.wire.seen_until(b"question", PATIENCE).expect("the victim may ask");
        let port = 7100 + u16::try_from(number).unwrap();
        let (mut asked, mut answering) = connection(victim, &friend, port);
        let own = asked.local_addr().unwrap().port();
        let long = |header: usize| [EVIL, &vec![b'.'; LONG - 20 - header - EVIL.len()]].concat();
        let answers = [(UDP, udp(7000, 6000, &long(8))), (TCP, tcp(port, own, 0x10, &long(20)))];
        let [.., c, d] = friend.ip.octets();
        for (proto, answer) in answers {
            let frame = attacker.frame(&Ip { proto, ..Ip::udp(attacker.ip, victim.ip) }.with(&answer));
            let frame = summing_up_to(frame, SOURCE_LOW.into(), u16::from_be_bytes([c, d]));
            wire.send(&Offload::checksum(SOURCE_LOW, 0).with(&frame)).unwrap();
        }
        friend.wire.send(&friend.datagram(victim.ip, 1, FRIEND_PORT, b"afterwards")).unwrap();
        let seen = victim.wire.seen_until(b"afterwards", PATIENCE).unwrap();
        assert!(!seen.iter().any(|frame| contains(frame, EVIL)), "a forged answer arrived: {seen:02x?}");
        answering.write_all(b"still open").unwrap();
        asked.read_exact(&mut [0; 10]).expect("the connection goes on");
    }
    assert_eq!(lab.host("n1").status().unwrap().counters["checksum-offload"], 6);
}

/// Whatever stands there, and whatever the protocol: in front of the checksum's own place and behind it, as far as
/// was judged.
#[test]
fn a_checksum_goes_to_its_own_place_or_into_the_data() {
    let Cast { attacker, victims: [near, far, _], lab, .. } = cast("places");
    let wire = offloading(&attacker);
    let refused = || lab.host("n1").status().unwrap().counters["checksum-offload"];
    for victim in [&near, &far] {
        let packet = |ip: Ip, bytes: &[u8]| attacker.frame(&ip.with(bytes));
        let to_victim = |proto| Ip { proto, ..Ip::udp(attacker.ip, victim.ip) };
        let quote = Ip::udp(victim.ip, attacker.ip).with(&udp(1, 2, EVIL));
        let asking = arp(1, (attacker.mac, attacker.ip), (attacker.mac, attacker.gateway.1));
        // (what, frame, the checksum's own place, where data begins)
        let cases = [
            ("a datagram", attacker.datagram(victim.ip, 7, FENCE_PORT, &[b'.'; 64]), Some(40), 42),
            ("a segment", packet(to_victim(TCP), &tcp(1, 2, 0x10, b"segment")), Some(50), 54),
            ("an error", packet(to_victim(1), &icmp(3, 3, [0; 4], &quote)), None, 70),
            ("a piece", packet(Ip { fragment: MORE | 1, ..to_victim(UDP) }, &[0; 64]), None, 34),
            ("ARP", ethernet(attacker.gateway.0, attacker.mac, kind::ARP, &[&asking[..], &[0; 18]].concat()), None, 60),
        ];
        for (what, frame, own, data) in cases {
            let (before, mut sent) = (refused(), 0);
            for at in (0..data).step_by(2).filter(|at| Some(*at) != own) {
                for offload in [Offload::checksum(0, at), Offload::checksum(at, 0)] {
                    // A kernel may be stricter, and refuse the frame itself.
                    sent += u64::from(wire.try_send(&offload.with(&frame)));
                }
            }
            assert!(sent > 0, "{what}: the kernel refused all");
            attacker.reaches_only_the_fence(what, victim);
            assert_eq!(refused() - before, sent, "{what}");
        }
        for (what, start, offset) in [("in its own place", 34, 6), ("in the data", 42, 0)] {
            wire.send(&Offload::checksum(start, offset).with(&attacker.datagram(
                victim.ip,
                7,
                FENCE_PORT,
                what.as_bytes(),
            )))
            .unwrap();
            // The sum may stand over the first two bytes.
            victim.wire.seen_until(&what.as_bytes()[2..], PATIENCE).expect("a checksum that harms nobody");
        }
    }
}

/// Segments of no size, headers of any length, one protocol's rules for another's packet: nothing gets in, and
/// nobody falls over.
#[test]
fn how_a_frame_is_to_be_cut_opens_nothing() {
    let Cast { attacker, friend, victims, lab: _lab } = cast("cuts");
    let wire = offloading(&attacker);
    sh_in(&attacker.workload.netns, "ip link set eth0 mtu 1500").expect("a longer MTU");
    let _server = HttpServer::start(&attacker.workload.netns, 9100).unwrap();
    for victim in &victims {
        let long = [EVIL, &[b'.'; 1300]].concat();
        let packet = |proto, bytes: &[u8]| attacker.frame(&Ip { proto, ..Ip::udp(attacker.ip, victim.ip) }.with(bytes));
        let frames = [
            (packet(UDP, &udp(5000, FRIEND_PORT, &long)), 6),
            (packet(TCP, &tcp(5000, FRIEND_PORT, 0x10, &long)), 16),
            (packet(TCP, &tcp(5000, FRIEND_PORT, 0x02, &long)), 16),
            (attacker.frame(&Ip::udp(friend.ip, victim.ip).with(&udp(5000, FRIEND_PORT, &long))), 6),
        ];
        let sizes = [(0, 0), (42, 500), (54, 1), (14, 8), (34, 1400), (1300, 500), (u16::MAX, u16::MAX)];
        let types = [0, 1, 3, 4, 5, 0x81, 0x83, 0x85, 0x7f];
        for (header, gso_size) in sizes {
            for gso_type in types {
                for (frame, own) in &frames {
                    for (start, offset) in [(34, *own), (34, 4), (0, 0), (1350, 2)] {
                        let offload = Offload { flags: 1, gso_type, header, gso_size, start, offset };
                        // What the kernel itself refuses has not arrived either.
                        let _taken = wire.try_send(&offload.with(frame));
                    }
                }
            }
        }
        attacker.reaches_only_the_fence("an offload header", victim);
        let bulk = Stream::start(&victim.workload.netns, (attacker.ip, 9100).into()).expect("a connection");
        assert!(bulk.flows(PATIENCE), "ordinary segments of the attacker's host do not pass any more");
    }
}

/// A tunnel inside a workload: an inner checksum is left to the device, in what is data to us.
#[test]
fn a_workloads_own_tunnel_passes() {
    let mut lab = lab("tunnel");
    let mut pod = |name, host| Station::add(&mut lab, host, &WorkloadOptions::pod(name, "open")).unwrap();
    let ends = [pod("one", "n1"), pod("other", "n2")];
    for (here, there, last) in [(&ends[0], &ends[1], 1), (&ends[1], &ends[0], 2)] {
        let device = format!("ip link add tunnel type vxlan id 7 dstport 5555 local {} remote {}", here.ip, there.ip);
        let address = format!("ip addr add 172.31.0.{last}/24 dev tunnel");
        for line in [&device, &address, "ip link set tunnel up"] {
            sh_in(&here.workload.netns, line).unwrap();
        }
    }
    let _server = HttpServer::start(&ends[1].workload.netns, 8080).unwrap();
    let to = (Ipv4Addr::new(172, 31, 0, 2), 8080).into();
    probe::get(&ends[0].workload.netns, to, PATIENCE).expect("TCP through the workload's own tunnel");
    let bulk = Stream::start(&ends[0].workload.netns, to).unwrap();
    assert!(bulk.flows(PATIENCE), "and more of it");
    for host in ["n1", "n2"] {
        assert_eq!(lab.host(host).status().unwrap().counters["checksum-offload"], 0, "{host}");
    }
}
