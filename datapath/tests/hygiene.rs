//! What never passes, whatever the policies say: a drop for each rule.

mod common;

use common::frame::*;
use common::*;
use std::net::Ipv4Addr;
use weft_datapath::Program;
use weft_model::mac::Mac;

const THIEF: Mac = Mac([0xee, 0xee, 10, 255, 1, 6]);

#[test]
fn a_workload_cannot_pretend_to_be_somebody_else() {
    let bench = Bench::new(vec![]);
    let packet = tcp(OWN, OUTSIDE, (1, 80), SYN, b"");
    bench.expect("passed", PASS, |b| b.out(&sent(&packet)));
    bench.expect("spoofed-mac", DROP, |b| b.out(&ethernet(THIEF, gateway_mac(), 0x0800, &packet)));
    bench.expect("spoofed-ip", DROP, |b| b.out(&sent(&tcp(NEIGHBOUR, OUTSIDE, (1, 80), SYN, b""))));
    bench.expect("spoofed-ip", DROP, |b| b.out(&sent(&udp(Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, (68, 67), b""))));
    let arp = |mac, ip| ethernet(own_mac(), Mac([0xff; 6]), 0x0806, &arp((mac, ip), GATEWAY));
    bench.expect("passed", PASS, |b| b.out(&arp(own_mac(), OWN)));
    bench.expect("spoofed-arp", DROP, |b| b.out(&arp(own_mac(), GATEWAY)));
    bench.expect("spoofed-arp", DROP, |b| b.out(&arp(THIEF, OWN)));
    bench.expect("spoofed-arp", DROP, |b| b.out(&arp(own_mac(), Ipv4Addr::UNSPECIFIED)));
}

#[test]
fn a_workload_cannot_offer_or_use_what_is_the_networks() {
    let bench = Bench::new(vec![]);
    bench.expect("rogue-server", DROP, |b| b.out(&sent(&udp(OWN, NEIGHBOUR, (67, 68), b"offer"))));
    bench.expect("workload-vxlan", DROP, |b| b.out(&sent(&udp(OWN, REMOTE_UNDERLAY, (5000, VXLAN_PORT), b"vxlan"))));
    bench.expect("passed", PASS, |b| b.out(&sent(&tcp(OWN, REMOTE_UNDERLAY, (5000, VXLAN_PORT), SYN, b""))));
    bench.expect("multicast", DROP, |b| b.out(&sent(&udp(OWN, Ipv4Addr::new(224, 0, 0, 251), (5353, 5353), b""))));
    bench.expect("multicast", DROP, |b| b.out(&sent(&udp(OWN, Ipv4Addr::BROADCAST, (1, 1), b""))));
    let flooded = ethernet(own_mac(), Mac([0xff; 6]), 0x0800, &udp(OWN, OUTSIDE, (1, 1), b""));
    bench.expect("multicast", DROP, |b| b.out(&flooded));
}

#[test]
fn link_local_is_closed_until_it_is_configured() {
    let mut bench = Bench::new(vec![]);
    let metadata = Ipv4Addr::new(169, 254, 169, 254);
    let request = |to| sent(&tcp(OWN, to, (1, 80), SYN, b""));
    bench.expect("link-local", DROP, |b| b.out(&request(metadata)));
    let own = Ipv4Addr::new(169, 254, 0, 2);
    bench.expect("link-local", DROP, |b| b.out(&request(own)));
    bench.datapath.apply(&[weft_model::datapath::MapOp::PutHostAddress(own)]).unwrap();
    bench.expect("passed", PASS, |b| b.out(&request(own)));
    bench.datapath.set_host(&weft_model::datapath::Host { link_local: true, ..host() }).unwrap();
    bench.expect("passed", PASS, |b| b.out(&request(metadata)));
}

#[test]
fn addresses_that_are_nobodys_are_not_reached() {
    let bench = Bench::new(vec![]);
    for text in ["0.0.0.0", "0.1.2.3", "127.0.0.1", "127.255.0.1", "240.0.0.1", "255.255.255.254"] {
        let to = text.parse().unwrap();
        bench.expect("martian", DROP, |b| b.out(&sent(&udp(OWN, to, (1, 2), b""))));
        bench.expect("martian", DROP, |b| b.out(&sent(&tcp(OWN, to, (1, 2), SYN, b""))));
    }
    bench.expect("passed", PASS, |b| b.out(&sent(&udp(OWN, Ipv4Addr::new(128, 0, 0, 1), (1, 2), b""))));
}

