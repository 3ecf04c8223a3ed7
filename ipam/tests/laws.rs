//! Laws of the pool and its journal, over random histories.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use weft_ipam::{Event, Freed, Pool, PoolError, Released, Request, State, Times, Unavailable, Usage, journal};
use weft_model::capability::Capabilities;
use weft_model::group::Identity;
use weft_model::id::{Attachment, Slot, Token};
use weft_model::mac::Mac;
use weft_model::net::Subnet;

const BOOT: &str = "b0";
const TIMES: Times = Times { cool_down: 30, reservation: 120 };

fn subnet(text: &str) -> Subnet {
    Subnet::try_from(text.parse::<ipnetwork::Ipv4Network>().unwrap()).unwrap()
}

fn attachment(n: u32) -> Attachment {
    Attachment { container_id: format!("c{n}").parse().unwrap(), ifname: "eth0".parse().unwrap() }
}

fn token(n: u64) -> Token {
    Token::new(format!("{n:016x}")).unwrap()
}

fn request(n: u32, t: u64) -> Request {
    Request {
        attachment: attachment(n),
        token: token(t),
        netns: format!("/run/netns/{n}"),
        network: "weft".to_owned(),
        address: None,
        identity: Identity { pod_name: Some(format!("pod \"{n}\"\n")), ..Identity::default() },
        group: Some("k8s:east/shop".parse().unwrap()),
        capabilities: Capabilities { mac: Some(Mac([2, 0, 0, 0, 0, 1])), ..Capabilities::default() },
    }
}

#[derive(Debug, Clone)]
enum Step {
    Reserve(u32),
    Ask(u32, u16),
    KeepBack(BTreeSet<u16>),
    Commit(u32, bool),
    Release(u32, bool),
    Expire(BTreeSet<u32>),
    Block(BTreeSet<u16>),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let who = 0u32..24;
    prop_oneof![
        6 => who.clone().prop_map(Step::Reserve),
        2 => (who.clone(), 0u16..20).prop_map(|(n, slot)| Step::Ask(n, slot)),
        1 => proptest::collection::btree_set(0u16..20, 0..4).prop_map(Step::KeepBack),
        3 => (who.clone(), prop::bool::weighted(0.8)).prop_map(|(n, right)| Step::Commit(n, right)),
        4 => (who.clone(), any::<bool>()).prop_map(|(n, right)| Step::Release(n, right)),
        1 => proptest::collection::btree_set(who, 0..4).prop_map(Step::Expire),
        1 => proptest::collection::btree_set(0u16..20, 0..4).prop_map(Step::Block),
        4 => (0u64..80).prop_map(Step::Wait),
    ]
}

/// A history played on a pool, with what an observer notes down.
struct Play {
    pool: Pool,
    now: u64,
    tokens: u64,
    blocked: BTreeSet<Slot>,
    kept_back: BTreeSet<Slot>,
    released: BTreeMap<Slot, u64>,
    text: String,
}

impl Play {
    fn new(subnet: Subnet) -> Self {
        let pool = Pool::new(subnet, TIMES);
        Self {
            text: journal::snapshot(&pool, BOOT, 0),
            pool,
            now: 1000,
            tokens: 0,
            blocked: BTreeSet::new(),
            kept_back: BTreeSet::new(),
            released: BTreeMap::new(),
        }
    }

