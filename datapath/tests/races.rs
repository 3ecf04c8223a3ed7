//! Races that single packets do not show: an endpoint that is flipped while its packets are judged, and tables that
//! take no entry. The rules' numbers are those of docs/datapath.md, "What must not race".

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use aya::maps::{Array, HashMap, Map, MapData};
use common::frame::*;
use common::way::open_doors;
use common::*;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use weft_abi::{Conn, ConnKey4, Frag, FragKey4, Share, capacity, direction};
use weft_datapath::{Datapath, Outcome, Probe, Program};
use weft_model::datapath::{Endpoint, MapOp, MapSizes, SetId};
use weft_model::policy::{Direction, Peer, Protocol, Rule, Traffic};

/// A table of the programs, keys and values as bytes.
type Table<const KEY: usize, const VALUE: usize> = HashMap<MapData, [u8; KEY], [u8; VALUE]>;
type Flows = Table<{ size_of::<ConnKey4>() }, { size_of::<Conn>() }>;
type Pieces = Table<{ size_of::<FragKey4>() }, { size_of::<Frag>() }>;

fn table<const KEY: usize, const VALUE: usize>(bench: &Bench, name: &str) -> Table<KEY, VALUE> {
    let data = MapData::from_pin(maps(&bench.folder).join(name)).unwrap();
    HashMap::try_from(Map::LruHashMap(data)).unwrap()
}

/// The key of the flow between [`REMOTE`]'s port 40000 and port 80.
fn flow_key(proto: u8) -> [u8; size_of::<ConnKey4>()] {
    let ports = [40000_u16.to_be_bytes(), 80_u16.to_be_bytes()].concat();
    let key = [&u32::from(SLOT.0).to_ne_bytes()[..], &REMOTE.octets(), &ports, &[proto, 0, 0, 0]].concat();
    key.try_into().unwrap()
}

/// The key of a datagram from [`REMOTE`] in pieces, as [`ipv4`] makes them.
fn piece_key() -> [u8; size_of::<FragKey4>()] {
    let slot = u32::from(SLOT.0).to_ne_bytes();
    [&slot[..], &REMOTE.octets(), &OWN.octets(), &[0x12, 0x34, 17, direction::INGRESS]].concat().try_into().unwrap()
}

fn word(value: &[u8], offset: usize) -> u32 {
    u32::from_ne_bytes(value[offset..offset + 4].try_into().unwrap())
}

/// Flips the endpoint from one set to another and back. Generations count on with each flip.
struct Flipper {
    writer: Datapath,
    endpoint: Endpoint,
    sets: [SetId; 2],
}

impl Flipper {
    /// Puts the set of that turn in force; its generation.
    fn flip(&mut self, turn: u64) -> u32 {
        let set = self.sets[usize::from(turn % 2 == 1)];
        let put = MapOp::PutEndpoint(Endpoint { set, ..self.endpoint.clone() });
        self.writer.apply(&[put]).unwrap().generations[&SLOT]
    }
}

/// The tables of known flows, and of datagrams in pieces.
struct Tables([Flows; 3], Pieces);

impl Tables {
    fn of(bench: &Bench) -> Self {
        Self(["ct_est4", "ct_short4", "ct_more4"].map(|name| table(bench, name)), table(bench, "frag4"))
    }

    /// Generation and rule of the flow, which is in one of them.
    fn stamp(&self, proto: u8) -> Option<(u32, u32)> {
        let Self(flows, _) = self;
        let conn = flows.iter().find_map(|table| table.get(&flow_key(proto), 0).ok())?;
        Some((word(&conn, 0), word(&conn, 12)))
    }

    /// Generation of the datagram's first piece.
    fn stamp_of_piece(&self) -> Option<u32> {
        Some(word(&self.1.get(&piece_key(), 0).ok()?, 0))
    }

    fn forget(&mut self) {
        for proto in [6, 17] {
            self.0.iter_mut().for_each(|table| drop(table.remove(&flow_key(proto))));
        }
        drop(self.1.remove(&piece_key()));
    }
}

