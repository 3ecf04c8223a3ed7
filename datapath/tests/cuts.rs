//! A change of a large policy, looked at after every few writes: what both the old and the new policy allow
//! always passes, what neither allows never does, wherever the writer stops.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::frame::*;
use common::*;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use weft_abi::SLOT_IFINDEX_BASE;
use weft_datapath::{Datapath, Probe, Program};
use weft_model::datapath::{DenyAction, Limited, SetId};
use weft_model::endpoints::{Programmed, Wanted, plan};
use weft_model::id::{GroupId, Slot, Tag};
use weft_model::policy::{Direction, Peer, PolicySet, Protocol, Rule, Traffic};

/// Rules of each policy: half are the other's too.
const RULES: u16 = 10_000;

fn numbered(rules: impl Iterator<Item = (Peer, Traffic)>) -> PolicySet {
    set(rules.zip(1..).map(|((peer, traffic), id)| Rule { id, ..rule(Direction::Ingress, peer, traffic) }).collect())
}

/// Tags from `first` on; one in ten with a range of ports as well, and a network each hundred.
fn policy(first: u16) -> PolicySet {
    let network = |tag: u16| Peer::Cidr(format!("100.64.{}.0/24", tag / 100).parse().unwrap());
    numbered((first..first + RULES).flat_map(move |tag| {
        let range = (tag % 10 == 0).then(|| (tag_peer(tag), ports(Protocol::Tcp, 1000, 1998)));
        let cidr = (tag % 100 == 0).then(|| (network(tag), ports(Protocol::Tcp, 80, 80)));
        [Some((tag_peer(tag), ports(Protocol::Tcp, 80, 80))), range, cidr].into_iter().flatten()
    }))
}

const OLD: u16 = 1;
const NEW: u16 = 1 + RULES / 2;

/// A second pair of eyes on the same maps.
struct Eyes {
    datapath: Datapath,
    port: AtomicU32,
}

impl Eyes {
    fn passes(&self, frame: &[u8], tag: u16) -> bool {
        let ifindex = SLOT_IFINDEX_BASE + u32::from(SLOT.0);
        let mark = u32::from(tag) << SHIFT;
        let probe = Probe { frame, mark, ifindex, ingress_ifindex: 1, gso_size: 0, repeat: 1 };
        self.datapath.probe(Program::ToWorkload, &probe).unwrap().verdict == PASS
    }

    /// A new connection.
    fn opens(&self, source: Ipv4Addr, tag: u16, to: u16) -> bool {
        let port = 1024 + u16::try_from(self.port.fetch_add(1, Ordering::Relaxed) % 60_000).unwrap();
        self.passes(&received(&tcp(source, OWN, (port, to), SYN, b"")), tag)
    }

    /// Tags, ports and networks that both, one, or none of the policies allow; whether the new one is in force.
    fn look(&self) -> bool {
        let step = u16::try_from(self.port.load(Ordering::Relaxed) % 499).unwrap();
        let network = |tag: u16| Ipv4Addr::new(100, 64, u8::try_from(tag / 100).unwrap(), 9);
        let tens = |tag: u16| tag / 10 * 10;
        let (old, both, new, none) =
            (100 + step, NEW + 99 + step, NEW + RULES / 2 + 200 + step, NEW + RULES + 200 + step);
        assert!(self.opens(REMOTE, both, 80), "tag {both} is allowed by both");
        assert!(self.opens(REMOTE, tens(both), 1500), "tag {both} has the ports of both");
        assert!(self.opens(network(both), 0, 80), "network of {both} is allowed by both");
        assert!(self.passes(&received(&tcp(REMOTE, OWN, (999, 80), ACK, b"x")), NEW), "a flow that lives under both");
        assert!(!self.opens(REMOTE, none, 80), "tag {none} is allowed by none");
        assert!(!self.opens(REMOTE, tens(both) + 1, 1500), "no ports for tag {}", tens(both) + 1);
        assert!(!self.opens(network(none), 0, 80), "network of {none} is allowed by none");
        assert!(!self.opens(REMOTE, both, 81), "a port of neither");
        let is_new = self.opens(REMOTE, new, 80);
        assert_ne!(is_new, self.opens(REMOTE, old, 80), "one policy is in force, not a mixture");
        assert_eq!(is_new, self.opens(network(new), 0, 80), "networks and tags change together");
        is_new
    }
}

/// What an agent that starts finds in the maps.
fn found(datapath: &Datapath) -> Programmed {
    let orphans = datapath.sets();
    Programmed {
        endpoints: datapath.endpoints().into_iter().map(|(slot, view)| (slot, view.endpoint)).collect(),
        sets: BTreeMap::new(),
        last_set: orphans.last().map_or(0, |set| set.0),
        orphans,
    }
}

