//! Bringing endpoints and their policy sets into the data plane, in an order that is right at every
//! moment: a set is written whole under a new number, each endpoint is flipped to it in one store,
//! and the old set goes only when nobody can read it any more.

use crate::datapath::{DenyAction, Endpoint, Limited, MAX_SET_ID, MapOp, SetId};
use crate::id::{GroupId, Slot, Tag};
use crate::mac::Mac;
use crate::policy::PolicySet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

/// An endpoint as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Its address.
    pub ip: Ipv4Addr,
    /// Its hardware address.
    pub mac: Mac,
    /// Its group; the key of its policy set.
    pub group: Option<GroupId>,
    /// Its group's tag.
    pub tag: Option<Tag>,
    /// What denied packets get.
    pub deny: DenyAction,
    /// Whether denials are only logged.
    pub audit: bool,
    /// The directions in which it is limited.
    pub limited: Limited,
}

/// What the maps hold, as far as it is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Programmed {
    /// Endpoints by slot, without the slot itself being told twice.
    pub endpoints: BTreeMap<Slot, Endpoint>,
    /// Sets we wrote, by number.
    pub sets: BTreeMap<SetId, Arc<PolicySet>>,
    /// Numbers that are in the maps but whose contents we do not know: an earlier agent's.
    pub orphans: BTreeSet<SetId>,
    /// The number given last.
    pub last_set: u32,
}

impl Programmed {
    /// Follows an op that was applied.
    pub fn apply(&mut self, op: &MapOp) {
        match op {
            MapOp::PutSet(id, set) => {
                self.sets.insert(*id, Arc::new(set.clone()));
                self.last_set = id.0;
            }
            MapOp::RemoveSet(id) => {
                self.sets.remove(id);
                self.orphans.remove(id);
            }
            MapOp::PutEndpoint(endpoint) => {
                self.endpoints.insert(endpoint.slot, endpoint.clone());
            }
            MapOp::RemoveEndpoint(slot) => {
                self.endpoints.remove(slot);
            }
            MapOp::Barrier
            | MapOp::PutPeer(..)
            | MapOp::RemovePeer(_)
            | MapOp::PutHostAddress(_)
            | MapOp::RemoveHostAddress(_)
            | MapOp::PutMappedPort(..)
            | MapOp::RemoveMappedPort(..) => {}
        }
    }

    fn next_set(&self, given: &BTreeMap<SetId, &PolicySet>) -> SetId {
        let mut id = self.last_set.max(given.keys().map(|id| id.0).max().unwrap_or(0));
        loop {
            id = if id >= MAX_SET_ID { 1 } else { id + 1 };
            let id = SetId(id);
            if !self.sets.contains_key(&id) && !self.orphans.contains(&id) && !given.contains_key(&id) {
                return id;
            }
        }
    }
}

/// The ops that turn `programmed` into `wanted`, whose groups' policy sets are `sets` (a group of
/// `wanted` without a set there is an error of the caller: its endpoints are left as they are).
#[must_use]
pub fn plan(
    wanted: &BTreeMap<Slot, Wanted>,
    sets: &BTreeMap<Option<GroupId>, PolicySet>,
    programmed: &Programmed,
) -> Vec<MapOp> {
    let mut given: BTreeMap<SetId, &PolicySet> = BTreeMap::new();
    let mut numbers: BTreeMap<&Option<GroupId>, SetId> = BTreeMap::new();
    let mut ops = Vec::new();
    for (group, set) in sets {
        let known = programmed.sets.iter().map(|(id, set)| (id, set.as_ref()));
        let written = known.chain(given.iter().map(|(id, set)| (id, *set)));
        let known = written.filter(|(_, known)| *known == set).map(|(id, _)| *id).next();
        let id = known.unwrap_or_else(|| {
            let id = programmed.next_set(&given);
            given.insert(id, set);
            ops.push(MapOp::PutSet(id, set.clone()));
            id
        });
        numbers.insert(group, id);
    }
    let mut used: BTreeSet<SetId> = BTreeSet::new();
    for (slot, want) in wanted {
        let (Some(id), Some(set)) = (numbers.get(&want.group), sets.get(&want.group)) else {
            used.extend(programmed.endpoints.get(slot).map(|endpoint| endpoint.set));
            continue;
        };
        used.insert(*id);
        let endpoint = endpoint(*slot, want, *id, set);
        if programmed.endpoints.get(slot) != Some(&endpoint) {
            ops.push(MapOp::PutEndpoint(endpoint));
        }
    }
    let gone = programmed.endpoints.keys().filter(|slot| !wanted.contains_key(slot));
    ops.extend(gone.map(|slot| MapOp::RemoveEndpoint(*slot)));
    let stale: Vec<SetId> =
        programmed.sets.keys().chain(&programmed.orphans).filter(|id| !used.contains(id)).copied().collect();
    if !stale.is_empty() {
        ops.push(MapOp::Barrier);
        ops.extend(stale.into_iter().map(MapOp::RemoveSet));
    }
    ops
}

