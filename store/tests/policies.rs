//! Policies and tags against a real etcd.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use common::{Etcd, PATIENCE};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Barrier;
use weft_api::stored::{EnforcedDocument, HostDocument};
use weft_model::id::{GroupId, Tag};
use weft_model::policy::{Policy, PortRange, Protocol};
use weft_store::hosts::{self, Claim, Hold};
use weft_store::policy::{PolicyFollower, PolicyStore, PolicyView};
use weft_store::{EtcdOptions, EtcdStore, StoreError};

fn group(name: &str) -> GroupId {
    GroupId::new(name).unwrap()
}

fn policy(source: &str, destination: &str, port: u16) -> Policy {
    Policy {
        source: group(source),
        destination: group(destination),
        protocol: Protocol::Tcp,
        ports: PortRange::new(port, port).unwrap(),
    }
}

/// Follows until `done`, whatever temporary errors come in between.
async fn until<F: PolicyFollower>(follower: &mut F, done: impl Fn(&PolicyView) -> bool) {
    let wait = async {
        while !done(follower.view()) {
            match follower.changed().await {
                Ok(()) | Err(StoreError::Unreachable { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    };
    let waited = tokio::time::timeout(PATIENCE, wait).await;
    assert!(waited.is_ok(), "never seen; the view is at {}", follower.view().revision);
}

async fn rewound<F: PolicyFollower>(follower: &mut F, before: &PolicyView) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    for _ in 0..2 {
        loop {
            match tokio::time::timeout_at(deadline, follower.changed()).await.expect("nothing noticed") {
                Err(StoreError::Rewound(_)) => break,
                Err(StoreError::Unreachable { .. }) => {}
                other => panic!("{other:?}; the view is {:?}", follower.view()),
            }
        }
        assert_eq!(follower.view(), before);
    }
}

async fn revision(etcd: &Etcd) -> i64 {
    etcd.raw().await.get("x", None).await.unwrap().header().unwrap().revision()
}

#[tokio::test]
async fn creating_and_deleting_twice_does_nothing_the_second_time() {
    let etcd = Etcd::start().await;
    let store = etcd.store("a");
    assert_eq!(store.policies().await.unwrap(), PolicyView::default());
    assert_eq!(store.last_updated().await.unwrap(), 0);

    let both = [policy("k8s:c/shop", "b", 80), policy("k8s:c/shop", "b", 81)];
    let created = store.create(&both).await.unwrap();
    assert_eq!(created.count, 2);
    let view = store.policies().await.unwrap();
    assert_eq!(view.revision, created.revision);
    assert_eq!(view.policies, BTreeSet::from(both.clone()));
    assert_eq!(view.tags.len(), 2);
    assert!(!view.epoch.is_empty() && !view.change.is_empty());
    let updated = store.last_updated().await.unwrap();

    let before = revision(&etcd).await;
    assert_eq!(store.create(&both[..1]).await.unwrap(), weft_store::policy::Changed { count: 0, ..created });
    assert_eq!(store.delete(&[policy("x", "y", 1)]).await.unwrap().count, 0);
    assert_eq!(revision(&etcd).await, before, "nothing was written");
    assert_eq!(store.last_updated().await.unwrap(), updated);

    let deleted = store.delete(&[both[0].clone(), policy("a", "b", 1)]).await.unwrap();
    assert_eq!(deleted.count, 1);
    assert!(deleted.revision > created.revision);
    let after = store.policies().await.unwrap();
    assert_eq!((after.policies.len(), &after.tags), (1, &view.tags), "tags outlive policies");
    assert!(store.last_updated().await.unwrap() > updated);
    assert_eq!(store.delete(&both).await.unwrap().count, 1);
    assert!(store.policies().await.unwrap().policies.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tags_are_unique_under_eight_writers() {
    let etcd = Etcd::start().await;
    let tasks: Vec<_> = (0..8)
        .map(|writer| {
            let store = etcd.store(&writer.to_string());
            tokio::spawn(async move {
                for n in 0..25 {
                    // A destination all share, one that only two share, and sources that nobody does.
                    let own = format!("w{writer}-{n}");
                    let pair = format!("p{}-{n}", writer / 2);
                    let request = [policy(&own, "everybody", 80), policy(&own, &pair, 80), policy("hot", &own, 80)];
                    store.create(&request).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let view = etcd.store("reader").policies().await.unwrap();
    assert_eq!(view.policies.len(), 600);
    assert_eq!(view.tags.len(), 2 + 200 + 100);
    let tags: BTreeSet<Tag> = view.tags.values().copied().collect();
    assert_eq!(tags.len(), view.tags.len(), "one tag was given out twice");
}

#[tokio::test]
async fn a_nearly_full_tag_space_is_used_up_to_the_last() {
    let etcd = Etcd::start().await;
    let store = etcd.store("a");
    store.create(&[policy("a", "b", 1)]).await.unwrap();
    let used: BTreeSet<u16> = store.policies().await.unwrap().tags.values().map(|tag| tag.get()).collect();
    // All but three others, behind the store's back: its hint is stale.
    let free: BTreeSet<u16> = (1..=u16::MAX).filter(|tag| !used.contains(tag)).take(3).collect();
    let mut raw = etcd.raw().await;
    let fill: Vec<_> = (1..=u16::MAX).filter(|tag| !free.contains(tag) && !used.contains(tag)).collect();
    for part in fill.chunks(120) {
        let puts: Vec<_> = part
            .iter()
            .map(|tag| etcd_client::TxnOp::put(format!("/weft/v1/policy/tags/{tag:04X}"), "{}", None))
            .collect();
        raw.txn(etcd_client::Txn::new().and_then(puts)).await.unwrap();
    }
    store.create(&[policy("c", "d", 1)]).await.unwrap();
    store.create(&[policy("e", "a", 1)]).await.unwrap();
    let tags: BTreeSet<u16> = store.policies().await.unwrap().tags.values().map(|tag| tag.get()).collect();
    assert!(tags.is_superset(&free), "{tags:?}");
    let error = store.create(&[policy("f", "a", 1)]).await.unwrap_err();
    assert!(matches!(error, StoreError::NoTagFree), "{error}");
    assert_eq!(store.policies().await.unwrap().policies.len(), 3, "nothing of a failed request stands");
}

#[tokio::test]
async fn followers_see_changes_through_restart_and_compaction() {
    let mut etcd = Etcd::start().await;
    let a = etcd.store("a");
    let mut follower = etcd.hasty_store("b").follow_policies(None).await.unwrap();
    assert_eq!(follower.view().revision, 0);
    let first = a.create(&[policy("a", "b", 1)]).await.unwrap();
    until(&mut follower, |view| view.revision == first.revision).await;
    assert_eq!(follower.view(), &a.policies().await.unwrap());

    etcd.kill();
    assert!(matches!(follower.changed().await, Err(StoreError::Unreachable { .. })));
    assert_eq!(follower.view().revision, first.revision);
    etcd.up().await;
    let second = a.create(&[policy("a", "c", 1)]).await.unwrap();
    until(&mut follower, |view| view.revision == second.revision).await;
    assert_eq!(follower.view(), &a.policies().await.unwrap());

    etcd.kill();
    assert!(follower.changed().await.is_err());
    etcd.up().await;
    a.delete(&[policy("a", "b", 1)]).await.unwrap();
    let third = a.create(&[policy("d", "c", 1)]).await.unwrap();
    etcd.raw().await.compact(third.revision, None).await.unwrap();
    until(&mut follower, |view| view.revision == third.revision).await;
    let fourth = a.delete(&[policy("d", "c", 1)]).await.unwrap();
    until(&mut follower, |view| view.revision == fourth.revision).await;
    assert_eq!(follower.view(), &a.policies().await.unwrap());
}

#[tokio::test]
async fn an_agent_goes_on_from_its_disk() {
    let mut etcd = Etcd::start().await;
    let store = etcd.store("a");
    store.create(&[policy("a", "b", 1)]).await.unwrap();
    let kept = store.policies().await.unwrap();
    etcd.kill();
    // Without etcd it has what it had.
    let mut follower = etcd.hasty_store("agent").follow_policies(Some(kept.clone())).await.unwrap();
    assert_eq!(follower.view(), &kept);
    assert!(matches!(follower.changed().await, Err(StoreError::Unreachable { .. })));
    etcd.up().await;
    let next = store.create(&[policy("a", "c", 1)]).await.unwrap();
    until(&mut follower, |view| view.revision == next.revision).await;
    assert_eq!(follower.view(), &store.policies().await.unwrap());

    // Compacted past what it kept: a list instead.
    etcd.raw().await.compact(next.revision, None).await.unwrap();
    let mut late = etcd.store("agent").follow_policies(Some(kept.clone())).await.unwrap();
    until(&mut late, |view| view.revision == next.revision).await;

    // What it kept is of another store's life.
    let other = PolicyView { change: "another".to_owned(), revision: next.revision, ..kept.clone() };
    let mut lost = etcd.store("agent").follow_policies(Some(other.clone())).await.unwrap();
    rewound(&mut lost, &other).await;
    let ahead = PolicyView { revision: next.revision + 1000, ..kept };
    let mut lost = etcd.store("agent").follow_policies(Some(ahead.clone())).await.unwrap();
    rewound(&mut lost, &ahead).await;
}

#[tokio::test]
async fn a_wiped_store_is_not_one_without_policies() {
    let mut etcd = Etcd::start().await;
    let store = etcd.store("a");
    store.create(&[policy("a", "b", 1)]).await.unwrap();
    let mut follower = store.follow_policies(None).await.unwrap();
    let before = follower.view().clone();
    etcd.wipe().await;
    rewound(&mut follower, &before).await;
    for refused in
        [store.policies().await.err(), store.create(&[policy("a", "c", 1)]).await.err(), store.sweep().await.err()]
    {
        assert!(matches!(refused, Some(StoreError::Rewound(_))), "{refused:?}");
    }
    assert_eq!(etcd.store("b").policies().await.unwrap(), PolicyView::default(), "it is empty indeed");

    // Somebody fills it again, past the old revision: it still is another one.
    let other = etcd.store("b");
    for port in 1..20 {
        other.create(&[policy("x", "y", port)]).await.unwrap();
    }
    rewound(&mut follower, &before).await;
    assert!(matches!(store.policies().await, Err(StoreError::Rewound(_))), "the epoch tells");
    store.accept_rewound();
    assert_eq!(store.policies().await.unwrap().policies.len(), 19);
    let accepted = store.follow_policies(None).await.unwrap();
    assert_eq!(accepted.view().policies.len(), 19);
}

#[tokio::test]
async fn a_restored_store_is_recognised_though_its_epoch_is_the_same() {
    let mut etcd = Etcd::start().await;
    let store = etcd.store("a");
    store.create(&[policy("a", "b", 1)]).await.unwrap();
    etcd.kill();
    let backup = etcd.backup();
    etcd.up().await;
    store.create(&[policy("a", "c", 1)]).await.unwrap();
    store.create(&[policy("a", "d", 1)]).await.unwrap();
    let mut follower = store.follow_policies(None).await.unwrap();
    let before = follower.view().clone();
    etcd.restore(&backup).await;
    rewound(&mut follower, &before).await;
    // And when it has gone on beyond what the follower saw.
    let other = etcd.store("b");
    for port in 1..10 {
        other.create(&[policy("x", "y", port)]).await.unwrap();
    }
    rewound(&mut follower, &before).await;
}

#[tokio::test]
async fn policies_deleted_by_hand_with_their_head_are_not_believed() {
    let etcd = Etcd::start().await;
    let store = etcd.store("a");
    store.create(&[policy("a", "b", 1)]).await.unwrap();
    let mut follower = store.follow_policies(None).await.unwrap();
    let before = follower.view().clone();
    let all = etcd_client::DeleteOptions::new().with_prefix();
    etcd.raw().await.delete("/weft/v1/policy/", Some(all)).await.unwrap();
    rewound(&mut follower, &before).await;
}

#[tokio::test]
async fn an_unreadable_document_is_named_and_hurts_nobody_else() {
    let etcd = Etcd::start().await;
    let store = etcd.store("a");
    store.create(&[policy("a", "b", 1), policy("c", "b", 1)]).await.unwrap();
    let mut follower = store.follow_policies(None).await.unwrap();
    etcd.raw().await.put("/weft/v1/policy/sources/a", "{", None).await.unwrap();
    let error = store.create(&[policy("a", "b", 2)]).await.unwrap_err();
    assert!(error.to_string().starts_with("/weft/v1/policy/sources/a: "), "{error}");
    let next = store.create(&[policy("c", "b", 2)]).await.unwrap();
    until(&mut follower, |view| view.revision == next.revision).await;
    let ours = |view: &PolicyView| view.policies.contains(&policy("c", "b", 2));
    assert!(ours(follower.view()) && follower.view().policies.contains(&policy("a", "b", 1)));
    assert!(ours(&store.policies().await.unwrap()));
    // Nobody knows what the unreadable one names: no tag is given back.
    store.delete(&[policy("c", "b", 1), policy("c", "b", 2)]).await.unwrap();
    store.sweep().await.unwrap();
    assert_eq!(store.policies().await.unwrap().tags.len(), 3);
}

#[tokio::test]
async fn a_document_that_outgrows_its_key_names_the_limit() {
    let etcd = Etcd::start().await;
    let store = etcd.store("a");
    let long = "x".repeat(240);
    let many: Vec<_> = (1..=1200).map(|port| policy("a", &long, port)).collect();
    let error = store.create(&many).await.unwrap_err();
    assert!(matches!(error, StoreError::TooLarge { limit: 262_144, .. }), "{error}");
    assert!(store.policies().await.unwrap().policies.is_empty());
    // And nobody waits for the request that failed.
    assert!(etcd.raw().await.get("/weft/v1/policy/intent", None).await.unwrap().kvs().is_empty());
    store.create(&many[..10]).await.unwrap();
}

#[tokio::test]
async fn more_than_one_answer_takes_is_listed_and_caught_up_with() {
    let etcd = Etcd::start().await;
    let store = etcd.store("a");
    store.create(&[policy("a", "b", 1)]).await.unwrap();
    let kept = store.policies().await.unwrap();
    // 18 MB in documents of 250 KB, just below their limit.
    let long = "x".repeat(240);
    for source in 0..72 {
        let many: Vec<_> = (1..=850).map(|port| policy(&format!("s{source}"), &long, port)).collect();
        assert_eq!(store.create(&many).await.unwrap().count, 850);
    }
    let listed = etcd.store("b").policies().await.unwrap();
    assert_eq!(listed.policies.len(), 72 * 850 + 1);
    let mut late = etcd.store("c").follow_policies(Some(kept)).await.unwrap();
    until(&mut late, |view| view.revision == listed.revision).await;
    assert!(late.view() == &listed);
}

/// A host with a lease, so that it counts when tags come free.
async fn host(store: &EtcdStore, name: &str, third: u8) -> Hold {
    let network: ipnetwork::Ipv4Network = format!("10.255.{third}.0/24").parse().unwrap();
    let subnet = network.try_into().unwrap();
    let public_ip = format!("192.0.2.{third}").parse().unwrap();
    let value =
        weft_api::flannel::LeaseValue { public_ip, vni: 1, vtep_mac: weft_model::net::Subnet::vtep_mac(subnet) };
    let record = HostDocument {
        node: name.parse().unwrap(),
        hostname: name.to_owned(),
        public_ip,
        subnet,
        instance: "1".to_owned(),
        last_seen: "2026-11-21T09:00:00Z".to_owned(),
        gbp: true,
    };
    match hosts::HostStore::create(store, subnet, &value, &record).await.unwrap() {
        Claim::Won(hold) => hold,
        Claim::Lost => panic!("lost"),
    }
}

async fn report(store: &EtcdStore, name: &str, hold: Hold, revision: i64) {
    let enforced = EnforcedDocument { revision, at: "2026-11-21T09:00:00Z".to_owned(), epoch: String::new() };
    let node = name.parse().unwrap();
    hosts::HostStore::report_enforced(store, &node, hold.lease_id, &enforced).await.unwrap();
}

async fn tag_state(etcd: &Etcd, tag: Tag) -> Option<String> {
    let key = format!("/weft/v1/policy/tags/{tag}");
    let answer = etcd.raw().await.get(key, None).await.unwrap();
    let document: Option<BTreeMap<String, serde_json::Value>> =
        answer.kvs().first().map(|kv| serde_json::from_slice(kv.value()).unwrap());
    document.map(|document| document["state"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn a_tag_is_released_quarantined_and_used_again() {
    let etcd = Etcd::start().await;
    let options = EtcdOptions { quarantine: Duration::from_millis(300), ..etcd.options("a") };
    let store = EtcdStore::connect(options).unwrap();
    let patient = etcd.store("patient");
    let hold = host(&store, "n1", 1).await;
    let idle = host(&store, "n2", 2).await;
    assert_eq!(store.hosts_holding_leases().await.unwrap().len(), 2);

    store.create(&[policy("a", "b", 1), policy("c", "b", 1)]).await.unwrap();
    let tags = store.policies().await.unwrap().tags;
    let gone = tags[&group("a")];
    store.delete(&[policy("a", "b", 1)]).await.unwrap();
    let mut follower = store.follow_policies(None).await.unwrap();
    assert!(follower.view().tags.contains_key(&group("a")));
    store.sweep().await.unwrap();
    until(&mut follower, |view| !view.tags.contains_key(&group("a"))).await;
    assert_eq!(store.policies().await.unwrap().tags.len(), 2);
    assert_eq!(tag_state(&etcd, gone).await.as_deref(), Some("quarantined"));

    // Everybody has to enforce the release, and 300 ms have to pass.
    let released = follower.view().revision;
    report(&store, "n1", hold, released).await;
    tokio::time::sleep(Duration::from_millis(350)).await;
    store.sweep().await.unwrap();
    assert!(tag_state(&etcd, gone).await.is_some(), "n2 never said what it enforces");
    report(&store, "n2", idle, released - 1).await;
    store.sweep().await.unwrap();
    assert!(tag_state(&etcd, gone).await.is_some(), "n2 does not enforce it yet");
    report(&store, "n2", idle, released).await;
    patient.sweep().await.unwrap();
    assert!(tag_state(&etcd, gone).await.is_some(), "ten minutes are not over");
    store.sweep().await.unwrap();
    assert_eq!(tag_state(&etcd, gone).await, None);
    assert_eq!(tag_state(&etcd, tags[&group("b")]).await.as_deref(), Some("live"));

    // A host that has gone does not hold tags up.
    store.delete(&[policy("c", "b", 1)]).await.unwrap();
    store.sweep().await.unwrap();
    etcd.raw().await.lease_revoke(idle.lease_id).await.unwrap();
    let later = revision(&etcd).await;
    report(&store, "n1", hold, later).await;
    tokio::time::sleep(Duration::from_millis(350)).await;
    store.sweep().await.unwrap();
    assert_eq!(tag_state(&etcd, tags[&group("b")]).await, None);
    assert!(store.policies().await.unwrap().tags.is_empty());
}

#[tokio::test]
async fn a_group_that_is_named_again_keeps_its_tag() {
    let etcd = Etcd::start().await;
    let store = etcd.store("a");
    store.create(&[policy("a", "b", 1)]).await.unwrap();
    let tags = store.policies().await.unwrap().tags;
    store.delete(&[policy("a", "b", 1)]).await.unwrap();
    // A sweep that got no further than marking.
    for name in ["a", "b"] {
        let document = format!(r#"{{"group":"{name}","tag":"{}","state":"releasing"}}"#, tags[&group(name)]);
        etcd.raw().await.put(format!("/weft/v1/policy/groups/{name}"), document, None).await.unwrap();
    }
    store.create(&[policy("a", "c", 1)]).await.unwrap();
    store.sweep().await.unwrap();
    let view = store.policies().await.unwrap();
    assert_eq!(view.tags.get(&group("a")), tags.get(&group("a")));
    assert!(view.tags.contains_key(&group("c")) && !view.tags.contains_key(&group("b")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sweeping_beside_writers_never_loses_a_tag_in_use() {
    let etcd = Etcd::start().await;
    let writers: Vec<_> = (0..3)
        .map(|writer| {
            let store = etcd.store("writer");
            tokio::spawn(async move {
                for n in 0..60 {
                    let policies = [policy(&format!("g{}", (n + writer) % 4), &format!("g{}", n % 3), 80)];
                    store.create(&policies).await.unwrap();
                    if n % 2 == 0 {
                        store.delete(&policies).await.unwrap();
                    }
                }
            })
        })
        .collect();
    let sweeper = etcd.store("sweeper");
    while writers.iter().any(|writer| !writer.is_finished()) {
        sweeper.sweep().await.unwrap();
        let view = sweeper.policies().await.unwrap();
        for policy in &view.policies {
            assert!(
                view.tags.contains_key(&policy.source) && view.tags.contains_key(&policy.destination),
                "{policy:?}"
            );
        }
        let distinct: BTreeSet<_> = view.tags.values().collect();
        assert_eq!(distinct.len(), view.tags.len());
    }
    for writer in writers {
        writer.await.unwrap();
    }
}

/// Five thousand policies, more than one transaction takes.
fn many() -> Vec<Policy> {
    (0..5000).map(|n| policy(&format!("s{:03}", n % 500), &format!("d{:03}", n / 10), 80 + n % 7)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_request_is_seen_whole_or_not_at_all() {
    let etcd = Etcd::start().await;
    let (writer, reader) = (etcd.store("writer"), etcd.store("reader"));
    writer.create(&[policy("a", "b", 1)]).await.unwrap();
    let mut follower = reader.follow_policies(None).await.unwrap();
    let many = many();
    let all: BTreeSet<Policy> = many.iter().cloned().chain([policy("a", "b", 1)]).collect();
    // Nobody deletes before both readers have seen what was created: they may pass over a state.
    let seen_by_all = Arc::new(Barrier::new(3));
    let creating = tokio::spawn({
        let seen_by_all = Arc::clone(&seen_by_all);
        async move {
            let created = writer.create(&many).await.unwrap();
            seen_by_all.wait().await;
            let deleted = writer.delete(&many).await.unwrap();
            (created, deleted, many.len())
        }
    });
    // Lists in a tight loop, beside the follower; each must be one of the two states.
    let lister = tokio::spawn({
        let (all, seen_by_all) = (all.clone(), Arc::clone(&seen_by_all));
        async move {
            for wanted in [all.len(), 1] {
                loop {
                    let view = reader.policies().await.unwrap();
                    assert!(view.policies.len() == 1 || view.policies == all, "{} listed", view.policies.len());
                    if view.policies.len() == wanted {
                        break;
                    }
                }
                if wanted > 1 {
                    seen_by_all.wait().await;
                }
            }
        }
    });
    let mut seen = Vec::new();
    let watching = async {
        while seen.len() < 2 {
            follower.changed().await.unwrap();
            let view = follower.view();
            assert!(view.policies.len() == 1 || view.policies == all, "{} policies seen", view.policies.len());
            seen.push((view.revision, view.policies.len()));
            if seen.len() == 1 {
                seen_by_all.wait().await;
            }
        }
    };
    tokio::time::timeout(PATIENCE, watching).await.unwrap();
    let (created, deleted, count) = creating.await.unwrap();
    assert_eq!(seen, [(created.revision, all.len()), (deleted.revision, 1)]);
    assert_eq!((created.count, deleted.count), (count, count));
    tokio::time::timeout(PATIENCE, lister).await.unwrap().unwrap();
    let rest = etcd_client::GetOptions::new().with_prefix();
    for folder in ["/weft/v1/policy/staged/", "/weft/v1/policy/intent"] {
        assert!(etcd.raw().await.get(folder, Some(rest.clone())).await.unwrap().kvs().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_writers_wait_for_a_large_one_and_lose_nothing() {
    let etcd = Etcd::start().await;
    let large = tokio::spawn({
        let store = etcd.store("large");
        async move { store.create(&many()).await.unwrap() }
    });
    let small = tokio::spawn({
        let store = etcd.store("small");
        async move {
            for n in 0..40 {
                store.create(&[policy(&format!("s{n:03}"), "small", 1000)]).await.unwrap();
            }
        }
    });
    let (large, small) = tokio::join!(large, small);
    large.unwrap();
    small.unwrap();
    let view = etcd.store("reader").policies().await.unwrap();
    assert_eq!(view.policies.len(), many().iter().collect::<BTreeSet<_>>().len() + 40);
    let distinct: BTreeSet<_> = view.tags.values().collect();
    assert_eq!((distinct.len(), view.tags.len()), (1001, 1001));
}
