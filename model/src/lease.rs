//! Which subnet a host takes, and the state machine of its lease.
//!
//! One decision at a time: [`decide`] looks at the state and at what the store shows and names the
//! next state and the write it takes to get there. The write is conditional; if it loses, the state
//! stays and the next look decides anew.

use crate::id::NodeId;
use crate::mac::Mac;
use crate::net::{NetworkConfig, Subnet};
use sha2::{Digest, Sha256};
use std::fmt;
use std::net::Ipv4Addr;

/// How long a fresh lease waits for an objection before it serves, milliseconds.
pub const SETTLING_MS: u64 = 1_000;

/// A subnet named by another host's record is not taken while the record is younger than this,
/// seconds; 7 days, as Silk.
pub const SUBNET_HOLD_S: u64 = 7 * 24 * 3600;

/// State of a host's lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// No subnet.
    None,
    /// A fresh one: not served yet.
    Settling {
        /// Which.
        subnet: Subnet,
        /// Since when, milliseconds of the caller's clock.
        since: u64,
    },
    /// Ours, and the store says so.
    Held(Subnet),
    /// Ours as far as we know; the store does not answer.
    Cached(Subnet),
    /// Another host has it. Running workloads go on; nothing new starts.
    Lost(Subnet),
}

impl State {
    /// The subnet, whatever its state.
    #[must_use]
    pub fn subnet(&self) -> Option<Subnet> {
        match self {
            Self::None => None,
            Self::Settling { subnet, .. } | Self::Held(subnet) | Self::Cached(subnet) | Self::Lost(subnet) => {
                Some(*subnet)
            }
        }
    }

    /// Whether workloads may be started.
    #[must_use]
    pub fn serves(&self) -> bool {
        matches!(self, Self::Held(_) | Self::Cached(_))
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Settling { .. } => "settling",
            Self::Held(_) => "held",
            Self::Cached(_) => "cached",
            Self::Lost(_) => "lost",
        })
    }
}

/// A lease as the store shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenLease {
    /// The subnet.
    pub subnet: Subnet,
    /// Whose underlay address.
    pub public_ip: Ipv4Addr,
    /// Its VXLAN device's hardware address.
    pub vtep_mac: Mac,
}

/// A host record as the store shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenRecord {
    /// Whose.
    pub node: NodeId,
    /// Which subnet it has or had.
    pub subnet: Subnet,
    /// Its underlay address.
    pub public_ip: Ipv4Addr,
    /// How old the record is, seconds.
    pub age: u64,
}

/// What the store shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// All leases.
    pub leases: Vec<SeenLease>,
    /// All host records.
    pub records: Vec<SeenRecord>,
}

/// The host that decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Me {
    /// Its id.
    pub node: NodeId,
    /// Its underlay address.
    pub public_ip: Ipv4Addr,
    /// The one it leased its subnet under earlier in this boot, if it is another one.
    pub former_ip: Option<Ipv4Addr>,
    /// Whether workloads run on it.
    pub has_workloads: bool,
}

impl Me {
    /// Whether a lease bears the address this host had before.
    fn had(&self, lease: &SeenLease) -> bool {
        Some(lease.public_ip) == self.former_ip
    }
}

/// A conditional write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Claim a free subnet.
    Create(Subnet),
    /// Take over, or put right, a key that bears our address.
    Adopt(Subnet),
    /// Give back a subnet that another host objects to.
    Yield(Subnet),
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The state, once `write` (if any) has succeeded.
    pub state: State,
    /// The write it takes.
    pub write: Option<Write>,
    /// What a person should know.
    pub alarm: Option<String>,
}

impl Decision {
    fn stay(state: State) -> Self {
        Self { state, write: None, alarm: None }
    }

    fn write(state: State, write: Write) -> Self {
        Self { state, write: Some(write), alarm: None }
    }
}

/// The next step. `seen` is `None` while the store does not answer; `now` is in milliseconds.
#[must_use]
pub fn decide(state: &State, seen: Option<&Seen>, me: &Me, network: &NetworkConfig, now: u64) -> Decision {
    let Some(seen) = seen else {
        return Decision::stay(match state {
            State::Held(subnet) => State::Cached(*subnet),
            // An unsettled lease was never served: nothing is lost by starting over.
            State::Settling { .. } | State::None => State::None,
            State::Cached(_) | State::Lost(_) => state.clone(),
        });
    };
    match state {
        State::None => acquire(seen, me, network, now),
        State::Settling { subnet, since } => settle(*subnet, *since, seen, me, now),
        State::Held(subnet) | State::Cached(subnet) => hold(*subnet, seen, me, network),
        State::Lost(subnet) => recover(*subnet, seen, me),
    }
}

