//! Tags on the wire, and who may send through the tunnel.

mod common;

use common::frame::*;
use common::*;
use std::net::Ipv4Addr;
use weft_datapath::Program;
use weft_model::datapath::Host;
use weft_model::mac::Mac;
use weft_model::policy::{Direction, Traffic};

fn inner(source: Ipv4Addr, destination: Ipv4Addr) -> Vec<u8> {
    ethernet(Mac([2; 6]), Mac([4; 6]), 0x0800, &tcp(source, destination, (40000, 80), SYN, b""))
}

#[test]
fn a_tag_goes_to_peers_that_speak_gbp_only() {
    let bench = Bench::new(vec![]);
    let mark = (0x0a05 << SHIFT) | 0x4000;
    for (name, frame, ingress, expected) in [
        ("GBP", inner(OWN, REMOTE), 1, 0x0a05),
        ("weft without GBP", inner(OWN, PLAIN), 1, 0),
        ("unmanaged", inner(OWN, FLANNEL), 1, 0),
        ("unknown", inner(OWN, Ipv4Addr::new(10, 255, 9, 9)), 1, 0),
        ("outside", inner(OWN, OUTSIDE), 1, 0),
        ("the host's own packet", inner(VTEP, REMOTE), 0, 0),
        ("a foreign packet with a foreign mark", inner(OUTSIDE, REMOTE), 1, 0),
        ("not IPv4", ethernet(Mac([2; 6]), Mac([4; 6]), 0x86dd, &[0; 60]), 1, 0),
    ] {
        let outcome = bench.probe(Program::ToOverlay, &frame, mark, ingress);
        assert_eq!((outcome.verdict, outcome.mark), (PASS, expected), "{name}");
    }
}

#[test]
fn a_tag_counts_from_peers_that_speak_gbp_only() {
    let bench = Bench::new(vec![]);
    let receive = |source, mark| bench.probe(Program::FromOverlay, &inner(source, OWN), mark, 1);
    // Bits above 16 are GBP's flags.
    assert_eq!(receive(REMOTE, 0x0048_0b07).mark, 0x0b07 << SHIFT);
    assert_eq!(receive(REMOTE, 0).mark, 0);
    for untagged in [PLAIN, FLANNEL] {
        let outcome = receive(untagged, 0x0b07);
        assert_eq!((outcome.verdict, outcome.mark), (PASS, 0), "{untagged}");
    }
    bench.expect("inner-source", DROP, |b| b.probe(Program::FromOverlay, &inner(NEIGHBOUR, OWN), 7, 1));
    bench.expect("inner-source", DROP, |b| b.probe(Program::FromOverlay, &inner(OUTSIDE, OWN), 7, 1));
    let arp = ethernet(Mac([2; 6]), Mac([0xff; 6]), 0x0806, &arp((Mac([2; 6]), REMOTE), OWN));
    bench.expect("ether-type", DROP, |b| b.probe(Program::FromOverlay, &arp, 7, 1));
}

/// Another place for the tag in the mark: all programs look there, and nowhere else.
#[test]
fn the_tag_is_where_the_host_wants_it() {
    for shift in [0, 8] {
        let mut bench = Bench::new(vec![rule(Direction::Ingress, tag_peer(7), Traffic::All)]);
        bench.datapath.set_host(&Host { mark_shift: shift, ..host() }).unwrap();
        let own = u32::from(OWN_TAG) << shift;
        let packet = tcp(OWN, OUTSIDE, (1, 80), SYN, b"");
        assert_eq!(bench.out(&sent(&packet)).mark, own);
        assert_eq!(bench.probe(Program::ToOverlay, &inner(OWN, REMOTE), own, 1).mark, OWN_TAG.into());
        assert_eq!(bench.probe(Program::FromOverlay, &inner(REMOTE, OWN), 7, 1).mark, 7 << shift);
        let frame = received(&tcp(REMOTE, OWN, (40000, 80), SYN, b""));
        bench.expect("passed", PASS, |b| b.probe(Program::ToWorkload, &frame, 7 << shift, 1));
        bench.expect("policy", DROP, |b| b.probe(Program::ToWorkload, &frame, 7 << SHIFT, 1));
    }
}

#[test]
fn the_underlay_takes_vxlan_from_peers_for_their_own_subnet() {
    let bench = Bench::new(vec![]);
    let stranger = Ipv4Addr::new(192, 0, 2, 66);
    let under = |frame: &[u8]| bench.probe(Program::FromUnderlay, frame, 0x77, 1);
    let packet = |outer, source| vxlan((outer, HOST), VXLAN_PORT, VNI, &inner(source, OWN));
    for (outer, source) in [(REMOTE_UNDERLAY, REMOTE), (FLANNEL_UNDERLAY, FLANNEL), (PLAIN_UNDERLAY, PLAIN)] {
        let outcome = bench.expect("carried", PASS, |_| under(&packet(outer, source)));
        assert_eq!(outcome.mark, 0x77, "the mark is other people's here");
    }
    bench.expect("inner-source", DROP, |_| under(&packet(PLAIN_UNDERLAY, REMOTE)));
    bench.expect("inner-source", DROP, |_| under(&packet(stranger, REMOTE)));
    bench.expect("not-a-peer", DROP, |_| under(&packet(stranger, OUTSIDE)));
    bench.expect("not-a-peer", DROP, |_| under(&packet(REMOTE_UNDERLAY, NEIGHBOUR)));
    let arp = ethernet(Mac([2; 6]), Mac([0xff; 6]), 0x0806, &arp((Mac([2; 6]), REMOTE), OWN));
    bench.expect("ether-type", DROP, |_| under(&vxlan((REMOTE_UNDERLAY, HOST), VXLAN_PORT, VNI, &arp)));
    let cut = vxlan((REMOTE_UNDERLAY, HOST), VXLAN_PORT, VNI, &inner(REMOTE, OWN)[..20]);
    bench.expect("malformed", DROP, |_| under(&cut));
}

#[test]
fn a_fragmented_tunnel_packet_is_dropped() {
    let bench = Bench::new(vec![]);
    let mut frame = vxlan((REMOTE_UNDERLAY, HOST), VXLAN_PORT, VNI, &inner(REMOTE, OWN));
    frame[20] = 0x20;
    bench.expect("fragment", DROP, |b| b.probe(Program::FromUnderlay, &frame, 0, 1));
}

#[test]
fn other_peoples_traffic_on_the_underlay_is_left_alone() {
    let bench = Bench::new(vec![]);
    let stranger = Ipv4Addr::new(192, 0, 2, 66);
    for frame in [
        vxlan((stranger, HOST), VXLAN_PORT, VNI + 1, &inner(REMOTE, OWN)),
        vxlan((stranger, HOST), 4789, VNI, &inner(REMOTE, OWN)),
        received(&udp(stranger, HOST, (1, 53), b"?")),
        received(&tcp(stranger, HOST, (1, VXLAN_PORT), SYN, b"")),
        received(&ipv4(stranger, HOST, 17, 100, b"a later fragment")),
        ethernet(Mac([2; 6]), Mac([4; 6]), 0x86dd, &[0; 60]),
        ethernet(Mac([2; 6]), Mac([4; 6]), 0x0806, &[0; 4]),
        received(&ipv4(stranger, HOST, 17, 0, &[0; 3])),
    ] {
        let outcome = bench.expect("foreign", PASS, |b| b.probe(Program::FromUnderlay, &frame, 0x77, 1));
        assert_eq!((outcome.mark, &outcome.frame), (0x77, &frame));
    }
}