/// Rule 1: the generation is read before the policy, and that value is stamped. Two sets are in force in turn, told
/// apart by the number of their rule. A flow with one's generation and the other's rule would pass as current under a
/// policy that was never asked. The endpoint is flipped about as fast as its packets are judged.
#[test]
fn a_flow_bears_the_generation_it_was_judged_by() {
    /// Packets that were on their way when the endpoint was flipped.
    const STRADDLED: u32 = 2_000;
    let allow_all = |id| vec![Rule { id, ..rule(Direction::Ingress, Peer::Any, Traffic::All) }];
    let mut bench = Bench::new(allow_all(1));
    let other = SetId(900);
    bench.datapath.apply(&[MapOp::PutSet(other, set(allow_all(2)))]).unwrap();
    let mut tables = Tables::of(&bench);

    let segment = |flags| received(&tcp(REMOTE, OWN, (40000, 80), flags, b""));
    let answer = sent(&tcp(OWN, REMOTE, (80, 40000), ACK, b""));
    let piece = received(&ipv4(REMOTE, OWN, 17, 0x2000, &datagram(REMOTE, OWN, (40000, 80), &[0; 64])));
    // Opened, judged again by a packet of either side; another flow, opened by the first piece of a datagram.
    let flow = [segment(SYN), segment(ACK), answer.clone(), segment(ACK), piece.clone()];

    let writer = Datapath::open(&bench.folder, &host()).unwrap();
    let mut flipper = Flipper { writer, endpoint: bench.endpoint.clone(), sets: [bench.endpoint.set, other] };
    let first = flipper.flip(0);
    let rule_of = |generation: u32| 1 + generation.wrapping_sub(first) % 2;
    let (turns, done) = (AtomicU64::new(0), AtomicBool::new(false));
    let (mut straddled, mut mixed) = (0, None);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                flipper.flip(turns.fetch_add(1, Ordering::Relaxed) + 1);
            }
        });
        let start = Instant::now();
        for frame in flow.iter().cycle() {
            if mixed.is_some() || straddled >= STRADDLED || start.elapsed() > PATIENCE {
                break;
            }
            if [&flow[0], &piece].contains(&frame) {
                tables.forget();
            }
            let before = turns.load(Ordering::Relaxed);
            let outcome = if *frame == answer { bench.out(frame) } else { bench.arrive(frame, 7) };
            straddled += u32::from(turns.load(Ordering::Relaxed) != before);
            let of_piece = tables.stamp_of_piece();
            let stamp = tables.stamp(if *frame == piece { 17 } else { 6 });
            let fits = stamp.is_some_and(|(generation, rule)| {
                rule == rule_of(generation) && of_piece == (*frame == piece).then_some(generation)
            });
            mixed = (outcome.verdict != PASS || !fits).then_some((outcome.verdict, stamp, of_piece));
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(mixed, None, "verdict, generation and rule, generation of the piece; after {straddled}");
    assert!(straddled >= STRADDLED, "{straddled} packets met a flip of {turns:?}: are there two processors?");
}

