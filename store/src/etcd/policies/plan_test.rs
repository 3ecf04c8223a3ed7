//! Planning against the simplest model: sets of policies.

use super::*;
use proptest::prelude::*;
use std::cell::Cell;
use weft_model::policy::{PortRange, Protocol};

fn keys() -> Keys {
    Keys::new("/coreos.com/network", "/weft/v1")
}

fn group(number: u8) -> GroupId {
    GroupId::new(format!("g{number}")).unwrap()
}

fn policies() -> impl Strategy<Value = BTreeSet<Policy>> {
    let policy = (0u8..5, 0u8..5, 1u16..4).prop_map(|(source, destination, port)| Policy {
        source: group(source),
        destination: group(destination),
        protocol: Protocol::Tcp,
        ports: PortRange::new(port, port).unwrap(),
    });
    proptest::collection::btree_set(policy, 0..12)
}

/// Executes a plan's writes as etcd would: every key written has the next revision.
fn execute(snapshot: &mut Snapshot, plan: &Plan) {
    snapshot.revision += 1;
    let revision = snapshot.revision;
    for (key, value) in &plan.writes {
        let change =
            crate::etcd::change::Change { key: key.clone(), value: value.clone().map(Into::into), revision, lease: 0 };
        match value {
            Some(_) => snapshot.take(&keys(), &change).unwrap(),
            None => snapshot.sources.retain(|group, _| keys().source(group) != *key),
        }
    }
}

fn stored(snapshot: &Snapshot) -> BTreeSet<Policy> {
    let policies = |(source, stored): (&GroupId, &Stored<SourceDocument>)| -> Vec<Policy> {
        stored.document.policies.iter().map(|target| target.policy(source)).collect()
    };
    snapshot.sources.iter().flat_map(policies).collect()
}

proptest! {
    #[test]
    fn plans_add_and_remove_what_was_asked(
        requests in proptest::collection::vec((any::<bool>(), policies()), 1..10)
    ) {
        let mut snapshot = Snapshot::default();
        let mut expected = BTreeSet::new();
        let next = Cell::new(0);
        let choose = || {
            next.set(next.get() + 1);
            Tag::new(next.get())
        };
        for (create, asked) in requests {
            let request = if create { Request::Create } else { Request::Delete };
            let plan = plan(&keys(), &snapshot, request, &asked, choose).unwrap();
            let before = expected.len();
            match request {
                Request::Create => expected.extend(asked.iter().cloned()),
                Request::Delete => expected.retain(|policy| !asked.contains(policy)),
            }
            prop_assert_eq!(plan.count, before.abs_diff(expected.len()));
            prop_assert_eq!(plan.writes.is_empty(), plan.count == 0, "nothing is written for nothing, and the reverse");
            for key in plan.writes.keys() {
                prop_assert!(plan.expect.contains_key(key), "{} is written blindly", key);
            }
            execute(&mut snapshot, &plan);
            prop_assert_eq!(stored(&snapshot), expected.clone());
            for stored in snapshot.sources.values() {
                let sorted = stored.document.policies.is_sorted();
                prop_assert!(sorted && !stored.document.policies.is_empty());
            }
            // Every group named has a tag, and no two the same.
            let tags: BTreeSet<_> = snapshot.groups.values().map(|stored| stored.document.tag).collect();
            prop_assert_eq!(tags.len(), snapshot.groups.len());
            for policy in &expected {
                prop_assert!(snapshot.groups.contains_key(&policy.source));
                prop_assert!(snapshot.groups.contains_key(&policy.destination));
            }
            // And doing it again is nothing.
            let again = super::plan(&keys(), &snapshot, request, &asked, choose).unwrap();
            prop_assert!(again.writes.is_empty() && again.count == 0);
        }
    }
}

#[test]
fn a_releasing_group_is_revived_with_its_tag() {
    let mut snapshot = Snapshot::default();
    let tag = Tag::new(7).unwrap();
    let document = GroupDocument { group: group(1), tag, state: GroupState::Releasing };
    snapshot.groups.insert(group(1), Stored { document: document.clone(), revision: 4 });
    let asked = BTreeSet::from([Policy {
        source: group(1),
        destination: group(1),
        protocol: Protocol::Tcp,
        ports: PortRange::new(1, 1).unwrap(),
    }]);
    let plan = plan(&keys(), &snapshot, Request::Create, &asked, || None).unwrap();
    let live = GroupDocument { state: GroupState::Live, ..document };
    assert_eq!(plan.writes[&keys().group(&group(1))].as_deref(), Some(json(&live).as_str()));
    assert_eq!(plan.expect[&keys().group(&group(1))], 4);
    assert!(plan.tags.is_empty());
}