fn endpoint(slot: Slot, want: &Wanted, set: SetId, policy: &PolicySet) -> Endpoint {
    Endpoint {
        slot,
        ip: want.ip,
        mac: want.mac,
        tag: want.tag,
        set,
        isolated: policy.isolated,
        hosts_may_reach: policy.hosts_may_reach,
        host_listed_only: policy.host_listed_only,
        deny: want.deny,
        audit: want.audit,
        limited: want.limited,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Direction, Peer, Precedence, Rule, Traffic, Verdict};
    use proptest::prelude::*;

    fn group(number: u8) -> Option<GroupId> {
        (number > 0).then(|| GroupId::new(format!("g{number}")).unwrap())
    }

    fn set(rules: u8) -> PolicySet {
        let rule = |id: u8| Rule {
            direction: Direction::Ingress,
            peer: Peer::Any,
            traffic: Traffic::Protocol(id),
            precedence: Precedence::policy(1),
            verdict: Verdict::Allow,
            id: u32::from(id),
        };
        PolicySet {
            isolated: true,
            hosts_may_reach: false,
            host_listed_only: false,
            rules: (1..=rules).map(rule).collect(),
        }
    }

    type State = (BTreeMap<Slot, Wanted>, BTreeMap<Option<GroupId>, PolicySet>);

    fn states() -> impl Strategy<Value = State> {
        let endpoints = prop::collection::btree_map(2u16..12, (0u8..4, 0u16..3), 0..8);
        let sizes = prop::collection::vec(0u8..4, 4);
        (endpoints, sizes).prop_map(|(endpoints, sizes)| {
            let wanted = endpoints.into_iter().map(|(slot, (number, tag))| {
                let ip = Ipv4Addr::new(10, 0, 0, u8::try_from(slot).unwrap());
                let want = Wanted {
                    ip,
                    mac: Mac::for_workload(ip),
                    group: group(number),
                    tag: Tag::new(tag),
                    deny: DenyAction::Drop,
                    audit: false,
                    limited: Limited::default(),
                };
                (Slot(slot), want)
            });
            let wanted: BTreeMap<Slot, Wanted> = wanted.collect();
            let groups: BTreeSet<_> = wanted.values().map(|want| want.group.clone()).collect();
            let sets = groups.into_iter().zip(sizes).map(|(group, size)| (group, set(size))).collect();
            (wanted, sets)
        })
    }

    /// Applies ops to a model of the maps that refuses what the real ones would suffer from.
    fn apply(programmed: &mut Programmed, ops: &[MapOp]) {
        let mut barrier = true;
        for op in ops {
            match op {
                MapOp::PutSet(id, _) => {
                    assert!(!programmed.sets.contains_key(id) && !programmed.orphans.contains(id), "{id:?} is in use");
                }
                MapOp::PutEndpoint(endpoint) => {
                    barrier = false;
                    assert!(programmed.sets.contains_key(&endpoint.set), "points to a set that is not there");
                }
                MapOp::RemoveSet(id) => {
                    assert!(barrier, "a program may still read the set");
                    assert!(programmed.endpoints.values().all(|endpoint| endpoint.set != *id), "in use");
                }
                MapOp::Barrier => barrier = true,
                _ => {}
            }
            programmed.apply(op);
        }
    }

    proptest! {
        #[test]
        fn reaches_rests_and_resumes_at_every_cut(first in states(), second in states(), cut in 0usize..40) {
            let mut programmed = Programmed { orphans: BTreeSet::from([SetId(1), SetId(3)]), ..Programmed::default() };
            let start = plan(&first.0, &first.1, &programmed);
            apply(&mut programmed, &start);
            let change = plan(&second.0, &second.1, &programmed);
            apply(&mut programmed, &change[..cut.min(change.len())]);
            let rest = plan(&second.0, &second.1, &programmed);
            apply(&mut programmed, &rest);
            prop_assert_eq!(plan(&second.0, &second.1, &programmed), vec![]);
            prop_assert_eq!(programmed.endpoints.len(), second.0.len());
            for (slot, want) in &second.0 {
                let endpoint = &programmed.endpoints[slot];
                prop_assert_eq!(&*programmed.sets[&endpoint.set], &second.1[&want.group]);
                prop_assert_eq!((endpoint.ip, endpoint.tag), (want.ip, want.tag));
            }
            let used: BTreeSet<SetId> = programmed.endpoints.values().map(|endpoint| endpoint.set).collect();
            prop_assert!(programmed.sets.keys().all(|id| used.contains(id)) && programmed.orphans.is_empty());
        }
    }
}