/// A flow is revoked by what one side sends, while what the other side sends changes the flow's entry as well. The
/// next packet does not pass, whichever processor wrote last.
#[test]
fn what_one_side_notes_does_not_undo_the_others_revocation() {
    /// Flows that were revoked while a packet of the other side was judged: enough of them, and how long to look for more.
    const STRADDLED: u32 = 2_000;
    const TIME: Duration = Duration::from_secs(10);
    let mut bench = Bench::new(vec![rule(Direction::Ingress, Peer::Any, Traffic::All)]);
    let others = SetId(900);
    bench.datapath.apply(&[MapOp::PutSet(others, set(open_doors(99)))]).unwrap();
    let open = || Datapath::open(&bench.folder, &host()).unwrap();
    let mut flipper = Flipper { writer: open(), endpoint: bench.endpoint.clone(), sets: [bench.endpoint.set, others] };
    let tunnel = open();
    let segment = |flags| received(&tcp(REMOTE, OWN, (40000, 80), flags, b""));
    let answer = |flags| sent(&tcp(OWN, REMOTE, (80, 40000), flags, b""));
    let refused = || bench.out(&answer(ACK)).verdict == DROP;
    // The other side waits about as long as it takes to meet the revocation.
    let (turn, noted, patience) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let (mut straddled, mut passed) = (0, 0);
    std::thread::scope(|scope| {
        let (turn, noted, patience, frame) = (&turn, &noted, &patience, segment(ACK));
        scope.spawn(move || {
            let probe = Probe { frame: &frame, mark: 7, ifindex: 0, ingress_ifindex: 1, gso_size: 0, repeat: 1 };
            loop {
                let now = turn.load(Ordering::SeqCst);
                if now == u64::MAX {
                    break;
                }
                if noted.load(Ordering::SeqCst) < now {
                    (0..patience.load(Ordering::SeqCst) + now * 7 % 64).for_each(|_| std::hint::spin_loop());
                    // What comes out of the tunnel first is noted.
                    tunnel.probe(Program::FromOverlay, &probe).unwrap();
                    noted.store(now, Ordering::SeqCst);
                }
            }
        });
        let start = Instant::now();
        for now in 1.. {
            if start.elapsed() > if straddled < STRADDLED { PATIENCE } else { TIME } {
                break;
            }
            flipper.flip(0);
            bench.arrive(&segment(SYN), 7);
            bench.out(&answer(SYN | ACK));
            turn.store(now, Ordering::SeqCst);
            flipper.flip(1);
            let early = noted.load(Ordering::SeqCst) == now;
            passed += u32::from(!refused());
            let late = noted.load(Ordering::SeqCst) != now;
            straddled += u32::from(!early && !late);
            let waits = patience.load(Ordering::SeqCst);
            patience.store((waits + u64::from(early)).saturating_sub(late.into()), Ordering::SeqCst);
            while noted.load(Ordering::SeqCst) != now {
                std::hint::spin_loop();
            }
            passed += u32::from(!refused());
        }
        turn.store(u64::MAX, Ordering::SeqCst);
    });
    assert_eq!(passed, 0, "packets of {straddled} flows that met a revocation");
    assert!(straddled >= STRADDLED, "{straddled} met a revocation: are there two processors?");
}

/// Sizes that are soon full, beside datagrams' 8,192.
const SMALL: MapSizes = MapSizes { connections: 1024, unanswered: 1024, policy_entries: 1024, record_bytes: 4096 };

/// A hash map in the place of a table: full, it takes no new entry, which LRU maps do not refuse at will.
fn refuse<const KEY: usize, const VALUE: usize>(bench: &Bench, name: &str, entries: u32) {
    let mut full: Table<KEY, VALUE> = HashMap::create(entries, 0).unwrap();
    for number in 0..entries {
        let mut key = [0xff; KEY];
        key[..4].copy_from_slice(&number.to_ne_bytes());
        full.insert(key, [0; VALUE], 0).unwrap();
    }
    let path = maps(&bench.folder).join(name);
    std::fs::remove_file(&path).unwrap();
    full.pin(path).unwrap();
}

fn refuse_flows(bench: &Bench, name: &str) {
    refuse::<{ size_of::<ConnKey4>() }, { size_of::<Conn>() }>(bench, name, 1024);
}

/// A bench of [`SMALL`] tables; `replace` puts others in their places.
fn small_bench(rules: Vec<Rule>, replace: impl FnOnce(&Bench)) -> Bench {
    let mut bench = Bench::new(vec![]);
    let open = |bench: &Bench| Datapath::open_sized(&bench.folder, &host(), &SMALL).unwrap();
    bench.datapath = open(&bench);
    bench.rules(rules);
    replace(&bench);
    bench.datapath = open(&bench);
    bench
}