fn owner(seen: &Seen, subnet: Subnet) -> Option<&SeenLease> {
    seen.leases.iter().find(|lease| lease.subnet == subnet)
}

/// Whether a record is another host's. One under our address is our own, from before this host lost its
/// disk (a re-imaged node, a recreated cell): two living hosts cannot share an underlay address.
fn anothers(record: &SeenRecord, me: &Me) -> bool {
    record.node != me.node && record.public_ip != me.public_ip
}

/// Another host's young record that names the subnet.
fn objection<'a>(seen: &'a Seen, subnet: Subnet, me: &Me) -> Option<&'a SeenRecord> {
    seen.records
        .iter()
        .find(|record| anothers(record, me) && record.subnet.overlaps(subnet) && record.age < SUBNET_HOLD_S)
}

fn acquire(seen: &Seen, me: &Me, network: &NetworkConfig, now: u64) -> Decision {
    let ours = seen.leases.iter().find(|lease| lease.public_ip == me.public_ip && network.admits(lease.subnet));
    if let Some(lease) = ours {
        return match objection(seen, lease.subnet, me) {
            None => Decision::write(State::Held(lease.subnet), Write::Adopt(lease.subnet)),
            Some(other) => Decision {
                alarm: Some(format!(
                    "lease {} bears our address {} but host {} at {} has a record of it: waiting until one of them goes",
                    lease.subnet, me.public_ip, other.node, other.public_ip
                )),
                ..Decision::stay(State::None)
            },
        };
    }
    match choose(seen, me, network) {
        Some(subnet) => Decision::write(State::Settling { subnet, since: now }, Write::Create(subnet)),
        None => Decision {
            alarm: Some(format!(
                "no subnet of {} is free: all {} are leased or held",
                network.network(),
                network.subnet_count()
            )),
            ..Decision::stay(State::None)
        },
    }
}

fn settle(subnet: Subnet, since: u64, seen: &Seen, me: &Me, now: u64) -> Decision {
    match owner(seen, subnet) {
        Some(lease) if lease.public_ip == me.public_ip => {}
        // What is seen is older than our own write.
        None if now.saturating_sub(since) < SETTLING_MS => return Decision::stay(State::Settling { subnet, since }),
        _ => return Decision::stay(State::None),
    }
    if let Some(other) = objection(seen, subnet, me) {
        return Decision {
            alarm: Some(format!("gave {subnet} back: host {} holds it", other.node)),
            ..Decision::write(State::None, Write::Yield(subnet))
        };
    }
    if now.saturating_sub(since) >= SETTLING_MS {
        return Decision::stay(State::Held(subnet));
    }
    Decision::stay(State::Settling { subnet, since })
}

fn hold(subnet: Subnet, seen: &Seen, me: &Me, network: &NetworkConfig) -> Decision {
    if !network.admits(subnet) && !me.has_workloads {
        return Decision {
            alarm: Some(format!("the network is now {}: leaving {subnet}", network.network())),
            ..Decision::stay(State::None)
        };
    }
    match owner(seen, subnet) {
        None => Decision::write(State::Held(subnet), Write::Create(subnet)),
        Some(lease) if me.had(lease) => Decision::write(State::Held(subnet), Write::Adopt(subnet)),
        Some(lease) if lease.public_ip != me.public_ip => Decision {
            alarm: Some(format!("subnet {subnet} was taken by host {}", lease.public_ip)),
            ..Decision::stay(State::Lost(subnet))
        },
        Some(lease) if lease.vtep_mac != subnet.vtep_mac() => Decision {
            alarm: Some(format!(
                "somebody (a flanneld on this host?) wrote hardware address {} into our lease {subnet}: putting it right",
                lease.vtep_mac
            )),
            ..Decision::write(State::Held(subnet), Write::Adopt(subnet))
        },
        Some(_) => Decision::stay(State::Held(subnet)),
    }
}

fn recover(subnet: Subnet, seen: &Seen, me: &Me) -> Decision {
    match owner(seen, subnet) {
        None => Decision::write(State::Held(subnet), Write::Create(subnet)),
        Some(lease) if lease.public_ip == me.public_ip || me.had(lease) => {
            Decision::write(State::Held(subnet), Write::Adopt(subnet))
        }
        Some(_) if !me.has_workloads => Decision::stay(State::None),
        Some(lease) => Decision {
            alarm: Some(format!(
                "subnet {subnet} belongs to host {}: this host starts nothing until its workloads are gone",
                lease.public_ip
            )),
            ..Decision::stay(State::Lost(subnet))
        },
    }
}