    fn write(&mut self, event: &Event) {
        self.text += &journal::line(event);
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Reserve(n) => self.reserve(*n),
            Step::Ask(n, slot) => self.ask(*n, Slot(*slot)),
            Step::KeepBack(slots) => {
                self.kept_back = slots.iter().copied().map(Slot).collect();
                self.pool.keep_back(self.kept_back.clone());
            }
            Step::Commit(n, right) => self.commit(*n, *right),
            Step::Release(n, right) => self.release(*n, *right),
            Step::Expire(linked) => self.expire(linked),
            Step::Block(slots) => {
                self.blocked = slots.iter().copied().map(Slot).collect();
                self.pool.block(self.blocked.clone());
            }
            Step::Wait(seconds) => self.now += seconds,
        }
    }

    fn reserve(&mut self, n: u32) {
        self.tokens += 1;
        let before = self.pool.get(&attachment(n)).cloned();
        let usage = self.pool.usage(self.now);
        match self.pool.reserve(request(n, self.tokens), self.now) {
            Ok(reserved) => {
                let slot = reserved.entry.slot;
                if let Some(before) = before {
                    assert_eq!((before.slot, before.token), (slot, reserved.entry.token));
                    assert_eq!(before.state == State::Committed, reserved.event.is_none());
                } else {
                    assert!(!self.blocked.contains(&slot), "blocked {slot:?} given");
                    assert!(!self.kept_back.contains(&slot), "reserved {slot:?} given");
                    let since = self.released.get(&slot).map(|at| self.now - at);
                    assert!(since.is_none_or(|since| since >= 30), "{slot:?} after {since:?} s");
                }
                if let Some(event) = reserved.event {
                    self.write(&event);
                }
            }
            Err(PoolError::Exhausted { usage: said, .. }) => {
                assert!(before.is_none() && usage.free == 0, "{usage:?} before {said:?}");
            }
            Err(other) => panic!("{other}"),
        }
    }

    /// By name: given, cool-down or not, unless there is a reason, and the reason is true.
    fn ask(&mut self, n: u32, slot: Slot) {
        self.tokens += 1;
        let subnet = self.pool.subnet();
        let address = std::net::Ipv4Addr::from(u32::from(subnet.network().network()) + u32::from(slot.0));
        let before = self.pool.get(&attachment(n)).cloned();
        let owner = self.pool.owner(slot).cloned();
        let asked = Request { address: Some(address), ..request(n, self.tokens) };
        match self.pool.reserve(asked, self.now) {
            Ok(reserved) => {
                let committed = before.as_ref().is_some_and(|before| before.state == State::Committed);
                assert!(committed || reserved.entry.slot == slot);
                assert!(committed || owner.is_none_or(|owner| owner == attachment(n)));
                if before.is_none() {
                    assert!(!self.blocked.contains(&slot) && !self.kept_back.contains(&slot));
                }
                reserved.event.iter().for_each(|event| self.write(event));
            }
            Err(PoolError::Unavailable { why, .. }) => match why {
                Unavailable::Outside(_) => assert!(!subnet.network().contains(address)),
                Unavailable::NotAWorkloads { .. } => {
                    assert!(!subnet.workload_offsets().contains(&u32::from(slot.0)));
                }
                Unavailable::Reserved => assert!(self.kept_back.contains(&slot)),
                Unavailable::Blocked => assert!(self.blocked.contains(&slot)),
                Unavailable::Owned(by) => assert_eq!(Some(by), owner),
                Unavailable::HasAnother(_) => assert!(before.is_some_and(|before| before.slot != slot)),
            },
            Err(other) => panic!("{other}"),
        }
    }

    fn commit(&mut self, n: u32, right: bool) {
        let held = self.pool.get(&attachment(n)).cloned();
        let given = match (&held, right) {
            (Some(entry), true) => entry.token.clone(),
            _ => token(u64::MAX),
        };
        match (self.pool.commit(&attachment(n), &given), held) {
            (Ok(event), Some(entry)) => {
                assert!(right);
                assert_eq!(event.is_none(), entry.state == State::Committed);
                event.iter().for_each(|event| self.write(event));
            }
            (Err(PoolError::NotReserved { .. }), None) => {}
            (Err(PoolError::OtherToken { .. }), Some(_)) => assert!(!right),
            other => panic!("{other:?}"),
        }
    }

    fn release(&mut self, n: u32, right: bool) {
        let held = self.pool.get(&attachment(n)).cloned();
        let given = match &held {
            Some(entry) if right => entry.token.clone(),
            _ => token(u64::MAX),
        };
        match (self.pool.release(&attachment(n), Some(&given), self.now), held) {
            (Released::Yes(freed), Some(held)) => {
                let Freed { entry, event, .. } = *freed;
                assert!(right);
                assert_eq!(entry, held);
                self.released.insert(entry.slot, self.now);
                self.write(&event);
            }
            (Released::Nothing, None) => {}
            (Released::OtherToken, Some(_)) => assert!(!right),
            other => panic!("{other:?}"),
        }
    }

    fn expire(&mut self, linked: &BTreeSet<u32>) {
        let linked: BTreeSet<_> = linked.iter().copied().map(attachment).collect();
        let gone = self.pool.expire(self.now, |attachment, _| linked.contains(attachment));
        for Freed { attachment, entry, event } in gone {
            assert!(!linked.contains(&attachment));
            let State::Reserved { since } = entry.state else {
                panic!("committed {attachment} expired");
            };
            assert!(self.now - since > 120);
            self.released.insert(entry.slot, self.now);
            self.write(&event);
        }
        for (attachment, entry) in self.pool.entries() {
            if let State::Reserved { since } = entry.state {
                assert!(linked.contains(attachment) || self.now - since <= 120);
            }
        }
    }

    fn check(&self) {
        let mut seen = BTreeSet::new();
        for (attachment, entry) in self.pool.entries() {
            assert!(seen.insert(entry.slot), "two owners of {:?}", entry.slot);
            assert_eq!(self.pool.owner(entry.slot), Some(attachment));
            assert!(self.pool.subnet().workload_offsets().contains(&u32::from(entry.slot.0)));
        }
        let Usage { size, in_use, cooling, blocked, reserved, free } = self.pool.usage(self.now);
        assert_eq!(size, in_use + cooling + blocked + reserved + free);
    }

    fn restored(&self, text: &str) -> journal::Restored {
        let mut restored = journal::restore(text.as_bytes(), BOOT, self.pool.subnet(), TIMES);
        restored.pool.block(self.blocked.clone());
        restored.pool.keep_back(self.kept_back.clone());
        restored
    }
}

