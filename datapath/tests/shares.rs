//! Workloads of a host share the tables of flows: one that uses its share up loses its own flows, not its neighbours'.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::frame::*;
use common::*;
use std::net::Ipv4Addr;
use weft_abi::{SLOT_IFINDEX_BASE, capacity};
use weft_datapath::{Probe, Program};
use weft_model::datapath::{Endpoint, MapOp, SetId};
use weft_model::id::Slot;
use weft_model::mac::Mac;
use weft_model::policy::{Direction, Peer, Traffic};

/// The one that has too many.
const FLOODER: Slot = Slot(6);

/// A bench with the flooder beside [`SLOT`]; everybody may reach both.
fn bench() -> Bench {
    let mut bench = Bench::new(vec![rule(Direction::Ingress, Peer::Any, Traffic::All)]);
    run(&format!("ip link add w6 index {} type veth peer name c6", SLOT_IFINDEX_BASE + u32::from(FLOODER.0)));
    let flooder =
        Endpoint { slot: FLOODER, ip: NEIGHBOUR, mac: Mac::for_workload(NEIGHBOUR), ..bench.endpoint.clone() };
    bench.datapath.apply(&[MapOp::PutEndpoint(flooder)]).unwrap();
    bench
}

/// Runs a program at the flooder's veth.
fn flood(bench: &Bench, program: Program, frame: &[u8]) {
    let ifindex = SLOT_IFINDEX_BASE + u32::from(FLOODER.0);
    let probe = Probe { frame, mark: 0, ifindex, ingress_ifindex: 1, gso_size: 0, repeat: 1 };
    assert_eq!(bench.datapath.probe(program, &probe).unwrap().verdict, PASS);
}

/// The flooder's flow of that number: a packet out and the answer. Only what differs is written, for speed.
struct Flow {
    out: Vec<u8>,
    back: Vec<u8>,
}

impl Flow {
    fn new(out: &[u8], back: &[u8]) -> Self {
        let mac = Mac::for_workload(NEIGHBOUR);
        Self { out: ethernet(mac, gateway_mac(), 0x0800, out), back: ethernet(gateway_mac(), mac, 0x0800, back) }
    }

    fn tcp() -> Self {
        Self::new(&tcp(NEIGHBOUR, OUTSIDE, (1, 443), SYN, b""), &tcp(OUTSIDE, NEIGHBOUR, (443, 1), SYN | ACK, b""))
    }

    fn udp() -> Self {
        Self::new(&udp(NEIGHBOUR, OUTSIDE, (1, 443), b"?"), &udp(OUTSIDE, NEIGHBOUR, (443, 1), b"!"))
    }

    fn begin(&mut self, bench: &Bench, number: u32) {
        let remote = Ipv4Addr::from(0x0b00_0000 + number).octets();
        self.out[30..34].copy_from_slice(&remote);
        self.back[26..30].copy_from_slice(&remote);
        flood(bench, Program::FromWorkload, &self.out);
    }

    fn answer(&self, bench: &Bench) {
        flood(bench, Program::ToWorkload, &self.back);
    }
}

/// Flows of the neighbour, and the packet that passes only while they are known.
fn neighbours_flows(bench: &mut Bench) -> [Vec<u8>; 3] {
    bench.endpoint.set = SetId(77);
    let ops = [MapOp::PutSet(bench.endpoint.set, set(vec![])), MapOp::PutEndpoint(bench.endpoint.clone())];
    bench.datapath.apply(&ops).unwrap();
    let remote = |packet: Vec<u8>| received(&packet);
    for open in [
        tcp(OWN, OUTSIDE, (40000, 443), SYN, b""),
        tcp(OWN, OUTSIDE, (40001, 443), SYN, b""),
        udp(OWN, OUTSIDE, (40002, 443), b"?"),
    ] {
        bench.expect("passed", PASS, |b| b.out(&sent(&open)));
    }
    let connection = remote(tcp(OUTSIDE, OWN, (443, 40000), SYN | ACK, b""));
    bench.expect("passed", PASS, |b| b.arrive(&connection, 0));
    let unanswered = remote(tcp(OUTSIDE, OWN, (443, 40001), SYN | ACK, b""));
    let datagram = remote(udp(OUTSIDE, OWN, (443, 40002), b"!"));
    bench.expect("passed", PASS, |b| b.arrive(&datagram, 0));
    [remote(tcp(OUTSIDE, OWN, (443, 40000), ACK, b"x")), unanswered, datagram]
}