/// The free subnet with the highest rank by hash of node and subnet: hosts that join at once seldom
/// choose the same, and a host tends to come back to the one it had. Its own last subnet comes
/// first. Held ones (another's record) are taken only when nothing else is left, and only when
/// their record is past its hold, oldest first.
fn choose(seen: &Seen, me: &Me, network: &NetworkConfig) -> Option<Subnet> {
    let free = |subnet: &Subnet| !seen.leases.iter().any(|lease| lease.subnet.overlaps(*subnet));
    let record_of = |subnet: &Subnet| {
        seen.records.iter().filter(|r| anothers(r, me) && r.subnet.overlaps(*subnet)).map(|r| r.age).min()
    };
    let last = seen.records.iter().find(|record| record.node == me.node).map(|record| record.subnet);
    if let Some(last) = last.filter(|last| network.admits(*last) && free(last) && record_of(last).is_none()) {
        return Some(last);
    }
    let candidates: Vec<Subnet> = (0..network.subnet_count()).filter_map(|n| network.subnet(n)).filter(free).collect();
    let unclaimed = candidates.iter().filter(|subnet| record_of(subnet).is_none());
    unclaimed.max_by_key(|subnet| rank(&me.node, **subnet)).copied().or_else(|| {
        let stale = candidates.iter().filter_map(|subnet| Some((record_of(subnet)?, *subnet)));
        stale.filter(|(age, _)| *age >= SUBNET_HOLD_S).max_by_key(|(age, _)| *age).map(|(_, subnet)| subnet)
    })
}

