//! Folding against the simplest model: the state after every whole change.

use super::*;
use crate::etcd::policies::document::json;
use proptest::prelude::*;
use std::collections::BTreeSet;
use weft_api::policies::PolicyTarget;
use weft_api::stored::{GroupDocument, GroupState, SourceDocument};
use weft_model::id::Tag;

fn keys() -> Keys {
    Keys::new("/coreos.com/network", "/weft/v1")
}

/// What one change does: whole documents of sources (empty: the key goes), and tags of groups.
#[derive(Debug, Clone)]
struct Step {
    sources: BTreeMap<u8, BTreeSet<(u8, u16)>>,
    tags: BTreeMap<u8, Option<u16>>,
}

fn step() -> impl Strategy<Value = Step> {
    let targets = proptest::collection::btree_set((0u8..4, 1u16..4), 0..4);
    let sources = proptest::collection::btree_map(0u8..4, targets, 0..3);
    let tags = proptest::collection::btree_map(0u8..4, proptest::option::of(1u16..), 0..3);
    (sources, tags).prop_map(|(sources, tags)| Step { sources, tags })
}

fn group(number: u8) -> GroupId {
    // One group's id begins with another's: ranges must not mix them up.
    GroupId::new("a".repeat(usize::from(number) + 1)).unwrap()
}

fn target((to, port): (u8, u16)) -> PolicyTarget {
    PolicyTarget { to: group(to), protocol: Protocol::Udp, ports: PortRange::new(port, 9).unwrap() }
}

impl Step {
    /// The events etcd would send, head last.
    fn events(&self, revision: i64) -> Vec<Change> {
        let event = |key, value: Option<String>| Change { key, value: value.map(Into::into), revision, lease: 0 };
        let mut events = Vec::new();
        for (&number, targets) in &self.sources {
            let policies = targets.iter().copied().map(target).collect();
            let document = SourceDocument { source: group(number), policies };
            let text = (!targets.is_empty()).then(|| json(&document));
            events.push(event(keys().source(&group(number)), text));
        }
        for (&number, tag) in &self.tags {
            let document = |tag| GroupDocument { group: group(number), tag, state: GroupState::Live };
            let text = tag.and_then(Tag::new).map(|tag| json(&document(tag)));
            events.push(event(keys().group(&group(number)), text));
        }
        let head = HeadDocument { change: revision.to_string(), at: String::new(), by: String::new() };
        events.push(event(keys().head(), Some(json(&head))));
        events
    }

    fn apply(&self, view: &mut PolicyView, revision: i64) {
        for (&number, targets) in &self.sources {
            view.policies.retain(|policy| policy.source != group(number));
            view.policies.extend(targets.iter().map(|t| target(*t).policy(&group(number))));
        }
        for (&number, tag) in &self.tags {
            match tag.and_then(Tag::new) {
                Some(tag) => view.tags.insert(group(number), tag),
                None => view.tags.remove(&group(number)),
            };
        }
        (view.revision, view.change) = (revision, revision.to_string());
    }
}

proptest! {
    #[test]
    fn a_view_is_always_the_state_after_a_whole_change(
        steps in proptest::collection::vec(step(), 1..12),
        breaks in proptest::collection::vec(0usize..8, 1..12),
    ) {
        let mut expected = PolicyView::default();
        let mut fold = PolicyFold::new(keys(), PolicyView::default());
        for (number, step) in steps.iter().enumerate() {
            let revision = i64::try_from(number).unwrap() + 1;
            let events = step.events(revision);
            // A watch that breaks in the middle of a change and tells it again from its beginning.
            for event in events.iter().take(breaks[number % breaks.len()].min(events.len() - 1)) {
                prop_assert!(!fold.push(event.clone()).unwrap());
                prop_assert_eq!(fold.view(), &expected);
            }
            fold.discard();
            step.apply(&mut expected, revision);
            for (left, event) in events.iter().enumerate() {
                prop_assert_eq!(fold.push(event.clone()).unwrap(), left + 1 == events.len());
            }
            prop_assert_eq!(fold.view(), &expected);
        }
    }

    #[test]
    fn a_list_in_the_middle_of_a_large_change_shows_its_end(
        before in step(),
        large in step(),
        done in proptest::collection::vec(any::<bool>(), 8),
    ) {
        // Keys as they stand after some of the large change's writes have been applied.
        let mut stored: BTreeMap<String, Change> = BTreeMap::new();
        let mut put = |event: Change| match event.value {
            Some(_) => drop(stored.insert(event.key.clone(), event)),
            None => drop(stored.remove(&event.key)),
        };
        before.events(5).into_iter().for_each(&mut put);
        let mut events = large.events(9);
        events.pop();
        let text = |event: &Change| event.value.clone().map(|value| String::from_utf8(value).unwrap());
        let redo: Writes = events.iter().map(|event| (event.key.clone(), text(event))).collect();
        events.into_iter().zip(&done).filter(|(_, done)| **done).for_each(|(event, _)| put(event));
        let listed: Vec<_> = stored.into_values().collect();
        let fold = PolicyFold::of(keys(), &listed, Some(&redo), String::new()).unwrap();
        let mut expected = PolicyView::default();
        before.apply(&mut expected, 5);
        let head = (expected.revision, expected.change.clone());
        large.apply(&mut expected, 9);
        (expected.revision, expected.change) = head;
        prop_assert_eq!(fold.view(), &expected);
    }
}

#[test]
fn a_head_that_vanishes_or_cannot_be_read_changes_nothing() {
    let view = PolicyView { revision: 3, change: "x".to_owned(), ..PolicyView::default() };
    let mut fold = PolicyFold::new(keys(), view.clone());
    let head = |value: Option<&str>| Change {
        key: keys().head(),
        value: value.map(|value| value.as_bytes().to_vec()),
        revision: 4,
        lease: 0,
    };
    assert!(matches!(fold.push(head(None)), Err(StoreError::Rewound(_))));
    assert!(matches!(fold.push(head(Some("{"))), Err(StoreError::Document { .. })));
    assert_eq!(fold.view(), &view);
}