/// 300,000 flows, answered and not, more than any table holds.
#[test]
fn a_flood_of_flows_pushes_out_its_own() {
    let mut bench = bench();
    let kept = neighbours_flows(&mut bench);
    let (mut connection, mut datagram) = (Flow::tcp(), Flow::udp());
    for number in 0..150_000 {
        connection.begin(&bench, number);
        connection.answer(&bench);
        datagram.begin(&bench, number);
    }
    renew(&bench, SLOT);
    for frame in &kept {
        assert_eq!(bench.arrive(frame, 0).verdict, PASS, "a neighbour's flow was pushed out");
    }
    // Those that the flooder began last are known all the same.
    connection.answer(&bench);
    datagram.answer(&bench);
    assert_eq!(held(&bench, FLOODER), 384);
}

/// The flows that a slot still has are of this moment: how long the flood took is not their fault.
fn renew(bench: &Bench, slot: Slot) {
    use aya::maps::{HashMap, Map, MapData};
    let uptime = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC_COARSE).unwrap();
    let now = u32::try_from(std::time::Duration::from(uptime).as_nanos() >> 30).unwrap();
    for table in ["ct_est4", "ct_short4", "ct_more4"] {
        let data = MapData::from_pin(maps(&bench.folder).join(table)).unwrap();
        let mut map: HashMap<_, [u8; 16], [u8; 24]> = HashMap::try_from(Map::LruHashMap(data)).unwrap();
        let of_slot = |key: &[u8; 16]| key[..4] == u32::from(slot.0).to_ne_bytes();
        let keys: Vec<_> = map.keys().map(Result::unwrap).filter(of_slot).collect();
        for key in keys {
            let mut conn = map.get(&key, 0).unwrap();
            conn[8..12].copy_from_slice(&now.to_ne_bytes());
            map.insert(key, conn, 0).unwrap();
        }
    }
}

/// Connections of a slot in the established table, as counted.
fn held(bench: &Bench, slot: Slot) -> u64 {
    use aya::maps::{Array, Map, MapData};
    let data = MapData::from_pin(maps(&bench.folder).join("ct_share")).unwrap();
    let shares: Array<_, [u8; 56]> = Array::try_from(Map::Array(data)).unwrap();
    let share = shares.get(&u32::from(slot.0), 0).unwrap();
    u64::from_ne_bytes(share[..8].try_into().unwrap())
}

/// Connections of a slot in the established table, one by one.
fn established(bench: &Bench, slot: Slot) -> usize {
    use aya::maps::{HashMap, Map, MapData};
    let data = MapData::from_pin(maps(&bench.folder).join("ct_est4")).unwrap();
    let map: HashMap<_, [u8; 16], [u8; 24]> = HashMap::try_from(Map::LruHashMap(data)).unwrap();
    let of_slot = |key: &[u8; 16]| key[..4] == u32::from(slot.0).to_ne_bytes();
    map.keys().map(Result::unwrap).filter(of_slot).count()
}

#[test]
fn what_ends_gives_its_share_back() {
    let bench = bench();
    let mut connection = Flow::tcp();
    for number in 0..1000 {
        connection.begin(&bench, number);
        connection.answer(&bench);
        // By a reset, by both sides' FIN, or opened anew and unanswered.
        match number % 4 {
            0 => end(&bench, &connection, &[(Program::ToWorkload, RST | ACK)]),
            1 => end(&bench, &connection, &[(Program::FromWorkload, FIN | ACK), (Program::ToWorkload, FIN | ACK)]),
            2 => connection.begin(&bench, number),
            _ => {}
        }
    }
    assert_eq!((held(&bench, FLOODER), established(&bench, FLOODER)), (250, 250));
    // The last packets of a closed connection still pass, and a second FIN costs nothing.
    end(&bench, &connection, &[(Program::FromWorkload, RST), (Program::FromWorkload, RST), (Program::ToWorkload, ACK)]);
    assert_eq!((held(&bench, FLOODER), established(&bench, FLOODER)), (249, 249));
}

fn end(bench: &Bench, flow: &Flow, segments: &[(Program, u8)]) {
    for (program, flags) in segments {
        let mut frame = if *program == Program::ToWorkload { flow.back.clone() } else { flow.out.clone() };
        frame[47] = *flags;
        flood(bench, *program, &frame);
    }
}