/// Everything that can be seen of a pool now and later.
fn seen(pool: &Pool, now: u64) -> (String, Vec<Usage>, Slot) {
    let later = (0..40).map(|s| pool.usage(now + s)).collect();
    (format!("{:?}", pool.entries()), later, pool.cursor())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn histories_keep_the_laws_and_survive_a_restart(
        steps in proptest::collection::vec(step(), 0..120),
        // A /28 has 13 addresses for 24 attachments: it fills up often.
        small in any::<bool>(),
    ) {
        let mut play = Play::new(subnet(if small { "10.1.2.0/28" } else { "10.1.2.0/24" }));
        for step in &steps {
            play.step(step);
            play.check();
        }
        let again = play.restored(&play.text);
        prop_assert_eq!(&again.origin, &journal::Origin::SameBoot);
        prop_assert_eq!(again.skipped, 0);
        prop_assert_eq!(seen(&again.pool, play.now), seen(&play.pool, play.now));
        let short = play.restored(&journal::snapshot(&play.pool, BOOT, play.now));
        prop_assert_eq!(seen(&short.pool, play.now), seen(&play.pool, play.now));
    }

    #[test]
    fn a_journal_cut_or_damaged_anywhere_restores_without_double_owners(
        steps in proptest::collection::vec(step(), 0..60),
        cut in any::<prop::sample::Index>(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
    ) {
        let mut play = Play::new(subnet("10.1.2.0/28"));
        steps.iter().for_each(|step| play.step(step));
        let mut bytes = play.text.clone().into_bytes();
        bytes.truncate(cut.index(bytes.len() + 1));
        let whole_lines = bytes.iter().filter(|b| **b == b'\n').count();
        let torn = journal::restore(&bytes, BOOT, play.pool.subnet(), TIMES);
        prop_assert!(torn.skipped <= 1);
        // What is whole counts: exactly the events before the cut.
        let prefix: String = play.text.split_inclusive('\n').take(whole_lines).collect();
        let clean = journal::restore(prefix.as_bytes(), BOOT, play.pool.subnet(), TIMES);
        if torn.skipped == 1 {
            prop_assert_eq!(seen(&torn.pool, play.now), seen(&clean.pool, play.now));
        }
        for (at, byte) in damage {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
        }
        play.pool = journal::restore(&bytes, BOOT, play.pool.subnet(), TIMES).pool;
        play.check();
    }
}

#[test]
fn addresses_go_round_before_one_comes_again() {
    let mut pool = Pool::new(subnet("10.1.2.0/28"), TIMES);
    let mut given = Vec::new();
    for n in 0..13u32 {
        let slot = pool.reserve(request(n, u64::from(n)), u64::from(n) * 100).unwrap().entry.slot;
        given.push(slot.0);
        pool.release(&attachment(n), None, u64::from(n) * 100);
    }
    assert_eq!(given, (2..15).collect::<Vec<u16>>());
    let again = pool.reserve(request(99, 99), 10_000).unwrap().entry;
    assert_eq!(again.slot, Slot(2));
    assert_eq!(pool.address(again.slot), Some("10.1.2.2".parse().unwrap()));
}

#[test]
fn exhaustion_names_the_subnet_and_counts() {
    let mut pool = Pool::new(subnet("10.1.2.0/29"), TIMES);
    for n in 0..5 {
        pool.reserve(request(n, 0), 0).unwrap();
    }
    pool.release(&attachment(0), None, 10);
    let error = pool.reserve(request(9, 0), 39).unwrap_err();
    assert_eq!(
        error.to_string(),
        "subnet 10.1.2.0/29 is exhausted: 4 of its 5 workload addresses are in use, 1 wait out their \
         cool-down of 30 s, 0 are used by something weft does not know, 0 are reserved by configuration"
    );
    assert_eq!(pool.reserve(request(9, 0), 40).unwrap().entry.slot, Slot(2));
}

#[test]
fn another_boot_is_empty_but_goes_on_after_the_last_address() {
    let mut pool = Pool::new(subnet("10.1.2.0/24"), TIMES);
    let mut text = journal::snapshot(&pool, "old", 0);
    for n in 0..3 {
        text += &journal::line(&pool.reserve(request(n, 0), 0).unwrap().event.unwrap());
    }
    let restored = journal::restore(text.as_bytes(), "new", subnet("10.1.2.0/24"), TIMES);
    assert_eq!(restored.origin, journal::Origin::OtherBoot);
    let mut pool = restored.pool;
    assert!(pool.entries().is_empty());
    assert_eq!(pool.reserve(request(7, 0), 0).unwrap().entry.slot, Slot(5));
}

#[test]
fn journals_of_another_subnet_or_version_say_so() {
    let pool = Pool::new(subnet("10.1.2.0/24"), TIMES);
    let text = journal::snapshot(&pool, BOOT, 0);
    let origin = |text: &str, of: &str| journal::restore(text.as_bytes(), BOOT, subnet(of), TIMES).origin;
    let other = journal::Origin::OtherSubnet(subnet("10.1.2.0/24"));
    assert_eq!(origin(&text, "10.1.3.0/24"), other);
    let newer = text.replace("\"version\":1", "\"version\":2");
    assert_eq!(origin(&newer, "10.1.2.0/24"), journal::Origin::OtherVersion(2));
    assert_eq!(origin("", "10.1.2.0/24"), journal::Origin::Absent);
    assert_eq!(origin("{\"ver", "10.1.2.0/24"), journal::Origin::Unreadable);
}

#[test]
fn the_kernels_workloads_are_adopted_but_never_over_another() {
    let mut pool = Pool::new(subnet("10.1.2.0/28"), TIMES);
    let entry = pool.reserve(request(1, 1), 0).unwrap().entry;
    pool.adopt(attachment(1), entry.clone()).unwrap();
    let error = pool.adopt(attachment(2), entry.clone()).unwrap_err();
    assert_eq!(error.to_string(), "c2/eth0 cannot have slot 2 of subnet 10.1.2.0/28: c1/eth0 has it");
    for bad in [0, 1, 15, 4000] {
        let entry = weft_ipam::Entry { slot: Slot(bad), ..entry.clone() };
        assert!(pool.adopt(attachment(3), entry).is_err(), "{bad}");
    }
    // Adopting does not move the place where the next address is looked for.
    let far = weft_ipam::Entry { slot: Slot(9), ..entry };
    pool.adopt(attachment(3), far).unwrap();
    assert_eq!(pool.reserve(request(4, 4), 0).unwrap().entry.slot, Slot(3));
}

#[test]
fn an_address_asked_for_by_name_is_given_or_the_reason_said() {
    let mut pool = Pool::new(subnet("10.1.2.0/28"), TIMES);
    pool.keep_back(BTreeSet::from([Slot(9)]));
    pool.block(BTreeSet::from([Slot(10)]));
    let mut ask = |n: u32, address: &str, now: u64| {
        let request = Request { address: Some(address.parse().unwrap()), ..request(n, u64::from(n)) };
        let result = pool.reserve(request, now).map(|reserved| reserved.entry.slot.0);
        result.map_err(|error| error.to_string())
    };
    assert_eq!(ask(1, "10.1.2.5", 0), Ok(5));
    assert_eq!(ask(1, "10.1.2.5", 1), Ok(5), "asked again");
    let start = "cannot have the requested address";
    let cases = [
        (2, "10.1.2.5", "c1/eth0 has it"),
        (1, "10.1.2.6", "it has 10.1.2.5 already: DEL must come first"),
        (2, "10.1.3.5", "it is outside this host's subnet 10.1.2.0/28"),
        (2, "10.1.2.1", "it is no workload's address: in subnet 10.1.2.0/28 those are 10.1.2.2 to 10.1.2.14"),
        (2, "10.1.2.15", "it is no workload's address: in subnet 10.1.2.0/28 those are 10.1.2.2 to 10.1.2.14"),
        (2, "10.1.2.9", "it is kept back by the agent's setting reserved_addresses"),
        (2, "10.1.2.10", "this host uses it for something weft does not know"),
    ];
    for (n, address, why) in cases {
        assert_eq!(ask(n, address, 2), Err(format!("c{n}/eth0 {start} {address}: {why}")));
    }
    // Back at once to who asks for it, while nobody else gets it.
    pool.release(&attachment(1), None, 3);
    let asked = Request { address: Some("10.1.2.5".parse().unwrap()), ..request(1, 7) };
    assert_eq!(pool.reserve(asked, 4).unwrap().entry.slot, Slot(5));
}

#[test]
fn reserved_addresses_are_skipped_and_who_has_one_keeps_it() {
    let mut pool = Pool::new(subnet("10.1.2.0/29"), TIMES);
    let first = pool.reserve(request(1, 1), 0).unwrap().entry.slot;
    pool.keep_back(BTreeSet::from([Slot(2), Slot(4), Slot(5)]));
    assert_eq!((first, pool.usage(0).reserved, pool.usage(0).free), (Slot(2), 2, 2));
    assert_eq!(pool.reserve(request(1, 1), 0).unwrap().entry.slot, Slot(2));
    let given: Vec<u16> = (2..4).map(|n| pool.reserve(request(n, 1), 0).unwrap().entry.slot.0).collect();
    assert_eq!(given, [3, 6]);
    assert!(pool.reserve(request(9, 9), 0).unwrap_err().to_string().ends_with("2 are reserved by configuration"));
    pool.keep_back(BTreeSet::new());
    assert_eq!(pool.reserve(request(9, 9), 0).unwrap().entry.slot, Slot(4));
}