/// Sent by a workload they are dropped; towards it, the ports behind them are judged.
#[test]
fn ip_options() {
    let bench = Bench::new(vec![rule(
        weft_model::policy::Direction::Ingress,
        tag_peer(7),
        ports(weft_model::policy::Protocol::Udp, 80, 80),
    )]);
    let with_options = |packet: Vec<u8>| {
        let mut longer = [&packet[..20], &[1, 1, 1, 0], &packet[20..]].concat();
        longer[0] = 0x46;
        let length = u16::try_from(longer.len()).unwrap();
        longer[2..4].copy_from_slice(&length.to_be_bytes());
        longer
    };
    bench.expect("ip-options", DROP, |b| b.out(&sent(&with_options(udp(OWN, OUTSIDE, (1, 80), b"")))));
    let towards = |port| received(&with_options(udp(REMOTE, OWN, (1, port), b"")));
    bench.expect("passed", PASS, |b| b.arrive(&towards(80), 7));
    bench.expect("policy", DROP, |b| b.arrive(&towards(81), 7));
}

#[test]
fn only_ipv4_and_arp_pass() {
    let bench = Bench::new(vec![]);
    for kind in [0x86dd, 0x8100, 0x88cc, 0x0842] {
        bench.expect("ether-type", DROP, |b| b.out(&ethernet(own_mac(), gateway_mac(), kind, &[0; 60])));
        bench.expect("ether-type", DROP, |b| b.arrive(&ethernet(gateway_mac(), own_mac(), kind, &[0; 60]), 0));
    }
}

#[test]
fn a_workload_hears_only_what_is_for_it() {
    let bench = Bench::new(vec![]);
    bench.expect("wrong-destination", DROP, |b| b.by_host(&received(&tcp(GATEWAY, NEIGHBOUR, (1, 80), SYN, b""))));
    bench.expect("wrong-destination", DROP, |b| b.by_host(&received(&udp(GATEWAY, Ipv4Addr::BROADCAST, (1, 80), b""))));
    let ask = |ip| ethernet(gateway_mac(), Mac([0xff; 6]), 0x0806, &arp((gateway_mac(), GATEWAY), ip));
    bench.expect("passed", PASS, |b| b.by_host(&ask(OWN)));
    bench.expect("wrong-destination", DROP, |b| b.by_host(&ask(NEIGHBOUR)));
}

#[test]
fn broken_headers_are_dropped() {
    let bench = Bench::new(vec![]);
    let whole = tcp(OWN, OUTSIDE, (1, 80), SYN, b"");
    let broken = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut packet = whole.clone();
        change(&mut packet);
        sent(&packet)
    };
    for (what, frame) in [
        // Test runs take no IPv4 frame without a whole IP header (net/bpf/test_run.c, 6.18).
        ("TCP header cut", sent(&whole[..30])),
        ("version 6", broken(&|p| p[0] = 0x65)),
        ("IP header of 16 bytes", broken(&|p| p[0] = 0x44)),
        ("IP header longer than the packet", broken(&|p| p[0] = 0x4f)),
        ("IP length beyond the frame", broken(&|p| p[3] = 41)),
        ("IP length without the TCP header", broken(&|p| p[3] = 39)),
        ("TCP header of 16 bytes", broken(&|p| p[32] = 0x40)),
        ("no UDP header", sent(&ipv4(OWN, OUTSIDE, 17, 0, &[0; 7]))),
        ("no ICMP header", sent(&ipv4(OWN, OUTSIDE, 1, 0, &[8; 7]))),
        ("no SCTP header", sent(&ipv4(OWN, OUTSIDE, 132, 0, &[0; 11]))),
        ("ARP cut", ethernet(own_mac(), gateway_mac(), 0x0806, &arp((own_mac(), OWN), GATEWAY)[..27])),
        ("ARP for something else", ethernet(own_mac(), gateway_mac(), 0x0806, &[9; 28])),
    ] {
        let before = bench.counter("malformed");
        assert_eq!(bench.out(&frame).verdict, DROP, "{what}");
        assert_eq!(bench.counter("malformed"), before + 1, "{what}");
    }
    bench.expect("passed", PASS, |b| b.out(&broken(&|_| {})));
}

#[test]
fn an_empty_slot_passes_nothing() {
    let mut bench = Bench::new(vec![]);
    bench.datapath.apply(&[weft_model::datapath::MapOp::RemoveEndpoint(SLOT)]).unwrap();
    let arp = ethernet(own_mac(), Mac([0xff; 6]), 0x0806, &arp((own_mac(), OWN), GATEWAY));
    bench.expect("no-endpoint", DROP, |b| b.out(&arp));
    bench.expect("no-endpoint", DROP, |b| b.arrive(&arp, 0));
    bench.expect("no-endpoint", DROP, |b| b.out(&sent(&udp(OWN, OUTSIDE, (1, 1), b""))));
    // Not even our own answers.
    bench.expect("no-endpoint", DROP, |b| b.probe(Program::FromWorkload, &arp, weft_abi::INJECTED_MARK, 0));
    bench.expect("no-endpoint", DROP, |b| b.probe(Program::ToWorkload, &arp, weft_abi::INJECTED_MARK, 0));
}