#[test]
fn what_ended_unseen_is_swept_up() {
    let mut bench = bench();
    let mut connection = Flow::tcp();
    for number in 0..1000 {
        connection.begin(&bench, number);
        connection.answer(&bench);
    }
    let kept = neighbours_flows(&mut bench);
    assert_eq!((held(&bench, FLOODER), held(&bench, SLOT)), (384, 1));
    assert_eq!(bench.datapath.sweep_connections().unwrap(), 0, "all are alive");
    let fill = bench.datapath.map_fill()["ct_est4"];
    assert_eq!((fill.entries, fill.capacity), (384 + 1, capacity::CT_EST4.into()));
    bench.datapath.apply(&[MapOp::RemoveEndpoint(FLOODER)]).unwrap();
    assert_eq!(bench.datapath.sweep_connections().unwrap(), 384);
    assert_eq!((held(&bench, FLOODER), held(&bench, SLOT)), (0, 1));
    assert_eq!((established(&bench, FLOODER), established(&bench, SLOT)), (0, 1));
    assert_eq!(bench.arrive(&kept[0], 0).verdict, PASS);
}

/// A piece of a datagram of the flooder.
fn piece(id: u16, offset: u16, more: bool, payload: &[u8]) -> Vec<u8> {
    let field = (offset / 8) | if more { 0x2000 } else { 0 };
    let mut packet = ipv4(NEIGHBOUR, OUTSIDE, 17, field, payload);
    packet[4..6].copy_from_slice(&id.to_be_bytes());
    ethernet(Mac::for_workload(NEIGHBOUR), gateway_mac(), 0x0800, &packet)
}

fn sends(bench: &Bench, frame: &[u8]) -> bool {
    let ifindex = SLOT_IFINDEX_BASE + u32::from(FLOODER.0);
    let probe = Probe { frame, mark: 0, ifindex, ingress_ifindex: 0, gso_size: 0, repeat: 1 };
    bench.datapath.probe(Program::FromWorkload, &probe).unwrap().verdict == PASS
}

/// The host keeps what is unfinished, for everybody in the same memory.
#[test]
fn unfinished_datagrams_have_a_share_too() {
    let bench = bench();
    let head = datagram(NEIGHBOUR, OUTSIDE, (1, 53), &[0; 1400]);
    // Finished ones cost nothing, however many.
    for id in 0..2000 {
        assert!(sends(&bench, &piece(id, 0, true, &head[..1400])), "{id}");
        assert!(sends(&bench, &piece(id, 1400, false, &head[1400..])), "{id}");
    }
    // Twice the same beginning does not make them whole.
    let (start, mut passed, mut refused) = (std::time::Instant::now(), 0, 0);
    for id in 2000..4000 {
        let beginnings = [(); 2].map(|()| sends(&bench, &piece(id, 0, true, &head[..8])));
        refused += beginnings.iter().filter(|passes| !**passes).count() as u64;
        let end = sends(&bench, &piece(id, 16, false, &head[..8]));
        passed += beginnings.into_iter().chain([end]).map(u64::from).sum::<u64>();
    }
    let share = u64::from(capacity::SHARE_PIECES / (768 + 8));
    // As many windows of 30 s as the time it took, and the two it began and ended in.
    let windows = start.elapsed().as_secs() / 30 + 2;
    assert!((share..=windows * share).contains(&passed), "{passed} pieces in {windows} windows, {share} are a share");
    assert!(refused > 0 && bench.counter("fragment-share") >= refused, "{refused} beginnings refused");
    // The neighbour has its own.
    let mine = ipv4(OWN, OUTSIDE, 17, 0x2000, &datagram(OWN, OUTSIDE, (1, 53), &[0; 64]));
    bench.expect("passed", PASS, |b| b.out(&sent(&mine)));
}

/// Each answer costs a packet of the host.
#[test]
fn answers_have_a_limit() {
    let mut bench = Bench::new(vec![]);
    bench.change(|endpoint| endpoint.deny = weft_model::datapath::DenyAction::Reject);
    let asked = received(&tcp(REMOTE, OWN, (40000, 80), SYN, b""));
    let start = std::time::Instant::now();
    let (mut answered, mut dropped) = (0, 0);
    for _ in 0..10_000 {
        match bench.arrive(&asked, 7).verdict {
            REDIRECT => answered += 1,
            _ => dropped += 1,
        }
    }
    // As many windows as the time it took, and the two it began and ended in.
    let windows = start.elapsed().as_secs() + 2;
    assert!(answered <= u64::from(capacity::SHARE_ANSWERS) * windows, "{answered} answers in {windows} windows");
    assert!(answered >= u64::from(capacity::SHARE_ANSWERS));
    assert_eq!(bench.counter("rejected"), answered);
    assert_eq!(bench.counter("answer-limited"), dropped);
    assert_eq!(bench.counter("policy"), 10_000);
}