fn rank(node: &NodeId, subnet: Subnet) -> [u8; 8] {
    let mut hash = Sha256::new();
    hash.update(node.as_str());
    hash.update(u32::from(subnet.vtep_ip()).to_be_bytes());
    let digest = hash.finalize();
    let mut rank = [0; 8];
    rank.copy_from_slice(&digest[..8]);
    rank
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network() -> NetworkConfig {
        NetworkConfig::new("10.255.0.0/16".parse().unwrap(), None, None, None).unwrap()
    }

    fn me(workloads: bool) -> Me {
        Me {
            node: "n1".parse().unwrap(),
            public_ip: Ipv4Addr::new(192, 0, 2, 1),
            former_ip: None,
            has_workloads: workloads,
        }
    }

    fn lease(number: u32, host: u8) -> SeenLease {
        let subnet = network().subnet(number).unwrap();
        SeenLease { subnet, public_ip: Ipv4Addr::new(192, 0, 2, host), vtep_mac: subnet.vtep_mac() }
    }

    fn record(node: &str, number: u32, age: u64) -> SeenRecord {
        let public_ip = if node == "n1" { me(false).public_ip } else { Ipv4Addr::new(192, 0, 2, 99) };
        SeenRecord { node: node.parse().unwrap(), subnet: network().subnet(number).unwrap(), public_ip, age }
    }

    fn next(state: &State, seen: &Seen, workloads: bool, now: u64) -> Decision {
        decide(state, Some(seen), &me(workloads), &network(), now)
    }

    #[test]
    fn joins_settles_and_holds() {
        let mut seen = Seen::default();
        let first = next(&State::None, &seen, false, 5);
        let Some(Write::Create(subnet)) = first.write else { panic!("{first:?}") };
        seen.leases.push(SeenLease { subnet, public_ip: me(false).public_ip, vtep_mac: subnet.vtep_mac() });
        assert_eq!(next(&first.state, &seen, false, 900).state, State::Settling { subnet, since: 5 });
        assert!(!first.state.serves());
        assert_eq!(next(&first.state, &seen, false, 1005).state, State::Held(subnet));
    }

    /// The view comes a moment after the write: taking that for a lost key would skip the settling time.
    #[test]
    fn settles_although_its_own_key_is_not_seen_yet() {
        let settling = State::Settling { subnet: lease(3, 1).subnet, since: 0 };
        assert_eq!(next(&settling, &Seen::default(), false, 1).state, settling);
        assert_eq!(next(&settling, &Seen::default(), false, SETTLING_MS).state, State::None);
        let others = Seen { leases: vec![lease(3, 2)], records: vec![] };
        assert_eq!(next(&settling, &others, false, 1).state, State::None);
    }

    /// A host that lost its disk has a new id, and its old record must not lock it out.
    #[test]
    fn a_re_imaged_host_gets_its_subnet_back() {
        let former = SeenRecord { public_ip: me(false).public_ip, ..record("n0", 3, 60) };
        let seen = Seen { leases: vec![lease(3, 1)], records: vec![former] };
        assert_eq!(next(&State::None, &seen, false, 0).write, Some(Write::Adopt(lease(3, 1).subnet)));
    }

    #[test]
    fn an_objection_during_settling_makes_it_yield() {
        let seen = Seen { leases: vec![lease(3, 1)], records: vec![record("n2", 3, 60)] };
        let settling = State::Settling { subnet: lease(3, 1).subnet, since: 0 };
        let decision = next(&settling, &seen, false, 5_000);
        assert_eq!(decision.write, Some(Write::Yield(lease(3, 1).subnet)));
        assert!(decision.alarm.is_some());
    }

    #[test]
    fn skips_what_others_lease_or_hold_until_the_hold_is_over() {
        let network = NetworkConfig::new("10.255.0.0/22".parse().unwrap(), None, None, None).unwrap();
        assert_eq!(network.subnet_count(), 3);
        let at = |n: u32| network.subnet(n).unwrap();
        let held = |age| Seen {
            leases: vec![SeenLease {
                subnet: at(0),
                public_ip: Ipv4Addr::new(192, 0, 2, 9),
                vtep_mac: at(0).vtep_mac(),
            }],
            records: vec![
                SeenRecord { subnet: at(1), ..record("n2", 0, age) },
                SeenRecord { subnet: at(2), ..record("n3", 0, age + 1) },
            ],
        };
        let young = decide(&State::None, Some(&held(60)), &me(false), &network, 0);
        assert_eq!((young.write, young.alarm.is_some()), (None, true));
        let stale = decide(&State::None, Some(&held(SUBNET_HOLD_S)), &me(false), &network, 0);
        assert_eq!(stale.write, Some(Write::Create(at(2))));
    }

    #[test]
    fn comes_back_to_its_own() {
        let seen = Seen { leases: vec![], records: vec![record("n1", 77, 10)] };
        assert_eq!(next(&State::None, &seen, false, 0).write, Some(Write::Create(network().subnet(77).unwrap())));
        let seen = Seen { leases: vec![lease(9, 1)], records: vec![] };
        assert_eq!(next(&State::None, &seen, false, 0).write, Some(Write::Adopt(lease(9, 1).subnet)));
    }

    #[test]
    fn goes_on_without_the_store_and_creates_again_what_was_wiped() {
        let subnet = lease(3, 1).subnet;
        let away = decide(&State::Held(subnet), None, &me(true), &network(), 0);
        assert_eq!(away, Decision::stay(State::Cached(subnet)));
        assert!(away.state.serves());
        let back = next(&State::Cached(subnet), &Seen::default(), true, 0);
        assert_eq!((back.state, back.write), (State::Held(subnet), Some(Write::Create(subnet))));
    }

    #[test]
    fn of_two_hosts_with_one_subnet_exactly_one_keeps_it() {
        let subnet = lease(3, 1).subnet;
        let seen = Seen { leases: vec![lease(3, 2)], records: vec![] };
        let lost = next(&State::Held(subnet), &seen, true, 0);
        assert_eq!(lost.state, State::Lost(subnet));
        assert!(!lost.state.serves() && lost.alarm.is_some());
        assert_eq!(next(&lost.state, &seen, false, 0).state, State::None);
        assert_eq!(next(&lost.state, &Seen::default(), true, 0).write, Some(Write::Create(subnet)));
    }

    #[test]
    fn a_host_whose_address_changed_keeps_its_subnet() {
        let seen = Seen { leases: vec![lease(3, 7)], records: vec![] };
        let subnet = lease(3, 7).subnet;
        let moved = Me { former_ip: Some(lease(3, 7).public_ip), ..me(true) };
        for state in [State::Cached(subnet), State::Lost(subnet)] {
            let decision = decide(&state, Some(&seen), &moved, &network(), 0);
            assert_eq!((decision.state, decision.write), (State::Held(subnet), Some(Write::Adopt(subnet))));
        }
    }

    #[test]
    fn a_foreign_hardware_address_in_our_lease_is_put_right() {
        let mut ours = lease(3, 1);
        ours.vtep_mac = Mac([2, 0, 0, 0, 0, 1]);
        let decision = next(&State::Held(ours.subnet), &Seen { leases: vec![ours.clone()], records: vec![] }, true, 0);
        assert_eq!(decision.write, Some(Write::Adopt(ours.subnet)));
    }

    #[test]
    fn hosts_that_join_at_once_mostly_choose_differently() {
        let choice = |n: u32| {
            choose(&Seen::default(), &Me { node: NodeId::new(format!("node-{n}")).unwrap(), ..me(false) }, &network())
        };
        let distinct: std::collections::BTreeSet<_> = (0..20).map(choice).collect();
        assert!(distinct.len() >= 16, "{}", distinct.len());
    }
}