/// A workload with CAP_BPF can put the mark of our answers on what it sends: with it, it sends nothing else than those.
#[test]
fn the_mark_of_answers_lets_nothing_else_out() {
    let bench = Bench::new(vec![]);
    let marked = |packet: &[u8]| {
        let frame = sent(packet);
        bench.probe(Program::FromWorkload, &frame, weft_abi::INJECTED_MARK, 0)
    };
    let quoted = udp(REMOTE, OWN, (1, 2), b"");
    for packet in [tcp(OWN, REMOTE, (80, 40000), RST, b""), icmp(OWN, REMOTE, 3, 3, 0, &quoted[..28])] {
        bench.expect("passed", PASS, |_| marked(&packet));
    }
    for packet in [
        tcp(OWN, REMOTE, (80, 40000), SYN, b""),
        tcp(OWN, REMOTE, (80, 40000), ACK, b"x"),
        udp(OWN, REMOTE, (5000, VXLAN_PORT), b"x"),
        icmp(OWN, REMOTE, 8, 0, 7, b""),
        icmp(OWN, REMOTE, 3, 4, 0, &quoted[..28]),
    ] {
        bench.expect("malformed", DROP, |_| marked(&packet));
    }
    bench.expect("spoofed-ip", DROP, |_| marked(&tcp(NEIGHBOUR, REMOTE, (80, 40000), RST, b"")));
}

#[test]
fn an_interface_of_no_slot_passes_nothing() {
    let bench = Bench::new(vec![]);
    let frame = sent(&udp(OWN, OUTSIDE, (1, 1), b""));
    let probe = weft_datapath::Probe { frame: &frame, mark: 0, ifindex: 0, ingress_ifindex: 0, gso_size: 0, repeat: 1 };
    let outcome = bench.expect("no-endpoint", DROP, |b| b.datapath.probe(Program::FromWorkload, &probe).unwrap());
    assert_eq!(outcome.mark, 0);
}

#[test]
fn fragments_follow_their_first_one() {
    let mut bench = Bench::new(vec![rule(
        weft_model::policy::Direction::Ingress,
        tag_peer(7),
        ports(weft_model::policy::Protocol::Udp, 80, 80),
    )]);
    const MORE: u16 = 0x2000;
    let first = |port| received(&ipv4(REMOTE, OWN, 17, MORE, &datagram(REMOTE, OWN, (40000, port), &[0; 16])));
    let later = received(&ipv4(REMOTE, OWN, 17, 3, b"the rest"));
    bench.expect("fragment", DROP, |b| b.arrive(&later, 7));
    bench.expect("policy", DROP, |b| b.arrive(&first(81), 7));
    bench.expect("fragment", DROP, |b| b.arrive(&later, 7));
    bench.expect("passed", PASS, |b| b.arrive(&first(80), 7));
    bench.expect("passed", PASS, |b| b.arrive(&later, 7));
    bench.expect("passed", PASS, |b| b.arrive(&later, 7));
    let mut other = later.clone();
    other[19] ^= 1;
    bench.expect("fragment", DROP, |b| b.arrive(&other, 7));
    bench.expect("malformed", DROP, |b| b.arrive(&received(&ipv4(REMOTE, OWN, 17, MORE, &[0; 7])), 7));
    bench.rules(vec![]);
    bench.expect("fragment", DROP, |b| b.arrive(&later, 7));
    // A TCP header is not laid over with another.
    bench.rules(vec![rule(weft_model::policy::Direction::Ingress, tag_peer(7), weft_model::policy::Traffic::All)]);
    let segment = tcp(REMOTE, OWN, (40000, 80), SYN, &[0; 28]);
    bench.expect("passed", PASS, |b| b.arrive(&received(&ipv4(REMOTE, OWN, 6, MORE, &segment[20..68])), 7));
    for (offset, fate) in [(1, "fragment"), (2, "fragment"), (3, "passed")] {
        let verdict = if fate == "passed" { PASS } else { DROP };
        bench.expect(fate, verdict, |b| b.arrive(&received(&ipv4(REMOTE, OWN, 6, MORE | offset, &[0; 24])), 7));
    }
    // And what the workload sends in pieces.
    let mine = sent(&ipv4(OWN, OUTSIDE, 17, 3, b"the rest"));
    bench.expect("fragment", DROP, |b| b.out(&mine));
    bench.expect("passed", PASS, |b| {
        b.out(&sent(&ipv4(OWN, OUTSIDE, 17, MORE, &datagram(OWN, OUTSIDE, (1, 2), &[0; 16]))))
    });
    bench.expect("passed", PASS, |b| b.out(&mine));
    let vxlan = ipv4(OWN, OUTSIDE, 17, MORE, &datagram(OWN, OUTSIDE, (1, VXLAN_PORT), &[0; 16]));
    bench.expect("workload-vxlan", DROP, |b| b.out(&sent(&vxlan)));
}
