//! Policies against a real etcd.

mod common;

use common::policies::{policy, revision, until};
use common::{Etcd, PATIENCE};
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::Barrier;
use weft_model::policy::Policy;
use weft_store::StoreError;
use weft_store::policy::{PolicyFollower, PolicyStore, PolicyView};

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