fn change(datapath: &mut Datapath, programmed: &mut Programmed, policy: &PolicySet) {
    let group = Some(GroupId::new("g").unwrap());
    let want = Wanted {
        ip: OWN,
        mac: own_mac(),
        group: group.clone(),
        tag: Tag::new(OWN_TAG),
        deny: DenyAction::Drop,
        audit: false,
        limited: Limited::default(),
    };
    let ops = plan(&BTreeMap::from([(SLOT, want)]), &BTreeMap::from([(group, policy.clone())]), programmed);
    for op in ops {
        datapath.apply(std::slice::from_ref(&op)).unwrap();
        programmed.apply(&op);
    }
}

/// A data plane under the old policy, and eyes on it.
fn start() -> (Bench, Programmed, Arc<Mutex<Eyes>>) {
    let mut bench = Bench::new(vec![]);
    let mut programmed = found(&bench.datapath);
    change(&mut bench.datapath, &mut programmed, &policy(OLD));
    let eyes = Eyes { datapath: Datapath::open(&bench.folder, &host()).unwrap(), port: AtomicU32::new(0) };
    assert!(eyes.passes(&received(&tcp(REMOTE, OWN, (999, 80), SYN, b"")), NEW));
    assert!(!eyes.look());
    (bench, programmed, Arc::new(Mutex::new(eyes)))
}

#[test]
fn at_every_cut_of_a_change_of_ten_thousand_policies() {
    let (mut bench, mut programmed, eyes) = start();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (watching, seeing) = (Arc::clone(&eyes), Arc::clone(&seen));
    bench.datapath.watch_writes(199, Box::new(move || seeing.lock().unwrap().push(watching.lock().unwrap().look())));
    change(&mut bench.datapath, &mut programmed, &policy(NEW));
    let seen = seen.lock().unwrap();
    // Written under the old policy, removed under the new one; the flip is one moment.
    let (before, after) = (seen.iter().filter(|new| !**new).count(), seen.iter().filter(|new| **new).count());
    assert!(seen.is_sorted(), "the policy went back");
    assert!(before > 60 && after > 60, "{before} cuts before the flip, {after} after it");
    assert!(eyes.lock().unwrap().look());
}

#[test]
fn a_writer_that_dies_anywhere_leaves_a_policy_in_force_and_the_next_one_finishes() {
    for cut in [0, 2, 8, 9, 14] {
        let (mut bench, mut programmed, eyes) = start();
        let mut left = cut;
        let die = move || {
            assert!(left > 0, "dies here");
            left -= 1;
        };
        bench.datapath.watch_writes(2_000, Box::new(die));
        let died = catch_unwind(AssertUnwindSafe(|| change(&mut bench.datapath, &mut programmed, &policy(NEW))));
        assert!(died.is_err(), "there are more than {cut} cuts");
        drop(bench.datapath);
        let eyes = eyes.lock().unwrap();
        let is_new = eyes.look();
        let mut next = Datapath::open(&bench.folder, &host()).unwrap();
        assert_eq!(eyes.look(), is_new, "a start changes nothing");
        let mut programmed = found(&next);
        change(&mut next, &mut programmed, &policy(NEW));
        assert!(eyes.look(), "cut {cut}");
        assert_eq!(next.sets().len(), 1, "what was half written or half removed is gone");
    }
}

/// `pol` is in `attach.rs`.
#[test]
fn a_full_trie_keeps_the_old_policy_and_leaves_nothing_behind() {
    let mut bench = Bench::new(vec![rule(Direction::Ingress, tag_peer(7), ports(Protocol::Tcp, 80, 80))]);
    let ranges = numbered((1..=9_400).map(|tag| (tag_peer(tag), ports(Protocol::Tcp, 2, 65_534))));
    let networks = numbered((0..70_000u32).map(|number| {
        let address = Ipv4Addr::from(0x6440_0000 + number);
        (Peer::Cidr(format!("{address}/32").parse().unwrap()), Traffic::All)
    }));
    let cases = [
        (ranges, "map ranges is full (262144 entries): policy set 900 was not put in force"),
        (networks, "map cidr4 is full (65536 entries): policy set 900 was not put in force"),
    ];
    for (number, (set, message)) in cases.into_iter().enumerate() {
        let put = weft_model::datapath::MapOp::PutSet(SetId(900), set);
        for _ in 0..2 {
            assert_eq!(bench.datapath.apply(std::slice::from_ref(&put)).unwrap_err().to_string(), message);
            assert!(!bench.datapath.sets().contains(&SetId(900)));
        }
        let port = u16::try_from(number).unwrap() + 1;
        let syn = |tag| bench.arrive(&received(&tcp(REMOTE, OWN, (port, 80), SYN, b"")), tag).verdict;
        assert_eq!((syn(7), syn(8)), (PASS, DROP), "the old policy is in force");
    }
    let found = Datapath::open(&bench.folder, &host()).unwrap();
    assert_eq!(found.sets().len(), 1, "nothing is left behind");
    assert_eq!(found.endpoints()[&Slot(5)].endpoint.set, bench.endpoint.set);
}