/// Asserts the verdict, and all that was counted.
#[track_caller]
fn expect(bench: &Bench, verdict: i32, counted: &[(&'static str, u64)], probe: impl FnOnce(&Bench) -> Outcome) {
    let before = bench.datapath.counters().unwrap();
    let outcome = probe(bench);
    let after = bench.datapath.counters().unwrap();
    let moved: BTreeMap<_, _> =
        after.into_iter().map(|(name, count)| (name, count - before[name])).filter(|(_, count)| *count > 0).collect();
    assert_eq!((outcome.verdict, moved), (verdict, counted.iter().copied().collect()));
}

const PASSED: (&str, u64) = ("passed", 1);
const FULL: (&str, u64) = ("conntrack-full", 1);

/// Rule 7: an entry that cannot be made keeps the verdict and is counted; what would need the entry fails closed.
#[test]
fn tables_that_take_no_entry_change_no_verdict() {
    let allow = vec![rule(Direction::Ingress, tag_peer(7), ports(Protocol::Tcp, 80, 80))];
    let bench = small_bench(allow, |bench| {
        ["ct_est4", "ct_short4", "ct_more4"].iter().for_each(|name| refuse_flows(bench, name));
        refuse::<{ size_of::<FragKey4>() }, { size_of::<Frag>() }>(bench, "frag4", capacity::FRAG4);
    });
    let segment = |flags| received(&tcp(REMOTE, OWN, (40000, 80), flags, b""));
    // What policy allows passes, judged each time; what it denies does not.
    expect(&bench, PASS, &[PASSED, FULL], |b| b.arrive(&segment(SYN), 7));
    expect(&bench, PASS, &[PASSED, FULL], |b| b.arrive(&segment(ACK), 7));
    expect(&bench, DROP, &[("policy", 1)], |b| b.arrive(&segment(SYN), 8));
    expect(&bench, DROP, &[("mid-stream", 1)], |b| b.arrive(&segment(ACK), 8));
    // What the workload opens passes, but an answer that policy does not allow has only the entry.
    expect(&bench, PASS, &[PASSED, FULL], |b| b.out(&sent(&udp(OWN, OUTSIDE, (40000, 53), b"?"))));
    expect(&bench, DROP, &[("policy", 1)], |b| b.arrive(&received(&udp(OUTSIDE, OWN, (53, 40000), b"!")), 0));
    // Beyond the workload's share it is the same.
    for port in 1..200 {
        expect(&bench, PASS, &[PASSED, FULL], |b| b.out(&sent(&tcp(OWN, OUTSIDE, (port, 443), SYN, b""))));
    }
    // Neither the flow nor the datagram is remembered: its first piece passes, later ones are not known.
    let piece = |fragment, payload: &[u8]| sent(&ipv4(OWN, OUTSIDE, 17, fragment, payload));
    let whole = datagram(OWN, OUTSIDE, (40001, 53), &[0; 64]);
    expect(&bench, PASS, &[PASSED, ("conntrack-full", 2)], |b| b.out(&piece(0x2000, &whole[..64])));
    expect(&bench, DROP, &[("fragment", 1)], |b| b.out(&piece(8, &whole[64..])));
}

/// Rule 7, of connections that are known: one that cannot move to the answered ones stays where it is.
#[test]
fn a_connection_that_cannot_move_stays_known() {
    let bench = small_bench(vec![], |bench| refuse_flows(bench, "ct_est4"));
    let reply = |flags| received(&tcp(OUTSIDE, OWN, (443, 40000), flags, b""));
    expect(&bench, PASS, &[PASSED], |b| b.out(&sent(&tcp(OWN, OUTSIDE, (40000, 443), SYN, b""))));
    expect(&bench, PASS, &[PASSED, FULL], |b| b.arrive(&reply(SYN | ACK), 0));
    expect(&bench, PASS, &[PASSED], |b| b.arrive(&reply(ACK), 0));
    let data = MapData::from_pin(maps(&bench.folder).join("ct_share")).unwrap();
    let shares: Array<_, [u8; size_of::<Share>()]> = Array::try_from(Map::Array(data)).unwrap();
    assert_eq!(word(&shares.get(&SLOT.0.into(), 0).unwrap(), 0), 0, "what it holds of its share");
}

/// Rule 7, of a connection that ends: its last packets pass, and what comes after them is unknown.
#[test]
fn a_connection_whose_end_cannot_be_noted_is_forgotten() {
    let bench = small_bench(vec![], |bench| refuse_flows(bench, "ct_more4"));
    let reply = |flags| received(&tcp(OUTSIDE, OWN, (443, 40000), flags, b""));
    expect(&bench, PASS, &[PASSED], |b| b.out(&sent(&tcp(OWN, OUTSIDE, (40000, 443), SYN, b""))));
    expect(&bench, PASS, &[PASSED], |b| b.arrive(&reply(SYN | ACK), 0));
    expect(&bench, PASS, &[PASSED, FULL], |b| b.arrive(&reply(RST | ACK), 0));
    expect(&bench, DROP, &[("mid-stream", 1)], |b| b.arrive(&reply(ACK), 0));
}
