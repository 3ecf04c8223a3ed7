//! Folding events in any pieces against folding what stands at the end.

use super::*;
use proptest::prelude::*;

fn keys() -> Keys {
    Keys::new("/coreos.com/network", "/weft/v1")
}

/// Keys and values of all kinds, good and bad, of few names so that they meet.
fn events() -> impl Strategy<Value = Vec<Change>> {
    let lease = r#"{"PublicIP":"192.0.2.1","BackendType":"vxlan","BackendData":{"VtepMAC":"f2:1b:b9:d3:64:63"}}"#;
    let record = |node: &str| {
        format!(
            r#"{{"node":"{node}","hostname":"h","public_ip":"192.0.2.1","subnet":"10.255.1.0/24","instance":"1","last_seen":"x"}}"#
        )
    };
    let key = prop_oneof![
        Just("/coreos.com/network/subnets/10.255.1.0-24"),
        Just("/coreos.com/network/subnets/10.255.1.0-24&fd00::-64"),
        Just("/coreos.com/network/subnets/10.255.10.0-24"),
        Just("/coreos.com/network/subnets/leader"),
        Just("/weft/v1/hosts/n1"),
        Just("/weft/v1/hosts/N"),
        Just("/weft/v1/wanted"),
    ];
    let value = proptest::option::of(prop_oneof![
        Just(lease.to_owned()),
        Just(record("n1")),
        Just(record("n2")),
        Just(r#"{"revision":3,"until":"x"}"#.to_owned()),
        Just("{".to_owned()),
    ]);
    let number = |events: Vec<(&'static str, Option<String>)>| {
        let numbered = events.into_iter().zip(1..);
        numbered
            .map(|((key, value), revision)| Change {
                key: key.to_owned(),
                value: value.map(Into::into),
                revision,
                lease: revision * 10,
            })
            .collect()
    };
    proptest::collection::vec((key, value), 1..40).prop_map(number)
}

/// What a list at the end shows.
fn listed(events: &[Change]) -> HostsFold {
    let mut stored = BTreeMap::new();
    for event in events {
        match event.value {
            Some(_) => stored.insert(&event.key, event),
            None => stored.remove(&event.key),
        };
    }
    let mut fold = HostsFold::new(keys(), events.last().map_or(0, |event| event.revision));
    stored.into_values().for_each(|event| fold.apply(event));
    fold
}

proptest! {
    #[test]
    fn a_watch_ends_where_a_list_does(events in events(), again in 0usize..40) {
        let mut fold = HostsFold::new(keys(), 0);
        for (number, event) in events.iter().enumerate() {
            fold.apply(event);
            // The watch broke, and tells its last event once more.
            if number == again {
                fold.apply(event);
            }
        }
        let listed = listed(&events);
        prop_assert_eq!(fold.view(), listed.view());
        prop_assert_eq!(fold.wanted(), listed.wanted());
        // An anchor is a key that stands, as it stands.
        if let Some(anchor) = fold.anchor() {
            let last = events.iter().rev().find(|event| event.key == anchor.key).unwrap();
            prop_assert!(last.value.is_some());
            prop_assert_eq!((last.revision, last.lease), (anchor.revision, anchor.lease));
        }
    }
}
